"""What the tables of a case state: the control problem and the initial policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from keyword import iskeyword
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wassgrid.case.readers import CaseError
from wassgrid.case.tables import ActionTable, CaseTables
from wassgrid.problem.control_problem import ControlProblem
from wassgrid.problem.functions import RESERVED
from wassgrid.problem.goal import Goal
from wassgrid.problem.limits import ActionLimits
from wassgrid.problem.model import Family, Model, ProblemError
from wassgrid.problem.names import is_name, nearest, split_family
from wassgrid.problem.scope import Index

INITIAL_KEYS = ("mean", "std", "low", "high")  # of the initial policy


def check_names(tables: CaseTables) -> None:
    """Raise ProblemError unless parameters, indices, states and actions have names, and different ones."""
    seen: dict[str, str] = {}
    for section in ("parameters", "indices", "states", "actions"):
        for key in getattr(tables, section):
            path = f"{section}.{key[:60]}"
            family = split_family(key) if section in ("states", "actions") else (key, None)
            if family is not None and iskeyword(family[0]):
                raise ProblemError(f"{path}: {family[0]!r} is a reserved word of expressions, choose another, say {family[0]}_")
            if family is None or not is_name(family[0]):
                raise ProblemError(f"{path}: expected a name: a letter, then letters, digits or _")
            name, letter = family
            if letter is not None and letter not in tables.indices:
                hint = nearest(letter, tables.indices) or f", declare it: [indices] {letter} = {{ count = ... }}"
                raise ProblemError(f"{path}: unknown index {letter!r}{hint}")
            if name in RESERVED:
                raise ProblemError(f"{path}: the name {name!r} is that of a function or constant, choose another")
            if name in seen:
                raise ProblemError(f"{path}: the name {name!r} is already taken by {seen[name]}, choose another")
            seen[name] = path


def problem_of(tables: CaseTables) -> ControlProblem:
    """Return the control problem that the tables state, every expression checked.  Raises ProblemError."""
    model, goal = model_of(tables), tables.goal
    problem = ControlProblem.from_model(
        model, tables.title, tables.criterion.kind, tables.criterion.discount,
        None if goal is None else Goal.of(model, goal.where, goal.cost, goal.then == "restart"), tables.start,
    )  # fmt: skip
    if tables.solver.kind == "grid":
        problem.order  # noqa: B018 - checks next(...)
    return problem


def model_of(tables: CaseTables) -> Model:
    """Collect the texts of the tables.  Raises ProblemError for names that clash, are not names or have no index."""
    check_names(tables)
    indices = {name: Index(name, table.count, table.periodic) for name, table in tables.indices.items()}
    infinite = (-float("inf"), float("inf"))
    continuous = tables.time is not None
    states = tuple(
        Family(
            key,
            *_name_and_index(key, indices),
            interval=table.domain or infinite,
            boundary=table.boundary,
            law=str(table.drift if continuous else table.next),
            noise=(table.diffusion if continuous else table.noise) or "0",
        )
        for key, table in tables.states.items()
    )
    actions = tuple(_action(key, *_name_and_index(key, indices), table) for key, table in tables.actions.items())
    return Model(
        parameters=dict(tables.parameters),
        indices=indices,
        states=states,
        actions=actions,
        cost=str(tables.cost.rate if continuous else tables.cost.stage),
        time_step=tables.time.step if tables.time else None,
        scheme=tables.time.scheme if tables.time else None,
    )


def stated_limits(data: Mapping[str, Any], states: Sequence[str]) -> ActionLimits | None:
    """Return the bounds of actions that the raw tables of a resolved case state, None where all are numbers.

    states: the names that its states must have. Law and cost, which no text holds of a case of Python functions, are not read.
    Raises ValueError where the tables are not those of a case.
    """
    model = model_of(CaseTables.model_validate({key: data[key] for key in CaseTables.model_fields if key in data}, context={}))
    if [name for family in model.states for name in family.members] != list(states):
        raise CaseError("the states of the policy are not those of its case")
    return ActionLimits.of(model)


def _action(key: str, name: str, index: Index | None, table: ActionTable) -> Family:
    """Return the family of a table of actions."""
    if table.values is not None:
        numbers = table.numbers
        hull, allowed = (min(numbers), max(numbers)), table.allowed or ""
        return Family(
            key, name, index, hull, values=numbers, value_names=table.names, allowed=allowed, distances=table.distances
        )
    low, high = table.bounds or (-float("inf"), float("inf"))
    if isinstance(low, str) or isinstance(high, str):
        ends = [end if isinstance(end, str) else repr(float(end)) for end in (low, high)]
        return Family(key, name, index, (-float("inf"), float("inf")), ends=(ends[0], ends[1]))
    return Family(key, name, index, (low, high))


def _name_and_index(key: str, indices: Mapping[str, Index]) -> tuple[str, Index | None]:
    """Split the key of a table: `q[i]` -> ("q", index i), `theta` -> ("theta", None)."""
    name, letter = split_family(key) or (key, None)
    return name, None if letter is None else indices[letter]


def initial_tables(
    tables: CaseTables, problem: ControlProblem, states: NDArray[np.float64]
) -> tuple[NDArray[np.float64], ...]:
    """Tabulate mean, standard deviation, lower and upper end of the initial policy at `states` (cells, d).

    Returns four arrays (cells, m); the ends are the action bounds unless low and high are given.
    Raises CaseError where a standard deviation is negative or low > high.
    """
    shape = (len(states), problem.action_dimension)
    low, high = problem.limits_at(states)
    result = []
    for key, default in zip(INITIAL_KEYS, (0.0, 1.0, low, high), strict=True):
        given = initial_texts(tables, key)
        table: Any = default if given is None else problem.feedback(f"policy.initial.{key}", given)(states)
        result.append(np.array(np.broadcast_to(table, shape), dtype=np.float64))
    _, spread, bottom, top = result
    if np.any(spread < 0.0):
        raise CaseError("policy.initial.std: negative at some states")
    if np.any(bottom > top):
        raise CaseError("policy.initial.low: larger than high at some states")
    return tuple(result)


def initial_texts(tables: CaseTables, key: str) -> str | dict[str, str] | None:
    """Return mean, std, low or high of the initial policy as given, low and high completed by the action bounds.

    Actions that take values of lists, of which none is drawn, have any.
    """
    given: str | dict[str, str] | None = getattr(tables.policy.initial, key)
    if isinstance(given, dict) and key in ("mean", "std"):
        return {name: "0" for name, action in tables.actions.items() if action.values is not None} | given
    if not isinstance(given, dict):
        return given
    end = ("low", "high").index(key)
    bounds = {name: action.bounds[end] for name, action in tables.actions.items() if action.bounds is not None}
    bounds |= {name: (min, max)[end](action.numbers) for name, action in tables.actions.items() if action.values is not None}
    return {name: bound if isinstance(bound, str) else repr(float(bound)) for name, bound in bounds.items()} | given
