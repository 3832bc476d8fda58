"""The gradient flow of cost and entropy together over blobs that slide, and the search that keeps J falling."""

from __future__ import annotations

import numpy as np

from wassgrid.blobs import Blobs
from wassgrid.evaluation import Evaluation, Evaluator, objective_rounding, rounding
from wassgrid.method.outcome import StepOutcome
from wassgrid.method.schemes import Scheme
from wassgrid.method.weights import reweighted
from wassgrid.metric import Metric, free_gradient

_HALVINGS = 40  # of the move of a cell before it stays where it is
_UNSTABLE = 2.0  # times its own length that the gradient may change by over a step


def blob_step(evaluator: Evaluator, evaluation: Evaluation, scheme: Scheme, step: float, metric: Metric) -> StepOutcome:
    """Advance the blobs of every cell by one step of the flow in a metric and evaluate the new policy.

        a_n' = -grad F~(a_n),   w_n' = -kappa w_n (F~(a_n) - mean),   F~ the first variation of J, mollified

    A step that would raise J is taken back to one of euler that is halved, cell by cell, until with V frozen the mean of Q and
    entropy does not rise (`searched`): then by the performance difference J does not. Cells in which the gradient, V frozen,
    turns over during the step are searched in any case: where the chain hardly ever is J would not see them.
    """
    policy, blobs = evaluation.policy, evaluation.policy.blobs
    assert blobs is not None
    slopes: list[np.ndarray] = []
    excesses: list[np.ndarray] = []

    def after(factors: tuple[float, ...]) -> Blobs:
        """Blobs after the speeds so far with these factors."""
        assert blobs is not None
        centres, shares = blobs.centres, blobs.shares
        if metric.actions:
            centres = centres + sum((step * f * k for f, k in zip(factors, slopes, strict=False) if f), np.zeros_like(centres))
        if metric.weights:
            total = sum((step * f * e for f, e in zip(factors, excesses, strict=False) if f), np.zeros_like(shares))
            shares = reweighted(shares, -metric.rate * total)
        return blobs.moved(centres, shares)

    stage = evaluation
    for couplings in scheme.couplings:
        if couplings:
            stage = evaluator.evaluate(policy.of_blobs(after(couplings)), stage)
        now = stage.policy.blobs
        assert now is not None
        variation, gradient = now.mollified(stage.first_variation)
        slopes.append(-free_gradient(gradient, now.centres, now.limits))
        excesses.append(variation - variation.min(axis=1, keepdims=True))
    full = after(scheme.weights)
    # the step of euler goes down
    short, halvings = searched(evaluation, after((1.0,)))
    turned = _turned(evaluation, full, -slopes[0])
    new = evaluator.evaluate(policy.of_blobs(_either(turned, short, full)), evaluation)
    tamed = int((halvings[turned] > 0).sum()) * blobs.shares.shape[1]
    if new.objective <= evaluation.objective + objective_rounding(evaluation):
        return StepOutcome(new, step, step, tamed=tamed)
    new = evaluator.evaluate(policy.of_blobs(short), evaluation)
    return StepOutcome(new, step, step, guarded=int((halvings > 0).sum()) * blobs.shares.shape[1], tamed=tamed)


def frozen(evaluation: Evaluation, blobs: Blobs, cells: np.ndarray) -> np.ndarray:
    """Return sum_q W_q Q_q + eps KL(W | rho) of blobs in some cells (K,), V that of the evaluation."""
    assert evaluation.entropy is not None
    weights = blobs.weights
    mean: np.ndarray = (weights * evaluation.q[cells]).sum(axis=1)
    return mean + evaluation.entropy.cost(weights, cells)


def searched(evaluation: Evaluation, candidates: Blobs) -> tuple[Blobs, np.ndarray]:
    """Return the blobs of every cell after moves that do not raise `frozen`, and how often each was halved, (cells,).

    candidates: where the moves lead, straight in centres and shares; a cell that finds no decrease stays.
    """
    old = evaluation.policy.blobs
    assert old is not None
    centres, shares = candidates.centres.copy(), candidates.shares.copy()
    halvings, rows = np.zeros(len(shares), np.int64), np.arange(len(shares))
    limit = frozen(evaluation, old, rows) + rounding(evaluation)
    for halving in range(_HALVINGS + 1):
        trial = frozen(evaluation, old.of(rows).moved(centres[rows], shares[rows]), rows)
        rows = rows[~(trial <= limit[rows])]
        if rows.size == 0:
            break
        halvings[rows] += 1
        part = 0.5 if halving < _HALVINGS else 0.0
        centres[rows] = old.centres[rows] + part * (centres[rows] - old.centres[rows])
        shares[rows] = old.shares[rows] + part * (shares[rows] - old.shares[rows])
    return old.moved(centres, shares), halvings


def _turned(evaluation: Evaluation, blobs: Blobs, before: np.ndarray) -> np.ndarray:
    """Tell in which cells (cells,) the gradient, V frozen, changes by more than explicit steps bear; before: at the start."""
    assert evaluation.entropy is not None
    variation = evaluation.q + evaluation.entropy.slope(blobs.weights)
    after = free_gradient(blobs.mollified(variation)[1], blobs.centres, blobs.limits)
    change, length = (np.einsum("ki,kia,kia->k", blobs.shares, v, v) for v in (after - before, before))
    return np.asarray(change > _UNSTABLE**2 * length)


def _either(which: np.ndarray, one: Blobs, other: Blobs) -> Blobs:
    """Return the blobs of `one` in the cells told, those of `other` elsewhere."""
    return other.moved(
        np.where(which[:, None, None], one.centres, other.centres), np.where(which[:, None], one.shares, other.shares)
    )
