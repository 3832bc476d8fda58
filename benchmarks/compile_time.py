"""What the first run on a machine spends on compilation, function by function.

    python benchmarks/compile_time.py cases/pendulum.toml [--set key=value] [-v]

Runs the case in this process with an empty cache of compiled functions (in a folder of its own) and prints, for every function
and every list of argument types (-v shows them), the time of its compilation with and without that of those which it calls.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time

from numba import config
from numba.core import event

from wassgrid.case import Case
from wassgrid.runs.solvers import solve


class CompileTimes(event.Listener):
    """Collect (exclusive seconds, inclusive seconds, name, argument types) of compilations, in the order of their ends."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float, str, str]] = []
        self._open: list[list[float]] = []

    def on_start(self, event) -> None:
        self._open.append([time.perf_counter(), 0.0])

    def on_end(self, event) -> None:
        began, inside = self._open.pop()
        spent = time.perf_counter() - began
        if self._open:
            self._open[-1][1] += spent
        function = event.data["dispatcher"].py_func
        name = f"{function.__module__.removeprefix('wassgrid.')}.{function.__name__}"
        self.rows.append((spent - inside, spent, name, str(event.data["args"])))


def main(arguments: list[str]) -> None:
    folder = tempfile.mkdtemp(prefix="wassgrid-compile-")
    config.CACHE_DIR = folder
    times = CompileTimes()
    event.register("numba:compile", times)
    began, processor = time.perf_counter(), time.process_time()
    solve(Case.load(arguments[0], [text for text in arguments[1:] if not text.startswith('-')]))
    wall, processor = time.perf_counter() - began, time.process_time() - processor
    print("exclusive  inclusive  function")
    for own, spent, name, types in sorted(times.rows, reverse=True):
        print(f"{own:8.2f} s {spent:8.2f} s  {name} {types[:120] if '-v' in arguments else ''}")
    total = sum(row[0] for row in times.rows)
    print(f"{total:8.2f} s in {len(times.rows)} compilations; the run: {wall:.1f} s, {processor:.1f} s of processor time")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
