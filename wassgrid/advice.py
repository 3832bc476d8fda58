"""Grids that carry a case: points that resolve its noise, aligned where that can be, and never fewer than there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wassgrid.grid import ALIGNED, GridError, StateGrid, misalignment
from wassgrid.memory import estimate_memory
from wassgrid.transition.axis_kernels import RESOLVED

if TYPE_CHECKING:
    from wassgrid.case import Case

LEAST_POINTS = 9  # of an axis that somebody is advised to take
_ON_NODE = 1e-6  # in cells
_MOST_CELLS = 2_000_000  # of a grid that is suggested


@dataclass(frozen=True)
class Suggestion:
    """A grid that resolves the noise: settings as they are given to --set, its shape and memory in bytes, and what it brings."""

    settings: tuple[str, ...]
    shape: tuple[int, ...]
    memory: float
    text: str

    @property
    def cells(self) -> int:
        return int(np.prod(self.shape))


def least_noise(case: Case, grid: StateGrid) -> np.ndarray:
    """Return the smallest noise of every axis that is not zero, (d,); zero where an axis has none."""
    noise = case.problem.cell_tables(grid.states).noise
    least = np.where(noise > 0, noise, np.inf).min(axis=0)
    return np.where(np.isfinite(least), least, 0.0)


def no_worse(grid: StateGrid, than: StateGrid, noise: np.ndarray) -> bool:
    """Whether a grid may be advised in place of another: no noisy axis is coarser than it was, and none has too few points."""
    few = any(new < min(LEAST_POINTS, old) for new, old in zip(grid.shape, than.shape, strict=True))
    return not few and bool((grid.spacing <= than.spacing * (1 + 1e-9))[noise > 0].all())


def aligned(case: Case, grid: StateGrid, name: str, noise: np.ndarray) -> tuple[str, StateGrid] | None:
    """Return the setting that aligns an axis with the grid it gives; None where it cannot be or makes the grid worse."""
    try:
        found = StateGrid.build(case.problem, {**case.grid.points, name: ALIGNED})
    except GridError:
        return None
    return (f'grid.points.{name} = "aligned"', found) if no_worse(found, grid, noise) else None


def suggest(case: Case, grid: StateGrid) -> list[Suggestion]:
    """Return grids that resolve the noise of every axis, those with alignment first; empty where this one does already."""
    noise = least_noise(case, grid)
    points = resolving_points(case, grid, noise)
    if max(map(int, points.values())) > _MOST_CELLS:
        return []
    found = []
    for follower in range(grid.dimension):
        # an axis that actions move ends on grid points for some of them only
        aside = noise[follower] > 0 or case.problem.dependence.actions[follower]
        if not aside and misalignment(case.problem, grid, follower) > _ON_NODE:
            for leader in grid.names:
                if leader != grid.names[follower]:
                    given = _aligned_points(case, points, grid.names[follower], leader)
                    found += [] if given is None else [given]
    plain = _built(case, points, "resolves the noise of every axis")
    if plain is not None and plain.shape != grid.shape:
        found.append(plain)
    return found


def resolving_points(case: Case, grid: StateGrid, noise: np.ndarray) -> dict[str, int | str]:
    """Return points per axis, at least those of the case, with noise of `RESOLVED` cells wherever there is any."""
    points: dict[str, int | str] = {}
    for k, name in enumerate(grid.names):
        low, high = case.problem.domain[k]
        count = grid.shape[k]
        if noise[k] > 0:
            with np.errstate(over="ignore"):  # of noise that is next to none
                wanted = np.ceil(RESOLVED * (high - low) / noise[k] * (1 - 1e-9))
            cells = int(min(wanted, 2.0**53))
            count = max(count, cells + (grid.boundary[k] != "periodic"))
        points[name] = max(count, LEAST_POINTS)
    return points


def _aligned_points(case: Case, points: Mapping[str, int | str], follower: str, leader: str) -> Suggestion | None:
    """Give the follower so many points that the aligned leader is as fine as it is to be."""
    count, k = int(points[follower]), case.problem.state_names.index(leader)
    wanted = float(StateGrid.build(case.problem, points).spacing[k])
    for _ in range(20):
        built = _built(case, {**points, follower: count, leader: ALIGNED}, f"steps of {follower} end on grid points")
        if built is None:
            return None
        have = float(StateGrid.build(case.problem, {**points, follower: count, leader: ALIGNED}).spacing[k])
        if have <= wanted * (1 + 1e-9) and min(built.shape) >= LEAST_POINTS:
            return built
        count = int(np.ceil(count * min(max(have / wanted, 1.01), 4.0)))
    return None


def _built(case: Case, points: Mapping[str, int | str], text: str) -> Suggestion | None:
    known = [n for n in points.values() if isinstance(n, int)]
    if np.prod(np.array(known, float)) > _MOST_CELLS:
        return None
    try:
        grid = StateGrid.build(case.problem, points)
    except GridError:
        return None
    if grid.size > _MOST_CELLS:
        return None
    inner = ", ".join(f'{name} = "{n}"' if isinstance(n, str) else f"{name} = {n}" for name, n in points.items())
    return Suggestion((f"grid.points={{{inner}}}",), grid.shape, estimate_memory(case, grid).total, text)
