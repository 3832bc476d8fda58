"""Read-only view of a result file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import h5py
import numpy as np

from wassgrid.storage.layout import (
    FORMAT,
    FORMAT_VERSION,
    StorageError,
    explain,
    lock_path,
    parse_json,
    python_value,
    read_array,
    read_checkpoint,
    read_checkpoint_values,
    variable_names,
)
from wassgrid.storage.lock import FileLock
from wassgrid.storage.paths import closing, held, open_regular
from wassgrid.storage.rehearsal import survived
from wassgrid.storage.soundness import UnsoundError, has_checksums, require_sound

# what h5py raises at a file that is damaged or made to do harm: errors of HDF5, and where it takes for granted what is not so
DAMAGE = (OSError, RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError)

_ATTEMPTS = 20  # to open a file that a run replaces


def is_of_format(path: Path, expected: str) -> bool:
    """Whether a file says that it is of a format, sound or not: only such a file is replaced by a new one."""
    try:
        with closing(open_regular(path)) as descriptor:
            name = held(descriptor, path)
            if not survived(name, os.fstat(descriptor).st_size):
                return False
            with h5py.File(name, "r") as file:
                found = file.attrs.get("format") if h5py.h5a.exists(file.id, b"format") else None
                return isinstance(found, str | bytes) and python_value(found) == expected
    except DAMAGE:
        return False


class Named(dict[str, Any]):
    """What a place in a file holds, by name; asking for what it lacks raises StorageError."""

    def __init__(self, place: str, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.place = place

    def __missing__(self, name: str) -> NoReturn:
        raise StorageError(f"{self.place} lacks '{name}': it was not written by wassgrid, or is damaged")


class ResultFile:
    """Read a result file; safe while a run writes to it, of which it then sees the last transaction, and from whomever it comes.

    Raises ``StorageError`` for a file that is missing, damaged, not a result file, of a newer format, or that holds what a
    result file must not hold (see `soundness`): this is seen before any of it is read. Methods raise it for an array whose
    checksum is wrong.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            for attempt in range(_ATTEMPTS):
                with closing(open_regular(self.path)) as descriptor:
                    try:
                        self._open(descriptor)
                        break
                    except OSError:
                        # a run put a newer file in its place meanwhile, and HDF5 does not find the name of this one
                        if attempt == _ATTEMPTS - 1 or os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                            raise
        except StorageError:
            raise
        except UnsoundError as error:
            raise StorageError(f"'{path}' is not a sound result file: {error}") from error
        except DAMAGE as error:
            raise StorageError(explain("read", self.path, error)) from error

    def _open(self, descriptor: int) -> None:
        name = held(descriptor, self.path)
        if not h5py.is_hdf5(name):
            raise StorageError(f"'{self.path}' is not an HDF5 file; give a result file written by 'wassgrid run'")
        size = os.fstat(descriptor).st_size
        if not survived(name, size):
            raise UnsoundError("the HDF5 library does not survive reading it")
        self._file = h5py.File(name, "r")
        try:
            found = self._file.attrs.get("format", "") if h5py.h5a.exists(self._file.id, b"format") else ""
            if not isinstance(found, str | bytes) or python_value(found) != FORMAT:
                raise StorageError(
                    f"'{self.path}' is an HDF5 file but not a wassgrid result; give a file written by 'wassgrid run'"
                )
            version = python_value(self._file.attrs.get("format_version"))
            if type(version) is not int or version < 1:
                raise StorageError(f"'{self.path}' has no format version: it was not written by wassgrid, or is damaged")
            if version > FORMAT_VERSION:
                raise StorageError(
                    f"'{self.path}' has format version {version}, this wassgrid reads versions up to "
                    f"{FORMAT_VERSION}: install a newer wassgrid"
                )
            require_sound(self._file, size)
            values = {name: python_value(value) for name, value in self._file.attrs.items()}
            self.attributes = Named(f"'{self.path}'", values)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Turn what HDF5 and h5py raise inside the block into StorageError."""
        try:
            yield
        except StorageError:
            raise
        except DAMAGE as error:
            raise StorageError(f"cannot read {what} of '{self.path}': {' '.join(str(error).split())}") from error

    def text(self, name: str) -> str:
        """Return a root attribute that must be text.  Raises StorageError where it is not."""
        value = self.attributes[name]
        if not isinstance(value, str):
            raise StorageError(f"'{self.path}': the attribute '{name}' is not text; wassgrid did not write it, or it is damaged")
        return value

    def texts(self, name: str) -> list[str]:
        """Return a root attribute that must be a list of texts.  Raises StorageError where it is not."""
        value = np.asarray(self.attributes[name])
        if value.ndim != 1 or not all(isinstance(item, str) for item in value.tolist()):
            raise StorageError(f"'{self.path}': the attribute '{name}' is not a list of texts")
        return [str(item) for item in value]

    @property
    def summary(self) -> dict[str, Any]:
        """What the run said of its solution, as it was given; empty before its end."""
        with self._reading("the attribute 'summary'"):
            return parse_json(self.text("summary")) if "summary" in self.attributes else {}

    @property
    def has_checksums(self) -> bool:
        """Whether its arrays have checksums, by which a changed bit is found; those of early versions have none."""
        return has_checksums(self._file)

    def verify(self) -> None:
        """Read every array once, in pieces.  Raises StorageError, with the name of the array, where a checksum is wrong."""
        for name, group in self._file.items():
            for key, data in group.items():
                with self._reading(f"/{name}/{key}"):
                    pieces = data.iter_chunks() if data.chunks is not None and data.size else [()]
                    for piece in pieces:
                        read_array(data, piece)

    @property
    def status(self) -> str:
        """``running``, ``converged``, ``stopped``, ``interrupted`` or ``failed``; a killed run's stays ``running``."""
        return self.text("status")

    @property
    def reason(self) -> str:
        """Why the run ended, a sentence; empty while it runs."""
        return self.text("reason")

    @property
    def case_text(self) -> str:
        """The resolved case as TOML text."""
        return self.text("case")

    @property
    def being_written_by(self) -> str | None:
        """The process that writes to the file right now, or None."""
        return FileLock.holder(lock_path(self.path))

    @property
    def grid(self) -> dict[str, np.ndarray]:
        """Points (n_k,) of the state axes by name, in the order of the axes."""
        with self._reading("/grid"):
            group = self._file["grid"]
            names = sorted(group, key=lambda name: int(group[name].attrs["position"]))
            axes = {name: read_array(group[name]) for name in names}
            for name, points in axes.items():
                if not np.isfinite(points).all() or not (np.diff(points) > 0).all():
                    raise ValueError(f"the points of {name} do not ascend")
            return axes

    @property
    def state_names(self) -> tuple[str, ...]:
        return tuple(self.grid)

    @property
    def axes(self) -> tuple[np.ndarray, ...]:
        """Points (n_k,) of the state axes, in their order."""
        return tuple(self.grid.values())

    @property
    def boundaries(self) -> tuple[str, ...]:
        """``clamp``, ``reflect`` or ``periodic`` for every state axis."""
        return tuple(str(self.description(f"grid/{name}")["boundary"]) for name in self.grid)

    @property
    def series(self) -> tuple[str, ...]:
        """Names of the recorded series: ``convergence``, ``trajectory``, ..."""
        return tuple(name for name, item in self._file.items() if isinstance(item, h5py.Group) and "step" in item)

    def variables(self, series: str) -> tuple[str, ...]:
        """Names of the recorded quantities of a series."""
        with self._reading(f"/{series}"):
            return variable_names(self._file[series])

    def steps(self, series: str) -> np.ndarray:
        """Step numbers (records,) of a series; empty for one that the file does not have."""
        with self._reading(f"/{series}/step"):
            return read_array(self._file[series]["step"]) if series in self._file else np.zeros(0, dtype=np.int64)

    def records(self, series: str) -> int:
        """Number of records of a series; 0 for one that the file does not have."""
        return len(self._file[series]["step"]) if series in self._file else 0

    @property
    def convergence(self) -> Named:
        """All columns of the convergence table, ``step`` first, each (steps,)."""
        with self._reading("/convergence"):
            group = self._file["convergence"]
            columns = {name: read_array(group[name]) for name in ("step", *variable_names(group))}
        return Named(f"/convergence of '{self.path}'", columns)

    def last(self, series: str) -> Named:
        """Return the scalars of the last record of a series by name, ``step`` among them; nothing else is read.

        Raises ``StorageError`` where the file has no such series.
        """
        with self._reading(f"/{series}"):
            group = self._file[series]
            names = [name for name in ("step", *variable_names(group)) if group[name].ndim == 1 and len(group[name])]
        return Named(f"/{series} of '{self.path}'", {name: float(self.array(series, name, -1)) for name in names})

    def array(self, series: str, name: str, index: Any = ()) -> np.ndarray:
        """Return (records, ...) one array of a series, or the part of it that a NumPy ``index`` selects, read alone."""
        with self._reading(f"/{series}/{name}"):
            return read_array(self._file[series][name], index)

    def shape(self, series: str, name: str) -> tuple[int, ...]:
        """Return the shape (records, ...) of one array of a series."""
        with self._reading(f"/{series}/{name}"):
            return tuple(int(length) for length in self._file[series][name].shape)

    def frame(self, name: str, index: int = -1, series: str = "trajectory") -> np.ndarray:
        """Return one array of one record of a series, the last by default, without the ``step`` axis.

        Raises ``StorageError`` when the file has no such record (yet).
        """
        records = self.records(series)
        if not -records <= index < records:
            held = f"{records} records of" if records else "no"
            raise StorageError(f"'{self.path}' holds {held} '{series}': there is no record {index} to read")
        return self.array(series, name, range(records)[index])

    def record(self, series: str, index: int = -1) -> dict[str, np.ndarray]:
        """Return all arrays of one record of a series, as declared (without the ``step`` axis)."""
        return {name: self.frame(name, index, series) for name in self.variables(series)}

    def dimensions(self, series: str, name: str) -> tuple[str, ...]:
        """Axis names of one array of a series, ``step`` first."""
        with self._reading(f"/{series}/{name}"):
            return tuple(next(iter(axis.keys())) for axis in self._file[series][name].dims)

    def coordinate(self, series: str, name: str) -> np.ndarray | list[str]:
        """Return the values of one axis of a series: numbers, or a list of names."""
        with self._reading(f"/{series}/{name}"):
            scale = self._file[series][name]
            return list(scale.asstr()[()]) if h5py.check_string_dtype(scale.dtype) else read_array(scale)

    def description(self, path: str) -> dict[str, Any]:
        """Attributes of ``series/name`` or ``grid/state``: ``long_name``, ``units``, ``boundary``."""
        hidden = ("CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST")
        with self._reading(f"/{path}"):
            attributes = self._file[path].attrs
            values = {name: python_value(attributes[name]) for name in attributes if name not in hidden}
        return Named(f"/{path} of '{self.path}'", values)

    @property
    def checkpoint(self) -> dict[str, Any] | None:
        """What ``ResultWriter.set_checkpoint`` was given last, or None if the run never came that far."""
        return self._checkpoint()[0]

    @property
    def checkpoint_described(self) -> str:
        """Where a run would go on, in a few words, read without its arrays."""
        with self._reading("the checkpoint"):
            values = read_checkpoint_values(self._file)
        return "none yet" if values is None else f"step {values.get('step', 'unknown')}"

    @property
    def checkpoint_lengths(self) -> dict[str, int]:
        """Length of every series at the checkpoint (all zero without one)."""
        return self._checkpoint()[1]

    def _checkpoint(self) -> tuple[dict[str, Any] | None, dict[str, int]]:
        with self._reading("the checkpoint"):
            stored = read_checkpoint(self._file)
        return (None, dict.fromkeys(self.series, 0)) if stored is None else stored
