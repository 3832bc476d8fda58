"""The objective along geodesics, and the comparison of two result files."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from matplotlib.backends.backend_agg import FigureCanvasAgg
from random_policies import SETTINGS

import wassgrid as wg
from wassgrid import plotting
from wassgrid.case import Case
from wassgrid.cli import main
from wassgrid.compare import compare, objective_along
from wassgrid.evaluation import Evaluator
from wassgrid.metric import geodesic
from wassgrid.policy import ParticlePolicy, PolicyError
from wassgrid.problem.exact import ScalarLQ
from wassgrid.shortfall import Shortfall

CASES = Path(__file__).parent.parent / "cases"
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
    left, right, loss, gradient = figure.axes
    assert loss.lines[0].get_ydata() == pytest.approx(found.shortfall.loss)
    assert gradient.lines[0].get_ydata() == pytest.approx(found.shortfall.gradient)
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


GOALS = {
    "average, renewal": {"goal": {"where": "x >= 1.5", "then": "restart"}, "start": {"x": {"mean": -1.0, "std": 0.3}}},
    "total": {
        "criterion": {"kind": "total"}, "goal": {"where": "x >= 1.5", "cost": "0.3*x", "then": "stop"},
        "start": {"x": {"mean": -1.0, "std": 0.3}},
    },
}  # fmt: skip


def goal_case(tables: dict[str, object]) -> Case:
    walk = {
        "states": {"x": {"next": "clip(x + 0.4*u, -2, 2)", "noise": 0.3, "domain": [-2.0, 2.0], "boundary": "truncate"}},
        "actions": {"u": {"bounds": [-1.0, 1.0]}},
        "cost": {"stage": "1 + 0.2*u**2"},
        "grid": {"points": {"x": 21}},
    }
    return Case.from_text(tomli_w.dumps(walk | tables))


@pytest.mark.parametrize("name", [*SETTINGS, *GOALS])
def test_losses_of_all_cells_are_the_difference_of_the_objectives(name: str) -> None:
    """Two policies without any structure: J's difference from two solves, the losses from Q of one and the law of the other."""
    if name in SETTINGS:
        evaluator = SETTINGS[name].evaluator()
        pair = [SETTINGS[name].policy(evaluator, seed) for seed in (1, 2)]
    else:
        evaluator = Evaluator.from_case(goal_case(GOALS[name]))
        grid, rng = evaluator.model.grid, np.random.default_rng(1)
        weights = np.tile([0.3, 0.7], (grid.size, 1))
        pair = [ParticlePolicy(grid, rng.uniform(0.2, 1, (grid.size, 2, 1)), weights) for _ in range(2)]
    one, other = (evaluator.evaluate(policy) for policy in pair)
    found = Shortfall(one, other)
    assert found.total == one.objective - other.objective
    assert found.loss.sum() == pytest.approx(found.total, rel=1e-9, abs=1e-10 * one.cost_scale)
    assert found.loss.min() < 0.0 < found.loss.max()
    itself = Shortfall(one, one)
    assert itself.total == 0.0 and np.abs(itself.loss).max() <= 1e-9 * one.cost_scale
    count, share = found.concentration()
    lost = np.maximum(found.loss, 0.0)
    assert np.sort(lost)[::-1][:count].sum() >= 0.5 * lost.sum() > np.sort(lost)[::-1][: count - 1].sum()
    assert 0.0 < share <= 1.0


def test_a_policy_beside_the_best_loses_nowhere_and_the_best_has_no_gradient_left() -> None:
    case = Case.load(CASES / "bang_bang.toml", ["policy.particles=1", "flow.stop={ gap = 1e-9, steps = 60 }"])
    solution, evaluator = wg.solve(case), Evaluator.from_case(case)
    grid = evaluator.model.grid
    best = evaluator.evaluate(solution.policy)
    smooth = np.tanh(3.0 * np.arctanh(np.clip(solution.policy.mean(grid.states), -0.9, 0.9)))
    found = Shortfall(evaluator.evaluate(ParticlePolicy.around(grid, smooth)), best)
    assert found.total > 0.0 and found.loss.min() >= -1e-9
    # on the bounds Q has a slope, and that is no gradient that is left
    assert np.abs(best.q_gradient).max() > 0.1
    assert Shortfall(best, best).gradient.max() <= 1e-6 < found.gradient_norm


def test_the_gradient_that_is_left_is_that_of_q_where_no_bound_is_near() -> None:
    setting = SETTINGS["2-D with two actions, average"]
    evaluator = setting.evaluator()
    evaluation = evaluator.evaluate(setting.policy(evaluator, 1))
    expected = np.sqrt(np.einsum("ki,kia->k", evaluation.policy.weights, evaluation.q_gradient**2))
    found = Shortfall(evaluation, evaluation)
    assert found.gradient == pytest.approx(expected, rel=1e-12)
    assert found.gradient_norm == pytest.approx(np.sqrt(evaluation.law @ expected**2), rel=1e-12)


NEURAL = {
    "solver": {"kind": "neural"},
    "neural": {
        "hidden": [], "chains": 16, "horizon": 6, "value": "quadratic", "steps": 2, "evaluation": {"chains": 8, "steps": 64}
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("jax", reason="JAX is an extra")
    folder = tmp_path_factory.mktemp("neural")
    tables = tomllib.loads(LQ.case_text(41, deviations=8.0))
    tables = {name: tables[name] for name in ("parameters", "states", "actions", "cost") if name in tables}
    # as much as the neural solver needs to know of the problem: no domain
    tables["states"] = {"x": {key: text for key, text in tables["states"]["x"].items() if key not in ("domain", "boundary")}}
    tables |= NEURAL | {"policy": {"initial": {"distribution": "point", "mean": "-0.4*x"}}}
    case = folder / "net.toml"
    case.write_text(tomli_w.dumps(tables))
    assert main(["run", str(case), "-o", str(folder / "net.h5"), "--quiet"]) in (0, 1)
    return folder / "net.h5"


@pytest.mark.thorough
def test_a_neural_policy_is_laid_beside_the_grid(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A linear feedback, whose J, distance and loss are known in closed form."""
    flow = {"method": "newton", "stop": {"gap": 1e-9, "steps": 30}}
    text = LQ.case_text(41, deviations=8.0, flow=flow, policy={"particles": 1})
    (tmp_path / "grid.toml").write_text(text)
    grid = tmp_path / "grid.h5"
    assert main(["run", str(tmp_path / "grid.toml"), "-o", str(grid), "--quiet"]) == 0
    found, back = compare(grid, trained, points=3), compare(trained, grid, points=3)
    policy = wg.Policy.load(trained)
    gain = -float(policy.mean([1.0])[0] - policy.mean([0.0])[0])
    shift = float(policy.mean([0.0])[0])
    assert (found.judged, found.beside) == (back.judged, back.beside) == ("net", "grid")
    # J of u = -Kx + k: the mean of x' = (1 - K) x + k is m = k/K; here k is small beside the noise
    mean = shift / gain
    expected = LQ.policy_objective(gain) + mean**2 + (shift - gain * mean) ** 2
    assert found.shortfall.policy.objective == pytest.approx(expected, rel=1e-6)
    assert found.shortfall.total == pytest.approx(expected - LQ.objective, rel=1e-4)
    assert found.along.objective[::-1] == pytest.approx(back.along.objective, rel=1e-9)
    assert 0.0 <= found.shortfall.reference.objective - found.bound <= 1e-8
    mean, error = found.simulated
    assert abs(mean - expected) < 6 * error + 0.5
    capsys.readouterr()
    assert main(["compare", str(grid), str(trained), "-o", str(tmp_path / "figure.png"), "--points", "2"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "net costs" in printed and "more than grid" in printed and "above the proven lower bound of the best" in printed
    assert "root mean square of grad_a Q of net" in printed and "of net, without a grid" in printed
    assert compare(grid, grid, points=2).shortfall.total == 0.0
    with pytest.raises(PolicyError, match="both files hold neural policies"):
        compare(trained, trained)
    other = solved(tmp_path, "other", 1, text=ScalarLQ(r=2.0).case_text(21, flow=FLOW, policy={"particles": 1}))
    with pytest.raises(PolicyError, match=r"different problems: they differ in \[parameters\]"):
        compare(other, trained)


@pytest.mark.thorough
def test_a_stochastic_network_stands_on_the_grid_as_particles() -> None:
    """T linear in z has the mean of the network and the deviation of its slope in z; a network in z that of many draws."""
    pytest.importorskip("jax", reason="JAX is an extra")
    from neural_cases import drawn_parameters, push_forward

    from wassgrid.grid import StateGrid
    from wassgrid.neural.computed_policy import NeuralPolicy

    grid = StateGrid(("x", "y"), (np.linspace(-1, 1, 5), np.linspace(0, 2, 4)), ("truncate", "truncate"))
    for hidden, latents, tolerance in (((), 1, 0.02), ((), 2, 0.02), ((8,), 1, 0.05)):
        transport = push_forward(hidden=hidden, latent_dimension=latents)
        policy = NeuralPolicy(transport, np.asarray(drawn_parameters(transport)), "float32", ("x", "y"))
        placed = policy.on_grid(grid)
        assert placed.actions.shape == (20, 64, 1)
        many = policy.distribution(grid.states)
        assert placed.mean(grid.states) == pytest.approx(many.mean(), abs=1e-5 if hidden == () else tolerance)
        assert placed.std(grid.states) == pytest.approx(many.std(), rel=tolerance)
