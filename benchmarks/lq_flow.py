"""The scalar linear-quadratic regulator: accuracy of the optimum, and the gradient flow against its exact solution.

The flow starts from u = -K0 x + xi, the same cloud xi in every cell. Its exact solution keeps this form, with K(t) and v(t)
from two ordinary differential equations; the schemes of the flow are held against it at a fixed flow time.

    python benchmarks/lq_flow.py
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from wassgrid.case import Case
from wassgrid.evaluation import Evaluation, Evaluator
from wassgrid.method.flow import flow_step
from wassgrid.method.schemes import SCHEMES
from wassgrid.policy import ParticlePolicy
from wassgrid.problem.exact import ScalarLQ
from wassgrid.runs.solvers import solve

PROBLEM = ScalarLQ()
CLOUD = np.array([[-0.9], [-0.1], [0.3], [0.7]])  # mean zero: one action, four particles
GAIN = 0.3


@dataclass(frozen=True)
class Accuracy:
    """Errors of a computed optimum."""

    objective: float  # |J - J*| / J*
    policy: float  # largest |a + K x| within two standard deviations
    converged: bool


def accuracy(points: int, kernel: str, method: str = "rk4") -> Accuracy:
    """Solve the regulator from a random start and compare with the Riccati equation."""
    tables = {
        "policy": {"particles": 4, "initial": {"distribution": "normal", "mean": f"-{GAIN}*x", "std": 0.5}},
        "flow": {"method": method, "stop": {"gradient_norm": 1e-9, "steps": 400}},
    }
    solution = solve(Case.from_text(PROBLEM.case_text(points, kernel, **tables), "scalar_lq"))
    states = solution.policy.grid.states
    near = np.abs(states[:, 0]) <= 2 * math.sqrt(PROBLEM.stationary_variance(PROBLEM.gain))
    offsets = solution.policy.actions[near] + PROBLEM.gain * states[near, None, :]
    return Accuracy(abs(solution.objective / PROBLEM.objective - 1), float(np.abs(offsets).max()), bool(solution.converged))


def start(points: int = 61) -> tuple[Evaluator, Evaluation]:
    """Return the evaluator and the evaluated policy u = -K0 x + xi on a grid wide enough for its stationary law."""
    evaluator = Evaluator.from_case(Case.from_text(PROBLEM.case_text(points, deviations=10.0), "scalar_lq"))
    grid = evaluator.model.grid
    return evaluator, evaluator.evaluate(ParticlePolicy.around(grid, -GAIN * grid.states, CLOUD))


def moments(evaluation: Evaluation) -> tuple[float, float]:
    """Return the gain and the variance of the cloud: least squares under the stationary law near the centre."""
    states = evaluation.policy.grid.states[:, 0]
    law = evaluation.law * (np.abs(states) <= 2.5)
    mean = evaluation.policy.cell_mean()[:, 0]
    gain = -float(law @ (states * mean) / (law @ states**2))
    variance = float(law @ evaluation.policy.cell_spread()[:, 0] ** 2 / law.sum())
    return gain, variance


@dataclass(frozen=True)
class FlowError:
    """Errors of one scheme at the final flow time."""

    step: float
    gain: float
    variance: float


def flow_errors(method: str, steps: tuple[int, ...], flow_time: float = 0.5) -> list[FlowError]:
    """Advance by equal steps to ``flow_time`` and compare with the exact gain and variance."""
    evaluator, initial = start()
    exact_gain, exact_variance = PROBLEM.gradient_flow([0.0, flow_time], GAIN, float(np.mean(CLOUD**2)))
    errors = []
    for count in steps:
        evaluation = initial
        for _ in range(count):
            evaluation = flow_step(evaluator, evaluation, SCHEMES[method], flow_time / count).evaluation
        gain, variance = moments(evaluation)
        errors.append(FlowError(flow_time / count, abs(gain - exact_gain[-1]), abs(variance - exact_variance[-1])))
    return errors


def slope(errors: list[FlowError], quantity: str) -> float:
    """Return the order of convergence, by least squares over all steps."""
    steps = np.log([error.step for error in errors])
    return float(np.polyfit(steps, np.log([getattr(error, quantity) for error in errors]), 1)[0])


def decay_rate(flow_time: float = 1.6, count: int = 160, skip: float = 0.8) -> float:
    """Return the rate at which J - J* decays along the flow, by least squares on its logarithm after ``skip``."""
    evaluator, evaluation = start()
    times, gaps = [], []
    for k in range(1, count + 1):
        evaluation = flow_step(evaluator, evaluation, SCHEMES["rk4"], flow_time / count).evaluation
        if k * flow_time / count >= skip:
            times.append(k * flow_time / count)
            gaps.append(evaluation.objective - PROBLEM.objective)
    return -float(np.polyfit(times, np.log(gaps), 1)[0])


STEPS = {"euler": (80, 160, 320), "heun": (40, 80, 160), "rk4": (20, 40, 80)}


def main() -> None:
    """Print all tables."""
    console = Console()
    table = Table("kernel", "points", "|J - J*|/J*", "largest policy error", "converged", title="optimum")
    for kernel in ("gaussian", "linear"):
        for points in (21, 31, 41):
            row = accuracy(points, kernel)
            table.add_row(kernel, str(points), f"{row.objective:.1e}", f"{row.policy:.1e}", str(row.converged))
    console.print(table)

    table = Table("scheme", "order", "slope in K", "slope in v", "errors of K", title="flow against exact K(t), v(t)")
    for method, steps in STEPS.items():
        errors = flow_errors(method, steps)
        table.add_row(
            method,
            str(SCHEMES[method].order),
            f"{slope(errors, 'gain'):.3f}",
            f"{slope(errors, 'variance'):.3f}",
            ", ".join(f"{error.gain:.1e}" for error in errors),
        )
    console.print(table)
    rate = decay_rate()
    console.print(f"J - J* decays at {rate:.4f}, exact {PROBLEM.decay_rate:.4f}: {rate / PROBLEM.decay_rate - 1:+.2%}")


if __name__ == "__main__":
    main()
