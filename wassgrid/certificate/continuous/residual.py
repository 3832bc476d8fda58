"""Bounds of g = S u - u over all means, from bounds of q on cells of the states.

At points of the means S u lies between E of the polynomials below and above q. Between them, on a cell with sides e_k,

    g >= min over the corners - sum_k max(0, sup g_kk) e_k^2/8,      and likewise above,

because g lies above its multilinear interpolant less that. g_kk = (S u)_kk - u_kk; the second derivatives of S u are expectations
under a signed law, at the corners, and between them within e_l^2/8 sup |(S u)_kkll|. With the law normal, a fourth derivative is
E [(q - p) h]/sigma^4 with a Hermite polynomial h, E h^2 = 24 (two axes: 4), and any affine p, so that by the inequality of Cauchy
and Schwarz it is at most sqrt(24 E (q - p)^2)/sigma^4. For all means within e/2 of a point the density is at most C times that of
a normal law that is somewhat wider, around the point. A law that an end cuts has polynomials of its own in place of h: cut normal
laws are images of a normal one under maps that bring no points apart (Caffarelli 2000), hence moments at most those of a
difference of two; and p is constant there (the mean of a cut law is not affine in that of the whole).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from wassgrid.certificate.continuous.bellman import Bellman
from wassgrid.certificate.continuous.enclosure import NUDGE, Enclosure
from wassgrid.certificate.continuous.laws import WIDER, Axis, AxisLaw, NoAxis, StillAxis, expect, expect_on
from wassgrid.certificate.continuous.value import points_of
from wassgrid.transition.compiled import driver
from wassgrid.transition.threads import spread

Array = np.ndarray
_UNIT = 2.0**-53
_PLACES = np.array([-1.0, -1.0 / 3.0, 1.0 / 3.0, 1.0])  # in a cell
_COLUMNS = 128  # points along the second axis at a time: what they need stays near the processor
_STRIP = 1024  # cells along an axis without noise at a time
_EXCHANGED = (0, 2, 1, 5, 4, 3)  # coefficients of polynomials when d_1 and d_2 change places
_BERNSTEIN = 6.0  # sum of the sizes of the weights of Bernstein coefficients: 34/6


@dataclass(frozen=True)
class Residual:
    """Bounds of g over all means, and what they owe to what, in units of g.

    residual: how much g itself varies on the rows; curvature: bounds of q between nodes; taylor: g between rows; minima: the
    proven minima over the actions; rounding.  below, above: bounds of g on the cells between the points (those of q along an axis
    without noise), rounding included; apart, between: how far they are apart at the points, and what they lose between them.
    """

    low: float
    high: float
    residual: float
    curvature: float
    taylor: float
    minima: float
    rounding: float
    below: Array
    above: Array
    apart: Array
    between: Array

    @property
    def width(self) -> float:
        return self.high - self.low

    @property
    def dominant(self) -> str:
        """The part that makes the interval wide."""
        parts = ("residual", "curvature", "taylor", "minima", "rounding")
        return max(parts, key=lambda name: float(getattr(self, name)))


def bound(bellman: Bellman, q: Enclosure) -> Residual:
    """Bound g over all means."""
    axes = bellman.axes
    shift = 0.5 * (float(np.min(q.below[0])) + float(np.max(q.above[0])))
    size = max(float(np.max(_size(p, axes))) for p in (q.below, q.above)) + abs(shift)
    # a sum of n terms is right to n units of the sum of their sizes; moments to a few; noise that is left out has mass 2e-17
    terms = sum(min(2 * axis.reach * q.layers[-1].factor, q.cells) for axis in axes if isinstance(axis, AxisLaw)) + 200
    # strips that cells leave out: f is continuous there, but for jumps at some nodes (16 per axis are allowed for)
    strips = sum(16 * 2 * NUDGE * np.max(np.abs(axis.edges)) / axis.sigma for axis in axes if isinstance(axis, AxisLaw))
    rounding = 2 * (terms * _UNIT + strips) * size + bellman.u.rounding + 4 * _UNIT * abs(shift)
    still = [k for k, axis in enumerate(axes) if isinstance(axis, StillAxis)]
    rounding *= _BERNSTEIN if still else 1.0
    low, high, drop, rise = _along_lines(bellman, q, shift, still[0]) if still else _on_cells(bellman, q, shift)
    centre, below, above = 0.5 * (low + high), low - drop + shift - rounding, high + rise + shift + rounding
    below, above = below - 4 * _UNIT * np.abs(below), above + 4 * _UNIT * np.abs(above)
    return Residual(
        float(below.min()),
        float(above.max()),
        residual=float(np.ptp(centre)),
        curvature=float(np.max(high - low)),
        taylor=float(np.max(drop) + np.max(rise)),
        minima=q.minima,
        rounding=2 * float(rounding),
        below=below,
        above=above,
        apart=high - low,
        between=drop + rise,
    )


def _middle(q: Enclosure, shift: float, axes: tuple[Axis, Axis]) -> tuple[Array, Array]:
    """Return the polynomials midway between the bounds on the coarsest lattice, less `shift`, and how far q may be from them, as
    constants."""
    middle = 0.5 * (q.below + q.above)
    middle[0] -= shift
    radius = np.zeros_like(middle)
    radius[0] = np.maximum(0.5 * _size(q.above - q.below, axes), 0.0)
    return middle, radius


def _sparse(shape: tuple[int, int], rows: Array, columns: Array, p: Array) -> list[csr_array]:
    """Return coefficients (6, K) as matrices of a shape."""
    return [csr_array((c, (rows, columns)), shape=shape) for c in p]


def _expected(bellman: Bellman, q: Enclosure, shift: float) -> tuple[Array, Array]:
    """Return E of the polynomials below and above q, less `shift`, at all points, over the layers."""
    axes = bellman.axes
    results = [np.zeros((axes[0].point_count, axes[1].point_count)) for _ in range(2)]  # type: ignore[union-attr]
    for layer in q.layers:
        if layer.index.size == 0:
            continue
        fine = axes[0].refined(layer.factor), axes[1].refined(layer.factor)
        (first, rows), (second, columns) = (np.unique(k, return_inverse=True) for k in layer.place(axes))
        two = fine[1].moments(second)  # type: ignore[union-attr]
        sides = [
            _sparse((first.size, second.size), rows, columns, np.concatenate([p[:1] - shift, p[1:]]))
            for p in (layer.below, layer.above)
        ]
        for points in fine[0].parts(first):  # type: ignore[union-attr]
            one = fine[0].moments(first, points)  # type: ignore[union-attr]
            for parts, result in zip(sides, results, strict=True):
                for start in range(0, result.shape[1], _COLUMNS):
                    bellman.beat()
                    column = slice(start, start + _COLUMNS)
                    w = [law[column].T.tocsr() for law in two]
                    c = [parts[0] @ w[0] + parts[2] @ w[1] + parts[5] @ w[2], parts[1] @ w[0] + parts[4] @ w[1], parts[3] @ w[0]]
                    expect_on(one, [part.toarray() for part in c], result[points, column])
    return results[0], results[1]


def _on_cells(bellman: Bellman, q: Enclosure, shift: float) -> tuple[Array, Array, Array, Array]:
    """Bound g at the corners of the cells of points, and how much lower and higher it may be within."""
    axes, d = bellman.axes, bellman.d
    u = points_of(axes, bellman.u)
    low, high = (image - u for image in _expected(bellman, q, shift))
    middle, radius = _middle(q, shift, axes)
    size = float(np.max(_size(middle, axes)))
    far = _distance(axes, middle, radius[0])
    drop: Array | float = 0.0
    rise: Array | float = 0.0
    for k in range(d):
        bellman.beat()
        bend = expect(axes, middle, ((2, 0), (0, 2))[k])
        slack = expect(axes, radius, ((3, 0), (0, 3))[k]) + 1e-13 * size / axes[k].sigma ** 2  # type: ignore[union-attr]
        fourth = sum(axes[m].point_spacing ** 2 / 8 * _norm(axes, k, m) * far for m in range(d))  # type: ignore[union-attr]
        bend = bend - points_of(axes, bellman.u, 3 + 2 * k)
        slack = slack + 16 * bellman.u.rounding / axes[k].row_spacing ** 2
        # u_kk is linear along k; along the other axis it is within e^2/8 sup |u_1122| of its interpolant
        off = _between(axes, bellman.u.mixed_fourth()) * axes[1 - k].point_spacing ** 2 / 8  # type: ignore[union-attr]
        most = _corner(axes, bend + slack + fourth, np.maximum) + off
        least = _corner(axes, bend - slack - fourth, np.minimum) - off
        square = axes[k].point_spacing ** 2 / 8  # type: ignore[union-attr]
        drop = drop + np.maximum(most, 0.0) * square
        rise = rise + np.maximum(-least, 0.0) * square
    return _corner(axes, low, np.minimum), _corner(axes, high, np.maximum), np.asarray(drop), np.asarray(rise)


def _along_lines(bellman: Bellman, q: Enclosure, shift: float, still: int) -> tuple[Array, Array, Array, Array]:
    """Bound g on the cells between the points of the noisy axis and the edges of q's cells along the one without noise.

    On a line of means at a place t of the axis without noise S u is an expectation along the other alone, and E of a polynomial
    on the cells is one in t: bounded by its Bernstein coefficients, with u, which is a cubic polynomial in t there.
    """
    law, line = bellman.axes[1 - still], bellman.axes[still]
    assert isinstance(law, AxisLaw)
    assert isinstance(line, StillAxis)
    axes: tuple[AxisLaw, NoAxis] = (law, NoAxis())
    middle, radius = _middle(q, shift, bellman.axes)
    if still == 0:
        middle, radius = (np.ascontiguousarray(p[list(_EXCHANGED)].transpose(0, 2, 1)) for p in (middle, radius))
    size, half = float(np.max(_size(middle, (law, line)))), 0.5 * line.spacing
    along = [law.expect(part, 2) for part in _in_line(middle)]
    slack = law.expect([(radius[0], 0)], 3) + 1e-13 * size / law.sigma**2
    slack += 16 * _BERNSTEIN * bellman.u.rounding / law.row_spacing**2
    # (q - p) at a place t: p_0 + ... and what varies with t
    radius[0] += np.abs(middle[2]) * half + np.abs(middle[4]) * half * 0.5 * law.spacing + np.abs(middle[5]) * half**2 / 2
    plain = middle.copy()
    plain[[2, 4, 5]] = 0.0
    far = _distance(axes, plain, radius[0])
    square = law.point_spacing**2 / 8
    slack = slack + square * _norm(axes, 0, 0) * far
    c = bellman.u.coefficients if still == 1 else bellman.u.coefficients.T
    noisy, other = bellman.u.knots[1 - still], bellman.u.knots[still]
    # coefficients along the axis without noise, (coefficients, points)
    u = tuple(np.ascontiguousarray((noisy.basis(law.places, second=second) @ c).T) for second in (False, True))
    bends, slack = np.ascontiguousarray(np.stack(along).transpose(2, 0, 1)), slack.T
    parts = np.empty((4, line.cells, law.point_count))
    for columns, factor in _strips(bellman.axes, q, still):
        bellman.beat()
        found = _lines(law, line, q, shift, still, columns, factor)
        fine = line.refined(factor)
        cells = (columns[:, None] * factor + np.arange(factor)).ravel()
        t = 0.5 * fine.spacing * _PLACES
        # (K, 4): four places across every cell, and from the middle of the coarse one
        places = fine.low + fine.spacing * (cells[:, None] + 0.5) + t
        within = places - (line.low + line.spacing * (np.repeat(columns, factor) + 0.5))[:, None]
        first, weights = other.reached(places)
        result = np.empty((4, columns.size, law.point_count))
        work = 200.0 * cells.size * law.point_count
        spread(_bounded, columns.size, work, factor, found, t, *u, first, weights, bends, columns, within, result)
        parts[:, columns] = result
    low, high, least, most = parts[0], parts[1], parts[2] - slack, parts[3] + slack
    ends = _corner((NoAxis(), law), most, np.maximum), _corner((NoAxis(), law), least, np.minimum)
    bounds = (
        _corner((NoAxis(), law), low, np.minimum),
        _corner((NoAxis(), law), high, np.maximum),
        np.maximum(ends[0], 0.0) * square,
        np.maximum(-ends[1], 0.0) * square,
    )
    return bounds if still == 0 else tuple(part.T for part in bounds)  # type: ignore[return-value]


def _strips(axes: tuple[Axis, Axis], q: Enclosure, still: int) -> Iterator[tuple[Array, int]]:
    """Cut the cells along the axis without noise into sets in which the smallest cells of q are as small as each other."""
    finest = np.ones(axes[still].cells, dtype=int)
    for layer in q.layers:
        finest[layer.coarse(axes)[still]] = layer.factor
    for factor in np.unique(finest):
        columns = np.flatnonzero(finest == factor)
        most = max(1, _STRIP // factor)
        for start in range(0, columns.size, most):
            yield columns[start : start + most], int(factor)


def _lines(law: AxisLaw, line: StillAxis, q: Enclosure, shift: float, still: int, columns: Array, finest: int) -> Array:
    """Return E of the polynomials below and above q, less `shift`, over the layers: coefficients (K, 2, 3, points) of 1, t and
    t^2/2 on some cells along the axis without noise, cut into `finest` each, t from their middles."""
    result, factor = np.zeros((columns.size, 2, 3, law.point_count)), 1
    where = np.full(line.cells, -1)
    where[columns] = np.arange(columns.size)
    axes: tuple[Axis, Axis] = (line, law) if still == 0 else (law, line)
    for layer in q.layers:
        while factor < min(layer.factor, finest):
            result = _halves(result, line.spacing / factor)
            factor *= 2
        place = layer.place(axes)
        mine = np.flatnonzero(where[place[still] // layer.factor] >= 0)
        if mine.size == 0:
            continue
        # the cells of one column after those of the other
        column = where[place[still][mine] // layer.factor] * layer.factor + place[still][mine] % layer.factor
        mine, column = mine[order := np.argsort(column, kind="stable")], column[order]
        begin = np.searchsorted(column, np.arange(len(result) + 1))
        first, row = np.unique(place[1 - still][mine], return_inverse=True)
        moments = [part.tocsc() for part in law.refined(layer.factor).moments(first)]
        for part in moments:
            part.sort_indices()
        p = np.stack([layer.below[:, mine], layer.above[:, mine]])
        p[:, 0] -= shift
        p = np.ascontiguousarray((p if still == 1 else p[:, list(_EXCHANGED)]).transpose(2, 0, 1))
        work = 12.0 * mine.size * moments[0].nnz / first.size
        law_arrays = (moments[0].indptr, moments[0].indices, *(part.data for part in moments))
        spread(_sum_over_cells, len(result), work, begin, row, p, *law_arrays, result)
    return result


@driver
def _sum_over_cells(begin, end, starts, row, p, pointers, points, w0, w1, w2, result):
    """Add E of polynomials p (cells, 2, 6) to result (K, 2, 3, points); starts: of the cells of column k, row: of moments."""
    for k in range(begin, end):
        for cell in range(starts[k], starts[k + 1]):
            start, stop = pointers[row[cell]], pointers[row[cell] + 1]
            if stop == start:
                continue
            for side in range(2):
                c0, c1, c2, c11, c12, c22 = p[cell, side]
                r0, r1, r2 = result[k, side, 0], result[k, side, 1], result[k, side, 2]
                low = points[start]
                if points[stop - 1] - low == stop - 1 - start:
                    for m in range(stop - start):
                        a0, a1, a2 = w0[start + m], w1[start + m], w2[start + m]
                        r0[low + m] += a0 * c0 + a1 * c1 + a2 * c11
                        r1[low + m] += a0 * c2 + a1 * c12
                        r2[low + m] += a0 * c22
                else:
                    for m in range(start, stop):
                        i = points[m]
                        r0[i] += w0[m] * c0 + w1[m] * c1 + w2[m] * c11
                        r1[i] += w0[m] * c2 + w1[m] * c12
                        r2[i] += w0[m] * c22


@driver
def _bounded(begin, end, factor, found, t, value, curved, first, weights, along, columns, within, result):
    """Bound g, and the bends of g along the noisy axis, on cells cut into `factor`: least and largest (4, columns, points).

    found: see `_lines`; t: four places in a part; value, curved (coefficients, points): of u along the axis; first, weights: the
    coefficients of u that reach a place, (parts, 4), and with what weight, (parts, 4, 4); along (cells, 3, points): bends of S u
    at places `within` (parts, 4) a cell.
    """
    points = result.shape[2]
    g = np.empty((3, 4, points))
    for c in range(begin, end):
        for k in range(c * factor, (c + 1) * factor):
            for place in range(4):
                d, s, i = t[place], within[k, place], first[k, place]
                v0, v1, v2, v3 = weights[k, place]
                x, y, z = along[columns[c], 0], along[columns[c], 1], along[columns[c], 2]
                for m in range(points):
                    u = v0 * value[i, m] + v1 * value[i + 1, m] + v2 * value[i + 2, m] + v3 * value[i + 3, m]
                    bend = v0 * curved[i, m] + v1 * curved[i + 1, m] + v2 * curved[i + 2, m] + v3 * curved[i + 3, m]
                    for side in range(2):
                        p = found[k, side]
                        g[side, place, m] = p[0, m] + p[1, m] * d + p[2, m] * (0.5 * d * d) - u
                    g[2, place, m] = x[m] + y[m] * s + z[m] * (0.5 * s * s) - bend
            for m in range(points):
                for kind in range(3):
                    p, q, r, s = g[kind, 0, m], g[kind, 1, m], g[kind, 2, m], g[kind, 3, m]
                    # Bernstein coefficients of the cubic polynomial through the four
                    one, two = (-5.0 * p + 18.0 * q - 9.0 * r + 2.0 * s) / 6.0, (2.0 * p - 9.0 * q + 18.0 * r - 5.0 * s) / 6.0
                    least, most = min(min(p, s), min(one, two)), max(max(p, s), max(one, two))
                    if not abs(one) + abs(two) < np.inf:
                        least, most = -np.inf, np.inf
                    fresh = k == c * factor
                    if kind != 1:
                        at = 0 if kind == 0 else 2
                        result[at, c, m] = least if fresh else min(result[at, c, m], least)
                    if kind != 0:
                        at = 1 if kind == 1 else 3
                        result[at, c, m] = most if fresh else max(result[at, c, m], most)


def _halves(p: Array, width: float) -> Array:
    """Return polynomials p_0 + p_1 t + p_2 t^2/2 on cells of a width, (K, 2, 3, points), about the middles of their halves."""
    result = np.empty((len(p), 2, *p.shape[1:]))
    for half, t in enumerate((-0.25 * width, 0.25 * width)):
        result[:, half, :, 0] = p[:, :, 0] + p[:, :, 1] * t + p[:, :, 2] * (0.5 * t * t)
        result[:, half, :, 1] = p[:, :, 1] + p[:, :, 2] * t
        result[:, half, :, 2] = p[:, :, 2]
    return result.reshape(-1, *p.shape[1:])


def _in_line(p: Array) -> list[list[tuple[Array, int]]]:
    """Return what polynomials in (d_1, d_2) are at d_2 = t: parts of the coefficients of 1, t and t^2/2, see `AxisLaw.expect`."""
    return [[(p[0], 0), (p[1], 1), (p[3], 2)], [(p[2], 0), (p[4], 1)], [(p[5], 0)]]


def _size(p: Array, axes: tuple) -> Array:
    """Bound |p| on the cells: on the side above for p = above - below."""
    h1, h2 = 0.5 * axes[0].spacing, 0.5 * axes[1].spacing
    return (
        np.abs(p[0]) + np.abs(p[1]) * h1 + np.abs(p[2]) * h2 + np.abs(p[3]) * h1**2 / 2 + np.abs(p[4]) * h1 * h2
        + np.abs(p[5]) * h2**2 / 2
    )  # fmt: skip


def _between(axes: tuple, knots: Array) -> Array:
    """Return values on cells of knots (cells_1, cells_2) on the cells between points."""
    for k, axis in enumerate(axes):
        count = axis.rows_between if isinstance(axis, AxisLaw) else 1
        knots = np.repeat(np.take(knots, range(count), axis=k), axis.points, axis=k)
    return knots


def _corner(axes: tuple, values: Array, combine: np.ufunc) -> Array:
    """Combine values at points over the corners of the cells between them; axes: of the first dimensions."""
    for k, axis in enumerate(axes):
        if not isinstance(axis, AxisLaw):
            continue
        following = np.roll(values, -1, axis=k)
        values = combine(values, following)
        if axis.model != "periodic":
            values = np.take(values, range(axis.point_count - 1), axis=k)
    return values


def _distance(axes: tuple, middle: Array, radius: Array) -> Array:
    """Bound sqrt(E (q - p)^2), p affine, for all means within half a spacing of the points, (points_1, points_2)."""
    flat = np.zeros_like(middle)
    flat[0] = middle[0]
    inner = middle.copy()
    inner[0] = 0.0
    off = np.zeros_like(middle)
    off[0] = (radius + _size(inner, axes)) ** 2
    # q = m + r, m constant on cells, |r| <= off:  |q - p| <= |m - p| + |r| in the mean square
    rest = expect(axes, off, (0, 0), wider=True)
    square = np.zeros_like(middle)
    square[0] = middle[0] ** 2
    total = expect(axes, square, (0, 0), wider=True)
    one = np.zeros_like(middle)
    one[0] = 1.0
    mean = expect(axes, flat, (0, 0), wider=True)
    moments = {(0, 0): expect(axes, one, (0, 0), wider=True)}
    directions = []
    for k, axis in enumerate(axes):
        if isinstance(axis, AxisLaw):
            order = ((1, 0), (0, 1))[k]
            moments[order] = expect(axes, one, order, wider=True)
            moments[(2, 0) if k == 0 else (0, 2)] = expect(axes, one, ((4, 0), (0, 4))[k], wider=True)
            directions.append((k, expect(axes, flat, order, wider=True)))
    # p = a + sum_k b_k (z_k - zbar_k), orthogonal: E (m - p)^2 = E m^2 - a^2 - sum_k b_k^2 var z_k for these a, b_k
    fitted = total - mean**2
    for k, along in directions:
        first = moments[(1, 0) if k == 0 else (0, 1)]
        variance = moments[(2, 0) if k == 0 else (0, 2)] - first**2
        covariance = along - first * mean
        # under a law that an end cuts the mean of z has a fourth derivative of its own: p is constant along that axis
        fitted -= np.where(_cut(axes, k), 0.0, covariance**2 / variance)
    fitted = np.maximum(fitted, 0.0) + 1e-12 * np.max(np.abs(square[0]))
    ratio = np.ones_like(fitted)
    for k, axis in enumerate(axes):
        if isinstance(axis, AxisLaw):
            # sup phi_s(x - y - t)/phi_w(x - y) = (w/s) exp(t^2/(2 (w^2 - s^2)))
            t = 0.5 * axis.point_spacing / axis.sigma
            c = np.sqrt(WIDER) * np.exp(t * t / (2.0 * (WIDER - 1.0)))
            along = np.full(axis.point_count, c)
            if axis.model == "truncate":
                # what is left of a normal law within the ends, a function of its mean that rises, then falls
                near, wide = axis.truncated[0][0], axis.truncated[1][0]
                near = np.minimum(near, np.minimum(np.append(near[1:], near[-1]), np.append(near[0], near[:-1])))
                along = c * np.maximum(wide / near, 1.0)
            ratio *= along.reshape((-1, 1) if k == 0 else (1, -1))
    return np.sqrt(ratio) * (np.sqrt(fitted) + np.sqrt(np.maximum(rest, 0.0)))


def _norm(axes: tuple, k: int, m: int) -> Array:
    """Bound the norm of the polynomial of a derivative, twice along k and twice along m, over sigma_k^2 sigma_m^2."""
    total = np.ones((axes[0].point_count, axes[1].point_count))
    orders = {k: 4} if k == m else {k: 2, m: 2}
    for axis, order in orders.items():
        law = axes[axis]
        # cut: |l'^4| + 6 |l'^2 l''| + 4 |l' l'''| + 3 |l''|^2 + |l''''| < 41 + 21 + 19 + 3 + 12, |l'^2| + |l''| < 3.5 + 1
        plain, cut = (np.sqrt(24.0), 110.0) if order == 4 else (np.sqrt(2.0), 4.5)
        total = total * np.where(_cut(axes, axis), cut, plain * (1 + 1e-6)) / law.sigma**order
    return total


def _cut(axes: tuple, k: int) -> Array:
    """Tell at which points an end cuts the law along axis k, in an array that broadcasts."""
    law = axes[k]
    cut = law.truncated[1][0] < 1.0 - 1e-12 if law.model == "truncate" else np.zeros(law.point_count, dtype=bool)
    return cut.reshape((-1, 1) if k == 0 else (1, -1))


