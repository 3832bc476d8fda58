"""Cost of a product with the Hessian, of its extreme eigenvalues and of a certificate, as multiples of one policy evaluation.

The evaluation is that of the initial policy; it starts from a uniform law and a zero value, and includes Q with its two
derivatives. The first product includes the factorisation of the chain, where one is made; it serves all later products. The
certificate is that of the initial policy, and that of the policy some Newton steps later, near the optimum, where the bound has
to be sharp. Times are seconds of the processor, which a busy machine does not distort; for times of one thread set
NUMBA_NUM_THREADS=1 and OMP_NUM_THREADS=1.

    python benchmarks/second_order_cost.py [CASE...]
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
from wassgrid.certificate import certify
from wassgrid.evaluation import Evaluation, Evaluator
from wassgrid.hessian import Hessian, curvature_range
from wassgrid.policy import ParticlePolicy, initial_policy
from wassgrid.runs.grid_solver import GridSolver

CASES = ("scalar_lq", "scalar_regulator", "torus_regulator", "double_well", "pendulum", "inverted_pendulum")
NEWTON_STEPS = 8


def case_file(name: str) -> Path:
    return Path(__file__).parent.parent / "cases" / f"{name}.toml"


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


def near_the_optimum(case: Case) -> Evaluation:
    """Return the evaluation that some Newton steps with escape lead to."""
    solver = GridSolver.from_case(case)
    state = solver.start()
    for _ in range(NEWTON_STEPS):
        state = solver.advance(state)
    state.evaluation.q_hessian  # noqa: B018 - computed when first asked for
    return state.evaluation


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
    late = near_the_optimum(Case.load(case_file(case.name), ["flow.method=newton", "flow.escape=true", "flow.step=adaptive"]))
    certificates = [seconds(lambda at=at: certify(at)) / evaluation_time for at in (evaluation, late)]
    return (
        case.name,
        " x ".join(map(str, evaluator.model.grid.shape)),
        str(policy.particles),
        f"{evaluation.chain.operator.entries:,}",
        f"{evaluation_time:.3g}",
        f"{first / evaluation_time:.2g}",
        f"{product / evaluation_time:.2g}",
        f"{spectrum / evaluation_time:.3g} ({found.products})",
        *(f"{ratio:.2g}" for ratio in certificates),
    )


def main(names: list[str]) -> None:
    table = Table(title="cost in units of one policy evaluation", title_justify="left")
    for column in ("case", "cells", "particles", "entries of P", "evaluation, s"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for column in ("first product", "later products", "eigenvalues (products)", "certificate", "near optimum"):
        table.add_column(column, justify="right")
    for name in names or CASES:
        table.add_row(*measure(Case.load(case_file(name))))
    Console(width=160).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
