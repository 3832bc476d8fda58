"""Policies for use without wassgrid: as NumPy arrays, as a C header, neural ones as an ONNX model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from wassgrid.export.archive import npz
from wassgrid.export.header import FIRST_WORDS, c_header
from wassgrid.export.onnx_graph import FORMAT, NeuralParcel, onnx
from wassgrid.export.parcel import ExportError, Parcel
from wassgrid.problem.names import nearest
from wassgrid.storage.whole import write_whole

__all__ = ["FORMS", "ExportError", "Parcel", "c_header", "export", "npz"]


@dataclass(frozen=True)
class Form:
    """A form that policies travel in: the ending of its files, how they begin, what is read of a result file, what they hold of
    it, what of a policy is not in it."""

    ending: str
    begins: bytes
    read: Callable[[str | PathLike[str]], Any]
    content: Callable[[Any], bytes]
    lost: Callable[[Any], str]


FORMS = {
    "npz": Form(".npz", b"PK", Parcel.from_file, npz, lambda parcel: ""),
    "c": Form(".h", FIRST_WORDS.encode(), Parcel.from_file, lambda parcel: c_header(parcel).encode("ascii"), Parcel.lost),
    "onnx": Form(".onnx", bytes([8, FORMAT]), NeuralParcel.from_file, onnx, lambda parcel: ""),
}


def export(path: str | PathLike[str], to: str, output: str | PathLike[str] | None = None) -> tuple[Path, str]:
    """Write the last policy of a result file in one of `FORMS` and return where, and what of it is left out.

    output: by default the name of the result file with the ending of the form, in the current folder. A file there is replaced if
    it is of the form. Raises ExportError, StorageError.
    """
    if to not in FORMS:
        raise ExportError(f"export: --to: expected one of {', '.join(FORMS)}, got {to!r:.60}{nearest(to, FORMS)}")
    form = FORMS[to]
    parcel = form.read(path)
    target = Path(output) if output is not None else Path(f"{Path(path).stem}{form.ending}")
    write_whole(target, form.content(parcel), form.begins)
    return target, form.lost(parcel)
