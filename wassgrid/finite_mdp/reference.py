"""The price of entropy in a finite process: a reference law of the actions of every state, and the minimum that it softens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from wassgrid.entropy import LEAST_WEIGHT, relative_entropy, soft_minimum
from wassgrid.finite_mdp.arrays import FiniteMDPError

_SHORT = 1e-8  # of the exponent of a step, from which on its terms of third order count


@dataclass(frozen=True, eq=False)
class ReferenceLaw:
    """A reference law and the price of being away from it.

    strength: eps, in the unit of the costs. shares: rho (states, actions), of sum one in every state, zero where an action is not
    available.
    """

    strength: float
    shares: np.ndarray

    @classmethod
    def of(cls, entropy: Any, reference: Any, available: np.ndarray) -> ReferenceLaw | None:
        """Look at what a user gives, see `FiniteMDP`; None where nothing is priced.  Raises FiniteMDPError."""
        if entropy is None:
            if reference is not None:
                raise FiniteMDPError("reference: there is no price of entropy, give one")
            return None
        try:
            strength = float(entropy)
        except (TypeError, ValueError):
            strength = np.nan
        if not 0.0 < strength < np.inf:
            raise FiniteMDPError(f"entropy: expected a positive number, its price, got {entropy!r:.40}")
        states, actions = available.shape
        try:
            shares = np.array(np.ones(actions) if reference is None else reference, dtype=float)
        except (TypeError, ValueError):
            shares = np.empty(0)
        if shares.shape not in ((actions,), (states, actions)) or not (np.isfinite(shares).all() and (shares >= 0.0).all()):
            raise FiniteMDPError(
                f"reference: expected nonnegative numbers, a law of the actions ({actions},) or ({states}, {actions})"
            )
        shares = np.where(available, shares, 0.0)
        total = shares.sum(axis=1, keepdims=True)
        if not ((total > 0.0) & np.isfinite(total)).all():
            state = int(np.flatnonzero(~((total > 0.0) & np.isfinite(total)))[0])
            raise FiniteMDPError(f"reference: the available actions of state {state} have the mass {total[state, 0]:.3g}")
        return cls(strength, shares / total)

    @property
    def most(self) -> float:
        """The largest price of a step."""
        return self.strength * -float(np.log(self.shares[self.shares > 0.0].min()))

    def cost(self, weights: np.ndarray) -> np.ndarray:
        """Return eps KL(w | rho), (states,), for weights (states, actions)."""
        return self.strength * relative_entropy(weights, self.shares)

    def least(self, q: np.ndarray) -> np.ndarray:
        """Return -eps log sum_a rho_a exp(-q_a / eps), (states,), for q (states, actions)."""
        low, above = soft_minimum(np.where(self.shares > 0.0, q, np.inf), self.shares, self.strength)
        return low + above

    def relaxed(self, weights: np.ndarray, q: np.ndarray, scale: float) -> np.ndarray:
        """Return w_a^(1 - theta) rho_a^theta exp(-theta q_a / eps) / Z with theta = 1 - exp(-scale eps), (states, actions).

        Infinite scale: rho_a exp(-q_a / eps) / Z, where the minimum is reached.
        """
        alive = self.shares > 0.0
        turn = scale * self.strength
        q = np.where(alive, q, np.inf)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            # theta / eps is the scale itself where it is short
            cooling = -np.expm1(-turn) / self.strength if turn > _SHORT else scale * (1.0 - 0.5 * turn)
            density = np.where(alive, np.log(np.maximum(weights, LEAST_WEIGHT) / self.shares), 0.0)
            exponent = cooling * (q.min(axis=1, keepdims=True) - q) + np.exp(-turn) * density
        exponent -= exponent.max(axis=1, keepdims=True)
        result = self.shares * np.exp(exponent)
        return np.asarray(result / result.sum(axis=1, keepdims=True))
