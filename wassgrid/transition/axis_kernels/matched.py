"""The matched kernel: the lattice law whose mean and variance are those of the noise (Tanaka and Toda 2013).

Letters: e node counted from the one next to the mean, d mean counted from there in cells, r noise/spacing.

    p_e proportional to exp(-z^2/2 + l1 z + l2 z^2),    sum p_e e = d,    sum p_e (e - d)^2 = r^2,

of all laws on the nodes with these moments the one of least entropy relative to the normal density (Tanaka and Toda, Economics
Letters 118 (2013); Farmer and Toda, Quantitative Economics 8 (2017)). With the odds x = p_1/p_0 and y = p_-1/p_0 for l1 and l2,

    p_e/p_0 = x^T(e) y^T(-e),    T(e) = e (e + 1)/2,

which has no singularity where the law comes down to two nodes (y = 0). It exists where r^2 > d (1 - d), for every mean from
r = 1/2 on. Else no law on the nodes has so little variance: the variance is d (1 - d) there, that of the two nodes
beside the mean, and passes from the one to the other with two continuous derivatives in the mean; the mean is exact always. At a
clamped end the law is cut, as the gaussian kernel's is: the law of the lattice given that it is within the axis.
"""

from __future__ import annotations

import math

import numpy as np

from wassgrid.transition.axis_kernels.facts import TAIL, AxisKernel
from wassgrid.transition.axis_kernels.gaussian import gaussian_weights
from wassgrid.transition.axis_kernels.linear import linear_weights
from wassgrid.transition.compiled import CLAMP, allocating_nothing

EXACT = 0.5  # noise/spacing from which both moments are exact for every mean
WIDE = 1.5  # noise/spacing from which it is the gaussian kernel to rounding: 2 exp(-2 pi^2 2.25) (2 pi 1.5)^2 = 1e-17


def _added_variance(noise: np.ndarray) -> np.ndarray:
    """The mean of (d (1 - d) - r^2)^+ over d in [0, 1]."""
    result: np.ndarray = 4.0 / 3.0 * np.maximum(0.25 - noise**2, 0.0) ** 1.5
    return result


KERNEL = AxisKernel(
    "matched", code=3, order=None, nodes_per_noise=2 * TAIL, further_nodes=5, nonnegative=True,
    least_noise=0.0, resolving_noise=EXACT, takes_noise=True, least_points=2, snaps=True, composes=False,
    added_variance=_added_variance,
)  # fmt: skip
_ITERATIONS = 80


@allocating_nothing
def blend_width(r):
    """Return the width in variance, in cells squared, over which the law passes to two nodes; 0 where it need not."""
    return 0.5 * max(min(0.25 - r * r, r * r), 0.0)


@allocating_nothing
def second_moment(d, r):
    """Return E e^2 with its first two derivatives in d, 0 <= d <= 1/2.

    E e^2 = d + g(u), u = r^2 - d (1 - d): g = u where u >= b, 0 where u <= -b, 2 b (v^3 - v^4/2), v = (u + b)/2b, between.
    """
    u, b = r * r - d * (1.0 - d), blend_width(r)
    slope = 2.0 * d - 1.0
    if u >= b:
        return d + u, 2.0 * d, 2.0
    if u <= -b:
        return d, 1.0, 0.0
    v = (u + b) / (2.0 * b)
    g1, g2 = v * v * (3.0 - 2.0 * v), 3.0 * v * (1.0 - v) / b
    return d + 2.0 * b * v * v * v * (1.0 - 0.5 * v), 1.0 + g1 * slope, g2 * slope * slope + 2.0 * g1


@allocating_nothing
def _conditions(d, second, x, y, side):
    """Return sum p (e - d) and sum p (e^2 - E e^2), and their derivatives in x and y."""
    f0, f1 = -d, -second
    f0x = f1x = f0y = f1y = 0.0
    z = x * y
    for way in (1, -1):
        # own: the odds of this side
        own = x if way > 0 else y
        p, ratio = 1.0, own
        for k in range(1, side + 1):
            p *= ratio
            ratio *= z
            a, b = way * k - d, k * k - second
            f0 += p * a
            f1 += p * b
            near, far = 0.5 * k * (k + 1), 0.5 * k * (k - 1)
            if own > 0.0:
                near *= p / own
            else:
                near = 1.0 if k == 1 else 0.0
            other = y if way > 0 else x
            if other > 0.0:
                far *= p / other
            else:
                far = own * own * own if k == 2 else 0.0
            if way > 0:
                f0x, f1x = f0x + near * a, f1x + near * b
                f0y, f1y = f0y + far * a, f1y + far * b
            else:
                f0y, f1y = f0y + near * a, f1y + near * b
                f0x, f1x = f0x + far * a, f1x + far * b
    return f0, f1, f0x, f0y, f1x, f1y


@allocating_nothing
def odds(d, second, r, side):
    """Return x and y of the law with mean d and second moment `second`, by Newton's method."""
    if second <= d:
        return d / (1.0 - d), 0.0
    if r > 0.6:
        x, y = math.exp(-(0.5 - d) / (r * r)), math.exp(-(0.5 + d) / (r * r))
    else:
        # the law on three nodes
        x, y = 0.5 * (second + d) / (1.0 - second), 0.5 * (second - d) / (1.0 - second)
    for _ in range(_ITERATIONS):
        f0, f1, f0x, f0y, f1x, f1y = _conditions(d, second, x, y, side)
        scale = f0x * f1y - f0y * f1x
        new_x = max(x - (f0 * f1y - f1 * f0y) / scale, 0.25 * x)
        new_y = max(y - (f1 * f0x - f0 * f1x) / scale, 0.25 * y)
        step = max(abs(new_x - x) / new_x, abs(new_y - y) / new_y)
        x, y = new_x, new_y
        if step < 1e-8:
            # the error is the square of the step
            break
    return x, y


@allocating_nothing
def _expand(way, x0, x1, x2, y0, y1, y2, low, high, place, p0, p1, p2):
    """Write p_e for low <= e <= high in powers of a change of d, up to the second, p_0 = 1, to place + way e of p0, p1, p2."""
    z0, z1, z2 = x0 * y0, x0 * y1 + x1 * y0, x0 * y2 + x1 * y1 + x2 * y0
    p0[place], p1[place], p2[place] = 1.0, 0.0, 0.0
    for side in (1, -1):
        a0, a1, a2 = 1.0, 0.0, 0.0
        r0, r1, r2 = x0, x1, x2
        if side < 0:
            r0, r1, r2 = y0, y1, y2
        for k in range(1, (high if side > 0 else -low) + 1):
            a0, a1, a2 = a0 * r0, a0 * r1 + a1 * r0, a0 * r2 + a1 * r1 + a2 * r0
            r0, r1, r2 = r0 * z0, r0 * z1 + r1 * z0, r0 * z2 + r1 * z1 + r2 * z0
            at = place + way * side * k
            p0[at], p1[at], p2[at] = a0, a1, a2


@allocating_nothing
def matched_weights(m, s, h, n, boundary, order, w0, w1, w2):
    """Fill the weights and, with order > 0, their derivatives; arguments and return as those of `gaussian_weights`.

    Derivatives of x and y in d follow from those of the two conditions, one order after the other.
    """
    r = s / h
    if r >= WIDE:
        return gaussian_weights(m, s, h, n, boundary, order, w0, w1, w2)
    if r <= 0.0:
        return linear_weights(m, s, h, order, w0, w1, w2)
    centre = round(m / h)
    d, way = m / h - centre, 1
    if d < 0.0:
        d, way = -d, -1
    second, slope, bend = second_moment(d, r)
    side = math.ceil(TAIL * r) + 1
    x, y = odds(d, second, r, side)
    x1 = y1 = x2 = y2 = 0.0
    if order > 0:
        _, _, f0x, f0y, f1x, f1y = _conditions(d, second, x, y, side)
        scale = f0x * f1y - f0y * f1x
        _expand(1, x, 0.0, 0.0, y, 0.0, 0.0, -side, side, side, w0, w1, w2)
        total = 0.0
        for q in range(2 * side + 1):
            total += w0[q]
        # sum p (e - d) = 0: its first derivative at fixed p is -sum p, that of the other -sum p (E e^2)'
        x1, y1 = (total * f1y - total * slope * f0y) / scale, (total * slope * f0x - total * f1x) / scale
        _expand(1, x, x1, 0.0, y, y1, 0.0, -side, side, side, w0, w1, w2)
        g0 = g1 = 0.0
        for q in range(2 * side + 1):
            e = q - side
            g0 += w2[q] * (e - d) - w1[q]
            g1 += w2[q] * (e * e - second) - w1[q] * slope - 0.5 * w0[q] * bend
        x2, y2 = -(g0 * f1y - g1 * f0y) / scale, -(g1 * f0x - g0 * f1x) / scale
    low, high = -side, side
    first = centre - side
    if boundary == CLAMP:
        first = max(first, 0)
        below, above = first - centre, min(centre + side, n - 1) - centre
        low, high = (below, above) if way > 0 else (-above, -below)
    count = high - low + 1
    place = centre - first
    _expand(way, x, x1, x2, y, y1, y2, low, high, place, w0, w1, w2)
    t0 = t1 = t2 = 0.0
    for q in range(count):
        t0 += w0[q]
        t1 += w1[q]
        t2 += w2[q]
    t1, t2 = t1 / t0, t2 / t0
    for q in range(count):
        w0[q] /= t0
        if order > 0:
            first_order = w1[q] / t0 - w0[q] * t1
            w2[q] = 2.0 * (w2[q] / t0 - w0[q] * t2 - first_order * t1) / (h * h)
            w1[q] = way * first_order / h
    return first, count
