"""The transition operator of a policy:  P_pi[k, l] = sum_i w_ki prod_axes omega(x_l; f(s_k, a_ki), sigma)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from wassgrid import kernels
from wassgrid.grid import StateGrid
from wassgrid.kernels import Axes

if TYPE_CHECKING:
    from wassgrid.case import Case
    from wassgrid.problem.control_problem import ActionTables, ControlProblem

KERNELS = {"gaussian": kernels.GAUSSIAN, "linear": kernels.LINEAR, "cubic": kernels.CUBIC}
BOUNDARIES = {"clamp": kernels.CLAMP, "reflect": kernels.REFLECT, "periodic": kernels.PERIODIC}
RESOLVED = 0.8  # noise/spacing from which the Nystrom kernel is accurate: error 2 exp(-2 pi^2 0.64) = 7e-6
UNRESOLVED = 0.5  # noise/spacing below which it is refused: error 1.4e-2
_BLOCK_BYTES = 48 * 2**20  # of derivative tables held at once


class ResolutionError(ValueError):
    """Noise that the chosen kernel cannot carry on this grid; the message names the axis, cell and remedy."""


@dataclass(frozen=True)
class TransitionModel:
    """Hold the law of the next state on the grid, for any policy: noise, coupling and one kernel per axis.

    | name     | symbol  | shape          |
    |----------|---------|----------------|
    | noise    | sigma_j | (cells, d)     |
    | coupling | beta_ji | (cells, d, d)  |
    | kernels  | omega_j | d names        |
    """

    problem: ControlProblem
    grid: StateGrid
    kernels: tuple[str, ...]
    noise: np.ndarray
    coupling: np.ndarray

    @classmethod
    def from_case(cls, case: Case, grid: StateGrid | None = None) -> TransitionModel:
        """Build the model of a case; raise ResolutionError where the noise is finer than the grid can carry."""
        return cls.build(case.problem, grid or StateGrid.from_case(case), case.grid.kernel)

    @classmethod
    def build(
        cls, problem: ControlProblem, grid: StateGrid, kernel: str | Mapping[str, str] = "auto"
    ) -> TransitionModel:
        tables = problem.cell_tables(grid.states)
        noise = np.ascontiguousarray(tables.noise)
        chosen = []
        for j, name in enumerate(grid.names):
            wanted = kernel if isinstance(kernel, str) else kernel.get(name, "auto")
            ratio = noise[:, j] / grid.spacing[j]
            if wanted == "auto":
                wanted = "gaussian" if ratio.min() >= RESOLVED else "linear"
            finest = int(ratio.argmin())
            if wanted == "gaussian" and ratio[finest] < UNRESOLVED:
                raise ResolutionError(
                    f"grid.kernel.{name}: the gaussian kernel needs noise of at least {UNRESOLVED} cells per step, but it "
                    f"is {noise[finest, j]:.4g} on cells of {grid.spacing[j]:.4g} at {grid.describe_cell(finest)}. Use at least "
                    f"{_points_for(grid, j, noise[finest, j])} points or kernel = \"linear\"."
                    if noise[finest, j] > 0
                    else f"grid.kernel.{name}: the gaussian kernel needs noise, but there is none at "
                    f"{grid.describe_cell(finest)}. Use kernel = \"linear\" or \"cubic\", or align the axis."
                )
            if wanted == "cubic":
                if noise[:, j].any():
                    noisy = int(noise[:, j].argmax())
                    raise ResolutionError(
                        f"grid.kernel.{name}: the cubic kernel is for axes without noise, but there is noise "
                        f"{noise[noisy, j]:.4g} at {grid.describe_cell(noisy)}. Use \"gaussian\" or \"linear\"."
                    )
                if grid.shape[j] < 4:
                    raise ResolutionError(f"grid.points.{name}: the cubic kernel needs at least 4 points")
            chosen.append(wanted)
        return cls(problem, grid, tuple(chosen), noise, np.ascontiguousarray(tables.coupling))

    @cached_property
    def axes(self) -> Axes:
        """The description of the grid that the compiled kernels read."""
        shape = np.array(self.grid.shape, dtype=np.int64)
        lead = self._lead
        order = list(self.problem.order)
        if lead is not None:
            order = [lead, *(j for j in order if j != lead)]
        stride = np.append(np.cumprod(shape[:0:-1])[::-1], 1).astype(np.int64)
        return Axes(
            np.ascontiguousarray(self.grid.lower, dtype=float),
            np.ascontiguousarray(self.grid.spacing, dtype=float),
            shape,
            np.array([BOUNDARIES[b] for b in self.grid.boundary], dtype=np.int64),
            np.array([KERNELS[name] for name in self.kernels], dtype=np.int64),
            stride,
            np.array(order, dtype=np.int64),
            np.array(self.problem.coupled, dtype=np.bool_),
            lead is not None,
        )

    @cached_property
    def _lead(self) -> int | None:
        """The axis that alone moves with the actions and follows no other, if there is one in two or more dimensions.

        A guess from a few cells and actions that only saves time: the kernels check every cell.
        """
        if self.grid.dimension == 1:
            return None
        rng = np.random.default_rng(0)
        low, high = np.where(np.isfinite(self.problem.action_bounds), self.problem.action_bounds, [-1.0, 1.0]).T
        cells = np.unique(rng.integers(0, self.grid.size, 64))
        mean = self.tables(cells, rng.uniform(low, high, (cells.size, 3, low.size)), 0).mean
        moved = np.flatnonzero(np.ptp(mean, axis=1).max(axis=0) > 0)
        if moved.size != 1:
            return None
        lead = int(moved[0])
        followed = bool(np.any(self.problem.coupled[:, lead]))
        if np.any(self.problem.coupled[lead]) or (followed and self.grid.boundary[lead] == "periodic"):
            return None
        return lead

    @cached_property
    def width(self) -> int:
        """Largest number of nodes that one particle reaches on one axis."""
        reach = 2 * kernels.TAIL * self.noise.max(axis=0) / self.grid.spacing
        return int(np.ceil(reach.max())) + 6

    @cached_property
    def reach(self) -> float:
        """Number of nodes that one particle reaches, at most."""
        return float(np.prod(2 * kernels.TAIL * self.noise.max(axis=0) / self.grid.spacing + 2))

    def blocks(self, cells: int, particles: int) -> Iterator[slice]:
        """Cut cells into slices whose action tables (to second order) stay within a fixed memory."""
        d, m = self.grid.dimension, self.problem.action_bounds.shape[0]
        rows = max(1, _BLOCK_BYTES // (8 * particles * (d + 1) * (1 + m + m * m)))
        for start in range(0, cells, rows):
            yield slice(start, min(start + rows, cells))

    def means(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return means of the next state (cells, N, d) and stage costs (cells, N) at actions (cells, N, m)."""
        cells, particles, _ = actions.shape
        mean = np.empty((cells, particles, self.grid.dimension))
        cost = np.empty((cells, particles))
        for rows in self.blocks(cells, particles):
            tables = self.problem.action_tables(self.grid.states[rows], actions[rows], 0)
            mean[rows], cost[rows] = tables.mean, tables.cost
        return mean, cost

    def tables(self, cells: np.ndarray, actions: np.ndarray, order: int) -> ActionTables:
        """Return the problem's tables at actions (K, N, m) of chosen cells (K,)."""
        return self.problem.action_tables(self.grid.states[cells], actions, order)

    def operator(self, mean: np.ndarray, weights: np.ndarray) -> TransitionOperator:
        """Assemble P for particles with the given means (cells, N, d) and weights (cells, N)."""
        start = np.zeros(self.grid.size + 1, np.int64)
        counts = self.entries(np.arange(self.grid.size), mean, weights)
        np.cumsum(counts, out=start[1:])
        columns = np.empty(start[-1], np.int32)
        values = np.empty(start[-1])
        with kernels.threads_for(weights.size * self.reach):
            kernels.fill_rows(
                self.axes, self.width, mean, weights, self.noise, self.coupling, start, columns, values
            )
        return TransitionOperator(start, columns, values)

    def entries(self, cells: np.ndarray, mean: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Count the entries of chosen rows of P (K,) for means (K, N, d) and weights (K, N) of their particles."""
        with kernels.threads_for(weights.size * self.reach):
            counts: np.ndarray = kernels.count_entries(
                self.axes, self.width, cells, mean, weights, self.noise, self.coupling
            )
        return counts

    def expected(self, cells: np.ndarray, mean: np.ndarray, function: np.ndarray) -> np.ndarray:
        """Return E f(s') (K, N) for means (K, N, d) of chosen cells (K,), f given on all cells."""
        return self._expectations(cells, mean, None, None, function)[0]

    def expected_derivatives(
        self, cells: np.ndarray, tables: ActionTables, function: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return E f(s') with action gradient and Hessian, (K, N), (K, N, m), (K, N, m, m).

        tables of order 2 of chosen cells (K,); for tables of order 1 the Hessian is left out (no rows).
        """
        return self._expectations(cells, tables.mean, tables.mean_gradient, tables.mean_hessian, function)

    def _expectations(
        self,
        cells: np.ndarray,
        mean: np.ndarray,
        gradient: np.ndarray | None,
        hessian: np.ndarray | None,
        function: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        m = self.problem.action_bounds.shape[0]
        shape = (0, *mean.shape[1:], m)
        first = np.empty(shape) if gradient is None else gradient
        second = np.empty((*shape, m)) if hessian is None else hessian
        with kernels.threads_for(mean.shape[0] * mean.shape[1] * self.reach):
            result: tuple[np.ndarray, np.ndarray, np.ndarray] = kernels.expectations(
                self.axes, self.width, cells, mean, first, second, self.noise, self.coupling, function
            )
        return result

    def pushed_derivative(self, mean: np.ndarray, velocity: np.ndarray, mass: np.ndarray) -> np.ndarray:
        """Return sum_ki mass_ki d/dt p(. | s_k, mean_ki + t velocity_ki), a signed measure (cells,)."""
        with kernels.threads_for(mass.size * self.reach):
            measure: np.ndarray = kernels.push_derivative(
                self.axes, self.width, mean, velocity, mass, self.noise, self.coupling
            )
        return measure

    def resolution(self, policy_mean: np.ndarray, law: np.ndarray) -> list[dict[str, float | str]]:
        """Report per axis what noise the problem has and what noise the grid has, averaged over a law of cells.

        policy_mean (cells, d): mean of the next state for one action per cell. Each entry holds `state`, `kernel`,
        `physical` and `numerical` standard deviation per step (of the axis given the axes it follows; in units of the
        state) and `cells_per_noise`, the smallest noise/spacing.
        """
        moments = kernels.conditional_moments(self.axes, self.width, policy_mean, self.noise, self.coupling)
        report: list[dict[str, float | str]] = []
        for j, name in enumerate(self.grid.names):
            report.append(
                {
                    "state": name,
                    "kernel": self.kernels[j],
                    "physical": float(np.sqrt(law @ self.noise[:, j] ** 2)),
                    "numerical": float(np.sqrt(max(law @ moments[:, j, 1], 0.0))),
                    "cells_per_noise": float((self.noise[:, j] / self.grid.spacing[j]).min()),
                }
            )
        return report


def _points_for(grid: StateGrid, j: int, noise: float) -> int:
    length = grid.spacing[j] * (grid.shape[j] - 1)
    return int(np.ceil(RESOLVED * length / noise)) + 1


@dataclass(frozen=True)
class TransitionOperator:
    """Hold a Markov matrix P in rows (start, columns, values) and, made when first needed, its transpose.

    Rows sum to one to rounding. Both products run on all threads and are bit-identical for every number of threads.
    """

    start: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    @property
    def size(self) -> int:
        return self.start.size - 1

    @property
    def entries(self) -> int:
        return self.values.size

    @cached_property
    def bandwidth(self) -> float:
        """Mean width of a row about the diagonal, in cells."""
        rows = np.repeat(np.arange(self.size), np.diff(self.start))
        return float(np.mean(np.abs(self.columns - rows))) * 2 + 1

    @cached_property
    def _transposed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with kernels.threads_for(4 * self.entries):
            result: tuple[np.ndarray, np.ndarray, np.ndarray] = kernels.transpose(self.start, self.columns, self.values)
        return result

    def apply(self, function: np.ndarray) -> np.ndarray:
        """Return P f: the expectation of f at the next state, (cells,)."""
        return self._product((self.start, self.columns, self.values), function)

    def push(self, law: np.ndarray) -> np.ndarray:
        """Return mu P: the law of the next state, (cells,)."""
        return self._product(self._transposed, law)

    def _product(self, rows: tuple[np.ndarray, np.ndarray, np.ndarray], x: np.ndarray) -> np.ndarray:
        with kernels.threads_for(self.entries):
            y: np.ndarray = kernels.multiply(*rows, np.ascontiguousarray(x))
        return y

    def matrix(self) -> sparse.csr_array:
        """Return P as a SciPy matrix that shares the memory of this operator, for reading."""
        views = [array.view() for array in (self.values, self.columns, self.start)]
        for view in views:
            view.flags.writeable = False
        return sparse.csr_array(tuple(views), shape=(self.size, self.size))

    @classmethod
    def from_matrix(cls, matrix: np.ndarray | sparse.sparray) -> TransitionOperator:
        """Wrap any Markov matrix (finite chains; no grid)."""
        rows = sparse.csr_array(matrix)
        return cls(
            rows.indptr.astype(np.int64), rows.indices.astype(np.int32), np.ascontiguousarray(rows.data, dtype=float)
        )
