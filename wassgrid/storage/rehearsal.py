"""A first reading of a file by a child process: where the HDF5 library dies of it or never returns, only the child does.

Texts and references stand in parts of a file that no checksum covers. Damaged, or made for it, they let the library loop for ever
or reach beyond its memory, which no exception tells.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import warnings
from contextlib import suppress
from typing import Any

import h5py

from wassgrid.storage.soundness import require_sound

SECONDS = 2  # of processor time that this may take
_ENDS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_DEATHS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGVTALRM}


def survived(name: str, size: int) -> bool:
    """Return whether a child process came back from reading all but the numbers of a file of `size` bytes.

    True also where no child can be had. What HDF5 reports as an error is left to the reader.
    """
    if sys.platform != "linux":  # elsewhere the libraries of a process may not bear that it is split
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other threads: h5py takes its lock along, and the child calls nothing else
            child = os.fork()
        if child == 0:
            _rehearse(name, size)
        _, status = os.waitpid(child, 0)
    except OSError:
        return True
    return not (os.WIFSIGNALED(status) and os.WTERMSIG(status) in _DEATHS)


def _rehearse(name: str, size: int) -> None:
    """Read in the child, and end it."""
    try:
        gc.disable()  # it would copy what the processes share
        for number in _ENDS | _DEATHS:
            signal.signal(number, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        with h5py.File(name, "r") as file:
            _read(file)
            require_sound(file, size)
            file.visititems(lambda _, item: _read(item))
    finally:
        os._exit(0)


def _read(item: Any) -> None:
    """Read the attributes of a group or an array, its entries where they are texts, and find the scales of its axes."""
    for name in item.attrs:
        with suppress(Exception):
            item.attrs[name]
    if isinstance(item, h5py.Dataset):
        with suppress(Exception):
            _ = item[()] if h5py.check_string_dtype(item.dtype) else [list(axis.keys()) for axis in item.dims]
