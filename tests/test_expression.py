"""Expressions: what the grammar accepts, what it refuses and how, values and derivatives of what it accepts."""

from __future__ import annotations

import builtins
import math
import subprocess
import sys
import time

import numpy as np
import pytest
import sympy as sp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wassgrid.errors import NumbersError
from wassgrid.problem.compilation import compile_functions, differentiate
from wassgrid.problem.expression import MAXIMUM_LENGTH, ExpressionError, Index, Scope, evaluate_number, parse

X, Y = sp.symbols("x y")
SCOPE = Scope(values={"x": X, "y": Y, "k": 0.3, "two": 2})
FAMILY = Scope(
    values={"x": X},
    families={"q": "i", "r": "j"},
    indices={"i": Index("i", 3, periodic=True), "j": Index("j", 3)},
    realised=frozenset({"q", "x"}),
)


def wrap(angle):
    return np.mod(angle + np.pi, 2 * np.pi) - np.pi


# text -> the same function written with NumPy
MEANING = {
    "1.5": lambda x, y: 1.5 + 0 * x,
    "x + y - 2": lambda x, y: x + y - 2,
    "-x*y/k": lambda x, y: -x * y / 0.3,
    "x - (y - 3)*-2": lambda x, y: x + (y - 3) * 2,
    "x**3 - y**-2 + two**x": lambda x, y: x**3 - 1 / y**2 + 2**x,
    "-x**2": lambda x, y: -(x**2),
    "(x**2)**0.5": lambda x, y: np.abs(x),
    "2**3**two": lambda x, y: 512 + 0 * x,
    "+x/2/3": lambda x, y: x / 6,
    "sin(x) + cos(y)*tan(x)": lambda x, y: np.sin(x) + np.cos(y) * np.tan(x),
    "asin(x/9) + acos(y/9) - atan(x)": lambda x, y: np.arcsin(x / 9) + np.arccos(y / 9) - np.arctan(x),
    "atan2(y, x)": lambda x, y: np.arctan2(y, x),
    "sinh(x) + cosh(y) + tanh(x*y)": lambda x, y: np.sinh(x) + np.cosh(y) + np.tanh(x * y),
    "exp(-x) + log(x**2 + 1) + sqrt(y**2 + k)": lambda x, y: np.exp(-x) + np.log(x**2 + 1) + np.sqrt(y**2 + 0.3),
    "abs(x)*sign(y)": lambda x, y: np.abs(x) * np.sign(y),
    "min(x, y, k) + max(x, y)": lambda x, y: np.minimum(np.minimum(x, y), 0.3) + np.maximum(x, y),
    "clip(x*y, -1, k)": lambda x, y: np.clip(x * y, -1, 0.3),
    "where(x > y, x, -y)": lambda x, y: np.where(x > y, x, -y),
    "where(x >= 0 and not y < 1 or x != x, 1, 2)": lambda x, y: np.where((x >= 0) & ~(y < 1), 1.0, 2.0),
    "where(-1 <= x < y, x, 0)": lambda x, y: np.where((x >= -1) & (x < y), x, 0.0),
    "where(x == y, 1, 0)": lambda x, y: np.where(x == y, 1.0, 0.0),
    "where(2 > 1, x, y)": lambda x, y: x,
    "mod(x, k) + mod(-x, two)": lambda x, y: np.mod(x, 0.3) + np.mod(-x, 2.0),
    "wrap_angle(3*x)": lambda x, y: wrap(3 * x),
    "pi*x + wrap_angle(4)": lambda x, y: np.pi * x + wrap(4.0),
    "x/3 + 0.1": lambda x, y: x / 3 + 0.1,
}


@pytest.fixture
def points():
    rng = np.random.default_rng(5)
    x, y = rng.uniform(-3, 3, (2, 40))
    x[0] = y[0]
    return x, y


@pytest.mark.parametrize("text", MEANING)
def test_an_expression_means_what_it_says(text, points):
    (value,) = compile_functions([X, Y], [parse(text, SCOPE)])(*points)
    assert value.shape == points[0].shape
    np.testing.assert_allclose(value, MEANING[text](*points), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("text", MEANING)
def test_first_and_second_derivatives_against_finite_differences(text, points):
    points = [p[1:] for p in points]  # the first stands on x = y
    expression = parse(text, SCOPE)
    stages, gradient, hessian = differentiate([expression], [X, Y])
    value = compile_functions([X, Y], [expression])
    slopes = compile_functions([X, Y], gradient[0], stages=stages)
    curvatures = compile_functions([X, Y], [*hessian[0][0], *hessian[0][1]], stages=stages)
    h = 1e-6
    for axis in range(2):
        step = [h * (axis == 0), h * (axis == 1)]
        ahead = [p + s for p, s in zip(points, step, strict=True)]
        behind = [p - s for p, s in zip(points, step, strict=True)]
        difference = (value(*ahead)[0] - value(*behind)[0]) / (2 * h)
        # the classical derivative: away from jumps and kinks, where a difference quotient means nothing
        smooth = np.abs(slopes(*ahead)[axis] - slopes(*behind)[axis]) < 1e-2 * (1 + np.abs(slopes(*points)[axis]))
        smooth &= np.abs(value(*ahead)[0] - value(*behind)[0]) < 1e-1
        assert smooth.sum() >= 35
        scale = 1 + np.abs(difference)
        np.testing.assert_allclose((slopes(*points)[axis] / scale)[smooth], (difference / scale)[smooth], atol=1e-7)
        for other in range(2):
            difference = (slopes(*ahead)[other] - slopes(*behind)[other]) / (2 * h)
            scale = 1 + np.abs(difference)
            np.testing.assert_allclose(
                (curvatures(*points)[2 * other + axis] / scale)[smooth], (difference / scale)[smooth], atol=1e-6
            )


def test_derivatives_hold_almost_everywhere_and_have_no_delta():
    for text in ("abs(x)", "sign(x)", "mod(x, 2)", "wrap_angle(x)", "clip(x, -1, 1)", "max(x, 0)", "where(x > 0, x, 0)"):
        _, gradient, hessian = differentiate([parse(text, SCOPE)], [X])
        slope, curvature = compile_functions([X], [gradient[0][0], hessian[0][0][0]])(np.array([-0.5, 0.0, 0.5]))
        assert np.all(np.isfinite(slope)), text
        assert np.all(curvature == 0.0), text


@pytest.mark.parametrize("text", MEANING)
def test_jax_computes_the_same(text, points):
    jax = pytest.importorskip("jax", reason="JAX comes with the extra `neural`")
    expression = parse(text, SCOPE)
    with jax.enable_x64(True):
        (value,) = jax.jit(compile_functions([X, Y], [expression], backend="jax"))(*points)
        assert value.dtype == np.float64 and value.shape == points[0].shape
        np.testing.assert_allclose(value, MEANING[text](*points), rtol=1e-13, atol=1e-13)
    single = [p.astype(np.float32) for p in points]
    assert compile_functions([X, Y], [expression], backend="jax")(*single)[0].dtype == np.float32


def test_constants_take_the_shape_of_the_arguments():
    function = compile_functions([X, Y], [sp.S.Zero, sp.Float(0.1), X])
    zero, tenth, x = function(np.zeros((3, 1)), np.zeros((3, 4)))
    assert zero.shape == tenth.shape == x.shape == (3, 4)
    assert np.all(tenth == 0.1)


def test_constants_keep_their_last_bit():
    numbers = np.random.default_rng(1).uniform(0.1, 1, 50)
    expressions = [parse(f"x*{float(number)!r}", SCOPE) for number in numbers]
    assert [float(v) for v in compile_functions([X], expressions)(1.0)] == numbers.tolist()
    assert float(compile_functions([X], [parse("x*pi", SCOPE)])(1.0)[0]) == math.pi


@pytest.mark.parametrize("name", ["sin", "shared_0", "argument_0", "_part_0", "lambda", "q[3]", "numpy", "power"])
def test_any_symbol_name_compiles(name):
    symbol = sp.Symbol(name)
    function = compile_functions([symbol, X], [sp.sin(symbol) ** 3 + sp.cos(sp.sin(symbol)) * X])
    np.testing.assert_allclose(function(0.3, 2.0)[0], np.sin(0.3) ** 3 + 2 * np.cos(np.sin(0.3)), rtol=1e-15)


# -- what is refused --------------------------------------------------------------------------------------------------

REFUSED = {
    "z + 1": "unknown name 'z', expected one of x, y, k, two",
    "twoo": "did you mean 'two'?",
    "x.real": "a dot after a name",
    "x[0]": "not an index family",
    "f(x)": "unknown function 'f'",
    "exq(x)": "did you mean 'exp'?",
    "k(x)": "k is not a function, write k*(...)",
    "x y": "not an expression",
    "x^2": "write **",
    "x // 2": "FloorDiv",
    "x % 2": "Mod",
    "~x": "Invert",
    "x if y else k": "where(condition, x, y)",
    "x > 1": "first argument of where",
    "not x": "first argument of where",
    "where(x, 1, 2)": "expected a comparison",
    "where(x in y, 1, 2)": "expected one of < <= > >= == !=",
    "where(x > 1 > True, 1, 2)": "True is not a number",
    "None": "None is not a number",
    "'a'": "'a' is not a number",
    "b'a'": "b'a' is not a number",
    "2j": "2j is not a number",
    "...": "Ellipsis is not a number",
    "sum(x for x in y)": "sum takes 2 arguments",
    "(x, y)": "a list",
    "{}": "a list",
    "[x]": "a list",
    "[x for x in y]": "a comprehension",
    "f'{x}'": "text",
    "(x := 1)": "an assignment",
    "lambda: x": "lambda",
    "sin(x, y)": "sin takes 1 argument, got 2",
    "sin()": "sin takes 1 argument, got 0",
    "min()": "at least one argument",
    "sin(x=y)": "plain arguments",
    "max(*x)": "plain arguments",
    "sin": "write sin(x)",
    "next(x)": "next(...) may only stand",
    "sum(i, x)": "declare it in [indices]",
    "1/0": "division by zero",
    "x/(k - 0.3)": "division by zero",
    "mod(1, 0)": "mod(1, 0) is not a finite real number",
    "log(-1)": "log(-1) is not a finite real number",
    "asin(2)": "asin(2) is not a finite real number",
    "exp(1000)": "exp(1000) is not a finite real number",
    "(-2)**0.5": "not real",
    "(-2)**x": "not real",
    "0**x": "not real",
    "0**-1": "not a finite double",
    "x**1e6": "exponent",
    "9**9**9**9": "not a finite double",
    "2**100000": "not a finite double",
    "10.0**400": "not a finite double",
    "1e308*10*x": "not a finite double",
    "(1e200*x)**2": "too large for a double",
    "clip(x, 1, -1)": "lo <= hi",
    "": "empty",
    " \n ": "empty",
    "x\x00": "character",
    "ｘ": "character",
    "x +": "not an expression",
    "0x": "not an expression",
    "1" * 5_000: "not an expression",
    "(" * 300 + "x" + ")" * 300: "not an expression",
    "-" * 2_000 + "x": "nested",
    "sin(" * 60 + "x" + ")" * 60: "nested more than 40 levels",
    "+".join(["x*y"] * 2_000): "more than 5000 terms",
    "x" * (MAXIMUM_LENGTH + 1): "more than 20000",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text[:30]))
def test_what_is_not_in_the_grammar_is_refused_at_once_in_one_line(text):
    start = time.perf_counter()
    with pytest.raises(ExpressionError) as refusal:
        parse(text, SCOPE)
    assert time.perf_counter() - start < 2.0
    message = str(refusal.value)
    assert REFUSED[text] in message
    assert "\n" not in message and len(message) < 400


@pytest.mark.parametrize("signs", [5_000, 19_999])
def test_what_is_deeper_than_some_parsers_read_is_refused_in_one_line(signs):
    with pytest.raises(ExpressionError, match=r"^(nested too deeply|more than 5000 terms)[^\n]{,200}$"):
        parse("-" * signs + "x", SCOPE)


def test_the_message_points_at_the_place_of_a_long_expression():
    text = " + ".join(["sin(x)*y"] * 40 + ["sgn(x)"] + ["cos(y)"] * 40)
    with pytest.raises(ExpressionError) as refusal:
        parse(text, SCOPE)
    column = text.index("sgn") + 1
    assert f"column {column} of" in str(refusal.value)
    assert ">>sgn(x)" in str(refusal.value)


def test_a_name_that_may_not_stand_here_says_why():
    scope = Scope(values={"x": X}, forbidden={"a": "noise depends on states only, not on the action a"})
    with pytest.raises(ExpressionError, match="noise depends on states only"):
        parse("x*a", scope)


def test_numbers_of_parameters():
    assert evaluate_number("2*pi/k", {"k": 4.0}) == math.pi / 2
    assert evaluate_number("-1e-3", {}) == -1e-3
    assert evaluate_number("max(k, 2)**2 + where(k > 3, 1, 0)", {"k": 4.0}) == 17.0
    with pytest.raises(ExpressionError, match="unknown name 'x'"):
        evaluate_number("x", {"k": 1.0})


def refused_or_real(text, scope):
    try:
        expression = parse(text, scope)
    except ExpressionError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return
    assert isinstance(expression, sp.Expr)
    names = {str(symbol).partition("@")[0] for symbol in expression.free_symbols}
    assert names <= {"x", "y", "q", "r", "i", "j"} | {f"{q}[{n}]" for q in "qr" for n in range(3)} | {
        "next(x)", *(f"next(q[{n}])" for n in range(3)), "next(q)",
    }  # fmt: skip
    assert not expression.has(sp.zoo, sp.nan, sp.oo, sp.I)


PIECES = st.sampled_from(
    [
        *"xykqrij0129+-*/()[],.:<>=!~^%@'\"{}# \t\n\\", "**", "sin", "where", "sum(i,", "next(", "max(", "exp(", "9**9", "1e308",
        "two", "__import__", "lambda", "for", "in", "if", "else", "and",
        "or", "not", "is", "await", ":=", "->", "1_0", "0x1", "1j",
        "q[i+1]", "q[0]", "True", "None", "f'", "é", "\x00", "wrap_angle(", "clip(", "mod(", "log(", "**-", "(" * 50, ")" * 50,
    ]
)  # fmt: skip


@settings(max_examples=300, deadline=5_000)
@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=30).map("".join)))
@example("((x+1)*2)**1000**1000")
@example("9**9**9**x")
def test_fuzz_text_is_refused_or_becomes_an_expression(text):
    refused_or_real(text, SCOPE)
    refused_or_real(text, FAMILY.bind("i", 1))
    refused_or_real(text, Scope(**{**vars(FAMILY), "template": True}))


def test_parsing_runs_none_of_the_text(monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("the text was run")

    for name in ("eval", "exec"):
        monkeypatch.setattr(builtins, name, refuse)
    ran = []
    monkeypatch.setattr(builtins, "print", lambda *values: ran.append(values))
    for text in ("print(1)", "[print(1) for x in (1,)]", "(lambda: print(1))()", "x.__class__(print(1))", "sin(print(1))"):
        with pytest.raises(ExpressionError):
            parse(text, SCOPE)
    assert ran == []


@st.composite
def trees(draw, depth=4):
    """Draw (text, function of x and y by Python's own operators) of a random valid expression."""
    if depth == 0 or draw(st.integers(0, 5)) == 0:
        number = draw(st.floats(-9, 9, allow_nan=False).map(lambda v: round(v, 3)))
        leaf = draw(st.sampled_from(["x", "y", "k", number]))
        return {"x": ("x", lambda x, y: x), "y": ("y", lambda x, y: y), "k": ("k", lambda x, y: 0.3 + 0 * x)}.get(
            leaf, (f"({number!r})", lambda x, y: number + 0 * x)
        )
    (a, f), (b, g) = draw(trees(depth - 1)), draw(trees(depth - 1))
    return draw(
        st.sampled_from(
            [
                (f"({a} + {b})", lambda x, y: f(x, y) + g(x, y)),
                (f"({a} - {b})", lambda x, y: f(x, y) - g(x, y)),
                (f"{a}*{b}", lambda x, y: f(x, y) * g(x, y)),
                (f"({a}/({b}*{b} + 1))", lambda x, y: f(x, y) / (g(x, y) * g(x, y) + 1)),
                (f"(-{a})", lambda x, y: -f(x, y)),
                (f"({a})**2", lambda x, y: f(x, y) ** 2),
                (f"sin({a})", lambda x, y: np.sin(f(x, y))),
                (f"tanh({a})*exp(-abs({b}))", lambda x, y: np.tanh(f(x, y)) * np.exp(-np.abs(g(x, y)))),
                (f"max({a}, {b})", lambda x, y: np.maximum(f(x, y), g(x, y))),
                (f"clip({a}, -1, 2)", lambda x, y: np.clip(f(x, y), -1, 2)),
                (f"where({a} > 100, {a}, {b})", lambda x, y: np.where(f(x, y) > 100, f(x, y), g(x, y))),
                (f"atan2({a}, 2 + {b}*{b})", lambda x, y: np.arctan2(f(x, y), 2 + g(x, y) * g(x, y))),
            ]
        )
    )


@settings(max_examples=150, deadline=None)
@given(trees())
def test_fuzz_valid_expressions_agree_with_direct_evaluation(tree):
    text, function = tree
    x, y = np.random.default_rng(0).uniform(-2, 2, (2, 7))
    with np.errstate(all="ignore"):
        wanted = function(x, y)
        sensitivity = np.abs(function(x * (1 + 1e-12), y * (1 - 1e-12)) - wanted)
    try:
        expression = parse(text, SCOPE)
    except ExpressionError as error:
        assert "too large" in str(error) or "finite" in str(error) or "levels deep" in str(error)
        return
    (value,) = compile_functions([X, Y], [expression])(x, y)
    # cancellation may cost digits where SymPy reorders a sum
    clean = np.isfinite(wanted) & (sensitivity < 1e-6 * (1 + np.abs(wanted)))
    np.testing.assert_allclose(value[clean], wanted[clean], rtol=1e-6, atol=1e-6)


# -- large expressions ------------------------------------------------------------------------------------------------


def test_a_long_product_is_differentiated_in_stages():
    count = 60
    expression = parse("*".join(f"(1 + x*y/{k})" for k in range(1, count + 1)), SCOPE)
    start = time.perf_counter()
    stages, gradient, hessian = differentiate([expression], [X])
    slope, curvature = compile_functions([X, Y], [gradient[0][0], hessian[0][0][0]], stages=stages)(0.2, 0.7)
    assert time.perf_counter() - start < 20
    # log f = sum log(1 + x y / k)
    terms = np.arange(1, count + 1)
    u = 0.7 / terms / (1 + 0.14 / terms)
    f = np.prod(1 + 0.14 / terms)
    np.testing.assert_allclose(slope, f * u.sum(), rtol=1e-12)
    np.testing.assert_allclose(curvature, f * (u.sum() ** 2 - (u**2).sum()), rtol=1e-12)


def test_a_deep_expression_is_differentiated_in_stages():
    _, gradient, hessian = (derivatives := differentiate([parse("sin(" * 35 + "x*y" + ")" * 35, SCOPE)], [X]))
    slope, curvature = compile_functions([X, Y], [gradient[0][0], hessian[0][0][0]], stages=derivatives[0])(0.4, 2.0)
    f, df, ddf = 0.8, 2.0, 0.0
    for _ in range(35):
        f, df, ddf = np.sin(f), np.cos(f) * df, np.cos(f) * ddf - np.sin(f) * df**2
    np.testing.assert_allclose([slope, curvature], [df, ddf], rtol=1e-12)


def test_derivatives_go_through_given_stages():
    k = sp.Symbol("_k")
    stages, gradient, hessian = differentiate([sp.sin(k) * X + k * Y**2], [X, Y], [(k, X * Y**3 + Y)])
    literal = (sp.sin(k) * X + k * Y**2).subs(k, X * Y**3 + Y)
    values = compile_functions([X, Y], [*gradient[0], *hessian[0][0], hessian[0][1][1]], stages=stages)(1.2, 0.7)
    wanted = [literal.diff(X), literal.diff(Y), literal.diff(X, 2), literal.diff(X, Y), literal.diff(Y, 2)]
    np.testing.assert_allclose(values, [float(w.subs({X: 1.2, Y: 0.7})) for w in wanted], rtol=1e-13)


def test_values_are_the_same_to_the_last_bit_in_every_process():
    program = (
        "import sympy as sp, numpy as np;"
        "from wassgrid.problem.expression import *; from wassgrid.problem.compilation import differentiate;"
        "x, y = sp.symbols('x y'); s = Scope(values=dict(x=x, y=y));"
        "e = parse('sin(x*y)*exp(-x**2) + max(x, y)**3 - (x + y + 1)*(x - 2*y)*(x + 3)/(1 + cos(x*y)**2)', s);"
        "st, g, h = differentiate([e], [x, y]);"
        "f = compile_functions([x, y], [e, *g[0], *h[0][0], h[0][1][1]], stages=st);"
        "v = f(*np.random.default_rng(0).normal(size=(2, 50)));"
        "print(np.array(v).tobytes().hex())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1 and len(outputs.pop()) > 1000


# -- index families ---------------------------------------------------------------------------------------------------


def q(position):
    return sp.Symbol(f"q[{position}]")


def r(position):
    return sp.Symbol(f"r[{position}]")


WRITTEN_OUT = {
    "q[i]": q(2),
    "q[i+1] - q[i-1]": q(0) - q(1),  # periodic: neighbours wrap around
    "q[0]*x": q(0) * X,
    "i*x": 2.0 * X,
    "sum(i, q[i])": q(0) + q(1) + q(2),
    "sum(i, q[i]*q[i+1])": q(0) * q(1) + q(1) * q(2) + q(2) * q(0),
    "sum(j, r[j+1] + 2*r[j-2])": r(1) + r(2) + 2.0 * r(0),  # not periodic: 0 beyond the ends
    "sum(j, j*r[j])": r(1) + 2.0 * r(2),
    "sum(i, x)": 3.0 * X,
    "sum(i, sum(j, q[i]*r[j]))": sp.expand((q(0) + q(1) + q(2)) * (r(0) + r(1) + r(2))),
    "sum(j, q[j] - q[i])": q(0) + q(1) - 2 * q(2),  # the free i inside a sum over j
    "q[i] + sum(i, q[i])": q(0) + q(1) + 2 * q(2),  # the summed i hides the free one
    "next(q[i+1])": sp.Symbol("next(q[0])"),
    "next(x)": sp.Symbol("next(x)"),
    "where(i > 1, x, 0)": X,
}


@pytest.mark.parametrize("text", WRITTEN_OUT)
def test_families_are_written_out(text):
    difference = sp.expand(parse(text, FAMILY.bind("i", 2)) - WRITTEN_OUT[text])
    assert difference == 0 or abs(difference).is_zero


def test_templates_keep_families_whole():
    i = sp.Symbol("i", integer=True)
    scope = Scope(**{**vars(FAMILY), "template": True}).bind("i", i)
    base = sp.IndexedBase("q")
    assert parse("q[i+1] - 2*q[0]", scope) == base[i + 1] - 2.0 * base[0]
    total = parse("sum(j, q[j]*q[i])", scope)
    assert isinstance(total, sp.Sum) and i in total.free_symbols
    assert parse("sum(j, x)", scope) == 3.0 * X
    assert parse("next(q[i])", scope) == sp.IndexedBase("next(q)")[i]


FAMILY_REFUSED = {
    "q": "write q[i]",
    "j": "the index j has no value here, write sum(j, ...)",
    "q[3]": "members q[0] to q[2]",
    "q[-1]": "members q[0] to q[2]",
    "q[i+4]": "longer than the index",
    "q[2*i]": "expected a subscript",
    "q[x]": "expected a subscript",
    "q[i, 1]": "expected a subscript",
    "q[True]": "expected a subscript",
    "q[i + True]": "expected a subscript",
    "q[0:1]": "expected a subscript",
    "q[j]": "the index j has no value here",
    "q[i][0]": "name of an index family",
    "p[i]": "'p' is not an index family",
    "next(q)": "write q[i]",
    "next(r[j])": "next(...) takes a state",
    "next(next(x))": "takes the name of a state",
    "next(x + 1)": "takes the name of a state",
    "sum(x, x)": "the first argument of sum is an index: one of i, j",
    "sum(i, 1/(i - 1))": "division by zero",
    "sum(i, i**i**i**i**i**i)": "not a finite double",
}


@pytest.mark.parametrize("text", FAMILY_REFUSED)
def test_families_refuse(text):
    with pytest.raises(ExpressionError) as refusal:
        parse(text, FAMILY.bind("i", 2))
    assert FAMILY_REFUSED[text] in str(refusal.value)


def test_a_sum_of_too_many_terms_is_refused_before_it_is_written_out():
    scope = Scope(families={"q": "i"}, indices={"i": Index("i", 100_000), "j": Index("j", 100_000)}, bound={})
    start = time.perf_counter()
    with pytest.raises(ExpressionError, match="more than 50000 terms"):
        parse("sum(i, sum(j, q[i]*q[j]))", scope)
    assert time.perf_counter() - start < 2.0


def test_a_number_of_a_derivative_beyond_the_doubles_is_named():
    cost = parse("9e307*x**3", SCOPE)
    assert compile_functions([X], [cost])(0.5)[0] == 9e307 / 8
    for backend in ("numpy", "interval"):
        with pytest.raises(NumbersError, match=r"5\.40e\+308 arises among its expressions and their derivatives"):
            compile_functions([X], [sp.diff(cost, X, 2)], backend, broadcast=False)
