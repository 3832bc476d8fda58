"""Weights that move: the gradient in the larger metric, orders, energy, steps of any length, births, and runs."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import DenseProblem
from random_policies import SETTINGS, random_field, slopes
from test_newton import run

import wassgrid as wg
from wassgrid.case import Case
from wassgrid.certificate import BestActions, find_best
from wassgrid.chain.reductions import dot
from wassgrid.evaluation import Evaluation, Evaluator, objective_rounding
from wassgrid.method.flow import flow_step
from wassgrid.method.newton import newton_step
from wassgrid.method.schemes import SCHEMES
from wassgrid.method.weights import born, cooled, exponential_step, reweighted
from wassgrid.metric import Metric, gradient_norm, inner, mean_q, step_length
from wassgrid.plotting.trajectories import trajectories
from wassgrid.policy import ParticlePolicy, initial_policy
from wassgrid.runs.grid_solver import GridSolver
from wassgrid.storage import ResultFile

pytestmark = pytest.mark.thorough

GALLERY = Path(__file__).parent.parent / "gallery"
WELLS = GALLERY / "moving_weights.toml"
BOTH, WEIGHTS = Metric(True, 2.5), Metric(False, 0.7)
TOP_WELL = 1.5 + np.sqrt(0.2)  # W' = 2e((e - 2)^2 + 0.1) + 2e^2 (e - 2)
HEIGHT = TOP_WELL**2 * ((TOP_WELL - 2.0) ** 2 + 0.1)


def start(name: str, seed: int = 1, spread: float = 0.3) -> tuple[Evaluator, Evaluation]:
    evaluator = SETTINGS[name].evaluator()
    return evaluator, evaluator.evaluate(SETTINGS[name].policy(evaluator, seed, spread))


# -- the metric --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
def test_taylor_remainder_of_the_gradient_in_the_larger_metric_is_quadratic(name):
    """|J(a + t v, w (1 + t r)) - J - t <grad J, (v, r)>| = O(t^2), <.,.> with kappa, grad J = (grad_a Q, kappa (Q - V))."""
    evaluator, evaluation = start(name)
    policy, kappa = evaluation.policy, BOTH.rate
    v, r = random_field(policy, 2), np.random.default_rng(3).standard_normal(policy.weights.shape)
    r -= (policy.weights * r).sum(axis=1, keepdims=True)
    gradient = kappa * (evaluation.q - mean_q(evaluation)[:, None])
    slope = inner(evaluation.law, policy.weights, evaluation.q_gradient, v)
    slope += inner(evaluation.law, policy.weights, gradient[:, :, None], r[:, :, None]) / kappa
    remainders = []
    for t in [0.02 / 2**k for k in range(4)]:
        moved = evaluator.evaluate(policy.moved(policy.actions + t * v, policy.weights * (1.0 + t * r)), evaluation)
        remainders.append(abs(moved.objective - evaluation.objective - t * slope))
    assert slopes(remainders) == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize("metric", [BOTH, WEIGHTS])
@pytest.mark.parametrize("name", ["1-D, average", "2-D with two actions, discounted"])
def test_the_flow_falls_by_the_square_of_the_gradient_and_moves_by_it(name, metric):
    """dJ/dt = -|grad J|^2, and a short step is |grad J| long: both sides in the same metric."""
    evaluator, evaluation = start(name)
    t, norm = 1e-4, gradient_norm(evaluation, metric)
    ahead = flow_step(evaluator, evaluation, SCHEMES["rk4"], t, metric).evaluation
    assert (evaluation.objective - ahead.objective) / t == pytest.approx(norm**2, rel=1e-2)
    assert step_length(evaluation.law, evaluation.policy, ahead.policy, metric) / t == pytest.approx(norm, rel=1e-2)


def test_the_length_of_a_move_of_weights_is_that_of_fisher_and_rao():
    grid = wg.Case.load(WELLS).problem and GridSolver.from_case(Case.load(WELLS)).grid
    cloud = np.array([[-1.0], [1.0]])
    ends = [ParticlePolicy.around(grid, np.zeros((grid.size, 1)), cloud, np.array(w)) for w in ([1.0, 0.0], [0.0, 1.0])]
    law = np.full(grid.size, 1.0 / grid.size)
    # a quarter of a circle of radius 2/sqrt(kappa)
    assert step_length(law, *ends, Metric(False, 4.0)) == pytest.approx(np.pi / 2.0)
    assert step_length(law, *ends) == 0.0


# -- schemes -----------------------------------------------------------------------------------------------------------


@cache
def narrow() -> tuple[Evaluator, Evaluation]:
    """The wells with three particles where the flow is smooth for the steps below."""
    case = Case.load(WELLS, ["grid.points.x=16", "policy.initial.low=-0.2", "policy.initial.high=1.0", "policy.particles=3"])
    evaluator = Evaluator.from_case(case)
    return evaluator, evaluator.evaluate(initial_policy(case, evaluator.model.grid))


@cache
def end(name: str, count: int, metric: Metric) -> ParticlePolicy:
    """The policy that steps of a scheme come to in a flow time of 0.05."""
    evaluator, evaluation = narrow()
    for _ in range(count):
        evaluation = flow_step(evaluator, evaluation, SCHEMES[name], 0.05 / count, metric).evaluation
    return evaluation.policy


@pytest.mark.parametrize("metric", [BOTH, WEIGHTS])
@pytest.mark.parametrize("method", SCHEMES)
def test_schemes_have_their_order(method, metric):
    order, exact = SCHEMES[method].order, end("rk4", 80, metric)
    counts = {1: (24, 48), 2: (32, 64), 4: (12, 24)}[order]
    errors = [
        [np.abs(p.weights - exact.weights).max(), np.abs(p.actions - exact.actions).max()]
        for p in (end(method, count, metric) for count in counts)
    ]
    found = np.log2(np.array(errors[0])[: 1 + metric.actions] / np.array(errors[1])[: 1 + metric.actions])
    assert found == pytest.approx(order, abs=0.1), found


def test_the_step_of_euler_is_the_exponential_one():
    evaluator, evaluation = start("1-D, average")
    one = flow_step(evaluator, evaluation, SCHEMES["euler"], 0.3, WEIGHTS).evaluation.policy
    other = exponential_step(evaluator, evaluation, 0.3, WEIGHTS).evaluation.policy
    np.testing.assert_allclose(one.weights, other.weights, rtol=1e-13)
    expected = evaluation.policy.weights * np.exp(-0.3 * WEIGHTS.rate * evaluation.q)
    np.testing.assert_allclose(other.weights, expected / expected.sum(axis=1, keepdims=True), rtol=1e-12)


# -- steps of any length -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["1-D, average", "1-D, discounted", "2-D aligned, average"])
@given(seed=st.integers(0, 2**32 - 1), length=st.sampled_from([1e-3, 1.0, 1e2, 1e5, 1e12, np.inf]), escape=st.booleans())
@settings(max_examples=6)
def test_the_objective_never_rises_however_long_the_step(name, seed, length, escape):
    evaluator, evaluation = start(name, seed, 1.0)
    for _ in range(3):
        best = find_best(evaluation) if escape else None
        after = exponential_step(evaluator, evaluation, length, WEIGHTS, best, adaptive=False).evaluation
        assert after.objective <= evaluation.objective + objective_rounding(evaluation)
        # cell by cell, with V frozen
        q = evaluation.q_values(np.arange(len(after.policy.actions)), after.policy.actions)
        assert np.all((after.policy.weights * q).sum(axis=1) <= mean_q(evaluation) + 1e-12 * np.abs(evaluation.value).max())
        evaluation = after


@pytest.mark.parametrize("method", ["euler", "rk4", "newton"])
@given(seed=st.integers(0, 2**32 - 1), length=st.sampled_from([1e-2, 0.05, 0.1]))
@settings(max_examples=4)
def test_the_objective_never_rises_where_actions_move_too(method, seed, length):
    evaluator, evaluation = start("1-D, average", seed, 1.0)
    for _ in range(2):
        if method == "newton":
            after = newton_step(evaluator, evaluation, length, find_best(evaluation), metric=BOTH).evaluation
        else:
            after = flow_step(evaluator, evaluation, SCHEMES[method], length, BOTH).evaluation
        assert after.objective <= evaluation.objective + objective_rounding(evaluation)
        evaluation = after


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 300.0))
def test_reweighting_is_that_of_exact_arithmetic_and_keeps_what_has_mass(seed, scale):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(5, 0.5), 3)
    weights[0] = [0.0, 0.5, 0.5, 0.0, 0.0]
    exponent = scale * rng.standard_normal(weights.shape)
    found = reweighted(weights, exponent)
    exact = weights.astype(np.longdouble) * np.exp(exponent.astype(np.longdouble))
    np.testing.assert_allclose(found, (exact / exact.sum(axis=1, keepdims=True)).astype(float), rtol=1e-11, atol=1e-140)
    assert np.array_equal(found > 0.0, weights > 0.0)
    # what is nearly gone comes back when it is the better one
    gone = cooled(np.array([[0.5, 0.5]]), np.array([[0.0, 1.0]]), 1e30)
    back = cooled(gone, np.array([[1.0, 0.0]]), 1e4)
    assert gone[0, 1] > 0.0 and back[0, 1] == pytest.approx(1.0)


@given(st.integers(0, 2**32 - 1))
def test_a_birth_keeps_the_sum_of_weights_and_does_not_raise_the_mean_of_q(seed):
    rng = np.random.default_rng(seed)
    weights, q = rng.dirichlet(np.full(4, 0.4), 6), rng.standard_normal((6, 4))
    weights[0] = [1.0, 0.0, 0.0, 0.0]
    actions = rng.standard_normal((6, 4, 2))
    gains = rng.choice([-0.1, 0.0, 0.5], 6)
    box = np.ones((6, 2))
    best = BestActions(rng.standard_normal((6, 2)), q.min(axis=1) - gains, -box, box, "", True, np.zeros(6))
    moved, shares, values, births = born(actions, weights, q, best, 1e-12)
    assert births == (gains > 0).sum()
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-14)
    assert np.all((shares * values).sum(axis=1) <= (weights * q).sum(axis=1) + 1e-14)
    for cell in range(6):
        changed = np.flatnonzero((moved[cell] != actions[cell]).any(axis=1))
        assert changed.size == (gains[cell] > 0)
        for particle in changed:
            assert weights[cell, particle] == weights[cell].min() and shares[cell, particle] >= 0.05 - 1e-15
            np.testing.assert_array_equal(moved[cell, particle], best.actions[cell])


# -- policy iteration over the particles, by brute force ---------------------------------------------------------------

LINE = """
[states.x]
next = "0.6*x + a"
noise = "0.8"
domain = [-2, 2]
boundary = "BOUNDARY"
[actions.a]
bounds = [-1, 1]
[cost]
stage = "sin(3*x + a) + 0.3*cos(4*a*x) + 0.1*x**2"
[grid]
points = { x = 6 }
kernel = "KERNEL"
[policy]
particles = 3
initial = { distribution = "even" }
[flow]
method = "METHOD"
geometry = "fisher_rao"
stop = { gap = 1e-300, steps = 100 }
CRITERION
"""


@pytest.mark.parametrize("criterion", ["", '[criterion]\nkind = "discounted"\ndiscount = 0.8'])
@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
@pytest.mark.parametrize("method", ["policy_iteration", "exponential"])
def test_weights_find_the_best_of_all_policies_on_their_particles(method, kernel, criterion):
    """Against all 729 deterministic policies, each solved by an independent dense solver."""
    boundary = "reflect"
    words = {"METHOD": method, "KERNEL": kernel, "BOUNDARY": boundary, "CRITERION": criterion}
    text = LINE
    for word, value in words.items():
        text = text.replace(word, value)
    dense = DenseProblem(text)
    atoms = np.array([-1.0, 0.0, 1.0])
    cells = np.repeat(np.arange(6), 3)
    rows = dense.rows(cells, np.tile(atoms, 6)[:, None]).reshape(6, 3, 6)
    cost = dense.costs(cells, np.tile(atoms, 6)[:, None]).reshape(6, 3)
    of = np.arange(6)
    least = min(dense.value(rows[of, chosen], cost[of, chosen])[0] for chosen in itertools.product(range(3), repeat=6))
    solution = wg.solve(Case.from_text(text))
    assert solution.objective == pytest.approx(least, abs=1e-10)
    assert np.all(np.isin(solution.policy.actions[:, :, 0], atoms))
    # the rest of the box is better still: nothing else is claimed
    assert solution.lower_bound < least and not solution.converged


# -- runs --------------------------------------------------------------------------------------------------------------


def test_actions_alone_stay_in_the_wrong_well_and_weights_leave_it_at_the_rate_of_the_theory():
    """Of J - J* = C exp(-rate t): rate = min(kappa times the height of the wrong well, twice the curvature of the right one)."""
    case = Case.load(WELLS)
    states = run(case)
    assert states[-1].proven <= 1.0 <= states[-1].evaluation.objective <= 1.0 + 1e-8
    late = [state for state in states if 1e-7 < state.evaluation.objective - 1.0 < 1e-3]
    times, excess = [state.flow_time for state in late], [state.evaluation.objective - 1.0 for state in late]
    rate = -np.polyfit(times, np.log(excess), 1)[0]
    assert rate == pytest.approx(5.0 * HEIGHT, rel=2e-3)
    tables = case.model_dump(exclude_none=True)
    flow = {name: value for name, value in tables["flow"].items() if name != "weight_rate"}
    flow |= {"geometry": "wasserstein", "stop": {"gradient_norm": 1e-4, "steps": 200}}
    alone = run(Case.from_tables(tables | {"flow": flow, "output": {"estimate": False}}))[-1]
    # five of eight particles pay the height of the wrong well
    assert alone.evaluation.objective == pytest.approx(1.0 + 0.625 * HEIGHT, abs=1e-6)
    assert alone.proven <= 1.0


@pytest.mark.parametrize("settings", [
    ["flow.method=newton"],
    ["flow.geometry=fisher_rao", "flow.method=exponential", "flow.escape=true"],
    ["flow.geometry=fisher_rao", "flow.method=policy_iteration", "flow.escape=true"],
])  # fmt: skip
def test_births_reach_the_proven_optimum_from_the_wrong_side(settings):
    """All particles start behind the barrier; in Fisher-Rao geometry none of them would ever move."""
    wrong = ["policy.initial.low=1.5 - sin(x)", "policy.initial.high=3 - sin(x)", "policy.particles=3", "flow.stop.steps=60"]
    states = run(Case.load(WELLS, [*wrong, *settings]))
    last = states[-1]
    assert sum(state.facts.get("escaped", 0.0) for state in states) >= 32
    assert last.proven <= 1.0 + 1e-14 and last.evaluation.objective <= 1.0 + 1e-8


@pytest.mark.parametrize("setting", ["flow.method=rk4", "flow.method=newton", "flow.method=exponential"])
def test_a_resumed_run_gives_the_same_numbers(setting):
    geometry = ["flow.geometry=fisher_rao"] if setting.endswith("exponential") else []
    whole = run(Case.load(WELLS, [setting, "flow.stop.steps=8", *geometry]))
    solver = GridSolver.from_case(Case.load(WELLS, [setting, "flow.stop.steps=8", *geometry]))
    state = solver.restore(solver.record(whole[2]).checkpoint())
    while solver.verdict(state) is None:
        state = solver.advance(state)
    assert state.step == whole[-1].step and state.evaluation.objective == whole[-1].evaluation.objective
    np.testing.assert_array_equal(state.evaluation.policy.weights, whole[-1].evaluation.policy.weights)
    np.testing.assert_array_equal(state.evaluation.policy.actions, whole[-1].evaluation.policy.actions)


def test_files_keep_weights_and_policies_use_them(tmp_path):
    path = tmp_path / "wells.h5"
    case = Case.load(WELLS, ["flow.stop.steps=12", "output.estimate=false"])
    wg.run(case, path)
    with ResultFile(path) as file:
        weights = [file.frame("weights", frame) for frame in (0, -1)]
        assert file.convergence["largest_weight_change"][1:].min() > 0.0
    np.testing.assert_allclose(weights[0], 1.0 / 8.0)
    assert np.ptp(weights[1], axis=1).min() > 0.1
    policy = wg.Policy.load(path)
    at = policy.grid.states
    actions = policy.actions[:, :, 0]
    np.testing.assert_allclose(policy.mean(at)[:, 0], (weights[1] * actions).sum(axis=1), atol=1e-12)
    drawn = policy.sample(np.repeat(at[:1], 4000, axis=0), np.random.default_rng(1))[:, 0] + np.sin(at[0, 0])
    share = weights[1][0][actions[0] + np.sin(at[0, 0]) > 1.0].sum()
    assert (drawn > 1.0).mean() == pytest.approx(share, abs=5 * np.sqrt(share / 4000))
    first = initial_policy(case, policy.grid)
    # the distance is that of the laws of actions, weights included
    assert wg.geometry.distance(first, first.moved(first.actions, policy.weights), np.full(32, 1.0 / 32.0)) > 0.1
    figure = trajectories(path)
    assert sum(len(axis.collections) for axis in figure.axes) == 8 * len(figure.axes)
    point = wg.geometry.at(path)
    assert wg.geometry.gradient_norm(point) == pytest.approx(gradient_norm(point.evaluation, Metric(True, 5.0)))
    rates = wg.geometry.weight_gradient(point)
    assert dot(point.law, (point.policy.weights * rates**2).sum(axis=1)) / 5.0 <= wg.geometry.gradient_norm(point) ** 2
