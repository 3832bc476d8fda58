"""A certificate of global optimality: a proven lower bound on the best possible J of the discretised problem.

For any function V, with T V(s) = min_a [c(s, a) + g E V(s')]:

    J* >= min_s (T V(s) - V(s))                           average cost, g = 1 (Odoni 1969, MacQueen 1966)
    J* >= (1 - g) rho V + min_s (T V(s) - V(s))           discounted

For the total cost until a goal, with V = F in the goal, the stage cost at least c0 > 0 elsewhere, F at least F0 and
delta = max(0, max_s (V(s) - T V(s))):

    J* >= F0 + (rho V - F0) / (1 + delta/c0)              total

since J(pi) >= rho V - delta T(pi) for the expected number T(pi) of steps, by summing c(s_t, a_t) >= V(s_t) - E V(s_t+1) - delta
until the goal, and c0 T(pi) <= J(pi) - F0; a policy that never reaches the goal has an infinite cost (stochastic shortest paths:
Bertsekas and Tsitsiklis 1991). Without such a c0 nothing is proven.

All follow from T being monotone, so the rows of P must be nonnegative and sum to one; V need not solve any equation. The minimum
over the actions of a cell is bounded from below by branch and bound: on a box of actions Q is at least its quadratic Taylor
polynomial with the curvature replaced by a lower bound over the box; where actions take values of a list, it is the minimum over
the list. That lower bound comes from interval arithmetic on the derivatives of cost and mean, and from bounds on the kernels'
derivatives (`weight_bounds`, `enclosure`). Where entropy has a price eps, T V is the soft minimum
-eps log sum_i rho_i exp(-Q_i/eps) over the actions that the reference law gives weights, and the bound is one for cost and
entropy together (`wassgrid.entropy`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np

from wassgrid.certificate.action_value import ActionValue, margin
from wassgrid.certificate.best_actions import PROBES, BestActions, find_best, improved
from wassgrid.certificate.branch_and_bound import BranchAndBound
from wassgrid.chain.reductions import agreed, cells_of, ends, largest, shared, sums
from wassgrid.evaluation import Evaluation, rounding
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
    if tolerance is not None and evaluation.steps_left is not None:
        # of a cell, whose share in J is that of the steps
        tolerance /= 1.0 + _steps(evaluation)
    if tolerance is None:
        tolerance = 1e-12 * (largest(evaluation.cost) + largest(evaluation.value))
    actions, values = found.actions, found.values
    markov = evaluation.model.markov
    entropy = evaluation.entropy
    if evaluation.at_rest:
        # the minimum over all actions, or over all weights on them, is one over a list
        slack, boxes = values - (evaluation.value + rounding(evaluation) + evaluation.residual_rounding), 0
        kind = "minimum" if entropy is None else "soft minimum"
        method = f"{kind} over {evaluation.policy.particles} actions in {cells_of(values)} cells"
        if entropy is not None:
            slack = slack - entropy.soft_minimum(evaluation.q)[1]
        if not markov:
            signed = next(kernel.name for kernel in evaluation.model.axis_kernels if not kernel.nonnegative)
            method += f": the {signed} kernel is not a Markov matrix"
    elif markov:
        q = ActionValue.build(evaluation, found.low, found.high)
        proof = BranchAndBound(q, found.low, found.high, actions.copy(), values.copy(), tolerance)
        if evaluation.model.plain_product is not None and shared() is not None:
            _ = evaluation.expectation.streamed_plain
        agreed(proof.run)
        actions, values = proof.actions, proof.values
        better = np.flatnonzero(values < found.values)
        if better.size:
            # what a proof meets is the middle of some box
            actions[better], values[better] = improved(q, better, actions[better], found.low, found.high)
        proof.boxes = round(float(sums(np.array(float(proof.boxes)))))
        slack, boxes = proof.lower - (evaluation.value + margin(evaluation)), proof.boxes
        method = f"branch and bound over {boxes} action boxes in {cells_of(values)} cells"
    else:
        slack, boxes = values - evaluation.value, 0
        signed = next(kernel.name for kernel in evaluation.model.axis_kernels if not kernel.nonnegative)
        method = f"best of {PROBES} actions per cell and Newton steps from it: the {signed} kernel is not a Markov matrix"
    if found.assumed:
        method += f"; {found.assumed}"
    bound = bound_of(evaluation, ends(slack)[0])
    # an infinite end of an enclosure is no bound
    guaranteed = markov and found.coercive and bool(np.isfinite(bound))
    if (reason := unbounded(evaluation)) is not None:
        method, guaranteed = f"{method}; {reason}", False
    return Certificate(bound, evaluation.bracket[1] - bound, slack, actions, values, guaranteed, method, boxes)


def bound_of(evaluation: Evaluation, slack: float) -> float:
    """Return the bound on the optimal J that a lower bound of Q - V over all cells and actions gives (see the module).

    For a total cost that is not seen to be positive off the goal: what holds for policies that take as many steps as this one.
    """
    if evaluation.steps_left is None:
        # average: V is relative and Q holds - J;  discounted: (1 - g) rho V = J
        return evaluation.anchor + slack
    goal, delta, least_cost = evaluation.model.goal, max(-slack, 0.0), _least_cost(evaluation)
    assert goal is not None
    if not least_cost > 0.0:
        return evaluation.anchor - delta * evaluation.most_steps
    least = float(goal.costs[goal.inside].min())
    bound = least + (evaluation.anchor - least) / (1.0 + delta / least_cost)
    # a few roundings of numbers of these sizes
    return bound - 8.0 * float(np.finfo(float).eps) * (abs(least) + abs(evaluation.anchor))


def unbounded(evaluation: Evaluation) -> str | None:
    """Return why a total cost has no bound, None where it has one or is none."""
    if evaluation.steps_left is None or (least := _least_cost(evaluation)) > 0.0:
        return None
    seen = f"only to be at least {least:.3g}" if np.isfinite(least) else "to have no lower bound"
    return (
        f"off the goal the stage cost is seen {seen}, and a policy may take its time: a bound needs every step to cost "
        "something, such as a small price of time"
    )


def _steps(evaluation: Evaluation) -> float:
    """Return by how much the bound falls where Q - V does in every cell."""
    goal, least_cost = evaluation.model.goal, _least_cost(evaluation)
    assert goal is not None
    if not least_cost > 0.0:
        return evaluation.most_steps
    return max(evaluation.anchor - float(goal.costs[goal.inside].min()), 0.0) / least_cost


def _least_cost(evaluation: Evaluation) -> float:
    """Return what every step to the goal costs at least, under any policy, entropy included."""
    assert evaluation.model.goal is not None
    return evaluation.model.goal.least_cost + (0.0 if evaluation.entropy is None else evaluation.entropy.least)
