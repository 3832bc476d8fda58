"""The Wasserstein geometry of policies: tangent fields, the metric weighted by the stationary law, the gradient norm."""

from __future__ import annotations

import numpy as np

from wassgrid.evaluation import Evaluation


def inner(law: np.ndarray, weights: np.ndarray, v: np.ndarray, w: np.ndarray) -> float:
    """Return <v, w>_pi = int mu(ds) int pi_s(da) v(s, a) . w(s, a) for fields (cells, N, m)."""
    return float(np.einsum("k,ki,kia,kia->", law, weights, v, w))


def norm(law: np.ndarray, weights: np.ndarray, v: np.ndarray) -> float:
    """Return |v|_pi; negative mass of a law that is not one (cubic kernel) counts as none."""
    return float(np.sqrt(inner(np.maximum(law, 0.0), weights, v, v)))


def free_gradient(gradient: np.ndarray, actions: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Return the gradient without the components along which a particle on a bound would leave it.

    gradient, actions (..., m); bounds (m, 2). At a bound the constrained flow a' = -gradient stands still in those
    components: they are not part of the gradient norm.
    """
    low, high = bounds.T
    held = ((actions <= low) & (gradient > 0)) | ((actions >= high) & (gradient < 0))
    return np.where(held, 0.0, gradient)


def gradient_norm(evaluation: Evaluation) -> float:
    """Return |grad J|_pi, the norm of grad_a Q over the free components (Dus 2026: grad J = grad_a Q)."""
    policy = evaluation.policy
    field = free_gradient(evaluation.q_gradient, policy.actions, evaluation.model.problem.action_bounds)
    return norm(evaluation.law, policy.weights, field)
