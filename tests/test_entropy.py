"""Entropy with a price: the soft minimum, its flows, the linear regulator, bounds against an independent solver, and runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from oracle import DenseProblem
from random_problems import soft_problem
from test_newton import run

import wassgrid as wg
from benchmarks.soundness import judge
from wassgrid.case import Case
from wassgrid.certificate import certify
from wassgrid.check import check_case
from wassgrid.compare import compare, objective_along
from wassgrid.entropy import Entropy, EntropyError
from wassgrid.evaluation import Evaluation, EvaluationError, Evaluator, objective_rounding
from wassgrid.method.flow import flow_step
from wassgrid.method.schemes import SCHEMES
from wassgrid.method.weights import exponential_step
from wassgrid.metric import Metric, gradient_norm, mean_q, step_length
from wassgrid.policy import ParticlePolicy, PolicyError, initial_policy
from wassgrid.runs.grid_solver import GridSolver
from wassgrid.runs.start import StartError
from wassgrid.simulate import simulate_file
from wassgrid.storage import ResultFile

GALLERY = Path(__file__).parent.parent / "gallery"
WEIGHTS = Metric(False, 0.7)
LINE = """
[states.x]
next = "0.8*x + 0.6*u - 0.2*sign(x)"
noise = 0.7
domain = [-2, 2]
boundary = "reflect"
[actions.u]
ACTIONS
[cost]
stage = "x**2 + 0.3*sin(4*u + x) + 0.2*abs(u)"
[grid]
points = { x = 7 }
kernel = "gaussian"
[policy]
entropy = 0.3
particles = 5
weights = [1, 2, 3, 1, 1]
[flow]
stop = { gap = 1e-300, steps = 40 }
CRITERION
"""
DISCOUNTED = '[criterion]\nkind = "discounted"\ndiscount = 0.9\n'
TOTAL = '[criterion]\nkind = "total"\n[goal]\nwhere = "x >= 1.3"\ncost = "0.4"\n'


def line(criterion: str = "", listed: bool = False, *overrides: str) -> Case:
    actions = "values = [-1, -0.5, 0, 0.5, 1]" if listed else "bounds = [-1, 1]"
    text = LINE.replace("ACTIONS", actions).replace("CRITERION", criterion)
    if criterion == TOTAL:
        text = text.replace('"x**2 +', '"1 + x**2 +').replace('boundary = "reflect"', 'boundary = "project"')
    return Case.from_text(text, overrides=overrides)


def start(case: Case) -> tuple[Evaluator, Evaluation]:
    evaluator = Evaluator.from_case(case)
    return evaluator, evaluator.evaluate(initial_policy(case, evaluator.model.grid))


# -- the soft minimum ----------------------------------------------------------------------------------------------------


def priced(eps: float, shares: np.ndarray, cells: int, mass: float = 1.0) -> Entropy:
    actions = np.tile(np.arange(shares.size, dtype=float)[:, None], (cells, 1, 1))
    return Entropy(eps, actions, shares / shares.sum(), np.full(cells, mass), np.ones(cells, bool))


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-12, 1e-6, 1e-2, 1.0, 1e3, 1e6]), st.sampled_from([1e-8, 1.0, 1e8]))
@settings(max_examples=40)
def test_the_soft_minimum_is_that_of_extended_precision_and_no_weights_are_below_it(seed, eps, scale):
    """Gibbs: sum_i w_i Q_i + eps KL(w | rho) >= -eps log Z, equal at rho exp(-Q/eps)/Z; prices far from the scale of the cost."""
    rng = np.random.default_rng(seed)
    shares, q = rng.dirichlet(np.full(6, 0.7)) + 1e-6, scale * rng.standard_normal((5, 6))
    entropy = priced(eps, shares, 5, 3.0)
    found, rounded = entropy.soft_minimum(q)
    rho, high = entropy.shares.astype(np.longdouble), q.astype(np.longdouble)
    rho /= rho.sum()
    power = (high.min(axis=1, keepdims=True) - high) / np.longdouble(eps)
    exact = high.min(axis=1) - eps * np.log1p((rho * np.expm1(power)).sum(axis=1)) - eps * np.log(np.longdouble(3.0))
    assert np.all(np.abs(found - exact) <= rounded + 4e-16 * (scale * 5 + eps))
    optimal = entropy.relaxed(rng.dirichlet(np.ones(6), 5), q, np.inf)

    def total(weights: np.ndarray) -> np.ndarray:
        return (weights * q).sum(axis=1) + entropy.cost(weights)

    level = rounded + entropy.rounding(optimal) + 1e-14 * scale
    assert np.all(np.abs(total(optimal) - found) <= level)
    assert np.all(total(rng.dirichlet(np.full(6, 0.5), 5)) >= found - level)


@given(st.integers(0, 2**32 - 1))
def test_the_price_is_that_of_its_definition(seed):
    rng = np.random.default_rng(seed)
    shares, weights = rng.dirichlet(np.ones(5)), rng.dirichlet(np.full(5, 0.3), 4)
    weights[0] = [0.0, 1.0, 0.0, 0.0, 0.0]
    entropy = priced(0.7, shares, 4, 2.5)
    w, rho = weights.astype(np.longdouble), 2.5 * entropy.shares.astype(np.longdouble)
    exact = 0.7 * np.where(w > 0, w * np.log(np.where(w > 0, w, 1) / rho), 0).sum(axis=1)
    np.testing.assert_allclose(entropy.cost(weights), exact.astype(float), rtol=1e-12, atol=1e-13)
    mean = (weights * entropy.slope(weights)).sum(axis=1) + entropy.constant
    np.testing.assert_allclose(mean, entropy.cost(weights), atol=1e-13)


# -- the linear regulator ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("eps", "a", "b", "r"), [(0.4, 1.0, 1.0, 1.0), (0.3, 0.9, -1.2, 0.5)])
def test_the_soft_linear_regulator(eps, a, b, r):
    """x' = a x + b u + s w, cost x^2 + r u^2, rho Lebesgue: the law N(-K x, eps/(2(r + b^2 P))) and its J, on the line itself."""
    base = b * b + (a * a - 1.0) * r
    p = (base + np.sqrt(base * base + 4.0 * b * b * r)) / (2.0 * b * b)
    gain, variance = a * b * p / (r + b * b * p), eps / (2.0 * (r + b * b * p))
    exact = 0.25 * p - 0.5 * eps * np.log(np.pi * eps / (r + b * b * p))
    text = f"""
[states.x]
next = "{a}*x + {b}*u"
noise = 0.5
domain = [-4.5, 4.5]
[actions.u]
bounds = [-5.5, 5.5]
[cost]
stage = "x**2 + {r}*u**2"
[grid]
points = {{ x = 37 }}
kernel = "matched"
[policy]
entropy = {eps}
reference = "lebesgue"
particles = 45
[flow]
stop = {{ gap = 1e-9, steps = 12 }}
"""
    solution = wg.solve(Case.from_text(text))
    assert solution.converged and solution.objective == pytest.approx(exact, abs=1e-8)
    assert solution.lower_bound <= solution.objective
    near = np.linspace(-1.5, 1.5, 7)
    np.testing.assert_allclose(solution.policy.mean(near[:, None])[:, 0], -gain * near, atol=1e-6)
    np.testing.assert_allclose(solution.policy.std([[0.0], [1.0]])[:, 0] ** 2, variance, rtol=1e-6)
    assert solution.record["cost_part"] + solution.record["entropy_part"] == pytest.approx(solution.objective, abs=1e-13)
    # the cost of N(-K x, v) by the formula of the regulator, and minus eps times its differential entropy
    assert solution.record["cost_part"] == pytest.approx(p * (0.25 + b * b * variance) + r * variance, abs=1e-7)
    assert solution.record["entropy_part"] == pytest.approx(-0.5 * eps * np.log(2.0 * np.pi * np.e * variance), abs=1e-7)


# -- gradient and flow ---------------------------------------------------------------------------------------------------

KINDS = ["", DISCOUNTED, TOTAL]
NAMES = ["average", "discounted", "total"]


@pytest.mark.parametrize("criterion", KINDS, ids=NAMES)
def test_the_taylor_remainder_of_the_gradient_is_quadratic_and_the_flow_falls_by_its_square(criterion):
    evaluator, evaluation = start(line(criterion))
    policy, law = evaluation.policy, evaluation.law
    if evaluation.controlled is not None:
        law = np.where(evaluation.controlled, law, 0.0)
    r = np.random.default_rng(3).standard_normal(policy.weights.shape)
    r -= (policy.weights * r).sum(axis=1, keepdims=True)
    slope = float(np.einsum("k,ki,ki,ki->", law, policy.weights, r, evaluation.first_variation))
    remainders = []
    for t in [0.02 / 2**k for k in range(4)]:
        moved = evaluator.evaluate(policy.moved(policy.actions, policy.weights * (1.0 + t * r)), evaluation)
        remainders.append(abs(moved.objective - evaluation.objective - t * slope))
    assert np.diff(np.log2(remainders)) == pytest.approx(-2.0, abs=0.15)
    norm, t = gradient_norm(evaluation, WEIGHTS), 1e-4
    ahead = flow_step(evaluator, evaluation, SCHEMES["rk4"], t, WEIGHTS).evaluation
    assert (evaluation.objective - ahead.objective) / t == pytest.approx(norm**2, rel=1e-2)
    assert step_length(law, evaluation.policy, ahead.policy, WEIGHTS) / t == pytest.approx(norm, rel=1e-2)
    inside = slice(None) if evaluation.controlled is None else evaluation.controlled
    np.testing.assert_allclose(mean_q(evaluation)[inside], evaluation.value[inside], atol=1e-12)


@pytest.mark.parametrize("method", [*SCHEMES, "exponential"])
def test_schemes_have_their_order(method):
    evaluator, evaluation = start(line())

    def end(name: str, count: int) -> np.ndarray:
        now = evaluation
        for _ in range(count):
            if name == "exponential":
                now = exponential_step(evaluator, now, 0.4 / count, WEIGHTS, adaptive=False).evaluation
            else:
                now = flow_step(evaluator, now, SCHEMES[name], 0.4 / count, WEIGHTS).evaluation
        return now.policy.weights

    exact, counts = end("rk4", 40), {"euler": 16, "exponential": 16, "heun": 12, "rk4": 3}[method]
    errors = [np.abs(end(method, count) - exact).max() for count in (counts, 2 * counts)]
    order = SCHEMES[method].order if method in SCHEMES else 1
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.12)


@pytest.mark.parametrize("criterion", KINDS, ids=NAMES)
@given(
    seed=st.integers(0, 2**32 - 1), length=st.sampled_from([1e-3, 1.0, 1e2, 1e5, 1e12, np.inf]),
    eps=st.sampled_from([1e-9, 1e-3, 0.3, 10.0, 1e6]),
)
@settings(max_examples=8)
def test_the_objective_never_rises_however_long_the_step(criterion, seed, length, eps):
    evaluator, evaluation = start(line(criterion, False, f"policy.entropy={eps}"))
    rng = np.random.default_rng(seed)
    policy = evaluation.policy
    evaluation = evaluator.evaluate(policy.moved(policy.actions, rng.dirichlet(np.full(5, 0.5), len(policy.weights))), evaluation)
    for _ in range(3):
        try:
            after = exponential_step(evaluator, evaluation, length, WEIGHTS, adaptive=False).evaluation
        except EvaluationError:
            reject()  # at a price of a million rounding may leave V beside the tolerance, which is said
        level = objective_rounding(evaluation) + after.residual_rounding + evaluation.residual_rounding
        assert after.objective <= evaluation.objective + level
        evaluation = after


def test_rates_are_those_of_the_theory():
    """Flows come in like exp(-2 kappa eps t) in J, soft policy iteration quadratically, as Newton's method for T V = V."""
    least = run(line())[-1].evaluation.objective
    states = run(line("", False, "flow.method=rk4", "flow.weight_rate=2.0", "flow.stop={gap=1e-300, steps=60}"))
    late = [state for state in states if 1e-11 < state.evaluation.objective - least < 1e-7]
    excess = [state.evaluation.objective - least for state in late]
    rate = -np.polyfit([state.flow_time for state in late], np.log(excess), 1)[0]
    assert len(late) > 5 and rate == pytest.approx(2.0 * 2.0 * 0.3, rel=2e-3)
    excess = [state.evaluation.objective - least for state in run(line("", False, "flow.stop={gap=1e-300, steps=3}"))]
    # J differs from its minimum by a square of V's distance: 4 is quadratic in V, 2 in J
    assert excess[0] > 0.1 and excess[2] < 0.2 * excess[1] ** 2 and excess[3] < 1e-12


@pytest.mark.parametrize("criterion", KINDS, ids=NAMES)
def test_a_small_price_leads_to_the_optimum_over_the_actions_from_above(criterion):
    """J_0 <= J_eps <= J_0 + eps log(1/min rho), times the steps of an episode; J_0 by policy iteration over the same actions."""
    text = line(criterion, True).to_text().replace('reference = "uniform"', "").replace("entropy = 0.3", "")
    least = wg.solve(Case.from_text(text))
    before, listed = np.inf, criterion == DISCOUNTED
    for eps in (1.0, 0.1, 1e-2, 1e-4, 1e-9):
        soft = wg.solve(line(criterion, listed, f"policy.entropy={eps}", "flow.stop={relative_gap=1e-9}"))
        steps = 1.0 if criterion != TOTAL else float(soft.summary["steps_to_the_goal"])
        assert soft.converged
        assert least.objective - 1e-9 <= soft.objective <= least.objective + eps * steps * np.log(8.0) + 1e-9
        assert soft.objective <= before
        before = soft.objective


# -- against the independent solver --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [*range(100, 105), 147, 561])
def test_claims_hold_on_random_problems(seed):
    """Soft value iteration of the oracle, in extended precision; two of the problems price entropy at 1e11 times the cost."""
    found = judge(soft_problem(seed) + "[output]\nestimate = false\n")
    assert not found["violations"], found
    assert found["status"] in ("converged", "stopped", "refused")


def test_faults_are_found(monkeypatch):
    """A price that is off by a twentieth makes a bound too high or too low, a hard minimum one that is never reached."""
    true = Entropy.soft_minimum

    def off(factor: float) -> object:
        return lambda self, q: true(replace(self, strength=factor * self.strength), q)

    texts = [soft_problem(seed) + "[output]\nestimate = false\n" for seed in (155, 133)]
    assert [judge(text)["status"] for text in texts] == ["stopped", "converged"]
    monkeypatch.setattr(Entropy, "soft_minimum", off(1.05))
    assert "bound" in judge(texts[0])["violations"]
    assert "nothing is claimed" in judge(texts[1])["reason"]
    for fault in (off(0.95), lambda self, q: (q.min(axis=1), np.zeros(len(q)))):
        monkeypatch.setattr(Entropy, "soft_minimum", fault)
        assert judge(texts[1])["status"] != "converged"


def test_a_goal_on_the_way_to_which_entropy_costs():
    """Soft value iteration on the rows of the dense solver, the goal's replaced; the run's J, V, law of actions and bound."""
    case = line(TOTAL)
    dense = DenseProblem(case.to_text().replace('kind = "total"', 'kind = "average"'))
    actions, law = dense.reference_law()
    cells = np.repeat(np.arange(dense.size), 5)
    rows = dense.rows(cells, actions.reshape(-1, 1)).reshape(dense.size, 5, -1)
    cost, goal = dense.costs(cells, actions.reshape(-1, 1)).reshape(dense.size, 5), dense.states["x"] >= 1.3
    value = np.where(goal, 0.4, 0.0)
    for _ in range(2000):
        q = (cost + rows @ value).astype(float)
        value = np.where(goal, 0.4, -0.3 * np.log((law * np.exp(-q / 0.3)).sum(axis=1))).astype(float)
    solution = wg.solve(case)
    exact = float(dense.initial_law @ value)
    np.testing.assert_allclose(solution.value, value, rtol=1e-10)
    weights = np.array(law * np.exp((value[:, None] - q) / 0.3), float)
    np.testing.assert_allclose(solution.policy.weights[~goal], weights[~goal], rtol=1e-8)
    assert solution.objective == pytest.approx(exact, rel=1e-11) and solution.lower_bound <= exact * (1 + 1e-13)
    assert solution.lower_bound == pytest.approx(exact, rel=1e-9)
    # a reference law of mass 20 pays for being slow: no bound
    slow = wg.solve(line(TOTAL, False, "policy.entropy=2.0", 'policy.reference="lebesgue"', "flow.stop={gap=1e-6, steps=3}"))
    assert not np.isfinite(slow.lower_bound) and "stage cost" in slow.reason


def test_the_bound_is_one_for_cost_and_entropy_whatever_the_policy():
    evaluator, evaluation = start(line())
    found = certify(evaluation)
    least = run(line())[-1].evaluation.objective
    assert found.guaranteed and found.lower_bound < least < evaluation.objective
    assert "soft minimum over 5 actions in 7 cells" in found.method
    with pytest.raises(EvaluationError, match=r"policy\.entropy"):
        evaluation.q_gradient  # noqa: B018
    with pytest.raises(EntropyError, match="no density"):
        evaluator.evaluate(evaluation.policy.moved(0.5 * evaluation.policy.actions))


# -- geodesics of weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("criterion", KINDS, ids=NAMES)
def test_derivatives_along_a_geodesic_of_weights_are_those_of_differences(criterion, listed):
    """J along a great circle of sqrt(w), with entropy and (lists) without; every speed is the distance."""
    case = line(criterion, listed)
    if listed:
        case = Case.from_text(case.to_text().replace('reference = "uniform"', "").replace("entropy = 0.3", ""))
    evaluator, evaluation = start(case)
    rng, policy = np.random.default_rng(5), evaluation.policy
    other = policy.moved(policy.actions, rng.dirichlet(np.ones(5), len(policy.weights)))
    path = wg.geometry.weight_geodesic(policy, other, rate=2.0)
    h, middle = 1e-4, 0.4
    along = objective_along(evaluator, path, np.array([middle - h, middle, middle + h]))
    before, here, after = along.objective
    assert along.slope[1] == pytest.approx((after - before) / (2 * h), rel=1e-6)
    assert along.curvature[1] == pytest.approx((after - 2 * here + before) / h**2, rel=1e-5)
    law = evaluation.law / evaluation.law.sum()
    short = step_length(law, path.at(middle), path.at(middle + h), Metric(False, 2.0)) / h
    assert short == pytest.approx(path.length(law), rel=1e-6)
    np.testing.assert_allclose(path.at(1.0).weights, other.weights)


def test_the_longest_geodesic_of_weights_is_half_a_turn_of_twice_the_angle():
    case = line("", True)
    evaluation = start(case)[1]
    policy = evaluation.policy
    ends = [policy.moved(policy.actions, np.tile(np.eye(5)[k], (7, 1))) for k in (0, 3)]
    path = wg.geometry.weight_geodesic(*ends)
    np.testing.assert_allclose(path.squared_distances(), np.pi**2)
    np.testing.assert_allclose(path.at(0.5).weights[0], [0.5, 0.0, 0.0, 0.5, 0.0], atol=1e-15)
    assert wg.geometry.weight_geodesic(policy, policy).length(evaluation.law) == 0.0
    with pytest.raises(PolicyError, match="different actions"):
        wg.geometry.weight_geodesic(policy, ParticlePolicy.around(policy.grid, np.zeros((7, 1)), np.zeros((5, 1))))
    with pytest.raises(PolicyError, match="different grids"):
        wg.geometry.weight_geodesic(policy, start(line("", True, "grid.points.x=8"))[1].policy)


# -- runs ----------------------------------------------------------------------------------------------------------------


def whole_and_resumed(case: Case) -> tuple[Evaluation, Evaluation]:
    """The end of a run, and of the same run resumed after its first step: steps, J and weights are the same numbers."""
    whole = run(case)
    solver = GridSolver.from_case(case)
    state = solver.restore(solver.record(whole[1]).checkpoint())
    while solver.verdict(state) is None:
        state = solver.advance(state)
    assert state.step == whole[-1].step and state.evaluation.objective == whole[-1].evaluation.objective
    np.testing.assert_array_equal(state.evaluation.policy.weights, whole[-1].evaluation.policy.weights)
    return whole[-1].evaluation, state.evaluation


@pytest.mark.parametrize("settings", [["flow.method=rk4"], ["flow.method=exponential"], []])
def test_a_resumed_run_gives_the_same_numbers(settings):
    whole_and_resumed(line("", False, *settings, "flow.stop={gap=1e-300, steps=4}"))


def test_the_case_says_what_it_became_and_reads_it_back():
    case = line()
    assert (case.flow.geometry, case.flow.method, case.policy.initial.distribution) == ("fisher_rao", "policy_iteration", "even")
    assert Case.from_text(case.to_text(), case.name) == case
    actions = GridSolver.from_case(case).start().evaluation.policy.actions
    np.testing.assert_array_equal(actions[3, :, 0], [-1, -0.5, 0, 0.5, 1])


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    path = tmp_path_factory.mktemp("entropy") / "soft.h5"
    case = line("", False, "grid.points.x=25", "flow.stop={gap=1e-9}", "output.estimate=true")
    return wg.run(case, path), path


def test_files_hold_both_parts_and_other_verbs_say_what_they_cannot(solved):
    solution, path = solved
    assert "for cost and entropy together, among all policies on its 5 actions per state" in solution.reason
    assert "greedy policy, which has no entropy" in solution.summary["estimate"]["refused"]
    with ResultFile(path) as file:
        columns = file.convergence
        np.testing.assert_allclose(columns["cost_part"] + columns["entropy_part"], columns["objective"], rtol=1e-14)
    assert columns["entropy_part"][-1] > 0.05
    assert compare(path, path, points=2).distance == 0.0
    again = wg.solve(line("", False, "grid.points.x=25", "flow.stop={gap=1e-9}", "policy.weights=[1, 1, 1, 1, 1]"), initial=path)
    assert again.converged and again.record["step"] == 0
    with pytest.raises(StartError, match="whose weights alone move"):
        wg.solve(line("", False, "policy.initial={distribution='even', low=-0.5}"), initial=path)


def test_another_price_is_another_problem():
    """What a case expects is of its own price."""
    path = GALLERY / "soft_lq.toml"
    assert Case.load(path, ["flow.stop.steps=3"]).expect.average_cost is not None
    for setting in ("policy.entropy=0.3", "policy.reference = 'uniform'", "parameters.eps=0.3"):
        assert Case.load(path, [setting]).expect.average_cost is None


def test_the_price_of_a_sum_of_rates_is_a_rate():
    """A total cost sums rates times the step: eps is one of them, as of a case whose cost is that of a step."""
    step, text = 0.25, line(TOTAL).to_text().replace('reference = "uniform"', "")
    rates = text.replace("entropy = 0.3", "entropy = 1.2").replace("stage =", "rate =").replace('"1 + x', '"4*(1 + x').replace(
        'abs(u)"', 'abs(u))"'
    )
    law = 'drift = "((0.8*x + 0.6*u - 0.2*sign(x)) - x)/0.25"'
    rates = rates.replace('next = "0.8*x + 0.6*u - 0.2*sign(x)"', law).replace('noise = "0.7"', 'diffusion = "0.7/sqrt(0.25)"')
    summed = Case.from_text(f"{rates}\n[time]\nstep = {step}\n")
    assert wg.solve(summed).objective == pytest.approx(wg.solve(line(TOTAL)).objective, rel=1e-12)


def test_check_says_when_the_actions_are_no_density():
    """At the number of particles that it names J is that of the line, before that it is not."""
    path, p = GALLERY / "soft_lq.toml", 0.5 * (1.0 + np.sqrt(5.0))
    exact, errors = 0.25 * p - 0.05 * np.log(np.pi * 0.1 / (1.0 + p)), []
    for particles in (25, 45):
        case = Case.load(path, ["parameters.eps=0.1", f"policy.particles={particles}"])
        found = [finding.text for finding in check_case(case).findings if finding.name == "quadrature"]
        assert len(found) == (particles < 45)
        assert not found or ("0.33 of the distance" in found[0] and "from policy.particles = 45 on" in found[0])
        errors.append(abs(wg.solve(case).objective - exact))
    assert errors[0] > 1e-3 > 1e-5 > errors[1]


def test_simulations_tell_cost_and_entropy_apart(solved):
    solution, path = solved
    cost, objective = simulate_file(path, 200, 200, 20, 1)
    assert cost.entropy == pytest.approx(solution.record["entropy_part"], rel=0.02)
    assert objective == solution.objective and cost.mean == pytest.approx(objective, abs=5 * cost.standard_error + 0.02)
    assert "entropy" in cost.describe(objective)
    for criterion in (DISCOUNTED, TOTAL):
        other = wg.run(line(criterion, True, "grid.points.x=25", "flow.stop={gap=1e-9}"), path.with_name("other.h5"))
        cost, objective = simulate_file(path.with_name("other.h5"), 100, 200, 0, 2)
        assert cost.entropy == pytest.approx(other.record["entropy_part"], rel=0.1)
        assert cost.mean == pytest.approx(objective, rel=0.1)
