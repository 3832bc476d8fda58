"""How an exact problem states itself in the case language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tomli_w
from numpy.typing import NDArray

Array = NDArray[np.float64]
Points = int | Mapping[str, int | str]
Kernel = str | Mapping[str, str]


def write_case(
    problem: Mapping[str, Any], states: Sequence[str], points: Points, kernel: Kernel, tables: Mapping[str, Any]
) -> str:
    """Return the TOML text of ``problem`` with a grid table for ``states`` and the further ``tables``."""
    per_state = dict.fromkeys(states, points) if isinstance(points, int) else dict(points)
    return tomli_w.dumps({**problem, "grid": {"points": per_state, "kernel": kernel}, **tables})
