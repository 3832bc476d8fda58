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
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

import wassgrid as wg
from wassgrid.certificate.continuous.interval import Claim, _Plan
from wassgrid.grid import StateGrid
from wassgrid.memory import estimate_chains, estimate_memory
from wassgrid.policy import initial_policy
from wassgrid.prove import prove
from wassgrid.transition.model import TransitionModel

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
TWO_ACTIONS = (
    THREE_ACTIONS.replace(" + 0.1*c", "").replace("[actions.c]\nbounds = [-1, 1]\n", "").replace(" + 0.1*c**2", "")
)
LINE = """
[states.x]
next = "0.9*x + a"
noise = 0.001
domain = [-1, 1]
[actions.a]
bounds = [-1, 1]
[cost]
stage = "x**2 + a**2"
"""
DISCOUNTED = 'criterion={kind="discounted", discount=0.99}'
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
MANY = 100
MANY_ACTIONS = (
    f'[states.x]\nnext = "x/2 + ({" + ".join(f"a{k}" for k in range(MANY))})/{4 * MANY}"\nnoise = 0.2\ndomain = [-1, 1]\n'
    + "".join(f"[actions.a{k}]\nbounds = [-1, 1]\n" for k in range(MANY))
    + f'[cost]\nstage = "x**2 + {" + ".join(f"(a{k} - x)**2" for k in range(MANY))}"\n'
)
# name: text or file, overrides, points
TRIED: dict[str, tuple[str, tuple[str, ...], dict[str, object]]] = {
    "1-D, 1 action, 16 particles": ("scalar_regulator", (), {"s": 3001}),
    "1-D, 1 action, 1 particle": ("scalar_regulator", ("policy.particles=1",), {"s": 6001}),
    "2-D, 1 action": ("inverted_pendulum", ("policy.particles=1",), {"theta": 384, "omega": 385}),
    "2-D, 1 action, 8 particles": ("inverted_pendulum", ("policy.particles=8",), {"theta": 256, "omega": 257}),
    "2-D, 2 actions": (TWO_ACTIONS, (), {"x": 201, "y": 201}),
    "2-D, 3 actions, 4 particles": (THREE_ACTIONS, (), {"x": 181, "y": 181}),
    "1-D, 100 actions": (MANY_ACTIONS, (), {"x": 41}),
    "2-D, walked": (WALK, (), {"x": 61, "y": 61}),
    "2-D, discounted": ("inverted_pendulum", ("policy.particles=2", DISCOUNTED), {"theta": 256, "omega": 257}),
    "3-D, 1 action": ("dubins", (), {"x": 41, "y": 41, "psi": 48}),
    "4-D, 1 action": ("cartpole", (), {"x": 15, "v": 17, "theta": 24, "omega": 23}),
    "4-D, 2 actions": ("oscillators_4d", (), {"q1": 21, "q2": 21, "p1": "aligned", "p2": "aligned"}),
    "prove, 1 state": (LINE, (), {"x": 21}),
    "prove, 2 states": (TWO_ACTIONS, ("states.x.noise=0.12", "states.y.noise=0.12"), {"x": 21, "y": 21}),
    "prove, 1 of 2 noisy": ("pendulum", (), {}),
    "neural": ("coupled_oscillators", ("neural.chains=4096", "neural.steps=2"), {}),
    "neural, 2 x 256": ("coupled_oscillators", ("neural.chains=1024", "neural.steps=2", "neural.hidden=[256, 256]"), {}),
}


def _status(name: str) -> float:
    """Return a line of this process's memory, VmRSS or VmHWM, in MiB."""
    with open("/proc/self/status") as lines:
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def measure(name: str) -> dict[str, float]:
    """Solve twice in this process; return estimate, its parts, peak, and what was held before, in MiB."""
    text, overrides, points = TRIED[name]
    settings = [*overrides, "output.estimate=false"]
    settings += [] if name.startswith("neural") else ["flow.stop.steps=2"]

    inner = ", ".join(f"{key} = {json.dumps(value)}" for key, value in points.items())
    settings += [f"grid.points={{{inner}}}"] if points else []
    large = wg.Case.from_text(text, "case", settings) if "\n" in text else wg.Case.load(CASES / f"{text}.toml", settings)
    if name.startswith("prove"):
        claim = Claim.of(large.problem, large.prove.boundary)
        estimate, shown = _Plan.first(claim).bytes(claim), {}
    elif name.startswith("neural"):
        estimate, shown = estimate_chains(large), {}
    else:
        grid = StateGrid.from_case(large)
        model = TransitionModel.from_case(large, grid)
        parts = estimate_memory(large, grid, model, initial_policy(large, grid))
        estimate, shown = parts.total, {part: size / MIB for part, size in asdict(parts).items()}
        del model, grid
    spend = proven if name.startswith("prove") else solved
    spend(large)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    spend(large)
    return {"estimate": estimate / MIB, "peak": _status("VmHWM") - before, "before": before} | shown


def solved(case: wg.Case) -> None:
    """Solve a case, as the command line does: with what is said of its chain at the end."""
    _ = wg.solve(case).summary


def proven(case: wg.Case) -> None:
    """Prove an interval, whatever its width: the first attempt."""
    prove(case, width=1e9, seconds=600.0)


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
