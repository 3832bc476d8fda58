"""Markov decision processes given as arrays, against textbooks and against all of their deterministic policies."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import classes, stationary_laws
from scipy import sparse
from scipy.special import logsumexp, rel_entr

import wassgrid as wg
from wassgrid.chain.resolvent import TRANSIENT, Resolvent, factors_fit
from wassgrid.chain.stationary import ReducibleChainError, StationaryError
from wassgrid.finite_mdp import FiniteMDPError
from wassgrid.transition.sparse import TransitionOperator

pytestmark = pytest.mark.thorough

INF = np.inf
# Howard 1960: towns, and cruise, stand or radio; the second town has no radio
TAXI = np.array([
    [[1 / 2, 1 / 4, 1 / 4], [1 / 2, 0, 1 / 2], [1 / 4, 1 / 4, 1 / 2]],
    [[1 / 16, 3 / 4, 3 / 16], [1 / 16, 7 / 8, 1 / 16], [1 / 8, 3 / 4, 1 / 8]],
    [[1 / 4, 1 / 8, 5 / 8], [0, 0, 0], [3 / 4, 1 / 16, 3 / 16]],
])  # fmt: skip
FARES = np.array([[8.0, 2.75, 4.25], [16.0, 15.0, -INF], [7.0, 4.0, 4.5]])


def test_the_taxi_of_howard():
    solution = wg.FiniteMDP(TAXI, -FARES).solve()
    assert -solution.objective == pytest.approx(13.344537815126046, rel=1e-14)
    assert solution.actions.tolist() == [1, 1, 1] and solution.converged
    assert solution.lower_bound <= solution.objective <= solution.upper_bound <= solution.lower_bound + 1e-12
    law = solution.law
    np.testing.assert_allclose(law @ TAXI[1], law, atol=1e-14)


def test_the_forest_that_burns():
    """Chadès et al. 2014: wait or cut, three ages, a fire with probability 0.1; values by their closed form."""
    wait = np.array([[0.1, 0.9, 0.0], [0.1, 0.0, 0.9], [0.1, 0.0, 0.9]])
    cut = np.array([[1.0, 0.0, 0.0]] * 3)
    solution = wg.FiniteMDP([wait, cut], -np.array([[0, 0], [0, 1], [4, 2]]), discount=0.9).solve()
    np.testing.assert_allclose(-solution.value, [26.244, 29.484, 33.484], rtol=1e-13)
    assert solution.actions.tolist() == [0, 0, 0]


def process(seed: int, discounted: bool) -> tuple[np.ndarray, np.ndarray, float | None, np.ndarray]:
    """Draw a process of up to five states and three actions: chances of zero, missing actions, chains that turn."""
    rng = np.random.default_rng(seed)
    states, actions = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    chances = rng.dirichlet(np.full(states, 0.3), (actions, states))
    chances[rng.random(chances.shape) < 0.3] = 0.0
    # a way around, so that mixtures of all actions have one class
    around = np.eye(states)[(np.arange(states) + 1) % states]
    lost = chances.sum(axis=2) == 0.0
    chances[lost] = np.broadcast_to(around, chances.shape)[lost]
    share = float(rng.choice([0.0, 0.05, 1.0], p=[0.1, 0.8, 0.1]))
    chances = (1.0 - share) * chances / chances.sum(axis=2, keepdims=True) + share * around
    costs = np.round(rng.standard_normal((states, actions)), int(rng.integers(0, 3))) * 10.0 ** rng.integers(-6, 7)
    costs[(rng.random(costs.shape) < 0.2) & (np.arange(actions) > 0)] = INF
    discount = float(rng.choice([0.3, 0.9, 0.9999])) if discounted else None
    return chances, costs, discount, rng.dirichlet(np.ones(states))


def every_policy(chances: np.ndarray, costs: np.ndarray, discount: float | None, start: np.ndarray) -> tuple[float, Any]:
    """Return the least J of all deterministic policies and, discounted, the least V of every state."""
    actions, states, _ = chances.shape
    of, least, value = np.arange(states), np.inf, np.full(states, np.inf)
    for chosen in itertools.product(range(actions), repeat=states):
        matrix, cost = chances[chosen, of], costs[of, chosen]
        if not np.isfinite(cost).all():
            continue
        if discount is None:
            least = min(least, *(float(law @ cost) for law in stationary_laws(matrix)))
        else:
            value = np.minimum(value, np.linalg.solve(np.eye(states) - discount * matrix, cost))
    return (least, None) if discount is None else ((1.0 - discount) * float(start @ value), value)


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from(["policy_iteration", "exponential"]), st.booleans())
@settings(max_examples=60)
def test_no_deterministic_policy_is_better_and_the_bounds_hold(seed, discounted, method, few):
    chances, costs, discount, start = process(seed, discounted)
    least, value = every_policy(chances, costs, discount, start)
    given_as = [sparse.csr_array(block) for block in chances] if few else chances
    try:
        solution = wg.FiniteMDP(given_as, costs, discount, start).solve(method)
    except ReducibleChainError as error:
        assert not discounted and "cost depends on where one starts" in str(error)
        policies = itertools.product(range(len(chances)), repeat=len(costs))
        assert any(len(classes(chances[chosen, np.arange(len(costs))])) > 1 for chosen in policies)
        return
    size = np.abs(costs[np.isfinite(costs)]).max() + 1e-300
    assert solution.converged, solution.reason
    assert solution.lower_bound <= least + 1e-13 * size
    assert least - 1e-12 * size <= solution.upper_bound and solution.objective <= solution.upper_bound
    assert solution.objective == pytest.approx(least, abs=3e-9 * size)
    if discounted and method == "policy_iteration":
        np.testing.assert_allclose(solution.value, value, atol=1e-10 * size / (1.0 - discount))
    assert np.all(np.diff(solution.objectives) <= 1e-11 * size / (1.0 - discount if discounted else 1.0))
    assert np.all(solution.policy[~np.isfinite(costs)] == 0.0)
    np.testing.assert_allclose(solution.law.sum(), 1.0, atol=1e-10)


def test_fixed_exponential_steps_are_those_of_the_formula():
    solution = wg.FiniteMDP(TAXI, -FARES).solve("exponential", step=0.3, steps=1, gap=1e-12)
    assert not solution.converged and solution.steps == 1 and "1 steps were done" in solution.reason
    weights = np.isfinite(FARES) / np.isfinite(FARES).sum(axis=1, keepdims=True)
    matrix = np.einsum("sa,ast->st", weights, TAXI)
    fares = np.where(np.isfinite(FARES), FARES, 0.0)
    (law,) = stationary_laws(matrix)
    cost = -(weights * fares).sum(axis=1)
    value = np.linalg.lstsq(np.eye(3) - matrix + np.outer(np.ones(3), law), cost - law @ cost, rcond=None)[0]
    expected = weights * np.exp(-0.3 * (-fares + np.einsum("ast,t->sa", TAXI, value)))
    np.testing.assert_allclose(solution.policy, expected / expected.sum(axis=1, keepdims=True), rtol=1e-12)


def test_several_recurrent_classes_are_named():
    """Two towns that nobody leaves, and a third from which both can be reached."""
    left = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    right = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    process = wg.FiniteMDP([left, right], [[1.0, 5.0], [2.0, 2.5], [2.0, 2.0]])
    with pytest.raises(ReducibleChainError, match=r"least average cost .* starts: 1 from state 0, 2 from state 1.*discount"):
        process.solve()
    with pytest.raises(ReducibleChainError, match=r"2 recurrent classes, with the states 0 and 1: its average cost depends"):
        process.solve("exponential")
    assert wg.FiniteMDP([left, right], process.costs, 0.99).solve().converged


def gains(matrix: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Return the average cost from every state: lim (P + I)^k/2^k c, by squaring sixty times."""
    power = 0.5 * (matrix + np.eye(len(matrix)))
    for _ in range(60):
        power = power @ power
        power /= power.sum(axis=1, keepdims=True)
    return power @ cost


def wild(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a process of any number of classes: moves with certainty, states that are never left, missing actions."""
    rng = np.random.default_rng(seed)
    states, actions = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    chances = rng.dirichlet(np.full(states, 0.3), (actions, states))
    certain = (rng.random((actions, states)) < 0.5) | ((chances < 0.01) | (chances == 1.0)).all(axis=2)
    chances[chances < 0.01] = 0.0
    chances[certain] = np.eye(states)[rng.integers(0, states, certain.sum())]
    costs = np.round(rng.standard_normal((states, actions)), int(rng.integers(0, 3)))
    costs[(rng.random(costs.shape) < 0.2) & (np.arange(actions) > 0)] = INF
    return chances / chances.sum(axis=2, keepdims=True), costs, rng.dirichlet(np.ones(states))


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=60)
def test_any_number_of_classes_is_solved_or_refused(seed, given_first):
    """Against all deterministic policies: one least cost for all starts is found, two are named with a state each."""
    chances, costs, start = wild(seed)
    actions, states, _ = chances.shape
    of, least = np.arange(states), np.full(states, np.inf)
    for chosen in itertools.product(range(actions), repeat=states):
        if np.isfinite(cost := costs[of, chosen]).all():
            least = np.minimum(least, gains(chances[chosen, of], cost))
    process = wg.FiniteMDP(chances, costs, start=start)
    try:
        solution = process.solve(initial=np.zeros(states, int) if given_first else None)
    except ReducibleChainError as error:
        found = re.search(r"starts: (\S+) from state (\d+), (\S+) from state (\d+)\.", str(error))
        low, first, high, second = found.groups()
        assert float(low) == pytest.approx(least.min(), abs=1e-5) == pytest.approx(least[int(first)], abs=1e-5)
        assert float(high) == pytest.approx(least.max(), abs=1e-5) == pytest.approx(least[int(second)], abs=1e-5)
        assert np.ptp(least) > 1e-9
        return
    np.testing.assert_allclose(least, solution.objective, atol=1e-9)
    assert solution.converged and solution.lower_bound <= least.min() + 1e-12
    matrix, cost = process.chain(solution.policy)
    own = gains(matrix.toarray(), cost)
    np.testing.assert_allclose(own, solution.objective, atol=1e-9)
    assert own.max() <= solution.upper_bound + 1e-12
    # how often the policy is where, from the start law
    visits = np.linalg.matrix_power(0.5 * (matrix.toarray() + np.eye(states)), 2**20)
    np.testing.assert_allclose(solution.law, start @ visits, atol=1e-6)


def test_the_law_of_several_classes_is_that_from_the_start():
    stay = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.25, 0.75, 0.0]])
    solution = wg.FiniteMDP([stay], [3.0, 3.0, 7.0], start=[0.2, 0.3, 0.5]).solve()
    assert solution.objective == 3.0 and solution.converged
    np.testing.assert_allclose(solution.law, [0.325, 0.675, 0.0], atol=1e-15)


def lattice(points: int) -> tuple[list[sparse.csr_array], np.ndarray]:
    """Return a walk on a square: stay or go to a neighbour, which fails now and then; costs of the place and of going."""
    cells = points * points
    row, column = np.divmod(np.arange(cells), points)
    moves = []
    for down, along in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
        target = (row + down).clip(0, points - 1) * points + (column + along).clip(0, points - 1)
        moves.append(sparse.csr_array((np.ones(cells), (np.arange(cells), target)), shape=(cells, cells)))
    drift = 0.04 * sum(moves[1:], moves[0])
    place = np.random.default_rng(0).random(cells)
    return [sparse.csr_array(0.8 * move + drift) for move in moves], place[:, None] + np.array([0.0, 0.1, 0.1, 0.1, 0.1])


def test_a_chain_that_mixes_slowly_is_solved_by_factors():
    """The bracket again, in dense arrays: min (T V - V) <= J* <= J <= max (T_pi V - V)."""
    moves, costs = lattice(20)
    process = wg.FiniteMDP(moves, costs)
    solution = process.solve()
    assert solution.converged
    value, of = solution.value, np.arange(len(costs))
    q = costs + np.stack([move.toarray() @ value for move in moves], axis=1) - value[:, None]
    assert q.min() == pytest.approx(solution.objective, abs=1e-11)
    assert q[of, solution.actions].max() == pytest.approx(solution.objective, abs=1e-11)
    matrix, _ = process.chain(solution.policy)
    assert factors_fit(matrix)
    np.testing.assert_allclose(solution.law @ matrix.toarray(), solution.law, atol=1e-13)


def test_the_factors_of_random_graphs_do_not_fit():
    rng = np.random.default_rng(0)
    entries = np.full(30_000, 1.0 / 3.0), (np.repeat(np.arange(10_000), 3), rng.integers(0, 10_000, 30_000))
    assert not factors_fit(sparse.csr_array(entries, shape=(10_000, 10_000)))


def test_what_mixes_too_slowly_is_not_called_solved():
    """Two wells of a hundred states each, from which it takes 1e47 steps to escape: values are beyond all digits."""
    down, up = np.full(199, 0.3), np.full(199, 0.1)
    down[100:], up[99:] = 0.1, 0.3
    down[99] = 0.3
    up[99] = 0.3
    steps = sparse.diags_array([up, down], offsets=[1, -1], shape=(200, 200))
    chain = steps + sparse.diags_array(1.0 - steps.sum(axis=1))
    with pytest.raises(StationaryError, match="mixes too slowly: its value is known to"):
        wg.FiniteMDP([chain], np.arange(200) < 100).solve()


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
@settings(max_examples=40)
def test_solves_with_a_resolvent_of_any_number_of_classes(seed, direct, discounted):
    """Dense, from both sides, by factors and by iteration."""
    rng = np.random.default_rng(seed)
    matrix = wild(seed)[0][0]
    states = len(matrix)
    found = classes(matrix)
    label, anchors = np.full(states, TRANSIENT), np.zeros(states)
    for k, cells in enumerate(found):
        label[cells], anchors[cells] = k, rng.dirichlet(np.ones(len(cells)))
    if len(found) == 1:
        label[:] = 0
    whole = np.eye(states) - (0.9 if discounted else 1.0) * matrix
    if not discounted:
        whole += sum(np.outer(label == k, anchors * (label == k)) for k in range(len(found)))
    sums = (None, None) if discounted else (label, anchors)
    resolvent = Resolvent(TransitionOperator.from_matrix(matrix), 0.9 if discounted else 1.0, *sums, direct)
    right, scale = rng.standard_normal(states), np.abs(np.linalg.inv(whole)).max()
    np.testing.assert_allclose(resolvent.right(right).values, np.linalg.solve(whole, right), atol=1e-11 * scale)
    np.testing.assert_allclose(resolvent.left(right).values, np.linalg.solve(whole.T, right), atol=1e-11 * scale)
    assert resolvent.right(right).direct or not direct


def soft_value_iteration(
    chances: np.ndarray, costs: np.ndarray, discount: float | None, eps: float, shares: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the average cost, 0 if discounted, and V of the soft Bellman equation, by its own iteration in dense arrays."""
    value, gain = np.zeros(len(costs)), 0.0
    for _ in range(3000):
        q = costs + (discount or 1.0) * np.einsum("ast,t->sa", chances, value)
        following = -eps * logsumexp(-q / eps, b=shares, axis=1)
        gain = 0.0 if discount else float(following[0] - value[0])
        before, value = value, following if discount else following - following[0]
        if np.abs(value - before).max() < 1e-15 * (1.0 + np.abs(value).max()):
            break
    return gain, value


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from(["policy_iteration", "exponential"]))
@settings(max_examples=60)
def test_a_price_of_entropy_against_soft_value_iteration(seed, discounted, method):
    rng = np.random.default_rng(seed)
    states, actions = int(rng.integers(1, 7)), int(rng.integers(1, 5))
    chances, costs = rng.dirichlet(np.ones(states), (actions, states)), rng.standard_normal((states, actions))
    costs[(rng.random(costs.shape) < 0.2) & (np.arange(actions) > 0)] = INF
    discount = float(rng.choice([0.5, 0.95])) if discounted else None
    start, eps = rng.dirichlet(np.ones(states)), 10.0 ** rng.uniform(-4, 3)
    reference = rng.dirichlet(np.ones(actions), states) if rng.random() < 0.5 else None
    shares = np.where(np.isfinite(costs), 1.0 if reference is None else reference, 0.0)
    shares /= shares.sum(axis=1, keepdims=True)
    gain, value = soft_value_iteration(chances, costs, discount, eps, shares)
    best = (1.0 - discount) * float(start @ value) if discount else gain
    solution = wg.FiniteMDP(chances, costs, discount, start, entropy=eps, reference=reference).solve(method)
    close = 1e-10 if method == "policy_iteration" else 5e-9
    assert solution.converged and solution.objective == pytest.approx(best, abs=close)
    assert solution.lower_bound <= best + 1e-12 and best - 1e-12 <= solution.upper_bound <= solution.lower_bound + 2.0 * close
    assert np.all(np.diff(solution.objectives) <= 1e-11)
    own, law = solution.policy, solution.law
    divergence = np.where(own > 0.0, own * np.log(np.where(own > 0.0, own / np.where(shares > 0.0, shares, 1.0), 1.0)), 0.0)
    assert solution.entropy == pytest.approx(eps * float(law @ divergence.sum(axis=1)), abs=1e-11)
    if method == "policy_iteration":
        q = costs + (discount or 1.0) * np.einsum("ast,t->sa", chances, value)
        expected = np.log(shares, where=shares > 0.0, out=np.full(costs.shape, -INF)) - q / eps
        expected -= logsumexp(expected, axis=1, keepdims=True)
        # J misses the square of what the weights miss
        np.testing.assert_allclose(own, np.exp(expected), atol=2e-6 / min(np.sqrt(eps), 1.0))
    # without entropy the best cost is lower by what a step costs at most
    plain = wg.FiniteMDP(chances, costs, discount, start).solve()
    if reference is None:
        assert -1e-12 <= solution.objective - plain.objective <= eps * np.log(actions) + close


def test_entropy_asks_for_a_chain_of_one_class():
    chances, costs = np.broadcast_to(np.eye(2), (2, 2, 2)), [[1.0, 1.0], [2.0, 2.0]]
    with pytest.raises(ReducibleChainError, match=r"2 recurrent classes, .* from state 1\. Add chances .* price of entropy"):
        wg.FiniteMDP(chances, costs, entropy=0.1).solve()


def test_actions_that_a_reference_law_leaves_out_are_not_taken():
    solution = wg.FiniteMDP(TAXI, -FARES, entropy=1e-9, reference=[1.0, 0.0, 1.0]).solve()
    without = wg.FiniteMDP(TAXI, np.where(np.arange(3) == 1, INF, -FARES)).solve()
    assert solution.converged and np.all(solution.policy[:, 1] == 0.0)
    assert solution.actions.tolist() == without.actions.tolist()
    assert solution.objective == pytest.approx(without.objective, abs=2e-9)


def test_fixed_exponential_steps_with_entropy_are_those_of_the_formula():
    eps, step, first = 0.7, 0.5, np.array([[0.6, 0.3, 0.1], [0.2, 0.8, 0.0], [0.1, 0.1, 0.8]])
    process = wg.FiniteMDP(TAXI, -FARES, 0.9, entropy=eps)
    taken = process.solve("exponential", step=step, steps=1, gap=1e-12, initial=first).policy
    shares = np.isfinite(FARES) / np.isfinite(FARES).sum(axis=1, keepdims=True)
    fares = np.where(np.isfinite(FARES), FARES, 0.0)
    cost = (-first * fares).sum(axis=1) + eps * rel_entr(first, shares).sum(axis=1)
    value = np.linalg.solve(np.eye(3) - 0.9 * np.einsum("sa,ast->st", first, TAXI), cost)
    q, theta = -fares + 0.9 * np.einsum("ast,t->sa", TAXI, value), 1.0 - np.exp(-step * eps)
    expected = first ** (1.0 - theta) * shares**theta * np.exp(-theta * (q - q.min(axis=1, keepdims=True)) / eps)
    np.testing.assert_allclose(taken, expected / expected.sum(axis=1, keepdims=True), rtol=1e-11)


GOOD = np.full((2, 2, 2), 0.5), np.zeros((2, 2))


@pytest.mark.parametrize(("arguments", "text"), [
    ((np.eye(2), GOOD[1]), "transitions: expected an array"),
    (([], GOOD[1]), "transitions: expected an array"),
    (([np.eye(2), np.eye(3)], GOOD[1]), "action 1 has the shape"),
    (([np.eye(2), np.ones((2, 3))], GOOD[1]), "action 1 has the shape"),
    (([np.eye(2), "no"], GOOD[1]), "action 1 is no matrix"),
    ((0.9 * GOOD[0], GOOD[1]), "action 0 in state 0 have the sum 0.9"),
    ((GOOD[0] + [[[0.6, -0.6]]], GOOD[1]), r"P\[0, 0, 0\] is 1.1"),
    ((GOOD[0], np.zeros((3, 2))), r"costs: expected an array \(2, 2\)"),
    ((GOOD[0], [[0.0, np.nan], [0.0, 0.0]]), "costs: that of action 1 in state 0 is nan"),
    ((GOOD[0], [[0.0, -INF], [0.0, 0.0]]), "costs: that of action 1 in state 0 is -inf"),
    ((GOOD[0], [[0.0, 0.0], [INF, INF]]), "no action is available in state 1"),
    ((*GOOD, 1.0), "discount: expected a number between 0 and 1"),
    ((*GOOD, None, [1.0]), "start: expected 2 nonnegative numbers"),
    ((*GOOD, None, None, 0.0), "entropy: expected a positive number"),
    ((*GOOD, None, None, "much"), "entropy: expected a positive number"),
    ((*GOOD, None, None, None, [1.0, 1.0]), "reference: there is no price of entropy"),
    ((*GOOD, None, None, 1.0, [1.0]), r"reference: expected nonnegative numbers, a law of the actions \(2,\)"),
    ((*GOOD, None, None, 1.0, [1.0, -1.0]), "reference: expected nonnegative"),
    ((GOOD[0], [[0.0, INF], [0.0, 0.0]], None, None, 1.0, [0.0, 1.0]), "the available actions of state 0 have the mass 0"),
])  # fmt: skip
def test_arrays_that_are_none_are_refused(arguments, text):
    with pytest.raises(FiniteMDPError, match=text):
        wg.FiniteMDP(*arguments)


@pytest.mark.parametrize(("settings", "text"), [
    ({"method": "newton"}, "method: expected one of policy_iteration, exponential"),
    ({"step": 1.0}, "step: expected a positive number"),
    ({"method": "exponential", "step": -1.0}, "step: expected a positive number"),
    ({"initial": [0, 7, 0]}, "initial: actions have the numbers 0 to 2"),
    ({"initial": [0, 2, 0]}, "initial: action 2 is not available in state 1"),
    ({"initial": np.zeros((3, 3))}, "initial: weights must be nonnegative"),
    ({"initial": np.zeros(4)}, "initial: expected numbers of actions"),
])  # fmt: skip
def test_settings_that_do_not_go_are_refused(settings, text):
    with pytest.raises(FiniteMDPError, match=text):
        wg.FiniteMDP(TAXI, -FARES).solve(**settings)
