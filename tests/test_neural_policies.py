"""Push-forward policies: what their parts do exactly."""

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("jax", reason="the extra `neural` (JAX, Equinox, Optax) is not installed")

import jax
import jax.numpy as jnp
from neural_cases import drawn_parameters, push_forward

from wassgrid.neural.policies import ACTIVATIONS, SHARPNESS, sharpened, soft_clip, squash

INFINITE = math.inf


@pytest.mark.parametrize("latents", [0, 2])
@pytest.mark.parametrize("hidden", [(), (8,), (8, 4)])
def test_a_run_starts_from_the_base_policy_exactly(hidden, latents):
    def base(states):
        return jnp.stack([states[..., 0] ** 2, -states[..., 1]], -1)

    policy = push_forward(3, 2, hidden=hidden, latent_dimension=latents, base=base)
    theta = policy.initial_parameters(jax.random.key(3))
    states = jax.random.normal(jax.random.key(0), (5, 3))
    noise = jax.random.normal(jax.random.key(1), (5, latents))
    assert theta.shape == (policy.parameter_count,)
    np.testing.assert_array_equal(policy(theta, states, noise), base(states))


def test_the_linear_path_alone_is_a_linear_feedback():
    policy = push_forward(2, 2, hidden=())
    matrix, constant = np.array([[1.0, -2.0], [0.5, 3.0]]), np.array([0.25, -1.0])
    theta = jnp.asarray(np.concatenate([matrix.ravel(), constant]), jnp.float32)
    states = np.array([[1.0, 2.0], [-3.0, 0.5]], dtype=np.float32)
    np.testing.assert_allclose(policy(theta, states, jnp.zeros((2, 0))), states @ matrix + constant, rtol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_network_equals_its_literal_twin(activation):
    policy = push_forward(2, 1, hidden=(3, 4), activation=activation)
    theta = drawn_parameters(policy)
    pieces, start = [], 0
    for shape in policy.parameter_shapes():
        pieces.append(theta[start : start + math.prod(shape)].reshape(shape))
        start += math.prod(shape)
    assert start == theta.size
    linear, w1, b1, w2, b2, w3, b3 = pieces
    act = ACTIVATIONS[activation]
    state = jnp.array([0.3, -1.2])
    expected = state @ linear + act(act(state @ w1 + b1) @ w2 + b2) @ w3 + b3
    np.testing.assert_allclose(policy(theta, state, jnp.zeros(0)), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("low", "high"), [((-1.0,), (3.0,)), ((-1.0,), (INFINITE,)), ((-INFINITE,), (3.0,)), ((-INFINITE,), (INFINITE,))]
)
def test_squash_stays_in_its_box_and_rises(low, high):
    y = jnp.linspace(-6.0, 8.0, 301)[:, None]
    actions = squash(y, low, high)[:, 0]
    assert float(actions.min()) > low[0] and float(actions.max()) < high[0]
    assert np.all(np.diff(actions) > 0)


def test_squash_has_slope_one_in_the_middle_of_its_box():
    centre = jnp.array([1.0])
    np.testing.assert_allclose(jax.jacobian(lambda y: squash(y, (-1.0,), (3.0,)))(centre), [[1.0]], rtol=1e-6)
    np.testing.assert_array_equal(squash(centre, (-1.0,), (3.0,)), centre)


@pytest.mark.parametrize("sharpness", [*SHARPNESS, 3.3])
def test_the_soft_clip_is_smooth_and_near_the_clip_with_slopes_that_come_back(sharpness):
    with jax.enable_x64(True):
        z = jnp.concatenate([jnp.linspace(-6.0, 6.0, 1201), jnp.array([0.0, 1.0, -1.0, 1e9, -1e20])])
        found = soft_clip(z, jnp.asarray(sharpness))
        assert np.all(np.diff(found[:1201]) > 0) and float(jnp.abs(found).max()) <= 1.0
        # farthest from the clip at its corners, 1 - 2^(-1/p)
        distance = np.abs(np.clip(z, -1, 1) - found)
        assert distance.max() == pytest.approx(1 - 0.5 ** (1 / sharpness)) == pytest.approx(distance[1202])
        slope = jax.vmap(jax.grad(lambda x: soft_clip(x, jnp.asarray(sharpness))))(z)
        expected = (1 + np.abs(np.asarray(z)) ** sharpness) ** (-1 / sharpness - 1)
        np.testing.assert_allclose(slope, expected, rtol=1e-12)
    far = jnp.array([5.0, -3e3, 1e20], jnp.float32)
    single = jax.vmap(jax.value_and_grad(lambda x: soft_clip(x, jnp.float32(sharpness))))(far)
    np.testing.assert_allclose(single[0], [1.0, -1.0, 1.0], atol=2e-3)
    assert np.isfinite(single[1]).all() and float(single[1][0]) > 0.0


def test_a_policy_sharpens_in_equal_ratios_over_the_steps_of_its_run():
    tanh = push_forward(low=(-1.0,), high=(3.0,))
    blunt = replace(tanh, sharpness=jnp.float32(SHARPNESS[0]))
    found = [float(sharpened(blunt, step, 10).sharpness) for step in range(12)]
    assert found[0] == SHARPNESS[0] and found[10] == pytest.approx(SHARPNESS[1], rel=1e-6) == found[11]
    np.testing.assert_allclose(np.diff(np.log(found[:11])), np.log(SHARPNESS[1] / SHARPNESS[0]) / 10, rtol=1e-5)
    assert sharpened(tanh, 5, 10) is tanh
    y = jnp.linspace(-6.0, 8.0, 301)[:, None]
    actions = squash(y, (-1.0,), (3.0,), jnp.float32(8.0))[:, 0]
    np.testing.assert_allclose(actions, 1.0 + 2.0 * soft_clip((y[:, 0] - 1.0) / 2.0, 8.0), rtol=1e-6)


def test_a_periodic_state_enters_by_its_angle():
    policy = push_forward(2, 1, periodic=((0, -2.0, 5.0),), linear_path=False)
    theta = drawn_parameters(policy)
    states = jax.random.uniform(jax.random.key(4), (6, 2), minval=-2.0, maxval=3.0)
    turned = states + jnp.array([5.0, 0.0])
    np.testing.assert_allclose(policy(theta, states, jnp.zeros((6, 0))), policy(theta, turned, jnp.zeros((6, 0))), atol=2e-6)
    halfway = policy(theta, states + jnp.array([2.5, 0.0]), jnp.zeros((6, 0)))
    assert float(jnp.max(jnp.abs(halfway - policy(theta, states, jnp.zeros((6, 0)))))) > 1e-2


def test_inputs_are_offset_scaled_and_followed_by_the_latents():
    policy = push_forward(2, 1, latent_dimension=1)
    policy = type(policy)(**{**vars(policy), "offset": jnp.array([1.0, 0.0]), "scale": jnp.array([2.0, 0.5])})
    np.testing.assert_allclose(policy.inputs(jnp.array([3.0, 1.0]), jnp.array([0.7])), [1.0, 2.0, 0.7], rtol=1e-6)


def test_the_law_of_a_stochastic_policy_is_the_push_forward_of_the_normal_law():
    policy = push_forward(1, 1, hidden=(), latent_dimension=1)
    theta = jnp.array([-0.5, 2.0, 0.25])  # a = -0.5 s + 2 z + 0.25
    latents = jax.random.normal(jax.random.key(0), (20_000, 1))
    actions = np.asarray(policy(theta, jnp.full((20_000, 1), 3.0), latents))
    error = 2.0 / math.sqrt(20_000)
    assert abs(actions.mean() + 1.25) < 4 * error
    assert abs(actions.std() - 2.0) < 4 * error
