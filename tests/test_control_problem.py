"""The controlled chain of a case: tables and their derivatives, coupling, sampling, index families, continuous time."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from wassgrid.case import Case, CaseError
from wassgrid.problem.control_problem import ProblemError
from wassgrid.problem.random_step import RandomStep

PENDULUM = """
[parameters]
step = 0.05
[states.theta]
next = "theta + step*next(omega)"
domain = ["-pi", "pi"]
boundary = "periodic"
[states.omega]
next = "clip(omega + step*(15*sin(theta) + 3*a), -8, 8)"
noise = 0.4
domain = [-8, 8]
[actions.a]
bounds = [-2, 2]
[cost]
stage = "wrap_angle(theta)**2 + 0.1*omega**2 + 0.001*a**2"
[grid]
points = { theta = 64, omega = 65 }
"""

TWO_ACTIONS = """
[states.x]
next = "0.9*x + tanh(a*y) + b**2*x + 0.5*(next(y) - y)*exp(-x**2)"
noise = "0.1 + 0.2*x**2"
domain = [-2, 2]
boundary = "reflect"
[states.y]
next = "y*cos(b) - a**3/3 + where(a > b, a*b, a**2)"
noise = "abs(y)/4"
domain = [-2, 2]
[actions.a]
[actions.b]
[cost]
stage = "x**2*a**2 + sin(a*b) + max(a, b)*y"
[grid]
points = { x = 11, y = 11 }
"""

CONTINUOUS = """
[states.theta]
drift = "omega + 0.2*b*theta"
domain = [-3, 3]
[states.omega]
drift = "4*sin(theta) - 0.5*omega + a*cos(theta) - a**2*b/5"
diffusion = "0.3 + 0.1*cos(theta)"
domain = [-6, 6]
[actions.a]
[actions.b]
[time]
step = 0.1
scheme = "SCHEME"
[cost]
rate = "theta**2 + omega**2*b + exp(a/3)"
[grid]
points = { theta = 11, omega = 11 }
"""

CASES = {
    "pendulum": PENDULUM,
    "two actions": TWO_ACTIONS,
    "euler": CONTINUOUS.replace("SCHEME", "euler"),
    "rk4": CONTINUOUS.replace("SCHEME", "rk4"),
}


def problem_of(text):
    return Case.from_text(text).problem


def random_points(problem, cells=7, particles=5, seed=0):
    rng = np.random.default_rng(seed)
    low, high = problem.domain.T
    states = low + (high - low) * rng.random((cells, problem.state_dimension))
    return states, rng.normal(size=(cells, particles, problem.action_dimension))


@pytest.mark.parametrize("name", CASES)
def test_action_derivatives_against_finite_differences(name):
    problem = problem_of(CASES[name])
    states, actions = random_points(problem)
    tables = problem.action_tables(states, actions, order=2)
    h = 1e-5
    for a in range(problem.action_dimension):
        shift = h * np.eye(problem.action_dimension)[a]
        ahead = problem.action_tables(states, actions + shift, order=1)
        behind = problem.action_tables(states, actions - shift, order=1)
        for value in ("mean", "cost"):
            gradient = (getattr(ahead, value) - getattr(behind, value)) / (2 * h)
            hessian = (getattr(ahead, f"{value}_gradient") - getattr(behind, f"{value}_gradient")) / (2 * h)
            np.testing.assert_allclose(getattr(tables, f"{value}_gradient")[..., a], gradient, atol=1e-7)
            np.testing.assert_allclose(getattr(tables, f"{value}_hessian")[..., a], hessian, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_tables_have_the_promised_shapes_and_agree_between_orders(name):
    problem = problem_of(CASES[name])
    states, actions = random_points(problem)
    cells, particles, m = actions.shape
    d = problem.state_dimension
    tables = [problem.action_tables(states, actions, order) for order in (0, 1, 2)]
    shapes = {
        "mean": (cells, particles, d),
        "mean_gradient": (cells, particles, d, m),
        "mean_hessian": (cells, particles, d, m, m),
        "cost": (cells, particles),
        "cost_gradient": (cells, particles, m),
        "cost_hessian": (cells, particles, m, m),
    }
    for key, shape in shapes.items():
        order = 2 if "hessian" in key else 1 if "gradient" in key else 0
        for k, table in enumerate(tables):
            value = getattr(table, key)
            if k < order:
                assert value is None
                continue
            assert value.shape == shape and value.dtype == np.float64 and value.flags.c_contiguous
            np.testing.assert_allclose(value, getattr(tables[2], key), rtol=1e-13, atol=1e-15)
    cell = problem.cell_tables(states)
    assert cell.noise.shape == (cells, d) and cell.coupling.shape == (cells, d, d)
    assert np.array_equal(np.any(cell.coupling != 0, axis=0), problem.coupled)
    with pytest.raises(ValueError, match="order: expected 0, 1 or 2"):
        problem.action_tables(states, actions, 3)


def test_tables_of_a_block_are_those_of_the_whole():
    problem = problem_of(TWO_ACTIONS)
    states, actions = random_points(problem, cells=9)
    whole = problem.action_tables(states, actions, 2)
    parts = [problem.action_tables(states[k : k + 4], actions[k : k + 4], 2) for k in (0, 4, 8)]
    assert np.array_equal(whole.mean_hessian, np.concatenate([part.mean_hessian for part in parts]))
    assert np.array_equal(whole.cost, np.concatenate([part.cost for part in parts]))


def test_the_pendulum_by_hand():
    problem = problem_of(PENDULUM)
    assert problem.state_names == ("theta", "omega") and problem.action_names == ("a",)
    assert problem.boundary == ("periodic", "clamp") and problem.order == (1, 0)
    np.testing.assert_array_equal(problem.domain, [[-np.pi, np.pi], [-8, 8]])
    np.testing.assert_array_equal(problem.action_bounds, [[-2, 2]])
    assert (problem.criterion, problem.discount, problem.time_step) == ("average", None, None)
    states = np.array([[0.5, 1.0], [3.0, 7.9]])
    actions = np.array([[[0.3], [-1.0]], [[2.0], [0.0]]])
    tables = problem.action_tables(states, actions, 2)
    theta, omega, a = states[:, :1], states[:, 1:], actions[..., 0]
    push = omega + 0.05 * (15 * np.sin(theta) + 3 * a)
    # the part of `next` without next(omega)
    np.testing.assert_allclose(tables.mean, np.stack([theta + 0 * a, np.clip(push, -8, 8)], axis=-1), rtol=1e-15)
    np.testing.assert_allclose(tables.mean_gradient[..., 1, 0], np.where(push < 8, 0.15, 0.0), rtol=1e-14)
    np.testing.assert_array_equal(tables.mean_hessian, 0.0)
    np.testing.assert_allclose(tables.cost, theta**2 + 0.1 * omega**2 + 0.001 * a**2, rtol=1e-14)
    np.testing.assert_allclose(tables.cost_hessian, 0.002, rtol=1e-14)
    cell = problem.cell_tables(states)
    np.testing.assert_array_equal(cell.noise, [[0.0, 0.4]] * 2)
    np.testing.assert_array_equal(cell.coupling, [[[0.0, 0.05], [0.0, 0.0]]] * 2)


def test_correlated_noise_gives_the_exact_covariance():
    problem = problem_of(
        """
        [states.x]
        next = "0.9*x + a + 0.5*(next(y) - 0.8*y)"
        noise = 0.3
        domain = [-50, 50]
        [states.y]
        next = "0.8*y - 0.1*x"
        noise = 0.7
        domain = [-50, 50]
        [actions.a]
        [cost]
        stage = "x**2"
        [grid]
        points = { x = 11, y = 11 }
        """
    )
    samples = 200_000
    states = np.tile([1.0, 2.0], (samples, 1))
    after = problem.sample_next(states, np.full((samples, 1), 0.25), np.random.default_rng(3))
    covariance = np.array([[0.3**2 + 0.5**2 * 0.7**2, 0.5 * 0.7**2], [0.5 * 0.7**2, 0.7**2]])
    mean = np.array([0.9 + 0.25 + 0.5 * (1.5 - 1.6), 1.5])
    error = 5 * np.sqrt(np.diag(covariance) / samples)
    assert np.all(np.abs(after.mean(axis=0) - mean) < error)
    deviation = np.sqrt((covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / samples)
    assert np.all(np.abs(np.cov(after.T) - covariance) < 5 * deviation)


@pytest.mark.parametrize(("boundary", "wanted"), [("clamp", [1.0, -1.0]), ("reflect", [0.5, -0.25]), ("periodic", [-0.5, 0.25])])
def test_sampling_applies_the_boundary(boundary, wanted):
    problem = problem_of(
        f"""
        [states.x]
        next = "x + a"
        domain = [-1, 1]
        boundary = "{boundary}"
        [actions.a]
        [cost]
        stage = "x"
        [grid]
        points = {{ x = 5 }}
        """
    )
    after = problem.sample_next(np.array([[0.5], [-0.75]]), np.array([[1.0], [-1.0]]), np.random.default_rng(0))
    np.testing.assert_allclose(after[:, 0], wanted, atol=1e-15)


@pytest.mark.parametrize(("scheme", "order"), [("euler", 1), ("rk4", 4)])
def test_schemes_have_the_order_they_declare(scheme, order):
    state, action = np.array([0.7, -1.3]), np.array([0.4, 0.9])

    def drift(_, s):
        pull = 4 * np.sin(s[0]) - 0.5 * s[1] + action[0] * np.cos(s[0]) - action[0] ** 2 * action[1] / 5
        return [s[1] + 0.2 * action[1] * s[0], pull]

    steps = 0.1 * 0.5 ** np.arange(4)
    errors = []
    for step in steps:
        problem = problem_of(CONTINUOUS.replace("SCHEME", scheme).replace("step = 0.1", f"step = {step}"))
        assert problem.time_step == step
        mean = problem.action_tables(state[None], action[None, None], 0).mean[0, 0]
        exact = solve_ivp(drift, (0, step), state, rtol=1e-13, atol=1e-14, method="DOP853").y[:, -1]
        errors.append(np.linalg.norm(mean - exact))
    # the local error of a scheme of order p is of order p + 1
    slopes = np.diff(np.log(errors)) / np.diff(np.log(steps))
    assert abs(slopes[-1] - (order + 1)) < 0.1, slopes
    noise = problem.cell_tables(state[None]).noise[0]
    np.testing.assert_allclose(noise, [0.0, (0.3 + 0.1 * np.cos(0.7)) * np.sqrt(step)], rtol=1e-14)
    cost = problem.action_tables(state[None], action[None, None], 0).cost[0, 0]
    assert cost == pytest.approx(0.7**2 + 1.3**2 * 0.9 + np.exp(0.4 / 3), rel=1e-14)  # the rate, per unit time


def test_realised_next_values_in_continuous_time_carry_the_step():
    text = CONTINUOUS.replace("SCHEME", "euler").replace('"omega + 0.2*b*theta"', '"next(omega) + 0.2*b*theta"')
    problem = problem_of(text)
    states, actions = random_points(problem)
    np.testing.assert_allclose(problem.cell_tables(states).coupling[:, 0, 1], 0.1, rtol=1e-15)
    mean = problem.action_tables(states, actions, 0).mean[..., 0]
    np.testing.assert_allclose(mean, states[:, :1] * (1 + 0.1 * 0.2 * actions[..., 1]), rtol=1e-13)
    with pytest.raises(CaseError, match=r'states.theta.drift: next\(...\) needs time.scheme = "euler"'):
        problem_of(text.replace('"euler"', '"rk4"'))


def test_a_derivative_that_is_not_finite_counts_as_zero_and_its_box_as_rough():
    problem = problem_of(
        '[states.x]\nnext = "x + sqrt(a + 1)"\nnoise = 0.1\ndomain = [0, 1]\n[actions.a]\n'
        '[cost]\nstage = "x**2 + sqrt(abs(a))*a"\n[grid]\npoints = { x = 5 }'
    )
    state, actions = np.array([[0.5]]), np.array([[[-1.0], [0.0], [3.0]]])
    tables = problem.action_tables(state, actions, 2)
    np.testing.assert_allclose(tables.mean_gradient[0, :, 0, 0], [0.0, 0.5, 0.25])
    np.testing.assert_allclose(tables.cost_gradient[0, :, 0], [1.5, 0.0, 1.5 * np.sqrt(3.0)])
    low, high = np.array([[-1.0], [-0.5], [1.0]]), np.array([[-0.5], [0.5], [2.0]])
    ranges = problem.action_ranges(np.repeat(state, 3, axis=0), low, high)
    np.testing.assert_array_equal(ranges.smoothness, [0, 0, 2])


def test_an_action_without_a_value_costs_infinity_where_it_is_only_tried():
    problem = problem_of(
        '[states.x]\nnext = "x + 1/a"\nnoise = 0.1\ndomain = [0, 1]\n[actions.a]\n'
        '[cost]\nstage = "x**2 + log(a + 1)"\n[grid]\npoints = { x = 5 }'
    )
    tables = problem.action_tables(np.array([[0.5]]), np.array([[[-2.0], [0.0], [1.0]]]), 2, strict=False)
    np.testing.assert_allclose(tables.cost[0], [np.inf, np.inf, 0.25 + np.log(2.0)])
    np.testing.assert_allclose(tables.mean[0, :, 0], [0.0, 0.0, 1.5])
    assert all(np.isfinite(part).all() for part in (tables.mean_gradient, tables.mean_hessian, tables.cost_gradient))


BAD_VALUES = {
    "cost": ('stage = "x**2 + log(a)"', "cost is nan at x=0.5, a=-1"),
    "infinite cost": ('stage = "x**2 + 1/(x - 0.5)"', "cost is inf at x=0.5"),
    "mean": ('next = "sqrt(x - 0.5 + a)"', "next x is nan at x=0.5, a=-1"),
    "noise": ('noise = "log(x - 0.5)"', "noise of x is -inf at x=0.5"),
    "negative noise": ('noise = "0.4 - x"', "noise of x is negative at x=0.5"),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_values_that_are_not_finite_are_named(name):
    line, message = BAD_VALUES[name]
    case = {"next": 'next = "x + a"', "noise": "noise = 0.1", "stage": 'stage = "x**2"'}
    case[line.split()[0]] = line
    problem = problem_of(
        f"[states.x]\n{case['next']}\n{case['noise']}\ndomain = [0, 1]\n[actions.a]\n[cost]\n{case['stage']}\n"
        "[grid]\npoints = { x = 5 }"
    )
    states = np.array([[0.25], [0.5]]) if "noise" not in name else np.array([[0.75], [0.5]])
    if name == "negative noise":
        states = np.array([[0.25], [0.5]])
    with pytest.raises(ProblemError) as error:
        problem.cell_tables(states)
        problem.action_tables(states, np.array([[[1.0], [2.0]], [[3.0], [-1.0]]]), 1)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_zero_has_one_sign():
    """atan2(b, -1) is pi at zero and falls to -pi below: -0.0 is zero, in bounds, actions and states."""
    case = Case.from_text(
        """
        [states.x]
        next = "0.5*x + atan2(a, -1) + atan2(x, -1)"
        noise = 0.3
        domain = [-1, 1]
        [actions.a]
        bounds = [-0.0, 1.7]
        [cost]
        stage = "x**2 + atan2(a, -1)"
        [grid]
        points = { x = 21 }
        """
    )
    problem = case.problem
    assert not np.signbit(problem.action_bounds[0, 0])
    tables = problem.action_tables(np.array([[-0.0]]), np.array([[[-0.0], [0.0]]]), 0)
    np.testing.assert_allclose(tables.cost, np.pi)
    np.testing.assert_allclose(tables.mean[..., 0], 2.0 * np.pi)


@pytest.mark.parametrize("name", CASES)
def test_a_pickled_problem_is_the_same_problem(name):
    problem = problem_of(CASES[name])
    states, actions = random_points(problem)
    before = problem.action_tables(states, actions, 1)
    again = pickle.loads(pickle.dumps(problem))
    after = again.action_tables(states, actions, 1)
    assert np.array_equal(before.mean_gradient, after.mean_gradient) and np.array_equal(before.cost, after.cost)


def test_feedback_laws_per_action():
    problem = problem_of(TWO_ACTIONS)
    states, _ = random_points(problem)
    both = problem.feedback("policy.initial.mean", "-x*y + 1")(states)
    np.testing.assert_allclose(both, np.tile(1 - states[:, :1] * states[:, 1:], 2), rtol=1e-14)
    each = problem.feedback("policy.initial.mean", {"b": "y", "a": 2.0})(states)
    np.testing.assert_array_equal(each, np.column_stack([np.full(len(states), 2.0), states[:, 1]]))
    for texts, message in [
        ({"a": "x"}, "mean.b: missing"),
        ({"a": "x", "b": "y", "c": "x"}, "mean.c: unknown action"),
        ("x + q", "mean: unknown name 'q'"),
        ({"a": "x", "b": "a"}, "mean.b: a feedback law may depend on states and parameters only, not on the action a"),
    ]:
        with pytest.raises(ProblemError, match=message):
            problem.feedback("mean", texts)
    with pytest.raises(ProblemError, match="mean of a is -inf at x=0, y=1"):
        problem.feedback("mean", "log(x)")(np.array([[0.0, 1.0]]))


# -- index families ---------------------------------------------------------------------------------------------------

FAMILY = """
[parameters]
k = 0.3
[indices]
i = { count = 3, periodic = PERIODIC }
j = { count = 3 }
[states."q[i]"]
LAW = "FOLLOW"
domain = [-2, 2]
boundary = "reflect"
[states.z]
LAW = "-z/2 + q[0] + sum(i, q[i]*i)/3"
[states."p[i]"]
LAW = "-q[i] + k*(q[i+1] + q[i-2] - 2*q[i]) + u[i] + 0.1*sum(j, sin(q[j] - q[i])) + b*z*i + q[1] + where(i > 1, 1, 2) + 0.01*sum(i, sum(j, q[i]*q[j+1]))"
NOISE = "0.3 + 0.1*q[i]**2"
[actions."u[i]"]
bounds = [-1, 1]
[actions.b]
[cost]
COST = "sum(i, q[i]**2 + p[i]**2 + 0.1*u[i]**2)/3 + z**2 + b"
[solver]
kind = "neural"
"""  # noqa: E501


def family_case(scheme, periodic):
    follow = "q[i]*0.5 + 0.1*next(p[i]) + next(z)*0.3 + 0.2*next(p[i-1]) + 0.1*next(p[1])"
    words = {"PERIODIC": str(periodic).lower(), "FOLLOW": "p[i] + z" if scheme == "rk4" else follow}
    if scheme is None:
        words |= {"LAW": "next", "NOISE": "noise", "COST": "stage"}
    else:
        words |= {"LAW": "drift", "NOISE": "diffusion", "COST": "rate"}
    text = FAMILY
    for word, value in words.items():
        text = text.replace(word, value)
    return text + (f'[time]\nstep = 0.1\nscheme = "{scheme}"\n' if scheme else "")


class Given:
    """A random generator whose numbers are given."""

    def __init__(self, normals):
        self.normals = normals

    def standard_normal(self, shape):
        assert shape == self.normals.shape
        return self.normals


@pytest.mark.thorough
@pytest.mark.parametrize("backend", ["numpy", "jax"])
@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("scheme", [None, "euler", pytest.param("rk4", marks=pytest.mark.thorough)])
def test_families_kept_whole_step_like_families_written_out(scheme, periodic, backend):
    problem = problem_of(family_case(scheme, periodic))
    assert problem.state_names == ("q[0]", "q[1]", "q[2]", "z", "p[0]", "p[1]", "p[2]")
    assert problem.action_names == ("u[0]", "u[1]", "u[2]", "b")
    rng = np.random.default_rng(0)
    states, actions, normals = rng.normal(size=(5, 7)), rng.normal(size=(5, 4)), rng.normal(size=(5, 7))
    after = problem.sample_next(states, actions, Given(normals))
    cost = problem.action_tables(states, actions[:, None], 0).cost[:, 0]
    step = RandomStep(problem, backend)
    assert (step.state_dimension, step.action_dimension, step.noise_dimension) == (7, 4, 3)
    if backend == "jax":
        jax = pytest.importorskip("jax", reason="JAX comes with the extra `neural`")
        with jax.enable_x64(True):
            np.testing.assert_allclose(jax.jit(step.next_state)(states, actions, normals[:, 4:]), after, atol=1e-13)
            np.testing.assert_allclose(jax.jit(step.stage_cost)(states, actions), cost, rtol=1e-13)
    else:
        np.testing.assert_allclose(step.next_state(states, actions, normals[:, 4:]), after, atol=1e-13)
        np.testing.assert_allclose(step.stage_cost(states, actions), cost, rtol=1e-13)
        # any leading axes
        np.testing.assert_allclose(step.next_state(states[0], actions[0], normals[0, 4:]), after[0], atol=1e-13)
    single = [v.astype(np.float32) for v in (states, actions, normals[:, 4:])]
    assert step.next_state(*single).dtype == np.float32 and step.stage_cost(*single[:2]).dtype == np.float32


def test_a_family_is_the_same_as_its_members_by_hand():
    family = problem_of(
        """
        [indices]
        i = { count = 2, periodic = true }
        [states."q[i]"]
        next = "q[i] + 0.1*(q[i+1]**2 - u[i]*q[i]) + i/10"
        noise = "0.1 + i/5"
        domain = [-1, 1]
        [actions."u[i]"]
        bounds = [-1, 2]
        [cost]
        stage = "sum(i, q[i]**2*u[i-1]**2)"
        [grid]
        points = { "q[i]" = 5 }
        """
    )
    hand = problem_of(
        """
        [states.v]
        next = "v + 0.1*(w**2 - a*v)"
        noise = 0.1
        domain = [-1, 1]
        [states.w]
        next = "w + 0.1*(v**2 - b*w) + 0.1"
        noise = 0.3
        domain = [-1, 1]
        [actions.a]
        bounds = [-1, 2]
        [actions.b]
        bounds = [-1, 2]
        [cost]
        stage = "v**2*b**2 + w**2*a**2"
        [grid]
        points = { v = 5, w = 5 }
        """
    )
    states, actions = random_points(hand)
    for key in ("mean", "mean_gradient", "mean_hessian", "cost", "cost_gradient", "cost_hessian"):
        left, right = (getattr(p.action_tables(states, actions, 2), key) for p in (family, hand))
        np.testing.assert_allclose(left, right, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(family.cell_tables(states).noise, hand.cell_tables(states).noise, rtol=1e-15)
    np.testing.assert_array_equal(family.action_bounds, hand.action_bounds)


def test_realised_values_within_one_family():
    text = """
        [indices]
        i = { count = 3 }
        [states."q[i]"]
        next = "0.5*q[i] + 0.2*next(q[i-1])"
        noise = 0.1
        domain = [-1, 1]
        [actions.a]
        [cost]
        stage = "sum(i, q[i]**2) + a**2"
        [grid]
        points = { "q[i]" = 5 }
        """
    problem = problem_of(text)
    assert problem.order == (0, 1, 2)
    np.testing.assert_array_equal(problem.coupled, [[False] * 3, [True, False, False], [False, True, False]])
    with pytest.raises(ProblemError, match=r"next\(...\) goes round in a circle among the tables q\[i\]"):
        RandomStep(problem, "numpy").next_state(np.zeros((2, 3)), np.zeros((2, 1)), np.zeros((2, 3)))
    with pytest.raises(CaseError, match=r"next\(...\) goes round in a circle among q\[0\], q\[1\], q\[2\]"):
        problem_of(text.replace("count = 3", "count = 3, periodic = true"))


def test_gradients_go_through_the_step():
    jax = pytest.importorskip("jax", reason="JAX comes with the extra `neural`")
    problem = problem_of(PENDULUM)
    step = RandomStep(problem, "jax")
    states, actions = random_points(problem, particles=1)
    with jax.enable_x64(True):
        slope = jax.jacobian(lambda a: step.next_state(states, a, np.zeros((len(states), 1))).sum(axis=0))(actions[:, 0])
    wanted = problem.action_tables(states, actions, 1).mean_gradient[:, 0, :, 0]
    inside = np.abs(problem.action_tables(states, actions, 0).mean[:, 0, 1]) < 8
    np.testing.assert_allclose(slope[1, :, 0], wanted[:, 1], atol=1e-12)
    np.testing.assert_allclose(slope[0, inside, 0], 0.05 * wanted[inside, 1], atol=1e-12)


LINE = """
[states.s]
next = "{rate}*s + a"
noise = 0.3
domain = [-1, 1]
[actions.a]
bounds = [-1, 1]
[cost]
stage = "s**2 + {weight}*a**2"
[grid]
points.s = 21
"""


def test_the_same_expressions_are_compiled_once_and_others_are_not_taken_for_them():
    first, again, other = (
        Case.from_text(LINE.format(rate=rate, weight=weight)).problem for rate, weight in ((0.5, 1), (0.5, 1), (0.25, 2))
    )
    states, actions = np.array([[0.8]]), np.array([[[0.5]]])
    assert first._action_functions(2)[1] is again._action_functions(2)[1]
    for problem, mean, slope in ((first, 0.9, 1.0), (again, 0.9, 1.0), (other, 0.7, 2.0)):
        tables = problem.action_tables(states, actions, order=2)
        assert (tables.mean.item(), tables.cost_gradient.item()) == pytest.approx((mean, slope), rel=1e-15)
