"""The functions that expressions may call, as SymPy functions with almost-everywhere derivatives.

SymPy differentiates `Abs`, `Min`, `Piecewise` and `Mod` into Dirac deltas, Heaviside steps and unevaluated derivatives,
and asks its assumption system about every comparison.  The small functions below do neither: their derivative is the
classical one wherever it exists, and one of the one-sided derivatives on the null set where it does not.  Each prints
under its own name; `namespace` gives the NumPy or JAX function behind that name.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import sympy as sp


def constant(value: float) -> sp.Expr:
    """Return a SymPy number for `value`: exact for -1, 0, 1, otherwise a double, so that no power ever becomes a long integer."""
    return sp.Integer(int(value)) if value in (-1.0, 0.0, 1.0) else sp.Float(value)


class _Folding(sp.Function):
    """A function of numbers that folds in double precision when all arguments are numbers."""

    of_numbers: ClassVar[Callable[..., float]]

    @classmethod
    def eval(cls, *arguments: sp.Expr) -> sp.Expr | None:
        if all(argument.is_Number for argument in arguments):
            return constant(cls.of_numbers(*map(float, arguments)))
        return None


class Condition(sp.Function):
    """A truth value: the first argument of `Where`.  Piecewise constant, so its derivative is zero."""

    def _eval_derivative(self, _symbol: sp.Symbol) -> sp.Expr:
        return sp.S.Zero


class Greater(Condition):
    """x > y."""

    nargs = 2

    @classmethod
    def eval(cls, x: sp.Expr, y: sp.Expr) -> Any:
        return (sp.S.true if x > y else sp.S.false) if x.is_Number and y.is_Number else None


class GreaterEqual(Condition):
    """x >= y."""

    nargs = 2

    @classmethod
    def eval(cls, x: sp.Expr, y: sp.Expr) -> Any:
        return (sp.S.true if x >= y else sp.S.false) if x.is_Number and y.is_Number else None


class Equal(Condition):
    """x == y, bit for bit."""

    nargs = 2

    @classmethod
    def eval(cls, x: sp.Expr, y: sp.Expr) -> Any:
        return (sp.S.true if float(x) == float(y) else sp.S.false) if x.is_Number and y.is_Number else None


class Both(Condition):
    """Logical and."""

    nargs = 2

    @classmethod
    def eval(cls, x: Any, y: Any) -> Any:
        if sp.S.false in (x, y):
            return sp.S.false
        return y if x is sp.S.true else x if y is sp.S.true else None


class Either(Condition):
    """Logical or."""

    nargs = 2

    @classmethod
    def eval(cls, x: Any, y: Any) -> Any:
        if sp.S.true in (x, y):
            return sp.S.true
        return y if x is sp.S.false else x if y is sp.S.false else None


class Negation(Condition):
    """Logical not."""

    nargs = 1

    @classmethod
    def eval(cls, x: Any) -> Any:
        return sp.S.false if x is sp.S.true else sp.S.true if x is sp.S.false else None


class Where(sp.Function):
    """x where the condition holds, y elsewhere."""

    nargs = 3

    @classmethod
    def eval(cls, condition: Any, x: sp.Expr, y: sp.Expr) -> sp.Expr | None:
        return x if condition is sp.S.true or x == y else y if condition is sp.S.false else None

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        condition, x, y = self.args
        return Where(condition, x.diff(symbol), y.diff(symbol))


class Maximum(_Folding):
    """The larger of two numbers; NaN if either is NaN."""

    nargs = 2
    of_numbers = staticmethod(max)

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        x, y = self.args
        return Where(GreaterEqual(x, y), x.diff(symbol), y.diff(symbol))


class Minimum(_Folding):
    """The smaller of two numbers; NaN if either is NaN."""

    nargs = 2
    of_numbers = staticmethod(min)

    def _eval_derivative(self, symbol: sp.Symbol) -> sp.Expr:
        x, y = self.args
        return Where(GreaterEqual(y, x), x.diff(symbol), y.diff(symbol))


class Absolute(_Folding):
    """|x|, with derivative sign(x)."""

    nargs = 1
    of_numbers = staticmethod(abs)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return Sign(self.args[0])


class Sign(_Folding):
    """-1, 0 or 1, with derivative zero."""

    nargs = 1

    of_numbers = staticmethod(lambda x: float((x > 0) - (x < 0)))

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.S.Zero


class Floor(_Folding):
    """The largest integer not above x, with derivative zero."""

    nargs = 1
    of_numbers = staticmethod(math.floor)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.S.Zero


class Modulo(_Folding):
    """x - y floor(x / y), with derivatives 1 and -floor(x / y)."""

    nargs = 2

    of_numbers = staticmethod(operator.mod)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        x, y = self.args
        return sp.S.One if argindex == 1 else -Floor(x / y)


class ArcTangent2(_Folding):
    """The angle of the point (x, y), in (-pi, pi], called with y first."""

    nargs = 2
    of_numbers = staticmethod(math.atan2)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        y, x = self.args
        return (x if argindex == 1 else -y) / (x**2 + y**2)


class SumOver(sp.Function):
    """The sum of the first argument over the array axis numbered by the second, counted from the last; see `compilation`."""

    nargs = 2


class Elementary(NamedTuple):
    """A function of so many arguments: at doubles, as a SymPy expression, how it is written and what it is."""

    arity: int
    at_doubles: Callable[..., float]
    build: Callable[..., sp.Expr]
    form: str
    meaning: str


ELEMENTARY: dict[str, Elementary] = {
    "sin": Elementary(1, math.sin, sp.sin, "sin(x)", "sine, x in radians"),
    "cos": Elementary(1, math.cos, sp.cos, "cos(x)", "cosine, x in radians"),
    "tan": Elementary(1, math.tan, sp.tan, "tan(x)", "tangent, x in radians"),
    "asin": Elementary(1, math.asin, sp.asin, "asin(x)", "arc sine in radians, -1 <= x <= 1"),
    "acos": Elementary(1, math.acos, sp.acos, "acos(x)", "arc cosine in radians, -1 <= x <= 1"),
    "atan": Elementary(1, math.atan, sp.atan, "atan(x)", "arc tangent in radians"),
    "atan2": Elementary(2, math.atan2, ArcTangent2, "atan2(y, x)", "angle of the point (x, y) in radians, in (-pi, pi]"),
    "sinh": Elementary(1, math.sinh, sp.sinh, "sinh(x)", "hyperbolic sine"),
    "cosh": Elementary(1, math.cosh, sp.cosh, "cosh(x)", "hyperbolic cosine"),
    "tanh": Elementary(1, math.tanh, sp.tanh, "tanh(x)", "hyperbolic tangent"),
    "exp": Elementary(1, math.exp, sp.exp, "exp(x)", "exponential"),
    "log": Elementary(1, math.log, sp.log, "log(x)", "natural logarithm, x > 0"),
    "sqrt": Elementary(1, math.sqrt, lambda x: sp.Pow(x, sp.S.Half), "sqrt(x)", "square root, x >= 0"),
    "abs": Elementary(1, abs, Absolute, "abs(x)", "absolute value"),
    "sign": Elementary(1, Sign.of_numbers, Sign, "sign(x)", "-1, 0 or 1"),
    "mod": Elementary(2, Modulo.of_numbers, Modulo, "mod(x, y)", "x - y*floor(x/y), with the sign of y"),
}
# name -> (form, meaning); these take any number of arguments, a condition, or a name
SPECIAL: dict[str, tuple[str, str]] = {
    "min": ("min(x, y, ...)", "the smallest"),
    "max": ("max(x, y, ...)", "the largest"),
    "clip": ("clip(x, lo, hi)", "x between lo and hi: min(max(x, lo), hi)"),
    "where": ("where(condition, x, y)", "x where the condition holds, y elsewhere; condition: < <= > >= == != and or not"),
    "wrap_angle": ("wrap_angle(x)", "the angle x in radians, in [-pi, pi)"),
    "sum": ("sum(index, expression)", "over all positions of an index, which the expression may use: sum(i, q[i]**2)"),
    "next": ("next(state)", "realised next value of another state, its noise included; in next and drift of a state only"),
}
# names of other languages -> what to write here
ELSEWHERE: dict[str, str] = {
    **{f"arc{name}": f"a{name}(x)" for name in ("sin", "cos", "tan")},
    "arctan2": "atan2(y, x)",
    "ln": "log(x)",
    "log10": "log(x)/log(10)",
    "log2": "log(x)/log(2)",
    "fabs": "abs(x)",
    "sgn": "sign(x)",
    "power": "x**y",
    "pow": "x**y",
    "square": "x**2",
    "maximum": "max(x, y)",
    "minimum": "min(x, y)",
    "fmod": "mod(x, y)",
    "heaviside": "where(x > 0, 1, 0)",
    "floor": "x - mod(x, 1)",
    "ceil": "x + mod(-x, 1)",
}
CONSTANTS: dict[str, float] = {"pi": math.pi}
RESERVED: frozenset[str] = frozenset({*ELEMENTARY, *SPECIAL, *CONSTANTS})


def listed() -> list[tuple[str, str]]:
    """Return (form, meaning) of everything that an expression may call or name, and of its operators."""
    functions = [(entry.form, entry.meaning) for entry in ELEMENTARY.values()]
    constants = [(name, f"{value!r}") for name, value in CONSTANTS.items()]
    return [*functions, *SPECIAL.values(), *constants, ("+ - * / **", "arithmetic; x**y is a power")]


def namespace(arrays: ModuleType) -> dict[str, Callable[..., Any]]:
    """Return the array function behind the name of each class above, from `numpy` or `jax.numpy`."""

    def sum_over(terms: Any, axis: int) -> Any:
        return arrays.sum(terms, axis=-axis, keepdims=True)

    return {
        "Greater": arrays.greater,
        "GreaterEqual": arrays.greater_equal,
        "Equal": arrays.equal,
        "Both": arrays.logical_and,
        "Either": arrays.logical_or,
        "Negation": arrays.logical_not,
        "Where": arrays.where,
        "Maximum": arrays.maximum,
        "Minimum": arrays.minimum,
        "Absolute": arrays.abs,
        "Sign": arrays.sign,
        "Floor": arrays.floor,
        "Modulo": arrays.mod,
        "ArcTangent2": arrays.arctan2,
        "SumOver": sum_over,
    }
