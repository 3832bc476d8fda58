"""The goal on a grid: the cells whose node is in it, and the chain that stops or starts again there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from wassgrid.grid import StateGrid
from wassgrid.problem.control_problem import ControlProblem
from wassgrid.problem.model import ProblemError
from wassgrid.transition.operator import MarkovOperator

_PARTS = (1, 8, 64)  # of every bounded action, into which its bounds are cut to see that the cost is positive
_BOXES = 1 << 16  # at once


@dataclass(frozen=True, eq=False)
class GridGoal:
    """The goal on the cells of a grid: those whose node satisfies the condition.

    inside (cells,); costs (cells,): F at these cells in the unit of the table of stage costs, 0 elsewhere; law (cells,): from
    which the chain goes on after the goal, None where it stops there.
    """

    problem: ControlProblem
    grid: StateGrid
    inside: np.ndarray
    costs: np.ndarray
    law: np.ndarray | None

    @classmethod
    def of(cls, problem: ControlProblem, grid: StateGrid, start: np.ndarray) -> GridGoal | None:
        """Return the goal of a problem on a grid, None where it has none; start (cells,): the start law.

        Raises ProblemError where no node, or every node, is in the goal.
        """
        goal = problem.goal
        if goal is None:
            return None
        inside = goal.reached(grid.states)
        if not inside.any():
            raise ProblemError(
                f"goal.where: no grid point satisfies it, of {' x '.join(map(str, grid.shape))}: move the ends of the domain "
                "beyond the goal, or take more points"
            )
        if inside.all():
            raise ProblemError("goal.where: every grid point satisfies it: nothing is left to be controlled")
        costs = np.zeros(grid.size)
        costs[inside] = problem.goal_costs(grid.states[inside])
        return cls(problem, grid, inside, costs, start if goal.restarts else None)

    @property
    def free(self) -> np.ndarray:
        """Which cells are not in the goal, (cells,)."""
        return ~self.inside

    @cached_property
    def nearest(self) -> np.ndarray:
        """The nearest cell off the goal of every cell, (cells,): itself for those."""
        from scipy.ndimage import distance_transform_edt

        place = distance_transform_edt(self.inside.reshape(self.grid.shape), return_distances=False, return_indices=True)
        return np.asarray(np.ravel_multi_index(tuple(place), self.grid.shape)).ravel()

    def after(self, function: np.ndarray) -> float:
        """Return E f(s') after a cell of the goal: under the start law, or nothing."""
        return 0.0 if self.law is None else float(self.law @ function)

    @cached_property
    def least_cost(self) -> float:
        """A lower bound c0 of the stage cost over all cells off the goal and all actions; -inf where none is seen.

        By interval arithmetic, on parts of the bounds of the actions where it is not positive on the whole.
        """
        states, least = self.grid.states[self.free], -np.inf
        if self.problem.no_bounds:
            return least
        low, high = self.problem.limits_at(states)
        # an action has bounds at all states or at none
        bounded = np.atleast_1d(np.isfinite(high - low).all(axis=0))
        cut = self.problem.listed & self.problem.mixed  # by values
        for parts in _PARTS:
            # shares of the bounds between which an action is: of one without, all of it
            cuts = [np.linspace(0.0, 1.0, (parts if whole else 1) + 1) for whole in bounded & ~cut]
            ends = [
                np.stack(np.meshgrid(*[c[side : c.size - 1 + side] for c in cuts], indexing="ij"), axis=-1).reshape(-1, len(cuts))
                for side in (0, 1)
            ]
            worst = np.inf
            for bottom, top in zip(*ends, strict=True):
                for start in range(0, len(states), _BOXES):
                    some = slice(start, start + _BOXES)
                    box = _between(low[some], high[some], bottom), _between(low[some], high[some], top)
                    for first, last in self.problem.parts(*box):
                        found = self.problem.action_ranges(states[some], first, last, 0).cost[0][0]
                        worst = min(worst, float(np.where(np.isnan(found), -np.inf, found).min()))
            least = max(least, worst)
            if least > 0.0 or len(ends[0]) > 4096:
                break
        return least


def _between(low: np.ndarray, high: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return low + share (high - low), (K, m), for shares (m,): the ends of a part are those of the next."""
    with np.errstate(invalid="ignore"):
        inside = np.clip(low + share * (high - low), low, high)
    return np.where(share == 0.0, low, np.where(share == 1.0, high, inside))


class GoalOperator:
    """The operator of a chain that stops at the goal, or starts again from a law one step later.

    Rows of cells in the goal are those of nothing, or the start law; the others are those of P. `stochastic`: whether rows sum
    to one.
    """

    def __init__(self, inner: MarkovOperator, goal: GridGoal) -> None:
        self._inner, self._goal = inner, goal

    @property
    def size(self) -> int:
        return self._inner.size

    @property
    def stochastic(self) -> bool:
        return self._goal.law is not None

    @property
    def nonnegative(self) -> bool:
        return self._inner.nonnegative

    @property
    def work(self) -> float:
        return self._inner.work

    @cached_property
    def _support(self) -> np.ndarray:
        law = self._goal.law
        return np.zeros(0, np.int64) if law is None else np.flatnonzero(law)

    @property
    def entries(self) -> int:
        return self._inner.entries + self._support.size * int(np.count_nonzero(self._goal.inside))

    @property
    def bandwidth(self) -> float:
        if self._support.size == 0:
            return self._inner.bandwidth
        share = float(self._goal.inside.mean())
        return self._inner.bandwidth + share * self.size

    def apply(self, function: np.ndarray) -> np.ndarray:
        """Return P f, (cells,)."""
        result = self._inner.apply(function)
        result[self._goal.inside] = self._goal.after(function)
        return result

    def push(self, law: np.ndarray) -> np.ndarray:
        """Return mu P, (cells,)."""
        goal = self._goal
        result = self._inner.push(np.where(goal.inside, 0.0, law))
        if goal.law is not None:
            result += float(law[goal.inside].sum()) * goal.law
        return result

    def _replaced(self, rows: sparse.csr_array, inside: np.ndarray) -> sparse.csr_array:
        """Return rows of P with those inside the goal replaced."""
        kept = sparse.diags_array((~inside).astype(float), format="csr") @ rows
        if self._goal.law is not None:
            column = sparse.csr_array(inside.astype(float)[:, None])
            kept = kept + column @ sparse.csr_array(self._goal.law[None, :])
        result = sparse.csr_array(kept)
        result.eliminate_zeros()
        return result

    def rows(self, cells: np.ndarray) -> sparse.csr_array:
        """Return chosen rows, (K, cells)."""
        return self._replaced(self._inner.rows(cells), self._goal.inside[cells])

    @cached_property
    def _matrix(self) -> sparse.csr_array:
        return self._replaced(self._inner.matrix(), self._goal.inside)

    def matrix(self) -> sparse.csr_array:
        return self._matrix
