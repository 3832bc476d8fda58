"""Estimated against measured memory of a run, each in a process of its own.

    python benchmarks/memory.py [--only NAME ...]

The problem is solved twice. What the process holds after the first time (`before`) is the interpreter, the libraries, the
compiler and its kernels, and none of the run; `peak` is the most that the second run held beyond it, `estimate` what a run is
allowed or refused by. Exit status 1 where their ratio is beyond a factor of 1.3 (and 16 MiB, the allocator's).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

CASES = Path(__file__).parent.parent / "cases"
MIB, FACTOR, SLACK = 2**20, 1.3, 16  # bytes; of the ratio; MiB

THREE_ACTIONS = """
[states.x]
next = "0.9*x + 0.1*y + 0.3*a"
noise = 0.4
domain = [-3, 3]
[states.y]
next = "0.9*y - 0.1*x + 0.3*b + 0.1*c"
noise = 0.4
domain = [-3, 3]
[actions.a]
bounds = [-1, 1]
[actions.b]
bounds = [-1, 1]
[actions.c]
bounds = [-1, 1]
[cost]
stage = "x**2 + y**2 + 0.1*a**2 + 0.1*b**2 + 0.1*c**2"
[policy]
particles = 4
[flow]
method = "newton"
"""
WALK = """
[states.x]
next = "x + 0.1*sin(y) + 0.2*a"
noise = "0.3 + 0.05*sin(x + y)"
domain = ["-pi", "pi"]
boundary = "periodic"
[states.y]
next = "0.8*y + 0.3*next(x)*y"
noise = 0.3
domain = [-3, 3]
[actions.a]
bounds = [-1, 1]
[cost]
stage = "1 - cos(x) + y**2 + 0.1*a**2"
[policy]
particles = 4
"""
# name: text or file, overrides, points
TRIED: dict[str, tuple[str, tuple[str, ...], dict[str, object]]] = {
    "1-D, 1 action, 16 particles": ("scalar_regulator", (), {"s": 1501}),
    "1-D, 1 action, 1 particle": ("scalar_regulator", ("policy.particles=1",), {"s": 6001}),
    "2-D, 1 action": ("inverted_pendulum", ("policy.particles=1",), {"theta": 256, "omega": 257}),
    "2-D, 1 action, 8 particles": ("inverted_pendulum", ("policy.particles=8",), {"theta": 128, "omega": 129}),
    "2-D, 3 actions, 4 particles": (THREE_ACTIONS, (), {"x": 121, "y": 121}),
    "2-D, walked": (WALK, (), {"x": 61, "y": 61}),
    "3-D, 1 action": ("dubins", (), {"x": 31, "y": 31, "psi": 32}),
    "4-D, 1 action": ("cartpole", (), {"x": 9, "v": 11, "theta": 18, "omega": 17}),
    "4-D, 2 actions": ("oscillators_4d", (), {"q1": 15, "q2": 15, "p1": "aligned", "p2": "aligned"}),
    "neural": ("coupled_oscillators", ("neural.chains=4096", "neural.steps=2"), {}),
}


def _status(name: str) -> float:
    """Return a line of this process's memory, VmRSS or VmHWM, in MiB."""
    with open("/proc/self/status") as lines:
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def measure(name: str) -> dict[str, float]:
    """Solve twice in this process; return estimate, its parts, peak, and what was held before, in MiB."""
    import wassgrid as wg
    from wassgrid.grid import StateGrid
    from wassgrid.policy import initial_policy
    from wassgrid.resources import estimate_memory
    from wassgrid.transition.model import TransitionModel

    text, overrides, points = TRIED[name]
    settings = [*overrides, "output.estimate=false"]
    settings += [] if name == "neural" else ["flow.stop.steps=2"]

    inner = ", ".join(f"{key} = {json.dumps(value)}" for key, value in points.items())
    settings += [f"grid.points={{{inner}}}"] if points else []
    large = wg.Case.from_text(text, "case", settings) if "\n" in text else wg.Case.load(CASES / f"{text}.toml", settings)
    grid = StateGrid.from_case(large)
    model = TransitionModel.from_case(large, grid)
    parts = estimate_memory(large, grid, model, initial_policy(large, grid))
    del model, grid
    wg.solve(large)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    wg.solve(large)
    shown = {part: getattr(parts, part) / MIB for part in ("particles", "operator", "vectors")}
    return {"estimate": parts.total / MIB, "peak": _status("VmHWM") - before, "before": before} | shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(TRIED), choices=list(TRIED))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(measure(given.worker)))
        return 0
    table, missed = Table("case", "estimate [MiB]", "peak [MiB]", "ratio", "before [MiB]"), 0
    for name in given.only:
        command = [sys.executable, __file__, "--worker", name]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"NUMBA_NUM_THREADS": "1"}, check=False)
        if done.returncode:
            table.add_row(name, done.stderr.strip().splitlines()[-1])
            missed += 1
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        ratio = found["estimate"] / found["peak"]
        missed += not (1 / FACTOR <= ratio <= FACTOR or abs(found["estimate"] - found["peak"]) < SLACK)
        table.add_row(name, *(f"{found[key]:.0f}" for key in ("estimate", "peak")), f"{ratio:.2f}", f"{found['before']:.0f}")
        print(name, found, file=sys.stderr, flush=True)
    Console(width=160).print(table)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
