"""Wide normal laws in two parts: a smoothing of U that no cell changes, and a narrow law around the mean.

A normal law of variance s^2 is one of variance s1^2 around the mean, followed by a shift of variance s2^2, s^2 = s1^2 + s2^2.
On a lattice of spacing h the densities at the nodes compose likewise, up to 2 exp(-2 pi^2 t^2/h^2) with t = s1 s2/s: beyond
rounding for t = 1.3 h. The shift is the same for all cells, so it is taken once for every function, and the windows of the cells
are as narrow as the noise of one or two cells needs, however fine the grid is.

An end that cuts the law (its density beyond is left out and the rest made to sum to one) cuts the smoothing, and the sum of
what is left, `ones`, normalises the narrow law.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wassgrid.transition.axis_kernels.facts import TAIL
from wassgrid.transition.axis_kernels.gaussian import gaussian_weights
from wassgrid.transition.compiled import CLAMP, REFLECT, allocating_nothing, contracting_driver, fold, measured
from wassgrid.transition.threads import spread

RESOLVED = 1.3  # t/h from which the composition is exact to rounding: 2 exp(-2 pi^2 1.69) = 7e-15; of the narrow part alone
_WORTH = 2.8  # noise in cells from which two parts are cheaper


def shared_noise(noise: np.ndarray, h: float) -> float:
    """Return s2, the part of the noises (cells,) of one axis that a smoothing takes over; 0 where that does not pay.

    s1^2 s2^2 = t^2 s^2 with t = `RESOLVED` h at the least noise: the smaller root for s1; cells of more noise have more of s1.
    """
    least = float(noise.min())
    if least < _WORTH * h:
        return 0.0
    square, t2 = least**2, (RESOLVED * h) ** 2
    narrow = 0.5 * (square - np.sqrt(square * (square - 4.0 * t2)))
    return float(np.sqrt(square - narrow))


@dataclass(frozen=True)
class Smoothing:
    """The matrix M (extent, n) of one axis in bands: rows begin at `first` with weights (extent, width), its transpose likewise.

    Row e is the node e - pad: beyond a cut end there are rows for the means near it.
    """

    pad: int
    first: np.ndarray
    weights: np.ndarray
    first_back: np.ndarray
    weights_back: np.ndarray

    @classmethod
    def build(cls, n: int, h: float, boundary: int, shared: float, narrow: float) -> Smoothing:
        """shared: s2; narrow: the largest s1 of the cells."""
        pad = int(np.ceil(TAIL * narrow / h)) + 1 if boundary == CLAMP else 0
        reach = int(np.ceil(TAIL * shared / h))
        shifts = np.arange(-reach, reach + 1)
        g = np.exp(-0.5 * (shifts * h / shared) ** 2)
        g /= g.sum()
        matrix = np.zeros((n + 2 * pad, n))
        for row in range(n + 2 * pad):
            nodes = row - pad + shifts
            if boundary == CLAMP:
                inside = (nodes >= 0) & (nodes < n)
                matrix[row, nodes[inside]] = g[inside]
            else:
                np.add.at(matrix[row], [fold(int(e), n, boundary) for e in nodes], g)
        return cls(pad, *_bands(matrix), *_bands(np.ascontiguousarray(matrix.T)))

    @property
    def ones(self) -> np.ndarray:
        """What is left of the smoothing between the ends, row by row."""
        return self.weights.sum(axis=1)

    def forward(self, u: np.ndarray, outer: int, inner: int) -> np.ndarray:
        """Return M u along the middle axis of u (outer, n, inner), flat."""
        return _along(self.first, self.weights, u, outer, self.first_back.size, inner)

    def backward(self, u: np.ndarray, outer: int, inner: int) -> np.ndarray:
        """Return the adjoint of `forward`, of u (outer, extent, inner)."""
        return _along(self.first_back, self.weights_back, u, outer, self.first.size, inner)


def _bands(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    used = matrix != 0.0
    first = np.where(used.any(axis=1), used.argmax(axis=1), 0)
    last = matrix.shape[1] - np.where(used.any(axis=1), used[:, ::-1].argmax(axis=1), 0)
    width = int((last - first).max())
    first = np.minimum(first, matrix.shape[1] - width)
    return first.astype(np.int64), np.take_along_axis(matrix, first[:, None] + np.arange(width), axis=1)


def _along(first: np.ndarray, weights: np.ndarray, u: np.ndarray, outer: int, size: int, inner: int) -> np.ndarray:
    rows, width = weights.shape
    out = np.empty(outer * rows * inner)
    spread(_band_rows, outer * rows, float(out.size * width), first, weights, size, inner, u, out)
    return out


@contracting_driver
def _band_rows(low, high, first, weights, size, inner, u, out):
    """out[(a, e), :] = sum_q weights[e, q] u[(a, first[e] + q), :] for the pairs (a, e) low..high."""
    rows, width = weights.shape
    for r in range(low, high):
        e = r % rows
        at = ((r // rows) * size + first[e]) * inner
        if inner == 1:
            x, y = u[at : at + width], weights[e]
            t = 0.0
            for q in range(width):
                t += x[q] * y[q]
            out[r] = t
            continue
        target = out[r * inner : (r + 1) * inner]
        for b in range(inner):
            target[b] = 0.0
        q = 0
        while q + 4 <= width:
            a0, a1, a2, a3 = weights[e, q], weights[e, q + 1], weights[e, q + 2], weights[e, q + 3]
            x0 = u[at + q * inner : at + (q + 1) * inner]
            x1 = u[at + (q + 1) * inner : at + (q + 2) * inner]
            x2 = u[at + (q + 2) * inner : at + (q + 3) * inner]
            x3 = u[at + (q + 3) * inner : at + (q + 4) * inner]
            for b in range(inner):
                target[b] += a0 * x0[b] + a1 * x1[b] + a2 * x2[b] + a3 * x3[b]
            q += 4
        while q < width:
            a0 = weights[e, q]
            x0 = u[at + q * inner : at + (q + 1) * inner]
            for b in range(inner):
                target[b] += a0 * x0[b]
            q += 1


@allocating_nothing
def narrow_weights(boundary, lower, h, n, mean, s, shared, pad, ones, order, w0, w1, w2):
    """Fill the weights of the narrow law and their derivatives in the mean; return (first extended index, count).

    With W the law of variance s1^2 and its sum over what the smoothing left, Z = sum W ones:  w = W/Z,
    w' = (W' - w Z')/Z,  w'' = (W'' - 2 w' Z' - w Z'')/Z. Means beyond a cut end are put on it, with zero derivative there.
    """
    m, outside = measured(mean - lower, s, h, n, boundary)
    narrow = (s * s - shared * shared) ** 0.5
    first, count = gaussian_weights(m, narrow, h, n, REFLECT, order, w0, w1, w2)
    if boundary != CLAMP:
        return first, count
    z0 = z1 = z2 = 0.0
    at = first + pad
    for q in range(count):
        z0 += w0[q] * ones[at + q]
        if order > 0:
            z1 += w1[q] * ones[at + q]
            z2 += w2[q] * ones[at + q]
    for q in range(count):
        w0[q] /= z0
        if order > 0:
            w1[q] = 0.0 if outside else (w1[q] - w0[q] * z1) / z0
            w2[q] = 0.0 if outside else (w2[q] - 2.0 * w1[q] * z1 - w0[q] * z2) / z0
    return first, count
