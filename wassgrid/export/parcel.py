"""What travels: a particle policy with the names, units, bounds, case and provenance that its use needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from wassgrid.case.stored import case_of
from wassgrid.errors import WassgridError
from wassgrid.policy import ParticlePolicy
from wassgrid.runs.schema import LOWER_BOUND, OBJECTIVE, Units
from wassgrid.storage import ResultFile, StorageError
from wassgrid.text import visible

if TYPE_CHECKING:
    from wassgrid.case import Case

_APART = 1e-6  # of the largest action: particles nearer than that are one


class ExportError(WassgridError, ValueError):
    """A policy that cannot travel in the form asked for."""


def provenance_of(file: ResultFile, series: str) -> dict[str, str]:
    """Return where the last policy of an open result file, a frame of a series, comes from, as texts by name."""
    last = file.last("convergence")
    provenance = {
        "wassgrid_version": file.text("wassgrid_version"),
        "created": file.text("created"),
        "seed": str(file.attributes["seed"]),
        "status": f"{file.status}: {file.reason}" if file.reason else file.status,
        "step": str(int(file.steps(series)[-1])),
        "objective": f"{last[OBJECTIVE]:.12g}",
    }
    if np.isfinite(bound := last.get(LOWER_BOUND, np.nan)):
        provenance["lower_bound"] = f"{bound:.12g}"
    return {name: visible(text) for name, text in provenance.items()}


@dataclass(frozen=True)
class Parcel:
    """Hold the last policy of a run and what is to be known of it.

    name, title: of the case; units: of its states and actions; bounds (m, 2): lowest and highest actions, infinite where there
    are none; law (cells,): its stationary law; case: the resolved case as TOML text; provenance: texts by name.
    """

    policy: ParticlePolicy
    name: str
    title: str
    units: Units
    action_names: tuple[str, ...]
    bounds: np.ndarray
    law: np.ndarray
    case: str
    provenance: Mapping[str, str]

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> Parcel:
        """Read the last policy of a result file.  Raises StorageError; ExportError for a neural policy."""
        with ResultFile(path) as file:
            if "neural" in file.series:
                raise ExportError(f"'{path}' holds a neural policy: --to onnx, or wassgrid.Policy.load")
            policy, case = ParticlePolicy.from_result(file), case_of(file)
            problem = case.problem
            if problem.state_names != policy.grid.names or problem.action_dimension != policy.action_dimension:
                raise StorageError(f"'{path}': its policy is not one of its case")
            return cls.of(case, policy, policy.law_from(file), provenance_of(file, "trajectory"))

    @classmethod
    def of(cls, case: Case, policy: ParticlePolicy, law: np.ndarray, provenance: Mapping[str, str]) -> Parcel:
        """Return the parcel of a policy of a case."""
        problem = case.problem
        return cls(
            policy, case.name, case.title, Units.of(case), problem.action_names, problem.action_bounds, law,
            case.to_text(), provenance,
        )  # fmt: skip

    @property
    def shape(self) -> tuple[int, ...]:
        return self.policy.grid.shape

    def mean(self) -> np.ndarray:
        """Return the mean actions of the cells, (n_1, ..., n_d, m)."""
        return self.policy.cell_mean().reshape(*self.shape, -1)

    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Return lowest and highest actions of the cells, (cells, m) each."""
        grid = self.policy.grid
        if self.policy.limits is not None:
            return self.policy.limits.at(grid.states)
        low, high = (np.broadcast_to(end, (grid.size, end.size)) for end in self.bounds.T)
        return low, high

    def spread(self) -> np.ndarray:
        """Return the standard deviation of every action in the long run, around the mean of its cell, (m,)."""
        law = np.maximum(self.law, 0.0)  # that of the cubic kernel may have a little negative mass
        return np.sqrt(law @ self.policy.cell_spread() ** 2 / law.sum())

    def lost(self) -> str:
        """Say what the mean leaves out of a policy whose particles are apart; nothing where they stand together."""
        spread = self.spread()
        if not (spread > _APART * np.abs(self.mean()).reshape(-1, spread.size).max(axis=0)).any():
            return ""
        size = ", ".join(f"{name} {deviation:.2g}" for name, deviation in zip(self.action_names, spread, strict=True))
        return f"the spread of {self.policy.particles} particles around their mean: standard deviation in the long run {size}"
