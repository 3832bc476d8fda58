"""The objective along geodesics, and the comparison of two result files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from random_policies import SETTINGS

from wassgrid import plotting
from wassgrid.cli import main
from wassgrid.compare import compare, objective_along
from wassgrid.metric import geodesic
from wassgrid.policy import ParticlePolicy, PolicyError
from wassgrid.problem.exact import ScalarLQ

LQ = ScalarLQ()
FLOW = {"method": "heun", "stop": {"steps": 2}}


@pytest.mark.parametrize("name", ["1-D, average", "1-D, discounted", "2-D aligned, average", "2-D with two actions, average"])
def test_second_derivative_along_a_geodesic_is_the_hessian(name: str) -> None:
    """Slope and curvature of J(t) against differences of J(t), between clouds of unequal weights."""
    evaluator = SETTINGS[name].evaluator()
    path = geodesic(*(SETTINGS[name].policy(evaluator, seed) for seed in (1, 2)))
    step = 1e-3  # short: a mean that crosses an end of the domain on the way is a kink
    along = objective_along(evaluator, path, 0.3 + step * np.arange(-2, 3))
    objective = along.objective
    one, two = objective[3] - objective[1], objective[4] - objective[0]
    assert along.slope[2] == pytest.approx((8 * one - two) / (12 * step), rel=1e-6, abs=1e-8)
    one, two = along.slope[3] - along.slope[1], along.slope[4] - along.slope[0]
    assert along.curvature[2] == pytest.approx((8 * one - two) / (12 * step), rel=1e-6, abs=1e-8)


def test_objective_between_linear_feedbacks_is_that_of_the_feedbacks_between() -> None:
    """u = -Kx and u = -Lx: the geodesic runs through u = -((1 - t) K + t L) x, whose J is known."""
    from wassgrid.case import Case
    from wassgrid.evaluation import Evaluator

    evaluator = Evaluator.from_case(Case.from_text(LQ.case_text(81, deviations=9.0)))
    grid = evaluator.model.grid
    path = geodesic(*(ParticlePolicy.around(grid, -gain * grid.states) for gain in (0.5, 0.9)))
    times = np.linspace(0, 1, 5)
    along = objective_along(evaluator, path, times)
    gains = 0.5 + 0.4 * times
    assert along.objective == pytest.approx([LQ.policy_objective(gain) for gain in gains], rel=1e-9)
    assert along.slope == pytest.approx([0.4 * LQ.gain_derivative(gain) for gain in gains], rel=1e-7)
    parts = np.array([LQ.hessian_parts(gain) for gain in gains]) * 0.4**2
    assert np.stack([along.local, along.transport], axis=1) == pytest.approx(parts, rel=1e-6, abs=1e-8)
    assert along.barrier == 0.0


def solved(folder: Path, name: str, seed: int, particles: int = 2, text: str | None = None) -> Path:
    tables = {"flow": FLOW, "policy": {"particles": particles, "seed": seed, "initial": {"distribution": "normal", "std": 0.2}}}
    tables["policy"]["initial"]["mean"] = f"-{0.4 + 0.1 * seed}*x"  # type: ignore[index]
    case = folder / f"{name}.toml"
    case.write_text(text or LQ.case_text(21, **tables))
    path = folder / f"{name}.h5"
    assert main(["run", str(case), "-o", str(path), "--quiet"]) == 1
    return path


@pytest.mark.thorough
def test_compare_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = solved(tmp_path, "one", 1), solved(tmp_path, "two", 2, particles=3)
    found = compare(first, second, points=5)
    policies = [ParticlePolicy.load(path) for path in (first, second)]
    path = geodesic(*policies)
    assert found.distance != found.distance_back
    assert found.farthest[1] == pytest.approx(np.sqrt(path.squared_distances().max()))
    back = compare(second, first, points=5)
    assert (back.distance, back.distance_back) == pytest.approx((found.distance_back, found.distance))
    assert back.along.objective == pytest.approx(found.along.objective[::-1], rel=1e-9)
    itself = compare(first, first, points=3)
    assert itself.distance == 0.0
    assert np.ptp(itself.along.objective) < 1e-11
    assert itself.names == ("one (1)", "one (2)")
    capsys.readouterr()
    assert main(["compare", str(first), str(second), "-o", str(tmp_path / "figure.png"), "--points", "5"]) == 0
    printed = capsys.readouterr().out
    assert f"{found.distance:.8g} under the law of one" in printed
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    # the name of a figure without an ending, and endings that no figure has
    assert main(["compare", str(first), str(second), "-o", str(tmp_path / "plain"), "--points", "2"]) == 0
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'plain.png'}\n") and (tmp_path / "plain.png").exists()
    for name in ("figure.nosuch", first.name):
        assert main(["compare", str(first), str(second), "-o", str(tmp_path / name)]) == 2
        assert "no figure has that ending" in capsys.readouterr().err
    assert main(["info", str(first)]) == 0


def test_figure_shows_the_numbers(tmp_path: Path) -> None:
    found = compare(solved(tmp_path, "one", 1), solved(tmp_path, "two", 2), points=4)
    figure = plotting.comparison(found)
    FigureCanvasAgg(figure).draw()
    left, right = figure.axes
    assert left.lines[0].get_ydata().tolist() == found.along.objective.tolist()
    local, transport, total = (np.asarray(line.get_ydata()) for line in right.lines[:3])
    assert total == pytest.approx(local + transport)
    assert "two (1)" in left.get_xlabel()


def test_runs_of_different_problems_are_refused(tmp_path: Path) -> None:
    one = solved(tmp_path, "one", 1)
    other = ScalarLQ(r=2.0).case_text(21, flow=FLOW, policy={"particles": 1})
    with pytest.raises(PolicyError, match=r"different problems: they differ in \[(states|parameters)\]"):
        compare(one, solved(tmp_path, "other", 1, text=other))
    finer = LQ.case_text(31, flow=FLOW, policy={"particles": 1, "initial": {"distribution": "point", "mean": "-0.5*x"}})
    with pytest.raises(PolicyError, match=r"different grids \(21 and 31\)"):
        compare(one, solved(tmp_path, "finer", 1, text=finer))
