"""What a run writes down, declared once: names, meanings and units of its columns, read by all that show them.

The columns that all runs have stand here; those of a solver stand beside it (`grid_schema`, `neural.schema`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wassgrid.storage import Variable

if TYPE_CHECKING:
    from wassgrid.case import Case

COST, TIME = "{cost}", "{time}"  # stand for the units of the case

STEP, FLOW_TIME, WALL_TIME = "step", "flow_time", "wall_time"
OBJECTIVE, LOWER_BOUND, STANDARD_ERROR = "objective", "lower_bound", "standard_error"
BOUND_FOUND, UPPER_END, COST_SCALE = "bound_found", "upper_end", "cost_scale"
GRADIENT_NORM, STEP_LENGTH = "gradient_norm", "step_length"
STATIONARY_RESIDUAL, STATIONARY_ERROR, MIXING_RATE = "stationary_residual", "stationary_error", "mixing_rate"
VALUE_RESIDUAL = "value_residual"
VALUE_SHARES = "value_shares"  # in the summary: how often actions of lists take their values
COST_PART, ENTROPY_PART = "cost_part", "entropy_part"  # of J, where entropy has a price
LARGEST_MOVE, LARGEST_SHIFT = "largest_move", "largest_weight_change"
ESTIMATE = "estimate"  # of the summary: what the greedy policy costs in the problem itself
ON_KINKS = "particles_on_kinks"  # of the summary: share of the probability where eigenvalues are those of one branch of Q
CURVATURE_ENDS = ("min", "max")
CURVATURE_PARTS = ("", "_local", "_transport", "_residual")
PHASES = ("assembly", "stationary", "evaluation", "derivatives", "certificate", "flow", "curvature")  # with a time each

COMPILATION = "time_compilation"  # part of the phases in which it fell
ADDED = (COMPILATION,)  # columns that earlier files lack: a resumed run adds them

Columns = Mapping[str, tuple[str, str]]  # name: (long name, units); a scalar that is not listed gets a column of its own name


def phase_time(phase: str) -> str:
    """Return the column of the wall time spent on a phase."""
    return f"time_{phase}"


def curvature(end: str, part: str = "") -> str:
    """Return the column of a part of the smallest ("min") or largest ("max") eigenvalue of the Hessian."""
    return f"curvature_{end}{part}"


CURVATURE_COLUMNS = tuple(curvature(end, part) for end in CURVATURE_ENDS for part in CURVATURE_PARTS)

COLUMNS = {
    FLOW_TIME: ("flow time", "1"),
    OBJECTIVE: ("objective J", COST),
    LOWER_BOUND: ("proved lower bound on the optimal objective", COST),
    GRADIENT_NORM: ("norm of the gradient of J in the metric", "1"),
    STEP_LENGTH: ("distance moved in the metric", "1"),
    WALL_TIME: ("wall time since the start of the run", "s"),
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
        cost, time = case.cost.unit or "1", (case.time.unit if case.time is not None else "") or "1"
        if case.criterion.kind == "total" and time != "1":
            cost = f"{cost} {time}".removeprefix("1 ")  # a sum of rates times steps
        return cls(
            tuple(case.states[family.key].unit or "1" for family in model.states for _ in family.members),
            tuple(case.actions[family.key].unit or "1" for family in model.actions for _ in family.members),
            cost,
            time,
        )


def variables(case: Case, columns: Columns) -> dict[str, Variable]:
    """Return the columns as storage takes them, in the units of the case."""
    units = Units.of(case)
    return {name: Variable((), text, unit.format(cost=units.cost, time=units.time)) for name, (text, unit) in columns.items()}
