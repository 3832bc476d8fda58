"""A function on the nodes of a grid, continued between them by a tensor product of cubic splines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wassgrid.grid import StateGrid
from wassgrid.transition.compiled import BOUNDARIES, PERIODIC, REFLECT, driver, fold
from wassgrid.transition.threads import spread


@dataclass(frozen=True)
class Spline:
    """Hold the coefficients of the cubic B-splines through values at the nodes, twice continuously differentiable.

    Wrapped around on periodic axes; on others the slope across an end vanishes, and points beyond it count as on it.
    """

    coefficients: np.ndarray  # (cells,)
    lower: np.ndarray  # (d,)
    spacing: np.ndarray  # (d,)
    size: np.ndarray  # (d,)
    boundary: np.ndarray  # (d,)

    @classmethod
    def through(cls, grid: StateGrid, values: np.ndarray) -> Spline:
        """Return the spline through values (cells,)."""
        from scipy.ndimage import spline_filter1d  # takes 30 ms that a run without an estimate need not wait for

        table = values.reshape(grid.shape)
        for k, boundary in enumerate(grid.boundary):
            table = spline_filter1d(table, 3, axis=k, mode="grid-wrap" if boundary == "periodic" else "mirror")
        return cls(
            np.ascontiguousarray(table).ravel(), np.ascontiguousarray(grid.lower), np.ascontiguousarray(grid.spacing),
            np.array(grid.shape, dtype=np.int64), np.array([BOUNDARIES[b] for b in grid.boundary], dtype=np.int64),
        )  # fmt: skip

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """Return the values at states (..., d), (...)."""
        points = np.ascontiguousarray(states.reshape(-1, states.shape[-1]))
        values = np.empty(len(points))
        work = float(len(points)) * 4.0 ** points.shape[1]
        spread(
            spline_rows, len(points), work, points, self.lower, self.spacing, self.size, self.boundary, self.coefficients, values
        )
        return values.reshape(states.shape[:-1])


@driver
def spline_rows(low, high, points, lower, spacing, size, boundary, coefficients, values):
    """Write the values of a spline at points low..high.

    On [i, i + 1] with t from its lower end, the weights of the coefficients i - 1 .. i + 2 are
    (1 - t)^3/6,  (4 - 6 t^2 + 3 t^3)/6,  (1 + 3 t + 3 t^2 - 3 t^3)/6,  t^3/6.
    """
    d = points.shape[1]
    nodes, w = np.zeros((d, 4), np.int64), np.zeros((d, 4))
    digit = np.zeros(d, np.int64)
    for r in range(low, high):
        stride = 1
        for j in range(d - 1, -1, -1):
            n = size[j]
            position = (points[r, j] - lower[j]) / spacing[j]
            if boundary[j] == PERIODIC:
                position = position % n
                i = min(int(position), n - 1)
            else:
                position = min(max(position, 0.0), n - 1.0)
                i = min(int(position), n - 2)
            t = position - i
            s = 1.0 - t
            w[j, 0] = s * s * s / 6.0
            w[j, 1] = (4.0 - 6.0 * t * t + 3.0 * t * t * t) / 6.0
            w[j, 2] = (4.0 - 6.0 * s * s + 3.0 * s * s * s) / 6.0
            w[j, 3] = t * t * t / 6.0
            for q in range(4):
                node = i + q - 1
                nodes[j, q] = fold(node, n, PERIODIC if boundary[j] == PERIODIC else REFLECT) * stride
            stride *= n
        total = 0.0
        digit[:] = 0
        while True:
            place, weight = 0, 1.0
            for j in range(d - 1):
                place += nodes[j, digit[j]]
                weight *= w[j, digit[j]]
            row = 0.0
            for q in range(4):
                row += w[d - 1, q] * coefficients[place + nodes[d - 1, q]]
            total += weight * row
            j = d - 2
            while j >= 0:
                digit[j] += 1
                if digit[j] < 4:
                    break
                digit[j] = 0
                j -= 1
            if j < 0:
                break
        values[r] = total
