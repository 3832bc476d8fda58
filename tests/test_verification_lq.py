"""The scalar linear-quadratic regulator on the grid against its Riccati equation and the exact gradient flow."""

from __future__ import annotations

import pytest

from benchmarks import lq_flow
from wassgrid.method.schemes import SCHEMES


@pytest.mark.parametrize("points", [25, 41])
def test_optimum(points):
    result = lq_flow.accuracy(points, "gaussian")
    assert result.converged
    assert result.objective <= 1e-7
    assert result.policy <= 1e-6


def test_linear_interpolation_pays_for_its_diffusion():
    assert 1e-2 < lq_flow.accuracy(41, "linear").objective < 5e-2


@pytest.mark.parametrize("method", SCHEMES)
def test_schemes_follow_the_exact_flow_with_their_order(method):
    errors = lq_flow.flow_errors(method, lq_flow.STEPS[method][:3])
    order = SCHEMES[method].order
    assert lq_flow.slope(errors, "gain") == pytest.approx(order, abs=0.1)
    assert lq_flow.slope(errors, "variance") == pytest.approx(order, abs=0.1)


def test_energy_gap_decays_at_the_exact_rate():
    assert lq_flow.decay_rate(count=80) == pytest.approx(lq_flow.PROBLEM.decay_rate, rel=0.01)
