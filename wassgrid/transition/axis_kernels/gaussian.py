"""The gaussian kernel: the normal density at the nodes, normalised (Nystrom)."""

from __future__ import annotations

import math

from wassgrid.transition.axis_kernels.facts import TAIL, AxisKernel
from wassgrid.transition.compiled import CLAMP, allocating_nothing

RESOLVED = 0.8  # noise/spacing from which it is accurate: error 2 exp(-2 pi^2 0.64) = 7e-6
UNRESOLVED = 0.5  # noise/spacing below which it is refused: error 1.4e-2

KERNEL = AxisKernel(
    "gaussian", code=0, order=None, nodes_per_noise=2 * TAIL, further_nodes=1, nonnegative=True,
    least_noise=UNRESOLVED, resolving_noise=RESOLVED, takes_noise=True, least_points=2, snaps=False,
)  # fmt: skip


@allocating_nothing
def gaussian_weights(m, s, h, n, boundary, w0, w1, w2):
    """Nystrom weights: the normal density at the nodes within the tail, normalised to sum to one.

    w = phi(z)/sum phi(z), z = (x - m)/s;  w' = w (z - zbar)/s;  w'' = w ((z - zbar)^2 - var z)/s^2.
    `m` and `s` are in units relative to node 0 (coordinate minus lower end). Returns first extended index, count.
    """
    first = (math.ceil((m - TAIL * s) / h))
    last = (math.floor((m + TAIL * s) / h))
    if boundary == CLAMP:
        first, last = max(first, 0), min(last, n - 1)
    count = last - first + 1
    total = 0.0
    mean = 0.0
    square = 0.0
    for q in range(count):
        z = ((first + q) * h - m) / s
        w = math.exp(-0.5 * z * z)
        w0[q] = w
        total += w
        mean += w * z
        square += w * z * z
    mean /= total
    variance = square / total - mean * mean
    for q in range(count):
        z = ((first + q) * h - m) / s - mean
        w = w0[q] / total
        w0[q] = w
        w1[q] = w * z / s
        w2[q] = w * (z * z - variance) / (s * s)
    return first, count
