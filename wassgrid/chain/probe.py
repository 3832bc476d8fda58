"""A function in which every mode of a chain shows, to start iterations from."""

from __future__ import annotations

import numpy as np


def probe_function(n: int) -> np.ndarray:
    """Return a fixed function without symmetry, smooth along the first axis, where slow modes are, and rough along all."""
    cells = np.arange(n)
    ramp = cells / n
    probe: np.ndarray = ramp + ramp**2 + np.cos(cells * 2.399963)
    return probe
