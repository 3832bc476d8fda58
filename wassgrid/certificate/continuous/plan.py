"""How fine an attempt of a proof is, and how long it is expected to take, from what the attempt before it took.

An attempt that ends just short of the width that is wanted, or is begun for one after it, is lost; so the next is as fine as is
wanted, or as fits in the time, and its time is counted: nodes, cells and points, at what each took.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wassgrid.certificate.continuous.laws import Axis, AxisLaw

Array = np.ndarray
# rows, cells and points per standard deviation, and the gap on a cell, relative to the cost, at first; by dimension
_FIRST = {1: (8.0, 16.0, 48.0, 1e-4), 2: (2.0, 3.0, 6.0, 2e-2)}
_MOST = {"rows": 2.0, "gap": 32.0, "points": 4.0}  # times finer at the next attempt
_ORDERS = {"rows": 3.0, "gap": 1.0, "points": 3.0}  # of points: what bounds of q cost falls too
_PART = 0.25  # of the width that is wanted: what each of three parts may be
_QUADRATURE = {1: 8.0, 2: 4.0}  # cells per row along a noisy axis with which u is computed
_KINKS = 0.3  # cells per standard deviation, times the root of a gap: what kinks of q cost in the
# quadrature of u is a part of it; twice as many where noise smooths along one axis alone
_CAUTION = 1.1  # times what is counted
SHARES = tuple(np.linspace(1.0, 0.2, 17))  # of the refinement that is wanted, in logarithms: the first that fits in the time


@dataclass(frozen=True)
class Plan:
    """Rows, cells and points per unit of every axis, see `Claim.axes`; gap: of bounds of q on a cell, relative to the cost."""

    rows: Array
    cells: Array
    points: Array
    gap: float

    @classmethod
    def first(cls, d: int) -> Plan:
        rows, cells, points, gap = _FIRST[d]
        return cls(np.full(d, rows), np.full(d, cells), np.full(d, points), gap)

    def quadrature(self, noise: Array) -> Array:
        """Cells with which u is computed: more where noise smooths along one axis alone, one per row along one without."""
        noisy = noise > 0.0
        share = _QUADRATURE[len(noisy)] * self.rows
        if len(noisy) == 2:
            share = np.maximum(share, _KINKS * (1.0 if np.all(noisy) else 2.0) / np.sqrt(self.gap))
        return np.where(noisy, np.maximum(self.cells, share), 2.0 * self.rows)

    def coarser(self, times: float) -> Plan:
        return Plan(self.rows / times, self.cells / times, self.points / times, self.gap * times * times)

    def refined(self, parts: Mapping[str, float], rough: tuple[float, float], wanted: float, share: float) -> Plan:
        """Refine what dominates the width, and what comes near it, by the power `share` of what that asks for.

        parts: what rows, gap and points cost of the width, of which `wanted` is wanted; rough: see `Value`; rows of the axis
        along which u is smoother need not come as near each other.
        """
        # what is left of the largest part after as much refinement as one attempt takes: below it nothing is gained
        left = max(_PART * wanted, *(parts[name] / _MOST[name] ** order for name, order in _ORDERS.items()))
        factors = {}
        for name, order in _ORDERS.items():
            part = parts[name] / (_PART * wanted)
            factors[name] = min(_MOST[name], max(1.3, part ** (1.0 / order))) ** share if parts[name] > left else 1.0
        uneven = np.array(rough[: len(self.rows)]) / max(*rough, 1e-300)
        rows = self.rows * np.maximum(factors["rows"] * np.minimum(uneven, 1.0) ** 0.25, 1.0)
        points = np.maximum(self.points * factors["points"], rows)
        return Plan(rows, np.maximum(self.cells, rows), points, self.gap / factors["gap"])


@dataclass(frozen=True)
class Spent:
    """What an attempt took: seconds for u, bounds of q, bounds of g, and evening them out, and what these grow with.

    excess (cells): how far bounds of q on the cells are apart, over what their size allows; axes: of the bounds and of u.
    """

    value: float
    enclosure: float
    bounds: float
    evening: float
    excess: Array
    axes: tuple[Axis, Axis]
    quadrature: tuple[Axis, Axis]

    def predicted(self, axes: tuple[Axis, Axis], quadrature: tuple[Axis, Axis], finer: float) -> float:
        """Return the seconds that an attempt takes with other axes, and gaps finer by a factor."""
        d = sum(axis.cells > 1 for axis in axes)
        lattice = _product(axes) / _product(self.axes)
        # bounds on a cell come near each other as its cube, and may be farther apart by its inverse: a gap falls by 16 when it is
        # cut in two along every axis
        cut = float(np.sum(np.maximum((self.excess * finer) ** (0.25 * d), 1.0))) / self.excess.size
        cells = max(cut, lattice)
        points = _points(axes) / _points(self.axes)
        seconds = self.value * _product(quadrature) / _product(self.quadrature) + self.enclosure * cells
        return _CAUTION * (seconds + self.bounds * max(cells, lattice) * points + self.evening * lattice)


def _product(axes: tuple[Axis, Axis]) -> float:
    return float(axes[0].cells) * axes[1].cells


def _points(axes: tuple[Axis, Axis]) -> float:
    return float(np.prod([axis.point_count for axis in axes if isinstance(axis, AxisLaw)]))
