"""The Wasserstein geometry of policies: tangent fields and their metric, geodesics, the distance between two policies.

Weights may move beside the actions, or alone (Wasserstein-Fisher-Rao and Fisher-Rao geometry: `Metric`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wassgrid.chain.reductions import dot, sums
from wassgrid.evaluation import Evaluation
from wassgrid.method.facts import GEOMETRY_FACTS
from wassgrid.policy import ParticlePolicy, PolicyError

if TYPE_CHECKING:
    from wassgrid.case import Case


def inner(law: np.ndarray, weights: np.ndarray, v: np.ndarray, w: np.ndarray) -> float:
    """Return <v, w>_pi = int mu(ds) int pi_s(da) v(s, a) . w(s, a) for fields (cells, N, m)."""
    return float(sums(np.einsum("k,ki,kia,kia->", law, weights, v, w)))


def norm(law: np.ndarray, weights: np.ndarray, v: np.ndarray) -> float:
    """Return |v|_pi; negative mass of a law that is not one (cubic kernel) counts as none."""
    return float(np.sqrt(inner(np.maximum(law, 0.0), weights, v, v)))


Limits = tuple[np.ndarray, np.ndarray]  # lowest and highest actions


def free_components(gradient: np.ndarray, actions: np.ndarray, limits: Limits, listed: np.ndarray) -> np.ndarray:
    """Tell for every component whether the flow a' = -gradient moves it: not from a bound outward, nor from a value of a list.

    gradient, actions (..., m); limits: lowest and highest actions, of shapes that broadcast with these, as
    `TransitionModel.limits` are; listed (m,): which actions take values (`ControlProblem.listed`). The answer (..., m) is False
    for components that are held.
    """
    low, high = limits
    held = ((actions <= low) & (gradient > 0)) | ((actions >= high) & (gradient < 0))
    return ~(held | listed)


def free_gradient(gradient: np.ndarray, actions: np.ndarray, limits: Limits) -> np.ndarray:
    """Return the gradient without the components along which a particle on a bound would leave it.

    At a bound the constrained flow stands still in those components: they are not part of the gradient norm. Along values of a
    list the gradient is zero already.
    """
    return np.where(free_components(gradient, actions, limits, np.zeros(actions.shape[-1], bool)), gradient, 0.0)


@dataclass(frozen=True)
class Metric:
    """The metric in which the gradient of J is taken, of tangent vectors (v, r): a_i' = v_i, w_i' = w_i r_i, sum_i w_i r_i = 0.

        <(v, r), (v, r)>_pi = int mu(ds) sum_i w_i (v_i . v_i + r_i^2/kappa)

    actions: whether actions move (v may differ from zero); rate: kappa, 0 where weights rest (r = 0). In it

        grad J = (grad_a Q, kappa (Q_i - V)),   V(s) = sum_i w_i Q_i

    (where entropy has a price, with Q_i + eps log(w_i/rho_i) for Q_i, `Evaluation.first_variation`),

    the Wasserstein-Fisher-Rao gradient of unit mass per state (Chizat et al. 2018; Liero, Mielke and Savare 2018); with actions
    at rest the Fisher-Rao one, whose flow is the replicator equation and the natural policy gradient (Kakade 2001).
    """

    actions: bool = True
    rate: float = 0.0

    @classmethod
    def from_case(cls, case: Case) -> Metric:
        facts = GEOMETRY_FACTS[case.flow.geometry]
        return cls(facts.actions, (case.flow.weight_rate or 1.0) if facts.weights else 0.0)

    @property
    def weights(self) -> bool:
        """Whether weights move."""
        return self.rate > 0.0


WASSERSTEIN = Metric()


def mean_q(evaluation: Evaluation) -> np.ndarray:
    """Return the mean first variation of every cell, (cells,), sum_i w_i Q_i without entropy: V, up to its residual."""
    return np.einsum("ki,ki->k", evaluation.policy.weights, evaluation.first_variation)


def gradient_norm(evaluation: Evaluation, metric: Metric = WASSERSTEIN) -> float:
    """Return |grad J|_pi, that of grad_a Q over the free components (Dus 2026: grad J = grad_a Q), and of kappa (Q - V).

        |grad J|^2 = int mu(ds) sum_i w_i (|grad_a Q|^2 + kappa (Q_i - V)^2)

    Of blobs that slide the same of the first variation mollified (`Blobs.mollified`) in place of Q.
    """
    policy, blobs, length = evaluation.policy, evaluation.policy.blobs, 0.0
    weights, variation = policy.weights, evaluation.first_variation
    if blobs is not None:
        weights, (variation, gradient) = blobs.shares, blobs.mollified(variation)
        length = norm(evaluation.law, weights, free_gradient(gradient, blobs.centres, blobs.limits))
    elif metric.actions:
        length = norm(evaluation.law, weights, free_gradient(evaluation.q_gradient, policy.actions, evaluation.model.limits))
    if not metric.weights:
        return length
    excess = (variation - np.einsum("ki,ki->k", weights, variation)[:, None])[:, :, None]
    return float(np.hypot(length, metric.rate**0.5 * norm(evaluation.law, weights, excess)))


def cloud(policy: ParticlePolicy) -> tuple[np.ndarray, np.ndarray]:
    """Return what of a policy moves: actions (cells, N, m) and weights (cells, N) of its particles, of its blobs if any."""
    return (policy.actions, policy.weights) if policy.blobs is None else (policy.blobs.centres, policy.blobs.shares)


def step_length(law: np.ndarray, old: ParticlePolicy, new: ParticlePolicy, metric: Metric = WASSERSTEIN) -> float:
    """Return the length of the move of every particle from one policy to another in the metric, law (cells,).

    Actions move straight, weights along the geodesic of Fisher and Rao, whose length is 2/sqrt(kappa) times the angle between
    the square roots: sum_i w_i r_i^2/kappa = 4 |d sqrt(w)|^2/kappa.
    """
    (actions, weights), (ends, others) = cloud(old), cloud(new)
    moved = norm(law, weights, ends - actions)
    if not metric.weights:
        return moved
    chord = np.sqrt(np.square(np.sqrt(others) - np.sqrt(weights)).sum(axis=1))
    angle = 2.0 * np.arcsin(np.minimum(0.5 * chord, 1.0))
    turned = 2.0 * np.sqrt(dot(np.maximum(law, 0.0), angle**2) / metric.rate)
    return float(np.hypot(moved, turned))


@dataclass(frozen=True)
class Geodesic:
    """The displacement interpolation between two policies: in every cell, particles move straight along an optimal coupling.

    start, end (cells, K, m) and weights (cells, K): coupled pairs of particles and the mass they share (McCann 1997).
    The weights of a cell sum to one; pairs of weight zero may occur.
    """

    first: ParticlePolicy
    start: np.ndarray
    end: np.ndarray
    weights: np.ndarray

    def __repr__(self) -> str:
        return f"<Geodesic on {self.first.grid.described}, {self.weights.shape[1]} coupled particles>"

    @property
    def velocity(self) -> np.ndarray:
        """The tangent field (cells, K, m), constant along the geodesic."""
        return self.end - self.start

    @property
    def jumps(self) -> bool:
        """Whether particles move from one value of a list to another: on their way there is no policy."""
        if not self.first.mixed:
            return False
        return bool((self.velocity[..., np.array(self.first.listed)][self.weights > 0.0] != 0.0).any())

    def at(self, time: float) -> ParticlePolicy:
        """Return the policy at `time`: the first at 0, the second at 1, with K particles per cell.

        Raises PolicyError where particles would stand between the values of a list.
        """
        if self.jumps and 0.0 < time < 1.0:
            raise PolicyError(
                "the geodesic leads from one value of a list to another, between which there is no policy: it has a length alone"
            )
        actions = (1.0 - time) * self.start + time * self.end
        return ParticlePolicy(self.first.grid, actions, self.weights, limits=self.first.limits, listed=self.first.listed)

    def squared_distances(self) -> np.ndarray:
        """Return W2(pi_s, pi'_s)^2 of every cell, (cells,)."""
        return np.einsum("ki,kia->k", self.weights, self.velocity**2)

    def length(self, law: np.ndarray) -> float:
        """Return the distance d with d^2 = int nu(ds) W2(pi_s, pi'_s)^2 for a law nu of the states (cells,)."""
        return float(np.sqrt(law @ self.squared_distances()))


def distance(first: ParticlePolicy, second: ParticlePolicy, law: np.ndarray) -> float:
    """Return the distance of two policies on one grid: state-wise W2, averaged over a law of the states (cells,).

    See `geodesic` for couplings and errors.
    """
    return geodesic(first, second).length(law)


def geodesic(first: ParticlePolicy, second: ParticlePolicy) -> Geodesic:
    """Couple two policies optimally in every cell for the squared distance of actions.

    One action: the sorted coupling, exact for any weights. Several actions: an assignment problem where all weights are
    equal, otherwise a transport problem, solved exactly by POT. Raises PolicyError where the policies live on
    different grids or action spaces, or where POT is needed and missing.
    """
    same = first.grid.shape == second.grid.shape and first.grid.boundary == second.grid.boundary
    if not same or not all(map(np.allclose, first.grid.axes, second.grid.axes)):
        raise PolicyError(
            f"policies on different grids ({_shape(first)} and {_shape(second)}) have no state-wise distance: solve one case "
            "again on the other's grid"
        )
    if first.action_dimension != second.action_dimension:
        raise PolicyError(f"policies with {first.action_dimension} and {second.action_dimension} actions cannot be compared")
    if first.particles == 1 or second.particles == 1:
        cells, pairs = first.grid.size, max(first.particles, second.particles)
        rows = np.arange(pairs)
        one, other = (np.tile(rows if p.particles > 1 else 0 * rows, (cells, 1)) for p in (first, second))
        mass = second.weights if first.particles == 1 else first.weights
    elif first.action_dimension == 1:
        one, other, mass = _sorted_coupling(first, second)
    elif first.particles == second.particles and np.ptp(first.weights) == 0 and np.ptp(second.weights) == 0:
        one, other, mass = _assignment(first, second)
    else:
        one, other, mass = _transport_plan(first, second)
    start = np.take_along_axis(first.actions, one[:, :, None], axis=1)
    end = np.take_along_axis(second.actions, other[:, :, None], axis=1)
    return Geodesic(first, start, end, mass)


def _shape(policy: ParticlePolicy) -> str:
    return " x ".join(map(str, policy.grid.shape))


Coupling = tuple[np.ndarray, np.ndarray, np.ndarray]  # indices in the first and in the second cloud and mass, (cells, K)


def _sorted_coupling(first: ParticlePolicy, second: ParticlePolicy) -> Coupling:
    """Couple equal quantiles: between two neighbouring jumps of either distribution function, both quantiles are constant."""
    order, other_order = (np.argsort(p.actions[:, :, 0], axis=1, kind="stable") for p in (first, second))
    levels = [
        np.cumsum(np.take_along_axis(p.weights, o, axis=1), axis=1)[:, :-1]
        for p, o in ((first, order), (second, other_order))
    ]
    jumps = np.minimum(np.concatenate(levels, axis=1), 1.0)
    merged = np.argsort(jumps, axis=1, kind="stable")
    edges = np.take_along_axis(jumps, merged, axis=1)
    mass = np.diff(edges, axis=1, prepend=0.0, append=1.0)
    # the rank of a piece in a cloud is the number of that cloud's jumps before it
    of_first = merged < first.particles - 1
    rank = np.zeros(mass.shape, np.int64)
    np.cumsum(of_first, axis=1, out=rank[:, 1:])
    other_rank = np.arange(mass.shape[1]) - rank
    used = mass.any(axis=0)
    one = np.take_along_axis(order, rank[:, used], axis=1)
    return one, np.take_along_axis(other_order, other_rank[:, used], axis=1), mass[:, used]


def _assignment(first: ParticlePolicy, second: ParticlePolicy) -> Coupling:
    from scipy.optimize import linear_sum_assignment

    cells, particles = first.weights.shape
    other = np.empty((cells, particles), np.int64)
    for k in range(cells):
        _, other[k] = linear_sum_assignment(_squared_distances(first.actions[k], second.actions[k]))
    return np.tile(np.arange(particles), (cells, 1)), other, first.weights


def _transport_plan(first: ParticlePolicy, second: ParticlePolicy) -> Coupling:
    try:
        import ot
    except ImportError as error:
        raise PolicyError(
            "the distance between clouds of unequal weights with several actions needs the package POT: "
            "pip install 'wassgrid[transport]'"
        ) from error
    cells, pairs = first.grid.size, first.particles + second.particles - 1
    one, other = np.zeros((cells, pairs), np.int64), np.zeros((cells, pairs), np.int64)
    mass = np.zeros((cells, pairs))
    for k in range(cells):
        shares = [p.weights[k] / p.weights[k].sum() for p in (first, second)]
        plan = ot.emd(*shares, _squared_distances(first.actions[k], second.actions[k]))
        # a vertex of the transport polytope has at most N + M - 1 entries
        rows, columns = np.nonzero(plan)
        one[k, : rows.size], other[k, : rows.size], mass[k, : rows.size] = rows, columns, plan[rows, columns]
    return one, other, mass / mass.sum(axis=1, keepdims=True)


def _squared_distances(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.square(points[:, None, :] - others[None, :, :]).sum(axis=-1)
