"""Result files from strangers: whatever stands in them, nothing outside is read or written, and one line says what is wrong."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_storage import append, check_prefix, create

from wassgrid.case import Case
from wassgrid.cli import main
from wassgrid.policy import ParticlePolicy, PolicyError
from wassgrid.runs.loop import CheckpointError, require_arrays
from wassgrid.runs.solvers import SOLVERS, make_solver
from wassgrid.storage import ResultFile, ResultWriter, StorageError
from wassgrid.storage.proof import write_proof

CASE = """
title = "a state that is held"

[states.s]
next   = "0.8*s + a"
noise  = 0.3
domain = [-2.0, 2.0]

[actions.a]
bounds = [-1.0, 1.0]

[cost]
stage = "s**2 + 0.1*a**2"

[grid]
points = { s = 21 }

[policy]
particles = 4

[flow]
method = "euler"
stop   = { steps = 6 }
"""


def test_every_array_of_a_checkpoint_is_one_that_is_looked_at():
    """A stranger's array of another shape would be met in the middle of a step."""
    case = Case.from_text(CASE, "held")
    stored = make_solver(case).record(make_solver(case).start()).checkpoint()
    shapes = {name: value.shape for name, value in stored.items() if isinstance(value, np.ndarray)}
    assert shapes == SOLVERS["grid"].checkpoint(case)
    wrong = {**stored, "best_actions": stored["best_actions"][:-1]}
    with pytest.raises(CheckpointError, match="'best_actions' is no array of 21 x 1"):
        require_arrays(wrong, SOLVERS["grid"].checkpoint(case))


VERBS = ("info", "plot", "animate", "compare", "simulate", "prove", "resume")


@pytest.fixture(scope="module")
def solved(tmp_path_factory) -> Path:
    """A result file of a short run."""
    folder = tmp_path_factory.mktemp("solved")
    (folder / "held.toml").write_text(CASE)
    assert main(["run", str(folder / "held.toml"), "-o", str(folder / "held.h5"), "--quiet"]) in (0, 1)
    return folder / "held.h5"


@pytest.fixture
def ours(solved, tmp_path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copy(solved, tmp_path / "ours.h5"))


@pytest.mark.parametrize("how", ["to a file", "hard"])
def test_the_temporary_file_of_a_proof_cannot_be_pointed_elsewhere(tmp_path, how):
    folder, victim = tmp_path / "shared", tmp_path / "victim"
    folder.mkdir()
    victim.write_text("precious")
    for name in (".p.h5.partial", "p.h5.part"):
        os.link(victim, folder / name) if how == "hard" else (folder / name).symlink_to(victim)
    write_proof(folder / "p.h5", {"low": 1.0}, {"a": np.arange(3.0)})
    assert victim.read_text() == "precious" and stat.S_ISREG((folder / "p.h5").lstat().st_mode)
    with h5py.File(folder / "p.h5") as file:
        assert file.attrs["low"] == 1.0


def test_a_proof_takes_the_place_of_an_earlier_one_and_of_nothing_else(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("held.toml").write_text(CASE)
    Path("note").write_text("precious")
    Path("link.h5").symlink_to("note")
    command = ["prove", "held.toml", "--width", "0.5", "-q", "-o"]
    for name in ("held.toml", "note", "link.h5", ".", "/proc/p.h5", "no/p.h5"):
        began = time.monotonic()
        assert main([*command, name]) == 2
        assert time.monotonic() - began < 5.0  # seen before any work is done
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert Path("held.toml").read_text() == CASE and Path("note").read_text() == "precious"
    assert main([*command, "p.h5"]) == main([*command, "p.h5"]) == 0
    assert sorted(os.listdir()) == ["held.toml", "link.h5", "note", "p.h5"]


# ---- the value function that a proof begins with ----


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.full((7, 21), np.nan), "not one number for every state"),
        (np.full((7, 21), np.inf), "not one number for every state"),
        (np.zeros((7, 4)), "not one number for every state"),
        (np.broadcast_to(1e300 * np.arange(21), (7, 21)), "nothing is proven"),
    ],
)
def test_a_value_function_that_is_none_is_refused_by_prove(ours, tmp_path, capsys, value, words):
    def make(group, key, shape):
        group.create_dataset(key, data=value, maxshape=(None, value.shape[1]), chunks=(1, value.shape[1]))

    replaced(ours, "trajectory/value", make)
    assert every_verb(ours, tmp_path, ["prove"]) == [("prove", 2)]
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and not ours.with_suffix(".proof.h5").exists()


def test_a_proof_of_a_file_without_records_begins_with_nothing(ours, tmp_path):
    with h5py.File(ours, "r+") as file:
        for name in ("convergence", "trajectory"):
            for data in file[name].values():
                if data.maxshape[0] is None:
                    data.resize(0, axis=0)
    assert every_verb(ours, tmp_path, ["prove"]) == [("prove", 0)]


@pytest.fixture
def unrehearsed(monkeypatch):
    """No child process reads first: for tests of what is seen without one, of which it would take most of the time."""
    monkeypatch.setattr("wassgrid.storage.reader.survived", lambda name, size: True)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def replaced(path: Path, name: str, make) -> None:
    """Put what `make(group, key)` creates in the place of a member."""
    with h5py.File(path, "r+") as file:
        group, key = file[name.rpartition("/")[0] or "/"], name.rpartition("/")[2]
        shape = file[name].shape if isinstance(file[name], h5py.Dataset) else None
        del group[key]
        make(group, key, shape)


def every_verb(path: Path, folder: Path, verbs: Sequence[str] = VERBS) -> list[tuple[str, int]]:
    """Run every verb that reads a result file, in process; return their exit statuses.  Any exception is a failure."""
    calls = {
        "info": ["info", str(path)],
        "plot": ["plot", str(path), "-o", str(folder)],
        "animate": ["animate", str(path), "-o", str(folder / "c.gif")],
        "compare": ["compare", str(path), str(path), "-o", str(folder / "c.png"), "--points", "2"],
        "simulate": ["simulate", str(path), "--steps", "5", "--chains", "2"],
        "prove": ["prove", str(path), "--width", "0.5", "--time", "0.2", "-q", "-o", str(path.with_suffix(".proof.h5"))],
        "resume": ["resume", str(path), "--set", "flow.stop.steps=8"],
    }
    found = []
    for verb in verbs:
        arguments = calls[verb]
        before = digest(path) if os.path.isfile(path) else ""
        status = main(arguments)
        assert status in (0, 1, 2), (verb, status)
        if status == 2 and before:
            assert digest(path) == before, f"{verb} failed and changed the file"
        found.append((verb, status))
    return found


def refused(path: Path, folder: Path, capsys, *fragments: str) -> None:
    """Assert that every verb refuses the file in one line that holds the fragments."""
    capsys.readouterr()
    for verb, status in every_verb(path, folder):
        assert status == 2, verb
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(VERBS), lines
    for line in lines:
        assert line.startswith("wassgrid: ")
        for fragment in fragments:
            assert fragment in line, line
    for load in (ParticlePolicy.load, ResultWriter.reopen):
        with pytest.raises(StorageError):
            load(path)


def test_a_file_without_its_table_of_steps_is_refused_by_those_who_tell_of_them(ours, tmp_path, capsys):
    replaced(ours, "convergence", lambda group, key, shape: None)
    swept = tmp_path / "swept"
    swept.mkdir()
    shutil.copy(ours, swept / "held_particles=4.h5")
    (tmp_path / "held.toml").write_text(CASE)
    for words in (
        ["export", str(ours), "--to", "npz", "-o", str(tmp_path / "p.npz")],
        ["export", str(ours), "--to", "c", "-o", str(tmp_path / "p.h")],
        ["report", str(ours), "-o", str(tmp_path / "p.html")],
        ["sweep", str(tmp_path / "held.toml"), "--set", "policy.particles=4", "-o", str(swept), "--quiet"],
    ):
        assert main(words) == (1 if words[0] == "sweep" else 2), words
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".npz", ".h", ".html")]
    assert "convergence" in (swept / "sweep.csv").read_text()


def test_a_run_that_cannot_take_the_place_of_a_file_leaves_nothing_beside_it(ours, tmp_path, capsys, monkeypatch):
    """In a folder where all may write but not replace what is another's, for instance."""
    (tmp_path / "held.toml").write_text(CASE)
    before, here = digest(ours), sorted(ours.parent.iterdir())
    replace = os.replace

    def not_over(source, target):
        if Path(target).name == ours.name:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        replace(source, target)

    monkeypatch.setattr(os, "replace", not_over)
    assert main(["run", str(tmp_path / "held.toml"), "-o", str(ours), "--quiet"]) == 2
    assert "Operation not permitted" in capsys.readouterr().err
    assert digest(ours) == before
    assert sorted(path for path in ours.parent.iterdir() if path.suffix == ".h5") == [p for p in here if p.suffix == ".h5"]


def test_a_file_of_another_user_in_a_sticky_folder_is_refused_before_anything_is_computed(ours, tmp_path, capsys, monkeypatch):
    (tmp_path / "held.toml").write_text(CASE)
    before, mode = digest(ours), ours.parent.stat().st_mode
    monkeypatch.setattr("wassgrid.runs.solvers.drive", None)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    ours.parent.chmod(0o1777)
    try:
        for words in (["resume", str(ours)], ["run", str(tmp_path / "held.toml"), "-o", str(ours)]):
            assert main([*words, "--quiet"]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert "belongs to another user" in line and "name another, or copy it" in line
    finally:
        ours.parent.chmod(mode)
    assert digest(ours) == before


def test_a_new_case_that_does_not_fit_on_the_disk_is_not_left_half(tmp_path, capsys, monkeypatch):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("wassgrid.storage.whole.open", full, raising=False)
    assert main(["new", str(tmp_path / "x")]) == 2
    assert "No space left" in capsys.readouterr().err
    assert not (tmp_path / "x.toml").exists()


# ---- members that lead outside ----


def test_external_links_lead_nowhere(ours, solved, tmp_path, capsys):
    victim = Path(shutil.copy(solved, tmp_path / "victim.h5"))
    before = digest(victim)
    link = h5py.ExternalLink(str(victim), "/convergence")
    replaced(ours, "convergence", lambda group, key, shape: group.__setitem__(key, link))
    refused(ours, tmp_path / "figures", capsys, "/convergence", "link")
    assert digest(victim) == before


@pytest.mark.parametrize("member", ["convergence/objective", "checkpoint/actions", "trajectory/weights", "grid/s"])
def test_external_storage_is_not_touched(ours, tmp_path, capsys, member):
    victim = tmp_path / "victim.txt"
    victim.write_text("a private note\n" * 1000)
    before = digest(victim)

    def make(group, key, shape):
        group.create_dataset(key, shape, np.float64, external=[(str(victim), 0, h5py.h5f.UNLIMITED)])

    replaced(ours, member, make)
    refused(ours, tmp_path / "figures", capsys, f"/{member}", "outside")
    assert digest(victim) == before


@pytest.mark.parametrize("member", ["trajectory/actions", "checkpoint/weights"])
def test_virtual_datasets_are_not_followed(ours, solved, tmp_path, capsys, member):
    secret = Path(shutil.copy(solved, tmp_path / "secret.h5"))

    def make(group, key, shape):
        layout = h5py.VirtualLayout(shape, np.float64)
        layout[...] = h5py.VirtualSource(str(secret), member, shape)
        group.create_virtual_dataset(key, layout)

    replaced(ours, member, make)
    refused(ours, tmp_path / "figures", capsys, f"/{member}", "outside")


def test_loading_a_policy_returns_no_bytes_of_other_files(ours, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(np.random.default_rng(0).random(6 * 21 * 4).tobytes())
    replaced(
        ours,
        "trajectory/actions",
        lambda group, key, shape: group.create_dataset(key, shape, np.float64, external=[(str(secret), 0, h5py.h5f.UNLIMITED)]),
    )
    with pytest.raises(StorageError, match="outside"):
        ParticlePolicy.load(ours)


@pytest.mark.thorough
def test_other_links_and_kinds_of_members(ours, tmp_path, capsys, unrehearsed):
    sound = ours.read_bytes()

    def attack(name, make, *fragments):
        ours.write_bytes(sound)
        replaced(ours, name, make)
        refused(ours, tmp_path / "figures", capsys, *fragments)

    attack("trajectory", lambda g, k, s: g.__setitem__(k, h5py.SoftLink("/convergence")), "/trajectory", "link")
    attack("trajectory", lambda g, k, s: g.__setitem__(k, g), "/trajectory")
    attack("trajectory/value", lambda g, k, s: g.__setitem__(k, g["stationary"]), "two names")
    attack("trajectory/value", lambda g, k, s: g.__setitem__(k, np.dtype("f8")), "/trajectory/value")
    attack("trajectory/value", lambda g, k, s: g.create_group(k), "/trajectory/value")
    attack("trajectory/value", lambda g, k, s: g.create_dataset(k, s, h5py.ref_dtype), "/trajectory/value", "kind")
    attack("trajectory/value", lambda g, k, s: g.create_dataset(k, s, h5py.string_dtype()), "/trajectory/value", "kind")
    attack("trajectory/value", lambda g, k, s: g.create_dataset(k, s, h5py.vlen_dtype(np.float64)), "/trajectory/value", "kind")
    attack("trajectory/value", lambda g, k, s: g.create_dataset(k, s, "V16"), "/trajectory/value", "kind")
    attack("trajectory/value", lambda g, k, s: g.create_dataset(k, s, [("a", "f8"), ("b", "f8")]), "/trajectory/value", "kind")
    attack("trajectory/value", lambda g, k, s: g.create_dataset(k, (s[0] + 1, *s[1:]), "f8"), "/trajectory/value", "records")
    attack("trajectory/step", lambda g, k, s: g.create_dataset(k, s, np.float64), "/trajectory/step", "kind")


@pytest.mark.thorough
def test_shapes_that_disagree_and_sizes_that_lie(ours, tmp_path, capsys):
    sound = ours.read_bytes()

    def grown(rows):
        ours.write_bytes(sound)
        with h5py.File(ours, "r+") as file:
            for data in file["convergence"].values():
                if data.maxshape[0] is None:
                    data.resize(rows, axis=0)

    for rows in (10**6, 4_500_000_000_000_000, 2**62):
        grown(rows)
        refused(ours, tmp_path / "figures", capsys, "/convergence/step")
    ours.write_bytes(sound)
    huge = lambda g, k, s: g.create_dataset(k, (s[0], 10**6, 10**5), "f8", chunks=(1, 64, 64), maxshape=(None, None, None))  # noqa: E731
    replaced(ours, "trajectory/value", huge)
    refused(ours, tmp_path / "figures", capsys, "/trajectory/value")
    ours.write_bytes(sound)
    replaced(ours, "checkpoint/warm_law", lambda g, k, s: g.create_dataset(k, data=np.zeros(7)))
    assert every_verb(ours, tmp_path / "figures", ("resume",)) == [("resume", 2)]


@pytest.mark.thorough
def test_attributes_and_texts(ours, tmp_path, capsys, monkeypatch, unrehearsed):
    """Every attribute in every wrong kind; `info` reads each of them, the other verbs are tried in turn."""
    monkeypatch.setattr("wassgrid.plotting.save", lambda figure, path: None)  # figures are drawn, not written
    sound = ours.read_bytes()
    others = itertools.cycle([(), ("plot",), (), ("compare",), (), ("simulate",), (), ("resume",), ()])

    def attack(edit):
        ours.write_bytes(sound)
        with h5py.File(ours, "r+") as file:
            edit(file)
        capsys.readouterr()
        every_verb(ours, tmp_path / "figures", ("info", *next(others)))
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err + captured.out
        assert "\x1b" not in captured.err + captured.out

    deep = "[" * 100_000
    texts = ("case", "case_name", "title", "created", "status", "reason", "summary")
    for name in (*texts, "format_version", "action_names", "seed"):
        attack(lambda file, name=name: file.attrs.__delitem__(name))
        for value in (3, "\x1b]0;owned\x07", b"\xff\xfe", deep, [1, 2], ["a"], np.zeros((2, 2)), h5py.Empty("f8")):
            attack(lambda file, name=name, value=value: file.attrs.__setitem__(name, value))
        attack(lambda file, name=name: file.attrs.__setitem__(name, file.ref))
    wrong = ('{"lengths": {}, "values": {}}', '{"lengths": {"convergence": -1}, "values": {}}')
    for text in (deep, "{}", "[]", "nan", *wrong, "\xff"):
        attack(lambda file, text=text: file["checkpoint"].__delitem__("json"))
        attack(lambda file, text=text: _set_json(file, text))
    wrong = ({"resolution": 3}, {"resolution": [{}]}, {"boundary_mass": []}, {"recurrent_classes": {}}, [], {"a": {"b": []}})
    for summary in wrong:
        attack(lambda file, summary=summary: file.attrs.__setitem__("summary", json.dumps(summary)))


def _set_json(file: h5py.File, text: str) -> None:
    del file["checkpoint/json"]
    file["checkpoint"]["json"] = np.array([text.encode("latin-1")])


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["step", "actions", "weights", "warm_law", "warm_value"])
def test_checkpoints_that_lack_something(ours, tmp_path, name):
    with h5py.File(ours, "r+") as file:
        if name in file["checkpoint"]:
            del file[f"checkpoint/{name}"]
        else:
            stored = json.loads(file["checkpoint/json"][0])
            del stored["values"][name]
            _set_json(file, json.dumps(stored))
    assert every_verb(ours, tmp_path / "figures", ("resume",)) == [("resume", 2)]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no child process reads first")
def test_a_heap_in_which_the_library_loops_for_ever(ours, tmp_path, capsys, monkeypatch):
    """An object without number and size in a heap of texts, which no checksum covers: HDF5 never comes to the next one."""
    monkeypatch.setattr("wassgrid.storage.rehearsal.SECONDS", 0.3)
    content = bytearray(ours.read_bytes())
    first = content.index(b"GCOL") + 16
    content[first : first + 16] = bytes(16)
    ours.write_bytes(content)
    began = time.perf_counter()
    for verb, status in every_verb(ours, tmp_path / "figures", ("info", "resume")):
        assert status == 2, verb
    assert "does not survive" in capsys.readouterr().err
    assert time.perf_counter() - began < 30
    with pytest.raises(StorageError, match="not a wassgrid result"):
        ResultWriter(ours)


def test_a_column_that_is_missing_is_named(ours, tmp_path, capsys):
    for name in ("wall_time", "gradient_norm", "objective"):
        with h5py.File(ours, "r+") as file:
            del file[f"convergence/{name}"]
        assert main(["info", str(ours)]) == 2
        assert f"/convergence of '{ours}' lacks '{name}'" in capsys.readouterr().err


# ---- things that are no result file ----


def test_what_is_no_file(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.h5")
    (tmp_path / "folder.h5").mkdir()
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "text.h5").write_text("notes")
    (tmp_path / "loop.h5").symlink_to(tmp_path / "loop.h5")
    for name in ("pipe.h5", "folder.h5", "empty.h5", "text.h5", "loop.h5", "absent.h5", "x" * 5000, "nul\0.h5"):
        refused(tmp_path / name, tmp_path / "figures", capsys) if "\0" not in name else None
        for arguments in (["info", str(tmp_path / name)], ["resume", str(tmp_path / name)]):
            assert main(arguments) == 2
    capsys.readouterr()


def test_a_long_message_keeps_its_reason(capsys):
    case = "cases/scalar_lq.toml"
    for arguments in (["info", "x" * 5000], ["run", "x/" * 2500 + "case.toml"], ["run", case, "-o", "x" * 5000]):
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert len(line) <= 2000 and "name too long" in line.lower()


@pytest.mark.thorough
def test_every_truncation_is_refused(ours, tmp_path):
    sound = ours.read_bytes()
    generator = random.Random(1)
    for _ in range(60):
        ours.write_bytes(sound[: generator.randrange(len(sound))])
        with pytest.raises(StorageError):
            ResultFile(ours)


@pytest.mark.thorough
def test_a_flipped_bit_of_an_array_is_named(ours, tmp_path, unrehearsed):
    """Bytes of every stored array: a changed one is refused with the name of the array, by whoever reads it."""
    sound = bytearray(ours.read_bytes())
    places, shares = [], itertools.cycle((0.0, 0.5, 1.0))
    with h5py.File(ours) as file:

        def visit(name, item):
            if isinstance(item, h5py.Dataset) and item.chunks is not None:
                for k in range(item.id.get_num_chunks()):
                    chunk = item.id.get_chunk_info(k)
                    places.append((name, chunk.byte_offset + int(next(shares) * (chunk.size - 1))))
            elif isinstance(item, h5py.Dataset) and item.size:
                assert h5py.check_string_dtype(item.dtype), f"/{name} has no checksum"

        file.visititems(visit)
    assert len(places) > 30
    for name, offset in places:
        damaged = bytearray(sound)
        damaged[offset] ^= 1 << (offset % 8)
        ours.write_bytes(damaged)
        with ResultFile(ours) as result:
            with pytest.raises(StorageError, match=f"/{re.escape(name)} is damaged: its checksum is wrong"):
                result.verify()
            group, _, key = name.partition("/")
            if group in ("convergence", "trajectory"):
                with pytest.raises(StorageError, match=f"/{re.escape(name)} is damaged: its checksum is wrong"):
                    result.coordinate(group, key)


# ---- temporary and lock files ----


@pytest.mark.parametrize("name", [".r.h5.partial", ".r.h5.lock", "r.1.h5"])
@pytest.mark.parametrize("how", ["to a file", "to nothing", "hard"])
def test_temporary_files_cannot_be_pointed_elsewhere(tmp_path, name, how):
    folder = tmp_path / "shared"
    folder.mkdir()
    path, victim = folder / "r.h5", tmp_path / "victim"
    if name == "r.1.h5":  # where an earlier result is kept
        writer = create(path)
        append(writer, 0)
        writer.finish("stopped", "")
    if how != "to nothing":
        victim.write_text("precious")
    if how == "hard":
        os.link(victim, folder / name)
    else:
        (folder / name).symlink_to(victim)
    try:
        writer = create(path)
        append(writer, 0)
        append(writer, 1)
        writer.finish("stopped", "")
        assert check_prefix(path) == 2
        assert stat.S_ISREG(path.lstat().st_mode)
    except StorageError as error:
        assert name in str(error)
    assert victim.read_text() == "precious" if how != "to nothing" else not victim.exists()
    ResultWriter.reopen(path).close() if path.exists() and not (folder / name).is_symlink() else None
    assert victim.read_text() == "precious" if how != "to nothing" else not victim.exists()


def test_the_name_in_a_lock_is_shown_as_text(tmp_path):
    import fcntl

    path = tmp_path / "r.h5"
    append(writer := create(path), 0)
    writer.finish("stopped", "")
    with open(tmp_path / ".r.h5.lock", "w") as lock:
        lock.write("\x1b[31mprocess 1")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match=r"\\x1b\[31mprocess 1"):
            ResultWriter.reopen(path)
        with ResultFile(path) as result:
            assert "\x1b" not in result.being_written_by


def test_refusing_a_policy_needs_no_particles(ours):
    with h5py.File(ours, "r+") as file:
        del file["trajectory"]
    with pytest.raises((StorageError, PolicyError)):
        ParticlePolicy.load(ours)
