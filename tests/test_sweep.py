"""Sweeps: every combination once, the same numbers as single runs, and nothing lost to Ctrl-C, failures or damaged files."""

from __future__ import annotations

import csv
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from test_cli import assert_same_numbers, start

from wassgrid.case import CaseError
from wassgrid.cli import main
from wassgrid.storage import ResultFile
from wassgrid.sweep import Sweep, _choices

CASE = """
[parameters]
r = 0.1
[states.s]
next = "0.8*s + a"
noise = 0.4
domain = [-2, 2]
[actions.a]
bounds = [-1, 1]
[cost]
stage = "s**2 + r*a**2"
unit = "EUR"
[grid]
points = { s = 21 }
[policy]
particles = 2
[flow]
stop = { gap = 1e-6 }
"""


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("held.toml").write_text(CASE)
    return tmp_path / "held.toml"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a.b=1,2", ["1", "2"]),
        (" a.b = 1 , 2 ", ["1", "2"]),
        ("a.b=[-3,3],[-4,4]", ["[-3,3]", "[-4,4]"]),
        ("a.b={s=21},{s=41}", ["{s=21}", "{s=41}"]),
        ('a.b="min(s,1)",\'a,b\'', ['"min(s,1)"', "'a,b'"]),
        ("a.b=min(s,1),max(s,[2,3])", ["min(s,1)", "max(s,[2,3])"]),
        ("a.b=1", ["1"]),
    ],
)
def test_commas_within_brackets_and_quotes_separate_nothing(text: str, values: list[str]) -> None:
    assert _choices(text) == [f"a.b={value}" for value in values]


@pytest.mark.thorough
def test_every_combination_is_solved_once(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep", "held.toml", "--set", "parameters.r=0.1,0.5", "--set", "flow.method=newton,rk4"]
    command += ["--set", "policy.particles=1"]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 4 and "1/4 parameters.r=0.1, flow.method=newton: J = " in printed.err
    table = Path("held_sweep/sweep.csv")
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [(row["parameters.r"], row["flow.method"]) for row in rows] == [
        (r, method) for r in ("0.1", "0.5") for method in ("newton", "rk4")
    ]
    assert Path("held_sweep/sweep.png").stat().st_size > 10_000
    for row in rows:
        assert row["objective"][:8] in printed.out
    for row in (rows[0], rows[3]):
        settings = [f"--set=parameters.r={row['parameters.r']}", f"--set=flow.method={row['flow.method']}"]
        assert main(["run", "held.toml", "-q", "-o", "one.h5", *settings, "--set=policy.particles=1"]) == 0
        assert_same_numbers(Path("one.h5"), Path("held_sweep") / row["file"])
        with ResultFile("one.h5") as file:
            assert float(row["objective"]) == file.last("convergence")["objective"]
    # again: nothing is solved, all is said again
    before = {path.name: path.stat().st_mtime_ns for path in Path("held_sweep").glob("*.h5")}
    assert main(command) == 0
    assert {path.name: path.stat().st_mtime_ns for path in Path("held_sweep").glob("*.h5")} == before
    assert capsys.readouterr().out == printed.out
    # a case that was changed since is solved anew, and the earlier file is kept
    case.write_text(CASE.replace("0.8*s", "0.7*s"))
    assert main([*command, "-q"]) == 0
    assert len(list(Path("held_sweep").glob("*.h5"))) == 8
    again = csv.DictReader(table.read_text(encoding="utf-8").splitlines())
    assert [row["objective"] for row in again] != [row["objective"] for row in rows]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.thorough)])
def test_an_interrupted_sweep_goes_on(case: Path, number: signal.Signals) -> None:
    flow = ["--set=flow.method=euler", "--set=flow.step=0.1", "--set=flow.stop.flow_time=0.5"]
    command = ["sweep", "held.toml", "--set", "parameters.r=0.1,0.5,0.7", *flow, "-o", "all"]
    process = start(*command, slow=0.3, always_commit=True)
    second = Path("all/held_r=0.5.h5")
    until = time.monotonic() + 60
    while not second.exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert errors.endswith("\nwassgrid: interrupted after 1 of 3 runs; the same command goes on\n"), errors
    assert "Traceback" not in errors and output == ""
    with ResultFile(second) as file:
        assert file.status == "interrupted"
    first = Path("all/held_r=0.1.h5").stat().st_mtime_ns
    assert main([*command, "-q"]) == 0
    assert Path("all/held_r=0.1.h5").stat().st_mtime_ns == first
    assert main(["run", "held.toml", "-q", "-o", "one.h5", "--set=parameters.r=0.5", *flow]) == 0
    assert_same_numbers(Path("one.h5"), second)


def test_a_run_that_fails_ends_no_sweep(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A chain of two classes, a file of another kind, and one of which a part is missing."""
    Path("out").mkdir()
    Path("out/held_r=0.5.h5").write_text("precious")
    assert main(["run", "held.toml", "-q", "-o", "out/held_r=0.7.h5", "--set=parameters.r=0.7"]) == 0
    cut = Path("out/held_r=0.7.h5")
    cut.write_bytes(cut.read_bytes()[:3000])
    assert main(["sweep", "held.toml", "-o", "out", "--set", "parameters.r=0.1,0.5,0.7"]) == 1
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    assert "wassgrid: 2 of 3 runs failed or did not reach what the case asks for" in printed.err
    assert Path("out/held_r=0.5.h5").read_text() == "precious"
    assert [line.split()[5] for line in printed.out.splitlines()[1:4]] == ["converged", "failed:", "failed:"]
    assert main(["sweep", "held.toml", "-o", "two", "--set", "states.s.noise=0.4,0", "--set", "states.s.next=s + 0*a"]) == 1
    assert "failed: " in capsys.readouterr().err


def test_runs_that_end_short_are_told_again(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep", "held.toml", "--set", "flow.stop.steps=0,50"]
    for _ in range(2):
        assert main(command) == 1
        assert "1 of 2 runs failed or did not reach" in capsys.readouterr().err


def test_runs_without_an_end_of_their_own_are_complete_again(case: Path) -> None:
    case.write_text(CASE.replace("gap = 1e-6", "flow_time = 1.0"))
    command = ["sweep", "held.toml", "-q", "--set", "flow.method=euler,rk4"]
    assert main(command) == main(command) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["parameters.r"], "expected section.key=a,b,c"),
        (["parameters.r="], "expected section.key=a,b,c"),
        (["parameters.r=1,,2"], "expected section.key=a,b,c"),
        (["parameters.q=1,2"], "--set parameters.q: unknown key"),
        (["parameters.r=1,words"], "parameters.r"),
        (["parameters.r=1,2", "parameters.r=3"], "given twice"),
        ([f"policy.{key}={','.join(map(str, range(1, 141)))}" for key in ("seed", "particles")], "19,600 combinations"),
        (["states.s.domain=[-1,1],[2"], "states.s.domain"),
    ],
)
def test_bad_input_is_one_line_before_any_work(
    case: Path, settings: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "held.toml", *(f"--set={text}" for text in settings)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert [path.name for path in Path().iterdir()] == ["held.toml"]


def test_a_folder_that_cannot_be(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in ("held.toml", "held.toml/below", "/proc/nothing/here"):
        assert main(["sweep", "held.toml", "--set", "parameters.r=1,2", "-o", place]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "cannot write" in line


def test_files_of_values_that_look_alike_are_two(case: Path) -> None:
    found = Sweep.of(case, ['states.s.next="0.8*s+a","0.8*s/a"', "parameters.r=1"])
    assert len({point.path for point in found.points}) == 2
    assert all(point.path.parent == Path("held_sweep") for point in found.points)
    with pytest.raises(CaseError, match="nothing to vary"):
        Sweep.of(case, [])


@pytest.mark.thorough
def test_the_figure_takes_numbers_words_and_failures(case: Path) -> None:
    from wassgrid.plotting import sweep

    for settings in (["parameters.r=0.01,1"], ["flow.method=newton,rk4", "parameters.r=1,2"], ["flow.method=newton,rk4"]):
        found = Sweep.of(case, settings, Path("figures"))
        found.solve()
        axis = sweep(found).axes[0]
        assert axis.get_ylabel() == "objective J (EUR)"
        shown = np.concatenate([line.get_ydata() for line in axis.lines if line.get_marker() == "o"])
        assert sorted(shown) == sorted(row.objective for row in found.rows)
        assert axis.get_xscale() == ("log" if settings == ["parameters.r=0.01,1"] else "linear")
