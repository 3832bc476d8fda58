"""Markov decision processes given as arrays: policy iteration and its soft steps on the weights of a finite set of actions.

Every state has the same actions, as particles that stay; a policy is their weights. Policies are evaluated by the solvers of
chains, and the best of them is bracketed as on a grid (Odoni 1969, MacQueen 1966; see `wassgrid.certificate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from wassgrid.chain.classes import recurrent_classes
from wassgrid.chain.fundamental import Chain
from wassgrid.chain.stationary import ReducibleChainError, StationaryError, starting_law, stationary_law
from wassgrid.errors import WassgridError
from wassgrid.method.weights import best_only, cooled
from wassgrid.resources import one_blas_thread
from wassgrid.transition.sparse import TransitionOperator

METHODS = ("policy_iteration", "exponential")
_SUM = 1e-8  # that the probabilities of a row may differ from one by
_TOLERANCE = 1e-13  # relative, of the solves with a chain
_ROUNDING = 64.0  # units of rounding: a change of Q that is none
_SOFT_GAP = 1e-9  # of the size of the cost: where exponential steps end


class FiniteMDPError(WassgridError, ValueError):
    """Arrays that are no Markov decision process, or settings that do not go with it; one line with the place."""


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

    @property
    def steps(self) -> int:
        return len(self.objectives) - 1

    @property
    def actions(self) -> np.ndarray:
        """The number of the action of largest weight in every state, (states,)."""
        return self.policy.argmax(axis=1)

    def __repr__(self) -> str:
        return f"<FiniteSolution: J = {self.objective:.10g}, gap {self.upper_bound - self.lower_bound:.2g}, {self.reason}>"


class FiniteMDP:
    """A finite Markov decision process whose average or discounted cost is to be least.

    transitions: P[a, s, s'] as an array (actions, states, states), or one matrix (states, states) for every action, SciPy's
    sparse ones too; rows are probabilities, and are divided by their sum. costs: c[s, a], (states, actions), or (states,) for all
    actions; infinite where an action is not available, whose row then does not matter. discount: per step, between 0 and 1;
    None: average cost. start: law of the first state (states,), by default uniform, for the discounted objective.

    Rewards are costs with the other sign. Raises FiniteMDPError for what is none.

    Howard's taxi earns 13.344537815126 a ride if it waits at the stand in the first town and for the radio in the others:

    >>> import numpy as np, wassgrid as wg
    >>> inf = np.inf
    >>> chances = np.array([
    ...     [[1/2, 1/4, 1/4], [1/2, 0, 1/2], [1/4, 1/4, 1/2]],
    ...     [[1/16, 3/4, 3/16], [1/16, 7/8, 1/16], [1/8, 3/4, 1/8]],
    ...     [[1/4, 1/8, 5/8], [0, 1, 0], [3/4, 1/16, 3/16]],
    ... ])
    >>> fares = np.array([[8, 11/4, 17/4], [16, 15, -inf], [7, 4, 9/2]])
    >>> solution = wg.FiniteMDP(chances, -fares).solve()
    >>> round(-solution.objective, 10), solution.actions, solution.converged
    (13.3445378151, array([1, 1, 1]), True)
    """

    def __init__(
        self, transitions: Any, costs: Any, discount: float | None = None, start: Any = None
    ) -> None:
        blocks = _matrices(transitions)
        self.states, self.actions = blocks[0].shape[0], len(blocks)
        self.costs = _costs(costs, self.states, self.actions)
        self.discount = 1.0 if discount is None else _discount(discount)
        self.start = _law(start, self.states)
        # row s actions + a is the law of the next state after action a in state s
        self._rows = _stacked(blocks, np.isfinite(self.costs))

    @cached_property
    def _next(self) -> TransitionOperator:
        return TransitionOperator.from_matrix(self._rows)

    def chain(self, weights: np.ndarray) -> tuple[sparse.csr_array, np.ndarray]:
        """Return the transition matrix (states, states) and the mean cost (states,) of a policy, weights (states, actions)."""
        cost = np.where(weights > 0.0, weights * np.where(weights > 0.0, self.costs, 0.0), 0.0).sum(axis=1)
        state, action = np.nonzero(weights)
        if state.size == self.states:
            return self._rows[state * self.actions + action], cost
        mixing = sparse.csr_array(
            (weights[state, action], (state, state * self.actions + action)), shape=(self.states, self._rows.shape[0])
        )
        return mixing @ self._rows, cost

    @one_blas_thread()
    def solve(
        self,
        method: str = "policy_iteration",
        gap: float | None = None,
        steps: int = 1000,
        step: float | None = None,
        initial: Any = None,
    ) -> FiniteSolution:
        """Find the policy of least J, with a proven bound.

        method: policy_iteration moves all weight of a state to the actions of least Q (Howard 1960); exponential takes its soft
        step w_i exp(-step Q_i)/Z, of a length that doubles unless `step` gives it. initial: the first policy, as numbers of
        actions (states,) or weights (states, actions), by default all available actions alike. gap: between the bounds of J, at
        which to end; by default policy iteration goes on until no action is better, exponential steps to 1e-9 of the cost.
        steps: after which to give up.

        Raises FiniteMDPError for other settings, ReducibleChainError where the chain of a policy on the way has several recurrent
        classes, so that its average cost depends on the start, StationaryError where its law is not found.
        """
        if method not in METHODS:
            raise FiniteMDPError(f"method: expected one of {', '.join(METHODS)}, got {method!r:.40}")
        if step is not None and not (method == "exponential" and np.isfinite(step) and step > 0.0):
            raise FiniteMDPError("step: expected a positive number, the length of exponential steps")
        weights, length = self._initial(initial), step
        size = float(np.abs(self.costs[np.isfinite(self.costs)]).max())
        if gap is None and method == "exponential":
            gap = _SOFT_GAP * size
        point, lower, objectives = None, -np.inf, []
        while True:
            point = self._evaluated(weights, point)
            objectives.append(point.objective)
            # Q(s, a) = c - J + g E V
            q = self.costs - point.offset + self.discount * self._next.apply(point.value).reshape(self.costs.shape)
            least = q.min(axis=1)
            # rounding, as in the residual of an Evaluation
            nodes = int(np.diff(self._rows.indptr).max())
            scale = size + abs(point.objective) + 2.0 * float(np.abs(point.value).max())
            margin = (2.0 * nodes + 8.0) * 0.5 * np.finfo(float).eps * scale
            lower = max(lower, point.objective + float((least - point.value).min()) - margin)
            upper = point.objective + float(point.residual.max()) + margin
            level = _ROUNDING * np.finfo(float).eps * scale + 2.0 * float(np.abs(point.residual).max())
            mean = np.where(weights > 0.0, weights * np.where(weights > 0.0, q, 0.0), 0.0).sum(axis=1)
            if gap is not None and upper - lower <= gap:
                return self._solution(weights, point, lower, upper, objectives, True, f"optimal to {upper - lower:.2g}, proven")
            if float((mean - least).max()) <= level:
                reason = f"no action is better: optimal to {upper - lower:.2g}, proven"
                return self._solution(weights, point, lower, upper, objectives, gap is None, reason)
            if len(objectives) > steps:
                reason = f"{steps} steps were done: optimal to {upper - lower:.2g}, proven"
                return self._solution(weights, point, lower, upper, objectives, False, reason)
            if method == "policy_iteration":
                weights = best_only(weights, q, level)
            else:
                if length is None:
                    spread = float((np.where(np.isfinite(q), q, -np.inf).max(axis=1) - least).mean())
                    length = 0.5 / spread
                length = length if step is not None else min(2.0 * length, 1e300)
                weights = cooled(weights, q, length)

    def _initial(self, initial: Any) -> np.ndarray:
        available = np.isfinite(self.costs)
        if initial is None:
            weights = available.astype(float)
        else:
            given = np.asarray(initial)
            if given.shape == (self.states,) and given.dtype.kind in "iu":
                if given.min() < 0 or given.max() >= self.actions:
                    raise FiniteMDPError(f"initial: actions have the numbers 0 to {self.actions - 1}")
                given = (np.arange(self.actions) == given[:, None]).astype(float)
            if given.shape != self.costs.shape or given.dtype.kind not in "iuf":
                raise FiniteMDPError(
                    f"initial: expected numbers of actions ({self.states},) or weights ({self.states}, {self.actions}), got an "
                    f"array {given.shape}"
                )
            if not (np.isfinite(given).all() and (given >= 0.0).all() and (given.sum(axis=1) > 0.0).all()):
                raise FiniteMDPError("initial: weights must be nonnegative numbers, in every state one of them positive")
            if (bad := np.argwhere((given > 0.0) & ~available)).size:
                raise FiniteMDPError(f"initial: action {bad[0, 1]} is not available in state {bad[0, 0]}, its cost is infinite")
            weights = given.astype(float)
        return weights / weights.sum(axis=1, keepdims=True)

    def _evaluated(self, weights: np.ndarray, warm: _Point | None) -> _Point:
        matrix, cost = self.chain(weights)
        operator, g = TransitionOperator.from_matrix(matrix), self.discount
        value = None if warm is None else warm.value
        if g < 1.0:
            chain = Chain(operator, self.start, g, "auto", _TOLERANCE)
            value = chain.right(cost, value).values
            residual = cost + g * operator.apply(value) - value
            return _Point(operator, value, residual, (1.0 - g) * float(self.start @ value), 0.0, None)
        law = self._stationary(operator, starting_law(self.states) if warm is None or warm.law is None else warm.law)
        chain = Chain(operator, law.law, 1.0, "auto", _TOLERANCE, law.factors)
        objective = float(law.law @ cost)
        value = chain.right(cost - objective, value).values
        value = value - law.law @ value
        residual = cost - objective + operator.apply(value) - value
        return _Point(operator, value, residual, objective, objective, law.law)

    def _stationary(self, operator: TransitionOperator, law: np.ndarray) -> Any:
        try:
            found = stationary_law(operator, law)
        except (ReducibleChainError, RuntimeError):
            found = None
        classes = recurrent_classes(operator)
        if len(classes) > 1:
            raise ReducibleChainError(
                f"the chain of a policy has {len(classes)} recurrent classes, with the states {classes[0][0]} and "
                f"{classes[1][0]}: its average cost depends on where one starts. Add chances that join them, or give a "
                "discount"
            )
        if found is None or not found.converged:
            raise StationaryError(f"the stationary law was not found: {'no factors' if found is None else found.reason}")
        return found

    def _solution(
        self,
        weights: np.ndarray,
        point: _Point,
        lower: float,
        upper: float,
        objectives: list[float],
        converged: bool,
        reason: str,
    ) -> FiniteSolution:
        law = point.law
        if law is None:
            chain = Chain(point.operator, self.start, self.discount, "auto", _TOLERANCE)
            law = np.maximum(chain.left((1.0 - self.discount) * self.start).values, 0.0)
        return FiniteSolution(
            point.objective, lower, upper, point.value, weights, law, float(np.abs(point.residual).max()), converged, reason,
            np.array(objectives),
        )  # fmt: skip


@dataclass(frozen=True)
class _Point:
    """A policy evaluated: V (states,), the residual of its equation, J, what Q is relative to, and the stationary law."""

    operator: TransitionOperator
    value: np.ndarray
    residual: np.ndarray
    objective: float
    offset: float
    law: np.ndarray | None


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


def _law(start: Any, states: int) -> np.ndarray:
    if start is None:
        return np.full(states, 1.0 / states)
    try:
        law = np.array(start, dtype=float)
    except (TypeError, ValueError):
        law = np.empty(0)
    if law.shape != (states,) or not (np.isfinite(law).all() and (law >= 0.0).all() and law.sum() > 0.0):
        raise FiniteMDPError(f"start: expected {states} nonnegative numbers, the law of the first state")
    return law / law.sum()
