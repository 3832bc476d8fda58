"""The Wasserstein geometry of policies: tangent fields and the metric weighted by the stationary law."""

from __future__ import annotations

import numpy as np

from wassgrid.evaluation import Evaluation


def inner(law: np.ndarray, weights: np.ndarray, v: np.ndarray, w: np.ndarray) -> float:
    """Return <v, w>_pi = int mu(ds) int pi_s(da) v(s, a) . w(s, a) for fields (cells, N, m)."""
    return float(np.einsum("k,ki,kia,kia->", law, weights, v, w))


def norm(law: np.ndarray, weights: np.ndarray, v: np.ndarray) -> float:
    """Return |v|_pi; negative mass of a law that is not one (cubic kernel) counts as none."""
    return float(np.sqrt(inner(np.maximum(law, 0.0), weights, v, v)))


def free_components(gradient: np.ndarray, actions: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Tell for every component whether the flow a' = -gradient moves it: not from a bound outward.

    gradient, actions (..., m); bounds (m, 2); the answer (..., m) is False for components held by a bound.
    """
    low, high = bounds.T
    held = ((actions <= low) & (gradient > 0)) | ((actions >= high) & (gradient < 0))
    return ~held


def free_gradient(gradient: np.ndarray, actions: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Return the gradient without the components along which a particle on a bound would leave it.

    At a bound the constrained flow stands still in those components: they are not part of the gradient norm.
    """
    return np.where(free_components(gradient, actions, bounds), gradient, 0.0)


def gradient_norm(evaluation: Evaluation) -> float:
    """Return |grad J|_pi, the norm of grad_a Q over the free components (Dus 2026: grad J = grad_a Q)."""
    policy = evaluation.policy
    field = free_gradient(evaluation.q_gradient, policy.actions, evaluation.model.problem.action_bounds)
    return norm(evaluation.law, policy.weights, field)
