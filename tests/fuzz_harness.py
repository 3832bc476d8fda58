"""What the fuzzers share: trials in watched worker processes, beside a fenced folder whose files must stay as they are.

A trial is a number; the same seed and number give the same input. A worker is started anew after one that died or hung.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

LIMIT = 10.0  # seconds of processor time that a trial may take
Trial = Callable[[random.Random, Path], str]  # input and calls; returns a word for what came of it


class TooLongError(BaseException):
    """Not an Exception: nothing that is tried may catch it."""


def written_control(path: Path) -> bool:
    """Tell whether a text file that was written shows a control character other than ends of lines and tabs."""
    return path.exists() and any(c < " " and c not in "\n\t" for c in path.read_text(errors="replace"))


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file under a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def work(trial: Trial, seed: int, first: int, last: int, folder: Path, log: Path) -> None:
    """Run trials first .. last - 1 and append a line of JSON for each."""

    def overdue(number: int, frame: FrameType | None) -> None:
        while frame is not None:
            if "numba" in Path(frame.f_code.co_filename).parts:  # the compiler, whose time is not the trial's
                signal.setitimer(signal.ITIMER_PROF, LIMIT)
                return
            frame = frame.f_back
        raise TooLongError

    import wassgrid.compare
    import wassgrid.plotting
    import wassgrid.runs.grid_solver  # noqa: F401 - before any trial is timed

    signal.signal(signal.SIGPROF, overdue)
    fence = folder / "fence"
    before = digests(fence)
    with log.open("a") as lines:
        for number in range(first, last):
            generator = random.Random(f"{seed}/{number}")
            lines.write(json.dumps({"begun": number}) + "\n")
            lines.flush()
            told = io.StringIO()
            signal.setitimer(signal.ITIMER_PROF, LIMIT)
            try:
                with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
                    outcome = trial(generator, folder)
            except TooLongError:
                places = [line.strip() for line in traceback.format_exc().splitlines() if "wassgrid" in line]
                outcome = "HANG " + " < ".join(reversed(places[-4:]))
            except BaseException:
                outcome = "TRACEBACK " + traceback.format_exc()[-1500:]
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            if "Traceback (most recent" in told.getvalue():
                outcome = "TRACEBACK printed " + told.getvalue()[-1500:]
            elif any(c < " " and c not in "\n\t\r" for c in told.getvalue()):
                outcome = "CONTROL " + ascii(told.getvalue()[-300:])
            if (now := digests(fence)) != before:
                outcome, before = "FENCE " + str({name for name in now if now[name] != before.get(name)}), now
            lines.write(json.dumps({"number": number, "outcome": outcome}) + "\n")
            lines.flush()


def campaign(script: str, seed: int, first: int, count: int, prepare: Callable[[Path], None]) -> collections.Counter[str]:
    """Run trials in workers, watch them, print every finding with its number, and return how often each outcome came."""
    outcomes: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        folder, last = Path(name), first + count
        (folder / "fence").mkdir()
        prepare(folder)
        number = first
        while number < last:
            log = folder / f"log{number}"
            log.touch()
            stop = min(last, number + 500)
            command = [sys.executable, script, "--worker", name, "--log", str(log)]
            command += ["--seed", str(seed), "--first", str(number), "--count", str(stop - number)]
            errors = folder / f"errors{number}"
            with errors.open("wb") as sink:
                worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sink)
            size, since, killed = 0, time.monotonic(), False
            while worker.poll() is None:
                time.sleep(0.2)
                if log.stat().st_size != size:
                    size, since = log.stat().st_size, time.monotonic()
                elif time.monotonic() - since > 60 * LIMIT:
                    worker.kill()  # by the object that started it
                    killed = True
            rows = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
            done = [row for row in rows if "number" in row]
            for row in done:
                word, _, detail = row["outcome"].partition(" ")
                outcomes[word] += 1
                if word.isupper():
                    print(f"trial {row['number']}: {word} {detail}", flush=True)
            number += len(done)
            if number < stop:
                how = "HUNG" if killed else f"DIED of {-(worker.returncode or 0)}"
                print(f"trial {number}: {how} {errors.read_text(errors='replace')[-1500:]}", flush=True)
                outcomes["HUNG" if killed else "DIED"] += 1
                number += 1
            print(f"{number - first} of {count}: {dict(outcomes)}", flush=True)
    return outcomes


def command_line(script: str, trial: Trial, prepare: Callable[[Path], None]) -> int:
    """Run the fuzzer from the command line; exit status 1 where there was a finding."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--log", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        os.chdir(given.worker)
        work(trial, given.seed, given.first, given.first + given.count, Path(given.worker), Path(given.log))
        return 0
    found = campaign(script, given.seed, given.first, given.count, prepare)
    return 1 if any(word.isupper() for word in found) else 0
