"""Blobs that slide where entropy has a price: kernel, gradient and flow, the linear regulator, limits, runs and messages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_problems import blob_problem
from test_entropy import DISCOUNTED, KINDS, LINE, NAMES, TOTAL, whole_and_resumed

import wassgrid as wg
from benchmarks.blob_bias import REGULATOR
from benchmarks.soundness import judge
from wassgrid.blobs import Blobs
from wassgrid.case import Case, CaseError
from wassgrid.evaluation import Evaluation, Evaluator, objective_rounding
from wassgrid.method.blobs import frozen, searched
from wassgrid.method.flow import adaptive_flow_step, flow_step
from wassgrid.method.schemes import SCHEMES
from wassgrid.metric import Metric, gradient_norm, inner, step_length
from wassgrid.policy import initial_policy
from wassgrid.runs.start import StartError
from wassgrid.storage import ResultFile

pytestmark = pytest.mark.thorough

BOTH = Metric(True, 0.7)
SLIDE = Metric()


def line(criterion: str = "", *overrides: str, plane: bool = False) -> Case:
    text = LINE.replace("ACTIONS", "bounds = [-1, 1]").replace("CRITERION", criterion).replace("weights = [1, 2, 3, 1, 1]", "")
    if criterion == TOTAL:
        text = text.replace('"x**2 +', '"1 + x**2 +').replace('boundary = "reflect"', 'boundary = "project"')
    if plane:
        text = text.replace("[cost]", '[actions.v]\nbounds = ["-0.5 + 0.1*x", "1"]\n[cost]').replace("0.2*abs(u)", "abs(u - v)")
        text = text.replace("particles = 5", "particles = 49")
    settings = ("flow.geometry='wasserstein'", *(() if plane else ("policy.particles=9",)), *overrides)
    return Case.from_text(text, overrides=settings)


def start(case: Case, seed: int | None = 0) -> tuple[Evaluator, Evaluation]:
    """Evaluate the blobs of a case, at random places and of random shares."""
    evaluator = Evaluator.from_case(case)
    policy = initial_policy(case, evaluator.model.grid)
    if seed is not None:
        rng, blobs = np.random.default_rng(seed), policy.blobs
        share = rng.random(blobs.centres.shape)
        shares = rng.dirichlet(np.full(share.shape[1], 2.0), len(share))
        policy = policy.of_blobs(blobs.moved(blobs.low[:, None] + share * (blobs.high - blobs.low)[:, None], shares))
    return evaluator, evaluator.evaluate(policy)


# -- the kernel ----------------------------------------------------------------------------------------------------------


def literal(blobs: Blobs, centre: np.ndarray, cell: int) -> np.ndarray:
    """The law on the nodes of one blob of one cell, from its definition, action by action."""
    joint = np.ones(1)
    for low, high, a in zip(blobs.low[cell], blobs.high[cell], centre, strict=True):
        delta, law = blobs.bandwidth * (high - low), []
        for j in range(blobs.side):
            u = low + (high - low) * j / (blobs.side - 1)
            images = (a, 2 * low - a, 2 * high - a)
            end = 0.5 if j in (0, blobs.side - 1) else 1.0
            law.append(end * sum(np.exp(-0.5 * ((u - b) / delta) ** 2) for b in images))
        joint = np.multiply.outer(joint, np.array(law) / np.sum(law)).ravel()
    return joint


@pytest.mark.parametrize("plane", [False, True])
def test_the_law_is_the_mixture_of_its_definition_and_its_slope_that_of_differences(plane):
    case = line("", "policy.bandwidth=0.2", plane=plane)
    _, evaluation = start(case)
    blobs, policy = evaluation.policy.blobs, evaluation.policy
    np.testing.assert_allclose(policy.weights.sum(axis=1), 1.0, rtol=1e-14)
    for cell in (0, 4):
        pairs = list(zip(blobs.shares[cell], blobs.centres[cell], strict=True))
        law = sum(share * literal(blobs, centre, cell) for share, centre in pairs)
        np.testing.assert_allclose(policy.weights[cell], law, rtol=1e-12)
        f = np.random.default_rng(1).standard_normal(policy.weights.shape)
        mean, gradient = blobs.mollified(f)
        for n, (_, centre) in enumerate(pairs):
            assert mean[cell, n] == pytest.approx(literal(blobs, centre, cell) @ f[cell], rel=1e-11)
            for a, t in enumerate(np.eye(len(centre)) * 1e-5):
                ends = [literal(blobs, centre + way * t, cell) @ f[cell] for way in (-1, 1)]
                assert gradient[cell, n, a] == pytest.approx((ends[1] - ends[0]) / 2e-5, rel=1e-6, abs=1e-8)


def test_a_blob_is_the_normal_law_and_the_even_ones_are_that_of_lebesgue():
    """Mean and variance of one far from the ends; nothing lost at them, at which the slope is zero; the same in all cells."""
    case = line("", "policy.particles=41", "policy.blobs=20", "policy.bandwidth=0.05")
    policy = initial_policy(case, Evaluator.from_case(case).model.grid)
    flat = policy.weights / np.where((np.arange(41) % 40) == 0, 0.5, 1.0)
    np.testing.assert_allclose(flat, 1 / 40, rtol=1e-2)
    blobs = replace(policy.blobs, centres=np.full((7, 1, 1), 0.13), shares=np.ones((7, 1)))
    law, u = blobs.weights[3], np.linspace(-1, 1, 41)
    assert law @ u == pytest.approx(0.13, abs=1e-7) and law @ u**2 - 0.13**2 == pytest.approx(0.1**2, rel=1e-6)
    ends = replace(blobs, centres=np.full((7, 1, 1), 1.0))
    assert np.abs(ends.mollified(np.tile(np.exp(u), (7, 1)))[1]).max() < 1e-12


# -- gradient and flow ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [SLIDE, BOTH], ids=["wasserstein", "with weights"])
@pytest.mark.parametrize(("criterion", "plane"), [*((kind, False) for kind in KINDS), ("", True)], ids=[*NAMES, "plane"])
def test_the_taylor_remainder_of_the_gradient_is_quadratic_and_the_flow_falls_by_its_square(criterion, plane, metric):
    evaluator, evaluation = start(line(criterion, plane=plane), 2)
    policy, law, blobs = evaluation.policy, evaluation.law, evaluation.policy.blobs
    rng = np.random.default_rng(3)
    v, r = rng.standard_normal(blobs.centres.shape), rng.standard_normal(blobs.shares.shape) * (metric.rate > 0.0)
    v *= np.minimum(blobs.centres - blobs.low[:, None], blobs.high[:, None] - blobs.centres)  # stays between the ends
    r -= (blobs.shares * r).sum(axis=1, keepdims=True)
    variation, gradient = blobs.mollified(evaluation.first_variation)
    slope = inner(law, blobs.shares, gradient, v) + np.einsum("k,kn,kn,kn->", law, blobs.shares, r, variation)
    remainders = []
    for t in [0.02 / 2**k for k in range(4)]:
        moved = policy.of_blobs(blobs.moved(blobs.centres + t * v, blobs.shares * (1.0 + t * r)))
        remainders.append(abs(evaluator.evaluate(moved, evaluation).objective - evaluation.objective - t * slope))
    assert np.diff(np.log2(remainders)) == pytest.approx(-2.0, abs=0.2)
    norm, t = gradient_norm(evaluation, metric), 1e-4
    ahead = flow_step(evaluator, evaluation, SCHEMES["rk4"], t, metric).evaluation
    assert (evaluation.objective - ahead.objective) / t == pytest.approx(norm**2, rel=2e-2)
    on_the_way = law if evaluation.controlled is None else np.where(evaluation.controlled, law, 0.0)
    assert step_length(on_the_way, policy, ahead.policy, metric) / t == pytest.approx(norm, rel=2e-2)


def test_schemes_have_their_order():
    evaluator, evaluation = start(line(), None)

    def end(name: str, count: int) -> np.ndarray:
        now = evaluation
        for _ in range(count):
            now = flow_step(evaluator, now, SCHEMES[name], 0.2 / count, BOTH).evaluation
        return np.concatenate([now.policy.blobs.centres.ravel(), now.policy.blobs.shares.ravel()])

    exact = end("rk4", 24)
    for method, counts in {"euler": 12, "heun": 8, "rk4": 3}.items():
        errors = [np.abs(end(method, count) - exact).max() for count in (counts, 2 * counts)]
        assert np.log2(errors[0] / errors[1]) == pytest.approx(SCHEMES[method].order, abs=0.2)


@pytest.mark.parametrize("criterion", KINDS, ids=NAMES)
@given(
    seed=st.integers(0, 2**32 - 1), length=st.sampled_from([1e-3, 1.0, 1e2, 1e6]), eps=st.sampled_from([1e-9, 1e-3, 0.3, 10.0]),
    metric=st.sampled_from([SLIDE, BOTH]),
)
@settings(max_examples=8)
def test_the_objective_never_rises_however_long_the_step(criterion, seed, length, eps, metric):
    evaluator, evaluation = start(line(criterion, f"policy.entropy={eps}"), seed)
    for _ in range(3):
        after = flow_step(evaluator, evaluation, SCHEMES["euler"], length, metric).evaluation
        level = objective_rounding(evaluation) + after.residual_rounding + evaluation.residual_rounding
        assert after.objective <= evaluation.objective + level
        evaluation = after


def test_moves_of_cells_that_would_raise_them_are_halved_and_a_rise_of_any_cell_is_seen():
    _, evaluation = start(line())
    blobs, cells = evaluation.policy.blobs, np.arange(7)
    before = frozen(evaluation, blobs, cells)
    np.testing.assert_allclose(before, evaluation.value, atol=1e-11)
    _, gradient = blobs.mollified(evaluation.first_variation)
    far = blobs.moved(blobs.centres - 5.0 * gradient)
    assert (frozen(evaluation, far, cells) > before).any()
    short, halvings = searched(evaluation, far)
    assert halvings.max() > 0 and np.all(frozen(evaluation, short, cells) <= before + 1e-12)


def test_no_price_and_narrow_blobs_are_particles_that_slide_as_ever():
    """Speeds at centres away from the ends against -grad_a Q of the particles themselves, to the square of the bandwidth."""
    errors = []
    for bandwidth in (0.04, 0.02):
        settings = ["policy.entropy=1e-12", "policy.particles=161", "policy.blobs=4", f"policy.bandwidth={bandwidth}"]
        text = line("", *settings).to_text().replace("0.2*abs(u)", "0.2*u")
        _, evaluation = start(Case.from_text(text), None)
        blobs = evaluation.policy.blobs
        bare = {"reference", "entropy", "blobs", "bandwidth"}
        kept = [row for row in text.splitlines() if row.split(" =")[0] not in bare]
        particles = Evaluator.from_case(Case.from_text("\n".join(kept).replace('geometry = "wasserstein"', "")))
        plain = particles.evaluate(initial_policy(Case.from_text("\n".join(kept)), evaluation.policy.grid).moved(
            blobs.centres, blobs.shares
        ))
        errors.append(np.abs(blobs.mollified(evaluation.first_variation)[1] - plain.q_gradient).max())
    assert errors[0] < 0.1 and errors[0] / errors[1] == pytest.approx(4.0, rel=0.05)


# -- the linear regulator ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("count", "width", "geometry", "steps"),
    [(1, 0.3, "wasserstein", 45), (4, 0.2, "wasserstein", 50), (8, 0.2, "wasserstein_fisher_rao", 60)],
)
def test_the_soft_linear_regulator(count, width, geometry, steps):
    """Mixtures of normal laws of variance d^2: alone N(-K x, d^2); many have the variance eps/(2(r + P)) where d^2 is less."""
    settings = [f"policy.blobs={count}", f"policy.bandwidth={width / 11.0}", f"flow.stop.steps={steps}"]
    settings += ["policy.particles=56", f"flow.geometry='{geometry}'", "flow.stop.gap=1e-5"]
    case = Case.from_text(REGULATOR, overrides=settings)
    solution = wg.solve(case)
    p = 0.5 * (1.0 + np.sqrt(5.0))
    exact = 0.25 * p - 0.2 * np.log(np.pi * 0.4 / (1.0 + p))
    variance = 0.2 / (1.0 + p)
    alone = p * (0.25 + width**2) + width**2 - 0.2 * np.log(2.0 * np.pi * np.e * width**2)
    near = np.linspace(-1.5, 1.5, 7)
    np.testing.assert_allclose(solution.policy.mean(near[:, None])[:, 0], -p / (1.0 + p) * near, atol=1e-3)
    assert solution.lower_bound <= solution.objective and solution.lower_bound == pytest.approx(exact, abs=1e-4)
    if count == 1:
        assert solution.objective == pytest.approx(alone, abs=1e-6) and alone > exact + 2e-3
        return
    assert 0.0 < solution.objective - exact < {4: 2e-3, 8: 2e-5}[count]
    np.testing.assert_allclose(solution.policy.std([[0.0], [1.0]])[:, 0] ** 2, variance, rtol={4: 0.1, 8: 2e-3}[count])


def test_many_blobs_come_to_the_optimum_of_the_weights():
    """Of a problem that is no regulator: soft policy iteration over the same particles is what is left below."""
    text = line(DISCOUNTED, "policy.particles=21").to_text()
    best = wg.solve(Case.from_text(LINE.replace("ACTIONS", "bounds = [-1, 1]").replace("CRITERION", DISCOUNTED).replace(
        "weights = [1, 2, 3, 1, 1]", "").replace("particles = 5", "particles = 21")))
    gaps = []
    for count in (2, 10):
        settings = [f"policy.blobs={count}", "policy.bandwidth=0.05", "flow.stop={gap=1e-9, steps=60}"]
        found = wg.solve(Case.from_text(text, overrides=[*settings, "flow.geometry='wasserstein_fisher_rao'"]))
        gaps.append(found.objective - best.objective)
        assert found.lower_bound <= best.objective + 1e-12
        assert np.all(np.diff(found.history["objective"]) <= 1e-11)
    assert gaps[0] > 10 * gaps[1] > 0 and gaps[1] < 5e-3


# -- runs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_claims_hold_on_random_problems(seed):
    found = judge(blob_problem(seed) + "[output]\nestimate = false\n")
    assert not found["violations"], found
    assert found["status"] in ("converged", "stopped", "refused")


@pytest.mark.parametrize("method", ["euler", "heun"])
def test_a_resumed_run_gives_the_same_numbers(method):
    case = line("", f"flow.method={method}", "flow.geometry='wasserstein_fisher_rao'", "flow.stop={gap=1e-300, steps=4}")
    whole, resumed = whole_and_resumed(case)
    np.testing.assert_array_equal(resumed.policy.blobs.centres, whole.policy.blobs.centres)


def test_files_hold_the_blobs_and_what_reads_policies_reads_theirs(tmp_path):
    case, path = line("", "flow.stop={steps=3}", plane=True), tmp_path / "blobs.h5"
    solution = wg.run(case, path)
    assert (case.policy.blobs, case.policy.bandwidth) == (9, pytest.approx(1 / 6)) and case.flow.method == "heun"
    assert Case.from_text(case.to_text(), case.name) == case
    with ResultFile(path) as file:
        centres, shares, weights = (file.frame(name) for name in ("blob_centres", "blob_shares", "weights"))
        assert centres.shape == (7, 9, 2) and shares.shape == (7, 9) and file.frame("blob_centres", 0).shape == centres.shape
    blobs = replace(Blobs.even(case, solution.policy.grid.states), centres=centres, shares=shares)
    np.testing.assert_array_equal(blobs.weights, weights)
    assert "blob_centres" in solution.to_xarray()
    np.testing.assert_array_equal(wg.Policy.load(path).weights, solution.policy.weights)
    with pytest.raises(StartError, match="blobs begin evenly"):
        wg.solve(case, initial=path)


def test_jumps_are_no_trouble_and_steps_are_adaptive():
    """No derivative along the actions is taken; a step that is too long is thrown away."""
    case = line("", "cost.stage='x**2 + where(u > 0.3, 0, 1) + abs(u)'", "flow.stop={steps=8}")
    solution = wg.solve(case)
    assert np.all(np.diff(solution.history["objective"]) <= 1e-12) and solution.policy.mean([0.0])[0] > 0.1
    evaluator, evaluation = start(line())
    outcome = adaptive_flow_step(evaluator, evaluation, SCHEMES["heun"], 50.0, BOTH)
    assert outcome.rejected > 0 and outcome.evaluation.objective < evaluation.objective


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["flow.geometry='fisher_rao'", "policy.blobs=3"], "policy.blobs: blobs slide where"),
        (["flow.method='newton'"], "newton moves no actions, take euler, heun, rk4"),
        (["policy.weights=[1, 1, 1, 1, 1, 1, 1, 1, 1]"], "policy.weights: those of the particles are given by the blobs"),
        (["policy.bandwidth=0.01"], "less than the particles are apart .0.125."),
        (["policy.bandwidth=2"], "at most 1, got 2"),
        (["output.curvature_every=1"], "curvature_every: the Hessian is not known"),
        (["policy.initial.distribution='normal'"], "gives particles no density"),
    ],
)
def test_what_is_not_built_is_said(settings, message):
    with pytest.raises(CaseError, match=message):
        line("", *settings)


def test_what_is_of_no_blobs_is_said():
    text = LINE.replace("CRITERION", "").replace("weights = [1, 2, 3, 1, 1]", "")
    with pytest.raises(CaseError, match="actions with values stay"):
        Case.from_text(text.replace("ACTIONS", "values = [-1, -0.5, 0, 0.5, 1]"), overrides=["flow.geometry='wasserstein'"])
    with pytest.raises(CaseError, match="not used without"):
        Case.from_text(text.replace("ACTIONS", "bounds = [-1, 1]").replace("entropy = 0.3", "blobs = 4"))
    with pytest.raises(CaseError, match="do not stand evenly over 2 actions, take 9 or 4"):
        line("", "policy.blobs=8", plane=True)
    with pytest.raises(CaseError, match="blobs slide over two particles"):
        line("", "policy.particles=1")
