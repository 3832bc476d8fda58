"""Bounds of the matched kernel's weights as functions of the distance from the mean: tables for every axis that has it.

Away from the ends the weight of a node is one function of its distance from the mean, in cells, for every ratio r of noise to
spacing, and so are its derivatives in the mean. A table holds the largest value of each on short pieces of that distance.

Letters as in `matched`: node e, mean d, odds x and y, p_e = x^T(e) y^T(-e). All is interval arithmetic, on short boxes of d:

1. x and y by Krawczyk's test (Krawczyk 1969; Moore, Kearfott and Cloud, Introduction to Interval Analysis, 2009, section 8.2):
   where K(X) = c - Y F(c) + (1 - Y F'(X)) (X - c) lies in X, a root does, for every d of the piece, and it lies in K(X).
2. Their Taylor coefficients in d, one order after the other: the k-th coefficients of the two conditions are linear in those of x
   and y. 3. Those of the weights p_e/sum p.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wassgrid.problem.intervals import Interval
from wassgrid.transition.axis_kernels import MATCHED
from wassgrid.transition.axis_kernels.facts import TAIL
from wassgrid.transition.axis_kernels.matched import WIDE, blend_width, odds, second_moment
from wassgrid.transition.compiled import driver

if TYPE_CHECKING:
    from wassgrid.transition.model import TransitionModel

PIECES = 16  # of half a cell: those of the table
_PARTS = 8  # of a piece, one box each
_RATIO = 1.01  # of the noises that share a table, where the noise is not the same everywhere
_LEAST = 0.02  # noise/spacing below which nothing is bounded
_TABLES_AT_ONCE = 32
_TRIALS = 12
_ORDER = 6  # of the expansions about the middle of a box

Series = list[Interval]  # Taylor coefficients
Pair = tuple[Interval, Interval]
Matrix = tuple[Pair, Pair]


class Profiles(NamedTuple):
    """Bounds of weights as compiled functions take them.

    | name   | shape                  | meaning                                                                            |
    |--------|------------------------|------------------------------------------------------------------------------------|
    | first  | (d,)                   | first table of an axis                                                             |
    | number | (d,)                   | number of its tables, 0: it needs none                                             |
    | least  | (d,)                   | noise/spacing at which its first table begins                                      |
    | growth | (d,)                   | logarithm of the ratio from one table to the next, 0 where there is one            |
    | bound  | (tables, 4, distances) | of |w|, |w_1|, |w_2|, |w_3|, in cells, on 2 PIECES distances per cell              |
    """

    first: np.ndarray
    number: np.ndarray
    least: np.ndarray
    growth: np.ndarray
    bound: np.ndarray

    @classmethod
    def of(cls, model: TransitionModel) -> Profiles:
        """Tabulate what boxes of actions need: the axes that they move."""
        moved = model.problem.dependence.actions
        return cls.build(
            [
                model.noise[:, j] / model.grid.spacing[j] if kernel.code == MATCHED and moved[j] else None
                for j, kernel in enumerate(model.axis_kernels)
            ]
        )

    @classmethod
    def build(cls, ratios: list[np.ndarray | None]) -> Profiles:
        """Tabulate what the axes need: noise/spacing (cells,) of those with the matched kernel, None for the others."""
        first, number = np.zeros(len(ratios), np.int64), np.zeros(len(ratios), np.int64)
        least, growth = np.ones(len(ratios)), np.zeros(len(ratios))
        tables = [np.zeros((0, 4, 1))]
        for j, ratio in enumerate(ratios):
            if ratio is None or not np.any(here := (ratio > _LEAST) & (ratio < WIDE)):
                continue
            low, high = float(ratio[here].min()), float(ratio[here].max())
            ends = np.array([low, high])
            if high > low * (1.0 + 1e-9):
                # powers of one number, 1/2 among them: tables do not cross it, where the law changes its kind
                growth[j] = math.log(_RATIO)
                powers = np.arange(math.floor(math.log(2.0 * low) / growth[j]), math.ceil(math.log(2.0 * high) / growth[j]) + 1)
                ends = 0.5 * np.exp(growth[j] * powers)
            first[j], number[j], least[j] = sum(map(len, tables)), ends.size - 1, ends[0]
            # a ratio on an end, or near it to rounding, may be taken from either side
            wider = 0.0 if growth[j] == 0.0 else 1e-13
            tables.append(_tables(tuple(ends[:-1] * (1.0 - wider)), tuple(np.minimum(ends[1:] * (1.0 + wider), WIDE))))
        longest = max(table.shape[2] for table in tables)
        bound = np.concatenate([np.pad(table, [(0, 0), (0, 0), (0, longest - table.shape[2])]) for table in tables])
        return cls(first, number, least, growth, bound if len(bound) else np.zeros((1, 4, 1)))


@lru_cache(maxsize=32)
def _tables(low: tuple[float, ...], high: tuple[float, ...]) -> np.ndarray:
    return profile_bounds(np.array(low), np.array(high))


@driver
def _points(low, high, middle, ratio, side, x, y):  # type: ignore[no-untyped-def]
    for k in range(low, high):
        second, _, _ = second_moment(middle[k], ratio[k])
        x[k], y[k] = odds(middle[k], second, ratio[k], side)


def profile_bounds(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return bounds (tables, 4, distances) for noises between low and high (tables,) cells, below WIDE.

    Infinite where none was found. Where the law has all its derivatives, those of the middle of a box and of the box together,
    |w_p| <= sum_(p <= k < n) |w_k(middle)| s^(k - p)/(k - p)! + sup |w_n| s^(n - p)/(n - p)!, s half its width, are sharper than
    those of the box alone.
    """
    side = math.ceil(TAIL * float(high.max())) + 1
    result = np.zeros((low.size, 4, 2 * PIECES * side + PIECES))
    for start in range(0, low.size, _TABLES_AT_ONCE):
        rows = slice(start, start + _TABLES_AT_ONCE)
        with np.errstate(all="ignore"):
            result[rows] = _bounds(low[rows], high[rows], side)
    return result


def _bounds(low: np.ndarray, high: np.ndarray, side: int) -> np.ndarray:
    parts = PIECES * _PARTS
    edges, half, pieces = np.linspace(0.0, 0.5, parts + 1), 0.25 / parts, np.arange(PIECES)
    start = np.tile(edges[:-1], low.size)
    d, middle = Interval(start, np.tile(edges[1:], low.size)), Interval(start + half, start + half)
    r = Interval(np.repeat(low, parts), np.repeat(high, parts))
    box, known = _weights(d, r, side, 3)
    smooth = _analytic(d, r)
    far, known_far = _weights(d, r, side, _ORDER) if smooth.any() else (box, known)
    near, known_near = _weights(middle, r, side, _ORDER - 1) if smooth.any() else (box, known)
    expanded = smooth & known_far & known_near
    result = np.zeros((low.size, 4, 2 * PIECES * side + PIECES))
    for e in range(-side, side + 1):
        at = 2 * PIECES * e - pieces - 1 if e > 0 else -2 * PIECES * e + pieces
        for p in range(4):
            size = np.where(known, _size(box[e + side][p]), np.inf)
            if smooth.any():
                series = [*map(_size, near[e + side]), _size(far[e + side][_ORDER])]
                taylor = sum(math.comb(q, p) * series[q] * half ** (q - p) for q in range(p, _ORDER + 1))
                size = np.where(expanded, np.minimum(size, taylor), size)
            size = np.where(np.isfinite(size), math.factorial(p) * size, np.inf)
            result[:, p, at] = size.reshape(low.size, PIECES, _PARTS).max(axis=2)
    result[:, 0] = np.minimum(result[:, 0], 1.0)
    return result


def _size(x: Interval) -> np.ndarray:
    return np.maximum(np.abs(x.lower), np.abs(x.upper))


def _weights(d: Interval, r: Interval, side: int, order: int) -> tuple[list[Series], np.ndarray]:
    """Enclose the Taylor coefficients of w_e, e = -side, ..., side, on boxes of d and r; and tell where that was possible."""
    second = _second_moment(d, r, order)
    (x, y), known = _root(d, r, second[0], side)
    nothing = 0.0 * x
    inverse, jacobian = _preconditioned(d, second[0], (x, y), side)
    determinant = jacobian[0][0] * jacobian[1][1] - jacobian[0][1] * jacobian[1][0]
    known = known & (determinant.lower > 0.0)
    xs, ys = [x], [y]
    for k in range(1, order + 1):
        rest0 = rest1 = nothing
        for e, p in _terms([*xs, nothing], [*ys, nothing], side):
            rest0 += p[k] * (e - d) - p[k - 1]
            rest1 += p[k] * (e * e - second[0])
            for q in range(1, k + 1):
                rest1 -= p[k - q] * second[q]
        right = _multiply(inverse, (-rest0, -rest1))
        xs.append((right[0] * jacobian[1][1] - right[1] * jacobian[0][1]) / determinant)
        ys.append((right[1] * jacobian[0][0] - right[0] * jacobian[1][0]) / determinant)
    terms = _terms(xs, ys, side)
    total = [sum((p[k] for _, p in terms), start=nothing) for k in range(order + 1)]
    return [_quotient(p, total) for _, p in terms], known


def _root(d: Interval, r: Interval, second: Interval, side: int) -> tuple[Pair, np.ndarray]:
    """Enclose x and y for every d and r of the boxes by Krawczyk's test; and tell where that was possible."""
    middle, ratio = 0.5 * (d.lower + d.upper), 0.5 * (r.lower + r.upper)
    x, y = np.empty(middle.size), np.empty(middle.size)
    _points(0, middle.size, middle, ratio, side, x, y)
    centre = Interval(x, x), Interval(y, y)
    inverse, _ = _preconditioned(d, second, centre, side)
    terms = _terms([centre[0]], [centre[1]], side)
    total, first, squares = (sum((p[0] * float(e**n) for e, p in terms), start=0.0 * d) for n in range(3))
    step = _multiply(inverse, (first - d * total, squares - second * total))
    # distances from the centre
    radius = [3.0 * _size(n) + 1e-15 for n in step]
    root, known = [0.0 * d, 0.0 * d], np.zeros(x.size, bool)
    for _ in range(_TRIALS):
        away = [Interval(-size, size) for size in radius]
        box = Interval(x - radius[0], x + radius[0]), Interval(y - radius[1], y + radius[1])
        a = _product(inverse, _jacobian(d, second, box, side))
        moved = [
            (1.0 - a[0][0]) * away[0] - a[0][1] * away[1] - step[0],
            (1.0 - a[1][1]) * away[1] - a[1][0] * away[0] - step[1],
        ]
        inside = (_size(moved[0]) < radius[0]) & (_size(moved[1]) < radius[1])
        new = inside & ~known
        root = [
            Interval(np.where(new, n.lower, q.lower), np.where(new, n.upper, q.upper)) for n, q in zip(moved, root, strict=True)
        ]
        known |= inside
        if known.all():
            break
        wider = [1.5 * _size(n) + 1e-15 for n in moved]
        radius = [np.where(known | ~np.isfinite(new), old, new) for old, new in zip(radius, wider, strict=True)]
    # neither is negative
    return (_not_negative(root[0] + x), _not_negative(root[1] + y)), known


def _not_negative(x: Interval) -> Interval:
    return Interval(np.maximum(x.lower, 0.0), np.maximum(x.upper, 0.0))


def _preconditioned(d: Interval, second: Interval, at: Pair, side: int) -> tuple[Matrix, Matrix]:
    """Return a point matrix near the inverse of the Jacobian of the conditions, and its product with the Jacobian."""
    jacobian = _jacobian(d, second, at, side)
    (a, b), (c, e) = ([0.5 * (n.lower + n.upper) for n in row] for row in jacobian)
    determinant = a * e - b * c
    a, b, c, e = (Interval(n / determinant, n / determinant) for n in (a, b, c, e))
    inverse = (e, -b), (-c, a)
    return inverse, _product(inverse, jacobian)


def _jacobian(d: Interval, second: Interval, at: Pair, side: int) -> Matrix:
    """Enclose the derivatives of sum p (e - d) and sum p (e^2 - E e^2) in x and y."""
    x, y = at
    in_x0 = in_x1 = in_y0 = in_y1 = 0.0 * d
    for e in range(-side, side + 1):
        a, b = e * (e + 1) // 2, e * (e - 1) // 2
        if a:
            slope = float(a) * x ** (a - 1) * y**b
            in_x0 += slope * (e - d)
            in_x1 += slope * (e * e - second)
        if b:
            slope = float(b) * x**a * y ** (b - 1)
            in_y0 += slope * (e - d)
            in_y1 += slope * (e * e - second)
    return (in_x0, in_y0), (in_x1, in_y1)


def _multiply(m: Matrix, v: Pair) -> Pair:
    return m[0][0] * v[0] + m[0][1] * v[1], m[1][0] * v[0] + m[1][1] * v[1]


def _product(m: Matrix, n: Matrix) -> Matrix:
    (a, b), (c, d) = (_multiply(m, (n[0][k], n[1][k])) for k in (0, 1))
    return (a, c), (b, d)


def _terms(x: Series, y: Series, side: int) -> list[tuple[int, Series]]:
    """Return e and the Taylor coefficients of p_e, p_0 = 1, for e = -side, ..., side."""
    one = [1.0 + 0.0 * x[0], *[0.0 * x[0]] * (len(x) - 1)]
    z = _times(x, y)
    sides: list[list[tuple[int, Series]]] = []
    for way, own in ((-1, y), (1, x)):
        p, ratio, found = one, own, []
        for k in range(1, side + 1):
            p, ratio = _times(p, ratio), _times(ratio, z)
            found.append((way * k, p))
        sides.append(found)
    return [*sides[0][::-1], (0, one), *sides[1]]


def _times(a: Series, b: Series) -> Series:
    return [sum((a[q] * b[k - q] for q in range(1, k + 1)), start=a[0] * b[k]) for k in range(len(a))]


def _quotient(p: Series, total: Series) -> Series:
    """Return w with w total = p."""
    w: Series = []
    for k in range(len(p)):
        rest = p[k]
        for q in range(1, k + 1):
            rest -= w[k - q] * total[q]
        w.append(rest / total[0])
    return w


def _analytic(d: Interval, r: Interval) -> np.ndarray:
    """Tell for which boxes the variance is the noise's own."""
    return np.asarray(_gap(d, r).lower >= _blend_widths(r).upper)


def _gap(d: Interval, r: Interval) -> Interval:
    """Enclose u = r^2 - d (1 - d): it falls with d."""
    return Interval(r.lower**2 - d.upper * (1.0 - d.upper), r.upper**2 - d.lower * (1.0 - d.lower))


def _blend_widths(r: Interval) -> Interval:
    low, high = (np.array([blend_width(x) for x in end]) for end in (r.lower, r.upper))
    # it rises up to r^2 = 1/8, and falls then
    peak = np.where((r.lower**2 < 0.125) & (r.upper**2 > 0.125), 0.0625, 0.0)
    return Interval(np.minimum(low, high), np.maximum(np.maximum(low, high), peak))


def _second_moment(d: Interval, r: Interval, order: int) -> Series:
    """Enclose the Taylor coefficients in d of E e^2 (see `matched.second_moment`); above the third where it is analytic."""
    u, b, slope = _gap(d, r), _blend_widths(r), 2.0 * d - 1.0
    none, one = 0.0 * d, 1.0 + 0.0 * d
    exact, two = [d + u, 2.0 * d, one, none], [d, one, none, none]
    with np.errstate(divide="ignore", invalid="ignore"):
        # within the passage, v is between 0 and 1
        v = 0.5 * (u / b) + 0.5
        v = Interval(*(np.clip(np.nan_to_num(end, nan=nan), 0.0, 1.0) for end, nan in ((v.lower, 0.0), (v.upper, 1.0))))
        g0 = 2.0 * b * Interval(v.lower**3 * (1.0 - 0.5 * v.lower), v.upper**3 * (1.0 - 0.5 * v.upper))
        g1 = Interval(v.lower**2 * (3.0 - 2.0 * v.lower), v.upper**2 * (3.0 - 2.0 * v.upper))
        g2, g3 = 3.0 * v * (1.0 - v) / b, 1.5 * (1.0 - 2.0 * v) / (b * b)
        passing = [
            d + g0, 1.0 + g1 * slope, 0.5 * (g2 * slope * slope) + g1, (g3 * slope * slope * slope) * (1 / 6) + g2 * slope,
        ]  # fmt: skip
    before, after = u.lower >= b.upper, u.upper <= -b.upper
    result = []
    for q, law, other in zip(passing, exact, two, strict=True):
        if law is exact[0]:
            # E e^2 - d is between 0 and u
            law = Interval(law.lower, np.maximum(law.upper, d.upper))
        lower, upper = q.lower, q.upper
        for some, whole, part in ((u.upper >= b.lower, before, law), (u.lower <= -b.lower, after, other)):
            lower = np.where(whole, part.lower, np.where(some, np.minimum(lower, part.lower), lower))
            upper = np.where(whole, part.upper, np.where(some, np.maximum(upper, part.upper), upper))
        result.append(Interval(lower, upper))
    return [*result, *[none] * (order - 3)][: order + 1]

