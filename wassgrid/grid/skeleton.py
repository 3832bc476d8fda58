"""A few nodes of every axis of a grid, and the hat functions that carry values from them to all its cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wassgrid.grid.state_grid import StateGrid

_LEAST_NODES = 4  # of an axis, or all that it has
_THINNEST = 2  # cells between nodes of a thinned axis, at least


@dataclass(frozen=True, eq=False)
class Skeleton:
    """Hold the nodes chosen on every axis, and the hats between them.

    | name  | meaning                                                            | shape                    |
    |-------|--------------------------------------------------------------------|--------------------------|
    | shape | points of the axes                                                 | (d,)                     |
    | nodes | numbers of the nodes of every axis, ascending, the ends included   | d arrays (m_j,)          |
    | periodic | of every axis, whether its ends are one                         | (d,)                     |
    | here  | an axis and those of its points that all cells here have, None: all |                         |

    Hats are nonnegative and sum to one at every point: interpolation is linear between two nodes, and round a periodic axis.
    """

    shape: tuple[int, ...]
    nodes: tuple[np.ndarray, ...]
    periodic: tuple[bool, ...]
    here: tuple[int, slice] | None = None

    @classmethod
    def of(cls, grid: StateGrid, cells: float, here: tuple[int, slice] | None = None) -> Skeleton:
        """Choose as many nodes on every axis, together at most about `cells`; no more than half the points of an axis."""
        counts = _counts(grid.shape, cells)
        periodic = tuple(boundary == "periodic" for boundary in grid.boundary)
        nodes = tuple(
            np.arange(m) * n // m if winds else np.rint(np.linspace(0, n - 1, m)).astype(np.int64)
            for n, m, winds in zip(grid.shape, counts, periodic, strict=True)
        )
        return cls(grid.shape, nodes, periodic, here)

    @property
    def size(self) -> int:
        return int(np.prod([chosen.size for chosen in self.nodes]))

    @cached_property
    def cells(self) -> np.ndarray:
        """Numbers of the cells at the nodes, (size,)."""
        return np.ravel_multi_index(np.meshgrid(*self.nodes, indexing="ij"), self.shape).ravel()

    def prolonged(self, values: np.ndarray) -> np.ndarray:
        """Return the interpolant of values at the nodes (size,) on all cells."""
        return _along_axes(values, self.hats)

    def restricted(self, measure: np.ndarray) -> np.ndarray:
        """Return what the hats weigh a measure on cells with, (size,): the adjoint of `prolonged`."""
        return _along_axes(measure, self._transposed)

    @cached_property
    def hats(self) -> tuple[np.ndarray, ...]:
        """Value of the hat function of every node (column) at every point of its axis, d arrays (n_j, m_j)."""
        result = []
        for k, (n, chosen, (first, second, share)) in enumerate(zip(self.shape, self.nodes, self.neighbours, strict=True)):
            hat, points = np.zeros((n, chosen.size)), np.arange(n)
            hat[points, first] += 1.0 - share
            hat[points, second] += share
            result.append(hat if self.here is None or self.here[0] != k else np.ascontiguousarray(hat[self.here[1]]))
        return tuple(result)

    @cached_property
    def _transposed(self) -> tuple[np.ndarray, ...]:
        return tuple(np.ascontiguousarray(hat.T) for hat in self.hats)

    @cached_property
    def neighbours(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For every point of every axis: the places of the nodes before and after it, and the weight of the latter."""
        result = []
        for n, chosen, periodic in zip(self.shape, self.nodes, self.periodic, strict=True):
            points = np.arange(n)
            first = np.searchsorted(chosen, points, side="right") - 1
            first = first % chosen.size if periodic else np.minimum(first, max(chosen.size - 2, 0))
            second = (first + 1) % chosen.size
            length = np.where(second > first, chosen[second] - chosen[first], n - chosen[first] + chosen[second])
            result.append((first, second, (points - chosen[first]) % n / length))
        return result


def _along_axes(values: np.ndarray, matrices: tuple[np.ndarray, ...]) -> np.ndarray:
    """Apply a matrix along every axis of values, flat in C order: the first axis goes last d times."""
    for matrix in matrices:
        values = (matrix @ values.reshape(matrix.shape[1], -1)).T
    return np.ascontiguousarray(values).ravel()


def _counts(shape: tuple[int, ...], cells: float) -> list[int]:
    """Share a number of cells out to axes: as many nodes on each, but no more than a thinned one has."""
    counts = [0] * len(shape)
    left = cells
    for rank, j in enumerate(np.argsort(shape, kind="stable").tolist()):
        share = int(left ** (1.0 / (len(shape) - rank)))
        counts[j] = min(shape[j], max(_LEAST_NODES, min(share, -(-shape[j] // _THINNEST))))
        left /= counts[j]
    return counts
