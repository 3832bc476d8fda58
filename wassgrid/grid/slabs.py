"""The cells of a grid shared out to processes: slabs of one axis, each of which is a grid of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wassgrid.errors import WassgridError
from wassgrid.grid.state_grid import StateGrid
from wassgrid.ranks import Ranks


class SlabError(WassgridError, ValueError):
    """A grid that cannot be shared out to so many processes."""


@dataclass(frozen=True)
class SlabGrid(StateGrid):
    """Some neighbouring nodes of one axis of a grid, all nodes of the others; cells are numbered within.

    Spacings are those of the whole grid, and so are the numbers of cells in messages.
    """

    of: StateGrid
    places: np.ndarray  # numbers of its cells in the whole grid, ascending

    @property
    def numbers(self) -> np.ndarray:
        return self.places

    @property
    def whole(self) -> StateGrid:
        return self.of

    @property
    def spacing(self) -> np.ndarray:
        return self.of.spacing

    @property
    def lower(self) -> np.ndarray:
        return self.of.lower

    def describe_cell(self, cell: int) -> str:
        return self.of.describe_cell(int(self.numbers[cell]))


@dataclass(frozen=True, eq=False)
class Slabs:
    """The slabs of an axis of a grid, one for every process, as even as they can be.

    | name   | meaning                                               |
    |--------|-------------------------------------------------------|
    | ranks  | the processes                                         |
    | whole  | the grid                                              |
    | axis   | the axis that is cut                                  |
    | bounds | first node of every slab, and the end (processes + 1) |
    """

    ranks: Ranks
    whole: StateGrid
    axis: int
    bounds: tuple[int, ...]

    @classmethod
    def of(cls, ranks: Ranks, grid: StateGrid, axis: int) -> Slabs:
        """Cut an axis; raise SlabError where it has fewer nodes than there are processes."""
        n = grid.shape[axis]
        if n < ranks.size:
            raise SlabError(
                f"mpiexec: {ranks.size} processes share the {n} points of {grid.names[axis]}: at most {n} can; start fewer "
                f"processes, or give {grid.names[axis]} more points"
            )
        return cls(ranks, grid, axis, tuple(n * r // ranks.size for r in range(ranks.size + 1)))

    @property
    def here(self) -> slice:
        """The nodes of this process."""
        return slice(*self.bounds[self.ranks.rank : self.ranks.rank + 2])

    @cached_property
    def grid(self) -> SlabGrid:
        """The slab of this process."""
        whole = self.whole
        axes = tuple(axis[self.here] if k == self.axis else axis for k, axis in enumerate(whole.axes))
        return SlabGrid(whole.names, axes, whole.boundary, whole, self.own(np.arange(whole.size)))

    @property
    def _each(self) -> int:
        """Cells of one node of the axis."""
        return self.whole.size // self.whole.shape[self.axis]

    @property
    def largest(self) -> int:
        """Cells of the largest slab."""
        return int(np.diff(self.bounds).max()) * self._each

    def own(self, values: np.ndarray) -> np.ndarray:
        """Return those of values (cells, ...) of the whole grid that belong to this process."""
        return self._part(values, self.here)

    def _part(self, values: np.ndarray, nodes: slice) -> np.ndarray:
        rest = values.shape[1:]
        part = values.reshape(*self.whole.shape, *rest)[(slice(None),) * self.axis + (nodes,)]
        return np.ascontiguousarray(part).reshape(-1, *rest)

    def _put(self, parts: list[np.ndarray], rest: tuple[int, ...]) -> np.ndarray:
        """Return the whole of the parts of all processes."""
        shape = list(self.whole.shape)
        blocks = []
        for low, high, part in zip(self.bounds[:-1], self.bounds[1:], parts, strict=True):
            shape[self.axis] = high - low
            blocks.append(part.reshape(*shape, *rest))
        return np.concatenate(blocks, axis=self.axis).reshape(-1, *rest)

    def _sizes(self, rest: tuple[int, ...]) -> list[int]:
        return [int(n) * self._each * int(np.prod(rest)) for n in np.diff(self.bounds)]

    def everything(self, values: np.ndarray) -> np.ndarray:
        """Return values (own cells, ...) of all processes on the whole grid, in every process."""
        rest, sizes = values.shape[1:], self._sizes(values.shape[1:])
        flat = self.ranks.joined(np.ascontiguousarray(values).ravel(), sizes)
        return self._put(np.split(flat, np.cumsum(sizes)[:-1]), rest)

    def collected(self, values: np.ndarray) -> np.ndarray:
        """Return the same in the leader alone, in the others their own."""
        parts = self.ranks.collected(np.ascontiguousarray(values).ravel(), self._sizes(values.shape[1:]))
        return values if parts is None else self._put(parts, values.shape[1:])

    def dealt(self, values: np.ndarray | None) -> np.ndarray:
        """Return the part of this process of values (cells, ...) that the leader has."""
        rest, kind = self.ranks.told(None if values is None else (values.shape[1:], values.dtype))
        own = np.empty((self.grid.size, *rest), kind)
        if values is None:
            return self.ranks.dealt(None, own)
        slices = [slice(*self.bounds[r : r + 2]) for r in range(self.ranks.size)]
        return self.ranks.dealt([self._part(values, nodes) for nodes in slices], own)
