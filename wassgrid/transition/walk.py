"""The walk over the nodes that one particle reaches, axis by axis in the order in which next values are realised.

Letters: k cell, i particle, j and l state axes, a and b action components, m mean of the next state (alpha),
s noise, w0, w1, w2 a weight and its first and second derivative in the mean.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from wassgrid.transition.axis_kernels import axis_weights
from wassgrid.transition.compiled import PERIODIC, allocating_nothing, fold, helper


class Axes(NamedTuple):
    """Describe the grid to the kernels; all arrays have one entry per axis, except `coupled` (d, d)."""

    lower: np.ndarray
    spacing: np.ndarray
    size: np.ndarray
    boundary: np.ndarray
    kernel: np.ndarray
    stride: np.ndarray
    order: np.ndarray  # axes in the order in which their next values are realised
    coupled: np.ndarray  # coupled[j, i]: the mean of axis j depends on the realised value of axis i
    led: bool  # the first axis in the order is the only one that actions move, as a rule: see `share_followers`


class Walk(NamedTuple):
    """Scratch of one walk over the nodes that one particle reaches; first index: level in the realised order."""

    w: np.ndarray  # (d, 3, width) weights and their derivatives
    offset: np.ndarray  # (d, width) flat-index offset of each node
    coordinate: np.ndarray  # (d, width) realised value of each node
    counts: np.ndarray  # (d,)
    position: np.ndarray  # (d,)
    base: np.ndarray  # (d,) flat index of the nodes chosen on the levels before
    product: np.ndarray  # (d,)
    first: np.ndarray  # (d, d) first derivatives of the product in the means of the earlier levels
    second: np.ndarray  # (d, d, d)


@helper
def new_walk(d, width):
    """Allocate the scratch of a walk in d dimensions with at most `width` nodes per axis."""
    return Walk(
        np.zeros((d, 3, width)),
        np.zeros((d, width), np.int64),
        np.zeros((d, width)),
        np.zeros(d, np.int64),
        np.zeros(d, np.int64),
        np.zeros(d, np.int64),
        np.ones(d),
        np.zeros((d, d)),
        np.zeros((d, d, d)),
    )


@allocating_nothing
def fill(walk, axes, level, mean, noise, coupling):
    """Fill one level: the conditional law of its axis given the nodes chosen on the levels before."""
    j = axes.order[level]
    m = mean[j]
    for before in range(level):
        i = axes.order[before]
        if axes.coupled[j, i]:
            m += coupling[j, i] * walk.coordinate[before, walk.position[before]]
    n, h, lower, boundary = axes.size[j], axes.spacing[j], axes.lower[j], axes.boundary[j]
    # the realised value keeps the winding of the mean, so that followers of a periodic axis see no jump
    shift = 0.0
    if boundary == PERIODIC:
        shift = math.floor((m - lower) / (n * h)) * (n * h)
    first, count = axis_weights(
        axes.kernel[j], boundary, lower, h, n, m, noise[j], 2, walk.w[level, 0], walk.w[level, 1], walk.w[level, 2]
    )
    walk.counts[level] = count
    for q in range(count):
        node = fold(first + q, n, boundary)
        walk.offset[level, q] = node * axes.stride[j]
        walk.coordinate[level, q] = lower + (first + q) * h + shift if boundary == PERIODIC else lower + node * h


@allocating_nothing
def start_walk(walk, axes, mean, noise, coupling):
    d = axes.order.size
    walk.base[0] = 0
    walk.product[0] = 1.0
    walk.first[0, :] = 0.0
    walk.second[0, :, :] = 0.0
    for level in range(d):
        walk.position[level] = 0
        walk.counts[level] = -1
    fill(walk, axes, 0, mean, noise, coupling)
    if d > 1:
        walk.position[0] = -1


@allocating_nothing
def advance(walk, axes, mean, noise, coupling, derivatives):
    """Move to the next choice of nodes on all levels but the last; return False when all were seen.

    On return, level d - 1 holds the law of the innermost axis, and base, product, first, second at d - 1 hold the flat
    index of the outer nodes and the product of their weights with its derivatives in the outer means.
    """
    last = axes.order.size - 1
    if last == 0:
        # a single axis: one visit
        walk.position[0] += 1
        return walk.position[0] == 1
    level = last - 1 if walk.position[0] >= 0 else 0
    walk.position[level] += 1
    while True:
        if walk.position[level] >= walk.counts[level]:
            if level == 0:
                return False
            level -= 1
            walk.position[level] += 1
            continue
        q = walk.position[level]
        up = level + 1
        w0, w1, w2 = walk.w[level, 0, q], walk.w[level, 1, q], walk.w[level, 2, q]
        walk.base[up] = walk.base[level] + walk.offset[level, q]
        p = walk.product[level]
        walk.product[up] = p * w0
        if derivatives >= 1:
            for j in range(level):
                walk.first[up, j] = walk.first[level, j] * w0
            walk.first[up, level] = p * w1
        if derivatives >= 2:
            for j in range(level):
                for l in range(j, level):
                    walk.second[up, j, l] = walk.second[level, j, l] * w0
                walk.second[up, j, level] = walk.first[level, j] * w1
            walk.second[up, level, level] = p * w2
        j = axes.order[up]
        refill = walk.counts[up] < 0
        for before in range(up):
            refill = refill or axes.coupled[j, axes.order[before]]
        if refill:
            fill(walk, axes, up, mean, noise, coupling)
        if up == last:
            return True
        level = up
        walk.position[level] = 0
