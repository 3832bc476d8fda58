"""The file of a proof: the interval, what it says of what, and the function of the means and the policy that it rests on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from wassgrid.storage.layout import StorageError, explain

FORMAT = "wassgrid proof"
FORMAT_VERSION = 1


def write_proof(path: str | os.PathLike[str], attributes: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write root attributes and arrays (names may hold groups, `u/coefficients`) to an HDF5 file, whole or not at all.

    Raises StorageError where the file cannot be written.
    """
    target = Path(path)
    part = target.with_name(f"{target.name}.part")
    try:
        with h5py.File(part, "w") as file:
            file.attrs.update({"format": FORMAT, "format_version": FORMAT_VERSION, **attributes})
            for name, array in arrays.items():
                file.create_dataset(name, data=array, compression="gzip" if np.size(array) > 1000 else None)
        os.replace(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageError(explain("write", target, error)) from error
