"""Stationary laws, values and mixing rates against closed forms and the Grassmann-Taksar-Heyman algorithm."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from benchmarks import slow_mixing
from wassgrid.case import Case
from wassgrid.chain.fundamental import Chain
from wassgrid.chain.stationary import stationary_law
from wassgrid.evaluation import Evaluation, Evaluator
from wassgrid.policy import ParticlePolicy
from wassgrid.problem.exact import AutoRegression, DoubleWell, FiniteChain, HeatBathPendulum, grassmann_taksar_heyman
from wassgrid.transition.sparse import TransitionOperator


def idle(text: str) -> Evaluation:
    """Evaluate the policy that does nothing."""
    evaluator = Evaluator.from_case(Case.from_text(text))
    grid = evaluator.model.grid
    return evaluator.evaluate(ParticlePolicy.around(grid, np.zeros((grid.size, 1))))


@pytest.mark.parametrize("factor", [0.5, 0.9, -0.7])
def test_autoregression(factor):
    problem = AutoRegression(factor, noise=0.6)
    evaluation = idle(problem.case_text(81, deviations=8.0))
    grid = evaluation.policy.grid
    states = grid.states[:, 0]
    assert np.abs(evaluation.law / grid.spacing[0] - problem.density(states)).max() < 1e-10
    assert evaluation.objective == pytest.approx(problem.variance, rel=1e-10)
    near = np.abs(states) < 3 * math.sqrt(problem.variance)
    assert np.abs(evaluation.value - problem.value(states))[near].max() < 1e-8
    # the slowest mode is odd: a start to one side shows it
    beside = np.exp(-0.5 * (states - 1) ** 2)
    rate = stationary_law(evaluation.chain.operator, beside, method="power").rate
    assert rate == pytest.approx(abs(factor), rel=0.01)


def heat_bath_errors(step: float, angles: int) -> tuple[float, float]:
    """L1 error of the density and error of the mean energy on an aligned grid."""
    problem = HeatBathPendulum()
    evaluation = idle(problem.case_text({"theta": angles, "omega": "aligned"}, step=step))
    grid = evaluation.policy.grid
    density = problem.density(*grid.states.T) * grid.spacing.prod()
    return float(np.abs(evaluation.law - density).sum()), abs(evaluation.objective - problem.mean_energy)


def test_heat_bath_pendulum_tends_to_the_gibbs_law_with_the_step():
    coarse, fine = heat_bath_errors(0.2, 64), heat_bath_errors(0.1, 192)
    assert math.log2(coarse[0] / fine[0]) == pytest.approx(1.0, abs=0.1)
    assert fine[0] < 0.1
    assert fine[1] < coarse[1]


def test_taxi_gain():
    chain = FiniteChain.howard_taxi()
    gains = {}
    for actions in itertools.product(range(3), range(2), range(3)):
        transition, reward = chain.closed_loop(actions)
        operator = TransitionOperator.from_matrix(transition)
        law = stationary_law(operator).law
        gains[actions] = float(law @ reward)
        value = Chain(operator, law, 1.0, "auto", 1e-13).right(reward - gains[actions]).values
        assert np.abs(reward - gains[actions] + transition @ value - value).max() < 1e-11
    assert max(gains, key=gains.__getitem__) == chain.best_actions
    assert max(gains.values()) == pytest.approx(chain.gain, rel=1e-12)


def test_double_well_density_in_the_limit_of_small_steps():
    errors = []
    for step in (0.04, 0.02):
        problem = DoubleWell(noise=0.5, step=step)
        evaluation = idle(problem.case_text(161))
        grid = evaluation.policy.grid
        errors.append(np.abs(evaluation.law - problem.density(grid.states[:, 0]) * grid.spacing[0]).sum())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.1)


def test_slow_mixing_law_is_right_where_power_iteration_would_need_a_million_products():
    operator, start = slow_mixing.metastable_chain()
    reference = grassmann_taksar_heyman(operator.matrix().toarray())
    needed = math.log(1e8) / -math.log(slow_mixing.second_eigenvalue(operator))
    assert needed > 1e6
    automatic = slow_mixing.law_errors(operator, start, reference, method="auto")
    assert automatic.converged
    assert automatic.total_variation < 1e-8
    assert automatic.iterations < 1e-2 * needed
    # the reference method knows that it has not arrived
    power = slow_mixing.law_errors(operator, start, reference, method="power", limit=2000)
    assert not power.converged
    assert power.total_variation > 0.1
