"""Imports go one way: the rooms below know nothing of the rooms above, and heavy libraries wait until they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "wassgrid"

# each room may import rooms of its own floor and of the floors before it
FLOORS = [
    {"quantity", "tables", "keys", "problem", "case", "storage"},
    {"grid", "kernels", "resources"},
    {"policy", "transition"},
    {"stationary", "evaluation"},
    {"geometry", "differences"},
    {"hessian", "flow", "certificate", "newton", "full_newton"},
    {"grid_solver", "simulate", "compare", "differences"},
    {"solve"},
    {"check", "observers", "plotting", "report", "neural"},
    {"cli", "__main__"},
]
# the loop names the solver that it is given, and solvers speak the language of the loop
ALLOWED = {
    ("grid_solver", "solve"), ("policy", "storage"), ("problem", "case"),
    ("case", "neural"), ("solve", "neural"), ("policy", "neural"), ("simulate", "neural"),
}  # fmt: skip


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "wassgrid":
            names = node.module.split(".")[1:2] or [alias.name for alias in node.names]
            found.update(names)
        elif isinstance(node, ast.Import):
            found.update(a.name.split(".")[1] for a in node.names if a.name.startswith("wassgrid."))
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    room = room_of(path)
    if room == "__init__":
        return
    assert room in floor, f"wassgrid/{room} has no floor: name it in FLOORS"
    for other in imports_of(path) - {room}:
        if (room, other) in ALLOWED or other not in floor:
            continue
        assert floor[other] <= floor[room], f"{path.name} imports wassgrid.{other} from a floor above"


def test_storage_knows_nothing_of_the_method():
    for path in (PACKAGE / "storage").glob("*.py"):
        assert imports_of(path) <= {"storage", "__version__"}, path


def test_help_loads_no_heavy_library():
    code = (
        "import sys, wassgrid.cli\n"
        "heavy = {'numpy', 'numba', 'scipy', 'sympy', 'h5py', 'matplotlib', 'jax', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
