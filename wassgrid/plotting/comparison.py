"""The objective along the geodesic between two policies, and where in state space one of them loses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from wassgrid.plotting.fields import Frame, draw_curve, draw_map
from wassgrid.plotting.style import COLOURS, DIVERGING, canvas, label, plain, styled
from wassgrid.policy import ParticlePolicy

if TYPE_CHECKING:
    from wassgrid.compare import Comparison


@styled
def comparison(found: Comparison) -> Figure:
    """Draw J along the geodesic from one policy to another with its second derivative, and what one of them loses cell by cell.

    The second derivative has a local and a transport part. Below, for every pair of states: the loss (`Shortfall`), summed over
    the other states, and the gradient that is left, root mean square over them.
    """
    frame = _frame(found)
    planes: list[tuple[int, ...]] = [(0,)] if len(frame.axes) == 1 else list(frame.planes())
    figure, axes = canvas(1 + len(planes), 2, height=2.9)
    left, right = axes[0]
    along = found.along
    if along is None:
        left.text(0.5, 0.5, "the geodesic leads from one value of a list to another:\nthere is no J on the way", ha="center")
        for axis in (left, right):
            axis.set_axis_off()
    else:
        _draw_geodesic(left, right, found)
    shape, law = frame.law.shape, np.maximum(frame.law, 0.0)
    loss, squared = found.shortfall.loss.reshape(shape), found.shortfall.gradient.reshape(shape) ** 2
    for row, plane in zip(axes[1:], planes, strict=True):
        others = tuple(k for k in range(len(shape)) if k not in plane)
        lost, weight = loss.sum(axis=others), law.sum(axis=others)
        mean = np.divide((law * squared).sum(axis=others), weight, out=np.zeros_like(weight), where=weight > 0.0)
        _draw_field(figure, row[0], frame, lost, plane, label("loss per cell", found.cost_units))
        if np.isfinite(mean).all():
            _draw_field(figure, row[1], frame, np.sqrt(mean), plane, "gradient left, |grad_a Q|")
        else:
            row[1].set_axis_off()
    contours = f"; contours: 50, 90, 99 % of the time of {plain(found.judged)}" if len(frame.axes) > 1 else ""
    total = f"{found.shortfall.total:+.4g}".replace("-", "\N{MINUS SIGN}")
    title = f"{plain(found.judged)} beside {plain(found.beside)}: {total} in J, distance {found.distance:.6g}{contours}"
    figure.suptitle(title, fontsize=9)
    return figure


def _draw_geodesic(left: Axes, right: Axes, found: Comparison) -> None:
    along = found.along
    assert along is not None
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


def _frame(found: Comparison) -> Frame:
    """Return what maps need to know of the grid, with the law of the policy that is judged."""
    judged = found.shortfall.policy
    policy: ParticlePolicy = judged.policy
    grid = policy.grid
    names = tuple(label(name, unit) for name, unit in zip(grid.names, found.state_units, strict=True))
    law, value = judged.law.reshape(grid.shape), judged.value.reshape(grid.shape)
    return Frame(
        "", 0, tuple(grid.names), tuple(grid.axes), names, (), found.cost_units,
        policy.actions.reshape(*grid.shape, policy.particles, -1), policy.weights.reshape(*grid.shape, -1), law, value,
    )  # fmt: skip


def _draw_field(figure: Figure, axis: Axes, frame: Frame, field: np.ndarray, plane: tuple[int, ...], text: str) -> None:
    """Draw a field over one state or two, in two colours where it has both signs."""
    if len(plane) == 1:
        draw_curve(axis, frame, field, text)
        axis.axhline(0.0, color="0.6", linewidth=0.8)
        return
    look: dict[str, Any] = {}
    low, high = float(field.min()), float(field.max())
    if low < -0.01 * high:
        extent = max(-low, high)
        look = {"cmap": DIVERGING, "norm": TwoSlopeNorm(0.0, -extent, extent)}
    draw_map(figure, axis, frame, field, (plane[0], plane[1]), text, look)
