"""The kinds of values a case file holds: numbers, texts, intervals, choices; strict, with errors that say what was expected.

A reader takes the raw value and pydantic's validation info and returns the value or raises ValueError with one line.  A
number may be given as an expression of parameters in quotes; the parameters stand in the validation context.  SymPy is
imported only when such an expression has to be read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationInfo
from pydantic_core import PydanticCustomError

from wassgrid.errors import WassgridError
from wassgrid.problem.names import nearest
from wassgrid.text import shortened

Reader = Callable[[Any, ValidationInfo], Any]


class CaseError(WassgridError, ValueError):
    """A case that cannot be read or is not valid; one line: the path of the key, what was expected, the remedy.

    Characters of the case or of its name that would break the line are replaced.
    """

    def __init__(self, message: str) -> None:
        line = "".join(character if character.isprintable() else "?" for character in message)
        super().__init__(shortened(line, 600))


_LONGEST_NAME = 40  # characters of the name of a value


class Table(BaseModel):
    """A table of a case file: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def shown(value: object, width: int = 60) -> str:
    """Return a value as it may stand in a one-line message."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, bool):
        return str(value).lower()
    try:
        text = ascii(value[:width]) if isinstance(value, str) else repr(value)
    except ValueError:
        text = "an integer of thousands of digits"
    return text if len(text) <= width else text[: width - 3] + "..."


def keyed_error(key: str, message: str) -> PydanticCustomError:
    """Return a validation error that belongs to the entry `key` of the table being read."""
    return PydanticCustomError("keyed", "{message}", {"key": key, "message": message})


def read_number(value: Any, info: ValidationInfo, expected: str = "a number or an expression of parameters") -> float:
    """Read a finite double from a number or from an expression of parameters."""
    if isinstance(value, str):
        from wassgrid.problem.expression import evaluate_number

        try:
            return evaluate_number(value, (info.context or {}).get("parameters", {}))
        except ValueError as error:
            raise ValueError(f"expected {expected}: {error}") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected {expected}, got {shown(value)}")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise ValueError(f"expected {expected}, got {shown(value)}, which is not a finite double")
    return result


def ranged(expected: str, accept: Callable[[float], bool]) -> Reader:
    """Return a reader of the numbers that `accept` accepts."""

    def read(value: Any, info: ValidationInfo) -> float:
        result = read_number(value, info, expected)
        if not accept(result):
            raise ValueError(f"expected {expected}, got {shown(value)}")
        return result

    return read


def integer(low: int, high: int = 2**31) -> Reader:
    """Return a reader of the integers low .. high."""
    expected = f"an integer of at least {low}"

    def read(value: Any, info: ValidationInfo) -> int:
        result = read_number(value, info, expected)
        if not result.is_integer() or result < low:
            raise ValueError(f"expected {expected}, got {shown(value)}")
        if result > high:
            raise ValueError(f"expected an integer of at most {high}, got {shown(value)}")
        return int(result)

    return read


def choice(*options: str, meanings: str = "") -> Reader:
    """Return a reader of one of several words; meanings: what they mean, for who takes another."""

    def read(value: Any, info: ValidationInfo) -> str:
        if not isinstance(value, str) or value not in options:
            hint = nearest(value, options) if isinstance(value, str) else ""
            hint = hint or (f": {meanings}" if meanings else "")
            raise ValueError(f"expected one of {', '.join(options)}, got {shown(value)}{hint}")
        return value

    return read


def word_or(word: str, other: Reader) -> Reader:
    """Return a reader of the word `word` or of what `other` reads."""

    def read(value: Any, info: ValidationInfo) -> Any:
        if value == word:
            return word
        try:
            return other(value, info)
        except ValueError as error:
            hint = nearest(value, [word]) if isinstance(value, str) else ""
            raise ValueError(f"expected {word!r} or a number, got {shown(value)}{hint}" if hint else str(error)) from None

    return read


def per_key(one: Reader) -> Reader:
    """Return a reader of one value for all names, or of a table with a value for each name."""

    def read(value: Any, info: ValidationInfo) -> Any:
        return read_each(one)(value, info) if isinstance(value, dict) else one(value, info)

    return read


def read_each(one: Reader, example: str = "") -> Reader:
    """Return a reader of a table whose values `one` reads."""

    def read(value: Any, info: ValidationInfo) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"expected a table{f' such as {example}' if example else ''}, got {shown(value)}")
        result = {}
        for name, item in value.items():
            try:
                result[name] = one(item, info)
            except ValueError as error:
                raise keyed_error(name, str(error)) from None
        return result

    return read


def read_parameters(value: Any, info: ValidationInfo) -> dict[str, float]:
    """Read numbers in order, each an expression of earlier ones, into the context, where later values find them."""
    known = {} if info.context is None else info.context.setdefault("parameters", {})

    def read(item: Any, info: ValidationInfo) -> float:
        return read_number(item, info, "a number or an expression of earlier parameters")

    if not isinstance(value, dict):
        raise ValueError(f"expected a table, got {shown(value)}")
    for name, item in value.items():
        known.update(read_each(read)({name: item}, info))
    return dict(known)


def read_interval(value: Any, info: ValidationInfo) -> tuple[float, float]:
    """Read two numbers [lower, upper] in rising order."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"expected two numbers [lower, upper], got {shown(value)}")
    low, high = (read_number(end, info, "two numbers [lower, upper]") for end in value)
    if not low < high:
        raise ValueError(f"expected two numbers lower < upper, got [{low:g}, {high:g}]")
    return low, high


def read_bounds(value: Any, info: ValidationInfo) -> tuple[float | str, float | str]:
    """Read [lower, upper], two numbers in rising order; an end that is no number of parameters stays a text, of the states."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"expected two numbers [lower, upper], or expressions of the states in quotes, got {shown(value)}")
    ends: list[float | str] = []
    for end in value:
        try:
            ends.append(read_number(end, info, "two numbers [lower, upper], or expressions of the states in quotes"))
        except ValueError:
            if not isinstance(end, str):
                raise
            ends.append(end)  # its names are looked at with those of the states
    low, high = ends
    if not (isinstance(low, str) or isinstance(high, str) or low < high):
        raise ValueError(f"expected two numbers lower < upper, got [{low:g}, {high:g}]")
    return low, high


def read_values(value: Any, info: ValidationInfo) -> tuple[float, ...] | dict[str, float]:
    """Read a list of different numbers, two at least, or a table of names for them."""
    expected = "a list of two or more different numbers, say [-1, 0, 1]"
    if isinstance(value, dict):
        expected = "names of two or more different numbers, say { off = 0, on = 1 }"
        for name in value:
            if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable() or name != name.strip():
                raise ValueError(f"expected names of 1 to {_LONGEST_NAME} printable characters, got {shown(name)}")
    if not isinstance(value, list | tuple | dict) or len(value) < 2:
        raise ValueError(f"expected {expected}, got {shown(value)}")
    items = value.values() if isinstance(value, dict) else value
    found = tuple(read_number(item, info, expected) + 0.0 for item in items)  # zero has one sign
    if len(set(found)) < len(found):
        raise ValueError(f"expected {expected}, got one of them twice: {shown(value)}")
    return dict(zip(value, found, strict=True)) if isinstance(value, dict) else found


def read_distance(value: Any, info: ValidationInfo) -> tuple[tuple[float, ...], ...] | dict[str, tuple[float, ...]]:
    """Read a matrix of distances, or a table of coordinates for names."""
    expected = "a matrix, say [[0, 1], [1, 0]], or coordinates of names, say { off = [0, 0], on = [1, 2] }"
    rows = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(rows, list | tuple) or not rows:
        raise ValueError(f"expected {expected}, got {shown(value)}")
    if isinstance(value, dict):
        rows = [row if isinstance(row, list | tuple) else [row] for row in rows]
    if not all(isinstance(row, list | tuple) and row for row in rows) or len({len(row) for row in rows}) > 1:
        raise ValueError(f"expected {expected}, with as many numbers for each, got {shown(value)}")
    found = tuple(tuple(read_number(item, info, expected) + 0.0 for item in row) for row in rows)
    return dict(zip(value, found, strict=True)) if isinstance(value, dict) else found


def read_reference(value: Any, info: ValidationInfo) -> str | tuple[float, ...]:
    """Read uniform, lebesgue or a list of positive numbers."""
    if isinstance(value, list | tuple):
        return read_positive_list(value, info)
    return choice("uniform", "lebesgue")(value, info)


def read_positive_list(value: Any, info: ValidationInfo) -> tuple[float, ...]:
    """Read a list of positive numbers."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"expected a list of positive numbers, got {shown(value)}")
    return tuple(read_positive(item, info) for item in value)


def read_start(value: Any, info: ValidationInfo) -> float | tuple[float, float] | dict[str, float]:
    """Read a number, two in rising order, or a table of mean and std."""
    if isinstance(value, list | tuple):
        return read_interval(value, info)
    if not isinstance(value, dict):
        return read_number(value, info, "a number, [low, high] or { mean = ..., std = ... }")
    if set(value) != {"mean", "std"}:
        raise ValueError(f"expected {{ mean = ..., std = ... }}, got {', '.join(map(shown, value)) or 'an empty table'}")
    return {"mean": read_number(value["mean"], info), "std": read_positive(value["std"], info)}


def read_text(value: Any, info: ValidationInfo) -> str:
    """Read the text of an expression, or a number as such a text."""
    return value if isinstance(value, str) else repr(read_number(value, info, "an expression in quotes or a number"))


def read_word(value: Any, info: ValidationInfo) -> str:
    """Read plain text."""
    if not isinstance(value, str):
        raise ValueError(f"expected text in quotes, got {shown(value)}")
    if "\0" in value:
        raise ValueError(f"expected text without NUL characters, got {shown(value)}")
    return value


def read_flag(value: Any, info: ValidationInfo) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {shown(value)}")
    return value


read_positive = ranged("a positive number", lambda x: x > 0.0)

Number = Annotated[float, PlainValidator(read_number)]
PositiveNumber = Annotated[float, PlainValidator(read_positive)]
NonnegativeNumber = Annotated[float, PlainValidator(ranged("a number of at least 0", lambda x: x >= 0.0))]
Fraction = Annotated[float, PlainValidator(ranged("a number between 0 and 1", lambda x: 0.0 < x < 1.0))]
Interval = Annotated[tuple[float, float], PlainValidator(read_interval)]
ExpressionText = Annotated[str, PlainValidator(read_text)]
Word = Annotated[str, PlainValidator(read_word)]
Flag = Annotated[bool, PlainValidator(read_flag)]
