"""`python -m wassgrid`, and the command `wassgrid`."""

# what is imported here and by `wassgrid` itself is there before anything can be said of Ctrl-C: nothing that takes long
from __future__ import annotations

import atexit
import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_BETWEEN_COLLECTIONS = 5_000  # objects; at Python's own 700 the libraries' half a million cost 0.15 s, and none is garbage


def main() -> NoReturn:
    """Run the command line and leave with its exit status; Ctrl-C while it is being imported ends it without a word."""
    gc.set_threshold(_BETWEEN_COLLECTIONS)
    try:
        from wassgrid.cli import main as command
    except KeyboardInterrupt:
        _leave(130)
    _leave(command())


def _leave(status: int) -> NoReturn:
    """End this process without taking the libraries down object by object, which would last 0.3 s."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed, full, or none at all
            pass
    os._exit(status)


if __name__ == "__main__":
    main()
