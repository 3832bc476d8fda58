"""Blobs: particles that slide, each a narrow law on the nodes of a quadrature; together they are a policy that has a density.

A particle at a is the law on nodes u_j at equal distances from `low` to `high`, of every action by itself,

    K_j(a) = omega_j phi_j(a) / sum_l omega_l phi_l(a),    phi_j(a) = sum over images a' of exp(-(u_j - a')^2/(2 delta^2)),

omega the trapezoidal rule, the images a itself and its reflections at both ends: what a normal law of standard deviation delta
has beyond an end comes back. The policy is the mixture W_q = sum_n w_n K_q(a_n) (the law of the particles, mollified), no
approximation of anything: its cost and its entropy are those of the weights W on the nodes. For a function F of the weights
with the derivatives F_q = dF/dW_q,

    dF/dw_n = sum_q K_q(a_n) F_q,    dF/da_n = w_n sum_q grad K_q(a_n) F_q,

so that the gradient of F in the Wasserstein metric of the particles is that of F_q mollified: of F itself no derivative along
the actions is taken. Sources: Carrillo, Craig and Patacchini (2019), A blob method for diffusion; of energies of the mollified
law itself, Lions and Mas-Gallic (2001).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from wassgrid.case import Case

_AT_ONCE = 1 << 22  # numbers of one block


@dataclass(frozen=True, eq=False)
class Blobs:
    """Hold the particles of every cell.

    | name      | symbol | shape         | meaning                                                               |
    |-----------|--------|---------------|-----------------------------------------------------------------------|
    | centres   | a_n    | (cells, N, m) | the particles, between low and high                                   |
    | shares    | w_n    | (cells, N)    | their weights, of sum one                                             |
    | low, high |        | (cells, m)    | first and last node of every action                                   |
    | side      |        |               | nodes of one action                                                   |
    | bandwidth | delta  |               | standard deviation of a blob, in units of high - low                  |
    """

    centres: np.ndarray
    shares: np.ndarray
    low: np.ndarray
    high: np.ndarray
    side: int
    bandwidth: float

    @classmethod
    def even(cls, case: Case, states: np.ndarray) -> Blobs:
        """Return equal particles at equal distances, half a distance from the ends; of several actions on a product of these."""
        low, high = case.initial_tables(states)[2:]
        m, settings = low.shape[1], case.policy
        assert settings.blobs is not None and settings.bandwidth is not None
        number = round(settings.blobs ** (1.0 / m))
        share = (np.arange(number) + 0.5) / number
        place = np.stack(np.meshgrid(*[share] * m, indexing="ij"), axis=-1).reshape(-1, m)
        centres = low[:, None] + (high - low)[:, None] * place
        shares = np.full(centres.shape[:2], 1.0 / settings.blobs)
        return cls(centres, shares, low, high, round(settings.particles ** (1.0 / m)), settings.bandwidth)

    @property
    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest centres, (cells, 1, m) each."""
        return self.low[:, None], self.high[:, None]

    def moved(self, centres: np.ndarray, shares: np.ndarray | None = None) -> Blobs:
        """Return blobs at other centres, put between low and high, and of the same shares, or of others."""
        return replace(self, centres=np.clip(centres, *self.limits), shares=self.shares if shares is None else shares)

    def of(self, cells: np.ndarray) -> Blobs:
        """Return the blobs of chosen cells, in that order."""
        return replace(
            self, centres=self.centres[cells], shares=self.shares[cells], low=self.low[cells], high=self.high[cells]
        )

    @cached_property
    def weights(self) -> np.ndarray:
        """W_q = sum_n w_n K_q(a_n), (cells, side^m), the last action running fastest."""
        cells, _, m = self.centres.shape
        result = np.empty((cells, self.side**m))
        for rows in self._blocks():
            joint = self.shares[rows]
            for a in range(m):
                joint = np.einsum("kn...,knq->kn...q", joint, self._kernel(rows, a)[0])
            mixed = joint.sum(axis=1).reshape(-1, self.side**m)
            result[rows] = mixed / mixed.sum(axis=1, keepdims=True)
        return result

    def mollified(self, function: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return sum_q K_q(a_n) f_q, (cells, N), and its gradient along a_n, (cells, N, m), of a function (cells, side^m)."""
        cells, number, m = self.centres.shape
        mean, gradient = np.empty((cells, number)), np.empty((cells, number, m))
        for rows in self._blocks():
            kernels = [self._kernel(rows, a) for a in range(m)]
            values = function[rows].reshape(-1, *(self.side,) * m)
            # of sum zero over the nodes: what is the same for all of them falls out before it is rounded
            values = values - values.min(axis=tuple(range(1, m + 1)), keepdims=True)
            mean[rows] = function[rows].min(axis=1)[:, None] + _contracted(values, [kernel for kernel, _ in kernels])
            for a in range(m):
                factors = [slope if b == a else kernel for b, (kernel, slope) in enumerate(kernels)]
                gradient[rows, :, a] = _contracted(values, factors)
        return mean, gradient

    def _blocks(self) -> list[slice]:
        cells, number, m = self.centres.shape
        rows = max(1, _AT_ONCE // (number * self.side**m))
        return [slice(start, start + rows) for start in range(0, cells, rows)]

    def _kernel(self, rows: slice, action: int) -> tuple[np.ndarray, np.ndarray]:
        """Return K_j and dK_j/da of some cells and one action, (K, N, side) each; where all nodes are one, it has no slope."""
        width = (self.high - self.low)[rows, action, None, None]
        scale = np.where(width > 0.0, width, 1.0)
        y = (self.centres[rows, :, action, None] - self.low[rows, action, None, None]) / scale
        u, precision = np.linspace(0.0, 1.0, self.side), self.bandwidth**-2
        shape = np.zeros(np.broadcast_shapes(y.shape, u.shape))
        slope = np.zeros_like(shape)
        for image, way in ((y, 1.0), (-y, -1.0), (2.0 - y, -1.0)):
            part = np.exp(-0.5 * precision * np.square(u - image))
            shape += part
            slope += way * precision * (u - image) * part
        for table in (shape, slope):
            table[:, :, [0, -1]] *= 0.5
        total = shape.sum(axis=2, keepdims=True)
        kernel = shape / total
        turned = (slope - kernel * slope.sum(axis=2, keepdims=True)) / total
        return kernel, np.where(width > 0.0, turned / scale, 0.0)


def _contracted(values: np.ndarray, factors: list[np.ndarray]) -> np.ndarray:
    """Return sum_j f_{j_1 ... j_m} prod_a K^a_{n j_a}, (K, N), for values f (K, side, ...) and factors K^a (K, N, side)."""
    result = np.einsum("k...q,knq->kn...", values, factors[-1])
    for factor in reversed(factors[:-1]):
        result = np.einsum("kn...q,knq->kn...", result, factor)
    return np.asarray(result)
