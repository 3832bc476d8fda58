"""Text from files in C source: names become identifiers, all else stays data, whatever stands in it."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LONGEST_NAME, _LONGEST_LITERAL = 40, 120  # characters; C99 promises 63 significant ones and literals of 4095


def identifier(text: str) -> str:
    """Return a text as part of a C identifier: letters, digits and _, with a letter in front.

    >>> identifier("2 q[0]-\\u03b8*/")
    'p_2_q_0'
    """
    name = re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9]", "_", text)).strip("_")[:_LONGEST_NAME].strip("_")
    return name if name[:1].isalpha() else f"p_{name}".rstrip("_")


def identifiers(texts: Iterable[str]) -> list[str]:
    """Return different identifiers for texts that may become the same one."""
    found: list[str] = []
    for text in texts:
        name = identifier(text)
        while name in found:
            name += "x"
        found.append(name)
    return found


def comment(text: str) -> str:
    """Return a text that ends no comment, begins none and is no trigraph, in printable ASCII.

    >>> comment("a */ system(); /* b ??/ caf\\u00e9\\n")
    'a * / system(); / * b ? ?/ caf\\\\xe9\\\\n'
    """
    text = "".join(c if 32 <= ord(c) < 127 else c.encode("unicode_escape").decode() for c in text)
    for pair in ("*/", "/*", "??"):
        while pair in text:
            text = text.replace(pair, f"{pair[0]} {pair[1]}")
    return text


def literal(text: str) -> str:
    """Return a text as a C string literal, its UTF-8 bytes exactly.

    >>> literal('say "\\u03b8"??/')
    '"say \\\\"\\\\316\\\\270\\\\"\\\\?\\\\?/"'
    """
    special = {ord("\\"): "\\\\", ord('"'): '\\"', ord("?"): "\\?", ord("\n"): "\\n"}
    # three octal digits end by themselves, whatever follows
    return '"' + "".join(special.get(b) or (chr(b) if 32 <= b < 127 else f"\\{b:03o}") for b in text.encode()) + '"'


def literals(text: str) -> list[str]:
    """Return a text of any length as literals that make it up when they are joined, each of one line at most."""
    lines = text.splitlines(keepends=True) or [""]
    return [literal(line[k : k + _LONGEST_LITERAL]) for line in lines for k in range(0, len(line), _LONGEST_LITERAL)] or ['""']
