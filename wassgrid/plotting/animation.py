"""A run as a film: particles of one state over state and action, maps of the mean action of more states, frame by frame."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.animation import AbstractMovieWriter, FFMpegWriter, PillowWriter
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure

from wassgrid.plotting.fields import Frame, categories, draw_law
from wassgrid.plotting.style import COLOURS, DIVERGING, SEQUENTIAL, colourbar, label, styled
from wassgrid.runs.schema import OBJECTIVE, STEP
from wassgrid.storage import ResultFile, StorageError
from wassgrid.storage.layout import explain
from wassgrid.storage.paths import closing, create_anew

FILMS = (".gif", ".mp4")
_SECONDS = 8.0  # that a film lasts where its frames allow
_RATES = (2, 20)  # frames per second
_REST = 1  # seconds on the last frame
_DOTS_PER_INCH = 100
_DECADES = 4  # of density that are told apart
_SPARE = 0.05  # of the range of actions, beside it


def film_path(file: Path, output: Path | None) -> Path:
    """Return where a film goes: FILE's name with .gif by default.  Raises StorageError for an ending that is none of a film."""
    path = output or Path(f"{file.stem}.gif")
    if path.suffix.lower() not in FILMS:
        raise StorageError(f"cannot write '{path}': expected a name that ends in {' or '.join(FILMS)}")
    if path.suffix.lower() == ".mp4" and not FFMpegWriter.isAvailable():
        raise StorageError(f"cannot write '{path}': MP4 needs the program ffmpeg, which is not here; take {path.stem}.gif")
    return path


@styled
def animate(file: Path, output: Path | None = None, most: int = 100, rate: int | None = None) -> Path:
    """Write the frames of a result file as GIF or MP4, by the ending of the path, and return the path.

    One state: particles over the state, their area the weight, their colour the stationary density, with the mean. More states:
    maps of the mean action over the first two, through the most frequent state, with contours of the stationary law. Beside it J
    over the steps. Scales are those of all frames shown. most: frames, evenly chosen; rate: frames per second (default: by their
    number). Raises StorageError for a file without frames of particles and for what cannot be written.
    """
    path = film_path(file, output)
    with ResultFile(file) as result:
        count = result.records("trajectory") if "trajectory" in result.series else 0
        if count == 0:
            raise StorageError(f"'{file}' holds no frames of particles to animate")
        columns, units = result.convergence, result.description(f"convergence/{OBJECTIVE}")["units"]
        chosen = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()
        film = _Film.of(result, chosen)
        film.objective(columns[STEP], columns[OBJECTIVE], label("objective J", units))
    rate = rate or int(np.clip(round(len(chosen) / _SECONDS), *_RATES))
    writer: AbstractMovieWriter = PillowWriter(fps=rate) if path.suffix.lower() == ".gif" else FFMpegWriter(fps=rate)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(create_anew(partial)):
            pass  # the writers open it by its name: ours, and no link
        with _filming(writer, film.figure, partial):
            for _ in film.shown(rest=_REST * rate):
                writer.grab_frame()
        os.replace(partial, path)
    except OSError as error:
        raise StorageError(explain("write", path, error)) from error
    finally:
        with suppress(OSError):
            partial.unlink()
    return path


@contextmanager
def _filming(writer: AbstractMovieWriter, figure: Figure, path: Path) -> Iterator[None]:
    """Write a film as `writer.saving` does, but finish none that was given up: what that raises would hide why it was."""
    writer.setup(figure, str(path), _DOTS_PER_INCH)
    try:
        with rc_context({"savefig.bbox": None}):  # all frames are of one size
            yield
    except BaseException:
        if isinstance(writer, FFMpegWriter):
            with suppress(OSError, subprocess.SubprocessError):
                writer.finish()  # lets its program go, which the same signal may have ended
        raise
    writer.finish()


class _Film:
    """A figure whose contents follow the frames, of one state or on a plane; through: what the title adds."""

    def __init__(self, frames: list[Frame], through: str = "") -> None:
        self._frames, self._through = frames, through
        last = frames[-1]
        rows = len(last.action_labels)
        self.figure = Figure(figsize=(7.6, 2.9 * rows + 0.5), layout="constrained")
        panels = self.figure.subplot_mosaic([[f"{k}", "J"] for k in range(rows)], width_ratios=[1.6, 1.0])
        self._cost = panels["J"]
        draw = self._particles if len(last.axes) == 1 else self._map
        self._updates: list[Callable[[Frame], None]] = [draw(panels[f"{k}"], k) for k in range(rows)]
        panels[f"{rows - 1}"].set_xlabel(last.state_labels[0])

    @classmethod
    def of(cls, result: ResultFile, chosen: list[int]) -> _Film:
        """Read chosen frames: of more than one state no more than is shown of them, however large they are."""
        last = Frame.of(result, chosen[-1])
        if len(last.axes) == 1:
            return cls([Frame.of(result, k) for k in chosen])
        cell = last.cell_at()
        through = f"; slice through {last.described(cell)}" if len(last.axes) > 2 else ""
        return cls([Frame.of(result, k).on_plane((0, 1), cell) for k in chosen], through)

    def objective(self, steps: np.ndarray, values: np.ndarray, text: str) -> None:
        """Draw J over all steps; a dot follows the frames."""
        self._cost.plot(steps, values, color=COLOURS[0])
        self._cost.set_xlabel("step")
        self._cost.set_ylabel(text)
        (dot,) = self._cost.plot([], [], "o", color=COLOURS[1])
        at = dict(zip(steps.tolist(), values.tolist(), strict=True))
        self._updates.append(lambda frame: dot.set_data([frame.step], [at.get(frame.step, np.nan)]))

    def shown(self, rest: int) -> Iterator[None]:
        """Bring the frames into the figure one after the other; the last stays for `rest` more."""
        for number, frame in enumerate(self._frames):
            for update in self._updates:
                update(frame)
            self.figure.suptitle(f"{frame.title}{self._through}", fontsize=10)
            if number == 0:
                self.figure.draw_without_rendering()
                self.figure.set_layout_engine("none")  # nothing moves but what the frames move
            yield
        for _ in range(rest):
            yield

    def _particles(self, axis: Axes, component: int) -> Callable[[Frame], None]:
        frames = self._frames
        states, particles = frames[-1].axes[0], frames[-1].weights.shape[-1]
        densities = [frame.law / frame.volume for frame in frames]
        top = max(float(density.max()) for density in densities)
        points = axis.scatter(
            np.repeat(states, particles), np.zeros(states.size * particles), s=1.0, linewidths=0,
            norm=LogNorm(top * 10.0**-_DECADES, top, clip=True), cmap=SEQUENTIAL, c=np.ones(states.size * particles),
        )  # fmt: skip
        (mean,) = axis.plot(states, np.zeros(states.size), color=COLOURS[1], linewidth=1.0, label="mean")
        if frames[-1].is_listed(component):
            mean.set(drawstyle="steps-mid", label="most likely")
        low = min(float(frame.actions[..., component].min()) for frame in frames)
        high = max(float(frame.actions[..., component].max()) for frame in frames)
        spare = _SPARE * (high - low) or 1.0
        axis.set(xlim=(states[0], states[-1]), ylim=(low - spare, high + spare), ylabel=frames[-1].action_labels[component])
        axis.legend(loc="upper right")
        colourbar(self.figure, points, axis, "stationary density")

        def update(frame: Frame) -> None:
            actions = frame.actions[..., component]
            points.set_offsets(np.stack([np.repeat(states, particles), actions.ravel()], axis=-1))
            points.set_sizes(np.clip(10.0 * particles * frame.weights.ravel(), 1.0, 60.0))
            points.set_array(np.repeat(np.maximum(frame.law / frame.volume, 0.0), particles))
            mean.set_ydata(frame.centre(component))

        return update

    def _map(self, axis: Axes, component: int) -> Callable[[Frame], None]:
        frames = self._frames
        fields = [frame.centre(component) for frame in frames]
        low, high = min(float(field.min()) for field in fields), max(float(field.max()) for field in fields)
        look: dict[str, Any] = {"cmap": SEQUENTIAL, "norm": Normalize(low, high)}
        if low < 0.0 < high:
            extent = max(-low, high)
            look = {"cmap": DIVERGING, "norm": TwoSlopeNorm(0.0, -extent, extent)}
        text, values = "mean of", None
        if frames[-1].is_listed(component):
            values = np.unique(np.concatenate([frame.values(component) for frame in frames]))
            look, text = categories(values), "choice of"
            del look["values"]
        image = axis.pcolormesh(*frames[-1].axes, fields[0].T, shading="nearest", rasterized=True, **look)
        colourbar(self.figure, image, axis, f"{text} {frames[-1].action_labels[component]}", values, frames[-1].names(component))
        axis.set_ylabel(frames[-1].state_labels[1])
        contours: list[Any] = []

        def update(frame: Frame) -> None:
            image.set_array(frame.centre(component).T)
            while contours:
                contours.pop().remove()
            if (lines := draw_law(axis, frame, (0, 1))) is not None:
                contours.append(lines)

        return update
