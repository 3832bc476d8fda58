"""Bounds of E f(s') and its derivatives over an interval of means of one axis, from f at its nodes and bounds of the weights.

Letters as in `axis_kernels` and `weight_bounds`.
"""

from __future__ import annotations

import numpy as np

from wassgrid.transition.compiled import allocating_nothing


@allocating_nothing
def floor_value(inner, count, bound):
    """Bound sum w f from below over weights w <= bound that sum to one:  v - sum bound (v - f)^+, the best of some v."""
    top = 0.0
    for q in range(count):
        top = max(top, bound[q])
    best = -np.inf
    share = 0.5
    for _ in range(4):
        v = np.inf
        for q in range(count):
            if bound[q] >= share * top:
                v = min(v, inner[q])
        lower = v
        for q in range(count):
            lower -= bound[q] * max(v - inner[q], 0.0)
        best = max(best, lower)
        share *= 0.1
    v = np.inf
    for q in range(count):
        v = min(v, inner[q])
    return max(best, v)


@allocating_nothing
def axis_bounds(inner, start, h, count, u, polynomial, parts):
    """Bound |d^p E f| on one axis, p = 1, 2, 3, from f at its nodes: parts[p] = sum U_p |f - its polynomial of degree p - 1|.

    A constant has no derivative, and those of E x and E x^2 are known (`polynomial`). The polynomials are those of least
    squares under U_0, orthogonal on the nodes; a higher degree is used where it gives less. parts[0] is a lower bound of
    E f itself (`floor_value`).
    """
    mass = x1 = x2 = x3 = x4 = f0 = f1 = f2 = 0.0
    for q in range(count):
        mass += u[0, q]
        x1 += u[0, q] * q
        f0 += u[0, q] * inner[q]
    x1, f0 = x1 / mass, f0 / mass
    for q in range(count):
        x = q - x1
        w = u[0, q] / mass
        x2 += w * x * x
        x3 += w * x * x * x
        x4 += w * x * x * x * x
        f1 += w * x * inner[q]
    skew = 0.0
    if x2 > 0.0:
        f1 /= x2
        skew = x3 / x2
        norm = x4 - x2 * x2 - skew * x3
        for q in range(count):
            x = q - x1
            f2 += u[0, q] / mass * (x * x - skew * x - x2) * inner[q]
        f2 = f2 / norm if norm > 1e-12 * x4 else 0.0
    constant2 = constant3 = linear2 = linear3 = quadratic3 = 0.0
    parts[1] = 0.0
    for q in range(count):
        x = q - x1
        rest = inner[q] - f0
        parts[1] += u[1, q] * abs(rest)
        constant2 += u[2, q] * abs(rest)
        constant3 += u[3, q] * abs(rest)
        rest -= f1 * x
        linear2 += u[2, q] * abs(rest)
        linear3 += u[3, q] * abs(rest)
        rest -= f2 * (x * x - skew * x - x2)
        quadratic3 += u[3, q] * abs(rest)
    parts[0] = floor_value(inner, count, u[0])
    parts[2], parts[3] = constant2, constant3
    if polynomial[0] < np.inf:
        parts[2] = min(parts[2], linear2 + abs(f1) / h * polynomial[0])
        parts[3] = min(parts[3], linear3 + abs(f1) / h * polynomial[1])
    if polynomial[2] < np.inf:
        # q = (x - start)/h with x measured from the centre: the coefficients of x and x^2 in the reference
        slope = (f1 - f2 * (2.0 * x1 + skew)) / h - 2.0 * f2 * start / (h * h)
        parts[3] = min(parts[3], quadratic3 + abs(slope) * polynomial[1] + abs(f2) / (h * h) * polynomial[2])
