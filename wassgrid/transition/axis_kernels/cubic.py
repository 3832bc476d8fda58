"""The cubic kernel: four-point Lagrange interpolation, for axes without noise."""

from __future__ import annotations

import math

import numpy as np

from wassgrid.transition.axis_kernels.facts import SNAP, AxisKernel
from wassgrid.transition.compiled import CLAMP, allocating_nothing

KERNEL = AxisKernel(
    "cubic", code=2, order=4, nodes_per_noise=0.0, further_nodes=4, nonnegative=False,
    least_noise=0.0, resolving_noise=math.inf, takes_noise=False, least_points=4, snaps=True, composes=False,
    added_variance=np.zeros_like,
)  # fmt: skip


@allocating_nothing
def _lagrange(q, u):
    """Cubic Lagrange cardinal function of node q in {0, 1, 2, 3} at u, with its first two derivatives."""
    if q == 0:
        return -(u - 1) * (u - 2) * (u - 3) / 6, -(3 * u * u - 12 * u + 11) / 6, -(u - 2)
    if q == 1:
        return u * (u - 2) * (u - 3) / 2, (3 * u * u - 10 * u + 6) / 2, 3 * u - 5
    if q == 2:
        return -u * (u - 1) * (u - 3) / 2, -(3 * u * u - 8 * u + 3) / 2, -(3 * u - 4)
    return u * (u - 1) * (u - 2) / 6, (3 * u * u - 6 * u + 2) / 6, u - 1


@allocating_nothing
def cubic_weights(m, h, n, boundary, w0, w1, w2):
    """Four-point Lagrange weights of a noise-free mean: fourth order, of either sign."""
    t = m / h
    near = round(t)
    if abs(t - near) < SNAP:
        t = float(near)
    base = (math.floor(t)) - 1
    if boundary == CLAMP:
        base = min(max(base, 0), n - 4)
    u = t - base
    for q in range(4):
        v0, v1, v2 = _lagrange(q, u)
        w0[q], w1[q], w2[q] = v0, v1 / h, v2 / (h * h)
    return base, 4
