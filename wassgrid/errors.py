"""The base of all errors that wassgrid raises for what it is given: a case, a file, a policy, a machine too small."""

from __future__ import annotations


class WassgridError(Exception):
    """What was given cannot be used; the message is one line: where, what was expected, the remedy."""


class PackageMissingError(WassgridError, ImportError):
    """A package that only some tasks need is not installed; the message names it and how to install it."""
