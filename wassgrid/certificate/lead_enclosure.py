"""Enclosures of E f(s') where actions move one axis only, the lead, from a table of E[f(s') | lead axis at a node].

Letters as in `axis_kernels` and `weight_bounds`.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from wassgrid.certificate.axis_bounds import axis_bounds
from wassgrid.certificate.weight_bounds import weight_bounds
from wassgrid.transition.axis_kernels import axis_weights
from wassgrid.transition.axis_kernels.facts import TAIL
from wassgrid.transition.compiled import CHUNKS, CLAMP, fold
from wassgrid.transition.lead import given_lead, open_cell
from wassgrid.transition.walk import new_walk


@njit(cache=True, parallel=True)
def lead_table(axes, width, mean, noise, coupling, f, low, high):
    """Tabulate E[f(s') | lead axis at a node], (cells, n_lead), for the nodes that means in [low, high] (cells,) may reach."""
    cells, d = mean.shape
    lead = axes.order[0]
    n, h, lower, boundary = axes.size[lead], axes.spacing[lead], axes.lower[lead], axes.boundary[lead]
    table = np.zeros((cells, n))
    for c in prange(CHUNKS):
        first_cell, last_cell = c * cells // CHUNKS, (c + 1) * cells // CHUNKS
        walk = new_walk(d, width)
        known = np.full(n, -1, np.int64)
        for k in range(first_cell, last_cell):
            bottom, top = low[k] - lower, high[k] - lower
            if boundary == CLAMP:
                bottom, top = min(max(bottom, 0.0), (n - 1) * h), min(max(top, 0.0), (n - 1) * h)
            reach = TAIL * noise[k, lead] + 3.0 * h
            first, last = int(np.floor((bottom - reach) / h)), int(np.ceil((top + reach) / h))
            if last - first > 4 * n:
                first, last = 0, n - 1
            open_cell(walk)
            for e in range(first, last + 1):
                node = fold(e, n, boundary)
                if known[node] != k:
                    known[node] = k
                    table[k, node] = given_lead(walk, axes, mean[k], noise[k], coupling[k], f, node)
    return table


@njit(cache=True, parallel=True)
def lead_expectations(axes, lead, width, cells, mean, noise, table, shared):
    """Return E f with its first and second derivative in the lead's mean, (3, K, N), for means (K, N) of cells (K,)."""
    rows, particles = mean.shape
    n, h, boundary = axes.size[lead], axes.spacing[lead], axes.boundary[lead]
    result = np.empty((3, rows, particles))
    for c in prange(CHUNKS):
        w = np.zeros((3, width))
        for r in range(c * rows // CHUNKS, (c + 1) * rows // CHUNKS):
            k = cells[r]
            row = 0 if shared else k
            for i in range(particles):
                first, count = axis_weights(
                    axes.kernel[lead], boundary, axes.lower[lead], h, n, mean[r, i], noise[k, lead], 2, w[0], w[1], w[2]
                )
                t0 = t1 = t2 = 0.0
                for q in range(count):
                    v = table[row, fold(first + q, n, boundary)]
                    t0 += w[0, q] * v
                    t1 += w[1, q] * v
                    t2 += w[2, q] * v
                result[0, r, i], result[1, r, i], result[2, r, i] = t0, t1, t2
    return result


@njit(cache=True, parallel=True)
def lead_enclosures(axes, lead, width, cells, mean, radius, noise, table, shared):
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
                    inner[q] = table[row, fold(first + q, n, boundary)]
                axis_bounds(inner, first * h - centre, h, count, u, polynomial, parts)
                floor[r], slope[r], third[r] = parts[0], parts[1], parts[3]
            else:
                floor[r] = -np.inf
    return floor, slope, third, smooth, bounded
