"""A policy that a run starts from in place of the case's initial one, and how it comes to lie on the grid of the case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wassgrid.chain.reductions import total
from wassgrid.entropy import LEAST_WEIGHT
from wassgrid.errors import WassgridError
from wassgrid.grid import StateGrid
from wassgrid.grid.levels import prolonged
from wassgrid.policy import ParticlePolicy, initial_policy

if TYPE_CHECKING:
    from wassgrid.case import Case
    from wassgrid.problem.control_problem import ControlProblem

_AT_ONCE = 1 << 22  # numbers of pairs of particles
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

        Where some actions take values of a list, a particle takes those of the cell around that weighs most, and is interpolated
        between the cells where it has the same.
        With one particle it is repeated for all that the case has; where the case has one, it is the mean. Another number of
        particles of one action: each is the mean of the share of the distribution that it has the weight of. Raises StartError
        for other states, actions, periods, and for another number of particles of several actions.
        """
        policy, wanted, m = self.policy, case.policy.particles, case.problem.action_dimension
        choices = case.problem.choices
        if choices is not None and not (isinstance(policy, ParticlePolicy) and np.array_equal(policy.actions[0], choices)):
            raise StartError("initial: its actions are not the values of the case, whose weights alone move")
        if case.problem.mixed:
            _require_values(policy, case.problem)
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
            if case.problem.mixed:
                likeliest = policy.mode(policy.grid.states)[:, None]
                policy = ParticlePolicy(policy.grid, likeliest, np.ones((policy.grid.size, 1)), listed=policy.listed)
            else:
                policy = ParticlePolicy.around(policy.grid, policy.cell_mean())
        if policy.particles not in (1, wanted) and m > 1:
            raise StartError(
                f"initial: it has {policy.particles} particles of {m} actions per cell, the case {wanted}: set policy.particles "
                f"to {policy.particles}, or to 1 for a start from its mean"
            )
        if policy.particles == wanted:
            actions, weights = policy.actions, policy.weights
        else:
            weights = initial_policy(case, policy.grid).weights
            actions = np.repeat(policy.actions, wanted, axis=1) if policy.particles == 1 else _shared_out(policy, weights)
        low, high = (limit[:, None] for limit in case.problem.limits_at(grid.states))
        carried = _carried(actions, policy.grid, grid)
        if case.problem.mixed and not is_same(policy.grid, grid):
            carried = _by_values(actions, policy.grid, grid, case.problem.listed)
        actions, weights = np.clip(carried, low, high), _carried(weights, policy.grid, grid)
        if choices is not None:
            actions = np.tile(choices, (grid.size, 1, 1))
        weights = weights / weights.sum(axis=1, keepdims=True)
        if case.policy.blobs is not None:
            raise StartError(
                "initial: blobs begin evenly, of a policy on the particles it is not known where they are: leave it out, or "
                'use flow.geometry = "fisher_rao"'
            )
        if case.policy.entropy is not None:
            atoms = initial_policy(case, grid).actions
            if not np.allclose(actions, atoms, rtol=0.0, atol=_SAME * np.ptp(atoms)):
                raise StartError(
                    f"initial: its particles are not the {wanted} actions of the case, whose weights alone move where entropy "
                    "has a price: take a policy of the same particles and bounds"
                )
            actions, weights = atoms, np.maximum(weights, LEAST_WEIGHT)
        return ParticlePolicy.of(case.problem, grid, actions, weights)

    def fields_on(self, grid: StateGrid) -> tuple[np.ndarray, np.ndarray] | None:
        """Return law and value on another grid, None where they are not known or nothing of the law lies there."""
        if self.law is None or self.value is None:
            return None
        law = np.maximum(_carried(self.law, self.policy.grid, grid), 0.0)
        mass = total(law)
        return (law / mass, _carried(self.value, self.policy.grid, grid)) if mass > 0.0 else None


def _shared_out(policy: ParticlePolicy, weights: np.ndarray) -> np.ndarray:
    """Return particles (cells, M, 1) of weights (cells, M) for the distributions of one action of a policy, means kept.

    a_j = int_{W_j-1}^{W_j} q(u) du / w_j,  q the quantile function, W the cumulative weights.
    """
    order = np.argsort(policy.actions[:, :, 0], axis=1, kind="stable")
    sorted_actions, own = (np.take_along_axis(x, order, axis=1) for x in (policy.actions[:, :, 0], policy.weights))
    result = np.empty(weights.shape)
    ends, others = np.cumsum(own, axis=1), np.cumsum(weights, axis=1)
    rows = max(1, _AT_ONCE // (own.shape[1] * weights.shape[1]))
    for start in range(0, len(weights), rows):
        some = slice(start, start + rows)
        top = np.minimum(ends[some, :, None], others[some, None, :])
        bottom = np.maximum((ends - own)[some, :, None], (others - weights)[some, None, :])
        shares = np.maximum(top - bottom, 0.0)
        result[some] = np.einsum("kij,ki->kj", shares, sorted_actions[some]) / shares.sum(axis=1)
    return result[:, :, None]


def _by_values(actions: np.ndarray, old: StateGrid, new: StateGrid, listed: np.ndarray) -> np.ndarray:
    """Return actions (cells, N, m) on another grid: of every particle the values that weigh most among the neighbours, and the
    average of the others over those where it has these values.
    """
    around, weights = old.corners(new.states)
    result = np.empty((new.size, *actions.shape[1:]))
    for some in np.array_split(np.arange(new.size), 1 + around.size * actions[0].size // _AT_ONCE):
        near, shares = actions[around[some]], weights[some]
        corners = range(shares.shape[1])
        # how much the cells weigh that take what each of them does
        alike = [(near[..., listed] == near[:, [c]][..., listed]).all(axis=-1) * shares[:, :, None] for c in corners]
        first = np.stack([part.sum(axis=1) for part in alike], axis=1).argmax(axis=1)
        for c in corners:
            rows, particles = np.nonzero(first == c)
            share = alike[c][rows, :, particles]
            there = near[rows, :, particles]
            found = np.einsum("rc,rca->ra", share / share.sum(axis=1, keepdims=True), there)
            found[:, listed] = there[:, c][:, listed]
            result[some[rows], particles] = found
    return result


def _require_values(policy: Any, problem: ControlProblem) -> None:
    """Raise StartError where the actions of a policy that take values of a list do not take those of the problem."""
    known = isinstance(policy, ParticlePolicy) and policy.listed == tuple(problem.listed.tolist())
    if not known or not (policy.actions[..., None, problem.listed] == problem.combinations).all(axis=-1).any(axis=-1).all():
        names = ", ".join(name for name, listed in zip(problem.action_names, problem.listed, strict=True) if listed)
        raise StartError(f"initial: its actions {names} do not take the values of the case alone, as its own runs do")


def _carried(values: np.ndarray, old: StateGrid, new: StateGrid) -> np.ndarray:
    return values if is_same(old, new) else prolonged(values, old, new)


def is_same(old: StateGrid, new: StateGrid) -> bool:
    """Tell whether two grids have the same nodes."""
    near = zip(old.axes, new.axes, new.spacing, strict=True)
    return old.shape == new.shape and all(np.allclose(x, y, rtol=0.0, atol=_SAME * h) for x, y, h in near)


def _periods(grid: StateGrid) -> list[float]:
    """Return the period of every axis, 0 where it has none."""
    shape, spacing = grid.whole.shape, grid.whole.spacing
    return [n * h if kind == "periodic" else 0.0 for n, h, kind in zip(shape, spacing, grid.boundary, strict=True)]
