"""A proven interval for the optimal cost of a problem with continuous states, and for the cost of a policy.

The mean of the next state is y = F(x, a) in a compact set Y, the next state x' = y + sigma xi with a boundary model (see `laws`).
For any bounded u : Y -> R put

    q(x) = min_a [c(x, a) + u(F(x, a))],    S u(y) = E q(x'),    g = S u - u.

Average cost.  inf g <= J* <= J(pi) <= sup g, for every start and against all policies, those with memory included, pi greedy
for u:
c(x_t, a_t) + u(y_t) >= q(x_t) and E [q(x_t) | y_{t-1}] = S u(y_{t-1}), so that the cost of n steps is at least n inf g less twice
sup |u|; for pi both are equalities. A policy that takes any actions a(x) has J <= sup (E [c + u(F)](a(x')) - u), and this is how
the upper end is computed: the policy that takes on every cell the actions that are stored is proven too. One or two states; an
axis that follows the realised next value of the other, or that has no noise, in coordinates in which the noises are independent
(`frame`): all that is asked of u, and of Y, is that they are bounded.

Discounted cost.  q(x) = min_a [c + g u(F)] with the discount g. S is monotone and S(u + k) = S u + g k, so its fixed point lies
between u + inf(S u - u)/(1 - g) and u + sup(S u - u)/(1 - g); hence (1 - g) E V*(x_0) is in
(1 - g) E q(x_0) + g [inf, sup](S u - u), with x_0 uniform over the domain.

Two states, average cost.  Not the extremes of bounds of g but nearly their averages along the chain: see `potential`.

All of this is exact for any u; how near inf g and sup g are depends on u alone. Computed are bounds of both: of q between the
nodes of a lattice (`enclosure`), of S u on points of means (`laws`) and between them (`residual`), rounded outward.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numba.core.event import install_listener

from wassgrid.certificate.continuous import jets
from wassgrid.certificate.continuous.bellman import Bellman
from wassgrid.certificate.continuous.demand import demand
from wassgrid.certificate.continuous.enclosure import Enclosure, enclose
from wassgrid.certificate.continuous.frame import Frame
from wassgrid.certificate.continuous.jets import as_range, range_jet
from wassgrid.certificate.continuous.laws import TAIL, WIDER, Axis, AxisLaw, NoAxis, StillAxis
from wassgrid.certificate.continuous.plan import SHARES, Plan, Spent
from wassgrid.certificate.continuous.potential import Chain, evened, tolerances
from wassgrid.certificate.continuous.residual import Residual, bound
from wassgrid.certificate.continuous.value import Value, points_of, solve, spline_of
from wassgrid.errors import WassgridError
from wassgrid.problem.control_problem import ControlProblem, ProblemError
from wassgrid.resources import amount
from wassgrid.transition.compilation import CompileTime

Array = np.ndarray
_WARM = 3  # grids of rows, each half as fine as the next, on which u is found first
_PATIENCE = 3.0  # times the time that was given, one second at least: what may be computed
_TRIES = {1: {1: 33, 2: 9}, 2: {1: 9, 2: 5}}  # candidates per action, by the numbers of states and actions; else 5
_FARTHEST = 1e6  # actions that are searched where they have no bounds
_COARSER = 2.0  # times fewer rows and cells than at first where a box of actions is sought
_SEARCHED = 4  # policies found by trying all candidates, where nothing is known
_LONGEST = 3.0e7  # cells of one axis
_LARGEST_COST = 1e150
_LARGEST_DOMAIN = 1e60  # fourth powers of noise and spacing are computed
_LEAST_GAP = 1e-290  # of bounds of q on a cell: of a cost of zero no share of it is reached


class ProveError(WassgridError, ValueError):
    """A problem, or a part of it, for which the theorem gives nothing; one line that says why."""


@dataclass(frozen=True)
class Attempt:
    """One proven interval [low, high], what it owes to what, and the lattice it comes from."""

    low: float
    high: float
    residual: Residual
    bellman: Bellman
    enclosure: Enclosure
    box: tuple[Array, Array]
    seconds: float

    @property
    def relative_width(self) -> float:
        """(high - low) over the larger of their sizes."""
        return (self.high - self.low) / max(abs(self.low), abs(self.high), 1e-300)


@dataclass(frozen=True)
class Claim:
    """What is to be proven: the problem, the boundary model of every axis, its noise, and the coordinates of the states."""

    problem: ControlProblem
    models: tuple[str, ...]
    noise: Array
    frame: Frame

    @classmethod
    def of(cls, problem: ControlProblem, clamp: str) -> Claim:
        """Take the problem's own boundary models, `clamp` for axes that say "clamp".  Raises ProveError where nothing is
        proven."""
        d, names = problem.state_dimension, problem.state_names
        if problem.goal is not None:
            raise ProveError(
                "prove: the case has a goal; the theorem is of chains that go on by one law everywhere: with a goal what is "
                "proven holds on the grid, and the estimate speaks of the problem itself"
            )
        if not problem.start.everywhere:
            raise ProveError("prove: the case has a start law; the interval of a discounted cost is that of a uniform start")
        if problem.listed.any():
            raise ProveError("prove: actions with values are not searched for continuous states yet, only actions between bounds")
        if problem.no_bounds:
            raise ProveError(f"prove: {problem.no_bounds}")
        if d > 2:
            raise ProveError(f"prove: the problem has {d} states; intervals for continuous states are computed for one and two")
        if problem.action_dimension > 3:
            raise ProveError(f"prove: the problem has {problem.action_dimension} actions; up to 3 are searched with proof")
        if not np.all(np.isfinite(problem.domain)):
            open_ended = ~np.all(np.isfinite(problem.domain), axis=1)
            far = ", ".join(name for name, ends in zip(names, open_ended, strict=True) if ends)
            raise ProveError(f"prove: {far} has no domain; the theorem needs means in a compact set: give states.NAME.domain")
        for name, length in zip(names, np.ptp(0.5 * problem.domain, axis=1), strict=True):  # halves: the whole may overflow
            if not 1.0 / _LARGEST_DOMAIN <= 2.0 * length <= _LARGEST_DOMAIN:
                raise ProveError(
                    f"prove: the domain of {name} is shorter than {1 / _LARGEST_DOMAIN:g} or longer than {_LARGEST_DOMAIN:g}, "
                    "powers of it leave the range of numbers: give it other units"
                )
        if not problem.constant_noise:
            raise ProveError("prove: the noise depends on the state; the theorem needs a law of the mean alone: constant noise")
        noise = problem.cell_tables(problem.domain.mean(axis=1)[None]).noise[0]
        if not np.any(noise > 0.0):
            raise ProveError(f"prove: {' and '.join(names)}: no noise; the bounds rest on noise along one axis at least")
        models = tuple(clamp if boundary == "clamp" else boundary for boundary in problem.boundary)
        if problem.limits is not None:
            reach = np.where(np.array(models) == "open", 1.25 * TAIL * noise, 0.0)
            try:
                problem.limits.require_order(problem.domain + np.stack([-reach, reach], axis=1))
            except ProblemError as error:
                raise ProveError(f"prove: {error}") from None
            problem = problem.told_in_shares()
        followers = np.flatnonzero(problem.coupled.any(axis=1))
        frame = Frame() if followers.size == 0 else _following(problem, int(followers[0]), models, noise)
        if problem.criterion == "discounted" and frame.ends is not None:
            raise ProveError(
                f"prove: a discounted cost is that from a start anywhere in the domain, and {names[followers[0]]}, which follows "
                "next(...), has ends: its coordinate does not cover the domain evenly; use criterion average"
            )
        for k in range(d):
            if noise[k] == 0.0 and models[k] not in ("periodic", "truncate", "project"):
                raise ProveError(
                    f"prove: {names[k]} has no noise of its own and the boundary {models[k]!r}; without noise an axis is "
                    "periodic, or means beyond its ends count as on them (project or truncate)"
                )
        return cls(problem, models, noise, frame)

    @property
    def coordinates(self) -> str:
        """The coordinates of the states, in words."""
        names, frame = list(self.problem.state_names), self.frame
        if frame.follower is not None:
            names[frame.follower] = f"{names[frame.follower]} - {frame.beta:.6g} {names[frame.lead]}"
        return " and ".join(names)

    @property
    def following(self) -> dict[str, str | float]:
        """Which axis follows which, for a file; empty where none does."""
        names, frame = self.problem.state_names, self.frame
        if frame.follower is None:
            return {}
        return {"follower": names[frame.follower], "lead": names[frame.lead], "beta": frame.beta}

    @cached_property
    def ranges(self) -> tuple[tuple[float, float], ...]:
        """The ends of the means of every axis: of the domain, or the range of a follower's own part of the law."""
        ends = [(float(low), float(high)) for low, high in self.problem.domain]
        if self.frame.follower is None or self.models[self.frame.follower] == "periodic":
            return tuple(ends)
        ends[self.frame.follower] = _reached(self.problem, self.frame, self.models)
        return tuple(ends)

    def countable(self, cells: Array) -> bool:
        """Tell whether no axis alone has more than `_LONGEST` cells, with so many per standard deviation."""
        lengths = [high - low for low, high in self.ranges]
        noisy = [(length, sigma, count) for length, sigma, count in zip(lengths, self.noise, cells, strict=True) if sigma > 0.0]
        return all(length * count <= _LONGEST * sigma for length, sigma, count in noisy)

    def axes(self, rows: Array, cells: Array, points: Array | None = None) -> tuple[Axis, Axis]:
        """Return laws with at least so many rows, cells and points per standard deviation; for an axis without noise per 64th of
        its length, or per two deviations that the noise of its lead moves it, and half as many cells."""
        laws: list[Axis] = []
        for k, ((low, high), sigma, model) in enumerate(zip(self.ranges, self.noise, self.models, strict=True)):
            if sigma > 0.0:
                apart = np.inf if points is None else float(sigma / points[k])
                kind = "open" if k == self.frame.follower and model != "periodic" else model
                laws.append(AxisLaw.make(low, high, float(sigma), kind, float(sigma / rows[k]), float(sigma / cells[k]), apart))
            else:
                unit = (high - low) / 64.0
                if k == self.frame.follower:
                    unit = min(unit, 2.0 * abs(self.frame.beta) * float(self.noise[self.frame.lead]))
                kind = "periodic" if model == "periodic" else "project"
                laws.append(StillAxis.make(low, high, kind, unit / float(rows[k]), 2.0 * unit / float(cells[k])))
        return (laws[0], laws[1]) if len(laws) == 2 else (laws[0], NoAxis())

    def lattice(self, plan: Plan) -> tuple[Axis, Axis]:
        """Return the axes of a plan, those of the bounds."""
        return self.axes(plan.rows, plan.cells, plan.points)

    def quadrature(self, plan: Plan) -> tuple[Axis, Axis]:
        """Return the axes with which a plan's u is computed."""
        return self.axes(plan.rows, plan.quadrature(self.noise))

    def bytes(self, plan: Plan) -> float:
        """Estimate the memory of an attempt, infinite where it has more cells than can be counted on."""
        if not self.countable(plan.cells):
            return math.inf
        d, m = self.problem.state_dimension, self.problem.action_dimension
        return demand(self.lattice(plan), self.quadrature(plan), d + m, m)


def _following(problem: ControlProblem, j: int, models: tuple[str, ...], noise: Array) -> Frame:
    """Return the coordinates of a problem whose axis j follows the other.  Raises ProveError."""
    name, i = problem.state_names[j], 1 - j
    lead = problem.state_names[i]
    beta = problem.constant_coupling(j, i)
    if beta is None:
        raise ProveError(f"prove: the factor of next({lead}) in {name} depends on the state; it must be constant")
    if models[j] == "periodic":
        if not problem.repeats(j):
            raise ProveError(
                f"prove: {name} follows next({lead}) round a circle, and cost and law do not show that they repeat with its "
                f"period: write them with sin, cos or wrap_angle of {name}"
            )
        return Frame(j, i, beta)
    if models[j] == "project" or (models[j] == "truncate" and noise[j] == 0.0):
        return Frame(j, i, beta, (float(problem.domain[j, 0]), float(problem.domain[j, 1])))
    raise ProveError(
        f"prove: {name} follows next({lead}) with the boundary {models[j]!r}, under which its noise depends on that of the "
        "other; use periodic or project"
    )


def _reached(problem: ControlProblem, frame: Frame, models: tuple[str, ...]) -> tuple[float, float]:
    """Bound a follower's own part of the law over all states and actions."""
    j, i = frame.follower, frame.lead
    assert j is not None
    if models[i] == "open":
        reach = TAIL * 1.25 * float(problem.cell_tables(problem.domain.mean(axis=1)[None]).noise[0, i])
    else:
        reach = 0.0
    ends = [np.linspace(low - (reach if k == i else 0.0), high + (reach if k == i else 0.0), 65)
            for k, (low, high) in enumerate(problem.domain)]  # fmt: skip
    low = np.stack([c.ravel() for c in np.meshgrid(ends[0][:-1], ends[1][:-1], indexing="ij")])
    high = np.stack([c.ravel() for c in np.meshgrid(ends[0][1:], ends[1][1:], indexing="ij")])
    parts = [range_jet(*pair) for pair in zip(low, high, strict=True)]
    zeros = np.zeros(low.shape[1])
    parts += [range_jet(zeros + a, zeros + b) for a, b in problem.action_bounds]
    with np.errstate(all="ignore"):
        mean = problem.action_values(jets, *parts)[j]
    found = as_range(mean, low.shape[1])
    least, most = float(found.lower.min()), float(found.upper.max())
    if not (np.isfinite(least) and np.isfinite(most)):
        raise ProveError(f"prove: the law of {problem.state_names[j]} without next(...) is not bounded; give actions bounds")
    margin = 1e-12 * max(abs(least), abs(most), 1e-3 * (problem.domain[j, 1] - problem.domain[j, 0]))
    return least - margin, most + margin


def attempts(
    claim: Claim, start: Callable[[Frame, tuple[Axis, Axis]], Array | None] | None, width: float, seconds: float,
    memory: float = math.inf,
) -> Iterator[Attempt]:  # fmt: skip
    """Prove narrower and narrower intervals until one is at most `width` (relative) wide, or `seconds` would be over.

    start: gives u on the rows of axes to begin with, or None. Yields every interval that is proven; the last is not always the
    best. An attempt is given up when `_PATIENCE` times as long was computed, compilation not counted, and not begun where it
    needs more bytes than `memory`.  Raises ProveError where nothing is proven by then.
    """
    proven, patience = False, _PATIENCE * max(seconds, 1.0)
    deadline = _Deadline(patience)
    with install_listener("numba:compile", deadline):
        try:
            for attempt in _attempts(claim, start, width, seconds, memory, deadline.require_time):
                proven = True
                yield attempt
        except _OverdueError:
            if not proven:
                raise ProveError(
                    f"prove: nothing was proven in {patience:g} s of computing, {_PATIENCE:g} times the time given: give more "
                    "--time, or bounds of actions that are closer together"
                ) from None


class _OverdueError(WassgridError):
    """There is no time left."""


class _Deadline(CompileTime):
    """An end some seconds of this thread's processor time from now, not counting those of the compiler.

    A busy machine brings it no nearer. Loops on several threads keep this one busy too.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(time.thread_time)
        self._end = time.thread_time() + seconds

    def require_time(self) -> None:
        """Raise _OverdueError where the end has come."""
        if time.thread_time() > self._end + self.seconds:
            raise _OverdueError


def _attempts(
    claim: Claim, start: Callable[[Frame, tuple[Axis, Axis]], Array | None] | None, width: float, seconds: float,
    memory: float, beat: Callable[[], None],
) -> Iterator[Attempt]:  # fmt: skip
    """Do what `attempts` does without an end; beat: see `Bellman`."""
    began, d = time.monotonic(), claim.problem.state_dimension
    plan = Plan.first(d)
    box = _first_box(claim.problem)
    _require_size(claim.problem, box)
    tries = _TRIES[d].get(claim.problem.action_dimension, 5)
    value: Value | None = None
    searched, last = False, None
    if not np.all(np.isfinite(claim.problem.action_bounds)):
        box, value = _likely_box(claim, plan.coarser(_COARSER), box, start, tries, beat)
    while True:
        if claim.bytes(plan) > memory:
            if last is None:
                raise ProveError(_too_large(claim, plan, memory))
            return
        axes = claim.lattice(plan)
        # u is to cost less of the interval than is wanted; of two states, where it takes long, than the bounds of q
        goal = 0.02 * (width if d == 1 else max(width, plan.gap)) * (abs(last.high) if last else 1.0)
        value, solved = _value(claim, plan, value, start, box, tries, goal, beat, searched)
        searched = True
        bellman, clock = Bellman(claim.problem, claim.frame, axes, value.u, beat), [time.monotonic()]
        wanted = np.full((axes[0].cells, axes[1].cells), max(plan.gap * (abs(last.high) if last else value.level), _LEAST_GAP))
        averaged = d == 2 and bellman.discount == 1.0
        if averaged:
            chain = Chain.of(bellman)
            shares, law = tolerances(chain, bellman, value.near)
            wanted *= shares
        enclosure = enclose(bellman, box, value.near, wanted, averaged)
        clock.append(time.monotonic())
        if not _tails_are_worse(bellman, box, _most(enclosure.above, axes)):
            # actions that are known are the best of the smaller box
            searched, box = False, _larger(claim.problem, box)
            continue
        residual = bound(bellman, enclosure)
        clock.append(time.monotonic())
        if averaged:
            low, high, (varying, apart, between) = evened(chain, bellman, enclosure, residual, law)
            residual = replace(residual, residual=varying, curvature=apart, taylor=between)
        else:
            low, high = _objective(bellman, enclosure, residual)
        clock.append(time.monotonic())
        last = Attempt(low, high, residual, bellman, enclosure, box, time.monotonic() - began)
        yield last
        if last.relative_width <= width:
            return
        enclosing, bounding, evening = np.diff(clock).tolist()
        excess = enclosure.excess(axes, wanted)
        spent = Spent(solved, enclosing, bounding, evening, excess, axes, claim.quadrature(plan))
        parts = {"rows": residual.residual, "gap": residual.curvature, "points": residual.taylor}
        left = seconds - last.seconds
        for share in SHARES:
            finer = plan.refined(parts, value.rough, width * max(abs(low), abs(high), 1e-300), share)
            if not claim.countable(finer.cells):
                continue
            if spent.predicted(claim.lattice(finer), claim.quadrature(finer), plan.gap / finer.gap) <= left:
                plan = finer
                break
        else:
            return


def _value(
    claim: Claim, plan: Plan, known: Value | None, start: Callable[[Frame, tuple[Axis, Axis]], Array | None] | None,
    box: tuple[Array, Array], tries: int, goal: float, beat: Callable[[], None], searched: bool,
) -> tuple[Value, float]:  # fmt: skip
    """Return u for a plan, from one that is known, from `start`, or from those on rows that are farther apart, and the seconds
    that the last took.

    searched: whether the actions of the one that is known are the best of the box.
    """
    grids, seconds = [claim.quadrature(plan)], 0.0
    if known is None and start is None:
        for k in range(1, _WARM):
            grids.insert(0, claim.quadrature(plan.coarser(2.0**k)))
    value = known
    for axes in grids:
        began = time.monotonic()
        zero = np.zeros((axes[0].row_count, axes[1].row_count))
        first = points_of(axes, value.u) if value is not None else None if start is None else start(claim.frame, axes)
        trial = Bellman(claim.problem, claim.frame, axes, spline_of(axes, zero), beat)
        actions = value.near if value is not None and searched else None
        value = solve(trial, zero if first is None else first, box, tries, goal, _SEARCHED if first is None else 1, actions)
        searched, seconds = True, time.monotonic() - began
    assert value is not None
    return value, seconds


def _too_large(claim: Claim, plan: Plan, memory: float) -> str:
    """Say that a plan does not fit, and what noise would."""
    lengths = np.array([high - low for low, high in claim.ranges])

    def noise(number: int, bring: np.ufunc) -> Array:
        """The noise that is not 0, brought to a share of the domain at least, or at most."""
        return np.where(claim.noise > 0.0, bring(claim.noise, 10.0 ** (number / 20.0) * lengths), 0.0)

    needed, says = claim.bytes(plan), "more cells than can be counted"
    if math.isfinite(needed):
        says = f"about {amount(needed)}, more than the limit of {amount(memory)}"
    for bring, word, numbers in ((np.maximum, "at least", range(-200, 1)), (np.minimum, "at most", range(200, -21, -1))):
        if replace(claim, noise=noise(numbers[-1], bring)).bytes(plan) > memory:
            continue
        number = numbers[bisect_left(numbers, True, key=lambda k: replace(claim, noise=noise(k, bring)).bytes(plan) <= memory)]
        found = [
            f"{sigma:.2g} in {name}"
            for name, sigma, old in zip(claim.problem.state_names, noise(number, bring), claim.noise, strict=True)
            if sigma != old
        ]
        return f"prove: noise so far from the size of the domain asks for {says}; noise of {word} {' and '.join(found)} fits"
    return f"prove: the first attempt asks for {says}: raise solver.memory"


def _require_size(problem: ControlProblem, box: tuple[Array, Array]) -> None:
    """Raise ProveError for a cost whose squares overflow, at the ends of the domain and of the box of actions."""
    states = np.stack([end.ravel() for end in np.meshgrid(*problem.domain)], axis=1)
    actions = np.broadcast_to(np.stack(box), (len(states), 2, problem.action_dimension))
    cost = problem.action_tables(states, actions, 0, strict=False).cost
    if np.any(np.isfinite(cost) & (np.abs(cost) > _LARGEST_COST)):
        raise ProveError(f"prove: the cost exceeds {_LARGEST_COST:g}, squares of it overflow: give it smaller units")


def _objective(bellman: Bellman, q: Enclosure, residual: Residual) -> tuple[float, float]:
    """Return the interval for the objective, from the bounds of g."""
    if bellman.discount == 1.0:
        return residual.low, residual.high
    means = np.zeros(2)
    for layer in q.layers:
        # E q over the domain: cells that lie in it
        axes = tuple(axis.refined(layer.factor) for axis in bellman.axes)
        place = layer.place(bellman.axes)
        inside, share = np.ones(layer.index.size, dtype=bool), 1.0
        for axis, k in zip(axes, place, strict=True):
            if not isinstance(axis, NoAxis):
                inside &= (k >= axis.beyond) & (k < axis.beyond + axis.rows * axis.fine)
                share /= axis.rows * axis.fine
        for side, p in enumerate((layer.below, layer.above)):
            average = p[0] + sum(p[(3, 5)[k]] * axis.spacing**2 / 24 for k, axis in enumerate(axes))
            means[side] += share * float(np.sum(average[inside]))
    rest, slack = 1.0 - bellman.discount, 1e-13 * float(np.max(np.abs(q.above[0])))
    low = rest * (float(means[0]) - slack) + bellman.discount * residual.low
    return low, rest * (float(means[1]) + slack) + bellman.discount * residual.high


def _first_box(problem: ControlProblem) -> tuple[Array, Array]:
    low, high = problem.action_bounds.T
    first = np.where(np.isfinite(low), low, np.minimum(-1.0, high - 2.0))
    return first, np.where(np.isfinite(high), high, np.maximum(1.0, low + 2.0))


def _larger(problem: ControlProblem, box: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return a box of actions of twice the size, where their bounds allow it.  Raises ProveError beyond a million."""
    middle, half = 0.5 * (box[0] + box[1]), box[1] - box[0]
    low, high = problem.action_bounds.T
    larger = np.where(np.isfinite(low), low, middle - half), np.where(np.isfinite(high), high, middle + half)
    if max(np.max(np.abs(larger[0])), np.max(np.abs(larger[1]))) > _FARTHEST:
        free = [f"actions.{name}" for name, ends in zip(problem.action_names, problem.action_bounds, strict=True)
                if not np.all(np.isfinite(ends))]  # fmt: skip
        raise ProveError(f"prove: no bounds of the best actions were found up to {_FARTHEST:g}: give {', '.join(free)} bounds")
    return larger


def _likely_box(
    claim: Claim, plan: Plan, box: tuple[Array, Array], start: Callable[[Frame, tuple[Axis, Axis]], Array | None] | None,
    tries: int, beat: Callable[[], None],
) -> tuple[tuple[Array, Array], Value]:  # fmt: skip
    """Return a box beyond which actions cost more, as far as values at the nodes of a coarse lattice tell, and u there."""
    value: Value | None = None
    while True:
        value, _ = _value(claim, plan, value, start, box, tries, plan.gap * (value.level if value else 1.0), beat, False)
        axes = claim.quadrature(plan)
        bellman = Bellman(claim.problem, claim.frame, axes, value.u, beat)
        nodes = np.meshgrid(*value.nodes, indexing="ij")
        at = bellman.values(np.stack([x.ravel() for x in nodes], axis=1), value.actions.reshape(-1, value.actions.shape[-1]))
        at = at.reshape(value.actions.shape[:-1])
        for k in range(bellman.d):
            at = np.maximum(np.take(at, range(at.shape[k] - 1), axis=k), np.take(at, range(1, at.shape[k]), axis=k))
        if _tails_are_worse(bellman, box, at):
            return box, value
        box = _larger(claim.problem, box)


def _most(p: Array, axes: tuple[Axis, Axis]) -> Array:
    """Bound polynomials p (6, cells_1, cells_2), see `laws`, from above on their cells."""
    half = [0.5 * axis.spacing for axis in axes]
    most = p[0] + np.abs(p[1]) * half[0] + np.abs(p[2]) * half[1] + np.maximum(p[3], 0) * half[0] ** 2 / 2
    return np.asarray(most + np.abs(p[4]) * half[0] * half[1] + np.maximum(p[5], 0) * half[1] ** 2 / 2)


def _tails_are_worse(bellman: Bellman, box: tuple[Array, Array], most: Array) -> bool:
    """Tell whether every action beyond the box, within its bounds, costs more at every state than the action that is known,
    `most` (cells_1, cells_2) at most."""
    problem, m, d = bellman.problem, bellman.problem.action_dimension, bellman.d
    bounds = problem.action_bounds
    # blocks of cells: the shape cut into runs
    blocks = [np.array_split(np.arange(n), max(1, -(-n // 16))) for n in most.shape]
    edges = [axis.edges for axis in bellman.axes[:d]]  # type: ignore[union-attr]
    rows, tops = [], []
    for one in blocks[0]:
        for two in blocks[1] if d == 2 else [np.zeros(1, dtype=int)]:
            cut = [one, two][:d]
            rows.append([(edges[k][c[0]], edges[k][c[-1] + 1]) for k, c in enumerate(cut)])
            tops.append(np.max(most[one[0] : one[-1] + 1, two[0] : two[-1] + 1]))
    x, top = np.array(rows), np.array(tops)
    zeros = np.zeros(len(x))
    for k in range(m):
        for side in (0, 1):
            known, allowed = box[side][k], bounds[k, side]
            if known == allowed:
                continue
            ends = [tuple(bounds[j]) for j in range(m)]
            ends[k] = (allowed, known) if side == 0 else (known, allowed)
            parts = bellman.frame.states([range_jet(x[:, j, 0], x[:, j, 1]) for j in range(d)])
            parts += [range_jet(zeros + low, zeros + high) for low, high in ends]
            with np.errstate(all="ignore"):
                cost = problem.action_values(jets, *parts)[-1]
            least = as_range(cost, len(x)).lower
            if not np.all(least + bellman.discount * bellman.least_u > top):
                return False
    return True


def in_words(claim: Claim) -> list[str]:
    """Say under which law the interval holds, a line per axis."""
    words = {
        "open": f"means are clipped to the domain, the noise may carry the state beyond (up to {TAIL * math.sqrt(WIDER):.2g} "
        "standard deviations; the rest, a probability below 1e-20 per step, is left out)",
        "truncate": "means are clipped to the domain, and the law of the next state is the normal law conditioned to the domain",
        "project": "what the noise carries beyond an end lands on that end",
        "reflect": "what goes beyond an end is reflected",
        "periodic": "the axis is a circle",
    }
    lines = []
    for k, (name, model) in enumerate(zip(claim.problem.state_names, claim.models, strict=True)):
        still = model in ("truncate", "project") and (k == claim.frame.follower or claim.noise[k] == 0.0)
        lines.append(f"{name}: {'what goes beyond an end counts as on it' if still else words[model]}")
    return lines
