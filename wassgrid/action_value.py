"""Q(s, .) of every cell as a function of the action, with V frozen: values, derivatives, and enclosures over boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit, prange

from wassgrid import kernels
from wassgrid.enclosure import REACH, axis_bounds, derivative_combinations, enclose, weight_bounds
from wassgrid.evaluation import Evaluation
from wassgrid.kernels import CHUNKS

_TABLE_ENTRIES = 1 << 26  # of E[V | lead axis] kept at most, else it is computed again at every action


class Enclosure(NamedTuple):
    """Hold E V(s') around centre means of K boxes of means, and bounds over the boxes (see `enclosure.enclose`)."""

    value: np.ndarray  # (K,)
    gradient: np.ndarray  # (K, d)
    hessian: np.ndarray  # (K, d, d)
    floor: np.ndarray  # (K,)
    slope: np.ndarray  # (K, d)
    bend: np.ndarray  # (K, d, d)
    smooth: np.ndarray  # (K,)
    bounded: np.ndarray  # (K,)


@njit(cache=True, parallel=True)
def _lead_table(axes, width, mean, noise, coupling, f, low, high):
    """Tabulate E[f(s') | lead axis at a node], (cells, n_lead), for the nodes that means in [low, high] (cells,) may reach."""
    cells, d = mean.shape
    lead = axes.order[0]
    n, h, lower, boundary = axes.size[lead], axes.spacing[lead], axes.lower[lead], axes.boundary[lead]
    table = np.zeros((cells, n))
    for c in prange(CHUNKS):
        first_cell, last_cell = c * cells // CHUNKS, (c + 1) * cells // CHUNKS
        walk = kernels.new_walk(d, width)
        known = np.full(n, -1, np.int64)
        for k in range(first_cell, last_cell):
            bottom, top = low[k] - lower, high[k] - lower
            if boundary == kernels.CLAMP:
                bottom, top = min(max(bottom, 0.0), (n - 1) * h), min(max(top, 0.0), (n - 1) * h)
            reach = kernels.TAIL * noise[k, lead] + 3.0 * h
            first, last = int(np.floor((bottom - reach) / h)), int(np.ceil((top + reach) / h))
            if last - first > 4 * n:
                first, last = 0, n - 1
            kernels._open_cell(walk)
            for e in range(first, last + 1):
                node = kernels.fold(e, n, boundary)
                if known[node] != k:
                    known[node] = k
                    table[k, node] = kernels._given_lead(walk, axes, mean[k], noise[k], coupling[k], f, node)
    return table


@njit(cache=True, parallel=True)
def _lead_expectations(axes, lead, width, cells, mean, noise, table, shared):
    """Return E f with its first and second derivative in the lead's mean, (3, K, N), for means (K, N) of cells (K,)."""
    rows, particles = mean.shape
    n, boundary = axes.size[lead], axes.boundary[lead]
    result = np.empty((3, rows, particles))
    for c in prange(CHUNKS):
        w = np.zeros((3, width))
        for r in range(c * rows // CHUNKS, (c + 1) * rows // CHUNKS):
            k = cells[r]
            row = 0 if shared else k
            for i in range(particles):
                first, count = kernels.axis_weights(
                    axes.kernel[lead], boundary, axes.lower[lead], axes.spacing[lead], n, mean[r, i], noise[k, lead], w[0], w[1], w[2]
                )
                t0 = t1 = t2 = 0.0
                for q in range(count):
                    v = table[row, kernels.fold(first + q, n, boundary)]
                    t0 += w[0, q] * v
                    t1 += w[1, q] * v
                    t2 += w[2, q] * v
                result[0, r, i], result[1, r, i], result[2, r, i] = t0, t1, t2
    return result


@njit(cache=True, parallel=True)
def _lead_enclosures(axes, lead, width, cells, mean, radius, noise, table, shared):
    """Bound E f over boxes of the lead's mean: from below, its slope, third derivative, smooth, bounded, each (K,)."""
    rows = mean.shape[0]
    n, h, boundary = axes.size[lead], axes.spacing[lead], axes.boundary[lead]
    floor, slope, third = np.full(rows, np.inf), np.zeros(rows), np.zeros(rows)
    smooth, bounded = np.ones(rows, np.bool_), np.ones(rows, np.bool_)
    for c in prange(CHUNKS):
        u, inner = np.zeros((4, width)), np.zeros(width)
        polynomial, parts, work = np.zeros(3), np.zeros(4), np.zeros(12)
        for r in range(c * rows // CHUNKS, (c + 1) * rows // CHUNKS):
            if radius[r] == 0.0:
                continue
            k = cells[r]
            row = 0 if shared else k
            first, centre, count, smooth[r], bounded[r] = weight_bounds(
                axes.kernel[lead], boundary, axes.lower[lead], h, n, mean[r], radius[r], noise[k, lead], u, polynomial, work
            )
            if bounded[r]:
                for q in range(count):
                    inner[q] = table[row, kernels.fold(first + q, n, boundary)]
                axis_bounds(inner, first * h - centre, h, count, u, polynomial, parts)
                floor[r], slope[r], third[r] = parts[0], parts[1], parts[3]
            else:
                floor[r] = -np.inf
    return floor, slope, third, smooth, bounded


@dataclass(frozen=True)
class ActionValue:
    """Evaluate Q(s, .) at many actions of every cell, in boxes low, high (cells, m) that hold them all.

    Where actions move one axis only, E V(s') = sum_l omega_l(mean) E[V | lead axis at node l], and the conditional expectations,
    which no action changes, are tabulated once: an evaluation then costs the nodes of one axis.
    """

    evaluation: Evaluation
    table: np.ndarray | None  # (cells, n_lead), (1, n_lead) in one dimension; None: the general kernels
    lead: int

    @classmethod
    def build(cls, evaluation: Evaluation, low: np.ndarray, high: np.ndarray) -> ActionValue:
        """Tabulate what the actions in the boxes need."""
        model = evaluation.model
        if model.grid.dimension == 1:
            return cls(evaluation, evaluation.value[None, :], 0)
        axes = model.axes
        lead = int(axes.order[0])
        if not axes.led or model.grid.size * int(axes.size[lead]) > _TABLE_ENTRIES:
            return cls(evaluation, None, lead)
        ranges = model.problem.action_ranges(model.grid.states, low, high, 0).mean[0]
        others = np.arange(model.grid.dimension) != lead
        if np.any(ranges[0][:, others] != ranges[1][:, others]):
            return cls(evaluation, None, lead)
        with kernels.threads_for(model.grid.size * model.reach):
            table = _lead_table(
                axes, model.width, ranges[0], model.noise, model.coupling, evaluation.value,
                np.ascontiguousarray(ranges[0][:, lead]), np.ascontiguousarray(ranges[1][:, lead]),
            )  # fmt: skip
        return cls(evaluation, table, lead)

    @property
    def offset(self) -> float:
        """J for the average cost, 0 for the discounted one: Q = c - offset + g E V."""
        return self.evaluation.objective if self.evaluation.discount == 1.0 else 0.0

    def _lead_expectations(self, cells: np.ndarray, mean: np.ndarray) -> np.ndarray:
        model, table = self.evaluation.model, self.table
        assert table is not None
        with kernels.threads_for(mean.size * 16):
            result: np.ndarray = _lead_expectations(
                model.axes, self.lead, model.width, cells, np.ascontiguousarray(mean), model.noise, table, len(table) == 1
            )
        return result

    def values(self, cells: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Return Q (K, N) at actions (K, N, m) of chosen cells (K,)."""
        if self.table is None:
            return self.evaluation.q_values(cells, actions)
        model, g = self.evaluation.model, self.evaluation.discount
        result = np.empty(actions.shape[:2])
        for rows in model.blocks(*actions.shape[:2]):
            tables = model.tables(cells[rows], actions[rows], 0)
            expected = self._lead_expectations(cells[rows], tables.mean[:, :, self.lead])[0]
            result[rows] = tables.cost - self.offset + g * expected
        return result

    def derivatives(self, cells: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return Q (K,), its gradient (K, m) and Hessian (K, m, m) at one action (K, m) of each chosen cell (K,)."""
        if self.table is None:
            q, gradient, hessian = self.evaluation.action_values(cells, actions[:, None, :])
            return q[:, 0], gradient[:, 0], hessian[:, 0]
        g = self.evaluation.discount
        tables = self.evaluation.model.tables(cells, actions[:, None, :], 2)
        assert tables.mean_gradient is not None and tables.mean_hessian is not None
        assert tables.cost_gradient is not None and tables.cost_hessian is not None
        expected = self._lead_expectations(cells, tables.mean[:, :, self.lead])[:, :, 0]
        slope, bend = tables.mean_gradient[:, 0, self.lead], tables.mean_hessian[:, 0, self.lead]
        # d2/dadb E V = E'' dm/da dm/db + E' d2m/dadb
        curvature = expected[2][:, None, None] * slope[:, :, None] * slope[:, None, :] + expected[1][:, None, None] * bend
        return (
            tables.cost[:, 0] - self.offset + g * expected[0],
            tables.cost_gradient[:, 0] + g * expected[1][:, None] * slope,
            tables.cost_hessian[:, 0] + g * curvature,
        )

    def enclose(self, cells: np.ndarray, mean: np.ndarray, radius: np.ndarray) -> Enclosure:
        """Enclose E V(s') over boxes of means: centres and radii (K, d) of chosen cells (K,)."""
        model = self.evaluation.model
        spacing = model.grid.spacing
        # boxes wider than this are not bounded by the kernels
        reach = np.minimum(radius, REACH * np.maximum(model.noise.max(axis=0), spacing) + spacing)
        width = model.width + int(np.ceil((2 * reach / spacing).max())) + 4
        if self.table is None:
            combinations, first, third = derivative_combinations(model.axes.order, (radius > 0).any(axis=0))
            with kernels.threads_for(len(cells) * model.reach):
                return Enclosure(
                    *enclose(
                        model.axes, width, cells, mean, radius, model.noise, model.coupling, self.evaluation.value,
                        combinations, first, third,
                    )
                )  # fmt: skip
        j, (count, d) = self.lead, mean.shape
        expected = self._lead_expectations(cells, mean[:, j : j + 1])[:, :, 0]
        gradient, hessian = np.zeros((count, d)), np.zeros((count, d, d))
        slope, bend = np.zeros((count, d)), np.zeros((count, d, d))
        gradient[:, j], hessian[:, j, j] = expected[1], expected[2]
        with kernels.threads_for(count * 32):
            floor, slope[:, j], third, smooth, bounded = _lead_enclosures(
                model.axes, j, width, cells, np.ascontiguousarray(mean[:, j]), np.ascontiguousarray(radius[:, j]),
                model.noise, self.table, len(self.table) == 1,
            )  # fmt: skip
        bend[:, j, j] = third * radius[:, j]
        floor = np.where(radius[:, j] > 0.0, floor, expected[0])
        return Enclosure(expected[0], gradient, hessian, floor, slope, bend, smooth, bounded)
