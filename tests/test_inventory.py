"""An inventory with a price of every delivery: the two numbers of its best policy, from the textbook's recursion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import wassgrid as wg

GALLERY = Path(__file__).resolve().parent.parent / "gallery"


def best_of_two_numbers(delivery: float, hold: float, lack: float, demand: float, spread: float) -> tuple[float, int, int]:
    """Return the least of c(s, S), s and S, by the renewal-reward formula of Zheng and Federgruen (1991) over all of them."""
    pieces = np.arange(60)
    chance = np.exp(-0.5 * ((pieces - demand) / spread) ** 2)
    chance /= chance.sum()
    # m_j: how often the demand since a delivery is j
    often = np.zeros(80)
    often[0] = 1.0 / (1.0 - chance[0])
    for j in range(1, often.size):
        last = min(j, pieces.size - 1)
        often[j] = chance[1 : last + 1] @ often[j - last : j][::-1] / (1.0 - chance[0])
    day = {y: float(chance @ (hold * np.maximum(y - pieces, 0) + lack * np.maximum(pieces - y, 0))) for y in range(-20, 81)}
    found = []
    for low in range(-15, 30):
        for high in range(low + 1, low + 50):
            days = often[: high - low]
            cost = delivery + sum(m * day[high - j] for j, m in enumerate(days))
            found.append((cost / days.sum(), low, high))
    return min(found)


@pytest.mark.parametrize("delivery", [30.0, 6.0])
def test_the_policy_waits_until_s_and_orders_up_to_large_s(delivery):
    case = wg.Case.load(GALLERY / "inventory_fixed.toml", overrides=[f"parameters.delivery={delivery}"])
    cost, low, high = best_of_two_numbers(delivery, 1.0, 9.0, 10.0, 1.25)
    solution = wg.solve(case)
    assert solution.converged and solution.objective == pytest.approx(cost, rel=1e-11)
    stock = np.arange(-29.0, high + 1.0)
    orders = solution.policy.mode(stock[:, None])[:, 0]
    np.testing.assert_array_equal(orders, np.where(stock <= low, high - stock, 0.0))


def test_the_recursion_knows_what_two_numbers_cost():
    """c(s, S) against a day after a day of the chain of that policy, at the best two numbers and beside them."""
    cost, low, high = best_of_two_numbers(30.0, 1.0, 9.0, 10.0, 1.25)
    stock, after = np.arange(-40, 60), np.arange(-40, 60)
    after[stock <= low] = high
    chance = np.exp(-0.5 * ((after[:, None] - stock - 10.0) / 1.25) ** 2)
    chance /= chance.sum(axis=1, keepdims=True)
    balance = np.vstack([chance.T - np.eye(stock.size), np.ones(stock.size)])
    law = np.linalg.lstsq(balance, np.append(np.zeros(stock.size), 1.0), rcond=None)[0]
    daily = np.maximum(stock, 0) + 9.0 * np.maximum(-stock, 0) + 30.0 * (stock <= low)
    assert law @ daily == pytest.approx(cost, rel=1e-10)
