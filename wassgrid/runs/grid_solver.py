"""The grid solver as a sequence of states: first policy, one step of the chosen method, what is recorded, when it ends."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from wassgrid.blobs import Blobs
from wassgrid.certificate import BestActions, bound_of, certify, find_best, restored_best
from wassgrid.chain.classes import LISTED, is_single_class, period, reached_together, recurrent_classes
from wassgrid.chain.reductions import (
    agreed,
    anywhere,
    dot,
    ends,
    everything,
    largest,
    likeliest,
    shared,
    sharing,
    span,
    sums,
    total,
    union,
    written,
)
from wassgrid.chain.spectrum import second_eigenvalue
from wassgrid.chain.stationary import StationaryError, settling, starting_law
from wassgrid.estimate import ASKED, allowance, estimate, plan
from wassgrid.evaluation import Evaluation, EvaluationError, Evaluator, require_one_class, rounding
from wassgrid.grid import StateGrid
from wassgrid.grid.levels import coarser_grid, prolonged
from wassgrid.grid.slabs import Slabs
from wassgrid.hessian import CurvatureError, Hessian, curvature_range
from wassgrid.memory import estimate_memory, require_memory
from wassgrid.method import METHODS, Method, StepRequest
from wassgrid.method.outcome import StepOutcome
from wassgrid.metric import Metric, cloud, gradient_norm, mean_q, step_length
from wassgrid.policy import ParticlePolicy, initial_policy
from wassgrid.problem.boundary import BOUNDARIES
from wassgrid.problem.model import ProblemError
from wassgrid.resolution import resolution
from wassgrid.resources import one_blas_thread
from wassgrid.runs import stopping
from wassgrid.runs.grid_schema import CENTRES, SHARES
from wassgrid.runs.loop import CONVERGED, INTERRUPTED, StepRecord, Verdict
from wassgrid.runs.schema import (
    BOUND_FOUND,
    COMPILATION,
    COST_PART,
    COST_SCALE,
    CURVATURE_COLUMNS,
    CURVATURE_ENDS,
    CURVATURE_PARTS,
    ENTROPY_PART,
    ESTIMATE,
    FLOW_TIME,
    GRADIENT_NORM,
    LARGEST_MOVE,
    LARGEST_SHIFT,
    LOWER_BOUND,
    MIXING_RATE,
    OBJECTIVE,
    ON_KINKS,
    STATIONARY_ERROR,
    STATIONARY_RESIDUAL,
    STEP_LENGTH,
    UPPER_END,
    VALUE_RESIDUAL,
    VALUE_SHARES,
    WALL_TIME,
    curvature,
    phase_time,
)  # fmt: skip
from wassgrid.runs.solution import GridSolution
from wassgrid.runs.start import Start, is_same
from wassgrid.runs.stopping import Headway, Standing, wanted_gap
from wassgrid.transition.compilation import compile_time
from wassgrid.transition.model import ResolutionError, TransitionModel
from wassgrid.transition.operator import MarkovOperator
from wassgrid.transition.slab_model import SlabModel, cut_axis

if TYPE_CHECKING:
    from wassgrid.case import Case


_AT_REST = 1e-11  # largest move, relative to the largest action, that is rounding


_FORCING = 0.03  # length of the bracket of J that a step aims at, relative to what is left to gain
_LOOSE = 0.3  # the same, from which V is solved on before the next step
_SPARE = 0.5  # of what the gap found leaves of the gap asked for: how far a proof may stay below the bound found
_SETTLED = 1e-2  # length of the bracket of J at the end, relative to the gap asked for
_FIRST_WIDTH = 2e-2  # of the range of costs, at the first policy; of the mean cost where it comes from a coarser grid
_COARSE_GAP = 2e-3  # of the cost's scale, to which a coarser grid is solved
_COARSE_GAIN = 3e-2  # of the same, by which its J must still fall
_COARSE_STEPS = 12
_MOST_VALUES = 12  # of an action, whose shares of the time are told
_SWITCH = 0.3  # of the range of actions: coarse cells that differ by more are on two sides of a switch
_CORNERS = 4  # actions: of boxes of more, these corners are tried: the same ends for every fourth action
_WORTH_LEVELS = 1500  # cells from which a start on a coarser grid pays


@dataclass(frozen=True)
class GridState:
    """Hold one policy of a run, evaluated, and all that the next step depends on.

    | name       | meaning                                                                                                |
    |------------|--------------------------------------------------------------------------------------------------------|
    | step_size  | step length that the method suggests next (flow time, pseudo-time of newton, trust radius of full_newton) |
    | warm_law, warm_value | (cells,) what the evaluation started from: with them it can be repeated bit for bit           |
    | best       | the best action found in every cell                                                                    |
    | found      | the bound on the optimal J that these actions give, not proven                                         |
    | proven     | the largest lower bound proven so far; -inf before the first proof                                     |
    | method     | how it was proven, and what was assumed                                                                |
    | refused    | gap found at the last proof that fell short of what was asked for                                      |
    | contraction | of the gap found, over the last step                                                                  |
    | headway    | whether the last steps have come to anything                                                           |
    | unprovable | whether the last proof tried gives no bound at all                                                     |
    | elapsed    | wall time in seconds, carried over a resume                                                            |
    | before     | the state before, where the run ends here and did more than a longer one would                         |
    | final      | whether the run ends here                                                                              |
    """

    step: int
    flow_time: float
    step_size: float
    evaluation: Evaluation
    warm_law: np.ndarray
    warm_value: np.ndarray
    best: BestActions
    found: float
    proven: float = -np.inf
    method: str = "no proof was asked for"
    refused: float = np.inf
    contraction: float = 1.0
    headway: Headway = field(default_factory=Headway)
    unprovable: bool = False
    elapsed: float = 0.0
    facts: Mapping[str, float] = field(default_factory=dict)
    before: GridState | None = None
    final: bool = False

    @property
    def gap_found(self) -> float:
        """The upper end of the policy's cost above the bound found: what is left to gain, as far as it was searched."""
        return self.evaluation.bracket[1] - self.found

    @property
    def gap(self) -> float:
        """The upper end of the policy's cost above the bound proven; infinite before the first proof."""
        return self.evaluation.bracket[1] - self.proven

    @property
    def excess(self) -> float:
        """By how much the bound proven lies above the policy's cost, 0 where it is rounding: one of the two is wrong."""
        above = -self.gap
        return above if above > rounding(self.evaluation) else 0.0


@dataclass(frozen=True)
class GridSolver:
    """Solve a case by moving action particles on its state grid."""

    case: Case
    evaluator: Evaluator
    points: Mapping[str, int | str]
    given: Start | None = None  # in place of the case's initial policy

    @classmethod
    def from_case(cls, case: Case, given: Start | None = None) -> GridSolver:
        """Build grid and transition model. Raises ValueErrors where the grid cannot carry the case or memory is short."""
        grid = StateGrid.from_case(case)
        slabs = shared()
        agreed(lambda: require_memory(case, estimate_memory(case, grid if slabs is None else slabs.grid)))
        model = TransitionModel.from_case(case, grid)
        model = model if slabs is None else SlabModel.share(model, slabs)
        return cls(case, Evaluator.from_case(case, model), case.grid.points, given)

    @property
    def model(self) -> TransitionModel:
        return self.evaluator.model

    @property
    def grid(self) -> StateGrid:
        return self.model.grid

    @one_blas_thread()
    def start(self) -> GridState:
        """Evaluate the initial policy, or the one that is given or that a coarser grid gives.

        Raises ReducibleChainError for a chain with several recurrent classes, StartError for a policy that does not fit.
        """
        began = time.perf_counter()
        with compile_time() as compiling:
            state = self._first(self._from_coarser() if self.given is None else self._from_given(self.given))
            if self._ends(state):
                state = self._settled(state)
                state = replace(state, final=self.verdict(state) is not None)
            elif self.case.flow.proof == "always":
                state = self._certified(state)
            facts = {**self._curvature(0, state.evaluation), **state.facts, COMPILATION: compiling.seconds}
        return replace(state, elapsed=time.perf_counter() - began, facts=facts)

    def _first(self, coarse: tuple[ParticlePolicy, np.ndarray, np.ndarray] | None) -> GridState:
        """Return the first state, from policy, law and value of a coarser grid where there are."""
        cells = self.grid.size
        if coarse is None:
            policy = initial_policy(self.case, self.grid)
            law, value = starting_law(cells), np.zeros(cells)
        else:
            policy, law, value = coarse
        needed = estimate_memory(self.case, self.grid, self.model, policy)
        agreed(lambda: require_memory(self.case, needed))
        operator = self.model.operator(self.model.means(policy.actions)[0], policy.weights)
        self._require_one_class(operator, settling(operator, law))
        width = None
        if self._inexact:
            stage = (policy.weights * self.model.means(policy.actions)[1]).sum(axis=1)
            width = _FIRST_WIDTH * float(span(stage) if coarse is None else dot(law, np.abs(stage)))
        evaluation = self.evaluator.evaluate(policy, (law, value), width)
        evaluation, best, found, seconds = self._searched(evaluation)
        size = self._method.first_step(evaluation, self._metric) if self._fixed_step is None else self._fixed_step
        return GridState(
            0, 0.0, size, evaluation, law, value, best, found, facts={phase_time("certificate"): seconds}
        )

    def _from_coarser(self) -> tuple[ParticlePolicy, np.ndarray, np.ndarray] | None:
        """Solve on about half the points per axis and carry policy, law and value over; None where that does not pay."""
        levels, grid = self.case.grid.levels, self.grid.whole
        asked = levels if isinstance(levels, int) else (9 if grid.size >= _WORTH_LEVELS else 1)
        if asked <= 1 or not self._inexact or grid.dimension == 1:
            return None
        found = coarser_grid(self.points, self.case.problem)
        if found is None:
            return None
        points, grid = found
        try:
            start, best = self._solved_on(grid, points)
        except (ResolutionError, StationaryError, EvaluationError, ProblemError):
            return None  # whatever the coarser grid cannot carry, this one may
        return self._carried(start, best)

    def _solved_on(self, grid: StateGrid, points: Mapping[str, int | str]) -> tuple[Start, np.ndarray]:
        """Solve roughly on a coarser grid, and return what it gives to start from, with the best actions (coarse cells, m).

        Where several processes share the cells they share those of the coarser grid too, or each solves it where it has too few.
        """
        model, slabs = self.model.on_grid(grid), shared()
        if slabs is not None:
            axis = cut_axis(self.case.problem, grid)
            slabs = Slabs.of(slabs.ranks, grid, axis) if slabs.ranks.size <= grid.shape[axis] else None
        with sharing(slabs):
            model = model if slabs is None else SlabModel.share(model, slabs)
            coarse = GridSolver(self.case, replace(self.evaluator, model=model), points)
            state = coarse._first(coarse._from_coarser())
            for _ in range(_COARSE_STEPS):
                before, scale = state.evaluation.objective, state.evaluation.cost_scale
                if state.gap_found <= _COARSE_GAP * scale:
                    break
                state = coarse._moved(state)
                # the gap is that of the worst cell, which the finer grid has anew
                if abs(before - state.evaluation.objective) <= _COARSE_GAIN * scale:
                    break
            policy, evaluation = state.evaluation.policy, state.evaluation
            if slabs is not None:
                actions, weights = everything(policy.actions), everything(policy.weights)
                policy = ParticlePolicy.of(self.case.problem, grid, actions, weights)
            start = Start(policy, "a coarser grid", everything(evaluation.law), everything(evaluation.value))
            return start, everything(state.best.actions)

    def _from_given(self, given: Start) -> tuple[ParticlePolicy, np.ndarray, np.ndarray]:
        """Carry a given policy over, with its law and value where it has them."""
        if given.value is not None:
            given = replace(given, value=given.value / self._value_unit)
        best = None
        if isinstance(given.policy, ParticlePolicy):
            best = given.policy.mode(given.policy.grid.states) if given.policy.mixed else given.policy.cell_mean()
        return self._carried(given, best)

    def _carried(self, start: Start, best: np.ndarray | None) -> tuple[ParticlePolicy, np.ndarray, np.ndarray]:
        """Return policy, law and value on this grid; best: the best actions known in the cells of the other one, (cells, m)."""
        policy, fields = start.on(self.case, self.grid), start.fields_on(self.grid)
        if fields is None:
            return policy, starting_law(self.grid.size), np.zeros(self.grid.size)
        law, value = fields
        if best is not None and not policy.categorical and not is_same(start.policy.grid, self.grid):
            policy = policy.moved(self._sharpened(policy.actions, value, best, start.policy.grid))
        return policy, law, value

    def _sharpened(self, actions: np.ndarray, value: np.ndarray, best: np.ndarray, coarse: StateGrid) -> np.ndarray:
        """Return interpolated actions (cells, N, m) with those near a switch of the policy on one side of it.

        Where the best actions of the coarse cells around, of (coarse cells, m), lie far apart, an interpolated one is near no
        minimum of Q. The cheapest corner of the box that they span takes its place where that costs less with V, (cells,).
        """
        low, high = (prolonged(best, coarse, self.grid, side) for side in (np.minimum, np.maximum))
        cells = np.flatnonzero((high - low > _SWITCH * np.ptp(best, axis=0)).any(axis=1))
        particles, m = actions.shape[1:]
        corners = np.arange(2 ** min(m, _CORNERS))[:, None] >> np.arange(m) % _CORNERS & 1
        expectation = self.model.expectation(value)
        for rows in self.model.blocks(cells.size, particles + len(corners)):
            some = cells[rows]
            tried = np.concatenate([actions[some], np.where(corners, high[some, None], low[some, None])], axis=1)
            tables = self.model.tables(some, tried, 0, strict=False)
            q = tables.cost + self.evaluator.discount * expectation.values(some, tables.mean)
            cheapest = particles + q[:, particles:].argmin(axis=1)
            dearer = q[:, :particles] > np.take_along_axis(q, cheapest[:, None], axis=1)
            actions[some] = np.where(dearer[:, :, None], tried[np.arange(some.size), cheapest, None], actions[some])
        return actions

    @property
    def _method(self) -> Method:
        return METHODS[self.case.flow.method]

    @cached_property
    def _metric(self) -> Metric:
        return Metric.from_case(self.case)

    @property
    def _inexact(self) -> bool:
        """Whether steps need V only to a fraction of what is left to gain; the bracket of a total cost needs more than that."""
        return self._method.inexact and self._fixed_step is None and not self.evaluator.total

    @property
    def _fixed_step(self) -> float | None:
        """The step length that the user set; None: adaptive."""
        step = self.case.flow.step
        return None if isinstance(step, str) else float(step)

    def restore(self, checkpoint: Mapping[str, Any]) -> GridState:
        """Return the state of a checkpoint: its evaluation is repeated from the same warm start as then."""
        actions, weights = np.asarray(checkpoint["actions"]), np.asarray(checkpoint["weights"])
        policy = ParticlePolicy.of(self.case.problem, self.grid, actions, weights)
        if self.case.policy.blobs is not None:
            centres, shares = np.asarray(checkpoint[CENTRES]), np.asarray(checkpoint[SHARES])
            policy = policy.of_blobs(Blobs.even(self.case, self.grid.states).moved(centres, shares))
        warm = np.asarray(checkpoint["warm_law"]), np.asarray(checkpoint["warm_value"])
        width = float(checkpoint["width"])
        if width >= 0.0:
            evaluation = self.evaluator.restored(policy, *warm, float(checkpoint["objective"]), width)
        else:
            evaluation = self.evaluator.evaluate(policy, warm)
        stored = (np.asarray(checkpoint[name]) for name in ("best_actions", "best_values", "best_lead"))
        best = restored_best(evaluation, *stored)
        return GridState(
            int(checkpoint["step"]), float(checkpoint["flow_time"]), float(checkpoint["step_size"]), evaluation, *warm, best,
            _bound(evaluation, best), float(checkpoint["proven"]), str(checkpoint["method"]), float(checkpoint["refused"]),
            float(checkpoint["contraction"]),
            Headway(
                float(checkpoint["headway_gap"]), float(checkpoint["headway_upper"]), float(checkpoint["headway_span"]),
                int(checkpoint["idle"]),
            ),
            bool(checkpoint["unprovable"]), float(checkpoint["elapsed"]),
            {name: float(checkpoint[name]) for name in self._moves},
        )  # fmt: skip

    @one_blas_thread()
    def advance(self, state: GridState) -> GridState:
        """Take one step of the case's method; prove the bound where the run may end here, or where the case asks for it."""
        began = time.perf_counter()
        with compile_time() as compiling:
            new = self._moved(state)
            if self._ends(new):
                new = self._settled(new)
                if self.verdict(new) is not None:
                    new = replace(new, before=state, final=True)
            elif self.case.flow.proof == "always":
                new = self._certified(new)
            facts = {**new.facts, **self._curvature(new.step, new.evaluation), COMPILATION: compiling.seconds}
        return replace(new, elapsed=state.elapsed + time.perf_counter() - began, facts=facts)

    def _moved(self, state: GridState) -> GridState:
        """Take one step and find the best actions after it."""
        began = time.perf_counter()
        old = state.evaluation
        outcome = self._step(state)
        new = outcome.evaluation
        elapsed = time.perf_counter() - began
        flow = max(elapsed - sum(new.times.values()), 0.0)
        moved = step_length(self._on_the_way(old), old.policy, new.policy, self._metric)
        new, best, found, seconds = self._searched(new, (state.best, old.value))
        facts = {
            STEP_LENGTH: moved,
            LARGEST_MOVE: ends(np.abs(cloud(new.policy)[0] - cloud(old.policy)[0]))[1],
            "guarded": float(outcome.guarded),
            "escaped": float(outcome.escaped),
            "rejected": float(outcome.rejected),
            "tamed": float(outcome.tamed),
            phase_time("flow"): flow,
            phase_time("certificate"): seconds,
        }
        if self._metric.weights:
            facts[LARGEST_SHIFT] = ends(np.abs(new.policy.weights - old.policy.weights))[1]
        gap = new.bracket[1] - found
        contraction = gap / state.gap_found if state.gap_found > 0 else 1.0
        return replace(
            state, step=state.step + 1, flow_time=state.flow_time + outcome.flow_time, step_size=outcome.next_step,
            evaluation=new, warm_law=old.law, warm_value=old.value, best=best, found=found, contraction=contraction,
            headway=state.headway.after(gap, new.bracket[1], span(new.value)), facts=facts,
        )  # fmt: skip

    def _searched(
        self, evaluation: Evaluation, before: tuple[BestActions, np.ndarray] | None = None
    ) -> tuple[Evaluation, BestActions, float, float]:
        """Find the best actions, with a V whose bracket is short beside what they gain; return the seconds spent on them."""
        seconds = 0.0
        while True:
            began = time.perf_counter()
            best = find_best(evaluation, before)
            before = best, evaluation.value
            found = _bound(evaluation, best)
            seconds += time.perf_counter() - began
            if evaluation.width is None:
                return evaluation, best, found, seconds
            low, high = evaluation.bracket
            gap = high - found
            floor = self._floor(evaluation)
            if high - low <= max(_LOOSE * gap, floor):
                return evaluation, best, found, seconds
            width = max(_FORCING * gap, 0.5 * floor)
            evaluation = self.evaluator.narrowed(evaluation, width) or self.evaluator.evaluate(evaluation.policy, evaluation)

    def _floor(self, evaluation: Evaluation) -> float:
        """The length of a bracket of J below which nothing is gained: rounding, or a tenth of the gap asked for."""
        stop = wanted_gap(self.case.flow.stop, evaluation) or 0.0
        return max(0.1 * stop, self.evaluator.tolerance * evaluation.largest_cost, 4.0 * evaluation.residual_rounding)

    def _settled(self, state: GridState) -> GridState:
        """Return the state with its law to the tolerance, its value too or to well within the gap asked for, and with a proof.

        Raises ReducibleChainError where the chain has come to have several recurrent classes, of equal cost too: its law is then
        any of theirs.
        """
        evaluation, seconds = state.evaluation, 0.0
        best, found = state.best, state.found
        if evaluation.width is not None:
            stop = wanted_gap(self.case.flow.stop, evaluation)
            exact = self.evaluator.settled(evaluation, None if stop is None else _SETTLED * stop)
            state = replace(state, warm_law=evaluation.law, warm_value=evaluation.value)
            evaluation, best, found, seconds = self._searched(exact, (best, state.evaluation.value))
        self._require_one_class(evaluation.chain.operator, evaluation.law)
        facts = {**state.facts, phase_time("certificate"): state.facts.get(phase_time("certificate"), 0.0) + seconds}
        return self._certified(replace(state, evaluation=evaluation, best=best, found=found, facts=facts))

    def _certified(self, state: GridState) -> GridState:
        """Prove a lower bound with the value function at hand."""
        began = time.perf_counter()
        stop = wanted_gap(self.case.flow.stop, state.evaluation)
        # sharper than what the run was asked for a proof need not be
        spare = 0.0 if stop is None else _SPARE * (stop - state.gap_found)
        certificate = certify(state.evaluation, spare if spare > 0.0 else None, state.best)
        proven, method = state.proven, state.method
        if certificate.guaranteed and certificate.lower_bound > proven:
            proven, method = certificate.lower_bound, certificate.method
        elif not np.isfinite(proven):
            would = f", would be {certificate.lower_bound:.10g}" if np.isfinite(certificate.lower_bound) else ""
            method = f"not proven{would}: {certificate.method}"
        # branch and bound meets better actions where the search did not
        better = anywhere(bool((certificate.best_values < state.best.values).any()))
        best = replace(state.best, actions=certificate.best_actions, values=certificate.best_values) if better else state.best
        short = stop is not None and not state.evaluation.bracket[1] - proven <= stop
        spent = state.facts.get(phase_time("certificate"), 0.0) + time.perf_counter() - began
        return replace(
            state, proven=proven, method=method, best=best, found=_bound(state.evaluation, best),
            refused=state.gap_found if short else state.refused, unprovable=not np.isfinite(proven),
            facts={**state.facts, phase_time("certificate"): spent},
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
                found = curvature_range(Hessian(evaluation, metric=self._metric))
                for end, pair in zip(CURVATURE_ENDS, (found.smallest, found.largest), strict=True):
                    for part in CURVATURE_PARTS:
                        columns[curvature(end, part)] = getattr(pair, part.removeprefix("_") or "value")
        return {**columns, phase_time("curvature"): time.perf_counter() - began}

    def _step(self, state: GridState) -> StepOutcome:
        flow, method = self.case.flow, self._method
        horizon = flow.stop.flow_time
        remaining = np.inf if horizon is None else horizon - state.flow_time
        best = state.best if flow.escapes else None
        width = None
        if self._inexact:
            # what will be left to gain, if it shrinks as it did before
            floor = self._floor(state.evaluation)
            wanted = _FORCING * state.gap_found * min(max(state.contraction, 1e-2), 1.0)
            width = max(wanted, floor) if state.gap_found > 30 * floor or wanted_gap(flow.stop, state.evaluation) else None
        return method.step(
            StepRequest(
                self.evaluator, state.evaluation, state.step_size, self._fixed_step, remaining, best, width, self._metric,
                flow.regularisation or 0.0,
            )
        )

    def record(self, state: GridState) -> StepRecord:
        evaluation = state.evaluation
        scalars = {
            "step": float(state.step),
            FLOW_TIME: state.flow_time,
            OBJECTIVE: evaluation.objective,
            GRADIENT_NORM: gradient_norm(evaluation, self._metric),
            LOWER_BOUND: self._lower_bound(state),
            BOUND_FOUND: state.found,
            UPPER_END: evaluation.bracket[1],
            COST_SCALE: evaluation.cost_scale,
            STEP_LENGTH: 0.0,
            **dict.fromkeys(self._moves, 0.0),
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
            **self._parts(evaluation),
            **state.facts,
        }
        law = state.evaluation.law
        return StepRecord(
            scalars,
            lambda: self._frame(state, self._exact_law(state.evaluation)),
            lambda: self._checkpoint(state),
            state.final,
            lambda: self._frame(state, law),
        )

    @staticmethod
    def _parts(evaluation: Evaluation) -> dict[str, float]:
        """Return what of J the stage cost makes and what entropy does, where it has a price."""
        if evaluation.entropy is None:
            return {}
        return {COST_PART: evaluation.objective - evaluation.entropy_part, ENTROPY_PART: evaluation.entropy_part}

    def _lower_bound(self, state: GridState) -> float:
        """The lower bound on the optimal J, nan where it is not proven, or contradicted by the cost of the policy."""
        return state.proven if np.isfinite(state.proven) and state.excess == 0.0 else float("nan")

    def _frame(self, state: GridState, law: np.ndarray) -> dict[str, Any]:
        evaluation, policy = state.evaluation, state.evaluation.policy
        actions, weights, law, value = (
            written(part) for part in (policy.actions, policy.weights, self._shares(law), evaluation.value * self._value_unit)
        )
        # of the process that writes
        shape = self.grid.whole.shape if law.size == self.grid.whole.size else self.grid.shape

        def shaped(actions: np.ndarray) -> np.ndarray:
            actions = actions[..., 0] if policy.action_dimension == 1 else actions
            return actions.reshape(*shape, *actions.shape[1:])

        blobs = {}
        if policy.blobs is not None:
            blobs = {CENTRES: shaped(policy.blobs.centres), SHARES: policy.blobs.shares.reshape(*shape, -1)}
        return {
            "actions": shaped(actions),
            "weights": weights.reshape(*shape, policy.particles),
            "stationary": law.reshape(shape),
            "value": value.reshape(shape),
            **blobs,
        }

    def _on_the_way(self, evaluation: Evaluation) -> np.ndarray:
        """The law without what is in the goal."""
        return evaluation.law if evaluation.controlled is None else np.where(evaluation.controlled, evaluation.law, 0.0)

    def _shares(self, law: np.ndarray) -> np.ndarray:
        """The law as shares of the time, that sum to one: expected visits of an episode are those of all its steps.

        Zero where there are none: episodes that start in the goal.
        """
        visits = float(law.sum())
        return law / visits if self.case.problem.stops and visits > 0.0 else law

    def _exact_law(self, evaluation: Evaluation) -> np.ndarray:
        """The law to the tolerance; it is not fed back, so that what is stored does not change what is computed."""
        return evaluation.law if evaluation.width is None else self.evaluator.settled_law(evaluation)

    @property
    def _value_unit(self) -> float:
        """V of a chain with cost rates sums rates over steps; times the step it is in units of cost."""
        return self.case.problem.cost_unit

    def _checkpoint(self, state: GridState) -> dict[str, Any]:
        if state.final:
            return {} if state.before is None else self._checkpoint(state.before)
        evaluation = state.evaluation
        rough, blobs = evaluation.width is not None, evaluation.policy.blobs
        return {
            "step": state.step,
            "flow_time": state.flow_time,
            "step_size": state.step_size,
            "elapsed": state.elapsed,
            **{name: state.facts.get(name, np.inf) for name in self._moves},
            "actions": written(evaluation.policy.actions),
            "weights": written(evaluation.policy.weights),
            "warm_law": written(evaluation.law if rough else state.warm_law),
            "warm_value": written(evaluation.value if rough else state.warm_value),
            "width": evaluation.width if evaluation.width is not None else -1.0,
            "objective": evaluation.objective,
            "proven": state.proven,
            "method": state.method,
            "refused": state.refused,
            "contraction": state.contraction,
            "headway_gap": state.headway.gap,
            "headway_upper": state.headway.upper,
            "headway_span": state.headway.span,
            "idle": state.headway.idle,
            "unprovable": state.unprovable,
            "best_actions": written(state.best.actions),
            "best_values": written(state.best.values),
            "best_lead": written(state.best.lead),
            **({} if blobs is None else {CENTRES: blobs.centres, SHARES: blobs.shares}),
        }

    def verdict(self, state: GridState) -> Verdict | None:
        return self._verdict(state, state.gap)

    def _ends(self, state: GridState) -> bool:
        """Whether the run ends with this state if the bound found can be proven."""
        gap = state.gap_found if state.gap_found <= 0.5 * state.refused and state.best.searched else np.inf
        return self._verdict(state, gap) is not None

    def _verdict(self, state: GridState, gap: float) -> Verdict | None:
        method, evaluation = self._method, state.evaluation
        stalled = method.rests and self._fixed_step is None and state.headway.stalled(np.isfinite(state.refused))
        now = Standing(
            state.step, state.flow_time, gradient_norm(evaluation, self._metric), gap,
            state.gap_found if state.best.searched else np.inf, state.excess, state.unprovable, self._at_rest(state), stalled,
            # where all actions that there are have particles, there is nothing to jump to
            self.case.flow.escapes or evaluation.at_rest,
        )  # fmt: skip
        return stopping.verdict(self.case.flow.stop, evaluation, now)

    def _at_rest(self, state: GridState) -> bool:
        """Whether a method that comes to rest has: its moves are rounding. Steps of a length that the user set say nothing."""
        if not self._method.rests or self._fixed_step is not None or state.step == 0:
            return False
        moves, evaluation = state.facts.get(LARGEST_MOVE, np.inf), state.evaluation
        if self.case.flow.escapes:
            # better actions are known, and the next step takes them
            taken = mean_q(evaluation) if self._metric.weights else evaluation.q.max(axis=1)
            if anywhere(bool((taken - state.best.values > rounding(evaluation)).any())):
                return False
        if self._metric.weights and state.facts.get(LARGEST_SHIFT, np.inf) > _AT_REST:
            return False
        return bool(moves <= _AT_REST * largest(evaluation.policy.actions))

    @property
    def _moves(self) -> tuple[str, ...]:
        """The columns of the largest moves, by which a run tells that it is at rest."""
        return (LARGEST_MOVE, LARGEST_SHIFT) if self._metric.weights else (LARGEST_MOVE,)

    def solution(self, state: GridState, verdict: Verdict) -> GridSolution:
        evaluation = state.evaluation
        record = self.record(state).scalars

        def summarise() -> dict[str, Any]:
            # an interrupted run must end at once: its summary is not worth another pass over the chain
            if verdict.status == INTERRUPTED:
                return {}
            method = state.method if state.excess == 0.0 else f"contradicted, nothing is claimed: {state.method}"
            return {**self.summary(evaluation), **self._estimate(state), "certificate": method}

        return GridSolution(
            evaluation.objective, record[LOWER_BOUND], evaluation.policy, self._shares(evaluation.law),
            evaluation.value * self._value_unit, verdict.status == CONVERGED, verdict.status, verdict.reason,
            verdict.complete, record, summarise,
        )  # fmt: skip

    def summary(self, evaluation: Evaluation) -> dict[str, Any]:
        """Report the noise that the grid really has, the recurrent classes and their period, and how fast the chain mixes."""
        return {
            "resolution": resolution(evaluation),
            **self._chain_facts(evaluation),
            **self._value_shares(evaluation),
            "boundary_mass": self._boundary_mass(self._shares(self._on_the_way(evaluation))),
            "cells": self.grid.whole.size,
            "entries": evaluation.chain.operator.entries,
            **({ON_KINKS: Hessian(evaluation, metric=self._metric).kinks} if self.case.output.curvature_every else {}),
        }

    def _chain_facts(self, evaluation: Evaluation) -> dict[str, Any]:
        """Count the recurrent classes, their period, and how fast the chain mixes; of a large P what products alone show.

        Of a chain with a goal, how long the way there is, from the start law and from the farthest cell.
        """
        operator, goal = evaluation.chain.operator, evaluation.model.goal
        if evaluation.steps_left is not None:
            return {"steps_to_the_goal": evaluation.most_steps, "most_steps_to_the_goal": largest(evaluation.steps_left)}
        if goal is not None and goal.law is None:
            return {}
        facts = {} if goal is None else {"goal_once_in_steps": 1.0 / max(float(evaluation.law[goal.inside].sum()), 1e-300)}
        if operator.entries > LISTED:
            one = 1 if reached_together(operator, likeliest(evaluation.law)) else None
            return {"recurrent_classes": one, "period": one, "second_eigenvalue": None, **facts}
        classes = recurrent_classes(operator)
        second = second_eigenvalue(operator)
        return {
            "recurrent_classes": len(classes),
            "period": period(operator, classes[0]) if len(classes) == 1 else None,
            "second_eigenvalue": second if np.isfinite(second) else None,
            **facts,
        }

    def _estimate(self, state: GridState) -> dict[str, Any]:
        """Estimate what the policy greedy for V costs in the problem itself, where asked for or where that costs little."""
        asked = self.case.output.estimate
        if asked is False or shared() is not None:
            return {}
        evaluation = state.evaluation
        if evaluation.entropy is not None:
            refused = "of the greedy policy, which has no entropy; wassgrid simulate estimates what this policy costs"
            return {ESTIMATE: {"refused": refused}} if asked else {}
        allowed = max(allowance(evaluation, state.step), ASKED if asked else 0.0)
        todo = plan(evaluation, state.best, allowed)
        if not todo.batches:
            remedy = "it would take minutes" if asked else "it would cost more than the solve; output.estimate = true asks for it"
            return {ESTIMATE: {"refused": remedy}}
        began = time.perf_counter()
        try:
            found = estimate(evaluation, state.best, todo)
        except (ValueError, ArithmeticError) as error:  # actions that no cell takes may cost what is not finite
            return {ESTIMATE: {"refused": str(error)}}
        return {ESTIMATE: {**asdict(found), "seconds": time.perf_counter() - began}}

    def _value_shares(self, evaluation: Evaluation) -> dict[str, dict[str, dict[str, float]]]:
        """Return how often every action of a list takes its values, by name where they have names; the most frequent first."""
        problem, policy = self.case.problem, evaluation.policy
        mass = np.maximum(self._on_the_way(evaluation), 0.0)[:, None] * policy.weights
        if not anywhere(bool(mass.any())):
            return {}  # episodes that start in the goal
        shares = {}
        for a in np.flatnonzero(problem.listed).tolist():
            values = union(policy.actions[..., a])
            number = np.searchsorted(values, policy.actions[..., a].ravel())
            taken = sums(np.bincount(number, mass.ravel(), values.size)) / total(mass)
            first = np.argsort(-taken, kind="stable")[:_MOST_VALUES]
            names = problem.value_names[a]
            shares[problem.action_names[a]] = {
                names.get(float(values[k]), f"{values[k]:g}"): float(taken[k]) for k in first if taken[k] > 0.0
            }
        return {VALUE_SHARES: shares} if shares else {}

    def _boundary_mass(self, law: np.ndarray) -> dict[str, float]:
        """Return the stationary mass in the two end cells of every clamped axis."""
        joint = everything(law).reshape(self.grid.whole.shape)
        found = {}
        for k, name in enumerate(self.grid.names):
            if BOUNDARIES[self.grid.boundary[k]].stops:
                found[name] = float(np.take(joint, [0, -1], axis=k).sum())
        return found

    def _require_one_class(self, operator: MarkovOperator, law: np.ndarray) -> None:
        """Raise ReducibleChainError where the average cost depends on where one starts; law: its likeliest cell is recurrent."""
        if not self.evaluator.recurrent:
            return
        if self.model.product is None or not is_single_class(operator, likeliest(law)):
            require_one_class(operator, self.grid.whole)


def _bound(evaluation: Evaluation, best: BestActions) -> float:
    """Return the bound on the optimal J that the best actions found give, not proven: by min (min_a Q - V) (see `bound_of`)."""
    return bound_of(evaluation, ends(best.values - evaluation.value)[0])
