"""Simulated chains: the ergodic cost with its error bar, and gradients through the rollout."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax", reason="the extra `neural` (JAX, Equinox, Optax) is not installed")

import jax
import jax.numpy as jnp
from neural_cases import drawn_parameters, ring, scalar_lq, slope

from wassgrid.neural.computed_policy import precision
from wassgrid.neural.ergodic import difference, draw, first_bad, measure, simulate, summarise, window
from wassgrid.neural.solver import NeuralSolver
from wassgrid.problem.exact import ScalarLQ


def test_chains_follow_the_law_of_the_problem_step_by_step():
    solver = NeuralSolver.of(ring(3, precision="float64"))
    problem = solver.dynamics.problem
    with precision(solver.settings):
        theta = drawn_parameters(solver.blueprint, size=0.1)
        random = draw(solver.dynamics, 0, jax.random.key(1), 5, 4, float)
        end, costs, visited = simulate(solver.dynamics, solver.blueprint, theta, jnp.ones((4, 6)), random)
        states = np.ones((4, 6))
        for t in range(5):
            np.testing.assert_allclose(visited[t], states, rtol=1e-12)
            actions = np.asarray(solver.blueprint(theta, jnp.asarray(states), jnp.zeros((4, 0))))
            np.testing.assert_allclose(costs[t], np.mean(states[:, :3] ** 2 + states[:, 3:] ** 2 + 0.1 * actions**2, 1))
            # p' = p + h (-q + coupling - damping p + u) + sigma sqrt(h) xi, q' = q + h p'
            q, p = states[:, :3], states[:, 3:]
            coupling = np.roll(q, 1, 1) + np.roll(q, -1, 1) - 2 * q
            p = p + 0.1 * (-q + coupling - 0.1 * p + actions) + 0.3 * math.sqrt(0.1) * np.asarray(random.noise[t])
            states = np.concatenate([q + 0.1 * p, p], 1)
        np.testing.assert_allclose(end, states, rtol=1e-12)
    assert problem.state_dimension == 6


def test_action_gradients_are_the_derivatives_of_the_windows_cost():
    solver = NeuralSolver.of(ring(3, precision="float64"))
    with precision(solver.settings):
        theta = drawn_parameters(solver.blueprint, size=0.2)
        random = draw(solver.dynamics, 0, jax.random.key(2), 7, 2, float)
        run = window(solver.dynamics, solver.blueprint, theta, jnp.ones((2, 6)), random, 5)
        push = jax.random.normal(jax.random.key(3), run.action_gradients.shape)
        pushes = jnp.zeros((7, 2, 3)).at[:5].set(push)

        @jax.jit
        def total(size):
            return jnp.sum(simulate(solver.dynamics, solver.blueprint, theta, jnp.ones((2, 6)), random, size * pushes)[1])

        assert float(total(0.0)) == pytest.approx(float(jnp.sum(run.costs)), rel=1e-12)
        # Taylor: what is left after the linear term falls as the square of the size
        sizes = [1e-1, 1e-2, 1e-3]
        left = [abs(float(total(h) - total(0.0) - h * jnp.sum(run.action_gradients * push))) for h in sizes]
    assert slope(sizes, left) == pytest.approx(2.0, abs=0.1)


def test_a_change_of_parameters_acts_from_its_step_on():
    solver = NeuralSolver.of(scalar_lq(mean="0", noise=0.0, precision="float64"))
    with precision(solver.settings):
        random = draw(solver.dynamics, 0, jax.random.key(0), 4, 1, float)
        before, after = jnp.array([-0.5, 0.0]), jnp.array([0.5, 0.0])
        _, _, visited = simulate(
            solver.dynamics, solver.blueprint, before, jnp.ones((1, 1)), random, change=(2, after)
        )
    np.testing.assert_allclose(np.ravel(visited), [1.0, 0.5, 0.25, 0.375])


def test_ergodic_cost_of_a_linear_feedback_within_its_error_bar():
    solver = NeuralSolver.of(scalar_lq(mean="0"))
    gain, exact = 0.8, ScalarLQ()
    cost, _ = measure(
        solver.dynamics, solver.blueprint, jnp.array([-gain, 0.0]), jnp.zeros((64, 1)), jax.random.key(0), 50, 4000
    )
    assert abs(cost.mean - exact.policy_objective(gain)) < 4 * cost.standard_error
    assert cost.standard_error < 0.01 * cost.mean


def test_common_random_numbers_resolve_a_difference_far_below_the_error_of_either_cost():
    solver = NeuralSolver.of(scalar_lq(mean="0"))
    exact, gains = ScalarLQ(), (0.62, 0.7)
    policies = [(solver.blueprint, jnp.array([-gain, 0.0])) for gain in gains]
    start, key = jnp.zeros((64, 1)), jax.random.key(0)
    found = difference(solver.dynamics, *policies, start, key, 50, 4000)
    alone, _ = measure(solver.dynamics, *policies[0], start, key, 50, 4000)
    expected = exact.policy_objective(gains[0]) - exact.policy_objective(gains[1])
    assert abs(found.mean - expected) < 4 * found.standard_error
    assert found.standard_error < 0.2 * abs(expected) and found.standard_error < 0.3 * alone.standard_error


def test_standard_error_and_effective_sample_size_of_a_correlated_series():
    """x' = c x + w: the mean of n steps has variance (1 + c)/(1 - c) Var(x)/n (classical)."""
    c, length, batches, chains = 0.8, 400, 60, 40
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batches, chains)) / math.sqrt(1 - c**2)
    sums, squares = np.zeros_like(x), np.zeros_like(x)
    for _ in range(length):
        x = c * x + rng.standard_normal(x.shape)
        sums += x
        squares += x**2
    cost = summarise(sums / length, squares / length, length)
    samples = length * batches * chains
    assert cost.samples == samples
    factor = (1 + c) / (1 - c)
    assert cost.effective_sample_size == pytest.approx(samples / factor, rel=0.1)
    assert cost.standard_error == pytest.approx(math.sqrt(factor / (1 - c**2) / samples), rel=0.1)
    assert abs(cost.mean) < 4 * cost.standard_error


def test_restarting_chains_measure_the_discounted_cost():
    """V(s) = P s^2 + const solves the discounted Poisson equation; chains start uniformly in the domain."""
    discount, gain, noise, half = 0.9, 0.8, 0.1, 1.0
    case = scalar_lq(
        mean="0", noise=noise, domain=[-half, half], criterion={"kind": "discounted", "discount": discount}
    )
    solver = NeuralSolver.of(case)
    # P = (1 + gain^2) + g c^2 P;  J = (1 - g) E V(s_0) = (1 - g) P E s_0^2 + g P noise^2
    loop = 1 - gain
    value = (1 + gain**2) / (1 - discount * loop**2)
    expected = (1 - discount) * value * half**2 / 3 + discount * value * noise**2
    cost, _ = measure(
        solver.dynamics, solver.blueprint, jnp.array([-gain, 0.0]), jnp.zeros((64, 1)), jax.random.key(0), 50, 4000
    )
    assert abs(cost.mean - expected) < 4 * cost.standard_error
    assert cost.standard_error < 0.01 * cost.mean


def test_gradients_through_restarts_are_discounted():
    """E of dc/da through restarting chains is grad_a Q of the discounted problem: later costs count g^t."""
    discount, gain = 0.7, 0.5
    criterion = {"kind": "discounted", "discount": discount}
    solver = NeuralSolver.of(scalar_lq(mean="0", noise=0.0, domain=[-9.0, 9.0], criterion=criterion, precision="float64"))
    chains = 4000
    with precision(solver.settings):
        random = draw(solver.dynamics, 0, jax.random.key(0), 40, chains, float)
        start = jnp.ones((chains, 1))
        run = window(solver.dynamics, solver.blueprint, jnp.array([-gain, 0.0]), start, random, 1)
        samples = np.asarray(run.action_gradients).ravel()
    loop = 1 - gain
    value = (1 + gain**2) / (1 - discount * loop**2)
    expected = 2 * (-gain) + 2 * discount * value * loop
    assert abs(samples.mean() - expected) < 4 * samples.std() / math.sqrt(chains)
    assert samples.std() > 0.01


def test_memory_of_the_reverse_mode_is_that_of_its_arrays_whatever_the_network():
    """Doubling the horizon adds T K (2 d + m + noise) numbers, far less than the activations of a wide network."""
    width, chains = 256, 32
    solver = NeuralSolver.of(ring(3, hidden=[width], chains=chains))
    sizes = []
    for horizon in (64, 128):
        random = draw(solver.dynamics, 0, jax.random.key(0), horizon, chains, np.float32)

        def gradients(theta, states, random, horizon=horizon):
            return window(solver.dynamics, solver.blueprint, theta, states, random, horizon)

        theta = drawn_parameters(solver.blueprint)
        compiled = jax.jit(gradients).lower(theta, jnp.zeros((chains, 6)), random).compile()
        memory = compiled.memory_analysis()
        sizes.append(memory.temp_size_in_bytes + memory.output_size_in_bytes)
    bound = 64 * chains * (2 * 6 + 3 + 3 + 1) * 4
    activations = 64 * chains * width * 4
    assert sizes[1] - sizes[0] < 2 * bound < activations


def test_first_bad_names_the_step_and_counts_the_chains():
    costs, states = jnp.ones((6, 3)), jnp.ones((6, 3, 2))
    assert [int(x) for x in first_bad(costs, states)] == [-1, 0]
    assert [int(x) for x in first_bad(costs.at[5, 1].set(jnp.inf), states)] == [5, 1]
    assert [int(x) for x in first_bad(costs.at[5, 1].set(jnp.inf), states.at[2, 0, 1].set(jnp.nan))] == [2, 2]


@pytest.mark.parametrize("rate", [0.9, 0.99])
def test_error_bars_hold_the_exact_cost_however_slowly_the_loop_forgets(rate):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
    from neural_error_bars import measurements

    exact, found = measurements(rate, 24)
    held = sum(abs(f.mean - exact) <= 2 * f.standard_error for f in found)
    assert held >= 20  # of 24 at 95 %: fewer once in 200
    spread = np.std([f.mean for f in found], ddof=1)
    assert 0.6 < spread / np.mean([f.standard_error for f in found]) < 1.6
    # of the square of an autoregression: (1 + r^2)/(1 - r^2)/2
    assert np.mean([f.correlation_time for f in found]) == pytest.approx((1 + rate**2) / (1 - rate**2) / 2, rel=0.15)
    assert all(f.burn_in >= 10 * f.correlation_time for f in found)
