"""What a user reads when the problem, and not the program, is at fault: the cases in `tests/failures`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wassgrid.case import Case
from wassgrid.chain.stationary import ReducibleChainError
from wassgrid.resources import ResourceError
from wassgrid.runs.grid_solver import GridSolver
from wassgrid.runs.loop import RunFailedError
from wassgrid.runs.solvers import solve
from wassgrid.transition.model import ResolutionError

FOLDER = Path(__file__).parent / "failures"


def load(name: str, *overrides: str) -> Case:
    return Case.load(FOLDER / f"{name}.toml", overrides)


def test_two_absorbing_wells_are_named_with_the_remedy():
    with pytest.raises(ReducibleChainError) as caught:
        solve(load("two_wells"))
    message = str(caught.value)
    assert "2 recurrent classes" in message
    assert "x = -1" in message and "x = 1)" in message
    assert "noise" in message


@pytest.mark.thorough
def test_two_wells_are_well_posed_when_discounted():
    discounted = ("criterion.kind=discounted", "criterion.discount=0.9", "flow.method=rk4")
    before = solve(load("two_wells", *discounted, "flow.stop.steps=0"))
    after = solve(load("two_wells", *discounted, "flow.stop.steps=3"))
    assert after.objective < before.objective


def test_a_periodic_chain_is_solved_and_its_period_reported():
    case = load("two_cycle")
    solution = solve(case)
    expected = case.expect.average_cost
    assert solution.converged
    assert abs(solution.objective - expected.value) <= expected.absolute
    assert solution.summary["period"] == 2
    assert solution.stationary == pytest.approx([0, 0.5, 0, 0.5, 0], abs=1e-12)


def test_an_unstable_loop_gathers_at_the_ends():
    solution = solve(load("unstable_loop"))
    ends = solution.stationary[:4].sum() + solution.stationary[-4:].sum()
    assert ends > 0.5
    assert not solution.converged


def test_a_cost_that_turns_nan_stops_the_run_and_names_the_place():
    with pytest.raises(RunFailedError, match=r"step 3: cost is nan at x=.*a=1\.5"):
        solve(load("nan_cost"))


def test_noise_finer_than_the_grid_is_refused_with_a_number_of_points():
    with pytest.raises(ResolutionError, match=r"grid\.kernel\.x: .* 0\.002 .* at least 1601 points"):
        solve(load("fine_noise"))
    # and the remedy is right
    model = GridSolver.from_case(load("fine_noise", "grid.points={ x = 1601 }")).model
    assert model.noise.min() / model.grid.spacing[0] >= 0.8


TRAP = """
[states.x]
next = "0.5*x + {push}"
noise = "0"
domain = [-2, 2]
[actions.a]
bounds = [-1, 1]
[cost]
stage = "(x - a)**2 + 0.1*x"
[grid]
points = {{ x = 9 }}
kernel = "linear"
[policy]
particles = 1
initial = {{ distribution = "point", mean = "{mean}" }}
[flow]
stop = {{ gap = 1e-8, steps = 20 }}
"""


def test_noise_much_wider_than_the_domain_is_refused_with_what_can_be_computed():
    text = "[states.x]\nnext = '0.9*x + a'\nnoise = '{}'\ndomain = [0, 1]\n[actions.a]\nbounds = [-1, 1]\n"
    text += "[cost]\nstage = 'x**2 + a**2'\n[grid.points]\nx = 21\n[flow]\nstop = {{ steps = 1 }}\n"
    named = r"states.x: noise of up to 1e\+05 on a domain of 1.05 covers .*; up to [\d.]+ can be"
    with pytest.raises(ResourceError, match=named) as refused:
        solve(Case.from_text(text.format("1e5")))
    most = re.search(r"up to ([\d.]+) can be computed", str(refused.value))
    assert most is not None
    solve(Case.from_text(text.format(0.99 * float(most[1]))))


def test_classes_that_arise_in_a_run_are_named_with_the_remedy():
    """Under the first policy all cells lead to x = 0; actions near sign(x) make traps of both ends."""
    text = TRAP.format(push="a", mean="0").replace("(x - a)**2 + 0.1*x", "(abs(x) - 2)**2 + 0.1*(a - sign(x))**2")
    with pytest.raises(RunFailedError, match=r"step \d+: states: .* recurrent classes, at cell .* and at cell .* noise"):
        solve(Case.from_text(text))


TWINS = """
[states.x]
next = "x + a"
domain = [-2, 2]
[states.y]
next = "0.5*y"
noise = "0.6"
domain = [-2, 2]
[actions.a]
bounds = [-2, 2]
[cost]
stage = "(x**2 - 1)**2 + 0.02*a**2 + 0.3*y**2*(1 + 0.2*x**2)"
[grid]
points = { x = 16, y = 15 }
levels = 1
[policy]
particles = 1
initial = { distribution = "point", mean = "-x" }
"""


@pytest.mark.thorough
def test_classes_of_equal_cost_that_arise_in_a_run_are_named():
    """Under the first policy all cells lead to x = 0, under the best one half of them to either well: V exists all the same."""
    with pytest.raises(RunFailedError, match=r"step \d+: states: .* 2 recurrent classes, at cell .* and at cell .* noise"):
        solve(Case.from_text(TWINS))
    # discounted, what it costs is known from everywhere
    assert solve(Case.from_text(TWINS + '[criterion]\nkind = "discounted"\ndiscount = 0.9\n')).converged


def test_a_problem_without_noise_is_solved_where_the_chain_has_one_class():
    solution = solve(Case.from_text(TRAP.format(push="0.1*a", mean="0.2")))
    assert solution.converged, solution.reason
    low, high = solution.objective, solution.record["upper_end"]
    assert low <= high + 1e-12
