"""Steps of the weights: the exponential step, its limit, and birth of mass where the certificate sees a better action."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wassgrid.entropy import LEAST_WEIGHT
from wassgrid.evaluation import Evaluation, Evaluator, rounding
from wassgrid.method.outcome import StepOutcome
from wassgrid.metric import Metric

if TYPE_CHECKING:
    from wassgrid.certificate import BestActions

_BORN = 0.05  # weight of a particle that is born, at least
_GROWTH = 2.0  # of the length of exponential steps
_LONGEST = 1e15  # step in units of the first one


def reweighted(weights: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """Return w_i exp(e_i)/Z in every cell; weights, exponent (cells, N). Weights that are zero stay, others stay positive."""
    alive = weights > 0.0
    with np.errstate(divide="ignore"):
        logarithm = np.where(alive, np.log(weights) + exponent, -np.inf)
    result = np.exp(logarithm - logarithm.max(axis=1, keepdims=True))
    result = result / result.sum(axis=1, keepdims=True)
    return np.where(alive, np.maximum(result, LEAST_WEIGHT), 0.0)


def cooled(weights: np.ndarray, q: np.ndarray, scale: float) -> np.ndarray:
    """Return the exponential step w_i exp(-scale Q_i)/Z, which lowers sum_i w_i Q_i whatever the scale >= 0 is; (cells, N)."""
    longest = min(scale, np.finfo(float).max)  # a finite number: the least Q has the exponent zero
    with np.errstate(over="ignore"):
        return reweighted(weights, -longest * (q - q.min(axis=1, keepdims=True)))


def best_only(weights: np.ndarray, q: np.ndarray, level: float) -> np.ndarray:
    """Return the limit of long exponential steps (cells, N): all mass on the particles of least Q.

    Those within `level` of the least share what mass they have; where they have none it goes to the first of least Q, also
    where that had lost all of its own.
    """
    near = np.where(q <= q.min(axis=1, keepdims=True) + level, weights, 0.0)
    total = near.sum(axis=1, keepdims=True)
    first = np.arange(q.shape[1]) == q.argmin(axis=1)[:, None]
    return np.where(total > LEAST_WEIGHT * q.shape[1], near / np.where(total > 0.0, total, 1.0), first)


def born(
    actions: np.ndarray, weights: np.ndarray, q: np.ndarray, best: BestActions, level: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Move the particle of least weight of a cell to its best action, where that is better by `level` than all particles.

    It gets a weight of `_BORN` at least, of which the others give their share. Since no Q of the cell is lower, sum_i w_i Q_i
    does not rise. Returns actions (cells, N, m), weights and Q (cells, N), and the number of births.
    """
    rows = np.flatnonzero(q.min(axis=1) - best.values > level)
    if rows.size == 0:
        return actions, weights, q, 0
    actions, weights, q = actions.copy(), weights.copy(), q.copy()
    # of equal weights the particle of largest Q
    column = np.lexsort((-q[rows], weights[rows]), axis=1)[:, 0]
    own = weights[rows, column]
    share = np.maximum(own, _BORN)
    others = np.maximum(1.0 - own, np.finfo(float).tiny)
    weights[rows] *= ((1.0 - share) / others)[:, None]
    weights[rows, column] = np.where(own < 1.0, share, 1.0)
    weights[rows] /= weights[rows].sum(axis=1, keepdims=True)
    actions[rows, column], q[rows, column] = best.actions[rows], best.values[rows]
    return actions, weights, q, rows.size


def first_exponential_step(evaluation: Evaluation, metric: Metric) -> float:
    """Return a first step length: kappa tau times the mean range of Q over the particles of a cell is one, eps added."""
    price = 0.0 if evaluation.entropy is None else evaluation.entropy.strength
    mean = float(np.maximum(evaluation.law, 0.0) @ (np.ptp(evaluation.q, axis=1) + price)) * metric.rate
    return 1.0 / mean if mean > 0.0 else 1.0


def exponential_step(
    evaluator: Evaluator,
    evaluation: Evaluation,
    tau: float,
    metric: Metric,
    best: BestActions | None = None,
    adaptive: bool = True,
) -> StepOutcome:
    """Take the step w_i <- w_i exp(-kappa tau Q_i)/Z in every cell, actions at rest, and evaluate the new policy.

    With V frozen it lowers the mean of Q for every tau, and by the performance difference J does not rise (mirror descent;
    exact linear rates with steps that grow: Xiao 2022). tau: infinite for policy iteration over the particles. With `best`,
    mass is born at better actions first. With `adaptive` the step length doubles. Where entropy has a price, the step is that of
    `Entropy.relaxed`, and policy iteration the soft one, which is Newton's method for the soft Bellman equation.
    """
    actions, weights, q, births = evaluation.policy.actions, evaluation.policy.weights, evaluation.q, 0
    if best is not None:
        actions, weights, q, births = born(actions, weights, q, best, rounding(evaluation))
    if evaluation.entropy is not None:
        weights = evaluation.entropy.relaxed(weights, q, metric.rate * tau)
    elif np.isinf(tau):
        weights = best_only(weights, q, rounding(evaluation))
    else:
        weights = cooled(weights, q, metric.rate * tau)
    new = evaluator.evaluate(evaluation.policy.moved(actions, weights), evaluation)
    following = tau
    if adaptive and np.isfinite(tau):
        following = min(_GROWTH * tau, _LONGEST * first_exponential_step(evaluation, metric))
    return StepOutcome(new, tau if np.isfinite(tau) else float("nan"), following, escaped=births)
