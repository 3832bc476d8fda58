"""A good u: policy iteration for the continuous problem on rows of means and nodes of states; not proven."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse.linalg import LinearOperator, gmres

from wassgrid.certificate.continuous.bellman import Bellman
from wassgrid.certificate.continuous.laws import Axis, expect
from wassgrid.certificate.continuous.spline import Spline
from wassgrid.problem.control_problem import ControlProblem

Array = np.ndarray
_ITERATIONS = 30  # policies
_SEARCHED = 4  # policies found from candidates all over the action box; later ones by descent from the one before


@dataclass(frozen=True)
class Value:
    """Hold u on the knots, as a spline, and the spread max - min of S u - u on the rows as far as quadrature can tell."""

    u: Spline
    spread: float


def rows_of(axes: tuple[Axis, Axis], function: Spline | None, order: int = 0) -> Array:
    """Return a function of the means, or a derivative (see `spline.ORDERS`), on the rows (rows_1, rows_2); zero for None."""
    columns = [axis.knots.positions[: axis.row_count] for axis in axes]
    if function is None:
        return np.zeros((axes[0].row_count, axes[1].row_count))
    first, second = np.meshgrid(*columns, indexing="ij")
    return function.at(*_within(function, first.ravel(), second.ravel()))[order].reshape(first.shape)


def _within(function: Spline, *places: Array) -> list[Array]:
    result = []
    for knots, y in zip(function.knots, places, strict=True):
        clipped = y if knots.periodic or knots.cells == 0 else np.clip(y, knots.low, knots.low + knots.spacing * knots.cells)
        result.append(clipped)
    return result


def spline_of(axes: tuple[Axis, Axis], rows: Array) -> Spline:
    """Return the spline through values on the rows."""
    for k, axis in enumerate(axes):
        rows = axis.mirrored(rows, k)
    return Spline.through((axes[0].knots, axes[1].knots), rows)


def solve(
    problem: ControlProblem, axes: tuple[Axis, Axis], start: Array, box: tuple[Array, Array], tries: int, wanted: float
) -> Value:
    """Iterate policies from u = start (rows) until the spread of S u - u falls no further, or below `wanted`."""
    bellman = Bellman(problem, axes, spline_of(axes, start))
    d = problem.state_dimension
    edges = [axis.edges for axis in axes[:d]]  # type: ignore[union-attr]
    # nodes at the ends of a periodic axis: inside
    inner = [np.clip(e, e[0] + 1e-14 * np.ptp(e), e[-1] - 1e-14 * np.ptp(e)) for e in edges]
    x = np.stack([c.ravel() for c in np.meshgrid(*inner, indexing="ij")], axis=1)
    shape = tuple(e.size for e in edges)
    spacing = [axis.spacing for axis in axes[:d]]
    discounted = problem.criterion == "discounted"
    actions, best = None, None
    rows = start
    for turn in range(_ITERATIONS):
        if turn < _SEARCHED:
            found, values = bellman.minimise(x, box, tries)
            if actions is not None:
                kept, at_kept = bellman.improve(x, actions, *box, steps=3)
                better = at_kept < values
                found[better], values[better] = kept[better], at_kept[better]
        else:
            assert actions is not None
            found, values = bellman.improve(x, actions, *box, steps=4)
        actions = found
        image = expect(axes, polynomials(values.reshape(shape), spacing))
        change = image - rows
        spread = float(np.ptp(change))
        if best is None or spread < 0.7 * best[0]:
            late = 0
        else:
            late += 1
        if best is None or spread < best[0]:
            best = spread, rows
        if spread < wanted or late > 2:
            break
        rows = _evaluated(bellman, x, shape, spacing, actions, image, discounted, 1e-3 * max(wanted, 1e-3 * spread))
        bellman = replace(bellman, u=spline_of(axes, rows))
    assert best is not None
    return Value(spline_of(axes, best[1]), best[0])


def _evaluated(
    bellman: Bellman, x: Array, shape: tuple[int, ...], spacing: list[float], actions: Array, start: Array,
    discounted: bool, tolerance: float,
) -> Array:  # fmt: skip
    """Return u = E [c + g u(F)] - J on the rows for the policy `actions` at the nodes; J = 0 when discounted, else u[0] fixed."""
    problem, axes = bellman.problem, bellman.axes
    tables = problem.action_tables(x, actions[:, None, :], 0)
    places = []
    for k in range(bellman.d):
        ends = bellman.clip(k)
        places.append(tables.mean[:, 0, k] if ends is None else np.clip(tables.mean[:, 0, k], *ends))
    if bellman.d == 1:
        places.append(np.zeros(len(x)))

    def image(values: Array) -> Array:
        return expect(axes, polynomials(values.reshape(shape), spacing))

    cost = image(tables.cost[:, 0])

    def apply(flat: Array) -> Array:
        u = flat.reshape(cost.shape)
        moved = image(bellman.discount * spline_of(axes, u).at(*places)[0])
        # one more unknown, J, and u = 0 at the first row: u - P u + u_0 = c - J, with J = u_0
        return (u - moved + (0.0 if discounted else u.flat[0])).ravel()

    operator = LinearOperator((cost.size, cost.size), matvec=apply, dtype=float)
    guess = start - (0.0 if discounted else start.flat[0])
    scale = float(np.max(np.abs(cost))) * np.sqrt(cost.size)
    enough = max(tolerance, 1e-14 * scale)
    solution, _ = gmres(operator, cost.ravel(), x0=guess.ravel(), rtol=0.0, atol=enough, restart=40, maxiter=4)
    return solution.reshape(cost.shape)


def polynomials(q: Array, spacing: list[float]) -> Array:
    """Return the polynomials (6, cells_1, cells_2) through values at nodes (one axis or two) with differences for bends."""
    q = q if q.ndim == 2 else q[:, None]
    d = len(spacing)
    bends = []
    for k in range(d):
        second = np.diff(q, n=2, axis=k) / spacing[k] ** 2
        ends = [np.take(second, [0], axis=k), second, np.take(second, [-1], axis=k)]
        bends.append(np.concatenate(ends, axis=k))
    middle = lambda z, k: 0.5 * (np.take(z, range(z.shape[k] - 1), axis=k) + np.take(z, range(1, z.shape[k]), axis=k))  # noqa: E731
    mean = middle(q, 0)
    p = [mean, np.diff(q, axis=0) / spacing[0], None, middle(bends[0], 0), None, None]
    if d == 2:
        both = [middle(middle(b, 0), 1) for b in bends]
        p = [middle(mean, 1), middle(np.diff(q, axis=0), 1) / spacing[0], np.diff(mean, axis=1) / spacing[1], both[0],
             np.diff(np.diff(q, axis=0), axis=1) / (spacing[0] * spacing[1]), both[1]]  # fmt: skip
    else:
        both = [p[3]]
    result = np.stack([np.zeros_like(p[0]) if part is None else part for part in p])
    for k in range(d):
        result[0] -= both[k] * spacing[k] ** 2 / 8
    return result
