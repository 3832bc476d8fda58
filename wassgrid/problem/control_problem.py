"""The controlled Markov chain of a case: tables of its law and cost with their action derivatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from wassgrid.problem.boundary import next_value
from wassgrid.problem.compilation import KEPT, ArrayFunction, Stages, compile_functions, differentiate
from wassgrid.problem.dependence import Dependence
from wassgrid.problem.functions import Absolute, Maximum, Minimum, Modulo, Sign, Where
from wassgrid.problem.goal import Goal
from wassgrid.problem.intervals import Interval, interval
from wassgrid.problem.law import Law
from wassgrid.problem.limits import ActionLimits
from wassgrid.problem.model import Model, ProblemError
from wassgrid.problem.names import located, remedy
from wassgrid.problem.periodicity import shift
from wassgrid.problem.start import StartLaw, StartValue

__all__ = ["ActionRanges", "ActionTables", "CellTables", "ControlProblem", "ProblemError"]

Array = NDArray[np.float64]
Plan = list[tuple[int, tuple[int, ...]]]
AVERAGE, DISCOUNTED, TOTAL = "average", "discounted", "total"  # criteria
_BENT = {"abs": Absolute, "max": Maximum, "min": Minimum, "where": Where, "sign": Sign, "mod": Modulo}  # somewhere not smooth


@dataclass(frozen=True)
class CellTables:
    """What the law at each state does not owe to the action.

    noise: (cells, d) standard deviations sigma_j(s) >= 0.
    coupling: (cells, d, d); coupling[:, j, i] = beta_ji(s), by which x'_j follows the realised x'_i.
    """

    noise: Array
    coupling: Array


@dataclass(frozen=True)
class ActionTables:
    """Mean alpha(s, a) and stage cost c(s, a) at particles, with action derivatives up to the order asked for (else None).

    mean (cells, N, d), mean_gradient (cells, N, d, m), mean_hessian (cells, N, d, m, m),
    cost (cells, N), cost_gradient (cells, N, m), cost_hessian (cells, N, m, m); C-contiguous doubles, all finite, or as
    `ControlProblem.action_tables` says. differentiable (cells, N): whether all first derivatives are finite.
    """

    mean: Array
    cost: Array
    mean_gradient: Array | None = None
    mean_hessian: Array | None = None
    cost_gradient: Array | None = None
    cost_hessian: Array | None = None
    differentiable: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class ActionRanges:
    """Ranges of mean alpha(s, a) and stage cost c(s, a) over boxes of actions, and of their action derivatives.

    mean[k] (2, K, d, m, ...) and cost[k] (2, K, m, ...): lower and upper ends of the k-th derivatives, k axes of length m.
    smoothness (K,): 2 where all values are twice differentiable on the whole box, 1 where they are Lipschitz continuous (the
    derivatives then enclose Clarke's generalised ones), 0 where they may jump.
    """

    mean: tuple[Array, ...]
    cost: tuple[Array, ...]
    smoothness: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ControlProblem:
    """A controlled Markov chain with Gaussian noise, axis by axis:

        x'_j = alpha_j(s, a) + sum_i beta_ji(s) x'_i + sigma_j(s) xi_j,    stage cost c(s, a),

    where x'_i is the realised next value of another axis, noise and boundary included.  In continuous time with step h
    the drift b and the diffusion Sigma give alpha = s + h b ("euler") or the classical Runge-Kutta step of order 4
    ("rk4", the action held over the step), sigma = Sigma sqrt(h), and c is the cost rate: average costs are per unit
    time.

    The criterion `total` sums costs, so that its stage cost is h times the rate. `goal` ends an episode, or makes it begin anew;
    `start` is the law of first states.

    domain (d, 2), boundary (d): names of `problem.boundary`; action_bounds (m, 2), infinite where none is given. Where bounds
    depend on the states (`limits`), these are ends that hold them all; what can be chosen at a state says `limits_at`.
    in_shares: whether actions whose bounds depend on the states are told in shares of the way between them, see `told_in_shares`.
    order: the axes in an order in which the realised next values are known; coupled (d, d): where beta is not zero.
    """

    title: str
    model: Model
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    domain: Array
    boundary: tuple[str, ...]
    action_bounds: Array
    criterion: str
    discount: float | None
    time_step: float | None
    goal: Goal | None
    start: StartLaw
    in_shares: bool = field(default=False, kw_only=True)

    @classmethod
    def from_model(
        cls, model: Model, title: str, criterion: str, discount: float | None, goal: Goal | None = None,
        start: Mapping[str, StartValue] = MappingProxyType({}),
    ) -> ControlProblem:  # fmt: skip
        """Build the problem of a model and check every expression.  start: see `StartLaw.of`.  Raises ProblemError."""
        states = [(family, name) for family in model.states for name in family.members]
        actions = [(family, name) for family in model.actions for name in family.members]
        names = tuple(name for _, name in states)
        domain = np.array([family.interval for family, _ in states], dtype=float).reshape(-1, 2)
        boundary = tuple(family.boundary for family, _ in states)
        bounds = np.array([family.interval for family, _ in actions], dtype=float).reshape(-1, 2) + 0.0
        if (limits := ActionLimits.of(model)) is not None:
            bounds = limits.hull(domain)
        problem = cls(
            title=title,
            model=model,
            state_names=names,
            action_names=tuple(name for _, name in actions),
            domain=domain,
            boundary=boundary,
            action_bounds=bounds,
            criterion=criterion,
            discount=discount,
            time_step=model.time_step,
            goal=goal,
            start=StartLaw.of(names, domain, boundary, start),
        )
        for template in model.templates[0]:
            if template.noise.is_Number and template.noise < 0:
                raise ProblemError(f"states.{template.family.key}.{model.noise_key}: the noise is negative")
        return problem

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the definition only: compiled functions are built again where they are needed."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    @property
    def state_dimension(self) -> int:
        """d, the number of state variables."""
        return len(self.state_names)

    @property
    def action_dimension(self) -> int:
        """m, the number of action variables."""
        return len(self.action_names)

    @property
    def cost_unit(self) -> float:
        """What a stage cost of one is in units of cost: the time step where it is a rate, 1 where it is the cost of a step."""
        return 1.0 if self.time_step is None or self.criterion == TOTAL else self.time_step

    @property
    def stops(self) -> bool:
        """Whether nothing comes after the goal."""
        return self.goal is not None and not self.goal.restarts

    @property
    def listed(self) -> NDArray[np.bool_]:
        """Which actions take values of a list, (m,): they do not slide, and nothing is differentiated along them."""
        return self.model.listed

    @property
    def combinations(self) -> Array:
        """All combinations (B, l) of the values of those l actions, the last one changes fastest; of none the empty one."""
        return self.model.combinations

    @property
    def squared_distances(self) -> Array:
        """Squares of the distances between combinations of values (B, B), in the ground metric that the case gives its lists."""
        return self.model.squared_distances

    def admitted(self, states: Array, actions: Array) -> Array:
        """Return actions (K, N, m) at states (K, d), with the nearest values that are allowed there for those that are not."""
        return actions if self.limits is None else self.limits.admitted(states, actions)

    @cached_property
    def value_names(self) -> tuple[Mapping[float, str], ...]:
        """The names of the values of every action (m), empty where they have none."""
        families = [family for family in self.model.actions for _ in family.members]
        return tuple(dict(zip(family.values, family.value_names, strict=False)) for family in families)

    @property
    def mixed(self) -> bool:
        """Whether some actions take values of a list, and others lie between bounds."""
        return bool(self.listed.any() and not self.listed.all())

    @property
    def choices(self) -> Array | None:
        """All actions (A, m) that there are, where all take values of a list."""
        return self.combinations if self.listed.all() else None

    @property
    def some_action(self) -> Array:
        """An action (m,) that there is: the first of those that are listed, or the one nearest to zero.

        Where bounds depend on the states, there is some state where it is nearly one.
        """
        low, high = self.action_bounds.T
        action = np.clip(np.zeros(low.size), low, high)
        action[self.listed] = self.combinations[0]
        return action

    def parts(self, low: Array, high: Array) -> list[tuple[Array, Array]]:
        """Return boxes of actions (K, m) in parts that leave out what lies between values: one part for every combination.

        Where no action takes values, or all do, the boxes themselves.
        """
        if not self.mixed:
            return [(low, high)]
        return [(self.chosen(low, values), self.chosen(high, values)) for values in self.combinations]

    def chosen(self, actions: Array, values: Array) -> Array:
        """Return actions (..., m) with a combination of values (l,), or one each (..., l), of those that take them."""
        result = np.array(actions, dtype=float)
        result[..., self.listed] = values
        return result

    def combination_of(self, actions: Array) -> NDArray[np.int64]:
        """Return the numbers (...) of the combinations that actions (..., m) have."""
        same = (actions[..., None, self.listed] == self.combinations).all(axis=-1)
        return np.asarray(same.argmax(axis=-1))

    @cached_property
    def limits(self) -> ActionLimits | None:
        """The bounds of the actions where some depend on the states, None where all are numbers."""
        return None if self.in_shares else ActionLimits.of(self.model)

    def told_in_shares(self) -> ControlProblem:
        """Return the same problem with a = low(s) + (high(s) - low(s)) v, 0 <= v <= 1, where bounds depend on the states.

        The action of that name is v there; bounds that are numbers stay. What can be reached from a state, and at what cost, is
        the same, as long as the bounds do not cross.
        """
        bounds = self.action_bounds.copy()
        moving = [family.ends is not None for family in self.model.actions for _ in family.members]
        bounds[moving] = [0.0, 1.0]
        return replace(self, action_bounds=bounds, in_shares=True)

    def limits_at(self, states: Array) -> tuple[Array, Array]:
        """Return lowest and highest actions, (K, m) each, at states (K, d); may be read-only views.  Raises ProblemError."""
        if self.limits is not None:
            return self.limits.at(states)
        low, high = (np.broadcast_to(end, (len(states), end.size)) for end in self.action_bounds.T)
        return low, high

    @cached_property
    def coupled(self) -> NDArray[np.bool_]:
        """(d, d): entry (j, i) tells whether x'_j follows the realised x'_i."""
        coupled = np.zeros((self.state_dimension, self.state_dimension), dtype=bool)
        for j, i in self._law.coupling:
            coupled[j, i] = True
        return coupled

    @cached_property
    def constant_noise(self) -> bool:
        """Whether no noise depends on the state."""
        return all(not self._law.symbols_of(noise) for noise in self._law.noise)

    def constant_coupling(self, j: int, i: int) -> float | None:
        """Return beta_ji, None where it depends on the state."""
        beta = self._law.coupling.get((j, i), sp.S.Zero)
        return None if self._law.symbols_of(beta) else float(beta)

    def repeats(self, j: int) -> bool:
        """Tell whether cost and law show by their form that they repeat with the period of axis j; its mean may move by turns."""
        law, period = self._law, float(self.domain[j, 1] - self.domain[j, 0])
        if law.stages or self.boundary[j] != "periodic":
            return False
        moved = [shift(e, self.model.scalars.states[j], period) for e in (self._cost, *law.mean)]
        turns = [None if m is None else m / period for m in moved]
        return all(t is not None and (abs(t - round(t)) < 1e-12 if k == 1 + j else t == 0.0) for k, t in enumerate(turns))

    @cached_property
    def jumps(self) -> tuple[str, ...]:
        """Where cost or law may jump as an action moves, by their form: `sign(...) in cost.stage`."""
        # from one value of a list to the next nothing slides
        actions = {symbol for symbol, listed in zip(self.model.scalars.actions, self.listed, strict=True) if not listed}
        found = []
        for path, expression in self._expressions:
            for name, kind in (("sign", Sign), ("mod", Modulo), ("where", Where)):
                # of a choice it is the condition
                places = (place.args[0] if kind is Where else place for place in expression.atoms(kind))
                if any(place.free_symbols & actions for place in places):
                    found.append(f"{name}(...) in {path}")
        return tuple(dict.fromkeys(found))

    @cached_property
    def kinks(self) -> tuple[str, ...]:
        """Where cost or law may have kinks or jumps in states or actions, by their form: `abs, max in cost.stage`.

        A clip is a min and a max.
        """
        found = []
        for path, expression in self._expressions:
            names = [name for name, kind in _BENT.items() if any(place.free_symbols for place in expression.atoms(kind))]
            if names:
                found.append(f"{', '.join(names)} in {path}")
        return tuple(dict.fromkeys(found))

    @property
    def _expressions(self) -> list[tuple[str, sp.Expr]]:
        """The laws of all states and the cost, each with its key."""
        model = self.model
        laws = [(model.law_path(j), law) for j, law in enumerate(model.scalars.law)]
        return [*laws, (f"cost.{model.cost_key}", model.scalars.cost)]

    @property
    def no_bounds(self) -> str:
        """Why no bounds over boxes of actions are known, without which nothing is proven; empty where they are."""
        return ""

    @cached_property
    def dependence(self) -> Dependence:
        """What the law of every axis depends on, read off its expressions."""
        law, scalars, d = self._law, self.model.scalars, self.state_dimension
        present, moved = np.zeros((d, d), dtype=bool), np.zeros(d, dtype=bool)
        for j in range(d):
            mean = law.symbols_of(law.mean[j])
            symbols = mean | law.symbols_of(law.noise[j])
            for (follower, _), beta in law.coupling.items():
                if follower == j:
                    symbols |= law.symbols_of(beta)
            present[j] = [symbol in symbols for symbol in scalars.states]
            moved[j] = any(symbol in mean for symbol in scalars.actions)
        return Dependence(present, moved, self.coupled)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The axes so that each comes after those it follows, file order otherwise.  Raises ProblemError for a cycle."""
        placed: list[int] = []
        while len(placed) < self.state_dimension:
            rest = [j for j in range(self.state_dimension) if j not in placed]
            ready = [j for j in rest if not any(self.coupled[j, i] for i in rest)]
            if not ready:
                names = ", ".join(self.state_names[j] for j in rest[:6])
                raise ProblemError(f"states: next(...) goes round in a circle among {names}")
            placed.append(ready[0])
        return tuple(placed)

    # -- tables ----------------------------------------------------------------------------------------------------

    def cell_tables(self, states: Array) -> CellTables:
        """Tabulate noise and coupling at `states` (cells, d).  Raises ProblemError where not finite or noise < 0."""
        columns = list(np.ascontiguousarray(states, dtype=float).T)
        cells, d = len(states), self.state_dimension
        values = self._cell_function(*columns)
        noise = np.zeros((cells, d))
        coupling = np.zeros((cells, d, d))
        for j, sigma in enumerate(values[:d]):
            self._require_finite(f"noise of {self.state_names[j]}", sigma, columns)
            if np.any(sigma < 0.0):
                where = self._first(sigma < 0.0, columns)
                raise ProblemError(f"the noise of {self.state_names[j]} is negative at {where}")
            noise[:, j] = sigma
        for (j, i), beta in zip(self._law.coupling, values[d:], strict=True):
            self._require_finite(f"factor of next({self.state_names[i]}) in {self.state_names[j]}", beta, columns)
            coupling[:, j, i] = beta
        return CellTables(noise=noise, coupling=coupling)

    def action_tables(self, states: Array, actions: Array, order: int, strict: bool = True) -> ActionTables:
        """Tabulate mean and cost at `states` (cells, d) and `actions` (cells, N, m), with action derivatives up to `order`.

        Memory: cells * N * (d + 1) * (1 + m + m**2) doubles at order 2; callers go over blocks of cells.
        Where mean and cost are finite and a derivative is not (a cusp, the root of zero), the derivative counts as zero: what
        moves by derivatives stays there. `action_ranges` knows such boxes as not smooth. Along actions that take values of a list
        derivatives are zero. Where a value is not allowed, the nearest one that is takes its place (`admitted`).
        Raises ProblemError naming the first mean or cost that is not finite, and where; with strict=False such an action costs
        infinity, and its mean is the lower end of the domain.
        """
        plan, function = self._action_functions(order)
        states = np.asarray(states, dtype=float)
        actions = self.admitted(states, np.asarray(actions, dtype=float))
        (cells, particles, m), d = actions.shape, self.state_dimension
        # zero has one sign: atan2(-0.0, -1) is not a value that an action near it has
        state_columns = [(states[:, k] + 0.0)[:, None] for k in range(d)]
        action_columns = [actions[:, :, a] + 0.0 for a in range(m)]
        mean: list[Array | None] = [None] * 3
        cost: list[Array | None] = [None] * 3
        for k in range(order + 1):
            mean[k] = np.zeros((cells, particles, d, *(m,) * k))
            cost[k] = np.zeros((cells, particles, *(m,) * k))
        undefined: Any = False
        differentiable = np.ones((cells, particles), dtype=bool)
        for (row, axes), value in zip(plan, function(*state_columns, *action_columns), strict=True):
            if not np.all(finite := np.isfinite(value)):
                if not axes:
                    if strict:
                        self._require_finite(self._quantity(row), value, state_columns, action_columns)
                    undefined = undefined | ~finite
                elif len(axes) == 1:
                    differentiable &= finite
                value = np.where(finite, value, 0.0)
            table = cost[len(axes)] if row == d else mean[len(axes)]
            entry: Any = table[:, :] if row == d else table[:, :, row]  # type: ignore[index]
            entry[(..., *axes)] = value
            entry[(..., *reversed(axes))] = value
        if np.any(undefined):
            assert mean[0] is not None and cost[0] is not None
            undefined = np.broadcast_to(undefined, (cells, particles))
            mean[0][undefined], cost[0][undefined] = np.where(np.isfinite(self.domain[:, 0]), self.domain[:, 0], 0.0), np.inf
        return ActionTables(mean[0], cost[0], mean[1], mean[2], cost[1], cost[2], differentiable)  # type: ignore[arg-type]

    def action_ranges(self, states: Array, low: Array, high: Array, order: int = 2) -> ActionRanges:
        """Enclose mean and cost at `states` (K, d) over the action boxes [low, high] (K, m), with derivatives up to `order`.

        Interval arithmetic, vectorised over the boxes; ends may be infinite. Never raises where a value is not finite or
        not defined: its range is then infinite. Along actions that take values of a list, at one value each, all is constant.
        """
        (boxes, m), d = low.shape, self.state_dimension
        mean = [np.zeros((2, boxes, d, *(m,) * k)) for k in range(order + 1)]
        cost = [np.zeros((2, boxes, *(m,) * k)) for k in range(order + 1)]
        smoothness = np.full(boxes, 2)
        endless = np.isinf(low).any(axis=1) | np.isinf(high).any(axis=1)
        plan, function = self._action_functions(order, "interval")
        at_values = self.listed & (low == high).all(axis=0)
        if self.listed.any() and at_values[self.listed].all():
            values_there = self.admitted(states, low[:, None])[:, 0, self.listed]
            low, high = self.chosen(low, values_there), self.chosen(high, values_there)
        ends = zip(at_values, low.T, high.T, strict=True)
        actions = [bottom + 0.0 if known else Interval(bottom, top) for known, bottom, top in ends]
        values = function(*np.ascontiguousarray(states.T), *actions)
        for (row, axes), value in zip(plan, values, strict=True):
            found = interval(value, (boxes,))
            entry: Any = cost[len(axes)] if row == d else mean[len(axes)][:, :, row]
            for place in {axes, axes[::-1]}:
                entry[(0, slice(None), *place)] = found.lower
                entry[(1, slice(None), *place)] = found.upper
            if not axes:
                smoothness = np.minimum(smoothness, found.order)
            elif len(axes) == 1:
                # a slope without bounds on a box that has them: no Taylor polynomial, and no Lipschitz constant
                smoothness = np.where(endless | (np.isfinite(found.lower) & np.isfinite(found.upper)), smoothness, 0)
        return ActionRanges(tuple(mean), tuple(cost), smoothness)

    def action_values(self, arithmetic: ModuleType, *variables: Any) -> tuple[Any, ...]:
        """Return the means (d) and the cost in another arithmetic, from states and actions (see `compile_functions`)."""
        plan, function = self._action_functions(0, arithmetic)
        rows: list[Any] = [0.0] * (self.state_dimension + 1)
        for (row, _), value in zip(plan, function(*variables), strict=True):
            rows[row] = value
        return tuple(rows)

    def first_states(self, count: int, rng: np.random.Generator) -> Array:
        """Draw first states (count, d)."""
        return self.start.sample(count, self.domain, self.boundary, rng)

    def goal_costs(self, states: Array) -> Array:
        """Return what it costs to be at states (K, d) of the goal, (K,), in the unit of stage costs."""
        assert self.goal is not None
        return self.goal.costs(states) / self.cost_unit

    def advance(self, states: Array, actions: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Return the costs (K,) of states (K, d) and actions (K, m), and next states (K, d); in the goal both are the goal's.

        There the next state is drawn from the start law, or is the same where nothing comes next.
        """
        tables = self.action_tables(states, actions[:, None, :], 0)
        mean, cost = tables.mean[:, 0], tables.cost[:, 0]
        following = self.realised(mean, self.cell_tables(states), rng.standard_normal(mean.shape))
        if self.goal is not None and (inside := self.goal.reached(states)).any():
            cost[inside] = self.goal_costs(states[inside])
            following[inside] = self.first_states(int(inside.sum()), rng) if self.goal.restarts else states[inside]
        return cost, following

    def sample_next(self, states: Array, actions: Array, rng: np.random.Generator) -> Array:
        """Draw the next states (cells, d) of `states` (cells, d) under `actions` (cells, m), boundaries applied."""
        mean = self.action_tables(states, actions[:, None, :], order=0).mean[:, 0]
        return self.realised(mean, self.cell_tables(states), rng.standard_normal(mean.shape))

    def realised(self, mean: Array, cell: CellTables, normals: Array) -> Array:
        """Return the next states (cells, d), boundaries applied, for means alpha, noise and coupling, and standard normals.

        mean, normals (cells, d); cell: tables at the same cells.
        """
        realised = np.zeros_like(mean)
        for j in self.order:
            # x'_j = alpha_j + sum_i beta_ji x'_i + sigma_j xi_j
            centre = mean[:, j]
            for i in np.flatnonzero(self.coupled[j]):
                centre = centre + cell.coupling[:, j, i] * realised[:, i]
            low, high = self.domain[j]
            realised[:, j] = next_value(centre, cell.noise[:, j], normals[:, j], low, high, self.boundary[j])
        return realised

    def feedback_expressions(self, key: str, texts: str | float | Mapping[str, str | float]) -> list[sp.Expr]:
        """Parse feedback laws, one text for all actions or one per action table: one expression of states per action.

        `key` names the texts in errors.  Raises ProblemError.
        """
        families = {family.key: family for family in self.model.actions}
        if not isinstance(texts, Mapping):
            paths, given = dict.fromkeys(families, key), dict.fromkeys(families, texts)
        else:
            paths, given = {name: f"{key}.{name}" for name in {**families, **texts}}, dict(texts)
        for name in given:
            if name not in families:
                raise ProblemError(f"{paths[name]}: unknown action{remedy(name, families)}")
        expressions: list[sp.Expr] = []
        for name, family in families.items():
            if name not in given:
                raise ProblemError(f"{paths[name]}: missing")
            text = str(given[name])
            expressions += [self.model.feedback(paths[name], text, family, k) for k in range(len(family.members))]
        return expressions

    def feedback(self, key: str, texts: str | float | Mapping[str, str | float]) -> Callable[[Array], Array]:
        """Compile feedback laws (see `feedback_expressions`) into a function of states (cells, d) that gives (cells, m).

        The function raises ProblemError where a value is not finite.
        """
        expressions = self.feedback_expressions(key, texts)
        function = compile_functions(self.model.scalars.states, expressions)

        def evaluate(states: Array) -> Array:
            columns = list(np.asarray(states, dtype=float).T)
            values = np.stack(function(*columns), axis=-1)
            for k, name in enumerate(self.action_names):
                self._require_finite(f"{key} of {name}", values[:, k], columns)
            return values

        return evaluate

    # -- expressions -----------------------------------------------------------------------------------------------

    @cached_property
    def _law(self) -> Law:
        law = Law.of(self.model)
        stages = tuple((symbol, expression.xreplace(self._shares)) for symbol, expression in law.stages)
        return replace(law, mean=tuple(mean.xreplace(self._shares) for mean in law.mean), stages=stages)

    @property
    def _cost(self) -> sp.Expr:
        return self.model.scalars.cost.xreplace(self._shares)

    @cached_property
    def _shares(self) -> dict[sp.Symbol, sp.Expr]:
        """What stands for actions that are told in shares; nothing for others."""
        return ActionLimits(self.model).shares if self.in_shares else {}

    @cached_property
    def _cell_function(self) -> ArrayFunction:
        return compile_functions(self.model.scalars.states, [*self._law.noise, *self._law.coupling.values()])

    @cached_property
    def _compiled(self) -> dict[tuple[int, str | ModuleType], tuple[Plan, ArrayFunction]]:
        return {}

    def _action_functions(self, order: int, backend: str | ModuleType = "numpy") -> tuple[Plan, ArrayFunction]:
        """Return the plan, (row, action axes) of every entry that is not zero, and the function that gives those entries.

        Row j < d is the mean of axis j, row d the cost; no axes: the value, one: a first derivative, two: a second.
        """
        if order not in (0, 1, 2):
            raise ValueError(f"order: expected 0, 1 or 2, got {order}")
        if (order, backend) not in self._compiled:
            law, scalars = self._law, self.model.scalars
            # a sum of costs over steps, each h times its rate
            step = self.time_step if self.time_step is not None and self.criterion == TOTAL else None
            rows = (*law.mean, self._cost if step is None else sp.Float(step) * self._cost)
            self._compiled[order, backend] = _entries(
                rows, law.stages, scalars.states, scalars.actions, tuple(np.flatnonzero(~self.listed).tolist()), order, backend
            )
        return self._compiled[order, backend]

    # -- finiteness ------------------------------------------------------------------------------------------------

    def _quantity(self, row: int) -> str:
        return "cost" if row == self.state_dimension else f"next {self.state_names[row]}"

    def _require_finite(self, quantity: str, value: Any, states: Sequence[Array], actions: Sequence[Array] = ()) -> None:
        """Raise ProblemError unless `value`, computed from these columns, is finite."""
        if not np.all(finite := np.isfinite(value)):
            first = np.asarray(value)[~finite].flat[0]
            where = self._first(~finite, states, actions)
            raise ProblemError(f"{quantity} is {first} at {where}: it must be a finite number everywhere")

    def _first(self, bad: Any, states: Sequence[Array], actions: Sequence[Array] = ()) -> str:
        """Name the states and actions of the first True: `s=0.5, a=-1.2`."""
        names = [*self.state_names, *self.action_names][: len(states) + len(actions)]
        columns = np.broadcast_arrays(bad, *states, *actions)
        first = np.unravel_index(int(np.argmax(columns[0])), columns[0].shape)
        return located(names, (column[first] for column in columns[1:]))


@lru_cache(maxsize=KEPT)
def _entries(
    rows: tuple[sp.Expr, ...],
    stages: tuple[tuple[sp.Symbol, sp.Expr], ...],
    states: tuple[sp.Symbol, ...],
    actions: tuple[sp.Symbol, ...],
    moving: tuple[int, ...],
    order: int,
    backend: str | ModuleType,
) -> tuple[Plan, ArrayFunction]:
    """Return the plan and the function of `ControlProblem._action_functions`; moving: numbers of the actions that slide."""
    entries: dict[tuple[int, tuple[int, ...]], sp.Expr] = {(j, ()): row for j, row in enumerate(rows)}
    longer: Stages = stages
    if order:
        longer, gradient, hessian = differentiate(rows, [actions[a] for a in moving], stages)
        entries |= {(j, (a,)): gradient[j][k] for j in range(len(rows)) for k, a in enumerate(moving)}
    if order == 2:
        pairs = [(k, l) for k in range(len(moving)) for l in range(k, len(moving))]
        entries |= {(j, (moving[k], moving[l])): hessian[j][k][l] for j in range(len(rows)) for k, l in pairs}
    kept = {place: expression for place, expression in entries.items() if expression != 0}
    return list(kept), compile_functions([*states, *actions], list(kept.values()), backend, stages=longer, broadcast=False)
