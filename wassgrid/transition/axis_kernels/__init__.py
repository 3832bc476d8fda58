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
from wassgrid.transition.compiled import allocating_nothing, measured

# of several that add nothing `auto` takes the first
AXIS_KERNELS: dict[str, AxisKernel] = {
    kernel.name: kernel for kernel in (gaussian.KERNEL, linear.KERNEL, matched.KERNEL, cubic.KERNEL)
}
GAUSSIAN, LINEAR, CUBIC, MATCHED = gaussian.KERNEL.code, linear.KERNEL.code, cubic.KERNEL.code, matched.KERNEL.code


@allocating_nothing
def axis_weights(kernel, boundary, lower, h, n, mean, s, order, w0, w1, w2):
    """Fill the weights of one axis and, with order > 0, their derivatives in the mean; return (first extended index, count).

    Means beyond a clamped end are clamped, with zero derivative there.
    """
    m, outside = measured(mean - lower, h, n, boundary)
    if kernel == GAUSSIAN:
        first, count = gaussian_weights(m, s, h, n, boundary, order, w0, w1, w2)
    elif kernel == MATCHED:
        first, count = matched_weights(m, s, h, n, boundary, order, w0, w1, w2)
    elif kernel == LINEAR:
        first, count = linear_weights(m, s, h, order, w0, w1, w2)
    else:
        first, count = cubic_weights(m, h, n, boundary, w0, w1, w2)
    if outside and order > 0:
        for q in range(count):
            w1[q] = 0.0
            w2[q] = 0.0
    return first, count
