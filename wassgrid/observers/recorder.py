"""Record a run in its result file: one row per step, frames of the particles, checkpoints."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

import wassgrid
from wassgrid.storage import Axis, Variable

if TYPE_CHECKING:
    from wassgrid.case import Case
    from wassgrid.grid import StateGrid

COST, TIME = "{cost}", "{time}"  # stand for the units of the case

# name: (long name, units) of the columns of /convergence
COLUMNS = {
    "flow_time": ("flow time", "1"),
    "objective": ("objective J, the average cost", COST),
    "lower_bound": ("proved lower bound on the optimal objective", COST),
    "gradient_norm": ("norm of the gradient of J in the metric", "1"),
    "step_length": ("distance moved in the metric", "1"),
    "wall_time": ("wall time since the start of the run", "s"),
    "time_assembly": ("wall time spent on tables and transition operator", "s"),
    "time_stationary": ("wall time spent on the stationary law", "s"),
    "time_evaluation": ("wall time spent on policy evaluation", "s"),
    "time_flow": ("wall time spent on moving the particles", "s"),
    "stationary_residual": ("total variation of mu P - mu", "1"),
    "value_residual": ("largest residual of the Poisson equation", COST),
    "stationary_iterations": ("products with P for the stationary law", "1"),
    "value_iterations": ("products with P for the value", "1"),
    "guarded": ("particles held back by the guard", "1"),
    "escaped": ("particles that jumped to a better action", "1"),
}


@dataclass(frozen=True)
class Units:
    """Units of a case as the case gives them, "1" where it gives none."""

    states: tuple[str, ...]
    actions: tuple[str, ...]
    cost: str
    time: str

    @classmethod
    def of(cls, case: Case) -> Units:
        model = case.problem.model
        return cls(
            tuple(case.states[family.key].unit or "1" for family in model.states for _ in family.members),
            tuple(case.actions[family.key].unit or "1" for family in model.actions for _ in family.members),
            case.cost.unit or "1",
            (case.time.unit if case.time is not None else "") or "1",
        )


def grid_layout(case: Case, grid: StateGrid) -> dict[str, Any]:
    """Return axes and series of a grid run's result file, as `ResultWriter.create` takes them.

    The action axis is left out where there is one action.
    """
    units = Units.of(case)
    states = [
        Axis(name, axis, name, units.states[k], {"boundary": boundary})
        for k, (name, axis, boundary) in enumerate(zip(grid.names, grid.axes, grid.boundary, strict=True))
    ]
    actions = case.problem.action_names
    axes = [Axis("particle", np.arange(case.policy.particles), "particle number"), Axis("action", actions, "action")]
    cloud = (*grid.names, "particle", *(["action"] if len(actions) > 1 else []))
    shared = set(units.actions)
    trajectory = {
        "actions": Variable(cloud, "actions of the particles", shared.pop() if len(shared) == 1 else "1"),
        "weights": Variable((*grid.names, "particle"), "weights of the particles", "1"),
        "stationary": Variable(grid.names, "stationary probability of the cell", "1"),
        "value": Variable(grid.names, "relative value V", units.cost),
    }
    convergence = {
        name: Variable((), text, unit.format(cost=units.cost, time=units.time)) for name, (text, unit) in COLUMNS.items()
    }
    return {"grid": states, "axes": axes, "series": {"convergence": convergence, "trajectory": trajectory}}


def root_attributes(case: Case) -> dict[str, Any]:
    """Return what a result file says about its case and about the software that made it."""
    units = Units.of(case)
    return {
        "wassgrid_version": wassgrid.__version__,
        "case": case.to_text(),
        "case_name": case.name,
        "title": case.title,
        "seed": case.policy.seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "action_names": list(case.problem.action_names),
        "action_units": list(units.actions),
        "cost_units": units.cost,
        "python_version": platform.python_version(),
        **{f"{name}_version": metadata.version(name) for name in ("numpy", "scipy", "numba", "h5py")},
    }
