"""Diffusions and autoregressions whose stationary law is known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from wassgrid.problem.exact.case_text import Array, Kernel, Points, write_case


@dataclass(frozen=True)
class TorusRegulator:
    """Product of circle regulators dx = u dt + noise dW in continuous time; no boundary anywhere.

    Cost rate: offset + sum over dimensions of (r/2)(k^2 sin^2 x - noise^2 k cos x) + (r/2) u^2. The optimal policy is
    u = -k sin x and the optimal average cost rate ``offset``.
    """

    dimensions: int = 1
    k: float = 1.0
    r: float = 1.0
    noise: float = 1.0
    offset: float = 1.0

    @property
    def objective(self) -> float:
        """Optimal average cost rate."""
        return self.offset

    def optimal_actions(self, states: ArrayLike) -> Array:
        """Return -k sin x, elementwise."""
        return -self.k * np.sin(np.asarray(states))

    def _mean_cosine(self, concentration: float) -> float:
        """Return E cos x = I_1(z) / I_0(z) under the von Mises law of concentration z."""
        from scipy.special import ive

        return float(ive(1, concentration) / ive(0, concentration))

    def policy_objective(self, gain: float) -> float:
        """Return the average cost rate of u = -gain sin x in every dimension."""
        concentration = 2 * gain / self.noise**2
        cosine = self._mean_cosine(concentration)
        # E sin^2 x = I_1(z) / (z I_0(z)), 1/2 at z = 0
        sine_squared = cosine / concentration if concentration else 0.5
        rate = 0.5 * self.r * ((self.k**2 + gain**2) * sine_squared - self.noise**2 * self.k * cosine)
        return self.offset + self.dimensions * rate

    def density(self, states: ArrayLike, gain: float | None = None) -> Array:
        """Return the stationary density of u = -gain sin x (the optimum by default) at ``states`` (..., dimensions).

        Proportional to exp((2 gain / noise^2) sum cos x), normalised by (2 pi I_0)^dimensions.
        """
        from scipy.special import ive

        concentration = 2 * (self.k if gain is None else gain) / self.noise**2
        cosines = np.cos(np.asarray(states, dtype=float))
        # ive(0, z) = exp(-|z|) I_0(z): no overflow at small noise
        factors = np.exp(concentration * cosines - abs(concentration)) / (2 * np.pi * ive(0, concentration))
        return np.asarray(np.prod(factors, axis=-1))

    def case_text(self, points: Points = 64, kernel: Kernel = "gaussian", *, step: float = 0.05, **tables: Any) -> str:
        """Return the case in continuous time with Euler steps of length ``step``."""
        states = [f"x{k + 1}" for k in range(self.dimensions)]
        actions = [f"u{k + 1}" for k in range(self.dimensions)]
        rates = [
            f"0.5*r*(k**2*sin({x})**2 - sigma**2*k*cos({x})) + 0.5*r*{u}**2"
            for x, u in zip(states, actions, strict=True)
        ]
        problem = {
            "title": "Regulator on the torus",
            "parameters": {"k": self.k, "r": self.r, "sigma": self.noise, "offset": self.offset},
            "time": {"step": step, "scheme": "euler"},
            "states": {
                x: {"drift": u, "diffusion": "sigma", "domain": ["-pi", "pi"], "boundary": "periodic"}
                for x, u in zip(states, actions, strict=True)
            },
            "actions": {u: {} for u in actions},
            "cost": {"rate": " + ".join(["offset", *rates])},
        }
        return write_case(problem, states, points, kernel, tables)


@dataclass(frozen=True)
class AutoRegression:
    """First-order autoregression x' = factor x + noise w: an Ornstein-Uhlenbeck process seen at equal times.

    The action is idle: it costs u^2 and moves nothing, so the optimum is u = 0 with average cost E x^2.
    """

    factor: float = 0.9
    noise: float = 1.0

    @property
    def variance(self) -> float:
        """Stationary variance, which is also the optimal average cost of x^2 + u^2."""
        return self.noise**2 / (1 - self.factor**2)

    def eigenvalues(self, count: int) -> Array:
        """Return the first ``count`` eigenvalues 1, factor, factor^2, ... of the transition operator."""
        return np.asarray(self.factor ** np.arange(count, dtype=float))

    def density(self, states: ArrayLike) -> Array:
        """Return the stationary normal density at ``states``."""
        return np.exp(-0.5 * np.asarray(states) ** 2 / self.variance) / math.sqrt(2 * math.pi * self.variance)

    def value(self, states: ArrayLike) -> Array:
        """Return the relative value (x^2 - variance) / (1 - factor^2) of the cost x^2, zero in the mean."""
        return np.asarray((np.asarray(states) ** 2 - self.variance) / (1 - self.factor**2))

    def case_text(
        self, points: Points = 41, kernel: Kernel = "gaussian", *, deviations: float = 7.0, **tables: Any
    ) -> str:
        """Return the case on +-``deviations`` stationary standard deviations."""
        half_width = deviations * math.sqrt(self.variance)
        problem = {
            "title": "First-order autoregression",
            "parameters": {"factor": self.factor, "sigma": self.noise},
            "states": {"x": {"next": "factor*x", "noise": "sigma", "domain": [-half_width, half_width]}},
            "actions": {"u": {}},
            "cost": {"stage": "x**2 + u**2"},
        }
        return write_case(problem, ["x"], points, kernel, tables)


@dataclass(frozen=True)
class HeatBathPendulum:
    """Underdamped pendulum in a heat bath, in semi-implicit Euler steps.

    d theta = omega dt, d omega = -(gravity sin theta + damping omega) dt + noise dW. The stationary (Gibbs) density is
    proportional to exp(-(2 damping / noise^2) (omega^2/2 + U)) with U = gravity (1 - cos theta); the steps have it to
    first order in their length. The action is idle: it costs u^2 and moves nothing.
    """

    gravity: float = 1.0
    damping: float = 0.5
    noise: float = 1.0

    @property
    def temperature(self) -> float:
        """noise^2 / (2 damping): the stationary variance of omega."""
        return self.noise**2 / (2 * self.damping)

    @property
    def mean_potential(self) -> float:
        """Stationary mean of gravity (1 - cos theta)."""
        from scipy.special import ive

        concentration = self.gravity / self.temperature
        return float(self.gravity * (1 - ive(1, concentration) / ive(0, concentration)))

    @property
    def mean_energy(self) -> float:
        """Stationary mean of omega^2/2 + U, the average cost of the case in the limit of small steps."""
        return 0.5 * self.temperature + self.mean_potential

    def density(self, theta: ArrayLike, omega: ArrayLike) -> Array:
        """Return the stationary density, broadcast over ``theta`` and ``omega``."""
        from scipy.special import ive

        concentration = self.gravity / self.temperature
        angle = np.exp(concentration * (np.cos(theta) - 1)) / (2 * math.pi * ive(0, concentration))
        speed = np.exp(-0.5 * np.asarray(omega) ** 2 / self.temperature) / math.sqrt(2 * math.pi * self.temperature)
        return np.asarray(angle * speed)

    def case_text(
        self,
        points: Points,
        kernel: Kernel = "auto",
        *,
        step: float = 0.05,
        deviations: float = 7.0,
        **tables: Any,
    ) -> str:
        """Return the case; ``points`` may hold "aligned" for omega."""
        half_width = deviations * math.sqrt(self.temperature)
        problem = {
            "title": "Underdamped pendulum in a heat bath",
            "parameters": {"step": step, "gravity": self.gravity, "damping": self.damping, "sigma": self.noise},
            "states": {
                "theta": {"next": "theta + step*next(omega)", "domain": ["-pi", "pi"], "boundary": "periodic"},
                "omega": {
                    "next": "omega - step*(gravity*sin(theta) + damping*omega)",
                    "noise": "sigma*sqrt(step)",
                    "domain": [-half_width, half_width],
                },
            },
            "actions": {"u": {}},
            "cost": {"stage": "omega**2/2 + gravity*(1 - cos(theta)) + u**2"},
        }
        return write_case(problem, ["theta", "omega"], points, kernel, tables)


@dataclass(frozen=True)
class DoubleWell:
    """Metastable double well x' = x + step (x - x^3 + a) + noise sqrt(step) w, cost (x^2 - 1)^2 + r a^2.

    At small noise the chain hardly ever crosses the barrier: the second eigenvalue of its transition operator comes
    exponentially close to 1 (Kramers 1940). Without control the diffusion limit is known in closed form; the law of a
    grid's own chain follows to full relative accuracy from `grassmann_taksar_heyman`.
    """

    noise: float = 0.3
    step: float = 0.01
    r: float = 1.0

    @cached_property
    def _normalisation(self) -> float:
        from scipy.integrate import quad

        half, _ = quad(self._boltzmann, 0.0, 4.0, points=[1.0], epsabs=0.0, epsrel=1e-13, limit=200)
        return 2 * half

    def _boltzmann(self, state: float | Array) -> Any:
        # exp(-2 (U - min U) / noise^2) with U = x^4/4 - x^2/2, min U = -1/4
        return np.exp(-0.5 * (state**2 - 1) ** 2 / self.noise**2)

    def density(self, states: ArrayLike) -> Array:
        """Return the stationary density of the uncontrolled diffusion, the limit of small steps.

        Proportional to exp(-2 U / noise^2) with U = x^4/4 - x^2/2.
        """
        return np.asarray(self._boltzmann(np.asarray(states, dtype=float)) / self._normalisation)

    @property
    def kramers_rate(self) -> float:
        """Relaxation rate per unit time for small noise, twice the Kramers escape rate from one well."""
        # rate = sqrt(U''(1) |U''(0)|) / (2 pi) exp(-2 (U(0) - U(1)) / noise^2)
        return 2 * math.sqrt(2.0) / (2 * math.pi) * math.exp(-0.5 / self.noise**2)

    def case_text(self, points: Points = 161, kernel: Kernel = "gaussian", **tables: Any) -> str:
        """Return the case on [-2, 2]."""
        problem = {
            "title": "Double well",
            "parameters": {"step": self.step, "sigma": self.noise, "r": self.r},
            "states": {"x": {"next": "x + step*(x - x**3 + a)", "noise": "sigma*sqrt(step)", "domain": [-2.0, 2.0]}},
            "actions": {"a": {}},
            "cost": {"stage": "(x**2 - 1)**2 + r*a**2"},
        }
        return write_case(problem, ["x"], points, kernel, tables)
