"""A neural policy as an ONNX model: states in, and standard normal numbers where it draws, actions out; single precision."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp

from wassgrid.case.stored import case_of
from wassgrid.errors import PackageMissingError
from wassgrid.export.parcel import ExportError, provenance_of
from wassgrid.problem.functions import Absolute, Floor, Maximum, Minimum, Modulo, Sign
from wassgrid.runs.schema import Units
from wassgrid.storage import ResultFile

if TYPE_CHECKING:
    from wassgrid.case import Case
    from wassgrid.neural.computed_policy import NeuralPolicy
    from wassgrid.neural.policies import PushForwardPolicy

OPERATORS = 17  # version of ONNX's set of operators
FORMAT = 8  # of its files
_UNARY = {
    sp.sin: "Sin", sp.cos: "Cos", sp.tan: "Tan", sp.asin: "Asin", sp.acos: "Acos", sp.atan: "Atan", sp.sinh: "Sinh",
    sp.cosh: "Cosh", sp.tanh: "Tanh", sp.exp: "Exp", sp.log: "Log", Absolute: "Abs", Sign: "Sign", Floor: "Floor",
}  # fmt: skip
_FOLDED = {sp.Add: "Add", sp.Mul: "Mul", Maximum: "Max", Minimum: "Min"}


@dataclass(frozen=True)
class NeuralParcel:
    """Hold the last policy of a neural run, the feedback that it began with (an expression per action), and its provenance."""

    policy: NeuralPolicy
    case: Case
    base: tuple[sp.Expr, ...]
    provenance: Mapping[str, str]

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> NeuralParcel:
        """Read the last policy of a result file.  Raises StorageError; ExportError for a grid policy; PackageMissingError."""
        with ResultFile(path) as file:
            if "neural" not in file.series:
                raise ExportError(f"'{path}' holds a grid policy, --to onnx is for neural ones: take --to npz or --to c")
            from wassgrid.neural import load_policy

            policy, case, provenance = load_policy(file), case_of(file), provenance_of(file, "neural")
        given = case.policy.initial.mean
        base = [] if given is None else case.problem.feedback_expressions("policy.initial.mean", given)
        return cls(policy, case, tuple(base), provenance)


def onnx(parcel: NeuralParcel) -> bytes:
    """Return the model of a policy: `states` (n, d) and `latents` (n, l), where there are, to `actions` (n, m).

    Case, names, units and provenance are its metadata. Raises ExportError for a base policy that cannot be written;
    PackageMissingError without the package onnx.
    """
    try:
        from onnx import TensorProto, checker, helper
    except ImportError as error:
        text = f"export --to onnx needs the package onnx, which cannot be imported here ({error}): pip install 'wassgrid[onnx]'"
        raise PackageMissingError(text) from None
    graph, policy, case = _Graph(), parcel.policy, parcel.case
    transport = policy.transport
    y = _network(graph, policy)
    if any(expression != 0 for expression in parcel.base):
        columns = {symbol: graph.column("states", k) for k, symbol in enumerate(case.problem.model.scalars.states)}
        y = graph.node("Add", y, graph.joined([graph.expression(e, columns) for e in parcel.base]))
    graph.nodes.append(helper.make_node("Identity", [_squashed(graph, y, transport)], ["actions"]))

    def array(name: str, count: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", count])

    inputs = [array("states", policy.state_dimension)]
    if transport.latent_dimension:
        inputs.append(array("latents", transport.latent_dimension))
    made = helper.make_graph(graph.nodes, "policy", inputs, [array("actions", policy.action_dimension)], graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPERATORS)], producer_name="wassgrid")
    model.ir_version = FORMAT
    units = Units.of(case)
    helper.set_model_props(model, {
        "state_names": json.dumps(case.problem.state_names), "state_units": json.dumps(units.states),
        "action_names": json.dumps(case.problem.action_names), "action_units": json.dumps(units.actions),
        "case": case.to_text(), "provenance": json.dumps(dict(parcel.provenance)),
    })  # fmt: skip
    checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


class _Graph:
    """Nodes and constants, each of which has a name; values are arrays (n, columns)."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        from onnx import helper

        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, values: Any, kind: Any = np.float32) -> str:
        """Add a constant and return its name."""
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype=kind), name))
        return name

    def column(self, values: str, k: int) -> str:
        """Return column k, (n, 1)."""
        return self.node("Gather", values, self.constant([k], np.int64), axis=1)

    def joined(self, columns: list[str]) -> str:
        return columns[0] if len(columns) == 1 else self.node("Concat", *columns, axis=1)

    def expression(self, expression: sp.Expr, columns: Mapping[sp.Symbol, str]) -> str:
        """Write an expression of states, (n, 1).  Raises ExportError for a function that is not among those written here."""
        if expression in columns:
            return columns[expression]
        if expression.is_Number:
            # a row for every state, whatever the expression
            zero = self.node("Mul", next(iter(columns.values())), self.constant([[0.0]]))
            return self.node("Add", zero, self.constant([[float(expression)]]))
        arguments = [self.expression(argument, columns) for argument in expression.args]
        if expression.func in _UNARY:
            return self.node(_UNARY[expression.func], *arguments)
        if expression.func in _FOLDED:
            return reduce(lambda one, other: self.node(_FOLDED[expression.func], one, other), arguments)
        if expression.func == Modulo:
            x, y = arguments
            return self.node("Sub", x, self.node("Mul", y, self.node("Floor", self.node("Div", x, y))))
        if expression.func == sp.Pow:
            return self.node("Pow", *arguments)
        raise ExportError(f"policy.initial.mean: {type(expression).__name__} is not written to ONNX: export from another start")


def _network(graph: _Graph, policy: NeuralPolicy) -> str:
    """Write A x + network(x), (n, m), as `PushForwardPolicy` computes it."""
    transport, parameters = policy.transport, np.asarray(policy.parameters)
    arrays, start = [], 0
    for shape in transport.parameter_shapes():
        arrays.append(parameters[start : start + math.prod(shape)].reshape(shape))
        start += math.prod(shape)
    x = graph.node("Div", graph.node("Sub", "states", graph.constant([transport.offset])), graph.constant([transport.scale]))
    if transport.periodic:
        columns = [graph.column(x, k) for k in range(transport.state_dimension)]
        for k, low, period in transport.periodic:
            moved = graph.node("Sub", graph.column("states", k), graph.constant([[low]]))
            angle = graph.node("Mul", moved, graph.constant([[2 * math.pi / period]]))
            columns[k] = graph.node("Sin", angle)
            columns.append(graph.node("Cos", angle))
        x = graph.joined(columns)
    if transport.latent_dimension:
        x = graph.joined([x, "latents"])
    parts = [graph.node("MatMul", x, graph.constant(arrays.pop(0)))] if transport.linear_path else []
    hidden = x
    while len(arrays) > 2:
        weight, bias, *arrays = arrays
        hidden = _activated(graph, transport.activation, _affine(graph, hidden, weight, bias))
    if transport.hidden:
        parts.append(_affine(graph, hidden, *arrays))
    else:
        zero = graph.node("MatMul", x, graph.constant(np.zeros((transport.input_dimension, transport.action_dimension))))
        parts.append(graph.node("Add", zero, graph.constant([arrays[0]])))
    return reduce(lambda one, other: graph.node("Add", one, other), parts)


def _affine(graph: _Graph, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
    return graph.node("Add", graph.node("MatMul", x, graph.constant(weight)), graph.constant([bias]))


def _activated(graph: _Graph, name: str, x: str) -> str:
    if name == "silu":
        return graph.node("Mul", x, graph.node("Sigmoid", x))
    if name == "gelu":
        # x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
        cube = graph.node("Mul", graph.node("Pow", x, graph.constant([[3.0]])), graph.constant([[0.044715]]))
        inner = graph.node("Mul", graph.node("Add", x, cube), graph.constant([[math.sqrt(2 / math.pi)]]))
        share = graph.node("Add", graph.node("Tanh", inner), graph.constant([[1.0]]))
        return graph.node("Mul", graph.node("Mul", x, graph.constant([[0.5]])), share)
    return graph.node({"tanh": "Tanh", "softplus": "Softplus", "relu": "Relu"}[name], x)


def _squashed(graph: _Graph, y: str, transport: PushForwardPolicy) -> str:
    """Write `wassgrid.neural.policies.squash`."""
    low, high = transport.low, transport.high
    if not any(map(math.isfinite, (*low, *high))):
        return y
    columns = []
    for k, (lower, upper) in enumerate(zip(low, high, strict=True)):
        column = graph.column(y, k)
        if math.isfinite(lower) and math.isfinite(upper):
            centre, half = graph.constant([[(lower + upper) / 2]]), graph.constant([[(upper - lower) / 2]])
            inner = graph.node("Div", graph.node("Sub", column, centre), half)
            sharpness = transport.sharpness
            inner = graph.node("Tanh", inner) if sharpness is None else _clipped(graph, inner, float(sharpness))
            column = graph.node("Add", centre, graph.node("Mul", half, inner))
        elif math.isfinite(lower):
            end = graph.constant([[lower]])
            column = graph.node("Add", end, graph.node("Softplus", graph.node("Sub", column, end)))
        elif math.isfinite(upper):
            end = graph.constant([[upper]])
            column = graph.node("Sub", end, graph.node("Softplus", graph.node("Sub", end, column)))
        columns.append(column)
    return graph.joined(columns)


def _clipped(graph: _Graph, z: str, sharpness: float) -> str:
    """Write `wassgrid.neural.policies.soft_clip`, as u (1 + min(|z|, 1/|z|)^p)^(-1/p), u the clip of z to -1 and 1."""
    one, size = graph.constant([[1.0]]), graph.node("Abs", z)
    outside = graph.node("Max", size, one)
    ratio = graph.node("Div", graph.node("Min", size, one), outside)
    power = graph.node("Add", graph.node("Pow", ratio, graph.constant([[sharpness]])), one)
    return graph.node("Mul", graph.node("Div", z, outside), graph.node("Pow", power, graph.constant([[-1.0 / sharpness]])))
