"""Markov decision processes given as arrays: policy iteration and its soft steps on the weights of a finite set of actions.

Every state has the same actions, as particles that stay; a policy is their weights. Policies are evaluated by the solvers of
chains, and the best of them is bracketed as on a grid (Odoni 1969, MacQueen 1966; see `wassgrid.certificate`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from wassgrid.chain.stationary import ReducibleChainError, StationaryError
from wassgrid.finite_mdp.approach import approached
from wassgrid.finite_mdp.arrays import FiniteMDPError, ProcessArrays
from wassgrid.finite_mdp.evaluation import Evaluation, evaluate
from wassgrid.finite_mdp.solution import FiniteSolution
from wassgrid.method.weights import best_only, cooled
from wassgrid.resources import one_blas_thread

METHODS = ("policy_iteration", "exponential")
_ROUNDING = 64.0  # units of rounding: a change of Q that is none
_SOFT_GAP = 1e-9  # of the size of the cost: where exponential steps end
_KNOWN = 1e-9  # of the size of the cost: a residual of the value with which no action can be called better


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
        self._arrays = ProcessArrays.of(transitions, costs, discount, start)
        self.costs, self.discount, self.start = self._arrays.costs, self._arrays.discount, self._arrays.start
        self.states, self.actions = self.costs.shape

    def chain(self, weights: np.ndarray) -> tuple[sparse.csr_array, np.ndarray]:
        """Return the transition matrix (states, states) and the mean cost (states,) of a policy, weights (states, actions)."""
        return self._arrays.chain(weights), self._arrays.mean(weights, self.costs)

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
        actions (states,) or weights (states, actions); by default policy iteration begins with what inexact evaluations lead
        to, exponential steps with all available actions alike. gap: between the bounds of J, at which to end; by default policy
        iteration goes on until no action is better, exponential steps to 1e-9 of the cost. steps: after which to give up.

        The average cost of a policy may depend on where one starts, where its chain has several recurrent classes: policy
        iteration goes on from there (Puterman 1994, section 9.2). Raises FiniteMDPError for other settings, ReducibleChainError
        where the least average cost itself depends on the start.
        """
        if method not in METHODS:
            raise FiniteMDPError(f"method: expected one of {', '.join(METHODS)}, got {method!r:.40}")
        if step is not None and not (method == "exponential" and np.isfinite(step) and step > 0.0):
            raise FiniteMDPError("step: expected a positive number, the length of exponential steps")
        arrays, length, size = self._arrays, step, self._arrays.size
        value, direct = None, False
        if initial is None and method == "policy_iteration" and steps > 0:
            initial, value, direct = approached(arrays, steps)
        weights = self._initial(initial)
        if gap is None and method == "exponential":
            gap = _SOFT_GAP * size
        lower, objectives = -np.inf, list[float]()
        while True:
            point = evaluate(arrays, weights, arrays.mean(weights, self.costs), value, direct)
            value, direct = point.value, point.resolvent.direct
            objectives.append(point.objective)
            # Q(s, a) = c - gain + g E V
            q = self.costs - point.gain[:, None] + self.discount * arrays.following(value)
            # rounding, as in the residual of an evaluation on a grid
            scale = size + abs(point.objective) + 2.0 * float(np.abs(value).max())
            margin = (2.0 * arrays.nodes + 8.0) * 0.5 * np.finfo(float).eps * scale
            # T V - V bounds the gains from all states (average), what is added to (1 - g) V (discounted)
            offset = point.gain if point.classes else np.full(self.states, point.objective)
            lower = max(lower, float((q.min(axis=1) - value + offset).min()) - margin)
            upper = float((point.residual + offset).max()) + margin
            missed = float(np.abs(point.residual).max())
            level = _ROUNDING * np.finfo(float).eps * scale + 2.0 * missed
            known = missed <= _KNOWN * size + _ROUNDING * np.finfo(float).eps * scale
            if not point.constant and known:
                weights = self._other_gain(weights, point, q, level, method == "exponential" or len(objectives) > steps)
                continue
            least = q.min(axis=1)
            proven = f"optimal to {upper - lower:.2g}, proven"
            if gap is not None and upper - lower <= gap:
                return _solution(weights, point, lower, upper, objectives, True, proven)
            if float((arrays.mean(weights, q) - least).max()) <= level:
                if not known and point.classes:
                    raise StationaryError(f"the chain of a policy mixes too slowly: its value is known to {missed:.2g} only")
                if not known:
                    reason = f"the value is known to {missed:.2g} only: {proven}"
                    return _solution(weights, point, lower, upper, objectives, False, reason)
                reason = f"no action is better: {proven}"
                return _solution(weights, point, lower, upper, objectives, gap is None, reason)
            if len(objectives) > steps:
                return _solution(weights, point, lower, upper, objectives, False, f"{steps} steps were done: {proven}")
            if method == "policy_iteration":
                weights = best_only(weights, q, level)
            else:
                if length is None:
                    spread = float((np.where(np.isfinite(q), q, -np.inf).max(axis=1) - least).mean())
                    length = 0.5 / spread
                length = length if step is not None else min(2.0 * length, 1e300)
                weights = cooled(weights, q, length)

    def _other_gain(
        self, weights: np.ndarray, point: Evaluation, q: np.ndarray, level: float, last: bool
    ) -> np.ndarray:
        """Return better weights than those of a policy whose average cost depends on the start: of lower gain, or lower value.

        Raises ReducibleChainError where there are none, so that the least cost depends on it too, and if this is the `last` step.
        """
        arrays, gain = self._arrays, point.gain
        following = np.where(arrays.available, arrays.following(gain), np.inf)
        least = following.min(axis=1)
        missed = float(np.abs(arrays.mean(weights, following) - gain).max())
        same = _ROUNDING * np.finfo(float).eps * arrays.size + 2.0 * missed
        among = np.where(following <= least[:, None] + same, q, np.inf)
        worse = arrays.mean(weights, following) - least > same
        if not worse.any():
            worse = arrays.mean(weights, among) - among.min(axis=1) > level
        if worse.any() and not last:
            weights = weights.copy()
            weights[worse] = best_only(weights[worse], among[worse], level)
            return weights
        low, high = int(gain.argmin()), int(gain.argmax())
        text = f"cost depends on where one starts: {gain[low]:.6g} from state {low}, {gain[high]:.6g} from state {high}"
        if not worse.any():
            raise ReducibleChainError(f"the least average {text}. Add chances that join them, or give a discount")
        count, one, other = len(point.classes), point.classes[0][0], point.classes[1][0]
        raise ReducibleChainError(
            f"the chain of a policy has {count} recurrent classes, with the states {one} and {other}: its average "
            f"{text}. Take policy iteration, more steps, or a discount"
        )

    def _initial(self, initial: Any) -> np.ndarray:
        available = self._arrays.available
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


def _solution(
    weights: np.ndarray, point: Evaluation, lower: float, upper: float, objectives: list[float], converged: bool, reason: str
) -> FiniteSolution:
    law = point.law()
    value = point.value - law @ point.value if point.classes else point.value
    return FiniteSolution(
        point.objective, lower, upper, value, weights, law, float(np.abs(point.residual).max()), converged, reason,
        np.array(objectives),
    )  # fmt: skip
