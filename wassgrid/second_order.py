"""Second order in the Wasserstein geometry of policies as an interface: the Hessian of J, its parts, its spectrum.

Along straight moves a -> a + t v of the particles (Dus 2026, arXiv 2604.14765)

    d^2/dt^2 J = int mu int pi v . (D^2_a Q) v     local curvature
               + 2 mu Pdot_v D g_v                 transport curvature,  g_v(s) = int pi_s(da) grad_a Q . v,

with Pdot_v the derivative of the transition kernel and D the fundamental matrix of the chain. Eigenvalues are those of
H v = lambda v in the metric of `wassgrid.geometry`, in units of the cost over the square of the action; J is geodesically convex
to second order where none is negative. Where weights move (`flow.geometry` of the case) the metric is the larger one of
`gradient_norm`, fields are (cells, N, m + 1) with the rates r of the weights, w_i' = w_i r_i, in the last column, and straight
moves are the geodesics of particles and weights together (`Hessian`). Derivatives know nothing of kinks: where particles stand on
one of Q (abs, max or where in cost or law), `.warning` of what these functions return says so, in how many states.

What functions take, and how to call several of them without computing anything twice: see `wassgrid.geometry`.

>>> import wassgrid as wg
>>> point = wg.geometry.at(wg.Case.load("cases/geodesic_curvature.toml"))
>>> spectrum = wg.second_order.spectrum(point)
>>> spectrum.convex, bool(spectrum.local.min() > 0), bool(spectrum.transport[0] < 0)
(False, True, True)
"""

from __future__ import annotations

import numpy as np

from wassgrid import differences, hessian
from wassgrid.differences import DerivativeCheck
from wassgrid.geometry import Point, Source, at, tangent
from wassgrid.hessian import Curvature, CurvatureError, CurvatureRange, Hessian, Spectrum
from wassgrid.metric import WASSERSTEIN, Metric
from wassgrid.policy import PolicyError
from wassgrid.tangent import without_mean

__all__ = [
    "Curvature", "CurvatureRange", "DerivativeCheck", "Hessian", "Spectrum", "check", "ends", "operator",
    "second_derivative", "spectrum",
]  # fmt: skip

_ROUNDING = 1e-9  # of the largest r of a state: a mean that is none


def operator(what: Source, floor: float = hessian.MASS_FLOOR) -> Hessian:
    """Return the Hessian of J as an operator on tangent fields (cells, N, m); where weights move (cells, N, m + 1), r the last.

    `.kinked` (cells, N) are the particles on kinks of Q, where its derivatives to both sides differ; `.warning` says how many.
    `.apply(v)` is H v, `.local(v)` and `.transport(v)` its parts, `.inner(v, w)` the metric, `.domain` the components it acts on:
    cells with more than `floor` of the probability, particles not held by an action bound. A product costs two solves with the
    chain, by factors where they fit.
    """
    point = at(what)
    return Hessian(point.evaluation, floor=floor, metric=_metric(point))


def second_derivative(what: Source, v: np.ndarray) -> tuple[float, float]:
    """Return the local and the transport part of d^2/dt^2 J(a + t v) for a field (cells, N, m): one solve with the chain.

    In units of the cost where v is in those of the action. For a field (v, r), (cells, N, m + 1), in a case whose weights move:
    along the geodesic that begins with it. Raises PolicyError for another shape, and where sum_i w_i r_i is not zero.
    """
    point = at(what)
    metric, field, shape = _metric(point), np.asarray(v, dtype=float), point.policy.actions.shape
    if not metric.weights or field.shape == shape:
        return hessian.second_derivative(point.evaluation, tangent(point, field), metric=WASSERSTEIN)
    if field.shape != (*shape[:2], shape[2] + 1):
        raise PolicyError(f"expected a tangent field of shape {shape}, or {(*shape[:2], shape[2] + 1)} with r, got {field.shape}")
    r, weights = field[..., -1], point.policy.weights
    lost = np.abs(r - without_mean(weights, r)).max(axis=1) / np.maximum(np.abs(r).max(axis=1), np.finfo(float).tiny)
    if not lost.max() <= _ROUNDING:
        cell = int(lost.argmax())
        raise PolicyError(
            f"masses stay one: sum_i w_i r_i is {float((weights[cell] * r[cell]).sum()):.3g} at "
            f"{point.policy.grid.describe_cell(cell)}, subtract it from r"
        )
    return hessian.second_derivative(point.evaluation, field, metric=metric)


def spectrum(what: Source, floor: float = hessian.MASS_FLOOR) -> Spectrum:
    """Return all eigenvalues of the Hessian, each with its local and transport part, by a dense matrix.

    Time grows like the cube of the unknowns (particles times actions, in cells with more than `floor` of the probability), up to
    5,000 of them. Raises CurvatureError for more (see `ends`) and for none.
    """
    return hessian.spectrum(operator(what, floor))


def ends(what: Source, tolerance: float = 1e-6) -> CurvatureRange:
    """Return the smallest and the largest eigenvalue with their fields and parts, by the Lanczos method, for any size.

    tolerance: of the residuals, relative to the largest eigenvalue. Raises CurvatureError where it is not reached.
    """
    return hessian.curvature_range(operator(what), tolerance)


def check(what: Source, seed: int = 0) -> DerivativeCheck:
    """Hold gradient and Hessian against fourth-order differences of J, which is solved anew, along a random field.

    Eight solves; `.slope_error` and `.curvature_error` are relative, `.passed` says whether they are small.
    """
    point = at(what)
    return differences.check_derivatives(point.evaluator, point.evaluation, seed, _metric(point))


def _metric(point: Point) -> Metric:
    """Return the metric of the case.  Raises CurvatureError where there is no second order in it."""
    if point.policy.blobs is not None:
        raise CurvatureError(
            "the Hessian is not known where blobs slide and entropy has a price: it is where weights alone move, with "
            'flow.geometry = "fisher_rao"'
        )
    return Metric.from_case(point.case)
