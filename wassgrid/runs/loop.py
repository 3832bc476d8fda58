"""The only loop: drives a solver from its first state to its verdict and tells the observers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from wassgrid.errors import WassgridError, overflow_named

if TYPE_CHECKING:
    from wassgrid.case import Case

Arrays = dict[str, Any]

CONVERGED, STOPPED, INTERRUPTED, FAILED = "converged", "stopped", "interrupted", "failed"


class RunInterrupted(Exception):
    """Raised by an observer to end the run with status "interrupted"; the state reached stays resumable."""


class RunFailedError(WassgridError, RuntimeError):
    """A run that could not go on after its first step: numbers that are not finite, a law that was not found."""


@dataclass(frozen=True)
class Verdict:
    """Say why a run ends. complete: what the case asked for was reached (a tolerance, or its flow time)."""

    status: str
    reason: str
    complete: bool


@dataclass(frozen=True)
class StepRecord:
    """Hold what is known after one step: numbers at once, arrays when asked for.

    frame() gives the arrays of a trajectory frame by name, checkpoint() all that `resume` needs, exact to the bit; empty: it
    begins anew. final: the run ends here, with work that a longer run would not do at this step (a proof); the checkpoint is that
    of the step before, and a resumed run takes and records this step again. glance(): the frame of a run that is ended in haste,
    with what is at hand where the frame would solve for more; None: there is nothing of the kind.
    """

    scalars: Mapping[str, float]
    frame: Callable[[], Arrays]
    checkpoint: Callable[[], Arrays]
    final: bool = False
    glance: Callable[[], Arrays] | None = None

    @property
    def step(self) -> int:
        return int(self.scalars["step"])


class Solver(Protocol):
    """A method that advances a state."""

    def start(self) -> Any:
        """Return the first state. Raises ValueErrors that name what is wrong with the case."""

    def restore(self, checkpoint: Mapping[str, Any]) -> Any:
        """Return the state of a checkpoint; going on from it gives the same numbers, bit for bit."""

    def advance(self, state: Any) -> Any:
        """Return the state one step later; the given state is not changed."""

    def record(self, state: Any) -> StepRecord:
        """Describe a state for the observers."""

    def verdict(self, state: Any) -> Verdict | None:
        """Return why the run ends here, or None to go on."""

    def solution(self, state: Any, verdict: Verdict) -> Any:
        """Return what the caller of `drive` gets."""


class Observer(Protocol):
    """Watches a run and does all that is not mathematics: progress, files, signals. It never changes the state."""

    def start(self, case: Case, solver: Any, first: StepRecord, resumed: bool) -> None:
        """Called once, with the record of the first state (on resume: of the checkpoint)."""

    def step(self, record: StepRecord) -> str | None:
        """Called after every step; a text ends the run with that reason."""

    def finish(self, verdict: Verdict, solution: Any | None) -> None:
        """Called once at the end, whatever the end is."""


class CheckpointError(WassgridError, ValueError):
    """A checkpoint that the solver cannot go on from."""


def require_arrays(checkpoint: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise CheckpointError unless the arrays named are there, of their shapes and finite."""
    for name, shape in shapes.items():
        array = checkpoint.get(name)
        if not isinstance(array, np.ndarray) or array.shape != shape:
            raise CheckpointError(f"checkpoint: '{name}' is no array of {' x '.join(map(str, shape))} numbers, as its case needs")
        if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
            raise CheckpointError(f"checkpoint: '{name}' holds what is no finite number")


def _started(solver: Solver) -> Any:
    with overflow_named("the first policy cannot be evaluated, its numbers overflow"):
        return solver.start()


def _restored(solver: Solver, checkpoint: Mapping[str, Any]) -> Any:
    try:
        return solver.restore(checkpoint)
    except KeyError as error:
        raise CheckpointError(f"checkpoint: {error.args[0]!r} is missing, it was not written by this solver") from error
    except (TypeError, IndexError, OverflowError, ZeroDivisionError, FloatingPointError) as error:
        raise CheckpointError(f"checkpoint: it was not written by this solver: {error}") from error
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise CheckpointError(f"checkpoint: it was not written by this solver: {error}") from error


@np.errstate(over="ignore", invalid="ignore")  # costs of any size: what comes of them is looked at, not warned of
def drive(
    solver: Solver, case: Case, observers: Sequence[Observer] = (), resume_from: Mapping[str, Any] | None = None
) -> Any:
    """Drive the solver of a case, from its beginning or from a checkpoint, to its verdict and return its solution.

    Raises what the solver finds wrong with the case before the first step (subclasses of ValueError), and
    RunFailedError where a later step, or the summary of the last one, fails; the observers are told of a step first.
    """
    state = _started(solver) if resume_from is None else _restored(solver, resume_from)
    record = solver.record(state)
    for observer in observers:
        observer.start(case, solver, record, resume_from is not None)
    verdict = solver.verdict(state)
    try:
        while verdict is None:
            state = solver.advance(state)
            record = solver.record(state)
            reasons = [reason for observer in observers if (reason := observer.step(record))]
            verdict = solver.verdict(state)
            if verdict is None and reasons:
                verdict = Verdict(STOPPED, reasons[0], False)
    except (KeyboardInterrupt, RunInterrupted) as interruption:
        verdict = Verdict(INTERRUPTED, str(interruption) or f"interrupted after step {record.step}", False)
    except (ValueError, ArithmeticError, MemoryError) as error:
        reason = f"step {record.step + 1}: {error or type(error).__name__}"
        for observer in observers:
            observer.finish(Verdict(FAILED, reason, False), None)
        raise RunFailedError(reason) from error
    solution = solver.solution(state, verdict)
    try:
        for observer in observers:
            observer.finish(verdict, solution)
    except (ValueError, ArithmeticError, MemoryError) as error:
        raise RunFailedError(f"the summary after step {record.step}: {error or type(error).__name__}") from error
    return solution
