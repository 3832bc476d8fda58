"""Which solver a case asks for, and what each kind states of itself: the one room that knows them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wassgrid.errors import overflow_named
from wassgrid.runs.loop import Observer, Solver, drive
from wassgrid.runs.schema import FLOW_TIME, GRADIENT_NORM, STEP

if TYPE_CHECKING:
    from wassgrid.case import Case
    from wassgrid.runs.start import Start


@dataclass(frozen=True)
class SolverKind:
    """A kind of solver.

    make: the solver of a case, from a policy to start with where one is given; layout: axes and series of its result file, as
    `ResultWriter.begin` takes them; frames: the series that its frames go to; rules: the limits that may end a run, by column
    (`gap`: J above its bound; `relative_gap`: that over `cost_scale`); gridded: the states lie on a grid; checkpoint: shapes of
    the arrays that a run goes on from.
    """

    make: Callable[[Case, Start | None], Solver]
    layout: Callable[[Case], dict[str, Any]]
    frames: str
    rules: Callable[[Case], dict[str, float]]
    gridded: bool
    checkpoint: Callable[[Case], dict[str, tuple[int, ...]]]


def _make_grid(case: Case, given: Start | None) -> Solver:
    from wassgrid.runs.grid_solver import GridSolver

    return GridSolver.from_case(case, given)


def _grid_layout(case: Case) -> dict[str, Any]:
    from wassgrid.runs.grid_schema import grid_layout

    return grid_layout(case)


def _grid_checkpoint(case: Case) -> dict[str, tuple[int, ...]]:
    from wassgrid.runs.grid_schema import grid_checkpoint

    return grid_checkpoint(case)


def _grid_rules(case: Case) -> dict[str, float]:
    stop = case.flow.stop
    rules = {STEP: stop.steps, FLOW_TIME: stop.flow_time, GRADIENT_NORM: stop.gradient_norm, "gap": stop.gap}
    rules["relative_gap"] = stop.relative
    return {name: float(limit) for name, limit in rules.items() if limit is not None}


def _make_neural(case: Case, given: Start | None) -> Solver:
    from wassgrid.neural import make_solver as make_neural_solver

    if given is not None:
        from wassgrid.runs.start import StartError

        raise StartError("initial: the neural solver starts from policy.initial.mean, it takes no other policy")
    return make_neural_solver(case)


def _neural_layout(case: Case) -> dict[str, Any]:
    from wassgrid.neural.schema import neural_layout

    return neural_layout(case)


def _neural_checkpoint(case: Case) -> dict[str, tuple[int, ...]]:
    from wassgrid.neural.schema import neural_checkpoint

    return neural_checkpoint(case)


def _neural_rules(case: Case) -> dict[str, float]:
    from wassgrid.case.neural_tables import NeuralSettings

    return {STEP: float((case.neural or NeuralSettings.model_validate({})).steps)}


# what a kind needs is imported when it is asked for: JAX is an extra
SOLVERS = {
    "grid": SolverKind(_make_grid, _grid_layout, "trajectory", _grid_rules, True, _grid_checkpoint),
    "neural": SolverKind(_make_neural, _neural_layout, "neural", _neural_rules, False, _neural_checkpoint),
}


def make_solver(case: Case, given: Start | None = None) -> Solver:
    """Return the solver that the case names. Raises ValueErrors that name what is wrong with the case."""
    with overflow_named("states: the numbers of the case are beyond what can be computed with"):
        return SOLVERS[case.solver.kind].make(case, given)


def solve(
    case: Case, observers: Sequence[Observer] = (), resume_from: Mapping[str, Any] | None = None, given: Start | None = None
) -> Any:
    """Solve a case, from its beginning, from a given policy or from a checkpoint, and return the solver's solution (see
    `loop.drive`)."""
    return drive(make_solver(case, given), case, observers, resume_from)
