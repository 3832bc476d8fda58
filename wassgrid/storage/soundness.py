"""What a result file may hold, checked before anything in it is read or written: a file from a stranger is data, not trusted.

A sound file has groups of arrays, two levels deep, each under one name; every array lies in the file itself, in one of the kinds
and with the filters that `layout` writes; the arrays of a series have as many records as its steps, and the lengths of their
axes; and it claims no more than can stand in a file of its size, or be read into memory. No array is read to see this.
"""

from __future__ import annotations

import math
from typing import Any

import h5py
import numpy as np
import psutil

from wassgrid.errors import WassgridError

MOST_MEMBERS = 10_000  # of a group
MOST_RANK = 16
MOST_ATTRIBUTE = 1 << 20  # entries
MOST_CHUNK = 64 * 2**20  # bytes; this package writes a quarter of a MiB
MOST_TEXT = 64 * 2**20  # bytes of names, and of the checkpoint's JSON
DEFLATE = 1100  # bytes that one byte of a file can stand for: deflate's limit is 1032
SLACK = 64 * 2**20  # bytes that a file may claim beside: columns that came late begin with entries that are not stored
SHARE = 0.8  # of the memory that is available, for what is read at once

FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
LAYOUTS = {h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED}
SCALE_ATTRIBUTES = {b"DIMENSION_LIST", b"REFERENCE_LIST"}  # hold references, by which arrays find their scales


class UnsoundError(WassgridError):
    """Something that a result file must not hold; the message names it."""


def require_sound(file: h5py.File, size: int) -> None:
    """Raise UnsoundError unless an open HDF5 file of `size` bytes is a sound result file; errors of HDF5 go through."""
    _check_attributes(file, "/")
    seen: set[int] = set()
    claimed, at_once = 0, 0
    for name in _members(file, "/", seen, h5py.h5o.TYPE_GROUP, "a group"):
        group = file[name]
        _check_attributes(group, f"/{name}")
        arrays = {key: group[key] for key in _members(group, f"/{name}", seen, h5py.h5o.TYPE_DATASET, "an array")}
        for key, data in arrays.items():
            _check_array(data, f"/{name}/{key}")
        if name == "grid":
            whole = _check_grid(arrays)
        elif name == "checkpoint":
            whole = _check_checkpoint(arrays)
        else:
            whole = _check_series(arrays, name)
        claimed += sum(_bytes(data) for data in arrays.values())
        at_once += whole
    if claimed > DEFLATE * size + SLACK:
        raise UnsoundError(f"it claims {claimed:.3g} bytes of data, more than can stand in its {size:,} bytes")
    if at_once > SHARE * psutil.virtual_memory().available:
        raise UnsoundError(f"it claims {at_once:.3g} bytes that are read at once, more than the memory that is available")


def has_checksums(file: h5py.File) -> bool:
    """Return whether the arrays of a sound file have checksums: those of files written by early versions have none."""
    return all(group["step"].fletcher32 for group in file.values() if "step" in group)


def _members(group: h5py.Group, path: str, seen: set[int], kind: int, expected: str) -> list[str]:
    """Return the names in a group, all of them sole names, by hard links, of objects of one kind."""
    if len(group) > MOST_MEMBERS:
        raise UnsoundError(f"{path} has {len(group)} members, more than {MOST_MEMBERS}")
    names = list(group)
    for name in names:
        place = f"{path.rstrip('/')}/{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise UnsoundError(f"{place} is a link to another place")
        found = h5py.h5o.get_info(group.id, name.encode("utf-8", "surrogateescape"))
        if found.type != kind:
            raise UnsoundError(f"{place} is not {expected}")
        if found.rc != 1 or found.addr in seen:
            raise UnsoundError(f"{place} has two names")
        seen.add(found.addr)
    return names


def _check_attributes(item: Any, path: str) -> None:
    if h5py.h5a.get_num_attrs(item.id) > MOST_MEMBERS:
        raise UnsoundError(f"{path} has more than {MOST_MEMBERS} attributes")
    for index in range(h5py.h5a.get_num_attrs(item.id)):
        attribute = h5py.h5a.open(item.id, index=index)
        place = f"attribute '{attribute.name.decode(errors='backslashreplace')}' of {path}"
        if attribute.name in SCALE_ATTRIBUTES and isinstance(item, h5py.Dataset):
            continue
        kind = attribute.get_type().get_class()
        if kind not in (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING, h5py.h5t.ENUM):
            raise UnsoundError(f"{place} is of a kind that does not belong there")
        if math.prod(attribute.shape) > MOST_ATTRIBUTE:
            raise UnsoundError(f"{place} claims {math.prod(attribute.shape):.3g} entries")


def _check_array(data: h5py.Dataset, path: str) -> None:
    """Raise unless the entries of an array stand in the file itself, in a kind and by filters that belong there."""
    properties = data.id.get_create_plist()
    if properties.get_layout() not in LAYOUTS or properties.get_external_count() > 0:
        raise UnsoundError(f"{path} keeps its data outside the file")
    for index in range(properties.get_nfilters()):
        if properties.get_filter(index)[0] not in FILTERS:
            raise UnsoundError(f"{path} is packed by a filter that does not belong there")
    if data.shape is None or len(data.shape) > MOST_RANK:
        raise UnsoundError(f"{path} has no shape that belongs there")
    if data.chunks is not None and math.prod(data.chunks) * data.id.get_type().get_size() > MOST_CHUNK:
        raise UnsoundError(f"{path} claims chunks of {math.prod(data.chunks):.3g} entries")
    _check_attributes(data, path)


def _is_text(data: h5py.Dataset) -> bool:
    return h5py.check_string_dtype(data.dtype) is not None and data.dtype.kind == "O"


def _require_kind(data: h5py.Dataset, path: str, kinds: str, size: int | None = None) -> None:
    if data.dtype.kind not in kinds or (size is not None and data.dtype.itemsize != size):
        raise UnsoundError(f"{path} holds entries of a kind that does not belong there")


def _bytes(data: h5py.Dataset) -> int:
    return math.prod(data.shape) * data.id.get_type().get_size()


def _check_grid(arrays: dict[str, h5py.Dataset]) -> int:
    """Check the state axes: one-dimensional scales, numbered in their order."""
    positions = []
    for name, data in arrays.items():
        path = f"/grid/{name}"
        _require_kind(data, path, "f", 8)
        if len(data.shape) != 1 or not data.shape[0] >= 2 or not data.is_scale:
            raise UnsoundError(f"{path} is not an axis")
        position = data.attrs.get("position")
        if not isinstance(position, int | np.integer) or not isinstance(data.attrs.get("boundary", ""), str):
            raise UnsoundError(f"{path} lacks its position or its boundary")
        positions.append(int(position))
    if sorted(positions) != list(range(len(positions))):
        raise UnsoundError("/grid: the axes are not numbered in their order")
    return sum(_bytes(data) for data in arrays.values())


def _check_checkpoint(arrays: dict[str, h5py.Dataset]) -> int:
    """Check the checkpoint: arrays of numbers, and JSON in bytes of a fixed number."""
    for name, data in arrays.items():
        path = f"/checkpoint/{name}"
        if name != "json":
            _require_kind(data, path, "biufc")
        elif data.dtype.kind != "S" or data.shape not in ((), (1,)) or data.dtype.itemsize > MOST_TEXT:
            raise UnsoundError(f"{path} holds entries of a kind that does not belong there")
    if arrays and "json" not in arrays:
        raise UnsoundError("/checkpoint/json is missing")
    return sum(_bytes(data) for data in arrays.values())


def _check_series(arrays: dict[str, h5py.Dataset], series: str) -> int:
    """Check a series and return how much of it is read at once: all of its scalars, one record of the rest."""
    steps, path = arrays.get("step"), f"/{series}/step"
    if steps is None:
        raise UnsoundError(f"{path} is missing")
    _require_kind(steps, path, "i", 8)
    if len(steps.shape) != 1 or steps.chunks is None or not steps.is_scale:
        raise UnsoundError(f"{path} is not the axis of a series")
    records = steps.shape[0]
    # every step number is stored: a length that the file does not hold is seen before anything is read or cut to it
    if records > 0 and records > steps.id.get_num_chunks() * steps.chunks[0]:
        raise UnsoundError(f"{path} claims {records:,} records, more than it stores")
    scales = {name: data for name, data in arrays.items() if data.is_scale}
    lengths = {data.shape[0] for data in scales.values() if data.shape}
    at_once = 0
    for name, data in arrays.items():
        place = f"/{series}/{name}"
        if name in scales:
            if len(data.shape) != 1:
                raise UnsoundError(f"{place} is not an axis")
            if not _is_text(data):
                _require_kind(data, place, "iuf")
            at_once += _bytes(data)
            continue
        _require_kind(data, place, "f", 8)
        if not data.shape or data.shape[0] != records or data.chunks is None or data.maxshape[0] is not None:
            raise UnsoundError(f"{place} does not have the {records:,} records of its series")
        # HDF5 finds the scales of an array by references that have no checksum, and dies of a damaged one: they are not followed
        if not lengths.issuperset(data.shape[1:]):
            raise UnsoundError(f"{place} does not have the lengths of the axes beside it")
        at_once += _bytes(data) // (max(records, 1) if len(data.shape) > 1 else 1)
    return at_once
