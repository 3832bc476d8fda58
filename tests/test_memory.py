"""What the estimate of memory counts are the arrays that a run holds; `benchmarks/memory.py` measures whole runs."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from wassgrid.case import Case
from wassgrid.evaluation import Evaluator
from wassgrid.grid import StateGrid
from wassgrid.memory import estimate_chains, estimate_memory, require_chains
from wassgrid.policy import initial_policy
from wassgrid.resources import GIB, ResourceError
from wassgrid.transition.latest import Latest
from wassgrid.transition.model import TransitionModel

CASES = Path(__file__).parent.parent / "cases"


def prepared(name: str, *overrides: str):
    case = Case.load(CASES / f"{name}.toml", overrides)
    grid = StateGrid.from_case(case)
    model, policy = TransitionModel.from_case(case, grid), initial_policy(case, grid)
    return case, model, policy, model.operator(model.means(policy.actions)[0], policy.weights)


@pytest.mark.parametrize("particles", [1, 8])
def test_a_law_in_product_form(particles):
    case, model, policy, operator = prepared(
        "inverted_pendulum", f"policy.particles={particles}", "grid.points={theta = 48, omega = 49}"
    )
    kept = sum(array.nbytes for array in operator._stored)
    assert model.product.operator_bytes(model.means(policy.actions)[0]) == kept
    evaluator = Evaluator.from_case(case, model)
    correction = evaluator._correction(operator, np.full(operator.size, 1.0 / operator.size))
    rows, (factors, _) = correction._rows, correction._factors
    tables = sum({id(law): law.bytes for law in (model.product, model.plain_product)}.values())
    if (fixed := model.conditioning) is not None:
        tables += fixed.base.nbytes + fixed.weights.nbytes + 8 * operator.size * fixed.moved.block
    kept = 2 * kept + tables + rows.data.nbytes + rows.indices.nbytes + factors.nbytes
    found = estimate_memory(case, model.grid, model, policy).operator
    assert kept < found < 1.2 * kept


def test_an_assembled_law():
    case, model, policy, operator = prepared("scalar_regulator", "grid.points.s=401")
    law = np.full(operator.size, 1.0 / operator.size)
    operator.push(law)
    _, columns, values = operator._transposed
    kept = 2 * (operator.values.nbytes + operator.columns.nbytes + values.nbytes + columns.nbytes)
    found = estimate_memory(case, model.grid, model, policy)
    assert kept <= 1.05 * found.operator < 1.7 * kept  # with the factors of one
    assert operator.entries == pytest.approx(model.entries(np.arange(401), model.means(policy.actions)[0], policy.weights).sum())


def test_tables_are_kept_for_the_last_owner_alone():
    class Owner:
        pass

    latest, made = Latest(), []

    def make(name: str):
        made.append(name)
        return np.arange(3.0)

    first, second = Owner(), Owner()
    kept = weakref.ref(latest.of(first, "a", lambda: make("first")))
    latest.of(first, "b", lambda: make("beside"))
    assert latest.of(first, "a", lambda: make("again")) is kept()
    assert made == ["first", "beside"]
    latest.of(second, "a", lambda: make("second"))
    gc.collect()
    assert kept() is None
    latest.of(first, "a", lambda: make("first"))
    assert made == ["first", "beside", "second", "first"]


@pytest.mark.parametrize(
    "more", [(), ('neural.metric_solver="kernel"',), ("neural.metric_samples=100", 'neural.precision="float64"')]
)
def test_as_many_chains_as_fit_are_named(more):
    limit = 0.01 if more else 0.1
    case = Case.load(CASES / "coupled_oscillators.toml", ["neural.chains=100_000", f"solver.memory={limit}", *more])
    with pytest.raises(ResourceError, match=r"100,000 chains would need about .* at most [\d,]+ fit") as caught:
        require_chains(case)
    fits = int(str(caught.value).split("at most ")[1].split(" fit")[0].replace(",", ""))
    assert estimate_chains(case, fits) <= limit * GIB < estimate_chains(case, fits + 1)
