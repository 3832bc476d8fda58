"""Solves with the fundamental matrix of a chain: with I - g P and its transpose, by factors or by iteration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.sparse import linalg as sparse_linalg

from wassgrid.chain import krylov
from wassgrid.chain.coarse import CoarseCorrection
from wassgrid.chain.reductions import all_cells, dot, everything, largest, likeliest, own, shared, total, total_variation
from wassgrid.resources import one_blas_thread
from wassgrid.transition.operator import MarkovOperator

METHODS = ("auto", "iteration", "krylov", "lu")
_RESTART = 60
_BICGSTAB_LIMIT = 400
_ROUNDS = 12  # of iterative refinement
DIRECT_COST = 400.0  # products that one factorisation of a narrow matrix may cost


class Factorisation:
    """Factorise I - g P once for solves with it and with its transpose.

    With g = 1 the matrix is singular, unless the chain stops somewhere; one recurrent cell r is taken out (its value and its mass
    are then known), and what is left is a nonsingular M-matrix, factorised without pivoting: stable, and sparse in a symmetric
    ordering.
    """

    def __init__(self, operator: MarkovOperator, discount: float = 1.0, pinned: int | None = None) -> None:
        # -g P; the row and the column of the pinned cell are then those of the identity
        columns = operator.matrix().tocsc()
        n = columns.shape[0]
        columns.data *= -discount
        self.pinned = pinned
        if discount == 1.0 and operator.stochastic:
            if pinned is None:
                raise ValueError("an average-cost factorisation needs the cell to be pinned")
            found = np.flatnonzero(columns.indices == pinned)
            self.row = np.zeros(n)
            self.row[np.searchsorted(columns.indptr, found, side="right") - 1] = columns.data[found]
            columns.data[found] = 0.0
            columns.data[columns.indptr[pinned] : columns.indptr[pinned + 1]] = 0.0
            self.row[pinned] = 0.0
        # zeros are left out of a sum
        matrix = sparse.eye_array(n, format="csc") + columns
        matrix.indices = matrix.indices.astype(np.int32, copy=False)
        matrix.indptr = matrix.indptr.astype(np.int32, copy=False)
        self.factors = sparse_linalg.splu(
            matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )

    def solve(self, right: np.ndarray) -> np.ndarray:
        """Solve (I - g P) x = right; for g = 1 with x = 0 at the pinned cell, whose equation is left out."""
        return own(self.factors.solve(self._without_pinned(everything(right))))

    def solve_transposed(self, right: np.ndarray) -> np.ndarray:
        """Solve x (I - g P) = right; for g = 1 with x = 0 at the pinned cell, whose equation is left out."""
        return own(self.factors.solve(self._without_pinned(everything(right)), trans="T"))

    def _without_pinned(self, right: np.ndarray) -> np.ndarray:
        if self.pinned is None:
            return right
        right = right.copy()
        right[self.pinned] = 0.0
        return right

    def null_law(self) -> np.ndarray:
        """Return the law with mu (I - P) = 0 from mu_r = 1: the expected visits between returns to the pinned cell."""
        law = self.factors.solve(-self.row, trans="T")
        law[self.pinned] = 1.0
        return own(law / law.sum())


def direct_is_cheap(operator: MarkovOperator) -> bool:
    """Tell whether sparse LU is likely to beat some thousand products: narrow bands, few entries or small matrices."""
    return direct_products(operator) <= DIRECT_COST


def direct_is_possible(operator: MarkovOperator) -> bool:
    """Tell whether the factors surely fit in a few GiB, filled completely in the worst case."""
    return all_cells(operator.size) <= 12_000 or direct_is_cheap(operator)


def direct_products(operator: MarkovOperator) -> float:
    """Estimate the cost of an LU in products with P."""
    return factorisation_products(all_cells(operator.size), operator.entries, operator.bandwidth)


def factorisation_products(n: int, entries: float, bandwidth: float) -> float:
    """Estimate the same for n cells and so many entries: n b^2 operations for bandwidth b after natural ordering."""
    band = min(bandwidth, float(n), 6.0 * np.sqrt(n) * np.sqrt(entries / n))
    return n * band * band / max(entries, 1)


@dataclass(frozen=True)
class ChainSolution:
    """Report one solve with I - g P: values (cells,), largest residual, products with P or P', method."""

    values: np.ndarray
    residual: float
    iterations: int
    method: str


@dataclass(frozen=True)
class Chain:
    """Solve with the fundamental matrix of a policy's chain, from the right and from the left.

    Average cost: D = (I - P + 1 mu)^{-1} (deviation matrix plus 1 mu). Discounted: D = (I - g P)^{-1}, also where the chain stops
    at a goal and g = 1. Both solves share one factorisation where that is the cheaper way, and are refined to `tolerance`
    otherwise. `known` gives factors that exist already, `correction` what takes the slow modes out of iterations.
    """

    operator: MarkovOperator
    law: np.ndarray
    discount: float  # 1 for the average cost
    method: str
    tolerance: float
    known: Factorisation | None = None
    correction: CoarseCorrection | None = None

    @property
    def recurrent(self) -> bool:
        """Whether the chain goes on for ever and nothing is discounted: I - P is singular, and constants are taken out."""
        return self.discount == 1.0 and self.operator.stochastic

    @cached_property
    def factors(self) -> Factorisation:
        if self.known is not None:
            return self.known
        if not self.recurrent:
            return Factorisation(self.operator, self.discount)
        return Factorisation(self.operator, pinned=likeliest(self.law))

    @cached_property
    def direct(self) -> bool:
        return self.method == "lu" or (self.method == "auto" and (self.known is not None or direct_is_cheap(self.operator)))

    @cached_property
    def repeated(self) -> Chain:
        """The same chain for many solves: by factors wherever they fit, though one solve alone would not be worth them."""
        if self.method != "auto" or self.direct or not direct_is_possible(self.operator):
            return self
        return replace(self, method="lu")

    def right(self, function: np.ndarray, guess: np.ndarray | None = None, tolerance: float | None = None) -> ChainSolution:
        """Return D f. The residual is sup |f - (I - g P + 1 mu) x|."""
        return self._solve(function, guess, tolerance, left=False)

    def left(self, measure: np.ndarray, guess: np.ndarray | None = None, tolerance: float | None = None) -> ChainSolution:
        """Return nu D for a signed measure nu. The residual is the total variation of what is left over."""
        return self._solve(measure, guess, tolerance, left=True)

    def _apply(self, x: np.ndarray, left: bool) -> np.ndarray:
        if left:
            result = x - self.discount * self.operator.push(x)
            return result + total(x) * self.law if self.recurrent else result
        result = x - self.discount * self.operator.apply(x)
        return result + dot(self.law, x) if self.recurrent else result

    def _direct(self, right: np.ndarray, left: bool) -> np.ndarray:
        """D f and nu D from the factors, in which one cell is pinned for the average cost."""
        if not self.recurrent:
            return self.factors.solve_transposed(right) if left else self.factors.solve(right)
        if left:
            mass = total(right)
            x = self.factors.solve_transposed(right - mass * self.law)
            return x + (mass - total(x)) * self.law
        mean = dot(self.law, right)
        x = self.factors.solve(right - mean)
        return x + (mean - dot(self.law, x))

    @one_blas_thread()
    def _solve(
        self, right: np.ndarray, guess: np.ndarray | None, tolerance: float | None, *, left: bool
    ) -> ChainSolution:
        size = total_variation if left else largest
        scale = size(right)
        if scale == 0.0:
            return ChainSolution(np.zeros_like(right), 0.0, 0, "none")
        target = (self.tolerance if tolerance is None else tolerance) * scale
        x = np.zeros_like(right) if guess is None else guess.copy()
        residual = right - self._apply(x, left)
        products, method = 1, "none"
        stalled = 0
        for _ in range(_ROUNDS):
            before = size(residual)
            if before <= target or stalled >= 2:
                break
            direct = self.direct or (self.method == "auto" and stalled >= 1 and direct_is_possible(self.operator))
            if direct:
                method = "lu"
                correction = self._direct(residual, left)
            elif self.method == "iteration":
                method = "iteration"
                correction, used = self._iterate(residual, left, target)
                products += used
            else:
                method = "krylov"
                correction, used = self._krylov(residual, left, target, stalled > 0)
                products += used
            trial = x + correction
            trial_residual = right - self._apply(trial, left)
            products += 1
            after = size(trial_residual)
            if after < before:
                x, residual = trial, trial_residual
            stalled = stalled + 1 if not after < 0.5 * before else 0
        return ChainSolution(x, size(residual), products, method)

    def _krylov(self, residual: np.ndarray, left: bool, target: float, stalled: bool) -> tuple[np.ndarray, int]:
        """Solve for a correction by BiCGSTAB (few vectors), by restarted GMRES where that stalled."""
        size = total_variation if left else largest
        if not stalled:
            correct = None if self.correction is None else self.correction.left if left else self.correction.right
            found = krylov.solve(
                lambda x: self._apply(x, left), np.zeros_like(residual), residual, size, 0.5 * target, 2 * _BICGSTAB_LIMIT,
                correct,
            )  # fmt: skip
            return found.values, found.products
        if shared() is not None:
            again = krylov.gmres(
                lambda x: self._apply(x, left), np.zeros_like(residual), residual, size, 0.5 * target, 8 * _RESTART, _RESTART
            )
            return again.values, again.products
        products = 0

        def apply(x: np.ndarray) -> np.ndarray:
            nonlocal products
            products += 1
            return self._apply(np.asarray(x, dtype=float).ravel(), left)

        n = residual.size
        linear = sparse_linalg.LinearOperator((n, n), matvec=apply, dtype=float)
        # the 2-norm bounds the sup-norm, and the 1-norm up to sqrt(n)
        absolute = target / np.sqrt(n) if left else target
        correction, _ = sparse_linalg.gmres(
            linear, residual, rtol=1e-10, atol=0.5 * absolute, restart=min(_RESTART, n), maxiter=8
        )
        return correction, products

    def _iterate(self, residual: np.ndarray, left: bool, target: float) -> tuple[np.ndarray, int]:
        """Sum the Neumann series x = sum_k (g P - 1 mu)^k r: relative value iteration, the reference method."""
        x, term = np.zeros_like(residual), residual
        products = 0
        while products < 200_000 and largest(term) > 1e-3 * target:
            x = x + term
            term = term - self._apply(term, left)
            products += 1
        return x, products
