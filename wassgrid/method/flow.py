"""The gradient flow a' = -grad_a Q, w' = -kappa w (Q - V) of the particles: explicit schemes in flow time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from wassgrid.chain.reductions import cells_of, count, ends
from wassgrid.chain.stationary import StationaryError
from wassgrid.evaluation import Evaluation, EvaluationError, Evaluator, objective_rounding
from wassgrid.method.blobs import blob_step
from wassgrid.method.monotone_search import monotone_search
from wassgrid.method.outcome import StepOutcome
from wassgrid.method.schemes import Scheme
from wassgrid.method.weights import cooled, reweighted
from wassgrid.metric import WASSERSTEIN, Metric, free_gradient, gradient_norm
from wassgrid.problem.control_problem import ProblemError

_DEFECT = 0.2  # accepted relative defect of the energy identity
_TARGET = 0.05  # defect that the step length aims at
_GROWTH, _SHRINK = 1.5, 0.3
_REJECTIONS = 30  # of one step, each shorter
_GUARDED_SHARE = 1e-3  # of particles held back from which the step is too long
_STABLE = 2.0  # step |D^2_a Q| up to which every scheme damps a particle's own motion


def flow_step(
    evaluator: Evaluator, evaluation: Evaluation, scheme: Scheme, step: float, metric: Metric = WASSERSTEIN
) -> StepOutcome:
    """Advance every particle by one step of the flow in a metric and evaluate the new policy.

    Every stage is projected onto the action bounds. A step that would raise J is taken back to one in which no particle's
    Q rises (`monotone_search`) and the weights take the exponential step, which lowers the mean of Q. The guard waits until then
    because the particles of a true step may raise their own Q, with V frozen, while J falls: the minimum that they follow moves
    during the step. Particles for which the step is beyond the stability of explicit schemes are searched in any case: in cells
    that are hardly ever visited J would not see them go.
    """
    if evaluation.policy.blobs is not None:
        return blob_step(evaluator, evaluation, scheme, step, metric)
    limits = low, high = evaluation.model.limits
    policy = evaluation.policy
    start = policy.actions
    slopes: list[np.ndarray] = []
    excesses: list[np.ndarray] = []  # first variations less a number of each cell, which falls out of the weights

    def after(factors: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Actions, not yet clipped, and weights after the speeds so far with these factors."""
        actions, weights = start, policy.weights
        if metric.actions:
            actions = start + sum((step * a * k for a, k in zip(factors, slopes, strict=True) if a), np.zeros_like(start))
        if metric.weights:
            zero = np.zeros_like(weights)
            total = sum((step * a * e for a, e in zip(factors, excesses, strict=True) if a), zero)
            weights = reweighted(weights, -metric.rate * total)
        return actions, weights

    stage = evaluation
    for couplings in scheme.couplings:
        if couplings:
            actions, weights = after(couplings)
            stage = evaluator.evaluate(policy.moved(np.clip(actions, low, high), weights), stage)
        if metric.actions:
            slopes.append(-free_gradient(stage.q_gradient, stage.policy.actions, limits))
        if metric.weights:
            excesses.append(stage.first_variation - stage.first_variation.min(axis=1, keepdims=True))
    actions, weights = after(scheme.weights)
    candidates, tamed = start, 0
    if metric.actions:
        candidates, shortened = _tamed(evaluation, np.clip(actions, low, high), step)
        tamed = count(shortened)
    new = evaluator.evaluate(policy.moved(candidates, weights), evaluation)
    if new.objective <= evaluation.objective + objective_rounding(evaluation):
        return StepOutcome(new, step, step, tamed=tamed)
    guarded = 0
    if metric.actions:
        candidates, halvings = monotone_search(evaluation, candidates)
        guarded = count(halvings > 0)
    if metric.weights:
        shorter = cooled if evaluation.entropy is None else evaluation.entropy.relaxed
        weights = shorter(policy.weights, evaluation.q, metric.rate * step)
    new = evaluator.evaluate(policy.moved(candidates, weights), evaluation)
    return StepOutcome(new, step, step, guarded=guarded, tamed=tamed)


def _tamed(evaluation: Evaluation, candidates: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the candidates (cells, N, m), those with step |D^2_a Q| beyond stability shortened, and which those are."""
    stiff = step * np.abs(evaluation.q_hessian).sum(axis=3).max(axis=2) > _STABLE
    if not stiff.any():
        return candidates, stiff
    searched, halvings = monotone_search(evaluation, np.where(stiff[:, :, None], candidates, evaluation.policy.actions))
    return np.where(stiff[:, :, None], searched, candidates), halvings > 0


def adaptive_flow_step(
    evaluator: Evaluator, evaluation: Evaluation, scheme: Scheme, step: float, metric: Metric = WASSERSTEIN
) -> StepOutcome:
    """Advance by one step whose length keeps to the energy identity dJ/dt = -|grad J|^2 of the flow.

    The defect of the trapezoidal rule,  |J_0 - J_1 - h (|g_0|^2 + |g_1|^2)/2| / (J_0 - J_1),  measures at no cost how
    well a step follows the flow; steps with a large defect, or that J does not survive, are thrown away and shortened.
    """
    before = gradient_norm(evaluation, metric) ** 2
    floor = objective_rounding(evaluation)
    rejected = 0
    while True:
        try:
            trial = flow_step(evaluator, evaluation, scheme, step, metric)
        except (ProblemError, StationaryError, EvaluationError):
            # a stage where cost or law are not defined, or a chain that has no value
            if rejected >= _REJECTIONS:
                raise
            step *= _SHRINK
            rejected += 1
            continue
        after = gradient_norm(trial.evaluation, metric) ** 2
        fall = evaluation.objective - trial.evaluation.objective
        predicted = 0.5 * step * (before + after)
        # below the floor the fall of J is rounding: there the gradient norm has to fall instead
        measurable = max(abs(fall), predicted) > floor
        defect = abs(fall - predicted) / max(abs(fall), predicted) if measurable else 0.0
        good = defect <= _DEFECT if measurable else after <= before
        if (good and fall >= -floor) or rejected >= _REJECTIONS:
            break
        step *= max(_SHRINK, min(0.7, (_TARGET / defect) ** 0.5)) if defect > 0 else 0.7
        rejected += 1
    factor = 1.0
    if rejected == 0 and measurable:
        factor = min(_GROWTH, max(_SHRINK, 0.9 * (_TARGET / max(defect, 1e-16)) ** 0.5))
    if trial.guarded > _GUARDED_SHARE * cells_of(evaluation.law) * evaluation.policy.particles:
        factor = min(factor, 0.7)
    elif trial.guarded:
        factor = min(factor, 1.0)
    return StepOutcome(trial.evaluation, step, step * factor, trial.guarded, 0, rejected, trial.tamed)


def initial_step(evaluation: Evaluation, metric: Metric = WASSERSTEIN) -> float:
    """Return a first step length: half the inverse of the fastest rate of a cell that carries mass.

    The rate is the largest curvature |D^2_a Q| (of blobs: the largest speed over their bandwidth), and kappa times the range of
    the first variation over the particles, and eps.
    """
    rates: list[np.ndarray]
    variation, blobs = evaluation.first_variation, evaluation.policy.blobs
    if blobs is not None:
        variation, gradient = blobs.mollified(variation)
        widths = blobs.bandwidth * (blobs.high - blobs.low)
        rates = [(np.abs(gradient).max(axis=1) / np.where(widths > 0.0, widths, 1.0)).max(axis=1)] if metric.actions else []
    else:
        rates = [np.abs(evaluation.q_hessian).sum(axis=3).max(axis=(1, 2))] if metric.actions else []
    if metric.weights:
        price = 0.0 if evaluation.entropy is None else evaluation.entropy.strength
        rates.append(metric.rate * (np.ptp(variation, axis=1) + price))
    curvature = np.max(rates, axis=0)
    law = evaluation.law
    carried = law > 1e-6 * ends(law)[1]
    # without a law that carries anything, that of any cell
    top = ends(np.where(carried, curvature, 0.0) if count(carried) else curvature)[1]
    return 0.5 / top if top > 0 else 1.0


def timed_flow_step(
    evaluator: Evaluator,
    evaluation: Evaluation,
    scheme: Scheme,
    size: float,
    fixed: float | None,
    remaining: float,
    metric: Metric = WASSERSTEIN,
) -> StepOutcome:
    """Advance by a step of the length that the user fixed, or by an adaptive one of `size`, not beyond the time `remaining`.

    A last adaptive step ends on the flow time asked for; the step length goes on as if it had not been cut.
    """
    if fixed is not None:
        return flow_step(evaluator, evaluation, scheme, min(fixed, remaining), metric)
    cut = min(size, max(remaining, 0.0))
    outcome = adaptive_flow_step(evaluator, evaluation, scheme, cut, metric)
    return replace(outcome, next_step=max(outcome.next_step, size)) if cut < size and not outcome.rejected else outcome
