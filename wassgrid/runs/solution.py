"""What a grid run comes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class GridSolution:
    """Hold the outcome of a grid run.

    objective J; lower_bound on the optimal J (nan if none was computed); policy; stationary mu and value V (cells,);
    converged; status, reason and complete as in Verdict; record: the numbers of the last step.
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
    summarise: Callable[[], Mapping[str, Any]] = field(default=dict, repr=False)

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        """What the run reports about its grid and chain; computed when it is asked for."""
        return self.summarise()
