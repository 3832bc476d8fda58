"""The HDF5 layout of a result file (format version 1), in one place.

::

    /                  attributes: format, format_version, status, reason; from the caller: case text, seed, versions
    /grid/<state>      points of the state axes, dimension scales
    /<series>/step     step numbers of the series' records: a dimension scale, the unlimited axis of the arrays
    /<series>/<name>   (records, ...) one array per recorded quantity; the scales of its other axes stand beside it
    /checkpoint/...    arrays needed to go on; ``json``: other values, and the length that every series had then

Every stored array has checksums (Fletcher32), but for names, whose text HDF5 keeps elsewhere; the structure of a file that is
begun now has those of HDF5 (its format of version 1.10). Files of early versions have neither and are read all the same.

Series are ``convergence`` (one row of scalars per step), ``trajectory`` (particles, stationary law, value) and whatever
else the caller declares. Each group carries the scales of all its axes, so that
``xarray.open_dataset(file, group="trajectory")`` shows named dimensions with coordinates.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from wassgrid.errors import WassgridError
from wassgrid.text import visible

FORMAT = "wassgrid"
FORMAT_VERSION = 1
RUNNING = "running"
CHUNK_BYTES = 256 * 2**10
HDF5_FORMAT = ("v110", "latest")  # the first in which the structure has checksums too

Records = Sequence[tuple[int, dict[str, np.ndarray]]]


class StorageError(WassgridError):
    """A result file cannot be read or written; the message is one line that names the file and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))


@dataclass(frozen=True)
class Axis:
    """Points of one axis: ``values`` (n,) numbers or names; becomes a dimension scale."""

    name: str
    values: np.ndarray | Sequence[str]
    long_name: str
    units: str = "1"
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_text(self) -> bool:
        return len(self.values) > 0 and isinstance(self.values[0], str)


@dataclass(frozen=True)
class Variable:
    """One recorded quantity: the names of its axes after ``step``, what it is and its units."""

    dimensions: tuple[str, ...]
    long_name: str
    units: str = "1"


def create_structure(
    file: h5py.File,
    attributes: Mapping[str, Any],
    grid: Sequence[Axis],
    axes: Mapping[str, Axis],
    series: Mapping[str, Mapping[str, Variable]],
) -> None:
    """Write root attributes, state axes and empty series into a new file."""
    file.attrs.update({"format": FORMAT, "format_version": FORMAT_VERSION, "status": RUNNING, "reason": ""})
    file.attrs.update(attributes)
    group = file.create_group("grid")
    for position, axis in enumerate(grid):
        _create_scale(group, axis.name, axis).attrs["position"] = position
    for name, variables in series.items():
        _create_series(file.create_group(name), axes, variables)


def extend_series(group: h5py.Group, records: Records) -> None:
    """Append records; a quantity that a record lacks is nan there, a new scalar becomes a new column (nan before)."""
    for name in dict.fromkeys(name for _, values in records for name in values):
        if name not in group:
            _create_variable(group, name, Variable((), name.replace("_", " ")), ())
    start, length = len(group["step"]), len(group["step"]) + len(records)
    group["step"].resize(length, axis=0)
    group["step"][start:] = [step for step, _ in records]
    for name in variable_names(group):
        data = group[name]
        shape = data.shape[1:]
        block = np.stack([values.get(name, np.full(shape, np.nan)) for _, values in records])
        if block.shape[1:] != shape:
            raise ValueError(f"a record of {data.name} has shape {shape}, got {block.shape[1:]}")
        data.resize(length, axis=0)
        data[start:] = block


def resize_series(group: h5py.Group, length: int) -> None:
    """Cut a series to its first ``length`` records, or lengthen it."""
    for name in ("step", *variable_names(group)):
        group[name].resize(length, axis=0)


def variable_names(group: h5py.Group) -> tuple[str, ...]:
    """Names of a series' recorded quantities, without ``step`` and the scales of the other axes."""
    return tuple(name for name, data in group.items() if not data.is_scale)


def write_checkpoint(file: h5py.File, values: Mapping[str, Any], lengths: Mapping[str, int]) -> None:
    """Replace the checkpoint: arrays as datasets, everything else as JSON text."""
    group = file.require_group("checkpoint")
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    others = {name: value for name, value in values.items() if name not in arrays}
    others = {name: value.item() if isinstance(value, np.generic) else value for name, value in others.items()}
    for name in variable_names(group):  # "json" among them
        array = arrays.get(name)
        if array is None or (array.shape or (1,)) != group[name].shape or array.dtype != group[name].dtype:
            _delete(group, name)
    for name, array in arrays.items():
        if name == "json" or name.startswith("index_"):
            raise ValueError(f"checkpoint array '{name}': 'json' and names that begin with 'index_' are taken")
        if name in group:
            group[name][...] = array  # of the same size and uncompressed: written in place, the file does not grow
            continue
        _create_indexed(group, name, array)
    # Of fixed length: HDF5 never takes back the space of a variable-length string that is written over.
    _create_indexed(group, "json", np.array([json.dumps({"lengths": dict(lengths), "values": others}).encode()]))


def read_checkpoint(file: h5py.File) -> tuple[dict[str, Any], dict[str, int]] | None:
    """Return the values as they were given and the lengths of the series then, or None if there is no checkpoint.

    Raises ValueError where the JSON is not what `write_checkpoint` writes; errors of HDF5 go through.
    """
    if "checkpoint" not in file:
        return None
    group = file["checkpoint"]
    arrays = {name: _read_indexed(group[name]) for name in variable_names(group) if name != "json"}
    stored = parse_json(_checkpoint_text(group))
    lengths, values = stored.get("lengths"), stored.get("values")
    if not isinstance(lengths, dict) or not isinstance(values, dict) or values.keys() & arrays.keys():
        raise ValueError("it is not what a run writes")
    for name, length in lengths.items():
        records = len(file[name]["step"]) if name in file and "step" in file[name] else -1
        if type(length) is not int or not 0 <= length <= records:
            raise ValueError(f"it speaks of {length} records of '{name}', which has {max(records, 0)}")
    return arrays | values, lengths


def read_checkpoint_values(file: h5py.File) -> dict[str, Any] | None:
    """Return the values of a checkpoint that are no arrays, or None if there is no checkpoint.  Raises as `read_checkpoint`."""
    if "checkpoint" not in file:
        return None
    values = parse_json(_checkpoint_text(file["checkpoint"])).get("values")
    if not isinstance(values, dict):
        raise ValueError("it is not what a run writes")
    return values


def _checkpoint_text(group: h5py.Group) -> str:
    return read_array(group["json"]).tobytes().rstrip(b"\0").decode()


def parse_json(text: str) -> dict[str, Any]:
    """Return a JSON object; raise ValueError for anything else, however deep it is nested."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def read_array(data: h5py.Dataset, index: Any = ()) -> np.ndarray:
    """Read an array, or the part that an index selects; raise ChecksumError where it is not what was written."""
    try:
        return np.asarray(data[index])
    except (OSError, RuntimeError) as error:
        raise ChecksumError(f"{data.name} is damaged: {_cause(error)}") from error


class ChecksumError(WassgridError, ValueError):
    """An array of a file is not what was written there; the message names it."""


def _cause(error: Exception) -> str:
    text = " ".join(str(error).split())
    found = "fletcher32" in text.lower() or "checksum" in text.lower() or "filter" in text.lower()
    return "its checksum is wrong" if found else f"it cannot be read ({text})"


def _create_indexed(group: h5py.Group, name: str, array: np.ndarray) -> None:
    """Write an array of any shape with axes called after their lengths."""
    scalar, array = array.shape == (), np.atleast_1d(array)
    checked = {"chunks": _chunks(array.shape)[1:], "fletcher32": True} if array.size else {}
    data = group.create_dataset(name, data=array, **checked)
    data.attrs.update({"long_name": name.replace("_", " "), "units": "1"})
    if scalar:
        data.attrs["scalar"] = True  # HDF5 has no checksum for an array without axes
    for position, length in enumerate(array.shape):
        scale = f"index_{length}"
        if scale not in group:
            _create_scale(group, scale, Axis(scale, np.arange(length), f"index over {length} entries"))
        data.dims[position].attach_scale(group[scale])


def _read_indexed(data: h5py.Dataset) -> np.ndarray:
    array = read_array(data)
    return array.reshape(()) if data.attrs.get("scalar", False) and array.size == 1 else array


def _delete(group: h5py.Group, name: str) -> None:
    for axis in group[name].dims:
        for scale in axis.values():  # a scale keeps the addresses of its users, of deleted ones too
            axis.detach_scale(scale)
    del group[name]


def _create_scale(group: h5py.Group, name: str, axis: Axis) -> h5py.Dataset:
    if axis.is_text:
        scale = group.create_dataset(name, data=list(axis.values), dtype=h5py.string_dtype())
    else:
        values = np.asarray(axis.values)
        checked = {"chunks": _chunks(values.shape)[1:], "fletcher32": True} if values.size else {}
        scale = group.create_dataset(name, data=values, **checked)
    scale.make_scale(name)
    scale.attrs.update({"long_name": axis.long_name, "units": axis.units, **axis.attributes})
    return scale


def _create_series(group: h5py.Group, axes: Mapping[str, Axis], variables: Mapping[str, Variable]) -> None:
    packed = {"compression": "gzip", "shuffle": True, "fletcher32": True}
    step = group.create_dataset("step", (0,), np.int64, maxshape=(None,), chunks=(1024,), **packed)
    step.make_scale("step")
    step.attrs.update({"long_name": "step number", "units": "1"})
    used = dict.fromkeys(name for variable in variables.values() for name in variable.dimensions)
    # An axis may be called like a quantity (a state named "value"): its scale gives way.
    scales = {name: f"{name}_axis" if name in variables or name == "step" else name for name in used}
    for name, scale in scales.items():
        _create_scale(group, scale, axes[name])
    for name, variable in variables.items():
        _create_variable(group, name, variable, [scales[axis] for axis in variable.dimensions])


def _create_variable(group: h5py.Group, name: str, variable: Variable, scales: Sequence[str]) -> None:
    shape = tuple(len(group[scale]) for scale in scales)
    data = group.create_dataset(
        name,
        (len(group["step"]), *shape),
        np.float64,
        maxshape=(None, *shape),
        chunks=_chunks(shape),
        compression="gzip",
        compression_opts=1,
        shuffle=True,
        fletcher32=True,
        fillvalue=np.nan,
    )
    data.attrs.update({"long_name": variable.long_name, "units": variable.units})
    for position, scale in enumerate(("step", *scales)):
        data.dims[position].attach_scale(group[scale])


def _chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    # Whole records where they fit; large ones are cut along their leading axes: a part of the grid is read cheaply.
    budget = CHUNK_BYTES // np.dtype(np.float64).itemsize
    chunks: list[int] = []
    for length in reversed(shape):
        chunks.append(max(1, min(length, budget)))
        budget //= chunks[-1]
    return (max(1, min(1024, budget)), *reversed(chunks))


def python_value(value: Any) -> Any:
    """Return an HDF5 attribute as a plain Python value."""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value.item() if isinstance(value, np.generic) else value


def explain(verb: str, path: Path, error: Exception) -> str:
    """Return one line for an error of the operating system or of HDF5."""
    said = getattr(error, "strerror", None) or str(error)
    if found := re.search(r"errno = (\d+)", said):  # HDF5 hides the number in its message
        said = os.strerror(int(found[1]))
    return f"cannot {verb} '{path}': {' '.join(said.split())}"


def lock_path(path: Path) -> Path:
    """Return the path of the lock that the writer of a result file holds."""
    path = Path(os.path.realpath(path))
    return path.with_name(f".{path.name}.lock")
