"""The best action of every cell that can be found: particles and probe actions, then descent of Q."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wassgrid.certificate.action_value import ActionValue
from wassgrid.evaluation import rounding
from wassgrid.method.box_step import newton_candidates

PROBES = 9  # actions per cell that start the search for the best one
_DESCENT = 40  # steps at most from the best probe to its local minimum


def probe_actions(
    low: np.ndarray, high: np.ndarray, centre: np.ndarray, bounded: np.ndarray, count: int = PROBES
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
    bounded = np.asarray(np.isfinite(evaluation.model.problem.action_bounds).all(axis=1))
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

    Newton steps kept in a bracket, whose ends move to the points tried. Where a Newton step does not lower Q, the next trials
    are the crossing of the tangents at both ends (at a kink of two smooth branches these converge like Newton's method)
    and the middle of the bracket, in turn.
    """
    least = rounding(q.evaluation)
    # position, Q and Q' at both ends of the bracket; the bounds of the action to begin with, where Q' is not known
    unknown = np.full(len(low), np.nan)
    left, right = np.stack([low[:, 0], unknown, unknown]), np.stack([high[:, 0], unknown, unknown])
    cells = np.arange(len(low))
    failures = np.zeros(cells.size, np.int64)
    for _ in range(_DESCENT):
        here = np.stack([point.actions[cells, 0], point.value[cells], point.gradient[cells, 0]])
        a, _, slope = here
        left[:, cells] = np.where(slope < 0, here, left[:, cells])
        right[:, cells] = np.where(slope > 0, here, right[:, cells])
        (lo, f_lo, g_lo), (hi, f_hi, g_hi) = left[:, cells], right[:, cells]
        middle = 0.5 * (lo + hi)
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = np.clip(a - slope / np.abs(point.hessian[cells, 0, 0]), lo, hi)
            # f_lo + g_lo (x - lo) = f_hi + g_hi (x - hi)
            crossing = (f_hi - f_lo + g_lo * lo - g_hi * hi) / (g_lo - g_hi)
            crossing = np.where((crossing > lo) & (crossing < hi), crossing, middle)
        stuck = failures[cells] > 0
        trial = np.where(stuck, np.where(failures[cells] % 2 == 1, crossing, middle), newton)
        # what the slope promises over the way that is left, and over the Newton step
        promised = np.abs(slope) * np.where(slope > 0, a - lo, hi - a)
        useful = (promised > least) & (trial != a) & (stuck | (np.abs(slope * (newton - a)) > least))
        cells, trial, a = cells[useful], trial[useful], a[useful]
        if cells.size == 0:
            return
        found = q.derivatives(cells, trial[:, None])
        lower = found[0] < point.value[cells]
        failures[cells] = np.where(lower, 0, failures[cells] + 1)
        tried = np.stack([trial, found[0], found[1][:, 0]])
        for end, side in ((left, trial < a), (right, trial > a)):
            end[:, cells[~lower & side]] = tried[:, ~lower & side]
        down = cells[lower]
        point.put(down, trial[lower, None], (found[0][lower], found[1][lower], found[2][lower]))


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
