"""Films of runs: what the frames show, which files can be written, and one line for what cannot."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_plotting import write

from wassgrid.cli import main
from wassgrid.plotting.animation import _Film, animate
from wassgrid.plotting.fields import Frame
from wassgrid.storage import ResultFile, StorageError

MP4 = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="MP4 is written by ffmpeg")


def film(path: Path, steps: int) -> _Film:
    with ResultFile(path) as file:
        return _Film.of(file, list(range(steps)))


@pytest.mark.thorough
@pytest.mark.parametrize(("states", "actions"), [("x", ("u", "$v_1$")), ("xy", ("u",)), ("xyz", ("u",))])
def test_a_film_has_every_frame(tmp_path: Path, states: str, actions: tuple[str, ...]) -> None:
    path = animate(write(tmp_path / "run.h5", states, actions, 5), tmp_path / "films" / "run.gif")
    with Image.open(path) as image:
        assert image.n_frames >= 5 and image.size[0] == 760
        shown = set()
        for k in range(image.n_frames):
            image.seek(k)
            shown.add(image.convert("RGB").tobytes())
    assert len(shown) == 5
    assert os.listdir(path.parent) == ["run.gif"]


def test_many_frames_are_thinned_evenly(tmp_path: Path) -> None:
    path = animate(write(tmp_path / "run.h5", steps=40), tmp_path / "run.gif", most=6, rate=5)
    with Image.open(path) as image:
        assert 6 <= image.n_frames <= 11
        assert image.info["duration"] == 200


def test_particles_stand_where_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "run.h5", "x", ("u", "v"), 3)
    made = film(path, 3)
    lower = next(axis for axis in made.figure.axes if axis.get_ylabel() == "v (N)")
    for k, _ in enumerate(made.shown(rest=0)):
        frame = Frame.read(path, k)
        points = lower.collections[0]
        assert np.array_equal(np.asarray(points.get_offsets())[:, 1], frame.actions[..., 1].ravel())
        assert np.allclose(points.get_array(), np.repeat(frame.law / frame.volume, 4))
        assert np.array_equal(lower.lines[0].get_ydata(), frame.moments(1)[0])
        low, high = lower.get_ylim()
        assert low < frame.actions[..., 1].min() and frame.actions[..., 1].max() < high
        assert f"step {k}" in made.figure.get_suptitle()


def test_maps_are_slices_through_the_most_frequent_state(tmp_path: Path) -> None:
    path = write(tmp_path / "run.h5", "xyz", ("u",), 3)
    made = film(path, 3)
    for k, _ in enumerate(made.shown(rest=0)):
        frame, last = Frame.read(path, k), Frame.read(path)
        image = made.figure.axes[0].collections[0]
        assert np.allclose(image.get_array(), frame.moments(0)[0][:, :, last.cell_at()[2]].T)
        assert len(made.figure.axes[0].collections) == 2  # one set of contours
        assert "slice through x = " in made.figure.get_suptitle()


def test_what_is_no_film(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "run.h5", steps=3)
    monkeypatch.setattr("matplotlib.animation.FFMpegWriter.isAvailable", classmethod(lambda cls: False))
    for name, message in (
        ("run.png", "ends in .gif or .mp4"),
        ("run", "ends in .gif or .mp4"),
        ("run.mp4", "needs the program ffmpeg, which is not here; take run.gif"),
        ("/proc/no/run.gif", "cannot write"),
        ("run.h5/run.gif", "cannot write"),
    ):
        assert main(["animate", "run.h5", "-o", name]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    write(tmp_path / "none.h5", steps=0)
    for bad, message in (("none.h5", "no frames"), ("missing.h5", "no such file"), (os.devnull, "null")):
        assert main(["animate", bad]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line.lower()
    path.write_bytes(path.read_bytes()[:9000])
    assert main(["animate", "run.h5"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not list(tmp_path.glob("*.gif")) and not list(tmp_path.glob(".*"))


def test_a_film_under_way_is_written_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "private.txt").write_text("a private note")
    (tmp_path / ".run.partial.gif").symlink_to("private.txt")
    assert animate(write(tmp_path / "run.h5"), tmp_path / "run.gif", most=2).read_bytes().startswith(b"GIF")
    assert (tmp_path / "private.txt").read_text() == "a private note" and not (tmp_path / "run.gif").is_symlink()


@pytest.mark.parametrize("name", ["run.gif", pytest.param("run.mp4", marks=MP4)])
@pytest.mark.parametrize("frames", [0, 2])
def test_a_film_that_is_given_up_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, frames: int) -> None:
    """Before its first frame and after: an unfinished film has nothing to save, and its program may be gone."""
    shown = _Film.shown

    def interrupted(film: _Film, rest: int) -> Iterator[None]:
        yield from itertools.islice(shown(film, rest), frames)
        raise KeyboardInterrupt

    monkeypatch.setattr(_Film, "shown", interrupted)
    with pytest.raises(KeyboardInterrupt):
        animate(write(tmp_path / "run.h5", steps=5), tmp_path / name)
    assert os.listdir(tmp_path) == ["run.h5"]


def test_a_film_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "run.h5", "xy", steps=200)
    command = [sys.executable, "-m", "wassgrid", "animate", "run.h5", "--frames", "200"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(4.0)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (130, "", "wassgrid: interrupted\n")
    assert os.listdir(tmp_path) == ["run.h5"]


@MP4
def test_mp4(tmp_path: Path) -> None:
    assert animate(write(tmp_path / "run.h5", steps=5), tmp_path / "run.mp4").stat().st_size > 1000


def test_a_neural_run_has_no_particles(tmp_path: Path) -> None:
    from wassgrid.storage import ResultWriter, Variable

    series = {"convergence": {"objective": Variable((), "objective")}, "neural": {}}
    writer = ResultWriter.create(tmp_path / "run.h5", {"case": ""}, (), series)
    writer.append_row({"step": 0, "objective": 1.0})
    writer.finish("stopped", "")
    with pytest.raises(StorageError, match="no frames of particles"):
        animate(tmp_path / "run.h5")
