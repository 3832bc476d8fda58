"""The Newton step of one particle in a box: the minimum of a quadratic model with positive curvature under bounds."""

from __future__ import annotations

import numpy as np

_SINGULAR = 1e-14  # of the largest eigenvalue: one below is rounding


def newton_candidates(
    gradient: np.ndarray,
    hessian: np.ndarray,
    actions: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    tau: float = np.inf,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the Newton points of particles in a box, and the predicted first-order change of Q along each move.

        delta = argmin  g . delta + delta (H + I/tau) delta / 2,   low <= a + delta <= high

    gradient, actions, low, high (K, m), hessian (K, m, m) -> candidates (K, m), slope (K,) <= 0. Components on a bound that the
    gradient pushes against stay there; of the others, the eigenvalues of H enter by their moduli (Dauphin et al. 2014, for
    one action: |Q''|), so that the move descends where the curvature is indefinite. The box-constrained quadratic
    programme is solved exactly by active sets: its solution is a descent direction, which the projection of a Newton step
    onto several bounds need not be (Bertsekas 1982).
    """
    held = ((actions <= low) & (gradient > 0)) | ((actions >= high) & (gradient < 0))
    g = np.where(held, 0.0, gradient)
    below, above = np.where(held, 0.0, low - actions), np.where(held, 0.0, high - actions)
    if actions.shape[1] == 1:
        curvature = np.abs(hessian[:, :, 0]) + 1.0 / tau
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            delta = np.where(g == 0.0, 0.0, -g / curvature)
        delta = np.clip(delta, below, above)
    else:
        delta = _box_minimum(g, _positive_part(hessian, held, tau), below, above)
    # a point of the box to the last bit
    candidates = np.clip(actions + delta, low, high)
    return candidates, np.einsum("ka,ka->k", g, candidates - actions)


def _positive_part(hessian: np.ndarray, held: np.ndarray, tau: float) -> np.ndarray:
    """Return |H| + I/tau on the components that are not held, the identity on those that are."""
    m = hessian.shape[1]
    either = held[:, :, None] | held[:, None, :]
    hessian = np.where(either, np.eye(m), hessian)
    if m == 2:
        # f(H) = f(x) I + (f(y) - f(x))/(y - x) (H - x I) for eigenvalues x <= y: the half trace less and plus a radius
        (a, b), d = hessian[:, 0].T, hessian[:, 1, 1]
        centre, radius = 0.5 * (a + d), np.hypot(0.5 * (a - d), b)
        low, high = _sizes(np.stack([centre - radius, centre + radius], axis=1), tau).T
        slope = np.divide(high - low, 2.0 * radius, out=np.zeros_like(radius), where=radius > 0.0)
        result = slope[:, None, None] * hessian
        result[:, [0, 1], [0, 1]] += (0.5 * (low + high) - slope * centre)[:, None]
        return result
    values, vectors = np.linalg.eigh(hessian)
    return (vectors * _sizes(values, tau)[:, None, :]) @ vectors.transpose(0, 2, 1)


def _sizes(values: np.ndarray, tau: float) -> np.ndarray:
    """Return the moduli of eigenvalues (K, m), plus 1/tau; one at rounding level gives no step length."""
    size = np.abs(values) + 1.0 / tau
    return np.maximum(size, _SINGULAR * size.max(axis=1, keepdims=True) + np.finfo(float).tiny)


def _solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve matrix x = right for positive definite matrices (K, m, m), right (K, m): two components by Cramer's rule."""
    if right.shape[1] != 2:
        return np.asarray(np.linalg.solve(matrix, right[:, :, None])[:, :, 0])
    size = matrix.max(axis=(1, 2))
    (a, b), d = (matrix[:, 0] / size[:, None]).T, matrix[:, 1, 1] / size
    u, v = right.T
    # a determinant that rounding has taken is that of the least eigenvalue
    determinant = np.maximum(a * d - b * b, _SINGULAR * a * d)
    with np.errstate(over="ignore"):
        return np.asarray(np.stack([d * u - b * v, a * v - b * u], axis=1) / (determinant * size)[:, None])


def _box_minimum(g: np.ndarray, h: np.ndarray, below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Minimise g . x + x h x / 2 over below <= x <= above for positive definite h (K, m, m), by primal-dual active sets.

    Sets that have not settled after 3 m + 4 rounds go in circles: from then on the first component alone changes, which does not
    (Murty 1974). Where rounding keeps them from settling, the projected gradient step of length 1/|h| is returned.
    """
    rows, m = g.shape
    side = np.zeros((rows, m), np.int64)
    x = np.zeros((rows, m))
    open_rows = np.arange(rows)
    together = 3 * m + 4
    for round_ in range(together + 16 * m * m):
        s = side[open_rows]
        free = s == 0
        bound = np.where(s < 0, below[open_rows], np.where(s > 0, above[open_rows], 0.0))
        both = free[:, :, None] & free[:, None, :]
        reduced = np.where(both, h[open_rows], np.eye(m))
        right = np.where(free, -g[open_rows] - np.einsum("kab,kb->ka", h[open_rows], bound), bound)
        x[open_rows] = _solved(reduced, right)
        here = x[open_rows]
        force = g[open_rows] + np.einsum("kab,kb->ka", h[open_rows], here)
        new = np.where(free, np.where(here < below[open_rows], -1, np.where(here > above[open_rows], 1, 0)), s)
        # a bound is left where the force points into the box
        new = np.where((s < 0) & (force < 0) | (s > 0) & (force > 0), 0, new)
        if round_ >= together:
            new = np.where(np.arange(m) == (new != s).argmax(axis=1)[:, None], new, s)
        changed = (new != s).any(axis=1)
        side[open_rows] = new
        open_rows = open_rows[changed]
        if open_rows.size == 0:
            return np.clip(x, below, above)
    step = np.abs(h[open_rows]).sum(axis=2).max(axis=1, keepdims=True)
    x[open_rows] = -g[open_rows] / step
    return np.clip(x, below, above)
