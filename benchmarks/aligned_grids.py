"""What the grid's own diffusion costs, and how aligned grids avoid it.

A pendulum with noise in the speed alone under a fixed feedback: average cost on aligned grids, on unaligned grids of as
many cells with linear and cubic interpolation in the angle, and by Monte Carlo with its standard error. A linear system
with correlated noise: the stationary covariance against the discrete Lyapunov equation.

    python benchmarks/aligned_grids.py [--chains 10000] [--steps 5000]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tomli_w
from rich.console import Console
from rich.table import Table

from wassgrid.case import Case
from wassgrid.evaluation import Evaluation, Evaluator
from wassgrid.grid import StateGrid
from wassgrid.policy import ParticlePolicy
from wassgrid.problem.exact import VectorLQ


def pendulum_case(points: Mapping[str, int | str], angle_kernel: str = "auto") -> Case:
    """Return the semi-implicit pendulum; the speed axis ends 5 standard deviations beyond the clip, so is not felt."""
    return Case.from_text(
        tomli_w.dumps(
            {
                "states": {
                    "theta": {"next": "theta + 0.05*next(omega)", "domain": ["-pi", "pi"], "boundary": "periodic"},
                    "omega": {
                        "next": "clip(omega + 0.05*(15*sin(theta) + 3*a), -8, 8)",
                        "noise": 0.4,
                        "domain": [-10, 10],
                    },
                },
                "actions": {"a": {"bounds": [-2, 2]}},
                "cost": {"stage": "wrap_angle(theta)**2 + 0.1*omega**2 + 0.001*a**2"},
                "grid": {"points": dict(points), "kernel": {"theta": angle_kernel, "omega": "gaussian"}},
            }
        ),
        "pendulum",
    )


def damped(states: np.ndarray) -> np.ndarray:
    """Return a = clip(-6 sin theta - 2 omega, -2, 2) at states (..., 2), as (..., 1): too weak to swing up."""
    return np.clip(-6 * np.sin(states[..., :1]) - 2 * states[..., 1:], -2, 2)


def swing_up(states: np.ndarray) -> np.ndarray:
    """Return a smooth feedback that pumps energy far from the top and balances near it."""
    theta, omega = states[..., :1], states[..., 1:]
    balancing = np.exp(-4 * (1 - np.cos(theta)))
    lacking_energy = 15 * (1 - np.cos(theta)) - 0.5 * omega**2
    pumping = np.tanh(omega) * lacking_energy
    return 2 * np.tanh(balancing * (-10 * np.sin(theta) - 3 * omega) + (1 - balancing) * pumping)


Feedback = Callable[[np.ndarray], np.ndarray]
FEEDBACKS: dict[str, Feedback] = {"swing-up": swing_up, "damped": damped}


def pendulum_cost(feedback: Feedback, points: Mapping[str, int | str], angle_kernel: str = "auto") -> Evaluation:
    """Evaluate a feedback on one grid."""
    evaluator = Evaluator.from_case(pendulum_case(points, angle_kernel))
    grid = evaluator.model.grid
    return evaluator.evaluate(ParticlePolicy.around(grid, feedback(grid.states)))


@dataclass(frozen=True)
class Estimate:
    """A Monte Carlo mean with its standard error, from independent chains."""

    mean: float
    error: float


def simulated_cost(feedback: Feedback, chains: int, steps: int, seed: int = 0, burn_in: int = 300) -> Estimate:
    """Estimate the average cost of a feedback by independent closed-loop chains."""
    problem = pendulum_case({"theta": 16, "omega": 61}).problem
    rng = np.random.default_rng(seed)
    state = np.column_stack([rng.uniform(-np.pi, np.pi, chains), np.zeros(chains)])
    total = np.zeros(chains)
    for step in range(burn_in + steps):
        action = feedback(state)
        if step >= burn_in:
            total += problem.action_tables(state, action[:, None, :], 0).cost[:, 0]
        state = problem.sample_next(state, action, rng)
    means = total / steps
    return Estimate(float(means.mean()), float(means.std(ddof=1) / np.sqrt(chains)))


def correlated_system() -> VectorLQ:
    """Return a rotating, contracting plane with correlated noise."""
    return VectorLQ(
        state_matrix=np.array([[0.8, 0.3], [-0.2, 0.7]]),
        action_matrix=np.array([[0.5], [1.0]]),
        state_cost=np.eye(2),
        action_cost=np.eye(1),
        noise_covariance=np.array([[1.0, 0.6], [0.6, 0.8]]),
    )


def covariance_errors(points: int) -> tuple[float, float]:
    """Return the relative errors of stationary covariance and average cost, optimal feedback on points^2 cells."""
    problem = correlated_system()
    evaluator = Evaluator.from_case(Case.from_text(problem.case_text(points, deviations=7.0), "correlated"))
    grid = evaluator.model.grid
    evaluation = evaluator.evaluate(ParticlePolicy.around(grid, -grid.states @ problem.gain.T))
    second_moment = np.einsum("k,ki,kj->ij", evaluation.law, grid.states, grid.states)
    exact = problem.covariance(problem.gain)
    return (
        float(np.abs(second_moment - exact).max() / np.abs(exact).max()),
        abs(evaluation.objective / problem.objective - 1),
    )


def grids_of(angles: int) -> list[tuple[str, dict[str, int | str]]]:
    """Return the aligned grid, and unaligned square ones of as many cells, with their kernels in theta."""
    aligned: dict[str, int | str] = {"theta": angles, "omega": "aligned"}
    cells = StateGrid.from_case(pendulum_case(aligned)).size
    speeds = round(np.sqrt(cells)) | 1
    unaligned: dict[str, int | str] = {"theta": round(cells / speeds), "omega": speeds}
    return [("auto", aligned), ("linear", unaligned), ("cubic", unaligned)]


def print_pendulum(console: Console, name: str, angles: Sequence[int], chains: int, steps: int) -> None:
    """Print the table of one feedback."""
    table = Table("grid", "theta", "cells", "average cost", "off", "standard errors", "seconds", title=name)
    began = time.perf_counter()
    truth = simulated_cost(FEEDBACKS[name], chains, steps)
    seconds = time.perf_counter() - began
    table.add_row("Monte Carlo", "", "", f"{truth.mean:.5f} ± {truth.error:.5f}", "", "", f"{seconds:.1f}")
    for count in angles:
        for kernel, points in grids_of(count):
            began = time.perf_counter()
            evaluation = pendulum_cost(FEEDBACKS[name], points, kernel)
            seconds = time.perf_counter() - began
            grid = evaluation.model.grid
            off = evaluation.objective - truth.mean
            table.add_row(
                " x ".join(map(str, grid.shape)),
                "aligned" if kernel == "auto" else kernel,
                str(grid.size),
                f"{evaluation.objective:.5f}",
                f"{off / truth.mean:+.2%}",
                f"{off / truth.error:+.1f}",
                f"{seconds:.1f}",
            )
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description="aligned and unaligned grids against Monte Carlo and exact covariance")
    parser.add_argument("--chains", type=int, default=10_000, help="independent Monte Carlo chains")
    parser.add_argument("--steps", type=int, default=5000, help="steps of each chain after burn-in")
    options = parser.parse_args(arguments)
    console = Console()
    for name in FEEDBACKS:
        print_pendulum(console, name, (256, 384, 512), options.chains, options.steps)
    table = Table("cells", "error of covariance", "error of J", title="linear system with correlated noise, gaussian kernel")
    for points in (21, 31, 41):
        covariance, objective = covariance_errors(points)
        table.add_row(str(points**2), f"{covariance:.1e}", f"{objective:.1e}")
    console.print(table)


if __name__ == "__main__":
    main()
