"""Compiled loops on several threads that wait passively, give way on a busy machine and let signals through.

A loop is cut into chunks that threads take in turn. Every output element is written by one chunk, in an order that does
not depend on where the chunks begin: results are bit-identical for any number of threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import count
from typing import Any

import numba

CHUNKS = 16  # of a loop, per thread
WORTH_WAKING = 4e6  # elementary operations from which a second thread gains more than it costs to wake
_TAIL = 0.25  # share of a loop that the first thread may wait for the others before they are left out for a while
_LONGEST_REST = 256  # loops


class Team:
    """The threads of this process. `size` is the number in use, at most `numba.config.NUMBA_NUM_THREADS`."""

    def __init__(self) -> None:
        self.size = int(numba.config.NUMBA_NUM_THREADS)
        self._pool: ThreadPoolExecutor | None = None
        self._owner = 0
        self._rest = 0
        self._next_rest = 4

    def run(self, kernel: Callable[..., Any], total: int, work: float, arguments: tuple[Any, ...]) -> None:
        """Call kernel(low, high, *arguments) until [0, total) is covered.

        kernel: compiled without the interpreter's lock. work: elementary operations of the whole loop, from which follows
        whether other threads are woken.
        """
        if self.size == 1 or work < WORTH_WAKING or total < 2 or self._resting():
            # in pieces, so that a signal is heard between them
            pieces = max(1, min(total, int(work / 2e8)))
            for c in range(pieces):
                kernel(c * total // pieces, (c + 1) * total // pieces, *arguments)
            return
        pieces = min(total, CHUNKS * self.size)
        ticket = count()

        def take() -> None:
            while (c := next(ticket)) < pieces:
                kernel(c * total // pieces, (c + 1) * total // pieces, *arguments)

        began = time.perf_counter()
        helpers: list[Future[None]] = [self._threads().submit(take) for _ in range(self.size - 1)]
        try:
            take()
        finally:
            # no thread may write into arrays that the caller has given up
            for _ in range(pieces):
                if next(ticket) >= pieces:
                    break
            done = time.perf_counter()
            wait(helpers)
        for helper in helpers:
            helper.result()
        self._judge(done - began, time.perf_counter() - done)

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None or self._owner != os.getpid():
            self._pool, self._owner = ThreadPoolExecutor(max(self.size - 1, 1), "wassgrid"), os.getpid()
        return self._pool

    def _resting(self) -> bool:
        self._rest -= 1
        return self._rest >= 0

    def _judge(self, busy: float, waited: float) -> None:
        """Leave the other threads out for some loops where they came late: another process has their processor."""
        if waited > 1e-3 and waited > _TAIL * (busy + waited):
            self._rest = self._next_rest
            self._next_rest = min(2 * self._next_rest, _LONGEST_REST)
        else:
            self._next_rest = 4


TEAM = Team()


def spread(kernel: Callable[..., Any], total: int, work: float, *arguments: Any) -> None:
    """Run kernel(low, high, *arguments) over [0, total) on the threads of this process."""
    TEAM.run(kernel, total, work, arguments)
