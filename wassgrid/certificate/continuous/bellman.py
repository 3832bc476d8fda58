"""f(x, a) = c(x, a) + g u(F(x, a)) with a spline u of the means: at points, and its second-order ranges over boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from wassgrid.certificate.continuous import jets
from wassgrid.certificate.continuous.frame import Frame
from wassgrid.certificate.continuous.jets import Jet
from wassgrid.certificate.continuous.laws import Axis
from wassgrid.certificate.continuous.spline import Spline
from wassgrid.problem.control_problem import ControlProblem
from wassgrid.problem.intervals import Interval
from wassgrid.transition.threads import TEAM

Array = np.ndarray
_SECONDS = ((0, 0), (0, 1), (1, 1))  # of u, in the order of the spline's last three derivatives
_STEPS = 12  # of Newton's method from the best candidate
FEW = 4  # from actions that are nearly best
_POINTS = 1 << 14  # states whose actions are searched at a time


@dataclass(frozen=True)
class Bellman:
    """Hold a problem of d = 1 or 2 states, their coordinates s, the laws of their axes (two, the second may be absent), and u.

    States are given by their coordinates (see `frame`) everywhere.  beat() is called some times a second by all that takes long;
    it may raise.
    """

    problem: ControlProblem
    frame: Frame
    axes: tuple[Axis, Axis]
    u: Spline
    beat: Callable[[], None] = lambda: None

    @property
    def d(self) -> int:
        return self.problem.state_dimension

    @property
    def discount(self) -> float:
        return self.problem.discount if self.problem.criterion == "discounted" else 1.0  # type: ignore[return-value]

    def clip(self, axis: int) -> tuple[float, float] | None:
        """Return where means are clipped, None where u is periodic."""
        knots = self.axes[axis].knots
        return None if knots.periodic else (knots.low, knots.low + knots.spacing * knots.cells)

    # -- ranges ----------------------------------------------------------------------------------------------------

    def jet(
        self, s: tuple[Array, Array], a: tuple[Array, Array], seeds: str, paths: Callable[[Jet], list[Jet]] | None = None
    ) -> Jet:
        """Return the jet of f over boxes of states s and actions a: pairs of lower and upper ends, (K, d) and (K, m).

        seeds: the variables, some of "s" and "a", in this order. paths: jets like the given one that are added to the actions.
        """
        self.beat()
        boxes = [(*ends, "s" in seeds) for ends in zip(*(np.array(end.T) for end in s), strict=True)]
        boxes += [(*ends, "a" in seeds) for ends in zip(*(np.array(end.T) for end in a), strict=True)]
        varied = [(low, high) for low, high, varies in boxes if varies]
        seeded = iter(jets.variables([low for low, _ in varied], [high for _, high in varied]))
        n, widths = len(varied), tuple(high - low for low, high in varied)
        none = (0.0,) * n
        constant = Jet(0.0, none, (0.0,) * (n * (n + 1) // 2), none, none, False, widths)
        parts: list[Any] = [
            next(seeded) if varies else replace(constant, value=Interval(low, high)) for low, high, varies in boxes
        ]
        with np.errstate(all="ignore"):
            if paths is not None:
                parts[self.d :] = [path + part for part, path in zip(parts[self.d :], paths(constant), strict=True)]
            *means, cost = self.problem.action_values(jets, *self.frame.states(parts[: self.d]), *parts[self.d :])
            inner = []
            for k, mean in enumerate(means):
                jet = mean if isinstance(mean, Jet) else replace(constant, value=mean)
                if (ends := self.clip(k)) is not None:
                    jet = jets.minimum(jets.maximum(jet, ends[0]), ends[1])
                inner.append(jet)
            cost = cost if isinstance(cost, Jet) else replace(constant, value=cost)
            return cost + self._composed(inner, len(s[0])) * self.discount

    def _composed(self, inner: list[Jet], count: int) -> Jet:
        places = [jets.as_range(jet.value, count) for jet in inner]
        if self.d == 1:
            places.append(Interval(np.zeros(count), np.zeros(count)))
        ranges = self.u.ranges(*places)
        first = [ranges[1 + i] for i in range(self.d)]
        second = [[ranges[3 + _SECONDS.index((min(i, j), max(i, j)))] for j in range(self.d)] for i in range(self.d)]
        return jets.compose(ranges[0], first, second, inner)

    # -- points ----------------------------------------------------------------------------------------------------

    def values(self, s: Array, a: Array) -> Array:
        """Return f (K,) at states s (K, d) and actions (K, m)."""
        return self._values(s, a, 0)[0]

    def _values(self, s: Array, a: Array, order: int) -> tuple[Array, Array | None, Array | None]:
        """Return f with gradient (K, m) and Hessian (K, m, m) in the action."""
        self.beat()
        tables = self.problem.action_tables(self.frame.points(s), a[:, None, :], order)
        places, free = [], []
        for k in range(self.d):
            y = tables.mean[:, 0, k]
            if (ends := self.clip(k)) is not None:
                free.append((y > ends[0]) & (y < ends[1]))
                y = np.clip(y, *ends)
            else:
                free.append(np.ones(y.size, dtype=bool))
            places.append(y)
        u = self.u.at(places[0], places[1] if self.d == 2 else np.zeros_like(places[0]))
        value = tables.cost[:, 0] + self.discount * u[0]
        if order == 0:
            return value, None, None
        # f_a = c_a + u_i F_i,a;  f_ab = c_ab + u_i F_i,ab + u_ij F_i,a F_j,b
        first = [np.where(free[i], u[1 + i], 0.0) for i in range(self.d)]
        slope = [tables.mean_gradient[:, 0, i] * free[i][:, None] for i in range(self.d)]  # type: ignore[index]
        gradient = tables.cost_gradient[:, 0].copy()  # type: ignore[index]
        hessian = tables.cost_hessian[:, 0].copy()  # type: ignore[index]
        for i in range(self.d):
            gradient += self.discount * first[i][:, None] * slope[i]
            hessian += self.discount * first[i][:, None, None] * tables.mean_hessian[:, 0, i]  # type: ignore[index]
            for j in range(self.d):
                bend = u[3 + _SECONDS.index((min(i, j), max(i, j)))]
                hessian += self.discount * bend[:, None, None] * slope[i][:, :, None] * slope[j][:, None, :]
        return value, gradient, hessian

    def improve(self, s: Array, start: Array, low: Array, high: Array, steps: int = _STEPS) -> tuple[Array, Array]:
        """Lower f from actions `start` (K, m) by Newton's method within [low, high]; return actions and values."""
        best, value = np.clip(start, low, high), np.empty(len(s))
        low, high = np.broadcast_to(low, best.shape), np.broadcast_to(high, best.shape)
        TEAM.share(
            lambda part: self._descend(s[part], best[part], value[part], low[part], high[part], steps), list(_parts(len(s)))
        )
        return best, value

    def _descend(self, s: Array, best: Array, value: Array, low: Array, high: Array, steps: int) -> None:
        """Put lower actions in place of `best`, and f there into `value`."""
        value[:] = self.values(s, best)
        active, damp = np.arange(len(s)), np.ones(len(s))
        for _ in range(steps):
            if active.size == 0:
                break
            at = best[active]
            _, gradient, hessian = self._values(s[active], at, 2)
            assert gradient is not None and hessian is not None
            held = ((at <= low[active]) & (gradient > 0)) | ((at >= high[active]) & (gradient < 0))
            gradient = np.where(held, 0.0, gradient)
            hessian = np.where(held[:, :, None] | held[:, None, :], 0.0, hessian)
            # the bends made positive: a descent direction
            bends, turns = np.linalg.eigh(hessian)
            floor = np.maximum(1e-8 * np.max(np.abs(bends), axis=1, keepdims=True), 1e-12)
            along = np.einsum("kab,ka->kb", turns, gradient) / np.maximum(np.abs(bends), floor)
            step = -np.einsum("kab,kb->ka", turns, along) * damp[active][:, None]
            trial = np.clip(at + step, low[active], high[active])
            found = self.values(s[active], trial)
            better = found < value[active]
            moved = np.max(np.abs(trial - at), axis=1) > 1e-9 * (1.0 + np.max(np.abs(at), axis=1))
            damp[active] = np.where(better, np.minimum(1.0, 4.0 * damp[active]), 0.25 * damp[active])
            best[active[better]] = trial[better]
            value[active[better]] = found[better]
            active = active[moved & (damp[active] > 1e-3)]

    def minimise(
        self, s: Array, box: tuple[Array, Array], tries: int, known: Sequence[Array] = ()
    ) -> tuple[Array, Array]:
        """Return actions (K, m) of least f found from `tries` candidates per action of the box, and their values; not proven.

        known: actions (K, m) that are nearly best where no candidate is better.
        """
        m = self.problem.action_dimension
        best, value = self.lowest(s, known) if known else (np.zeros((len(s), m)), np.full(len(s), np.inf))

        def search(part: slice) -> None:
            for place in product(np.linspace(0.0, 1.0, tries), repeat=m):
                a = box[0] + (box[1] - box[0]) * np.array(place)
                found = self.values(s[part], np.broadcast_to(a, best[part].shape))
                best[part][found < value[part]] = a
                value[part] = np.minimum(value[part], found)

        TEAM.share(search, list(_parts(len(s))))
        return self.improve(s, best, *box, steps=FEW if known else _STEPS)

    def lowest(self, s: Array, starts: Sequence[Array]) -> tuple[Array, Array]:
        """Return the best of some actions (K, m) at every state, and their values."""
        best, value = starts[0].copy(), self.values(s, starts[0])
        for start in starts[1:]:
            moved = np.flatnonzero(np.any(start != best, axis=1))
            found = self.values(s[moved], start[moved])
            better = found < value[moved]
            best[moved[better]], value[moved[better]] = start[moved[better]], found[better]
        return best, value

    @cached_property
    def least_u(self) -> float:
        """A lower bound of u."""
        return float(self.u.cell_ranges()[..., 0].min())


def _parts(count: int) -> Iterator[slice]:
    for start in range(0, count, _POINTS):
        yield slice(start, start + _POINTS)
