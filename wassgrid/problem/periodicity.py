"""What a shift of one variable adds to an expression, where its form alone tells."""

from __future__ import annotations

import math

import sympy as sp

from wassgrid.problem.functions import Modulo

_SAME = 1e-12  # relative: numbers of periods count as whole


def shift(expression: sp.Expr, variable: sp.Symbol, amount: float) -> float | None:
    """Return the constant f(x + amount) - f(x), None where the form of f does not show that it is one.

    >>> x = sp.Symbol("x")
    >>> shift(sp.sin(2 * x) + 3 * x, x, 2 * math.pi) == 6 * math.pi
    True
    >>> shift(x**2, x, 1.0) is None
    True
    """
    if variable not in expression.free_symbols:
        return 0.0
    if expression == variable:
        return amount
    parts = [shift(part, variable, amount) for part in expression.args]
    if any(part is None for part in parts):
        return None
    moved = [float(part) for part in parts if part is not None]
    if isinstance(expression, sp.Add):
        return math.fsum(moved)
    if not any(moved):
        return 0.0
    if isinstance(expression, sp.Mul):
        numbers, rest = expression.as_coeff_Mul()
        inner = shift(rest, variable, amount) if rest != expression else None
        return None if inner is None else float(numbers) * inner
    if isinstance(expression, sp.sin | sp.cos):
        return 0.0 if _whole(moved[0] / (2.0 * math.pi)) else None
    if isinstance(expression, sp.tan):
        return 0.0 if _whole(moved[0] / math.pi) else None
    if isinstance(expression, Modulo) and not moved[1] and expression.args[1].is_Number:
        return 0.0 if _whole(moved[0] / float(expression.args[1])) else None
    return None


def _whole(number: float) -> bool:
    return abs(number - round(number)) <= _SAME * max(1.0, abs(number))
