"""Small control problems of every kind with random policies, for tests of derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from wassgrid.case import Case
from wassgrid.evaluation import Evaluation, Evaluator
from wassgrid.policy import ParticlePolicy
from wassgrid.problem.exact import Manufactured

WEIGHTS = np.array([0.5, 0.2, 0.3])
DISCOUNTED = {"criterion": {"kind": "discounted", "discount": 0.9}}


@dataclass(frozen=True)
class Setting:
    """A problem on a small grid; `problem` knows a policy around which the chain stays inside the domain."""

    problem: Manufactured
    text: str

    def evaluator(self) -> Evaluator:
        return Evaluator.from_case(Case.from_text(self.text, self.problem.title))

    def policy(self, evaluator: Evaluator, seed: int, spread: float = 0.3) -> ParticlePolicy:
        """Three particles of unequal weights, scattered independently in every cell about half the optimal feedback."""
        grid = evaluator.model.grid
        rng = np.random.default_rng(seed)
        actions = 0.5 * self.problem.optimal_actions(grid.states)[:, None, :]
        actions = actions + spread * rng.standard_normal((grid.size, 3, actions.shape[2]))
        weights = np.stack([rng.permutation(WEIGHTS) for _ in range(grid.size)])
        return ParticlePolicy(grid, actions, weights)


def _setting(problem: Manufactured, points: int | dict[str, int | str], kernel: str, **tables: object) -> Setting:
    return Setting(problem, problem.case_text(points, kernel, **tables))


# noise that the gaussian kernel resolves on a coarse grid
NOISY = replace(
    Manufactured.correlated(),
    states=tuple(replace(state, noise="1.2") for state in Manufactured.correlated().states),
)
SETTINGS = {
    "1-D, average": _setting(Manufactured.circle(), 24, "gaussian"),
    "1-D, discounted": _setting(Manufactured.circle(), 24, "gaussian", **DISCOUNTED),
    "2-D aligned, average": _setting(Manufactured.pendulum(), {"theta": 16, "omega": "aligned"}, "auto"),
    "2-D with two actions, average": _setting(NOISY, 11, "gaussian"),
    "2-D with two actions, discounted": _setting(NOISY, 11, "gaussian", **DISCOUNTED),
}


def random_field(policy: ParticlePolicy, seed: int) -> np.ndarray:
    """A tangent field (cells, N, m) without any structure."""
    return np.random.default_rng(seed).standard_normal(policy.actions.shape)


def along(evaluator: Evaluator, evaluation: Evaluation, field: np.ndarray) -> Callable[[float], Evaluation]:
    """Return t -> the evaluation of the policy a + t v."""
    policy = evaluation.policy
    return lambda t: evaluator.evaluate(policy.moved(policy.actions + t * field), evaluation)


def slopes(remainders: list[float]) -> np.ndarray:
    """Return the orders between neighbouring remainders, each taken at half the step of the last."""
    return np.log2(np.array(remainders[:-1]) / np.array(remainders[1:]))
