"""The start law on a grid."""

from __future__ import annotations

import numpy as np

from wassgrid.grid.state_grid import StateGrid
from wassgrid.problem.boundary import BOUNDARIES
from wassgrid.problem.start import Marginal, StartLaw

_ROUNDING = 1e-14  # of a probability


def law_on_grid(law: StartLaw, grid: StateGrid, domain: np.ndarray) -> np.ndarray:
    """Return the probabilities (cells,) of a start law on the nodes: those of its hats, so that the mean of the law is kept.

    domain (d, 2): of the problem, over which states that have no law of their own are uniform where the grid is wider.
    """
    result = np.ones(grid.shape)
    for k, marginal in enumerate(law.marginals):
        axis, boundary = grid.axes[k], grid.boundary[k]
        if marginal is not None:
            shares = _shares(marginal, axis, boundary)
        elif BOUNDARIES[boundary].winds:
            continue
        else:
            low, high = domain[k] if BOUNDARIES[boundary].widens else axis[[0, -1]]
            shares = hat_integrals(axis, low, high)
        result = result * shares.reshape([-1 if j == k else 1 for j in range(grid.dimension)])
    return (result / result.sum()).ravel()


def _shares(marginal: Marginal, axis: np.ndarray, boundary: str) -> np.ndarray:
    """Return E h_i(X) of the hats of all nodes, (nodes,)."""
    h = (axis[-1] - axis[0]) / (axis.size - 1)
    # nodes of the line that the law reaches, on either side of those of the axis
    first, last = np.floor((marginal.low - axis[0]) / h) - 1, np.ceil((marginal.high - axis[0]) / h) + 1
    number = np.arange(min(first, 0.0), max(last, axis.size - 1.0) + 1)
    edges = axis[0] + h * np.concatenate([[number[0] - 1], number, [number[-1] + 1]])
    hats = np.diff(marginal.ramp(edges), n=2) / h
    hats = np.where(hats > _ROUNDING, hats, 0.0)
    place = number.astype(np.int64)
    place = place % axis.size if BOUNDARIES[boundary].winds else np.clip(place, 0, axis.size - 1)
    return np.bincount(place, hats, axis.size)


def hat_integrals(axis: np.ndarray, low: float, high: float) -> np.ndarray:
    """Integrate the hat function of every node of a uniform axis from low to high, in spacings."""
    h = (axis[-1] - axis[0]) / (axis.size - 1)

    def below(x: float) -> np.ndarray:
        u = np.clip((x - axis) / h, -1.0, 1.0)
        return np.where(u < 0.0, 0.5 * (1.0 + u) ** 2, 1.0 - 0.5 * (1.0 - u) ** 2)

    result: np.ndarray = below(high) - below(low)
    return result
