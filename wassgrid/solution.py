"""What solving a case in Python comes to: the outcome of a run with its history, to look at, save, plot and start from again."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wassgrid.case import Case
from wassgrid.errors import PackageMissingError, WassgridError
from wassgrid.load_policy import Policy
from wassgrid.observers.recorder import Recorder, root_attributes
from wassgrid.observers.watches import FinitenessWatch, SignalWatch
from wassgrid.policy import ParticlePolicy
from wassgrid.runs.history import History
from wassgrid.runs.loop import Observer, StepRecord, Verdict
from wassgrid.runs.schema import UPPER_END
from wassgrid.runs.solvers import SOLVERS
from wassgrid.runs.solvers import solve as solve_observed
from wassgrid.runs.start import Start
from wassgrid.storage import ResultFile

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

Initial = Policy | str | os.PathLike[str]  # or a Solution
Progress = bool | Callable[[Mapping[str, float]], str | None]


class ArgumentError(WassgridError, TypeError):
    """An argument of another kind than the function takes."""


@dataclass(frozen=True, repr=False, eq=False)
class Solution:
    """The outcome of a run.

    | name           | meaning                                                                                       |
    |----------------|-----------------------------------------------------------------------------------------------|
    | objective      | J of the policy, in the unit of the cost                                                      |
    | standard_error | of J, where it is simulated (neural runs); 0 on a grid                                        |
    | lower_bound    | proven: no policy on this grid costs less; nan where nothing is proven                        |
    | policy         | the policy (`Policy`)                                                                         |
    | stationary     | probability of every cell (cells,), sums to one; None without a grid                          |
    | value          | relative value V (cells,), unit of the cost (times that of time); None without a grid         |
    | converged      | whether a tolerance was reached                                                               |
    | complete       | whether what the case asks for was reached: a tolerance, its flow time, as far as can be      |
    | status, reason | `converged`, `stopped` or `interrupted`, and why, in a sentence                               |
    | history        | the numbers of every step, a table (`History`)                                                |
    | record         | those of the last step                                                                        |
    | case           | what was solved                                                                               |
    """

    case: Case
    objective: float
    standard_error: float
    lower_bound: float
    policy: Any
    stationary: np.ndarray | None
    value: np.ndarray | None
    converged: bool
    complete: bool
    status: str
    reason: str
    history: History
    record: Mapping[str, float]
    _run: _Kept

    @property
    def summary(self) -> Mapping[str, Any]:
        """What the run reports about its grid and chain; computed when it is asked for."""
        found: Mapping[str, Any] = self._run.outcome.summary
        return found

    def __repr__(self) -> str:
        error = f" +- {self.standard_error:.2g}" if self.standard_error else ""
        unit = f" {self.case.cost.unit}" if self.case.cost.unit else ""
        words = [f"J = {self.objective:.8g}{error}{unit}"]
        if math.isfinite(self.lower_bound):
            words.append(f"proven to {max(self.record.get(UPPER_END, self.objective) - self.lower_bound, 0.0):.2g}")
        if self.stationary is not None:
            words.append(f"{' x '.join(map(str, self.policy.grid.shape))} cells, {self.policy.particles} particles")
        words.append(f"{self.record['step']:.0f} steps")
        return f"<Solution of {self.case.name}: {self.status}, {', '.join(words)}>"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a result file as `wassgrid run` does and return its path; `Policy.load`, info, plot, simulate and resume open it.

        It holds every row of the history and one frame, that of the last step: `run` writes frames along the way. An earlier
        result of that name is kept beside it, as NAME.1.h5. Raises StorageError.
        """
        run = self._run
        return Recorder.store(path, self.case, run.rows, run.last, run.verdict, run.outcome, run.source)

    def plot(self, path: str | os.PathLike[str] | None = None) -> dict[str, Figure]:
        """Draw what there is to draw (convergence, policy, stationary, value) and return the figures by name.

        path: a folder, where each is written as CASE_NAME.png too. Raises StorageError.
        """
        from wassgrid import plotting

        name = re.sub(r"[^\w.-]", "_", self.case.name)[:80] or "case"
        with tempfile.TemporaryDirectory() as folder:
            figures = plotting.figures([self.save(Path(folder) / f"{name}.h5")])
        figures.pop(f"{name}_trajectories", None)  # of one frame
        if path is not None:
            for text, figure in figures.items():
                plotting.save(figure, Path(path) / f"{text}.png")
        return {text.removeprefix(f"{name}_"): figure for text, figure in figures.items()}

    def to_xarray(self) -> xarray.Dataset:
        """Return an xarray Dataset with named dimensions and units: policy, stationary law and value of the last step over the
        states, and the history over `step`.  Raises PackageMissingError without xarray.
        """
        try:
            import xarray
        except ImportError as error:
            text = f"Solution.to_xarray needs xarray, which cannot be imported here ({error}): pip install xarray"
            raise PackageMissingError(text) from None
        kind = SOLVERS[self.case.solver.kind]
        layout, frame = kind.layout(self.case), self._run.last.frame()
        axes = {axis.name: axis for axis in (*layout.get("grid", ()), *layout["axes"])}
        step = "step" if "step" not in axes else "step_axis"
        series, columns = layout["series"][kind.frames], layout["series"]["convergence"]
        named = {name: {"long_name": item.long_name, "units": item.units} for name, item in (columns | series).items()}
        variables: dict[str, Any] = {
            name: ((step,), column, named.get(name, {})) for name, column in self.history.items() if name != "step"
        }
        variables |= {name: (variable.dimensions, frame[name], named[name]) for name, variable in series.items()}
        used = {name for dimensions, *_ in variables.values() for name in dimensions}
        coordinates: dict[str, Any] = {
            name: ((name,), np.asarray(axis.values), {"long_name": axis.long_name, "units": axis.units} | dict(axis.attributes))
            for name, axis in axes.items()
            if name in used
        }
        about = root_attributes(self.case)
        attributes = {name: about[name] for name in ("title", "case", "case_name", "seed", "wassgrid_version")}
        attributes |= {"status": self.status, "reason": self.reason}
        return xarray.Dataset(variables, coordinates | {step: ((step,), self.history["step"])}, attributes)


def solve(
    case: Case,
    observers: Sequence[Observer] = (),
    resume_from: Mapping[str, Any] | None = None,
    *,
    initial: Initial | Solution | None = None,
    progress: Progress = False,
) -> Solution:
    """Solve a case and return its solution; nothing is written.

    initial: what to start from in place of the case's initial policy: a Solution, a policy, or the path of a result file. It may
    be on another grid and of other parameters: it is interpolated. Its states, their order and periods and the number of
    actions must be those of the case. Other numbers of particles share its distribution out, means kept; those of several actions
    only from one particle, which is repeated, or to one, the mean.
    progress: True shows how the run gets on, on stderr; a function is called after every step with the numbers of the step by
    name, as in `Solution.history`, and may return a text to end the run with that reason.
    observers: further ones (`wassgrid.runs.loop.Observer`); resume_from: the checkpoint of a result file.

    Ctrl-C ends the run after the last whole step, with status `interrupted`. Raises WassgridError: for a case, a policy or a file
    that cannot be used, for memory that is short, and for a run that failed.

    >>> import wassgrid as wg
    >>> case = wg.Case.load("cases/scalar_lq.toml", ["grid.points.x=21"])
    >>> coarse = wg.solve(case)
    >>> fine = wg.solve(wg.Case.load("cases/scalar_lq.toml"), initial=coarse)
    >>> fine.converged, fine.policy.mean({"x": [-1.0, 1.0]}).shape, fine.history["objective"].shape == fine.history["step"].shape
    (True, (2, 1), True)
    """
    given = _start_of(initial)
    with ExitStack() as stack:
        kept = _Kept(given)
        watching = [FinitenessWatch(), *_watching(stack, case, progress), *observers, kept]
        return kept.solution(case, solve_observed(case, watching, resume_from, given))


def run(
    case: Case, path: str | os.PathLike[str], *, initial: Initial | Solution | None = None, progress: Progress = False
) -> Solution:
    """Solve a case, write its result file along the way, as `wassgrid run` does, and return the solution.

    path: of the result file; an earlier result of that name is kept beside it, as NAME.1.h5. initial, progress: as for `solve`.
    Whatever ends the run leaves a file that can be read and resumed. Raises WassgridError, StorageError where the file cannot be
    written; a case that is refused before its first step leaves none.
    """
    given = _start_of(initial)
    with ExitStack() as stack:
        recorder = stack.enter_context(Recorder.create(path, case, given.source if given else None))
        watch = stack.enter_context(SignalWatch(lambda: recorder.busy, leaves=False))
        kept = _Kept(given)
        watching = [FinitenessWatch(), *_watching(stack, case, progress), kept, recorder, watch]
        return kept.solution(case, solve_observed(case, watching, given=given))


class _Kept:
    """Observer that keeps what a solution is made of: the numbers of every step, and all of the last one."""

    def __init__(self, given: Start | None) -> None:
        self.source = given.source if given else None
        self.rows: list[Mapping[str, float]] = []
        self.last: StepRecord
        self.verdict: Verdict
        self.outcome: Any

    def start(self, case: Case, solver: Any, first: StepRecord, resumed: bool) -> None:
        self.step(first)

    def step(self, record: StepRecord) -> str | None:
        self.rows.append(record.scalars)
        self.last = record
        return None

    def finish(self, verdict: Verdict, solution: Any | None) -> None:
        self.verdict = verdict

    def solution(self, case: Case, outcome: Any) -> Solution:
        """Return the solution, of what the solver found."""
        self.outcome = outcome
        known = {item.name: getattr(outcome, item.name) for item in fields(Solution) if hasattr(outcome, item.name)}
        of_grid = {"standard_error": 0.0, "stationary": None, "value": None}
        return Solution(**of_grid | known, case=case, history=History(self.rows), _run=self)


class _Call:
    """Observer that calls a function after every step."""

    def __init__(self, function: Callable[[Mapping[str, float]], str | None]) -> None:
        self._function = function

    def start(self, case: Case, solver: Any, first: StepRecord, resumed: bool) -> None:
        self._function(dict(first.scalars))

    def step(self, record: StepRecord) -> str | None:
        return self._function(dict(record.scalars))

    def finish(self, verdict: Verdict, solution: Any | None) -> None:
        pass


def _watching(stack: ExitStack, case: Case, progress: Progress) -> list[Any]:
    """Return the observers that tell how the run gets on."""
    if callable(progress):
        return [_Call(progress)]
    if not progress:
        return []
    from rich.console import Console

    from wassgrid.observers.progress import shown

    return stack.enter_context(shown(case, Console(stderr=True)))


def _start_of(initial: Initial | Solution | None) -> Start | None:
    """Return what a run starts from: the policy of a solution or a file with its law and value, or a policy alone."""
    if initial is None:
        return None
    if isinstance(initial, Solution):
        return Start(initial.policy, f"the solution of {initial.case.name}", initial.stationary, initial.value)
    if isinstance(initial, str | os.PathLike):
        path = Path(initial)
        with ResultFile(path) as file:
            if "trajectory" in file.series:
                policy = ParticlePolicy.from_result(file)
                law, value = (file.frame(name).ravel() for name in ("stationary", "value"))
                if law.size == value.size == policy.grid.size and np.isfinite(law).all() and np.isfinite(value).all():
                    return Start(policy, path.name, law, value)
                return Start(policy, path.name)
        return Start(Policy.load(path), path.name)
    if not isinstance(initial, Policy):
        raise ArgumentError(f"initial: expected a solution, a policy or the path of a result file, got {type(initial).__name__}")
    return Start(initial, "a policy given in Python")
