"""Draw the picture of README: the policy for Pendulum-v1, and swing-ups under it.  python gallery/picture.py [PNG]"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import wassgrid as wg

CHAINS, STEPS = 40, 160
INK = "#222222"


def picture() -> Figure:
    """Return torque over the states with one swing-up on it, and the angle of many in time."""
    case = wg.Case.load(Path(__file__).with_name("pendulum_v1.toml"))
    policy = wg.solve(case).policy
    rng, state = np.random.default_rng(3), np.tile([np.pi - 1e-3, 0.0], (CHAINS, 1))
    path = [state]
    for _ in range(STEPS):
        state = case.problem.sample_next(state, policy.mean(state), rng)
        path.append(state)
    theta, omega = np.moveaxis(np.array(path), 2, 0)  # (steps, chains)
    theta = np.unwrap(theta, axis=0)
    seconds = 0.05 * np.arange(STEPS + 1)

    figure = Figure(figsize=(9.0, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1.0))
    at, speed = np.meshgrid(np.linspace(-np.pi, np.pi, 301), np.linspace(-8, 8, 241), indexing="ij")
    torque = policy.mean({"theta": at, "omega": speed})[..., 0]
    image = left.pcolormesh(at, speed, torque, cmap="cividis", vmin=-2, vmax=2, shading="nearest", rasterized=True)
    figure.colorbar(image, ax=left, label="torque (N m)")
    wrapped = np.mod(theta[:, 0] + np.pi, 2 * np.pi) - np.pi
    broken = np.where(np.abs(np.diff(wrapped, prepend=wrapped[:1])) > np.pi, np.nan, wrapped)
    left.plot(broken, omega[:, 0], color="white", lw=3.2)
    left.plot(broken, omega[:, 0], color=INK, lw=1.4)
    left.plot([np.pi - 0.06], [0.0], "o", color=INK, mec="white")
    left.set(xlabel="angle (rad), 0 is upright", ylabel="speed (rad/s)", title="policy, and a swing-up from hanging")
    turns = 2 * np.pi * np.round(theta[-1] / (2 * np.pi))
    right.plot(seconds, np.abs(theta - turns), color="#0072b2", lw=0.6, alpha=0.5)
    right.set(xlabel="time (s)", ylabel="angle from upright (rad)", title=f"{CHAINS} swing-ups")
    right.set(xlim=(0, seconds[-1]), ylim=(0, None))
    return figure


if __name__ == "__main__":
    if sys.argv[1:2] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("pendulum.png")
    picture().savefig(path, dpi=110)
    print(path)
