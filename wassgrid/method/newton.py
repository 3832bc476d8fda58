"""Newton's method particle by particle: local curvature, action bounds, pseudo-time, and escape from local minima of Q."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wassgrid.chain.reductions import count, least, medians, most, sums, total
from wassgrid.evaluation import Evaluation, Evaluator, rounding
from wassgrid.method.box_step import newton_candidates
from wassgrid.method.monotone_search import monotone_search
from wassgrid.method.outcome import StepOutcome
from wassgrid.method.weights import born, cooled
from wassgrid.metric import WASSERSTEIN, Metric, gradient_norm
from wassgrid.transition.together import Together

if TYPE_CHECKING:
    from wassgrid.certificate import BestActions

_SHORTEST = 1e-300  # tau: 1/tau is a number too
_DAMPING = 0.1  # of the first step: 1/tau in units of the mean curvature
_LONGEST = 1e15  # pseudo-time step in units of the first one
_REACH = 8.0  # longest move of a particle, in units of the spread of all particles


def reach(evaluation: Evaluation) -> np.ndarray:
    """Return the longest move allowed in one step, (m,): some times the spread of all particles and their median Newton step.

    Of actions that take values of a list none is.
    """
    actions = evaluation.policy.actions
    spread = most(actions.max(axis=(0, 1))) - least(actions.min(axis=(0, 1)))
    curvature = medians(np.abs(np.einsum("kiaa->kia", evaluation.q_hessian)))
    slope = medians(np.abs(evaluation.q_gradient))
    newton = np.divide(slope, curvature, out=np.zeros_like(slope), where=curvature > 0)
    longest = _REACH * (spread + newton)
    return np.where(evaluation.model.problem.listed, 0.0, np.where(longest > 0, longest, np.inf))


def initial_pseudo_time(evaluation: Evaluation) -> float:
    """Return the first tau: 1/tau is a tenth of the mean curvature |D^2_a Q| under the stationary law."""
    curvature = np.abs(np.einsum("kiaa->ki", evaluation.q_hessian)) / evaluation.policy.action_dimension
    law = np.maximum(evaluation.law, 0.0)
    mean = float(sums(np.einsum("k,ki,ki->", law, evaluation.policy.weights, curvature))) / max(total(law), 1.0)
    return max(1.0 / (_DAMPING * mean), _SHORTEST) if mean > 0 else 1.0


def newton_step(
    evaluator: Evaluator,
    evaluation: Evaluation,
    tau: float,
    best: BestActions | None = None,
    adaptive: bool = True,
    width: float | None = None,
    metric: Metric = WASSERSTEIN,
) -> StepOutcome:
    """Move every particle by -(D^2_a Q + I/tau)^{-1} grad_a Q within the action bounds and evaluate the new policy.

    At 1/tau = 0 this is Newton's method with the local part of the Hessian (policy iteration, near the optimum), at small tau the
    gradient flow in linearly implicit Euler steps. A search per particle, V frozen, keeps every Q from rising, so J falls.
    With `best`, a particle whose move is no match for the best action found in its cell jumps there (escape); this too
    lowers its Q. With `adaptive`, tau grows as the gradient norm falls
    (switched evolution relaxation, Mulder and van Leer 1985), which keeps the convergence quadratic. width: of the new
    policy's bracket (see `Evaluator.evaluate`).
    Weights that move take the exponential step of the same tau after the particles, with Q where these have come to, V frozen;
    then a single particle per cell is born at the better action, in place of jumps of all of them.
    """
    policy = evaluation.policy
    together, longest = Together.of(policy.actions), reach(evaluation)
    low, high = (limit[together.cells, 0] for limit in evaluation.model.limits)
    flat = together.chosen(policy.actions)
    candidates, slope = newton_candidates(
        together.chosen(evaluation.q_gradient),
        together.chosen(evaluation.q_hessian),
        flat,
        np.maximum(low, flat - longest),
        np.minimum(high, flat + longest),
        tau,
    )
    actions, halvings = monotone_search(evaluation, candidates[together.number], slope[together.number])
    escaped, weights = 0, policy.weights
    if metric.weights:
        q = evaluation.q_values(np.arange(len(actions)), actions)
        if best is not None:
            actions, weights, q, escaped = born(actions, weights, q, best, rounding(evaluation))
        weights = cooled(weights, q, metric.rate * tau)
    elif best is not None:
        actions, jumped = _escape(evaluation, actions, halvings > 0, best)
        escaped = count(jumped)
    new = evaluator.evaluate(policy.moved(actions, weights), evaluation, width)
    before, after = gradient_norm(evaluation, metric), gradient_norm(new, metric)
    following = tau
    if adaptive:
        first = initial_pseudo_time(evaluation)
        following = min(max(tau * before / after, _SHORTEST), _LONGEST * first) if after > 0 else _LONGEST * first
        if escaped or before == 0.0:
            # particles that jumped have a gradient of their own, and rounding one: neither says that steps were too long
            following = max(following, first)
    return StepOutcome(new, float("nan"), following, guarded=count(halvings > 0), escaped=escaped)


def _escape(
    evaluation: Evaluation, actions: np.ndarray, shortened: np.ndarray, best: BestActions
) -> tuple[np.ndarray, np.ndarray]:
    """Let particles jump to the best action of their cell where their own move is no match for it; return which do, (K,).

    That is where it gains less than half as much, or where it had to be shortened (a kink of Q, for one) and gains less.
    """
    rows, columns = np.nonzero(evaluation.q - best.values[:, None] > rounding(evaluation))
    if rows.size == 0:
        return actions, rows
    reached = evaluation.q_values(rows, actions[rows, columns][:, None, :])[:, 0]
    possible = evaluation.q[rows, columns] - best.values[rows]
    gained = evaluation.q[rows, columns] - reached
    jump = (gained < 0.5 * possible) | (shortened[rows, columns] & (gained < possible - rounding(evaluation)))
    actions = actions.copy()
    actions[rows[jump], columns[jump]] = best.actions[rows[jump]]
    return actions, jump
