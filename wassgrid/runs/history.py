"""The numbers of every step of a run, as columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from wassgrid.runs.schema import BOUND_FOUND, GRADIENT_NORM, OBJECTIVE, STEP, UPPER_END, WALL_TIME

_ROWS = 10  # shown at most


class History(Mapping[str, np.ndarray]):
    """Columns (steps,) by name: those of `/convergence` in a result file, `step` first; nan where a step lacks a number.

    A mapping: `history["objective"]`, `pandas.DataFrame(history)`. Printed, it is a short table.
    """

    def __init__(self, rows: Sequence[Mapping[str, float]]) -> None:
        names = dict.fromkeys([STEP, *(name for row in rows for name in row)])
        self._columns = {name: np.array([row.get(name, np.nan) for row in rows], dtype=float) for name in names}
        self._columns[STEP] = self._columns[STEP].astype(np.int64)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        count = self[STEP].size
        columns = {name: self[name] for name in (STEP, OBJECTIVE, GRADIENT_NORM) if name in self}
        if BOUND_FOUND in self and UPPER_END in self:
            columns["gap found"] = self[UPPER_END] - self[BOUND_FOUND]
        if WALL_TIME in self:
            columns[f"{WALL_TIME} (s)"] = self[WALL_TIME]
        shown = list(range(count)) if count <= _ROWS else [*range(_ROWS // 2), *range(count - _ROWS // 2, count)]
        formats = {STEP: "d", OBJECTIVE: ".10g"}
        lines = [[name.replace("_", " ") for name in columns]]
        lines += [[f"{values[k]:{formats.get(name, '.3g')}}" for name, values in columns.items()] for k in shown]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(f"{word:>{width}}" for word, width in zip(line, widths, strict=True)) for line in lines]
        if count > _ROWS:
            text.insert(1 + _ROWS // 2, "...".rjust(widths[0]))
        return "\n".join([*text, *textwrap.wrap(f"{count} rows of {len(self)} columns: {', '.join(self)}", 120)])
