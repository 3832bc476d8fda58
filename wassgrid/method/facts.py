"""What every method states of itself; read by the case language, so nothing is imported here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MethodFacts:
    """escapes: particles may jump to better actions that the certificate found. rests: a step whose moves are rounding is its
    end, since those of the next one would be their squares; of the gradient flow it says nothing. inexact: its steps need V only
    to a fraction of what is left to gain."""

    escapes: bool
    rests: bool
    inexact: bool = False


METHOD_FACTS = {
    "euler": MethodFacts(escapes=False, rests=False),
    "heun": MethodFacts(escapes=False, rests=False),
    "rk4": MethodFacts(escapes=False, rests=False),
    "newton": MethodFacts(escapes=True, rests=True, inexact=True),
    "full_newton": MethodFacts(escapes=True, rests=True),
}
