"""A case as an environment of Gymnasium."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np

from wassgrid.problem.control_problem import ControlProblem
from wassgrid.problem.states import StateError, state_array


class CaseEnvironment(gymnasium.Env[np.ndarray, Any]):
    """The controlled chain of a problem: observations are the states (d,), rewards minus the stage cost; see `make_env`.

    bounds: of the actions, (m, 2), to which they are clipped, and then to those of the state where bounds depend on it: a space
    is the same at all states. Where all actions have values, an action is the number of one of `ControlProblem.choices`, from 0
    on; where some have, a dict by name, of the numbers of their values and of the other actions, (1,) each.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}  # type: ignore[misc]  # as Gymnasium's own environments do

    def __init__(self, problem: ControlProblem, steps: int, bounds: np.ndarray) -> None:
        self.problem, self.steps, self._bounds = problem, steps, bounds
        low, high = problem.domain.T
        # what an axis lets beyond its ends has none
        beyond = np.array([boundary == "open" for boundary in problem.boundary])
        ends = np.where(beyond, -np.inf, low), np.where(beyond, np.inf, high)
        self.observation_space = gymnasium.spaces.Box(*ends, dtype=np.float64)
        self.action_space: gymnasium.spaces.Space[Any] = gymnasium.spaces.Box(*bounds.T, dtype=np.float64)
        if problem.choices is not None:
            self.action_space = gymnasium.spaces.Discrete(len(problem.choices))
        self._values = [family.values for family in problem.model.actions for _ in family.members]
        if problem.mixed:
            spaces, parts = gymnasium.spaces, zip(problem.action_names, self._values, bounds.tolist(), strict=True)
            self.action_space = spaces.Dict({
                name: spaces.Discrete(len(values)) if values else spaces.Box(low, high, (1,), dtype=np.float64)
                for name, values, (low, high) in parts
            })  # fmt: skip
        self._state = np.zeros(problem.state_dimension)
        self._step = 0

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._step = 0
        if self.problem.start.everywhere:
            low, high = self.problem.domain.T
            bounded = np.isfinite(low) & np.isfinite(high)
            drawn = self.np_random.uniform(np.where(bounded, low, 0.0), np.where(bounded, high, 1.0))
            self._state = np.where(bounded, drawn, np.clip(self.np_random.standard_normal(low.size), low, high))
        else:
            self._state = self.problem.first_states(1, self.np_random)[0]
        if options and "state" in options:
            self._state = self._given(options["state"])
        return self._state.copy(), {}

    def _given(self, state: Any) -> np.ndarray:
        found = state_array(state, self.problem.state_names)
        if found.shape != self._state.shape or not np.isfinite(found).all():
            raise StateError(f"options.state: expected one state of finite numbers, got the shape {found.shape}")
        return found

    def told(self, action: np.ndarray) -> dict[str, Any]:
        """Return an action (m,) of a case of which some take values of lists as `step` takes it.

        Raises StateError for a value that is not in its list.
        """
        result: dict[str, Any] = {}
        for name, values, number in zip(self.problem.action_names, self._values, action.tolist(), strict=True):
            if values and number not in values:
                raise StateError(f"{name}: {number:g} is none of its values, {', '.join(f'{value:g}' for value in values)}")
            result[name] = values.index(number) if values else np.array([number])
        return result

    def _action(self, action: Any) -> np.ndarray:
        """Return the numbers (m,) of an action: itself within the bounds, or the value of that number in the list."""
        if self.problem.choices is not None:
            chosen: np.ndarray = self.problem.choices[int(action)]
            return chosen
        low, high = self._bounds.T
        if self.problem.mixed:
            names = zip(self.problem.action_names, self._values, strict=True)
            action = [values[int(action[name])] if values else float(np.ravel(action[name])[0]) for name, values in names]
        given = np.clip(np.asarray(action, dtype=float).reshape(low.shape), low, high)
        if self.problem.limits is None:
            return given
        return np.asarray(np.clip(given, *(end[0] for end in self.problem.limits_at(self._state[None]))))

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        a = self._action(action)[None]
        state = self._state[None]
        cost = float(self.problem.action_tables(state, a[:, None, :], 0).cost[0, 0])
        self._state = self.problem.sample_next(state, a, self.np_random)[0]
        self._step += 1
        goal, reached = self.problem.goal, False
        if goal is not None and (reached := bool(goal.reached(self._state[None])[0])):
            cost += float(self.problem.goal_costs(self._state[None])[0])
        return self._state.copy(), -cost, reached, self._step >= self.steps, {"cost": cost}
