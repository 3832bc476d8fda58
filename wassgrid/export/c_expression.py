"""Expressions of a case as C99, in double precision."""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from wassgrid.problem.functions import (
    Absolute,
    ArcTangent2,
    Both,
    Either,
    Equal,
    Floor,
    Greater,
    GreaterEqual,
    Maximum,
    Minimum,
    Modulo,
    Negation,
    Sign,
    Where,
)

_CALLS = {
    **{getattr(sp, name): name for name in ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log")},
    Absolute: "fabs", ArcTangent2: "atan2", Floor: "floor", Maximum: "fmax", Minimum: "fmin",
}  # fmt: skip
_FORMS = {
    Greater: "({0} > {1})", GreaterEqual: "({0} >= {1})", Equal: "({0} == {1})", Both: "({0} && {1})", Either: "({0} || {1})",
    Negation: "(!{0})", Where: "({0} ? {1} : {2})", Sign: "(double)(({0} > 0.0) - ({0} < 0.0))",
    Modulo: "({0} - {1} * floor({0} / {1}))",
}  # fmt: skip


def c_expression(expression: sp.Expr, names: Mapping[sp.Symbol, str]) -> str:
    """Return an expression of the case language as a C expression of type double (of a condition: int).

    names: what stands for each symbol. The functions are those of math.h.

    >>> x = sp.Symbol("x")
    >>> c_expression(Maximum(sp.Integer(0), 1 - x**2), {x: "at[0]"})
    'fmax(0.0, (1.0 + (-1.0 * pow(at[0], 2.0))))'
    """
    if expression.is_Symbol:
        return names[expression]
    if expression is sp.S.true or expression is sp.S.false:
        return str(int(bool(expression)))
    if expression.is_number:
        return repr(float(expression)).replace("inf", "HUGE_VAL")
    parts = [c_expression(part, names) for part in expression.args]
    if expression.is_Add or expression.is_Mul:
        return f"({(' + ' if expression.is_Add else ' * ').join(parts)})"
    if expression.is_Pow:
        exponent = expression.args[1]
        if exponent in (sp.S.Half, -sp.S.One):
            return f"sqrt({parts[0]})" if exponent == sp.S.Half else f"(1.0 / {parts[0]})"
        return f"pow({parts[0]}, {parts[1]})"
    if expression.func in _CALLS:
        return f"{_CALLS[expression.func]}({', '.join(parts)})"
    return _FORMS[expression.func].format(*parts)
