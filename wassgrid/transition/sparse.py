"""The transition operator of a policy as a sparse matrix: its rows, its transpose, and products with both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit, prange
from scipy import sparse

from wassgrid.transition.compiled import CHUNKS, allocating_nothing, chunk_of, threads_for
from wassgrid.transition.lead import lead_law, open_cell, pin, share_followers
from wassgrid.transition.walk import advance, new_walk, start_walk


@allocating_nothing
def _touch(walk, axes, mean, noise, coupling, seen, row):
    """Mark the columns that a walk reaches; return how many were new to this row."""
    inner = axes.order.size - 1
    found = 0
    while advance(walk, axes, mean, noise, coupling, 0):
        if walk.product[inner] == 0.0:
            continue
        for q in range(walk.counts[inner]):
            if walk.w[inner, 0, q] != 0.0:
                column = walk.base[inner] + walk.offset[inner, q]
                if seen[column] != row:
                    seen[column] = row
                    found += 1
    return found


@allocating_nothing
def _scatter(walk, axes, mean, noise, coupling, weight, slot, columns, values, begin, end):
    """Add weight times the law that a walk runs over to the row from `begin`; return its new end."""
    inner = axes.order.size - 1
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
                    columns[end] = column
                    values[end] = 0.0
                    end += 1
                values[at] += p * w
    return end


@njit(cache=True, parallel=True)
def count_entries(axes, width, cells, mean, weights, noise, coupling):
    """Count the distinct columns of chosen rows of P: cells (K,), mean (K, N, d), weights (K, N) -> (K,) int64."""
    rows, particles, d = mean.shape
    total = 1
    for j in range(d):
        total *= axes.size[j]
    counts = np.zeros(rows, np.int64)
    for c in prange(CHUNKS):
        low, high = chunk_of(c, rows)
        seen = np.full(total if high > low else 0, -1, np.int64)
        walk = new_walk(d, width)
        w, nodes, law = np.zeros((3, width)), np.zeros(width, np.int64), np.zeros(axes.size[axes.order[0]])
        for r in range(low, high):
            k = cells[r]
            found = 0
            if share_followers(axes, mean[r]):
                lead_law(axes, mean[r], weights[r], noise[k], w, nodes, law)
                open_cell(walk)
                for node in range(law.size):
                    if law[node] != 0.0:
                        pin(walk, axes, node)
                        found += _touch(walk, axes, mean[r, 0], noise[k], coupling[k], seen, r)
            else:
                for i in range(particles):
                    if weights[r, i] != 0.0:
                        start_walk(walk, axes, mean[r, i], noise[k], coupling[k])
                        found += _touch(walk, axes, mean[r, i], noise[k], coupling[k], seen, r)
            counts[r] = found
    return counts


@njit(cache=True, parallel=True)
def fill_rows(axes, width, mean, weights, noise, coupling, start, columns, values):
    """Fill the rows of P:  P[k, l] = sum_i w_ki prod_j omega_j(x_l; mean_ki).

    start (cells + 1,) from `count_entries`; columns int32 and values float64 are written; columns stand in order of
    first touch. Rows are divided by their sum (which is one to rounding already), so that they sum to one.
    """
    cells, particles, d = mean.shape
    for c in prange(CHUNKS):
        low, high = chunk_of(c, cells)
        slot = np.full(cells if high > low else 0, -1, np.int64)
        walk = new_walk(d, width)
        w, nodes, law = np.zeros((3, width)), np.zeros(width, np.int64), np.zeros(axes.size[axes.order[0]])
        for k in range(low, high):
            begin = end = start[k]
            if share_followers(axes, mean[k]):
                lead_law(axes, mean[k], weights[k], noise[k], w, nodes, law)
                open_cell(walk)
                for node in range(law.size):
                    if law[node] != 0.0:
                        pin(walk, axes, node)
                        end = _scatter(
                            walk, axes, mean[k, 0], noise[k], coupling[k], law[node], slot, columns, values, begin, end
                        )
            else:
                for i in range(particles):
                    if weights[k, i] != 0.0:
                        start_walk(walk, axes, mean[k, i], noise[k], coupling[k])
                        end = _scatter(
                            walk, axes, mean[k, i], noise[k], coupling[k], weights[k, i], slot, columns, values, begin, end
                        )
            total = 0.0
            for at in range(begin, end):
                total += values[at]
            for at in range(begin, end):
                values[at] /= total


@njit(cache=True, parallel=True)
def transpose(start, columns, values):
    """Return (start, columns, values) of the transpose; its rows are sorted, whatever the number of threads."""
    n = start.size - 1
    groups = 8
    counts = np.zeros((groups, n), np.int64)
    for g in prange(groups):
        for at in range(start[g * n // groups], start[(g + 1) * n // groups]):
            counts[g, columns[at]] += 1
    t_start = np.zeros(n + 1, np.int64)
    for l in range(n):
        position = t_start[l]
        for g in range(groups):
            here = counts[g, l]
            counts[g, l] = position
            position += here
        t_start[l + 1] = position
    t_columns = np.empty(columns.size, np.int32)
    t_values = np.empty(values.size, np.float64)
    for g in prange(groups):
        for k in range(g * n // groups, (g + 1) * n // groups):
            for at in range(start[k], start[k + 1]):
                l = columns[at]
                t_columns[counts[g, l]] = k
                t_values[counts[g, l]] = values[at]
                counts[g, l] += 1
    return t_start, t_columns, t_values


@njit(cache=True, parallel=True)
def multiply(start, columns, values, x):
    """Return the sparse product y_k = sum_l A[k, l] x_l; each row is summed in stored order."""
    n = start.size - 1
    y = np.empty(n)
    for k in prange(n):
        total = 0.0
        for at in range(start[k], start[k + 1]):
            total += values[at] * x[columns[at]]
        y[k] = total
    return y


@dataclass(frozen=True)
class TransitionOperator:
    """Hold a Markov matrix P in rows (start, columns, values) and, made when first needed, its transpose.

    Rows sum to one to rounding. Both products run on all threads and are bit-identical for every number of threads.
    """

    start: np.ndarray
    columns: np.ndarray
    values: np.ndarray

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
        rows = np.repeat(np.arange(self.size), np.diff(self.start))
        return float(np.mean(np.abs(self.columns - rows))) * 2 + 1

    @cached_property
    def _transposed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with threads_for(4 * self.entries):
            result: tuple[np.ndarray, np.ndarray, np.ndarray] = transpose(self.start, self.columns, self.values)
        return result

    def apply(self, function: np.ndarray) -> np.ndarray:
        """Return P f: the expectation of f at the next state, (cells,)."""
        return self._product((self.start, self.columns, self.values), function)

    def push(self, law: np.ndarray) -> np.ndarray:
        """Return mu P: the law of the next state, (cells,)."""
        return self._product(self._transposed, law)

    def _product(self, rows: tuple[np.ndarray, np.ndarray, np.ndarray], x: np.ndarray) -> np.ndarray:
        with threads_for(self.entries):
            y: np.ndarray = multiply(*rows, np.ascontiguousarray(x))
        return y

    def matrix(self) -> sparse.csr_array:
        """Return P as a SciPy matrix that shares the memory of this operator, for reading."""
        views = [array.view() for array in (self.values, self.columns, self.start)]
        for view in views:
            view.flags.writeable = False
        return sparse.csr_array(tuple(views), shape=(self.size, self.size))

    @classmethod
    def from_matrix(cls, matrix: np.ndarray | sparse.sparray) -> TransitionOperator:
        """Wrap any Markov matrix (finite chains; no grid)."""
        rows = sparse.csr_array(matrix)
        return cls(
            rows.indptr.astype(np.int64), rows.indices.astype(np.int32), np.ascontiguousarray(rows.data, dtype=float)
        )
