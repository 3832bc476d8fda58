"""A case: text in TOML -> typed, validated tables and the control problem they state; and the resolved text back."""

from __future__ import annotations

import math
import re
import tomllib
import typing
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, PrivateAttr, ValidationError

from wassgrid.case.keys import elsewhere, override, table_at
from wassgrid.case.neural_tables import NeuralSettings
from wassgrid.case.readers import CaseError, shown
from wassgrid.case.tables import ActionTable, CaseTables, InitialTable
from wassgrid.method.facts import GEOMETRY_FACTS, METHOD_FACTS, unseen
from wassgrid.problem.boundary import BOUNDARIES
from wassgrid.problem.names import member, remedy, split_family

if typing.TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    from wassgrid.problem.control_problem import ControlProblem

__all__ = ["Case", "CaseError"]

MAXIMUM_BYTES = 1_000_000  # of a case file
MAXIMUM_DIMENSION = 4  # state dimensions of the grid solver
MAXIMUM_CELLS = 2**31
MOST_CHOICES = 4096  # actions, where they take values of lists
MOST_BESIDE = 64  # combinations of values beside actions between bounds: each is searched like an action of its own
LEAST_DISCOUNTING = 1e-8  # of 1 - discount: V grows like its inverse, and so does what rounding makes of (1 - discount) V
LEAST_SHARE = 1e-100  # of a reference law, relative to the largest
_NARROWEST = 0.7  # distances of the particles: of blobs of this width the sum over the particles is even to 1e-4
OF_FUNCTIONS = "functions"  # the key of a case that was given as Python functions
# tables of problem and grid
_STATED = {"actions", "cost", "criterion", "goal", "grid", "indices", "parameters", "start", "states", "time"}
_PRICED = {"policy.entropy", "policy.reference"}  # keys of the problem in a table that is not of it
_LONGEST_LINE = 500  # characters of a line that is looked at for what is wrong with it
LEAST_SPACING = 1e-300  # between grid points: its inverse is a number


class FunctionsError(CaseError):
    """The text of a case that was given as Python functions: they are not in it."""


class Case(CaseTables):
    """Everything a run needs, read from a case file; equal to another if all values are equal."""

    _name: str = PrivateAttr("case")

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Case:
        """Read and check the case file at `path`, every expression included.

        overrides: texts "section.key=value" that replace values of the file; the value is TOML, or plain text where it is not.
        Those that change the problem or the grid leave out [expect], which is of the file as it is written, unless they
        give it anew. Raises CaseError.
        """
        path = Path(path)
        try:
            # neither a folder nor a pipe or device, which might never end
            if not path.is_file():
                kind = "a folder" if path.is_dir() else "not a regular file" if path.exists() else "no such file"
                raise CaseError(f"{path}: {kind}, expected a case file (TOML)")
            with path.open("rb") as file:
                content = file.read(MAXIMUM_BYTES + 1)
        except OSError as error:
            raise CaseError(f"{path}: {error.strerror}") from None
        if len(content) > MAXIMUM_BYTES:
            raise CaseError(f"{path}: larger than {MAXIMUM_BYTES // 1_000_000} MB, not a case file")
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise CaseError(f"{path}: line {line} is not UTF-8 text") from None
        return cls.from_text(text, path.stem, overrides)

    @classmethod
    def from_text(cls, text: str, name: str = "case", overrides: Sequence[str] = ()) -> Case:
        """Read and check a case from TOML text.  Raises CaseError."""
        try:
            data = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            problem = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
            if not isinstance(error, tomllib.TOMLDecodeError) and isinstance(error, ValueError):
                problem = f"a number with too many digits ({problem.partition(';')[0]})"
            problem += _unquoted(text, problem)
            raise CaseError(f"{name}: not valid TOML: {problem}") from None
        return cls._read(data, name, overrides)

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any], name: str = "case", overrides: Sequence[str] = ()) -> Case:
        """Read and check a case from tables as they stand in a case file, in dicts; what is given is not changed.

        The keys, what they may hold and what is said of errors are those of case files; NumPy numbers and arrays count as numbers
        and lists of them, None as a key that is not given. Raises CaseError.

        >>> import wassgrid as wg
        >>> case = wg.Case.from_tables({
        ...     "states": {"x": {"next": "0.9*x + u", "noise": 0.3, "domain": (-3, 3)}},
        ...     "actions": {"u": {"bounds": (-1, 1)}},
        ...     "cost": {"stage": "x**2 + 0.1*u**2"},
        ...     "grid": {"points": {"x": 41}},
        ... })
        >>> case.states["x"].domain
        (-3.0, 3.0)
        """
        try:
            data = _plain(tables, "")
        except RecursionError:
            raise CaseError(f"{name}: nested too deeply") from None
        if not isinstance(data, dict):
            raise CaseError(f"{name}: expected a dict of tables, got {shown(tables)}")
        return cls._read(data, name, overrides)

    @classmethod
    def _read(cls, data: dict[str, Any], name: str, overrides: Sequence[str]) -> Case:
        """Check raw tables, which are changed by the overrides, and return the case."""
        for setting in overrides:
            override(cls, data, setting)
        if OF_FUNCTIONS in data:
            raise FunctionsError(
                f"{OF_FUNCTIONS}: law and cost of this case are Python functions (wg.Problem), which no file holds: the program "
                "that has them can solve it again"
            )
        keys = {setting.partition("=")[0].replace(" ", "") for setting in overrides}
        tables = {key.split(".")[0] for key in keys}
        if (tables & _STATED or keys & _PRICED) and "expect" not in tables:
            # of the problem and the grid as they are written
            data.pop("expect", None)
        try:
            case = cls.model_validate(data, context={})
        except ValidationError as error:
            raise CaseError(_one_line(error)) from None
        from wassgrid.case.statement import check_names
        from wassgrid.problem.control_problem import ProblemError

        try:
            check_names(case)
            case = case._resolved()
            case._name = name
            case._check()
            case._check_expressions()
        except ProblemError as error:
            raise CaseError(str(error)) from None
        return case

    @property
    def name(self) -> str:
        """The name of the case file without its ending."""
        return self._name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Case) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]

    def to_text(self) -> str:
        """Return the resolved case, defaults and overrides included, as TOML; reading it gives an equal case."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))

    @property
    def unseen_jumps(self) -> str:
        """What the steps of the case do not see of jumps of cost or law with the action; of blobs no derivative is taken."""
        sees = self.flow.escapes or self.policy.blobs is not None
        return unseen(self.flow.method, self.flow.geometry, sees, self.problem.jumps)

    @cached_property
    def problem(self) -> ControlProblem:
        """The control problem that the case states."""
        from wassgrid.case.statement import problem_of

        return problem_of(self)

    def initial_tables(self, states: NDArray[float64]) -> tuple[NDArray[float64], ...]:
        """Tabulate mean, standard deviation, lower and upper end of the initial policy at `states` (see `statement`)."""
        from wassgrid.case.statement import initial_tables

        return initial_tables(self, self.problem, states)

    def _members(self, key: str) -> list[str]:
        """Return the scalars of a table of states or actions."""
        name, letter = split_family(key) or (key, None)
        if letter is None or letter not in self.indices:
            return [key]
        return [member(name, position) for position in range(self.indices[letter].count)]

    def _resolved(self) -> Case:
        """Return the case with one entry per scalar state in grid.points and grid.kernel, and the neural defaults if used."""
        members = {key: self._members(key) for key in self.states}

        def written_out(table: Mapping[str, Any], path: str) -> dict[str, Any]:
            known = list(dict.fromkeys([*members, *(name for names in members.values() for name in names)]))
            for name in table:
                if name not in known:
                    raise CaseError(f"{path}.{name}: unknown state{remedy(name, known)}")
            # a value for one member goes before the value of its family
            chosen = {name: table.get(name, table.get(key)) for key, names in members.items() for name in names}
            return {name: value for name, value in chosen.items() if value is not None}

        points = written_out(self.grid.points, "grid.points")
        kernel = self.grid.kernel
        if not isinstance(kernel, str):
            kernel = written_out(kernel, "grid.kernel")
        start = written_out(self.start, "start")
        neural = NeuralSettings() if self.neural is None and self.solver.kind == "neural" else self.neural
        grid = self.grid.model_copy(update={"points": points, "kernel": kernel})
        resolved = self.model_copy(update={"grid": grid, "start": start, "neural": neural})
        if any(action.values is not None for action in self.actions.values()):
            resolved = resolved._of_values()
        return resolved if self.policy.entropy is None else resolved._of_entropy()

    def _of_entropy(self) -> Case:
        """Return the case with particles that stay, evenly over their bounds, and whose weights move.  Raises CaseError."""
        flow, policy, initial = self.flow, self.policy, self.policy.initial
        listed = any(action.values is not None for action in self.actions.values())
        if self.solver.kind != "grid":
            raise CaseError('policy.entropy: networks have no density, use solver.kind = "grid"')
        geometry = flow.geometry if "geometry" in flow.model_fields_set else "fisher_rao"
        if flow.escape:
            raise CaseError("flow.escape: where entropy has a price particles stay, and all have weight already: leave it out")
        if not listed and initial.distribution != "even":
            if "distribution" in initial.model_fields_set or initial != InitialTable():
                raise CaseError(
                    f'policy.initial.distribution: "{initial.distribution}" gives particles no density, and no entropy: leave it '
                    'out, or "even", the nodes of a quadrature from bound to bound or from low to high'
                )
            initial = initial.model_copy(update={"distribution": "even"})
        if listed and GEOMETRY_FACTS[geometry].actions:
            raise CaseError('flow.geometry: actions with values stay, and weights move: leave it out, or "fisher_rao"')
        if policy.reference == "lebesgue" and listed:
            raise CaseError(
                'policy.reference: values of a list have no volume, use "uniform", from which counting them differs by eps times '
                "the logarithm of their number"
            )
        if isinstance(policy.reference, tuple):
            if len(policy.reference) != policy.particles:
                raise CaseError(
                    f"policy.reference: expected {policy.particles} numbers, one per particle, got {len(policy.reference)}"
                )
            if min(policy.reference) < LEAST_SHARE * max(policy.reference):
                raise CaseError(f"policy.reference: numbers apart by a factor of more than {1.0 / LEAST_SHARE:.0e}")
        slides = GEOMETRY_FACTS[geometry].actions
        if not slides and (policy.blobs, policy.bandwidth) != (None, None):
            key = "bandwidth" if policy.blobs is None else "blobs"
            raise CaseError(f'policy.{key}: blobs slide where flow.geometry is "wasserstein" or "wasserstein_fisher_rao", add it')
        method = flow.method if "method" in flow.model_fields_set else "heun" if slides else "policy_iteration"
        flow = flow.model_copy(update={"geometry": geometry, "method": method})
        policy = policy.model_copy(update={"initial": initial})
        resolved = self.model_copy(update={"flow": flow, "policy": policy})
        return resolved._of_blobs() if slides else resolved

    def _of_blobs(self) -> Case:
        """Return the case with a number of blobs that slide over its particles, and their bandwidth.  Raises CaseError."""
        flow, policy = self.flow, self.policy
        if not METHOD_FACTS[flow.method].blobs:
            able = ", ".join(name for name, facts in METHOD_FACTS.items() if facts.blobs)
            raise CaseError(
                f"flow.method: where entropy has a price {flow.method} moves no actions, take {able}; weights alone "
                '(flow.geometry = "fisher_rao") take policy_iteration'
            )
        if policy.weights is not None:
            raise CaseError("policy.weights: those of the particles are given by the blobs that slide over them, leave it out")
        m = sum(len(self._members(key)) for key in self.actions)
        side = round(policy.particles ** (1.0 / m))
        if side < 2:
            raise CaseError(f"policy.particles: blobs slide over two particles of every action at least, take {2**m} or more")
        blobs = policy.blobs or max(2, side // 2) ** m
        number = round(blobs ** (1.0 / m))
        if number**m != blobs:
            near = sorted((max(number + k, 1) ** m for k in (-1, 0, 1)), key=lambda count: abs(count - blobs))[:2]
            raise CaseError(f"policy.blobs: {blobs} blobs do not stand evenly over {m} actions, take {near[0]} or {near[1]}")
        distance = 1.0 / (side - 1)
        width = max(distance, 0.5 / number) if policy.bandwidth is None else policy.bandwidth
        if width < _NARROWEST * distance:
            raise CaseError(
                f"policy.bandwidth: {width:g} of the way from low to high is less than the particles are apart ({distance:.3g}), "
                f"between which blobs would fall: take at least {_NARROWEST * distance:.3g}, or more particles"
            )
        if width > 1.0:
            raise CaseError(f"policy.bandwidth: expected a share of the way from low to high, at most 1, got {width:g}")
        return self.model_copy(update={"policy": policy.model_copy(update={"blobs": blobs, "bandwidth": width})})

    def _of_values(self) -> Case:
        """Return the case with what goes with actions that take values of lists.  Raises CaseError."""
        key = next(key for key, action in self.actions.items() if action.values is not None)
        if self.solver.kind != "grid":
            raise CaseError(f'actions.{key}.values: networks give any number, use solver.kind = "grid", or bounds')
        beside = [other for other, action in self.actions.items() if action.values is None]
        count, most = 1, MOST_BESIDE if beside else MOST_CHOICES
        for other, action in self.actions.items():
            if action.values is None:
                continue
            if action.bounds is not None:
                raise CaseError(f"actions.{other}.bounds: not beside values, which are all that the action takes")
            if action.allowed is not None and self.policy.entropy is not None:
                raise CaseError(f"actions.{other}.allowed: a reference law is the same in all states, leave out policy.entropy")
            count *= len(action.numbers) ** len(self._members(other))
            if count > most:
                kind = f"combinations of values beside {beside[0]}" if beside else "actions in all"
                raise CaseError(f"actions.{other}.values: more than {most} {kind}, use fewer values, or bounds")
        return self._of_mixed(key, beside[0], count) if beside else self._of_choices(count)

    def _of_mixed(self, key: str, beside: str, count: int) -> Case:
        """Return the case with enough particles that every combination of values has some, as many each.  Raises CaseError."""
        policy, initial = self.policy, self.policy.initial
        if policy.entropy is not None:
            raise CaseError(
                f"policy.entropy: {key} takes values of a list and {beside} does not: a reference law is known where all actions "
                f"take values, or none; give {beside} values too, or {key} bounds"
            )
        for other, action in self.actions.items():
            for name in ("mean", "std", "low", "high"):
                texts = getattr(initial, name)
                if action.values is not None and isinstance(texts, dict) and other in texts:
                    raise CaseError(f"policy.initial.{name}.{other}: a run starts with all values of {other}, leave it out")
        if "particles" in policy.model_fields_set or policy.weights is not None:
            return self
        return self.model_copy(update={"policy": policy.model_copy(update={"particles": count * -(-policy.particles // count)})})

    def _of_choices(self, count: int) -> Case:
        """Return the case with a particle on every value of its actions, whose weights alone move.  Raises CaseError."""
        flow, policy = self.flow, self.policy
        if "particles" in policy.model_fields_set and policy.particles != count:
            raise CaseError(f"policy.particles: one stands on each of the {count} actions that there are, leave it out")
        if policy.initial != InitialTable():
            raise CaseError("policy.initial: a run starts with all values of its actions, policy.weights says how likely each is")
        if "geometry" in flow.model_fields_set and flow.geometry != "fisher_rao":
            raise CaseError('flow.geometry: actions with values stay, and weights move: leave it out, or "fisher_rao"')
        if flow.escape:
            raise CaseError("flow.escape: particles stand on all values of the actions already, leave it out")
        method = flow.method if "method" in flow.model_fields_set else "policy_iteration"
        if method == "proximal" and policy.entropy is not None:
            raise CaseError(
                "flow.method: where entropy has a price, proximal steps between values have no closed form: use policy_iteration "
                "or exponential"
            )
        stay = {"escape": False} if method == "proximal" else {}
        return self.model_copy(
            update={
                "flow": flow.model_copy(update={"geometry": "fisher_rao", "method": method, **stay}),
                "policy": policy.model_copy(update={"particles": count}),
            }
        )

    def _check(self) -> None:
        """Check what no single key shows.  Raises CaseError."""
        for section in ("states", "actions"):
            if not getattr(self, section):
                raise CaseError(f"{section}: expected at least one table [{section}.NAME]")
        for key, action in self.actions.items():
            if action.allowed is not None and action.values is None:
                raise CaseError(f"actions.{key}.allowed: {key} takes no values of a list, give it some, or bounds of the states")
            self._check_distance(key, action)
        self._check_time()
        criterion = self.criterion
        if (criterion.kind == "discounted") != (criterion.discount is not None):
            raise CaseError(
                'criterion.discount: missing, kind = "discounted" needs a number between 0 and 1'
                if criterion.discount is None
                else 'criterion.discount: only used with kind = "discounted"'
            )
        if criterion.discount is not None and 1.0 - criterion.discount < LEAST_DISCOUNTING:
            raise CaseError(
                f"criterion.discount: {criterion.discount!r} is so close to 1 that rounding decides the cost; take at most "
                f'1 - {LEAST_DISCOUNTING:g}, or the limit itself: kind = "average"'
            )
        self._check_goal()
        for key, state in self.states.items():
            if BOUNDARIES[state.boundary].needs_domain and state.domain is None:
                raise CaseError(f"states.{key}.domain: missing, boundary = {state.boundary!r} needs two numbers")
        if self.flow.escape and not METHOD_FACTS[self.flow.method].escapes:
            raise CaseError(
                f'flow.escape: the gradient flow by {self.flow.method} cannot jump, use method = "newton" or escape = false'
            )
        self._check_geometry()
        if self.solver.kind != "grid":
            for key, action in self.actions.items():
                if any(isinstance(end, str) for end in action.bounds or ()):
                    raise CaseError(
                        f'actions.{key}.bounds: networks take numbers as bounds, use solver.kind = "grid" for bounds that depend '
                        "on the state"
                    )
        if self.solver.kind == "grid":
            self._check_grid()
        initial = self.policy.initial
        if self.solver.kind == "grid" and initial.distribution == "even":
            self._check_even()
        if self.solver.kind == "grid" and initial.distribution in ("uniform", "even") and None in (initial.low, initial.high):
            for key, action in self.actions.items():
                if action.bounds is None and action.values is None:
                    raise CaseError(
                        f"actions.{key}.bounds: missing, the {initial.distribution} initial policy needs bounds (or "
                        "policy.initial.low and high)"
                    )

    def _check_expressions(self) -> None:
        """Parse every expression.  Raises ProblemError."""
        from wassgrid.case.statement import INITIAL_KEYS, initial_texts

        problem = self.problem
        for key in INITIAL_KEYS:
            if (texts := initial_texts(self, key)) is not None:
                problem.feedback_expressions(f"policy.initial.{key}", texts)

    def _check_goal(self) -> None:
        """Check that criterion, goal and start law go together.  Raises CaseError."""
        kind, goal = self.criterion.kind, self.goal
        if self.solver.kind != "grid" and (goal is not None or self.start):
            table = "start" if goal is None else "goal"
            raise CaseError(f'{table}: the neural solver takes none, use solver.kind = "grid"')
        if kind == "total" and (goal is None or goal.then != "stop"):
            raise CaseError(
                'goal: missing, kind = "total" is the cost until a goal: [goal] where = ...'
                if goal is None
                else 'goal.then: "restart" has no end, and no total cost: use criterion.kind = "average", or then = "stop"'
            )
        if kind == "average" and goal is not None and goal.then == "stop":
            raise CaseError(
                'goal.then: an average over all time does not stop: use criterion.kind = "total", the cost until the goal, or '
                'then = "restart", the average over episodes'
            )
        if kind == "average" and goal is None and self.start:
            raise CaseError(
                'start: the average cost does not depend on where one starts; use it with criterion.kind = "discounted", or with '
                'a goal'
            )
        for key, expected in (("average_cost", kind != "total"), ("total_cost", kind == "total")):
            if getattr(self.expect, key) is not None and not expected:
                raise CaseError(f"expect.{key}: not of criterion.kind = {kind!r}")

    def _check_distance(self, key: str, action: ActionTable) -> None:
        """Check that the distances between the values of an action are a metric.  Raises CaseError."""
        path, given, count = f"actions.{key}.distance", action.distance, len(action.numbers)
        if given is None:
            return
        if action.values is None:
            raise CaseError(f"{path}: it is one between values of a list, which {key} does not take: leave it out")
        if isinstance(given, dict):
            if not action.names:
                raise CaseError(f"{path}: places are those of names, and the values of {key} have none: give a matrix, or names")
            if odd := next((name for name in given if name not in action.names), None):
                raise CaseError(f"{path}.{odd}: unknown value{remedy(odd, list(action.names))}")
            if odd := next((name for name in action.names if name not in given), None):
                raise CaseError(f"{path}: {odd} has no place, give it one")
        named = [str(name) for name in action.names or [f"{number:g}" for number in action.numbers]]
        if not isinstance(given, dict) and (len(given) != count or len(given[0]) != count):
            raise CaseError(
                f"{path}: expected a matrix of {count} rows of {count} numbers, one for each of the values {', '.join(named[:8])}"
                f"{', ...' if count > 8 else ''}, got {len(given)} of {len(given[0])}"
            )
        apart = action.distances
        for i, one in enumerate(named):
            for j, other in enumerate(named):
                wrong = apart[i][j] != apart[j][i] or (apart[i][j] == 0.0) != (i == j) or not 0.0 <= apart[i][j] < math.inf
                if wrong:
                    raise CaseError(
                        f"{path}: {apart[i][j]:g} from {one} to {other} and {apart[j][i]:g} back: distances are positive and the "
                        "same both ways, and zero from a value to itself alone"
                    )
        if isinstance(given, dict):
            return
        for k, way in enumerate(named):
            for i, one in enumerate(named):
                short = next((j for j in range(count) if apart[i][j] > (apart[i][k] + apart[k][j]) * (1.0 + 1e-12)), None)
                if short is not None:
                    raise CaseError(
                        f"{path}: {apart[i][short]:g} from {one} to {named[short]} is longer than the way by {way}, "
                        f"{apart[i][k] + apart[k][short]:g}: no distance is"
                    )

    def _check_time(self) -> None:
        """Check that states and cost have the keys of discrete or of continuous time, and no others."""
        discrete, continuous = ("next", "noise", "stage"), ("drift", "diffusion", "rate")
        used, other = (discrete, continuous) if self.time is None else (continuous, discrete)
        law, _, cost = used
        kind = "discrete time (no [time] table)" if self.time is None else "continuous time ([time] table)"
        tables: list[tuple[str, BaseModel]] = [(f"states.{key}", table) for key, table in self.states.items()]
        for path, table in [*tables, ("cost", self.cost)]:
            for key, instead in zip(other, used, strict=True):
                if getattr(table, key, None) is not None:
                    remedy = " or add [time] step = ..." if self.time is None else " or drop [time]"
                    raise CaseError(f"{path}.{key}: not a key of {kind}, use {instead}{remedy}")
        for path, table in tables:
            if getattr(table, law) is None:
                raise CaseError(f"{path}.{law}: missing, every state needs it in {kind}")
        if getattr(self.cost, cost) is None:
            raise CaseError(f"cost.{cost}: missing, needed in {kind}")

    def _check_geometry(self) -> None:
        """Check what goes with weights that move, and with weights that rest."""
        flow, facts = self.flow, GEOMETRY_FACTS[self.flow.geometry]
        listed = all(action.values is not None for action in self.actions.values())
        # between values of lists proximal steps move mass, elsewhere actions
        able = [name for name, each in METHOD_FACTS.items() if flow.geometry in each.geometries or (listed and each.moves_mass)]
        if flow.regularisation is not None and not (listed and METHOD_FACTS[flow.method].moves_mass):
            raise CaseError(
                'flow.regularisation: that of method = "proximal" where all actions take values of lists, between which mass '
                "spreads: leave it out"
            )
        if flow.method not in able:
            raise CaseError(
                f'flow.method: {flow.method} is not defined for geometry = "{flow.geometry}", which takes {", ".join(able)}'
            )
        if not isinstance(flow.step, str) and not METHOD_FACTS[flow.method].sized:
            raise CaseError(f'flow.step: {flow.method} has no step length, its step is the limit of long ones: use "adaptive"')
        if self.policy.blobs is not None and self.output.curvature_every:
            raise CaseError("output.curvature_every: the Hessian is not known where entropy has a price, use 0")
        if not facts.weights:
            if flow.weight_rate is not None:
                raise CaseError(
                    f'flow.weight_rate: weights rest where geometry = "{flow.geometry}", add geometry = "wasserstein_fisher_rao"'
                )
            return
        if self.solver.kind != "grid":
            raise CaseError(f'flow.geometry: "{flow.geometry}" moves weights of particles, which only solver.kind = "grid" has')
        if self.policy.particles == 1 and not facts.actions:
            raise CaseError("policy.particles: the weight of a single particle is one and cannot move, use more")

    def _check_even(self) -> None:
        """Check that the particles of an even start fill a product of points."""
        particles, m, each = self.policy.particles, 0, 1
        for key, action in self.actions.items():
            m += 0 if action.values is not None else len(self._members(key))
            each *= 1 if action.values is None else len(action.numbers) ** len(self._members(key))
        if m == 0:
            return
        side = round((particles / each) ** (1.0 / m))
        if each * side**m != particles:
            sides = {max(side - 1, 1), max(side, 1), side + 1}
            near = sorted((each * some**m for some in sides), key=lambda count: abs(count - particles))[:2]
            what = f"{m} actions" if each == 1 else f"{m} actions beside {each} combinations of values"
            raise CaseError(
                f"policy.particles: {particles} particles do not stand evenly over {what}, take {near[0]} or {near[1]}"
            )

    def _check_grid(self) -> None:
        """Check what the grid solver needs: dimension, domains and points."""
        names = [name for key in self.states for name in self._members(key)]
        if len(names) > MAXIMUM_DIMENSION:
            raise CaseError(
                f"states: {len(names)} state dimensions, the grid solver takes at most {MAXIMUM_DIMENSION}: "
                'use solver.kind = "neural"'
            )
        for key, state in self.states.items():
            if state.domain is None:
                raise CaseError(f"states.{key}.domain: missing, the grid solver needs two numbers [lower, upper]")
        for name in names:
            if name not in self.grid.points:
                raise CaseError(f"grid.points.{name}: missing, expected a number of points for every state")
        numbers = [count for count in self.grid.points.values() if isinstance(count, int)]
        if not numbers:
            raise CaseError('grid.points: all axes are "aligned", at least one needs a number of points')
        for name, count in self.grid.points.items():
            key = next(key for key in self.states if name in self._members(key))
            low, high = self.states[key].domain or (0.0, 1.0)
            spacing = high / (count if isinstance(count, int) else 2) - low / (count if isinstance(count, int) else 2)
            size = max(abs(low), abs(high))
            if not max(LEAST_SPACING, 8 * math.ulp(size)) <= spacing < math.inf or not math.isfinite(high - low):
                raise CaseError(
                    f"states.{key}.domain: [{low:g}, {high:g}] cannot be told into {count} grid points in double precision: "
                    "measure the state from another origin or in another unit"
                )
        cells = 1
        for count in numbers:
            cells *= count
        if cells > MAXIMUM_CELLS:
            raise CaseError(f"grid.points: {cells:.3g} cells, more than {MAXIMUM_CELLS}: use fewer points")


def _unquoted(text: str, problem: str) -> str:
    """Return what to write where an error of TOML is about a value that is text without its quotes, or nothing."""
    place = re.search(r"\(at line (\d+), column", problem)
    line = text.split("\n")[int(place[1]) - 1][:_LONGEST_LINE] if place else ""
    match = re.fullmatch(r"\s*([\w.\"\[\]-]+)\s*=\s*([^\"'=\[{#][^\"'=#]*?)\s*(?:#.*)?", line)
    return f": text and expressions stand in quotes, {match[1]} = \"{match[2][:60]}\"" if match else ""


def _plain(value: Any, path: str) -> Any:
    """Return a copy of a value given in Python as TOML would have given it: dicts, lists, numbers, text; others as they are."""
    if isinstance(value, Mapping):
        result = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise CaseError(f"{path or 'tables'}: expected names in quotes as keys, got {shown(key)}")
            result[key] = _plain(item, f"{path}.{key}".lstrip("."))
        return {key: item for key, item in result.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item, path) for item in value]
    return value.tolist() if hasattr(value, "dtype") and hasattr(value, "tolist") else value


def _one_line(error: ValidationError) -> str:
    """Return the first error as one line with the path of its key; misspelt keys go first."""
    details = sorted(error.errors(include_url=False), key=lambda detail: detail["type"] != "extra_forbidden")
    detail = details[0]
    location, kind, context = detail["loc"], detail["type"], detail.get("ctx", {})
    if kind == "keyed":
        location = (*location, context["key"])
    path = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        table = table_at(Case, location[:-1])
        known = list(table.model_fields) if table is not None else []
        there = elsewhere(Case, str(location[0])) if len(location) == 1 else ""
        message = f"unknown key{there or remedy(str(location[-1]), known)}"
    elif kind == "missing":
        table = table_at(Case, location[:-1])
        meaning = table.model_fields[str(location[-1])].description if table is not None else ""
        message = f"missing: {meaning}"
    elif kind in ("model_type", "dict_type", "model_attributes_type"):
        message = f"expected a table, got {shown(detail['input'])}"
    elif kind == "value_error":
        message = str(context["error"])
    elif kind == "keyed":
        message = str(context["message"])
    else:
        message = f"{detail['msg'][:1].lower()}{detail['msg'][1:]}, got {shown(detail['input'])}"
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return f"{path[:200]}: {message}{more}"
