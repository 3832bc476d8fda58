"""Ctrl-C and SIGTERM at every moment of a run: seconds until the process has ended, its exit status, the state of the file.

    python benchmarks/signals.py [--moments start write ...] [--repetitions 2]

Every trial is a process of its own and sends one signal: after some time, or once the moment has come. A process that is ended by
the signal itself shows the status that a shell gives it (130, 143). Kernels are compiled before, but for the moment of that name.
Exit status 1 where one took longer than two seconds, left a broken file or another status, or showed a traceback.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from wassgrid.storage import ResultFile, StorageError

LIMIT = 2.0  # seconds
CASES = Path(__file__).parent.parent / "cases"

PENDULUM = """
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
points = {{ theta = {points}, omega = {points} }}
[policy]
particles = 4
[flow]
method = "{method}"
{step}
stop = {{ steps = 50 }}
[output]
trajectory_every = {every}
"""
STEP = PENDULUM.format(points=301, method="rk4", step="step = 0.01", every=0)  # a step takes some 60 seconds on one core
WRITE = PENDULUM.format(points=201, method="euler", step="step = 0.01", every=1)
PROOF = PENDULUM.format(points=301, method="newton", step="", every=0)


@dataclass(frozen=True)
class Moment:
    """When to send a signal: `delay` seconds after `ready(folder)`, to a process that `command` starts in the folder.

    before: commands that are run to their end first, the kernels' compilation among them.
    """

    command: tuple[str, ...]
    ready: Callable[[Path], bool]
    delays: tuple[float, ...]
    before: tuple[tuple[str, ...], ...] = ()
    cold: bool = False
    file: str = "r.h5"


def wait_for(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    """Return once a condition holds.  Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("waited in vain")
        time.sleep(0.005)


def rows(path: Path) -> int:
    """Return how many steps a result file holds; -1 where there is none."""
    with suppress(StorageError, OSError), ResultFile(path) as result:
        return result.records("convergence")
    return -1


def at_once(folder: Path) -> bool:
    return True


def begun(folder: Path) -> bool:
    return rows(folder / FILE) >= 0


def stepped(folder: Path) -> bool:
    return rows(folder / FILE) >= 1


def writing(folder: Path) -> bool:
    return rows(folder / FILE) >= 1 and (folder / ".r.h5.partial").exists()


def run(case: str, *settings: str) -> tuple[str, ...]:
    """Return the command that runs a case of the folder to r.h5."""
    return ("run", f"{case}.toml", "-o", "r.h5", *(word for setting in settings for word in ("--set", setting)))


FILE = "r.h5"
SHORT = ("flow.stop.steps=2",)
MOMENTS = {
    "start": Moment(run("write"), at_once, (0.05, 0.15, 0.3, 0.6, 1.0, 1.5)),
    "compilation": Moment(run("tiny"), begun, (0.5, 2.0, 5.0, 9.0), cold=True),
    "step of 60 s": Moment(run("step"), stepped, (1.0, 4.0)),
    "steps, proof": Moment(run("proof"), stepped, (0.5, 2.0, 4.0, 6.0)),
    "write": Moment(run("write"), writing, (0.0, 0.05, 0.2)),
    "resume, reading": Moment(("resume", "r.h5"), at_once, (0.6, 1.0, 1.5), (run("write", *SHORT),)),
    "resume, steps": Moment(
        ("resume", "r.h5", "--set", "flow.stop.steps=50"), lambda folder: rows(folder / FILE) > 3, (0.2,), (run("write", *SHORT),)
    ),
    "neural": Moment(run("neural"), begun, (0.5, 3.0, 8.0)),
    "prove": Moment(("prove", "lq.toml", "--time", "60", "--width", "1e-13"), at_once, (2.0, 4.0, 8.0), file=""),
    "check": Moment(("check", "step.toml"), at_once, (1.0, 2.5), file=""),
    "simulate": Moment(
        ("simulate", "r.h5", "--steps", "1000000"), at_once, (1.0, 3.0), (run("tiny"),), file=""
    ),
}


def prepare(folder: Path) -> None:
    """Write the cases."""
    for name, text in {"step": STEP, "write": WRITE, "proof": PROOF}.items():
        (folder / f"{name}.toml").write_text(text)
    for name, case in {"tiny": "torus_regulator", "lq": "scalar_lq", "neural": "inverted_pendulum_neural"}.items():
        (folder / f"{name}.toml").write_bytes((CASES / f"{case}.toml").read_bytes())


def start(folder: Path, command: tuple[str, ...], compiled: Path | None = None) -> subprocess.Popen[str]:
    """Start the command line in a folder; compiled: where compiled kernels are kept."""
    environment = dict(os.environ) | ({} if compiled is None else {"NUMBA_CACHE_DIR": str(compiled)})
    arguments = [sys.executable, "-m", "wassgrid", *command]
    return subprocess.Popen(arguments, cwd=folder, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def state(folder: Path, name: str) -> tuple[str, bool]:
    """Return what became of the result file, and whether it is as it should be."""
    hidden = sorted(path.name for path in folder.glob(".r.h5*"))
    if hidden:
        return f"left {hidden}", False
    if not name:
        return "no file", not (folder / "r.proof.h5").exists()
    if not (folder / name).exists():
        return "none", True
    try:
        with ResultFile(folder / name) as result:
            result.verify()
            held, steps = result.status, result.records("convergence")
            going_on = result.checkpoint_described
        return f"{held}, {steps} rows, checkpoint {going_on}", held != "running" or steps == 0
    except StorageError as error:
        return str(error), False


def trial(moment: Moment, delay: float, number: int) -> tuple[float, int, str, bool]:
    """Send one signal; return seconds until the end, exit status, state of the file, and whether all is well."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for command in moment.before:
            start(folder, command).communicate()
        process = start(folder, moment.command, folder / "compiled" if moment.cold else None)
        try:
            wait_for(lambda: moment.ready(folder) or process.poll() is not None)
            time.sleep(delay)
            over, began = process.poll() is not None, time.monotonic()
            process.send_signal(number)
            errors = process.communicate(timeout=120)[1]
            seconds = time.monotonic() - began
        finally:
            process.kill()  # by the object that started it
        status = 128 - process.returncode if process.returncode < 0 else process.returncode
        left, sound = state(folder, moment.file)
        if over:
            return seconds, status, f"was over before the signal; {left}", True
        if traceback := "Traceback" in errors:
            left += f"; TRACEBACK {errors.splitlines()[-1]}"
        return seconds, status, left, sound and not traceback and status == 128 + number and seconds <= LIMIT


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", nargs="*", default=list(MOMENTS), choices=list(MOMENTS))
    parser.add_argument("--repetitions", type=int, default=1)
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored, for children too
    table = Table("moment", "after [s]", "signal", "ended after [s]", "status", "file")
    failed = 0
    for name in given.moments:
        for delay in MOMENTS[name].delays:
            for number in (signal.SIGINT, signal.SIGTERM) * given.repetitions:
                seconds, status, left, well = trial(MOMENTS[name], delay, number)
                failed += not well
                left += "" if well else "  <--"
                row = (name, f"{delay:g}", signal.Signals(number).name, f"{seconds:.2f}", str(status), left)
                table.add_row(*row)
                print(*row, sep="  ", file=sys.stderr, flush=True)
    Console(width=200).print(table)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
