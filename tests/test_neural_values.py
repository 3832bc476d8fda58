"""The learnt value function: its samples, its fit, and what it does for short windows."""

import numpy as np
import pytest

pytest.importorskip("jax", reason="the extra `neural` (JAX, Equinox, Optax) is not installed")

import jax
import jax.numpy as jnp
from neural_cases import drawn_parameters, push_forward, scalar_lq, slope

from wassgrid.case.neural_tables import NeuralSettings
from wassgrid.neural.computed_policy import precision
from wassgrid.neural.ergodic import Ending, draw, simulate, window
from wassgrid.neural.solver import NeuralSolver
from wassgrid.neural.values import ValueFunction
from wassgrid.problem.exact import ScalarLQ

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("hidden", [(), (5,), (4, 3)])
def test_a_value_function_equals_its_literal_twin(hidden, double):
    policy = push_forward(periodic=((1, -1.0, 2.0),), activation="silu", latent_dimension=2)
    value = ValueFunction(policy, jnp.asarray(3.0), hidden)
    assert not np.any(value(value.initial_parameters(jax.random.key(0)), jnp.ones((4, 2))))
    phi = np.random.default_rng(0).normal(0.0, 0.5, value.parameter_count)
    for state in np.random.default_rng(1).normal(size=(5, 2)):
        angle = np.pi * (state[1] + 1.0)
        x = np.array([state[0], np.sin(angle), np.cos(angle)])
        expected, rest = phi[:3] @ x + x @ phi[3:12].reshape(3, 3) @ x, phi[12:]
        layer = x
        for width in hidden:
            y = layer @ rest[: layer.size * width].reshape(-1, width) + rest[layer.size * width :][:width]
            rest, layer = rest[(layer.size + 1) * width :], y / (1.0 + np.exp(-y))
        expected += rest @ layer if hidden else 0.0
        assert float(value(jnp.asarray(phi), jnp.asarray(state))) == pytest.approx(3.0 * expected, rel=1e-12)


@pytest.mark.parametrize("trace", [0.0, 0.6, 1.0])
def test_slopes_are_those_of_the_recursion(trace):
    """x' = a x + b u + w, u = -k x, V = v x^2: (dL/dx)_t = 2 q x_t + c [(1 - l) 2 v x_t+1 + l (dL/dx)_t+1], c = a - b k."""
    a, b, gain, v, steps = 0.9, 0.7, 0.4, 1.7, 6
    solver = NeuralSolver.of(scalar_lq(a=a, b=b, mean="0", precision="float64"))
    with precision(solver.settings):
        random = draw(solver.dynamics, 0, jax.random.key(4), steps, 3, float)
        ending = Ending(lambda s: v * s[..., 0] ** 2, trace)
        theta, start = jnp.array([-gain, 0.0]), jnp.array([[1.0], [-2.0], [0.3]])
        run = window(solver.dynamics, solver.blueprint, theta, start, random, steps, ending)
        plain = window(solver.dynamics, solver.blueprint, theta, start, random, steps)
    np.testing.assert_array_equal(run.costs, plain.costs)
    np.testing.assert_array_equal(run.end, plain.end)
    x, last = np.asarray(run.states)[..., 0], np.asarray(run.end)[:, 0]
    after, following = 2.0 * v * last, last
    for t in reversed(range(steps)):
        mixed = 2.0 * v * following if t == steps - 1 else (1.0 - trace) * 2.0 * v * following + trace * after
        np.testing.assert_allclose(run.action_gradients[t, :, 0], 2.0 * -gain * x[t] + b * mixed, rtol=1e-12)
        after = (2.0 + 2.0 * gain**2) * x[t] + (a - b * gain) * mixed
        np.testing.assert_allclose(run.state_gradients[t, :, 0], after, rtol=1e-12)
        following = x[t]


def test_with_trace_one_slopes_are_derivatives_of_costs_and_value_at_the_end():
    solver = NeuralSolver.of(scalar_lq(a=0.8, mean="0", hidden=[3], precision="float64"))
    with precision(solver.settings):
        value = ValueFunction(solver.blueprint, jnp.asarray(1.0), (4,))
        phi = 0.3 * jax.random.normal(jax.random.key(1), (value.parameter_count,))
        theta = drawn_parameters(solver.blueprint, size=0.4)
        random, start = draw(solver.dynamics, 0, jax.random.key(2), 5, 2, float), jnp.ones((2, 1))
        run = window(solver.dynamics, solver.blueprint, theta, start, random, 5, Ending(lambda s: value(phi, s), 1.0))
        shift = jax.random.normal(jax.random.key(3), run.state_gradients.shape)

        @jax.jit
        def total(size):
            end, costs, _ = simulate(solver.dynamics, solver.blueprint, theta, start, random, shifts=size * shift)
            return jnp.sum(costs) + jnp.sum(value(phi, end))

        sizes = [1e-1, 1e-2, 1e-3]
        left = [abs(float(total(h) - total(0.0) - h * jnp.sum(run.state_gradients * shift))) for h in sizes]
    assert slope(sizes, left) == pytest.approx(2.0, abs=0.1)


def test_the_fit_finds_the_exact_quadratic_value_and_windows_of_two_steps_then_reach_the_optimum():
    """V of u = -k x is v x^2 with v = (q + r k^2)/(1 - c^2), up to the noise that the fits leave."""
    exact, gain = ScalarLQ(), 0.4
    options = {"value": "quadratic", "chains": 256, "horizon": 2, "evaluation": {"chains": 8, "steps": 16}}
    solver = NeuralSolver.of(scalar_lq(mean=f"-{gain}*x", steps=40, **options))
    state = solver.start()
    assert state.step == 0
    b, square = np.asarray(state.training.value_parameters) * float(state.training.value_unit)
    v = (1.0 + gain**2) / (1.0 - exact.closed_loop(gain) ** 2)
    assert square / float(state.policy.scale[0]) ** 2 == pytest.approx(v, rel=0.1)
    assert abs(b) < 0.2 * square
    while state.step < 40:
        state = solver.advance(state)
    # the linear path, added to the initial feedback
    found = gain - float(state.training.averaged[0]) / float(state.policy.scale[0])
    assert exact.policy_objective(gain) > 1.04 * exact.objective
    assert exact.policy_objective(found) < 1.002 * exact.objective


def test_with_a_value_one_step_has_no_bias_where_chains_start_again():
    """E of dc/da through a restarting chain is grad_a Q of the discounted problem: what comes after a restart counts nothing."""
    discount, gain, chains = 0.7, 0.5, 4000
    criterion = {"kind": "discounted", "discount": discount}
    solver = NeuralSolver.of(scalar_lq(mean="0", noise=0.0, domain=[-9.0, 9.0], criterion=criterion, precision="float64"))
    loop = 1 - gain
    v = (1 + gain**2) / (1 - discount * loop**2)
    with precision(solver.settings):
        random = draw(solver.dynamics, 0, jax.random.key(0), 3, chains, float)
        ending = Ending(lambda s: v * s[..., 0] ** 2, 0.5)
        theta, start = jnp.array([-gain, 0.0]), jnp.ones((chains, 1))
        run = window(solver.dynamics, solver.blueprint, theta, start, random, 1, ending)
        samples = np.asarray(run.action_gradients).ravel()
    assert abs(samples.mean() - (2 * -gain + 2 * discount * v * loop)) < 4 * samples.std() / np.sqrt(chains)
    assert samples.std() > 0.01


def test_a_value_function_stands_for_the_tail():
    assert scalar_lq(hidden=[4], value="network").neural.horizon == 16
    assert NeuralSettings.model_validate({"value": "quadratic"}).tail == 0
    assert NeuralSettings.model_validate({"value": "quadratic", "tail": 3}).tail == 3
    assert NeuralSettings.model_validate({}).tail == 32
