"""grad J = grad_a Q in the metric, against differences of J itself."""

from __future__ import annotations

import numpy as np
import pytest
from random_policies import SETTINGS, along, random_field, slopes

from wassgrid.metric import inner

STEPS = [0.02 / 2**k for k in range(4)]


@pytest.mark.parametrize("name", SETTINGS)
def test_taylor_remainder_of_the_gradient_is_quadratic(name: str) -> None:
    """|J(a + t v) - J(a) - t <grad_a Q, v>| = O(t^2) for a random field v, unequal weights, three particles per cell."""
    evaluator = SETTINGS[name].evaluator()
    evaluation = evaluator.evaluate(SETTINGS[name].policy(evaluator, seed=1))
    field = random_field(evaluation.policy, seed=2)
    slope = inner(evaluation.law, evaluation.policy.weights, evaluation.q_gradient, field)
    moved = along(evaluator, evaluation, field)
    remainders = [abs(moved(t).objective - evaluation.objective - t * slope) for t in STEPS]
    assert slopes(remainders) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("name", SETTINGS)
def test_gradient_is_the_central_difference_of_the_objective(name: str) -> None:
    evaluator = SETTINGS[name].evaluator()
    evaluation = evaluator.evaluate(SETTINGS[name].policy(evaluator, seed=3))
    field = random_field(evaluation.policy, seed=4)
    slope = inner(evaluation.law, evaluation.policy.weights, evaluation.q_gradient, field)
    moved = along(evaluator, evaluation, field)
    # fourth order: (8 (J(t) - J(-t)) - (J(2t) - J(-2t))) / 12 t
    t = 2e-3
    one, two = (moved(k * t).objective - moved(-k * t).objective for k in (1, 2))
    assert (8 * one - two) / (12 * t) == pytest.approx(slope, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("name", SETTINGS)
def test_hessian_of_q_is_the_derivative_of_its_gradient(name: str) -> None:
    """D^2_a Q and grad_a Q at frozen V against differences of Q at single particles."""
    evaluator = SETTINGS[name].evaluator()
    evaluation = evaluator.evaluate(SETTINGS[name].policy(evaluator, seed=5))
    actions, cells = evaluation.policy.actions, np.arange(evaluation.policy.grid.size)
    field = random_field(evaluation.policy, seed=6)
    t = 1e-4
    values, gradients, _ = zip(*(evaluation.action_values(cells, actions + s * t * field) for s in (1, -1)), strict=True)
    difference = (values[0] - values[1]) / (2 * t)
    assert np.einsum("kia,kia->ki", evaluation.q_gradient, field) == pytest.approx(difference, abs=1e-5, rel=1e-5)
    difference = (gradients[0] - gradients[1]) / (2 * t)
    curved = np.einsum("kiab,kib->kia", evaluation.q_hessian, field)
    assert curved == pytest.approx(difference, abs=1e-4, rel=1e-4)
