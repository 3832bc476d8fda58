"""Coverage of the error bars of neural runs: how often two standard errors hold the exact cost, by how slowly the loop forgets.

    python benchmarks/neural_error_bars.py [SEEDS]

x' = rate x + w, cost x^2, J = 1/(1 - rate^2), measured as a finished policy is, from the initial law, with the default table
`neural.evaluation`; SEEDS (40) measurements each.
"""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np

from wassgrid.case import Case
from wassgrid.case.neural_tables import EvaluationTable
from wassgrid.neural.computed_policy import blueprint_of, precision
from wassgrid.neural.dynamics import Dynamics
from wassgrid.neural.ergodic import ErgodicCost, measure

CASE = """
[states.x]
next = "{rate}*x + 0*a"
noise = "1"
[actions.a]
[cost]
stage = "x**2 + a**2"
[solver]
kind = "neural"
[neural]
hidden = []
precision = "float64"
"""


def measurements(rate: float, seeds: int) -> tuple[float, list[ErgodicCost]]:
    """Return the exact cost and one measurement per seed."""
    case = Case.from_text(CASE.format(rate=rate))
    settings, table = case.neural, EvaluationTable.model_validate({})
    assert settings is not None
    found = []
    with precision(settings):
        dynamics, policy = Dynamics.of(case.problem), blueprint_of(case, settings)
        parameters = jnp.zeros(policy.parameter_count)
        for seed in range(seeds):
            for_states, for_chains = jax.random.split(jax.random.key(seed))
            states = dynamics.initial_states(for_states, table.chains, policy.scale.dtype)
            found.append(measure(dynamics, policy, parameters, states, for_chains, table.burn_in, table.steps)[0])
    return 1.0 / (1.0 - rate * rate), found


def main(seeds: int = 40) -> None:
    print("rate    exact      mean       error     spread    held   correlation time  burn-in")
    for rate in (0.9, 0.99, 0.999):
        exact, found = measurements(rate, seeds)
        means, errors = np.array([f.mean for f in found]), np.array([f.standard_error for f in found])
        held = int((np.abs(means - exact) <= 2.0 * errors).sum())
        times, burns = np.mean([f.correlation_time for f in found]), np.mean([f.burn_in for f in found])
        print(
            f"{rate:<7} {exact:<10.5g} {means.mean():<10.5g} {errors.mean():<9.2g} {means.std(ddof=1):<9.2g} {held:2}/{seeds}  "
            f"{times:<17.3g} {burns:.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
