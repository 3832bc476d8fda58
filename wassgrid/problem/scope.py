"""The names an expression may use, and the error that says what is wrong with one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import sympy as sp

from wassgrid.errors import WassgridError


class ExpressionError(WassgridError, ValueError):
    """An expression outside the grammar; the message is one line: what is wrong, the column, the expression, the remedy."""


@dataclass(frozen=True)
class Index:
    """An index of families: positions 0 .. count - 1, where a periodic one wraps around."""

    name: str
    count: int
    periodic: bool = False


@dataclass(frozen=True)
class Scope:
    """The names that an expression may use.

    values: scalar names -> a double (parameters) or a SymPy symbol (states, actions).
    families: family names -> the name of their index.
    bound: index names that may stand in subscripts and as numbers here -> their position, or their symbol in a template.
    template: keep families whole: members are `sympy.Indexed` and sums unevaluated `sympy.Sum`.  Otherwise every member is a
        scalar symbol `q[3]` and sums are written out.
    realised: states and families that may stand inside `next(...)`.
    forbidden: names that exist but may not be used here -> the reason.
    """

    values: Mapping[str, float | sp.Expr] = field(default_factory=dict)
    families: Mapping[str, str] = field(default_factory=dict)
    indices: Mapping[str, Index] = field(default_factory=dict)
    bound: Mapping[str, int | sp.Symbol] = field(default_factory=dict)
    template: bool = False
    realised: frozenset[str] = frozenset()
    forbidden: Mapping[str, str] = field(default_factory=dict)

    def bind(self, index: str, position: int | sp.Symbol) -> Scope:
        """Return this scope with `index` at `position`."""
        return replace(self, bound={**self.bound, index: position})

    @property
    def names(self) -> list[str]:
        """Every name that may stand for a value, for suggestions."""
        return [*self.values, *self.families, *self.bound]


def shown_at(text: str, place: int, width: int = 60) -> str:
    """Return `text` in quotes on one line, shortened around `place`, which `>>` marks unless it is the start."""
    start = max(0, place - width // 2)
    stop = min(len(text), start + width)
    before, after = text[start:place], text[place:stop]
    shown = ("..." if start else "") + before + (">>" if place else "") + after + ("..." if stop < len(text) else "")
    return '"' + "".join(c if 32 <= ord(c) < 127 else "?" for c in shown) + '"'
