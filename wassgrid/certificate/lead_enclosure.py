"""Enclosures of E f(s') where actions move one axis only, the lead, from a table of E[f(s') | lead axis at a node].

Letters as in `axis_kernels` and `weight_bounds`.
"""

from __future__ import annotations

import numpy as np

from wassgrid.certificate.axis_bounds import axis_bounds
from wassgrid.certificate.weight_bounds import weight_bounds
from wassgrid.transition.axis_kernels import axis_weights
from wassgrid.transition.axis_kernels.facts import TAIL
from wassgrid.transition.compiled import driver, fold, slack
from wassgrid.transition.lead import given_lead, open_cell
from wassgrid.transition.walk import new_walk


@driver
def lead_table(first_cell, last_cell, axes, width, mean, noise, coupling, f, low, high, table):
    """Write E[f(s') | lead axis at a node], table (cells, n_lead), for the nodes that means in [low, high] (cells,) may reach."""
    d = mean.shape[1]
    lead = axes.order[0]
    n, h, lower, boundary = axes.size[lead], axes.spacing[lead], axes.lower[lead], axes.boundary[lead]
    walk = new_walk(d, width)
    known = np.full(n, -1, np.int64)
    for k in range(first_cell, last_cell):
        bottom, top = low[k] - lower, high[k] - lower
        if slack(noise[k, lead], h, boundary) >= 0.0:
            bottom, top = min(max(bottom, 0.0), (n - 1) * h), min(max(top, 0.0), (n - 1) * h)
        reach = TAIL * noise[k, lead] + 3.0 * h
        bottom, top = (bottom - reach) / h, (top + reach) / h
        # an end at infinity, or beyond all integers, reaches every node
        first, last = 0, n - 1
        if top - bottom < 4 * n and abs(bottom) < 1e15:
            first, last = int(np.floor(bottom)), int(np.ceil(top))
        open_cell(walk)
        for e in range(first, last + 1):
            node = fold(e, n, boundary)
            if known[node] != k:
                known[node] = k
                table[k, node] = given_lead(walk, axes, mean[k], noise[k], coupling[k], f, node)


@driver
def lead_expectations(low, high, axes, lead, width, cells, mean, noise, table, shared, result):
    """Write E f with its first and second derivative in the lead's mean, result (3, K, N), for means (K, N) of cells (K,)."""
    n, h, boundary = axes.size[lead], axes.spacing[lead], axes.boundary[lead]
    w = np.zeros((3, width))
    for r in range(low, high):
        k = cells[r]
        row = 0 if shared else k
        for i in range(mean.shape[1]):
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


@driver
def lead_enclosures(
    low, high, axes, profiles, lead, width, cells, mean, radius, noise, table, shared, floor, slope, second, third, smooth,
    bounded,
):  # fmt: skip
    """Bound E f over boxes of the lead's mean: from below, its first, second, third derivative, smooth, bounded, each (K,).

    What the arrays hold for rows without a radius stays.
    """
    n, h, boundary = axes.size[lead], axes.spacing[lead], axes.boundary[lead]
    u, inner = np.zeros((4, width)), np.zeros(width)
    polynomial, parts, work = np.zeros(3), np.zeros(4), np.zeros(12)
    for r in range(low, high):
        if radius[r] == 0.0:
            continue
        k = cells[r]
        row = 0 if shared else k
        first, centre, count, smooth[r], bounded[r] = weight_bounds(
            axes.kernel[lead], boundary, axes.lower[lead], h, n, mean[r], radius[r], noise[k, lead], profiles, lead, u,
            polynomial, work,
        )  # fmt: skip
        if bounded[r]:
            for q in range(count):
                inner[q] = table[row, fold(first + q, n, boundary)]
            axis_bounds(inner, first * h - centre, h, count, u, polynomial, parts)
            floor[r], slope[r], second[r], third[r] = parts[0], parts[1], parts[2], parts[3]
        else:
            floor[r] = -np.inf
