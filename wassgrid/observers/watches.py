"""Observers that end a run: on signals, and on numbers that are not finite."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

from wassgrid.errors import WassgridError
from wassgrid.runs.loop import RunFailedError, RunInterrupted, StepRecord, Verdict
from wassgrid.runs.schema import GRADIENT_NORM, OBJECTIVE, STATIONARY_RESIDUAL, STEP_LENGTH, VALUE_RESIDUAL

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FIRST_STEPS, _FALLEN = 1, 1e15  # the scale of J is that of so many steps; below minus so many times that it has no bound
PATIENCE = 0.4  # seconds that a step may go on after a signal: with what a thread has begun and the file, less than two


class NotFiniteError(WassgridError, ValueError):
    """A case whose first numbers are beyond the finite doubles."""


class FinitenessWatch:
    """Observer that fails the run as soon as one of its numbers is not finite, or J falls as only a cost without a lower bound
    lets it; placed before the recorder, it keeps the last good step in the file."""

    WATCHED = (OBJECTIVE, GRADIENT_NORM, STEP_LENGTH, STATIONARY_RESIDUAL, VALUE_RESIDUAL)

    def __init__(self) -> None:
        self._scale = 0.0  # of J in the first steps

    def start(self, case: Any, solver: Any, first: StepRecord, resumed: bool) -> None:
        if resumed:  # seen when it was recorded; a checkpoint does not keep all of its numbers
            return
        try:
            self.step(first)
        except FloatingPointError as error:
            raise NotFiniteError(f"cost: {error} under the first policy: give the cost and the actions smaller units") from error

    def step(self, record: StepRecord) -> str | None:
        for name in self.WATCHED:
            if not math.isfinite(record.scalars.get(name, 0.0)):
                raise FloatingPointError(f"{name.replace('_', ' ')} is {record.scalars[name]}")
        objective = record.scalars.get(OBJECTIVE, 0.0)
        if record.step <= _FIRST_STEPS or self._scale == 0.0:
            self._scale = max(self._scale, abs(objective))
        elif objective < -_FALLEN * self._scale:
            raise FloatingPointError(
                f"J has fallen to {objective:.1e}: the cost is not bounded below; give the actions bounds, or a cost that grows"
            )
        return None

    def finish(self, verdict: Verdict, solution: Any | None) -> None:
        pass


class SignalWatch:
    """Observer that ends the run when Ctrl-C, SIGTERM or SIGHUP arrives: after the current step if that ends very soon.

    If it does not, or if a second signal comes, a KeyboardInterrupt is raised in the middle of it, and the state of the
    last whole step stays; not while `busy()` says that the result file is being written. Compiled loops return to the interpreter
    all the time, so that this takes a fraction of a second; one call that does not, a sparse LU factorisation say, is
    waited for.

    A context manager, in the main thread. Signals that the process was started to ignore (nohup) stay ignored; after the run, so
    are those that would end a process which is on its way out because of one already. leaves: whether the process is, after the
    run; where it goes on, signals other than Ctrl-C reach it then as if nobody had watched. wish: called at once
    in place of the interruption, where several processes must agree on when it comes.
    """

    def __init__(self, busy: Callable[[], bool], leaves: bool = True, wish: Callable[[], None] | None = None) -> None:
        self._leaves, self._wish = leaves, wish
        self.received: str | None = None
        self.number: int | None = None  # of the first signal
        self._busy = busy
        self._before: dict[signal.Signals, Any] = {}
        self._hook = sys.unraisablehook

    @property
    def status(self) -> int:
        """The exit status that a process ended by the first signal has: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (signal.SIGINT if self.number is None else self.number)

    def start(self, case: Any, solver: Any, first: StepRecord, resumed: bool) -> None:
        self.step(first)

    def step(self, record: StepRecord) -> str | None:
        if self.received is not None:
            raise RunInterrupted(f"{self.received} after step {record.step}")
        return None

    def finish(self, verdict: Verdict, solution: Any | None) -> None:
        pass

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raise RunInterrupted in place of what a compiler raises that a signal has interrupted."""
        try:
            yield
        except RuntimeError as error:
            if self.received is None or isinstance(error, RunFailedError):
                raise
            raise RunInterrupted(self.received) from error

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again = self.number is not None
        # the number first: a second signal may come in any line of this
        self.number = number if self.number is None else self.number
        self.received = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        if again or self._wish is not None:
            self._end_now()
        if again:
            return
        signal.setitimer(signal.ITIMER_REAL, PATIENCE, PATIENCE)
        with suppress(OSError):  # stderr may be closed
            os.write(2, b"\nending; press Ctrl-C again to end at once\n")  # print is not safe here

    def _overdue(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._end_now()

    def _end_now(self) -> None:
        # the timer goes on: it comes again where the file is being written, or where what is raised is lost
        if self._wish is not None:
            self._wish()
        elif not self._busy():
            raise KeyboardInterrupt(f"{self.received} in the middle of a step")

    def __enter__(self) -> SignalWatch:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
            self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._overdue)
            self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        return self

    def _unraisable(self, lost: sys.UnraisableHookArgs) -> None:
        """Say nothing of an interruption that a callback of the compiler has swallowed: the timer comes again."""
        if not (self.received is not None and issubclass(lost.exc_type, KeyboardInterrupt)):
            self._hook(lost)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            sys.unraisablehook = self._hook
        for number, handler in self._before.items():
            ignored = self._leaves and self.received is not None and number in SIGNALS
            signal.signal(number, signal.SIG_IGN if ignored else handler)
        if not self._leaves and self.number not in (None, signal.SIGINT):
            signal.raise_signal(self.number)
