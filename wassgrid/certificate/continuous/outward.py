"""Sums and products of ranges, rounded outward, in one pass over the boxes.

A range is an Interval of arrays (K,), or a number. Ends are moved outward by more than the rounding of the operation and of what
a library's elementary functions lose; an end that is not a number opens the range to [-inf, inf].

The loops count from 0 and choose without branches: so the compiler does several boxes in one instruction.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wassgrid.problem.intervals import Interval
from wassgrid.transition.compiled import allocating_nothing, driver

Array = np.ndarray
UP, DOWN = 1.0 + 2.0**-49, 1.0 - 2.0**-49  # 8 units in the last place: the worst of a library's elementary functions
TINY = 1e-300
_LARGEST = float(np.finfo(float).max)


def is_zero(x: Any) -> bool:
    """Tell whether x is the number 0."""
    return isinstance(x, float | int) and x == 0


def as_ends(x: Any) -> Interval:
    """Return a range or number as an Interval."""
    return x if isinstance(x, Interval) else Interval(np.asarray(x, dtype=float), np.asarray(x, dtype=float))


def rounded(x: Any) -> Interval:
    """Round outward."""
    return _filled(_rounded, *_columns(x))


def add(x: Any, y: Any) -> Any:
    """Return x + y."""
    if is_zero(x):
        return y
    if is_zero(y):
        return x
    return _combined(_shifted, _added, x, y)


def times(x: Any, y: Any) -> Any:
    """Return x y; an end 0 times an end at infinity is 0, because infinity itself is not in the range."""
    if is_zero(x) or is_zero(y):
        return 0.0
    for one, other in ((x, y), (y, x)):
        if isinstance(one, float | int) and one == 1:
            return other
    return _combined(_scaled, _multiplied, x, y)


def square(x: Any) -> Any:
    """Return x^2, which is not negative."""
    return times(x, x) if isinstance(x, float | int) else _filled(_squared, *_columns(x))


def _combined(with_number: Any, with_range: Any, x: Any, y: Any) -> Interval:
    """Return an operation in which x and y may change places, of a number and a range or of two ranges."""
    if isinstance(y, float | int):
        x, y = y, x
    if isinstance(x, float | int):
        return _filled(with_number, float(x), *_columns(y))
    return _filled(with_range, *_pair(x, y))


def _filled(kernel: Any, *operands: Any) -> Interval:
    """Return the range that a kernel makes of its operands, the last of them arrays (K,)."""
    low, high = np.empty_like(operands[-1]), np.empty_like(operands[-1])
    kernel(low.size, *operands, low, high)
    return Interval(low, high)


def _columns(x: Any) -> tuple[Array, Array]:
    """Return the ends as arrays (K,), contiguous and writable: the kernels are compiled for no others."""
    ends = as_ends(x)
    return _column(ends.lower), _column(ends.upper)


def _column(x: Any) -> Array:
    flags = x.flags if isinstance(x, np.ndarray) else None
    if flags is not None and x.ndim == 1 and flags.c_contiguous and flags.writeable and x.dtype == np.float64:
        return x
    return np.array(x, dtype=float).reshape(-1)


def _pair(x: Any, y: Any) -> tuple[Array, Array, Array, Array]:
    (a, b), (c, d) = _columns(x), _columns(y)
    if a.size != c.size or a.size != b.size or c.size != d.size:
        a, b, c, d = (np.array(part) for part in np.broadcast_arrays(a, b, c, d))
    return a, b, c, d


@allocating_nothing
def _below(x):
    low = x * (DOWN if x > 0.0 else UP) - TINY
    return low if low < _LARGEST else _LARGEST  # what overflows is finite


@allocating_nothing
def _over(x):
    high = x * (UP if x > 0.0 else DOWN) + TINY
    return high if high > -_LARGEST else -_LARGEST


@allocating_nothing
def _part(x, y):
    p = x * y
    return 0.0 if p != p and (x == 0.0 or y == 0.0) else p


@driver
def _rounded(n, a, b, low, high):
    for k in range(n):
        bad = (a[k] != a[k]) | (b[k] != b[k])
        low[k], high[k] = -np.inf if bad else _below(a[k]), np.inf if bad else _over(b[k])


@driver
def _shifted(n, x, a, b, low, high):
    for k in range(n):
        p, q = x + a[k], x + b[k]
        bad = (p != p) | (q != q)
        low[k], high[k] = -np.inf if bad else _below(p), np.inf if bad else _over(q)


@driver
def _added(n, a, b, c, d, low, high):
    for k in range(n):
        p, q = a[k] + c[k], b[k] + d[k]
        bad = (p != p) | (q != q)
        low[k], high[k] = -np.inf if bad else _below(p), np.inf if bad else _over(q)


@driver
def _scaled(n, x, a, b, low, high):
    for k in range(n):
        p, q = _part(x, a[k]), _part(x, b[k])
        bad = (p != p) | (q != q)
        least, most = p if p < q else q, q if p < q else p
        low[k], high[k] = -np.inf if bad else _below(least), np.inf if bad else _over(most)


@driver
def _multiplied(n, a, b, c, d, low, high):
    for k in range(n):
        p, q, r, s = _part(a[k], c[k]), _part(a[k], d[k]), _part(b[k], c[k]), _part(b[k], d[k])
        bad = (p != p) | (q != q) | (r != r) | (s != s)
        least, most = p if p < q else q, q if p < q else p
        under, over = r if r < s else s, s if r < s else r
        least, most = least if least < under else under, most if most > over else over
        low[k], high[k] = -np.inf if bad else _below(least), np.inf if bad else _over(most)


@driver
def _squared(n, a, b, low, high):
    for k in range(n):
        p, q = a[k] * a[k], b[k] * b[k]
        least, most = p if p < q else q, q if p < q else p
        through = a[k] <= 0.0 and b[k] >= 0.0
        bad = (p != p) | (q != q)
        low[k], high[k] = -np.inf if bad else _below(0.0 if through else least), np.inf if bad else _over(most)
