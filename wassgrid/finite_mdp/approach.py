"""Policy iteration with inexact evaluations: the way to a policy that is nearly the best, for little."""

from __future__ import annotations

import numpy as np

from wassgrid.chain.resolvent import Resolvent
from wassgrid.finite_mdp.arrays import ProcessArrays
from wassgrid.finite_mdp.evaluation import FEW
from wassgrid.transition.sparse import TransitionOperator

_SHARE = 0.01  # of the error that an evaluation leaves
_MOST = 200  # policies
_FIRST_RATE, _LAST_RATE = 0.1, 1e-9  # one minus the discounts with which the average cost is approached
_FALL = 0.01  # of this rate from policy to policy, at most
_CLOSE = 1e-10  # of the largest cost: bounds of J that are close enough


def approached(arrays: ProcessArrays, steps: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the actions (states,) and the value (states,) that policy iteration with inexact evaluations comes to.

    A policy greedy for V is evaluated from V on, until what is left of T V - V is small against what it was (modified policy
    iteration, Puterman and Shin 1978, with Krylov iterations in the place of value iteration). The average cost is taken as the
    limit of discounted ones, for which every chain is regular whatever its classes. Nothing is proven here. The last answer says
    whether chains had to be factorised, because iterations were too slow.
    """
    states, average = arrays.states, arrays.discount == 1.0
    value, actions, direct = np.zeros(states), None, states <= FEW
    rate = _FIRST_RATE if average else 1.0 - arrays.discount
    while True:
        q = arrays.costs + (1.0 - rate) * arrays.following(value)
        chosen = q.argmin(axis=1)
        least = q[np.arange(states), chosen]
        span = float(np.ptp(value))
        level = 16.0 * np.finfo(float).eps * (arrays.size + 2.0 * float(np.abs(value).max()))
        if actions is not None:
            chosen = np.where(q[np.arange(states), actions] <= least + level, actions, chosen)
        left = least - value
        low, high = float(left.min()), float(left.max())
        last = not average or rate <= _LAST_RATE
        settled = actions is not None and bool((chosen == actions).all())
        actions = chosen
        if (last and (settled or high - low <= max(_CLOSE * arrays.size, level))) or steps <= 0:
            return actions, value, direct
        steps = min(steps, _MOST) - 1
        if average and span > 0.0:
            # to where what V misses is what the rate makes of V
            rate = max(min(rate, (high - low) / span), _FALL * rate, _LAST_RATE)
        operator = TransitionOperator.from_matrix(arrays.rows[np.arange(states) * q.shape[1] + actions])
        # what is left of c + g P V - V, but for a constant
        left = arrays.costs[np.arange(states), actions] + (1.0 - rate) * operator.apply(value) - value
        middle = 0.5 * (float(left.min()) + float(left.max()))
        # V counts up to a constant where the cost is an average: iterations need not find it
        label, law = (np.zeros(states, np.int64), np.full(states, 1.0 / states)) if average and not direct else (None, None)
        solved = Resolvent(operator, 1.0 - rate, label, law, direct).right(left - middle, None, _SHARE)
        direct = solved.direct
        value = value + solved.values
        # (I - g P) 1 = 1 - g
        value = value - value.mean() if average else value + middle / rate
