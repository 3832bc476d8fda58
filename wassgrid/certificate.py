"""A certificate of global optimality: a proven lower bound on the best possible J of the discretised problem.

For any function V, with T V(s) = min_a [c(s, a) + g E V(s')]:

    J* >= min_s (T V(s) - V(s))                           average cost, g = 1 (Odoni 1969, MacQueen 1966)
    J* >= (1 - g) rho V + min_s (T V(s) - V(s))           discounted

Both follow from T being monotone, so the rows of P must be nonnegative and sum to one; V need not solve any equation. The minimum
over the actions of a cell is bounded from below by branch and bound: on a box of actions Q is at least its quadratic Taylor
polynomial with the curvature replaced by a lower bound over the box. That bound comes from interval arithmetic on the
derivatives of cost and mean, and from bounds on the kernels' derivatives (`enclosure`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from wassgrid import enclosure
from wassgrid.action_value import ActionValue
from wassgrid.evaluation import Evaluation
from wassgrid.flow import rounding
from wassgrid.newton import newton_candidates

_PROBES = 9  # actions per cell that start the search for the best one
_DESCENT = 40  # steps at most from the best probe to its local minimum
_LOOSENESS = 0.5  # of the gap that branch and bound may leave unproven
_BOXES = (40, 160, 320)  # per cell on average for 1, 2 and more actions, after which branch and bound stops with what it has
_ROUNDS = 80
_CHUNK = 1 << 15  # boxes bounded at once
_SHELLS = 40  # doublings of the distance over which an unbounded action is searched


@dataclass(frozen=True)
class Certificate:
    """Hold a lower bound on the optimal J and the best action found in every cell.

    | name         | shape      | meaning                                                                                |
    |--------------|------------|----------------------------------------------------------------------------------------|
    | lower_bound  |            | J* is not below it                                                                     |
    | gap          |            | J - lower_bound                                                                        |
    | slack        | (cells,)   | lower bounds of min_a Q - V, sharp where they decide on lower_bound; at most about 0   |
    | best_actions | (cells, m) | best action found                                                                      |
    | best_values  | (cells,)   | its Q                                                                                  |

    guaranteed: whether lower_bound is proven, up to rounding; `method` says how, and what was assumed. boxes: action boxes bounded.
    """

    lower_bound: float
    gap: float
    slack: np.ndarray
    best_actions: np.ndarray
    best_values: np.ndarray
    guaranteed: bool
    method: str
    boxes: int
    times: dict[str, float] = field(default_factory=dict)


def certify(evaluation: Evaluation, tolerance: float | None = None) -> Certificate:
    """Bound the optimal J from below, with the V of a policy, and find the best action of every cell.

    tolerance: width, in units of J, to which the bound need not be sharp near the optimum (default: 1e-12 of the size of
    V); away from it, half of the gap. Guaranteed for kernels that give Markov matrices (not for `cubic`). Where
    actions are unbounded, the cost must be seen to grow: beyond some distance from the particles it alone exceeds what is
    reached (`search_box`).
    """
    began = time.perf_counter()
    scale = float(np.abs(evaluation.cost).max() + np.abs(evaluation.value).max())
    if tolerance is None:
        tolerance = 1e-12 * scale
    low, high, assumed, coercive = search_box(evaluation)
    q = ActionValue.build(evaluation, low, high)
    actions, values = best_actions(q, low, high)
    found = time.perf_counter()
    cells = np.arange(evaluation.policy.grid.size)
    markov = "cubic" not in evaluation.model.kernels
    if markov:
        proof = _BranchAndBound(q, low, high, actions, values, tolerance)
        proof.run()
        lower, boxes = proof.lower - margin(evaluation), proof.boxes
        method = f"branch and bound over {boxes} action boxes in {cells.size} cells"
    else:
        lower, boxes = values, 0
        method = f"best of {_PROBES} actions per cell and Newton steps from it: the cubic kernel is not a Markov matrix"
    if assumed:
        method += f"; {assumed}"
    slack = lower - evaluation.value
    # average: V is relative and Q holds - J;  discounted: (1 - g) rho V = J
    bound = evaluation.objective + float(slack.min())
    times = {"search": found - began, "proof": time.perf_counter() - found}
    return Certificate(
        bound, evaluation.objective - bound, slack, actions, values, markov and coercive, method, boxes, times
    )


def margin(evaluation: Evaluation) -> float:
    """Return what rounding and the truncated tails of the kernels may change in a value of Q between two actions."""
    return rounding(evaluation) + enclosure.TAIL_MASS * float(np.ptp(evaluation.value)) * evaluation.policy.grid.dimension


# -- where to look -----------------------------------------------------------------------------------------------------


def search_box(evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray, str, bool]:
    """Return boxes of actions low, high (cells, m) that hold the best action of every cell, what was assumed, and whether
    nothing more than that was.

    These are the action bounds; an infinite one is moved in to where the cost alone, with the least V anywhere, exceeds the Q
    of the cell's best particle.
    """
    policy, problem = evaluation.policy, evaluation.model.problem
    cells, _, m = policy.actions.shape
    low, high = (np.repeat(side[None, :], cells, axis=0) for side in problem.action_bounds.T)
    best = evaluation.q.argmin(axis=1)
    centre = policy.actions[np.arange(cells), best]
    # outside Q >= c - J + g min V
    offset = evaluation.objective if evaluation.discount == 1.0 else 0.0
    level = evaluation.q[np.arange(cells), best] + offset - evaluation.discount * evaluation.value.min()
    level = level + margin(evaluation)
    open_low, open_high = np.isinf(low[0]), np.isinf(high[0])
    if not (open_low | open_high).any():
        return low, high, "", True
    below, above = _convex_distances(evaluation, centre, low, high, level)
    start = 1e-3 * (np.ptp(policy.actions, axis=(0, 1)) + np.abs(centre).max(axis=0))
    start = np.where(start > 0, start, 1e-3)
    farthest, grows = np.inf, True
    for a in range(m):
        for is_open, ends, sign, convex in ((open_low, low, -1.0, below), (open_high, high, 1.0, above)):
            if is_open[a]:
                distance = convex[:, a].copy()
                rest = np.flatnonzero(~np.isfinite(distance))
                if rest.size:
                    distance[rest], far, seen = _coercive_distance(
                        evaluation, rest, centre[rest], a, sign, float(start[a]), level[rest]
                    )
                    farthest, grows = min(farthest, far), grows and seen
                ends[:, a] = centre[:, a] + sign * distance
    if not grows:
        return low, high, "the cost is not seen to grow with the actions, only those near the particles were searched", False
    if farthest < np.inf:
        return low, high, f"actions up to {farthest:.1g} from the particles", True
    return low, high, "", True


def _convex_distances(
    evaluation: Evaluation, centre: np.ndarray, low: np.ndarray, high: np.ndarray, level: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return distances below and above the centre, (cells, m), from which on a strongly convex cost exceeds `level`; else infinite.

        c(p + x) >= c + c' . x + sum_a L_a x_a^2 / 2,  L_a > 0 over all actions
    """
    problem, states = evaluation.model.problem, evaluation.policy.grid.states
    tables = problem.action_tables(states, centre[:, None, :], 1)
    assert tables.cost_gradient is not None
    cost, slope = tables.cost[:, 0], tables.cost_gradient[:, 0]
    ranges = problem.action_ranges(states, low, high)
    result = np.full((2, *centre.shape), np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        for curvature in _least_curvature(ranges.cost[2]):
            convex = (curvature > 0).all(axis=1) & (ranges.smoothness == 2)
            dip = 0.5 * slope**2 / curvature
            # the other actions can lower the cost by their dips at most
            rise = (level - cost)[:, None] + dip.sum(axis=1, keepdims=True) - dip
            root = np.sqrt(np.maximum(slope**2 + 2.0 * curvature * rise, 0.0))
            for side, sign in enumerate((-1.0, 1.0)):
                distance = np.where(convex[:, None], np.maximum((root - sign * slope) / curvature, 0.0), np.inf)
                result[side] = np.fmin(result[side], distance * (1 + 1e-9))
    return result[0], result[1]


def _coercive_distance(
    evaluation: Evaluation, cells: np.ndarray, centre: np.ndarray, a: int, sign: float, start: float, level: np.ndarray
) -> tuple[np.ndarray, float, bool]:
    """Return distances along one side of action a from which on the cost of some cells exceeds `level`, how far, and whether so.

    The half-line beyond a distance is seen at once by interval arithmetic; where that fails because terms of both signs grow,
    shells between doubled distances are, up to `start` 2^40.
    """
    problem, states = evaluation.model.problem, evaluation.policy.grid.states[cells]

    def least_cost(rows: np.ndarray, near: np.ndarray, far: np.ndarray) -> np.ndarray:
        low, high = (np.repeat(side[None, :], rows.size, axis=0) for side in problem.action_bounds.T)
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
    wide = 4.0 * max(float(np.ptp(evaluation.policy.actions[:, :, a])), 1e3 * start)
    distance[rest] = np.where(grows, last, wide)
    return distance, farthest, bool(grows.all())


def probe_actions(
    low: np.ndarray, high: np.ndarray, centre: np.ndarray, bounded: np.ndarray, count: int = _PROBES
) -> np.ndarray:
    """Return actions that fill boxes low, high (cells, m), (cells, P, m): P = count for m = 1, more for larger m.

    One action: both ends and points between. More: the corners (up to m = 3) and an additive recurrence with the generalised
    golden ratio (Roberts 2018). Evenly where the action is bounded (m,), else denser towards the centre (cells, m).
    """
    m = low.shape[1]
    if m == 1:
        unit = np.linspace(-1.0, 1.0, count)[:, None]
    else:
        ratio = 2.0
        for _ in range(60):
            ratio = (1.0 + ratio) ** (1.0 / (m + 1))
        steps = np.arange(1, 3 * count * (m - 1) + 1)[:, None] * ratio ** -np.arange(1.0, m + 1)
        unit = 2.0 * np.mod(0.5 + steps, 1.0) - 1.0
        if m <= 3:
            corners = np.stack(np.meshgrid(*[[-1.0, 1.0]] * m, indexing="ij"), axis=-1).reshape(-1, m)
            unit = np.concatenate([corners, unit])
    low, high, centre = low[:, None, :], high[:, None, :], centre[:, None, :]
    even = 0.5 * (low + high) + 0.5 * (high - low) * unit
    dense = centre + np.where(unit < 0, centre - low, high - centre) * unit**3
    return np.clip(np.where(bounded, even, dense), low, high)


def best_actions(q: ActionValue, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best action found in every cell, (cells, m), and its Q, (cells,).

    The best of the particles and of the probe actions, then descent from it.
    """
    evaluation = q.evaluation
    cells = np.arange(len(low))
    first = evaluation.q.argmin(axis=1)
    point = _Point(
        evaluation.policy.actions[cells, first].copy(),
        evaluation.q[cells, first].copy(),
        evaluation.q_gradient[cells, first].copy(),
        evaluation.q_hessian[cells, first].copy(),
    )
    bounded = np.isfinite(evaluation.model.problem.action_bounds).all(axis=1)
    probes = probe_actions(low, high, point.actions, bounded)
    probed = q.values(cells, probes)
    best = probed.argmin(axis=1)
    better = np.flatnonzero(probed[cells, best] < point.value - rounding(evaluation))
    point.actions[better] = probes[better, best[better]]
    point.put(better, point.actions[better], q.derivatives(better, point.actions[better]))
    (_descend_on_line if low.shape[1] == 1 else _descend)(q, point, low, high)
    return point.actions, point.value


@dataclass
class _Point:
    """One action of every cell: actions (cells, m), Q, its gradient and its Hessian there."""

    actions: np.ndarray
    value: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray

    def put(self, cells: np.ndarray, actions: np.ndarray, derivatives: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        """Replace the actions of some cells."""
        self.actions[cells] = actions
        self.value[cells], self.gradient[cells], self.hessian[cells] = derivatives


def _descend_on_line(q: ActionValue, point: _Point, low: np.ndarray, high: np.ndarray) -> None:
    """Move the one action of every cell to a local minimum of Q, smooth or at a kink; writes into `point`.

    Newton steps kept in a bracket, which the sign of Q' narrows; where a Newton step fails, the crossing of the tangents at the two
    ends of the bracket (at a kink of two smooth branches this converges like Newton's method), then the middle.
    """
    least = rounding(q.evaluation)
    left, right = low[:, 0].copy(), high[:, 0].copy()
    left_slope, right_slope = np.full(left.size, np.nan), np.full(left.size, np.nan)
    cells = np.arange(left.size)
    failures = np.zeros(left.size, np.int64)
    for _ in range(_DESCENT):
        a, slope = point.actions[cells, 0], point.gradient[cells, 0]
        rising = slope > 0
        right[cells] = np.where(rising, a, right[cells])
        right_slope[cells] = np.where(rising, slope, right_slope[cells])
        left[cells] = np.where(slope < 0, a, left[cells])
        left_slope[cells] = np.where(slope < 0, slope, left_slope[cells])
        lo, hi = left[cells], right[cells]
        curvature = np.abs(point.hessian[cells, 0, 0])
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = np.clip(np.where(slope == 0.0, a, a - slope / curvature), lo, hi)
            # tangents cross where  f(lo) + g_lo (x - lo) = f(hi) + g_hi (x - hi);  one end is a, the other as good as a
            crossing = (right_slope[cells] * hi - left_slope[cells] * lo) / (right_slope[cells] - left_slope[cells])
        middle = 0.5 * (lo + hi)
        crossing = np.where((crossing > lo) & (crossing < hi), crossing, middle)
        trial = np.where(failures[cells] == 0, newton, np.where(failures[cells] % 2 == 1, crossing, middle))
        # no more than rounding to gain: the slope times the way that is left
        far = np.where(rising, a - lo, hi - a)
        gain = np.abs(slope) * np.minimum(far, np.abs(newton - a) if True else far)
        useful = (slope != 0.0) & (np.abs(slope) * far > least) & (trial != a) & ((gain > least) | (failures[cells] > 0))
        cells, trial = cells[useful], trial[useful]
        if cells.size == 0:
            return
        found = q.derivatives(cells, trial[:, None])
        lower = found[0] < point.value[cells]
        # a trial that is not lower still narrows the bracket from its side
        beyond = trial > point.actions[cells, 0]
        worse = ~lower
        right[cells[worse & beyond]] = trial[worse & beyond]
        right_slope[cells[worse & beyond]] = found[1][worse & beyond, 0]
        left[cells[worse & ~beyond]] = trial[worse & ~beyond]
        left_slope[cells[worse & ~beyond]] = found[1][worse & ~beyond, 0]
        failures[cells] = np.where(lower, 0, failures[cells] + 1)
        down = cells[lower]
        point.put(down, trial[lower, None], tuple(part[lower] for part in found))


def _descend(q: ActionValue, point: _Point, low: np.ndarray, high: np.ndarray) -> None:
    """Move several actions per cell towards a local minimum of Q by Newton steps, each shortened until Q falls."""
    least = rounding(q.evaluation)
    cells = np.arange(len(low))
    for _ in range(_DESCENT):
        target, slope = newton_candidates(
            point.gradient[cells], point.hessian[cells], point.actions[cells], low[cells], high[cells]
        )
        # the quadratic model gains half of the first-order change
        useful = -slope > least
        cells, target = cells[useful], target[useful]
        if cells.size == 0:
            return
        pending = np.arange(cells.size)
        origin = point.actions[cells]
        fell = np.zeros(cells.size, bool)
        for _ in range(_DESCENT):
            trial = q.values(cells[pending], target[pending][:, None, :])[:, 0]
            down = trial < point.value[cells[pending]]
            fell[pending[down]] = True
            pending = pending[~down]
            if pending.size == 0:
                break
            target[pending] = origin[pending] + 0.25 * (target[pending] - origin[pending])
        cells, target = cells[fell], target[fell]
        point.put(cells, target, q.derivatives(cells, target))


# -- branch and bound --------------------------------------------------------------------------------------------------


def _product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Multiply ranges stacked as (lower, upper) along the first axis."""
    corners = x[:, None] * y[None, :]
    # an infinite end times 0: the other factor's range touches 0 only
    corners = np.where(np.isnan(corners), 0.0, corners).reshape(4, *np.shape(x)[1:])
    return np.stack([corners.min(axis=0), corners.max(axis=0)])


def _hull(centre: np.ndarray, radius: np.ndarray) -> np.ndarray:
    return np.stack([centre - radius, centre + radius])


@dataclass
class _Boxes:
    """Boxes of actions: cells (K,), low, high and expansion point (K, m); central: the point is the cell's best action."""

    cells: np.ndarray
    low: np.ndarray
    high: np.ndarray
    point: np.ndarray
    central: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> _Boxes:
        return _Boxes(self.cells[rows], self.low[rows], self.high[rows], self.point[rows], self.central[rows])


@dataclass
class _Bounded:
    """What is known on boxes: lower bounds of Q (K,), Q at the point, curvature at the point and its lower bound (K, m), smooth."""

    lower: np.ndarray
    value: np.ndarray
    curvature: np.ndarray
    least_curvature: np.ndarray
    smooth: np.ndarray


class _BranchAndBound:
    """Bound min_a Q(s, a) from below in every cell, sharply where Q - V is least.

    lower (cells,) holds the result. A box is done when its bound is not more than `tolerance`, or half of the gap, below
    the least min_a Q - V known over all cells.
    """

    def __init__(
        self,
        q: ActionValue,
        low: np.ndarray,
        high: np.ndarray,
        actions: np.ndarray,
        values: np.ndarray,
        tolerance: float,
    ) -> None:
        self.q, self.evaluation = q, q.evaluation
        evaluation = self.evaluation
        self.actions, self.values = actions, values
        self.tolerance = tolerance
        self.lower = np.full(values.size, np.inf)
        self.boxes = 0
        self.least_value = float(evaluation.value.min())
        cells = np.arange(values.size)
        self.open = _Boxes(cells, low, high, actions.copy(), np.ones(cells.size, bool))

    def run(self) -> None:
        """Split boxes until all are done, or the budget is spent: then the bound holds what the open ones allow."""
        value = self.evaluation.value
        boxes = self.open
        budget = _BOXES[min(boxes.low.shape[1], 3) - 1] * value.size + 10_000
        for _ in range(_ROUNDS):
            found = self._bounded(boxes)
            self.boxes += boxes.cells.size
            self._learn(boxes, found)
            gap = float((self.values - value).min())
            level = value + gap - max(self.tolerance, -_LOOSENESS * gap)
            tiny = (boxes.high - boxes.low).max(axis=1) <= 1e-13 * (1.0 + np.abs(boxes.point).max(axis=1))
            spent = self.boxes > budget
            done = (found.lower >= level[boxes.cells]) | tiny | spent
            np.minimum.at(self.lower, boxes.cells[done], found.lower[done])
            rest = np.flatnonzero(~done)
            if rest.size == 0:
                return
            boxes = self._split(boxes[rest], found, rest)
        np.minimum.at(self.lower, boxes.cells, self._bounded(boxes).lower)

    def _learn(self, boxes: _Boxes, found: _Bounded) -> None:
        """Keep better actions met at the points of boxes."""
        better = np.flatnonzero(found.value < self.values[boxes.cells] - rounding(self.evaluation))
        # of several boxes of a cell the best comes last
        better = better[np.argsort(-found.value[better], kind="stable")]
        self.values[boxes.cells[better]] = found.value[better]
        self.actions[boxes.cells[better]] = boxes.point[better]

    def _split(self, boxes: _Boxes, found: _Bounded, rest: np.ndarray) -> _Boxes:
        """Cut a box in the middle of its most curved side; a central one into a smaller one about its point, and slabs."""
        curvature, least = found.curvature[rest], found.least_curvature[rest]
        below, above = boxes.point - boxes.low, boxes.high - boxes.point
        side = np.maximum(below, above)
        with np.errstate(divide="ignore", invalid="ignore"):
            # the lower bound of the curvature falls about linearly with the radius: half of where it meets zero
            ratio = np.clip(np.nan_to_num(0.5 * curvature / (curvature - least), nan=0.25), 1 / 16, 1 / 2)
        ratio = np.where((curvature > 0) & found.smooth[rest][:, None], ratio, 0.25)
        parts = []
        inner = boxes.central
        if inner.any():
            low, high = boxes.low[inner].copy(), boxes.high[inner].copy()
            cells, point = boxes.cells[inner], boxes.point[inner]
            radius = (ratio * side)[inner]
            none = np.zeros(cells.size, bool)
            for a in range(low.shape[1]):
                cut_low = np.maximum(low[:, a], point[:, a] - radius[:, a])
                cut_high = np.minimum(high[:, a], point[:, a] + radius[:, a])
                for start, end in ((low[:, a].copy(), cut_low), (cut_high, high[:, a].copy())):
                    slab_low, slab_high = low.copy(), high.copy()
                    slab_low[:, a], slab_high[:, a] = start, end
                    some = end > start
                    parts.append(_Boxes(cells, slab_low, slab_high, 0.5 * (slab_low + slab_high), none)[some])
                low[:, a], high[:, a] = cut_low, cut_high
            parts.append(_Boxes(cells, low, high, point, ~none))
        outer = boxes[~inner]
        if outer.cells.size:
            width = outer.high - outer.low
            bend = np.abs(least[~inner]) + np.abs(curvature[~inner])
            axis = (width**2 * np.where(np.isfinite(bend), bend + 1e-300, 1.0)).argmax(axis=1)
            rows = np.arange(axis.size)
            middle = 0.5 * (outer.low[rows, axis] + outer.high[rows, axis])
            for upper in (False, True):
                low, high = outer.low.copy(), outer.high.copy()
                (low if upper else high)[rows, axis] = middle
                parts.append(_Boxes(outer.cells, low, high, 0.5 * (low + high), outer.central))
        return _Boxes(
            *(np.concatenate([getattr(p, k) for p in parts]) for k in ("cells", "low", "high", "point", "central"))
        )

    def _bounded(self, boxes: _Boxes) -> _Bounded:
        chunks = [
            self._bounded_chunk(boxes[np.arange(start, min(start + _CHUNK, boxes.cells.size))])
            for start in range(0, boxes.cells.size, _CHUNK)
        ]
        return _Bounded(
            *(
                np.concatenate([getattr(c, k) for c in chunks])
                for k in ("lower", "value", "curvature", "least_curvature", "smooth")
            )
        )

    def _bounded_chunk(self, boxes: _Boxes) -> _Bounded:
        """Bound Q on boxes from below by Taylor polynomials about their points.

            Q(p + x) >= Q + Q' . x + sum_a L_a x_a^2 / 2,   L_a <= the curvature over the box     where Q is smooth
            Q(p + x) >= Q + min over the range of Q' on the box of Q' . x                        where it is Lipschitz
            Q        >= min c - J + g min E V                                                    always
        """
        e = self.evaluation
        model, problem, g = e.model, e.model.problem, e.discount
        offset = e.objective if g == 1.0 else 0.0
        count, m = boxes.low.shape
        tables = model.tables(boxes.cells, boxes.point[:, None, :], 2)
        ranges = problem.action_ranges(model.grid.states[boxes.cells], boxes.low, boxes.high)
        mean, slope = tables.mean[:, 0], tables.mean_gradient[:, 0]
        radius = np.maximum(ranges.mean[0][1] - mean, mean - ranges.mean[0][0])
        radius = np.where(ranges.mean[0][1] > ranges.mean[0][0], np.maximum(radius, 0.0), 0.0)
        expected, d1, d2, floor, lipschitz, bend, smooth, bounded = self.q.enclose(boxes.cells, mean, radius)
        axes = np.flatnonzero((radius > 0).any(axis=0))
        value = tables.cost[:, 0] - offset + g * expected
        gradient = tables.cost_gradient[:, 0] + g * np.einsum("kj,kja->ka", d1, slope)
        hessian = (
            tables.cost_hessian[:, 0]
            + g * np.einsum("kjl,kja,klb->kab", d2, slope, slope)
            + g * np.einsum("kj,kjab->kab", d1, tables.mean_hessian[:, 0])
        )
        smooth = smooth & (ranges.smoothness == 2)
        below, above = boxes.low - boxes.point, boxes.high - boxes.point
        with np.errstate(invalid="ignore", over="ignore"):
            # ranges of E_j and E_jl over the box of means
            d2_range = _hull(d2, bend)
            drift = np.einsum("kjl,kl->kj", np.abs(d2) + 0.5 * bend, radius)
            d1_range = _hull(np.zeros_like(lipschitz), np.where(bounded[:, None], lipschitz, np.inf))
            near_centre = _hull(d1, np.where(smooth[:, None], drift, np.inf))
            d1_range = np.stack([np.maximum(d1_range[0], near_centre[0]), np.minimum(d1_range[1], near_centre[1])])
            # second order
            lower = np.full(count, -np.inf)
            curvature_range = ranges.cost[2].copy()
            for j in axes:
                for a in range(m):
                    for b in range(m):
                        part = _product(d1_range[:, :, j], ranges.mean[2][:, :, j, a, b])
                        for l in axes:
                            pair = _product(ranges.mean[1][:, :, j, a], ranges.mean[1][:, :, l, b])
                            if j == l and a == b:
                                pair = np.maximum(pair, 0.0)
                            part = part + _product(d2_range[:, :, j, l], pair)
                        curvature_range[:, :, a, b] += g * part
            least = _least_curvature(curvature_range)
            for choice in least:
                lower = np.maximum(lower, value + _least_quadratic(gradient, choice, below, above))
            lower = np.where(smooth, lower, -np.inf)
            # first order
            slope_range = ranges.cost[1].copy()
            for j in axes:
                for a in range(m):
                    slope_range[:, :, a] += g * _product(d1_range[:, :, j], ranges.mean[1][:, :, j, a])
            # at the point itself the derivative is known
            linear = np.minimum(below * slope_range[1], above * slope_range[0])
            linear = np.where(bounded & (ranges.smoothness >= 1), value + np.minimum(linear, 0.0).sum(axis=1), -np.inf)
            lower = np.fmax(lower, linear)
            # zeroth order
            least_expected = expected - np.where(bounded, (lipschitz * radius).sum(axis=1), np.inf)
            constant = ranges.cost[0][0] - offset + g * np.maximum(np.maximum(least_expected, floor), self.least_value)
            lower = np.fmax(np.nan_to_num(lower, nan=-np.inf), constant)
        at_point = np.einsum("kaa->ka", hessian)
        return _Bounded(lower, value, at_point, np.nan_to_num(least[0], nan=-np.inf), smooth)


def _least_curvature(ranges: np.ndarray) -> list[np.ndarray]:
    """Return diagonals L (K, m) with H - diag L positive semidefinite for all H in the ranges (2, K, m, m).

    By rows (Gershgorin): L_a = H_aa - sum_b |H_ab|; and, for several actions, the least eigenvalue of the middle less the norm
    of the radius.
    """
    diagonal = np.einsum("kaa->ka", ranges[0])
    m = diagonal.shape[1]
    if m == 1:
        return [diagonal]
    size = np.abs(ranges).max(axis=0)
    rows = diagonal - (size.sum(axis=2) - np.einsum("kaa->ka", size))
    middle, radius = 0.5 * (ranges[0] + ranges[1]), 0.5 * (ranges[1] - ranges[0])
    finite = np.isfinite(middle).all(axis=(1, 2))
    eigenvalue = np.linalg.eigvalsh(np.where(finite[:, None, None], middle, 0.0))[:, 0] - radius.sum(axis=2).max(axis=1)
    eigenvalue = np.where(finite, eigenvalue, -np.inf)
    return [rows, np.repeat(eigenvalue[:, None], m, axis=1)]


def _least_quadratic(gradient: np.ndarray, curvature: np.ndarray, below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Return sum_a min over below_a <= x <= above_a of g_a x + L_a x^2 / 2, (K,)."""
    ends = np.minimum(
        gradient * below + 0.5 * curvature * below**2, gradient * above + 0.5 * curvature * above**2
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = -gradient / curvature
        inside = (curvature > 0) & (vertex > below) & (vertex < above)
        least = np.where(inside, 0.5 * gradient * vertex, ends)
    return np.where(np.isnan(least), -np.inf, least).sum(axis=1)
