"""The goal of a problem: the states where an episode ends, what it costs to be there, and what comes next."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from wassgrid.problem.compilation import ArrayFunction, compile_functions
from wassgrid.problem.model import Model, ProblemError
from wassgrid.problem.names import located

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Goal:
    """A set of states, with the cost F(s) of being there.

    indicator: 1 at the states of the goal, 0 elsewhere; both expressions of the states. restarts: the next state is drawn from
    the start law, one step later; otherwise nothing comes next.
    """

    indicator: sp.Expr
    cost: sp.Expr
    states: tuple[sp.Symbol, ...]
    restarts: bool

    @classmethod
    def of(cls, model: Model, where: str, cost: str, restarts: bool) -> Goal:
        """Parse the texts of a goal: a condition on the states, and an expression of them.  Raises ProblemError."""
        indicator = model.of_states("goal.where", where, "a goal may depend on", condition=True)
        if indicator.is_Number:
            which = "every" if indicator == 1 else "no"
            raise ProblemError(f"goal.where: {which} state satisfies it: a goal is some of the states, such as x >= 1")
        return cls(indicator, model.of_states("goal.cost", cost, "its cost may depend on"), model.scalars.states, restarts)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the definition only."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    @cached_property
    def _function(self) -> ArrayFunction:
        return compile_functions(self.states, [self.indicator, self.cost])

    def reached(self, states: Array) -> NDArray[np.bool_]:
        """Tell of states (K, d) whether they are in the goal, (K,)."""
        found: NDArray[np.bool_] = self._function(*np.ascontiguousarray(states.T))[0] > 0.5
        return found

    def costs(self, states: Array) -> Array:
        """Return F (K,) at states (K, d) of the goal.  Raises ProblemError where it is not finite."""
        result: Array = self._function(*np.ascontiguousarray(states.T))[1]
        if not np.isfinite(result).all():
            k = int(np.argmin(np.isfinite(result)))
            where = located(self.states, states[k])
            raise ProblemError(f"goal.cost is {result[k]} at {where}: it must be a finite number everywhere in the goal")
        return result
