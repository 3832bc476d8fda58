"""The Newton step of one particle in a box: the minimum of a quadratic model with positive curvature under bounds."""

from __future__ import annotations

import numpy as np


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
    values, vectors = np.linalg.eigh(np.where(either, np.eye(m), hessian))
    size = np.abs(values) + 1.0 / tau
    # an eigenvalue at rounding level gives no step length
    size = np.maximum(size, 1e-14 * size.max(axis=1, keepdims=True) + np.finfo(float).tiny)
    return np.einsum("kab,kb,kcb->kac", vectors, size, vectors)


def _box_minimum(g: np.ndarray, h: np.ndarray, below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Minimise g . x + x h x / 2 over below <= x <= above for positive definite h (K, m, m), by primal-dual active sets.

    Where the active sets have not settled after 3 m + 4 rounds, the projected gradient step of length 1/|h| is returned.
    """
    rows, m = g.shape
    side = np.zeros((rows, m), np.int64)
    x = np.zeros((rows, m))
    open_rows = np.arange(rows)
    for _ in range(3 * m + 4):
        s = side[open_rows]
        free = s == 0
        bound = np.where(s < 0, below[open_rows], np.where(s > 0, above[open_rows], 0.0))
        both = free[:, :, None] & free[:, None, :]
        reduced = np.where(both, h[open_rows], np.eye(m))
        right = np.where(free, -g[open_rows] - np.einsum("kab,kb->ka", h[open_rows], bound), bound)
        x[open_rows] = np.linalg.solve(reduced, right[:, :, None])[:, :, 0]
        here = x[open_rows]
        force = g[open_rows] + np.einsum("kab,kb->ka", h[open_rows], here)
        new = np.where(free, np.where(here < below[open_rows], -1, np.where(here > above[open_rows], 1, 0)), s)
        # a bound is left where the force points into the box
        new = np.where((s < 0) & (force < 0) | (s > 0) & (force > 0), 0, new)
        changed = (new != s).any(axis=1)
        side[open_rows] = new
        open_rows = open_rows[changed]
        if open_rows.size == 0:
            return np.clip(x, below, above)
    step = np.abs(h[open_rows]).sum(axis=2).max(axis=1, keepdims=True)
    x[open_rows] = -g[open_rows] / step
    return np.clip(x, below, above)
