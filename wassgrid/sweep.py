"""Many runs of one case: every combination of some values, a result file each, their numbers as a table."""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wassgrid.case import Case, CaseError
from wassgrid.case.stored import case_of
from wassgrid.errors import WassgridError
from wassgrid.observers.recorder import Recorder
from wassgrid.observers.watches import FinitenessWatch, SignalWatch
from wassgrid.runs.loop import CONVERGED, INTERRUPTED, RunInterrupted
from wassgrid.runs.schema import LOWER_BOUND, OBJECTIVE, STEP, UPPER_END, WALL_TIME
from wassgrid.runs.solvers import solve
from wassgrid.runs.summary import summary_of
from wassgrid.storage import ResultFile, StorageError
from wassgrid.storage.layout import explain
from wassgrid.storage.whole import write_whole
from wassgrid.text import visible

MOST_POINTS = 10_000
TABLE = "sweep.csv"
_UNFINISHED = ("running", INTERRUPTED)
_OPENING, _CLOSING = "[{(", "]})"


class SweepInterrupted(RunInterrupted):
    """A signal in the middle of a sweep: what was solved is in its files, and the same sweep goes on. status: to exit with."""

    def __init__(self, status: int) -> None:
        super().__init__(f"ended with status {status}")
        self.status = status


@dataclass(frozen=True)
class Point:
    """One combination: the texts "section.key=value" of the case, and the file of its run."""

    settings: tuple[str, ...]
    case: Case
    path: Path


@dataclass(frozen=True)
class Row:
    """What came of a point: its values by key, and the numbers of its last step; nan where there are none.

    objective: J; gap: of the upper end of what J may be above the proven bound; status, reason: those of the run, `failed` where
    there is none; seconds: wall time of the run.
    """

    values: dict[str, str]
    file: str
    status: str
    reason: str = ""
    objective: float = math.nan
    gap: float = math.nan
    steps: float = math.nan
    seconds: float = math.nan
    complete: bool = False


@dataclass(frozen=True)
class Sweep:
    """The points of a sweep over `keys`, those with more than one value; folder: where the files are."""

    name: str
    keys: tuple[str, ...]
    points: tuple[Point, ...]
    folder: Path
    cost_unit: str = ""
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def of(cls, path: Path, settings: Sequence[str], folder: Path | None = None) -> Sweep:
        """Read the case for every combination of the values, "section.key=a,b,c", before any is solved.

        Commas within brackets and quotes separate nothing. Raises CaseError for a case or a value that cannot be, the first.
        """
        if not settings:
            raise CaseError("sweep: nothing to vary, expected --set section.key=a,b,c")
        choices = [_choices(text) for text in settings]
        count = math.prod(map(len, choices))
        if count > MOST_POINTS:
            raise CaseError(f"sweep: {count:,} combinations, more than {MOST_POINTS:,}")
        keys = tuple(choice[0].partition("=")[0].strip() for choice in choices)
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise CaseError(f"--set {twice}: given twice; all values of a key stand behind one --set, {twice}=a,b,c")
        name = path.stem
        folder = folder or Path(f"{name}_sweep")
        varied = [k for k, choice in enumerate(choices) if len(choice) > 1] or list(range(len(keys)))
        points, taken = [], set()
        for chosen in itertools.product(*choices):
            words = [f"{keys[k].rpartition('.')[2]}={chosen[k].partition('=')[2].strip()}" for k in varied]
            stem = re.sub(r"[^\w.=+-]+", "_", "_".join([name, *words]))[:150]
            while stem in taken:
                stem = f"{stem}_"
            taken.add(stem)
            points.append(Point(chosen, Case.load(path, chosen), folder / f"{stem}.h5"))
        unit = points[0].case.cost.unit
        return cls(name, tuple(keys[k] for k in varied), tuple(points), folder, unit)

    def solve(self, seen: Callable[[Row], None] = lambda row: None) -> None:
        """Solve all points that have no finished file of the same case, go on with those that were interrupted, and fill `rows`.

        A point whose run fails counts as failed, the others go on. seen: called with the row of every point. Raises StorageError
        where the folder cannot be written, SweepInterrupted after a signal.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(explain("write", self.folder, error)) from error
        for point in self.points:
            row = self._row(point)
            self.rows.append(row)
            seen(row)

    def _row(self, point: Point) -> Row:
        given = [text.partition("=")[::2] for text in point.settings]
        values = {key: value for key, value in given if key in self.keys}
        try:
            unfinished = _standing(point)
            if unfinished is not None:
                _solve(point, unfinished)
            with ResultFile(point.path) as file:
                last, summary = file.last("convergence"), summary_of(file)
                objective = float(summary.get(OBJECTIVE, last[OBJECTIVE]))
                bound = float(last.get(LOWER_BOUND, math.nan))
                return Row(
                    values, point.path.name, file.status, file.reason, objective,
                    max(float(last.get(UPPER_END, objective)) - bound, 0.0), float(last[STEP]), float(last[WALL_TIME]),
                    bool(file.attributes.get("complete", file.status == CONVERGED)),
                )  # fmt: skip
        except WassgridError as error:
            return Row(values, point.path.name, "failed", " ".join(str(error).split()))

    def table(self) -> str:
        """Return the rows as text: values, J, the proven gap, steps, seconds, how it ended."""
        heads = [key.rpartition(".")[2] for key in self.keys]
        heads = list(self.keys) if len(set(heads)) < len(heads) else heads
        lines = [[*heads, "J", "proven gap", "steps", "seconds", "status"]]
        for row in self.rows:
            words = f"{row.status}: {row.reason}" if not row.complete else row.status
            gap = f"{row.gap:.1e}" if math.isfinite(row.gap) else "-"
            numbers = (f"{row.objective:.10g}", gap, f"{row.steps:.0f}", f"{row.seconds:.2f}")
            numbers = numbers if math.isfinite(row.objective) else ("-",) * 4
            lines.append([*(row.values[key] for key in self.keys), *numbers, words])
        lines = [[visible(word) for word in line] for line in lines]
        widths = [max(map(len, column)) for column in zip(*(line[:-1] for line in lines), strict=True)]
        return "\n".join("  ".join([*(f"{w:>{n}}" for w, n in zip(line, widths, strict=False)), line[-1]]) for line in lines)

    def write_table(self) -> Path:
        """Write the rows as CSV beside the files and return its path.  Raises StorageError."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["file", *self.keys, "objective", "gap", "steps", "seconds", "status", "reason"])
        for row in self.rows:
            numbers = (f"{number:.17g}" for number in (row.objective, row.gap, row.steps, row.seconds))
            writer.writerow([row.file, *(row.values[key] for key in self.keys), *numbers, row.status, row.reason])
        path = self.folder / TABLE
        write_whole(path, text.getvalue().encode(), b"file,")
        return path

    @property
    def complete(self) -> bool:
        """Whether every point reached what its case asks for."""
        return all(row.complete for row in self.rows)


def _choices(text: str) -> list[str]:
    """Split "section.key=a,b,c" into "section.key=a", ...  Raises CaseError."""
    key, equals, values = text.partition("=")
    parts = list(_split(values))
    if not equals or not all(part.strip() for part in parts):
        raise CaseError(f"--set {text[:80]!r}: expected section.key=a,b,c")
    return [f"{key.strip()}={part.strip()}" for part in parts]


def _split(text: str) -> Iterator[str]:
    """Yield what stands between the commas outside brackets and quotes."""
    depth, quote, part = 0, "", ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in _OPENING:
            depth += 1
        elif letter in _CLOSING:
            depth -= 1
        elif letter == "," and depth == 0:
            yield part
            part = ""
            continue
        part += letter
    yield part


def _standing(point: Point) -> bool | None:
    """Tell what is to be done: None nothing, True to go on with an unfinished file, False to begin.

    Raises StorageError for a file that is none.
    """
    if not os.path.lexists(point.path):
        return False
    with ResultFile(point.path) as file:
        if case_of(file) != point.case:
            return False  # it is kept beside the new one
        if file.being_written_by:
            raise StorageError(f"'{point.path}': {file.being_written_by} is writing it")
        return file.status in _UNFINISHED or None


def _solve(point: Point, unfinished: bool) -> None:
    """Solve a point, or go on with it.  Raises SweepInterrupted after a signal, WassgridError."""
    recorder: Recorder | None = None
    watch = SignalWatch(lambda: recorder is None or recorder.busy)
    try:
        # the watch outermost, as in `run`
        with watch, Recorder.resume(point.path) if unfinished else Recorder.create(point.path, point.case) as recorder:
            with watch.translated():
                solution = solve(recorder.case, [FinitenessWatch(), recorder, watch], recorder.checkpoint)
    except (KeyboardInterrupt, RunInterrupted) as error:
        raise SweepInterrupted(watch.status) from error
    if solution.status == INTERRUPTED:
        raise SweepInterrupted(watch.status)
