"""A function in which every mode of a chain shows, to start iterations from."""

from __future__ import annotations

import numpy as np

from wassgrid.chain.reductions import numbers


def probe_function(n: int) -> np.ndarray:
    """Return a fixed function (n,) without symmetry, smooth along the first axis, where slow modes are, and rough along all."""
    return probe_at(*numbers(n))


def probe_at(cells: np.ndarray, count: int) -> np.ndarray:
    """Return the same at some of so many cells, (K,)."""
    ramp = cells / count
    probe: np.ndarray = ramp + ramp**2 + np.cos(cells * 2.399963)
    return probe
