"""The model of a case as SymPy: every table of states and actions, the cost, with index families whole or written out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from wassgrid.errors import WassgridError
from wassgrid.problem.expression import ExpressionError, Index, Scope, parse, parse_condition
from wassgrid.problem.names import member


class ProblemError(WassgridError, ValueError):
    """A control problem that is not well posed; the message is one line that begins with the key or names the quantity."""


@dataclass(frozen=True)
class Family:
    """One table of [states] or [actions]: a scalar, or all members of an index family.

    key: the name of the table, `theta` or `q[i]`; name: without the index.
    interval: domain of a state, bounds of an action; infinite where none is given.
    values: all that an action takes, none where it takes a whole interval; value_names: their names, where they have names.
    ends: texts of its bounds, where one of them depends on the states, whose interval is infinite then.
    allowed: text of the condition under which an action of a list may take a value, empty: always.
    distances: how far its values are apart, a matrix in their order, empty: as far as the numbers.
    law: text of `next` (discrete time) or `drift`; noise: text of `noise` or `diffusion`; both empty for actions.
    """

    key: str
    name: str
    index: Index | None
    interval: tuple[float, float]
    boundary: str = "clamp"
    law: str = ""
    noise: str = ""
    values: tuple[float, ...] = ()
    value_names: tuple[str, ...] = ()
    ends: tuple[str, str] | None = None
    allowed: str = ""
    distances: tuple[tuple[float, ...], ...] = ()

    @property
    def members(self) -> tuple[str, ...]:
        """The names of the scalars: `("theta",)` or `("q[0]", ..., "q[n-1]")`."""
        if self.index is None:
            return (self.name,)
        return tuple(member(self.name, position) for position in range(self.index.count))


@dataclass(frozen=True)
class StateTemplate:
    """The law of one table of states, with families as `sympy.Indexed` and sums as `sympy.Sum`.

    Scalars are symbols of their name.  Members are `IndexedBase("q")[i + k]` with the index as the integer symbol `i`, or
    `IndexedBase("q")[k]` for a fixed member.  Realised next values are the symbol `next(omega)` or `IndexedBase("next(q)")[i]`.
    """

    family: Family
    law: sp.Expr
    noise: sp.Expr


@dataclass(frozen=True)
class Scalars:
    """The model with every family written out: one symbol and one expression per scalar, in file order.

    The symbol of the realised next value of state j is `realised[j]`.
    """

    states: tuple[sp.Symbol, ...]
    realised: tuple[sp.Symbol, ...]
    actions: tuple[sp.Symbol, ...]
    law: tuple[sp.Expr, ...]
    noise: tuple[sp.Expr, ...]
    cost: sp.Expr


@dataclass(frozen=True)
class Model:
    """The expressions of a case, parsed on demand.

    time_step, scheme: of a continuous-time model (`law` is the drift b, `noise` the diffusion); None in discrete time.
    """

    parameters: Mapping[str, float]
    indices: Mapping[str, Index]
    states: tuple[Family, ...]
    actions: tuple[Family, ...]
    cost: str
    time_step: float | None
    scheme: str | None

    @property
    def law_key(self) -> str:
        """The key of the law of a state."""
        return "next" if self.time_step is None else "drift"

    @property
    def noise_key(self) -> str:
        """The key of the noise of a state."""
        return "noise" if self.time_step is None else "diffusion"

    @property
    def cost_key(self) -> str:
        """The key of the cost."""
        return "stage" if self.time_step is None else "rate"

    def law_path(self, j: int) -> str:
        """Return the path of the law of scalar state j in the case."""
        return self._path([family for family in self.states for _ in family.members][j], self.law_key)

    @cached_property
    def templates(self) -> tuple[tuple[StateTemplate, ...], sp.Expr]:
        """The laws of all state tables and the cost, with families whole.  Raises ProblemError with the key of a bad text."""
        laws = []
        for family in self.states:
            bound = {} if family.index is None else {family.index.name: sp.Symbol(family.index.name, integer=True)}
            laws.append(
                StateTemplate(
                    family,
                    law=self._parse(self._path(family, self.law_key), family.law, self._law_scope(bound, True)),
                    noise=self._parse(self._path(family, self.noise_key), family.noise, self._noise_scope(bound, True)),
                )
            )
        return tuple(laws), self._parse(f"cost.{self.cost_key}", self.cost, self._scope(template=True))

    @cached_property
    def scalars(self) -> Scalars:
        """The model with families written out.  Raises ProblemError with the key of a bad text."""
        law, noise = [], []
        for family in self.states:
            for position in range(len(family.members)):
                bound = {} if family.index is None else {family.index.name: position}
                law.append(self._parse(self._path(family, self.law_key), family.law, self._law_scope(bound, False)))
                noise.append(self._parse(self._path(family, self.noise_key), family.noise, self._noise_scope(bound, False)))
        names = [name for family in self.states for name in family.members]
        return Scalars(
            states=tuple(sp.Symbol(name) for name in names),
            realised=tuple(sp.Symbol(f"next({name})") for name in names),
            actions=tuple(sp.Symbol(name) for family in self.actions for name in family.members),
            law=tuple(law),
            noise=tuple(noise),
            cost=self._parse(f"cost.{self.cost_key}", self.cost, self._scope(template=False)),
        )

    def feedback(self, key: str, text: str, action: Family, position: int) -> sp.Expr:
        """Parse the text of a feedback law: an expression of states, parameters and the index of the action."""
        bound = {} if action.index is None else {action.index.name: position}
        return self._parse(key, text, self._state_scope("a feedback law may depend on", bound, template=False))

    def ends_of(self, action: Family, position: int) -> tuple[sp.Expr, sp.Expr]:
        """Parse the bounds of an action that depend on the states, of one member of its family.  Raises ProblemError."""
        assert action.ends is not None
        bound = {} if action.index is None else {action.index.name: position}
        scope = self._state_scope("bounds may depend on", bound, template=False)
        low, high = (self._parse(f"actions.{action.key}.bounds", text, scope) for text in action.ends)
        return low, high

    def allowed_of(self, action: Family, position: int) -> sp.Expr:
        """Parse `allowed` of one member, a condition on states and actions of lists (1 where it holds, 0 elsewhere)."""
        bound = {} if action.index is None else {action.index.name: position}
        listed = [family for family in self.actions if family.values]
        scope = self._scope(bound, families=[*self.states, *listed])
        what = "allowed may depend on states, parameters and actions that take values of lists only, not on the action"
        reasons = {family.name: f"{what} {family.name}" for family in self.actions if not family.values}
        scope = Scope(**{**vars(scope), "forbidden": reasons})
        return self._parse(f"actions.{action.key}.allowed", action.allowed, scope, parse_condition)

    @cached_property
    def listed(self) -> NDArray[np.bool_]:
        """Which actions take values of a list, (m,)."""
        return np.array([bool(family.values) for family in self.actions for _ in family.members], dtype=bool)

    @cached_property
    def combinations(self) -> NDArray[np.float64]:
        """All combinations (B, l) of the values of those l actions, the last one changes fastest; of none the empty one."""
        lists = [family.values for family in self.actions for _ in family.members if family.values]
        if not lists:
            return np.zeros((1, 0))
        return np.stack(np.meshgrid(*lists, indexing="ij"), axis=-1).reshape(-1, len(lists))

    @cached_property
    def squared_distances(self) -> NDArray[np.float64]:
        """Squares of the distances between combinations (B, B): sums of those between the values of every action."""
        squares = np.zeros((1, 1))
        for family in self.actions:
            for _ in family.members if family.values else ():
                apart = np.array(family.distances or np.subtract.outer(family.values, family.values))
                size = len(squares) * len(apart)
                squares = (squares[:, None, :, None] + np.square(apart)[None, :, None, :]).reshape(size, size)
        return squares

    def of_states(self, key: str, text: str, what: str, condition: bool = False) -> sp.Expr:
        """Parse an expression of states and parameters, or a condition on them (1 where it holds, 0 elsewhere).

        what: the words before "states and parameters only" of an error.  Raises ProblemError.
        """
        return self._parse(key, text, self._state_scope(what, {}, template=False), parse_condition if condition else parse)

    def _path(self, family: Family, key: str) -> str:
        return f"states.{family.key}.{key}"

    def _scope(
        self,
        bound: Mapping[str, int | sp.Symbol] | None = None,
        template: bool = False,
        families: Iterable[Family] | None = None,
    ) -> Scope:
        known = [*self.states, *self.actions] if families is None else list(families)
        return Scope(
            values={**self.parameters, **{f.name: sp.Symbol(f.name) for f in known if f.index is None}},
            families={family.name: family.index.name for family in known if family.index is not None},
            indices=self.indices,
            bound=bound or {},
            template=template,
        )

    def _law_scope(self, bound: Mapping[str, int | sp.Symbol], template: bool) -> Scope:
        scope = self._scope(bound, template)
        return Scope(**{**vars(scope), "realised": frozenset(family.name for family in self.states)})

    def _noise_scope(self, bound: Mapping[str, int | sp.Symbol], template: bool) -> Scope:
        return self._state_scope(f"{self.noise_key} may depend on", bound, template)

    def _state_scope(self, what: str, bound: Mapping[str, int | sp.Symbol], template: bool) -> Scope:
        scope = self._scope(bound, template, families=self.states)
        reasons = {f.name: f"{what} states and parameters only, not on the action {f.name}" for f in self.actions}
        return Scope(**{**vars(scope), "forbidden": reasons})

    @staticmethod
    def _parse(path: str, text: str, scope: Scope, read: Callable[[str, Scope], sp.Expr] = parse) -> sp.Expr:
        try:
            return read(text, scope)
        except ExpressionError as error:
            raise ProblemError(f"{path}: {error}") from None
