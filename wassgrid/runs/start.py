"""A policy that a run starts from in place of the case's initial one, and how it comes to lie on the grid of the case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wassgrid.errors import WassgridError
from wassgrid.grid import StateGrid
from wassgrid.grid.levels import prolonged
from wassgrid.policy import ParticlePolicy, initial_policy

if TYPE_CHECKING:
    from wassgrid.case import Case

_SAME = 1e-9  # of a period or a grid spacing


class StartError(WassgridError, ValueError):
    """A policy that the run of a case cannot start from."""


@dataclass(frozen=True)
class Start:
    """A policy to start from, with its stationary law and value (cells,), in units of the cost, where they are known.

    policy: a ParticlePolicy on any grid of the same states, or whatever has a mean(states); source: where it comes from, in a few
    words.
    """

    policy: Any
    source: str
    law: np.ndarray | None = None
    value: np.ndarray | None = None

    def on(self, case: Case, grid: StateGrid) -> ParticlePolicy:
        """Return the policy on the grid of a case: on its own grid as it is, interpolated between cells, constant beyond an end.

        With one particle it is repeated for all that the case has; where the case has one, it is the mean. Raises StartError for
        other states, actions, periods or numbers of particles.
        """
        policy, wanted, m = self.policy, case.policy.particles, case.problem.action_dimension
        if not isinstance(policy, ParticlePolicy):
            policy = ParticlePolicy.around(grid, policy.mean(grid.states))
        if policy.grid.names != grid.names:
            raise StartError(f"initial: its states are {', '.join(policy.grid.names)}, those of the case {', '.join(grid.names)}")
        if policy.action_dimension != m:
            raise StartError(f"initial: it has {policy.action_dimension} actions, the case {m}")
        for name, old, new in zip(grid.names, _periods(policy.grid), _periods(grid), strict=True):
            if old != new and not (old and new and abs(old - new) <= _SAME * new):
                kinds = [f"periodic over {period:g}" if period else "not periodic" for period in (old, new)]
                raise StartError(f"initial: its state {name} is {kinds[0]}, that of the case {kinds[1]}")
        if wanted == 1 != policy.particles:
            policy = ParticlePolicy.around(policy.grid, policy.cell_mean())
        if policy.particles not in (1, wanted):
            raise StartError(
                f"initial: it has {policy.particles} particles per cell, the case {wanted}: set policy.particles to "
                f"{policy.particles}, or to 1 for a start from its mean"
            )
        if policy.particles == wanted:
            actions, weights = policy.actions, policy.weights
        else:
            actions, weights = np.repeat(policy.actions, wanted, axis=1), initial_policy(case, policy.grid).weights
        low, high = case.problem.action_bounds.T
        actions, weights = np.clip(_carried(actions, policy.grid, grid), low, high), _carried(weights, policy.grid, grid)
        return ParticlePolicy(grid, np.ascontiguousarray(actions), weights / weights.sum(axis=1, keepdims=True))

    def fields_on(self, grid: StateGrid) -> tuple[np.ndarray, np.ndarray] | None:
        """Return law and value on another grid, None where they are not known or nothing of the law lies there."""
        if self.law is None or self.value is None:
            return None
        law = np.maximum(_carried(self.law, self.policy.grid, grid), 0.0)
        return (law / law.sum(), _carried(self.value, self.policy.grid, grid)) if law.sum() > 0.0 else None


def _carried(values: np.ndarray, old: StateGrid, new: StateGrid) -> np.ndarray:
    return values if is_same(old, new) else prolonged(values, old, new)


def is_same(old: StateGrid, new: StateGrid) -> bool:
    """Tell whether two grids have the same nodes."""
    near = zip(old.axes, new.axes, new.spacing, strict=True)
    return old.shape == new.shape and all(np.allclose(x, y, rtol=0.0, atol=_SAME * h) for x, y, h in near)


def _periods(grid: StateGrid) -> list[float]:
    """Return the period of every axis, 0 where it has none."""
    return [n * h if kind == "periodic" else 0.0 for n, h, kind in zip(grid.shape, grid.spacing, grid.boundary, strict=True)]
