"""Expression text of a case file -> SymPy, through a whitelist on Python's syntax tree.

Nothing of the text is ever evaluated by Python or by a SymPy parser: a node of the tree either stands in the grammar
below or is an error.  The grammar: numbers, declared names, `+ - * / **`, comparisons with `and`, `or`, `not` as the
first argument of `where`, the functions of `functions.py`, members `q[i]`, `q[i+1]`, `q[0]` of index families, `sum(i,
...)` and `next(state)`.

All numbers are doubles and constants are folded as doubles, so nothing can explode; a constant that is not finite is an error.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Mapping

import sympy as sp

from wassgrid.problem.compilation import compile_functions
from wassgrid.problem.functions import Where
from wassgrid.problem.grammar import Reader, as_double, as_expression
from wassgrid.problem.scope import ExpressionError, Index, Scope, shown_at

__all__ = ["ExpressionError", "Index", "Scope", "compile_functions", "evaluate_number", "parse", "parse_condition"]

_PRODUCT = re.compile(r"(?<![\w.])\d+(?:\.\d*)?(?!e[+-]?\d)[A-Za-z(]|\)[\w(]")  # 2x, 2(x + 1), (x)(y)
MAXIMUM_LENGTH = 20_000  # characters of one expression
MAXIMUM_NODES = 5_000  # syntax nodes of one expression as written


def parse(text: str, scope: Scope) -> sp.Expr:
    """Parse `text` into a SymPy expression of the names in `scope`.

    Raises ExpressionError for anything outside the grammar and for constants that are not finite.
    """
    text, tree = _syntax_tree(text)
    return _finite(as_expression(Reader(text, scope).number(tree, 0)), text)


def parse_condition(text: str, scope: Scope) -> sp.Expr:
    """Parse a condition such as `x >= 1 and y < 0` into an expression that is 1 where it holds and 0 elsewhere.

    Raises ExpressionError as `parse`.
    """
    text, tree = _syntax_tree(text)
    return _finite(Where(Reader(text, scope).condition(tree, 0), sp.S.One, sp.S.Zero), text)


def _finite(expression: sp.Expr, text: str) -> sp.Expr:
    for number in expression.atoms(sp.Float):
        if not math.isfinite(as_double(number)):
            raise ExpressionError(f"a constant is too large for a double in {shown_at(text, 0)}")
    if expression.has(sp.zoo, sp.nan, sp.oo, -sp.oo, sp.I):
        raise ExpressionError(f"the expression is not a finite real number in {shown_at(text, 0)}")
    return expression


def evaluate_number(text: str, parameters: Mapping[str, float]) -> float:
    """Evaluate `text` as a number that depends on parameters only.  Raises ExpressionError."""
    expression = parse(text, Scope(values=parameters))
    return as_double(expression)


def _syntax_tree(text: str) -> tuple[str, ast.expr]:
    """Return the text on one line and its syntax tree, after the limits that keep both small."""
    if len(text) > MAXIMUM_LENGTH:
        raise ExpressionError(f"the expression has {len(text)} characters, more than {MAXIMUM_LENGTH}: {shown_at(text, 0)}")
    text = " ".join(text.split())
    if not text:
        raise ExpressionError("the expression is empty")
    for place, character in enumerate(text):
        if not 32 <= ord(character) < 127:
            raise ExpressionError(f"the character {character!a} at column {place + 1} in {shown_at(text, place)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's advice on the text concerns programs
            tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        place = max((error.offset or 1) - 1, 0)
        hint = ", write * for a product" if _PRODUCT.search(text) else ""
        raise ExpressionError(f"not an expression at column {place + 1} in {shown_at(text, place)}{hint}") from None
    except (RecursionError, MemoryError):
        raise ExpressionError(f"nested too deeply: {shown_at(text, 0)}") from None
    except ValueError as error:
        raise ExpressionError(f"{str(error).splitlines()[0]} in {shown_at(text, 0)}") from None
    if sum(1 for _ in ast.walk(tree)) > MAXIMUM_NODES:
        raise ExpressionError(f"more than {MAXIMUM_NODES} terms in {shown_at(text, 0)}")
    return text, tree
