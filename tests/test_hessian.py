"""The Hessian of J against Taylor expansions, a dense literal twin and closed forms; its extreme eigenvalues."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from random_policies import SETTINGS, WEIGHTS, along, random_field, slopes
from scipy import linalg

from wassgrid.case import Case
from wassgrid.evaluation import Evaluation, Evaluator
from wassgrid.hessian import CurvatureError, Hessian, curvature_range, second_derivative
from wassgrid.metric import inner
from wassgrid.policy import ParticlePolicy
from wassgrid.problem.exact import ScalarLQ
from wassgrid.runs.grid_solver import GridSolver
from wassgrid.runs.schema import CURVATURE_COLUMNS

CASES = Path(__file__).parent.parent / "cases"
STEPS = [0.005 / 2**k for k in range(4)]
LQ = ScalarLQ(a=1.1, b=0.8, q=1.0, r=0.7, noise=1.0)
OFFSETS = np.array([-0.5, 0.1, 0.2])
OFFSETS = OFFSETS - OFFSETS @ WEIGHTS


def setting(name: str, seed: int) -> tuple[Evaluator, Evaluation]:
    evaluator = SETTINGS[name].evaluator()
    return evaluator, evaluator.evaluate(SETTINGS[name].policy(evaluator, seed))


def dense_hessian(evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix of the bilinear form B, literally from its formula, and the metric (diagonal), (K N m, K N m).

    B = local + A' + A,  A = [mu w grad_a p] D [w grad_a Q],  D = (I - g P + 1 mu)^{-1} (no 1 mu if g < 1).
    """
    policy, mu = evaluation.policy, evaluation.law
    cells, particles, m = policy.actions.shape
    matrix = np.eye(cells) - evaluation.discount * evaluation.chain.operator.matrix().toarray()
    if evaluation.discount == 1.0:
        matrix += np.outer(np.ones(cells), mu)
    fundamental = np.linalg.inv(matrix)
    # slope[k, i, a, l] = g d p(l | s_k, a_ki) / d a_a, column by column
    slope = np.stack([evaluation.pushed_gradient(unit) for unit in np.eye(cells)], axis=-1)
    mass = mu[:, None] * policy.weights
    local = np.zeros((cells, particles, m, cells, particles, m))
    transport = np.zeros_like(local)
    for k in range(cells):
        for i in range(particles):
            local[k, i, :, k, i, :] = mass[k, i] * evaluation.q_hessian[k, i]
            for a in range(m):
                # the row mu_k w_ki grad p D, a function of the state l, times w_lj grad_a Q_lj
                row = mass[k, i] * slope[k, i, a] @ fundamental
                transport[k, i, a] = row[:, None, None] * policy.weights[:, :, None] * evaluation.q_gradient
    size = cells * particles * m
    transport = transport.reshape(size, size)
    metric = np.diag(np.repeat(mass.ravel(), m))
    return local.reshape(size, size) + transport + transport.T, metric


@pytest.mark.parametrize("name", SETTINGS)
def test_taylor_remainder_of_the_hessian_is_cubic(name: str) -> None:
    evaluator, evaluation = setting(name, seed=1)
    field = random_field(evaluation.policy, seed=4)
    slope = inner(evaluation.law, evaluation.policy.weights, evaluation.q_gradient, field)
    curvature = sum(second_derivative(evaluation, field))
    moved = along(evaluator, evaluation, field)
    remainders = [abs(moved(t).objective - evaluation.objective - t * slope - t**2 / 2 * curvature) for t in STEPS]
    assert slopes(remainders) == pytest.approx(3.0, abs=0.1)


@pytest.mark.parametrize("name", SETTINGS)
def test_hessian_is_the_derivative_of_the_gradient(name: str) -> None:
    """d/dt of <grad J, w> along the flow of v is B(v, w): both transport terms, with two different fields."""
    evaluator, evaluation = setting(name, seed=2)
    policy = evaluation.policy
    v, w = random_field(policy, seed=5), random_field(policy, seed=6)
    moved, t = along(evaluator, evaluation, v), 1e-4
    there, back = (inner(e.law, policy.weights, e.q_gradient, w) for e in (moved(t), moved(-t)))
    hessian = Hessian(evaluation, floor=0.0)
    assert hessian.inner(hessian.apply(v), w) == pytest.approx((there - back) / (2 * t), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("name", SETTINGS)
def test_hessian_agrees_with_the_dense_twin(name: str) -> None:
    _, evaluation = setting(name, seed=3)
    bilinear, metric = dense_hessian(evaluation)
    hessian = Hessian(evaluation, floor=0.0)
    v, w = random_field(evaluation.policy, seed=7), random_field(evaluation.policy, seed=8)
    product = hessian.apply(v)
    scale = np.sqrt(hessian.inner(product, product))
    assert bilinear @ v.ravel() == pytest.approx(metric @ product.ravel(), abs=1e-10 * scale)
    assert hessian.inner(product, w) == pytest.approx(w.ravel() @ bilinear @ v.ravel(), abs=1e-10 * scale)
    assert hessian.inner(product, w) == pytest.approx(hessian.inner(v, hessian.apply(w)), abs=1e-10 * scale)
    assert sum(hessian.curvature(v)) == pytest.approx(v.ravel() @ bilinear @ v.ravel(), abs=1e-10 * scale)


@pytest.mark.parametrize("name", SETTINGS)
def test_extreme_eigenvalues_agree_with_the_dense_twin(name: str) -> None:
    _, evaluation = setting(name, seed=3)
    hessian = Hessian(evaluation)
    bilinear, metric = dense_hessian(evaluation)
    used = np.flatnonzero(hessian.domain)
    root = np.sqrt(np.diag(metric)[used])
    values = linalg.eigvalsh(bilinear[np.ix_(used, used)] / np.outer(root, root))
    found = curvature_range(hessian)
    scale = np.abs(values).max()
    assert found.smallest.value == pytest.approx(values[0], abs=1e-7 * scale)
    assert found.largest.value == pytest.approx(values[-1], abs=1e-7 * scale)
    for end in (found.smallest, found.largest):
        assert end.value == pytest.approx(end.local + end.transport, abs=1e-12 * scale)
        assert hessian.inner(end.field, end.field) == pytest.approx(1.0)
        assert hessian.curvature(end.field) == pytest.approx((end.local, end.transport), abs=1e-8 * scale)
        assert end.residual <= 1e-5 * scale


@pytest.mark.parametrize("gain", [0.5, LQ.gain, 1.1])
def test_scalar_linear_quadratic_parts_are_the_closed_forms(gain: float) -> None:
    """Along du = -x, for a cloud of three particles of unequal weights about the feedback."""
    evaluator = Evaluator.from_case(Case.from_text(LQ.case_text(81, deviations=10.0)))
    grid = evaluator.model.grid
    evaluation = evaluator.evaluate(ParticlePolicy.around(grid, -gain * grid.states, OFFSETS[:, None], WEIGHTS))
    field = np.broadcast_to(-grid.states[:, :, None], evaluation.policy.actions.shape)
    exact = LQ.hessian_parts(gain, float(WEIGHTS @ OFFSETS**2))
    assert second_derivative(evaluation, field) == pytest.approx(exact, rel=1e-9, abs=1e-9)
    hessian = Hessian(evaluation)
    parts = hessian.inner(field, hessian.local(field)), hessian.inner(field, hessian.transport(field))
    assert parts == pytest.approx(exact, rel=1e-6, abs=1e-6)  # without the cells below the floor


@pytest.mark.parametrize("criterion", ["", '\n[criterion]\nkind = "discounted"\ndiscount = 0.95\n'])
def test_decoupled_dynamics_have_local_curvature_alone(criterion: str) -> None:
    """p does not depend on a: transport vanishes to rounding, D^2_a Q = D^2_a c, and J is convex where c is."""
    text = f"""
    [states.x]
    next = "0.7*x"
    noise = "0.5"
    domain = [-4, 4]
    [actions.u]
    [actions.v]
    [cost]
    stage = "x**2 + (1 + 0.5*sin(x))*u**2 + 0.1*u**4 + 0.3*u*v + (2 + cos(x))*v**2"
    [grid]
    points = {{ x = 33 }}
    {criterion}
    """
    evaluator = Evaluator.from_case(Case.from_text(text))
    grid = evaluator.model.grid
    cloud = np.random.default_rng(0).standard_normal((grid.size, 3, 2))
    evaluation = evaluator.evaluate(ParticlePolicy(grid, cloud, np.tile(WEIGHTS, (grid.size, 1))))
    hessian = Hessian(evaluation)
    u, x = cloud[:, :, 0], grid.states
    exact = np.empty((grid.size, 3, 2, 2))
    exact[..., 0, 0] = 2 + np.sin(x) + 1.2 * u**2
    exact[..., 0, 1] = exact[..., 1, 0] = 0.3
    exact[..., 1, 1] = 4 + 2 * np.cos(x)
    exact = exact[evaluation.law > hessian.floor]
    found = curvature_range(hessian)
    eigenvalues = np.linalg.eigvalsh(exact)
    for end in (found.smallest, found.largest):
        assert abs(end.transport) <= 1e-14 * eigenvalues.max()
    assert found.smallest.value == pytest.approx(eigenvalues.min(), rel=1e-9)
    assert found.largest.value == pytest.approx(eigenvalues.max(), rel=1e-9)
    assert found.convex


def test_where_the_gradient_vanishes_transport_vanishes() -> None:
    """At the optimum the local term is the whole Hessian."""
    evaluator = Evaluator.from_case(Case.from_text(LQ.case_text(81, deviations=10.0)))
    grid = evaluator.model.grid
    evaluation = evaluator.evaluate(ParticlePolicy.around(grid, -LQ.gain * grid.states))
    local, transport = second_derivative(evaluation, random_field(evaluation.policy, seed=0))
    assert local > 1.0
    assert abs(transport) < 1e-7


def test_components_held_by_a_bound_are_left_out() -> None:
    stable = ScalarLQ(a=0.7, b=0.8, q=1.0, r=0.7)
    case = Case.from_text(stable.case_text(41, deviations=9.0).replace("[actions.u]", "[actions.u]\nbounds = [-0.3, 0.3]"))
    evaluator = Evaluator.from_case(case)
    grid = evaluator.model.grid
    policy = ParticlePolicy.around(grid, np.clip(-stable.gain * grid.states, -0.3, 0.3))
    evaluation = evaluator.evaluate(policy)
    hessian = Hessian(evaluation)
    field = random_field(policy, seed=1)
    held = np.abs(stable.gain * grid.states[:, :, None]) > 0.3
    assert held[np.abs(grid.states) < 3].any()
    assert not hessian.domain[held].any()
    assert not hessian.apply(field)[held].any()
    # a small move of the free particles alone sees the restricted Hessian
    free, t = hessian.restrict(field), 1e-3
    move = along(evaluator, evaluation, free)
    second = (move(t).objective - 2 * evaluation.objective + move(-t).objective) / t**2
    assert sum(hessian.curvature(field)) == pytest.approx(second, rel=1e-4)
    # a bound that the gradient points away from holds nobody
    inward = evaluator.evaluate(ParticlePolicy.around(grid, 0.5 * np.sign(grid.states)))
    outer = np.abs(grid.states[:, 0]) > 1.0
    assert Hessian(inward).domain[outer & (inward.law > 1e-10)].all()


def test_no_free_component_is_said() -> None:
    case = Case.from_text(LQ.case_text(41).replace("[actions.u]", "[actions.u]\nbounds = [1.0, 2.0]"))
    evaluator = Evaluator.from_case(case)
    grid = evaluator.model.grid
    best = evaluator.evaluate(ParticlePolicy.around(grid, np.where(grid.states > 0, 1.0, 2.0)))
    everywhere = Hessian(best, floor=2.0)
    with pytest.raises(CurvatureError, match="no free component"):
        curvature_range(everywhere)


def test_objective_can_be_geodesically_non_convex_though_every_q_is_convex() -> None:
    """The shipped case: along the flow the smallest eigenvalue goes through zero, by its transport part alone."""
    solver = GridSolver.from_case(Case.load(CASES / "geodesic_curvature.toml"))
    state = solver.start()
    smallest = []
    while state.flow_time < 1.0:
        evaluation = state.evaluation
        assert evaluation.q_hessian[evaluation.law > 1e-10].min() > 0.0
        record = solver.record(state).scalars
        smallest.append(record["curvature_min"])
        assert record["curvature_min_local"] > 0.0
        if record["curvature_min"] < 0.0:
            # confirmed by J itself: along the eigenvector, the second difference is negative
            field = curvature_range(Hessian(evaluation)).smallest.field
            t = 1e-3 / np.abs(field[evaluation.law > 1e-4]).max()
            move = along(solver.evaluator, evaluation, field)
            second = (move(t).objective - 2 * evaluation.objective + move(-t).objective) / t**2
            assert second == pytest.approx(record["curvature_min"], rel=0.05)
        state = solver.advance(state)
    assert smallest[0] < -4.0
    assert smallest[-1] > 0.1
    assert (np.diff(smallest) > 0.0).all()


def test_curvature_is_recorded_every_few_steps() -> None:
    solver = GridSolver.from_case(Case.load(CASES / "geodesic_curvature.toml", ["output.curvature_every=2"]))
    states = [solver.start()]
    for _ in range(2):
        states.append(solver.advance(states[-1]))
    rows = [solver.record(state).scalars for state in states]
    assert np.isfinite([rows[0][name] for name in CURVATURE_COLUMNS]).all()
    assert np.isnan([rows[1][name] for name in CURVATURE_COLUMNS]).all()
    assert rows[2]["curvature_max"] > rows[2]["curvature_min"]
    silent = GridSolver.from_case(Case.load(CASES / "geodesic_curvature.toml", ["output.curvature_every=0"]))
    assert not set(CURVATURE_COLUMNS) & set(silent.record(silent.start()).scalars)
