"""How fast a chain mixes: its second eigenvalue, and rates seen along the way of other solves."""

from __future__ import annotations

import numpy as np
from scipy.sparse import linalg as sparse_linalg

from wassgrid.chain.fundamental import Factorisation
from wassgrid.chain.probe import probe_function
from wassgrid.chain.reductions import all_cells, dot, everything, largest, shared
from wassgrid.resources import one_blas_thread
from wassgrid.transition.operator import MarkovOperator

_DENSE = 200  # cells up to which all eigenvalues are computed


def observed_rate(operator: MarkovOperator, law: np.ndarray, slow: np.ndarray | None = None) -> float:
    """Estimate |lambda_2| from the decay of a function of mean zero under P; slow: one that is near the slowest mode."""
    function, products = (probe_function(operator.size), 48) if slow is None else (slow, 9)
    norms = []
    for _ in range(products):
        function = function - dot(law, function)
        norms.append(largest(function))
        if norms[-1] == 0.0:
            return 0.0
        function = operator.apply(function / norms[-1])
    return float(min(np.exp(np.mean(np.log(norms[-products // 3 :]))), 1.0 - 1e-16))


@one_blas_thread()
def second_eigenvalue(operator: MarkovOperator, restarts: int = 50) -> float:
    """Return the modulus of the second eigenvalue of P; nan where `restarts` of Arnoldi's method do not find it.

    One for a periodic chain and for one with several recurrent classes.
    """
    n = all_cells(operator.size)
    if n <= _DENSE:
        sizes = np.sort(np.abs(np.linalg.eigvals(operator.matrix().toarray())))
        return float(sizes[-2]) if n > 1 else 0.0

    # ARPACK takes vectors of all cells
    matrix = None if shared() is None else operator.matrix()

    def product(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, dtype=float).ravel()
        return operator.apply(x) if matrix is None else np.asarray(matrix @ x)

    linear = sparse_linalg.LinearOperator((n, n), matvec=product, dtype=float)
    try:
        values = sparse_linalg.eigs(
            linear, k=2, which="LM", v0=everything(1.0 + 0.1 * probe_function(operator.size)), tol=1e-8, maxiter=restarts,
            return_eigenvectors=False,
        )
    except sparse_linalg.ArpackError:
        return float("nan")
    return float(np.abs(values).min())


def direct_rate(operator: MarkovOperator, factors: Factorisation, law: np.ndarray, steps: int = 30) -> float:
    """Estimate |lambda_2| by inverse iteration with I - P on functions of mean zero: the slowest mode.

    The eigenvalue of I - P nearest to zero (after the simple zero) dominates; 1 - |that| is the rate for a slowly
    mixing chain, which is where the figure matters.
    """
    function = probe_function(operator.size)
    function -= dot(law, function)
    gap = 1.0
    for step in range(steps):
        norm = np.sqrt(dot(np.abs(law), function**2))
        if norm == 0:
            return 0.0
        function = function / norm
        solution = factors.solve(function)
        solution -= dot(law, solution)
        inverse = dot(law, function * solution)
        previous, gap = gap, 1.0 / inverse if inverse != 0 else 1.0
        function = solution
        if step >= 8 and abs(gap - previous) <= 1e-6 * abs(gap):
            break
    return float(min(max(abs(1.0 - gap), 0.0), 1.0 - 1e-16))
