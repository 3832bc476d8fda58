"""Coordinates in which the parts of the next state are independent given their means.

An axis j that follows the realised next value of another, x'_j = alpha_j + beta x'_i + sigma_j xi_j brought within its domain,
has s_j = alpha_j + sigma_j xi_j for its coordinate, so that x_j = s_j + beta x_i brought within the domain; every other axis
is its own. The next s is then a sum of means, functions of s and a, and of independent noises, and all that is said of means and
states elsewhere holds of s. A policy of s is one of the state where s is known from x, else one with memory: it costs no less
than the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from wassgrid.certificate.continuous import jets

Array = np.ndarray


@dataclass(frozen=True)
class Frame:
    """Say which axis follows which: x_follower = s_follower + beta x_lead, within `ends` where they are given.

    follower: None where no axis follows another. A periodic follower is not wrapped: cost and law are periodic in it.
    """

    follower: int | None = None
    lead: int = 0
    beta: float = 0.0
    ends: tuple[float, float] | None = None

    def states(self, s: list[Any]) -> list[Any]:
        """Return the states of coordinates, both lists of jets, one per axis."""
        if self.follower is None:
            return s
        x = list(s)
        moved = s[self.follower] + s[self.lead] * self.beta
        if self.ends is not None:
            moved = jets.minimum(jets.maximum(moved, self.ends[0]), self.ends[1])
        x[self.follower] = moved
        return x

    def points(self, s: Array) -> Array:
        """Return the states (K, d) of coordinates (K, d)."""
        if self.follower is None:
            return s
        x = s.copy()
        x[:, self.follower] += self.beta * s[:, self.lead]
        if self.ends is not None:
            x[:, self.follower] = np.clip(x[:, self.follower], *self.ends)
        return x
