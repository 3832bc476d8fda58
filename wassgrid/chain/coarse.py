"""The fundamental matrix of a chain on a few cells, which takes the slow modes out of Krylov iterations on all of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import sparse
from scipy.linalg import lu_solve
from scipy.linalg.lapack import dgetrf

from wassgrid.chain.probe import probe_function
from wassgrid.chain.reductions import dot, largest, total
from wassgrid.grid.skeleton import Skeleton
from wassgrid.transition.latest import Latest
from wassgrid.transition.operator import MarkovOperator
from wassgrid.transition.sparse import averaged

_SINGULAR = 1e-13  # of the largest pivot
_SLOW_STEPS = 30  # of inverse iteration for the slowest mode


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
    def _rows(self) -> sparse.csr_array:
        return self.latest.of(self, "rows", lambda: self.operator.rows(self.skeleton.cells))

    @property
    def _columns(self) -> sparse.csc_array:
        return self.latest.of(self, "columns", lambda: self._rows.T)

    @property
    def _factors(self) -> tuple[np.ndarray, np.ndarray] | None:
        found: tuple[np.ndarray, np.ndarray] | None = self.latest.of(self, "factors", self._factorised)
        return found

    def _factorised(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Factors of I - g P_c + 1 mu H; None where they are singular: the nodes part into classes that other cells join."""
        matrix = np.eye(self.skeleton.size) - self.discount * averaged(self._rows, self.skeleton)
        if self.discount == 1.0:
            matrix += self.skeleton.restricted(self.law)
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
        if self.discount < 1.0:
            slow = self._solve(self._rows @ function)
            return function + self.discount * self.skeleton.prolonged(slow)
        mean = dot(self.law, function)
        rest = self.skeleton.prolonged(self._solve(self._rows @ function - mean))
        return function + (rest - dot(self.law, rest))

    def left(self, measure: np.ndarray) -> np.ndarray:
        """Return nu M, (cells,)."""
        if self.discount < 1.0:
            slow = self._solve(self.skeleton.restricted(measure), transposed=True)
            return measure + self.discount * (self._columns @ slow)
        mass = total(measure)
        rest = self._columns @ self._solve(self.skeleton.restricted(measure - mass * self.law), transposed=True)
        return measure + (rest - total(rest) * self.law)

    def slow_function(self) -> np.ndarray | None:
        """Return the function that D takes farthest on the few cells, (cells,): near the slowest mode of P; None: not known."""
        if self._factors is None:
            return None
        values = probe_function(self.skeleton.size)
        for _ in range(_SLOW_STEPS):
            values = self._solve(values - values.mean())
            values /= largest(values)
        return self.skeleton.prolonged(values)
