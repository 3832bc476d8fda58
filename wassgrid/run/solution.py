"""What a grid run comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Solution:
    """Hold the outcome of a grid run.

    objective J; lower_bound on the optimal J (nan if none was computed); policy; stationary mu and value V (cells,);
    converged; status, reason and complete as in Verdict; record: the numbers of the last step; summary: what the run
    reports about its grid and chain.
    """

    objective: float
    lower_bound: float
    policy: Any
    stationary: np.ndarray
    value: np.ndarray
    converged: bool
    status: str
    reason: str
    complete: bool
    record: Mapping[str, float]
    summary: Mapping[str, Any] = field(default_factory=dict)
