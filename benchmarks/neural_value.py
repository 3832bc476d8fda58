"""Bias and noise of the samples of grad_a Q against the length of the window, with and without a learnt value function.

Two fixed policies whose grad_a Q is known: u = -0.4 x of the scalar linear-quadratic problem, in closed form, and a half-trained
network of the inverted pendulum, from the grid. A value function is fitted to windows of that policy; then the gradient of the
first action of a window is sampled many times from the same states. Bias: root mean square over the states of (mean - exact);
noise: of the standard deviation; both over the root mean square of the exact gradient.

    python benchmarks/neural_value.py [--repeats 400] [-o figures]
"""

from __future__ import annotations

import argparse
import csv
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.interpolate import RegularGridInterpolator

import wassgrid as wg
from wassgrid.evaluation import Evaluator
from wassgrid.neural.computed_policy import precision
from wassgrid.neural.ergodic import Ending, draw, window
from wassgrid.neural.solver import NeuralSolver, NeuralState
from wassgrid.neural.training import value_of
from wassgrid.policy import ParticlePolicy
from wassgrid.problem.exact import ScalarLQ

CASES = Path(__file__).parent.parent / "cases"
HORIZONS = (1, 2, 4, 8, 16, 32)
TRACES = (0.0, 0.7, 1.0)
FITS = 150
GAIN = 0.4
LQ = """
[states.x]
next = "x + u"
noise = 1.0
[actions.u]
[cost]
stage = "x**2 + u**2"
[policy]
initial = { distribution = "point", mean = "-0.4*x" }
[solver]
kind = "neural"
[neural]
hidden = []
chains = 256
value = "quadratic"
horizon = 16
steps = 0
"""


def scalar() -> tuple[NeuralSolver, NeuralState, np.ndarray, np.ndarray]:
    """The linear-quadratic problem: solver, state with the fixed policy, states (n, 1) and the exact gradients (n, 1)."""
    solver = NeuralSolver.of(wg.Case.from_text(LQ, "scalar"))
    state = solver.start()
    points = np.asarray(state.training.chains)[:64]
    exact = ScalarLQ().action_gradient(points, -GAIN * points, GAIN)
    return solver, state, points, np.asarray(exact).reshape(-1, 1)


def pendulum(steps: int) -> tuple[NeuralSolver, NeuralState, np.ndarray, np.ndarray]:
    """The inverted pendulum under a network after some steps of training, likewise."""
    overrides = ["neural.value=network", "neural.horizon=16", "neural.chains=256", f"neural.steps={steps + 1}"]
    solver = NeuralSolver.of(wg.Case.load(CASES / "inverted_pendulum_neural.toml", overrides))
    state = solver.start()
    for _ in range(steps):
        state = solver.advance(state)
    case = wg.Case.load(CASES / "inverted_pendulum.toml", ["grid.points={ theta = 192, omega = 193 }", "policy.particles=1"])
    evaluator = Evaluator.from_case(case)
    grid = evaluator.model.grid
    with precision(solver.settings):
        actions = state.policy(state.training.parameters, jnp.asarray(grid.states, jnp.float32), jnp.zeros((grid.size, 0)))
    gradient = evaluator.evaluate(ParticlePolicy.around(grid, np.asarray(actions, float))).q_gradient.reshape(192, 193)
    theta, omega = grid.axes
    closed = np.append(theta, theta[0] + 2.0 * np.pi)
    table = RegularGridInterpolator((closed, omega), np.concatenate([gradient, gradient[:1]]), method="cubic")
    points = np.asarray(state.training.chains, float)[:64]
    inside = points.copy()
    inside[:, 0] = theta[0] + np.mod(points[:, 0] - theta[0], 2.0 * np.pi)
    return solver, state, points, table(inside)[:, None]


def fitted(solver: NeuralSolver, state: NeuralState, trace: float) -> jax.Array:
    """Fit the value function to windows of the fixed policy; return its parameters."""
    settings, training = solver.settings, state.training
    value = value_of(settings, state.policy, training.value_unit)
    assert value is not None

    @jax.jit
    def step(phi, chains, k):
        key, count = jax.random.fold_in(jax.random.key(5), k), chains.shape[0]
        random = draw(solver.dynamics, 0, key, settings.horizon, count, chains.dtype)
        ending = Ending(partial(value, phi), trace)
        run = window(solver.dynamics, state.policy, training.parameters, chains, random, settings.horizon, ending)
        d = chains.shape[1]
        states, slopes = run.states.reshape(-1, d), run.state_gradients.reshape(-1, d)
        return value.fitted(phi, states, slopes, k, settings.cg_iterations)[0], run.end

    phi, chains = value.initial_parameters(jax.random.key(3)), training.chains
    for k in range(FITS):
        phi, chains = step(phi, chains, k)
    return phi


def measured(
    solver: NeuralSolver, state: NeuralState, points: np.ndarray, exact: np.ndarray, horizon: int, ending: Ending | None,
    repeats: int,
) -> tuple[float, float]:  # fmt: skip
    """Return bias and noise, relative; of the bias what so many repeats leave of the noise is taken off."""

    @jax.jit
    def sample(key):
        start = jnp.asarray(points, state.policy.scale.dtype)
        random = draw(solver.dynamics, 0, key, horizon, len(points), start.dtype)
        run = window(solver.dynamics, state.policy, state.training.parameters, start, random, horizon, ending)
        return run.action_gradients[0]

    found = np.array([sample(jax.random.fold_in(jax.random.key(11), k)) for k in range(repeats)], dtype=float)
    size, variance = np.mean(exact**2), np.mean(found.var(axis=0, ddof=1))
    bias = np.mean((found.mean(axis=0) - exact) ** 2) - variance / repeats
    return float(np.sqrt(max(bias, 0.0) / size)), float(np.sqrt(variance / size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--training", type=int, default=60, help="steps of the pendulum's policy")
    parser.add_argument("-o", "--output", type=Path, help="folder for a CSV file")
    given = parser.parse_args()
    rows = []
    for name, problem in (("scalar LQ", scalar()), ("inverted pendulum", pendulum(given.training))):
        solver, state, points, exact = problem
        table = Table(title=f"{name}: bias / noise of grad_a Q, relative")
        for column in ("horizon", "no value", *(f"value, trace {trace:g}" for trace in TRACES)):
            table.add_column(column, justify="right")
        with precision(solver.settings):
            phi = fitted(solver, state, solver.settings.trace)
            value = value_of(solver.settings, state.policy, state.training.value_unit)
            for horizon in HORIZONS:
                endings = [None, *(Ending(partial(value, phi), trace) for trace in TRACES)]
                found = [measured(solver, state, points, exact, horizon, ending, given.repeats) for ending in endings]
                table.add_row(str(horizon), *(f"{bias:.3f} / {noise:.2f}" for bias, noise in found))
                for trace, (bias, noise) in zip(("none", *TRACES), found, strict=True):
                    rows.append((name, horizon, trace, bias, noise))
        Console(width=120).print(table)
    if given.output is not None:
        given.output.mkdir(parents=True, exist_ok=True)
        with (given.output / "neural_value.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("problem", "horizon", "trace", "bias", "noise"), *rows])


if __name__ == "__main__":
    main()
