"""The greedy policy between the nodes, chains that follow it, and the residual of the value function along them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from wassgrid.certificate import BestActions
from wassgrid.certificate.best_actions import PROBES
from wassgrid.estimate.quadrature import fixed_rule, shifted_rule, size_of_shifted
from wassgrid.estimate.spline import Spline
from wassgrid.evaluation import Evaluation
from wassgrid.grid import StateGrid
from wassgrid.problem.boundary import BOUNDARIES
from wassgrid.problem.control_problem import CellTables, ControlProblem

CHAINS, BATCHES = 4_000, 5
_FINE = 1e-5  # of the size of the cost: a standard error that needs no more chains
SEED = 20_604  # of the estimate, so that it is the same every time
_ALIKE = 0.1  # of the range of all actions: neighbours this near are interpolated, others are compared
_FORGOTTEN = 0.05  # correlation with the start from which it counts as forgotten
_LEAST_STEPS, _MOST_STEPS = 8, 400  # of the burn-in
_PATIENCE = 50.0  # times the expected number of steps to the goal, of an episode
_STARTS, _LEVEL = 1 << 18, 1 << 14  # first states over which h is averaged
_SWEEPS = 4  # of the value function in the problem itself
_CELLS_PER_NOISE, _MOST_PARTS = 2.0, 5  # of the grid that it stands on
_MOST_CORNERS = 3  # action components whose corners are tried
_MOST_NEIGHBOURS = 4  # cells, those of most weight, whose actions are compared
# counted: what a point costs beside its 4^d coefficients; steps of a chain, as a rule; what an operation of the solve is worth in
# those of the estimate, by their times
_OVERHEAD, _EXPECTED_STEPS, _SOLVE = 48.0, 30, 15.0
ASKED = 2e9  # operations, some seconds: what an estimate that is asked for may take
_UNNOTICED = 2.5e8  # operations that nobody waits for
_BLOCK = 1 << 16  # points at once, as long as they stay in the cache


@dataclass(frozen=True)
class Estimate:
    """Hold the estimated cost of the greedy policy in the problem itself.

    value: of J, with its standard_error from `chains` independent chains of `steps` steps at most; forgotten: whether the chains
    had forgotten their start, the stationary law of the grid, by then: the correlations of cost and value with it were below 5 %.
    Where not, the weights of regions that are rarely left are those of the grid.
    """

    value: float
    standard_error: float
    chains: int
    steps: int
    forgotten: bool


@dataclass(frozen=True)
class GreedyPolicy:
    """The policy that takes, at any state, the best of what the neighbouring cells do and of their interpolation.

    Where the neighbours agree they are interpolated (values of a list: taken). Elsewhere  c(s, a) + g E h(s')  is compared,
    the expectation by a fixed rule: which rule decides what the policy is, not what it costs.
    """

    problem: ControlProblem
    grid: StateGrid
    best: np.ndarray  # (cells, m)
    spline: Spline
    discount: float
    level: float = 0.0  # of a chain that starts again after the goal: what h counts there, about its mean under the start law

    def value(self, states: np.ndarray) -> np.ndarray:
        """Return h at states (K, d): the spline; in the goal what it costs there and what h counts of what comes next."""
        result, goal = self.spline(states), self.problem.goal
        if goal is not None and (inside := goal.reached(states)).any():
            result[inside] = self.problem.goal_costs(states[inside]) + self.discount * self.level
        return result

    @cached_property
    def noisy(self) -> np.ndarray:
        """The axes that have noise, (q,)."""
        return np.flatnonzero(self.problem.cell_tables(self.grid.states).noise.any(axis=0))

    @cached_property
    def _rule(self) -> tuple[np.ndarray, np.ndarray]:
        return fixed_rule(self.noisy.size, self.problem.state_dimension)

    @cached_property
    def _alike(self) -> np.ndarray:
        return _ALIKE * np.ptp(self.best, axis=0)

    @cached_property
    def ends(self) -> np.ndarray:
        """The corners of the box of actions, (C, m), False at lower bounds; none where an action is unbounded."""
        low, high = self.problem.limits_at(self.grid.states[:1])
        m = low.shape[1]
        if not np.isfinite(high - low).all() or m > _MOST_CORNERS:
            return np.zeros((0, m), bool)
        return np.stack(np.meshgrid(*[[False, True]] * m, indexing="ij"), axis=-1).reshape(-1, m)

    def actions(self, states: np.ndarray) -> np.ndarray:
        """Return the actions (K, m) at states (K, d)."""
        cells, weights = self.grid.corners(states)
        neighbours = self.best[cells]
        if self.problem.choices is not None:
            return self._listed(states, neighbours, weights)
        if self.problem.mixed:
            return self._mixed(states, neighbours, weights)
        chosen: np.ndarray = np.einsum("kc,kca->ka", weights, neighbours)
        # a corner of no weight is no neighbour
        spread = np.where(weights[..., None] > 0, np.abs(neighbours - chosen[:, None, :]), 0.0).max(axis=1)
        rows = np.flatnonzero((spread > self._alike).any(axis=1))
        neighbours, weights = neighbours[rows], weights[rows]
        if cells.shape[1] > _MOST_NEIGHBOURS:
            heaviest = np.argpartition(-weights, _MOST_NEIGHBOURS, axis=1)[:, :_MOST_NEIGHBOURS]
            neighbours = np.take_along_axis(neighbours, heaviest[..., None], axis=1)
        chosen[rows] = self._better(states[rows], np.concatenate([chosen[rows, None, :], neighbours], axis=1))[0]
        return np.asarray(np.clip(chosen, *self.problem.limits_at(states)))

    def _listed(self, states: np.ndarray, neighbours: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the actions (K, m) of a list: those of the neighbours (K, C, m), the best one where they differ."""
        first = np.take_along_axis(neighbours, weights.argmax(axis=1)[:, None, None], axis=1)
        chosen: np.ndarray = first[:, 0]
        rows = np.flatnonzero(((neighbours != first) & (weights[..., None] > 0)).any(axis=(1, 2)))
        candidates = np.where(weights[rows][..., None] > 0, neighbours[rows], first[rows])
        chosen[rows] = self._better(states[rows], candidates, ends=False)[0]
        return chosen

    def _mixed(self, states: np.ndarray, neighbours: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the actions (K, m), some of them values of lists: the best of what the neighbours (K, C, m) do, and of what lies
        between those that take the same values.
        """
        listed = self.problem.listed
        same = (neighbours[:, :, None][..., listed] == neighbours[:, None][..., listed]).all(axis=-1) * weights[:, None]
        total = same.sum(axis=2, keepdims=True)
        # of every neighbour (K, C, m); one of no weight is none
        joined = np.einsum("kce,kea->kca", same / np.where(total > 0.0, total, 1.0), neighbours)
        joined[..., listed] = neighbours[..., listed]
        first = total[..., 0].argmax(axis=1)[:, None, None]
        joined = np.where(weights[..., None] > 0.0, joined, np.take_along_axis(joined, first, axis=1))
        chosen: np.ndarray = np.take_along_axis(joined, first, axis=1)[:, 0]
        differ = np.where(weights[..., None] > 0.0, np.abs(neighbours - chosen[:, None]), 0.0).max(axis=1)
        rows = np.flatnonzero(((differ > self._alike) | (listed & (differ > 0.0))).any(axis=1))
        taken = np.where(weights[rows, :, None] > 0.0, neighbours[rows], joined[rows])
        chosen[rows] = self._better(states[rows], np.concatenate([joined[rows], taken], axis=1))[0]
        return np.asarray(np.clip(chosen, *self.problem.limits_at(states)))

    def switching(self, reach: Sequence[int]) -> np.ndarray:
        """Tell the cells (cells,) some of whose neighbours along an axis, at the distances given, do something else."""
        table = self.best.reshape(*self.grid.shape, -1)
        found = np.zeros(self.grid.shape, bool)
        for k in range(self.grid.dimension):
            for shift in reach:
                found |= (np.abs(np.roll(table, shift, axis=k) - table) > self._alike).any(axis=-1)
        return found.ravel()

    def _better(self, states: np.ndarray, candidates: np.ndarray, ends: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Return the best of candidates (K, C, m), and of the ends of the actions, at states (K, d), and c + g E h there."""
        actions, values = np.empty((len(states), candidates.shape[2])), np.empty(len(states))
        corners = self.ends if ends else self.ends[:0]
        count = candidates.shape[1] + len(corners)
        for some in np.array_split(np.arange(len(states)), 1 + len(states) * count // _BLOCK):
            low, high = (limit[:, None] for limit in self.problem.limits_at(states[some]))
            inside = np.clip(candidates[some], low, high)
            tried = np.concatenate([inside, np.where(corners, high, low)], axis=1)
            found = self._values(states[some], tried)
            place = found.argmin(axis=1)
            actions[some], values[some] = tried[np.arange(some.size), place], found[np.arange(some.size), place]
        return actions, values

    def refined(self, factors: Sequence[int]) -> GreedyPolicy:
        """Return the policy with every cell of the grid cut into factors (d,) parts."""
        axes = []
        for axis, boundary, factor in zip(self.grid.axes, self.grid.boundary, factors, strict=True):
            parts = (axis.size if boundary == "periodic" else axis.size - 1) * factor
            step = (axis[-1] - axis[0]) / ((axis.size - 1) * factor)
            axes.append(axis[0] + step * np.arange(parts + (boundary != "periodic")))
        fine = StateGrid(self.grid.names, tuple(axes), self.grid.boundary)
        return replace(self, grid=fine, best=self.actions(fine.states), spline=Spline.through(fine, self.value(fine.states)))

    def improved(self) -> GreedyPolicy:
        """Return the policy of  h <- min_a [c + g E h]  at the nodes, in the problem itself; less its mean where g = 1."""
        actions = self.best.copy()
        values = np.empty(self.grid.size)
        switching = self.switching((1, -1, 2, -2, 4, -4))
        for rows, ends in ((np.flatnonzero(~switching), False), (np.flatnonzero(switching), True)):
            states = self.grid.states[rows]
            actions[rows], values[rows] = self._better(states, self.best[rows, None, :], ends)
        mean = float(values.mean()) if self.discount == 1.0 else 0.0
        return replace(self, best=actions, spline=Spline.through(self.grid, values - mean))

    def levelled(self) -> GreedyPolicy:
        """Return the policy with the level of its h; any level is right, this one has the least variance."""
        goal = self.problem.goal
        if goal is None or not goal.restarts:
            return self
        states = self.problem.first_states(_LEVEL, np.random.default_rng(SEED))
        return replace(self, level=float(self.spline(states).mean()))

    def _values(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Return c + g E h(s') at states (K, d) for actions (K, C, m), (K, C)."""
        tables = self.problem.action_tables(states, actions, 0)
        count = actions.shape[1]
        mean = tables.mean.reshape(-1, states.shape[1])
        cell = repeated(self.problem.cell_tables(states), count)
        total = np.zeros(len(mean))
        for point, weight in zip(*self._rule, strict=True):
            normals = np.zeros_like(mean)
            normals[:, self.noisy] = point
            total += weight * self.value(self.problem.realised(mean, cell, normals))
        return tables.cost + self.discount * total.reshape(-1, count)

    def residual(self, states: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return c + g E h(s') - h at states (K, d), (K,), its expectation by a shifted rule of its own at every state."""
        result = np.empty(len(states))
        for some in np.array_split(np.arange(len(states)), 1 + states.size // _BLOCK):
            here = states[some]
            tables = self.problem.action_tables(here, self.actions(here)[:, None, :], 0)
            mean, cell, value = tables.mean[:, 0], self.problem.cell_tables(here), self.value(here)
            gain = np.zeros(len(here))
            for points, weight in shifted_rule(self.noisy.size, len(here), rng):
                normals = np.zeros_like(mean)
                normals[:, self.noisy] = points
                # less h: what is constant is then exact
                gain += weight * (self.value(self.problem.realised(mean, cell, normals)) - value)
            result[some] = tables.cost[:, 0] + self.discount * gain - (1.0 - self.discount) * value
        goal = self.problem.goal
        if goal is not None and goal.restarts and (inside := goal.reached(states)).any():
            # F + g h(s') - (F + g level) with s' of the start law
            after = self.value(self.problem.first_states(int(inside.sum()), rng))
            result[inside] = self.discount * (after - self.level)
        return result

    def step(self, states: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the costs (K,) of states (K, d), and the next states (K, d)."""
        return self.problem.advance(states, self.actions(states), rng)


def repeated(cell: CellTables, count: int) -> CellTables:
    """Return the tables with every cell `count` times."""
    return CellTables(np.repeat(cell.noise, count, axis=0), np.repeat(cell.coupling, count, axis=0))


def estimate(evaluation: Evaluation, best: BestActions, todo: Plan | None = None, seed: int = SEED) -> Estimate:
    """Estimate what the policy greedy for the V of an evaluation costs in the problem itself; the same every time.

    best: the best actions on the grid. todo: what to do, all of it by default; chains come in batches of `CHAINS` as long as the
    standard error is worth another.
    """
    todo = plan(evaluation, best) if todo is None else todo
    model, policy = evaluation.model, greedy_policy(evaluation, best, todo)
    rng = np.random.default_rng(seed)
    anchor, uncertain = (0.0, 0.0) if evaluation.recurrent else _mean_of_starts(policy)
    anchor, uncertain = evaluation.share * anchor, evaluation.share * uncertain
    residuals, steps, forgotten = np.zeros(0), 0, True
    for _ in range(todo.batches):
        weights, forgot = np.ones(CHAINS), True
        if evaluation.recurrent:
            states, steps_taken, forgot = _stationary(policy, model.grid, evaluation.law, rng)
        elif evaluation.steps_left is not None:
            states, weights, steps_taken = _on_the_way(policy, rng, _PATIENCE * (1.0 + evaluation.most_steps))
        else:
            states, weights, steps_taken = _occupied(policy, rng)
        residuals = np.append(residuals, weights * policy.residual(states, rng))
        steps, forgotten = max(steps, steps_taken), forgotten and forgot
        error = float(np.hypot(residuals.std(ddof=1) / np.sqrt(residuals.size), uncertain))
        if error <= _FINE * evaluation.cost_scale:
            break
    return Estimate(anchor + float(residuals.mean()), error, residuals.size, steps, forgotten)


def greedy_policy(evaluation: Evaluation, best: BestActions, todo: Plan) -> GreedyPolicy:
    """Return the policy whose cost `estimate` speaks of: greedy for the V of an evaluation, after the sweeps of a plan."""
    policy = _greedy(evaluation, best)
    if todo.sweeps:
        policy = policy.refined(todo.factors)
        for _ in range(todo.sweeps):
            policy = policy.improved()
    return policy


@dataclass(frozen=True)
class Plan:
    """What an estimate is to do: sweeps of the value function, on cells cut into `factors` parts, then batches of chains.

    work: elementary operations that it is counted to take.
    """

    sweeps: int
    factors: tuple[int, ...]
    batches: int
    work: float


def plan(evaluation: Evaluation, best: BestActions, allowed: float = ASKED) -> Plan:
    """Return the best estimate whose work is at most `allowed`; of no batches where there is none.

    One batch of chains first, then sweeps on cells that the noise is `_CELLS_PER_NOISE` of, then more chains.
    """
    model = evaluation.model
    law = np.maximum(evaluation.law, 0.0) / max(float(evaluation.law.sum()), 1e-300)
    d, noise = model.grid.dimension, np.sqrt(law @ model.noise**2)
    noisy = int(np.count_nonzero(noise))
    point, rule = 4.0**d + _OVERHEAD, len(fixed_rule(noisy, d)[0])
    # every state moves, some compare, and at the end the shifted rule sums
    policy = _greedy(evaluation, best)
    share = float(law @ policy.switching((-1,)))
    compared = share * rule * (1 + min(2**d, _MOST_NEIGHBOURS))
    # without noise chains do not forget their start
    if evaluation.steps_left is not None:
        steps = evaluation.most_steps
    else:
        steps = (_EXPECTED_STEPS if noisy else _MOST_STEPS) if evaluation.recurrent else 1.0 / (1.0 - evaluation.discount)
    batch = CHAINS * point * (steps * (1 + compared) + size_of_shifted(noisy))
    if batch > allowed:
        return Plan(0, (1,) * d, 0, 0.0)
    ratio = noise / model.grid.spacing
    parts = np.where(noise > 0, np.clip(np.ceil(_CELLS_PER_NOISE / np.maximum(ratio, 1e-9)), 1, _MOST_PARTS), 1).astype(np.int64)
    near = 1 + float(policy.switching((1, -1, 2, -2)).mean()) * len(policy.ends)
    sweep = _SWEEPS * model.grid.size * point * rule * near
    while sweep * parts.prod() > allowed - batch and parts.max() > 1:
        parts[parts.argmax()] -= 1
    # h jumps at the edge of a goal, and the fixed rule is one for smooth functions
    sweeps = _SWEEPS if sweep * parts.prod() <= allowed - batch and model.goal is None else 0
    work = batch + (sweep * float(parts.prod()) if sweeps else 0.0)
    more = min(BATCHES - 1, int((allowed - work) / batch))
    return Plan(sweeps, tuple(parts.tolist()), 1 + more, work + more * batch)


def allowance(evaluation: Evaluation, steps: int) -> float:
    """Return the work that an estimate may take unasked: that of a solve of so many steps, or a few tenths of a second.

    Counted, not timed, so that every machine does the same; in the unit of `Plan.work`, and low. Every step sees all particles
    three times and some probes (`certificate.best_actions`), each at the nodes that it reaches; the solves of the linear
    equations are left out.
    """
    model = evaluation.model
    nodes = sum(model.nodes) if model.product is not None else model.reach
    return max(_UNNOTICED, _SOLVE * (steps + 1) * model.grid.size * (3 * evaluation.policy.particles + PROBES) * nodes)


def _greedy(evaluation: Evaluation, best: BestActions) -> GreedyPolicy:
    grid = evaluation.model.grid
    spline, goal = Spline.through(grid, evaluation.value), evaluation.model.goal
    actions = best.actions if goal is None else best.actions[goal.nearest]
    return GreedyPolicy(evaluation.model.problem, grid, actions, spline, evaluation.discount).levelled()


def _stationary(
    policy: GreedyPolicy, grid: StateGrid, law: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, int, bool]:
    """Draw states (K, d) of the stationary law: chains from the law of the grid, until they have forgotten their start."""
    states = _from_cells(grid, law, CHAINS, rng)
    # jitter must not leave an axis; an open one goes on beyond its domain
    inside = np.array([not BOUNDARIES[boundary].widens for boundary in grid.boundary])
    states = np.where(inside, np.clip(states, *policy.problem.domain.T), states)
    before: list[np.ndarray] | None = None
    for steps in range(1, _MOST_STEPS + 1):
        value = policy.spline(states)
        cost, states = policy.step(states, rng)
        now = [cost - cost.mean(), value - value.mean()]
        before = now if before is None else before
        if steps > _LEAST_STEPS and all(map(_uncorrelated, before, now)):
            return states, steps, True
    return states, _MOST_STEPS, False


def _occupied(policy: GreedyPolicy, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """Draw states (K, d) of the discounted occupation d: where chains stop that last a geometric time, from the start law.

    Their weights (K,) are zero where the goal ended them before, and in it.
    """
    problem, g = policy.problem, policy.discount
    states, weights = problem.first_states(CHAINS, rng), np.ones(CHAINS)
    lifetimes = np.sort(rng.geometric(1.0 - g, size=CHAINS) - 1)[::-1]
    for step in range(int(lifetimes[0])):
        alive = int((lifetimes > step).sum())
        _, states[:alive] = policy.step(states[:alive], rng)
    if problem.stops:
        assert problem.goal is not None
        weights[problem.goal.reached(states)] = 0.0  # where it was reached the chain stands still
    return states, weights, int(lifetimes[0])


def _on_the_way(policy: GreedyPolicy, rng: np.random.Generator, patience: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Draw states (K, d) of the ways to the goal: of every episode one, any of its steps, and its weight, their number.

    The mean of weight times f is that of the sum of f over the steps of an episode. Raises ValueError where an episode takes more
    than `patience` steps.
    """
    problem = policy.problem
    assert problem.goal is not None
    states = problem.first_states(CHAINS, rng)
    kept, weights, going = states.copy(), np.zeros(CHAINS), np.arange(CHAINS)
    steps = 0
    while True:
        off = ~problem.goal.reached(states)
        going, states = going[off], states[off]
        if going.size == 0:
            return kept, weights, steps
        steps += 1
        # the n-th state takes the place of the one kept with probability 1/n
        weights[going] = steps
        chosen = rng.random(going.size) * steps < 1.0
        kept[going[chosen]] = states[chosen]
        if steps > patience:
            raise ValueError(
                f"in the problem itself {going.size} of {CHAINS} episodes had not reached the goal after {steps} steps: the "
                "policy relies on what the grid adds to the noise, or the goal is narrower than a cell"
            )
        _, states = policy.step(states, rng)


def _uncorrelated(first: np.ndarray, second: np.ndarray) -> bool:
    size = float(np.sqrt((first @ first) * (second @ second)))
    return size == 0.0 or abs(float(first @ second)) <= _FORGOTTEN * size


def _from_cells(grid: StateGrid, law: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw states (count, d): cells by a law (cells,), and evenly within the cell."""
    law = np.maximum(law, 0.0)
    states = grid.states[rng.choice(law.size, size=count, p=law / law.sum())]
    return states + (rng.random(states.shape) - 0.5) * grid.spacing


def _mean_of_starts(policy: GreedyPolicy) -> tuple[float, float]:
    """Return the mean of h under the start law and its standard error."""
    if policy.problem.start.everywhere and policy.problem.goal is None:
        return _mean_over_domain(policy), 0.0
    values = policy.value(policy.problem.first_states(_STARTS, np.random.default_rng(SEED)))
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))


def _mean_over_domain(policy: GreedyPolicy) -> float:
    """Return the mean of the spline over the domain: two Gauss points a piece are exact for cubics."""
    points, shares = [], []
    for (low, high), axis, spacing in zip(policy.problem.domain, policy.grid.axes, policy.grid.spacing, strict=True):
        knots = np.unique(np.clip(np.append(axis, axis[-1] + spacing), low, high))
        middle, half = 0.5 * (knots[1:] + knots[:-1]), 0.5 * (knots[1:] - knots[:-1])
        points.append(np.concatenate([middle - half / np.sqrt(3.0), middle + half / np.sqrt(3.0)]))
        shares.append(np.concatenate([half, half]) / (high - low))
    total = 0.0
    for x, share in zip(points[0], shares[0], strict=True):  # a plane at once
        values = policy.spline(np.stack(np.meshgrid(np.array([x]), *points[1:], indexing="ij"), axis=-1))[0]
        for weights in reversed(shares[1:]):
            values = values @ weights
        total += share * float(values)
    return total
