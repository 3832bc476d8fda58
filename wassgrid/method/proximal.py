"""Proximal steps of the particles (minimising movements): each takes the least Q near it, by values of Q alone.

        a <- argmin_a' Q(s, a') + |a' - a|^2 / (2 tau)        V frozen

the implicit Euler scheme of the gradient flow, one particle at a time (De Giorgi 1993; Jordan, Kinderlehrer and Otto 1998).
Nothing is differentiated: costs and laws that jump with the action will do. A particle's own Q does not rise, whatever tau, and
by the performance difference J does not either; as tau grows the step becomes policy iteration. Between values of a list, which
other actions lie beside, the distance is that of the ground metric (`ControlProblem.squared_distances`): every combination of
values is searched. Where all actions take values, mass moves instead (`transport`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from wassgrid.certificate.action_value import ActionValue
from wassgrid.certificate.best_actions import (
    MOST_CORNERS,
    corners,
    golden_direction,
    probe_actions,
    probe_pattern,
    sliding_pattern,
)
from wassgrid.certificate.search_box import search_box
from wassgrid.evaluation import Evaluation, Evaluator, rounding
from wassgrid.method.outcome import StepOutcome
from wassgrid.transition.together import Together

if TYPE_CHECKING:
    from wassgrid.certificate import BestActions

_PLACES, _INSIDE = 65, 33  # at equal distances along an action, in the box of a cell and in what a particle can reach
_MORE_PLACES = 160  # of several actions, for each after the first
_STEPS = 48  # of a descent, each to the best of the places around
_CLOSER, _CLOSEST = 0.25, 1e-8  # distance of these places, where none is better: of the one before, of the box in the end
_SECOND = 0.25  # of what the best start gains: a start that gains less by so much is no second one
_GROWTH = 4.0  # of the length of steps
_LONGEST = 1e12  # step in units of the first one
_FIRST = 0.02  # first step: share of the square of a cell's box per range of Q in it
_AT_ONCE = 1 << 21  # places whose Q is computed at once


@dataclass(frozen=True)
class _Near:
    """Particles (R,) and what they minimise: Q(s, a') + |a' - a|^2/(2 tau), over boxes low, high (R, m) of their cells.

    squares (R,): of the distance between the values that a particle has and those of the box.
    """

    q: ActionValue
    tau: float
    cells: np.ndarray
    actions: np.ndarray
    low: np.ndarray
    high: np.ndarray
    squares: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> _Near:
        parts = (part[rows] for part in (self.cells, self.actions, self.low, self.high, self.squares))
        return _Near(self.q, self.tau, *parts)

    def values(self, places: np.ndarray) -> np.ndarray:
        """Return what is minimised, (R, P), at places (R, P, m)."""
        result = np.empty(places.shape[:2])
        count = max(1, _AT_ONCE // places.shape[1])
        for start in range(0, len(places), count):
            some = slice(start, start + count)
            result[some] = self.q.values(self.cells[some], places[some])
        return result + self.far(places)

    def far(self, places: np.ndarray) -> np.ndarray:
        """Return |a' - a|^2/(2 tau), (R, P), between values that of the ground metric."""
        slides = ~self.q.evaluation.model.problem.listed
        with np.errstate(over="ignore", invalid="ignore"):
            slid = np.square(places - self.actions[:, None])[..., slides].sum(axis=2)
            far = (slid + self.squares[:, None]) / (2.0 * self.tau)
        # what is no number is nowhere
        return np.asarray(np.where(np.isnan(far), np.inf, far))


def places_of(m: int, along: int = _PLACES) -> np.ndarray:
    """Return points that fill the cube [-1, 1]^m, (P, m), corners among them up to m = 3; along: how many of one action."""
    if m == 1:
        return np.linspace(-1.0, 1.0, along)[:, None]
    steps = np.arange(1, _MORE_PLACES * (m - 1) + 1)[:, None] * golden_direction(m)
    return np.concatenate([probe_pattern(m)[0], 2.0 * np.mod(0.5 + steps, 1.0) - 1.0])


def _sliding_places(listed: np.ndarray, along: int = _PLACES) -> np.ndarray:
    """Return `places_of` the actions that slide, (P, m), in the middle of those that take values, listed (m,)."""
    inside = places_of(int((~listed).sum()), along)
    places = np.zeros((len(inside), listed.size))
    places[:, ~listed] = inside
    return places


def first_proximal_step(evaluation: Evaluation) -> float:
    """Return a first step length: moves over a cell's box of actions cost many times the range of Q in it."""
    low, high, _, _ = search_box(evaluation)
    law = np.maximum(evaluation.law, 0.0)
    share = 0.5 * (1.0 + sliding_pattern(evaluation)[0])
    with np.errstate(over="ignore", invalid="ignore"):
        places = [bottom[:, None] + share * (top - bottom)[:, None] for bottom, top in evaluation.model.problem.parts(low, high)]
        q = evaluation.q_values(np.arange(len(low)), np.concatenate(places, axis=1))
        span = np.where(np.isfinite(q).all(axis=1), q.max(axis=1) - q.min(axis=1), 0.0)
        size, total = float(law @ np.square(high - low).sum(axis=1)), float(law @ span)
        first = _FIRST * size / total if total > 0.0 else 1.0
    return first if 0.0 < first < np.inf else 1.0


def proximal_step(
    evaluator: Evaluator, evaluation: Evaluation, tau: float, best: BestActions | None = None, adaptive: bool = True
) -> StepOutcome:
    """Move every particle to the least Q(s, a') + |a' - a|^2/(2 tau) that is found, and evaluate the new policy.

    Searched is the whole box of the cell and, finer, what a particle can reach: |a' - a|^2 <= 2 tau (Q(s, a) - min Q). best: the
    best actions known, which are tried too. With `adaptive` the step length doubles.
    """
    policy = evaluation.policy
    together = Together.of(policy.actions)
    moved = together.chosen(policy.actions).copy()
    moved[:] = nearby_minima(evaluation, tau, together.cells, moved, together.chosen(evaluation.q), best)
    actions = moved[together.number]
    new = evaluator.evaluate(policy.moved(actions), evaluation)
    following = min(_GROWTH * tau, _LONGEST * first_proximal_step(evaluation)) if adaptive else tau
    return StepOutcome(new, tau, max(following, tau) if adaptive else tau)


def nearby_minima(
    evaluation: Evaluation,
    tau: float,
    cells: np.ndarray,
    actions: np.ndarray,
    values: np.ndarray,
    best: BestActions | None = None,
) -> np.ndarray:
    """Return the proximal points (R, m) that are found of actions (R, m) of cells (R,), whose Q is `values` (R,).

    Where no place is better by more than rounding, the action itself.
    """
    problem = evaluation.model.problem
    low, high = (best.low, best.high) if best is not None else search_box(evaluation)[:2]
    q, moved, reached = ActionValue.build(evaluation, low, high), actions.copy(), values - rounding(evaluation)
    for box in problem.parts(low, high):
        known = best
        if best is not None and problem.mixed:
            # of other values it is a place beyond the box
            inside = (np.clip(best.actions, *box) == best.actions).all(axis=1)
            known = replace(best, actions=np.clip(best.actions, *box), values=np.where(inside, best.values, np.inf))
        here, at = _nearby_in(q, tau, cells, actions, values, known, *box)
        better = at < reached
        moved[better], reached[better] = here[better], at[better]
    return moved


def _nearby_in(
    q: ActionValue, tau: float, cells: np.ndarray, actions: np.ndarray, values: np.ndarray, best: BestActions | None,
    low: np.ndarray, high: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return the proximal points (R, m) in boxes low, high (cells, m), and what is minimised there, (R,); see `nearby_minima`.

    Infinite where none is better than the action itself.
    """
    evaluation, m, problem = q.evaluation, actions.shape[1], q.evaluation.model.problem
    listed = problem.listed
    squares = problem.squared_distances[problem.combination_of(actions), problem.combination_of(low[cells])]
    near = _Near(q, tau, cells, actions, low[cells], high[cells], squares)
    pattern = _sliding_places(listed)
    # the whole box, the same places for all particles of a cell
    own, rows = np.unique(cells, return_inverse=True)
    bounded = np.asarray(np.isfinite(evaluation.model.limits[0][0, 0]) & np.isfinite(evaluation.model.limits[1][0, 0]))
    centre = np.zeros((len(low), m))
    centre[cells] = actions
    with np.errstate(over="ignore", invalid="ignore"):
        wide = probe_actions(pattern, low[own], high[own], centre[own], bounded)
    everywhere = _Near(q, np.inf, own, centre[own], low[own], high[own], np.zeros(own.size)).values(wide)
    # the least that there may be, and what other values are away from the particle's own
    least, level = everywhere.min(axis=1)[rows], rounding(evaluation)
    if best is not None:
        least = np.minimum(least, best.values[cells])
    least = np.minimum(least + squares / (2.0 * tau), values)
    result, reached_there = actions.copy(), np.full(len(actions), np.inf)
    if best is not None:
        # a particle whose Q is the least known has nowhere to go
        some = np.flatnonzero(values - least > level)
        near, rows, cells, actions, values, least = near[some], rows[some], cells[some], actions[some], values[some], least[some]
    else:
        some = np.arange(len(actions))
    if some.size == 0:
        return result, reached_there
    starts = [_best_of(wide[rows], everywhere[rows] + near.far(wide[rows]))]
    # what can be reached
    with np.errstate(invalid="ignore", over="ignore"):
        reach = np.sqrt(2.0 * tau * np.maximum(values - least, 0.0))[:, None]
    inner_low, inner_high = np.maximum(near.low, actions - reach), np.minimum(near.high, actions + reach)
    inner_low[:, listed], inner_high[:, listed] = near.low[:, listed], near.high[:, listed]
    finer = _sliding_places(listed, _INSIDE)
    with np.errstate(over="ignore", invalid="ignore"):
        inside = probe_actions(finer, inner_low, inner_high, actions, np.ones(m, bool))
    starts.append(_best_of(inside, near.values(inside)))
    if best is not None:
        starts.append((best.actions[cells], best.values[cells] + near.far(best.actions[cells][:, None])[:, 0]))
    # descents begin with the distances of these places
    size = np.where(listed, 0.0, np.maximum(near.high - near.low, np.finfo(float).tiny))
    around = np.minimum(size, inner_high - inner_low)
    sliding = int((~listed).sum())
    sides = [len(grid) - 1 if sliding == 1 else len(grid) ** (1.0 / sliding) for grid in (pattern, finer, finer)]
    widths = np.stack([size / sides[0], around / sides[1], around / sides[2]][: len(starts)])
    places, found = (np.stack(part) for part in zip(*starts, strict=True))
    order = np.argsort(found, axis=0, kind="stable")
    each = np.arange(len(values))
    reached, first = values - level, found[order[0], each]
    moved = actions.copy()
    for number in order[:2]:
        place, value, width = places[number, each], found[number, each], widths[number, each]
        # a second start that is no neighbour of the first, and nearly as good
        apart = (np.abs(place - places[order[0], each]) > widths[order[0], each] + width).any(axis=1)
        close = value - first <= _SECOND * (values - first)
        chosen = np.flatnonzero(np.isfinite(value) & (apart & close if number is order[1] else True))
        here, at = _descended(near[chosen], place[chosen], value[chosen], width[chosen], _CLOSEST * size[chosen], level)
        better = at < reached[chosen]
        moved[chosen[better]], reached[chosen[better]] = here[better], at[better]
    result[some], reached_there[some] = moved, reached
    return result, reached_there


def _best_of(places: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best of places (R, P, m) by values (R, P): (R, m) and (R,)."""
    best = values.argmin(axis=1)
    rows = np.arange(len(values))
    return places[rows, best], values[rows, best]


def _descended(
    near: _Near, places: np.ndarray, values: np.ndarray, width: np.ndarray, least: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return local minima (R, m) and values (R,), by the best of the places around and of the vertex of the parabolas through
    them, closer by and by (Hooke and Jeeves 1961).

    width, least (R, m): the distance of these places from the point at first, and in the end. level: differences below are none.
    """
    sliding = np.flatnonzero(~near.q.evaluation.model.problem.listed)
    m = sliding.size
    compass = np.concatenate([np.eye(m), -np.eye(m), 0.5 * np.eye(m), -0.5 * np.eye(m)])
    if 1 < m <= MOST_CORNERS:
        compass = np.concatenate([compass, corners(m)])
    compass = compass @ np.eye(places.shape[1])[sliding]
    places, values, width = places.copy(), values.copy(), width.copy()
    vertex = np.zeros_like(places)  # from the point
    rows = np.arange(len(places))
    for _ in range(_STEPS):
        rows = rows[(width[rows] > least[rows]).any(axis=1)]
        if rows.size == 0:
            break
        some, here = near[rows], values[rows]
        moves = np.concatenate([width[rows, None] * compass, vertex[rows, None]], axis=1)
        tried = np.clip(places[rows, None] + moves, some.low[:, None], some.high[:, None])
        found = some.values(tried)
        with np.errstate(divide="ignore", invalid="ignore"):
            ahead, behind = found[:, :m] - here[:, None], found[:, m : 2 * m] - here[:, None]
            half = 0.5 * width[rows][:, sliding]
            tip = np.clip(half * (behind - ahead) / (ahead + behind), -half, half)
        vertex[rows[:, None], sliding] = np.where(ahead + behind > level, np.nan_to_num(tip), 0.0)
        place, value = _best_of(tried, found)
        down = value < here
        places[rows[down]], values[rows[down]] = place[down], value[down]
        vertex[rows[down]] = 0.0
        # where none but the vertex is better the least is near
        close = ~(found[:, :-1].min(axis=1) < here)
        width[rows[close]] *= _CLOSER
        flat = close & ~(found[:, : 2 * m].max(axis=1) - here > level)
        width[rows[flat]] = 0.0
    return places, values
