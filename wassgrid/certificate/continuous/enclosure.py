"""Bounds of q(s) = min_a f(s, a) between the nodes of a lattice: a polynomial below and one above on every cell.

Let f(., a) have second derivatives in [L_k, K_k] along axis k at a fixed action, and slopes that jump upward by at most j_k and
downward by at most i_k along a line through the cell, D_k wide. With s_k the distance to the lower node it then lies above its
multilinear interpolant less sum_k (K_k + 2 j_k/D_k) s_k (D_k - s_k)/2, and below it less the same with L_k - 2 i_k/D_k.
Below.  A minimum of such functions lies so above the interpolant of the minima: kinks where the best action changes cost nothing,
and only actions that may be best somewhere in the cell count for K.
Above.  q is at most f at any one action: that which is best in the middle of the cell.
Paths.  Both hold of f(s, A(s) + e) as a function of s, at fixed e, with a multilinear A through the best actions at the corners,
for all e that keep the actions at the corners within their bounds; others, where they may be best, are taken as fixed actions.
So the bends are those of q to first order, f_ss - f_sa^2/f_aa, where the best action is inside its bounds and moves.
Actions.  On a box of actions, with g and H from intervals, f(s, b + e) >= f(s, b) + sum_k (g_k e_k + l_k e_k^2/2 - n_k |e_k|),
l_k = H_kk - sum_m |H_km| at least (Gershgorin) and n_k the downward jumps of slopes: the least value of a sum of functions of one
variable each. Boxes in which f is monotone in an action shrink to the end where it is least; boxes where the bound is not near
what was found are halved, or left with their ends where f is concave; those that can hold no best action are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from wassgrid.certificate.continuous.bellman import FEW, Bellman
from wassgrid.certificate.continuous.jets import Jet, as_range, place
from wassgrid.certificate.continuous.laws import Axis
from wassgrid.problem.intervals import Interval
from wassgrid.transition.threads import TEAM

Array = np.ndarray
NUDGE = 2e-14  # what cells are narrower by at their ends, of the size of the states: more than a few roundings
BENDS_AT_ONCE = 1 << 19  # second derivatives at a time, of every thread
_ROUNDS = 14  # of halving boxes of actions, at nodes
_TURNS = 6  # of halving them over cells, where what is left costs no more than curvature
_BEYOND = 2  # of those where actions of a path lie beyond their bounds
_SHARE = 0.05  # what the minima over the actions may cost, of what is wanted
_FINEST = {1: 1024, 2: 32}  # parts of a cell along an axis, by the number of states
_LARGEST = 1 << 18  # cells of a layer but the coarsest
_MOVED = 0.25  # of the box of an action: what it may move by within a cell
_MARGIN = 4.0  # times the largest gap that is wanted: how much worse actions are that count as far from the best
_NEAR = 0.25  # of what is lost between the nodes: what bounds of curvature for several actions may add


@dataclass(frozen=True)
class Layer:
    """Some cells of a lattice, the coarsest one with every cell cut into `factor` along each axis.

    index (K): the cells, flat; below, above (6, K): the polynomials, see `laws`; actions (2^d, K, m): at the corners of the
    cells, multilinear between them; near (2, m, K): ranges of actions beyond which f is above q by `Enclosure.margin` at least.
    """

    factor: int
    index: Array
    below: Array
    above: Array
    actions: Array
    near: Array

    def take(self, kept: Array) -> Layer:
        below, above, actions = (part[:, kept] for part in (self.below, self.above, self.actions))
        return Layer(self.factor, self.index[kept], below, above, actions, self.near[:, :, kept])

    def place(self, axes: tuple[Axis, Axis]) -> tuple[Array, ...]:
        """Return where the cells are on their lattice; axes: of the coarsest one."""
        return np.unravel_index(self.index, tuple(axis.refined(self.factor).cells for axis in axes))

    def coarse(self, axes: tuple[Axis, Axis]) -> tuple[Array, ...]:
        """Return in which cells of the coarsest lattice the cells are."""
        return tuple(k // self.factor for k in self.place(axes))

    def put(self, cell: Array, other: Layer) -> None:
        """Put others in the place of some cells."""
        self.below[:, cell], self.above[:, cell] = other.below, other.above
        self.actions[:, cell], self.near[:, :, cell] = other.actions, other.near


@dataclass(frozen=True)
class Enclosure:
    """Hold bounds of q on all cells of the coarsest lattice, polynomials (6, cells_1, cells_2) below and above, see `laws`, and
    on the cells that are left when some are cut, coarsest first.

    minima: the most by which a minimum over the actions at a node may lie below the value found there.  margin: see `Layer`.
    """

    below: Array
    above: Array
    layers: list[Layer]
    minima: float
    margin: float

    @property
    def cells(self) -> int:
        """Cells of all layers."""
        return sum(layer.index.size for layer in self.layers)

    def excess(self, axes: tuple[Axis, Axis], wanted: Array) -> Array:
        """Return how far the bounds are apart on the cells of all layers, over what was wanted of them, see `enclose`."""
        found = []
        for layer in self.layers:
            gap = _gap(layer, [axis.spacing / layer.factor for axis in axes])
            found.append(gap / (layer.factor * wanted[layer.coarse(axes)]))
        return np.concatenate(found)


class _Cells:
    """Some cells of a lattice with these axes, flat indices (K): boxes a rounding narrower than they are, and their nodes.

    low, high (K, d): the boxes; corners (2^d, K): nodes; node_low, node_high (nodes, d): small boxes around the nodes, in which a
    jump or kink at a node shows, but for those at the ends.
    """

    def __init__(self, axes: tuple[Axis, Axis], d: int, index: Array) -> None:
        self.spacing = [axis.spacing for axis in axes[:d]]
        place = np.unravel_index(index, tuple(axis.cells for axis in axes))[:d]
        used, sizes = axes[:d], [axis.cells for axis in axes[:d]]
        ends = [axis.edges_at(np.array([0, n])) for axis, n in zip(used, sizes, strict=True)]  # type: ignore[union-attr]
        nudges = [NUDGE * float(np.max(np.abs(e))) for e in ends]
        lows = [axis.edges_at(i) + t for axis, i, t in zip(used, place, nudges, strict=True)]  # type: ignore[union-attr]
        highs = [axis.edges_at(i + 1) - t for axis, i, t in zip(used, place, nudges, strict=True)]  # type: ignore[union-attr]
        self.low, self.high = np.stack(lows, axis=1), np.stack(highs, axis=1)
        shape = tuple(n + 1 for n in sizes)
        corners = np.array(
            [np.ravel_multi_index([i + side for i, side in zip(place, sides, strict=True)], shape)
             for sides in product((0, 1), repeat=d)]
        )  # fmt: skip
        nodes, inverse = np.unique(corners, return_inverse=True)
        self.corners = inverse.reshape(corners.shape)
        low, high = [], []
        for axis, n, t, i in zip(used, sizes, nudges, np.unravel_index(nodes, shape), strict=True):
            e = axis.edges_at(i)  # type: ignore[union-attr]
            down, up = e - 2 * t, e + 2 * t
            if axis.model != "open":
                down, up = np.where(i == 0, e + t, down), np.where(i == 0, e + 2 * t, up)
                down, up = np.where(i == n, e - 2 * t, down), np.where(i == n, e - t, up)
            low.append(down)
            high.append(up)
        self.node_low, self.node_high = np.stack(low, axis=1), np.stack(high, axis=1)

    @property
    def nodes(self) -> Array:
        return 0.5 * (self.node_low + self.node_high)


def enclose(
    bellman: Bellman, box: tuple[Array, Array], near: Callable[[Array], Sequence[Array]], wanted: Array, margins: bool
) -> Enclosure:
    """Enclose q on every cell; box: ends (m) of the actions, finite; near: actions (K, m) that are good at states (K, d).

    margins: whether to find actions that are far from the best, see `Layer`; else the margin is 0, and none counts as far.

    Cells whose bounds are apart by more than `wanted` (cells_1, cells_2), in the mean, are cut in two along every axis, those
    half as large by more than twice that, and so on: what a mean sees of cells around a kink is the less, the smaller they are.
    """
    d, axes = bellman.d, bellman.axes
    cells = _Cells(axes, d, np.arange(axes[0].cells * axes[1].cells))
    actions = bellman.improve(cells.nodes, bellman.lowest(cells.nodes, near(cells.nodes))[0], *box, steps=FEW)[0]
    margin = _MARGIN * float(np.max(wanted)) if margins else 0.0
    first, minima = _enclosed(bellman, box, cells, actions, wanted.ravel(), margin, 1, np.arange(len(cells.low)))
    layers, layer, factor = [], first, 1
    while True:
        gap = _gap(layer, [axis.spacing / factor for axis in axes])
        here = wanted[layer.coarse(axes)]
        allowed = factor * here
        cut = gap > allowed
        if factor >= _FINEST[d] or np.count_nonzero(cut) == 0:
            layers.append(layer)
            break
        most = _LARGEST >> d
        if np.count_nonzero(cut) > most:
            cut = gap > allowed * np.partition(gap / allowed, -most)[-most]
        layers.append(layer.take(~cut))
        parents = layer.take(cut)
        place = parents.place(axes)
        factor *= 2
        shape = axes[0].cells * factor, axes[1].cells * (factor if d == 2 else 1)
        halves = [np.stack([2 * i, 2 * i + 1]) if k < d else np.stack([i, i]) for k, i in enumerate(place)]
        sides = product((0, 1), (0, 1) if d == 2 else (0,))
        index = np.concatenate([np.ravel_multi_index((halves[0][one], halves[1][two]), shape) for one, two in sides])
        cells = _Cells((axes[0].refined(factor), axes[1].refined(factor)), d, index)
        actions = _known_actions(bellman, box, cells, np.tile(parents.actions, (1, 2**d, 1)))
        layer, lost = _enclosed(bellman, box, cells, actions, np.tile(here[cut], 2**d), margin, factor, index)
        minima = max(minima, lost)
    shape = axes[0].cells, axes[1].cells
    return Enclosure(first.below.reshape(6, *shape), first.above.reshape(6, *shape), layers, minima, margin)


def _gap(layer: Layer, spacing: list[float]) -> Array:
    """Return the means (K) of above - below over the cells."""
    p = layer.above - layer.below
    return p[0] + p[3] * spacing[0] ** 2 / 24 + p[5] * spacing[1] ** 2 / 24


def _known_actions(bellman: Bellman, box: tuple[Array, Array], cells: _Cells, starts: Array) -> Array:
    """Return actions (nodes, m) of low f found from those at the corners of the cells' parents (2^d, K, m)."""
    nodes = cells.nodes
    best, value = np.zeros((len(nodes), starts.shape[2])), np.full(len(nodes), np.inf)
    for corner in cells.corners:
        for start in starts:
            action = best.copy()
            action[corner] = start
            found = bellman.values(nodes, action)
            better = found < value
            best[better], value = action[better], np.minimum(value, found)
    return bellman.improve(nodes, best, *box, steps=FEW)[0]


def _enclosed(
    bellman: Bellman, box: tuple[Array, Array], cells: _Cells, actions: Array, wanted: Array, margin: float, factor: int,
    index: Array,
) -> tuple[Layer, float]:  # fmt: skip
    """Enclose q on some cells, from actions (nodes, m); return also the most that is lost at the minima."""
    room = np.full(len(cells.node_low), np.inf)
    for corner in cells.corners:
        np.minimum.at(room, corner, _SHARE * wanted)
    at = _Nodes(bellman, box, cells.node_low, cells.node_high, actions, room)
    nodes, count, m = len(at.low), len(cells.low), actions.shape[1]
    TEAM.share(at.prove, list(_chunks(nodes, actions.shape[1])))
    below, above = np.zeros((6, count)), np.zeros((6, count))
    layer = Layer(factor, index, below, above, np.zeros((2**bellman.d, count, m)), np.zeros((2, m, count)))
    done, sides = np.zeros(count, dtype=bool), [axis.spacing / factor for axis in bellman.axes]
    moving = _moving(at.actions[cells.corners], box)

    def fill(part: Array) -> None:
        rest = part[~moving[part]]
        for kind in (_Path, _Fixed):
            cell = part[moving[part]] if kind is _Path else rest
            if cell.size == 0:
                continue
            states = cells.low[cell], cells.high[cell]
            chunk = kind(bellman, box, *states, cells.corners[:, cell], at, cells.spacing, wanted[cell], margin)
            below, near, mixed = chunk.below()
            found = Layer(factor, index[cell], below, chunk.above(), chunk.actions(), near)
            # where paths leave the bounds of actions, fixed ones may bound f better
            better = ~done[cell] | (_gap(found, sides) < _gap(layer.take(cell), sides))
            layer.put(cell[better], found.take(better))
            done[cell] = True
            if kind is _Path:
                rest = np.concatenate([rest, cell[mixed]])

    TEAM.share(fill, list(_chunks(count, bellman.d + actions.shape[1])))
    lost = np.where(np.isfinite(at.least), at.known.high - at.least, 0.0)
    return layer, float(np.max(lost))


def _chunks(count: int, variables: int) -> Iterator[Array]:
    """Cut 0 ... count - 1 into parts for which the jets in so many variables take no more than some megabytes."""
    size = 2 * BENDS_AT_ONCE // (variables * (variables + 1))
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


@dataclass(frozen=True)
class _Known:
    """Ranges of f at boxes of states and at given actions: value below and above (K), slopes in the action (K, m)."""

    low: Array
    high: Array
    slope_low: Array
    slope_high: Array

    @classmethod
    def of(cls, bellman: Bellman, low: Array, high: Array, actions: Array) -> _Known:
        parts = []
        for part in _chunks(len(low), actions.shape[1]):
            at = actions[part]
            jet = bellman.jet((low[part], high[part]), (at, at), "a")
            value = as_range(jet.value, len(at))
            slopes = [as_range(g, len(at)) for g in jet.gradient]
            lower = np.where(jet.broken, -np.inf, np.stack([g.lower for g in slopes]))
            upper = np.where(jet.broken, np.inf, np.stack([g.upper for g in slopes]))
            parts.append((value.lower, value.upper, lower.T, upper.T))
        if not parts:
            return cls(np.zeros(0), np.zeros(0), actions.copy(), actions.copy())
        return cls(*(np.concatenate(x) for x in zip(*parts, strict=True)))

    def take(self, index: Array) -> _Known:
        return _Known(self.low[index], self.high[index], self.slope_low[index], self.slope_high[index])

    def put(self, index: Array, other: _Known) -> None:
        for name in ("low", "high", "slope_low", "slope_high"):
            getattr(self, name)[index] = getattr(other, name)


class _Nodes:
    """The nodes, small boxes [low, high] (K, d): the best actions (K, m) known, f there, and `least` (K) <= q."""

    def __init__(self, bellman: Bellman, box: tuple[Array, Array], low: Array, high: Array, actions: Array, room: Array) -> None:
        self.bellman, self.box, self.low, self.high, self.actions = bellman, box, low, high, actions
        self.known = _Known.of(bellman, low, high, actions)
        self.room = room + 1e-13 * np.abs(self.known.high)
        self.least = np.full(len(low), np.inf)

    def prove(self, node: Array) -> None:
        """Bound q from below at some nodes, to within the room or as near as halving boxes of actions brings it."""
        alow, ahigh = (np.broadcast_to(end, (node.size, end.size)) for end in self.box)
        for turn in range(_ROUNDS + 1):
            bound, alow, ahigh, where, concave = self._bound(node, alow, ahigh)
            late = (bound < self.known.high[node] - self.room[node]) & np.any(alow < ahigh, axis=1) & (turn < _ROUNDS)
            np.minimum.at(self.least, node[~late], bound[~late])
            if not np.any(late):
                break
            node, alow, ahigh = _halved(node[late], alow[late], ahigh[late], where[late], concave[late])

    def _bound(self, node: Array, alow: Array, ahigh: Array) -> tuple[Array, Array, Array, Array, Array]:
        """Bound f from below over boxes of actions; return the bounds, what is left of the boxes, where to cut them, and in which
        actions f is concave."""
        jet = self.bellman.jet((self.low[node], self.high[node]), (alow, ahigh), "a")
        alow, ahigh = _shrunk(jet, 0, alow, ahigh)
        start = np.clip(self.actions[node], alow, ahigh)
        value = as_range(jet.value, node.size).lower
        known = self.known.take(node)
        near = np.any(start != self.actions[node], axis=1)
        near &= ~(value >= known.high - self.room[node])
        other = np.flatnonzero(near)
        here = _Known.of(self.bellman, self.low[node[other]], self.high[node[other]], start[other])
        known.put(other, here)
        bound = known.low + _least(jet, 0, alow - start, ahigh - start, known, node.size)
        # where another action was not looked at, the range is all there is
        looked = near | np.all(start == self.actions[node], axis=1)
        bound = np.where(looked, np.maximum(bound, value), value)
        self._learn(node[other], start[other], here)
        inside = (start > alow + 0.05 * (ahigh - alow)) & (start < ahigh - 0.05 * (ahigh - alow))
        return bound, alow, ahigh, np.where(inside, start, 0.5 * (alow + ahigh)), _concave(jet, 0, alow, ahigh)

    def _learn(self, node: Array, action: Array, here: _Known) -> None:
        """Keep actions that are better than those known."""
        better = np.flatnonzero(here.high < self.known.high[node])
        # of several for one node the best: the last one stays
        better = better[np.argsort(-here.high[better], kind="stable")]
        self.actions[node[better]] = action[better]
        self.known.put(node[better], here.take(better))


def _moving(corners: Array, box: tuple[Array, Array]) -> Array:
    """Tell for which cells, by the best actions at their corners (2^d, K, m), an action moves within its bounds."""
    least, most = corners.min(axis=0), corners.max(axis=0)
    inside = (least > box[0]) & (most < box[1]) & (most - least <= _MOVED * (box[1] - box[0]))
    return np.any(least < most, axis=1) & np.all(inside | (least == most), axis=1)


class _Chunk:
    """Some cells: boxes [low, high] (K, d), their corners among the nodes (2^d, K).

    Families of actions are functions of s: A(s) + e, or the fixed action e (`along` a path A, or not). `middle` (K, m): the
    action in the middle of the cell that the family has which bounds q above.
    """

    along = False

    def __init__(
        self, bellman: Bellman, box: tuple[Array, Array], low: Array, high: Array, corners: Array, at: _Nodes,
        spacing: list[float], wanted: Array, margin: float,
    ) -> None:  # fmt: skip
        self.wanted, self.margin = wanted, margin
        self.bellman, self.box, self.low, self.high, self.corners, self.at = bellman, box, low, high, corners, at
        self.spacing, self.centres = spacing, 0.5 * (low + high)
        self.middle = self._middle()
        best = self._best(self.along, np.arange(len(low)))
        self.around = self._jet(self.along, np.arange(len(low)), best, best, "s")
        self.broken = np.asarray(self.around.broken) | np.zeros(len(low), dtype=bool)
        self.value = as_range(self.around.value, len(low))
        self.steep, self.flat = _bends(self.around, spacing, len(low))
        self.tops = self._tops()

    def _middle(self) -> Array:
        raise NotImplementedError

    def actions(self) -> Array:
        """Return the actions (2^d, K, m) at the corners."""
        raise NotImplementedError

    def _best(self, along: bool, cell: Array) -> Array:
        """Return the e (cells, m) with which a family has the action `middle` in the middle of cells."""
        return np.zeros((cell.size, self.middle.shape[1])) if along else self.middle[cell]

    def _jet(self, along: bool, cell: Array, elow: Array, ehigh: Array, seeds: str, middle: bool = False) -> Jet:
        """Return the jet of f over cells, or in the middle of them, and boxes of e."""
        return self.bellman.jet(self._states(cell, middle), (elow, ehigh), seeds)

    def _states(self, cell: Array, middle: bool) -> tuple[Array, Array]:
        return (self.centres[cell], self.centres[cell]) if middle else (self.low[cell], self.high[cell])

    def _tops(self) -> Array:
        """Return f at the corners (2^d, K) and the family that bounds q above, from above."""
        raise NotImplementedError

    def above(self) -> Array:
        """Return the polynomials (6, K) above q."""
        return self._polynomials(self.tops, self.flat, self.broken, self.value.upper)

    def below(self) -> tuple[Array, Array, Array]:
        """Return the polynomials (6, K) below q, the actions that are near the best (2, m, K), see `Layer`, and for which
        cells (K) families of two kinds are needed."""
        squares = np.array(self.spacing)[:, None] ** 2 / 8
        with np.errstate(invalid="ignore"):
            # what curvature and the one family cost anyway
            lost = np.sum((self.steep - self.flat) * squares, axis=0)
            lost += np.mean(self.tops - self.at.least[self.corners], axis=0)
            room = np.maximum(_NEAR * lost, _SHARE * self.wanted)
        room = np.where(np.isfinite(room), room, np.inf)
        near = np.stack([self.actions().min(axis=0).T, self.actions().max(axis=0).T])
        least = _Least(self.steep.copy(), self.value.lower.copy(), self.broken.copy(), room, near)
        mixed = self._search_all(least)
        return self._polynomials(self.at.least[self.corners], least.bends, least.broken, least.value), near, mixed

    def _search_all(self, found: _Least) -> Array:
        """Add all families that can be best somewhere in their cells; return for which cells (K) those are of two kinds."""
        raise NotImplementedError

    def _search(
        self, found: _Least, along: bool, boxes: tuple[Array, Array, Array], turns: int = _TURNS
    ) -> list[tuple[Array, Array, Array]]:
        """Add what families can be best somewhere in their cells, in boxes of e (cell, from, to), halved as far as that pays;
        return those that leave the bounds of actions somewhere, as ranges of fixed actions."""
        cell, elow, ehigh = boxes

        def meet(some: Array, low: Array, high: Array) -> None:
            """Count some boxes, from low to high, among what is near the best, if that is asked for."""
            if self.margin > 0.0:
                found.meet(cell[some], *self._fixed(along, cell[some], low[some], high[some]))

        squares = np.array(self.spacing)[:, None] ** 2 / 8
        rest: list[tuple[Array, Array, Array]] = []
        for turn in range(turns + 1):
            if cell.size == 0:
                break
            jet = self._jet(along, cell, elow, ehigh, "sa")
            left, right = _shrunk(jet, self.bellman.d, elow, ehigh)
            if self.margin > 0.0:
                # what is as near the face to which a box shrinks as the slope allows
                ends = _shrunk(jet, self.bellman.d, elow, ehigh, self.margin)
                meet(np.any((ends[0] != left) | (ends[1] != right), axis=1), *ends)
            # boxes that shrink to the best e of the cell are done, those that shrink are looked at again
            kept = ~np.all((left == right) & (left == self._best(along, cell)), axis=1) | (along != self.along)
            if turn or along:
                best, nearly = self._may_be_best(along, cell, left, right, jet)
                meet(nearly & ~best, left, right)
                kept &= best
            torn = np.asarray(jet.broken) | np.zeros(cell.size, dtype=bool)
            bend, _ = _bends(jet, self.spacing, cell.size)
            value = as_range(jet.value, cell.size).lower
            with np.errstate(invalid="ignore"):
                more = np.sum(np.maximum(bend - found.bends[:, cell], 0.0) * squares, axis=0)
                level = found.value - _SHARE * (self.value.upper - found.value)
                near = np.where(torn | found.broken[cell], value >= level[cell], more <= found.room[cell])
            within = self._within(along, cell, left, right)
            wide = np.any(left < right, axis=1)
            shrunk = np.any((left != elow) | (right != ehigh), axis=1)
            late = kept & ~(near & within) & (wide | shrunk) & (turn < np.where(within, turns, min(turns, _BEYOND)))
            done = kept & ~late
            found.add(cell[done & within], bend[:, done & within], value[done & within], torn[done & within])
            meet(done, left, right)
            if np.any(out := done & ~within):
                rest.append((cell[out], *self._fixed(along, cell[out], left[out], right[out])))
            whole, cut = late & shrunk, late & ~shrunk
            concave = _concave(jet, self.bellman.d, elow, ehigh)[cut]
            # between the ends that are left f is no lower, but may be as low
            meet(np.flatnonzero(cut)[np.any(concave, axis=1)], elow, ehigh)
            where = 0.5 * (elow + ehigh)[cut]
            if along:
                # the farther from the path the longer
                where = np.where(elow[cut] > 0.0, np.minimum(where, 4.0 * elow[cut]), where)
                where = np.where(ehigh[cut] < 0.0, np.maximum(where, 4.0 * ehigh[cut]), where)
            halves = _halved(cell[cut], elow[cut], ehigh[cut], where, concave)
            cell = np.concatenate([cell[whole], halves[0]])
            elow, ehigh = np.concatenate([left[whole], halves[1]]), np.concatenate([right[whole], halves[2]])
        return rest

    def _within(self, along: bool, cell: Array, elow: Array, ehigh: Array) -> Array:
        """Tell which boxes of e keep the actions at all corners within their bounds."""
        return np.ones(cell.size, dtype=bool)

    def _fixed(self, along: bool, cell: Array, elow: Array, ehigh: Array) -> tuple[Array, Array]:
        """Return the ranges of the actions of boxes of e over cells."""
        return elow, ehigh

    def _polynomials(self, corners: Array, bends: Array, broken: Array, constant: Array) -> Array:
        """Return the multilinear interpolants (6, K) of values at the corners less sum_k bends_k s_k (D_k - s_k)/2, where that is
        known, else constants."""
        d, p = self.bellman.d, np.zeros((6, len(self.low)))
        p[0] = corners.mean(axis=0)
        with np.errstate(invalid="ignore"):
            for k in range(d):
                side = np.array([s[k] for s in product((0, 1), repeat=d)], dtype=bool)
                p[1 + k] = (corners[side].mean(axis=0) - corners[~side].mean(axis=0)) / self.spacing[k]
                # s (D - s)/2 = D^2/8 - d^2/2
                p[0] -= bends[k] * self.spacing[k] ** 2 / 8
                p[(3, 5)[k]] = bends[k]
            if d == 2:
                p[4] = (corners[0] - corners[1] - corners[2] + corners[3]) / (self.spacing[0] * self.spacing[1])
        bent = broken | ~np.all(np.isfinite(p), axis=0)
        if np.any(bent):
            p[:, bent] = 0.0
            p[0, bent] = constant[bent]
        return p

    def _may_be_best(self, along: bool, cell: Array, elow: Array, ehigh: Array, jet: Jet) -> tuple[Array, Array]:
        """Tell which boxes may hold a best e somewhere in the cell: not those that are worse than the cell's own in the middle by
        more than both may change to the cell's ends; and which may hold one that is worse by less than the margin."""
        count, s, own = cell.size, self.centres[cell], self.middle[cell]
        start = np.clip(self._best(along, cell), elow, ehigh)
        known = _Known.of(self.bellman, s, s, own + start if along else start)
        top = as_range(self.bellman.jet((s, s), (own, own), "").value, count).upper
        gap = known.low + _least(jet, self.bellman.d, elow - start, ehigh - start, known, count) - top
        change = np.zeros(count)
        for k, width in enumerate(self.spacing):
            own_slope = _some(self.around.gradient[k], len(self.low), cell)
            change += 0.5 * width * _apart(as_range(jet.gradient[k], count), own_slope)
        unsure = np.broadcast_to(self.around.broken, len(self.low))[cell] | np.asarray(jet.broken)
        # rounding: a few units of the values
        room = 1e-14 * np.abs(top)
        left, near = ~(gap > change + room) | unsure, ~(gap > change + room + self.margin) | unsure
        if along == self.along and along and np.any(left):
            some = np.flatnonzero(left)
            bends = [[_some(jet.second(k, m), count, some) for m in range(k + 1)] for k in range(self.bellman.d)]
            sides = [side[k] for k in range(self.bellman.d) for side in (jet.up, jet.down)]
            kinks = np.any([np.broadcast_to(side, count)[some] > 0.0 for side in sides], axis=0)
            change = np.where(kinks, np.inf, self._change(cell[some], elow[some], ehigh[some], bends)) + room[some]
            left[some] = ~(gap[some] > change) | unsure[some]
            near[some] = ~(gap[some] > change + self.margin) | unsure[some]
        return left, near

    def _change(self, cell: Array, elow: Array, ehigh: Array, bends: list[list[Interval]]) -> Array:
        """Bound what f at boxes of e, less f at the cell's own, changes by over the cells: by slopes in the middle and by bends;
        infinite where there are kinks.  bends: second derivatives of f over the cells and boxes."""
        best = self._best(self.along, cell)
        there = self._jet(self.along, cell, elow, ehigh, "sa", middle=True)
        own = self._jet(self.along, cell, best, best, "s", middle=True)
        half, n, around = [0.5 * width for width in self.spacing], len(self.low), self.around
        change = np.zeros(cell.size)
        with np.errstate(invalid="ignore"):
            for k in range(len(half)):
                change += half[k] * _apart(as_range(there.gradient[k], cell.size), as_range(own.gradient[k], cell.size))
                for m in range(k + 1):
                    share = 0.5 if m == k else 1.0
                    change += share * half[k] * half[m] * _apart(bends[k][m], _some(around.second(k, m), n, cell))
                for kink in (around.up[k], around.down[k]):
                    change[np.broadcast_to(kink, n)[cell] > 0.0] = np.inf
        return np.where(np.isnan(change), np.inf, change)


@dataclass(frozen=True)
class _Least:
    """What bounds q below on cells: largest bends (d, K) of the families that may be best, the least value (K), whether f may
    jump; room (K): what curvature may add without a closer look; near (2, m, K): actions that are near the best."""

    bends: Array
    value: Array
    broken: Array
    room: Array
    near: Array

    def meet(self, cell: Array, low: Array, high: Array) -> None:
        """Count ranges of actions among those that are near the best."""
        for k, (lowest, highest) in enumerate(zip(*self.near, strict=True)):
            np.minimum.at(lowest, cell, low[:, k])
            np.maximum.at(highest, cell, high[:, k])

    def add(self, cell: Array, bends: Array, value: Array, broken: Array) -> None:
        for largest, bend in zip(self.bends, bends, strict=True):
            np.maximum.at(largest, cell, bend)
        np.minimum.at(self.value, cell, value)
        self.broken[cell[broken]] = True


class _Fixed(_Chunk):
    """Cells with fixed actions."""

    def _middle(self) -> Array:
        best = self.at.actions[self.corners[0]].copy()
        torn = np.flatnonzero(np.any(self.at.actions[self.corners] != best, axis=(0, 2)))
        if torn.size:
            places, value = self.centres[torn], np.full(torn.size, np.inf)
            for corner in self.corners:
                action = self.at.actions[corner[torn]]
                found = self.bellman.values(places, action)
                better = found < value
                best[torn[better]] = action[better]
                value = np.minimum(value, found)
            best[torn], _ = self.bellman.improve(places, best[torn], *self.box, steps=FEW)
        return best

    def _tops(self) -> Array:
        tops = np.empty(self.corners.shape)
        for top, corner in zip(tops, self.corners, strict=True):
            top[:] = self.at.known.high[corner]
            other = np.flatnonzero(np.any(self.middle != self.at.actions[corner], axis=1))
            if other.size:
                node, action = corner[other], self.middle[other]
                jet = self.bellman.jet((self.at.low[node], self.at.high[node]), (action, action), "")
                top[other] = as_range(jet.value, other.size).upper
        return tops

    def actions(self) -> Array:
        """Return the actions (2^d, K, m) at the corners."""
        return np.broadcast_to(self.middle, (len(self.corners), *self.middle.shape))

    def _search_all(self, found: _Least) -> Array:
        low, high = (np.broadcast_to(end, self.middle.shape) for end in self.box)
        self._search(found, False, (np.arange(len(self.low)), low, high))
        return np.zeros(len(self.low), dtype=bool)


class _Path(_Chunk):
    """Cells with the multilinear A through the best actions at the corners."""

    along = True

    def _middle(self) -> Array:
        self.ends = self.at.actions[self.corners]
        return self.ends.mean(axis=0)

    def _jet(self, along: bool, cell: Array, elow: Array, ehigh: Array, seeds: str, middle: bool = False) -> Jet:
        if not along:
            return super()._jet(along, cell, elow, ehigh, seeds, middle)
        ends = self.ends[:, cell]
        return self.bellman.jet(self._states(cell, middle), (elow, ehigh), seeds, lambda like: self._paths(ends, like, middle))

    def _paths(self, ends: Array, like: Jet, middle: bool) -> list[Jet]:
        """Return the jets of A over whole cells, or in the middle of them, with the states as the first variables of `like`."""
        d, n = len(self.spacing), len(like.gradient)
        sides = np.array(list(product((0, 1), repeat=d)), dtype=bool)
        paths = []
        for j in range(ends.shape[2]):
            a, gradient, hessian = ends[:, :, j], list(like.gradient), list(like.hessian)
            size = 1e-15 * np.max(np.abs(a), axis=0)
            for k, width in enumerate(self.spacing):
                slopes, slack = (a[sides[:, k]] - a[~sides[:, k]]) / width, 4.0 * size / width
                slopes = slopes.mean(axis=0, keepdims=True) if middle else slopes
                gradient[k] = Interval(slopes.min(axis=0) - slack, slopes.max(axis=0) + slack)
            if d == 2:
                area = self.spacing[0] * self.spacing[1]
                mixed, slack = (a[0] - a[1] - a[2] + a[3]) / area, 8.0 * size / area
                hessian[place(n, 0, 1)] = Interval(mixed - slack, mixed + slack)
            a = a.mean(axis=0, keepdims=True) if middle else a
            value = Interval(a.min(axis=0) - size, a.max(axis=0) + size)
            paths.append(replace(like, value=value, gradient=tuple(gradient), hessian=tuple(hessian)))
        return paths

    def _tops(self) -> Array:
        return self.at.known.high[self.corners]

    def actions(self) -> Array:
        """Return the actions (2^d, K, m) at the corners."""
        return self.ends

    def _search_all(self, found: _Least) -> Array:
        every, m = np.arange(len(self.low)), self.middle.shape[1]
        least, most = self.ends.min(axis=0), self.ends.max(axis=0)
        # e for which all actions are within their bounds, and those for which some are
        low, high = self.box[0] - least, self.box[1] - most
        lowest, highest = self.box[0] - most, self.box[1] - least
        near = np.maximum(low, least - most), np.minimum(high, most - least)
        boxes: list[tuple[Array, Array, Array]] = [(every, *near)]
        for k in range(m):
            for one, other in ((lowest, low), (low, near[0]), (near[1], high), (high, highest)):
                part = np.flatnonzero(one[:, k] < other[:, k])
                # actions before k are near, those after it anywhere
                ends = [np.concatenate([a[part, :k], b[part, k:]], axis=1) for a, b in zip(near, (lowest, highest), strict=True)]
                ends[0][:, k], ends[1][:, k] = one[part, k], other[part, k]
                boxes.append((part, ends[0], ends[1]))
        rest = self._search(found, True, _joined(boxes))
        mixed = np.zeros(len(self.low), dtype=bool)
        if rest:
            self._search(found, False, _joined(rest), turns=_BEYOND)
            mixed[np.concatenate([cell for cell, _, _ in rest])] = True
        return mixed

    def _within(self, along: bool, cell: Array, elow: Array, ehigh: Array) -> Array:
        if not along:
            return super()._within(along, cell, elow, ehigh)
        least, most = self.ends[:, cell].min(axis=0), self.ends[:, cell].max(axis=0)
        return np.all((elow >= self.box[0] - least) & (ehigh <= self.box[1] - most), axis=1)

    def _fixed(self, along: bool, cell: Array, elow: Array, ehigh: Array) -> tuple[Array, Array]:
        if not along:
            return super()._fixed(along, cell, elow, ehigh)
        least, most = self.ends[:, cell].min(axis=0), self.ends[:, cell].max(axis=0)
        # more than the sums are rounded by
        size = 1e-14 * (np.abs(least) + np.abs(most))
        return np.clip(least + elow - size, *self.box), np.clip(most + ehigh + size, *self.box)


def _apart(one: Interval, other: Interval) -> Array:
    """Bound |x - y| for all x and y in ranges."""
    return np.maximum(one.upper - other.lower, other.upper - one.lower)


def _some(x: Any, count: int, index: Array) -> Interval:
    """Return some of `count` ranges."""
    ends = as_range(x, count)
    return Interval(ends.lower[index], ends.upper[index])


def _joined(boxes: list[tuple[Array, Array, Array]]) -> tuple[Array, Array, Array]:
    cell, low, high = (np.concatenate(x) for x in zip(*boxes, strict=True))
    return cell, low, high


def _bends(jet: Jet, spacing: list[float], count: int) -> tuple[Array, Array]:
    """Return the largest and the least bends (d, K) along the first variables, kinks included, infinite where f may jump."""
    most, least = np.empty((len(spacing), count)), np.empty((len(spacing), count))
    for k, width in enumerate(spacing):
        second = as_range(jet.second(k, k), count)
        most[k] = second.upper + 2.0 * np.asarray(jet.up[k]) / width
        least[k] = second.lower - 2.0 * np.asarray(jet.down[k]) / width
    most[:, jet.broken], least[:, jet.broken] = np.inf, -np.inf
    return most, least


def _shrunk(jet: Jet, first: int, low: Array, high: Array, margin: float = 0.0) -> tuple[Array, Array]:
    """Return the faces of boxes (K, m) of actions on which f is least, where it is monotone, and with them what is above them by
    no more than a margin; first: of the actions in `jet`."""
    low, high = low.copy(), high.copy()
    for k in range(low.shape[1]):
        slope = as_range(jet.gradient[first + k], len(low))
        rises, falls = (slope.lower >= 0.0) & ~np.asarray(jet.broken), (slope.upper <= 0.0) & ~np.asarray(jet.broken)
        falls &= ~rises
        if margin == 0.0:
            high[rises, k], low[falls, k] = low[rises, k], high[falls, k]
            continue
        with np.errstate(divide="ignore", over="ignore"):
            up, down = (margin / x * (1.0 + 1e-14) for x in (slope.lower[rises], -slope.upper[falls]))
        high[rises, k] = np.minimum(high[rises, k], low[rises, k] + up)
        low[falls, k] = np.maximum(low[falls, k], high[falls, k] - down)
    return low, high


def _least(jet: Jet, first: int, low: Array, high: Array, slopes: Jet | _Known, count: int) -> Array:
    """Return the least of sum_k (g_k e_k + l_k e_k^2/2 - n_k |e_k|) over low <= e <= high (K, m), low <= 0 <= high.

    first: where the actions begin among the variables of `jet`, which gives l and n; slopes: g.
    """
    total = np.zeros(count)
    m = low.shape[1]
    for k in range(m):
        bend = as_range(jet.second(first + k, first + k), count).lower
        for other in range(m):
            if other != k:
                mixed = as_range(jet.second(first + k, first + other), count)
                bend = bend - np.maximum(np.abs(mixed.lower), np.abs(mixed.upper))
        if isinstance(slopes, Jet):
            ends = as_range(slopes.gradient[k], count)
            down, up = np.where(slopes.broken, -np.inf, ends.lower), np.where(slopes.broken, np.inf, ends.upper)
        else:
            down, up = slopes.slope_low[:, k], slopes.slope_high[:, k]
        sink = np.asarray(jet.down[first + k])
        with np.errstate(invalid="ignore", divide="ignore"):
            right = _least_parabola(down - sink, bend, high[:, k])
            left = _least_parabola(-up - sink, bend, -low[:, k])
        total += np.minimum(right, left)
    return np.where(np.asarray(jet.broken) | np.isnan(total), -np.inf, total)


def _least_parabola(slope: Array, bend: Array, end: Array) -> Array:
    """Return the least of slope t + bend t^2/2 over 0 <= t <= end, a rounding below."""
    inner = np.where((bend > 0) & (slope < 0), np.minimum(-slope / np.where(bend > 0, bend, 1.0), end), 0.0)
    sizes = np.abs(slope) * end + np.abs(bend) * end * end
    at_end = np.where(end > 0, slope * end + 0.5 * bend * end * end - 1e-15 * sizes, 0.0)
    # about the least value rounding moves the place by a rounding, the value by its square; both terms are near the value
    at_inner = np.where(inner > 0, (slope * inner + 0.5 * bend * inner * inner) * (1.0 + 1e-14), 0.0)
    return np.minimum(np.minimum(at_end, at_inner), 0.0)


def _concave(jet: Jet, first: int, low: Array, high: Array) -> Array:
    """Tell in which actions f is concave over boxes (K, m): it is least at an end; first: of the actions in `jet`."""
    count, flags = len(low), np.zeros(low.shape, dtype=bool)
    for k in range(low.shape[1]):
        bend = as_range(jet.second(first + k, first + k), count).upper
        flags[:, k] = (bend <= 0.0) & ~(np.asarray(jet.up[first + k]) > 0.0) & ~np.asarray(jet.broken)
    return flags & (low < high)


def _halved(owner: Array, low: Array, high: Array, where: Array, concave: Array) -> tuple[Array, Array, Array]:
    """Cut boxes (K, m) at `where` along their longest side; where f is concave along a side, only its ends are left."""
    ends = np.any(concave, axis=1)
    longest = np.where(ends, np.argmax(concave, axis=1), np.argmax(high - low, axis=1))
    rows = np.arange(len(owner))
    one, two = high.copy(), low.copy()
    one[rows, longest] = np.where(ends, low[rows, longest], where[rows, longest])
    two[rows, longest] = np.where(ends, high[rows, longest], where[rows, longest])
    return np.concatenate([owner, owner]), np.concatenate([low, two]), np.concatenate([one, high])
