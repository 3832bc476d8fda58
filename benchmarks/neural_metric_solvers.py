"""The three solvers of the damped metric: time per step and agreement, against parameters and samples.

Policies of 10 states and 5 actions with drawn parameters, states and gradients. The direction is compared with conjugate
gradients run to a residual of 1e-6 in double precision: relative distance in the metric, |J (w - w')| / |J w'|.

    python benchmarks/neural_metric_solvers.py
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console
from rich.table import Table

from wassgrid.neural.metric import Tangent, conjugate_gradients, kernel_form, nystrom, parameter_gradient, tangent
from wassgrid.neural.policies import PushForwardPolicy

SITES = 5  # 10 states, 5 actions
WIDTHS = ((), (16, 16), (64, 64), (128, 128))
SAMPLES = (128, 512, 2048)
RANKS = (50, 200)
MAXIMUM_ROWS = 6_000  # samples * actions of the kernel form: its Jacobian and kernel must fit into memory
REPEATS = 3

Solver = Callable[[Tangent, Array, Array], Array]


def by_gradients(iterations: int, at: Tangent, gradients: Array, damping: Array) -> Array:
    return conjugate_gradients(at, parameter_gradient(at, gradients), damping, iterations, 1e-6).value


def by_sketch(rank: int, at: Tangent, gradients: Array, damping: Array) -> Array:
    return nystrom(at, parameter_gradient(at, gradients), damping, rank, jax.random.key(7)).value


SOLVERS: dict[str, Solver] = {
    **{f"cg, {iterations} iterations": partial(by_gradients, iterations) for iterations in (10, 50)},
    "kernel": lambda at, g, damping: kernel_form(at, g, damping).value,
    **{f"nystrom, rank {rank}": partial(by_sketch, rank) for rank in RANKS},
}


def problem(hidden: tuple[int, ...], samples: int) -> tuple[PushForwardPolicy, Array, Array, Array]:
    """Return a policy, its parameters, states and gradients g = linear in the states + noise, as in a run."""
    size = 2 * SITES
    no_bounds = (-math.inf,) * SITES, (math.inf,) * SITES
    policy = PushForwardPolicy(jnp.zeros(size), jnp.ones(size), *no_bounds, (), hidden, "tanh", True, 0)
    keys = jax.random.split(jax.random.key(0), 4)
    theta = 0.3 * jax.random.normal(keys[0], (policy.parameter_count,))
    states = jax.random.normal(keys[1], (samples, size))
    gradients = states @ jax.random.normal(keys[2], (size, SITES)) + jax.random.normal(keys[3], (samples, SITES))
    return policy, theta, states, gradients


def at_point(policy: PushForwardPolicy, theta: Array, states: Array) -> Tangent:
    return tangent(lambda t: policy(t, states, jnp.zeros((states.shape[0], 0), states.dtype)), theta)


def measure(hidden: tuple[int, ...], samples: int, damping: float) -> tuple[int, dict[str, tuple[float, float]]]:
    """Return the number of parameters, and milliseconds and distance of every solver."""
    drawn = problem(hidden, samples)  # in single precision: double precision would draw other numbers
    with jax.enable_x64(True):
        policy, theta, states, gradients = (jax.tree.map(lambda x: x.astype(jnp.float64), part) for part in drawn)
        precise = jax.jit(lambda t, s, g: by_gradients(2_000, at_point(policy, t, s), g, damping))(theta, states, gradients)
        best = np.asarray(at_point(policy, theta, states).push(precise))
    policy, theta, states, gradients = drawn
    found = {}
    for name, solver in SOLVERS.items():
        if name == "kernel" and samples * SITES > MAXIMUM_ROWS:
            continue
        run = jax.jit(lambda t, s, g, solver=solver: solver(at_point(policy, t, s), g, jnp.float32(damping)))
        w = run(theta, states, gradients).block_until_ready()
        seconds = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            run(theta, states, gradients).block_until_ready()
            seconds.append(time.perf_counter() - began)
        off = np.asarray(at_point(policy, theta, states).push(w)) - best
        found[name] = 1e3 * min(seconds), float(np.linalg.norm(off) / np.linalg.norm(best))
    return policy.parameter_count, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damping", type=float, default=1e-3)
    damping = parser.parse_args().damping
    table = Table(title=f"milliseconds per step (distance to the precise direction), damping {damping:g}, float32")
    for name in ("parameters", "samples x actions", *SOLVERS):
        table.add_column(name, justify="right")
    for hidden, samples in itertools.product(WIDTHS, SAMPLES):
        parameters, found = measure(hidden, samples, damping)
        cells = [f"{found[name][0]:.3g} ({found[name][1]:.0e})" if name in found else "too large" for name in SOLVERS]
        table.add_row(str(parameters), f"{samples} x {SITES}", *cells)
    Console(width=170).print(table)


if __name__ == "__main__":
    main()
