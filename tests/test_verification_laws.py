"""Laws that hold for every problem, grid, kernel and policy, on random ones."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wassgrid.case import Case
from wassgrid.evaluation import Evaluation, Evaluator
from wassgrid.policy import ParticlePolicy
from wassgrid.problem.exact import AutoRegression, Manufactured, ScalarLQ

TEXTS = {
    "circle": [Manufactured.circle().case_text(n, kernel) for n in (12, 21) for kernel in ("gaussian", "linear")],
    "line": [ScalarLQ(noise=0.8).case_text(n, kernel) for n in (15, 24) for kernel in ("gaussian", "linear")],
    "reflected": [AutoRegression(0.6).case_text(13).replace("domain", 'boundary = "reflect"\ndomain')],
    "pendulum": [
        Manufactured.pendulum().case_text({"theta": 12, "omega": "aligned"}, "auto"),
        Manufactured.pendulum().case_text({"theta": 11, "omega": 9}, {"theta": "linear", "omega": "auto"}),
        Manufactured.pendulum(0.4).case_text({"theta": 12, "omega": 17}, "auto"),
    ],
    "correlated": [Manufactured.correlated().case_text(8, "linear")],
}
EVALUATORS = [Evaluator.from_case(Case.from_text(text)) for texts in TEXTS.values() for text in texts]

evaluators = st.sampled_from(EVALUATORS)
seeds = st.integers(0, 2**31)
particles = st.integers(1, 4)


def random_policy(evaluator: Evaluator, seed: int, count: int) -> ParticlePolicy:
    grid, rng = evaluator.model.grid, np.random.default_rng(seed)
    dimension = evaluator.model.problem.action_bounds.shape[0]
    # a contraction towards the middle keeps the chain ergodic, the scatter keeps the policy arbitrary
    centre = -0.5 * grid.states[:, :1] * np.ones(dimension)
    actions = centre[:, None, :] + rng.normal(0, 0.7, (grid.size, count, dimension))
    return ParticlePolicy(grid, actions, rng.dirichlet(np.full(count, 0.7), grid.size))


def stage_cost(evaluation: Evaluation) -> np.ndarray:
    return (evaluation.policy.weights * evaluation.cost).sum(axis=1)


@given(evaluators, seeds, particles)
@settings(max_examples=40)
def test_the_operator_is_a_markov_matrix_and_its_products_are_adjoint(evaluator, seed, count):
    policy = random_policy(evaluator, seed, count)
    mean, _ = evaluator.model.means(policy.actions)
    operator = evaluator.model.operator(mean, policy.weights)
    rng = np.random.default_rng(seed)
    function, law = rng.standard_normal(operator.size), rng.dirichlet(np.ones(operator.size))
    assert np.abs(operator.apply(np.ones(operator.size)) - 1).max() < 1e-14
    assert operator.nonnegative and operator.matrix().data.min() >= 0
    assert abs(law @ operator.apply(function) - operator.push(law) @ function) < 1e-13 * np.abs(function).max()
    dense = operator.matrix().toarray()
    assert np.allclose(dense @ function, operator.apply(function), rtol=0, atol=1e-13)


@given(evaluators, seeds, particles)
@settings(max_examples=40)
def test_evaluation(evaluator, seed, count):
    evaluation = evaluator.evaluate(random_policy(evaluator, seed, count))
    law, value, cost = evaluation.law, evaluation.value, stage_cost(evaluation)
    operator = evaluation.chain.operator
    scale, height = np.abs(cost).max(), np.abs(value).max()
    assert abs(law.sum() - 1) < 1e-14
    assert law.min() >= 0
    assert np.abs(operator.push(law) - law).sum() < 1e-11
    # mu(c - J) = 0, mu(V) = 0, (I - P) V = c - J
    assert abs(law @ (cost - evaluation.objective)) < 1e-12 * scale
    assert abs(law @ value) < 1e-12 * height
    assert np.abs(cost - evaluation.objective + operator.apply(value) - value).max() < 1e-9 * max(scale, height)
    assert cost.min() <= evaluation.objective <= cost.max()
    # the mean of Q over the particles is V
    assert np.abs((evaluation.policy.weights * evaluation.q).sum(axis=1) - value).max() < 1e-9 * max(scale, height)


@given(evaluators, seeds, st.integers(2, 4))
@settings(max_examples=25)
def test_order_of_particles_changes_nothing(evaluator, seed, count):
    policy = random_policy(evaluator, seed, count)
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(count), (policy.grid.size, 1)), axis=1)
    shuffled = ParticlePolicy(
        policy.grid,
        np.take_along_axis(policy.actions, order[:, :, None], axis=1),
        np.take_along_axis(policy.weights, order, axis=1),
    )
    one, other = evaluator.evaluate(policy), evaluator.evaluate(shuffled)
    scale = np.abs(one.value).max()
    assert abs(one.objective - other.objective) < 1e-10 * np.abs(one.cost).max()
    assert np.abs(one.value - other.value).max() < 1e-8 * scale
    gradient = np.take_along_axis(one.q_gradient, order[:, :, None], axis=1)
    assert np.abs(gradient - other.q_gradient).max() < 1e-8 * max(np.abs(gradient).max(), scale)


@given(evaluators, seeds, particles)
@settings(max_examples=25)
def test_splitting_particles_changes_nothing(evaluator, seed, count):
    policy = random_policy(evaluator, seed, count)
    share = np.random.default_rng(seed).uniform(0, 1, policy.weights.shape)
    split = ParticlePolicy(
        policy.grid,
        np.concatenate([policy.actions, policy.actions], axis=1),
        np.concatenate([share * policy.weights, (1 - share) * policy.weights], axis=1),
    )
    one, other = evaluator.evaluate(policy), evaluator.evaluate(split)
    assert abs(one.objective - other.objective) < 1e-10 * np.abs(one.cost).max()
    assert np.abs(one.law - other.law).sum() < 1e-10
