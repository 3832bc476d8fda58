"""SIGKILL at random moments and at every call of a checkpoint: every file is readable, every resumed run the uninterrupted one.

    python benchmarks/kills.py 1000 [--seed 0] [--system-calls 4]

Runs of small problems in one, two and four dimensions and of a neural policy, a transaction after every step: children that a
process forks in which all kernels are compiled and JAX is imported, but has not begun to compute. A kill comes after a
random time, or from inside: at the n-th call that the storage makes of the operating system (open, allocate, write of HDF5, sync,
rename, link, unlink, ...), before the call or after it. Then the file is read whole, and the run is resumed: killed again with
probability one half, else to its end, where its numbers are compared with those of the run that nobody killed, bit for bit.

--system-calls N: further kills at the first N system calls of every kind that changes the file, HDF5's own among them, by strace
(processes of their own, in one and two dimensions); the wrapper of the others sees only what Python calls.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from wassgrid.cli import main as wassgrid
from wassgrid.storage import ResultFile, StorageError, writer

GRID = """
[cost]
stage = "{stage}"
[policy]
particles = 2
[flow]
method = "euler"
step = 0.02
stop = {{ steps = 5 }}
[output]
estimate = false
[grid]
points = {points}
"""
STATE = '[states.{name}]\nnext = "0.9*{name} + 0.3*{action}"\nnoise = "0.5"\ndomain = [-3.0, 3.0]\n'
ACTION = "[actions.{action}]\nbounds = [-2.0, 2.0]\n"
NEURAL = """
[states.x]
next = "0.9*x + u"
noise = 0.5
[actions.u]
[cost]
stage = "x**2 + u**2"
[solver]
kind = "neural"
[neural]
hidden = []
chains = 8
horizon = 8
tail = 4
burn_in = 20
steps = 4
[neural.evaluation]
chains = 8
burn_in = 10
steps = 64
"""
CALLS = ("open", "unlink", "fsync", "replace", "ftruncate", "posix_fallocate", "fchmod", "link", "close", "write", "fstat")
METHODS = ((h5py.Dataset, "__setitem__"), (h5py.Dataset, "resize"), (h5py.File, "close"), (h5py.Group, "create_dataset"))
SYSTEM_CALLS = ("openat", "pwrite64", "write", "fallocate", "ftruncate", "fsync", "fchmod", "rename", "unlink")


def grid_case(dimension: int, points: int) -> str:
    """Return a problem of independent states, of which the first two have an action of their own."""
    names = [f"s{k}" for k in range(dimension)]
    actions = [f"a{k}" for k in range(min(dimension, 2))]
    states = [STATE.format(name=name, action=actions[k % len(actions)]) for k, name in enumerate(names)]
    stage = " + ".join([f"{name}**2" for name in names] + [f"0.3*{action}**2" for action in actions])
    sizes = "{ " + ", ".join(f"{name} = {points}" for name in names) + " }"
    return "".join(states + [ACTION.format(action=action) for action in actions]) + GRID.format(stage=stage, points=sizes)


CLOCKS = ("wall_time", "elapsed")
CASES = {"1-D": grid_case(1, 13), "2-D": grid_case(2, 13), "4-D": grid_case(4, 4), "neural": NEURAL}


def numbers(path: Path) -> dict[str, bytes]:
    """Return all that must not depend on how often a run was killed; reads every array of the file."""
    with ResultFile(path) as result:
        result.verify()
        columns = result.convergence.items()
        found = {name: values for name, values in columns if name not in CLOCKS and not name.startswith("time_")}
        for series in set(result.series) - {"convergence"}:
            found |= {f"{series} {name}": result.array(series, name) for name in ("step", *result.variables(series))}
        checkpoint = (result.checkpoint or {}).items()
        found |= {f"checkpoint {name}": value for name, value in checkpoint if name not in CLOCKS}
    return {name: value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode() for name, value in found.items()}


def kill_at_call(number: int, after: bool) -> None:
    """Let this process die at the n-th call that the storage makes, before it is made or after."""
    calls = itertools.count(1)

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            here = next(calls) == number
            if here and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            found = call(*arguments, **named)
            if here:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        return counted

    for name in CALLS:
        setattr(os, name, watched(getattr(os, name)))
    for owner, name in METHODS:
        setattr(owner, name, watched(getattr(owner, name)))


def call(arguments: list[str], number: int = 0, after: bool = False) -> int:
    """Run the command line in this process, a transaction after every step."""
    writer.COMMIT_INTERVAL = writer.COMMIT_OVERHEAD = 0.0
    if number:
        kill_at_call(number, after)
    return wassgrid([*arguments, "--quiet"])


def forked(arguments: list[str], number: int, after: bool) -> int:
    """Start a child that runs the command line; return its process id."""
    child = os.fork()
    if child == 0:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        status = 99
        with suppress(BaseException):
            status = call(arguments, number, after)
        os._exit(status)
    return child


def import_jax(folder: Path) -> None:
    """Import what a neural run needs, for children to share; compiled steps are kept in a folder."""
    import jax

    import wassgrid.neural.solver  # noqa: F401

    for name, value in (("dir", str(folder)), ("min_compile_time_secs", 0.0)):
        prefix = "jax_compilation_cache" if name == "dir" else "jax_persistent_cache"
        jax.config.update(f"{prefix}_{name}", value)
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # its threads have not begun


def alone(arguments: list[str]) -> list[str]:
    """Return the command of a process that makes the same call as a child."""
    place = str(Path(__file__).parent)
    called = f"sys.exit(kills.call({arguments}))"
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {place!r}); import kills; {called}"]


def ended(child: int, seconds: float | None) -> tuple[bool, int]:
    """Wait for a child, kill it after some seconds; return whether it was killed, and its exit status."""
    if seconds is not None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                return os.WIFSIGNALED(status), os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status), os.waitstatus_to_exitcode(status)


class Trials:
    """Runs that are killed, and what came of them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.generator = folder, random.Random(seed)
        self.found: collections.Counter[str] = collections.Counter()
        self.whole: dict[str, dict[str, bytes]] = {}
        self.seconds: dict[str, float] = {}
        for name, text in CASES.items():
            (folder / f"{name}.toml").write_text(text)

    def prepare(self, name: str) -> None:
        """Solve a case without a kill, first once where kernels are compiled."""
        path, arguments = self.folder / f"{name} whole.h5", ["run", str(self.folder / f"{name}.toml"), "-o"]
        if name == "neural":
            import_jax(self.folder / "compiled")
            ended(forked([*arguments, str(path)], 0, False), None)
        else:
            call([*arguments, str(path)])
        path.unlink()
        began = time.monotonic()
        ended(forked([*arguments, str(path)], 0, False), None)
        self.seconds[name] = time.monotonic() - began
        self.whole[name] = numbers(path)

    def trial(self, name: str, calls: int) -> None:
        """Kill a run, again and again, and resume it to its end."""
        path = self.folder / f"{name}.h5"
        for left in self.folder.glob(f"*{name}.h5*"):
            left.unlink()
        arguments = ["run", str(self.folder / f"{name}.toml"), "-o", str(path)]
        for kills in itertools.count(1):
            inside = self.generator.random() < 0.6
            number = self.generator.randrange(1, calls) if inside else 0
            killed, status = ended(
                forked(arguments, number, self.generator.random() < 0.5),
                None if inside else self.generator.uniform(0.0, 1.2) * self.seconds[name],
            )
            self.found["killed inside" if inside and killed else "killed at random" if killed else "ended before its kill"] += 1
            if not killed and status not in (0, 1):
                self.fail(f"{name}: exit status {status}, {path}")
            if not self.readable(path, name):
                return
            arguments = ["resume", str(path)] if path.exists() else arguments
            if not killed or kills >= 6 or self.generator.random() < 0.5:
                break
        ended(forked(arguments, 0, False), None)
        self.compare(path, name)

    def readable(self, path: Path, name: str) -> bool:
        """Read the whole file; one that was never published is not there."""
        if not path.exists():
            self.found["no file yet"] += 1
            return True
        try:
            numbers(path)
        except StorageError as error:
            self.fail(f"{name}: {error}")
            return False
        self.found["readable"] += 1
        return True

    def compare(self, path: Path, name: str) -> None:
        try:
            same = numbers(path) == self.whole[name]
        except StorageError as error:
            return self.fail(f"{name}: {error}")
        self.found["resumed run identical"] += same
        if not same:
            self.fail(f"{name}: another result than that of the whole run")
        if left := [left.name for left in self.folder.glob(f".{name}.h5*")]:
            self.fail(f"{name}: left {left}")

    def fail(self, text: str) -> None:
        self.found["FAILED"] += 1
        kept = Path(tempfile.mkdtemp(prefix="killed"))
        for file in self.folder.glob("*.h5"):
            shutil.copy(file, kept)
        print(f"FAILED {text}; kept in {kept}", flush=True)

    def traced(self, name: str, system_call: str, when: int) -> bool:
        """Kill a run at the n-th system call of a kind on the file that it writes, by strace; return whether it came that far."""
        path = self.folder / f"{name}.h5"
        for left in self.folder.glob(f"*{name}.h5*"):
            left.unlink()
        written = ["-P", str(path), "-P", str(self.folder / f".{name}.h5.partial")]
        inject = ["-e", f"inject={system_call}:signal=SIGKILL:when={when}"]
        command = ["strace", "-f", "-qq", "-o", os.devnull, *written, "-e", f"trace={system_call}", *inject]
        arguments = ["run", str(self.folder / f"{name}.toml"), "-o", str(path)]
        child = subprocess.run([*command, *alone(arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        if child.returncode in (0, 1):
            return False
        self.found["killed by strace"] += 1
        if self.readable(path, name):
            ended(forked(["resume", str(path)] if path.exists() else arguments, 0, False), None)
            self.compare(path, name)
        return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", type=int, nargs="?", default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--neural", type=float, default=0.1, help="share of the runs that are neural")
    parser.add_argument("--calls", type=int, default=150, help="calls of the storage among which the one that kills is drawn")
    parser.add_argument("--system-calls", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        trials = Trials(Path(name), given.seed)
        for case in CASES:
            if case != "neural" or given.neural > 0:
                trials.prepare(case)
        print({case: f"{seconds:.2f} s" for case, seconds in trials.seconds.items()}, flush=True)
        shown = 0
        while (done := trials.found["killed inside"] + trials.found["killed at random"]) < given.kills:
            neural = trials.generator.random() < given.neural
            trials.trial("neural" if neural else trials.generator.choice(["1-D", "2-D", "4-D"]), given.calls)
            if done - shown >= 50:
                shown = done
                print(dict(trials.found), flush=True)
        for case, system_call in itertools.product(("1-D", "2-D"), SYSTEM_CALLS):
            for when in range(1, given.system_calls + 1):
                if not trials.traced(case, system_call, when):
                    break
        print(dict(trials.found), flush=True)
    return 1 if trials.found["FAILED"] else 0


if __name__ == "__main__":
    sys.exit(main())
