"""Values of lists that are not allowed in some states (`actions.NAME.allowed`): optimum, proof, policies, messages."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from oracle import DenseProblem

import wassgrid as wg
from wassgrid.case import Case, CaseError
from wassgrid.policy import ParticlePolicy
from wassgrid.problem.control_problem import ProblemError
from wassgrid.runs.grid_solver import GridSolver

pytestmark = pytest.mark.thorough

LINE = """
[states.x]
next = "0.8*x + 0.5*gear*PUSH"
noise = "0.6"
domain = [-2, 2]
[actions.gear]
values = [-1, 0, 1]
allowed = "gear <= 0 or x > -0.9"
[cost]
stage = "x**2 + 0.1*abs(gear)*PUSH + 0.4*where(gear == 0, 1, 0)"
[grid]
points = { x = 7 }
kernel = "gaussian"
[output]
estimate = true
"""
THROTTLE = '[actions.throttle]\nbounds = [0, 1]\n'


def text(push: str = "1", more: str = "") -> str:
    return LINE.replace("PUSH", push).replace("[cost]", more + "[cost]")


def forbidden(dense: DenseProblem, cells: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The condition of LINE, once more."""
    return (actions[:, 0] > 0) & ~(dense.states["x"][cells] > -0.9)


@pytest.mark.parametrize("criterion", ["", '[criterion]\nkind = "discounted"\ndiscount = 0.9\n'])
def test_no_policy_that_is_allowed_is_better(criterion):
    """All 3^5 x 2^2 policies of the list by dense linear algebra; the best of all 3^7 is better and not allowed."""
    dense, case = DenseProblem(text() + criterion), Case.from_text(text() + criterion)
    every = dense.candidates(np.zeros((7, 1, 1)))
    cells = np.repeat(np.arange(7), 3)
    rows, cost = dense.rows(cells, every.reshape(21, 1)).reshape(7, 3, 7), dense.costs(cells, every.reshape(21, 1)).reshape(7, 3)
    bad = forbidden(dense, cells, every.reshape(21, 1)).reshape(7, 3)
    assert bad.sum() == 2
    found, least, of = {}, np.inf, np.arange(7)
    for chosen in itertools.product(range(3), repeat=7):
        found[chosen] = dense.value(rows[of, chosen], cost[of, chosen])[0]
        if not bad[of, chosen].any():
            least = min(least, found[chosen])
    assert least > min(found.values()) + 1e-3
    for method in ("policy_iteration", "exponential"):
        solution = wg.solve(case if method == "policy_iteration" else Case.from_text(text() + criterion, overrides=[
            "flow.method=exponential", "flow.stop.gap=1e-9"]))  # fmt: skip
        assert solution.converged and solution.objective == pytest.approx(least, abs=1e-9)
        assert solution.lower_bound <= least + 1e-12 <= solution.lower_bound + 2e-9
        assert (solution.policy.weights[bad] == 0.0).all()
    assert solution.summary["estimate"]["value"] > min(found.values())


@pytest.mark.parametrize("way", [[], ["flow.method=proximal"], ["flow.geometry=wasserstein_fisher_rao"]])
def test_beside_a_throttle(way):
    case = Case.from_text(text("throttle", THROTTLE), overrides=["policy.particles=6", "output.estimate=false", *way])
    solution = wg.solve(case)
    dense, policy = DenseProblem(text("throttle", THROTTLE)), solution.policy
    own = np.repeat(np.arange(7), 6)
    assert not forbidden(dense, own, policy.actions.reshape(-1, 2)).any()
    least = dense.optimum(policy.actions, policy.weights, lambda cells, actions: forbidden(dense, cells, actions))
    free = dense.optimum(policy.actions, policy.weights)
    assert solution.converged and free < least - 1e-3
    assert solution.lower_bound <= least + 1e-12 <= solution.lower_bound + 3e-6
    assert solution.objective == pytest.approx(dense.value(*dense.chain(policy.actions, policy.weights))[0], abs=1e-11)


def test_combinations_give_way_to_the_nearest_that_are_allowed():
    case = Case.from_text(text("1", '[actions.brake]\nvalues = [0, 1]\nallowed = "gear == 0 or brake == 0"\n'))
    states = np.array([[-1.0], [1.0]])
    given = np.tile([[1.0, 1.0], [1.0, 0.0], [-1.0, 1.0], [0.0, 1.0]], (2, 1, 1))
    found = case.problem.admitted(states, given)
    # at -1 the gear 1 is not allowed; (1, 1) is as far from (0, 1) as from (1, 0) where both are
    np.testing.assert_array_equal(found[0], [[0, 1], [0, 0], [-1, 0], [0, 1]])
    np.testing.assert_array_equal(found[1], [[0, 1], [1, 0], [-1, 0], [0, 1]])
    tables = case.problem.action_tables(states, given, 0)
    np.testing.assert_array_equal(tables.cost, case.problem.action_tables(states, found, 0).cost)


@pytest.mark.parametrize(("push", "more"), [("1", ""), ("throttle", THROTTLE)], ids=["list", "beside"])
def test_between_cells_nothing_is_drawn_that_is_not_allowed_there(push, more, tmp_path):
    case = Case.from_text(text(push, more), "gears", ["output.estimate=false", "flow.stop.steps=1"])
    path = tmp_path / "gears.h5"
    wg.run(case, path)
    grid = GridSolver.from_case(case).grid
    policy = wg.Policy.load(path)
    always = policy.moved(np.where(np.arange(policy.action_dimension) == 0, 1.0, policy.actions)) if more else policy.moved(
        policy.actions, np.tile([0.0, 0.0, 1.0], (7, 1)))  # fmt: skip
    assert isinstance(always, ParticlePolicy) and grid.size == 7
    places = np.linspace(-2, 2, 401)[:, None]
    for drawn in (always.sample(places, np.random.default_rng(0)), always.mode(places)):
        np.testing.assert_array_equal(drawn[:, 0], np.where(places[:, 0] > -0.9, 1.0, 0.0))
    law = always.distribution([-1.5])
    assert (law.actions[law.weights > 0, 0] == 0.0).all()


def test_states_without_any_value_are_named():
    with pytest.raises(ProblemError, match=r"actions.gear.allowed: at x=-2 no value is left.*gear"):
        wg.solve(Case.from_text(text().replace("gear <= 0 or x > -0.9", "x > -1.5 and gear < 2")))
    for condition, message in (
        ("gear <= 0 or speed > 1", "actions.gear.allowed: unknown name 'speed'"),
        ("gear > 5 and gear < 4 and 1 > 2", "no value is allowed"),
        ("throttle > 0.5", "actions.gear.allowed: .*lists only, not on the action throttle"),
    ):
        with pytest.raises(CaseError, match=message):
            Case.from_text(text("throttle", THROTTLE).replace("gear <= 0 or x > -0.9", condition))
    with pytest.raises(CaseError, match=r"actions.throttle.allowed: throttle takes no values"):
        Case.from_text(text("throttle", THROTTLE + 'allowed = "x > 0"\n'))
    with pytest.raises(CaseError, match=r"actions.gear.allowed: a reference law"):
        Case.from_text(text(), overrides=["policy.entropy=0.1"])
