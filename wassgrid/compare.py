"""Two policies of one problem: their distance, the objective along the geodesic from one to the other, and where one loses.

A neural policy is laid beside the solution of a grid by putting it on that grid.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wassgrid.case.file import Case
from wassgrid.case.stored import case_of
from wassgrid.evaluation import Evaluation, Evaluator
from wassgrid.fisher_rao import WeightGeodesic
from wassgrid.hessian import second_derivative
from wassgrid.metric import Geodesic, geodesic, inner
from wassgrid.policy import ParticlePolicy, PolicyError
from wassgrid.runs.schema import LOWER_BOUND
from wassgrid.shortfall import Shortfall
from wassgrid.storage import ResultFile
from wassgrid.transition.model import TransitionModel

if TYPE_CHECKING:
    from wassgrid.case import Case

POINTS = 21
_UNLIKELY = 1e-6  # times the largest share of the law in a cell: where a policy hardly ever is, its gradient says little


@dataclass(frozen=True)
class ObjectiveAlong:
    """J and its derivatives along a geodesic a_t = (1 - t) a_0 + t a_1, or one of weights (`WeightGeodesic`), all (points,).

    slope = dJ/dt = <grad J, a_1 - a_0>; local and transport are the parts of the second derivative, the Hessian along
    the geodesic (`second_derivative`; of weights `WeightGeodesic.derivatives`).
    """

    times: np.ndarray
    objective: np.ndarray
    slope: np.ndarray
    local: np.ndarray
    transport: np.ndarray

    def __repr__(self) -> str:
        ends = f"J = {self.objective[0]:.6g} to {self.objective[-1]:.6g}"
        return f"<ObjectiveAlong a geodesic, {self.times.size} points: {ends}, barrier {self.barrier:.3g}>"

    @property
    def curvature(self) -> np.ndarray:
        """d^2 J / dt^2, (points,)."""
        return self.local + self.transport

    @property
    def barrier(self) -> float:
        """How far J rises on the way above the higher of the two ends; 0 if it does not, beyond rounding."""
        higher = max(self.objective[0], self.objective[-1])
        rise = float(self.objective.max() - higher)
        return rise if rise > 1e-11 * abs(higher) else 0.0


def objective_along(evaluator: Evaluator, path: Geodesic | WeightGeodesic, times: np.ndarray) -> ObjectiveAlong:
    """Evaluate the policies of a geodesic at `times` (points,), each warm-started by the one before."""
    rows, evaluation = [], None
    for time in times:
        evaluation = evaluator.evaluate(path.at(float(time)), evaluation)
        rows.append((evaluation.objective, *_derivatives(evaluation, path, float(time))))
    return ObjectiveAlong(np.asarray(times, dtype=float), *np.array(rows).T)


def _derivatives(evaluation: Evaluation, path: Geodesic | WeightGeodesic, time: float) -> tuple[float, float, float]:
    """Return dJ/dt and the two parts of d^2 J/dt^2 along a path, for the policy at a time of it."""
    if isinstance(path, WeightGeodesic):
        return path.derivatives(evaluation, time)
    slope = inner(evaluation.law, path.weights, evaluation.q_gradient, path.velocity)
    return slope, *second_derivative(evaluation, path.velocity)


@dataclass(frozen=True)
class Comparison:
    """What `wassgrid compare` reports of two result files.

    distance: d with d^2 = int nu(ds) W2(pi_s, pi'_s)^2, nu the stationary law of the first policy; distance_back: with that
    of the second. farthest: the cell, of those that carry nu, in which the policies differ most, and its W2. Where actions stay
    (values of a list, entropy with a price) the distance of Fisher and Rao takes the place of W2: `metric` names it. along: J on
    the way; None where it leads from one value of a list to another, between which there is no policy. shortfall: what the second
    policy costs more than the first one, cell by cell; of a neural policy, whichever it is, beside that of the grid (`judged` and
    `beside` are their names). bound: the lower bound that the run on the grid has proven, nan where there is none. simulated: J
    of the neural policy in its own simulation, and the standard error.
    """

    names: tuple[str, str]
    distance: float
    distance_back: float
    farthest: tuple[str, float]
    along: ObjectiveAlong | None
    cost_units: str
    state_units: tuple[str, ...]
    shortfall: Shortfall
    judged: str
    beside: str
    bound: float = math.nan
    simulated: tuple[float, float] | None = None
    metric: str = "W2"
    priced: str = ""  # what is to be said of prices of entropy that differ

    def rows(self) -> list[tuple[str, str]]:
        """Return what the command line prints, as (name, text)."""
        units = "" if self.cost_units == "1" else f" {self.cost_units}"
        distances = zip((self.distance, self.distance_back), self.names, strict=True)
        weighted = [f"{distance:.8g} under the law of {name}" for distance, name in distances]
        if self.metric != "W2":
            weighted.append(f"in the metric of {self.metric}, pi at most")
        rows = [("distance", ", ".join(weighted)), ("farthest apart", f"{self.farthest[1]:.6g} at {self.farthest[0]}")]
        if (along := self.along) is None:
            return [
                *rows, ("along the geodesic", "none: it leads from one value of a list to another"), *self._losses(units)
            ]  # fmt: skip
        lowest, highest = float(along.curvature.min()), float(along.curvature.max())
        convex = "convex" if lowest >= 0 else "concave" if highest <= 0 else "neither convex nor concave"
        ends = f"{along.objective[0]:.10g} at {self.names[0]}, {along.objective[-1]:.10g} at {self.names[1]}{units}"
        ends += f" (both with the transition kernels of {self.beside}{self.priced})"
        barrier = f"rises {along.barrier:.4g}{units} above the higher end" if along.barrier > 0 else "never above the higher end"
        return [
            *rows,
            ("objective J", ends),
            *self._losses(units),
            ("along the geodesic", f"J {barrier}; {convex}, second derivative {lowest:.6g} to {highest:.6g}"),
        ]

    def _losses(self, units: str) -> list[tuple[str, str]]:
        found = self.shortfall
        judged = found.policy
        rows = []
        if self.simulated is not None:
            mean, error = self.simulated
            rows.append(("simulated J", f"{mean:.8g} +- {error:.2g}{units} of {self.judged}, without a grid"))
        reference = found.reference.objective
        apart, loses = abs(found.total), "more" if found.total >= 0.0 else "less"
        share = f", {100 * apart / abs(reference):.3g} %" if reference != 0.0 else ""
        text = f"{self.judged} costs {apart:.4g}{units} {loses} than {self.beside}{share}"
        if math.isfinite(self.bound):
            text += f"; {judged.objective - self.bound:.4g}{units} above the proven lower bound of the best"
        rows.append(("loss", text))
        cells, law = found.concentration()
        if cells > 0 and found.total > 0.0:
            grid = judged.policy.grid
            text = f"half in {cells} of {grid.size} cells with {100 * law:.3g} % of the law; most at"
            rows.append(("where it loses", f"{text} {grid.describe_cell(found.worst)}"))
        if math.isfinite(found.gradient_norm):
            text = f"root mean square of grad_a Q of {self.judged} {found.gradient_norm:.4g}"
            field = np.where(judged.law > _UNLIKELY * judged.law.max(), found.gradient, 0.0)
            if field.any():
                text += f", largest {field.max():.4g} at {judged.policy.grid.describe_cell(int(field.argmax()))}"
            rows.append(("gradient left", text))
        return rows


def compare(first: str | os.PathLike[str], second: str | os.PathLike[str], points: int = POINTS) -> Comparison:
    """Compare the last policies of two result files of one problem; one of them may be a neural run.

    J along the geodesic is that of the first file's case, its price of entropy included; beside a neural run that of the case on
    the grid, and the neural policy is put on its cells (`NeuralPolicy.on_grid`). Raises PolicyError where the files are of
    different problems, grids or actions, or both of neural runs; StorageError for a file that cannot be read;
    NeuralExtraMissingError for want of JAX.
    """
    names = Path(first).stem, Path(second).stem
    if names[0] == names[1]:
        names = f"{names[0]} (1)", f"{names[1]} (2)"
    with ResultFile(first) as one, ResultFile(second) as two:
        files = (one, two)
        cases = [case_of(result) for result in files]
        neural = ["neural" in result.series for result in files]
        if all(neural):
            raise PolicyError(
                "both files hold neural policies: give one of a run on a grid, whose cells and kernels they can be laid on"
            )
        _require_one_problem(cases[0], cases[1], names, any(neural))
        gridded = neural.index(False)
        on_grid, simulated = ParticlePolicy.from_result(files[gridded]), None
        if any(neural):
            if cases[gridded].policy.entropy:
                raise PolicyError(
                    f"{names[gridded]} puts a price on entropy, on which nothing is known of a neural policy: "
                    "compare it with a run without policy.entropy"
                )
            other_policy = _on_grid(files[1 - gridded], on_grid)
            simulated = _simulated(files[1 - gridded])
        else:
            other_policy = ParticlePolicy.from_result(files[1 - gridded])
        bounds = files[gridded].convergence.get(LOWER_BOUND, np.zeros(0))
        units = str(files[gridded].description("convergence/objective")["units"])
        state_units = tuple(str(files[gridded].description(f"grid/{name}")["units"]) for name in files[gridded].state_names)
    judged, case = 1 - gridded, cases[gridded]
    pair = (on_grid, other_policy) if gridded == 0 else (other_policy, on_grid)
    evaluator = Evaluator.from_case(case, TransitionModel.from_case(case, on_grid.grid))
    stay = case.problem.choices is not None or evaluator.entropy is not None
    path: Geodesic | WeightGeodesic = WeightGeodesic.between(*pair) if stay else geodesic(*pair)
    price = cases[0].policy.entropy
    evaluations = [evaluator.evaluate(policy) for policy in pair]
    laws = [evaluation.law for evaluation in evaluations]
    apart = np.where(laws[0] > 0, path.squared_distances(), 0.0)
    cell = int(apart.argmax())
    return Comparison(
        names,
        path.length(laws[0]),
        path.length(laws[1]),
        (on_grid.grid.describe_cell(cell), float(np.sqrt(apart[cell]))),
        objective_along(evaluator, path, np.linspace(0.0, 1.0, points)) if stay or not path.jumps else None,  # type: ignore[union-attr]
        units,
        state_units,
        Shortfall(evaluations[judged], evaluations[1 - judged]),
        names[judged],
        names[1 - judged],
        float(bounds[-1]) if len(bounds) else math.nan,
        simulated,
        "Fisher and Rao" if stay else "W2",
        "" if cases[0].policy.entropy == cases[1].policy.entropy else f" and its price of entropy, {price or 'none'}",
    )


def _on_grid(result: ResultFile, beside: ParticlePolicy) -> ParticlePolicy:
    """Return the policy of a neural run on the cells of another one."""
    from wassgrid.neural import load_policy

    return load_policy(result).on_grid(beside.grid)


def _simulated(result: ResultFile) -> tuple[float, float] | None:
    """Return J and its standard error from the simulation at the end of a neural run; None where it was cut short."""
    found = result.summary
    return (float(found["objective"]), float(found["standard_error"])) if "standard_error" in found else None


def _require_one_problem(first: Case, second: Case, names: tuple[str, str], neural: bool = False) -> None:
    """Raise PolicyError where two cases differ in what is controlled or minimised.

    A neural run needs no domain: what only one of the cases says of one is no difference then.
    """
    one, other = first.model_dump(), second.model_dump()
    if neural:
        for name in set(one["states"]) & set(other["states"]):
            states = one["states"][name], other["states"][name]
            if any(state["domain"] is None for state in states):
                for state in states:
                    state["domain"] = state["boundary"] = None
    for key in ("states", "actions", "time", "cost", "criterion", "goal", "start", "parameters", "indices"):
        if one[key] != other[key]:
            raise PolicyError(
                f"{names[0]} and {names[1]} are solutions of different problems: they differ in [{key}]. Solve one case with "
                "different methods, seeds or particles to compare its policies"
            )
