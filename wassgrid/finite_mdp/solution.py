"""What solving a Markov decision process gives."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class FiniteSolution:
    """Hold the policy found for a `FiniteMDP`, what it costs, and what is proven of it.

    | name        | shape             | meaning                                                                             |
    |-------------|-------------------|-------------------------------------------------------------------------------------|
    | objective   |                   | J: average cost; discounted: (1 - discount) times the cost from the start law       |
    | lower_bound |                   | proven: no policy has a lower J                                                     |
    | upper_bound |                   | proven: this policy has no higher J                                                 |
    | value       | (states,)         | V: discounted, the cost from every state; average, relative, of mean zero           |
    | policy      | (states, actions) | weights, of sum one in every state                                                  |
    | law         | (states,)         | how often the policy is where: stationary law, or discounted occupancy; sum one     |
    | residual    |                   | largest residual of the equation for V                                              |
    | objectives  | (steps + 1,)      | J at every step                                                                     |
    | entropy     |                   | the part of J that is the price of entropy, zero without                            |

    Where entropy has a price, J, V and the bounds are those of cost and entropy together.

    converged: whether the policy is what was asked for; reason says so in a sentence.
    """

    objective: float
    lower_bound: float
    upper_bound: float
    value: np.ndarray
    policy: np.ndarray
    law: np.ndarray
    residual: float
    converged: bool
    reason: str
    objectives: np.ndarray = field(repr=False)
    entropy: float = 0.0

    @property
    def steps(self) -> int:
        return len(self.objectives) - 1

    @property
    def actions(self) -> np.ndarray:
        """The number of the action of largest weight in every state, (states,)."""
        return self.policy.argmax(axis=1)

    def __repr__(self) -> str:
        return f"<FiniteSolution: J = {self.objective:.10g}, gap {self.upper_bound - self.lower_bound:.2g}, {self.reason}>"
