"""Files that nobody can point elsewhere: opened without following links, and used by what was opened, not by name.

Whoever may write to a folder may put a link, a pipe or another file under any name in it, at any moment.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

COPIED_AT_ONCE = 4 * 2**20  # bytes


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open an existing regular file and return its descriptor; links in the path are followed.

    Raises OSError, also for a folder, a pipe or a device: none is waited for.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    return _regular(descriptor, path)


def open_private(path: Path) -> int:
    """Open or create a small file of this program and return its descriptor, for reading and writing.

    Raises OSError where the name is a link, or where other names share the file.
    """
    descriptor = _regular(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666), path)
    if os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EMLINK, "it has other names too", str(path))
    return descriptor


def create_anew(path: Path) -> int:
    """Create a file that is this program's alone and return its descriptor; what had the name loses it, and is not touched."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()  # a link itself, not what it leads to
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


@contextlib.contextmanager
def closing(descriptor: int) -> Iterator[int]:
    """Close a descriptor at the end of the block."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def copy(source: int, target: int) -> None:
    """Copy all bytes of one descriptor to the beginning of another."""
    with open(source, "rb", closefd=False) as reader, open(target, "r+b", closefd=False) as writer:
        shutil.copyfileobj(reader, writer, COPIED_AT_ONCE)


def held(descriptor: int, path: Path) -> str:
    """Return a name under which a library opens the very file that `descriptor` holds; `path` where the system has none."""
    name = f"/proc/self/fd/{descriptor}"
    return name if os.path.exists(name) else str(path)


def is_at(descriptor: int, path: Path) -> bool:
    """Return whether `path` is still the name of what `descriptor` holds."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    return False


def _regular(descriptor: int, path: Path) -> int:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is not a regular file", str(path))
