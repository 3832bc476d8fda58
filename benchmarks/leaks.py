"""A thousand solves in one process, each of another case: what the process holds after every hundred.

    python benchmarks/leaks.py 1000

Exit status 1 where memory grows by more than 20 KiB per solve after the first hundred.
"""

from __future__ import annotations

import argparse
import gc
import sys

import psutil

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
ALLOWED = 20 * 2**10  # bytes per solve


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("solves", type=int, nargs="?", default=1000)
    solves = parser.parse_args().solves
    process, held, warm = psutil.Process(), 0, max(solves // 10, 1)
    for number in range(1, solves + 1):
        wg.solve(wg.Case.from_text(CASE.format(decay=0.5 + 0.4 * number / solves, price=0.1 + number / solves)))
        if number % warm == 0:
            gc.collect()
            now = process.memory_info().rss
            held = held or now
            print(f"{number:6d} solves: {now / 2**20:.1f} MiB, {len(gc.get_objects()):,} objects", flush=True)
    growth = (now - held) / max(solves - warm, 1)
    print(f"{growth / 2**10:.2f} KiB more per solve")
    return 1 if growth > ALLOWED else 0


if __name__ == "__main__":
    sys.exit(main())
