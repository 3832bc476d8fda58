"""The natural gradient: its three solvers, and the exact answer on the scalar linear-quadratic problem."""

import itertools

import numpy as np
import pytest

pytest.importorskip("jax", reason="the extra `neural` (JAX, Equinox, Optax) is not installed")

import jax
import jax.numpy as jnp
from neural_cases import drawn_parameters, push_forward, scalar_lq, slope

from wassgrid.neural.computed_policy import precision
from wassgrid.neural.ergodic import draw, simulate, window
from wassgrid.neural.metric import conjugate_gradients, kernel_form, metric_product, nystrom, parameter_gradient, tangent
from wassgrid.neural.solver import NeuralSolver
from wassgrid.problem.exact import ScalarLQ

pytestmark = pytest.mark.thorough


def problem(samples=40, seed=0):
    """A tangent space with its dense Jacobian, and gradients to project."""
    policy = push_forward(3, 2, hidden=(6,))
    keys = jax.random.split(jax.random.key(seed), 2)
    states = jax.random.normal(keys[0], (samples, 3))
    gradients = jax.random.normal(keys[1], (samples, 2))

    def act(theta):
        return policy(theta, states, jnp.zeros((samples, 0)))

    theta = drawn_parameters(policy)
    jacobian = np.asarray(jax.jacobian(act)(theta)).reshape(samples * 2, -1)
    return tangent(act, theta), gradients, jacobian


@pytest.mark.parametrize("samples", [10, 40])  # fewer and more equations than parameters
def test_the_three_metric_solvers_find_the_dense_solution(double, samples):
    at, gradients, jacobian = problem(samples)
    metric, right = jacobian.T @ jacobian / samples, jacobian.T @ np.ravel(gradients) / samples
    gradient = parameter_gradient(at, gradients)
    np.testing.assert_allclose(gradient, right, rtol=1e-10, atol=1e-14)
    solvers = {
        "cg": jax.jit(lambda damping: conjugate_gradients(at, gradient, damping, 500, 1e-12)),
        "kernel": jax.jit(lambda damping: kernel_form(at, gradients, damping)),
        "nystrom": jax.jit(lambda damping: nystrom(at, gradient, damping, at.parameters, jax.random.key(0))),
    }
    for damping in (1e-3, 1e-1):
        expected = np.linalg.solve(metric + damping * np.eye(len(metric)), right)
        for name, solver in solvers.items():
            direction = solver(damping)
            np.testing.assert_allclose(direction.value, expected, rtol=1e-6, atol=1e-8, err_msg=name)
            assert direction.residual < 1e-8, name


def test_metric_product_is_that_of_the_dense_jacobian(double):
    at, _, jacobian = problem()
    w = jax.random.normal(jax.random.key(5), (at.parameters,))
    np.testing.assert_allclose(metric_product(at, w), jacobian.T @ (jacobian @ np.asarray(w)) / at.samples, rtol=1e-12)


def test_truncated_conjugate_gradients_report_their_true_residual_and_still_descend(double):
    at, gradients, jacobian = problem()
    right = jacobian.T @ np.ravel(gradients) / at.samples
    gradient = parameter_gradient(at, gradients)
    exact = conjugate_gradients(at, gradient, 1e-4, 500, 1e-12)
    energies = []
    for iterations in (1, 2, 4, 8):
        found = conjugate_gradients(at, gradient, 1e-4, iterations, 1e-12)
        residual = metric_product(at, found.value) + 1e-4 * found.value - right
        assert int(found.iterations) == iterations
        np.testing.assert_allclose(found.residual, np.linalg.norm(residual) / np.linalg.norm(right), rtol=1e-6)
        assert float(found.value @ right) > 0
        error = found.value - exact.value
        energies.append(float(error @ (metric_product(at, error) + 1e-4 * error)))
    assert all(later < earlier for earlier, later in itertools.pairwise(energies))


def test_nystrom_is_exact_from_the_rank_of_the_metric_and_worse_below_it(double):
    at, gradients, jacobian = problem(samples=10)  # rank 20 at most
    rank = np.linalg.matrix_rank(jacobian)
    assert rank < at.parameters
    ranks = (rank // 4, rank // 2, rank)
    gradient = parameter_gradient(at, gradients)
    residuals = [float(jax.jit(lambda key, k=k: nystrom(at, gradient, 1e-2, k, key).residual)(jax.random.key(1))) for k in ranks]
    assert residuals[2] < 1e-8 < residuals[1] < residuals[0]


def test_a_low_rank_shortens_a_step_and_does_not_overshoot(double):
    at, gradients, _ = problem(samples=200)  # a metric of full rank
    right = parameter_gradient(at, gradients)
    damping = 1e-4

    def model(w):
        """Return the damped quadratic model, zero at w = 0 and smallest at the natural gradient."""
        return float(0.5 * w @ (metric_product(at, w) + damping * w) - right @ w)

    best = model(conjugate_gradients(at, right, damping, 4 * at.parameters, 1e-12).value)
    found = [model(nystrom(at, right, damping, rank, jax.random.key(2)).value) for rank in (2, 8, 20, at.parameters)]
    assert found[3] == pytest.approx(best, rel=1e-9)
    assert all(best <= value < 0.05 * best for value in found[:3])


def test_a_zero_gradient_gives_a_zero_direction():
    at, gradients, _ = problem()
    found = conjugate_gradients(at, parameter_gradient(at, 0 * gradients), 1e-3, 10, 1e-6)
    assert float(jnp.max(jnp.abs(found.value))) == 0 and int(found.iterations) == 0 and float(found.residual) == 0


@pytest.mark.parametrize("gain", [0.3, 0.9])
def test_natural_gradient_of_a_linear_policy_is_the_exact_one_with_error_falling_as_the_root_of_samples(gain):
    exact = ScalarLQ()
    expected = exact.gain_derivative(gain) / exact.stationary_variance(gain)  # J'(K)/Sigma
    solver = NeuralSolver.of(scalar_lq(mean="0", precision="float64"))  # no base policy: theta is the whole gain
    policy, dynamics = solver.blueprint, solver.dynamics
    repeats, sizes, horizon, tail = 24, [4, 32, 256], 16, 48
    chains = repeats * sizes[-1]

    @jax.jit
    def samples(key):
        for_burn, for_window = jax.random.split(key)
        burn = draw(dynamics, 0, for_burn, 64, chains, float)
        states, _, _ = simulate(dynamics, policy, theta, jnp.zeros((chains, 1)), burn)
        random = draw(dynamics, 0, for_window, horizon + tail, chains, float)
        run = window(dynamics, policy, theta, states, random, horizon)
        return run.states[:horizon], run.action_gradients

    @jax.jit
    def natural(states, gradients):
        at = tangent(lambda t: policy(t, states.reshape(-1, 1), jnp.zeros((states.size, 0))), theta)
        return conjugate_gradients(at, parameter_gradient(at, gradients.reshape(-1, 1)), 1e-12, 4, 1e-12).value[0]

    errors = []
    with precision(solver.settings):
        theta = jnp.array([-gain, 0.0])
        states, gradients = samples(jax.random.key(0))
        for size in sizes:
            parts = [slice(size * k, size * (k + 1)) for k in range(repeats)]
            # the direction is along theta = -gain
            found = np.array([-float(natural(states[:, part], gradients[:, part])) for part in parts])
            errors.append(float(np.sqrt(np.mean((found - expected) ** 2))))
            assert abs(found.mean() - expected) < 4 * found.std() / np.sqrt(repeats)
    assert slope(sizes, errors) == pytest.approx(-0.5, abs=0.12), errors
    assert errors[-1] < 0.06 * abs(expected)


def test_the_truncation_bias_falls_with_the_tail_as_the_closed_loop_forgets():
    """One action's gradient keeps 1 - c^(2 tail + 2) of its drift: what is cut off falls by c^2 per step of the tail."""
    gain, exact = 0.4, ScalarLQ()
    forgetting = exact.closed_loop(gain) ** 2
    solver = NeuralSolver.of(scalar_lq(mean="0", precision="float64", noise=0.0))
    points = np.linspace(-2.0, 2.0, 5)[:, None]
    expected = exact.action_gradient(points, -gain * points, gain)
    biases = []
    with precision(solver.settings):
        theta = jnp.array([-gain, 0.0])
        for tail in (0, 2, 4, 6, 8):
            random = draw(solver.dynamics, 0, jax.random.key(0), 1 + tail, 5, float)
            run = window(solver.dynamics, solver.blueprint, theta, jnp.asarray(points), random, 1)
            biases.append(float(np.max(np.abs(run.action_gradients[0] - expected))))
    np.testing.assert_allclose(np.array(biases[1:]) / biases[:-1], forgetting**2, rtol=1e-6)
