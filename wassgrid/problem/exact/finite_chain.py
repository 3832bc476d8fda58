"""Finite chains: a decision problem with known gain, and the stationary law to full relative accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from wassgrid.problem.exact.case_text import Array


@dataclass(frozen=True)
class FiniteChain:
    """Controlled finite chain with known best average reward.

    ``transitions[state][action]`` is a row of probabilities, ``rewards[state][action]`` the expected reward of a step.
    """

    transitions: tuple[tuple[tuple[float, ...], ...], ...]
    rewards: tuple[tuple[float, ...], ...]
    gain: float
    best_actions: tuple[int, ...] = field(default=())

    def closed_loop(self, actions: Sequence[int]) -> tuple[Array, Array]:
        """Return the transition matrix (states, states) and rewards (states,) of one action per state."""
        rows = [choices[action] for choices, action in zip(self.transitions, actions, strict=True)]
        rewards = [choices[action] for choices, action in zip(self.rewards, actions, strict=True)]
        return np.array(rows), np.array(rewards)

    @classmethod
    def howard_taxi(cls) -> Self:
        """Return the taxi driver's problem of Howard, Dynamic Programming and Markov Processes (1960), chapter 5."""
        transitions = (
            ((1 / 2, 1 / 4, 1 / 4), (1 / 16, 3 / 4, 3 / 16), (1 / 4, 1 / 8, 5 / 8)),
            ((1 / 2, 0.0, 1 / 2), (1 / 16, 7 / 8, 1 / 16)),
            ((1 / 4, 1 / 4, 1 / 2), (1 / 8, 3 / 4, 1 / 8), (3 / 4, 1 / 16, 3 / 16)),
        )
        fares = (
            ((10, 4, 8), (8, 2, 4), (4, 6, 4)),
            ((14, 0, 18), (8, 16, 8)),
            ((10, 2, 8), (6, 4, 2), (4, 0, 8)),
        )
        rewards = tuple(
            tuple(float(np.dot(row, fare)) for row, fare in zip(rows, per_trip, strict=True))
            for rows, per_trip in zip(transitions, fares, strict=True)
        )
        return cls(transitions, rewards, gain=1588 / 119, best_actions=(1, 1, 1))


def grassmann_taksar_heyman(transition: ArrayLike) -> Array:
    """Return the stationary law of an irreducible chain by subtraction-free elimination.

    Every entry comes out to full relative accuracy, however slowly the chain mixes (Grassmann, Taksar, Heyman 1985;
    O'Cinneide 1993): the independent reference for metastable chains. Cubic cost, dense.

    Args:
        transition: transition matrix with rows that sum to one, shape (states, states), entries >= 0; the diagonal is
            not read.

    Raises:
        ValueError: if the chain is reducible.
    """
    remaining = np.array(transition, dtype=float)
    size = len(remaining)
    for k in range(size - 1, 0, -1):
        # censor state k: p_ij += p_ik p_kj / (chance to leave k for the states below), never a subtraction
        leaving = remaining[k, :k].sum()
        if leaving <= 0:
            raise ValueError(f"the chain is reducible: state {k} does not lead to the states before it")
        remaining[:k, k] /= leaving
        remaining[:k, :k] += np.outer(remaining[:k, k], remaining[k, :k])
    law = np.ones(size)
    for k in range(1, size):
        law[k] = law[:k] @ remaining[:k, k]
    return np.asarray(law / law.sum())
