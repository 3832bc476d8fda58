"""Figures from synthetic result files: they show the numbers that are in the file, with names and units."""

from __future__ import annotations

import importlib.util
import itertools
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from wassgrid import plotting
from wassgrid.cli import main
from wassgrid.plotting.fields import Frame, _where_it_is, draw_map
from wassgrid.plotting.style import canvas, label
from wassgrid.plotting.trajectories import _telling_cells
from wassgrid.problem.states import StateError
from wassgrid.storage import Axis, ResultWriter, StorageError, Variable

UNITS = {"x": "m", "y": "m/s", "z": "1"}
POSTPROCESS = Path(__file__).parent.parent / "postprocess"


def write(
    path: Path,
    states: str = "x",
    actions: tuple[str, ...] = ("u",),
    steps: int = 40,
    flow: bool = True,
    bound: bool = True,
    case: str = "",
    curvature: bool = False,
    spread: float = 1.0,
) -> Path:
    """Write a run whose objective is 2 + 3 exp(-2 t) and whose gradient norm is exp(-t)."""
    points = dict(zip("xyz", (9, 7, 5), strict=True))
    grid = [Axis(name, np.linspace(-2, 2, points[name]), name, UNITS[name], {"boundary": "clamp"}) for name in states]
    axes = [Axis("particle", np.arange(4), "particle"), Axis("action", actions, "action")]
    cells = tuple(states)
    cloud = (*cells, "particle", *(["action"] if len(actions) > 1 else []))
    convergence = {
        "objective": Variable((), "objective", "J"),
        "lower_bound": Variable((), "lower bound", "J"),
        "gradient_norm": Variable((), "gradient norm"),
        "flow_time": Variable((), "flow time", "s"),
        "wall_time": Variable((), "wall time", "s"),
    }
    trajectory = {
        "actions": Variable(cloud, "actions"),
        "weights": Variable((*cells, "particle"), "weights"),
        "stationary": Variable(cells, "stationary law"),
        "value": Variable(cells, "value", "J"),
    }
    attributes = {
        "case": case,
        "action_names": list(actions),
        "action_units": ["N"] * len(actions),
    }
    writer = ResultWriter.create(path, attributes, axes, {"convergence": convergence, "trajectory": trajectory}, grid)
    generator = np.random.default_rng(2)
    shape = tuple(points[name] for name in states)
    weights = generator.random((*shape, 4))
    weights /= weights.sum(axis=-1, keepdims=True)
    law = generator.random(shape)
    for step in range(steps):
        t = 0.2 * step
        row = {"step": step, "objective": 2 + 3 * np.exp(-2 * t), "gradient_norm": np.exp(-t), "wall_time": 0.1 + step}
        row |= {"flow_time": t} if flow else {}
        row |= {"lower_bound": 2 - np.exp(-3 * t) if step < steps - 1 else 2.0} if bound else {}
        if curvature:
            row |= {f"curvature_{end}{part}": 1.0 for end in ("min", "max") for part in ("", "_local", "_transport", "_residual")}
        writer.append_row(row)
        particles = 1.0 + spread * generator.normal(size=(*shape, 4, len(actions)))
        arrays = {"weights": weights, "stationary": law / law.sum(), "value": generator.normal(size=shape)}
        writer.append_frame(step, arrays | {"actions": particles if len(actions) > 1 else particles[..., 0]})
    writer.finish("converged", "")
    return path


def panels(figure) -> list:
    return [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]


def texts(figure) -> list[str]:
    return [text for axis in figure.axes for text in (axis.get_xlabel(), axis.get_ylabel(), axis.get_title())]


def assert_complete(figure) -> None:
    FigureCanvasAgg(figure).draw()
    for axis in panels(figure):
        assert axis.has_data()
    boxes = [axis.get_tightbbox() for axis in panels(figure)]
    width, height = figure.get_size_inches() * figure.dpi
    for box in boxes:
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= width + 1
        assert box.y1 <= height + 1
    for one, other in itertools.combinations(boxes, 2):
        overlap_x = min(one.x1, other.x1) - max(one.x0, other.x0)
        overlap_y = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert overlap_x < 2 or overlap_y < 2


@pytest.mark.parametrize(
    ("states", "actions", "steps"),
    [
        pytest.param("x", ("u", "$v_1$"), 1, marks=pytest.mark.thorough),
        pytest.param("xy", ("u",), 12, marks=pytest.mark.thorough),
        pytest.param("xyz", ("u", "$v_1$"), 1, marks=pytest.mark.thorough),
        ("xyz", ("u", "$v_1$"), 12),
    ],
)
def test_every_figure_is_complete(tmp_path, states, actions, steps):
    figures = plotting.figures([write(tmp_path / "run.h5", states, actions, steps)])
    assert list(figures) == [f"run_{kind}" for kind in ("convergence", "policy", "stationary", "value", "trajectories")]
    for figure in figures.values():
        assert_complete(figure)
    shown = texts(figures["run_policy"])
    for name in states:
        assert ("x (m)", "y (m/s)", "z")["xyz".index(name)] in shown
    for name in actions:
        assert any(text.endswith(f"{name} (N)".replace("$", r"\$")) for text in shown)


def test_convergence_shows_the_distance_to_the_best_bound(tmp_path):
    path = write(tmp_path / "run.h5")
    figure = plotting.convergence([path])
    top, bottom = panels(figure)[:3], panels(figure)[3:]
    time = 0.2 * np.arange(40)
    for axis, x in zip(top, (np.arange(40), time, 0.1 + np.arange(40)), strict=True):
        assert axis.get_yscale() == "log"
        assert np.allclose(axis.lines[0].get_xdata(), x)
        assert np.allclose(axis.lines[0].get_ydata(), 3 * np.exp(-2 * time), rtol=1e-6)
    assert np.array_equal(bottom[0].lines[0].get_ydata(), np.exp(-time))
    assert [axis.get_xlabel() for axis in bottom] == ["step", "flow time (s)", "wall time (s)"]
    assert "lower bound (J)" in top[0].get_ylabel()
    assert [text.get_text() for axis in (top[1], bottom[1]) for text in axis.texts] == ["exp(−2 t)", "exp(−1 t)"]
    assert not top[0].texts


def test_convergence_without_bound_and_flow_time(tmp_path):
    figure = plotting.convergence([write(tmp_path / "run.h5", steps=5, flow=False, bound=False)])
    assert [axis.get_xlabel() for axis in panels(figure)[2:]] == ["step", "wall time (s)"]
    above = panels(figure)[0].lines[0].get_ydata()
    assert len(above) == 4  # the last is the reference
    assert np.allclose(above, 3 * (np.exp(-0.4 * np.arange(4)) - np.exp(-0.4 * 4)))
    assert "smallest" in panels(figure)[0].get_ylabel()


def test_loose_bound_and_missing_gradient(tmp_path):
    columns = {name: Variable((), name) for name in ("objective", "lower_bound")}
    writer = ResultWriter.create(tmp_path / "run.h5", {"case": ""}, (), {"convergence": columns})
    for step in range(10):
        writer.append_row({"step": step, "objective": 1.0 + 0.5**step, "lower_bound": 0.5})
    writer.finish("stopped", "")
    figure = plotting.convergence([tmp_path / "run.h5"])
    (axis,) = panels(figure)
    assert "smallest" in axis.get_ylabel()  # a bound 0.5 below would hide the descent
    assert np.allclose(axis.lines[0].get_ydata(), 0.5 ** np.arange(9) - 0.5**9)
    assert_complete(figure)


@pytest.mark.thorough
def test_runs_of_one_problem_share_their_reference(tmp_path):
    paths = [
        write(tmp_path / "long.h5", steps=40, case="title = 'a'\n[cost]\nstage = 'x'"),
        write(tmp_path / "short.h5", steps=4, bound=False, case="title = 'b'\n[cost]\nstage = 'x'"),
        write(tmp_path / "other.h5", steps=4, bound=False, case="[cost]\nstage = 'y'"),
    ]
    figure = plotting.convergence(paths)
    long, short, other = panels(figure)[0].lines
    assert np.allclose(short.get_ydata(), long.get_ydata()[:4])
    assert len(other.get_ydata()) == 3  # the last is its own reference
    assert [text.get_text() for text in figure.legends[0].texts] == ["long", "short", "other"]
    assert_complete(figure)


def test_no_rate_where_there_is_none(tmp_path):
    path = tmp_path / "run.h5"
    columns = {name: Variable((), name) for name in ("objective", "gradient_norm", "flow_time")}
    writer = ResultWriter.create(path, {"case": ""}, (), {"convergence": columns})
    for step in range(50):
        time = 1.0 + step
        writer.append_row({"step": step, "objective": time**-3, "gradient_norm": time**-2, "flow_time": time})
    writer.finish("stopped", "")
    assert not any(axis.texts for axis in plotting.convergence([path]).axes)


def test_one_state_shows_every_particle(tmp_path):
    frame = Frame.read(path := write(tmp_path / "run.h5"))
    axis = panels(plotting.policy(path))[0]
    points = axis.collections[0]
    offsets, colours, areas = np.asarray(points.get_offsets()), points.get_array(), points.get_sizes()
    assert len(offsets) == 9 * 4
    assert np.all(np.diff(colours) >= 0)  # frequent states on top
    order = np.argsort(frame.law, kind="stable")
    assert np.array_equal(offsets[:, 1], frame.actions[order, :, 0].ravel())
    assert np.array_equal(offsets[:, 0], np.repeat(frame.axes[0][order], 4))
    assert np.allclose(areas / areas.max(), frame.weights[order].ravel() / frame.weights.max(), atol=0.05)
    mean = axis.lines[0].get_ydata()
    assert np.allclose(mean, (frame.weights * frame.actions[..., 0]).sum(axis=1))


def test_maps_are_of_the_mean_action(tmp_path):
    path = write(tmp_path / "run.h5", "xyz", ("u", "v"))
    frame = Frame.read(path)
    expected, j = np.zeros((9, 5)), frame.cell_at()[1]
    for i, k in itertools.product(range(9), range(5)):
        expected[i, k] = frame.weights[i, j, k] @ frame.actions[i, j, k, :, 1]
    maps = [axis.collections[0] for axis in panels(plotting.policy(path))]
    assert len(maps) == 2 * 2 * 3  # actions, mean and deviation, planes
    shown = maps[6 + 1].get_array()  # the mean of v over the plane of x and z
    assert np.allclose(shown, expected.T)
    density = panels(plotting.stationary(path))[1].collections[0].get_array()
    assert np.isclose(density.sum() * 0.5 * 1.0, 1.0)
    mean, spread = frame.moments(0)
    weights, actions = frame.weights[2, 3, 4], frame.actions[2, 3, 4, :, 0]
    assert np.isclose(spread[2, 3, 4], np.sqrt(weights @ (actions - mean[2, 3, 4]) ** 2))


@pytest.mark.parametrize(("states", "panes"), [("xy", 1), ("xyz", 3)])
def test_rounding_is_not_drawn_as_a_spread(tmp_path, states, panes):
    figure = plotting.policy(write(tmp_path / "run.h5", states, ("u",), spread=1e-7))
    assert len(panels(figure)) == panes
    assert not any("deviation" in text for text in texts(figure))
    assert_complete(figure)


def test_a_spread_that_cannot_be_seen_beside_the_range_of_actions_is_not_drawn(tmp_path):
    path = write(tmp_path / "run.h5", "xy", ("u",))
    frame = Frame.read(path)
    assert frame.spreads
    middle = frame.actions.mean(axis=-2, keepdims=True)
    near = [replace(frame, actions=middle + size * (frame.actions - middle)) for size in (1e-4, 0.1)]
    assert [one.spreads for one in near] == [False, True]


@pytest.mark.thorough
def test_maps_of_three_states_are_slices_through_one(tmp_path):
    frame = Frame.read(path := write(tmp_path / "run.h5", "xyz"))
    frequent = np.unravel_index(frame.law.argmax(), frame.law.shape)
    assert frame.cell_at() == tuple(frequent)
    assert frame.cell_at({"z": 1.2, "x": -9.0}) == (0, frequent[1], 3)
    for at, cell in ((None, frame.cell_at()), ({"z": 1.0}, (*frequent[:2], 3))):
        figure = plotting.value(path, at=at)
        image = panels(figure)[1].collections[0]  # x and z
        assert np.array_equal(image.get_array(), frame.value[:, cell[1], :].T)
        assert f"slices through {frame.described(cell)}; contours" in figure.get_suptitle()
    assert "z = 1" in plotting.policy(path, at={"z": 1.0}).get_suptitle()
    assert "slices" not in plotting.policy(write(tmp_path / "plane.h5", "xy")).get_suptitle()
    with pytest.raises(StateError, match="unknown state 'w'"):
        plotting.figures([path], {"w": 0.0})


def test_wall_time_is_shown_without_compilation(tmp_path):
    series = {"convergence": {name: Variable((), name) for name in ("objective", "wall_time", "time_compilation")}}
    writer = ResultWriter.create(tmp_path / "run.h5", {"case": ""}, (), series | {"trajectory": {}})
    for step, (wall, compiled) in enumerate([(20.5, 20.0), (31.0, 10.0), (31.5, 0.0)]):
        writer.append_row({"step": step, "objective": 3.0 - step, "wall_time": wall, "time_compilation": compiled})
    writer.finish("stopped", "")
    axis = panels(plotting.convergence([tmp_path / "run.h5"]))[-1]
    assert axis.get_xlabel() == "wall time without compilation (s)"
    assert np.allclose(axis.lines[0].get_xdata(), [0.5, 1.0])  # the last is the reference


def test_contours_hold_the_stated_share_of_the_law(tmp_path):
    frame = Frame.read(path := write(tmp_path / "run.h5", "xy"))
    contours = panels(plotting.stationary(path))[0].collections[1]
    for share, level in zip((0.99, 0.9, 0.5), contours.levels, strict=True):
        inside = frame.law[frame.law >= level].sum()
        assert share <= inside <= share + frame.law.max()


def test_contours_carry_the_share_that_is_inside(tmp_path):
    """Every name stands on the contour of its level, and there is one of each."""
    path, x, y = write(tmp_path / "run.h5", "xy"), np.linspace(-2, 2, 41), np.linspace(-2, 2, 31)
    law = np.exp(-0.5 * (x[:, None] ** 2 + y**2) / 0.8)
    frame = replace(Frame.read(path), axes=(x, y), law=law / law.sum())
    figure, axes = canvas(1, 1)
    draw_map(figure, axes[0, 0], frame, frame.law, (0, 1), "stationary density")
    FigureCanvasAgg(figure).draw()
    names = {text.get_text(): text.get_position() for text in axes[0, 0].texts}
    assert sorted(names) == ["50 %", "90 %", "99 %"]
    for name, (at_x, at_y) in names.items():
        level = np.exp(-0.5 * (at_x**2 + at_y**2) / 0.8) / law.sum()
        inside = frame.law[frame.law >= level].sum()
        assert inside == pytest.approx(float(name.split()[0]) / 100.0, abs=0.02)


def test_a_law_in_a_corner_of_the_domain_is_shown_large_and_whole(tmp_path):
    x, y = np.linspace(-3, 3, 61), np.linspace(0, 10, 41)
    law = np.exp(-0.5 * ((x[:, None] - 1.0) / 0.2) ** 2 - 0.5 * ((y - 5.0) / 4.0) ** 2)
    law /= law.sum()
    assert _where_it_is(SimpleNamespace(axes=(x, y), law=law), 1) is None
    low, high = _where_it_is(SimpleNamespace(axes=(x, y), law=law), 0)
    assert low < 0.3 and high > 1.7 and high - low < 2.2
    assert law[(x >= low) & (x <= high)].sum() > 1 - 1e-4
    # at an end of the axis
    at_end = np.exp(-((x + 3.0) / 0.2)[:, None] + 0.0 * y)
    assert _where_it_is(SimpleNamespace(axes=(x, y), law=at_end), 0)[0] == -3.0


@pytest.mark.thorough
def test_trajectories_follow_the_particles_of_the_cell(tmp_path):
    path = write(tmp_path / "run.h5", "xy", ("u", "v"), steps=6)
    figure = plotting.trajectories(path, states=[(0.1, -2.0), (2.0, 2.0)])
    titles = [axis.get_title() for axis in panels(figure)[:2]]
    assert titles == ["x = 0\ny = −2", "x = 2\ny = 2"]
    lines = panels(figure)[3].lines  # v in the second cell
    for particle, line in enumerate(lines):
        expected = [Frame.read(path, step).actions[8, 6, particle, 1] for step in range(6)]
        assert np.array_equal(line.get_ydata(), expected)
        assert np.allclose(line.get_xdata(), 0.2 * np.arange(6))
    with pytest.raises(ValueError, match="a state of 2 numbers, got 1"):
        plotting.trajectories(path, states=[(0.0,)])
    steps = plotting.trajectories(write(tmp_path / "newton.h5", steps=3, flow=False))
    assert panels(steps)[0].get_xlabel() == "step"


def test_chosen_cells_lie_apart_in_the_bulk():
    law = np.exp(-(np.linspace(-4, 4, 41) ** 2))
    law /= law.sum()
    for moved in (np.ones(41), np.zeros(41)):
        cells = [cell for (cell,) in _telling_cells(law, moved, ["clamp"], 4)]
        assert 20 in cells  # the mode
        assert len(set(cells)) == 4
        assert min(np.diff(cells)) >= 2
        assert law[law >= law[cells].min()].sum() < 0.95  # within the bulk
    assert _telling_cells(np.array([0.0, 1.0]), np.zeros(2), ["clamp"], 4) == [(1,)]
    # on a circle the two ends are neighbours
    (first,), (second,) = _telling_cells(np.full(40, 1 / 40), np.ones(40), ["periodic"], 2)
    assert second - first == 20


def test_cells_whose_particles_moved_are_chosen_before_those_where_nothing_happens():
    law, moved = np.full(40, 1 / 40), np.zeros(40)
    law[20] += 1e-3
    moved[[10, 30]] = 1.0, 2.0
    assert set(_telling_cells(law, moved, ["clamp"], 3)) == {(20,), (10,), (30,)}


def test_curvature_tells_where_the_objective_is_not_convex(tmp_path):
    names = [f"curvature_{end}{part}" for end in ("min", "max") for part in ("", "_local", "_transport", "_residual")]
    series = {"convergence": {name: Variable((), name) for name in (*names, "objective", "gradient_norm")}}
    smallest = [-1.0, np.nan, -1e-4, 2.0]  # the third is zero to its residual
    writer = ResultWriter.create(tmp_path / "run.h5", {"case": ""}, (), series | {"trajectory": {}})
    for step, value in enumerate(smallest):
        row = dict(zip(names, (value, 1.0, value - 1.0, 1e-3, 9.0, 8.0, 1.0, 1e-3), strict=True))
        writer.append_row({"step": step, "objective": 1.0 / (1 + step), "gradient_norm": 1.0, **row})
    writer.finish("stopped", "")
    figure = plotting.figures([tmp_path / "run.h5"])["run_curvature"]
    assert_complete(figure)
    left, right = panels(figure)
    assert left.lines[0].get_xdata().tolist() == [0, 2, 3]
    assert left.lines[0].get_ydata().tolist() == [-1.0, -1e-4, 2.0]
    assert left.lines[2].get_ydata().tolist() == [-2.0, -1.0001, 1.0]
    assert right.lines[0].get_ydata().tolist() == [9.0, 9.0, 9.0]
    assert left.lines[-1].get_xdata().tolist() == [0]
    assert figure.get_suptitle() == "run: not geodesically convex at 1 of 3 steps"
    with pytest.raises(StorageError, match=r"holds no curvature: run the case with --set output.curvature_every=1"):
        plotting.curvature(write(tmp_path / "flat.h5", steps=2))


def test_units_are_written_with_raised_powers():
    assert [label("u", unit) for unit in ("m/s^2", "kg*m**2/s^-3", "x^0.5", "1")] == [
        "u (m/s²)", "u (kg*m²/s⁻³)", "u (x^0.5)", "u",
    ]  # fmt: skip


def test_settings_of_the_caller_are_left_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    plotting.figures([write(tmp_path / "run.h5", steps=2)])
    assert dict(matplotlib.rcParams) == before


def test_files_without_steps_or_frames(tmp_path):
    series = {"convergence": {"objective": Variable((), "J")}, "trajectory": {"weights": Variable((), "w")}}
    with ResultWriter.create(tmp_path / "run.h5", {"case": ""}, (), series):
        pass
    with pytest.raises(StorageError, match="holds no step yet"):
        plotting.convergence([tmp_path / "run.h5"])
    for draw in (plotting.policy, plotting.stationary, plotting.value, plotting.trajectories):
        with pytest.raises(StorageError, match="holds no 'trajectory'"):
            draw(tmp_path / "run.h5")


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, POSTPROCESS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted(path.stem for path in POSTPROCESS.glob("*.py")))
def test_scripts(tmp_path, name, capsys):
    path = write(tmp_path / "run.h5", "xy", steps=3, curvature=name == "curvature")
    script(name).main([str(path), "-o", str(tmp_path / "new" / "figure.png")])
    assert (tmp_path / "new" / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"{tmp_path / 'new' / 'figure.png'}\n"
    for arguments, message in {
        (str(tmp_path / "absent.h5"),): "No such file",
        (str(path), "-o", str(path / "figure.png")): "cannot write",
        (str(path), "-o", str(tmp_path / "figure.xyz")): "not supported",
    }.items():
        with pytest.raises(SystemExit) as error:
            script(name).main(arguments)
        assert error.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_matplotlib_does_not_speak_of_its_folders_on_the_command_line():
    """Where the home folder cannot be written it logs two lines of its own."""
    assert main(["functions"]) == 0
    assert not logging.getLogger("matplotlib").isEnabledFor(logging.WARNING)
