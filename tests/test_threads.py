"""Loops on several threads: all of the range once, whatever raises, whoever calls."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from wassgrid.transition.compiled import driver
from wassgrid.transition.threads import LONGEST_PIECE, WORTH_WAKING, Team, available

MUCH = 100 * WORTH_WAKING


@driver
def harmonic(low, high, terms, out):
    for k in range(low, high):
        t = 0.0
        for i in range(1, terms):
            t += 1.0 / (k + i)
        out[k] = t


def team(size: int) -> Team:
    result = Team()
    result.size = size
    return result


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("total", [0, 1, 2, 5, 100, 1001])
@pytest.mark.parametrize("work", [0.0, MUCH, 5 * LONGEST_PIECE])
def test_every_element_is_visited_once(size, total, work):
    visits = np.zeros(total, np.int64)

    def visit(low: int, high: int) -> None:
        visits[low:high] += 1

    runner = team(size)
    for loops in range(1, 4):
        runner.run(visit, total, work, ())
        assert (visits == loops).all()


def test_results_do_not_depend_on_the_number_of_threads():
    results = []
    for size in (1, 2, 5):
        out = np.empty(997)
        team(size).run(harmonic, out.size, MUCH, (200, out))
        results.append(out)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("where", ["caller", "helper"])
def test_what_a_piece_raises_reaches_the_caller_after_all_have_ended(where):
    running, caller = [], threading.get_ident()

    def piece(low: int, high: int) -> None:
        if low == high:
            return
        running.append(low)
        time.sleep(0.01)
        running.remove(low)
        if (threading.get_ident() == caller) == (where == "caller"):
            raise ZeroDivisionError(where)

    runner = team(3)
    with pytest.raises(ZeroDivisionError, match=where):
        runner.run(piece, 1000, MUCH, ())
    assert running == []
    done = np.zeros(50)
    runner.run(harmonic, 50, MUCH, (10, done))  # and the team goes on
    assert (done > 0).all()


def test_a_loop_inside_a_loop_and_loops_of_several_callers_end():
    runner, sums = team(2), np.zeros(64)

    def outer(low: int, high: int) -> None:
        for k in range(low, high):
            inner = np.zeros(40)
            runner.run(harmonic, inner.size, MUCH, (20, inner))
            sums[k] = inner.sum()

    callers = [threading.Thread(target=runner.run, args=(outer, 64, MUCH, ())) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30)
        assert not caller.is_alive()
    assert (sums == sums[0]).all() and sums[0] > 0


def run_script(script: str, **environment: str) -> str:
    """Run Python text in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=60, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SETUP = """
import numpy as np, os, time
from wassgrid.transition.threads import TEAM
def add(low, high, out): out[low:high] += 1
out = np.zeros(100)
TEAM.size = 3
TEAM.run(add, 100, 1e9, (out,))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_has_threads_of_its_own():
    script = SETUP + """
child = os.fork()
TEAM.run(add, 100, 1e9, (out,))
if child == 0:
    os._exit(0 if (out == 2).all() else 1)
print(os.waitpid(child, 0)[1], (out == 2).all())
"""
    assert run_script(script) == "0 True"


def test_loops_at_the_end_of_the_interpreter_still_run():
    script = SETUP + """
import atexit
@atexit.register
def last():
    TEAM.run(add, 100, 1e9, (out,))
    print((out == 2).all())
"""
    assert run_script(script) == "True"


def test_the_number_of_threads_follows_the_environment_and_the_affinity():
    script = "from wassgrid.transition.threads import TEAM; print(TEAM.size)"
    assert run_script(script, NUMBA_NUM_THREADS="1") == "1"
    if hasattr(os, "sched_setaffinity"):
        one = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
        assert run_script(one + script) == "1"
    assert available() >= 1


def test_what_a_signal_handler_raises_ends_a_loop_and_leaves_no_thread_at_work():
    running: list[int] = []

    def piece(low: int, high: int) -> None:
        if low < high:
            running.append(low)
            time.sleep(0.02)
            running.remove(low)

    def stop(number, frame):
        raise InterruptedError("stop")

    before = signal.signal(signal.SIGALRM, stop)
    began = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(InterruptedError, match="stop"):
            team(3).run(piece, 10_000, 1e4 * LONGEST_PIECE, ())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 5.0
    assert [low for low in running if low] in ([], running[-1:])  # the caller's own piece was left in the middle


def test_threads_that_come_late_are_left_out_for_a_while():
    caller, pieces = threading.get_ident(), []

    def piece(low: int, high: int) -> None:
        pieces.append(threading.get_ident() == caller)
        time.sleep(0.0005 if pieces[-1] else 0.1)

    runner = team(2)
    for _ in range(4):
        runner.run(piece, 64, MUCH, ())
    assert pieces.count(False) <= 2


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 40])
def test_shared_pieces_are_done_once_and_come_in_order(size, count):
    runner, begun = team(size), []

    def task(piece: int) -> float:
        begun.append(piece)
        out = np.empty(300)
        # loops inside of it are run by one thread
        runner.run(harmonic, out.size, MUCH, (100, out))
        with pytest.raises(FloatingPointError):
            np.array([1.0]) / np.array([0.0])
        return float(out[piece])

    expected = [sum(1.0 / (k + i) for i in range(1, 100)) for k in range(count)]
    with np.errstate(divide="raise"):
        found = runner.share(task, range(count))
    assert found == pytest.approx(expected, rel=1e-13)
    assert sorted(begun) == list(range(count))
    assert begun[:1] == list(range(count))[:1]


def test_of_shared_pieces_that_raise_the_first_is_told():
    def task(piece: int) -> None:
        time.sleep(0.02 if piece == 7 else 0.001)
        if piece in (7, 8):
            raise ArithmeticError(str(piece))

    for _ in range(5):
        with pytest.raises(ArithmeticError, match="7"):
            team(3).share(task, range(40))
