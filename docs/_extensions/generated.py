"""Directives whose text comes from the code, so that it cannot differ from it.

case-keys [TABLE...]      all keys of case files (of these tables), with default and meaning
expression-functions      everything that expressions may use
command-line              every verb with its arguments and options
messages CLASS...         the texts that the package raises as these errors, in the order of its files
python-api NAME...        signature and docstring of public names, docstrings read as Markdown
benchmarks                every file of benchmarks/ with the first line of its docstring
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import wassgrid

PACKAGE = Path(wassgrid.__file__).parent


def keys(tables: list[str]) -> str:
    """Return the Markdown table of the keys whose first word is one of `tables`, of all without any."""
    from wassgrid.case import Case
    from wassgrid.case.keys import key_table

    head, rule, *rows = key_table(Case).splitlines()
    kept = [row for row in rows if not tables or re.split(r"[.`]", row.removeprefix("| `"))[0] in tables]
    if not kept:
        raise ValueError(f"no keys in {tables}")
    return "\n".join([head, rule, *kept])


def functions() -> str:
    from wassgrid.problem.functions import ELSEWHERE, listed

    rows = [f"| `{form}` | {meaning} |" for form, meaning in listed()]
    others = [f"| `{name}` | `{form}` |" for name, form in ELSEWHERE.items()]
    between = ["", "Names of other languages, and what to write here:", ""]
    return "\n".join(["| written | meaning |", "|---|---|", *rows, *between, "| there | here |", "|---|---|", *others])


def command_line() -> str:
    """Return what `wassgrid VERB --help` prints, for every verb."""
    from typer.testing import CliRunner

    from wassgrid.cli import app

    parts = []
    for name in sorted(command.name or command.callback.__name__ for command in app.registered_commands if command.callback):
        shown = CliRunner().invoke(app, [name, "--help"], prog_name="wassgrid")
        if shown.exit_code != 0:
            raise ValueError(f"wassgrid {name} --help: {shown.output}")
        parts += [f"## {name}", "", "```text", shown.output.strip(), "```", ""]
    return "\n".join(parts)


def messages(names: list[str]) -> str:
    """Return the Markdown list of the texts raised as these errors; what is filled in stands in ‹›, or as an ellipsis."""
    found: dict[str, None] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for text in _raised(ast.parse(path.read_text(encoding="utf-8")), set(names)):
            found[text] = None
    if not found:
        raise ValueError(f"no message of {names}")
    return "\n".join(f"- `` {text} ``" for text in found)


def _raised(tree: ast.Module, names: set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called not in names:
            continue
        for part in _branches(node.args[-1]):
            text = " ".join(_shown(part).split())
            if len(text) > 12 and re.search(r"[a-z]{3} [a-z]{2}", text):
                yield text.replace("`", "'")


def _branches(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.IfExp):
        yield from _branches(node.body)
        yield from _branches(node.orelse)
    else:
        yield node


def _shown(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_shown(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _shown(node.left) + _shown(node.right)
    if isinstance(node, ast.FormattedValue):
        return _shown(node.value)
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "shown":
        return _shown(node.args[0])
    if isinstance(node, ast.Name):
        return f"‹{node.id}›"
    return "…"


def api(names: list[str]) -> str:
    return "\n\n".join(_documented(name) for name in names)


def _documented(name: str) -> str:
    value = wassgrid
    module, parts = "wassgrid", name.split(".")
    while len(parts) > 1 and parts[0].islower() and not hasattr(value, parts[0]):
        module = f"{module}.{parts.pop(0)}"
        value = import_module(module)
    for part in parts:
        value = getattr(value, part)
    if not inspect.isclass(value):
        return _entry("function", module, ".".join(parts), value)
    members = [
        (key, member) for key, member in vars(value).items()
        if not key.startswith("_") and (callable(member) or isinstance(member, property | classmethod | staticmethod))
        and inspect.getdoc(member)
    ]  # fmt: skip
    shown = [
        _entry("property", "", key, member) if isinstance(member, property) else _entry("method", "", key, getattr(value, key))
        for key, member in members
    ]
    return _entry("class", module, ".".join(parts), value, "\n\n".join(shown))


def _entry(kind: str, module: str, name: str, value: Any, inside: str = "") -> str:
    """Return the directive of the Python domain for one object, with its docstring and what stands below it."""
    text = _markdown(inspect.getdoc(value) or "")
    fence = "`" * (8 if inside else 5)
    signature = "" if kind == "property" or _read_or_raised(value) else _signature(value)
    options = f":module: {module}\n" if module else ""
    return f"{fence}{{py:{kind}}} {name}{signature}\n{options}\n{text}\n\n{inside}\n{fence}"


def _read_or_raised(value: Any) -> bool:
    """Whether nobody calls this class: it is an error, or a table that is read from files."""
    return inspect.isclass(value) and (issubclass(value, Exception) or hasattr(value, "model_fields"))


def _signature(value: Any) -> str:
    try:
        text = str(inspect.signature(value))
    except (TypeError, ValueError):
        return ""
    if ", _" in text:  # made by functions of the package, never by its users
        return ""
    return re.sub(r"\(self(, )?", "(", text).replace("'", "").split(" -> ")[0]


def _markdown(text: str) -> str:
    """Fence the examples of a docstring: Markdown takes `>>>` for a quotation."""
    lines, found, inside = text.splitlines(), [], False
    for line in lines:
        begins = line.startswith((">>> ", "... "))
        if begins and not inside:
            found.append("```pycon")
        if inside and not line.strip():
            found.append("```")
        inside = begins or (inside and bool(line.strip()))
        found.append(line)
    return "\n".join([*found, "```"] if inside else found)


def benchmarks() -> str:
    rows = []
    for path in sorted((PACKAGE.parent / "benchmarks").glob("*.py")):
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        rows.append(f"| `{path.name}` | {' '.join(said.split(chr(10) * 2)[0].split())} |")
    return "\n".join(["| file | measures |", "|---|---|", *rows])


DIRECTIVES: dict[str, Callable[[list[str]], str]] = {
    "case-keys": keys,
    "expression-functions": lambda _words: functions(),
    "command-line": lambda _words: command_line(),
    "messages": messages,
    "python-api": api,
    "benchmarks": lambda _words: benchmarks(),
}


class Generated(SphinxDirective):
    """Put in Markdown that a function of the arguments returns."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        words = self.arguments[0].split() if self.arguments else []
        for path in PACKAGE.rglob("*.py"):
            self.env.note_dependency(str(path))
        text = DIRECTIVES[self.name](words)
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    for name in DIRECTIVES:
        app.add_directive(name, Generated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
