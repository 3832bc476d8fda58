"""What runs say of themselves: every shipped case, and plain cases of each kind, as a user runs them.

    python benchmarks/verdicts.py [--case NAME ...]
    python benchmarks/verdicts.py --advice

Cases are run by the command line, in a folder of their own: exit status, seconds, J, the estimate for the problem itself and
the verdict.

--advice: a Van der Pol oscillator and a double integrator whose grids add noise of their own, with default keys, and with what
`wassgrid check --suggest` prints: J, the estimate, the simulated cost and the verdict side by side.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import newcomers  # noqa: E402

DOUBLE_INTEGRATOR = """
[states.x]
drift = "v"
domain = [-3, 3]
[states.v]
drift = "a"
diffusion = 0.3
domain = [-3, 3]
[actions.a]
bounds = [-2, 2]
[cost]
rate = "x**2 + 0.1*v**2 + 0.1*a**2"
[time]
step = 0.1
[grid]
points = { x = 61, v = 61 }
"""


def command(folder: Path, *words: str) -> tuple[int, str]:
    """Run `wassgrid` with some words in a folder; return its exit status and what it printed."""
    line = [sys.executable, "-m", "wassgrid", *words]
    environment = {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def found_in(text: str, pattern: str) -> str:
    match = re.search(pattern, text)
    return match.group(1).strip() if match else "-"


def row(name: str, text: str, settings: tuple[str, ...] = (), simulated: bool = False) -> None:
    """Run a case and print exit status, seconds, J, estimate, what simulation gives where asked for, and the verdict."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "case.toml").write_text(text)
        began = time.perf_counter()
        changes = [word for setting in settings for word in ("--set", setting)]
        status, said = command(folder, "run", "case.toml", "-o", "case.h5", *changes)
        seconds = time.perf_counter() - began
        objective = found_in(said, r"objective J\s+(\S+)")
        estimate = found_in(said, r"problem itself\s+J = (\S+ \+- \S+)")
        cost = f" simulated {found_in(command(folder, 'simulate', 'case.h5')[1], SIMULATED)}" if simulated else ""
        verdict = found_in(said, r"status\s+(\S[^\n]*)") if "status" in said else said.strip().splitlines()[-1]
        warned = "".join(f"\n    {line.strip()}" for line in said.splitlines() if "WARNING" in line)
        smaller = f" [{', '.join(settings)}]" if settings else ""
        print(f"{name}{smaller}: exit {status}, {seconds:.0f} s, J {objective}, estimate {estimate}{cost}")
        print(f"    {verdict}{warned}", flush=True)


SIMULATED = r"simulated\s+(\S+ \+- \S+)"


def advice() -> None:
    """Print the two cases as they are, and on every grid and time step that is suggested."""
    for name, text in (("Van der Pol", newcomers.VAN_DER_POL), ("double integrator", DOUBLE_INTEGRATOR)):
        row(name, text, simulated=True)
        with TemporaryDirectory() as place:
            (Path(place) / "case.toml").write_text(text)
            said = command(Path(place), "check", "case.toml", "--suggest")[1]
        for settings in re.findall(r"--set '([^']*)'", said):
            row(name, text, (settings,), simulated=True)


def main() -> None:
    """Print a row per case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="*", default=[], help="shipped cases by name; default: all, and newcomers'")
    parser.add_argument("--advice", action="store_true")
    options = parser.parse_args()
    if options.advice:
        advice()
        return
    for path in sorted((ROOT / "cases").glob("*.toml")):
        if not options.case or path.stem in options.case:
            row(path.stem, path.read_text())
    if not options.case:
        for name, text in newcomers.PLAIN.items():
            row(f"plain {name}", text)


if __name__ == "__main__":
    main()
