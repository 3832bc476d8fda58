"""The estimate off the grid against exact answers, in one to four dimensions: how near it is, how often two standard errors hold.

    python benchmarks/estimate.py [SEEDS]

Problems whose optimum is known in closed form, on grids that are fine, coarse, or too coarse for their noise; SEEDS (20)
estimates of each by one batch of chains. What is estimated is the cost of the policy, which between the nodes is not quite the
optimum: where the standard error is smaller than that, the optimum lies below the interval.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np

from wassgrid.case import Case
from wassgrid.estimate import estimate, plan
from wassgrid.problem.exact import Manufactured, ScalarLQ, VectorLQ
from wassgrid.run.solvers import make_solver


def product(dimension: int) -> VectorLQ:
    """Return independent scalar regulators side by side, the first two with an action each: the answers add up."""
    factors, one = np.diag([0.9, 0.8, 0.7, 0.6][:dimension]), np.eye(dimension)
    moved = one[:, :2]
    return VectorLQ(factors, moved, one, 0.5 * np.eye(moved.shape[1]), np.diag([0.25, 0.3, 0.35, 0.4][:dimension]))


def discounted() -> tuple[str, float]:
    """Return a discounted scalar regulator, V = P x^2 + g P s^2/(1 - g), from the uniform law on its domain, and its J."""
    a, s, r, g, width = 0.5, 0.3, 0.5, 0.9, 4.0
    p = 1.0
    for _ in range(200):
        p = 1.0 + g * a * a * p * r / (r + g * p)
    text = f"""
[states.x]
next = "{a}*x + u"
noise = "{s}"
domain = [-{width}, {width}]
[actions.u]
[cost]
stage = "x**2 + {r}*u**2"
[criterion]
kind = "discounted"
discount = {g}
[grid]
points = {{ x = 41 }}
"""
    return text, (1 - g) * p * width**2 / 3 + g * p * s * s


def problems() -> list[tuple[str, str, float]]:
    """Return names, case texts and exact optima."""
    scalar = ScalarLQ()
    return [
        ("scalar LQ", scalar.case_text(41), scalar.objective),
        ("scalar LQ, noise of half a cell", scalar.case_text(11, "auto"), scalar.objective),
        ("circle", Manufactured.circle().case_text(48), Manufactured.circle().objective),
        ("circle, coarse", Manufactured.circle().case_text(16, "auto"), Manufactured.circle().objective),
        ("pendulum, noise in both", Manufactured.pendulum(0.3).case_text(32, "auto"), Manufactured.pendulum(0.3).objective),
        ("pendulum, angle without noise", Manufactured.pendulum().case_text(48, "auto"), Manufactured.pendulum().objective),
        ("LQ in two dimensions", product(2).case_text(25, "auto"), product(2).objective),
        ("LQ in three dimensions", product(3).case_text(13, "auto", policy=ONE), product(3).objective),
        ("LQ in four dimensions", product(4).case_text(7, "auto", deviations=5.0, policy=ONE), product(4).objective),
        ("discounted LQ", *discounted()),
    ]


ONE = {"particles": 1}


def compare(text: str, seeds: int) -> tuple[float, np.ndarray, np.ndarray, float, float]:
    """Solve; return J of the grid, estimates and standard errors (seeds,), and the seconds of solve and of one estimate."""
    case = Case.from_text(text)
    solver = make_solver(case)
    began = time.process_time()
    state = solver.start()
    while solver.verdict(state) is None:
        state = solver.advance(state)
    solved = time.process_time() - began
    todo = replace(plan(state.evaluation, state.best), batches=1)
    began = time.process_time()
    found = [estimate(state.evaluation, state.best, todo, seed) for seed in range(seeds)]
    spent = (time.process_time() - began) / seeds
    values, errors = np.array([f.value for f in found]), np.array([f.standard_error for f in found])
    return state.evaluation.objective, values, errors, solved, spent


def main(seeds: int = 20) -> None:
    heads = f"{'exact':>11} {'J of the grid':>14} {'off':>9} {'estimate':>11} {'off':>9} {'error':>8} {'held':>7}"
    print(f"{'problem':32} {heads} seconds")
    for name, text, exact in problems():
        grid, values, errors, solved, spent = compare(text, seeds)
        # rounding of sums of this size is no error of the estimate
        held = np.abs(values - exact) <= 2.0 * errors + 1e-9 * abs(exact)
        print(
            f"{name:32} {exact:11.7f} {grid:14.7f} {grid - exact:9.1e} {values.mean():11.7f} {values.mean() - exact:9.1e} "
            f"{errors.mean():8.1e} {held.sum():4}/{seeds} {solved:.2f} + {spent:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
