"""The Hessian where weights move: against an independent solver along curves of its own, by Taylor expansions, in closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import DenseProblem
from random_policies import SETTINGS, random_field, slopes

import wassgrid as wg
from wassgrid.case import Case
from wassgrid.check import Finding, findings
from wassgrid.differences import check_derivatives
from wassgrid.evaluation import Evaluation, Evaluator
from wassgrid.hessian import CurvatureError, Hessian, curvature_range, second_derivative, spectrum
from wassgrid.metric import Metric
from wassgrid.policy import ParticlePolicy, PolicyError
from wassgrid.report import summary_rows
from wassgrid.storage import ResultFile
from wassgrid.tangent import ParticleGeodesic, Variation

pytestmark = pytest.mark.thorough

CASES = Path(__file__).parent.parent / "cases"
BOTH, WEIGHTS = Metric(True, 2.5), Metric(False, 0.7)
METRICS = pytest.mark.parametrize("metric", [BOTH, WEIGHTS], ids=["both", "weights"])


def tangent(policy: ParticlePolicy, metric: Metric, seed: int) -> np.ndarray:
    """A field (v, r) without any structure, of r that keep the mass."""
    v = random_field(policy, seed) * metric.actions
    r = np.random.default_rng(seed + 1).standard_normal(policy.weights.shape)
    return np.concatenate([v, (r - (policy.weights * r).sum(axis=1, keepdims=True))[:, :, None]], axis=2)


def start(name: str, seed: int = 1) -> tuple[Evaluator, Evaluation]:
    evaluator = SETTINGS[name].evaluator()
    return evaluator, evaluator.evaluate(SETTINGS[name].policy(evaluator, seed))


# -- against a solver of its own -------------------------------------------------------------------------------------------

LINE = """
[states.x]
next = "0.6*x + a + 0.3*b*x"
noise = "0.8"
domain = [-2, 2]
boundary = "reflect"
[actions.a]
bounds = [-1, 1]
[actions.b]
bounds = [-1, 1]
[cost]
stage = "sin(3*x + a) + 0.3*cos(4*a*x) + 0.1*x**2 + 0.5*a**2*b + 0.4*b**2"
[grid]
points = { x = 6 }
kernel = "gaussian"
[policy]
particles = 3
[flow]
method = "rk4"
geometry = "GEOMETRY"
weight_rate = RATE
CRITERION
"""
CRITERIA = {
    "average": "",
    "discounted": '[criterion]\nkind = "discounted"\ndiscount = 0.8',
    "with values": "",
    "with values, discounted": '[criterion]\nkind = "discounted"\ndiscount = 0.8',
}


def small(criterion: str, metric: Metric) -> tuple[DenseProblem, Evaluator, ParticlePolicy]:
    text = LINE.replace("GEOMETRY", "wasserstein_fisher_rao" if metric.actions else "fisher_rao")
    text = text.replace("RATE", str(metric.rate)).replace("CRITERION", CRITERIA[criterion])
    rng = np.random.default_rng(5)
    actions, weights = rng.uniform(-0.8, 0.8, (6, 3, 2)), rng.dirichlet(np.ones(3), 6)
    if "values" in criterion:
        text = text.replace("[actions.b]\nbounds = [-1, 1]", "[actions.b]\nvalues = [-1, 0, 1]")
        actions[..., 1] = rng.integers(-1, 2, (6, 3))
    # one particle has all of the mass, one has none, and two stand on a bound
    weights[0], weights[1] = [0.0, 1.0, 0.0], [0.3, 0.7, 0.0]
    actions[2, 0, 0], actions[3, 1, 0] = 1.0, -1.0
    case = Case.from_text(text)
    evaluator = Evaluator.from_case(case)
    listed = tuple(bool(x) for x in case.problem.listed)
    return DenseProblem(text), evaluator, ParticlePolicy(evaluator.model.grid, actions, weights, listed=listed)


def bent_along(problem: DenseProblem, policy: ParticlePolicy, field: np.ndarray, rate: float) -> float:
    """d2J/dt2 by differences of dense solutions, along the curve whose second derivative is that of the equations of a geodesic:

    of the Lagrangian sum_i w_i (|a_i'|^2 + (w_i'/w_i)^2/kappa) with sum_i w_i = 1, state by state.
    """
    v, r, w = field[..., :-1], field[..., -1], policy.weights
    length = (w * ((v**2).sum(axis=2) + r**2 / rate)).sum(axis=1, keepdims=True)
    bend = 0.5 * w * (r**2 + rate * (v**2).sum(axis=2) - rate * length)

    def J(t: float) -> float:
        actions = policy.actions + t * v - 0.5 * t**2 * r[:, :, None] * v
        return problem.value(*problem.chain(actions, w * (1.0 + t * r) + 0.5 * t**2 * bend))[0]

    t = 4e-3
    return (16 * (J(t) + J(-t)) - (J(2 * t) + J(-2 * t)) - 30 * J(0.0)) / (12 * t * t)


@METRICS
@pytest.mark.parametrize("criterion", CRITERIA)
def test_products_are_those_of_differences_of_an_independent_solver(criterion, metric):
    problem, evaluator, policy = small(criterion, metric)
    evaluation = evaluator.evaluate(policy)
    hessian = Hessian(evaluation, floor=0.0, metric=metric)
    assert not hessian.domain[policy.weights == 0.0].any() and not hessian.domain[0, :, -1].any()
    one, other = (hessian.restrict(tangent(policy, metric, seed)) for seed in (3, 8))
    if "values" in criterion:
        assert (one[..., 1] == 0.0).all()
    bends = [bent_along(problem, policy, field, metric.rate) for field in (one, other, one + other)]
    for field, bend in zip((one, other, one + other), bends, strict=True):
        assert sum(second_derivative(evaluation, field, metric=metric)) == pytest.approx(bend, rel=1e-6)
        assert sum(hessian.curvature(field)) == pytest.approx(bend, rel=1e-6)
    mixed = 0.5 * (bends[2] - bends[0] - bends[1])
    scale = max(map(abs, bends))
    assert hessian.inner(hessian.apply(one), other) == pytest.approx(mixed, abs=1e-6 * scale)
    assert hessian.inner(one, hessian.apply(other)) == pytest.approx(mixed, abs=1e-6 * scale)


# -- geodesics -------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 4.0]), st.floats(-0.3, 0.3))
@settings(max_examples=20)
def test_geodesics_keep_their_speed_and_bend_as_their_equations_say(seed, rate, time):
    rng = np.random.default_rng(seed)
    grid = small("average", BOTH)[1].model.grid
    weights = rng.dirichlet(np.ones(4), grid.size)
    weights[0] = [0.0, 0.5, 0.5, 0.0]
    policy = ParticlePolicy(grid, rng.standard_normal((grid.size, 4, 2)), weights)
    field = tangent(policy, Metric(True, rate), seed)
    field[1, 0, :2] = 0.0  # a particle whose weight alone moves
    path, h = ParticleGeodesic(policy, field, rate), 1e-3
    assert np.allclose(path.at(0.0).actions, policy.actions) and np.allclose(path.velocity(0.0), field)

    def length(at: float) -> np.ndarray:
        v = path.velocity(at)
        return (path.at(at).weights * ((v[..., :-1] ** 2).sum(axis=2) + v[..., -1] ** 2 / rate)).sum(axis=1)

    np.testing.assert_allclose(length(time), length(0.0), rtol=1e-10)
    before, here, after = (path.at(time + k * h) for k in (-1, 0, 1))
    v, r = path.velocity(time)[..., :-1], path.velocity(time)[..., -1]
    w = here.weights
    close = {"rtol": 1e-3, "atol": 1e-3 * float(np.abs(field).max() ** 3 * (1.0 + rate) ** 2)}
    np.testing.assert_allclose((after.actions - before.actions) / (2 * h), v, **close)
    np.testing.assert_allclose((after.weights - before.weights) / (2 * h), w * r, **close)
    np.testing.assert_allclose((after.actions - 2 * here.actions + before.actions) / h**2, -r[:, :, None] * v, **close)
    bend = 0.5 * w * (r**2 + rate * (v**2).sum(axis=2) - rate * length(time)[:, None])
    np.testing.assert_allclose((after.weights - 2 * w + before.weights) / h**2, bend, **close)


@METRICS
@pytest.mark.parametrize("name", SETTINGS)
def test_taylor_remainder_along_geodesics_is_cubic(name, metric):
    evaluator, evaluation = start(name)
    field = tangent(evaluation.policy, metric, 4)
    slope = float(evaluation.law @ Variation(evaluation, metric).slope(field))
    curvature = sum(second_derivative(evaluation, field, metric=metric))
    path, remainders = ParticleGeodesic(evaluation.policy, field, metric.rate), []
    for t in [0.004 / 2**k for k in range(4)]:
        moved = evaluator.evaluate(path.at(t), evaluation)
        remainders.append(abs(moved.objective - evaluation.objective - t * slope - t**2 / 2 * curvature))
    assert slopes(remainders) == pytest.approx(3.0, abs=0.15)


# -- the operator ----------------------------------------------------------------------------------------------------------


@METRICS
@pytest.mark.parametrize("name", ["1-D, average", "2-D with two actions, discounted"])
def test_it_is_symmetric_and_its_spectrum_is_that_of_its_products(name, metric):
    _, evaluation = start(name, 3)
    hessian = Hessian(evaluation, metric=metric)
    one, other = (tangent(evaluation.policy, metric, seed) for seed in (2, 6))
    image = hessian.apply(one)
    scale = np.sqrt(hessian.inner(image, image) * hessian.inner(other, other))
    assert hessian.inner(image, other) == pytest.approx(hessian.inner(one, hessian.apply(other)), abs=1e-11 * scale)
    # what it gives is tangent: masses stay one
    assert np.abs((evaluation.policy.weights * image[..., -1]).sum(axis=1)).max() <= 1e-12 * np.abs(image[..., -1]).max()
    # coordinates are orthonormal ones of the domain
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((2, hessian.unknowns))
    np.testing.assert_allclose(hessian.coordinates(hessian.field(z)), z, atol=1e-12)
    assert hessian.inner(hessian.field(z), hessian.field(y)) == pytest.approx(z @ y)
    kept = hessian.restrict(one)
    np.testing.assert_allclose(hessian.field(hessian.coordinates(kept)), kept, atol=1e-9)
    each = evaluation.policy.particles * (1 + metric.actions * evaluation.policy.action_dimension) - 1
    assert hessian.unknowns == each * (hessian.mass.sum(axis=1) > 0.0).sum()
    found, ends = spectrum(hessian), curvature_range(hessian)
    size = np.abs(found.values).max()
    assert ends.smallest.value == pytest.approx(found.values[0], abs=1e-7 * size)
    assert ends.largest.value == pytest.approx(found.values[-1], abs=1e-7 * size)
    image = found.vectors @ (found.values * (found.vectors.T @ z))
    np.testing.assert_allclose(hessian.coordinates(hessian.apply(hessian.field(z))), image, atol=1e-9 * size)
    assert sum(hessian.curvature(found.field(0))) == pytest.approx(found.local[0] + found.transport[0], abs=1e-9 * size)


def test_two_actions_of_a_state_have_the_curvature_of_a_circle():
    """Decoupled, J = c_1 cos^2 + c_2 sin^2 along 2/sqrt(kappa) times the angle: kappa (c_2 - c_1)(w_1 - w_2)/2."""
    text = """
    [states.x]
    next = "0.7*x"
    noise = "0.5"
    domain = [-2, 2]
    [actions.a]
    values = [0, 1]
    [cost]
    stage = "x**2 + a*(1 + 0.5*x)"
    [grid]
    points = { x = 9 }
    [flow]
    method = "exponential"
    geometry = "fisher_rao"
    weight_rate = 3.0
    """
    point = wg.geometry.at(Case.from_text(text))
    share = np.random.default_rng(0).uniform(0.1, 0.9, point.policy.grid.size)
    x = point.policy.grid.states[:, 0]
    weights = np.stack([share, 1.0 - share], axis=1)
    point = wg.geometry.at(point, point.policy.moved(point.policy.actions, weights))
    exact = 1.5 * (1.0 + 0.5 * x) * (2.0 * share - 1.0)
    found = wg.second_order.spectrum(point, floor=0.0)
    np.testing.assert_allclose(found.values, np.sort(exact), atol=1e-10)
    assert np.abs(found.transport).max() < 1e-10
    # one value has all of the mass
    alone = wg.geometry.at(point, point.policy.moved(point.policy.actions, np.tile([1.0, 0.0], (9, 1))))
    with pytest.raises(CurvatureError, match="one particle has all of the weight"):
        wg.second_order.ends(alone)


LISTS = """
[states.x]
next = "0.8*x + 0.5*gear - 0.2*sign(x)"
noise = "0.7"
domain = [-2, 2]
[actions.gear]
values = [1, -1, 0]
[cost]
stage = "x**2 + 0.4*where(gear*x > 0, 1, 0) + 0.2*abs(gear)"
[grid]
points = { x = 12 }
[flow]
method = "exponential"
"""
GOAL = '[criterion]\nkind = "total"\n[goal]\nwhere = "x > 1.5"\n[start]\nx = -1\n'


@pytest.mark.parametrize("more", ["", "[policy]\nentropy = 0.3\n", GOAL, GOAL + "[policy]\nentropy = 0.3\n"])
def test_lists_goals_and_entropy_bend_as_along_great_circles(more):
    """In Fisher-Rao geometry the ways are those of `WeightGeodesic`, whose derivatives are code of their own."""
    case = Case.from_text(LISTS + more)
    point = wg.geometry.at(case)
    rng = np.random.default_rng(2)
    drawn = [point.policy.moved(point.policy.actions, rng.dirichlet(np.ones(3), 12)) for _ in range(2)]
    here, there = (wg.geometry.at(point, policy) for policy in drawn)
    path = wg.geometry.weight_geodesic(here, there)
    roots = np.sqrt(here.policy.weights)
    rates = 2.0 * np.divide(path._turned(0.0)[1], roots, out=np.zeros_like(roots), where=roots > 0.0)
    field = np.concatenate([np.zeros((12, 3, 1)), rates[:, :, None]], axis=2)
    slope, local, transport = path.derivatives(here.evaluation, 0.0)
    assert wg.second_order.second_derivative(here, field) == pytest.approx((local, transport), rel=1e-9, abs=1e-10)
    assert float(here.law @ Variation(here.evaluation, WEIGHTS).slope(field)) == pytest.approx(slope, rel=1e-9)
    assert wg.second_order.check(here).passed
    planted = np.concatenate([np.zeros((12, 3, 1)), np.ones((12, 3, 1))], axis=2)
    with pytest.raises(PolicyError, match=r"masses stay one: sum_i w_i r_i is 1 at cell .* \(x = .*\), subtract it from r"):
        wg.second_order.second_derivative(here, planted)
    with pytest.raises(PolicyError, match=r"expected a tangent field of shape \(12, 3, 1\), or \(12, 3, 2\) with r"):
        wg.second_order.second_derivative(here, planted[:2])


def test_blobs_have_no_second_order_and_are_checked_without_it():
    text = LISTS.replace("values = [1, -1, 0]", "bounds = [-1, 1]").replace('method = "exponential"', 'geometry = "wasserstein"')
    case = Case.from_text(text + "[policy]\nentropy = 0.3\nparticles = 9\n")
    assert {found.name for found in findings(case) if isinstance(found, Finding)} >= {"initial policy", "time"}
    with pytest.raises(CurvatureError, match=r'not known where blobs slide .* flow.geometry = "fisher_rao"'):
        wg.second_order.ends(case)


def test_differences_find_a_wrong_second_derivative(monkeypatch):
    evaluator, evaluation = start("1-D, average")
    assert check_derivatives(evaluator, evaluation, metric=BOTH).passed
    right = Variation.bent
    # the term of the geodesic's bend left out
    monkeypatch.setattr(Variation, "bent", lambda self, w: right(self, w) - 0.5 * self.metric.rate * self.excess[:, :, None] * w)
    assert not check_derivatives(evaluator, evaluation, metric=BOTH).passed


@pytest.mark.parametrize("geometry", ["wasserstein_fisher_rao", "fisher_rao"])
def test_runs_record_and_report_the_curvature_of_weights_too(geometry, tmp_path):
    settings = [f"flow.geometry={geometry}", "flow.method=rk4", "flow.stop={steps = 3}", "output.estimate=false"]
    settings += ["output.curvature_every=1", "policy.particles=3", "grid.points.s=21"]
    case = Case.load(CASES / "scalar_regulator.toml", settings)
    solution = wg.run(case, tmp_path / "run.h5")
    found = wg.second_order.ends(solution)
    assert solution.history["curvature_min"][-1] == pytest.approx(found.smallest.value, rel=1e-6)
    assert solution.history["curvature_max"][-1] == pytest.approx(found.largest.value, rel=1e-6)
    assert found.smallest.field.shape == (21, 3, 2)
    with ResultFile(tmp_path / "run.h5") as file:
        assert any(name == "curvature" for name, _ in summary_rows(file))
