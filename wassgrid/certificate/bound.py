"""A certificate of global optimality: a proven lower bound on the best possible J of the discretised problem.

For any function V, with T V(s) = min_a [c(s, a) + g E V(s')]:

    J* >= min_s (T V(s) - V(s))                           average cost, g = 1 (Odoni 1969, MacQueen 1966)
    J* >= (1 - g) rho V + min_s (T V(s) - V(s))           discounted

Both follow from T being monotone, so the rows of P must be nonnegative and sum to one; V need not solve any equation. The minimum
over the actions of a cell is bounded from below by branch and bound: on a box of actions Q is at least its quadratic Taylor
polynomial with the curvature replaced by a lower bound over the box. That bound comes from interval arithmetic on the
derivatives of cost and mean, and from bounds on the kernels' derivatives (`weight_bounds`, `enclosure`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from wassgrid.certificate.action_value import ActionValue, margin
from wassgrid.certificate.best_actions import PROBES, best_actions
from wassgrid.certificate.branch_and_bound import BranchAndBound
from wassgrid.certificate.search_box import search_box
from wassgrid.evaluation import Evaluation
from wassgrid.problem.control_problem import ProblemError


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

    guaranteed: whether lower_bound is proven, up to rounding; `method` says how, and what was assumed. boxes: number of action
    boxes that were bounded.
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


@dataclass(frozen=True)
class BestActions:
    """The best action found in every cell, actions (cells, m), values (cells,) its Q, and the boxes low, high (cells, m) searched."""

    actions: np.ndarray
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    assumed: str
    coercive: bool


def find_best(evaluation: Evaluation) -> BestActions:
    """Find the best action of every cell."""
    try:
        return _found(evaluation)
    except ProblemError as error:
        cells, m = np.arange(evaluation.policy.grid.size), evaluation.policy.action_dimension
        best = evaluation.q.argmin(axis=1)
        actions = evaluation.policy.actions[cells, best]
        return BestActions(actions, evaluation.q[cells, best], actions, actions, str(error), False)


def _found(evaluation: Evaluation) -> BestActions:
    low, high, assumed, coercive = search_box(evaluation)
    return BestActions(*best_actions(ActionValue.build(evaluation, low, high), low, high), low, high, assumed, coercive)


def certify(evaluation: Evaluation, tolerance: float | None = None, found: BestActions | None = None) -> Certificate:
    """Bound the optimal J from below, with the V of a policy, and find the best action of every cell.

    tolerance: width, in units of J, to which the bound need not be sharp near the optimum (default: 1e-12 of the size of
    V); away from it, half of the gap. Guaranteed for kernels that give Markov matrices (nonnegative weights). Where
    actions are unbounded, the cost must be seen to grow: beyond some distance from the particles it alone exceeds what is
    reached (`search_box`). Nothing is proven where cost or law are not finite for all actions searched.
    """
    began = time.perf_counter()
    try:
        return _search_and_bound(evaluation, tolerance, began, found)
    except ProblemError as error:
        return _nothing_proven(evaluation, str(error), time.perf_counter() - began)


def _nothing_proven(evaluation: Evaluation, reason: str, seconds: float) -> Certificate:
    """Return the best particle of every cell, without a bound."""
    cells = np.arange(evaluation.policy.grid.size)
    best = evaluation.q.argmin(axis=1)
    return Certificate(
        -np.inf, np.inf, np.full(cells.size, -np.inf), evaluation.policy.actions[cells, best], evaluation.q[cells, best],
        False, reason, 0, {"search": seconds},
    )  # fmt: skip


def _search_and_bound(
    evaluation: Evaluation, tolerance: float | None, began: float, best: BestActions | None
) -> Certificate:
    scale = float(np.abs(evaluation.cost).max() + np.abs(evaluation.value).max())
    if tolerance is None:
        tolerance = 1e-12 * scale
    best = find_best(evaluation) if best is None else best
    low, high, assumed, coercive = best.low, best.high, best.assumed, best.coercive
    q = ActionValue.build(evaluation, low, high)
    actions, values = best.actions.copy(), best.values.copy()
    found = time.perf_counter()
    cells = np.arange(evaluation.policy.grid.size)
    markov = evaluation.model.markov
    if markov:
        proof = BranchAndBound(q, low, high, actions, values, tolerance)
        proof.run()
        lower, boxes = proof.lower - margin(evaluation), proof.boxes
        method = f"branch and bound over {boxes} action boxes in {cells.size} cells"
    else:
        lower, boxes = values, 0
        signed = next(kernel.name for kernel in evaluation.model.axis_kernels if not kernel.nonnegative)
        method = f"best of {PROBES} actions per cell and Newton steps from it: the {signed} kernel is not a Markov matrix"
    if assumed:
        method += f"; {assumed}"
    slack = lower - evaluation.value
    # average: V is relative and Q holds - J;  discounted: (1 - g) rho V = J
    bound = evaluation.anchor + float(slack.min())
    times = {"search": found - began, "proof": time.perf_counter() - found}
    return Certificate(
        bound, evaluation.objective - bound, slack, actions, values, markov and coercive, method, boxes, times
    )
