"""Average costs that stand in `cases/` as expectations and have no closed form, by methods that wassgrid does not use.

One state: policy iteration with the value function as a polynomial (Chebyshev or Fourier collocation) and expectations
by Gauss-Hermite quadrature; neither grid weights nor particles. Pendulums: policy iteration on the discretised problem
itself, written out literally in NumPy, with the best action of each cell from a fine scan and a golden-section search;
Odoni's bounds, taken over the scanned actions, bracket the result. Three and four dimensions: the same by modified policy
iteration, without any matrix, with one or two actions searched by a scan of their box that zooms in.

    python benchmarks/reference_values.py [name ...]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev, hermite_e
from rich.console import Console
from rich.table import Table
from scipy import sparse
from scipy.sparse.linalg import spsolve
from scipy.special import erf


def golden_section(function: Callable, low: np.ndarray, high: np.ndarray, sections: int = 60) -> np.ndarray:
    """Return the minimisers of a vector of functions, each unimodal on its bracket."""
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(sections):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        lower = function(left) < function(right)
        high, low = np.where(lower, right, high), np.where(lower, low, left)
    return (low + high) / 2


@dataclass(frozen=True)
class ScalarProblem:
    """x' = clamp(drift(x) + push a + noise xi), cost running(x) + r a^2, expanded in a basis on collocation nodes."""

    drift: Callable
    push: float
    noise: float
    running: Callable
    r: float
    half_width: float | None = None  # of the interval that x' is clamped to; None: the circle, even functions
    degree: int = 120

    def nodes(self) -> np.ndarray:
        angles = np.pi * (np.arange(self.degree + 1) + 0.5) / (self.degree + 1)
        return angles if self.half_width is None else self.half_width * np.cos(angles)

    def basis(self, states: np.ndarray) -> np.ndarray:
        """Return the basis functions (..., degree + 1), the first one constant."""
        if self.half_width is None:
            return np.cos(states[..., None] * np.arange(self.degree + 1))
        clamped = np.clip(states, -self.half_width, self.half_width)
        return chebyshev.chebvander(clamped / self.half_width, self.degree)

    def average_cost(self) -> float:
        states = self.nodes()
        xi, weights = hermite_e.hermegauss(60)
        weights = weights / weights.sum()
        action, objective = np.zeros_like(states), math.inf
        for _ in range(60):
            # V - E V' + J = c; the constant of V is free, and its column carries J
            following = self.drift(states) + self.push * action
            expected = np.einsum("j,ijk->ik", weights, self.basis(following[:, None] + self.noise * xi))
            matrix = self.basis(states) - expected
            matrix[:, 0] = 1.0
            solution = np.linalg.solve(matrix, self.running(states) + self.r * action**2)
            previous, objective = objective, float(solution[0])
            if abs(objective - previous) < 1e-13 * abs(objective):
                return objective
            value = np.concatenate([[0.0], solution[1:]])

            def q(a: np.ndarray, value: np.ndarray = value) -> np.ndarray:
                following = (self.drift(states) + self.push * a)[:, None] + self.noise * xi
                return self.r * a**2 + (self.basis(following) @ value) @ weights

            action = golden_section(q, np.full_like(states, -5.0), np.full_like(states, 5.0))
        raise RuntimeError(f"policy iteration did not settle: {previous!r}, then {objective!r}")


@dataclass(frozen=True)
class GridPendulum:
    """omega' = clip(omega + 0.05 (15 sin theta + 3 a), -8, 8) + noise xi on a grid, |a| <= 2, theta periodic.

    ``angle_noise`` > 0: theta' = theta + 0.05 omega + angle_noise xi. None: theta' = theta + 0.05 omega', the realised
    one, with the spacing of omega such that theta' falls on grid points. Normal weights at the grid points, rows
    renormalised.
    """

    angles: int
    speeds: int | None = None
    noise: float = 0.4
    angle_noise: float | None = None
    step: float = 0.05

    def average_cost(self) -> tuple[float, float]:
        """Return J of the best policy found and the lower bound on the optimum over the scanned actions."""
        angle_step = 2 * np.pi / self.angles
        if self.speeds is None:
            speed_step = angle_step / self.step
            half = math.ceil(8 / speed_step - 1e-9)
            omega = speed_step * np.arange(-half, half + 1)
        else:
            omega = np.linspace(-8, 8, self.speeds)
        theta = -np.pi + angle_step * np.arange(self.angles)
        cells = np.arange(theta.size * omega.size)
        t, w = (axis.ravel() for axis in np.meshgrid(theta, omega, indexing="ij"))
        if self.angle_noise is None:
            shift = np.rint(self.step * omega / angle_step).astype(int)
            landing = (cells[:, None] // omega.size + shift) % theta.size
        else:
            distance = np.remainder(theta - (t + self.step * w)[:, None] + np.pi, 2 * np.pi) - np.pi
            images = sum(np.exp(-0.5 * ((distance + 2 * np.pi * k) / self.angle_noise) ** 2) for k in (-1, 0, 1))
            turning = images / images.sum(axis=1, keepdims=True)

        def speed_weights(a: np.ndarray) -> np.ndarray:
            mean = np.clip(w + self.step * (15 * np.sin(t) + 3 * a), -8, 8)
            weights = np.exp(-0.5 * ((omega - mean[:, None]) / self.noise) ** 2)
            return weights / weights.sum(axis=1, keepdims=True)

        def transition(a: np.ndarray) -> sparse.csr_array:
            if self.angle_noise is None:
                rows = np.repeat(cells, omega.size)
                columns = (landing * omega.size + np.arange(omega.size)).ravel()
                return sparse.csr_array((speed_weights(a).ravel(), (rows, columns)), shape=(cells.size, cells.size))
            return sparse.csr_array(np.einsum("ki,kj->kij", turning, speed_weights(a)).reshape(cells.size, -1))

        def expected_by_speed(value: np.ndarray) -> np.ndarray:
            table = value.reshape(theta.size, omega.size)
            return table[landing, np.arange(omega.size)] if self.angle_noise is None else turning @ table

        def cost(a: np.ndarray) -> np.ndarray:
            return (np.remainder(t + np.pi, 2 * np.pi) - np.pi) ** 2 + 0.1 * w**2 + 0.001 * a**2

        return dynamic_programming(cost, speed_weights, transition, expected_by_speed, 2.0)


@dataclass(frozen=True)
class GridMass:
    """v' = v + 0.2 a + noise xi, q' = q + 0.2 v' with the realised v', |a| <= 1, cost q^2, on a grid where q' is a grid point.

    Normal weights at the grid points of v, rows renormalised; both axes clamped at their ends.
    """

    points: int = 201
    noise: float = 0.5 * math.sqrt(0.2)
    step: float = 0.2
    farthest: tuple[float, float] = (4.0, 3.0)

    def average_cost(self) -> tuple[float, float]:
        """Return J of the best policy found and the lower bound on the optimum over the scanned actions."""
        place = np.linspace(-self.farthest[0], self.farthest[0], self.points)
        speed_step = (place[1] - place[0]) / self.step
        half = math.ceil(self.farthest[1] / speed_step - 1e-9)
        speed = speed_step * np.arange(-half, half + 1)
        q, v = (axis.ravel() for axis in np.meshgrid(place, speed, indexing="ij"))
        cells = np.arange(q.size)
        # the node of q' for every node of v'
        landing = np.clip(cells[:, None] // speed.size + np.arange(-half, half + 1), 0, place.size - 1)

        def law(a: np.ndarray) -> np.ndarray:
            mean = np.clip(v + self.step * a, speed[0], speed[-1])
            weights = np.exp(-0.5 * ((speed - mean[:, None]) / self.noise) ** 2)
            return weights / weights.sum(axis=1, keepdims=True)

        def transition(a: np.ndarray) -> sparse.csr_array:
            columns = (landing * speed.size + np.arange(speed.size)).ravel()
            return sparse.csr_array((law(a).ravel(), (np.repeat(cells, speed.size), columns)), shape=(q.size, q.size))

        def following(value: np.ndarray) -> np.ndarray:
            return value.reshape(place.size, speed.size)[landing, np.arange(speed.size)]

        return dynamic_programming(lambda a: q**2 + 0.0 * a, law, transition, following, 1.0)


def dynamic_programming(
    cost: Callable, law: Callable, transition: Callable, following: Callable, bound: float
) -> tuple[float, float]:
    """Return J of the best policy for actions in [-bound, bound] and the lower bound on the optimum over the scanned ones.

    cost(a), law(a) (cells, n): weights of the n next nodes of the one axis that a moves; transition(a): the matrix;
    following(V) (cells, n): V at these nodes, averaged over the other axes.
    """
    scan = np.linspace(-bound, bound, 81)
    action, objective = np.zeros_like(cost(0.0)), math.inf
    for _ in range(40):
        value, average = poisson(transition(action), cost(action))
        ahead = following(value)

        def q(a: np.ndarray, ahead: np.ndarray = ahead) -> np.ndarray:
            return cost(a) + np.einsum("kj,kj->k", law(a), ahead)

        table = np.stack([q(np.full(action.size, a)) for a in scan])
        best = scan[table.argmin(axis=0)]
        width = scan[1] - scan[0]
        polished = golden_section(q, np.maximum(best - width, -bound), np.minimum(best + width, bound), 40)
        lowest = np.minimum(q(polished), table.min(axis=0))
        lower = average + float(np.min(lowest - average - value))
        improved = np.where(q(polished) <= table.min(axis=0), polished, best)
        # keep the old action where nothing is gained, so that the iteration ends
        action = np.where(lowest < q(action) - 1e-13, improved, action)
        if average >= objective - 1e-13:
            return average, lower
        objective = average
    raise RuntimeError(f"policy iteration did not settle at {objective!r}")


def poisson(transition: sparse.csr_array, cost: np.ndarray) -> tuple[np.ndarray, float]:
    """Return V with V[0] = 0 and J, from V - P V + J = c."""
    matrix = sparse.csc_array(sparse.eye_array(cost.size) - transition)
    dense = transition.nnz > 0.2 * cost.size**2
    # the first column carries J in place of V[0]
    ones = np.ones((cost.size, 1))
    bordered = sparse.csc_array(sparse.hstack([ones, matrix[:, 1:]]))
    solution = np.linalg.solve(bordered.toarray(), cost) if dense else spsolve(bordered, cost)
    average = float(solution[0])
    solution[0] = 0.0
    return solution, average


def nystrom_weights(nodes: np.ndarray, mean: np.ndarray, noise: float, period: float | None = None) -> np.ndarray:
    """Return normal densities at the nodes, rows renormalised, (..., nodes); means are kept on the axis, or wrapped."""
    mean = mean if period else np.clip(mean, nodes[0], nodes[-1])
    distance = nodes - mean[..., None]
    images = range(-3, 4) if period else (0,)
    wrapped = np.remainder(distance + period / 2, period) - period / 2 if period else distance
    weights = sum(np.exp(-0.5 * ((wrapped + k * (period or 0.0)) / noise) ** 2) for k in images)
    return weights / weights.sum(axis=-1, keepdims=True)


def hat_weights(nodes: np.ndarray, mean: np.ndarray, noise: float, period: float | None = None) -> np.ndarray:
    """Return expectations of the hat functions of the nodes under a normal law, (..., nodes), ends extended as constants.

    The hat of node t is (|x - t + h| - 2 |x - t| + |x - t - h|) / 2 h, and E |m + s xi| = m erf(m / s sqrt 2) + 2 s phi(m / s).
    """
    h = nodes[1] - nodes[0]
    mean = mean if period else np.clip(mean, nodes[0], nodes[-1])
    beyond = math.ceil(9 * noise / h) + 2
    count = nodes.size
    if period:
        mean = nodes[0] + np.remainder(mean - nodes[0], period)
    places = nodes[0] + h * np.arange(-beyond - 1, count + beyond + 1)
    m = mean[..., None] - places
    if noise > 0:
        apart = m * erf(m / (noise * math.sqrt(2))) + 2 * noise / math.sqrt(2 * math.pi) * np.exp(-0.5 * (m / noise) ** 2)
    else:
        apart = np.abs(m)
    hats = (apart[..., :-2] - 2 * apart[..., 1:-1] + apart[..., 2:]) / (2 * h)
    reached = np.arange(-beyond, count + beyond)
    nodes_of = np.remainder(reached, count) if period else np.clip(reached, 0, count - 1)
    weights = hats @ np.eye(count)[nodes_of]
    return weights / weights.sum(axis=-1, keepdims=True)


@dataclass(frozen=True)
class Leads:
    """A grid problem whose actions move one or two axes; all other axes move by themselves or follow them.

    cost(a) (cells,) and laws(a), one array (cells, nodes) per axis that actions move, take actions (cells, m);
    following(V) (cells, nodes[, nodes]) is V at the nodes of these axes, averaged over the others. bounds (m,): |a| <= bounds.
    """

    cost: Callable
    laws: Callable
    following: Callable
    bounds: np.ndarray

    def q(self, actions: np.ndarray, ahead: np.ndarray) -> np.ndarray:
        """Return cost plus expected V (cells,)."""
        first, *second = self.laws(actions)
        expected = np.einsum("kij,kj->ki", ahead, second[0]) if second else ahead
        return self.cost(actions) + np.einsum("ki,ki->k", first, expected)

    def greedy(self, ahead: np.ndarray, cells: int, scan: int, zooms: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the best actions (cells, m) of a scan of the box that zooms in, and their q."""
        width = 2 * self.bounds / (scan - 1)
        axes = [np.linspace(-b, b, scan) for b in self.bounds]
        grid = np.stack([g.ravel() for g in np.meshgrid(*axes, indexing="ij")], axis=1)
        best, lowest = np.zeros((cells, self.bounds.size)), np.full(cells, math.inf)
        moves = np.stack([g.ravel() for g in np.meshgrid(*[[-1.0, 0.0, 1.0]] * self.bounds.size, indexing="ij")], axis=1)
        for a in grid:
            best, lowest = self._better(np.tile(a, (cells, 1)), best, lowest, ahead)
        for _ in range(zooms):
            width = 0.6 * width
            centre = best
            for move in moves[np.abs(moves).sum(axis=1) > 0]:
                tried = np.clip(centre + move * width, -self.bounds, self.bounds)
                best, lowest = self._better(tried, best, lowest, ahead)
        return best, lowest

    def _better(
        self, tried: np.ndarray, best: np.ndarray, lowest: np.ndarray, ahead: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        value = self.q(tried, ahead)
        lower = value < lowest
        return np.where(lower[:, None], tried, best), np.where(lower, value, lowest)

    def average_cost(self) -> tuple[float, float]:
        """Return J of the best policy found and the lower bound min (TV - V) on the optimum over the scanned actions."""
        cells = self.cost(np.zeros((1, self.bounds.size))).size
        value = np.zeros(cells)
        lowest_upper = math.inf
        for iteration in range(60):
            early = iteration < 6
            actions, best = self.greedy(self.following(value), cells, 9 if early else 17, 16 if early else 36)
            change = best - value
            upper, lower = float(change.max()), float(change.min())
            if upper >= lowest_upper - 1e-12 and upper - lower < 1e-9:
                return upper, lower
            lowest_upper = min(upper, lowest_upper)
            value = self.evaluated(actions, best - best[0], 1e-12 if not early else 1e-3 * (upper - lower))
        raise RuntimeError(f"policy iteration did not settle between {lower!r} and {upper!r}")

    def evaluated(self, actions: np.ndarray, value: np.ndarray, tolerance: float) -> np.ndarray:
        """Return V of a policy by relative value iteration, to a span of the residual."""
        cost, (first, *second) = self.cost(actions), self.laws(actions)
        for _ in range(20_000):
            ahead = self.following(value)
            expected = np.einsum("kij,kj->ki", ahead, second[0]) if second else ahead
            change = cost + np.einsum("ki,ki->k", first, expected) - value
            value = value + change
            value = value - value[0]
            if np.ptp(change) < tolerance:
                return value
        raise RuntimeError("relative value iteration did not settle")


def oscillators(points: int = 9) -> Leads:
    """Return cases/oscillators_4d: V in units of the cost rate, q on the nodes that q + step p' reaches exactly."""
    step, noise = 0.25, 1.6 * math.sqrt(0.25)
    q, p = np.linspace(-1.0, 1.0, points), np.linspace(-4.0, 4.0, points)
    q1, q2, p1, p2 = (axis.ravel() for axis in np.meshgrid(q, q, p, p, indexing="ij"))
    shift = np.arange(points) - (points - 1) // 2
    reached = np.clip(np.arange(points)[:, None] + shift, 0, points - 1)  # node of q' from nodes of q and p'
    nodes = np.arange(points)

    def force(a: np.ndarray, own: np.ndarray, other: np.ndarray, speed: np.ndarray) -> np.ndarray:
        return -12.0 * own - 2.0 * own**3 + 2.0 * (other - own) - 0.5 * speed + a

    def laws(a: np.ndarray) -> list[np.ndarray]:
        means = p1 + step * force(a[:, 0], q1, q2, p1), p2 + step * force(a[:, 1], q2, q1, p2)
        return [nystrom_weights(p, mean, noise) for mean in means]

    def following(value: np.ndarray) -> np.ndarray:
        table = value.reshape((points,) * 4)
        at = table[reached[:, None, :, None], reached[None, :, None, :], nodes[:, None], nodes]  # (q1, q2, p1', p2')
        return np.broadcast_to(at[:, :, None, None], (points,) * 6).reshape(-1, points, points)

    def cost(a: np.ndarray) -> np.ndarray:
        return (12.0 * (q1**2 + q2**2) + p1**2 + p2**2 + 0.3 * (a**2).sum(axis=1)) / 2

    return Leads(cost, laws, following, np.array([2.0, 2.0]))


def cartpole(shape: tuple[int, int, int, int] = (5, 7, 10, 9)) -> Leads:
    """Return cases/cartpole on a grid too coarse for normal weights at the nodes: hat functions on every axis."""
    step, gravity, pole, half_length, mass = 0.05, 9.8, 0.1, 0.5, 1.1
    nx, nv, nt, no = shape
    place, speed, turn = (np.linspace(-end, end, n) for end, n in ((3.0, nx), (5.0, nv), (9.0, no)))
    angle = -np.pi + 2 * np.pi / nt * np.arange(nt)
    x, v, theta, omega = (axis.ravel() for axis in np.meshgrid(place, speed, angle, turn, indexing="ij"))
    moved = hat_weights(place, place[:, None] + step * speed, 0.0)  # (x, v', x')
    turned = hat_weights(angle, angle[:, None] + step * turn, 0.0, 2 * np.pi)  # (theta, omega', theta')

    def laws(a: np.ndarray) -> list[np.ndarray]:
        push = (a[:, 0] + pole * half_length * omega**2 * np.sin(theta)) / mass
        turning = (gravity * np.sin(theta) - np.cos(theta) * push) / (half_length * (4 / 3 - pole * np.cos(theta) ** 2 / mass))
        pushing = push - pole * half_length * turning * np.cos(theta) / mass
        return [hat_weights(speed, v + step * pushing, 0.28), hat_weights(turn, omega + step * turning, 0.5)]

    def following(value: np.ndarray) -> np.ndarray:
        at = np.einsum("xvX,toT,XvTo->xtvo", moved, turned, value.reshape(shape), optimize=True)
        return np.broadcast_to(at[:, None, :, None], (nx, nv, nt, no, nv, no)).reshape(-1, nv, no)

    def cost(a: np.ndarray) -> np.ndarray:
        return 1 - np.cos(theta) + 0.2 * x**2 + 0.01 * (v**2 + omega**2) + 0.0005 * a[:, 0] ** 2

    return Leads(cost, laws, following, np.array([20.0]))


def dubins(points: int = 15, headings: int = 16) -> Leads:
    """Return cases/dubins: x and y move with the present heading, and do not depend on the action."""
    place, heading = np.linspace(-2.5, 2.5, points), -np.pi + 2 * np.pi / headings * np.arange(headings)
    x, y, psi = (axis.ravel() for axis in np.meshgrid(place, place, heading, indexing="ij"))
    along = nystrom_weights(place, place[:, None] + 0.5 * np.cos(heading), 0.3)  # (x, psi, x')
    across = nystrom_weights(place, place[:, None] + 0.5 * np.sin(heading), 0.3)

    def following(value: np.ndarray) -> np.ndarray:
        table = value.reshape(points, points, headings)
        return np.einsum("xpX,ypY,XYq->xypq", along, across, table, optimize=True).reshape(-1, headings)

    return Leads(
        lambda a: (np.sqrt(x**2 + y**2) - 1) ** 2 + 0.05 * a[:, 0] ** 2,
        lambda a: [nystrom_weights(heading, psi + 0.5 * a[:, 0], 0.33, 2 * np.pi)],
        following,
        np.array([2.0]),
    )


REFERENCES = {
    "scalar_regulator": ScalarProblem(
        lambda x: x + 0.1 * (x - x**3), 0.1, 0.5 * math.sqrt(0.1), lambda x: x**2, 0.1, half_width=3.0
    ),
    "double_well": ScalarProblem(
        lambda x: x + 0.01 * (x - x**3), 0.01, 0.3 * 0.1, lambda x: (x**2 - 1) ** 2, 1.0, half_width=2.0, degree=200
    ),
    "torus_regulator": ScalarProblem(
        lambda x: x, 0.05, math.sqrt(0.05), lambda x: 1 + 0.5 * (np.sin(x) ** 2 - np.cos(x)), 0.5, degree=40
    ),
    "inverted_pendulum": GridPendulum(64, 65, angle_noise=0.1),
    "pendulum": GridPendulum(256),
    "bang_bang": GridMass(),
    "dubins": dubins(),
    "oscillators_4d": oscillators(),
    "cartpole": cartpole(),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the reference value of the named cases."""
    parser = argparse.ArgumentParser(description="average costs of the cases that have no closed form")
    parser.add_argument("names", nargs="*", help=f"cases (default: all of {', '.join(REFERENCES)})")
    names = parser.parse_args(arguments).names or list(REFERENCES)
    for name in names:
        if name not in REFERENCES:
            parser.error(f"no reference for {name!r}, only for {', '.join(REFERENCES)}")
    table = Table("case", "average cost", "lower bound", "seconds")
    for name in names:
        start = time.perf_counter()
        answer = REFERENCES[name].average_cost()
        average, bound = answer if isinstance(answer, tuple) else (answer, None)
        table.add_row(name, f"{average:.12f}", "" if bound is None else f"{bound:.12f}", f"{time.perf_counter() - start:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
