"""Noise of less than a cell: which kernel is taken, what it makes of J, and what the run expects it to."""

from __future__ import annotations

import numpy as np
import pytest

import wassgrid as wg
from benchmarks import coarse_noise
from wassgrid.case import Case
from wassgrid.check import check_case
from wassgrid.evaluation import Evaluator
from wassgrid.policy import ParticlePolicy
from wassgrid.report import added_noise, chosen_kernels
from wassgrid.resolution import resolution
from wassgrid.transition.axis_kernels import AXIS_KERNELS
from wassgrid.transition.model import TransitionModel

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize(
    ("ratio", "kernel"), [(1.3, "gaussian"), (0.81, "gaussian"), (0.79, "matched"), (0.5, "matched"), (0.3, "matched"),
                          (0.1, "linear"), (0.0, "linear")],
)  # fmt: skip
def test_auto_takes_the_kernel_that_adds_least(ratio, kernel):
    assert coarse_noise.lq_errors(max(ratio, 1e-9), "auto", 0.2).kernel == kernel


def test_auto_looks_at_all_cells_of_an_axis():
    text = """
[states.x]
next = "0.5*x + a"
noise = "{noise}"
domain = [-10, 10]
[actions.a]
[cost]
stage = "x**2 + a**2"
[grid]
points = {{ x = 21 }}"""
    for noise, kernel in (("0.6 + 0.1*cos(x)", "matched"), ("0.9*abs(sin(x))", "matched"), ("0.9 + 0.05*sin(x)", "gaussian")):
        assert TransitionModel.from_case(Case.from_text(text.format(noise=noise))).kernels == (kernel,)


@pytest.mark.parametrize(("points", "kernel", "reason"), [
    (41, "gaussian", "noise of 1 cells, kept as it is from 0.8 on"),
    (25, "matched", "noise of 0.6 cells, kept as it is from 0.5 on"),
    (13, "matched", "noise of 0.3 cells, to which none adds much less"),
])  # fmt: skip
def test_what_auto_took_is_said_and_why(points, kernel, reason):
    """By check and by a run, another on another grid; nothing where the case names it."""
    text = """
[states.x]
next = "0.5*x + a"
noise = 0.5
domain = [-10, 10]
[actions.a]
bounds = [-1, 1]
[cost]
stage = "x**2 + a**2"
[policy]
particles = 1
[flow]
stop = { steps = 1 }
[output]
estimate = false
[grid]"""
    settings = [f"grid.points={{x = {points}}}"]
    case = Case.from_text(text, "line", settings)
    solution = wg.solve(case)
    (axis,) = solution.summary["resolution"]
    assert axis["kernel"] == kernel
    assert chosen_kernels([axis]).startswith(f"x {kernel} ({reason}")
    (said,) = [finding.text for finding in check_case(case).findings if finding.name == "kernels by auto"]
    assert said.startswith(chosen_kernels([axis]))
    named = Case.from_text(text, "line", [*settings, f'grid.kernel="{kernel}"'])
    assert TransitionModel.from_case(named).reasons == {}


@pytest.mark.parametrize("ratio", [0.5, 0.52, 0.6, 0.7, 0.9])
def test_matched_moments_leave_no_error_in_a_linear_quadratic_problem(ratio):
    for shift in coarse_noise.SHIFTS:
        assert abs(coarse_noise.lq_errors(ratio, "matched", shift).error) < 1e-12


@pytest.mark.parametrize("ratio", coarse_noise.RATIOS)
def test_the_default_is_as_good_as_the_best_kernel(ratio):
    found = coarse_noise.row(lambda kernel: coarse_noise.worst_lq(ratio, kernel))
    sizes = [abs(one.error) for one in found.values() if one is not None]
    assert abs(found["auto"].error) <= min(sizes) + coarse_noise.TOLERANCE


@pytest.mark.parametrize(("kernel", "ratio"), [("linear", 0.3), ("linear", 0.7), ("matched", 0.3), ("matched", 0.45)])
def test_a_run_knows_what_its_kernel_adds(kernel, ratio):
    """V is quadratic, but for what the kernel itself makes of it."""
    for shift in (0.0, 0.29):
        found = coarse_noise.lq_errors(ratio, kernel, shift)
        assert found.error > 0.01
        assert found.expected == pytest.approx(found.error, rel=0.1)


def test_the_report_names_the_points_that_carry_the_noise():
    case = Case.from_text(
        """
[states.x]
next = "0.9*x + 0.5*a"
noise = "0.3"
domain = [-30, 30]
[actions.a]
[cost]
stage = "x**2 + 0.3*a**2"
[grid]
points = { x = 61 }
kernel = "linear"
"""
    )
    evaluator = Evaluator.from_case(case)
    grid = evaluator.model.grid
    axes = resolution(evaluator.evaluate(ParticlePolicy.around(grid, -grid.states)))
    assert axes[0]["points"] == 101
    assert axes[0]["numerical"] > 1.2 * axes[0]["physical"]
    [(name, text)] = added_noise(axes)
    assert name == "noise of x" and "101 points of x carry it" in text
    finer = Case.from_text(case.to_text(), "finer", ["grid.points.x=101", "grid.kernel=auto"])
    assert Evaluator.from_case(finer).model.kernels == ("matched",)


@pytest.mark.parametrize("boundary", ["clamp", "reflect", "periodic"])
def test_the_product_of_matched_laws_is_the_assembled_matrix(boundary):
    text = """
[states.x]
next = "x + 0.4*next(v) + 0.1*next(w)"
noise = "0.05"
domain = [-1, 1]
[states.v]
next = "0.8*v + 0.3*a"
noise = "0.11 + 0.02*v"
domain = [-1, 1]
[states.w]
next = "0.7*w + 0.3*b + 0.1*v"
noise = "0.17"
domain = [-1, 1]
[actions.a]
bounds = [-1, 1]
[actions.b]
bounds = [-1, 1]
[cost]
stage = "x**2 + v**2 + w**2"
[grid]
points = { x = 15, v = 13, w = 11 }
kernel = "matched"
"""
    # x follows v and w, whose winding it would see
    for state in "x" if boundary == "periodic" else "xvw":
        text = text.replace(f"[states.{state}]", f'[states.{state}]\nboundary = "{boundary}"')
    model = TransitionModel.from_case(Case.from_text(text))
    assert model.product is not None
    rng = np.random.default_rng(4)
    actions = rng.uniform(-1, 1, (model.grid.size, 3, 2))
    mean, _ = model.means(actions)
    weights = rng.dirichlet(np.ones(3), model.grid.size)
    operator, matrix = model.operator(mean, weights), model.assembled(mean, weights).matrix()
    f, measure = rng.standard_normal(model.grid.size), rng.dirichlet(np.ones(model.grid.size))
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-14)
    np.testing.assert_allclose(operator.apply(f), matrix @ f, atol=1e-14)
    np.testing.assert_allclose(operator.push(measure), matrix.T @ measure, atol=1e-14)


def test_every_kernel_states_what_it_adds():
    """Against the moments that the weights have, averaged over offsets."""
    for kernel in AXIS_KERNELS.values():
        if not kernel.takes_noise:
            continue
        for ratio in (0.3, 0.45, 0.55, 0.7, 1.0):
            if ratio < kernel.least_noise:
                continue
            moments = []
            for shift in np.linspace(0.0, 1.0, 40, endpoint=False):
                text = f"""
[states.x]
next = "{shift} + 0*a"
noise = "{ratio}"
domain = [-20, 20]
[actions.a]
[cost]
stage = "x**2"
[grid]
points = {{ x = 41 }}
kernel = "{kernel.name}"
"""
                model = TransitionModel.from_case(Case.from_text(text))
                law = model.assembled(np.full((41, 1, 1), shift), np.ones((41, 1))).matrix().toarray()[20]
                x = model.grid.states[:, 0]
                moments.append(law @ (x - law @ x) ** 2 - ratio**2)
            seen, stated = float(np.mean(moments)), float(kernel.added_variance(np.array([ratio]))[0])
            if kernel.name == "gaussian":
                seen = float(np.abs(moments).max())
            assert seen == pytest.approx(stated, rel=0.2, abs=1e-9), (kernel.name, ratio)
