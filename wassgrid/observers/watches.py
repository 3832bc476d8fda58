"""Observers that end a run: on signals, and on numbers that are not finite."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from wassgrid.run.loop import RunInterrupted, StepRecord, Verdict
from wassgrid.run.schema import GRADIENT_NORM, OBJECTIVE, STATIONARY_RESIDUAL, STEP_LENGTH, VALUE_RESIDUAL

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class FinitenessWatch:
    """Observer that fails the run as soon as one of its numbers is not finite; placed before the recorder, it keeps the
    last good step in the file."""

    WATCHED = (OBJECTIVE, GRADIENT_NORM, STEP_LENGTH, STATIONARY_RESIDUAL, VALUE_RESIDUAL)

    def start(self, case: Any, solver: Any, first: StepRecord, resumed: bool) -> None:
        self.step(first)

    def step(self, record: StepRecord) -> str | None:
        for name in self.WATCHED:
            if not math.isfinite(record.scalars.get(name, 0.0)):
                raise FloatingPointError(f"{name.replace('_', ' ')} is {record.scalars[name]}")
        return None

    def finish(self, verdict: Verdict, solution: Any | None) -> None:
        pass


class SignalWatch:
    """Observer that ends the run after the current step when Ctrl-C, SIGTERM or SIGHUP arrives.

    A context manager, in the main thread. A second signal ends the run at once, unless `busy()` says that the result
    file is being written. Signals that the process was started to ignore (nohup) stay ignored; after the run, so are
    those that would end a process which is on its way out because of one already.
    """

    def __init__(self, busy: Callable[[], bool]) -> None:
        self.received: str | None = None
        self._busy = busy
        self._before: dict[signal.Signals, Any] = {}

    def start(self, case: Any, solver: Any, first: StepRecord, resumed: bool) -> None:
        self.step(first)

    def step(self, record: StepRecord) -> str | None:
        if self.received is not None:
            raise RunInterrupted(f"{self.received} after step {record.step}")
        return None

    def finish(self, verdict: Verdict, solution: Any | None) -> None:
        pass

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again = self.received is not None
        name = signal.Signals(number).name
        self.received = "interrupted" if number == signal.SIGINT else f"ended by {name}"
        if again and not self._busy():
            raise KeyboardInterrupt(f"{self.received} in the middle of a step")
        if not again:
            os.write(2, b"\nending after this step; press Ctrl-C again to end at once\n")  # print is not safe here

    def __enter__(self) -> SignalWatch:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if self.received is None else signal.SIG_IGN)
