"""The Wasserstein geometry of policies as an interface: gradient, metric, geodesics, J along them, distances.

A policy pi gives every state s a law pi_s of actions. A tangent field v(s, a) moves every particle, a -> a + t v, and its length
is that of the metric

    <v, w>_pi = int mu(ds) int pi_s(da) v(s, a) . w(s, a),    mu the stationary law (discounted: the occupancy),

in which  grad J(pi) = grad_a Q  (Dus 2026, arXiv 2604.14765). On a grid of cells with N particles of m actions fields are arrays
(cells, N, m).

| what                            | unit                                                              |
|---------------------------------|-------------------------------------------------------------------|
| tangent field, norm, distance   | that of the actions                                               |
| gradient, gradient norm         | of the cost (of its rate in continuous time) over the action      |
| J, slope, second derivative     | of the cost: a geodesic's time runs from 0 to 1, without a unit   |

Actions of several units are added as their numbers are.

Functions take whatever has a policy: a `Solution`, the path of a result file, a case (its initial policy), or a `Point`, which
`at` makes of them: an evaluated policy, so that nothing is computed twice where several functions are called.

>>> import numpy as np, wassgrid as wg
>>> case = wg.Case.load("cases/scalar_regulator.toml", ["policy.particles=2"])
>>> start, end = wg.geometry.at(case), wg.geometry.at(wg.solve(case))
>>> wg.geometry.gradient_norm(end) < 1e-3 < wg.geometry.gradient_norm(start)
True
>>> path = wg.geometry.geodesic(start, end)
>>> along = wg.geometry.objective_along(start, path, np.linspace(0.0, 1.0, 5))
>>> bool(np.isclose(along.objective[-1], end.objective)), wg.geometry.distance(start, end) > 1.0
(True, True)
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from wassgrid import metric
from wassgrid.case import Case
from wassgrid.case.stored import case_of
from wassgrid.compare import POINTS, ObjectiveAlong
from wassgrid.compare import objective_along as evaluated_along
from wassgrid.evaluation import Evaluation, Evaluator
from wassgrid.fisher_rao import WeightGeodesic
from wassgrid.grid import StateGrid
from wassgrid.metric import Geodesic
from wassgrid.policy import ParticlePolicy, PolicyError, initial_policy
from wassgrid.solution import ArgumentError, Solution
from wassgrid.storage import ResultFile
from wassgrid.transition.model import TransitionModel

__all__ = [
    "Geodesic", "ObjectiveAlong", "Point", "WeightGeodesic", "at", "distance", "geodesic", "gradient", "gradient_norm", "inner",
    "norm", "objective_along", "tangent", "weight_geodesic", "weight_gradient",
]  # fmt: skip

@dataclass(frozen=True, repr=False, eq=False)
class Point:
    """A policy of a problem, evaluated: J, mu, V, Q with its derivatives.

    All that is known stands in `evaluation`, where V and Q are those of the chain: costs that are rates are summed over steps.
    """

    case: Case
    evaluator: Evaluator
    evaluation: Evaluation

    @property
    def policy(self) -> ParticlePolicy:
        """The policy, actions (cells, N, m) and weights (cells, N)."""
        return self.evaluation.policy

    @property
    def objective(self) -> float:
        """J, in the unit of the cost."""
        return self.evaluation.objective

    @property
    def law(self) -> np.ndarray:
        """mu (cells,), the stationary law; for the discounted criterion the occupancy. Sums to one. For a total cost the expected
        visits until the goal, those of the goal included."""
        return self.evaluation.law

    def __repr__(self) -> str:
        cells, particles, m = self.policy.actions.shape
        return f"<Point of {self.case.name}: J = {self.objective:.8g}, fields ({cells}, {particles}, {m})>"


Source = Point | Solution | Case | str | os.PathLike[str]


def at(what: Source, policy: ParticlePolicy | None = None) -> Point:
    """Evaluate the policy of a solution, a result file or a case (its initial one), or another policy of the same problem.

    policy: on any grid of the problem's states, with any number of particles; it is evaluated on its own grid. Law and value are
    found to the tolerance of the case. Raises ArgumentError for another kind of argument, PolicyError for a neural policy and one
    of other states or actions, StorageError for a file that cannot be read, StationaryError and EvaluationError where the chain
    has no single law.
    """
    if isinstance(what, Point):
        return what if policy is None else _evaluated(what.case, policy, what)
    case, stored, fields = _read(what)
    if policy is not None:
        return _evaluated(case, policy)
    if fields is not None:
        # the value of the chain sums rates over steps
        fields = fields[0], fields[1] / case.problem.cost_unit
    return _evaluated(case, stored, warm=fields)


def _evaluated(
    case: Case, policy: ParticlePolicy | None, near: Point | None = None, warm: tuple[np.ndarray, np.ndarray] | None = None
) -> Point:
    if policy is None:
        policy = initial_policy(case, StateGrid.from_case(case))
    if not isinstance(policy, ParticlePolicy):
        raise PolicyError("the geometry is that of particle policies on a grid: a neural policy has no fields (cells, N, m)")
    problem = case.problem
    if policy.grid.names != problem.state_names or policy.action_dimension != problem.action_dimension:
        raise PolicyError(
            f"a policy of {', '.join(policy.grid.names)} with {policy.action_dimension} actions is none of {case.name}, of "
            f"{', '.join(problem.state_names)} with {problem.action_dimension}"
        )
    if near is not None and near.policy.grid is policy.grid:
        return Point(case, near.evaluator, near.evaluator.evaluate(policy, near.evaluation))
    evaluator = Evaluator.from_case(case, TransitionModel.from_case(case, policy.grid))
    return Point(case, evaluator, evaluator.evaluate(policy, warm))


def _read(what: Any) -> tuple[Case, ParticlePolicy | None, tuple[np.ndarray, np.ndarray] | None]:
    """Return the case, the policy and the law and value (cells,) that there are."""
    if isinstance(what, Case):
        return what, None, None
    if isinstance(what, Solution):
        fields = None if what.stationary is None or what.value is None else (what.stationary, what.value)
        return what.case, what.policy, fields
    if isinstance(what, str | os.PathLike):
        with ResultFile(what) as file:
            if "trajectory" not in file.series:
                raise PolicyError(f"'{what}' holds no particle policy")
            policy = ParticlePolicy.from_result(file)
            value = file.frame("value").ravel()
            usable = value.size == policy.grid.size and bool(np.isfinite(value).all())
            return case_of(file), policy, (policy.law_from(file), value) if usable else None
    raise ArgumentError(f"expected a Point, a solution, a case or the path of a result file, got {type(what).__name__}")


def gradient(what: Source) -> np.ndarray:
    """Return grad J = grad_a Q at every particle, (cells, N, m), in units of the cost over the action.

    In full, also where an action bound holds a particle back (`gradient_norm` leaves those components out). Source: Dus 2026.
    """
    return at(what).evaluation.q_gradient


def gradient_norm(what: Source) -> float:
    """Return |grad J|_pi over the components that no action bound holds back: the `gradient_norm` of a run's history.

    In the metric of the case (`flow.geometry`): where weights move, their part is in it.
    """
    point = at(what)
    return metric.gradient_norm(point.evaluation, metric.Metric.from_case(point.case))


def weight_gradient(what: Source) -> np.ndarray:
    """Return kappa (Q_i - V) at every particle, (cells, N): the part r of the gradient of J that moves weights, w_i' = w_i r_i.

    kappa is `flow.weight_rate` of the case, one where it gives none; V(s) = sum_i w_i Q_i. The flow takes -r; in every state
    sum_i w_i r_i = 0.

    >>> import wassgrid as wg
    >>> point = wg.geometry.at(wg.Case.load("cases/scalar_regulator.toml", ["policy.particles=2"]))
    >>> rates = wg.geometry.weight_gradient(point)
    >>> bool(abs((point.policy.weights * rates).sum(axis=1)).max() < 1e-9)
    True
    """
    point = at(what)
    rate = point.case.flow.weight_rate or 1.0
    return rate * (point.evaluation.first_variation - metric.mean_q(point.evaluation)[:, None])


def inner(what: Source, v: np.ndarray, w: np.ndarray) -> float:
    """Return <v, w>_pi of fields (cells, N, m).  Raises PolicyError for fields of another shape."""
    point = at(what)
    v, w = (tangent(point, field) for field in (v, w))
    return metric.inner(point.law, point.policy.weights, v, w)


def norm(what: Source, v: np.ndarray) -> float:
    """Return |v|_pi of a field (cells, N, m).  Raises PolicyError for a field of another shape."""
    point = at(what)
    return metric.norm(point.law, point.policy.weights, tangent(point, v))


def tangent(point: Point, field: np.ndarray) -> np.ndarray:
    """Return a field of numbers as an array (cells, N, m).  Raises PolicyError for another shape."""
    field = np.asarray(field, dtype=float)
    if field.shape != point.policy.actions.shape:
        raise PolicyError(f"expected a tangent field of shape {point.policy.actions.shape}, got {field.shape}")
    return field


def geodesic(first: Source | ParticlePolicy, second: Source | ParticlePolicy) -> Geodesic:
    """Return the geodesic between two policies on one grid: in every state the displacement interpolation (McCann 1997).

    `.at(t)` is the policy at time t, `.velocity` the field of its speed, `.squared_distances()` W2(pi_s, pi'_s)^2 of every cell,
    `.length(law)` the distance. One action: sorted coupling; several: assignment, or transport by POT where weights differ.
    Raises PolicyError for policies on different grids or of different actions.
    """
    return metric.geodesic(_policy(first), _policy(second))


def weight_geodesic(first: Source | ParticlePolicy, second: Source | ParticlePolicy, rate: float = 1.0) -> WeightGeodesic:
    """Return the geodesic of Fisher and Rao between two policies on the same actions: in every state a great circle of sqrt(w).

    `.at(t)` is the policy at time t, `.angle` theta of every cell, `.length(law)` the distance 2 theta/sqrt(rate), averaged; J
    along it is that of `objective_along`. For actions that stay: values of a list, and those that entropy is relative to.
    Raises PolicyError for policies on different grids or actions.
    """
    return WeightGeodesic.between(_policy(first), _policy(second), rate)


def distance(first: Source | ParticlePolicy, second: Source | ParticlePolicy, law: np.ndarray | None = None) -> float:
    """Return d with d^2 = int nu(ds) W2(pi_s, pi'_s)^2, in the unit of the actions.

    law: nu (cells,), which sums to one; by default the stationary law of the first policy (then not of a policy alone). Raises
    PolicyError as `geodesic` does, and for a law of another shape.
    """
    if law is None:
        if isinstance(first, ParticlePolicy):
            raise ArgumentError("distance: a policy alone has no law of the states: give law=, or a Point, solution or file")
        if isinstance(first, Case):
            first = at(first)
        if isinstance(first, Point):
            law = first.law
        else:
            fields = _read(first)[2]
            law = at(first).law if fields is None else np.maximum(fields[0], 0.0)
    path = geodesic(first, second)
    law = np.asarray(law, dtype=float)
    if law.shape != (path.start.shape[0],):
        raise PolicyError(f"expected a law of shape ({path.start.shape[0]},), got {law.shape}")
    return path.length(law)


def _policy(what: Any) -> ParticlePolicy:
    if isinstance(what, ParticlePolicy):
        return what
    if isinstance(what, Point):
        return what.policy
    case, policy, _ = _read(what)
    if policy is None:
        return initial_policy(case, StateGrid.from_case(case))
    if not isinstance(policy, ParticlePolicy):
        raise PolicyError("only particle policies on a grid have geodesics")
    return policy


def objective_along(what: Source, path: Geodesic | WeightGeodesic, times: np.ndarray | int = POINTS) -> ObjectiveAlong:
    """Evaluate J and its first two derivatives along a geodesic, in the problem of `what`.

    times: numbers in [0, 1], or how many of them. `.objective`, `.slope` and `.local + .transport = .curvature` are arrays
    (times,); `.barrier` is how far J rises above the higher end. Each policy is solved anew, warm-started by the one before.
    """
    if isinstance(what, Point) and what.policy.grid is path.first.grid:
        evaluator = what.evaluator
    else:
        case = what.case if isinstance(what, Point) else _read(what)[0]
        evaluator = Evaluator.from_case(case, TransitionModel.from_case(case, path.first.grid))
    return evaluated_along(evaluator, path, np.linspace(0.0, 1.0, times) if isinstance(times, int) else np.asarray(times))
