"""Enclosures of E f(s') over boxes of means: its derivatives at a centre and bounds on the next ones over the box.

Letters as in `kernels` and `weight_bounds`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from wassgrid import kernels
from wassgrid.certificate.weight_bounds import weight_bounds
from wassgrid.kernels import CHUNKS, PERIODIC, allocating_nothing, fold


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


@allocating_nothing
def _pair_bounds(walk, axes, mean, radius, noise, coupling, f, u, rows, inner, combinations, totals, scratch):
    """Bound the derivatives for boxes that move the axes of levels 0 and 1 alone.

    With G(x) = E[f | x] at the nodes x of level 0, a function of the second mean m too, and r the radius of m,

        |d^p/dm0^p d^q/dm^q E f| <= sum_{e < 3 - q} r^e/e! (bound along level 0 of G_(q + e) at the centre)
                                  + r^(3 - q)/(3 - q)! sum_x U_p(x) sup |G_3(x)|        for p > 0.

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
    totals[:] = 0.0
    for taken in range(4):
        # the bounds along level 0 of G, G_1, G_2 at the centre, and last the sums of U with the bound of G_3
        if taken < 3:
            axis_bounds(rows[taken], start, h, count, u[0], polynomial, parts)
        else:
            parts[:] = 0.0
            for i in range(count):
                for p in range(4):
                    parts[p] += u[0, p, i] * rows[5, i]
        for c in range(combinations.shape[0]):
            p, q = combinations[c, 0], combinations[c, 1]
            if p > 0 and taken >= q:
                factor = 1.0
                for e in range(1, taken - q + 1):
                    factor *= spread / e
                totals[c] += factor * parts[p]
    for c in range(combinations.shape[0]):
        p, q = combinations[c, 0], combinations[c, 1]
        if p == 0 and q > 0:
            for i in range(count):
                totals[c] += u[0, 0, i] * rows[2 + q, i]
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

    Returns value (K,), gradient (K, d) and Hessian (K, d, d) at the centre; floor (K,), a lower bound of E f over the box;
    slope (K, d), bounds of |dE/dm_j| over the box; bend (K, d, d), bounds of |E_jk(m) - E_jk(centre)| over the box,
    sum_l sup|E_jkl| r_l; smooth (K,), whether the bends hold (else E is Lipschitz with the slopes); bounded (K,), whether
    the slopes and the floor hold.
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
        table = np.zeros((7, width))
        for r in range(low, high):
            k = cells[r]
            value[r] = kernels._expectation(walk, axes, mean[r], noise[k], coupling[k], f, 2, gradient[r], hessian[r])
            if pair and radius[r, axes.order[0]] > 0.0 and radius[r, axes.order[1]] > 0.0:
                smooth[r], bounded[r], floor[r] = _pair_bounds(
                    walk, axes, mean[r], radius[r], noise[k], coupling[k], f, u, table, inner, combinations, totals, scratch
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


@njit(cache=True, parallel=True)
def lead_table(axes, width, mean, noise, coupling, f, low, high):
    """Tabulate E[f(s') | lead axis at a node], (cells, n_lead), for the nodes that means in [low, high] (cells,) may reach."""
    cells, d = mean.shape
    lead = axes.order[0]
    n, h, lower, boundary = axes.size[lead], axes.spacing[lead], axes.lower[lead], axes.boundary[lead]
    table = np.zeros((cells, n))
    for c in prange(CHUNKS):
        first_cell, last_cell = c * cells // CHUNKS, (c + 1) * cells // CHUNKS
        walk = kernels.new_walk(d, width)
        known = np.full(n, -1, np.int64)
        for k in range(first_cell, last_cell):
            bottom, top = low[k] - lower, high[k] - lower
            if boundary == kernels.CLAMP:
                bottom, top = min(max(bottom, 0.0), (n - 1) * h), min(max(top, 0.0), (n - 1) * h)
            reach = kernels.TAIL * noise[k, lead] + 3.0 * h
            first, last = int(np.floor((bottom - reach) / h)), int(np.ceil((top + reach) / h))
            if last - first > 4 * n:
                first, last = 0, n - 1
            kernels._open_cell(walk)
            for e in range(first, last + 1):
                node = kernels.fold(e, n, boundary)
                if known[node] != k:
                    known[node] = k
                    table[k, node] = kernels._given_lead(walk, axes, mean[k], noise[k], coupling[k], f, node)
    return table


@njit(cache=True, parallel=True)
def lead_expectations(axes, lead, width, cells, mean, noise, table, shared):
    """Return E f with its first and second derivative in the lead's mean, (3, K, N), for means (K, N) of cells (K,)."""
    rows, particles = mean.shape
    n, h, boundary = axes.size[lead], axes.spacing[lead], axes.boundary[lead]
    result = np.empty((3, rows, particles))
    for c in prange(CHUNKS):
        w = np.zeros((3, width))
        for r in range(c * rows // CHUNKS, (c + 1) * rows // CHUNKS):
            k = cells[r]
            row = 0 if shared else k
            for i in range(particles):
                first, count = kernels.axis_weights(
                    axes.kernel[lead], boundary, axes.lower[lead], h, n, mean[r, i], noise[k, lead], w[0], w[1], w[2]
                )
                t0 = t1 = t2 = 0.0
                for q in range(count):
                    v = table[row, kernels.fold(first + q, n, boundary)]
                    t0 += w[0, q] * v
                    t1 += w[1, q] * v
                    t2 += w[2, q] * v
                result[0, r, i], result[1, r, i], result[2, r, i] = t0, t1, t2
    return result


@njit(cache=True, parallel=True)
def lead_enclosures(axes, lead, width, cells, mean, radius, noise, table, shared):
    """Bound E f over boxes of the lead's mean: from below, its slope, third derivative, smooth, bounded, each (K,)."""
    rows = mean.shape[0]
    n, h, boundary = axes.size[lead], axes.spacing[lead], axes.boundary[lead]
    floor, slope, third = np.full(rows, np.inf), np.zeros(rows), np.zeros(rows)
    smooth, bounded = np.ones(rows, np.bool_), np.ones(rows, np.bool_)
    for c in prange(CHUNKS):
        u, inner = np.zeros((4, width)), np.zeros(width)
        polynomial, parts, work = np.zeros(3), np.zeros(4), np.zeros(12)
        for r in range(c * rows // CHUNKS, (c + 1) * rows // CHUNKS):
            if radius[r] == 0.0:
                continue
            k = cells[r]
            row = 0 if shared else k
            first, centre, count, smooth[r], bounded[r] = weight_bounds(
                axes.kernel[lead], boundary, axes.lower[lead], h, n, mean[r], radius[r], noise[k, lead], u, polynomial, work
            )
            if bounded[r]:
                for q in range(count):
                    inner[q] = table[row, kernels.fold(first + q, n, boundary)]
                axis_bounds(inner, first * h - centre, h, count, u, polynomial, parts)
                floor[r], slope[r], third[r] = parts[0], parts[1], parts[3]
            else:
                floor[r] = -np.inf
    return floor, slope, third, smooth, bounded
