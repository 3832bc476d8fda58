"""Cases at the edge of what the methods assume: constant costs, stiff cells nobody visits, vanishing gradients, traps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from wassgrid.case import Case
from wassgrid.certificate import certify
from wassgrid.chain.stationary import stationary_law
from wassgrid.runs.grid_solver import GridSolver
from wassgrid.runs.solvers import solve
from wassgrid.simulate import ergodic_cost
from wassgrid.transition.sparse import TransitionOperator

WALK = """
[states.x]
next = "{next}"
noise = "{noise}"
domain = [-3, 3]
[actions.a]
bounds = [-1, 1]
[cost]
stage = "{cost}"
[grid.points]
x = 31
[policy]
particles = {particles}
[policy.initial]
distribution = "point"
mean = "{mean}"
[flow]
stop = {{ gap = 1e-9, steps = 30 }}
"""


def walk(cost: str, mean: str, particles: int = 1, following: str = "0.9*x + a", noise: float = 0.3) -> str:
    return WALK.format(next=following, noise=noise, cost=cost, mean=mean, particles=particles)


@pytest.mark.parametrize(
    ("cost", "mean", "optimum"),
    [("a**2", "0.3", 0.0), ("1 + 0*a", "0", 1.0), ("a**2 + 1", "0.3*x", 1.0), ("(a - 0.1)**2 + 0.3", "0.3", 0.3)],
)
def test_costs_that_do_not_depend_on_the_state(cost, mean, optimum):
    """c - J is rounding, or becomes so."""
    solution = solve(Case.from_text(walk(cost, mean, particles=2)))
    assert solution.objective == pytest.approx(optimum, abs=1e-12)
    assert solution.converged, solution.reason


def test_a_cost_of_the_action_alone_when_discounted():
    solution = solve(Case.from_text(walk("a**2", "0.3") + '[criterion]\nkind = "discounted"\ndiscount = 0.9\n'))
    assert solution.objective == pytest.approx(0.0, abs=1e-12)
    assert solution.converged, solution.reason


def test_newton_goes_on_from_a_vanishing_gradient_by_escape():
    """Every particle is held by a bound, in a local minimum of Q."""
    cost = "x**2 + (a + 0.1)**2*(a - 1)*(a - 2) - 0.1*a*x"
    solution = solve(Case.from_text(walk(cost, "1", following="0.5*x", noise=0.4)))
    assert solution.converged, solution.reason


def test_cells_that_are_hardly_ever_visited_do_not_fly_apart():
    """An explicit step that suits the cells with mass is unstable in others, and J does not see it."""
    text = """
[states.x]
next = "0.9*x + sin(a)*b"
noise = "0.4"
domain = [-3, 3]
[actions.a]
[actions.b]
bounds = [-1, 1]
[cost]
stage = "(x - 1)**2 + 0.1*a**2 + 0.2*b**2 + 0.1*a*b"
[grid.points]
x = 31
[policy]
particles = 3
weights = [1, 2, 5]
[policy.initial]
distribution = "normal"
mean = "0.1"
std = "0.5"
[flow]
method = "rk4"
stop = { steps = 60 }
"""
    solver = GridSolver.from_case(Case.from_text(text))
    state, tamed = solver.start(), 0.0
    for _ in range(60):
        state = solver.advance(state)
        tamed += state.facts["tamed"]
    assert tamed > 0
    assert np.abs(state.evaluation.policy.actions).max() < 40
    assert state.evaluation.objective < 0.2495  # newton: 0.248874582
    assert certify(state.evaluation).lower_bound > -100


def test_a_step_that_was_cut_at_the_flow_time_leaves_the_step_length_alone():
    text = walk("x**2 + a**2", "-0.3*x").replace("[flow]\n", '[flow]\nmethod = "rk4"\n')
    solver = GridSolver.from_case(Case.from_text(text))
    state = solver.advance(solver.start())
    horizon = f"flow.stop={{flow_time = {state.flow_time + 1e-12!r}}}"
    short = GridSolver.from_case(Case.from_text(text, overrides=[horizon]))
    last = short.advance(replace(state))
    assert last.flow_time - state.flow_time < 1e-11
    assert last.step_size >= state.step_size


def test_a_trap_that_leaks_is_not_a_recurrent_class():
    """The most likely cell of the start is transient, and the one recurrent class absorbs."""
    n = 61
    matrix = np.zeros((n, n))
    for k in range(n - 1):
        matrix[k, k + 1] = 0.5
        matrix[k, max(k - 1, 0)] += 0.5
    matrix[20] = 0.0
    matrix[20, 20], matrix[20, 21] = 1 - 1e-6, 1e-6
    matrix[n - 1, n - 1] = 1.0
    for method in ("auto", "lu"):
        result = stationary_law(TransitionOperator.from_matrix(matrix), method=method)
        assert result.converged, result.reason
        assert result.law[n - 1] == pytest.approx(1.0, abs=1e-9)


def test_simulation_starts_from_a_law_with_a_little_negative_mass():
    case = Case.from_text(walk("x**2 + a**2", "-0.3*x"))
    solution = solve(case)
    law = solution.stationary.copy()
    law[0] = -1e-6
    assert ergodic_cost(case.problem, solution.policy, law, 8, 10, 2, np.random.default_rng(0)).mean > 0


def test_the_discounted_start_is_uniform_over_the_domain_to_second_order():
    """x' = x/2 + noise, cost x^2, no control: (1 - g) sum_t g^t E x_t^2 in closed form for a uniform start on [-4, 4]."""
    g, variance, start = 0.8, 0.09, 16 / 3
    exact = (1 - g) * (start / (1 - g / 4) + variance * (1 / (1 - g) - 1 / (1 - g / 4)) / 0.75)
    errors = []
    for points in (41, 81):
        text = f"""
[states.x]
next = "0.5*x"
noise = "0.3"
domain = [-4, 4]
[actions.a]
bounds = [-1, 1]
[cost]
stage = "x**2 + 0*a"
[criterion]
kind = "discounted"
discount = {g}
[grid.points]
x = {points}
[flow]
stop = {{ steps = 0 }}
"""
        errors.append(abs(solve(Case.from_text(text)).objective - exact))
    assert errors[1] < 2e-3 * exact
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.1)


def test_ends_of_the_uniform_start_that_are_not_given_are_the_bounds():
    text = """
[states.x]
next = "0.5*x + a + b"
noise = "0.5"
domain = [-3, 3]
[actions.a]
bounds = [-1, 0.5]
[actions.b]
[cost]
stage = "x**2 + a**2 + b**2"
[grid.points]
x = 13
[policy]
initial = { distribution = "uniform", low = { b = 2 }, high = { b = "3" } }
"""
    actions = GridSolver.from_case(Case.from_text(text)).start().evaluation.policy.actions
    assert -1 <= actions[..., 0].min() < -0.9 and 0.4 < actions[..., 0].max() <= 0.5
    assert 2 <= actions[..., 1].min() and actions[..., 1].max() <= 3


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["newton", "rk4"])
@pytest.mark.parametrize(
    ("term", "least"),
    [("sqrt(abs(a - 0.25))", 0.0), ("abs(a)**0.7", 0.0), ("(a + 1)**0.5", 0.0), ("abs(a - 0.25)**1.5 + log(a + 1.01)", None)],
)
def test_cusps_and_ends_of_the_domain_of_a_cost_end_no_run(term, least, method):
    """The derivative is 0 times infinity where the least cost is, or trials leave the domain."""
    text = walk(term, "0.5", particles=2, following="0.5*x").replace("[flow]\n", f'[flow]\nmethod = "{method}"\n')
    if "log" in term:
        text = text.replace("bounds = [-1, 1]\n", "")
    solution = solve(Case.from_text(text))
    assert np.isfinite(solution.objective)
    if least is not None and method != "rk4":
        assert solution.objective == pytest.approx(least, abs=1e-6)


def test_noise_that_no_number_of_points_carries_is_reported():
    """The spacing over the noise is beyond the doubles."""
    solution = solve(Case.from_text(walk("x**2 + a**2", "0", noise="5e-324").replace("steps = 30", "steps = 1")))
    assert [axis["points"] for axis in solution.summary["resolution"]] == [None]


WITHOUT_NOISE = """
[states.x]
next = "x + 0.1*(y - x + u)"
noise = {noise}
domain = [-1, 1]
[states.y]
next = "y + 0.1*(x - y + v)"
noise = {noise}
domain = [-1, 1]
[actions.u]
[actions.v]
[cost]
stage = "x**2 + y**2 + u**2 + v**2"
[grid]
points = {{ x = 11, y = 11 }}
[flow]
stop = {{ steps = 1 }}
"""


@pytest.mark.thorough
def test_noise_that_no_law_shows_is_none():
    """Its square is zero: bounds of the kernel's derivatives divided by it, and a bound of 1.8e308 was called proven."""
    found = [solve(Case.from_text(WITHOUT_NOISE.format(noise=noise))) for noise in ("0.0", "5e-324", "1e-200")]
    assert len({(solution.objective, solution.lower_bound) for solution in found}) == 1
    assert found[0].lower_bound < found[0].objective
    # chains without noise never forget their start: what that takes is counted before
    assert "refused" in found[0].summary["estimate"]


def test_an_estimate_that_meets_infinite_costs_is_left_out():
    """The run itself never takes such an action; the search off the grid tries the bounds."""
    text = walk("x**2 + 0.1*a**2", "-x").replace("bounds = [-1, 1]", "bounds = [-1e308, 1]") + "[output]\nestimate = true\n"
    solution = solve(Case.from_text(text))
    assert solution.objective < 0.1
    assert "cost is inf" in solution.summary["estimate"]["refused"]
