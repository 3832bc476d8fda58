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

Array = np.ndarray
_UNIT = 2.0**-53
_PLACES = np.array([-1.0, -1.0 / 3.0, 1.0 / 3.0, 1.0])  # in a cell
_COLUMNS = 128  # points along the second axis at a time: what they need stays near the processor
_STRIP = 1024  # cells along an axis without noise at a time
_EXCHANGED = (0, 2, 1, 5, 4, 3)  # coefficients of polynomials when d_1 and d_2 change places
_BERNSTEIN = 6.0  # sum of the sizes of the weights of `_bernstein`: 34/6


@dataclass(frozen=True)
class Residual:
    """Bounds of g over all means, and what they owe to what, in units of g.

    residual: how much g itself varies on the rows; curvature: bounds of q between nodes; taylor: g between rows; minima: the
    proven minima over the actions; rounding.
    """

    low: float
    high: float
    residual: float
    curvature: float
    taylor: float
    minima: float
    rounding: float

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
    pieces = _along_lines(bellman, q, shift, still[0]) if still else [_on_cells(bellman, q, shift)]
    least, most, middle, apart, between = np.inf, -np.inf, (np.inf, -np.inf), 0.0, [0.0, 0.0]
    for low, high, drop, rise in pieces:
        least, most = min(least, float(np.min(low - drop))), max(most, float(np.max(high + rise)))
        centre = 0.5 * (low + high)
        middle = min(middle[0], float(np.min(centre))), max(middle[1], float(np.max(centre)))
        apart = max(apart, float(np.max(high - low)))
        between = [max(x, float(np.max(y))) for x, y in zip(between, (drop, rise), strict=True)]
    least, most = least + shift - rounding, most + shift + rounding
    return Residual(
        float(least - 4 * _UNIT * abs(least)),
        float(most + 4 * _UNIT * abs(most)),
        residual=middle[1] - middle[0],
        curvature=apart,
        taylor=sum(between),
        minima=q.minima,
        rounding=2 * float(rounding),
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
        place = np.unravel_index(layer.index, (fine[0].cells, fine[1].cells))
        (first, rows), (second, columns) = (np.unique(k, return_inverse=True) for k in place)
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


def _along_lines(bellman: Bellman, q: Enclosure, shift: float, still: int) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Bound g on the cells between the points of the noisy axis and the edges of q's cells along the one without noise, some
    cells along the latter after the others.

    On a line of means at a place t of the axis without noise S u is an expectation along the other alone, and E of a polynomial
    on the cells is one in t: bounded by its Bernstein coefficients, with u, which is a cubic polynomial in t there.
    """
    law, line = bellman.axes[1 - still], bellman.axes[still]
    assert isinstance(law, AxisLaw)
    assert isinstance(line, StillAxis)
    axes: tuple[AxisLaw, NoAxis] = (law, NoAxis())
    finest = q.layers[-1].factor
    parts = line.refined(finest)
    below, above = _lines(law, line, q, shift, still)
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
    value, curved = noisy.basis(law.places) @ c, noisy.basis(law.places, second=True) @ c
    for start in range(0, parts.cells, _STRIP):
        bellman.beat()
        cell = np.arange(start, min(start + _STRIP, parts.cells))
        t = 0.5 * parts.spacing * _PLACES
        # (4, K): four places across every cell
        places = parts.low + parts.spacing * (cell + 0.5) + t[:, None]
        across = other.basis(places.ravel()).T
        u, bends = ((side @ across).reshape(-1, 4, cell.size).transpose(1, 0, 2) for side in (value, curved))
        low, high = (
            np.stack([p[0] + p[1] * t[k] + p[2] * (0.5 * t[k] * t[k]) - u[k] for k in range(4)])
            for p in (below[:, :, cell], above[:, :, cell])
        )
        low, high = _bernstein(low).min(axis=0), _bernstein(high).max(axis=0)
        whole = cell // finest
        within = places - (line.low + line.spacing * (whole + 0.5))
        a = [part[:, whole] for part in along]
        bend = _bernstein(np.stack([a[0] + a[1] * s + a[2] * (0.5 * s * s) for s in within]) - bends)
        most = _corner((law,), bend.max(axis=0) + slack[:, whole], np.maximum)
        least = _corner((law,), bend.min(axis=0) - slack[:, whole], np.minimum)
        yield (
            _corner((law,), low, np.minimum),
            _corner((law,), high, np.maximum),
            np.maximum(most, 0.0) * square,
            np.maximum(-least, 0.0) * square,
        )


def _lines(law: AxisLaw, line: StillAxis, q: Enclosure, shift: float, still: int) -> tuple[Array, Array]:
    """Return E of the polynomials below and above q, less `shift`, over the layers: coefficients (3, points, cells) of 1, t and
    t^2/2 on the cells of the finest layer along the axis without noise, t from their middles."""
    sides = [np.zeros((3, law.point_count, line.cells)) for _ in range(2)]
    factor = 1
    for layer in q.layers:
        while factor < layer.factor:
            sides = [_halves(p, line.spacing / factor) for p in sides]
            factor *= 2
        fine = law.refined(layer.factor), line.refined(layer.factor)
        if layer.index.size == 0:
            continue
        place = np.unravel_index(layer.index, tuple(axis.cells for axis in (fine[::-1] if still == 0 else fine)))
        first, rows = np.unique(place[1 - still], return_inverse=True)
        shape = first.size, fine[1].cells
        moments = fine[0].moments(first)
        for p, result in zip((layer.below, layer.above), sides, strict=True):
            p = np.concatenate([p[:1] - shift, p[1:]])
            c = _sparse(shape, rows, place[still], p if still == 1 else p[list(_EXCHANGED)])
            result[0] += (moments[0] @ c[0] + moments[1] @ c[1] + moments[2] @ c[3]).toarray()
            result[1] += (moments[0] @ c[2] + moments[1] @ c[4]).toarray()
            result[2] += (moments[0] @ c[5]).toarray()
    return sides[0], sides[1]


def _halves(p: Array, width: float) -> Array:
    """Return polynomials p_0 + p_1 t + p_2 t^2/2 on cells of a width, (3, points, cells), about the middles of their halves."""
    result = np.empty((3, p.shape[1], 2 * p.shape[2]))
    for half, t in enumerate((-0.25 * width, 0.25 * width)):
        result[0, :, half::2] = p[0] + p[1] * t + p[2] * (0.5 * t * t)
        result[1, :, half::2] = p[1] + p[2] * t
        result[2, :, half::2] = p[2]
    return result


def _bernstein(values: Array) -> Array:
    """Return the Bernstein coefficients (4, ...) of the cubic polynomials with values (4, ...) at `_PLACES`."""
    one = (-5.0 * values[0] + 18.0 * values[1] - 9.0 * values[2] + 2.0 * values[3]) / 6.0
    two = (2.0 * values[0] - 9.0 * values[1] + 18.0 * values[2] - 5.0 * values[3]) / 6.0
    return np.stack([values[0], one, two, values[3]])


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


