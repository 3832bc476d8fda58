"""Everything compiled: the one-dimensional kernels, the walk over the nodes they reach, and its consumers.

Kernels receive arrays only, never functions, so each is compiled once per machine and cached. Every output element is
written by one thread in an order that does not depend on the number of threads: results are bit-identical.

Helpers that allocate nothing are compiled without Numba's run time: counting references to the arrays that they are handed took
nine tenths of the time.

Letters: k cell, i particle, j and l state axes, a and b action components, m mean of the next state (alpha),
s noise, w0, w1, w2 a weight and its first and second derivative in the mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numba import get_num_threads, njit, prange, set_num_threads

GAUSSIAN, LINEAR, CUBIC = 0, 1, 2
CLAMP, REFLECT, PERIODIC = 0, 1, 2
TAIL = 8.0  # standard deviations: the normal density beyond is 1e-14 of its peak
SNAP = 1e-9  # in cells: a noise-free mean this close to a node is on it
CHUNKS = 64  # of rows; a constant, so that no sum depends on the number of threads
SERIAL = 200_000  # elementary operations below which waking a second thread costs more than it gains
_SQRT2 = math.sqrt(2.0)
_SQRT2PI = math.sqrt(2.0 * math.pi)


class Axes(NamedTuple):
    """Describe the grid to the kernels; all arrays have one entry per axis, except `coupled` (d, d)."""

    lower: np.ndarray
    spacing: np.ndarray
    size: np.ndarray
    boundary: np.ndarray
    kernel: np.ndarray
    stride: np.ndarray
    order: np.ndarray  # axes in the order in which their next values are realised
    coupled: np.ndarray  # coupled[j, i]: the mean of axis j depends on the realised value of axis i
    led: bool  # the first axis in the order is the only one that actions move, as a rule: see `_shared`


_options: dict[str, Any] = {"cache": True, "_nrt": False}
allocating_nothing = njit(**_options)


@contextmanager
def threads_for(operations: float) -> Iterator[None]:
    """Run the compiled calls inside on one thread if they are small; results do not depend on it."""
    limit = get_num_threads()
    small = operations < SERIAL and limit > 1
    if small:
        set_num_threads(1)
    try:
        yield
    finally:
        if small:
            set_num_threads(limit)


@njit(cache=True, inline="always")
def _density(z):
    return math.exp(-0.5 * z * z) / _SQRT2PI


@njit(cache=True, inline="always")
def _cumulative(z):
    return 0.5 * math.erfc(-z / _SQRT2)


@allocating_nothing
def fold(e, n, boundary):
    """Return the node that extended index e falls on: clamped, reflected (ends included) or wrapped."""
    if boundary == PERIODIC:
        return e % n
    if boundary == REFLECT:
        period = 2 * (n - 1)
        e = e % period
        return e if e < n else period - e
    return min(max(e, 0), n - 1)


@allocating_nothing
def _gaussian_weights(m, s, h, n, boundary, w0, w1, w2):
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


@allocating_nothing
def _linear_weights(m, s, h, w0, w1, w2):
    """Exact expectation of the piecewise-linear interpolant under N(m, s^2): nonnegative and mean-exact.

    w_l = (G_{l-1} - 2 G_l + G_{l+1})/h,  G_l = E(m + s xi - t_l)^+ = s phi(z) + (m - t_l) Phi(z),  z = (m - t_l)/s,
    G' = Phi(z), G'' = phi(z)/s; plain hat weights at s = 0.
    """
    t = m / h
    if s <= 0.0:
        base = (math.floor(t))
        part = t - base
        if part > 1.0 - SNAP:
            base, part = base + 1, 0.0
        if part < SNAP:
            # on a node the interpolant has a kink: the derivative is the mean of both sides
            w0[0], w0[1], w0[2] = 0.0, 1.0, 0.0
            w1[0], w1[1], w1[2] = -0.5 / h, 0.0, 0.5 / h
            w2[0], w2[1], w2[2] = 0.0, 0.0, 0.0
            return base - 1, 3
        w0[0], w0[1] = 1.0 - part, part
        w1[0], w1[1] = -1.0 / h, 1.0 / h
        w2[0], w2[1] = 0.0, 0.0
        return base, 2
    first = (math.floor((m - TAIL * s) / h))
    count = (math.ceil((m + TAIL * s) / h)) - first + 1
    g0a = g1a = g2a = g0b = g1b = g2b = 0.0
    total = 0.0
    for q in range(-1, count + 1):
        d = m - (first + q) * h
        z = d / s
        p, c = _density(z), _cumulative(z)
        g0, g1, g2 = s * p + d * c, c, p / s
        if q >= 1:
            w0[q - 1] = max((g0a - 2.0 * g0b + g0) / h, 0.0)
            w1[q - 1] = (g1a - 2.0 * g1b + g1) / h
            w2[q - 1] = (g2a - 2.0 * g2b + g2) / h
            total += w0[q - 1]
        g0a, g1a, g2a = g0b, g1b, g2b
        g0b, g1b, g2b = g0, g1, g2
    for q in range(count):
        w0[q] /= total
    return first, count


@njit(cache=True, inline="always")
def _lagrange(q, u):
    """Cubic Lagrange cardinal function of node q in {0, 1, 2, 3} at u, with its first two derivatives."""
    if q == 0:
        return -(u - 1) * (u - 2) * (u - 3) / 6, -(3 * u * u - 12 * u + 11) / 6, -(u - 2)
    if q == 1:
        return u * (u - 2) * (u - 3) / 2, (3 * u * u - 10 * u + 6) / 2, 3 * u - 5
    if q == 2:
        return -u * (u - 1) * (u - 3) / 2, -(3 * u * u - 8 * u + 3) / 2, -(3 * u - 4)
    return u * (u - 1) * (u - 2) / 6, (3 * u * u - 6 * u + 2) / 6, u - 1


@allocating_nothing
def _cubic_weights(m, h, n, boundary, w0, w1, w2):
    """Four-point Lagrange weights of a noise-free mean: fourth order, of either sign."""
    t = m / h
    near = round(t)
    if abs(t - near) < SNAP:
        t = float(near)
    base = (math.floor(t)) - 1
    if boundary == CLAMP:
        base = min(max(base, 0), n - 4)
    u = t - base
    for q in range(4):
        v0, v1, v2 = _lagrange(q, u)
        w0[q], w1[q], w2[q] = v0, v1 / h, v2 / (h * h)
    return base, 4


@allocating_nothing
def axis_weights(kernel, boundary, lower, h, n, mean, s, w0, w1, w2):
    """Fill the weights of one axis and their derivatives in the mean; return (first extended index, count).

    Means beyond a clamped end are clamped, with zero derivative there.
    """
    m = mean - lower
    outside = False
    if boundary == CLAMP:
        top = (n - 1) * h
        if m < 0.0 or m > top:
            outside = True
            m = min(max(m, 0.0), top)
    elif boundary == PERIODIC:
        m = m % (n * h)
    else:
        m = m % (2 * (n - 1) * h)
    if kernel == GAUSSIAN:
        first, count = _gaussian_weights(m, s, h, n, boundary, w0, w1, w2)
    elif kernel == LINEAR:
        first, count = _linear_weights(m, s, h, w0, w1, w2)
    else:
        first, count = _cubic_weights(m, h, n, boundary, w0, w1, w2)
    if outside:
        for q in range(count):
            w1[q] = 0.0
            w2[q] = 0.0
    return first, count


class Walk(NamedTuple):
    """Scratch of one walk over the nodes that one particle reaches; first index: level in the realised order."""

    w: np.ndarray  # (d, 3, width) weights and their derivatives
    offset: np.ndarray  # (d, width) flat-index offset of each node
    coordinate: np.ndarray  # (d, width) realised value of each node
    counts: np.ndarray  # (d,)
    position: np.ndarray  # (d,)
    base: np.ndarray  # (d,) flat index of the nodes chosen on the levels before
    product: np.ndarray  # (d,)
    first: np.ndarray  # (d, d) first derivatives of the product in the means of the earlier levels
    second: np.ndarray  # (d, d, d)


@njit(cache=True)
def new_walk(d, width):
    """Allocate the scratch of a walk in d dimensions with at most `width` nodes per axis."""
    return Walk(
        np.zeros((d, 3, width)),
        np.zeros((d, width), np.int64),
        np.zeros((d, width)),
        np.zeros(d, np.int64),
        np.zeros(d, np.int64),
        np.zeros(d, np.int64),
        np.ones(d),
        np.zeros((d, d)),
        np.zeros((d, d, d)),
    )


@allocating_nothing
def _fill(walk, axes, level, mean, noise, coupling):
    """Fill one level: the conditional law of its axis given the nodes chosen on the levels before."""
    j = axes.order[level]
    m = mean[j]
    for before in range(level):
        i = axes.order[before]
        if axes.coupled[j, i]:
            m += coupling[j, i] * walk.coordinate[before, walk.position[before]]
    n, h, lower, boundary = axes.size[j], axes.spacing[j], axes.lower[j], axes.boundary[j]
    # the realised value keeps the winding of the mean, so that followers of a periodic axis see no jump
    shift = 0.0
    if boundary == PERIODIC:
        shift = math.floor((m - lower) / (n * h)) * (n * h)
    first, count = axis_weights(
        axes.kernel[j], boundary, lower, h, n, m, noise[j], walk.w[level, 0], walk.w[level, 1], walk.w[level, 2]
    )
    walk.counts[level] = count
    for q in range(count):
        node = fold(first + q, n, boundary)
        walk.offset[level, q] = node * axes.stride[j]
        walk.coordinate[level, q] = lower + (first + q) * h + shift if boundary == PERIODIC else lower + node * h


@allocating_nothing
def _start(walk, axes, mean, noise, coupling):
    d = axes.order.size
    walk.base[0] = 0
    walk.product[0] = 1.0
    walk.first[0, :] = 0.0
    walk.second[0, :, :] = 0.0
    for level in range(d):
        walk.position[level] = 0
        walk.counts[level] = -1
    _fill(walk, axes, 0, mean, noise, coupling)
    if d > 1:
        walk.position[0] = -1


@allocating_nothing
def _advance(walk, axes, mean, noise, coupling, derivatives):
    """Move to the next choice of nodes on all levels but the last; return False when all were seen.

    On return, level d - 1 holds the law of the innermost axis, and base, product, first, second at d - 1 hold the flat
    index of the outer nodes and the product of their weights with its derivatives in the outer means.
    """
    last = axes.order.size - 1
    if last == 0:
        # a single axis: one visit
        walk.position[0] += 1
        return walk.position[0] == 1
    level = last - 1 if walk.position[0] >= 0 else 0
    walk.position[level] += 1
    while True:
        if walk.position[level] >= walk.counts[level]:
            if level == 0:
                return False
            level -= 1
            walk.position[level] += 1
            continue
        q = walk.position[level]
        up = level + 1
        w0, w1, w2 = walk.w[level, 0, q], walk.w[level, 1, q], walk.w[level, 2, q]
        walk.base[up] = walk.base[level] + walk.offset[level, q]
        p = walk.product[level]
        walk.product[up] = p * w0
        if derivatives >= 1:
            for j in range(level):
                walk.first[up, j] = walk.first[level, j] * w0
            walk.first[up, level] = p * w1
        if derivatives >= 2:
            for j in range(level):
                for l in range(j, level):
                    walk.second[up, j, l] = walk.second[level, j, l] * w0
                walk.second[up, j, level] = walk.first[level, j] * w1
            walk.second[up, level, level] = p * w2
        j = axes.order[up]
        refill = walk.counts[up] < 0
        for before in range(up):
            refill = refill or axes.coupled[j, axes.order[before]]
        if refill:
            _fill(walk, axes, up, mean, noise, coupling)
        if up == last:
            return True
        level = up
        walk.position[level] = 0


@allocating_nothing
def _chunk(c, n):
    return c * n // CHUNKS, (c + 1) * n // CHUNKS


# Where actions move one axis only (a force on a velocity), all particles of a cell share the law of the other axes given
# that one, the lead. Sums over particles are then taken on the lead axis first, and sums over the other axes once per lead
# node instead of once per particle:  sum_i w_i omega_lead,i(x) prod_other omega(y | x) = (sum_i w_i omega_lead,i(x)) prod(...).


@allocating_nothing
def _shared(axes, mean):
    """Tell whether the particles of one cell, mean (N, d), differ on the lead axis only."""
    if not axes.led:
        return False
    lead = axes.order[0]
    for i in range(1, mean.shape[0]):
        for j in range(mean.shape[1]):
            if j != lead and mean[i, j] != mean[0, j]:
                return False
    return True


@allocating_nothing
def _lead_weights(axes, mean, noise, w, nodes):
    """Fill weights (3, width) and nodes (width,) of one particle on the lead axis; return their number."""
    j = axes.order[0]
    n, boundary = axes.size[j], axes.boundary[j]
    first, count = axis_weights(
        axes.kernel[j], boundary, axes.lower[j], axes.spacing[j], n, mean[j], noise[j], w[0], w[1], w[2]
    )
    for q in range(count):
        nodes[q] = fold(first + q, n, boundary)
    return count


@allocating_nothing
def _pin(walk, axes, node):
    """Let the walk hold one node of the lead axis; `_advance` then runs over the axes that follow it."""
    j = axes.order[0]
    walk.counts[0] = 1
    walk.position[0] = -1
    walk.w[0, 0, 0] = 1.0
    walk.offset[0, 0] = node * axes.stride[j]
    walk.coordinate[0, 0] = axes.lower[j] + node * axes.spacing[j]


@allocating_nothing
def _open_cell(walk):
    """Forget the laws of the last cell on the levels below the lead."""
    walk.counts[:] = -1
    walk.product[0] = 1.0
    walk.base[0] = 0


@allocating_nothing
def _touch(walk, axes, mean, noise, coupling, seen, row):
    """Mark the columns that a walk reaches; return how many were new to this row."""
    inner = axes.order.size - 1
    found = 0
    while _advance(walk, axes, mean, noise, coupling, 0):
        if walk.product[inner] == 0.0:
            continue
        for q in range(walk.counts[inner]):
            if walk.w[inner, 0, q] != 0.0:
                column = walk.base[inner] + walk.offset[inner, q]
                if seen[column] != row:
                    seen[column] = row
                    found += 1
    return found


@allocating_nothing
def _scatter(walk, axes, mean, noise, coupling, weight, slot, columns, values, begin, end):
    """Add weight times the law that a walk runs over to the row from `begin`; return its new end."""
    inner = axes.order.size - 1
    while _advance(walk, axes, mean, noise, coupling, 0):
        p = weight * walk.product[inner]
        if p == 0.0:
            continue
        base = walk.base[inner]
        for q in range(walk.counts[inner]):
            w = walk.w[inner, 0, q]
            if w != 0.0:
                column = base + walk.offset[inner, q]
                at = slot[column]
                if at < begin:
                    at = end
                    slot[column] = end
                    columns[end] = column
                    values[end] = 0.0
                    end += 1
                values[at] += p * w
    return end


@allocating_nothing
def _lead_law(axes, mean, weights, noise, w, nodes, law):
    """Sum the laws of all particles of one cell on the lead axis, sum_i w_i omega_i, into law (n_lead,)."""
    law[:] = 0.0
    for i in range(mean.shape[0]):
        if weights[i] != 0.0:
            for q in range(_lead_weights(axes, mean[i], noise, w, nodes)):
                law[nodes[q]] += weights[i] * w[0, q]


@njit(cache=True, parallel=True)
def count_entries(axes, width, cells, mean, weights, noise, coupling):
    """Count the distinct columns of chosen rows of P: cells (K,), mean (K, N, d), weights (K, N) -> (K,) int64."""
    rows, particles, d = mean.shape
    total = 1
    for j in range(d):
        total *= axes.size[j]
    counts = np.zeros(rows, np.int64)
    for c in prange(CHUNKS):
        low, high = _chunk(c, rows)
        seen = np.full(total if high > low else 0, -1, np.int64)
        walk = new_walk(d, width)
        w, nodes, law = np.zeros((3, width)), np.zeros(width, np.int64), np.zeros(axes.size[axes.order[0]])
        for r in range(low, high):
            k = cells[r]
            found = 0
            if _shared(axes, mean[r]):
                _lead_law(axes, mean[r], weights[r], noise[k], w, nodes, law)
                _open_cell(walk)
                for node in range(law.size):
                    if law[node] != 0.0:
                        _pin(walk, axes, node)
                        found += _touch(walk, axes, mean[r, 0], noise[k], coupling[k], seen, r)
            else:
                for i in range(particles):
                    if weights[r, i] != 0.0:
                        _start(walk, axes, mean[r, i], noise[k], coupling[k])
                        found += _touch(walk, axes, mean[r, i], noise[k], coupling[k], seen, r)
            counts[r] = found
    return counts


@njit(cache=True, parallel=True)
def fill_rows(axes, width, mean, weights, noise, coupling, start, columns, values):
    """Fill the rows of P:  P[k, l] = sum_i w_ki prod_j omega_j(x_l; mean_ki).

    start (cells + 1,) from `count_entries`; columns int32 and values float64 are written; columns stand in order of
    first touch. Rows are divided by their sum (which is one to rounding already), so that they sum to one.
    """
    cells, particles, d = mean.shape
    for c in prange(CHUNKS):
        low, high = _chunk(c, cells)
        slot = np.full(cells if high > low else 0, -1, np.int64)
        walk = new_walk(d, width)
        w, nodes, law = np.zeros((3, width)), np.zeros(width, np.int64), np.zeros(axes.size[axes.order[0]])
        for k in range(low, high):
            begin = end = start[k]
            if _shared(axes, mean[k]):
                _lead_law(axes, mean[k], weights[k], noise[k], w, nodes, law)
                _open_cell(walk)
                for node in range(law.size):
                    if law[node] != 0.0:
                        _pin(walk, axes, node)
                        end = _scatter(
                            walk, axes, mean[k, 0], noise[k], coupling[k], law[node], slot, columns, values, begin, end
                        )
            else:
                for i in range(particles):
                    if weights[k, i] != 0.0:
                        _start(walk, axes, mean[k, i], noise[k], coupling[k])
                        end = _scatter(
                            walk, axes, mean[k, i], noise[k], coupling[k], weights[k, i], slot, columns, values, begin, end
                        )
            total = 0.0
            for at in range(begin, end):
                total += values[at]
            for at in range(begin, end):
                values[at] /= total


@njit(cache=True, parallel=True)
def transpose(start, columns, values):
    """Return (start, columns, values) of the transpose; its rows are sorted, whatever the number of threads."""
    n = start.size - 1
    groups = 8
    counts = np.zeros((groups, n), np.int64)
    for g in prange(groups):
        for at in range(start[g * n // groups], start[(g + 1) * n // groups]):
            counts[g, columns[at]] += 1
    t_start = np.zeros(n + 1, np.int64)
    for l in range(n):
        position = t_start[l]
        for g in range(groups):
            here = counts[g, l]
            counts[g, l] = position
            position += here
        t_start[l + 1] = position
    t_columns = np.empty(columns.size, np.int32)
    t_values = np.empty(values.size, np.float64)
    for g in prange(groups):
        for k in range(g * n // groups, (g + 1) * n // groups):
            for at in range(start[k], start[k + 1]):
                l = columns[at]
                t_columns[counts[g, l]] = k
                t_values[counts[g, l]] = values[at]
                counts[g, l] += 1
    return t_start, t_columns, t_values


@njit(cache=True, parallel=True)
def multiply(start, columns, values, x):
    """Return the sparse product y_k = sum_l A[k, l] x_l; each row is summed in stored order."""
    n = start.size - 1
    y = np.empty(n)
    for k in prange(n):
        total = 0.0
        for at in range(start[k], start[k + 1]):
            total += values[at] * x[columns[at]]
        y[k] = total
    return y


@allocating_nothing
def _expectation(walk, axes, mean, noise, coupling, f, derivatives, gradient, hessian):
    """E f(s') and, in axis order, its gradient (d,) and Hessian (d, d) in the means; written into the arrays."""
    d = mean.size
    inner = d - 1
    jn = axes.order[inner]
    value = 0.0
    if derivatives >= 1:
        gradient[:] = 0.0
    if derivatives >= 2:
        hessian[:, :] = 0.0
    _start(walk, axes, mean, noise, coupling)
    while _advance(walk, axes, mean, noise, coupling, derivatives):
        base = walk.base[inner]
        t0 = t1 = t2 = 0.0
        if derivatives == 0:
            for q in range(walk.counts[inner]):
                t0 += walk.w[inner, 0, q] * f[base + walk.offset[inner, q]]
        else:
            for q in range(walk.counts[inner]):
                v = f[base + walk.offset[inner, q]]
                t0 += walk.w[inner, 0, q] * v
                t1 += walk.w[inner, 1, q] * v
                t2 += walk.w[inner, 2, q] * v
        p = walk.product[inner]
        value += p * t0
        if derivatives >= 1:
            for level in range(inner):
                gradient[axes.order[level]] += walk.first[inner, level] * t0
            gradient[jn] += p * t1
        if derivatives >= 2:
            for level in range(inner):
                j = axes.order[level]
                for other in range(level, inner):
                    hessian[j, axes.order[other]] += walk.second[inner, level, other] * t0
                hessian[j, jn] += walk.first[inner, level] * t1
            hessian[jn, jn] += p * t2
    if derivatives >= 2:
        for j in range(d):
            for l in range(j):
                # each pair was summed once, on the side of the earlier level
                total = hessian[j, l] + hessian[l, j]
                hessian[j, l] = total
                hessian[l, j] = total
    return value


@allocating_nothing
def _given_lead(walk, axes, mean, noise, coupling, f, node):
    """Return E[f(s') | lead axis at node]."""
    inner = axes.order.size - 1
    _pin(walk, axes, node)
    total = 0.0
    while _advance(walk, axes, mean, noise, coupling, 0):
        base = walk.base[inner]
        part = 0.0
        for q in range(walk.counts[inner]):
            part += walk.w[inner, 0, q] * f[base + walk.offset[inner, q]]
        total += walk.product[inner] * part
    return total


@allocating_nothing
def _flat(axes, mean_gradient):
    """Tell whether no mean but the lead's moves with the actions of one cell, derivative (N, d, ...)."""
    lead = axes.order[0]
    for i in range(mean_gradient.shape[0]):
        for j in range(mean_gradient.shape[1]):
            if j != lead:
                for value in mean_gradient[i, j].flat:
                    if value != 0.0:
                        return False
    return True


@njit(cache=True, parallel=True)
def expectations(axes, width, cells, mean, mean_gradient, mean_hessian, noise, coupling, f):
    """Return E f(s') with gradient and Hessian in the action: (K, N), (K, N, m), (K, N, m, m).

    cells (K,), mean (K, N, d), mean_gradient (K, N, d, m), mean_hessian (K, N, d, m, m), f (all cells,). A
    mean_gradient or mean_hessian with no rows leaves that derivative out.

    With E_j, E_jl the derivatives in the means:  d/da = sum_j E_j dm_j/da,
    d2/dadb = sum_jl E_jl dm_j/da dm_l/db + sum_j E_j d2m_j/dadb.
    """
    rows, particles, d = mean.shape
    actions = mean_gradient.shape[3]
    first = mean_gradient.shape[0] == rows
    second = mean_hessian.shape[0] == rows
    derivatives = 2 if second else (1 if first else 0)
    values = np.empty((rows, particles))
    gradients = np.zeros((rows if first else 0, particles, actions))
    hessians = np.zeros((rows if second else 0, particles, actions, actions))
    lead = axes.order[0]
    for c in prange(CHUNKS):
        low, high = _chunk(c, rows)
        walk = new_walk(d, width)
        gradient, hessian = np.zeros(d), np.zeros((d, d))
        w, nodes = np.zeros((3, width)), np.zeros(width, np.int64)
        cache, known = np.zeros(axes.size[lead]), np.full(axes.size[lead], -1, np.int64)
        for r in range(low, high):
            k = cells[r]
            shared = _shared(axes, mean[r])
            if shared and first:
                shared = _flat(axes, mean_gradient[r])
            if shared and second:
                shared = _flat(axes, mean_hessian[r])
            if shared:
                _open_cell(walk)
                gradient[:] = 0.0
                hessian[:, :] = 0.0
            for i in range(particles):
                if shared:
                    t0 = t1 = t2 = 0.0
                    for q in range(_lead_weights(axes, mean[r, i], noise[k], w, nodes)):
                        node = nodes[q]
                        if known[node] != r:
                            known[node] = r
                            cache[node] = _given_lead(walk, axes, mean[r, 0], noise[k], coupling[k], f, node)
                        v = cache[node]
                        t0 += w[0, q] * v
                        t1 += w[1, q] * v
                        t2 += w[2, q] * v
                    values[r, i] = t0
                    gradient[lead] = t1
                    hessian[lead, lead] = t2
                else:
                    values[r, i] = _expectation(
                        walk, axes, mean[r, i], noise[k], coupling[k], f, derivatives, gradient, hessian
                    )
                if not first:
                    continue
                for j in range(d):
                    for a in range(actions):
                        slope = mean_gradient[r, i, j, a]
                        gradients[r, i, a] += gradient[j] * slope
                        if second:
                            for b in range(actions):
                                total = gradient[j] * mean_hessian[r, i, j, a, b]
                                for l in range(d):
                                    total += slope * hessian[j, l] * mean_gradient[r, i, l, b]
                                hessians[r, i, a, b] += total
    return values, gradients, hessians


@njit(cache=True, parallel=True)
def push_derivative(axes, width, mean, velocity, mass, noise, coupling):
    """Return the signed measure sum_ki mass_ki d/dt p(. | s_k, mean_ki + t velocity_ki), (cells,).

    mean and velocity (cells, N, d): a velocity of the means, dm/da v; mass (cells, N): mu_k w_ki.
    This is mu Pdot_v for a tangent field v.
    """
    cells, particles, d = mean.shape
    groups = 8
    parts = np.zeros((groups, cells))
    for g in prange(groups):
        walk = new_walk(d, width)
        inner = d - 1
        jn = axes.order[inner]
        for k in range(g * cells // groups, (g + 1) * cells // groups):
            for i in range(particles):
                if mass[k, i] == 0.0:
                    continue
                _start(walk, axes, mean[k, i], noise[k], coupling[k])
                while _advance(walk, axes, mean[k, i], noise[k], coupling[k], 1):
                    outer = 0.0
                    for level in range(inner):
                        outer += walk.first[inner, level] * velocity[k, i, axes.order[level]]
                    along = walk.product[inner] * velocity[k, i, jn]
                    for q in range(walk.counts[inner]):
                        parts[g, walk.base[inner] + walk.offset[inner, q]] += mass[k, i] * (
                            outer * walk.w[inner, 0, q] + along * walk.w[inner, 1, q]
                        )
    result = np.zeros(cells)
    for g in range(groups):
        result += parts[g]
    return result


@njit(cache=True)
def conditional_moments(axes, width, mean, noise, coupling):
    """Return mean and variance of the grid's law on every axis, before folding, (cells, d, 2).

    mean (cells, d): one action per cell; axes that follow others are taken at the mean of those they follow.
    The variance beside noise^2 is what the user needs to see numerical diffusion.
    """
    cells, d = mean.shape
    result = np.zeros((cells, d, 2))
    w = np.zeros((3, width))
    for k in range(cells):
        for level in range(d):
            j = axes.order[level]
            m = mean[k, j]
            for before in range(level):
                i = axes.order[before]
                if axes.coupled[j, i]:
                    # the node nearest to the leader's mean
                    node = round((result[k, i, 0] - axes.lower[i]) / axes.spacing[i])
                    m += coupling[k, j, i] * (axes.lower[i] + node * axes.spacing[i])
            h, lower = axes.spacing[j], axes.lower[j]
            first, count = axis_weights(
                axes.kernel[j], axes.boundary[j], lower, h, axes.size[j], m, noise[k, j], w[0], w[1], w[2]
            )
            centre = 0.0
            for q in range(count):
                centre += w[0, q] * (first + q) * h
            spread = 0.0
            for q in range(count):
                spread += w[0, q] * ((first + q) * h - centre) ** 2
            result[k, j, 0] = lower + centre
            result[k, j, 1] = spread
    return result
