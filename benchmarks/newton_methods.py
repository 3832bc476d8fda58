"""Steps and time of the gradient flow, local Newton and full Newton to the same distance from the optimum.

Every method starts from the case's initial policy and goes on until J is within a relative 1e-8 of the smallest J that any of
them reached at the end; those that stop elsewhere, in a local minimum of Q, are shown with where they stopped. With
escape, particles may jump to better actions that the certificate knows; its cost is part of every step. Times are wall time and
seconds of the processor, all threads together, which a busy machine does not distort; each method is given a minute of those.

    python benchmarks/newton_methods.py [CASE...]
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from wassgrid.case import Case
from wassgrid.metric import gradient_norm
from wassgrid.runs.grid_solver import GridSolver

CASES = ("scalar_lq", "scalar_regulator", "torus_regulator", "inverted_pendulum")
METHODS = (("euler", False), ("rk4", False), ("newton", False), ("full_newton", False), ("newton", True), ("full_newton", True))
CLOSE = 1e-8  # relative distance of J
STEPS = {"euler": 400, "rk4": 400, "newton": 40, "full_newton": 40}
LIMIT = 60.0  # seconds of the processor for one method


@dataclass(frozen=True)
class Run:
    """One method on one case: J after every step, the processor time and the wall time spent by then."""

    objective: np.ndarray
    processor: np.ndarray
    wall: np.ndarray

    def reached(self, target: float) -> int | None:
        """Return the first step at which J is within reach of the target."""
        close = np.flatnonzero(self.objective <= target + CLOSE * abs(target))
        return int(close[0]) if close.size else None


def run(case: Case, method: str) -> Run:
    solver = GridSolver.from_case(case)
    state = solver.start()
    rows = [(state.evaluation.objective, 0.0, 0.0)]
    began, began_wall = time.process_time(), time.perf_counter()
    # once J stands still the method has done what it can
    while len(rows) <= STEPS[method] and time.process_time() - began < LIMIT and gradient_norm(state.evaluation) > 1e-11:
        state = solver.advance(state)
        rows.append((state.evaluation.objective, time.process_time() - began, time.perf_counter() - began_wall))
    return Run(*np.array(rows).T)


def compare(path: Path, particles: int | None) -> Table:
    table = Table(title=path.stem, title_justify="left")
    for column in ("method", "steps", "seconds", "of the processor", "J at the end", "above the best"):
        table.add_column(column, justify="left" if column == "method" else "right")
    runs = {}
    for method, escape in METHODS:
        settings = [f"flow.method={method}", f"flow.escape={str(escape).lower()}", "flow.step=adaptive"]
        settings += ["flow.stop={}", *([f"policy.particles={particles}"] if particles else [])]
        case = Case.load(path, settings)
        GridSolver.from_case(case).advance(GridSolver.from_case(case).start())  # once for the compiler
        runs[f"{method}{' with escape' if escape else ''}"] = run(case, method)
    best = min(found.objective.min() for found in runs.values())
    for name, found in runs.items():
        step = found.reached(best)
        reached = ("", "", "")
        if step is not None:
            reached = str(step), f"{found.wall[step]:.3g}", f"{found.processor[step]:.3g}"
        final = found.objective[-1]
        table.add_row(name, *reached, f"{final:.10g}", f"{final - best:.1e}")
    return table


def main(names: list[str]) -> None:
    folder = Path(__file__).parent.parent / "cases"
    for name in names or CASES:
        Console(width=120).print(compare(folder / f"{name}.toml", 1 if name == "inverted_pendulum" else None))


if __name__ == "__main__":
    main(sys.argv[1:])
