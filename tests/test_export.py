"""Policies that travel: what NumPy alone and a C compiler make of them is what Python computes."""

from __future__ import annotations

import ctypes
import doctest
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import wassgrid as wg
from wassgrid.cli import main
from wassgrid.export import Parcel, c_header, c_text, npz
from wassgrid.export.archive import LAYOUT
from wassgrid.grid import StateGrid
from wassgrid.policy import ParticlePolicy
from wassgrid.runs.schema import Units

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "docs" / "guide" / "policies.md").read_text(encoding="utf-8")
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", "-O2"]
STATES = 100_000
LQ = ["grid.points.x=9", "flow.stop={ steps = 0 }", "output.estimate=false"]
HOSTILE = 'a */ int main(void) { system("rm"); } /* ??/\n" \\ \x1b[31m é \ud7ff'

# from 1 to 4 dimensions, one and two actions, periodic and open ends; the policies themselves need no convergence
SHIPPED = {
    "torus_regulator": ["grid.points.x=16"],
    "scalar_lq": ["grid.points.x=9"],
    "pendulum": ["grid.points.theta=48"],
    "dubins": ["grid.points={ x = 8, y = 8, psi = 9 }"],
    "oscillators_4d": ["grid.points={ q1 = 6, q2 = 6, p1 = 7, p2 = 7 }"],
}


def loader():
    """The loader that the guide shows."""
    found = re.search(r"<!-- loader -->\s*```\{code-cell\} ipython3\n(.*?)```", GUIDE, re.S)
    assert found
    lines = [line for line in found[1].splitlines() if line.strip()]
    assert len(lines) <= 20
    assert re.findall(r"^(?:import|from) .*", found[1], re.M) == ["import numpy as np"]
    names: dict = {}
    exec(found[1], names)
    return names["load_policy"]


@pytest.fixture(scope="module", params=SHIPPED)
def shipped(request) -> Parcel:
    """Any policy on a coarse grid of a shipped case."""
    case = wg.Case.load(ROOT / "cases" / f"{request.param}.toml", SHIPPED[request.param])
    grid = StateGrid.from_case(case)
    rng = np.random.default_rng(len(request.param))
    low, high = np.clip(case.problem.action_bounds.T, -3.0, 3.0)
    shape = (grid.size, case.policy.particles, low.size)
    policy = ParticlePolicy(grid, rng.uniform(low, high, shape), rng.dirichlet(np.ones(shape[1]), grid.size))
    return Parcel.of(case, policy, np.full(grid.size, 1.0 / grid.size), {"status": "stopped: nothing was solved"})


def states_around(policy: ParticlePolicy, count: int = STATES) -> np.ndarray:
    """Random states inside, far outside, on the ends, on and next to grid points."""
    rng, grid = np.random.default_rng(0), policy.grid
    upper = grid.lower + (np.array(grid.shape) - 1) * grid.spacing
    inside = rng.uniform(grid.lower, upper, (count // 4, grid.dimension))
    outside = grid.lower + (upper - grid.lower) * rng.standard_cauchy((count // 4, grid.dimension))
    nodes = np.column_stack([rng.choice(axis, count // 4) for axis in grid.axes])
    near = nodes + rng.choice([-1, 0, 1], nodes.shape) * np.spacing(nodes)
    period = nodes + rng.integers(-3, 4, nodes.shape) * np.array(grid.shape) * grid.spacing
    mixed = np.where(rng.random((count // 4, grid.dimension)) < 0.5, period, inside)
    return np.concatenate([inside, outside, near, mixed])


class Compiled:
    """A header as a shared library."""

    def __init__(self, header: str, name: str, folder: Path, states: int, actions: int) -> None:
        (folder / "policy.h").write_text(header, encoding="ascii")
        (folder / "policy.c").write_text(
            '#include "policy.h"\n'
            "void many(size_t n, const double *s, double *a);\n"
            f"void many(size_t n, const double *s, double *a) {{ size_t i; for (i = 0; i < n; i++) "
            f"{name}_policy(s + i * {states}, a + i * {actions}); }}\n"
            "const char *line(int which, int k);\n"
            f"const char *line(int which, int k) {{ return (which ? {name}_provenance : {name}_case)[k]; }}\n"
        )
        subprocess.run([COMPILER, *STRICT, "-shared", "-fPIC", "policy.c", "-o", "policy.so", "-lm"], cwd=folder, check=True)
        self.library, self.actions = ctypes.CDLL(str(folder / "policy.so")), actions
        self.library.line.restype = ctypes.c_char_p

    def mean(self, states: np.ndarray) -> np.ndarray:
        result = np.empty((len(states), self.actions))
        pointers = [array.ctypes.data_as(ctypes.POINTER(ctypes.c_double)) for array in (np.ascontiguousarray(states), result)]
        self.library.many(ctypes.c_size_t(len(states)), *pointers)
        return result

    def text(self, which: int) -> str:
        lines = iter(lambda: self.library.line(which, next(count)), None)
        count = iter(range(100_000))
        return b"".join(lines).decode()


@needs_compiler
def test_c_is_python(shipped, tmp_path):
    policy = shipped.policy
    compiled = Compiled(c_header(shipped), shipped.name, tmp_path, policy.grid.dimension, policy.action_dimension)
    states = states_around(policy)
    expected, found = policy.mean(states), compiled.mean(states)
    assert np.abs(found - expected).max() <= 1e-12 * max(1.0, np.abs(expected).max())
    assert (compiled.text(0), compiled.text(1)) == (shipped.case, "status: stopped: nothing was solved\n")
    strange = np.full((2 * policy.grid.dimension, policy.grid.dimension), 0.1)
    strange[np.arange(len(strange)), np.arange(len(strange)) // 2] = np.tile([np.nan, np.inf], policy.grid.dimension)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(compiled.mean(strange), policy.mean(strange), atol=1e-12)


def test_numpy_alone_is_python(shipped, tmp_path):
    policy = shipped.policy
    (tmp_path / "p.npz").write_bytes(npz(shipped))
    mean = loader()(tmp_path / "p.npz")
    states = states_around(policy, 2000)
    np.testing.assert_allclose(mean(states), policy.mean(states), rtol=0, atol=1e-12)
    np.testing.assert_allclose(mean(states[0]), policy.mean(states[0]), rtol=0, atol=1e-12)
    with np.load(tmp_path / "p.npz") as archive:  # no pickles
        assert set(archive.files) == set(LAYOUT)
        cells = policy.grid.shape
        np.testing.assert_array_equal(archive["particles"].reshape(policy.actions.shape), policy.actions)
        np.testing.assert_array_equal(archive["weights"].reshape(policy.weights.shape), policy.weights)
        assert archive["mean"].shape == (*cells, policy.action_dimension)
        assert wg.Case.from_text(str(archive["case"])).name == "case"
        assert json.loads(str(archive["provenance"]))["status"].startswith("stopped")
        assert tuple(archive["state_names"]) == policy.grid.names
    assert npz(shipped) == (tmp_path / "p.npz").read_bytes()


def test_readme_describes_the_archive():
    for name in LAYOUT:
        assert f"`{name}`" in GUIDE


def test_the_c_test_sees_a_policy_that_is_another(tmp_path):
    """Reflecting axes, which no shipped case has; and a fault in the table is found."""
    if COMPILER is None:
        pytest.skip("no C compiler")
    grid = StateGrid(("x", "y"), (np.linspace(-1, 1, 5), np.linspace(0, 0.9, 10)), ("reflect", "periodic"))
    policy = ParticlePolicy.around(grid, np.random.default_rng(0).standard_normal((50, 2)))
    header = c_header(parcel_of(policy))
    states = states_around(policy, 4000)
    (tmp_path / "right").mkdir()
    (tmp_path / "wrong").mkdir()
    right = Compiled(header, "odd", tmp_path / "right", 2, 2).mean(states)
    np.testing.assert_allclose(right, policy.mean(states), rtol=0, atol=1e-12)
    wrong = Compiled(header.replace("2.0 * (n - 1.0) - place", "(n - 1.0) - place"), "odd", tmp_path / "wrong", 2, 2).mean(states)
    assert np.abs(wrong - policy.mean(states)).max() > 0.1


def parcel_of(policy: ParticlePolicy, name: str = "odd", title: str = "") -> Parcel:
    m = policy.action_dimension
    units = Units(("1",) * policy.grid.dimension, ("1",) * m, "1", "1")
    names = tuple(f"a{k}" for k in range(m))
    bounds = np.tile([-np.inf, np.inf], (m, 1))
    return Parcel(policy, name, title, units, names, bounds, np.ones(policy.grid.size), "case", {"status": title})


@needs_compiler
@pytest.mark.parametrize("name", [HOSTILE, "int", "2nd", "", "θ", "q[0] */", "a" * 500, "NAME_table"])
def test_names_and_texts_are_data(name, tmp_path):
    grid = StateGrid(("q[0]", "q_0", "while"), tuple(np.linspace(0, 1, 2) for _ in range(3)), ("clamp",) * 3)
    policy = ParticlePolicy.around(grid, np.arange(8.0)[:, None])
    parcel = parcel_of(policy, name, HOSTILE)
    parcel = Parcel(**{**vars(parcel), "case": HOSTILE * 50, "action_names": (HOSTILE,)})
    header = c_header(parcel)
    assert header.isascii()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", header)
    compiled = Compiled(header, c_text.identifier(name), tmp_path, 3, 1)
    np.testing.assert_allclose(compiled.mean(np.array([[1.0, 1.0, 0.5]])), [[6.5]])
    assert compiled.text(0) == parcel.case
    code = re.sub(r'/\*.*?\*/|"(?:[^"\\]|\\.)*"', "", header, flags=re.S)
    assert not re.search(r"\bsystem\b|\bmain\b", code)  # identifiers may hold both


@needs_compiler
def test_a_header_is_fast_and_is_cpp_too(tmp_path):
    grid = StateGrid(("x", "y"), (np.linspace(-3, 3, 64, endpoint=False), np.linspace(-5, 5, 33)), ("periodic", "clamp"))
    policy = ParticlePolicy.around(grid, np.random.default_rng(0).standard_normal((grid.size, 1)))
    header = c_header(parcel_of(policy))
    compiled = Compiled(header, "odd", tmp_path, 2, 1)
    states = np.random.default_rng(1).uniform(-6, 6, (200_000, 2))
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        compiled.mean(states)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) / len(states) < 1e-6
    if shutil.which("g++"):
        program = '#include "policy.h"\nint main() { double s[2] = {0, 0}, a[1]; odd_policy(s, a); }\n'
        (tmp_path / "policy.cpp").write_text(program)
        subprocess.run(["g++", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "policy.cpp"], cwd=tmp_path, check=True)


def test_examples_of_escapes():
    assert doctest.testmod(c_text).failed == 0


# ---- the command ----


@pytest.fixture(scope="module")
def solved(tmp_path_factory) -> Path:
    case = wg.Case.load(ROOT / "cases" / "scalar_lq.toml", LQ)
    return wg.solve(case).save(tmp_path_factory.mktemp("solved") / "lq.h5")


def test_the_command_writes_and_says_what_is_left_out(solved, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(solved), "--to", "npz"]) == 0
    assert capsys.readouterr().out == "lq.npz\n"
    np.testing.assert_allclose(loader()("lq.npz")([[0.3]]), wg.Policy.load(solved).mean([[0.3]]), atol=1e-14)
    with np.load("lq.npz") as archive:
        said = json.loads(str(archive["provenance"]))
        assert said.keys() >= {"wassgrid_version", "created", "status", "objective", "lower_bound"}
        assert archive["case"] == wg.Case.load(ROOT / "cases" / "scalar_lq.toml", LQ).to_text()
    assert main(["export", str(solved), "--to", "c", "--output", "control.h"]) == 0
    output = capsys.readouterr().out
    assert "control.h" in output
    assert "left out: the spread of 16 particles around their mean: standard deviation in the long run u 0." in output
    assert main(["export", str(solved), "--to", "c", "-o", "control.h"]) == 0  # one of ours is replaced
    assert sorted(path.name for path in tmp_path.iterdir()) == ["control.h", "lq.npz"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "onyx"], "expected one of npz, c, onnx, got 'onyx'"),
        (["--to", "C"], "expected one of npz, c"),
        ([], "--to"),
        (["--to", "npz", "-o", "notes.txt"], "of another kind"),
        (["--to", "npz", "-o", "folder"], "Is a directory"),
        (["--to", "npz", "-o", "absent/p.npz"], "No such file"),
        (["--to", "npz", "-o", "notes.txt/p.npz"], "Not a directory"),
        (["--to", "npz", "-o", "RESULT"], "of another kind"),
    ],
)
def test_bad_exports_give_one_line_and_write_nothing(solved, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("my notes")
    Path("folder").mkdir()
    before = solved.read_bytes()
    assert main(["export", str(solved), *(str(solved) if word == "RESULT" else word for word in arguments)]) == 2
    output, errors = capsys.readouterr()
    assert (output, len(errors.splitlines())) == ("", 1)
    assert message in errors
    assert (Path("notes.txt").read_text(), solved.read_bytes()) == ("my notes", before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "notes.txt"]


def test_a_policy_too_large_for_a_header(solved, monkeypatch):
    monkeypatch.setattr("wassgrid.export.header.LARGEST_TABLE", 5)
    with pytest.raises(wg.WassgridError, match="export --to npz"):
        c_header(Parcel.from_file(solved))
