"""Convergence of one run or of several: distance to the optimum and gradient norm against step, flow and wall time."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wassgrid.plotting.style import COLOURS, LINES, canvas, label, plain, styled
from wassgrid.runs.schema import COMPILATION, FLOW_TIME, GRADIENT_NORM, LOWER_BOUND, OBJECTIVE, STANDARD_ERROR, STEP, WALL_TIME
from wassgrid.runs.summary import summary_of
from wassgrid.storage import ResultFile, StorageError

_PROBLEM = ("parameters", "indices", "states", "actions", "time", "cost", "criterion", "goal", "start", "grid")


@dataclass(frozen=True)
class _Run:
    name: str
    columns: dict[str, np.ndarray]
    problem: object
    cost_units: str
    time_units: str
    objective: float  # of the last step, or as the run itself measured its finished policy

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> _Run:
        with ResultFile(path) as result:
            columns = result.convergence
            if len(columns[STEP]) == 0:
                raise StorageError(f"'{path}' holds no step yet: there is nothing to plot")
            try:
                case = tomllib.loads(result.case_text)
            except (ValueError, RecursionError) as error:
                raise StorageError(f"'{path}' holds a case that is not valid: {error}") from error
            summary = summary_of(result)
            if OBJECTIVE not in columns:
                raise StorageError(f"'{path}' holds no objective: there is nothing to plot")
            return cls(
                plain(result.path.stem),
                columns,
                {key: case.get(key) for key in _PROBLEM},
                result.description(f"convergence/{OBJECTIVE}")["units"],
                result.description(f"convergence/{FLOW_TIME}")["units"] if FLOW_TIME in columns else "1",
                summary.get(OBJECTIVE, columns[OBJECTIVE][-1]),
            )

    @property
    def simulated(self) -> bool:
        """Whether the objective of a step is an estimate with a standard error."""
        return STANDARD_ERROR in self.columns

    def finite(self, name: str) -> np.ndarray:
        nothing = np.full(len(self.columns[STEP]), np.nan)
        values = self.columns.get(name, nothing)
        if name == WALL_TIME:  # once per machine, it says nothing of the method
            values = values - np.nancumsum(self.columns.get(COMPILATION, nothing))
        return np.where(np.isfinite(values), values, np.nan)


@styled
def convergence(paths: Sequence[str | os.PathLike[str]]) -> Figure:
    """Draw objective and gradient norm of one or several runs, on logarithmic axes.

    The objective is shown above a reference that runs of one problem share: the best proved lower bound, or the
    smallest objective where there is no bound as tight as a tenth of the descent. A simulated objective is shown as it
    is where no other run of the problem gives a reference. Where the longest curve falls like exp(-r t) in flow time, a
    line shows the rate r. Raises StorageError for a file without a step.
    """
    runs = [_Run.read(path) for path in paths]
    abscissae = [name for name in (STEP, FLOW_TIME, WALL_TIME) if any(_advances(run, name) for run in runs)]
    abscissae = abscissae or [STEP]
    measured = any(np.isfinite(run.finite(GRADIENT_NORM)).any() for run in runs)
    figure, axes = canvas(2 if measured else 1, len(abscissae), height=2.9, sharex="col", sharey="row")
    references = [_reference(run, runs) for run in runs]
    for column, abscissa in enumerate(abscissae):
        for number, (run, (reference, kind)) in enumerate(zip(runs, references, strict=True)):
            look = {"color": COLOURS[number % len(COLOURS)], "linestyle": LINES[number % len(LINES)]}
            x = run.finite(abscissa)
            curves = (run.finite(OBJECTIVE) - reference, run.finite(GRADIENT_NORM))
            rounding = 4 * np.finfo(float).eps * max(abs(reference), np.finfo(float).tiny)
            floors = (rounding if kind else -np.inf, 0.0)
            for axis, y, floor in zip(axes[:, column], curves, floors, strict=False):
                shown = y > floor  # an objective found to a part of what is left to gain may lie below
                marker = "o" if len(x) <= 30 else None
                name = run.name if axis is axes[0, 0] else None
                axis.plot(x[shown], y[shown], marker=marker, markersize=3, label=name, **look)
        if abscissa == FLOW_TIME:
            for axis in axes[:, column]:
                _show_rate(axis)
        _finish_abscissa(axes[-1, column], abscissa, runs)
    kinds = sorted({kind for _, kind in references if kind})
    above = f"objective above\nthe {kinds[0]}" if len(kinds) == 1 else f"objective above the\n{' or '.join(kinds)}"
    above = above if kinds else "objective"
    axes[0, 0].set_ylabel(label(above, runs[0].cost_units))
    if measured:
        axes[1, 0].set_ylabel("norm of the gradient")
    for axis in axes.flat:
        drawn = np.concatenate([line.get_ydata() for line in axis.lines])
        if np.isfinite(drawn).any():
            axis.set_yscale("log" if np.nanmin(drawn) > 0 else "linear")
        else:
            axis.text(0.5, 0.5, "zero to rounding", transform=axis.transAxes, ha="center", va="center", color="0.4")
        axis.grid(True, color="0.9", linewidth=0.6)
    if len(runs) > 1:
        figure.legend(loc="outside lower center", ncols=min(len(runs), 4))
    else:
        figure.suptitle(f"{runs[0].name}: J = {runs[0].objective:.6g}", fontsize=10)
    return figure


def _advances(run: _Run, name: str) -> bool:
    x = run.finite(name)
    x = x[np.isfinite(x)]
    return len(x) > 1 and bool(x[-1] > x[0])


def _reference(run: _Run, runs: Sequence[_Run]) -> tuple[float, str]:
    same = [other for other in runs if other.problem == run.problem and not other.simulated]
    if not same:  # the smallest of many estimates is chance
        return 0.0, ""
    bounds = np.concatenate([other.finite(LOWER_BOUND) for other in same])
    objectives = np.concatenate([other.finite(OBJECTIVE) for other in same])
    lowest, highest = float(np.nanmin(objectives)), float(np.nanmax(objectives))
    if np.isfinite(bounds).any():
        bound = float(np.nanmax(bounds))
        if len(objectives) == 1 or lowest - bound <= 0.1 * (highest - lowest):
            return bound, "best lower bound"
    return lowest, "smallest one"


def _finish_abscissa(axis: Axes, abscissa: str, runs: Sequence[_Run]) -> None:
    units = {STEP: "1", FLOW_TIME: runs[0].time_units, WALL_TIME: "s"}[abscissa]
    left_out = abscissa == WALL_TIME and any(np.nansum(run.columns.get(COMPILATION, 0.0)) > 0.0 for run in runs)
    axis.set_xlabel(label(abscissa.replace("_", " ") + (" without compilation" if left_out else ""), units))
    if max(len(run.columns[STEP]) for run in runs) == 1:
        steps = np.unique([run.columns[STEP][0] for run in runs])
        axis.set(xticks=steps, xlim=(steps[0] - 1, steps[-1] + 1))
    elif abscissa == STEP:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if abscissa == WALL_TIME:
        times = np.concatenate([run.finite(WALL_TIME) for run in runs])
        times = times[times > 0]
        if len(times) and times.max() > 100 * times.min():
            axis.set_xscale("log")


def _show_rate(axis: Axes) -> None:
    """Draw exp(-r t) above the curve that falls so over the most decades, where one does over one decade or more."""
    fits = [_exponential(np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in axis.lines]
    best = max((fit for fit in fits if fit is not None), key=lambda fit: fit[1][0] - fit[1][-1], default=None)
    if best is None:
        return
    t, logarithm, rate = best
    axis.plot(t[[0, -1]], 4 * np.exp(logarithm[[0, -1]]), color="0.35", linestyle=":", linewidth=1.2)
    middle = (t[[0, -1]].mean(), 4 * np.exp(logarithm[[0, -1]].mean()))
    axis.annotate(f"exp(−{rate:.3g} t)", middle, (4, 3), textcoords="offset points", color="0.35", fontsize=8)


def _exponential(t: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Fit log y = b - r t over the middle of the fall by least squares; None unless it is straight.

    Returns t and the fitted log y there, and the rate r.
    """
    known = np.isfinite(t) & np.isfinite(y)
    t, y = t[known], y[known]
    if len(t) < 6 or y.max() < 100 * y.min():
        return None
    # the start is not asymptotic yet, the end bends where the reference is not the true optimum
    share = (np.log(y) - np.log(y.min())) / (np.log(y.max()) - np.log(y.min()))
    middle = (share > 0.3) & (share < 0.8)
    if middle.sum() < 4:
        return None
    t, logarithm = t[middle], np.log(y[middle])
    fit = np.polyfit(t, logarithm, 1)
    straight = np.abs(np.polyval(fit, t) - logarithm).max() < 0.05 * np.ptp(logarithm)
    if fit[0] >= 0 or np.ptp(logarithm) < np.log(10) or not straight:
        return None
    return t, np.polyval(fit, t), -float(fit[0])
