"""Linear-quadratic regulators, scalar and vector, with their Riccati, Lyapunov and gradient-flow answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from wassgrid.problem.exact.case_text import Array, Kernel, Points, write_case


def _linear(coefficients: ArrayLike, names: Sequence[str]) -> str:
    """Return the text of sum_k coefficients[k] names[k], without vanishing terms."""
    terms = [f"{float(c)!r}*{name}" for c, name in zip(np.asarray(coefficients), names, strict=True) if c != 0]
    return " + ".join(terms) or "0"


def _quadratic(matrix: Array, names: Sequence[str]) -> str:
    """Return the text of sum_ij matrix[i, j] names[i] names[j], without vanishing terms."""
    return _linear(matrix.ravel(), [f"{left}*{right}" for left in names for right in names])


@dataclass(frozen=True)
class ScalarLQ:
    """Scalar linear-quadratic regulator x' = a x + b u + noise w, cost q x^2 + r u^2, average cost.

    ``policy`` arguments below are u = -gain x + xi with E xi = 0 and Var xi = ``action_variance``, whatever the shape
    of xi; they must be stable, |a - b gain| < 1. Classical results (Bertsekas, Dynamic Programming and Optimal
    Control); the flow and the Hessian follow from them in the metric of arXiv 2604.14765.
    """

    a: float = 1.0
    b: float = 1.0
    q: float = 1.0
    r: float = 1.0
    noise: float = 1.0

    @cached_property
    def riccati(self) -> float:
        """P of the optimal value function P x^2, the positive root of the scalar Riccati equation."""
        a, b, q, r = self.a, self.b, self.q, self.r
        # b^2 P^2 - B P - q r = 0 with B = q b^2 + (a^2 - 1) r
        linear = q * b**2 + (a**2 - 1) * r
        return (linear + math.sqrt(linear**2 + 4 * b**2 * q * r)) / (2 * b**2)

    @cached_property
    def gain(self) -> float:
        """K of the optimal policy u = -K x."""
        return self.improved_gain(self.riccati)

    @property
    def objective(self) -> float:
        """Optimal average cost J* = noise^2 P."""
        return self.noise**2 * self.riccati

    def improved_gain(self, value: float) -> float:
        """Return the gain that is greedy for the value function value * x^2."""
        return self.a * self.b * value / (self.r + self.b**2 * value)

    def hewer_step(self, gain: float) -> float:
        """Return the next gain of policy iteration (Hewer 1971), which converges quadratically."""
        return self.improved_gain(self.policy_value(gain))

    def closed_loop(self, gain: float) -> float:
        """Return a - b gain.

        Raises:
            ValueError: if the closed loop is unstable, so that no stationary law exists.
        """
        factor = self.a - self.b * gain
        if abs(factor) >= 1:
            raise ValueError(f"gain {gain} leaves the closed loop unstable: a - b K = {factor}")
        return factor

    def policy_value(self, gain: float) -> float:
        """Return P_K: the policy's value function is P_K x^2 up to a constant."""
        return (self.q + self.r * gain**2) / (1 - self.closed_loop(gain) ** 2)

    def stationary_variance(self, gain: float, action_variance: float = 0.0) -> float:
        """Return the variance of the policy's stationary (normal, if xi is) law."""
        return (self.noise**2 + self.b**2 * action_variance) / (1 - self.closed_loop(gain) ** 2)

    def policy_objective(self, gain: float, action_variance: float = 0.0) -> float:
        """Return the policy's average cost P_K (noise^2 + b^2 v) + r v."""
        return self.policy_value(gain) * (self.noise**2 + self.b**2 * action_variance) + self.r * action_variance

    def action_curvature(self, gain: float) -> float:
        """Return d^2 Q / du^2 = 2 (r + b^2 P_K), the same for every state and action."""
        return 2 * (self.r + self.b**2 * self.policy_value(gain))

    def action_gradient(self, states: ArrayLike, actions: ArrayLike, gain: float) -> Array:
        """Return dQ/du = 2 (r + b^2 P_K) u + 2 a b P_K x, broadcast over ``states`` and ``actions``."""
        drift = 2 * self.a * self.b * self.policy_value(gain)
        return np.asarray(self.action_curvature(gain) * np.asarray(actions) + drift * np.asarray(states))

    def gain_derivative(self, gain: float, action_variance: float = 0.0) -> float:
        """Return dJ/dK = 2 [(r + b^2 P_K) K - a b P_K] times the stationary variance."""
        value = self.policy_value(gain)
        slope = 2 * ((self.r + self.b**2 * value) * gain - self.a * self.b * value)
        return slope * self.stationary_variance(gain, action_variance)

    def hessian_parts(self, gain: float, action_variance: float = 0.0) -> tuple[float, float]:
        """Return the local and the transport part of d^2 J / dK^2, the Hessian along the field -x (dK = 1)."""
        variance = self.stationary_variance(gain, action_variance)
        derivative = self.gain_derivative(gain, action_variance)
        # transport: -4 b c Sigma J'(K) / s^2, where s^2 is all the noise that reaches the state
        received = self.noise**2 + self.b**2 * action_variance
        local = self.action_curvature(gain) * variance
        return local, -4 * self.b * self.closed_loop(gain) * variance * derivative / received

    def gradient_flow(self, times: ArrayLike, gain: float, action_variance: float) -> tuple[Array, Array]:
        """Return K(t) and v(t) of the Wasserstein gradient flow started at ``gain`` and ``action_variance``.

        The flow da/dt = -dQ/da keeps policies u = -K x + xi and closes on two ordinary differential equations,
        integrated here to a relative error of about 1e-12.

        Args:
            times: increasing flow times >= 0, shape (times,).
        """
        from scipy.integrate import solve_ivp

        def velocity(_: float, point: Array) -> list[float]:
            # K' = -2 [(r + b^2 P_K) K - a b P_K],  v' = -4 (r + b^2 P_K) v
            curvature = self.action_curvature(point[0])
            coupling = 2 * self.a * self.b * self.policy_value(point[0])
            return [coupling - curvature * point[0], -2 * curvature * point[1]]

        times = np.atleast_1d(np.asarray(times, dtype=float))
        path = solve_ivp(
            velocity,
            (0.0, float(times[-1])),
            [gain, action_variance],
            method="DOP853",
            t_eval=times,
            rtol=1e-13,
            atol=1e-30,
        )
        return path.y[0], path.y[1]

    @property
    def decay_rate(self) -> float:
        """Rate 4 (r + b^2 P) at which J - J* decays exponentially in flow time, near the optimum."""
        return 4 * (self.r + self.b**2 * self.riccati)

    def case_text(
        self, points: Points = 41, kernel: Kernel = "gaussian", *, deviations: float = 7.0, **tables: Any
    ) -> str:
        """Return the case on +-``deviations`` standard deviations of the optimal stationary law."""
        half_width = deviations * math.sqrt(self.stationary_variance(self.gain))
        problem = {
            "title": "Scalar linear-quadratic regulator",
            "parameters": {"a": self.a, "b": self.b, "q": self.q, "r": self.r, "sigma": self.noise},
            "states": {"x": {"next": "a*x + b*u", "noise": "sigma", "domain": [-half_width, half_width]}},
            "actions": {"u": {}},
            "cost": {"stage": "q*x**2 + r*u**2"},
        }
        return write_case(problem, ["x"], points, kernel, tables)


@dataclass(frozen=True)
class VectorLQ:
    """Linear-quadratic regulator x' = A x + B u + w, cost x'Qx + u'Ru, average cost, w normal of any covariance.

    Policies are u = -gain x with gain of shape (actions, states).
    """

    state_matrix: Array
    action_matrix: Array
    state_cost: Array
    action_cost: Array
    noise_covariance: Array

    @cached_property
    def riccati(self) -> Array:
        """P (states, states) of the discrete algebraic Riccati equation; the optimal value function is x'Px."""
        from scipy.linalg import solve_discrete_are

        return np.asarray(solve_discrete_are(self.state_matrix, self.action_matrix, self.state_cost, self.action_cost))

    @cached_property
    def gain(self) -> Array:
        """Optimal gain K = (R + B'PB)^{-1} B'PA."""
        weighted = self.action_matrix.T @ self.riccati
        gain = np.linalg.solve(self.action_cost + weighted @ self.action_matrix, weighted @ self.state_matrix)
        return np.asarray(gain, dtype=float)

    @property
    def objective(self) -> float:
        """Optimal average cost J* = tr(P W)."""
        return float(np.trace(self.riccati @ self.noise_covariance))

    def covariance(self, gain: ArrayLike) -> Array:
        """Return the stationary covariance of u = -gain x, the solution of the discrete Lyapunov equation.

        Raises:
            ValueError: if the closed loop is unstable.
        """
        from scipy.linalg import solve_discrete_lyapunov

        loop = self.state_matrix - self.action_matrix @ np.asarray(gain)
        radius = float(np.max(np.abs(np.linalg.eigvals(loop))))
        if radius >= 1:
            raise ValueError(f"the closed loop is unstable: its spectral radius is {radius}")
        return np.asarray(solve_discrete_lyapunov(loop, self.noise_covariance))

    def policy_objective(self, gain: ArrayLike) -> float:
        """Return the average cost tr((Q + K'RK) Sigma_K) of u = -gain x."""
        gain = np.asarray(gain)
        return float(np.trace((self.state_cost + gain.T @ self.action_cost @ gain) @ self.covariance(gain)))

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names x1, x2, ... of the states in the case text."""
        return tuple(f"x{k + 1}" for k in range(len(self.state_matrix)))

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names u1, u2, ... of the actions in the case text."""
        return tuple(f"u{k + 1}" for k in range(len(self.action_cost)))

    def conditional_noise(self) -> tuple[Array, Array]:
        """Return how each noise component follows the earlier ones.

        w_j = sum_{i<j} regression[j, i] w_i + deviation[j] xi_j with independent standard normal xi_j, for any
        positive semidefinite covariance: (regression (states, states) strictly lower, deviation (states,)).
        """
        covariance = np.asarray(self.noise_covariance, dtype=float)
        size = len(covariance)
        regression, deviation = np.zeros((size, size)), np.zeros(size)
        for j in range(size):
            earlier = np.linalg.pinv(covariance[:j, :j], hermitian=True) @ covariance[:j, j]
            regression[j, :j] = earlier
            variance = covariance[j, j] - covariance[j, :j] @ earlier
            rounding = 1e-12 * covariance[j, j]
            deviation[j] = math.sqrt(variance) if variance > rounding else 0.0
        return regression, deviation

    def case_text(
        self,
        points: Points,
        kernel: Kernel = "gaussian",
        *,
        deviations: float = 7.0,
        gain: ArrayLike | None = None,
        **tables: Any,
    ) -> str:
        """Return the case on +-``deviations`` standard deviations of the stationary law of ``gain`` (the optimal one).

        Correlated noise is stated through realised next values of the earlier states.
        """
        states, actions = self.state_names, self.action_names
        regression, deviation = self.conditional_noise()
        means = [
            _linear(np.concatenate(rows), states + actions)
            for rows in zip(self.state_matrix, self.action_matrix, strict=True)
        ]
        half_widths = deviations * np.sqrt(np.diag(self.covariance(self.gain if gain is None else gain)))
        described = {}
        for j, name in enumerate(states):
            follows = [
                f" + {float(regression[j, i])!r}*(next({states[i]}) - ({means[i]}))"
                for i in range(j)
                if regression[j, i] != 0
            ]
            described[name] = {
                "next": means[j] + "".join(follows),
                "noise": float(deviation[j]),
                "domain": [-float(half_widths[j]), float(half_widths[j])],
            }
        problem = {
            "title": f"Linear-quadratic regulator with {len(states)} states and {len(actions)} actions",
            "states": described,
            "actions": {name: {} for name in actions},
            "cost": {"stage": f"{_quadratic(self.state_cost, states)} + {_quadratic(self.action_cost, actions)}"},
        }
        return write_case(problem, states, points, kernel, tables)
