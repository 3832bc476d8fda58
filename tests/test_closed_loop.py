"""The closed loop from one state: held to a linear chain whose law is known at every step."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import wassgrid as wg
from wassgrid import plotting
from wassgrid.cli import main
from wassgrid.closed_loop import LEVELS, _gathered, simulate_from
from wassgrid.grid import StateGrid
from wassgrid.policy import ParticlePolicy

CASE = """
[parameters]
half = 0.5
[states.s]
next   = "0.8*s + a"
noise  = 0.1
domain = [-3.0, 3.0]
[actions.a]
[cost]
stage = "s**2 + a**2"
[grid]
points = { s = 61 }
[policy]
particles = 1
[flow]
stop = { steps = 0 }
[output]
estimate = false
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """A file with the feedback a = -0.3 s, which is linear between the cells too."""
    case = wg.Case.from_text(CASE, "linear")
    grid = StateGrid.from_case(case)
    policy = ParticlePolicy.around(grid, -0.3 * grid.states)
    return wg.solve(case, initial=policy).save(tmp_path_factory.mktemp("closed") / "linear.h5")


@pytest.mark.thorough
def test_a_linear_chain_has_its_law_at_every_step(result):
    """s_t ~ N(0.5^t s_0, 0.01 (1 - 0.25^t)/(1 - 0.25)), a_t = -0.3 s_t."""
    found = simulate_from(result, "s=4*half", steps=8, chains=20_000, seed=1)
    t = np.arange(8)
    spread = np.sqrt(0.01 * (1 - 0.25**t) / 0.75)
    levels = np.array([-1.6448536, -0.6744898, 0.0, 0.6744898, 1.6448536])
    exact = 2 * 0.5**t + levels[:, None] * spread
    np.testing.assert_allclose(found.quantiles[:, :, 0], exact, atol=0.01)
    np.testing.assert_allclose(found.quantiles[:, :, 1], -0.3 * exact[::-1], atol=0.003)
    cost = 1.09 * (4 * 0.25**t + spread**2).mean()
    assert abs(found.mean - cost) < 4 * found.error
    assert found.names == ("s", "a", "cost")
    assert len(LEVELS) == len(levels)
    np.testing.assert_array_equal(found.paths[0, :, 0], 2.0)


def test_quantiles_of_what_winds_around_are_those_around_its_mean():
    angles = math.pi + np.linspace(-0.5, 0.5, 101)
    wrapped = np.mod(angles + math.pi, 2 * math.pi) - math.pi
    low, high = np.quantile(_gathered(wrapped[:, None], np.array([2 * math.pi])), [0.0, 1.0])
    assert high - low == pytest.approx(1.0)


def test_the_command_tells_and_draws(result, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", str(result), "--from", "s=2", "--steps", "20", "--chains", "50", "--plot"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cost  ")
    assert "over 20 steps" in lines[0]
    assert lines[1].startswith("s     ")
    assert lines[2] == "linear_closed_loop.png"
    assert main(["simulate", str(result), "--from", "s=1", "--steps", "5", "--chains", "9", "--plot", "-o", "new/other.svg"]) == 0
    assert capsys.readouterr().out.splitlines()[2] == "new/other.svg" and Path("new/other.svg").read_text().startswith("<?xml")
    figure = plotting.closed_loop(simulate_from(result, "s=2", 5, 3, 0))
    assert sorted(axis.get_ylabel() for axis in figure.axes) == ["a", "a", "cost", "s"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "s"], "--from: expected name=value and commas between, got 's'"),
        (["--from", "s=x"], "--from s: unknown name 'x'"),
        (["--from", "s=9**9**9"], "--from s: "),
        (["--from", "s=50"], "--from s: 50 lies outside of its domain"),
        (["--from", "q=1"], "unknown state 'q', expected s"),
        (["--from", ""], "--from: expected name=value"),
        (["--plot"], "goes with --from"),
        (["--from", "s=1", "-o", "x.png"], "goes with --plot"),
        (["--from", "s=1", "--plot", "-o", "x.xyz"], "xyz"),
        (["--from", "s=1", "--env", "Pendulum-v1"], "goes without --env"),
    ],
)
def test_bad_starts_give_one_line(result, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", str(result), *arguments]) == 2
    output, errors = capsys.readouterr()
    assert (output, len(errors.splitlines())) == ("", 1)
    assert message in errors
    assert list(tmp_path.iterdir()) == []
