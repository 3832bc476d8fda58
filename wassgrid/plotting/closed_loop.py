"""Time series of the closed loop with quantile bands, and its phase portrait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wassgrid.plotting.style import COLOURS, label, plain, styled

if TYPE_CHECKING:
    from wassgrid.closed_loop import ClosedLoop

_THIN: Any = {"color": COLOURS[0], "linewidth": 0.6, "alpha": 0.35}


@styled
def closed_loop(found: ClosedLoop) -> Figure:
    """Draw states, actions and cost against time, and the first two states against each other (one state: action over state).

    Bands hold 50 and 90 % of the chains around the median, lines are single chains; states that wind around are lines alone,
    broken where they pass the seam.
    """
    count = len(found.names)
    figure = Figure(figsize=(9.2, max(1.35 * count, 3.6) + 0.4), layout="constrained")
    panels = figure.subplot_mosaic([[f"{k}", "portrait"] for k in range(count)], width_ratios=[1.25, 1.0])
    for k in range(count):
        axis = panels[f"{k}"]
        _series(axis, found, k)
        axis.set_ylabel(label(found.names[k], found.units[k]))
        axis.margins(x=0.0)
        if k < count - 1:
            axis.sharex(panels[f"{count - 1}"])
            axis.tick_params(labelbottom=False)
    panels[f"{count - 1}"].set_xlabel("step" if found.time_unit == "steps" else label("time", found.time_unit))
    figure.legend(*panels[f"{count - 1}"].get_legend_handles_labels(), loc="outside lower left", ncols=4, fontsize=7)
    figure.align_ylabels([panels[f"{k}"] for k in range(count)])
    _portrait(panels["portrait"], found)
    start = ", ".join(
        f"{name} = {value:.3g}" for name, value in zip(found.names, found.paths[0, 0, : found.state_dimension], strict=False)
    )
    figure.suptitle(plain(f"{found.name}: {found.chains} chains from {start}").replace("-", "−"), fontsize=10)
    return figure


def _series(axis: Axes, found: ClosedLoop, k: int) -> None:
    if found.periods[k] > 0:
        lines = _broken(found.paths[:, :, k], found.periods[k])
        axis.plot(found.times, lines, **_THIN)
        axis.plot(found.times, lines[:, 0], color="0.25", linewidth=0.7)
        return
    low, lower, middle, upper, high = found.quantiles[:, :, k]
    axis.fill_between(found.times, low, high, color=COLOURS[4], alpha=0.35, linewidth=0, label="90 %")
    axis.fill_between(found.times, lower, upper, color=COLOURS[0], alpha=0.4, linewidth=0, label="50 %")
    axis.plot(found.times, middle, color=COLOURS[1], label="median")
    axis.plot(found.times, found.paths[:, 0, k], color="0.25", linewidth=0.7, label="one chain")


def _portrait(axis: Axes, found: ClosedLoop) -> None:
    x, y = found.paths[:, :, 0], found.paths[:, :, 1]
    x, y = (_broken(values, period) if period > 0 else values for values, period in zip((x, y), found.periods, strict=False))
    axis.plot(x, y, **_THIN)
    axis.plot(x[:, 0], y[:, 0], color="0.15", linewidth=1.0, label="one chain")
    axis.plot(*found.paths[0, 0, :2], "o", color=COLOURS[1], label="start")
    axis.plot(*found.paths[-1, :, :2].T, "o", color=COLOURS[2], markersize=3, linestyle="none", label="ends")
    axis.set_xlabel(label(found.names[0], found.units[0]))
    axis.set_ylabel(label(found.names[1], found.units[1]))
    axis.legend(loc="best", fontsize=7)


def _broken(paths: np.ndarray, period: float) -> np.ndarray:
    """Return paths (steps, chains) without the points before which they pass the seam."""
    jump = np.abs(np.diff(paths, axis=0, prepend=paths[:1])) > 0.5 * period
    return np.where(jump, np.nan, paths)
