"""Sums and products of ranges against exact fractions, at random ends and at those where rounding and infinity bite."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from wassgrid.certificate.continuous import outward
from wassgrid.problem.intervals import Interval

EDGES = np.array(
    [0.0, -0.0, 1.0, -1.0, 0.1, -0.1, 1e-310, -1e-310, 5e-324, 1e300, -1e300, 1.7e308, -1.7e308, 1 + 2.0**-52, np.inf, -np.inf]
)


def ranges(seed: int, count: int) -> Interval:
    rng = np.random.default_rng(seed)
    ends = rng.normal(size=(2, count)) * 10.0 ** rng.uniform(-12, 12, size=(2, count))
    edge = rng.random((2, count)) < 0.5
    ends[edge] = rng.choice(EDGES, np.count_nonzero(edge))
    # an end at infinity is never the nearer one: infinity is not in the range
    low, high = ends.min(axis=0), ends.max(axis=0)
    low[low == np.inf], high[high == -np.inf] = 0.0, 0.0
    return Interval(np.minimum(low, high), np.maximum(low, high))


def points_of(low: float, high: float) -> list[Fraction]:
    """Return the ends as exact numbers; a large one in place of infinity, and 0 where it is inside."""
    ends = [Fraction(1.7e308) * 10**9 * (1 if end > 0 else -1) if np.isinf(end) else Fraction(float(end)) for end in (low, high)]
    return ends + [Fraction(0)] * int(low <= 0 <= high)


def check(result, exact, parts) -> None:
    """`exact` of all points of the parts lies in the result; where all is finite the result is hardly wider."""
    for k in range(len(result.lower)):
        values = [exact(*point) for point in product(*(points_of(x.lower[k], x.upper[k]) for x in parts))]
        low, high = float(result.lower[k]), float(result.upper[k])
        assert not np.isnan(low) and not np.isnan(high)
        assert low == -np.inf or (low < np.inf and Fraction(low) <= min(values)), (k, low, parts)
        assert high == np.inf or (high > -np.inf and Fraction(high) >= max(values)), (k, high, parts)
        if all(np.isfinite(end[k]) for x in parts for end in (x.lower, x.upper)) and abs(low) < 1e307 and abs(high) < 1e307:
            for end, value in ((low, min(values)), (high, max(values))):
                assert abs(Fraction(end) - value) <= abs(value) * Fraction(2) ** -48 + Fraction(2e-300)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(4))
def test_sums_and_products_hold_all_values_and_little_more(seed):
    x, y = ranges(seed, 1500), ranges(seed + 100, 1500)
    check(outward.add(x, y), lambda p, q: p + q, (x, y))
    check(outward.times(x, y), lambda p, q: p * q, (x, y))
    check(outward.square(x), lambda p: p * p, (x,))
    check(outward.rounded(x), lambda p: p, (x,))
    for number in (0.3, -2.0, 1e300, 5e-324):
        check(outward.add(number, x), lambda p, n=number: Fraction(n) + p, (x,))
        check(outward.times(x, number), lambda p, n=number: Fraction(n) * p, (x,))


def test_numbers_and_arrays_of_one_entry_go_with_all():
    x = ranges(7, 50)
    one = Interval(np.array(0.5), np.array(0.75))
    check(outward.times(one, x), lambda p, q: p * q, (Interval(np.full(50, 0.5), np.full(50, 0.75)), x))
    assert outward.add(0.0, x) is x and outward.times(1.0, x) is x and outward.times(x, 0) == 0.0
    read_only = Interval(np.broadcast_to(0.5, 50), np.broadcast_to(0.75, 50))
    check(outward.add(read_only, x), lambda p, q: p + q, (read_only, x))


def test_what_is_not_a_number_opens_the_range():
    nan, good = Interval(np.array([np.nan, 1.0]), np.array([2.0, np.nan])), Interval(np.array([1.0, 1.0]), np.array([2.0, 2.0]))
    for result in (
        outward.rounded(nan), outward.add(nan, good), outward.add(1.0, nan), outward.times(nan, good), outward.times(2.0, nan),
        outward.square(nan),
    ):  # fmt: skip
        assert np.all(result.lower == -np.inf) and np.all(result.upper == np.inf)
