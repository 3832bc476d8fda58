"""The best action of every cell that can be found: particles and probe actions, then descent of Q."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from wassgrid.certificate.action_value import ActionValue
from wassgrid.certificate.search_box import search_box
from wassgrid.chain.reductions import agreed, anywhere, span
from wassgrid.evaluation import Evaluation, rounding
from wassgrid.method.box_step import newton_candidates
from wassgrid.problem.control_problem import ProblemError
from wassgrid.transition.threads import TEAM

MOST_CORNERS = 3  # actions, up to which all corners of their box are tried
PROBES = 9  # actions per cell that start the search for the best one
_PROBED_AT_ONCE = 1 << 17  # probes of the cells that a thread searches at once, of up to _FEW actions; fewer for more
_FEW = 4
_DESCENT = 40  # steps at most from the best probe to its local minimum
_SHORTENINGS = 12  # of a step, each by four, before it is taken for a kink
_NEAR = 1e-6  # of the length of an axis, from which on a mean is at its end
_SAME = 1e-6  # of a box: two minima this close are one
_POLISHES = 4  # at most, of descents that stopped at kinks


@dataclass(frozen=True)
class BestActions:
    """Hold the best action of every cell that was found, V frozen; nothing is proven of it.

    | name      | shape      | meaning                                                                                |
    |-----------|------------|----------------------------------------------------------------------------------------|
    | actions   | (cells, m) | best action found                                                                      |
    | values    | (cells,)   | its Q; where entropy has a price, the least mean of Q and of that price                |
    | low, high | (cells, m) | ends of the boxes that were searched (`search_box`); may be read-only views            |
    | assumed   |            | what was assumed of actions outside, empty: nothing                                    |
    | coercive  |            | whether no better action is outside, given what was assumed                            |
    | lead      | (cells,)   | by how much Q of the other actions tried is larger, at least; negative: not known      |
    | searched  |            | whether other actions than the particles were looked at                                |
    """

    actions: np.ndarray
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    assumed: str
    coercive: bool
    lead: np.ndarray
    searched: bool = True


def find_best(evaluation: Evaluation, before: tuple[BestActions, np.ndarray] | None = None) -> BestActions:
    """Search the best action of every cell: the best particle, probes of the whole box, then descent of Q; beside actions that
    take values of a list, for every combination of values.

    before: the best actions of another V (cells,), and that V. Where they lead by more than the change of V can make up for, the
    search begins at them. Where cost or law are not finite at an action tried, the best particles are returned, and `assumed`
    says why. Where actions take values of a list, the best of them is the best that there is; where entropy has a price, so it is
    of those that have a reference law, and the values are soft minima over them.
    """
    if evaluation.at_rest:
        return _best_listed(evaluation)
    try:
        low, high, assumed, coercive = search_box(evaluation)
        change = None if before is None else span(evaluation.value - before[1])
        actions, values, lead = agreed(
            lambda: best_actions(ActionValue.build(evaluation, low, high), low, high, before, change)
        )
        actions = evaluation.model.problem.admitted(evaluation.policy.grid.states, actions[:, None])[:, 0]
        return BestActions(actions, values, low, high, assumed, coercive, lead)
    except ProblemError as error:
        cells = np.arange(evaluation.policy.grid.size)
        best = evaluation.q.argmin(axis=1)
        low, high = (limit[:, 0] for limit in evaluation.model.limits)
        actions = evaluation.policy.actions[cells, best]
        unknown = np.full(cells.size, -1.0, np.float32)
        return BestActions(actions, evaluation.q[cells, best], low, high, str(error), False, unknown, False)


def _best_listed(evaluation: Evaluation) -> BestActions:
    cells, q = np.arange(evaluation.policy.grid.size), evaluation.q
    best = q.argmin(axis=1)
    low, high = (limit[:, 0] for limit in evaluation.model.limits)
    unknown = np.full(cells.size, -1.0, np.float32)
    values = q[cells, best] if evaluation.entropy is None else evaluation.entropy.soft_minimum(q)[0]
    actions = evaluation.policy.actions[cells, best]
    actions = evaluation.model.problem.admitted(evaluation.policy.grid.states, actions[:, None])[:, 0]
    return BestActions(actions, values, low, high, "", True, unknown)


def restored_best(evaluation: Evaluation, actions: np.ndarray, values: np.ndarray, lead: np.ndarray) -> BestActions:
    """Return the best actions of an evaluation again, from what was stored of them."""
    if not anywhere(bool((lead >= 0.0).any())) or evaluation.at_rest:
        return find_best(evaluation)
    low, high, assumed, coercive = search_box(evaluation)
    return BestActions(actions, values, low, high, assumed, coercive, lead)


def golden_direction(dimension: int) -> np.ndarray:
    """Return the step (dimension,) of the additive recurrence that fills the unit cube evenly, however many points it has.

    Powers of 1/r, r the generalised golden ratio, r^(dimension + 1) = r + 1 (Roberts 2018).
    """
    ratio = 2.0
    for _ in range(60):
        ratio = (1.0 + ratio) ** (1.0 / (dimension + 1))
    direction: np.ndarray = ratio ** -np.arange(1.0, dimension + 1)
    return direction


def corners(m: int) -> np.ndarray:
    """Return the corners of the cube [-1, 1]^m, (2^m, m)."""
    return np.stack(np.meshgrid(*[[-1.0, 1.0]] * m, indexing="ij"), axis=-1).reshape(-1, m)


def probe_pattern(m: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points that fill the cube [-1, 1]^m, (P, m), and which come first (P,): P = PROBES for m = 1, more for larger m.

    One action: both ends and points between, first the ends and the middle. More: the corners (up to m = 3, which come first)
    and an additive recurrence (`golden_direction`).
    """
    if m == 1:
        return np.linspace(-1.0, 1.0, PROBES)[:, None], np.isin(np.arange(PROBES), [0, PROBES // 2, PROBES - 1])
    steps = np.arange(1, 3 * PROBES * (m - 1) + 1)[:, None] * golden_direction(m)
    inside = 2.0 * np.mod(0.5 + steps, 1.0) - 1.0
    if m > MOST_CORNERS:
        return inside, np.ones(len(inside), bool)
    return np.concatenate([corners(m), inside]), np.arange(2**m + len(inside)) < 2**m


def sliding_pattern(evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Return `probe_pattern` of the actions that slide, (P, m), in the middle of those that take values, and which come first."""
    sliding = ~evaluation.model.problem.listed
    inside, first = probe_pattern(int(sliding.sum()))
    pattern = np.zeros((len(inside), sliding.size))
    pattern[:, sliding] = inside
    return pattern, first


def searched_at_once(m: int) -> int:
    """Return how many cells are searched together, for m actions."""
    return max(1, _PROBED_AT_ONCE * _FEW // (len(probe_pattern(m)[0]) * max(m, _FEW)))


def probe_actions(
    unit: np.ndarray, low: np.ndarray, high: np.ndarray, centre: np.ndarray, bounded: np.ndarray
) -> np.ndarray:
    """Bring points of the cube [-1, 1]^m, (P, m), to boxes low, high (K, m): actions (K, P, m).

    Evenly where the action is bounded (m,), else denser towards the centre (K, m).
    """
    low, high, centre = low[:, None, :], high[:, None, :], centre[:, None, :]
    actions = 0.5 * (low + high) + 0.5 * (high - low) * unit
    if not bounded.all():
        dense = centre + np.where(unit < 0, centre - low, high - centre) * unit**3
        actions = np.where(bounded, actions, dense)
    return np.clip(actions, low, high)


def best_actions(
    q: ActionValue, low: np.ndarray, high: np.ndarray, before: tuple[BestActions, np.ndarray] | None = None,
    change: float | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Return the best action found in every cell, (cells, m), its Q and its lead, (cells,).

    The best of the particles and of the probe actions, then descent from it; where actions carry a mean over the end of a clamped
    axis, descent from the best probe on each side too. Some cells at once, and on several threads.

    With `before` (see `find_best`) the best actions of then are starts too. Two actions differ in Q by what they did then, up to
    g (max - min) of the change of V: where the best action led by more, none that was tried is better, and none is tried again.
    change: max - min of the change of V, where it is known.
    Where values of a list stand beside actions between bounds, this is done with every combination of values.
    """
    evaluation, cells, problem = q.evaluation, len(low), q.evaluation.model.problem
    lead = np.full(cells, -1.0, np.float32)
    if before is not None:
        change = span(evaluation.value - before[1]) if change is None else change
        lead = before[0].lead - np.float32(evaluation.discount * change)
    at_once = searched_at_once(low.shape[1])
    earlier = None if before is None else before[0].actions

    def searched(some: np.ndarray, part: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
        blocks = [some[start : start + at_once] for start in range(0, some.size, at_once)]
        found = TEAM.share(lambda block: _searched(q, block, *part, earlier, lead[block]), blocks)
        return [np.concatenate(piece) for piece in zip(*found, strict=True)]

    parts = problem.parts(low, high)
    if len(parts) == 1:
        actions, values, leads = searched(np.arange(cells), parts[0])
        return actions, values, leads
    first = evaluation.policy.actions[np.arange(cells), evaluation.q.argmin(axis=1)]
    likely = [problem.combination_of(known) for known in (first, first if earlier is None else earlier)]
    actions, values, least = np.empty(low.shape), np.full(cells, np.inf), np.full(cells, np.inf)
    for number, part in enumerate(parts):
        some = np.flatnonzero(~(lead > 0.0) | (likely[0] == number) | (likely[1] == number))
        if some.size == 0:
            continue
        place, value, ahead = searched(some, part)
        better = value < values[some]
        others = np.minimum(np.where(better, values[some], value), value + ahead)
        least[some] = np.minimum(least[some], others)
        actions[some[better]], values[some[better]] = place[better], value[better]
    return actions, values, np.minimum(least - values, np.finfo(np.float32).max).astype(np.float32)


def _started(q: ActionValue, cells: np.ndarray, low: np.ndarray, high: np.ndarray) -> _Point:
    """Return the best particle of every cell (K,) in boxes (K, m); where none has their values, the best one given these."""
    evaluation, problem = q.evaluation, q.evaluation.model.problem
    value, inside = evaluation.q[cells], np.ones(cells.size, bool)
    if problem.mixed:
        own = (evaluation.policy.actions[cells][:, :, problem.listed] == low[:, None, problem.listed]).all(axis=2)
        inside = own.any(axis=1)
        value = np.where(own | ~inside[:, None], value, np.inf)
    first = value.argmin(axis=1)
    point = _Point(
        cells,
        evaluation.policy.actions[cells, first],
        evaluation.q[cells, first],
        evaluation.q_gradient[cells, first],
        evaluation.q_hessian[cells, first],
    )
    if (rows := np.flatnonzero(~inside)).size:
        there = np.clip(point.actions[rows], low[rows], high[rows])
        point.put(rows, there, q.derivatives(cells[rows], there))
    return point


def _searched(
    q: ActionValue, cells: np.ndarray, low: np.ndarray, high: np.ndarray, earlier: np.ndarray | None, lead: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the best actions, values and leads of some cells (K,), ascending, see `best_actions`.

    low, high, earlier (cells, m), lead (K,): of the actions of before, what their change of V has left of it.
    """
    low, high = low[cells], high[cells]
    point = _started(q, cells, low, high)
    if earlier is not None:
        known = np.clip(earlier[cells], low, high)
        rows = np.flatnonzero((known != point.actions).any(axis=1))
        rows = rows[q.values(cells[rows], known[rows, None])[:, 0] < point.value[rows]]
        point.put(rows, known[rows], q.derivatives(cells[rows], known[rows]))
    probed = np.flatnonzero(~(lead > 0.0))
    others, tried = _probe(q, point, probed, low, high)
    if others.cells.size:
        point = _Point.joined([point, others])
    rows = np.searchsorted(cells, point.cells)
    descend(q, point, low[rows], high[rows])
    # of several points of a cell the best comes last
    order = np.argsort(-point.value, kind="stable")
    actions, values = np.empty(low.shape), np.empty(cells.size)
    actions[rows[order]], values[rows[order]] = point.actions[order], point.value[order]
    # other minima, and the probes that are not next to the best action: those lead to it
    box, moving = high - low, ~q.evaluation.model.problem.listed
    least = np.full(cells.size, np.inf)
    for some, probes, found in tried:
        apart = ((np.abs(probes - actions[some, None]) >= box[some, None] / (PROBES - 1)) & moving).any(axis=2)
        least[some] = np.minimum(least[some], np.where(apart, found, np.inf).min(axis=1))
    lost = (np.abs(point.actions - actions[rows]) > _SAME * box[rows]).any(axis=1)
    np.minimum.at(least, rows[lost], point.value[lost])
    lead[probed] = np.minimum(least - values, np.finfo(np.float32).max)[probed]
    return actions, values, lead


def improved(
    q: ActionValue, cells: np.ndarray, actions: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return local minima (K, m) of Q and its values (K,), by descent from one action (K, m) of each chosen cell (K,)."""
    point = _Point(cells, actions.copy(), *q.derivatives(cells, actions))
    descend(q, point, low[cells], high[cells])
    return point.actions, point.value


def descend(q: ActionValue, point: _Point, low: np.ndarray, high: np.ndarray) -> None:
    """Move every point to a local minimum of Q in its box low, high (K, m), at kinks too."""
    rows = np.arange(len(low))
    moving = np.flatnonzero(~q.evaluation.model.problem.listed)
    if moving.size == 1:
        units = np.zeros(low.shape)
        units[:, moving] = 1.0
        _descend_on_line(q, point, rows, units, low, high, int(moving[0]))
        return
    least = rounding(q.evaluation)
    for _ in range(_POLISHES):
        rows = _descend(q, point, rows, low, high)
        if rows.size == 0:
            return
        before = point.value[rows]
        for direction in _along_kinks(q, point, rows):
            _descend_on_line(q, point, rows, direction(), low, high)
        rows = rows[before - point.value[rows] > least]


def _probe(
    q: ActionValue, point: _Point, rows: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[_Point, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Replace some points (R,) by better probes; return further starts, and rows (K,), actions (K, P, m) and Q (K, P) of probes.

    The ends (and the middle) of the boxes first; all probes only where Q there is not what its quadratic model at the point
    says, up to half, or where one of them is better. Where actions carry a mean over the end of a clamped axis, every side
    of the end has a minimum of its own: the cheapest probe of every side but the point's is a start.
    """
    evaluation = q.evaluation
    # the same in all cells
    bounded = np.asarray(np.isfinite(evaluation.model.limits[0][0, 0]) & np.isfinite(evaluation.model.limits[1][0, 0]))
    low, high, centre = low[rows], high[rows], point.actions[rows]
    pattern, first = sliding_pattern(evaluation)
    crossing = q.crosses(point.cells[rows], low, high)
    starts = [point[np.zeros(0, np.int64)]]
    least = rounding(evaluation)
    kept = []
    some = np.arange(rows.size)
    for unit in (pattern[first], pattern[~first]):
        here = rows[some]
        tried = probe_actions(unit, low[some], high[some], centre[some], bounded)
        if tried.size == 0:
            break
        found = q.values(point.cells[here], tried)
        kept.append((here, tried, found))
        best = found.argmin(axis=1)
        move = tried - point.actions[here, None]
        with np.errstate(invalid="ignore"):
            rise = _quadratic(move, point.gradient[here], point.hessian[here])
            expected = np.abs(found - point.value[here, None] - rise) <= 0.5 * rise + least
        better = np.flatnonzero(found[np.arange(here.size), best] < point.value[here] - least)
        chosen = tried[better, best[better]]
        point.put(here[better], chosen, q.derivatives(point.cells[here[better]], chosen))
        some = some[~expected.all(axis=1)]
    some = np.flatnonzero(crossing)
    if some.size:
        here = rows[some]
        probes = probe_actions(pattern, low[some], high[some], centre[some], bounded)
        side, cost = q.sides(point.cells[here], np.concatenate([probes, point.actions[here, None]], axis=1))
        for other in np.unique(side[:, :-1]):
            # what lies ahead changes little beyond an end: the cost says where the least Q may be
            candidates = np.where((side[:, :-1] == other) & (side[:, -1:] != other), cost[:, :-1], np.inf)
            best = candidates.argmin(axis=1)
            there = np.flatnonzero(np.isfinite(candidates[np.arange(some.size), best]))
            cells, chosen = point.cells[here[there]], probes[there, best[there]]
            starts.append(_Point(cells, chosen, *q.derivatives(cells, chosen)))
    return _Point.joined(starts), kept


def _quadratic(move: np.ndarray, gradient: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Return g . x + x H x / 2 (K, P) for moves x (K, P, m), g (K, m) and H (K, m, m)."""
    m = move.shape[2]
    if m >= _FEW:
        return np.einsum("kpa,kpa->kp", move, gradient[:, None, :] + 0.5 * (move @ hessian))
    result = np.zeros(move.shape[:2])
    for a in range(m):
        slope = gradient[:, a, None] + 0.5 * sum(hessian[:, a, b, None] * move[:, :, b] for b in range(m))
        result += move[:, :, a] * slope
    return result


@dataclass
class _Point:
    """One action of some cells (K,): actions (K, m), Q, its gradient and its Hessian there."""

    cells: np.ndarray
    actions: np.ndarray
    value: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> _Point:
        return _Point(*(part[rows] for part in (self.cells, self.actions, self.value, self.gradient, self.hessian)))

    @classmethod
    def joined(cls, parts: Sequence[_Point]) -> _Point:
        names = ("cells", "actions", "value", "gradient", "hessian")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def put(self, rows: np.ndarray, actions: np.ndarray, derivatives: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        """Replace the actions of some rows."""
        self.actions[rows] = actions
        self.value[rows], self.gradient[rows], self.hessian[rows] = derivatives


def _descend_on_line(
    q: ActionValue, point: _Point, rows: np.ndarray, direction: np.ndarray, low: np.ndarray, high: np.ndarray,
    axis: int | None = None,
) -> None:  # fmt: skip
    """Move some points (R,) along directions (R, m) to a local minimum of Q, smooth or at a kink; writes into `point`.

    axis: the action along which all directions are unit vectors, if there is one.

    Newton steps kept in a bracket, whose ends move to the points tried. Where a Newton step does not lower Q, the next trials
    are the crossing of the tangents at both ends (at a kink of two smooth branches these converge like Newton's method)
    and the middle of the bracket, in turn.
    """
    least = rounding(q.evaluation)
    low, high = low[rows], high[rows]
    # actions = origin + place * direction
    place, origin = np.zeros(rows.size), point.actions[rows].copy()
    if axis is not None:
        # places are actions to the last bit
        place, origin[:, axis] = origin[:, axis].copy(), 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = (low - origin) / direction, (high - origin) / direction
    # position, Q and Q' at both ends of the bracket; the bounds of the action to begin with, where Q' is not known
    unknown = np.full(rows.size, np.nan)
    left = np.stack([np.where(direction != 0.0, np.fmin(*ends), -np.inf).max(axis=1), unknown, unknown])
    right = np.stack([np.where(direction != 0.0, np.fmax(*ends), np.inf).min(axis=1), unknown, unknown])
    some = np.flatnonzero((right[0] > left[0]) & direction.any(axis=1))
    failures = np.zeros(rows.size, np.int64)
    for _ in range(_DESCENT):
        along = direction[some]
        gradient = point.gradient[rows[some]]
        slope = gradient[:, axis] if axis is not None else np.einsum("ka,ka->k", gradient, along)
        hessian = point.hessian[rows[some]]
        bend = hessian[:, axis, axis] if axis is not None else np.einsum("kab,ka,kb->k", hessian, along, along)
        here = np.stack([place[some], point.value[rows[some]], slope])
        a = here[0]
        left[:, some] = np.where(slope < 0, here, left[:, some])
        right[:, some] = np.where(slope > 0, here, right[:, some])
        (lo, f_lo, g_lo), (hi, f_hi, g_hi) = left[:, some], right[:, some]
        middle = 0.5 * (lo + hi)
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = np.clip(a - slope / np.abs(bend), lo, hi)
            # f_lo + g_lo (x - lo) = f_hi + g_hi (x - hi)
            crossing = (f_hi - f_lo + g_lo * lo - g_hi * hi) / (g_lo - g_hi)
            crossing = np.where((crossing > lo) & (crossing < hi), crossing, middle)
        stuck = failures[some] > 0
        trial = np.where(stuck, np.where(failures[some] % 2 == 1, crossing, middle), newton)
        # what the slope promises over the way that is left, and over the Newton step
        promised = np.abs(slope) * np.where(slope > 0, a - lo, hi - a)
        useful = (promised > least) & (trial != a) & (stuck | (np.abs(slope * (newton - a)) > least))
        some, trial, a = some[useful], trial[useful], a[useful]
        if some.size == 0:
            return
        actions = np.clip(origin[some] + trial[:, None] * direction[some], low[some], high[some])
        found = q.derivatives(point.cells[rows[some]], actions)
        lower = found[0] < point.value[rows[some]]
        failures[some] = np.where(lower, 0, failures[some] + 1)
        slope = found[1][:, axis] if axis is not None else np.einsum("ka,ka->k", found[1], direction[some])
        tried = np.stack([trial, found[0], slope])
        for end, side in ((left, trial < a), (right, trial > a)):
            end[:, some[~lower & side]] = tried[:, ~lower & side]
        down = some[lower]
        place[down] = trial[lower]
        point.put(rows[down], actions[lower], (found[0][lower], found[1][lower], found[2][lower]))


def _descend(q: ActionValue, point: _Point, rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Move points (R,) with several actions towards a local minimum of Q by Newton steps, each shortened until Q falls.

    Returns those that no short step lowers, though their gradient promises it: they are at a kink.
    """
    least = rounding(q.evaluation)
    kinked = []
    for _ in range(_DESCENT):
        target, slope = newton_candidates(
            point.gradient[rows], point.hessian[rows], point.actions[rows], low[rows], high[rows]
        )
        # the quadratic model gains half of the first-order change
        useful = -slope > least
        rows, target = rows[useful], target[useful]
        if rows.size == 0:
            break
        pending = np.arange(rows.size)
        origin = point.actions[rows]
        fell = np.zeros(rows.size, bool)
        for _ in range(_SHORTENINGS):
            trial = q.values(point.cells[rows[pending]], target[pending][:, None, :])[:, 0]
            down = trial < point.value[rows[pending]]
            fell[pending[down]] = True
            pending = pending[~down]
            if pending.size == 0:
                break
            target[pending] = origin[pending] + 0.25 * (target[pending] - origin[pending])
        kinked.append(rows[~fell])
        rows, target = rows[fell], target[fell]
        point.put(rows, target, q.derivatives(point.cells[rows], target))
    return np.concatenate([*kinked, rows])


def _along_kinks(q: ActionValue, point: _Point, rows: np.ndarray) -> Iterator[Callable[[], np.ndarray]]:
    """Yield functions that give directions (R, m) to search from points at kinks: the axes, and along the ends of clamped axes.

    An end that actions move a mean over is a surface n . da = 0, n the gradient of the mean; along it a Newton step.
    """
    m = point.actions.shape[1]
    for a in np.flatnonzero(~q.evaluation.model.problem.listed).tolist():
        yield lambda a=a: np.repeat(np.eye(m)[a : a + 1], rows.size, axis=0)  # type: ignore[misc]
    for j, (bottom, top, _) in q.ends.items():
        if not q.evaluation.model.problem.dependence.actions[j]:
            continue

        def tangent(j: int = j, bottom: float = bottom, top: float = top) -> np.ndarray:
            tables = q.evaluation.model.tables(point.cells[rows], point.actions[rows, None], 1)
            assert tables.mean_gradient is not None
            mean, normal = tables.mean[:, 0, j], tables.mean_gradient[:, 0, j]
            size = np.sqrt(np.einsum("ka,ka->k", normal, normal))
            near = np.minimum(np.abs(mean - bottom), np.abs(mean - top)) <= _NEAR * (top - bottom)
            with np.errstate(divide="ignore", invalid="ignore"):
                normal = np.where((near & (size > 0))[:, None], normal / size[:, None], 0.0)
            outer = normal[:, :, None] * normal[:, None, :]
            flat = np.eye(m) - outer
            slope = np.einsum("kab,kb->ka", flat, point.gradient[rows])
            bend = np.einsum("kab,kbc,kcd->kad", flat, point.hessian[rows], flat) + outer
            values, vectors = np.linalg.eigh(bend)
            values = np.maximum(np.abs(values), 1e-12 * np.abs(values).max(axis=1, keepdims=True) + np.finfo(float).tiny)
            step: np.ndarray = -np.einsum("kab,kb,kcb,kc->ka", vectors, 1.0 / values, vectors, slope)
            return np.where(near[:, None], step, 0.0)

        yield tangent
