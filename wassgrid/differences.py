"""Differences of J that its gradient and its Hessian must agree with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wassgrid.evaluation import Evaluation, Evaluator
from wassgrid.hessian import second_derivative
from wassgrid.metric import WASSERSTEIN, Metric
from wassgrid.problem.boundary import BOUNDARIES
from wassgrid.tangent import ParticleGeodesic, Variation, without_mean

_STEPS = (1e-2, 5e-4)  # of the differences, in noises or cells that a particle's mean moves; short ones meet few kinks
GRADIENT_TOLERANCE, HESSIAN_TOLERANCE = 1e-4, 1e-3  # relative
KINKS = 0.5  # of the particles near kinks: more are a defect, or a case without derivatives
_BENT = 0.01  # relative change of a first derivative over a step that its second derivative does not explain


@dataclass(frozen=True)
class DerivativeCheck:
    """Compare derivatives of J along one tangent field, dJ = <grad J, v> and d2J = B(v, v), with differences of J and dJ.

    The errors are relative to |grad J| |v| and to the sum of the moduli of the local and the transport part.
    kinks: share of the probability of particles so near to a kink of the case (abs, min, max, clip, where, the end of a
    clamped axis) that they were not moved.
    """

    slope: float
    slope_error: float
    curvature: float
    curvature_error: float
    kinks: float

    @property
    def passed(self) -> bool:
        return max(self.slope_error / GRADIENT_TOLERANCE, self.curvature_error / HESSIAN_TOLERANCE, self.kinks / KINKS) <= 1.0


def check_derivatives(
    evaluator: Evaluator, evaluation: Evaluation, seed: int = 0, metric: Metric = WASSERSTEIN
) -> DerivativeCheck:
    """Hold gradient and Hessian of J at one policy against fourth-order central differences along a random tangent field.

    dJ by (8 (J(t) - J(-t)) - (J(2t) - J(-2t)))/12t, likewise d2J from dJ(t) = <grad J, v> at a + t v; of two step
    lengths t the better one counts. Components within reach of an action bound are not moved. Where weights move, the way is the
    geodesic that begins with the field (`ParticleGeodesic`).
    """
    policy = evaluation.policy
    rng = np.random.default_rng(seed)
    field, bent = np.zeros(policy.actions.shape), np.zeros(policy.weights.shape, bool)
    if metric.actions:
        field = _action_scale(evaluation) * rng.uniform(-1.0, 1.0, policy.actions.shape)
        low, high = evaluation.model.limits
        # along a geodesic of particles and weights a little farther
        longest = 2 * max(_STEPS) * (1.1 if metric.weights else 1.0)
        farthest = longest * field
        field[..., evaluation.model.problem.listed] = 0.0
        field = np.where((policy.actions - np.abs(farthest) < low) | (policy.actions + np.abs(farthest) > high), 0.0, field)
        bent = _near_kinks(evaluation, longest * field)
        field[bent] = 0.0
    if metric.weights:
        # the faster the actions of a state move, the faster do weights in this metric
        r = without_mean(policy.weights, rng.uniform(-1.0, 1.0, policy.weights.shape))
        fastest = metric.rate**0.5 * np.linalg.norm(field, axis=2).max(axis=1, keepdims=True)
        field /= np.maximum(fastest, 1.0)[:, :, None]
        field = np.concatenate([field, r[:, :, None]], axis=2)
    path = ParticleGeodesic(policy, field, metric.rate) if metric.weights else None
    kinks = float(np.einsum("k,ki,ki->", evaluation.law, policy.weights, bent))

    def slope(at: Evaluation, velocity: np.ndarray) -> float:
        return float(at.law @ Variation(at, metric).slope(velocity))

    def there(time: float) -> tuple[float, float]:
        """Return J and dJ/dt at a time."""
        moved = policy.moved(policy.actions + time * field) if path is None else path.at(time)
        at = evaluator.evaluate(moved, evaluation)
        return at.objective, slope(at, field if path is None else path.velocity(time))

    exact = slope(evaluation, field)
    local, transport = second_derivative(evaluation, field, metric=metric)
    variation = Variation(evaluation, metric)
    size_of_slope = np.sqrt(
        evaluation.law
        @ variation.product(variation.gradient, variation.gradient)
        * (evaluation.law @ variation.product(field, field))
    )
    errors = []
    for t in _STEPS:
        ahead, back, farther, far_back = (there(k * t) for k in (1, -1, 2, -2))
        differences = [
            (8 * (ahead[k] - back[k]) - (farther[k] - far_back[k])) / (12 * t) for k in range(2)
        ]
        errors.append((abs(differences[0] - exact), abs(differences[1] - local - transport)))
    slope_error, curvature_error = np.min(errors, axis=0)
    size_of_curvature = abs(local) + abs(transport)
    return DerivativeCheck(
        exact,
        float(slope_error / size_of_slope) if size_of_slope > 0 else float(slope_error),
        local + transport,
        float(curvature_error / size_of_curvature) if size_of_curvature > 0 else float(curvature_error),
        kinks,
    )


def _near_kinks(evaluation: Evaluation, move: np.ndarray) -> np.ndarray:
    """Tell which particles (cells, N) meet a kink of mean or cost, or an end of a clamped axis, within +-move (cells, N, m).

    A kink shows as a change of the first derivatives that the second ones do not explain.
    """
    model, policy = evaluation.model, evaluation.policy
    clamped = np.array([BOUNDARIES[boundary].stops for boundary in model.grid.boundary])
    ends = np.array([[axis[0], axis[-1]] for axis in model.grid.axes])
    bent = np.zeros(policy.weights.shape, bool)
    cells = np.arange(policy.grid.size)
    for rows in model.blocks(*policy.actions.shape[:2]):
        here = model.tables(cells[rows], policy.actions[rows], 2)
        # mean and cost side by side: (cells, N, d + 1, m[, m])
        first = _stacked(here.mean_gradient, here.cost_gradient)
        change = np.einsum("kijab,kib->kija", _stacked(here.mean_hessian, here.cost_hessian), move[rows])
        for sign in (1.0, -1.0):
            there = model.tables(cells[rows], policy.actions[rows] + sign * move[rows], 1)
            defect = np.abs(_stacked(there.mean_gradient, there.cost_gradient) - first - sign * change)
            bent[rows] |= (defect > _BENT * (np.abs(first) + np.abs(change))).any(axis=(2, 3))
            sides = (here.mean[..., None] < ends) != (there.mean[..., None] < ends)
            bent[rows] |= (sides.any(axis=3) & clamped).any(axis=2)
    return bent


def _stacked(of_mean: np.ndarray | None, of_cost: np.ndarray | None) -> np.ndarray:
    assert of_mean is not None and of_cost is not None
    return np.concatenate([of_mean, of_cost[:, :, None]], axis=2)


def _action_scale(evaluation: Evaluation) -> np.ndarray:
    """Return the move (m,) of an action that shifts some mean of the next state by one noise, or one cell without noise."""
    model, policy = evaluation.model, evaluation.policy
    unit = np.where(model.noise > 0, model.noise, model.grid.spacing)
    fastest = np.zeros(policy.action_dimension)
    cells = np.arange(policy.grid.size)
    for rows in model.blocks(*policy.actions.shape[:2]):
        gradient = model.tables(cells[rows], policy.actions[rows], 1).mean_gradient
        assert gradient is not None
        fastest = np.maximum(fastest, (np.abs(gradient) / unit[rows, None, :, None]).max(axis=(0, 1, 2)))
    spread = 1.0 + np.abs(policy.actions).max(axis=(0, 1))
    return np.where(fastest > 0, 1.0 / np.maximum(fastest, 1.0 / spread), spread)
