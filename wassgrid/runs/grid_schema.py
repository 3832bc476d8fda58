"""What a grid run writes down: its columns, its frames and their axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wassgrid.grid import StateGrid
from wassgrid.memory import require_room
from wassgrid.method.facts import GEOMETRY_FACTS
from wassgrid.runs.schema import (
    BOUND_FOUND,
    COLUMNS,
    COMPILATION,
    COST,
    COST_PART,
    COST_SCALE,
    ENTROPY_PART,
    LARGEST_MOVE,
    LARGEST_SHIFT,
    MIXING_RATE,
    STATIONARY_ERROR,
    STATIONARY_RESIDUAL,
    UPPER_END,
    VALUE_RESIDUAL,
    Units,
    curvature,
    phase_time,
    variables,
)
from wassgrid.storage import Axis, Variable

if TYPE_CHECKING:
    from wassgrid.case import Case

FRAMES = "trajectory"  # the series of the frames
CENTRES, SHARES = "blob_centres", "blob_shares"  # of blobs that slide over the particles
GRID_COLUMNS = {
    phase_time("assembly"): ("wall time spent on tables and transition operator", "s"),
    phase_time("stationary"): ("wall time spent on the stationary law", "s"),
    phase_time("evaluation"): ("wall time spent on policy evaluation", "s"),
    phase_time("derivatives"): ("wall time spent on Q and its derivatives", "s"),
    phase_time("certificate"): ("wall time spent on the lower bound", "s"),
    phase_time("flow"): ("wall time spent on moving the particles, trials included", "s"),
    COMPILATION: ("wall time of compilation, part of the others", "s"),
    BOUND_FOUND: ("bound on the optimal objective by the best actions found, not proven", COST),
    UPPER_END: ("upper end of the interval that holds the objective of the policy", COST),
    COST_SCALE: ("size of the cost, the larger of J and its standard deviation: what gaps are relative to", COST),
    STATIONARY_RESIDUAL: ("total variation of mu P - mu", "1"),
    STATIONARY_ERROR: ("estimated total variation between mu and the exact law", "1"),
    "stationary_iterations": ("products with P for the stationary law", "1"),
    MIXING_RATE: ("decay per step that the solve for the stationary law saw", "1"),
    VALUE_RESIDUAL: ("largest residual of the equation for V", COST),
    "value_iterations": ("products with P for the value", "1"),
    LARGEST_MOVE: ("largest change of an action, over all states", "1"),
    "guarded": ("particles held back lest J rise", "1"),
    "escaped": ("particles that jumped to a better action", "1"),
    "rejected": ("trial steps thrown away", "1"),
    "tamed": ("particles too stiff for the step, held back", "1"),
}
WEIGHTS = {LARGEST_SHIFT: ("largest change of a weight, over all states", "1")}
ENTROPY = {
    COST_PART: ("what the stage cost makes of J", COST),
    ENTROPY_PART: ("what the price of entropy makes of J", COST),
}
CURVATURE = {
    curvature("min"): ("smallest eigenvalue of the Hessian of J in the metric", "1"),
    curvature("min", "_local"): ("its local part, from the curvature of Q in the action, V at rest", "1"),
    curvature("min", "_transport"): ("its transport part, from the dynamics", "1"),
    curvature("min", "_residual"): ("norm of its residual", "1"),
    curvature("max"): ("largest eigenvalue of the Hessian of J in the metric", "1"),
    curvature("max", "_local"): ("its local part, from the curvature of Q in the action, V at rest", "1"),
    curvature("max", "_transport"): ("its transport part, from the dynamics", "1"),
    curvature("max", "_residual"): ("norm of its residual", "1"),
    phase_time("curvature"): ("wall time spent on the eigenvalues of the Hessian", "s"),
}


def grid_checkpoint(case: Case) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays that a grid run goes on from."""
    cells, particles = StateGrid.from_case(case).size, case.policy.particles
    actions = (cells, particles, case.problem.action_dimension)
    best = {"best_actions": (cells, actions[2]), "best_values": (cells,), "best_lead": (cells,)}
    blobs: dict[str, tuple[int, ...]] = {}
    if case.policy.blobs is not None:
        blobs = {CENTRES: (cells, case.policy.blobs, actions[2]), SHARES: (cells, case.policy.blobs)}
    return {"actions": actions, "weights": actions[:2], "warm_law": (cells,), "warm_value": (cells,), **best, **blobs}


def grid_layout(case: Case) -> dict[str, Any]:
    """Return axes and series of a grid run's result file; the action axis is left out where there is one action."""
    require_room(case)
    grid, units = StateGrid.from_case(case), Units.of(case)
    states = [
        Axis(name, axis, name, units.states[k], {"boundary": boundary})
        for k, (name, axis, boundary) in enumerate(zip(grid.names, grid.axes, grid.boundary, strict=True))
    ]
    actions = case.problem.action_names
    # a state may have either name: then the axis gives way
    particle, action = (name if name not in grid.names else f"{name}_axis" for name in ("particle", "action"))
    axes = [Axis(particle, np.arange(case.policy.particles), "particle number"), Axis(action, actions, "action")]
    cloud = (*grid.names, particle, *([action] if len(actions) > 1 else []))
    shared = set(units.actions)
    # V sums costs over steps: rates times time
    value_units = units.cost
    if units.time != "1" and case.criterion.kind != "total":
        value_units = f"{units.cost} {units.time}".removeprefix("1 ")
    trajectory = {
        "actions": Variable(cloud, "actions of the particles", shared.pop() if len(shared) == 1 else "1"),
        "weights": Variable((*grid.names, particle), "weights of the particles", "1"),
        "stationary": Variable(grid.names, "stationary probability of the cell", "1"),
        "value": Variable(grid.names, "relative value V", value_units),
    }
    if case.policy.blobs is not None:
        blob = "blob" if "blob" not in grid.names else "blob_axis"
        axes.append(Axis(blob, np.arange(case.policy.blobs), "blob number"))
        of = trajectory["actions"].units
        spread = (*grid.names, blob, *([action] if len(actions) > 1 else []))
        trajectory[CENTRES] = Variable(spread, "centres of the blobs, whose laws the weights of the particles are", of)
        trajectory[SHARES] = Variable((*grid.names, blob), "weights of the blobs", "1")
    columns = COLUMNS | GRID_COLUMNS | (CURVATURE if case.output.curvature_every else {})
    columns |= {} if case.policy.entropy is None else ENTROPY
    columns |= WEIGHTS if GEOMETRY_FACTS[case.flow.geometry].weights else {}
    series = {"convergence": variables(case, columns), FRAMES: trajectory}
    return {"grid": states, "axes": axes, "series": series}
