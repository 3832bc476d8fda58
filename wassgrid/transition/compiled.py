"""What all compiled functions share: how they are compiled, and the boundaries.

Kernels receive arrays only, never functions, so each is compiled once per machine and cached. Those that Python calls are
`driver`s: `kernel(low, high, ...)` does the part [low, high) of a loop, without the interpreter's lock, and `threads.spread` cuts
the loop. Every output element is written in one part, in an order that does not depend on the cut: results are bit-identical for
any number of threads.

Helpers become part of the drivers that call them; called from Python they are plain Python. (An entry from Python that unpacks a
dozen arrays took a third of their compilation.) Those that allocate nothing are compiled without Numba's run time: counting
references to the arrays that they are handed took nine tenths of the time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import numba
from numba import jit, types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.registry import CPUDispatcher

CLAMP, REFLECT, PERIODIC, PROJECT, TRUNCATE = 0, 1, 2, 3, 4
# an open axis goes on until no law meets its ends
BOUNDARIES = {
    "clamp": CLAMP, "reflect": REFLECT, "periodic": PERIODIC, "project": PROJECT, "truncate": TRUNCATE, "open": CLAMP,
}  # fmt: skip
TAIL = 8.0  # standard deviations: the normal density beyond is 1e-14 of its peak

_options: dict[str, Any] = {"nopython": True, "no_cfunc_wrapper": True, "error_model": "numpy"}


_NEWEST = (0, 68)  # Numba whose libraries of code are known to be as `_Part` takes them; with later ones helpers compile twice


class _Part(JITCodeLibrary):
    """Code that is never run by itself, only linked into that of its callers: optimised and translated there, and not before."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True

    @property
    def codegen(self) -> Any:
        return self

    def set_env(self, name: str, environment: Any) -> None:
        """Do nothing: there is no place in memory that would hold the environment."""


class _PartCompiler(Compiler):
    def __init__(self, typing: Any, target: Any, library: Any, *arguments: Any) -> None:
        super().__init__(typing, target, _Part(target.codegen(), "part"), *arguments)


class Helper(CPUDispatcher):
    """A function that compiled functions call, and that is plain Python where Python calls it.

    Compiled once for all callers, and for integers that are literal too.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        options = {"no_cpython_wrapper": True, **_options, **options}
        known = tuple(int(part) for part in numba.__version__.split(".")[:2]) <= _NEWEST
        super().__init__(function, targetoptions=options, pipeline_class=_PartCompiler if known else Compiler)

    def __call__(self, *arguments: Any) -> Any:
        return self.py_func(*arguments)

    def get_call_template(self, args: Any, kws: Any) -> Any:
        return super().get_call_template([types.unliteral(kind) for kind in args], kws)


helper = Helper
allocating_nothing = partial(Helper, _nrt=False)
_sums: dict[str, Any] = {"_nrt": False, "fastmath": {"reassoc", "nsz", "contract"}}
contraction: Any = partial(Helper, **_sums)  # the compiler may reorder the sum of a loop, once and for all


def cached(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function that Python calls, without the interpreter's lock.

    Cached until any compiled source changes; for this process alone where no folder can be written or the disk is full.
    """
    try:
        compiled = jit(cache=True, nogil=True, **options)(function)
    except RuntimeError:  # of Numba, which finds no folder
        return jit(nogil=True, **options)(function)
    # Numba's cache sees changes of a function's own file, not of the files of those it calls
    with suppress(AttributeError):
        compiled._cache._cache_file._source_stamp = sources()
    keep, load = compiled._cache.save_overload, compiled._cache.load_overload

    def keep_if_possible(signature: Any, data: Any) -> None:
        with suppress(OSError):
            keep(signature, data)

    def load_what_was_asked_for(signature: Any, context: Any) -> Any:
        # Of two processes that begin together, each gives number 1 to another signature: code for integers would read floats
        found = load(signature, context)
        arguments = tuple(getattr(signature, "args", signature))
        return found if found is not None and tuple(found.signature.args) == arguments else None

    compiled._cache.save_overload = keep_if_possible
    compiled._cache.load_overload = load_what_was_asked_for
    return compiled


driver: Any = partial(cached, **_options)


contracting_driver: Any = partial(driver, **_sums)


@cache
def sources() -> str:
    """Return a digest of all files that hold compiled functions."""
    package = Path(__file__).resolve().parent.parent
    files = sorted(path for room in ("transition", "certificate", "estimate") for path in (package / room).rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


@allocating_nothing
def fold(e, n, boundary):
    """Return the node that extended index e falls on: clamped, reflected (ends included) or wrapped."""
    if boundary == PERIODIC:
        return e % n
    if boundary == REFLECT:
        period = 2 * (n - 1)
        e = e % period
        return e if e < n else period - e
    return min(max(e, 0), n - 1)


@allocating_nothing
def slack(s, h, boundary):
    """Return how far beyond an end a mean may be before its law moves no more; negative: it winds or folds."""
    if boundary == REFLECT or boundary == PERIODIC:
        return -1.0
    return TAIL * s + 2.0 * h if boundary == PROJECT and s > 0.0 else 0.0


@allocating_nothing
def measured(m, s, h, n, boundary):
    """Bring a mean, measured from node 0, within the axis; return it and whether it was beyond an end that stops it."""
    beyond = slack(s, h, boundary)
    if beyond >= 0.0:
        low, high = -beyond, (n - 1) * h + beyond
        return min(max(m, low), high), m < low or m > high
    if boundary == PERIODIC:
        return m % (n * h), False
    return m % (2 * (n - 1) * h), False
