"""A dry run of a case: what it needs, how well its grid carries it, and whether its derivatives are right."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from wassgrid.advice import aligned, least_noise, resolving_points, suggest
from wassgrid.chain.classes import LISTED, never_reaching, period, reached_together, recurrent_classes
from wassgrid.chain.stationary import settling, starting_law
from wassgrid.differences import GRADIENT_TOLERANCE, HESSIAN_TOLERANCE, KINKS, DerivativeCheck, check_derivatives
from wassgrid.errors import overflow_named
from wassgrid.evaluation import Evaluation, Evaluator
from wassgrid.grid import StateGrid, misalignment
from wassgrid.memory import estimate_memory
from wassgrid.method.facts import METHOD_FACTS
from wassgrid.metric import Metric, gradient_norm
from wassgrid.policy import initial_policy
from wassgrid.problem.boundary import BOUNDARIES
from wassgrid.report import added_noise, chosen_kernels, resolution_table
from wassgrid.resolution import resolution
from wassgrid.resources import amount, memory_limit
from wassgrid.runs.schema import STEP
from wassgrid.runs.solvers import SOLVERS, make_solver
from wassgrid.transition.axis_kernels import RESOLVED
from wassgrid.transition.compilation import compile_time
from wassgrid.transition.model import TransitionModel
from wassgrid.transition.operator import MarkovOperator

if TYPE_CHECKING:
    from rich.console import RenderableType

    from wassgrid.case import Case
    from wassgrid.observers.progress import Pace

_OFF_NODE = 1e-6  # in cells
_LONGER = 10.0  # times the noise of a step: what another time step may be suggested for
_NAMES = 17  # letters of the longest name of a finding, as a rule
_LOOKS = 4  # steps that are taken to see the pace of a run
_AT_THE_ENDS = 1e-3  # probability of the outermost points of an axis from which the domain is felt
_NEAR_END = 3.0  # noises
_DENSE = 0.6  # of the distance of its actions that a policy has to be wide: the trapezoidal rule errs by 2 exp(-2 pi^2 0.6^2)
_TRAP = 0.01  # share of the cells: a chain that stays in fewer is trapped
OK, WARN, FAILED = "ok", "warn", "FAILED"
_STYLES = {OK: "green", WARN: "yellow", FAILED: "bold red"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    level: "ok"; "warn": the run goes through, and its result is to be doubted for what is said; "FAILED": an obstacle to the
    run, or to trust in the software.
    """

    name: str
    text: str
    level: str = OK

    @property
    def passed(self) -> bool:
        return self.level != FAILED

    @property
    def part(self) -> RenderableType:
        """What the command line prints."""
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        table.add_column(width=6)
        table.add_column(width=_NAMES)
        table.add_row(Text(self.level, style=_STYLES[self.level]), Text(self.name, style="bold"), Text(self.text))
        return table


@dataclass(frozen=True)
class CheckReport:
    """What a dry run found, in the order in which it was looked at; `resolution` as in `wassgrid.resolution`."""

    title: str
    findings: tuple[Finding, ...]
    resolution: tuple[dict[str, Any], ...] = ()

    @property
    def passed(self) -> bool:
        return all(finding.passed for finding in self.findings)

    def parts(self) -> Iterator[RenderableType]:
        """Yield what the command line prints."""
        from rich.text import Text

        yield Text(self.title, style="bold")
        for finding in self.findings:
            yield finding.part
        if self.resolution:
            yield resolution_table(list(self.resolution))


def check_case(case: Case) -> CheckReport:
    """Look at a case without solving it and collect what `findings` yields."""
    found: list[Finding] = []
    noise: tuple[dict[str, Any], ...] = ()
    for finding in findings(case):
        if isinstance(finding, Finding):
            found.append(finding)
        else:
            noise = finding
    return CheckReport(title(case), tuple(found), noise)


def title(case: Case) -> str:
    return f"{case.name}: {case.title}" if case.title else case.name


def findings(case: Case) -> Iterator[Finding | tuple[dict[str, Any], ...]]:
    """Look at a case without solving it, and yield every finding as it comes; the noise of the grid's axes comes last.

    Memory, grid, chain and derivatives at the initial policy, and the time of a step. Stops at the first obstacle that the
    later looks would stumble over. Raises the errors of a run that come from the case itself (expressions, alignment,
    resolution of the noise).
    """
    if not SOLVERS[case.solver.kind].gridded:
        yield _first_steps(case).finding
        return
    grid = StateGrid.from_case(case)
    model = None
    memory = _memory(case, grid)
    if memory.passed:
        model = TransitionModel.from_case(case, grid)
        policy = initial_policy(case, grid)
        memory = _memory(case, grid, model, estimate_memory(case, grid, model, policy).total)
    yield memory
    if model is None:
        return
    yield from _alignment(case, model)
    if not memory.passed:
        return
    mean, _ = model.means(policy.actions)
    classes = _classes(case, model, mean, policy.weights)
    yield classes
    if not classes.passed:
        return
    evaluator = Evaluator.from_case(case, model)
    evaluation = evaluator.evaluate(policy)
    slope = gradient_norm(evaluation, Metric.from_case(case))
    yield Finding("initial policy", f"J = {evaluation.objective:.10g}, norm of the gradient {slope:.4g}")
    yield from _cut_goal(model)
    yield from _unresolved(case, model)
    if text := case.unseen_jumps:
        yield Finding("jumps", text, WARN)
    metric = Metric.from_case(case)
    if case.policy.blobs is None and (metric.weights or METHOD_FACTS[case.flow.method].follows):
        yield from _derivatives(check_derivatives(evaluator, evaluation, metric=metric), model)
    looks = _first_steps(case)
    yield looks.finding
    # a policy that nobody chose says little of where the chain will be
    assert looks.evaluation is not None
    yield from _ends(grid, looks)
    yield from _beside_the_noise(case, grid, looks)
    yield from _quadrature(case, looks)
    noise = resolution(looks.evaluation)
    if chosen := chosen_kernels(noise):
        yield Finding("kernels by auto", f"{chosen}; another grid may get others")
    for name, text in added_noise(noise):
        yield Finding(name, text, WARN)
    yield tuple(noise)


def _memory(case: Case, grid: StateGrid, model: TransitionModel | None = None, needed: float | None = None) -> Finding:
    limit = memory_limit(case)
    needed = estimate_memory(case, grid).total if needed is None else needed
    shape = " x ".join(map(str, grid.shape))
    kernels = "" if model is None else f"; kernels {', '.join(map(': '.join, zip(grid.names, model.kernels, strict=True)))}"
    text = f"about {amount(needed)} of {amount(limit)} for {shape} cells of {case.policy.particles} particles{kernels}"
    if needed > limit:
        return Finding("memory", f"{text}: use fewer points or particles, or raise solver.memory", FAILED)
    return Finding("memory", text)


def _alignment(case: Case, model: TransitionModel) -> list[Finding]:
    """Say for every noise-free axis how far its means lie from the nodes, and which axis could be aligned with it."""
    findings = []
    noise = least_noise(case, model.grid)
    for j, name in enumerate(model.grid.names):
        if model.noise[:, j].any():
            continue
        if model.problem.dependence.actions[j]:
            text = f"means of {name}, which has no noise, may move with the action: they end between grid points, on any grid"
            findings.append(Finding("alignment", text))
            continue
        offset = misalignment(case.problem, model.grid, j)
        if offset <= _OFF_NODE:
            findings.append(Finding("alignment", f"means of {name} lie on grid points: no numerical diffusion there"))
            continue
        hints = []
        for other in model.grid.names:
            if other != name and (found := aligned(case, model.grid, other, noise)) is not None:
                hints.append(f"{found[0]} ({' x '.join(map(str, found[1].shape))} cells)")
        remedy = f"possible: {' or '.join(hints)}" if hints else "no other axis can be aligned with it on so many points"
        text = f"means of {name}, which has no noise, lie up to {offset:.2g} cells off grid points; {remedy}, see --suggest"
        findings.append(Finding("alignment", text))
    return findings


def _unresolved(case: Case, model: TransitionModel) -> Iterator[Finding]:
    """Say which axes have noise that no kernel carries as it is on so few points."""
    noise = least_noise(case, model.grid)
    points = resolving_points(case, model.grid, noise)
    for j, name in enumerate(model.grid.names):
        ratio = noise[j] / model.grid.spacing[j]
        if 0 < ratio < RESOLVED * (1 - 1e-9):
            text = f"noise of {name} is {ratio:.2g} cells, and no kernel keeps less than {RESOLVED:g} as it is"
            yield Finding("noise", f"{text}: from {points[name]} points on it is kept", WARN)


def suggestions(case: Case) -> Iterator[Finding]:
    """Yield grids that resolve the noise: settings, cells, memory, and the time of a run where that of this grid is known.

    The last one says that nothing but the noise was looked at.
    """
    grid = StateGrid.from_case(case)
    found = suggest(case, grid)
    if not found:
        text = "none for the noise: this grid carries it as it is" if _kept(case, grid) else _time_step(case, grid)
        yield Finding("suggestion", text)
    for suggestion in found:
        shape = " x ".join(map(str, suggestion.shape))
        times = suggestion.cells / grid.size
        text = f"--set '{suggestion.settings[0]}': {shape} = {suggestion.cells:,} cells, about {amount(suggestion.memory)} and "
        yield Finding("suggestion", f"{text}{times:.2g} times as long; {suggestion.text}")
    if found and case.time is not None and not _kept(case, grid):
        yield Finding("suggestion", _time_step(case, grid))
    text = "the noise alone was looked at here. Kinks of cost, law and policy and mass at the ends of the domain want points too"
    yield Finding("suggestion", f"{text}; whether they have enough says `problem itself` of a run, and a run on twice the points")


def _kept(case: Case, grid: StateGrid) -> bool:
    noise = least_noise(case, grid)
    return bool((noise[noise > 0] >= RESOLVED * (1 - 1e-9) * grid.spacing[noise > 0]).all())


def _time_step(case: Case, grid: StateGrid) -> str:
    """Say which time step resolves the noise on the points that there are; the noise of a step grows as its root."""
    noise = least_noise(case, grid)
    ratio = float((noise[noise > 0] / grid.spacing[noise > 0]).min(initial=np.inf))
    if case.time is None or ratio * _LONGER < RESOLVED:
        return "no grid of up to two million cells resolves the noise"
    step = case.time.step * (RESOLVED / ratio) ** 2
    return f"on these points --set time.step={step:.3g} would resolve it; the error of the steps themselves grows with them"


def _classes(case: Case, model: TransitionModel, mean: np.ndarray, weights: np.ndarray) -> Finding:
    operator = model.operator(mean, weights)
    if model.goal is not None and (found := _goal(case, model, operator)) is not None:
        return found
    if operator.entries > LISTED:
        law = settling(operator, starting_law(operator.size))
        if reached_together(operator, int(law.argmax())):
            return Finding("recurrent classes", f"1 under the initial policy; {operator.entries:,} transition entries")
        return Finding("recurrent classes", f"not listed: {operator.entries:,} transition entries are too many")
    classes = recurrent_classes(operator)
    if len(classes) > 1:
        places = ", ".join(model.grid.describe_cell(int(cells[0])) for cells in classes[:3])
        text = f"{len(classes)} under the initial policy, at {places}"
        if case.problem.discount is None:
            return Finding("recurrent classes", f"{text}: the average cost depends on where one starts", FAILED)
        return Finding("recurrent classes", text)
    if classes[0].size < _TRAP * operator.size:
        place = model.grid.describe_cell(int(classes[0][0]))
        text = f"the chain ends in {classes[0].size} of {operator.size:,} cells, at {place}, under the initial policy"
        text += ": the grid may be too coarse to leave there, or the policy does not move the state"
        return Finding("trapped chain", text, WARN)
    steps = period(operator, classes[0])
    cycle = f", with period {steps}" if steps > 1 else ""
    share = f"{classes[0].size:,} of {operator.size:,} cells"
    return Finding("recurrent classes", f"1 under the initial policy, {share}{cycle}; {operator.entries:,} transition entries")


def _goal(case: Case, model: TransitionModel, operator: MarkovOperator) -> Finding | None:
    """Say whether the goal is reached from everywhere under the initial policy; None where the chain goes on after it."""
    goal = model.goal
    assert goal is not None
    if goal.law is not None:
        return None
    lost = never_reaching(operator, goal.inside)
    text = f"{np.count_nonzero(goal.inside):,} of {operator.size:,} cells; episodes start with {case.problem.start.describe()}"
    if lost.size == 0:
        return Finding("goal", f"{text}; it is reached from every cell under the initial policy")
    places = ", ".join(model.grid.describe_cell(int(cell)) for cell in lost[:3])
    text += f"; from {lost.size:,} cells it is never reached under the initial policy, at {places}"
    if case.criterion.kind == "discounted":
        return Finding("goal", text)
    remedy = "begin with a policy that gets there (policy.initial), add noise, or take that part out of the domain"
    return Finding("goal", f"{text}: their total cost has no end; {remedy}", FAILED)


def _cut_goal(model: TransitionModel) -> Iterator[Finding]:
    """Say where ends that cut the law off lie within the noise of the goal: what would leave there is put back before them."""
    if model.goal is None:
        return
    for j, name in enumerate(model.grid.names):
        kernel = model.axis_kernels[j]
        cuts = model.grid.boundary[j] == "truncate" or (model.grid.boundary[j] == "clamp" and kernel.name != "linear")
        inside = np.moveaxis(model.goal.inside.reshape(model.grid.shape), j, 0)
        noise = float(model.noise[:, j].max())
        near = math.ceil(_NEAR_END * noise / model.grid.spacing[j])
        for end, rows in (("lower", inside[:near]), ("upper", inside[::-1][:near])):
            if cuts and noise > 0 and len(rows) and rows[0].any() and not rows[:, rows[0]].all():
                text = f"it reaches to the {end} end of {name}, less than {_NEAR_END:g} noises away, which cuts the law off: "
                text += f'the goal is reached too seldom. Use states.{name}.boundary = "project", or a wider domain'
                yield Finding("goal", text, WARN)


def _ends(grid: StateGrid, looks: _Looks) -> list[Finding]:
    """Say where the chain feels the ends of a clamped axis under the policy of the last step taken; that may be meant."""
    text = "of the time is spent at the ends of {} under {}: widen it unless it is meant"
    shares = _at_the_ends(grid, looks)
    return [Finding("domain", f"{share:.2g} {text.format(name, looks.policy)}", WARN) for name, share in shares.items()]


def _at_the_ends(grid: StateGrid, looks: _Looks) -> dict[str, float]:
    """Return the share of the time at the ends of the axes that stop there, where it is felt."""
    shares = {}
    for k, name in enumerate(grid.names):
        if BOUNDARIES[grid.boundary[k]].stops:
            marginal = looks.law.reshape(grid.shape).sum(axis=tuple(j for j in range(grid.dimension) if j != k))
            shares[name] = float(marginal[0] + marginal[-1])
    return {name: share for name, share in shares.items() if share > _AT_THE_ENDS}


def _beside_the_noise(case: Case, grid: StateGrid, looks: _Looks) -> Iterator[Finding]:
    """Say what wants points beside the noise, as far as it is seen: kinks of cost and law, of the policy, mass at the ends."""
    assert looks.evaluation is not None
    found = [*case.problem.kinks]
    policy = looks.evaluation.policy
    if case.problem.choices is not None:
        found.append("a policy that switches between the actions of a list")
    else:
        if case.problem.mixed:
            found.append("a policy that switches between the values of a list")
        low, high = looks.evaluation.model.limits
        held = ((policy.actions <= low) | (policy.actions >= high)) & ~case.problem.listed
        for name, share in zip(case.problem.action_names, np.einsum("k,ki,kia->a", looks.law, policy.weights, held), strict=True):
            if share > _AT_THE_ENDS:
                found.append(f"{name} at its bounds in {share:.2g} of the time, where the policy has kinks")
    found += [f"the ends of {name}, {share:.2g} of the time" for name, share in _at_the_ends(grid, looks).items()]
    if found:
        text = f"{'; '.join(found)} (under {looks.policy}). What the grid errs by there is not in the table of the noise"
        yield Finding("beside the noise", f"{text}: `problem itself` of a run tells")


def _quadrature(case: Case, looks: _Looks) -> Iterator[Finding]:
    """Say where the actions on which entropy is known lie too far apart to stand for a density: the policy is narrower.

    Q + eps log w is constant: near the minimum of Q the variance of the policy is eps/Q'', eps over the second difference of Q in
    units of the distance squared.
    """
    evaluation = looks.evaluation
    assert evaluation is not None
    m, count = evaluation.policy.action_dimension, evaluation.policy.particles
    side = round(count ** (1.0 / m))
    if evaluation.entropy is None or case.problem.choices is not None or side < 3:
        return
    law = np.maximum(evaluation.law, 0.0)
    if evaluation.controlled is not None:
        law = np.where(evaluation.controlled, law, 0.0)
    place = np.unravel_index(evaluation.q.argmin(axis=1), (side,) * m)
    narrow, cells = {}, np.arange(law.size)
    for a, name in enumerate(case.problem.action_names):
        inner = [np.clip(k, 1, side - 2) if j == a else k for j, k in enumerate(place)]
        beside = [np.ravel_multi_index([k + step * (j == a) for j, k in enumerate(inner)], (side,) * m) for step in (-1, 0, 1)]
        before, here, after = (evaluation.q[cells, number] for number in beside)
        bend = float(law @ np.maximum(before - 2.0 * here + after, 0.0)) / float(law.sum())
        if evaluation.entropy.strength < _DENSE**2 * bend:
            narrow[name] = math.sqrt(evaluation.entropy.strength / bend)
    if narrow:
        names = ", ".join(f"{ratio:.2g} of the distance of its actions {name}" for name, ratio in narrow.items())
        needed = math.ceil((side - 1) * _DENSE / min(narrow.values())) + 1
        text = f"{looks.policy} is about {names} wide: J and its bound are those of these {count:,} actions, not of all between "
        yield Finding("quadrature", f"{text}the bounds; from policy.particles = {needed**m:,} on they are dense enough", WARN)


def _derivatives(check: DerivativeCheck, model: TransitionModel) -> list[Finding]:
    parts = (
        ("gradient", check.slope, check.slope_error, GRADIENT_TOLERANCE, "differences of J"),
        ("Hessian", check.curvature, check.curvature_error, HESSIAN_TOLERANCE, "differences of the gradient"),
    )
    # where actions move an axis without noise, weights have kinks at the nodes: those of the case, not a mistake
    bent = [
        name
        for j, name in enumerate(model.grid.names)
        if model.problem.dependence.actions[j] and model.axis_kernels[j].snaps and not model.noise[:, j].all()
    ]
    findings = []
    for name, value, error, tolerance, reference in parts:
        text = f"{value:.10g} along a random field, relative error against {reference} {error:.1e}"
        level = OK if error <= tolerance else WARN if bent else FAILED
        if level == WARN:
            text += f": actions move {', '.join(bent)} without noise, where weights"
            text += " have kinks at the grid points: steps are shorter there, J and its bound are not affected"
        if level == FAILED:
            text += ": derivatives are wrong, a mistake in wassgrid: please report it with this case"
        findings.append(Finding(name, text, level))
    if check.kinks > 0:
        text = f"{100 * check.kinks:.3g} % of the particles, by probability, are next to a kink of the case and were not moved"
        findings.append(Finding("kinks", text, OK if check.kinks <= KINKS else FAILED))
    return findings


@dataclass(frozen=True)
class _Looks:
    """The first steps of a run: what they say of its time; the evaluation of the policy that they come to (None: not gridded)."""

    finding: Finding
    steps: int
    evaluation: Evaluation | None

    @property
    def law(self) -> np.ndarray:
        """Shares of the time in every cell, (cells,); none in a goal."""
        assert self.evaluation is not None
        law = self.evaluation.law / self.evaluation.law.sum()
        return law if (controlled := self.evaluation.controlled) is None else np.where(controlled, law, 0.0)

    @property
    def policy(self) -> str:
        return f"the policy after {self.steps} steps" if self.steps else "the initial policy"


def _first_steps(case: Case) -> _Looks:
    """Take the first steps of the run and measure them, and the pace at which they come nearer to what the case asks for.

    Compilation, which happens once per machine, does not count.
    """
    from wassgrid.observers.progress import Pace

    solver = make_solver(case)
    start, state = _timed(solver.start)
    pace = Pace(case, solver.record(state))
    seconds: list[float] = []
    while len(seconds) < _LOOKS and solver.verdict(state) is None:
        with overflow_named(f"step {len(seconds) + 1}: the numbers of the case overflow"):
            spent, state = _timed(partial(solver.advance, state))
        seconds.append(spent)
        pace.update(solver.record(state))
        if sum(seconds) > 30.0 and len(seconds) >= 2:
            break
    text = _paced(case, start, seconds, pace, solver.verdict(state) is not None)
    return _Looks(Finding("time", text), len(seconds), getattr(state, "evaluation", None))


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return how many seconds a call takes, without compilation, and what it returns."""
    began = time.perf_counter()
    with compile_time() as compiling:
        found = call()
    return max(time.perf_counter() - began - compiling.seconds, 0.0), found


def _paced(case: Case, start: float, seconds: list[float], pace: Pace, ended: bool) -> str:
    """Say how long the run takes, from the seconds of its start and of its first steps."""
    if not seconds:
        return f"{_seconds(start)} to start; the run ends at its first state"
    spent = start + sum(seconds)
    text = f"{start:.3g} s to start, {seconds[-1]:.3g} s for a step: "
    if ended:
        return f"{text}{_seconds(spent)} for the whole run of {len(seconds)} steps"
    steps = int(SOLVERS[case.solver.kind].rules(case)[STEP])
    left = pace.seconds_left()
    longest = spent + (steps - len(seconds)) * seconds[-1]
    most = f"at most about {_seconds(longest)} for {steps} steps"
    if spent + left < longest:  # the pace counts compilation, which the longest leaves out
        return f"{text}about {_seconds(spent + left)} at the pace of the first {len(seconds)}, {most}"
    return f"{text}{most}"


def _seconds(seconds: float) -> str:
    from wassgrid.observers.progress import clock

    return f"{seconds:.3g} s" if seconds < 60 else clock(seconds)
