"""Read-only view of a result file."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from wassgrid.storage.layout import (
    FORMAT,
    FORMAT_VERSION,
    StorageError,
    explain,
    lock_path,
    python_value,
    read_checkpoint,
    variable_names,
)
from wassgrid.storage.lock import FileLock


class ResultFile:
    """Read a result file; safe while a run writes to it, of which it then sees the last transaction.

    Raises ``StorageError`` for a file that is missing, damaged, not a result file or of a newer format.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            with open(self.path, "rb"):  # the operating system says precisely what is wrong with a path, HDF5 does not
                pass
            if not h5py.is_hdf5(self.path):
                raise StorageError(f"'{path}' is not an HDF5 file; give a result file written by 'wassgrid run'")
            self._file = h5py.File(self.path, "r")
        except (OSError, RuntimeError) as error:
            raise StorageError(explain("read", self.path, error)) from error
        self.attributes: dict[str, Any] = {name: python_value(value) for name, value in self._file.attrs.items()}
        if self.attributes.get("format") != FORMAT:
            self.close()
            raise StorageError(f"'{path}' is an HDF5 file but not a wassgrid result; give a file written by 'wassgrid run'")
        if int(self.attributes["format_version"]) > FORMAT_VERSION:
            self.close()
            raise StorageError(
                f"'{path}' has format version {self.attributes['format_version']}, this wassgrid reads versions up to "
                f"{FORMAT_VERSION}: install a newer wassgrid"
            )

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def status(self) -> str:
        """``running``, ``converged``, ``stopped``, ``interrupted`` or ``failed``; a killed run's stays ``running``."""
        return str(self.attributes["status"])

    @property
    def reason(self) -> str:
        """Why the run ended, a sentence; empty while it runs."""
        return str(self.attributes["reason"])

    @property
    def case_text(self) -> str:
        """The resolved case as TOML text."""
        return str(self.attributes["case"])

    @property
    def being_written_by(self) -> str | None:
        """The process that writes to the file right now, or None."""
        return FileLock.holder(lock_path(self.path))

    @property
    def grid(self) -> dict[str, np.ndarray]:
        """Points (n_k,) of the state axes by name, in the order of the axes."""
        group = self._file["grid"]
        return {name: group[name][()] for name in sorted(group, key=lambda name: int(group[name].attrs["position"]))}

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
        return variable_names(self._file[series])

    def steps(self, series: str) -> np.ndarray:
        """Step numbers (records,) of a series; empty for one that the file does not have."""
        return self._file[series]["step"][()] if series in self._file else np.zeros(0, dtype=np.int64)

    @property
    def convergence(self) -> dict[str, np.ndarray]:
        """All columns of the convergence table, ``step`` first, each (steps,)."""
        group = self._file["convergence"]
        return {name: group[name][()] for name in ("step", *variable_names(group))}

    def array(self, series: str, name: str, index: Any = ()) -> np.ndarray:
        """Return (records, ...) one array of a series, or the part of it that a NumPy ``index`` selects, read alone."""
        return self._file[series][name][index]

    def frame(self, name: str, index: int = -1, series: str = "trajectory") -> np.ndarray:
        """Return one array of one record of a series, the last by default, without the ``step`` axis.

        Raises ``StorageError`` when the file has no such record (yet).
        """
        records = len(self.steps(series))
        if not -records <= index < records:
            held = f"{records} records of" if records else "no"
            raise StorageError(f"'{self.path}' holds {held} '{series}': there is no record {index} to read")
        return self.array(series, name, range(records)[index])

    def record(self, series: str, index: int = -1) -> dict[str, np.ndarray]:
        """Return all arrays of one record of a series, as declared (without the ``step`` axis)."""
        return {name: self.frame(name, index, series) for name in self.variables(series)}

    def dimensions(self, series: str, name: str) -> tuple[str, ...]:
        """Axis names of one array of a series, ``step`` first."""
        return tuple(next(iter(axis.keys())) for axis in self._file[series][name].dims)

    def coordinate(self, series: str, name: str) -> np.ndarray | list[str]:
        """Return the values of one axis of a series: numbers, or a list of names."""
        scale = self._file[series][name]
        return list(scale.asstr()[()]) if h5py.check_string_dtype(scale.dtype) else scale[()]

    def description(self, path: str) -> dict[str, Any]:
        """Attributes of ``series/name`` or ``grid/state``: ``long_name``, ``units``, ``boundary``."""
        hidden = ("CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST")
        attributes = self._file[path].attrs
        return {name: python_value(attributes[name]) for name in attributes if name not in hidden}

    @property
    def checkpoint(self) -> dict[str, Any] | None:
        """What ``ResultWriter.set_checkpoint`` was given last, or None if the run never came that far."""
        stored = read_checkpoint(self._file)
        return None if stored is None else stored[0]

    @property
    def checkpoint_lengths(self) -> dict[str, int]:
        """Length of every series at the checkpoint (all zero without one)."""
        stored = read_checkpoint(self._file)
        return dict.fromkeys(self.series, 0) if stored is None else stored[1]
