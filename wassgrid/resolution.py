"""The noise that the grid has beside that of the problem, and what the difference is expected to add to J."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from wassgrid.chain.reductions import dot, ends, everything, own, total
from wassgrid.evaluation import Evaluation
from wassgrid.problem.boundary import BOUNDARIES
from wassgrid.transition.axis_kernels import RESOLVED
from wassgrid.transition.compiled import PERIODIC
from wassgrid.transition.expectations import conditional_moments


def resolution(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Report per axis what noise the problem has and what noise the grid has, averaged over the stationary law.

    Each entry holds `state`, `kernel`, `reason` (why `auto` took it; not there where the case names it), `physical` and
    `numerical` standard deviation per step (of the axis given the axes it follows, the ends of the domain aside; in units of the
    state), `cells_per_noise`, the smallest noise/spacing, `points`, the
    number of points from which on a kernel carries the noise unchanged (None where no number is enough), and `added_cost`, what
    the kernel is expected to add to J: to first order in the excess variance e(s) of one step,

        dJ = 1/2 int mu(ds) e(s) E[d^2 V/dx^2 (s') | s],

    with second differences of V, at the mean action of every cell; times g for the discounted criterion. What a kernel adds to
    the mean is left out.
    """
    model, law = evaluation.model, evaluation.law
    if (controlled := evaluation.controlled) is not None:
        law = np.where(controlled, law, 0.0)
    mass = max(total(law), np.finfo(float).tiny)
    grid, value = model.grid.whole, everything(evaluation.value)
    mean = np.einsum("ki,kij->kj", evaluation.policy.weights, evaluation.mean)
    for j, (axis, boundary) in enumerate(zip(grid.axes, grid.boundary, strict=True)):
        if BOUNDARIES[boundary].stops and not model.problem.coupled[j].any():
            mean[:, j] = np.clip(mean[:, j], axis[0], axis[-1])
    # the kernels' own moments: no end cuts or folds
    endless = model.axes._replace(boundary=np.full_like(model.axes.boundary, PERIODIC))
    variance = conditional_moments(endless, model.width, mean, model.cell_noise, model.coupling)[:, :, 1]
    report: list[dict[str, Any]] = []
    for j, name in enumerate(grid.names):
        noise = model.noise[:, j]
        ratio = ends(noise / grid.spacing[j])[0]
        needed = RESOLVED / ratio if ratio > 0.0 else np.inf  # times as many cells
        excess = variance[:, j] - noise**2
        bend = evaluation.chain.operator.apply(own(_second_difference(value, grid.shape, j, grid.boundary[j])))
        cells = grid.shape[j] - (grid.boundary[j] != "periodic")
        report.append(
            {
                "state": name,
                "kernel": model.kernels[j],
                **({"reason": model.reasons[name]} if name in model.reasons else {}),
                "physical": float(np.sqrt(dot(law, noise**2) / mass)),
                "numerical": float(np.sqrt(max(dot(law, variance[:, j]) / mass, 0.0))),
                "cells_per_noise": ratio,
                "points": math.ceil(cells * needed) + (grid.boundary[j] != "periodic") if cells * needed < np.inf else None,
                "added_cost": float(0.5 * evaluation.discount * dot(law, excess * bend) / grid.spacing[j] ** 2),
            }
        )
    return report


def _second_difference(value: np.ndarray, shape: tuple[int, ...], j: int, boundary: str) -> np.ndarray:
    """Return V(x + h) - 2 V(x) + V(x - h) along axis j, (cells,); at the ends that of the neighbour, or the mirrored one."""
    v = np.moveaxis(value.reshape(shape), j, 0)
    if boundary == "periodic":
        result = np.roll(v, 1, axis=0) - 2.0 * v + np.roll(v, -1, axis=0)
    else:
        inner = np.diff(v, n=2, axis=0) if len(v) > 2 else np.zeros((1, *v.shape[1:]))
        mirrored = boundary == "reflect"
        low, high = (2.0 * (v[1:2] - v[:1]), 2.0 * (v[-2:-1] - v[-1:])) if mirrored else (inner[:1], inner[-1:])
        result = np.concatenate([low, inner, high])[: len(v)]
    return np.ascontiguousarray(np.moveaxis(result, 0, j)).ravel()
