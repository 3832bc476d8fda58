"""SymPy expressions -> array functions of NumPy, JAX or intervals, and derivatives of staged expressions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import sympy as sp

from wassgrid.errors import NumbersError
from wassgrid.problem import functions, intervals
from wassgrid.problem.grammar import as_double

ArrayFunction = Callable[..., tuple[Any, ...]]
Stages = Sequence[tuple[sp.Symbol, sp.Expr]]
KEPT = 64  # compiled functions, and sets of derivatives, that a process keeps


def compile_functions(
    arguments: Sequence[sp.Symbol],
    expressions: Sequence[sp.Expr],
    backend: str | ModuleType = "numpy",
    stages: Stages = (),
    broadcast: bool = True,
) -> ArrayFunction:
    """Compile expressions into one function of arrays, with their common subexpressions computed once.

    arguments: the symbols, in the order of the arrays.
    stages: (symbol, expression) pairs computed first, in order; later stages and `expressions` may use their symbols.
    backend: "numpy", "jax" (imported only then; the function can be traced, differentiated and jitted), "interval" (the
    function takes Intervals and arrays, and gives Intervals where its value depends on one; with `broadcast=False`) or a module
    of the functions and operations of another arithmetic, likewise.

    Returns a function of arrays that broadcast together; it gives a tuple with one array per expression, all of the
    broadcast shape (constants included; NumPy arrays may be read-only views), or with `broadcast=False` the values as they come:
    those of constants are numbers.  Floating-point warnings are silenced: the caller looks at the values.
    Raises NumbersError where a number in them is beyond the doubles, as one of a derivative may be.
    What was compiled last is kept: a problem that is solved again, on another grid or from another start, finds it.
    """
    return _compiled(tuple(arguments), tuple(expressions), backend, tuple(stages), broadcast)


@lru_cache(maxsize=KEPT)
def _compiled(
    arguments: tuple[sp.Symbol, ...],
    given: tuple[sp.Expr, ...],
    backend: str | ModuleType,
    first: tuple[tuple[sp.Symbol, sp.Expr], ...],
    broadcast: bool,
) -> ArrayFunction:
    stages, expressions = in_stages(first, given)
    plain = [sp.Symbol(f"argument_{k}") for k in range(len(arguments))]
    names = dict(zip(arguments, plain, strict=True))
    reduced = [expression.xreplace(names) for expression in expressions]
    staged: list[tuple[sp.Symbol, sp.Expr]] = []
    needed = set().union(*(expression.free_symbols for expression in reduced))
    for symbol, expression in reversed(stages):
        if symbol in needed:
            staged.insert(0, (symbol, expression.xreplace(names)))
            needed |= expression.free_symbols
    arrays = array_module(backend)
    own = arrays is intervals or not isinstance(backend, str)
    raw = sp.lambdify(
        plain,
        reduced,
        modules=[functions.namespace(arrays) | {"power": arrays.power if own else _power}, vars(arrays) if own else backend],
        printer=_printer(backend == "jax"),
        cse=lambda outputs: _common_subexpressions(staged, outputs),
    )

    for expression in (*reduced, *(expression for _, expression in staged)):
        for number in expression.atoms(sp.Number):
            if number.is_finite and not math.isfinite(as_double(number)):  # bounds that are infinite are meant
                raise NumbersError(
                    f"numbers of the case overflow: {sp.sstr(number.n(3))} arises among its expressions and their derivatives; "
                    "give states, actions and cost smaller units"
                )

    def evaluate(*values: Any) -> tuple[Any, ...]:
        with np.errstate(all="ignore"):
            outputs = raw(*values)
        if not broadcast:
            return tuple(outputs)
        shape, dtype = np.broadcast_shapes(*(np.shape(value) for value in values)), arrays.result_type(*values, 1.0)
        return tuple(arrays.broadcast_to(arrays.asarray(output, dtype=dtype), shape) for output in outputs)

    return evaluate


def in_stages(stages: Stages, expressions: Sequence[sp.Expr]) -> tuple[list[tuple[sp.Symbol, sp.Expr]], list[sp.Expr]]:
    """Cut large expressions into stages of bounded size: neither derivatives nor Python's compiler meet a large one.

    Returns longer stages and the expressions in terms of them; small expressions stay as they are.
    """
    longer: list[tuple[sp.Symbol, sp.Expr]] = []
    symbols: dict[sp.Expr, sp.Symbol] = {}
    done: dict[sp.Expr, tuple[sp.Expr, int]] = {}
    first = len(stages)

    def part(expression: sp.Expr) -> sp.Expr:
        if not expression.args:
            return expression
        if expression not in symbols:
            symbols[expression] = sp.Symbol(f"_part_{first + len(symbols)}")
            longer.append((symbols[expression], expression))
        return symbols[expression]

    def cut(expression: sp.Expr) -> tuple[sp.Expr, int]:
        if not expression.args:
            return expression, 1
        if expression not in done:
            arguments, sizes = zip(*map(cut, expression.args), strict=True)
            group = {sp.Add: 16, sp.Mul: 4}.get(expression.func, len(arguments))
            while len(arguments) > group:
                chunks = [arguments[k : k + group] for k in range(0, len(arguments), group)]
                arguments = tuple(part(expression.func(*chunk)) for chunk in chunks)
                sizes = (1,) * len(arguments)
            if sum(sizes) >= 30:
                arguments, sizes = tuple(map(part, arguments)), (1,) * len(arguments)
            same = all(new is old for new, old in zip(arguments, expression.args, strict=False))
            same = same and len(arguments) == len(expression.args)
            done[expression] = expression if same else expression.func(*arguments), 1 + sum(sizes)
        return done[expression]

    for symbol, expression in stages:
        longer.append((symbol, cut(expression)[0]))
    return longer, [cut(expression)[0] for expression in expressions]


def differentiate(
    expressions: Sequence[sp.Expr], variables: Sequence[sp.Symbol], stages: Stages = ()
) -> tuple[list[tuple[sp.Symbol, sp.Expr]], list[list[sp.Expr]], list[list[list[sp.Expr]]]]:
    """Differentiate expressions twice in `variables`, through the stages they depend on (forward mode).

    Returns (stages, gradient, hessian): `gradient[e][a]` and `hessian[e][a][b]` in terms of the original symbols and of
    the returned stages, which are the given ones followed by the derivatives of each.  The size grows with the number
    of stages, not with the nesting, because no stage is substituted into another.
    """
    stages, expressions = in_stages(stages, expressions)
    first: dict[sp.Symbol, list[sp.Expr]] = {}
    second: dict[sp.Symbol, list[list[sp.Expr]]] = {}
    longer: list[tuple[sp.Symbol, sp.Expr]] = []
    count = len(variables)

    def chain(expression: sp.Expr) -> tuple[list[sp.Expr], list[list[sp.Expr]]]:
        inner = sorted((symbol for symbol in expression.free_symbols if any(first.get(symbol, ()))), key=str)
        partial = _partials(expression, inner)
        outer = _partials(expression, variables)
        # dE/da = E_a + sum_k E_k dk/da
        gradient = [outer[variable] + sum(partial[k] * first[k][a] for k in inner) for a, variable in enumerate(variables)]
        own = [_partials(outer[variable], variables) for variable in variables]
        cross = [_partials(outer[variable], inner) for variable in variables]
        mixed = {(k, m): value for k in inner for m, value in _partials(partial[k], inner).items() if value != 0}
        hessian = [[sp.S.Zero] * count for _ in range(count)]
        for a in range(count):
            for b in range(a, count):
                # d2E/dadb = E_ab + sum_k (E_ak dk/db + E_bk dk/da + E_k d2k/dadb) + sum_kl E_kl dk/da dl/db
                terms = [own[a][variables[b]]]
                for k in inner:
                    terms += [cross[a][k] * first[k][b], cross[b][k] * first[k][a], partial[k] * second[k][a][b]]
                terms += [value * first[k][a] * first[m][b] for (k, m), value in mixed.items()]
                hessian[a][b] = hessian[b][a] = sp.Add(*(term for term in terms if term != 0))
        return gradient, hessian

    def named(name: str, value: sp.Expr) -> sp.Expr:
        if not value.args:
            return value
        symbol = sp.Symbol(name)
        longer.append((symbol, value))
        return symbol

    for symbol, expression in stages:
        gradient, hessian = chain(expression)
        longer.append((symbol, expression))
        first[symbol] = [named(f"{symbol}_{a}", value) for a, value in enumerate(gradient)]
        second[symbol] = [[sp.S.Zero] * count for _ in range(count)]
        for a in range(count):
            for b in range(a, count):
                second[symbol][a][b] = second[symbol][b][a] = named(f"{symbol}_{a}_{b}", hessian[a][b])
    derivatives = [chain(expression) for expression in expressions]
    return longer, [gradient for gradient, _ in derivatives], [hessian for _, hessian in derivatives]


def _partials(expression: sp.Expr, symbols: Sequence[sp.Symbol]) -> dict[sp.Symbol, sp.Expr]:
    """Return the derivative in every symbol; those that the expression does not hold cost nothing."""
    held = expression.free_symbols
    return {symbol: sp.diff(expression, symbol) if symbol in held else sp.S.Zero for symbol in symbols}


def _common_subexpressions(staged: Stages, outputs: sp.Expr) -> tuple[list[tuple[sp.Symbol, sp.Expr]], Any]:
    """Return the stages and all shared subexpressions in an order in which they can be computed, and the reduced outputs."""
    symbols = [symbol for symbol, _ in staged]
    fresh = sp.numbered_symbols("shared_")
    shared, reduced = sp.cse([*(expression for _, expression in staged), *outputs], symbols=fresh, list=False)
    pending = [*shared, *zip(symbols, reduced[: len(staged)], strict=True)]
    ordered: list[tuple[sp.Symbol, sp.Expr]] = []
    waiting = {symbol for symbol, _ in pending}
    while pending:
        late = []
        for symbol, expression in pending:
            if expression.free_symbols & waiting:
                late.append((symbol, expression))
            else:
                ordered.append((symbol, expression))
                waiting.discard(symbol)
        pending = late
    return ordered, list(reduced[len(staged) :])


def array_module(backend: str | ModuleType) -> Any:
    """Return `numpy`, `jax.numpy` (imported only here), `intervals` or the given module.  Raises ValueError."""
    if isinstance(backend, ModuleType):
        return backend
    if backend == "numpy":
        return np
    if backend == "interval":
        return intervals
    if backend == "jax":
        import jax.numpy

        return jax.numpy
    raise ValueError(f"backend: expected 'numpy', 'jax', 'interval' or a module, got {backend!r}")


def _power(base: Any, exponent: int) -> Any:
    """Return x**n for an integer n by repeated multiplication, several times faster than NumPy's general power."""
    result: Any = None
    square, rest = base, abs(exponent)
    while rest:
        if rest & 1:
            result = square if result is None else result * square
        rest >>= 1
        if rest:
            square = square * square
    return 1.0 / result if exponent < 0 else result


@lru_cache(maxsize=2)
def _printer(jax: bool) -> Any:
    """Return SymPy's printer for JAX or NumPy, with constants printed to the last bit and integer powers by multiplication."""
    from sympy.printing.numpy import JaxPrinter, NumPyPrinter
    from sympy.printing.precedence import PRECEDENCE

    parent = JaxPrinter if jax else NumPyPrinter

    class Printer(parent):  # type: ignore[misc, valid-type]
        def _print_Float(self, expression: sp.Float) -> str:
            return repr(float(expression))

        def _print_Pow(self, expression: sp.Pow, rational: bool = False) -> str:
            base, exponent = expression.args
            if exponent.is_Integer and exponent not in (2, -1):
                return f"power({self._print(base)}, {int(exponent)})"
            if exponent == -1:
                return f"1.0/{self.parenthesize(base, PRECEDENCE['Pow'])}"
            return super()._print_Pow(expression, rational=rational)

    return Printer(
        {
            "fully_qualified_modules": False,
            "inline": True,
            "allow_unknown_functions": True,
            "user_functions": {},
        }
    )
