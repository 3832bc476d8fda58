"""Rules for expectations of standard normal noise in one to four dimensions: fixed ones, and randomly shifted ones.

A shifted rule is an unbiased estimate: the mean over the shift of  sum_k D phi(k D + shift) f(k D + shift)  is the integral of
phi f, whatever f (Cranley and Patterson 1976); for smooth f its error is that of the trapezoidal rule on the line, about
2 exp(-2 pi^2/D^2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from wassgrid.certificate.best_actions import golden_direction

_STEPS = {1: 0.5, 2: 0.8}  # D, in standard deviations
_REACH = 7.0  # standard deviations: 3e-12 of the mass is beyond
_LATTICE = 256  # points of the lattice in three and four dimensions
_HERMITE = {1: 5, 2: 3}  # points per dimension of the fixed rule


def fixed_rule(dimension: int, states: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points (P, q) and weights (P,) of a rule of high degree; where there are many states of degree three.

    Gauss and Hermite; 2 q points at the distance sqrt(q) on the axes (Stroud 1957) in three and more states.
    """
    if dimension == 0:
        return np.zeros((1, 0)), np.ones(1)
    if states > max(_HERMITE):
        points = math.sqrt(dimension) * np.concatenate([np.eye(dimension), -np.eye(dimension)])
        return points, np.full(2 * dimension, 0.5 / dimension)
    nodes, weights = np.polynomial.hermite_e.hermegauss(_HERMITE[dimension])
    weights = weights / weights.sum()
    points = np.stack(np.meshgrid(*[nodes] * dimension, indexing="ij"), axis=-1).reshape(-1, dimension)
    return points, np.prod(np.stack(np.meshgrid(*[weights] * dimension, indexing="ij"), axis=-1), axis=-1).ravel()


def size_of_shifted(dimension: int) -> int:
    """Return the number of points of the shifted rule."""
    if dimension == 0:
        return 1
    if dimension not in _STEPS:
        return _LATTICE
    return (2 * math.ceil(_REACH / _STEPS[dimension]) + 1) ** dimension


def shifted_rule(dimension: int, count: int, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the points of `count` rules with independent shifts, point by point: (count, q) and their weights (count,)."""
    if dimension == 0:
        yield np.zeros((count, 0)), np.ones(count)
    elif dimension in _STEPS:
        step = _STEPS[dimension]
        shift = step * (rng.random((count, dimension)) - 0.5)
        one = step * np.arange(-math.ceil(_REACH / step), math.ceil(_REACH / step) + 1)
        for place in np.stack(np.meshgrid(*[one] * dimension, indexing="ij"), axis=-1).reshape(-1, dimension):
            points = shift + place
            # D phi(x), one factor for each dimension
            yield points, np.exp(-0.5 * (points**2).sum(axis=1)) * (step / math.sqrt(2.0 * math.pi)) ** dimension
    else:
        from scipy.special import ndtri  # three and four dimensions alone need it

        # a lattice of any size, shifted modulo one
        direction = golden_direction(dimension)
        shift = rng.random((count, dimension))
        tiny = np.finfo(float).tiny
        for k in range(_LATTICE):
            yield ndtri(np.clip(np.mod(shift + k * direction, 1.0), tiny, 1.0 - 1e-16)), np.full(count, 1.0 / _LATTICE)
