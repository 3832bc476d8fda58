"""The acrobot of the gallery, four-dimensional and without noise, by value iteration that shares no code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

import wassgrid as wg

pytestmark = pytest.mark.thorough

GALLERY = Path(__file__).resolve().parent.parent / "gallery"
ENDS = np.array([np.pi, np.pi, 4.0 * np.pi, 9.0 * np.pi])
STEP = 0.2


def slope(state: np.ndarray, torque: float) -> np.ndarray:
    """Return the time derivatives (4, K) of states (4, K), by M(q) q'' + C(q, q') + G(q) = (0, torque)."""
    one, two, speed, other = state
    elbow = np.cos(two)
    # links of mass, length and moment of inertia 1, centres of mass in the middle
    inertia = np.array([[3.5 + elbow, 1.25 + 0.5 * elbow], [1.25 + 0.5 * elbow, np.full(elbow.shape, 1.25)]])
    turning = 0.5 * np.sin(two) * np.array([-(2.0 * speed * other + other**2), speed**2])
    weight = 9.8 * np.array([1.5 * np.sin(one) + 0.5 * np.sin(one + two), 0.5 * np.sin(one + two)])
    force = np.array([np.zeros(elbow.shape), np.full(elbow.shape, torque)]) - turning - weight
    return np.array([speed, other, *np.linalg.solve(inertia.transpose(2, 0, 1), force.T[:, :, None])[:, :, 0].T])


def moved(state: np.ndarray, torque: float) -> np.ndarray:
    a = slope(state, torque)
    b = slope(state + 0.5 * STEP * a, torque)
    c = slope(state + 0.5 * STEP * b, torque)
    d = slope(state + STEP * c, torque)
    return state + STEP / 6.0 * (a + 2.0 * b + 2.0 * c + d)


def interpolation(points: tuple[int, ...], state: np.ndarray) -> sparse.csr_array:
    """Return the weights (K, nodes) of multilinear interpolation at states (4, K): angles turn, speeds end."""
    place, share = np.zeros((1, state.shape[1]), np.int64), np.ones((1, state.shape[1]))
    for k, count in enumerate(points):
        turns = k < 2
        at = (state[k] + ENDS[k]) / (2.0 * ENDS[k]) * (count if turns else count - 1)
        low = np.floor(at) if turns else np.clip(np.floor(at), 0, count - 2)
        part = at - low if turns else np.clip(at - low, 0.0, 1.0)
        near = low.astype(np.int64)
        both = np.stack([near % count, (near + 1) % count])
        place = (place[:, None] * count + both[None]).reshape(-1, state.shape[1])
        share = (share[:, None] * np.stack([1.0 - part, part])[None]).reshape(-1, state.shape[1])
    rows = np.broadcast_to(np.arange(state.shape[1]), place.shape)
    return sparse.csr_array((share.ravel(), (rows.ravel(), place.ravel())), shape=(state.shape[1], int(np.prod(points))))


def test_the_equations_are_gymnasiums():
    gymnasium = pytest.importorskip("gymnasium", reason="the environment is Gymnasium's")
    env, rng = gymnasium.make("Acrobot-v1").unwrapped, np.random.default_rng(0)
    env.reset(seed=0)
    for _ in range(20):
        state, action = rng.uniform(-0.4, 0.4, 4) * ENDS, int(rng.integers(3))
        env.state = state.copy()
        env.step(action)
        expected = moved(state[:, None], action - 1.0)[:, 0]
        expected[:2] = np.mod(expected[:2] + np.pi, 2.0 * np.pi) - np.pi
        np.testing.assert_allclose(env.state, np.clip(expected, -ENDS, ENDS), atol=1e-12)
    env.close()


def test_the_least_number_of_steps_by_value_iteration():
    case = wg.Case.load(GALLERY / "acrobot.toml")
    points = tuple(case.grid.points[name] for name in ("theta1", "theta2", "omega1", "omega2"))
    axes = [np.linspace(-end, end, n, endpoint=k > 1) for k, (end, n) in enumerate(zip(ENDS, points, strict=True))]
    state = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(4, -1)
    free = -np.cos(state[0]) - np.cos(state[0] + state[1]) <= 1.0
    laws = [interpolation(points, moved(state, torque)) for torque in (-1.0, 0.0, 1.0)]
    value = np.zeros(state.shape[1])
    for _ in range(1000):
        before = value
        value = np.where(free, 1.0 + np.min([law @ value for law in laws], axis=0), 0.0)
        if np.abs(value - before).max() < 1e-12:
            break
    # the law of a start, uniform in +-0.1, on the nodes: that of its hats
    inside = 0.1 * (2.0 * (np.arange(1000) + 0.5) / 1000.0 - 1.0)
    law = np.ones(1)
    for k in range(4):
        line = np.zeros((4, inside.size))
        line[k] = inside
        single = (interpolation(points, line).sum(axis=0) / inside.size).reshape(points)
        law = np.multiply.outer(law, single.sum(axis=tuple(j for j in range(4) if j != k)))
    best = float(law.ravel() @ value)
    assert best == pytest.approx(case.expect.total_cost.value, rel=1e-10)
    solution = wg.solve(case)
    assert solution.converged and solution.lower_bound == pytest.approx(best, rel=1e-10)
    assert solution.objective == pytest.approx(best, rel=1e-10)
