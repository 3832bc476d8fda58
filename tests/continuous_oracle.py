"""An independent view of problems with continuous states: formulas as Python, integrals by quadrature, minima by brute force.

Shares no code with the package: the texts of a case are evaluated by Python itself, u is SciPy's B-spline of the stored
coefficients, the boundary models are maps of the next state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import BSpline, NdBSpline
from scipy.special import ndtr

NAMES = {
    "sin": np.sin, "cos": np.cos, "exp": np.exp, "tanh": np.tanh, "sqrt": np.sqrt, "abs": np.abs, "min": np.minimum,
    "max": np.maximum, "where": np.where, "clip": np.clip, "pi": np.pi,
    "wrap_angle": lambda t: np.mod(t + np.pi, 2 * np.pi) - np.pi,
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A problem on a line: x' = law(x, a) + sigma xi on [low, high] with a boundary model, |a| <= bound or between `ends`."""

    law: str
    cost: str
    sigma: float
    low: float
    high: float
    model: str
    bound: float
    discount: float | None = None
    jumps: tuple[float, ...] = ()  # places where the cost does
    ends: tuple[str, str] | None = None  # formulas in x

    def text(self) -> str:
        """The case file."""
        kind = self.model if self.model in ("reflect", "periodic") else "clamp"
        prove = "" if kind != "clamp" else f'[prove]\nboundary = "{self.model}"\n'
        criterion = "" if self.discount is None else f'[criterion]\nkind = "discounted"\ndiscount = {self.discount}\n'
        bounds = [-self.bound, self.bound] if self.ends is None else list(self.ends)
        return (
            f'[states.x]\nnext = "{self.law}"\nnoise = {self.sigma}\ndomain = [{self.low}, {self.high}]\nboundary = "{kind}"\n'
            f'[actions.a]\nbounds = {bounds}\n[cost]\nstage = "{self.cost}"\n[grid]\npoints = {{ x = 60 }}\n'
            f'kernel = "linear"\n[policy]\ninitial = {{ distribution = "uniform" }}\n{criterion}{prove}'
        )

    def of(self, text: str, x: np.ndarray, a: np.ndarray) -> np.ndarray:
        return np.broadcast_to(eval(text, dict(NAMES), {"x": x, "a": a}), np.broadcast(x, a).shape).astype(float)

    def action(self, share: float | np.ndarray, x: np.ndarray) -> np.ndarray:
        """The action at a share of the way between its ends."""
        low, high = (self.of(end, x, 0.0) for end in self.ends or (str(-self.bound), str(self.bound)))
        return low + share * (high - low)

    def mean(self, y: np.ndarray) -> np.ndarray:
        """Bring means within Y."""
        if self.model == "periodic":
            return self.low + np.mod(y - self.low, self.high - self.low)
        if self.model == "reflect":
            return self.fold(y)
        return np.clip(y, self.low, self.high) if self.model != "project" else y

    def fold(self, x: np.ndarray) -> np.ndarray:
        length = self.high - self.low
        place = np.mod(x - self.low, 2 * length)
        return self.low + np.minimum(place, 2 * length - place)

    def panels(self, y: float) -> tuple[np.ndarray, np.ndarray]:
        """Return next states and weights of a quadrature of their law, panels cut at the ends and where the cost jumps."""
        reach, length = 9.0 * self.sigma, self.high - self.low
        turns = np.arange(np.floor((y - reach - self.low) / length), np.ceil((y + reach - self.low) / length) + 1)
        cuts = np.concatenate([self.low + length * turns, np.linspace(y - reach, y + reach, 900), self.jumps])
        cuts = np.unique(cuts[(cuts >= y - reach) & (cuts <= y + reach)])
        points, weights = np.polynomial.legendre.leggauss(5)
        half = 0.5 * np.diff(cuts)
        x = (0.5 * (cuts[1:] + cuts[:-1])[:, None] + half[:, None] * points).ravel()
        w = (half[:, None] * weights).ravel() * np.exp(-0.5 * ((x - y) / self.sigma) ** 2) / (self.sigma * np.sqrt(2 * np.pi))
        if self.model == "truncate":
            w = np.where((x < self.low) | (x > self.high), 0.0, w)
            return x, w / (ndtr((self.high - y) / self.sigma) - ndtr((self.low - y) / self.sigma))
        if self.model == "project":
            return np.clip(x, self.low, self.high), w
        return (x if self.model == "open" else self.mean(x)), w

    def least(self, u, x: np.ndarray) -> np.ndarray:
        """Minimise c + discount u(F) over the actions: a fine grid, then golden sections about its best."""
        discount = self.discount or 1.0

        def f(share):
            a = self.action(share, x)
            return self.of(self.cost, x, a) + discount * u(self.mean(self.of(self.law, x, a)))

        grid = np.linspace(0.0, 1.0, 161)
        values = np.stack([f(share) for share in grid])
        best, step = grid[np.argmin(values, axis=0)], grid[1] - grid[0]
        low, high = np.maximum(best - step, 0.0), np.minimum(best + step, 1.0)
        found = values.min(axis=0)
        ratio = 0.5 * (np.sqrt(5.0) - 1.0)
        for _ in range(40):
            one, two = high - ratio * (high - low), low + ratio * (high - low)
            left, right = f(one), f(two)
            found = np.minimum(found, np.minimum(left, right))
            low, high = np.where(left < right, low, one), np.where(left < right, two, high)
        return found

    def residual(self, u, y: float) -> float:
        """S u(y) - u(y)."""
        x, w = self.panels(y)
        return float(w @ self.least(u, x) - u(self.mean(np.array([y])))[0])

    def optimum(self, nodes: int = 300) -> float:
        """J* by value iteration on a fine grid of cells, right to a few of their widths squared."""
        edges = np.linspace(self.low, self.high, nodes + 1)
        if self.model == "open":
            pad = int(np.ceil(6 * self.sigma / (edges[1] - edges[0])))
            edges = self.low + (edges[1] - edges[0]) * np.arange(-pad, nodes + pad + 1)
        x = 0.5 * (edges[1:] + edges[:-1])
        extra = 6 * self.sigma if self.model == "project" else 0.0
        y = np.linspace(self.low - extra, self.high + extra, nodes + 1)
        if self.model in ("open", "truncate", "project"):
            mass = np.diff(ndtr((edges[None] - y[:, None]) / self.sigma), axis=1)
            if self.model == "project":
                mass[:, 0] += ndtr((edges[0] - y) / self.sigma)
                mass[:, -1] += ndtr((y - edges[-1]) / self.sigma)
        else:
            length, mass = self.high - self.low, 0.0
            for turn in range(-8, 9):
                shift = edges + turn * length if self.model == "periodic" or turn % 2 == 0 else None
                if shift is None:
                    shift = (self.low + self.high - edges)[::-1] + turn * length
                    mass = mass + np.diff(ndtr((shift[None] - y[:, None]) / self.sigma), axis=1)[:, ::-1]
                else:
                    mass = mass + np.diff(ndtr((shift[None] - y[:, None]) / self.sigma), axis=1)
        mass = mass / mass.sum(axis=1, keepdims=True)
        actions = [self.action(share, x) for share in np.linspace(0.0, 1.0, 121)]
        cost = np.stack([self.of(self.cost, x, a) for a in actions])
        means = np.stack([self.mean(self.of(self.law, x, a)) for a in actions])
        discount, u = self.discount or 1.0, np.zeros(len(y))
        for _ in range(5000):
            q = (cost + discount * np.interp(means, y, u)).min(axis=0)
            change = mass @ q - u
            u = u + change - (change[0] if self.discount is None else 0.0)
            size = np.max(np.abs(change))
            if np.ptp(change) < 1e-7 * max(1.0, size) and (self.discount is None or size < 1e-7):
                break
        if self.discount is None:
            return float(0.5 * (change.min() + change.max()))
        inside = (x > self.low) & (x < self.high)
        return float((1 - discount) * np.mean(q[inside]))


def spline_of(coefficients: np.ndarray, low: float, spacing: float, period: float | None):
    """Return u as a function, from the arrays of a proof."""
    knots = low + spacing * np.arange(-3, len(coefficients) + 1)
    spline = BSpline(knots, coefficients, 3, extrapolate=True)

    def u(y):
        y = np.asarray(y, dtype=float)
        if period is not None:
            y = low + np.mod(y - low, period)
        else:
            y = np.clip(y, low, low + spacing * (len(coefficients) - 3))
        return spline(y)

    return u


@dataclass(frozen=True)
class Plane:
    """A problem of two states x and y on a rectangle: means `laws`, noises `sigmas`, |a| <= bound (and |b|, where it is named).

    follow: the factor by which x' follows the realised y', None where it does not.
    """

    laws: tuple[str, str]
    cost: str
    sigmas: tuple[float, float]
    ends: tuple[tuple[float, float], tuple[float, float]]
    models: tuple[str, str]
    bound: float = 1.0
    follow: float | None = None
    discount: float | None = None

    @property
    def actions(self) -> tuple[str, ...]:
        return ("a", "b") if any("b" in text.replace("abs", "") for text in (*self.laws, self.cost)) else ("a",)

    def text(self) -> str:
        """The case file."""
        states = []
        for k, name in enumerate("xy"):
            law = self.laws[k] if k or self.follow is None else f"{self.laws[0]} + {self.follow}*next(y)"
            states.append(
                f'[states.{name}]\nnext = "{law}"\nnoise = {self.sigmas[k]}\ndomain = [{self.ends[k][0]}, {self.ends[k][1]}]\n'
                f'boundary = "{self.models[k]}"\n'
            )
        bounds = "".join(f"[actions.{name}]\nbounds = [{-self.bound}, {self.bound}]\n" for name in self.actions)
        criterion = "" if self.discount is None else f'[criterion]\nkind = "discounted"\ndiscount = {self.discount}\n'
        return (
            f'{"".join(states)}{bounds}[cost]\nstage = "{self.cost}"\n[grid]\npoints = {{ x = 20, y = 20 }}\nkernel = "linear"\n'
            f'[policy]\ninitial = {{ distribution = "uniform" }}\n{criterion}'
        )

    def of(self, text: str, x: np.ndarray, y: np.ndarray, actions) -> np.ndarray:
        values = {"x": x, "y": y, **dict(zip(self.actions, actions, strict=True))}
        return np.broadcast_to(eval(text, dict(NAMES), values), np.broadcast(*values.values()).shape).astype(float)

    def within(self, z: np.ndarray, k: int) -> np.ndarray:
        """Bring values of one axis within its domain."""
        low, high = self.ends[k]
        if self.models[k] == "periodic":
            return low + np.mod(z - low, high - low)
        return np.clip(z, low, high)

    def states(self, s: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y of coordinates s: s_1 = x - follow y where x follows y."""
        return (s[0], s[1]) if self.follow is None else (self.within(s[0] + self.follow * s[1], 0), s[1])

    def f(self, u, s: tuple[np.ndarray, np.ndarray], actions) -> np.ndarray:
        """c + discount u(F) with the means brought within their sets."""
        x, y = self.states(s)
        means = [self.of(law, x, y, actions) for law in self.laws]
        for k in (0, 1):
            if self.models[k] == "periodic" or (self.models[k] != "project" and not (k == 0 and self.follow is not None)):
                means[k] = self.within(means[k], k)
        return self.of(self.cost, x, y, actions) + (self.discount or 1.0) * u(*means)

    def least(self, u, s: tuple[np.ndarray, np.ndarray], tries: int = 41) -> np.ndarray:
        """Minimise f over one action: a fine grid, then golden sections about its best."""
        grid = np.linspace(-self.bound, self.bound, tries)
        values = np.stack([self.f(u, s, (np.full_like(s[0], a),)) for a in grid])
        best, step, found = grid[np.argmin(values, axis=0)], grid[1] - grid[0], values.min(axis=0)
        low, high = np.maximum(best - step, -self.bound), np.minimum(best + step, self.bound)
        ratio = 0.5 * (np.sqrt(5.0) - 1.0)
        for _ in range(18):
            one, two = high - ratio * (high - low), low + ratio * (high - low)
            left, right = self.f(u, s, (one,)), self.f(u, s, (two,))
            found = np.minimum(found, np.minimum(left, right))
            low, high = np.where(left < right, low, one), np.where(left < right, two, high)
        return found

    def line(self, mean: float, k: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return next values of one coordinate and weights: midpoints of `count` panels, cut at the ends."""
        sigma, (low, high), model = self.sigmas[k], self.ends[k], self.models[k]
        if sigma == 0.0:
            return np.array([mean]), np.ones(1)
        edges = mean + sigma * np.linspace(-6.5, 6.5, count + 1)
        if model in ("truncate", "project"):
            edges = np.unique(np.append(edges, [e for e in (low, high) if edges[0] < e < edges[-1]]))
        x, w = 0.5 * (edges[1:] + edges[:-1]), np.diff(ndtr((edges - mean) / sigma))
        if model == "truncate":
            w = np.where((x < low) | (x > high), 0.0, w)
        return (x if model == "open" else self.within(x, k)), w / w.sum()

    def cells(self, mean: float, k: int, spacing: float) -> tuple[np.ndarray, np.ndarray]:
        """Return next values of one coordinate and weights, for polynomials on cells of this width from the lower end on."""
        sigma, (low, high), model = self.sigmas[k], self.ends[k], self.models[k]
        if sigma == 0.0:
            return np.array([mean]), np.ones(1)
        reach = np.arange(np.floor((mean - 7 * sigma - low) / spacing), np.ceil((mean + 7 * sigma - low) / spacing))
        points, weights = np.polynomial.legendre.leggauss(4)
        x = (low + spacing * (reach[:, None] + 0.5 + 0.5 * points)).ravel()
        w = np.exp(-0.5 * ((x - mean) / sigma) ** 2) * np.tile(weights, reach.size)
        if model == "truncate":
            w = np.where((x < low) | (x > high), 0.0, w)
        return (x if model == "open" else self.within(x, k)), w / w.sum()

    def residual(self, u, mean: tuple[float, float], count: int, tries: int = 41) -> float:
        """S u - u at a mean."""
        (one, v), (two, w) = (self.line(mean[k], k, count) for k in (0, 1))
        s = tuple(c.ravel() for c in np.meshgrid(one, two, indexing="ij"))
        q = self.least(u, s, tries).reshape(one.size, two.size)
        return float(v @ q @ w - u(np.array([mean[0]]), np.array([mean[1]]))[0])


def plane_function(coefficients: np.ndarray, low, spacing, periods):
    """Return u of two variables, from the arrays of a proof; periods: None where an axis has ends."""
    knots = [low[k] + spacing[k] * np.arange(-3, coefficients.shape[k] + 1) for k in (0, 1)]
    spline = NdBSpline(tuple(knots), coefficients, 3)

    def u(x, y):
        points = []
        for k, z in enumerate((x, y)):
            end = low[k] + spacing[k] * (coefficients.shape[k] - 3)
            z = np.asarray(z, dtype=float)
            points.append(np.clip(z, low[k], end) if periods[k] is None else low[k] + np.mod(z - low[k], periods[k]))
        return spline(np.stack(np.broadcast_arrays(*points), axis=-1))

    return u
