"""Cost of one product with the Hessian, and of its extreme eigenvalues, as multiples of one policy evaluation.

The evaluation starts from a uniform law and a zero value, and includes Q with its two derivatives. The first product includes
the factorisation of the chain, where one is made; it serves all later products. Times are seconds of the processor, which a busy
machine does not distort; for times of one thread set NUMBA_NUM_THREADS=1 and OMP_NUM_THREADS=1.

    python benchmarks/hessian_cost.py [CASE...]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from wassgrid.case import Case
from wassgrid.evaluation import Evaluation, Evaluator
from wassgrid.hessian import Hessian, curvature_range
from wassgrid.policy import ParticlePolicy, initial_policy

CASES = ("scalar_lq", "scalar_regulator", "torus_regulator", "double_well", "pendulum", "inverted_pendulum")


def seconds(action: Callable[[], Any], repeats: int = 3) -> float:
    """Return the least processor time of some calls."""
    spent = []
    for _ in range(repeats):
        began = time.process_time()
        action()
        spent.append(time.process_time() - began)
    return min(spent)


def evaluate(evaluator: Evaluator, policy: ParticlePolicy) -> Evaluation:
    evaluation = evaluator.evaluate(policy)
    evaluation.q_hessian  # noqa: B018 - computed when first asked for
    return evaluation


def measure(case: Case) -> tuple[str, ...]:
    evaluator = Evaluator.from_case(case)
    policy = initial_policy(case, evaluator.model.grid)
    field = np.random.default_rng(0).standard_normal(policy.actions.shape)
    # once for the compiler
    Hessian(evaluate(evaluator, policy)).apply(field)
    evaluation_time = seconds(lambda: evaluate(evaluator, policy))
    evaluation = evaluate(evaluator, policy)
    first = seconds(lambda: Hessian(evaluation).apply(field), repeats=1)
    product = seconds(lambda: Hessian(evaluation).apply(field))
    began = time.process_time()
    found = curvature_range(Hessian(evaluation))
    spectrum = time.process_time() - began
    return (
        case.name,
        " x ".join(map(str, evaluator.model.grid.shape)),
        str(policy.particles),
        f"{evaluation.chain.operator.entries:,}",
        f"{evaluation_time:.3g}",
        f"{first / evaluation_time:.2g}",
        f"{product / evaluation_time:.2g}",
        f"{spectrum / evaluation_time:.3g} ({found.products})",
    )


def main(names: list[str]) -> None:
    table = Table(title="cost in units of one policy evaluation", title_justify="left")
    for column in ("case", "cells", "particles", "entries of P", "evaluation, s"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for column in ("first product", "later products", "both eigenvalues (products)"):
        table.add_column(column, justify="right")
    folder = Path(__file__).parent.parent / "cases"
    for name in names or CASES:
        table.add_row(*measure(Case.load(folder / f"{name}.toml")))
    Console(width=140).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
