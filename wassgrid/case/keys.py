"""The keys of the case language: where they stand, what they mean, how a command line sets them.

`root` is the model of the whole case.
"""

from __future__ import annotations

import re
import tomllib
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import tomli_w
from pydantic import BaseModel

from wassgrid.case.readers import CaseError, shown
from wassgrid.problem.names import remedy


def key_table(root: type[BaseModel]) -> str:
    """Return the Markdown table of all keys with default and meaning."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for path, default, meaning in _keys(root, ""):
        rows.append(f"| `{path}` | {default} | {meaning} |")
    return "\n".join(rows)


def _keys(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    """Yield (path, default, meaning) of every key below a table; NAME stands for a name of the user's choice."""
    for name, info in model.model_fields.items():
        inner, named = _nested(info.annotation)
        path = f"{prefix}{name}"
        if inner is not None:
            yield from _keys(inner, f"{path}.NAME." if named else f"{path}.")
            continue
        default = info.get_default(call_default_factory=True) if not info.is_required() else ...
        if default is ...:
            text = "needed"
        elif default is None or default == {} or default == "":
            text = ""
        else:
            text = f"`{tomli_w.dumps({'x': default}).removeprefix('x = ').strip()}`"
        yield path, " ".join(text.split()), info.description or ""


def _nested(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """Return the table that a key holds, and whether it holds one for each of many names."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is dict and arguments and isinstance(arguments[1], type) and issubclass(arguments[1], BaseModel):
        return arguments[1], True
    for item in arguments if origin in (typing.Union, types.UnionType) else (annotation,):
        if isinstance(item, type) and issubclass(item, BaseModel):
            return item, False
    return None, False


def elsewhere(root: type[BaseModel], name: str) -> str:
    """Return `, it is path.of.the.key` for a key that stands in some other table than it was looked for in, or nothing."""
    paths = [path.split(".") for path, _, _ in _keys(root, "")]
    found = dict.fromkeys(".".join(path[: path.index(name, 1) + 1]) for path in paths if name in path[1:])
    return f", it is {' or '.join(list(found)[:3])}" if found and name != "NAME" else ""


def table_at(root: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel] | None:
    """Return the table at a path, None where the user chooses the keys."""
    model: type[BaseModel] | None = root
    parts = list(location)
    while parts and model is not None:
        info = model.model_fields.get(str(parts.pop(0)))
        model, named = _nested(info.annotation) if info is not None else (None, False)
        if named:
            if not parts:
                return None
            parts.pop(0)
    return model


_PART = re.compile(r'\s*(?:"([^"]*)"|([^."\s=\[]+(?:\[[^\]]*\])?))\s*(\.|$)')


def override(root: type[BaseModel], data: dict[str, Any], text: str) -> None:
    """Apply "section.key=value" to the raw tables of a case; new keys must be keys of the language."""
    path, equals, value = text.partition("=")
    parts: list[str] = []
    place = 0
    while equals and place < len(path):
        match = _PART.match(path, place)
        if match is None:
            break
        parts.append(match[1] if match[1] is not None else match[2])
        place = match.end()
    if not equals or not parts or place < len(path):
        raise CaseError(f"--set {shown(text)}: expected section.key=value")
    table = data
    for depth, part in enumerate(parts):
        here = ".".join(parts[: depth + 1])
        model = table_at(root, parts[:depth])
        if model is not None:
            known = list(model.model_fields)
        else:
            # a value per state or action is checked with the case; other names must stand in the file
            known = [part] if depth >= 2 and _takes_names(root, parts[:depth]) else list(table)
        if part not in known:
            raise CaseError(f"--set {here}: unknown key{(depth == 0 and elsewhere(root, part)) or remedy(part, known)}")
        if depth == len(parts) - 1:
            table[part] = _toml_value(value)
            return
        inner = table.get(part, {})
        if not isinstance(inner, dict):
            if not _takes_names(root, parts[: depth + 1]):
                raise CaseError(f"--set {'.'.join(parts)}: {here} is a value, not a table")
            inner = {}
        table[part] = table = inner


def _takes_names(root: type[BaseModel], location: Sequence[str]) -> bool:
    """Tell whether a key takes a table with one value for each state or action."""
    table = table_at(root, location[:-1])
    info = table.model_fields.get(location[-1]) if table is not None else None

    def has_table(annotation: Any) -> bool:
        return typing.get_origin(annotation) is dict or any(map(has_table, typing.get_args(annotation)))

    return info is not None and has_table(info.annotation)


def _toml_value(text: str) -> Any:
    """Return a TOML value, or the text itself where it is none."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text.strip()
    return parsed["value"] if list(parsed) == ["value"] else text.strip()
