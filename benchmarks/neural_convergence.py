"""Gap of neural policies to the exact feedback of the linear oscillator ring, against wall time.

Every run is a process of its own on `cases/coupled_oscillators_linear.toml`; wall time counts from its start, imports and
compilation included. The gap is that of the reported policy at that time, by a long simulation with common random numbers against
the feedback of the Riccati equation.

    python benchmarks/neural_convergence.py gap -o figures        # 10, 20, 50 and 100 oscillators, three seeds
    python benchmarks/neural_convergence.py methods -o figures    # natural gradient, plain gradient and Adam, 10 oscillators
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

CASE = Path(__file__).parent.parent / "cases" / "coupled_oscillators_linear.toml"
SEEDS = (1, 2, 3)
SNAPSHOTS = 12
TARGETS = {10: (0.02, 15.0), 20: (0.02, 30.0), 50: (0.05, 60.0), 100: (0.1, 120.0)}  # oscillators: (per cent, seconds)
METHODS = {
    "natural gradient": [],
    "plain gradient": ["neural.method=gradient"],
    "Adam, rate 0.001": ["neural.method=adam"],
    "Adam, rate 0.01": ["neural.method=adam", "neural.step=0.01"],
}


class Snapshots:
    """Observer that keeps the reported parameters of every step with the time they were reached, until time is up.

    clock: "wall" counts from the time `began`; "cpu" the processor time of the process, all threads together: on a
    machine that is busy with other work it bounds the wall time that an idle one would take.
    """

    def __init__(self, began: float, seconds: float, clock: str) -> None:
        self.seconds = seconds
        self.elapsed = time.process_time if clock == "cpu" else lambda: time.time() - began
        self.taken: list[tuple[float, int, np.ndarray]] = []

    def start(self, case: Any, solver: Any, first: Any, resumed: bool) -> None:
        self.step(first)

    def step(self, record: Any) -> str | None:
        elapsed = self.elapsed()
        self.taken.append((elapsed, record.step, record.frame()["parameters"].copy()))
        return "time is up" if elapsed > self.seconds else None

    def finish(self, verdict: Any, solution: Any) -> None:
        pass


def run(began: float, clock: str, sites: int, seed: int, seconds: float, overrides: list[str]) -> dict[str, list[float]]:
    """Train for `seconds` of the clock and measure the gap along the way, in per cent."""
    from wassgrid.case import Case
    from wassgrid.runs.solvers import solve

    snapshots = Snapshots(began, seconds, clock)
    case = Case.load(CASE, [f"parameters.count={sites}", f"policy.seed={seed}", "neural.steps=100000", *overrides])
    solution = solve(case, [snapshots])

    import jax
    import jax.numpy as jnp

    from wassgrid.neural import make_solver
    from wassgrid.neural.ergodic import difference
    from wassgrid.neural.policies import PushForwardPolicy
    from wassgrid.problem.exact import OscillatorRing

    exact = OscillatorRing(sites).linear_quadratic
    policy, size = solution.policy.transport, 2 * sites
    linear = PushForwardPolicy(jnp.zeros(size), jnp.ones(size), policy.low, policy.high, (), (), "tanh", True, 0)
    feedback = jnp.concatenate([jnp.asarray(-exact.gain.T.ravel(), jnp.float32), jnp.zeros(sites)])
    times = np.array([taken[0] for taken in snapshots.taken])
    chosen = np.unique(np.searchsorted(times, np.geomspace(times[0], times[-1], SNAPSHOTS)).clip(max=len(times) - 1))
    result: dict[str, list[float]] = {"seconds": [], "steps": [], "gap": [], "error": []}
    dynamics = make_solver(case).dynamics
    for index in chosen:
        elapsed, step, parameters = snapshots.taken[index]
        found = difference(
            dynamics, (policy, jnp.asarray(parameters)), (linear, feedback), jnp.zeros((256, size)), jax.random.key(0), 200, 2000
        )
        row = (elapsed, step, 100 * found.mean / exact.objective, 100 * found.standard_error / exact.objective)
        for name, value in zip(result, row, strict=True):
            result[name].append(float(value))
    return result


def in_a_process(clock: str, *arguments: object) -> dict[str, list[float]]:
    """Run `run` in a fresh process."""
    command = [sys.executable, __file__, "run", repr(time.time()), clock, *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def curves(results: dict[str, list[dict[str, list[float]]]], title: str, clock: str, path: Path) -> None:
    """Draw the gap against time, one colour per label, one line per seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot(title=title, ylabel="gap to the optimum (%)")
    axes.set_xlabel(f"{clock} time (s), imports and compilation included")
    for colour, (label, runs) in enumerate(results.items()):
        for number, found in enumerate(runs):
            axes.loglog(
                found["seconds"], np.maximum(found["gap"], 1e-3), f"C{colour}o-", markersize=3, linewidth=1,
                label=label if number == 0 else None,
            )  # fmt: skip
    axes.grid(True, which="both", linewidth=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(path)


def gap(folder: Path, clock: str) -> None:
    """Print and draw the gap of 10 to 100 oscillators at the times asked for."""
    results: dict[str, list[dict[str, list[float]]]] = {}
    print(f"{'N':>4} {'seed':>5} {'seconds':>8} {'steps':>6} {'gap %':>8} {'+-':>7}   asked for")
    for sites, (wanted, seconds) in TARGETS.items():
        for seed in SEEDS:
            found = in_a_process(clock, sites, seed, seconds)
            results.setdefault(f"N = {sites}", []).append(found)
            last = [found[name][-1] for name in ("seconds", "steps", "gap", "error")]
            print(
                f"{sites:4d} {seed:5d} {last[0]:8.1f} {last[1]:6.0f} {last[2]:8.3f} {last[3]:7.3f}   {wanted} % in {seconds:g} s",
                flush=True,
            )
    curves(results, "Linear oscillator ring, natural gradient", clock, folder / "neural_gap.png")


def methods(folder: Path, clock: str, seconds: float) -> None:
    """Print and draw the gap of every method at equal time, 10 oscillators."""
    results: dict[str, list[dict[str, list[float]]]] = {}
    print(f"{'method':>18} {'seed':>5} {'seconds':>8} {'steps':>6} {'gap %':>9}")
    for method, overrides in METHODS.items():
        for seed in SEEDS:
            found = in_a_process(clock, 10, seed, seconds, *overrides)
            results.setdefault(method, []).append(found)
            print(
                f"{method:>18} {seed:5d} {found['seconds'][-1]:8.1f} {found['steps'][-1]:6.0f} {found['gap'][-1]:9.3f}",
                flush=True,
            )
    curves(results, "Linear oscillator ring, 10 oscillators", clock, folder / "neural_methods.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in ("gap", "methods"):
        verb = verbs.add_parser(name)
        verb.add_argument("-o", "--output", type=Path, default=Path("."), help="folder of the figure")
        verb.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    verbs.choices["methods"].add_argument("--seconds", type=float, default=30.0, help="time of every run")
    one = verbs.add_parser("run", help="one run, its curve as JSON")
    one.add_argument("began", type=float, help="when the process was started, seconds since the epoch")
    one.add_argument("clock", choices=("wall", "cpu"))
    one.add_argument("sites", type=int)
    one.add_argument("seed", type=int)
    one.add_argument("seconds", type=float)
    one.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    if given.verb == "run":
        print(json.dumps(run(given.began, given.clock, given.sites, given.seed, given.seconds, given.overrides)))
    elif given.verb == "gap":
        gap(given.output, given.clock)
    else:
        methods(given.output, given.clock, given.seconds)


if __name__ == "__main__":
    main()
