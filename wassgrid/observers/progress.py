"""Observers that tell how a run gets on: a live bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from wassgrid.case import Case
from wassgrid.runs.loop import StepRecord, Verdict
from wassgrid.runs.schema import BOUND_FOUND, COST_SCALE, FLOW_TIME, GRADIENT_NORM, LOWER_BOUND, OBJECTIVE, STEP, UPPER_END
from wassgrid.runs.solvers import SOLVERS

if TYPE_CHECKING:
    from rich.console import Console

FIRST_PAUSE, LONGEST_PAUSE, GROWTH = 2.0, 300.0, 1.5  # seconds between the lines of a log


class Pace:
    """Estimate how much of a run is done and how long the rest takes, from its stopping rules.

    Each rule gives the share done: steps and flow time linearly, gradient norm and gap on a logarithmic scale, along which a
    constant contraction per step is a constant speed. The run ends with the first rule that is met, so the largest share
    counts; the time left follows from its recent growth.
    """

    WINDOW = 8  # steps that the recent pace is taken over
    LEAST = 3  # steps from which a contraction is an observation

    def __init__(self, case: Case, first: StepRecord) -> None:
        self._limits = SOLVERS[case.solver.kind].rules(case)
        self._first = first.scalars
        self._tolerances = self._limits.keys() - {STEP, FLOW_TIME}
        self._least = 1 + (self.LEAST if self._tolerances else 1)
        self._history = [(time.monotonic(), self._share(first))]

    @property
    def share(self) -> float:
        """The share done, between 0 and 1."""
        return max(self._history[-1][1].values(), default=0.0)

    def update(self, record: StepRecord) -> None:
        self._history = [*self._history[-self.WINDOW :], (time.monotonic(), self._share(record))]

    def seconds_left(self) -> float:
        """Time until the first rule is met at the recent pace; infinite where that says nothing yet.

        A limit on the steps is no estimate where a tolerance is asked for, as long as no tolerance comes nearer.
        """
        (began, before), (now, after) = self._history[0], self._history[-1]
        if now <= began or len(self._history) < self._least:
            return math.inf
        left = {
            name: (1.0 - after[name]) / (after[name] - before[name]) * (now - began)
            for name in after
            if after[name] > before.get(name, math.inf)
        }
        if self._tolerances and not self._tolerances & left.keys():
            left.pop(STEP, None)
        return min(left.values(), default=math.inf)

    def _share(self, record: StepRecord) -> dict[str, float]:
        shares = {}
        for name, limit in self._limits.items():
            if name in (STEP, FLOW_TIME):
                shares[name] = record.scalars.get(name, 0.0) / limit if limit > 0 else 1.0
            else:
                start, value = _measure(self._first, name), _measure(record.scalars, name)
                if start > limit and value > 0 and math.isfinite(start) and math.isfinite(value):
                    shares[name] = math.log(start / value) / math.log(start / limit)
        return {name: min(max(share, 0.0), 1.0) for name, share in shares.items()}


def _measure(scalars: Any, name: str) -> float:
    if name == "relative_gap":
        return _measure(scalars, "gap") / float(scalars.get(COST_SCALE, math.nan))
    if name == "gap":
        # as far as it was searched; proven at the end
        found = float(scalars.get(UPPER_END, math.nan)) - float(scalars.get(BOUND_FOUND, math.nan))
        if math.isfinite(found):
            return found
        return float(scalars.get(OBJECTIVE, math.nan)) - float(scalars.get(LOWER_BOUND, math.nan))
    return float(scalars.get(name, math.nan))


def describe(record: StepRecord) -> str:
    """Return the numbers of a step that one watches: J, gradient norm, gap."""
    parts = [f"J {record.scalars[OBJECTIVE]:<12.9g}"]
    for text, name in (("gradient", GRADIENT_NORM), ("gap", "gap")):
        value = _measure(record.scalars, name)
        if math.isfinite(value):
            parts.append(f"{text} {value:.2e}")
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """Return a duration as people say it: `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _say(console: Console, line: str) -> None:
    """Print a line; a log that is full or closed does not end the run."""
    with suppress(OSError, ValueError):
        console.print(line, highlight=False, soft_wrap=True)


@contextmanager
def shown(case: Case, console: Console) -> Iterator[list[Any]]:
    """Yield the observers that tell how the run of a case gets on: a bar on a terminal, lines elsewhere, and of compilation."""
    with ExitStack() as stack:
        progress = ProgressBar(console) if console.is_terminal else ProgressLines(console)
        observers: list[Any] = [stack.enter_context(progress)]
        if SOLVERS[case.solver.kind].gridded:
            if line := case.unseen_jumps:
                observers.append(Notice(console, line))
            observers.append(stack.enter_context(CompilationNotice(console)))
        yield observers


class Notice:
    """Observer that prints a line once a run has started, and nothing where it is refused."""

    def __init__(self, console: Console, line: str) -> None:
        self._console, self._line = console, line

    def start(self, case: Case, solver: Any, first: StepRecord, resumed: bool) -> None:
        _say(self._console, self._line)

    def step(self, record: StepRecord) -> str | None:
        return None

    def finish(self, verdict: Verdict, solution: Any | None) -> None:
        pass


class CompilationNotice:
    """Observer that says when compiled functions have to be made first, and when they are there; a context manager around
    `solve`. Silent where all of them are cached."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._functions, self._seconds, self._depth, self._began = 0, 0.0, 0, 0.0
        self._said = False

    def __enter__(self) -> CompilationNotice:
        from numba.core import event

        notice = self

        class Listener(event.Listener):
            def on_start(self, event: Any) -> None:
                notice._begin()

            def on_end(self, event: Any) -> None:
                notice._end()

        self._listener = Listener()
        event.register("numba:compile", self._listener)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        from numba.core import event

        event.unregister("numba:compile", self._listener)

    def _begin(self) -> None:
        if self._functions == 0 and self._depth == 0:
            _say(self._console, "compiling kernels, once per machine and kind of problem: some 20 s")
        if self._depth == 0:
            self._began = time.monotonic()
        self._depth += 1

    def _end(self) -> None:
        self._functions += 1
        self._depth -= 1
        if self._depth == 0:
            self._seconds += time.monotonic() - self._began

    def _done(self) -> None:
        if self._functions and not self._said:
            self._said = True
            _say(self._console, f"compiled {self._functions} functions in {clock(self._seconds)}")

    def start(self, case: Case, solver: Any, first: StepRecord, resumed: bool) -> None:
        pass

    def step(self, record: StepRecord) -> str | None:
        self._done()  # the first step compiles too
        return None

    def finish(self, verdict: Verdict, solution: Any | None) -> None:
        self._done()


class ProgressBar:
    """Observer that shows a live bar on a terminal; a context manager around `solve`, which stops it whatever happens."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )

    def __enter__(self) -> ProgressBar:
        self._task = self._bar.add_task("first evaluation", total=None, numbers="", left="")
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def start(self, case: Case, solver: Any, first: StepRecord, resumed: bool) -> None:
        self._pace = Pace(case, first)
        self._show(first)

    def step(self, record: StepRecord) -> str | None:
        self._pace.update(record)
        self._show(record)
        return None

    def finish(self, verdict: Verdict, solution: Any | None) -> None:
        self._bar.update(self._task, completed=1.0 if verdict.complete else self._pace.share, left="")

    def _show(self, record: StepRecord) -> None:
        left = self._pace.seconds_left()
        self._bar.update(
            self._task,
            description=f"step {record.step}",
            total=1.0,
            completed=self._pace.share,
            numbers=describe(record),
            left=f"about {clock(left)} left" if math.isfinite(left) else "",
        )


class ProgressLines:
    """Observer that prints a line at steps 0, 1, 2, 5, 10, 20, 50, ... and after pauses that grow from 2 s to 5 min."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pause = FIRST_PAUSE

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def start(self, case: Case, solver: Any, first: StepRecord, resumed: bool) -> None:
        self._pace = Pace(case, first)
        self._print(first)

    def step(self, record: StepRecord) -> str | None:
        self._pace.update(record)
        if _round(record.step):
            self._print(record)
        elif time.monotonic() - self._printed > self._pause:
            self._pause = min(GROWTH * self._pause, LONGEST_PAUSE)
            self._print(record)
        return None

    def finish(self, verdict: Verdict, solution: Any | None) -> None:
        pass

    def _print(self, record: StepRecord) -> None:
        left = self._pace.seconds_left()
        tail = f"  about {clock(left)} left" if math.isfinite(left) and left >= 1 else ""
        _say(self._console, f"step {record.step:<6d} {describe(record)}{tail}")
        self._printed = time.monotonic()


def _round(step: int) -> bool:
    while step and step % 10 == 0:
        step //= 10
    return step in (0, 1, 2, 5)
