"""A thousand solves in one process, each of another case: what the process holds after every hundred.

    python benchmarks/leaks.py 1000

SymPy keeps the last 1,000 results of each of many functions, which takes some thousand solves to fill: these caches are emptied
before anything is counted. Exit status 1 where, after the first hundred, memory grows by more than 2 KiB per solve, or the number
of objects by more than 50 in all.
"""

from __future__ import annotations

import argparse
import gc
import sys

import psutil
from sympy.core.cache import clear_cache

import wassgrid as wg

CASE = """
[states.s]
next = "{decay}*s + 0.3*a"
noise = 0.5
domain = [-3, 3]
[actions.a]
bounds = [-2, 2]
[cost]
stage = "s**2 + {price}*a**2"
[grid]
points = {{ s = 21 }}
[flow]
stop = {{ steps = 3 }}
"""
ALLOWED = 2 * 2**10  # bytes per solve
OBJECTS = 50  # in all


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("solves", type=int, nargs="?", default=1000)
    solves = parser.parse_args().solves
    process, warm, held, objects = psutil.Process(), max(solves // 10, 1), [], []
    for number in range(1, solves + 1):
        wg.solve(wg.Case.from_text(CASE.format(decay=0.5 + 0.4 * number / solves, price=0.1 + number / solves)))
        if number % warm == 0:
            clear_cache()
            gc.collect()
            held.append(process.memory_info().rss)
            objects.append(len(gc.get_objects()))
            print(f"{number:6d} solves: {held[-1] / 2**20:.1f} MiB, {objects[-1]:,} objects", flush=True)
    growth = (held[-1] - held[0]) / max(solves - warm, 1)
    print(f"{growth / 2**10:.2f} KiB and {(objects[-1] - objects[0]) / max(solves - warm, 1):.2f} objects more per solve")
    return 1 if growth > ALLOWED or objects[-1] - objects[0] > OBJECTS else 0


if __name__ == "__main__":
    sys.exit(main())
