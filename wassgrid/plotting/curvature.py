"""Curvature of the objective along a run: extreme eigenvalues of its Hessian in the metric, and what they are made of."""

from __future__ import annotations

import os

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wassgrid.plotting.style import COLOURS, canvas, plain, styled
from wassgrid.runs import schema
from wassgrid.storage import ResultFile, StorageError

_PARTS = (
    ("", "eigenvalue", COLOURS[0], "-"),
    ("_local", "local part", COLOURS[1], "--"),
    ("_transport", "transport part", COLOURS[2], ":"),
)


@styled
def curvature(path: str | os.PathLike[str]) -> Figure:
    """Draw smallest and largest eigenvalue of the Hessian of J against the step, with their local and transport parts.

    Where the smallest one is nowhere negative beyond its error, J is geodesically convex along the run; steps at which
    it is not are marked. Raises StorageError for a file without curvature (see `output.curvature_every`).
    """
    with ResultFile(path) as result:
        columns, name = result.convergence, plain(result.path.stem)
    measured = np.isfinite(columns.get(schema.curvature("min"), np.full(len(columns[schema.STEP]), np.nan)))
    needed = [schema.curvature(end, part) for end in schema.CURVATURE_ENDS for part in ("", "_local", "_transport", "_residual")]
    if not measured.any() or not columns.keys() >= set(needed):
        raise StorageError(f"'{path}' holds no curvature: run the case with --set output.curvature_every=1")
    steps = columns[schema.STEP][measured]
    figure, axes = canvas(1, 2, width=4.2, height=3.0)
    for axis, end, text in zip(axes[0], schema.CURVATURE_ENDS, ("smallest", "largest"), strict=True):
        for suffix, part, colour, line in _PARTS:
            values = columns[schema.curvature(end, suffix)][measured]
            marker = "o" if len(steps) <= 30 else None
            axis.plot(steps, values, line, color=colour, marker=marker, markersize=3, label=part)
        axis.axhline(0.0, color="0.6", linewidth=0.8)
        axis.set_xlabel("step")
        axis.set_ylabel(f"{text} eigenvalue of the Hessian")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        if len(steps) == 1:
            axis.set(xticks=steps, xlim=(steps[0] - 1, steps[0] + 1))
    # beyond its residual, which bounds the error, and the rounding of the largest one
    error = np.fmax(columns[schema.curvature("min", "_residual")], 1e-10 * np.abs(columns[schema.curvature("max")]))
    negative = (columns[schema.curvature("min")] < -error)[measured]
    bent = steps[negative]
    if len(bent):
        axes[0, 0].plot(
            bent, columns[schema.curvature("min")][measured][negative], "v", color=COLOURS[3], markersize=6, label="not convex"
        )
    axes[0, 0].legend()
    verdict = "geodesically convex" if len(bent) == 0 else f"not geodesically convex at {len(bent)} of {len(steps)} steps"
    figure.suptitle(f"{name}: {verdict}", fontsize=10)
    return figure
