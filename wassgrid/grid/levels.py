"""Coarser grids of the same problem, and functions carried from a coarse grid to a finer one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from wassgrid.grid.alignment import GridError
from wassgrid.grid.state_grid import StateGrid
from wassgrid.problem.control_problem import ControlProblem

_LEAST_POINTS = 7  # of an axis of a coarser grid
_LEAST_CELLS = 400


def coarser_points(points: Mapping[str, int | str], problem: ControlProblem) -> dict[str, int | str] | None:
    """Return about half the points of every axis, aligned ones left to follow; None where an axis has too few.

    An axis with both its ends keeps every second node where it can.
    """
    result: dict[str, int | str] = {}
    for k, name in enumerate(problem.state_names):
        count = points[name]
        if isinstance(count, int):
            count = -(-count // 2) if problem.boundary[k] == "periodic" else count // 2 + 1
            if count < _LEAST_POINTS:
                return None
        result[name] = count
    return result


def coarser_grid(points: Mapping[str, int | str], problem: ControlProblem) -> tuple[dict[str, int | str], StateGrid] | None:
    """Return the next coarser points and their grid, or None where there is none worth a solve."""
    fewer = coarser_points(points, problem)
    if fewer is None:
        return None
    try:
        grid = StateGrid.build(problem, fewer)
    except GridError:
        return None
    return (fewer, grid) if grid.size >= _LEAST_CELLS and min(grid.shape) >= _LEAST_POINTS else None


def prolonged(
    values: np.ndarray, coarse: StateGrid, fine: StateGrid, join: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
) -> np.ndarray:
    """Interpolate values (coarse cells, ...) multilinearly to the cells of a finer grid, axis by axis; constant beyond an end.

    join: what is taken of two neighbours instead, such as the larger of both.
    """
    result = values.reshape(*coarse.shape, *values.shape[1:])
    for k, (axis, boundary) in enumerate(zip(fine.axes, fine.boundary, strict=True)):
        n = coarse.shape[k]
        position = (axis - coarse.axes[k][0]) / coarse.spacing[k]
        position = np.mod(position, n) if boundary == "periodic" else np.clip(position, 0, n - 1)
        low = np.minimum(position.astype(np.int64), n - 1 if boundary == "periodic" else n - 2)
        part = (position - low).reshape(-1, *[1] * (result.ndim - k - 1))
        near, far = np.take(result, low, axis=k), np.take(result, (low + 1) % n, axis=k)
        if join is not None:
            result = join(near, far)
            continue
        near += part * (far - near)
        result = near
    return result.reshape(fine.size, *values.shape[1:])
