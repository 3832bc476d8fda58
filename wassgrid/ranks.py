"""The processes that share one run: what they are, what they tell each other, and how one of them ends them all.

Started by `mpiexec -n 4`, every process runs the same program on its part of the cells. What they must agree on comes from here,
and is the same on all of them to the last bit: numbers of all of them in the order of their ranks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from wassgrid.errors import PackageMissingError

if TYPE_CHECKING:
    import numpy as np

# what Open MPI, MPICH and Intel MPI, MVAPICH, and srun tell the processes that they start: how many, and which one this is
_STARTED = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)

_Result = TypeVar("_Result")


def started() -> tuple[int, int]:
    """Return how many processes were started together and the number of this one, as their environment says: (1, 0) alone."""
    for size, rank in _STARTED:
        if (count := os.environ.get(size, "")).isdigit() and int(count) > 1 and (own := os.environ.get(rank, "")).isdigit():
            return int(count), int(own)
    return 1, 0


class Ranks:
    """The processes of an MPI communicator: all of them call each method, at the same place of the program.

    wanted: whether this process was told to end; where `armed`, all are interrupted at the first exchange of numbers at which one
    of them was.
    """

    def __init__(self, mpi: Any, comm: Any) -> None:
        self._mpi, self._comm = mpi, comm
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self.wanted = self.armed = self._parted = False
        self._parting: Any = None

    @classmethod
    def world(cls) -> Ranks:
        """Return all processes that were started together.  Raises PackageMissingError without mpi4py or an MPI library."""
        need = f"mpiexec: {started()[0]} processes that share a run need"
        try:
            import mpi4py

            mpi4py.rc.thread_level = "serialized"  # other threads compute, one at a time speaks
            from mpi4py import MPI
        except ImportError as error:
            raise PackageMissingError(f"{need} the package mpi4py: pip install 'wassgrid[mpi]'") from error
        except RuntimeError as error:
            raise PackageMissingError(f"{need} the library that mpiexec is of, which mpi4py does not find: {error}") from error
        return cls(MPI, MPI.COMM_WORLD)

    def wish(self) -> None:
        """Ask all processes to end what they do."""
        self.wanted = True

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @cached_property
    def here(self) -> int:
        """How many of the processes are on this machine."""
        return int(self._comm.Split_type(self._mpi.COMM_TYPE_SHARED).Get_size())

    def numbers(self, values: np.ndarray | float) -> np.ndarray:
        """Return the numbers (K,) of every process, (size, K)."""
        import numpy as np

        own = np.append(np.asarray(values, dtype=float), float(self.wanted))
        found = np.empty((self.size, own.size))
        self._comm.Allgather(own, found)
        if self.armed and found[:, -1].any():
            self.armed = False
            raise KeyboardInterrupt("interrupted in the middle of a step")
        return found[:, :-1]

    def added(self, values: np.ndarray) -> np.ndarray:
        """Return the sum over the processes of arrays of one shape, in the order of the ranks."""
        import numpy as np

        own = np.ascontiguousarray(values, dtype=float)
        found = np.empty((self.size, *own.shape))
        self._comm.Allgather(own, found)
        result: np.ndarray = np.add.reduce(found, axis=0)
        return result

    def everyone(self, value: Any) -> list[Any]:
        """Return what every process gives, in the order of their ranks; small things."""
        found: list[Any] = self._comm.allgather(value)
        return found

    def told(self, value: Any = None) -> Any:
        """Return what the leader gives."""
        return self._comm.bcast(value, root=0)

    def joined(self, own: np.ndarray, sizes: list[int]) -> np.ndarray:
        """Return the flat arrays of all processes one after the other; sizes: their elements."""
        import numpy as np

        found = np.empty(sum(sizes), own.dtype)
        self._comm.Allgatherv(own, [found, sizes])
        return found

    def collected(self, own: np.ndarray, sizes: list[int]) -> list[np.ndarray] | None:
        """Return the flat arrays of all processes to the leader, None to the others; received one by one."""
        import numpy as np

        if not self.leads:
            self._comm.Send(own, dest=0, tag=1)
            return None
        found = [own]
        for rank in range(1, self.size):
            part = np.empty(sizes[rank], own.dtype)
            self._comm.Recv(part, source=rank, tag=1)
            found.append(part)
        return found

    def dealt(self, parts: list[np.ndarray] | None, own: np.ndarray) -> np.ndarray:
        """Fill `own` with the part that the leader has for this process."""
        if not self.leads:
            self._comm.Recv(own, source=0, tag=2)
            return own
        assert parts is not None
        for rank in range(1, self.size):
            self._comm.Send(parts[rank], dest=rank, tag=2)
        own[...] = parts[0]
        return own

    def rows(
        self, own: np.ndarray, sent: list[int], received: list[int], length: int, out: np.ndarray
    ) -> None:  # fmt: skip
        """Send rows of `length` numbers to the processes, `sent` to each, one after the other; receive `received` from each."""
        import numpy as np

        row = self._mpi.DOUBLE.Create_contiguous(length).Commit()
        starts = [[int(x) for x in np.append(0, np.cumsum(counts)[:-1])] for counts in (sent, received)]
        try:
            self._comm.Alltoallv([own, sent, starts[0], row], [out, received, starts[1], row])
        finally:
            row.Free()

    def agreed(self, task: Callable[[], _Result]) -> _Result:
        """Return what a task gives that meets no other process; where it fails in one of them, it fails alike in all."""
        error: Exception | None = None
        try:
            result = task()
        except (ValueError, ArithmeticError, MemoryError) as found:
            error = found
        if self.numbers(float(error is not None)).any():
            errors = self.everyone(None if error is None else (type(error), str(error)))
            kind, text = next(found for found in errors if found is not None)
            if error is not None:
                raise error
            raise kind(text)
        return result

    def part(self, patience: float | None = None) -> bool:
        """Wait until all processes have come to their end; False where some have not after so many seconds."""
        if self._parting is None:
            self._parting = self._comm.Ibarrier()
        began = time.monotonic()
        while not self._parted:
            self._parted = bool(self._parting.Test())
            if not self._parted:
                if patience is not None and time.monotonic() - began > patience:
                    return False
                time.sleep(0.005)
        return True

    def leave(self) -> None:
        """Wait for the others at the end, and take leave: nothing can be exchanged any more."""
        self.part()
        self._mpi.Finalize()

    def abort(self, status: int) -> None:
        """End all processes."""
        self._comm.Abort(status)
