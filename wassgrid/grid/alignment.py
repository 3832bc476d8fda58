"""Axes aligned with the dynamics: a spacing for which noise-free means land on nodes, and how far off they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from wassgrid.errors import WassgridError
from wassgrid.problem.boundary import BOUNDARIES

if TYPE_CHECKING:
    from wassgrid.problem.control_problem import ControlProblem

ALIGNED = "aligned"
_ON_NODE = 1e-9  # in cells: a mean this close to a node is on it


class GridError(WassgridError, ValueError):
    """A grid that cannot be built as asked; the message names the axis and the remedy."""


class Nodes(Protocol):
    """What alignment asks of a grid: see `StateGrid`."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def boundary(self) -> tuple[str, ...]: ...
    @property
    def dimension(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def lower(self) -> np.ndarray: ...
    @property
    def spacing(self) -> np.ndarray: ...
    @property
    def states(self) -> np.ndarray: ...


def uniform_axis(domain: np.ndarray, n: int, boundary: str) -> np.ndarray:
    return np.linspace(domain[0], domain[1], n, endpoint=boundary != "periodic")


def _step(axis: np.ndarray) -> float:
    return float((axis[-1] - axis[0]) / (axis.size - 1))


def _couplings(problem: ControlProblem, follower: int) -> dict[int, float]:
    """Return the constant coefficients through which axis `follower` depends on other axes, {axis: coefficient}.

    Both next(other) (the coupling beta) and, for positions stepped explicitly, d mean / d other count. An axis with noise
    of its own lands between nodes whatever the grid: it has none.
    """
    box = np.where(np.isfinite(problem.domain), problem.domain, 0.0)
    rng = np.random.default_rng(0)
    states = box[:, 0] + (box[:, 1] - box[:, 0]) * rng.random((16, len(problem.state_names)))
    action = problem.some_action
    result: dict[int, float] = {}
    tables = problem.cell_tables(states)
    if tables.noise[:, follower].any():
        return result
    beta = tables.coupling[:, follower, :]
    for other in range(len(problem.state_names)):
        if other == follower:
            continue
        coefficients = beta[:, other]
        if not problem.coupled[follower, other]:
            shift = 1e-3 * (box[other, 1] - box[other, 0])
            means = []
            for sign in (1, -1):
                moved = states.copy()
                moved[:, other] += sign * shift
                means.append(problem.action_tables(moved, np.tile(action, (16, 1, 1)), 0).mean[:, 0, follower])
            coefficients = (means[0] - means[1]) / (2 * shift)
        if np.ptp(coefficients) <= 1e-9 * max(1.0, np.abs(coefficients).max()) and abs(coefficients.mean()) > 1e-12:
            result[other] = float(abs(coefficients.mean()))
    return result


def align(problem: ControlProblem, k: int, axes: dict[str, np.ndarray]) -> None:
    """Choose the spacing of axis k so that the axis that follows another lands on nodes.

    If x_j' = ... + beta x_i', the rule is  beta h_i = h_j . Either spacing may be the given one.
    A domain is widened outward to whole cells about the origin; a periodic follower keeps its period, and the
    leader's given spacing is then diminished slightly so that the period holds a whole number of cells.
    """
    names = problem.state_names
    followed = {
        j: beta
        for j, name in enumerate(names)
        if name in axes
        for other, beta in _couplings(problem, j).items()
        if other == k
    }
    leads = {i: beta for i, beta in _couplings(problem, k).items() if names[i] in axes}
    if len(followed) + len(leads) != 1:
        found = "none was found" if not followed and not leads else f"{len(followed) + len(leads)} were found"
        raise GridError(
            f"grid.points.{names[k]}: an aligned axis needs exactly one other axis with a given number of points that "
            f"moves with it through a constant coefficient (for example next = '{names[k]} + step*next(...)'); {found}. "
            "Give a number of points instead."
        )
    if followed:
        (j, beta), *_ = followed.items()
        axes[names[k]] = _widened_axis(problem, k, _step(axes[names[j]]) / beta)
        return
    (i, beta), *_ = leads.items()
    spacing = beta * _step(axes[names[i]])
    if problem.boundary[k] == "periodic":
        period = problem.domain[k, 1] - problem.domain[k, 0]
        n = int(np.ceil(period / spacing - _ON_NODE))
        axes[names[k]] = uniform_axis(problem.domain[k], n, "periodic")
        spacing = period / n
    else:
        axes[names[k]] = _widened_axis(problem, k, spacing)
    axes[names[i]] = _widened_axis(problem, i, spacing / beta)


def _widened_axis(problem: ControlProblem, k: int, spacing: float) -> np.ndarray:
    """Return nodes at whole multiples of `spacing`, covering the domain of axis k."""
    low, high = problem.domain[k]
    if problem.boundary[k] == "periodic":
        raise GridError(
            f"grid.points.{problem.state_names[k]}: a periodic axis cannot be widened to whole cells; "
            "give its number of points and let the other axis be aligned."
        )
    first, last = int(np.floor(low / spacing + _ON_NODE)), int(np.ceil(high / spacing - _ON_NODE))
    ends = spacing * np.array([first, last])
    if BOUNDARIES[problem.boundary[k]].fixed and np.abs(ends - problem.domain[k]).max() > 1e-6 * spacing:
        raise GridError(
            f"states.{problem.state_names[k]}.domain: the ends of a {problem.boundary[k]} boundary must be whole multiples of "
            f"the spacing {spacing:.6g} of the aligned axis, such as [{ends[0]:.6g}, {ends[1]:.6g}]; or use boundary = \"open\"."
        )
    return spacing * np.arange(first, last + 1)


def misalignment(problem: ControlProblem, grid: Nodes, k: int, cells: np.ndarray | None = None) -> float:
    """Return the largest distance, in cells, from a mean of noise-free axis k to the nearest node.

    For a follower, the mean is taken at the nodes of the axes it follows. Zero (to rounding) means that the axis is
    aligned: no interpolation and no numerical diffusion there. `cells` restricts the test to some cells.
    """
    states = grid.states if cells is None else grid.states[cells]
    action = problem.some_action
    worst = 0.0
    for start in range(0, len(states), 65536):
        block = states[start : start + 65536]
        mean = problem.action_tables(block, np.tile(action, (len(block), 1, 1)), 0).mean[:, 0, k]
        coupling = problem.cell_tables(block).coupling[:, k, :]
        for i in np.flatnonzero(problem.coupled[k]):
            # a node more shifts the mean by beta h_i: whole cells of axis k for an aligned pair
            shift = coupling[:, i] * grid.spacing[i] / grid.spacing[k]
            worst = max(worst, float(np.abs(shift - np.round(shift)).max()))
            mean = mean + coupling[:, i] * grid.lower[i]
        position = (mean - grid.lower[k]) / grid.spacing[k]
        if BOUNDARIES[grid.boundary[k]].stops and not problem.coupled[k].any():
            position = np.clip(position, 0, grid.shape[k] - 1)
        worst = max(worst, float(np.abs(position - np.round(position)).max()))
    return worst


def verify_alignment(problem: ControlProblem, grid: Nodes, k: int) -> None:
    """Raise GridError unless axis k, or the axis that follows it, lands on nodes from every cell."""
    followers = [j for j in range(grid.dimension) if j == k or k in _couplings(problem, j)]
    followers = [j for j in followers if not np.any(problem.cell_tables(grid.states[:1]).noise[:, j])]
    offsets = {j: misalignment(problem, grid, j) for j in followers if _couplings(problem, j)}
    if not offsets or min(offsets.values()) > 1e-6:
        raise GridError(
            f"grid.points.{grid.names[k]}: the grid cannot be aligned: means of "
            f"{', '.join(grid.names[j] for j in offsets) or 'a noise-free axis'} lie up to "
            f"{max(offsets.values(), default=0.5):.3g} cells off the nodes. Alignment needs x' = x + constant*next(other); "
            "give numbers of points instead."
        )
