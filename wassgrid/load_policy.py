"""The policy of a result file, whatever its kind."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from wassgrid.action_distribution import ActionDistribution
from wassgrid.policy import ParticlePolicy
from wassgrid.problem.states import States
from wassgrid.storage import ResultFile

if TYPE_CHECKING:
    from wassgrid.neural.computed_policy import NeuralPolicy


@runtime_checkable
class Policy(Protocol):
    """A computed policy, on a grid or as a network: what a simulator needs of it.

    Every method takes one state or many: an array (..., d) in the order of the case's states, or a dict with a number or an array
    for each of them. Raises StateError for other shapes and names.

    >>> import numpy as np, wassgrid as wg
    >>> _ = wg.run(wg.Case.load("cases/scalar_lq.toml"), "scalar_lq.h5")
    >>> policy = wg.Policy.load("scalar_lq.h5")
    >>> policy.mean({"x": 0.5}).shape, policy.sample(np.zeros((100, 1)), np.random.default_rng(0)).shape
    ((1,), (100, 1))
    """

    def mean(self, state: States) -> np.ndarray:
        """Return the mean action at arbitrary states (..., d), (..., m)."""

    def sample(self, state: States, rng: np.random.Generator) -> np.ndarray:
        """Draw actions at arbitrary states (..., d), (..., m)."""

    def std(self, state: States) -> np.ndarray:
        """Return the standard deviation of every action component, (..., m)."""

    def quantile(self, state: States, level: ArrayLike) -> np.ndarray:
        """Return the quantile of every action component, (..., m); the axes of several levels come first."""

    def distribution(self, state: States) -> ActionDistribution:
        """Return the distribution of the actions: atoms (..., K, m) and their weights (..., K)."""

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
