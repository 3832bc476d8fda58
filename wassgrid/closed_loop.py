"""The closed loop from one state: how states, actions and cost go on in time, over many chains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from wassgrid.case.stored import case_of
from wassgrid.errors import WassgridError
from wassgrid.load_policy import load_policy
from wassgrid.policy import ParticlePolicy
from wassgrid.problem.boundary import BOUNDARIES
from wassgrid.problem.expression import ExpressionError, evaluate_number
from wassgrid.problem.states import state_array
from wassgrid.runs.schema import Units
from wassgrid.storage import ResultFile, StorageError

if TYPE_CHECKING:
    from wassgrid.case import Case
    from wassgrid.load_policy import Policy

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
SHOWN = 30  # chains kept whole
STEPS, CHAINS = 200, 256  # unless somebody asks for others


class FromError(WassgridError, ValueError):
    """A state to start from that is none of the case."""


@dataclass(frozen=True)
class ClosedLoop:
    """Hold what chains from one state do: d states, m actions and the cost, in this order, Q = d + m + 1 quantities.

    | name      | shape               | meaning                                                                            |
    |-----------|---------------------|------------------------------------------------------------------------------------|
    | times     | (steps,)            | in the case's unit of time, numbers of steps where it has none                     |
    | quantiles | (levels, steps, Q)  | over the chains, at `LEVELS`                                                       |
    | paths     | (steps, shown, Q)   | the first chains, one by one                                                       |
    | periods   | (Q,)                | of what winds around, whose quantiles are those around its circular mean; 0: none  |
    | mean, error | float             | mean cost over all steps and chains, standard error over the chains                |
    | arrived   | float               | share of the chains at the goal at the end, where they stop there; else None       |
    """

    name: str
    times: np.ndarray
    quantiles: np.ndarray
    paths: np.ndarray
    periods: np.ndarray
    names: tuple[str, ...]
    units: tuple[str, ...]
    time_unit: str
    state_dimension: int
    chains: int
    mean: float
    error: float
    arrived: float | None = None

    def describe(self) -> str:
        """Say where the chains are at the end, and what the way there cost, a line each."""
        steps = len(self.times)
        cost = f"{self.mean:.6g} +- {self.error:.2g} on average over {steps} steps (standard error; {self.chains} chains)"
        if self.arrived is not None:
            total, error = self.mean * steps, self.error * steps
            cost = f"{total:.6g} +- {error:.2g} in all of {steps} steps (standard error; {self.chains} chains)"
        rows = [("cost", cost)]
        if self.arrived is not None:
            rows.append(("goal", f"reached by {self.arrived:.1%} of the chains"))
        for k, name in enumerate(self.names[: self.state_dimension]):
            low, _, middle, _, high = self.quantiles[:, -1, k]
            unit = "" if self.units[k] == "1" else f" {self.units[k]}"
            rows.append((name, f"{middle:.4g}{unit} at the end (median), {low:.4g} to {high:.4g} in 90 % of the chains"))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def simulate_from(path: str | PathLike[str], start: str, steps: int, chains: int, seed: int) -> ClosedLoop:
    """Simulate the last policy of a result file from one state, off the grid.

    start: `theta=3.14,omega=0`, an expression of parameters for every state. Raises FromError, StateError, StorageError.
    """
    with ResultFile(path) as file:
        case = case_of(file)
    problem, given = case.problem, read_state(start, "--from", case.parameters)
    state = state_array(given, problem.state_names)
    for name, x, (low, high), kind in zip(problem.state_names, state, problem.domain, problem.boundary, strict=True):
        ends = BOUNDARIES[kind]
        if not (ends.winds or ends.widens or low <= x <= high):
            raise FromError(f"--from {name}: {x:g} lies outside of its domain, {low:g} to {high:g}, which the chain never leaves")
    return follow(case, load_policy(path), state, steps, chains, seed)


def follow(case: Case, policy: Policy, start: np.ndarray, steps: int, chains: int, seed: int) -> ClosedLoop:
    """Simulate a policy of a case from one state (d,), off the grid."""
    problem, units = case.problem, Units.of(case)
    states = np.repeat(start[None], chains, axis=0)
    ends = zip(problem.domain, problem.boundary, strict=True)
    winds = [high - low if BOUNDARIES[kind].winds else 0.0 for (low, high), kind in ends]
    rng, d, m = np.random.default_rng(seed), problem.state_dimension, problem.action_dimension
    periods = np.array([*winds, *[0.0] * (m + 1)])
    quantiles, total = np.empty((len(LEVELS), steps, d + m + 1)), np.zeros(chains)
    arrived = np.zeros(chains, bool)
    paths = np.empty((steps, min(SHOWN, chains), d + m + 1))
    for step in range(steps):
        actions = policy.sample(states, rng)
        here = states
        cost, states = problem.advance(here, actions, rng)
        if problem.stops:
            assert problem.goal is not None
            # what has arrived stays and costs no more
            cost, arrived = np.where(arrived, 0.0, cost), problem.goal.reached(here)
        total += cost
        now = np.concatenate([here, actions, cost[:, None]], axis=1)
        paths[step] = now[: paths.shape[1]]
        quantiles[:, step] = np.quantile(_gathered(now, periods), LEVELS, axis=0)
    share = float(arrived.mean()) if problem.stops else None
    return ClosedLoop(
        case.name, np.arange(steps) * (problem.time_step or 1.0), quantiles, paths, periods,
        (*problem.state_names, *problem.action_names, "cost"), (*units.states, *units.actions, units.cost),
        units.time if problem.time_step else "steps", d, chains, float(total.mean()) / steps,
        float(total.std(ddof=1)) / steps / math.sqrt(chains), share,
    )  # fmt: skip


def simulate_from_dearest(path: str | PathLike[str], steps: int = STEPS, chains: int = CHAINS, seed: int = 0) -> ClosedLoop:
    """Simulate the last policy of a grid run from the grid point with the largest V.  Raises StorageError."""
    with ResultFile(path) as file:
        case, policy, value, axes = case_of(file), ParticlePolicy.from_result(file), file.frame("value"), file.axes
    if value.shape != tuple(map(len, axes)) or not np.isfinite(value).all():
        raise StorageError(f"'{path}': /trajectory/value is not one number for every state of the grid")
    cell = np.unravel_index(int(value.argmax()), value.shape)
    start = np.array([axis[k] for axis, k in zip(axes, cell, strict=True)])
    return follow(case, policy, start, steps, chains, seed)


def read_state(text: str, option: str, parameters: Mapping[str, float] | None = None) -> dict[str, float]:
    """Read `theta=pi,omega=0`, an expression of parameters for every name.  Raises FromError, which names the option."""
    given: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        try:
            if not equals:
                raise FromError(f"{option}: expected name=value and commas between, got {part.strip()!r:.60}")
            given[name.strip()] = evaluate_number(value, parameters or {})
        except ExpressionError as error:
            raise FromError(f"{option} {name.strip()}: {error}") from None
    return given


def _gathered(values: np.ndarray, periods: np.ndarray) -> np.ndarray:
    """Return values (chains, Q) of which those that wind around lie within half a period of their circular mean."""
    result = values.copy()
    for k in np.flatnonzero(periods):
        turn = np.exp(2j * np.pi * values[:, k] / periods[k])
        centre = np.angle(turn.mean())
        result[:, k] = (centre + np.angle(turn * np.exp(-1j * centre))) * periods[k] / (2 * np.pi)
    return result
