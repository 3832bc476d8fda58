"""One optimisation step of a neural policy: window of the chains, direction, step length, acceptance.

A step is a pure function of TrainingState, compiled once. Along the direction w the truncated cost of the window is
modelled as

    J(theta - eta w) = J(theta) - eta slope + eta^2 curvature |J w|^2 / 2,    slope = <grad_a Q, J w>,

with |J w|^2 the squared Wasserstein length of w and `curvature` carried from step to step. eta is the model's
minimiser. The same window is then run again, from the same states with the same random numbers, under the new
parameters (the tail stays under the old ones, as in the gradient): the decrease found corrects the curvature, its
ratio to the predicted one adapts the damping (Levenberg and Marquardt; the factors are those of Martens 2010, Deep
learning via Hessian-free optimization), and a step that raises the cost is not taken.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array

from wassgrid.case.neural_tables import NeuralSettings
from wassgrid.neural.dynamics import Dynamics
from wassgrid.neural.ergodic import Ending, Randomness, Window, draw, first_bad, simulate, window
from wassgrid.neural.metric import Tangent, conjugate_gradients, kernel_form, nystrom, parameter_gradient, tangent
from wassgrid.neural.policies import PushForwardPolicy, sharpened
from wassgrid.neural.values import WINDOWS, ValueFunction

FIRST_DECREASE = 0.01  # of the mean absolute cost: what the linear model promises of a step while no curvature is known
CURVATURE_CHANGE = (0.5, 4.0)  # one measurement changes the curvature by a factor between these
CURVATURE_MEMORY = 0.3  # exponent of an accepted step's measurement in the running geometric mean
DAMPING_FACTOR = 0.95**5
DECAY_START = 10  # steps before the decay of the step length is felt
CG_TOLERANCE = 1e-4  # relative residual; far below the sampling error of the metric
ADAM_RATE = 1e-3


class TrainingState(NamedTuple):
    """Everything a run needs to go on, bit for bit: arrays only."""

    step: Array  # of the optimisation; below 0 while a value function is fitted to the first policy
    flow_time: Array
    parameters: Array  # theta (parameter_count,)
    averaged: Array  # (parameter_count,) polynomial-decay average of theta: the reported policy
    chains: Array  # (K, d)
    key: Array  # PRNG key data; the numbers of step k are drawn from fold_in(key, k)
    curvature: Array  # along recent steps, per squared action; 0 while unknown
    damping: Array
    direction: Array  # (parameter_count,) last direction w
    first_moment: Array  # Adam's, (parameter_count,); (0,) for other methods
    second_moment: Array
    value_parameters: Array  # phi of the value function, (0,) without one
    value_unit: Array  # (), its unit


class StepOutcome(NamedTuple):
    """What one step found; averages over chains and steps of its window."""

    objective: Array  # mean cost of the window under the parameters the step started from
    standard_error: Array  # from the spread of the chains' means
    gradient_norm: Array  # |grad J| in the metric: of the projection of grad_a Q on the policy's tangent space
    slope: Array  # fall of the cost per flow time along the direction, to first order
    agreement: Array  # cosine, in the metric, of this step's sampled gradient and the last direction
    step_size: Array  # eta, the flow time of the step; 0 where it was not taken
    step_length: Array  # root-mean-square change of the actions
    predicted: Array  # decrease by the model
    actual: Array  # decrease on common random numbers; nan where it was not measured
    curvature: Array
    damping: Array
    accepted: Array
    iterations: Array  # of the metric solver
    residual: Array
    bad_step: Array  # first step of the window with a cost or state that is not finite, -1 if none
    bad_chains: Array  # how many chains had one
    value_error: Array  # what the slopes of V missed of their samples, noise included, relative to these; 0 without V


def value_of(settings: NeuralSettings, policy: PushForwardPolicy, unit: Array) -> ValueFunction | None:
    """Return the value function of a run, None where it has none."""
    if settings.value == "none":
        return None
    return ValueFunction(policy, unit, settings.hidden if settings.value == "network" else ())


def start(settings: NeuralSettings, policy: PushForwardPolicy, chains: Array, key: Array, unit: Array) -> TrainingState:
    """Return the state before the first step, for chains (K, d) that have reached the initial policy's stationary law.

    unit (): a size of the cost.
    """
    dtype = chains.dtype
    parameters = policy.initial_parameters(jax.random.fold_in(key, 0))
    moments = policy.parameter_count if settings.method == "adam" else 0
    zero, value = jnp.zeros((), dtype), value_of(settings, policy, unit)
    none = jnp.zeros(0, dtype)
    return TrainingState(
        step=jnp.asarray(0 if value is None else -WINDOWS, jnp.int32),
        flow_time=zero,
        parameters=parameters,
        averaged=parameters,
        chains=chains,
        key=jax.random.key_data(jax.random.fold_in(key, 1)),
        curvature=zero,
        damping=jnp.asarray(settings.damping, dtype),
        direction=jnp.zeros_like(parameters),
        first_moment=jnp.zeros(moments, dtype),
        second_moment=jnp.zeros(moments, dtype),
        value_parameters=none if value is None else value.initial_parameters(jax.random.fold_in(key, 2)),
        value_unit=unit,
    )


@eqx.filter_jit
def advance(
    settings: NeuralSettings, dynamics: Dynamics, policy: PushForwardPolicy, state: TrainingState
) -> tuple[TrainingState, StepOutcome]:
    """Take one optimisation step; before step 0 the value function alone learns."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    for_window, for_samples, for_sketch = jax.random.split(key, 3)
    count, dtype = state.chains.shape[0], state.chains.dtype
    moving, step = state.step >= 0, jnp.maximum(state.step, 0)
    policy = sharpened(policy, step, settings.steps)
    steps = settings.horizon + settings.tail
    random = draw(dynamics, policy.latent_dimension, for_window, steps, count, dtype)
    value = value_of(settings, policy, state.value_unit)
    ending = None if value is None else Ending(partial(value, state.value_parameters), settings.trace)
    run = window(dynamics, policy, state.parameters, state.chains, random, settings.horizon, ending)

    samples = settings.horizon * count
    visited = run.states[: settings.horizon].reshape(samples, -1)
    value_parameters, value_error = state.value_parameters, jnp.zeros((), dtype)
    if value is not None:
        slopes, fits = run.state_gradients.reshape(samples, -1), state.step + WINDOWS
        value_parameters, value_error = value.fitted(
            state.value_parameters, visited, slopes, fits, settings.cg_iterations
        )
    latents = random.latents[: settings.horizon].reshape(samples, -1)
    gradients = run.action_gradients.reshape(samples, -1)
    everywhere = tangent(lambda theta: policy(theta, visited, latents), state.parameters)
    sampled, sampled_gradients = everywhere, gradients
    first_order = parameter_gradient(everywhere, gradients)
    if settings.in_metric < samples:
        chosen = jax.random.choice(for_samples, samples, (settings.in_metric,), replace=False)
        sampled = tangent(lambda theta: policy(theta, visited[chosen], latents[chosen]), state.parameters)
        sampled_gradients = gradients[chosen]

    first_moment, second_moment = state.first_moment, state.second_moment
    iterations, residual = jnp.zeros((), jnp.int32), jnp.zeros((), dtype)
    if settings.method == "natural":
        direction, iterations, residual = natural_direction(
            settings, sampled, sampled_gradients, first_order, state.damping, for_sketch
        )
    else:
        direction = first_order
        if settings.method == "adam":
            moments = optax.ScaleByAdamState(step, first_moment, second_moment)
            direction, moments = optax.scale_by_adam().update(direction, moments)
            first_moment, second_moment = moments.mu, moments.nu

    change = everywhere.push(direction)
    slope = jnp.sum(gradients * change) / samples
    length_squared = jnp.sum(change**2) / samples
    if settings.step != "adaptive":
        step_size = jnp.asarray(settings.step, dtype)
    elif settings.method == "adam":
        step_size = jnp.asarray(ADAM_RATE, dtype)
    else:
        first = FIRST_DECREASE * jnp.mean(jnp.abs(run.costs)) / slope
        decay = (1 + step / DECAY_START) ** -settings.step_decay
        step_size = jnp.where(state.curvature > 0, decay * slope / (state.curvature * length_squared), first)
    trial = state.parameters - step_size * direction
    predicted = step_size * slope - step_size**2 * state.curvature * length_squared / 2

    curvature, damping = state.curvature, state.damping
    actual, accepted = jnp.asarray(jnp.nan, dtype), jnp.asarray(True)
    if settings.method != "adam":
        actual = _decrease(dynamics, policy, state, trial, random, run, settings.horizon, ending)
        rounding = 10 * jnp.finfo(dtype).eps * jnp.mean(jnp.abs(run.costs))
        accepted = actual > -rounding
        # actual = eta slope - eta^2 curvature |J w|^2 / 2
        measured = 2 * (step_size * slope - actual) / (step_size**2 * length_squared)
        telling = predicted > rounding
        curvature = jnp.where(telling | ~accepted, _corrected(curvature, measured, accepted), curvature)
        ratio = jnp.where(accepted, actual / predicted, 0)
        factor = jnp.where(ratio > 0.75, DAMPING_FACTOR, jnp.where(ratio < 0.25, 1 / DAMPING_FACTOR, 1))
        known = state.curvature > 0
        damping = jnp.clip(jnp.where(known & telling, damping * factor, damping), *settings.damping_range)
        # a fixed step is the user's: it is only refused where the cost is not finite
        accepted = accepted if settings.step == "adaptive" else jnp.isfinite(actual)

    if value is not None:
        accepted = accepted & moving
        # what the step would have taught of steps that are not taken
        curvature, damping = jnp.where(moving, curvature, state.curvature), jnp.where(moving, damping, state.damping)
        first_moment = jnp.where(moving, first_moment, state.first_moment)
        second_moment = jnp.where(moving, second_moment, state.second_moment)
    parameters = jnp.where(accepted, trial, state.parameters)
    averaged = parameters
    if not isinstance(settings.averaging, str):
        # averaged_k = (1 - w_k) averaged_{k-1} + w_k theta_k,  w_k = (p + 1)/(k + p)   (Shamir and Zhang 2013)
        weight = (settings.averaging + 1) / (step + 1 + settings.averaging)
        averaged = state.averaged + weight.astype(dtype) * (parameters - state.averaged)
        averaged = jnp.where(moving, averaged, state.averaged)
    # <grad_a Q, J w> / |J w|: the norm itself when J w is the projection of grad_a Q
    gradient_norm = jnp.abs(slope) / jnp.sqrt(length_squared)
    taken = jnp.where(accepted, step_size, 0)

    old_change = everywhere.push(state.direction)
    old_length = jnp.sqrt(jnp.sum(old_change**2) / samples * length_squared)
    agreement = jnp.where(old_length > 0, jnp.sum(gradients * old_change) / samples / old_length, 0)
    bad_step, bad_chains = first_bad(run.costs, run.states)
    outcome = StepOutcome(
        objective=jnp.mean(run.costs),
        standard_error=jnp.std(jnp.mean(run.costs, axis=0), ddof=1) / math.sqrt(count),
        gradient_norm=gradient_norm,
        slope=slope,
        agreement=agreement,
        step_size=taken,
        step_length=taken * jnp.sqrt(length_squared),
        predicted=predicted,
        actual=actual,
        curvature=curvature,
        damping=state.damping,
        accepted=accepted,
        iterations=iterations,
        residual=residual,
        bad_step=bad_step,
        bad_chains=bad_chains,
        value_error=value_error,
    )
    following = TrainingState(
        step=state.step + 1,
        flow_time=state.flow_time + taken,
        parameters=parameters,
        averaged=averaged,
        chains=run.end,
        key=state.key,
        curvature=curvature,
        damping=damping,
        direction=direction,
        first_moment=first_moment,
        second_moment=second_moment,
        value_parameters=value_parameters,
        value_unit=state.value_unit,
    )
    return following, outcome


def natural_direction(
    settings: NeuralSettings, at: Tangent, gradients: Array, right: Array, damping: Array, key: Array
) -> tuple[Array, Array, Array]:
    """Return w = (G + damping)^{-1} J'g/n by the settings' metric solver, its iterations and relative residual.

    at, gradients: of the samples of the metric; right (parameters,): J'g/n of all samples, which the kernel form cannot use.
    """
    if settings.metric_solver == "cg":
        return conjugate_gradients(at, right, damping, settings.cg_iterations, CG_TOLERANCE)
    if settings.metric_solver == "kernel":
        return kernel_form(at, gradients, damping)
    return nystrom(at, right, damping, settings.rank, key)


def _decrease(
    dynamics: Dynamics,
    policy: PushForwardPolicy,
    state: TrainingState,
    trial: Array,
    random: Randomness,
    run: Window,
    horizon: int,
    ending: Ending | None,
) -> Array:
    """Return the fall of the window's cost per step, and of what its ending says of those after it, on its own states and random
    numbers, when trial replaces theta."""
    end, costs, _ = simulate(dynamics, policy, trial, state.chains, random, change=(horizon, state.parameters))
    later = 0.0 if ending is None else jnp.sum(ending.value(run.end) - ending.value(end))
    return (jnp.sum(run.costs - costs) + later) / (horizon * run.costs.shape[1])


def _corrected(curvature: Array, measured: Array, accepted: Array) -> Array:
    """Return the curvature after a measurement: a geometric mean if the step was taken, at least doubled if not."""
    low, high = CURVATURE_CHANGE
    factor = jnp.clip(jnp.nan_to_num(measured / curvature, nan=high, posinf=high, neginf=low), low, high)
    known = curvature * jnp.where(accepted, factor**CURVATURE_MEMORY, jnp.maximum(factor, 2))
    unknown = jnp.where(jnp.isfinite(measured) & (measured > 0), measured, 0)
    return jnp.where(curvature > 0, known, unknown)
