"""Proximal steps: their order, their minima, costs and laws that jump, and J that never rises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from oracle import DenseProblem
from random_problems import wide_problem

import wassgrid as wg
from wassgrid.case import Case, CaseError
from wassgrid.certificate import find_best
from wassgrid.cli import main
from wassgrid.errors import WassgridError
from wassgrid.evaluation import Evaluation, Evaluator, objective_rounding, rounding
from wassgrid.method.facts import unseen
from wassgrid.method.proximal import first_proximal_step, nearby_minima, proximal_step
from wassgrid.policy import initial_policy

pytestmark = pytest.mark.thorough
GALLERY = Path(__file__).parent.parent / "gallery"
SMOOTH = """
[states.x]
next = "0.7*x + 0.5*sin(a)"
noise = "0.4"
domain = [-2, 2]
[actions.a]
bounds = [-1.5, 1.5]
[cost]
stage = "{stage}"
[grid]
points = {{ x = 13 }}
[policy]
particles = 2
[flow]
method = "{method}"
{flow}
[output]
estimate = false
"""
PLAIN = "x**2 + 0.3*a**2 + 0.2*cos(2*a)"
JUMPS = "x**2 + 0.3*a**2 + 0.2*where(a > 0.4 or a < -0.7, 1, 0) - 0.3*mod(a, 0.25) + 0.1*sign(a - x/2)"


def case_of(method: str, flow: str = "", stage: str = PLAIN, more: tuple[str, ...] = ()) -> Case:
    return Case.from_text(SMOOTH.format(method=method, flow=flow, stage=stage), "case", more)


def evaluated(text: str) -> tuple[Evaluator, Evaluation]:
    case = Case.from_text(text)
    evaluator = Evaluator.from_case(case)
    return evaluator, evaluator.evaluate(initial_policy(case, evaluator.model.grid))


def test_it_is_of_first_order_in_the_step() -> None:
    exact = wg.solve(case_of("rk4", "step = 0.05\nstop = { flow_time = 0.4 }")).policy.actions
    errors = []
    for step in (0.1, 0.05, 0.025):
        found = wg.solve(case_of("proximal", f"step = {step}\nescape = false\nstop = {{ flow_time = 0.4 }}"))
        assert found.record["flow_time"] == pytest.approx(0.4)
        errors.append(np.abs(found.policy.actions - exact).max())
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert slopes == pytest.approx([1.0, 1.0], abs=0.1)


@pytest.mark.parametrize("stage", [PLAIN, JUMPS])
def test_it_ends_where_newton_and_all_policies_end(stage: str) -> None:
    one, other = (wg.solve(case_of(m, "stop = { gap = 1e-9, steps = 60 }", stage)) for m in ("proximal", "newton"))
    assert one.objective == pytest.approx(other.objective, abs=2e-9) and "proven" in one.reason
    dense = DenseProblem(SMOOTH.format(method="newton", flow="", stage=stage), {"x": "gaussian"})
    best = dense.optimum(one.policy.actions, one.policy.weights, each=10_001)
    assert best == pytest.approx(one.objective, abs=1e-8) and one.lower_bound <= best + 1e-12


def test_two_actions() -> None:
    text = SMOOTH.format(
        method="proximal", flow="stop = { gap = 1e-7, steps = 60 }", stage="x**2 + 0.2*a**2 + abs(b - 0.3) + 0.3*a*b"
    )
    text = text.replace("0.5*sin(a)", "0.5*sin(a) + 0.2*b").replace("[cost]", "[actions.b]\nbounds = [-1, 1]\n[cost]")
    one, other = wg.solve(Case.from_text(text)), wg.solve(Case.from_text(text.replace("proximal", "newton")))
    assert one.objective == pytest.approx(other.objective, abs=1e-6) and np.isfinite(one.lower_bound)


def test_many_actions() -> None:
    names = [f"b{k}" for k in range(20)]
    text = SMOOTH.format(method="proximal", flow="", stage="x**2 + 0.3*a**2 + " + " + ".join(f"({b} - 0.1)**2" for b in names))
    tables = "".join(f"[actions.{name}]\nbounds = [-1, 1]\n" for name in names)
    evaluator, evaluation = evaluated(text.replace("[cost]", f"{tables}[cost]").replace("x = 13", "x = 3"))
    new = proximal_step(evaluator, evaluation, 1.0, None, False).evaluation
    assert new.objective < evaluation.objective


def brute(dense: DenseProblem, evaluation: Evaluation, cell: int, action: float, tau: float, tried: np.ndarray) -> np.ndarray:
    """What a proximal step minimises, at actions (P,) of a cell, without code of the package."""
    cells = np.full(tried.size, cell)
    q = dense.costs(cells, tried[:, None]) + dense.rows(cells, tried[:, None]) @ evaluation.value
    return np.asarray(q - evaluation.objective + (tried - action) ** 2 / (2.0 * tau))


@pytest.mark.parametrize("escape", [False, True])
@pytest.mark.parametrize("tau", [1e-3, 0.05, 1.0, 1e6])
def test_no_action_of_ten_thousand_is_better(tau: float, escape: bool) -> None:
    text = SMOOTH.format(method="proximal", flow="", stage=JUMPS)
    _, evaluation = evaluated(text)
    dense = DenseProblem(text, {"x": "gaussian"})
    best = find_best(evaluation) if escape else None
    cells = np.arange(13)
    actions = evaluation.policy.actions[:, 0]
    found = nearby_minima(evaluation, tau, cells, actions, evaluation.q[:, 0], best)
    for cell in cells[::3]:
        a = float(actions[cell, 0])
        values = brute(dense, evaluation, cell, a, tau, np.concatenate([np.linspace(-1.5, 1.5, 10_001), found[cell], [a]]))
        assert values[-2] <= values[:-2].min() + 1e-7 and values[-2] <= values[-1] + 1e-12
        if tau == 1e-3:  # near: by the length of a gradient step
            assert abs(found[cell, 0] - a) < 0.1
    # long steps are policy iteration
    if tau == 1e6 and escape:
        assert (evaluation.q_values(cells, found[:, None])[:, 0] <= find_best(evaluation).values + 1e-5).all()


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_j_never_rises_whatever_the_step(seed: int, moving: bool) -> None:
    rng = np.random.default_rng(seed)
    try:
        evaluator, evaluation = evaluated(wide_problem(seed, kinks=True, moving=moving))
    except WassgridError:
        return
    first = first_proximal_step(evaluation)
    for k in range(2):
        best = find_best(evaluation) if k else None
        new = proximal_step(evaluator, evaluation, first * 10.0 ** rng.uniform(-4, 6), best, False).evaluation
        assert new.objective <= evaluation.objective + objective_rounding(evaluation) + rounding(evaluation)
        low, high = evaluation.model.limits
        assert ((new.policy.actions >= low) & (new.policy.actions <= high)).all()
        evaluation = new


def test_gradients_do_not_see_what_sticks_and_are_told_so(tmp_path, capsys) -> None:
    file = str(GALLERY / "friction.toml")
    small = ["grid.points.x=41", "output.estimate=false", "flow.stop.steps=12"]
    stuck, found = (wg.solve(Case.load(file, [*small, f"flow.method={method}"])) for method in ("euler", "proximal"))
    assert stuck.objective > 1.0 and found.objective < 0.07
    settings = [word for text in small for word in ("--set", text)]
    for method, said in (("euler", True), ("proximal", False), ("newton", False)):
        assert main(["check", file, *settings, "--set", f"flow.method={method}"]) == 0
        words = " ".join(capsys.readouterr().out.split())
        assert ("sign(...) in states.x.next and 1 more: may jump with the action" in words) == said
        assert ('flow.method = "proximal"' in words) == said
    main(["run", file, *settings, "--set", "flow.method=euler", "-o", str(tmp_path / "f.h5")])
    assert "euler follows derivatives and sees nothing of it" in " ".join(capsys.readouterr().err.split())


def test_what_jumps_is_seen_by_its_form() -> None:
    def jumps(stage: str) -> tuple[str, ...]:
        return case_of("newton", stage=stage).problem.jumps

    assert jumps("x**2 + abs(a) + max(a, x) + sign(x)*a + where(x > 0, a, 2*a)") == ()
    assert unseen("euler", "fisher_rao", False, ("sign(...) in cost.stage",)) == ""
    assert jumps("where(a > x, 1, 0) + mod(a, 2)") == ("mod(...) in cost.stage", "where(...) in cost.stage")


def test_what_it_is_not_defined_for() -> None:
    with pytest.raises(CaseError, match="proximal is not defined for geometry"):
        case_of("proximal", 'geometry = "fisher_rao"')
    with pytest.raises(CaseError, match="proximal is not defined for geometry"):
        case_of("proximal", 'geometry = "wasserstein_fisher_rao"')


def test_runs_resume_to_the_bit(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    wg.run(case_of("proximal", "stop = { steps = 4 }", JUMPS), "whole.h5")
    wg.run(case_of("proximal", "stop = { steps = 2 }", JUMPS), "part.h5")
    assert main(["resume", "part.h5", "--set", "flow.stop.steps=4", "--quiet"]) in (0, 1)
    np.testing.assert_array_equal(wg.Policy.load("whole.h5").actions, wg.Policy.load("part.h5").actions)
