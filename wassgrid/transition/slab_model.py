"""The law of the next state for processes that share the cells of a grid, each of which has a slab of them.

What is local stays as it is, on the grid of the slab: particles, tables, collisions. What crosses slabs: the rows that the
streaming wants of others (`exchange`), or, where no axis is streamed or the law is no product, the whole of a function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from wassgrid.grid import StateGrid
from wassgrid.grid.slabs import Slabs
from wassgrid.transition.exchange import Exchange
from wassgrid.transition.model import Expectation, TransitionModel, passes_of
from wassgrid.transition.operator import MarkovOperator
from wassgrid.transition.product_law import Conditioning, Cut, FollowerLaw, Passes

if TYPE_CHECKING:
    from wassgrid.problem.control_problem import ControlProblem


def cut_axis(problem: ControlProblem, grid: StateGrid) -> int:
    """Return the axis along which a grid is cut: the first one in memory, which is streamed where any is."""
    passes = passes_of(problem, grid)
    return 0 if passes is None else passes.order[0]


@dataclass(frozen=True)
class SlabModel(TransitionModel):
    """Hold the law on the cells of one process: grid and noise are those of its slab (see `TransitionModel`).

    Functions and laws are those of its own cells, (own cells,); what `expectation` and the operators return too.

    | name     | meaning                                            |
    |----------|----------------------------------------------------|
    | slabs    | how the cells are shared out                       |
    | of       | facts of the model on the whole grid               |
    """

    slabs: Slabs | None = None
    of: Facts | None = None

    @classmethod
    def share(cls, whole: TransitionModel, slabs: Slabs) -> SlabModel:
        """Return the part of a model that belongs to this process."""
        if whole.noise.strides[0] == 0:
            noise = np.broadcast_to(whole.noise[0], (slabs.grid.size, whole.noise.shape[1]))
        else:
            noise = slabs.own(whole.noise)
        facts = Facts(tuple(whole.nodes), whole.lead, whole.shared_noises, slabs.own(whole.start_law))
        return cls(whole.problem, slabs.grid, whole.kernels, noise, whole.reasons, slabs, facts)

    @property
    def _slabs(self) -> Slabs:
        assert self.slabs is not None
        return self.slabs

    @property
    def _facts(self) -> Facts:
        assert self.of is not None
        return self.of

    @property
    def nodes(self) -> list[float]:
        return list(self._facts.nodes)

    @property
    def lead(self) -> int | None:
        return self._facts.lead

    @property
    def shared_noises(self) -> tuple[float, ...]:
        return self._facts.shared_noises

    @property
    def start_law(self) -> np.ndarray:
        return self._facts.start_law

    @property
    def cut(self) -> Cut | None:
        slabs = self._slabs
        return Cut(self.grid.shape, lambda wanted: Exchange.of(slabs.ranks, slabs.bounds, wanted))

    def _followers(self, passes: Passes) -> list[FollowerLaw] | None:
        found = TransitionModel._followers(self, passes)
        return found if self._all(found is not None) else None

    @cached_property
    def conditioning(self) -> Conditioning | None:
        found: Conditioning | None = TransitionModel.conditioning.func(self)  # type: ignore[attr-defined]
        return found if self._all(found is not None) else None

    def _all(self, here: bool) -> bool:
        return bool(self._slabs.ranks.numbers(np.array([float(here)])).all())

    def on_grid(self, grid: StateGrid) -> TransitionModel:
        """Return the model on the whole of another grid."""
        return TransitionModel(self.problem, self.grid, self.kernels, self.noise).on_grid(grid)

    def means(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._slabs.ranks.agreed(lambda: TransitionModel.means(self, actions))

    def _operator(self, mean: np.ndarray, weights: np.ndarray) -> MarkovOperator:
        def rows(cells: np.ndarray) -> sparse.csr_array:
            return self.rows(cells, mean[cells], weights[cells])

        if self.product is None:
            return SlabRows(self._slabs, rows(np.arange(self.grid.size)), self.markov)
        own = self.product.operator(mean, weights, self.markov, rows)
        return SlabOperator(self._slabs, self.markov, own.work, own.entries, own.apply, own.push, rows)

    def expectation(self, function: np.ndarray) -> Expectation:
        """Prepare the expectations of a function f (own cells,): all processes together, once."""
        _ = self.conditioning
        if self.product is None:
            return Expectation(self, self._slabs.everything(np.asarray(function, dtype=float)))
        found = SlabExpectation(self, np.ascontiguousarray(function, dtype=float), {})
        _ = found.streamed
        return found

    def pushed_derivative(self, mean: np.ndarray, velocity: np.ndarray, mass: np.ndarray) -> np.ndarray:
        raise NotImplementedError("Hessians of J are not shared by several processes")


@dataclass(frozen=True)
class Facts:
    """What of a model depends on the whole grid: see `TransitionModel`; start_law (own cells,)."""

    nodes: tuple[float, ...]
    lead: int | None
    shared_noises: tuple[float, ...]
    start_law: np.ndarray


@dataclass(frozen=True)
class SlabExpectation(Expectation):
    """Expectations whose U is kept as long as they are: to make it again is an exchange, for which nobody else would be there."""

    made: dict[str, np.ndarray]

    def _kept(self, name: str, table: Callable[[np.ndarray], np.ndarray], of: Callable[[], np.ndarray]) -> np.ndarray:
        if name not in self.made:
            self.made[name] = table(of())
        return self.made[name]


class SlabOperator:
    """The Markov operator of a policy on shared cells: functions and measures are those of the own cells (see `MarkovOperator`).

    Work, entries and bandwidth are those of all processes; rows are those of own cells, with the columns of the whole grid, and
    `matrix` is the whole of P, in every process.
    """

    def __init__(
        self, slabs: Slabs, nonnegative: bool, work: float, entries: float,
        apply: Callable[[np.ndarray], np.ndarray], push: Callable[[np.ndarray], np.ndarray],
        rows: Callable[[np.ndarray], sparse.csr_array],
    ) -> None:  # fmt: skip
        self._slabs, self.nonnegative = slabs, nonnegative
        self.apply, self.push, self.rows = apply, push, rows
        self.work, found = slabs.ranks.numbers(np.array([work, entries])).sum(axis=0).tolist()
        self.entries = int(found)

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def size(self) -> int:
        return self._slabs.grid.size

    @property
    def bandwidth(self) -> float:
        return float(self._slabs.whole.size)

    @cached_property
    def _matrix(self) -> sparse.csr_array:
        numbers = self._slabs.grid.numbers
        parts = self._slabs.ranks.everyone((numbers, self.rows(np.arange(numbers.size))))
        place = np.empty(self._slabs.whole.size, np.int64)
        place[np.concatenate([own for own, _ in parts])] = np.arange(place.size)
        return sparse.csr_array(sparse.vstack([rows for _, rows in parts], format="csr"))[place]

    def matrix(self) -> sparse.csr_array:
        return self._matrix


class SlabRows(SlabOperator):
    """The same where the law is no product, by the own rows of P as a matrix (own cells, cells)."""

    def __init__(self, slabs: Slabs, rows: sparse.csr_array, nonnegative: bool) -> None:
        self._rows, self._columns = rows, sparse.csr_array(rows.T)
        super().__init__(
            slabs, nonnegative or not bool((rows.data < 0).any()), 4.0 * rows.nnz, rows.nnz, self._applied, self._pushed,
            lambda cells: rows[cells],
        )  # fmt: skip
        signs = slabs.ranks.numbers(np.array([float(self.nonnegative)]))
        self.nonnegative = bool(signs.all())

    def _applied(self, function: np.ndarray) -> np.ndarray:
        return np.asarray(self._rows @ self._slabs.everything(np.asarray(function, dtype=float)))

    def _pushed(self, measure: np.ndarray) -> np.ndarray:
        return self._slabs.own(self._slabs.ranks.added(self._columns @ np.asarray(measure, dtype=float)))

    @cached_property
    def bandwidth(self) -> float:
        """Mean width of a row about the diagonal, in cells."""
        here = np.repeat(self._slabs.grid.numbers, np.diff(self._rows.indptr))
        apart = float(np.abs(self._rows.indices - here).sum())
        return float(self._slabs.ranks.numbers(np.array([apart])).sum()) / self.entries * 2 + 1
