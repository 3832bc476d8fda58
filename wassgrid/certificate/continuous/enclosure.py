"""Bounds of q(x) = min_a f(x, a) between the nodes of a lattice: a polynomial below and one above on every cell.

Below.  At a fixed action f(., a) has second derivatives at most K_k along axis k and slopes that jump upward by at most j_k in a
cell of width D_k; with k_k = K_k + 2 j_k/D_k it lies above its multilinear interpolant less sum_k k_k s_k (D_k - s_k)/2, s_k the
distance to the lower node. A minimum of such functions does so too, with the interpolant of the minima: kinks where the best
action changes cost nothing, and only actions that may be best somewhere in the cell count.
Above.  At the action that is best in the middle of the cell, f <= f_c + f_k d_k + (K_k d_k^2 + 2 |f_12| |d_1 d_2|)/2 with kinks
likewise.
Minima over the action.  On a box of actions, with g and H from intervals, f(x, b + e) >= f(x, b) + sum_k (g_k e_k + l_k e_k^2/2 -
n_k |e_k|), l_k = H_kk - sum_m |H_km| at least (Gershgorin), n_k the downward jumps of slopes: the least value of a sum of
functions of
one variable each. Boxes where that is not near what was found are halved, and those that can hold no best action of the cell
left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

from wassgrid.certificate.continuous.bellman import Bellman
from wassgrid.problem.jets import Jet, as_range

Array = np.ndarray
NUDGE = 2e-14  # what cells are narrower by at their ends, of the size of the states: more than a few roundings
_CHUNK = 1 << 14  # cells at a time
_PIECES = 4  # boxes per action to begin with
_ROUNDS = 14  # of halving
_SHARE = 0.02  # what the minima over the actions may cost, of what curvature costs


@dataclass(frozen=True)
class Enclosure:
    """Hold the polynomials (6, cells_1, cells_2) below and above q, see `laws`, and the actions (cells_1, cells_2, m) above.

    minima: the most by which a minimum over the actions at a node may lie below the value found there.
    """

    below: Array
    above: Array
    actions: Array
    minima: float


@dataclass(frozen=True)
class _Lattice:
    """Cells in C order: corners, centres and boxes, the boxes a rounding narrower than the cells."""

    bellman: Bellman

    @property
    def shape(self) -> tuple[int, int]:
        one, two = self.bellman.axes
        return one.cells, two.cells

    @property
    def spacing(self) -> list[float]:
        return [axis.spacing for axis in self.bellman.axes[: self.bellman.d]]

    def edges(self, axis: int) -> Array:
        return self.bellman.axes[axis].edges  # type: ignore[union-attr]

    def nudge(self, axis: int) -> float:
        return NUDGE * float(np.max(np.abs(self.edges(axis))))

    def product(self, columns: list[Array]) -> Array:
        return np.stack([c.ravel() for c in np.meshgrid(*columns, indexing="ij")], axis=1)

    def nodes(self) -> tuple[Array, Array, Array]:
        """Return the nodes (., d) and small boxes around them: a jump or kink at a node shows, but for those at the ends."""
        middle, low, high = [], [], []
        for k in range(self.bellman.d):
            e, t = self.edges(k), self.nudge(k)
            down, up = e - 2 * t, e + 2 * t
            if self.bellman.axes[k].model != "open":
                down[0], up[0], down[-1], up[-1] = e[0] + t, e[0] + 2 * t, e[-1] - 2 * t, e[-1] - t
            middle.append(0.5 * (down + up))
            low.append(down)
            high.append(up)
        return self.product(middle), self.product(low), self.product(high)

    def boxes(self) -> tuple[Array, Array]:
        edges = [self.edges(k) for k in range(self.bellman.d)]
        low = self.product([e[:-1] + self.nudge(k) for k, e in enumerate(edges)])
        return low, self.product([e[1:] - self.nudge(k) for k, e in enumerate(edges)])

    def corners(self) -> Array:
        """Return the node (2^d, cells) at every corner of the cells."""
        shape = self.shape[: self.bellman.d]
        index = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
        nodes = tuple(n + 1 for n in shape)
        return np.array(
            [np.ravel_multi_index([i.ravel() + s for i, s in zip(index, side, strict=True)], nodes)
             for side in product((0, 1), repeat=self.bellman.d)]
        )  # fmt: skip


def enclose(bellman: Bellman, box: tuple[Array, Array], tries: int, pulse: Callable[[float], None]) -> Enclosure:
    """Enclose q on every cell; box: ends (m) of the actions, finite.  pulse(share) is called now and then."""
    lattice, m = _Lattice(bellman), bellman.problem.action_dimension
    nodes, node_low, node_high = lattice.nodes()
    actions, _ = bellman.minimise(nodes, box, tries)
    at_nodes = _NodeJets.of(bellman, node_low, node_high, actions)
    found = at_nodes.high.copy()  # the least value known
    corners, (low, high) = lattice.corners(), lattice.boxes()
    centres = 0.5 * (low + high)
    cells = len(low)
    below, above = np.zeros((6, cells)), np.zeros((6, cells))
    best, minima = np.zeros((cells, m)), 0.0
    for start in range(0, cells, _CHUNK):
        part = slice(start, min(start + _CHUNK, cells))
        chunk = _Chunk(bellman, box, low[part], high[part], centres[part], corners[:, part], at_nodes, actions, found,
                       (node_low, node_high), lattice.spacing)  # fmt: skip
        above[:, part], best[part] = chunk.above()
        below[:, part], lost = chunk.below()
        minima = max(minima, lost)
        pulse(part.stop / cells)
    shape = lattice.shape
    return Enclosure(below.reshape(6, *shape), above.reshape(6, *shape), best.reshape(*shape, m), minima)


@dataclass(frozen=True)
class _NodeJets:
    """Ranges of f at small boxes around nodes and at given actions: value below and above (K), slopes in the action (K, m)."""

    low: Array
    high: Array
    slope_low: Array
    slope_high: Array

    @classmethod
    def of(cls, bellman: Bellman, low: Array, high: Array, actions: Array) -> _NodeJets:
        parts = []
        for start in range(0, len(low), _CHUNK):
            part = slice(start, start + _CHUNK)
            at = actions[part]
            jet = bellman.jet((low[part], high[part]), (at, at), "a", point=True)
            count = len(at)
            value = as_range(jet.value, count)
            slopes = [as_range(g, count) for g in jet.gradient]
            lower = np.where(jet.broken, -np.inf, np.stack([g.lower for g in slopes]))
            upper = np.where(jet.broken, np.inf, np.stack([g.upper for g in slopes]))
            parts.append((value.lower, value.upper, lower.T, upper.T))
        return cls(*(np.concatenate(x) for x in zip(*parts, strict=True)))

    def take(self, index: Array) -> _NodeJets:
        return _NodeJets(self.low[index], self.high[index], self.slope_low[index], self.slope_high[index])


@dataclass
class _Chunk:
    """Some cells, with what is known at their nodes."""

    bellman: Bellman
    box: tuple[Array, Array]
    low: Array
    high: Array
    centres: Array
    corners: Array
    at_nodes: _NodeJets
    actions: Array
    found: Array
    node_boxes: tuple[Array, Array]
    spacing: list[float]

    def above(self) -> tuple[Array, Array]:
        """Return the polynomials (6, K) above q, and their actions (K, m); keeps what `below` needs of the centres."""
        count, d = len(self.low), self.bellman.d
        best, value = np.zeros((count, self.actions.shape[1])), np.full(count, np.inf)
        for corner in self.corners:
            found = self.bellman.values(self.centres, self.actions[corner])
            best[found < value] = self.actions[corner][found < value]
            value = np.minimum(value, found)
        best, _ = self.bellman.improve(self.centres, best, *self.box, steps=4)
        point = self.bellman.jet((self.centres, self.centres), (best, best), "xa", point=True)
        around = self.bellman.jet((self.low, self.high), (best, best), "x")
        self.best, self.point, self.around = best, point, around
        p = np.zeros((6, count))
        p[0] = as_range(point.value, count).upper
        self.centre_value = p[0].copy()
        self.spread = np.zeros(count)
        bent = np.asarray(around.broken) | np.asarray(point.broken) | np.zeros(count, dtype=bool)
        for k in range(d):
            slope, width = as_range(point.gradient[k], count), self.spacing[k]
            p[1 + k] = 0.5 * (slope.lower + slope.upper)
            # |d| <= d^2/D + D/4
            jump = np.asarray(around.up[k]) + 0.5 * (slope.upper - slope.lower)
            p[(3, 5)[k]] = as_range(around.second(k, k), count).upper + 2.0 * jump / width
            p[0] += 0.25 * width * jump
        if d == 2:
            # |d_1 d_2| <= (r d_1^2 + d_2^2/r)/2, r = D_2/D_1
            mixed, ratio = as_range(around.second(0, 1), count), self.spacing[1] / self.spacing[0]
            size = np.maximum(np.abs(mixed.lower), np.abs(mixed.upper))
            p[3] += size * ratio
            p[5] += size / ratio
        bent |= ~np.all(np.isfinite(p), axis=0)
        if np.any(bent):
            p[:, bent] = 0.0
            p[0, bent] = as_range(around.value, count).upper[bent]
        return p, best

    def below(self) -> tuple[Array, float]:
        """Return the polynomials (6, K) below q, and the most that is lost at the minima."""
        count, d, m = len(self.low), self.bellman.d, self.actions.shape[1]
        lows = np.full((len(self.corners), count), np.inf)
        bends, least, bent = np.full((d, count), -np.inf), np.full(count, np.inf), np.zeros(count, dtype=bool)
        cell, alow, ahigh = self._first_boxes(count, m)
        for turn in range(_ROUNDS + 1):
            if cell.size == 0:
                break
            jet = self.bellman.jet((self.low[cell], self.high[cell]), (alow, ahigh), "xa")
            keep = self._may_be_best(cell, alow, ahigh, jet)
            bend, broken = self._bends(jet, cell.size)
            room = _SHARE * sum(np.maximum(bend[k], 0.0) * self.spacing[k] ** 2 / 8 for k in range(d))
            room = np.where(broken, np.inf, np.nan_to_num(room, nan=np.inf))
            bounds, split, where = self._at_corners(cell, alow, ahigh, jet, room + 1e-13 * np.abs(self.centre_value[cell]))
            split &= keep & (turn < _ROUNDS)
            done = keep & ~split
            at = cell[done]
            value = as_range(jet.value, cell.size).lower
            for s in range(len(lows)):
                np.minimum.at(lows[s], at, bounds[s][done])
            for k in range(d):
                np.maximum.at(bends[k], at, bend[k][done])
            np.minimum.at(least, at, value[done])
            bent[at[broken[done]]] = True
            cell, alow, ahigh = _halved(cell[split], alow[split], ahigh[split], where[split])
        p = np.zeros((6, count))
        # the multilinear interpolant about the centre, and s (D - s)/2 = D^2/8 - d^2/2
        p[0] = lows.mean(axis=0)
        with np.errstate(invalid="ignore"):
            for k in range(d):
                side = np.array([s[k] for s in product((0, 1), repeat=d)], dtype=bool)
                p[1 + k] = (lows[side].mean(axis=0) - lows[~side].mean(axis=0)) / self.spacing[k]
                p[0] -= bends[k] * self.spacing[k] ** 2 / 8
                p[(3, 5)[k]] = bends[k]
            if d == 2:
                p[4] = (lows[0] - lows[1] - lows[2] + lows[3]) / (self.spacing[0] * self.spacing[1])
        bent |= ~np.all(np.isfinite(p), axis=0)
        if np.any(bent):
            p[:, bent] = 0.0
            p[0, bent] = least[bent]
        return p, float(np.max((self.found[self.corners] - lows)[:, ~bent], initial=0.0))

    def _first_boxes(self, count: int, m: int) -> tuple[Array, Array, Array]:
        cuts = [np.linspace(self.box[0][k], self.box[1][k], _PIECES + 1) for k in range(m)]
        lows = np.array(list(product(*(c[:-1] for c in cuts))))
        highs = np.array(list(product(*(c[1:] for c in cuts))))
        return np.repeat(np.arange(count), len(lows)), np.tile(lows, (count, 1)), np.tile(highs, (count, 1))

    def _may_be_best(self, cell: Array, alow: Array, ahigh: Array, jet: Jet) -> Array:
        """Tell which boxes may hold a best action somewhere in the cell: not those that are worse than the centre's action there
        by more than both may change to the cell's ends."""
        count, d = cell.size, self.bellman.d
        start = np.clip(self.best[cell], alow, ahigh)
        x = self.centres[cell]
        point = self.bellman.jet((x, x), (start, start), "a", point=True)
        value = as_range(point.value, count).lower
        gap = value + _least(jet, d, alow - start, ahigh - start, point, count) - self.centre_value[cell]
        change = np.zeros(count)
        for k in range(d):
            one, other = as_range(jet.gradient[k], count), as_range(self.around.gradient[k], len(self.low))
            high, low = one.upper - other.lower[cell], other.upper[cell] - one.lower
            change += 0.5 * self.spacing[k] * np.maximum(high, low)
        unsure = np.broadcast_to(self.around.broken, len(self.low))[cell] | np.asarray(jet.broken)
        return ~(gap > change) | unsure

    def _bends(self, jet: Jet, count: int) -> tuple[Array, Array]:
        d = self.bellman.d
        bend = np.stack(
            [as_range(jet.second(k, k), count).upper + 2.0 * np.asarray(jet.up[k]) / self.spacing[k] for k in range(d)]
        )
        broken = np.asarray(jet.broken) | ~np.all(np.isfinite(bend), axis=0)
        return bend, broken

    def _at_corners(
        self, cell: Array, alow: Array, ahigh: Array, jet: Jet, room: Array
    ) -> tuple[list[Array], Array, Array]:
        """Bound f over the boxes of actions at the corners; return the bounds, which boxes to cut, and near which actions (K,
        m)."""
        d, bounds, split = self.bellman.d, [], np.zeros(cell.size, dtype=bool)
        where = 0.5 * (alow + ahigh)
        for corner in self.corners:
            node = corner[cell]
            action = self.actions[node]
            start = np.clip(action, alow, ahigh)
            known = self.at_nodes.take(node)
            other = np.flatnonzero(np.any(start != action, axis=1))
            if other.size:
                low, high = self.node_boxes
                here = _NodeJets.of(self.bellman, low[node[other]], high[node[other]], start[other])
                for name in ("low", "high", "slope_low", "slope_high"):
                    getattr(known, name)[other] = getattr(here, name)
                # a better action than the one that was known
                np.minimum.at(self.found, node[other], here.high)
            bound = known.low + _least(jet, d, alow - start, ahigh - start, known, cell.size)
            bounds.append(bound)
            late = ~(bound >= self.found[node] - room)
            split |= late
            inside = (start > alow + 0.05 * (ahigh - alow)) & (start < ahigh - 0.05 * (ahigh - alow))
            where = np.where(late[:, None] & inside, start, where)
        return bounds, split, where


def _least(jet: Jet, first: int, low: Array, high: Array, slopes: Jet | _NodeJets, count: int) -> Array:
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


def _halved(cell: Array, low: Array, high: Array, where: Array) -> tuple[Array, Array, Array]:
    """Cut boxes (K, m) at `where` along their longest side."""
    longest = np.argmax(high - low, axis=1)
    rows = np.arange(len(cell))
    middle = where[rows, longest]
    one, two = high.copy(), low.copy()
    one[rows, longest] = middle
    two[rows, longest] = middle
    return np.concatenate([cell, cell]), np.concatenate([low, two]), np.concatenate([one, high])
