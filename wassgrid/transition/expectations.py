"""Expectations E f(s') with action derivatives, the derivative of a law along moves, and the moments of the grid's law.

Letters: k cell, i particle, j and l state axes, a and b action components, m mean of the next state (alpha),
s noise, w0, w1, w2 a weight and its first and second derivative in the mean.
"""

from __future__ import annotations

import numpy as np

from wassgrid.transition.axis_kernels import axis_weights
from wassgrid.transition.compiled import allocating_nothing, driver
from wassgrid.transition.lead import given_lead, lead_weights, only_lead_moves, open_cell, share_followers
from wassgrid.transition.threads import spread
from wassgrid.transition.walk import Axes, advance, new_walk, start_walk

_GROUPS = 8  # of cells that scatter into measures of their own; a constant, so that no sum depends on the threads


@allocating_nothing
def expectation(walk, axes, mean, noise, coupling, f, derivatives, gradient, hessian):
    """E f(s') and, in axis order, its gradient (d,) and Hessian (d, d) in the means; written into the arrays."""
    d = mean.size
    inner = d - 1
    jn = axes.order[inner]
    value = 0.0
    if derivatives >= 1:
        gradient[:] = 0.0
    if derivatives >= 2:
        hessian[:, :] = 0.0
    start_walk(walk, axes, mean, noise, coupling)
    while advance(walk, axes, mean, noise, coupling, derivatives):
        base = walk.base[inner]
        t0 = t1 = t2 = 0.0
        if derivatives == 0:
            for q in range(walk.counts[inner]):
                t0 += walk.w[inner, 0, q] * f[base + walk.offset[inner, q]]
        else:
            for q in range(walk.counts[inner]):
                v = f[base + walk.offset[inner, q]]
                t0 += walk.w[inner, 0, q] * v
                t1 += walk.w[inner, 1, q] * v
                t2 += walk.w[inner, 2, q] * v
        p = walk.product[inner]
        value += p * t0
        if derivatives >= 1:
            for level in range(inner):
                gradient[axes.order[level]] += walk.first[inner, level] * t0
            gradient[jn] += p * t1
        if derivatives >= 2:
            for level in range(inner):
                j = axes.order[level]
                for other in range(level, inner):
                    hessian[j, axes.order[other]] += walk.second[inner, level, other] * t0
                hessian[j, jn] += walk.first[inner, level] * t1
            hessian[jn, jn] += p * t2
    if derivatives >= 2:
        for j in range(d):
            for l in range(j):
                # each pair was summed once, on the side of the earlier level
                total = hessian[j, l] + hessian[l, j]
                hessian[j, l] = total
                hessian[l, j] = total
    return value


@driver
def expectation_rows(
    low, high, axes, width, cells, mean, mean_gradient, mean_hessian, noise, coupling, f, values, gradients, hessians
):
    """Write E f(s') and its derivatives in the action for rows low..high; see `expectations`."""
    rows, particles, d = mean.shape
    actions = mean_gradient.shape[3]
    first = mean_gradient.shape[0] == rows
    second = mean_hessian.shape[0] == rows
    derivatives = 2 if second else (1 if first else 0)
    lead = axes.order[0]
    walk = new_walk(d, width)
    gradient, hessian = np.zeros(d), np.zeros((d, d))
    w, nodes = np.zeros((3, width)), np.zeros(width, np.int64)
    cache, known = np.zeros(axes.size[lead]), np.full(axes.size[lead], -1, np.int64)
    for r in range(low, high):
        k = cells[r]
        shared = share_followers(axes, mean[r])
        if shared and first:
            shared = only_lead_moves(axes, mean_gradient[r])
        if shared and second:
            shared = only_lead_moves(axes, mean_hessian[r])
        if shared:
            open_cell(walk)
            gradient[:] = 0.0
            hessian[:, :] = 0.0
        for i in range(particles):
            if shared:
                t0 = t1 = t2 = 0.0
                for q in range(lead_weights(axes, mean[r, i], noise[k], w, nodes)):
                    node = nodes[q]
                    if known[node] != r:
                        known[node] = r
                        cache[node] = given_lead(walk, axes, mean[r, 0], noise[k], coupling[k], f, node)
                    v = cache[node]
                    t0 += w[0, q] * v
                    t1 += w[1, q] * v
                    t2 += w[2, q] * v
                values[r, i] = t0
                gradient[lead] = t1
                hessian[lead, lead] = t2
            else:
                values[r, i] = expectation(
                    walk, axes, mean[r, i], noise[k], coupling[k], f, derivatives, gradient, hessian
                )
            if not first:
                continue
            for j in range(d):
                for a in range(actions):
                    slope = mean_gradient[r, i, j, a]
                    gradients[r, i, a] += gradient[j] * slope
                    if second:
                        for b in range(actions):
                            total = gradient[j] * mean_hessian[r, i, j, a, b]
                            for l in range(d):
                                total += slope * hessian[j, l] * mean_gradient[r, i, l, b]
                            hessians[r, i, a, b] += total


def expectations(
    axes: Axes, width: int, cells: np.ndarray, mean: np.ndarray, mean_gradient: np.ndarray, mean_hessian: np.ndarray,
    noise: np.ndarray, coupling: np.ndarray, f: np.ndarray, work: float = np.inf,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Return E f(s') with gradient and Hessian in the action: (K, N), (K, N, m), (K, N, m, m).

    cells (K,), mean (K, N, d), mean_gradient (K, N, d, m), mean_hessian (K, N, d, m, m), f (all cells,). A
    mean_gradient or mean_hessian with no rows leaves that derivative out. work: elementary operations, an estimate.

    With E_j, E_jl the derivatives in the means:  d/da = sum_j E_j dm_j/da,
    d2/dadb = sum_jl E_jl dm_j/da dm_l/db + sum_j E_j d2m_j/dadb.
    """
    particles, m = mean.shape[1], mean_gradient.shape[3]
    values = np.empty((cells.size, particles))
    gradients = np.zeros((len(mean_gradient), particles, m))
    hessians = np.zeros((len(mean_hessian), particles, m, m))
    inputs = [np.ascontiguousarray(table) for table in (mean, mean_gradient, mean_hessian, noise, coupling, f)]
    spread(expectation_rows, cells.size, work, axes, width, cells, *inputs, values, gradients, hessians)
    return values, gradients, hessians


@driver
def push_groups(low, high, axes, width, mean, velocity, mass, noise, coupling, parts):
    """Add the measure of `push_derivative` that the cells of groups low..high give to parts (groups, cells)."""
    cells, particles, d = mean.shape
    groups = parts.shape[0]
    walk = new_walk(d, width)
    inner = d - 1
    jn = axes.order[inner]
    for g in range(low, high):
        for k in range(g * cells // groups, (g + 1) * cells // groups):
            for i in range(particles):
                if mass[k, i] == 0.0:
                    continue
                start_walk(walk, axes, mean[k, i], noise[k], coupling[k])
                while advance(walk, axes, mean[k, i], noise[k], coupling[k], 1):
                    outer = 0.0
                    for level in range(inner):
                        outer += walk.first[inner, level] * velocity[k, i, axes.order[level]]
                    along = walk.product[inner] * velocity[k, i, jn]
                    for q in range(walk.counts[inner]):
                        parts[g, walk.base[inner] + walk.offset[inner, q]] += mass[k, i] * (
                            outer * walk.w[inner, 0, q] + along * walk.w[inner, 1, q]
                        )


def push_derivative(
    axes: Axes, width: int, mean: np.ndarray, velocity: np.ndarray, mass: np.ndarray, noise: np.ndarray, coupling: np.ndarray,
    work: float = np.inf,
) -> np.ndarray:  # fmt: skip
    """Return the signed measure sum_ki mass_ki d/dt p(. | s_k, mean_ki + t velocity_ki), (cells,).

    mean and velocity (cells, N, d): a velocity of the means, dm/da v; mass (cells, N): mu_k w_ki.
    This is mu Pdot_v for a tangent field v.
    """
    parts = np.zeros((_GROUPS, len(mean)))
    inputs = [np.ascontiguousarray(table) for table in (mean, velocity, mass, noise, coupling)]
    spread(push_groups, _GROUPS, work, axes, width, *inputs, parts)
    return parts.sum(axis=0)


@driver
def conditional_moments(axes, width, mean, noise, coupling):
    """Return mean and variance of the grid's law on every axis, before folding, (cells, d, 2).

    mean (cells, d): one action per cell; axes that follow others are taken at the mean of those they follow.
    The variance beside noise^2 is what the user needs to see numerical diffusion.
    """
    cells, d = mean.shape
    result = np.zeros((cells, d, 2))
    w = np.zeros((3, width))
    for k in range(cells):
        for level in range(d):
            j = axes.order[level]
            m = mean[k, j]
            for before in range(level):
                i = axes.order[before]
                if axes.coupled[j, i]:
                    # the node nearest to the leader's mean
                    node = round((result[k, i, 0] - axes.lower[i]) / axes.spacing[i])
                    m += coupling[k, j, i] * (axes.lower[i] + node * axes.spacing[i])
            h, lower = axes.spacing[j], axes.lower[j]
            first, count = axis_weights(
                axes.kernel[j], axes.boundary[j], lower, h, axes.size[j], m, noise[k, j], 0, w[0], w[1], w[2]
            )
            centre = 0.0
            for q in range(count):
                centre += w[0, q] * (first + q) * h
            spread = 0.0
            for q in range(count):
                spread += w[0, q] * ((first + q) * h - centre) ** 2
            result[k, j, 0] = lower + centre
            result[k, j, 1] = spread
    return result
