"""A control problem whose mean and cost are Python functions of arrays, with derivatives given, by JAX or by differences.

What expressions show by their form (what depends on what, ranges over boxes of actions) functions do not: every axis counts as
depending on everything, and nothing can be proven of their minima.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

from wassgrid.problem.boundary import BOUNDARIES
from wassgrid.problem.control_problem import ActionRanges, ActionTables, Array, CellTables, ControlProblem
from wassgrid.problem.dependence import Dependence
from wassgrid.problem.model import ProblemError

Function = Callable[..., Any]
Limits = Callable[[Array], tuple[Array, Array]]  # of states (R, d): lowest and highest actions, (R, m) each
Derivatives = str | tuple[Function, Function]  # "differences", "jax", or the functions themselves

DIFFERENCES, JAX = "differences", "jax"
_FIXED = 1e-14  # half width of bounds, relative to them, of an action that cannot be chosen
_STEP = 2.5e-3  # of differences, in half widths of the action's bounds: eps^(1/6)
_NODES = np.arange(-2.0, 3.0)
# L_k(t) = sum_p COEFFICIENTS[p, k] t^p is 1 at node k and 0 at the other nodes
_COEFFICIENTS = np.linalg.inv(np.vander(_NODES, increasing=True))
_ROUNDINGS = 2.0  # of a value: derivatives below are none
_PROBES = 7  # rows on which functions are tried before anything is solved
_SAME = 1e-9  # relative: a row alone and the same among others
_DERIVATIVE = 1e-4  # relative: derivatives that are given, beside differences
_LEAST_ROWS = 1024  # of a call that JAX compiles


@dataclass(frozen=True, eq=False)
class Functions:
    """The functions of a problem with d states and m actions, on R rows of arrays.

    next_mean(states (R, d), actions (R, m)) -> (R, d); cost -> (R,); noise(states) -> (R, d), or numbers (d,);
    derivatives: "jax", "differences" (None: by what the functions return), or a pair (of next_mean, of cost) of functions of the
    same arguments, which give the gradient and the Hessian in the action: (R, d, m) and (R, d, m, m), (R, m) and (R, m, m).
    """

    next_mean: Function
    noise: Function | Array
    cost: Function
    derivatives: Derivatives | None = None

    def means_and_costs(self, states: Array, actions: Array) -> Array:
        """Return mean and cost of rows, (R, d + 1).  Raises ProblemError for another shape, or where a function fails."""
        if self.derivatives == JAX:
            return self._jax.at(0, states, actions)
        rows, d = states.shape
        mean = called("next_mean", self.next_mean, (rows, d), states, actions)
        return np.concatenate([mean, called("cost", self.cost, (rows,), states, actions)[:, None]], axis=1)

    def called_plainly(self, states: Array, actions: Array) -> Array:
        """Return the same from calls on all rows at once, whatever the derivatives."""
        if self.derivatives != JAX:
            return self.means_and_costs(states, actions)
        with self._jax.double(True):
            return replace(self, derivatives=DIFFERENCES).means_and_costs(states, actions)

    def noises(self, states: Array) -> Array:
        """Return the standard deviations, (R, d)."""
        if not callable(self.noise):
            return np.broadcast_to(self.noise, states.shape)
        if self.derivatives != JAX:
            return called("noise", self.noise, states.shape, states)
        with self._jax.double(True):
            return called("noise", self.noise, states.shape, states)

    def differentiated(self, states: Array, actions: Array, limits: Limits, scale: float = 1.0) -> tuple[Array, Array, Array]:
        """Return mean and cost (R, d + 1), their gradients (R, d + 1, m) and Hessians (R, d + 1, m, m) in the action.

        limits: of states (R, d), lowest and highest actions, (R, m) each; scale: of the step of differences.
        """
        if self.derivatives == JAX:
            return tuple(self._jax.at(order, states, actions) for order in range(3))  # type: ignore[return-value]
        if self.derivatives == DIFFERENCES:
            return self.differences(states, actions, limits, scale)
        assert isinstance(self.derivatives, tuple)
        of_mean, of_cost = self.derivatives
        (rows, d), m = states.shape, actions.shape[1]
        shapes = ((rows, d, m), (rows, d, m, m)), ((rows, m), (rows, m, m))
        parts = [
            called_pair(name, function, shape, states, actions)
            for name, function, shape in zip(("next_mean", "cost"), (of_mean, of_cost), shapes, strict=True)
        ]
        gradient, hessian = (np.concatenate([parts[0][k], parts[1][k][:, None]], axis=1) for k in range(2))
        return self.means_and_costs(states, actions), gradient, hessian

    def differences(self, states: Array, actions: Array, limits: Limits, scale: float = 1.0) -> tuple[Array, Array, Array]:
        """Differentiate the quartic through five places on every axis, those of a pair of axes for mixed derivatives.

        The places lie within the bounds: at an end the point is not in their middle. Order h^4, h^3 for second derivatives there.
        What cannot be told from rounding of the values is zero, and so is a derivative along an action between equal bounds.
        """
        low, high = limits(states)
        half = np.where(np.isfinite(high - low), 0.5 * (high - low), 1.0 + np.abs(actions))
        # between bounds that are one no difference tells more than rounding
        fixed = np.isfinite(high - low) & (half <= _FIXED * (np.abs(low) + np.abs(high)))
        h = np.where(fixed, 1.0, scale * _STEP * half)
        middle = np.where(fixed, actions, np.clip(actions, low + 2.0 * h, high - 2.0 * h))
        t = (actions - middle) / h
        powers = t[:, :, None] ** np.arange(5)
        rates = np.arange(1.0, 5.0)
        # (R, m, 5): weights of the five places in the first and the second derivative
        first = np.einsum("rap,p,pk->rak", powers[..., :4], rates, _COEFFICIENTS[1:]) / h[:, :, None]
        second = np.einsum("rap,p,pk->rak", powers[..., :3], rates[1:] * rates[:-1], _COEFFICIENTS[2:]) / h[:, :, None] ** 2
        first, second = (np.where(fixed[:, :, None], 0.0, weights) for weights in (first, second))
        reach = np.where(fixed, 0.0, h)
        value = self.means_and_costs(states, actions)
        (rows, count), m = value.shape, actions.shape[1]
        gradient, hessian, size = np.zeros((rows, count, m)), np.zeros((rows, count, m, m)), np.abs(value)
        for a in range(m):
            for k, node in enumerate(_NODES):
                moved = actions.copy()
                moved[:, a] = middle[:, a] + node * reach[:, a]
                there = self.means_and_costs(states, moved)
                size = np.fmax(size, np.abs(there))
                gradient[:, :, a] += first[:, a, k, None] * there
                hessian[:, :, a, a] += second[:, a, k, None] * there
                for b in range(a):
                    for l, other in enumerate(_NODES):
                        weight = first[:, a, k] * first[:, b, l]
                        if not weight.any():
                            continue
                        moved[:, b] = middle[:, b] + other * reach[:, b]
                        hessian[:, :, a, b] += weight[:, None] * self.means_and_costs(states, moved)
                    moved[:, b] = actions[:, b]
        # sum_k |weight_k| |F_k| eps
        shares, bends = np.abs(first).sum(axis=2), np.abs(second).sum(axis=2)
        for a in range(m):
            gradient[:, :, a] = _told(gradient[:, :, a], size * shares[:, a, None])
            for b in range(a + 1):
                weight = bends[:, a] if a == b else shares[:, a] * shares[:, b]
                hessian[:, :, a, b] = hessian[:, :, b, a] = _told(hessian[:, :, a, b], size * weight[:, None])
        return value, gradient, hessian

    @cached_property
    def _jax(self) -> _Traced:
        return _Traced(self)


def _told(values: Array, size: Array) -> Array:
    """Return values with zeros where they are the rounding of sums of a size."""
    return np.where(np.abs(values) <= _ROUNDINGS * np.finfo(float).eps * size, 0.0, values)


class _Traced:
    """Mean and cost with derivatives by JAX, in double precision, compiled for a few numbers of rows."""

    def __init__(self, functions: Functions) -> None:
        import jax
        import jax.numpy as jnp

        def row(state: Any, action: Any) -> Any:
            mean = jnp.reshape(functions.next_mean(state[None], action[None]), (-1,))
            return jnp.concatenate([mean, jnp.reshape(functions.cost(state[None], action[None]), (1,))])

        orders = [row, jax.jacfwd(row, 1), jax.jacfwd(jax.jacfwd(row, 1), 1)]
        self._compiled = [jax.jit(jax.vmap(function)) for function in orders]
        self.double = jax.enable_x64

    def at(self, order: int, states: Array, actions: Array) -> Array:
        """Return derivatives of an order at rows, as many as were given: they are filled up to a power of two."""
        rows = len(states)
        padded = max(_LEAST_ROWS, 1 << (rows - 1).bit_length())
        filled = [np.concatenate([a, np.broadcast_to(a[:1], (padded - rows, a.shape[1]))]) for a in (states, actions)]
        try:
            with self.double(True):
                return np.array(self._compiled[order](*filled), dtype=float)[:rows]
        except Exception as error:
            raise ProblemError(f"next_mean, cost: JAX cannot follow them: {_words(error)}") from error


def called(name: str, function: Function, shape: tuple[int, ...], *arguments: Array) -> Array:
    """Call a user's function on arrays that it cannot change, and return its values.  Raises ProblemError.

    A column of a single state may be given without its last axis.
    """
    return _checked(name, run(name, function, arguments), shape, arguments)


def called_pair(
    name: str, function: Function, shapes: tuple[tuple[int, ...], tuple[int, ...]], *arguments: Array
) -> tuple[Array, Array]:
    """Call a function that gives gradient and Hessian.  Raises ProblemError."""
    found = run(f"derivatives of {name}", function, arguments)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise ProblemError(f"derivatives of {name}: expected a pair (gradient, Hessian), got {type(found).__name__}")
    names = "gradient", "Hessian"
    first, second = (
        _checked(f"derivatives of {name}, {part}", values, shape, arguments)
        for part, values, shape in zip(names, found, shapes, strict=True)
    )
    return first, second


def run(name: str, function: Function, arguments: tuple[Array, ...]) -> Any:
    """Call a user's function on arrays that it cannot change.  Raises ProblemError where it fails."""
    protected = []
    for argument in arguments:
        view = argument.view()
        view.flags.writeable = False
        protected.append(view)
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return function(*protected)
    except Exception as error:
        raise ProblemError(f"{name}: {_words(error)}; it was called with {_shapes(arguments)}") from error


def _checked(name: str, values: Any, shape: tuple[int, ...], arguments: tuple[Array, ...]) -> Array:
    try:
        result = np.asarray(values)
        if result.dtype.kind not in "biuf":
            raise TypeError(f"values of type {result.dtype}")
        result = result.astype(float)
    except (TypeError, ValueError) as error:
        raise ProblemError(f"{name}: expected real numbers: {_words(error)}") from None
    if result.shape != shape and not (result.ndim == len(shape) - 1 and (*result.shape, 1) == shape):
        hint = ""
        if result.shape == shape[::-1] and len(shape) == 2:
            hint = ": a row for every state, np.stack([...], axis=-1)"
        elif result.size == 1 or result.shape == shape[1:]:
            hint = ": it must take many rows at once, states[:, 0] and not states[0]"
        raise ProblemError(f"{name}: expected an array of shape {shape} for {_shapes(arguments)}, got {result.shape}{hint}")
    return result.reshape(shape)


def _shapes(arguments: tuple[Array, ...]) -> str:
    return ", ".join(f"{word} {array.shape}" for word, array in zip(("states", "actions"), arguments, strict=False))


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


@dataclass(frozen=True, eq=False)
class FunctionProblem(ControlProblem):
    """A control problem x' = next_mean(s, a) + noise(s) xi with the cost of every step, all Python functions.

    Names, domain, boundary and bounds are those of the model, whose own expressions mean nothing.
    """

    functions: Functions

    @classmethod
    def of(cls, problem: ControlProblem, functions: Functions) -> FunctionProblem:
        """Return the problem with functions in place of expressions.  Raises ProblemError for functions that cannot be used."""
        found = cls(**{name: getattr(problem, name) for name in ControlProblem.__dataclass_fields__}, functions=functions)
        if functions.derivatives is None:
            values = (run(name, f, found._probes) for name, f in (("next_mean", functions.next_mean), ("cost", functions.cost)))
            traced = any(type(value).__module__.partition(".")[0].startswith("jax") for value in values)
            found = replace(found, functions=replace(functions, derivatives=JAX if traced else DIFFERENCES))
        found._try_functions()
        return found

    # -- what their form would show --------------------------------------------------------------------------------

    @cached_property
    def coupled(self) -> Any:
        return np.zeros((self.state_dimension, self.state_dimension), dtype=bool)

    @cached_property
    def constant_noise(self) -> bool:
        return not callable(self.functions.noise)

    def constant_coupling(self, j: int, i: int) -> float | None:
        return 0.0

    def repeats(self, j: int) -> bool:
        return False

    @cached_property
    def dependence(self) -> Dependence:
        """Everything counts as depending on everything."""
        d = self.state_dimension
        return Dependence(np.ones((d, d), dtype=bool), np.ones(d, dtype=bool), self.coupled)

    @cached_property
    def jumps(self) -> tuple[str, ...]:
        """None are known: functions show nothing of their form."""
        return ()

    @cached_property
    def kinks(self) -> tuple[str, ...]:
        """None are known, as with `jumps`."""
        return ()

    @cached_property
    def no_bounds(self) -> str:
        kind = self.functions.derivatives
        error = f"to about {self.derivative_error:.0e} where tried" if kind == DIFFERENCES else ""
        words = {JAX: "derivatives by JAX", DIFFERENCES: f"derivatives by differences, {error}"}
        how = words[kind] if isinstance(kind, str) else "derivatives as given"
        return f"the problem is given as Python functions, of which no bounds are known; {how}"

    # -- tables ----------------------------------------------------------------------------------------------------

    def cell_tables(self, states: Array) -> CellTables:
        states = np.ascontiguousarray(states, dtype=float)
        noise = np.array(self.functions.noises(states))
        columns = list(states.T)
        for j, name in enumerate(self.state_names):
            self._require_finite(f"noise of {name}", noise[:, j], columns)
            if np.any(noise[:, j] < 0.0):
                raise ProblemError(f"the noise of {name} is negative at {self._first(noise[:, j] < 0.0, columns)}")
        return CellTables(noise, np.zeros((*states.shape, states.shape[1])))

    def action_tables(self, states: Array, actions: Array, order: int, strict: bool = True) -> ActionTables:
        states, actions = np.asarray(states, dtype=float), np.asarray(actions, dtype=float) + 0.0
        (cells, particles, m), d = actions.shape, self.state_dimension
        rows = np.repeat(states + 0.0, particles, axis=0), actions.reshape(-1, m)
        if not len(rows[0]):
            parts = [np.zeros((0, d + 1, *(m,) * k)) for k in range(order + 1)]
        elif order == 0:
            parts = [self.functions.means_and_costs(*rows)]
        else:
            parts = list(self._differentiated(*rows))[: order + 1]
        for j, kind in enumerate(self.boundary):
            if BOUNDARIES[kind].widens:  # the mean is brought within the domain
                low, high = self.domain[j]
                beyond = (parts[0][:, j] < low) | (parts[0][:, j] > high)
                parts[0][:, j] = np.where(np.isnan(parts[0][:, j]), np.nan, np.clip(parts[0][:, j], low, high))
                for part in parts[1:]:
                    part[beyond, j] = 0.0
        value = parts[0].reshape(cells, particles, d + 1)
        finite = np.isfinite(value)
        if not finite.all():
            if strict:
                columns = [states[:, k, None] for k in range(d)], [actions[:, :, a] for a in range(m)]
                for j in [*range(d), d]:
                    self._require_finite(self._quantity(j), value[:, :, j], *columns)
            undefined = ~finite.all(axis=2)
            value[undefined] = [*np.where(np.isfinite(self.domain[:, 0]), self.domain[:, 0], 0.0), np.inf]
        differentiable = np.ones((cells, particles), dtype=bool)
        tables: list[Any] = [np.ascontiguousarray(value[:, :, :d]), np.ascontiguousarray(value[:, :, d])]
        for k, part in enumerate(parts[1:], 1):
            defined = np.isfinite(part)
            if k == 1:
                differentiable = defined.all(axis=(1, 2)).reshape(cells, particles)
            part = np.where(defined, part, 0.0).reshape(cells, particles, d + 1, *(m,) * k)
            tables += [np.ascontiguousarray(part[:, :, :d]), np.ascontiguousarray(part[:, :, d])]
        tables += [None] * (6 - len(tables))
        mean, cost, mean_gradient, cost_gradient, mean_hessian, cost_hessian = tables
        return ActionTables(mean, cost, mean_gradient, mean_hessian, cost_gradient, cost_hessian, differentiable)

    def _differentiated(self, states: Array, actions: Array, scale: float = 1.0) -> tuple[Array, Array, Array]:
        """Return what `Functions.differentiated` does; along actions that take values of a list nothing is differentiated."""

        def limits(states: Array) -> tuple[Array, Array]:
            low, high = self.limits_at(states)
            return np.where(self.listed, actions, low), np.where(self.listed, actions, high)

        value, gradient, hessian = self.functions.differentiated(states, actions, limits, scale)
        either = self.listed[:, None] | self.listed
        return value, np.where(self.listed, 0.0, gradient), np.where(either, 0.0, hessian)

    def action_ranges(self, states: Array, low: Array, high: Array, order: int = 2) -> ActionRanges:
        """Return ranges without ends: functions show no bounds."""
        (boxes, m), d = low.shape, self.state_dimension
        ends = np.array([-np.inf, np.inf]).reshape(2, 1)

        def endless(*shape: int) -> Array:
            return np.broadcast_to(ends.reshape(2, *(1,) * len(shape)), (2, *shape)).copy()

        mean = tuple(endless(boxes, d, *(m,) * k) for k in range(order + 1))
        cost = tuple(endless(boxes, *(m,) * k) for k in range(order + 1))
        return ActionRanges(mean, cost, np.zeros(boxes, dtype=np.int64))

    def action_values(self, arithmetic: ModuleType, *variables: Any) -> tuple[Any, ...]:
        raise ProblemError(f"nothing can be proven: {self.no_bounds}")

    # -- trials ----------------------------------------------------------------------------------------------------

    @cached_property
    def _probes(self) -> tuple[Array, Array]:
        """States and actions (rows, ...) on which functions are tried: within domain and bounds, some on their ends."""
        rng = np.random.default_rng(0)

        def within(low: Array, high: Array) -> Array:
            low, high = np.where(np.isfinite(low), low, -1.0), np.where(np.isfinite(high), high, 1.0)
            share = rng.random((_PROBES, low.shape[-1]))
            share[0], share[1] = 0.0, 1.0
            return np.asarray(low + (high - low) * share)

        states = within(*self.domain.T)
        actions = within(*self.limits_at(states))
        actions[:, self.listed] = self.combinations[np.arange(_PROBES) % len(self.combinations)]
        return states, actions

    @cached_property
    def derivative_error(self) -> float:
        """Error of derivatives by differences at the probes, relative to the largest: what half the step changes."""
        errors = [0.0]
        tables = [self._differentiated(*self._probes, scale) for scale in (1.0, 0.5)]
        for one, other in zip(*(table[1:] for table in tables), strict=True):
            size = np.abs(one).max(initial=0.0)
            errors.append(float(np.abs(one - other).max(initial=0.0) / size) if size > 0.0 else 0.0)
        return max(*errors, float(np.finfo(float).eps))

    def _try_functions(self) -> None:
        """Raise ProblemError for functions that fail, have other shapes, look at other rows, or change from call to call."""
        f, (states, actions) = self.functions, self._probes
        together, again = f.called_plainly(states, actions), f.called_plainly(states, actions)
        self.cell_tables(states)
        noise = f.noises(states)
        alone = np.concatenate([f.means_and_costs(states[k : k + 1], actions[k : k + 1]) for k in range(_PROBES)])
        noise_alone = np.concatenate([f.noises(states[k : k + 1]) for k in range(_PROBES)])
        names = ["next_mean"] * self.state_dimension + ["cost"]
        for name, one, other in zip(names, together.T, again.T, strict=True):
            if (k := _differing(one, other)) is not None:
                raise ProblemError(f"{name}: it gives {one[k]:.6g}, then {other[k]:.6g} for the same arguments")
        names += ["noise"] * self.state_dimension
        columns, others = (np.concatenate(pair, axis=1).T for pair in ((together, noise), (alone, noise_alone)))
        for name, one, other in zip(names, columns, others, strict=True):
            if (k := _differing(one, other)) is not None:
                raise ProblemError(
                    f"{name}: a row alone gives {other[k]:.6g}, the same row among others {one[k]:.6g}: the value of a row may "
                    "depend on that row only"
                )
        self.action_tables(states, actions[:, None, :], 0)
        if not isinstance(f.derivatives, str):
            self._try_derivatives()

    def _try_derivatives(self) -> None:
        """Raise ProblemError where derivatives that are given are not those of the functions."""
        f, (states, actions) = self.functions, self._probes
        value, *given = self._differentiated(states, actions)
        _, *differences = replace(self, functions=replace(f, derivatives=DIFFERENCES))._differentiated(states, actions)
        for word, one, other in zip(("gradient", "Hessian"), given, differences, strict=True):
            for name, rows in (("next_mean", slice(0, -1)), ("cost", slice(-1, None))):
                size = max(np.abs(part[:, rows]).max() for part in (one, other, value))
                apart = np.abs(one[:, rows] - other[:, rows]).max()
                if apart > _DERIVATIVE * size:
                    raise ProblemError(
                        f"derivatives of {name}: the {word} is not that of the function: it is {apart:.3g} off differences, at "
                        f"a size of {size:.3g}"
                    )


def _differing(one: Array, other: Array) -> int | None:
    """Return the first row in which two columns are not the same to rounding, None for none."""
    size = np.abs(one[np.isfinite(one)]).max(initial=0.0)
    with np.errstate(invalid="ignore"):
        same = (one == other) | (np.abs(one - other) <= _SAME * size) | (np.isnan(one) & np.isnan(other))
    return None if same.all() else int(np.argmin(same))
