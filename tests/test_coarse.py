"""The coarse correction of Krylov solves: its interpolation, its chain, and that it is the inverse where nothing is left out."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from wassgrid import Case
from wassgrid.chain import krylov
from wassgrid.chain.coarse import CoarseCorrection
from wassgrid.chain.reductions import largest
from wassgrid.chain.stationary import stationary_law
from wassgrid.evaluation import Evaluator
from wassgrid.grid.levels import coarser_grid, prolonged
from wassgrid.grid.skeleton import Skeleton
from wassgrid.policy import ParticlePolicy
from wassgrid.runs.grid_solver import GridSolver
from wassgrid.transition.sparse import TransitionOperator, averaged

axes = st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=4)


def skeleton(shape, periodic, rng):
    """Any nodes of every axis; both ends of an axis that is not periodic."""
    nodes = []
    for n, winds in zip(shape, periodic, strict=True):
        chosen = set(rng.choice(n, rng.integers(1, n + 1), replace=False).tolist())
        nodes.append(np.array(sorted(chosen if winds else chosen | {0, n - 1})))
    return Skeleton(tuple(shape), tuple(nodes), tuple(periodic))


@settings(deadline=None, max_examples=60)
@given(axes, st.integers(0, 10_000))
def test_hats(sizes, seed):
    """They are nonnegative, one together, one at their own node; restriction is the adjoint; averages are matrix products."""
    rng = np.random.default_rng(seed)
    shape, periodic = zip(*sizes, strict=True)
    some = skeleton(shape, periodic, rng)
    cells = int(np.prod(shape))
    whole = np.array([some.prolonged(unit) for unit in np.eye(some.size)]).T
    assert (whole >= 0).all()
    np.testing.assert_allclose(whole.sum(axis=1), 1.0, rtol=1e-14)
    np.testing.assert_array_equal(whole[some.cells], np.eye(some.size))
    measure = rng.normal(size=cells)
    np.testing.assert_allclose(some.restricted(measure), measure @ whole, atol=1e-13)
    laws = sparse.csr_array(rng.random((5, cells)) * (rng.random((5, cells)) < 0.6))
    np.testing.assert_allclose(averaged(laws, some), laws @ whole, atol=1e-13)


@pytest.mark.thorough
@settings(deadline=None, max_examples=60)
@given(axes, st.integers(0, 10_000), st.sampled_from([1.0, 0.9]), st.booleans())
def test_laws_of_the_correction(sizes, seed, discount, light):
    """One operator from both sides; constants and masses pass it right; with every cell a node it is the fundamental matrix.

    Whether rows are kept or whole products are taken.
    """
    with mock.patch("wassgrid.chain.coarse.rows_are_light", lambda entries, work: light):
        _check_laws(sizes, seed, discount)


def _check_laws(sizes, seed, discount):
    rng = np.random.default_rng(seed)
    shape, periodic = zip(*sizes, strict=True)
    n = int(np.prod(shape))
    matrix = rng.random((n, n)) + 0.05
    matrix /= matrix.sum(axis=1, keepdims=True)
    law = rng.random(n) + 0.01
    law /= law.sum()
    f, nu = rng.normal(size=n), rng.normal(size=n)
    operator = TransitionOperator.from_matrix(matrix)
    some = CoarseCorrection(operator, skeleton(shape, periodic, rng), law, discount)
    assert some.left(nu) @ f == pytest.approx(nu @ some.right(f), rel=1e-9, abs=1e-9)
    if discount == 1.0:
        np.testing.assert_allclose(some.right(np.ones(n)), 1.0, atol=1e-12)
        assert some.left(nu).sum() == pytest.approx(nu.sum(), abs=1e-10)
    every = Skeleton(shape, tuple(np.arange(k) for k in shape), periodic)
    exact = CoarseCorrection(operator, every, law, discount)
    dense = np.eye(n) - discount * matrix + (np.outer(np.ones(n), law) if discount == 1.0 else 0.0)
    if discount == 1.0:
        # of functions whose mean under the law is zero, and back to such: what is left is a multiple of one
        f, nu = f - law @ f, nu - nu.sum() * law
    solved = np.linalg.solve(dense, f)
    found = exact.right(f)
    if discount == 1.0:
        solved, found = solved - law @ solved, found - law @ found
    np.testing.assert_allclose(found, solved, atol=1e-8 * max(1.0, largest(solved)))


SLOW = """
[states.x]
next = "x + 0.02*y"
noise = "0.01"
domain = [-1, 1]
boundary = "periodic"
[states.y]
next = "0.995*y + 0.03*a - 0.02*sin(3*x)"
noise = "0.06"
domain = [-1, 1]
[actions.a]
bounds = [-1, 1]
[cost]
stage = "y**2 + cos(x) + 0.1*a**2"
{criterion}
[grid]
points = {{ x = 41, y = 39 }}
kernel = "{kernel}"
[policy]
particles = {particles}
"""


@pytest.mark.thorough
@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("criterion", ["", '[criterion]\nkind = "discounted"\ndiscount = 0.999'])
def test_slow_chains_take_half_the_products(particles, criterion):
    """The same laws and values as by dense algebra, with at most half the products of the plain method."""
    case = Case.from_text(SLOW.format(criterion=criterion, kernel="auto", particles=particles))
    evaluator = Evaluator.from_case(case)
    grid = evaluator.model.grid
    rng = np.random.default_rng(3)
    actions = rng.uniform(-0.2, 0.2, (grid.size, particles, 1)) + 0.3 * np.sin(grid.states[:, :1, None])
    policy = ParticlePolicy(grid, actions, np.full((grid.size, particles), 1.0 / particles))
    evaluation = evaluator.evaluate(policy)
    operator, g = evaluation.chain.operator, evaluation.discount
    matrix = operator.matrix().toarray()
    law = evaluation.law if g == 1.0 else np.zeros(grid.size)
    dense = np.eye(grid.size) - g * matrix + law
    stage = (policy.weights * evaluation.cost).sum(axis=1)
    np.testing.assert_allclose(evaluation.value + evaluation.offset, np.linalg.solve(dense, stage), rtol=1e-9, atol=1e-9)

    correction = evaluator._correction(operator, evaluation.law)
    assert correction is not None

    def products(correct):
        residual = stage - stage.mean()
        found = krylov.solve(
            lambda x: x - g * operator.apply(x) + law @ x, np.zeros(grid.size), residual, largest, 1e-9 * largest(residual), 900,
            correct,
        )  # fmt: skip
        assert found.converged
        return found.products

    assert products(correction.right) <= 0.5 * products(None)
    if g == 1.0:
        start = np.full(grid.size, 1.0 / grid.size)
        corrected = stationary_law(operator, start, method="krylov", correction=evaluator._correction(operator, start))
        plain = stationary_law(operator, start, method="krylov")
        assert corrected.converged
        assert corrected.iterations <= 0.5 * plain.iterations
        np.testing.assert_allclose(corrected.law @ matrix, corrected.law, atol=1e-14)


@pytest.mark.parametrize("kernel", ["auto", "linear"])
def test_chosen_rows_are_those_of_the_matrix(kernel):
    case = Case.from_text(SLOW.format(criterion="", kernel=kernel, particles=2))
    evaluator = Evaluator.from_case(case)
    grid = evaluator.model.grid
    actions = np.random.default_rng(1).uniform(-1, 1, (grid.size, 2, 1))
    mean, _ = evaluator.model.means(actions)
    weights = np.full((grid.size, 2), 0.5)
    cells = np.array([0, 7, 500, grid.size - 1])
    for operator in (evaluator.model.operator(mean, weights), evaluator.model.assembled(mean, weights)):
        np.testing.assert_allclose(operator.rows(cells).toarray(), operator.matrix()[cells].toarray(), rtol=1e-12, atol=0)


def test_a_chain_that_parts_on_the_nodes():
    """Nodes that other cells alone join: no inverse on the nodes, and the solve goes on without."""
    n = 41
    stay = np.eye(n)
    # the nodes 0 and 40 stay where they are but for a step of the cells between
    matrix = 0.5 * stay + 0.25 * np.roll(stay, 1, axis=0) + 0.25 * np.roll(stay, -1, axis=0)
    matrix[[0, 20]] = stay[[0, 20]]
    operator = TransitionOperator.from_matrix(matrix)
    law = np.full(n, 1.0 / n)
    correction = CoarseCorrection(operator, Skeleton((n,), (np.array([0, 20, 40]),), (False,)), law, 1.0)
    f = np.cos(np.arange(n))
    np.testing.assert_array_equal(correction.right(f), f)
    np.testing.assert_allclose(correction.left(f), f, atol=1e-15)
    assert correction.slow_function() is None


@pytest.mark.parametrize("name", ["inverted_pendulum", "oscillators_4d"])
def test_a_start_from_a_coarser_grid_stands_on_one_side_of_every_switch(name: str) -> None:
    """No interpolated action rises in Q; where the coarse cells around agree all stay, and elsewhere some do not."""
    sizes = {"inverted_pendulum": ["grid.points.omega=33"], "oscillators_4d": ["grid.points.q1=15", "grid.points.q2=15"]}[name]
    case = Case.load(Path(__file__).parent.parent / "cases" / f"{name}.toml", [*sizes, "policy.particles=2"])
    solver = GridSolver.from_case(case)
    coarse = coarser_grid(solver.points, case.problem)
    assert coarse is not None
    grid, fine, rng = coarse[1], solver.grid, np.random.default_rng(0)
    low, high = case.problem.action_bounds.T
    best = np.where((grid.states[:, :1] > 0.0) ^ (np.arange(low.size) % 2 == 1), low, high)
    value = (fine.states**2).sum(axis=1)
    before = prolonged(np.repeat(best[:, None], 2, axis=1) + 0.1 * rng.standard_normal((grid.size, 2, low.size)), grid, fine)
    before = np.clip(before, low, high)
    after = solver._sharpened(before.copy(), value, best, grid)

    ends = [prolonged(best, grid, fine, side) for side in (np.minimum, np.maximum)]
    assert np.array_equal(ends[0], best[grid.corners(fine.states)[0]].min(axis=1))
    switch = (ends[0] < ends[1]).any(axis=1)
    assert (after == before)[~switch].all()
    assert (after != before)[switch].any()
    costs = []
    for actions in (before, after):
        mean, cost = solver.model.means(actions)
        costs.append(cost + solver.model.expected(np.arange(fine.size), mean, value))
    assert (costs[1] <= costs[0]).all()
    moved = (after != before).any(axis=2)
    assert (costs[1] < costs[0])[moved].all()
