"""The stationary law of a chain, mu P = mu, its mixing rate, and the recurrent classes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.sparse import linalg as sparse_linalg

from wassgrid.resources import one_blas_thread
from wassgrid.transition.sparse import TransitionOperator

METHODS = ("auto", "power", "krylov", "lu", "arnoldi")
_EDGE = 1e-14  # transition probabilities below are rounding
_PROBE = 64  # products after which the rate of power iteration is judged
_PATIENCE = 800.0  # products of power iteration; a Krylov method takes some 400, each at most twice as expensive
_DIRECT_PATIENCE = 2.0  # the same in units of a cheap factorisation, which serves the value function too
_KRYLOV_ROUNDS, _KRYLOV_STEPS = 6, 150  # restarts of BiCGSTAB, and its steps (of two products) between them
_ROUNDING = 2e-15  # residuals |mu P - mu|_1 at rounding level
_DIRECT_COST = 400.0  # products that one factorisation of a narrow matrix may cost
_DENSE = 200  # cells up to which all eigenvalues are computed
_NEGATIVE_MASS = 1e-2  # total that the signed weights of the cubic kernel may leave in the law


class StationaryError(ValueError):
    """A stationary law that does not exist, is not unique, or could not be computed to the tolerance."""


class ReducibleChainError(StationaryError):
    """More than one recurrent class: the average cost depends on where one starts."""


@dataclass(frozen=True)
class StationaryResult:
    """Report a stationary law and how well it is known.

    law (cells,), nonnegative, sums to one; residual = |mu P - mu|_1; error_bound estimates |mu - mu*|_1 from the
    residual and the rate r = |lambda_2|: residual r/(1 - r); iterations counts products with P; factors, where the law came
    from them, serve the value function too.
    """

    law: np.ndarray
    converged: bool
    iterations: int
    residual: float
    error_bound: float
    rate: float
    method: str
    reason: str
    factors: Factorisation | None = None


def recurrent_classes(operator: TransitionOperator) -> list[np.ndarray]:
    """Return the cells of every recurrent class: strongly connected, with no edge that leaves.

    Edges with probability below rounding do not count.
    """
    matrix = operator.matrix()
    # a copy: what follows works in place, and the matrix shares its memory with the operator
    edges = sparse.csr_array(
        (matrix.data > _EDGE, matrix.indices, matrix.indptr), shape=matrix.shape, dtype=np.int8, copy=True
    )
    edges.eliminate_zeros()
    count, label = csgraph.connected_components(edges, directed=True, connection="strong")
    source = np.repeat(label, np.diff(edges.indptr))
    open_classes = np.unique(source[source != label[edges.indices]])
    closed = np.setdiff1d(np.arange(count), open_classes)
    order = np.argsort(label, kind="stable")
    bounds = np.searchsorted(label[order], closed, side="left"), np.searchsorted(label[order], closed, side="right")
    return [order[low:high] for low, high in zip(*bounds, strict=True)]


def period(operator: TransitionOperator, cells: np.ndarray) -> int:
    """Return the period of one recurrent class: the gcd of its cycle lengths, by breadth-first levels."""
    matrix = operator.matrix()[cells][:, cells]
    matrix.data = np.where(matrix.data > _EDGE, 1.0, 0.0)
    matrix.eliminate_zeros()
    order, parents = csgraph.breadth_first_order(matrix, 0, directed=True)
    level = np.zeros(cells.size, np.int64)
    for node in order[1:]:
        level[node] = level[parents[node]] + 1
    source = np.repeat(np.arange(cells.size), np.diff(matrix.indptr))
    return int(np.gcd.reduce(np.abs(level[source] + 1 - level[matrix.indices]))) or 1


@one_blas_thread()
def stationary_law(
    operator: TransitionOperator,
    initial: np.ndarray | None = None,
    *,
    method: str = "auto",
    tolerance: float = 1e-12,
    limit: int = 200_000,
) -> StationaryResult:
    """Compute the stationary law by power iteration, sparse LU or Arnoldi iteration, or the one that progress suggests.

    `auto` iterates mu <- mu P from `initial`; when the measured rate says that this would take longer than a direct
    or Krylov method, it changes over. Choices rest on counted operations, never on the clock: results are reproducible.
    `tolerance` bounds the error |mu - mu*|_1 as estimated (see StationaryResult). `limit` bounds the products.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    n = operator.size
    start = starting_law(n) if initial is None else initial / initial.sum()
    if method == "power":
        return _power(operator, start, tolerance, limit, lazy=False)
    if method == "lu":
        return _direct(operator, start, tolerance)
    if method == "arnoldi":
        return _arnoldi(operator, start, tolerance)
    if method == "krylov":
        return _krylov(operator, start, tolerance)
    patience = _PATIENCE
    if direct_is_cheap(operator):
        patience = min(patience, _PROBE + _DIRECT_PATIENCE * _direct_products(operator))
    result = _power(operator, start, tolerance, limit, lazy=False, patience=patience)
    if result.converged:
        return result
    reasons, spent = [result.reason], result.iterations
    attempts = [_krylov, _arnoldi]
    if direct_is_possible(operator):
        attempts.insert(0 if direct_is_cheap(operator) else 2, _direct)
    for attempt in attempts:
        try:
            better = attempt(operator, _usable(result.law), tolerance, result.rate)
        except (RuntimeError, sparse_linalg.ArpackError, MemoryError) as error:
            reasons.append(f"{attempt.__name__[1:]}: {error}")
            continue
        spent += better.iterations
        reasons.append(better.reason)
        if better.converged:
            return replace(better, iterations=spent)
        if better.residual < result.residual:
            result = better
    last = _power(operator, _usable(result.law), tolerance, limit, lazy=True)
    reasons.append(last.reason)
    best = last if last.converged or last.residual < result.residual else result
    return replace(best, iterations=spent + last.iterations, reason=best.reason if best.converged else "; ".join(reasons))


def starting_law(n: int) -> np.ndarray:
    """Return a law close to the uniform one and without symmetry, so that every mode of a chain shows in its decay."""
    law = 1.0 + 0.1 * _probe(n)
    return law / law.sum()


def _probe(n: int) -> np.ndarray:
    """Return a fixed function without symmetry, smooth along the first axis, where slow modes are, and rough along all."""
    cells = np.arange(n)
    ramp = cells / n
    probe: np.ndarray = ramp + ramp**2 + np.cos(cells * 2.399963)
    return probe


def _usable(law: np.ndarray) -> np.ndarray:
    """Return a law to start from, whatever a failed method left behind."""
    law = np.where(np.isfinite(law), np.maximum(law, 0.0), 0.0)
    total = law.sum()
    return law / total if total > 0 else np.full(law.size, 1.0 / law.size)


def direct_is_cheap(operator: TransitionOperator) -> bool:
    """Tell whether sparse LU is likely to beat some thousand products: narrow bands, few entries or small matrices."""
    return _direct_products(operator) <= _DIRECT_COST


def direct_is_possible(operator: TransitionOperator) -> bool:
    """Tell whether the factors surely fit in a few GiB, filled completely in the worst case."""
    return operator.size <= 12_000 or direct_is_cheap(operator)


def _direct_products(operator: TransitionOperator) -> float:
    """Estimate the cost of an LU in products with P: n b^2 operations for bandwidth b after natural ordering."""
    n = operator.size
    band = min(operator.bandwidth, float(n), 6.0 * np.sqrt(n) * np.sqrt(operator.entries / n))
    return n * band * band / max(operator.entries, 1)


def _power(
    operator: TransitionOperator,
    law: np.ndarray,
    tolerance: float,
    limit: int,
    *,
    lazy: bool,
    patience: float = np.inf,
) -> StationaryResult:
    """Iterate mu <- mu P (or mu (P + I)/2: lazy, which cures a period) and stop on the estimated error.

    The rate r is the geometric mean of the residual's decrease over the last iterations; the error bound is
    residual r/(1 - r). Gives up early when the predicted number of products exceeds `patience`.
    """
    residuals: list[float] = []
    rate = 1.0
    slowest = 0.0  # rate seen before the residual reached rounding
    bound = np.inf
    for iteration in range(1, limit + 1):
        following = operator.push(law)
        residual = float(np.abs(following - law).sum())
        law = 0.5 * (law + following) if lazy else following
        total = law.sum()
        if not np.isfinite(total) or total <= 0:
            return StationaryResult(law, False, iteration, np.inf, np.inf, rate, "power", "the iteration diverged")
        law /= total
        residuals.append(residual)
        window = min(16, len(residuals) - 1)
        if residual == 0.0:
            rate = slowest or _observed_rate(operator, law)
            return _checked(operator, law, iteration, rate, "power", tolerance, 0.0)
        if window < 4:
            continue
        rate = min((residual / residuals[-1 - window]) ** (1.0 / window), 1.0)
        if residual > 50 * _ROUNDING:
            slowest = rate
        else:
            # a start at rounding level shows no rate
            slowest = slowest or _observed_rate(operator, law)
            rate = slowest
        bound = residual * rate / (1 - rate) if rate < 1 else np.inf
        if bound <= tolerance or residual <= _ROUNDING:
            return _checked(operator, law, iteration, rate, "lazy power" if lazy else "power", tolerance, bound)
        if iteration >= _PROBE and iteration % 16 == 0 and np.isfinite(patience):
            remaining = np.log(tolerance / bound) / np.log(rate) if rate < 1 else np.inf
            if remaining > patience - iteration:
                reason = f"power iteration would need about {remaining + iteration:.3g} products (rate {rate:.9g})"
                return StationaryResult(law, False, iteration, residual, bound, rate, "power", reason)
    reason = f"power iteration stopped after {limit} products at residual {residuals[-1]:.3g} (rate {rate:.9g})"
    return StationaryResult(law, False, limit, residuals[-1], bound, rate, "power", reason)


def _checked(
    operator: TransitionOperator,
    law: np.ndarray,
    iterations: int,
    rate: float,
    method: str,
    tolerance: float,
    bound: float | None = None,
) -> StationaryResult:
    """Normalise a law, measure its residual and refuse negative mass beyond rounding."""
    law = law / law.sum()
    negative = float(-law[law < 0].sum())
    if negative > _NEGATIVE_MASS:
        cell = int(law.argmin())
        reason = (
            f"the stationary law has negative mass {-negative:.3g} (most at cell {cell}): the operator is not a Markov matrix; "
            "use the gaussian or linear kernel or a finer grid"
        )
        return StationaryResult(law, False, iterations, np.inf, np.inf, rate, method, reason)
    if method != "power" and not (operator.values < 0).any():
        law = np.maximum(law, 0.0)
        law /= law.sum()
    residual = float(np.abs(operator.push(law) - law).sum())
    if bound is None:
        bound = residual / (1 - rate) if rate < 1 else np.inf
    good = bound <= tolerance or residual <= max(tolerance * (1 - rate), 64 * np.finfo(float).eps)
    reason = f"{method}: |mu P - mu| = {residual:.2g}"
    return StationaryResult(law, bool(good), iterations, residual, bound, rate, method, reason)


class Factorisation:
    """Factorise I - g P once for solves with it and with its transpose.

    With g = 1 the matrix is singular; one recurrent cell r is taken out (its value and its mass are then known), and
    what is left is a nonsingular M-matrix, factorised without pivoting: stable, and sparse in a symmetric ordering.
    """

    def __init__(self, operator: TransitionOperator, discount: float = 1.0, pinned: int | None = None) -> None:
        n = operator.size
        matrix = sparse.csc_array(sparse.eye_array(n, format="csr") - discount * operator.matrix())
        self.keep = np.ones(n, bool)
        if discount == 1.0:
            if pinned is None:
                raise ValueError("an average-cost factorisation needs the cell to be pinned")
            self.keep[pinned] = False
            index = np.flatnonzero(self.keep)
            self.row = matrix[[pinned], :][:, index].toarray()[0]
            matrix = sparse.csc_array(matrix[index][:, index])
        self.pinned = pinned
        matrix.sort_indices()
        matrix.indices = matrix.indices.astype(np.int32)
        matrix.indptr = matrix.indptr.astype(np.int32)
        self.factors = sparse_linalg.splu(
            matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )

    def solve(self, right: np.ndarray) -> np.ndarray:
        """Solve (I - g P) x = right; for g = 1 with x = 0 at the pinned cell, whose equation is left out."""
        x = np.zeros(right.size)
        x[self.keep] = self.factors.solve(right[self.keep])
        return x

    def solve_transposed(self, right: np.ndarray) -> np.ndarray:
        """Solve x (I - g P) = right; for g = 1 with x = 0 at the pinned cell, whose equation is left out."""
        x = np.zeros(right.size)
        x[self.keep] = self.factors.solve(right[self.keep], trans="T")
        return x

    def null_law(self) -> np.ndarray:
        """Return the law with mu (I - P) = 0 from mu_r = 1: the expected visits between returns to the pinned cell."""
        law = np.zeros(self.keep.size)
        law[self.keep] = self.factors.solve(-self.row, trans="T")
        law[self.pinned] = 1.0
        return law / law.sum()


def _krylov(
    operator: TransitionOperator, law: np.ndarray, tolerance: float, rate: float | None = None
) -> StationaryResult:
    """Solve mu (I - P + 1 u) = u with u the given law, by BiCGSTAB; breaks down where the chain mixes slowly."""
    n = operator.size
    products = 0

    def apply(x: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        x = np.asarray(x, dtype=float).ravel()
        return x - operator.push(x) + x.sum() * law

    linear = sparse_linalg.LinearOperator((n, n), matvec=apply, dtype=float)
    mu, before = law, np.inf
    for _ in range(_KRYLOV_ROUNDS):
        residual = law - apply(mu)
        size = float(np.abs(residual).sum())
        if size <= tolerance * 1e-2 or size > 0.5 * before:
            break
        # SciPy takes an inner product below 5e-32 for a breakdown: the system is scaled to size one
        correction, _ = sparse_linalg.bicgstab(linear, residual / size, rtol=1e-8, atol=0.0, maxiter=_KRYLOV_STEPS)
        if not np.isfinite(correction).all():
            break
        mu, before = mu + size * correction, size
    polish = 8
    for _ in range(polish):
        following = operator.push(mu)
        mu = following / following.sum()
    if rate is None:
        rate = _observed_rate(operator, mu)
    return _checked(operator, mu, products + polish, rate, "krylov", tolerance)


def _observed_rate(operator: TransitionOperator, law: np.ndarray, products: int = 48) -> float:
    """Estimate |lambda_2| from the decay of a function of mean zero under P."""
    function = _probe(operator.size)
    norms = []
    for _ in range(products):
        function = function - law @ function
        norms.append(float(np.abs(function).max()))
        if norms[-1] == 0.0:
            return 0.0
        function = operator.apply(function / norms[-1])
    return float(min(np.exp(np.mean(np.log(norms[-16:]))), 1.0 - 1e-16))


@one_blas_thread()
def second_eigenvalue(operator: TransitionOperator, restarts: int = 50) -> float:
    """Return the modulus of the second eigenvalue of P; nan where `restarts` of Arnoldi's method do not find it.

    One for a periodic chain and for one with several recurrent classes.
    """
    n = operator.size
    if n <= _DENSE:
        sizes = np.sort(np.abs(np.linalg.eigvals(operator.matrix().toarray())))
        return float(sizes[-2]) if n > 1 else 0.0

    def product(x: np.ndarray) -> np.ndarray:
        return operator.apply(np.asarray(x, dtype=float).ravel())

    linear = sparse_linalg.LinearOperator((n, n), matvec=product, dtype=float)
    try:
        values = sparse_linalg.eigs(
            linear, k=2, which="LM", v0=1.0 + 0.1 * _probe(n), tol=1e-8, maxiter=restarts, return_eigenvectors=False
        )
    except sparse_linalg.ArpackError:
        return float("nan")
    return float(np.abs(values).min())


def _direct(
    operator: TransitionOperator, law: np.ndarray, tolerance: float, rate: float | None = None
) -> StationaryResult:
    """Solve for mu by sparse LU with the most likely cell taken out, then inverse iteration for |lambda_2|."""
    for _ in range(8):
        law = operator.push(law)
    pinned = int(law.argmax())
    try:
        factors = Factorisation(operator, pinned=pinned)
    except RuntimeError as error:
        # the cell is transient, and the only recurrent class is closed without it; or there is more than one
        classes = recurrent_classes(operator)
        if len(classes) > 1:
            message = f"the chain has {len(classes)} recurrent classes: its stationary law is not unique"
            raise ReducibleChainError(message) from error
        pinned = int(classes[0][law[classes[0]].argmax()])
        factors = Factorisation(operator, pinned=pinned)
    mu = factors.null_law()
    del rate  # the error of a direct solve depends on the eigenvalue of I - P next to zero, which inverse iteration knows better
    found = _checked(operator, mu, 8, direct_rate(operator, factors, mu), "lu", tolerance)
    return replace(found, factors=factors)


def direct_rate(operator: TransitionOperator, factors: Factorisation, law: np.ndarray, steps: int = 30) -> float:
    """Estimate |lambda_2| by inverse iteration with I - P on functions of mean zero: the slowest mode.

    The eigenvalue of I - P nearest to zero (after the simple zero) dominates; 1 - |that| is the rate for a slowly
    mixing chain, which is where the figure matters.
    """
    function = _probe(operator.size)
    function -= law @ function
    gap = 1.0
    for step in range(steps):
        norm = np.sqrt(np.abs(law) @ function**2)
        if norm == 0:
            return 0.0
        function = function / norm
        solution = factors.solve(function)
        solution -= law @ solution
        inverse = law @ (function * solution)
        previous, gap = gap, 1.0 / inverse if inverse != 0 else 1.0
        function = solution
        if step >= 8 and abs(gap - previous) <= 1e-6 * abs(gap):
            break
    return float(min(max(abs(1.0 - gap), 0.0), 1.0 - 1e-16))


def _arnoldi(
    operator: TransitionOperator, law: np.ndarray, tolerance: float, rate: float | None = None
) -> StationaryResult:
    """Compute the two leading eigenvalues of mu -> mu P by implicitly restarted Arnoldi iteration (ARPACK)."""
    n = operator.size
    if n < 8:
        matrix = operator.matrix().toarray().T
        values, vectors = np.linalg.eig(matrix)
        products = 0
    else:
        calls = 0

        def product(x: np.ndarray) -> np.ndarray:
            nonlocal calls
            calls += 1
            return operator.push(np.asarray(x, dtype=float).ravel())

        linear = sparse_linalg.LinearOperator((n, n), matvec=product, dtype=float)
        values, vectors = sparse_linalg.eigs(linear, k=2, which="LR", v0=law, tol=0.0, ncv=min(n - 1, 40), maxiter=3000)
        products = calls
    first = int(np.argmin(np.abs(values - 1.0)))
    mu = np.real(vectors[:, first])
    rate = float(min(np.sort(np.abs(values))[-2], 1.0 - 1e-16))
    mu = mu / mu.sum()
    if not (operator.values < 0).any():
        mu = np.abs(mu)
    for _ in range(4):
        mu = operator.push(mu / mu.sum())
    return _checked(operator, mu, products + 4, rate, "arnoldi", tolerance)
