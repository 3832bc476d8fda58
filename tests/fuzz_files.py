"""Damage result files by chance and by malice and put them through every verb: one line or a result, nothing else.

    python tests/fuzz_files.py --count 20000

Files of runs on a grid, a few of a network's. Bytes are changed anywhere, members, attributes and the checkpoint's JSON are
replaced. Found is: a traceback, a trial longer than ten seconds, a worker that died, a changed byte in the fenced folder, a file
that a refused call has changed, a control character on the terminal or in a page or header that was written.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
from bad_cases import OTHER
from fuzz_harness import command_line, written_control
from test_strangers import CASE

from wassgrid.cli import main
from wassgrid.load_policy import load_policy
from wassgrid.observers.recorder import Recorder
from wassgrid.storage import StorageError

TEXTS = ("", "\x1b]0;x\x07", "[" * 100_000, "{}", "nan", "$\\frac{$", "\u202e", "x" * 70_000, "running", "../../etc")
NUMBERS = (0, 1, -1, 2**31, 2**63 - 1, 255, 0.0, float("nan"), float("inf"), 1e308, 5e-324)


NEURAL = """
[states.s]
next = "0.9*s + a"
noise = 0.5
[actions.a]
bounds = [-2, 2]
[cost]
stage = "s**2 + a**2"
[solver]
kind = "neural"
[neural]
hidden = [4]
chains = 8
horizon = 8
tail = 4
burn_in = 20
steps = 4
[neural.evaluation]
chains = 8
burn_in = 10
steps = 64
"""
# share of the trials whose file is of a network, and of one of `OTHER`
NETWORKS, OTHERS = 0.03, 0.25
# what is called and how often, of 1000 trials; a path stands for the damaged file, DIR for the folder
VERBS = {
    "info FILE": 400, "policy": 180, "recorder": 210, "simulate FILE --steps 5 --chains 2": 35, "resume FILE": 15,
    "prove FILE --width 0.5 --time 0.2 --quiet -o DIR/tried.proof.h5": 20,
    "compare FILE DIR/sound.h5 -o DIR/c.png --points 2": 10, "plot FILE -o DIR": 10,
    "export FILE --to npz -o DIR/tried.npz": 25, "export FILE --to c -o DIR/tried.h": 25,
    "export FILE --to onnx -o DIR/tried.onnx": 10, "report FILE -o DIR/tried.html": 10,
    "animate FILE --frames 2 -o DIR/tried.gif": 10, "sweep": 15, "simulate FILE --from s=1 --steps 5 --chains 2": 10,
    "simulate FILE --env Pendulum-v1 --episodes 1 --observe s=o2": 15,
}  # fmt: skip


def prepare(folder: Path) -> None:
    """Solve a small case, one of a network and others; a copy and a note stand in the fence."""
    others = {f"other_{k}": text for k, text in enumerate(OTHER)}
    for name, text in {"held": CASE, "network": NEURAL, **others}.items():
        (folder / f"{name}.toml").write_text(text)
        sound = folder / ("sound.h5" if name == "held" else f"{name}.h5")
        assert main(["run", str(folder / f"{name}.toml"), "-o", str(sound), "--quiet"]) in (0, 1)
    (folder / "fence" / "note.txt").write_text("a private note\n" * 500)
    (folder / "fence" / "other.h5").write_bytes((folder / "sound.h5").read_bytes())


def damage_bytes(generator: random.Random, content: bytearray) -> bytearray:
    for _ in range(generator.choice((1, 1, 1, 2, 4, 16))):
        if not content:
            break
        at = generator.randrange(len(content))
        kind = generator.randrange(6)
        if kind == 0:
            content[at] ^= 1 << generator.randrange(8)
        elif kind == 1:
            content[at] = generator.randrange(256)
        elif kind == 2:
            width = generator.choice((1, 2, 4, 8))
            value = generator.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1)) % 256**width
            content[at : at + width] = value.to_bytes(width, "little")
        elif kind == 3:
            other = generator.randrange(len(content))
            length = generator.randrange(1, 64)
            content[at : at + length] = content[other : other + length]
        elif kind == 4:
            del content[at:]
            content.extend(b"\0")
        else:
            content[at : at + generator.randrange(1, 512)] = b""
    return content


def damage_structure(generator: random.Random, path: Path, folder: Path) -> None:
    with h5py.File(path, "r+") as file:
        for _ in range(generator.choice((1, 1, 2, 3))):
            names: list[str] = []
            file.visit(names.append)
            if not names:
                return
            name = generator.choice(names)
            group, key = file[name.rpartition("/")[0] or "/"], name.rpartition("/")[2]
            _replace(generator, file, group, key, folder)


def _replace(generator: random.Random, file: h5py.File, group: h5py.Group, key: str, folder: Path) -> None:
    old = group[key]
    shape = old.shape if isinstance(old, h5py.Dataset) else ()
    kind = generator.randrange(12)
    if kind == 0:
        attributes = generator.choice((old, file)).attrs
        name = generator.choice((*attributes, "extra"))
        if name in attributes and generator.random() < 0.4:
            del attributes[name]
        else:
            attributes[name] = generator.choice((*TEXTS[:-3], *NUMBERS, [1, 2], ["a"], np.zeros((2, 2)), h5py.Empty("f8")))
        return
    if kind == 1 and isinstance(old, h5py.Dataset) and old.dtype.kind in "fi" and old.size:
        where = tuple(generator.randrange(length) for length in shape)
        value = generator.choice(NUMBERS)
        if old.dtype.kind == "f" or (value == value and abs(value) < 2**62):
            old[where] = value
        return
    if kind == 2 and isinstance(old, h5py.Dataset) and old.chunks and old.maxshape[0] is None:
        old.resize(generator.choice((0, 1, shape[0] + 1, 10**6)), axis=0)
        return
    if kind == 3 and "checkpoint/json" in file:
        stored = json.loads(file["checkpoint/json"][()].tobytes().rstrip(b"\0")) if generator.random() < 0.8 else {}
        values = stored.get("values", {})
        if values:
            name = generator.choice(list(values))
            values[name] = generator.choice((*TEXTS, *NUMBERS, None, [], {}))
        del file["checkpoint/json"]
        file["checkpoint"]["json"] = np.array([json.dumps(stored).encode()])
        return
    del group[key]
    other = str(folder / "fence" / "other.h5")
    if kind == 4:
        group[key] = h5py.ExternalLink(other, generator.choice(("/convergence", "/trajectory/actions", "/")))
    elif kind == 5:
        group[key] = h5py.SoftLink(generator.choice(("/", "/convergence", "/nowhere", "/grid/s")))
    elif kind == 6:
        note = str(folder / "fence" / "note.txt")
        group.create_dataset(key, shape or (3,), "f8", external=[(note, 0, h5py.h5f.UNLIMITED)])
    elif kind == 7 and shape:
        layout = h5py.VirtualLayout(shape, "f8")
        layout[...] = h5py.VirtualSource(other, "trajectory/actions", shape)
        group.create_virtual_dataset(key, layout)
    elif kind == 8:
        group[key] = group
    elif kind == 9:
        kinds = ("f4", "i2", "S5", "V8", h5py.ref_dtype, h5py.string_dtype(), [("a", "f8")])
        group.create_dataset(key, shape, generator.choice(kinds))
    elif kind == 10:
        group.create_dataset(key, tuple(length + generator.choice((-1, 0, 1)) for length in shape), "f8")
    elif kind == 11:
        group.create_group(key)


FENCED: dict[Path, bytes] = {}  # what the victims hold


def trial(generator: random.Random, folder: Path) -> str:
    if not FENCED:
        FENCED.update({victim: victim.read_bytes() for victim in (folder / "fence").iterdir()})
    path, draw = folder / "tried.h5", generator.random()
    name = "network" if draw < NETWORKS else f"other_{generator.randrange(len(OTHER))}" if draw < NETWORKS + OTHERS else "sound"
    sound = folder / f"{name}.h5"
    if generator.random() < 0.5:
        path.write_bytes(damage_bytes(generator, bytearray(sound.read_bytes())))
    else:
        path.write_bytes(sound.read_bytes())
        try:
            damage_structure(generator, path, folder)
        except (ValueError, TypeError, AttributeError, KeyError, OSError, RuntimeError, OverflowError):
            return "clumsy"  # what was damaged before cannot be damaged like that
        finally:
            for victim, content in FENCED.items():  # what was written here through a link that was made here
                if not victim.exists() or victim.read_bytes() != content:
                    victim.write_bytes(content)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    status = called(generator.choices(list(VERBS), list(VERBS.values()))[0], path, folder)
    if status == 2 and hashlib.sha256(path.read_bytes()).hexdigest() != before:
        return "CHANGED by a call that was refused"
    if status not in (0, 1, 2):
        return f"STATUS {status}"
    for name in ("tried.html", "tried.h"):
        if written_control(folder / name):
            (folder / name).unlink()
            return f"CONTROL in {name}"
    return "refused" if status == 2 else "read"


def called(verb: str, path: Path, folder: Path) -> int:
    """Call a verb, or the library, on a file; return the exit status, 2 for what the library refuses."""
    if verb == "policy":
        try:
            load_policy(path).mean(np.zeros(1))
        except StorageError:
            return 2
        return 0
    if verb == "recorder":
        try:
            with Recorder.resume(path) as recorder:
                del recorder
        except Exception as error:
            if not type(error).__module__.startswith("wassgrid."):
                raise
            return 2
        return 0
    if verb == "sweep":  # the file stands where the sweep would write the run's
        swept = folder / "swept"
        shutil.rmtree(swept, ignore_errors=True)
        swept.mkdir()
        shutil.copy(path, swept / "held_particles=4.h5")
        return main(["sweep", str(folder / "held.toml"), "--set", "policy.particles=4", "--quiet", "-o", str(swept)])
    words = [word.replace("FILE", str(path)).replace("DIR", str(folder)) for word in verb.split()]
    if words[0] == "resume":
        words += ["--quiet", "--set", "flow.stop.steps=8"]
    return main(words)


if __name__ == "__main__":
    sys.exit(command_line(__file__, trial, prepare))
