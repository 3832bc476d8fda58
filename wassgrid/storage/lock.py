"""One writer per file, across processes; a lock dies with its process: a killed run never blocks the next one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
from pathlib import Path

from wassgrid.errors import WassgridError
from wassgrid.storage.paths import is_at, open_private, open_regular
from wassgrid.text import visible


class Locked(WassgridError):
    """The lock is held; the message says by which process."""


class FileLock:
    """Hold an advisory lock on ``path``, a small file that names this process and is removed on release.

    Raises ``Locked`` when another process (or another writer in this one) holds it, ``OSError`` when the file cannot
    be created, is a link or has other names. On a file system without locks it is held without protection.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        while True:
            self._descriptor = open_private(path)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = _owner(self._descriptor)
                os.close(self._descriptor)
                raise Locked(owner) from None
            except OSError:
                pass
            # The holder before may have removed the file between the two calls above: then this lock guards nothing.
            if is_at(self._descriptor, path):
                break
            os.close(self._descriptor)
        with contextlib.suppress(OSError):  # on a full disk: the name only serves messages
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, f"process {os.getpid()} on {platform.node()}".encode())

    def release(self) -> None:
        """Remove the file and let go; does nothing the second time."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1

    @staticmethod
    def holder(path: Path) -> str | None:
        """Return which process holds the lock on ``path``, or None."""
        try:
            descriptor = open_regular(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _owner(descriptor)
        except OSError:
            pass
        finally:
            os.close(descriptor)
        return None


def _owner(descriptor: int) -> str:
    return visible(os.read(descriptor, 1024).decode(errors="replace")) or "another process"
