"""Laws of interval arithmetic at random boxes, ends on kinks among them, against exact values by ball arithmetic (Arb).

The ranges hold every value and every derivative on the box up to rounding of the ends, and say where a function is not smooth.
"""

from __future__ import annotations

import ast
import math
from fractions import Fraction

import flint
import numpy as np
import pytest
import sympy as sp
from hypothesis import assume, given
from hypothesis import strategies as st

from wassgrid.problem import intervals
from wassgrid.problem.compilation import compile_functions, differentiate
from wassgrid.problem.expression import Scope, parse
from wassgrid.problem.functions import ELEMENTARY, SPECIAL
from wassgrid.problem.intervals import Interval

pytestmark = pytest.mark.thorough

arb = flint.arb

X, Y = sp.Symbol("x", real=True), sp.Symbol("y", real=True)
BITS = 300
SHIFT = Fraction(1, 2**90)  # of the difference quotient: its error is 2^-180, relative to the third derivative

ONE = [
    "sin(x)", "cos(x)", "tan(x)", "asin(x)", "acos(x/3)", "atan(x)", "sinh(x)", "cosh(x)", "tanh(x)", "exp(x)", "log(x)",
    "sqrt(x)",
    "abs(x)", "sign(x)", "x**2", "x**3", "x**5", "x**-1", "x**-2", "x**-3", "x**0.5", "x**1.5", "x**-0.5", "abs(x)**0.7",
    "abs(x)**1.5", "2.5**x", "(x + 3)**2.2", "1/(1 + x**2)", "exp(-x**2)", "x/(x + 4)", "mod(x, 2)", "mod(x, -2)", "mod(x, 0.7)",
    "mod(49*x, 49)", "wrap_angle(x)", "min(x, 1)", "max(x, 1)", "clip(x, -1, 2)", "where(x > 1, x**2, -x)",
    "where(x >= 1, 3, x)", "where(x < 1 and x > -2, x, 5)", "where(not x <= 1 or x == 0, sin(x), x**3)", "abs(x - 1)**3",
    "sqrt(abs(x - 1))", "(x - 1)**2*sign(x - 1)", "sin(9*x)*exp(-abs(x))", "max(abs(x), 1)", "abs(abs(x) - 1)",
    "x**4 - 3*x**2 + x",
]  # fmt: skip
TWO = [
    "x + y", "x - y", "x*y", "x/y", "atan2(y, x)", "atan2(x, 1 + y**2)", "min(x, y, 0.5)", "max(x, -y)", "mod(x, y)", "abs(x)**y",
    "where(x > y, x, -y)", "where(x >= y, x*y, 2)", "clip(x, y, y + 1)", "(x - y)**2*sin(x + y)", "sqrt(x**2 + y**2)",
    "x**2*y**3",
]  # fmt: skip
KINKS = [-2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0, math.pi / 2, -math.pi / 2, math.pi, 0.7, 1.4, 4.0]


class Undefined(Exception):
    """A value that Arb does not know to be finite."""


class Exact(ast.NodeVisitor):
    """The value of an expression at rational points as an Arb ball."""

    def __init__(self, **names: Fraction) -> None:
        self.names = names

    def of(self, text: str) -> flint.arb:
        before, flint.ctx.prec = flint.ctx.prec, BITS
        try:
            value = self._ball(self.visit(ast.parse(text, mode="eval").body))
            if not value.is_finite() or float(value.rad()) > 1e-40 * (1.0 + abs(float(value.mid()))):
                raise Undefined
            return value
        finally:
            flint.ctx.prec = before

    def _ball(self, value) -> flint.arb:
        return value if isinstance(value, arb) else arb(flint.fmpq(value.numerator, value.denominator))

    def visit_Constant(self, node):
        return Fraction(float(node.value))

    def visit_Name(self, node):
        return self.names[node.id] if node.id in self.names else Fraction(math.pi)

    def visit_UnaryOp(self, node):
        value = self.visit(node.operand)
        return (not value) if isinstance(node.op, ast.Not) else -value

    def visit_BoolOp(self, node):
        values = [self.visit(value) for value in node.values]
        return all(values) if isinstance(node.op, ast.And) else any(values)

    def visit_Compare(self, node):
        difference = self.visit(node.left) - self.visit(node.comparators[0])
        sign = self._sign(difference)
        return {ast.Gt: sign > 0, ast.GtE: sign >= 0, ast.Lt: sign < 0, ast.LtE: sign <= 0, ast.Eq: sign == 0}[type(node.ops[0])]

    def _sign(self, value) -> int:
        if isinstance(value, Fraction):
            return (value > 0) - (value < 0)
        if value.contains(0) and not value.is_zero():
            raise Undefined
        return int(float(value.sgn()))

    def visit_BinOp(self, node):
        x, y = self.visit(node.left), self.visit(node.right)
        rational = isinstance(x, Fraction) and isinstance(y, Fraction)
        if isinstance(node.op, ast.Pow):
            if isinstance(y, Fraction) and y.denominator == 1 and abs(y) < 50:
                if isinstance(x, Fraction):
                    if x == 0 and y < 0:
                        raise Undefined
                    return x ** int(y)
                return self._ball(x) ** int(y)
            if self._sign(x) == 0 and self._sign(y) > 0:
                return Fraction(0)
            return self._ball(x) ** self._ball(y)
        if not rational:
            x, y = self._ball(x), self._ball(y)
        if isinstance(node.op, ast.Div):
            if rational and y == 0:
                raise Undefined
            return x / y
        return {ast.Add: lambda: x + y, ast.Sub: lambda: x - y, ast.Mult: lambda: x * y}[type(node.op)]()

    def visit_Call(self, node):
        name = node.func.id
        if name == "where":
            return self.visit(node.args[1] if self.visit(node.args[0]) else node.args[2])
        values = [self.visit(argument) for argument in node.args]
        x = values[0]
        if name == "abs":
            return -x if self._sign(x) < 0 else x
        if name == "sign":
            return Fraction(self._sign(x))
        if name in ("min", "max"):
            for value in values[1:]:
                if (self._sign(value - x) < 0) == (name == "min"):
                    x = value
            return x
        if name == "clip":
            low = values[1] if self._sign(values[1] - x) > 0 else x
            return values[2] if self._sign(low - values[2]) > 0 else low
        if name == "wrap_angle":
            pi = Fraction(math.pi)
            return (x + pi) - 2 * pi * math.floor((x + pi) / (2 * pi)) - pi
        if name == "mod":
            if values[1] == 0:
                raise Undefined
            return x - values[1] * math.floor(x / values[1])
        if name == "sqrt" and isinstance(x, Fraction) and x == 0:
            return x
        if name == "atan2":
            return arb.atan2(self._ball(x), self._ball(values[1]))
        return getattr(self._ball(x), name)()


def test_every_function_is_held_to_the_laws():
    texts = " ".join([*ONE, *TWO])
    for name in {*ELEMENTARY, *SPECIAL} - {"sum", "next"}:
        assert f"{name}(" in texts


def compiled(text: str, backend: str):
    expression = parse(text, Scope(values={"x": X, "y": Y}))
    stages, gradient, _ = differentiate([expression], [X, Y])
    return compile_functions([X, Y], [expression, *gradient[0]], backend, stages=stages, broadcast=False)


FUNCTIONS = {text: (compiled(text, "interval"), compiled(text, "numpy")) for text in [*ONE, *TWO]}


@st.composite
def boxes(draw, text: str):
    """Ends of a box and a point in it, per variable; ends are kinks as often as not."""
    # of numbers near 1e-300 a power or a quotient loses digits of its own
    place = st.sampled_from(KINKS) | st.floats(-4, 4).map(lambda x: round(x, 9)) | st.integers(-8, 8).map(lambda k: 0.5 * k)
    width = st.sampled_from([0.0, 1e-12, 1e-3, 0.5, 1.0, 3.0]) | st.floats(0, 3).map(lambda x: round(x, 12))
    result = []
    for _ in range(2 if "y" in text else 1):
        end, size = draw(place), draw(width)
        low, high = (end, end + size) if draw(st.booleans()) else (end - size, end)
        part = draw(st.sampled_from([0.0, 1.0]) | st.floats(0, 1))
        result.append((low, high, min(max(low + part * (high - low), low), high)))
    return result


def slack(*values: float) -> float:
    return 64 * np.finfo(float).eps * max(1.0, *(abs(value) for value in values if math.isfinite(value)))


@given(st.data())
@pytest.mark.parametrize("text", [*ONE, *TWO])
def test_ranges_hold_every_value_and_derivative(text, data):
    axes = data.draw(boxes(text))
    of_ranges, of_points = FUNCTIONS[text]
    lows, highs, points = ([axis[k] for axis in axes] for k in range(3))
    y = [0.0] if len(axes) == 1 else []
    found = of_ranges(*(Interval(np.array([a]), np.array([b])) for a, b in zip(lows, highs, strict=True)), *y)
    ranges = [intervals.interval(part, (1,)) for part in found]
    at = dict(zip("xy", map(Fraction, points), strict=False))
    try:
        value = float(Exact(**at).of(text).mid())
    except (Undefined, ValueError, ZeroDivisionError):
        # not defined at a point of the box: nothing finite may be claimed
        # (0 times 1/y is 0 for every other y of the box: that is what its range says)
        assume(text != "x/y" or points[0] != 0.0)
        with np.errstate(all="ignore"):
            computed = float(np.asarray(of_points(*map(np.array, points), *y)[0]))
        assert math.isfinite(computed) or not (np.isfinite(ranges[0].lower[0]) and np.isfinite(ranges[0].upper[0]))
        return
    computed = float(np.asarray(of_points(*map(np.array, points), *y)[0]))
    # a jump within rounding: the point that is computed lies on its other side
    assume(abs(computed - value) <= 1e-6 * (1.0 + abs(value)))
    assert ranges[0].lower[0] - slack(value) <= value <= ranges[0].upper[0] + slack(value)
    if int(ranges[0].order[0]) < 1:
        return
    for k, name in enumerate("xy"[: len(axes)]):
        inside = lows[k] < points[k] < highs[k]
        if not inside or min(points[k] - lows[k], highs[k] - points[k]) < 1e-20:
            continue
        try:
            upper = Exact(**at | {name: at[name] + SHIFT}).of(text)
            lower = Exact(**at | {name: at[name] - SHIFT}).of(text)
        except (Undefined, ValueError, ZeroDivisionError):
            continue
        before, flint.ctx.prec = flint.ctx.prec, BITS
        slope = float(((upper - lower) / arb(flint.fmpq(2 * SHIFT.numerator, SHIFT.denominator))).mid())
        flint.ctx.prec = before
        gap = slack(slope) + 1e-9 * (1.0 + abs(slope))
        assert ranges[1 + k].lower[0] - gap <= slope <= ranges[1 + k].upper[0] + gap


@given(st.sampled_from([1e-12, 1e-3, 0.4, 2.0]), st.sampled_from(["left", "right", "both"]))
@pytest.mark.parametrize(
    ("text", "kink", "order"),
    [
        ("abs(x)", 0.0, 1), ("abs(x - 1)", 1.0, 1), ("max(x, 1)", 1.0, 1), ("min(1, x)", 1.0, 1), ("clip(x, -1, 2)", 2.0, 1),
        ("clip(x, -1, 2)", -1.0, 1), ("abs(x**3 - 8)", 2.0, 1), ("max(2*x, x + 1)", 1.0, 1), ("sqrt(abs(x - 1))", 1.0, 1),
        ("abs(x)**1.5", 0.0, 1), ("abs(abs(x) - 1)", -1.0, 1), ("x*abs(x)", 0.0, 1),
        ("where(x >= 1, x, 2 - x)", 1.0, 0), ("where(x > 1, x, 3)", 1.0, 0), ("sign(x)", 0.0, 0), ("mod(x, 2)", 2.0, 0),
        ("mod(x, 0.5)", 1.5, 0), ("(x - 1)**2*sign(x - 1)", 1.0, 0), ("where(x == 1, 0, x)", 1.0, 0), ("atan2(x, -1)", 0.0, 0),
    ],
)  # fmt: skip
def test_a_box_that_touches_a_kink_is_not_smooth(text, kink, order, width, side):
    """Unless all of the box, the end included, is computed by one branch: then it is smooth, and its other branch is outside."""
    of_ranges = compiled(text, "interval")
    low, high = kink - width * (side != "right"), kink + width * (side != "left")
    range_ = intervals.interval(of_ranges(Interval(np.array([low]), np.array([high])), 0.0)[0], (1,))
    if side == "both":
        assert int(range_.order[0]) <= order
    elif order == 1:
        assert int(range_.order[0]) <= 1
    else:
        # one-sided: a jump may be outside; if the box counts as smooth, values and slopes come from one branch
        points = np.linspace(low, high, 7)
        values = np.asarray(compiled(text, "numpy")(points, 0.0)[0]) + 0.0 * points
        if int(range_.order[0]) == 2:
            assert np.abs(np.diff(values, 2)).max() <= 0.1 * width**2 + 1e-9 + 2.0 * width**2
