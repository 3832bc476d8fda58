"""Actions that take values of a list: the optimum against all policies, its proof, and what users do with such policies."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import DenseProblem

import wassgrid as wg
from wassgrid.case import Case
from wassgrid.certificate.continuous.interval import ProveError
from wassgrid.chain.stationary import ReducibleChainError
from wassgrid.compare import compare
from wassgrid.environment import EnvironmentMismatchError
from wassgrid.evaluation import EvaluationError
from wassgrid.export import ExportError, export
from wassgrid.hessian import CurvatureError
from wassgrid.plotting.fields import Frame
from wassgrid.plotting.fields import policy as policy_figure
from wassgrid.policy import ParticlePolicy, PolicyError
from wassgrid.problem.control_problem import ProblemError
from wassgrid.prove import prove
from wassgrid.runs.grid_solver import GridSolver
from wassgrid.runs.start import StartError

# a gear that pushes, whose cost jumps with the sign of the speed and with every half of x
LINE = """
[states.x]
next = "0.8*x + 0.5*gear - 0.2*sign(x)"
noise = "0.7"
domain = [-2, 2]
boundary = "BOUNDARY"
[actions.gear]
values = [1, -1, 0]
[cost]
stage = "x**2 + 0.4*where(gear*x > 0, 1, 0) + 0.2*abs(gear) + 0.3*mod(x, 0.5)"
[grid]
points = { x = 6 }
kernel = "KERNEL"
CRITERION
"""
DISCOUNTED = '[criterion]\nkind = "discounted"\ndiscount = 0.9\n'
PLANE = """
[states.x]
next = "0.9*x + 0.4*gear"
noise = "0.4"
domain = [-2, 2]
[states.y]
next = "0.7*y + 0.3*next(x) + 0.2*brake"
noise = "0.5"
domain = [-2, 2]
[actions.gear]
values = [-1, 0, 1]
[actions.brake]
values = [0, 0.5]
[cost]
stage = "x**2 + 0.5*y**2 + 0.3*abs(gear) + 0.1*brake"
[grid]
points = { x = 9, y = 8 }
kernel = "gaussian"
"""


def line(boundary: str = "clamp", kernel: str = "gaussian", criterion: str = "") -> str:
    return LINE.replace("BOUNDARY", boundary).replace("KERNEL", kernel).replace("CRITERION", criterion)


def listed(dense: DenseProblem) -> tuple[np.ndarray, np.ndarray]:
    """Rows of P (cells, A, cells) and costs (cells, A) of every action."""
    every = dense.candidates(np.zeros((dense.size, 1, len(dense.actions))))
    cells = np.repeat(np.arange(dense.size), every.shape[1])
    flat = every.reshape(len(cells), -1)
    return dense.rows(cells, flat).reshape(*every.shape[:2], -1), dense.costs(cells, flat).reshape(every.shape[:2])


@pytest.mark.parametrize("criterion", ["", DISCOUNTED], ids=["average", "discounted"])
@pytest.mark.parametrize(("boundary", "kernel"), [
    ("clamp", "gaussian"), ("reflect", "linear"), ("periodic", "matched"), ("project", "gaussian"), ("truncate", "linear"),
])  # fmt: skip
def test_no_policy_of_all_is_better_and_that_is_proven(boundary, kernel, criterion):
    """All 729 deterministic policies by an independent dense solver; so FiniteMDP, on its matrices."""
    text = line(boundary, kernel, criterion)
    dense = DenseProblem(text)
    rows, cost = listed(dense)
    of = np.arange(dense.size)
    least = min(dense.value(rows[of, c], cost[of, c])[0] for c in itertools.product(range(3), repeat=dense.size))
    solution = wg.solve(Case.from_text(text))
    assert solution.converged and "proven" in solution.reason
    assert solution.objective == pytest.approx(least, abs=1e-11)
    assert solution.lower_bound <= least + 1e-13 <= solution.lower_bound + 1e-10
    discount = None if not criterion else 0.9
    finite = wg.FiniteMDP(list(np.moveaxis(rows, 1, 0)), cost, discount, dense.initial_law if criterion else None).solve()
    assert finite.objective == pytest.approx(least, abs=1e-11)
    np.testing.assert_array_equal(dense.values[0], solution.policy.actions[0, :, 0])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=8)
def test_random_costs_of_two_lists_in_the_plane(seed):
    """Every action of every cell, by policy iteration of the dense solver; the cost is any table, by way of its parameters."""
    rng = np.random.default_rng(seed)
    names = [f"p{k}" for k in range(6)]
    parameters = "[parameters]\n" + "".join(f"{name} = {rng.normal():.4f}\n" for name in names)
    terms = "sin(p0*x + p1*gear) + p2*brake*y + p3*gear*brake + 0.2*(x - p4*gear)**2 + p5*sign(gear*y)"
    criterion = DISCOUNTED if rng.random() < 0.3 else ""
    text = parameters + PLANE.replace("x**2 + 0.5*y**2 + 0.3*abs(gear) + 0.1*brake", terms) + criterion
    dense = DenseProblem(text)
    solution = wg.solve(Case.from_text(text))
    rows = solution.policy
    least = dense.optimum(rows.actions, rows.weights)
    scale = float(np.abs(listed(dense)[1]).max())
    assert solution.converged
    assert solution.objective == pytest.approx(least, abs=1e-10 * scale)
    assert solution.lower_bound <= least + 1e-13 * scale
    own = dense.value(*dense.chain(rows.actions, rows.weights))[0]
    assert own == pytest.approx(solution.objective, abs=1e-10 * scale)


@pytest.mark.parametrize(("method", "gap"), [("rk4", 3e-2), ("exponential", 1e-7), ("policy_iteration", 1e-7)])
def test_all_methods_of_weights_come_to_it_and_resume_to_the_bit(method, gap):
    case = Case.from_text(PLANE, overrides=[f"flow.method={method}", f"flow.stop={{gap = {gap}, steps = 300}}"])
    solver = GridSolver.from_case(case)
    states = [solver.start()]
    while solver.verdict(states[-1]) is None:
        states.append(solver.advance(states[-1]))
    assert solver.verdict(states[-1]).status == "converged"
    assert all(b.evaluation.objective <= a.evaluation.objective + 1e-12 for a, b in itertools.pairwise(states))
    assert states[-1].evaluation.objective == pytest.approx(wg.solve(Case.from_text(PLANE)).objective, abs=gap)
    again = GridSolver.from_case(case)
    state = again.restore(solver.record(states[1]).checkpoint())
    while again.verdict(state) is None:
        state = again.advance(state)
    assert state.step == states[-1].step
    np.testing.assert_array_equal(state.evaluation.policy.weights, states[-1].evaluation.policy.weights)
    assert state.evaluation.objective == states[-1].evaluation.objective


def test_the_case_says_what_it_became_and_reads_it_back():
    case = Case.from_text(PLANE)
    assert (case.policy.particles, case.flow.geometry, case.flow.method) == (6, "fisher_rao", "policy_iteration")
    assert Case.from_text(case.to_text(), case.name) == case
    np.testing.assert_array_equal(case.problem.choices, [[-1, 0], [-1, 0.5], [0, 0], [0, 0.5], [1, 0], [1, 0.5]])
    unequal = Case.from_text(PLANE, overrides=["policy.particles=6", "policy.weights=[1, 2, 3, 4, 5, 5]"])
    weights = GridSolver.from_case(unequal).start().evaluation.policy.weights
    np.testing.assert_allclose(weights, np.tile(np.array([1, 2, 3, 4, 5, 5]) / 20, (72, 1)))
    with pytest.raises(ProblemError, match=r"cost is -?inf at x=-2, y=-2, gear=0"):
        wg.solve(Case.from_text(PLANE.replace("0.3*abs(gear)", "0.3*log(abs(gear))")))


def test_several_recurrent_classes_are_named():
    still = line().replace("0.8*x + 0.5*gear - 0.2*sign(x)", "x + 0*gear").replace('"0.7"', "0").replace("gaussian", "linear")
    with pytest.raises(ReducibleChainError, match=r"6 recurrent classes, at cell 0 \(x = -2\).*discounted"):
        wg.solve(Case.from_text(still))


# -- policies ------------------------------------------------------------------------------------------------------------


def test_between_cells_nothing_but_values_is_drawn():
    """Cells that agree keep their law; a choice that is certain changes half way; shares of the draw are those of the law."""
    case = Case.from_text(line())
    grid = GridSolver.from_case(case).grid
    weights = np.array([[0.2, 0.3, 0.5]] * 2 + [[1.0, 0.0, 0.0]] * 2 + [[0.0, 0.0, 1.0]] * 2)
    policy = ParticlePolicy(grid, np.tile(case.problem.choices, (6, 1, 1)), weights, categorical=True)
    step = grid.spacing[0]
    at = grid.states[:, 0]
    rng = np.random.default_rng(1)
    for place in (at[0] + 0.3 * step, at[1] + 0.4 * step, at[3] + 0.49 * step, at[3] + 0.51 * step, 9.0):
        law = policy.distribution([place])
        drawn = policy.sample(np.full((20_000, 1), place), rng)[:, 0]
        for value in (1.0, -1.0, 0.0):
            share = law.weights[law.actions[:, 0] == value].sum()
            assert (drawn == value).mean() == pytest.approx(share, abs=0.02)
    np.testing.assert_allclose([law.weights[law.actions[:, 0] == v].sum() for v in (1, -1, 0)], [0, 0, 1], atol=1e-15)
    assert policy.mode([[at[3] + 0.49 * step], [at[3] + 0.51 * step]])[:, 0].tolist() == [1.0, 0.0]
    assert policy.quantile([at[0]], [0.1, 0.5, 0.9])[:, 0].tolist() == [-1.0, 0.0, 1.0]
    np.testing.assert_allclose(policy.mean([at[0]]), [-0.1])
    with pytest.raises(PolicyError, match="most likely"):
        ParticlePolicy(grid, policy.actions, weights).mode([0.0])
    with pytest.raises(PolicyError, match="the same in every cell"):
        ParticlePolicy(grid, np.random.default_rng(0).random((6, 3, 1)), weights, categorical=True)


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    path = tmp_path_factory.mktemp("choices") / "gears.h5"
    return wg.run(Case.from_text(PLANE, "gears", ["output.estimate=true"]), path), path


def test_files_hold_them_and_other_verbs_say_what_they_cannot(solved, tmp_path):
    solution, path = solved
    policy = wg.Policy.load(path)
    assert policy.categorical
    np.testing.assert_array_equal(policy.weights, solution.policy.weights)
    drawn = policy.sample(np.random.default_rng(0).uniform(-2, 2, (500, 2)), np.random.default_rng(1))
    assert set(map(tuple, drawn)) <= set(map(tuple, solution.case.problem.choices))
    assert export(path, "npz", tmp_path / "gears.npz")[0].exists()
    with pytest.raises(ExportError, match="npz"):
        export(path, "c", tmp_path / "gears.h")
    assert compare(path, path, points=2).distance == 0.0
    with pytest.raises(ProveError, match="actions with values"):
        prove(solution.case)
    with pytest.raises(EvaluationError, match="values of a list do not move"):
        wg.geometry.gradient(path)
    with pytest.raises(CurvatureError, match="one particle has all of the weight"):
        wg.second_order.ends(path)
    finer = Case.from_text(PLANE, overrides=["grid.points.x=13"])
    again = wg.solve(finer, initial=solution)
    assert again.converged and again.objective == pytest.approx(wg.solve(finer).objective, abs=1e-8)
    with pytest.raises(StartError, match="not the values"):
        wg.solve(Case.from_text(PLANE, overrides=["actions.gear.values=[-2, 0, 2]"]), initial=solution)


def test_figures_have_one_colour_for_every_value(solved):
    figure = policy_figure(solved[1])
    maps = [axis for axis in figure.axes if axis.collections]
    bars = [axis for axis in figure.axes if axis.get_ylabel().startswith("choice of")]
    assert len(maps) >= 2 and [bar.get_yticks().tolist() for bar in bars] == [[-1, 0, 1], [0, 0.5]]
    norm = maps[0].collections[0].norm
    assert [int(norm(value)) for value in (-1, 0, 1)] == [0, 1, 2]


def test_a_mixed_choice_is_drawn_with_how_many_actions_are_in_use(tmp_path):
    path = tmp_path / "mixed.h5"
    solution = wg.run(Case.from_text(PLANE, "mixed", ["policy.entropy=0.3", "flow.stop.steps=2", "output.estimate=false"]), path)
    labels = [axis.get_ylabel() for axis in policy_figure(path).axes]
    assert "actions in use, exp(entropy)" in labels
    weights = solution.policy.weights
    used = np.exp(-(weights * np.log(weights)).sum(axis=1))
    np.testing.assert_allclose(Frame.read(path).actions_in_use.ravel(), used)
    assert used.max() > 1.5


def test_environments_take_and_give_numbers_of_values(solved):
    gymnasium = pytest.importorskip("gymnasium")
    from gymnasium.utils.env_checker import check_env

    solution, path = solved
    env = wg.make_env(solution.case, steps=50)
    assert env.action_space == gymnasium.spaces.Discrete(6)
    check_env(env, skip_render_check=True)
    env.reset(seed=1, options={"state": [0.5, -0.5]})
    *_, info = env.step(5)
    assert info["cost"] == pytest.approx(0.25 + 0.125 + 0.3 + 0.05)
    policy = wg.Policy.load(path)
    returns = wg.evaluate(policy, lambda: wg.make_env(solution.case, steps=60), episodes=20)
    assert -returns.mean / 60 == pytest.approx(solution.objective, rel=0.3)
    worst = policy.moved(policy.actions, policy.weights[:, ::-1])
    assert wg.evaluate(worst, lambda: wg.make_env(solution.case, steps=60), episodes=20).mean < returns.mean
    free = ParticlePolicy.around(policy.grid, policy.cell_mean())
    with pytest.raises(EnvironmentMismatchError, match=r"Discrete.*actions.NAME.values"):
        wg.evaluate(free, lambda: wg.make_env(solution.case), episodes=1)
    fewer = wg.solve(Case.from_text(PLANE, overrides=["actions.brake.values=[0, 0.1, 0.2]", "flow.stop.steps=1"])).policy
    with pytest.raises(EnvironmentMismatchError, match="6 different actions, the policy 9"):
        wg.evaluate(fewer, lambda: wg.make_env(solution.case), episodes=1)
    with pytest.raises(EnvironmentMismatchError, match="values of a list"):
        wg.make_env(solution.case, bounds=(-1.0, 1.0))


def test_the_way_to_a_goal_by_a_list_of_pushes():
    """The least expected cost of all 729 policies until x >= 1.5, by linear equations of each."""
    text = line("clamp", "linear", '[criterion]\nkind = "total"\n[goal]\nwhere = "x >= 1.5"\n').replace("x = 6", "x = 7")
    text = text.replace('"x**2 + 0.4', '"1 + 0.4').replace(" + 0.3*mod(x, 0.5)", "")
    dense = DenseProblem(text.replace('kind = "total"', 'kind = "average"'))
    rows, cost = listed(dense)
    free = dense.states["x"] < 1.5
    of, least = np.flatnonzero(free), np.inf
    for chosen in itertools.product(range(3), repeat=of.size):
        matrix = rows[of, chosen][:, free]
        value = np.linalg.solve(np.eye(of.size) - matrix, cost[of, chosen])
        least = min(least, float(dense.initial_law[free] @ value))
    solution = wg.solve(Case.from_text(text))
    assert solution.converged and solution.objective == pytest.approx(least, rel=1e-10)
    assert solution.lower_bound <= least * (1.0 + 1e-13) and solution.policy.categorical


def test_the_estimate_is_of_the_problem_itself_where_the_grid_is_coarse():
    """A threshold between two cells is where c + E h says, not where the cells end; h of 25 cells is off, its policy hardly."""
    text = """
[states.room]
next = "room + 0.1*(5 - room) + heat"
noise = 0.7
domain = [8, 32]
[actions.heat]
values = [0, 1, 3]
[cost]
stage = "(room - 20)**2 + heat"
[grid]
points = { room = POINTS }
[output]
estimate = ESTIMATE
"""
    coarse, fine = (
        wg.solve(Case.from_text(text.replace("POINTS", points).replace("ESTIMATE", asked), "room"))
        for points, asked in (("25", "true"), ("481", "false"))
    )
    found = coarse.summary["estimate"]
    assert abs(coarse.objective / fine.objective - 1.0) > 0.01
    assert -4 * found["standard_error"] < found["value"] - fine.objective < 4 * found["standard_error"] + 2e-3 * fine.objective
