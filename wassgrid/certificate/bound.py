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
from dataclasses import dataclass, field, replace

import numpy as np

from wassgrid.certificate.action_value import ActionValue, margin
from wassgrid.certificate.best_actions import PROBES, BestActions, find_best, improved
from wassgrid.certificate.branch_and_bound import BranchAndBound
from wassgrid.evaluation import Evaluation
from wassgrid.problem.control_problem import ProblemError


@dataclass(frozen=True)
class Certificate:
    """Hold a lower bound on the optimal J and the best action found in every cell.

    | name         | shape      | meaning                                                                                |
    |--------------|------------|----------------------------------------------------------------------------------------|
    | lower_bound  |            | J* is not below it                                                                     |
    | gap          |            | J - lower_bound                                                                        |
    | slack        | (cells,)   | lower bounds of min_a Q - V, sharp where they decide on lower_bound                   |
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


def certify(
    evaluation: Evaluation, tolerance: float | None = None, found: BestActions | None = None
) -> Certificate:
    """Bound the optimal J from below, with the V of a policy, and find the best action of every cell.

    tolerance: width, in units of J, to which the bound need not be sharp near the optimum (default: 1e-12 of the size of
    V); away from it, half of the gap. found: what `find_best` found for the same evaluation (default: searched here).

    Holds for any V, exact or not. Guaranteed
    for kernels that give Markov matrices (nonnegative weights). Where actions are unbounded, the cost must be seen to grow:
    beyond some distance from the particles it alone exceeds what is reached (`search_box`). Nothing is proven where cost or
    law are not finite for all actions searched.
    """
    began = time.perf_counter()
    found = find_best(evaluation) if found is None else found
    searched = time.perf_counter()
    try:
        reason = evaluation.model.problem.no_bounds
        certificate = _nothing_proven(found, reason) if reason else _bounded(evaluation, found, tolerance)
    except ProblemError as error:
        certificate = _nothing_proven(found, str(error))
    times = {"search": searched - began, "proof": time.perf_counter() - searched}
    return replace(certificate, times=times)


def _nothing_proven(found: BestActions, reason: str) -> Certificate:
    """Return the best action known of every cell, without a bound."""
    slack = np.full(found.values.size, -np.inf)
    return Certificate(-np.inf, np.inf, slack, found.actions, found.values, False, reason, 0)


def _bounded(evaluation: Evaluation, found: BestActions, tolerance: float | None) -> Certificate:
    if tolerance is None:
        tolerance = 1e-12 * float(np.abs(evaluation.cost).max() + np.abs(evaluation.value).max())
    actions, values = found.actions, found.values
    markov = evaluation.model.markov
    if markov:
        q = ActionValue.build(evaluation, found.low, found.high)
        proof = BranchAndBound(q, found.low, found.high, actions.copy(), values.copy(), tolerance)
        proof.run()
        actions, values = proof.actions, proof.values
        better = np.flatnonzero(values < found.values)
        if better.size:
            # what a proof meets is the middle of some box
            actions[better], values[better] = improved(q, better, actions[better], found.low, found.high)
        slack, boxes = proof.lower - (evaluation.value + margin(evaluation)), proof.boxes
        method = f"branch and bound over {boxes} action boxes in {values.size} cells"
    else:
        slack, boxes = values - evaluation.value, 0
        signed = next(kernel.name for kernel in evaluation.model.axis_kernels if not kernel.nonnegative)
        method = f"best of {PROBES} actions per cell and Newton steps from it: the {signed} kernel is not a Markov matrix"
    if found.assumed:
        method += f"; {found.assumed}"
    # average: V is relative and Q holds - J;  discounted: (1 - g) rho V = J
    bound = evaluation.anchor + float(slack.min())
    # an infinite end of an enclosure is no bound
    guaranteed = markov and found.coercive and bool(np.isfinite(bound))
    return Certificate(bound, evaluation.bracket[1] - bound, slack, actions, values, guaranteed, method, boxes)
