"""Interval arithmetic on arrays: ranges of the functions of a case over boxes of actions.

`compile_functions(..., backend="interval")` compiles expressions to functions of `Interval` and of plain arrays, which are
points. The range of an operation contains all its values on its arguments' ranges (Moore 1966), in floating point: ends are
not rounded outward, the caller adds its own margin. A value that may be undefined has the range [-inf, inf].

Beside its ends a range knows how smooth the function is on the box, `order`: 2 where no kink was met, 1 where a maximum,
minimum or absolute value may change sides (Lipschitz), 0 where it may jump. A kink that the end of a box touches, up to rounding,
counts as met: the derivatives that are given at that end may be those of the other side. The derivatives that `functions` gives
almost everywhere have the hull of both sides as their range there: a Clarke gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray
_TOUCH = 1e-15  # relative difference of two numbers that may be rounding


@dataclass(frozen=True, slots=True)
class Interval:
    """Hold ranges [lower, upper] and their smoothness `order` (0, 1, 2), arrays that broadcast together."""

    lower: Array
    upper: Array
    order: Any = 2

    __array_ufunc__ = None  # array + Interval is the Interval's business

    def __neg__(self) -> Interval:
        return Interval(-self.upper, -self.lower, self.order)

    def __add__(self, other: Any) -> Interval:
        if isinstance(other, Interval):
            return _defined(self.lower + other.lower, self.upper + other.upper, _least(self.order, other.order))
        return _defined(self.lower + other, self.upper + other, self.order)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Interval:
        return self + (-other)

    def __rsub__(self, other: Any) -> Interval:
        return -self + other

    def __mul__(self, other: Any) -> Interval:
        if isinstance(other, Interval):
            corners = [_times(x, y) for x in (self.lower, self.upper) for y in (other.lower, other.upper)]
            lower = np.minimum(np.minimum(corners[0], corners[1]), np.minimum(corners[2], corners[3]))
            upper = np.maximum(np.maximum(corners[0], corners[1]), np.maximum(corners[2], corners[3]))
            return _defined(lower, upper, _least(self.order, other.order))
        low, high = _times(self.lower, other), _times(self.upper, other)
        return _defined(np.minimum(low, high), np.maximum(low, high), self.order)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Interval:
        if isinstance(other, Interval):
            result, none = self * _inverse(other), (other.lower <= 0) & (other.upper >= 0)
            # nothing may be said of 0/0
            return Interval(np.where(none, -np.inf, result.lower), np.where(none, np.inf, result.upper), result.order)
        # each end divided, as a point is: x times 1/y rounds differently
        low, high = self.lower / other, self.upper / other
        return _defined(np.minimum(low, high), np.maximum(low, high), self.order)

    def __rtruediv__(self, other: Any) -> Interval:
        return _inverse(self) * other

    def __pow__(self, exponent: Any) -> Interval:
        if isinstance(exponent, Interval):
            return exp(log(self) * exponent)
        if np.ndim(exponent) == 0 and float(exponent).is_integer():
            return power(self, int(exponent))
        return _any_power(self, np.asarray(exponent, dtype=float))

    def __rpow__(self, base: Any) -> Interval:
        return exp(self * np.log(base))


@dataclass(frozen=True, slots=True)
class Condition:
    """Hold where a comparison surely holds and where it surely fails; elsewhere it is open."""

    holds: Array
    fails: Array


def interval(value: Any, shape: tuple[int, ...]) -> Interval:
    """Return numbers or an Interval as an Interval of arrays of the given shape, [-inf, inf] where an end is not a number."""
    if not isinstance(value, Interval):
        value = Interval(value, value)
    return _defined(*(np.broadcast_to(part, shape) for part in (value.lower, value.upper, value.order)))


def _least(x: Any, y: Any) -> Any:
    if isinstance(x, int) and isinstance(y, int):
        return min(x, y)
    return np.minimum(x, y)


def _defined(lower: Array, upper: Array, order: Any) -> Interval:
    """Return the range, [-inf, inf] where an end is not a number."""
    bad = np.isnan(lower) | np.isnan(upper)
    if np.any(bad):
        lower, upper = np.where(bad, -np.inf, lower), np.where(bad, np.inf, upper)
    return Interval(lower, upper, order)


def _times(x: Any, y: Any) -> Array:
    """Multiply ends; an end 0 times an end at infinity is 0, because infinity itself is not in the range."""
    product = x * y
    if np.any(bad := np.isnan(product)):
        product = np.where(bad & ((x == 0) | (y == 0)), 0.0, product)
    return np.asarray(product)


def _inverse(x: Interval) -> Interval:
    through = (x.lower <= 0) & (x.upper >= 0)
    return Interval(np.where(through, -np.inf, 1.0 / x.upper), np.where(through, np.inf, 1.0 / x.lower), x.order)


def power(x: Any, exponent: int) -> Any:
    """Return x**n for an integer n: even powers know that they are not negative."""
    if not isinstance(x, Interval):
        return np.asarray(x, dtype=float) ** exponent
    if exponent < 0:
        return _inverse(power(x, -exponent))
    low, high = _multiplied(x.lower, exponent), _multiplied(x.upper, exponent)
    if exponent % 2:
        return Interval(low, high, x.order)
    least = np.where((x.lower <= 0) & (x.upper >= 0), 0.0 if exponent else 1.0, np.minimum(low, high))
    return Interval(least, np.maximum(low, high), x.order)


def _multiplied(base: Array, exponent: int) -> Array:
    """Return base**n, n >= 0, by the multiplications that `compilation` does for points."""
    result, square = np.ones_like(base), base
    first = True
    while exponent:
        if exponent & 1:
            result = square if first else result * square
            first = False
        exponent >>= 1
        if exponent:
            square = square * square
    return result


def _any_power(x: Interval, exponent: Array) -> Interval:
    """Return x**p for numbers p: monotone for x >= 0; for x < 0 defined for integers p alone, monotone on either side of 0."""
    low, high = np.power(x.lower, exponent), np.power(x.upper, exponent)
    least, most = np.minimum(low, high), np.maximum(low, high)
    through = (x.lower < 0) & (x.upper > 0)
    least = np.where(through & (exponent > 0) & (np.mod(exponent, 2) == 0), 0.0, least)
    undefined = (x.lower < 0) & ((np.mod(exponent, 1) != 0) | ((x.upper >= 0) & (exponent < 0)))
    return _defined(np.where(undefined, -np.inf, least), np.where(undefined, np.inf, most), x.order)


def _increasing(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def range_of(x: Any) -> Any:
        if not isinstance(x, Interval):
            return function(x)
        return _defined(function(x.lower), function(x.upper), x.order)

    return range_of


def _decreasing(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def range_of(x: Any) -> Any:
        if not isinstance(x, Interval):
            return function(x)
        return _defined(function(x.upper), function(x.lower), x.order)

    return range_of


exp, log, sqrt = _increasing(np.exp), _increasing(np.log), _increasing(np.sqrt)
sinh, tanh, arctan = _increasing(np.sinh), _increasing(np.tanh), _increasing(np.arctan)
arcsin, arccos = _increasing(np.arcsin), _decreasing(np.arccos)


def sin(x: Any) -> Any:
    """Return the range of the sine: an end of [-1, 1] where the range holds an extremum, else its values at the ends."""
    return _sine(x, 0.5 * math.pi) if isinstance(x, Interval) else np.sin(x)


def cos(x: Any) -> Any:
    """Return the range of the cosine."""
    return _sine(x, 0.0) if isinstance(x, Interval) else np.cos(x)


def _sine(x: Interval, crest: float) -> Interval:
    """Return the range of cos(x - crest): 1 at crest + 2 pi k, -1 half a turn later."""
    turn = 2.0 * math.pi
    low, high = np.cos(x.lower - crest), np.cos(x.upper - crest)

    def holds(place: float) -> Array:
        return np.asarray(np.floor((x.upper - place) / turn) > np.floor((x.lower - place) / turn))

    # arguments beyond 1e9 have no digits left for the phase
    lost = ~((np.abs(x.lower) < 1e9) & (np.abs(x.upper) < 1e9))
    upper = np.where(holds(crest) | lost, 1.0, np.maximum(low, high))
    lower = np.where(holds(crest + math.pi) | lost, -1.0, np.minimum(low, high))
    return Interval(lower, upper, x.order)


def tan(x: Any) -> Any:
    """Return the range of the tangent; [-inf, inf] across a pole."""
    if not isinstance(x, Interval):
        return np.tan(x)
    pole = ~(np.floor(x.upper / math.pi - 0.5) == np.floor(x.lower / math.pi - 0.5))
    low, high = np.tan(x.lower), np.tan(x.upper)
    pole = pole | (low > high)  # between ends that rounding puts on one side of it
    return Interval(np.where(pole, -np.inf, low), np.where(pole, np.inf, high), x.order)


def cosh(x: Any) -> Any:
    """Return the range of the hyperbolic cosine."""
    if not isinstance(x, Interval):
        return np.cosh(x)
    low, high = np.cosh(x.lower), np.cosh(x.upper)
    least = np.where((x.lower <= 0) & (x.upper >= 0), 1.0, np.minimum(low, high))
    return Interval(least, np.maximum(low, high), x.order)


def abs(x: Any) -> Any:
    """Return the range of |x|; order 1 where x may change its sign."""
    if not isinstance(x, Interval):
        return np.abs(x)
    through = (x.lower < 0) & (x.upper > 0)
    low, high = np.abs(x.lower), np.abs(x.upper)
    above, below = (_TOUCH * np.where(np.isfinite(end), end, 0.0) for end in (high, low))
    met = (x.lower <= above) & (x.upper >= -below)
    return Interval(np.where(through, 0.0, np.minimum(low, high)), np.maximum(low, high), _limited(x.order, met, 1))


def _above(x: Any, y: Any) -> Array:
    """Tell where x > y beyond rounding."""
    with np.errstate(invalid="ignore"):
        return np.asarray(x - y > _TOUCH * (np.abs(x) + np.abs(y)))


def _limited(order: Any, where_open: Array, least: int) -> Any:
    return np.where(where_open, np.minimum(order, least), order)


def sign(x: Any) -> Any:
    """Return the range of the sign; order 0 where it may change."""
    return _steps(x, np.sign)


def floor(x: Any) -> Any:
    """Return the range of the largest integer not above x; order 0 where it may change."""
    return _steps(x, np.floor)


def _steps(x: Any, function: Callable[[Any], Any]) -> Any:
    if not isinstance(x, Interval):
        return function(x)
    low, high = function(x.lower), function(x.upper)
    return Interval(low, high, _limited(x.order, low != high, 0))


def mod(x: Any, y: Any) -> Any:
    """Return the range of x - y floor(x/y); order 0 where it may jump."""
    if not isinstance(x, Interval) and not isinstance(y, Interval):
        return np.mod(x, y)
    # the turns that `np.mod` counts, exactly: x/y is monotone in either
    p, q = (z if isinstance(z, Interval) else Interval(z, z) for z in (x, y))
    with np.errstate(divide="ignore", invalid="ignore"):
        corners = np.stack(np.broadcast_arrays(*(np.floor_divide(a, b) for a in (p.lower, p.upper) for b in (q.lower, q.upper))))
    low, high = corners.min(axis=0), corners.max(axis=0)
    turns = Interval(low, high, _limited(_least(p.order, q.order), ~(low == high), 0))
    result = x - y * turns
    if isinstance(y, Interval):
        none = (y.lower <= 0) & (y.upper >= 0)  # there is no remainder of 0
        return Interval(np.where(none, -np.inf, result.lower), np.where(none, np.inf, result.upper), result.order)
    # within one turn the value runs from 0 to y
    whole = ~(turns.lower == turns.upper)
    lower = np.where(whole, np.minimum(0.0, y), result.lower)
    return Interval(lower, np.where(whole, np.maximum(0.0, y), result.upper), result.order)


def arctan2(y: Any, x: Any) -> Any:
    """Return the range of the angle of (x, y); all angles and order 0 where the box meets the cut x <= 0, y = 0."""
    if not isinstance(x, Interval) and not isinstance(y, Interval):
        return np.arctan2(y, x)
    y, x = (z if isinstance(z, Interval) else Interval(np.asarray(z), np.asarray(z)) for z in (y, x))
    cut = (x.lower <= 0) & (y.lower <= 0) & (y.upper >= 0)
    # away from the cut the angle is monotone in x and in y, so its extremes are at the corners
    corners = [np.arctan2(q, p) for q in (y.lower, y.upper) for p in (x.lower, x.upper)]
    lower = np.minimum(np.minimum(corners[0], corners[1]), np.minimum(corners[2], corners[3]))
    upper = np.maximum(np.maximum(corners[0], corners[1]), np.maximum(corners[2], corners[3]))
    order = _limited(_least(x.order, y.order), cut, 0)
    return Interval(np.where(cut, -math.pi, lower), np.where(cut, math.pi, upper), order)


def _ends(x: Any) -> tuple[Any, Any, Any]:
    return (x.lower, x.upper, x.order) if isinstance(x, Interval) else (x, x, 2)


def maximum(x: Any, y: Any) -> Any:
    """Return the range of the larger of two; order 1 where either may be the larger."""
    if not isinstance(x, Interval) and not isinstance(y, Interval):
        return np.maximum(x, y)
    (a, b, first), (c, d, second) = _ends(x), _ends(y)
    order = np.where(_above(a, d), first, np.where(_above(c, b), second, np.minimum(np.minimum(first, second), 1)))
    return Interval(np.maximum(a, c), np.maximum(b, d), order)


def minimum(x: Any, y: Any) -> Any:
    """Return the range of the smaller of two; order 1 where either may be the smaller."""
    return -maximum(-x, -y)


def greater(x: Any, y: Any) -> Any:
    """Tell where x > y holds or fails; equal ends are equal in floating point, where a point is computed as an end is."""
    if not isinstance(x, Interval) and not isinstance(y, Interval):
        return np.greater(x, y)
    (a, b, _), (c, d, _) = _ends(x), _ends(y)
    return Condition(_above(a, d), _above(c, b) | np.equal(c, b))


def greater_equal(x: Any, y: Any) -> Any:
    """Tell where x >= y holds or fails."""
    if not isinstance(x, Interval) and not isinstance(y, Interval):
        return np.greater_equal(x, y)
    (a, b, _), (c, d, _) = _ends(x), _ends(y)
    return Condition(_above(a, d) | np.equal(a, d), _above(c, b))


def equal(x: Any, y: Any) -> Any:
    """Tell where x == y holds or fails."""
    if not isinstance(x, Interval) and not isinstance(y, Interval):
        return np.equal(x, y)
    (a, b, _), (c, d, _) = _ends(x), _ends(y)
    return Condition((a == b) & (c == d) & (a == c), (a > d) | (c > b))


def _condition(x: Any) -> Condition:
    return x if isinstance(x, Condition) else Condition(np.asarray(x), ~np.asarray(x))


def logical_and(x: Any, y: Any) -> Any:
    """Tell where both hold."""
    if not isinstance(x, Condition) and not isinstance(y, Condition):
        return np.logical_and(x, y)
    x, y = _condition(x), _condition(y)
    return Condition(x.holds & y.holds, x.fails | y.fails)


def logical_or(x: Any, y: Any) -> Any:
    """Tell where at least one holds."""
    if not isinstance(x, Condition) and not isinstance(y, Condition):
        return np.logical_or(x, y)
    x, y = _condition(x), _condition(y)
    return Condition(x.holds | y.holds, x.fails & y.fails)


def logical_not(x: Any) -> Any:
    """Tell where it fails."""
    return Condition(x.fails, x.holds) if isinstance(x, Condition) else np.logical_not(x)


def where(condition: Any, x: Any, y: Any) -> Any:
    """Return the range of the chosen value; where the condition is open, that of both, with order 0."""
    if not isinstance(condition, Condition) and not isinstance(x, Interval) and not isinstance(y, Interval):
        return np.where(condition, x, y)
    condition = _condition(condition)
    (a, b, first), (c, d, second) = _ends(x), _ends(y)
    lower = np.where(condition.holds, a, np.where(condition.fails, c, np.minimum(a, c)))
    upper = np.where(condition.holds, b, np.where(condition.fails, d, np.maximum(b, d)))
    return Interval(lower, upper, np.where(condition.holds, first, np.where(condition.fails, second, 0)))


def sum(x: Any, axis: int, keepdims: Literal[True]) -> Any:
    """Sum over an array axis."""
    if not isinstance(x, Interval):
        return np.sum(x, axis=axis, keepdims=keepdims)
    order = np.min(np.broadcast_to(x.order, np.shape(x.lower)), axis=axis, keepdims=keepdims)
    return _defined(x.lower.sum(axis=axis, keepdims=keepdims), x.upper.sum(axis=axis, keepdims=keepdims), order)
