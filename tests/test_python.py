"""wassgrid as a library: cases from tables, solving, starting from what is known, what a solution can do, and the examples."""

from __future__ import annotations

import doctest
import importlib
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from bad_cases import BAD_CASES, GOOD

import wassgrid as wg
from wassgrid.cli import main
from wassgrid.runs.loop import StepRecord
from wassgrid.runs.start import Start
from wassgrid.storage import ResultFile

ROOT = Path(__file__).resolve().parent.parent
CASE = """
title = "a state that is held"

[states.s]
next   = "0.8*s + a"
noise  = 0.3
domain = [-2.0, 2.0]
unit   = "m"

[actions.a]
bounds = [-1.0, 1.0]
unit   = "N"

[cost]
stage = "s**2 + 0.1*a**2"
unit  = "J"

[grid]
points = { s = 21 }

[policy]
particles = 4
"""
PLANE = """
[states.x]
next     = "x + 0.3*sin(x) + 0.5*u"
noise    = 0.5
domain   = ["-pi", "pi"]
boundary = "periodic"
[states.y]
next     = "0.9*y + 0.5*v"
noise    = 0.5
domain   = [-2, 2]
[actions.u]
bounds = [-1, 1]
[actions.v]
bounds = [-1, 1]
[cost]
stage = "1 - cos(x) + y**2 + 0.1*u**2 + 0.1*v**2"
[grid]
points = { x = 24, y = 15 }
[policy]
particles = 2
"""


def held(*overrides: str, text: str = CASE) -> wg.Case:
    return wg.Case.from_text(text, "held", overrides)


@pytest.fixture(scope="module")
def solution() -> wg.Solution:
    return wg.solve(held())


# ---- examples ----


@pytest.mark.parametrize(
    "name",
    ["case.file", "case.functions", "geometry", "load_policy", "policy", "problem.states", "second_order", "solution", "text"],
)
def test_examples_of_the_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cases").symlink_to(ROOT / "cases")
    found = doctest.testmod(importlib.import_module(f"wassgrid.{name}"))
    assert found.attempted > 0
    assert found.failed == 0


# ---- cases from tables ----


@pytest.mark.parametrize("path", sorted((ROOT / "cases").glob("*.toml")), ids=lambda path: path.stem)
def test_tables_are_read_as_files_are(path):
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    assert wg.Case.from_tables(tables, path.stem) == wg.Case.load(path)
    assert tables == tomllib.loads(path.read_text(encoding="utf-8"))


def test_bad_tables_are_refused_as_bad_files_are():
    tried = 0
    for text, fragments in BAD_CASES.values():
        try:
            tables = tomllib.loads(text)
        except (ValueError, RecursionError):
            continue
        with pytest.raises(wg.CaseError) as found:
            wg.Case.from_tables(tables)
        assert all(fragment in str(found.value) for fragment in fragments), found.value
        tried += 1
    assert tried > 80


def test_numpy_numbers_and_overrides():
    tables = tomllib.loads(GOOD)
    tables["states"]["s"]["domain"] = np.array([-3, 3])
    tables["grid"]["points"]["s"] = np.int64(121)
    tables["parameters"]["r"] = np.float32(0.5)
    tables["expect"] = None
    case = wg.Case.from_tables(tables, "good", ["policy.particles=3"])
    assert case == wg.Case.from_text(GOOD, "good", ["parameters.r=0.5", "policy.particles=3"])
    assert "expect" in tables


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([1, 2], "case: expected a dict of tables"),
        ({1: {}}, "tables: expected names in quotes as keys, got 1"),
        ({"states": {"s": {("a", "b"): 1}}}, "states.s: expected names in quotes"),
        ({"states": {"s": {"next": lambda s: s}}}, "states.s.next: expected an expression in quotes or a number"),
        ({"states": {"s": {"domian": (0, 1)}}}, "did you mean 'domain'?"),
        ({"states": {"s": object()}}, "states.s: expected a table"),
    ],
)
def test_tables_that_are_none(tables, message):
    with pytest.raises(wg.WassgridError, match=r".*") as found:
        wg.Case.from_tables(tables)
    assert message in str(found.value)
    assert len(str(found.value).splitlines()) == 1


def test_tables_that_hold_themselves():
    tables: dict = {}
    tables["states"] = tables
    with pytest.raises(wg.CaseError, match="nested too deeply"):
        wg.Case.from_tables(tables)


# ---- solutions ----


def test_a_solution_is_short_to_read(solution):
    assert repr(solution).startswith("<Solution of held: converged, J = ")
    assert len(repr(solution)) < 200
    assert " J, proven to " in repr(solution)
    assert "21 cells, 4 particles" in repr(solution)
    table = str(solution.history)
    assert len(table.splitlines()) <= 16
    assert table.splitlines()[0].split()[:3] == ["step", "objective", "gradient"]


def test_the_history_is_what_a_file_holds(solution, tmp_path):
    path = solution.save(tmp_path / "held.h5")
    with wg.ResultFile(path) as file:
        columns = file.convergence
        assert set(columns) == set(solution.history)
        for name, values in solution.history.items():
            np.testing.assert_array_equal(values, columns[name])
        assert file.status == solution.status
        assert file.reason == solution.reason
        np.testing.assert_array_equal(file.frame("value").ravel(), solution.value)
        np.testing.assert_allclose(file.frame("stationary").ravel(), solution.stationary, atol=1e-15)
    np.testing.assert_array_equal(wg.Policy.load(path).actions, solution.policy.actions)


@pytest.mark.thorough
@pytest.mark.parametrize("steps", [2, pytest.param(200, marks=pytest.mark.thorough)])
def test_a_saved_solution_is_resumed_as_a_run_is(steps, tmp_path, monkeypatch, capsys):
    """Stopped early or converged; the rows of the resumed file are those of a run that never stopped."""
    monkeypatch.chdir(tmp_path)
    whole = wg.solve(held(text=PLANE))
    assert whole.converged
    assert whole.record["step"] > 2
    wg.solve(held(f"flow.stop.steps={steps}", text=PLANE)).save("parts.h5")
    assert main(["resume", "parts.h5", "-q", "--set", "flow.stop.steps=200"]) == 0
    with wg.ResultFile("parts.h5") as file:
        for name in ("step", "objective", "lower_bound", "gradient_norm"):
            np.testing.assert_array_equal(file.convergence[name], whole.history[name])
    for verb in (["info"], ["plot", "-o", "figures"], ["simulate", "--steps", "20"]):
        assert main([verb[0], "parts.h5", *verb[1:]]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_run_writes_what_the_command_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "held.toml").write_text(CASE)
    assert main(["run", "held.toml", "-q", "-o", "command.h5"]) == 0
    solution = wg.run(held(), "python.h5")
    with wg.ResultFile("command.h5") as one, wg.ResultFile("python.h5") as other:
        assert one.steps("trajectory").tolist() == other.steps("trajectory").tolist()
        np.testing.assert_array_equal(one.convergence["objective"], other.convergence["objective"])
        np.testing.assert_array_equal(one.convergence["objective"], solution.history["objective"])
        assert one.summary.keys() == other.summary.keys()
        assert "initial" not in other.attributes
    wg.run(held(), tmp_path / "python.h5")
    assert (tmp_path / "python.1.h5").exists()
    with pytest.raises(wg.StorageError, match="not a wassgrid result"):
        wg.run(held(), "held.toml")
    with pytest.raises(wg.WassgridError, match="kernel"):
        wg.run(held("states.s.noise=0.01", "grid.kernel=gaussian"), "refused.h5")
    assert not (tmp_path / "refused.h5").exists()


@pytest.mark.thorough
def test_figures_of_a_solution(solution, tmp_path):
    figures = solution.plot(tmp_path / "figures")
    assert sorted(figures) == ["convergence", "policy", "stationary", "value"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [f"held_{name}.png" for name in sorted(figures)]
    odd = wg.solve(wg.Case.from_text(CASE, "../a b\n$x$"))
    assert sorted(odd.plot()) == sorted(figures)


def test_solutions_as_datasets(tmp_path):
    solution = wg.solve(held(text=PLANE))
    data = solution.to_xarray()
    assert data["actions"].dims == ("x", "y", "particle", "action")
    assert data["stationary"].dims == ("x", "y")
    assert list(data["action"].values) == ["u", "v"]
    np.testing.assert_array_equal(data["value"].values.ravel(), solution.value)
    np.testing.assert_array_equal(data["objective"].values, solution.history["objective"])
    assert data["objective"].dims == ("step",)
    units = wg.solve(held()).to_xarray()
    assert (units["s"].attrs["units"], units["actions"].attrs["units"], units["objective"].attrs["units"]) == ("m", "N", "J")
    units.to_netcdf(tmp_path / "held.nc", engine="h5netcdf")


def test_a_missing_package_is_named(solution, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(wg.WassgridError, match="pip install xarray"):
        solution.to_xarray()


# ---- starts ----


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["solution", "policy", "file", "path"])
def test_a_start_from_what_is_known(kind, tmp_path):
    coarse = wg.solve(held("grid.points.x=16", "grid.points.y=11", text=PLANE))
    fine = held("grid.points.x=48", "grid.points.y=31", text=PLANE)
    path = coarse.save(tmp_path / "coarse.h5")
    given = {"solution": coarse, "policy": coarse.policy, "file": str(path), "path": path}[kind]
    cold, warm = wg.solve(fine), wg.solve(fine, initial=given)
    assert warm.objective == pytest.approx(cold.objective, rel=1e-6)
    plain = wg.solve(held("grid.points.x=48", "grid.points.y=31", "grid.levels=1", text=PLANE))
    assert warm.history["objective"][0] < plain.history["objective"][0] - 0.1


def test_a_start_on_the_same_grid_is_the_policy_itself(solution, tmp_path):
    again = wg.run(held(), tmp_path / "again.h5", initial=solution)
    assert again.history["step"].tolist() == [0]
    np.testing.assert_array_equal(again.policy.actions, solution.policy.actions)
    with wg.ResultFile(tmp_path / "again.h5") as file:
        assert file.text("initial") == "the solution of held"


def test_a_run_that_started_elsewhere_and_has_no_checkpoint_is_not_begun_anew(solution, tmp_path, capsys):
    wg.run(held(), tmp_path / "again.h5", initial=solution)
    before = (tmp_path / "again.h5").read_bytes()
    assert main(["resume", str(tmp_path / "again.h5")]) == 2
    assert "start it anew with wassgrid.run" in capsys.readouterr().err
    assert (tmp_path / "again.h5").read_bytes() == before


def test_a_sweep_in_three_lines():
    solutions = [wg.solve(held())]
    for price in (0.2, 0.4):
        solutions.append(wg.solve(held(f"cost.stage='s**2 + {price}*a**2'"), initial=solutions[-1]))
    assert solutions[0].objective < solutions[1].objective < solutions[2].objective
    assert all(solution.converged for solution in solutions)


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2, 1), (3, 1, 1, 1, 1, 2), (1,) * 8])
def test_another_number_of_particles_shares_the_distribution_out(solution, weights):
    """The same mean in every cell, no action beyond the old ones, and the nearest of such weights: equal quantiles."""
    rng = np.random.default_rng(0)
    grid = solution.policy.grid
    given = wg.ParticlePolicy(grid, rng.uniform(-1, 1, (grid.size, 4, 1)), rng.dirichlet(np.ones(4), grid.size))
    case = held(f"policy.particles={len(weights)}", f"policy.weights={list(weights)}")
    found = Start(given, "").on(case, grid)
    assert found.particles == len(weights) and np.allclose(found.weights, np.array(weights) / sum(weights))
    assert found.cell_mean() == pytest.approx(given.cell_mean(), abs=1e-12)
    for k in range(grid.size):
        levels = np.cumsum(found.weights[k]) - found.weights[k] * rng.random((500, 1))
        quantiles = np.quantile(given.actions[k, :, 0], levels, method="inverted_cdf", weights=given.weights[k])
        assert found.actions[k, :, 0] == pytest.approx(quantiles.mean(axis=0), abs=0.1)
    assert wg.solve(case, initial=solution).objective == pytest.approx(solution.objective, rel=1e-6)


def test_numbers_of_particles(solution):
    mean = wg.solve(held("policy.particles=1"), initial=solution)
    assert mean.policy.particles == 1
    repeated = wg.solve(held("policy.particles=3", "policy.weights=[1, 2, 1]"), initial=mean)
    assert repeated.converged
    np.testing.assert_allclose(repeated.policy.weights[0], [0.25, 0.5, 0.25])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("states.s.boundary=periodic",), "its state s is not periodic, that of the case periodic over 4"),
    ],
)
def test_starts_that_do_not_fit(solution, overrides, message):
    with pytest.raises(wg.WassgridError) as found:
        wg.solve(held(*overrides), initial=solution)
    assert message in str(found.value)


def test_starts_of_another_problem(solution, tmp_path):
    with pytest.raises(wg.WassgridError, match="its states are s, those of the case x, y"):
        wg.solve(held(text=PLANE), initial=solution)
    with pytest.raises(wg.WassgridError, match="it has 1 actions, the case 2"):
        wg.solve(held(text=CASE.replace("0.8*s + a", "0.8*s + a + b").replace("[cost]", "[actions.b]\n[cost]")), initial=solution)
    with pytest.raises(wg.WassgridError, match="expected a solution, a policy or the path of a result file, got ndarray"):
        wg.solve(held(), initial=np.zeros(21))
    with pytest.raises(wg.StorageError, match="No such file"):
        wg.solve(held(), initial=tmp_path / "absent.h5")
    neural = held("solver.kind=neural")
    with pytest.raises(wg.WassgridError, match=r"the neural solver starts from policy\.initial\.mean"):
        wg.solve(neural, initial=solution)


# ---- progress, interruption, names ----


def test_progress_is_told_and_may_end_the_run():
    seen: list[dict[str, float]] = []

    def watch(numbers: dict[str, float]) -> str | None:
        seen.append(numbers)
        return "far enough" if numbers["step"] >= 2 else None

    solution = wg.solve(held(text=PLANE), progress=watch)
    assert [numbers["step"] for numbers in seen] == [0, 1, 2]
    assert (solution.status, solution.reason, solution.complete) == ("stopped", "far enough", False)
    np.testing.assert_array_equal([numbers["objective"] for numbers in seen], solution.history["objective"])


def test_progress_is_shown_on_stderr(capfd):
    wg.solve(held(), progress=True)
    output, errors = capfd.readouterr()
    assert output == ""
    assert "step 0" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_and_then_reaches_the_process(number, tmp_path):
    """Ctrl-C is an outcome, and the next one is an exception again; SIGTERM ends the process, its file complete."""
    before, received = signal.default_int_handler, []
    outside = signal.signal(signal.SIGINT, before)  # a process started in the background ignores it
    old = signal.signal(signal.SIGTERM, lambda *_: received.append(number))
    try:
        sending = lambda numbers: os.kill(os.getpid(), number) if numbers["step"] == 1 else None  # noqa: E731
        solution = wg.run(held(text=PLANE), tmp_path / "r.h5", progress=sending)
    finally:
        after = signal.signal(signal.SIGINT, outside)
        signal.signal(signal.SIGTERM, old)
    assert solution.status == "interrupted"
    assert received == ([signal.SIGTERM] if number == signal.SIGTERM else [])
    assert after is before
    assert main(["resume", str(tmp_path / "r.h5"), "-q"]) == 0


def test_names_are_there_and_imported_late():
    script = "import sys, wassgrid; print(sorted({'numpy', 'h5py', 'pydantic', 'sympy', 'typing'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr
    assert all(getattr(wg, name) is not None for name in wg.__all__)
    assert (ROOT / "wassgrid" / "py.typed").exists()
    assert issubclass(wg.CaseError, wg.WassgridError)
    assert isinstance(StepRecord, type)


def test_an_interrupted_run_writes_what_is_at_hand(tmp_path, monkeypatch):
    """Solves that only the last frame needs would be deaf to the next signal."""
    settings = ["grid.points={ theta = 24, omega = 25 }", "grid.kernel=auto", "grid.levels=1", "policy.particles=1"]
    settings.append("output.trajectory_every=0")
    case = wg.Case.load("cases/inverted_pendulum.toml", settings)

    def interrupted(record):
        if record["step"] == 2:
            monkeypatch.setattr("wassgrid.evaluation.Evaluator.settled_law", lambda *_: pytest.fail("a solve for the last frame"))
            raise KeyboardInterrupt

    assert not wg.run(case, tmp_path / "run.h5", progress=interrupted).converged
    with ResultFile(tmp_path / "run.h5") as result:
        assert result.status == "interrupted" and result.steps("trajectory").tolist() == [0, 1]
        law = result.array("trajectory", "stationary", (1,))
    assert law.min() >= 0.0 and law.sum() == pytest.approx(1.0, abs=1e-9)
    monkeypatch.undo()
    assert main(["resume", str(tmp_path / "run.h5"), "--quiet"]) == 0
    with ResultFile(tmp_path / "run.h5") as result:
        assert 1 not in result.steps("trajectory")
