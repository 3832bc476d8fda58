"""Problems given as Python functions: a case whose law and cost are arrays in, arrays out, in place of expressions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import tomli_w
from pydantic import PrivateAttr

from wassgrid.case.file import OF_FUNCTIONS, Case
from wassgrid.case.readers import CaseError, shown

if TYPE_CHECKING:
    from wassgrid.problem.control_problem import ControlProblem
    from wassgrid.problem.function_problem import Derivatives, Function, Functions

_OF_PROBLEM = ("states", "actions", "cost", "time", "indices", "parameters", "neural")  # tables that the functions stand for


class FunctionCase(Case):
    """A case whose problem is Python functions: it is solved like any other, and no file brings it back."""

    _functions: Functions | None = PrivateAttr(None)

    def to_text(self) -> str:
        """Return the case as TOML without law and cost, which no text can hold: reading it says so."""
        return f"{tomli_w.dumps({OF_FUNCTIONS: self.name})}{super().to_text()}"

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and isinstance(other, FunctionCase) and self._functions is other._functions

    __hash__ = None

    @cached_property
    def problem(self) -> ControlProblem:
        """The control problem of the functions."""
        from wassgrid.case.statement import problem_of

        stated = problem_of(self)
        if self._functions is None:  # the tables are being checked
            return stated
        from wassgrid.problem.function_problem import FunctionProblem

        return FunctionProblem.of(stated, self._functions)

    @classmethod
    def of(cls, functions: Functions, tables: Mapping[str, Any], name: str) -> FunctionCase:
        """Return the case of tables, with functions in place of its law and cost.  Raises CaseError."""
        from wassgrid.problem.control_problem import ProblemError

        case = cls.from_tables(tables, name)
        assert isinstance(case, FunctionCase)
        case._functions = functions
        case.__dict__.pop("problem", None)
        try:
            case.problem  # noqa: B018 - tries the functions
        except ProblemError as error:
            raise CaseError(str(error)) from error
        return case


class Problem:
    """A control problem as Python functions:  s' = next_mean(s, a) + noise(s) xi,  xi ~ N(0, I),  cost(s, a) of a step.

    | argument    | what                                                                                                  |
    |-------------|-------------------------------------------------------------------------------------------------------|
    | next_mean   | function of states (R, d) and actions (R, m): the mean of the next state, (R, d)                      |
    | cost        | function of the same: the cost of the step, (R,)                                                      |
    | noise       | standard deviations: a number, d numbers, or a function of states (R, d) -> (R, d) (default: none)    |
    | states      | {name: (lower, upper)}, or a dict with `domain`, `boundary`, `unit` as in a case file                 |
    | actions     | {name: (lower, upper)}, None for no bounds, or a dict with `bounds`, `unit`                           |
    | derivatives | in the action: "jax", "differences", or a pair of functions; by default JAX where the functions give  |
    |             | its arrays, else differences                                                                          |

    Functions are called with many rows at once, in NumPy or in JAX (`jax.numpy`, double precision), and may not change them;
    the value of a row depends on that row alone. As a pair, derivatives are (of_next_mean, of_cost), which return (gradient,
    Hessian) in the action: (R, d, m) and (R, d, m, m), (R, m) and (R, m, m). Differences are of fourth order, within the
    bounds, steps being 1/400 of their half width (without bounds, of 1 + |a|): `case.problem.derivative_error` is their
    relative error where it was tried.

    `case` gives a case to be solved; what is said of it: nothing is proven, since functions show no bounds, and a file that is
    written can be read, drawn and started from, not resumed. Raises CaseError for functions that cannot be used: other shapes,
    rows that depend on others, values that are no finite numbers, derivatives that are not theirs.

    >>> import numpy as np, wassgrid as wg
    >>> problem = wg.Problem(
    ...     next_mean=lambda s, a: 0.9 * s + a,
    ...     cost=lambda s, a: s[:, 0] ** 2 + 0.1 * a[:, 0] ** 2,
    ...     noise=0.3,
    ...     states={"x": (-3, 3)},
    ...     actions={"u": (-1, 1)},
    ... )
    >>> solution = wg.solve(problem.case(grid={"points": {"x": 41}}))
    >>> solution.policy.mean({"x": 1.0}).shape, "nothing is proven" in solution.reason
    ((1,), True)
    """

    def __init__(
        self,
        *,
        next_mean: Function,
        cost: Function,
        states: Mapping[str, Any],
        actions: Mapping[str, Any],
        noise: Any = 0.0,
        derivatives: Derivatives | None = None,
        title: str = "",
    ) -> None:
        self._tables = {
            "title": title,
            "states": {name: table | {"next": "0"} for name, table in _tables("states", states, "domain", "boundary", "unit")},
            "actions": dict(_tables("actions", actions, "bounds", "unit")),
            "cost": {"stage": "0"},
        }
        for name, function in (("next_mean", next_mean), ("cost", cost)):
            if not callable(function):
                raise CaseError(f"{name}: expected a function of states and actions, got {shown(function)}")
        self._functions = self._read(next_mean, noise, cost, derivatives, len(self._tables["states"]))

    @staticmethod
    def _read(next_mean: Function, noise: Any, cost: Function, derivatives: Any, d: int) -> Functions:
        import numpy as np

        from wassgrid.problem.function_problem import DIFFERENCES, JAX, Functions

        if not callable(noise):
            try:
                noise = np.broadcast_to(np.asarray(noise, dtype=float), (d,))
            except (TypeError, ValueError):
                raise CaseError(f"noise: expected a number, {d} numbers or a function of states, got {shown(noise)}") from None
        if derivatives is not None and derivatives not in (JAX, DIFFERENCES):
            pair = isinstance(derivatives, tuple | list) and len(derivatives) == 2 and all(map(callable, derivatives))
            if not pair:
                raise CaseError(
                    f'derivatives: expected "{JAX}", "{DIFFERENCES}" or a pair of functions (of_next_mean, of_cost), got '
                    f"{shown(derivatives)}"
                )
            derivatives = tuple(derivatives)
        return Functions(next_mean, noise, cost, derivatives)

    def case(self, name: str = "problem", **tables: Mapping[str, Any]) -> Case:
        """Return the problem as a case, for `wg.solve`, `wg.run`, `wg.geometry`, `wg.make_env`.

        tables: the other tables of a case file, as dicts: grid (needed), policy, flow, criterion, output, solver, expect. Raises
        CaseError for these, and for functions that cannot be used.
        """
        for key in tables:
            if key in _OF_PROBLEM:
                raise CaseError(f"{key}: stands in wg.Problem, not here")
        case = FunctionCase.of(self._functions, self._tables | tables, name)
        if case.solver.kind != "grid":
            raise CaseError("solver.kind: Python functions are solved on a grid, the neural solver takes a case with expressions")
        return case


def _tables(section: str, given: Any, *keys: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and table of states or actions; what is no dict is the first of the keys."""
    if not isinstance(given, Mapping) or not given:
        raise CaseError(f"{section}: expected a dict of names, {{'x': (-1, 1)}}, got {shown(given)}")
    for name, table in given.items():
        if not isinstance(table, Mapping):
            table = {} if table is None else {keys[0]: table}
        for key in table:
            if key not in keys:
                raise CaseError(f"{section}.{name}.{key}: not a key here, expected {', '.join(keys)}")
        yield name, dict(table)
