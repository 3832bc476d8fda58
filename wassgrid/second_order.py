"""Second order in the Wasserstein geometry of policies as an interface: the Hessian of J, its parts, its spectrum.

Along straight moves a -> a + t v of the particles (Dus 2026, arXiv 2604.14765)

    d^2/dt^2 J = int mu int pi v . (D^2_a Q) v     local curvature
               + 2 mu Pdot_v D g_v                 transport curvature,  g_v(s) = int pi_s(da) grad_a Q . v,

with Pdot_v the derivative of the transition kernel and D the fundamental matrix of the chain. Eigenvalues are those of
H v = lambda v in the metric of `wassgrid.geometry`, in units of the cost over the square of the action; J is geodesically convex
to second order where none is negative. Derivatives know nothing of kinks: where particles stand on one of Q (abs, max or where in
cost or law), `.warning` of what these functions return says so, in how many states.

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
from wassgrid.geometry import Source, at, tangent
from wassgrid.hessian import Curvature, CurvatureRange, Hessian, Spectrum

__all__ = [
    "Curvature", "CurvatureRange", "DerivativeCheck", "Hessian", "Spectrum", "check", "ends", "operator",
    "second_derivative", "spectrum",
]  # fmt: skip


def operator(what: Source, floor: float = hessian.MASS_FLOOR) -> Hessian:
    """Return the Hessian of J as an operator on tangent fields (cells, N, m).

    `.kinked` (cells, N) are the particles on kinks of Q, where its derivatives to both sides differ; `.warning` says how many.
    `.apply(v)` is H v, `.local(v)` and `.transport(v)` its parts, `.inner(v, w)` the metric, `.domain` the components it acts on:
    cells with more than `floor` of the probability, particles not held by an action bound. A product costs two solves with the
    chain, by factors where they fit.
    """
    return Hessian(at(what).evaluation, floor=floor)


def second_derivative(what: Source, v: np.ndarray) -> tuple[float, float]:
    """Return the local and the transport part of d^2/dt^2 J(a + t v) for a field (cells, N, m): one solve with the chain.

    In units of the cost where v is in those of the action. Raises PolicyError for a field of another shape.
    """
    point = at(what)
    return hessian.second_derivative(point.evaluation, tangent(point, v))


def spectrum(what: Source, floor: float = hessian.MASS_FLOOR) -> Spectrum:
    """Return all eigenvalues of the Hessian, each with its local and transport part, by a dense matrix.

    Time grows like the cube of the unknowns (particles times actions, in cells with more than `floor` of the probability), up to
    5,000 of them. Raises CurvatureError for more (see `ends`) and for none.
    """
    return hessian.spectrum(Hessian(at(what).evaluation, floor=floor))


def ends(what: Source, tolerance: float = 1e-6) -> CurvatureRange:
    """Return the smallest and the largest eigenvalue with their fields and parts, by the Lanczos method, for any size.

    tolerance: of the residuals, relative to the largest eigenvalue. Raises CurvatureError where it is not reached.
    """
    return hessian.curvature_range(Hessian(at(what).evaluation), tolerance)


def check(what: Source, seed: int = 0) -> DerivativeCheck:
    """Hold gradient and Hessian against fourth-order differences of J, which is solved anew, along a random field.

    Eight solves; `.slope_error` and `.curvature_error` are relative, `.passed` says whether they are small.
    """
    point = at(what)
    return differences.check_derivatives(point.evaluator, point.evaluation, seed)
