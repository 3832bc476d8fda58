"""The versions that `.ci/run` tries as the oldest are the lower bounds that pyproject.toml promises."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def numbers(version: str) -> list[int]:
    """Return the parts of a version without trailing zeros: 1.13 and 1.13.0 are one version."""
    parts = [int(part) for part in version.split(".")]
    while parts[-1] == 0:
        parts.pop()
    return parts


def test_the_oldest_versions_are_the_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    # the solvers that `benchmark` compares with and what builds the documentation are no part of the tests
    tested = [lines for extra, lines in project["optional-dependencies"].items() if extra not in ("benchmark", "docs")]
    needed = [*project["dependencies"], *(line for lines in tested for line in lines)]
    bounds = dict(re.fullmatch(r"([\w.-]+)>=([\d.]+)", line).groups() for line in needed)
    lines = (ROOT / "tests" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    tried = dict(re.fullmatch(r"([\w.-]+)==([\d.]+)", line).groups() for line in lines)
    assert {name: numbers(version) for name, version in tried.items()} == {
        name: numbers(version) for name, version in bounds.items()
    }
