"""Files of other kinds than results, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from wassgrid.storage.layout import StorageError, explain
from wassgrid.storage.paths import closing, create_anew, open_regular


def write_whole(path: Path, content: bytes, begins: bytes) -> None:
    """Write a file in one go; what is there is replaced if it begins like one of its kind (or is empty), and else left alone.

    Raises StorageError.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        if os.path.lexists(path):
            with closing(open_regular(path)) as descriptor:
                found = os.read(descriptor, len(begins))
            if found not in (b"", begins):
                raise StorageError(f"'{path}' exists and is of another kind; it is left as it is: name another file")
        with closing(create_anew(partial)) as descriptor, open(descriptor, "wb", closefd=False) as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise StorageError(explain("write", path, error)) from error


def write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there yet.  Raises StorageError where it is, or cannot be written."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise StorageError(f"'{path}' exists and is left as it is: take another name") from None
    except (OSError, ValueError) as error:
        raise StorageError(explain("write", path, error)) from error
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise StorageError(explain("write", path, error)) from error
