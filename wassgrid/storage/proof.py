"""The file of a proof: the interval, what it says of what, and the function of the means and the policy that it rests on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from wassgrid.storage.layout import StorageError, explain
from wassgrid.storage.paths import closing, create_anew, held
from wassgrid.storage.reader import is_of_format

FORMAT = "wassgrid proof"
FORMAT_VERSION = 1


def require_place(path: str | os.PathLike[str]) -> Path:
    """Return where a proof of that name is written.

    Raises StorageError where it cannot be: the name is that of another file, or its folder takes none.
    """
    if "\0" in os.fspath(path):
        raise StorageError(f"cannot write '{path}': a path has no NUL")
    target = Path(os.path.realpath(path))
    try:
        if os.path.lexists(target) and not is_of_format(target, FORMAT):
            raise StorageError(f"'{path}' exists and is not a wassgrid proof; it is left as it is: name another file")
        os.close(create_anew(_part(target)))
        _part(target).unlink()
    except OSError as error:
        raise StorageError(explain("write", target, error)) from error
    return target


def write_proof(path: str | os.PathLike[str], attributes: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write root attributes and arrays (names may hold groups, `u/coefficients`) to an HDF5 file, whole or not at all.

    An earlier proof of that name is replaced.  Raises StorageError as `require_place` does, and where the disk is full.
    """
    target = require_place(path)
    part = _part(target)
    try:
        with closing(create_anew(part)) as descriptor:
            with h5py.File(held(descriptor, part), "w") as file:
                file.attrs.update({"format": FORMAT, "format_version": FORMAT_VERSION, **attributes})
                for name, array in arrays.items():
                    file.create_dataset(name, data=array, compression="gzip" if np.size(array) > 1000 else None)
            os.replace(part, target)
    except (OSError, RuntimeError) as error:  # h5py raises either where HDF5 cannot write
        raise StorageError(explain("write", target, error)) from error
    finally:
        part.unlink(missing_ok=True)


def _part(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")
