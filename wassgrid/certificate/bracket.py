"""A bracket of J from the residuals of a value function: free at every step, its lower end not proven.

For any V, with T_pi V = c_pi + g P_pi V and T V = min_a [c + g E V(s')], average cost (g = 1; Odoni 1969):

    min (T_pi V - V) <= J(pi) <= max (T_pi V - V),    min (T V - V) <= J*

since mu_pi (c_pi + P_pi V - V) = J(pi). Discounted, J(pi) = (1 - g) rho V_pi and V_pi - V = (I - g P_pi)^{-1} (T_pi V - V), where
(1 - g) (I - g P_pi)^{-1} has nonnegative rows of sum one:

    J(pi) - (1 - g) rho V lies in [min (T_pi V - V), max (T_pi V - V)],    J* - (1 - g) rho V >= min (T V - V)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wassgrid.certificate.best_actions import BestActions
from wassgrid.evaluation import Evaluation


@dataclass(frozen=True)
class Bracket:
    """Hold bounds that the value function of an evaluation gives, exact for any V up to rounding, P a Markov matrix.

    | name   | meaning                                                                                              |
    |--------|------------------------------------------------------------------------------------------------------|
    | policy | (lower, upper): J of the policy lies between                                                         |
    | upper  | the same upper end: J* is not above it                                                               |
    | lower  | J* is not below it if no action is better than those found: NOT proven, `certify` proves one         |
    | best   | (lower, upper) for the policy that takes the best action found in every cell                         |
    """

    lower: float
    upper: float
    policy: tuple[float, float]
    best: tuple[float, float]
    proven: bool = False

    @property
    def width(self) -> float:
        return self.upper - self.lower


def residual(evaluation: Evaluation) -> np.ndarray:
    """Return r = c_pi - J + P V - V (discounted: c_pi + g P V - V), (cells,): the mean of Q over the particles, less V."""
    mean: np.ndarray = np.einsum("ki,ki->k", evaluation.policy.weights, evaluation.q)
    return mean + evaluation.entropy_cost - evaluation.value


def cheap_bracket(evaluation: Evaluation, found: BestActions, r: np.ndarray | None = None) -> Bracket:
    """Bracket J* without a proof: J + min (best Q - V) of the actions found, below J + max r.

    r (cells,): `residual(evaluation)` where it is known.
    """
    r = residual(evaluation) if r is None else r
    if evaluation.model.problem.stops:
        raise ValueError("a cost until a goal has no such bracket: see Evaluation.bracket and certificate.bound_of")
    gain = found.values - evaluation.value
    j = evaluation.anchor
    policy = j + float(r.min()), j + float(r.max())
    best = j + float(gain.min()), j + float(gain.max())
    return Bracket(best[0], min(policy[1], best[1]), policy, best)
