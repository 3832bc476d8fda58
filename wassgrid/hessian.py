"""The Hessian of J as an operator on tangent fields, split into local and transport curvature, and its extreme eigenvalues."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import linalg
from scipy.sparse import linalg as sparse_linalg

from wassgrid.errors import WassgridError
from wassgrid.evaluation import Evaluation
from wassgrid.metric import WASSERSTEIN, Metric, free_components
from wassgrid.resources import one_blas_thread
from wassgrid.tangent import Variation, without_mean

MOST_DENSE = 5000  # unknowns of a full matrix, 0.2 GiB each
MASS_FLOOR = 1e-10  # of the stationary probability: a cell with less is not part of the Hessian
_BESIDE = 1e-5  # of the range of an action: how far on both sides of a particle derivatives are compared
_BENT = 1e-6  # of the largest derivative: what they may differ by beyond what the second one explains
_DENSE = 64  # unknowns up to which the spectrum is computed from the full matrix
_KRYLOV_VECTORS = 24


class CurvatureError(WassgridError, ValueError):
    """An eigenvalue of the Hessian that could not be computed to the tolerance."""


def second_derivative(
    evaluation: Evaluation, v: np.ndarray, tolerance: float | None = None, metric: Metric = WASSERSTEIN
) -> tuple[float, float]:
    """Return the local and the transport part of d^2/dt^2 J(a + t v) at t = 0, for a tangent field v (cells, N, m).

    int mu int pi v . (D^2_a Q) v   and   2 mu Pdot_v D g_v. One solve with the chain, to `tolerance`. In a metric whose weights
    move v is (cells, N, m + 1), and the derivative that along the geodesic which begins with it (`Hessian`, `ParticleGeodesic`).
    """
    variation = Variation(evaluation, metric)
    local = evaluation.law @ variation.product(v, variation.bent(v))
    lifted = evaluation.chain.right(variation.slope(v), tolerance=tolerance).values
    return float(local), 2.0 * float(variation.pushed(v) @ lifted)


@dataclass(frozen=True)
class Hessian:
    """The Riemannian Hessian of J at one policy, in the metric <v, w> = int mu int pi v . w.

    With g_v(s) = int pi_s(da) grad_a Q . v and Pdot_v(s, ds') = int pi_s(da) v . grad_a p(ds'|s, a), along straight moves
    a -> a + t v of the particles (Dus 2026, arXiv 2604.14765)

        B(v, w) = int mu int pi v . (D^2_a Q) w         local curvature
                + mu Pdot_v D g_w + mu Pdot_w D g_v     transport curvature

    with D the fundamental matrix of the chain (`Chain`); for the discounted criterion mu is the occupancy and P is g P. Its
    Riesz representative in the metric, B(v, w) = <v, H w>, is

        H w = (D^2_a Q) w  +  grad_a p (D g_w)  +  (y_w / mu) grad_a Q,    y_w = mu Pdot_w D.

    Where weights move (`Metric`), w = (v, r) and straight moves are the geodesics of particles and weights, state by state
    (`ParticleGeodesic`): with n(s) = sum_i w_i (|v_i|^2 + r_i^2/kappa), a_i'' = -r_i v_i and w_i'' = w_i (r_i^2 + kappa |v_i|^2 -
    kappa n)/2. With the first variation phi_i (Q_i; where entropy has the price eps, Q_i + eps log(w_i/rho_i)), its mean V, and
    g_w(s) = sum_i w_i (grad_a Q . v_i + phi_i r_i), Pdot_w(s, ds') = sum_i w_i (v_i . grad_a p_i + r_i p_i),

        B(w, w) = int mu sum_i w_i (v_i . (D^2_a Q) v_i + r_i grad_a Q . v_i + eps r_i^2 + (phi_i - V)(r_i^2 + kappa |v_i|^2)/2)
                + 2 mu Pdot_w D g_w

        H w = ((D^2_a Q) v + (r_i grad_a Q + kappa (phi_i - V) v)/2,  kappa (eps r_i + ((phi_i - V) r_i + grad_a Q . v)/2))
            + (grad_a p (D g_w) + (y_w/mu) grad_a Q,  kappa (p_i (D g_w) + (y_w/mu) phi_i)),  all of r less its mean.

    Tangent fields have shape (cells, N, m), and (cells, N, m + 1) where weights move, r the last column. The operator acts on
    the components in `domain` and is zero elsewhere: cells with more than `floor` of the probability, particles of positive
    weight, components not held by an action bound, nor values of a list; and on r of mean zero, less its mean.
    One product costs two solves with the chain, which share its factors. `tolerance` is that of the solves (default:
    the evaluation's).
    """

    evaluation: Evaluation
    tolerance: float | None = None
    floor: float = MASS_FLOOR
    metric: Metric = WASSERSTEIN

    @cached_property
    def _variation(self) -> Variation:
        return Variation(self.evaluation, self.metric)

    @cached_property
    def mass(self) -> np.ndarray:
        """Weight mu_k w_ki of every particle in the metric, (cells, N); zero below the floor, and in the goal."""
        law = np.where(self.evaluation.law > self.floor, self.evaluation.law, 0.0)
        if (controlled := self.evaluation.controlled) is not None:
            law = np.where(controlled, law, 0.0)
        return law[:, None] * self.evaluation.policy.weights

    @cached_property
    def domain(self) -> np.ndarray:
        """Components (cells, N, m), or (cells, N, m + 1), that the Hessian acts on."""
        evaluation, model = self.evaluation, self.evaluation.model
        domain = np.zeros(self._variation.shape, dtype=bool)
        alive, m = self.mass > 0.0, evaluation.policy.action_dimension
        if self.metric.actions:
            free = free_components(evaluation.q_gradient, evaluation.policy.actions, model.limits, model.problem.listed)
            domain[..., :m] = free & alive[:, :, None]
        if self.metric.weights:
            # the weight of a single particle is one
            domain[..., m] = alive & (alive.sum(axis=1) > 1)[:, None]
        return domain

    def restrict(self, field: np.ndarray) -> np.ndarray:
        """Return the field with zeros outside the domain, r less its mean."""
        field = np.where(self.domain, field, 0.0)
        if self.metric.weights:
            field[..., -1] = np.where(self.domain[..., -1], without_mean(self.evaluation.policy.weights, field[..., -1]), 0.0)
        return field

    def inner(self, v: np.ndarray, w: np.ndarray) -> float:
        """Return <v, w> over the cells with mass."""
        return float(np.einsum("ki,kia,kia->", self.mass, v, self._variation.lowered(w)))

    @property
    def gradient(self) -> np.ndarray:
        """grad J = (grad_a Q, kappa (phi - V)) on the domain, zero elsewhere."""
        return self.restrict(self._variation.gradient)

    def local(self, w: np.ndarray) -> np.ndarray:
        """Return the local part of H w on the domain, (D^2_a Q) w where weights rest."""
        return self.restrict(self._variation.bent(self.restrict(w)))

    def transport(self, w: np.ndarray) -> np.ndarray:
        """Return the transport part of H w, grad_a p (D g_w) + (y_w / mu) grad_a Q, on the domain."""
        w, variation = self.restrict(w), self._variation
        law, chain = self.evaluation.law, self.evaluation.chain.repeated
        # y_w = mu Pdot_w D
        pushed = chain.left(variation.pushed(w), tolerance=self.tolerance).values
        density = np.divide(pushed, law, out=np.zeros_like(pushed), where=law > self.floor)
        # grad_a p (D g_w)
        lifted = chain.right(variation.slope(w), tolerance=self.tolerance).values
        return self.restrict(variation.gradient_of(lifted) + density[:, None, None] * variation.gradient)

    def apply(self, w: np.ndarray) -> np.ndarray:
        """Return H w."""
        return self.local(w) + self.transport(w)

    def curvature(self, v: np.ndarray) -> tuple[float, float]:
        """Return the local and the transport part of B(v, v) on the domain, with a single solve."""
        return second_derivative(self.evaluation, self.restrict(v), self.tolerance, self.metric)

    @cached_property
    def kinked(self) -> np.ndarray:
        """Which particles (cells, N) of the domain stand on a kink of Q: its derivatives before and behind them differ.

        Compared are grad_a Q(a + e) and grad_a Q(a - e), e a 1e-5th of the range of one action (of the largest one in use where
        it has no bounds): where Q is smooth they differ by 2 e D^2_a Q and a cube of e.
        """
        evaluation = self.evaluation
        domain = self.domain[..., : evaluation.policy.action_dimension]
        kinked, cells = np.zeros(domain.shape[:2], dtype=bool), np.flatnonzero(domain.any(axis=(1, 2)))
        if cells.size == 0:
            return kinked
        actions, inside = evaluation.policy.actions[cells], domain[cells]
        low, high = (np.broadcast_to(end, domain.shape)[cells] for end in evaluation.model.limits)
        used = np.abs(actions).max(axis=(0, 1))
        reach = _BESIDE * np.where(np.isfinite(high - low), high - low, np.where(used > 0, used, 1.0))
        found = np.zeros_like(inside)
        for b in np.flatnonzero(~evaluation.model.problem.listed):
            move = np.where(np.arange(actions.shape[2]) == b, reach, 0.0)
            before, behind = np.maximum(actions - move, low), np.minimum(actions + move, high)
            first, second = (evaluation.action_values(cells, places)[1] for places in (before, behind))
            explained = evaluation.q_hessian[cells][..., b] * (behind - before)[..., b, None]
            largest = max(float(np.abs(gradient[inside]).max()) for gradient in (first, second))
            bent = (np.abs(second - first - explained) > _BENT * largest) & inside
            found[..., b] = bent.any(axis=2) & inside[..., b]
        kinked[cells] = found.any(axis=2)
        return kinked

    @property
    def kinks(self) -> float:
        """Share of the particles, by probability, that stand on kinks of Q."""
        return float(self.mass[self.kinked].sum()) / max(float(self.mass.sum()), np.finfo(float).tiny)

    @cached_property
    def warning(self) -> str:
        """What a reader of eigenvalues has to know where particles stand on kinks of Q; empty where none does."""
        return kinks_named(self.kinks)

    @cached_property
    def _roots(self) -> np.ndarray:
        """sqrt(mu w), and sqrt(mu w/kappa) of r: z = root v is orthonormal where v is so in the metric."""
        roots = np.broadcast_to(np.sqrt(self.mass)[:, :, None], self.domain.shape)
        if not self.metric.weights:
            return roots
        return np.concatenate([roots[..., :-1], roots[..., -1:] / self.metric.rate**0.5], axis=2)

    @cached_property
    def _mirror(self) -> tuple[np.ndarray, np.ndarray]:
        """The particle (cells,) whose r follows from the others of its cell, and normals (cells, N) of mirrors for each cell.

        Reflected in it (Householder), the coordinates sqrt(w_i) r_i of r are zero at this particle where sum_i w_i r_i = 0.
        """
        unit = np.where(self.domain[..., -1], np.sqrt(self.evaluation.policy.weights), 0.0)
        cells, held = np.arange(len(unit)), unit.argmax(axis=1)
        unit[cells, held] += 1.0
        return held, unit / np.linalg.norm(unit, axis=1, keepdims=True)

    def _mirrored(self, z: np.ndarray) -> np.ndarray:
        """Return coordinates (cells, N, m + 1) with those of r reflected."""
        normal = self._mirror[1]
        of_weights = z[..., -1] - 2.0 * normal * (normal * z[..., -1]).sum(axis=1, keepdims=True)
        return np.concatenate([z[..., :-1], of_weights[..., None]], axis=2)

    @cached_property
    def _index(self) -> np.ndarray:
        used = self.domain
        if self.metric.weights:
            used = used.copy()
            used[np.arange(len(used)), self._mirror[0], -1] = False
        return np.flatnonzero(used)

    @property
    def unknowns(self) -> int:
        """Number of components in the domain; of weights one less than particles in every cell."""
        return self._index.size

    @cached_property
    def cells(self) -> np.ndarray:
        """The cell of every unknown, (unknowns,)."""
        return self._index // (self.domain.shape[1] * self.domain.shape[2])

    def field(self, z: np.ndarray) -> np.ndarray:
        """Return the tangent field of scaled coordinates z (unknowns,)."""
        field = np.zeros(self.domain.shape)
        field.ravel()[self._index] = z
        if self.metric.weights:
            field = self._mirrored(field)
        return np.divide(field, self._roots, out=np.zeros_like(field), where=self.domain)

    def coordinates(self, field: np.ndarray) -> np.ndarray:
        """Return the scaled coordinates (unknowns,) of a tangent field; <v, w> is their Euclidean product."""
        scaled = np.where(self.domain, field * self._roots, 0.0)
        if self.metric.weights:
            scaled = self._mirrored(scaled)
        return np.asarray(scaled.ravel()[self._index])

    def matrices(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the local and the transport part as symmetric matrices (unknowns, unknowns) of scaled coordinates.

        With e_k the unit functions of the cells, transport = A + A',  A_ij = z_i(grad p(D e_k(j))) z_j(grad J)/mu_k(j), k(j) the
        cell of component j and z the scaled coordinates: a solve for every cell in the domain.
        """
        evaluation, index = self.evaluation, self._index
        cells, cell = len(self.domain), self.cells
        slope = self.coordinates(self._variation.gradient) / evaluation.law[cell]
        transport = np.empty((index.size, index.size))
        chain = evaluation.chain.repeated
        for k in np.unique(cell):
            lifted = chain.right(np.eye(1, cells, k)[0], tolerance=self.tolerance).values
            here = np.flatnonzero(cell == k)
            transport[:, here] = np.outer(self.coordinates(self._variation.gradient_of(lifted)), slope[here])
        local = np.zeros_like(transport)
        # it acts within cells: one product for the n-th unknown of all cells
        number = np.arange(index.size) - np.searchsorted(cell, cell)
        for n in range(number.max(initial=-1) + 1):
            column = np.flatnonzero(number == n)
            image = self.coordinates(self.local(self.field((number == n).astype(float))))
            own = np.flatnonzero(np.isin(cell, cell[column]))
            local[own, column[np.searchsorted(cell[column], cell[own])]] = image[own]
        return local, transport + transport.T


@dataclass(frozen=True)
class Curvature:
    """An eigenvalue of the Hessian in the metric, with its eigenvector and what the local and transport parts add to it.

    value = local + transport for the field v of norm one; residual |H v - value v|, which bounds the distance to the
    nearest eigenvalue. `cell` carries the largest share of |v|^2.
    """

    value: float
    local: float
    transport: float
    residual: float
    field: np.ndarray
    cell: int


def kinks_named(share: float) -> str:
    """Say what it means for eigenvalues that a share of the particles stands on kinks of Q; empty for none."""
    text = "of the particles, by probability, stand on kinks of Q: eigenvalues are those of one branch, no test of a minimum"
    return f"{100.0 * share:.3g} % {text}" if share > 0.0 else ""


def is_convex(smallest: float, residual: float, largest: float) -> bool:
    """Tell whether the smallest eigenvalue is not negative beyond its residual and the rounding of the largest."""
    return bool(smallest >= -max(residual, 1e-10 * abs(largest)))


@dataclass(frozen=True, repr=False, eq=False)
class CurvatureRange:
    """The smallest and the largest eigenvalue of the Hessian; `products` counts products with it."""

    smallest: Curvature
    largest: Curvature
    products: int
    hessian: Hessian

    @property
    def convex(self) -> bool:
        """Whether J is geodesically convex to second order at this policy: no eigenvalue negative beyond its residual.

        Where there is a `warning`, of the branch of Q that particles on its kinks stand on.
        """
        return is_convex(self.smallest.value, self.smallest.residual, self.largest.value)

    @property
    def warning(self) -> str:
        """What to know where particles stand on kinks of Q (`Hessian.kinked`); empty where none does."""
        return self.hessian.warning

    def __repr__(self) -> str:
        return f"<Eigenvalues from {self.smallest.value:.6g} to {self.largest.value:.6g}{_beside(self.warning)}>"


@dataclass(frozen=True, repr=False, eq=False)
class Spectrum:
    """All eigenvalues of the Hessian in the metric, ascending, with what the local and transport parts add to each.

    values = local + transport, (unknowns,); vectors (unknowns, unknowns): eigenvectors as columns, in coordinates in which the
    metric is Euclidean; `field` gives them as tangent fields of norm one. Where eigenvalues coincide their parts are those of the
    basis that was found.
    """

    hessian: Hessian
    values: np.ndarray
    local: np.ndarray
    transport: np.ndarray
    vectors: np.ndarray

    def field(self, k: int) -> np.ndarray:
        """Return the tangent field (cells, N, m) of the k-th eigenvalue."""
        return self.hessian.field(self.vectors[:, k])

    @property
    def convex(self) -> bool:
        """Whether J is geodesically convex to second order at this policy: no eigenvalue negative beyond rounding.

        Where there is a `warning`, of the branch of Q that particles on its kinks stand on.
        """
        return is_convex(self.values[0], 0.0, self.values[-1])

    @property
    def warning(self) -> str:
        """What to know where particles stand on kinks of Q (`Hessian.kinked`); empty where none does."""
        return self.hessian.warning

    def __repr__(self) -> str:
        negative = int((self.values < 0).sum())
        ends = f"{self.values[0]:.6g} to {self.values[-1]:.6g}"
        return f"<Spectrum of {self.values.size} eigenvalues, {ends}, {negative} negative{_beside(self.warning)}>"


def _beside(warning: str) -> str:
    return f"; {warning}" if warning else ""


@one_blas_thread()
def spectrum(hessian: Hessian) -> Spectrum:
    """Compute all eigenvalues of the Hessian from its full matrix.

    Raises CurvatureError for more than MOST_DENSE unknowns, and if no component is free to move.
    """
    if hessian.unknowns > MOST_DENSE:
        raise CurvatureError(
            f"the full spectrum of {hessian.unknowns} unknowns needs a matrix of {hessian.unknowns**2 * 8 / 2**30:.3g} GiB, more "
            f"than is made here ({MOST_DENSE} unknowns): take the ends of the spectrum, fewer particles or a coarser grid"
        )
    _require_free(hessian)
    local, transport = hessian.matrices()
    values, vectors = linalg.eigh(local + transport)
    local, transport = (np.einsum("ik,ik->k", vectors, part @ vectors) for part in (local, transport))
    return Spectrum(hessian, values, local, transport, vectors)


def _require_free(hessian: Hessian) -> None:
    if hessian.unknowns == 0:
        held = "every particle is held by an action bound"
        if hessian.metric.weights:
            held = "in every state one particle has all of the weight, and it is held by an action bound"
            held = held if hessian.metric.actions else held.partition(", and")[0]
        raise CurvatureError(f"the Hessian has no free component: {held}")


@one_blas_thread()
def curvature_range(hessian: Hessian, tolerance: float = 1e-6, limit: int = 600) -> CurvatureRange:
    """Compute the extreme eigenvalues of the Hessian by the Lanczos method (ARPACK) on the scaled symmetric operator.

    The operator is sqrt(mu w) H / sqrt(mu w), restricted to the domain. `tolerance` bounds the residual relative to the
    largest eigenvalue in absolute value; eigenvalues are then better by the square where they stand alone. `limit`
    bounds the products with the Hessian, roughly. Raises CurvatureError where that is not reached, or if no
    component is free to move.
    """
    n = hessian.unknowns
    _require_free(hessian)
    products = 0

    def product(z: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        return hessian.coordinates(hessian.apply(hessian.field(np.asarray(z, dtype=float).ravel())))

    if n <= _DENSE:
        matrix = np.stack([product(row) for row in np.eye(n)])
        _, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
        ends = vectors[:, 0], vectors[:, -1]
    else:
        vectors = _lanczos(product, n, tolerance, limit)
        ends = vectors[:, 0], vectors[:, 1]
    low, high = (_curvature(hessian, z) for z in ends)
    products += 2
    allowed = 10 * tolerance * max(abs(low.value), abs(high.value))
    if max(low.residual, high.residual) > allowed:
        raise CurvatureError(
            f"the extreme eigenvalues of the Hessian were not found to {tolerance:.1g}: their residuals are "
            f"{low.residual:.3g} and {high.residual:.3g} after {products} products; a tighter solver.tolerance may help"
        )
    return CurvatureRange(low, high, products, hessian)


def _lanczos(product: Callable[[np.ndarray], np.ndarray], n: int, tolerance: float, limit: int) -> np.ndarray:
    """Return the vectors (n, 2) of both ends of the spectrum."""
    linear = sparse_linalg.LinearOperator((n, n), matvec=product, dtype=float)
    start = np.random.default_rng(0).standard_normal(n)
    size = min(n - 1, _KRYLOV_VECTORS)
    try:
        values, vectors = sparse_linalg.eigsh(
            linear, k=2, which="BE", v0=start, ncv=size, tol=tolerance, maxiter=max(limit // (size // 2), 2)
        )
    except sparse_linalg.ArpackNoConvergence as error:
        raise CurvatureError(
            f"the Lanczos method did not find the extreme eigenvalues of the Hessian to {tolerance:.1g} within about "
            f"{limit} products ({error.eigenvalues.size} of 2 found)"
        ) from error
    return vectors[:, np.argsort(values)]


def _curvature(hessian: Hessian, z: np.ndarray) -> Curvature:
    """Split the Rayleigh quotient of a scaled vector of norm one."""
    field = hessian.field(z / np.linalg.norm(z))
    image_local, image_transport = hessian.local(field), hessian.transport(field)
    local, transport = hessian.inner(field, image_local), hessian.inner(field, image_transport)
    value = local + transport
    defect = image_local + image_transport - value * field
    residual = float(np.sqrt(hessian.inner(defect, defect)))
    share = np.bincount(hessian.cells, hessian.coordinates(field) ** 2)
    return Curvature(value, local, transport, residual, field, int(share.argmax()))
