"""`wg.geometry` and `wg.second_order`: the same numbers from a solution, a file, a case or a point, against code of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from random_policies import SETTINGS
from scipy import linalg
from test_hessian import dense_hessian

import wassgrid as wg
from wassgrid import metric
from wassgrid.errors import WassgridError
from wassgrid.evaluation import Evaluation
from wassgrid.hessian import CurvatureError, Hessian
from wassgrid.hessian import spectrum as spectrum_of
from wassgrid.policy import ParticlePolicy, PolicyError, initial_policy
from wassgrid.report import summary_rows
from wassgrid.storage import ResultFile

CASE = """
[states.x]
next = "0.8*x + u"
noise = "0.5"
domain = [-4, 4]
[actions.u]
bounds = [-2, 2]
[cost]
stage = "x**2 + 0.3*u**2"
[grid]
points = { x = 25 }
[policy]
particles = 2
"""


@pytest.fixture(scope="module")
def case() -> wg.Case:
    return wg.Case.from_text(CASE)


@pytest.fixture(scope="module")
def solution(case: wg.Case) -> wg.Solution:
    return wg.solve(case)


def literal_objective(policy: ParticlePolicy) -> float:
    """J of the case above by its definition, without code of wassgrid: normal density at the nodes, rows renormalised."""
    x = policy.grid.axes[0]
    P, c = np.zeros((x.size, x.size)), np.zeros(x.size)
    for k in range(x.size):
        for a, w in zip(policy.actions[k, :, 0], policy.weights[k], strict=True):
            row = np.exp(-0.5 * ((x - np.clip(0.8 * x[k] + a, x[0], x[-1])) / 0.5) ** 2)
            P[k] += w * row / row.sum()
            c[k] += w * (x[k] ** 2 + 0.3 * a**2)
    A = np.vstack([np.eye(x.size) - P.T, np.ones(x.size)])
    return float(np.linalg.lstsq(A, np.append(np.zeros(x.size), 1.0), rcond=None)[0] @ c)


def test_every_source_gives_the_same_point(case: wg.Case, solution: wg.Solution, tmp_path: Path) -> None:
    path = solution.save(tmp_path / "case.h5")
    points = [wg.geometry.at(what) for what in (solution, path, str(path))] + [wg.geometry.at(case, solution.policy)]
    for point in points:
        assert point.objective == pytest.approx(solution.objective, rel=1e-12)
        assert wg.geometry.gradient(point) == pytest.approx(wg.geometry.gradient(solution), abs=1e-9)
        assert point.law == pytest.approx(solution.stationary, abs=1e-12)
    assert wg.geometry.at(points[0]) is points[0]
    assert wg.geometry.gradient_norm(path) == pytest.approx(solution.history["gradient_norm"][-1], abs=1e-9)
    assert wg.geometry.at(case).objective == pytest.approx(literal_objective(wg.geometry.at(case).policy), rel=1e-9)


def test_gradient_and_second_derivative_are_those_of_a_literal_objective(case: wg.Case) -> None:
    point = wg.geometry.at(case)
    policy = point.policy
    inside = np.abs(policy.actions) < 1.9
    v = np.where(inside, np.random.default_rng(0).standard_normal(policy.actions.shape), 0.0)

    def J(t: float) -> float:
        return literal_objective(policy.moved(policy.actions + t * v))

    t = 1e-3
    slope = (8 * (J(t) - J(-t)) - (J(2 * t) - J(-2 * t))) / (12 * t)
    assert wg.geometry.inner(point, wg.geometry.gradient(point), v) == pytest.approx(slope, rel=1e-7)
    t = 1e-2
    bend = (16 * (J(t) + J(-t)) - (J(2 * t) + J(-2 * t)) - 30 * J(0.0)) / (12 * t * t)
    assert sum(wg.second_order.second_derivative(point, v)) == pytest.approx(bend, rel=1e-5)
    assert wg.second_order.check(point).passed
    # the same from a spectrum: B(v, v) = sum_k lambda_k <v, v_k>^2, without the cells that hardly any mass reaches
    spectrum = wg.second_order.spectrum(point, floor=0.0)
    shares = spectrum.vectors.T @ spectrum.hessian.coordinates(v)
    assert spectrum.values @ shares**2 == pytest.approx(bend, rel=1e-5)


@pytest.mark.parametrize("name", SETTINGS)
def test_spectrum_agrees_with_the_dense_twin(name: str) -> None:
    evaluation: Evaluation = (evaluator := SETTINGS[name].evaluator()).evaluate(SETTINGS[name].policy(evaluator, 3))
    hessian = Hessian(evaluation)
    bilinear, weights = dense_hessian(evaluation)
    used = np.flatnonzero(hessian.domain)
    root = np.sqrt(np.diag(weights)[used])
    values = linalg.eigvalsh(bilinear[np.ix_(used, used)] / np.outer(root, root))
    found = spectrum_of(hessian)
    scale = np.abs(values).max()
    assert found.values == pytest.approx(values, abs=1e-9 * scale)
    assert found.local + found.transport == pytest.approx(found.values, abs=1e-10 * scale)
    for k in (0, values.size // 2, values.size - 1):
        v = found.field(k)
        defect = hessian.apply(v) - found.values[k] * v
        assert hessian.inner(defect, defect) <= (1e-8 * scale) ** 2
        assert hessian.curvature(v) == pytest.approx((found.local[k], found.transport[k]), abs=1e-8 * scale)


@pytest.mark.parametrize(
    ("cost", "kink"),
    [
        ("abs(u)", 0.0), ("0.1*max(u, 0.2*x)", 0.2), ("where(u > 0.2*x, 1.1, 1)*(u - 0.2*x)", 0.2),
        ("10*u**4", None), ("tanh(9*u)", None),
    ],
)
def test_particles_on_kinks_are_found_and_no_others(cost: str, kink: float | None) -> None:
    """The first particle stands on the kink of the cost, the second beside it."""
    problem = wg.Case.from_text(CASE, overrides=[f"cost.stage=x**2 + 0.3*u**2 + {cost}"])
    grid = wg.geometry.at(problem).policy.grid
    policy = ParticlePolicy.around(grid, (kink or 0.0) * grid.states, np.array([[0.0], [0.01]]), np.array([0.4, 0.6]))
    hessian = wg.second_order.operator(wg.geometry.at(problem, policy))
    expected = hessian.domain[:, :, 0] & (kink is not None) & np.array([True, False])
    assert (hessian.kinked == expected).all()
    assert hessian.kinks == pytest.approx(0.0 if kink is None else 0.4, abs=1e-9)
    found = wg.second_order.ends(wg.geometry.at(problem, policy))
    assert found.warning == hessian.warning and (found.warning in repr(found)) and bool(found.warning) == (kink is not None)
    assert "\n" not in repr(found) and len(repr(found)) < 200


def test_a_run_with_eigenvalues_warns_of_kinks(tmp_path: Path) -> None:
    settings = ["output.curvature_every=100", "output.estimate=false"]
    costs = ("x**2 + 0.3*u**2", "x**2 + 0.3*u**2 + abs(u)")
    smooth, kinked = (wg.solve(wg.Case.from_text(CASE, overrides=[*settings, f"cost.stage={cost}"])) for cost in costs)
    on_it = (np.abs(kinked.policy.actions[:, :, 0]) < 1e-9) * kinked.policy.weights
    share = float(kinked.stationary.ravel() @ on_it.sum(axis=1))
    assert 0.1 < share < 1.0
    assert kinked.summary["particles_on_kinks"] == pytest.approx(share, rel=1e-6)
    for solution, warned in ((smooth, False), (kinked, True)):
        with ResultFile(solution.save(tmp_path / f"{warned}.h5")) as result:
            texts = [text for name, text in summary_rows(result) if name == "kinks"]
        assert (len(texts) == 1 and f"{100.0 * share:.3g} % of the particles" in texts[0]) if warned else texts == []


def test_geodesics_between_anything(case: wg.Case, solution: wg.Solution, tmp_path: Path) -> None:
    path = solution.save(tmp_path / "case.h5")
    first = initial_policy(case, solution.policy.grid)
    exact = metric.distance(first, solution.policy, wg.geometry.at(case).law)
    for start in (case, wg.geometry.at(case)):
        for end in (solution, path, solution.policy):
            assert wg.geometry.distance(start, end) == pytest.approx(exact, rel=1e-9)
    assert wg.geometry.distance(solution, case) == pytest.approx(
        metric.distance(solution.policy, first, solution.stationary), rel=1e-9
    )
    along = wg.geometry.objective_along(case, wg.geometry.geodesic(case, path), 3)
    path_between = wg.geometry.geodesic(first, solution)
    middle = path_between.at(0.5)
    for what in (path_between, along, middle, middle.grid):  # what is printed is no wall of numbers
        assert len(repr(what)) < 120 and "\n" not in repr(what)
    assert along.objective[1] == pytest.approx(literal_objective(middle), rel=1e-9)
    assert along.objective[-1] == pytest.approx(solution.objective, rel=1e-9)


def test_what_cannot_be_is_said(case: wg.Case, solution: wg.Solution) -> None:
    point = wg.geometry.at(solution)
    with pytest.raises(PolicyError, match=r"tangent field of shape \(25, 2, 1\), got \(3,\)"):
        wg.geometry.norm(point, np.zeros(3))
    with pytest.raises(WassgridError, match="a policy alone has no law"):
        wg.geometry.distance(solution.policy, solution)
    with pytest.raises(PolicyError, match=r"law of shape \(25,\)"):
        wg.geometry.distance(solution, solution, law=np.ones(3))
    with pytest.raises(WassgridError, match="got int"):
        wg.geometry.at(7)  # type: ignore[arg-type]
    with pytest.raises(WassgridError, match=r"nothing\.h5"):
        wg.second_order.spectrum("nothing.h5")
    other = ParticlePolicy(solution.policy.grid, np.zeros((25, 1, 3)), np.ones((25, 1)))
    with pytest.raises(PolicyError, match="with 3 actions is none of case"):
        wg.geometry.at(point, other)
    big = wg.Case.from_text(CASE, overrides=["policy.particles=400"])
    with pytest.raises(CurvatureError, match="unknowns needs a matrix of"):
        wg.second_order.spectrum(big)
    held = ParticlePolicy(solution.policy.grid, np.full((25, 1, 1), 2.0), np.ones((25, 1)))
    held_case = wg.Case.from_text(CASE.replace("0.3*u**2", "0.3*(u - 5)**2*100"))
    with pytest.raises(CurvatureError, match="no free component"):
        wg.second_order.spectrum(wg.geometry.at(held_case, held))


@pytest.mark.thorough
def test_the_claims_of_the_paper_hold() -> None:
    script = Path(__file__).resolve().parent.parent / "gallery" / "claims_of_the_paper.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("holds") >= 9
