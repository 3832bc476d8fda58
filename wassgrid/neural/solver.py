"""A neural run as a sequence of states: the first state, one step, and the measurement of the finished policy."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from wassgrid.neural import training
from wassgrid.neural.dynamics import Dynamics
from wassgrid.neural.ergodic import ErgodicCost, draw, first_bad, measure, simulate
from wassgrid.neural.policies import PushForwardPolicy
from wassgrid.neural.settings import NeuralSettings
from wassgrid.neural.training import TrainingState
from wassgrid.problem.compilation import compile_functions
from wassgrid.problem.control_problem import ProblemError

if TYPE_CHECKING:
    from wassgrid.case import Case

EVALUATION_STREAM = 2**31 - 1  # the stream of random numbers of the final measurement, apart from every step's
SIGNIFICANCE = 2.0  # standard errors


class ChainsDivergedError(ArithmeticError):
    """States or costs left the finite numbers; the message names the step and the remedy."""


@dataclass(frozen=True)
class NeuralState:
    """A run between two steps: everything that the next step depends on, and the record that the verdict rests on."""

    policy: PushForwardPolicy  # with the input units measured during burn-in
    training: TrainingState
    agreements: np.ndarray  # (steps,), StepOutcome.agreement of every step so far

    @property
    def step(self) -> int:
        return int(self.training.step)

    @property
    def parameters(self) -> np.ndarray:
        """The reported parameters: averaged, if the case asks for it."""
        return np.asarray(self.training.averaged)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the state as named arrays, exact to the bit."""
        arrays = {name: np.asarray(value) for name, value in self.training._asdict().items()}
        units = {"input_offset": np.asarray(self.policy.offset), "input_scale": np.asarray(self.policy.scale)}
        return {**arrays, **units, "agreements": self.agreements}


@dataclass(frozen=True)
class NeuralSolver:
    """The neural solver of one case.  All methods run in the case's precision and leave JAX's global settings alone."""

    settings: NeuralSettings
    dynamics: Dynamics
    blueprint: PushForwardPolicy  # the policy with inputs in the states' own units
    seed: int

    @classmethod
    def of(cls, case: Case) -> NeuralSolver:
        """Build the solver of a case.  Raises ProblemError for what only the neural solver finds wanting."""
        settings = case.neural or NeuralSettings.model_validate({})
        dynamics = Dynamics.of(case.problem)
        with precision(settings):
            blueprint = _blueprint(case, settings)
        return cls(settings, dynamics, blueprint, case.policy.seed)

    def start(self) -> NeuralState:
        """Run the chains under the initial policy until they have forgotten their start, and measure the input
        units."""
        with precision(self.settings):
            policy, state, bad = _begin(self.settings, self.dynamics, self.blueprint, self.seed)
            if (step := int(bad)) >= 0:
                raise ChainsDivergedError(
                    f"the chains left the finite numbers at step {step} of the burn-in, under the initial policy: give "
                    "policy.initial a stabilising mean, or the states domains"
                )
        return NeuralState(policy, state, np.zeros(0))

    def step(self, state: NeuralState) -> tuple[NeuralState, dict[str, float]]:
        """Take one optimisation step; returns the new state and the scalars of the step.

        Raises ChainsDivergedError as soon as a state or cost is not finite; the state given is left as it was.
        """
        with precision(self.settings):
            following, outcome = training.advance(self.settings, self.dynamics, state.policy, state.training)
            scalars = {name: float(value) for name, value in jax.device_get(outcome)._asdict().items()}
        if (bad := int(scalars.pop("bad_step"))) >= 0:
            count = int(scalars.pop("bad_chains"))
            raise ChainsDivergedError(
                f"step {state.step + 1}: {count} of {self.settings.chains} chains left the finite numbers at chain step "
                f"{bad} of {self.settings.horizon + self.settings.tail}: the policy does not stabilise the system; "
                "give the states domains, policy.initial a stabilising mean, or neural.step a smaller number"
            )
        scalars.pop("bad_chains")
        agreements = np.append(state.agreements, scalars["agreement"])
        if not all(math.isfinite(scalars[name]) for name in ("slope", "step_length")):
            raise ChainsDivergedError(
                f"step {state.step + 1}: the gradient is not finite although states and costs are: shorten "
                'neural.horizon or neural.tail, or take neural.precision = "float64"'
            )
        return NeuralState(state.policy, following, agreements), scalars

    def measure(self, state: NeuralState) -> ErgodicCost:
        """Measure the ergodic cost of the reported policy with random numbers that no step has seen.

        Raises ChainsDivergedError where the estimate is not finite.
        """
        evaluation = self.settings.evaluation
        with precision(self.settings):
            key = jax.random.fold_in(jax.random.key(self.seed), EVALUATION_STREAM)
            copies = -(-evaluation.chains // self.settings.chains)
            chains = jnp.tile(state.training.chains, (copies, 1))[: evaluation.chains]
            cost, _ = measure(
                self.dynamics, state.policy, state.training.averaged, chains, key, evaluation.burn_in, evaluation.steps
            )
        if not (math.isfinite(cost.mean) and math.isfinite(cost.standard_error)):
            raise ChainsDivergedError(
                "the chains left the finite numbers in the final measurement: the policy is stable over "
                "neural.horizon, not in the long run; lengthen neural.horizon and neural.tail"
            )
        return cost

    def verdict(self, state: NeuralState) -> tuple[bool, str]:
        """Tell whether the run has become stationary, and why: successive gradients of a stationary run do not agree.

        Source: Pflug (1990), Non-asymptotic confidence bounds for stochastic approximation algorithms with constant
        step size.
        """
        late = state.agreements[len(state.agreements) // 2 :]
        if len(late) < 2:
            return False, f"{state.step} steps taken, too few to tell whether the cost still falls"
        mean, error = float(np.mean(late)), float(np.std(late, ddof=1)) / math.sqrt(len(late))
        found = f"mean cosine of successive gradients {mean:.3f} +- {error:.3f} over the last {len(late)} steps"
        if mean > SIGNIFICANCE * error:
            return False, f"all {state.step} steps taken, the cost still falls ({found}): raise neural.steps"
        return True, f"all {state.step} steps taken, stationary up to sampling error ({found})"

    def restore(self, arrays: Mapping[str, Any]) -> NeuralState:
        """Return the state that `to_arrays` wrote, exactly.

        Raises ValueError where it belongs to another network.
        """
        with precision(self.settings):
            fields = {name: jnp.asarray(np.asarray(arrays[name])) for name in TrainingState._fields}
            policy = self._with_units(np.asarray(arrays["input_offset"]), np.asarray(arrays["input_scale"]))
            state = TrainingState(**fields)
        if state.parameters.shape != (policy.parameter_count,):
            raise ValueError(
                f"the checkpoint has {state.parameters.size} policy parameters, the case's {policy.parameter_count}"
            )
        return NeuralState(policy, state, np.asarray(arrays["agreements"], dtype=float))

    def _with_units(self, offset: np.ndarray, scale: np.ndarray) -> PushForwardPolicy:
        dtype = _dtype(self.settings)
        return replace(self.blueprint, offset=jnp.asarray(offset, dtype), scale=jnp.asarray(scale, dtype))


@eqx.filter_jit
def _begin(
    settings: NeuralSettings, dynamics: Dynamics, blueprint: PushForwardPolicy, seed: int
) -> tuple[PushForwardPolicy, TrainingState, Array]:
    """Return the policy with its input units, the first state, and the first burn-in step that is not finite or -1.

    Units are mean and standard deviation of the states over chains and the second half of the burn-in.
    """
    dtype = blueprint.scale.dtype
    for_states, for_chains, for_training = jax.random.split(jax.random.key(seed), 3)
    states = dynamics.initial_states(for_states, settings.chains, dtype)
    random = draw(dynamics, blueprint.latent_dimension, for_chains, settings.burn_in, settings.chains, dtype)
    zero = jnp.zeros(blueprint.parameter_count, dtype)
    end, costs, visited = simulate(dynamics, blueprint, zero, states, random)
    policy = blueprint
    if settings.input_scale == "stationary":
        late = visited[settings.burn_in // 2 :].reshape(-1, states.shape[1])
        spread = jnp.std(late, axis=0)
        policy = replace(blueprint, offset=jnp.mean(late, axis=0), scale=jnp.where(spread > 0, spread, 1))
    state = training.start(settings, policy, end, for_training)
    return policy, state, first_bad(costs, visited)[0]


@contextlib.contextmanager
def precision(settings: NeuralSettings) -> Iterator[None]:
    """Run a block in the case's precision, whatever the caller's."""
    with jax.enable_x64(settings.precision == "float64"):
        yield


def _dtype(settings: NeuralSettings) -> type:
    return np.float64 if settings.precision == "float64" else np.float32


def _blueprint(case: Case, settings: NeuralSettings) -> PushForwardPolicy:
    problem = case.problem
    periodic = tuple(
        (k, float(low), float(high - low))
        for k, ((low, high), boundary) in enumerate(zip(problem.domain, problem.boundary, strict=True))
        if boundary == "periodic"
    )
    offset, scale = np.zeros(problem.state_dimension), np.ones(problem.state_dimension)
    if settings.input_scale == "domain":
        for k, (low, high) in enumerate(problem.domain):
            if not (math.isfinite(low) and math.isfinite(high)):
                raise ProblemError(
                    f'states.{problem.state_names[k]}.domain: missing, neural.input_scale = "domain" needs two numbers'
                )
            offset[k], scale[k] = (low + high) / 2, (high - low) / 2
    base = None
    if case.policy.initial.mean is not None:
        expressions = problem.feedback_expressions("policy.initial.mean", case.policy.initial.mean)
        if any(expression != 0 for expression in expressions):
            function = compile_functions(problem.model.scalars.states, expressions, "jax")

            def base(states: Array) -> Array:
                return jnp.stack(function(*jnp.moveaxis(states, -1, 0)), axis=-1)

    dtype = _dtype(settings)
    return PushForwardPolicy(
        offset=jnp.asarray(offset, dtype),
        scale=jnp.asarray(scale, dtype),
        low=tuple(float(low) for low in problem.action_bounds[:, 0]),
        high=tuple(float(high) for high in problem.action_bounds[:, 1]),
        periodic=periodic,
        hidden=settings.hidden,
        activation=settings.activation,
        linear_path=settings.linear_path,
        latent_dimension=settings.latent_dimension,
        base=base,
    )
