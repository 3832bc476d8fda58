"""The law of the next state as a product: stream the axes that follow, then collide those that the actions move.

With x'_l the realised next values of the collided axes and x'_f those of the streamed ones,

    E V(s') = sum_{x'_l} prod_l omega_l(x'_l; mean_l(s, a)) U(s_f, x'_l),    U(s_f, x'_l) = E[V(x'_f, x'_l) | s_f, x'_l].

U has as many numbers as V and knows nothing of actions; no entry of P is ever stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from wassgrid.problem.dependence import Dependence
from wassgrid.transition import collide as compiled
from wassgrid.transition.axis_kernels.facts import TAIL
from wassgrid.transition.collide import Collision
from wassgrid.transition.exchange import Exchange, Gathering, HaloStream
from wassgrid.transition.smoothing import Smoothing
from wassgrid.transition.stream import Stream, tabulate
from wassgrid.transition.threads import WORTH_WAKING, spread

_GROUPS = 8  # of cells that scatter into blocks of their own where there is only one block; no sum depends on the threads
_STORED = 1 << 29  # bytes of weights that are kept; beyond, they are computed again for every product
_SPARE = 4  # nodes of a buffer beyond the bound
_TABLE = 1 << 26  # bytes of expectations given the realised values of the moved axes that are kept


@dataclass(frozen=True)
class Passes:
    """Which axes are streamed, in turn, and which are collided, in the memory order of U (those that actions move come last)."""

    streamed: tuple[int, ...]
    collided: tuple[int, ...]
    moved: int

    @property
    def order(self) -> tuple[int, ...]:
        """The axes in the memory order of U: the streamed ones, then the collided ones."""
        return (*sorted(self.streamed), *self.collided)

    @classmethod
    def of(cls, dependence: Dependence, winding: Sequence[bool]) -> Passes | None:
        """Find them; None where the law is not of this form. winding (d,): axes whose ends are one.

        An axis can be streamed when no axis that is left follows it, and its law depends on nothing but its own present
        coordinate, those of the axes streamed before, and realised values that are left.
        """
        d = dependence.actions.size
        if any(dependence.follows[:, i].any() and winding[i] for i in range(d)):
            return None  # a follower sees the winding of a periodic axis, which its nodes have lost
        left, streamed = list(range(d)), list[int]()
        while len(left) > 1:
            for j in left:
                present = set(np.flatnonzero(dependence.present[j]).tolist())
                followed = any(dependence.follows[i, j] for i in left if i != j)
                if not dependence.actions[j] and not followed and present <= {*streamed, j}:
                    break
            else:
                break
            streamed.append(j)
            left.remove(j)
        if dependence.follows[left].any():
            return None
        still = [j for j in left if not dependence.actions[j]]
        # where no action moves anything, the last axis stands for one
        return cls(
            tuple(streamed), (*still, *(j for j in left if dependence.actions[j])), min(len(still), len(left) - 1)
        )


def _four(count: int) -> int:
    return -(-count // 4) * 4


@dataclass(frozen=True)
class FollowerLaw:
    """The law of a streamed axis: means and noises (sizes of the axes `depends`), flat, in the order of `depends`."""

    axis: int
    depends: tuple[int, ...]
    mean: np.ndarray
    noise: np.ndarray


@dataclass(frozen=True)
class AxisTable:
    """The axes of a grid as compiled functions take them, one entry per axis; reach: nodes of the widest law of one action."""

    lower: np.ndarray
    spacing: np.ndarray
    size: np.ndarray
    boundary: np.ndarray
    kernel: np.ndarray
    reach: np.ndarray


@dataclass(frozen=True)
class Cut:
    """The slab of this process: shape of its grid, and what agrees on an exchange of rows of the first axis in memory order."""

    shape: tuple[int, ...]
    exchange: Callable[[np.ndarray], Exchange]


def _extended(
    size: np.ndarray, boundary: np.ndarray, widths: np.ndarray, pad: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return extents, strides and elements of a block of U: a periodic axis goes on after its end, others hold a window."""
    extent = np.where(boundary == compiled.PERIODIC, size + widths, np.maximum(size + 2 * pad, widths))
    stride = np.append(np.cumprod(extent[:0:-1])[::-1], 1).astype(np.int64)
    return extent, stride, int(extent.prod())


@dataclass(frozen=True, eq=False)
class ProductLaw:
    """The law of the next state on a grid, for any policy.

    | name      | meaning                                                                         |
    |-----------|---------------------------------------------------------------------------------|
    | passes    | which axes are streamed, which collided                                         |
    | shape     | of the grid                                                                     |
    | order     | axes in memory order: the streamed ones, then the collided ones                 |
    | streams   | one pass over every streamed axis, in turn                                      |
    | smoothings | of the collided axes whose noise is wide, None for the others                  |
    | collision | the collided axes, as the compiled functions take them                          |
    | reach     | length of a buffer for the nodes of one law on one axis                         |
    | noise     | (cells, d), (1, d) where it is the same everywhere                              |
    """

    passes: Passes
    shape: tuple[int, ...]
    order: tuple[int, ...]
    streams: tuple[Stream | Gathering, ...]
    smoothings: tuple[Smoothing | None, ...]
    collision: Collision
    reach: int
    noise: np.ndarray

    @classmethod
    def build(
        cls, passes: Passes, axes: AxisTable, followers: Sequence[FollowerLaw], noise: np.ndarray, shared: Sequence[float],
        cut: Cut | None = None,
    ) -> ProductLaw:  # fmt: skip
        """Tabulate the laws of the streamed axes, given in the order of the passes.

        shared (d,): the part of the noise of every axis that a smoothing takes over, 0: none. cut: the slab of this process,
        whose cells the law is then for, where several share the grid; noise and followers are those of its nodes.
        """
        order = passes.order
        shape = tuple(int(n) for n in axes.size) if cut is None else cut.shape
        inner = tuple(shape[j] for j in order)
        streams: list[Stream | Gathering] = []
        for law in followers:
            j, reach = law.axis, int(axes.reach[law.axis]) + _SPARE
            node, weight = np.zeros((reach, law.mean.size), np.int64), np.zeros((reach, law.mean.size))
            count = tabulate(
                axes.kernel[j], axes.boundary[j], axes.lower[j], axes.spacing[j], axes.size[j], law.mean, law.noise, reach,
                node, weight,
            )  # fmt: skip
            places = tuple(order.index(i) for i in law.depends)
            stream = Stream.build(inner, order.index(j), places, node[:count].copy(), weight[:count].copy())
            if cut is not None and j == order[0]:
                stream = HaloStream.cut(stream, cut.exchange(np.unique(stream.node)))
            streams.append(stream)
        if cut is not None and not passes.streamed:
            streams.append(Gathering(cut.exchange(np.arange(axes.size[order[0]]))))
        collided = list(passes.collided)
        size, boundary = axes.size[collided], axes.boundary[collided]
        smoothings: list[Smoothing | None] = []
        width, pad = np.zeros(len(collided), np.int64), np.zeros(len(collided), np.int64)
        for c, j in enumerate(collided):
            reach = int(axes.reach[j])
            smoothings.append(None)
            if shared[j] > 0.0:
                narrow = float(np.sqrt(noise[:, j].max() ** 2 - shared[j] ** 2))
                smoothings[c] = smoothing = Smoothing.build(
                    int(axes.size[j]), float(axes.spacing[j]), int(axes.boundary[j]), shared[j], narrow
                )
                pad[c] = smoothing.pad
                reach = int(np.ceil(2 * TAIL * narrow / axes.spacing[j])) + 1
            width[c] = _four(min(reach, int(axes.size[j]) + 2 * int(pad[c])))
        extent, stride, block = _extended(size, boundary, width, pad)
        ones = np.ones((len(collided), int(extent.max())))
        for c, made in enumerate(smoothings):
            if made is not None:
                ones[c, : made.ones.size] = made.ones
        at = Collision(
            np.array(collided, np.int64), axes.lower[collided], axes.spacing[collided], size, boundary, axes.kernel[collided],
            width, extent, stride, block, int(size.prod()), passes.moved, np.array([shared[j] for j in collided]), pad, ones,
        )  # fmt: skip
        return cls(passes, shape, order, tuple(streams), tuple(smoothings), at, int(max(axes.reach)) + _SPARE, noise)

    def widened(self, widths: np.ndarray) -> Collision:
        """Return the description of the collided axes with room for windows of the given widths."""
        at = self.collision
        extent, stride, block = _extended(at.size, at.boundary, widths, at.pad)
        return at._replace(extent=extent, stride=stride, block=block)

    @cached_property
    def cells(self) -> int:
        return int(np.prod(self.shape))

    @cached_property
    def _blocks(self) -> int:
        """Blocks of U, one for every choice of the streamed coordinates."""
        return int(np.prod([self.shape[j] for j in self.passes.streamed]))

    @property
    def work(self) -> float:
        """Elementary operations of one product for one particle a cell."""
        return self.work_of(self.collision.width, 1)

    @cached_property
    def _identity(self) -> bool:
        return self.order == tuple(range(len(self.shape)))

    @cached_property
    def numbers(self) -> np.ndarray:
        """The place of every cell of the grid in memory order, (cells,)."""
        if self._identity:
            return np.arange(self.cells)
        place = np.empty(self.cells, np.int64)
        place[np.arange(self.cells).reshape(self.shape).transpose(self.order).ravel()] = np.arange(self.cells)
        return place

    def inward(self, f: np.ndarray) -> np.ndarray:
        """Bring values (cells, ...) into memory order."""
        if self._identity:
            return np.ascontiguousarray(f)
        axes = (*self.order, *range(len(self.shape), len(self.shape) + f.ndim - 1))
        return np.ascontiguousarray(f.reshape(*self.shape, *f.shape[1:]).transpose(axes)).reshape(f.shape)

    def outward(self, f: np.ndarray) -> np.ndarray:
        if self._identity:
            return f
        return np.ascontiguousarray(f.reshape([self.shape[j] for j in self.order]).transpose(np.argsort(self.order))).ravel()

    def prepared(self, f: np.ndarray, at: Collision | None = None) -> np.ndarray:
        """Return U, streamed and continued beyond the ends, for a function f (cells,)."""
        at = self.collision if at is None else at
        u = self.inward(np.asarray(f, dtype=float))
        for stream in self.streams:
            u = stream.forward(u)
        sizes = list(at.size)
        for c, smoothing in enumerate(self.smoothings):
            if smoothing is not None:
                inner = int(np.prod(sizes[c + 1 :]))
                u = smoothing.forward(u, u.size // (sizes[c] * inner), inner)
                sizes[c] = smoothing.first.size
        blocks = self._blocks
        if u.size == blocks * at.block:
            return u
        wider = np.zeros((blocks, *at.extent))
        wider[(slice(None), *(slice(n) for n in sizes))] = u.reshape(blocks, *sizes)
        for c, (n, extent) in enumerate(zip(sizes, at.extent, strict=True)):
            if at.boundary[c] == compiled.PERIODIC:
                along = wider.swapaxes(1, c + 1)
                for start in range(n, extent, n):
                    along[:, start : start + n] = along[:, : min(n, extent - start)]
        return wider.ravel()

    def folded(self, u: np.ndarray, at: Collision) -> np.ndarray:
        """Return the law of the next state from measures (groups, elements) on U: the adjoint of `prepared`."""
        u = u[0] if len(u) == 1 else u.sum(axis=0)
        sizes = at.size + 2 * at.pad
        if at.block != sizes.prod():
            u = u.reshape(-1, *at.extent)
            for c, (n, extent) in enumerate(zip(sizes, at.extent, strict=True)):
                if at.boundary[c] == compiled.PERIODIC:
                    along = u.swapaxes(1, c + 1)
                    for start in range(n, extent, n):
                        along[:, : min(n, extent - start)] += along[:, start : start + n]
            u = u[(slice(None), *(slice(n) for n in sizes))].ravel()
        sizes = list(sizes)
        for c, smoothing in enumerate(self.smoothings):
            if smoothing is not None:
                inner = int(np.prod(sizes[c + 1 :]))
                u = smoothing.backward(u, u.size // (sizes[c] * inner), inner)
                sizes[c] = int(at.size[c])
        for stream in reversed(self.streams):
            u = stream.backward(u)
        return self.outward(u)

    def operator(
        self, mean: np.ndarray, weights: np.ndarray, nonnegative: bool, rows: Callable[[np.ndarray], sparse.csr_array]
    ) -> ProductOperator:
        """Return P for particles with means (cells, N, d) and weights (cells, N); rows(cells) gives rows as a matrix."""
        mean, weights = self.inward(mean), self.inward(weights)
        at, widths = self.collision, self._widths(mean)
        if (widths != at.width).any():
            at = self.widened(widths)
        return ProductOperator(self, at, widths, mean, weights, self._inner_noise, nonnegative, rows)

    def _widths(self, mean: np.ndarray) -> np.ndarray:
        """Return the widths of the windows of a cell for means (K, N, d): those of a cloud start as far apart as its means."""
        at = self.collision
        widths = at.width.copy()
        if mean.shape[1] > 1 and at.axis.size - at.moved == 1:
            last = at.axis.size - 1
            j, n = int(at.axis[last]), int(at.size[last] + 2 * at.pad[last])
            apart = min(float(np.ptp(mean[:, :, j], axis=1).max() / at.spacing[last]), float(n))
            widths[last] = min(_four(int(at.width[last]) + int(np.ceil(apart)) + 1), _four(n))
        return widths

    def laws(self, particles: int) -> int:
        """Return how many laws a cell has: one for all its particles where one axis is moved."""
        return 1 if self.collision.axis.size - self.collision.moved == 1 else particles

    def work_of(self, widths: np.ndarray, laws: int) -> float:
        """Return the elementary operations of a product where a cell has so many laws, of windows of the given widths."""
        return self.cells * laws * float(widths.prod()) + sum(stream.work for stream in self.streams)

    def operator_bytes(self, mean: np.ndarray) -> float:
        """Estimate what an operator keeps, in bytes, from means (K, N, d) of some cells."""
        particles, d = mean.shape[1:]
        weights = self.weight_bytes(self._widths(mean), self.laws(particles))
        return weights if weights <= _STORED else 8.0 * self.cells * particles * (d + 1) * (not self._identity)

    def weight_bytes(self, widths: np.ndarray, laws: int) -> float:
        """Return the bytes of the weights of all cells where each has so many laws, of windows of the given widths."""
        return 8.0 * self.cells * laws * (float(widths.sum()) + 2)

    def entries(self, mean: np.ndarray) -> float:
        """Bound the number of entries of P, from means (K, N, d) of some cells."""
        return self.entries_of(self._widths(mean), self.laws(mean.shape[1]))

    def entries_of(self, widths: np.ndarray, laws: int) -> float:
        """Bound the number of entries of P where a cell has so many laws, of windows of the given widths."""
        row = laws * float(widths.prod()) * float(np.prod([stream.width for stream in self.streams]))
        return self.cells * min(row, float(max(self.cells, self.collision.cells)))

    @property
    def bytes(self) -> float:
        """What the law itself keeps, in bytes."""
        parts = (part for stream in self.streams for part in vars(stream).values())
        return float(sum(part.nbytes for part in parts if isinstance(part, np.ndarray)))

    @cached_property
    def _inner_noise(self) -> np.ndarray:
        return self.inward(self.noise) if len(self.noise) > 1 else self.noise

    def conditioning(self, mean: np.ndarray) -> Conditioning | None:
        """Prepare what no action changes, for means (cells, d) at any action; None where that is nothing, or too much."""
        at = self.collision
        still = at.moved
        nodes = int(at.extent[still:].prod())
        if still == 0 or 8 * self.cells * nodes > _TABLE:
            return None
        widths = at.width[:still]
        base, mass = np.empty((self.cells, 1), np.int64), np.empty((self.cells, 1))
        w = np.empty((self.cells, 1, int(widths.sum())))
        others = at._replace(axis=at.axis[:still])
        spread(
            compiled.windows, self.cells, self.cells * 20.0 * w.shape[2], others, self.reach, np.arange(self.cells),
            self.inward(mean)[:, None, :], self._inner_noise, np.ones((self.cells, 1)), widths, base, mass, w,
        )  # fmt: skip
        rest = {name: entry[still:] for name, entry in at._asdict().items() if np.ndim(entry)}
        moved = at._replace(**rest, block=nodes, cells=1, moved=0)
        return Conditioning(at, moved, base[:, 0], w[:, 0], widths)

    def expectations(
        self, u: np.ndarray, at: Collision, cells: np.ndarray, mean: np.ndarray, first: np.ndarray, second: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return E f (K, N) with gradient (K, N, m) and Hessian (K, N, m, m) in the action, for U of f.

        at: the collision that u is for, this law's or that of a `Conditioning`. cells (K,), mean (K, N, d) and its derivatives
        in the action, first (K, N, d, m) and second (K, N, d, m, m); one of these without rows leaves that derivative out.
        Derivatives of the means of streamed axes are zero.
        """
        rows, particles, _ = mean.shape
        m = first.shape[3]
        values = np.empty((rows, particles))
        gradients = np.zeros((rows if len(first) else 0, particles, m))
        hessians = np.zeros((rows if len(second) else 0, particles, m, m))
        noise = np.ascontiguousarray(self.noise[cells]) if len(self.noise) > 1 else self.noise
        moved = at.width[at.moved :]
        work = rows * (float(at.width.prod()) * (at.moved > 0) + particles * (60.0 * moved.sum() + 3.0 * float(moved.prod())))
        spread(
            compiled.expect, rows, work, at, self.reach, self.numbers[cells], np.ascontiguousarray(mean), first, second, noise,
            u, values, gradients, hessians,
        )  # fmt: skip
        return values, gradients, hessians

    def pushed_derivative(self, mean: np.ndarray, velocity: np.ndarray, mass: np.ndarray) -> np.ndarray:
        """Return sum_ki mass_ki d/dt p(. | s_k, mean_ki + t velocity_ki), a signed measure (cells,)."""
        at = self.collision
        work = 2.0 * mass.size * float(at.width.prod())
        first, u = self.groups(at, work)
        spread(
            compiled.scatter_derivative, first.size - 1, work, at, self.reach, np.arange(self.cells), self.inward(mean),
            self.inward(velocity), self.inward(mass), self._inner_noise, first, u,
        )  # fmt: skip
        return self.folded(u, at)

    def groups(self, at: Collision, work: float) -> tuple[np.ndarray, np.ndarray]:
        """Return where groups of cells begin, and the measures (groups or 1, elements) that they write to."""
        blocks = self._blocks
        if blocks == 1:
            count = _GROUPS if work > WORTH_WAKING else 1
            return np.arange(count + 1) * self.cells // count, np.zeros((count, at.block))
        count = min(blocks, 64)
        return (np.arange(count + 1) * blocks // count) * at.cells, np.zeros((1, blocks * at.block))


@dataclass(frozen=True, eq=False)
class Conditioning:
    """Tabulate E[f | realised values of the moved axes] in every cell: what is left are the laws that actions move.

    | name   | meaning                                                                   |
    |--------|---------------------------------------------------------------------------|
    | whole  | the collision of the law                                                  |
    | moved  | that of the moved axes alone, on blocks of one cell                       |
    | base, weights, widths | windows of the other axes: (cells,), (cells, sum of widths) |
    """

    whole: Collision
    moved: Collision
    base: np.ndarray
    weights: np.ndarray
    widths: np.ndarray

    def table(self, u: np.ndarray) -> np.ndarray:
        """Return the table, flat, for U of a function."""
        cells, nodes = self.base.size, self.moved.block
        result = np.empty((cells, nodes))
        work = float(cells * nodes) * float(self.widths.prod())
        spread(compiled.condition, cells, work, self.whole, self.base, self.weights, self.widths, u, result)
        return result.ravel()


class ProductOperator:
    """The Markov operator of a policy in product form: an operator as in `MarkovOperator`, no entry of which is stored.

    Cells whose particles stand together are as cheap as cells of one particle. The weights of the laws are kept where they
    fit, and computed again for every product where they do not. Products are bit-identical for any number of threads.
    """

    def __init__(
        self, law: ProductLaw, at: Collision, widths: np.ndarray, mean: np.ndarray, weights: np.ndarray, noise: np.ndarray,
        nonnegative: bool, rows: Callable[[np.ndarray], sparse.csr_array],
    ) -> None:  # fmt: skip
        self._law, self._at, self._widths = law, at, widths
        self.nonnegative, self._assembled = nonnegative, rows
        n, laws = law.cells, law.laws(weights.shape[1])
        self._laws = laws
        self.work = law.work_of(widths, laws)
        self._stored: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        if law.weight_bytes(widths, laws) <= _STORED:
            base, mass = np.empty((n, laws), np.int64), np.empty((n, laws))
            w = np.empty((n, laws, int(widths.sum())))
            spread(
                compiled.windows, n, n * weights.shape[1] * 20.0 * float(widths.sum()), at, law.reach, np.arange(n), mean, noise,
                weights, widths, base, mass, w,
            )  # fmt: skip
            self._stored = base, mass, w
        else:
            self._particles = mean, noise, weights

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def size(self) -> int:
        return self._law.cells

    @property
    def entries(self) -> int:
        """Bound of the number of entries that P would have."""
        return int(self._law.entries_of(self._widths, self._laws))

    @property
    def bandwidth(self) -> float:
        return float(self.size)

    @cached_property
    def _matrix(self) -> sparse.csr_array:
        return self._assembled(np.arange(self.size))

    def rows(self, cells: np.ndarray) -> sparse.csr_array:
        """Return chosen rows of P, (K, cells)."""
        return self._assembled(cells)

    def matrix(self) -> sparse.csr_array:
        return self._matrix

    def apply(self, function: np.ndarray) -> np.ndarray:
        """Return P f: stream, then collide."""
        law, at = self._law, self._at
        u = law.prepared(function, at)
        out = np.empty(self.size)
        if self._stored is not None:
            spread(compiled.collide, self.size, self.work, at, *self._stored, self._widths, u, out)
        else:
            spread(
                compiled.collide_lean, self.size, self.work, at, law.reach, *self._particles, self._laws, self._widths, u, out
            )
        return law.outward(out)

    def push(self, measure: np.ndarray) -> np.ndarray:
        """Return mu P = (mu collide) stream."""
        law, at = self._law, self._at
        first, u = law.groups(at, self.work)
        mu = law.inward(np.asarray(measure, dtype=float))
        if self._stored is not None:
            spread(compiled.scatter, first.size - 1, 2 * self.work, at, *self._stored, self._widths, mu, first, u)
        else:
            spread(
                compiled.scatter_lean, first.size - 1, 2 * self.work, at, law.reach, *self._particles, self._laws, self._widths,
                mu, first, u,
            )  # fmt: skip
        return law.folded(u, at)
