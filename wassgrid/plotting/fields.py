"""Policy, stationary law and value over the state space, in one to any number of state dimensions."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, LogNorm, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from wassgrid.plotting.style import COLOURS, DIVERGING, SEQUENTIAL, canvas, colourbar, label, plain, styled
from wassgrid.policy import limits_of, listed_of, values_of
from wassgrid.problem.model import ProblemError
from wassgrid.problem.names import remedy
from wassgrid.problem.states import StateError
from wassgrid.storage import ResultFile, StorageError

_SHARES = (0.99, 0.9, 0.5)  # of the stationary law inside the contours
_DECADES = 6  # of density that are told apart
_LEFT_OUT = 1e-4  # of the stationary law, at either end of an axis, where a map of it may end
_ZOOMED = 0.6  # of an axis, and more: shown whole
_MIXED = 1.05  # actions in use, from which a choice is shown to be mixed
_SPREAD, _ROUNDING = 1e-3, 1e-6  # of the range and of the size of an action: a standard deviation below either is not shown
_MANY_POINTS = 20_000  # drawn as an image inside vector formats


@dataclass(frozen=True)
class Frame:
    """One stored frame of a grid run.

    axes d x (n_k), law (n1..nd), value (n1..nd), actions (n1..nd, particles, m), weights (n1..nd, particles);
    labels of states and actions are names with units; listed: which actions (m,) take values of lists; limits: lowest and
    highest actions, (n1, m) each, of one state on which they depend.
    """

    title: str
    step: int
    state_names: tuple[str, ...]
    axes: tuple[np.ndarray, ...]
    state_labels: tuple[str, ...]
    action_labels: tuple[str, ...]
    value_units: str
    actions: np.ndarray
    weights: np.ndarray
    law: np.ndarray
    value: np.ndarray
    listed: tuple[bool, ...] = ()
    value_names: tuple[Mapping[float, str], ...] = ()
    limits: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def read(cls, path: str | os.PathLike[str], index: int = -1) -> Frame:
        """Read one frame, the last by default. Raises StorageError where there is none."""
        with ResultFile(path) as result:
            return cls.of(result, index)

    @classmethod
    def of(cls, result: ResultFile, index: int) -> Frame:
        """Read one frame of an open file. Raises StorageError where there is none."""
        frame = particles_of(result, index)
        step = int(result.steps("trajectory")[index])
        units = {name: result.description(f"grid/{name}")["units"] for name in result.state_names}
        return cls(
            f"{plain(result.path.stem)}, step {step}",
            step,
            result.state_names,
            result.axes,
            tuple(label(name, units[name]) for name in result.state_names),
            action_labels(result),
            result.description("trajectory/value")["units"],
            frame["actions"],
            frame["weights"],
            frame["stationary"],
            frame["value"],
            listed_of(result.case_text),
            tuple(names or {} for names in values_of(result.case_text)),
            limits_on_line(result),
        )

    @property
    def volume(self) -> float:
        """Volume of a cell."""
        return float(np.prod([axis[1] - axis[0] for axis in self.axes]))

    def moments(self, component: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of one action component in every cell, both (n1..nd)."""
        actions = self.actions[..., component]
        mean = (self.weights * actions).sum(axis=-1)
        return mean, np.sqrt((self.weights * (actions - mean[..., None]) ** 2).sum(axis=-1))

    def names(self, component: int) -> Mapping[float, str]:
        """The names of the values of an action component, where they have names."""
        return self.value_names[component] if component < len(self.value_names) else {}

    def is_listed(self, component: int) -> bool:
        """Whether an action component takes values of a list."""
        return bool(self.listed) and self.listed[component]

    def centre(self, component: int) -> np.ndarray:
        """One action component in every cell (n1..nd): its mean, or its likeliest value where there is nothing between values."""
        if not self.is_listed(component):
            return self.moments(component)[0]
        values = self.values(component)
        shares = [np.where(self.actions[..., component] == value, self.weights, 0.0).sum(axis=-1) for value in values]
        likeliest: np.ndarray = values[np.argmax(shares, axis=0)]
        return likeliest

    @property
    def actions_in_use(self) -> np.ndarray:
        """exp(-sum_i w_i log w_i) of every cell (n1..nd): 1 where one action has all weight, N where N have the same."""
        logarithm = np.log(np.where(self.weights > 0.0, self.weights, 1.0))
        used: np.ndarray = np.exp(-(self.weights * logarithm).sum(axis=-1))
        return used

    def values(self, component: int) -> np.ndarray:
        """All values of an action component, rising."""
        return np.unique(self.actions[..., component])

    @property
    def spreads(self) -> bool:
        """Whether the particles of some cell are so far apart that it can be seen beside the range of an action."""
        components = np.moveaxis(self.actions, -1, 0)
        least = [max(_SPREAD * float(np.ptp(a)), _ROUNDING * float(np.abs(a).max())) for a in components]
        return any(bool(self.moments(k)[1].max() > size) for k, size in enumerate(least) if not self.is_listed(k))

    def planes(self) -> list[tuple[int, int]]:
        return list(itertools.combinations(range(len(self.axes)), 2))

    def marginal(self, plane: tuple[int, int]) -> np.ndarray:
        """Stationary probability on a plane of two states, the others summed out."""
        return self.law.sum(axis=self._others(plane))

    def cell_at(self, at: Mapping[str, float] | None = None) -> tuple[int, ...]:
        """Return the cell nearest to a state, of which any coordinates may be given: others are those of the most frequent one.

        Raises StateError for other names.
        """
        cell = [int(k) for k in np.unravel_index(int(self.law.argmax()), self.law.shape)]
        for name, value in (at or {}).items():
            if name not in self.state_names:
                raise StateError(f"unknown state {name!r:.60}{remedy(name, self.state_names)}")
            k = self.state_names.index(name)
            cell[k] = int(np.abs(self.axes[k] - value).argmin())
        return tuple(cell)

    def sliced(self, field: np.ndarray, plane: tuple[int, int], cell: tuple[int, ...]) -> np.ndarray:
        """Return a field over two states, the others being those of a cell."""
        return field[tuple(slice(None) if k in plane else i for k, i in enumerate(cell))]

    def on_plane(self, plane: tuple[int, int], cell: tuple[int, ...]) -> Frame:
        """Return what maps over two states show: mean actions and value of the slice through a cell, the law summed out."""
        mean = [self.sliced(self.centre(k), plane, cell) for k in range(self.actions.shape[-1])]
        law = self.marginal(plane)
        return replace(
            self,
            state_names=tuple(self.state_names[k] for k in plane),
            axes=tuple(self.axes[k] for k in plane),
            state_labels=tuple(self.state_labels[k] for k in plane),
            actions=np.stack(mean, axis=-1)[..., None, :],
            weights=np.ones((*law.shape, 1)),
            law=law,
            value=self.sliced(self.value, plane, cell),
        )

    def described(self, cell: tuple[int, ...]) -> str:
        """Name a cell by its state."""
        values = zip(self.state_names, self.axes, cell, strict=True)
        return ", ".join(f"{plain(name)} = {axis[i]:.3g}" for name, axis, i in values).replace("-", "−")

    def _others(self, plane: tuple[int, int]) -> tuple[int, ...]:
        return tuple(k for k in range(len(self.axes)) if k not in plane)


def limits_on_line(result: ResultFile) -> tuple[np.ndarray, np.ndarray] | None:
    """Return lowest and highest actions at the nodes of the axis where bounds depend on it; None of more than one state."""
    limits = limits_of(result.case_text, result.state_names) if len(result.axes) == 1 else None
    try:
        return None if limits is None else limits.at(result.axes[0][:, None])
    except ProblemError as error:
        raise StorageError(f"'{result.path}': {error}") from error


def action_labels(result: ResultFile) -> tuple[str, ...]:
    """Names with units of the action components of a result file."""
    names, units = result.texts("action_names"), result.texts("action_units")
    if len(names) != len(units):
        raise StorageError(f"'{result.path}' names {len(names)} actions and {len(units)} units")
    return tuple(label(name, unit) for name, unit in zip(names, units, strict=True))


def particles_of(result: ResultFile, index: int = -1) -> dict[str, np.ndarray]:
    """Return the arrays of one frame: actions (n1..nd, particles, m), weights (n1..nd, particles), stationary and value (n1..nd).

    Raises StorageError where there is no such frame, or where its shapes do not belong together.
    """
    shape = tuple(axis.size for axis in result.axes)
    frame = {name: result.frame(name, index) for name in ("actions", "weights", "stationary", "value")}
    cloud = frame["weights"].shape
    frame["actions"] = frame["actions"].reshape(*cloud, -1)
    fits = cloud[:-1] == shape == frame["stationary"].shape == frame["value"].shape and frame["actions"].size > 0
    if not fits or frame["actions"].shape[-1] != len(result.texts("action_names")):
        raise StorageError(f"'{result.path}': the arrays of a frame do not fit its {' x '.join(map(str, shape))} cells")
    return frame


def categories(values: np.ndarray) -> dict[str, Any]:
    """Return the look of a map whose colours are the values of a list, in rising order: one colour each, the bounds between."""
    apart = np.diff(values) if values.size > 1 else np.ones(1)
    edges = np.concatenate([values[:1] - 0.5 * apart[0], values[:-1] + 0.5 * np.diff(values), values[-1:] + 0.5 * apart[-1]])
    colours = colormaps[SEQUENTIAL].resampled(values.size)
    return {"cmap": colours, "norm": BoundaryNorm(edges, values.size), "values": values}


@styled
def policy(path: str | os.PathLike[str], index: int = -1, at: Mapping[str, float] | None = None) -> Figure:
    """Draw the policy of one stored frame, the last by default.

    One state: every particle, its area the weight, its colour the stationary density, and the mean. Where actions have values the
    likeliest takes the place of the mean, in one colour for each, and beside it how many are in use where they are mixed. More
    states: maps of the mean and, where the particles of a cell are spread out, the standard deviation for every action, over each
    pair of states, with contours around 50, 90 and 99 % of the stationary law. Of more than two states the maps are slices
    through one state, `at`: what it does not name is that of the most frequent one.
    """
    frame = Frame.read(path, index)
    if len(frame.axes) == 1:
        return _particles(frame)
    planes, cell = frame.planes(), frame.cell_at(at)
    pairs: list[tuple[str, np.ndarray, dict[str, Any]]] = []
    kinds = ("mean of", "standard deviation of") if frame.spreads else ("mean of",)
    for k, name in enumerate(frame.action_labels):
        if frame.is_listed(k):
            pairs.append((f"choice of {name}", frame.centre(k), categories(frame.values(k)) | {"names": frame.names(k)}))
        else:
            pairs += [(f"{text} {name}", field, {}) for text, field in zip(kinds, frame.moments(k), strict=False)]
    if frame.listed and all(frame.listed) and (used := frame.actions_in_use).max() > _MIXED:
        pairs.append(("actions in use, exp(entropy)", used, {}))
    # one plane: mean and deviation side by side; several: one row each
    columns = max(1 if any(frame.listed) else len(kinds), len(planes))
    figure, axes = canvas(len(pairs) * len(planes) // columns, columns, width=3.8, height=3.0)
    for axis, ((text, field, look), plane) in zip(axes.flat, itertools.product(pairs, planes), strict=True):
        draw_map(figure, axis, frame, frame.sliced(field, plane, cell), plane, text, look)
    _title(figure, frame, cell)
    return figure


@styled
def stationary(path: str | os.PathLike[str], index: int = -1) -> Figure:
    """Draw the stationary density of one stored frame: a curve, or maps over each pair of states, on a logarithmic scale and
    where nearly all of the law is."""
    frame = Frame.read(path, index)
    if len(frame.axes) == 1:
        figure, axes = canvas(1, 1, width=5.0, height=3.2)
        draw_curve(axes[0, 0], frame, frame.law / frame.volume, "stationary density", filled=True)
    else:
        figure, axes = _grid_of_planes(frame)
        for axis, plane in zip(axes, frame.planes(), strict=True):
            area = np.prod([frame.axes[k][1] - frame.axes[k][0] for k in plane])
            density = frame.marginal(plane) / area
            scale = LogNorm(density.max() * 10.0**-_DECADES, density.max(), clip=True)
            draw_map(figure, axis, frame, density, plane, "stationary density", {"norm": scale}, zoomed=True)
    _title(figure, frame)
    return figure


@styled
def value(path: str | os.PathLike[str], index: int = -1, at: Mapping[str, float] | None = None) -> Figure:
    """Draw the value function of one stored frame: a curve, or maps over pairs of states (slices as of the policy)."""
    frame = Frame.read(path, index)
    text, cell = label("value V", frame.value_units), frame.cell_at(at)
    if len(frame.axes) == 1:
        figure, axes = canvas(1, 1, width=5.0, height=3.2)
        draw_curve(axes[0, 0], frame, frame.value, text)
    else:
        figure, axes = _grid_of_planes(frame)
        for axis, plane in zip(axes, frame.planes(), strict=True):
            draw_map(figure, axis, frame, frame.sliced(frame.value, plane, cell), plane, text)
    _title(figure, frame, cell)
    return figure


def _grid_of_planes(frame: Frame) -> tuple[Figure, list[Axes]]:
    count = len(frame.planes())
    columns = min(count, 3)
    figure, axes = canvas(-(-count // columns), columns, width=3.8, height=3.0)
    return figure, list(axes.flat)


def _particles(frame: Frame) -> Figure:
    figure, axes = canvas(len(frame.action_labels), 1, width=6.0, height=3.4, sharex=True)
    states, law = frame.axes[0], frame.law / frame.volume
    order = np.argsort(law, kind="stable")  # frequent states on top
    particles = frame.weights.shape[-1]
    for component, (axis, name) in enumerate(zip(axes[:, 0], frame.action_labels, strict=True)):
        points = axis.scatter(
            np.repeat(states[order], particles),
            frame.actions[order, :, component].ravel(),
            s=np.clip(10.0 * particles * frame.weights[order].ravel(), 1.0, 60.0),
            c=np.repeat(law[order], particles),
            linewidths=0,
            rasterized=law.size * particles > _MANY_POINTS,
        )
        if frame.is_listed(component):
            axis.step(states, frame.centre(component), where="mid", color=COLOURS[1], linewidth=1.0, label="most likely")
            names = frame.names(component)
            axis.set_yticks(values := frame.values(component), [plain(names.get(v, f"{v:g}")) for v in values.tolist()])
        else:
            axis.plot(states, frame.centre(component), color=COLOURS[1], linewidth=1.0, label="mean")
        for k, ends in enumerate(frame.limits or ()):
            style = {"color": "0.35", "linewidth": 0.8, "linestyle": "--"}
            axis.plot(states, ends[:, component], label="bounds" if k == 0 else None, **style)
        axis.set_ylabel(name)
        axis.margins(x=0.01)
        colourbar(figure, points, axis, "stationary density")
    for axis in axes[:, 0] if any(frame.listed) else axes[:1, 0]:
        axis.legend(loc="best")
    axes[-1, 0].set_xlabel(frame.state_labels[0])
    _title(figure, frame)
    return figure


def draw_curve(axis: Axes, frame: Frame, values: np.ndarray, text: str, filled: bool = False) -> None:
    axis.plot(frame.axes[0], values, color=COLOURS[0])
    if filled:
        axis.fill_between(frame.axes[0], values, color=COLOURS[0], alpha=0.2, linewidth=0)
        axis.set_ylim(bottom=0)
    axis.set_xlabel(frame.state_labels[0])
    axis.set_ylabel(text)
    axis.margins(x=0.01)


def _where_it_is(frame: Frame, k: int) -> tuple[float, float] | None:
    """Return the part of axis k that holds the stationary law but for a little; None for most of the axis."""
    mass = np.cumsum(frame.law.sum(axis=tuple(j for j in range(len(frame.axes)) if j != k)))
    points, last = frame.axes[k], mass.size - 1
    first, end = (int(np.searchsorted(mass, share * mass[-1])) for share in (_LEFT_OUT, 1.0 - _LEFT_OUT))
    beside = max(2, (end - first) // 10)
    first, end = max(first - beside, 0), min(end + beside, last)
    return None if end - first > _ZOOMED * last else (float(points[first]), float(points[end]))


def draw_map(
    figure: Figure, axis: Axes, frame: Frame, field: np.ndarray, plane: tuple[int, int], text: str,
    look: dict[str, Any] | None = None, zoomed: bool = False,
) -> None:  # fmt: skip
    """Draw a field over two states with contours of the law; zoomed: only where nearly all of the law is."""
    x, y = (frame.axes[k] for k in plane)
    look = dict(look or {})
    values, names = look.pop("values", None), look.pop("names", None)
    if field.min() < 0 < field.max() and -field.min() > 0.1 * field.max() and text.startswith("mean"):
        extent = max(-field.min(), field.max())
        look = {"cmap": DIVERGING, "norm": TwoSlopeNorm(0.0, -extent, extent)}
    image = axis.pcolormesh(x, y, field.T, shading="nearest", rasterized=True, **look)
    colourbar(figure, image, axis, text, values, names)
    if zoomed and (ends := _where_it_is(frame, plane[0])) is not None:
        axis.set_xlim(*ends)
    if zoomed and (ends := _where_it_is(frame, plane[1])) is not None:
        axis.set_ylim(*ends)
    if (lines := draw_law(axis, frame, plane)) is not None:
        names = {level: f"{100 * share:g} %" for level, share in _levels(frame.marginal(plane)).items()}
        # on lines that are long enough for it
        for name in axis.clabel(lines, fmt=names, fontsize=6.5, inline_spacing=1):
            name.set_path_effects([withStroke(linewidth=1.6, foreground="0.2")])
    axis.set_xlabel(frame.state_labels[plane[0]])
    axis.set_ylabel(frame.state_labels[plane[1]])
    axis.spines[["top", "right"]].set_visible(True)


def draw_law(axis: Axes, frame: Frame, plane: tuple[int, int]) -> Any | None:
    """Draw contours around 50, 90 and 99 % of the stationary law on a plane and return them; None where it has none."""
    x, y = (frame.axes[k] for k in plane)
    law = frame.marginal(plane)
    levels = list(_levels(law))
    if not levels:
        return None
    lines = axis.contour(x, y, law.T, levels=levels, colors="white", linewidths=0.7)
    lines.set(path_effects=[withStroke(linewidth=1.6, foreground="0.2")])
    return lines


def _levels(law: np.ndarray) -> dict[float, float]:
    """Return the levels of a law above which its `_SHARES` are, rising, with the share of each."""
    heaviest = np.sort(law.ravel())[::-1]
    inside = np.cumsum(heaviest)
    last = inside.size - 1
    # of shares with the same level the largest is inside
    found = {float(heaviest[min(int(np.searchsorted(inside, share)), last)]): share for share in reversed(_SHARES)}
    return {level: found[level] for level in sorted(found) if law.min() < level < law.max()}


def _title(figure: Figure, frame: Frame, cell: tuple[int, ...] | None = None) -> None:
    slices = f"; slices through {frame.described(cell)}" if cell is not None and len(frame.axes) > 2 else ""
    contours = "; contours: 50, 90, 99 % of the time" if len(frame.axes) > 1 else ""
    figure.suptitle(f"{frame.title}{slices}{contours}", fontsize=10)
