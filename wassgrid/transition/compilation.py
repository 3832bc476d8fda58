"""How long compilation takes: Numba makes functions when they are first called on a machine, within the time of the caller."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from numba.core import event


class CompileTime(event.Listener):
    """Seconds of a clock that compilation took since it began to listen; compilations within others count once."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds, self._clock, self._depth, self._began = 0.0, clock, 0, 0.0

    def on_start(self, event: object) -> None:
        if self._depth == 0:
            self._began = self._clock()
        self._depth += 1

    def on_end(self, event: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += self._clock() - self._began


@contextmanager
def compile_time() -> Iterator[CompileTime]:
    """Measure the compilation in the block: none where all functions are cached."""
    found = CompileTime()
    with event.install_listener("numba:compile", found):
        yield found
