"""Particle policies between cells: the mean is multilinear, the law a displacement interpolation."""

from __future__ import annotations

import numpy as np
import pytest

from wassgrid.errors import WassgridError
from wassgrid.grid import StateGrid
from wassgrid.policy import ParticlePolicy, PolicyError


def line_policy(actions, weights):
    grid = StateGrid(("x",), (np.array([0.0, 1.0]),), ("clamp",))
    return ParticlePolicy(grid, np.asarray(actions, float)[:, :, None], np.asarray(weights, float))


def test_a_linear_feedback_is_sampled_without_spread():
    policy = line_policy([[0.0], [2.0]], [[1.0], [1.0]])
    states = np.linspace(0, 1, 7)[:, None]
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(policy.sample(states, rng)[:, 0], 2 * states[:, 0], atol=1e-14)
    np.testing.assert_allclose(policy.mean(states)[:, 0], 2 * states[:, 0], atol=1e-14)


def test_modes_are_displaced_and_never_averaged():
    """Two modes of unequal weight that move by one: half way, they stand half way, with their weights."""
    policy = line_policy([[1.0, -1.0], [0.0, 2.0]], [[0.7, 0.3], [0.3, 0.7]])
    drawn = policy.sample(np.full((20_000, 1), 0.5), np.random.default_rng(1))[:, 0]
    values, counts = np.unique(drawn.round(12), return_counts=True)
    np.testing.assert_allclose(values, [-0.5, 1.5])
    assert counts[0] / counts.sum() == pytest.approx(0.3, abs=0.015)
    assert drawn.mean() == pytest.approx(float(policy.mean(np.array([0.5]))[0]), abs=0.03)


def test_nothing_is_drawn_between_modes_whose_shares_vary():
    """Half way the shares are half way too; the same quantile averaged would stand at 0, where neither cell ever is."""
    policy = line_policy([[1.0, -1.0], [-1.0, 1.0]], [[0.2, 0.8], [0.2, 0.8]])
    drawn = policy.sample(np.full((20_000, 1), 0.25), np.random.default_rng(1))[:, 0]
    values, counts = np.unique(drawn.round(12), return_counts=True)
    np.testing.assert_allclose(values, [-1.0, 1.0])
    assert counts[0] / counts.sum() == pytest.approx(0.75 * 0.8 + 0.25 * 0.2, abs=0.015)


def test_several_components_keep_the_mean():
    grid = StateGrid(("x",), (np.array([0.0, 1.0]),), ("clamp",))
    actions = np.random.default_rng(2).standard_normal((2, 3, 2))
    policy = ParticlePolicy(grid, actions, np.tile([0.2, 0.3, 0.5], (2, 1)))
    state = np.full((40_000, 1), 0.3)
    drawn = policy.sample(state, np.random.default_rng(3))
    np.testing.assert_allclose(drawn.mean(axis=0), policy.mean(state[:1])[0], atol=0.03)


@pytest.mark.parametrize("boundary", ["clamp", "reflect", "periodic"])
def test_states_beyond_the_ends_follow_the_boundary(boundary):
    axis = np.linspace(0, 1, 5, endpoint=boundary != "periodic")
    grid = StateGrid(("x",), (axis,), (boundary,))
    inside = {"clamp": 1.0, "reflect": 0.7, "periodic": 0.3}[boundary]
    policy = ParticlePolicy(grid, axis[:, None, None].copy(), np.ones((5, 1)))
    np.testing.assert_allclose(policy.mean(np.array([1.3])), policy.mean(np.array([inside])), atol=1e-12)


def test_impossible_policies_are_refused():
    with pytest.raises(PolicyError, match="sum to one"):
        line_policy([[0.0], [1.0]], [[0.5], [1.0]])
    with pytest.raises(PolicyError, match=r"not finite at cell 1 \(x = 1\)"):
        line_policy([[0.0], [np.nan]], [[1.0], [1.0]])


def test_two_actions_between_cells_are_shifted_and_not_mixed():
    """Deterministic cells stay deterministic in between, and clouds that differ by a shift keep their spread."""
    grid = StateGrid(("x",), (np.linspace(0.0, 1.0, 3),), ("clamp",))
    centre = np.column_stack([[0.0, 1.0, 3.0], [0.0, -1.0, 2.0]])
    rng = np.random.default_rng(0)
    states = rng.uniform(0.0, 1.0, (4000, 1))
    point = ParticlePolicy.around(grid, centre, np.zeros((2, 2)))
    np.testing.assert_allclose(point.sample(states, rng), point.mean(states), atol=1e-12)
    offsets = np.array([[0.3, 0.0], [-0.1, 0.2], [-0.2, -0.2]])
    cloud = ParticlePolicy.around(grid, centre, offsets)
    drawn = cloud.sample(np.full((20_000, 1), 0.25), rng)
    np.testing.assert_allclose(drawn.mean(axis=0), [0.5, -0.5], atol=0.01)
    np.testing.assert_allclose(drawn.std(axis=0), offsets.std(axis=0), atol=0.01)
    low, high = cloud.actions.min(axis=(0, 1)), cloud.actions.max(axis=(0, 1))
    everywhere = cloud.sample(states, rng)
    assert np.all((low <= everywhere) & (everywhere <= high))
    with pytest.raises(ValueError, match="shape"):
        cloud.mean(np.float64(0.5))


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["equal weights", "weights of every cell", "two actions", "one particle"])
def test_the_distribution_is_what_is_sampled(kind):
    """Held to 200,000 draws of `sample`, between cells, on them and beyond the ends."""
    rng = np.random.default_rng(4)
    grid = StateGrid(("x", "y"), (np.linspace(0, 1, 4), np.linspace(0, 0.75, 4)), ("clamp", "periodic"))
    particles, m = (1 if kind == "one particle" else 3), (2 if kind == "two actions" else 1)
    weights = rng.dirichlet(np.ones(3), 16) if kind == "weights of every cell" else np.full((16, particles), 1 / particles)
    policy = ParticlePolicy(grid, rng.standard_normal((16, particles, m)), weights)
    states = np.array([[0.5, 0.3], [1 / 3, 0.25], [1.4, -0.1], [0.1, 0.99]])
    law = policy.distribution(states)
    np.testing.assert_allclose(law.weights.sum(axis=-1), 1.0, atol=1e-14)
    if m == 1:
        np.testing.assert_allclose(law.mean(), policy.mean(states), atol=1e-14)
    drawn = policy.sample(np.repeat(states[None], 200_000, axis=0), rng)
    np.testing.assert_allclose(drawn.mean(axis=0), law.mean(), atol=0.01)
    np.testing.assert_allclose(drawn.std(axis=0), policy.std(states), atol=0.01)
    levels = np.array([0.0, 0.137, 0.419, 0.777, 1.0])
    found = np.quantile(drawn, levels, axis=0, method="inverted_cdf")
    np.testing.assert_allclose(found, policy.quantile(states, levels), atol=1e-12)
    for k in range(len(states)):
        atoms = {tuple(atom.round(9)) for atom, weight in zip(law.actions[k], law.weights[k], strict=True) if weight > 0}
        assert {tuple(action) for action in drawn[:2000, k].round(9)} <= atoms
    np.testing.assert_array_equal(policy.distribution(states[0]).std(), policy.std(states)[0])


def test_states_by_name():
    grid = StateGrid(("x", "y"), (np.linspace(0, 1, 3), np.linspace(0, 1, 3)), ("clamp", "clamp"))
    policy = ParticlePolicy.around(grid, grid.states @ [[1.0], [10.0]])
    np.testing.assert_allclose(policy.mean({"y": [0.1, 0.2], "x": 0.5})[:, 0], [1.5, 2.5])
    np.testing.assert_allclose(policy.mean({"x": 0.5, "y": 0.25}), [3.0])
    for states, message in [
        ({"x": 0.5}, "the state 'y' is missing, expected x, y"),
        ({"x": 0.5, "y": 0.1, "z": 1.0}, "unknown state 'z'"),
        ({"x": [0.5, 1.0], "y": [1.0, 2.0, 3.0]}, "expected numbers for x, y"),
        ({"x": "a", "y": 1.0}, "expected numbers for x, y"),
        ([1.0, 2.0, 3.0], "last axis x, y"),
    ]:
        with pytest.raises(WassgridError, match=message):
            policy.mean(states)
    with pytest.raises(WassgridError, match="levels from 0 to 1"):
        policy.quantile([0.0, 0.0], 1.5)
