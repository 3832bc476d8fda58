"""What an axis kernel states of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wassgrid.transition.compiled import TAIL as TAIL

SNAP = 1e-9  # in cells: a noise-free mean this close to a node is on it


@dataclass(frozen=True)
class AxisKernel:
    """The facts that decide where a kernel is taken, refused or proven; noise is in units of the spacing.

    code: what compiled functions know it by. order: of accuracy in the spacing, None: beyond every order once the noise is
    resolved. nonnegative: its weights are probabilities, so that P is a Markov matrix. least_noise: below it is refused;
    resolving_noise: from it on what it adds to the noise counts as nothing; takes_noise: False where it is for axes without
    noise only. least_points: of its axis. snaps: noise-free means within SNAP of a node are moved onto it. composes: two of them
    in turn are one of the summed variance, to rounding. added_variance: for noises (K,), what it adds to their variance, in
    squares of the spacing: the mean over all places of the mean between nodes, or the largest value where that is zero.
    """

    name: str
    code: int
    order: int | None
    nodes_per_noise: float
    further_nodes: int
    nonnegative: bool
    least_noise: float
    resolving_noise: float
    takes_noise: bool
    least_points: int
    snaps: bool
    composes: bool
    added_variance: Callable[[np.ndarray], np.ndarray]

    def nodes(self, noise: float) -> float:
        """Bound the number of nodes that one mean reaches."""
        return self.nodes_per_noise * noise + self.further_nodes
