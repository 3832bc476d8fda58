"""A good u: policy iteration for the continuous problem on rows of means and nodes of states; not proven."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array

from wassgrid.certificate.continuous.bellman import Bellman
from wassgrid.certificate.continuous.laws import Axis, AxisLaw, StillAxis
from wassgrid.certificate.continuous.spline import Spline
from wassgrid.chain.krylov import gmres
from wassgrid.chain.reductions import largest

Array = np.ndarray
_ITERATIONS = 30  # policies
_PRODUCTS, _RESTART = 240, 60
_PARTS = 16  # of a cell with a kink of q
_MISSED = 0.05  # of what is wanted: what a cell may miss
_MOST_TORN = 96  # cells for one with a kink, at least: those that miss most


@dataclass(frozen=True)
class Value:
    """Hold u on the knots, as a spline, the spread max - min of S u - u on the rows, and the size of the objective, as far as
    quadrature can tell.

    rough: how far a cubic spline through values of the size of u may be from u between them, along each axis: its largest fourth
    difference over 384.  actions: the best ones found at the nodes of the states, (nodes_1, nodes_2, m), with their coordinates.
    """

    u: Spline
    spread: float
    level: float
    rough: tuple[float, float]
    nodes: tuple[Array, ...]
    actions: Array

    def near(self, places: Array) -> list[Array]:
        """Return the actions (K, m) at the 2^d nodes around places (K, d)."""
        sides = []
        for nodes, x in zip(self.nodes, places.T, strict=True):
            lower = np.clip(np.searchsorted(nodes, x, side="right") - 1, 0, nodes.size - 2)
            sides.append((lower, lower + 1))
        sides += [(np.zeros(len(places), dtype=int),)] * (2 - len(sides))  # type: ignore[list-item]
        return [self.actions[one, two] for one in sides[0] for two in sides[1]]


def places_of(axes: tuple[Axis, Axis]) -> tuple[Array, Array]:
    """Return the points of both axes (rows for one without noise) as a mesh (points_1, points_2)."""
    columns = [axis.knots.positions[: axis.row_count] if isinstance(axis, StillAxis) else axis.places for axis in axes]
    first, second = np.meshgrid(*columns, indexing="ij")
    return first, second


def points_of(axes: tuple[Axis, Axis], function: Spline, order: int = 0) -> Array:
    """Return a function of the means, or a derivative (see `spline.ORDERS`), at the points (points_1, points_2)."""
    places = places_of(axes)
    within = []
    for knots, y in zip(function.knots, places, strict=True):
        end = knots.low + knots.spacing * knots.cells
        within.append(y.ravel() if knots.periodic or knots.cells == 0 else np.clip(y.ravel(), knots.low, end))
    return function.at(*within)[order].reshape(places[0].shape)


def spline_of(axes: tuple[Axis, Axis], rows: Array) -> Spline:
    """Return the spline through values on the rows."""
    for k, axis in enumerate(axes):
        rows = axis.mirrored(rows, k)
    return Spline.through((axes[0].knots, axes[1].knots), rows)


def solve(
    bellman: Bellman, start: Array, box: tuple[Array, Array], tries: int, wanted: float, searched: int,
    near: Callable[[Array], Sequence[Array]] | None = None,
) -> Value:  # fmt: skip
    """Iterate policies from u = start (rows) until the spread of S u - u falls no further, or below `wanted`.

    searched: policies found from candidates all over the action box; later ones by descent from the one before.  near: good
    actions (K, m) at states (K, d), beside the first candidates.

    bellman: with axes that have one point per row; its u does not count. Expectations by quadrature of the nodes of the states.
    """
    axes, d = bellman.axes, bellman.d
    edges = [axis.edges for axis in axes[:d]]  # type: ignore[union-attr]
    # nodes at the ends of a periodic axis: inside
    inner = [np.clip(e, e[0] + 1e-14 * np.ptp(e), e[-1] - 1e-14 * np.ptp(e)) for e in edges]
    nodes = np.stack([c.ravel() for c in np.meshgrid(*inner, indexing="ij")], axis=1)
    chain = _Means(bellman, nodes, (edges[0].size, edges[1].size if d == 2 else 1), axes[0].matrix(), axes[1].matrix())
    actions, best, late = None, None, 0
    cost = before = 0.0
    rows = start
    for turn in range(_ITERATIONS):
        bellman = replace(bellman, u=spline_of(axes, rows))
        if turn < searched:
            found, values = bellman.minimise(nodes, box, tries, () if near is None or turn else near(nodes))
            if actions is not None:
                kept, at_kept = bellman.improve(nodes, actions, *box, steps=3)
                better = at_kept < values
                found[better], values[better] = kept[better], at_kept[better]
        else:
            assert actions is not None
            found, values = bellman.improve(nodes, actions, *box, steps=4)
        actions = found
        image = chain.expect(values)
        # what the quadrature misses at kinks of q; it changes little from one u to the next
        defect = _at_kinks(bellman, nodes[:, 0], values, actions, box, wanted)[:, None] if d == 1 else np.zeros((1, 1))
        image = image + defect
        spread = float(np.ptp(image - rows))
        # early policies bring the cost down while the spread is far from what it will be
        moving = turn < 2 or abs(cost - before) > 0.01 * abs(cost)
        late = 0 if best is None or moving or spread < 0.7 * best[0] else late + 1
        if best is None or spread < best[0]:
            size = np.abs(image - rows) if bellman.discount == 1.0 else (1.0 - bellman.discount) * np.abs(image)
            best = spread, rows, max(float(np.max(size)), 1e-6 * float(np.ptp(image))), actions
        if spread < wanted or late > 2:
            break
        before = cost
        rows = chain.evaluated(actions, image, max(0.1 * wanted, 1e-3 * spread), defect)
        cost = float(rows.flat[0]) if bellman.discount == 1.0 else float(np.mean(rows))
    assert best is not None
    rough = _roughness(axes, best[1], 0), _roughness(axes, best[1], 1)
    return Value(spline_of(axes, best[1]), best[0], best[2], rough, tuple(edges), best[3].reshape(*chain.shape, -1))


def _roughness(axes: tuple[Axis, Axis], rows: Array, k: int) -> float:
    if rows.shape[k] < 5:
        return 0.0
    if axes[k].knots.periodic:
        rows = np.take(rows, np.arange(rows.shape[k] + 4) % rows.shape[k], axis=k)
    return float(np.max(np.abs(np.diff(rows, 4, axis=k)))) / 384.0


def _at_kinks(
    bellman: Bellman, nodes: Array, values: Array, actions: Array, box: tuple[Array, Array], wanted: float
) -> Array:  # fmt: skip
    """Return what is missing in E q on the rows (rows) where q has kinks between the nodes of one state.

    The rule of `AxisLaw.matrix` is right to fourth order where q is smooth. Cells where its bends are not are cut into parts, on
    which q is linear between values found there. wanted: of S u - u.
    """
    axis = bellman.axes[0]
    assert isinstance(axis, AxisLaw)
    n, width = axis.cells, axis.spacing
    inner = np.diff(values, 2) / width**2
    bends = inner[np.clip(np.arange(-1, n), 0, n - 2)]
    # a kink between two nodes bends q at both, by its jump over the width
    missed = np.abs(np.diff(bends)) * width**3 / (8.0 * axis.sigma)
    torn = missed > max(_MISSED * wanted, float(np.partition(missed, -(n // _MOST_TORN) - 1)[-(n // _MOST_TORN) - 1]))
    cells = np.flatnonzero(np.convolve(torn, np.ones(3), "same") > 0)
    if cells.size == 0:
        return np.zeros(axis.row_count)
    part = np.arange(_PARTS + 1) / _PARTS
    places = nodes[cells, None] + (nodes[cells + 1] - nodes[cells])[:, None] * part
    found = np.empty(places.shape)
    found[:, 0], found[:, -1] = values[cells], values[cells + 1]
    s = places[:, 1:-1].reshape(-1, 1)
    of = np.repeat(cells, _PARTS - 1)
    left, right = bellman.values(s, actions[of]), bellman.values(s, actions[of + 1])
    start = np.where((left <= right)[:, None], actions[of], actions[of + 1])
    found[:, 1:-1] = bellman.improve(s, start, *box, steps=4)[1].reshape(cells.size, -1)
    parts = (cells[:, None] * _PARTS + np.arange(_PARTS)).ravel()
    fine = axis.refined(_PARTS)
    mean = 0.5 * (found[:, 1:] + found[:, :-1]).ravel()
    slope = np.diff(found, axis=1).ravel() / fine.spacing
    known = np.zeros((3, cells.size))
    known[2] = 0.5 * (bends[cells] + bends[cells + 1])
    known[1] = (values[cells + 1] - values[cells]) / width
    known[0] = 0.5 * (values[cells + 1] + values[cells]) - known[2] * width**2 / 8.0
    missing = np.empty(axis.row_count)
    for points in fine.parts(parts):
        one, two = fine.moments(parts, points), axis.moments(cells, points)
        missing[points] = one[0] @ mean + one[1] @ slope - sum(law @ c for law, c in zip(two, known, strict=True))
    return missing


@dataclass(frozen=True)
class _Means:
    """The chain of means on the rows: from a mean to the nodes of the states, under a policy to the next mean."""

    bellman: Bellman
    nodes: Array
    shape: tuple[int, int]
    first: csr_array
    second: csr_array

    def expect(self, values: Array) -> Array:
        """Return E of values at the nodes on the rows."""
        self.bellman.beat()
        along = self.first @ values.reshape(self.shape)
        return np.ascontiguousarray((self.second @ along.T).T)

    def evaluated(self, actions: Array, start: Array, tolerance: float, defect: Array) -> Array:
        """Return u = E [c + g u(F)] + defect - J on the rows for actions at the nodes, from `start`; J = 0 when discounted, else
        u[0] at the first row."""
        bellman, discounted = self.bellman, self.bellman.discount < 1.0
        tables = bellman.problem.action_tables(bellman.frame.points(self.nodes), actions[:, None, :], 0)
        means = []
        for k in range(bellman.d):
            ends = bellman.clip(k)
            means.append(tables.mean[:, 0, k] if ends is None else np.clip(tables.mean[:, 0, k], *ends))
        weights = bellman.u.weights(means[0], means[1] if bellman.d == 2 else np.zeros(len(means[0])))
        cost = self.expect(tables.cost[:, 0]) + defect

        def apply(flat: Array) -> Array:
            u = flat.reshape(cost.shape)
            moved = self.expect(bellman.discount * (weights @ spline_of(bellman.axes, u).coefficients.ravel()))
            # one more unknown, J, and u = 0 at the first row: u - P u + u_0 = c - J, with J = u_0
            return (u - moved + (0.0 if discounted else u.flat[0])).ravel()

        guess = (start - (0.0 if discounted else start.flat[0])).ravel()
        residual = cost.ravel() - apply(guess)
        enough = max(tolerance, 1e-14 * float(np.max(np.abs(cost))))
        return gmres(apply, guess, residual, largest, enough, _PRODUCTS, _RESTART).values.reshape(cost.shape)
