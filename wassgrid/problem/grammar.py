"""The grammar of expressions: a node of Python's syntax tree -> a double or a SymPy expression, or an error."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

import sympy as sp
from sympy.logic.boolalg import BooleanAtom

from wassgrid.problem import functions
from wassgrid.problem.functions import CONSTANTS, ELEMENTARY, ELSEWHERE, SPECIAL, Condition, constant
from wassgrid.problem.names import member, nearest, remedy
from wassgrid.problem.scope import ExpressionError, Index, Scope, shown_at

MAXIMUM_DEPTH = 40  # levels of nesting; chains a + b + c and a*b*c are one level
MAXIMUM_VISITS = 50_000  # syntax nodes of one expression once its sums are written out
MAXIMUM_EXPONENT = 1_000.0  # absolute value of a constant exponent on a variable base

Value: TypeAlias = "float | sp.Expr"


def as_double(number: sp.Expr) -> float:
    """Return the double of a SymPy number, infinite where it is too large."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


def as_expression(value: float | sp.Expr) -> sp.Expr:
    """Return a double as a SymPy number (see `constant`), an expression as it is."""
    return constant(value) if isinstance(value, float) else value


def folded(value: sp.Expr) -> float | sp.Expr:
    """Return numbers as doubles, so that all constants fold in double precision."""
    return as_double(value) if value.is_Number else value


def form_of(name: str) -> str:
    """Return how a function is written, also one that is called otherwise elsewhere; nothing for others."""
    if name in ELEMENTARY:
        return ELEMENTARY[name].form
    return SPECIAL[name][0] if name in SPECIAL else ELSEWHERE.get(name, "")


class Reader:
    """One walk over a syntax tree.  `number` and `condition` return values of that kind or raise ExpressionError."""

    def __init__(self, text: str, scope: Scope) -> None:
        self.text = text
        self.scope = scope
        self.visits = 0

    def fail(self, node: ast.AST, message: str) -> NoReturn:
        """Raise ExpressionError with the message and the place of `node`."""
        place = getattr(node, "col_offset", 0)
        raise ExpressionError(f"{message} (column {place + 1} of {shown_at(self.text, place)})")

    def enter(self, node: ast.AST, depth: int) -> None:
        """Count a node and refuse deep nesting."""
        self.visits += 1
        if depth > MAXIMUM_DEPTH:
            self.fail(node, f"nested more than {MAXIMUM_DEPTH} levels deep")

    def weight(self, node: ast.AST) -> int:
        """Count the nodes below `node`, those of a sum once for each of its positions."""
        repeated = 1
        match node:
            case ast.Call(func=ast.Name(id="sum"), args=[ast.Name(id=name), _]) if name in self.scope.indices:
                repeated = self.scope.indices[name].count
        return 1 + repeated * sum(map(self.weight, ast.iter_child_nodes(node)))

    # -- kinds of values -------------------------------------------------------------------------------------------

    def number(self, node: ast.expr, depth: int) -> Value:
        """Read a real number or an expression of one."""
        self.enter(node, depth)
        value: Value
        match node:
            case ast.Constant(value=int() | float() as given) if not isinstance(given, bool):
                try:
                    value = float(given)
                except OverflowError:
                    value = math.inf
            case ast.Name():
                value = self.name(node)
            case ast.UnaryOp(op=ast.USub()):
                value = self.number(node.operand, depth + 1)
                value = -value
            case ast.UnaryOp(op=ast.UAdd()):
                value = self.number(node.operand, depth + 1)
            case ast.BinOp(op=ast.Add() | ast.Sub()):
                value = self.total(node, depth)
            case ast.BinOp(op=ast.Mult() | ast.Div()):
                value = self.product(node, depth)
            case ast.BinOp(op=ast.Pow()):
                value = self.power(node, self.number(node.left, depth + 1), self.number(node.right, depth + 1))
            case ast.Call():
                value = self.call(node, depth)
            case ast.Subscript():
                value = self.family_member(node, realised=False)
            case _:
                self.refuse(node)
        if isinstance(value, float) and not math.isfinite(value):
            self.fail(node, "the value is not a finite double")
        return value

    def condition(self, node: ast.expr, depth: int) -> Condition | BooleanAtom:
        """Read a comparison, or several joined by and, or, not."""
        self.enter(node, depth)
        match node:
            case ast.Compare():
                values = [as_expression(self.number(item, depth + 1)) for item in (node.left, *node.comparators)]
                # lo < x < hi is (lo < x) and (x < hi)
                parts = [self.comparison(node, kind, x, y) for kind, x, y in zip(node.ops, values, values[1:], strict=False)]
                return self.joined(functions.Both, parts)
            case ast.BoolOp():
                kind = functions.Both if isinstance(node.op, ast.And) else functions.Either
                return self.joined(kind, [self.condition(item, depth + 1) for item in node.values])
            case ast.UnaryOp(op=ast.Not()):
                return functions.Negation(self.condition(node.operand, depth + 1))
        self.fail(node, "expected a comparison such as x > 0")

    def comparison(self, node: ast.Compare, kind: ast.cmpop, x: sp.Expr, y: sp.Expr) -> Condition | BooleanAtom:
        match kind:
            case ast.Gt():
                return functions.Greater(x, y)
            case ast.GtE():
                return functions.GreaterEqual(x, y)
            case ast.Lt():
                return functions.Greater(y, x)
            case ast.LtE():
                return functions.GreaterEqual(y, x)
            case ast.Eq():
                return functions.Equal(x, y)
            case ast.NotEq():
                return functions.Negation(functions.Equal(x, y))
        self.fail(node, "expected one of < <= > >= == !=")

    @staticmethod
    def joined(kind: Any, parts: list[Any]) -> Any:
        result = parts[0]
        for part in parts[1:]:
            result = kind(result, part)
        return result

    def refuse(self, node: ast.expr) -> NoReturn:
        """Say why a node is not a number."""
        match node:
            case ast.BinOp(op=ast.BitXor()):
                self.fail(node, "^ is not an operator here, write ** for a power")
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
                self.fail(node, "a comparison may only stand as the first argument of where(condition, x, y)")
            case ast.IfExp():
                self.fail(node, "write where(condition, x, y) for a choice")
            case ast.Attribute(attr=name) if name in CONSTANTS:
                self.fail(node, f"there are no modules here, write {name}")
            case ast.Attribute():
                self.fail(node, "a dot after a name is not allowed")
            case ast.BinOp() | ast.UnaryOp():
                self.fail(node, f"the operator {type(node.op).__name__} is not allowed, only + - * / **")
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                self.fail(node, "a comprehension is not allowed, write sum(i, ...) for a sum")
            case ast.NamedExpr():
                self.fail(node, "an assignment is not allowed in an expression")
            case ast.JoinedStr():
                self.fail(node, "text is not allowed in an expression")
            case ast.Constant():
                self.fail(node, f"{node.value!r:.40} is not a number")
            case ast.Tuple() | ast.List() | ast.Set() | ast.Dict():
                self.fail(node, "a list is not allowed in an expression")
        self.fail(node, f"{type(node).__name__.lower()} is not allowed in an expression")

    # -- names and members -----------------------------------------------------------------------------------------

    def name(self, node: ast.Name) -> Value:
        name, scope = node.id, self.scope
        if name in scope.bound:
            position = scope.bound[name]
            return float(position) if isinstance(position, int) else position
        if name in scope.values:
            value = scope.values[name]
            return float(value) if isinstance(value, int | float) else value
        if name in CONSTANTS:
            return CONSTANTS[name]
        self.unknown(node, name)

    def unknown(self, node: ast.AST, name: str) -> NoReturn:
        """Say why a name is not a number here."""
        scope = self.scope
        if name in scope.forbidden:
            self.fail(node, scope.forbidden[name])
        if name in ELEMENTARY or name in SPECIAL:
            self.fail(node, f"{name} is a function, write {form_of(name)}")
        if name in scope.families:
            self.fail(node, f"{name} is a family, write {name}[{scope.families[name]}] or {name}[0]")
        if name in scope.indices:
            self.fail(node, f"the index {name} has no value here, write sum({name}, ...)")
        if name in ("t", "time"):
            self.fail(node, f"unknown name {name!r}: nothing here depends on time itself, make a clock or a phase a state")
        numbers = not scope.families and all(isinstance(value, int | float) for value in scope.values.values())
        where = ", only parameters may stand here" if numbers and not scope.bound else ""
        self.fail(node, f"unknown name {name!r:.60}{where}{remedy(name, scope.names)}")

    def family_member(self, node: ast.Subscript, realised: bool) -> Value:
        """Read `q[i]`, `q[i+1]`, `q[i-2]` or `q[0]`; beyond the end of an index that is not periodic it is 0."""
        scope = self.scope
        if not isinstance(node.value, ast.Name):
            self.fail(node, "a subscript may only follow the name of an index family")
        family = node.value.id
        if family in scope.forbidden:
            self.fail(node, scope.forbidden[family])
        if family not in scope.families:
            self.fail(node, f"{family!r:.60} is not an index family{remedy(family, scope.families)}")
        if realised and family not in scope.realised:
            self.fail(node, f"next(...) takes a state, {family!r} is none{remedy(family, sorted(scope.realised))}")
        index = scope.indices[scope.families[family]]
        base = f"next({family})" if realised else family
        letter, shift = self.subscript(node, index)
        position = 0 if letter is None else scope.bound[letter]
        if not isinstance(position, int):
            return sp.IndexedBase(base)[position + shift]
        place = position + shift
        if letter is None and not 0 <= place < index.count:
            self.fail(node, f"{family} has the members {family}[0] to {family}[{index.count - 1}]")
        if index.periodic:
            place %= index.count
        if not 0 <= place < index.count:
            return 0.0
        if scope.template:
            return sp.IndexedBase(base)[sp.Integer(place)]
        name = member(family, place)
        return sp.Symbol(f"next({name})" if realised else name)

    def subscript(self, node: ast.Subscript, index: Index) -> tuple[str | None, int]:
        """Return (index name, shift) of a subscript, or (None, position)."""
        letter: ast.expr = node.slice
        shift = 0
        match node.slice:
            case ast.Constant(value=int(position)) if not isinstance(position, bool):
                return None, position
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(position))):
                return None, -position
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as sign, right=ast.Constant(value=int(shift))):
                letter, shift = left, shift if isinstance(sign, ast.Add) else -shift
        if not isinstance(letter, ast.Name) or isinstance(shift, bool) or letter.id not in self.scope.indices:
            self.fail(node, f"expected a subscript such as {index.name}, {index.name}+1 or 0")
        if letter.id not in self.scope.bound:
            self.fail(node, f"the index {letter.id} has no value here, write sum({letter.id}, ...)")
        if self.scope.indices[letter.id].count != index.count:
            self.fail(node, f"the indices {letter.id} and {index.name} have different counts")
        if abs(shift) > index.count:
            self.fail(node, f"the shift {shift:+d} is longer than the index {index.name}")
        return letter.id, shift

    # -- operators -------------------------------------------------------------------------------------------------

    def total(self, node: ast.BinOp, depth: int) -> Value:
        """Read a chain of + and -, one level deep however long."""
        terms: list[Value] = []
        item: ast.expr = node
        while isinstance(item, ast.BinOp) and isinstance(item.op, ast.Add | ast.Sub):
            term = self.number(item.right, depth + 1)
            terms.append(term if isinstance(item.op, ast.Add) else -term)
            item = item.left
        terms.append(self.number(item, depth + 1))
        return self.added(terms[::-1])

    @staticmethod
    def added(terms: list[Value]) -> Value:
        number = sum(term for term in terms if isinstance(term, float))
        rest = [term for term in terms if not isinstance(term, float)]
        if not rest or not math.isfinite(number):
            return number
        return folded(sp.Add(as_expression(number), *rest))

    def product(self, node: ast.BinOp, depth: int) -> Value:
        """Read a chain of * and /, one level deep however long; its numbers fold into one."""
        chain: list[ast.BinOp] = []
        item: ast.expr = node
        while isinstance(item, ast.BinOp) and isinstance(item.op, ast.Mult | ast.Div):
            chain.append(item)
            item = item.left
        number = 1.0
        factors: list[sp.Expr] = []
        for divides, operand in [(False, item), *((isinstance(link.op, ast.Div), link.right) for link in reversed(chain))]:
            value = self.number(operand, depth + 1)
            if divides and value == 0.0:
                self.fail(operand, "division by zero")
            if isinstance(value, float):
                number = number / value if divides else number * value
            else:
                factors.append(sp.Pow(value, sp.S.NegativeOne) if divides else value)
        if not factors or number == 0.0 or not math.isfinite(number):
            return number
        return folded(sp.Mul(as_expression(number), *factors))

    def power(self, node: ast.BinOp, base: Value, exponent: Value) -> Value:
        """Raise to a power: in doubles if both are numbers, so that nothing explodes; refuse what is not real."""
        if isinstance(base, float) and isinstance(exponent, float):
            try:
                value = base**exponent
            except (OverflowError, ZeroDivisionError):
                self.fail(node, f"{base:g}**{exponent:g} is not a finite double")
            if isinstance(value, complex):
                self.fail(node, f"{base:g}**{exponent:g} is not real")
            return value
        if isinstance(base, float):
            exponent = as_expression(exponent)
            if base <= 0.0 and any(not symbol.is_integer for symbol in exponent.free_symbols):
                self.fail(node, f"{base:g} to a variable power is not real, the base must be positive")
            return folded(sp.Pow(as_expression(base), exponent))
        if isinstance(exponent, float):
            if abs(exponent) > MAXIMUM_EXPONENT:
                self.fail(node, f"the exponent {exponent:g} is beyond {MAXIMUM_EXPONENT:g}")
            if exponent.is_integer():
                exponent = sp.Integer(int(exponent))
            elif abs(exponent) == 0.5:
                exponent = sp.S.Half if exponent > 0 else -sp.S.Half
            else:
                exponent = sp.Float(exponent)
        return folded(sp.Pow(base, exponent))

    # -- calls -----------------------------------------------------------------------------------------------------

    def call(self, node: ast.Call, depth: int) -> Value:
        if isinstance(node.func, ast.Attribute) and (form := form_of(node.func.attr)):
            self.fail(node, f"there are no modules here, write {form}")
        if not isinstance(node.func, ast.Name):
            self.fail(node, "only a function's name may be called")
        name, arguments = node.func.id, node.args
        if name not in ELEMENTARY and name not in SPECIAL:
            if name in self.scope.values or name in self.scope.bound or name in CONSTANTS:
                self.fail(node, f"{name} is not a function, write {name}*(...) for a product")
            form = form_of(name)
            hint = f", write {form}" if form else nearest(name, [*ELEMENTARY, *SPECIAL]) or ", 'wassgrid functions' lists all"
            self.fail(node, f"unknown function {name!r:.60}{hint}")
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in arguments):
            self.fail(node, f"{name} takes plain arguments only")
        if name in ELEMENTARY:
            count, at_doubles, build, _, _ = ELEMENTARY[name]
            self.expect_count(node, name, arguments, count)
            return self.apply(node, name, at_doubles, build, [self.number(item, depth + 1) for item in arguments])
        return getattr(self, f"call_{name}")(node, depth)

    def apply(self, node: ast.AST, name: str, at_doubles: Callable[..., float], build: Any, values: list[Value]) -> Value:
        if all(isinstance(value, float) for value in values):
            try:
                return float(at_doubles(*values))
            except (ValueError, OverflowError, ZeroDivisionError):
                self.fail(node, f"{name}({', '.join(f'{value:g}' for value in values)}) is not a finite real number")
        return folded(build(*map(as_expression, values)))

    def expect_count(self, node: ast.AST, name: str, arguments: list[ast.expr], count: int) -> None:
        if len(arguments) != count:
            wanted = f"{count} argument{'s' if count > 1 else ''}" + (f", {form_of(name)}" if count > 1 else "")
            self.fail(node, f"{name} takes {wanted}, got {len(arguments)}")

    def extremum(self, node: ast.Call, depth: int, kind: Any) -> Value:
        if not node.args:
            self.fail(node, "expected at least one argument")
        values = [self.number(item, depth + 1) for item in node.args]
        result = values[0]
        for value in values[1:]:
            result = self.apply(node, kind.__name__, kind.of_numbers, kind, [result, value])
        return result

    def call_min(self, node: ast.Call, depth: int) -> Value:
        return self.extremum(node, depth, functions.Minimum)

    def call_max(self, node: ast.Call, depth: int) -> Value:
        return self.extremum(node, depth, functions.Maximum)

    def call_clip(self, node: ast.Call, depth: int) -> Value:
        self.expect_count(node, "clip", node.args, 3)
        value, low, high = (self.number(item, depth + 1) for item in node.args)
        if isinstance(low, float) and isinstance(high, float) and low > high:
            self.fail(node, f"clip needs lo <= hi, got {low:g} and {high:g}")
        # clip(x, lo, hi) = min(max(x, lo), hi)
        value = self.apply(node, "max", max, functions.Maximum, [value, low])
        return self.apply(node, "min", min, functions.Minimum, [value, high])

    def call_where(self, node: ast.Call, depth: int) -> Value:
        self.expect_count(node, "where", node.args, 3)
        condition = self.condition(node.args[0], depth + 1)
        x, y = (as_expression(self.number(item, depth + 1)) for item in node.args[1:])
        return folded(functions.Where(condition, x, y))

    def call_wrap_angle(self, node: ast.Call, depth: int) -> Value:
        self.expect_count(node, "wrap_angle", node.args, 1)
        angle = self.number(node.args[0], depth + 1)
        # wrap_angle(x) = mod(x + pi, 2 pi) - pi, in [-pi, pi)
        if isinstance(angle, float):
            return (angle + math.pi) % (2.0 * math.pi) - math.pi
        return functions.Modulo(angle + sp.Float(math.pi), sp.Float(2.0 * math.pi)) - sp.Float(math.pi)

    def call_next(self, node: ast.Call, depth: int) -> Value:
        self.expect_count(node, "next", node.args, 1)
        argument, realised = node.args[0], self.scope.realised
        if not realised:
            self.fail(node, "next(...) may only stand in the next or drift of a state")
        if isinstance(argument, ast.Subscript):
            return self.family_member(argument, realised=True)
        if not isinstance(argument, ast.Name):
            self.fail(argument, "next(...) takes the name of a state")
        if argument.id in self.scope.families:
            self.unknown(argument, argument.id)
        if argument.id not in realised:
            self.fail(argument, f"next(...) takes a state, {argument.id!r:.60} is none{remedy(argument.id, sorted(realised))}")
        return sp.Symbol(f"next({argument.id})")

    def call_sum(self, node: ast.Call, depth: int) -> Value:
        self.expect_count(node, "sum", node.args, 2)
        name, term = node.args
        if not isinstance(name, ast.Name) or name.id not in self.scope.indices:
            known = f"one of {', '.join(self.scope.indices)}" if self.scope.indices else "declare it in [indices]"
            self.fail(name, f"the first argument of sum is an index: {known}")
        index, outer = self.scope.indices[name.id], self.scope
        try:
            if outer.template:
                # a nested sum over the same letter has a symbol of its own
                symbol = sp.Symbol(f"{name.id}@{len(outer.bound)}", integer=True)
                self.scope = outer.bind(name.id, symbol)
                value = self.number(term, depth + 1)
                if isinstance(value, float) or not value.has(symbol):
                    return folded(as_expression(value) * constant(float(index.count)))
                return sp.Sum(value, (symbol, 0, index.count - 1))
            if self.visits + self.weight(node) > MAXIMUM_VISITS:
                self.fail(node, f"the sum has more than {MAXIMUM_VISITS} terms when it is written out")
            values = []
            for position in range(index.count):
                self.scope = outer.bind(name.id, position)
                values.append(self.number(term, depth + 1))
        finally:
            self.scope = outer
        return self.added(values)
