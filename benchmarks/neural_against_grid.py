"""The inverted pendulum by both solvers: the neural policy measured on the grid, as a policy there, and by simulation.

The grid optimum is that of `cases/inverted_pendulum.toml` by Newton's method with its certificate. The neural policy
is trained by `cases/inverted_pendulum_neural.toml` (or read from a result file of it), put on the grid as one action per cell,
and simulated on the continuous state space, as the grid's own policy is.

    python benchmarks/neural_against_grid.py [FILE] [--points 64 65] [--points 128 129]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from wassgrid.case import Case
from wassgrid.evaluation import Evaluator
from wassgrid.neural import load_policy
from wassgrid.neural.computed_policy import NeuralPolicy
from wassgrid.policy import ParticlePolicy
from wassgrid.runs.solvers import solve
from wassgrid.simulate import ergodic_cost
from wassgrid.storage import ResultFile

CASES = Path(__file__).parent.parent / "cases"
CHAINS, STEPS, BURN_IN = 2000, 1000, 200


def newton(points: tuple[int, int]) -> Case:
    """Return the pendulum on a grid, with the monotone Newton method and its certificate."""
    shape = f"{{ theta = {points[0]}, omega = {points[1]} }}"
    stop = "{ gap = 1e-6, steps = 100 }"
    overrides = [f"grid.points={shape}", 'flow.method="newton"', "flow.escape=true", f"flow.stop={stop}"]
    return Case.load(CASES / "inverted_pendulum.toml", overrides)


def neural_policy(file: Path | None) -> NeuralPolicy:
    if file is None:
        return solve(Case.load(CASES / "inverted_pendulum_neural.toml")).policy
    with ResultFile(file) as result:
        return load_policy(result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", help="result file of inverted_pendulum_neural")
    parser.add_argument("--points", type=int, nargs=2, action="append", metavar=("THETA", "OMEGA"), help="default 64 65")
    given = parser.parse_args()
    policy = neural_policy(given.file)
    table = Table(title="inverted pendulum: average cost")
    for name in ("grid", "optimum", "lower bound", "neural policy on the grid", "gap", "simulated, grid", "simulated, neural"):
        table.add_column(name, justify="right")
    for points in given.points or [(64, 65)]:
        case = newton(points)
        best = solve(case)
        evaluator = Evaluator.from_case(case)
        grid = evaluator.model.grid
        placed = evaluator.evaluate(ParticlePolicy.around(grid, policy.mean(grid.states)))
        simulated = [
            ergodic_cost(case.problem, chosen, law, CHAINS, STEPS, BURN_IN, np.random.default_rng(1))
            for chosen, law in ((best.policy, best.stationary), (_OnGrid(policy, grid), placed.law))
        ]
        bound = f"{best.lower_bound:.6f}" if math.isfinite(best.lower_bound) else "none"
        table.add_row(
            " x ".join(map(str, points)), f"{best.objective:.6f}", bound, f"{placed.objective:.6f}",
            f"{100 * (placed.objective / best.objective - 1):.2f} %",
            *(f"{cost.mean:.4f} +- {cost.standard_error:.4f}" for cost in simulated),
        )  # fmt: skip
    Console(width=140).print(table)


class _OnGrid:
    """A neural policy with the grid that `ergodic_cost` draws its first states from."""

    def __init__(self, policy: NeuralPolicy, grid: object) -> None:
        self.grid, self.sample = grid, policy.sample


if __name__ == "__main__":
    main()
