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
from wassgrid.finite_mdp.reference import ReferenceLaw
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

    entropy: a price eps, in the unit of the costs. Every step then costs eps KL(w | rho) more, w the weights of the actions and
    rho a reference law of them: reference, (actions,) or (states, actions), divided by its sum over the actions that are
    available; by default all of them alike. Actions that it leaves out are not taken.

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
        self,
        transitions: Any,
        costs: Any,
        discount: float | None = None,
        start: Any = None,
        entropy: float | None = None,
        reference: Any = None,
    ) -> None:
        self._arrays = ProcessArrays.of(transitions, costs, discount, start)
        self._reference = ReferenceLaw.of(entropy, reference, self._arrays.available)
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
        to, exponential steps with all available actions alike, both with the reference law where entropy has a price. gap:
        between the bounds of J, at which to end; by default policy iteration goes on until no action is better, exponential
        steps to 1e-9 of the cost. steps: after which to give up.

        Where entropy has a price, policy iteration takes w_a = rho_a exp(-Q_a/eps)/Z, Newton's method for the soft Bellman
        equation V = -eps log sum_a rho_a exp(-Q_a/eps), and exponential steps lead there; the bound is that of this equation.

        The average cost of a policy may depend on where one starts, where its chain has several recurrent classes: policy
        iteration goes on from there (Puterman 1994, section 9.2). Raises FiniteMDPError for other settings, ReducibleChainError
        where the least average cost itself depends on the start.
        """
        if method not in METHODS:
            raise FiniteMDPError(f"method: expected one of {', '.join(METHODS)}, got {method!r:.40}")
        if step is not None and not (method == "exponential" and np.isfinite(step) and step > 0.0):
            raise FiniteMDPError("step: expected a positive number, the length of exponential steps")
        arrays, length, size, reference = self._arrays, step, self._arrays.size, self._reference
        value, direct = None, False
        if initial is None and method == "policy_iteration" and steps > 0 and reference is None:
            initial, value, direct = approached(arrays, steps)
        weights, dearest = self._initial(initial), 0.0 if reference is None else reference.most
        if gap is None and method == "exponential":
            gap = _SOFT_GAP * size
        lower, objectives = -np.inf, list[float]()
        while True:
            price = np.zeros(self.states) if reference is None else reference.cost(weights)
            point = evaluate(arrays, weights, arrays.mean(weights, self.costs) + price, value, direct)
            value, direct = point.value, point.resolvent.direct
            objectives.append(point.objective)
            # Q(s, a) = c - gain + g E V
            q = self.costs - point.gain[:, None] + self.discount * arrays.following(value)
            # rounding, as in the residual of an evaluation on a grid
            scale = size + abs(point.objective) + 2.0 * float(np.abs(value).max()) + dearest
            margin = (2.0 * arrays.nodes + 8.0) * 0.5 * np.finfo(float).eps * scale
            # T V - V bounds the gains from all states (average), what is added to (1 - g) V (discounted)
            offset = point.gain if point.classes else np.full(self.states, point.objective)
            least = q.min(axis=1) if reference is None else reference.least(q)
            lower = max(lower, float((least - value + offset).min()) - margin)
            upper = float((point.residual + offset).max()) + margin
            missed = float(np.abs(point.residual).max())
            level = _ROUNDING * np.finfo(float).eps * scale + 2.0 * missed
            known = missed <= _KNOWN * size + _ROUNDING * np.finfo(float).eps * scale
            if not point.constant and known:
                last = method == "exponential" or reference is not None or len(objectives) > steps
                weights = self._other_gain(weights, point, q, level, last)
                continue
            proven = f"optimal to {upper - lower:.2g}, proven"
            if gap is not None and upper - lower <= gap:
                return _solution(weights, price, point, lower, upper, objectives, True, proven)
            if float((arrays.mean(weights, q) + price - least).max()) <= level:
                if not known and point.classes:
                    raise StationaryError(f"the chain of a policy mixes too slowly: its value is known to {missed:.2g} only")
                if not known:
                    reason = f"the value is known to {missed:.2g} only: {proven}"
                    return _solution(weights, price, point, lower, upper, objectives, False, reason)
                reason = f"no {'action' if reference is None else 'law of the actions'} is better: {proven}"
                return _solution(weights, price, point, lower, upper, objectives, gap is None, reason)
            if len(objectives) > steps:
                return _solution(weights, price, point, lower, upper, objectives, False, f"{steps} steps were done: {proven}")
            if method == "policy_iteration":
                weights = best_only(weights, q, level) if reference is None else reference.relaxed(weights, q, np.inf)
            else:
                if length is None:
                    spread = float((np.where(arrays.available, q, -np.inf).max(axis=1) - q.min(axis=1)).mean())
                    length = 0.5 / (spread + (0.0 if reference is None else reference.strength))
                length = length if step is not None else min(2.0 * length, 1e300)
                weights = cooled(weights, q, length) if reference is None else reference.relaxed(weights, q, length)

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
        if not worse.any() and self._reference is None:
            raise ReducibleChainError(f"the least average {text}. Add chances that join them, or give a discount")
        remedy = "Take policy iteration, more steps, or a discount"
        if self._reference is not None:
            remedy = "Add chances that join them, ask a higher price of entropy, or give a discount"
        count, one, other = len(point.classes), point.classes[0][0], point.classes[1][0]
        raise ReducibleChainError(
            f"the chain of a policy has {count} recurrent classes, with the states {one} and {other}: its average "
            f"{text}. {remedy}"
        )

    def _initial(self, initial: Any) -> np.ndarray:
        available = self._arrays.available
        if self._reference is not None:
            available = self._reference.shares > 0.0
        if initial is None and self._reference is not None:
            weights = self._reference.shares
        elif initial is None:
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
                raise FiniteMDPError(f"initial: action {bad[0, 1]} is not available in state {bad[0, 0]}")
            weights = given.astype(float)
        return weights / weights.sum(axis=1, keepdims=True)


def _solution(
    weights: np.ndarray,
    price: np.ndarray,
    point: Evaluation,
    lower: float,
    upper: float,
    objectives: list[float],
    converged: bool,
    reason: str,
) -> FiniteSolution:
    law = point.law()
    value = point.value - law @ point.value if point.classes else point.value
    return FiniteSolution(
        point.objective, lower, upper, value, weights, law, float(np.abs(point.residual).max()), converged, reason,
        np.array(objectives), float(law @ price),
    )  # fmt: skip
