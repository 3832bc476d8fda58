"""Newton steps of the particles: the box-constrained step, Hewer's iteration, monotonicity, kinks, bounds, escape."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from random_policies import SETTINGS
from scipy import optimize

from wassgrid.case import Case
from wassgrid.certificate import certify, find_best
from wassgrid.evaluation import Evaluation, Evaluator, objective_rounding
from wassgrid.method.box_step import newton_candidates
from wassgrid.method.newton import initial_pseudo_time, newton_step
from wassgrid.metric import gradient_norm
from wassgrid.policy import ParticlePolicy
from wassgrid.problem.exact import ScalarLQ
from wassgrid.runs.grid_solver import GridSolver, GridState
from wassgrid.transition import together
from wassgrid.transition.together import Together

CASES = Path(__file__).parent.parent / "cases"
LQ = ScalarLQ()


# -- one particle ------------------------------------------------------------------------------------------------------


@example(m=4, seed=22088, tau=10.0)  # active sets that go in circles where all change together
@given(m=st.integers(1, 4), seed=st.integers(0, 2**32 - 1), tau=st.sampled_from([0.1, 10.0, np.inf]))
@settings(max_examples=40)
def test_convex_steps_minimise_the_model_in_the_box(m, seed, tau):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(12, m, m))
    hessian = factor @ factor.transpose(0, 2, 1) + 0.1 * np.eye(m)
    gradient = 3.0 * rng.normal(size=(12, m))
    low, high = -rng.uniform(0, 2, (12, m)), rng.uniform(0, 2, (12, m))
    # some particles on a bound, some bounds far away
    actions = np.where(rng.random((12, m)) < 0.3, low, np.where(rng.random((12, m)) < 0.3, high, 0.0))
    high = np.where(rng.random((12, m)) < 0.2, np.inf, high)
    found, slope = newton_candidates(gradient, hessian, actions, low, high, tau)
    assert np.all((found >= low) & (found <= high))
    stuck = held(gradient, actions, low, high)
    np.testing.assert_allclose(slope, np.einsum("ka,ka->k", np.where(stuck, 0.0, gradient), found - actions))
    for k in range(12):
        # components held by a bound are not part of the model
        free = ~stuck[k]
        matrix = hessian[k][np.ix_(free, free)] + np.eye(free.sum()) / tau
        move = (found - actions)[k]
        assert np.all(move[~free] == 0.0)
        if free.any():
            root = np.linalg.cholesky(matrix)
            box = (low - actions)[k][free], (high - actions)[k][free]
            with np.errstate(invalid="ignore"):  # SciPy may multiply an endless stride by zero on its way
                exact = optimize.lsq_linear(root.T, -np.linalg.solve(root, gradient[k][free]), box, tol=1e-14)
            np.testing.assert_allclose(move[free], exact.x, atol=1e-6)


def held(gradient: np.ndarray, actions: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return ((actions <= low) & (gradient > 0)) | ((actions >= high) & (gradient < 0))


@given(m=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_steps_descend_for_any_curvature(m, seed):
    rng = np.random.default_rng(seed)
    hessian = rng.normal(size=(20, m, m))
    hessian = hessian + hessian.transpose(0, 2, 1)
    hessian[0] = 0.0
    gradient, actions = rng.normal(size=(20, m)), rng.uniform(-1, 1, (20, m))
    low, high = np.full((20, m), -1.0), np.full((20, m), 1.0)
    found, slope = newton_candidates(gradient, hessian, actions, low, high)
    assert np.all((found >= low) & (found <= high))
    moved = (found != actions).any(axis=1)
    assert moved.all()
    assert np.all(slope[moved] < 0.0)


def test_a_concave_particle_moves_downhill_by_the_modulus():
    found, _ = newton_candidates(
        np.array([[0.5]]), np.array([[[-2.0]]]), np.array([[0.0]]), np.array([[-9.0]]), np.array([[9.0]])
    )
    assert found[0, 0] == -0.25


def test_small_pseudo_time_is_the_gradient_flow_and_a_step_of_it_is_linearly_implicit():
    g, h, tau = np.array([[0.5]]), np.array([[[3.0]]]), 1e-6
    wide = np.array([[-9.0]]), np.array([[9.0]])
    found, _ = newton_candidates(g, h, np.zeros((1, 1)), *wide, tau)
    assert found[0, 0] == pytest.approx(-tau * 0.5, rel=1e-5)
    # (1 + tau h) delta = -tau g
    found, _ = newton_candidates(g, h, np.zeros((1, 1)), *wide, 0.7)
    assert found[0, 0] == pytest.approx(-0.7 * 0.5 / (1 + 0.7 * 3.0), rel=1e-14)


# -- all particles -----------------------------------------------------------------------------------------------------


def test_newton_is_the_iteration_of_hewer_on_the_linear_quadratic_regulator():
    evaluator = Evaluator.from_case(Case.from_text(LQ.case_text(81, deviations=14.0)))
    states = evaluator.model.grid.states
    bulk = np.abs(states[:, 0]) <= 4.0
    gain, errors = 0.45, []
    evaluation = evaluator.evaluate(ParticlePolicy.around(evaluator.model.grid, -gain * states))
    for _ in range(3):
        evaluation = newton_step(evaluator, evaluation, np.inf, adaptive=False).evaluation
        gain = LQ.hewer_step(gain)
        np.testing.assert_allclose(evaluation.policy.actions[bulk, 0], -gain * states[bulk], atol=1e-10)
        errors.append(abs(gain - LQ.gain))
    # errors are squared: e' = C e^2
    ratios = [after / before**2 for before, after in itertools.pairwise(errors)]
    assert 0.5 < ratios[1] / ratios[0] < 2.0


def test_curvature_beyond_all_numbers_leaves_a_step():
    """1/tau stays a number: infinite curvature of Q once ended in a division by zero."""
    policy = SimpleNamespace(action_dimension=1, weights=np.ones((3, 1)))
    huge = SimpleNamespace(q_hessian=np.full((3, 1, 1, 1), np.inf), law=np.full(3, 1 / 3), policy=policy)
    tau = initial_pseudo_time(huge)
    ends = np.full((1, 1), -1.0), np.full((1, 1), 1.0)
    point, slope = newton_candidates(np.full((1, 1), 1e300), np.zeros((1, 1, 1)), np.zeros((1, 1)), *ends, tau)
    assert 0.0 < tau < 1e-300 * (1 + 1e-9) and -1.0 <= point[0, 0] <= 0.0 and slope[0] <= 0.0


@pytest.mark.parametrize("name", ["1-D, average", "1-D, discounted", "2-D aligned, average"])
@pytest.mark.parametrize("escape", [False, True])
@given(seed=st.integers(0, 2**32 - 1), tau=st.sampled_from([1e-2, 1.0, np.inf]))
@settings(max_examples=5)
def test_the_objective_never_rises(name, escape, seed, tau):
    setting = SETTINGS[name]
    evaluator = setting.evaluator()
    evaluation = evaluator.evaluate(setting.policy(evaluator, seed, spread=1.0))
    for _ in range(3):
        best = find_best(evaluation) if escape else None
        outcome = newton_step(evaluator, evaluation, tau, best)
        after = outcome.evaluation
        assert after.objective <= evaluation.objective + objective_rounding(evaluation)
        # particle by particle, with V frozen
        q = evaluation.q_values(np.arange(len(after.policy.actions)), after.policy.actions)
        assert np.all(q <= evaluation.q + 1e-12 * np.abs(evaluation.value).max())
        assert escape or outcome.escaped == 0
        evaluation, tau = after, outcome.next_step


def test_pseudo_time_grows_as_the_gradient_falls():
    setting = SETTINGS["1-D, average"]
    evaluator = setting.evaluator()
    evaluation = evaluator.evaluate(setting.policy(evaluator, 0, spread=0.1))
    tau = initial_pseudo_time(evaluation)
    outcome = newton_step(evaluator, evaluation, tau)
    assert outcome.next_step == pytest.approx(tau * gradient_norm(evaluation) / gradient_norm(outcome.evaluation))
    assert newton_step(evaluator, evaluation, tau, adaptive=False).next_step == tau


# -- escape ------------------------------------------------------------------------------------------------------------


def run(case: Case) -> list[GridState]:
    """All states of a run, in order."""
    solver = GridSolver.from_case(case)
    states = [solver.start()]
    while solver.verdict(states[-1]) is None:
        states.append(solver.advance(states[-1]))
    return states


def wells(*overrides: str) -> tuple[Case, float]:
    """The case of two wells with half of the particles of every cell on either side, and the height of the worse well."""
    case = Case.load(CASES / "two_wells.toml", ["policy.particles=2", *overrides])
    worse = float(np.roots([4.0, -12.0, 8.2])[0])
    return case, worse**2 * ((worse - 2) ** 2 + 0.1)


def halves(case: Case) -> tuple[GridSolver, Evaluation]:
    solver = GridSolver.from_case(case)
    grid = solver.grid
    policy = ParticlePolicy.around(grid, -np.sin(grid.states), np.array([[-0.3], [2.2]]))
    return solver, solver.evaluator.evaluate(policy)


def test_newton_without_escape_ends_in_the_well_it_starts_in_and_the_certificate_shows_it():
    case, height = wells()
    solver, evaluation = halves(case)
    for _ in range(12):
        evaluation = newton_step(solver.evaluator, evaluation, np.inf).evaluation
    assert gradient_norm(evaluation) < 1e-9
    # half of the particles pay the height of the worse well
    assert evaluation.objective == pytest.approx(1.0 + 0.5 * height, abs=1e-9)
    certificate = certify(evaluation)
    assert certificate.guaranteed
    assert certificate.lower_bound <= 1.0
    assert certificate.gap >= 0.5 * height
    # the better action is known, in every cell
    np.testing.assert_allclose(certificate.best_actions, -np.sin(solver.grid.states), atol=1e-6)


def test_escape_takes_all_particles_to_the_better_well():
    case, _ = wells()
    solver, evaluation = halves(case)
    escaped = 0
    for _ in range(6):
        outcome = newton_step(solver.evaluator, evaluation, np.inf, find_best(evaluation))
        evaluation, escaped = outcome.evaluation, escaped + outcome.escaped
    assert escaped >= solver.grid.size
    certificate = certify(evaluation)
    assert evaluation.objective == pytest.approx(1.0, abs=1e-10)
    assert certificate.gap <= 1e-9


def test_the_gradient_flow_leaves_particles_behind_the_barrier():
    case, height = wells("flow.method=heun", "flow.stop.gradient_norm=1e-4", "flow.stop.steps=300", "policy.particles=16")
    last = run(case)[-1]
    offsets = last.evaluation.policy.actions[:, :, 0] + np.sin(GridSolver.from_case(case).grid.states)
    behind = offsets > 1.0
    assert 0.2 < behind.mean() < 0.8
    # nearly: the others' luck changes from cell to cell, and with it V
    np.testing.assert_allclose(offsets[~behind], 0.0, atol=0.02)
    assert certify(last.evaluation).lower_bound <= 1.0 <= last.evaluation.objective - 0.2 * height


def test_jumps_need_a_certificate_and_are_counted():
    states = run(Case.load(CASES / "two_wells.toml"))
    assert sum(state.facts.get("escaped", 0.0) for state in states) > 0
    assert states[-1].evaluation.objective - certify(states[-1].evaluation).lower_bound <= 1e-9
    stuck = run(Case.load(CASES / "two_wells.toml", ["flow.escape=false", "flow.stop.steps=15"]))
    assert all(state.facts.get("escaped", 0.0) == 0.0 for state in stuck)
    assert stuck[-1].evaluation.objective > 1.1
    assert certify(stuck[-1].evaluation).lower_bound <= 1.0


def test_a_run_ends_where_nothing_moves_and_says_what_is_left():
    case = Case.load(CASES / "two_wells.toml", ["flow.escape=false", "flow.stop={gap = 1e-9, steps = 200}"])
    states = run(case)
    solver, last = GridSolver.from_case(case), states[-1]
    assert last.step < 60
    verdict = solver.verdict(last)
    assert not verdict.complete
    assert "no particle moves" in verdict.reason and "flow.escape" in verdict.reason
    assert all(solver.verdict(state) is None for state in states[:-1])
    # also after a resume
    restored = solver.restore(solver.record(last).checkpoint())
    assert solver.verdict(solver.advance(restored)) == verdict
    # the flow slows down by nature, and so do steps whose length is set
    for override in ("flow.method=euler", "flow.step=1e-14"):
        state = GridSolver.from_case(Case.load(CASES / "two_wells.toml", [override])).start()
        slow = replace(state, step=1, facts={"largest_move": 1e-14})
        assert GridSolver.from_case(Case.load(CASES / "two_wells.toml", [override])).verdict(slow) is None


# -- bounds and kinks --------------------------------------------------------------------------------------------------


def test_bang_bang_control_ends_on_the_right_bounds_without_chattering():
    states = run(Case.load(CASES / "bang_bang.toml", ["policy.particles=2"]))
    last, before = states[-1].evaluation, states[-2].evaluation
    gap = last.objective - certify(states[-1].evaluation).lower_bound
    assert gap <= 1e-6
    actions = last.policy.actions[:, :, 0]
    on_bound = np.abs(actions) == 1.0
    assert np.all(np.abs(actions) <= 1.0)
    assert on_bound.mean() > 0.9
    # the gradient holds particles on their bounds, and vanishes elsewhere
    gradient = last.q_gradient[:, :, 0]
    scale = np.abs(gradient).max()
    assert np.all(gradient[actions == 1.0] <= 1e-9 * scale)
    assert np.all(gradient[actions == -1.0] >= -1e-9 * scale)
    assert np.abs(gradient[~on_bound]).max() <= 1e-6 * scale
    # particles on a bound were there before, or next to it; the others hardly move
    earlier = before.policy.actions[:, :, 0]
    np.testing.assert_allclose(earlier[on_bound], actions[on_bound], atol=1e-4)
    assert np.abs(earlier - actions).max() <= 0.01


FUEL = """
[states.x]
next = "0.95*x + 0.5*a"
noise = "0.3"
domain = [-3, 3]
[actions.a]
bounds = [-1, 1]
[cost]
stage = "x**2 + 0.5*abs(a)"
[grid]
points = { x = 41 }
[policy]
particles = 3
initial = { distribution = "uniform" }
[flow]
stop = { gap = 1e-10, steps = 30 }
"""


def test_particles_come_to_rest_on_kinks():
    """Minimum-fuel control: no force in a dead zone about the origin, where |a| has its kink."""
    states = run(Case.from_text(FUEL))
    last = states[-1]
    assert last.evaluation.objective - certify(last.evaluation).lower_bound <= 1e-10
    actions = last.evaluation.policy.actions[:, :, 0]
    assert 3 <= (np.abs(actions).max(axis=1) <= 1e-12).sum() < 41
    assert (np.abs(actions) == 1.0).any()


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_resumed_run_gives_the_same_numbers():
    case = Case.load(CASES / "two_wells.toml")
    whole = run(case)
    solver = GridSolver.from_case(case)
    middle = solver.record(whole[2]).checkpoint()
    state = solver.restore(middle)
    while solver.verdict(state) is None:
        state = solver.advance(state)
    assert state.step == whole[-1].step
    assert state.evaluation.objective == whole[-1].evaluation.objective
    assert state.found == whole[-1].found
    np.testing.assert_array_equal(state.evaluation.policy.actions, whole[-1].evaluation.policy.actions)


def assert_falling(states):
    """J falls: steps that evaluate to a bracket reach below the one before."""
    brackets = [state.evaluation.bracket for state in states]
    for before, after in itertools.pairwise(brackets):
        assert after[0] < before[1]


def test_the_inverted_pendulum_needs_escape():
    """64 x 65 cells, one particle per cell from a random start."""
    common = ["policy.particles=1", "flow.method=newton", "flow.stop={gap = 1e-8, steps = 8}"]
    states = run(Case.load(CASES / "inverted_pendulum.toml", common))
    last = states[-1]
    assert last.step <= 8
    assert last.evaluation.objective - certify(last.evaluation).lower_bound <= 1e-8
    assert last.evaluation.objective == pytest.approx(2.137078358, abs=1e-8)
    assert_falling(states)
    stuck = run(Case.load(CASES / "inverted_pendulum.toml", [*common, "flow.escape=false"]))
    assert stuck[-1].evaluation.objective > 2.1371
    assert stuck[-1].evaluation.objective - certify(stuck[-1].evaluation).lower_bound > 1e-3
    assert_falling(stuck)


@pytest.mark.parametrize("name", ["1-D, average", "1-D, discounted", "2-D aligned, average"])
def test_particles_that_stand_together_step_as_they_would_alone(name, monkeypatch):
    setting = SETTINGS[name]
    evaluator = setting.evaluator()
    policy = setting.policy(evaluator, 3, spread=1.0)
    actions = policy.actions.copy()
    some = np.random.default_rng(0).random(len(actions)) < 0.9
    actions[some] = actions[some, :1]
    actions[:5, 1] = actions[:5, 0]
    policy = policy.moved(actions)
    assert Together.of(policy.actions).saves
    found = []
    for saved in (0.75, 0.0):
        monkeypatch.setattr(together, "_SAVED", saved)
        evaluation = evaluator.evaluate(policy)
        after = newton_step(evaluator, evaluation, 1.0, find_best(evaluation)).evaluation
        tables = evaluation.q, evaluation.q_gradient, evaluation.q_hessian
        found.append((evaluation.mean, evaluation.cost, *tables, after.policy.actions))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
