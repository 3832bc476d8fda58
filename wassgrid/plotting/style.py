"""One look for all figures: colours that the colour-blind can tell apart, axes labelled with names and units."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wassgrid.text import visible

P = ParamSpec("P")
R = TypeVar("R")

# Okabe and Ito, "Color universal design" (2008), darkest first; yellow is left out on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINES = ("-", "--", "-.", ":")  # by which curves are told apart on paper without colours
SEQUENTIAL = "viridis"
DIVERGING = "cividis"  # about a middle that is grey: as red and blue are, but its ends differ on paper without colours too
_POWER = re.compile(r"(?:\^|\*\*)(-?[0-9]+)(?![0-9.])")
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

_SETTINGS: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.grid": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.use_mathtext": True,
    "axes.formatter.limits": (-3, 4),
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "figure.facecolor": "white",
    "image.cmap": SEQUENTIAL,
}


def styled(make: Callable[P, R]) -> Callable[P, R]:
    """Run a figure function under the common settings; those of the caller are left alone."""

    @functools.wraps(make)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(_SETTINGS):
            return make(*args, **kwargs)

    return wrapped


def canvas(rows: int, columns: int, width: float = 3.4, height: float = 2.7, **sharing: Any) -> tuple[Figure, Any]:
    """Return a figure and its (rows, columns) axes, without pyplot's global state."""
    figure = Figure(figsize=(max(width * columns, 4.6), height * rows + 0.4), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **sharing)


def plain(text: str) -> str:
    """Return a text for a figure in which nothing is a command, to the setter of formulas either; line ends stay."""
    return "\n".join(visible(line) for line in text.split("\n")).replace("$", r"\$")


def label(name: str, units: str) -> str:
    """Return `name (units)`, the name alone for a pure number; powers of units are raised, a dollar sign stays one.

    >>> label("force", "m/s^2"), label("rate", "s^-1"), label("price", "1")
    ('force (m/s²)', 'rate (s⁻¹)', 'price')
    """
    return plain(name if units in ("", "1") else f"{name} ({_POWER.sub(_raised, units)})")


def _raised(power: re.Match[str]) -> str:
    return power[1].translate(_RAISED)


def colourbar(
    figure: Figure, mappable: Any, axes: Axes, text: str, values: Any = None, names: Mapping[float, str] | None = None
) -> None:
    """Draw the scale of colours, with ticks at `values`, by their names, where these are all that there are."""
    bar = figure.colorbar(mappable, ax=axes, pad=0.02, ticks=values, spacing="uniform")
    bar.set_label(text)
    if values is not None and names:
        bar.set_ticklabels([plain(names.get(float(value), f"{value:g}")) for value in values])
    bar.outline.set_visible(False)
