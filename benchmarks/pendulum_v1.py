"""Pendulum-v1 on common seeds: policies from grids, solved from the equations, beside agents trained by reinforcement learning.

Every policy plays the same episodes, so that differences have a much smaller standard error than the returns themselves. --train
needs Stable-Baselines3; agents learn from 20,000 steps with the settings of RL Baselines3 Zoo for this environment.

    python benchmarks/pendulum_v1.py [--points 128 256 384 512] [--episodes 1000] [--train td3 sac]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import wassgrid as wg

CASE = Path(__file__).parent.parent / "gallery" / "pendulum_v1.toml"
OBSERVE = {"theta": "atan2(o1, o0)", "omega": "o2"}
STEPS = 20_000


class Agent:
    """A trained agent of Stable-Baselines3 as a policy of observations (K, 3), without its exploration."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def mean(self, state: np.ndarray) -> np.ndarray:
        return np.asarray(self.model.predict(state.astype(np.float32), deterministic=True)[0])

    def sample(self, state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self.mean(state)


def solved(points: int) -> tuple[wg.Policy, str, float]:
    """Return the policy of a grid, its name, and the seconds of a solve without compilation and without the estimate."""
    case = wg.Case.load(CASE, [f"grid.points.theta={points}", "output.estimate=false"])
    wg.solve(case)
    began = time.perf_counter()
    policy = wg.solve(case).policy
    seconds = time.perf_counter() - began
    return policy, " x ".join(map(str, policy.grid.shape)), seconds


def trained(kind: str) -> tuple[Agent, float]:
    """Return an agent trained on `STEPS` steps, and the seconds that took."""
    import stable_baselines3 as sb3
    from stable_baselines3.common.noise import NormalActionNoise

    td3: dict[str, Any] = {
        "gamma": 0.98, "buffer_size": 200_000, "learning_starts": 10_000, "gradient_steps": -1, "train_freq": (1, "episode"),
        "action_noise": NormalActionNoise(np.zeros(1), 0.1 * np.ones(1)), "policy_kwargs": {"net_arch": [400, 300]},
    }  # fmt: skip
    make, settings = {"td3": (sb3.TD3, td3), "sac": (sb3.SAC, {})}[kind]
    began = time.perf_counter()
    model = make("MlpPolicy", "Pendulum-v1", learning_rate=1e-3, seed=0, device="cpu", **settings).learn(STEPS)
    return Agent(model), time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="+", default=[128, 256, 384, 512])
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--train", nargs="*", choices=["td3", "sac"], default=[])
    given = parser.parse_args(arguments)
    found = []
    for points in given.points:
        policy, name, seconds = solved(points)
        returns = wg.evaluate(policy, "Pendulum-v1", given.episodes, 0, OBSERVE, tuple(OBSERVE))
        found.append((f"wassgrid, {name}", seconds, returns))
    for kind in given.train:
        agent, seconds = trained(kind)
        found.append((f"{kind.upper()}, {STEPS:,} steps", seconds, wg.evaluate(agent, "Pendulum-v1", given.episodes)))
    best = found[len(given.points) - 1]
    table = Table(title=f"Pendulum-v1, {given.episodes} episodes, seeds 0 to {given.episodes - 1}")
    for column in ("policy", "seconds", "mean return", f"below {best[0]}"):
        table.add_column(column)
    for name, seconds, returns in found:
        behind = best[2].returns - returns.returns
        error = behind.std(ddof=1) / np.sqrt(behind.size) if behind.size > 1 else np.nan
        table.add_row(
            name, f"{seconds:.3g}", f"{returns.mean:.1f} +- {returns.standard_error:.1f}", f"{behind.mean():.1f} +- {error:.1f}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
