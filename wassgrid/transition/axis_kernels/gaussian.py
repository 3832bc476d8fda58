"""The gaussian kernel: the normal density at the nodes, normalised (Nystrom)."""

from __future__ import annotations

import math

import numpy as np

from wassgrid.transition.axis_kernels.facts import TAIL, AxisKernel
from wassgrid.transition.compiled import CLAMP, allocating_nothing

RESOLVED = 0.8  # noise/spacing from which it is accurate: error 2 exp(-2 pi^2 0.64) = 7e-6
UNRESOLVED = 0.5  # noise/spacing below which it is refused: error 1.4e-2


def _added_variance(noise: np.ndarray) -> np.ndarray:
    """The lattice's first harmonic (Poisson summation), r^4 |d^2/dm^2 2 exp(-2 pi^2 r^2) cos(2 pi m)|."""
    result: np.ndarray = 8.0 * math.pi**2 * noise**4 * np.exp(-2.0 * (math.pi * noise) ** 2)
    return result


KERNEL = AxisKernel(
    "gaussian", code=0, order=None, nodes_per_noise=2 * TAIL, further_nodes=1, nonnegative=True,
    least_noise=UNRESOLVED, resolving_noise=RESOLVED, takes_noise=True, least_points=2, snaps=False, composes=True,
    added_variance=_added_variance,
)  # fmt: skip


@allocating_nothing
def gaussian_weights(m, s, h, n, boundary, order, w0, w1, w2):
    """Nystrom weights: the normal density at the nodes within the tail, normalised to sum to one.

    w = phi(z)/sum phi(z), z = (x - m)/s;  w' = w (z - zbar)/s;  w'' = w ((z - zbar)^2 - var z)/s^2.
    `m` and `s` are in units relative to node 0 (coordinate minus lower end). Returns first extended index, count.

    The density by recurrence from the node next to the mean outwards, where it falls:
    phi(z + t) = phi(z) r, r = exp(-t z - t^2/2), t = h/s, and r itself falls by exp(-t^2) from node to node.
    """
    first = (math.ceil((m - TAIL * s) / h))
    last = (math.floor((m + TAIL * s) / h))
    if boundary == CLAMP:
        first, last = max(first, 0), min(last, n - 1)
    count = last - first + 1
    centre = min(max(round(m / h), first), last) - first
    t, z = h / s, ((first + centre) * h - m) / s
    fall = math.exp(-t * t)
    peak = math.exp(-0.5 * z * z)
    w0[centre] = peak
    total = peak
    w, r = peak, math.exp(-t * z - 0.5 * t * t)
    for q in range(centre + 1, count):
        w *= r
        r *= fall
        w0[q] = w
        total += w
    w, r = peak, math.exp(t * z - 0.5 * t * t)
    for q in range(centre - 1, -1, -1):
        w *= r
        r *= fall
        w0[q] = w
        total += w
    scale = 1.0 / total
    if order == 0:
        for q in range(count):
            w0[q] *= scale
        return first, count
    start = (first * h - m) / s
    mean = square = 0.0
    for q in range(count):
        w0[q] *= scale
        z = start + q * t
        mean += w0[q] * z
        square += w0[q] * z * z
    variance = square - mean * mean
    slope, bend = 1.0 / s, 1.0 / (s * s)
    for q in range(count):
        z = start + q * t - mean
        w1[q] = w0[q] * z * slope
        w2[q] = w0[q] * (z * z - variance) * bend
    return first, count
