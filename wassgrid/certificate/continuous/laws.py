"""E q(y + sigma xi) for a q that is a polynomial on every cell of a lattice, by exact moments of the normal law on cells.

On a cell with centre x_c,  q = p_0 + p_1 d_1 + p_2 d_2 + p_11 d_1^2/2 + p_12 d_1 d_2 + p_22 d_2^2/2,  d = x - x_c.  Along one
axis
the moments  int_cell z^p d^c phi(z) dz,  z = (x - y)/sigma,  depend on the place of the cell relative to y alone: one window
serves all means. What lies beyond an end of the domain is said by the boundary model, as cells beyond it:

    open        the lattice goes on;                    periodic  the cells of the other end;
    truncate    nothing, and the law is normalised;     reflect   the mirror image;
    project     q at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import csr_array, diags_array

from wassgrid.certificate.continuous.spline import NONE, Knots
from wassgrid.transition.compiled import driver
from wassgrid.transition.threads import spread

Array = np.ndarray
TAIL = 8.5  # standard deviations from which the noise is left out: probability 2e-17 per step
POLYNOMIAL = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))  # powers of d_1 and d_2, the order of the coefficients
WIDER = 1.25  # variance of the wider law that bounds the fourth derivatives, relative
ENTRIES = 1 << 19  # of matrices of moments that are made at a time: on the way each needs ten times what is kept of it
MODELS = ("open", "truncate", "project", "reflect", "periodic")


@dataclass(frozen=True)
class AxisLaw:
    """The law of one axis: noise `sigma` around means on rows, q on cells.

    low, high: the domain. rows: of means, the knots of u, `row_spacing` apart; fine: cells of q between two rows; points: means
    at which laws are taken, per row. model: see above. factor: how many of these cells are one of the coarsest lattice, whose
    ends an open axis keeps.
    """

    low: float
    high: float
    sigma: float
    model: str
    rows: int
    fine: int
    points: int = 1
    factor: int = 1

    @classmethod
    def make(
        cls, low: float, high: float, sigma: float, model: str, row_spacing: float, spacing: float, point_spacing: float = np.inf
    ) -> AxisLaw:
        """Choose rows at most `row_spacing`, cells at most `spacing` and points at most `point_spacing` apart."""
        rows = max(8, int(np.ceil((high - low) / row_spacing - 1e-9)))
        h = (high - low) / rows
        fine = max(1, int(np.ceil(h / spacing - 1e-9)), int(np.ceil(h / (0.5 * sigma))))
        return cls(low, high, sigma, model, rows, fine, max(1, int(np.ceil(h / point_spacing - 1e-9))))

    @property
    def point_spacing(self) -> float:
        return self.row_spacing / self.points

    @property
    def point_count(self) -> int:
        return self.rows_between * self.points + (0 if self.model == "periodic" else 1)

    @property
    def rows_between(self) -> int:
        """Gaps between the rows."""
        return self.rows + 2 * self.pad

    @property
    def places(self) -> Array:
        """The points (point_count), beyond the ends of the domain too where the law is projected."""
        return self.knots.low + self.point_spacing * np.arange(self.point_count)

    @property
    def row_spacing(self) -> float:
        return (self.high - self.low) / self.rows

    @property
    def spacing(self) -> float:
        """Width D of the cells of q."""
        return self.row_spacing / self.fine

    @property
    def reach(self) -> int:
        """Cells on either side of a mean that the noise reaches."""
        return int(np.ceil(TAIL * np.sqrt(WIDER) * (self.sigma / self.spacing)))

    @property
    def pad(self) -> int:
        """Rows beyond the ends: of the means where the law is projected, which are not clipped."""
        return int(np.ceil(TAIL * (self.sigma / self.row_spacing))) if self.model == "project" else 0

    @property
    def knots(self) -> Knots:
        """Knots of functions of the mean: the rows; a mirrored axis has both its halves."""
        h = self.row_spacing
        if self.model == "reflect":
            return Knots(self.low, h, 2 * self.rows, True)
        return Knots(self.low - self.pad * h, h, self.rows + 2 * self.pad, self.model == "periodic")

    @property
    def row_count(self) -> int:
        return self.rows + 2 * self.pad + (0 if self.model == "periodic" else 1)

    def mirrored(self, values: Array, axis: int) -> Array:
        """Return values on rows as values on the knots."""
        if self.model != "reflect":
            return values
        back = np.flip(np.take(values, range(1, self.rows), axis=axis), axis=axis)
        return np.concatenate([values, back], axis=axis)

    @property
    def beyond(self) -> int:
        """Cells of the lattice beyond each end of the domain."""
        reach = TAIL * np.sqrt(WIDER) * self.sigma / (self.spacing * self.factor)
        return (int(np.ceil(reach)) + 1) * self.factor if self.model == "open" else 0

    @property
    def cells(self) -> int:
        return self.rows * self.fine + 2 * self.beyond

    @property
    def edges(self) -> Array:
        """Ends of the cells of q (cells + 1)."""
        return self.low + self.spacing * (np.arange(self.cells + 1) - self.beyond)

    def edges_at(self, index: Array) -> Array:
        """Return some of the ends of the cells."""
        return self.low + self.spacing * (index - self.beyond)

    @property
    def _first(self) -> int:
        """The first cell that some row reaches, counted from the lower end of the domain."""
        return -self.pad * self.fine - self.reach

    @property
    def _reached(self) -> int:
        """How many cells some row reaches."""
        return self.rows_between * self.fine + 2 * self.reach + 1

    @cached_property
    def extension(self) -> tuple[Array, Array, Array]:
        """For every cell that some row reaches: the lattice cell, the sign of d (0: q at an end, at d = `side`), and side."""
        return self._on_lattice(np.arange(self._reached))

    def _on_lattice(self, place: Array) -> tuple[Array, Array, Array]:
        """Return what `extension` holds at some places of it."""
        index, n = self._first + place, self.rows * self.fine
        sign, side = np.ones(index.size), np.zeros(index.size)
        if self.model == "open":
            return index + self.beyond, sign, side
        if self.model == "periodic":
            return index % n, sign, side
        if self.model == "reflect":
            folded = index % (2 * n)
            mirror = folded >= n
            return np.where(mirror, 2 * n - 1 - folded, folded), np.where(mirror, -1.0, 1.0), side
        outside = (index < 0) | (index >= n)
        side = np.where(index < 0, -0.5, np.where(index >= n, 0.5, 0.0)) * self.spacing
        if self.model == "truncate":
            return np.where(outside, -1, index), np.where(outside, 0.0, 1.0), side
        return np.clip(index, 0, n - 1), np.where(outside, 0.0, 1.0), side

    def _images(self, chosen: Array) -> Array:
        """Return the places in `extension`, rising, at which some lattice cells stand."""
        n, size = self.rows * self.fine, self._reached
        place = chosen - self._first
        if self.model == "open":
            place = place - self.beyond
        elif self.model in ("periodic", "reflect"):
            period = n if self.model == "periodic" else 2 * n
            if self.model == "reflect":
                place = np.concatenate([place, 2 * n - 1 - chosen - self._first])
            place = np.sort(place % period + period * np.arange(-(-size // period))[:, None], axis=None)
        elif self.model == "project":
            ends = [np.arange(-self._first)] * bool(np.any(chosen == 0))
            ends += [np.arange(n - self._first, size)] * bool(np.any(chosen == n - 1))
            place = np.sort(np.concatenate([place, *ends]))
        return place[(place >= 0) & (place < size)]

    @property
    def phases(self) -> int:
        """Places within a cell that points take, in turn."""
        return self.points // math.gcd(self.fine, self.points)

    @property
    def _shift(self) -> Array:
        """Where points lie within a cell, in cells, by their phase."""
        return (np.arange(self.phases) * self.fine % self.points) / self.points

    def window(self, sigma: float, powers: int = 3) -> Array:
        """Return the moments (powers, 3, phases, 2 reach + 1) of z^p d^c on the cells from -reach to reach."""
        return self._on(np.arange(-self.reach, self.reach + 1) + 0.5 - self._shift[:, None], sigma, powers)

    def _on(self, middle: Array, sigma: float, powers: int) -> Array:
        """Return the moments (powers, 3, ...) of z^p d^c on cells whose middles (...) are so many cells from the mean.

        Gauss and Legendre's rule: with cells at most half a standard deviation wide its error is below rounding.
        """
        d = self.spacing
        nodes, weights = np.polynomial.legendre.leggauss(10 if d > 0.05 * sigma else 4)
        place = 0.5 * d * nodes
        z = (middle * (d / sigma))[..., None] + place / sigma
        density = np.exp(-0.5 * z * z)
        powers_of_d = place ** np.arange(3)[:, None] * (weights * (0.5 * d / sigma / np.sqrt(2.0 * np.pi)))
        result = np.empty((powers, 3, *middle.shape))
        for p in range(powers):
            result[p] = np.einsum("...k,ck->c...", density, powers_of_d)
            density *= z
        return result

    @cached_property
    def windows(self) -> tuple[Array, Array]:
        """Moments under the noise, and under the wider one, z in its units."""
        return self.window(self.sigma), self.window(np.sqrt(WIDER) * self.sigma)

    @cached_property
    def _plain(self) -> Array:
        """Moments (3, phases, 2 reach + 1) of d^c under the noise."""
        return np.ascontiguousarray(self.window(self.sigma, 1)[0])

    @cached_property
    def _whole(self) -> AxisLaw:
        """The law with the cells of the coarsest lattice."""
        return self if self.factor == 1 else replace(self, fine=self.fine // self.factor, factor=1)

    @cached_property
    def truncated(self) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
        """Sums (points) of z^p over the cells that count, p = 0, 1, 2, of both laws; 1, 0, 1 where nothing is cut."""
        inside = (self.extension[0] >= 0).astype(float)[:, None]
        first, second = (
            tuple(self._along(inside, window[p, 0])[:, 0] for p in range(3)) for window in self.windows
        )
        return first, second  # type: ignore[return-value]

    def _along(self, extended: Array, window: Array) -> Array:
        count = self.point_count
        result = np.zeros((count, extended.shape[1]))
        parts = np.ascontiguousarray(extended), np.ascontiguousarray(window)
        spread(_contract, count, float(count * window.shape[1] * extended.shape[1]), *parts, self.fine, self.points, result)
        return result

    def refined(self, factor: int) -> AxisLaw:
        """Return the law with cells cut into so many."""
        if factor == 1:
            return self
        finer = replace(self, fine=self.fine * factor, factor=self.factor * factor)
        if self.factor == 1:
            finer.__dict__["_whole"] = self  # what it knows already is not computed again
        return finer

    def parts(self, chosen: Array | None = None) -> list[slice]:
        """Return ranges of points whose moments on some cells can be made at a time."""
        if chosen is None:
            entries = self.point_count * (2 * self.reach + 1)
        else:
            entries = int(np.sum(np.subtract(*self._points_of(self._images(chosen))[::-1])))
        size = max(1, self.point_count * ENTRIES // max(entries, 1))
        return [slice(start, start + size) for start in range(0, self.point_count, size)]

    def _points_of(self, place: Array) -> tuple[Array, Array]:
        """Return the ranges of the points that reach cells at these places of `extension`: they follow each other."""
        # point i reaches from i fine // points to 2 reach beyond: from ceil((place - 2 reach) points / fine) on
        low = -(-(place - 2 * self.reach) * self.points // self.fine)
        high = -(-(place + 1) * self.points // self.fine)
        return np.clip(low, 0, self.point_count), np.clip(high, 0, self.point_count)

    def moments(self, chosen: Array | None = None, points: slice = slice(None)) -> list[csr_array]:
        """Return the matrices (points, cells) that take coefficients of 1, d and d^2/2 on the cells to expectations.

        chosen: the cells that have coefficients, rising, all of them by default; points: a range of them.
        """
        begin, end, _ = points.indices(self.point_count)
        at = np.arange(self._reached) if chosen is None else self._images(chosen)
        index, sign, side = self._on_lattice(at)
        if self.model == "truncate":
            at, index, sign, side = (x[index >= 0] for x in (at, index, sign, side))
        rows = np.arange(begin, end)
        base = rows * self.fine // self.points
        starts = np.searchsorted(at, base)
        counts = np.searchsorted(at, base + 2 * self.reach, side="right") - starts
        size = int(counts.sum())
        kind: Any = np.int32 if size < 2**31 else np.int64
        pointers: Array = np.concatenate([[0], np.cumsum(counts)]).astype(kind)
        listed = size < self.phases * self.reach
        if listed:
            place = at[np.arange(size) + np.repeat(starts - pointers[:-1], counts)] - np.repeat(base, counts)
            table = self._on(place - self.reach + 0.5 - np.repeat(self._shift[rows % self.phases], counts), self.sigma, 1)[0]
        else:
            table = self._plain.reshape(3, -1)
        # the mass is the same whatever the cells are cut into
        mass = self._whole.truncated[0][0][rows] if self.model == "truncate" else np.ones(rows.size)
        cell = (index if chosen is None else np.searchsorted(chosen, index)).astype(kind)
        data, cells = np.empty((3, size)), np.empty(size, dtype=kind)
        entries = listed, self.phases, 2 * self.reach + 1, np.ascontiguousarray(table)
        spread(_lay, rows.size, 8.0 * size, rows, base, starts, pointers, at, cell, sign, side, mass, *entries, data, cells)
        shape = rows.size, self.cells if chosen is None else chosen.size
        matrices = [csr_array((part, cells, pointers), shape=shape) for part in data]
        if self.model not in ("open", "truncate"):
            # a mean sees some cells more than once
            matrices = [matrix.copy() for matrix in matrices]
            for matrix in matrices:
                matrix.sum_duplicates()
        return matrices

    def matrix(self) -> csr_array:
        """Return the matrix (points, nodes) that takes values at the nodes to expectations, right to fourth order.

        On every cell the quadratic polynomial through the values at its ends, its bend the mean of the differences there.
        """
        n, d = self.cells, self.spacing
        mean = diags_array([np.full(n, 0.5)] * 2, offsets=(0, 1), shape=(n, n + 1))
        slope = diags_array([np.full(n, -1.0 / d), np.full(n, 1.0 / d)], offsets=(0, 1), shape=(n, n + 1))
        second = diags_array([np.full(n - 1, w / d**2) for w in (1.0, -2.0, 1.0)], offsets=(0, 1, 2), shape=(n - 1, n + 1))
        nodes = np.clip(np.arange(-1, n), 0, n - 2)
        bends = mean @ csr_array(second)[nodes]
        whole = mean - bends * (d * d / 8.0)
        # nodes of a window, and of what stands for cells that are cut off; pages that are not written are not taken
        most = self.point_count * min(2 * self.reach + 9, n + 1)
        kind = np.int32 if most < 2**31 else np.int64
        data, columns, pointers = np.empty(most), np.empty(most, dtype=kind), [np.zeros(1, dtype=kind)]
        for points in self.parts():
            laws = self.moments(points=points)
            part = csr_array(laws[0] @ whole + laws[1] @ slope + laws[2] @ bends)
            start = pointers[-1][-1]
            data[start : start + part.nnz], columns[start : start + part.nnz] = part.data, part.indices
            pointers.append(start + part.indptr[1:].astype(kind))
        rows = np.concatenate(pointers)
        return csr_array((data[: rows[-1]], columns[: rows[-1]], rows), shape=(self.point_count, n + 1))

    def expect(self, parts: list[tuple[Array, int]], order: int, wider: bool = False) -> Array:
        """Sum the moments of functions along this axis (axis 0).

        parts: (coefficients (cells, n), c): times d^c, c = 2: d^2/2. order 0: E; 1: E z; 2: second derivative in the mean;
        3: a bound of it for |q|, E (z^2 + 1)/sigma^2; 4: E z^2.
        """
        window = self.windows[int(wider)]
        if order in (0, 1):
            powers = {order: 1.0}
        elif order == 4:
            powers = {2: 1.0}
        elif self.model != "truncate":
            powers = {2: 1.0 / self.sigma**2, 0: (-1.0 if order == 2 else 1.0) / self.sigma**2}
        else:
            powers = {0: 1.0, 1: 1.0, 2: 1.0}
        index, sign, side = self.extension
        sums = {p: np.zeros((self.point_count, parts[0][0].shape[1])) for p in (powers if self.model == "truncate" else (0,))}
        for coefficients, c in parts:
            if not np.any(coefficients):
                continue
            ends = np.take(coefficients, np.maximum(index, 0), axis=0)
            scale = 0.5 if c == 2 else 1.0
            if self.model == "truncate":
                inside = ends * (sign * scale)[:, None]
                for p in sums:
                    sums[p] += self._along(inside, window[p, c])
                continue
            total = sum(factor * window[p, c] for p, factor in powers.items())
            inner = sign if c == 1 else np.abs(sign)
            sums[0] += self._along(ends * (inner * scale)[:, None], total)
            if np.any(sign == 0.0):
                mass = sum(factor * window[p, 0] for p, factor in powers.items())
                sums[0] += self._along(ends * (np.where(sign == 0.0, side**c, 0.0) * scale)[:, None], mass)
        if self.model != "truncate":
            return sums[0]
        mass, first, second = (x[:, None] for x in self.truncated[int(wider)])
        if order in (0, 1, 4):
            return sums[2 if order == 4 else order] / mass
        # f = phi(z)/mass: d^2 f/dy^2 = f ((z - zbar)^2 - var z)/sigma^2
        mean = first / mass
        variance = second / mass - mean**2
        spread_ = -variance if order == 2 else 1.0
        return (sums[2] - 2.0 * mean * sums[1] + (mean**2 + spread_) * sums[0]) / (mass * self.sigma**2)


@dataclass(frozen=True)
class StillAxis:
    """An axis without noise: rows of means, which are the knots of u, and cells of q, `fine` between two rows.

    model: "periodic", or "project" for one with ends.
    """

    low: float
    high: float
    model: str
    rows: int
    fine: int

    @classmethod
    def make(cls, low: float, high: float, model: str, row_spacing: float, spacing: float) -> StillAxis:
        """Choose rows at most `row_spacing` and cells at most `spacing` apart."""
        rows = max(8, int(np.ceil((high - low) / row_spacing - 1e-9)))
        return cls(low, high, model, rows, max(1, int(np.ceil((high - low) / rows / spacing - 1e-9))))

    @property
    def row_spacing(self) -> float:
        return (self.high - self.low) / self.rows

    @property
    def spacing(self) -> float:
        return self.row_spacing / self.fine

    @property
    def row_count(self) -> int:
        return self.rows + (0 if self.model == "periodic" else 1)

    @property
    def knots(self) -> Knots:
        return Knots(self.low, self.row_spacing, self.rows, self.model == "periodic")

    def mirrored(self, values: Array, axis: int) -> Array:
        return values

    @property
    def cells(self) -> int:
        return self.rows * self.fine

    @property
    def beyond(self) -> int:
        return 0

    @property
    def edges(self) -> Array:
        """Ends of the cells of q (cells + 1)."""
        return self.low + self.spacing * np.arange(self.cells + 1)

    def edges_at(self, index: Array) -> Array:
        """Return some of the ends of the cells."""
        return self.low + self.spacing * index

    def refined(self, factor: int) -> StillAxis:
        """Return the axis with cells cut into so many."""
        return replace(self, fine=self.fine * factor)

    def matrix(self) -> csr_array:
        """Return the matrix (rows, nodes) that takes values at the nodes to those at the rows."""
        rows = np.arange(self.row_count)
        return csr_array((np.ones(rows.size), (rows, rows * self.fine)), shape=(rows.size, self.cells + 1))


@dataclass(frozen=True)
class NoAxis:
    """The second axis of a problem with one."""

    spacing: float = 0.0
    row_spacing: float = 0.0
    point_spacing: float = 0.0
    cells: int = 1
    row_count: int = 1
    point_count: int = 1
    points: int = 1
    sigma: float = 1.0
    model: str = "open"
    knots: Knots = NONE
    fine: int = 1

    @property
    def places(self) -> Array:
        return np.zeros(1)

    def mirrored(self, values: Array, axis: int) -> Array:
        return values

    def refined(self, factor: int) -> NoAxis:
        return self

    def parts(self, chosen: Array | None = None) -> list[slice]:
        return [slice(None)]

    def moments(self, chosen: Array | None = None, points: slice = slice(None)) -> list[csr_array]:
        one = csr_array(np.ones((1, 1)))
        return [one, 0.0 * one, 0.0 * one]

    def matrix(self) -> csr_array:
        return csr_array(np.ones((1, 1)))

    def expect(self, parts: list[tuple[Array, int]], order: int, wider: bool = False) -> Array:
        """Return the function itself, which does not vary along this axis."""
        if order in (1, 2):
            return np.zeros((1, parts[0][0].shape[1]))
        return parts[0][0] * (1.0 if order in (0, 4) else 2.0)


Axis = AxisLaw | StillAxis | NoAxis


def expect(axes: tuple[Axis, Axis], p: Array, orders: tuple[int, int] = (0, 0), wider: bool = False) -> Array:
    """Return E of the polynomials p (6, cells_1, cells_2) at all points (points_1, points_2), with the orders of
    `AxisLaw.expect`; both axes noisy, or the second absent."""
    one, two = axes
    assert not isinstance(one, StillAxis)
    assert not isinstance(two, StillAxis)
    inner = [
        one.expect([(p[0], 0), (p[1], 1), (p[3], 2)], orders[0], wider),
        one.expect([(p[2], 0), (p[4], 1)], orders[0], wider) if isinstance(two, AxisLaw) else None,
        one.expect([(p[5], 0)], orders[0], wider) if isinstance(two, AxisLaw) else None,
    ]
    return two.expect([(x.T, c) for c, x in enumerate(inner) if x is not None], orders[1], wider).T


def expect_on(moments: list[csr_array], coefficients: list[Array], result: Array) -> None:
    """Add to result (points, n) the expectations along an axis of functions with n coefficients (cells, n) of 1, d and d^2/2.

    moments: see `AxisLaw.moments`; all have the same cells.
    """
    law = moments[0]
    total = np.zeros(result.shape)
    work = 6.0 * law.nnz * result.shape[1]
    spread(_weigh, law.shape[0], work, law.indptr, law.indices, *(m.data for m in moments), *coefficients, total)
    result += total


@driver
def _lay(
    begin, end, rows, base, starts, pointers, at, cell, sign, side, mass, listed, phases, width, table, data, cells
):  # fmt: skip
    """Lay moments of 1, d and d^2/2 over their rows, entry by entry: data (3, entries), cells (entries).

    Row k has the images `at` from starts[k] on; their moments stand in `table` as listed, or in windows by phase and distance.
    """
    for k in range(begin, end):
        first = (rows[k] % phases) * width - base[k]
        image, inverse = starts[k], 1.0 / mass[k]
        for p in range(pointers[k], pointers[k + 1]):
            j = p if listed else first + at[image]
            w0 = table[0, j] * inverse
            if sign[image] == 0.0:
                # q at an end, at d = `side`
                e = side[image]
                data[0, p], data[1, p], data[2, p] = w0, w0 * e, 0.5 * w0 * e * e
            else:
                data[0, p], data[1, p], data[2, p] = w0, table[1, j] * inverse * sign[image], 0.5 * table[2, j] * inverse
            cells[p] = cell[image]
            image += 1


@driver
def _weigh(begin, end, pointers, cells, w0, w1, w2, c0, c1, c2, result):
    """result[i] = sum_p w0[p] c0[cells[p]] + w1[p] c1[cells[p]] + w2[p] c2[cells[p]] over the entries p of rows begin to end."""
    for i in range(begin, end):
        row = result[i]
        for p in range(pointers[i], pointers[i + 1]):
            x0, x1, x2 = c0[cells[p]], c1[cells[p]], c2[cells[p]]
            a0, a1, a2 = w0[p], w1[p], w2[p]
            for k in range(row.size):
                row[k] += a0 * x0[k] + a1 * x1[k] + a2 * x2[k]


@driver
def _contract(begin, end, extended, window, fine, points, result):
    """result[i] = sum_v window[i modulo phases, v] extended[i fine/points + v], points begin to end."""
    phases, count, inner = window.shape[0], window.shape[1], extended.shape[1]
    for i in range(begin, end):
        start, phase = i * fine // points, i % phases
        if inner == 1:
            total = 0.0
            for v in range(count):
                total += window[phase, v] * extended[start + v, 0]
            result[i, 0] = total
            continue
        for v in range(count):
            w = window[phase, v]
            for k in range(inner):
                result[i, k] += w * extended[start + v, k]
