"""Krylov iterations for A x = b, ended by the norm that the caller needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wassgrid.chain.reductions import dot
from wassgrid.resources import SHORT_RECURRENCE, krylov_vectors, one_blas_thread

Product = Callable[[np.ndarray], np.ndarray]


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
    product: Product, start: np.ndarray, residual: np.ndarray, done: Callable[[np.ndarray], bool], limit: int
) -> KrylovResult:
    """Iterate from `start`, whose residual b - A start is given, until done(residual) or `limit` products (van der Vorst 1992).

    The best iterate by the 2-norm is returned where the iteration ends without. Nothing given is modified.
    """
    x, r = start.copy(), residual.copy()
    shadow = r.copy()
    rho = dot(shadow, r)
    size = np.sqrt(rho)
    direction, products = r.copy(), 0
    best, best_residual, least = start, residual, size
    reason = f"{limit} products"
    while products + 2 <= limit:
        if not rho or not np.isfinite(rho):
            reason = "breakdown of BiCGSTAB"
            break
        v = product(direction)
        alpha = rho / (dot(shadow, v) or np.nan)
        s = r - alpha * v
        products += 1
        if done(s):
            return KrylovResult(x + alpha * direction, s, products, True, "converged")
        t = product(s)
        products += 1
        omega = dot(t, s) / (dot(t, t) or np.nan)
        x += alpha * direction
        x += omega * s
        r = s - omega * t
        size = np.sqrt(dot(r, r))
        if not np.isfinite(size):
            reason = "breakdown of BiCGSTAB"
            break
        if done(r):
            return KrylovResult(x, r, products, True, "converged")
        if size < least:
            best, best_residual, least = x.copy(), r, size
        before, rho = rho, dot(shadow, r)
        beta = rho / before * (alpha / (omega or np.nan))
        if abs(rho) < 1e-12 * size * np.sqrt(dot(shadow, shadow)):
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
    product: Product, start: np.ndarray, residual: np.ndarray, done: Callable[[np.ndarray], bool], limit: int, restart: int
) -> KrylovResult:
    """Minimise |b - A x|_2 over Krylov spaces of up to `restart` vectors, from `start`, until done(residual) or `limit` products.

    One product an iteration, where BiCGSTAB takes two, for `restart` vectors of memory (Saad and Schultz 1986; orthogonalised
    twice by classical Gram-Schmidt). The residual that `done` sees is the least one of the space at hand.
    """
    x, r, products = start, residual, 0
    while products < limit:
        beta = np.sqrt(dot(r, r))
        if not beta > 0.0 or not np.isfinite(beta):
            return KrylovResult(x, r, products, False, "breakdown of GMRES")
        size = min(restart, limit - products)
        basis = np.empty((size + 1, r.size))
        np.multiply(r, 1.0 / beta, out=basis[0])
        h = np.zeros((size + 1, size))
        for k in range(size):
            w = product(basis[k])
            products += 1
            for _ in range(2):
                part = basis[: k + 1] @ w
                w -= part @ basis[: k + 1]
                h[: k + 1, k] += part
            h[k + 1, k] = np.sqrt(dot(w, w))
            ended = not h[k + 1, k] > 1e-14 * beta
            if not ended:
                np.multiply(w, 1.0 / h[k + 1, k], out=basis[k + 1])
            last = ended or k == size - 1
            if last or k % 2:
                # argmin |beta e_1 - H y|, and what is left of it
                right = np.zeros(k + 2)
                right[0] = beta
                y = np.linalg.lstsq(h[: k + 2, : k + 1], right, rcond=None)[0]
                rest = right - h[: k + 2, : k + 1] @ y
                trial = rest[: k + 1] @ basis[: k + 1] if ended else rest @ basis[: k + 2]
                finished = done(trial)
                if finished or last:
                    x = x + y @ basis[: k + 1]
                    if finished:
                        return KrylovResult(x, trial, products, True, "converged")
                    before, r = beta, trial
                    break
        if not np.sqrt(dot(r, r)) < 0.99 * before:
            return KrylovResult(x, r, products, False, "GMRES makes no progress")
    return KrylovResult(x, r, products, False, f"{limit} products")




def solve(
    product: Product, start: np.ndarray, residual: np.ndarray, done: Callable[[np.ndarray], bool], limit: int
) -> KrylovResult:
    """Solve by GMRES where enough vectors fit, by BiCGSTAB where not; see there."""
    vectors = krylov_vectors(start.size)
    if vectors > SHORT_RECURRENCE:
        found = gmres(product, start, residual, done, limit, vectors)
        if found.converged:
            return found
        rest = bicgstab(product, found.values, found.residual, done, limit)
        return KrylovResult(rest.values, rest.residual, found.products + rest.products, rest.converged, rest.reason)
    return bicgstab(product, start, residual, done, limit)
