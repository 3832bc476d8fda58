"""Text from files is data: what a terminal or a page would take as a command is shown instead."""

from __future__ import annotations


def visible(text: object) -> str:
    """Return a text with every character that is not printed (control characters, line ends, marks that turn the direction of
    writing, halves of surrogate pairs) written as an escape.

    >>> visible("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def shortened(line: str, most: int) -> str:
    """Return a line of at most so many characters, the middle left out: what is wrong stands at the end, where at the beginning.

    >>> shortened("cannot read 'aaaaaaaaaaaaaaaa': File name too long", 40)
    "cannot read 'aaaaa ... ile name too long"
    """
    if len(line) <= most:
        return line
    half = most // 2
    return f"{line[: half - 2]} ... {line[len(line) + 3 - half :]}"
