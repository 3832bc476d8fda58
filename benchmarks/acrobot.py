"""Acrobot-v1 solved from its equations on grids in four dimensions: the policy of each plays a thousand starts of it.

Returns are minus the number of steps until the tip is up, 500 at most. The cost J of the grid does not predict them: there is no
noise in the problem, but linear interpolation in four dimensions adds some, by which the links are thrown up earlier. Published
results of reinforcement learning: PPO -74.6, ARS -81.6.

    python benchmarks/acrobot.py [--points 10,10,9,11 20,20,21,31 ...] [--episodes 1000]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import psutil

import wassgrid as wg

CASE = Path(__file__).parent.parent / "gallery" / "acrobot.toml"
NAMES = ("theta1", "theta2", "omega1", "omega2")
OBSERVE = {"theta1": "atan2(o1, o0)", "theta2": "atan2(o3, o2)", "omega1": "o4", "omega2": "o5"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", nargs="+", default=["10,10,9,11", "14,14,15,21", "20,20,21,31", "24,24,27,37"])
    parser.add_argument("--episodes", type=int, default=1000)
    given = parser.parse_args()
    for points in given.points:
        settings = [f"grid.points.{name}={count}" for name, count in zip(NAMES, points.split(","), strict=True)]
        case = wg.Case.load(CASE, [*settings, "output.estimate=false", "flow.stop={gap = 1e-3, steps = 40}"])
        began, spent = time.perf_counter(), time.process_time()
        solution = wg.solve(case)
        seconds, processor = time.perf_counter() - began, time.process_time() - spent
        print(f"{points}: J = {solution.objective:.4f}, {solution.reason}")
        returns = wg.evaluate(solution.policy, "Acrobot-v1", given.episodes, 0, OBSERVE)
        memory = psutil.Process().memory_info().rss / 2**30
        print(f"{returns.describe()}\n{seconds:.0f} s, {processor:.0f} s of processors, {memory:.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
