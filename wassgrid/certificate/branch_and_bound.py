"""Branch and bound: the least Q(s, .) of every cell from below, by Taylor polynomials on boxes of actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wassgrid.certificate.action_value import ActionValue, Enclosure
from wassgrid.chain.reductions import ends
from wassgrid.evaluation import rounding
from wassgrid.problem.control_problem import ActionRanges
from wassgrid.transition.threads import TEAM

_LOOSENESS = 0.5  # of the gap that branch and bound may leave unproven
_BOXES = (40, 160, 320)  # per cell on average for 1, 2 and more actions, after which branch and bound stops with what it has
_ROUNDS = 80
_BOXES_AT_ONCE = 1 << 14  # boxes of up to _FEW actions that a thread bounds at once, and cells whose boxes it has open
_FEW = 4
_MANY = 8  # actions, beyond which the budget shrinks with their square


def boxes_at_once(m: int) -> int:
    """Return how many boxes a thread bounds at once, for m actions: tables of one hold m^2 numbers."""
    return max(1, _BOXES_AT_ONCE * _FEW**2 // max(m, _FEW) ** 2)


def _product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Multiply ranges stacked as (lower, upper) along the first axis."""
    x, y = x[:, None], y[None, :]
    # an infinite end times 0: infinity itself is not in the range; what is not a number stays that
    none = ((x == 0.0) & np.isinf(y)) | (np.isinf(x) & (y == 0.0))
    with np.errstate(invalid="ignore", over="ignore"):
        corners = np.where(none, 0.0, x * y)
    corners = corners.reshape(4, *corners.shape[2:])
    return np.stack([corners.min(axis=0), corners.max(axis=0)])


@dataclass
class Boxes:
    """Boxes of actions: cells (K,), low, high and expansion point (K, m); central: the point is the cell's best action."""

    cells: np.ndarray
    low: np.ndarray
    high: np.ndarray
    point: np.ndarray
    central: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Boxes:
        return Boxes(self.cells[rows], self.low[rows], self.high[rows], self.point[rows], self.central[rows])

    @classmethod
    def joined(cls, parts: Sequence[Boxes]) -> Boxes:
        names = ("cells", "low", "high", "point", "central")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass
class Bounded:
    """What is known on boxes: lower bound of Q (K,), Q at the point, curvature there and its lower bound (K, m), smooth (K,).

    side, cut (K,): the action at whose value `cut` the law has a kink, -1: none is known.
    """

    lower: np.ndarray
    value: np.ndarray
    curvature: np.ndarray
    least_curvature: np.ndarray
    smooth: np.ndarray
    side: np.ndarray
    cut: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Bounded:
        return Bounded(
            self.lower[rows], self.value[rows], self.curvature[rows], self.least_curvature[rows], self.smooth[rows],
            self.side[rows], self.cut[rows],
        )  # fmt: skip

    @classmethod
    def joined(cls, parts: Sequence[Bounded]) -> Bounded:
        names = ("lower", "value", "curvature", "least_curvature", "smooth", "side", "cut")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _joined(parts: Sequence[tuple[Boxes, Bounded]]) -> tuple[Boxes, Bounded]:
    return Boxes.joined([boxes for boxes, _ in parts]), Bounded.joined([found for _, found in parts])


class BranchAndBound:
    """Bound min_a Q(s, a) from below in every cell, sharply where Q - V is least.

    lower (cells,) holds the result. A box is done when its bound is not more than `tolerance`, or half of the gap, below
    the least min_a Q - V of the actions given, over all cells; in a cell where better actions are met, below those. Where values
    of a list stand beside actions between bounds, every combination of values has a box of its own in every cell.
    A cell that fails does not end the others: `actions` and `values` hold better ones of all cells where there are.
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
        self.least_value = ends(evaluation.value)[0]
        self.problem = evaluation.model.problem
        self.parts = self.problem.parts(low, high)
        self.moving = np.flatnonzero(~self.problem.listed)
        self.target = float(self._allowed(np.array(ends(values - evaluation.value)[0])))

    def run(self) -> None:
        """Split boxes until all are done, or the budget is spent: then the bound holds what the open ones allow.

        Some cells at once, and on several threads: beyond the results nothing is kept but their open boxes.
        """
        controlled = self.evaluation.controlled
        cells = np.arange(self.values.size) if controlled is None else np.flatnonzero(controlled)
        if controlled is not None:
            self.lower[~controlled] = self.values[~controlled]  # the same for every action
        at_once = max(1, boxes_at_once(self.actions.shape[1]) // len(self.parts))
        blocks = [cells[start : start + at_once] for start in range(0, cells.size, at_once)]
        self.boxes = sum(TEAM.share(self._run_cells, blocks))

    def _allowed(self, known: np.ndarray) -> np.ndarray:
        """Return how far down a bound of min_a Q - V may be where an action reaches `known`; it grows with `known`."""
        return known - np.maximum(self.tolerance, -_LOOSENESS * known)

    def _run_cells(self, cells: np.ndarray) -> int:
        """Bound Q in some cells, whose number of boxes is returned; writes to nothing of the others."""
        m, moving = self.actions.shape[1], self.moving.size
        # splitting closes few gaps among many actions, and a box costs their square
        budget = len(self.parts) * (_BOXES[min(moving, 3) - 1] * cells.size + 10_000) * _MANY**2 // max(moving, _MANY) ** 2
        boxes = Boxes.joined([self._whole(cells, *part) for part in self.parts])
        seen = boxes.cells.size
        waiting = [self._examined(boxes, seen > budget)]
        for _ in range(_ROUNDS):
            boxes = self._split(*_joined(waiting))
            if boxes.cells.size == 0:
                return seen
            waiting, at_once = [], boxes_at_once(m)
            for start in range(0, boxes.cells.size, at_once):
                some = boxes[np.arange(start, min(start + at_once, boxes.cells.size))]
                seen += some.cells.size
                waiting.append(self._examined(some, seen > budget))
        rest, found = _joined(waiting)
        np.minimum.at(self.lower, rest.cells, found.lower)
        return seen

    def _whole(self, cells: np.ndarray, low: np.ndarray, high: np.ndarray) -> Boxes:
        """Return one box for every cell, about its best action; with other values in the middle."""
        low, high, point, central = low[cells], high[cells], self.actions[cells], np.ones(cells.size, bool)
        if len(self.parts) > 1:
            central = (point[:, self.problem.listed] == low[:, self.problem.listed]).all(axis=1)
            point = np.where(central[:, None], point, 0.5 * (low + high))
        return Boxes(cells, low, high, point, central)

    def _examined(self, boxes: Boxes, last: bool) -> tuple[Boxes, Bounded]:
        """Bound boxes, write down what is done (all where these are the last), and return those that are open."""
        value = self.evaluation.value[boxes.cells]
        found = self.bounded(boxes, value + self.target)
        self._learn(boxes, found)
        allowed = np.minimum(self.target, self._allowed(self.values[boxes.cells] - value))
        tiny = (boxes.high - boxes.low).max(axis=1) <= 1e-13 * (1.0 + np.abs(boxes.point).max(axis=1))
        done = (found.lower >= value + allowed) | tiny | last
        np.minimum.at(self.lower, boxes.cells[done], found.lower[done])
        rest = np.flatnonzero(~done)
        return boxes[rest], found[rest]

    def _learn(self, boxes: Boxes, found: Bounded) -> None:
        """Keep better actions met at the points of boxes."""
        better = np.flatnonzero(found.value < self.values[boxes.cells] - rounding(self.evaluation))
        # of several boxes of a cell the best comes last
        better = better[np.argsort(-found.value[better], kind="stable")]
        self.values[boxes.cells[better]] = found.value[better]
        self.actions[boxes.cells[better]] = boxes.point[better]

    def _split(self, boxes: Boxes, found: Bounded) -> Boxes:
        """Cut boxes.

        One with a kink known inside is cut there. Others: in the middle of the most curved side; a central one into a smaller one
        about its point, and slabs.
        """
        kinked = found.side >= 0
        parts = [self._split_at_kinks(boxes[kinked], found[kinked])]
        boxes, found = boxes[~kinked], found[~kinked]
        curvature, least = found.curvature, found.least_curvature
        below, above = boxes.point - boxes.low, boxes.high - boxes.point
        side = np.maximum(below, above)
        with np.errstate(divide="ignore", invalid="ignore"):
            # the lower bound of the curvature falls about linearly with the radius: half of where it meets zero
            ratio = np.clip(np.nan_to_num(0.5 * curvature / (curvature - least), nan=0.25), 1 / 16, 1 / 2)
        ratio = np.where((curvature > 0) & found.smooth[:, None], ratio, 0.25)
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
                    parts.append(Boxes(cells, slab_low, slab_high, 0.5 * (slab_low + slab_high), none)[some])
                low[:, a], high[:, a] = cut_low, cut_high
            parts.append(Boxes(cells, low, high, point, ~none))
        outer = boxes[~inner]
        if outer.cells.size:
            width = outer.high - outer.low
            bend = np.abs(least[~inner]) + np.abs(curvature[~inner])
            with np.errstate(over="ignore"):
                axis = (width**2 * np.where(np.isfinite(bend), bend + 1e-300, 1.0)).argmax(axis=1)
            rows = np.arange(axis.size)
            middle = 0.5 * (outer.low[rows, axis] + outer.high[rows, axis])
            for upper in (False, True):
                low, high = outer.low.copy(), outer.high.copy()
                (low if upper else high)[rows, axis] = middle
                parts.append(Boxes(outer.cells, low, high, 0.5 * (low + high), outer.central))
        return Boxes.joined(parts)

    def _split_at_kinks(self, boxes: Boxes, found: Bounded) -> Boxes:
        """Cut boxes in two where `found` says; the part that holds the point keeps it."""
        rows, parts = np.arange(boxes.cells.size), []
        place = boxes.point[rows, found.side]
        for upper in (False, True):
            low, high = boxes.low.copy(), boxes.high.copy()
            (low if upper else high)[rows, found.side] = found.cut
            holds = (place >= found.cut) if upper else (place < found.cut)
            point = np.where(holds[:, None], boxes.point, 0.5 * (low + high))
            parts.append(Boxes(boxes.cells, low, high, point, boxes.central & holds))
        return Boxes.joined(parts)

    def bounded(self, boxes: Boxes, enough: np.ndarray | None = None) -> Bounded:
        """Bound Q on boxes from below; where a bound reaches `enough` (K,), no sharper one is sought."""
        enough = np.full(boxes.cells.size, np.inf) if enough is None else enough
        chunks, at_once = [], boxes_at_once(boxes.low.shape[1])
        for start in range(0, boxes.cells.size, at_once):
            rows = np.arange(start, min(start + at_once, boxes.cells.size))
            chunks.append(self._bounded_chunk(boxes[rows], enough[rows]))
        return Bounded.joined(chunks)

    def _bounded_chunk(self, boxes: Boxes, enough: np.ndarray) -> Bounded:
        """Bound Q on boxes from below by Taylor polynomials about their points.

            Q(p + x) >= Q + Q' . x + sum_a L_a x_a^2 / 2,   L_a <= the curvature over the box     where Q is smooth
            Q(p + x) >= Q + min over the range of Q' on the box of Q' . x                        where it is Lipschitz
            Q        >= min c - J + g min E V                                                    always
        """
        model, g, offset = self.evaluation.model, self.evaluation.discount, self.evaluation.offset
        tables = model.tables(boxes.cells, boxes.point[:, None, :], 2)
        assert tables.mean_gradient is not None and tables.mean_hessian is not None
        assert tables.cost_gradient is not None and tables.cost_hessian is not None and tables.differentiable is not None
        mean, slope = tables.mean[:, 0], tables.mean_gradient[:, 0]
        ranges = model.problem.action_ranges(model.grid.states[boxes.cells], boxes.low, boxes.high)
        side, cut = self._kinks(boxes, mean, slope, ranges)
        mean, radius = self._one_sided(mean, ranges)
        expected = self.q.enclose(boxes.cells, mean, radius)
        value = tables.cost[:, 0] - offset + g * expected.value
        gradient = tables.cost_gradient[:, 0] + g * np.einsum("kj,kja->ka", expected.gradient, slope)
        hessian = (
            tables.cost_hessian[:, 0]
            + g * (slope.transpose(0, 2, 1) @ expected.hessian @ slope)
            + g * np.einsum("kj,kjab->kab", expected.gradient, tables.mean_hessian[:, 0])
        )
        smooth = expected.smooth & (ranges.smoothness == 2) & tables.differentiable[:, 0]
        lipschitz = expected.bounded & (ranges.smoothness >= 1)
        below, above = boxes.low - boxes.point, boxes.high - boxes.point
        with np.errstate(invalid="ignore", over="ignore"):
            slope_range, curvature_range = self._derivative_ranges(ranges, expected, radius)
            # along actions of lists nothing moves
            some = self.moving
            least = least_curvature(curvature_range[:, :, some[:, None], some])
            ends = gradient[:, some], below[:, some], above[:, some]
            second = value + np.max([_least_quadratic(ends[0], choice, *ends[1:]) for choice in least], axis=0)
            descent = np.minimum(np.minimum(below * slope_range[1], above * slope_range[0]), 0.0)
            first = value + descent.sum(axis=1)
            floor = expected.value - np.where(expected.bounded, (expected.slope * radius).sum(axis=1), np.inf)
            floor = np.maximum(np.maximum(floor, expected.floor), self.least_value)
            zeroth = ranges.cost[0][0] - offset + g * floor
        # a bound that is not a number is none
        lower = np.fmax(np.where(smooth, second, -np.inf), np.where(lipschitz, first, -np.inf))
        affine = smooth & ~(lower >= enough) & (ranges.mean[1][0] == ranges.mean[1][1]).all(axis=(1, 2))
        if affine.any():
            rows = np.flatnonzero(affine)
            # a mean beyond the end of a clamped axis counts as standing still
            moves = np.where((radius > 0.0)[:, :, None], slope, 0.0)
            change = self.q.least_change(
                boxes.cells[rows], mean[rows], moves[rows], below[rows], above[rows], gradient[rows], ranges.cost[2][:, rows]
            )
            if change is not None:
                lower[rows] = np.fmax(lower[rows], value[rows] + change)
        lower = np.fmax(np.fmax(lower, zeroth), -np.inf)
        at_point = np.einsum("kaa->ka", hessian).copy()  # a view would keep the whole
        lowest = np.zeros_like(at_point)
        lowest[:, some] = np.nan_to_num(least[0], nan=-np.inf)
        return Bounded(lower, value, at_point, lowest, smooth, side, cut)

    def _one_sided(self, mean: np.ndarray, ranges: ActionRanges) -> tuple[np.ndarray, np.ndarray]:
        """Return means and radii (K, d) of the boxes of means, those that only touch the end of a clamped axis on one side of it.

        Inside, the mean is moved onto the axis by rounding at most; outside E V does not depend on it: no radius, and ends
        beyond count as near, since a centre and a radius of 1e20 would not tell that the box meets the axis.
        """
        low, high = ranges.mean[0]
        mean, low, high = mean.copy(), low.copy(), high.copy()
        for j, horizon in self.q.horizons.items():
            for column in (mean, low, high):
                column[:, j] = np.clip(column[:, j], *horizon)
        for j, (bottom, top, slack) in self.q.ends.items():
            for column in (mean, low, high):
                column[:, j] = np.clip(column[:, j], bottom - (top - bottom), top + (top - bottom))
            inside = (low[:, j] >= bottom - slack) & (high[:, j] <= top + slack)
            for column in (mean, low, high):
                column[:, j] = np.where(inside, np.clip(column[:, j], bottom, top), column[:, j])
            below, above = ~inside & (high[:, j] <= bottom + slack), ~inside & (low[:, j] >= top - slack)
            outside = np.where(below, bottom - (top - bottom), top + (top - bottom))
            for column in (mean, low, high):
                column[:, j] = np.where(below | above, outside, column[:, j])
        radius = np.maximum(high - mean, mean - low)
        for j in set(range(mean.shape[1])) - set(self.q.ends):
            # what rounding takes from the ends mean +- radius
            radius[:, j] += 4.0 * np.finfo(float).eps * np.where(high[:, j] > low[:, j], np.abs(mean[:, j]), 0.0)
        return mean, np.where(high > low, np.maximum(radius, 0.0), 0.0)

    def _kinks(
        self, boxes: Boxes, mean: np.ndarray, slope: np.ndarray, ranges: ActionRanges
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the action (K,) that moves a mean over the end of a clamped axis in the box, -1: none, and its value there.

        slope (K, d, m): of the means at the points; exact where the mean is affine in that action alone, else a guess.
        """
        side, cut = np.full(boxes.cells.size, -1), np.zeros(boxes.cells.size)
        low, high = ranges.mean[0]
        width, rows = boxes.high - boxes.low, np.arange(boxes.cells.size)
        for j, (bottom, top, slack) in self.q.ends.items():
            for end in (bottom, top):
                a = (np.abs(slope[:, j]) * width).argmax(axis=1)
                with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                    place = boxes.point[rows, a] + (end - mean[:, j]) / slope[rows, j, a]
                    nearest = np.minimum(place - boxes.low[rows, a], boxes.high[rows, a] - place)
                    crossing = (low[:, j] < end - slack) & (high[:, j] > end + slack) & (nearest > 1e-3 * width[rows, a])
                chosen = crossing & (side < 0)
                side[chosen], cut[chosen] = a[chosen], place[chosen]
        return side, cut

    def _derivative_ranges(
        self, ranges: ActionRanges, expected: Enclosure, radius: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return ranges of Q' (2, K, m) and Q'' (2, K, m, m) over boxes, by the chain rule on ranges.

        Q'_a = c_a + g sum_j E_j m_j,a;  Q''_ab = c_ab + g (sum_jl E_jl m_j,a m_l,b + sum_j E_j m_j,ab)
        """
        g, m = self.evaluation.discount, ranges.cost[1].shape[2]
        e1, e2 = expected.first, expected.second
        slope, curvature = ranges.cost[1].copy(), ranges.cost[2].copy()
        m1, m2 = ranges.mean[1], ranges.mean[2]
        some1, some2 = np.any(m1 != 0.0, axis=(0, 1)).reshape(-1, m), np.any(m2 != 0.0, axis=(0, 1)).reshape(-1, m, m)
        moving = np.flatnonzero((radius > 0).any(axis=0))
        for j in moving:
            if some1[j].any():
                slope += np.where(some1[j], g * _product(e1[:, :, j, None], m1[:, :, j]), 0.0)
        for j in moving:
            if some2[j].any():
                curvature += np.where(some2[j], g * _product(e1[:, :, j, None, None], m2[:, :, j]), 0.0)
            for l in moving:
                if not (some1[j].any() and some1[l].any()):
                    continue
                pair = _product(m1[:, :, j, :, None], m1[:, :, l, None, :])
                if j == l:
                    pair[..., range(m), range(m)] = np.maximum(pair[..., range(m), range(m)], 0.0)
                both = some1[j][:, None] & some1[l]
                curvature += np.where(both, g * _product(e2[:, :, j, l, None, None], pair), 0.0)
        return slope, curvature


def least_curvature(ranges: np.ndarray) -> list[np.ndarray]:
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
