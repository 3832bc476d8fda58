"""Entropy of a policy relative to a reference law of the actions: what it adds to the cost, and the minimum that it softens.

In every cell the actions a_i are fixed, as values of a list or nodes of a quadrature, and the policy is their weights. With a
reference law rho_i of these actions the cost of a step is

    sum_i w_i c_i + eps KL(w | rho),    KL(w | rho) = sum_i w_i log(w_i / rho_i)    (0 log 0 = 0),

whose minimum over all weights, V frozen, is the soft one (Gibbs): with Z = sum_i rho_i exp(-Q_i / eps),

    min_w sum_i w_i (Q_i + eps log(w_i / rho_i)) = -eps log Z,    at w_i = rho_i exp(-Q_i / eps) / Z.

A reference law may have any mass M (that of Lebesgue has the volume of the bounds): KL(w | rho) = KL(w | rho/M) - log M.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from wassgrid.errors import WassgridError
from wassgrid.policy import ParticlePolicy, initial_policy
from wassgrid.problem.control_problem import TOTAL

if TYPE_CHECKING:
    from wassgrid.case import Case
    from wassgrid.grid import StateGrid
    from wassgrid.transition.goal import GridGoal

LEAST_WEIGHT = 1e-150  # of a weight: what has mass can always gain it again, and products with it are no subnormals
_NEAR = 1e-9  # of the range of all actions, to which an action is that of the reference law
_SHORT = 1e-8  # of the exponent of a step, from which on its terms of third order count
_HALF = -0.5  # of Z/M - 1: above it Z is known from its difference to M, below it from its own terms


class EntropyError(WassgridError, ValueError):
    """A policy or a case that has no entropy."""


@dataclass(frozen=True, eq=False)
class Entropy:
    """The entropy of policies on fixed actions, and its price.

    | name     | symbol | shape                | meaning                                                         |
    |----------|--------|----------------------|-----------------------------------------------------------------|
    | strength | eps    |                      | price, in the unit of the stage cost                            |
    | actions  | a_i    | (cells, N, m)        | on which the policy puts its weights                            |
    | shares   | rho/M  | (N,)                 | the reference law, as weights of sum one                        |
    | mass     | M      | (cells,)             | its mass, 1 for a probability law                               |
    | free     |        | (cells,)             | where actions mean something: elsewhere (a goal) none is priced |
    """

    strength: float
    actions: np.ndarray
    shares: np.ndarray
    mass: np.ndarray
    free: np.ndarray

    @classmethod
    def of(cls, case: Case, grid: StateGrid, goal: GridGoal | None) -> Entropy | None:
        """Return the entropy that a case prices (`policy.entropy`), None where it prices none.  Raises EntropyError."""
        if case.policy.entropy is None:
            return None
        problem, reference = case.problem, case.policy.reference
        actions = initial_policy(case, grid).actions
        low, high = case.initial_tables(grid.states)[2:]
        if problem.choices is None:
            cut = _NEAR * (high - low)
            outside = (low < actions.min(axis=1) - cut) | (high > actions.max(axis=1) + cut)
            if outside.any():
                cell, action = np.argwhere(outside)[0]
                raise EntropyError(
                    f"policy.initial: at {grid.describe_cell(int(cell))} it goes beyond the bounds of "
                    f"{problem.action_names[action]}, where there are no actions: keep low and high within them"
                )
        if isinstance(reference, tuple):
            shares = np.array(reference) / max(reference)  # their sum may overflow
        elif problem.choices is not None:
            shares = np.ones(len(problem.choices))
        else:
            shares = _trapezoidal(actions.shape[1], actions.shape[2])
        mass = np.ones(grid.size)
        if reference == "lebesgue":
            mass = (high - low).prod(axis=1)
            if not (np.isfinite(mass) & (mass > 0.0)).all():
                cell = int(np.argmin(np.where(np.isfinite(mass), mass, -1.0)))
                raise EntropyError(
                    f"policy.reference: at {grid.describe_cell(cell)} the actions fill a volume of {mass[cell]:.3g}, without a "
                    'finite logarithm: use "uniform"'
                )
        # where a total cost sums rates over steps, so does it the price
        summed = problem.time_step if problem.criterion == TOTAL else None
        free = np.ones(grid.size, bool) if goal is None else goal.free
        return cls(case.policy.entropy * (summed or 1.0), actions, shares / shares.sum(), mass, free)

    def require(self, policy: ParticlePolicy) -> None:
        """Raise EntropyError where a policy has other actions than the reference law."""
        actions = policy.actions
        fits = actions.shape == self.actions.shape
        if not fits or (np.abs(actions - self.actions)[self.free] > _NEAR * np.ptp(self.actions, axis=(0, 1))).any():
            raise EntropyError(
                f"policy.entropy: the actions of the policy are not the {self.shares.size} of every state whose weights the "
                "reference law gives: other actions have no density"
            )

    @cached_property
    def constant(self) -> np.ndarray:
        """-eps log M where actions mean something, (cells,): what a reference law that is no probability law adds."""
        return np.where(self.free, -self.strength * np.log(self.mass), 0.0)

    @cached_property
    def least(self) -> float:
        """The least price of a step over all policies and all cells: that of the reference law itself."""
        return float(self.constant[self.free].min())

    def cost(self, weights: np.ndarray, cells: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return eps KL(w | rho) of every cell, or of chosen ones, (K,), for weights (K, N)."""
        price = self.strength * relative_entropy(weights, self.shares)
        return np.where(self.free[cells], price, 0.0) + self.constant[cells]

    def rounding(self, weights: np.ndarray) -> float:
        """Return what rounding may make of `cost`, in any cell: of every x_i, and of the sum over them."""
        density = np.maximum(weights, LEAST_WEIGHT) / self.shares
        unsigned = (weights * np.abs(np.log(density))).sum(axis=1)
        units = (weights.shape[1] + 16.0) * np.finfo(float).eps
        return float((units * self.strength * unsigned + 4.0 * np.finfo(float).eps * np.abs(self.constant))[self.free].max())

    def slope(self, weights: np.ndarray) -> np.ndarray:
        """Return eps log(w_i / rho_i), (cells, N): with Q_i the first variation of J; 0 where there is no weight, and in a goal.

        Up to -eps log M, which is the same for all actions of a cell.
        """
        alive = (weights > 0.0) & self.free[:, None]
        return np.where(alive, self.strength * np.log(np.where(alive, weights / self.shares, 1.0)), 0.0)

    def soft_minimum(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return -eps log sum_i rho_i exp(-Q_i / eps) of every cell and what rounding may make of it beside that of Q, (cells,).

        q (cells, N). In a goal, where nothing is chosen, it is Q.
        """
        low, above = soft_minimum(q, self.shares, self.strength)
        units = (2.0 * q.shape[1] + 32.0) * np.finfo(float).eps
        rounded = units * above + 4.0 * np.finfo(float).eps * np.abs(self.constant)
        return np.where(self.free, low + above + self.constant, low), np.where(self.free, rounded, 0.0)

    def relaxed(self, weights: np.ndarray, q: np.ndarray, scale: float) -> np.ndarray:
        """Return the weights (cells, N) to which the flow comes in a time, Q (cells, N) frozen; scale: kappa times the time.

            w_i <- w_i^(1 - theta) rho_i^theta exp(-theta Q_i / eps) / Z,    theta = 1 - exp(-scale eps)

        lowers sum_i w_i (Q_i + eps log(w_i / rho_i)) for every scale >= 0; infinite: rho_i exp(-Q_i / eps) / Z.
        """
        turn, below = scale * self.strength, q.min(axis=1, keepdims=True) - q
        with np.errstate(over="ignore"):
            # theta / eps is the scale itself where it is short
            exponent = -np.expm1(-turn) * below / self.strength if turn > _SHORT else scale * (1.0 - 0.5 * turn) * below
            exponent = exponent + np.exp(-turn) * np.log(np.maximum(weights, LEAST_WEIGHT) / self.shares)
        exponent -= exponent.max(axis=1, keepdims=True)
        result = self.shares * np.exp(exponent)
        # what underflows has a weight still: the density of a policy of finite cost is positive
        return np.asarray(np.maximum(result / result.sum(axis=1, keepdims=True), LEAST_WEIGHT))

    def described(self) -> str:
        """Say of what problem a bound speaks."""
        return f"for cost and entropy together, among all policies on its {self.shares.size} actions per state"


def relative_entropy(weights: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return KL(w | rho) of every cell, (cells,), for weights (cells, N) and a law of the actions, shares (N,) or (cells, N).

    KL(w | rho) = sum_i rho_i h(x_i - 1) with h(d) = (1 + d) log(1 + d) - d >= 0 and x_i the density: no term is lost to rounding
    where w is close to rho. Where rho has no mass, w must have none.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(shares > 0.0, weights / shares, 0.0) - 1.0
        terms = np.where(excess > -1.0, (1.0 + excess) * np.log1p(excess) - excess, 1.0)
    return _summed(terms, shares)


def soft_minimum(q: np.ndarray, shares: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the minimum of q (cells, N), possibly infinite, and by how much -eps log sum_i rho_i exp(-q_i / eps) is above it.

    shares (N,) or (cells, N): rho, of sum one. Both (cells,).
    """
    low = q.min(axis=1)
    with np.errstate(over="ignore"):
        exponent = (low[:, None] - q) / strength
    # sum_i rho_i exp(...) - 1, and the sum itself, each without cancellation where it is used
    less, share = _summed(np.expm1(exponent), shares), _summed(np.exp(exponent), shares)
    with np.errstate(divide="ignore"):
        above = -strength * np.where(less > _HALF, np.log1p(np.maximum(less, _HALF)), np.log(share))
    return low, above


def _summed(terms: np.ndarray, shares: np.ndarray) -> np.ndarray:
    return np.asarray(terms @ shares if shares.ndim == 1 else (terms * shares).sum(axis=1))


def _trapezoidal(count: int, dimension: int) -> np.ndarray:
    """Return the weights (count,) of the trapezoidal rule on a product of equally spaced points, both ends among them."""
    side = round(count ** (1.0 / dimension))
    line = np.ones(side)
    line[[0, -1]] = 0.5
    product = np.ones(1)
    for _ in range(dimension):
        product = np.multiply.outer(product, line).ravel()
    return product
