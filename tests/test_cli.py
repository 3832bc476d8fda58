"""The command line: exit statuses, messages, what is written, and what interruptions and kills leave behind."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import pty
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numba
import numpy as np
import pytest
from bad_cases import BAD_CASES

import wassgrid
from benchmarks.signals import rows, wait_for
from wassgrid.case import Case
from wassgrid.cli import main
from wassgrid.grid import StateGrid
from wassgrid.observers.progress import Pace, ProgressLines, clock
from wassgrid.observers.recorder import is_stored
from wassgrid.observers.watches import SIGNALS, FinitenessWatch, SignalWatch
from wassgrid.policy import ParticlePolicy
from wassgrid.runs.grid_solver import GridSolver
from wassgrid.runs.loop import StepRecord
from wassgrid.simulate import discounted_cost, ergodic_cost
from wassgrid.storage import ResultFile, reader

TINY = """
title = "Tiny regulator"
[states.s]
next = "0.9*s + 0.3*a"
noise = "0.5"
domain = [-3.0, 3.0]
[actions.a]
bounds = [-2.0, 2.0]
[cost]
stage = "s**2 + 0.3*a**2"
[grid]
points = { s = 13 }
[policy]
particles = 3
[flow]
method = "euler"
step = 0.02
stop = { flow_time = 0.24 }
"""
STEPS = 12  # of the tiny case
@pytest.fixture
def case(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path / "tiny.toml"


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def numbers(path: Path) -> dict[str, np.ndarray]:
    """Everything in a result file that must not depend on how often the run was interrupted."""
    with ResultFile(path) as result:
        clocks = ("wall_time", *(name for name in result.convergence if name.startswith("time_")))
        columns = {name: values for name, values in result.convergence.items() if name not in clocks}
        frames = {name: result.array("trajectory", name) for name in ("step", *result.variables("trajectory"))}
        checkpoint = {name: np.asarray(value) for name, value in result.checkpoint.items() if name != "elapsed"}
    return columns | {f"frame {n}": v for n, v in frames.items()} | {f"checkpoint {n}": v for n, v in checkpoint.items()}


def assert_same_numbers(one: Path, other: Path) -> None:
    first, second = numbers(one), numbers(other)
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].tobytes() == second[name].tobytes(), name


def start(*arguments: str, slow: float = 0.0, always_commit: bool = False, limit: int = 0) -> subprocess.Popen:
    """Start the command line in a process of its own; `slow` seconds pass in every step, each step is committed."""
    script = f"""
import resource, sys, time
from wassgrid.cli import main
from wassgrid.observers.watches import FinitenessWatch
from wassgrid.storage import writer
step = FinitenessWatch.step
FinitenessWatch.step = lambda self, record: (step(self, record), time.sleep({slow}))[0]
if {always_commit}:
    writer.COMMIT_INTERVAL = writer.COMMIT_OVERHEAD = 0.0
if {limit}:
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.exit(main({list(arguments)!r}))
"""
    environment = os.environ | {"NUMBA_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


# ---- the command itself ----


def test_help_is_quick_and_imports_nothing_heavy():
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "wassgrid", "--help"], check=True, capture_output=True)
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 1.5  # below 0.5 s on an idle machine
    heavy = "{'numpy', 'scipy', 'numba', 'sympy', 'h5py', 'matplotlib', 'pydantic', 'rich', 'jax'}"
    script = f"import sys, wassgrid, wassgrid.cli; print(sorted({heavy} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert output == "[]\n"
    # until the command's first line is reached, Ctrl-C shows a traceback
    script = "import sys; before = set(sys.modules); import wassgrid.__main__; print(*set(sys.modules) - before)"
    output = subprocess.run([sys.executable, "-S", "-c", script], check=True, capture_output=True, text=True).stdout
    assert not {"typing", "re", "enum", "contextlib", "collections"} & set(output.split())


def test_help_and_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"wassgrid {wassgrid.__version__}\n"
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    for verb in ("run", "resume", "check", "info", "plot", "simulate"):
        assert f"\n  {verb} " in listed
        assert main([verb, "--help"]) == 0
        assert f"Usage: wassgrid {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["walk"], "walk"),
        (["run"], "CASE"),
        (["run", "tiny.toml", "--sett", "a=b"], "--sett"),
        (["run", "absent.toml"], "absent.toml: no such file"),
        (["run", "tiny.toml", "--set", "flow.stepp=1"], "did you mean 'step'?"),
        (["run", "tiny.toml", "--set", "states.s.noise=0.01"], None),
        (["run", "tiny.toml", "--set", "grid.kernel=gaussian", "--set", "states.s.noise=0.01"], "grid.kernel.s"),
        (["run", "tiny.toml", "--set", "cost.stage=log(s)"], "cost is"),
        (["run", "tiny.toml", "-o", "absent/r.h5"], "absent/r.h5': No such file or directory"),
        (["run", "tiny.toml", "-o", "tiny.toml/r.h5"], "Not a directory"),
        (["run", "tiny.toml", "-o", "folder"], "not a regular file"),
        (["run", "tiny.toml", "-o", "tiny.toml"], "not a wassgrid result"),
        (["resume", "absent.h5"], "No such file"),
        (["resume", "tiny.toml"], "not an HDF5 file"),
        (["info", "absent.h5"], "No such file"),
        (["plot", "tiny.toml"], "not an HDF5 file"),
        (["simulate", "tiny.toml"], "not an HDF5 file"),
        (["simulate", "tiny.toml", "--steps", "0"], "--steps"),
    ],
)
def test_bad_input_gives_one_line_and_writes_nothing(case, capsys, arguments, message):
    (case.parent / "folder").mkdir()
    if message is None:  # sharp noise is fine for the kernel that `auto` takes
        assert main([*arguments, "--quiet"]) == 0
        return
    assert main(arguments) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert len(errors.splitlines()) == 1
    assert errors.startswith("wassgrid: ")
    assert message in errors
    assert files(case.parent) == ["folder", "tiny.toml"]
    assert case.read_text() == TINY


def test_package_names_do_not_depend_on_what_was_imported():
    script = "import wassgrid.runs.solvers, wassgrid.case, wassgrid as wg; print(callable(wg.solve), wg.Case.load.__name__)"
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert output == "True load\n"
    assert set(wassgrid.__all__) == set(dir(wassgrid))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        wassgrid.nothing  # noqa: B018


# ---- run ----


def test_run_reports_and_stores(case, capsys):
    assert main(["run", "tiny.toml"]) == 0
    output, errors = capsys.readouterr()
    for part in ("Tiny regulator", "objective J", "gradient norm", "residual of mu", "residual of V", "recurrent classes"):
        assert part in output
    for part in ("physical std", "gaussian", "assembly", "evaluation", "flow time 0.24", "written to", "tiny.h5"):
        assert part in output
    assert [line.split()[1] for line in errors.splitlines() if line.startswith("step")][:3] == ["0", "1", "2"]
    assert files(case.parent) == ["tiny.h5", "tiny.toml"]
    with ResultFile("tiny.h5") as result:
        assert (result.status, result.attributes["case_name"]) == ("stopped", "tiny")
        assert result.attributes["wassgrid_version"] == wassgrid.__version__
        assert len(result.convergence["step"]) == len(result.steps("trajectory")) == STEPS + 1
        assert np.all(np.diff(result.convergence["objective"]) < 0)
        assert Case.from_text(result.case_text, "tiny") == Case.load(case)
        assert f"{result.convergence['objective'][-1]:.12g}" in output
        assert json.loads(result.attributes["summary"])["recurrent_classes"] == 1
    policy = ParticlePolicy.load("tiny.h5")
    assert policy.actions.shape == (13, 3, 1)


def test_quiet_run_prints_nothing(case, capsys):
    assert main(["run", "tiny.toml", "-q", "-o", "other.h5"]) == 0
    assert capsys.readouterr() == ("", "")
    assert files(case.parent) == ["other.h5", "tiny.toml"]


def test_exit_status_tells_convergence_and_expectation(case, capsys):
    assert main(["run", "tiny.toml", "-q"]) == 0
    with ResultFile("tiny.h5") as result:
        objective = float(result.convergence["objective"][-1])
    near, far = ([f"expect.average_cost={{value={objective + shift}, absolute=0.01}}"] for shift in (0.001, 0.1))
    assert main(["run", "tiny.toml", "-q", "--set", *near]) == 0
    assert main(["run", "tiny.toml", "-q", "--set", *far]) == 1
    assert "MISSED, absolute difference 0.1 of 0.01" in capsys.readouterr().err
    assert main(["run", "tiny.toml", "-q", "--set", "flow.stop={steps=3}"]) == 1
    assert "not converged: 3 steps were done" in capsys.readouterr().err
    assert main(["run", "tiny.toml", "-q", "--set", "flow.stop={gradient_norm=1.0}"]) == 0
    relative = f"expect.average_cost={{value={objective * 1.01}, relative=0.02}}"
    assert main(["run", "tiny.toml", "--set", relative]) == 0
    assert "reached, relative difference 0.0099 of 0.02" in capsys.readouterr().out


def test_earlier_results_are_kept(case, capsys):
    for _ in range(3):
        assert main(["run", "tiny.toml"]) == 0
    assert "the earlier tiny.h5 is kept as tiny.2.h5" in capsys.readouterr().err
    assert files(case.parent) == ["tiny.1.h5", "tiny.2.h5", "tiny.h5", "tiny.toml"]
    assert_same_numbers("tiny.h5", "tiny.1.h5")
    before = Path("tiny.h5").read_bytes()
    capsys.readouterr()
    assert main(["run", "tiny.toml", "--set", "cost.stage=log(s)"]) == 2  # found only when the run begins
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert files(case.parent) == ["tiny.1.h5", "tiny.2.h5", "tiny.h5", "tiny.toml"]
    assert Path("tiny.h5").read_bytes() == before


@pytest.mark.thorough
def test_python_m_wassgrid_on_a_terminal_shows_a_bar(case):
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "wassgrid", "run", "tiny.toml"]
    environment = os.environ | {"TERM": "xterm", "NUMBA_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=follower, env=environment)
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while part := os.read(leader, 4096):
            shown += part
    output = process.communicate()[0].decode()
    os.close(leader)
    assert process.returncode == 0
    text = shown.decode()
    assert f"step {STEPS}" in text
    assert "━" in text
    assert "gradient" in text
    assert "\x1b[" not in output  # the report went to a pipe


# ---- resume ----


@pytest.mark.parametrize("every", [1, pytest.param(5, marks=pytest.mark.thorough), 0])
def test_resumed_run_is_the_uninterrupted_run(case, every, capsys):
    every_option = ["--set", f"output.trajectory_every={every}"]
    assert main(["run", "tiny.toml", "-q", "-o", "whole.h5", *every_option]) == 0
    with ResultFile("whole.h5") as result:
        stored = {1: list(range(STEPS + 1)), 5: [0, 5, 10, STEPS], 0: [0, STEPS]}[every]
        assert result.steps("trajectory").tolist() == stored
    assert main(["run", "tiny.toml", "-q", "-o", "parts.h5", *every_option, "--set", "flow.stop.steps=3"]) == 1
    assert main(["resume", "parts.h5", "-q", "--set", "flow.stop.steps=7"]) == 1
    assert main(["resume", "parts.h5", "-q", "--set", "flow.stop.steps=200"]) == 0
    assert_same_numbers("whole.h5", "parts.h5")
    assert main(["resume", "parts.h5", "-q"]) == 0  # nothing left to do
    assert_same_numbers("whole.h5", "parts.h5")
    with ResultFile("parts.h5") as result:
        assert np.all(np.diff(result.convergence["wall_time"]) > 0)
    assert main(["resume", "parts.h5", "--set", "cost.stage=0"]) == 2
    assert "a resumed run keeps its case" in capsys.readouterr().err


@pytest.mark.thorough
def test_a_resumed_newton_run_is_the_uninterrupted_run(case):
    """Its checkpoint keeps V to a fraction of what is left to gain, and not how well the law is known."""
    pendulum = [str(Path(__file__).parent.parent / "cases" / "pendulum.toml"), "-q", "--set", "grid.points.theta=64"]
    assert main(["run", *pendulum, "-o", "whole.h5"]) == 0
    assert main(["run", *pendulum, "-o", "parts.h5", "--set", "flow.stop.steps=1"]) == 1
    assert main(["resume", "parts.h5", "-q", "--set", "flow.stop.steps=2"]) == 1
    assert main(["resume", "parts.h5", "-q", "--set", "flow.stop.steps=200"]) == 0
    assert_same_numbers("whole.h5", "parts.h5")
    assert main(["resume", "parts.h5", "-q"]) == 0


def test_frames_of_long_runs_become_rarer(case):
    assert main(["run", "tiny.toml", "-q", "-o", "whole.h5", "--set", "output.frames=4"]) == 0
    with ResultFile("whole.h5") as result:
        assert result.steps("trajectory").tolist() == [0, 1, 2, 3, 4, 6, 8, 12]
    assert main(["run", "tiny.toml", "-q", "-o", "parts.h5", "--set", "output.frames=4", "--set", "flow.stop.steps=5"]) == 1
    assert main(["resume", "parts.h5", "-q", "--set", "flow.stop.steps=200"]) == 0
    assert_same_numbers("whole.h5", "parts.h5")
    for every in (1, 3):
        stored = [step for step in range(100_000) if is_stored(step, every, 200)]
        assert stored[:200] == list(range(0, 200 * every, every))
        assert len(stored) <= 200 + 100 * math.ceil(math.log2(100_000 / (200 * every))) + 1
        assert max(b / a for a, b in itertools.pairwise(stored) if a >= 200 * every) < 1.02


@pytest.mark.thorough
def test_kills_cost_nothing_but_time(case):
    options = ("--set", "flow.stop.flow_time=0.8", "--quiet")
    assert main(["run", "tiny.toml", "-o", "whole.h5", *options]) == 0
    generator = random.Random(3)
    path, lengths = Path("killed.h5"), []
    arguments = ("run", "tiny.toml", "-o", "killed.h5", *options)
    for _ in range(3):
        process = start(*arguments, slow=0.02, always_commit=True)
        reached = max(lengths, default=0)
        wait_for(lambda: rows(path) > reached or process.poll() is not None)  # noqa: B023
        time.sleep(generator.uniform(0.0, 0.2))
        process.kill()
        process.communicate()
        lengths.append(rows(path))
        arguments = ("resume", "killed.h5", "--quiet")
    assert lengths == sorted(lengths)
    assert main(["info", "killed.h5"]) == 0
    assert main(["resume", "killed.h5", "--quiet"]) == 0
    assert_same_numbers("whole.h5", "killed.h5")
    assert files(case.parent) == ["killed.h5", "tiny.toml", "whole.h5"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("signals", [1, pytest.param(3, marks=pytest.mark.thorough)])
def test_interrupted_runs_can_be_resumed(case, number, signals, capsys):
    process = start("run", "tiny.toml", slow=0.3, always_commit=True)
    wait_for(lambda: rows(Path("tiny.h5")) >= 2)
    for _ in range(signals):
        process.send_signal(number)
        time.sleep(0.05)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert errors.endswith(f"\nwassgrid: interrupted; to go on: wassgrid resume {case.parent / 'tiny.h5'}\n"), errors
    assert "Traceback" not in errors
    assert ("status" in output) == ("objective J" in output)
    with ResultFile("tiny.h5") as result:
        assert result.status == "interrupted"
        done = len(result.convergence["step"])
        assert result.checkpoint["step"] == done - 1
    assert 2 <= done <= STEPS
    assert files(case.parent) == ["tiny.h5", "tiny.toml"]
    assert main(["info", "tiny.h5"]) == 0
    assert "interrupted; to go on: wassgrid resume tiny.h5" in capsys.readouterr().out
    assert main(["resume", "tiny.h5", "-q"]) == 0
    assert main(["run", "tiny.toml", "-q", "-o", "whole.h5"]) == 0
    assert_same_numbers("whole.h5", "tiny.h5")


@pytest.mark.parametrize("line", range(6))
def test_a_second_signal_in_any_line_that_receives_the_first_ends_with_its_status(line):
    lines = itertools.count()

    def trace(frame, event, argument):
        if frame.f_code.co_name != "_receive":
            return None
        if event == "line" and next(lines) == line:
            os.kill(os.getpid(), signal.SIGTERM)
        return trace

    before, handlers = sys.gettrace(), {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with SignalWatch(lambda: False) as watch:
            sys.settrace(trace)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5.0)
    finally:
        sys.settrace(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert watch.status == 128 + signal.SIGTERM


LONG = """
title = "A step takes long"
[parameters]
h = 0.05
[states.theta]
next = "theta + h*next(omega)"
domain = ["-pi", "pi"]
boundary = "periodic"
[states.omega]
next = "omega + h*(sin(theta) - 0.1*omega + u)"
noise = "0.5*sqrt(h)"
domain = [-6.0, 6.0]
[actions.u]
bounds = [-3.0, 3.0]
[cost]
stage = "1 - cos(theta) + 0.1*omega**2 + 0.1*u**2"
[grid]
points = { theta = 301, omega = 301 }
[policy]
particles = 1
[flow]
method = "rk4"
step = 0.01
stop = { steps = 50 }
[output]
trajectory_every = 0
"""


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT])
def test_a_signal_ends_a_long_step_soon_and_keeps_the_last_whole_one(case, number, capsys):
    (case.parent / "long.toml").write_text(LONG)
    path = Path("long.h5")
    process = start("run", "long.toml", always_commit=True)
    wait_for(lambda: rows(path) >= 1 or process.poll() is not None, 300)
    time.sleep(0.5)
    began = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    spent = time.monotonic() - began
    assert process.returncode == 128 + number, errors
    assert spent < 8, errors  # 2 s on an idle machine
    assert "Traceback" not in errors
    with ResultFile(path) as result:
        assert result.status == "interrupted"
        assert result.checkpoint["step"] == result.convergence["step"][-1]
        assert np.isfinite(result.frame("value")).all()
    assert main(["info", "long.h5"]) == 0


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_a_signal_during_compilation(case, number, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "compiled"))
    process = start("run", "tiny.toml")
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("compiling kernels, once per machine")
    began = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert time.monotonic() - began < 10, errors  # 2 s on an idle machine
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("wassgrid: interrupted; to go on: wassgrid resume")
    with ResultFile("tiny.h5") as result:
        assert result.status == "interrupted"
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    assert main(["resume", "tiny.h5", "-q"]) == 0
    assert main(["run", "tiny.toml", "-q", "-o", "whole.h5"]) == 0
    assert_same_numbers("whole.h5", "tiny.h5")


@pytest.mark.thorough
def test_compilation_is_announced_once(case, monkeypatch, capsys):
    assert main(["run", "tiny.toml", "-q"]) == 0  # from here on nothing is compiled but what the test does
    first = GridSolver.start

    def compiling(solver):
        numba.njit(lambda x: x + 1.0)(1.0)
        return first(solver)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(GridSolver, "start", compiling)
        assert main(["run", "tiny.toml"]) == 0
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("compil")]
    assert len(shown) == 2 and shown[0].startswith("compiling kernels, once per machine")
    assert shown[1].startswith("compiled 1 functions in ")
    process = start("run", "tiny.toml")  # finds what this process has compiled
    assert "compil" not in process.communicate(timeout=120)[1]
    assert process.returncode == 0


@pytest.mark.parametrize("signals", [1, pytest.param(2, marks=pytest.mark.thorough)])
def test_interrupted_before_the_first_step(case, signals, monkeypatch, capsys):
    first = GridSolver.start

    def interrupted(solver):
        for _ in range(signals):
            os.kill(os.getpid(), signal.SIGINT)
        return first(solver)

    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    with monkeypatch.context() as patch:
        patch.setattr(GridSolver, "start", interrupted)
        assert main(["run", "tiny.toml", "-q"]) == 130
    for number, handler in handlers.items():
        signal.signal(number, handler)  # a process that was told to end ignores further signals
    assert capsys.readouterr().err.splitlines()[-1].startswith("wassgrid: interrupted; to go on: wassgrid resume")
    assert rows(Path("tiny.h5")) == (1 if signals == 1 else 0)
    assert main(["info", "tiny.h5"]) == 0
    assert main(["resume", "tiny.h5", "-q"]) == 0
    assert main(["run", "tiny.toml", "-q", "-o", "whole.h5"]) == 0
    assert_same_numbers("whole.h5", "tiny.h5")


def test_an_interruption_that_a_library_swallows_comes_again(case, monkeypatch, capsys):
    def swallowing(*_):
        with contextlib.suppress(KeyboardInterrupt):  # as callbacks of imports and of the collector do
            signal.raise_signal(signal.SIGINT)
        time.sleep(20)

    monkeypatch.setattr("wassgrid.check.check_case", swallowing)
    monkeypatch.setattr("wassgrid.check.findings", swallowing)
    before, began = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)], time.monotonic()
    assert main(["check", "tiny.toml"]) == 130
    assert time.monotonic() - began < 10 and "interrupted" in capsys.readouterr().err
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_a_library_makes_of_an_interruption_is_one(case, monkeypatch, capsys):
    def translating(*_):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise SystemError("a lock returned a result with an exception set")

    monkeypatch.setattr("wassgrid.check.check_case", translating)
    monkeypatch.setattr("wassgrid.check.findings", translating)
    assert main(["check", "tiny.toml"]) == 130
    assert capsys.readouterr().err == "wassgrid: interrupted\n"
    monkeypatch.setattr("wassgrid.check.findings", lambda *_: 1 // 0)
    monkeypatch.setattr("wassgrid.check.check_case", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):  # a defect shows its traceback
        main(["check", "tiny.toml"])


def test_what_an_interrupted_compiler_raises_is_an_interruption(case, monkeypatch, capsys):
    def interrupted(solver):
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("no compiled object yet")

    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    with monkeypatch.context() as patch:
        patch.setattr(GridSolver, "start", interrupted)
        assert main(["run", "tiny.toml", "-q"]) == 130
    for number, handler in handlers.items():
        signal.signal(number, handler)  # a process that was told to end ignores further signals
    assert capsys.readouterr().err.splitlines()[-1].startswith("wassgrid: interrupted; to go on: wassgrid resume")
    assert main(["resume", "tiny.h5", "-q"]) == 0


@pytest.mark.thorough
def test_a_running_file_can_be_read_but_not_written(case, capsys):
    process = start("run", "tiny.toml", "-q", "--set", "flow.stop.flow_time=20", slow=0.2, always_commit=True)
    wait_for(lambda: rows(Path("tiny.h5")) >= 2)
    for verb in (["run", "tiny.toml"], ["resume", "tiny.h5"]):
        assert main(verb) == 2
        assert f"is being written by process {process.pid}" in capsys.readouterr().err
    assert main(["info", "tiny.h5"]) == 0
    assert f"running: process {process.pid}" in capsys.readouterr().out
    assert main(["plot", "tiny.h5"]) == 0
    process.kill()
    process.communicate()
    capsys.readouterr()
    assert main(["info", "tiny.h5"]) == 0
    assert "ended without notice (a kill, a full disk); to go on: wassgrid resume tiny.h5" in capsys.readouterr().out


@pytest.mark.thorough
def test_disk_that_fills_up_during_the_run(case):
    process = start("run", "tiny.toml", "-q", "--set", "policy.particles=2000", always_commit=True, limit=2**22)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    path = case.parent / "tiny.h5"
    assert errors == (
        f"wassgrid: cannot write '{path}': File too large; the run so far stays in the file: make room, then: "
        f"wassgrid resume {path}\n"
    )
    assert rows(path) >= 1
    assert files(case.parent) == ["tiny.h5", "tiny.toml"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no device that is always full")
@pytest.mark.parametrize(("arguments", "stream", "status"), [("info x.h5", "stderr", 2), ("--help", "stdout", 1)])
def test_a_stream_that_is_full_leaves_the_exit_status(tmp_path, arguments, stream, status):
    command = [sys.executable, "-m", "wassgrid", *arguments.split()]
    streams = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=tmp_path, check=False, **{**streams, stream: full})
    assert done.returncode == status
    assert b"Traceback" not in (done.stderr or b"")


@pytest.mark.thorough
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no device that is always full")
def test_a_log_that_is_full_ends_no_run(case):
    command = [sys.executable, "-m", "wassgrid", "run", "tiny.toml"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, check=False)
    assert done.returncode == 0 and b"objective J" in done.stdout
    assert rows(Path("tiny.h5")) == STEPS + 1


def test_numbers_that_stop_being_finite_fail_the_run(case, capsys):
    # the particles drift to where the cost is no number: sqrt of a negative one
    cost = "cost.stage=s**2 - 2*a + sqrt(0.5 - a)"
    options = ["--set", cost, "--set", "policy.initial={distribution='point'}", "--set", "flow.stop.flow_time=2.0"]
    assert main(["run", "tiny.toml", "-q", *options]) == 1
    errors = capsys.readouterr().err
    assert len(errors.splitlines()) == 1
    assert errors.startswith("wassgrid: the run failed in step ")
    assert "keeps what came before" in errors
    with ResultFile("tiny.h5") as result:
        assert result.status == "failed"
        assert result.reason in errors
        assert np.isfinite(result.convergence["objective"]).all()
        assert result.checkpoint["step"] == result.convergence["step"][-1]


def test_a_cost_without_a_lower_bound_is_named(case, capsys):
    (case.parent / "open.toml").write_text(re.sub("(?m)^bounds = .*$", "", case.read_text()))
    options = ["--set", "cost.stage=s**2 - 0.1*a**2", "--set", "flow.method=newton", "--set", "flow.stop.steps=60"]
    assert main(["run", "open.toml", "-q", *options]) == 1
    assert "the cost is not bounded below" in capsys.readouterr().err
    with ResultFile("open.h5") as result:
        assert result.status == "failed"
        assert result.convergence["objective"][-1] < -1e10


# ---- info, plot, simulate ----


def test_info_of_a_finished_run(case, capsys):
    assert main(["run", "tiny.toml", "-q"]) == 0
    assert main(["info", "tiny.h5"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "stopped: the flow time 0.24 was reached", f"{STEPS + 1} records, steps 0 to {STEPS}", "/checkpoint",
        f"step {STEPS - 1}", "wassgrid " + wassgrid.__version__, "physical std",
    ):  # fmt: skip
        assert part in shown
    # the verdict first, where it comes from last
    starts = [shown.index(f"\n{name} ") for name in ("status", "objective J", "/checkpoint", "made by", "seed")]
    assert starts == sorted(starts) and shown.startswith("tiny: ")


def test_info_of_a_long_run_reads_little(case, capsys, monkeypatch):
    assert main(["run", "tiny.toml", "-q"]) == 0
    with h5py.File("tiny.h5", "r+") as file:
        for data in file["convergence"].values():
            data.resize(300_000, axis=0)
            data[...] = np.arange(300_000)
    read, lengths = reader.read_array, []

    def watched(data, index=()):
        found = read(data, index)
        lengths.append(found.size)
        return found

    monkeypatch.setattr(reader, "read_array", watched)
    assert main(["info", "tiny.h5"]) == 0
    shown = capsys.readouterr().out
    assert "300000 records, steps 0 to 299999" in shown and re.search("objective J +299999\n", shown)
    assert max(lengths) < 1000


@pytest.mark.thorough
def test_plot_names_the_figures(case, capsys):
    assert main(["run", "tiny.toml", "-q"]) == 0
    assert main(["run", "tiny.toml", "-q", "-o", "other.h5"]) == 0
    assert main(["plot", "tiny.h5", "other.h5", "-o", "figures"]) == 0
    listed = capsys.readouterr().out.split()
    kinds = ("policy", "stationary", "value", "trajectories")
    names = ["convergence.png", *(f"{name}_{kind}.png" for name in ("tiny", "other") for kind in kinds)]
    assert listed == [f"figures/{name}" for name in names]
    assert files(case.parent / "figures") == sorted(names)
    assert main(["plot", "tiny.h5", "-o", "tiny.toml"]) == 2
    assert "cannot write 'tiny.toml/" in capsys.readouterr().err


# A chain that no action moves: everything about its cost is known.
AUTOREGRESSIVE = """
[states.s]
next = "0.8*s"
noise = "0.5"
domain = [-8.0, 8.0]
[actions.a]
bounds = [-1.0, 1.0]
[cost]
stage = "s**2 + 0*a"
[grid]
points = { s = 65 }
[policy]
particles = 2
[flow]
stop = { steps = 0 }
method = "euler"
"""
VARIANCE = 0.25 / (1 - 0.64)


@pytest.mark.thorough
def test_simulated_cost_is_the_exact_one_within_its_standard_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ar.toml").write_text(AUTOREGRESSIVE)
    assert main(["run", "ar.toml", "-q"]) == 0  # nothing to gain: the default gap is met at once
    assert main(["simulate", "ar.h5", "--steps", "500", "--chains", "64", "--seed", "4"]) == 0
    output = capsys.readouterr().out
    assert "64 chains, 500 steps after 100" in output
    assert f"objective J  {VARIANCE:.6f}" in output
    case, policy = Case.load("ar.toml"), ParticlePolicy.load("ar.h5")
    with ResultFile("ar.h5") as result:
        law = result.frame("stationary")
    scores = []
    for seed in range(40):
        estimate = ergodic_cost(case.problem, policy, law, 32, 50, 10, np.random.default_rng(seed))
        scores.append((estimate.mean - VARIANCE) / estimate.standard_error)
    assert abs(np.mean(scores)) < 4 / np.sqrt(40)
    assert 0.7 < np.std(scores) < 1.5  # the standard error is what it says


def test_simulated_discounted_cost(tmp_path):
    text = AUTOREGRESSIVE + "[criterion]\nkind = 'discounted'\ndiscount = 0.9\n"
    case = Case.from_text(text, "discounted")
    grid = StateGrid.from_case(case)
    policy = ParticlePolicy.around(grid, np.zeros((grid.size, 1)))
    # E s_t^2 = 0.64^t E s_0^2 + variance (1 - 0.64^t), summed with (1 - g) g^t
    start_moment = float((grid.states**2).mean())
    transient = 0.1 / (1 - 0.9 * 0.64)
    exact = transient * start_moment + VARIANCE * (1 - transient)
    scores = []
    for seed in range(20):
        estimate = discounted_cost(case.problem, policy, 2000, np.random.default_rng(seed))
        scores.append((estimate.mean - exact) / estimate.standard_error)
    assert abs(np.mean(scores)) < 4 / np.sqrt(20)
    assert 0.6 < np.std(scores) < 1.6


# ---- progress ----


def step_record(step: int, **scalars: float) -> StepRecord:
    return StepRecord({"step": step, "objective": 1.0} | scalars, dict, dict)


def test_time_left_follows_the_first_rule_to_be_met(monkeypatch):
    clock_time = [0.0]
    monkeypatch.setattr("wassgrid.observers.progress.time.monotonic", lambda: clock_time[0])
    stop = "stop = { steps = 1000, gradient_norm = 1e-6, gap = 1e-9 }"
    case = Case.from_text(TINY.replace("stop = { flow_time = 0.24 }", stop), "tiny")
    pace = Pace(case, step_record(0, gradient_norm=1.0, lower_bound=0.0))
    assert pace.seconds_left() == math.inf
    for step in range(1, 31):
        clock_time[0] += 2.0
        pace.update(step_record(step, gradient_norm=10 ** (-step / 10), lower_bound=0.0))
    # the gradient norm falls a decade in 10 steps: 30 more to go, of 2 s; the gap stands still, 970 steps are allowed
    assert pace.share == pytest.approx(0.5)
    assert pace.seconds_left() == pytest.approx(60.0)
    assert [clock(value) for value in (0.4, 59.4, 65, 7800, math.inf)] == ["0 s", "59 s", "1 min 05 s", "2 h 10 min", "?"]


def test_lines_come_at_growing_intervals(monkeypatch):
    from rich.console import Console

    clock_time, case = [0.0], Case.from_text(TINY, "tiny")
    monkeypatch.setattr("wassgrid.observers.progress.time.monotonic", lambda: clock_time[0])
    with open(os.devnull, "w") as sink:
        console = Console(file=sink, record=True, width=160)
        lines = ProgressLines(console)
        lines.start(case, None, step_record(0), False)
        for step in range(1, 400):
            clock_time[0] += 1.0
            lines.step(step_record(step))
    shown = [int(line.split()[1]) for line in console.export_text().splitlines()]
    assert {0, 1, 2, 5, 10, 20, 50, 100, 200} <= set(shown)
    others = [step for step in shown if step not in (0, 1, 2, 5, 10, 20, 50, 100, 200)]
    gaps = np.diff([step for step in shown if step >= 20])
    assert len(others) >= 5
    assert len(shown) < 25
    assert gaps.max() > 40


def test_watch_names_the_number_that_is_not_finite():
    watch = FinitenessWatch()
    assert watch.step(step_record(1, gradient_norm=0.1, lower_bound=math.nan)) is None
    with pytest.raises(FloatingPointError, match="gradient norm is nan"):
        watch.step(step_record(2, gradient_norm=math.nan))


@pytest.mark.parametrize("name", sorted(BAD_CASES))
def test_a_bad_case_ends_in_one_line_and_leaves_nothing(name, tmp_path, monkeypatch, capsys):
    """The table of bad cases through the command line: exit status 2, one line that names the key, no file, no delay."""
    monkeypatch.chdir(tmp_path)
    text, fragments = BAD_CASES[name]
    (tmp_path / "bad.toml").write_text(text, encoding="utf-8")
    began = time.perf_counter()
    assert main(["run", "bad.toml"]) == 2
    spent = time.perf_counter() - began
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1, captured.err
    for fragment in fragments:
        assert fragment in captured.err
    assert files(tmp_path) == ["bad.toml"]
    assert spent < 10  # 2 s on an idle machine


@pytest.mark.thorough
def test_compilation_is_counted_once_and_apart(case, tmp_path):
    """In a fresh cache the first step compiles; with it nothing does, and the rest of the run is left."""
    script = "import sys; from wassgrid.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_NUM_THREADS": "1"}
    seconds = []
    for name in ("first.h5", "second.h5"):
        command = [sys.executable, "-c", script, "run", "tiny.toml", "-q", "-o", name]
        subprocess.run(command, env=environment, check=True, timeout=300)
        with ResultFile(name) as result:
            columns = result.convergence
        assert np.all(columns["time_compilation"] <= np.diff(columns["wall_time"], prepend=0.0))
        seconds.append((columns["time_compilation"].sum(), columns["wall_time"][-1]))
    (compiled, whole), (nothing, rest) = seconds
    assert nothing == 0.0 and compiled > 1.0
    assert whole - compiled < 10.0 * rest + 1.0


@pytest.mark.thorough
def test_a_file_from_before_a_column_was_added_can_be_resumed(case, capsys):
    assert main(["run", "tiny.toml", "-q", "-o", "whole.h5"]) == 0
    main(["run", "tiny.toml", "-q", "--set", "flow.stop.steps=3"])
    with h5py.File("tiny.h5", "r+") as file:
        del file["convergence/time_compilation"]
    assert main(["resume", "tiny.h5", "-q", "--set", f"flow.stop.steps={STEPS}"]) == 0
    assert_same_numbers("whole.h5", "tiny.h5")
    assert main(["info", "tiny.h5"]) == 0
    assert main(["plot", "tiny.h5"]) == 0
