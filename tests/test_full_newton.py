"""Newton steps with the full Hessian: the quadratic model, the trust region, bounds, and convergence."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_policies import DISCOUNTED, SETTINGS
from scipy import optimize

from wassgrid.case import Case
from wassgrid.evaluation import Evaluation, Evaluator
from wassgrid.hessian import Hessian
from wassgrid.method.full_newton import LocalCurvature, ModelStep, bounded_step, full_newton_step, truncated_conjugate_gradients
from wassgrid.method.newton import newton_step
from wassgrid.metric import gradient_norm
from wassgrid.policy import ParticlePolicy, initial_policy
from wassgrid.problem.exact import Manufactured, ScalarLQ, VectorLQ
from wassgrid.runs.grid_solver import GridSolver

LQ = ScalarLQ()


def lq_evaluator(bounds: str = "") -> Evaluator:
    text = LQ.case_text(41, deviations=8.0)
    return Evaluator.from_case(Case.from_text(text.replace("[actions.u]", f"[actions.u]\n{bounds}")))


def nearly_optimal(evaluator: Evaluator, offset: float = 0.05) -> Evaluation:
    grid = evaluator.model.grid
    offsets = np.array([[-offset], [0.0], [2 * offset]])
    return evaluator.evaluate(ParticlePolicy.around(grid, -LQ.gain * grid.states, offsets, np.array([0.3, 0.5, 0.2])))


def truncated(evaluation: Evaluation, radius: float, tolerance: float) -> tuple[Hessian, LocalCurvature, ModelStep]:
    hessian, metric = Hessian(evaluation, floor=1e-8), LocalCurvature.of(evaluation)
    zero = np.zeros(evaluation.policy.actions.shape)
    start = ModelStep(zero, zero, 0.0, 0, "")
    return hessian, metric, truncated_conjugate_gradients(hessian, metric, radius, tolerance, start, hessian.domain)


def size(hessian: Hessian, metric: LocalCurvature, field: np.ndarray) -> float:
    return float(np.sqrt(hessian.inner(field, metric.apply(field))))


def test_conjugate_gradients_solve_the_newton_system_where_the_model_is_convex() -> None:
    hessian, metric, step = truncated(nearly_optimal(lq_evaluator()), np.inf, 1e-10)
    assert step.reason == "converged"
    residual = hessian.gradient + hessian.apply(step.field)
    lifted = metric.solve(residual)
    gradient = hessian.gradient
    assert hessian.inner(residual, lifted) <= 1e-18 * hessian.inner(gradient, metric.solve(gradient))
    # at the minimum of the model the decrease is -<g, v>/2
    assert step.decrease == pytest.approx(-0.5 * hessian.inner(gradient, step.field), rel=1e-8)
    assert hessian.apply(step.field) == pytest.approx(step.image, abs=1e-9)


def test_conjugate_gradients_stop_on_the_boundary_of_the_region() -> None:
    evaluation = nearly_optimal(lq_evaluator())
    hessian, metric, free = truncated(evaluation, np.inf, 1e-10)
    radius = 0.5 * size(hessian, metric, free.field)
    _, _, step = truncated(evaluation, radius, 1e-10)
    assert step.reason == "the boundary"
    assert size(hessian, metric, step.field) == pytest.approx(radius)
    assert 0 < step.decrease < free.decrease


def test_conjugate_gradients_follow_negative_curvature_to_the_boundary() -> None:
    """The scalar regulator without control is not geodesically convex."""
    case = Case.load(Path(__file__).parent.parent / "cases" / "geodesic_curvature.toml")
    evaluator = Evaluator.from_case(case)
    evaluation = evaluator.evaluate(initial_policy(case, evaluator.model.grid))
    hessian, metric, step = truncated(evaluation, 100.0, 1e-6)
    assert step.reason == "negative curvature"
    assert size(hessian, metric, step.field) == pytest.approx(100.0)
    model = hessian.inner(hessian.gradient, step.field) + 0.5 * hessian.inner(step.field, hessian.apply(step.field))
    assert step.decrease == pytest.approx(-model, rel=1e-8)


def test_bounded_step_finds_the_minimum_of_the_model_in_a_box() -> None:
    """Against a bound-constrained quadratic programme with the dense matrix."""
    evaluation = nearly_optimal(lq_evaluator())
    hessian, metric = Hessian(evaluation, floor=1e-6), LocalCurvature.of(evaluation)
    zero = np.zeros(evaluation.policy.actions.shape)
    box = zero - 0.04, zero + 0.08
    step = bounded_step(hessian, metric, np.inf, 1e-8, box)
    moved = step.field[hessian.domain]
    assert ((moved >= -0.04) & (moved <= 0.08)).all()
    assert (moved == -0.04).sum() > 5 and ((moved > -0.04) & (moved < 0.08)).sum() > 5
    n = hessian.unknowns
    matrix = np.stack([hessian.coordinates(hessian.apply(hessian.field(unit))) for unit in np.eye(n)])
    gradient, scale = hessian.coordinates(hessian.gradient), hessian.coordinates(np.ones(zero.shape))
    best = optimize.minimize(
        lambda z: gradient @ z + 0.5 * z @ matrix @ z,
        np.zeros(n),
        jac=lambda z: gradient + matrix @ z,
        bounds=list(zip(-0.04 * scale, 0.08 * scale, strict=True)),
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-12, "maxiter": 2000},
    )
    assert step.decrease <= -best.fun * (1 + 1e-9)
    assert step.decrease >= -0.98 * best.fun


def two_actions(**tables: object) -> str:
    regulator = VectorLQ(
        state_matrix=np.array([[0.7, 0.3], [-0.2, 0.6]]),
        action_matrix=np.array([[1.0, 0.2], [0.0, 0.8]]),
        state_cost=np.eye(2),
        action_cost=np.array([[0.5, 0.2], [0.2, 0.8]]),
        noise_covariance=np.array([[0.8, 0.2], [0.2, 0.6]]),
    )
    start = {"u1": "0.1*x1 - 0.2*x2", "u2": "-0.1*x1"}
    policy = {"particles": 2, "weights": [0.4, 0.6], "initial": {"distribution": "normal", "mean": start, "std": 0.3}}
    return regulator.case_text(11, "linear", deviations=5.0, policy=policy, **tables)


CONVERGING = {
    "1-D, average": SETTINGS["1-D, average"].text,
    "1-D, discounted": SETTINGS["1-D, discounted"].text,
    "2-D with two actions, average": two_actions(),
    "2-D with two actions, discounted": two_actions(**DISCOUNTED),
}


@pytest.mark.parametrize("name", CONVERGING)
def test_objective_never_rises_and_convergence_is_quadratic(name: str) -> None:
    case = Case.from_text(CONVERGING[name])
    evaluator = Evaluator.from_case(case)
    if name in SETTINGS:
        evaluation = evaluator.evaluate(SETTINGS[name].policy(evaluator, seed=1))
    else:
        evaluation = evaluator.evaluate(initial_policy(case, evaluator.model.grid))
    radius, objectives, norms = 1.0, [evaluation.objective], [gradient_norm(evaluation)]
    while norms[-1] > 1e-8 * norms[0] and len(norms) < 25:
        outcome = full_newton_step(evaluator, evaluation, radius)
        evaluation, radius = outcome.evaluation, outcome.next_step
        objectives.append(evaluation.objective)
        norms.append(gradient_norm(evaluation))
    assert norms[-1] <= 1e-8 * norms[0]
    assert (np.diff(objectives) <= 1e-11 * max(map(abs, objectives))).all()
    # the order from the last three gradients
    falls = np.diff(np.log(norms[-3:]))
    assert falls[1] / falls[0] > 1.7


def test_full_and_local_newton_reach_the_same_optimum() -> None:
    evaluator = lq_evaluator()
    full = local = nearly_optimal(evaluator, offset=0.2)
    radius = 1.0
    for _ in range(7):
        outcome = full_newton_step(evaluator, full, radius)
        full, radius = outcome.evaluation, outcome.next_step
        local = newton_step(evaluator, local, np.inf, adaptive=False).evaluation
    assert full.objective == pytest.approx(local.objective, rel=1e-12)
    assert full.objective == pytest.approx(LQ.objective, rel=1e-8)
    near = np.abs(full.policy.grid.states[:, 0]) < 3
    assert full.policy.actions[near] == pytest.approx(local.policy.actions[near], abs=1e-8)


def test_bounds_are_kept_and_held_components_pushed_against_them() -> None:
    evaluator = lq_evaluator("bounds = [-0.4, 0.4]")
    evaluation, radius = nearly_optimal(lq_evaluator()), 1.0
    policy = evaluation.policy.moved(np.clip(evaluation.policy.actions, -0.4, 0.4))
    evaluation = evaluator.evaluate(policy)
    for _ in range(12):
        outcome = full_newton_step(evaluator, evaluation, radius)
        assert outcome.evaluation.objective <= evaluation.objective + 1e-11
        evaluation, radius = outcome.evaluation, outcome.next_step
        assert np.abs(evaluation.policy.actions).max() <= 0.4
    assert gradient_norm(evaluation) < 1e-9
    x, u = evaluation.policy.grid.states[:, :1], evaluation.policy.actions[:, :, 0]
    assert (u[np.abs(x[:, 0]) > 2] == -0.4 * np.sign(x[np.abs(x[:, 0]) > 2])).all()
    assert evaluation.q_gradient[u == 0.4].max() < 0 < evaluation.q_gradient[u == -0.4].min()


def test_a_failing_model_falls_back_on_the_local_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the trial raises J, the step is the local Newton step and the radius shrinks."""
    evaluator = lq_evaluator()
    evaluation = nearly_optimal(evaluator, offset=0.2)
    expected = newton_step(evaluator, evaluation, np.inf, adaptive=False)

    def uphill(*arguments: object) -> ModelStep:
        step = bounded_step(*arguments)  # type: ignore[arg-type]
        return replace(step, field=-step.field)

    monkeypatch.setattr("wassgrid.method.full_newton.bounded_step", uphill)
    outcome = full_newton_step(evaluator, evaluation, 1.0)
    assert outcome.rejected == 1
    assert outcome.next_step == 0.5
    assert np.array_equal(outcome.evaluation.policy.actions, expected.evaluation.policy.actions)
    assert outcome.evaluation.objective < evaluation.objective


def test_escape_leaves_the_worse_of_two_wells() -> None:
    """W has wells near e = 1 and e = -1; all particles start in the worse one, where the Newton step keeps them."""
    problem = replace(Manufactured.circle(), well="(e1**2 - 1)**2/4 + 0.1*e1")
    policy = {"particles": 2, "weights": [0.4, 0.6], "initial": {"distribution": "normal", "mean": "1 - sin(x)", "std": 0.1}}
    text = problem.case_text(48, policy=policy, flow={"method": "full_newton"})
    wells = [optimize.minimize_scalar(lambda e: problem.excess([e]), bracket=(c, 1.1 * c)).fun for c in (-1.0, 1.0)]
    reached = []
    for escape in ("true", "false"):
        solver = GridSolver.from_case(Case.from_text(text, overrides=[f"flow.escape={escape}"]))
        state, objectives = solver.start(), []
        for _ in range(10):
            state = solver.advance(state)
            objectives.append(state.evaluation.objective)
        assert (np.diff(objectives) <= 1e-11).all()
        reached.append(objectives[-1])
    assert reached == pytest.approx([problem.objective + well for well in wells], abs=1e-6)
    assert reached[1] - reached[0] > 0.19


def test_a_restored_run_takes_the_same_steps() -> None:
    case = Case.from_text(CONVERGING["2-D with two actions, average"], overrides=["flow.method=full_newton"])
    solver = GridSolver.from_case(case)
    first = solver.advance(solver.start())
    second = solver.advance(first)
    again = solver.advance(solver.restore(solver.record(first).checkpoint()))
    assert np.array_equal(again.evaluation.policy.actions, second.evaluation.policy.actions)
    assert again.step_size == second.step_size
    assert again.evaluation.objective == second.evaluation.objective


@pytest.mark.parametrize("gain", [0.3, 1.1])
def test_local_newton_is_policy_iteration(gain: float) -> None:
    """One particle per cell and no damping: the gains are those of Hewer (1971), and their errors are squared."""
    evaluator = Evaluator.from_case(Case.from_text(LQ.case_text(161, deviations=16.0)))
    grid = evaluator.model.grid
    near = np.abs(grid.states[:, 0]) < 4
    evaluation = evaluator.evaluate(ParticlePolicy.around(grid, -gain * grid.states))
    errors = [abs(gain - LQ.gain)]
    for _ in range(4):
        gain = LQ.hewer_step(gain)
        evaluation = newton_step(evaluator, evaluation, np.inf, adaptive=False).evaluation
        assert evaluation.policy.actions[near, 0, 0] == pytest.approx(-gain * grid.states[near, 0], abs=1e-10)
        errors.append(abs(gain - LQ.gain))
    ratios = [after / before**2 for before, after in itertools.pairwise(errors) if after > 1e-13]
    assert len(ratios) >= 2 and max(ratios) < 1.0
