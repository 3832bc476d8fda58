"""Measured order of every kernel in the grid spacing, and of Euler steps in the time step, against exact answers.

Manufactured problems under a stochastic policy a = g(x) + e whose average cost, value function and action gradient are
known in closed form; the circle regulator under its optimal feedback, whose average cost and stationary density are
known in continuous time. Errors of V and of the action gradient are root mean squares under the stationary law.

    python benchmarks/kernel_order.py
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from wassgrid.case import Case
from wassgrid.evaluation import Evaluator
from wassgrid.policy import ParticlePolicy
from wassgrid.problem.exact import Manufactured, TorusRegulator

OFFSETS = np.array([-0.6, 0.1, 0.4])  # of three particles per cell, with unequal weights
WEIGHTS = np.array([0.2, 0.5, 0.3])


@dataclass(frozen=True)
class Errors:
    """What one grid makes of a policy with known answers."""

    cells: int
    spacing: float
    objective: float
    value: float = math.nan
    gradient: float = math.nan
    density: float = math.nan

    def order(self, coarser: Errors, quantity: str) -> float:
        """Return the observed order of convergence from a coarser grid (or longer step) to this one."""
        fall = math.log(getattr(coarser, quantity) / getattr(self, quantity))
        return fall / math.log(coarser.spacing / self.spacing)


def manufactured_errors(problem: Manufactured, points: Mapping[str, int | str], kernel: Mapping[str, str]) -> Errors:
    """Measure one grid; the spacing reported is that of the first state."""
    evaluator = Evaluator.from_case(Case.from_text(problem.case_text(points, kernel), problem.title))
    grid = evaluator.model.grid
    offsets = np.outer(OFFSETS, np.ones(len(problem.actions)))
    policy = ParticlePolicy.around(grid, problem.optimal_actions(grid.states), offsets, WEIGHTS)
    evaluation = evaluator.evaluate(policy)
    law = evaluation.law
    value = evaluation.value - problem.value_at(grid.states)
    gradient = np.linalg.norm(evaluation.q_gradient - problem.action_gradient(offsets), axis=-1) ** 2 @ WEIGHTS
    return Errors(
        cells=grid.size,
        spacing=float(grid.spacing[0]),
        objective=abs(evaluation.objective - problem.objective - float(WEIGHTS @ problem.excess(offsets))),
        value=math.sqrt(law @ (value - law @ value) ** 2),
        gradient=math.sqrt(law @ gradient),
    )


def torus_errors(step: float, points: int = 160) -> Errors:
    """Measure the optimal feedback of the circle regulator in Euler steps of length ``step``."""
    problem = TorusRegulator(k=1.0, r=1.0, noise=1.0, offset=1.0)
    evaluator = Evaluator.from_case(Case.from_text(problem.case_text(points, step=step), "torus"))
    grid = evaluator.model.grid
    evaluation = evaluator.evaluate(ParticlePolicy.around(grid, problem.optimal_actions(grid.states)))
    density = problem.density(grid.states) * grid.spacing[0]
    return Errors(
        cells=grid.size,
        spacing=step,
        objective=abs(evaluation.objective - problem.objective),
        density=float(np.abs(evaluation.law - density).sum()),
    )


# title, problem, kernels, grids
STUDIES = [
    (
        "circle, noise 0.3 to 0.5: gaussian",
        Manufactured.circle(),
        {"x": "gaussian"},
        [{"x": n} for n in (12, 16, 20, 24, 28, 32)],
    ),
    (
        "circle, noise 0.3 to 0.5: linear",
        Manufactured.circle(),
        {"x": "linear"},
        [{"x": n} for n in (32, 64, 128, 256)],
    ),
    (
        "pendulum, noise in both axes: gaussian",
        Manufactured.pendulum(angle_noise=0.2),
        {"theta": "gaussian", "omega": "gaussian"},
        [{"theta": n, "omega": m} for n, m in ((18, 19), (24, 25), (30, 31), (36, 37))],
    ),
    (
        "pendulum, noise in both axes: linear",
        Manufactured.pendulum(angle_noise=0.2),
        {"theta": "linear", "omega": "linear"},
        [{"theta": n, "omega": m} for n, m in ((24, 37), (48, 73), (96, 145))],
    ),
    (
        "pendulum, noise in omega alone: linear in theta",
        Manufactured.pendulum(),
        {"theta": "linear", "omega": "gaussian"},
        [{"theta": n, "omega": 61} for n in (24, 48, 96)],
    ),
    (
        "pendulum, noise in omega alone: cubic in theta",
        Manufactured.pendulum(),
        {"theta": "cubic", "omega": "gaussian"},
        [{"theta": n, "omega": 61} for n in (32, 48, 64, 96)],
    ),
    (
        "pendulum, noise in omega alone: aligned",
        Manufactured.pendulum(),
        {"theta": "linear", "omega": "gaussian"},
        [{"theta": n, "omega": "aligned"} for n in (80, 96, 128, 160)],
    ),
]


def table_of(title: str, errors: Sequence[Errors], quantities: Sequence[str], parameter: str) -> Table:
    """Return a table of errors with their observed orders."""
    heads = [head for quantity in quantities for head in (f"error of {quantity}", "order")]
    table = Table("cells", parameter, *heads, title=title)
    for k, row in enumerate(errors):
        entries = []
        for quantity in quantities:
            order = f"{row.order(errors[k - 1], quantity):.2f}" if k else ""
            entries += [f"{getattr(row, quantity):.2e}", order]
        table.add_row(str(row.cells), f"{row.spacing:.4g}", *entries)
    return table


def main() -> None:
    """Print one table per kernel and problem."""
    console = Console()
    for title, problem, kernel, grids in STUDIES:
        errors = [manufactured_errors(problem, points, kernel) for points in grids]
        console.print(table_of(title, errors, ("objective", "value", "gradient"), "spacing"))
    errors = [torus_errors(step) for step in (0.2, 0.1, 0.05, 0.025, 0.0125)]
    console.print(table_of("circle regulator, Euler steps", errors, ("objective", "density"), "step"))


if __name__ == "__main__":
    main()
