"""The fundamental matrix of a chain on a few cells, which takes the slow modes out of Krylov iterations on all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.linalg import lu_solve
from scipy.linalg.lapack import dgetrf

from wassgrid.chain.probe import probe_at
from wassgrid.chain.reductions import dot, largest, shared, sums, together, total
from wassgrid.grid.skeleton import Skeleton
from wassgrid.transition.latest import Latest
from wassgrid.transition.operator import MarkovOperator
from wassgrid.transition.sparse import averaged

_TRIED = 32  # rows of P by which all of them are judged
_TOGETHER = 128  # rows that are averaged at once where they are not kept
_READ = 6.0  # operations of a product with P that take as long as an entry of a row
_SINGULAR = 1e-13  # of the largest pivot
_SLOW_STEPS = 30  # of inverse iteration for the slowest mode


def rows_are_light(entries: float, work: float) -> bool:
    """Tell whether rows of P with so many entries are worth keeping, where a product with P takes so many operations."""
    return _READ * entries <= work


@dataclass(frozen=True, eq=False)
class CoarseCorrection:
    """Approximate D = (I - g P)^{-1}, with g = 1 D = (I - P + 1 mu)^{-1}, on functions and on measures.

    With H the hats of a skeleton and S the values at its nodes, P_c = S P H is the law of a chain on the nodes. From
    D = I + D g P on functions of mean zero, and the slow part of D f lying near the span of the hats,

        M = I + g H (I - g P_c)^{-1} S P,

    which has the rapid modes of (I - g P) M at one and its slow ones near it (Saad 2003, section 13). Where g = 1 the constants
    are taken out by mu on both sides. Built at the first use; where P_c cannot be solved with, M = I. latest: where rows and
    factors are kept, of one correction at a time.
    """

    operator: MarkovOperator
    skeleton: Skeleton
    law: np.ndarray
    discount: float
    latest: Latest = field(default_factory=Latest)

    @property
    def _recurrent(self) -> bool:
        return self.discount == 1.0 and self.operator.stochastic

    @property
    def _rows(self) -> sparse.csr_array | None:
        """The rows of P at the nodes; None where a product with all of P takes no longer than one with them."""
        return self.latest.of(self, "rows", self._light_rows)

    def _light_rows(self) -> sparse.csr_array | None:
        if shared() is not None:
            return None  # they have columns of other processes
        cells = self.skeleton.cells
        some = cells[np.linspace(0, cells.size - 1, min(_TRIED, cells.size)).astype(np.int64)]
        entries = self.operator.rows(some).nnz / some.size * cells.size
        return self.operator.rows(cells) if rows_are_light(entries, self.operator.work) else None

    @property
    def _columns(self) -> sparse.csc_array:
        return self.latest.of(self, "columns", lambda: self._rows.T)  # type: ignore[union-attr]

    def _at_nodes(self, function: np.ndarray) -> np.ndarray:
        """Return S P f, (size,)."""
        rows = self._rows
        if rows is not None:
            return np.asarray(rows @ function)
        result = np.zeros(self.skeleton.size)
        result[self._nodes] = self.operator.apply(function)[self._places]
        return sums(result)

    @cached_property
    def _nodes(self) -> np.ndarray:
        """The nodes that are own cells."""
        slabs = shared()
        if slabs is None:
            return np.arange(self.skeleton.size)
        return np.flatnonzero(np.isin(self.skeleton.cells, slabs.grid.numbers))

    @cached_property
    def _places(self) -> np.ndarray:
        """The places of these nodes among the own cells."""
        slabs, cells = shared(), self.skeleton.cells
        return cells if slabs is None else np.searchsorted(slabs.grid.numbers, cells[self._nodes])

    def _restricted(self, measure: np.ndarray) -> np.ndarray:
        return sums(self.skeleton.restricted(measure))

    def _from_nodes(self, masses: np.ndarray) -> np.ndarray:
        """Return nu S P for masses nu at the nodes (size,), (cells,)."""
        if self._rows is not None:
            return np.asarray(self._columns @ masses)
        measure = np.zeros(self.operator.size)
        measure[self._places] = masses[self._nodes]
        return self.operator.push(measure)

    def _coarse_law(self) -> np.ndarray:
        """Return P_c = S P H, (size, size)."""
        rows, cells = self._rows, self._places
        if rows is not None:
            return averaged(rows, self.skeleton)
        result = np.empty((cells.size, self.skeleton.size))
        for start in range(0, cells.size, _TOGETHER):
            some = slice(start, start + _TOGETHER)
            result[some] = averaged(self.operator.rows(cells[some]), self.skeleton)
        return together(self._nodes, result)

    @property
    def _factors(self) -> tuple[np.ndarray, np.ndarray] | None:
        found: tuple[np.ndarray, np.ndarray] | None = self.latest.of(self, "factors", self._factorised)
        return found

    def _factorised(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Factors of I - g P_c + 1 mu H; None where they are singular: the nodes part into classes that other cells join."""
        matrix = np.eye(self.skeleton.size) - self.discount * self._coarse_law()
        if self._recurrent:
            matrix += self._restricted(self.law)
        factors, pivots, _ = dgetrf(matrix, overwrite_a=1)
        size = np.abs(np.diagonal(factors))
        return (factors, pivots) if size.min() > _SINGULAR * size.max() else None

    def _solve(self, values: np.ndarray, transposed: bool = False) -> np.ndarray:
        factors = self._factors
        if factors is None:
            return np.zeros_like(values)
        return np.asarray(lu_solve(factors, values, trans=int(transposed), overwrite_b=True, check_finite=False))

    def right(self, function: np.ndarray) -> np.ndarray:
        """Return M f, (cells,)."""
        if not self._recurrent:
            slow = self._solve(self._at_nodes(function))
            return function + self.discount * self.skeleton.prolonged(slow)
        mean = dot(self.law, function)
        rest = self.skeleton.prolonged(self._solve(self._at_nodes(function) - mean))
        return function + (rest - dot(self.law, rest))

    def left(self, measure: np.ndarray) -> np.ndarray:
        """Return nu M, (cells,)."""
        if not self._recurrent:
            slow = self._solve(self._restricted(measure), transposed=True)
            return measure + self.discount * self._from_nodes(slow)
        mass = total(measure)
        rest = self._from_nodes(self._solve(self._restricted(measure - mass * self.law), transposed=True))
        return measure + (rest - total(rest) * self.law)

    def slow_function(self) -> np.ndarray | None:
        """Return the function that D takes farthest on the few cells, (cells,): near the slowest mode of P; None: not known."""
        if self._factors is None:
            return None
        values = probe_at(np.arange(self.skeleton.size), self.skeleton.size)
        for _ in range(_SLOW_STEPS):
            values = self._solve(values - values.mean())
            values /= largest(values)
        return self.skeleton.prolonged(values)
