"""Solve every problem of gallery/ and the grid cases of cases/ and print one Markdown table: python gallery/table.py [NAME...]

Processor seconds are those of the solve, kernels compiled; J as found; proven: the gap of J above a lower bound that holds for
every policy on the grid, in units of cost.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import wassgrid as wg

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ("problem", "states", "actions", "criterion", "cells", "processor s", "J", "proven to", "against `[expect]`")


def paths() -> list[Path]:
    """Return the case files of the gallery, and those of cases/ for the grid."""
    found = sorted([*(ROOT / "gallery").glob("*.toml"), *(ROOT / "cases").glob("*.toml")], key=lambda path: path.stem)
    return [path for path in found if wg.Case.load(path).solver.kind == "grid"]


def row(path: Path, link: str = "{name}") -> str:
    """Solve a case and return its row."""
    case = wg.Case.load(path)
    began = time.process_time()
    solution = wg.solve(case)
    seconds = time.process_time() - began
    expected = case.expect.total_cost or case.expect.average_cost
    gap = solution.record["upper_end"] - solution.lower_bound
    cells = (
        link.format(name=path.stem), len(case.problem.state_names), case.problem.action_dimension, case.criterion.kind,
        " x ".join(map(str, solution.policy.grid.shape)), f"{seconds:.2g}", f"{solution.objective:.8g}", f"{gap:.1e}",
        "" if expected is None else f"{abs(solution.objective - expected.value):.1e} off",
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def table(names: Sequence[str] = (), link: str = "{name}") -> str:
    """Return the table of the problems named, of all without names."""
    rows = [row(path, link) for path in paths() if not names or path.stem in names]
    return "\n".join(["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS), *rows])


if __name__ == "__main__":
    print(table(sys.argv[1:]))
