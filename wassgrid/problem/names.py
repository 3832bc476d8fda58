"""Names of parameters, states, actions and indices: their form, and the nearest known one to a misspelt one."""

from __future__ import annotations

import difflib
import keyword
import re
from collections.abc import Iterable

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_KEY = re.compile(r"([A-Za-z][A-Za-z0-9_]*)(?:\[([A-Za-z][A-Za-z0-9_]*)\])?")


def is_name(text: str) -> bool:
    """Tell whether `text` may name a parameter, state, action or index: a letter, then letters, digits or _."""
    return _NAME.fullmatch(text) is not None and not keyword.iskeyword(text)


def split_family(key: str) -> tuple[str, str | None] | None:
    """Split the key of a state or action: `q[i]` -> ("q", "i"), `theta` -> ("theta", None), anything else -> None."""
    match = _KEY.fullmatch(key)
    return match and (match[1], match[2])


def member(family: str, position: int) -> str:
    """Return the name of one member of an index family: `q[3]`."""
    return f"{family}[{position}]"


def located(names: Iterable[object], values: Iterable[float]) -> str:
    """Return what an error says of where it is, `s=0.5, a=-1.2`: the first eight."""
    shown = [f"{name}={value:.6g}" for name, value in zip(names, values, strict=True)]
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `, did you mean 'x'?` for the known name closest to `name`, or nothing."""
    matches = difflib.get_close_matches(name[:60], list(known), n=1, cutoff=0.6)
    return f", did you mean {matches[0]!r}?" if matches else ""


def remedy(name: str, known: Iterable[str]) -> str:
    """Return `, did you mean 'x'?` for the known name closest to `name`, else `, expected one of x, y` if they are few."""
    names = list(known)
    if hint := nearest(name, names):
        return hint
    return f", expected {'one of ' if len(names) > 1 else ''}{', '.join(names)}" if 0 < len(names) <= 12 else ""
