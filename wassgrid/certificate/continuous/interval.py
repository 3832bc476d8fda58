"""A proven interval for the optimal cost of a problem with continuous states, and for the cost of a policy.

The mean of the next state is y = F(x, a) in a compact set Y, the next state x' = y + sigma xi with a boundary model (see `laws`).
For any bounded u : Y -> R put

    q(x) = min_a [c(x, a) + u(F(x, a))],    S u(y) = E q(x'),    g = S u - u.

Average cost.  inf g <= J* <= J(pi) <= sup g, for every start and against all policies, those with memory included, pi greedy
for u:
c(x_t, a_t) + u(y_t) >= q(x_t) and E [q(x_t) | y_{t-1}] = S u(y_{t-1}), so that the cost of n steps is at least n inf g less twice
sup |u|; for pi both are equalities. A policy that takes any actions a(x) has J <= sup (E [c + u(F)](a(x')) - u), and this is how
the upper end is computed: the policy that takes on every cell the one action that is stored is proven too.

Discounted cost.  q(x) = min_a [c + g u(F)] with the discount g. S is monotone and S(u + k) = S u + g k, so its fixed point lies
between u + inf(S u - u)/(1 - g) and u + sup(S u - u)/(1 - g); hence (1 - g) E V*(x_0) is in
(1 - g) E q(x_0) + g [inf, sup](S u - u), with x_0 uniform over the domain.

All of this is exact for any u; how near inf g and sup g are depends on u alone. Computed are bounds of both: of q between the
nodes of a lattice (`enclosure`), of S u on rows of means (`laws`) and between them (`residual`), rounded outward.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from wassgrid.certificate.continuous.bellman import Bellman
from wassgrid.certificate.continuous.enclosure import Enclosure, enclose
from wassgrid.certificate.continuous.laws import TAIL, Axis, AxisLaw, NoAxis
from wassgrid.certificate.continuous.residual import Residual, bound
from wassgrid.certificate.continuous.value import Value, rows_of, solve
from wassgrid.problem.control_problem import ControlProblem
from wassgrid.problem.intervals import Interval
from wassgrid.problem.jets import Jet, as_range

Array = np.ndarray
_FIRST = {1: (8.0, 16.0), 2: (2.0, 4.0)}  # rows and cells per standard deviation at the first attempt, by dimension
_QUADRATURE = {1: 32.0, 2: 6.0}  # cells per standard deviation from which u is as good as it gets
_TRIES = {1: 33, 2: 9}  # candidates per action, by the number of actions
_LARGEST = 3.0e7  # cells of the lattice


class ProveError(ValueError):
    """A problem, or a part of it, for which the theorem gives nothing; one line that says why."""


@dataclass(frozen=True)
class Attempt:
    """One proven interval [low, high], what it owes to what, and the lattice it comes from."""

    low: float
    high: float
    residual: Residual
    bellman: Bellman
    enclosure: Enclosure
    box: tuple[Array, Array]
    seconds: float

    @property
    def relative_width(self) -> float:
        """(high - low) over the larger of their sizes."""
        return (self.high - self.low) / max(abs(self.low), abs(self.high), 1e-300)


@dataclass(frozen=True)
class Claim:
    """What is to be proven: the problem, and the boundary model of every axis."""

    problem: ControlProblem
    models: tuple[str, ...]
    noise: Array

    @classmethod
    def of(cls, problem: ControlProblem, clamp: str) -> Claim:
        """Take the problem's own boundary models, `clamp` for axes that say "clamp".  Raises ProveError where nothing is
        proven."""
        d = problem.state_dimension
        if d > 1:
            raise ProveError(f"prove: the problem has {d} states; intervals for continuous states are computed for one")
        if problem.action_dimension > 3:
            raise ProveError(f"prove: the problem has {problem.action_dimension} actions; up to 3 are searched with proof")
        if not np.all(np.isfinite(problem.domain)):
            open_ended = ~np.all(np.isfinite(problem.domain), axis=1)
            names = ", ".join(name for name, far in zip(problem.state_names, open_ended, strict=True) if far)
            raise ProveError(f"prove: {names} has no domain; the theorem needs means in a compact set: give states.NAME.domain")
        if np.any(problem.coupled):
            raise ProveError("prove: next(...) in a law: intervals are computed for axes whose noises are independent")
        if not problem.constant_noise:
            raise ProveError("prove: the noise depends on the state; the theorem needs a law of the mean alone: constant noise")
        noise = problem.cell_tables(problem.domain.mean(axis=1)[None]).noise[0]
        for name, sigma in zip(problem.state_names, noise, strict=True):
            if sigma <= 0.0:
                raise ProveError(f"prove: {name} has no noise; the bounds rest on noise that smooths every axis")
        models = tuple(clamp if boundary == "clamp" else boundary for boundary in problem.boundary)
        return cls(problem, models, noise)

    def axes(self, rows: Array, cells: Array) -> tuple[Axis, Axis]:
        """Return laws with at least so many rows and cells per standard deviation."""
        laws: list[Axis] = [
            AxisLaw.make(float(low), float(high), float(s), model, float(s / n), float(s / m))
            for (low, high), s, model, n, m in zip(self.problem.domain, self.noise, self.models, rows, cells, strict=True)
        ]
        return (laws[0], laws[1]) if len(laws) == 2 else (laws[0], NoAxis())


def attempts(
    claim: Claim, start: Callable[[tuple[Axis, Axis]], Array | None], width: float, seconds: float,
    pulse: Callable[[str, float], None] = lambda _what, _share: None,
) -> Iterator[Attempt]:  # fmt: skip
    """Prove narrower and narrower intervals until one is at most `width` (relative) wide, or `seconds` would be over.

    start: u on the rows of given axes to begin with, or None. Yields every interval that is proven; the last is not always the
    best. pulse(what, share) is called now and then.
    """
    began, d = time.monotonic(), claim.problem.state_dimension
    rows, cells = (np.full(d, x) for x in _FIRST[d])
    box = _first_box(claim.problem)
    value: Value | None = None
    last: Attempt | None = None
    while True:
        axes = claim.axes(rows, cells)
        if axes[0].cells * axes[1].cells > _LARGEST:
            return
        turn = time.monotonic()
        coarse = claim.axes(rows, np.maximum(np.minimum(cells, _QUADRATURE[d]), rows))
        first = start(coarse) if value is None else rows_of(coarse, value.u)
        pulse("value", 0.0)
        tries = _TRIES.get(claim.problem.action_dimension, 5)
        goal = 0.02 * width * (abs(last.high) if last else 1.0)
        value = solve(claim.problem, coarse, rows_of(coarse, None) if first is None else first, box, tries, goal)
        bellman = Bellman(claim.problem, axes, value.u)
        enclosure = enclose(bellman, box, tries, lambda share: pulse("bounds", share))
        if not _tails_are_worse(bellman, box, enclosure):
            middle, half = 0.5 * (box[0] + box[1]), box[1] - box[0]
            low, high = claim.problem.action_bounds.T
            box = np.where(np.isfinite(low), low, middle - half), np.where(np.isfinite(high), high, middle + half)
            if max(np.max(np.abs(box[0])), np.max(np.abs(box[1]))) > 1e6:
                raise ProveError("prove: no bound of the best actions was found; give actions.NAME.bounds")
            continue
        residual = bound(bellman, enclosure)
        low, high = _objective(bellman, enclosure, residual)
        now = time.monotonic()
        last = Attempt(low, high, residual, bellman, enclosure, box, now - began)
        yield last
        if last.relative_width <= width:
            return
        # the next attempt: halve what dominates, and what comes near it
        parts = {"rows": max(residual.taylor, residual.residual), "cells": residual.curvature + residual.minima}
        aim = 0.3 * width * max(abs(low), abs(high))
        growth = 1.0
        factors = {"rows": 1.0, "cells": 1.0}
        for name, order in (("rows", 4.0 if d == 1 else 3.0), ("cells", 2.0)):
            if parts[name] > 0.25 * max(parts.values()):
                factors[name] = min(4.0 if d == 1 else 2.0, max(1.5, (parts[name] / max(aim, 1e-300)) ** (1.0 / order)))
        rows = rows * factors["rows"]
        cells = np.maximum(cells * factors["cells"], rows)
        after = claim.axes(rows, cells)
        growth = after[0].cells * after[1].cells / (axes[0].cells * axes[1].cells)
        if now - began + growth * (now - turn) > seconds:
            return


def _objective(bellman: Bellman, q: Enclosure, residual: Residual) -> tuple[float, float]:
    """Return the interval for the objective, from the bounds of g."""
    if bellman.discount == 1.0:
        return residual.low, residual.high
    means = []
    for p in (q.below, q.above):
        # E q over the domain: cells that lie in it
        part, average = p, np.zeros(1)
        for k, axis in enumerate(bellman.axes):
            if isinstance(axis, AxisLaw):
                first = axis.beyond
                part = np.take(part, range(first, first + axis.rows * axis.fine), axis=1 + k)
        average = part[0] + sum(part[(3, 5)[k]] * axis.spacing**2 / 24 for k, axis in enumerate(bellman.axes))
        means.append(float(np.mean(average)))
    rest, slack = 1.0 - bellman.discount, 1e-13 * max(map(abs, means))
    low = rest * (means[0] - slack) + bellman.discount * residual.low
    return low, rest * (means[1] + slack) + bellman.discount * residual.high


def _first_box(problem: ControlProblem) -> tuple[Array, Array]:
    low, high = problem.action_bounds.T
    first = np.where(np.isfinite(low), low, np.minimum(-1.0, high - 2.0))
    return first, np.where(np.isfinite(high), high, np.maximum(1.0, low + 2.0))


def _tails_are_worse(bellman: Bellman, box: tuple[Array, Array], q: Enclosure) -> bool:
    """Tell whether every action beyond the box, within its bounds, costs more at every state than the action that is known."""
    problem, m, d = bellman.problem, bellman.problem.action_dimension, bellman.d
    bounds = problem.action_bounds
    half = [0.5 * axis.spacing for axis in bellman.axes]
    p = q.above
    most = p[0] + np.abs(p[1]) * half[0] + np.abs(p[2]) * half[1] + np.maximum(p[3], 0) * half[0] ** 2 / 2
    most = most + np.abs(p[4]) * half[0] * half[1] + np.maximum(p[5], 0) * half[1] ** 2 / 2
    # blocks of cells: the shape cut into runs
    blocks = [np.array_split(np.arange(n), max(1, -(-n // 16))) for n in most.shape]
    edges = [axis.edges for axis in bellman.axes[:d]]  # type: ignore[union-attr]
    rows, tops = [], []
    for one in blocks[0]:
        for two in blocks[1] if d == 2 else [np.zeros(1, dtype=int)]:
            cut = [one, two][:d]
            rows.append([(edges[k][c[0]], edges[k][c[-1] + 1]) for k, c in enumerate(cut)])
            tops.append(np.max(most[one[0] : one[-1] + 1, two[0] : two[-1] + 1]))
    x, top = np.array(rows), np.array(tops)
    zeros = np.zeros(len(x))
    for k in range(m):
        for side in (0, 1):
            known, allowed = box[side][k], bounds[k, side]
            if known == allowed:
                continue
            ends = [tuple(bounds[j]) for j in range(m)]
            ends[k] = (allowed, known) if side == 0 else (known, allowed)
            parts = [_range_jet(x[:, j, 0], x[:, j, 1]) for j in range(d)]
            parts += [_range_jet(zeros + low, zeros + high) for low, high in ends]
            with np.errstate(all="ignore"):
                cost = problem.action_jets(*parts)[-1]
            least = as_range(cost.value if isinstance(cost, Jet) else cost, len(x)).lower
            if not np.all(least + bellman.discount * bellman.least_u > top):
                return False
    return True


def _range_jet(low: Array, high: Array) -> Jet:
    return Jet(Interval(low, high), (), (), (), (), False, ())


def in_words(claim: Claim) -> list[str]:
    """Say under which law the interval holds, a line per axis."""
    words = {
        "open": f"means are clipped to the domain, the noise may carry the state beyond (up to {TAIL * math.sqrt(1.25):.2g} "
        "standard deviations; the rest, a probability below 1e-20 per step, is left out)",
        "truncate": "means are clipped to the domain, and the law of the next state is the normal law conditioned to the domain",
        "project": "what the noise carries beyond an end lands on that end",
        "reflect": "what goes beyond an end is reflected",
        "periodic": "the axis is a circle",
    }
    return [f"{name}: {words[model]}" for name, model in zip(claim.problem.state_names, claim.models, strict=True)]


