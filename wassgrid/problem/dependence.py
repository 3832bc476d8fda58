"""What the law of every state variable depends on: the facts from which the form of the transition law follows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Dependence:
    """What enters x'_j = alpha_j(s, a) + sum_i beta_ji(s) x'_i + sigma_j(s) xi_j, for every j.

    present (d, d): the coordinate s_i in alpha_j, beta_j or sigma_j; actions (d,): any action in alpha_j; follows (d, d): the
    realised value x'_i.
    """

    present: NDArray[np.bool_]
    actions: NDArray[np.bool_]
    follows: NDArray[np.bool_]
