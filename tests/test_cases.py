"""Every case file: documented, read and written back, and (on the grid) solved to what it expects; those of the gallery too."""

from __future__ import annotations

from pathlib import Path

import pytest

from wassgrid.case import Case
from wassgrid.report import expectations
from wassgrid.runs.solvers import solve

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "cases").glob("*.toml"), *(ROOT / "gallery").glob("*.toml")])
GRID_FILES = [path for path in FILES if Case.load(path).solver.kind == "grid" and path.stem != "pendulum_v1"]  # a finer pendulum


def named(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


@named(FILES)
def test_case_is_documented_and_survives_being_written(path):
    case = Case.load(path)
    assert case.title
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert len(comments) >= 2
    if case.expect.average_cost is not None:
        assert case.expect.average_cost.source
    assert Case.from_text(case.to_text(), case.name) == case


@named(GRID_FILES)
def test_case_meets_its_expectation(path):
    case = Case.load(path)
    assert case.expect.average_cost is not None or path.parent.name == "gallery"
    solution = solve(case)
    assert solution.complete, solution.reason
    met, sentences = expectations(case, solution.objective)
    assert met, sentences
