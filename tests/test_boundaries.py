"""The boundary models: the grid, simulation and differentiable steps mean the same by each."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm, truncnorm

from wassgrid.case import Case, CaseError
from wassgrid.certificate.profiles import Profiles
from wassgrid.certificate.weight_bounds import weight_bounds
from wassgrid.evaluation import Evaluator
from wassgrid.grid import GridError, StateGrid
from wassgrid.policy import ParticlePolicy
from wassgrid.problem.boundary import BOUNDARIES as MODELS
from wassgrid.problem.random_step import RandomStep
from wassgrid.simulate import discounted_cost, ergodic_cost
from wassgrid.transition.axis_kernels import AXIS_KERNELS, GAUSSIAN, MATCHED, axis_weights
from wassgrid.transition.compiled import PROJECT, TRUNCATE, fold
from wassgrid.transition.model import TransitionModel

NAMED = ("project", "truncate", "open", "reflect", "periodic")


def case_of(boundary: str, points: int | str = 41, kernel: str = "auto", extra: str = "", noise: str = "0.4") -> Case:
    return Case.from_text(
        f"""
[states.x]
next = "x + 0.3*a + 0.1*sin(pi*x)"
noise = "{noise}"
domain = [-1, 1]
boundary = "{boundary}"
[actions.a]
bounds = [-1, 1]
[cost]
stage = "cos(pi*x) + 0.2*sin(pi*x) + 0.1*a**2"
[grid]
points = {{ x = {points} }}
kernel = "{kernel}"
{extra}"""
    )


def expected(boundary: str, mean: float, noise: float, f) -> float:
    """E f of the next value by quadrature of the definition, f of one variable, the domain [-1, 1]."""
    if boundary == "open":
        m = np.clip(mean, -1, 1)
        return quad(lambda x: f(x) * norm.pdf(x, m, noise), m - 9 * noise, m + 9 * noise, epsabs=1e-12)[0]
    if boundary == "truncate":
        m = np.clip(mean, -1, 1)
        return truncnorm((-1 - m) / noise, (1 - m) / noise, m, noise).expect(f)
    if boundary == "project":
        inside = quad(lambda x: f(x) * norm.pdf(x, mean, noise), -1, 1, epsabs=1e-12)[0]
        return inside + f(-1) * norm.cdf(-1, mean, noise) + f(1) * norm.sf(1, mean, noise)
    places = [2 * k for k in range(-6, 7)]
    if boundary == "periodic":
        return sum(quad(lambda x, k=k: f(x) * norm.pdf(x + k, mean, noise), -1, 1, epsabs=1e-13)[0] for k in places)
    mirrored = lambda x: abs((x + 1 + 2) % 4 - 2) - 1  # noqa: E731
    reach = 9 * noise
    return quad(lambda x: f(mirrored(x)) * norm.pdf(x, mean, noise), mean - reach, mean + reach, limit=400, epsabs=1e-11)[0]


@pytest.mark.parametrize("boundary", NAMED)
@pytest.mark.parametrize("kernel", ["gaussian", "matched", "linear"])
def test_the_law_of_the_grid_is_that_of_the_model(boundary, kernel):
    """To second order in the spacing, from every mean, beyond the ends too."""
    f = (lambda x: np.cos(np.pi * x) + np.sin(np.pi * x)) if boundary == "periodic" else (lambda x: np.exp(0.7 * x))
    means = np.array([-2.1, -1.05, -1.0, -0.83, 0.02, 0.61, 0.999, 1.3, 4.0])
    errors = []
    for points in (21, 41):
        points -= boundary == "periodic"
        model = TransitionModel.from_case(case_of(boundary, points, kernel))
        n = model.grid.size
        # what the problem's tables do for the actions of an open axis
        given = np.clip(means, -1, 1) if boundary == "open" else means
        cells = np.full(means.size, n // 2)
        found = model.expected(cells, given[:, None, None], f(model.grid.states[:, 0]))[:, 0]
        errors.append(np.abs(found - [expected(boundary, m, 0.4, f) for m in means]).max())
    spectral = kernel != "linear" and boundary in ("open", "reflect", "periodic")
    assert errors[1] < (1e-7 if spectral and boundary != "reflect" else 2e-3)
    if not spectral:
        assert errors[1] < 0.3 * errors[0]


@pytest.mark.parametrize("boundary", NAMED)
def test_simulation_agrees_with_the_grid(boundary):
    case = case_of(boundary, 80)
    evaluator = Evaluator.from_case(case)
    grid = evaluator.model.grid
    policy = ParticlePolicy.around(grid, 0.8 * np.cos(np.pi * grid.states))
    evaluation = evaluator.evaluate(policy)
    rng = np.random.default_rng(5)
    found = ergodic_cost(case.problem, policy, evaluation.law, 4000, 400, 100, rng)
    assert abs(found.mean - evaluation.objective) < 4 * found.standard_error + 1e-4
    assert found.standard_error < 2e-3
    # and the models differ by more than that
    other = Evaluator.from_case(case_of("truncate" if boundary != "truncate" else "project", 80))
    off = other.evaluate(ParticlePolicy.around(other.model.grid, 0.8 * np.cos(np.pi * other.model.grid.states))).objective
    assert abs(off - evaluation.objective) > 5e-3


@pytest.mark.parametrize("boundary", NAMED)
def test_a_discounted_run_starts_from_the_declared_domain(boundary):
    case = case_of(boundary, 60, extra='[criterion]\nkind = "discounted"\ndiscount = 0.7\n')
    evaluator = Evaluator.from_case(case)
    grid = evaluator.model.grid
    policy = ParticlePolicy.around(grid, 0.5 * np.cos(np.pi * grid.states))
    found = discounted_cost(case.problem, policy, 400_000, np.random.default_rng(2))
    assert abs(found.mean - evaluator.evaluate(policy).objective) < 4 * found.standard_error + 2e-4
    centre = -grid.spacing[0] / 2 if boundary == "periodic" else 0.0
    assert evaluator.initial_law @ grid.states[:, 0] == pytest.approx(centre, abs=1e-12)


@pytest.mark.parametrize("boundary", MODELS)
def test_steps_of_both_backends_are_the_same(boundary):
    jax = pytest.importorskip("jax")
    case = case_of(boundary)
    rng = np.random.default_rng(3)
    states, actions, normals = rng.uniform(-1, 1, (500, 1)), rng.uniform(-1, 1, (500, 1)), rng.standard_normal((500, 1))
    one = RandomStep(case.problem, "numpy").next_state(states, actions, normals)
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        other = RandomStep(case.problem, "jax").next_state(states, actions, normals)
        slope = jax.grad(lambda a: RandomStep(case.problem, "jax").next_state(states, a, normals).sum())(actions)
        assert np.isfinite(np.asarray(slope)).all()
    np.testing.assert_allclose(one, np.asarray(other), atol=1e-12)
    outside = np.abs(one) > 1
    assert outside.any() == (boundary == "open")


def test_truncated_steps_have_the_truncated_law():
    case = case_of("truncate")
    states = np.full((200_000, 1), 0.7)
    found = case.problem.sample_next(states, np.full_like(states, 0.9), np.random.default_rng(0))[:, 0]
    mean = min(0.7 + 0.27 + 0.1 * np.sin(0.7 * np.pi), 1.0)
    law = truncnorm((-1 - mean) / 0.4, (1 - mean) / 0.4, mean, 0.4)
    np.testing.assert_allclose(np.quantile(found, [0.05, 0.3, 0.5, 0.9]), law.ppf([0.05, 0.3, 0.5, 0.9]), atol=6e-3)


@pytest.mark.thorough
@pytest.mark.parametrize("kernel", [GAUSSIAN, MATCHED, AXIS_KERNELS["linear"].code])
@pytest.mark.parametrize("boundary", [PROJECT, TRUNCATE])
def test_weights_derivatives_and_bounds_at_the_ends(kernel, boundary):
    n, h, ratio = 12, 0.5, 0.62
    noise, w, u = ratio * h, np.zeros((3, 80)), np.zeros((4, 120))
    profiles = Profiles.build([np.array([ratio]) if kernel == MATCHED else None])

    def weights(mean: float) -> np.ndarray:
        first, count = axis_weights(kernel, boundary, 0.0, h, n, mean, noise, 2, w[0], w[1], w[2])
        table = np.zeros((3, 200))
        table[:, 100 + first : 100 + first + count] = w[:, :count]
        return table

    def folded(table: np.ndarray) -> np.ndarray:
        result = np.zeros((table.shape[0], n))
        for e in range(-100, 100):
            result[:, fold(e, n, boundary)] += table[:, 100 + e]
        return result

    rng, step, some = np.random.default_rng(1), 1e-5, 0
    for _ in range(300):
        mean, radius = rng.choice([rng.uniform(-1, 2), rng.uniform(4, 6.5)]), 10.0 ** rng.uniform(-3, -0.5)
        table, middle = np.zeros((4, 200)), weights(mean)
        assert abs(folded(middle)[0].sum() - 1) < 1e-13 and (middle[0] >= 0).all()
        first, _, count, smooth, bounded = weight_bounds(
            kernel, boundary, 0.0, h, n, mean, radius, noise, profiles, 0, u, np.zeros(3), np.zeros(12)
        )
        table[:, 100 + first : 100 + first + count] = u[:, :count]
        assert bounded or radius > 0.03
        some += bounded
        for m in mean + (radius - 2 * step) * rng.uniform(-1, 1, 4):
            here, left, right = weights(m), weights(m - step), weights(m + step)
            inside = boundary == PROJECT or 2 * step < m < (n - 1) * h - 2 * step
            if inside:
                slack = 1e-5 / noise**3
                np.testing.assert_allclose(folded(here)[1], folded(right - left)[0] / (2 * step), atol=slack)
                np.testing.assert_allclose(folded(here)[2], folded(right - left)[1] / (2 * step), atol=slack / noise)
            if bounded:
                known = 3 if smooth else 2
                assert np.all(np.abs(here[:known]) <= table[:known] * (1 + 1e-9) + 1e-11 / noise**2)
                if smooth and inside:
                    assert np.all(np.abs(right[2] - left[2]) / (2 * step) <= table[3] * (1 + 1e-6) + 1e-4 / noise**3)
    assert some > 150


def test_an_open_axis_goes_on_until_nothing_is_left():
    grid = StateGrid.from_case(case_of("open", 21, noise="0.2 + 0.05*cos(x)"))
    assert grid.lower[0] <= -1 - 8 * 0.25 and grid.axes[0][-1] >= 1 + 8 * 0.25
    np.testing.assert_allclose(grid.spacing, 0.1)
    assert np.abs(grid.axes[0]).min() < 1e-12
    with pytest.raises(GridError, match="an open axis goes on until"):
        StateGrid.from_case(case_of("open", 21, noise="0.4 + 0.3*x**2"))
    follower = """
[states.x]
next = "x + 0.1*next(v)"
noise = "0.1"
domain = [-1, 1]
boundary = "open"
[states.v]
next = "0.5*v + a"
noise = "0.5"
domain = [-2, 2]
[actions.a]
bounds = [-1, 1]
[cost]
stage = "x**2"
[grid]
points = { x = 21, v = 21 }"""
    with pytest.raises(Exception, match=r'states\.x\.boundary: "open" clips the mean.*"truncate" or "project"'):
        StateGrid.from_case(Case.from_text(follower))
    with pytest.raises(CaseError, match=r"states\.x\.domain: missing"):
        Case.from_text(follower.replace("domain = [-1, 1]", ""))


def test_aligned_axes_do_not_move_the_ends_of_the_problem():
    text = """
[parameters]
step = 0.05
[states.theta]
next = "theta + step*next(omega)"
domain = ["-pi", "pi"]
boundary = "periodic"
[states.omega]
next = "omega + step*(15*sin(theta) + 3*a)"
noise = "0.4"
domain = [-8, 8]
boundary = "{boundary}"
[actions.a]
bounds = [-2, 2]
[cost]
stage = "wrap_angle(theta)**2 + 0.1*omega**2"
[grid]
points = {{ theta = 128, omega = "aligned" }}"""
    with pytest.raises(GridError, match=r"states\.omega\.domain: the ends of a project boundary must be whole multiples.*open"):
        StateGrid.from_case(Case.from_text(text.format(boundary="project")))
    case = Case.from_text(text.format(boundary="open"))
    grid = StateGrid.from_case(case)
    means = case.problem.action_tables(grid.states, np.full((grid.size, 1, 1), 2.0), 0).mean[:, 0, 1]
    assert means.max() == 8.0 and means.min() == -8.0
    assert grid.axes[1][-1] > 8 + 8 * 0.4
