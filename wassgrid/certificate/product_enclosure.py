"""Enclosures of E f(s') over boxes of means in product form: from U, for actions that move one axis or two.

    E f = sum_x prod_c omega_c(x_c; mean_c) U[s_f, x],    c the moved axes, those that no action moves contracted before.

Letters as in `axis_kernels`, `weight_bounds` and `collide`; levels 0 and 1 are the moved axes in the memory order of U.
"""

from __future__ import annotations

import numpy as np

from wassgrid.certificate.axis_bounds import axis_bounds, floor_value
from wassgrid.certificate.weight_bounds import weight_bounds
from wassgrid.transition.axis_kernels import axis_weights
from wassgrid.transition.collide import _tabulate, place
from wassgrid.transition.compiled import allocating_nothing, driver, fold

MOST_MOVED = 2  # axes that these functions can do


@allocating_nothing
def _law(at, c, mean, noise, w, nodes):
    """Fill the weights w (3, width) of one law and the nodes that they stand on; return their number."""
    n, boundary = at.size[c], at.boundary[c]
    first, count = axis_weights(at.kernel[c], boundary, at.lower[c], at.spacing[c], n, mean, noise, 2, w[0], w[1], w[2])
    for q in range(count):
        nodes[q] = fold(first + q, n, boundary)
    return count


@allocating_nothing
def _bounded_law(at, profiles, c, mean, radius, noise, w, count, nodes, u, places, polynomial, work):
    """Fill U and the nodes that it stands on; return the way from the centre to the first, their number, smooth, bounded.

    Without a radius U are the weights w (3, width) at `nodes`, and their derivatives do not matter: zero.
    """
    if radius == 0.0:
        polynomial[:] = np.inf
        for q in range(count):
            places[q] = nodes[q]
            u[0, q] = abs(w[0, q])
            u[1, q] = u[2, q] = u[3, q] = 0.0
        return 0.0, count, True, True
    n, boundary, h = at.size[c], at.boundary[c], at.spacing[c]
    first, centre, number, smooth, bounded = weight_bounds(
        at.kernel[c], boundary, at.lower[c], h, n, mean, radius, noise, profiles, at.axis[c], u, polynomial, work
    )
    for q in range(number):
        places[q] = fold(first + q, n, boundary)
    return first * h - centre, number, smooth, bounded


@allocating_nothing
def _span(nodes, count, others, number):
    """Return the first node of two lists and how many there are to the last."""
    first, last = nodes[0], nodes[0]
    for q in range(count):
        first, last = min(first, nodes[q]), max(last, nodes[q])
    for q in range(number):
        first, last = min(first, others[q]), max(last, others[q])
    return first, last - first + 1


@driver
def enclose_product(
    low, high, at, profiles, reach, width, cells, mean, radius, noise, u,
    value, gradient, hessian, floor, slope, most, bend, smooth, bounded,
):  # fmt: skip
    """Enclose E f(s') over boxes of means, one box per row low..high: cells (K,) in the order of U, mean and radius (K, d).

    noise (K, d), (1, d) where it is the same everywhere; width: nodes of the widest box on an axis.

    Writes, for the moved axes (the rest stays): value (K,), gradient (K, d) and Hessian (K, d, d) at the centre; floor (K,), a
    lower bound of E f over the box; slope (K, d) and most (K, d, d), bounds of the first and second derivatives over the box;
    bend (K, d, d), bounds of |E_jl(m) - E_jl(centre)| over the box, sum_i sup|E_jli| r_i; smooth (K,), whether most and bend hold
    (else E f is Lipschitz with the slopes); bounded (K,), whether the slopes and the floor hold.
    """
    d, moved = at.axis.size, at.moved
    pair = d - moved == 2
    raw, still = np.zeros((3, reach)), np.zeros((max(moved, 1), at.width.max()))
    w0, w1 = np.zeros((3, width)), np.zeros((3, width))
    n0, n1, p0, p1 = np.zeros(width, np.int64), np.zeros(width, np.int64), np.zeros(width, np.int64), np.zeros(width, np.int64)
    u0, u1 = np.zeros((4, width)), np.zeros((4, width))
    rows, inner = np.zeros((7, width)), np.zeros(width)
    polynomial, along, parts, work = np.zeros(3), np.zeros(3), np.zeros(4), np.zeros(12)
    sums = np.zeros((4, 4))
    size = at.size[moved] * (at.size[moved + 1] if pair else 1) if moved < d else 1
    # without axes to contract U itself is the table
    table, spans = np.zeros(size if moved > 0 else 0), np.zeros(max(d - moved, 1), np.int64)
    source = table if moved > 0 else u
    for r in range(low, high):
        row = r if noise.shape[0] > 1 else 0
        base = (cells[r] // at.cells) * at.block
        here = base
        for c in range(moved):
            j = at.axis[c]
            here += place(at, c, mean[r, j], noise[row, j], 0, raw, still[c : c + 1], 0, at.width[c]) * at.stride[c]
        j0 = at.axis[moved]
        h0 = at.spacing[moved]
        count0 = _law(at, moved, mean[r, j0], noise[row, j0], w0, n0)
        start0, number0, smooth0, bounded0 = _bounded_law(
            at, profiles, moved, mean[r, j0], radius[r, j0], noise[row, j0], w0, count0, n0, u0, p0, polynomial, work
        )
        if not pair:
            if moved > 0:
                lowest, spans[0] = _span(n0, count0, p0, number0)
                _tabulate(u, here + lowest, at.stride, moved, still, at.width, spans, table)
                base = -lowest
            t0 = t1 = t2 = 0.0
            for q in range(count0):
                v = source[base + n0[q]]
                t0 += w0[0, q] * v
                t1 += w0[1, q] * v
                t2 += w0[2, q] * v
            value[r], gradient[r, j0], hessian[r, j0, j0] = t0, t1, t2
            smooth[r], bounded[r] = smooth0 and bounded0, bounded0
            if radius[r, j0] == 0.0:
                floor[r] = t0
            elif bounded0:
                for q in range(number0):
                    inner[q] = source[base + p0[q]]
                axis_bounds(inner, start0, h0, number0, u0, polynomial, parts)
                floor[r], slope[r, j0], most[r, j0, j0] = parts[0], parts[1], parts[2]
                bend[r, j0, j0] = parts[3] * radius[r, j0]
            else:
                floor[r] = -np.inf
            continue
        j1 = at.axis[moved + 1]
        h1, spread = at.spacing[moved + 1], radius[r, j1]
        count1 = _law(at, moved + 1, mean[r, j1], noise[row, j1], w1, n1)
        start1, number1, smooth1, bounded1 = _bounded_law(
            at, profiles, moved + 1, mean[r, j1], spread, noise[row, j1], w1, count1, n1, u1, p1, along, work
        )
        inside = at.stride[moved]
        if moved > 0:
            lowest, spans[0] = _span(n0, count0, p0, number0)
            lowest1, inside = _span(n1, count1, p1, number1)
            spans[1] = inside
            _tabulate(u, here + lowest * at.stride[moved] + lowest1, at.stride, moved, still, at.width, spans, table)
            base = -lowest * inside - lowest1
        value[r] = 0.0
        for a in range(2):
            gradient[r, at.axis[moved + a]] = 0.0
            for b in range(2):
                hessian[r, at.axis[moved + a], at.axis[moved + b]] = 0.0
        for i in range(count0):
            at_row = base + n0[i] * inside
            t0 = t1 = t2 = 0.0
            for q in range(count1):
                v = source[at_row + n1[q]]
                t0 += w1[0, q] * v
                t1 += w1[1, q] * v
                t2 += w1[2, q] * v
            value[r] += w0[0, i] * t0
            gradient[r, j0] += w0[1, i] * t0
            gradient[r, j1] += w0[0, i] * t1
            hessian[r, j0, j0] += w0[2, i] * t0
            hessian[r, j0, j1] += w0[1, i] * t1
            hessian[r, j1, j1] += w0[0, i] * t2
        hessian[r, j1, j0] = hessian[r, j0, j1]
        bounded[r] = bounded0 and bounded1
        smooth[r] = smooth0 and smooth1 and bounded[r]
        if radius[r, j0] == 0.0 and spread == 0.0:
            floor[r] = value[r]
            continue
        if not bounded[r]:
            floor[r] = -np.inf
            continue
        # G, G_1, G_2 at the centre of level 1, bounds of |G_1|, |G_2|, |G_3| over it and a lower bound of G, by node of level 0
        for i in range(number0):
            at_row = base + p0[i] * inside
            t0 = t1 = t2 = 0.0
            for q in range(count1):
                v = source[at_row + n1[q]]
                t0 += w1[0, q] * v
                t1 += w1[1, q] * v
                t2 += w1[2, q] * v
            rows[0, i], rows[1, i], rows[2, i] = t0, t1, t2
            if spread == 0.0:
                rows[3, i] = rows[4, i] = rows[5, i] = 0.0
                rows[6, i] = t0
                continue
            for q in range(number1):
                inner[q] = source[at_row + p1[q]]
            axis_bounds(inner, start1, h1, number1, u1, along, parts)
            rows[3, i], rows[4, i], rows[5, i], rows[6, i] = parts[1], parts[2], parts[3], parts[0]
        # sums[p, q] >= |d^p/dm0^p d^q/dm1^q E f|. For p > 0, with s the radius of m1,
        #   sum_{e < 3 - q} s^e/e! (bound along level 0 of G_(q + e) at the centre) + s^(3 - q)/(3 - q)! sum_x U_p(x) sup |G_3(x)|
        sums[:, :] = 0.0
        if radius[r, j0] > 0.0:
            for taken in range(4):
                if taken < 3:
                    axis_bounds(rows[taken], start0, h0, number0, u0, polynomial, parts)
                else:
                    parts[:] = 0.0
                    for i in range(number0):
                        for p in range(1, 4):
                            parts[p] += u0[p, i] * rows[5, i]
                for q in range(min(taken, 2) + 1):
                    factor = 1.0
                    for e in range(1, taken - q + 1):
                        factor *= spread / e
                    for p in range(1, 4):
                        sums[p, q] += factor * parts[p]
            if not smooth[r]:
                # the law along level 1 has a kink: |G - G(centre)| <= s sup |G_1| is all that is known
                axis_bounds(rows[0], start0, h0, number0, u0, polynomial, parts)
                sums[1, 0] = parts[1]
                for i in range(number0):
                    sums[1, 0] += spread * u0[1, i] * rows[3, i]
        for q in range(1, 4):
            for i in range(number0):
                sums[0, q] += u0[0, i] * rows[2 + q, i]
        if radius[r, j0] > 0.0:
            floor[r] = floor_value(rows[6], number0, u0[0])
        else:
            floor[r] = 0.0
            for i in range(number0):
                floor[r] += w0[0, i] * rows[6, i]
        r0 = radius[r, j0]
        slope[r, j0], slope[r, j1] = sums[1, 0], sums[0, 1]
        most[r, j0, j0], most[r, j1, j1] = sums[2, 0], sums[0, 2]
        most[r, j0, j1] = most[r, j1, j0] = sums[1, 1]
        bend[r, j0, j0] = sums[3, 0] * r0 + sums[2, 1] * spread
        bend[r, j0, j1] = bend[r, j1, j0] = sums[2, 1] * r0 + sums[1, 2] * spread
        bend[r, j1, j1] = sums[1, 2] * r0 + sums[0, 3] * spread
