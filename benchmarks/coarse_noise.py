"""What every kernel makes of J where the noise is less than a cell or so, against exact answers and finer grids.

Scalar LQ under its optimal feedback, whose J is known, on grids shifted by five offsets: the worst of them. The pendulum of
`cases/pendulum.toml`, solved, with noise of so many cells of the speed, against a grid of three times as many points per axis,
on which the default kernel resolves it. Relative errors of J; "-" where a kernel refuses. The last columns show what `auto` took,
what the run itself expected its kernels to add (the variance that they add, times half the curvature of V), and what the whole
law is expected to add, to first order: mu (P - P*) V, P* V the expectation of a spline through V under the noise itself.

From half a cell on both gaussian and matched laws have the right variance, on average or everywhere, and it does not rank them.
The whole law does, but needs mu and V: the gaussian law errs by turns with the place of the mean between the nodes, which
cancels where the stationary law spreads over many (the pendulum) and does not where it stands on few (LQ: -8.5e-2 at half a
cell, matched 0). What `auto` takes before there is a V is the one whose worst case is better.

    python benchmarks/coarse_noise.py [--points 128]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.linalg import solve_discrete_are

from wassgrid import solve
from wassgrid.case import Case
from wassgrid.estimate.spline import Spline
from wassgrid.evaluation import Evaluation, Evaluator
from wassgrid.grid import StateGrid
from wassgrid.policy import ParticlePolicy
from wassgrid.resolution import resolution
from wassgrid.runs.solvers import make_solver
from wassgrid.transition.model import ResolutionError

KERNELS = ("gaussian", "linear", "matched", "auto")
RATIOS = (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 1.0, 1.2)
SHIFTS = (0.0, 0.13, 0.29, 0.5, 0.77)
DRIFT, CONTROL, EFFORT = 0.9, 0.5, 0.3  # x' = DRIFT x + CONTROL a + noise, cost x^2 + EFFORT a^2


@dataclass(frozen=True)
class Errors:
    """Relative error of J of one kernel, signed, the kernel that was taken, and the error expected of variance and whole law."""

    error: float
    kernel: str
    expected: float
    whole: float


def added_by_law(evaluation: Evaluation) -> float:
    """Return mu (P - P*) V, the noise of P* summed by the trapezoidal rule; for noise on one axis."""
    model, spline = evaluation.model, Spline.through(evaluation.model.grid, evaluation.value)
    states, noisy = model.grid.states, model.noise.any(axis=0)
    assert np.count_nonzero(noisy) == 1
    cell, mean = model.problem.cell_tables(states), np.einsum("ki,kij->kj", evaluation.policy.weights, evaluation.mean)
    normals = np.linspace(-8.0, 8.0, 161)
    density = np.exp(-0.5 * normals**2)
    expected = np.zeros(len(states))
    for normal, weight in zip(normals, density / density.sum(), strict=True):
        expected += weight * spline(model.problem.realised(mean, cell, normal * np.where(noisy, np.ones_like(mean), 0.0)))
    return float(evaluation.law @ (evaluation.chain.operator.apply(evaluation.value) - expected))


def lq_errors(ratio: float, kernel: str, shift: float, cells: int = 60) -> Errors:
    """Evaluate the optimal feedback of the scalar problem on unit cells, the nodes at whole numbers plus shift."""
    weight = float(solve_discrete_are([[DRIFT]], [[CONTROL]], [[1.0]], [[EFFORT]])[0, 0])
    gain = weight * DRIFT * CONTROL / (EFFORT + weight * CONTROL**2)
    exact = weight * ratio**2
    case = Case.from_text(
        f"""
[states.x]
next = "{DRIFT}*x + {CONTROL}*a"
noise = "{ratio}"
domain = [{shift - cells / 2}, {shift + cells / 2}]
[actions.a]
[cost]
stage = "x**2 + {EFFORT}*a**2"
[grid]
points = {{ x = {cells + 1} }}
kernel = "{kernel}"
"""
    )
    evaluator = Evaluator.from_case(case)
    grid = evaluator.model.grid
    evaluation = evaluator.evaluate(ParticlePolicy.around(grid, -gain * grid.states))
    added = sum(axis["added_cost"] for axis in resolution(evaluation))
    return Errors(evaluation.objective / exact - 1.0, evaluator.model.kernels[0], added / exact, added_by_law(evaluation) / exact)


def worst_lq(ratio: float, kernel: str) -> Errors:
    return max((lq_errors(ratio, kernel, shift) for shift in SHIFTS), key=lambda found: abs(found.error))


def pendulum_case(points: int, noise: float, kernel: str) -> Case:
    path = Path(__file__).resolve().parent.parent / "cases" / "pendulum.toml"
    settings = [f"grid.points.theta={points}", f"parameters.speed_noise={noise}", f"grid.kernel.omega={kernel}"]
    return Case.load(path, [*settings, "expect={}"])


def pendulum_errors(points: int, noise: float, kernel: str, exact: float) -> Errors:
    """Solve the pendulum on an aligned grid and compare J with that of a finer one."""
    solver = make_solver(pendulum_case(points, noise, kernel))
    state = solver.start()
    while solver.verdict(state) is None:
        state = solver.advance(state)
    evaluation = state.evaluation
    added = sum(axis["added_cost"] for axis in resolution(evaluation))
    taken = evaluation.model.kernels[1]
    return Errors(evaluation.objective / exact - 1.0, taken, added / exact, added_by_law(evaluation) / exact)


def pendulum_row(points: int, ratio: float) -> dict[str, Errors | None]:
    spacing = float(StateGrid.from_case(pendulum_case(points, 0.4, "auto")).spacing[1])
    exact = solve(pendulum_case(3 * points, ratio * spacing, "auto")).objective
    return row(lambda kernel: pendulum_errors(points, ratio * spacing, kernel, exact))


def row(measure) -> dict[str, Errors | None]:  # type: ignore[no-untyped-def]
    found: dict[str, Errors | None] = {}
    for kernel in KERNELS:
        try:
            found[kernel] = measure(kernel)
        except ResolutionError:
            found[kernel] = None
    return found


def table_of(title: str, rows: dict[float, dict[str, Errors | None]]) -> Table:
    table = Table("noise/spacing", *KERNELS, "taken", "expected", "of the whole law", "on the front", title=title)
    for ratio, found in rows.items():
        sizes = [abs(one.error) for one in found.values() if one is not None]
        default = found["auto"]
        assert default is not None
        front = abs(default.error) <= min(sizes) + TOLERANCE
        errors = ["-" if one is None else f"{one.error:+.1e}" for one in found.values()]
        expected = f"{default.expected:+.1e}", f"{default.whole:+.1e}"
        table.add_row(f"{ratio:g}", *errors, default.kernel, *expected, "yes" if front else "NO")
    return table


TOLERANCE = 1e-4  # of J: what counts as equally good


def main() -> None:
    """Print one table per problem."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--points", type=int, default=128, help="points of the pendulum's angle")
    points = parser.parse_args().points
    console = Console(width=130)
    lq = {ratio: row(lambda kernel, ratio=ratio: worst_lq(ratio, kernel)) for ratio in RATIOS}
    console.print(table_of(f"scalar LQ, worst of {len(SHIFTS)} offsets", lq))
    swing = {ratio: pendulum_row(points, ratio) for ratio in RATIOS}
    console.print(table_of(f"pendulum, {points} points of the angle", swing))


if __name__ == "__main__":
    main()
