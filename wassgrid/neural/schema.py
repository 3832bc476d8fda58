"""What a neural run writes down: its columns and its frames.  Imported without JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wassgrid.memory import require_chains
from wassgrid.neural import make_solver
from wassgrid.runs.schema import COLUMNS, COST, STANDARD_ERROR, variables
from wassgrid.storage import Axis, Variable

if TYPE_CHECKING:
    from wassgrid.case import Case

FRAMES = "neural"  # the series of the frames
NEURAL_COLUMNS = {
    STANDARD_ERROR: ("standard error of the objective, from the spread of the chains", COST),
    "slope": ("fall of the objective per flow time along the direction", "1"),
    "agreement": ("cosine of successive sampled gradients in the metric", "1"),
    "step_size": ("flow time of the step, 0 if it was refused", "1"),
    "predicted": ("decrease of the objective by the quadratic model", COST),
    "actual": ("decrease on common random numbers", COST),
    "curvature": ("curvature of the objective along the steps, per squared action", "1"),
    "damping": ("damping of the metric", "1"),
    "accepted": ("whether the step was taken", "1"),
    "iterations": ("iterations of the metric solver", "1"),
    "residual": ("relative residual of the metric solver", "1"),
}
VALUE_COLUMNS = {"value_error": ("what the slopes of the value function missed of their samples, relative to these", "1")}


def neural_checkpoint(case: Case) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays that a neural run goes on from."""
    solver = make_solver(case)
    states, parameters = case.problem.state_dimension, (solver.blueprint.parameter_count,)
    shapes = {"input_offset": (states,), "input_scale": (states,), "chains": (solver.settings.chains, states)}
    return {**shapes, **dict.fromkeys(("parameters", "averaged", "direction"), parameters)}


def neural_layout(case: Case) -> dict[str, Any]:
    """Return axes and series of a neural run's result file, as `ResultWriter.begin` takes them."""
    require_chains(case)
    count = make_solver(case).blueprint.parameter_count
    axes = [Axis("parameter", np.arange(count), "parameter number")]
    parameters = Variable(("parameter",), "parameters of the policy network", "1")
    learnt = case.neural is not None and case.neural.value != "none"
    columns = variables(case, COLUMNS | NEURAL_COLUMNS | (VALUE_COLUMNS if learnt else {}))
    return {"axes": axes, "series": {"convergence": columns, FRAMES: {"parameters": parameters}}}
