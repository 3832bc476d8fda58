"""C2 cubic splines of one or two variables on uniform knots, and what they are at most over boxes.

u(y) = sum_ij c_ij B(y_1/h_1 - i) B(y_2/h_2 - j) with the cardinal cubic B-spline B. A derivative is a spline of lower degree
whose
coefficients are differences of c; B-splines are positive and sum to one, so that on a cell every derivative lies between the
least
and the largest of the few coefficients that reach it.  Source: de Boor, A Practical Guide to Splines (1978), chapters X and XI.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import splu

from wassgrid.problem.intervals import Interval
from wassgrid.transition.compiled import allocating_nothing, driver
from wassgrid.transition.threads import spread

Array = np.ndarray
# value and derivatives of one cell by the orders in both variables
ORDERS = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
_NEAR = 8  # cells of a box that are looked at one by one; beyond, blocks of 4, 16, ...
_DENSE = 600  # knots up to which the inverse of the interpolation is formed
_ROUNDING = 64 * 2.0**-53  # of a value and of the ends of ranges, relative to the sizes of what is added


@dataclass(frozen=True)
class Knots:
    """The knots low + h k, k = 0 ... cells, of one variable; a periodic spline has the period h cells.

    cells = 0: a variable that the spline does not have.
    """

    low: float
    spacing: float
    cells: int
    periodic: bool

    @property
    def count(self) -> int:
        """Number of values that determine the spline along this variable."""
        return self.cells if self.periodic else self.cells + 1

    @property
    def positions(self) -> Array:
        return self.low + self.spacing * np.arange(self.count)

    def basis(self, y: Array, second: bool = False) -> csr_array:
        """Return the matrix (K, coefficients) that gives the values, or the second derivatives, at K points of one variable."""
        k, chosen = self.reached(np.asarray(y, dtype=float), second)
        columns = k[:, None] + np.arange(4)
        pointers = np.arange(0, 4 * k.size + 1, 4)
        return csr_array((chosen.ravel(), columns.ravel(), pointers), shape=(k.size, self.cells + 3))

    def reached(self, y: Array, second: bool = False) -> tuple[Array, Array]:
        """Return the first of the four coefficients that count at points (...) of one variable, and their weights (..., 4)."""
        place = (y - self.low) / self.spacing
        if self.periodic:
            place = place - np.floor(place / self.cells) * self.cells
        k = np.clip(np.floor(place).astype(np.int64), 0, self.cells - 1)
        weights = np.empty((3, 4, *k.shape))
        _basis(place - k, weights)
        chosen = weights[2] / self.spacing**2 if second else weights[0]
        return k, np.ascontiguousarray(np.moveaxis(chosen, 0, -1))


NONE = Knots(0.0, 1.0, 0, False)


@dataclass(frozen=True)
class Spline:
    """Hold a spline: knots of two variables (the second may be NONE), coefficients (cells_1 + 3, cells_2 + 3 or 1)."""

    knots: tuple[Knots, Knots]
    coefficients: Array

    @classmethod
    def through(cls, knots: tuple[Knots, Knots], values: Array) -> Spline:
        """Interpolate values (count_1, count_2); at ends that are not periodic the third derivative is continuous (not a
        knot)."""
        along = values
        for axis in (0, 1):
            along = np.moveaxis(_coefficients(knots[axis], np.moveaxis(along, axis, 0)), 0, axis)
        return cls(knots, np.ascontiguousarray(along))

    @cached_property
    def rounding(self) -> float:
        """Bound of the rounding of one computed value: of the sums, and of the place (y - low)/h, a few units of its size."""
        places = 0.0
        for axis, knots in enumerate(self.knots):
            if knots.cells:
                steps = np.max(np.abs(np.diff(self.coefficients, axis=axis)))
                places += (2 * knots.cells + 2 * abs(knots.low) / knots.spacing) * float(steps)
        return _ROUNDING * float(np.max(np.abs(self.coefficients))) + 8 * 2.0**-53 * places

    def at(self, first: Array, second: Array) -> Array:
        """Return value and derivatives in `ORDERS`, (6, K), at K points; those beyond the ends take the last polynomial."""
        points = [np.ascontiguousarray(np.ravel(x), dtype=float) for x in np.broadcast_arrays(first, second)]
        result = np.empty((points[0].size, 6))
        spread(_evaluate, points[0].size, 200.0 * points[0].size, self.coefficients, *self._packed, *points, result)
        return result.T

    def weights(self, first: Array, second: Array) -> csr_array:
        """Return the matrix (K, coefficients) that gives the values at K points."""
        points = [np.ascontiguousarray(np.ravel(x), dtype=float) for x in np.broadcast_arrays(first, second)]
        count, width = points[0].size, 4 if self.knots[1].cells == 0 else 16
        columns, values = np.empty((count, width), dtype=np.int32), np.empty((count, width))
        spread(_weights, count, 100.0 * count, self.coefficients.shape[1], *self._packed, *points, columns, values)
        pointers = np.arange(0, count * width + 1, width, dtype=np.int32)
        return csr_array((values.ravel(), columns.ravel(), pointers), shape=(count, self.coefficients.size))

    def ranges(self, first: Interval, second: Interval) -> list[Interval]:
        """Return the ranges of value and derivatives in `ORDERS` over K boxes within the ends, rounded outward.

        Those of the coefficients that reach a box, and those of the Taylor polynomials about its middle with the third
        derivatives of the cells that it meets: the narrower of both.
        """
        ends = np.broadcast_arrays(first.lower, first.upper, second.lower, second.upper)
        boxes = [np.ascontiguousarray(np.ravel(x), dtype=float) for x in ends]
        result = np.empty((boxes[0].size, 12))
        levels, offsets, shapes = self._pyramid
        one, two = (4.0 / knots.spacing for knots in self.knots)
        slack = np.array([self.rounding * one**a * two**b for a, b in ORDERS])
        work = 600.0 * len(result)
        spread(_ranges, len(result), work, levels, offsets, shapes, self.coefficients, slack, *self._packed, *boxes, result)
        shape = ends[0].shape
        return [Interval(result[:, k].reshape(shape), result[:, 6 + k].reshape(shape)) for k in range(6)]

    def cell_ranges(self) -> Array:
        """Return the ranges over the cells, (cells_1, cells_2 or 1, 16): lower ends in `ORDERS`, upper ends, the largest sizes of
        the third derivatives u_111, u_112, u_122, u_222."""
        ends = [self._over_cells(a, b) for a, b in ORDERS]
        thirds = [np.maximum(-low, high) for low, high in (self._over_cells(3 - k, k) for k in range(4))]
        return np.stack([low for low, _ in ends] + [high for _, high in ends] + thirds, axis=-1)

    def _over_cells(self, a: int, b: int) -> tuple[Array, Array]:
        """Bound the derivative of orders a and b on every cell, from below and above."""
        table, size = self.coefficients, float(np.max(np.abs(self.coefficients)))
        for axis, order in ((0, a), (1, b)):
            if self.knots[axis].cells == 0:
                table = table if order == 0 else np.zeros_like(table)
            else:
                table = np.diff(table, n=order, axis=axis) / self.knots[axis].spacing**order
                size *= 2.0**order / self.knots[axis].spacing**order
        least = most = table
        for axis, order in ((0, a), (1, b)):
            if self.knots[axis].cells:
                reached = [range(s, s + self.knots[axis].cells) for s in range(4 - order)]
                least = np.min([np.take(least, cells, axis=axis) for cells in reached], axis=0)
                most = np.max([np.take(most, cells, axis=axis) for cells in reached], axis=0)
        return least - _ROUNDING * size, most + _ROUNDING * size

    def mixed_fourth(self) -> Array:
        """Bound |u_1122| on the cells, (cells_1, cells_2 or 1): 0 for one variable."""
        one, two = self.knots
        if two.cells == 0:
            return np.zeros((one.cells, 1))
        scale = (one.spacing * two.spacing) ** 2
        table = np.abs(np.diff(np.diff(self.coefficients, n=2, axis=0), n=2, axis=1)) / scale
        table = np.maximum(table[:-1], table[1:])
        return np.maximum(table[:, :-1], table[:, 1:]) + 16 * self.rounding / scale

    @cached_property
    def _packed(self) -> tuple[Any, ...]:
        one, two = self.knots
        return (one.low, one.spacing, one.cells, one.periodic, two.low, two.spacing, two.cells, two.periodic)

    @cached_property
    def _pyramid(self) -> tuple[Array, Array, Array]:
        """Cell ranges, periodic variables twice, and those of blocks of 4, 16, ... cells: flat, with offset and shape of a
        level."""
        table = self.cell_ranges()
        for axis in (0, 1):
            if self.knots[axis].periodic:
                table = np.concatenate([table, table], axis=axis)
        tables = [table]
        while max(tables[-1].shape[:2]) > 1:
            last = tables[-1]
            for axis in (0, 1):
                rest = -last.shape[axis] % 4
                if rest:
                    last = np.concatenate([last, np.repeat(np.take(last, [-1], axis=axis), rest, axis=axis)], axis=axis)
                split = (*last.shape[:axis], last.shape[axis] // 4, 4, *last.shape[axis + 1 :])
                blocks = last.reshape(split)
                last = np.concatenate([blocks[..., :6].min(axis=axis + 1), blocks[..., 6:].max(axis=axis + 1)], axis=-1)
            tables.append(last)
        offsets = np.cumsum([0, *(t.shape[0] * t.shape[1] for t in tables)])[:-1]
        return (
            np.concatenate([t.reshape(-1, 16) for t in tables]),
            offsets.astype(np.int64),
            np.array([t.shape[:2] for t in tables], dtype=np.int64),
        )


@lru_cache(maxsize=16)
def _interpolation(knots: Knots) -> Callable[[Array], Array]:
    """Return the solver of (c_{k-1} + 4 c_k + c_{k+1})/6 = right_k, with an end row on either side unless periodic."""
    n = knots.cells
    if knots.periodic:
        matrix = diags_array([np.full(n, w / 6.0) for w in (1.0, 4.0, 1.0)], offsets=(-1, 0, 1), shape=(n, n), format="lil")
        matrix[0, n - 1] += 1.0 / 6.0
        matrix[n - 1, 0] += 1.0 / 6.0
    else:
        bands = [np.full(n + 3, w / 6.0) for w in (1.0, 4.0, 1.0)]
        matrix = diags_array(bands, offsets=(-1, 0, 1), shape=(n + 3, n + 3), format="lil")
        for row, start in ((0, 0), (n + 2, n - 2)):
            matrix[row, :] = 0.0
            for shift, weight in enumerate((1.0, -4.0, 6.0, -4.0, 1.0)):
                matrix[row, start + shift] = weight
    if n > _DENSE:
        return splu(matrix.tocsc()).solve
    return np.linalg.inv(matrix.toarray()).__matmul__


def _coefficients(knots: Knots, values: Array) -> Array:
    """Interpolate values (count, .) along axis 0; at ends that are not periodic the third derivative is continuous."""
    n = knots.cells
    if n == 0:
        return values
    table = values.reshape(len(values), -1)
    if knots.periodic:
        c = _interpolation(knots)(table)[np.arange(-1, n + 2) % n]
    else:
        c = _interpolation(knots)(np.pad(table, ((1, 1), (0, 0))))
    return c.reshape(-1, *values.shape[1:])


@allocating_nothing
def _basis(t, w):
    """Values, slopes and bends (3, 4) of the B-splines that reach a cell, at t in [0, 1] of it."""
    s = 1.0 - t
    w[0, 0], w[0, 3] = s * s * s / 6.0, t * t * t / 6.0
    w[0, 1] = (4.0 - 3.0 * t * t * (1.0 + s)) / 6.0
    w[0, 2] = (4.0 - 3.0 * s * s * (1.0 + t)) / 6.0
    w[1, 0], w[1, 3] = -0.5 * s * s, 0.5 * t * t
    w[1, 1], w[1, 2] = 0.5 * t * (3.0 * t - 4.0), 0.5 * s * (4.0 - 3.0 * s)
    w[2, 0], w[2, 1], w[2, 2], w[2, 3] = s, 3.0 * t - 2.0, 1.0 - 3.0 * t, t


@allocating_nothing
def _cell(y, low, h, n, periodic):
    place = (y - low) / h
    if periodic:
        place -= np.floor(place / n) * n
    k = min(max(int(np.floor(place)), 0), n - 1)
    return k, place - k


@allocating_nothing
def _point(y1, y2, c, low1, h1, n1, periodic1, low2, h2, n2, periodic2, w, v, point):
    """Value and derivatives in `ORDERS` at (y1, y2); w and v are work space."""
    i, t = _cell(y1, low1, h1, n1, periodic1)
    _basis(t, w)
    if n2 == 0:
        for order in range(3):
            total = 0.0
            for a in range(4):
                total += w[order, a] * c[i + a, 0]
            v[order, 0] = total
        point[0], point[1], point[3] = v[0, 0], v[1, 0] / h1, v[2, 0] / (h1 * h1)
        point[2] = point[4] = point[5] = 0.0
        return
    j, t = _cell(y2, low2, h2, n2, periodic2)
    _basis(t, v)
    f = f1 = f2 = f11 = f12 = f22 = 0.0
    for a in range(4):
        g = g2 = g22 = 0.0
        for b in range(4):
            g += v[0, b] * c[i + a, j + b]
            g2 += v[1, b] * c[i + a, j + b]
            g22 += v[2, b] * c[i + a, j + b]
        f += w[0, a] * g
        f1 += w[1, a] * g
        f11 += w[2, a] * g
        f2 += w[0, a] * g2
        f12 += w[1, a] * g2
        f22 += w[0, a] * g22
    point[0], point[1], point[2] = f, f1 / h1, f2 / h2
    point[3], point[4], point[5] = f11 / (h1 * h1), f12 / (h1 * h2), f22 / (h2 * h2)


@driver
def _evaluate(begin, end, c, low1, h1, n1, periodic1, low2, h2, n2, periodic2, first, second, result):
    w, v = np.zeros((3, 4)), np.zeros((3, 4))
    for q in range(begin, end):
        _point(first[q], second[q], c, low1, h1, n1, periodic1, low2, h2, n2, periodic2, w, v, result[q])


@allocating_nothing
def _span(a, b, low, h, n, periodic):
    """Return the first and last cell that [a, b] meets, rounding included; periodic: the first in [0, n), the last in [0, 2
    n)."""
    if n == 0:
        return 0, 0
    first, last = np.floor((a - low) / h - 1e-9), np.floor((b - low) / h + 1e-9)
    if not periodic:
        return int(min(max(first, 0.0), n - 1.0)), int(max(min(last, n - 1.0), 0.0))
    if not last - first < n - 1:
        return 0, n - 1
    turn = np.floor(first / n) * n
    return int(first - turn), int(last - turn)


@driver
def _weights(begin, end, stride, low1, h1, n1, periodic1, low2, h2, n2, periodic2, first, second, columns, values):
    w, v = np.zeros((3, 4)), np.zeros((3, 4))
    v[0, 0] = 1.0
    for q in range(begin, end):
        i, t = _cell(first[q], low1, h1, n1, periodic1)
        _basis(t, w)
        j, width = 0, 1
        if n2 > 0:
            j, t = _cell(second[q], low2, h2, n2, periodic2)
            _basis(t, v)
            width = 4
        for a in range(4):
            for b in range(width):
                columns[q, width * a + b] = (i + a) * stride + j + b
                values[q, width * a + b] = w[0, a] * v[0, b]


@driver
def _ranges(
    begin, end, levels, offsets, shapes, c, slack, low1, h1, n1, p1, low2, h2, n2, p2, a1, b1, a2, b2, result
):  # fmt: skip
    w, v, point, third = np.zeros((3, 4)), np.zeros((3, 4)), np.zeros(6), np.zeros(4)
    for q in range(begin, end):
        i, ii = _span(a1[q], b1[q], low1, h1, n1, p1)
        j, jj = _span(a2[q], b2[q], low2, h2, n2, p2)
        level = 0
        while max(ii - i, jj - j) >= _NEAR and level < len(offsets) - 1:
            i, ii, j, jj = i // 4, ii // 4, j // 4, jj // 4
            level += 1
        width = shapes[level, 1]
        for k in range(6):
            result[q, k], result[q, 6 + k] = np.inf, -np.inf
        third[:] = 0.0
        for r in range(i, ii + 1):
            for s in range(j, jj + 1):
                row = offsets[level] + r * width + s
                for k in range(6):
                    result[q, k] = min(result[q, k], levels[row, k])
                    result[q, 6 + k] = max(result[q, 6 + k], levels[row, 6 + k])
                for k in range(4):
                    third[k] = max(third[k], levels[row, 12 + k])
        if level > 0 or not (b1[q] - a1[q] < np.inf and b2[q] - a2[q] < np.inf):
            continue
        # Taylor polynomials about the middle; half widths with the rounding of middle and place
        m1, m2 = 0.5 * (a1[q] + b1[q]), 0.5 * (a2[q] + b2[q])
        r1 = (0.5 * (b1[q] - a1[q]) + 1e-15 * (abs(m1) + abs(low1) + n1 * h1)) * (1.0 + 1e-14)
        r2 = (0.5 * (b2[q] - a2[q]) + 1e-15 * (abs(m2) + abs(low2) + n2 * h2)) * (1.0 + 1e-14)
        _point(m1, m2, c, low1, h1, n1, p1, low2, h2, n2, p2, w, v, point)
        for k in range(3, 6):
            off = third[k - 3] * r1 + third[k - 2] * r2 + slack[k]
            result[q, k] = max(result[q, k], point[k] - off)
            result[q, 6 + k] = min(result[q, 6 + k], point[k] + off)
        for k in range(1, 3):
            one = max(abs(result[q, 2 + k]), abs(result[q, 8 + k]))
            two = max(abs(result[q, 3 + k]), abs(result[q, 9 + k]))
            off = one * r1 + two * r2 + slack[k]
            result[q, k] = max(result[q, k], point[k] - off)
            result[q, 6 + k] = min(result[q, 6 + k], point[k] + off)
        off = abs(point[1]) * r1 + abs(point[2]) * r2 + slack[1] * r1 + slack[2] * r2 + slack[0]
        off += 0.5 * max(abs(result[q, 3]), abs(result[q, 9])) * r1 * r1 + max(abs(result[q, 4]), abs(result[q, 10])) * r1 * r2
        off += 0.5 * max(abs(result[q, 5]), abs(result[q, 11])) * r2 * r2
        result[q, 0] = max(result[q, 0], point[0] - off)
        result[q, 6] = min(result[q, 6], point[0] + off)
