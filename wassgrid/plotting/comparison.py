"""The objective along the geodesic between two policies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from wassgrid.plotting.style import COLOURS, canvas, label, plain, styled

if TYPE_CHECKING:
    from wassgrid.compare import Comparison


@styled
def comparison(found: Comparison) -> Figure:
    """Draw J and its second derivative, with local and transport parts, along the geodesic from one policy to another."""
    along = found.along
    if along is None:
        figure, axes = canvas(1, 1, height=1.6)
        axes[0, 0].set_axis_off()
        text = "the geodesic leads from one value of a list to another:\nthere is no J on the way"
        axes[0, 0].text(0.5, 0.5, text, ha="center")
        figure.suptitle(f"distance {found.distance:.6g}", fontsize=10)
        return figure
    figure, axes = canvas(1, 2, height=2.9)
    left, right = axes[0]
    left.plot(along.times, along.objective, color=COLOURS[0])
    left.plot(along.times[[0, -1]], along.objective[[0, -1]], "o", color=COLOURS[0], markersize=4)
    left.plot(along.times[[0, -1]], along.objective[[0, -1]], ":", color="0.5", linewidth=1.0, label="straight line")
    left.set_ylabel(label("objective J", found.cost_units))
    right.plot(along.times, along.local, "--", color=COLOURS[1], label="local part")
    right.plot(along.times, along.transport, ":", color=COLOURS[2], label="transport part")
    right.plot(along.times, along.curvature, color=COLOURS[0], label="second derivative of J")
    right.axhline(0.0, color="0.6", linewidth=0.8)
    right.set_ylabel(label("second derivative of J", found.cost_units))
    for axis in (left, right):
        axis.set_xlabel(f"from {plain(found.names[0])} (0) to {plain(found.names[1])} (1)")
        axis.legend()
    figure.suptitle(f"distance {found.distance:.6g}", fontsize=10)
    return figure
