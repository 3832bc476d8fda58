"""A neural run as a sequence of states: the first state, one step, and the measurement of the finished policy."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from wassgrid.case.neural_tables import NeuralSettings
from wassgrid.errors import WassgridError
from wassgrid.neural import training
from wassgrid.neural.computed_policy import NeuralPolicy, as_stored, blueprint_of, precision, with_units
from wassgrid.neural.dynamics import Dynamics
from wassgrid.neural.ergodic import ErgodicCost, draw, first_bad, measure, simulate
from wassgrid.neural.policies import PushForwardPolicy, sharpened
from wassgrid.neural.training import TrainingState
from wassgrid.runs.loop import CONVERGED, STOPPED, StepRecord, Verdict

if TYPE_CHECKING:
    from wassgrid.case import Case
    from wassgrid.storage import ResultFile

EVALUATION_STREAM = 2**31 - 1  # the stream of random numbers of the final measurement, apart from every step's
SIGNIFICANCE = 2.0  # standard errors


class ChainsDivergedError(WassgridError, ArithmeticError):
    """States or costs left the finite numbers; the message names the chain step and the remedy."""


@dataclass(frozen=True)
class NeuralState:
    """A run between two steps: everything that the next step depends on, and what is known of the last one.

    facts: scalars of the last step; agreements (steps,): StepOutcome.agreement of every step so far; measured: the
    long simulation of the finished policy, None before the last step; elapsed: wall time in seconds, carried over a resume.
    """

    policy: PushForwardPolicy  # with the input units measured during burn-in
    training: TrainingState
    facts: Mapping[str, float]
    agreements: np.ndarray
    elapsed: float
    measured: ErgodicCost | None = None

    @property
    def step(self) -> int:
        return int(self.training.step)


@dataclass(frozen=True)
class NeuralSolution:
    """The outcome of a neural run.

    objective J with its standard_error, from the long simulation of the finished policy (a run that was interrupted: from
    its last step); lower_bound is nan, a simulation proves none; policy; converged; status, reason and complete as in
    `wassgrid.runs.loop.Verdict`; record: the numbers of the last step; summary: what the result file keeps beside them.
    """

    objective: float
    standard_error: float
    lower_bound: float
    policy: NeuralPolicy
    converged: bool
    status: str
    reason: str
    complete: bool
    record: Mapping[str, float]
    summary: Mapping[str, Any]


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
        return cls(settings, dynamics, blueprint_of(case, settings), case.policy.seed)

    def start(self) -> NeuralState:
        """Run the chains under the initial policy until they have forgotten their start, and measure the input units.

        Raises ChainsDivergedError where they leave the finite numbers.
        """
        began = time.perf_counter()
        with precision(self.settings):
            policy, training_state, cost, bad = _begin(self.settings, self.dynamics, self.blueprint, self.seed)
            if (step := int(bad)) >= 0:
                raise ChainsDivergedError(
                    f"the chains left the finite numbers at step {step} of the burn-in, under the initial policy: give "
                    "policy.initial a stabilising mean, or the states domains"
                )
            facts = {"objective": float(cost), "step_length": 0.0}
            while int(training_state.step) < 0:
                training_state, _ = self._advanced(policy, training_state)
        state = NeuralState(policy, training_state, facts, np.zeros(0), time.perf_counter() - began)
        return self._measured(state)

    def advance(self, state: NeuralState) -> NeuralState:
        """Return the state one optimisation step later; after the last step the policy is measured.

        Raises ChainsDivergedError as soon as a state or cost is not finite; the state given is left as it was.
        """
        began = time.perf_counter()
        with precision(self.settings):
            following, facts = self._advanced(state.policy, state.training)
        agreements = np.append(state.agreements, facts["agreement"])
        elapsed = state.elapsed + time.perf_counter() - began
        return self._measured(NeuralState(state.policy, following, facts, agreements, elapsed))

    def _advanced(self, policy: PushForwardPolicy, state: TrainingState) -> tuple[TrainingState, dict[str, float]]:
        """Return the state one step later, and the facts of the step.  Raises ChainsDivergedError."""
        following, outcome = training.advance(self.settings, self.dynamics, policy, state)
        facts = {name: float(value) for name, value in jax.device_get(outcome)._asdict().items()}
        if self.settings.value == "none":
            del facts["value_error"]
        bad, count = int(facts.pop("bad_step")), int(facts.pop("bad_chains"))
        if bad >= 0:
            raise ChainsDivergedError(
                f"{count} of {self.settings.chains} chains left the finite numbers at chain step {bad} of "
                f"{self.settings.horizon + self.settings.tail}: the policy does not stabilise the system; "
                "give the states domains, policy.initial a stabilising mean, or neural.step a smaller number"
            )
        if not all(math.isfinite(facts[name]) for name in ("slope", "step_length")):
            raise ChainsDivergedError(
                "the gradient is not finite although states and costs are: shorten neural.horizon or neural.tail, or take "
                'neural.precision = "float64"'
            )
        return following, facts

    def record(self, state: NeuralState) -> StepRecord:
        """Describe a state: the objective is that of the policy the last step started from, over the step's own window."""
        scalars = {
            "step": float(state.step),
            "flow_time": float(state.training.flow_time),
            "wall_time": state.elapsed,
            **state.facts,
        }
        return StepRecord(
            scalars, lambda: {"parameters": np.asarray(state.training.averaged)}, lambda: self.checkpoint(state)
        )

    def checkpoint(self, state: NeuralState) -> dict[str, Any]:
        """Return all that `restore` needs, exact to the bit: parameters, optimiser, chains, random key, input units."""
        arrays = {name: np.asarray(value) for name, value in state.training._asdict().items()}
        return {
            **arrays,
            "step": state.step,
            "input_offset": np.asarray(state.policy.offset),
            "input_scale": np.asarray(state.policy.scale),
            "agreements": state.agreements,
            "facts": dict(state.facts),
            "elapsed": state.elapsed,
            **({} if state.policy.sharpness is None else {"sharpness": np.asarray(self._sharpened(state).sharpness)}),
        }

    def restore(self, checkpoint: Mapping[str, Any]) -> NeuralState:
        """Return the state of a checkpoint; going on from it gives the same numbers, bit for bit."""
        with precision(self.settings):
            # runs of earlier versions had no value function
            known = {"value_parameters": np.zeros(0), "value_unit": np.ones(()), **checkpoint}
            dtype = self.blueprint.scale.dtype
            fields = {name: jnp.asarray(np.asarray(known[name])) for name in TrainingState._fields}
            fields |= {name: fields[name].astype(dtype) for name in ("value_parameters", "value_unit")}
            fields["step"] = fields["step"].astype(jnp.int32)
            policy = with_units(as_stored(self.blueprint, checkpoint), checkpoint["input_offset"], checkpoint["input_scale"])
        agreements = np.asarray(checkpoint["agreements"], dtype=float)
        state = NeuralState(
            policy, TrainingState(**fields), checkpoint["facts"], agreements, float(checkpoint["elapsed"])
        )
        return self._measured(state)

    def verdict(self, state: NeuralState) -> Verdict | None:
        """End the run after its steps; it has converged if successive gradients no longer agree.

        Source: Pflug (1990), Non-asymptotic confidence bounds for stochastic approximation algorithms with constant step
        size, Monatshefte fuer Mathematik 110.
        """
        if state.step < self.settings.steps:
            return None
        late = state.agreements[len(state.agreements) // 2 :]
        if len(late) < 2:
            return Verdict(STOPPED, f"{state.step} steps were done, too few to tell whether the cost still falls", False)
        mean, error = float(np.mean(late)), float(np.std(late, ddof=1)) / math.sqrt(len(late))
        found = f"mean cosine of successive gradients {mean:.3f} +- {error:.3f} over the last {len(late)} steps"
        if mean > SIGNIFICANCE * error:
            return Verdict(STOPPED, f"{state.step} steps were done and the cost still falls ({found})", False)
        return Verdict(CONVERGED, f"after {state.step} steps stationary up to sampling error ({found})", True)

    def solution(self, state: NeuralState, verdict: Verdict) -> NeuralSolution:
        """Return what the caller of `solve` gets."""
        parameters, names = np.asarray(state.training.averaged), self.dynamics.problem.state_names
        policy = NeuralPolicy(self._sharpened(state), parameters, self.settings.precision, names)
        objective, error = state.facts["objective"], state.facts.get("standard_error", math.nan)
        summary: dict[str, Any] = {"parameters": policy.parameters.size}
        if state.measured is not None:
            objective, error = state.measured.mean, state.measured.standard_error
            summary |= {"objective": objective, "standard_error": error}
            summary |= {"effective_sample_size": state.measured.effective_sample_size, "samples": state.measured.samples}
            summary |= {"correlation_time": state.measured.correlation_time, "evaluation_burn_in": state.measured.burn_in}
        return NeuralSolution(
            objective, error, math.nan, policy, verdict.status == CONVERGED, verdict.status, verdict.reason,
            verdict.complete, self.record(state).scalars, summary,
        )  # fmt: skip

    def simulate(self, result: ResultFile, chains: int, burn_in: int, steps: int, seed: int) -> ErgodicCost:
        """Measure the last policy of a result file of this case, its chains started from the initial law."""
        policy = NeuralPolicy.from_result(result)
        with precision(self.settings):
            for_states, for_chains = jax.random.split(jax.random.key(seed))
            states = self.dynamics.initial_states(for_states, chains, policy.transport.scale.dtype)
            parameters = jnp.asarray(policy.parameters)
            return measure(self.dynamics, policy.transport, parameters, states, for_chains, burn_in, steps)[0]

    def _sharpened(self, state: NeuralState) -> PushForwardPolicy:
        with precision(self.settings):
            return sharpened(state.policy, state.step, self.settings.steps)

    def _measured(self, state: NeuralState) -> NeuralState:
        """Measure the ergodic cost of the reported policy once all steps are done, with random numbers of its own."""
        if state.step < self.settings.steps:
            return state
        evaluation = self.settings.evaluation
        policy = self._sharpened(state)
        with precision(self.settings):
            for_states, for_chains = jax.random.split(jax.random.fold_in(jax.random.key(self.seed), EVALUATION_STREAM))
            # chains of their own: the training chains have seen each other's costs, and are too few
            chains = self.dynamics.initial_states(for_states, evaluation.chains, state.policy.scale.dtype)
            cost, _ = measure(
                self.dynamics, policy, state.training.averaged, chains, for_chains, evaluation.burn_in, evaluation.steps
            )
        if not (math.isfinite(cost.mean) and math.isfinite(cost.standard_error)):
            raise ChainsDivergedError(
                "the chains left the finite numbers in the final measurement: the policy is stable over "
                "neural.horizon, not in the long run; lengthen neural.horizon and neural.tail"
            )
        return replace(state, measured=cost)


@eqx.filter_jit
def _begin(
    settings: NeuralSettings, dynamics: Dynamics, blueprint: PushForwardPolicy, seed: int
) -> tuple[PushForwardPolicy, TrainingState, Array, Array]:
    """Return the policy with its input units, the first state, the mean cost, and the first bad step (-1: none).

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
    cost, spread = jnp.mean(costs[settings.burn_in // 2 :]), jnp.std(costs[settings.burn_in // 2 :])
    state = training.start(settings, policy, end, for_training, jnp.where(spread > 0, spread, jnp.ones((), dtype)))
    return policy, state, cost, first_bad(costs, visited)[0]
