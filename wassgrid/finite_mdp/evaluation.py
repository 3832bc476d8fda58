"""A policy of a finite process evaluated: its average cost from every state, its value and its law, whatever its classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wassgrid.chain.classes import recurrent_classes
from wassgrid.chain.resolvent import TRANSIENT, Resolvent
from wassgrid.chain.stationary import StationaryError, starting_law
from wassgrid.finite_mdp.arrays import ProcessArrays
from wassgrid.transition.sparse import TransitionOperator

FEW = 100  # states whose chains are factorised at once
_TOLERANCE = 1e-13  # relative, of solves
_SAME = 1e-13  # of the largest cost: average costs that are the same


@dataclass(frozen=True)
class Evaluation:
    """A policy evaluated.

    | name     | shape     | meaning                                                                                    |
    |----------|-----------|--------------------------------------------------------------------------------------------|
    | gain     | (states,) | average cost from every state, the same for all in one recurrent class; zero if discounted |
    | value    | (states,) | V = c - gain + g P V                                                                       |
    | residual | (states,) | c - gain + g P V - V                                                                       |
    | classes  |           | the states of every recurrent class; none if discounted, where they are not asked for      |
    """

    arrays: ProcessArrays
    resolvent: Resolvent
    gain: np.ndarray
    value: np.ndarray
    residual: np.ndarray
    classes: list[np.ndarray]

    @property
    def objective(self) -> float:
        """J, from the start law."""
        if self.classes:
            return float(self.gain[0]) if self.constant else float(self.arrays.start @ self.gain)
        return (1.0 - self.arrays.discount) * float(self.arrays.start @ self.value)

    @property
    def constant(self) -> bool:
        """Whether the average cost is the same from every state."""
        return float(np.ptp(self.gain)) == 0.0

    def law(self) -> np.ndarray:
        """Return how often the policy is where, from the start law: stationary law or discounted occupancy, (states,)."""
        start, resolvent, g = self.arrays.start, self.resolvent, self.arrays.discount
        if not self.classes:
            found = resolvent.left((1.0 - g) * start, None, _TOLERANCE).values
        else:
            assert resolvent.anchors is not None
            found = resolvent.left(resolvent.anchors, None, _TOLERANCE).values
            if len(self.classes) > 1:
                # the chances with which each of them is entered
                entered = resolvent.per_class(resolvent.left(start, None, _TOLERANCE).values)
                found = found * resolvent.spread(entered)
        found = np.maximum(found, 0.0)
        if not 0.0 < found.sum() < np.inf:
            raise StationaryError("the stationary law was not found: the chain of the policy mixes too slowly")
        return np.asarray(found / found.sum())


def evaluate(
    arrays: ProcessArrays, weights: np.ndarray, cost: np.ndarray, guess: np.ndarray | None, direct: bool
) -> Evaluation:
    """Evaluate a policy, weights (states, actions), with the cost (states,) of its steps.

    guess (states,): a value close to its own. direct: begin with factors. The average cost of a policy of several recurrent
    classes has its equation too (Puterman 1994, section 9.1): gain = P gain, V = c - gain + P V.
    """
    operator, g = TransitionOperator.from_matrix(arrays.chain(weights)), arrays.discount
    direct = direct or operator.size <= FEW
    if g < 1.0:
        resolvent = Resolvent(operator, g, direct=direct)
        value = resolvent.right(cost, guess, _TOLERANCE).values
        gain = np.zeros(operator.size)
        return Evaluation(arrays, resolvent, gain, value, cost + g * operator.apply(value) - value, [])
    classes = recurrent_classes(operator)
    label, anchors = np.full(operator.size, TRANSIENT), np.zeros(operator.size)
    probe = starting_law(operator.size)
    for k, cells in enumerate(classes):
        label[cells], anchors[cells] = k, probe[cells] / probe[cells].sum()
    if len(classes) == 1:
        label[:] = 0
    resolvent = Resolvent(operator, 1.0, label, anchors, direct)
    if guess is not None and len(classes) > 1:
        guess = None
    # u_k(x) is the average cost of class k
    x = resolvent.right(cost, guess, _TOLERANCE).values
    means = resolvent.per_class(anchors * x)
    if np.ptp(means) <= _SAME * arrays.size:
        gain = np.full(operator.size, means.mean())
        value = x - means[0] if len(classes) == 1 else resolvent.right(cost - gain, None, _TOLERANCE).values
    else:
        gain = resolvent.right(resolvent.spread(means), None, _TOLERANCE).values
        value = resolvent.right(cost - gain, None, _TOLERANCE).values
    return Evaluation(arrays, resolvent, gain, value, cost - gain + operator.apply(value) - value, classes)
