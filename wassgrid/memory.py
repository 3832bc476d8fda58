"""The memory of a run before it is spent, counted from the shapes of the arrays that it holds at once."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wassgrid.case.neural_tables import NeuralSettings
from wassgrid.certificate.best_actions import probe_pattern, searched_at_once
from wassgrid.certificate.branch_and_bound import boxes_at_once
from wassgrid.chain.classes import LISTED
from wassgrid.chain.coarse import rows_are_light
from wassgrid.chain.fundamental import DIRECT_COST, factorisation_products
from wassgrid.chain.reductions import shared
from wassgrid.evaluation import Evaluator
from wassgrid.ranks import started
from wassgrid.resources import ResourceError, amount, krylov_vectors, memory_limit, require_narrow
from wassgrid.transition.model import BLOCK_BYTES
from wassgrid.transition.threads import TEAM

if TYPE_CHECKING:
    from wassgrid.case import Case
    from wassgrid.grid import StateGrid
    from wassgrid.policy import ParticlePolicy
    from wassgrid.transition.model import TransitionModel

_SAMPLE = 256  # rows of P that the number of entries is estimated from
_POLICIES = 2  # of which everything is known at once: before a step and after it
_TABLES = 3  # of Q and its derivatives: the last policy is evaluated roughly, then to the tolerance
_KNOWN = 5  # vectors of one policy: law, value, residual, the best Q and its lead
_SPARE = 16  # vectors of a solve and of what is drawn from it: iterates, residuals, images, U before and after its passes
_ENTRY = 12  # bytes of an entry of a sparse matrix
_EDGES = 17  # bytes of an entry while its classes are found: int8 and int32, then float64 and int32


@dataclass(frozen=True)
class MemoryEstimate:
    """Hold the parts of the estimate in bytes.

    particles: what is known at every particle; operator: P of two policies; vectors: what is known of every cell; work: the most
    that a solve, the search for the best actions, or a proof needs beside.
    """

    particles: float
    operator: float
    vectors: float
    work: float

    @property
    def total(self) -> float:
        return self.particles + self.operator + self.vectors + self.work


def estimate_memory(
    case: Case, grid: StateGrid, model: TransitionModel | None = None, policy: ParticlePolicy | None = None
) -> MemoryEstimate:
    """Estimate the memory of a run; without model and policy, of what is held of particles and cells alone.

    Entries of P, and of the rows of a coarse correction, are counted in a sample; factors are taken to fill the band of the rows.
    Raises ResourceError for noise that no kernel carries.
    """
    require_narrow(case, grid)
    n, d, m, particles = grid.size, grid.dimension, case.problem.action_dimension, case.policy.particles
    at_particles, vectors = (n * each for each in _cell_bytes(case))
    krylov = 8.0 * n * (krylov_vectors(n) + 1)
    if model is None or policy is None:
        return MemoryEstimate(at_particles, 0.0, vectors, krylov)
    if model.noise.strides[0]:
        vectors += 8.0 * n * d
    tables = (d + 1) * (1 + m + m * m)
    search, proof = _search_bytes(n, m, tables), _proof_bytes(n, d, m, tables)
    # Hessians of a Newton step, their vectors, and what is made of them; not all at once for one and two actions
    step = 8.0 * n * particles * 5 * m * m if m > 2 else 0.0
    search = max(search, step, 2.0 * min(8.0 * n * particles * tables, BLOCK_BYTES))
    sample = np.unique(np.linspace(0, n - 1, min(_SAMPLE, n)).astype(np.int64))
    if model.product is None:
        operator, solve = _assembled_bytes(model, policy, sample)
        return MemoryEstimate(at_particles, operator, vectors + 8.0 * n * d * d, max(solve, krylov, search, proof))
    mean = model.tables(sample, policy.actions[sample], 0).mean
    operator = _POLICIES * model.product.operator_bytes(mean) + model.product.bytes
    if (plain := model.plain_product) is not model.product and plain is not None:
        operator += plain.bytes
    if (fixed := model.conditioning) is not None:
        operator += 8.0 * n * (fixed.moved.block + 2 + float(fixed.widths.sum()))
    factors = 0.0
    if (skeleton := Evaluator.from_case(case, model).skeleton) is not None:
        factors = 8.0 * skeleton.size**2
        operator += factors
        if shared() is None:
            nodes = skeleton.cells[np.unique(np.linspace(0, skeleton.size - 1, min(_SAMPLE, skeleton.size)).astype(np.int64))]
            rows = skeleton.size * _mean_entries(model, policy, nodes)
            # by the time that it counts particles have come together
            work = model.product.work_of(model.product.collision.width, model.product.laws(particles))
            operator += _ENTRY * rows if rows_are_light(rows, work) else 0.0
    solve = krylov + factors  # P_c beside its factors
    entries = model.product.entries(mean)
    summary = (_ENTRY + _EDGES) * entries if entries <= LISTED else 0.0
    return MemoryEstimate(at_particles, operator, vectors, max(solve, search, proof, summary))


def _cell_bytes(case: Case) -> tuple[float, float]:
    """Return the bytes of a cell: of what is known at its particles, and of vectors."""
    d, m = case.problem.state_dimension, case.problem.action_dimension
    # actions, weights, means, costs; Q with its derivatives
    at_particles = _POLICIES * (m + d + 2) + _TABLES * (1 + m + m * m)
    limits = 0 if case.problem.limits is None else 2 * m
    return 8.0 * case.policy.particles * at_particles, 8.0 * (_POLICIES * (_KNOWN + m) + d + limits + _SPARE)


def _limit(case: Case) -> float:
    """Return the limit in bytes of this process: those that share the cells have equal parts of their machine."""
    slabs = shared()
    return memory_limit(case) / (1 if slabs is None else slabs.ranks.here)


def require_room(case: Case) -> None:
    """Raise ResourceError where a run cannot fit, whatever its grid turns out to be; takes no memory itself.

    A lower bound: what is known of the particles and cells of the grid points that the case gives.
    """
    # processes that share the run are on as many machines at most
    limit, per_cell = memory_limit(case) * started()[0], sum(_cell_bytes(case))
    cells = math.prod(count if isinstance(count, int) else 2 for count in case.grid.points.values())
    if cells * per_cell > limit:
        raise ResourceError(
            f"grid.points: {cells:,} cells of {case.policy.particles:,} particles would need at least "
            f"{amount(cells * per_cell)}, more than the limit of {amount(limit)}; at most {int(limit / per_cell):,} cells fit, "
            "or fewer particles"
        )


def _mean_entries(model: TransitionModel, policy: ParticlePolicy, cells: np.ndarray) -> float:
    """Return the mean number of entries of some rows of P."""
    mean = model.tables(cells, policy.actions[cells], 0).mean
    return float(model.entries(cells, mean, policy.weights[cells]).mean())


def _assembled_bytes(model: TransitionModel, policy: ParticlePolicy, sample: np.ndarray) -> tuple[float, float]:
    """Return the bytes of P and its transpose for two policies, with factors where these are made, and of making them."""
    mean = model.tables(sample, policy.actions[sample], 0).mean
    rows = model.rows(sample, mean, policy.weights[sample])
    row = rows.nnz / sample.size
    apart = np.abs(rows.indices - np.repeat(sample, np.diff(rows.indptr))).mean()
    n = model.grid.size
    entries = n * row
    held, work = _POLICIES * 2.0 * _ENTRY * entries, _EDGES * entries
    if factorisation_products(n, entries, 2.0 * float(apart) + 1.0) <= DIRECT_COST:
        # the factors of the policy before and I - g P thrice on its way to new ones; then both
        held, work = held + _ENTRY * entries, max(3.0 * _ENTRY, _ENTRY + _EDGES) * entries
    return held, work


def _search_bytes(n: int, m: int, tables: int) -> float:
    """Return the bytes of the search for the best actions: of many probes in some cells, and tables of one action in each."""
    first = probe_pattern(m)[1]
    probes = max(int(first.sum()), int((~first).sum()))
    # probes, moves; Q, what is expected of it and what that is made of
    return 8.0 * min(n, TEAM.size * searched_at_once(m)) * (probes * (2 * m + 8) + 3 * tables)


def _proof_bytes(n: int, d: int, m: int, tables: int) -> float:
    """Return the bytes of bounding Q on some boxes: means and costs, their ranges, those of E V, and of Q' and Q''."""
    ranges = 5 * tables + 5 * d * d + 4 * d + 4 * (m + 1) ** 2 + 32
    return 8.0 * min(n, TEAM.size * boxes_at_once(m)) * ranges


def estimate_chains(case: Case, chains: int | None = None) -> float:
    """Estimate the bytes of a neural run, by default with the chains of the case: those of one step, or of the burn-in.

    A step holds its window and what the network keeps of every sample to carry changes of parameters to actions and back.
    """
    settings = case.neural or NeuralSettings.model_validate({})
    chains = settings.chains if chains is None else chains
    d, m, hidden = case.problem.state_dimension, case.problem.action_dimension, settings.hidden
    steps, samples = settings.horizon + settings.tail, settings.horizon * chains
    random = d + settings.latent_dimension
    # states twice, visited and kept for the way back, costs twice; gradients in the actions
    window = chains * steps * (random + 2 * d + 2) + samples * m
    # every layer keeps what it hands on and its derivative; two of the next one and one of the last are made on the way
    kept, widths = 2 * sum(hidden), (d, *hidden, m)
    passing = max(2 * here + last for last, here in itertools.pairwise(widths))
    step = window + samples * kept
    if settings.method == "natural":
        chosen = min(settings.in_metric, samples)
        together = {"cg": 0, "kernel": chosen * m, "nystrom": settings.rank}[settings.metric_solver]
        solve = chosen * max(passing, together * (m + sum(hidden) + max(hidden, default=0)))
        step += solve + (chosen * kept + samples * max(hidden, default=m) if chosen < samples else 0)
    else:
        step += samples * max(hidden, default=m)
    if settings.value != "none":
        # shifts of the states and slopes of V; slopes as functions of its parameters, forwards and back
        fit = 20 * d + (8 * sum(hidden) + 2 * passing if settings.value == "network" else 0)
        step = chains * steps * 2 * d + max(step, window + samples * fit)
    return _number(settings) * max(step, chains * settings.burn_in * (random + d + 2))


def _number(settings: NeuralSettings) -> float:
    return 8.0 if settings.precision == "float64" else 4.0


def require_chains(case: Case) -> None:
    """Raise ResourceError where the chains of a neural run, or of its evaluation, would not fit; takes no memory itself."""
    settings, limit = case.neural or NeuralSettings.model_validate({}), memory_limit(case)
    if (needed := estimate_chains(case)) > limit:
        fits, beyond = 0, settings.chains
        while beyond - fits > 1:
            middle = (fits + beyond) // 2
            fits, beyond = (middle, beyond) if estimate_chains(case, middle) <= limit else (fits, middle)
        raise ResourceError(
            f"neural.chains: {settings.chains:,} chains would need about {amount(needed)}, more than the limit of "
            f"{amount(limit)}; at most {fits:,} fit"
        )
    # the random numbers of a batch of steps, states and costs
    random = 2 * case.problem.state_dimension + settings.latent_dimension + 2
    each = _number(settings) * math.isqrt(settings.evaluation.steps) * random
    if settings.evaluation.chains * each > limit:
        raise ResourceError(
            f"neural.evaluation.chains: {settings.evaluation.chains:,} chains would need about "
            f"{amount(settings.evaluation.chains * each)}, more than the limit of {amount(limit)}; at most "
            f"{int(limit / each):,} fit"
        )


def require_memory(case: Case, estimate: MemoryEstimate) -> None:
    """Raise ResourceError where the estimate is over the limit."""
    limit = _limit(case)
    if estimate.total > limit:
        parts = f"{amount(estimate.operator)} for the transition operator, {amount(estimate.particles)} for the particles"
        raise ResourceError(
            f"grid.points: the run would need about {amount(estimate.total)} ({parts}), more than the limit of "
            f"{amount(limit)}; use fewer points or particles, or raise solver.memory"
        )
