"""The expectation of gallery/mountain_car.toml by a method that wassgrid does not use: J of the problem with continuous states.

Modified policy iteration with V as a cubic spline (SciPy) through the nodes of a grid that is not the case's, the noise by Gauss
and Hermite, and the goal taken at its word wherever a state lands; actions from a scan of 41 that then zooms in.

    python benchmarks/mountain_car.py [points of x] [points of v]
"""

from __future__ import annotations

import sys

import numpy as np
from scipy.ndimage import map_coordinates, spline_filter

POWER, SLOPE, NOISE, TIME = 0.0015, 0.0025, 0.001, 0.002
LOW, HIGH = np.array([-1.2, -0.07]), np.array([0.6, 0.07])
PRIZE, EVALUATIONS = 100.0, 40


class Car:
    """V on a grid, and the Bellman operator."""

    def __init__(self, nx: int, nv: int, rule: int = 5) -> None:
        self.shape = (nx, nv)
        x, v = np.meshgrid(np.linspace(LOW[0], HIGH[0], nx), np.linspace(LOW[1], HIGH[1], nv), indexing="ij")
        self.x, self.v = x.ravel(), v.ravel()
        points, weights = np.polynomial.hermite_e.hermegauss(rule)
        self.points, self.weights = NOISE * points, weights / weights.sum()
        self.goal = (self.x >= 0.45) & (self.v >= 0.0)
        held = np.where(self.x <= LOW[0], np.maximum(self.v, 0.0), self.v)
        self.drift = held - SLOPE * np.cos(3.0 * self.x)

    def spline(self, value: np.ndarray) -> np.ndarray:
        return spline_filter(value.reshape(self.shape), order=3, mode="nearest")

    def ahead(self, spline: np.ndarray, actions: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return c + E V(s') at actions of chosen rows."""
        total = TIME + 0.1 * actions**2
        mean = np.clip(self.drift[rows] + POWER * actions, LOW[1], HIGH[1])
        for point, weight in zip(self.points, self.weights, strict=True):
            v = np.clip(mean + point, LOW[1], HIGH[1])
            x = np.clip(self.x[rows] + v, LOW[0], HIGH[0])
            place = [(y - LOW[k]) / (HIGH[k] - LOW[k]) * (self.shape[k] - 1) for k, y in enumerate((x, v))]
            found = map_coordinates(spline, place, order=3, mode="nearest", prefilter=False)
            total = total + weight * np.where((x >= 0.45) & (v >= 0.0), -PRIZE, found)
        return total

    def solve(self, tolerance: float = 1e-7) -> float:
        """Return J from x uniform in [-0.6, -0.4] at rest, after printing how it comes about."""
        rows = np.flatnonzero(~self.goal)
        value, actions = np.where(self.goal, -PRIZE, 0.0), np.zeros(rows.size)
        before = np.inf
        for sweep in range(400):
            spline, best = self.spline(value), np.full(rows.size, np.inf)
            for centre, width in ((0.0, 1.0), (None, 0.05)):
                middle = np.zeros(rows.size) if centre is not None else actions.copy()
                for step in np.linspace(-1.0, 1.0, 41 if centre is not None else 9):
                    tried = np.clip(middle + width * step, -1.0, 1.0)
                    found = self.ahead(spline, tried, rows)
                    better = found < best
                    actions[better], best[better] = tried[better], found[better]
            value[rows] = best
            for _ in range(EVALUATIONS):
                value[rows] = self.ahead(self.spline(value), actions, rows)
            place = np.linspace(-0.6, -0.4, 201)
            at = [(place - LOW[0]) / 1.8 * (self.shape[0] - 1), np.full(201, 0.5 * (self.shape[1] - 1))]
            found = map_coordinates(self.spline(value), at, order=3, mode="nearest", prefilter=False)
            cost = float((found[:-1] + found[1:]).mean() / 2)
            if sweep % 5 == 0 or abs(cost - before) < tolerance:
                print(f"{sweep:4d}  J = {cost:.8f}", flush=True)
            if abs(cost - before) < tolerance:
                return cost
            before = cost
        return before


if __name__ == "__main__":
    nx, nv = (int(text) for text in sys.argv[1:3]) if len(sys.argv) > 2 else (181, 141)
    print(f"{nx} x {nv}: J = {Car(nx, nv).solve():.6f}")
