"""The inverted pendulum by the gradient flow with 16 particles per cell: cost along the flow and time per phase.

python benchmarks/inverted_pendulum.py [--method heun] [--step adaptive] [--flow-time 10] [--particles 16]
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from wassgrid.case import Case
from wassgrid.runs.loop import StepRecord, Verdict
from wassgrid.runs.solution import GridSolution
from wassgrid.runs.solvers import solve

CASE = Path(__file__).parent.parent / "cases" / "inverted_pendulum.toml"


class History:
    """Observer that keeps the numbers of every step and the time spent per phase."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.phases: dict[str, float] = defaultdict(float)

    def start(self, case: Case, solver: object, first: StepRecord, resumed: bool) -> None:
        self.step(first)

    def step(self, record: StepRecord) -> None:
        self.rows.append(dict(record.scalars))
        for name, value in record.scalars.items():
            if name.startswith("time_"):
                self.phases[name.removeprefix("time_")] += value

    def finish(self, verdict: Verdict, solution: GridSolution | None) -> None:
        pass

    def largest_rise(self) -> float:
        """Return the largest change of J over a step: negative where it falls at every step."""
        objectives = [row["objective"] for row in self.rows]
        return max(after - before for before, after in itertools.pairwise(objectives))


def flow(*overrides: str) -> tuple[Case, GridSolution, History]:
    """Run the case with overrides."""
    case, history = Case.load(CASE, overrides), History()
    return case, solve(case, [history]), history


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the cost along the flow and the time per phase."""
    parser = argparse.ArgumentParser(description="gradient flow of the inverted pendulum")
    parser.add_argument("--method", default="heun", choices=["euler", "heun", "rk4"])
    parser.add_argument("--step", default="adaptive", help='flow time per step, or "adaptive"')
    parser.add_argument("--flow-time", type=float, default=10.0)
    parser.add_argument("--particles", type=int, default=16)
    options = parser.parse_args(arguments)
    case, solution, history = flow(
        f"flow.method={options.method}",
        f"flow.step={options.step}",
        f"flow.stop.flow_time={options.flow_time}",
        "flow.stop.steps=100000",
        f"policy.particles={options.particles}",
    )
    best = case.expect.average_cost.value
    console = Console()
    table = Table("step", "flow time", "J", "above the optimum", "gradient norm", "seconds", title=case.title)
    shown = {round(k * (len(history.rows) - 1) / 12) for k in range(13)}
    for k in sorted(shown):
        row = history.rows[k]
        table.add_row(
            str(k),
            f"{row['flow_time']:.3f}",
            f"{row['objective']:.7f}",
            f"{row['objective'] / best - 1:.2%}",
            f"{row['gradient_norm']:.2e}",
            f"{row['wall_time']:.1f}",
        )
    console.print(table)
    phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in sorted(history.phases.items(), key=lambda item: -item[1]))
    console.print(f"time per phase: {phases}")
    console.print(f"largest change of J over a step: {history.largest_rise():+.2e}")
    console.print(f"final J {solution.objective:.9f}: {solution.reason}")


if __name__ == "__main__":
    main()
