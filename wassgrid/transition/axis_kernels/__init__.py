"""The one-dimensional kernels: weights of the nodes of one axis for a mean and a noise, with derivatives in the mean.

Letters: k cell, i particle, j and l state axes, a and b action components, m mean of the next state (alpha),
s noise, w0, w1, w2 a weight and its first and second derivative in the mean.
"""

from __future__ import annotations

from wassgrid.transition.axis_kernels import cubic, gaussian, linear, matched
from wassgrid.transition.axis_kernels.cubic import cubic_weights
from wassgrid.transition.axis_kernels.facts import AxisKernel
from wassgrid.transition.axis_kernels.gaussian import gaussian_weights
from wassgrid.transition.axis_kernels.linear import linear_weights
from wassgrid.transition.axis_kernels.matched import matched_weights
from wassgrid.transition.compiled import CLAMP, PROJECT, TRUNCATE, allocating_nothing, measured

# of several that add nothing `auto` takes the first
AXIS_KERNELS: dict[str, AxisKernel] = {
    kernel.name: kernel for kernel in (gaussian.KERNEL, linear.KERNEL, matched.KERNEL, cubic.KERNEL)
}
# noise/spacing from which some kernel carries noise as it is
RESOLVED = min(kernel.resolving_noise for kernel in AXIS_KERNELS.values() if kernel.takes_noise)
GAUSSIAN, LINEAR, CUBIC, MATCHED = gaussian.KERNEL.code, linear.KERNEL.code, cubic.KERNEL.code, matched.KERNEL.code


@allocating_nothing
def truncated(first, count, n, order, w0, w1, w2):
    """Cut weights at the ends of the axis, halve those on the ends (the trapezoidal rule) and let the rest sum to one.

    w = p/S, S the sum of what is left of p:  w' = (p' - w S')/S,  w'' = (p'' - 2 w' S' - w S'')/S.
    """
    if first > 0 and first + count < n:
        return first, count
    low, high = max(first, 0), min(first + count, n)
    s0 = s1 = s2 = 0.0
    for e in range(low, high):
        q, share = e - low, 0.5 if e == 0 or e == n - 1 else 1.0
        w0[q] = share * w0[e - first]
        s0 += w0[q]
        if order > 0:
            w1[q], w2[q] = share * w1[e - first], share * w2[e - first]
            s1 += w1[q]
            s2 += w2[q]
    for q in range(high - low):
        w0[q] /= s0
        if order > 0:
            w1[q] = (w1[q] - w0[q] * s1) / s0
            w2[q] = (w2[q] - 2.0 * w1[q] * s1 - w0[q] * s2) / s0
    return low, high - low


@allocating_nothing
def axis_weights(kernel, boundary, lower, h, n, mean, s, order, w0, w1, w2):
    """Fill the weights of one axis and, with order > 0, their derivatives in the mean; return (first extended index, count).

    Means beyond an end that stops them are put on it, with zero derivative there (see `problem.boundary`).
    """
    m, outside = measured(mean - lower, s, h, n, boundary)
    cut = boundary == TRUNCATE and s > 0.0
    if boundary == TRUNCATE or boundary == PROJECT:
        boundary = PROJECT if s > 0.0 else CLAMP
    if kernel == GAUSSIAN:
        first, count = gaussian_weights(m, s, h, n, boundary, order, w0, w1, w2)
    elif kernel == MATCHED:
        first, count = matched_weights(m, s, h, n, boundary, order, w0, w1, w2)
    elif kernel == LINEAR:
        first, count = linear_weights(m, s, h, order, w0, w1, w2)
    else:
        first, count = cubic_weights(m, h, n, boundary, w0, w1, w2)
    if cut:
        first, count = truncated(first, count, n, order, w0, w1, w2)
    if outside and order > 0:
        for q in range(count):
            w1[q] = 0.0
            w2[q] = 0.0
    return first, count
