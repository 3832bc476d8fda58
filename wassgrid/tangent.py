"""Tangent vectors (v, r) of policies whose weights move beside the actions, or alone, and the geodesics that begin with them.

    a_i' = v_i,    w_i' = w_i r_i,    sum_i w_i r_i = 0 in every state;    metric  int mu(ds) sum_i w_i (|v_i|^2 + r_i^2/kappa)

A field of them is an array (cells, N, m + 1), r the last column; where actions rest (Fisher-Rao geometry) v is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wassgrid.evaluation import Evaluation
from wassgrid.metric import Metric, mean_q
from wassgrid.policy import ParticlePolicy


def without_mean(weights: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Return r - sum_i w_i r_i, (cells, N), for weights of sum one in every cell: the nearest rates that keep the mass."""
    return np.asarray(r - (weights * r).sum(axis=1, keepdims=True))


def pushed_weights(evaluation: Evaluation, change: np.ndarray) -> np.ndarray:
    """Return g mu P' for a change of the weights (cells, N), the signed measure (cells,): what rises less what falls."""
    model, law, weights = evaluation.model, evaluation.law, evaluation.policy.weights
    result = np.zeros(law.size)
    for sign in (1.0, -1.0):
        part = np.maximum(sign * change, 0.0)
        mass = part.sum(axis=1)
        moved = np.where(mass[:, None] > 0.0, part / np.where(mass > 0.0, mass, 1.0)[:, None], weights)
        result += sign * model.operator(evaluation.mean, moved).push(law * mass)
    return evaluation.discount * result


def expected_next(evaluation: Evaluation, function: np.ndarray) -> np.ndarray:
    """Return g E f(s') at every particle, (cells, N), for f given on all cells."""
    cells = np.arange(evaluation.law.size)
    return evaluation.discount * evaluation.model.expectation(function).values(cells, evaluation.mean)


@dataclass(frozen=True)
class Variation:
    """First and second variation of J and of the kernel along the fields of one metric, as products.

    Fields are (cells, N, m), and (cells, N, m + 1) where weights move, r the last column. They are not cut to free components.
    """

    evaluation: Evaluation
    metric: Metric

    @property
    def shape(self) -> tuple[int, int, int]:
        cells, particles, m = self.evaluation.policy.actions.shape
        return cells, particles, m + self.metric.weights

    def _joined(self, of_actions: np.ndarray | None, of_weights: np.ndarray | None) -> np.ndarray:
        if of_weights is None:
            assert of_actions is not None
            return of_actions
        if of_actions is None:
            of_actions = np.zeros(self.evaluation.policy.actions.shape)
        return np.concatenate([of_actions, of_weights[:, :, None]], axis=2)

    def lowered(self, field: np.ndarray) -> np.ndarray:
        """Return the field with which sums over components are the metric: r/kappa for r."""
        return self._joined(field[..., :-1], field[..., -1] / self.metric.rate) if self.metric.weights else field

    @cached_property
    def excess(self) -> np.ndarray:
        """phi_i - V, (cells, N), phi the first variation of J (Q_i without entropy)."""
        return np.asarray(self.evaluation.first_variation - mean_q(self.evaluation)[:, None])

    @cached_property
    def gradient(self) -> np.ndarray:
        """(grad_a Q, kappa (phi_i - V))."""
        rate = self.metric.rate
        return self._joined(
            self.evaluation.q_gradient if self.metric.actions else None, rate * self.excess if self.metric.weights else None
        )

    def product(self, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        """Return the product of two fields in the metric, state by state, (cells,)."""
        return np.asarray(np.einsum("ki,kia,kia->k", self.evaluation.policy.weights, v, self.lowered(w)))

    def slope(self, w: np.ndarray) -> np.ndarray:
        """Return g_w(s) = sum_i w_i (grad_a Q . v_i + (phi_i - V) r_i), (cells,), for w = (v, r)."""
        return self.product(self.gradient, w)

    def pushed(self, w: np.ndarray) -> np.ndarray:
        """Return g mu Pdot_w, the signed measure (cells,)."""
        evaluation = self.evaluation
        if not self.metric.weights:
            return evaluation.pushed_law_derivative(w)
        of_weights = pushed_weights(evaluation, evaluation.policy.weights * w[..., -1])
        return of_weights + evaluation.pushed_law_derivative(w[..., :-1]) if self.metric.actions else of_weights

    def gradient_of(self, function: np.ndarray) -> np.ndarray:
        """Return (grad_a p f, kappa p f), the gradient of the mean of g E f(s') under each law pi_s, up to a constant in r."""
        of_actions = self.evaluation.pushed_gradient(function) if self.metric.actions else None
        of_weights = self.metric.rate * expected_next(self.evaluation, function) if self.metric.weights else None
        return self._joined(of_actions, of_weights)

    def bent(self, w: np.ndarray) -> np.ndarray:
        """Return what the local part of the Hessian makes of w = (v, r); in r up to a constant of every cell.

            ((D^2_a Q) v + (r_i grad_a Q + kappa (phi_i - V) v_i)/2,   kappa (eps r_i + ((phi_i - V) r_i + grad_a Q . v_i)/2))
        """
        evaluation, rate = self.evaluation, self.metric.rate
        if not self.metric.weights:
            return np.einsum("kiab,kib->kia", evaluation.q_hessian, w)
        v, r = w[..., :-1], w[..., -1]
        price = 0.0 if evaluation.entropy is None else evaluation.entropy.strength
        of_actions, of_weights = None, (price + 0.5 * self.excess) * r
        if evaluation.controlled is not None:
            of_weights = np.where(evaluation.controlled[:, None], of_weights, 0.0)
        if self.metric.actions:
            slope = evaluation.q_gradient
            of_actions = np.einsum("kiab,kib->kia", evaluation.q_hessian, v)
            of_actions = of_actions + 0.5 * (r[:, :, None] * slope + rate * self.excess[:, :, None] * v)
            of_weights = of_weights + 0.5 * np.einsum("kia,kia->ki", slope, v)
        return self._joined(of_actions, rate * of_weights)


@dataclass(frozen=True)
class ParticleGeodesic:
    """The geodesic that particles and their weights begin with a tangent vector (v, r), state by state, while no two of them mix.

    In the metric sum_i w_i (|v_i|^2 + r_i^2/kappa) a particle moves on a cone, sqrt(w_i) from its tip, and along its v in a plane
    of it; masses of sum one cut a sphere out of the product of these planes, and geodesics are its great circles. With complex
    x_i, w_i |x_i|^2 the weight and 2/sqrt(kappa) arg x_i the way along v_i,

        x_i = cos(omega t) + sin(omega t)/omega p_i,   p_i = (r_i + i sqrt(kappa) |v_i|)/2,   omega^2 = sum_i w_i |p_i|^2

    (Liero, Mielke and Savare 2018). first: the policy at time 0; field (cells, N, m + 1); rate: kappa > 0. Weights of zero stay.
    """

    first: ParticlePolicy
    field: np.ndarray
    rate: float

    @cached_property
    def _speed(self) -> np.ndarray:
        """|v_i|, (cells, N)."""
        return np.asarray(np.linalg.norm(self.field[..., :-1], axis=2))

    def _turned(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Return x and x' at a time, complex, (cells, N)."""
        p = 0.5 * (self.field[..., -1] + 1j * self.rate**0.5 * self._speed)
        omega = np.sqrt((self.first.weights * np.abs(p) ** 2).sum(axis=1, keepdims=True))
        x = np.cos(omega * time) + time * np.sinc(omega * time / np.pi) * p
        return x, np.cos(omega * time) * p - omega * np.sin(omega * time)

    def _along(self, length: np.ndarray) -> np.ndarray:
        """Return the vectors (cells, N, m) of given lengths (cells, N) along v, 2/sqrt(kappa) times as long."""
        factor = np.divide(2.0 * length, self.rate**0.5 * self._speed, out=np.zeros_like(length), where=self._speed > 0.0)
        return np.asarray(factor[..., None] * self.field[..., :-1])

    def at(self, time: float) -> ParticlePolicy:
        """Return the policy at a time."""
        x, _ = self._turned(time)
        weights = self.first.weights * np.abs(x) ** 2
        return self.first.moved(self.first.actions + self._along(np.angle(x)), weights / weights.sum(axis=1, keepdims=True))

    def velocity(self, time: float) -> np.ndarray:
        """Return the field (v, r) at a time, (cells, N, m + 1): x'/x = (r + i sqrt(kappa) |v|)/2."""
        x, speed = self._turned(time)
        ratio = speed / x
        return np.concatenate([self._along(ratio.imag), 2.0 * ratio.real[..., None]], axis=2)
