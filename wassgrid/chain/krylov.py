"""Krylov iterations for A x = b, ended by the norm that the caller needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wassgrid.chain.reductions import dot
from wassgrid.resources import one_blas_thread

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
