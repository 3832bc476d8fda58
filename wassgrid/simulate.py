"""Closed-loop Monte Carlo: the ergodic cost of a computed policy, simulated without any grid for the states."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from wassgrid.case.stored import case_of
from wassgrid.entropy import Entropy
from wassgrid.policy import ParticlePolicy
from wassgrid.problem.boundary import BOUNDARIES
from wassgrid.runs.summary import summary_of
from wassgrid.storage import ResultFile, StorageError

if TYPE_CHECKING:
    from wassgrid.case import Case
    from wassgrid.problem.control_problem import ControlProblem

Price = Callable[[np.ndarray], np.ndarray]  # what entropy costs at states (K, d), (K,)

_FAR = 4.0  # standard errors
_LONGEST = 100_000  # steps of an episode
_BATCHES = 200  # of episodes
_COARSE = (
    ": finer grids bring them together, where the grid adds noise of its own (see wassgrid info) or the policy changes much "
    "between cells"
)


@dataclass(frozen=True)
class SimulatedCost:
    """Hold a Monte Carlo estimate: mean, its standard error, and what it rests on."""

    mean: float
    standard_error: float
    chains: int
    steps: int
    burn_in: int
    if_far: str = ""  # what to do where the objective is far off
    episodes: bool = False  # whether the chains are episodes, of `steps` steps on average
    unfinished: int = 0  # of them, given up far from the goal
    entropy: float | None = None  # what of the mean is the price of entropy, where it has one

    def describe(self, objective: float) -> str:
        """Compare with the objective J that the grid gave, in two lines."""
        rests = f"{self.chains} chains, {self.steps} steps" + (f" after {self.burn_in}" if self.burn_in else "")
        if self.episodes:
            rests = f"{self.chains} episodes, {self.steps} steps on average"
        if self.unfinished:
            rests += f"; {self.unfinished} of them GIVEN UP after {_LONGEST} steps without the goal: what they cost is not known"
        off = (self.mean - objective) / self.standard_error if self.standard_error > 0 else 0.0
        hint = self.if_far if abs(off) > _FAR else ""
        parts = "" if self.entropy is None else f"\nof it         {self.mean - self.entropy:.8g} cost, {self.entropy:.8g} entropy"
        return (
            f"simulated    {self.mean:.8g} +- {self.standard_error:.2g} (standard error; {rests}){parts}\n"
            f"objective J  {objective:.8g}, the simulation is {off:+.1f} standard errors off{hint}"
        )


def simulate_file(path: str | PathLike[str], steps: int, chains: int, burn_in: int, seed: int) -> tuple[SimulatedCost, float]:
    """Simulate the last policy stored in a result file; return the estimate and the J of that policy on the grid.

    Raises StorageError for a file without a particle policy.
    """
    with ResultFile(path) as result:
        if "neural" in result.series:
            return _simulate_neural(result, steps, chains, burn_in, seed)
        policy = ParticlePolicy.from_result(result)
        law = policy.law_from(result)
        case = case_of(result)
        columns = result.convergence
        there = np.flatnonzero(columns["step"] == result.steps("trajectory")[-1])
        if len(there) == 0 or "objective" not in columns:
            raise StorageError(f"'{path}' does not say what J its last policy has")
        objective = float(columns["objective"][there[0]])
    rng, price = np.random.default_rng(seed), entropy_price(case, policy)
    if case.problem.criterion == "total":
        return episode_cost(case.problem, policy, chains, steps, rng, price), objective
    if case.problem.criterion == "discounted":
        return discounted_cost(case.problem, policy, chains * steps, rng, price), objective
    return ergodic_cost(case.problem, policy, law, chains, steps, burn_in, rng, price), objective


def entropy_price(case: Case, policy: ParticlePolicy) -> Price | None:
    """Return what the entropy of a policy costs at any states, multilinear between the cells; None where it has no price.

    In a goal, where nothing is chosen, it is zero.
    """
    entropy, problem = Entropy.of(case, policy.grid, None), case.problem
    if entropy is None:
        return None
    entropy.require(policy)
    cost = entropy.cost(policy.weights)

    def price(states: np.ndarray) -> np.ndarray:
        if len(states) == 0:
            return np.zeros(0)
        cells, shares = policy.grid.corners(states)
        found: np.ndarray = (shares * cost[cells]).sum(axis=-1)
        return found if problem.goal is None else np.where(problem.goal.reached(states), 0.0, found)

    return price


def _simulate_neural(
    result: ResultFile, steps: int, chains: int, burn_in: int, seed: int
) -> tuple[SimulatedCost, float]:
    """Simulate a neural policy where it was trained, in JAX; J is that of the run's own long simulation."""
    from wassgrid.neural import make_solver

    case = case_of(result)
    cost = make_solver(case).simulate(result, chains, burn_in, steps, seed)
    summary = summary_of(result)
    objective = summary.get("objective", float(result.convergence["objective"][-1]))
    return SimulatedCost(cost.mean, cost.standard_error, chains, cost.samples // chains, burn_in), float(objective)


def ergodic_cost(
    problem: ControlProblem,
    policy: ParticlePolicy,
    law: np.ndarray,
    chains: int,
    steps: int,
    burn_in: int,
    rng: np.random.Generator,
    price: Price | None = None,
) -> SimulatedCost:
    """Simulate the average cost per step (per unit time where the stage cost is a rate) of a policy.

    price: of its entropy (`entropy_price`), which is added to the cost.
    law (cells,): where the chains start, the stationary law of the grid. They are independent, so that the means over
    each of them are the batches whose spread gives the standard error, whatever the correlation in time.
    Source: the method of (replicated) batch means, Asmussen and Glynn, Stochastic Simulation (2007), chapter IV.
    """
    law = np.maximum(law, 0.0)  # that of the cubic kernel may have a little negative mass
    states = policy.grid.states[rng.choice(law.size, size=chains, p=law / law.sum())]
    total, added = np.zeros(chains), np.zeros(chains)
    for step in range(burn_in + steps):
        actions, here = policy.sample(states, rng), states
        cost, states = problem.advance(here, actions, rng)
        if step >= burn_in:
            total += cost
            if price is not None:
                added += price(here)
    return _estimate(total / steps, steps, burn_in, None if price is None else added / steps)


def discounted_cost(
    problem: ControlProblem, policy: ParticlePolicy, chains: int, rng: np.random.Generator, price: Price | None = None
) -> SimulatedCost:
    """Simulate (1 - g) E sum_t g^t c_t for the discounted criterion, started from the start law of the problem.

    Each chain stops after a geometric time with mean 1/(1 - g), whose last cost has this expectation exactly: no sum
    is cut off. Source: Fox and Glynn, Simulating discounted costs, Management Science 35 (1989).
    """
    assert problem.discount is not None
    grid = policy.grid
    intervals = np.array(grid.shape) - np.array([boundary != "periodic" for boundary in grid.boundary])
    low, high = grid.lower, grid.lower + intervals * grid.spacing
    beyond = np.array([BOUNDARIES[boundary].widens for boundary in grid.boundary])
    low, high = (np.where(beyond, declared, end) for declared, end in zip(problem.domain.T, (low, high), strict=True))
    states = problem.start.sample(chains, np.stack([low, high], axis=1), problem.boundary, rng)
    # P(T = t) = (1 - g) g^t for t = 0, 1, ...
    lifetimes = rng.geometric(1.0 - problem.discount, size=chains) - 1
    alive, cost, added = np.argsort(-lifetimes, kind="stable"), np.zeros(chains), np.zeros(chains)
    states = states[alive]
    for step in range(int(lifetimes.max()) + 1):
        count = int((lifetimes[alive] >= step).sum())
        alive, states = alive[:count], states[:count]
        if count == 0:  # the others have reached the goal
            break
        actions = policy.sample(states, rng)
        ending, here = lifetimes[alive] == step, states
        costs, states = problem.advance(here, actions, rng)
        cost[alive[ending]] = costs[ending]
        if price is not None:
            added[alive[ending]] = price(here[ending])
        if problem.stops:
            assert problem.goal is not None
            going = ~problem.goal.reached(here)
            alive, states = alive[going], states[going]
    return _estimate(cost, int(lifetimes.max()) + 1, 0, None if price is None else added)


def episode_cost(
    problem: ControlProblem, policy: ParticlePolicy, chains: int, steps: int, rng: np.random.Generator,
    price: Price | None = None,
) -> SimulatedCost:  # fmt: skip
    """Simulate the total cost of episodes from the start law until the goal.

    `chains` episodes at once; as many times as make about chains * steps steps, by the length of the first ones, which are
    not counted.
    """
    def batch() -> tuple[np.ndarray, np.ndarray, float, int]:
        """Return the costs of episodes and of their entropy (chains,), their mean number of steps, and how many were given up."""
        states = problem.first_states(chains, rng)
        going, cost, added, length = np.arange(chains), np.zeros(chains), np.zeros(chains), 0
        for _ in range(_LONGEST):
            assert problem.goal is not None
            done = problem.goal.reached(states)
            actions = policy.sample(states, rng)
            if price is not None:
                added[going] += price(states)
            here, states = problem.advance(states, actions, rng)
            cost[going] += here
            going, states = going[~done], states[~done]
            if going.size == 0:
                break
            length += going.size
        return cost, added, length / chains, going.size

    _, _, length, lost = batch()
    count = 1 if lost else max(1, math.ceil(steps / max(length, 1.0)))
    found = [batch() for _ in range(min(count, _BATCHES))]
    costs, added = (np.concatenate([batch[k] for batch in found]) for k in (0, 1))
    steps = round(float(np.mean([length for _, _, length, _ in found])))
    estimate = _estimate(costs, steps, 0, None if price is None else added)
    return replace(estimate, episodes=True, unfinished=sum(lost for _, _, _, lost in found))


def _estimate(batches: np.ndarray, steps: int, burn_in: int, added: np.ndarray | None = None) -> SimulatedCost:
    """Return the mean of batches and its error; added: what entropy costs in each of them, which is no part of them yet."""
    entropy = None if added is None else float(added.mean())
    whole = batches if added is None else batches + added
    error = float(whole.std(ddof=1) / np.sqrt(whole.size))
    return SimulatedCost(float(whole.mean()), error, whole.size, steps, burn_in, _COARSE, entropy=entropy)
