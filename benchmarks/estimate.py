"""The estimate off the grid against exact answers, in one to four dimensions: how near it is, how often two standard errors hold.

    python benchmarks/estimate.py [SEEDS]

Problems whose optimum is known in closed form, on grids that are fine, coarse, or too coarse for their noise; SEEDS (20)
estimates of each by one batch of chains. What is estimated is the cost of the policy that is greedy for V between the nodes,
which is not quite the optimum. What it is, is known too: A, by how much an action is worse than the optimal one, is in closed
form, and

    J(policy) = J* + E A(s, a)    under the policy's stationary law, or discounted occupation,

an average over simulated chains of something small, beside which its error is as small (`worse`). "held": of J(policy).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from wassgrid.case import Case
from wassgrid.estimate import estimate, plan
from wassgrid.estimate.off_grid import GreedyPolicy, greedy_policy
from wassgrid.problem.exact import Manufactured, ScalarLQ, VectorLQ
from wassgrid.runs.solvers import make_solver

Advantage = Callable[[np.ndarray, np.ndarray], np.ndarray]  # A (K,) of states (K, d) and actions (K, m)


def linear_quadratic(problem: VectorLQ) -> Advantage:
    """A = (a - a*)' (R + B' P B) (a - a*), a* = -K s."""
    bend = problem.action_cost + problem.action_matrix.T @ problem.riccati @ problem.action_matrix

    def advantage(states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        off = actions + states @ np.atleast_2d(problem.gain).T
        return np.einsum("ka,ab,kb->k", off, bend, off)

    return advantage


def scalar_quadratic(bend: float, gain: float) -> Advantage:
    """A = bend (a + gain s)^2."""
    return lambda states, actions: bend * (actions[:, 0] + gain * states[:, 0]) ** 2


def manufactured(problem: Manufactured) -> Advantage:
    return lambda states, actions: problem.excess(actions - problem.optimal_actions(states))


def product(dimension: int) -> VectorLQ:
    """Return independent scalar regulators side by side, the first two with an action each: the answers add up."""
    factors, one = np.diag([0.9, 0.8, 0.7, 0.6][:dimension]), np.eye(dimension)
    moved = one[:, :2]
    return VectorLQ(factors, moved, one, 0.5 * np.eye(moved.shape[1]), np.diag([0.25, 0.3, 0.35, 0.4][:dimension]))


def discounted() -> tuple[str, float, Advantage]:
    """Return a discounted scalar regulator, V = P x^2 + g P s^2/(1 - g), from the uniform law on its domain, its J and A."""
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
    return text, (1 - g) * p * width**2 / 3 + g * p * s * s, scalar_quadratic(r + g * p, g * a * p / (r + g * p))


def problems() -> list[tuple[str, str, float, Advantage]]:
    """Return names, case texts, exact optima and what actions cost beyond them."""
    scalar, circle, both, one = ScalarLQ(), Manufactured.circle(), Manufactured.pendulum(0.3), Manufactured.pendulum()
    regulated = scalar.objective, scalar_quadratic(scalar.r + scalar.riccati * scalar.b**2, scalar.gain)

    def in_dimensions(dimension: int, *arguments: object, **tables: object) -> tuple[str, float, Advantage]:
        vector = product(dimension)
        return vector.case_text(*arguments, **tables), vector.objective, linear_quadratic(vector)  # type: ignore[arg-type]

    return [
        ("scalar LQ", scalar.case_text(41), *regulated),
        ("scalar LQ, noise of half a cell", scalar.case_text(11, "auto"), *regulated),
        ("circle", circle.case_text(48), circle.objective, manufactured(circle)),
        ("circle, coarse", circle.case_text(16, "auto"), circle.objective, manufactured(circle)),
        ("pendulum, noise in both", both.case_text(32, "auto"), both.objective, manufactured(both)),
        ("pendulum, angle without noise", one.case_text(48, "auto"), one.objective, manufactured(one)),
        ("LQ in two dimensions", *in_dimensions(2, 25, "auto")),
        ("LQ in three dimensions", *in_dimensions(3, 13, "auto", policy=ONE)),
        ("LQ in four dimensions", *in_dimensions(4, 7, "auto", deviations=5.0, policy=ONE)),
        ("discounted LQ", *discounted()),
    ]


ONE = {"particles": 1}


_CHAINS, _BURNED, _AVERAGED = 4000, 100, 100


def worse(policy: GreedyPolicy, advantage: Advantage, rng: np.random.Generator) -> tuple[float, float]:
    """Return E A under the law of a policy, by chains from the uniform law, and its standard error."""
    low, high = policy.problem.domain.T
    states = rng.uniform(low, high, (_CHAINS, low.size))
    total, g = np.zeros(_CHAINS), policy.discount
    for step in range(_BURNED + _AVERAGED):
        weight = (1.0 - g) * g**step if g < 1.0 else (step >= _BURNED) / _AVERAGED
        if weight:
            total += weight * advantage(states, policy.actions(states))
        _, states = policy.step(states, rng)
    return float(total.mean()), float(total.std(ddof=1) / np.sqrt(_CHAINS))


def compare(
    text: str, advantage: Advantage, seeds: int
) -> tuple[float, tuple[float, float], np.ndarray, np.ndarray, float, float]:
    """Solve; return J of the grid, E A and its error, estimates and standard errors (seeds,), and the seconds of solve and of one
    estimate."""
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
    excess = worse(greedy_policy(state.evaluation, state.best, todo), advantage, np.random.default_rng(1000))
    return state.evaluation.objective, excess, values, errors, solved, spent


def main(seeds: int = 20) -> None:
    """Print a row per problem."""
    heads = f"{'J*':>11} {'grid - J*':>9} {'E A':>17} {'estimate':>11} {'off':>8} {'error':>7} {'held':>6}"
    print(f"{'problem':32} {heads} seconds")
    for name, text, exact, advantage in problems():
        grid, (excess, doubt), values, errors, solved, spent = compare(text, advantage, seeds)
        truth = exact + excess
        # rounding of sums of this size is no error of the estimate
        held = np.abs(values - truth) <= 2.0 * np.hypot(errors, doubt) + 1e-9 * abs(exact)
        print(
            f"{name:32} {exact:11.7f} {grid - exact:9.1e} {excess:8.1e} ({doubt:.0e}) {values.mean():11.7f} "
            f"{values.mean() - truth:8.1e} {errors.mean():7.1e} {held.sum():3}/{seeds} {solved:.1f} + {spent:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
