"""Krylov iterations for A x = b, ended by the norm that the caller needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from wassgrid.chain.reductions import dot, shared
from wassgrid.chain.reductions import products as products_of
from wassgrid.resources import SHORT_RECURRENCE, krylov_vectors, one_blas_thread

Product = Callable[[np.ndarray], np.ndarray]
Norm = Callable[[np.ndarray], float]

_TRIED = 2  # vectors of GMRES after which it is judged
_COSTLY = 12.0  # products that plain GMRES must be expected to take yet before a correction is made, which costs some
_TINY = 1e-300
_NEAR = 1.5  # times the size wanted: what the size of a residual must be expected to be before it is formed
_LOST = 0.1  # of a vector's norm left after it was made orthogonal to others: below, once is not enough


@dataclass(frozen=True)
class KrylovResult:
    """A solution x (cells,), the residual b - A x as the iteration knows it, products with A, and why it ended."""

    values: np.ndarray
    residual: np.ndarray
    products: int
    converged: bool
    reason: str


@one_blas_thread()
def bicgstab(
    product: Product,
    start: np.ndarray,
    residual: np.ndarray,
    size: Norm,
    wanted: float,
    limit: int,
    correct: Product | None = None,
) -> KrylovResult:
    """Iterate from `start`, whose residual b - A start is given, until size(residual) <= wanted or `limit` products.

    The method of van der Vorst (1992), with steps that `correct` takes as an approximate inverse of A. The best iterate by the
    2-norm is returned where the iteration ends without. Nothing given is modified.
    """
    x, r = start.copy(), residual.copy()
    shadow = r.copy()
    rho = dot(shadow, r)
    length = np.sqrt(rho)
    direction, products = r.copy(), 0
    best, best_residual, least = start, residual, length
    reason = f"{limit} products"
    correct = _unchanged if correct is None else correct
    while products + 2 <= limit:
        if not rho or not np.isfinite(rho):
            reason = "breakdown of BiCGSTAB"
            break
        step = correct(direction)
        v = product(step)
        alpha = rho / (dot(shadow, v) or np.nan)
        s = r - alpha * v
        products += 1
        if size(s) <= wanted:
            return KrylovResult(x + alpha * step, s, products, True, "converged")
        second = correct(s)
        t = product(second)
        products += 1
        omega = dot(t, s) / (dot(t, t) or np.nan)
        x += alpha * step
        x += omega * second
        r = s - omega * t
        length = np.sqrt(dot(r, r))
        if not np.isfinite(length):
            reason = "breakdown of BiCGSTAB"
            break
        if size(r) <= wanted:
            return KrylovResult(x, r, products, True, "converged")
        if length < least:
            best, best_residual, least = x.copy(), r, length
        before, rho = rho, dot(shadow, r)
        beta = rho / before * (alpha / (omega or np.nan))
        if abs(rho) < 1e-12 * length * np.sqrt(dot(shadow, shadow)):
            # the shadow has lost the residual: begin again from here
            shadow = r.copy()
            rho, direction = dot(r, r), r.copy()
            continue
        direction -= omega * v
        direction *= beta
        direction += r
    return KrylovResult(best, best_residual, products, False, reason)


@one_blas_thread()
def gmres(
    product: Product,
    start: np.ndarray,
    residual: np.ndarray,
    size: Norm,
    wanted: float,
    limit: int,
    restart: int,
    correct: Product | None = None,
) -> KrylovResult:
    """Minimise |b - A x|_2 over Krylov spaces of up to `restart` vectors, until size(b - A x) <= wanted or `limit` products.

    From `start`, whose residual is given. One product an iteration, where BiCGSTAB takes two, for `restart` vectors of memory
    (Saad and Schultz 1986): with an orthonormal basis B and A B_k = B_{k+1} H, the least residual is that of
    |beta e_1 - H y|, by rotations that make H triangular. It is formed, and its size taken, where its 2-norm lets expect
    that it is small enough. `correct`, an approximate inverse of A, costs some products: from the vector on at which
    the plain method is seen to be slow, A correct(b) stands for A b (flexible GMRES, Saad 1993).
    """
    slow = False
    x, r, products = start, residual, 0
    known = size(r)
    if known <= wanted:
        return KrylovResult(x, r, 0, True, "converged")
    while products < limit:
        beta = math.sqrt(dot(r, r))
        if not 0.0 < beta < math.inf:
            return KrylovResult(x, r, products, False, "breakdown of GMRES")
        expected = known / beta  # size of a residual of norm one
        vectors = min(restart, limit - products)
        plain = 0 if slow else vectors  # vectors before the first that is corrected
        basis = np.empty((vectors + 1, r.size))
        np.multiply(r, 1.0 / beta, out=basis[0])
        # columns of the triangle, the rotations (c, s), and what they make of beta e_1
        columns: list[list[float]] = []
        turns: list[tuple[float, float]] = []
        right = [beta]
        for k in range(vectors):
            if not slow and correct is not None and k >= _TRIED:
                # as fast as with the last vector, from here to the size wanted
                before, rest, goal = (max(norm, _TINY) for norm in (abs(right[k - 1]), abs(right[k]), wanted / (expected or 1.0)))
                slow = math.log(rest / goal) > _COSTLY * math.log(before / rest)
                plain = k if slow else plain
            w = product(correct(basis[k]) if slow and correct is not None else basis[k])
            products += 1
            length = math.sqrt(dot(w, w))
            part = products_of(basis[: k + 1], w)
            w = w - part @ basis[: k + 1]
            left = math.sqrt(dot(w, w))
            if left < _LOST * length:
                again = products_of(basis[: k + 1], w)
                w -= again @ basis[: k + 1]
                part += again
                left = math.sqrt(dot(w, w))
            column: list[float] = part.tolist()
            for row, (c, s) in enumerate(turns):
                column[row], column[row + 1] = c * column[row] + s * column[row + 1], c * column[row + 1] - s * column[row]
            ended = not left > 1e-14 * length
            pivot = math.hypot(column[k], left)
            if not 0.0 < pivot < math.inf:
                # A maps the space into itself and is singular there
                vectors = k
                trial = _remainder(turns, right[k]) @ basis[: k + 1]
                known = size(trial)
                break
            c, s = column[k] / pivot, left / pivot
            column[k] = pivot
            columns.append(column)
            turns.append((c, s))
            right[k:] = [c * right[k], -s * right[k]]
            if not ended:
                np.multiply(w, 1.0 / left, out=basis[k + 1])
            rest = abs(right[k + 1])
            if ended or k == vectors - 1 or rest * expected <= _NEAR * wanted:
                inside = k + 1 if ended else k + 2
                trial = _remainder(turns, right[k + 1])[:inside] @ basis[:inside]
                known = size(trial)
                expected = known / rest if rest > 0.0 else 0.0
                if known <= wanted or ended or k == vectors - 1:
                    vectors = k + 1
                    break
        if vectors:
            y = _back_substituted(columns, right[:vectors])
            few = min(plain, vectors)
            x = x + y[:few] @ basis[:few]
            if few < vectors and correct is not None:
                x += correct(y[few:] @ basis[few:vectors])
        r = trial
        if known <= wanted:
            return KrylovResult(x, r, products, True, "converged")
        if not math.sqrt(dot(r, r)) < 0.99 * beta:
            return KrylovResult(x, r, products, False, "GMRES makes no progress")
    return KrylovResult(x, r, products, False, f"{limit} products")


def _unchanged(x: np.ndarray) -> np.ndarray:
    return x


def _remainder(turns: list[tuple[float, float]], rest: float) -> np.ndarray:
    """Return beta e_1 - H y of the least residual: the rotations undone on (0, ..., 0, rest)."""
    result = np.empty(len(turns) + 1)
    for k in range(len(turns) - 1, -1, -1):
        c, s = turns[k]
        result[k + 1] = c * rest
        rest = -s * rest
    result[0] = rest
    return result


def _back_substituted(columns: list[list[float]], right: list[float]) -> np.ndarray:
    """Solve R y = right for the upper triangle R, given by its columns."""
    n = len(right)
    triangle = np.zeros((n, n))
    for k, column in enumerate(columns[:n]):
        triangle[: k + 1, k] = column[: k + 1]
    return np.asarray(solve_triangular(triangle, np.array(right)))


def solve(
    product: Product,
    start: np.ndarray,
    residual: np.ndarray,
    size: Norm,
    wanted: float,
    limit: int,
    correct: Product | None = None,
) -> KrylovResult:
    """Solve by GMRES where enough vectors fit, by BiCGSTAB where not; see there."""
    slabs = shared()
    vectors = krylov_vectors(start.size if slabs is None else slabs.largest)
    if vectors > SHORT_RECURRENCE:
        found = gmres(product, start, residual, size, wanted, limit, vectors, correct)
        if found.converged:
            return found
        rest = bicgstab(product, found.values, found.residual, size, wanted, limit, correct)
        return KrylovResult(rest.values, rest.residual, found.products + rest.products, rest.converged, rest.reason)
    return bicgstab(product, start, residual, size, wanted, limit, correct)
