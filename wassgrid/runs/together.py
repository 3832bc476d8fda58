"""A run that several processes share: one leads (it writes, shows and decides when arrays are needed), the others follow."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from wassgrid.chain.reductions import shared, sharing
from wassgrid.errors import WassgridError
from wassgrid.grid import StateGrid
from wassgrid.grid.slabs import Slabs
from wassgrid.method.facts import GEOMETRY_FACTS, METHOD_FACTS
from wassgrid.ranks import Ranks
from wassgrid.runs.loop import Observer, StepRecord, Verdict
from wassgrid.transition.slab_model import cut_axis

if TYPE_CHECKING:
    from wassgrid.case import Case


class SharingError(WassgridError, ValueError):
    """A case whose run cannot be shared by several processes; the message names the key."""


def require_shareable(case: Case) -> None:
    """Raise SharingError for what processes that share the cells cannot do, with the key."""
    why = "mpiexec: several processes share runs on a grid"
    methods = [name for name, facts in METHOD_FACTS.items() if facts.shared]
    if case.solver.kind != "grid":
        raise SharingError(f'{why}, not solver.kind = "{case.solver.kind}": start one process')
    if case.problem.goal is not None:
        raise SharingError(f"{why} that go on for ever or are discounted, without a [goal]: start one process")
    if case.policy.entropy is not None:
        raise SharingError(f"{why} without policy.entropy: start one process")
    geometry = GEOMETRY_FACTS[case.flow.geometry]
    if case.flow.method not in methods or geometry.weights:
        asked = f'geometry = "{case.flow.geometry}"' if geometry.weights else f'method = "{case.flow.method}"'
        raise SharingError(f"{why} where actions move, by the methods {', '.join(methods)}, not flow.{asked}: start one process")
    if case.solver.stationary == "arnoldi":
        raise SharingError(f'{why} by other means than solver.stationary = "arnoldi": leave it to "auto"')
    for key, asked_for in (("curvature_every", case.output.curvature_every), ("estimate", case.output.estimate)):
        if asked_for:
            raise SharingError(f"{why}; output.{key} is for one process: leave it out")


@contextmanager
def shared_out(ranks: Ranks, case: Case) -> Iterator[None]:
    """Share the cells of a case out to processes, within.

    Raises SharingError for what cannot be shared, SlabError for more processes than slabs.
    """
    require_shareable(case)
    grid = StateGrid.from_case(case)
    slabs = Slabs.of(ranks, grid, cut_axis(case.problem, grid))
    try:
        with sharing(slabs):
            ranks.armed = True
            yield
    finally:
        ranks.armed = False


def dealt(checkpoint: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the part of this process of the checkpoint that the leader has; None where it has none."""
    slabs = shared()
    assert slabs is not None
    slabs.ranks.armed = False
    known = None if checkpoint is None else dict(checkpoint)
    scalars = slabs.ranks.told(
        None if known is None else {name: None if isinstance(x, np.ndarray) else x for name, x in known.items()}
    )
    found = None
    if scalars is not None:
        found = {
            name: slabs.dealt(None if known is None else known[name]) if value is None else value
            for name, value in scalars.items()
        }
    slabs.ranks.armed = True
    return found


class Leading:
    """The observers of the leader as one: what they ask for, and what comes of them, is told to the processes that follow."""

    def __init__(self, ranks: Ranks, observers: Sequence[Observer]) -> None:
        self._ranks, self._observers = ranks, observers

    def start(self, case: Case, solver: Any, first: StepRecord, resumed: bool) -> None:
        record = self._announced(first)

        def start() -> None:
            for observer in self._observers:
                observer.start(case, solver, record, resumed)

        self._tell(start)

    def step(self, record: StepRecord) -> str | None:
        record = self._announced(record)

        def step() -> str | None:
            texts = [text for observer in self._observers if (text := observer.step(record))]
            return texts[0] if texts else None

        return self._tell(step)

    def finish(self, verdict: Verdict, solution: Any | None) -> None:
        if solution is not None:
            solution = replace(solution, summarise=self._asking("summary", solution.summarise))

        def finish() -> None:
            for observer in self._observers:
                observer.finish(verdict, solution)

        self._tell(finish)
        self._ranks.armed = False

    def _announced(self, record: StepRecord) -> StepRecord:
        glance = None if record.glance is None else self._asking(("glance", record.step), record.glance)
        frame = self._asking(("frame", record.step), record.frame)
        checkpoint = self._asking(("checkpoint", record.step), record.checkpoint)
        return replace(record, frame=frame, checkpoint=checkpoint, glance=glance)

    def _asking(self, what: Any, task: Callable[[], Any]) -> Callable[[], Any]:
        def ask() -> Any:
            self._ranks.told(("make", what))
            return task()

        return ask

    def _tell(self, task: Callable[[], str | None]) -> str | None:
        self._ranks.armed = False
        try:
            result = task()
        except BaseException as error:
            self._ranks.told(("raise", error))
            raise
        self._ranks.told(("go on", result))
        self._ranks.armed = True
        return result


class Following:
    """The observer of a process that follows: it makes its part of what the leader asks for, and ends as the leader does."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._records: dict[int, StepRecord] = {}  # the last two

    def start(self, case: Case, solver: Any, first: StepRecord, resumed: bool) -> None:
        self.step(first)

    def step(self, record: StepRecord) -> str | None:
        self._records = {**dict(list(self._records.items())[-1:]), record.step: record}
        return self._serve(None)

    def finish(self, verdict: Verdict, solution: Any | None) -> None:
        self._serve(solution)
        self._ranks.armed = False

    def _serve(self, solution: Any | None) -> str | None:
        self._ranks.armed = False
        while True:
            word, what = self._ranks.told()
            if word == "raise":
                raise what
            if word == "go on":
                self._ranks.armed = True
                text: str | None = what
                return text
            try:
                if what == "summary":
                    assert solution is not None
                    solution.summarise()
                else:
                    getattr(self._records[what[1]], what[0])()
            except (ValueError, ArithmeticError):
                pass  # the leader has it too, and tells how it ends


@contextmanager
def signals_wished(ranks: Ranks) -> Iterator[None]:
    """Take signals that end a run as a wish that the processes agree on at their next exchange, within; in the main thread.

    Afterwards they are ignored: the process is on its way out.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: ranks.wish())
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
