"""Record a run in its result file: one row per step, frames of the policy, checkpoints."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from wassgrid.case import Case, CaseError
from wassgrid.case.stored import case_of
from wassgrid.runs.loop import FAILED, INTERRUPTED, RunInterrupted, StepRecord, Verdict, require_arrays
from wassgrid.runs.schema import ADDED, Units
from wassgrid.runs.solvers import SOLVERS
from wassgrid.storage import ResultFile, ResultWriter, StorageError
from wassgrid.version import __version__

SOURCE = "initial"  # the attribute that says where the first policy comes from, if not from the case
RESUMABLE = ("flow.stop.", "neural.steps", "output.", "expect.", "solver.memory")  # keys that a resumed run may change


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
        self._series = SOLVERS[case.solver.kind].frames
        self._last: StepRecord | None = None
        self._last_frame = last_frame
        self._finished = False
        self._reopens: dict[str, Any] | None = None  # attributes with which the file is written to again, once all is well

    @classmethod
    def create(cls, path: str | os.PathLike[str], case: Case, source: str | None = None) -> Recorder:
        """Create the result file of a new run. Raises a ValueError where the grid of the case cannot be built.

        source: where its first policy comes from, None where that is the initial policy of the case.
        """
        writer = ResultWriter(path)
        try:
            layout = SOLVERS[case.solver.kind].layout(case)
        except BaseException:
            writer.close()
            raise
        writer.begin(root_attributes(case) | ({} if source is None else {SOURCE: source}), **layout)
        return cls(writer, case, None, -1)

    @classmethod
    def store(
        cls, path: str | os.PathLike[str], case: Case, rows: Sequence[Mapping[str, float]], last: StepRecord, verdict: Verdict,
        solution: Any, source: str | None = None,
    ) -> Path:  # fmt: skip
        """Write the result file of a run that has ended: the numbers of all its steps, frame and checkpoint of the last one."""
        with cls.create(path, case, source) as recorder:
            for row in rows[:-1]:
                recorder._writer.append_row(row)
            if last.final:
                recorder._keep(last)
            recorder._writer.append_row(last.scalars)
            recorder._last = last
            recorder.finish(verdict, solution)
            return recorder.path

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
                for name in ("title", "created", "host"):
                    result.text(name)
                result.verify()
                case = case_of(result, overrides)
                checkpoint = result.checkpoint
                series = SOLVERS[case.solver.kind].frames
                _require_fit(result, SOLVERS[case.solver.kind].layout(case))
                if checkpoint is None and SOURCE in result.attributes:
                    raise StorageError(
                        f"'{path}' starts from a policy of its own ({result.text(SOURCE)}) and has nothing to go on from yet: "
                        "start it anew with wassgrid.run(case, path, initial=...)"
                    )
                if checkpoint is not None:
                    require_arrays(checkpoint, SOLVERS[case.solver.kind].checkpoint(case))
                frames = result.steps(series)[: result.checkpoint_lengths.get(series, 0)]
        except BaseException:
            writer.close()
            raise
        recorder = cls(writer, case, checkpoint, int(frames[-1]) if len(frames) else -1)
        recorder._reopens = {"case": case.to_text()} if overrides else {}
        return recorder

    @property
    def started(self) -> bool:
        """Whether the run has reached its first step."""
        return self._last is not None

    # ---- observer ----

    def start(self, case: Case, solver: Any, first: StepRecord, resumed: bool) -> None:
        if self._reopens is not None:
            self.busy = True
            self._writer.resume(self._reopens)
            self._reopens, self.busy = None, False
        if resumed:
            self._last = first
        else:
            self._record(first)

    def step(self, record: StepRecord) -> str | None:
        self._record(record)
        return None

    def finish(self, verdict: Verdict, solution: Any | None) -> None:
        summary = getattr(solution, "summary", {})
        text = json.dumps(summary, default=lambda value: value.item())
        self._end(verdict.status, verdict.reason, summary=text, complete=int(verdict.complete))

    def _record(self, record: StepRecord) -> None:
        self.busy = True
        if record.final:
            self._keep(record)
        self._writer.append_row(record.scalars)
        if is_stored(record.step, self.case.output.trajectory_every, self.case.output.frames):
            self._append_frame(record)
        self._last = record
        if self._writer.due:
            if not record.final:
                self._keep(record)
            self._writer.commit()
        self.busy = False

    def _keep(self, record: StepRecord) -> None:
        """Set the checkpoint of a record; what is appended after it is dropped by a resumed run."""
        if checkpoint := record.checkpoint():
            self._writer.set_checkpoint(checkpoint)

    def _append_frame(self, record: StepRecord, haste: bool = False) -> None:
        frame = record.glance if haste and record.glance is not None else record.frame
        self._writer.append_frame(record.step, frame(), self._series)
        self._last_frame = record.step

    def _end(self, status: str, reason: str, **attributes: Any) -> None:
        self.busy = self._finished = True  # to the end: nothing is left to interrupt
        if self._last is not None:
            if not self._last.final:
                self._keep(self._last)
            # after the checkpoint: a resumed run drops this frame again, unless it is one that it stores anyway
            if self._last_frame != self._last.step:
                self._append_frame(self._last, haste=status == INTERRUPTED)
        self._writer.finish(status, reason, **attributes)

    # ---- context ----

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.busy = True
        if self._finished or kind is None or issubclass(kind, StorageError) or self._reopens is not None:
            self._writer.close()  # a file that was not reopened stays as it was
        elif issubclass(kind, KeyboardInterrupt | RunInterrupted):
            self._end(INTERRUPTED, str(error) or "interrupted before the first step")
        elif self._last is None:
            self._writer.discard()
        else:
            with suppress(StorageError):  # the error under way matters more
                self._end(FAILED, f"{kind.__name__}: {error}")


def is_stored(step: int, every: int, frames: int) -> bool:
    """Return whether a step is one of the frames: every so many steps, in the first `frames` of them; then at a distance that
    doubles where the number of steps does. Of the step alone, so that a resumed run stores the same ones; every = 0: the first.
    """
    if every == 0:
        return step == 0
    return step % (every << (step // (every * frames)).bit_length()) == 0


def _require_fit(result: ResultFile, layout: dict[str, Any]) -> None:
    """Raise StorageError unless the axes and arrays of a file are those that a run of its case writes."""
    grid = layout.get("grid", ())
    if result.state_names != tuple(axis.name for axis in grid):
        raise StorageError(f"'{result.path}': its axes are {', '.join(result.state_names) or 'none'}, not those of its case")
    for axis in grid:
        points = result.grid[axis.name]
        if points.shape != axis.values.shape or not np.allclose(points, axis.values, rtol=1e-9, atol=1e-9 * np.ptp(points)):
            raise StorageError(f"'{result.path}': the points of {axis.name} are not those of its case")
    lengths = {axis.name: len(axis.values) for axis in (*grid, *layout["axes"])}
    for series, variables in layout["series"].items():
        stored = result.variables(series) if series in result.series else ()
        for name, variable in variables.items():
            if name in ADDED and name not in stored:
                continue
            shape = tuple(lengths[axis] for axis in variable.dimensions)
            if name not in stored or result.shape(series, name)[1:] != shape:
                raise StorageError(f"'{result.path}': /{series}/{name} is not what a run of its case writes")


def root_attributes(case: Case) -> dict[str, Any]:
    """Return what a result file says about its case and about the software that made it."""
    units = Units.of(case)
    return {
        "wassgrid_version": __version__,
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
