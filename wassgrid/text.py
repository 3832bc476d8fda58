"""Text from files is data: what a terminal or a page would take as a command is shown instead."""

from __future__ import annotations


def visible(text: object) -> str:
    """Return a text with every character that is not printed (control characters, line ends, marks that turn the direction of
    writing, halves of surrogate pairs) written as an escape.

    >>> visible("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
