"""Random Markov decision processes (Garnet) solved by wassgrid, QuantEcon and mdpsolver: the same optimum, and the time of each.

Every state has ten actions, every action ten next states, drawn with their probabilities and costs (Bhatnagar et al. 2009).
QuantEcon solves by modified policy iteration to epsilon = 1e-10, discounted only; mdpsolver too, to a tolerance of 1e-10, on one
thread (on two it takes longer). Times are those of the solve and, in brackets, of building the model from the same matrices; the
difference is that of V (discounted) or of J of the policy, evaluated by power iteration (average); costs are in [0, 1].

    pip install "wassgrid[benchmark]"
    python benchmarks/finite_mdp.py [--states 100 1000 10000 100000]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import sparse

import wassgrid as wg

ACTIONS, BRANCHES, DISCOUNT, GAP = 10, 10, 0.95, 1e-10

Process = tuple[list[sparse.csr_array], np.ndarray]
Answer = tuple[float, float, np.ndarray, np.ndarray | None]  # seconds to build and to solve, actions, V where it is known


def garnet(states: int, seed: int) -> Process:
    """Return P of every action and costs (states, actions) in [0, 1]."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.arange(states), BRANCHES)
    matrices = []
    for _ in range(ACTIONS):
        columns = np.concatenate([rng.choice(states, BRANCHES, replace=False) for _ in range(states)])
        chances = rng.dirichlet(np.ones(BRANCHES), states).ravel()
        matrices.append(sparse.csr_array((chances, (rows, columns)), shape=(states, states)))
    return matrices, rng.random((states, ACTIONS))


def timed(build: Callable[[], Any], solve: Callable[[Any], tuple[np.ndarray, np.ndarray | None]]) -> Answer:
    began = time.perf_counter()
    model = build()
    built = time.perf_counter()
    actions, value = solve(model)
    return built - began, time.perf_counter() - built, np.asarray(actions), value


def wassgrid(process: Process, discount: float | None) -> Answer:
    def solve(model: wg.FiniteMDP) -> tuple[np.ndarray, np.ndarray | None]:
        solution = model.solve()
        if not solution.converged:
            raise RuntimeError(solution.reason)
        return solution.actions, solution.value

    return timed(lambda: wg.FiniteMDP(*process, discount), solve)


def quantecon(process: Process, discount: float | None) -> Answer:
    from quantecon.markov import DiscreteDP

    matrices, costs = process
    states = costs.shape[0]

    def build() -> Any:
        order = (np.arange(ACTIONS) * states + np.arange(states)[:, None]).ravel()
        chain = sparse.csr_matrix(sparse.vstack(matrices, format="csr")[order])
        pairs = np.repeat(np.arange(states), ACTIONS), np.tile(np.arange(ACTIONS), states)
        return DiscreteDP(-costs.ravel(), chain, discount, *pairs)

    def solve(model: Any) -> tuple[np.ndarray, np.ndarray | None]:
        found = model.solve(method="modified_policy_iteration", epsilon=GAP, max_iter=10_000)
        return found.sigma, -found.v

    return timed(build, solve)


def mdpsolver(process: Process, discount: float | None) -> Answer:
    import mdpsolver as library

    matrices, costs = process

    def build() -> Any:
        states = costs.shape[0]
        columns = [[m.indices[m.indptr[s] : m.indptr[s + 1]].tolist() for m in matrices] for s in range(states)]
        chances = [[m.data[m.indptr[s] : m.indptr[s + 1]].tolist() for m in matrices] for s in range(states)]
        model = library.model()
        model.mdp(discount=discount or 0.5, rewards=(-costs).tolist(), tranMatProbs=chances, tranMatColumns=columns)
        return model

    def solve(model: Any) -> tuple[np.ndarray, np.ndarray | None]:
        kind = "average" if discount is None else "discounted"
        model.solve(algorithm="mpi", criterion=kind, tolerance=GAP, parIterLim=20, parallel=False)
        return np.array(model.getPolicy()), None if discount is None else -np.array(model.getValueVector())

    return timed(build, solve)


def average(process: Process, actions: np.ndarray) -> float:
    """Return the average cost of a deterministic policy by power iteration, independent of all solvers."""
    matrices, costs = process
    states = np.arange(len(actions))
    stacked = sparse.vstack(matrices, format="csr")
    chain = stacked[actions * len(actions) + states].T.tocsr()
    law = np.full(states.size, 1.0 / states.size)
    for _ in range(10_000):
        before, law = law, chain @ law
        if np.abs(law - before).sum() < 1e-15:
            break
    return float(law @ costs[states, actions])


def apart(process: Process, first: Answer, other: Answer) -> float:
    if first[3] is not None and other[3] is not None:
        return float(np.abs(first[3] - other[3]).max())
    return abs(average(process, first[2]) - average(process, other[2]))


def main() -> None:
    parser = argparse.ArgumentParser(description="wassgrid, QuantEcon and mdpsolver on random decision processes")
    parser.add_argument("--states", nargs="*", type=int, default=[100, 1_000, 10_000, 100_000])
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    warm = garnet(20, 0)
    for discount in (DISCOUNT, None):
        wassgrid(warm, discount)
    quantecon(warm, DISCOUNT)
    table = Table("states", "criterion", "solver", "solve s (build s)", "from wassgrid")
    worst = 0.0
    for states in options.states:
        process = garnet(states, options.seed)
        for discount in (DISCOUNT, None):
            ours = wassgrid(process, discount)
            others = {"mdpsolver": mdpsolver(process, discount)}
            if discount is not None:
                others = {"QuantEcon": quantecon(process, discount), **others}
            for name, answer in {"wassgrid": ours, **others}.items():
                difference = apart(process, ours, answer)
                worst = max(worst, difference)
                kind = "average" if discount is None else f"discount {discount}"
                table.add_row(str(states), kind, name, f"{answer[1]:.3f} ({answer[0]:.3f})", f"{difference:.1e}")
    Console(width=100).print(table)
    print(f"largest difference {worst:.1e}")
    if not worst <= 1e-9:
        raise SystemExit("the solvers disagree")


if __name__ == "__main__":
    main()
