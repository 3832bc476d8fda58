"""The stationary law against subtraction-free elimination, and chains that have none or too many."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from threadpoolctl import threadpool_limits

from wassgrid.chain.classes import period, reached_together, recurrent_classes
from wassgrid.chain.fundamental import Chain, Factorisation
from wassgrid.chain.spectrum import second_eigenvalue
from wassgrid.chain.stationary import METHODS, stationary_law
from wassgrid.problem.exact import grassmann_taksar_heyman
from wassgrid.transition.sparse import TransitionOperator


def random_chain(seed: int, n: int, spread: float) -> np.ndarray:
    """A dense irreducible chain whose rows are peaked about moving places."""
    rng = np.random.default_rng(seed)
    place = np.arange(n)
    distance = np.abs(place[None, :] - (place[:, None] * rng.uniform(0.2, 1.0) + rng.uniform(0, n, (n, 1)) * 0.3))
    matrix = np.exp(-0.5 * (distance / (spread * n)) ** 2) + 0.02
    return matrix / matrix.sum(axis=1, keepdims=True)


def metastable_chain(n: int, barrier: float) -> np.ndarray:
    """A walk in two wells: the gap falls like exp(-barrier)."""
    x = np.linspace(-1.5, 1.5, n)
    energy = barrier * (x**2 - 1) ** 2
    up = 0.5 * np.exp(-np.maximum(energy[1:] - energy[:-1], 0) - 1e-3)
    down = 0.5 * np.exp(-np.maximum(energy[:-1] - energy[1:], 0))
    matrix = np.diag(up, 1) + np.diag(down, -1)
    return matrix + np.diag(1 - matrix.sum(axis=1))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60), st.floats(0.05, 0.5), st.sampled_from(METHODS))
def test_every_method_finds_the_law(seed, n, spread, method):
    matrix = random_chain(seed, n, spread)
    operator = TransitionOperator.from_matrix(matrix)
    result = stationary_law(operator, method=method)
    exact = grassmann_taksar_heyman(matrix)
    assert result.converged, result.reason
    assert np.abs(result.law - exact).sum() < 1e-11
    assert np.abs(operator.push(result.law) - result.law).sum() < 1e-12
    assert result.law.min() >= 0
    assert abs(result.law.sum() - 1) < 1e-13


def test_every_number_of_blas_threads_gives_the_same_bits():
    n = 12_000  # BLAS divides inner products among threads from 10,000 on
    diffusion = sparse.diags_array([0.3, 0.3, 0.3], offsets=[-1, 0, 1], shape=(n, n))
    hops = sparse.csr_array((np.full(n, 0.1), (np.arange(n), (7919 * np.arange(n)) % n)), shape=(n, n))
    matrix = sparse.csr_array(diffusion + hops)
    matrix = sparse.csr_array(sparse.diags_array(1 / matrix.sum(axis=1)) @ matrix)
    operator = TransitionOperator.from_matrix(matrix)

    def solve(threads: int) -> tuple[np.ndarray, np.ndarray]:
        with threadpool_limits(threads, user_api="blas"):
            law = stationary_law(operator, method="krylov").law
            return law, Chain(operator, law, 1.0, "krylov", 1e-12).right(np.cos(np.arange(n))).values

    for one, two in zip(solve(1), solve(2), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_metastable_chain_is_solved_where_power_iteration_would_take_millions():
    matrix = metastable_chain(201, 12.0)
    operator = TransitionOperator.from_matrix(matrix)
    # a start in one well: the residual is small at once, the error is not
    start = np.where(np.arange(201) < 100, 1.0, 1e-12)
    result = stationary_law(operator, start)
    exact = grassmann_taksar_heyman(matrix)
    assert result.converged, result.reason
    error = np.abs(result.law - exact).sum()
    assert error < 1e-8
    assert error <= result.error_bound
    eigenvalues = np.sort(np.abs(np.linalg.eigvals(matrix)))
    assert result.rate == pytest.approx(eigenvalues[-2], abs=1e-7)
    assert 1 / (1 - result.rate) > 1e5
    power = stationary_law(operator, start, method="power", limit=2000)
    assert not power.converged
    assert power.error_bound > 1e-3 or "stopped after 2000" in power.reason


def test_a_periodic_chain_has_a_law_all_the_same():
    matrix = np.array([[0, 0.5, 0, 0.5], [0.3, 0, 0.7, 0], [0, 0.1, 0, 0.9], [0.6, 0, 0.4, 0]])
    operator = TransitionOperator.from_matrix(matrix)
    classes = recurrent_classes(operator)
    assert [c.tolist() for c in classes] == [[0, 1, 2, 3]]
    assert period(operator, classes[0]) == 2
    result = stationary_law(operator, np.array([1.0, 0, 0, 0]))
    assert result.converged, result.reason
    np.testing.assert_allclose(result.law, grassmann_taksar_heyman(matrix), atol=1e-12)


def test_the_second_eigenvalue_is_that_of_the_dense_matrix_and_the_operator_stays_what_it_was():
    for n, spread in ((60, 0.1), (240, 0.02)):
        matrix = random_chain(3, n, spread)
        matrix[0, 1:] = np.where(np.arange(1, n) == 5, 1e-16, matrix[0, 1:])  # an edge at rounding level
        matrix /= matrix.sum(axis=1, keepdims=True)
        operator = TransitionOperator.from_matrix(matrix)
        recurrent_classes(operator)
        exact = np.sort(np.abs(np.linalg.eigvals(matrix)))[-2]
        assert second_eigenvalue(operator) == pytest.approx(exact, rel=1e-6)
        np.testing.assert_array_equal(operator.matrix().toarray(), matrix)
    assert second_eigenvalue(TransitionOperator.from_matrix(np.roll(np.eye(4), 1, axis=1))) == pytest.approx(1.0)


def test_recurrent_classes_ignore_transient_cells_and_rounding():
    matrix = np.eye(5)
    matrix[1] = [0.5, 0.0, 0.5, 0.0, 0.0]
    matrix[3] = [0.0, 0.0, 1 - 1e-17, 1e-17, 0.0]
    matrix[4] = [0.0, 0.0, 0.2, 0.0, 0.8]
    classes = recurrent_classes(TransitionOperator.from_matrix(matrix))
    assert sorted(c.tolist() for c in classes) == [[0], [2]]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 40), st.sampled_from(["iteration", "krylov", "lu"]), st.sampled_from([1.0, 0.9]))
def test_the_fundamental_matrix_from_both_sides(seed, n, method, discount):
    matrix = random_chain(seed, n, 0.3)
    operator = TransitionOperator.from_matrix(matrix)
    law = grassmann_taksar_heyman(matrix)
    chain = Chain(operator, law, discount, method, 1e-12)
    rng = np.random.default_rng(seed)
    f, nu = rng.standard_normal(n), rng.standard_normal(n)
    dense = np.eye(n) - discount * matrix + (np.outer(np.ones(n), law) if discount == 1.0 else 0.0)
    np.testing.assert_allclose(chain.right(f).values, np.linalg.solve(dense, f), atol=1e-9)
    np.testing.assert_allclose(chain.left(nu).values, np.linalg.solve(dense.T, nu), atol=1e-9)


def test_factors_give_the_law_from_any_pinned_cell():
    matrix = random_chain(3, 30, 0.2)
    operator = TransitionOperator.from_matrix(matrix)
    for pinned in (0, 13, 29):
        law = Factorisation(operator, pinned=pinned).null_law()
        np.testing.assert_allclose(law, grassmann_taksar_heyman(matrix), atol=1e-13)


def test_cells_that_all_reach_one_together_are_one_class_without_a_period():
    cycle = np.roll(np.eye(5), 1, axis=1)
    lazy = 0.5 * (cycle + np.eye(5))
    apart = np.kron(np.eye(2), np.full((3, 3), 1 / 3))
    for matrix, expected in ((cycle, False), (lazy, True), (apart, False)):
        operator = TransitionOperator.from_matrix(matrix)
        assert reached_together(operator, 0) is expected
        classes = recurrent_classes(operator)
        assert (len(classes) == 1 and period(operator, classes[0]) == 1) is expected


def test_a_matrix_shares_the_memory_of_its_operator_and_knows_its_bandwidth():
    dense = np.triu(np.tril(np.random.default_rng(3).random((400, 400)), 7), -5)
    operator = TransitionOperator.from_matrix(dense / dense.sum(axis=1, keepdims=True))
    matrix = operator.matrix()
    assert np.shares_memory(matrix.data, operator.values) and np.shares_memory(matrix.indices, operator.columns)
    rows, columns = np.nonzero(dense)
    assert operator.bandwidth == 2 * np.mean(np.abs(columns - rows)) + 1
