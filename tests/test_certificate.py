"""The certificate: below the optimum for any policy and any V, sharp at the optimum, honest about what it assumed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wassgrid.case import Case
from wassgrid.certificate import best_actions, branch_and_bound, certify, find_best
from wassgrid.certificate.action_value import ActionValue
from wassgrid.certificate.branch_and_bound import Boxes, BranchAndBound, _product, least_curvature
from wassgrid.certificate.search_box import search_box
from wassgrid.evaluation import Evaluation, Evaluator
from wassgrid.method.newton import newton_step
from wassgrid.policy import ParticlePolicy
from wassgrid.problem.control_problem import ControlProblem
from wassgrid.problem.exact import Manufactured, ScalarLQ, VectorLQ
from wassgrid.transition.threads import TEAM

pytestmark = pytest.mark.thorough

DISCOUNTED = {"criterion": {"kind": "discounted", "discount": 0.9}}
LQ = ScalarLQ()
VECTOR_LQ = VectorLQ(
    np.array([[0.9, 0.2], [-0.1, 0.8]]), np.array([[1.0, 0.3], [0.2, 0.9]]), np.eye(2),
    np.array([[0.5, 0.2], [0.2, 0.4]]), np.array([[0.3, 0.1], [0.1, 0.25]]),
)  # fmt: skip


def small(stage: str, following: str, noise: str = "0.4", bounds: str = "bounds = [-1.5, 1]", more: str = "") -> str:
    return f"""
[states.x]
next = "{following}"
noise = "{noise}"
domain = [-2, 2]
[actions.a]
{bounds}
[cost]
stage = "{stage}"
[grid]
points = {{ x = 17 }}
{more}"""


TEXTS = {
    "circle": Manufactured.circle().case_text(24),
    "circle, discounted": Manufactured.circle().case_text(24, **DISCOUNTED),
    "circle, linear kernel": Manufactured.circle().case_text(24, "linear"),
    "pendulum, aligned": Manufactured.pendulum().case_text({"theta": 16, "omega": "aligned"}, "auto"),
    "pendulum, noise in both": Manufactured.pendulum(0.5).case_text({"theta": 14, "omega": 15}, "auto"),
    "LQ": LQ.case_text(21),
    "LQ, discounted": LQ.case_text(21, **DISCOUNTED),
    "vector LQ, two actions": VECTOR_LQ.case_text({"x1": 9, "x2": 9}, deviations=3.0),
    "bounded": small("x**2 + 0.1*a**2", "0.9*x + 0.8*sin(a)"),
    "curved mean": small("0.1*x**2 + 0.3*sin(2*x)", "0.5*x + 2*sin(2*a)"),
    "kink in the cost": small("x**2 + 0.3*abs(a - 0.2*x)", "0.9*x + a"),
    "kink in the mean": small("x**2 + 0.1*a", "0.9*x + clip(1.5*a, -0.8, 0.7)"),
    "jump in the cost": small("x**2 + where(a > 0.3, 0.4, 0.1*a)", "0.9*x + a"),
    "jump in the mean": small("x**2 + 0.05*a**2", "0.9*x + where(a > 0.2, 0.5, a/2)"),
    "wells": small("x**2 + 0.3*cos(9*a) + 0.1*a", "0.9*x + 0.8*a"),
    "means beyond the ends": small("x**2 + 0.05*a", "0.9*x + 3*a"),
    # discounted, since without noise the chain may have several recurrent classes
    "no noise": small("x**2 + 0.1*a**2", "0.8*x + a", "0", more='[criterion]\nkind = "discounted"\ndiscount = 0.9'),
    "coarse noise": small("x**2 + 0.1*a**2", "0.8*x + a", "0.05"),
    "action in the cost alone": small("x**2 + (a**2 - 1)**2 + 0.3*a", "0.7*x"),
    "action in the cost alone, in the plane": small("x**2 + y + (a**2 - 1)**2 + 0.3*a", "0.7*x").replace(
        "[actions.a]", '[states.y]\nnext = "0.5*y"\nnoise = "0.4"\ndomain = [-1, 1]\n[actions.a]'
    ).replace("x = 17", "x = 9, y = 7"),
    "quartic, unbounded": small("x**2 + a**4 - a**3 - a**2 + 0.3*a*x", "0.9*x + 0.3*a", bounds=""),
    "two actions, bounded": small("x**2 + (a - b)**2*(1.5 + a*b)", "0.7*x + 0.4*a - 0.3*b")
    .replace("[cost]", "[actions.b]\nbounds = [-1, 2]\n[cost]"),
}  # fmt: skip


@cache
def evaluator(name: str) -> Evaluator:
    return Evaluator.from_case(Case.from_text(TEXTS[name], name))


def random_evaluation(name: str, seed: int, spread: float = 1.0) -> Evaluation:
    solver = evaluator(name)
    grid, problem = solver.model.grid, solver.model.problem
    rng = np.random.default_rng(seed)
    # around zero: stable for all problems here
    actions = spread * rng.standard_normal((grid.size, 2, problem.action_dimension))
    if "LQ" in name:
        gain = VECTOR_LQ.gain if "vector" in name else np.array([[LQ.gain]])
        actions = 0.3 * actions - grid.states[:, None, :] @ gain.T
    actions = np.clip(actions, *problem.action_bounds.T)
    return solver.evaluate(ParticlePolicy(grid, actions, np.full((grid.size, 2), 0.5)))


@cache
def optimum(name: str) -> tuple[float, float]:
    """Return J of the best policy found on the grid, and the gap that is left."""
    evaluation = random_evaluation(name, 0)
    for _ in range(25):
        certificate = certify(evaluation)
        if certificate.gap < 1e-10:
            break
        best = replace(find_best(evaluation), actions=certificate.best_actions, values=certificate.best_values)
        evaluation = newton_step(evaluator(name), evaluation, np.inf, best).evaluation
    return evaluation.objective, certify(evaluation).gap


# the number of boxes is limited; and intervals cannot tell the two sides of a jump of the mean from what is between
LOOSE = {"vector LQ, two actions": 1e-2, "jump in the mean": np.inf}


@pytest.mark.parametrize("name", TEXTS)
def test_newton_with_escape_reaches_an_optimum_that_is_proven(name):
    _, gap = optimum(name)
    assert -1e-12 <= gap <= LOOSE.get(name, 1e-8)


@pytest.mark.parametrize("name", TEXTS)
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.1, 1.0]), size=st.sampled_from([0.0, 1e-6, 0.1, 3.0]))
@settings(max_examples=8)
def test_the_bound_is_below_the_optimum_for_every_policy_and_every_value_function(name, seed, spread, size):
    evaluation = random_evaluation(name, seed, spread)
    error = size * np.random.default_rng(seed).standard_normal(evaluation.value.size)
    value = evaluation.value + error
    objective = evaluation.objective
    if evaluation.discount < 1.0:
        # J = (1 - g) rho V is a function of V
        objective += float((1.0 - evaluation.discount) * error.mean())
    certificate = certify(replace(evaluation, value=value, objective=objective))
    assert certificate.guaranteed
    best, _ = optimum(name)
    assert certificate.lower_bound <= best + 1e-11 * (1 + abs(best))
    if size == 0.0:
        assert best <= evaluation.objective + 1e-11
        assert certificate.gap == pytest.approx(evaluation.objective - certificate.lower_bound)


def scanned(
    evaluation: Evaluation, low: np.ndarray, high: np.ndarray, points: int, cells: np.ndarray | None = None
) -> np.ndarray:
    """Least Q on a fine scan of boxes of actions, one box per cell, or of the cells given."""
    m = low.shape[1]
    side = np.linspace(0.0, 1.0, points if m == 1 else round(points**0.5))
    unit = np.stack(np.meshgrid(*[side] * m, indexing="ij"), axis=-1).reshape(-1, m)
    cells = np.arange(len(low)) if cells is None else cells
    return evaluation.q_values(cells, low[:, None] + (high - low)[:, None] * unit).min(axis=1)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("seed", [1, 2])
def test_no_action_is_better_than_the_bound_of_its_cell(name, seed):
    evaluation = random_evaluation(name, seed)
    certificate = certify(evaluation)
    low, high, _, grows = search_box(evaluation)
    assert grows
    least = scanned(evaluation, low, high, 2000)
    rounding = 1e-12 * np.abs(evaluation.value).max()
    assert np.all(certificate.slack + evaluation.value <= least + rounding)
    assert np.all(certificate.slack + evaluation.value <= certificate.best_values)
    # the best action found is one: its Q is what is said, and no worse than the best particle
    cells = np.arange(least.size)
    q = evaluation.q_values(cells, certificate.best_actions[:, None, :])[:, 0]
    np.testing.assert_allclose(q, certificate.best_values, atol=rounding)
    assert np.all(certificate.best_values <= evaluation.q.min(axis=1) + rounding)
    if name not in LOOSE:
        # where it decides, the bound is sharp up to half of the gap
        exact = float((least - evaluation.value).min())
        assert certificate.slack.min() >= 1.5 * exact - 1e-8


@pytest.mark.parametrize("name", TEXTS)
def test_bounds_hold_on_boxes_of_any_size(name):
    evaluation = random_evaluation(name, 5)
    rng = np.random.default_rng(0)
    whole_low, whole_high, _, _ = search_box(evaluation)
    q = ActionValue.build(evaluation, whole_low, whole_high)
    proof = BranchAndBound(q, whole_low, whole_high, whole_low, evaluation.q.min(axis=1), 0.0)
    cells = np.repeat(np.arange(len(whole_low)), 20)
    low, high = whole_low[cells], whole_high[cells]
    centre = low + (high - low) * rng.random(low.shape)
    radius = (high - low) * 10.0 ** rng.uniform(-3, 0, (cells.size, 1))
    low, high = np.maximum(low, centre - radius), np.minimum(high, centre + radius)
    for point in (0.5 * (low + high), low, low + (high - low) * rng.random(low.shape)):
        found = proof.bounded(Boxes(cells, low, high, point, np.zeros(cells.size, bool)))
        least = scanned(evaluation, low, high, 64, cells)
        rounding = 1e-12 * np.abs(evaluation.value).max()
        assert np.all(found.lower <= least + rounding)
        assert np.all(found.lower <= found.value)
        # in small boxes they are sharp
        sharp = found.smooth & (radius[:, 0] < 0.02 * (whole_high - whole_low)[cells].max(axis=1))
        assert np.median((least - found.lower)[sharp]) <= 1e-3 * np.ptp(evaluation.q) if sharp.any() else True


@pytest.mark.parametrize("name", ["quartic, unbounded", "LQ", "vector LQ, two actions", "circle", "pendulum, aligned"])
def test_no_action_outside_the_search_box_is_better(name):
    evaluation = random_evaluation(name, 3)
    low, high, _, grows = search_box(evaluation)
    assert grows
    least = evaluation.q.min(axis=1)
    rng = np.random.default_rng(0)
    width = high - low
    for scale in (1.01, 1.5, 10.0, 1000.0):
        for _ in range(20):
            direction = rng.uniform(-1, 1, low.shape)
            direction /= np.abs(direction).max(axis=1, keepdims=True)
            actions = 0.5 * (low + high) + 0.5 * scale * width * direction
            q = evaluation.q_values(np.arange(low.shape[0]), actions[:, None, :])[:, 0]
            assert np.all(q >= least)


def test_closed_forms_are_bracketed():
    for name, exact in (("LQ", LQ.objective), ("circle", 1.0)):
        objective, _ = optimum(name)
        # up to the error of these coarse grids
        assert objective == pytest.approx(exact, rel=2e-3), name
    fine = Evaluator.from_case(Case.from_text(LQ.case_text(61, deviations=8.0)))
    grid = fine.model.grid
    evaluation = fine.evaluate(ParticlePolicy.around(grid, -LQ.gain * grid.states))
    for _ in range(4):
        evaluation = newton_step(fine, evaluation, np.inf, find_best(evaluation)).evaluation
    certificate = certify(evaluation)
    assert certificate.guaranteed
    assert abs(certificate.lower_bound - LQ.objective) <= 1e-8
    assert abs(evaluation.objective - LQ.objective) <= 1e-8


def test_a_matrix_with_negative_weights_gives_no_guarantee():
    text = small("x**2 + 0.1*a**2", "0.8*x + a", "0", more='kernel = "cubic"')
    solver = Evaluator.from_case(Case.from_text(text))
    grid = solver.model.grid
    certificate = certify(solver.evaluate(ParticlePolicy.around(grid, -0.3 * grid.states)))
    assert not certificate.guaranteed
    assert "not a Markov matrix" in certificate.method


def test_a_cost_that_does_not_grow_gives_no_guarantee():
    text = small("x**2 + 0.1*sin(a)", "0.8*x + tanh(a)", bounds="")
    solver = Evaluator.from_case(Case.from_text(text))
    grid = solver.model.grid
    certificate = certify(solver.evaluate(ParticlePolicy.around(grid, -0.3 * grid.states)))
    assert not certificate.guaranteed
    assert "not seen to grow" in certificate.method


def test_what_was_assumed_of_unbounded_actions_is_said():
    """a^4 - a^3 - a^2 grows, but interval arithmetic sees it on bounded shells only; a convex cost needs no assumption."""
    assert "from the particles" in certify(random_evaluation("quartic, unbounded", 1)).method
    assert "from the particles" not in certify(random_evaluation("LQ", 1)).method


@given(st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_least_curvature_is_below_every_matrix_of_the_range(m, seed):
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(m, m))
    middle, radius = middle + middle.T, np.abs(rng.normal(size=(m, m))) * rng.choice([0.0, 0.1, 1.0])
    radius = radius + radius.T
    for diagonal in least_curvature(np.stack([middle - radius, middle + radius])[:, None]):
        for _ in range(20):
            error = radius * rng.uniform(-1, 1, (m, m))
            matrix = middle + np.triu(error) + np.triu(error, 1).T
            assert np.linalg.eigvalsh(matrix - np.diag(diagonal[0])).min() >= -1e-9


@pytest.mark.parametrize("end", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("cells", [slice(None), slice(0, 3)])
@pytest.mark.parametrize("name", ["wells", "two actions, bounded", "means beyond the ends"])
def test_ends_of_enclosures_that_are_no_numbers_become_no_finite_bound(name, cells, end, monkeypatch):
    evaluation, right = random_evaluation(name, 2), ControlProblem.action_ranges
    honest = certify(evaluation).lower_bound

    def broken(self, states, low, high, order=2):
        found = right(self, states, low, high, order)
        some = np.isin(states, evaluation.model.grid.states[cells]).all(axis=1)
        for table in (*found.cost, *found.mean[1:]):
            table[:, some] = end
        return found

    monkeypatch.setattr(ControlProblem, "action_ranges", broken)
    certificate = certify(evaluation)
    assert np.all(np.abs(certificate.slack) != np.finfo(float).max)
    # without the broken cells the others may give a higher bound, never all of them
    assert not certificate.guaranteed or (end == np.inf and cells != slice(None))
    if end != np.inf:
        assert certificate.lower_bound == -np.inf < honest


def test_products_of_ranges_keep_what_is_not_a_number():
    nan, inf = np.nan, np.inf
    x = np.array([[0.0, 0.0, -1.0, 0.0, nan], [0.0, 2.0, 1.0, 0.0, nan]])
    y = np.array([[-inf, -inf, 3.0, nan, 0.0], [inf, 1.0, 4.0, nan, 0.0]])
    np.testing.assert_array_equal(_product(x, y), [[0.0, -inf, -4.0, nan, nan], [0.0, 2.0, 4.0, nan, nan]])


@pytest.mark.parametrize("name", ["quartic, unbounded", "vector LQ, two actions", "pendulum, aligned"])
def test_search_and_proof_are_the_same_for_any_number_of_threads_and_block_of_cells(name, monkeypatch):
    found = []
    for size, at_once in ((1, 1 << 17), (1, 200), (3, 200)):
        monkeypatch.setattr(TEAM, "size", size)
        monkeypatch.setattr(best_actions, "_PROBED_AT_ONCE", at_once)
        monkeypatch.setattr(branch_and_bound, "_BOXES_AT_ONCE", at_once)
        evaluation = random_evaluation(name, 5)
        best, certificate = find_best(evaluation), certify(evaluation)
        found.append((best.actions, best.values, best.lead, certificate.slack, certificate.best_actions, certificate.lower_bound))
    for one, other in zip(found[0], found[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
    for one, other in zip(found[1], found[2], strict=True):
        np.testing.assert_array_equal(one, other)
