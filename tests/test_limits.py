"""Bounds of actions that depend on the states: reading, methods and search within them, policies between the cells, files."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from oracle import DenseProblem
from test_export import Compiled, needs_compiler, states_around

import wassgrid as wg
from wassgrid import plotting
from wassgrid.case import Case, CaseError
from wassgrid.cli import main
from wassgrid.differences import check_derivatives
from wassgrid.evaluation import Evaluator
from wassgrid.export import Parcel, c_header, npz
from wassgrid.grid import StateGrid
from wassgrid.policy import ParticlePolicy, initial_policy
from wassgrid.problem.control_problem import ProblemError

TANK = """
[parameters]
rain = 0.4
[states.x]
next = "x - u + rain"
noise = "0.25"
domain = [0, 3]
boundary = "{boundary}"
[actions.u]
bounds = {bounds}
[cost]
stage = "(x - 1)**2 + where(u > x/2, 0.3, 0) - 0.2*u"
[grid]
points = {{ x = 16 }}
[policy]
particles = 2
initial = {{ distribution = "{start}" }}
{more}
"""


def tank(bounds='[0, "x"]', boundary="project", start="uniform", more="") -> Case:
    return Case.from_text(TANK.format(bounds=bounds, boundary=boundary, start=start, more=more), "tank")


def inside(policy: ParticlePolicy, states: np.ndarray, actions: np.ndarray) -> bool:
    low, high = policy.limits.at(states)
    return bool(((actions >= low) & (actions <= high)).all())


# -- reading -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ('[0, "u"]', "bounds may depend on states and parameters only, not on the action u"),
        ('[0, "xx"]', "unknown name 'xx', did you mean 'x'?"),
        ('[0, "next(x)"]', "next"),
        ('[0, "x +"]', "not an expression"),
        ('["1/0", 2]', "division by zero"),
        ("[0, true]", "expected two numbers [lower, upper], or expressions of the states"),
        ('[0, "x", 3]', "expected two numbers [lower, upper], or expressions of the states"),
        ('["rain", 0.1]', "lower < upper, got [0.4, 0.1]"),
    ],
)
def test_texts_that_are_no_bounds(bounds, words):
    with pytest.raises(CaseError, match=r"actions\.u\.bounds") as error:
        tank(bounds)
    assert words in str(error.value)


def test_numbers_stay_numbers_and_texts_survive_being_written():
    assert tank('["-rain", "2*rain"]').actions["u"].bounds == (-0.4, 0.8)
    assert tank('["-rain", "2*rain"]').problem.limits is None
    case = tank('["0", "x + rain"]')
    assert case.actions["u"].bounds == (0.0, "x + rain")
    assert Case.from_text(case.to_text(), case.name) == case
    limits = pickle.loads(pickle.dumps(case.problem.limits))
    np.testing.assert_array_equal(limits.at(np.array([[0.5], [2.0]]))[1], [[0.9], [2.4]])


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ('[0, "x - 0.3"]', "at x=0 the lower bound 0 of u lies above the upper one, -0.3, and no action is left"),
        ('["-1/x", 2]', "the lower bound of u is -inf at x=0: it must be a finite number everywhere"),
        ('[0, "sqrt(x - 1)"]', "the upper bound of u is nan at x=0"),
    ],
)
def test_bounds_that_cross_or_are_no_numbers_are_named_before_anything_is_solved(bounds, words, tmp_path, capsys):
    case = tmp_path / "tank.toml"
    case.write_text(TANK.format(bounds=bounds, boundary="project", start="uniform", more=""))
    for verb in ("check", "run"):
        assert main([verb, str(case)]) == 2
        said = capsys.readouterr().err
        assert f"actions.u.bounds: {words}" in " ".join(said.split()) and "Traceback" not in said
    assert not list(tmp_path.glob("*.h5"))


def test_networks_take_numbers():
    with pytest.raises(CaseError, match=r"actions\.u\.bounds: networks take numbers"):
        tank(more='[solver]\nkind = "neural"')


def test_a_proof_of_the_continuous_problem_tells_actions_in_shares(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tank.toml"
    text = TANK.format(bounds='[0, "x"]', boundary="project", start="uniform", more="")
    path.write_text(text.replace("where(u > x/2, 0.3, 0)", "0.3*u**2"))
    assert main(["prove", str(path), "--width", "0.1", "--time", "5"]) == 0
    assert "as shares of the way between their bounds" in " ".join(capsys.readouterr().out.split())
    with h5py.File(tmp_path / "tank.proof.h5") as file:
        assert file.attrs["in_shares"]
        shares = np.concatenate([layer["actions"][()].ravel() for name, layer in file["policy"].items() if "layer" in name])
        assert shares.min() >= 0.0 and shares.max() <= 1.0


@pytest.mark.parametrize(
    ("bounds", "boundary"), [('["0.3 - x", "x"]', "project"), ('[0, "x"]', "open"), ('[0, "(x - 0.1)**2 - 1e-4"]', "project")]
)
def test_a_proof_wants_bounds_that_cross_nowhere(tmp_path, capsys, bounds, boundary):
    """Between the cells too, and beyond the domain, where the noise may carry the state."""
    path = tmp_path / "tank.toml"
    path.write_text(TANK.format(bounds=bounds, boundary=boundary, start="uniform", more=""))
    assert main(["prove", str(path), "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "actions.u.bounds" in line


def test_mass_at_the_ends_of_a_named_boundary_is_not_called_a_fault(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = TANK.format(bounds='[0, "x"]', boundary="project", start="uniform", more="").replace("[0, 3]", "[0.8, 3]")
    Path("tank.toml").write_text(text)
    for words in (["run", "tank.toml"], ["info", "tank.h5"]):
        assert main(words) == 0
        assert 'where the boundary "project" is meant this is the problem' in " ".join(capsys.readouterr().out.split())


FAMILY = """
[indices]
i = { count = 2, periodic = true }
[states."q[i]"]
next = "0.6*q[i] + 0.2*q[i+1] + u[i]"
noise = "0.5"
domain = [-2, 2]
[actions."u[i]"]
bounds = ["-abs(q[i])", "1 + 0.1*i + q[i+1]**2"]
[cost]
stage = "sum(i, (q[i] - 0.5)**2 + 0.1*u[i]**2)"
[grid]
points = { "q[i]" = 7 }
[policy]
particles = 1
"""


def test_members_of_a_family_have_bounds_of_their_own():
    problem = Case.from_text(FAMILY).problem
    states = np.array([[0.5, -1.5], [-2.0, 0.0]])
    low, high = problem.limits_at(states)
    np.testing.assert_allclose(low, [[-0.5, -1.5], [-2.0, 0.0]])
    np.testing.assert_allclose(high, [[3.25, 1.35], [1.0, 5.1]])
    with pytest.raises(ProblemError, match=r"u\[i\]\.bounds: at q\[0\]=0\.5, q\[1\]=-1\.5 the lower bound -0\.5 of u\[0\] lies"):
        wg.Case.from_text(FAMILY.replace("1 + 0.1*i + q[i+1]**2", "q[i+1] - 1")).problem.limits_at(states)


def test_the_hull_holds_the_bounds_of_all_states():
    rng = np.random.default_rng(0)
    for text in ('["-x*(3 - x)", "2 + sin(5*x)"]', '["where(x > 1, -1, -2*x)", "mod(3*x, 1)*x + 1"]'):
        problem = tank(text).problem
        low, high = problem.limits_at(rng.uniform(0.0, 3.0, (2000, 1)))
        ((least, most),) = problem.action_bounds
        assert least <= low.min() <= least + 0.2 and most - 0.2 <= high.max() <= most


# -- every method, search and proof ----------------------------------------------------------------------------------------------

METHODS = {
    "newton": '[flow]\nstop = { gap = 1e-8, steps = 30 }',
    "full_newton": '[flow]\nmethod = "full_newton"\nescape = true\nstop = { gap = 1e-8, steps = 30 }',
    "euler": '[flow]\nmethod = "euler"\nstop = { steps = 25 }',
    "weights": '[flow]\ngeometry = "wasserstein_fisher_rao"\nmethod = "heun"\nstop = { steps = 15 }',
}


@pytest.mark.parametrize("boundary", ["project", "reflect"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_within_the_bounds_of_the_cell(method, boundary):
    text = '["min(0.2, x/2)", "x"]'
    solution = wg.solve(tank(text, boundary, more=METHODS[method]))
    policy = solution.policy
    states = policy.grid.states
    for k in range(policy.particles):
        assert inside(policy, states, policy.actions[:, k])
    dense = DenseProblem(TANK.format(bounds=text, boundary=boundary, start="uniform", more=""), {"x": "gaussian"})
    best = dense.optimum(policy.actions, policy.weights, each=2001)
    assert solution.lower_bound <= best + 1e-12 and best <= solution.objective + 1e-6
    if method in ("newton", "full_newton"):
        assert solution.converged and solution.objective == pytest.approx(best, abs=1e-6)
        # the best action stands on a bound, inside, and on the other bound
        mean = policy.cell_mean()[:, 0]
        assert np.isclose(mean, states[:, 0]).any() and np.isclose(mean, np.minimum(0.2, states[:, 0] / 2)).any()


@pytest.mark.parametrize("start", ["uniform", "even", "normal", "point"])
def test_every_start_is_within_the_bounds(start):
    case = tank('["x/3", "x"]', start=start)
    policy = initial_policy(case, StateGrid.from_case(case))
    assert all(inside(policy, policy.grid.states, policy.actions[:, k]) for k in range(2))
    # from the result of other bounds
    other = wg.solve(tank("[-1, 1]", more="[flow]\nstop = { steps = 1 }"))
    solution = wg.solve(tank('["x/3", "x"]', more="[flow]\nstop = { steps = 0 }"), initial=other)
    assert all(inside(solution.policy, solution.policy.grid.states, solution.policy.actions[:, k]) for k in range(2))


def test_bounds_that_meet_leave_one_action():
    solution = wg.solve(tank('["x/2", "x/2"]', more="[flow]\nstop = { gap = 1e-9 }"))
    np.testing.assert_array_equal(solution.policy.actions[:, :, 0], np.repeat(solution.policy.grid.states / 2, 2, axis=1))
    assert solution.converged and abs(solution.objective - solution.lower_bound) < 1e-9


def test_a_constant_written_as_a_function_of_the_state_is_that_constant():
    stop = "[flow]\nstop = { gap = 1e-9 }"
    one, other = (wg.solve(tank(bounds, more=stop)) for bounds in ("[-0.5, 1.25]", '["-0.5 + 0*x", "1.25 + 0*x"]'))
    np.testing.assert_allclose(one.policy.actions, other.policy.actions, atol=1e-12)
    assert one.lower_bound == pytest.approx(other.lower_bound, abs=1e-13)


def test_derivatives_of_j_are_held_to_differences():
    case = tank('["-x", "x"]', more="")
    case = Case.from_text(case.to_text().replace("where(u > x/2, 0.3, 0)", "0.3*u**2"), "smooth")
    evaluator = Evaluator.from_case(case)
    checked = check_derivatives(evaluator, evaluator.evaluate(initial_policy(case, evaluator.model.grid)))
    assert checked.passed and checked.slope != 0.0


GOAL = """
[states.x]
next = "x + a"
noise = "0.1"
domain = [0, 2]
boundary = "project"
[actions.a]
bounds = ["-0.1*x", "0.05 + 0.2*x"]
[cost]
stage = "0.5 - 1.2*a + 0.2*(2 - x)"
[goal]
where = "x >= 1.9"
[criterion]
kind = "total"
[start]
x = 0.5
[grid]
points = { x = 21 }
"""


def test_the_least_cost_off_the_goal_is_that_within_the_bounds():
    """Over the bounds of all states together the cost would not be seen to be positive, and nothing be proven."""
    solution = wg.solve(Case.from_text(GOAL))
    states = np.linspace(0, 1.9, 400)
    least = [0.5 - 1.2 * highest + 0.2 * (2 - states) for highest in (0.05 + 0.2 * states, 0.45)]
    assert least[0].min() > 0 > least[1].min()
    assert solution.converged and "proven" in solution.reason, solution.reason


# -- between the cells, and in files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", ["project", "reflect", "periodic"])
@pytest.mark.parametrize("particles", [1, 3])
def test_between_the_cells_actions_keep_to_the_bounds_of_the_state(boundary, particles):
    case = tank('["x**2/6", "x**2/6 + 0.3*(1 + sin(9*x))"]', boundary)
    case = Case.from_text(case.to_text().replace("particles = 2", f"particles = {particles}"), "tank")
    policy = initial_policy(case, StateGrid.from_case(case))
    rng = np.random.default_rng(1)
    states = np.concatenate([policy.grid.states, rng.uniform(0.0, 3.0, (300, 1))])
    assert inside(policy, states, policy.sample(states, rng)) and inside(policy, states, policy.mean(states))
    assert inside(policy, states, policy.quantile(states, 0.9))
    atoms = policy.distribution(states).actions
    assert all(inside(policy, states, atoms[:, k]) for k in range(atoms.shape[1]))
    # at the nodes nothing is clipped, but for rounding
    np.testing.assert_allclose(policy.mean(policy.grid.states), policy.cell_mean(), atol=1e-12)
    # beyond the domain a state counts as standing where the axis says
    far = {"project": 3.0, "reflect": 2.75, "periodic": 0.25}[boundary]
    near = {"project": 3.7, "reflect": 3.25, "periodic": 3.25}[boundary]
    np.testing.assert_allclose(policy.mean([near]), policy.mean([far]), atol=1e-12)


def test_files_know_the_bounds_and_resume_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case = tank(start="normal", more="[flow]\nstop = { steps = 4 }\n[output]\nestimate = true")
    whole = wg.run(case, "whole.h5")
    wg.run(Case.from_text(case.to_text(), "tank", ["flow.stop.steps=2"]), "part.h5")
    assert main(["resume", "part.h5", "--set", "flow.stop.steps=4", "--quiet"]) in (0, 1)
    one, other = wg.Policy.load("whole.h5"), wg.Policy.load("part.h5")
    np.testing.assert_array_equal(one.actions, other.actions)
    states = np.random.default_rng(0).uniform(0, 3, (100, 1))
    np.testing.assert_array_equal(one.mean(states), whole.policy.mean(states))
    assert inside(one, states, one.sample(states, np.random.default_rng(0)))
    assert main(["simulate", "whole.h5", "--steps", "20"]) == 0
    figure = plotting.policy("whole.h5")
    assert "bounds" in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def parcel(case: Case) -> Parcel:
    policy = initial_policy(case, StateGrid.from_case(case))
    return Parcel.of(case, policy, np.full(policy.grid.size, 1.0 / policy.grid.size), {"status": "stopped"})


LANGUAGE = (
    "where(x > 1 and not x >= 2 or x == 0, -x, -0.5) - abs(sin(x)) + 0.1*sign(x - 1.3) - max(x/4, 0.2)",
    "1.5 + min(sqrt(x + 1), x**2, 2) + mod(3*x, 0.7) + atan2(x, 2) + clip(exp(-x), 0.1, 0.4) + (x + 2)**-0.5 + (x + 1)**1.5/9",
)


@needs_compiler
@pytest.mark.parametrize("boundary", ["project", "reflect", "periodic"])
def test_c_knows_the_bounds(boundary, tmp_path):
    sent = parcel(tank(f'["{LANGUAGE[0]}", "{LANGUAGE[1]}"]', boundary))
    tight = parcel(tank('["x**2/6 + 0.2", "x**2/6 + 0.2 + 0.1*(1 + sin(9*x))"]', boundary))
    for k, each in enumerate((sent, tight)):
        folder = tmp_path / str(k)
        folder.mkdir()
        compiled = Compiled(c_header(each), each.name, folder, 1, 1)
        states = states_around(each.policy, 4000)
        # jumps of the bounds, to rounding
        clear = (np.abs(each.policy.grid.inside(states)[:, :1] - [[0.0, 1.0, 1.3, 2.0, 3.0]]) > 1e-9).all(axis=1)
        clear &= (np.abs(np.mod(3 * each.policy.grid.inside(states)[:, 0] + 0.35, 0.7) - 0.35) > 1e-9)
        np.testing.assert_allclose(compiled.mean(states)[clear], each.policy.mean(states)[clear], atol=1e-9)
    (tmp_path / "p.npz").write_bytes(npz(tight))
    with np.load(tmp_path / "p.npz") as archive:
        low, high = tight.policy.limits.at(tight.policy.grid.states)
        np.testing.assert_array_equal(archive["lowest"], low)
        np.testing.assert_array_equal(archive["highest"], high)


@needs_compiler
def test_c_knows_an_action_without_bounds_beside_one_with(tmp_path):
    text = """
    [states.x]
    next = "0.9*x + a + b"
    noise = 0.3
    domain = [0.1, 2]
    [actions.a]
    bounds = [0, "x"]
    [actions.b]
    [cost]
    stage = "x**2 + a**2 + b**2"
    [grid]
    points = { x = 11 }
    """
    sent = parcel(Case.from_text(text))
    states = states_around(sent.policy, 500)
    compiled = Compiled(c_header(sent), sent.name, tmp_path, 1, 2)
    np.testing.assert_allclose(compiled.mean(states), sent.policy.mean(states), atol=1e-12)


def test_an_environment_clips_to_the_bounds_of_its_state():
    gymnasium = pytest.importorskip("gymnasium")
    env = wg.make_env(tank())
    assert isinstance(env.action_space, gymnasium.spaces.Box) and (env.action_space.low, env.action_space.high) == (0.0, 3.0)
    env.reset(seed=0, options={"state": [1.0]})
    *_, info = env.step(np.array([2.5]))
    assert info["cost"] == pytest.approx(0.3 - 0.2)  # u = 1


def test_python_functions_are_called_within_the_bounds_only(tmp_path):
    def cost(s, a):
        assert ((a >= 0) & (a <= s)).all(), "beyond the bounds"
        return (s[:, 0] - 1) ** 2 + 0.1 * a[:, 0] ** 2 - 0.2 * a[:, 0]

    problem = wg.Problem(
        next_mean=lambda s, a: s - a + 0.4, cost=cost, noise=0.25, states={"x": {"domain": (0, 3), "boundary": "project"}},
        actions={"u": (0, "x")}, derivatives="differences",
    )  # fmt: skip
    case = problem.case(grid={"points": {"x": 16}}, policy={"particles": 2, "initial": {"distribution": "uniform"}})
    found = wg.run(case, tmp_path / "f.h5")
    text = tank(start="uniform").to_text().replace("where(u > x/2, 0.3, 0)", "0.1*u**2")
    exact = wg.solve(Case.from_text(text))
    assert found.objective == pytest.approx(exact.objective, rel=1e-6)
    policy = wg.Policy.load(tmp_path / "f.h5")
    states = np.linspace(0, 3, 50)[:, None]
    assert inside(policy, states, policy.sample(states, np.random.default_rng(0)))


def test_a_damaged_text_is_no_policy(tmp_path):
    import h5py

    path = tmp_path / "t.h5"
    wg.run(tank(more="[flow]\nstop = { steps = 0 }\n[output]\nestimate = false"), path)
    with h5py.File(path, "r+") as file:
        file.attrs["case"] = str(file.attrs["case"]).replace('"x"', '"u"')
    with pytest.raises(wg.WassgridError, match="bounds may depend on states"):
        wg.Policy.load(path)


def test_the_case_of_the_gallery_has_three_pieces():
    solution = wg.solve(Case.load(Path(__file__).parent.parent / "gallery" / "harvest.toml", ["output.estimate=false"]))
    stock, harvest = solution.policy.grid.states[:, 0], solution.policy.cell_mean()[:, 0]
    all_of_it, none = np.isclose(harvest, stock) & (stock > 0), harvest < 1e-9
    assert all_of_it[(stock > 0) & (stock < 0.17)].all() and none[(stock > 0.2) & (stock < 0.65)].all()
    assert (harvest[stock > 0.75] > 0.05).all()
