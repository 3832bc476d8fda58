"""Two policies of one problem: their distance, and the objective along the geodesic from one to the other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wassgrid.case.file import Case
from wassgrid.case.stored import case_of
from wassgrid.evaluation import Evaluation, Evaluator
from wassgrid.fisher_rao import WeightGeodesic
from wassgrid.hessian import second_derivative
from wassgrid.metric import Geodesic, geodesic, inner
from wassgrid.policy import ParticlePolicy, PolicyError
from wassgrid.storage import ResultFile
from wassgrid.transition.model import TransitionModel

POINTS = 21


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
    the way; None where it leads from one value of a list to another, between which there is no policy.
    """

    names: tuple[str, str]
    distance: float
    distance_back: float
    farthest: tuple[str, float]
    along: ObjectiveAlong | None
    cost_units: str
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
            return [*rows, ("along the geodesic", "none: it leads from one value of a list to another")]
        lowest, highest = float(along.curvature.min()), float(along.curvature.max())
        convex = "convex" if lowest >= 0 else "concave" if highest <= 0 else "neither convex nor concave"
        ends = f"{along.objective[0]:.10g} at {self.names[0]}, {along.objective[-1]:.10g} at {self.names[1]}{units}"
        ends += f" (both with the transition kernels of {self.names[0]}{self.priced})"
        barrier = f"rises {along.barrier:.4g}{units} above the higher end" if along.barrier > 0 else "never above the higher end"
        return [
            *rows,
            ("objective J", ends),
            ("along the geodesic", f"J {barrier}; {convex}, second derivative {lowest:.6g} to {highest:.6g}"),
        ]


def compare(first: str | os.PathLike[str], second: str | os.PathLike[str], points: int = POINTS) -> Comparison:
    """Compare the last policies of two result files of one problem.

    J along the geodesic is that of the first file's case, its price of entropy included. Raises PolicyError where the files are
    of different problems, grids or actions, or of neural runs; StorageError for a file that cannot be read.
    """
    names = Path(first).stem, Path(second).stem
    if names[0] == names[1]:
        names = f"{names[0]} (1)", f"{names[1]} (2)"
    with ResultFile(first) as one, ResultFile(second) as other:
        for result in (one, other):
            if "neural" in result.series:
                raise PolicyError(f"'{result.path}' holds a neural policy: only particle policies have a state-wise distance")
        cases = [case_of(result) for result in (one, other)]
        policies = [ParticlePolicy.from_result(result) for result in (one, other)]
        units = str(one.description("convergence/objective")["units"])
    _require_one_problem(cases[0], cases[1], names)
    model = TransitionModel.from_case(cases[0], policies[0].grid)
    evaluator = Evaluator.from_case(cases[0], model)
    stay = cases[0].problem.choices is not None or evaluator.entropy is not None
    path: Geodesic | WeightGeodesic
    path = WeightGeodesic.between(policies[0], policies[1]) if stay else geodesic(*policies)
    price = cases[0].policy.entropy
    laws = [evaluator.evaluate(policy).law for policy in policies]
    apart = np.where(laws[0] > 0, path.squared_distances(), 0.0)
    cell = int(apart.argmax())
    return Comparison(
        names,
        path.length(laws[0]),
        path.length(laws[1]),
        (policies[0].grid.describe_cell(cell), float(np.sqrt(apart[cell]))),
        objective_along(evaluator, path, np.linspace(0.0, 1.0, points)) if stay or not path.jumps else None,  # type: ignore[union-attr]
        units,
        "Fisher and Rao" if stay else "W2",
        "" if cases[0].policy.entropy == cases[1].policy.entropy else f" and its price of entropy, {price or 'none'}",
    )


def _require_one_problem(first: Case, second: Case, names: tuple[str, str]) -> None:
    """Raise PolicyError where two cases differ in what is controlled or minimised."""
    one, other = first.model_dump(), second.model_dump()
    for key in ("states", "actions", "time", "cost", "criterion", "goal", "start", "parameters", "indices"):
        if one[key] != other[key]:
            raise PolicyError(
                f"{names[0]} and {names[1]} are solutions of different problems: they differ in [{key}]. Solve one case with "
                "different methods, seeds or particles to compare its policies"
            )
