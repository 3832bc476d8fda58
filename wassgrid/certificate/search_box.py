"""Boxes of actions that hold the best action of every cell, by the action bounds or by the growth of the cost."""

from __future__ import annotations

import numpy as np

from wassgrid.certificate.action_value import margin
from wassgrid.certificate.branch_and_bound import least_curvature
from wassgrid.chain.reductions import agreed, anywhere, least, most
from wassgrid.evaluation import Evaluation

_SHELLS = 40  # doublings of the distance over which an unbounded action is searched
_CHUNK = 1 << 15  # boxes bounded at once


def search_box(evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray, str, bool]:
    """Return boxes of actions low, high (cells, m) that hold the best action of every cell, what was assumed, and whether
    nothing more than that was.

    These are the action bounds (read-only views); an infinite one is moved in to where the cost alone, with the least V anywhere,
    exceeds the Q of the cell's best particle, whatever values actions of lists take beside.
    """
    policy = evaluation.policy
    cells = len(policy.actions)
    low, high = (limit[:, 0] for limit in evaluation.model.limits)
    # an action has bounds in all cells or in none
    open_low, open_high = np.isinf(low[0]), np.isinf(high[0])
    if not (open_low | open_high).any():
        return low, high, "", True
    best = evaluation.q.argmin(axis=1)
    centre = policy.actions[np.arange(cells), best]
    # outside Q >= c - J + g min V
    level = evaluation.q[np.arange(cells), best] + evaluation.offset - evaluation.discount * float(least(evaluation.value.min()))
    level = level + margin(evaluation)
    actions = policy.actions
    extent = most(actions.max(axis=(0, 1))) - least(actions.min(axis=(0, 1)))
    parts = evaluation.model.problem.parts(low, high)
    away = [most(np.abs(np.clip(centre, *part)).max(axis=0)) for part in parts]
    found = agreed(
        lambda: [_moved_in(evaluation, *part, centre, level, extent, far) for part, far in zip(parts, away, strict=True)]
    )
    low, high = np.min([part[0] for part in found], axis=0), np.max([part[1] for part in found], axis=0)
    if anywhere(not all(part[3] for part in found)):
        return low, high, "the cost is not seen to grow with the actions, only those near the particles were searched", False
    if (farthest := float(least(np.array(min(part[2] for part in found))))) < np.inf:
        return low, high, f"actions up to {farthest:.1g} from the particles", True
    return low, high, "", True


def _moved_in(
    evaluation: Evaluation, low: np.ndarray, high: np.ndarray, centre: np.ndarray, level: np.ndarray, extent: np.ndarray,
    away: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, float, bool]:  # fmt: skip
    """Return boxes (cells, m) whose infinite ends were moved in, how far was seen, and whether the cost exceeds a level.

    extent (m,): of the particles of all cells; away (m,): the largest modulus of the centres.
    """
    m = low.shape[1]
    low, high, whole = low.copy(), high.copy(), (low, high)
    open_low, open_high = np.isinf(low[0]), np.isinf(high[0])
    centre = np.clip(centre, low, high)
    below, above = _convex_distances(evaluation, centre, low, high, level)
    start = 1e-3 * (extent + away)
    start = np.where(start > 0, start, 1e-3)
    farthest, grows = np.inf, True
    for a in range(m):
        for is_open, ends, sign, convex in ((open_low, low, -1.0, below), (open_high, high, 1.0, above)):
            if is_open[a]:
                distance = convex[:, a].copy()
                rest = np.flatnonzero(~np.isfinite(distance))
                if rest.size:
                    distance[rest], far, seen = _coercive_distance(
                        evaluation, rest, whole, centre[rest], a, sign, float(start[a]), level[rest], float(extent[a])
                    )
                    farthest, grows = min(farthest, far), grows and seen
                ends[:, a] = centre[:, a] + sign * distance
    return low, high, farthest, grows


def _convex_distances(
    evaluation: Evaluation, centre: np.ndarray, low: np.ndarray, high: np.ndarray, level: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return distances below and above the centre, (cells, m), from which on a strongly convex cost exceeds `level`.

    Infinite where the cost is not seen to be convex.

        c(p + x) >= c + c' . x + sum_a L_a x_a^2 / 2,  L_a > 0 over all actions
    """
    problem, states = evaluation.model.problem, evaluation.policy.grid.states
    tables = problem.action_tables(states, centre[:, None, :], 1)
    assert tables.cost_gradient is not None and tables.differentiable is not None
    cost, slope = tables.cost[:, 0], tables.cost_gradient[:, 0]
    ranges = problem.action_ranges(states, low, high)
    result = np.full((2, *centre.shape), np.inf)
    moving = np.flatnonzero(~problem.listed)
    slope, bends = slope[:, moving], ranges.cost[2][:, :, moving[:, None], moving]
    with np.errstate(divide="ignore", invalid="ignore"):
        for curvature in least_curvature(bends):
            convex = (curvature > 0).all(axis=1) & (ranges.smoothness == 2) & tables.differentiable[:, 0]
            dip = 0.5 * slope**2 / curvature
            # the other actions can lower the cost by their dips at most
            rise = (level - cost)[:, None] + dip.sum(axis=1, keepdims=True) - dip
            root = np.sqrt(np.maximum(slope**2 + 2.0 * curvature * rise, 0.0))
            for side, sign in enumerate((-1.0, 1.0)):
                distance = np.where(convex[:, None], np.maximum((root - sign * slope) / curvature, 0.0), np.inf)
                result[side][:, moving] = np.fmin(result[side][:, moving], distance * (1 + 1e-9))
    return result[0], result[1]


def _coercive_distance(
    evaluation: Evaluation, cells: np.ndarray, whole: tuple[np.ndarray, np.ndarray], centre: np.ndarray, a: int, sign: float,
    start: float, level: np.ndarray, extent: float,
) -> tuple[np.ndarray, float, bool]:
    """Return distances along one side of action a from which on the cost of some cells exceeds `level`, how far, and whether so.

    whole: the boxes of all cells, (cells, m), in which the other actions are; extent: of the particles of all cells along a.

    The half-line beyond a distance is seen at once by interval arithmetic; where that fails because terms of both signs grow,
    shells between doubled distances are, up to `start` 2^40.
    """
    problem, states = evaluation.model.problem, evaluation.policy.grid.states[cells]

    def least_cost(rows: np.ndarray, near: np.ndarray, far: np.ndarray) -> np.ndarray:
        low, high = (limit[cells[rows]] for limit in whole)
        ends = centre[rows, a] + sign * near, centre[rows, a] + sign * far
        low[:, a], high[:, a] = np.minimum(*ends), np.maximum(*ends)
        return problem.action_ranges(states[rows], low, high, 0).cost[0][0]

    rows = np.arange(len(centre))
    endless = np.full(rows.size, np.inf)
    farthest = start * 2.0**_SHELLS
    distance = np.full(rows.size, start)
    visible = least_cost(rows, np.full(rows.size, farthest), endless) > level
    pending = rows[visible]
    while pending.size:
        pending = pending[~(least_cost(pending, distance[pending], endless[pending]) > level[pending])]
        distance[pending] *= 2.0
    rest = rows[~visible]
    if rest.size == 0:
        return distance, np.inf, True
    near = start * 2.0 ** np.arange(_SHELLS)
    last = np.empty(rest.size)
    for some in np.array_split(np.arange(rest.size), 1 + rest.size * _SHELLS // _CHUNK):
        each, shells = np.repeat(rest[some], _SHELLS), np.tile(near, some.size)
        low_enough = (least_cost(each, shells, 2.0 * shells) <= level[each]).reshape(-1, _SHELLS)
        last[some] = np.where(low_enough, 2.0 * near, start).max(axis=1)
    grows = last < farthest
    wide = 4.0 * max(extent, 1e3 * start)
    distance[rest] = np.where(grows, last, wide)
    return distance, farthest, bool(grows.all())
