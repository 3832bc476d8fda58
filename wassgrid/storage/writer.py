"""Crash-safe writer of result files.

The file is never modified in place. A transaction copies it to a hidden sibling, appends there, closes, syncs and
renames it over the file: at every instant the file under its name is a closed, complete HDF5 file, readable while the
run goes on and after a kill. Records are held in memory between transactions, whose cost is kept below 5 % of the run.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from wassgrid.storage.layout import (
    FORMAT,
    HDF5_FORMAT,
    RUNNING,
    Axis,
    StorageError,
    Variable,
    create_structure,
    explain,
    extend_series,
    lock_path,
    resize_series,
    write_checkpoint,
)
from wassgrid.storage.lock import FileLock, Locked
from wassgrid.storage.paths import closing, copy, create_anew, held, is_at, open_regular
from wassgrid.storage.reader import ResultFile, is_of_format
from wassgrid.storage.soundness import UnsoundError, require_sound

COMMIT_INTERVAL = 2.0  # seconds from one transaction to the next, at least ...
COMMIT_OVERHEAD = 20.0  # ... and at least this many durations of the last one: 5 % of a run is spent writing at most
BUFFER_BYTES = 64 * 2**20  # of records in memory, at most ...
BUFFER_FRACTION = 0.1  # ... or this part of the file, where that is more: all copies together cost 10 files at most
SPARE_BYTES = 2 * 2**20  # reserved beside the data for HDF5's own structures and for chunks that are written anew


class ResultWriter:
    """Write one result file in transactions; the only writer of that file while it lives.

    Making a writer claims the path: nothing is written to the file, but a second writer is refused, and an unwritable
    folder is found, before any work is done. ``begin`` or ``resume`` then opens the file; ``create`` and ``reopen`` do
    both at once. ``commit`` publishes what was appended; ``due`` says when a commit is worth its cost. Between commits
    the file on disk stays as the last one left it. Methods that write raise ``StorageError`` when the disk is full, the
    folder is not writable or the like; the file of the last transaction then remains.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if "\0" in os.fspath(path):
            raise StorageError(f"cannot write '{path}': a path has no NUL")
        self.path = Path(os.path.realpath(path))
        self.kept: Path | None = None  # where an earlier file of this name went
        self.busy = False  # inside a transaction
        self._new = False
        self._partial = self.path.with_name(f".{self.path.name}.partial")
        self._descriptor, self._name = -1, ""  # of the file that a transaction writes
        self._lengths: dict[str, int] = {}
        self._buffers: dict[str, list[tuple[int, dict[str, np.ndarray]]]] = {}
        self._buffered_bytes = 0
        self._checkpoint: tuple[dict[str, Any], dict[str, int]] | None = None
        self._committed = time.monotonic()
        self._duration = 0.0
        try:
            exists = self.path.exists()
        except OSError as error:
            raise StorageError(explain("write", self.path, error)) from error
        if exists and not self.path.is_file():
            raise StorageError(f"cannot write '{path}': it is not a regular file; name another")
        if exists and not _replaceable(self.path):
            raise StorageError(
                f"cannot write '{path}': it belongs to another user, and in this folder only its owner may replace a file; "
                "name another, or copy it to a folder of your own"
            )
        lock = lock_path(self.path)
        try:
            self._lock = FileLock(lock)
        except Locked as error:
            raise StorageError(f"'{path}' is being written by {error}; wait for it or name another file") from error
        except OSError as error:
            text = explain("write", self.path, error)
            if os.path.lexists(lock):
                text += f"; its lock '{lock.name}' is a link or not this program's: remove it or name another file"
            raise StorageError(text) from error
        if exists and not is_of_format(self.path, FORMAT):
            self.close()
            raise StorageError(f"'{path}' exists and is not a wassgrid result; it is left as it is: name another file")

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        attributes: Mapping[str, Any],
        axes: Sequence[Axis],
        series: Mapping[str, Mapping[str, Variable]],
        grid: Sequence[Axis] = (),
    ) -> ResultWriter:
        """Claim the path and begin a new file there, see ``begin``."""
        writer = cls(path)
        writer.begin(attributes, axes, series, grid)
        return writer

    @classmethod
    def reopen(cls, path: str | os.PathLike[str], attributes: Mapping[str, Any] | None = None) -> ResultWriter:
        """Claim the path and go on with the file there, see ``resume``."""
        with ResultFile(path):  # a better message than the claim has for a file that is missing or of another kind
            pass
        writer = cls(path)
        writer.resume(attributes)
        return writer

    def begin(
        self,
        attributes: Mapping[str, Any],
        axes: Sequence[Axis],
        series: Mapping[str, Mapping[str, Variable]],
        grid: Sequence[Axis] = (),
    ) -> None:
        """Write the file with status ``running`` and empty series; an earlier result of that name is kept beside it.

        ``grid`` are the state axes (written to ``/grid`` too), ``axes`` the other ones that variables refer to. The
        earlier result becomes ``NAME.1.h5`` (the first free number), found in ``kept``; one without any record is
        replaced. On failure the path is let go.
        """
        by_name = {axis.name: axis for axis in (*grid, *axes)}

        def write() -> None:
            self._reserve(sum(np.asarray(axis.values).nbytes for axis in by_name.values()) * (len(series) + 1))
            # Free space is tracked across openings: compressed chunks that outgrow their place leave no holes behind.
            with h5py.File(self._name, "w", libver=HDF5_FORMAT, fs_strategy="fsm", fs_persist=True) as file:
                create_structure(file, attributes, grid, by_name, series)
            if self.path.exists() and not _is_empty_result(self.path):
                self.kept = _keep_beside(self.path)

        before = os.stat(self.path) if self.path.exists() else None
        try:
            with self._letting_go():
                self._publish(write)
        except BaseException:
            self._forget_kept(before)
            raise
        self._new = True
        self._lengths = dict.fromkeys(series, 0)

    def resume(self, attributes: Mapping[str, Any] | None = None) -> None:
        """Go on from the file's checkpoint: status ``running``, later records dropped, root ``attributes`` replaced.

        On failure the path is let go.
        """
        with self._letting_go():
            with ResultFile(self.path) as result:
                lengths = result.checkpoint_lengths

            def truncate(file: h5py.File) -> None:
                file.attrs.update({**(attributes or {}), "status": RUNNING, "reason": ""})
                for name, length in lengths.items():
                    resize_series(file[name], length)

            self._transaction(truncate, 0)
        self._lengths = lengths

    # ---- recording ----

    def append_row(self, scalars: Mapping[str, float]) -> None:
        """Add a row to ``convergence``: ``step`` and any of its columns; a name not declared becomes a new column."""
        values = {name: np.array(value, dtype=np.float64) for name, value in scalars.items() if name != "step"}
        self._append("convergence", int(scalars["step"]), values)

    def append_frame(self, step: int, arrays: Mapping[str, np.ndarray], series: str = "trajectory") -> None:
        """Add one record to ``series``; ``arrays`` are copied and have the axes declared for them at creation."""
        self._append(series, step, {name: np.array(value, dtype=np.float64) for name, value in arrays.items()})

    def set_checkpoint(self, values: Mapping[str, Any]) -> None:
        """Remember what it takes to go on after the records appended so far.

        Arrays (of any numeric type and shape) come back exactly; everything else must be what JSON knows (numbers of
        any length, nan and inf included, text, None, lists and dicts of these) and comes back as such.
        """
        copied = {name: np.array(value) if isinstance(value, np.ndarray) else value for name, value in values.items()}
        self._checkpoint = copied, dict(self._lengths)

    @property
    def due(self) -> bool:
        """Whether enough time has passed, or memory has filled up, for the next transaction."""
        age = time.monotonic() - self._committed
        if age > max(COMMIT_INTERVAL, COMMIT_OVERHEAD * self._duration):
            return True
        if self._buffered_bytes <= BUFFER_BYTES:
            return False
        return self._buffered_bytes > BUFFER_FRACTION * self.path.stat().st_size

    def commit(self, **attributes: Any) -> None:
        """Publish everything recorded so far in one transaction; ``attributes`` are set on the root."""
        checkpoint = self._checkpoint

        def write(file: h5py.File) -> None:
            for name, records in self._buffers.items():
                extend_series(file[name], records)
            if checkpoint is not None:
                write_checkpoint(file, *checkpoint)
            file.attrs.update(attributes)

        arrays = checkpoint[0].values() if checkpoint else ()
        self._transaction(write, self._buffered_bytes + sum(getattr(value, "nbytes", 0) for value in arrays))
        self._buffers, self._buffered_bytes, self._checkpoint = {}, 0, None

    def finish(self, status: str, reason: str, **attributes: Any) -> None:
        """Commit, record how the run ended, set further root ``attributes``, and close."""
        try:
            self.commit(status=status, reason=reason, **attributes)
        finally:
            self.close()

    def _forget_kept(self, before: os.stat_result | None) -> None:
        """Undo what `begin` did to an earlier file, of which this is the status, where the new one was not published."""
        kept, self.kept = self.kept, None
        with contextlib.suppress(OSError):
            if kept is not None and before is not None and os.path.samestat(os.stat(self.path), before):
                kept.unlink()
            elif kept is not None:
                os.replace(kept, self.path)

    def discard(self) -> None:
        """Undo ``begin``: remove the file, put back the one it replaced, and close."""
        if self.kept is not None:
            os.replace(self.kept, self.path)
        elif self._new:
            self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of the file as it is on disk; what was recorded since the last commit is lost."""
        with contextlib.suppress(OSError):
            self._partial.unlink(missing_ok=True)
        self._lock.release()

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ---- transactions ----

    @contextlib.contextmanager
    def _letting_go(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _append(self, series: str, step: int, values: dict[str, np.ndarray]) -> None:
        if series not in self._lengths:
            raise KeyError(f"series '{series}' was not declared when the file was created")
        self._buffers.setdefault(series, []).append((step, values))
        self._buffered_bytes += sum(value.nbytes for value in values.values())
        self._lengths[series] += 1

    def _transaction(self, edit: Callable[[h5py.File], None], new_bytes: int) -> None:
        began = time.monotonic()

        def write() -> None:
            with closing(open_regular(self.path)) as source:
                copy(source, self._descriptor)
                status = os.fstat(source)
            # the copy, which nobody else can reach, is looked at before anything is written to it
            with h5py.File(self._name, "r") as file:
                require_sound(file, status.st_size)
            self._reserve(status.st_size + new_bytes)
            with h5py.File(self._name, "r+", libver=HDF5_FORMAT) as file:
                edit(file)
            os.fchmod(self._descriptor, stat.S_IMODE(status.st_mode))

        self._publish(write)
        self._committed = time.monotonic()
        self._duration = self._committed - began

    def _publish(self, write: Callable[[], None]) -> None:
        self.busy = True
        try:
            with closing(create_anew(self._partial)) as self._descriptor:
                self._name = held(self._descriptor, self._partial)
                write()
                os.fsync(self._descriptor)
                if not is_at(self._descriptor, self._partial):
                    raise OSError(errno.EAGAIN, f"another process has moved '{self._partial}'")
                os.replace(self._partial, self.path)
            _sync(self.path.parent)
        except (OSError, RuntimeError, UnsoundError) as error:  # h5py raises either of two when HDF5 cannot write
            with contextlib.suppress(OSError):
                self._partial.unlink(missing_ok=True)
            raise StorageError(explain("write", self.path, error)) from error
        finally:
            self.busy = False

    def _reserve(self, size: int) -> None:
        # HDF5 does not always survive a disk that fills up under it, so the blocks are allocated first; closing the
        # file gives back what was not used. Not every system and file system can do this.
        if not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(self._descriptor, 0, size + SPARE_BYTES)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise


def _replaceable(path: Path) -> bool:
    """Return whether a folder lets this user put another file in the place of one that is there: a sticky one only the owners."""
    folder = path.parent.stat()
    if not (folder.st_mode & stat.S_ISVTX and hasattr(os, "geteuid")):
        return True
    return os.geteuid() in (0, folder.st_uid, path.stat().st_uid)


def _is_empty_result(path: Path) -> bool:
    try:
        with ResultFile(path) as result:
            return all(result.records(name) == 0 for name in result.series)
    except StorageError:  # damaged, or of a newer format: it may hold something
        return False


def _keep_beside(path: Path) -> Path:
    """Give a file a further name, the first free one; a name that leads nowhere is not free."""
    for number in itertools.count(1):
        kept = path.with_name(f"{path.stem}.{number}{path.suffix}")
        if os.path.lexists(kept):
            continue
        try:
            os.link(path, kept, follow_symlinks=False)
        except FileExistsError:
            continue
        except OSError:  # a file system without hard links
            with closing(open_regular(path)) as source, closing(create_anew(kept)) as target:
                copy(source, target)
                os.fchmod(target, stat.S_IMODE(os.fstat(source).st_mode))
        break
    return kept


def _sync(path: Path) -> None:
    with closing(os.open(path, os.O_RDONLY)) as descriptor:
        os.fsync(descriptor)
