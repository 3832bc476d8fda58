"""The ergodic cost of a push-forward policy: persistent parallel chains, their costs, and the gradient by reverse mode.

K chains advance T steps from where they last ended; J_KT is the mean cost over chains and steps. The total derivative
of the costs with respect to a small push of one action a_t is an unbiased sample of grad_a Q(s_t, a_t), but for the
costs after the end of the window: they are left out, which biases it by O(r^k) for an action k steps before the end,
r the rate at which the closed loop forgets. The `tail` steps at the end of a window therefore lend their costs and
give no samples.

A value function V says what comes after the window, and, with weights, after every step of it: with the trace l in place of the
total derivative

    dL/ds_t = c_s + F_s' [(1 - l) grad V(s_t+1) + l dL/ds_t+1],    dL/ds_T = grad V(s_T),

of costs under the policy, and likewise for actions: the mean, with weights that fall as l^k, of windows of k steps that end in V.
A short one has little noise, a long one little of V's error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from wassgrid.neural.dynamics import Dynamics
from wassgrid.neural.policies import PushForwardPolicy


class Ending(NamedTuple):
    """What comes after a window: a value function of states (..., d), and the trace l from 0 to 1."""

    value: Callable[[Array], Array]
    trace: float


class Randomness(NamedTuple):
    """Everything random in T steps of K chains: common random numbers, wherever two policies are compared."""

    noise: Array  # (T, K, noise_dimension), standard normal
    latents: Array  # (T, K, l), standard normal
    restarts: Array  # (T, K) bool: the chain starts again from the initial law (discounted criterion); (T, 0) without
    fresh: Array  # (T, K, d) the states it starts from; (T, 0, d) without


class Window(NamedTuple):
    """T + tail steps of K chains; action gradients are of the sum of all the window's costs of that chain."""

    costs: Array  # (T + tail, K)
    states: Array  # (T + tail, K, d)
    action_gradients: Array  # (T, K, m), samples of grad_a Q
    state_gradients: Array  # (T, K, d), samples of grad V at the states; (0, K, d) without a value function
    end: Array  # (K, d), states after T + tail steps


def draw(dynamics: Dynamics, latent_dimension: int, key: Array, steps: int, chains: int, dtype: Any) -> Randomness:
    """Draw the random numbers of `steps` steps of `chains` chains.

    Discounted criterion with discount g: chains restart from the initial law with probability 1 - g per step, so that
    their stationary law is the discounted occupancy and the mean of the cost is (1 - g) times the discounted sum.
    """
    for_noise, for_latents, for_restarts, for_fresh = jax.random.split(key, 4)
    restarts, fresh = jnp.zeros((steps, 0), bool), jnp.zeros((steps, 0, dynamics.state_dimension), dtype)
    if dynamics.discount is not None:
        restarts = jax.random.bernoulli(for_restarts, 1 - dynamics.discount, (steps, chains))
        fresh = dynamics.initial_states(for_fresh, steps * chains, dtype).reshape(steps, chains, -1)
    return Randomness(
        jax.random.normal(for_noise, (steps, chains, dynamics.noise_dimension), dtype),
        jax.random.normal(for_latents, (steps, chains, latent_dimension), dtype),
        restarts,
        fresh,
    )


def simulate(
    dynamics: Dynamics,
    policy: PushForwardPolicy,
    parameters: Array,
    states: Array,
    randomness: Randomness,
    perturbations: Array | None = None,
    change: tuple[int, Array] | None = None,
    shifts: Array | None = None,
    ending: Ending | None = None,
) -> tuple[Array, Array, Array]:
    """Run the closed loop from states (K, d): return end states (K, d), costs (T, K) and the states acted in (T, K, d).

    `perturbations` (T, K, m) are added to the actions, `shifts` (T, K, d) to the states; from the step of `change` on, its
    parameters act. `ending` changes derivatives alone: those of the costs are as said above, but for the last states'. Under
    reverse mode a step stores its state alone and recomputes the rest (jax.checkpoint): memory is that of the arrays here,
    T K (2 d + m + noise + latents) numbers, plus one step's network activations, whatever the network and the horizon.
    """

    @jax.checkpoint
    def advance(state: Array, inputs: tuple[Array, Randomness, Array | None, Array | None]) -> tuple[Array, tuple[Array, Array]]:
        step, random, perturbation, shift = inputs
        promised = None
        if ending is not None:
            # nothing is added to states and costs; (1 - l) grad V and l of what follows are what the derivative sees
            seen, fixed = ending.value(state), jax.lax.stop_gradient(state)
            promised = (1.0 - ending.trace) * (seen - jax.lax.stop_gradient(seen))
            state = fixed + ending.trace * (state - fixed)
        if shift is not None:
            state = state + shift
        theta = parameters if change is None else jnp.where(step < change[0], parameters, change[1])
        action = policy(theta, state, random.latents)
        if perturbation is not None:
            action = action + perturbation
        cost = dynamics.stage_cost(state, action)
        if promised is not None:
            cost = cost + promised
        following = dynamics.next_state(state, action, random.noise)
        if dynamics.discount is not None:
            following = jnp.where(random.restarts[:, None], random.fresh, following)
        return following, (cost, state)

    steps = jnp.arange(randomness.noise.shape[0])
    end, (costs, visited) = jax.lax.scan(advance, states, (steps, randomness, perturbations, shifts))
    return end, costs, visited


def window(
    dynamics: Dynamics,
    policy: PushForwardPolicy,
    parameters: Array,
    states: Array,
    randomness: Randomness,
    horizon: int,
    ending: Ending | None = None,
) -> Window:
    """Run one window from states (K, d) and differentiate its costs, and what its ending says of those after it, with respect to
    the actions of its first T steps, and, with an ending, to the states acted in."""

    def total_cost(perturbations: Array, shifts: Array | None) -> tuple[Array, tuple[Array, Array, Array]]:
        end, costs, visited = simulate(
            dynamics, policy, parameters, states, randomness, perturbations, shifts=shifts, ending=ending
        )
        later = 0.0 if ending is None else jnp.sum(ending.value(end))
        return jnp.sum(costs) + later, (costs, visited, end)

    steps = randomness.noise.shape[0]
    zero = jnp.zeros((steps, states.shape[0], policy.action_dimension), states.dtype)
    if ending is None:
        gradients, (costs, visited, end) = jax.grad(total_cost, has_aux=True)(zero, None)
        return Window(costs, visited, gradients[:horizon], jnp.zeros((0, *states.shape), states.dtype), end)
    still = jnp.zeros((steps, *states.shape), states.dtype)
    (gradients, slopes), (costs, visited, end) = jax.grad(total_cost, (0, 1), has_aux=True)(zero, still)
    return Window(costs, visited, gradients[:horizon], slopes[:horizon], end)


def first_bad(costs: Array, states: Array) -> tuple[Array, Array]:
    """Return the first step at which a cost (T, K) or state (T, K, d) is not finite, -1 if none, and how many chains."""
    bad = ~(jnp.isfinite(costs) & jnp.all(jnp.isfinite(states), axis=-1))
    steps = jnp.any(bad, axis=1)
    return jnp.where(jnp.any(steps), jnp.argmax(steps), -1), jnp.sum(jnp.any(bad, axis=0))


BURN_IN, BATCH = 10.0, 20.0  # correlation times that are left out, and that a batch is long
_CHAPTERS = 32  # stretches of `steps` steps at most, all but the last of them burn-in


class ErgodicCost(NamedTuple):
    """A long-run average cost estimated by simulation, with what its error bar rests on."""

    mean: float
    standard_error: float
    effective_sample_size: float  # independent draws of the cost that would give the same standard error
    samples: int
    correlation_time: float = math.nan  # integrated autocorrelation time of the cost, in steps
    burn_in: int = 0  # steps left out before


def measure(
    dynamics: Dynamics,
    policy: PushForwardPolicy,
    parameters: Array,
    states: Array,
    key: Array,
    burn_in: int,
    steps: int,
) -> tuple[ErgodicCost, Array]:
    """Estimate the ergodic cost over `steps` steps of the independent chains states (K, d); return it and the end states.

    At least `burn_in` steps are left out before, and more, `steps` at a time, until they are BURN_IN correlation times of the
    cost as measured and the chains' costs no longer drift. The standard error is that of batch means, `summarise`. A blow-up
    shows as a mean that is not finite.
    """
    length = max(1, math.isqrt(steps))
    batches, burns = steps // length, -(-burn_in // length)
    before: np.ndarray | None = None
    burnt = 0
    for chapter in range(_CHAPTERS):
        here = jax.random.fold_in(key, chapter)
        states, means, squares = _batch_means(dynamics, policy, parameters, states, here, length, burns, batches)
        burnt += burns * length
        cost = summarise(np.asarray(means, float), np.asarray(squares, float), length)
        now = np.asarray(means, float).mean(axis=0)
        if not math.isfinite(cost.standard_error):
            break
        if burnt >= BURN_IN * cost.correlation_time and (before is None or not _drifts(now - before)):
            break
        # what was measured is burn-in of what follows
        before, burns, burnt = now, 0, burnt + batches * length
    return cost._replace(burn_in=burnt), states


def _drifts(changes: np.ndarray) -> bool:
    """Whether changes of the chains' mean costs (K,) from one stretch to the next are more than three standard errors."""
    return bool(abs(changes.mean()) > 3.0 * changes.std(ddof=1) / math.sqrt(changes.size))


def difference(
    dynamics: Dynamics,
    first: tuple[PushForwardPolicy, Array],
    second: tuple[PushForwardPolicy, Array],
    states: Array,
    key: Array,
    burn_in: int,
    steps: int,
) -> ErgodicCost:
    """Estimate the ergodic cost of the first policy minus that of the second, each given with its parameters.

    Both are run from the same states with the same noise (common random numbers): what the two trajectories share cancels, and
    the standard error is that of the difference.  Arguments otherwise as in `measure`.
    """
    length = max(1, math.isqrt(steps))
    runs = [
        _batch_means(dynamics, policy, parameters, states, key, length, -(-burn_in // length), steps // length)
        for policy, parameters in (first, second)
    ]
    means = np.asarray(runs[0][1], float) - np.asarray(runs[1][1], float)
    return summarise(means, means**2, length)


def summarise(means: np.ndarray, squares: np.ndarray, length: int) -> ErgodicCost:
    """Return the estimate from means of the cost and of its square over batches of `length` steps, both (batches, K).

    Batches of a chain are joined until they are BATCH correlation times long, or the whole chain: chains are independent, so that
    the spread of their means is honest however slowly they forget. With batches of L steps

        t = L Var(batch mean)/(2 Var c),    effective sample size n Var(c)/(L Var(batch mean)).

    Source: batch means (Law and Kelton; Flegal and Jones 2010); t: Sokal (1997), Monte Carlo methods in statistical mechanics.
    """
    samples = means.size * length
    mean = float(np.mean(means))
    variance = float(np.mean(squares)) - mean**2
    if not math.isfinite(variance):
        return ErgodicCost(mean, math.nan, math.nan, samples)
    while True:
        batch_variance = float(np.var(means, ddof=1))
        time = length * batch_variance / (2.0 * variance) if variance > 0 else 0.0
        if length >= BATCH * time or len(means) < 2:
            break
        # an odd one at the end is left out of the spread
        pairs = means[: 2 * (len(means) // 2)]
        means, length = 0.5 * (pairs[0::2] + pairs[1::2]), 2 * length
    standard_error = math.sqrt(batch_variance / means.size)
    effective = min(samples, samples * variance / (length * batch_variance)) if batch_variance > 0 else float(samples)
    return ErgodicCost(mean, standard_error, effective, samples, time)


@eqx.filter_jit
def _batch_means(
    dynamics: Dynamics,
    policy: PushForwardPolicy,
    parameters: Array,
    states: Array,
    key: Array,
    length: int,
    burns: int,
    batches: int,
) -> tuple[Array, Array, Array]:
    def batch(states: Array, index: Array) -> tuple[Array, tuple[Array, Array]]:
        chains, dtype = states.shape[0], states.dtype
        random = draw(dynamics, policy.latent_dimension, jax.random.fold_in(key, index), length, chains, dtype)
        end, costs, _ = simulate(dynamics, policy, parameters, states, random)
        return end, (jnp.mean(costs, axis=0), jnp.mean(costs**2, axis=0))

    end, (means, squares) = jax.lax.scan(batch, states, jnp.arange(burns + batches))
    return end, means[burns:], squares[burns:]
