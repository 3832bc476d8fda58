"""Solves for a chain given as a matrix, of any number of recurrent classes, discounted or not: by iteration or by factors.

With classes R_k, a law u_k on each of them and the indicator 1_k of its cells

    A = I - g P + sum_k 1_k u_k'    (where g < 1 without the sum, or with one class, which takes the constants out)

is regular, and one matrix tells all: A x = c has u_k(x) = the average cost of class k; A x = c - gain gives the relative value
with u_k(V) = 0; x A = sum_k u_k is the sum of the stationary laws. Cells outside all classes are transient; where there is one
class, all cells may belong to it, and A 1 = 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.sparse import linalg as sparse_linalg

from wassgrid.chain import krylov
from wassgrid.chain.reductions import largest, total_variation
from wassgrid.transition.sparse import TransitionOperator

_ROUNDS = 8  # of iterative refinement
_ROUNDING = 8.0 * np.finfo(float).eps  # of a residual, per size of x
_MOST_ENTRIES, _MOST_OPERATIONS = 6e7, 6e10  # of factors, at most, in the order of Cuthill and McKee
_FIRST_PRODUCTS, _PRODUCTS = 120, 2000  # of an iteration where factors fit, and where they do not
_ANEW = 1e-9  # chance with which a chain starts anew, to tell its likely cells
TRANSIENT = -1


@dataclass(frozen=True)
class Solved:
    """x (cells,), the size of what is left of the right side (largest, or sum from the left), products with P, factors or not."""

    values: np.ndarray
    residual: float
    products: int
    direct: bool


@dataclass
class Resolvent:
    """Solve with A from the right and from the left; see above.

    label (cells,): the class of every cell, TRANSIENT for none; None: no sum, with discount < 1. anchors (cells,): the laws
    u_k, side by side. direct: begin with factors; they follow by themselves where iterations are slow and factors fit.
    """

    operator: TransitionOperator
    discount: float = 1.0
    label: np.ndarray | None = None
    anchors: np.ndarray | None = None
    direct: bool = False
    _factors: _Factors | None = field(default=None, repr=False)

    def right(self, function: np.ndarray, guess: np.ndarray | None = None, tolerance: float = 1e-13) -> Solved:
        """Solve A x = function (cells,) to a residual of `tolerance` times the largest of function."""
        return self._solve(function, guess, tolerance, left=False)

    def left(self, measure: np.ndarray, guess: np.ndarray | None = None, tolerance: float = 1e-13) -> Solved:
        """Solve x A = measure (cells,) to a residual of `tolerance` times its total variation."""
        return self._solve(measure, guess, tolerance, left=True)

    def per_class(self, x: np.ndarray) -> np.ndarray:
        """Return sum_k x_k over the cells of every class, (classes,)."""
        assert self.label is not None
        inside = self.label >= 0
        return np.bincount(self.label[inside], x[inside])

    def spread(self, of: np.ndarray) -> np.ndarray:
        """Return sum_k of_k 1_k, (cells,), for numbers of the classes (classes,)."""
        assert self.label is not None
        return np.where(self.label >= 0, of[self.label], 0.0)

    def _apply(self, x: np.ndarray, left: bool) -> np.ndarray:
        result = x - self.discount * (self.operator.push(x) if left else self.operator.apply(x))
        if self.label is None or self.anchors is None:
            return np.asarray(result)
        if left:
            return np.asarray(result + self.anchors * self.spread(self.per_class(x)))
        return np.asarray(result + self.spread(self.per_class(self.anchors * x)))

    def _solve(self, right: np.ndarray, guess: np.ndarray | None, tolerance: float, *, left: bool) -> Solved:
        size = total_variation if left else largest
        wanted = tolerance * size(right)
        x = np.zeros_like(right) if guess is None else guess
        residual = right - self._apply(x, left)
        products, stalled = 1, 0
        for _ in range(_ROUNDS):
            before = size(residual)
            target = max(wanted, _ROUNDING * size(x))
            if before <= target or stalled >= 2:
                break
            if stalled and not self.direct and factors_fit(self.operator.matrix()):
                self.direct = True
            if self.direct:
                correction = self._divided(residual, left)
            else:
                limit = _PRODUCTS if stalled else _FIRST_PRODUCTS
                found = krylov.solve(
                    lambda y: self._apply(y, left), np.zeros_like(right), residual, size, 0.5 * target, limit
                )
                correction, products = found.values, products + found.products
            trial = x + correction
            trial_residual = right - self._apply(trial, left)
            products += 1
            after = size(trial_residual)
            if after < before:
                x, residual = trial, trial_residual
            # iterations that are slow are given up soon, factors when they do not refine any more
            stalled = stalled + 1 if not after < (0.5 * before if self.direct else max(0.01 * before, target)) else 0
        return Solved(x, size(residual), products, self.direct)

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def _divided(self, right: np.ndarray, left: bool) -> np.ndarray:
        if self._factors is None:
            self._factors = _Factors.of(self.operator.matrix(), self.discount, self.label, self.anchors)
        factors = self._factors
        x = factors.left(right) if left else factors.right(right)
        if self.label is None or self.anchors is None:
            return x
        # D has the law of one cell a class in the place of u_k; D^{-1} 1_k is a function on which all laws of a class agree
        apart = -self.anchors
        apart[factors.pinned] += 1.0
        if left:
            return factors.left(right + apart * self.spread(self.per_class(x)))
        return factors.right(right + self.spread(self.per_class(apart * x)))


@dataclass(frozen=True)
class _Factors:
    """Solve with D = I - g P + sum_k 1_k e_k', e_k the law of one pinned cell of class k.

    Without the rows and columns of the pinned cells it is an M-matrix, factorised in a symmetric order and without pivoting,
    which a full column would spoil; the cells are put back by their Schur complement, diagonal since classes do not meet.
    """

    inner: sparse_linalg.SuperLU
    pinned: np.ndarray  # (classes,)
    row: sparse.csr_array  # (classes, cells): of D at the pinned cells, zero there
    column: sparse.csr_array  # (cells, classes)
    schur: np.ndarray  # (classes,)

    @classmethod
    def of(
        cls, matrix: sparse.csr_array, discount: float, label: np.ndarray | None, anchors: np.ndarray | None
    ) -> _Factors:
        cells = matrix.shape[0]
        whole = sparse.csr_array(sparse.eye_array(cells, format="csr") - discount * matrix)
        pinned = np.empty(0, np.int64)
        if label is not None and anchors is not None:
            # the likeliest cell of every class: to a rare one it takes for ever to return. The law of a chain that now and then
            # starts anew is known to rounding whatever the chain is
            likely = _factorised(sparse.eye_array(cells) - (1.0 - _ANEW) * matrix).solve(np.full(cells, _ANEW / cells), trans="T")
            order = np.lexsort((-likely, label))
            pinned = order[np.searchsorted(label[order], np.arange(int(label.max()) + 1))]
        free = np.ones(cells)
        free[pinned] = 0.0
        kept = sparse.diags_array(free, format="csr")
        member = sparse.csr_array((cells, pinned.size))
        if label is not None:
            inside = np.flatnonzero(label >= 0)
            member = sparse.csr_array((np.ones(inside.size), (inside, label[inside])), shape=member.shape)
        row, column = whole[pinned] @ kept, kept @ (sparse.csr_array(whole[:, pinned]) + member)
        inner = _factorised(kept @ whole @ kept + sparse.diags_array(1.0 - free))
        corner = whole.diagonal()[pinned] + 1.0
        return cls(inner, pinned, row, column, corner - row @ inner.solve(column @ np.ones(pinned.size)))

    def right(self, right: np.ndarray) -> np.ndarray:
        """Solve D x = right."""
        if not self.pinned.size:
            return np.asarray(self.inner.solve(right))
        rest = right.copy()
        rest[self.pinned] = 0.0
        held = (right[self.pinned] - self.row @ self.inner.solve(rest)) / self.schur
        x = self.inner.solve(rest - self.column @ held)
        x[self.pinned] = held
        return np.asarray(x)

    def left(self, right: np.ndarray) -> np.ndarray:
        """Solve x D = right."""
        if not self.pinned.size:
            return np.asarray(self.inner.solve(right, trans="T"))
        rest = right.copy()
        rest[self.pinned] = 0.0
        held = (right[self.pinned] - self.inner.solve(rest, trans="T") @ self.column) / self.schur
        x = self.inner.solve(rest - held @ self.row, trans="T")
        x[self.pinned] = held
        return np.asarray(x)


def _factorised(matrix: sparse.sparray) -> sparse_linalg.SuperLU:
    columns = sparse.csc_array(matrix)
    columns.indices = columns.indices.astype(np.int32, copy=False)
    columns.indptr = columns.indptr.astype(np.int32, copy=False)
    return sparse_linalg.splu(columns, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})


def factors_fit(matrix: sparse.csr_array) -> bool:
    """Tell whether the factors of I - P fit, in time and memory: those within the profile of the order of Cuthill and McKee.

    They are few where cells lie in one or two dimensions and go to near ones, whatever their numbers; the order in which they
    are computed has fewer still.
    """
    cells = matrix.shape[0]
    order = csgraph.reverse_cuthill_mckee(sparse.csr_matrix(matrix), symmetric_mode=False)
    place = np.empty(cells, np.int64)
    place[order] = np.arange(cells)
    row = np.repeat(place, np.diff(matrix.indptr))
    column = place[matrix.indices]
    extent = np.zeros(cells)
    np.maximum.at(extent, np.maximum(row, column), np.abs(row - column).astype(float))
    return bool(extent.sum() <= _MOST_ENTRIES and 2.0 * (extent**2).sum() <= _MOST_OPERATIONS)
