"""Record a run in its result file: one row per step, frames of the policy, checkpoints."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

import wassgrid
from wassgrid.case import Case, CaseError
from wassgrid.solve import FAILED, INTERRUPTED, RunInterrupted, StepRecord, Verdict
from wassgrid.storage import Axis, ResultFile, ResultWriter, StorageError, Variable

if TYPE_CHECKING:
    from wassgrid.grid import StateGrid

RESUMABLE = ("flow.stop.", "neural.steps", "output.", "expect.", "solver.memory")  # keys that a resumed run may change
COST, TIME = "{cost}", "{time}"  # stand for the units of the case

# name: (long name, units) of the columns of /convergence; a scalar that is not listed gets a column of its own name
COLUMNS = {
    "flow_time": ("flow time", "1"),
    "objective": ("objective J", COST),
    "lower_bound": ("proved lower bound on the optimal objective", COST),
    "gradient_norm": ("norm of the gradient of J in the metric", "1"),
    "step_length": ("distance moved in the metric", "1"),
    "wall_time": ("wall time since the start of the run", "s"),
}
GRID_COLUMNS = {
    "time_assembly": ("wall time spent on tables and transition operator", "s"),
    "time_stationary": ("wall time spent on the stationary law", "s"),
    "time_evaluation": ("wall time spent on policy evaluation", "s"),
    "time_derivatives": ("wall time spent on Q and its derivatives", "s"),
    "time_certificate": ("wall time spent on the lower bound", "s"),
    "time_flow": ("wall time spent on moving the particles, trials included", "s"),
    "stationary_residual": ("total variation of mu P - mu", "1"),
    "stationary_error": ("estimated total variation between mu and the exact law", "1"),
    "stationary_iterations": ("products with P for the stationary law", "1"),
    "mixing_rate": ("decay per step that the solve for the stationary law saw", "1"),
    "value_residual": ("largest residual of the equation for V", COST),
    "value_iterations": ("products with P for the value", "1"),
    "largest_move": ("largest change of an action, over all states", "1"),
    "guarded": ("particles held back lest J rise", "1"),
    "escaped": ("particles that jumped to a better action", "1"),
    "rejected": ("trial steps thrown away", "1"),
    "tamed": ("particles too stiff for the step, held back", "1"),
}
CURVATURE_COLUMNS = {
    "curvature_min": ("smallest eigenvalue of the Hessian of J in the metric", "1"),
    "curvature_min_local": ("its local part, from the curvature of Q in the action", "1"),
    "curvature_min_transport": ("its transport part, from the dynamics", "1"),
    "curvature_min_residual": ("norm of its residual", "1"),
    "curvature_max": ("largest eigenvalue of the Hessian of J in the metric", "1"),
    "curvature_max_local": ("its local part, from the curvature of Q in the action", "1"),
    "curvature_max_transport": ("its transport part, from the dynamics", "1"),
    "curvature_max_residual": ("norm of its residual", "1"),
    "time_curvature": ("wall time spent on the eigenvalues of the Hessian", "s"),
}

NEURAL_COLUMNS = {
    "standard_error": ("standard error of the objective, from the spread of the chains", COST),
    "slope": ("fall of the objective per flow time along the direction", "1"),
    "agreement": ("cosine of successive sampled gradients in the metric", "1"),
    "step_size": ("flow time of the step, 0 if it was refused", "1"),
    "predicted": ("decrease of the objective by the quadratic model", COST),
    "actual": ("decrease on common random numbers", COST),
    "curvature": ("curvature of the objective along the steps, per squared action", "1"),
    "damping": ("damping of the metric", "1"),
    "accepted": ("whether the step was taken", "1"),
    "iterations": ("iterations of the metric solver", "1"),
    "residual": ("relative residual of the metric solver", "1"),
}


class Recorder:
    """Observer that writes the result file of a run.

    A context manager around `solve`: whatever ends the block, the file is left complete. A case that is refused before
    the first step leaves no file (an earlier result of that name is put back); an interruption leaves one to go on
    from. Raises StorageError.
    """

    def __init__(self, writer: ResultWriter, case: Case, checkpoint: dict[str, Any] | None, last_frame: int) -> None:
        self.case = case
        self.checkpoint = checkpoint  # to go on from, None at the beginning
        self.path = writer.path
        self.kept = writer.kept  # where an earlier result of that name went
        self.busy = False  # must not be interrupted
        self._writer = writer
        self._resumed = checkpoint is not None
        self._series = "neural" if case.solver.kind == "neural" else "trajectory"
        self._last: StepRecord | None = None
        self._last_frame = last_frame
        self._finished = False

    @classmethod
    def create(cls, path: str | os.PathLike[str], case: Case) -> Recorder:
        """Create the result file of a new run. Raises a ValueError where the grid of the case cannot be built."""
        writer = ResultWriter(path)
        try:
            layout = layout_of(case)
        except BaseException:
            writer.close()
            raise
        writer.begin(root_attributes(case), **layout)
        return cls(writer, case, None, -1)

    @classmethod
    def resume(cls, path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recorder:
        """Reopen the result file of a run to go on from its checkpoint, or from the beginning if there is none.

        overrides: "section.key=value" texts on how to go on (see `RESUMABLE`). Raises CaseError for others.
        """
        with ResultFile(path):
            pass
        for override in overrides:
            if not override.strip().startswith(RESUMABLE):
                keys = ", ".join(key.rstrip(".") for key in RESUMABLE)
                raise CaseError(f"--set {override}: a resumed run keeps its case but for {keys}; start a new run instead")
        writer = ResultWriter(path)
        try:
            with ResultFile(path) as result:
                case = Case.from_text(result.case_text, str(result.attributes["case_name"]), overrides)
                checkpoint, lengths = result.checkpoint, result.checkpoint_lengths
                series = "neural" if case.solver.kind == "neural" else "trajectory"
                frames = result.steps(series)[: lengths[series]]
        except BaseException:
            writer.close()
            raise
        writer.resume({"case": case.to_text()} if overrides else None)
        return cls(writer, case, checkpoint, int(frames[-1]) if len(frames) else -1)

    @property
    def started(self) -> bool:
        """Whether the run has reached its first step."""
        return self._last is not None

    # ---- observer ----

    def start(self, case: Case, solver: Any, first: StepRecord, resumed: bool) -> None:
        if resumed:
            self._last = first
        else:
            self._record(first)

    def step(self, record: StepRecord) -> str | None:
        self._record(record)
        return None

    def finish(self, verdict: Verdict, solution: Any | None) -> None:
        summary = getattr(solution, "summary", {})
        self._end(verdict.status, verdict.reason, summary=json.dumps(summary, default=lambda value: value.item()))

    def _record(self, record: StepRecord) -> None:
        self.busy = True
        every = self.case.output.trajectory_every
        self._writer.append_row(record.scalars)
        if record.step == 0 or (every and record.step % every == 0):
            self._append_frame(record)
        self._last = record
        if self._writer.due:
            self._writer.set_checkpoint(record.checkpoint())
            self._writer.commit()
        self.busy = False

    def _append_frame(self, record: StepRecord) -> None:
        self._writer.append_frame(record.step, record.frame(), self._series)
        self._last_frame = record.step

    def _end(self, status: str, reason: str, **attributes: Any) -> None:
        self.busy = self._finished = True
        if self._last is not None:
            self._writer.set_checkpoint(self._last.checkpoint())
            # after the checkpoint: a resumed run drops this frame again, unless it is one that it stores anyway
            if self._last_frame != self._last.step:
                self._append_frame(self._last)
        self._writer.finish(status, reason, **attributes)
        self.busy = False

    # ---- context ----

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._finished or kind is None or issubclass(kind, StorageError):
            self._writer.close()
        elif issubclass(kind, KeyboardInterrupt | RunInterrupted):
            self._end(INTERRUPTED, str(error) or "interrupted before the first step")
        elif self._last is None and not self._resumed:
            self._writer.discard()
        else:
            with suppress(StorageError):  # the error under way matters more
                self._end(INTERRUPTED if self._resumed and self._last is None else FAILED, f"{kind.__name__}: {error}")


@dataclass(frozen=True)
class Units:
    """Units of a case as the case gives them, "1" where it gives none."""

    states: tuple[str, ...]
    actions: tuple[str, ...]
    cost: str
    time: str

    @classmethod
    def of(cls, case: Case) -> Units:
        model = case.problem.model
        return cls(
            tuple(case.states[family.key].unit or "1" for family in model.states for _ in family.members),
            tuple(case.actions[family.key].unit or "1" for family in model.actions for _ in family.members),
            case.cost.unit or "1",
            (case.time.unit if case.time is not None else "") or "1",
        )


def layout_of(case: Case) -> dict[str, Any]:
    """Return axes and series of a case's result file, as `ResultWriter.begin` takes them."""
    if case.solver.kind == "neural":
        from wassgrid.neural import make_solver

        count = make_solver(case).blueprint.parameter_count
        axes = [Axis("parameter", np.arange(count), "parameter number")]
        parameters = Variable(("parameter",), "parameters of the policy network", "1")
        columns = _columns(case, COLUMNS | NEURAL_COLUMNS)
        return {"axes": axes, "series": {"convergence": columns, "neural": {"parameters": parameters}}}
    from wassgrid.grid import StateGrid

    return grid_layout(case, StateGrid.from_case(case))


def grid_layout(case: Case, grid: StateGrid) -> dict[str, Any]:
    """Return axes and series of a grid run's result file; the action axis is left out where there is one action."""
    units = Units.of(case)
    states = [
        Axis(name, axis, name, units.states[k], {"boundary": boundary})
        for k, (name, axis, boundary) in enumerate(zip(grid.names, grid.axes, grid.boundary, strict=True))
    ]
    actions = case.problem.action_names
    axes = [Axis("particle", np.arange(case.policy.particles), "particle number"), Axis("action", actions, "action")]
    cloud = (*grid.names, "particle", *(["action"] if len(actions) > 1 else []))
    shared = set(units.actions)
    # V sums costs over steps: rates times time
    value_units = units.cost if units.time == "1" else f"{units.cost} {units.time}".removeprefix("1 ")
    trajectory = {
        "actions": Variable(cloud, "actions of the particles", shared.pop() if len(shared) == 1 else "1"),
        "weights": Variable((*grid.names, "particle"), "weights of the particles", "1"),
        "stationary": Variable(grid.names, "stationary probability of the cell", "1"),
        "value": Variable(grid.names, "relative value V", value_units),
    }
    columns = COLUMNS | GRID_COLUMNS | (CURVATURE_COLUMNS if case.output.curvature_every else {})
    series = {"convergence": _columns(case, columns), "trajectory": trajectory}
    return {"grid": states, "axes": axes, "series": series}


def _columns(case: Case, columns: dict[str, tuple[str, str]]) -> dict[str, Variable]:
    units = Units.of(case)
    return {name: Variable((), text, unit.format(cost=units.cost, time=units.time)) for name, (text, unit) in columns.items()}


def root_attributes(case: Case) -> dict[str, Any]:
    """Return what a result file says about its case and about the software that made it."""
    units = Units.of(case)
    return {
        "wassgrid_version": wassgrid.__version__,
        "case": case.to_text(),
        "case_name": case.name,
        "title": case.title,
        "seed": case.policy.seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "action_names": list(case.problem.action_names),
        "action_units": list(units.actions),
        "python_version": platform.python_version(),
        **{f"{name}_version": metadata.version(name) for name in ("numpy", "scipy", "numba", "h5py")},
    }
