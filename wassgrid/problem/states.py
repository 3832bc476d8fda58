"""States as they are given by hand: an array in the order of the axes, or a dict by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from wassgrid.errors import WassgridError
from wassgrid.problem.names import remedy

States: TypeAlias = ArrayLike | Mapping[str, Any]


class StateError(WassgridError, ValueError):
    """States of another shape, or other names, than those of the problem."""


def state_array(states: States, names: Sequence[str]) -> np.ndarray:
    """Return one state or many as an array (..., d) of doubles, its last axis in the order of `names`.

    states: such an array, or a dict with a number or an array for every name; arrays are broadcast. Raises StateError.

    >>> state_array({"omega": 0.5, "theta": [0.0, 1.0]}, ("theta", "omega"))
    array([[0. , 0.5],
           [1. , 0.5]])
    """
    order = ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])}, ..., {names[-1]}"
    try:
        if isinstance(states, Mapping):
            for name in states:
                if name not in names:
                    raise StateError(f"unknown state {name!r:.60}{remedy(str(name), names)}")
            for name in names:
                if name not in states:
                    raise StateError(f"the state {name!r} is missing, expected {order}")
            columns = np.broadcast_arrays(*(np.asarray(states[name], dtype=float) for name in names))
            return np.stack(columns, axis=-1)
        array = np.asarray(states, dtype=float)
    except (TypeError, ValueError) as error:
        if isinstance(error, StateError):
            raise
        raise StateError(f"expected numbers for {order}: {error}") from None
    if array.ndim == 0 or array.shape[-1] != len(names):
        raise StateError(f"expected states of shape (..., {len(names)}), the last axis {order}, got {array.shape}")
    return array
