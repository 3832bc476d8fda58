"""Policy evaluation: the objective J, the relative value V, and Q with its derivatives at every particle."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import linalg as sparse_linalg

from wassgrid.policy import ParticlePolicy
from wassgrid.resources import one_blas_thread
from wassgrid.stationary import (
    Factorisation,
    StationaryError,
    StationaryResult,
    direct_is_cheap,
    direct_is_possible,
    stationary_law,
)
from wassgrid.transition.model import TransitionModel
from wassgrid.transition.sparse import TransitionOperator

if TYPE_CHECKING:
    from wassgrid.case import Case

METHODS = ("auto", "iteration", "krylov", "lu")
_RESTART = 60
_BICGSTAB_LIMIT = 400
_ROUNDS = 12  # of iterative refinement


class EvaluationError(ValueError):
    """A value function that could not be computed to the tolerance."""


@dataclass(frozen=True)
class ChainSolution:
    """Report one solve with I - g P: values (cells,), largest residual, products with P or P', method."""

    values: np.ndarray
    residual: float
    iterations: int
    method: str


@dataclass(frozen=True)
class Chain:
    """Solve with the fundamental matrix of a policy's chain, from the right and from the left.

    Average cost: D = (I - P + 1 mu)^{-1} (deviation matrix plus 1 mu). Discounted: D = (I - g P)^{-1}.
    Both solves share one factorisation where that is the cheaper way, and are refined to `tolerance` otherwise. `known`
    gives factors that exist already.
    """

    operator: TransitionOperator
    law: np.ndarray
    discount: float  # 1 for the average cost
    method: str
    tolerance: float
    known: Factorisation | None = None

    @cached_property
    def factors(self) -> Factorisation:
        if self.known is not None:
            return self.known
        if self.discount < 1.0:
            return Factorisation(self.operator, self.discount)
        return Factorisation(self.operator, pinned=int(self.law.argmax()))

    @cached_property
    def direct(self) -> bool:
        return self.method == "lu" or (self.method == "auto" and (self.known is not None or direct_is_cheap(self.operator)))

    @cached_property
    def repeated(self) -> Chain:
        """The same chain for many solves: by factors wherever they fit, though one solve alone would not be worth them."""
        if self.method != "auto" or self.direct or not direct_is_possible(self.operator):
            return self
        return replace(self, method="lu")

    def right(self, function: np.ndarray, guess: np.ndarray | None = None, tolerance: float | None = None) -> ChainSolution:
        """Return D f. The residual is sup |f - (I - g P + 1 mu) x|."""
        return self._solve(function, guess, tolerance, left=False)

    def left(self, measure: np.ndarray, guess: np.ndarray | None = None, tolerance: float | None = None) -> ChainSolution:
        """Return nu D for a signed measure nu. The residual is the total variation of what is left over."""
        return self._solve(measure, guess, tolerance, left=True)

    def _apply(self, x: np.ndarray, left: bool) -> np.ndarray:
        if left:
            result = x - self.discount * self.operator.push(x)
            return result + x.sum() * self.law if self.discount == 1.0 else result
        result = x - self.discount * self.operator.apply(x)
        return result + self.law @ x if self.discount == 1.0 else result

    def _direct(self, right: np.ndarray, left: bool) -> np.ndarray:
        """D f and nu D from the factors, in which one cell is pinned for the average cost."""
        if self.discount < 1.0:
            return self.factors.solve_transposed(right) if left else self.factors.solve(right)
        if left:
            x = self.factors.solve_transposed(right - right.sum() * self.law)
            return x + (right.sum() - x.sum()) * self.law
        x = self.factors.solve(right - self.law @ right)
        return x + (self.law @ right - self.law @ x)

    @one_blas_thread()
    def _solve(
        self, right: np.ndarray, guess: np.ndarray | None, tolerance: float | None, *, left: bool
    ) -> ChainSolution:
        def size(r: np.ndarray) -> float:
            return float(np.abs(r).sum() if left else np.abs(r).max())

        scale = size(right)
        if scale == 0.0:
            return ChainSolution(np.zeros_like(right), 0.0, 0, "none")
        target = (self.tolerance if tolerance is None else tolerance) * scale
        x = np.zeros_like(right) if guess is None else guess.copy()
        residual = right - self._apply(x, left)
        products, method = 1, "none"
        stalled = 0
        for _ in range(_ROUNDS):
            before = size(residual)
            if before <= target or stalled >= 2:
                break
            direct = self.direct or (self.method == "auto" and stalled >= 1 and direct_is_possible(self.operator))
            if direct:
                method = "lu"
                correction = self._direct(residual, left)
            elif self.method == "iteration":
                method = "iteration"
                correction, used = self._iterate(residual, left, target)
                products += used
            else:
                method = "krylov"
                correction, used = self._krylov(residual, left, target, stalled > 0)
                products += used
            trial = x + correction
            trial_residual = right - self._apply(trial, left)
            products += 1
            after = size(trial_residual)
            if after < before:
                x, residual = trial, trial_residual
            stalled = stalled + 1 if not after < 0.5 * before else 0
        return ChainSolution(x, size(residual), products, method)

    def _krylov(self, residual: np.ndarray, left: bool, target: float, stalled: bool) -> tuple[np.ndarray, int]:
        """Solve for a correction by BiCGSTAB (few vectors), by restarted GMRES where that stalled."""
        products = 0

        def apply(x: np.ndarray) -> np.ndarray:
            nonlocal products
            products += 1
            return self._apply(np.asarray(x, dtype=float).ravel(), left)

        n = residual.size
        linear = sparse_linalg.LinearOperator((n, n), matvec=apply, dtype=float)
        # the 2-norm bounds the sup-norm, and the 1-norm up to sqrt(n)
        absolute = target / np.sqrt(n) if left else target
        if not stalled:
            # SciPy takes an inner product below 5e-32 for a breakdown: the system is scaled to size one
            size = float(np.linalg.norm(residual))
            correction, _ = sparse_linalg.bicgstab(
                linear, residual / size, rtol=1e-10, atol=0.5 * absolute / size, maxiter=_BICGSTAB_LIMIT
            )
            if np.isfinite(correction).all():
                return size * correction, products
        correction, _ = sparse_linalg.gmres(
            linear, residual, rtol=1e-10, atol=0.5 * absolute, restart=min(_RESTART, n), maxiter=8
        )
        return correction, products

    def _iterate(self, residual: np.ndarray, left: bool, target: float) -> tuple[np.ndarray, int]:
        """Sum the Neumann series x = sum_k (g P - 1 mu)^k r: relative value iteration, the reference method."""
        x, term = np.zeros_like(residual), residual
        products = 0
        while products < 200_000 and np.abs(term).max() > 1e-3 * target:
            x = x + term
            term = term - self._apply(term, left)
            products += 1
        return x, products


@dataclass(frozen=True)
class Evaluation:
    """Hold everything known about one policy.

    | name       | symbol        | shape            |
    |------------|---------------|------------------|
    | law        | mu (d)        | (cells,)         |
    | value      | V             | (cells,)         |
    | q          | Q(s_k, a_ki)  | (cells, N)       |
    | q_gradient | grad_a Q      | (cells, N, m)    |
    | q_hessian  | D^2_a Q       | (cells, N, m, m) |

    Average cost: (I - P) V = c - J, mu(V) = 0, Q = c - J + p V. Discounted: V = (I - g P)^{-1} c, Q = c + g p V,
    J = (1 - g) rho V, and `law` is the occupancy d = (1 - g) rho (I - g P)^{-1}. Stage costs that are rates (continuous
    time) stay rates: J is per unit time, and V and Q are those of the chain, the continuous ones divided by the step.
    """

    policy: ParticlePolicy
    model: TransitionModel
    chain: Chain
    mean: np.ndarray
    cost: np.ndarray
    stationary: StationaryResult
    objective: float
    value: np.ndarray
    value_residual: float
    value_iterations: int
    value_method: str
    times: dict[str, float] = field(default_factory=dict)

    @property
    def law(self) -> np.ndarray:
        return self.stationary.law

    @property
    def discount(self) -> float:
        return self.chain.discount

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        began = time.perf_counter()
        result = self.action_values(np.arange(self.policy.grid.size), self.policy.actions)
        self.times["derivatives"] = self.times.get("derivatives", 0.0) + time.perf_counter() - began
        return result

    @property
    def q(self) -> np.ndarray:
        return self._tables[0]

    @property
    def q_gradient(self) -> np.ndarray:
        return self._tables[1]

    @property
    def q_hessian(self) -> np.ndarray:
        return self._tables[2]

    @property
    def offset(self) -> float:
        """J for the average cost, 0 for the discounted one: Q = c - offset + g E V."""
        return self.objective if self.discount == 1.0 else 0.0

    def q_values(self, cells: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Return Q at any actions (K, N, m) of chosen cells (K,), (K, N), with V of this policy."""
        result = np.empty(actions.shape[:2])
        for rows in self.model.blocks(*actions.shape[:2]):
            tables = self.model.tables(cells[rows], actions[rows], 0)
            expected = self.model.expected(cells[rows], tables.mean, self.value)
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
            tables = model.tables(cells[rows], actions[rows], 2)
            assert tables.cost_gradient is not None and tables.cost_hessian is not None  # order 2 was asked for
            values, gradients, hessians = model.expected_derivatives(cells[rows], tables, self.value)
            q[rows] = tables.cost - self.offset + self.discount * values
            gradient[rows] = tables.cost_gradient + self.discount * gradients
            hessian[rows] = tables.cost_hessian + self.discount * hessians
        return q, gradient, hessian

    def pushed_gradient(self, function: np.ndarray) -> np.ndarray:
        """Return g grad_a E f(s') at every particle, (cells, N, m), for f given on all cells."""
        result = np.empty(self.policy.actions.shape)
        cells = np.arange(self.policy.grid.size)
        model = self.model
        for rows in model.blocks(*self.policy.actions.shape[:2]):
            tables = model.tables(cells[rows], self.policy.actions[rows], 1)
            result[rows] = self.discount * model.expected_derivatives(cells[rows], tables, function)[1]
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

    @classmethod
    def from_case(cls, case: Case, model: TransitionModel | None = None) -> Evaluator:
        problem = case.problem
        return cls(
            model or TransitionModel.from_case(case),
            1.0 if problem.discount is None else problem.discount,
            case.solver.stationary,
            case.solver.evaluation,
            case.solver.tolerance,
        )

    @cached_property
    def initial_law(self) -> np.ndarray:
        """The law rho of the initial state for the discounted criterion: uniform over the domain, by the trapezoidal rule."""
        grid = self.model.grid
        law = np.ones(grid.shape)
        for k, boundary in enumerate(grid.boundary):
            if boundary != "periodic":
                ends = np.ones(grid.shape[k])
                ends[[0, -1]] = 0.5
                law = law * ends.reshape([-1 if j == k else 1 for j in range(grid.dimension)])
        return (law / law.sum()).ravel()

    @one_blas_thread()
    def evaluate(
        self, policy: ParticlePolicy, warm: Evaluation | tuple[np.ndarray, np.ndarray] | None = None
    ) -> Evaluation:
        """Evaluate a policy; `warm` gives the law and value of a nearby one to start the iterations from.

        Raises StationaryError or EvaluationError where the tolerance could not be reached, with the reason.
        """
        law, value = (None, None) if warm is None else warm if isinstance(warm, tuple) else (warm.law, warm.value)
        began = time.perf_counter()
        mean, cost = self.model.means(policy.actions)
        operator = self.model.operator(mean, policy.weights)
        stage = (policy.weights * cost).sum(axis=1)
        times = {"assembly": time.perf_counter() - began}

        began = time.perf_counter()
        if self.discount < 1.0:
            stationary = self._occupancy(operator, law)
        else:
            stationary = stationary_law(operator, law, method=self.stationary_method, tolerance=self.tolerance)
        if not stationary.converged:
            raise StationaryError(f"the stationary law was not found to {self.tolerance:.1g}: {stationary.reason}")
        times["stationary"] = time.perf_counter() - began

        began = time.perf_counter()
        chain = Chain(operator, stationary.law, self.discount, self.value_method, self.tolerance, stationary.factors)
        objective = float(stationary.law @ stage)
        source = stage - objective if self.discount == 1.0 else stage
        solution = chain.right(source, value)
        value = solution.values
        if self.discount == 1.0:
            value = value - stationary.law @ value
        else:
            objective = float((1.0 - self.discount) * (self.initial_law @ value))
        residual = float(np.abs(source + self.discount * operator.apply(value) - value).max())
        scale = max(float(np.abs(source).max()), np.finfo(float).tiny)
        rounding = 64 * np.finfo(float).eps * float(np.abs(stage).max())  # where c - J is rounding itself
        if not residual <= max(1e4 * self.tolerance, 1e-9) * max(scale, 1e-3 * float(np.abs(value).max())) + rounding:
            raise EvaluationError(
                f"the value function was not found to {self.tolerance:.1g} by {solution.method}: the residual of "
                f"(I - P) V = c - J is {residual:.3g} for costs of size {scale:.3g}"
            )
        times["evaluation"] = time.perf_counter() - began
        return Evaluation(
            policy, self.model, chain, mean, cost, stationary, objective, value, residual, solution.iterations,
            solution.method, times,
        )  # fmt: skip

    def _occupancy(self, operator: TransitionOperator, law: np.ndarray | None) -> StationaryResult:
        """Solve d = (1 - g) rho (I - g P)^{-1}; the error is at most the residual divided by 1 - g."""
        chain = Chain(operator, self.initial_law, self.discount, self.value_method, self.tolerance * (1 - self.discount))
        solution = chain.left((1.0 - self.discount) * self.initial_law, law)
        occupancy = np.maximum(solution.values, 0.0) if not (operator.values < 0).any() else solution.values
        bound = solution.residual / (1.0 - self.discount)
        return StationaryResult(
            occupancy, bound <= max(self.tolerance, 1e-13 / (1.0 - self.discount)), solution.iterations, solution.residual,
            bound, self.discount, solution.method, f"{solution.method}: residual {solution.residual:.2g}",
            chain.factors if solution.method == "lu" else None,
        )  # fmt: skip
