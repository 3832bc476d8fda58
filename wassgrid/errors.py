"""The base of all errors that wassgrid raises for what it is given: a case, a file, a policy, a machine too small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class WassgridError(Exception):
    """What was given cannot be used; the message is one line: where, what was expected, the remedy."""


class PackageMissingError(WassgridError, ImportError):
    """A package that only some tasks need is not installed; the message names it and how to install it."""


class NumbersError(WassgridError, ValueError):
    """A case whose numbers are beyond what can be computed with."""


@contextmanager
def overflow_named(what: str) -> Iterator[None]:
    """Raise NumbersError, with what could not be done, where Python's own arithmetic overflows inside."""
    try:
        yield
    except ArithmeticError as error:
        if type(error).__module__ != "builtins":
            raise
        raise NumbersError(f"{what}: {error}") from error
