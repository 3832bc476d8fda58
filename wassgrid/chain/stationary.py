"""The stationary law of a chain, mu P = mu, and how well it is known."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import linalg as sparse_linalg

from wassgrid.chain import krylov
from wassgrid.chain.classes import recurrent_classes
from wassgrid.chain.coarse import CoarseCorrection
from wassgrid.chain.fundamental import Factorisation, direct_is_cheap, direct_is_possible, direct_products
from wassgrid.chain.probe import probe_function
from wassgrid.chain.reductions import cells_of, ends, everything, likeliest, shared, total, total_variation
from wassgrid.chain.spectrum import direct_rate, observed_rate
from wassgrid.errors import WassgridError
from wassgrid.resources import one_blas_thread
from wassgrid.transition.operator import MarkovOperator

METHODS = ("auto", "power", "krylov", "lu", "arnoldi")
_PROBE = 16  # products after which the rate of power iteration is judged
_PATIENCE = 100.0  # products of power iteration; a Krylov method takes about 100
_DIRECT_PATIENCE = 2.0  # the same in units of a cheap factorisation, which serves the value function too
_KRYLOV_ROUNDS, _KRYLOV_STEPS = 6, 150  # restarts of BiCGSTAB, and its steps (of two products) between them
_SETTLING = 8  # products from a start to a law whose most likely cell is recurrent, as a rule
_ROUNDING = 2e-15  # residuals |mu P - mu|_1 at rounding level
_HELD = 1e-6  # of the largest mass of a cell: the least of the one that is taken out of a factorisation
_NEGATIVE_MASS = 1e-2  # total that the signed weights of the cubic kernel may leave in the law


class StationaryError(WassgridError, ValueError):
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


@one_blas_thread()
def stationary_law(
    operator: MarkovOperator,
    initial: np.ndarray | None = None,
    *,
    method: str = "auto",
    tolerance: float = 1e-12,
    limit: int = 200_000,
    correction: CoarseCorrection | None = None,
) -> StationaryResult:
    """Compute the stationary law by power iteration, sparse LU or Arnoldi iteration, or the one that progress suggests.

    `auto` iterates mu <- mu P from `initial`; when the measured rate says that this would take longer than a direct
    or Krylov method, it changes over. Choices rest on counted operations, never on the clock: results are reproducible.
    `correction`, where there is one, takes the slow modes out of the Krylov method, which then comes first.
    `tolerance` bounds the error |mu - mu*|_1 as estimated (see StationaryResult). `limit` bounds the products.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    n = operator.size
    start = starting_law(n) if initial is None else initial / total(initial)
    if method == "power":
        return _power(operator, start, tolerance, limit, lazy=False)
    if method == "lu":
        return _direct(operator, start, tolerance)
    if method == "arnoldi":
        return _arnoldi(operator, start, tolerance)
    if method == "krylov":
        return _krylov(operator, start, tolerance, correction=correction)
    spent, reasons = 0, list[str]()
    patience = _PATIENCE
    if direct_is_cheap(operator):
        # factors see every mode, and serve the value function too
        with suppress(RuntimeError):
            found = _direct(operator, start, tolerance)
            if found.converged:
                return found
        patience = min(patience, _PROBE + _DIRECT_PATIENCE * direct_products(operator))
    elif correction is not None:
        result = _krylov(operator, start, tolerance, correction=correction)
        if result.converged:
            return result
        start, spent, reasons = _usable(result.law), result.iterations, [result.reason]
    result = _power(operator, start, tolerance, limit, lazy=False, patience=patience)
    if result.converged:
        return replace(result, iterations=spent + result.iterations)
    reasons.append(result.reason)
    spent += result.iterations
    # ARPACK takes vectors of all cells
    attempts: list[Callable[..., StationaryResult]] = [_krylov, _arnoldi] if shared() is None else [_krylov]
    if direct_is_possible(operator):
        attempts.insert(0 if direct_is_cheap(operator) else len(attempts), _direct)
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
    law = 1.0 + 0.1 * probe_function(n)
    return law / total(law)


def settling(operator: MarkovOperator, law: np.ndarray) -> np.ndarray:
    """Return a law some steps later: its most likely cell is recurrent, as a rule."""
    for _ in range(_SETTLING):
        law = operator.push(law)
    return law


def _usable(law: np.ndarray) -> np.ndarray:
    """Return a law to start from, whatever a failed method left behind."""
    law = np.where(np.isfinite(law), np.maximum(law, 0.0), 0.0)
    mass = total(law)
    return law / mass if mass > 0 else np.full(law.size, 1.0 / cells_of(law))


def _power(
    operator: MarkovOperator,
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
        residual = total_variation(following - law)
        law = 0.5 * (law + following) if lazy else following
        mass = total(law)
        if not np.isfinite(mass) or mass <= 0:
            return StationaryResult(law, False, iteration, np.inf, np.inf, rate, "power", "the iteration diverged")
        law /= mass
        residuals.append(residual)
        window = min(16, len(residuals) - 1)
        if residual == 0.0:
            rate = slowest or observed_rate(operator, law)
            return _checked(operator, law, iteration, rate, "power", tolerance, 0.0)
        if window < 4:
            continue
        rate = min((residual / residuals[-1 - window]) ** (1.0 / window), 1.0)
        if residual > 50 * _ROUNDING:
            slowest = rate
        else:
            # a start at rounding level shows no rate
            slowest = slowest or observed_rate(operator, law)
            rate = slowest
        bound = residual * rate / (1 - rate) if rate < 1 else np.inf
        if bound <= tolerance or residual <= _ROUNDING:
            result = _checked(operator, law, iteration, rate, "lazy power" if lazy else "power", tolerance, bound)
            # the mean rate may be one of early iterations: what was reached is measured
            if not result.converged or result.residual <= tolerance or residual <= _ROUNDING:
                return result
        if iteration >= _PROBE and iteration % 8 == 0 and np.isfinite(patience):
            remaining = np.log(tolerance / bound) / np.log(rate) if rate < 1 else np.inf
            if remaining > patience - iteration:
                reason = f"power iteration would need about {remaining + iteration:.3g} products (rate {rate:.9g})"
                return StationaryResult(law, False, iteration, residual, bound, rate, "power", reason)
    reason = f"power iteration stopped after {limit} products at residual {residuals[-1]:.3g} (rate {rate:.9g})"
    return StationaryResult(law, False, limit, residuals[-1], bound, rate, "power", reason)


def _checked(
    operator: MarkovOperator,
    law: np.ndarray,
    iterations: int,
    rate: float,
    method: str,
    tolerance: float,
    bound: float | None = None,
) -> StationaryResult:
    """Normalise a law, measure its residual and refuse negative mass beyond rounding."""
    law = law / total(law)
    negative = -total(np.minimum(law, 0.0))
    if negative > _NEGATIVE_MASS:
        cell = likeliest(-law)
        reason = (
            f"the stationary law has negative mass {-negative:.3g} (most at cell {cell}): the operator is not a Markov matrix; "
            "use the gaussian or linear kernel or a finer grid"
        )
        return StationaryResult(law, False, iterations, np.inf, np.inf, rate, method, reason)
    if method != "power" and operator.nonnegative:
        law = np.maximum(law, 0.0)
        law /= total(law)
    residual = total_variation(operator.push(law) - law)
    if bound is None:
        bound = residual / (1 - rate) if rate < 1 else np.inf
    good = bound <= tolerance or residual <= max(tolerance * (1 - rate), 64 * np.finfo(float).eps)
    reason = f"{method}: |mu P - mu| = {residual:.2g}"
    return StationaryResult(law, bool(good), iterations, residual, bound, rate, method, reason)


def _krylov(
    operator: MarkovOperator,
    law: np.ndarray,
    tolerance: float,
    rate: float | None = None,
    correction: CoarseCorrection | None = None,
) -> StationaryResult:
    """Solve mu (I - P + 1 u) = u with u the given law, by BiCGSTAB; breaks down where the chain mixes slowly."""
    products = 0

    def apply(x: np.ndarray) -> np.ndarray:
        return x - operator.push(x) + total(x) * law

    # the error is the residual over 1 - rate
    wanted = 0.1 * tolerance
    if correction is not None:
        rate = observed_rate(operator, law, correction.slow_function())
    if rate is not None:
        wanted = min(wanted, max(0.5 * tolerance * (1.0 - rate), 4.0 * _ROUNDING))
    mu, before = law, np.inf
    for _ in range(_KRYLOV_ROUNDS):
        residual = law - apply(mu)
        size = total_variation(residual)
        products += 1
        if size <= 2.0 * wanted or size > 0.5 * before:
            break
        correct = None if correction is None else correction.left
        found = krylov.solve(apply, mu, residual, total_variation, wanted, 2 * _KRYLOV_STEPS, correct)
        mu, before, products = found.values, size, products + found.products
    polish = 4
    for _ in range(polish):
        following = operator.push(mu)
        mu = following / total(following)
    if rate is None:
        rate = observed_rate(operator, mu)
    return _checked(operator, mu, products + polish, rate, "krylov", tolerance)


def _direct(
    operator: MarkovOperator, law: np.ndarray, tolerance: float, rate: float | None = None
) -> StationaryResult:
    """Solve for mu by sparse LU with the most likely cell taken out, then inverse iteration for |lambda_2|."""
    law = settling(operator, law)
    pinned = likeliest(law)
    try:
        factors = Factorisation(operator, pinned=pinned)
    except RuntimeError as error:
        # the cell is transient, and the only recurrent class is closed without it; or there is more than one
        classes = recurrent_classes(operator)
        if len(classes) > 1:
            message = f"the chain has {len(classes)} recurrent classes: its stationary law is not unique"
            raise ReducibleChainError(message) from error
        pinned = int(classes[0][everything(law)[classes[0]].argmax()])
        factors = Factorisation(operator, pinned=pinned)
    mu = factors.null_law()
    if everything(mu)[pinned] < _HELD * ends(mu)[1]:
        # its equation, which is left out, would be off by the rounding of all others over its mass
        factors = Factorisation(operator, pinned=likeliest(mu))
        mu = factors.null_law()
    del rate  # the error of a direct solve depends on the eigenvalue of I - P next to zero, which inverse iteration knows better
    found = _checked(operator, mu, _SETTLING, direct_rate(operator, factors, mu), "lu", tolerance)
    return replace(found, factors=factors)


def _arnoldi(
    operator: MarkovOperator, law: np.ndarray, tolerance: float, rate: float | None = None
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
    if operator.nonnegative:
        mu = np.abs(mu)
    for _ in range(4):
        mu = operator.push(mu / mu.sum())
    return _checked(operator, mu, products + 4, rate, "arnoldi", tolerance)
