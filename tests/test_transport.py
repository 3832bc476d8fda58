"""Proximal steps between values of lists: plans of least cost, J that never rises, limits, ground metrics, and their messages."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import DenseProblem
from scipy.optimize import linprog, minimize

import wassgrid as wg
from wassgrid.case import Case, CaseError
from wassgrid.cli import main
from wassgrid.evaluation import Evaluation, Evaluator, objective_rounding, rounding
from wassgrid.method import transport
from wassgrid.method.proximal import nearby_minima
from wassgrid.method.transport import first_transport_step, least_moving_step, transport_step, transported
from wassgrid.policy import initial_policy

pytestmark = pytest.mark.thorough

LINE = """
[states.x]
next = "0.8*x + 0.5*gear - 0.2*sign(x)"
noise = "0.7"
domain = [-2, 2]
boundary = "reflect"
[actions.gear]
values = { forward = 1, back = -1, idle = 0, crawl = 0.4 }
DISTANCE
[cost]
stage = "x**2 + 0.4*where(gear*x > 0, 1, 0) + 0.2*abs(gear) + 0.3*mod(x, 0.5)"
[grid]
points = { x = 5 }
kernel = "gaussian"
[flow]
method = "proximal"
FLOW
[output]
estimate = false
"""
MATRIX = "distance = [[0, 2, 1, 1], [2, 0, 1, 1.5], [1, 1, 0, 0.5], [1, 1.5, 0.5, 0]]"
PLACES = "distance = { forward = [1, 0], back = [-1, 0], idle = [0, 0.5], crawl = [0, 0] }"
GIVEN = {"": np.array([1.0, -1.0, 0.0, 0.4])[:, None], PLACES: np.array([[1, 0], [-1, 0], [0, 0.5], [0, 0]])}


def text(distance: str = "", flow: str = "", more: str = "") -> str:
    return LINE.replace("DISTANCE", distance).replace("FLOW", flow) + more


def dense_of(source: str) -> DenseProblem:
    return DenseProblem(source.replace("{ forward = 1, back = -1, idle = 0, crawl = 0.4 }", "[1, -1, 0, 0.4]"), {"x": "gaussian"})


def evaluated(source: str, seed: int = 0) -> tuple[Evaluator, Evaluation]:
    """The problem with random weights, some of them zero."""
    case = Case.from_text(source)
    evaluator = Evaluator.from_case(case)
    policy = initial_policy(case, evaluator.model.grid)
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(policy.particles, 0.7), policy.grid.size) * (rng.random(policy.weights.shape) < 0.8)
    weights[:, 0] += weights.sum(axis=1) == 0.0
    return evaluator, evaluator.evaluate(policy.moved(policy.actions, weights / weights.sum(axis=1, keepdims=True)))


def squares_of(distance: str) -> np.ndarray:
    """Squares of the distances, without code of the package."""
    if distance == MATRIX:
        return np.array([[0, 4, 1, 1], [4, 0, 1, 2.25], [1, 1, 0, 0.25], [1, 2.25, 0.25, 0]])
    places = GIVEN[distance]
    return np.square(places[:, None] - places[None]).sum(axis=2)


@pytest.mark.parametrize("distance", ["", MATRIX, PLACES])
@pytest.mark.parametrize("tau", [0.3, 2.0, 1e9])
def test_plans_are_those_of_least_cost(distance, tau):
    """Of all plans with the given first marginal, state by state: by a linear programme, and by a solver for smooth functions."""
    source = text(distance)
    evaluator, evaluation = evaluated(source)
    dense = dense_of(source)
    numbers = np.array([1.0, -1.0, 0.0, 0.4])[:, None]
    old, squares = evaluation.policy.weights, squares_of(distance)
    sharp = transport_step(evaluator, evaluation, tau, adaptive=False).evaluation.policy.weights
    strength = 0.15
    soft, shortened = transported(old, evaluation.q, evaluation.model.problem.squared_distances, tau, strength, 1e-12)
    checked = 0
    for cell in range(5):
        cells = np.full(4, cell)
        q = dense.costs(cells, numbers) + dense.rows(cells, numbers) @ evaluation.value - evaluation.objective
        cost = q[None, :] + squares / (2.0 * tau)
        marginal = np.kron(np.eye(4), np.ones(4))
        found = linprog(cost.ravel(), A_eq=marginal, b_eq=old[cell], method="highs")
        # the second marginals are the same: the least is one plan alone
        np.testing.assert_allclose(sharp[cell], found.x.reshape(4, 4).sum(axis=0), atol=1e-9)
        mean = float(old[cell] @ q)

        def solved(source: int, cost: np.ndarray = cost) -> np.ndarray:
            def objective(p: np.ndarray) -> float:
                return float(p @ cost[source] + strength * (p * np.log(np.maximum(p, 1e-300))).sum())

            sums = {"type": "eq", "fun": lambda p: p.sum() - 1.0}
            options = {"ftol": 1e-14, "maxiter": 400}
            return minimize(objective, np.full(4, 0.25), bounds=[(0, 1)] * 4, constraints=[sums], options=options).x

        spread = sum(old[cell, i] * solved(i) for i in range(4))
        if spread @ q <= mean:
            np.testing.assert_allclose(soft[cell], spread, atol=2e-5)
            checked += 1
        assert soft[cell] @ q <= mean + 1e-12
    assert checked + shortened == 5 and checked > 0


# -- steps of any length and any regularisation -----------------------------------------------------------------------------


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights with zeros, Q with equal and infinite ones, and squares of distances of points."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 7))
    weights = rng.dirichlet(np.full(count, 0.5), 8) * (rng.random((8, count)) < 0.7)
    weights[:, 0] += weights.sum(axis=1) == 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    q = rng.standard_normal((8, count)).round(1)
    q[weights == 0.0] = np.where(rng.random((weights == 0.0).sum()) < 0.2, np.inf, q[weights == 0.0])
    places = rng.standard_normal((count, 2))
    # all of the mass at the best value
    weights[1] = np.eye(count)[q[1].argmin()]
    return weights, q, np.square(places[:, None] - places[None]).sum(axis=2)


LENGTHS = st.sampled_from([1e-300, 1e-3, 0.1, 1.0, 30.0, 1e9, np.inf])
STRENGTHS = st.sampled_from([0.0, 1e-300, 1e-3, 0.1, 1.0, 1e6])


def rise(weights: np.ndarray, new: np.ndarray, q: np.ndarray) -> np.ndarray:
    there = np.where(np.isfinite(q), q, 0.0)
    assert (new[~np.isfinite(q)] == 0.0).all() and (new >= 0.0).all()
    np.testing.assert_allclose(new.sum(axis=1), 1.0, atol=1e-14)
    return ((new - weights) * there).sum(axis=1)


@given(st.integers(0, 2**32 - 1), LENGTHS, STRENGTHS)
@settings(max_examples=80)
def test_the_mean_of_q_never_rises_in_any_cell(seed, tau, strength):
    weights, q, squares = drawn(seed)
    new, shortened = transported(weights, q, squares, tau, strength, 1e-12)
    assert (rise(weights, new, q) <= 2e-12).all()
    assert shortened == 0 if strength == 0.0 else shortened <= 8


def test_without_shorter_regularisations_it_would_rise(monkeypatch):
    """What the test above is there to find."""
    monkeypatch.setattr(transport, "_TRIALS", 0)
    rising = []
    for seed in range(20):
        weights, q, squares = drawn(seed)
        rising.append((rise(weights, transported(weights, q, squares, 1.0, 0.1, 1e-12)[0], q) > 2e-12).any())
    assert sum(rising) > 10


@given(st.integers(0, 2**32 - 1), STRENGTHS)
@settings(max_examples=20)
def test_limits(seed, strength):
    weights, q, squares = drawn(seed)
    # tau -> 0: all stays; eps -> 0: proximal points; both far away: the best value, which is policy iteration
    still, _ = transported(weights, q, squares, 1e-300, 0.0, 1e-12)
    np.testing.assert_allclose(still, weights, atol=1e-15)
    one, _ = transported(weights, q, squares, 0.7, 1e-9, 1e-12)
    cost = q[:, None, :] + squares[None] / 1.4
    target = cost.argmin(axis=2)
    # ties are of rounded Q alone
    unique = ((cost < cost.min(axis=2, keepdims=True) + 1e-6).sum(axis=2) == 1).all(axis=1)
    exact = np.zeros_like(weights)
    for cell, i in itertools.product(range(8), range(weights.shape[1])):
        exact[cell, target[cell, i]] += weights[cell, i]
    np.testing.assert_allclose(one[unique], exact[unique], atol=1e-12)
    if strength == 0.0:
        best, _ = transported(weights, q, squares, np.inf, 0.0, 1e-12)
        assert np.allclose((best * (q <= q.min(axis=1, keepdims=True))).sum(axis=1), 1.0)
    elif strength >= 0.1:
        # tau -> infinity: the law of Gibbs, where it is no worse
        with np.errstate(over="ignore"):
            gibbs = np.exp(-(q - q.min(axis=1, keepdims=True)) / strength)
        gibbs /= gibbs.sum(axis=1, keepdims=True)
        lower = rise(weights, gibbs, q) < -1e-9
        found, _ = transported(weights, q, squares, np.inf, strength, 1e-12)
        np.testing.assert_allclose(found[lower], gibbs[lower], atol=1e-12)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_the_shortest_step_that_moves_mass_is_known(seed):
    weights, q, squares = drawn(seed)
    tau = least_moving_step(weights, q, squares, 1e-12)
    if tau == 0.0:
        assert (weights * (q > q.min(axis=1, keepdims=True) + 1e-9)).sum() == 0.0
        return
    assert (np.abs(transported(weights, q, squares, tau, 0.0, 1e-12)[0] - weights) > 1e-12).any()
    np.testing.assert_allclose(transported(weights, q, squares, 0.9999 * tau, 0.0, 1e-12)[0], weights, atol=1e-15)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["", MATRIX, PLACES]), st.sampled_from([0.0, 1e-3, 0.1, 10.0]), st.booleans())
@settings(max_examples=12)
def test_j_never_rises(seed, distance, strength, adaptive):
    evaluator, evaluation = evaluated(text(distance), seed)
    size = first_transport_step(evaluation) * 10.0 ** np.random.default_rng(seed).uniform(-3, 6)
    for _ in range(4):
        outcome = transport_step(evaluator, evaluation, size, strength, adaptive)
        new = outcome.evaluation
        assert new.objective <= evaluation.objective + objective_rounding(evaluation) + rounding(evaluation)
        evaluation, size = new, outcome.next_step


# -- runs -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distance", "flow", "more"),
    [
        ("", "", ""), (MATRIX, "", '[criterion]\nkind = "discounted"\ndiscount = 0.8\n'), (PLACES, "regularisation = 0.05", ""),
        (MATRIX, "step = 30\nstop = { steps = 60, gap = 1e-9 }", ""),
    ],
)
def test_runs_end_at_the_best_of_all_policies(distance, flow, more):
    source = text(distance, flow, more)
    solution = wg.solve(Case.from_text(source))
    dense = dense_of(source)
    every = np.array([1.0, -1.0, 0.0, 0.4])
    cells = np.repeat(np.arange(5), 4)
    rows, cost = dense.rows(cells, np.tile(every, 5)[:, None]), dense.costs(cells, np.tile(every, 5)[:, None])
    rows, cost, of = rows.reshape(5, 4, 5), cost.reshape(5, 4), np.arange(5)
    least = min(dense.value(rows[of, c], cost[of, c])[0] for c in map(list, itertools.product(range(4), repeat=5)))
    assert solution.converged and "proven" in solution.reason
    assert solution.objective == pytest.approx(least, abs=1e-8) and solution.lower_bound <= least + 1e-12
    assert (np.diff(solution.history["objective"]) <= 1e-12).all()


def test_steps_of_one_length_come_to_laws_that_are_spread_and_adaptive_ones_do_not():
    more = "regularisation = 0.3\nstop = { steps = 60, gap = 1e-9 }"
    spread, sharp = (wg.solve(Case.from_text(text(MATRIX, step + more))) for step in ("step = 1.5\n", ""))
    assert sharp.converged and not spread.converged and spread.policy.weights.max(axis=1).min() < 0.9
    # at rest: the plan leaves the law as it is
    evaluation = wg.geometry.at(spread).evaluation
    again, _ = transported(spread.policy.weights, evaluation.q, squares_of(MATRIX), 1.5, 0.3, 1e-12)
    np.testing.assert_allclose(again, spread.policy.weights, atol=1e-4)
    for solution in (spread, sharp):
        assert (np.diff(solution.history["objective"]) <= 1e-12).all()


def test_values_that_are_not_allowed_get_nothing():
    source = text(PLACES, "", "").replace(PLACES, f'{PLACES}\nallowed = "gear <= 0 or x > -0.9"')
    evaluator, evaluation = evaluated(source)
    bad = (evaluation.policy.grid.states[:, :1] <= -0.9) & (np.array([1.0, -1.0, 0.0, 0.4]) > 0.0)
    for strength, tau in itertools.product((0.0, 0.5), (0.5, 1e9)):
        new = transport_step(evaluator, evaluation, tau, strength, False).evaluation
        assert (new.policy.weights[bad] == 0.0).all() and new.objective <= evaluation.objective + 1e-12
    least = wg.solve(Case.from_text(source.replace('method = "proximal"', "")))
    assert wg.solve(Case.from_text(source)).objective == pytest.approx(least.objective, abs=1e-9)


def test_files_keep_the_metric_and_runs_resume_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, steps in (("whole", 4), ("part", 2)):
        source = text(PLACES, f"regularisation = 0.05\nstep = 0.4\nstop = {{ steps = {steps} }}")
        wg.run(Case.from_text(source), f"{name}.h5")
    assert main(["resume", "part.h5", "--set", "flow.stop.steps=4", "--quiet"]) in (0, 1)
    whole, part = (wg.Policy.load(f"{name}.h5") for name in ("whole", "part"))
    np.testing.assert_array_equal(whole.weights, part.weights)
    assert whole.weights.max() < 1.0
    case = Case.from_text(text(PLACES))
    assert Case.from_text(case.to_text()) == case
    np.testing.assert_allclose(case.problem.squared_distances, squares_of(PLACES), atol=1e-15)


def test_two_lists_add_the_squares_of_their_distances():
    source = text(MATRIX).replace("[cost]", "[actions.brake]\nvalues = [0, 3]\n[cost]")
    squares = Case.from_text(source).problem.squared_distances
    for (i, b), (j, c) in itertools.product(itertools.product(range(4), range(2)), repeat=2):
        assert squares[2 * i + b, 2 * j + c] == pytest.approx(squares_of(MATRIX)[i, j] + 9.0 * (b != c))


@pytest.mark.parametrize("distance", ["", MATRIX])
@pytest.mark.parametrize("tau", [0.05, 0.8, 1e6])
def test_beside_bounds_particles_move_in_the_metric_of_the_list(distance, tau):
    """Against all values of the list with 2,001 actions beside each."""
    source = text(distance).replace("[cost]", "[actions.push]\nbounds = [-1, 1]\n[cost]")
    cost = "0.2*abs(gear) + 0.5*(push - 0.2*gear)**2 + 0.1*where(push > 0.3, 1, 0)"
    source = source.replace("0.5*gear", "0.5*gear + 0.3*push").replace("0.2*abs(gear)", cost)
    case = Case.from_text(source + "[policy]\nparticles = 4\n")
    evaluator = Evaluator.from_case(case)
    evaluation = evaluator.evaluate(initial_policy(case, evaluator.model.grid))
    dense, values, squares = dense_of(source), np.array([1.0, -1.0, 0.0, 0.4]), squares_of(distance)
    cells = np.repeat(np.arange(5), 4)
    actions = evaluation.policy.actions.reshape(20, 2)
    found = nearby_minima(evaluation, tau, cells, actions, evaluation.q.ravel())
    grid = np.linspace(-1.0, 1.0, 2001)

    def least_of(cell: int, tried: np.ndarray, action: np.ndarray) -> np.ndarray:
        of = np.full(len(tried), cell)
        q = dense.costs(of, tried) + dense.rows(of, tried) @ evaluation.value
        far = squares[np.flatnonzero(values == action[0])[0], [np.flatnonzero(values == u)[0] for u in tried[:, 0]]]
        return q + (far + (tried[:, 1] - action[1]) ** 2) / (2.0 * tau)

    every = np.array(list(itertools.product(values, grid)))
    for row in range(0, 20, 3):
        least = least_of(cells[row], every, actions[row]).min()
        assert least_of(cells[row], found[row][None], actions[row])[0] <= least + 1e-6


# -- what users read -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distance", "said"),
    [
        ("distance = 3", "expected a matrix"),
        ("distance = [[0, 1], [1]]", "as many numbers for each"),
        ("distance = [[0, 1], [1, 0]]", "expected a matrix of 4 rows of 4 numbers, one for each of the values forward, back"),
        (MATRIX.replace("[2, 0,", "[3, 0,"), "2 from forward to back and 3 back: distances are positive and the same both ways"),
        (MATRIX.replace("[2, 0,", "[2, 1,"), "1 from back to back"),
        (MATRIX.replace("[0, 2,", "[0, 3,").replace("[2, 0,", "[3, 0,"), "longer than the way by idle"),
        (PLACES.replace("crawl = [0, 0]", "crawl = [0, 0.5]"), "0 from idle to crawl"),
        (PLACES.replace("crawl", "crawls"), "crawls: unknown value, did you mean 'crawl'"),
        (PLACES.replace(", crawl = [0, 0]", ""), "crawl has no place"),
    ],
)
def test_what_is_no_metric_is_refused(distance, said):
    with pytest.raises(CaseError, match=rf"actions\.gear\.distance.*{said}"):
        Case.from_text(text(distance))


def test_what_goes_with_nothing_is_refused():
    bounded = text(MATRIX).replace("values = { forward = 1, back = -1, idle = 0, crawl = 0.4 }", "bounds = [-1, 1]")
    with pytest.raises(CaseError, match=r"actions\.gear\.distance: it is one between values of a list"):
        Case.from_text(bounded)
    with pytest.raises(CaseError, match=r"flow\.regularisation: that of method = .proximal. where all actions take values"):
        Case.from_text(bounded.replace(MATRIX, "").replace("[output]", "regularisation = 0.1\n[output]"))
    with pytest.raises(CaseError, match=r"flow\.regularisation"):
        Case.from_text(text("", "regularisation = 0.1").replace('"proximal"', '"exponential"'))
    with pytest.raises(CaseError, match=r"flow\.method: where entropy has a price"):
        Case.from_text(text("", "", "[policy]\nentropy = 0.1\n"))
    unnamed = text(PLACES).replace("{ forward = 1, back = -1, idle = 0, crawl = 0.4 }", "[1, -1, 0, 0.4]")
    with pytest.raises(CaseError, match="places are those of names"):
        Case.from_text(unnamed)
