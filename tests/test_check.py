"""The dry run of a case: what it reports, and that it sees what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from wassgrid.advice import suggest
from wassgrid.case import Case
from wassgrid.check import CheckReport, Finding, check_case, findings, suggestions
from wassgrid.cli import main
from wassgrid.differences import check_derivatives
from wassgrid.evaluation import Evaluator
from wassgrid.grid import StateGrid, misalignment
from wassgrid.policy import initial_policy
from wassgrid.problem.control_problem import ActionTables, ControlProblem
from wassgrid.problem.exact import HeatBathPendulum, ScalarLQ
from wassgrid.runs.solvers import solve
from wassgrid.transition.model import TransitionModel

FLOW = {"method": "heun", "stop": {"steps": 3}}
REGULATOR = ScalarLQ().case_text(
    31, policy={"particles": 3, "initial": {"distribution": "normal", "mean": "-0.5*x", "std": 0.3}}, flow=FLOW
)


def texts(report: CheckReport, name: str) -> list[str]:
    return [finding.text for finding in report.findings if finding.name == name]


def shown(report: CheckReport) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        for part in report.parts():
            console.print(part)
    return capture.get()


def test_a_sound_case_passes() -> None:
    case = Case.from_text(REGULATOR, "regulator")
    report = check_case(case)
    assert report.passed
    assert [finding.name for finding in report.findings] == [
        "memory", "recurrent classes", "initial policy", "gradient", "Hessian", "time",
    ]  # fmt: skip
    assert texts(report, "recurrent classes")[0].startswith("1 under the initial policy, 31 of 31 cells; ")
    assert texts(report, "time")[0].endswith("for the whole run of 3 steps")
    assert report.resolution[0]["physical"] == pytest.approx(1.0)
    printed = shown(report)
    assert "regulator: Scalar linear-quadratic regulator" in printed
    assert "numerical std" in printed


def test_findings_come_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory before anything is evaluated."""
    monkeypatch.setattr(Evaluator, "evaluate", None)
    found = findings(Case.from_text(REGULATOR))
    first = next(found)
    assert isinstance(first, Finding) and first.name == "memory"


def test_the_time_of_a_run_follows_its_pace() -> None:
    """Where a tolerance is asked for, the limit on the steps is no estimate."""
    stop = {"gradient_norm": 1e-10, "steps": 100_000}
    text = ScalarLQ().case_text(
        31, policy={"particles": 3, "initial": {"distribution": "normal", "mean": "-0.5*x", "std": 0.3}},
        flow={"method": "heun", "step": 0.05, "stop": stop},
    )  # fmt: skip
    (time,) = texts(check_case(Case.from_text(text)), "time")
    assert "at the pace of the first 4, at most about" in time and time.endswith("for 100000 steps")


def derivatives(case: Case, problem: ControlProblem | None = None) -> tuple[float, float, float]:
    evaluator = Evaluator.from_case(case)
    if problem is not None:
        evaluator = replace(evaluator, model=replace(evaluator.model, problem=problem))
    found = check_derivatives(evaluator, evaluator.evaluate(initial_policy(case, evaluator.model.grid)))
    assert found.passed == (problem is None)
    return found.slope_error, found.curvature_error, found.kinks


def test_derivatives_agree_to_many_digits() -> None:
    slope, curvature, kinks = derivatives(Case.from_text(REGULATOR))
    assert slope < 1e-9 and curvature < 1e-9 and kinks == 0.0


@pytest.mark.parametrize(
    ("table", "factor", "seen"),
    [
        ("cost_gradient", 1.001, "gradient"),
        ("mean_gradient", 1.001, "gradient"),
        ("cost_hessian", 0.98, "Hessian"),
        ("cost_hessian", 0.0, "kinks"),
    ],
)
def test_wrong_derivatives_are_seen(monkeypatch: pytest.MonkeyPatch, table: str, factor: float, seen: str) -> None:
    """The check can fail: tables of a problem whose derivative is off."""
    original = ControlProblem.action_tables

    def wrong(
        self: ControlProblem, states: np.ndarray, actions: np.ndarray, order: int, strict: bool = True
    ) -> ActionTables:
        tables = original(self, states, actions, order, strict)
        values = getattr(tables, table)
        return tables if values is None else replace(tables, **{table: factor * values})

    monkeypatch.setattr(ControlProblem, "action_tables", wrong)
    report = check_case(Case.from_text(REGULATOR))
    assert not report.passed
    assert seen in [finding.name for finding in report.findings if not finding.passed]


def test_particles_at_kinks_are_left_alone() -> None:
    """abs(u) has a kink at 0, where a fifth of the uniform particles stand within reach."""
    case = Case.from_text(REGULATOR.replace("r*u**2", "r*u**2 + 0.1*abs(u - 0.3*x)"))
    report = check_case(case)
    assert report.passed
    slope, curvature, kinks = derivatives(case)
    assert slope < 1e-8 and curvature < 1e-8
    assert 0.0 < kinks < 0.1
    assert texts(report, "kinks")[0].startswith(f"{100 * kinks:.3g} %")


def test_clamped_ends_that_are_felt_are_named() -> None:
    report = check_case(Case.from_text(REGULATOR, overrides=["states.x.domain=[-2, 2]"]))
    assert "of the time is spent at the ends of x" in texts(report, "domain")[0]


KINKED = """
[states.x]
next = "0.9*x + u"
noise = 0.3
domain = [-1, 1]
boundary = "project"
[actions.u]
bounds = [-0.2, 0.2]
[cost]
stage = "abs(x - 0.5) + max(u, 0.1*x) + clip(0.1, 0, 1)"
[grid]
points = { x = 41 }
"""


def test_what_wants_points_beside_the_noise_is_named() -> None:
    case = Case.from_text(KINKED, "kinked")
    assert case.problem.kinks == ("abs, max in cost.stage",)
    (text,) = texts(check_case(case), "beside the noise")
    assert text.startswith("abs, max in cost.stage; u at its bounds in ")
    held, ends = (float(text.split(before)[1].split()[0]) for before in ("its bounds in ", "ends of x, "))
    assert "(under the policy after 4 steps)" in text
    # the same steps as a run, and its own law
    settings = ["flow.stop.steps=4", "output.estimate=false"]
    solution = solve(Case.from_text(KINKED, "kinked", settings))
    law, policy = solution.stationary.ravel(), solution.policy
    assert held == pytest.approx(law @ (policy.weights * (abs(policy.actions[:, :, 0]) == 0.2)).sum(axis=1), rel=0.01)
    assert ends == pytest.approx(law[0] + law[-1], rel=0.01)


def test_a_suggestion_says_that_it_looked_at_the_noise_alone() -> None:
    for settings in ([], ["grid.points.x=3"]):
        first, *_, last = [found.text for found in suggestions(Case.from_text(KINKED, "kinked", settings))]
        assert first.startswith("--set" if settings else "none for the noise: this grid carries it")
        assert last.startswith("the noise alone was looked at here") and "problem itself" in last


def test_alignment_is_proposed_where_it_is_possible() -> None:
    heat = HeatBathPendulum()
    tables = {"policy": {"particles": 1, "initial": {"distribution": "point", "mean": "0"}}, "flow": FLOW}
    loose = check_case(Case.from_text(heat.case_text({"theta": 24, "omega": 15}, step=0.5, **tables)))
    assert loose.passed
    (hint,) = texts(loose, "alignment")
    assert "means of theta, which has no noise, lie up to" in hint
    assert 'possible: grid.points.omega = "aligned" (24 x ' in hint
    tight = check_case(Case.from_text(heat.case_text({"theta": 24, "omega": "aligned"}, step=0.5, **tables)))
    assert texts(tight, "alignment") == ["means of theta lie on grid points: no numerical diffusion there"]


def test_no_alignment_is_offered_to_an_axis_that_actions_move() -> None:
    """For one action its steps end on grid points, for others between them."""
    text = DOUBLE_INTEGRATOR.replace('drift = "v"', 'drift = "next(v) - a"').replace("0.1*a**2", "a**2")
    case = Case.from_text(text, "moved", ['grid.points={x = 21, v = "aligned"}'])
    (said,) = texts(check_case(case), "alignment")
    assert said.startswith("means of x, which has no noise, may move with the action")
    coarse = Case.from_text(text, "moved", ["grid.points={x = 61, v = 7}"])
    assert [found.text for found in suggest(coarse, StateGrid.from_case(coarse))] == ["resolves the noise of every axis"]


def test_memory_over_the_limit_fails_before_anything_is_built() -> None:
    report = check_case(Case.from_text(REGULATOR, overrides=["solver.memory=1e-6"]))
    assert [finding.name for finding in report.findings] == ["memory"]
    assert "raise solver.memory" in texts(report, "memory")[0]


def test_two_recurrent_classes_fail() -> None:
    text = REGULATOR.replace('next = "a*x + b*u"', 'next = "x"').replace("gaussian", "linear")
    text = text.replace('noise = "sigma"', 'noise = "0"')
    report = check_case(Case.from_text(text))
    assert not report.passed
    assert "31 under the initial policy" in texts(report, "recurrent classes")[0]
    assert "cell 0 (x = " in texts(report, "recurrent classes")[0]


def test_command_line_says_it_by_its_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "regulator.toml"
    path.write_text(REGULATOR)
    assert main(["check", str(path)]) == 0
    assert "relative error against differences of J" in capsys.readouterr().out
    assert main(["check", str(path), "--set", "solver.memory=1e-6"]) == 1
    assert "FAILED" in capsys.readouterr().out


DOUBLE_INTEGRATOR = """
[time]
step = 0.1
[states.x]
drift = "v"
domain = [-3, 3]
[states.v]
drift = "a"
diffusion = "0.5"
domain = [-1.5, 1.5]
[actions.a]
bounds = [-1, 1]
[cost]
rate = "x**2 + 0.1*v**2 + 0.1*a**2"
[grid]
points = { x = 61, v = 41 }
[policy]
initial = { distribution = "point", mean = "-x - v" }
"""


def test_no_alignment_is_offered_that_takes_points_away() -> None:
    """v = "aligned" is possible here, with 5 points."""
    case = Case.from_text(DOUBLE_INTEGRATOR, "integrator")
    assert StateGrid.build(case.problem, {"x": 61, "v": "aligned"}).shape == (61, 5)
    (text,) = texts(check_case(case), "alignment")
    assert "possible" not in text and "--suggest" in text


def test_what_is_suggested_resolves_the_noise_and_takes_no_points_away() -> None:
    case = Case.from_text(DOUBLE_INTEGRATOR.replace("v = 41", "v = 7"), "integrator")
    grid = StateGrid.from_case(case)
    assert [f.level for f in findings(case) if isinstance(f, Finding) and f.name == "noise"] == ["warn"]
    found = suggest(case, grid)
    assert found
    for suggestion in found:
        better = StateGrid.from_case(Case.from_text(case.to_text(), "better", suggestion.settings))
        assert better.shape == suggestion.shape and all(np.array(better.shape) >= grid.shape)
        noise = 0.5 * np.sqrt(0.1)
        assert noise / better.spacing[1] >= 0.5 - 1e-9
    assert "aligned" in found[0].settings[0]
    model = TransitionModel.from_case(Case.from_text(case.to_text(), "better", found[0].settings))
    assert misalignment(case.problem, model.grid, 0) < 1e-6
    # the time step resolves it too, on the points there are
    (text,) = [f.text for f in suggestions(case) if "time.step" in f.text]
    step = float(text.split("time.step=")[1].split()[0])
    assert 0.5 * np.sqrt(step) / grid.spacing[1] == pytest.approx(0.5, rel=1e-2)


@pytest.mark.thorough
@pytest.mark.parametrize("noise", ["5e-324", "1e-310", "1e-200", "1e-9"])
def test_noise_that_no_grid_would_show_asks_for_no_points(tmp_path: Path, noise: str) -> None:
    path = tmp_path / "quiet.toml"
    path.write_text(DOUBLE_INTEGRATOR)
    assert main(["check", str(path), "--suggest", "--set", f'states.v.diffusion="{noise}"']) in (0, 1)


def test_warnings_do_not_fail_a_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "integrator.toml"
    path.write_text(DOUBLE_INTEGRATOR)
    assert main(["check", str(path), "--suggest"]) == 0
    said = capsys.readouterr().out
    assert "warn" in said and "FAILED" not in said and "a defect" not in said and "--set" in said


def test_noise_that_is_next_to_none_is_resolved_by_no_grid() -> None:
    text = """
[states.x]
next = "0.5*x + a"
noise = 5e-324
domain = [-1, 1]
[actions.a]
bounds = [-1, 1]
[cost]
stage = "x**2 + a**2"
[grid]
points = { x = 21 }
"""
    case = Case.from_text(text, "line")
    assert suggest(case, StateGrid.from_case(case)) == []
