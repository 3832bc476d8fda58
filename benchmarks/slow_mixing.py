"""The stationary law of a metastable double well: every method against the Grassmann-Taksar-Heyman algorithm.

The policy is the random initial one of `cases/double_well.toml`, so that neither well is favoured by symmetry. Plain power
iteration is started in the right well; the products it would need follow from the second eigenvalue.

    python benchmarks/slow_mixing.py
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from wassgrid.case import Case
from wassgrid.chain.stationary import stationary_law
from wassgrid.evaluation import Evaluator
from wassgrid.policy import initial_policy
from wassgrid.problem.exact import grassmann_taksar_heyman
from wassgrid.transition.sparse import TransitionOperator

CASE = Path(__file__).parent.parent / "cases" / "double_well.toml"


def metastable_chain(noise: float = 0.3) -> tuple[TransitionOperator, np.ndarray]:
    """Return the transition operator of the initial policy and the law that is uniform on the right well."""
    evaluator = Evaluator.from_case(Case.load(CASE, [f"parameters.sigma={noise}"]))
    grid = evaluator.model.grid
    policy = initial_policy(Case.load(CASE), grid)
    mean, _ = evaluator.model.means(policy.actions)
    right = (grid.states[:, 0] > 0).astype(float)
    return evaluator.model.operator(mean, policy.weights), right / right.sum()


@dataclass(frozen=True)
class LawErrors:
    """One computed law beside the reference."""

    total_variation: float  # sum |mu - mu*|
    relative: float  # largest |mu / mu* - 1|
    iterations: int
    seconds: float
    method: str
    converged: bool


def law_errors(operator: TransitionOperator, start: np.ndarray, reference: np.ndarray, **options) -> LawErrors:
    """Compute the law by one method and compare."""
    began = time.perf_counter()
    result = stationary_law(operator, start, **options)
    seconds = time.perf_counter() - began
    return LawErrors(
        float(np.abs(result.law - reference).sum()),
        float(np.abs(result.law / reference - 1).max()),
        result.iterations,
        seconds,
        result.method,
        result.converged,
    )


def second_eigenvalue(operator: TransitionOperator) -> float:
    """Return |lambda_2| from the dense spectrum."""
    return float(np.sort(np.abs(np.linalg.eigvals(operator.matrix().toarray())))[-2])


def main() -> None:
    """Print the table."""
    operator, start = metastable_chain()
    reference = grassmann_taksar_heyman(operator.matrix().toarray())
    rate = second_eigenvalue(operator)
    limit = 100_000
    table = Table("method", "converged", "|mu - mu*|_1", "largest relative error", "products", "seconds")
    runs = [{"method": "auto"}, {"method": "lu"}, {"method": "arnoldi"}, {"method": "power", "limit": limit}]
    for options in runs:
        row = law_errors(operator, start, reference, **options)
        name = options["method"] if row.method == options["method"] else f"{options['method']}: {row.method}"
        table.add_row(
            name,
            str(row.converged),
            f"{row.total_variation:.1e}",
            f"{row.relative:.1e}",
            str(row.iterations),
            f"{row.seconds:.3f}",
        )
        seconds = row.seconds
    console = Console()
    console.print(table)
    # the error of power iteration falls by |lambda_2| with every product
    needed = math.log(np.abs(start - reference).sum() / 1e-8) / -math.log(rate)
    console.print(f"|lambda_2| = 1 - {1 - rate:.3e}")
    console.print(
        f"plain power iteration would need {needed:,.0f} products for 1e-8, about {needed / limit * seconds:.0f} s here"
    )


if __name__ == "__main__":
    main()
