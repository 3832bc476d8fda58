"""The transition operator of a policy as a sparse matrix: its rows, its transpose, and products with both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from wassgrid.grid.skeleton import Skeleton
from wassgrid.transition.compiled import allocating_nothing, driver
from wassgrid.transition.lead import lead_law, open_cell, pin, share_followers
from wassgrid.transition.threads import spread
from wassgrid.transition.walk import Axes, advance, new_walk, start_walk

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
_AT_ONCE = 1 << 20  # entries that are looked at together


@allocating_nothing
def _scatter(walk, axes, mean, noise, coupling, weight, slot, columns, values, begin, end):
    """Add weight times the law that a walk runs over to the row from `begin`; return its new end.

    slot (cells,): place of a column in the last row that held it. Without `columns` the entries are counted alone.
    """
    inner = axes.order.size - 1
    store = columns.size > 0
    while advance(walk, axes, mean, noise, coupling, 0):
        p = weight * walk.product[inner]
        if p == 0.0:
            continue
        base = walk.base[inner]
        for q in range(walk.counts[inner]):
            w = walk.w[inner, 0, q]
            if w != 0.0:
                column = base + walk.offset[inner, q]
                at = slot[column]
                if at < begin:
                    at = end
                    slot[column] = end
                    if store:
                        columns[end] = column
                        values[end] = 0.0
                    end += 1
                if store:
                    values[at] += p * w
    return end


@driver
def rows(low, high, axes, width, cells, mean, weights, noise, coupling, start, entries, columns, values):
    """Fill rows low..high of those of P that are chosen:  P[k, l] = sum_i w_ki prod_j omega_j(x_l; mean_ki).

    cells (K,): their numbers; mean (K, N, d), weights (K, N). columns int32 and values float64 are written from start (K,)
    on, in order of first touch, and divided by their sum (which is one to rounding already), so that they sum to one; entries
    (K,) int64 gets their numbers. Where columns has no elements, they are counted alone.
    """
    particles, d = mean.shape[1], mean.shape[2]
    total = 1
    for j in range(d):
        total *= axes.size[j]
    slot = np.full(total, -1, np.int64)
    walk = new_walk(d, width)
    w, nodes, law = np.zeros((3, width)), np.zeros(width, np.int64), np.zeros(axes.size[axes.order[0]])
    store = columns.size > 0
    end = 0
    for r in range(low, high):
        k = cells[r]
        begin = start[r] if store else end
        end = begin
        if share_followers(axes, mean[r]):
            lead_law(axes, mean[r], weights[r], noise[k], w, nodes, law)
            open_cell(walk)
            for node in range(law.size):
                if law[node] != 0.0:
                    pin(walk, axes, node)
                    end = _scatter(
                        walk, axes, mean[r, 0], noise[k], coupling[k], law[node], slot, columns, values, begin, end
                    )
        else:
            for i in range(particles):
                if weights[r, i] != 0.0:
                    start_walk(walk, axes, mean[r, i], noise[k], coupling[k])
                    end = _scatter(
                        walk, axes, mean[r, i], noise[k], coupling[k], weights[r, i], slot, columns, values, begin, end
                    )
        if store:
            mass = 0.0
            for at in range(begin, end):
                mass += values[at]
            for at in range(begin, end):
                values[at] /= mass
        entries[r] = end - begin


@driver
def multiply(low, high, start, columns, values, x, y):
    """Write the sparse product y_k = sum_l A[k, l] x_l for rows low..high; each row is summed in stored order."""
    for k in range(low, high):
        total = 0.0
        for at in range(start[k], start[k + 1]):
            total += values[at] * x[columns[at]]
        y[k] = total


@driver
def average(low, high, start, columns, values, size, first, second, share, extent, result):
    """Write the means of the hats of a skeleton under rows low..high:  A[k, c] = sum_l P[k, l] h_c(l).

    size (d,): points of the axes. first, second, share (d, most points): see `Skeleton.neighbours`. extent (d,): nodes of the
    axes. result (K, nodes): the hats in C order. An entry goes to the 2^d nodes around its column.
    """
    d = size.size
    near, far, part = np.empty(d, np.int64), np.empty(d, np.int64), np.empty(d)
    for k in range(low, high):
        for c in range(result.shape[1]):
            result[k, c] = 0.0
        for at in range(start[k], start[k + 1]):
            rest, stride = columns[at], 1
            for j in range(d - 1, -1, -1):
                point = rest % size[j]
                rest //= size[j]
                near[j], far[j], part[j] = first[j, point] * stride, second[j, point] * stride, share[j, point]
                stride *= extent[j]
            for corner in range(1 << d):
                place, weight = 0, values[at]
                for j in range(d):
                    if corner >> j & 1:
                        place += far[j]
                        weight *= part[j]
                    else:
                        place += near[j]
                        weight *= 1.0 - part[j]
                result[k, place] += weight


def averaged(laws: sparse.csr_array, skeleton: Skeleton) -> np.ndarray:
    """Return the means of the hats of a skeleton (K, nodes) under laws on the cells, the rows of a matrix (K, cells)."""
    size = np.array(skeleton.shape, np.int64)
    first, second = np.zeros((2, size.size, size.max()), np.int64)
    share = np.zeros((size.size, size.max()))
    for j, (below, above, part) in enumerate(skeleton.neighbours):
        first[j, : size[j]], second[j, : size[j]], share[j, : size[j]] = below, above, part
    extent = np.array([chosen.size for chosen in skeleton.nodes], np.int64)
    result = np.empty((laws.shape[0], skeleton.size))
    spread(
        average, laws.shape[0], 4.0 * 2**size.size * laws.nnz, laws.indptr.astype(np.int64, copy=False),
        laws.indices.astype(np.int32, copy=False), laws.data, size, first, second, share, extent, result,
    )  # fmt: skip
    return result


def count_entries(
    axes: Axes, width: int, cells: np.ndarray, mean: np.ndarray, weights: np.ndarray, noise: np.ndarray, coupling: np.ndarray,
    work: float,
) -> np.ndarray:  # fmt: skip
    """Count the distinct columns of chosen rows of P: cells (K,), mean (K, N, d), weights (K, N) -> (K,) int64."""
    entries = np.empty(cells.size, np.int64)
    nothing = np.empty(0, np.int32), np.empty(0)
    spread(rows, cells.size, work, axes, width, cells, mean, weights, noise, coupling, entries, entries, *nothing)
    return entries


def assembled_rows(
    axes: Axes, width: int, mean: np.ndarray, weights: np.ndarray, noise: np.ndarray, coupling: np.ndarray, work: float
) -> Rows:
    """Assemble rows of P for particles with means (K, N, d) and weights (K, N); noise (K, d), coupling (K, d, d).

    work: elementary operations, an estimate.
    """
    cells = np.arange(len(mean))
    full = int(np.prod(axes.size))
    at_once = cells.size * full <= _AT_ONCE  # every row gets room for all columns, instead of counting them first
    if at_once:
        entries = np.full(cells.size, full)
    else:
        entries = count_entries(axes, width, cells, mean, weights, noise, coupling, work)
    start = np.append(0, np.cumsum(entries))
    columns, values = np.empty(start[-1], np.int32), np.empty(start[-1])
    spread(rows, cells.size, work, axes, width, cells, mean, weights, noise, coupling, start[:-1], entries, columns, values)
    if at_once:
        used = (np.arange(full) < entries[:, None]).ravel()
        start, columns, values = np.append(0, np.cumsum(entries)), columns[used], values[used]
    return start, columns, values


@dataclass(frozen=True)
class TransitionOperator:
    """Hold a Markov matrix P in rows (start, columns, values) and, made when first needed, its transpose.

    Rows sum to one to rounding. Both products run on all threads and are bit-identical for every number of threads.
    """

    start: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def size(self) -> int:
        return self.start.size - 1

    @property
    def entries(self) -> int:
        return self.values.size

    @property
    def work(self) -> float:
        return 4.0 * self.values.size  # of which only the products are arithmetic: the rest waits for memory

    @cached_property
    def nonnegative(self) -> bool:
        return not bool((self.values < 0).any())

    @cached_property
    def bandwidth(self) -> float:
        """Mean width of a row about the diagonal, in cells."""
        apart, block = 0, max(1, _AT_ONCE * self.size // max(self.entries, 1))  # rows
        for first in range(0, self.size, block):
            start = self.start[first : first + block + 1]
            rows = np.repeat(np.arange(first, first + start.size - 1), np.diff(start))
            apart += int(np.abs(self.columns[start[0] : start[-1]] - rows).sum())
        return apart / self.entries * 2 + 1

    @cached_property
    def _transposed(self) -> Rows:
        rows = self.matrix().tocsc()
        return rows.indptr.astype(np.int64), rows.indices.astype(np.int32, copy=False), rows.data

    def apply(self, function: np.ndarray) -> np.ndarray:
        """Return P f: the expectation of f at the next state, (cells,)."""
        return self._product((self.start, self.columns, self.values), function)

    def push(self, law: np.ndarray) -> np.ndarray:
        """Return mu P: the law of the next state, (cells,)."""
        return self._product(self._transposed, law)

    def _product(self, rows: Rows, x: np.ndarray) -> np.ndarray:
        y = np.empty(self.size)
        spread(multiply, self.size, self.work, *rows, np.ascontiguousarray(x, dtype=float), y)
        return y

    @cached_property
    def _square(self) -> sparse.csr_array:
        return self._with_columns(self.size)

    def _with_columns(self, cells: int) -> sparse.csr_array:
        # SciPy copies the columns where the starts are of a wider type than they need to be
        start = self.start.astype(np.int32) if self.entries <= np.iinfo(np.int32).max else self.start
        views = [array.view() for array in (self.values, self.columns, start)]
        for view in views:
            view.flags.writeable = False
        return sparse.csr_array(tuple(views), shape=(self.size, cells))

    def matrix(self, cells: int | None = None) -> sparse.csr_array:
        """Return P as a SciPy matrix that shares the memory of this operator, for reading; cells: columns, where rows are few."""
        return self._square if cells is None else self._with_columns(cells)

    def rows(self, cells: np.ndarray) -> sparse.csr_array:
        """Return chosen rows of P, (K, cells)."""
        return self.matrix()[cells]

    @classmethod
    def from_matrix(cls, matrix: np.ndarray | sparse.sparray) -> TransitionOperator:
        """Wrap any Markov matrix (finite chains; no grid)."""
        rows = sparse.csr_array(matrix)
        return cls(
            rows.indptr.astype(np.int64), rows.indices.astype(np.int32), np.ascontiguousarray(rows.data, dtype=float)
        )
