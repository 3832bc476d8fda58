"""The boundary models: what happens to a state that leaves its axis.

m is the mean of the next value, s its noise, xi a standard normal number, [low, high] the domain.

| name     | next value                                    | on the grid                                                     |
|----------|-----------------------------------------------|-----------------------------------------------------------------|
| project  | m + s xi, put on the end that it is beyond    | the mass beyond an end stands on the last node                  |
| truncate | m clipped, and the law of m + s xi given that | the law of the nodes within, those on the ends halved, made to  |
|          | it is within the domain                       | sum to one                                                      |
| open     | m clipped, plus s xi: it may lie outside      | the axis goes on until nothing is left of the law               |
| reflect  | m + s xi, folded at the ends                  | the same                                                        |
| periodic | m + s xi, wrapped                             | the same                                                        |
| clamp    | that of project                               | m clipped; then the linear kernel projects, the gaussian and    |
|          |                                               | the matched one truncate, with whole nodes on the ends          |

`clamp` is what older cases mean. The grid errs by the order of the squared spacing at the ends of project and truncate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Boundary:
    """What a boundary model states of itself.

    clips: the mean is brought within the domain before noise is added. stops: a mean beyond an end counts as on it, or mass
    gathers there: expectations may have a kink. winds: the upper end is the lower one. widens: the grid goes on beyond the
    domain. fixed: the ends are nodes, whatever the grid. needs_domain: both ends must be given.
    """

    name: str
    clips: bool = False
    stops: bool = False
    winds: bool = False
    widens: bool = False
    fixed: bool = False
    needs_domain: bool = True


BOUNDARIES = {
    model.name: model
    for model in (
        Boundary("clamp", stops=True, needs_domain=False),
        Boundary("project", stops=True, fixed=True),
        Boundary("truncate", clips=True, stops=True, fixed=True),
        Boundary("open", clips=True, widens=True),
        Boundary("reflect"),
        Boundary("periodic", winds=True),
    )
}


def apply_boundary(value: Any, low: float, high: float, boundary: str, arrays: Any = None) -> Any:
    """Map values to the axis: put on the ends, left alone (open), folded at them, or wrapped (upper end = lower end).

    boundary: a name of `BOUNDARIES`; arrays: `numpy` (default) or `jax.numpy`.
    """
    arrays = arrays or _numpy()
    if boundary == "periodic":
        return low + arrays.mod(value - low, high - low)
    if boundary == "reflect":
        place = arrays.mod(value - low, 2.0 * (high - low))
        return low + arrays.minimum(place, 2.0 * (high - low) - place)
    return value if boundary == "open" else arrays.clip(value, low, high)


def next_value(mean: Any, noise: Any, normal: Any, low: float, high: float, boundary: str, arrays: Any = None) -> Any:
    """Return the realised next values for means, noises (None: no noise) and standard normal numbers, all of one shape."""
    arrays = arrays or _numpy()
    if BOUNDARIES[boundary].clips:
        mean = arrays.clip(mean, low, high)
    if noise is None:
        return apply_boundary(mean, low, high, boundary, arrays)
    if boundary == "truncate":
        normal = _truncated(mean, noise, normal, low, high, arrays)
    return apply_boundary(mean + noise * normal, low, high, boundary, arrays)


def _truncated(mean: Any, noise: Any, normal: Any, low: float, high: float, arrays: Any) -> Any:
    """Map standard normal numbers monotonically to those of the law cut at (low - m)/s and (high - m)/s.

    Phi(z) = Phi(a) + Phi(xi) (Phi(b) - Phi(a)): the law of z is that of xi given a <= xi <= b.
    """
    if arrays is _numpy():
        from scipy.special import ndtr, ndtri
    else:
        from jax.scipy.special import ndtr, ndtri
    positive = arrays.where(noise > 0.0, noise, 1.0)
    bottom, top = ndtr((low - mean) / positive), ndtr((high - mean) / positive)
    share = bottom + ndtr(normal) * (top - bottom)
    # rounding may bring it to 0 or 1
    tiny = arrays.finfo(share.dtype).eps
    return ndtri(arrays.clip(share, tiny, 1.0 - tiny))


def _numpy() -> Any:
    """The case files ask for names of boundaries only, and start without NumPy."""
    import numpy

    return numpy
