"""The transition operator of a policy:  P_pi[k, l] = sum_i w_ki prod_axes omega(x_l; f(s_k, a_ki), sigma)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from wassgrid.errors import WassgridError
from wassgrid.grid import StateGrid
from wassgrid.grid.start import law_on_grid
from wassgrid.problem.model import ProblemError
from wassgrid.transition.axis_kernels import AXIS_KERNELS
from wassgrid.transition.axis_kernels.facts import AxisKernel
from wassgrid.transition.compiled import BOUNDARIES, PROJECT, TRUNCATE
from wassgrid.transition.expectations import expectations, push_derivative
from wassgrid.transition.goal import GoalOperator, GridGoal
from wassgrid.transition.latest import Latest
from wassgrid.transition.operator import MarkovOperator
from wassgrid.transition.product_law import AxisTable, Conditioning, Cut, FollowerLaw, Passes, ProductLaw
from wassgrid.transition.smoothing import shared_noise
from wassgrid.transition.sparse import Rows, TransitionOperator, assembled_rows, count_entries
from wassgrid.transition.together import Together
from wassgrid.transition.walk import Axes

if TYPE_CHECKING:
    from wassgrid.case import Case
    from wassgrid.problem.control_problem import ActionTables, ControlProblem

_CELLS_AT_ONCE = 1 << 18  # whose tables are held at once
_ABOUT_AS_MUCH = 1.5  # kernels that add up to so many times the least are equally good, and the first is the cheapest
_SHOWS = 1e-100  # of the spacing: noise whose square is still a number
_SPARE = 3  # nodes of a buffer beyond the bound
BLOCK_BYTES = 48 * 2**20  # of derivative tables held at once


class ResolutionError(WassgridError, ValueError):
    """Noise that the chosen kernel cannot carry on this grid; the message names the axis, cell and remedy."""


def passes_of(problem: ControlProblem, grid: StateGrid) -> Passes | None:
    """Return which axes of a law in product form are streamed, which collided; see `TransitionModel.passes`."""
    if grid.dimension == 1:
        return None
    return Passes.of(problem.dependence, [boundary == "periodic" for boundary in grid.boundary])


@dataclass(frozen=True)
class TransitionModel:
    """Hold the law of the next state on the grid, for any policy: noise and one kernel per axis.

    | name     | symbol  | shape          |
    |----------|---------|----------------|
    | noise    | sigma_j | (cells, d)     |
    | kernels  | omega_j | d names        |

    reasons: why `auto` took the kernel of an axis, by its name; axes whose kernel was given are not among them.
    """

    problem: ControlProblem
    grid: StateGrid
    kernels: tuple[str, ...]
    noise: np.ndarray
    reasons: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_case(cls, case: Case, grid: StateGrid | None = None) -> TransitionModel:
        """Build the model of a case; raise ResolutionError where the noise is finer than the grid can carry."""
        return cls.build(case.problem, grid or StateGrid.from_case(case), case.grid.kernel)

    @classmethod
    def build(
        cls, problem: ControlProblem, grid: StateGrid, kernel: str | Mapping[str, str] = "auto"
    ) -> TransitionModel:
        noise = _noise(problem, grid)
        chosen, reasons = [], {}
        for j, name in enumerate(grid.names):
            wanted = kernel if isinstance(kernel, str) else kernel.get(name, "auto")
            ratio = noise[:, j] / grid.spacing[j]
            if wanted == "auto":
                wanted = _least_adding(ratio)
                reasons[name] = _reason(AXIS_KERNELS[wanted], ratio)
            _require_carried(AXIS_KERNELS[wanted], grid, j, noise[:, j])
            chosen.append(wanted)
        return cls(problem, grid, tuple(chosen), noise, reasons)

    def on_grid(self, grid: StateGrid) -> TransitionModel:
        """Return the model on another grid of the same problem; a kernel that the grid cannot carry gives way to `auto`."""
        noise = _noise(self.problem, grid)
        kernels: dict[str, str] = {}
        for j, name in enumerate(grid.names):
            kernels[name] = self.kernels[j]
            try:
                _require_carried(AXIS_KERNELS[self.kernels[j]], grid, j, noise[:, j])
            except ResolutionError:
                kernels[name] = "auto"
        return self.build(self.problem, grid, kernels)

    @cached_property
    def start_law(self) -> np.ndarray:
        """The law rho (cells,) of the first state on the nodes."""
        return law_on_grid(self.problem.start, self.grid, self.problem.domain)

    @cached_property
    def goal(self) -> GridGoal | None:
        """The goal on the grid, None where the problem has none.  Raises ProblemError for one of no or of all cells."""
        return None if self.problem.goal is None else GridGoal.of(self.problem, self.grid, self.start_law)

    @cached_property
    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest actions of every cell, (cells, 1, m) each, as tables of particles take them; infinite: none.

        May be read-only views. Raises ProblemError where the bounds of an action cross in a cell, or are no numbers there.
        """
        low, high = self.problem.limits_at(self.grid.states)
        return low[:, None], high[:, None]

    @cached_property
    def latest(self) -> Latest:
        """Tables of the expectations of one function."""
        return Latest()

    @cached_property
    def coupling(self) -> np.ndarray:
        """beta (cells, d, d): what the walk needs, and the product form does not."""
        return np.ascontiguousarray(self.problem.cell_tables(self.grid.states).coupling)

    @cached_property
    def cell_noise(self) -> np.ndarray:
        """The noise as the walk takes it: an entry for every cell."""
        return np.ascontiguousarray(self.noise)

    @cached_property
    def product(self) -> ProductLaw | None:
        """The law as a product of streamed and collided axes, wide noise in two parts; None where it is not of this form.

        None on a line too: there P is a narrow band, and its factors serve every solve.
        """
        return self._product(split=True)

    @cached_property
    def plain_product(self) -> ProductLaw | None:
        """`product` with every noise in one part: what bounds of the kernels' weights speak of."""
        product = self.product
        return product if product is None or not any(product.smoothings) else self._product(split=False)

    def _product(self, split: bool) -> ProductLaw | None:
        passes = self.passes
        if passes is None:
            return None
        axes = self.axes
        reach = np.ceil(np.array(self.nodes)).astype(np.int64)
        table = AxisTable(axes.lower, axes.spacing, axes.size, axes.boundary, axes.kernel, reach)
        followers = self._followers(passes)
        if followers is None:
            return None
        noise = self.noise[:1].copy() if self.noise.strides[0] == 0 else self.noise
        # the laws that ends cut or gather are not those of two parts
        wide = [j for j in passes.collided if axes.boundary[j] not in (PROJECT, TRUNCATE)]
        shared = [
            part if kernel.composes and j in wide and split else 0.0
            for j, (kernel, part) in enumerate(zip(self.axis_kernels, self.shared_noises, strict=True))
        ]
        return ProductLaw.build(passes, table, followers, noise, shared, self.cut)

    @cached_property
    def shared_noises(self) -> tuple[float, ...]:
        """The part of the noise of every axis that a smoothing could take over."""
        noise = self.noise[:1] if self.noise.strides[0] == 0 else self.noise
        return tuple(shared_noise(noise[:, j], float(h)) for j, h in enumerate(self.grid.spacing))

    @cached_property
    def passes(self) -> Passes | None:
        """Which axes of a law in product form are streamed, which collided; None on a line, and where it is not of this form."""
        return passes_of(self.problem, self.grid)

    @property
    def cut(self) -> Cut | None:
        """The slab of this process, where several share the grid."""
        return None

    def _followers(self, passes: Passes) -> list[FollowerLaw] | None:
        """Tabulate the laws of the streamed axes; None where they are not finite at an action that no policy takes."""
        try:
            return [self._follower(passes, j) for j in passes.streamed]
        except ValueError:
            return None

    def _follower(self, passes: Passes, j: int) -> FollowerLaw:
        """Tabulate the law of a streamed axis over the axes that it depends on, those that it follows at their nodes."""
        grid, depends, follows = self.grid, self.problem.dependence, self.problem.coupled[j]
        entering = {j, *np.flatnonzero(depends.present[j]).tolist(), *np.flatnonzero(follows).tolist()}
        order = [i for i in (*sorted(passes.streamed), *passes.collided) if i in entering]
        states = np.tile([axis[0] for axis in grid.axes], (int(np.prod([grid.shape[i] for i in order])), 1))
        for i, nodes in zip(order, np.meshgrid(*[grid.axes[i] for i in order], indexing="ij"), strict=True):
            states[:, i] = nodes.ravel()
        anything = np.tile(self.problem.some_action, (len(states), 1, 1))
        cell = self.problem.cell_tables(states)
        # alpha_j + sum_i beta_ji x'_i; a present and a realised coordinate of the same axis never enter together
        mean = self.problem.action_tables(states, anything, 0).mean[:, 0, j]
        for i in np.flatnonzero(follows).tolist():
            mean = mean + cell.coupling[:, j, i] * states[:, i]
        return FollowerLaw(j, tuple(order), np.ascontiguousarray(mean), np.ascontiguousarray(cell.noise[:, j]))

    @cached_property
    def conditioning(self) -> Conditioning | None:
        """What no action changes of a law in product form, where that is worth a table."""
        if self.product is None or not self.product.collision.moved:
            return None
        action = self.problem.some_action
        anything = np.broadcast_to(action, (self.grid.size, 1, action.size))
        try:
            mean = self.means(anything)[0][:, 0]
        except ProblemError:  # not finite at an action that no policy takes
            return None
        return self.product.conditioning(mean)

    @cached_property
    def axes(self) -> Axes:
        """The description of the grid that the compiled kernels read."""
        grid = self.grid.whole
        shape = np.array(grid.shape, dtype=np.int64)
        lead = self.lead
        order = list(self.problem.order)
        if lead is not None:
            order = [lead, *(j for j in order if j != lead)]
        stride = np.append(np.cumprod(shape[:0:-1])[::-1], 1).astype(np.int64)
        return Axes(
            np.ascontiguousarray(grid.lower, dtype=float),
            np.ascontiguousarray(grid.spacing, dtype=float),
            shape,
            np.array([BOUNDARIES[b] for b in grid.boundary], dtype=np.int64),
            np.array([kernel.code for kernel in self.axis_kernels], dtype=np.int64),
            stride,
            np.array(order, dtype=np.int64),
            np.array(self.problem.coupled, dtype=np.bool_),
            lead is not None,
        )

    @cached_property
    def lead(self) -> int | None:
        """The axis that alone moves with the actions and follows no other, if there is one in two or more dimensions.

        A guess from a few cells and actions that only saves time: the kernels check every cell.
        """
        if self.grid.dimension == 1:
            return None
        rng = np.random.default_rng(0)
        cells = np.unique(rng.integers(0, self.grid.size, 64))
        low, high = (limit[:, None] for limit in self.problem.limits_at(self.grid.states_of(cells)))
        low, high = np.where(np.isfinite(low), low, -1.0), np.where(np.isfinite(high), high, 1.0)
        some = rng.uniform(low, high, (cells.size, 3, low.shape[2]))
        if self.problem.choices is not None:
            some = np.broadcast_to(self.problem.choices, (cells.size, *self.problem.choices.shape))
        elif self.problem.mixed:
            numbers = rng.integers(0, len(self.problem.combinations), some.shape[:2])
            some = self.problem.chosen(some, self.problem.combinations[numbers])
        mean = self.problem.action_tables(self.grid.states_of(cells), some, 0).mean
        moved = np.flatnonzero(np.ptp(mean, axis=1).max(axis=0) > 0)
        if moved.size != 1:
            return None
        lead = int(moved[0])
        followed = bool(np.any(self.problem.coupled[:, lead]))
        if np.any(self.problem.coupled[lead]) or (followed and self.grid.boundary[lead] == "periodic"):
            return None
        return lead

    @property
    def axis_kernels(self) -> tuple[AxisKernel, ...]:
        """What the kernel of every axis states of itself."""
        return tuple(AXIS_KERNELS[name] for name in self.kernels)

    @property
    def markov(self) -> bool:
        """Whether rows of P are probabilities for every policy."""
        return all(kernel.nonnegative for kernel in self.axis_kernels)

    @cached_property
    def nodes(self) -> list[float]:
        """Bound of the number of nodes that one particle reaches, per axis."""
        widest = self.noise.max(axis=0) / self.grid.spacing
        return [kernel.nodes(float(noise)) for kernel, noise in zip(self.axis_kernels, widest, strict=True)]

    @cached_property
    def width(self) -> int:
        """Length of buffers for the nodes that one particle reaches on one axis."""
        return int(np.ceil(max(self.nodes))) + _SPARE

    @cached_property
    def reach(self) -> float:
        """Number of nodes that one particle reaches, at most."""
        return float(np.prod(self.nodes))

    @cached_property
    def work(self) -> float:
        """Elementary operations of one product with P of a policy of one particle."""
        return self.grid.size * self.reach if self.product is None else self.product.work

    def blocks(self, cells: int, particles: int) -> Iterator[slice]:
        """Cut cells into slices whose action tables (to second order) stay within a fixed memory."""
        d, m = self.grid.dimension, self.problem.action_bounds.shape[0]
        rows = max(1, BLOCK_BYTES // (8 * particles * (d + 1) * (1 + m + m * m)))
        for start in range(0, cells, rows):
            yield slice(start, min(start + rows, cells))

    def means(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return means of the next state (cells, N, d) and stage costs (cells, N) at actions (cells, N, m)."""
        together = Together.of(actions)
        if together.saves:
            mean, cost = self._means(together.cells, together.chosen(actions)[:, None])
            return mean[:, 0][together.number], cost[:, 0][together.number]
        return self._means(np.arange(self.grid.size), actions)

    def _means(self, chosen: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return means (K, N, d) and costs (K, N) at actions (K, N, m) of chosen cells (K,)."""
        cells, particles, _ = actions.shape
        mean = np.empty((cells, particles, self.grid.dimension))
        cost = np.empty((cells, particles))
        for rows in self.blocks(cells, particles):
            tables = self.tables(chosen[rows], actions[rows], 0)
            mean[rows], cost[rows] = tables.mean, tables.cost
        return mean, cost

    def tables(self, cells: np.ndarray, actions: np.ndarray, order: int, strict: bool = True) -> ActionTables:
        """Return the problem's tables at actions (K, N, m) of chosen cells (K,) (see `ControlProblem.action_tables`).

        In cells of the goal the cost is that of being there, and nothing depends on the action.
        """
        tables = self.problem.action_tables(self.grid.states[cells], actions, order, strict)
        if self.goal is not None and (inside := self.goal.inside[cells]).any():
            tables.cost[inside] = self.goal.costs[cells[inside], None]
            for derivative in (tables.mean_gradient, tables.mean_hessian, tables.cost_gradient, tables.cost_hessian):
                if derivative is not None:
                    derivative[inside] = 0.0
            if tables.differentiable is not None:
                tables.differentiable[inside] = True
        return tables

    def operator(self, mean: np.ndarray, weights: np.ndarray) -> MarkovOperator:
        """Return P for particles with the given means (cells, N, d) and weights (cells, N), as a product where it is one.

        With a goal, that of the chain that stops or starts again there.
        """
        found = self._operator(mean, weights)
        return found if self.goal is None else GoalOperator(found, self.goal)

    def _operator(self, mean: np.ndarray, weights: np.ndarray) -> MarkovOperator:
        if self.product is None:
            return self.assembled(mean, weights)

        def rows(cells: np.ndarray) -> sparse.csr_array:
            return self.rows(cells, mean[cells], weights[cells])

        return self.product.operator(mean, weights, self.markov, rows)

    def assembled(self, mean: np.ndarray, weights: np.ndarray) -> TransitionOperator:
        """Assemble the entries of P for particles with the given means (cells, N, d) and weights (cells, N)."""
        return TransitionOperator(*self._rows(np.arange(self.grid.size), mean, weights))

    def _rows(self, cells: np.ndarray, mean: np.ndarray, weights: np.ndarray) -> Rows:
        """Assemble chosen rows of P (K,) for means (K, N, d) and weights (K, N)."""
        noise, coupling = (self.cell_noise, self.coupling) if cells.size == self.grid.size else self._of_cells(cells)
        return assembled_rows(self.axes, self.width, mean, weights, noise, coupling, weights.size * self.reach)

    def entries(self, cells: np.ndarray, mean: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Count the entries of chosen rows of P (K,) for means (K, N, d) and weights (K, N) of their particles."""
        noise, coupling = self._of_cells(cells)
        work = weights.size * self.reach
        return count_entries(self.axes, self.width, np.arange(cells.size), mean, weights, noise, coupling, work)

    def rows(self, cells: np.ndarray, mean: np.ndarray, weights: np.ndarray) -> sparse.csr_array:
        """Return chosen rows of P (K, cells) for means (K, N, d) and weights (K, N) of their particles."""
        return TransitionOperator(*self._rows(cells, mean, weights)).matrix(self.grid.whole.size)

    def _of_cells(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return noise (K, d) and coupling (K, d, d) of some cells."""
        coupling = self.problem.cell_tables(self.grid.states_of(cells)).coupling
        return np.ascontiguousarray(self.noise[cells]), np.ascontiguousarray(coupling)

    def expectation(self, function: np.ndarray) -> Expectation:
        """Prepare the expectations of a function f (cells,) at the next state, for any actions."""
        return Expectation(self, np.ascontiguousarray(function, dtype=float))

    def expected(self, cells: np.ndarray, mean: np.ndarray, function: np.ndarray) -> np.ndarray:
        """Return E f(s') (K, N) for means (K, N, d) of chosen cells (K,), f given on all cells."""
        return self.expectation(function).values(cells, mean)

    def pushed_derivative(self, mean: np.ndarray, velocity: np.ndarray, mass: np.ndarray) -> np.ndarray:
        """Return sum_ki mass_ki d/dt p(. | s_k, mean_ki + t velocity_ki), a signed measure (cells,)."""
        if self.product is not None:
            return self.product.pushed_derivative(mean, velocity, mass)
        work = mass.size * self.reach
        return push_derivative(self.axes, self.width, mean, velocity, mass, self.cell_noise, self.coupling, work)


@dataclass(frozen=True)
class Expectation:
    """E f(s') of one function f (cells,) for any actions of any cells; what no action changes is computed once, and kept until
    another function of the model is asked for."""

    model: TransitionModel
    function: np.ndarray

    @property
    def streamed(self) -> np.ndarray:
        """U of a law in product form."""
        assert self.model.product is not None
        return self._kept("streamed", self.model.product.prepared, lambda: self.function)

    @property
    def _conditional(self) -> np.ndarray:
        """E[f | realised values of the axes that actions move] in every cell."""
        assert self.model.conditioning is not None
        return self._kept("conditional", self.model.conditioning.table, lambda: self.streamed)

    @property
    def streamed_plain(self) -> np.ndarray:
        """U with every noise in one part (see `TransitionModel.plain_product`)."""
        plain = self.model.plain_product
        assert plain is not None
        return self.streamed if plain is self.model.product else self._kept("plain", plain.prepared, lambda: self.function)

    def _kept(self, name: str, table: Callable[[np.ndarray], np.ndarray], of: Callable[[], np.ndarray]) -> np.ndarray:
        found: np.ndarray = self.model.latest.of(self, name, lambda: table(of()))
        return found

    def values(self, cells: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Return E f(s') (K, N) for means (K, N, d) of chosen cells (K,)."""
        return self._compute(cells, mean, None, None)[0]

    def derivatives(self, cells: np.ndarray, tables: ActionTables) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return E f(s') with action gradient and Hessian, (K, N), (K, N, m), (K, N, m, m).

        tables of order 2 of chosen cells (K,); for tables of order 1 the Hessian is left out (no rows).
        """
        return self._compute(cells, tables.mean, tables.mean_gradient, tables.mean_hessian)

    def _compute(
        self, cells: np.ndarray, mean: np.ndarray, gradient: np.ndarray | None, hessian: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        model = self.model
        shape = (0, *mean.shape[1:], model.problem.action_bounds.shape[0])
        first = np.empty(shape) if gradient is None else gradient
        second = np.empty((*shape, shape[-1])) if hessian is None else hessian
        if model.product is not None:
            fixed = model.conditioning
            u, at = (self.streamed, model.product.collision) if fixed is None else (self._conditional, fixed.moved)
            found = model.product.expectations(u, at, cells, mean, first, second)
        else:
            found = expectations(
                model.axes, model.width, cells, mean, first, second, model.cell_noise, model.coupling, self.function,
                mean.shape[0] * mean.shape[1] * model.reach,
            )  # fmt: skip
        return found if model.goal is None else self._after_goal(model.goal, cells, *found)

    def _after_goal(
        self, goal: GridGoal, cells: np.ndarray, values: np.ndarray, gradients: np.ndarray, hessians: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Put in what comes after cells of the goal, whatever the action."""
        inside = goal.inside[cells]
        if inside.any():
            values[inside] = self._after
            for derivative in (gradients, hessians):
                if len(derivative):
                    derivative[inside] = 0.0
        return values, gradients, hessians

    @cached_property
    def _after(self) -> float:
        assert self.model.goal is not None
        return self.model.goal.after(self.function)


def _noise(problem: ControlProblem, grid: StateGrid) -> np.ndarray:
    """Tabulate the noise (cells, d); a view of one row where it is the same everywhere. What no law would show is no noise."""
    rows = []
    for start in range(0, grid.size, _CELLS_AT_ONCE):
        cells = np.arange(start, min(start + _CELLS_AT_ONCE, grid.size))
        block = problem.cell_tables(grid.states_of(cells)).noise
        block = np.where(block > _SHOWS * grid.spacing, block, 0.0)
        rows.append(block[:1] if (block == block[:1]).all() else block)
    if all(len(block) == 1 and (block == rows[0]).all() for block in rows):
        return np.broadcast_to(rows[0], (grid.size, grid.dimension))
    sizes = np.diff([*range(0, grid.size, _CELLS_AT_ONCE), grid.size])
    return np.concatenate([np.broadcast_to(block, (size, grid.dimension)) for block, size in zip(rows, sizes, strict=True)])


def _least_adding(noise: np.ndarray) -> str:
    """Return the kernel that adds least to the variance of noises (cells,), in cells: half of it, times V'', goes into J."""

    def added(kernel: AxisKernel) -> float:
        return 0.0 if noise.min() >= kernel.resolving_noise else float(kernel.added_variance(noise).mean())

    able = [kernel for kernel in AXIS_KERNELS.values() if kernel.nonnegative and noise.min() >= kernel.least_noise]
    least = min(map(added, able))
    return next(kernel.name for kernel in able if added(kernel) <= _ABOUT_AS_MUCH * least)


def _reason(kernel: AxisKernel, noise: np.ndarray) -> str:
    """Say in half a line why a kernel was taken for noises (cells,), in cells (see `_least_adding`)."""
    least = float(noise.min())
    if not noise.any():
        return "no noise"
    if least >= kernel.resolving_noise:
        return f"noise of {least:.3g} cells, kept as it is from {kernel.resolving_noise:g} on"
    return f"noise of {least:.3g} cells, to which none adds much less" if least > 0.0 else "no noise in some cells"


def _require_carried(kernel: AxisKernel, grid: StateGrid, j: int, noise: np.ndarray) -> None:
    """Raise ResolutionError unless a kernel can carry the noise (cells,) of axis j on its grid."""
    name, ratio = grid.names[j], noise / grid.spacing[j]
    finest = int(ratio.argmin())
    if ratio[finest] < kernel.least_noise:
        if noise[finest] > 0:
            others = _named(other for other in AXIS_KERNELS.values() if other.takes_noise and not other.least_noise)
            raise ResolutionError(
                f"grid.kernel.{name}: the {kernel.name} kernel needs noise of at least {kernel.least_noise} cells per step, "
                f"but it is {noise[finest]:.4g} on cells of {grid.spacing[j]:.4g} at {grid.describe_cell(finest)}. Use at least "
                f"{_points_for(kernel, grid, j, noise[finest])} points or kernel = {others}."
            )
        others = _named(other for other in AXIS_KERNELS.values() if not other.least_noise)
        raise ResolutionError(
            f"grid.kernel.{name}: the {kernel.name} kernel needs noise, but there is none at "
            f"{grid.describe_cell(finest)}. Use kernel = {others}, or align the axis."
        )
    if not kernel.takes_noise and noise.any():
        noisy = int(noise.argmax())
        others = _named(other for other in AXIS_KERNELS.values() if other.takes_noise)
        raise ResolutionError(
            f"grid.kernel.{name}: the {kernel.name} kernel is for axes without noise, but there is noise "
            f"{noise[noisy]:.4g} at {grid.describe_cell(noisy)}. Use {others}."
        )
    if grid.shape[j] < kernel.least_points:
        raise ResolutionError(f"grid.points.{name}: the {kernel.name} kernel needs at least {kernel.least_points} points")


def _named(kernels: Iterable[AxisKernel]) -> str:
    return " or ".join(f'"{kernel.name}"' for kernel in kernels)


def _points_for(kernel: AxisKernel, grid: StateGrid, j: int, noise: float) -> int:
    length = grid.spacing[j] * (grid.shape[j] - 1)
    return int(np.ceil(kernel.resolving_noise * length / noise)) + 1
