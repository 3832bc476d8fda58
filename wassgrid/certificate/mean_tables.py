"""Ranges of E f(s') and its derivatives over pieces of the means, for all cells of a block of U at once.

Cells that differ in the collided coordinates alone share the function of the means

    E f(m) = sum_x prod_c omega_c(x_c; m_c) U[s_f, x].

The means of every axis are cut into pieces about half a noise long. On every product of pieces the derivatives to the second
order are computed at the centre, and the third are bounded over it (`axis_bounds`), one axis after the other. A box of means is
then enclosed by the pieces that it meets, whatever its size.

Letters: c axis (in the memory order of U), i piece, q node, p order of the derivative, r half length of a piece.
"""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import numpy as np

from wassgrid.certificate.axis_bounds import axis_bounds
from wassgrid.certificate.profiles import Profiles
from wassgrid.certificate.weight_bounds import weight_bounds
from wassgrid.transition.axis_kernels import AXIS_KERNELS, axis_weights
from wassgrid.transition.collide import Collision
from wassgrid.transition.compiled import CLAMP, PERIODIC, REFLECT, allocating_nothing, driver, fold
from wassgrid.transition.threads import spread

AXES = 2, 3  # how many collided axes; for one the bounds of a single box cost no more than its pieces
_NOISES = 0.5  # length of a piece, in noises
_FINEST = 0.5  # least length of a piece, in cells
_MOST_PIECES = {2: 8.0, 3: 64.0}  # per cell, up to which tables pay: without them boxes of three axes are walked
_STRIPS = 6  # on either side of a point, per action
_ENTRIES = 1 << 26  # numbers kept at most
_AT_ONCE = 1 << 24  # numbers held at once on the way


class Pieces(NamedTuple):
    """The laws of one collided axis at the centres of its pieces, and their bounds over them; one row per piece."""

    spacing: float
    length: float
    node: np.ndarray  # (K, width)
    counts: np.ndarray  # (K,)
    weight: np.ndarray  # (K, 3, width)
    place: np.ndarray  # (K, width), of the bounds
    number: np.ndarray  # (K,)
    bound: np.ndarray  # (K, 4, width)
    start: np.ndarray  # (K,) way from the centre to the first node
    polynomial: np.ndarray  # (K, 3)


class Orders(NamedTuple):
    """Numbers of the derivatives in 1, 2, ... axes and how one more axis makes those of the next; rows are derivatives.

    exact (a, 2): order in the new axis, number of the derivative in the others. third (b, 2): the same for third derivatives,
    the second number being that of a third derivative in the others where the order is 0, else -1. terms (t, 3): for third
    derivatives with an order > 0, (row of `third`, number of a derivative in the others, 1 where that is a third one), which
    enters with a scale (t,) and powers (t, axes) of the half lengths.
    """

    exact: np.ndarray
    third: np.ndarray
    terms: np.ndarray
    powers: np.ndarray
    scale: np.ndarray


def _derivatives(axes: int, order: int) -> list[tuple[int, ...]]:
    return [p for p in product(range(order + 1), repeat=axes) if sum(p) == order]


def exact_derivatives(axes: int) -> list[tuple[int, ...]]:
    """The derivatives to the second order, the value first."""
    return [p for order in range(3) for p in _derivatives(axes, order)]


def third_derivatives(axes: int) -> list[tuple[int, ...]]:
    return _derivatives(axes, 3)


def orders(axes: int) -> Orders:
    """Return how the derivatives in `axes` axes come from those in all but the first (see `_join`)."""
    inner, inner_third = exact_derivatives(axes - 1), third_derivatives(axes - 1) if axes > 1 else []
    exact = [(p[0], inner.index(p[1:])) for p in exact_derivatives(axes)]
    third, terms, powers, scale = [], [], [], []
    for row, (p, *others) in enumerate(third_derivatives(axes)):
        third.append((p, inner_third.index(tuple(others)) if p == 0 else -1))
        if p == 0:
            continue
        # Taylor in the other axes: the derivatives at their centre, and the third ones anywhere on the piece
        for known, extra in ((inner, range(3 - sum(others))), (inner_third, (3 - sum(others),))):
            for power in [e for order in extra for e in _derivatives(axes - 1, order)]:
                derivative = tuple(a + b for a, b in zip(others, power, strict=True))
                if derivative in known:
                    terms.append((row, known.index(derivative), int(known is inner_third)))
                    powers.append(power)
                    scale.append(1.0 / float(np.prod([math.factorial(e) for e in power])))
    return Orders(
        np.array(exact), np.array(third), np.array(terms).reshape(-1, 3),
        np.array(powers, np.int64).reshape(len(powers), axes - 1), np.array(scale),
    )  # fmt: skip


@driver
def _cut(
    low, high, profiles, j, kernel, boundary, lower, h, n, noise, length, node, counts, weight, place, number, bound, start,
    polynomial, bounded,
):  # fmt: skip
    """Fill the arrays of `Pieces` for pieces low..high of axis j, and whether they are smooth and bounded."""
    work = np.zeros(12)
    for i in range(low, high):
        centre = lower + (i + 0.5) * length
        w = weight[i]
        first, counts[i] = axis_weights(kernel, boundary, lower, h, n, centre, noise, 2, w[0], w[1], w[2])
        for q in range(counts[i]):
            node[i, q] = fold(first + q, n, boundary)
        # shorter by less than the margin of `_met`, not to reach beyond an end by rounding
        first, middle, number[i], smooth, known = weight_bounds(
            kernel, boundary, lower, h, n, centre, 0.5 * length * (1.0 - 1e-12), noise, profiles, j, bound[i], polynomial[i], work
        )
        bounded[i] = smooth and known
        start[i] = first * h - middle
        for q in range(number[i]):
            place[i, q] = fold(first + q, n, boundary)


def _pieces(at: Collision, profiles: Profiles, c: int, noise: float) -> Pieces | None:
    """Cut the means of an axis into pieces, None where the weights are not smooth, or not bounded on them."""
    kernel = next(kernel for kernel in AXIS_KERNELS.values() if kernel.code == at.kernel[c])
    lower, h, n, boundary = float(at.lower[c]), float(at.spacing[c]), int(at.size[c]), int(at.boundary[c])
    if noise <= 0.0 or not kernel.nonnegative or boundary not in (CLAMP, REFLECT, PERIODIC):
        return None
    # as long as the way after which the means come again
    way = n * h if boundary == PERIODIC else (n - 1) * h * (1.0 if boundary == CLAMP else 2.0)
    count = int(np.ceil(way / max(_NOISES * noise, _FINEST * h)))
    length = way / count
    width = int(np.ceil(kernel.nodes(noise / h) + length / h)) + 6
    integers = [np.zeros(shape, np.int64) for shape in ((count, width), count, (count, width), count)]
    node, counts, place, number = integers
    weight, bound, start = np.zeros((count, 3, width)), np.zeros((count, 4, width)), np.zeros(count)
    polynomial, bounded = np.zeros((count, 3)), np.zeros(count, np.bool_)
    _cut(
        0, count, profiles, int(at.axis[c]), int(at.kernel[c]), boundary, lower, h, n, noise, length, node, counts, weight,
        place, number, bound, start, polynomial, bounded,
    )  # fmt: skip
    return Pieces(h, length, node, counts, weight, place, number, bound, start, polynomial) if bounded.all() else None


@driver
def _join(low, high, inner, third, m, pieces, radius, orders, exact, bounds):
    """Add an axis to derivatives in the axes after it, for units low..high: a row and a piece of the new axis each.

    inner (rows, a, n m) and third (rows, b, n m): derivatives at the centres and bounds of the third ones, for every node and
    every product of m pieces of the other axes; exact and bounds: the same for every piece of the new axis and the others.
    radius: half lengths of the others' pieces. With w the weights of a piece and U_p their bounds,

        E_(p, u) = sum_x w_p(x) inner_u(x),
        |E_(p, u)| <= sum_e r^e/e! sup |d^p sum_x w(x) inner_(u + e)(x)| + sum_x U_p(x) sum_e r^e/e! third_(u + e)(x)
    """
    count = pieces.counts.size
    line, parts = np.zeros(pieces.place.shape[1]), np.zeros(4)
    sup, tail = np.zeros((inner.shape[1], 4)), np.zeros((max(third.shape[1], 1), 4))
    scale = np.ones(orders.terms.shape[0])
    for t in range(scale.size):
        scale[t] = orders.scale[t]
        for c in range(radius.size):
            scale[t] *= radius[c] ** orders.powers[t, c]
    for unit in range(low, high):
        r, i = unit // count, unit % count
        bound, number = pieces.bound[i], pieces.number[i]
        for j in range(m):
            for row in range(orders.exact.shape[0]):
                p, u = orders.exact[row, 0], orders.exact[row, 1]
                value = 0.0
                for q in range(pieces.counts[i]):
                    value += pieces.weight[i, p, q] * inner[r, u, pieces.node[i, q] * m + j]
                exact[r, row, i * m + j] = value
            for u in range(inner.shape[1]):
                for q in range(number):
                    line[q] = inner[r, u, pieces.place[i, q] * m + j]
                axis_bounds(line, pieces.start[i], pieces.spacing, number, bound, pieces.polynomial[i], parts)
                for p in range(1, 4):
                    sup[u, p] = parts[p]
            for u in range(third.shape[1]):
                tail[u, :] = 0.0
                most = 0.0
                for q in range(number):
                    v = third[r, u, pieces.place[i, q] * m + j]
                    most = max(most, v)
                    for p in range(4):
                        tail[u, p] += bound[p, q] * v
                # a mean of them is not above the largest
                tail[u, 0] = min(tail[u, 0], most)
            for row in range(orders.third.shape[0]):
                bounds[r, row, i * m + j] = tail[orders.third[row, 1], 0] if orders.third[row, 0] == 0 else 0.0
            for t in range(scale.size):
                row, u = orders.terms[t, 0], orders.terms[t, 1]
                p = orders.third[row, 0]
                bounds[r, row, i * m + j] += scale[t] * (tail[u, p] if orders.terms[t, 2] == 1 else sup[u, p])


@allocating_nothing
def _met(near, far, length, count, boundary):
    """Return the first piece that an interval of means meets and how many there are; measured from the first node."""
    # a little more, for rounding
    near, far = near / length - 1e-9, far / length + 1e-9
    if boundary == CLAMP:
        near, far = min(max(near, 0.0), count - 0.5), min(max(far, 0.0), count - 0.5)
    if not far - near < count:
        near, far = 0.0, count - 0.5
    first = math.floor(near)
    return first, min(math.floor(far) - first + 1, count)


@driver
def _hulls(low, high, at, table, length, count, slack, cells, mean, radius, floor, smooth, first, second):
    """Enclose boxes of means low..high by the pieces that they meet: see `MeanTables.enclose`.

    table (blocks, pieces, entries) as in `MeanTables`; length and count (axes,) of the pieces; cells (K,) in the order of U;
    mean and radius (K, d). Along an axis without a radius there are no derivatives: zero.
    """
    axes = count.size
    begin, number = np.zeros(axes, np.int64), np.zeros(axes, np.int64)
    lower, upper = np.zeros(table.shape[2]), np.zeros(table.shape[2])
    ranges = (table.shape[2] - 1) // 2
    for r in range(low, high):
        block = cells[r] // at.cells
        total = 1
        for c in range(axes):
            j = at.axis[c]
            x, spread = mean[r, j] - at.lower[c], radius[r, j]
            begin[c], number[c] = _met(x - spread, x + spread, length[c], count[c], at.boundary[c])
            total *= number[c]
        lower[:], upper[:] = np.inf, -np.inf
        for choice in range(total):
            rest = choice
            place, stride = 0, 1
            for c in range(axes - 1, -1, -1):
                place += ((begin[c] + rest % number[c]) % count[c]) * stride
                rest //= number[c]
                stride *= count[c]
            lower[0] = min(lower[0], table[block, place, 0])
            for e in range(ranges):
                lower[1 + e] = min(lower[1 + e], table[block, place, 1 + 2 * e])
                upper[1 + e] = max(upper[1 + e], table[block, place, 2 + 2 * e])
        floor[r] = lower[0]
        e = 1
        for c in range(axes):
            j = at.axis[c]
            if radius[r, j] > 0.0:
                first[0, r, j], first[1, r, j] = lower[e], upper[e]
                x, top = mean[r, j] - at.lower[c], (at.size[c] - 1) * at.spacing[c]
                if at.boundary[c] == CLAMP and (x - radius[r, j] < -slack[j] or x + radius[r, j] > top + slack[j]):
                    # beyond the end E f does not change
                    first[0, r, j], first[1, r, j] = min(lower[e], 0.0), max(upper[e], 0.0)
                    smooth[r] = False
            e += 1
        for c in range(axes):
            for b in range(c, axes):
                j, l = at.axis[c], at.axis[b]
                if radius[r, j] > 0.0 and radius[r, l] > 0.0:
                    second[0, r, j, l], second[1, r, j, l] = lower[e], upper[e]
                    second[0, r, l, j], second[1, r, l, j] = lower[e], upper[e]
                e += 1


@driver
def _strips(low, high, at, table, length, count, discount, cells, mean, slope, below, above, gradient, curvature, least
):
    """Bound the fall of Q on boxes low..high: see `MeanTables.least_change`."""
    axes, m = count.size, below.shape[1]
    begin, number = np.zeros(axes, np.int64), np.zeros(axes, np.int64)
    lower, upper = np.zeros((axes, axes)), np.zeros((axes, axes))
    first = 1 + 2 * axes
    for r in range(low, high):
        block = cells[r] // at.cells
        total = 0.0
        for a in range(m):
            fall = 0.0
            for side in range(2):
                width = (above[r, a] if side == 1 else -below[r, a]) / _STRIPS
                if width <= 0.0:
                    continue
                value, speed = 0.0, gradient[r, a] if side == 1 else -gradient[r, a]
                for strip in range(_STRIPS):
                    near = strip * width if side == 1 else -(strip + 1) * width
                    pieces = 1
                    for c in range(axes):
                        j = at.axis[c]
                        x = mean[r, j] - at.lower[c]
                        bottom = top = x
                        for b in range(m):
                            one = slope[r, j, b] * (near if b == a else below[r, b])
                            other = slope[r, j, b] * (near + width if b == a else above[r, b])
                            bottom, top = bottom + min(one, other), top + max(one, other)
                        begin[c], number[c] = _met(bottom, top, length[c], count[c], at.boundary[c])
                        pieces *= number[c]
                    for c in range(axes):
                        for b in range(axes):
                            lower[c, b], upper[c, b] = np.inf, -np.inf
                    for choice in range(pieces):
                        rest, place, stride = choice, 0, 1
                        for c in range(axes - 1, -1, -1):
                            place += ((begin[c] + rest % number[c]) % count[c]) * stride
                            rest //= number[c]
                            stride *= count[c]
                        e = first
                        for c in range(axes):
                            for b in range(c, axes):
                                lower[c, b] = min(lower[c, b], table[block, place, e])
                                upper[c, b] = max(upper[c, b], table[block, place, e + 1])
                                e += 2
                    bend = 0.0
                    for b in range(m):
                        bottom, top = curvature[0, r, a, b], curvature[1, r, a, b]
                        for c in range(axes):
                            for d in range(c, axes):
                                j, l = at.axis[c], at.axis[d]
                                factor = discount * slope[r, j, a] * slope[r, l, b]
                                if d != c:
                                    factor += discount * slope[r, l, a] * slope[r, j, b]
                                one, other = factor * lower[c, d], factor * upper[c, d]
                                bottom, top = bottom + min(one, other), top + max(one, other)
                        bend += bottom if b == a else -max(abs(bottom), abs(top))
                    if bend > 0.0 and -bend * width < speed < 0.0:
                        fall = min(fall, value - 0.5 * speed * speed / bend)
                    value += width * (speed + 0.5 * bend * width)
                    speed += bend * width
                    fall = min(fall, value)
            total += fall
        least[r] = total


class MeanTables:
    """Ranges of E f(s'), U given, over pieces of the means.

    table (blocks, pieces, entries): per product of pieces a lower bound of E f, then lower and upper ends of its first and
    second derivatives in the means of the collided axes c <= b.
    """

    def __init__(self, at: Collision, pieces: list[Pieces], u: np.ndarray) -> None:
        self._at = at
        self._length = np.array([axis.length for axis in pieces])
        self._count = np.array([axis.counts.size for axis in pieces])
        axes = len(pieces)
        blocks, products = u.size // at.block, int(self._count.prod())
        self._table = np.empty((blocks, products, 1 + axes * (axes + 3)))
        # a few blocks at once: the third derivatives are needed on the way alone
        some = max(1, _AT_ONCE // (20 * products * max(int(at.size.max()), 1)))
        for start in range(0, blocks, some):
            stop = min(start + some, blocks)
            nodes = u.reshape(blocks, *at.extent)[(slice(start, stop), *(slice(n) for n in at.size))]
            self._table[start:stop] = _entries(nodes, pieces)

    @classmethod
    def build(cls, at: Collision, profiles: Profiles, noise: np.ndarray, u: np.ndarray) -> MeanTables | None:
        """Tabulate U; None where the law is not the same for all cells of a block, has kinks, or where it does not pay.

        noise (1, d) or (cells, d).
        """
        if len(noise) > 1 or at.moved > 0 or at.axis.size not in AXES or at.pad.any():
            return None
        blocks = u.size // at.block
        pieces = []
        for c in range(at.axis.size):
            cut = _pieces(at, profiles, c, float(noise[0, at.axis[c]]))
            if cut is None:
                return None
            pieces.append(cut)
        products = float(np.prod([axis.counts.size for axis in pieces]))
        entries = blocks * products * (1 + len(pieces) * (len(pieces) + 3))
        if products > _MOST_PIECES[len(pieces)] * at.cells or entries > _ENTRIES:
            return None
        return cls(at, pieces, u)

    def enclose(
        self, cells: np.ndarray, mean: np.ndarray, radius: np.ndarray, slack: np.ndarray, floor: np.ndarray, smooth: np.ndarray,
        first: np.ndarray, second: np.ndarray,
    ) -> None:  # fmt: skip
        """Write a lower bound of E f (K,) and ranges of its derivatives, (2, K, d) and (2, K, d, d), over boxes of means.

        cells (K,) in the order of U, mean and radius (K, d). Only the derivatives along axes with a radius are written. smooth
        (K,) becomes False for boxes that leave a clamped axis by more than its slack (d,): there E f is Lipschitz with the
        first derivatives, and the second mean nothing.
        """
        spread(
            _hulls, len(cells), len(cells) * 200.0 * 3.0 ** self._count.size, self._at, self._table, self._length, self._count,
            slack, cells, np.ascontiguousarray(mean), np.ascontiguousarray(radius), floor, smooth, first, second,
        )  # fmt: skip

    def least_change(
        self, discount: float, cells: np.ndarray, mean: np.ndarray, slope: np.ndarray, below: np.ndarray, above: np.ndarray,
        gradient: np.ndarray, curvature: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        """Return (K,) how far Q falls at most below its value at a point p of boxes below <= a - p <= above, (K, m).

        Where the means are affine in the action, their slopes (K, d, m), and the boxes meet no end of a clamped axis. cells (K,)
        in the order of U; mean (K, d) and gradient (K, m) of Q at the points; curvature (2, K, m, m): ranges of the second
        derivatives of the cost over the boxes. With L_a(x_a) a lower bound of Q_aa - sum_b |Q_ab| on the strip of the box at x_a,

            Q(p + x) - Q(p) >= sum_a v_a(x_a),    v_a'' = L_a,  v_a' (0) = Q_a,  v_a(0) = 0

        as the Hessian less diag L is positive semidefinite on the way from p to p + x, which meets the strips in turn.
        """
        least = np.empty(len(cells))
        work = len(cells) * 400.0 * below.shape[1] * _STRIPS * 3.0 ** (self._count.size - 1)
        inputs = (np.ascontiguousarray(part) for part in (mean, slope, below, above, gradient, curvature))
        spread(
            _strips, len(cells), work, self._at, self._table, self._length, self._count, discount, cells, *inputs, least
        )
        return least


def _entries(nodes: np.ndarray, pieces: list[Pieces]) -> np.ndarray:
    """Return the entries (blocks, pieces, entries) of U given at its nodes (blocks, n_1, n_2, ...)."""
    blocks, axes = len(nodes), len(pieces)
    exact, third, m = np.ascontiguousarray(nodes).reshape(-1, 1, 1), np.zeros((nodes.size, 0, 1)), 1
    radius = np.zeros(0)
    for added in range(1, axes + 1):
        axis = pieces[axes - added]
        n, count = nodes.shape[axes + 1 - added], axis.counts.size
        rows = len(exact) // n
        inner, rest = (
            np.ascontiguousarray(part.reshape(rows, n, part.shape[1], m).transpose(0, 2, 1, 3)).reshape(
                rows, part.shape[1], n * m
            )
            for part in (exact, third)
        )
        made = orders(added)
        exact, third = np.empty((rows, len(made.exact), count * m)), np.empty((rows, len(made.third), count * m))
        work = 60.0 * axis.place.shape[1] * inner.shape[1] * m * rows * count
        spread(_join, rows * count, work, inner, rest, m, axis, radius, made, exact, third)
        m *= count
        radius = np.append(0.5 * axis.length, radius)
    index, thirds = exact_derivatives(axes), third_derivatives(axes)

    def derivative(*along: int) -> int:
        p = tuple(along.count(c) for c in range(axes))
        return thirds.index(p) if len(along) == 3 else index.index(p)

    table = np.empty((blocks, m, 1 + axes * (axes + 3)))
    every = range(axes)
    # E(m) >= E - sum_c r_c sup |E_c|,  E_c(m) = E_c + ... to the third derivatives
    floor = exact[:, derivative()].copy()
    e = 1 + 2 * axes
    for c in every:
        near = 0.0
        for b in every:
            bend = sum(radius[a] * third[:, derivative(c, b, a)] for a in every)
            size = np.abs(exact[:, derivative(c, b)])
            near = near + radius[b] * (size + 0.5 * bend)
            floor -= 0.5 * radius[c] * radius[b] * (size + bend / 3.0)
            if b >= c:
                table[:, :, e] = exact[:, derivative(c, b)] - bend
                table[:, :, e + 1] = exact[:, derivative(c, b)] + bend
                e += 2
        floor -= radius[c] * np.abs(exact[:, derivative(c)])
        table[:, :, 1 + 2 * c] = exact[:, derivative(c)] - near
        table[:, :, 2 + 2 * c] = exact[:, derivative(c)] + near
    table[:, :, 0] = floor
    return table
