"""A proven interval for the optimal cost of the problem itself, with continuous states, from a case or a result file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from wassgrid.case import Case
from wassgrid.certificate.continuous.interval import Attempt, Claim, ProveError, attempts, in_words
from wassgrid.certificate.continuous.laws import Axis, AxisLaw
from wassgrid.storage import ResultFile
from wassgrid.storage.proof import write_proof

Pulse = Callable[[str, float], None]
_PARTS = {
    "residual": "u is not the best function on these rows",
    "curvature": "bounds between the nodes of the states",
    "taylor": "bounds between the rows of the means",
    "minima": "minima over the actions",
    "rounding": "rounding",
}


@dataclass(frozen=True)
class Proof:
    """The narrowest interval that was proven, [low, high]: low <= J* <= J(policy) <= high.

    case: what was proven of; claim: under which boundary models; attempt: the interval and what it rests on; reached: whether it
    is as narrow as wanted; attempts: (seconds, low, high) of all; grid_cost: J of the grid run that it began with, None for a
    case.
    """

    case: Case
    claim: Claim
    attempt: Attempt
    low: float
    high: float
    reached: bool
    attempts: tuple[tuple[float, float, float], ...]
    grid_cost: float | None

    @property
    def relative_width(self) -> float:
        """(high - low) over the larger of their sizes."""
        return (self.high - self.low) / max(abs(self.low), abs(self.high), 1e-300)

    def describe(self) -> str:
        """Say in words what is proven of what."""
        per = "per unit time" if self.claim.problem.time_step is not None else "per step"
        what = f"average cost {per}" if self.claim.problem.criterion == "average" else "discounted cost times 1 - discount"
        lines = [
            f"proven       {self.low:.10g} <= J* <= J(policy) <= {self.high:.10g}   (relative width {self.relative_width:.2g})",
            f"J*           the least {what} of the problem with continuous states, over all policies",
            "policy       the actions stored with the proof, one on every cell of the states",
            *(f"law          {line}" for line in in_words(self.claim)),
            f"width        mostly from: {_PARTS[self.attempt.residual.dominant]}",
        ]
        if self.grid_cost is not None:
            inside = "inside" if self.low <= self.grid_cost <= self.high else "outside: the grid's problem is another one"
            lines.append(f"J, grid      {self.grid_cost:.10g}, {inside}")
        return "\n".join(lines)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the proof to an HDF5 file: root attributes low, high, width, case, models, slacks; arrays u/... and policy/...

        u/coefficients are those of the cubic B-spline u on the knots u/low + u/spacing k of every axis of the means (first
        coefficient: the B-spline centred one knot below the first); policy/actions (cells_1[, cells_2], m) hold on the cells
        between policy/edges_k.
        """
        b, d = self.attempt.bellman, self.claim.problem.state_dimension
        knots = b.u.knots[:d]
        actions = self.attempt.enclosure.actions
        arrays = {
            "u/coefficients": b.u.coefficients if d == 2 else b.u.coefficients[:, 0],
            "u/low": np.array([k.low for k in knots]),
            "u/spacing": np.array([k.spacing for k in knots]),
            "policy/actions": actions if d == 2 else actions[:, 0],
            "attempts": np.array(self.attempts),
        }
        for k, axis in enumerate(b.axes[:d]):
            assert isinstance(axis, AxisLaw)
            arrays[f"policy/edges_{k}"] = axis.edges
        slacks = {name: getattr(self.attempt.residual, name) for name in _PARTS}
        attributes = {
            "case": self.case.to_text(), "case_name": self.case.name, "low": self.low, "high": self.high,
            "relative_width": self.relative_width, "reached": self.reached, "criterion": self.claim.problem.criterion,
            "states": list(self.claim.problem.state_names), "models": list(self.claim.models), "words": self.describe(),
            **{f"slack_{name}": value for name, value in slacks.items()},
        }  # fmt: skip
        write_proof(path, attributes, arrays)


def prove(
    case: Case, result: ResultFile | None = None, width: float | None = None, seconds: float | None = None,
    boundary: str | None = None, pulse: Pulse = lambda _what, _share: None,
    seen: Callable[[Attempt], None] = lambda _attempt: None,
) -> Proof:  # fmt: skip
    """Prove an interval for the optimal cost of a case, see `certificate.continuous.interval`.

    result: of a run of the case, whose V is what u begins with. width (relative), seconds, boundary: in place of [prove]. seen is
    called with every interval as it is proven.  Raises ProveError where nothing is proven.
    """
    settings = case.prove
    claim = Claim.of(case.problem, boundary or settings.boundary)
    wanted = settings.width if width is None else width
    limit = settings.time if seconds is None else seconds
    value = None if result is None else _value_of(result)
    best: Attempt | None = None
    low, high, table = -np.inf, np.inf, []
    for attempt in attempts(claim, lambda axes: None if value is None else value(axes), wanted, limit, pulse):
        seen(attempt)
        table.append((attempt.seconds, attempt.low, attempt.high))
        low = max(low, attempt.low)
        if best is None or attempt.high <= best.high:
            best = attempt
            high = attempt.high
    assert best is not None
    if low > high:
        raise AssertionError("proven bounds contradict each other: a defect of wassgrid, please report the case")
    cost = None if result is None else float(result.convergence["objective"][-1])
    width_reached = (high - low) / max(abs(low), abs(high), 1e-300)
    return Proof(case, claim, best, low, high, bool(width_reached <= wanted), tuple(table), cost)


def prove_file(
    path: str | PathLike[str], overrides: tuple[str, ...] = (), width: float | None = None, seconds: float | None = None,
    boundary: str | None = None, pulse: Pulse = lambda _what, _share: None,
    seen: Callable[[Attempt], None] = lambda _attempt: None,
) -> Proof:  # fmt: skip
    """Prove an interval for a case file, or for the case of a result file, beginning with its value function."""
    if Path(path).suffix == ".toml":
        return prove(Case.load(Path(path), overrides), None, width, seconds, boundary, pulse, seen)
    with ResultFile(path) as result:
        if "neural" in result.series:
            raise ProveError(f"prove: '{path}' is of a neural run, which has no value function; give the case file")
        if overrides:
            raise ProveError("prove: --set changes a case; give the case file in place of the result")
        case = Case.from_text(result.case_text, str(result.attributes["case_name"]))
        return prove(case, result, width, seconds, boundary, pulse, seen)


def _value_of(result: ResultFile) -> Callable[[tuple[Axis, Axis]], np.ndarray | None]:
    """Return V of the last frame as a function of the rows of the means, None for a file without one."""
    from scipy.interpolate import RegularGridInterpolator

    if "trajectory" not in result.series or not len(result.steps("trajectory")):
        return lambda _axes: None
    axes, value, boundaries = result.axes, result.frame("value"), result.boundaries

    def at(laws: tuple[Axis, Axis]) -> np.ndarray:
        nodes, table = [], value
        for k, (nodes_k, boundary) in enumerate(zip(axes, boundaries, strict=True)):
            if boundary == "periodic":
                period = nodes_k[-1] - nodes_k[0] + nodes_k[1] - nodes_k[0]
                nodes_k = np.append(nodes_k, nodes_k[0] + period)
                table = np.concatenate([table, np.take(table, [0], axis=k)], axis=k)
            nodes.append(nodes_k)
        places = [
            np.clip(law.knots.positions[: law.row_count], nodes[k][0], nodes[k][-1]) for k, law in enumerate(laws[: len(nodes)])
        ]
        rows = RegularGridInterpolator(nodes, table)(np.stack(np.meshgrid(*places, indexing="ij"), axis=-1))
        return rows if rows.ndim == 2 else rows[:, None]

    return at
