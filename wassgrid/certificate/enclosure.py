"""Enclosures of E f(s') over boxes of means: its derivatives at a centre and bounds on the next ones over the box.

Letters as in `axis_kernels` and `weight_bounds`.
"""

from __future__ import annotations

import math

import numpy as np

from wassgrid.certificate.axis_bounds import axis_bounds, floor_value
from wassgrid.certificate.weight_bounds import weight_bounds
from wassgrid.transition.compiled import PERIODIC, allocating_nothing, driver, fold
from wassgrid.transition.expectations import expectation
from wassgrid.transition.walk import fill, new_walk


@allocating_nothing
def _inner_expectation(walk, axes, first, mean, noise, coupling, f):
    """E f over the axes of levels first, first + 1, ... given the nodes chosen on the levels before."""
    last = axes.order.size - 1
    level = first
    walk.product[level] = 1.0
    fill(walk, axes, level, mean, noise, coupling)
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
        fill(walk, axes, level, mean, noise, coupling)
        walk.position[level] = -1


@allocating_nothing
def _fill_bounds(walk, axes, profiles, level, mean, radius, noise, coupling, u, polynomial, work):
    """Fill one level with its nodes and U; return the distance from the centre to the first node, smooth, bounded."""
    j = axes.order[level]
    if radius[j] == 0.0:
        fill(walk, axes, level, mean, noise, coupling)
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
        axes.kernel[j], boundary, lower, h, n, m, radius[j], noise[j], profiles, j, u[level], polynomial, work
    )
    shift = math.floor((m - lower) / (n * h)) * (n * h) if boundary == PERIODIC else 0.0
    walk.counts[level] = count
    for q in range(count):
        node = fold(first + q, n, boundary)
        walk.offset[level, q] = node * axes.stride[j]
        walk.coordinate[level, q] = lower + (first + q) * h + shift if boundary == PERIODIC else lower + node * h
    return first * h - centre, smooth, bounded


@allocating_nothing
def _pair_bounds(walk, axes, profiles, mean, radius, noise, coupling, f, u, rows, inner, combinations, totals, scratch):
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
    start, smooth, bounded = _fill_bounds(walk, axes, profiles, 0, mean, radius, noise, coupling, u, polynomial, work)
    if not bounded:
        return False, False, -np.inf
    for i in range(walk.counts[0]):
        walk.position[0] = i
        walk.base[1] = walk.offset[0, i]
        begin, good, bounded = _fill_bounds(walk, axes, profiles, 1, mean, radius, noise, coupling, u, along, work)
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
        fill(walk, axes, 1, mean, noise, coupling)
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
    if not smooth:
        # a kink along level 1: |G - G(centre)| <= r sup |G_1| is all that is known
        axis_bounds(rows[0], start, h, count, u[0], polynomial, parts)
        for c in range(combinations.shape[0]):
            if combinations[c, 0] == 1 and combinations[c, 1] == 0:
                totals[c] = parts[1]
                for i in range(count):
                    totals[c] += spread * u[0, 1, i] * rows[3, i]
    for c in range(combinations.shape[0]):
        p, q = combinations[c, 0], combinations[c, 1]
        if p == 0 and q > 0:
            for i in range(count):
                totals[c] += u[0, 0, i] * rows[2 + q, i]
    return smooth, True, floor_value(rows[6], count, u[0, 0])


@allocating_nothing
def _bounds(walk, axes, profiles, mean, radius, noise, coupling, f, centre, u, inner, combinations, totals, scratch):
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
    start, smooth, bounded = _fill_bounds(walk, axes, profiles, 0, mean, radius, noise, coupling, u, polynomial, work)
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
            start, good, bounded = _fill_bounds(walk, axes, profiles, level, mean, radius, noise, coupling, u, polynomial, work)
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


@driver
def enclose(
    low, high, axes, profiles, width, cells, mean, radius, noise, coupling, f, combinations, first, third,
    value, gradient, hessian, floor, slope, bend, smooth, bounded,
):  # fmt: skip
    """Enclose E f(s') over boxes of means, one box per row: cells (K,), centre mean (K, d), radius (K, d).

    combinations (C, d), first (d,), third (d, d, d): see `derivative_combinations`. `width`: nodes of the widest box.

    Writes value (K,), gradient (K, d) and Hessian (K, d, d) at the centre; floor (K,), a lower bound of E f over the box;
    slope (K, d), bounds of |dE/dm_j| over the box; bend (K, d, d), bounds of |E_jk(m) - E_jk(centre)| over the box,
    sum_l sup|E_jkl| r_l; smooth (K,), whether the bends hold (else E is Lipschitz with the slopes); bounded (K,), whether
    the slopes and the floor hold. slope and bend are zero before.
    """
    d = mean.shape[1]
    pair = d > 1
    for j in range(2, d):
        pair = pair and first[axes.order[j]] < 0
    walk = new_walk(d, width)
    u = np.zeros((d, 4, width))
    inner = np.zeros(width)
    totals, scratch = np.zeros(combinations.shape[0]), np.zeros(22)
    table = np.zeros((7, width))
    for r in range(low, high):
        k = cells[r]
        value[r] = expectation(walk, axes, mean[r], noise[k], coupling[k], f, 2, gradient[r], hessian[r])
        if pair and radius[r, axes.order[0]] > 0.0 and radius[r, axes.order[1]] > 0.0:
            smooth[r], bounded[r], floor[r] = _pair_bounds(
                walk, axes, profiles, mean[r], radius[r], noise[k], coupling[k], f, u, table, inner, combinations, totals, scratch
            )
        else:
            smooth[r], bounded[r], floor[r] = _bounds(
                walk, axes, profiles, mean[r], radius[r], noise[k], coupling[k], f, value[r], u, inner, combinations, totals,
                scratch,
            )
        for j in range(d):
            if first[j] >= 0:
                slope[r, j] = totals[first[j]]
            for l in range(d):
                for i in range(d):
                    if third[j, l, i] >= 0:
                        bend[r, j, l] += totals[third[j, l, i]] * radius[r, i]
