"""Damage case files and put them through check, prove, sweep, or run to the first evaluation: one line or a state, nothing else.

    python tests/fuzz_cases.py --count 20000

What a run leaves goes through one more verb. Found is: a traceback, a trial longer than ten seconds, a worker that died, a
changed byte in the fenced folder, a control character on the terminal or in a page or header that was written.
"""

from __future__ import annotations

import random
import re
import shutil
import sys
from pathlib import Path

from bad_cases import BAD_CASES, FAMILY, GOOD, OTHER
from fuzz_harness import command_line, written_control

from wassgrid.case import Case
from wassgrid.cli import main

NUMBERS = (
    "0 1 -1 2 3 0.5 1e-12 1e-100 5e-324 1e5 1e9 1e300 -1e308 1e308 nan inf 2147483648 99999999999999999999 0x10 '1/3' 'pi'"
).split(" ")
WORDS = (
    "s a q[i] u[i] next noise drift diffusion step clamp reflect periodic gaussian linear cubic auto average discounted neural "
    "sin cos exp log sqrt where clip min max sum ** / * - + ( ) [ ] { } = , . \" ' # \\ \n \t \0 \x1b[31m \u202e é 'particle' "
    "__class__ lambda import eval 9**9**9 s/0 log(-1) exp(1e9) aligned newton euler full_newton true false "
    "total values entropy lebesgue uniform restart stop where exponential policy_iteration fisher_rao proximal"
).split(" ")
AFTER = 0.5  # of the results go through one more verb
# verbs and how often; RESULT stands for the result file, DIR for the folder, TEXT for a damaged expression
VERBS = {
    "info RESULT": 10, "plot RESULT -o DIR": 5, "export RESULT --to npz -o DIR/tried.npz": 10,
    "export RESULT --to c -o DIR/tried.h": 15, "report RESULT -o DIR/tried.html": 7,
    "animate RESULT --frames 2 -o DIR/tried.gif": 7, "simulate RESULT --steps 5 --chains 2": 15,
    "simulate RESULT --env Pendulum-v1 --episodes 1 --observe s=TEXT": 20,
    "simulate RESULT --from TEXT --steps 5 --chains 2": 10, "resume RESULT --quiet": 5,
    "compare RESULT RESULT -o DIR/c.png --points 2": 5,
}  # fmt: skip
OBSERVED = ("o2", "atan2(o1, o0)", "o0*o1 + sin(o2)", "s=1", "s=pi/2", "clip(o2, -1, 1)")
SMALL = 3000  # cells times particles up to which a case is evaluated
SEEDS = [GOOD, FAMILY, *OTHER, *(text for text, _ in BAD_CASES.values() if len(text) < 3000)]


def prepare(folder: Path) -> None:
    """Put a note in the fence, and have the kernels compiled before any trial is timed."""
    (folder / "fence" / "note.txt").write_text("a private note\n")
    for text in (GOOD, FAMILY, *OTHER):
        (folder / "sound.toml").write_text(text)
        main(["run", str(folder / "sound.toml"), "-o", str(folder / "sound.h5"), "--quiet", "--set", "flow.stop.steps=1"])
        main(["prove", str(folder / "sound.toml"), "-o", str(folder / "sound.proof.h5"), "--quiet", "--width", "0.5"])


def damage(generator: random.Random, text: str) -> str:
    for _ in range(generator.choice((1, 1, 1, 2, 3, 5))):
        kind = generator.randrange(8)
        numbers = list(re.finditer(r"-?\d+(\.\d+)?(e-?\d+)?", text))
        lines = text.split("\n")
        at = generator.randrange(len(text) + 1)
        if kind <= 2 and numbers:
            match = generator.choice(numbers)
            text = text[: match.start()] + generator.choice(NUMBERS) + text[match.end() :]
        elif kind == 3:
            text = text[:at] + generator.choice(WORDS) + text[at:]
        elif kind == 4:
            words = list(re.finditer(r"\w+", text)) or [re.match("", text)]
            match = generator.choice(words)
            text = text[: match.start()] + generator.choice(WORDS) + text[match.end() :]
        elif kind == 5:
            del lines[generator.randrange(len(lines))]
            text = "\n".join(lines)
        elif kind == 6:
            lines.insert(generator.randrange(len(lines) + 1), generator.choice(generator.choice(SEEDS).split("\n")))
            text = "\n".join(lines)
        else:
            text = text[:at] + text[at + generator.randrange(1, 20) :]
    return text


def trial(generator: random.Random, folder: Path) -> str:
    seed = generator.choice((GOOD, FAMILY, generator.choice(OTHER), generator.choice(SEEDS)))
    path = folder / "tried.toml"
    path.write_text(damage(generator, seed), encoding="utf-8", errors="replace")
    if (folder / "tried.h5").exists():
        (folder / "tried.h5").unlink()
    overrides = ["--set", "flow.stop.steps=1", "--quiet", "-o", str(folder / "tried.h5")]
    try:
        case = Case.load(path)
        cells = case.policy.particles
        for count in case.grid.points.values():
            cells *= count if isinstance(count, int) else 50
        large = cells > SMALL or case.solver.kind == "neural" or "aligned" in case.grid.points.values()
    except ValueError:
        large = False
    if large:
        return "large"
    draw = generator.random()
    if draw < 0.1:
        status = main(["check", str(path), "--suggest"])
    elif draw < 0.13:
        shutil.rmtree(folder / "swept", ignore_errors=True)
        settings = ["--set", "flow.stop.steps=1,2", "--set", "policy.particles=1", "--quiet"]
        status = main(["sweep", str(path), *settings, "-o", str(folder / "swept")])
    elif draw < 0.2:  # given up after three times --time, whether something is proven or not
        status = main(["prove", str(path), "--width", "0.5", "--time", "1", "--quiet", "-o", str(folder / "tried.proof.h5")])
    else:
        status = main(["run", str(path), *overrides])
    if status == 2 and (folder / "tried.h5").exists():
        return "LEFT a file behind although it was refused"
    if status in (0, 1) and (folder / "tried.h5").exists() and generator.random() < AFTER:
        verb = generator.choices(list(VERBS), list(VERBS.values()))[0]
        words = verb.replace("RESULT", str(folder / "tried.h5")).replace("DIR", str(folder)).split()
        text = damage(generator, generator.choice(OBSERVED))
        after = main([word.replace("TEXT", text) for word in words])
        if after not in (0, 1, 2):
            return f"STATUS {after}"
        for name in ("tried.html", "tried.h"):
            if written_control(folder / name):
                (folder / name).unlink()
                return f"CONTROL in {name}"
    return {0: "run", 1: "run", 2: "refused"}.get(status, f"STATUS {status}")


if __name__ == "__main__":
    sys.exit(command_line(__file__, trial, prepare))
