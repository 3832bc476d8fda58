"""Interval arithmetic: ranges hold every value, know where kinks and jumps are, and are sharp where that can be said."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

from wassgrid.case import Case
from wassgrid.problem import intervals
from wassgrid.problem.compilation import compile_functions
from wassgrid.problem.expression import Scope, parse
from wassgrid.problem.intervals import Interval

X, Y = sp.Symbol("x", real=True), sp.Symbol("y", real=True)
EXPRESSIONS = [
    "x + y", "x - y", "x*y", "x/y", "x**2", "x**3", "x**-1", "x**-2", "abs(x)**1.5", "2.5**x", "exp(x)", "log(x)", "sqrt(x)",
    "sin(x)", "cos(3*x)", "tan(x)", "asin(x/4)", "acos(x/4)", "atan(x)", "sinh(x)", "cosh(x)", "tanh(x)", "atan2(y, x)",
    "abs(x)", "sign(x)", "min(x, y, 0.5)", "max(x, -y)", "clip(x, -1, 2)", "mod(x, 2)", "mod(x, -2)", "wrap_angle(x)",
    "where(x > y, x**2, -y)", "where(x > 0 and y < 1, x, y)", "where(x >= 1 or not y > 0, x*y, 3)", "where(x == y, 1, x)",
    "(x - y)**2*sin(x + y) + exp(-x**2)*clip(y, -1, 1)", "x*(1 - x) + x*y**3",
]  # fmt: skip


def compiled(text: str, backend: str):
    expression = parse(text, Scope(values={"x": X, "y": Y}))
    return compile_functions([X, Y], [expression], backend, broadcast=False)


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_ranges_hold_every_value(text):
    rng = np.random.default_rng(0)
    centre, radius = rng.uniform(-3, 3, (2, 400)), rng.choice([0.0, 1e-3, 0.3, 3.0], (2, 400))
    low, high = centre - radius, centre + radius
    (found,) = compiled(text, "interval")(Interval(low[0], high[0]), Interval(low[1], high[1]))
    range_ = intervals.interval(found, (400,))
    parts = np.concatenate([rng.random((2, 60, 400)), np.zeros((2, 1, 400)), np.ones((2, 1, 400))], axis=1)
    points = low[:, None] + (high - low)[:, None] * parts
    (values,) = compiled(text, "numpy")(*points)
    values = np.broadcast_to(values, points[0].shape)
    slack = 1e-12 * np.maximum(1.0, np.abs(values))
    inside = (values >= range_.lower - slack) & (values <= range_.upper + slack)
    assert np.all(inside | ~np.isfinite(values))
    # a value that is not defined has an infinite range
    undefined = ~np.isfinite(values).all(axis=0)
    assert not np.any(undefined & np.isfinite(range_.lower) & np.isfinite(range_.upper))
    # of points, the range is the value
    exact = (radius == 0).all(axis=0) & ~undefined
    assert exact.any()
    np.testing.assert_allclose(range_.lower[exact], values[0, exact], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(range_.upper[exact], values[0, exact], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "low", "high", "order"),
    [
        ("abs(x)", -1, 1, 1), ("abs(x)", 0, 1, 1), ("abs(x)", -1, 0, 1), ("abs(x)", -2, -1, 2),
        ("max(x, 0.5)", 0, 1, 1), ("max(x, 0.5)", 0.5, 1, 1), ("max(x, 0.5)", 0.6, 1, 2), ("min(x, 0.5)", 0, 0.5, 1),
        ("where(x > 0, x, 1)", -1, 0, 2),
        ("clip(x, -1, 1)", -0.9, 0.9, 2), ("clip(x, -1, 1)", 0, 2, 1),
        ("sign(x)", -1, 1, 0), ("sign(x)", 0.1, 1, 2), ("mod(x, 2)", 0.5, 1.5, 2), ("mod(x, 2)", 1.5, 2.5, 0),
        ("where(x > 0, x, -x)", -1, 1, 0), ("where(x > 0, abs(x - 1), 3)", 0.5, 1.5, 1), ("sin(x)**2 + abs(x)*x", -1, 1, 1),
        ("atan2(x, -1)", -1, 1, 0), ("atan2(x, 1)", -1, 1, 2),
    ],
)  # fmt: skip
def test_order_tells_kinks_and_jumps(text, low, high, order):
    (found,) = compiled(text, "interval")(Interval(np.array([low], float), np.array([high], float)), np.array([0.0]))
    assert int(np.broadcast_to(found.order, (1,))[0]) == order


@given(st.floats(-20, 20), st.floats(0, 15))
def test_waves_and_powers_are_sharp(centre, radius):
    x = Interval(np.array([centre - radius]), np.array([centre + radius]))
    points = np.linspace(centre - radius, centre + radius, 20001)
    step = 2 * radius / 20000
    for function in (intervals.sin, intervals.cos, lambda z: intervals.power(z, 4), intervals.cosh, intervals.abs):
        found, values = function(x), function(points)
        scale = np.abs(values).max() + 1.0
        steepest = 10 * scale * step
        assert abs(found.lower[0] - values.min()) <= steepest + 1e-9 * scale
        assert abs(found.upper[0] - values.max()) <= steepest + 1e-9 * scale


def test_half_lines():
    x = Interval(np.array([2.0]), np.array([np.inf]))
    for text, lower in (("x**2", 4.0), ("x*(x - 1)", 2.0), ("exp(x)", np.exp(2.0)), ("0*x + 3", 3.0), ("1/x", 0.0)):
        (found,) = compiled(text, "interval")(x, np.array([0.0]))
        assert intervals.interval(found, (1,)).lower[0] == pytest.approx(lower)
    # terms of both signs that grow: nothing is known
    (found,) = compiled("x**3 - x**2", "interval")(x, np.array([0.0]))
    assert found.lower[0] == -np.inf


CASE = """
[states.x]
next = "0.5*x + sin(a)*clip(b, -1, 1) + 0.1*x*a**2"
noise = "0.5"
domain = [-3, 3]
[actions.a]
bounds = [-2, 2]
[actions.b]
bounds = [-2, 2]
[cost]
stage = "x**2 + a**2*b + exp(0.3*a*b) + max(a, x)"
[grid]
points = { x = 21 }
"""


def test_action_ranges_hold_the_tables():
    problem = Case.from_text(CASE).problem
    rng = np.random.default_rng(1)
    states = rng.uniform(-3, 3, (200, 1))
    low = rng.uniform(-2, 2, (200, 2))
    high = np.minimum(low + rng.choice([1e-3, 0.5, 2.0], (200, 2)), 2.0)
    ranges = problem.action_ranges(states, low, high)
    actions = low[:, None] + (high - low)[:, None] * rng.random((200, 50, 2))
    tables = problem.action_tables(states, actions, 2)
    pairs = zip(
        (*ranges.mean, *ranges.cost),
        (tables.mean, tables.mean_gradient, tables.mean_hessian, tables.cost, tables.cost_gradient, tables.cost_hessian),
        strict=True,
    )
    for found, values in pairs:
        assert np.all(values >= found[0][:, None] - 1e-12)
        assert np.all(values <= found[1][:, None] + 1e-12)
    kinked = (low[:, 0] < states[:, 0]) & (high[:, 0] > states[:, 0]) | (low[:, 1] < 1) & (high[:, 1] > 1)
    kinked |= (low[:, 1] < -1) & (high[:, 1] > -1)
    assert kinked.any()
    assert not kinked.all()
    np.testing.assert_array_equal(ranges.smoothness, np.where(kinked, 1, 2))


@pytest.mark.parametrize("exponent", [-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0])
def test_powers_of_arrays_of_exponents_hold_every_value(exponent):
    """`a**s` with s a state: an even power is not monotone, an odd one is, and others are not defined below zero."""
    for low, high in ((-1.0, 2.0), (-2.0, -1.0), (-1.0, 0.0), (0.0, 2.0), (0.5, 2.0)):
        with np.errstate(all="ignore"):
            found = Interval(np.array([low]), np.array([high])) ** np.array([exponent])
            values = np.power(np.linspace(low, high, 301), exponent)
        defined = values[np.isfinite(values)]
        assert found.lower[0] <= defined.min(initial=np.inf) + 1e-12
        assert found.upper[0] >= defined.max(initial=-np.inf) - 1e-12
        if not np.isfinite(values).all():
            assert not (np.isfinite(found.lower[0]) and np.isfinite(found.upper[0]))


def test_the_remainder_counts_whole_turns_exactly():
    """49 (1/49) < 1 in floating point."""
    for turns in range(1, 60):
        found = intervals.mod(Interval(np.array([49.0 * turns]), np.array([49.0 * turns + 1.0])), 49.0)
        assert found.lower[0] == 0.0
        assert found.upper[0] == 1.0


def test_the_remainder_of_a_range_counts_whole_turns_exactly():
    """x/x = 1, but x (1/x) < 1 for many x in floating point."""
    x = 1.0 + np.random.default_rng(3).integers(0, 1 << 40, 1000) / 2.0**38
    for turns in (1.0, 3.0, -2.0):
        found = intervals.mod(Interval(turns * x, turns * x), Interval(x, x))
        assert (found.lower == 0.0).all()
        assert (found.upper == 0.0).all()


def test_a_range_with_an_end_that_is_no_number_is_all_numbers():
    far = np.array([np.inf, 0.0])
    with np.errstate(invalid="ignore"):  # as where expressions are evaluated
        found = intervals.interval(intervals.tan(Interval(far, far)), (2,))
    np.testing.assert_array_equal([found.lower, found.upper], [[-np.inf, 0.0], [np.inf, 0.0]])
    point = intervals.interval(np.array([np.nan, 1.0]), (2,))
    np.testing.assert_array_equal([point.lower, point.upper], [[-np.inf, 1.0], [np.inf, 1.0]])
