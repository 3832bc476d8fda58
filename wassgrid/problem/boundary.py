"""What happens to a state that leaves its axis."""

from __future__ import annotations

from typing import Any

import numpy as np


def apply_boundary(value: Any, low: float, high: float, boundary: str, arrays: Any = np) -> Any:
    """Map values into [low, high]: clamp to the ends, reflect (fold) at them, or wrap around (upper end = lower end).

    boundary: "clamp", "reflect" or "periodic"; arrays: `numpy` or `jax.numpy`.
    """
    if boundary == "periodic":
        return low + arrays.mod(value - low, high - low)
    if boundary == "reflect":
        place = arrays.mod(value - low, 2.0 * (high - low))
        return low + arrays.minimum(place, 2.0 * (high - low) - place)
    return arrays.clip(value, low, high)
