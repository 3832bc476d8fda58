"""Blobs that slide where entropy has a price: what their number and width cost, against formulas and against moving weights.

The soft regulator x' = x + u + 0.5 xi with cost x^2 + u^2: the optimum is N(-K x, eps/(2(1 + P))) in every state, and one blob of
width delta gives N(-K x, delta^2), both with known J. A bounded problem with two minima of Q: soft policy iteration over the same
nodes gives the least J of all laws on them. `proven` is J less the bound of the run, which knows neither.

    python benchmarks/blob_bias.py [--figure blobs.png]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from rich.console import Console
from rich.table import Table

from wassgrid.case import Case
from wassgrid.runs.solvers import solve

REGULATOR = """
[states.x]
next = "x + u"
noise = 0.5
domain = [-4.5, 4.5]
[actions.u]
bounds = [-5.5, 5.5]
[cost]
stage = "x**2 + u**2"
[grid]
points = { x = 37 }
kernel = "matched"
[policy]
entropy = 0.4
reference = "lebesgue"
particles = 75
[output]
estimate = false
"""
BOUNDED = """
[states.x]
next = "0.8*x + 0.6*u - 0.2*sign(x)"
noise = 0.7
domain = [-2, 2]
boundary = "reflect"
[actions.u]
bounds = [-1, 1]
[cost]
stage = "x**2 + 0.3*sin(4*u + x) + 0.2*abs(u)"
[criterion]
kind = "discounted"
discount = 0.9
[grid]
points = { x = 15 }
kernel = "gaussian"
[policy]
entropy = 0.1
particles = 41
[output]
estimate = false
"""
EPS, P = 0.4, 0.5 * (1.0 + math.sqrt(5.0))
OPTIMUM = 0.25 * P - 0.5 * EPS * math.log(math.pi * EPS / (1.0 + P))
VARIANCE = 0.5 * EPS / (1.0 + P)
WIDTHS, NUMBERS = (0.15, 0.2, 0.25, 0.3), (1, 2, 4, 8)
GEOMETRIES = ("wasserstein", "wasserstein_fisher_rao")
STEPS = 100


def alone(width: float) -> float:
    """J of N(-K x, width^2): its cost, and minus eps times its differential entropy."""
    return P * (0.25 + width**2) + width**2 - 0.5 * EPS * math.log(2.0 * math.pi * math.e * width**2)


def flowed(text: str, blobs: int, width: float, geometry: str, steps: int = STEPS) -> dict[str, float]:
    """Solve a case with blobs of a width, a share of the way from low to high, and return what it came to."""
    flow = f'[flow]\ngeometry = "{geometry}"\nstop = {{ gap = 1e-9, steps = {steps} }}\n'
    case = Case.from_text(text.replace("[policy]\n", f"[policy]\nblobs = {blobs}\nbandwidth = {width!r}\n") + flow)
    solution = solve(case)
    spread = solution.policy.std([[0.0]])[0, 0]
    mean = solution.policy.mean([[1.0]])[0, 0]
    proven, time = solution.record["upper_end"] - solution.lower_bound, solution.record["flow_time"]
    return {"objective": solution.objective, "proven": proven, "variance": spread**2, "mean": mean, "flow_time": time}


def main() -> None:
    """Print the tables and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, default=None)
    options = parser.parse_args()
    console, found = Console(width=120), {}
    title = f"soft regulator, {STEPS} steps of heun; the law's own deviation is {math.sqrt(VARIANCE):.4f}"
    table = Table("width", "blobs", "geometry", "J - J*", "alone", "proven", "variance/exact", "K", "flow time", title=title)
    for width in WIDTHS:
        for number in NUMBERS:
            for geometry in GEOMETRIES[: 1 if number == 1 else 2]:
                row = flowed(REGULATOR, number, width / 11.0, geometry)
                found[width, number, geometry] = row["objective"] - OPTIMUM
                table.add_row(
                    f"{width:g}", str(number), geometry, f"{row['objective'] - OPTIMUM:.2e}",
                    f"{alone(width) - OPTIMUM:.2e}" if number == 1 else "", f"{row['proven']:.2e}",
                    f"{row['variance'] / VARIANCE:.6f}", f"{-row['mean']:.6f}", f"{row['flow_time']:.1f}",
                )  # fmt: skip
    console.print(table)
    console.print(f"exact: K = {P / (1.0 + P):.6f}, J* = {OPTIMUM:.10f}")
    best = solve(Case.from_text(BOUNDED + "[flow]\nstop = { gap = 1e-12, steps = 30 }\n")).objective
    table = Table("blobs", "geometry", "J - J*", "proven", title="bounded, two minima, discounted; width 0.04 of the bounds")
    for number in (2, 4, 8, 16):
        for geometry in GEOMETRIES:
            row = flowed(BOUNDED, number, 0.04, geometry, 150)
            table.add_row(str(number), geometry, f"{row['objective'] - best:.2e}", f"{row['proven']:.2e}")
    console.print(table)
    if options.figure is not None:
        draw(found, options.figure)


def draw(found: dict[tuple[float, int, str], float], path: Path) -> None:
    """Draw J - J* against the number of blobs, one line per width and geometry."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for colour, width in enumerate(WIDTHS):
        for geometry, style in zip(GEOMETRIES, ("o--", "s-"), strict=True):
            numbers = [number for number in NUMBERS if (width, number, geometry) in found]
            label = f"width {width:g}" if geometry == GEOMETRIES[0] else None
            axes.plot(numbers, [found[width, number, geometry] for number in numbers], style, color=f"C{colour}", label=label)
    axes.set(xscale="log", yscale="log", xlabel="blobs", ylabel="J less the optimum", title="dashed: shares at rest")
    axes.xaxis.set_minor_locator(plt.NullLocator())
    axes.set_xticks(NUMBERS, [str(number) for number in NUMBERS])
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
