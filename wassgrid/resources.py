"""What a grid run takes of the machine: memory, estimated before it is spent, and threads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import psutil
from threadpoolctl import ThreadpoolController

if TYPE_CHECKING:
    from wassgrid.case import Case
    from wassgrid.grid import StateGrid
    from wassgrid.policy import ParticlePolicy
    from wassgrid.transition.model import TransitionModel

GIB = 2**30
SHORT_RECURRENCE = 10  # vectors of BiCGSTAB
_KRYLOV_BYTES, _MOST_VECTORS, _LEAST_VECTORS = 1 << 28, 60, 15  # of a space for GMRES
_WORK = 3e7  # kernel weights of one evaluation that can be waited for
_DEVIATIONS = 8.5  # standard deviations that a kernel reaches to either side
_DOMAINS = 4.0  # lengths of the domain that noise may always have
_FACTORISED = 1600  # entries of a row up to which a chain on one axis is factorised
_SAMPLE = 256  # rows of P that the number of entries is estimated from


def krylov_vectors(cells: int) -> int:
    """Return how many vectors a Krylov space may hold: those of GMRES, or of a short recurrence where too few of them fit."""
    vectors = min(_MOST_VECTORS, _KRYLOV_BYTES // (8 * cells))
    return vectors if vectors >= _LEAST_VECTORS else SHORT_RECURRENCE


class ResourceError(ValueError):
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


@dataclass(frozen=True)
class MemoryEstimate:
    """Hold the parts of the estimate in bytes: particle arrays, transition operator with transpose, Krylov vectors."""

    particles: float
    operator: float
    vectors: float

    @property
    def total(self) -> float:
        return self.particles + self.operator + self.vectors


def memory_limit(case: Case) -> float:
    """Return the limit in bytes: solver.memory, or 80 % of what is available now."""
    if case.solver.memory is not None:
        return float(case.solver.memory) * GIB
    return 0.8 * float(psutil.virtual_memory().available)


def estimate_memory(
    case: Case, grid: StateGrid, model: TransitionModel | None = None, policy: ParticlePolicy | None = None
) -> MemoryEstimate:
    """Estimate the memory of a run; without model and policy, of the particle arrays and vectors alone.

    The entries of P are counted in a sample of rows; in product form its weights are, where they are kept. Sparse LU is counted
    in one dimension: in more it is used only where it is small. Raises ResourceError for noise that no kernel carries.
    """
    require_narrow(case, grid)
    d, m = grid.dimension, case.problem.action_dimension
    # two evaluations: actions, means, cost, Q and its derivatives, weights; the best actions and their boxes
    particle = 8.0 * grid.size * case.policy.particles * 2 * (3 + d + 2 * m + m * m)
    # states, a Krylov space, and some thirty vectors at most
    cells = 8.0 * grid.size * (krylov_vectors(grid.size) + 30 + 3 * d + 4 * m)
    entries = 0.0
    if model is not None and model.product is not None:
        # of the policy before a step and after it
        kept = 2.0 * model.product.bytes_kept(case.policy.particles)
        if (fixed := model.conditioning) is not None:
            kept += 8.0 * grid.size * (fixed.moved.block + float(fixed.widths.sum()))
        return MemoryEstimate(particle, kept, cells)
    cells += 8.0 * grid.size * d * d
    if model is not None and policy is not None:
        sample = np.unique(np.linspace(0, grid.size - 1, min(_SAMPLE, grid.size)).astype(np.int64))
        tables = model.tables(sample, policy.actions[sample], 0)
        entries = float(model.entries(sample, tables.mean, policy.weights[sample]).mean())
    # 12 bytes per entry of P and of its transpose; with LU of I - g P, of that matrix twice while it is built, and of its factors
    each = 24.0 + (48.0 if d == 1 and entries <= _FACTORISED else 0.0)
    return MemoryEstimate(particle, each * grid.size * entries, cells)


def require_room(case: Case) -> None:
    """Raise ResourceError where a run cannot fit, whatever its grid or its chains turn out to be; takes no memory itself.

    A lower bound: the particle arrays of the grid points that the case gives, or the chains of its neural settings.
    """
    limit = memory_limit(case)
    if case.solver.kind == "neural":
        settings = case.neural
        if settings is None:
            return
        bytes_each = 8 if settings.precision == "float64" else 4
        d = case.problem.state_dimension
        for name, chains, steps in (
            ("neural.chains", settings.chains, max(settings.burn_in, settings.horizon + settings.tail)),
            ("neural.evaluation.chains", settings.evaluation.chains, 1),
        ):
            # the states along the chains and the noise that moves them are held at once
            per_chain = 2.0 * bytes_each * d * steps
            if chains * per_chain > limit:
                raise ResourceError(
                    f"{name}: {chains:,} chains would need at least {amount(chains * per_chain)}, more than the limit of "
                    f"{amount(limit)}; at most {int(limit / per_chain):,} fit"
                )
        return
    d, m = case.problem.state_dimension, case.problem.action_dimension
    cells = math.prod(count if isinstance(count, int) else 2 for count in case.grid.points.values())
    per_cell = 8.0 * (case.policy.particles * 2 * (3 + d + 2 * m + m * m) + 30 + 3 * d + 4 * m)
    if cells * per_cell > limit:
        raise ResourceError(
            f"grid.points: {cells:,} cells of {case.policy.particles:,} particles would need at least "
            f"{amount(cells * per_cell)}, more than the limit of {amount(limit)}; at most {int(limit / per_cell):,} cells fit, "
            "or fewer particles"
        )


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


def require_memory(case: Case, estimate: MemoryEstimate) -> None:
    """Raise ResourceError where the estimate is over the limit."""
    limit = memory_limit(case)
    if estimate.total > limit:
        parts = f"{amount(estimate.operator)} for the transition operator, {amount(estimate.particles)} for the particles"
        raise ResourceError(
            f"grid.points: the run would need about {amount(estimate.total)} ({parts}), more than the limit of "
            f"{amount(limit)}; use fewer points or particles, or raise solver.memory"
        )
