"""Compiled loops on several threads that wait passively, give way on a busy machine and let signals through.

A loop is cut into pieces that threads take in turn. Every output element is written by one piece, in an order that does
not depend on where the pieces begin: results are bit-identical for any number of threads.

The first thread, the caller's, takes pieces until none is left; no other thread is waited for but for the piece that it is
at, and pieces are short. So a signal that the main thread receives is acted on after a fraction of a second, and threads
whose processor another process has cost a piece at most.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Any, TypeVar

import numpy as np
from numba import config

PIECES = 16  # of a loop, per thread
LONGEST_PIECE = 2e8  # elementary operations, a tenth of a second or two: how long a signal waits
WORTH_WAKING = 4e6  # elementary operations from which a second thread gains more than it costs to wake
_TAIL = 0.25  # share of a loop that the first thread may wait for the others before they are left out for a while
_LONGEST_REST = 256  # loops

_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")


def available() -> int:
    """Return the number of threads to use: NUMBA_NUM_THREADS, at most the processors that this process may run on."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(int(vars(config)["NUMBA_NUM_THREADS"]), allowed))


class Team:
    """The threads of this process. `size` is the number in use; it may be set at any time, 1 leaves the caller alone."""

    def __init__(self) -> None:
        self.size = available()
        self._pool: ThreadPoolExecutor | None = None
        self._made = (0, 0)
        self._known: set[int] = set()
        self._rest = 0
        self._next_rest = 4
        # set in a thread while it is at one of several calls of `share`
        self._within = threading.local()

    def run(self, kernel: Callable[..., Any], total: int, work: float, arguments: tuple[Any, ...]) -> None:
        """Call kernel(low, high, *arguments) until [0, total) is covered, and return when all calls have ended.

        kernel: compiled without the interpreter's lock. work: elementary operations of the whole loop, from which follows
        whether other threads are woken. What a call raises is raised here, and the pieces that nobody has begun are left out;
        so it is when a signal handler raises. May be called from any thread, and in a process forked from one that has called it.
        """
        if total <= 0:
            return
        pieces = max(1, int(min(total, work / LONGEST_PIECE)))
        alone = self.size == 1 or work < WORTH_WAKING or total == 1 or hasattr(self._within, "call")
        if not alone and id(kernel) not in self._known:
            # one thread compiles
            kernel(0, 0, *arguments)
            self._known.add(id(kernel))
        if alone or self._resting():
            for c in range(pieces):
                kernel(c * total // pieces, (c + 1) * total // pieces, *arguments)
            return
        pieces = min(total, max(pieces, PIECES * self.size))
        self._together(lambda c: kernel(c * total // pieces, (c + 1) * total // pieces, *arguments), pieces)

    def share(self, task: Callable[[_Piece], _Result], pieces: Sequence[_Piece]) -> list[_Result]:
        """Call task(piece) for every piece and return the results in order; what is raised is raised here, as by `run`.

        task: calls that do not hold the interpreter's lock for long, of NumPy on large arrays and of compiled loops, each of
        which one thread then runs whole. No two pieces may write to one place. The first is done before the others, and with it
        what is computed once for all.
        """
        results = [task(piece) for piece in pieces[:1]]
        if self.size == 1 or len(pieces) < 3 or hasattr(self._within, "call") or self._resting():
            return results + [task(piece) for piece in pieces[1:]]
        found: dict[int, _Result] = {}
        raised: dict[int, Exception] = {}
        # threads begin with NumPy's own ways of meeting errors
        errors: dict[str, Any] = dict(np.geterr())

        def call(c: int) -> None:
            self._within.call = c
            try:
                with np.errstate(**errors):
                    found[c] = task(pieces[1 + c])
            except Exception as error:
                raised[c] = error
                raise
            finally:
                del self._within.call

        try:
            self._together(call, len(pieces) - 1)
        except Exception as error:
            # pieces are begun in order: of those that raise the first has been begun, whoever is faster
            raise raised.get(min(raised, default=0), error) from None
        return results + [found[c] for c in range(len(pieces) - 1)]

    def _together(self, call: Callable[[int], None], pieces: int) -> None:
        """Call call(c) for all c < pieces, on the threads of this team."""
        ticket = count()
        failed = False

        def take() -> None:
            nonlocal failed
            try:
                while not failed and (c := next(ticket)) < pieces:
                    call(c)
            except BaseException:
                failed = True
                raise

        helpers: list[Future[None]] = []
        began = time.perf_counter()
        try:
            self._wake(take, min(self.size, pieces) - 1, helpers)
            take()
            done = time.perf_counter()
        finally:
            # no thread may write into arrays that the caller has given up
            failed = failed or next(ticket) < pieces
            late = _settle(helpers)
        for helper in late:
            helper.result()
        self._judge(done - began, time.perf_counter() - done, len(late) < len(helpers))

    def _wake(self, take: Callable[[], None], number: int, helpers: list[Future[None]]) -> None:
        """Let other threads take pieces too; none where the interpreter is on its way out."""
        # a forked process has no threads but the one that forked it
        if self._pool is None or self._made != (os.getpid(), self.size):
            self._made = os.getpid(), self.size
            self._pool = ThreadPoolExecutor(self.size - 1, "wassgrid")
        for _ in range(number):
            try:
                helpers.append(self._pool.submit(take))
            except RuntimeError:
                return

    def _resting(self) -> bool:
        self._rest -= 1
        return self._rest >= 0

    def _judge(self, busy: float, waited: float, absent: bool) -> None:
        """Leave the other threads out for some loops where they came late: another process has their processor."""
        if absent or (waited > 1e-3 and waited > _TAIL * (busy + waited)):
            self._rest = self._next_rest
            self._next_rest = min(2 * self._next_rest, _LONGEST_REST)
        else:
            self._next_rest = 4


def _settle(helpers: list[Future[None]]) -> list[Future[None]]:
    """Wait for the threads that have begun, call off the others, and return those that have begun.

    What a signal handler raises meanwhile is raised when they have ended.
    """
    pending: BaseException | None = None
    late = [helper for helper in helpers if not helper.cancel()]
    for helper in late:
        while not helper.done():
            try:
                helper.exception()
            except BaseException as error:
                pending = error
    if pending is not None:
        raise pending
    return late


TEAM = Team()


def spread(kernel: Callable[..., Any], total: int, work: float, *arguments: Any) -> None:
    """Run kernel(low, high, *arguments) over [0, total) on the threads of this process."""
    TEAM.run(kernel, total, work, arguments)
