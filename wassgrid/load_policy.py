"""The policy of a result file, whatever its kind."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from wassgrid.policy import ParticlePolicy
from wassgrid.storage import ResultFile

if TYPE_CHECKING:
    from wassgrid.neural.computed_policy import NeuralPolicy


@runtime_checkable
class Policy(Protocol):
    """What a simulator needs of a computed policy, on a grid or as a network."""

    def mean(self, state: np.ndarray) -> np.ndarray:
        """Return the mean action at arbitrary states (..., d), (..., m)."""

    def sample(self, state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw actions at arbitrary states (..., d), (..., m)."""

    @staticmethod
    def load(path: str | PathLike[str]) -> ParticlePolicy | NeuralPolicy:
        """Read the last stored policy from a result file; of a neural run it is a `wassgrid.neural` policy."""
        return load_policy(path)


def load_policy(path: str | PathLike[str]) -> ParticlePolicy | NeuralPolicy:
    """Read the last stored policy from a result file.  Raises StorageError; NeuralExtraMissingError for want of JAX."""
    with ResultFile(path) as file:
        if "neural" in file.series:
            from wassgrid.neural import load_policy as load_neural_policy

            return load_neural_policy(file)
        return ParticlePolicy.from_result(file)
