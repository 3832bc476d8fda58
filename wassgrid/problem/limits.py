"""Bounds of actions that depend on the states: what can be chosen at a state."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from wassgrid.problem.compilation import ArrayFunction, compile_functions
from wassgrid.problem.intervals import Interval, interval
from wassgrid.problem.model import Family, Model, ProblemError
from wassgrid.problem.names import located

Array = NDArray[np.float64]
_PARTS = 4096  # of the domain, over which bounds are enclosed
_HALVINGS = 30  # of the domain, where it is not clear which bound is the higher one
_TOUCHING = 1e-12  # of the size of bounds: those that are nearer than rounding do not cross


@dataclass(frozen=True, eq=False)
class ActionLimits:
    """The bounds low(s) <= a <= high(s) of the actions of a model, of which some depend on the states, and the values of lists
    that are allowed at a state."""

    model: Model

    @classmethod
    def of(cls, model: Model) -> ActionLimits | None:
        """Return the limits of a model, None where all bounds are numbers and all values are allowed everywhere.

        Raises ProblemError for texts that are no bounds or conditions.
        """
        if not any(family.ends is not None or family.allowed for family in model.actions):
            return None
        limits = cls(model)
        limits.expressions, limits.conditions  # noqa: B018 - reads the texts
        return limits

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the definition only, as problems do."""
        return {"model": self.model}

    def at(self, states: Array) -> tuple[Array, Array]:
        """Return lowest and highest actions, (K, m) each, at states (K, d).

        Infinite where an action has no bounds. Raises ProblemError where an end that depends on the states is not finite, or
        where the ends cross or no value is allowed: there no action is left.
        """
        if self.conditions:
            self._require_some(np.asarray(states, dtype=float))
        columns = [np.ascontiguousarray(column) + 0.0 for column in np.asarray(states, dtype=float).T]
        values = np.stack(self._function(*columns), axis=-1).reshape(len(states), len(self._members), 2)
        for k, (family, name, _) in enumerate(self._members):
            low, high = values[:, k].T
            path = f"actions.{family.key}.bounds"
            if family.ends is not None and not (finite := np.isfinite(values[:, k])).all():
                row, end = np.argwhere(~finite)[0]
                where = located(self.states, (column[row] for column in columns))
                raise ProblemError(
                    f"{path}: the {('lower', 'upper')[end]} bound of {name} is {values[row, k, end]} at {where}: it must be a "
                    "finite number everywhere"
                )
            if (crossed := low > high).any():
                row = int(np.argmax(crossed))
                where = located(self.states, (column[row] for column in columns))
                raise ProblemError(
                    f"{path}: at {where} the lower bound {low[row]:.6g} of {name} lies above the upper one, "
                    f"{high[row]:.6g}, and no action is left: change the bounds, say with max(..., ...), or states.NAME.domain"
                )
        return np.ascontiguousarray(values[:, :, 0]), np.ascontiguousarray(values[:, :, 1])

    def admitted(self, states: Array, actions: Array) -> Array:
        """Return actions (K, N, m) at states (K, d), those whose values are not allowed there with the nearest values that are.

        Nearest by the sum of the squares of the distances of the numbers, the first of equals. Raises ProblemError where none is.
        """
        if not self.conditions or actions.size == 0:
            return actions
        listed, combinations = self.model.listed, self.model.combinations
        rows, places = np.nonzero(~self._allowed(states, actions[..., listed]))
        if rows.size == 0:
            return actions
        self._require_some(states[np.unique(rows)])
        given, there = actions[rows, places], states[rows]
        nearest, least = given[:, listed].copy(), np.full(rows.size, np.inf)
        for values in combinations:
            away = np.square(given[:, listed] - values).sum(axis=1)
            closer = (away < least) & self._allowed(there, np.broadcast_to(values, (rows.size, 1, values.size)))[:, 0]
            nearest[closer], least[closer] = values, away[closer]
        given[:, listed] = nearest
        result = np.array(actions, dtype=float)
        result[rows, places] = given
        return result

    def _allowed(self, states: Array, values: Array) -> NDArray[np.bool_]:
        """Tell of combinations of values (K, N, l) whether they are allowed at states (K, d), (K, N)."""
        columns = [column[:, None] + 0.0 for column in states.T]
        found = self._conditions(*columns, *(values[..., k] for k in range(values.shape[-1])))
        return np.asarray(np.all([np.broadcast_to(part, values.shape[:2]) > 0.5 for part in found], axis=0))

    def _require_some(self, states: Array) -> None:
        """Raise ProblemError where no combination of values is allowed, at states (K, d)."""
        combinations = self.model.combinations
        some = self._allowed(states, np.broadcast_to(combinations, (len(states), *combinations.shape))).any(axis=1)
        if not some.all():
            family = next(family for family in self.model.actions if family.allowed)
            where = located(self.states, states[int(np.argmin(some))])
            raise ProblemError(
                f"actions.{family.key}.allowed: at {where} no value is left: let some value be allowed in every state, say "
                f"({family.allowed}) or {family.key} == {family.values[0]:g}, or change states.NAME.domain"
            )

    def hull(self, domain: Array) -> Array:
        """Return bounds (m, 2) that hold those of all states in the domain (d, 2), by interval arithmetic."""
        d = len(domain)
        parts = max(1, min(64, int(_PARTS ** (1.0 / d) + 1e-9)))
        cuts = [np.linspace(low, high, parts + 1) if np.isfinite(high - low) else np.array([low, high]) for low, high in domain]
        pieces = np.array(list(itertools.product(*(itertools.pairwise(c) for c in cuts)))).reshape(-1, d, 2)
        function = compile_functions(self.states, self.expressions, "interval", broadcast=False)
        result = np.empty((len(self.expressions), 2))
        for k, value in enumerate(function(*(Interval(*pieces[:, j].T) for j in range(d)))):
            ends = interval(value, (len(pieces),))
            result[k] = ends.lower.min(), ends.upper.max()
        return np.stack([result[0::2, 0], result[1::2, 1]], axis=1) + 0.0

    @cached_property
    def _members(self) -> list[tuple[Family, str, int]]:
        return [(family, name, k) for family in self.model.actions for k, name in enumerate(family.members)]

    @cached_property
    def expressions(self) -> list[sp.Expr]:
        """Lower and upper bound of every action, in turn."""
        result: list[sp.Expr] = []
        for family, _, position in self._members:
            ends = map(sp.Float, family.interval) if family.ends is None else self.model.ends_of(family, position)
            result += ends
        return result

    @cached_property
    def conditions(self) -> list[sp.Expr]:
        """What is 1 where the values of all actions are allowed, and 0 elsewhere: of every action that has a condition."""
        found = [self.model.allowed_of(family, k) for family, _, k in self._members if family.allowed]
        for condition in found:
            if condition == 0:
                key = next(family.key for family in self.model.actions if family.allowed)
                raise ProblemError(f"actions.{key}.allowed: no value is allowed in any state")
        return found

    @cached_property
    def _conditions(self) -> ArrayFunction:
        names = [name for (_, name, _), listed in zip(self._members, self.model.listed, strict=True) if listed]
        return compile_functions([*self.states, *map(sp.Symbol, names)], self.conditions, broadcast=False)

    @cached_property
    def shares(self) -> dict[sp.Symbol, sp.Expr]:
        """low + (high - low) v for the symbol v of every action whose bounds depend on the states."""
        ends = self.expressions
        symbols = [(family, sp.Symbol(name)) for family, name, _ in self._members]
        moving = [(symbol, ends[2 * k], ends[2 * k + 1]) for k, (family, symbol) in enumerate(symbols) if family.ends is not None]
        return {symbol: low + (high - low) * symbol for symbol, low, high in moving}

    def require_order(self, domain: Array) -> None:
        """Raise ProblemError unless interval arithmetic shows, for all states of the domain (d, 2), that no bounds cross."""
        ends = self.expressions
        for k, (family, name, _) in enumerate(self._members):
            if family.ends is None:
                continue
            low, high = ends[2 * k : 2 * k + 2]
            function = compile_functions(self.states, [high - low, low, high], "interval", broadcast=False)
            pieces = domain[None]
            for _ in range(_HALVINGS):
                values = function(*(Interval(*pieces[:, j].T) for j in range(len(domain))))
                width, *both = (interval(value, (len(pieces),)) for value in values)
                size = np.max([np.maximum(np.abs(end.lower), np.abs(end.upper)) for end in both], axis=0)
                pieces = pieces[~(np.isfinite(size) & (width.lower >= -_TOUCHING * size))]
                if len(pieces) == 0 or len(pieces) > _PARTS:
                    break
                pieces = _halved(pieces)
            if len(pieces):
                where = located(self.states, pieces[0].mean(axis=1))
                raise ProblemError(
                    f"actions.{family.key}.bounds: about {where} intervals do not show that the lower bound of {name} stays "
                    "below the upper one, or that both are finite: write them so that they do, say with max(..., ...)"
                )

    @cached_property
    def _function(self) -> ArrayFunction:
        return compile_functions(self.states, self.expressions)

    @property
    def states(self) -> list[sp.Symbol]:
        """The symbols of the states, in order."""
        return [sp.Symbol(name) for family in self.model.states for name in family.members]


def _halved(pieces: Array) -> Array:
    """Cut boxes (K, d, 2) in two along every axis, (2^d K, d, 2)."""
    for j in range(pieces.shape[1]):
        lower, upper = pieces.copy(), pieces.copy()
        lower[:, j, 1] = upper[:, j, 0] = pieces[:, j].mean(axis=1)
        pieces = np.concatenate([lower, upper])
    return pieces
