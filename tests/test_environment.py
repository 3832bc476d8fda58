"""Cases as environments of Gymnasium, and policies in environments of others: here ones whose returns are known."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

import wassgrid as wg
from wassgrid.cli import main
from wassgrid.environment import EnvironmentMismatchError, adapter, evaluate, make_env

gymnasium = pytest.importorskip("gymnasium")
from gymnasium.utils.env_checker import check_env  # noqa: E402

CASES = Path(__file__).resolve().parent.parent / "cases"

GRIDS = sorted(path.name for path in CASES.glob("*.toml") if "[neural]" not in path.read_text())


class Integrator(gymnasium.Env):
    """x' = x + a, observed as (2 x, -x); reward -x^2 - a^2 before the step; four steps."""

    def __init__(self):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), dtype=np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), dtype=np.float64)

    def _seen(self):
        return np.array([2.0 * self.x, -self.x])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.left = float(self.np_random.uniform(-3.0, 3.0)), 4
        return self._seen(), {}

    def step(self, action):
        reward = -(self.x**2) - float(action[0]) ** 2
        self.x += float(action[0])
        self.left -= 1
        return self._seen(), reward, False, self.left == 0, {}


class Linear:
    """a = -x/2, to be clipped to [-1, 1]."""

    def mean(self, state):
        assert state.shape[1:] == (1,)
        return -0.5 * state

    def sample(self, state, rng):
        return -0.5 * state + rng.normal(size=state.shape)


def returns_by_hand(seeds):
    found = []
    for seed in seeds:
        x, total = float(gymnasium.utils.seeding.np_random(int(seed))[0].uniform(-3.0, 3.0)), 0.0
        for _ in range(4):
            a = min(1.0, max(-1.0, -0.5 * x))
            total -= x**2 + a**2
            x += a
        found.append(total)
    return np.array(found)


@pytest.mark.parametrize("episodes", [1, 3, 600])
def test_returns_are_those_of_a_loop_by_hand(episodes):
    found = evaluate(Linear(), Integrator, episodes, 5, {"x": "o0 + o1"})
    assert np.allclose(found.returns, returns_by_hand(range(5, 5 + episodes)), rtol=1e-13)
    assert found.environment == "Integrator" and f"seeds 5 to {4 + episodes}" in found.describe()
    assert np.isnan(found.standard_error) == (episodes == 1)


def test_observations_may_be_taken_by_a_function_and_actions_drawn():
    by_function = evaluate(Linear(), Integrator, 20, 1, lambda seen: 0.5 * seen[:, :1])
    assert np.allclose(by_function.returns, returns_by_hand(range(1, 21)), rtol=1e-13)
    drawn = [evaluate(Linear(), Integrator, 20, 1, {"x": "-o1"}, sample=True).returns for _ in range(2)]
    assert np.array_equal(*drawn) and not np.allclose(drawn[0], by_function.returns)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env": "Nowhere-v0"}, "environment 'Nowhere-v0'"),
        ({"env": "CartPole-v1"}, "CartPole-v1 takes actions of the kind Discrete"),
        ({"env": Integrator, "states": ("x",)}, "--observe x=o0"),
        ({"env": Integrator, "observe": {"y": "o0"}, "states": ("x",)}, "observe.y: the policy's states are x"),
        ({"env": Integrator, "observe": {"x": "o0"}, "states": ("x", "y")}, "observe.y: missing; give an expression of 2"),
        ({"env": Integrator, "observe": {"x": "o7"}}, "observe.x: unknown name 'o7'"),
        ({"env": Integrator, "observe": {"x": "__import__('os')"}}, "observe.x:"),
        ({"env": Integrator, "episodes": 0}, "episodes: expected at least 1"),
    ],
)
def test_what_does_not_go_together_is_said(arguments, message):
    with pytest.raises(EnvironmentMismatchError) as raised:
        evaluate(Linear(), **arguments)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_policy_with_other_actions_is_refused():
    class Two(Linear):
        def mean(self, state):
            return np.zeros((len(state), 2))

    with pytest.raises(EnvironmentMismatchError, match="takes 1 actions, the policy has 2"):
        evaluate(Two(), Integrator, 2, 0, {"x": "o0"})


def test_texts_may_use_the_functions_of_case_files():
    see = adapter({"b": "o1**2", "a": "wrap_angle(atan2(o0, o1))"}, ["a", "b"], 2)
    seen = np.random.default_rng(0).normal(size=(50, 2))
    assert np.allclose(see(seen), np.stack([np.arctan2(seen[:, 0], seen[:, 1]), seen[:, 1] ** 2], axis=1))


@pytest.mark.parametrize("name", GRIDS)
def test_every_shipped_case_passes_gymnasiums_checker(name):
    env = make_env(wg.Case.load(CASES / name))
    with warnings.catch_warnings():
        # advice on learning: bounds that are finite, symmetric and small
        warnings.simplefilter("ignore")
        check_env(env, skip_render_check=True)


def test_an_episode_follows_the_law_of_the_case():
    case = wg.Case.load(CASES / "pendulum.toml")
    env = make_env(case, steps=3)
    start = {"omega": 0.5, "theta": 3.0}
    seen, _ = env.reset(seed=1, options={"state": start})
    assert np.array_equal(seen, [3.0, 0.5])
    ends = []
    for seed in range(2000):
        env.reset(seed=seed, options={"state": start})
        after, reward, terminated, truncated, info = env.step(np.array([9.0]))
        ends.append(after)
        assert not terminated and not truncated and info["cost"] == -reward
    # the action is clipped to 2
    assert reward == pytest.approx(-(9.0 + 0.025 + 0.004))
    omega = np.array(ends)[:, 1]
    mean = 0.5 + 0.05 * (15 * np.sin(3.0) + 6.0)
    assert abs(omega.mean() - mean) < 5 * 0.4 / np.sqrt(2000) and abs(omega.std() - 0.4) < 5 * 0.4 / np.sqrt(4000)
    ended = [env.step(np.zeros(1))[3] for _ in range(2)]
    assert ended == [False, True]
    for state, message in (([1.0], "shape"), ({"theta": 1.0}, "omega"), ([[0.0, 1.0]], "one state"), ([0.0, np.nan], "finite")):
        with pytest.raises(wg.WassgridError, match=message):
            env.reset(options={"state": state})
    with pytest.raises(EnvironmentMismatchError, match="steps"):
        make_env(case, 0)


def test_actions_may_be_bounded_for_libraries_that_ask_for_it():
    case = wg.Case.load(CASES / "scalar_lq.toml")  # actions without bounds
    assert not np.isfinite(make_env(case).action_space.high).any()
    for bounds in ((-2.0, 3.0), {"u": (-2, 3)}):
        env = make_env(case, bounds=bounds)
        assert env.action_space.low == -2.0 and env.action_space.high == 3.0
        ends = []
        for action in (3.0, 9.0):
            env.reset(seed=1, options={"state": [0.0]})
            ends.append(env.step(np.array([action]))[:2])
        assert ends[0] == ends[1]
    for wrong, message in (
        ({"v": (0, 1)}, "unknown action 'v'"), ({"u": 3}, "two numbers"), ((0.0, np.inf), "finite"), ((1.0, 0.0), "low < high"),
    ):  # fmt: skip
        with pytest.raises(EnvironmentMismatchError, match=message):
            make_env(case, bounds=wrong)
    with pytest.raises(EnvironmentMismatchError, match=r"within those of the case, \[-2, 2\]"):
        make_env(wg.Case.load(CASES / "pendulum.toml"), bounds=(-3.0, 3.0))


@pytest.mark.thorough
def test_simulate_runs_a_policy_in_an_environment(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--set", "grid.points.theta=96", "--set", "policy.particles=1", "--set", "flow.stop.gap=1e-3"]
    assert main(["run", str(CASES / "pendulum.toml"), "-q", "-o", "p.h5", *small]) == 0
    seen = ["--observe", "theta=atan2(o1, o0)", "--observe", "omega=o2"]
    assert main(["simulate", "p.h5", "--env", "Pendulum-v1", "--episodes", "30", *seen]) == 0
    found = capsys.readouterr().out
    # never pushing brings some -1200
    assert -300 < float(found.split()[1]) < -100 and "Pendulum-v1, seeds 0 to 29" in found
    assert main(["simulate", "p.h5", "--env", "Pendulum-v1"]) != 0
    assert "--observe theta=o0" in capsys.readouterr().err
    assert main(["simulate", "p.h5", "--observe", "theta=o0"]) != 0
    assert main(["simulate", "p.h5", "--env", "Pendulum-v1", "--observe", "theta"]) != 0
    assert "expected STATE=EXPRESSION" in capsys.readouterr().err
