"""Processes that share a run, as threads of this one: the messages of MPI between them, by a board that all of them read."""

from __future__ import annotations

import queue
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import numpy as np

from wassgrid.ranks import Ranks

PATIENCE = 60.0  # seconds after which processes that wait for each other for ever fail


class Row(int):
    """A row of so many numbers."""

    def Commit(self) -> Row:
        return self

    def Free(self) -> None:
        pass


class Words:
    """What of the module MPI is asked for."""

    COMM_TYPE_SHARED = 0

    class DOUBLE:
        Create_contiguous = Row


class Comm:
    """The communicator of one of them."""

    def __init__(self, rank: int, size: int, board: list[Any], barrier: threading.Barrier, letters: dict[Any, Any]) -> None:
        self.rank, self.size, self.board, self.barrier, self.letters = rank, size, board, barrier, letters

    def _all(self, value: Any) -> list[Any]:
        self.board[self.rank] = value
        self.barrier.wait(PATIENCE)
        found = list(self.board)
        self.barrier.wait(PATIENCE)
        return found

    def Get_rank(self) -> int:
        return self.rank

    def Get_size(self) -> int:
        return self.size

    def Split_type(self, kind: int) -> Comm:
        return self

    def Allgather(self, own: np.ndarray, found: np.ndarray) -> None:
        found[...] = np.reshape(self._all(own.copy()), found.shape)

    def allgather(self, value: Any) -> list[Any]:
        return self._all(value)

    def bcast(self, value: Any, root: int) -> Any:
        return self._all(value)[root]

    def Allgatherv(self, own: np.ndarray, into: Any) -> None:
        found, sizes = into
        parts = self._all(own.copy())
        assert [part.size for part in parts] == sizes
        found[...] = np.concatenate(parts)

    def Send(self, own: np.ndarray, dest: int, tag: int) -> None:
        self.letters[self.rank, dest, tag].put(own.copy())

    def Recv(self, own: np.ndarray, source: int, tag: int) -> None:
        own[...] = self.letters[source, self.rank, tag].get(timeout=PATIENCE)

    def Alltoallv(self, own: Any, into: Any) -> None:
        values, sent, starts, row = own
        everyone = self._all((np.array(values).reshape(-1, row), sent, starts))
        out, received, places, _ = into
        target = out.reshape(-1, row)
        for source, (rows, counts, begins) in enumerate(everyone):
            assert counts[self.rank] == received[source]
            begin, place = begins[self.rank], places[source]
            target[place : place + received[source]] = rows[begin : begin + counts[self.rank]]


def _without_locks() -> None:
    """Let properties that are kept be found by several threads at once: up to Python 3.11 they wait for each other, with a lock
    that all objects of a class share, and processes that exchange something while they find one would do so for ever.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith("wassgrid"):
            for kind in [found for found in vars(module).values() if isinstance(found, type)]:
                for kept in [found for found in vars(kind).values() if isinstance(found, cached_property)]:
                    if hasattr(kept, "lock"):
                        kept.lock = nullcontext()  # type: ignore[attr-defined]


def together(size: int, task: Callable[[Ranks], Any]) -> list[Any]:
    """Return what a task gives in each of so many processes; what is raised in one of them is raised here."""
    _without_locks()
    board, barrier = [None] * size, threading.Barrier(size)
    letters: dict[Any, Any] = defaultdict(queue.SimpleQueue)
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = task(Ranks(Words, Comm(rank, size, board, barrier, letters)))
        except threading.BrokenBarrierError:
            pass  # of the error of another
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
