"""Imports go one way: the rooms below know nothing of the rooms above, and heavy libraries wait until they are used.

Every import counts, those for typing and those inside functions too.
"""

from __future__ import annotations

import ast
import builtins
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import coo_array, csgraph

PACKAGE = Path(__file__).resolve().parent.parent / "wassgrid"

# A room is a module or a package; a module of a package may stand on a floor of its own, its longest name counts. Each may import
# from its own floor and from the floors before it.
FLOORS = [
    {"errors", "interrupt", "text", "version"},
    {"ranks"},
    {"problem", "storage", "method.facts"},
    {"case"},
    {"blobs", "grid"},
    {"action_distribution", "policy", "transition"},
    {"entropy", "resources"},
    {"chain"},
    {"evaluation"},
    {"metric", "resolution", "tangent"},
    {"fisher_rao", "hessian", "shortfall", "method.box_step", "method.outcome", "method.monotone_search"},
    {"certificate"},
    {"estimate", "memory"},
    {"method"},
    {"finite_mdp", "runs.loop", "runs.history", "runs.schema", "runs.solution", "runs.start", "runs.stopping"},
    {"runs.grid_schema", "runs.grid_solver", "runs.together", "neural"},
    {"runs", "load_policy"},
    {"differences", "simulate", "compare", "export", "observers", "prove", "environment", "case_environment"},
    {"closed_loop", "sweep"},
    {"report", "plotting"},
    {"page"},
    {"solution"},
    {"geometry"},
    {"second_order"},
    {"advice"},
    {"check"},
    {"__init__"},
    {"cli"},
    {"__main__"},
]


def files() -> dict[str, Path]:
    """Return every file by the name of its module, packages as `name.__init__`."""
    return {str(path.relative_to(PACKAGE).with_suffix("")).replace("/", "."): path for path in sorted(PACKAGE.rglob("*.py"))}


FILES = files()


def file_of(module: str, name: str | None = None) -> str:
    """Return the file that `import module` or `from module import name` reads, names without the leading `wassgrid`."""
    for found in ([f"{module}.{name}".strip("."), f"{module}.{name}.__init__".strip(".")] if name else []) + [
        module,
        f"{module}.__init__".strip("."),
    ]:
        if found in FILES:
            return found
    raise AssertionError(f"wassgrid.{module} has no file")


def imports_of(path: Path) -> set[str]:
    """Return the files of the package that a file imports from."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module and node.module.split(".")[0] == "wassgrid":
                module = ".".join(node.module.split(".")[1:])
                found.update(file_of(module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found.update(file_of(".".join(parts[1:])) for parts in names if parts[0] == "wassgrid")
    return found


def room_of(module: str) -> str:
    """Return the room on the floors that a file belongs to."""
    rooms = set().union(*FLOORS)
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (room := ".".join(parts[:length])) in rooms:
            return room
    raise AssertionError(f"wassgrid/{module} has no floor: name it in FLOORS")


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of files that import each other in a loop."""
    names = list(imports)
    places = {name: k for k, name in enumerate(names)}
    pairs = np.array([(places[one], places[other]) for one in names for other in imports[one]]).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(names), len(names)))
    _, label = csgraph.connected_components(graph, directed=True, connection="strong")
    groups = [[name for name in names if label[places[name]] == k] for k in range(label.max() + 1)]
    return [group for group in groups if len(group) > 1]


def test_no_files_import_each_other_in_a_circle():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({name: imports_of(path) - {name} for name, path in FILES.items()}) == []


@pytest.mark.parametrize("module", FILES)
def test_imports_go_one_way(module):
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    for other in imports_of(FILES[module]) - {module}:
        assert floor[room_of(other)] <= floor[room_of(module)], f"{module} imports wassgrid.{other} from a floor above"


def test_the_problem_knows_nothing_of_the_case():
    for module, path in FILES.items():
        if module.startswith("problem."):
            assert all(other == "errors" or other.startswith("problem.") for other in imports_of(path)), module


def test_storage_knows_nothing_of_the_method():
    for path in (PACKAGE / "storage").glob("*.py"):
        assert all(other in ("errors", "text") or other.startswith("storage.") for other in imports_of(path)), path


def test_the_loop_knows_no_solver():
    assert {room_of(other) for other in imports_of(PACKAGE / "runs" / "loop.py")} <= {"case", "errors"}


def test_help_loads_no_heavy_library():
    code = (
        "import sys, wassgrid.cli\n"
        "heavy = {'numpy', 'numba', 'scipy', 'sympy', 'h5py', 'matplotlib', 'jax', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_word_of_the_case_has_its_entry():
    from wassgrid.case.tables import KERNELS
    from wassgrid.method import METHODS
    from wassgrid.method.facts import METHOD_FACTS
    from wassgrid.runs.grid_schema import CURVATURE, GRID_COLUMNS
    from wassgrid.runs.schema import COMPILATION, PHASES, phase_time
    from wassgrid.transition.axis_kernels import AXIS_KERNELS

    assert list(METHODS) == list(METHOD_FACTS)
    assert KERNELS == ("auto", *AXIS_KERNELS)
    assert [phase_time(phase) for phase in PHASES] == [
        name for name in [*GRID_COLUMNS, *CURVATURE] if name.startswith("time_") and name != COMPILATION
    ]


def test_all_errors_have_one_base():
    """Users catch `WassgridError`, and the command line makes one line of it; an interruption is no error."""
    found = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for path in FILES.values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    bases = {"WassgridError"}
    while more := {name for name, parents in found.items() if parents & bases} - bases:
        bases |= more
    builtin = {name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    raised = {name for name, parents in found.items() if parents & builtin}
    assert raised - bases == {"RunInterrupted"}
