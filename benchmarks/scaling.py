"""Cells against time, products with the transition operator and peak memory, in two, three and four dimensions.

Every size runs in a process of its own, after two steps at the smallest size that only compile. Time is that of `wassgrid.solve`,
with loading the case; products are those that the run reports for V and mu at all its steps, where it reports them. The slope is
that of log time over log cells: 1 is linear.

    python benchmarks/scaling.py [--problem inverted_pendulum=64,128 ...] [--gap 1e-6] [-o FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import wassgrid as wg

CASES = Path(__file__).parent.parent / "cases"


def oscillators(n: int) -> dict[str, Any]:
    return {"q1": n, "q2": n, "p1": "aligned", "p2": "aligned"}


# points per state at size n, and the sizes of a full study
PROBLEMS: dict[str, tuple[Callable[[int], dict[str, Any]], tuple[int, ...]]] = {
    "inverted_pendulum": (lambda n: {"theta": n, "omega": n}, (64, 96, 128, 192, 256, 384, 512)),
    "dubins": (lambda n: {"x": n, "y": n, "psi": n}, (16, 24, 32, 48, 64)),
    "oscillators_4d": (oscillators, (15, 19, 23, 27, 31)),
    "cartpole": (lambda n: {"x": n, "v": n, "theta": n, "omega": n}, (15, 19, 23, 27, 31)),
}


class Counter:
    """Observer that adds up what the steps report about their products."""

    def __init__(self) -> None:
        self.steps, self.products = 0, 0.0

    def start(self, case: object, solver: object, first: Any, resumed: bool) -> None:
        self.add(first.scalars)

    def step(self, record: Any) -> None:
        self.steps += 1
        self.add(record.scalars)

    def add(self, scalars: Mapping[str, float]) -> None:
        names = ("products",) if "products" in scalars else ("value_iterations", "stationary_iterations")
        self.products += sum(scalars[name] for name in names if name in scalars and math.isfinite(scalars[name]))

    def finish(self, verdict: object, solution: object) -> None:
        pass


@dataclass(frozen=True)
class Size:
    """One size of one problem; seconds and mebibytes, or why there is none."""

    problem: str
    n: int
    cells: int = 0
    seconds: float = math.nan
    steps: int = 0
    products: float = math.nan
    memory: float = math.nan
    objective: float = math.nan
    gap: float = math.nan
    note: str = ""


def case_of(problem: str, n: int, gap: float, settings: Sequence[str]) -> wg.Case:
    points = ", ".join(f"{name} = {json.dumps(value)}" for name, value in PROBLEMS[problem][0](n).items())
    return wg.Case.load(
        CASES / f"{problem}.toml",
        [f"grid.points={{ {points} }}", "grid.kernel=auto", "policy.particles=1", f"flow.stop={{ gap = {gap} }}", *settings],
    )


def measure(problem: str, n: int, warm: int, gap: float, settings: Sequence[str]) -> Size:
    """Solve one size in this process."""
    if warm:
        wg.solve(case_of(problem, warm, gap, [*settings, "flow.stop.steps=2"]))
    counter = Counter()
    began = time.perf_counter()
    solution = wg.solve(case_of(problem, n, gap, settings), [counter])
    seconds = time.perf_counter() - began
    # in kibibytes, on macOS in bytes
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    cells = math.prod(solution.policy.grid.shape)
    found = solution.objective, solution.objective - solution.lower_bound
    note = "" if solution.complete else solution.reason
    return Size(problem, n, cells, seconds, counter.steps, counter.products, memory, *found, note)


def measure_apart(problem: str, n: int, options: argparse.Namespace) -> Size:
    command = [sys.executable, str(Path(__file__).resolve()), "--gap", str(options.gap), "--warm", str(options.warm)]
    command += [argument for text in options.set for argument in ("--set", text)]
    try:
        done = subprocess.run([*command, "--worker", problem, str(n)], capture_output=True, text=True, timeout=options.timeout)
    except subprocess.TimeoutExpired:
        return Size(problem, n, note=f"stopped after {options.timeout:g} s")
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return Size(problem, n, note=lines[-1] if lines else f"ended by signal {-done.returncode}")
    return Size(**json.loads(done.stdout.strip().splitlines()[-1]))


def slope(sizes: Sequence[Size], quantity: str) -> float:
    """Return the least-squares slope of log quantity over log cells, nan below two sizes."""
    done = [size for size in sizes if size.cells and math.isfinite(getattr(size, quantity))]
    if len({size.cells for size in done}) < 2:
        return math.nan
    cells, values = np.log([size.cells for size in done]), np.log([getattr(size, quantity) for size in done])
    return float(np.polyfit(cells, values, 1)[0])


def draw(path: Path, rows: Mapping[str, Sequence[Size]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for problem, sizes in rows.items():
        done = [size for size in sizes if size.cells]
        if not done:
            continue
        cells = [size.cells for size in done]
        left.loglog(cells, [size.seconds for size in done], "o-", label=f"{problem}, slope {slope(done, 'seconds'):.2f}")
        right.loglog(cells, [size.memory for size in done], "o-", label=problem)
    left.set(xlabel="cells", ylabel="wall time (s)")
    right.set(xlabel="cells", ylabel="peak memory of the process (MiB)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=160)
    plt.close(figure)


def sizes_of(text: str) -> tuple[str, tuple[int, ...]]:
    """Read "problem" or "problem=n,n"."""
    name, _, numbers = text.partition("=")
    if name not in PROBLEMS:
        raise argparse.ArgumentTypeError(f"unknown problem {name!r}; known: {', '.join(PROBLEMS)}")
    try:
        return name, tuple(int(n) for n in numbers.split(",")) if numbers else PROBLEMS[name][1]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {name}=n,n with whole numbers, got {text!r}") from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one table per problem; write all sizes as CSV and the figure as PNG."""
    parser = argparse.ArgumentParser(description="time, products and memory against cells")
    parser.add_argument(
        "--problem", type=sizes_of, nargs="*", default=[sizes_of(name) for name in PROBLEMS], metavar="NAME[=n,n]"
    )
    parser.add_argument("--gap", type=float, default=1e-6, help="proven gap at which runs stop, in units of cost")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="further settings of the case")
    parser.add_argument("--warm", type=int, default=-1, help="size of the uncounted first solve (default: the smallest; 0: none)")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds for one size")
    parser.add_argument("-o", "--output", type=Path, default=Path("scaling"), help="folder for the CSV and PNG files")
    parser.add_argument("--worker", nargs=2, metavar=("PROBLEM", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        problem, n = options.worker
        print(json.dumps(asdict(measure(problem, int(n), options.warm, options.gap, options.set))))
        return
    console, rows = Console(width=150), {}
    smallest_wanted = options.warm < 0
    for problem, sizes in options.problem:
        if smallest_wanted:
            options.warm = min(sizes)
        table = Table("n", "cells", "seconds", "steps", "products", "peak memory, MiB", "J", "gap", "note", title=problem)
        rows[problem] = found = []
        for n in sizes:
            size = measure_apart(problem, n, options)
            found.append(size)
            console.print(f"{problem} {n}: {size.note or f'{size.seconds:.2f} s'}", highlight=False)
            numbers = ["", "", "", "", "", "", ""]
            if size.cells:
                numbers = [f"{size.cells:,}", f"{size.seconds:.3g}", str(size.steps), f"{size.products:,.0f}"]
                numbers += [f"{size.memory:,.0f}", f"{size.objective:.9f}", f"{size.gap:.1e}"]
            table.add_row(str(n), *numbers, size.note)
        console.print(table)
        console.print(f"slope of log time {slope(found, 'seconds'):.2f}, of log products {slope(found, 'products'):.2f}")
    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / "scaling.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(Size("", 0))))
        writer.writeheader()
        writer.writerows(asdict(size) for sizes in rows.values() for size in sizes)
    draw(options.output / "scaling.png", rows)


if __name__ == "__main__":
    main()
