"""Goals and start laws: against closed forms, dense algebra and brute force that share no code with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import wassgrid as wg
from wassgrid.case import CaseError
from wassgrid.certificate import bound_of, certify, find_best
from wassgrid.certificate.continuous.interval import ProveError
from wassgrid.differences import check_derivatives
from wassgrid.evaluation import Evaluator, ImproperPolicyError
from wassgrid.grid import StateGrid
from wassgrid.grid.start import law_on_grid
from wassgrid.method.flow import flow_step
from wassgrid.method.schemes import SCHEMES
from wassgrid.metric import gradient_norm
from wassgrid.policy import ParticlePolicy, initial_policy
from wassgrid.prove import prove
from wassgrid.runs.solvers import make_solver
from wassgrid.simulate import discounted_cost, episode_cost, ergodic_cost
from wassgrid.storage import ResultFile
from wassgrid.transition.model import TransitionModel


def case_of(tables, **changes):
    """Return the case of tables, with whole tables changed."""
    return wg.Case.from_tables({**tables, **{key: value for key, value in changes.items() if value is not None}})


WALK = {
    "states": {"x": {"next": "x + a", "domain": (0, 10)}},
    "actions": {"a": {"bounds": (-1, 1)}},
    "cost": {"stage": "1"},
    "criterion": {"kind": "total"},
    "goal": {"where": "x <= 0 or x >= 10", "cost": "where(x > 5, 0, 2)"},
    "start": {"x": 3},
    "grid": {"points": {"x": 11}},
    "policy": {"particles": 2, "weights": [1, 1]},
}
DRIFT = {
    "states": {"x": {"next": "x + 0.4*a", "noise": 0.3, "domain": (-4, 4)}},
    "actions": {"a": {"bounds": (-1, 1)}},
    "cost": {"stage": "0.2 + 0.1*x**2 + 0.3*a**2"},
    "criterion": {"kind": "total"},
    "goal": {"where": "abs(x) >= 1.775", "cost": "where(x < 0, 0.5, 0)"},
    "start": {"x": {"mean": 0.1, "std": 0.4}},
    "grid": {"points": {"x": 161}},
    "policy": {"particles": 2},
}


def evaluated(case, policy=None):
    evaluator = Evaluator.from_case(case, TransitionModel.from_case(case))
    return evaluator, evaluator.evaluate(policy or initial_policy(case, evaluator.model.grid))


# ---- closed forms ----


@pytest.mark.parametrize("p", [0.5, 0.3])
def test_gamblers_ruin(p):
    """A random walk with steps +-1: its duration, the chance of ruin and the visits are known (Feller, volume 1, chapter XIV)."""
    case, n, k = case_of(WALK, policy={"particles": 2, "weights": [1 - p, p]}), 10, 3
    grid = StateGrid.from_case(case)
    policy = ParticlePolicy(grid, np.tile([[-1.0], [1.0]], (11, 1, 1)), np.tile([1 - p, p], (11, 1)))
    _, found = evaluated(case, policy)
    start = np.arange(11)
    if p == 0.5:
        ruin, duration = 1 - start / n, start * (n - start)
        visits = 2 * np.minimum(k, start) * (n - np.maximum(k, start)) / n
        np.testing.assert_allclose(found.law[1:-1], visits[1:-1], rtol=1e-12)
    else:
        r = (1 - p) / p
        ruin = (r**start - r**n) / (1 - r**n)
        duration = start / (1 - 2 * p) - n / (1 - 2 * p) * (1 - r**start) / (1 - r**n)
    np.testing.assert_allclose(found.value, duration + 2 * ruin, rtol=1e-12)
    np.testing.assert_allclose(found.steps_left, duration, rtol=1e-12)
    assert found.objective == pytest.approx(duration[k] + 2 * ruin[k], rel=1e-12)
    assert found.law[0] == pytest.approx(ruin[k], rel=1e-12) and found.law[-1] == pytest.approx(1 - ruin[k], rel=1e-12)
    assert found.most_steps == pytest.approx(duration[k], rel=1e-9) and found.most_steps >= duration[k]
    low, high = found.bracket
    assert low <= found.objective <= high and high - low < 1e-9
    # the average cost of the same walk that begins again: cost over length of an episode, its step at the goal included
    again = case_of(WALK, criterion={"kind": "average"}, goal={**WALK["goal"], "then": "restart"})
    _, renewed = evaluated(again, policy)
    assert renewed.objective == pytest.approx(found.objective / (duration[k] + 1), rel=1e-12)


def test_the_shortest_path_is_found_and_proven():
    """Steps of at most 1 that cost 1 each and 0.1 a^2: ceil of the distance, one long or several shorter ones."""
    left = {"particles": 1, "initial": {"mean": "-0.6", "std": "0"}}
    case = case_of(WALK, cost={"stage": "1 + 0.1*a**2"}, goal={"where": "x <= 0"}, policy=left)
    solution = wg.solve(case)
    # hats: between nodes the next state is either neighbour, so that whole steps are best
    assert solution.objective == pytest.approx(3 * 1.1, rel=1e-9) and solution.converged
    assert solution.lower_bound <= 3.3 <= solution.objective + 1e-9
    np.testing.assert_allclose(solution.value, 1.1 * np.arange(11), atol=1e-9)


# ---- dense algebra and brute force on random problems ----


def ring(rng, kind, restart=False):
    """Return a random case on a ring and its dense twin: states, actions, law P[a] (A, n, n), cost (A, n), goal, F, start."""
    n, actions = int(rng.integers(14, 26)), np.linspace(-1.0, 1.0, 161)
    sigma = float(rng.uniform(1.1, 3.0)) / n
    push, wave, phase, price = rng.uniform(0.02, 0.2), rng.uniform(-0.1, 0.1), rng.uniform(0, 6), rng.uniform(0.05, 1.0)
    least, bump = rng.uniform(0.02, 0.5), rng.uniform(0.0, 1.0)
    low = rng.uniform(0.0, 0.6)
    high, final, at = low + rng.uniform(0.1, 0.3), rng.uniform(-1.0, 1.0), rng.uniform(0.0, 1.0)
    x = np.arange(n) / n
    inside = (x >= low) & (x <= high)
    if not inside.any():
        return ring(rng, kind, restart)
    tables = {
        "states": {
            "x": {
                "next": f"x + {push!r}*a + {wave!r}*sin(2*pi*x + {phase!r})",
                "noise": sigma, "domain": (0, 1), "boundary": "periodic",
            }
        },
        "actions": {"a": {"bounds": (-1, 1)}},
        "cost": {"stage": f"{least!r} + {bump!r}*(1 - cos(2*pi*x)) + {price!r}*a**2"},
        "criterion": {"kind": kind, **({"discount": 0.9} if kind == "discounted" else {})},
        "goal": {"where": f"x >= {low!r} and x <= {high!r}", "cost": f"{final!r}*x", "then": "restart" if restart else "stop"},
        "start": {"x": at},
        "grid": {"points": {"x": n}, "kernel": "gaussian"},
        "policy": {"particles": 2},
    }  # fmt: skip
    mean = x + push * actions[:, None] + wave * np.sin(2 * np.pi * x + phase)
    z = (x - mean[:, :, None] + np.arange(-3, 4)[:, None, None, None]) / sigma
    law = np.exp(-0.5 * z**2).sum(axis=0)
    law /= law.sum(axis=2, keepdims=True)
    cost = least + bump * (1 - np.cos(2 * np.pi * x)) + price * actions[:, None] ** 2 + 0 * x
    first, share = int(np.floor(at * n)), at * n - np.floor(at * n)
    start = np.zeros(n)
    start[first % n] += 1 - share
    start[(first + 1) % n] += share
    return tables, law, cost, inside, final * x, start


def best_of_all(law, cost, inside, final, start, discount=1.0, restart=False):
    """Return the least J over the actions of the twin, and its V, by value iteration."""
    value, gain = np.zeros(len(final)), 0.0
    law, cost = law.copy(), np.where(inside, final, cost)
    law[:, inside] = start if restart else 0.0
    for _ in range(100_000):
        new = (cost + discount * law @ value).min(axis=0)
        if restart and discount == 1.0:
            # of the average cost, damped: relative values
            change = new - value
            gain, new = 0.5 * (change.max() + change.min()), value + 0.5 * (change - change.min())
            if np.ptp(change) < 1e-12:
                return gain, value
        elif np.abs(new - value).max() < 1e-14 * (1 + np.abs(new).max()):
            break
        value = new
    return (1.0 - discount if discount < 1.0 else 1.0) * float(start @ value), value


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["total", "average", "discounted"])
def test_no_policy_is_below_the_bound(kind, seed):
    rng = np.random.default_rng([seed, len(kind)])
    restart = kind == "average" or (kind == "discounted" and seed % 2 == 1)
    tables, *twin = ring(rng, kind, restart)
    case = case_of(tables)
    least, value = best_of_all(*twin, 0.9 if kind == "discounted" else 1.0, restart)
    solver = make_solver(case)
    state = solver.start()
    early = certify(state.evaluation)
    assert early.guaranteed and early.lower_bound <= least + 1e-12
    assert state.evaluation.bracket[1] >= least - 1e-3 * abs(least)
    while solver.verdict(state) is None:
        state = solver.advance(state)
    # 161 actions cost a little more than all of them
    assert state.proven <= least + 1e-12 and state.evaluation.objective <= least + 1e-9
    assert least - state.proven <= 2e-3 * abs(least) + 1e-4
    if kind == "total":
        np.testing.assert_allclose(state.evaluation.value, value, atol=2e-3 * np.abs(value).max())


def test_a_bound_without_the_number_of_steps_would_be_false():
    """What holds for an average does not for a sum over many steps: a fault that the brute force finds."""
    found = []
    for seed in range(12):
        tables, *twin = ring(np.random.default_rng([seed, 5]), "total")
        _, evaluation = evaluated(case_of(tables))
        least, _ = best_of_all(*twin)
        best = find_best(evaluation)
        slack = float((best.values - evaluation.value).min())
        assert bound_of(evaluation, slack) <= least + 1e-12
        found.append(evaluation.anchor + slack > least)
    assert any(found)


@pytest.mark.parametrize("product", [True, False])
def test_in_the_plane_too(product):
    """A position and its drift on a torus: as a product of streamed and collided axes, and by the general kernels."""
    shape, push, sigma, actions = (9, 8), 0.16, (0.14, 0.17), np.linspace(-1.0, 1.0, 121)
    tables = {
        "states": {
            name: {"next": law, "noise": noise, "domain": (0, 1), "boundary": "periodic"}
            for name, law, noise in (("x", "x + 0.1*sin(2*pi*y)", sigma[0]), ("y", f"y + {push}*a", sigma[1]))
        },
        "actions": {"a": {"bounds": (-1, 1)}},
        "cost": {"stage": "0.25 + 0.2*cos(2*pi*x) + 0.3*a**2 + 0.25*(1 + sin(2*pi*y))"},
        "criterion": {"kind": "total"},
        "goal": {"where": "x > 0.6 and (y <= 0.2 or y > 0.8)", "cost": "y - 0.5"},
        "grid": {"points": dict(zip("xy", shape, strict=True)), "kernel": "gaussian"},
        "policy": {"particles": 2},
    }
    x, y = (axis.ravel() for axis in np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij"))

    def along(nodes, mean, noise):
        z = (nodes - mean[..., None] + np.arange(-4, 5).reshape(-1, *[1] * (mean.ndim + 1))) / noise
        weights = np.exp(-0.5 * z**2).sum(axis=0)
        return weights / weights.sum(axis=-1, keepdims=True)

    over_y = along(np.arange(8) / 8, y + push * actions[:, None], sigma[1])
    law = along(np.arange(9) / 9, x + 0.1 * np.sin(2 * np.pi * y), sigma[0])[:, :, None] * over_y[:, :, None, :]
    cost = 0.25 + 0.2 * np.cos(2 * np.pi * x) + 0.3 * actions[:, None] ** 2 + 0.25 * (1 + np.sin(2 * np.pi * y))
    inside = (x > 0.6) & ((y <= 0.2) | (y > 0.8))
    least, value = best_of_all(law.reshape(121, 72, 72), cost, inside, y - 0.5, np.full(72, 1 / 72))
    solver = make_solver(case_of(tables))
    assert solver.model.product is not None
    if not product:
        solver.model.__dict__["product"] = None
    state = solver.start()
    while solver.verdict(state) is None:
        state = solver.advance(state)
    assert state.proven <= least <= state.evaluation.objective * (1 + 1e-4)
    assert solver.verdict(state).status == "converged" and state.evaluation.objective <= least + 1e-12
    np.testing.assert_allclose(state.evaluation.value, value, atol=1e-4)


@pytest.mark.parametrize("kind", ["total", "average", "discounted"])
def test_policies_are_evaluated_as_dense_algebra_does(kind):
    rng = np.random.default_rng(3)
    tables, law, cost, inside, final, start = ring(rng, kind, kind != "total")
    case = case_of(tables)
    grid, g = StateGrid.from_case(case), 0.9 if kind == "discounted" else 1.0
    chosen = rng.integers(0, 161, (grid.size, 2))
    actions, weights = np.linspace(-1.0, 1.0, 161)[chosen], rng.uniform(0.1, 1.0, (grid.size, 2))
    weights /= weights.sum(axis=1, keepdims=True)
    _, found = evaluated(case, ParticlePolicy(grid, actions[:, :, None], weights))
    cells = np.arange(grid.size)[:, None]
    p, c = (weights[:, :, None] * law[chosen, cells]).sum(axis=1), (weights * cost[chosen, cells]).sum(axis=1)
    c[inside] = final[inside]
    p[inside] = 0.0 if kind == "total" else start
    np.testing.assert_allclose(found.chain.operator.matrix().toarray(), p, atol=1e-13)
    if kind == "average":
        mu = np.linalg.lstsq(np.vstack([np.eye(grid.size) - p.T, np.ones(grid.size)]), np.eye(grid.size + 1)[-1], rcond=None)[0]
        assert found.objective == pytest.approx(mu @ c, rel=1e-10)
    else:
        inverse = np.linalg.inv(np.eye(grid.size) - g * p)
        share = 1.0 if kind == "total" else 0.1
        np.testing.assert_allclose(found.value, inverse @ c, rtol=1e-10)
        np.testing.assert_allclose(found.law, share * start @ inverse, rtol=1e-10, atol=1e-14)
        assert found.objective == pytest.approx(share * start @ inverse @ c, rel=1e-10)


# ---- derivatives and flows ----


@pytest.mark.parametrize(("kind", "then"), [("total", "stop"), ("average", "restart"), ("discounted", "stop")])
def test_derivatives_are_those_of_differences(kind, then):
    criterion = {"kind": kind, **({"discount": 0.9} if kind == "discounted" else {})}
    cloud = {"particles": 3, "initial": {"std": 0.3}}
    case = case_of(DRIFT, criterion=criterion, goal={**DRIFT["goal"], "then": then}, policy=cloud)
    evaluator, evaluation = evaluated(case)
    found = check_derivatives(evaluator, evaluation)
    assert found.passed and found.slope_error < 1e-7 and found.curvature_error < 1e-7
    # dJ/dt = -|grad J|^2, the metric weighted by the visits
    step = 1e-5 / gradient_norm(evaluation)
    after = flow_step(evaluator, evaluation, SCHEMES["heun"], step).evaluation
    fall = -0.5 * step * (gradient_norm(evaluation) ** 2 + gradient_norm(after) ** 2)
    assert after.objective - evaluation.objective == pytest.approx(fall, rel=1e-5)


@pytest.mark.parametrize("method", ["euler", "full_newton"])
def test_every_method_reaches_what_newton_does(method):
    least = wg.solve(case_of(DRIFT)).objective
    flow = {"method": method, "stop": {"gradient_norm": 1e-4, "steps": 400}}
    found = wg.solve(case_of(DRIFT, flow=flow, policy={"particles": 2, "initial": {"std": 0.3, "mean": "0.5*x"}}))
    assert found.converged and found.objective == pytest.approx(least, rel=1e-5)
    assert (np.diff(found.history["objective"]) <= 1e-9).all()


# ---- runs ----


def test_a_run_its_file_and_what_is_made_of_it(tmp_path):
    case = case_of(DRIFT)
    whole = wg.run(case, tmp_path / "whole.h5")
    assert whole.converged and whole.stationary.sum() == pytest.approx(1.0)
    part = wg.run(case_of(DRIFT, flow={"stop": {"steps": 2}}), tmp_path / "part.h5")
    with ResultFile(tmp_path / "part.h5") as file:
        checkpoint = file.checkpoint
    rest = wg.solve(case, resume_from=checkpoint)
    assert rest.objective == whole.objective and np.array_equal(rest.value, whole.value)
    assert part.objective >= whole.objective
    rng = np.random.default_rng(2)
    simulated = episode_cost(case.problem, whole.policy, 2000, 40, rng)
    assert abs(simulated.mean - whole.objective) < 5 * simulated.standard_error + 0.01 * whole.objective
    assert simulated.unfinished == 0 and simulated.steps == round(whole.summary["steps_to_the_goal"])
    estimate = whole.summary["estimate"]
    assert abs(estimate["value"] - simulated.mean) < 5 * np.hypot(simulated.standard_error, estimate["standard_error"])
    # in continuous time the same costs are those of a rate times the step, and the final cost is none
    rate = case_of(
        DRIFT, time={"step": 0.5}, states={"x": {"drift": "0.8*a", "diffusion": "0.3/sqrt(0.5)", "domain": (-4, 4)}},
        cost={"rate": "2*(0.2 + 0.1*x**2 + 0.3*a**2)"},
    )  # fmt: skip
    assert wg.solve(rate).objective == pytest.approx(whole.objective, rel=1e-9)


@pytest.mark.parametrize(("kind", "then"), [("average", "restart"), ("discounted", "restart"), ("discounted", "stop")])
def test_other_criteria_simulate_to_their_objective(kind, then):
    criterion = {"kind": kind, **({"discount": 0.8} if kind == "discounted" else {})}
    case = case_of(DRIFT, criterion=criterion, goal={**DRIFT["goal"], "then": then}, output={"estimate": True})
    found, rng = wg.solve(case), np.random.default_rng(4)
    assert found.converged
    if kind == "average":
        simulated = ergodic_cost(case.problem, found.policy, found.stationary, 500, 400, 50, rng)
    else:
        simulated = discounted_cost(case.problem, found.policy, 60_000, rng)
    estimate = found.summary["estimate"]
    assert abs(simulated.mean - found.objective) < 4 * simulated.standard_error + 0.01 * abs(found.objective)
    assert abs(estimate["value"] - found.objective) < 4 * estimate["standard_error"] + 0.01 * abs(found.objective)


def test_an_environment_ends_at_the_goal():
    gymnasium = pytest.importorskip("gymnasium")
    from gymnasium.utils.env_checker import check_env

    env = wg.make_env(case_of(DRIFT), steps=500)
    check_env(env, skip_render_check=True)
    assert isinstance(env, gymnasium.Env)
    observation, _ = env.reset(seed=1)
    assert abs(observation[0]) < 2.0
    total, terminated = 0.0, False
    while not terminated:
        before = observation
        observation, reward, terminated, truncated, _ = env.step(np.array([-1.0]))
        total -= reward
        assert not truncated
    assert observation[0] <= -1.775 < before[0] and reward == pytest.approx(-(0.5 + 0.1 * before[0] ** 2 + 0.5))


def test_the_mountain_car_is_gymnasiums():
    """Its steps, its end and what it is paid, without the noise."""
    gymnasium = pytest.importorskip("gymnasium")
    path = Path(__file__).parent.parent / "gallery" / "mountain_car.toml"
    case = wg.Case.load(path, ["parameters.noise=0", "parameters.time=0"])
    problem, rng = case.problem, np.random.default_rng(0)
    theirs, ours = gymnasium.make("MountainCarContinuous-v0").unwrapped, wg.make_env(case)
    theirs.reset(seed=0)
    ours.reset(seed=0)
    ends = 0
    for x in [*rng.uniform(-1.2, 0.6, 100), *rng.uniform(0.4, 0.45, 100), -1.2, -1.2]:
        state, action = np.array([x, rng.uniform(-0.07, 0.07)]), rng.uniform(-1.0, 1.0, 1)
        theirs.state = np.array([x, 0.0 if x == -1.2 and state[1] < 0 else state[1]])
        ours.reset(options={"state": state})
        (seen, reward, done, *_), (mine, own, over, *_) = theirs.step(action), ours.step(action)
        if mine[0] == -1.2 and mine[1] < 0:
            mine[1] = 0.0  # at the wall: there it counts from the next step on
        np.testing.assert_allclose(mine, seen, atol=1e-7)
        assert own == pytest.approx(float(reward), abs=1e-6) and over == done
        ends += done
    assert ends > 20 and problem.stops


# ---- start laws ----


@pytest.mark.parametrize("boundary", ["truncate", "periodic"])
@pytest.mark.parametrize("given", [0.37, (-0.62, 0.91), {"mean": 0.8, "std": 0.3}, {"mean": -0.2, "std": 0.02}])
def test_a_start_law_on_a_grid_has_its_mean_and_its_hats(boundary, given):
    case = case_of(
        DRIFT, states={"x": {"next": "x + a", "noise": 0.3, "domain": (-1, 1), "boundary": boundary}}, start={"x": given},
        goal={"where": "x > 0.9"}, grid={"points": {"x": 21}},
    )  # fmt: skip
    grid, start = StateGrid.from_case(case), case.problem.start
    law = law_on_grid(start, grid, case.problem.domain)
    drawn = start.sample(400_000, case.problem.domain, case.problem.boundary, np.random.default_rng(0))
    assert (drawn >= -1.0).all() and (drawn <= 1.0).all()
    cells, weights = grid.corners(drawn)
    np.testing.assert_allclose(law, np.bincount(cells.ravel(), weights.ravel(), grid.size) / len(drawn), atol=4e-3)
    if boundary == "truncate":
        assert law @ grid.states[:, 0] == pytest.approx(drawn.mean(), abs=4e-3)


def test_a_discounted_cost_may_begin_somewhere():
    tables = {**DRIFT, "criterion": {"kind": "discounted", "discount": 0.9}, "goal": None}
    case = case_of({key: value for key, value in tables.items() if value is not None}, start={"x": 1.0})
    found, everywhere = wg.solve(case), wg.solve(case_of({key: value for key, value in tables.items() if value}, start={}))
    node = int(np.argmin(np.abs(np.linspace(-4, 4, 161) - 1.0)))
    assert found.objective == pytest.approx(0.1 * found.value[node], rel=1e-9)
    assert everywhere.objective == pytest.approx(0.1 * np.average(everywhere.value, weights=[0.5, *[1] * 159, 0.5]), rel=1e-9)


# ---- what does not go together ----

AVERAGE, DISCOUNTED = {"kind": "average"}, {"kind": "discounted", "discount": 0.9}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"goal": {"where": "x + a > 1"}}, "states and parameters only, not on the action a"),
        ({"goal": {"where": "x"}}, "expected a comparison"),
        ({"goal": {"where": "1 > 0"}}, "every state satisfies it"),
        ({"goal": {"where": "x > 9"}}, "no grid point satisfies it"),
        ({"goal": {"where": "x > -9"}}, "every grid point satisfies it"),
        ({"goal": {"where": "x > 1", "cost": "log(1 - x)"}}, "goal.cost is nan at x="),
        ({"goal": {"where": "x > 1", "then": "restart"}}, "no total cost"),
        ({"criterion": AVERAGE}, "an average over all time does not stop"),
        ({"solver": {"kind": "neural"}}, "goal: the neural solver takes none"),
        ({"start": {"y": 0}}, "start.y: unknown state"),
        ({"start": {"x": 9}}, "start.x: 9 is not in the domain [-4, 4]"),
        ({"start": {"x": {"mean": 0}}}, "expected { mean = ..., std = ... }"),
        ({"start": {"x": {"mean": 99, "std": 1}}}, "hardly anything of the normal law"),
        ({"expect": {"average_cost": {"value": 1, "relative": 0.1}}}, "expect.average_cost: not of criterion.kind = 'total'"),
    ],
)
def test_what_does_not_go_together_is_said(changes, words):
    with pytest.raises(ValueError) as said:
        make_solver(case_of(DRIFT, **changes)).start()
    assert words in str(said.value) and "\n" not in str(said.value)


def test_goals_are_asked_for_where_they_are_needed():
    without = {key: value for key, value in DRIFT.items() if key != "goal"}
    with pytest.raises(CaseError, match="goal: missing"):
        case_of(without)
    with pytest.raises(CaseError, match="start: the average cost does not depend"):
        case_of(without, criterion=AVERAGE)
    with pytest.raises(ProveError, match="the case has a goal"):
        prove(case_of(DRIFT))
    with pytest.raises(ProveError, match="the case has a start law"):
        prove(case_of(without, criterion=DISCOUNTED))


def test_cells_that_never_reach_the_goal_are_named():
    """Without noise a policy that goes right never reaches a goal on the left."""
    case = case_of(WALK, goal={"where": "x <= 0"}, policy={"particles": 1, "initial": {"mean": "1", "std": "0"}})
    with pytest.raises(ImproperPolicyError, match=r"10 of 11 cells never reach it, at .*\(x = 1\) and at .*\(x = 10\)"):
        make_solver(case).start()
    # with a discount that is no obstacle, and the policy turns round
    found = wg.solve(case_of(case.model_dump(exclude_none=True), criterion=DISCOUNTED))
    assert found.objective == pytest.approx(0.1 * (1 + 0.9 + 0.81), rel=1e-6)


def test_without_a_price_of_time_nothing_is_claimed():
    case = case_of(DRIFT, cost={"stage": "0.3*a**2"})
    found = wg.solve(case)
    assert np.isnan(found.lower_bound) and "off the goal the stage cost is seen only to be at least 0" in found.reason
    assert "nothing is proven" in found.reason and not found.converged
