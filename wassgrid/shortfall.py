"""What a policy costs more than another one of the same problem, and where in state space."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wassgrid.chain.reductions import dot
from wassgrid.evaluation import Evaluation

_HALF = 0.5  # of what a policy loses: the fewest cells that hold so much are named


@dataclass(frozen=True)
class Shortfall:
    """Lay a policy pi beside a reference on one grid, cell by cell.

    With V and J of the reference, and mu the stationary law of pi (occupancy, or expected visits, where costs are discounted or
    end at a goal),

        J(pi) - J = sum_k mu_k A_k,   A_k = int Q(s_k, a) pi_k(da) - V(s_k),   Q = c - J + P V,

    for every V (the performance difference lemma, Kakade and Langford 2002): `advantage` is A and `loss` mu A, both (cells,).
    Beside an optimal reference A is nowhere negative, up to what its own gap is.

    `gradient` (cells,) tells what training, or the flow, has left to do: the root mean square over particles of
    |a - clip(a - tau grad_a Q)|/tau with Q of pi itself and the bounds of the action. That is the gradient far from bounds, zero
    where a particle on a bound is pushed against it, and small near one, where the smooth squash of a network stays.
    tau lets a gradient of the usual size, root mean square under mu, cross all the actions that are taken. Of actions that take
    values of a list, and where entropy has a price, it is nan.
    """

    policy: Evaluation
    reference: Evaluation

    def __repr__(self) -> str:
        return f"<Shortfall {self.total:.6g} on {self.policy.policy.grid.described}>"

    @cached_property
    def advantage(self) -> np.ndarray:
        judged, reference = self.policy, self.reference
        cells = np.arange(judged.policy.grid.size)
        q = np.einsum("ki,ki->k", judged.policy.weights, reference.q_values(cells, judged.policy.actions))
        excess: np.ndarray = q + judged.entropy_cost - reference.value
        return excess if judged.controlled is None else np.where(judged.controlled, excess, 0.0)

    @cached_property
    def loss(self) -> np.ndarray:
        return self.policy.law * self.advantage

    @property
    def total(self) -> float:
        """J of the policy less that of the reference, in the unit of the objective."""
        return self.policy.objective - self.reference.objective

    @cached_property
    def gradient(self) -> np.ndarray:
        judged = self.policy
        if judged.at_rest:
            return np.full(judged.policy.grid.size, np.nan)
        actions, q_gradient, law = judged.policy.actions, judged.q_gradient, np.maximum(judged.law, 0.0)
        usual = np.sqrt(np.einsum("k,ki,kia->a", law, judged.policy.weights, q_gradient**2) / law.sum())
        low, high = judged.model.limits
        taken = np.where(np.isfinite(high - low), high - low, np.ptp(actions, axis=(0, 1))).max(axis=(0, 1))
        tau = np.where((usual > 0.0) & (taken > 0.0), taken, 1.0) / np.where(usual > 0.0, usual, 1.0)
        field = (actions - np.clip(actions - tau * q_gradient, low, high)) / tau
        squared = np.einsum("ki,kia->k", judged.policy.weights, field**2)
        return np.sqrt(squared if judged.controlled is None else np.where(judged.controlled, squared, 0.0))

    @property
    def gradient_norm(self) -> float:
        """The root mean square of `gradient` under the law of the policy."""
        return float(np.sqrt(dot(np.maximum(self.policy.law, 0.0), self.gradient**2)))

    @property
    def worst(self) -> int:
        """The cell that loses most."""
        return int(self.loss.argmax())

    def concentration(self) -> tuple[int, float]:
        """Return the least number of cells that hold half of all losses, gains elsewhere left out, and their share of the law."""
        lost = np.maximum(self.loss, 0.0)
        order = np.argsort(-lost, kind="stable")
        count = int(np.searchsorted(np.cumsum(lost[order]), _HALF * lost.sum())) + 1 if lost.any() else 0
        return count, float(self.policy.law[order[:count]].sum() / self.policy.law.sum())
