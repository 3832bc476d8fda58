"""Policy evaluation: the objective J, the relative value V, and Q with its derivatives at every particle."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from wassgrid.chain import krylov
from wassgrid.chain.classes import never_reaching, recurrent_classes
from wassgrid.chain.coarse import CoarseCorrection
from wassgrid.chain.fundamental import Chain, direct_is_cheap, direct_is_possible
from wassgrid.chain.reductions import dot, ends, largest, shared, span, sums, total, total_variation
from wassgrid.chain.stationary import ReducibleChainError, StationaryError, StationaryResult, starting_law, stationary_law
from wassgrid.entropy import Entropy
from wassgrid.errors import WassgridError
from wassgrid.grid import StateGrid
from wassgrid.grid.skeleton import Skeleton
from wassgrid.policy import ParticlePolicy
from wassgrid.resources import one_blas_thread
from wassgrid.transition.latest import Latest
from wassgrid.transition.model import Expectation, TransitionModel
from wassgrid.transition.operator import MarkovOperator
from wassgrid.transition.together import Together

if TYPE_CHECKING:
    from wassgrid.case import Case

_ROUGHLY = 1e-4  # to which the expected number of steps is found: what it is for takes less
_PROPER = 0.25  # residual of the equation for the expected number of steps from which on a policy is proper
_ROUNDING = 512.0  # units of rounding that the residual of V cannot be told from
_SPARE_ROUNDINGS = 8.0  # of a residual, beside those of its sum
_PUSHES = 4  # products with P for a rough law, from the law of the policy before
_PRODUCTS = 400  # with P in one round of a rough solve
_ROUNDS = 4
_WORTH_CORRECTING = 500  # cells from which a coarse correction pays
_DENSE = 60.0  # operations of dense algebra, for every one of a product, that a coarse correction may take
_THINNED = 16.0  # cells for one of it: its rows take as long as a product or two
_LEAST_COARSE = 128.0
_MOST_COARSE = 1500.0  # cells of one
_LARGEST_VALUE = 1e13  # in units of the cost: a V from which a residual says little


class EvaluationError(WassgridError, ValueError):
    """A value function that could not be computed to the tolerance."""


class ImproperPolicyError(EvaluationError):
    """A policy that does not reach the goal from everywhere."""


@dataclass(frozen=True)
class Evaluation:
    """Hold everything known about one policy.

    | name       | symbol        | shape            |
    |------------|---------------|------------------|
    | law        | mu (d)        | (cells,)         |
    | value      | V             | (cells,)         |
    | residual   | r             | (cells,)         |
    | q          | Q(s_k, a_ki)  | (cells, N)       |
    | q_gradient | grad_a Q      | (cells, N, m)    |
    | q_hessian  | D^2_a Q       | (cells, N, m, m) |

    Average cost: (I - P) V = c - J, mu(V) = 0, Q = c - J + p V. Discounted: V = (I - g P)^{-1} c, Q = c + g p V,
    J = (1 - g) rho V, and `law` is the occupancy d = (1 - g) rho (I - g P)^{-1}. Total cost until the goal: the same with g = 1,
    rows of P that are zero in the goal, no factor 1 - g: `law` is the expected number of visits. V is known up to the residual
    r = c - J + P V - V (discounted: c + g P V - V), in whose range J lies (`bracket`). width: the length of that range that was
    wanted, with a law that is known roughly; None: both to the tolerance of the case. Stage costs that are rates (continuous
    time) stay rates: J is per unit time, and V and Q are those of the chain, the continuous ones divided by the step.
    Where entropy has a price (`Entropy`), c of the equation for V is that of the particles and this price together (`stage`);
    Q and `cost` are those of the particles alone.
    """

    policy: ParticlePolicy
    model: TransitionModel
    chain: Chain
    initial_law: np.ndarray
    mean: np.ndarray
    cost: np.ndarray
    stationary: StationaryResult
    objective: float
    value: np.ndarray
    residual: np.ndarray
    value_iterations: int
    value_method: str
    width: float | None = None
    times: dict[str, float] = field(default_factory=dict)
    steps_left: np.ndarray | None = None  # total cost: expected number of steps to the goal (cells,), roughly
    entropy: Entropy | None = None

    @property
    def law(self) -> np.ndarray:
        return self.stationary.law

    @property
    def discount(self) -> float:
        return self.chain.discount

    @property
    def value_residual(self) -> float:
        """Largest residual of the equation for V."""
        return largest(self.residual)

    @cached_property
    def rounding(self) -> float:
        """The size of a change of Q that is rounding."""
        return 64 * np.finfo(float).eps * (largest(self.value) + self.largest_cost)

    def ready(self) -> Evaluation:
        """Find what loops over some cells ask for, and return this: processes that share the cells find it together."""
        if shared() is not None:
            _ = self.rounding, self.expectation, self.bracket
        return self

    @property
    def recurrent(self) -> bool:
        """Whether J is an average over all time: nothing ends, and nothing is discounted."""
        return self.chain.recurrent

    @property
    def controlled(self) -> np.ndarray | None:
        """Which cells have actions that mean anything, (cells,): those off the goal; None: all."""
        return None if self.model.goal is None else self.model.goal.free

    @property
    def share(self) -> float:
        """What J is of rho V where it is not an average: 1 - g, or 1 for the total cost until the goal."""
        return _share(self.discount)

    @property
    def anchor(self) -> float:
        """J of the equation that the residual belongs to: the objective (average), (1 - g) rho V (discounted), rho V (total)."""
        return self.objective if self.recurrent else self.share * dot(self.initial_law, self.value)

    @cached_property
    def most_steps(self) -> float:
        """Upper end of the expected number of steps to the goal under this policy, from the start law; 1 where none counts.

        W >= 0 with (I - P) W >= 1 - e off the goal: W/(1 - e) is not below the expected number, for any W.
        """
        if self.steps_left is None:
            return 1.0
        free = self.model.goal.free  # type: ignore[union-attr]
        left = np.where(free, np.maximum(self.steps_left, 0.0), 0.0)
        short = largest(np.maximum(1.0 + self.chain.operator.apply(left) - left, 0.0)[free])
        rounded = (2.0 * sum(self.model.nodes) + _SPARE_ROUNDINGS) * np.finfo(float).eps * (1.0 + largest(left))
        excess = short + rounded
        return dot(self.initial_law, left) / (1.0 - excess) if excess < 1.0 else float("inf")

    @cached_property
    def bracket(self) -> tuple[float, float]:
        """The ends of an interval that holds the cost of this policy, whatever V and the law are, rounding included.

        Average: J + min r <= mu c <= J + max r, since mu r = mu c - J. Discounted: d r = J of the exact V less that of this one;
        total likewise, where d has the sum T off the goal, the expected number of steps (`most_steps`).
        """
        low, high = ends(self.residual)
        low, high = low - self.residual_rounding, high + self.residual_rounding
        if self.model.problem.stops:
            # d has less mass where the chain has stopped
            low, high = self.most_steps * min(low, 0.0), self.most_steps * max(high, 0.0)
        return self.anchor + low, self.anchor + high

    @cached_property
    def residual_rounding(self) -> float:
        """How far the residual computed may be from the true one: a row of P sums over some nodes of every axis, of sum one.

        |fl(c + g P V - V) - (c + g P V - V)| <= eps/2 (2 nodes + 8) max(|c| + |J| + 2 |V|): a rounding of the weight and one of
        the sum for every node.
        """
        size = self.largest_cost + abs(self.anchor) + 2.0 * largest(self.value)
        of_entropy = 0.0 if self.entropy is None else self.entropy.rounding(self.policy.weights)
        return (2.0 * sum(self.model.nodes) + _SPARE_ROUNDINGS) * 0.5 * np.finfo(float).eps * size + of_entropy

    @cached_property
    def entropy_cost(self) -> np.ndarray:
        """What the entropy of the policy costs in every cell, eps KL(pi_s | rho), (cells,); zero where it has no price."""
        return np.zeros(self.policy.grid.size) if self.entropy is None else self.entropy.cost(self.policy.weights)

    @property
    def stage(self) -> np.ndarray:
        """The mean cost of a step from every cell, that of entropy included, (cells,)."""
        return _stage(self.policy, self.cost, self.entropy)

    @cached_property
    def entropy_part(self) -> float:
        """What of J is the price of entropy."""
        return dot(self.law, self.entropy_cost)

    @cached_property
    def largest_cost(self) -> float:
        """The largest modulus of a cost of a step, and of what entropy costs there, together."""
        return largest(self.cost) + largest(self.entropy_cost)

    @cached_property
    def first_variation(self) -> np.ndarray:
        """What J changes by with the weights, (cells, N): Q_i, and eps log(w_i/rho_i) where entropy has a price; of mean V."""
        if self.entropy is None:
            return self.q
        variation: np.ndarray = self.q + self.entropy.slope(self.policy.weights) + self.entropy.constant[:, None]
        return variation

    @cached_property
    def cost_scale(self) -> float:
        """The larger of |J| and the standard deviation of the cost under the law: what a gap is measured by.

        For a total cost the sum of the moduli of all costs, in expectation.
        """
        weights = self.policy.weights
        if self.steps_left is not None:
            return dot(self.law, np.einsum("ki,ki->k", weights, np.abs(self.cost)) + np.abs(self.entropy_cost))
        mean = np.einsum("ki,ki->k", weights, self.cost)
        square = np.einsum("ki,ki,ki->k", weights, self.cost, self.cost)
        centre = dot(self.law, mean)
        return max(abs(self.objective), max(dot(self.law, square) - centre * centre, 0.0) ** 0.5)

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        began = time.perf_counter()
        actions = self.policy.actions
        together = Together.of(actions)
        if together.saves:
            q, gradient, hessian = self.action_values(together.cells, together.chosen(actions)[:, None])
            number = together.number
            result = q[:, 0][number], gradient[:, 0][number], hessian[:, 0][number]
        else:
            result = self.action_values(np.arange(self.policy.grid.size), actions)
        self.times["derivatives"] = self.times.get("derivatives", 0.0) + time.perf_counter() - began
        return result

    @cached_property
    def _listed_q(self) -> np.ndarray:
        began = time.perf_counter()
        q = self.q_values(np.arange(self.policy.grid.size), self.policy.actions)
        self.times["derivatives"] = self.times.get("derivatives", 0.0) + time.perf_counter() - began
        return q

    @property
    def at_rest(self) -> bool:
        """Whether actions stay where they are: as values of a list, or as nodes on which entropy is known."""
        return self.model.problem.choices is not None or self.entropy is not None

    @property
    def q(self) -> np.ndarray:
        return self._listed_q if self.at_rest else self._tables[0]

    @property
    def q_gradient(self) -> np.ndarray:
        self._require_derivatives()
        return self._tables[1]

    @property
    def q_hessian(self) -> np.ndarray:
        self._require_derivatives()
        return self._tables[2]

    def _require_derivatives(self) -> None:
        if self.model.problem.choices is not None:
            raise EvaluationError("actions that take values of a list do not move: there are no derivatives along them")
        if self.entropy is not None:
            raise EvaluationError("policy.entropy: actions with a reference law do not move, there are no derivatives along them")

    @property
    def offset(self) -> float:
        """J for the average cost, 0 for others: Q = c - offset + g E V."""
        return self.objective if self.recurrent else 0.0

    @cached_property
    def expectation(self) -> Expectation:
        """E V(s') for any actions."""
        return self.model.expectation(self.value)

    def q_values(self, cells: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Return Q (K, N) at any actions (K, N, m) of chosen cells (K,), with V of this policy; infinite where not defined."""
        result = np.empty(actions.shape[:2])
        for rows in self.model.blocks(*actions.shape[:2]):
            tables = self.model.tables(cells[rows], actions[rows], 0, strict=False)
            expected = self.expectation.values(cells[rows], tables.mean)
            result[rows] = tables.cost - self.offset + self.discount * expected
        return result

    def action_values(self, cells: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return Q, grad_a Q and D^2_a Q at any actions (K, N, m) of chosen cells (K,).

        Q = c - J + E V(s'), and derivatives through the mean of the next state by the chain rule.
        """
        rows_total, particles, m = actions.shape
        q = np.empty((rows_total, particles))
        gradient = np.empty((rows_total, particles, m))
        hessian = np.empty((rows_total, particles, m, m))
        model = self.model
        for rows in model.blocks(rows_total, particles):
            tables = model.tables(cells[rows], actions[rows], 2, strict=False)
            assert tables.cost_gradient is not None and tables.cost_hessian is not None  # order 2 was asked for
            values, gradients, hessians = self.expectation.derivatives(cells[rows], tables)
            q[rows] = tables.cost - self.offset + self.discount * values
            gradient[rows] = tables.cost_gradient + self.discount * gradients
            hessian[rows] = tables.cost_hessian + self.discount * hessians
        return q, gradient, hessian

    def pushed_gradient(self, function: np.ndarray) -> np.ndarray:
        """Return g grad_a E f(s') at every particle, (cells, N, m), for f given on all cells."""
        result = np.empty(self.policy.actions.shape)
        cells = np.arange(self.policy.grid.size)
        model, expectation = self.model, self.model.expectation(function)
        for rows in model.blocks(*self.policy.actions.shape[:2]):
            tables = model.tables(cells[rows], self.policy.actions[rows], 1)
            result[rows] = self.discount * expectation.derivatives(cells[rows], tables)[1]
        return result

    def pushed_law_derivative(self, field: np.ndarray) -> np.ndarray:
        """Return g mu Pdot_v, the signed measure (cells,), for a tangent field v (cells, N, m)."""
        velocity = np.empty(self.mean.shape)
        cells = np.arange(self.policy.grid.size)
        model = self.model
        for rows in model.blocks(*self.policy.actions.shape[:2]):
            tables = model.tables(cells[rows], self.policy.actions[rows], 1)
            assert tables.mean_gradient is not None
            velocity[rows] = np.einsum("kija,kia->kij", tables.mean_gradient, field[rows])
        mass = self.law[:, None] * self.policy.weights
        return self.discount * model.pushed_derivative(self.mean, velocity, mass)


@dataclass(frozen=True)
class Evaluator:
    """Evaluate policies of one problem on one grid, by the methods and to the tolerance of its case."""

    model: TransitionModel
    discount: float
    stationary_method: str = "auto"
    value_method: str = "auto"
    tolerance: float = 1e-12
    entropy: Entropy | None = None

    @classmethod
    def from_case(cls, case: Case, model: TransitionModel | None = None) -> Evaluator:
        problem = case.problem
        model = model or TransitionModel.from_case(case)
        return cls(
            model,
            1.0 if problem.discount is None else problem.discount,
            case.solver.stationary,
            case.solver.evaluation,
            case.solver.tolerance,
            Entropy.of(case, model.grid, model.goal),
        )

    @property
    def initial_law(self) -> np.ndarray:
        """The law rho (cells,) of the initial state, for criteria that depend on it."""
        return self.model.start_law

    @property
    def recurrent(self) -> bool:
        """Whether J is an average over all time."""
        return self.discount == 1.0 and not self.model.problem.stops

    @property
    def total(self) -> bool:
        """Whether J is the total cost until the goal."""
        return self.discount == 1.0 and self.model.problem.stops

    @one_blas_thread()
    def evaluate(
        self,
        policy: ParticlePolicy,
        warm: Evaluation | tuple[np.ndarray, np.ndarray] | None = None,
        width: float | None = None,
    ) -> Evaluation:
        """Evaluate a policy; `warm` is an evaluation of a nearby one, or its law and value, to start the iterations from.

        width: the length of `Evaluation.bracket` that is wanted, in units of J; the law is then known roughly. None, or
        where factors are cheap: law and value to the tolerance. Raises StationaryError or EvaluationError where that could not
        be reached, with the reason.
        """
        began = time.perf_counter()
        policy = self.tidied(policy)
        mean, cost = self.model.means(policy.actions)
        operator = self.model.operator(mean, policy.weights)
        if self.entropy is not None:
            self.entropy.require(policy)
        stage = _stage(policy, cost, self.entropy)
        times = {"assembly": time.perf_counter() - began}
        if width is not None and self.value_method == "auto" and not direct_is_cheap(operator):
            found = self._rough(policy, operator, mean, cost, stage, warm, width, times)
            if found is not None:
                return found
        law, value = (None, None) if warm is None else warm if isinstance(warm, tuple) else (warm.law, warm.value)
        law = starting_law(operator.size) if law is None and self.recurrent else law
        # one for the law and for the value: it need only be near
        correction = self._correction(operator, self.initial_law if law is None else law)
        began = time.perf_counter()
        left = None
        try:
            if self.total:
                stationary, left = self._visits(operator, law, correction)
            elif self.discount < 1.0:
                stationary = self._occupancy(operator, law, correction)
            else:
                stationary = stationary_law(
                    operator, law, method=self.stationary_method, tolerance=self.tolerance, correction=correction
                )
        except (ReducibleChainError, RuntimeError) as error:
            # of SuperLU: a factor that is singular
            self._require_one_class(operator)
            if self.total:
                require_goal(operator, self.model)
            raise StationaryError(f"the stationary law was not found: {error}") from error
        if not stationary.converged:
            self._require_one_class(operator)
            raise StationaryError(f"the stationary law was not found to {self.tolerance:.1g}: {stationary.reason}")
        times["stationary"] = time.perf_counter() - began

        began = time.perf_counter()
        chain = Chain(
            operator, stationary.law, self.discount, self.value_method, self.tolerance, stationary.factors,
            correction,
        )  # fmt: skip
        objective = dot(stationary.law, stage)
        source = stage - objective if self.recurrent else stage
        try:
            solution = chain.right(source, value)
        except RuntimeError as error:
            self._require_one_class(operator)
            raise EvaluationError(f"the value function was not found by factors: {error}") from error
        value = solution.values
        if self.recurrent:
            value = value - dot(stationary.law, value)
        else:
            objective = _share(self.discount) * dot(self.initial_law, value)
        residual = source + self.discount * operator.apply(value) - value
        # of the tolerance, or of rounding in the terms of the residual
        scale, eps = largest(source), np.finfo(float).eps
        allowed = max(self.tolerance * scale, _ROUNDING * eps * (largest(stage) + largest(value)))
        if not largest(residual) <= allowed:
            if self.stationary_method == "auto" and stationary.factors is None and direct_is_possible(operator):
                # a mode too slow for the iterations to see: factors see it
                return replace(self, stationary_method="lu", value_method="lu").evaluate(policy, warm)
            self._require_one_class(operator)
            slow = ""
            if (spread := span(value)) > _LARGEST_VALUE * largest(stage):
                slow = (
                    f". The chain mixes so slowly that V spreads over {spread:.1g}, beyond what numbers can hold: add noise that "
                    'joins its parts, or use criterion.kind = "discounted"'
                )
            raise EvaluationError(
                f"the value function was not found to {self.tolerance:.1g} by {solution.method}: the residual of "
                f"(I - P) V = c - J is {largest(residual):.3g} for costs of size {scale:.3g}{slow}"
            )
        times["evaluation"] = time.perf_counter() - began
        return Evaluation(
            policy, self.model, chain, self.initial_law, mean, cost, stationary, objective, value, residual,
            solution.iterations + 1, solution.method, None, times, left, self.entropy,
        ).ready()  # fmt: skip

    def tidied(self, policy: ParticlePolicy) -> ParticlePolicy:
        """Return the policy that does in cells of the goal what it does next to it.

        There nothing depends on what it does, but between a cell of the goal and one beside it policies are interpolated.
        Values of lists that are not allowed in a cell give way to those that are (`ControlProblem.admitted`).
        """
        goal, policy = self.model.goal, self._admitted(policy)
        if goal is None:
            return policy
        actions, weights = policy.actions[goal.nearest], policy.weights[goal.nearest]
        same = np.array_equal(actions, policy.actions) and np.array_equal(weights, policy.weights)
        if same:
            return policy
        blobs = None if policy.blobs is None else policy.blobs.of(goal.nearest)
        return replace(policy.moved(actions, weights), blobs=blobs)

    def _admitted(self, policy: ParticlePolicy) -> ParticlePolicy:
        """Return the policy with allowed values only: its particles move to them, or their weights where particles stay."""
        problem = self.model.problem
        actions = problem.admitted(policy.grid.states, policy.actions)
        if actions is policy.actions or np.array_equal(actions, policy.actions):
            return policy
        if not policy.categorical:
            return policy.moved(actions)
        cells = np.broadcast_to(np.arange(len(actions))[:, None], policy.weights.shape)
        weights = np.zeros_like(policy.weights)
        np.add.at(weights, (cells, problem.combination_of(actions)), policy.weights)
        return policy.moved(policy.actions, weights)

    def _require_one_class(self, operator: MarkovOperator) -> None:
        """Raise ReducibleChainError where the average cost depends on where one starts, with cells and a remedy."""
        if self.recurrent and operator.nonnegative:
            require_one_class(operator, self.model.grid)

    def _rough(
        self, policy: ParticlePolicy, operator: MarkovOperator, mean: np.ndarray, cost: np.ndarray, stage: np.ndarray,
        warm: Evaluation | tuple[np.ndarray, np.ndarray] | None, width: float, times: dict[str, float],
    ) -> Evaluation | None:  # fmt: skip
        """Evaluate a policy to a bracket of the given width, or return None where the iteration does not get there."""
        g, n = self.discount, operator.size
        if warm is None:
            law, start = starting_law(n), np.zeros(n)
        elif isinstance(warm, tuple):
            law, start = warm[0], warm[1] + (dot(warm[0], stage) if g == 1.0 else 0.0)
        else:
            law, start = warm.law, warm.value + (warm.objective if g == 1.0 else 0.0)
        began = time.perf_counter()
        for _ in range(_PUSHES):
            before, law = law, operator.push(law)
            law = law / total(law) if g == 1.0 else (1.0 - g) * self.initial_law + g * law
        drift = total_variation(law - before)
        reason = f"{_PUSHES} products from the law before"
        stationary = StationaryResult(law, False, _PUSHES, drift, float("nan"), float("nan"), "power", reason)
        times["stationary"] = time.perf_counter() - began
        correction = self._correction(operator, law)
        chain = Chain(operator, law, g, self.value_method, self.tolerance, correction=correction)
        rough = Evaluation(
            policy, self.model, chain, self.initial_law, mean, cost, stationary, 0.0, start, np.full(n, np.inf), 0, "krylov",
            width, times, entropy=self.entropy,
        )  # fmt: skip
        return self.narrowed(rough, width)

    @one_blas_thread()
    def narrowed(self, evaluation: Evaluation, width: float) -> Evaluation | None:
        """Solve on for the V of an evaluation until its bracket has the given width; None where the iteration stalls.

        (I - P + 1 mu) x = c for any law mu:  J = mu x, V = x - J, and the residual is that of the equation for V.
        """
        began = time.perf_counter()
        g, operator, law = evaluation.discount, evaluation.chain.operator, evaluation.law
        stage = evaluation.stage
        x = evaluation.value + evaluation.offset

        def product(x: np.ndarray) -> np.ndarray:
            image = x - g * operator.apply(x)
            return image + dot(law, x) if g == 1.0 else image

        def length(r: np.ndarray) -> float:
            low, high = ends(r)
            return high - low

        products, correction = 0, evaluation.chain.correction
        for _ in range(_ROUNDS):
            residual = stage - product(x)
            products += 1
            if length(residual) <= width:
                break
            correct = None if correction is None else correction.right
            found = krylov.solve(product, x, residual, length, width, _PRODUCTS, correct)
            x, products = found.values, products + found.products
        else:
            return None
        objective = dot(law, x) if g == 1.0 else (1.0 - g) * dot(self.initial_law, x)
        if g == 1.0:
            # mu r is what the cost differs by, to first order in the error of mu
            shift = dot(law, residual)
            value, objective, residual = x - objective, objective + shift, residual - shift
        else:
            value, objective = x, objective + dot(law, residual)
        times = evaluation.times
        spent = times.get("evaluation", 0.0) + time.perf_counter() - began
        return replace(
            evaluation, objective=objective, value=value, residual=residual, width=width,
            value_iterations=evaluation.value_iterations + products, times={**times, "evaluation": spent},
        ).ready()  # fmt: skip

    @one_blas_thread()
    def settled(self, evaluation: Evaluation, width: float | None) -> Evaluation:
        """Return an evaluation with its law to the tolerance and a bracket of the given width; None: its value to the tolerance.

        Then J = mu c is right to the tolerance, whatever the width.
        """
        if width is None or not self.recurrent:
            return self.evaluate(evaluation.policy, evaluation)
        began = time.perf_counter()
        chain = evaluation.chain
        stationary = stationary_law(
            chain.operator, evaluation.law, method=self.stationary_method, tolerance=self.tolerance, correction=chain.correction
        )
        if not stationary.converged:
            raise StationaryError(f"the stationary law was not found to {self.tolerance:.1g}: {stationary.reason}")
        times = {**evaluation.times, "stationary": evaluation.times["stationary"] + time.perf_counter() - began}
        chain = replace(chain, law=stationary.law, known=stationary.factors)
        found = self.narrowed(replace(evaluation, chain=chain, stationary=stationary, times=times), width)
        return replace(found, width=None).ready() if found is not None else self.evaluate(evaluation.policy, evaluation)

    def restored(
        self, policy: ParticlePolicy, law: np.ndarray, value: np.ndarray, objective: float, width: float
    ) -> Evaluation:
        """Return the evaluation that `narrowed` gave, from its law, value and objective."""
        mean, cost = self.model.means(policy.actions)
        operator = self.model.operator(mean, policy.weights)
        stage = _stage(policy, cost, self.entropy)
        stationary = StationaryResult(law, False, 0, float("nan"), float("nan"), float("nan"), "power", "from a checkpoint")
        correction = self._correction(operator, law)
        chain = Chain(operator, law, self.discount, self.value_method, self.tolerance, correction=correction)
        offset = objective if self.discount == 1.0 else 0.0
        residual = stage - offset + self.discount * operator.apply(value) - value
        return Evaluation(
            policy, self.model, chain, self.initial_law, mean, cost, stationary, objective, value, residual, 0, "krylov", width,
            entropy=self.entropy,
        ).ready()

    def settled_law(self, evaluation: Evaluation) -> np.ndarray:
        """Return the law of an evaluation to the tolerance."""
        operator = evaluation.chain.operator
        if not self.recurrent:
            return self._occupancy(operator, evaluation.law, evaluation.chain.correction).law
        return stationary_law(
            operator, evaluation.law, method=self.stationary_method, tolerance=self.tolerance,
            correction=evaluation.chain.correction,
        ).law  # fmt: skip

    @cached_property
    def skeleton(self) -> Skeleton | None:
        """The cells of coarse corrections, where these pay: dense factors must not take longer than some products."""
        grid, slabs = self.model.grid.whole, shared()
        if grid.dimension == 1 or grid.size < _WORTH_CORRECTING:
            return None
        # of one process, as the cells are shared out
        work = self.model.work if slabs is None else float(sums(np.array(self.model.work)))
        most = min((_DENSE * work) ** (1.0 / 3.0), _MOST_COARSE)
        here = None if slabs is None else (slabs.axis, slabs.here)
        return Skeleton.of(grid, min(max(grid.size / _THINNED, _LEAST_COARSE), most), here)

    def _correction(self, operator: MarkovOperator, law: np.ndarray) -> CoarseCorrection | None:
        """Return the coarse correction for the chain of a policy, where one pays; law: with which constants are taken out."""
        if self.skeleton is None:
            return None
        return CoarseCorrection(operator, self.skeleton, law, self.discount, self._latest)

    @cached_property
    def _latest(self) -> Latest:
        """Rows and factors of the correction of one policy."""
        return Latest()

    def _visits(
        self, operator: MarkovOperator, law: np.ndarray | None, correction: CoarseCorrection | None
    ) -> tuple[StationaryResult, np.ndarray]:
        """Solve d = rho (I - P)^{-1}, the expected visits until the goal, and return the expected number of steps (cells,) to it.

        Raises ImproperPolicyError for a policy that does not reach the goal from everywhere.
        """
        assert self.model.goal is not None
        free = self.model.goal.free
        # three solves with one matrix: factors serve all, wherever they fit
        chain = Chain(operator, self.initial_law, 1.0, self.value_method, self.tolerance, correction=correction).repeated
        found = chain.right(free.astype(float), tolerance=_ROUGHLY)
        left = found.values
        # (I - P) W >= 1/2 off the goal for some W >= 0: the policy is proper, and W/2 <= the number of steps <= 2 W
        if not (found.residual <= _PROPER and left.min() >= -_PROPER and np.isfinite(left).all()):
            require_goal(operator, self.model)
            raise EvaluationError(
                f"goal: the expected number of steps to it was not found (residual {found.residual:.2g} by {found.method}, up to "
                f"{largest(left):.2g} steps): the policy hardly ever reaches it from somewhere. Begin with one that does "
                '(policy.initial), add noise, or use criterion.kind = "discounted"'
            )
        chain = replace(chain, known=chain.factors) if found.method == "lu" else chain
        solution = chain.left(self.initial_law, law)
        visits = np.maximum(solution.values, 0.0) if operator.nonnegative else solution.values
        longest, steps = 2.0 * largest(left), dot(self.initial_law, left)
        bound = solution.residual * (1.0 + longest)
        allowed = max(self.tolerance * (1.0 + steps), 1e-13 * (1.0 + longest) ** 2)
        return StationaryResult(
            visits, bound <= allowed, found.iterations + solution.iterations, solution.residual, bound, steps / (1.0 + steps),
            solution.method, f"{solution.method}: residual {solution.residual:.2g}",
            chain.factors if solution.method == "lu" else None,
        ), left  # fmt: skip

    def _occupancy(
        self, operator: MarkovOperator, law: np.ndarray | None, correction: CoarseCorrection | None
    ) -> StationaryResult:
        """Solve d = (1 - g) rho (I - g P)^{-1}; the error is at most the residual divided by 1 - g. Total cost: `_visits`."""
        if self.total:
            return self._visits(operator, law, correction)[0]
        chain = Chain(
            operator, self.initial_law, self.discount, self.value_method, self.tolerance * (1 - self.discount),
            correction=correction,
        )  # fmt: skip
        solution = chain.left((1.0 - self.discount) * self.initial_law, law)
        occupancy = np.maximum(solution.values, 0.0) if operator.nonnegative else solution.values
        bound = solution.residual / (1.0 - self.discount)
        return StationaryResult(
            occupancy, bound <= max(self.tolerance, 1e-13 / (1.0 - self.discount)), solution.iterations, solution.residual,
            bound, self.discount, solution.method, f"{solution.method}: residual {solution.residual:.2g}",
            chain.factors if solution.method == "lu" else None,
        )  # fmt: skip


def require_goal(operator: MarkovOperator, model: TransitionModel) -> None:
    """Raise ImproperPolicyError where cells never reach the goal, with cells and a remedy."""
    assert model.goal is not None
    lost = never_reaching(operator, model.goal.inside)
    if lost.size:
        grid = model.grid
        places = " and at ".join(grid.describe_cell(int(cell)) for cell in lost[[0, -1][: lost.size]])
        raise ImproperPolicyError(
            f"goal: under the policy {lost.size} of {grid.size} cells never reach it, at {places}: their total cost has no end. "
            "Begin with a policy that reaches the goal from everywhere (policy.initial: more spread, a drift towards it), add "
            'noise, take that part out of the domain, or use criterion.kind = "discounted".'
        )


def require_one_class(operator: MarkovOperator, grid: StateGrid) -> None:
    """Raise ReducibleChainError where a chain has several recurrent classes: names cells of two, and the remedy."""
    classes = recurrent_classes(operator)
    if len(classes) > 1:
        places = " and at ".join(grid.describe_cell(int(cells[0])) for cells in classes[:2])
        raise ReducibleChainError(
            f"states: the chain of the policy has {len(classes)} recurrent classes, at {places}: its average cost depends on "
            'where one starts. Add noise that joins them, or use criterion.kind = "discounted".'
        )


def rounding(evaluation: Evaluation) -> float:
    """Return the size of a change of Q that is rounding."""
    return evaluation.rounding


def objective_rounding(evaluation: Evaluation) -> float:
    """Return the size of a change of J that is rounding."""
    size = np.abs(evaluation.cost).mean(axis=1) + np.abs(evaluation.entropy_cost)
    return 1e-11 * max(abs(evaluation.objective), dot(evaluation.law, size))


def _stage(policy: ParticlePolicy, cost: np.ndarray, entropy: Entropy | None) -> np.ndarray:
    """Return the mean cost of a step (cells,) for costs (cells, N) of the particles, that of entropy included."""
    stage: np.ndarray = (policy.weights * cost).sum(axis=1)
    return stage if entropy is None else stage + entropy.cost(policy.weights)


def _share(discount: float) -> float:
    """What J is of rho V where it is not an average."""
    return 1.0 - discount if discount < 1.0 else 1.0
