"""Oscillators in double wells: the neural policy against the feedback that is optimal for the linearisation.

`cases/coupled_oscillators.toml`, three seeds. Both policies run from the same states with the same noise; the standard
error is that of the difference. The last cost column is a policy without hidden layers, trained in the same way: the best
that a linear feedback can do.

    python benchmarks/neural_double_wells.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from wassgrid.case import Case
from wassgrid.neural import make_solver
from wassgrid.neural.ergodic import difference, measure
from wassgrid.neural.policies import PushForwardPolicy
from wassgrid.neural.solver import NeuralSolver
from wassgrid.problem.exact import VectorLQ
from wassgrid.runs.solvers import solve

CASE = Path(__file__).parent.parent / "cases" / "coupled_oscillators.toml"
SEEDS = (1, 2, 3)
CHAINS, BURN_IN, STEPS = 256, 500, 2000


def linearised_feedback(solver: NeuralSolver) -> tuple[PushForwardPolicy, jax.Array]:
    """Return u = -K s with K optimal for the linearisation of the dynamics and the quadratic part of the cost at 0."""
    dynamics = solver.dynamics
    d, m = dynamics.state_dimension, dynamics.action_dimension
    with jax.enable_x64(True):
        s, a, w = jnp.zeros(d), jnp.zeros(m), jnp.zeros(dynamics.noise_dimension)
        by_state, by_action, by_noise = (np.asarray(x) for x in jax.jacobian(dynamics.next_state, (0, 1, 2))(s, a, w))
        state_cost = np.asarray(jax.hessian(dynamics.stage_cost)(s, a)) / 2
        action_cost = np.asarray(jax.hessian(dynamics.stage_cost, 1)(s, a)) / 2
    gain = VectorLQ(by_state, by_action, state_cost, action_cost, by_noise @ by_noise.T).gain
    no_bounds = solver.blueprint.low, solver.blueprint.high
    policy = PushForwardPolicy(jnp.zeros(d), jnp.ones(d), *no_bounds, (), (), "tanh", True, 0)
    return policy, jnp.concatenate([jnp.asarray(-gain.T.ravel(), jnp.float32), jnp.zeros(m)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE")
    overrides = parser.parse_args().overrides
    table = Table(title="average cost on common random numbers")
    for name in ("seed", "LQ feedback", "neural - LQ", "relative", "trained linear - LQ", "training time (s)"):
        table.add_column(name, justify="right")
    for seed in SEEDS:
        case = Case.load(CASE, [*overrides, f"policy.seed={seed}"])
        solver = make_solver(case)
        linear = linearised_feedback(solver)
        start, key = jnp.zeros((CHAINS, solver.dynamics.state_dimension)), jax.random.key(1000 + seed)
        cost, _ = measure(solver.dynamics, *linear, start, key, BURN_IN, STEPS)
        row, seconds = [], 0.0
        for hidden in (None, "neural.hidden=[]"):
            solution = solve(case if hidden is None else Case.load(CASE, [*overrides, f"policy.seed={seed}", hidden]))
            trained = solution.policy.transport, jnp.asarray(solution.policy.parameters)
            row.append(difference(solver.dynamics, trained, linear, start, key, BURN_IN, STEPS))
            seconds = seconds or solution.record["wall_time"]
        table.add_row(
            str(seed), f"{cost.mean:.4f} +- {cost.standard_error:.4f}",
            f"{row[0].mean:.4f} +- {row[0].standard_error:.4f}", f"{100 * row[0].mean / cost.mean:.2f} %",
            f"{row[1].mean:.4f} +- {row[1].standard_error:.4f}", f"{seconds:.0f}",
        )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
