"""Bounds of g = S u - u over all means, from bounds of q on cells of the states.

On the rows S u lies between E of the polynomials below and above q. Between them, on a cell of rows with sides e_k,

    g >= min over the corners - sum_k max(0, sup g_kk) e_k^2/8,      and likewise above,

because g lies above its multilinear interpolant less that. g_kk = (S u)_kk - u_kk; the second derivatives of S u are expectations
under a signed law, at the corners, and between them within e_l^2/8 sup |(S u)_kkll|. With the law normal, a fourth derivative is
E [(q - p) h]/sigma^4 with a Hermite polynomial h, E h^2 = 24 (two axes: 4), and any affine p, so that by the inequality of Cauchy
and Schwarz it is at most sqrt(24 E (q - p)^2)/sigma^4. For all means within e/2 of a row the density is at most C times that of a
normal law that is somewhat wider, around the row. A law that an end cuts has polynomials of its own in place of h: cut normal
laws
are images of a normal one under maps that bring no points apart (Caffarelli 2000), hence moments at most those of a
difference of two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wassgrid.certificate.continuous.bellman import Bellman
from wassgrid.certificate.continuous.enclosure import NUDGE, Enclosure
from wassgrid.certificate.continuous.laws import WIDER, AxisLaw, expect
from wassgrid.certificate.continuous.value import rows_of

Array = np.ndarray
_UNIT = 2.0**-53


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
    axes, d = bellman.axes, bellman.d
    below, above = q.below.copy(), q.above.copy()
    shift = 0.5 * (np.min(below[0]) + np.max(above[0]))
    below[0] -= shift
    above[0] -= shift
    size = _size(above, axes) + _size(below, axes)
    u = rows_of(axes, bellman.u)
    # a sum of n terms is right to n units of the sum of their sizes; moments to a few; noise that is left out has mass 2e-17
    terms = sum(2 * axis.reach for axis in axes if isinstance(axis, AxisLaw)) + 200
    # strips that cells leave out: f is continuous there, but for jumps at some nodes (16 per axis are allowed for)
    strips = sum(16 * 2 * NUDGE * np.max(np.abs(axis.edges)) / axis.sigma for axis in axes if isinstance(axis, AxisLaw))
    rounding = (terms * _UNIT + strips) * float(np.max(size)) + bellman.u.rounding + 4 * _UNIT * abs(shift)
    low, high = expect(axes, below) + shift - u, expect(axes, above) + shift - u
    middle = 0.5 * (below + above)
    radius = np.zeros_like(below)
    radius[0] = np.maximum(0.5 * _size(above - below, axes), 0.0)
    far = _distance(axes, middle, radius[0])
    # u_kk is linear along k; along the other axis it is within e^2/8 sup |u_1122| of its interpolant
    mixed = bellman.u.mixed_fourth()[: _cells(axes[0]), : max(1, _cells(axes[1]))]
    drop, rise = np.zeros_like(mixed), np.zeros_like(mixed)
    for k in range(d):
        orders = ((2, 0), (0, 2))[k]
        bounds = ((3, 0), (0, 3))[k]
        bend = expect(axes, middle, orders)
        slack = expect(axes, radius, bounds) + 1e-13 * np.max(size) / axes[k].sigma ** 2
        fourth = sum(axes[m].row_spacing ** 2 / 8 * _norm(axes, k, m) * far for m in range(d))
        bend = bend - rows_of(axes, bellman.u, 3 + 2 * k)
        slack = slack + 16 * bellman.u.rounding / axes[k].row_spacing ** 2
        off = mixed * axes[1 - k].row_spacing ** 2 / 8
        most = _corner(axes, bend + slack + fourth, np.maximum) + off
        least = _corner(axes, bend - slack - fourth, np.minimum) - off
        drop += np.maximum(most, 0.0) * axes[k].row_spacing ** 2 / 8
        rise += np.maximum(-least, 0.0) * axes[k].row_spacing ** 2 / 8
    lower, upper = _corner(axes, low, np.minimum), _corner(axes, high, np.maximum)
    centre = 0.5 * (low + high)
    least, most = np.min(lower - drop) - rounding, np.max(upper + rise) + rounding
    return Residual(
        float(least) * (1 - 4 * _UNIT * np.sign(least)),
        float(most) * (1 + 4 * _UNIT * np.sign(most)),
        residual=float(np.ptp(centre)),
        curvature=float(np.max(high - low)),
        taylor=float(np.max(drop) + np.max(rise)),
        minima=q.minima,
        rounding=2 * rounding,
    )


def _size(p: Array, axes: tuple) -> Array:
    """Bound |p| on the cells: on the side above for p = above - below."""
    h1, h2 = 0.5 * axes[0].spacing, 0.5 * axes[1].spacing
    return (
        np.abs(p[0]) + np.abs(p[1]) * h1 + np.abs(p[2]) * h2 + np.abs(p[3]) * h1**2 / 2 + np.abs(p[4]) * h1 * h2
        + np.abs(p[5]) * h2**2 / 2
    )  # fmt: skip


def _cells(axis: object) -> int:
    """Cells between the rows of an axis."""
    return (axis.row_count - (0 if axis.model == "periodic" else 1)) if isinstance(axis, AxisLaw) else 0


def _corner(axes: tuple, values: Array, combine: np.ufunc) -> Array:
    """Combine values on rows over the corners of the cells between them."""
    for k, axis in enumerate(axes):
        if not isinstance(axis, AxisLaw):
            continue
        following = np.roll(values, -1, axis=k)
        values = combine(values, following)
        if axis.model != "periodic":
            values = np.take(values, range(axis.row_count - 1), axis=k)
    return values


def _distance(axes: tuple, middle: Array, radius: Array) -> Array:
    """Bound sqrt(E (q - p)^2), p affine, for all means within half a row spacing of the rows, (rows_1, rows_2)."""
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
        fitted -= covariance**2 / variance
    fitted = np.maximum(fitted, 0.0) + 1e-12 * np.max(np.abs(square[0]))
    ratio = np.ones_like(fitted)
    for k, axis in enumerate(axes):
        if isinstance(axis, AxisLaw):
            # sup phi_s(x - y - t)/phi_w(x - y) = (w/s) exp(t^2/(2 (w^2 - s^2)))
            t = 0.5 * axis.row_spacing / axis.sigma
            c = np.sqrt(WIDER) * np.exp(t * t / (2.0 * (WIDER - 1.0)))
            along = np.full(axis.row_count, c)
            if axis.model == "truncate":
                # the law within is at least half of all for a mean within, and at most all
                along = np.where(axis.truncated[1][0] < 1.0 - 1e-12, 2.1 * c, c)
            ratio *= along.reshape((-1, 1) if k == 0 else (1, -1))
    return np.sqrt(ratio) * (np.sqrt(fitted) + np.sqrt(np.maximum(rest, 0.0)))


def _norm(axes: tuple, k: int, m: int) -> Array:
    """Bound the norm of the polynomial of a derivative, twice along k and twice along m, over sigma_k^2 sigma_m^2."""
    total = np.ones((axes[0].row_count, axes[1].row_count))
    orders = {k: 4} if k == m else {k: 2, m: 2}
    for axis, order in orders.items():
        law = axes[axis]
        # cut: |l'^4| + 6 |l'^2 l''| + 4 |l' l'''| + 3 |l''|^2 + |l''''| < 41 + 21 + 19 + 3 + 12, |l'^2| + |l''| < 3.5 + 1
        plain, cut = (np.sqrt(24.0), 110.0) if order == 4 else (np.sqrt(2.0), 4.5)
        along = np.full(law.row_count, plain)
        if law.model == "truncate":
            along = np.where(law.truncated[1][0] < 1.0 - 1e-12, cut, plain * (1 + 1e-6))
        total = total * along.reshape((-1, 1) if axis == 0 else (1, -1)) / law.sigma**order
    return total


