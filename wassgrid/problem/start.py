"""The law of the first state: independent in every state variable, a point, uniform or normal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wassgrid.problem.boundary import BOUNDARIES
from wassgrid.problem.model import ProblemError

Array = NDArray[np.float64]
StartValue = float | tuple[float, float] | Mapping[str, float]
_LEAST_MASS = 1e-6  # of a normal law, within the domain
TAIL = 8.0  # standard deviations beyond which a normal law has 1e-15 of its mass


@dataclass(frozen=True)
class Marginal:
    """The start law of one state variable on [low, high]: of mean and standard deviation `std`, normal and cut off at the ends;
    without one uniform; where low = high, a point."""

    low: float
    high: float
    mean: float = 0.0
    std: float | None = None

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Draw `count` values."""
        if self.std is None:
            return self.low + (self.high - self.low) * rng.random(count)
        from scipy.special import ndtr, ndtri

        bottom, top = ndtr((self.low - self.mean) / self.std), ndtr((self.high - self.mean) / self.std)
        drawn = self.mean + self.std * ndtri(bottom + (top - bottom) * rng.random(count))
        return np.asarray(np.clip(drawn, self.low, self.high))

    def ramp(self, x: Array) -> Array:
        """Return E max(x - X, 0) of the value X drawn: its second differences are the means of hats."""
        inside = np.clip(x, self.low, self.high)
        beyond = x - inside  # what lies above the law counts whole
        if self.high == self.low:
            return np.maximum(beyond, 0.0)
        if self.std is None:
            return np.asarray((inside - self.low) ** 2 / (2.0 * (self.high - self.low)) + np.maximum(beyond, 0.0))
        from scipy.special import ndtr

        std = self.std

        def integral(x: Array) -> Array:
            z = (x - self.mean) / std
            return np.asarray(std * (z * ndtr(z) + np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)))

        bottom, top = ndtr((self.low - self.mean) / self.std), ndtr((self.high - self.mean) / self.std)
        return np.asarray(
            (integral(inside) - integral(np.array(self.low)) - bottom * (inside - self.low)) / (top - bottom)
            + np.maximum(beyond, 0.0)
        )


@dataclass(frozen=True)
class StartLaw:
    """The law of the first state, one marginal per state variable; None: evenly over the domain."""

    names: tuple[str, ...]
    marginals: tuple[Marginal | None, ...]

    @classmethod
    def of(
        cls, names: tuple[str, ...], domain: Array, boundary: tuple[str, ...], given: Mapping[str, StartValue]
    ) -> StartLaw:
        """Read what was given per state: a number, two (uniform between them), or mean and std (normal).  Raises ProblemError."""
        marginals: list[Marginal | None] = []
        for name, (low, high), kind in zip(names, domain, boundary, strict=True):
            value = given.get(name)
            if value is None:
                marginals.append(None)
                continue
            winds, period = BOUNDARIES[kind].winds, high - low
            if isinstance(value, Mapping):
                mean, std = value["mean"], value["std"]
                if winds and std > period:
                    raise ProblemError(f"start.{name}.std: wider than the period {period:g}: leave it out for a uniform start")
                mean = low + (mean - low) % period if winds else mean
                ends = (mean - TAIL * std, mean + TAIL * std)
                if not winds:
                    ends = (max(low, ends[0]), min(high, ends[1]))
                held = 0.5 * (math.erf((ends[1] - mean) / (std * 2**0.5)) - math.erf((ends[0] - mean) / (std * 2**0.5)))
                if not (ends[0] < ends[1] and held > _LEAST_MASS):
                    raise ProblemError(f"start.{name}: hardly anything of the normal law lies in the domain [{low:g}, {high:g}]")
                marginals.append(Marginal(*ends, mean, std))
                continue
            first, last = value if isinstance(value, tuple) else (value, value)
            if winds:
                if last - first > period:
                    raise ProblemError(f"start.{name}: [{first:g}, {last:g}] is longer than the period {period:g}")
                turns = period * math.floor((first - low) / period)
                first, last = first - turns, last - turns
            if not winds and not low <= first <= last <= high:
                text = f"[{first:g}, {last:g}]" if first < last else f"{first:g}"
                raise ProblemError(f"start.{name}: {text} is not in the domain [{low:g}, {high:g}]")
            marginals.append(Marginal(first, last))
        return cls(names, tuple(marginals))

    @property
    def everywhere(self) -> bool:
        """Whether it is the default, uniform over the domain."""
        return all(marginal is None for marginal in self.marginals)

    def sample(self, count: int, domain: Array, boundary: tuple[str, ...], rng: np.random.Generator) -> Array:
        """Draw first states (count, d); `domain` (d, 2): over which a state is uniform whose law was not given.

        Values of periodic axes come wrapped.  Raises ProblemError for such a state without a domain.
        """
        if self.everywhere and np.isfinite(domain).all():
            return rng.uniform(domain[:, 0], domain[:, 1], (count, len(domain)))
        columns = []
        for name, marginal, (low, high), kind in zip(self.names, self.marginals, domain, boundary, strict=True):
            if marginal is None and not np.isfinite(high - low):
                raise ProblemError(f"states.{name}.domain: missing, episodes start evenly over it: give it, or start.{name}")
            drawn = (marginal or Marginal(low, high)).sample(count, rng)
            columns.append(low + np.mod(drawn - low, high - low) if BOUNDARIES[kind].winds else drawn)
        return np.stack(columns, axis=1)

    def describe(self) -> str:
        """Say the law in a few words."""
        parts = []
        for name, m in zip(self.names, self.marginals, strict=True):
            if m is None:
                continue
            if m.std is not None:
                parts.append(f"{name} normal about {m.mean:g} +- {m.std:g}")
            else:
                parts.append(f"{name} = {m.low:g}" if m.low == m.high else f"{name} in [{m.low:g}, {m.high:g}]")
        rest = [name for name, m in zip(self.names, self.marginals, strict=True) if m is None]
        if rest:
            parts.append(f"{', '.join(rest)} anywhere in the domain")
        return "; ".join(parts)
