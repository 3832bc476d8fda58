"""Laws of the state-wise Wasserstein distance and of geodesics between policies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wassgrid.grid import StateGrid
from wassgrid.metric import distance, free_gradient, geodesic, inner, norm
from wassgrid.policy import ParticlePolicy, PolicyError

CELLS = 3
GRID = StateGrid(("s",), (np.linspace(0.0, 1.0, CELLS),), ("clamp",))
LAW = np.array([0.5, 0.2, 0.3])


def policies(particles: tuple[int, int] = (1, 5), actions: int = 1, *, equal: bool = False) -> st.SearchStrategy[ParticlePolicy]:
    """Random policies on GRID; actions come with ties, weights are unequal unless asked for."""

    def build(count: int, seed: int, rounded: bool) -> ParticlePolicy:
        rng = np.random.default_rng(seed)
        cloud = rng.standard_normal((CELLS, count, actions))
        weights = np.full((CELLS, count), 1.0 / count) if equal else rng.dirichlet(np.ones(count), CELLS)
        return ParticlePolicy(GRID, np.round(cloud, 1) if rounded else cloud, weights)

    return st.builds(build, st.integers(*particles), st.integers(0, 10**6), st.booleans())


SEVERAL = pytest.mark.parametrize("actions", [1, 2])


@SEVERAL
@given(data=st.data())
def test_translation_by_t_has_length_t(actions: int, data: st.DataObject) -> None:
    policy = data.draw(policies(actions=actions))
    shift = np.array(data.draw(st.lists(st.floats(-5, 5), min_size=actions, max_size=actions)))
    moved = policy.moved(policy.actions + shift)
    assert distance(policy, moved, LAW) == pytest.approx(np.linalg.norm(shift), abs=1e-7)


@SEVERAL
@given(data=st.data())
def test_distance_is_a_metric(actions: int, data: st.DataObject) -> None:
    first, second, third = (data.draw(policies(actions=actions)) for _ in range(3))
    there = distance(first, second, LAW)
    assert there == pytest.approx(distance(second, first, LAW), abs=1e-12)
    assert distance(first, first, LAW) == pytest.approx(0.0, abs=1e-7)
    assert there <= distance(first, third, LAW) + distance(third, second, LAW) + 1e-12


@given(first=policies(), second=policies())
def test_sorted_coupling_is_optimal_among_all_couplings(first: ParticlePolicy, second: ParticlePolicy) -> None:
    """The transport problem, solved as a linear programme by POT, has the same value."""
    ot = pytest.importorskip("ot", reason="POT is the reference here")
    squared = geodesic(first, second).squared_distances()
    for k in range(CELLS):
        cost = (first.actions[k] - second.actions[k].T) ** 2
        assert squared[k] == pytest.approx(ot.emd2(first.weights[k], second.weights[k], cost), abs=1e-12)


@given(first=policies((4, 4), 2, equal=True), second=policies((4, 4), 2, equal=True))
def test_assignment_solves_the_transport_problem(first: ParticlePolicy, second: ParticlePolicy) -> None:
    ot = pytest.importorskip("ot", reason="POT is the reference here")
    squared = geodesic(first, second).squared_distances()
    for k in range(CELLS):
        cost = np.square(first.actions[k][:, None] - second.actions[k][None]).sum(-1)
        assert squared[k] == pytest.approx(ot.emd2(first.weights[k], second.weights[k], cost), abs=1e-12)


@SEVERAL
@given(data=st.data(), time=st.floats(0, 1))
def test_geodesic_has_constant_speed_and_both_marginals(actions: int, data: st.DataObject, time: float) -> None:
    first, second = data.draw(policies(actions=actions)), data.draw(policies(actions=actions))
    path = geodesic(first, second)
    length = path.length(LAW)
    assert length == pytest.approx(norm(LAW, path.weights, path.velocity), abs=1e-12)
    assert distance(first, path.at(0.0), LAW) == pytest.approx(0.0, abs=1e-7)
    assert distance(second, path.at(1.0), LAW) == pytest.approx(0.0, abs=1e-7)
    middle = path.at(time)
    assert distance(first, middle, LAW) == pytest.approx(time * length, abs=1e-7)
    assert distance(middle, second, LAW) == pytest.approx((1 - time) * length, abs=1e-7)


@given(policy=policies((2, 5), 2), seed=st.integers(0, 1000))
def test_order_of_particles_does_not_matter(policy: ParticlePolicy, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(policy.particles)
    shuffled = ParticlePolicy(GRID, np.ascontiguousarray(policy.actions[:, order]), policy.weights[:, order])
    assert distance(policy, shuffled, LAW) == pytest.approx(0.0, abs=1e-7)


def test_split_particles_are_the_same_policy() -> None:
    """Half a particle twice is a particle: the distance depends on the law of the actions alone."""
    one = ParticlePolicy(GRID, np.arange(6.0).reshape(3, 2, 1), np.tile([0.25, 0.75], (3, 1)))
    split = ParticlePolicy(GRID, np.repeat(one.actions, 2, axis=1), np.repeat(one.weights, 2, axis=1) / 2)
    other = ParticlePolicy(GRID, np.array([[[1.0], [2.0], [7.0]]] * 3), np.tile([0.2, 0.5, 0.3], (3, 1)))
    assert distance(one, split, LAW) == pytest.approx(0.0, abs=1e-7)
    assert distance(one, other, LAW) == pytest.approx(distance(split, other, LAW), abs=1e-12)


def test_two_weighted_points_by_hand() -> None:
    """W2^2 of 0.25 d_0 + 0.75 d_1 and 0.5 d_0 + 0.5 d_3: mass 0.25 goes 0-0, 0.25 1-0, 0.5 1-3."""
    one = ParticlePolicy(GRID, np.tile([[0.0], [1.0]], (3, 1, 1)), np.tile([0.25, 0.75], (3, 1)))
    two = ParticlePolicy(GRID, np.tile([[3.0], [0.0]], (3, 1, 1)), np.tile([0.5, 0.5], (3, 1)))
    assert geodesic(one, two).squared_distances() == pytest.approx([0.25 + 0.5 * 4.0] * 3)


def test_metric_weighs_cells_and_particles() -> None:
    v = np.array([[[1.0, 2.0]], [[3.0, 0.0]], [[0.0, 1.0]]])
    weights = np.ones((3, 1))
    assert inner(LAW, weights, v, v) == pytest.approx(0.5 * 5 + 0.2 * 9 + 0.3 * 1)
    assert norm(LAW, weights, v) ** 2 == pytest.approx(inner(LAW, weights, v, v))


def test_gradient_is_held_at_bounds_only_outward() -> None:
    limits = np.array([-1.0]), np.array([1.0])
    actions = np.array([[[-1.0], [-1.0], [0.0], [1.0], [1.0]]])
    gradient = np.array([[[2.0], [-2.0], [2.0], [2.0], [-2.0]]])
    assert free_gradient(gradient, actions, limits)[0, :, 0] == pytest.approx([0.0, -2.0, 2.0, 2.0, 0.0])


def test_policies_that_cannot_be_compared() -> None:
    finer = StateGrid(("s",), (np.linspace(0.0, 1.0, 4),), ("clamp",))
    policy = ParticlePolicy(GRID, np.zeros((3, 1, 1)), np.ones((3, 1)))
    with pytest.raises(PolicyError, match=r"different grids \(3 and 4\)"):
        geodesic(policy, ParticlePolicy(finer, np.zeros((4, 1, 1)), np.ones((4, 1))))
    with pytest.raises(PolicyError, match="1 and 2 actions"):
        geodesic(policy, ParticlePolicy(GRID, np.zeros((3, 1, 2)), np.ones((3, 1))))
