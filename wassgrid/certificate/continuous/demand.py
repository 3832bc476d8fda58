"""The memory of one attempt of a proof, before it is spent: counted from its axes, with what was measured per entry and cell."""

from __future__ import annotations

import math

from wassgrid.certificate.continuous.enclosure import BENDS_AT_ONCE
from wassgrid.certificate.continuous.laws import ENTRIES, Axis, AxisLaw
from wassgrid.transition.threads import TEAM

_LARGEST = 3.0e7  # cells of the lattice
_WIDEST = 1e5  # cells per standard deviation
_ENTRY = 12  # bytes of an entry of a sparse matrix
_MADE = 212  # bytes of an entry of the moments while it is made
_WINDOW = 300  # bytes of a cell of a window while its moments are integrated
_NODE = 400  # bytes of a node of the states with which u is computed
_CELL, _ACTION = 900, 110  # bytes of a cell with its bounds, and of each of its actions
_BEND = 105  # bytes of a second derivative over a cell, with what it is made of


def demand(lattice: tuple[Axis, Axis], quadrature: tuple[Axis, Axis], variables: int, actions: int) -> float:
    """Estimate the bytes of an attempt: `lattice` of the bounds of q, `quadrature` with which u is computed.

    variables: states and actions. Infinite where there are more cells than can be counted on. Cells that are cut are taken to be
    no more than all were before.
    """
    laws = [axis for axis in (*lattice, *quadrature) if isinstance(axis, AxisLaw)]
    if any(law.sigma / law.spacing > _WIDEST for law in laws):  # a product overflows where the domain is huge
        return math.inf
    cells, nodes = (float(axes[0].cells) * axes[1].cells for axes in (lattice, quadrature))
    if max(cells, nodes / 16.0) > _LARGEST:
        return math.inf
    noisy = [axis for axis in quadrature if isinstance(axis, AxisLaw)]
    made = [float(law.point_count) * (2 * law.reach + 1) for law in noisy]
    kept = sum(float(law.point_count) * min(2 * law.reach + 1, law.cells + 1) for law in noisy)
    windows = max(float(law.phases) * (2 * law.reach + 1) for law in laws)
    value = _ENTRY * kept + _MADE * min(max(made), ENTRIES) + _NODE * nodes
    bends = min(0.5 * variables * (variables + 1) * cells, BENDS_AT_ONCE * TEAM.size)
    bounds = (_CELL + _ACTION * actions) * cells + _BEND * bends
    return _WINDOW * windows + max(value, bounds)
