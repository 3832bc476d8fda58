"""The arrays of a Markov decision process: what they have to be, and products with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from wassgrid.errors import WassgridError
from wassgrid.transition.sparse import TransitionOperator

_SUM = 1e-8  # that the probabilities of a row may differ from one by


class FiniteMDPError(WassgridError, ValueError):
    """Arrays that are no Markov decision process, or settings that do not go with it; one line with the place."""


@dataclass(frozen=True)
class ProcessArrays:
    """A Markov decision process whose arrays have been looked at.

    | name     | symbol | shape                      | meaning                                                             |
    |----------|--------|----------------------------|---------------------------------------------------------------------|
    | rows     | P      | (states * actions, states) | row s actions + a: the law of the next state after action a in s    |
    | costs    | c      | (states, actions)          | of a step; infinite where an action is not available                |
    | discount | g      |                            | per step; 1 for the average cost                                    |
    | start    | rho    | (states,)                  | the law of the first state                                          |
    """

    rows: sparse.csr_array
    costs: np.ndarray
    discount: float
    start: np.ndarray

    @classmethod
    def of(cls, transitions: Any, costs: Any, discount: Any, start: Any) -> ProcessArrays:
        """Look at what a user gives; see `FiniteMDP`.  Raises FiniteMDPError."""
        blocks = _matrices(transitions)
        states = blocks[0].shape[0]
        known = _costs(costs, states, len(blocks))
        factor = 1.0 if discount is None else _discount(discount)
        return cls(_stacked(blocks, np.isfinite(known)), known, factor, as_law(start, states, "start", "the first state"))

    @property
    def states(self) -> int:
        return int(self.costs.shape[0])

    @cached_property
    def available(self) -> np.ndarray:
        """Whether an action may be taken, (states, actions)."""
        return np.isfinite(self.costs)

    @cached_property
    def size(self) -> float:
        """The largest cost, without its sign."""
        return float(np.abs(self.costs[self.available]).max())

    @cached_property
    def nodes(self) -> int:
        """Entries of the longest row."""
        return int(np.diff(self.rows.indptr).max())

    @cached_property
    def _next(self) -> TransitionOperator:
        return TransitionOperator.from_matrix(self.rows)

    def following(self, function: np.ndarray) -> np.ndarray:
        """Return its expectation at the next state, (states, actions), for a function of the states (states,)."""
        return self._next.apply(function).reshape(self.costs.shape)

    def mean(self, weights: np.ndarray, of: np.ndarray) -> np.ndarray:
        """Return sum_a w_sa of_sa, (states,), for arrays (states, actions), where `of` may be infinite without weight."""
        return np.asarray(np.where(weights > 0.0, weights * np.where(weights > 0.0, of, 0.0), 0.0).sum(axis=1))

    def chain(self, weights: np.ndarray) -> sparse.csr_array:
        """Return the transition matrix (states, states) of a policy, weights (states, actions)."""
        state, action = np.nonzero(weights)
        if state.size == self.states:
            return self.rows[state * weights.shape[1] + action]
        mixing = sparse.csr_array(
            (weights[state, action], (state, state * weights.shape[1] + action)), shape=(self.states, self.rows.shape[0])
        )
        return mixing @ self.rows


def _matrices(transitions: Any) -> list[sparse.csr_array]:
    """Return P of every action."""
    listed = not sparse.issparse(transitions) and (isinstance(transitions, Sequence) or getattr(transitions, "ndim", 0) == 3)
    if not listed or len(transitions) == 0:
        raise FiniteMDPError(
            "transitions: expected an array (actions, states, states) or a list of matrices (states, states), one per action"
        )
    blocks: list[sparse.csr_array] = []
    for action, block in enumerate(transitions):
        try:
            matrix = sparse.csr_array(block, dtype=float)
        except (TypeError, ValueError) as error:
            raise FiniteMDPError(f"transitions: action {action} is no matrix of numbers: {error}") from None
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
            raise FiniteMDPError(f"transitions: action {action} has the shape {matrix.shape}, expected (states, states)")
        if blocks and matrix.shape != blocks[0].shape:
            raise FiniteMDPError(f"transitions: action {action} has the shape {matrix.shape}, action 0 {blocks[0].shape}")
        matrix.sum_duplicates()
        blocks.append(matrix)
    return blocks


def _stacked(blocks: list[sparse.csr_array], available: np.ndarray) -> sparse.csr_array:
    """Return the laws of all actions, row s actions + a; of actions that are not available the state itself."""
    states, actions = available.shape
    for action, block in enumerate(blocks):
        rows = np.repeat(np.arange(states), np.diff(block.indptr))
        wrong = ~((block.data >= 0.0) & (block.data <= 1.0 + _SUM)) & available[rows, action]
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            raise FiniteMDPError(
                f"transitions: P[{action}, {rows[at]}, {block.indices[at]}] is {block.data[at]:.6g}, expected a probability"
            )
        total = np.asarray(block.sum(axis=1)).ravel()
        off = ~(np.abs(total - 1.0) <= _SUM) & available[:, action]
        if off.any():
            state = int(np.flatnonzero(off)[0])
            raise FiniteMDPError(
                f"transitions: the probabilities of action {action} in state {state} have the sum {total[state]:.9g}, expected 1"
            )
        factor = np.where(available[:, action], 1.0 / np.where(total > 0.0, total, 1.0), 0.0)
        data = np.where(available[rows, action], block.data, 0.0) * factor[rows]
        stays = sparse.diags_array((~available[:, action]).astype(float), format="csr")
        blocks[action] = sparse.csr_array((data, block.indices, block.indptr), shape=block.shape) + stays
        blocks[action].eliminate_zeros()
    order = (np.arange(actions) * states + np.arange(states)[:, None]).ravel()
    return sparse.csr_array(sparse.vstack(blocks, format="csr")[order])


def _costs(costs: Any, states: int, actions: int) -> np.ndarray:
    try:
        result = np.array(costs, dtype=float)
    except (TypeError, ValueError):
        raise FiniteMDPError(f"costs: expected numbers, an array ({states}, {actions})") from None
    if result.shape == (states,):
        result = np.repeat(result[:, None], actions, axis=1)
    if result.shape != (states, actions):
        raise FiniteMDPError(f"costs: expected an array ({states}, {actions}), one row per state, got {result.shape}")
    bad = np.isnan(result) | (result == -np.inf)
    if bad.any():
        state, action = np.argwhere(bad)[0]
        raise FiniteMDPError(f"costs: that of action {action} in state {state} is {result[state, action]}")
    if not np.isfinite(result).any(axis=1).all():
        state = int(np.flatnonzero(~np.isfinite(result).any(axis=1))[0])
        raise FiniteMDPError(f"costs: no action is available in state {state}, all of its costs are infinite")
    return result


def _discount(discount: Any) -> float:
    try:
        found = float(discount)
    except (TypeError, ValueError):
        found = np.nan
    if not 0.0 < found < 1.0:
        raise FiniteMDPError(f"discount: expected a number between 0 and 1, or None for the average cost, got {discount!r:.40}")
    return found


def as_law(given: Any, count: int, name: str, of: str) -> np.ndarray:
    """Return a probability law (count,), the uniform one for None.  Raises FiniteMDPError."""
    if given is None:
        return np.full(count, 1.0 / count)
    try:
        law = np.array(given, dtype=float)
    except (TypeError, ValueError):
        law = np.empty(0)
    if law.shape != (count,) or not (np.isfinite(law).all() and (law >= 0.0).all() and 0.0 < law.sum() < np.inf):
        raise FiniteMDPError(f"{name}: expected {count} nonnegative numbers, the law of {of}")
    return law / law.sum()
