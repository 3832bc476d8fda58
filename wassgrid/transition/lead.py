"""Cells whose actions move one axis only, the lead: sums over their particles are taken on that axis first.

Where actions move one axis only (a force on a velocity), all particles of a cell share the law of the other axes given
that one, the lead. Sums over particles are then taken on the lead axis first, and sums over the other axes once per lead
node instead of once per particle:  sum_i w_i omega_lead,i(x) prod_other omega(y | x) = (sum_i w_i omega_lead,i(x)) prod(...).
"""

from __future__ import annotations

from wassgrid.transition.axis_kernels import axis_weights
from wassgrid.transition.compiled import allocating_nothing, fold
from wassgrid.transition.walk import advance


@allocating_nothing
def share_followers(axes, mean):
    """Tell whether the particles of one cell, mean (N, d), differ on the lead axis only."""
    if not axes.led:
        return False
    lead = axes.order[0]
    for i in range(1, mean.shape[0]):
        for j in range(mean.shape[1]):
            if j != lead and mean[i, j] != mean[0, j]:
                return False
    return True


@allocating_nothing
def lead_weights(axes, mean, noise, w, nodes):
    """Fill weights (3, width) and nodes (width,) of one particle on the lead axis; return their number."""
    j = axes.order[0]
    n, boundary = axes.size[j], axes.boundary[j]
    first, count = axis_weights(
        axes.kernel[j], boundary, axes.lower[j], axes.spacing[j], n, mean[j], noise[j], 2, w[0], w[1], w[2]
    )
    for q in range(count):
        nodes[q] = fold(first + q, n, boundary)
    return count


@allocating_nothing
def pin(walk, axes, node):
    """Let the walk hold one node of the lead axis; `advance` then runs over the axes that follow it."""
    j = axes.order[0]
    walk.counts[0] = 1
    walk.position[0] = -1
    walk.w[0, 0, 0] = 1.0
    walk.offset[0, 0] = node * axes.stride[j]
    walk.coordinate[0, 0] = axes.lower[j] + node * axes.spacing[j]


@allocating_nothing
def open_cell(walk):
    """Forget the laws of the last cell on the levels below the lead."""
    walk.counts[:] = -1
    walk.product[0] = 1.0
    walk.base[0] = 0


@allocating_nothing
def lead_law(axes, mean, weights, noise, w, nodes, law):
    """Sum the laws of all particles of one cell on the lead axis, sum_i w_i omega_i, into law (n_lead,)."""
    law[:] = 0.0
    for i in range(mean.shape[0]):
        if weights[i] != 0.0:
            for q in range(lead_weights(axes, mean[i], noise, w, nodes)):
                law[nodes[q]] += weights[i] * w[0, q]


@allocating_nothing
def given_lead(walk, axes, mean, noise, coupling, f, node):
    """Return E[f(s') | lead axis at node]."""
    inner = axes.order.size - 1
    pin(walk, axes, node)
    total = 0.0
    while advance(walk, axes, mean, noise, coupling, 0):
        base = walk.base[inner]
        part = 0.0
        for q in range(walk.counts[inner]):
            part += walk.w[inner, 0, q] * f[base + walk.offset[inner, q]]
        total += walk.product[inner] * part
    return total


@allocating_nothing
def only_lead_moves(axes, mean_gradient):
    """Tell whether no mean but the lead's moves with the actions of one cell, derivative (N, d, ...)."""
    lead = axes.order[0]
    for i in range(mean_gradient.shape[0]):
        for j in range(mean_gradient.shape[1]):
            if j != lead:
                for value in mean_gradient[i, j].flat:
                    if value != 0.0:
                        return False
    return True
