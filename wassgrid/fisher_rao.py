"""The Fisher-Rao geometry of policies on the same actions: geodesics of their weights, and the derivatives of J along them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wassgrid.entropy import LEAST_WEIGHT
from wassgrid.evaluation import Evaluation
from wassgrid.policy import ParticlePolicy, PolicyError
from wassgrid.tangent import pushed_weights


@dataclass(frozen=True)
class WeightGeodesic:
    """The geodesic of Fisher and Rao between the weights of two policies: in every cell a great circle of the roots.

        sqrt(w_t) = (sin((1 - t) theta) sqrt(w_0) + sin(t theta) sqrt(w_1)) / sin(theta),   cos(theta) = sum_i sqrt(w_0i w_1i)

    first: the policy at time 0; last (cells, N): the weights at time 1; rate: kappa, in the metric sum_i w_i r_i^2/kappa. A
    weight of zero at an end counts as 1e-150.
    """

    first: ParticlePolicy
    last: np.ndarray
    rate: float = 1.0

    @classmethod
    def between(cls, first: ParticlePolicy, second: ParticlePolicy, rate: float = 1.0) -> WeightGeodesic:
        """Join two policies on one grid with the same actions in every cell.  Raises PolicyError for others."""
        same = first.grid.shape == second.grid.shape and first.grid.boundary == second.grid.boundary
        if not same or not all(map(np.allclose, first.grid.axes, second.grid.axes)):
            raise PolicyError("policies on different grids have no distance: solve one case again on the other's grid")
        if first.actions.shape != second.actions.shape or not np.allclose(first.actions, second.actions):
            raise PolicyError("the weights of policies on different actions have no distance of Fisher and Rao")
        return cls(first, second.weights, rate)

    def __repr__(self) -> str:
        return f"<WeightGeodesic on {self.first.grid.described}, {self.first.particles} actions>"

    @cached_property
    def _roots(self) -> tuple[np.ndarray, np.ndarray]:
        one, other = (np.sqrt(np.maximum(w, LEAST_WEIGHT)) for w in (self.first.weights, self.last))
        return one / np.linalg.norm(one, axis=1)[:, None], other / np.linalg.norm(other, axis=1)[:, None]

    @cached_property
    def angle(self) -> np.ndarray:
        """theta of every cell, (cells,), between 0 and pi/2."""
        one, other = self._roots
        found: np.ndarray = 2.0 * np.arcsin(np.minimum(0.5 * np.linalg.norm(one - other, axis=1), 1.0))
        return found

    def _turned(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Return sqrt(w_t) and its speed, (cells, N)."""
        (one, other), angle = self._roots, self.angle[:, None]
        whole, rest = np.sinc(angle / np.pi), 1.0 - time  # sin(x)/x
        place = rest * np.sinc(rest * angle / np.pi) * one + time * np.sinc(time * angle / np.pi) * other
        speed = np.cos(time * angle) * other - np.cos(rest * angle) * one
        return place / whole, speed / whole

    def at(self, time: float) -> ParticlePolicy:
        """Return the policy at `time`: the first at 0, the second at 1."""
        weights = self._turned(time)[0] ** 2
        return self.first.moved(self.first.actions, weights / weights.sum(axis=1, keepdims=True))

    def squared_distances(self) -> np.ndarray:
        """Return 4 theta^2/kappa of every cell, (cells,)."""
        return np.asarray(4.0 * self.angle**2 / self.rate)

    def length(self, law: np.ndarray) -> float:
        """Return the distance d with d^2 = int nu(ds) 4 theta(s)^2/kappa for a law nu of the states (cells,)."""
        return float(np.sqrt(law @ self.squared_distances()))

    def derivatives(self, evaluation: Evaluation, time: float) -> tuple[float, float, float]:
        """Return dJ/dt and the local and the transport part of d^2 J/dt^2 at a time, for the evaluated policy `at` it.

        With phi the first variation, the roots u of the weights, w' = 2 u u' and w'' = 2 u'^2 - 2 theta^2 u^2:

            J' = int mu g,    J'' = int mu sum_i (w''_i phi_i + eps w'_i^2/w_i) + 2 mu P' D g,    g = sum_i w'_i phi_i

        with D the fundamental matrix; the last summand is the part of transport.
        """
        root, speed = self._turned(time)
        first, second = 2.0 * root * speed, 2.0 * speed**2 - 2.0 * (self.angle[:, None] * root) ** 2
        law, variation = evaluation.law, evaluation.first_variation
        if evaluation.controlled is not None:
            first, second, speed = (np.where(evaluation.controlled[:, None], x, 0.0) for x in (first, second, speed))
        price = 0.0 if evaluation.entropy is None else evaluation.entropy.strength
        change = (first * variation).sum(axis=1)
        local = float(law @ (second * variation + 4.0 * price * speed**2).sum(axis=1))
        lifted = evaluation.chain.right(change).values
        return float(law @ change), local, 2.0 * float(pushed_weights(evaluation, first) @ lifted)
