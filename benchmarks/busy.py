"""What a busy machine costs: the same run alone, beside a process that burns one core, and on one thread instead of two.

Every run is a process of its own that solves twice and times the second solve, so that nothing is compiled on the clock. The
runs take turns; ratios are medians over the repetitions. All runs must return the same bits: cost, bound, policy, law, value.

    python benchmarks/busy.py [CASE] [--set KEY=VALUE] [--repetitions 3] [--threads 2]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

CASES = Path(__file__).parent.parent / "cases"


def measure(case: str, settings: Sequence[str]) -> dict[str, Any]:
    """Solve in this process; return wall and processor seconds of the second solve and the digest of its numbers."""
    import wassgrid as wg

    path = Path(case) if case.endswith(".toml") else CASES / f"{case}.toml"
    wg.solve(wg.Case.load(path, settings))
    began, spent = time.perf_counter(), time.process_time()
    solution = wg.solve(wg.Case.load(path, settings))
    wall, processor = time.perf_counter() - began, time.process_time() - spent
    digest = hashlib.sha256(np.array([solution.objective, solution.lower_bound]).tobytes())
    states = np.stack([axis.ravel() for axis in np.meshgrid(*solution.policy.grid.axes, indexing="ij")], axis=1)
    for array in (solution.policy.mean(states), solution.stationary, solution.value):
        digest.update(np.ascontiguousarray(array, dtype=float).tobytes())
    return {"wall": wall, "processor": processor, "objective": solution.objective, "digest": digest.hexdigest()}


@contextmanager
def burning_core(burners: int) -> Iterator[None]:
    """Keep cores busy with processes of our own."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(burners)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def run_apart(case: str, settings: Sequence[str], threads: int, burners: int) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), case, "--worker"]
    command += [argument for text in settings for argument in ("--set", text)]
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(threads)}
    with burning_core(burners):
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the times and ratios; exit with status 1 if two runs differ in a bit."""
    parser = argparse.ArgumentParser(description="wall time beside a busy process, and with one thread")
    parser.add_argument("case", nargs="?", default="inverted_pendulum", help="name in cases/, or a case file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="settings of the case")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="threads of the runs that are not on one thread")
    parser.add_argument("--burners", type=int, default=1, help="competing processes")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    settings = options.set or (["policy.particles=1", "flow.stop.gap=1e-6"] if options.case == "inverted_pendulum" else [])
    if options.worker:
        print(json.dumps(measure(options.case, settings)))
        return
    many, burners = options.threads, options.burners
    plans = [(many, 0), (many, burners), (1, 0), (1, burners)]
    runs: dict[tuple[int, int], list[dict[str, Any]]] = {plan: [] for plan in plans}
    for _ in range(options.repetitions):
        for plan in plans:
            runs[plan].append(run_apart(options.case, settings, *plan))
    console = Console(width=120)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan
    title = f"{options.case} {' '.join(settings)}: median of {options.repetitions}"
    table = Table("threads", "competing processes", "wall, s", "processor, s", "ratio to the first row", title=title)
    alone = runs[plans[0]]
    for plan, found in runs.items():
        wall, processor = (median(run[name] for run in found) for name in ("wall", "processor"))
        ratio = median(run["wall"] / first["wall"] for run, first in zip(found, alone, strict=True))
        table.add_row(str(plan[0]), str(plan[1]), f"{wall:.3f}", f"{processor:.3f}", f"{ratio:.2f}")
    console.print(table)
    console.print(f"load of the machine at the end {load:.1f}: the quiet rows are quiet only if nothing else runs")
    digests = {run["digest"] for found in runs.values() for run in found}
    if len(digests) > 1:
        console.print("[red]runs differ[/red]: " + ", ".join(sorted({repr(r["objective"]) for f in runs.values() for r in f})))
        raise SystemExit(1)
    console.print("all runs returned the same bits")


if __name__ == "__main__":
    main()
