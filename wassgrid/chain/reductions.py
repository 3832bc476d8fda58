"""Sums and extremes over all cells: the only way in which the solvers bring cells together."""

from __future__ import annotations

import numpy as np


def dot(x: np.ndarray, y: np.ndarray) -> float:
    """Return sum_k x_k y_k."""
    return float(x @ y)


def total(x: np.ndarray) -> float:
    return float(x.sum())


def total_variation(x: np.ndarray) -> float:
    """Return sum_k |x_k|."""
    return float(np.abs(x).sum())


def largest(x: np.ndarray) -> float:
    """Return max_k |x_k|."""
    return max(float(x.max()), -float(x.min()))


def ends(x: np.ndarray) -> tuple[float, float]:
    """Return the least and the largest of x."""
    return float(x.min()), float(x.max())
