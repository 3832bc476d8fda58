"""Random small problems with kinks and jumps, some of them exactly on an action bound, for brute-force checks of lower bounds."""

from __future__ import annotations

import re

import numpy as np

from wassgrid.transition.axis_kernels import AXIS_KERNELS

ONE_COST = [
    "{c}*abs(a - ({k}))", "{c}*abs(a - ({k})) - 0.5*{c}*a", "-{c}*abs(a - ({k}))", "{c}*max(a, {k})", "-{c}*max(a, {k}) + a**2",
    "{c}*min(a**2, a + ({k}))", "{c}*a**2 + clip(a, {k}, 2)", "where(a > {k}, {c}, 0.2*a)", "where(a >= {k}, 0.1*a**2, {c})",
    "{c}*cos(7*a) + 0.1*a", "{c}*mod(a - ({k}), 0.7)", "{c}*(a**3 - a)", "{c}*abs(3*a - 3*({k}))", "{c}*abs(a**3 - ({k})**3)",
]  # fmt: skip
ONE_MEAN = [
    "{r}*x + a", "{r}*x + 0.8*sin(3*a)", "{r}*x + clip(a, -2, {k})", "{r}*x + abs(a - ({k}))", "{r}*x + 3*a",
    "{r}*x + max(a, {k}) - 0.5*a", "{r}*x + where(a > {k}, 0.5, -0.2)",
]  # fmt: skip


def _bounds(rng: np.random.Generator) -> tuple[float, float]:
    low = round(float(rng.uniform(-1.5, 0.2)), 1)
    return low, round(low + float(rng.uniform(0.5, 2.0)), 1)


def _kink(rng: np.random.Generator, low: float, high: float) -> float:
    """A place for a kink: an action bound as often as not, else somewhere, 0 or a round number."""
    return float(rng.choice([low, high, low, high, 0.0, round(float(rng.uniform(low, high)), 1), float(rng.uniform(low, high))]))


def _axis(rng: np.random.Generator, name: str, text: str, points: int) -> tuple[str, str]:
    boundary = rng.choice(["clamp", "reflect", "periodic"])
    kernel = AXIS_KERNELS[rng.choice([kernel.name for kernel in AXIS_KERNELS.values() if kernel.nonnegative])]
    noise = float(rng.uniform(0.55, 1.6)) * 4.0 / (points - 1)
    if kernel.least_noise == 0.0:
        noise *= float(rng.choice([0.3, 1.0]))
    table = f'[states.{name}]\nnext = "{text}"\nnoise = "{noise}"\ndomain = [-2, 2]\nboundary = "{boundary}"\n'
    return table, f'{name} = "{kernel.name}"'


def random_problem(seed: int, actions: int) -> str:
    """Return the text of a case with one action on a line, or with two actions in the plane."""
    rng = np.random.default_rng(seed)
    low, high = _bounds(rng)
    k, c, r = _kink(rng, low, high), round(float(rng.uniform(0.1, 1.5)), 2), round(float(rng.uniform(0.2, 0.9)), 2)
    cost = str(rng.choice(ONE_COST)).format(c=c, k=k)
    mean = str(rng.choice(ONE_MEAN)).format(r=r, k=_kink(rng, low, high))
    discounted = '[criterion]\nkind = "discounted"\ndiscount = 0.8\n' if rng.random() < 0.3 else ""
    if actions == 1:
        points = int(rng.integers(7, 14))
        table, kernel = _axis(rng, "x", mean, points)
        return (
            f"{table}[actions.a]\nbounds = [{low}, {high}]\n[cost]\nstage = \"0.5*x**2 + {cost}\"\n"
            f"[grid]\npoints = {{ x = {points} }}\nkernel = {{ {kernel} }}\n{discounted}"
        )
    low_b, high_b = _bounds(rng)
    k_b = _kink(rng, low_b, high_b)
    other = re.sub(r"\ba\b", "b", str(rng.choice(ONE_COST)).format(c=c, k=k_b))
    moves = ["0.5*y + b", "0.6*y - 0.2*x", "0.5*y + b - 0.3*a", f"0.4*y + 0.2*x + abs(b - ({k_b}))", "0.7*y + 2*a*b"]
    second = str(rng.choice(moves))
    points = int(rng.integers(5, 8))
    (one, kernel), (two, kernel_b) = _axis(rng, "x", mean, points), _axis(rng, "y", second, points)
    return (
        f"{one}{two}[actions.a]\nbounds = [{low}, {high}]\n[actions.b]\nbounds = [{low_b}, {high_b}]\n"
        f"[cost]\nstage = \"0.5*x**2 + 0.4*y**2 + {cost} + {other} + {rng.choice(['0', '0.3*a*b', '0.2*x*b'])}\"\n"
        f"[grid]\npoints = {{ x = {points}, y = {points} }}\nkernel = {{ {kernel}, {kernel_b} }}\n{discounted}"
    )
