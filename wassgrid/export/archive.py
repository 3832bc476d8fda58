"""A policy as a NumPy archive: arrays of numbers and texts, read without pickles and without wassgrid."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from wassgrid.export.parcel import Parcel

FORMAT = "wassgrid policy 1"
LAYOUT = {
    "format": f"the text {FORMAT!r}",
    "mean": "(n_1, ..., n_d, m) mean action at every grid point",
    "lower": "(d,) first grid point of every axis",
    "spacing": "(d,) distance of its grid points",
    "boundary": "(d,) periodic, reflect, or another name: states beyond an end are put on it",
    "state_names": "(d,) in the order of the axes",
    "state_units": "(d,) 1 where there is none",
    "action_names": "(m,)",
    "action_units": "(m,)",
    "action_bounds": "(m, 2) lowest and highest action, infinite where there is none",
    "lowest": "(n_1, ..., n_d, m) lowest action at every grid point; differs from action_bounds where bounds depend on the state",
    "highest": "(n_1, ..., n_d, m) the highest",
    "particles": "(n_1, ..., n_d, N, m) actions of the N particles at every grid point",
    "weights": "(n_1, ..., n_d, N) their weights, which sum to one",
    "case": "the case file, with all defaults",
    "provenance": "JSON: version, time, seed, how the run ended, J and its lower bound",
}


def npz(parcel: Parcel) -> bytes:
    """Return the archive of a policy, with the arrays of `LAYOUT`; the same policy gives the same bytes."""
    policy, grid = parcel.policy, parcel.policy.grid
    lowest, highest = parcel.limits()
    arrays: dict[str, Any] = {
        "format": FORMAT,
        "mean": parcel.mean(),
        "lower": grid.lower,
        "spacing": grid.spacing,
        "boundary": grid.boundary,
        "state_names": grid.names,
        "state_units": parcel.units.states,
        "action_names": parcel.action_names,
        "action_units": parcel.units.actions,
        "action_bounds": parcel.bounds,
        "lowest": lowest.reshape(*parcel.shape, -1),
        "highest": highest.reshape(*parcel.shape, -1),
        "particles": policy.actions.reshape(*parcel.shape, *policy.actions.shape[1:]),
        "weights": policy.weights.reshape(*parcel.shape, -1),
        "case": parcel.case,
        "provenance": json.dumps(dict(parcel.provenance)),
    }
    assert arrays.keys() == LAYOUT.keys()
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()
