"""The distribution of actions that a policy draws from at a state: weighted atoms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from wassgrid.errors import WassgridError

_ROUNDING = 1e-12  # of sums of weights


class LevelError(WassgridError, ValueError):
    """A level of a quantile that is not between 0 and 1."""


@dataclass(frozen=True)
class ActionDistribution:
    """Hold sum_k w_k delta_{a_k} at one state or at many.

    | name    | symbol | shape       |
    |---------|--------|-------------|
    | actions | a_k    | (..., K, m) |
    | weights | w_k    | (..., K)    |

    Weights are nonnegative and sum to one; some may be 0, and some atoms may be equal.
    """

    actions: np.ndarray
    weights: np.ndarray

    def mean(self) -> np.ndarray:
        """Return the mean of every action component, (..., m)."""
        return np.einsum("...k,...ka->...a", self.weights, self.actions)

    def std(self) -> np.ndarray:
        """Return the standard deviation of every action component, (..., m)."""
        centred = self.actions - self.mean()[..., None, :]
        return np.sqrt(np.einsum("...k,...ka->...a", self.weights, centred**2))

    def quantile(self, level: ArrayLike) -> np.ndarray:
        """Return the least atom up to which every action component has at least the probability `level`.

        level: a number from 0 to 1, gives (..., m); or an array of them, whose axes come first. Raises LevelError.
        """
        levels = np.asarray(level, dtype=float)
        if not ((levels >= 0.0) & (levels <= 1.0)).all():
            raise LevelError(f"expected levels from 0 to 1, got {level!r:.60}")
        order = np.argsort(self.actions, axis=-2, kind="stable")
        actions = np.take_along_axis(self.actions, order, axis=-2)
        weights = np.broadcast_to(self.weights[..., None], self.actions.shape)
        reached = np.cumsum(np.take_along_axis(weights, order, axis=-2), axis=-2)
        # an atom of no weight is none
        wanted = np.maximum(levels - _ROUNDING, np.finfo(float).tiny).reshape(levels.shape + (1,) * actions.ndim)
        place = np.minimum((reached < wanted).sum(axis=-2), actions.shape[-2] - 1)
        among = np.broadcast_to(actions, (*levels.shape, *actions.shape))
        return np.take_along_axis(among, place[..., None, :], axis=-2)[..., 0, :]
