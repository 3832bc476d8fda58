"""The same problem for wassgrid and for solvers of finite Markov decision processes: time, memory, true cost of the policy.

wassgrid moves one particle per cell until the gap to the best policy is proven to be at most 1e-6. QuantEcon's `DiscreteDP` and
mdpsolver choose among equally spaced actions; each gets the transition probabilities in its fastest form and the settings that
did best (printed with the table). Every run has a process of its own; the methods take turns, and a first solve in each process
is not counted, so that nothing is compiled on the clock. Build is what it takes to make the solver's model from the problem,
solve the rest. The true cost of every policy comes from one routine that shares no code with any of them: the matrix of its
continuous actions, normal weights without cut tails, and a direct solve for the average cost.

    pip install '.[benchmark]'
    python benchmarks/peers.py [--case inverted_pendulum] [--actions 11 21 41 101] [--repetitions 5] [-o FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import sparse
from scipy.sparse.linalg import spsolve

CASES = Path(__file__).parent.parent / "cases"
GAP = 1e-6  # per step: what wassgrid proves, and the span at which the others stop
DISCOUNT = 0.9999
SWEEPS = 50  # of the partial evaluation in QuantEcon's modified policy iteration
STEPS = 20  # of the partial evaluation in mdpsolver's modified policy iteration
TAIL = 6.0  # standard deviations to which the others get the transition probabilities
BOUND = 2.0  # N m
SETTINGS = (
    f"wassgrid: one particle per cell, stop.gap = {GAP:g}",
    f"QuantEcon: DiscreteDP in sparse state-action form, modified policy iteration with k = {SWEEPS}, discount {DISCOUNT} "
    f"(it has no average cost), stops at a span of TV - V of {GAP:g}",
    f"mdpsolver: average criterion, modified policy iteration, standard updates, parIterLim = {STEPS}, tolerance {GAP:g}, on one "
    "thread (mdpsolver_parallel: on all), probabilities and columns as lists without zeros",
    f"transition probabilities of both are cut at {TAIL:g} standard deviations; the true cost is not",
)


@dataclass(frozen=True)
class PendulumGrid:
    """The problem of cases/inverted_pendulum (angle_noise > 0) or of cases/pendulum (None: theta' follows omega' on nodes)."""

    angles: int
    speeds: int | None
    angle_noise: float | None
    noise: float = 0.4
    step: float = 0.05

    def __post_init__(self) -> None:
        spacing = 2 * np.pi / self.angles
        theta = -np.pi + spacing * np.arange(self.angles)
        if self.speeds is None:
            half = math.ceil(8 * self.step / spacing - 1e-9)
            omega = spacing / self.step * np.arange(-half, half + 1)
        else:
            omega = np.linspace(-8, 8, self.speeds)
        states = np.stack([axis.ravel() for axis in np.meshgrid(theta, omega, indexing="ij")], axis=1)
        for name, value in {"theta": theta, "omega": omega, "states": states}.items():
            object.__setattr__(self, name, value)

    theta: np.ndarray = None  # type: ignore[assignment]
    omega: np.ndarray = None  # type: ignore[assignment]
    states: np.ndarray = None  # type: ignore[assignment]

    def cost(self, action: np.ndarray) -> np.ndarray:
        """Return the stage cost (cells,) of actions (cells,) or of one action."""
        angle, speed = self.states.T
        return angle**2 + 0.1 * speed**2 + 0.001 * np.asarray(action) ** 2

    def rows(self, action: np.ndarray | float, tail: float = math.inf) -> tuple[np.ndarray, np.ndarray]:
        """Return columns and probabilities (cells, entries) of the next state; every row has as many entries."""
        angle, speed = self.states.T
        mean = np.clip(speed + self.step * (15 * np.sin(angle) + 3 * action), -8, 8)
        node, weight = _window(self.omega, mean, self.noise, tail)
        n = self.omega.size
        if self.angle_noise is None:
            cell = np.arange(self.states.shape[0])[:, None] // n
            shift = np.rint(self.step * self.omega / (self.theta[1] - self.theta[0])).astype(int)
            return (cell + shift[node]) % self.theta.size * n + node, weight
        # the angle's window is cut about the mean, and wrapped
        h = self.theta[1] - self.theta[0]
        position = (angle + self.step * speed - self.theta[0]) / h
        reach = self.theta.size if tail == math.inf else min(self.theta.size, 2 * math.ceil(tail * self.angle_noise / h) + 1)
        first = np.rint(position).astype(int) - reach // 2
        turn_node = first[:, None] + np.arange(reach)
        turn = np.exp(-0.5 * ((turn_node - position[:, None]) * h / self.angle_noise) ** 2)
        turn /= turn.sum(axis=1, keepdims=True)
        columns = (turn_node % self.theta.size)[:, :, None] * n + node[:, None, :]
        cells = mean.size
        return columns.reshape(cells, -1), (turn[:, :, None] * weight[:, None, :]).reshape(cells, -1)

    def true_cost(self, action: np.ndarray) -> float:
        """Return the average cost of continuous actions (cells,), from V - P V + J = c with V = 0 in the first cell."""
        columns, probability = self.rows(action)
        cells = self.states.shape[0]
        row = np.repeat(np.arange(cells), columns.shape[1])
        chain = sparse.csr_array((probability.ravel(), (row, columns.ravel())), shape=(cells, cells))
        matrix = sparse.csc_array(sparse.hstack([np.ones((cells, 1)), sparse.csc_array(sparse.eye_array(cells) - chain)[:, 1:]]))
        cost = self.cost(action)
        solution = np.linalg.solve(matrix.toarray(), cost) if matrix.nnz > 0.1 * cells**2 else spsolve(matrix, cost)
        return float(solution[0])


def _window(nodes: np.ndarray, mean: np.ndarray, noise: float, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes (cells, width) within the tail of the means, and normal weights at them that sum to one."""
    h = nodes[1] - nodes[0]
    width = nodes.size if tail == math.inf else min(nodes.size, 2 * math.ceil(tail * noise / h) + 1)
    first = np.clip(np.rint((mean - nodes[0]) / h).astype(int) - width // 2, 0, nodes.size - width)
    node = first[:, None] + np.arange(width)
    weight = np.exp(-0.5 * ((nodes[node] - mean[:, None]) / noise) ** 2)
    return node, weight / weight.sum(axis=1, keepdims=True)


GRIDS = {
    "inverted_pendulum": PendulumGrid(64, 65, angle_noise=0.1),
    "pendulum": PendulumGrid(256, None, angle_noise=None),
}


@dataclass(frozen=True)
class Run:
    """One run: seconds, mebibytes at the peak of its process, the average cost of its policy, or why there is none."""

    method: str
    actions: int  # 0: continuous
    build: float = math.nan
    solve: float = math.nan
    memory: float = math.nan
    cost: float = math.nan
    claim: float = math.nan  # what the method itself says its average cost is
    note: str = ""

    @property
    def name(self) -> str:
        return f"{self.method}-{self.actions}" if self.actions else self.method

    @property
    def total(self) -> float:
        return self.build + self.solve


Answer = tuple[np.ndarray, float]  # actions (cells,), the method's own average cost


def wassgrid(case: str, grid: PendulumGrid, _: int) -> tuple[Callable[[], Any], Callable[[Any], Answer]]:
    import wassgrid as wg

    def build() -> Any:
        return wg.Case.load(CASES / f"{case}.toml", ["policy.particles=1", f"flow.stop={{ gap = {GAP}, steps = 100 }}"])

    def solve(loaded: Any) -> Answer:
        solution = wg.solve(loaded)
        if not solution.complete:
            raise RuntimeError(solution.reason)
        return solution.policy.mean(grid.states).ravel(), solution.objective

    return build, solve


def quantecon(_: str, grid: PendulumGrid, count: int) -> tuple[Callable[[], Any], Callable[[Any], Answer]]:
    from quantecon.markov import DiscreteDP

    torque = np.linspace(-BOUND, BOUND, count)
    cells = grid.states.shape[0]

    def build() -> Any:
        # rows in the order in which DiscreteDP wants them, so that it sorts nothing: by state, then by action
        first = grid.rows(torque[0], TAIL)[0].shape[1]
        columns = np.empty((cells, count, first), np.int32)
        probability = np.empty((cells, count, first))
        for k, a in enumerate(torque):
            columns[:, k], probability[:, k] = grid.rows(a, TAIL)
        start = np.arange(cells * count + 1, dtype=np.int64) * first
        chain = sparse.csr_matrix((probability.ravel(), columns.ravel(), start), shape=(cells * count, cells))
        reward = -np.stack([grid.cost(a) for a in torque], axis=1).ravel()
        states, actions = np.repeat(np.arange(cells), count), np.tile(np.arange(count), cells)
        return DiscreteDP(reward, chain, DISCOUNT, states, actions)

    def solve(model: Any) -> Answer:
        found = model.solve(
            method="modified_policy_iteration", epsilon=GAP * DISCOUNT / (1 - DISCOUNT), k=SWEEPS, max_iter=10_000
        )
        if found.num_iter >= 10_000:
            raise RuntimeError("QuantEcon did not converge")
        return torque[found.sigma], -(1 - DISCOUNT) * float(np.mean(found.v))

    return build, solve


def mdpsolver(
    _: str, grid: PendulumGrid, count: int, parallel: bool = False
) -> tuple[Callable[[], Any], Callable[[Any], Answer]]:
    import mdpsolver

    torque = np.linspace(-BOUND, BOUND, count)

    def build() -> Any:
        laws = [grid.rows(a, TAIL) for a in torque]
        columns = [[law[0][k].tolist() for law in laws] for k in range(grid.states.shape[0])]
        probability = [[law[1][k].tolist() for law in laws] for k in range(grid.states.shape[0])]
        rewards = (-np.stack([grid.cost(a) for a in torque], axis=1)).tolist()
        model = mdpsolver.model()
        model.mdp(discount=DISCOUNT, rewards=rewards, tranMatProbs=probability, tranMatColumns=columns)
        return model

    def solve(model: Any) -> Answer:
        # a second solve of one model starts from the policy of the first: every model is solved once
        model.solve(algorithm="mpi", criterion="average", tolerance=GAP, parIterLim=STEPS, parallel=parallel)
        return torque[np.array(model.getPolicy())], math.nan

    return build, solve


METHODS = {
    "wassgrid": wassgrid,
    "quantecon": quantecon,
    "mdpsolver": mdpsolver,
    "mdpsolver_parallel": partial(mdpsolver, parallel=True),
}


def measure(case: str, method: str, count: int) -> Run:
    """Run one method in this process, twice; the second time is on the clock."""
    grid = GRIDS[case]
    build, solve = METHODS[method](case, grid, count)
    # the others compile nothing that depends on the size: a small relative of the problem warms them
    if method == "wassgrid":
        solve(build())
    else:
        small = PendulumGrid(16, 9, 0.4, 2.0)
        warm_build, warm_solve = METHODS[method](case, small, 3)
        warm_solve(warm_build())
    began = time.perf_counter()
    model = build()
    built = time.perf_counter()
    actions, claim = solve(model)
    solved = time.perf_counter()
    # in kibibytes, on macOS in bytes
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return Run(method, count, built - began, solved - built, memory, grid.true_cost(actions), claim)


def entries(case: str, count: int) -> int:
    grid = GRIDS[case]
    return grid.rows(0.0, TAIL)[0].size * count


def run_apart(case: str, method: str, count: int, timeout: float) -> Run:
    """Run one method in a process of its own, unless the lists that it needs would not fit into memory."""
    import psutil

    # Python's floats, integers and pointers, and mdpsolver's own copy; NumPy arrays, twice while SciPy wraps them
    needed = entries(case, count) * {"wassgrid": 0, "quantecon": 24}.get(method, 110)
    available = psutil.virtual_memory().available
    if needed > 0.9 * available:
        return Run(method, count, note=f"not run: needs about {needed / 2**30:.0f} GiB of {available / 2**30:.0f} available")
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", case, method, str(count)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=os.environ)
    except subprocess.TimeoutExpired:
        return Run(method, count, note=f"stopped after {timeout:g} s")
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return Run(method, count, note=lines[-1] if lines else f"exit status {done.returncode}")
    return Run(**json.loads(done.stdout.strip().splitlines()[-1]))


def medians(runs: Sequence[Run]) -> Run:
    """Return the run with the median of every number, the worst note if none of them finished."""
    finished = [run for run in runs if not run.note]
    if not finished:
        return runs[0]
    numbers = {name: median(getattr(run, name) for run in finished) for name in ("build", "solve", "memory", "cost", "claim")}
    return Run(runs[0].method, runs[0].actions, **numbers)


def ratios(rows: dict[str, list[Run]]) -> list[str]:
    """Say how many times longer the others take, run by run in turn, and whose policy costs less."""
    sentences = []
    ours = rows.get("wassgrid", [])
    for other in ("quantecon-21", "quantecon-101", "mdpsolver-21", "mdpsolver-101"):
        pairs = [(a, b) for a, b in zip(ours, rows.get(other, []), strict=False) if not (a.note or b.note)]
        if not pairs:
            continue
        mine, theirs = medians([a for a, _ in pairs]), medians([b for _, b in pairs])
        factor = median(b.total / a.total for a, b in pairs)
        solve_only = median(b.solve / a.total for a, b in pairs)
        lower = "lower" if mine.cost < theirs.cost else "NOT lower"
        sentences.append(
            f"{other}: {factor:.3g} times the time of wassgrid (build and solve; {solve_only:.3g} times without its build), "
            f"{theirs.memory / mine.memory:.3g} times the memory; true cost of wassgrid's policy is {lower}, "
            f"by {theirs.cost - mine.cost:+.3e}"
        )
    return sentences


def table_rows(rows: dict[str, list[Run]]) -> list[list[str]]:
    middle = {name: medians(runs) for name, runs in rows.items()}
    best = min(run.cost for run in middle.values() if not run.note)

    def cells(name: str, run: Run) -> list[str]:
        if run.note:
            return [name, "", "", "", "", "", "", run.note]
        times = sorted(each.total for each in rows[name] if not each.note)
        spread = f"{times[0]:.3g} to {times[-1]:.3g}"
        numbers = [f"{run.build:.3f}", f"{run.solve:.3f}", f"{run.total:.3f}", spread, f"{run.memory:.0f}"]
        return [name, *numbers, f"{run.cost:.9f}", f"{run.cost - best:+.1e}"]

    return [cells(name, run) for name, run in middle.items()]


HEADER = ["method", "build, s", "solve, s", "both, s", "from to, s", "peak memory, MiB", "true average cost", "above the best"]


def write(folder: Path, case: str, rows: dict[str, list[Run]], notes: Sequence[str]) -> None:
    """Write every run as CSV, the medians as Markdown and the figure as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"peers_{case}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(Run("", 0))))
        writer.writeheader()
        writer.writerows(asdict(run) for runs in rows.values() for run in runs)
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    lines += ["| " + " | ".join(row) + " |" for row in table_rows(rows)]
    (folder / f"peers_{case}.md").write_text("\n".join([*lines, "", *(f"- {note}" for note in notes), ""]))
    draw(folder / f"peers_{case}.png", case, rows)


def draw(path: Path, case: str, rows: dict[str, list[Run]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    middle = [medians(runs) for runs in rows.values()]
    middle = [run for run in middle if not run.note]
    best = min(run.cost for run in middle)
    floor = GAP  # what wassgrid proves: the best could lie so much lower
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for method, marker in zip(METHODS, "*os^", strict=True):
        runs = [run for run in middle if run.method == method]
        if not runs:
            continue
        above = [max(run.cost - best, floor) for run in runs]
        axes.loglog([run.total for run in runs], above, marker + "-", ms=14 if method == "wassgrid" else 6, label=method)
        for run, height in zip(runs, above, strict=True):
            if run.actions:
                place = {"xytext": (6, 3), "textcoords": "offset points", "fontsize": 8}
                axes.annotate(f"{run.actions} actions", (run.total, height), **place)
    axes.set(
        xlabel="wall time, build and solve (s)",
        ylabel=f"true average cost above the best, at least {GAP:g}",
        title=case.replace("_", " "),
    )
    axes.margins(x=0.2, y=0.1)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=160)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, the settings and the ratios; write them and the figure into a folder."""
    parser = argparse.ArgumentParser(description="wassgrid, QuantEcon and mdpsolver on the same pendulum")
    parser.add_argument("--case", choices=list(GRIDS), default="inverted_pendulum")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS)[:3])
    parser.add_argument("--actions", type=int, nargs="*", default=[11, 21, 41, 101])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one process")
    parser.add_argument("-o", "--output", type=Path, default=Path("peers"), help="folder for the CSV, Markdown and PNG files")
    parser.add_argument("--worker", nargs=3, metavar=("CASE", "METHOD", "ACTIONS"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        case, method, count = options.worker
        print(json.dumps(asdict(measure(case, method, int(count)))))
        return
    plan = [(m, count) for m in options.methods for count in ((0,) if m == "wassgrid" else options.actions)]
    rows: dict[str, list[Run]] = {}
    console = Console(width=170)
    for repetition in range(options.repetitions):
        for method, count in plan:
            name = Run(method, count).name
            earlier = rows.get(name, [])
            if earlier and earlier[-1].note:
                continue
            run = run_apart(options.case, method, count, options.timeout)
            rows.setdefault(name, []).append(run)
            result = run.note or f"{run.build:.3f} + {run.solve:.3f} s, {run.memory:.0f} MiB, true cost {run.cost:.9f}"
            console.print(f"{repetition + 1}/{options.repetitions} {name}: {result}", highlight=False)
    table = Table(*HEADER, title=f"{options.case}, median of {options.repetitions}")
    for row in table_rows(rows):
        table.add_row(*row)
    console.print(table)
    notes = [*SETTINGS, *ratios(rows)]
    for note in notes:
        console.print(note, highlight=False)
    write(options.output, options.case, rows, notes)


if __name__ == "__main__":
    main()
