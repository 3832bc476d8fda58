"""What a run may take of the machine: memory, its least before anything is built, and threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import psutil
from threadpoolctl import ThreadpoolController

from wassgrid.errors import WassgridError

if TYPE_CHECKING:
    from wassgrid.case import Case
    from wassgrid.grid import StateGrid

GIB = 2**30
SHORT_RECURRENCE = 10  # vectors of BiCGSTAB
_KRYLOV_BYTES, _MOST_VECTORS, _LEAST_VECTORS = 1 << 28, 60, 15  # of a space for GMRES
_WORK = 3e7  # kernel weights of one evaluation that can be waited for
_DEVIATIONS = 8.5  # standard deviations that a kernel reaches to either side
_DOMAINS = 4.0  # lengths of the domain that noise may always have
_SAMPLE = 256  # cells whose noise is looked at


def krylov_vectors(cells: int) -> int:
    """Return how many vectors a Krylov space may hold: those of GMRES, or of a short recurrence where too few of them fit."""
    vectors = min(_MOST_VECTORS, _KRYLOV_BYTES // (8 * cells))
    return vectors if vectors >= _LEAST_VECTORS else SHORT_RECURRENCE


class ResourceError(WassgridError, ValueError):
    """A run that would not fit in memory; the message gives the estimate, the limit and the remedy."""


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS to one thread; also a decorator.

    Its threads would fight with those of the compiled kernels for the processor (a Krylov solve on 20,000 cells takes
    thirteen times as long), and the sums of its inner products depend on how many there are.
    """
    with _thread_pools().limit(limits=1, user_api="blas"):
        yield


@cache
def _thread_pools() -> ThreadpoolController:
    return ThreadpoolController()


def memory_limit(case: Case) -> float:
    """Return the limit in bytes: solver.memory, or 80 % of what is available now."""
    if case.solver.memory is not None:
        return float(case.solver.memory) * GIB
    return 0.8 * float(psutil.virtual_memory().available)


def require_narrow(case: Case, grid: StateGrid) -> None:
    """Raise ResourceError where noise is so wide, in grid points, that the kernels of an evaluation would never be done.

    The nodes that a kernel covers, counted in a sample of cells, times particles and cells.
    """
    sample = np.unique(np.linspace(0, grid.size - 1, min(_SAMPLE, grid.size)).astype(np.int64))
    with np.errstate(all="ignore"):
        ratio = case.problem.cell_tables(grid.states_of(sample)).noise.max(axis=0) / grid.spacing
    for k, name in enumerate(grid.names):
        width = grid.spacing[k] * grid.shape[k]
        most = _WORK / (2 * _DEVIATIONS * case.policy.particles * grid.size)
        # noise of several lengths of the domain lands anywhere on it; wider noise only takes longer
        most = max(most, _DOMAINS * grid.shape[k])
        if not ratio[k] <= most:
            raise ResourceError(
                f"states.{name}: noise of up to {ratio[k] * grid.spacing[k]:.3g} on a domain of {width:.3g} covers "
                f"{2 * _DEVIATIONS * ratio[k]:.3g} grid points from each of {grid.size:,} cells; up to "
                f"{most * grid.spacing[k]:.3g} can be computed: widen the domain, or take a shorter time step"
            )


def amount(count: float) -> str:
    """Return a number of bytes as people say it: `11.4 MiB`, `1.2 GiB`."""
    return f"{count / GIB:.3g} GiB" if count >= GIB else f"{count / 2**20:.3g} MiB"
