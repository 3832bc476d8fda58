"""Particle trajectories of chosen cells over flow time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wassgrid.plotting.fields import action_labels, particles_of
from wassgrid.plotting.style import COLOURS, canvas, label, plain, styled
from wassgrid.storage import ResultFile

_BULK = 0.9  # share of the stationary law that the cells are chosen from


@styled
def trajectories(path: str | os.PathLike[str], states: Sequence[Sequence[float]] | None = None, cells: int = 4) -> Figure:
    """Draw how the particles of some cells move: action against flow time (against step where no flow time passes).

    states: the states (d numbers each) whose nearest cells are shown; by default `cells` of them: the most frequent one, then
    such as lie far from those chosen and whose particles go far, among those that hold 90 % of the stationary law. Line widths
    grow with the particle's weight at that time. Raises StorageError for a file without frames, ValueError for a state of
    another dimension.
    """
    with ResultFile(path) as result:
        frame = particles_of(result)
        law = frame["stationary"]
        axes = result.axes
        if states is None:
            moves = frame["actions"] - particles_of(result, 0)["actions"]
            moved = np.sqrt(np.einsum("...i,...ia->...", frame["weights"], moves**2))
            chosen = _telling_cells(law, moved, result.boundaries, cells)
        else:
            chosen = [_nearest(axes, state) for state in states]
        names = action_labels(result)
        state_labels = result.state_names
        steps = result.steps("trajectory")
        times, time_label = _times(result, steps)
        figure, panels = canvas(len(names), len(chosen), width=2.6, sharex=True, sharey="row")
        for column, cell in enumerate(chosen):
            weights = result.array("trajectory", "weights", (slice(None), *cell))
            paths = result.array("trajectory", "actions", (slice(None), *cell))
            particles = weights.shape[1]
            paths = paths.reshape(len(steps), particles, len(names))
            widths = np.clip(particles * weights, 0.4 if np.ptp(weights, axis=0).max() == 0.0 else 0.1, 3.0)
            for row in range(len(names)):
                for particle in range(particles):
                    colour = COLOURS[particle % len(COLOURS)]
                    _draw_path(panels[row, column], times, paths[:, particle, row], widths[:, particle], colour)
            if len(times) == 1:
                panels[-1, column].set(xticks=times, xlim=(times[0] - 1, times[0] + 1))
            where = [f"{name} = {axis[i]:.3g}".replace("-", "−") for name, axis, i in zip(state_labels, axes, cell, strict=True)]
            panels[0, column].set_title("\n".join(where))
            panels[-1, column].set_xlabel(time_label)
            if time_label == "step" and len(times) > 1:
                panels[-1, column].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        for row, name in enumerate(names):
            panels[row, 0].set_ylabel(name)
        figure.suptitle(f"{plain(result.path.stem)}: particles at {len(chosen)} states", fontsize=10)
    return figure


def _draw_path(axis: Axes, times: np.ndarray, path: np.ndarray, widths: np.ndarray, colour: str) -> None:
    """Draw the path (frames,) of one particle, as wide as it has weight at every time (frames,)."""
    style: dict[str, Any] = {"marker": "o", "markersize": 3} if len(times) <= 2 else {}
    if np.ptp(widths) == 0.0:
        axis.plot(times, path, color=colour, linewidth=float(widths[-1]), **style)
        return
    # an invisible line sets the limits
    axis.plot(times, path, color=colour, linewidth=0.0, **style)
    points = np.stack([times, path], axis=1)
    pieces = np.stack([points[:-1], points[1:]], axis=1)
    axis.add_collection(LineCollection(list(pieces), linewidths=0.5 * (widths[:-1] + widths[1:]), colors=colour))


def _times(result: ResultFile, steps: np.ndarray) -> tuple[np.ndarray, str]:
    columns = result.convergence
    flow_time = columns.get("flow_time")
    if flow_time is not None and len(flow_time):
        at = dict(zip(columns["step"].tolist(), flow_time.tolist(), strict=True))
        times = np.array([at.get(step, np.nan) for step in steps.tolist()])
        if np.isfinite(times).all() and (len(times) == 1 or times[-1] > times[0]):
            return times, label("flow time", result.description("convergence/flow_time")["units"])
    return steps.astype(float), "step"


def _nearest(axes: Sequence[np.ndarray], state: Sequence[float]) -> tuple[int, ...]:
    if len(state) != len(axes):
        raise ValueError(f"expected a state of {len(axes)} numbers, got {len(state)}: {list(state)}")
    return tuple(int(np.abs(axis - x).argmin()) for axis, x in zip(axes, state, strict=True))


def _telling_cells(law: np.ndarray, moved: np.ndarray, boundaries: Sequence[str], count: int) -> list[tuple[int, ...]]:
    """Choose the most frequent cell, then each time the one of the largest product of its distance to those chosen, in widths of
    the grid, and of how far its particles moved (n1..nd), within 90 % of the law."""
    heaviest = np.argsort(law, axis=None)[::-1]
    inside = heaviest[: int(np.searchsorted(np.cumsum(law.ravel()[heaviest]), _BULK)) + 1]
    index = np.stack(np.unravel_index(inside, law.shape), axis=1)
    periodic = np.array([boundary == "periodic" for boundary in boundaries])

    def distances(cell: int) -> np.ndarray:
        apart = np.abs(index - index[cell]) / law.shape
        return np.linalg.norm(np.where(periodic, np.minimum(apart, 1 - apart), apart), axis=1)

    telling = moved.ravel()[inside]
    telling = telling / telling.max() if telling.max() > 0 else np.ones(inside.size)
    chosen = [0]
    distance = distances(0)
    while len(chosen) < min(count, len(inside)):
        # where nothing that is left moved, the farthest
        score = distance * telling
        chosen.append(int((score if score.max() > 0 else distance).argmax()))
        distance = np.minimum(distance, distances(chosen[-1]))
    return sorted(tuple(int(i) for i in index[k]) for k in chosen)
