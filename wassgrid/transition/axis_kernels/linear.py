"""The linear kernel: the exact expectation of the piecewise-linear interpolant."""

from __future__ import annotations

import math

import numpy as np

from wassgrid.transition.axis_kernels.facts import SNAP, TAIL, AxisKernel
from wassgrid.transition.compiled import allocating_nothing

KERNEL = AxisKernel(
    "linear", code=1, order=2, nodes_per_noise=2 * TAIL, further_nodes=3, nonnegative=True,
    least_noise=0.0, resolving_noise=math.inf, takes_noise=True, least_points=2, snaps=True, composes=False,
    added_variance=lambda noise: np.full_like(noise, 1.0 / 6.0),
)  # fmt: skip
_SQRT2 = math.sqrt(2.0)
_SQRT2PI = math.sqrt(2.0 * math.pi)


@allocating_nothing
def _density(z):
    return math.exp(-0.5 * z * z) / _SQRT2PI


@allocating_nothing
def _cumulative(z):
    return 0.5 * math.erfc(-z / _SQRT2)


@allocating_nothing
def linear_weights(m, s, h, order, w0, w1, w2):
    """Exact expectation of the piecewise-linear interpolant under N(m, s^2): nonnegative and mean-exact.

    w_l = (G_{l-1} - 2 G_l + G_{l+1})/h,  G_l = E(m + s xi - t_l)^+ = s phi(z) + (m - t_l) Phi(z),  z = (m - t_l)/s,
    G' = Phi(z), G'' = phi(z)/s; plain hat weights at s = 0.
    """
    t = m / h
    if s <= 0.0:
        base = (math.floor(t))
        part = t - base
        if part > 1.0 - SNAP:
            base, part = base + 1, 0.0
        if part < SNAP:
            # on a node the interpolant has a kink: the derivative is the mean of both sides
            w0[0], w0[1], w0[2] = 0.0, 1.0, 0.0
            w1[0], w1[1], w1[2] = -0.5 / h, 0.0, 0.5 / h
            w2[0], w2[1], w2[2] = 0.0, 0.0, 0.0
            return base - 1, 3
        w0[0], w0[1] = 1.0 - part, part
        w1[0], w1[1] = -1.0 / h, 1.0 / h
        w2[0], w2[1] = 0.0, 0.0
        return base, 2
    first = (math.floor((m - TAIL * s) / h))
    count = (math.ceil((m + TAIL * s) / h)) - first + 1
    g0a = g1a = g2a = g0b = g1b = g2b = 0.0
    total = 0.0
    for q in range(-1, count + 1):
        d = m - (first + q) * h
        z = d / s
        p, c = _density(z), _cumulative(z)
        g0, g1, g2 = s * p + d * c, c, p / s
        if q >= 1:
            w0[q - 1] = max((g0a - 2.0 * g0b + g0) / h, 0.0)
            if order > 0:
                w1[q - 1] = (g1a - 2.0 * g1b + g1) / h
                w2[q - 1] = (g2a - 2.0 * g2b + g2) / h
            total += w0[q - 1]
        g0a, g1a, g2a = g0b, g1b, g2b
        g0b, g1b, g2b = g0, g1, g2
    for q in range(count):
        w0[q] /= total
    return first, count
