"""A proven interval for the optimal cost of the problem itself, with continuous states, from a case or a result file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from wassgrid.case import Case
from wassgrid.certificate.continuous.frame import Frame
from wassgrid.certificate.continuous.interval import Attempt, Claim, ProveError, attempts, in_words
from wassgrid.certificate.continuous.laws import Axis, NoAxis
from wassgrid.errors import overflow_named
from wassgrid.resources import memory_limit
from wassgrid.storage import ResultFile, StorageError
from wassgrid.storage.proof import write_proof

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
    case; grid_converged: whether that run did.
    """

    case: Case
    claim: Claim
    attempt: Attempt
    low: float
    high: float
    reached: bool
    attempts: tuple[tuple[float, float, float], ...]
    grid_cost: float | None
    grid_converged: bool = True

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
            f"policy       the actions stored with the proof, on cells of {self.claim.coordinates}{self._in_shares}",
            *(f"law          {line}" for line in in_words(self.claim)),
            f"width        mostly from: {_PARTS[self.attempt.residual.dominant]}",
        ]
        if self.grid_cost is not None:
            lines.append(f"J, grid      {self.grid_cost:.10g}, {self._beside}")
        return "\n".join(lines)

    @property
    def _in_shares(self) -> str:
        return ", as shares of the way between their bounds" if self.claim.problem.in_shares else ""

    @property
    def _beside(self) -> str:
        """Where the J of the grid's policy lies: one above the interval may just not have come down yet."""
        assert self.grid_cost is not None
        if self.low <= self.grid_cost <= self.high:
            return "inside"
        if self.grid_cost > self.high and not self.grid_converged:
            return "above: that run did not converge"
        return "outside: the grid's problem is another one"

    def save(self, path: str | PathLike[str]) -> None:
        """Write the proof to an HDF5 file: root attributes low, high, width, case, models, slacks; arrays u/... and policy/...

        u/coefficients are those of the cubic B-spline u on the knots u/low + u/spacing k of every axis of the means (first
        coefficient: the B-spline centred one knot below the first). policy/layer_N holds cells (K, d) of the lattice between
        policy/edges_k, every cell of it cut into N along each axis, and the actions (K, 2^d, m) at their corners (first the lower
        ends, the last axis fastest), multilinear between them; attribute in_shares: an action whose bounds depend on the states
        is stored as (a - low)/(high - low). Where an axis follows another (attributes follower, lead, beta), its coordinate is
        x_follower - beta x_lead.
        """
        b, d = self.attempt.bellman, self.claim.problem.state_dimension
        knots = b.u.knots[:d]
        arrays = {
            "u/coefficients": b.u.coefficients if d == 2 else b.u.coefficients[:, 0],
            "u/low": np.array([k.low for k in knots]),
            "u/spacing": np.array([k.spacing for k in knots]),
            "attempts": np.array(self.attempts),
        }
        for k, axis in enumerate(b.axes[:d]):
            assert not isinstance(axis, NoAxis)
            arrays[f"policy/edges_{k}"] = axis.edges
        for layer in self.attempt.enclosure.layers:
            shape = tuple(axis.refined(layer.factor).cells for axis in b.axes)
            cells = np.stack(np.unravel_index(layer.index, shape)[:d], axis=1)
            arrays[f"policy/layer_{layer.factor}/cells"] = cells
            arrays[f"policy/layer_{layer.factor}/actions"] = layer.actions.transpose(1, 0, 2)
        slacks = {name: getattr(self.attempt.residual, name) for name in _PARTS}
        attributes = {
            "case": self.case.to_text(), "case_name": self.case.name, "low": self.low, "high": self.high,
            "relative_width": self.relative_width, "reached": self.reached, "criterion": self.claim.problem.criterion,
            "states": list(self.claim.problem.state_names), "models": list(self.claim.models), "words": self.describe(),
            "in_shares": self.claim.problem.in_shares,
            **self.claim.following,
            **{f"slack_{name}": value for name, value in slacks.items()},
        }  # fmt: skip
        write_proof(path, attributes, arrays)


@overflow_named("prove: nothing is proven, numbers overflow: give the states, the cost or the actions other units")
@np.errstate(over="ignore", invalid="ignore")  # numbers of any size: an end that is none is seen below
def prove(
    case: Case, result: ResultFile | None = None, width: float | None = None, seconds: float | None = None,
    boundary: str | None = None, seen: Callable[[Attempt], None] = lambda _attempt: None,
) -> Proof:  # fmt: skip
    """Prove an interval for the optimal cost of a case, see `certificate.continuous.interval`.

    result: of a run of the case, whose V is what u begins with. width (relative), seconds, boundary: in place of [prove]. seen is
    called with every interval as it is proven.  Raises ProveError where nothing is proven.
    """
    if case.policy.entropy is not None:
        raise ProveError("prove: policy.entropy: what is proven for continuous states is the cost alone, leave the price out")
    settings = case.prove
    claim = Claim.of(case.problem, boundary or settings.boundary)
    wanted = settings.width if width is None else width
    limit = settings.time if seconds is None else seconds
    value = None if result is None else _value_of(result, case)
    best: Attempt | None = None
    low, high, table = -np.inf, np.inf, []
    for attempt in attempts(claim, value, wanted, limit, memory_limit(case)):
        if not np.isfinite(attempt.high - attempt.low):
            continue
        seen(attempt)
        table.append((attempt.seconds, attempt.low, attempt.high))
        low = max(low, attempt.low)
        if best is None or attempt.high <= best.high:
            best = attempt
            high = attempt.high
    if best is None:
        raise ProveError("prove: nothing is proven: numbers overflow")
    if low > high:
        raise ProveError("prove: bounds contradict each other, nothing is claimed: a defect of wassgrid, please report it")
    cost = float(result.last("convergence")["objective"]) if result is not None and result.records("convergence") else None
    width_reached = (high - low) / max(abs(low), abs(high), 1e-300)
    converged = result is None or result.status == "converged"
    return Proof(case, claim, best, low, high, bool(width_reached <= wanted), tuple(table), cost, converged)


def prove_file(
    path: str | PathLike[str], overrides: tuple[str, ...] = (), width: float | None = None, seconds: float | None = None,
    boundary: str | None = None, seen: Callable[[Attempt], None] = lambda _attempt: None,
) -> Proof:  # fmt: skip
    """Prove an interval for a case file, or for the case of a result file, beginning with its value function."""
    if Path(path).suffix == ".toml":
        return prove(Case.load(Path(path), overrides), None, width, seconds, boundary, seen)
    with ResultFile(path) as result:
        if "neural" in result.series:
            raise ProveError(f"prove: '{path}' is of a neural run, which has no value function; give the case file")
        if overrides:
            raise ProveError("prove: --set changes a case; give the case file in place of the result")
        case = Case.from_text(result.case_text, str(result.attributes["case_name"]))
        return prove(case, result, width, seconds, boundary, seen)


def _value_of(result: ResultFile, case: Case) -> Callable[[Frame, tuple[Axis, Axis]], np.ndarray | None]:
    """Return V of the last frame as a function of the rows of the means, taken as states; None for a file without one.

    Raises StorageError where V is no function of the states of the case.
    """
    from scipy.interpolate import RegularGridInterpolator

    if "trajectory" not in result.series or not len(result.steps("trajectory")):
        return lambda _frame, _axes: None
    axes, value, boundaries = result.axes, result.frame("value"), result.boundaries
    if result.state_names != case.problem.state_names or value.shape != tuple(map(len, axes)) or not np.isfinite(value).all():
        raise StorageError(f"'{result.path}': /trajectory/value is not one number for every state of the grid")

    def at(frame: Frame, laws: tuple[Axis, Axis]) -> np.ndarray:
        rows = np.meshgrid(*(law.knots.positions[: law.row_count] for law in laws[: len(axes)]), indexing="ij")
        states = frame.points(np.stack([r.ravel() for r in rows], axis=1))
        nodes, table = [], value
        for k, (nodes_k, boundary) in enumerate(zip(axes, boundaries, strict=True)):
            if boundary == "periodic":
                period = nodes_k[-1] - nodes_k[0] + nodes_k[1] - nodes_k[0]
                nodes_k = np.append(nodes_k, nodes_k[0] + period)
                table = np.concatenate([table, np.take(table, [0], axis=k)], axis=k)
                states[:, k] = nodes_k[0] + np.mod(states[:, k] - nodes_k[0], period)
            states[:, k] = np.clip(states[:, k], nodes_k[0], nodes_k[-1])
            nodes.append(nodes_k)
        found = RegularGridInterpolator(nodes, table)(states)
        return np.asarray(found.reshape(laws[0].row_count, laws[1].row_count))

    return at
