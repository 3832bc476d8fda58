"""What all compiled functions share: how they are compiled, threads, chunks of rows, boundaries.

Kernels receive arrays only, never functions, so each is compiled once per machine and cached. Every output element is
written by one thread in an order that does not depend on the number of threads: results are bit-identical.

Helpers that allocate nothing are compiled without Numba's run time: counting references to the arrays that they are handed took
nine tenths of the time.

Numba's cache of a function sees changes of its own file, not of the files of those it calls: after a change here or in another
compiled file, delete the *.nbi files under wassgrid/ (the tests do so).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba import get_num_threads, njit, set_num_threads

CLAMP, REFLECT, PERIODIC = 0, 1, 2
BOUNDARIES = {"clamp": CLAMP, "reflect": REFLECT, "periodic": PERIODIC}
CHUNKS = 64  # of rows; a constant, so that no sum depends on the number of threads
SERIAL = 200_000  # elementary operations below which waking a second thread costs more than it gains

_options: dict[str, Any] = {"cache": True, "_nrt": False}
allocating_nothing = njit(**_options)


@contextmanager
def threads_for(operations: float) -> Iterator[None]:
    """Run the compiled calls inside on one thread if they are small; results do not depend on it."""
    limit = get_num_threads()
    small = operations < SERIAL and limit > 1
    if small:
        set_num_threads(1)
    try:
        yield
    finally:
        if small:
            set_num_threads(limit)


@allocating_nothing
def chunk_of(c, n):
    return c * n // CHUNKS, (c + 1) * n // CHUNKS


@allocating_nothing
def fold(e, n, boundary):
    """Return the node that extended index e falls on: clamped, reflected (ends included) or wrapped."""
    if boundary == PERIODIC:
        return e % n
    if boundary == REFLECT:
        period = 2 * (n - 1)
        e = e % period
        return e if e < n else period - e
    return min(max(e, 0), n - 1)
