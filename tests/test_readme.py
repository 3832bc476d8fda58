"""What README says is what the program does: its key table, its case, its snippet and its commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from wassgrid.case import Case
from wassgrid.case.keys import key_table

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(marker: str) -> str:
    match = re.search(rf"<!-- {marker} -->\s*```\w*\n(.*?)```", README, re.S)
    assert match, f"README has no block marked {marker}"
    return match.group(1)


def test_the_key_table_is_the_generated_one():
    table = re.search(r"<!-- keys -->\n(.*?)<!-- end of keys -->", README, re.S)
    assert table
    assert table.group(1).strip() == key_table(Case).strip(), "python -m wassgrid.case prints the table for README"


def test_the_case_of_readme_is_solved():
    from wassgrid.runs.solvers import solve

    solution = solve(Case.from_text(block("case"), "readme"))
    assert solution.converged, solution.reason


@pytest.mark.parametrize("marker", ["functions", "geometry", "python"])
def test_the_snippets_run(marker, tmp_path):
    (tmp_path / "cases").symlink_to(ROOT / "cases")
    done = subprocess.run([sys.executable, "-c", block(marker)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_run_command_runs(tmp_path):
    """The wassgrid commands of the newcomer's line, with the installed program, outside the clone."""
    parts = [part.strip().split() for part in block("run").split("&&")]
    commands = [part[1:] for part in parts if part[0].endswith("/wassgrid")]
    assert [command[0] for command in commands] == ["run", "plot"]
    for command in commands:
        arguments = [str(ROOT / word) if word.startswith("cases/") else word for word in command]
        done = subprocess.run(
            [sys.executable, "-m", "wassgrid", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "pendulum.h5").exists()
    assert len(list((tmp_path / "figures").glob("*.png"))) >= 4


@pytest.mark.parametrize("verb", re.findall(r"^\| `wassgrid (\w+)", README, re.M))
def test_every_verb_of_the_table_exists(verb):
    done = subprocess.run([sys.executable, "-m", "wassgrid", verb, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
