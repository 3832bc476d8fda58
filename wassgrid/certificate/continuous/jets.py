"""Second-order intervals: ranges of a function, its gradient and Hessian over boxes, and of the kinks that it has inside.

`compile_functions(..., backend=jets)` compiles expressions to functions of `Jet` and of numbers. Kinks are no derivatives: what
counts is by how much slopes may jump, and which way. Along a line in the direction of variable k through the box, `up[k]` bounds
the sum of all upward jumps of the slope (convex kinks), `down[k]` that of the downward ones; `hessian` is the range of the second
derivatives wherever they exist, `gradient` that of all slopes. Where a value may jump, or is not defined, `broken` is set and
only `value` counts.

All ends are rounded outward, by more than the rounding of each operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from wassgrid.certificate.continuous.outward import UP as _UP
from wassgrid.certificate.continuous.outward import add as _add
from wassgrid.certificate.continuous.outward import as_ends as _range
from wassgrid.certificate.continuous.outward import is_zero as _is_zero
from wassgrid.certificate.continuous.outward import rounded as _out
from wassgrid.certificate.continuous.outward import square as _square
from wassgrid.certificate.continuous.outward import times as _times
from wassgrid.problem import intervals
from wassgrid.problem.intervals import Interval

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Jet:
    """Hold value, gradient (n), hessian (n (n + 1)/2, rows of the upper triangle), kinks up and down (n) and broken, over K
    boxes.

    Entries are Intervals of arrays (K,), or numbers where the function does not vary; widths (n): of the boxes.
    """

    value: Any
    gradient: tuple[Any, ...]
    hessian: tuple[Any, ...]
    up: tuple[Any, ...]
    down: tuple[Any, ...]
    broken: Any
    widths: tuple[Any, ...]

    __array_ufunc__ = None

    def second(self, k: int, m: int) -> Any:
        """Return the range of the second derivative in variables k and m."""
        return self.hessian[place(len(self.gradient), k, m)]

    def __neg__(self) -> Jet:
        flip = tuple(map(_negative, self.gradient)), tuple(map(_negative, self.hessian))
        return Jet(_negative(self.value), *flip, self.down, self.up, self.broken, self.widths)

    def __add__(self, other: Any) -> Jet:
        if not isinstance(other, Jet):
            return Jet(
                _add(self.value, other), self.gradient, self.hessian, self.up, self.down, self.broken, self.widths
            )
        return Jet(
            _add(self.value, other.value),
            tuple(map(_add, self.gradient, other.gradient)),
            tuple(map(_add, self.hessian, other.hessian)),
            tuple(map(_sum, self.up, other.up)),
            tuple(map(_sum, self.down, other.down)),
            _either(self.broken, other.broken),
            self.widths,
        )

    __radd__ = __add__

    def __sub__(self, other: Any) -> Jet:
        return self + (-other)

    def __rsub__(self, other: Any) -> Jet:
        return -self + other

    def __mul__(self, other: Any) -> Jet:
        if not isinstance(other, Jet):
            return _composed(self, _times(self.value, other), other, 0.0)
        if other is self:
            return power(self, 2)
        x, y, n = self.value, other.value, len(self.gradient)
        p, q = self.gradient, other.gradient
        # (x y)_kl = x y_kl + y x_kl + x_k y_l + x_l y_k
        hessian = []
        for k in range(n):
            for m in range(k, n):
                outer = _times(2.0, _times(p[k], q[k])) if k == m else _add(_times(p[k], q[m]), _times(p[m], q[k]))
                hessian.append(_add(_add(_times(x, other.second(k, m)), _times(y, self.second(k, m))), outer))
        return Jet(
            _times(x, y),
            tuple(_add(_times(x, q[k]), _times(y, p[k])) for k in range(n)),
            tuple(hessian),
            tuple(_sum(_turned(x, other.up[k], other.down[k]), _turned(y, self.up[k], self.down[k])) for k in range(n)),
            tuple(_sum(_turned(x, other.down[k], other.up[k]), _turned(y, self.down[k], self.up[k])) for k in range(n)),
            _either(self.broken, other.broken),
            self.widths,
        )

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Jet:
        if isinstance(other, Jet):
            return self * power(other, -1)
        return _composed(self, _out(self.value / other), _out(1.0 / _range(other)), 0.0)

    def __rtruediv__(self, other: Any) -> Jet:
        return power(self, -1) * other

    def __pow__(self, exponent: Any) -> Any:
        if isinstance(exponent, Jet):
            return exp(log(self) * exponent)
        if float(exponent).is_integer():
            return power(self, int(exponent))
        x, p = self.value, float(exponent)
        return _composed(self, _out(x**p), _times(p, _out(x ** (p - 1.0))), _times(p * (p - 1.0), _out(x ** (p - 2.0))))

    def __rpow__(self, base: Any) -> Any:
        return exp(self * math.log(base))


@dataclass(frozen=True, slots=True)
class Saw(Jet):
    """A remainder c + b mod(x, y) over boxes in which it may jump once: what functions that join both sides again need.

    before, after: ranges of the branches of lower and of higher x, each gone on with over the whole box; ends: their values where
    they meet (numbers); crossed (K): where the box may hold the jump; rises: whether the branches rise with x.
    """

    before: Interval
    after: Interval
    ends: tuple[float, float]
    crossed: Array
    rises: bool

    __array_ufunc__ = None

    def __neg__(self) -> Jet:
        return self._moved(Jet.__neg__(self), -self.before, -self.after, (-self.ends[0], -self.ends[1]), not self.rises)

    def __add__(self, other: Any) -> Jet:
        moved = Jet.__add__(self, other)
        if not isinstance(other, int | float):
            return moved
        ends = self.ends[0] + other, self.ends[1] + other
        return self._moved(moved, _add(self.before, other), _add(self.after, other), ends, self.rises)

    __radd__ = __add__

    def __mul__(self, other: Any) -> Jet:
        moved = Jet.__mul__(self, other)
        if not isinstance(other, int | float) or other == 0:
            return moved
        before, after = _times(self.before, other), _times(self.after, other)
        return self._moved(moved, before, after, (self.ends[0] * other, self.ends[1] * other), self.rises == (other > 0))

    __rmul__ = __mul__

    def _moved(self, jet: Jet, before: Interval, after: Interval, ends: tuple[float, float], rises: bool) -> Saw:
        parts = (jet.value, jet.gradient, jet.hessian, jet.up, jet.down, jet.broken, jet.widths)
        return Saw(*parts, before, after, ends, self.crossed, rises)

    def joined(self, function: Callable[[Any], Any]) -> Jet:
        """Return function(self): where it takes the same value at both ends, to rounding, it has a kink there, not a jump."""
        smooth = self.broken & ~self.crossed if self.broken is not False else False
        whole = Jet(self.value, self.gradient, self.hessian, self.up, self.down, self.broken, self.widths)
        first, second = (_middle(function(_constant(end, self))).item() for end in self.ends)
        if not abs(first - second) <= 1e-14 * max(abs(first), abs(second), 1e-2):
            return function(whole)
        one = function(Jet(self.before, self.gradient, self.hessian, self.up, self.down, smooth, self.widths))
        if not np.any(self.crossed):
            return one
        two = function(Jet(self.after, self.gradient, self.hessian, self.up, self.down, smooth, self.widths))
        hull = lambda p, q: _hull(p, q, ~self.crossed, np.zeros_like(self.crossed))  # noqa: E731
        up: list[Any] = []
        down: list[Any] = []
        lost = np.zeros_like(self.crossed)
        for k, slope in enumerate(self.gradient):
            ends, jump = _range(slope), _add(two.gradient[k], _negative(one.gradient[k]))
            if not _is_zero(slope):
                rising, falling = np.asarray(ends.lower >= 0.0), np.asarray(ends.upper <= 0.0)
                lost = lost | (self.crossed & ~rising & ~falling)
                jump = jump if self.rises else _negative(jump)
                edge = _range(jump)
                most, least = np.where(rising, edge.upper, -edge.lower), np.where(rising, edge.lower, -edge.upper)
            else:
                most = least = np.zeros(1)
            for parts, p, q, size in ((up, one.up[k], two.up[k], most), (down, one.down[k], two.down[k], -least)):
                both = np.asarray(p) + np.asarray(q) + np.maximum(size, 0.0) * _UP
                parts.append(np.where(self.crossed, both, np.asarray(p)))
        broken = _either(_either(one.broken, two.broken), lost if np.any(lost) else False)
        return Jet(
            hull(one.value, two.value),
            tuple(map(hull, one.gradient, two.gradient)),
            tuple(map(hull, one.hessian, two.hessian)),
            tuple(up),
            tuple(down),
            broken,
            self.widths,
        )


def _middle(jet: Any) -> Any:
    ends = _range(jet.value)
    return 0.5 * (ends.lower + ends.upper)


def range_jet(low: Array, high: Array) -> Jet:
    """Return values between ends (K,) of which no derivatives are asked for."""
    return Jet(Interval(np.ascontiguousarray(low), np.ascontiguousarray(high)), (), (), (), (), False, ())


def as_range(x: Any, count: int) -> Interval:
    """Return a range or number, or the value of a jet, as an Interval of contiguous arrays (count,)."""
    ends = _range(x.value if isinstance(x, Jet) else x)
    return Interval(*(np.ascontiguousarray(np.broadcast_to(end, (count,)), dtype=float) for end in (ends.lower, ends.upper)))


def place(n: int, k: int, m: int) -> int:
    """Return where entry (k, m) stands in the upper triangle of an n x n matrix, row by row."""
    k, m = min(k, m), max(k, m)
    return k * n - k * (k - 1) // 2 + m - k


def variables(lower: list[Array], upper: list[Array]) -> list[Jet]:
    """Return the coordinates of the boxes [lower, upper], n arrays (K,) each, as jets."""
    n = len(lower)
    widths = tuple(high - low for low, high in zip(lower, upper, strict=True))
    zeros, none = (0.0,) * (n * (n + 1) // 2), (0.0,) * n
    return [
        Jet(Interval(lower[k], upper[k]), tuple(float(k == m) for m in range(n)), zeros, none, none, False, widths)
        for k in range(n)
    ]


def compose(values: Any, first: list[Any], second: list[list[Any]], inner: list[Jet]) -> Jet:
    """Return f(g_1, ..., g_d) from the ranges of f, f_i and f_ij over the ranges of the inner functions.

    (f o g)_kl = sum_i f_i g_i,kl + sum_ij f_ij g_i,k g_j,l; a kink of g_i becomes one of f with the factor f_i, its side
    turned where f_i is negative.
    """
    n, d = len(inner[0].gradient), len(inner)
    gradient = [_total(_times(first[i], inner[i].gradient[k]) for i in range(d)) for k in range(n)]
    hessian = []
    for k in range(n):
        for m in range(k, n):
            terms = [_times(first[i], inner[i].second(k, m)) for i in range(d)]
            for i in range(d):
                for j in range(d):
                    p, q = inner[i].gradient[k], inner[j].gradient[m]
                    terms.append(_times(second[i][j], _square(p) if i == j and k == m else _times(p, q)))
            hessian.append(_total(terms))
    up: list[Any] = [0.0] * n
    down: list[Any] = [0.0] * n
    broken: Any = False
    for i in range(d):
        broken = _either(broken, inner[i].broken)
        for k in range(n):
            up[k] = _sum(up[k], _turned(first[i], inner[i].up[k], inner[i].down[k]))
            down[k] = _sum(down[k], _turned(first[i], inner[i].down[k], inner[i].up[k]))
    return Jet(values, tuple(gradient), tuple(hessian), tuple(up), tuple(down), broken, inner[0].widths)


# -- ranges: an Interval, or a number --------------------------------------------------------------------------------


def _negative(x: Any) -> Any:
    return -x if not _is_zero(x) else 0.0


def _total(terms: Any) -> Any:
    result: Any = 0.0
    for term in terms:
        result = _add(result, term)
    return result


def _sum(x: Any, y: Any) -> Any:
    """Add bounds of jumps."""
    return y if _is_zero(x) else x if _is_zero(y) else (x + y) * _UP


def _either(x: Any, y: Any) -> Any:
    return y if x is False else x if y is False else x | y


def _turned(slope: Any, same: Any, other: Any) -> Any:
    """Bound the jumps of slope * f to one side: f's to that side where the slope is positive, those to the other where
    negative."""
    if (_is_zero(same) and _is_zero(other)) or _is_zero(slope):
        return 0.0
    ends = _range(slope)
    return _sum(_product(np.maximum(ends.upper, 0.0), same), _product(np.maximum(-ends.lower, 0.0), other))


def _product(x: Any, jump: Any) -> Any:
    if _is_zero(jump):
        return 0.0
    with np.errstate(invalid="ignore"):
        result = x * jump * _UP
    return np.where(np.isnan(result), np.inf, result) if np.any(np.isnan(result)) else result


def _magnitude(x: Any) -> Any:
    ends = _range(x)
    return np.maximum(np.abs(ends.lower), np.abs(ends.upper))


def _hull(x: Any, y: Any, first: Array, second: Array) -> Any:
    """Return x where `first`, y where `second`, the hull of both elsewhere."""
    if _is_zero(x) and _is_zero(y):
        return 0.0
    p, q = _range(x), _range(y)
    lower = np.where(first, p.lower, np.where(second, q.lower, np.minimum(p.lower, q.lower)))
    return Interval(lower, np.where(first, p.upper, np.where(second, q.upper, np.maximum(p.upper, q.upper))))


# -- functions -------------------------------------------------------------------------------------------------------


def _composed(x: Jet, value: Any, slope: Any, bend: Any) -> Jet:
    """Return f(x) from the ranges of f, f' and f''."""
    n, p = len(x.gradient), x.gradient
    hessian = []
    for k in range(n):
        for m in range(k, n):
            outer = 0.0 if _is_zero(bend) else _times(bend, _square(p[k]) if k == m else _times(p[k], p[m]))
            hessian.append(_add(_times(slope, x.second(k, m)), outer))
    broken = x.broken
    if not np.all(finite := np.isfinite(_range(value).lower) | np.isfinite(_range(value).upper)):
        broken = _either(broken, ~finite)
    return Jet(
        value,
        tuple(_times(slope, g) for g in p),
        tuple(hessian),
        tuple(_turned(slope, x.up[k], x.down[k]) for k in range(n)),
        tuple(_turned(slope, x.down[k], x.up[k]) for k in range(n)),
        broken,
        x.widths,
    )


def _smooth(name: str, derivatives: Callable[[Interval, Interval], tuple[Any, Any]]) -> Callable[[Any], Any]:
    of_range, of_number = getattr(intervals, name), getattr(np, name)

    def function(x: Any) -> Any:
        if not isinstance(x, Jet):
            return of_number(x)
        if isinstance(x, Saw):
            return x.joined(function)
        value = _out(of_range(_range(x.value)))
        return _composed(x, value, *derivatives(_range(x.value), value))

    return function


def _tanh_derivatives(_x: Interval, value: Interval) -> tuple[Any, Any]:
    slope = _add(1.0, -_square(value))
    return slope, _times(-2.0, _times(value, slope))


def _tan_derivatives(_x: Interval, value: Interval) -> tuple[Any, Any]:
    slope = _add(1.0, _square(value))
    return slope, _times(2.0, _times(value, slope))


def _arctan_derivatives(x: Interval, _value: Interval) -> tuple[Any, Any]:
    slope = _out(1.0 / _add(1.0, _square(x)))
    return slope, _times(-2.0, _times(x, _square(slope)))


def _arcsin_derivatives(x: Interval, _value: Interval) -> tuple[Any, Any]:
    room = _add(1.0, -_square(x))
    slope = _out(1.0 / _out(intervals.sqrt(room)))
    return slope, _times(x, _out(slope / room))


def _arccos_derivatives(x: Interval, value: Interval) -> tuple[Any, Any]:
    slope, bend = _arcsin_derivatives(x, value)
    return -slope, -bend


def _sqrt_derivatives(_x: Interval, value: Interval) -> tuple[Any, Any]:
    slope = _out(0.5 / value)
    return slope, _times(-2.0, _times(slope, _square(slope)))


exp = _smooth("exp", lambda _x, value: (value, value))
log = _smooth("log", lambda x, _value: (_out(1.0 / x), -_out(1.0 / _square(x))))
sqrt = _smooth("sqrt", _sqrt_derivatives)
sin = _smooth("sin", lambda x, value: (_out(intervals.cos(x)), -value))
cos = _smooth("cos", lambda x, value: (-_out(intervals.sin(x)), -value))
tan = _smooth("tan", _tan_derivatives)
sinh = _smooth("sinh", lambda x, value: (_out(intervals.cosh(x)), value))
cosh = _smooth("cosh", lambda x, value: (_out(intervals.sinh(x)), value))
tanh = _smooth("tanh", _tanh_derivatives)
arctan = _smooth("arctan", _arctan_derivatives)
arcsin = _smooth("arcsin", _arcsin_derivatives)
arccos = _smooth("arccos", _arccos_derivatives)


def power(x: Any, exponent: int) -> Any:
    """Return x**n for an integer n."""
    if not isinstance(x, Jet):
        return np.asarray(x, dtype=float) ** exponent
    if isinstance(x, Saw) and exponent > 1:
        return x.joined(lambda part: power(part, exponent))

    def term(n: int) -> Any:
        return 1.0 if n == 0 else x.value if n == 1 else _out(intervals.power(_range(x.value), n))

    slope, bend = _times(float(exponent), term(exponent - 1)), _times(exponent * (exponent - 1.0), term(exponent - 2))
    return _composed(x, term(exponent), slope, bend)


def maximum(x: Any, y: Any) -> Any:
    """Return the larger of two: where either may be, a convex kink at every change.

    With d = x - y the slope jumps by (|d'-| + |d'+|)/2 at a zero of d. Between two zeros d' changes its sign, so that the jumps
    along a line sum to at most sup |d'| where d' has one sign, else to that and half the variation of d'.
    """
    if not isinstance(x, Jet) and not isinstance(y, Jet):
        return np.maximum(x, y)
    x, y = _pair(x, y)
    a, b = _range(x.value), _range(y.value)
    first, second = np.asarray(a.lower >= b.upper), np.asarray(b.lower >= a.upper)
    # most boxes are far from the ends that means are clipped at
    if np.all(first):
        return x
    if np.all(second):
        return y
    value = Interval(np.maximum(a.lower, b.lower), np.maximum(a.upper, b.upper))
    n, gap, switch = len(x.gradient), x - y, ~(first | second)
    up, down = [], []
    for k in range(n):
        jump = 0.0
        if not _is_zero(gap.gradient[k]):
            slope = _magnitude(gap.gradient[k])
            ends = _range(gap.gradient[k])
            turn = _product(x.widths[k], _magnitude(gap.second(k, k))) + gap.up[k] + gap.down[k]
            jump = np.where((ends.lower >= 0) | (ends.upper <= 0), slope, slope + 0.5 * turn)
        up.append(_chosen(x.up[k], y.up[k], first, second, switch, jump))
        down.append(_chosen(x.down[k], y.down[k], first, second, switch, 0.0))
    broken: Any = False
    if x.broken is not False or y.broken is not False:
        p, q = np.asarray(x.broken), np.asarray(y.broken)
        broken = np.where(first, p, np.where(second, q, p | q))
    return Jet(
        value,
        tuple(_hull(x.gradient[k], y.gradient[k], first, second) for k in range(n)),
        tuple(_hull(p, q, first, second) for p, q in zip(x.hessian, y.hessian, strict=True)),
        tuple(up),
        tuple(down),
        broken,
        x.widths,
    )


def _chosen(p: Any, q: Any, first: Array, second: Array, switch: Array, jump: Any) -> Any:
    if _is_zero(p) and _is_zero(q) and _is_zero(jump):
        return 0.0
    return np.where(first, p, np.where(second, q, p + q + np.where(switch, jump, 0.0)))


def minimum(x: Any, y: Any) -> Any:
    """Return the smaller of two: where either may be, a concave kink at every change."""
    return -maximum(-x, -y)


def abs(x: Any) -> Any:
    """Return |x|."""
    if isinstance(x, Saw):
        return x.joined(abs)
    return maximum(x, -x) if isinstance(x, Jet) else np.abs(x)


def _constant(number: Any, like: Jet) -> Jet:
    none = (0.0,) * len(like.gradient)
    return Jet(number, none, (0.0,) * len(like.hessian), none, none, False, like.widths)


def _pair(x: Any, y: Any) -> tuple[Jet, Jet]:
    return (x if isinstance(x, Jet) else _constant(x, y)), (y if isinstance(y, Jet) else _constant(y, x))


def sign(x: Any) -> Any:
    """Return -1, 0 or 1."""
    return _steps(x, np.sign)


def floor(x: Any) -> Any:
    """Return the largest integer not above x."""
    return _steps(x, np.floor)


def _steps(x: Any, function: Callable[[Any], Any]) -> Any:
    if not isinstance(x, Jet):
        return function(x)
    ends = _range(x.value)
    low, high = function(ends.lower), function(ends.upper)
    jet = _constant(Interval(low, high), x)
    return Jet(jet.value, jet.gradient, jet.hessian, jet.up, jet.down, _either(x.broken, low != high), x.widths)


def mod(x: Any, y: Any) -> Any:
    """Return x - y floor(x/y)."""
    if not isinstance(x, Jet) and not isinstance(y, Jet):
        return np.mod(x, y)
    if isinstance(x, Jet) and isinstance(y, int | float) and y > 0:
        return _remainder(x, float(y))
    x, y = _pair(x, y)
    whole = x - y * floor(x / y)
    ends = _range(y.value)
    if np.all(ends.lower == ends.upper) and np.any(whole.broken):
        # within one turn the value runs from 0 to y
        value = _range(whole.value)
        low = np.where(whole.broken, np.minimum(0.0, ends.lower), value.lower)
        high = np.where(whole.broken, np.maximum(0.0, ends.upper), value.upper)
        return Jet(Interval(low, high), whole.gradient, whole.hessian, whole.up, whole.down, whole.broken, whole.widths)
    return whole


def _remainder(x: Jet, y: float) -> Saw:
    value = _range(x.value)
    with np.errstate(invalid="ignore"):
        # a rounding more on either side: turns are counted by the division
        turns = _out(_out(value / y))
        low, high = np.floor(turns.lower), np.floor(turns.upper)
    inside, crossed = np.asarray(high == low), np.asarray(high == low + 1.0)
    before, after = (_range(_add(value, -_range(_out(_range(n * y))))) for n in (low, high))
    whole = Interval(np.where(inside, before.lower, 0.0), np.where(inside, before.upper, y))
    # over more than one turn nothing is known but the range
    once = inside | crossed
    before, after = (Interval(np.where(once, b.lower, 0.0), np.where(once, b.upper, y)) for b in (before, after))
    parts = (whole, x.gradient, x.hessian, x.up, x.down, _either(x.broken, ~inside), x.widths)
    return Saw(*parts, before, after, (y, 0.0), crossed, True)


def arctan2(y: Any, x: Any) -> Any:
    """Return the angle of the point (x, y)."""
    if not isinstance(x, Jet) and not isinstance(y, Jet):
        return np.arctan2(y, x)
    y, x = _pair(y, x)
    value = intervals.arctan2(_range(y.value), _range(x.value))
    cut = np.asarray(value.order) == 0
    # angle_x = -y/r^2, angle_y = x/r^2, angle_xx = 2 x y/r^4 = -angle_yy, angle_xy = (y^2 - x^2)/r^4
    square = _add(_square(x.value), _square(y.value))
    fourth = _square(_range(square))
    first = [_out(-_range(y.value) / square), _out(_range(x.value) / square)]
    bend = _out(_times(2.0, _times(x.value, y.value)) / fourth)
    mixed = _out(_add(_square(y.value), -_range(_square(x.value))) / fourth)
    jet = compose(_out(value), first, [[bend, mixed], [mixed, -_range(bend)]], [x, y])
    return Jet(jet.value, jet.gradient, jet.hessian, jet.up, jet.down, _either(jet.broken, cut), jet.widths)


@dataclass(frozen=True, slots=True)
class Truth:
    """Hold a comparison of jets, and one of them: the boxes that it was made on."""

    condition: intervals.Condition
    like: Jet


def _compared(compare: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def function(x: Any, y: Any) -> Any:
        if not isinstance(x, Jet) and not isinstance(y, Jet):
            return compare(x, y)
        x, y = _pair(x, y)
        holds = compare(_range(x.value), _range(y.value))
        return Truth(holds, x)

    return function


greater, greater_equal, equal = map(_compared, (intervals.greater, intervals.greater_equal, intervals.equal))


def _combined(combine: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def function(x: Any, y: Any) -> Any:
        if not isinstance(x, Truth) and not isinstance(y, Truth):
            return combine(x, y)
        like = x.like if isinstance(x, Truth) else y.like
        return Truth(combine(*(z.condition if isinstance(z, Truth) else np.asarray(z) for z in (x, y))), like)

    return function


logical_and, logical_or = _combined(intervals.logical_and), _combined(intervals.logical_or)


def logical_not(x: Any) -> Any:
    """Tell where it fails."""
    return Truth(intervals.logical_not(x.condition), x.like) if isinstance(x, Truth) else np.logical_not(x)


def where(condition: Any, x: Any, y: Any) -> Any:
    """Return x where the condition holds, y where it fails; where it is open the value may jump."""
    if not isinstance(condition, Truth):
        return x if condition else y
    first, second = condition.condition.holds, condition.condition.fails
    x, y = (z if isinstance(z, Jet) else _constant(z, condition.like) for z in (x, y))
    if np.all(first):
        return x
    if np.all(second):
        return y
    return Jet(
        _hull(x.value, y.value, first, second),
        tuple(_hull(p, q, first, second) for p, q in zip(x.gradient, y.gradient, strict=True)),
        tuple(_hull(p, q, first, second) for p, q in zip(x.hessian, y.hessian, strict=True)),
        tuple(_chosen(p, q, first, second, first, 0.0) for p, q in zip(x.up, y.up, strict=True)),
        tuple(_chosen(p, q, first, second, first, 0.0) for p, q in zip(x.down, y.down, strict=True)),
        np.where(first, x.broken, np.where(second, y.broken, True)),
        x.widths,
    )
