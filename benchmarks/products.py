"""Products with the transition operator in one solve: how many, how long each, against what this machine can do; and the rest.

The limit of a product is the longer of two times: to read its weights and U once at the bandwidth that a sum over a large array
reaches, and to do its multiplications and additions at the rate of a chain of independent ones in registers; both are measured
in this run, on as many threads as the solver uses. A solve before it compiles.

    python benchmarks/products.py [CASE] [--set KEY=VALUE] [-o FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from rich.console import Console
from rich.table import Table

import wassgrid as wg
from wassgrid.chain import krylov, stationary
from wassgrid.runs import grid_solver
from wassgrid.transition.product_law import ProductOperator
from wassgrid.transition.sparse import TransitionOperator
from wassgrid.transition.threads import TEAM, spread

_LANES = 64  # independent sums of the arithmetic peak


@njit(nogil=True, fastmath=True, cache=False)
def _read(low: int, high: int, block: int, x: np.ndarray, out: np.ndarray) -> None:
    for b in range(low, high):
        total = 0.0
        for k in range(b * block, (b + 1) * block):
            total += x[k]
        out[b] = total


@njit(nogil=True, fastmath=True, cache=False)
def _multiply(low: int, high: int, rounds: int, x: np.ndarray, out: np.ndarray) -> None:
    for b in range(low, high):
        y = x.copy()
        for _ in range(rounds):
            for k in range(y.size):
                y[k] = y[k] * 0.999 + 1e-3
        out[b] = y.sum()


def machine() -> tuple[float, float]:
    """Return bytes read and multiplications with an addition done, per second, on the threads of the solver."""
    block, blocks, rounds = 1 << 17, 256, 1 << 11
    x, out, lanes = np.ones(block * blocks), np.zeros(blocks), np.ones(_LANES)
    best = [np.inf, np.inf]
    for _ in range(4):
        began = time.perf_counter()
        spread(_read, blocks, 1e12, block, x, out)
        best[0] = min(best[0], time.perf_counter() - began)
        began = time.perf_counter()
        spread(_multiply, blocks, 1e12, rounds, lanes, out)
        best[1] = min(best[1], time.perf_counter() - began)
    return 8.0 * x.size / best[0], blocks * (rounds) * _LANES / best[1]


def traffic(operator: Any) -> tuple[float, float]:
    """Return bytes and multiplications of one product."""
    if isinstance(operator, TransitionOperator):
        return 12.0 * operator.entries + 16.0 * operator.size, float(operator.entries)
    kept = 0 if operator._stored is None else sum(part.nbytes for part in operator._stored)
    law = operator._law
    return kept + 16.0 * operator.size + 8.0 * (law.cells // operator._at.cells) * operator._at.block, operator.work


class Ledger:
    """Time spent in named parts of one solve; a part that another one calls counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self.facts: dict[str, tuple[float, float]] = {}
        self._inner = [0.0]

    @contextmanager
    def watch(self, owner: Any, name: str, part: Callable[..., str]) -> Any:
        plain = getattr(owner, name)

        def timed(*arguments: Any, **keywords: Any) -> Any:
            label = part(*arguments)
            self._inner.append(0.0)
            began = time.perf_counter()
            try:
                return plain(*arguments, **keywords)
            finally:
                spent = time.perf_counter() - began
                self.seconds[label] += spent - self._inner.pop()
                self._inner[-1] += spent
                self.calls[label] += 1

        setattr(owner, name, timed)
        try:
            yield
        finally:
            setattr(owner, name, plain)

    def product(self, name: str) -> Callable[..., str]:
        def part(operator: Any, *_: Any) -> str:
            label = f"{name}, {operator.size:,} cells"
            self.facts[label] = traffic(operator)
            return label

        return part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", default=str(Path(__file__).parent.parent / "cases" / "inverted_pendulum.toml"))
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    case = wg.Case.load(options.case, options.settings)
    wg.solve(case)
    bandwidth, peak = machine()
    ledger = Ledger()
    parts = [
        *((kind, name, ledger.product(title)) for kind in (ProductOperator, TransitionOperator)
          for name, title in (("apply", "P f"), ("push", "mu P"))),
        (krylov, "gmres", lambda *_: "Krylov iterations, own work"),
        (stationary, "stationary_law", lambda *_: "stationary law, own work"),
        (grid_solver, "find_best", lambda *_: "search of the best actions"),
        (grid_solver, "certify", lambda *_: "proof"),
        (grid_solver.GridSolver, "_step", lambda *_: "steps: derivatives, evaluation, line search"),
    ]  # fmt: skip
    with ExitStack() as watched:
        for part in parts:
            watched.enter_context(ledger.watch(*part))
        began = time.perf_counter()
        solution = wg.solve(case)
        whole = time.perf_counter() - began
    ledger.seconds["the rest"] = whole - sum(ledger.seconds.values())
    console = Console()
    console.print(
        f"{case.name}: {whole:.3f} s, {solution.reason}; {TEAM.size} threads, {bandwidth / 1e9:.1f} GB/s, "
        f"{peak / 1e9:.1f} billion multiplications with an addition a second"
    )
    rows = []
    for label, seconds in sorted(ledger.seconds.items(), key=lambda item: -item[1]):
        row: dict[str, Any] = {"part": label, "calls": ledger.calls[label], "seconds": seconds, "share": seconds / whole}
        if label in ledger.facts:
            moved, operations = ledger.facts[label]
            limit = max(moved / bandwidth, operations / peak)
            each = seconds / ledger.calls[label]
            row |= {"each": each, "bytes": moved, "operations": operations, "limit": limit, "over the limit": each / limit}
        rows.append(row)
    table = Table("part", "calls", "seconds", "share", "ms each", "limit, ms", "over the limit")
    for row in rows:
        product = "limit" in row
        table.add_row(
            row["part"], str(row["calls"] or ""), f"{row['seconds']:.3f}", f"{row['share']:.1%}",
            f"{1e3 * row['each']:.3f}" if product else "", f"{1e3 * row['limit']:.3f}" if product else "",
            f"{row['over the limit']:.1f}" if product else "",
        )  # fmt: skip
    console.print(table)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        with open(options.output / "products.csv", "w", newline="") as file:
            names = ["part", "calls", "seconds", "share", "each", "bytes", "operations", "limit", "over the limit"]
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
