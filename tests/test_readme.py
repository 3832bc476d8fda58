"""What README says is what the program does: its case, its snippet, its commands and its links."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from wassgrid.case import Case

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(marker: str) -> str:
    match = re.search(rf"<!-- {marker} -->\s*```\w*\n(.*?)```", README, re.S)
    assert match, f"README has no block marked {marker}"
    return match.group(1)


def test_the_case_of_readme_is_solved():
    from wassgrid.runs.solvers import solve

    solution = solve(Case.from_text(block("case"), "readme"))
    assert solution.converged, solution.reason


@pytest.mark.thorough
def test_the_snippet_runs(tmp_path):
    (tmp_path / "cases").symlink_to(ROOT / "cases")
    done = subprocess.run([sys.executable, "-c", block("python")], cwd=tmp_path, capture_output=True, text=True, timeout=300)
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


@pytest.mark.parametrize("verb", sorted(set(re.findall(r"`wassgrid (\w+)", README))))
def test_every_verb_exists(verb):
    done = subprocess.run([sys.executable, "-m", "wassgrid", verb, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)]+)\)", README))
def test_every_link_leads_somewhere(target):
    assert target.startswith("https://") or (ROOT / target).exists()
