"""The objective over the values of a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from wassgrid.plotting.style import COLOURS, LINES, canvas, label, plain, styled

if TYPE_CHECKING:
    from wassgrid.sweep import Sweep

_WIDE = 30.0  # ratio of the largest value to the least from which the axis is logarithmic
_LISTED = 14  # lines that a legend names


@styled
def sweep(found: Sweep) -> Figure:
    """Draw J over the key with most values, a line for every combination of the others; hollow: a run that is not complete.

    Values that are no numbers stand side by side, in the order in which they were given.
    """
    choices = {key: list(dict.fromkeys(row.values[key] for row in found.rows)) for key in found.keys}
    numeric = {key: _numbers(texts) for key, texts in choices.items()}
    # numbers before words, then the key with most values
    across = max(found.keys, key=lambda key: (numeric[key] is not None, len(choices[key])))
    others = [key for key in found.keys if key != across]
    places = numeric[across]
    at = dict(zip(choices[across], range(len(choices[across])) if places is None else places, strict=True))
    figure, axes = canvas(1, 1, width=5.2, height=3.2)
    axis = axes[0, 0]
    groups = list(dict.fromkeys(tuple(row.values[key] for key in others) for row in found.rows))
    for number, group in enumerate(groups):
        rows = [row for row in found.rows if tuple(row.values[key] for key in others) == group and np.isfinite(row.objective)]
        rows.sort(key=lambda row: at[row.values[across]])
        x, y = [at[row.values[across]] for row in rows], [row.objective for row in rows]
        colour, line = COLOURS[number % len(COLOURS)], LINES[number % len(LINES)]
        words = ", ".join(f"{_short(key)} = {value}" for key, value in zip(others, group, strict=True))
        axis.plot(x, y, line, color=colour, label=plain(words) if words and number < _LISTED else None)
        for full in (True, False):
            some = [k for k, row in enumerate(rows) if row.complete == full]
            face = colour if full else "white"
            axis.plot([x[k] for k in some], [y[k] for k in some], "o", color=colour, markerfacecolor=face, markersize=4)
    axis.set_xlabel(plain(across))
    axis.set_ylabel(label("objective J", found.cost_unit))
    if places is None:
        axis.set_xticks(range(len(choices[across])), [plain(text) for text in choices[across]])
    elif min(places) > 0 and max(places) > _WIDE * min(places):
        axis.set_xscale("log")
    axis.grid(True, color="0.9", linewidth=0.6)
    if others:
        axis.legend(fontsize=7)
    figure.suptitle(plain(f"{found.name}: {len(found.rows)} runs"), fontsize=10)
    return figure


def _short(key: str) -> str:
    return key.rpartition(".")[2]


def _numbers(texts: list[str]) -> list[float] | None:
    """Return texts as numbers, None where one is no finite number."""
    try:
        found = [float(text) for text in texts]
    except ValueError:
        return None
    return found if np.isfinite(found).all() else None
