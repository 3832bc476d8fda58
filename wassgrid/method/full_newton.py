"""Newton steps with the full Hessian of J: truncated conjugate gradients in a trust region that is checked on J itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from wassgrid.chain.stationary import StationaryError
from wassgrid.evaluation import Evaluation, EvaluationError, Evaluator
from wassgrid.hessian import Hessian
from wassgrid.method.box_step import newton_candidates
from wassgrid.method.monotone_search import monotone_search
from wassgrid.method.newton import newton_step, reach
from wassgrid.method.outcome import StepOutcome
from wassgrid.metric import free_components
from wassgrid.problem.control_problem import ProblemError

if TYPE_CHECKING:
    from wassgrid.certificate import BestActions

_PRODUCTS = 60  # with the Hessian, for one face
_FACES = 4  # of the box of actions that one step may land on, one after the other
_FORCING = 0.1  # largest relative residual that a Newton system is solved to
_ACCEPTED, _POOR, _GOOD = 0.1, 0.25, 0.75  # actual decrease over predicted decrease
_LEAST_CURVATURE = 1e-3  # of the preconditioner, relative to the mean curvature
_SMALLEST, _LARGEST = 0.1, 100.0  # radii in units of the local Newton step
_ROUNDING = 1e-11  # decrease of J, relative to the costs, that cannot be told from rounding


@dataclass(frozen=True)
class LocalCurvature:
    """The positive definite block operator M = |D^2_a Q| of every particle: preconditioner and shape of the trust region.

    Eigenvalues are taken in absolute value and bounded below; components that a bound holds are left out.
    """

    values: np.ndarray  # (cells, N, m)
    vectors: np.ndarray  # (cells, N, m, m)
    free: np.ndarray  # (cells, N, m)

    @classmethod
    def of(cls, evaluation: Evaluation) -> LocalCurvature:
        policy = evaluation.policy
        model = evaluation.model
        free = free_components(evaluation.q_gradient, policy.actions, model.limits, model.problem.listed)
        blocks = np.where(free[..., :, None] & free[..., None, :], evaluation.q_hessian, 0.0)
        values, vectors = np.linalg.eigh(blocks)
        values = np.abs(values)
        share = np.maximum(evaluation.law, 0.0)[:, None] * policy.weights
        mean = float(np.einsum("ki,kia->", share, values)) / values.shape[2]
        return cls(np.maximum(values, _LEAST_CURVATURE * mean if mean > 0 else 1.0), vectors, free)

    def apply(self, v: np.ndarray) -> np.ndarray:
        return self._scaled(v, self.values)

    def solve(self, v: np.ndarray) -> np.ndarray:
        """Return M^{-1} v on the free components."""
        return self._scaled(v, 1.0 / self.values)

    def _scaled(self, v: np.ndarray, factors: np.ndarray) -> np.ndarray:
        inside = np.einsum("kiab,kia->kib", self.vectors, np.where(self.free, v, 0.0))
        return np.where(self.free, np.einsum("kiab,kib->kia", self.vectors, factors * inside), 0.0)


@dataclass(frozen=True)
class ModelStep:
    """A step v of the quadratic model q(v) = <grad J, v> + B(v, v)/2, with H v, the decrease -q(v) and why it ends."""

    field: np.ndarray
    image: np.ndarray
    decrease: float
    products: int
    reason: str


def truncated_conjugate_gradients(
    hessian: Hessian, metric: LocalCurvature, radius: float, tolerance: float, start: ModelStep, face: np.ndarray
) -> ModelStep:
    """Minimise the quadratic model of J within <v, M v> <= radius^2, from `start`, over the components of `face`.

    Conjugate gradients in the metric, preconditioned by M; they end on the boundary of the region, or follow a direction
    of negative curvature to it (Steihaug 1983), or where the residual has fallen by `tolerance` in the norm of M^{-1}.
    The model never rises along the way.
    """

    def limited(v: np.ndarray) -> np.ndarray:
        return np.where(face, v, 0.0)

    step, image, products = start.field, start.image, start.products
    residual = limited(hessian.gradient + image)
    lifted = limited(metric.solve(residual))
    direction = -lifted
    energy = first = hessian.inner(residual, lifted)
    reason = "the limit of products"
    for _ in range(_PRODUCTS):
        if energy <= tolerance**2 * first or energy == 0.0:
            reason = "converged"
            break
        bent = hessian.apply(direction)
        products += 1
        curvature, shape = hessian.inner(direction, bent), metric.apply(direction)
        outward = _to_boundary(hessian, metric, step, direction, shape, radius)
        length = energy / curvature if curvature > 1e-12 * hessian.inner(direction, shape) else np.inf
        step = step + min(length, outward) * direction
        image = image + min(length, outward) * bent
        if length >= outward:
            reason = "the boundary" if np.isfinite(length) else "negative curvature"
            break
        residual = limited(residual + length * bent)
        lifted = limited(metric.solve(residual))
        before, energy = energy, hessian.inner(residual, lifted)
        direction = -lifted + energy / before * direction
    return _model_step(hessian, step, image, products, reason)


def _to_boundary(
    hessian: Hessian, metric: LocalCurvature, step: np.ndarray, direction: np.ndarray, shape: np.ndarray, radius: float
) -> float:
    """Return the largest t with |step + t direction|_M <= radius, where shape = M direction."""
    if np.isinf(radius):
        return np.inf
    a, b = hessian.inner(direction, shape), hessian.inner(step, shape)
    c = max(radius**2 - hessian.inner(step, metric.apply(step)), 0.0)
    # a t^2 + 2 b t = c, without cancellation
    root = np.sqrt(b * b + a * c)
    return float(c / (b + root) if b > 0 else (root - b) / a)


def _model_step(hessian: Hessian, step: np.ndarray, image: np.ndarray, products: int, reason: str) -> ModelStep:
    model = hessian.inner(hessian.gradient, step) + 0.5 * hessian.inner(step, image)
    return ModelStep(step, image, -model, products, reason)


def bounded_step(
    hessian: Hessian, metric: LocalCurvature, radius: float, tolerance: float, box: tuple[np.ndarray, np.ndarray]
) -> ModelStep:
    """Minimise the model within <v, M v> <= radius^2 and within a box of moves (lower and upper end, (cells, N, m)).

    Components that a step carries over an end of the box are put on it and stay there while the others go on, face after
    face (as in the projected Newton method of Lin and Moré 1999). A face on which the projected step has a larger model
    than the step before it is given up.
    """
    face = hessian.domain
    zero = np.zeros(face.shape)
    best = ModelStep(zero, zero, 0.0, 0, "nothing to do")
    for _ in range(_FACES):
        trial = truncated_conjugate_gradients(hessian, metric, radius, tolerance, best, face)
        landed = np.clip(trial.field, *box)
        outside = face & (landed != trial.field)
        if not outside.any():
            return trial
        projected = _model_step(hessian, landed, hessian.apply(landed), trial.products + 1, trial.reason)
        if projected.decrease <= best.decrease:
            return replace(best, products=projected.products)
        best, face = projected, face & ~outside
    return best


def full_newton_step(
    evaluator: Evaluator, evaluation: Evaluation, radius: float, best: BestActions | None = None
) -> StepOutcome:
    """Take one trust-region step with the full Hessian and evaluate the new policy; J does not rise.

    radius: of the trust region in units of the local Newton step n = -M^{-1} grad_a Q, M = |D^2_a Q|; start with 1.
    The move v keeps to |v|_M <= radius |n|_M and, component by component, to |v| <= radius max(|n|, rms of n): the metric
    alone would let particles in rarely visited cells go as far as they like. `next_step` of the outcome is the next
    radius.

    A step is accepted if J falls by a fraction of what the model predicts. Otherwise the local Newton step is taken, whose
    guard needs no model of J (`newton_step`); likewise where the predicted decrease is below the rounding of J and cannot be
    checked, and where it is seen that particles gain more by jumping to better actions than by moving. Cells
    without mass, which the Hessian does not know, take local Newton steps in any case.
    The Newton systems are solved, and the chain within them, the more exactly the smaller the gradient is.
    """
    policy = evaluation.policy
    low, high = evaluation.model.limits
    metric = LocalCurvature.of(evaluation)
    newton = -metric.solve(evaluation.q_gradient)
    hessian = Hessian(evaluation)
    scale = max(abs(evaluation.objective), float(np.abs(evaluation.cost).mean()))
    # |grad J|^2 in the norm of M^{-1}: twice the decrease that the local model promises
    promised = -hessian.inner(hessian.gradient, newton)
    if promised <= _ROUNDING * scale or (best is not None and _jumps(evaluation, best) > promised):
        return replace(newton_step(evaluator, evaluation, np.inf, best, adaptive=False), next_step=radius)
    tolerance = min(_FORCING, float(np.sqrt(promised / scale)))
    hessian = replace(hessian, tolerance=max(1e-2 * tolerance, evaluator.tolerance))
    farthest = radius * np.maximum(np.abs(newton), np.sqrt(hessian.inner(newton, newton)))
    box = np.maximum(low - policy.actions, -farthest), np.minimum(high - policy.actions, farthest)
    step = bounded_step(hessian, metric, radius * np.sqrt(promised), tolerance, box)
    if step.decrease > 0.0:
        rest, guarded = _weightless_step(evaluation, hessian.mass > 0)
        trial = _evaluated(evaluator, evaluation, np.clip(rest + step.field, low, high))
        gain = -np.inf if trial is None else (evaluation.objective - trial.objective) / step.decrease
        if trial is not None and gain >= _ACCEPTED:
            radius = radius * (0.5 if gain < _POOR else 2.0 if gain > _GOOD else 1.0)
            return StepOutcome(trial, float("nan"), float(np.clip(radius, _SMALLEST, _LARGEST)), guarded)
    outcome = newton_step(evaluator, evaluation, np.inf, best, adaptive=False)
    return replace(outcome, next_step=max(0.5 * radius, _SMALLEST), rejected=1)


def _jumps(evaluation: Evaluation, best: BestActions) -> float:
    """Return by how much Q falls on average if every particle takes the best action known in its cell."""
    fall = np.maximum(evaluation.q - best.values[:, None], 0.0)
    return float(np.einsum("k,ki,ki->", np.maximum(evaluation.law, 0.0), evaluation.policy.weights, fall))


def _weightless_step(evaluation: Evaluation, weighty: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the actions after guarded local Newton steps of all particles not `weighty`, and how many were held back."""
    actions, rows = evaluation.policy.actions, ~weighty
    low, high = (np.broadcast_to(limit, actions.shape)[rows] for limit in evaluation.model.limits)
    longest = reach(evaluation)
    candidates, slope = actions.copy(), np.zeros(weighty.shape)
    candidates[rows], slope[rows] = newton_candidates(
        evaluation.q_gradient[rows],
        evaluation.q_hessian[rows],
        actions[rows],
        np.maximum(low, actions[rows] - longest),
        np.minimum(high, actions[rows] + longest),
    )
    moved, halvings = monotone_search(evaluation, candidates, slope)
    return moved, int((halvings > 0).sum())


def _evaluated(evaluator: Evaluator, evaluation: Evaluation, actions: np.ndarray) -> Evaluation | None:
    """Evaluate a trial policy; None where it is not defined, or has no law or value that can be found (J counts as infinite)."""
    try:
        return evaluator.evaluate(evaluation.policy.moved(actions), evaluation)
    except (StationaryError, EvaluationError, ProblemError):
        return None
