"""Bounds of the kernels' weights and of their derivatives over intervals of means, one axis.

Letters as in `axis_kernels`: m mean of the next state, s noise, h spacing, w, w_1, w_2, w_3 a weight and its derivatives in the
mean, z = (x - m)/s. U_p is an upper bound of |w_p| over the interval |m - c| <= r, one row per p and one column per node.
"""

from __future__ import annotations

import math

import numpy as np

from wassgrid.certificate.profiles import PIECES
from wassgrid.transition.axis_kernels import CUBIC, GAUSSIAN, MATCHED
from wassgrid.transition.axis_kernels.facts import TAIL
from wassgrid.transition.axis_kernels.matched import EXACT, WIDE
from wassgrid.transition.compiled import CLAMP, PERIODIC, TRUNCATE, allocating_nothing, slack

REACH = 6.0  # radius of an interval, in noises or cells, beyond which nothing is bounded
TAIL_MASS = 2e-14  # weight of the nodes at the edge of the tail, which enter and leave as the mean moves
_LEAST_INSIDE = 0.05  # probability within an axis below which a law that its end cuts is not bounded
_NORMAL = 0.6  # distance of a lattice law from the normal one up to which it is treated as nearly normal


@allocating_nothing
def _lattice_cumulants(c, r, s, h, n, clamped, e, k):
    """Bound how far the law of the lattice nodes is from the normal one, in units of the noise, for |m - c| <= r.

    The sum of exp(-(x - m)^2/2s^2) over all nodes is C (1 + e(m)) with (Poisson summation)
    |s^p e^(p)| <= E_p = 2 sum_j exp(-2 (pi j s/h)^2) (2 pi j s/h)^p; over the nodes 0, ..., n - 1 of a clamped axis it lacks
    those outside, h/s sum phi(z), with derivatives h/s sum He_p(z) phi(z). The cumulants of z differ from those of the normal
    law by s^p d^p/dm^p log(1 + e). Writes bounds of e and its derivatives to e[0], ..., e[5] and of these differences to
    k[1], ..., k[5].
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
def _ramp(d, s):
    """E(d + s xi)^+ = s phi(z) + d Phi(z), z = d/s."""
    z = d / s
    return s * math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi) + 0.5 * d * math.erfc(-z / math.sqrt(2.0))


@allocating_nothing
def _linear_bounds(c, r, s, h, first, count, u, polynomial):
    """U of the linear kernel with noise, |m - c| <= r.

    w = E hat((m + s xi - t)/h) = int hat(x/h) phi_s(t + x - m) dx, so |w^(p)| <= h sup |phi_s^(p)| over the hat's support; or,
    better where s << h, the three terms of the second difference of G: G'' = phi_s, G_3 = phi_s'.
    """
    t = r / s
    for q in range(count):
        z = abs((first + q) * h - c) / s
        # a symmetric law of one hump: largest at the least distance
        near = max(z * s - r, 0.0)
        u[0, q] = (_ramp(near - h, s) - 2.0 * _ramp(near, s) + _ramp(near + h, s)) / h + 1e-15
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
def _table_of(profiles, j, ratio):
    """Return the table of axis j for noise of `ratio` cells, -1 where there is none."""
    if profiles.number[j] == 0 or ratio < profiles.least[j]:
        return -1
    k = 0
    if profiles.growth[j] > 0.0:
        k = int(math.log(ratio / profiles.least[j]) / profiles.growth[j])
    return profiles.first[j] + min(k, profiles.number[j] - 1)


@allocating_nothing
def _greatest(bound, low, high):
    """Return the largest bound on distances from low to high (cells, of either sign)."""
    if low < 0.0 < high:
        low, high = 0.0, max(-low, high)
    elif high <= 0.0:
        low, high = -high, -low
    near, far = int(2 * PIECES * low * (1.0 - 1e-12)), int(2 * PIECES * high * (1.0 + 1e-12))
    result = 0.0
    for k in range(near, min(far, bound.size - 1) + 1):
        result = max(result, bound[k])
    return result


@allocating_nothing
def _cut(first, count, n, below, above, inside, share, u):
    """Turn U of p into U of p/S, p without the nodes outside and with `share` of those on the ends, S >= inside its sum.

    w_1 = (p_1 - w S_1)/S, w_2 = (p_2 - 2 w_1 S_1 - w S_2)/S and so on; S is one less what is left out, S_k = -sum of its p_k.
    """
    out1 = out2 = out3 = 0.0
    for q in range(count):
        e = first + q
        left = 1.0 if e < 0 or e >= n else 1.0 - share if e == 0 or e == n - 1 else 0.0
        out1, out2, out3 = out1 + left * u[1, q], out2 + left * u[2, q], out3 + left * u[3, q]
    for q in range(count - below - above):
        at, e = q + below, first + below + q
        part = share if e == 0 or e == n - 1 else 1.0
        w = min(part * u[0, at] / inside, 1.0)
        w1 = (part * u[1, at] + w * out1) / inside
        w2 = (part * u[2, at] + 2.0 * w1 * out1 + w * out2) / inside
        w3 = (part * u[3, at] + 3.0 * w2 * out1 + 3.0 * w1 * out2 + w * out3) / inside
        u[0, q], u[1, q], u[2, q], u[3, q] = w, w1, w2, w3


@allocating_nothing
def _matched_bounds(c, r, h, n, clamped, first, count, bound, u):
    """U of the matched kernel for |m - c| <= r from a table (4, distances) of `Profiles`; return smooth, bounded.

    Within a clamped axis w = p/S, p the weights of all nodes and S the sum of those within: see `_cut`.
    """
    smooth = True
    for p in range(4):
        for q in range(count):
            x = (first + q) - c / h
            u[p, q] = _greatest(bound[p], x - r / h, x + r / h) / h**p
            if u[p, q] == np.inf:
                if p < 2:
                    return False, False
                smooth = False
    if not smooth:
        u[2, :count] = 0.0
        u[3, :count] = 0.0
    below, above = max(-first, 0), max(first + count - n, 0)
    if not clamped or (below == 0 and above == 0):
        return smooth, True
    # what is outside, on short parts of the interval of means
    outside = 0.0
    parts = int(2 * PIECES * 2.0 * r / h) + 1
    for k in range(parts):
        low, high = (c - r + 2.0 * r * k / parts) / h, (c - r + 2.0 * r * (k + 1) / parts) / h
        here = 0.0
        for q in range(count):
            if q < below or q >= count - above:
                here += _greatest(bound[0], first + q - high, first + q - low)
        outside = max(outside, here)
    inside = 1.0 - outside
    if inside < _LEAST_INSIDE:
        return False, False
    _cut(first, count, n, below, above, inside, 1.0, u)
    return smooth, True


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
def weight_bounds(kernel, boundary, lower, h, n, mean, radius, s, profiles, j, u, polynomial, work):
    """Fill U_p (4, nodes) of one axis for means within `radius`; return first extended index, centre, count, smooth, bounded.

    polynomial (3,): bounds of |d^2 E x|, |d^3 E x| and |d^3 E (x - c)^2| in the mean, x the extended node, c the centre: small
    for laws that are nearly normal, infinite where none is known. smooth: the weights are three times differentiable
    on the box, else only Lipschitz continuous (the second derivative counts where it is Lipschitz continuous itself).
    profiles, j: the tables of `Profiles`, and the number of the axis there. work (12,): scratch.
    """
    polynomial[:] = np.inf
    m = mean - lower
    low, high = m - radius, m + radius
    smooth = True
    beyond = slack(s, h, boundary)
    if beyond >= 0.0:
        bottom, top = -beyond, (n - 1) * h + beyond
        outside = high < bottom or low > top
        # a mean that has gone so far that nothing is left to move has no kink
        smooth = outside or beyond > 0.0 or (low >= bottom and high <= top)
        low, high = min(max(low, bottom), top), min(max(high, bottom), top)
    else:
        outside = False
        period = n * h if boundary == PERIODIC else 2 * (n - 1) * h
        m = m % period
        low, high = m - radius, m + radius
    c, r = 0.5 * (low + high), 0.5 * (high - low)
    if not r <= REACH * max(s, h) or kernel == CUBIC:  # not a number is not within reach
        return 0, 0.0, 0, False, False
    first = math.ceil((low - TAIL * s) / h)
    last = math.floor((high + TAIL * s) / h)
    if kernel == MATCHED and 0.0 < s < WIDE * h:
        table = _table_of(profiles, j, s / h)
        if table < 0:
            return 0, 0.0, 0, False, False
        side = math.ceil(TAIL * s / h) + 1
        first, last = round(low / h) - side, round(high / h) + side
        whole = last - first + 1
        even, bounded = _matched_bounds(c, r, h, n, boundary == CLAMP, first, whole, profiles.bound[table], u)
        if not bounded:
            return 0, 0.0, 0, False, False
        smooth = smooth and even
        count = whole
        if boundary == CLAMP:
            first, count = max(first, 0), min(last, n - 1) - max(first, 0) + 1
        if count == whole:
            # mean and, where it exists, variance are exact
            polynomial[0] = polynomial[1] = 0.0
            polynomial[2] = 0.0 if s >= EXACT * h else np.inf
    elif kernel == GAUSSIAN or (kernel == MATCHED and s > 0.0):
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
    if boundary == TRUNCATE and s > 0.0 and not (first > 0 and first + count < n):
        polynomial[:] = np.inf
        below, above = max(-first, 0), max(first + count - n, 0)
        lost = 0.0
        for q in range(count):
            e = first + q
            lost += u[0, q] * (1.0 if e < 0 or e >= n else 0.5 if e == 0 or e == n - 1 else 0.0)
        if 1.0 - lost < _LEAST_INSIDE:
            return 0, 0.0, 0, False, False
        _cut(first, count, n, below, above, 1.0 - lost, 0.5, u)
        first, count = first + below, count - below - above
    if outside:
        polynomial[:] = 0.0
        for q in range(count):
            u[1, q] = u[2, q] = u[3, q] = 0.0
    return first, c, count, smooth, True
