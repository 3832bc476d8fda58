"""Actions that take values of a list beside actions between bounds: optimum and proof against brute force, and what users do."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from oracle import DenseProblem
from random_problems import mixed_problem

import wassgrid as wg
from benchmarks.soundness import judge
from wassgrid.case import Case
from wassgrid.certificate import certify
from wassgrid.certificate.continuous.interval import ProveError
from wassgrid.compare import compare
from wassgrid.differences import check_derivatives
from wassgrid.environment import EnvironmentMismatchError
from wassgrid.export import ExportError, export
from wassgrid.hessian import Hessian
from wassgrid.plotting import comparison
from wassgrid.plotting.fields import policy as policy_figure
from wassgrid.policy import ParticlePolicy, PolicyError
from wassgrid.problem.control_problem import ControlProblem
from wassgrid.prove import prove
from wassgrid.report import summary_rows
from wassgrid.runs.grid_solver import GridSolver
from wassgrid.runs.start import Start, StartError
from wassgrid.storage import ResultFile

pytestmark = pytest.mark.thorough

# a gear whose cost and push jump with it, and a throttle; 1/gear has no value between the values
LINE = """
[states.x]
next = "0.8*x + 0.5*gear*throttle - 0.1*sign(x)"
noise = "0.6"
domain = [-2, 2]
boundary = "BOUNDARY"
[actions.gear]
values = [-1, 2, 0.5]
[actions.throttle]
bounds = [0, 1]
[cost]
stage = "x**2 + 0.3*throttle**2 + 0.02/gear**2 + 0.2*where(gear*x > 0, throttle, 0) + 0.1*where(gear == 2, 1, 0)"
[grid]
points = { x = 9 }
kernel = "KERNEL"
[flow]
stop = { gap = 1e-8 }
CRITERION
"""
DISCOUNTED = '[criterion]\nkind = "discounted"\ndiscount = 0.9\n'
PLANE = """
[states.x]
next = "0.9*x + 0.4*gear*throttle + 0.1*brake"
noise = "0.4"
domain = [-2, 2]
[states.y]
next = "0.7*y + 0.3*next(x) + 0.2*brake"
noise = "0.5"
domain = [-2, 2]
[actions.gear]
values = [-1, 0, 1]
[actions.throttle]
bounds = [0, 1]
[actions.brake]
values = [0, 0.5]
[cost]
stage = "x**2 + 0.5*y**2 + 0.3*abs(gear) + 0.1*brake + 0.1*throttle**2"
[grid]
points = { x = 9, y = 8 }
kernel = "gaussian"
"""


def line(boundary: str = "clamp", kernel: str = "gaussian", criterion: str = "") -> str:
    return LINE.replace("BOUNDARY", boundary).replace("KERNEL", kernel).replace("CRITERION", criterion)


def brute(text: str, policy: ParticlePolicy) -> tuple[float, float]:
    """The true cost of a policy, and the least of all over its own actions and a fine grid of the others for every value."""
    dense = DenseProblem(text)
    cost = dense.value(*dense.chain(policy.actions, policy.weights))[0]
    return cost, dense.optimum(policy.actions, policy.weights, each=101)


@pytest.mark.parametrize(("boundary", "kernel", "criterion"), [
    ("clamp", "gaussian", ""), ("reflect", "linear", DISCOUNTED), ("periodic", "matched", ""), ("project", "linear", DISCOUNTED),
])  # fmt: skip
def test_no_policy_of_all_is_better_and_that_is_proven(boundary, kernel, criterion):
    text = line(boundary, kernel, criterion)
    solution = wg.solve(Case.from_text(text, overrides=["output.estimate=false"]))
    cost, least = brute(text, solution.policy)
    assert solution.converged and "proven" in solution.reason
    assert solution.objective == pytest.approx(cost, abs=1e-11)
    assert solution.lower_bound <= least + 1e-12 <= solution.lower_bound + 1e-8
    assert np.isin(solution.policy.actions[..., 0], [-1, 2, 0.5]).all()


def test_a_product_law_of_two_lists_and_a_throttle():
    """P is stored as a product; all methods come to the same optimum, and values are never left on the way."""
    text = PLANE
    solution = wg.solve(Case.from_text(text, overrides=["output.estimate=false"]))
    cost, least = brute(text, solution.policy)
    assert solution.objective == pytest.approx(cost, abs=1e-11)
    assert solution.converged and solution.lower_bound <= least + 1e-12
    values = {(g, b) for g in (-1.0, 0.0, 1.0) for b in (0.0, 0.5)}
    ways = (
        ["flow.method=full_newton"], ["flow.method=proximal"], ["flow.geometry=wasserstein_fisher_rao"],
        ["flow.geometry=fisher_rao", "flow.method=policy_iteration", "flow.escape=true"],
        ["flow.geometry=fisher_rao", "flow.method=exponential", "flow.escape=true"],
    )  # fmt: skip
    for way in ways:
        fewer = ["output.estimate=false", "flow.stop={gap = 1e-5, steps = 60}", "policy.particles=6"]
        case = Case.from_text(text, overrides=[*fewer, *way])
        solver = GridSolver.from_case(case)
        states = [solver.start()]
        while solver.verdict(states[-1]) is None:
            states.append(solver.advance(states[-1]))
        assert solver.verdict(states[-1]).status == "converged", way
        assert states[-1].evaluation.objective == pytest.approx(solution.objective, abs=1e-5)
        for one, other in itertools.pairwise(states):
            assert other.evaluation.objective <= one.evaluation.objective + 1e-10
        for state in states:
            actions = state.evaluation.policy.actions
            assert {tuple(pair) for pair in actions[..., [0, 2]].reshape(-1, 2).tolist()} <= values
    again = GridSolver.from_case(case)
    state = again.restore(solver.record(states[1]).checkpoint())
    while again.verdict(state) is None:
        state = again.advance(state)
    np.testing.assert_array_equal(state.evaluation.policy.actions, states[-1].evaluation.policy.actions)
    assert state.evaluation.objective == states[-1].evaluation.objective


def test_flows_stay_with_the_values_they_began_with():
    case = Case.from_text(PLANE, overrides=["flow.method=rk4", "flow.stop={steps = 3}", "output.estimate=false"])
    solver = GridSolver.from_case(case)
    first = state = solver.start()
    for _ in range(3):
        state = solver.advance(state)
    before, after = first.evaluation.policy.actions, state.evaluation.policy.actions
    np.testing.assert_array_equal(before[..., [0, 2]], after[..., [0, 2]])
    assert np.abs(after[..., 1] - before[..., 1]).max() > 0.01 and state.evaluation.objective < first.evaluation.objective


@pytest.mark.parametrize("seed", [0, 2])
def test_random_problems_of_the_whole_language(seed):
    """See also `benchmarks/soundness.py --mixed`."""
    found = judge(mixed_problem(seed) + "[output]\nestimate = false\n")
    assert not found["violations"], found


def test_what_leaves_values_out_or_puts_some_between_is_found(monkeypatch):
    """The checks above fail where one combination is not searched, and where the list counts as an interval."""
    whole, text = ControlProblem.parts, line()
    monkeypatch.setattr(ControlProblem, "parts", lambda problem, low, high: whole(problem, low, high)[::2])
    solution = wg.solve(Case.from_text(text, overrides=["output.estimate=false", "policy.particles=1"]))
    assert solution.lower_bound > brute(text, solution.policy)[1] + 1e-3
    text = PLANE.replace("0.3*abs(gear)", "0.3*gear**2")
    monkeypatch.setattr(ControlProblem, "parts", lambda problem, low, high: [(low, high)])
    evaluation = GridSolver.from_case(Case.from_text(text)).start().evaluation
    between = certify(evaluation)
    monkeypatch.undo()
    assert between.lower_bound < certify(evaluation).lower_bound - 1e-6


def test_actions_without_bounds_beside_a_list():
    """The cost alone bounds the search, by another curvature for every value."""
    text = line().replace("bounds = [0, 1]", "").replace("0.3*throttle**2", "0.1*(1 + gear**2)*throttle**2")
    solution = wg.solve(Case.from_text(text, overrides=["output.estimate=false"]))
    cost, least = brute(text, solution.policy)
    assert solution.converged and solution.objective == pytest.approx(cost, abs=1e-10)
    assert solution.lower_bound <= least + 1e-12 <= solution.lower_bound + 1e-6


def test_the_way_to_a_goal_beside_bounds_that_depend_on_the_state():
    goal = '[criterion]\nkind = "total"\n[goal]\nwhere = "x >= 1.5"\n'
    text = line("clamp", "linear", goal).replace("bounds = [0, 1]", 'bounds = [0, "1 + 0.2*abs(x)"]').replace('"x**2', '"1')
    solution = wg.solve(Case.from_text(text, overrides=["output.estimate=false"]))
    dense = DenseProblem(text.replace('kind = "total"', 'kind = "average"'))
    free = dense.states["x"] < 1.5
    cells = np.flatnonzero(free)
    places = dense.candidates(solution.policy.actions)[free]
    own, flat = np.repeat(cells, places.shape[1]), places.reshape(-1, 2)
    rows = dense.rows(own, flat).reshape(*places.shape[:2], -1)[:, :, free]
    cost = dense.costs(own, flat).reshape(places.shape[:2])
    value = np.zeros(cells.size)
    for _ in range(30):
        best = (cost + rows @ value).argmin(axis=1)
        of = np.arange(cells.size)
        value = np.linalg.solve(np.eye(cells.size) - rows[of, best], cost[of, best])
    least = float(dense.initial_law[free] @ value)
    assert solution.converged and solution.lower_bound <= least * (1 + 1e-12)
    assert solution.objective == pytest.approx(least, rel=1e-6)


def test_nothing_is_differentiated_along_a_list():
    solver = GridSolver.from_case(Case.from_text(PLANE, overrides=["policy.particles=6"]))
    evaluation = solver.start().evaluation
    assert (evaluation.q_gradient[..., [0, 2]] == 0.0).all() and (evaluation.q_hessian[..., [0, 2], :] == 0.0).all()
    assert check_derivatives(solver.evaluator, evaluation).passed
    hessian = Hessian(evaluation)
    assert not hessian.domain[..., [0, 2]].any() and hessian.domain[..., 1].any()


# -- policies ------------------------------------------------------------------------------------------------------------


def test_between_cells_values_are_voted_and_the_rest_is_interpolated_where_they_agree():
    case = Case.from_text(line())
    grid = GridSolver.from_case(case).grid
    at, step = grid.states[:, 0], grid.spacing[0]
    gear = np.where(at < 0.1, -1.0, 2.0)
    actions = np.stack([gear, np.where(gear < 0, 0.2 + 0.1 * at, 0.9 - 0.1 * at)], axis=-1)[:, None]
    policy = ParticlePolicy(grid, actions, np.ones((9, 1)), listed=(True, False))
    # the cells at 0 and 0.5 take different values: each keeps its own throttle up to the middle
    for place, expected in ((-0.75, [-1, 0.125]), (0.2, [-1, 0.2]), (0.3, [2, 0.85]), (0.75, [2, 0.825])):
        np.testing.assert_allclose(policy.mode([place]), expected)
        np.testing.assert_allclose(policy.sample([[place]], np.random.default_rng(0))[0], expected)
        law = policy.distribution([place])
        np.testing.assert_allclose(law.mean(), expected, atol=1e-15)
    np.testing.assert_allclose(policy.mean([0.25]), [0.5, 0.525])
    rng = np.random.default_rng(3)
    drawn = np.stack([rng.choice([-1.0, 2.0, 0.5], (9, 8)), rng.random((9, 8))], axis=-1)
    weights = rng.dirichlet(np.ones(8), 9)
    weights[:, 3] = 0.0
    policy = ParticlePolicy(grid, drawn, weights / weights.sum(axis=1, keepdims=True), listed=(True, False))
    for place in (at[2], at[2] + 0.3 * step, at[5] + 0.5 * step, 9.0):
        law, many = policy.distribution([place]), policy.sample(np.full((20_000, 1), place), rng)
        assert law.weights.sum() == pytest.approx(1.0) and (law.weights >= 0.0).all()
        for value in (-1.0, 2.0, 0.5):
            some = law.actions[:, 0] == value
            assert (many[:, 0] == value).mean() == pytest.approx(law.weights[some].sum(), abs=0.02)
            if law.weights[some].sum() > 0.05:
                inside = many[many[:, 0] == value, 1].mean()
                assert inside == pytest.approx(np.average(law.actions[some, 1], weights=law.weights[some]), abs=0.03)
    np.testing.assert_allclose(policy.distribution([at[2]]).mean(), policy.cell_mean()[2])
    with pytest.raises(PolicyError, match="which take values"):
        ParticlePolicy(grid, actions, np.ones((9, 1)), listed=(True,))


def test_a_start_on_another_grid_takes_values_and_interpolates_where_they_agree():
    case = Case.from_text(PLANE, overrides=["policy.particles=1"])
    coarse = GridSolver.from_case(case).grid
    x, y = coarse.states.T
    actions = np.stack([np.where(x < 0.3, 1.0, -1.0), 0.5 + 0.2 * x * y / 4, np.where(y < 0.1, 0.5, 0.0)], axis=-1)[:, None]
    policy = ParticlePolicy(coarse, actions, np.ones((coarse.size, 1)), listed=(True, False, True))
    finer = Case.from_text(PLANE, overrides=["policy.particles=1", "grid.points={x = 21, y = 15}"])
    grid = GridSolver.from_case(finer).grid
    found = Start(policy, "a policy").on(finer, grid).actions[:, 0]
    axes = zip(grid.states.T, coarse.axes, strict=True)
    near_x, near_y = (np.abs(axis[:, None] - nodes).argmin(axis=1) for axis, nodes in axes)
    inside = (np.abs(grid.states[:, 0] - 0.25) > 0.26) & (np.abs(grid.states[:, 1]) > 0.3)
    np.testing.assert_array_equal(found[inside, 0], np.where(coarse.axes[0][near_x] < 0.3, 1.0, -1.0)[inside])
    np.testing.assert_array_equal(found[inside, 2], np.where(coarse.axes[1][near_y] < 0.1, 0.5, 0.0)[inside])
    np.testing.assert_allclose(found[inside, 1], (0.5 + 0.05 * grid.states.prod(axis=1))[inside])
    other = Case.from_text(PLANE, overrides=["actions.gear.values=[-2, 0, 2]", "policy.particles=1"])
    with pytest.raises(StartError, match="gear, brake do not take the values"):
        Start(policy, "a policy").on(other, coarse)


def test_a_run_on_levels_is_as_good_as_one_without(monkeypatch):
    monkeypatch.setattr("wassgrid.grid.levels._LEAST_CELLS", 50)
    ends = ["grid.points={x = 17, y = 16}", "output.estimate=false", "policy.particles=6"]
    one, other = (Case.from_text(PLANE, overrides=[*ends, f"grid.levels={levels}"]) for levels in (1, 2))
    assert GridSolver.from_case(one)._from_coarser() is None
    start = GridSolver.from_case(other)._from_coarser()
    assert start is not None and np.isin(start[0].actions[..., 0], [-1, 0, 1]).all() and start[0].listed == (True, False, True)
    both = wg.solve(one), wg.solve(other)
    assert all(found.converged for found in both) and both[0].objective == pytest.approx(both[1].objective, rel=2e-6)
    assert both[1].record["step"] < both[0].record["step"]


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    path = tmp_path_factory.mktemp("mixed") / "gearbox.h5"
    return wg.run(Case.from_text(PLANE, "gearbox", ["output.estimate=true", "output.curvature_every=2"]), path), path


def test_files_hold_them_and_other_verbs_say_what_they_cannot(solved, tmp_path):
    solution, path = solved
    policy = wg.Policy.load(path)
    assert policy.listed == (True, False, True) and not policy.categorical
    np.testing.assert_array_equal(policy.actions, solution.policy.actions)
    assert export(path, "npz", tmp_path / "gearbox.npz")[0].exists()
    with pytest.raises(ExportError, match="npz"):
        export(path, "c", tmp_path / "gearbox.h")
    with pytest.raises(ProveError, match="actions with values"):
        prove(solution.case)
    found = solution.summary["estimate"]
    assert abs(found["value"] / solution.objective - 1.0) < 0.02
    assert wg.second_order.ends(path).smallest.value > 0.0
    other = tmp_path / "other.h5"
    wg.run(Case.from_text(PLANE, "other", ["output.estimate=false", "flow.stop.steps=1", "policy.particles=18"]), other)
    apart = compare(other, path, points=2)
    assert apart.distance > 0.0 and apart.along is None
    assert any("value of a list" in said for _, said in apart.rows())
    assert comparison(apart).axes
    with pytest.raises(PolicyError, match="no policy"):
        wg.geometry.geodesic(other, path).at(0.5)
    assert compare(path, path, points=2).along is not None
    again = wg.solve(solution.case, initial=path)
    assert again.converged and again.objective == pytest.approx(solution.objective, abs=1e-9)


def test_figures_have_a_choice_and_a_mean(solved, tmp_path):
    labels = [axis.get_ylabel() for axis in policy_figure(solved[1]).axes]
    assert {"choice of gear", "mean of throttle", "choice of brake"} <= set(labels)
    path = tmp_path / "line.h5"
    wg.run(Case.from_text(line(), "line", ["flow.stop.steps=1", "output.estimate=false"]), path)
    gear, throttle = policy_figure(path).axes[:2]
    assert gear.get_yticks().tolist() == [-1, 0.5, 2] and gear.get_legend_handles_labels()[1] == ["most likely"]
    assert throttle.get_legend_handles_labels()[1] == ["mean"]


def test_environments_take_and_give_a_dict(solved):
    gymnasium = pytest.importorskip("gymnasium")
    from gymnasium.utils.env_checker import check_env

    solution, path = solved
    env = wg.make_env(solution.case, steps=50)
    spaces = env.action_space.spaces
    assert spaces["gear"] == gymnasium.spaces.Discrete(3) and spaces["brake"] == gymnasium.spaces.Discrete(2)
    assert spaces["throttle"] == gymnasium.spaces.Box(0.0, 1.0, (1,), np.float64)
    check_env(env, skip_render_check=True)
    env.reset(seed=1, options={"state": [0.5, -0.5]})
    *_, info = env.step({"gear": 2, "brake": 1, "throttle": np.array([0.5])})
    assert info["cost"] == pytest.approx(0.25 + 0.125 + 0.3 + 0.05 + 0.025)
    policy = wg.Policy.load(path)
    returns = wg.evaluate(policy, lambda: wg.make_env(solution.case, steps=60), episodes=20)
    assert -returns.mean / 60 == pytest.approx(solution.objective, rel=0.3)
    drawn = wg.evaluate(policy, lambda: wg.make_env(solution.case, steps=60), episodes=20, sample=True)
    assert drawn.mean == pytest.approx(returns.mean, rel=0.1)
    assert wg.make_env(solution.case, bounds={"throttle": (0, 0.5)}).action_space["throttle"].high[0] == 0.5
    with pytest.raises(EnvironmentMismatchError, match=r"bounds.gear: it takes values"):
        wg.make_env(solution.case, bounds={"gear": (-1, 1)})
    with pytest.raises(EnvironmentMismatchError, match="Discrete"):
        wg.evaluate(policy, "CartPole-v1", episodes=1, observe=lambda seen: seen[:, :2])


NAMED = PLANE.replace("[-1, 0, 1]", "{ reverse = -1, neutral = 0, 'drive on' = 1 }").replace("[0, 0.5]", "{ off = 0, on = 0.5 }")


def test_values_have_names_in_summaries_figures_policies_and_files(solved, tmp_path):
    plain, case = solved[0], Case.from_text(NAMED, "named", ["output.estimate=false"])
    assert Case.from_text(case.to_text(), case.name) == case and case.actions["gear"].numbers == (-1.0, 0.0, 1.0)
    path = tmp_path / "named.h5"
    solution = wg.run(case, path)
    assert solution.objective == plain.objective
    states = [[1.5, 0.0], [-1.5, 0.0], [-0.2, 0.0]]
    for policy in (solution.policy, wg.Policy.load(path)):
        named = policy.named(policy.mode(states))
        assert named[:, 0].tolist() == ["reverse", "drive on", "neutral"] and set(named[:, 2]) <= {"off", "on"}
        np.testing.assert_array_equal(named[:, 1].astype(float), policy.mode(states)[:, 1])
    assert plain.policy.named([1.0, 0.5, 0.5]).tolist() == [1.0, 0.5, 0.5]
    shares = solution.summary["value_shares"]
    mass = solution.stationary.ravel()[:, None] * solution.policy.weights
    for component, value, name in ((0, 0.0, "neutral"), (0, 1.0, "drive on"), (2, 0.5, "on")):
        action = ("gear", "throttle", "brake")[component]
        assert shares[action][name] == pytest.approx(mass[solution.policy.actions[..., component] == value].sum())
    assert plain.summary["value_shares"]["gear"]["0"] == pytest.approx(shares["gear"]["neutral"], abs=1e-6)
    with ResultFile(path) as file:
        rows = dict(summary_rows(file))
    assert f"neutral {shares['gear']['neutral']:.3g}" in rows["values of gear"]
    ticks = {axis.get_ylabel(): [text.get_text() for text in axis.get_yticklabels()] for axis in policy_figure(path).axes}
    assert ticks["choice of gear"] == ["reverse", "neutral", "drive on"] and ticks["choice of brake"] == ["off", "on"]
    other = Case.from_text(NAMED, "named", ["actions.gear.values.reverse=-0.5"])
    assert other.actions["gear"].numbers == (-0.5, 0.0, 1.0)


def test_names_on_a_line_of_one_list(tmp_path):
    text = line().replace("[-1, 2, 0.5]", "{ back = -1, fast = 2, slow = 0.5 }").replace("bounds = [0, 1]", "values = [0, 1]")
    path = tmp_path / "line.h5"
    solution = wg.run(Case.from_text(text, "line", ["output.estimate=false"]), path)
    named = solution.policy.named(solution.policy.mode([[-2.0], [2.0]]))
    assert solution.policy.categorical and named[:, 0].tolist() == ["fast", "back"]
    gear, throttle = policy_figure(path).axes[:2]
    assert [text.get_text() for text in gear.get_yticklabels()] == ["back", "slow", "fast"]
    assert [text.get_text() for text in throttle.get_yticklabels()] == ["0", "1"]


def test_the_case_says_what_it_became_and_reads_it_back():
    case = Case.from_text(PLANE)
    assert (case.policy.particles, case.flow.geometry, case.flow.method) == (18, "wasserstein", "newton")
    assert Case.from_text(case.to_text(), case.name) == case
    actions = GridSolver.from_case(case).start().evaluation.policy.actions[0]
    pairs, counts = np.unique(actions[:, [0, 2]], axis=0, return_counts=True)
    assert len(pairs) == 6 and (counts == 3).all()
    even = Case.from_text(PLANE, overrides=['policy.initial.distribution="even"', "policy.particles=12"])
    first = GridSolver.from_case(even).start().evaluation.policy.actions[0]
    assert {tuple(row) for row in first.tolist()} == {(g, t, b) for g in (-1, 0, 1) for t in (0, 1) for b in (0, 0.5)}
