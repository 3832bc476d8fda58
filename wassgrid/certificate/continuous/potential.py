"""A potential that evens out bounds of g: in place of their extremes over all means, nearly their averages along the chain.

Let h >= E [c + u(F)](x', pi(x')) - u and l <= g = S u - u on the means y. For every bounded w on the means

    J(pi) <= sup_y (h + E w(F(x', pi(x'))) - w),        inf_y (l + E min_a w(F(x', a)) - w) <= J*        (average cost),

because h bounds what a step costs but for u(y_t) - u(y_t-1), of which the sum stays bounded, and so does that of
w(y_t) - w(y_t-1); for J* likewise, against all policies: c + u(F) >= q.  w = 0 gives the extremes of h and l, and the best w
gives the largest average of h that a chain can have of which is known what follows: excesses in places that are seldom met, or
left at once, cost next to nothing.
Where c + u(F) >= q + d the minimum is of w(F) + d: actions that are far from the best (`enclosure.Layer`) have a price d.
w is constant on cells of means. On a cell of states w(F) is at most the largest of w over all cells that the range of F meets;
E of that is exact at the points, and between them within osc(w) e^2/8 sigma^2 of its interpolant along each noisy axis (second
derivatives of a normal density, cut or not, have integrals of at most 2/sigma^2 in absolute value, and sum to 0). w comes from
relative value iteration (White 1963): w <- h + E max w - w(y_0); with every step the supremum falls, and the infimum of the same
difference says how far it can fall.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from wassgrid.certificate.continuous import jets
from wassgrid.certificate.continuous.bellman import Bellman
from wassgrid.certificate.continuous.enclosure import NUDGE, Enclosure
from wassgrid.certificate.continuous.jets import as_range, range_jet
from wassgrid.certificate.continuous.laws import Axis, AxisLaw
from wassgrid.certificate.continuous.residual import Residual
from wassgrid.transition.compiled import driver
from wassgrid.transition.threads import spread

Array = np.ndarray
_FINE = 6.0  # points per standard deviation at which E w is taken, at most
_STEPS = 80
_DENSEST = 100.0  # times the density of an even law: from there on bounds are not asked to come nearer
_ENOUGH = 0.03  # of what is gained: what more steps may still gain
_STAND, _SLOW = 12, 0.01  # so many steps that gain less than this share of what all have gained are the last
_UNIT = 2.0**-53
_NEAR = 1e-9  # of a cell: what rounding of a mean's place may be


def tolerances(chain: Chain, bellman: Bellman, near: Callable[[Array], Sequence[Array]]) -> tuple[Array, Array]:
    """Return how far bounds of q may be apart on the cells of states (cells_1, cells_2), of what they may be where the chain
    seldom is, and the law of the means on their cells, as far as can be told.  near: good actions (K, m) at states (K, d).

    Of bounds that come near each other as the cube of a cell's sides, of d = 2, N cells bring the average under a density r
    down most where they are apart by what is proportional to r^(-3/5).
    """
    middle = np.meshgrid(*(0.5 * (e[1:] + e[:-1]) for e in (axis.edges for axis in bellman.axes)), indexing="ij")  # type: ignore
    actions = near(np.stack([x.ravel() for x in middle], axis=1))[0]
    law = chain.stationary(chain.boxes(bellman, (actions, actions)))
    density = chain.states(law)
    density *= density.size / density.sum()
    return np.clip(density, 1.0, _DENSEST) ** -0.6, law


def evened(
    chain: Chain, bellman: Bellman, q: Enclosure, residual: Residual, law: Array
) -> tuple[float, float, tuple[float, float, float]]:
    """Return bounds of J* and of J of the stored policy (average cost, two states) from bounds of g, and what they owe to how g
    varies, how far its bounds are apart at the points, and what they lose between them: averages under a law of the means, and
    the rest, which is not evened out, in proportion to their extremes.
    """
    boxes = chain.boxes(bellman, _merged_actions(chain, q, [layer.actions for layer in q.layers]))
    high = min(residual.high, chain.supremum(residual.above, [(boxes, 0.0)]))
    bounds = bellman.problem.action_bounds.T
    every = chain.boxes(bellman, (np.tile(bounds[0], (chain.cells, 1)), np.tile(bounds[1], (chain.cells, 1))))
    reached = [(every, 0.0)]
    if np.all(np.isfinite(bounds)):
        near = chain.boxes(bellman, _merged_actions(chain, q, [layer.near.transpose(0, 2, 1) for layer in q.layers]))
        reached = [(near, 0.0), (every, q.margin)]
    low = max(residual.low, -chain.supremum(-residual.below, reached))
    apart, between = chain.average(residual.apart, law), chain.average(residual.between, law)
    extremes = residual.residual, residual.curvature, residual.taylor
    rest = max(high - low - apart - between, 0.0) / max(sum(extremes), 1e-300)
    return low, high, (rest * extremes[0], apart + rest * extremes[1], between + rest * extremes[2])


def _merged_actions(chain: Chain, q: Enclosure, actions: list[Array]) -> tuple[Array, Array]:
    """Return the least and the largest actions (K, m) on the cells of states of those on the layers' cells (., K, m)."""
    shape, m = (chain.axes[0].cells, chain.axes[1].cells), actions[0].shape[2]
    least, most = np.full((m, shape[0] * shape[1]), np.inf), np.full((m, shape[0] * shape[1]), -np.inf)
    for layer, taken in zip(q.layers, actions, strict=True):
        cell = np.ravel_multi_index(layer.coarse(chain.axes), shape)
        low, high = taken.min(axis=0), taken.max(axis=0)
        for k in range(m):
            np.minimum.at(least[k], cell, low[:, k])
            np.maximum.at(most[k], cell, high[:, k])
    return least.T, most.T


@dataclass(frozen=True)
class Chain:
    """Cells of means and of states (the coarsest lattice), and what leads from one to the other.

    axes: with the points that are the corners of the cells of means; merged: how many cells of the bounds of g along each axis
    are one of these; laws: E at the points of functions constant on cells, None for the identity.
    """

    axes: tuple[Axis, Axis]
    merged: tuple[int, int]
    laws: tuple[csr_array | None, csr_array | None]

    @classmethod
    def of(cls, bellman: Bellman) -> Chain:
        axes: list[Axis] = []
        merged, laws = [], []
        for axis in bellman.axes:
            many = 1
            if isinstance(axis, AxisLaw):
                fits = [k for k in range(1, axis.points + 1) if axis.points % k == 0]
                many = max(k for k in fits if k == 1 or k * axis.point_spacing * _FINE <= axis.sigma)
                axis = replace(axis, points=axis.points // many)
                laws.append(axis.moments()[0])
            else:
                laws.append(None)
            axes.append(axis)
            merged.append(many)
        return cls((axes[0], axes[1]), (merged[0], merged[1]), (laws[0], laws[1]))

    @property
    def cells(self) -> int:
        """Cells of states."""
        return self.axes[0].cells * self.axes[1].cells

    @property
    def shape(self) -> tuple[int, int]:
        """Cells of means along both axes."""
        counts = [a.rows_between * a.points if isinstance(a, AxisLaw) else a.cells for a in self.axes]
        return counts[0], counts[1]

    def boxes(self, bellman: Bellman, actions: tuple[Array, Array]) -> Array:
        """Return the first and last cells of means (2, 2, K) that F meets from cells of states under ranges of actions (K, m);
        they may lie beyond the ends of a mirrored or periodic axis."""
        place = np.unravel_index(np.arange(self.cells), (self.axes[0].cells, self.axes[1].cells))
        states = []
        for axis, k in zip(self.axes, place, strict=True):
            # a rounding wider than the cells
            nudge = NUDGE * float(np.max(np.abs(axis.edges)))  # type: ignore[union-attr]
            states.append(range_jet(axis.edges_at(k) - nudge, axis.edges_at(k + 1) + nudge))  # type: ignore[union-attr]
        parts = [range_jet(a, b) for a, b in zip(actions[0].T, actions[1].T, strict=True)]
        with np.errstate(all="ignore"):
            means = bellman.problem.action_values(jets, *bellman.frame.states(states), *parts)[:-1]
        found = np.empty((2, 2, self.cells), dtype=np.int64)
        for j, (mean, axis, count) in enumerate(zip(means, self.axes, self.shape, strict=True)):
            bellman.beat()
            ends, knots = as_range(mean, self.cells), axis.knots
            width = axis.point_spacing if isinstance(axis, AxisLaw) else axis.spacing
            first, last = ends.lower, ends.upper
            first, last = (first - knots.low) / width - _NEAR, (last - knots.low) / width + _NEAR
            period = 2 * count if axis.model == "reflect" else count
            if knots.periodic:
                whole = ~(last - first < period - 1)
                first, last = np.where(whole, 0.0, first), np.where(whole, period - 1.0, last)
                turn = np.floor(first / period) * period
                first, last = first - turn, last - turn
            else:
                first, last = (np.clip(np.nan_to_num(x, nan=bad), 0.0, count - 1.0) for x, bad in ((first, 0.0), (last, count)))
            found[j] = np.floor(first), np.floor(last)
        return found

    def expect(self, values: Array) -> Array:
        """Return E of values on the cells of states (K) at the points (points_1, points_2)."""
        table = values.reshape(self.axes[0].cells, self.axes[1].cells)
        one, two = self.laws
        table = table if one is None else one @ table
        return table if two is None else np.ascontiguousarray((two @ table.T).T)

    def supremum(self, bound: Array, reached: list[tuple[Array, float]]) -> float:
        """Return an upper bound of the averages of a function, bounded on the cells of g's bounds, along all chains with
        means in boxes, each at its price."""
        h, shape = self._merged(bound), self.shape
        w, moved, dear = np.zeros(shape), np.empty(self.cells), np.empty(self.cells)
        # sums over the laws, of numbers no larger than w's range: a rounding each
        noisy = [axis for axis in self.axes if isinstance(axis, AxisLaw)]
        terms = sum(2 * axis.reach for axis in noisy) + 200
        between = sum((axis.point_spacing / axis.sigma) ** 2 / 8 for axis in noisy)
        mirrored = np.array([axis.model == "reflect" for axis in self.axes])
        least = start = float(np.max(h))
        falls: list[float] = []
        work = [2.0 * float(np.sum(np.prod(boxes[:, 1] - boxes[:, 0] + 1.0, axis=0))) for boxes, _ in reached]
        for _ in range(_STEPS):
            moved.fill(-np.inf)
            for (boxes, price), terms_of in zip(reached, work, strict=True):
                spread(_largest, self.cells, terms_of, w, boxes, mirrored, dear)
                np.maximum(moved, dear - price, out=moved)
            size = float(np.ptp(w))
            image = h + self._over_cells(self.expect(moved))
            change = image - w
            slack = size * (between + 4 * terms * _UNIT) + 4 * _UNIT * float(np.max(np.abs(h)))
            least = min(least, float(np.max(change)) + slack)
            falls.append(least)
            if least - float(np.min(change)) <= _ENOUGH * (start - least):
                break
            # a chain that may stay in several places falls no further, while w grows without end
            if len(falls) > _STAND and falls[-1 - _STAND] - least <= _SLOW * (start - least):
                break
            w = image - 0.5 * (float(np.max(image)) + float(np.min(image)))
        return least

    def stationary(self, boxes: Array) -> Array:
        """Return the law of the means (cells), near that to which the chain tends whose means are in the middle of the boxes."""
        place = []
        for k, (axis, count) in enumerate(zip(self.axes, self.shape, strict=True)):
            middle = (boxes[k, 0] + boxes[k, 1]) // 2
            if axis.model == "reflect":
                middle = middle % (2 * count)
                middle = np.where(middle < count, middle, 2 * count - 1 - middle)
            place.append(middle % count)
        to = np.ravel_multi_index((place[0], place[1]), self.shape)
        mass: Array = np.full(self.shape, 1.0 / np.prod(self.shape))
        for _ in range(_STEPS):
            mass = np.bincount(to, weights=self.states(mass).ravel(), minlength=mass.size).reshape(self.shape)
        return mass / mass.sum()

    def states(self, mass: Array) -> Array:
        """Return the law of the states on their cells for a law of the means on theirs, as if they were at the first corners."""
        one, two = self._back
        table = mass if one is None else one @ mass
        return table if two is None else (two @ table.T).T

    @cached_property
    def _back(self) -> tuple[csr_array | None, ...]:
        """From the means to the states: the laws at the first corners of the cells of means."""
        return tuple(None if law is None else csr_array(law[:n].T) for law, n in zip(self.laws, self.shape, strict=True))

    def average(self, values: Array, weights: Array) -> float:
        """Return the mean of values on the cells of g's bounds, the largest in each of these cells."""
        return float(np.sum(self._merged(values) * weights))

    def _merged(self, values: Array) -> Array:
        """Return the largest of values on cells of g's bounds in each cell of means."""
        one, two = self.merged
        return np.maximum.reduce(values.reshape(self.shape[0], one, self.shape[1], two), axis=(1, 3))

    def _over_cells(self, values: Array) -> Array:
        """Return the largest of values at the corners of the cells of means."""
        for k, axis in enumerate(self.axes):
            if not isinstance(axis, AxisLaw):
                continue
            values = np.maximum(values, np.roll(values, -1, axis=k))
            values = np.take(values, range(self.shape[k]), axis=k)
        return values


@driver
def _largest(begin, end, w, boxes, mirrored, result):
    """result[k] = the largest of w over the box (2, 2) of cells, which go round or back beyond the ends."""
    n1, n2 = w.shape
    for k in range(begin, end):
        most = -np.inf
        for i in range(boxes[0, 0, k], boxes[0, 1, k] + 1):
            if mirrored[0]:
                i = i % (2 * n1)
                i = i if i < n1 else 2 * n1 - 1 - i
            row = w[i % n1]
            for j in range(boxes[1, 0, k], boxes[1, 1, k] + 1):
                if mirrored[1]:
                    j = j % (2 * n2)
                    j = j if j < n2 else 2 * n2 - 1 - j
                most = max(most, row[j % n2])
        result[k] = most
