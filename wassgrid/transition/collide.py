"""The collision: expectations over the axes whose laws, given the cell and the action, are independent.

    E f = sum_x prod_c omega_c(x_c; mean_c(s, a)) U[s_f, x],

a contraction of a window of U with one law of a few nodes per axis. Compiled; arrays only.

Letters: k cell, i particle, c axis (the last one is contiguous in U), q node of a window, w0, w1, w2 weights and their
first and second derivatives in the mean. A window starts at `start` on the extended axis of U and holds `width`
weights, most of them not zero.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wassgrid.transition.axis_kernels import axis_weights
from wassgrid.transition.compiled import CLAMP, PERIODIC, allocating_nothing, contraction, driver, fold
from wassgrid.transition.smoothing import narrow_weights


class Collision(NamedTuple):
    """Describe the collided axes to the compiled functions; one entry per axis, in the memory order of U."""

    axis: np.ndarray  # number of the axis in the problem
    lower: np.ndarray
    spacing: np.ndarray
    size: np.ndarray
    boundary: np.ndarray
    kernel: np.ndarray
    width: np.ndarray  # of one particle's window, a multiple of four
    extent: np.ndarray  # nodes of the extended axis of U
    stride: np.ndarray  # of the extended axes in a block of U
    block: int  # elements in a block of U, one block for every choice of the streamed coordinates
    cells: int  # cells in a block
    moved: int  # the first axis of those that actions move; they come last
    shared: np.ndarray  # the part of the noise that a smoothing of U has taken over, 0: none
    pad: np.ndarray  # nodes before the first one on the extended axis of U
    ones: np.ndarray  # (axes, extents) what a cut end has left of the smoothing


@allocating_nothing
def place(at, c, mean, noise, order, raw, out, o, width):
    """Fill the window out (3, o .. o + width) of axis c, the weights alone with order 0; return where it starts.

    Nodes beyond an end are folded onto the nodes that they stand for; a periodic window may run over the end, where U is
    continued. raw (3, reach): scratch.
    """
    n, extent, boundary = at.size[c], at.extent[c], at.boundary[c]
    if at.shared[c] > 0.0:
        first, count = narrow_weights(
            boundary, at.lower[c], at.spacing[c], n, mean, noise, at.shared[c], at.pad[c], at.ones[c], order,
            raw[0], raw[1], raw[2],
        )  # fmt: skip
        if boundary == CLAMP:
            # the law runs over the end, where U goes on
            first, n = first + at.pad[c], extent
    else:
        first, count = axis_weights(
            at.kernel[c], boundary, at.lower[c], at.spacing[c], n, mean, noise, order, raw[0], raw[1], raw[2]
        )
    start = first
    inside = first >= 0 and first + count <= n
    if boundary == PERIODIC:
        start = first % n if count <= width else 0
        inside = count <= width
    else:
        if not inside:
            start = n
            for q in range(count):
                start = min(start, fold(first + q, n, boundary))
        start = max(min(start, extent - width), 0)
    for p in range(order + 1):
        if inside:
            shift = o if boundary == PERIODIC else o + first - start
            for q in range(o, shift):
                out[p, q] = 0.0
            for q in range(count):
                out[p, shift + q] = raw[p, q]
            for q in range(shift + count, o + width):
                out[p, q] = 0.0
        else:
            for q in range(o, o + width):
                out[p, q] = 0.0
            for q in range(count):
                out[p, o + fold(first + q, n, boundary) - start] += raw[p, q]
    return start


@contraction
def _dot(u, b, w, o, width):
    """sum_q w[o + q] u[b + q]."""
    x = u[b : b + width]
    y = w[o : o + width]
    t = 0.0
    for q in range(width):
        t += x[q] * y[q]
    return t


@contraction
def _rows(u, b, stride, w, o0, width0, o1, width1):
    """sum_pq w[o0 + p] w[o1 + q] u[b + p stride + q], four rows at a time (width0 is a multiple of four)."""
    y = w[o1 : o1 + width1]
    t = 0.0
    for p in range(0, width0, 4):
        a0, a1, a2, a3 = w[o0 + p], w[o0 + p + 1], w[o0 + p + 2], w[o0 + p + 3]
        at = b + p * stride
        x0 = u[at : at + width1]
        x1 = u[at + stride : at + stride + width1]
        x2 = u[at + 2 * stride : at + 2 * stride + width1]
        x3 = u[at + 3 * stride : at + 3 * stride + width1]
        s = 0.0
        for q in range(width1):
            s += y[q] * (a0 * x0[q] + a1 * x1[q] + a2 * x2[q] + a3 * x3[q])
        t += s
    return t


@contraction
def _contract(u, b, strides, w, o, widths):
    """Contract the window of u at b with the product of the laws that stand in w, one after the other, from o."""
    d = widths.size
    if d == 1:
        return _dot(u, b, w, o, widths[0])
    if d == 2:
        return _rows(u, b, strides[0], w, o, widths[0], o + widths[0], widths[1])
    t = 0.0
    if d == 3:
        inner = o + widths[0]
        for p in range(widths[0]):
            if w[o + p] != 0.0:
                t += w[o + p] * _rows(
                    u, b + p * strides[0], strides[1], w, inner, widths[1], inner + widths[1], widths[2]
                )
        return t
    second = o + widths[0]
    inner = second + widths[1]
    for p in range(widths[0]):
        if w[o + p] != 0.0:
            for r in range(widths[1]):
                if w[second + r] != 0.0:
                    t += w[o + p] * w[second + r] * _rows(
                        u, b + p * strides[0] + r * strides[1], strides[2], w, inner, widths[2], inner + widths[2], widths[3]
                    )
    return t


@contraction
def _spread_rows(u, b, stride, mass, w, o0, width0, o1, width1):
    """u[b + p stride + q] += mass w[o0 + p] w[o1 + q]."""
    y = w[o1 : o1 + width1]
    for p in range(width0):
        a = mass * w[o0 + p]
        if a != 0.0:
            x = u[b + p * stride : b + p * stride + width1]
            for q in range(width1):
                x[q] += a * y[q]


@contraction
def _spread(u, b, strides, mass, w, o, widths):
    """Add mass times the product law to the window of u at b: the adjoint of `_contract`."""
    d = widths.size
    if d == 1:
        x = u[b : b + widths[0]]
        y = w[o : o + widths[0]]
        for q in range(widths[0]):
            x[q] += mass * y[q]
    elif d == 2:
        _spread_rows(u, b, strides[0], mass, w, o, widths[0], o + widths[0], widths[1])
    elif d == 3:
        inner = o + widths[0]
        for p in range(widths[0]):
            if w[o + p] != 0.0:
                _spread_rows(
                    u, b + p * strides[0], strides[1], mass * w[o + p], w, inner, widths[1], inner + widths[1], widths[2]
                )
    else:
        second = o + widths[0]
        inner = second + widths[1]
        for p in range(widths[0]):
            if w[o + p] != 0.0:
                for r in range(widths[1]):
                    a = mass * w[o + p] * w[second + r]
                    if a != 0.0:
                        _spread_rows(
                            u, b + p * strides[0] + r * strides[1], strides[2], a, w, inner, widths[2],
                            inner + widths[2], widths[3],
                        )  # fmt: skip


@driver
def collide(low, high, at, base, mass, w, widths, u, out):
    """out[k] = sum_i mass_ki prod_c omega_c,ki . U for cells low..high.

    base, mass (cells, laws), w (cells, laws, sum of widths).
    """
    total = 0
    for c in range(widths.size):
        total += widths[c]
    laws = base.shape[1]
    flat = w.reshape(-1)
    for k in range(low, high):
        t = 0.0
        for i in range(laws):
            if mass[k, i] != 0.0:
                t += mass[k, i] * _contract(u, base[k, i], at.stride, flat, (k * laws + i) * total, widths)
        out[k] = t


@driver
def scatter(low, high, at, base, mass, w, widths, measure, first, u):
    """u += sum_ki measure_k mass_ki prod_c omega_c,ki for the cells of groups low..high: the adjoint of `collide`.

    first (groups + 1,): where the cells of a group begin; u (groups, elements) where all groups share one block, else
    (1, elements), every group writing to its own blocks alone.
    """
    total = 0
    for c in range(widths.size):
        total += widths[c]
    laws = base.shape[1]
    flat = w.reshape(-1)
    for g in range(low, high):
        target = u[g if u.shape[0] > 1 else 0]
        for k in range(first[g], first[g + 1]):
            for i in range(laws):
                if mass[k, i] != 0.0 and measure[k] != 0.0:
                    _spread(
                        target, base[k, i], at.stride, measure[k] * mass[k, i], flat, (k * laws + i) * total, widths
                    )


@driver
def windows(low, high, at, reach, cells, mean, noise, weights, widths, base, mass, w):
    """Fill base, mass and w of `collide` for the particles of cells low..high.

    cells (K,): number of every cell in the order of U; mean (K, N, d), noise (K, d), weights (K, N). Where one axis alone is
    moved, the particles' laws on it are summed into one. Particles that stand together are taken once.
    """
    d = at.axis.size
    particles, laws = mean.shape[1], base.shape[1]
    raw = np.zeros((3, reach))
    cloud, starts = np.zeros((particles, at.width.max())), np.zeros(particles, np.int64)
    for k in range(low, high):
        row = k if noise.shape[0] > 1 else 0
        block = (cells[k] // at.cells) * at.block
        if laws == 1:
            o = 0
            here = block
            for c in range(d):
                j = at.axis[c]
                if c < at.moved or particles == 1:
                    start = place(at, c, mean[k, 0, j], noise[row, j], 0, raw, w[k], o, widths[c])
                else:
                    out = w[k, 0, o : o + widths[c]]
                    start = _joint(at, c, mean[k, :, j], noise[row, j], weights[k], raw, cloud, starts, out)
                here += start * at.stride[c]
                o += widths[c]
            base[k, 0], mass[k, 0] = here, 1.0
            continue
        for i in range(particles):
            mass[k, i] = weights[k, i]
            for other in range(i):
                same = mass[k, other] != 0.0
                for c in range(at.moved, d):
                    same = same and mean[k, i, at.axis[c]] == mean[k, other, at.axis[c]]
                if same:
                    mass[k, other] += mass[k, i]
                    mass[k, i] = 0.0
                    break
            if mass[k, i] == 0.0:
                base[k, i] = block
                continue
            o, here = 0, block
            for c in range(d):
                j = at.axis[c]
                start = place(at, c, mean[k, i, j], noise[row, j], 0, raw, w[k, i : i + 1], o, widths[c])
                here += start * at.stride[c]
                o += widths[c]
            base[k, i] = here


@allocating_nothing
def _joint(at, c, mean, noise, weights, raw, cloud, starts, out):
    """Sum the laws of a cloud on one axis into a common window; return its start. cloud (N, width), starts (N,): scratch."""
    n, width, wraps = at.size[c], out.size, at.boundary[c] == PERIODIC
    narrow = min(at.width[c], width)
    low, anchor = 1 << 40, -1
    for i in range(mean.size):
        if weights[i] != 0.0:
            start = place(at, c, mean[i], noise, 0, raw, cloud[i : i + 1], 0, narrow)
            if wraps and anchor >= 0:
                # starts near the first one, whichever way round
                start = anchor + (start - anchor + n // 2) % n - n // 2
            elif anchor < 0:
                anchor = start
            starts[i] = start
            low = min(low, start)
    whole = wraps and width >= n
    if whole:
        low = 0
    elif not wraps:
        low = max(min(low, at.extent[c] - width), 0)
    for q in range(width):
        out[q] = 0.0
    for i in range(mean.size):
        if weights[i] != 0.0:
            for q in range(narrow):
                if whole:
                    out[(starts[i] + q) % n] += weights[i] * cloud[i, q]
                elif cloud[i, q] != 0.0:
                    out[starts[i] - low + q] += weights[i] * cloud[i, q]
    return low % n if wraps else low


@contraction
def _triple(u, b, w, o, width, out):
    """out[p] = sum_q w[p, o + q] u[b + q] for the three orders."""
    x = u[b : b + width]
    y0, y1, y2 = w[0, o : o + width], w[1, o : o + width], w[2, o : o + width]
    t0 = t1 = t2 = 0.0
    for q in range(width):
        t0 += x[q] * y0[q]
        t1 += x[q] * y1[q]
        t2 += x[q] * y2[q]
    out[0], out[1], out[2] = t0, t1, t2


@contraction
def _derivatives(u, b, strides, w, widths, first, order, gradient, hessian, parts):
    """E f with gradient and Hessian in the means of the axes first, first + 1, ..., whose laws w (3, ...) holds in turn.

    order 0 or 2: whether the derivatives are wanted. Writes into gradient (d,), hessian (d, d).
    """
    d = widths.size
    if order == 0:
        # the laws of the moved axes alone
        return _contract(u, b, strides[first:], w[0], 0, widths[first:])
    last = d - 1
    value = 0.0
    for j in range(first, d):
        gradient[j] = 0.0
        for l in range(first, d):
            hessian[j, l] = 0.0
    outer = 1
    for c in range(first, last):
        outer *= widths[c]
    offset = 0
    for c in range(first, last):
        offset += widths[c]
    for choice in range(outer):
        rest, at, o = choice, b, offset
        p = 1.0
        for c in range(last - 1, first - 1, -1):
            q = rest % widths[c]
            rest //= widths[c]
            o -= widths[c]
            at += q * strides[c]
            parts[0, c], parts[1, c], parts[2, c] = w[0, o + q], w[1, o + q], w[2, o + q]
        _triple(u, at, w, offset, widths[last], parts[:, last])
        t0, t1, t2 = parts[0, last], parts[1, last], parts[2, last]
        for c in range(first, last):
            p *= parts[0, c]
        value += p * t0
        gradient[last] += p * t1
        hessian[last, last] += p * t2
        for j in range(first, last):
            pj = pjj = 1.0
            for c in range(first, last):
                pj *= parts[1 if c == j else 0, c]
                pjj *= parts[2 if c == j else 0, c]
            gradient[j] += pj * t0
            hessian[j, j] += pjj * t0
            hessian[j, last] += pj * t1
            for l in range(j + 1, last):
                pjl = 1.0
                for c in range(first, last):
                    pjl *= parts[1 if c == j or c == l else 0, c]
                hessian[j, l] += pjl * t0
    for j in range(first, d):
        for l in range(first, j):
            hessian[j, l] = hessian[l, j]
    return value


@contraction
def _add(u, b, a, table, o, span):
    x = u[b : b + span]
    y = table[o : o + span]
    for q in range(span):
        y[q] += a * x[q]


@contraction
def _add_four(u, b, stride, still, p, a, table, span):
    """table += a sum of four rows of u, stride apart from b, times still[p], ..., still[p + 3]."""
    a0, a1, a2, a3 = a * still[p], a * still[p + 1], a * still[p + 2], a * still[p + 3]
    x0 = u[b : b + span]
    x1 = u[b + stride : b + stride + span]
    x2 = u[b + 2 * stride : b + 2 * stride + span]
    x3 = u[b + 3 * stride : b + 3 * stride + span]
    for q in range(span):
        table[q] += a0 * x0[q] + a1 * x1[q] + a2 * x2[q] + a3 * x3[q]


@contraction
def _tabulate(u, b, strides, moved, still, widths, spans, table):
    """table[x_moved] = sum over the unmoved axes of their weights `still` (moved, ...) times the window of u at b.

    widths: of the unmoved axes; spans: of the moved ones, which the table holds in turn.
    """
    d = spans.size + moved
    total = 1
    for c in range(spans.size):
        total *= spans[c]
    for x in range(total):
        table[x] = 0.0
    outer, inner = 1, spans[spans.size - 1]
    rows = total // inner
    if rows == 1:
        last = moved - 1
        for c in range(last):
            outer *= widths[c]
        for choice in range(outer):
            rest, at, a = choice, b, 1.0
            for c in range(last - 1, -1, -1):
                q = rest % widths[c]
                rest //= widths[c]
                a *= still[c, q]
                at += q * strides[c]
            if a != 0.0:
                for p in range(0, widths[last], 4):
                    _add_four(u, at + p * strides[last], strides[last], still[last], p, a, table, inner)
        return
    for c in range(moved):
        outer *= widths[c]
    for choice in range(outer):
        rest, at, a = choice, b, 1.0
        for c in range(moved - 1, -1, -1):
            q = rest % widths[c]
            rest //= widths[c]
            a *= still[c, q]
            at += q * strides[c]
        if a == 0.0:
            continue
        for row in range(rows):
            rest, here = row, at
            for c in range(d - 2, moved - 1, -1):
                here += (rest % spans[c - moved]) * strides[c]
                rest //= spans[c - moved]
            _add(u, here, a, table, row * inner, inner)


@driver
def condition(low, high, at, base, w, widths, u, table):
    """table[k] = E[f | realised values of the moved axes], (cells, nodes), for cells low..high: `w` holds the laws of the others.

    base (cells,): where their windows begin; w (cells, sum of widths), widths of the axes before at.moved.
    """
    still = np.zeros((widths.size, widths.max()))
    spans = at.extent[at.moved :]
    for k in range(low, high):
        o = 0
        for c in range(widths.size):
            for q in range(widths[c]):
                still[c, q] = w[k, o + q]
            o += widths[c]
        _tabulate(u, base[k], at.stride, at.moved, still, widths, spans, table[k])


@driver
def expect(low, high, at, reach, cells, mean, first, second, noise, u, values, gradients, hessians):
    """Write E f (K, N) and its derivatives in the action for rows low..high: see `ProductLaw.expectations`.

    cells (K,): number of every row's cell in the order of U; noise (K, d). first (K, N, d, m) and second (K, N, d, m, m):
    derivatives of the mean in the action, no rows: not wanted.

    With E_j, E_jl the derivatives in the means:  d/da = sum_j E_j dm_j/da,
    d2/dadb = sum_jl E_jl dm_j/da dm_l/db + sum_j E_j d2m_j/dadb.
    """
    d, moved = at.axis.size, at.moved
    particles, m = mean.shape[1], first.shape[3]
    with_first, with_second = first.shape[0] == mean.shape[0], second.shape[0] == mean.shape[0]
    order = 2 if with_first or with_second else 0
    widest = at.width.max()
    raw, still = np.zeros((3, reach)), np.zeros((max(moved, 1), widest))
    total = 0
    for c in range(moved, d):
        total += at.width[c]
    w = np.zeros((particles, 3, total))
    starts = np.zeros((particles, d), np.int64)
    lowest, spans = np.zeros(d, np.int64), np.zeros(d - moved, np.int64)
    table_strides = np.zeros(d, np.int64)
    table = np.zeros(0)
    gradient, hessian, parts = np.zeros(d), np.zeros((d, d)), np.zeros((3, d))
    for k in range(low, high):
        row = k if noise.shape[0] > 1 else 0
        block = (cells[k] // at.cells) * at.block
        for i in range(particles):
            o = 0
            for c in range(moved, d):
                j = at.axis[c]
                starts[i, c] = place(at, c, mean[k, i, j], noise[row, j], order, raw, w[i], o, at.width[c])
                o += at.width[c]
        if moved > 0:
            size, here = 1, block
            for c in range(moved):
                j = at.axis[c]
                here += place(at, c, mean[k, 0, j], noise[row, j], 0, raw, still[c : c + 1], 0, at.width[c]) * at.stride[c]
            for c in range(moved, d):
                near, far = starts[0, c], starts[0, c]
                for i in range(1, particles):
                    near, far = min(near, starts[i, c]), max(far, starts[i, c])
                lowest[c] = near
                spans[c - moved] = far - near + at.width[c]
                size *= spans[c - moved]
                here += near * at.stride[c]
            if table.size < size:
                table = np.zeros(size)
            stride = 1
            for c in range(d - 1, moved - 1, -1):
                table_strides[c] = stride
                stride *= spans[c - moved]
            _tabulate(u, here, at.stride, moved, still, at.width, spans, table)
        for i in range(particles):
            here = 0 if moved > 0 else block
            for c in range(moved, d):
                here += (starts[i, c] - lowest[c]) * table_strides[c] if moved > 0 else starts[i, c] * at.stride[c]
            if moved > 0:
                value = _derivatives(table, here, table_strides, w[i], at.width, moved, order, gradient, hessian, parts)
            else:
                value = _derivatives(u, here, at.stride, w[i], at.width, moved, order, gradient, hessian, parts)
            values[k, i] = value
            for a in range(m if with_first else 0):
                slope = 0.0
                for c in range(moved, d):
                    slope += gradient[c] * first[k, i, at.axis[c], a]
                gradients[k, i, a] = slope
                for b in range(m if with_second else 0):
                    bend = 0.0
                    for c in range(moved, d):
                        j = at.axis[c]
                        bend += gradient[c] * second[k, i, j, a, b]
                        for e in range(moved, d):
                            bend += hessian[c, e] * first[k, i, j, a] * first[k, i, at.axis[e], b]
                    hessians[k, i, a, b] = bend


@driver
def scatter_derivative(low, high, at, reach, cells, mean, velocity, mass, noise, first, u):
    """u += sum_ki mass_ki d/dt prod_c omega_c(mean_ki + t velocity_ki), groups as in `scatter`; velocity (cells, N, d)."""
    d = at.axis.size
    total = 0
    for c in range(d):
        total += at.width[c]
    raw, w, dw = np.zeros((3, reach)), np.zeros((3, total)), np.zeros(total)
    for g in range(low, high):
        target = u[g if u.shape[0] > 1 else 0]
        for k in range(first[g], first[g + 1]):
            for i in range(mean.shape[1]):
                if mass[k, i] == 0.0:
                    continue
                here, o = (cells[k] // at.cells) * at.block, 0
                for c in range(d):
                    j = at.axis[c]
                    start = place(at, c, mean[k, i, j], noise[k if noise.shape[0] > 1 else 0, j], 2, raw, w, o, at.width[c])
                    here += start * at.stride[c]
                    o += at.width[c]
                o = 0
                for c in range(d):
                    # the product rule, one axis after the other
                    speed = velocity[k, i, at.axis[c]]
                    if c >= at.moved and speed != 0.0:
                        for q in range(total):
                            dw[q] = w[0, q]
                        for q in range(at.width[c]):
                            dw[o + q] = speed * w[1, o + q]
                        _spread(target, here, at.stride, mass[k, i], dw, 0, at.width)
                    o += at.width[c]


_SLAB = 512  # cells whose weights are held at once where they are computed for every product


@driver
def collide_lean(low, high, at, reach, mean, noise, weights, laws, widths, u, out):
    """`collide` with the weights computed on the way, for cells low..high of mean (cells, N, d) and weights (cells, N)."""
    slab = max(min(_SLAB, high - low), 1)
    base, mass, w = np.empty((slab, laws), np.int64), np.empty((slab, laws)), np.empty((slab, laws, widths.sum()))
    for start in range(low, high, slab):
        stop = min(start + slab, high)
        rows = noise[start:stop] if noise.shape[0] > 1 else noise
        windows(
            0, stop - start, at, reach, np.arange(start, stop), mean[start:stop], rows, weights[start:stop], widths, base, mass, w
        )
        collide(0, stop - start, at, base, mass, w, widths, u, out[start:stop])


@driver
def scatter_lean(low, high, at, reach, mean, noise, weights, laws, widths, measure, first, u):
    """`scatter` with the weights computed on the way."""
    slab = _SLAB
    base, mass, w = np.empty((slab, laws), np.int64), np.empty((slab, laws)), np.empty((slab, laws, widths.sum()))
    bounds = np.zeros(2, np.int64)
    for g in range(low, high):
        target = u[g : g + 1] if u.shape[0] > 1 else u
        for start in range(first[g], first[g + 1], slab):
            stop = min(start + slab, first[g + 1])
            rows = noise[start:stop] if noise.shape[0] > 1 else noise
            windows(
                0, stop - start, at, reach, np.arange(start, stop), mean[start:stop], rows, weights[start:stop], widths,
                base, mass, w,
            )  # fmt: skip
            bounds[1] = stop - start
            scatter(0, 1, at, base, mass, w, widths, measure[start:stop], bounds, target)
