"""The grid solver as a sequence of states: first policy, one step of the chosen method, what is recorded, when it ends."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from wassgrid.certificate import Certificate, certify
from wassgrid.chain.classes import period, recurrent_classes
from wassgrid.chain.spectrum import second_eigenvalue
from wassgrid.chain.stationary import ReducibleChainError, starting_law
from wassgrid.evaluation import Evaluation, Evaluator
from wassgrid.geometry import gradient_norm, norm
from wassgrid.grid import StateGrid
from wassgrid.hessian import CurvatureError, Hessian, curvature_range
from wassgrid.method import METHODS, Method, StepRequest
from wassgrid.method.outcome import StepOutcome
from wassgrid.policy import ParticlePolicy, initial_policy
from wassgrid.resources import estimate_memory, require_memory
from wassgrid.run.loop import CONVERGED, INTERRUPTED, STOPPED, StepRecord, Verdict
from wassgrid.run.schema import (
    CURVATURE_COLUMNS,
    CURVATURE_ENDS,
    CURVATURE_PARTS,
    FLOW_TIME,
    GRADIENT_NORM,
    LOWER_BOUND,
    MIXING_RATE,
    OBJECTIVE,
    STATIONARY_ERROR,
    STATIONARY_RESIDUAL,
    STEP_LENGTH,
    VALUE_RESIDUAL,
    WALL_TIME,
    curvature,
    phase_time,
)  # fmt: skip
from wassgrid.run.solution import Solution
from wassgrid.transition.model import TransitionModel

if TYPE_CHECKING:
    from wassgrid.case import Case


_AT_REST = 1e-11  # largest move, relative to the largest action, that is rounding


@dataclass(frozen=True)
class GridState:
    """Hold one policy of a run, evaluated, and all that the next step depends on.

    warm_law and warm_value (cells,) are what the evaluation started from: with them it can be repeated bit for bit.
    step_size: the step length the method suggests next (flow time, pseudo-time of newton, trust radius of full_newton);
    certificate: the lower bound on the optimal J that the policy's V gives; elapsed: wall time in seconds, carried over a resume.
    """

    step: int
    flow_time: float
    step_size: float
    evaluation: Evaluation
    warm_law: np.ndarray
    warm_value: np.ndarray
    certificate: Certificate
    elapsed: float = 0.0
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class GridSolver:
    """Solve a case by moving action particles on its state grid."""

    case: Case
    evaluator: Evaluator

    @classmethod
    def from_case(cls, case: Case) -> GridSolver:
        """Build grid and transition model. Raises ValueErrors where the grid cannot carry the case or memory is short."""
        grid = StateGrid.from_case(case)
        require_memory(case, estimate_memory(case, grid))
        return cls(case, Evaluator.from_case(case, TransitionModel.from_case(case, grid)))

    @property
    def model(self) -> TransitionModel:
        return self.evaluator.model

    @property
    def grid(self) -> StateGrid:
        return self.model.grid

    def start(self) -> GridState:
        """Evaluate the initial policy; refuse a chain whose average cost depends on where one starts."""
        began = time.perf_counter()
        policy = initial_policy(self.case, self.grid)
        require_memory(self.case, estimate_memory(self.case, self.grid, self.model, policy))
        cells = self.grid.size
        law, value = starting_law(cells), np.zeros(cells)
        self._require_one_class(policy)
        evaluation = self.evaluator.evaluate(policy, (law, value))
        certificate = certify(evaluation)
        facts = self._curvature(0, evaluation) | {phase_time("certificate"): sum(certificate.times.values())}
        size = self._method.first_step(evaluation) if self._fixed_step is None else self._fixed_step
        return GridState(0, 0.0, size, evaluation, law, value, certificate, time.perf_counter() - began, facts)

    @property
    def _method(self) -> Method:
        return METHODS[self.case.flow.method]

    @property
    def _fixed_step(self) -> float | None:
        """The step length that the user set; None: adaptive."""
        step = self.case.flow.step
        return None if isinstance(step, str) else float(step)

    def restore(self, checkpoint: Mapping[str, Any]) -> GridState:
        """Evaluate the policy of a checkpoint again, from the same warm start as then."""
        policy = ParticlePolicy(self.grid, np.asarray(checkpoint["actions"]), np.asarray(checkpoint["weights"]))
        warm = np.asarray(checkpoint["warm_law"]), np.asarray(checkpoint["warm_value"])
        evaluation = self.evaluator.evaluate(policy, warm)
        return GridState(
            int(checkpoint["step"]), float(checkpoint["flow_time"]), float(checkpoint["step_size"]),
            evaluation, *warm, certify(evaluation), float(checkpoint["elapsed"]),
            {"largest_move": float(checkpoint["largest_move"])},
        )  # fmt: skip

    def advance(self, state: GridState) -> GridState:
        """Take one step of the case's method."""
        began = time.perf_counter()
        old = state.evaluation
        outcome = self._step(state)
        new = outcome.evaluation
        moved = norm(old.law, old.policy.weights, new.policy.actions - old.policy.actions)
        facts = {
            STEP_LENGTH: moved,
            "largest_move": float(np.abs(new.policy.actions - old.policy.actions).max()),
            "guarded": float(outcome.guarded),
            "escaped": float(outcome.escaped),
            "rejected": float(outcome.rejected),
            "tamed": float(outcome.tamed),
        }
        elapsed = time.perf_counter() - began
        facts[phase_time("flow")] = max(elapsed - sum(new.times.values()), 0.0)
        facts |= self._curvature(state.step + 1, new)
        certificate = certify(new)
        facts[phase_time("certificate")] = sum(certificate.times.values())
        return GridState(
            state.step + 1, state.flow_time + outcome.flow_time, outcome.next_step, new, old.law, old.value,
            certificate, state.elapsed + time.perf_counter() - began, facts,
        )  # fmt: skip

    def _curvature(self, step: int, evaluation: Evaluation) -> dict[str, float]:
        """Return the extreme eigenvalues of the Hessian where the case asks for them; nan on steps in between.

        nan also where they were not found, or where no particle is free to move: that must not end a run.
        """
        every = self.case.output.curvature_every
        if every == 0:
            return {}
        columns = dict.fromkeys(CURVATURE_COLUMNS, float("nan"))
        began = time.perf_counter()
        if step % every == 0:
            with suppress(CurvatureError):
                found = curvature_range(Hessian(evaluation))
                for end, pair in zip(CURVATURE_ENDS, (found.smallest, found.largest), strict=True):
                    for part in CURVATURE_PARTS:
                        columns[curvature(end, part)] = getattr(pair, part.removeprefix("_") or "value")
        return {**columns, phase_time("curvature"): time.perf_counter() - began}

    def _step(self, state: GridState) -> StepOutcome:
        flow, method = self.case.flow, self._method
        horizon = flow.stop.flow_time
        remaining = np.inf if horizon is None else horizon - state.flow_time
        certificate = state.certificate if method.escapes and flow.escape is not False else None
        return method.step(
            StepRequest(self.evaluator, state.evaluation, state.step_size, self._fixed_step, remaining, certificate)
        )

    def record(self, state: GridState) -> StepRecord:
        evaluation = state.evaluation
        scalars = {
            "step": float(state.step),
            FLOW_TIME: state.flow_time,
            OBJECTIVE: evaluation.objective,
            GRADIENT_NORM: gradient_norm(evaluation),
            LOWER_BOUND: self._lower_bound(state),
            STEP_LENGTH: 0.0,
            "largest_move": 0.0,
            WALL_TIME: state.elapsed,
            STATIONARY_RESIDUAL: evaluation.stationary.residual,
            STATIONARY_ERROR: evaluation.stationary.error_bound,
            MIXING_RATE: evaluation.stationary.rate,
            VALUE_RESIDUAL: evaluation.value_residual,
            "stationary_iterations": float(evaluation.stationary.iterations),
            "value_iterations": float(evaluation.value_iterations),
            "guarded": 0.0,
            "escaped": 0.0,
            "rejected": 0.0,
            "tamed": 0.0,
            phase_time("flow"): 0.0,
            **{phase_time(name): seconds for name, seconds in evaluation.times.items()},
            **state.facts,
        }
        return StepRecord(scalars, lambda: self._frame(state), lambda: self._checkpoint(state))

    def _lower_bound(self, state: GridState) -> float:
        """The lower bound on the optimal J, nan where it is not proven."""
        return state.certificate.lower_bound if state.certificate.guaranteed else float("nan")

    def _frame(self, state: GridState) -> dict[str, Any]:
        evaluation, shape = state.evaluation, self.grid.shape
        policy = evaluation.policy
        actions = policy.actions.reshape(*shape, policy.particles, policy.action_dimension)
        return {
            "actions": actions[..., 0] if policy.action_dimension == 1 else actions,
            "weights": policy.weights.reshape(*shape, policy.particles),
            "stationary": evaluation.law.reshape(shape),
            "value": (evaluation.value * self._value_unit).reshape(shape),
        }

    @property
    def _value_unit(self) -> float:
        """V of a chain with cost rates sums rates over steps; times the step it is in units of cost."""
        return self.case.problem.time_step or 1.0

    def _checkpoint(self, state: GridState) -> dict[str, Any]:
        policy = state.evaluation.policy
        return {
            "step": state.step,
            "flow_time": state.flow_time,
            "step_size": state.step_size,
            "elapsed": state.elapsed,
            "largest_move": state.facts.get("largest_move", np.inf),
            "actions": policy.actions,
            "weights": policy.weights,
            "warm_law": state.warm_law,
            "warm_value": state.warm_value,
        }

    def verdict(self, state: GridState) -> Verdict | None:
        stop = self.case.flow.stop
        size = gradient_norm(state.evaluation)
        if stop.gradient_norm is not None and size <= stop.gradient_norm:
            return Verdict(CONVERGED, f"the gradient norm {size:.3g} is at most {stop.gradient_norm:.3g}", True)
        gap = state.evaluation.objective - self._lower_bound(state)
        if stop.gap is not None and gap <= stop.gap:
            return Verdict(CONVERGED, f"the cost is proven to be within {gap:.3g} of the optimum, at most {stop.gap:.3g}", True)
        if stop.flow_time is not None and state.flow_time >= stop.flow_time * (1 - 1e-12):
            return Verdict(STOPPED, f"the flow time {stop.flow_time:g} was reached", True)
        if state.step >= stop.steps:
            return Verdict(STOPPED, f"{stop.steps} steps were done and no tolerance was reached", False)
        if self._at_rest(state):
            advice = "" if self.case.flow.escape is not False else "; with flow.escape = true particles can leave a local minimum"
            left = f", and a gap of {gap:.3g} stays" if np.isfinite(gap) else ""
            return Verdict(STOPPED, f"no particle moves any more at gradient norm {size:.3g}{left}{advice}", False)
        return None

    def _at_rest(self, state: GridState) -> bool:
        """Whether a method that comes to rest has: its moves are rounding. Steps of a length that the user set say nothing."""
        if not self._method.rests or self._fixed_step is not None or state.step == 0:
            return False
        moves, actions = state.facts.get("largest_move", np.inf), state.evaluation.policy.actions
        return bool(moves <= _AT_REST * np.abs(actions).max())

    def solution(self, state: GridState, verdict: Verdict) -> Solution:
        evaluation = state.evaluation
        record = self.record(state).scalars
        # an interrupted run must end at once: its summary is not worth another pass over the chain
        summary = {} if verdict.status == INTERRUPTED else self.summary(evaluation)
        if summary:
            summary["certificate"] = state.certificate.method if state.certificate.guaranteed else (
                f"not proven, would be {state.certificate.lower_bound:.10g}: {state.certificate.method}"
            )
        return Solution(
            evaluation.objective, record[LOWER_BOUND], evaluation.policy, evaluation.law,
            evaluation.value * self._value_unit, verdict.status == CONVERGED, verdict.status, verdict.reason,
            verdict.complete, record, summary,
        )  # fmt: skip

    def summary(self, evaluation: Evaluation) -> dict[str, Any]:
        """Report the noise that the grid really has, the recurrent classes and their period, and how fast the chain mixes."""
        policy = evaluation.policy
        mean = np.einsum("ki,kij->kj", policy.weights, evaluation.mean)
        classes = recurrent_classes(evaluation.chain.operator)
        second = second_eigenvalue(evaluation.chain.operator)
        return {
            "resolution": self.model.resolution(mean, evaluation.law),
            "recurrent_classes": len(classes),
            "period": period(evaluation.chain.operator, classes[0]) if len(classes) == 1 else None,
            "second_eigenvalue": second if np.isfinite(second) else None,
            "boundary_mass": self._boundary_mass(evaluation.law),
            "cells": self.grid.size,
            "entries": evaluation.chain.operator.entries,
        }

    def _boundary_mass(self, law: np.ndarray) -> dict[str, float]:
        """Return the stationary mass in the two end cells of every clamped axis."""
        joint = law.reshape(self.grid.shape)
        ends = {}
        for k, name in enumerate(self.grid.names):
            if self.grid.boundary[k] == "clamp":
                ends[name] = float(np.take(joint, [0, -1], axis=k).sum())
        return ends

    def _require_one_class(self, policy: ParticlePolicy) -> None:
        """Raise ReducibleChainError where the average cost of a policy depends on where one starts."""
        if self.evaluator.discount < 1.0:
            return
        mean, _ = self.model.means(policy.actions)
        classes = recurrent_classes(self.model.operator(mean, policy.weights))
        if len(classes) > 1:
            places = " and at ".join(self.grid.describe_cell(int(cells[0])) for cells in classes[:2])
            raise ReducibleChainError(
                f"states: under the initial policy the chain has {len(classes)} recurrent classes, at {places}: its average "
                'cost depends on where one starts. Add noise that joins them, or use criterion.kind = "discounted".'
            )
