"""What a run says of itself at its end, and when that is."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from newcomers import LINE, PLAIN

import wassgrid as wg
from wassgrid.case.tables import DEFAULT_GAP
from wassgrid.certificate import certify
from wassgrid.cli import main
from wassgrid.runs import grid_solver
from wassgrid.runs.stopping import Headway

CASES = Path(__file__).resolve().parent.parent / "cases"


@pytest.mark.thorough
@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_case_ends_well_and_as_near_to_the_optimum_as_is_said(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("plain.toml").write_text(PLAIN[name])
    assert main(["run", "plain.toml"]) == 0
    said = capsys.readouterr().out
    assert "proven" in said and not re.search(r"(to|within|gap) -\d", said)
    with wg.ResultFile("plain.h5") as result:
        assert result.status == "converged"
        last = {key: float(values[-1]) for key, values in result.convergence.items()}
    assert last["upper_end"] - last["lower_bound"] <= DEFAULT_GAP * last["cost_scale"]
    assert last["upper_end"] - last["lower_bound"] >= -1e-12 * last["cost_scale"]


def test_a_gap_that_no_arithmetic_reaches_ends_the_run_at_once_and_incomplete():
    solution = wg.solve(wg.Case.from_text(LINE, "line", ["flow.stop.gap=1e-18"]))
    assert not solution.complete and solution.record["step"] < 20
    assert "optimal on this grid to" in solution.reason and not re.search(r"(to|within|gap) -\d", solution.reason)


def test_a_kernel_that_proves_nothing_ends_a_default_run_where_no_better_action_is_found():
    case = wg.Case.from_text(PLAIN["noise_free_position"], "plain", ["grid.kernel={position='cubic'}"])
    solution = wg.solve(case)
    assert solution.complete and solution.status == "stopped" and "nothing is proven" in solution.reason
    assert solution.record["step"] < 12
    # asked for a gap, the same run has failed to prove it
    asked = wg.solve(wg.Case.from_text(case.to_text(), "plain", ["flow.stop.gap=1e-6"]))
    assert not asked.complete and "nothing is proven" in asked.reason


def test_headway_counts_the_steps_that_came_to_nothing():
    now = Headway()
    for gap, upper in ((1.0, 5.0), (0.9, 5.0), (0.8, 5.0)):
        now = now.after(gap, upper, 3.0)
    assert now.idle == 2 and not now.stalled(False)
    assert now.after(0.45, 5.0, 3.0).idle == 0  # the gap has halved
    assert now.after(0.9, 4.98, 3.0).idle == 0  # J has fallen by more than a hundredth of it
    assert now.after(0.9, 5.0, 2.9).idle == 0  # V's range has fallen: seldom visited cells get better
    for _ in range(6):
        now = now.after(0.8, 5.0, 3.0)
    assert now.stalled(False) and now.stalled(True)


@pytest.mark.thorough
@pytest.mark.parametrize("stop", ["{ relative_gap = 1e-6 }", "{ gradient_norm = 1e9 }", "{ steps = 3 }"])
@pytest.mark.parametrize("above", [1e-9, 1.0, math.inf])
def test_a_bound_above_the_cost_of_the_policy_is_claimed_nowhere(above, stop, tmp_path, monkeypatch, capsys):
    def faulty(evaluation, *given):
        return replace(certify(evaluation, *given), lower_bound=evaluation.bracket[1] + above, guaranteed=True)

    monkeypatch.setattr(grid_solver, "certify", faulty)
    monkeypatch.chdir(tmp_path)
    Path("line.toml").write_text(LINE)
    overrides = [f"flow.stop={stop}", "flow.proof='always'"]
    solution = wg.solve(wg.Case.from_text(LINE, "line", overrides))
    assert math.isnan(solution.lower_bound) and not solution.complete and not solution.converged
    assert "nothing is claimed" in solution.reason and "nothing is claimed" in solution.summary["certificate"]
    assert main(["run", "line.toml", *(f"--set={override}" for override in overrides)]) == 1
    assert "lower bound" not in capsys.readouterr().out
    with wg.ResultFile("line.h5") as result:
        assert result.status == "stopped" and "nothing is claimed" in result.reason
        assert np.isnan(result.convergence["lower_bound"]).all()
    # a resumed run finds the same
    assert main(["resume", "line.h5", "--set=flow.stop.steps=9"]) == 1
    with wg.ResultFile("line.h5") as result:
        assert "nothing is claimed" in result.reason and np.isnan(result.convergence["lower_bound"]).all()
