"""Measured orders of the kernels and of the time step, on problems with known answers; aligned grids against simulation."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import aligned_grids, kernel_order
from wassgrid.case import Case
from wassgrid.evaluation import Evaluator
from wassgrid.policy import ParticlePolicy
from wassgrid.problem.exact import Manufactured, OscillatorRing

QUANTITIES = ("objective", "value", "gradient")
PENDULUM = Manufactured.pendulum()


@pytest.mark.parametrize(
    ("problem", "kernel", "grids", "order"),
    [
        (Manufactured.circle(), {"x": "linear"}, [{"x": n} for n in (64, 128, 256)], 2),
        (
            PENDULUM,
            {"theta": "cubic", "omega": "gaussian"},
            [{"theta": n, "omega": 61} for n in (48, 64, 96)],
            4,
        ),
    ],
    ids=["linear, order 2", "cubic, order 4"],
)
def test_kernel_order(problem, kernel, grids, order):
    errors = [kernel_order.manufactured_errors(problem, points, kernel) for points in grids]
    for quantity in QUANTITIES:
        spacings = np.log([error.spacing for error in errors])
        sizes = np.log([getattr(error, quantity) for error in errors])
        assert np.polyfit(spacings, sizes, 1)[0] == pytest.approx(order, abs=0.1), quantity


@pytest.mark.parametrize(
    ("problem", "kernel", "points", "bound"),
    [
        (Manufactured.circle(), {"x": "gaussian"}, {"x": 28}, 1e-12),
        (Manufactured.pendulum(0.2), {"theta": "gaussian", "omega": "gaussian"}, {"theta": 36, "omega": 37}, 1e-9),
        (PENDULUM, {"theta": "linear", "omega": "gaussian"}, {"theta": 160, "omega": "aligned"}, 1e-11),
    ],
    ids=["circle", "pendulum with noise in both axes", "pendulum on an aligned grid"],
)
def test_gaussian_kernel_is_spectrally_accurate(problem, kernel, points, bound):
    errors = kernel_order.manufactured_errors(problem, points, kernel)
    assert max(errors.objective, errors.value, errors.gradient) < bound


def test_two_actions_and_correlated_noise():
    problem = Manufactured.correlated()
    errors = kernel_order.manufactured_errors(problem, {"x": 49, "y": 49}, {"x": "gaussian", "y": "gaussian"})
    assert max(errors.objective, errors.value, errors.gradient) < 1e-6


def test_euler_steps_are_right_to_first_order():
    errors = [kernel_order.torus_errors(step) for step in (0.05, 0.025, 0.0125)]
    for quantity in ("objective", "density"):
        assert errors[-1].order(errors[-2], quantity) == pytest.approx(1.0, abs=0.1)


def test_covariance_of_correlated_noise():
    covariance, objective = aligned_grids.covariance_errors(31)
    assert covariance < 1e-6
    assert objective < 1e-6


def test_aligned_grid_agrees_with_simulation_where_interpolation_does_not():
    truth = aligned_grids.simulated_cost(aligned_grids.swing_up, chains=4000, steps=1500, seed=3)
    (_, aligned), (_, unaligned), _ = aligned_grids.grids_of(256)
    assert abs(aligned_grids.pendulum_cost(aligned_grids.swing_up, aligned).objective - truth.mean) < 4 * truth.error
    linear = aligned_grids.pendulum_cost(aligned_grids.swing_up, unaligned, "linear").objective
    assert linear - truth.mean > 8 * truth.error


def test_oscillator_on_an_aligned_grid_against_its_riccati_equation():
    # the momentum is driven by noise, the position follows it; the spring makes the momentum depend on the position too
    ring = OscillatorRing(sites=1)
    exact = ring.linear_quadratic
    evaluator = Evaluator.from_case(Case.from_text(ring.case_text({"q[i]": 120, "p[i]": "aligned"})))
    grid = evaluator.model.grid
    evaluation = evaluator.evaluate(ParticlePolicy.around(grid, -grid.states @ exact.gain.T))
    covariance = np.einsum("k,ki,kj->ij", evaluation.law, grid.states, grid.states)
    assert evaluation.objective == pytest.approx(ring.objective, rel=1e-8)
    assert np.abs(covariance - exact.covariance(exact.gain)).max() < 1e-8 * covariance.max()
    near = np.all(np.abs(grid.states) < 2 * np.sqrt(np.diag(covariance)), axis=1)
    assert np.abs(evaluation.q_gradient[near]).max() < 1e-7
