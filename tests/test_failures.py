"""What a user reads when the problem, and not the program, is at fault: the cases in `tests/failures`."""

from __future__ import annotations

from pathlib import Path

import pytest

from wassgrid.case import Case
from wassgrid.chain.stationary import ReducibleChainError
from wassgrid.run.grid_solver import GridSolver
from wassgrid.run.loop import RunFailedError
from wassgrid.run.solvers import solve
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
