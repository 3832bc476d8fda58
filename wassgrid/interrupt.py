"""Ctrl-C that is heard by every verb.

Python raises KeyboardInterrupt wherever the program is, and where that is a callback of a library (of an import, of the
collector, of the compiler) it is lost. So it is raised again until the verb has ended.
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

AGAIN = 0.3  # seconds


class Interrupt:
    """A context manager, in the main thread, within which a Ctrl-C is raised until it has ended what is inside.

    Where Ctrl-C is ignored (nohup) it stays so. What watches signals by itself inside may do so: it is in charge until it ends.
    received: whether one came.
    """

    def __init__(self) -> None:
        self.received = False
        self._before: dict[signal.Signals, Any] = {}
        self._hook = sys.unraisablehook

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
        raise KeyboardInterrupt

    def _again(self, number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def _lost(self, lost: sys.UnraisableHookArgs) -> None:
        if not (self.received and issubclass(lost.exc_type, KeyboardInterrupt)):
            self._hook(lost)

    def __enter__(self) -> Interrupt:
        alone = threading.current_thread() is threading.main_thread()
        if alone and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
            self._before = {
                signal.SIGINT: signal.signal(signal.SIGINT, self._receive),
                signal.SIGALRM: signal.signal(signal.SIGALRM, self._again),
            }
            self._hook, sys.unraisablehook = sys.unraisablehook, self._lost
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self._before:
            return
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        sys.unraisablehook = self._hook
        for number, handler in self._before.items():
            # one that was there inside may have left signals ignored: the process is on its way out
            if signal.getsignal(number) in (self._receive, self._again):
                signal.signal(number, handler)
