"""Enclosures of E f(s') over boxes of means: its derivatives at a centre and bounds on the next ones over the box.

Letters as in `kernels`: m mean of the next state, s noise, h spacing, w0 ... w3 a weight and its derivatives in the mean,
z = (x - m)/s. U_p is an upper bound of |w_p| over the box, for every node.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from wassgrid import kernels
from wassgrid.kernels import CHUNKS, CLAMP, GAUSSIAN, LINEAR, PERIODIC, TAIL, allocating_nothing, fold

REACH = 6.0  # radius of a box, in noises or cells, beyond which nothing is bounded
_NORMAL = 0.6  # distance of a lattice law from the normal one up to which it is treated as nearly normal
TAIL_MASS = 2e-14  # weight of the nodes at the edge of the tail, which enter and leave as the mean moves


@allocating_nothing
def _lattice_cumulants(c, r, s, h, n, clamped, e, k):
    """Bound how far the law of the lattice nodes is from the normal one, in units of the noise, for |m - c| <= r.

    The sum of exp(-(x - m)^2/2s^2) over all nodes is C (1 + e(m)) with (Poisson summation)
    |s^p e^(p)| <= E_p = 2 sum_j exp(-2 (pi j s/h)^2) (2 pi j s/h)^p; over the nodes 0, ..., n - 1 of a clamped axis it lacks those
    outside, h/s sum phi(z), with derivatives h/s sum He_p(z) phi(z). The cumulants of z differ from those of the normal law by
    s^p d^p/dm^p log(1 + e). Writes bounds of e and its derivatives to e[0], ..., e[5] and of these differences to k[1], ..., k[5].
    """
    e[:] = 0.0
    for j in range(1, 5):
        q, angle = 2.0 * math.exp(-2.0 * (math.pi * j * s / h) ** 2), 2.0 * math.pi * j * s / h
        for p in range(6):
            e[p] += q * angle**p
    if clamped:
        reach = TAIL * s + r
        for q in range(math.ceil((c - reach) / h), 0):
            for p in range(6):
                e[p] += h / s * _normal_derivative(p, abs(q * h - c) / s, r / s)
        for q in range(n, math.floor((c + reach) / h) + 1):
            for p in range(6):
                e[p] += h / s * _normal_derivative(p, abs(q * h - c) / s, r / s)
    # (1 + e) (log(1 + e))' = e', differentiated: e^(p) = sum_q binomial(p - 1, q) (log)^(p - q) (1 + e)^(q)
    for p in range(1, 6):
        total, binomial = e[p], 1.0
        for q in range(1, p):
            binomial *= (p - q) / q
            total += binomial * k[p - q] * e[q]
        k[p] = total / (1.0 - e[0])


@allocating_nothing
def _gaussian_bounds(c, r, s, h, n, clamped, first, count, u, polynomial, work):
    """U for |m - c| <= r; return False where the law of the nodes is too far from a normal one for these bounds.

    w = phi(z) h/s /(1 + e), w_1 = w x/s, w_2 = w (x^2 - k2)/s^2, w_3 = w (x^3 - 3 k2 x - k3)/s^3, with x = z - k1 and the
    cumulants k_p of z.
    """
    e, k = work[:6], work[6:12]
    _lattice_cumulants(c, r, s, h, n, clamped, e, k)
    if e[0] >= _NORMAL:
        return False
    k1, k2, k3 = k[1], k[2], k[3]
    peak = h / (s * (1.0 - e[0]))
    t = r / s
    for q in range(count):
        z = abs((first + q) * h - c) / s
        far = z + t
        w = _normal_derivative(0, z, t)
        # x^2 - k2 and x^3 - 3 k2 x - k3 are He_2(z) and He_3(z) up to
        rest2 = 2.0 * k1 * far + k1 * k1 + k2
        rest3 = 3.0 * k1 * (far * far + k1 * far + 1.0) + k1 * k1 * k1 + 3.0 * k2 * (far + k1) + k3
        u[0, q] = peak * w
        u[1, q] = peak * (_normal_derivative(1, z, t) + k1 * w) / s
        u[2, q] = peak * (_normal_derivative(2, z, t) + rest2 * w) / (s * s)
        u[3, q] = peak * (_normal_derivative(3, z, t) + rest3 * w) / (s * s * s)
    # E x = m + s k1(m), Var x = s^2 (1 + k2(m)), and each derivative in m raises the index of k and divides by s
    polynomial[0] = k[3] / s
    polynomial[1] = k[4] / (s * s)
    polynomial[2] = (k[5] + 6.0 * (1.0 + k2) * k3 + 2.0 * (t + k1) * k[4]) / s
    return True


@allocating_nothing
def _moments(m, s, h, first, count):
    """Return the sum of exp(-z^2/2) over the nodes, and mean, variance and third central moment of z under these weights."""
    total = mean = 0.0
    for q in range(count):
        z = ((first + q) * h - m) / s
        w = math.exp(-0.5 * z * z)
        total += w
        mean += w * z
    mean /= total
    variance = third = 0.0
    for q in range(count):
        z = ((first + q) * h - m) / s
        w = math.exp(-0.5 * z * z) / total
        variance += w * (z - mean) ** 2
        third += w * (z - mean) ** 3
    return total, mean, variance, third


@allocating_nothing
def _cut_gaussian_bounds(c, r, s, h, first, count, whole, u):
    """U for windows that a clamped end cuts, |m - c| <= r; with `whole`, the smaller of these and those already in u.

    w = exp(-z^2/2)/Z with Z at least the sum of its terms' minima. The mean E x grows with m, so it lies between its values at
    the ends of the box; the other moments are at most sums with the largest weights, and variance and third moment k2, k3
    move no faster than k2' = k3/s and k3' = k4/s, |k4| <= max(E y^4, 3 k2^2), y = z - E z.
    """
    t = r / s
    least = 0.0
    for q in range(count):
        far = abs((first + q) * h - c) / s + t
        least += math.exp(-0.5 * far * far)
    _, mean, variance0, third0 = _moments(c, s, h, first, count)
    low, high = _moments(c - r, s, h, first, count)[1] - t, _moments(c + r, s, h, first, count)[1] + t
    second = third = fourth = 0.0
    for q in range(count):
        z = ((first + q) * h - c) / s
        near = max(abs(z) - t, 0.0)
        w = min(math.exp(-0.5 * near * near) / least, 1.0)
        u[0, q] = min(u[0, q], w) if whole else w
        y = max(z - low, high - z)
        second += u[0, q] * (z - mean) ** 2
        third += u[0, q] * y**3
        fourth += u[0, q] * y**4
    k2 = min(second, variance0 + t * third)
    k2_least = max(variance0 - t * third, 0.0)
    k3 = min(third, abs(third0) + t * max(fourth, 3.0 * k2 * k2))
    for q in range(count):
        z = ((first + q) * h - c) / s
        far = max(z - low, high - z)
        near = max(low - z, z - high, 0.0)
        u1 = u[0, q] * far / s
        u2 = u[0, q] * max(far * far - k2_least, k2 - near * near) / (s * s)
        u3 = u[0, q] * (far * max(far * far - 3.0 * k2_least, 3.0 * k2 - near * near) + k3) / (s * s * s)
        u[1, q] = min(u[1, q], u1) if whole else u1
        u[2, q] = min(u[2, q], u2) if whole else u2
        u[3, q] = min(u[3, q], u3) if whole else u3


@allocating_nothing
def _linear_bounds(c, r, s, h, first, count, u, polynomial):
    """U of the linear kernel with noise, |m - c| <= r.

    w = E hat((m + s xi - t)/h) = int hat(x/h) phi_s(t + x - m) dx, so |w^(p)| <= h sup |phi_s^(p)| over the hat's support; or,
    better where s << h, the three terms of the second difference of G: G'' = phi_s, G_3 = phi_s'.
    """
    t = r / s
    for q in range(count):
        z = abs((first + q) * h - c) / s
        u[0, q] = min(h * _normal_derivative(0, z, t + h / s) / s, 1.0)
        u[1, q] = min(h * _normal_derivative(1, z, t + h / s) / (s * s), 1.0 / h)
        for p in (2, 3):
            terms = 2.0 * _normal_derivative(p - 2, z, t)
            for side in (-1.0, 1.0):
                terms += _normal_derivative(p - 2, abs((first + q) * h - c + side * h) / s, t)
            whole = h * _normal_derivative(p, z, t + h / s) / s ** (p + 1)
            u[p, q] = min(whole, terms / (h * s ** (p - 1)))
    # E x = m; the interpolant exceeds x^2 by h^2/6 - sum_j (h/(pi j))^2 cos(2 pi j x/h), which the noise smooths
    polynomial[0] = polynomial[1] = polynomial[2] = 0.0
    if s < 0.1 * h:
        polynomial[2] = np.inf
    else:
        for j in range(1, 30):
            polynomial[2] += 8.0 * math.pi * j / h * math.exp(-2.0 * (math.pi * j * s / h) ** 2)


@allocating_nothing
def _normal_derivative(p, z, t):
    """Bound |phi^(p)| = |He_p| phi on [z - t, z + t], z >= 0, p <= 5.

    Its extremes are at the roots of He_{p+1}: beyond the largest it falls; elsewhere the smaller of its maximum over all z and
    the product of bounds of both factors.
    """
    near, far = max(z - t, 0.0), z + t
    density = math.exp(-0.5 * near * near) / math.sqrt(2.0 * math.pi)
    x, y = near * near, far * far
    if p == 0:
        return density
    if p == 1:
        return density * near if near >= 1.0 else min(density * far, 0.241970724519144)
    if p == 2:
        return density * (x - 1.0) if near >= 1.7320508075688774 else min(density * max(y - 1.0, 1.0 - x), 0.398942280401433)
    if p == 3:
        if near >= 2.3344142183389773:
            return density * near * (x - 3.0)
        return min(density * far * max(y - 3.0, 3.0 - x), 0.550587839500820)
    if p == 4:
        if near >= 2.8569700138728056:
            return density * (x * x - 6.0 * x + 3.0)
        return min(density * max(y * y + 3.0 - 6.0 * x, 6.0 * y - 3.0 - x * x), 1.196826841204299)
    if near >= 3.324257433552119:
        return density * near * (x * x - 10.0 * x + 15.0)
    return min(density * far * max(y * y + 15.0 - 10.0 * x, 10.0 * y - 15.0 - x * x), 2.307105929629787)


@allocating_nothing
def weight_bounds(kernel, boundary, lower, h, n, mean, radius, s, u, polynomial, work):
    """Fill U_p (4, nodes) of one axis for means within `radius`; return first extended index, centre, count, smooth, bounded.

    polynomial (3,): bounds of |d^2 E x|, |d^3 E x| and |d^3 E (x - c)^2| in the mean, x the extended node, c the centre: small
    for laws that are nearly normal, infinite where none is known. smooth: the weights are three times differentiable
    on the box, else only Lipschitz continuous. work (12,): scratch.
    """
    polynomial[:] = np.inf
    m = mean - lower
    low, high = m - radius, m + radius
    smooth = True
    if boundary == CLAMP:
        top = (n - 1) * h
        smooth = high < 0.0 or low > top or (low >= 0.0 and high <= top)
        outside = high < 0.0 or low > top
        low, high = min(max(low, 0.0), top), min(max(high, 0.0), top)
    else:
        outside = False
        period = n * h if boundary == PERIODIC else 2 * (n - 1) * h
        m = m % period
        low, high = m - radius, m + radius
    c, r = 0.5 * (low + high), 0.5 * (high - low)
    if r > REACH * max(s, h) or kernel > LINEAR:
        return 0, 0.0, 0, False, False
    first = math.ceil((low - TAIL * s) / h)
    last = math.floor((high + TAIL * s) / h)
    if kernel == GAUSSIAN:
        clamped = boundary == CLAMP
        if clamped:
            first, last = max(first, 0), min(last, n - 1)
        count = last - first + 1
        cut = clamped and ((low - TAIL * s) < 0.0 or (high + TAIL * s) > (n - 1) * h)
        whole = _gaussian_bounds(c, r, s, h, n, cut, first, count, u, polynomial, work)
        if cut or not whole:
            _cut_gaussian_bounds(c, r, s, h, first, count, whole, u)
    elif s > 0.0:
        first, last = first - 1, last + 1
        count = last - first + 1
        _linear_bounds(c, r, s, h, first, count, u, polynomial)
    else:
        # hats: linear between the nodes, a kink at each
        first, last = math.floor(low / h), math.ceil(high / h)
        smooth = smooth and last - first <= 1
        count = last - first + 1
        for q in range(count):
            u[0, q] = min(max(1.0 - (abs((first + q) * h - c) - r) / h, 0.0), 1.0)
            u[1, q], u[2, q], u[3, q] = 1.0 / h, 0.0, 0.0
    if outside:
        polynomial[:] = 0.0
        for q in range(count):
            u[1, q] = u[2, q] = u[3, q] = 0.0
    return first, c, count, smooth, True


@allocating_nothing
def _inner_expectation(walk, axes, first, mean, noise, coupling, f):
    """E f over the axes of levels first, first + 1, ... given the nodes chosen on the levels before."""
    last = axes.order.size - 1
    level = first
    walk.product[level] = 1.0
    kernels._fill(walk, axes, level, mean, noise, coupling)
    walk.position[level] = -1
    total = 0.0
    while True:
        if level == last:
            part = 0.0
            for q in range(walk.counts[level]):
                part += walk.w[level, 0, q] * f[walk.base[level] + walk.offset[level, q]]
            total += walk.product[level] * part
            level -= 1
            if level < first:
                return total
        walk.position[level] += 1
        q = walk.position[level]
        if q >= walk.counts[level]:
            level -= 1
            if level < first:
                return total
            continue
        walk.base[level + 1] = walk.base[level] + walk.offset[level, q]
        walk.product[level + 1] = walk.product[level] * walk.w[level, 0, q]
        level += 1
        kernels._fill(walk, axes, level, mean, noise, coupling)
        walk.position[level] = -1


@allocating_nothing
def _fill_bounds(walk, axes, level, mean, radius, noise, coupling, u, polynomial, work):
    """Fill one level with its nodes and U; return the distance from the centre to the first node, smooth, bounded."""
    j = axes.order[level]
    if radius[j] == 0.0:
        kernels._fill(walk, axes, level, mean, noise, coupling)
        for q in range(walk.counts[level]):
            u[level, 0, q] = abs(walk.w[level, 0, q])
            u[level, 1, q] = u[level, 2, q] = u[level, 3, q] = 0.0
        return 0.0, True, True
    m = mean[j]
    for before in range(level):
        i = axes.order[before]
        if axes.coupled[j, i]:
            m += coupling[j, i] * walk.coordinate[before, walk.position[before]]
    n, h, lower, boundary = axes.size[j], axes.spacing[j], axes.lower[j], axes.boundary[j]
    first, centre, count, smooth, bounded = weight_bounds(
        axes.kernel[j], boundary, lower, h, n, m, radius[j], noise[j], u[level], polynomial, work
    )
    shift = math.floor((m - lower) / (n * h)) * (n * h) if boundary == PERIODIC else 0.0
    walk.counts[level] = count
    for q in range(count):
        node = fold(first + q, n, boundary)
        walk.offset[level, q] = node * axes.stride[j]
        walk.coordinate[level, q] = lower + (first + q) * h + shift if boundary == PERIODIC else lower + node * h
    return first * h - centre, smooth, bounded


@allocating_nothing
def floor_value(inner, count, bound):
    """Bound sum w f from below over all weights w <= bound that sum to one:  v - sum bound (v - f)^+ for any v; the best of some v."""
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

    parts[0] is the lower bound of E f itself (`floor_value`). A constant has no derivative, and those of E x and E x^2 are known (`polynomial`). The polynomials are those of least
    squares under U_0, orthogonal on the nodes; a higher degree is used where it gives less.
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


@allocating_nothing
def _pair_bounds(walk, axes, mean, radius, noise, coupling, f, u, rows, inner, combinations, totals, scratch):
    """Bound the derivatives for boxes that move the axes of levels 0 and 1 alone.

    With G(x) = E[f | x] at the nodes x of level 0, a function of the second mean m too, and r the radius of m,

        |d^p/dm0^p d^q/dm^q E f| <= bound along level 0 of G^(q) at the centre, plus r sum_x U_p(x) sup |G^(q + 1)(x)|.

    rows (7, width): G, G_1, G_2, bounds of |G_1|, |G_2|, |G_3|, lower bound of G, for every node of level 0. Returns smooth,
    bounded, and a lower bound of E f over the box.
    """
    totals[:] = 0.0
    polynomial, along, parts, work = scratch[:3], scratch[3:6], scratch[6:10], scratch[10:22]
    last = axes.order.size - 1
    spread = radius[axes.order[1]]
    walk.base[0] = 0
    start, smooth, bounded = _fill_bounds(walk, axes, 0, mean, radius, noise, coupling, u, polynomial, work)
    if not bounded:
        return False, False, -np.inf
    for i in range(walk.counts[0]):
        walk.position[0] = i
        walk.base[1] = walk.offset[0, i]
        begin, good, bounded = _fill_bounds(walk, axes, 1, mean, radius, noise, coupling, u, along, work)
        if not bounded:
            return False, False, -np.inf
        smooth = smooth and good
        for j in range(walk.counts[1]):
            at = walk.base[1] + walk.offset[1, j]
            if last > 1:
                walk.position[1] = j
                walk.base[2] = at
                inner[j] = _inner_expectation(walk, axes, 2, mean, noise, coupling, f)
            else:
                inner[j] = f[at]
        axis_bounds(inner, begin, axes.spacing[axes.order[1]], walk.counts[1], u[1], along, parts)
        rows[3, i], rows[4, i], rows[5, i], rows[6, i] = parts[1], parts[2], parts[3], parts[0]
        rows[0, i] = rows[1, i] = rows[2, i] = 0.0
        kernels._fill(walk, axes, 1, mean, noise, coupling)
        for j in range(walk.counts[1]):
            at = walk.base[1] + walk.offset[1, j]
            if last > 1:
                walk.position[1] = j
                walk.base[2] = at
                value = _inner_expectation(walk, axes, 2, mean, noise, coupling, f)
            else:
                value = f[at]
            for p in range(3):
                rows[p, i] += walk.w[1, p, j] * value
    count, h = walk.counts[0], axes.spacing[axes.order[0]]
    for c in range(combinations.shape[0]):
        p, q = combinations[c, 0], combinations[c, 1]
        rest = 0
        for level in range(2, axes.order.size):
            rest += combinations[c, level]
        if rest > 0:
            continue
        if p > 0:
            axis_bounds(rows[q], start, h, count, u[0], polynomial, parts)
            totals[c] = parts[p]
        factor = spread if p > 0 else 1.0
        at = 3 + q if p > 0 else 2 + q
        for i in range(count):
            totals[c] += factor * u[0, p, i] * rows[at, i]
    return smooth, True, floor_value(rows[6], count, u[0, 0])


@allocating_nothing
def _bounds(walk, axes, mean, radius, noise, coupling, f, centre, u, inner, combinations, totals, scratch):
    """Add up  sum over nodes of prod_levels U_{p(level)} |f - reference|  for every combination of derivatives.

    combinations (C, d): the number p of derivatives on every level; totals (C,) is written. Levels after the last one with
    a radius enter by their exact expectation. On the last level, where differentiated, the reference is the best of some
    polynomials (`axis_bounds`), else `centre`. Returns smooth, bounded, and a lower bound of E f over the box.
    """
    totals[:] = 0.0
    last = -1
    for level in range(axes.order.size):
        if radius[axes.order[level]] > 0.0:
            last = level
    if last < 0:
        return True, True, centre
    polynomial, parts, work = scratch[:3], scratch[3:7], scratch[7:19]
    floor = 0.0
    lone = True
    walk.base[0] = 0
    start, smooth, bounded = _fill_bounds(walk, axes, 0, mean, radius, noise, coupling, u, polynomial, work)
    if not bounded:
        return False, False, -np.inf
    level = 0
    walk.position[0] = -1
    while level >= 0:
        if level < last:
            walk.position[level] += 1
            q = walk.position[level]
            if q >= walk.counts[level]:
                level -= 1
                continue
            walk.base[level + 1] = walk.base[level] + walk.offset[level, q]
            level += 1
            start, good, bounded = _fill_bounds(walk, axes, level, mean, radius, noise, coupling, u, polynomial, work)
            if not bounded:
                return False, False, -np.inf
            smooth = smooth and good
            walk.position[level] = -1
            continue
        count = walk.counts[last]
        deviation = 0.0
        for q in range(count):
            at = walk.base[last] + walk.offset[last, q]
            if last == axes.order.size - 1:
                inner[q] = f[at]
            else:
                walk.position[last] = q
                walk.base[last + 1] = at
                inner[q] = _inner_expectation(walk, axes, last + 1, mean, noise, coupling, f)
            deviation += u[last, 0, q] * abs(inner[q] - centre)
        axis_bounds(inner, start, axes.spacing[axes.order[last]], count, u[last], polynomial, parts)
        product = parts[0]
        for before in range(last):
            product *= u[before, 0, walk.position[before]]
            lone = lone and radius[axes.order[before]] == 0.0
        floor += product
        parts[0] = deviation
        for c in range(combinations.shape[0]):
            product = parts[combinations[c, last]]
            for before in range(last):
                product *= u[before, combinations[c, before], walk.position[before]]
            for after in range(last + 1, axes.order.size):
                if combinations[c, after] > 0:
                    product = 0.0
            totals[c] += product
        level -= 1
    return smooth, True, floor if lone else -np.inf


def derivative_combinations(order: np.ndarray, moving: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number the first and third derivatives in the moving axes: (combinations, first, third) as `enclose` takes them.

    order (d,): the axis of every level; moving (d,): whether the mean of an axis has a radius anywhere.
    combinations (C, d): derivatives per level; first (d,) and third (d, d, d): its number for axes j and j, l, i; -1: none.
    """
    d = order.size
    numbers: dict[tuple[int, ...], int] = {}

    def number(axes: tuple[int, ...]) -> int:
        if not all(moving[j] for j in axes):
            return -1
        return numbers.setdefault(tuple(sum(j == axis for j in axes) for axis in order), len(numbers))

    first = np.array([number((j,)) for j in range(d)])
    third = np.array([[[number((j, l, i)) for i in range(d)] for l in range(d)] for j in range(d)])
    return np.array(list(numbers), dtype=np.int64).reshape(-1, d), first, third


@njit(cache=True, parallel=True)
def enclose(axes, width, cells, mean, radius, noise, coupling, f, combinations, first, third):
    """Enclose E f(s') over boxes of means, one box per row: cells (K,), centre mean (K, d), radius (K, d).

    combinations (C, d), first (d,), third (d, d, d): see `derivative_combinations`. `width`: nodes of the widest box.

    Returns value (K,), gradient (K, d) and Hessian (K, d, d) at the centre; floor (K,), a lower bound of E f over the box; slope (K, d), bounds of |dE/dm_j| over the box;
    bend (K, d, d), bounds of |E_jk(m) - E_jk(centre)| over the box, sum_l sup|E_jkl| r_l; smooth (K,), whether the bends
    hold (else E is Lipschitz with the slopes); bounded (K,), whether the slopes hold.
    """
    rows, d = mean.shape
    value, gradient, hessian = np.empty(rows), np.empty((rows, d)), np.empty((rows, d, d))
    floor, slope, bend = np.empty(rows), np.zeros((rows, d)), np.zeros((rows, d, d))
    smooth, bounded = np.empty(rows, np.bool_), np.empty(rows, np.bool_)
    pair = d > 1
    for j in range(2, d):
        pair = pair and first[axes.order[j]] < 0
    for c in prange(CHUNKS):
        low, high = c * rows // CHUNKS, (c + 1) * rows // CHUNKS
        walk = kernels.new_walk(d, width)
        u = np.zeros((d, 4, width))
        inner = np.zeros(width)
        totals, scratch = np.zeros(combinations.shape[0]), np.zeros(22)
        rows_of_pair = np.zeros((7, width))
        for r in range(low, high):
            k = cells[r]
            value[r] = kernels._expectation(walk, axes, mean[r], noise[k], coupling[k], f, 2, gradient[r], hessian[r])
            if pair and radius[r, axes.order[0]] > 0.0 and radius[r, axes.order[1]] > 0.0:
                smooth[r], bounded[r], floor[r] = _pair_bounds(
                    walk, axes, mean[r], radius[r], noise[k], coupling[k], f, u, rows_of_pair, inner, combinations, totals, scratch
                )
            else:
                smooth[r], bounded[r], floor[r] = _bounds(
                    walk, axes, mean[r], radius[r], noise[k], coupling[k], f, value[r], u, inner, combinations, totals, scratch
                )
            for j in range(d):
                if first[j] >= 0:
                    slope[r, j] = totals[first[j]]
                for l in range(d):
                    for i in range(d):
                        if third[j, l, i] >= 0:
                            bend[r, j, l] += totals[third[j, l, i]] * radius[r, i]
    return value, gradient, hessian, floor, slope, bend, smooth, bounded
