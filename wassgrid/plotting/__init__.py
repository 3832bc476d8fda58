"""Figures from result files alone; each function returns a `matplotlib.figure.Figure` and touches no global state."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from wassgrid.plotting.animation import animate, film_path
from wassgrid.plotting.closed_loop import closed_loop
from wassgrid.plotting.comparison import comparison
from wassgrid.plotting.convergence import convergence
from wassgrid.plotting.curvature import curvature
from wassgrid.plotting.fields import policy, stationary, value
from wassgrid.plotting.sweep import sweep
from wassgrid.plotting.trajectories import trajectories
from wassgrid.runs.schema import curvature as curvature_column
from wassgrid.storage import ResultFile, StorageError

__all__ = [
    "animate", "closed_loop", "comparison", "convergence", "curvature", "figure_path", "figures", "film_path", "policy", "save",
    "stationary", "sweep", "trajectories", "value",
]  # fmt: skip

DOTS_PER_INCH = 150


def figures(paths: Sequence[str | os.PathLike[str]], at: Mapping[str, float] | None = None) -> dict[str, Figure]:
    """Return every figure that the files have data for, by name; several files share one convergence figure.

    at: a state through which maps of problems of three and more states are slices (see `policy`).
    """
    made = {"convergence" if len(paths) > 1 else f"{Path(paths[0]).stem}_convergence": convergence(paths)}
    for path in paths:
        with ResultFile(path) as result:
            stored = result.records("trajectory") > 0 and "actions" in result.variables("trajectory")
            curved = bool(np.isfinite(result.convergence.get(curvature_column("min"), np.nan)).any())
        if curved:
            made[f"{Path(path).stem}_curvature"] = curvature(path)
        if stored:
            drawn = {"policy": policy(path, at=at), "stationary": stationary(path), "value": value(path, at=at)}
            drawn["trajectories"] = trajectories(path)
            made |= {f"{Path(path).stem}_{name}": figure for name, figure in drawn.items()}
    return made


def figure_path(path: Path) -> Path:
    """Return the path of a figure, PNG where it has no ending.  Raises StorageError for an ending that no format has."""
    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix and path.suffix[1:].lower() not in formats:
        raise StorageError(f"cannot write '{path}': no figure has that ending, take one of {', '.join(sorted(formats))}")
    return path if path.suffix else path.with_name(f"{path.name}.png")


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the path's ending; the folder is made where it is missing.

    Raises StorageError where the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DOTS_PER_INCH)
    except OSError as error:
        raise StorageError(f"cannot write '{path}': {error.strerror or error}") from error
