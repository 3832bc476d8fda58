"""An independent dense solver of case texts: the arbiter of what a run claims. It shares no code with the package.

Case texts are read with `tomllib`, their expressions by Python itself (the texts are ours), the kernels are written from their
definitions, the stationary law is that of Grassmann, Taksar and Heyman (1985), which subtracts nothing, and the optimum is
bracketed from above by policy iteration over a fine grid of actions. One kernel per axis; small problems only.
"""

from __future__ import annotations

import ast
import math
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.special import erfc

TAIL = 8.0  # standard deviations at which the kernels cut the normal law
SNAP = 1e-9  # in cells: a mean without noise this close to a node is on it
EDGE = 1e-14  # probabilities below do not join classes
_ROWS = 4000  # of P computed at once


# -- expressions -----------------------------------------------------------------------------------------------------------


class _Vectorised(ast.NodeTransformer):
    """Turn `and`, `or`, `not` and chained comparisons into functions of arrays, next(x) into a name."""

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        name = "both" if isinstance(node.op, ast.And) else "either"
        parts = [self.visit(value) for value in node.values]
        return ast.Call(ast.Name(name, ast.Load()), parts, [])

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        operand = self.visit(node.operand)
        if isinstance(node.op, ast.Not):
            return ast.Call(ast.Name("negation", ast.Load()), [operand], [])
        return ast.UnaryOp(node.op, operand)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        terms = [self.visit(term) for term in (node.left, *node.comparators)]
        pairs: list[ast.expr] = [
            ast.Compare(left, [op], [right]) for left, op, right in zip(terms, node.ops, terms[1:], strict=False)
        ]
        return pairs[0] if len(pairs) == 1 else ast.Call(ast.Name("both", ast.Load()), pairs, [])

    def visit_Call(self, node: ast.Call) -> ast.AST:
        assert isinstance(node.func, ast.Name)
        if node.func.id == "next":
            return ast.Name("next_" + ast.unparse(node.args[0]), ast.Load())
        return ast.Call(node.func, [self.visit(argument) for argument in node.args], [])

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        left, right = self.visit(node.left), self.visit(node.right)
        if isinstance(node.op, ast.Pow):
            return ast.Call(ast.Name("raised", ast.Load()), [left, right], [])
        if isinstance(node.op, ast.Div):
            return ast.Call(ast.Name("ratio", ast.Load()), [left, right], [])
        return ast.BinOp(left, node.op, right)


def _fold(function: Any) -> Any:
    def of_many(*values: Any) -> Any:
        result = values[0]
        for value in values[1:]:
            result = function(result, value)
        return result

    return of_many


_FUNCTIONS: dict[str, Any] = {
    **{name: getattr(np, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp", "log", "sqrt", "abs", "sign")},
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "atan2": np.arctan2, "mod": np.mod, "where": np.where,
    "min": _fold(np.minimum), "max": _fold(np.maximum), "both": _fold(np.logical_and), "either": _fold(np.logical_or),
    "negation": np.logical_not, "pi": math.pi, "inf": math.inf, "clip": lambda x, low, high: np.minimum(np.maximum(x, low), high),
    "wrap_angle": lambda x: np.mod(x + math.pi, 2.0 * math.pi) - math.pi,
    "raised": lambda x, p: np.asarray(x, float) ** np.asarray(p, float),
    "ratio": lambda x, y: np.true_divide(x, y),
}  # fmt: skip


def compiled(text: Any) -> Any:
    """Return the code of an expression of a case."""
    text = text if isinstance(text, str) else repr(float(text))
    tree = ast.fix_missing_locations(_Vectorised().visit(ast.parse(text.strip(), mode="eval")))
    return compile(tree, text, "eval")


def valued(code: Any, names: dict[str, Any]) -> Any:
    """Return the value of an expression; nan or inf where it has none."""
    with np.errstate(all="ignore"):
        return eval(code, {"__builtins__": {}, **_FUNCTIONS}, names)


# -- kernels ---------------------------------------------------------------------------------------------------------------


def _extended(n: int, reach: int, boundary: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the extended indices of an axis of n nodes, and the node that each falls on."""
    e = np.arange(-reach, n + reach)
    if boundary == "periodic":
        return e, e % n
    if boundary == "reflect":
        period = 2 * (n - 1)
        place = e % period
        return e, np.minimum(place, period - place)
    return e, np.clip(e, 0, n - 1)


def _upper_mean(z: np.ndarray) -> np.ndarray:
    """E (xi - z)^+ of a standard normal number."""
    return np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi) - z * 0.5 * erfc(z / math.sqrt(2.0))


def _second_moment(d: np.ndarray, r: np.ndarray) -> np.ndarray:
    """E e^2 of the matched kernel, d in [0, 1/2] cells from the node: that of the noise, or of two nodes, or between."""
    u = r**2 - d * (1.0 - d)
    b = 0.5 * np.maximum(np.minimum(0.25 - r**2, r**2), 0.0)
    v = np.clip((u + b) / np.where(b > 0, 2.0 * b, 1.0), 0.0, 1.0)
    return d + np.where(u >= b, u, np.where(u <= -b, 0.0, 2.0 * b * (v**3 - 0.5 * v**4)))


def _matched(u: np.ndarray, s: np.ndarray, e: np.ndarray, n: int, boundary: str) -> np.ndarray:
    """The law exp(l1 e + l2 e^2) on the nodes next to the mean that has its two moments, by the convex dual; u, s (...)."""
    centre = np.round(u)
    d, way = np.abs(u - centre), np.where(u < centre, -1.0, 1.0)
    moment = _second_moment(d, s)
    side = np.ceil(TAIL * s) + 1
    k = np.arange(-int(side.max()), int(side.max()) + 1.0)
    inside = np.abs(k) <= side[..., None]
    spread, drift = np.maximum(moment - d, 0.0), np.maximum(moment + d, 0.0)
    two = spread <= 1e-14  # only the nodes beside the mean
    with np.errstate(all="ignore"):
        up, down = np.log(0.5 * drift / (1.0 - moment)), np.log(0.5 * spread / (1.0 - moment))
        wide = (s > 0.6) | ~(moment < 1.0)
        up, down = np.where(wide, -(0.5 - d) / s**2, up), np.where(wide, -(0.5 + d) / s**2, down)
    up, down = np.where(two, 0.0, up), np.where(two, 0.0, down)
    # log p = up e (e + 1)/2 + down e (e - 1)/2: two statistics a and b, their means given
    a, b = 0.5 * k * (k + 1.0), 0.5 * k * (k - 1.0)
    target = np.stack([0.5 * (moment + d), 0.5 * (moment - d)])

    def law(up: np.ndarray, down: np.ndarray) -> np.ndarray:
        power = np.where(inside, up[..., None] * a + down[..., None] * b, -np.inf)
        p = np.exp(power - power.max(axis=-1, keepdims=True))
        return p / p.sum(axis=-1, keepdims=True)

    p = law(up, down)
    for _ in range(60):
        ma, mb = p @ a, p @ b
        ga, gb = ma - target[0], mb - target[1]
        # relative: the law of the far node may be tiny
        if np.all(two | ((np.abs(ga) <= 4e-16 + 1e-14 * target[0]) & (np.abs(gb) <= 1e-14 * target[1] + 1e-30))):
            break
        caa, cbb, cab = p @ (a * a) - ma * ma, p @ (b * b) - mb * mb, p @ (a * b) - ma * mb
        scale = caa * cbb - cab * cab
        with np.errstate(all="ignore"):
            step_a, step_b = -(ga * cbb - gb * cab) / scale, -(gb * caa - ga * cab) / scale
        longest = np.maximum(np.abs(step_a), np.abs(step_b))
        short = np.where(np.isfinite(longest), np.minimum(1.0, 2.0 / np.maximum(longest, 1e-300)), 0.0)
        up, down = up + short * np.nan_to_num(step_a), down + short * np.nan_to_num(step_b)
        p = law(up, down)
    p = np.where(two[..., None], np.where(k == 0, 1.0 - d[..., None], np.where(k == 1, d[..., None], 0.0)), p)
    place = (way[..., None] * (e - centre[..., None])).astype(int) + k.size // 2
    known = (place >= 0) & (place < k.size)
    if boundary == "clamp":
        known = known & (e >= 0) & (e < n)
    w = np.where(known, np.take_along_axis(p, np.clip(place, 0, k.size - 1), axis=-1), 0.0)
    return w / w.sum(axis=-1, keepdims=True)


def kernel_weights(kernel: str, u: np.ndarray, s: np.ndarray, e: np.ndarray, n: int, boundary: str) -> np.ndarray:
    """Return weights (..., E) of the nodes e (E,) for means u and noises s (...), all in cells from node 0."""
    if kernel == "matched":
        # equal to the gaussian kernel from 1.5 cells on, to the linear one without noise
        plain = kernel_weights("gaussian", u, np.maximum(s, 1.0), e, n, boundary)
        w = np.where((s >= 1.5)[..., None], plain, kernel_weights("linear", u, np.zeros_like(s), e, n, boundary))
        some = (s > 0.0) & (s < 1.5) & np.isfinite(u)
        w[some] = _matched(u[some], s[some], e, n, boundary) if some.any() else 0.0
        return w
    u, s = u[..., None], s[..., None]
    t = e - u
    if kernel == "gaussian":
        # the normal density at the nodes within the tail, and on a clamped axis at its own nodes only; normalised
        z = t / s
        inside = np.abs(z) <= TAIL
        if boundary == "clamp":
            inside = inside & (e >= 0) & (e < n)
        w = np.where(inside, np.exp(-0.5 * z * z), 0.0)
        return w / w.sum(axis=-1, keepdims=True)
    if kernel == "linear":
        # the expectation of the hat of every node: (1 - |x - e|)^+, x = u + s xi
        near = np.round(u)
        hat = np.maximum(1.0 - np.abs(e - np.where(np.abs(u - near) < SNAP, near, u)), 0.0)
        safe = np.where(s > 0, s, 1.0)
        # E (x - e + 1)^+ - 2 E (x - e)^+ + E (x - e - 1)^+, mirrored so that every term is small where the weight is
        far = np.abs(t)
        parts = [safe * _upper_mean((far + shift) / safe) for shift in (-1.0, 0.0, 1.0)]
        smooth = np.maximum(parts[0] - 2.0 * parts[1] + parts[2], 0.0)
        # hats that meet the tail
        smooth = np.where(far < TAIL * s + 1.0, smooth, 0.0)
        w = np.where(s > 0, smooth, hat)
        return w / w.sum(axis=-1, keepdims=True)
    if kernel == "cubic":
        # four-point Lagrange interpolation of a mean without noise
        base = np.floor(u) - 1
        if boundary == "clamp":
            base = np.clip(base, 0, n - 4)
        w = np.zeros(np.broadcast_shapes(t.shape, e.shape))
        for q in range(4):
            value = np.ones_like(u)
            for other in range(4):
                if other != q:
                    value = value * (u - base - other) / (q - other)
            w = w + np.where(e == base + q, value, 0.0)
        return w
    raise NotImplementedError(f"the oracle has no kernel {kernel!r}")


def boundary_weights(kernel: str, u: np.ndarray, s: np.ndarray, e: np.ndarray, n: int, boundary: str) -> np.ndarray:
    """Return weights (..., E) of the nodes e for means u and noises s (...), as the model of the ends wants them.

    Without noise all that stop a mean are the same. project: the law of an endless axis, `_extended` puts it on the ends.
    truncate: that law given that it is on the axis, by the trapezoidal rule, which takes half of a node on an end.
    """
    if boundary not in ("project", "truncate"):
        return kernel_weights(kernel, u, s, e, n, "clamp" if boundary == "open" else boundary)
    still = 0.0 if kernel == "gaussian" else kernel_weights(kernel, np.clip(u, 0, n - 1), np.zeros_like(s), e, n, "clamp")
    if kernel == "cubic":
        return still
    noisy = kernel_weights(kernel, u, np.where(s > 0, s, 1.0), e, n, "endless")
    if boundary == "truncate":
        noisy = noisy * np.where((e < 0) | (e >= n), 0.0, np.where((e == 0) | (e == n - 1), 0.5, 1.0))
        noisy = noisy / noisy.sum(axis=-1, keepdims=True)
    return np.where((s > 0)[..., None], noisy, still)


# -- problems --------------------------------------------------------------------------------------------------------------


@dataclass
class Axis:
    """One state: its nodes, its law as code, and what stands beyond its ends.

    domain: the ends that the text declares; the nodes of an open axis go on beyond them.
    """

    name: str
    low: float
    spacing: float
    size: int
    boundary: str
    kernel: str
    mean: Any
    noise: Any
    follows: list[str]
    domain: tuple[float, float]

    @property
    def nodes(self) -> np.ndarray:
        return self.low + self.spacing * np.arange(self.size)


class DenseProblem:
    """A case text as dense tables. kernels: the name of each axis's kernel, where the text says `auto` or nothing."""

    def __init__(self, text: str, kernels: dict[str, str] | None = None) -> None:
        case = tomllib.loads(text)
        self.names: dict[str, Any] = {}
        for name, value in case.get("parameters", {}).items():
            self.names[name] = valued(compiled(value), self.names)
        self.step = self._number(case["time"]["step"]) if "time" in case else None
        chosen = case["grid"].get("kernel", "auto")
        chosen = dict.fromkeys(case["states"], chosen) if isinstance(chosen, str) else chosen
        axes = {}
        for name, table in case["states"].items():
            kernel = chosen.get(name, "auto")
            kernel = (kernels or {})[name] if kernel == "auto" else kernel
            axes[name] = self._axis(name, table, case["grid"]["points"][name], kernel)
        self.axes = axes
        self.order = self._sorted()
        self._widen()
        self.shape = tuple(axis.size for axis in axes.values())
        self.size = int(np.prod(self.shape))
        self.states = self._mesh()
        self.actions = list(case["actions"])
        tables = case["actions"].values()
        # of every action the values of its list, none where it lies between bounds
        self.lists = [[self._number(value) for value in table.get("values", [])] for table in tables]
        self.values = self.lists if all(self.lists) else []
        self.allowed = [compiled(table["allowed"]) for table in tables if "allowed" in table]
        self.ends = [
            compiled(end)
            for table in tables
            for end in (
                [min(table["values"]), max(table["values"])] if "values" in table else table.get("bounds", [-math.inf, math.inf])
            )
        ]
        self.bounds = self.bounds_at(np.stack(list(self.states.values()), axis=1))
        self.cost = compiled(case["cost"]["rate" if "rate" in case["cost"] else "stage"])
        self.policy = case.get("policy", {})
        criterion = case.get("criterion", {})
        self.discount = self._number(criterion["discount"]) if criterion.get("kind") == "discounted" else 1.0
        self.start, goal = case.get("start", {}), case.get("goal", {})
        self.total, self.restarts = criterion.get("kind") == "total", goal.get("then") == "restart"
        # cells of the goal, and what being there costs
        self.inside, self.final = np.zeros(self.size, bool), np.zeros(self.size)
        if goal:
            environment = self.names | self.states
            self.inside = np.array(np.broadcast_to(valued(compiled(goal["where"]), environment), self.size), bool)
            self.final = np.broadcast_to(valued(compiled(goal.get("cost", "0")), environment), self.size).astype(float)

    def bounds_at(self, states: np.ndarray) -> np.ndarray:
        """Return the bounds (K, m, 2) of the actions at states (K, d)."""
        names = self.names | dict(zip(self.axes, np.transpose(states), strict=True))
        ends = [np.broadcast_to(valued(end, names), len(states)) for end in self.ends]
        return np.stack(ends, axis=-1).astype(float).reshape(len(states), -1, 2)

    def _number(self, text: Any) -> float:
        return float(valued(compiled(text), self.names))

    def _axis(self, name: str, table: dict[str, Any], points: int, kernel: str) -> Axis:
        low, high = (self._number(end) for end in table["domain"])
        boundary = table.get("boundary", "clamp")
        cells = points if boundary == "periodic" else points - 1
        law = str(table["next"] if "next" in table else table["drift"])
        noise = table.get("noise", table.get("diffusion", 0.0))
        follows = re.findall(r"next\((\w+)\)", law)
        spacing, codes = (high - low) / cells, (compiled(law), compiled(noise))
        return Axis(name, low, spacing, points, boundary, kernel, *codes, follows, (low, high))

    def _sorted(self) -> list[str]:
        done: list[str] = []
        while len(done) < len(self.axes):
            done += [name for name, axis in self.axes.items() if name not in done and set(axis.follows) <= set(done)][:1]
        return done

    def _mesh(self) -> dict[str, np.ndarray]:
        mesh = np.meshgrid(*[axis.nodes for axis in self.axes.values()], indexing="ij")
        return {name: part.ravel() for name, part in zip(self.axes, mesh, strict=True)}

    def _sigma(self, axis: Axis, names: dict[str, Any]) -> Any:
        """The noise of one step."""
        sigma = valued(axis.noise, names)
        return sigma if self.step is None else sigma * math.sqrt(self.step)

    def _widen(self) -> None:
        """Let open axes go on for the tail of the widest noise on them and two nodes, until that holds with their new nodes."""
        was = {name: axis.size for name, axis in self.axes.items()}
        while True:
            names, sizes = {**self.names, **self._mesh()}, [axis.size for axis in self.axes.values()]
            widest = {name: float(np.max(self._sigma(axis, names))) for name, axis in self.axes.items()}
            for name, axis in self.axes.items():
                if axis.boundary == "open" and widest[name] > 0.0:
                    more = math.ceil(TAIL * widest[name] / axis.spacing) + 2
                    axis.low, axis.size = axis.domain[0] - more * axis.spacing, was[name] + 2 * more
            if sizes == [axis.size for axis in self.axes.values()]:
                return

    @cached_property
    def initial_law(self) -> np.ndarray:
        """What the text says of every state (`_start`); of others uniform over the declared domain, by the trapezoidal rule."""
        law = np.ones(1)
        for name, axis in self.axes.items():
            part = np.ones(axis.size)
            if name in self.start:
                part = self._start(axis, self.start[name])
            elif axis.boundary != "periodic":
                inner = [round((end - axis.low) / axis.spacing) for end in axis.domain]
                part[: inner[0]] = part[inner[1] + 1 :] = 0.0
                part[inner] = 0.5
            law = np.multiply.outer(law, part)
        return law.ravel() / law.sum()

    def _start(self, axis: Axis, given: Any) -> np.ndarray:
        """The means of the hats of all nodes under a start law, (nodes,): integrals of degree 100 on every cell that it meets.

        A point, a uniform law on [low, high], or a normal one between the ends of the axis and within the tail.
        """
        low, high, density = 0.0, 0.0, np.ones_like
        if isinstance(given, dict):
            mean, std = self._number(given["mean"]), self._number(given["std"])
            low, high = mean - TAIL * std, mean + TAIL * std
            if axis.boundary != "periodic":
                low, high = max(low, axis.domain[0]), min(high, axis.domain[1])
            density = lambda x: np.exp(-0.5 * ((x - mean) / std) ** 2)  # noqa: E731
        else:
            low, high = (self._number(end) for end in (given if isinstance(given, list) else (given, given)))
        part, (place, weight) = np.zeros(axis.size), np.polynomial.legendre.leggauss(50)
        for k in range(math.floor((low - axis.low) / axis.spacing) - 1, math.ceil((high - axis.low) / axis.spacing) + 1):
            left, right = axis.low + k * axis.spacing, axis.low + (k + 1) * axis.spacing
            bottom, top = max(left, low), min(right, high)
            if low == high:
                x, mass = np.array([low]), np.array([float(left <= low < right)])
            elif top > bottom:
                x = 0.5 * (bottom + top) + 0.5 * (top - bottom) * place
                mass = 0.5 * (top - bottom) * weight * density(x)
            else:
                continue
            share = (x - left) / axis.spacing
            ends = ((k, 1.0 - share), (k + 1, share))
            for node, hat in ends:
                number = node % axis.size if axis.boundary == "periodic" else min(max(node, 0), axis.size - 1)
                part[number] += float(mass @ hat)
        return part

    def ended(self, rows: np.ndarray, cost: np.ndarray) -> None:
        """Put what follows a visit of the goal, and what that costs, into rows (size, ..., size) and costs (size, ...)."""
        rows[self.inside] = self.initial_law if self.restarts else 0.0
        cost[self.inside] = self.final[self.inside].reshape(-1, *(1,) * (cost.ndim - 1))

    def steps(self, matrix: np.ndarray) -> float:
        """Return the expected number of steps to the goal from the start law, infinite for an improper policy."""
        if max(abs(np.linalg.eigvals(matrix))) >= 1.0 - 1e-12:
            return math.inf
        return float(self.initial_law @ np.linalg.solve(np.eye(self.size) - matrix, (~self.inside).astype(float)))

    def _environment(self, cells: np.ndarray, actions: np.ndarray) -> dict[str, Any]:
        names = {**self.names, **{name: values[cells] for name, values in self.states.items()}}
        return names | {name: actions[:, a] + 0.0 for a, name in enumerate(self.actions)}  # zero has one sign

    def costs(self, cells: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Return the stage costs (K,) of cells (K,) at actions (K, m)."""
        return np.array(np.broadcast_to(valued(self.cost, self._environment(cells, actions)), cells.shape), dtype=float)

    def permitted(self, cells: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Tell whether the values that actions (K, m) take are allowed in cells (K,)."""
        names = self._environment(cells, actions)
        return np.all([np.broadcast_to(valued(code, names), cells.shape) for code in self.allowed] or [cells >= 0], axis=0)

    def means(self, cells: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Return the means of the next state (K, d) where what follows realised values sees zeros."""
        names = self._environment(cells, actions) | {f"next_{name}": 0.0 for name in self.axes}
        result = np.empty((len(cells), len(self.axes)))
        for k, (name, axis) in enumerate(self.axes.items()):
            mean = valued(axis.mean, names)
            mean = mean if self.step is None else names[name] + self.step * mean
            result[:, k] = np.clip(mean, *axis.domain) if axis.boundary == "open" else mean
        return result

    def jumps(self, cells: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Tell where cost or law (K,) change by much when an action (K, m), or a state, changes by rounding: a jump, or beyond
        all digits."""
        if len(cells) == 0:
            return np.zeros(0, bool)
        spacing = np.array([axis.spacing for axis in self.axes.values()])
        cost, mean = self.costs(cells, actions), self.means(cells, actions)
        size = np.abs(cost) + np.nanmedian(np.abs(cost))
        found = np.zeros(len(cells), bool)

        def look(near: np.ndarray) -> None:
            with np.errstate(all="ignore"):
                found[:] |= np.abs(self.costs(cells, near) - cost) > 1e-8 * size
                found[:] |= (np.abs(self.means(cells, near) - mean) > 1e-8 * spacing).any(axis=1)

        states = self.states
        for name, axis in self.axes.items():
            for shift in (-1e-13, -1e-15, 1e-15, 1e-13):
                self.states = states | {name: states[name] + shift * (axis.spacing + np.abs(states[name]))}
                look(actions)
        self.states = states
        for a in range(actions.shape[1]):
            shifts = [shift * (1.0 + np.abs(actions[:, a])) for shift in (-1e-13, -1e-15, 1e-15, 1e-13)]
            # a value alone (a == k) is met by whole units in the last place, of the action or of a sum of a size near one
            units = (np.spacing(np.abs(actions[:, a])), 0.5 * np.finfo(float).eps, 0.125 * np.finfo(float).eps)
            for shift in [*shifts, *(k * unit for unit in units for k in (-4, -3, -2, -1, 1, 2, 3, 4))]:
                near = actions.copy()
                near[:, a] += shift
                look(near)
        return found

    def rows(self, cells: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Return the rows of P (K, size) of cells (K,) at actions (K, m); nan where a mean is not finite."""
        return np.concatenate([
            self._rows(cells[k : k + _ROWS], actions[k : k + _ROWS]) for k in range(0, max(len(cells), 1), _ROWS)
        ])  # fmt: skip

    def _rows(self, cells: np.ndarray, actions: np.ndarray) -> np.ndarray:
        names = self._environment(cells, actions)
        count = len(cells)
        joint = np.ones((count, *(1,) * len(self.axes)))
        folds: dict[int, tuple[np.ndarray, int]] = {}
        followed = {other for axis in self.axes.values() for other in axis.follows}
        place = {name: k for k, name in enumerate(self.axes)}

        def lifted(value: Any) -> np.ndarray:
            """Arrays (K,) to (K, 1, ...); realised values have all axes already."""
            value = np.asarray(value, dtype=float)
            return value.reshape(-1, *(1,) * len(self.axes)) if value.ndim <= 1 else value

        wide = {name: lifted(value) if np.ndim(value) else value for name, value in names.items()}
        for name in self.order:
            axis, k = self.axes[name], place[name]
            mean = lifted(valued(axis.mean, wide))
            if self.step is not None:
                mean = wide[name] + self.step * mean
            sigma = lifted(self._sigma(axis, wide)) / axis.spacing
            n, length = axis.size, axis.size * axis.spacing
            tail = math.ceil(TAIL * float(np.nanmax(sigma, initial=0.0))) + 3
            if axis.boundary == "open":
                mean = np.clip(mean, *axis.domain)
            u = mean - axis.low
            winding = np.zeros(1)
            if axis.boundary == "periodic":
                winding = np.floor(u / length) * length
                u = np.mod(u, length)
            elif axis.boundary == "reflect":
                u = np.mod(u, 2 * (n - 1) * axis.spacing)
            else:
                # the noise of a mean far beyond an end of `project` does not come back
                beyond = np.where(sigma > 0, tail * axis.spacing, 0.0) if axis.boundary == "project" else 0.0
                u = np.clip(u, -beyond, (n - 1) * axis.spacing + beyond)
            u = u / axis.spacing
            # a reflected mean lies in two lengths, a projected one beyond the ends
            reach = tail + {"reflect": n, "project": tail}.get(axis.boundary, 0)
            e, node = _extended(n, reach, axis.boundary)
            u, sigma = np.broadcast_arrays(u, sigma)
            with np.errstate(all="ignore"):
                at = np.take(u, 0, axis=k + 1), np.take(sigma, 0, axis=k + 1)
                w = np.moveaxis(boundary_weights(axis.kernel, *at, e, n, axis.boundary), -1, k + 1)
            matrix = (node[:, None] == np.arange(n)).astype(float)
            unfolded = name in followed and axis.boundary == "periodic"
            position = axis.low + axis.spacing * (e if unfolded else np.arange(n))
            shape = [1] * (len(self.axes) + 1)
            shape[k + 1] = position.size
            if unfolded:
                folds[k + 1] = matrix, n
            else:
                w = np.moveaxis(np.tensordot(w, matrix, axes=(k + 1, 0)), -1, k + 1)
            wide[f"next_{name}"] = position.reshape(shape) + (winding if unfolded else 0.0)
            joint = joint * w
        for axis_number, (matrix, _) in folds.items():
            joint = np.moveaxis(np.tensordot(joint, matrix, axes=(axis_number, 0)), -1, axis_number)
        joint = np.broadcast_to(joint, (count, *self.shape)).reshape(count, self.size)
        return joint

    # -- policies ----------------------------------------------------------------------------------------------------

    def chain(self, actions: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return P (size, size) and the stage cost (size,) of particles, actions (size, N, m) and weights (size, N)."""
        cells, particles, m = actions.shape
        numbers = np.repeat(np.arange(cells), particles)
        flat = actions.reshape(-1, m)
        rows = self.rows(numbers, flat).reshape(cells, particles, self.size)
        cost = self.costs(numbers, flat).reshape(cells, particles)
        self.ended(rows, cost)
        return np.einsum("ki,kil->kl", weights, rows), np.einsum("ki,ki->k", weights, cost)

    def value(self, matrix: np.ndarray, cost: np.ndarray) -> tuple[float, np.ndarray]:
        """Return J and V of a chain; with several recurrent classes J is that of the cheapest. Improper: J is infinite."""
        if self.total:
            if not math.isfinite(self.steps(matrix)):
                return math.inf, np.zeros(self.size)
            value = np.linalg.solve(np.eye(self.size) - matrix, cost)
            return float(self.initial_law @ value), value
        if self.discount < 1.0:
            value = np.linalg.solve(np.eye(self.size) - self.discount * matrix, cost)
            return (1.0 - self.discount) * float(self.initial_law @ value), value
        if matrix.min() < 0.0:
            law = np.linalg.lstsq(
                np.vstack([matrix.T - np.eye(self.size), np.ones(self.size)]), np.eye(self.size + 1)[-1], rcond=None
            )[0]
            return float(law @ cost), np.zeros(self.size)
        gain, law = min(((float(law @ cost), law) for law in stationary_laws(matrix)), key=lambda pair: pair[0])
        value = np.linalg.lstsq(np.eye(self.size) - matrix + np.outer(np.ones(self.size), law), cost - gain, rcond=None)[0]
        return gain, value

    def optimum(
        self, actions: np.ndarray, weights: np.ndarray, excused: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
        each: int | None = None, steps: int = 25,
    ) -> float:  # fmt: skip
        """Return an upper bound of the optimal J: policy iteration over a fine grid of actions, from a given policy.

        The policy's own particles stand among the actions of every cell, unmixed. excused: tells which actions (K, m) of cells
        (K,) are left out.
        """
        candidates = self.candidates(actions, each)
        cells, count, m = candidates.shape
        numbers = np.repeat(np.arange(cells), count)
        flat = candidates.reshape(-1, m)
        rows, cost = self.rows(numbers, flat).reshape(cells, count, -1), self.costs(numbers, flat).reshape(cells, count)
        usable = np.isfinite(cost) & np.isfinite(rows).all(axis=2)
        if excused is not None:
            usable &= ~excused(numbers, flat).reshape(cells, count)
        rows, cost = np.where(usable[:, :, None], rows, 0.0), np.where(usable, cost, np.inf)
        self.ended(rows, cost)
        least, (_, value) = np.inf, self.value(*self.chain(actions, weights))
        chosen = np.full(cells, -1)
        for _ in range(steps):
            q = cost + self.discount * (rows @ value)
            best = q.argmin(axis=1)
            if chosen[0] >= 0:
                # stay where nothing is gained beyond rounding: no cycles among equals
                kept = q[np.arange(cells), chosen]
                best = np.where(q.min(axis=1) < kept - 1e-13 * (np.abs(kept) + np.abs(value).max()), best, chosen)
            if np.array_equal(best, chosen):
                break
            chosen = best
            gain, value = self.value(rows[np.arange(cells), chosen], cost[np.arange(cells), chosen])
            least = min(least, gain)
            if not math.isfinite(gain):
                break
        return least

    def candidates(self, actions: np.ndarray, each: int | None = None) -> np.ndarray:
        """Return actions (size, A, m) that fill the box, ends and near them included; unbounded ones about the particles.

        Where all actions take values of lists, all combinations of these and nothing else.
        """
        if self.values:
            every = np.stack(np.meshgrid(*self.values, indexing="ij"), axis=-1).reshape(-1, len(self.values))
            return np.tile(every, (self.size, 1, 1))
        m = actions.shape[2]
        each = each or {1: 301, 2: 17}.get(sum(not values for values in self.lists), 7)
        sides = []
        for a in range(m):
            if self.lists[a]:
                sides.append(np.tile(self.lists[a], (self.size, 1)))
                continue
            low, high = self.bounds[:, a].T
            span = float(np.ptp(actions[:, :, a])) + 1e-3 + float(np.abs(actions[:, :, a]).max())
            low = np.where(np.isfinite(low) & (low > -1e9), low, float(actions[:, :, a].min()) - 2.0 * span)[:, None]
            high = np.where(np.isfinite(high) & (high < 1e9), high, float(actions[:, :, a].max()) + 2.0 * span)[:, None]
            near = (high - low) * np.array([1e-9, 1e-6, 1e-3])
            inner = low + (high - low) * np.linspace(0.0, 1.0, each)[1:-1]
            sides.append(np.clip(np.concatenate([low, inner, high, low + near, high - near], axis=1), low, high))
        places = np.meshgrid(*[np.arange(side.shape[1]) for side in sides], indexing="ij")
        mesh = np.stack([side[:, place.ravel()] for side, place in zip(sides, places, strict=True)], axis=-1)
        return np.concatenate([mesh, actions], axis=1)

    # -- entropy -----------------------------------------------------------------------------------------------------

    def reference_law(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the actions (size, N, m) on which the text prices entropy, and the reference law there, (size, N).

        Lists: their combinations. Otherwise equal distances from end to end, with the shares of the trapezoidal rule.
        """
        reference = self.policy.get("reference", "uniform")
        if self.values:
            actions = self.candidates(np.zeros((self.size, 1, len(self.values))))
            law = np.ones(actions.shape[:2], np.longdouble)
        else:
            initial, ends = self.policy.get("initial", {}), []
            for k, key in enumerate(("low", "high")):
                given, end = initial.get(key, {}), self.bounds[:, :, k].copy()
                for a, name in enumerate(self.actions):
                    if name in given:
                        end[:, a] = valued(compiled(given[name]), self.names | self.states)
                ends.append(end)
            low, high = ends
            m = low.shape[1]
            side = round(self.policy["particles"] ** (1.0 / m))
            place = np.stack(np.meshgrid(*[np.arange(side) / (side - 1)] * m, indexing="ij"), axis=-1).reshape(-1, m)
            actions = low[:, None] + (high - low)[:, None] * place
            law = np.where((place == 0.0) | (place == 1.0), 0.5, 1.0).prod(axis=1) / np.longdouble(side - 1) ** m
            law = law * ((high - low).prod(axis=1)[:, None] if reference == "lebesgue" else np.ones((self.size, 1)))
            law = law.astype(np.longdouble)
        if isinstance(reference, list):
            law = np.broadcast_to(np.array(reference, np.longdouble), law.shape)
        return actions, law if reference == "lebesgue" else law / law.sum(axis=1, keepdims=True)

    def divergence(self, weights: np.ndarray, law: np.ndarray) -> np.ndarray:
        """Return sum_i w_i log(w_i / rho_i), (size,), in extended precision, of weights divided by their sum.

        As sum_i (w_i log(w_i/rho_i) - w_i + rho_i), since both sums are one: a price of 1e11 times the cost shows rounding.
        """
        w, mass = weights.astype(np.longdouble), law.sum(axis=1, keepdims=True)
        w, rho = w / w.sum(axis=1, keepdims=True), law / mass
        less = (w - rho) / rho
        near, safe = np.abs(less) < 0.5, np.where(w > 0, w / rho, 1)
        close = (1 + less) * np.log1p(np.where(near, less, 0)) - less
        terms = np.where(near, close, np.where(w > 0, safe * np.log(safe) - safe, 0) + 1)
        return np.where(self.inside, 0, (rho * terms).sum(axis=1) - np.log(mass[:, 0]))

    def soft_optimum(
        self, price: float, actions: np.ndarray, law: np.ndarray, value: np.ndarray, steps: int = 3000
    ) -> tuple[float, float]:
        """Return an interval that holds the least cost with entropy, by value iteration in extended precision from a value.

        min (TV - V) <= J* <= max (TV - V) for the soft Bellman operator T, (1 - g) rho V added where costs are discounted.
        """
        cells, count, m = actions.shape
        numbers, flat = np.repeat(np.arange(cells), count), actions.reshape(-1, m)
        rows = self.rows(numbers, flat).reshape(cells, count, -1).astype(np.longdouble)
        rows = rows / rows.sum(axis=2, keepdims=True)
        cost, eps = self.costs(numbers, flat).reshape(cells, count).astype(np.longdouble), np.longdouble(price)
        self.ended(rows, cost)
        value, g = value.astype(np.longdouble), np.longdouble(self.discount)
        mass = law.sum(axis=1)
        mass = np.where(np.abs(mass - 1) < 1e-15, np.longdouble(1), mass)
        low, high = -np.inf, np.inf
        for _ in range(steps):
            q = cost + g * (rows @ value)
            # eps may be far larger than all costs: the mean of Q under the law comes first, and what is left is small
            mean = (law * q).sum(axis=1) / mass
            power = (mean[:, None] - q) / eps
            near = np.abs(power).max(axis=1) < 1.0
            small = np.log1p((law * np.expm1(np.where(near[:, None], power, 0))).sum(axis=1) / mass)
            least = q.min(axis=1)
            large = (mean - least) / eps + np.log((law * np.exp((least[:, None] - q) / eps)).sum(axis=1) / mass)
            image = np.where(self.inside, q[:, 0], mean - eps * np.where(near, small, large) - eps * np.log(mass))
            drift = image - value
            if self.total:
                # V is at most this many steps of the largest drift away, for the policy that is best for V at least
                value, size = image, np.abs(drift).max()
                if size <= 1e-14 * np.abs(cost).max():
                    weights = law * np.exp(np.where(self.inside[:, None], 0, (q.min(axis=1, keepdims=True) - q) / eps))
                    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(float)
                    away = 2.0 * float(size) * self.steps(np.einsum("ki,kil->kl", weights, rows.astype(float)))
                    anchor = float(self.initial_law @ value)
                    return anchor - away, anchor + away
                continue
            anchor = 0.0 if g == 1.0 else (1 - g) * (self.initial_law @ value)
            low, high = max(low, anchor + drift.min()), min(high, anchor + drift.max())
            if high - low <= 1e-13 * np.abs(cost).max():
                break
            # half of a step, lest a chain with a period goes in circles
            value = value + 0.5 * (drift - drift.mean()) if g == 1.0 else image
        return float(low), float(high)


def classes(matrix: np.ndarray) -> list[np.ndarray]:
    """Return the cells of every recurrent class."""
    edges = matrix > EDGE
    count, label = connected_components(edges, directed=True, connection="strong")
    closed = [not (edges[label == k][:, label != k]).any() for k in range(count)]
    return [np.flatnonzero(label == k) for k in range(count) if closed[k]]


def stationary_laws(matrix: np.ndarray) -> list[np.ndarray]:
    """Return the stationary law of every recurrent class, (cells,) each."""
    laws = []
    for members in classes(matrix):
        law = np.zeros(len(matrix))
        law[members] = stationary(matrix[np.ix_(members, members)])
        laws.append(law)
    return laws


def stationary(matrix: np.ndarray) -> np.ndarray:
    """Return the stationary law of an irreducible chain by the algorithm of Grassmann, Taksar and Heyman (1985).

    States are censored one after the other; no subtraction, so that every entry is right to a relative rounding error.
    """
    p = np.array(matrix, dtype=float)
    n = len(p)
    for k in range(n - 1, 0, -1):
        leaves = p[k, :k].sum()
        if leaves <= 0.0:
            raise ZeroDivisionError("not irreducible in this order")
        p[:k, k] /= leaves
        p[:k, :k] += np.outer(p[:k, k], p[k, :k])
    law = np.zeros(n)
    law[0] = 1.0
    for k in range(1, n):
        law[k] = law[:k] @ p[:k, k]
    return law / law.sum()
