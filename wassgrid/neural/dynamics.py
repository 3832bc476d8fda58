"""The controlled chain of a case as JAX functions, with what simulation needs beside the step: where chains start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from wassgrid.problem.control_problem import ControlProblem, ProblemError
from wassgrid.problem.random_step import RandomStep


@dataclass(frozen=True, eq=False)
class Dynamics:
    """A controlled chain, its stage cost and its initial law.

    discount: None for the average cost.  Equal for the same problem object: what was compiled for one serves the other.
    """

    problem: ControlProblem
    step: RandomStep
    discount: float | None

    @classmethod
    def of(cls, problem: ControlProblem) -> Dynamics:
        """Build the JAX functions of a control problem.

        Raises ProblemError where the discounted criterion lacks a domain to draw its initial states from.
        """
        bounded = np.isfinite(problem.domain).all(axis=1)
        if problem.discount is not None and not bounded.all():
            name = problem.state_names[int(np.argmin(bounded))]
            raise ProblemError(
                f"states.{name}.domain: missing, the discounted criterion starts from the uniform law over the domain"
            )
        return cls(problem, RandomStep(problem, "jax"), problem.discount)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dynamics) and self.problem is other.problem

    def __hash__(self) -> int:
        return hash(self.problem)

    @property
    def state_dimension(self) -> int:
        return self.problem.state_dimension

    @property
    def action_dimension(self) -> int:
        return self.problem.action_dimension

    @property
    def noise_dimension(self) -> int:
        return self.step.noise_dimension

    def next_state(self, states: Array, actions: Array, noise: Array) -> Array:
        """Map states (K, d), actions (K, m) and standard normal noise (K, noise_dimension) to the next states (K,
        d)."""
        return self.step.next_state(states, actions, noise)

    def stage_cost(self, states: Array, actions: Array) -> Array:
        """Return the stage cost, or cost rate in continuous time, (K,)."""
        return self.step.stage_cost(states, actions)

    def initial_states(self, key: Array, chains: int, dtype: Any) -> Array:
        """Draw (chains, d): uniform over the domain, zero along a state without one."""
        low, high = self.problem.domain.T
        bounded = np.isfinite(low) & np.isfinite(high)
        low, high = np.where(bounded, low, 0.0), np.where(bounded, high, 0.0)
        uniform = jax.random.uniform(key, (chains, self.state_dimension), dtype)
        return jnp.asarray(low, dtype) + jnp.asarray(high - low, dtype) * uniform
