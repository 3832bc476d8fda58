"""The pages of docs/: the cells of the first ones run, without Sphinx; cases and links are there; nothing leads elsewhere.

`sphinx-build -W docs build/docs` runs the cells of every page.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from wassgrid.case import Case
from wassgrid.case.keys import key_table
from wassgrid.cli import app

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
CELL = re.compile(r"^```\{code-cell\} ipython3\n((?::[^\n]*\n)*)(.*?)^```$", re.M | re.S)

SHELL = """
import subprocess

def shell(line):
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout)
    assert done.returncode in (0, 141), (line, done.stdout)
"""


def named(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(DOCS).with_suffix("")))


def program(path: Path) -> str:
    """Return the cells of a page as one program: lines with ! go to a shell, figures are not shown, what displays is left out."""
    lines = [SHELL, "Image = Markdown = lambda *args, **kwargs: None"]
    for _, text in CELL.findall(path.read_text(encoding="utf-8")):
        for line in text.splitlines():
            if line.startswith("!"):
                lines.append(f"shell({line[1:]!r})")
            elif not line.startswith(("%", "from IPython")):
                lines.append(line)
    return "\n".join(lines)


def run_cells(path: Path, tmp_path: Path) -> None:
    """Run the cells of a page where it stands, with a `wassgrid` command that is this one."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, arguments in (("wassgrid", "-m wassgrid"), ("python", "")):
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (commands / name).chmod(0o755)
    paths = {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    paths["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", program(path)]
    done = subprocess.run(command, cwd=path.parent, env=os.environ | paths, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.thorough
@named([DOCS / "guide" / f"{name}.md" for name in ("first_steps", "own_problem", "python_functions")])
def test_the_cells_of_the_first_pages_run(path, tmp_path):
    run_cells(path, tmp_path)


@named(PAGES)
def test_a_page_names_only_what_there_is(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)):
        assert (path.parent / target).exists(), target
    for case in re.findall(r"(?:\.\./)*((?:cases|gallery)/[\w.]+\.(?:toml|py))", text):
        assert (ROOT / case).exists(), case
    assert "http" not in text, "pages send nobody elsewhere"


def test_every_page_of_the_gallery_has_its_problem():
    """And every problem its page."""
    pages = {path.stem for path in (DOCS / "gallery").glob("*.md")} - {"index", "lq_family"}
    problems = {path.stem for folder in ("gallery", "cases") for path in (ROOT / folder).glob("*.toml")}
    assert {path.stem for path in (ROOT / "gallery").glob("*.toml")} <= pages <= problems


CODE = re.compile(r"`+([^`]+)`+")
KEYS = [key.split(".") for key in re.findall(r"^\| `([^`]+)`", key_table(Case), re.M)]
VERBS = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}


def resolved(name: str) -> object:
    """Return what a dotted name of the package stands for: a module, or an attribute of one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value: object = import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            value = getattr(value, part)
        return value
    raise AssertionError(f"{name} is nothing")


@named(PAGES)
def test_words_of_the_language_and_of_the_package_are_right(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    for code in CODE.findall(text):
        for name in re.findall(r"\bwassgrid(?:\.\w+)+", code):
            resolved(name)
        for verb in re.findall(r"\bwassgrid (\w+)", code):
            assert verb in VERBS, code
        word = re.match(r"(?:--set )?((?:\w+\.)+\w+)\b(?!\()", code)
        if word and word[1].split(".")[0] in {key[0] for key in KEYS} and not word[1].endswith((".toml", ".py")):
            assert is_key(word[1].split(".")), code


def is_key(parts: list[str]) -> bool:
    """Tell whether a path is that of a key or of a table; parameters, starts and points go on with names of the case's own."""
    if parts[0] in ("parameters", "start") or parts[:2] == ["grid", "points"]:
        return True
    return any(len(parts) <= len(key) and all(b in (a, "NAME") for a, b in zip(parts, key, strict=False)) for key in KEYS)


def test_every_error_has_its_place_among_the_messages():
    text = (DOCS / "reference" / "messages.md").read_text(encoding="utf-8")
    bases = {"WassgridError"}
    classes = [
        node for file in (ROOT / "wassgrid").rglob("*.py") for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]  # fmt: skip
    while more := {n.name for n in classes if any(getattr(b, "id", "") in bases for b in n.bases)} - bases:
        bases |= more
    missing = sorted(name for name in bases - {"WassgridError", "NeuralExtraMissingError"} if name not in text and name[0] != "_")
    assert not missing
