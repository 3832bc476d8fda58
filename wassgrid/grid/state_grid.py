"""The grid of states: a tensor product of uniform axes, aligned with the dynamics where the case asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from wassgrid.grid.alignment import ALIGNED, GridError, align, uniform_axis, verify_alignment
from wassgrid.problem.boundary import BOUNDARIES
from wassgrid.problem.states import StateError

if TYPE_CHECKING:
    from wassgrid.case import Case
    from wassgrid.problem.control_problem import ControlProblem


TAIL = 8.0  # standard deviations: the normal law beyond holds 1e-15
_WIDENINGS, _MOST_WIDENED = 16, 50  # noise that depends on the state is looked at again on the wider grid
_CELLS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class StateGrid:
    """Hold the nodes of every axis and enumerate the cells in C order (last axis fastest).

    | name     | symbol | shape         | meaning                                     |
    |----------|--------|---------------|---------------------------------------------|
    | axes     | x_k    | d x (n_k)     | node coordinates, uniform, ascending        |
    | boundary |        | d             | names of `problem.boundary`                |
    | states   | s      | (cells, d)    | coordinates of all cells                    |

    A periodic axis of n nodes has n distinct nodes and period n h; the other axes include both ends.
    """

    names: tuple[str, ...]
    axes: tuple[np.ndarray, ...]
    boundary: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<StateGrid {self.described}>"

    @property
    def described(self) -> str:
        """Names and points of the axes, and the number of cells."""
        axes = " x ".join(f"{name} {axis.size}" for name, axis in zip(self.names, self.axes, strict=True))
        return f"{axes}: {self.size:,} cells"

    @property
    def dimension(self) -> int:
        return len(self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.axes)

    @property
    def size(self) -> int:
        return int(np.prod([axis.size for axis in self.axes]))

    @property
    def whole(self) -> StateGrid:
        """The grid that these cells are of: itself, unless it is a slab that one of several processes has (`grid.slabs`)."""
        return self

    @property
    def numbers(self) -> np.ndarray:
        """The numbers of the cells in the whole grid, (cells,), ascending."""
        return np.arange(self.size)

    @cached_property
    def lower(self) -> np.ndarray:
        return np.array([axis[0] for axis in self.axes])

    @cached_property
    def spacing(self) -> np.ndarray:
        """Node distance h of every axis, shape (d,)."""
        return np.array([(axis[-1] - axis[0]) / (axis.size - 1) for axis in self.axes])

    @cached_property
    def states(self) -> np.ndarray:
        return np.stack([c.ravel() for c in np.meshgrid(*self.axes, indexing="ij")], axis=1)

    def states_of(self, cells: np.ndarray) -> np.ndarray:
        """Return the coordinates (K, d) of some cells (K,)."""
        places = np.unravel_index(cells, self.shape)
        return np.stack([axis[place] for axis, place in zip(self.axes, places, strict=True)], axis=1)

    def describe_cell(self, cell: int) -> str:
        """Name one cell by its coordinates, for messages: `cell 12 (s = 0.5, v = -1)`."""
        state = [axis[i] for axis, i in zip(self.axes, np.unravel_index(cell, self.shape), strict=True)]
        return f"cell {cell} ({', '.join(f'{n} = {x:.6g}' for n, x in zip(self.names, state, strict=True))})"

    def corners(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the 2^d grid neighbours of arbitrary states and their multilinear weights.

        `states` has shape (..., d). Returns cells and weights, both (..., 2^d); weights are >= 0 and sum to one.
        States outside the domain are wrapped, reflected or clamped like the dynamics.
        """
        states = np.asarray(states, dtype=float)
        if states.ndim == 0 or states.shape[-1] != self.dimension:
            raise StateError(f"expected states of shape (..., {self.dimension}), got {states.shape}")
        cells = np.zeros((*states.shape[:-1], 1), dtype=np.int64)
        weights = np.ones((*states.shape[:-1], 1))
        for k, axis in enumerate(self.axes):
            n = axis.size
            position = (states[..., k] - axis[0]) / self.spacing[k]
            if self.boundary[k] == "periodic":
                position = np.mod(position, n)
            elif self.boundary[k] == "reflect":
                position = np.mod(position, 2 * (n - 1))
                position = np.minimum(position, 2 * (n - 1) - position)
            else:
                position = np.clip(position, 0, n - 1)
            last = n - 1 if self.boundary[k] == "periodic" else n - 2
            low = np.clip(np.floor(position).astype(np.int64), 0, last)
            part = np.clip(position - low, 0.0, 1.0)
            pair = np.stack([low, (low + 1) % n], axis=-1)
            pair_weights = np.stack([1 - part, part], axis=-1)
            cells = (cells[..., :, None] * n + pair[..., None, :]).reshape(*states.shape[:-1], -1)
            weights = (weights[..., :, None] * pair_weights[..., None, :]).reshape(*states.shape[:-1], -1)
        return cells, weights

    def inside(self, states: np.ndarray) -> np.ndarray:
        """Return where states (..., d) count as standing: as they are; beyond the grid wrapped, folded or put on the end."""
        result = np.array(states, dtype=float)
        for k, axis in enumerate(self.axes):
            x = result[..., k]
            low, high = axis[0], axis[-1] + (self.spacing[k] if self.boundary[k] == "periodic" else 0.0)
            if self.boundary[k] == "periodic":
                there = low + np.mod(x - low, high - low)
            elif self.boundary[k] == "reflect":
                way = np.mod(x - low, 2.0 * (high - low))
                there = low + np.minimum(way, 2.0 * (high - low) - way)
            else:
                there = x
            result[..., k] = np.where((x < low) | (x > high), np.clip(there, low, high), x)
        return result

    def _widened(self, problem: ControlProblem) -> StateGrid:
        """Let open axes go on, by whole cells, until nothing is left of a law whose mean is within the domain."""
        widens = [BOUNDARIES[boundary].widens for boundary in self.boundary]
        if not any(widens):
            return self
        grid, most = self, _MOST_WIDENED * max(self.shape)
        for _ in range(_WIDENINGS):
            noise = np.zeros(self.dimension)
            for start in range(0, grid.size, _CELLS_AT_ONCE):
                noise = np.maximum(noise, problem.cell_tables(grid.states[start : start + _CELLS_AT_ONCE]).noise.max(axis=0))
            # cells that are added at either end
            more = np.where(widens & (noise > 0.0), np.ceil(TAIL * noise / self.spacing) + 2, 0).astype(np.int64)
            if more.max() > most:
                break
            beyond = [h * np.arange(1, count + 1) for h, count in zip(self.spacing, more, strict=True)]
            axes = [np.concatenate([x[0] - far[::-1], x, x[-1] + far]) for x, far in zip(self.axes, beyond, strict=True)]
            if all(axis.size <= old.size for axis, old in zip(axes, grid.axes, strict=True)):
                return grid
            grid = StateGrid(self.names, tuple(axes), self.boundary)
        name = self.names[int(np.argmax(np.where(widens, noise / self.spacing, 0.0)))]
        raise GridError(
            f"states.{name}.boundary: an open axis goes on until its noise ends, and that grows too fast outside the domain; use "
            '"truncate" or "project".'
        )

    @classmethod
    def from_case(cls, case: Case) -> StateGrid:
        """Build the grid of a case; raise GridError where an axis cannot be aligned."""
        return cls.build(case.problem, case.grid.points)

    @classmethod
    def build(cls, problem: ControlProblem, points: Mapping[str, int | str]) -> StateGrid:
        """Build the grid of a problem from nodes per state, or "aligned" (see `aligned_axis`)."""
        axes: dict[str, np.ndarray] = {}
        for k, name in enumerate(problem.state_names):
            if points[name] != ALIGNED:
                axes[name] = uniform_axis(problem.domain[k], int(points[name]), problem.boundary[k])
        for k, name in enumerate(problem.state_names):
            if points[name] == ALIGNED:
                align(problem, k, axes)
        grid = cls(problem.state_names, tuple(axes[name] for name in problem.state_names), tuple(problem.boundary))
        grid = grid._widened(problem)
        for name in problem.state_names:
            if points[name] == ALIGNED:
                verify_alignment(problem, grid, problem.state_names.index(name))
        return grid
