"""Proximal steps between values of lists: mass moves in the ground metric that the values have, not in that of their weights.

With atoms i, j at distances d_ij, V frozen, a law w of the actions of a state and a regularisation eps > 0,

    min over plans p_ij >= 0 with sum_j p_ij = w_i  of  sum_ij p_ij (Q_j + d_ij^2/(2 tau)) + eps sum_ij p_ij log(p_ij/w_i)

has the solution p_ij = w_i softmax_j(-(Q_j + d_ij^2/(2 tau))/eps), since only the first marginal is given (minimising movements
with entropic regularisation: Peyré 2015). As eps falls to zero all mass of an atom goes to its proximal point, the least of
Q_j + d_ij^2/(2 tau); as tau grows that is policy iteration, and with eps the law softmax(-Q/eps). The mean of Q, and by the
performance difference J, does not rise with eps = 0; with eps > 0 it may, where mass is at the best value already: there eps is
made smaller. Steps of one length for ever come to laws that are spread out; adaptive ones make eps smaller too where they gain
less than half of what they would without, and come to where policy iteration does.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wassgrid.evaluation import Evaluation, Evaluator, rounding
from wassgrid.method.outcome import StepOutcome

_SMALLER, _TRIALS = 0.25, 20  # of eps where the mean of Q rises, before it is zero
_ENOUGH = 0.5  # of what a step without eps gains, for adaptive ones
_LITTLE = 1e-3  # of the mass of a cell: what moves less is no adaptive step
_FIRST = 0.02  # first step: share of the square of the largest distance per range of Q
_GROWTH = 4.0  # of the length of steps
_LONGEST = 1e15  # step in units of the first one
_AT_ONCE = 1 << 21  # pairs of values of a cell that are looked at together


def first_transport_step(evaluation: Evaluation) -> float:
    """Return a first step length: the longest way between two values costs many times the range of Q in a cell."""
    q = np.where(np.isfinite(evaluation.q), evaluation.q, np.nan)
    span = float(np.maximum(evaluation.law, 0.0) @ (np.nanmax(q, axis=1) - np.nanmin(q, axis=1)))
    longest = float(evaluation.model.problem.squared_distances.max()) * max(float(np.maximum(evaluation.law, 0.0).sum()), 1e-300)
    first = _FIRST * longest / span if span > 0.0 else 1.0
    return first if 0.0 < first < np.inf else 1.0


def transport_step(
    evaluator: Evaluator, evaluation: Evaluation, tau: float, strength: float = 0.0, adaptive: bool = True,
    longest: float = np.inf,
) -> StepOutcome:  # fmt: skip
    """Move the mass of every value as softmax(-(Q_j + d_ij^2/(2 tau))/strength) says, and evaluate the new policy.

    J does not rise. strength: eps, 0 for proximal points. With `adaptive` the step length grows at every step, and where hardly
    any mass would move it is as long as it takes some to move, up to `longest`. `guarded` of the outcome counts cells in which
    eps was made smaller.
    """
    policy, problem = evaluation.policy, evaluation.model.problem
    squares, level = problem.squared_distances, rounding(evaluation)
    q = admitted_q(evaluation)
    share = _ENOUGH if adaptive else 0.0
    weights, smaller = transported(policy.weights, q, squares, tau, strength, level, share)
    if adaptive and np.abs(weights - policy.weights).max() <= _LITTLE:
        tau = min(max(tau, least_moving_step(policy.weights, q, squares, level)), longest)
        weights, smaller = transported(policy.weights, q, squares, tau, strength, level, share)
    new = evaluator.evaluate(policy.moved(policy.actions, weights), evaluation)
    following = max(tau, min(_GROWTH * tau, _LONGEST * first_transport_step(evaluation))) if adaptive else tau
    return StepOutcome(new, tau, following, guarded=smaller)


def admitted_q(evaluation: Evaluation) -> np.ndarray:
    """Return Q (cells, A) of the values of lists, infinite where one is not allowed or not defined."""
    states, actions = evaluation.policy.grid.states, evaluation.policy.actions
    there = evaluation.model.problem.admitted(states, actions)
    return np.where((there == actions).all(axis=2) & np.isfinite(evaluation.q), evaluation.q, np.inf)


def transported(
    weights: np.ndarray, q: np.ndarray, squares: np.ndarray, tau: float, strength: float, level: float, share: float = 0.0
) -> tuple[np.ndarray, int]:
    """Return the weights (K, A) after the step, for weights and Q (K, A) of cells and squares of distances (A, A).

    strength: eps; where the mean of Q rises by more than `level`, or falls by less than a share of what it does without eps, it
    is made smaller, cell by cell, and zero in the end. Differences of Q below `level` move nothing where it is zero. Also returns
    in how many cells it was made smaller.
    """
    eps = np.full(len(weights), strength)
    sharp = _moved(weights, q, squares, tau, np.zeros(len(weights)), level)
    if strength == 0.0:
        return sharp, 0
    before = _mean(weights, q)
    most = before - share * np.maximum(before - _mean(sharp, q), 0.0) + level
    result = _moved(weights, q, squares, tau, eps, level)
    for trial in range(_TRIALS):
        rows = np.flatnonzero((eps > 0.0) & ~(_mean(result, q) <= most))
        if rows.size == 0:
            break
        if trial == _TRIALS - 1:
            eps[rows], result[rows] = 0.0, sharp[rows]
            break
        eps[rows] *= _SMALLER
        result[rows] = _moved(weights[rows], q[rows], squares, tau, eps[rows], level)
    return result, int((eps < strength).sum())


def _mean(weights: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return sum_i w_i Q_i, (K,); values without mass do not count, whatever their Q."""
    return np.asarray((weights * np.where(weights > 0.0, q, 0.0)).sum(axis=1))


def _sources(weights: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield cells and values, both (R,), of all that have mass, a block at a time."""
    cells, values = np.nonzero(weights > 0.0)
    count = max(1, _AT_ONCE // weights.shape[1])
    for start in range(0, cells.size, count):
        yield cells[start : start + count], values[start : start + count]


def _moved(
    weights: np.ndarray, q: np.ndarray, squares: np.ndarray, tau: float, eps: np.ndarray, level: float
) -> np.ndarray:
    """Return sum_i w_i softmax_j(-(Q_j + d_ij^2/(2 tau))/eps), (K, A), for eps (K,) that may be zero."""
    result = np.zeros_like(weights)
    for k, i in _sources(weights):
        each = np.arange(k.size)
        # Q_j + d_ij^2/(2 tau), (pairs, A)
        with np.errstate(over="ignore"):
            cost = q[k] + squares[i] / (2.0 * tau)
        least = cost.min(axis=1)
        target = np.where(least < cost[each, i] - level, cost.argmin(axis=1), i)
        plan = np.zeros_like(cost)
        plan[each, target] = 1.0
        some = np.flatnonzero((eps[k] > 0.0) & np.isfinite(least))
        with np.errstate(over="ignore", under="ignore"):
            spread = np.exp(-(cost[some] - least[some, None]) / eps[k[some], None])
        plan[some] = spread / spread.sum(axis=1, keepdims=True)
        np.add.at(result, k, weights[k, i][:, None] * plan)
    return np.asarray(result / result.sum(axis=1, keepdims=True))


def least_moving_step(weights: np.ndarray, q: np.ndarray, squares: np.ndarray, level: float) -> float:
    """Return the shortest step by which mass of some value moves to a better one, 0 where none has a better one, by `level`.

    From i to j where d_ij^2/(2 tau) < Q_i - Q_j: half of the least d_ij^2/(Q_i - Q_j), and a little.
    """
    shortest = np.inf
    for k, i in _sources(weights):
        gain = q[k, i][:, None] - q[k] - 2.0 * level
        with np.errstate(divide="ignore", invalid="ignore"):
            length = np.where(gain > 0.0, 0.5 * squares[i] / gain, np.inf)
        shortest = min(shortest, float(length.min(initial=np.inf)))
    return 1.000001 * shortest if np.isfinite(shortest) else 0.0
