"""Lower bounds of random problems with kinks, jumps and wells, against every action of a dense grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from random_problems import clamped_problem, random_problem

from wassgrid.case import Case
from wassgrid.certificate import certify, cheap_bracket, find_best, residual
from wassgrid.evaluation import Evaluation, Evaluator
from wassgrid.policy import ParticlePolicy

pytestmark = pytest.mark.thorough


def evaluated(seed: int, actions: int, text: str | None = None) -> tuple[Evaluator, Evaluation]:
    evaluator = Evaluator.from_case(Case.from_text(text or random_problem(seed, actions)))
    grid, problem = evaluator.model.grid, evaluator.model.problem
    rng = np.random.default_rng(seed)
    low, high = problem.action_bounds.T
    # particles in the box, on its faces and its corners: where kinks are
    unit = np.clip(rng.uniform(-0.6, 1.6, (grid.size, 2, actions)), 0.0, 1.0)
    policy = ParticlePolicy(grid, low + (high - low) * unit, np.full((grid.size, 2), 0.5))
    return evaluator, evaluator.evaluate(policy)


def dense(evaluation: Evaluation) -> np.ndarray:
    """Actions (cells, P, m) that fill the box, its ends among them."""
    low, high = evaluation.model.problem.action_bounds.T
    side = np.linspace(0.0, 1.0, {1: 601, 2: 41, 3: 15}[low.size])
    unit = np.stack(np.meshgrid(*[side] * low.size, indexing="ij"), axis=-1).reshape(-1, low.size)
    unit = np.concatenate([unit, np.random.default_rng(0).random((200, low.size))])
    actions = low + (high - low) * unit
    return np.broadcast_to(actions, (evaluation.policy.grid.size, *actions.shape))


def with_value(evaluation: Evaluation, evaluator: Evaluator, value: np.ndarray) -> Evaluation:
    """The evaluation with another V, that solves no equation, and the J that goes with it."""
    objective = evaluation.objective
    if evaluation.discount < 1.0:
        objective = float((1.0 - evaluation.discount) * (evaluator.initial_law @ value))
    return replace(evaluation, value=value, objective=objective)


@pytest.mark.parametrize("actions", [1, 2])
@pytest.mark.parametrize("seed", range(25))
def test_no_action_of_a_dense_grid_is_below_the_bound(seed, actions):
    evaluator, exact = evaluated(seed, actions)
    rng = np.random.default_rng(seed + 1000)
    states = exact.policy.grid.states
    some = (rng.normal() * states**2 + rng.normal() * np.sin(2.0 * states)).sum(axis=1)
    for value in (exact.value, exact.value + 0.03 * rng.standard_normal(some.size), some):
        evaluation = with_value(exact, evaluator, value)
        cells, everything = np.arange(value.size), dense(evaluation)
        least = evaluation.q_values(cells, everything).min(axis=1)
        found = find_best(evaluation)
        certificate = certify(evaluation, found=found)
        assert certificate.guaranteed
        rounding = 1e-11 * (np.abs(value).max() + np.abs(evaluation.cost).max())
        assert np.all(certificate.slack + value <= np.minimum(least, certificate.best_values) + rounding)
        assert np.all(certificate.best_values <= found.values + rounding)
        # min (TV - V) is bounded sharply, up to half of the gap
        worst = float((np.minimum(least, certificate.best_values) - value).min())
        bracket = cheap_bracket(evaluation, found)
        assert certificate.lower_bound <= bracket.lower + rounding
        assert not bracket.proven
        # the policy itself lies in its bracket
        assert bracket.policy[0] - rounding <= exact.objective <= bracket.policy[1] + rounding
        assert certificate.lower_bound <= min(exact.objective, bracket.upper) + rounding
        if "where" not in random_problem(seed, actions).split("noise")[0]:
            # intervals cannot tell the two sides of a jump of the mean from what is between
            assert certificate.slack.min() >= worst - 0.55 * abs(worst) - 0.05


@pytest.mark.parametrize("actions", [2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_the_search_finds_what_lies_beyond_and_at_clamped_ends(seed, actions):
    evaluator, exact = evaluated(seed, actions, clamped_problem(seed, actions))
    states = exact.policy.grid.states
    steep = 3.0 * np.sin(1.5 * states + seed).sum(axis=1) + states.sum(axis=1) ** 2
    for value in (exact.value, exact.value + steep):
        evaluation = with_value(exact, evaluator, value)
        cells = np.arange(value.size)
        least = evaluation.q_values(cells, dense(evaluation)).min(axis=1)
        found = find_best(evaluation)
        scale = np.abs(value).max() + np.abs(evaluation.cost).max()
        if value is exact.value:
            assert np.all(found.values <= least + 1e-11 * scale)
        certificate = certify(evaluation, found=found)
        assert certificate.guaranteed
        assert np.all(certificate.slack + value <= np.minimum(least, certificate.best_values) + 1e-11 * scale)
        # cells where a proof meets better actions do not end it: all of them are named
        gap = float((found.values - value).min())
        assert np.all(certificate.best_values - value >= gap - 0.5 * abs(gap) - 1e-9 * scale)


# at the action bound 1 the derivative that is given is not that of the inside, and the least cost is a little inside
CONTACTS = [
    "20*(a - 1)**2 + 2*a - 3*max(a, 1)", "20*(a - 1)**2 + 2*a - 3*max(1, a)", "20*(a - 1)**2 - a + 3*min(1, a)",
    "20*(a - 1)**2 - 2*abs(a - 1) + 0.001*a", "20*(a - 1)**2 + 2*a - 3*clip(a, 1, 2)",
    "20*(a - 1)**2 + where(a >= 1, 0, 2*a - 2)", "20*(a - 1)**2 + 2*a - 3*max(3*a - 2, 1)",
]  # fmt: skip


@pytest.mark.parametrize("stage", CONTACTS)
def test_a_kink_on_an_action_bound_is_no_smooth_end(stage):
    text = f"""
[states.x]
next = "0.5*x"
noise = "0.6"
domain = [-2, 2]
[actions.a]
bounds = [-3, 1]
[cost]
stage = "x**2 + {stage}"
[grid]
points = {{ x = 9 }}"""
    evaluator = Evaluator.from_case(Case.from_text(text))
    grid = evaluator.model.grid
    evaluation = evaluator.evaluate(ParticlePolicy.around(grid, np.ones((grid.size, 1))))
    least = evaluation.q_values(np.arange(grid.size), np.broadcast_to(np.linspace(-3, 1, 4001)[:, None], (grid.size, 4001, 1)))
    certificate = certify(evaluation)
    assert np.all(certificate.slack + evaluation.value <= least.min(axis=1) + 1e-10)


def test_the_residual_of_an_exact_value_is_none():
    for seed in (0, 1, 2):
        _, evaluation = evaluated(seed, 1)
        assert np.abs(residual(evaluation)).max() <= 1e-9 * (1.0 + np.abs(evaluation.value).max())
        bracket = cheap_bracket(evaluation, find_best(evaluation))
        assert bracket.policy[1] - bracket.policy[0] <= 1e-8 * (1.0 + np.abs(evaluation.value).max())
