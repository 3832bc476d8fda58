"""The cost in the problem itself, estimated off the grid: against exact answers, and against plain simulation."""

import sys
from pathlib import Path

import numpy as np
import pytest
from newcomers import CONTINUOUS_TIME, VAN_DER_POL

from wassgrid.case import Case
from wassgrid.estimate import estimate, plan
from wassgrid.estimate.quadrature import fixed_rule, shifted_rule, size_of_shifted
from wassgrid.estimate.spline import Spline
from wassgrid.grid import StateGrid
from wassgrid.runs.solvers import make_solver, solve

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
from estimate import compare, problems

EXACT = {name: rest for name, *rest in problems()}


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["scalar LQ, noise of half a cell", "circle", "LQ in two dimensions", "discounted LQ"])
def test_the_estimate_holds_the_exact_answer(name):
    text, exact, advantage = EXACT[name]
    grid, (excess, _), values, errors, _, _ = compare(text, advantage, 8)
    exact += excess
    assert (np.abs(values - exact) <= 2 * errors + 1e-7 * exact).sum() >= 6  # of 8, at 95 %
    assert errors.max() < 1e-3 * exact
    assert abs(values.mean() - exact) < 0.2 * abs(grid - exact) + 1e-6 * exact


@pytest.mark.thorough
def test_where_the_grid_adds_noise_the_estimate_is_what_a_simulation_of_the_same_policy_gives():
    case = Case.from_text(VAN_DER_POL)
    solution = solve(case)
    found = solution.summary["estimate"]
    assert solution.objective / found["value"] - 1 > 0.1 and found["standard_error"] < 1e-3 * found["value"]
    # an explicit loop that shares nothing but the expressions of the case
    rng, x, costs = np.random.default_rng(5), np.zeros((2000, 2)), []
    for step in range(400):
        a = solution.policy.mean(x)[:, 0]
        if step >= 100:
            costs.append(x[:, 0] ** 2 + x[:, 1] ** 2 + 0.1 * a**2)
        drift = (1 - x[:, 0] ** 2) * x[:, 1] - x[:, 0] + a
        velocity = x[:, 1] + 0.05 * drift + 0.3 * np.sqrt(0.05) * rng.standard_normal(len(x))
        x = np.stack([np.clip(x[:, 0] + 0.05 * x[:, 1], -3, 3), np.clip(velocity, -4, 4)], axis=1)
    chains = np.mean(costs, axis=0)
    error = np.hypot(found["standard_error"], chains.std() / np.sqrt(chains.size))
    assert abs(chains.mean() - found["value"]) < 4 * error + 0.02 * found["value"]  # the mean action is not the greedy one


def test_it_is_the_same_every_time_and_off_where_it_is_not_wanted():
    solver = make_solver(Case.from_text(CONTINUOUS_TIME))
    state = solver.start()
    first, second = (estimate(state.evaluation, state.best) for _ in range(2))
    assert first == second
    assert plan(state.evaluation, state.best, 1.0).batches == 0
    assert "estimate" not in solve(Case.from_text(CONTINUOUS_TIME, "x", ["output.estimate=false"])).summary


@pytest.mark.parametrize("dimension", [1, 2, 3, 4])
def test_shifted_rules_are_unbiased_and_exact_for_what_is_smooth(dimension):
    rng = np.random.default_rng(0)
    count = 400
    rough, smooth, points_seen = np.zeros(count), np.zeros(count), 0
    for points, weights in shifted_rule(dimension, count, rng):
        rough += weights * (points.sum(axis=1) > 0.3)
        smooth += weights * np.cos(points).prod(axis=1)
        points_seen += 1
    assert points_seen == size_of_shifted(dimension)
    from math import erfc, exp, sqrt

    exact = 0.5 * erfc(0.3 / sqrt(2 * dimension))
    assert abs(rough.mean() - exact) < 5 * rough.std() / np.sqrt(count) + 1e-12
    assert abs(smooth.mean() - exp(-dimension / 2)) < 5 * smooth.std() / np.sqrt(count) + 1e-9
    points, weights = fixed_rule(dimension, dimension)
    np.testing.assert_allclose(weights @ points**2, np.ones(dimension), rtol=1e-12)
    np.testing.assert_allclose(weights @ points, np.zeros(dimension), atol=1e-12)


@pytest.mark.parametrize("boundary", [("clamp",), ("periodic",), ("reflect", "periodic"), ("clamp", "clamp", "periodic")])
def test_the_spline_goes_through_the_nodes_and_is_of_fourth_order_between(boundary):
    errors = []
    for n in (16, 32):
        axes = tuple(np.linspace(0, 2 * np.pi, n + (b != "periodic"), endpoint=b != "periodic") for b in boundary)
        grid = StateGrid(tuple("xyz"[: len(boundary)]), axes, boundary)

        def wave(x):
            return np.cos(x).prod(axis=-1)

        spline = Spline.through(grid, wave(grid.states))
        np.testing.assert_allclose(spline(grid.states), wave(grid.states), atol=1e-13)
        points = np.random.default_rng(1).uniform(0, 2 * np.pi, (500, len(boundary)))
        errors.append(np.abs(spline(points) - wave(points)).max())
    assert errors[0] / errors[1] > 12
