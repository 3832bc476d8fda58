"""The optimal pendulum with noise in the speed alone: aligned grids, and unaligned ones of as many cells.

J of the policy that Newton steps with escape reach, and the proven gap to the best policy of the same grid: the gap says
nothing about the grid, the agreement of the aligned grids does.

    python benchmarks/pendulum_grids.py [--angles 256 384 512 768] [--noise 0.25 0.13 0.1]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from wassgrid.case import Case
from wassgrid.runs.solvers import solve

CASE = Path(__file__).parent.parent / "cases" / "pendulum.toml"


@dataclass(frozen=True)
class Optimum:
    """What one grid makes of the problem."""

    shape: tuple[int, ...]
    objective: float
    gap: float
    steps: int
    seconds: float
    reason: str

    @property
    def cells(self) -> int:
        return math.prod(self.shape)


def optimum(noise: float, angles: int, speeds: int | str = "aligned", kernel: str = "auto", *overrides: str) -> Optimum:
    """Solve the case with one speed noise (rad/s per step) on one grid."""
    points = f'"{speeds}"' if isinstance(speeds, str) else str(speeds)
    case = Case.load(
        CASE,
        [
            f"parameters.speed_noise={noise}",
            f"grid.points={{ theta = {angles}, omega = {points} }}",
            f'grid.kernel={{ theta = "{kernel}", omega = "gaussian" }}',
            "policy.particles=1",
            *overrides,
        ],
    )
    began = time.perf_counter()
    solution = solve(case)
    return Optimum(
        solution.policy.grid.shape,
        solution.objective,
        solution.objective - solution.lower_bound,
        int(solution.record["step"]),
        time.perf_counter() - began,
        solution.reason,
    )


def unaligned_like(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return a square grid of as many cells, with a node at zero speed."""
    cells = math.prod(shape)
    speeds = round(math.sqrt(cells)) | 1
    return round(cells / speeds), speeds


def resolving_angles(noise: float) -> int:
    """Return the fewest angles, a multiple of 64, whose aligned speed spacing is at most noise / 0.8."""
    step = Case.load(CASE).parameters["step"]
    return 64 * math.ceil(2 * math.pi / step * 0.8 / noise / 64)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one table per noise."""
    parser = argparse.ArgumentParser(description="optimal pendulum on aligned and unaligned grids")
    parser.add_argument("--angles", type=int, nargs="*", default=[256, 384, 512, 768], help="angles of the aligned grids")
    parser.add_argument("--noise", type=float, nargs="*", default=[0.25, 0.13, 0.1], help="further speed noises")
    options = parser.parse_args(arguments)
    console = Console()
    table = new_table("speed noise 0.4 rad/s per step")
    for angles in options.angles:
        row = optimum(0.4, angles)
        show(table, "aligned", row)
        if angles <= 512:
            for kernel in ("linear", "cubic"):
                show(table, kernel, optimum(0.4, *unaligned_like(row.shape), kernel, "flow.stop.steps=12"))
    console.print(table)
    for noise in options.noise:
        table = new_table(f"speed noise {noise:g} rad/s per step")
        coarse = resolving_angles(noise)
        for angles in (coarse, coarse + 64 * round(coarse / 256)):
            show(table, "aligned", optimum(noise, angles))
        console.print(table)


def new_table(title: str) -> Table:
    """Return an empty table."""
    return Table("grid", "theta", "cells", "J", "gap", "steps", "seconds", title=title)


def show(table: Table, label: str, row: Optimum) -> None:
    """Add one grid to the table."""
    shape = " x ".join(map(str, row.shape))
    gap = f"{row.gap:.1e}" if math.isfinite(row.gap) else "not proven"
    table.add_row(shape, label, str(row.cells), f"{row.objective:.6f}", gap, str(row.steps), f"{row.seconds:.1f}")


if __name__ == "__main__":
    main()
