"""Result files: what is written comes back, under named axes, and nothing that befalls a run destroys the file."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from wassgrid.storage import Axis, ResultFile, ResultWriter, StorageError, Variable
from wassgrid.storage.layout import explain

GRID = (
    Axis("theta", np.linspace(-1.0, 1.0, 5), "theta", "1", {"boundary": "periodic"}),
    Axis("q[3]", np.linspace(0.0, 2.0, 3), "q[3]", "1", {"boundary": "clamp"}),
)
AXES = (Axis("particle", np.arange(4), "particle number"), Axis("action", ["u[1]", "u[2]"], "action component"))
SERIES = {
    "convergence": {
        "objective": Variable((), "average cost"),
        "wall_time": Variable((), "wall time", "s"),
    },
    "trajectory": {
        "actions": Variable(("theta", "q[3]", "particle", "action"), "actions of the particles"),
        "stationary": Variable(("theta", "q[3]"), "stationary probability of the cell"),
    },
}
ATTRIBUTES = {"case": 'title = "é"', "case_name": "example", "seed": 3}


def create(path: Path, **changes) -> ResultWriter:
    given = {"attributes": ATTRIBUTES, "axes": AXES, "series": SERIES, "grid": GRID}
    return ResultWriter.create(path, **given | changes)


def record(step: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(step)
    return {"actions": generator.normal(size=(5, 3, 4, 2)), "stationary": generator.random((5, 3))}


def append(writer: ResultWriter, step: int) -> None:
    writer.append_row({"step": step, "objective": 1.0 / (1 + step), "wall_time": 0.1 * step})
    writer.append_frame(step, record(step))
    writer.set_checkpoint({"step": step, "actions": record(step)["actions"]})


def check_prefix(path: Path) -> int:
    """Assert that the file holds the first records and nothing else; return how many."""
    with ResultFile(path) as result:
        steps = result.convergence["step"]
        assert np.array_equal(steps, np.arange(len(steps)))
        assert np.array_equal(result.convergence["objective"], 1.0 / (1 + steps))
        assert np.array_equal(result.steps("trajectory"), steps)
        for name in ("actions", "stationary"):
            for step, stored in zip(steps, result.array("trajectory", name), strict=True):
                assert np.array_equal(stored, record(step)[name])
        if len(steps):
            assert result.checkpoint["step"] == steps[-1]
            assert np.array_equal(result.checkpoint["actions"], record(steps[-1])["actions"])
        return len(steps)


def leftovers(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith("."))


def test_everything_written_comes_back(tmp_path):
    path = tmp_path / "example.h5"
    writer = create(path)
    with ResultFile(path) as result:  # there from the start
        assert (result.status, result.reason, len(result.convergence["step"])) == ("running", "", 0)
        assert result.checkpoint is None
        with pytest.raises(StorageError, match="holds no 'trajectory': there is no record -1"):
            result.frame("actions")
        assert result.being_written_by.startswith(f"process {os.getpid()} on ")
    for step in range(7):
        append(writer, step)
        if step == 3:
            writer.commit()
    writer.finish("converged", "the gradient norm is below 1e-8")
    assert check_prefix(path) == 7
    with ResultFile(path) as result:
        assert (result.status, result.reason) == ("converged", "the gradient norm is below 1e-8")
        assert result.case_text == 'title = "é"'
        assert result.attributes["seed"] == 3
        assert result.series == ("convergence", "trajectory")
        assert list(result.grid) == ["theta", "q[3]"]
        assert np.array_equal(result.grid["q[3]"], [0.0, 1.0, 2.0])
        assert (result.state_names, result.boundaries) == (("theta", "q[3]"), ("periodic", "clamp"))
        assert np.array_equal(result.axes[0], GRID[0].values)
        assert np.array_equal(result.frame("stationary"), record(6)["stationary"])
        with pytest.raises(StorageError, match="holds 7 records of 'trajectory': there is no record 7"):
            result.frame("stationary", 7)
        assert result.dimensions("trajectory", "actions") == ("step", "theta", "q[3]", "particle", "action")
        assert result.coordinate("trajectory", "action") == ["u[1]", "u[2]"]
        assert result.description("convergence/wall_time") == {"long_name": "wall time", "units": "s"}
        assert np.array_equal(result.record("trajectory", 2)["actions"], record(2)["actions"])
        assert result.being_written_by is None
    assert leftovers(tmp_path) == []


def test_arrays_are_chunked_extendible_and_compressed(tmp_path):
    append(writer := create(tmp_path / "r.h5"), 0)
    writer.finish("stopped", "steps")
    with h5py.File(tmp_path / "r.h5") as file:
        for group in ("convergence", "trajectory"):
            for name in (name for name in file[group] if file[group][name].maxshape[0] is None):
                data = file[group][name]
                assert (data.compression, data.shuffle) == ("gzip", True)
                assert data.chunks is not None
        assert file["trajectory/actions"].dtype == np.float64
        assert file["trajectory/actions"].maxshape == (None, 5, 3, 4, 2)


def test_checkpoint_comes_back_exactly(tmp_path):
    values = {
        "double": np.array([1.0, np.nan, -0.0, np.inf, 5e-324]),
        "single": np.float32([[0.1], [0.2]]),
        "integers": np.arange(3, dtype=np.int16),
        "flags": np.array([True, False]),
        "complex": np.array([1 + 2j]),
        "empty": np.zeros((0, 4)),
        "scalar_array": np.array(3, dtype=np.uint8),
        "float": 0.1,
        "nan": float("nan"),
        "integer": 2**100,
        "flag": True,
        "nothing": None,
        "text": "é\n",
        "generator": np.random.default_rng(1).bit_generator.state,
        "numpy_scalar": np.int64(7),
    }
    writer = create(tmp_path / "r.h5")
    writer.set_checkpoint({"vanishes": np.zeros(3), "double": np.zeros((2, 2)), "empty": np.zeros((0, 4))})
    writer.commit()
    writer.set_checkpoint(values)
    values["double"][0] = 2.0  # what was set is a copy
    writer.finish("stopped", "")
    with ResultFile(tmp_path / "r.h5") as result:
        stored = result.checkpoint
    values["double"][0] = 1.0
    assert set(stored) == set(values)
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            assert (stored[name].dtype, stored[name].shape) == (value.dtype, value.shape)
            assert stored[name].tobytes() == value.tobytes()
        elif name == "nan":
            assert np.isnan(stored[name])
        else:
            assert stored[name] == value
            assert type(stored[name]) is (int if name == "numpy_scalar" else type(value))


def test_xarray_shows_named_dimensions(tmp_path):
    import xarray  # here: the killed writers below import this module again and again

    path = tmp_path / "r.h5"
    series = SERIES | {"neural": {"parameters": Variable(("parameter",), "network parameters")}}
    writer = create(path, series=series, axes=(*AXES, Axis("parameter", np.arange(6), "parameter number")))
    for step in range(3):
        append(writer, step)
        writer.append_frame(step, {"parameters": np.full(6, step)}, series="neural")
    writer.finish("converged", "")
    with xarray.open_dataset(path, group="trajectory", engine="h5netcdf") as data:
        assert data["actions"].dims == ("step", "theta", "q[3]", "particle", "action")
        assert data["stationary"].dims == ("step", "theta", "q[3]")
        assert set(data.dims) == {"step", "theta", "q[3]", "particle", "action"}
        assert np.array_equal(data["actions"].sel(step=2, action="u[2]", theta=-0.5), record(2)["actions"][1, ..., 1])
        assert data["actions"].attrs == {"long_name": "actions of the particles", "units": "1"}
        assert data["theta"].attrs["boundary"] == "periodic"
    with xarray.open_dataset(path, group="convergence", engine="h5netcdf") as data:
        assert set(data.dims) == {"step"}
        assert data["wall_time"].dtype == np.float64  # not decoded as a date
        assert data["objective"].sel(step=1) == 0.5
    with xarray.open_dataset(path, group="neural", engine="h5netcdf") as data:
        assert data["parameters"].dims == ("step", "parameter")
    with xarray.open_datatree(path, engine="h5netcdf") as tree:
        assert {node.name for node in tree.subtree} >= {"grid", "trajectory", "convergence", "checkpoint", "neural"}
        names = [name for node in tree.subtree for name in node.dims]
        assert not any(name.startswith("phony_dim") for name in names)


def test_state_named_like_a_quantity(tmp_path):
    import xarray

    states = tuple(Axis(name, np.arange(3.0), name) for name in ("value", "step", "actions"))
    variables = {
        "actions": Variable(("value", "step", "actions", "particle"), "actions"),
        "value": Variable(("value", "step", "actions"), "value"),
    }
    writer = create(tmp_path / "r.h5", grid=states, series={"convergence": {}, "trajectory": variables})
    values = np.random.default_rng(0).normal(size=(3, 3, 3))
    writer.append_frame(0, {"actions": np.zeros((3, 3, 3, 4)), "value": values})
    writer.finish("stopped", "")
    with xarray.open_dataset(tmp_path / "r.h5", group="trajectory", engine="h5netcdf") as data:
        assert data["value"].dims == ("step", "value_axis", "step_axis", "actions_axis")
        assert np.array_equal(data["value"][0], values)
    with ResultFile(tmp_path / "r.h5") as result:
        assert list(result.grid) == ["value", "step", "actions"]


def test_late_and_missing_columns_are_nan_elsewhere(tmp_path):
    writer = create(tmp_path / "r.h5")
    writer.append_row({"step": 0, "objective": 1.0})
    writer.commit()
    writer.append_row({"step": 1, "objective": 2.0, "escaped": 3})
    writer.finish("stopped", "")
    with ResultFile(tmp_path / "r.h5") as result:
        columns = result.convergence
    assert next(iter(columns)) == "step"
    assert np.array_equal(columns["escaped"], [np.nan, 3.0], equal_nan=True)
    assert np.isnan(columns["wall_time"]).all()


def test_reopening_drops_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "r.h5"
    writer = create(path)
    for step in range(4):
        append(writer, step)
    writer.append_row({"step": 4, "objective": -1.0})
    writer.append_frame(4, record(0))
    writer.commit()
    writer.close()  # as if killed
    with ResultFile(path) as result:
        assert len(result.convergence["step"]) == 5
    writer = ResultWriter.reopen(path, {"case": "other"})
    assert check_prefix(path) == 4
    for step in range(4, 6):
        append(writer, step)
    writer.finish("converged", "done")
    assert check_prefix(path) == 6
    with ResultFile(path) as result:
        assert (result.status, result.case_text) == ("converged", "other")


def test_reopening_without_a_checkpoint_begins_anew(tmp_path):
    writer = create(tmp_path / "r.h5")
    writer.append_row({"step": 0, "objective": 1.0})
    writer.commit()
    writer.close()
    writer = ResultWriter.reopen(tmp_path / "r.h5")
    append(writer, 0)
    writer.finish("stopped", "")
    assert check_prefix(tmp_path / "r.h5") == 1


def test_many_transactions_leave_no_holes(tmp_path):
    once, often = create(tmp_path / "once.h5"), create(tmp_path / "often.h5")
    for step in range(100):
        append(once, step)
        append(often, step)
        often.commit()
    once.finish("stopped", "")
    often.finish("stopped", "")
    assert check_prefix(tmp_path / "often.h5") == 100
    sizes = [(tmp_path / name).stat().st_size for name in ("once.h5", "often.h5")]
    assert sizes[1] < 2.0 * sizes[0]


def test_a_list_of_many_names_is_kept(tmp_path):
    """Names of actions are an attribute, which may be as long as they are many: in any dimension."""
    names = [f"u[{i}]" for i in range(20_000)]
    writer = create(tmp_path / "r.h5", attributes=ATTRIBUTES | {"action_names": names})
    append(writer, 0)
    writer.finish("stopped", "")
    with ResultFile(tmp_path / "r.h5") as result:
        assert result.texts("action_names") == names


def test_transactions_are_due_after_a_while_or_when_memory_fills(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("wassgrid.storage.writer.time.monotonic", lambda: clock[0])
    with create(tmp_path / "r.h5") as writer:
        append(writer, 0)
        assert not writer.due
        clock[0] += 2.5
        assert writer.due
        writer.commit()
        assert not writer.due
        monkeypatch.setattr("wassgrid.storage.writer.BUFFER_BYTES", 1000)
        append(writer, 1)
        assert not writer.due  # 1 kB of records is more than the limit, but little beside the file
        for step in range(2, 30):
            append(writer, step)
        assert writer.due


def test_earlier_result_is_kept_beside(tmp_path):
    path = tmp_path / "r.h5"
    create(path).close()
    writer = create(path)  # nothing was recorded in the first
    assert writer.kept is None
    append(writer, 0)
    writer.finish("interrupted", "")
    writer = create(path)
    assert writer.kept == tmp_path / "r.1.h5"
    assert check_prefix(tmp_path / "r.1.h5") == 1
    assert check_prefix(path) == 0
    append(writer, 0)
    append(writer, 1)
    writer.finish("interrupted", "")
    create(path).close()
    assert check_prefix(tmp_path / "r.1.h5") == 1
    assert check_prefix(tmp_path / "r.2.h5") == 2


def test_discarding_restores_what_was_there(tmp_path):
    path = tmp_path / "r.h5"
    create(path).discard()
    assert os.listdir(tmp_path) == []
    writer = create(path)
    append(writer, 0)
    writer.finish("stopped", "")
    create(path).discard()
    ResultWriter(path).discard()  # claimed, nothing begun
    assert os.listdir(tmp_path) == ["r.h5"]
    assert check_prefix(path) == 1


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link.h5").symlink_to(tmp_path / "r.h5")
    append(writer := create(tmp_path / "link.h5"), 0)
    writer.finish("stopped", "")
    assert (tmp_path / "link.h5").is_symlink()
    assert check_prefix(tmp_path / "r.h5") == 1


@pytest.mark.parametrize("make", [lambda path: path.write_text("notes"), lambda path: h5py.File(path, "w").close()])
def test_other_files_are_never_replaced(tmp_path, make):
    path = tmp_path / "r.h5"
    make(path)
    before = path.read_bytes()
    with pytest.raises(StorageError, match="exists and is not a wassgrid result"):
        create(path)
    with pytest.raises(StorageError, match=r"give a .*file written by 'wassgrid run'"):
        ResultFile(path)
    with pytest.raises(StorageError, match=r"give a .*file written by 'wassgrid run'"):
        ResultWriter.reopen(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["r.h5"]


def test_unusable_paths(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path, message in {
        tmp_path / "file" / "r.h5": "Not a directory",
        tmp_path / "absent" / "r.h5": "No such file or directory",
        tmp_path / "folder": "not a regular file",
        Path("/dev/null"): "not a regular file",
        Path("/proc/r.h5"): "No such file or directory",
    }.items():
        with pytest.raises(StorageError, match=message) as error:
            create(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    for path, message in {tmp_path / "absent.h5": "No such file", tmp_path / "folder": "Is a directory"}.items():
        with pytest.raises(StorageError, match=message):
            ResultFile(path)


def test_damaged_and_newer_files(tmp_path):
    path = tmp_path / "r.h5"
    append(writer := create(path), 0)
    writer.finish("stopped", "")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(StorageError, match="truncated file"):
        ResultFile(path)
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(StorageError, match=r"format version 99.*install a newer wassgrid"):
        ResultFile(path)


def test_second_writer_is_refused(tmp_path):
    path = tmp_path / "r.h5"
    with create(path) as writer:
        append(writer, 0)
        writer.commit()
        for attempt in (create, ResultWriter.reopen):
            with pytest.raises(StorageError, match=f"is being written by process {os.getpid()}"):
                attempt(path)
        append(writer, 1)
        writer.commit()
    assert check_prefix(path) == 2
    ResultWriter.reopen(path).close()  # free again


def test_full_disk_keeps_the_last_transaction(tmp_path, monkeypatch):
    path = tmp_path / "r.h5"
    writer = create(path)
    append(writer, 0)
    writer.commit()

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("os.posix_fallocate", "os.fsync", "shutil.copyfileobj", "wassgrid.storage.writer.extend_series"):
        with monkeypatch.context() as patch:
            patch.setattr(name, full)
            append(writer, 1)
            with pytest.raises(StorageError, match="No space left on device"):
                writer.commit()
            assert check_prefix(path) == 1
            assert leftovers(tmp_path) == [".r.h5.lock"]
    writer.close()
    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", full)
        for target in ("new.h5", "r.h5"):
            with pytest.raises(StorageError, match="No space left on device"):
                create(tmp_path / target)
    assert os.listdir(tmp_path) == ["r.h5"]
    assert check_prefix(path) == 1


SCRIPT = """
import resource, sys
sys.path.insert(0, {tests!r})
from test_storage import *
path = Path(sys.argv[1])
{body}
"""


def start(body: str, path: Path) -> subprocess.Popen:
    script = SCRIPT.format(tests=str(Path(__file__).parent), body=body)
    command = [sys.executable, "-c", script, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_file_that_may_not_grow(tmp_path):
    body = """
resource.setrlimit(resource.RLIMIT_FSIZE, (2**22, 2**22))
writer = create(path)
try:
    for step in range(10_000):
        append(writer, step)
        if step % 50 == 49:
            writer.commit()
except StorageError as error:
    writer.close()
    print(error)
"""
    output, errors = start(body, tmp_path / "r.h5").communicate(timeout=120)
    assert errors == ""
    assert output == f"cannot write '{tmp_path / 'r.h5'}': File too large\n"
    assert check_prefix(tmp_path / "r.h5") > 200
    assert os.listdir(tmp_path) == ["r.h5"]


@pytest.mark.thorough
def test_kills_at_random_moments(tmp_path):
    body = """
writer = ResultWriter.reopen(path) if path.exists() else create(path)
first = check_prefix(path)
print("ready", flush=True)
for step in range(first, 10_000):
    append(writer, step)
    writer.commit()
"""
    path = tmp_path / "r.h5"
    generator = random.Random(5)
    lengths = [0]
    in_transaction = 0
    while len(lengths) <= 12 or lengths[-1] <= 12:  # a busy machine writes less before each kill
        assert len(lengths) < 60
        process = start(body, path)
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        time.sleep(generator.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        in_transaction += ".r.h5.partial" in leftovers(tmp_path)
        lengths.append(check_prefix(path))
    assert lengths == sorted(lengths)
    assert in_transaction > 2  # most kills fell into a transaction, whose remains did not matter
    ResultWriter.reopen(path).close()
    assert os.listdir(tmp_path) == ["r.h5"]


def test_errors_of_hdf5_are_said_as_the_system_says_them():
    said = "Unable to synchronously create file (file write failed\n, errno = 28, error message = 'No space left on device')"
    for error in (OSError(28, said), OSError(said), RuntimeError(said)):
        assert explain("write", Path("r.h5"), error) == "cannot write 'r.h5': No space left on device"
    assert explain("read", Path("r.h5"), RuntimeError("two\nlines")) == "cannot read 'r.h5': two lines"
