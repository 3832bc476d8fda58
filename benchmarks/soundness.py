"""What runs claim, held to an independent solver: random problems of the whole case language and slow double wells.

Every problem is solved by `wassgrid.solve`, and what the solution claims is compared with `tests/oracle.py`, which shares no
code with the package: dense kernels from their definitions, the stationary law of Grassmann, Taksar and Heyman, policy iteration
over a fine grid of actions; for problems in which entropy has a price ("soft"), soft value iteration in extended precision.
Counted are violations:

    bound       the proven lower bound is above the cost of some policy
    bracket     J is not within its own bracket, or below the lower bound
    cost        the policy's true cost lies outside the bracket of J
    converged   "converged" by the gap, and some policy is better by more than the gap
    tables      cost or mean of some action differ from the text, and no jump within rounding explains it
    limits      a particle stands outside the bounds of its cell, or beside the values of a list that are allowed
    rise        a proximal step raises J, of chains solved by the oracle
    step        a proximal step costs a particle more than it gains: Q(a') + d(a', a)^2/(2 tau) > Q(a), or raises the mean of Q
    classes     a chain with several recurrent classes passes as one, or a policy that does not reach its goal as one that does
    traceback   an exception that is not one of the package's own
    warning     a warning of Python or NumPy that a user would see

    python benchmarks/soundness.py --problems 500 --kinks 200 --moving 150 --soft 200 --mixed 150 --blobs 150 --whole 1650
    python benchmarks/soundness.py --problems 5000 --kinks 1000 --processes 1 --log soundness.jsonl
    python benchmarks/soundness.py --wells

A log makes a run resumable: problems found in it are not solved again. Runs are seeded: problem n is always the same.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import tomllib
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from oracle import DenseProblem, classes, stationary_laws  # noqa: E402
from random_problems import (  # noqa: E402
    blob_problem,
    mixed_problem,
    proximal_problem,
    soft_problem,
    whole_problem,
    wide_problem,
)

_DRAWN = {
    "soft": soft_problem, "mixed": mixed_problem, "blobs": blob_problem, "whole": whole_problem, "proximal": proximal_problem,
}  # fmt: skip
KINDS = ("wide", "kinks", "moving", *_DRAWN)
_EPS = np.finfo(float).eps
_TOLERANCE = 2e-12  # of the size of the costs: rounding of J, beside that of the kernels' weights times the spread of V
_WOUND = 1e-12  # cells that rounding may move a mean that winds or folds; actions beyond are no candidates
_LOST = 1e-6  # cells: beyond, the law of a policy is not known from its text


def judge(text: str, steps: int = 0) -> dict[str, Any]:
    """Solve a case, compare what the solution claims with the oracle, and return what was found, ready for JSON.

    steps: how many proximal steps of the run are looked at one by one (`follow`).
    """
    import wassgrid as wg

    began = time.process_time()
    found: dict[str, Any] = {"violations": [], "status": "", "reason": ""}
    try:
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always")
            case = wg.Case.from_text(text)
            solution = wg.solve(case)
            kernels = {str(row["state"]): str(row["kernel"]) for row in solution.summary["resolution"]}
        if raised:
            found["violations"].append("warning")
            found["warning"] = f"{raised[0].filename.rpartition('/')[2]}:{raised[0].lineno} {raised[0].message}"
    except Exception as error:
        own = type(error).__module__.startswith("wassgrid.") and "\n" not in str(error)
        found["status"], found["reason"] = "refused" if own else "traceback", f"{type(error).__name__}: {error}"[:400]
        if not own:
            found["violations"].append("traceback")
            found["traceback"] = traceback.format_exc()[-1500:]
        found["seconds"] = time.process_time() - began
        return found
    found["solved"] = time.process_time() - began
    found["status"], found["reason"] = solution.status, solution.reason
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        compare(text, kernels, case, solution, found)
        if steps:
            follow(text, kernels, case, found, steps)
    found["seconds"] = time.process_time() - began
    return found


def compare(text: str, kernels: dict[str, str], case: Any, solution: Any, found: dict[str, Any]) -> None:
    """Add to `found` what the oracle says of a solution, `violations` among it. kernels: of the axes whose kernel is `auto`."""
    problem = DenseProblem(text, kernels)
    policy = solution.policy
    # the run's own cells: where a cost jumps, a rounding of the oracle's cells may change sides
    states = policy.grid.states
    spacing = np.array([axis.spacing for axis in problem.axes.values()])

    folds = np.array([axis.boundary in ("reflect", "periodic") for axis in problem.axes.values()])

    def excused(cells: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Where text and tables lie on different sides of a jump, up to rounding; differences otherwise are a violation."""
        options = {"strict": False} if "strict" in signature(case.problem.action_tables).parameters else {}
        some = np.isfinite(problem.costs(cells, actions)) & np.isfinite(problem.means(cells, actions)).all(axis=1)
        # others stand for their nearest, and in a goal there are none
        some &= problem.permitted(cells, actions) & ~problem.inside[cells]
        rows = np.flatnonzero(some)
        if rows.size == 0:
            return some
        cells, actions = cells[rows], actions[rows]
        tables = case.problem.action_tables(states[cells], actions[:, None, :], 0, **options)
        cost, mean = problem.costs(cells, actions), problem.means(cells, actions)
        differ = np.abs(tables.cost[:, 0] - cost) > 1e-8 * (np.abs(cost) + np.median(np.abs(cost)))
        differ |= (np.abs(tables.mean[:, 0] - mean) > 1e-8 * (spacing + np.abs(mean))).any(axis=1)
        differ |= ~np.isfinite(tables.cost[:, 0])
        jumps = problem.jumps(cells[differ], actions[differ])
        if not jumps.all():
            found["violations"].append("tables")
        some[:] = False
        some[rows[differ]] = True
        return some

    def astray(cells: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Cells (K,) of an axis by which rounding moves means that wind around it or fold at its ends."""
        return 2.0 * _EPS * (np.abs(problem.means(cells, actions)) / spacing * folds).max(axis=1)

    free = np.flatnonzero(~problem.inside)  # where actions mean something
    flat = policy.actions[free].reshape(-1, policy.actions.shape[2])
    own = np.repeat(free, policy.actions.shape[1])
    ends = problem.bounds_at(states)[own]
    beyond = 64.0 * _EPS * (1.0 + np.abs(flat))  # expressions of their own
    if np.any((flat < ends[:, :, 0] - beyond) | (flat > ends[:, :, 1] + beyond)):
        found["violations"].append("limits")
    if not problem.permitted(own, flat)[policy.weights[free].ravel() > 0.0].all():
        found["violations"].append("limits")
    if any(values and not np.isin(flat[:, a], values).all() for a, values in enumerate(problem.lists)):
        found["violations"].append("limits")
    jumped, moved = excused(own, flat), float(astray(own, flat).max())
    doubtful = bool(jumped.any()) or moved > _LOST
    found |= {"jumped": int(jumped.sum()), "astray": moved}
    matrix, cost = problem.chain(policy.actions, policy.weights)
    exact, value = problem.value(matrix, cost)
    signed = bool(matrix.min() < 0.0)
    price, law = problem.policy.get("entropy"), None
    if price is not None:
        atoms, law = problem.reference_law()
        if np.abs(atoms - policy.actions)[free].max() > 1e-12 * np.abs(atoms).max():
            found["violations"].append("tables")
            return
        # its rounding is that of eps times a logarithm
        exact, value = problem.value(matrix, cost + (price * problem.divergence(policy.weights, law)).astype(float))
    size = float(np.abs(cost).max())
    # the oracle's own rounding: weights of the kernels differ by some units
    slack = _TOLERANCE * size + 16.0 * _EPS * float(np.ptp(value))
    steps = problem.steps(matrix) if problem.total else 0.0
    if problem.total and not math.isfinite(steps):
        found["violations"].append("classes")
        return
    slack *= 1.0 + steps
    if law is not None:
        slack += 16.0 * _EPS * price * float(np.abs(np.log(law.sum(axis=1))).max())
        # particles stand on ends of bounds and on kinks there: a root of rounding is no rounding
        tables = case.problem.action_tables(states[own], flat[:, None, :], 0, strict=False)
        near = ~jumped
        slack += float(np.abs(tables.cost[:, 0] - problem.costs(own, flat))[near].max(initial=0.0))
        apart = (np.abs(tables.mean[:, 0] - problem.means(own, flat)) / spacing).max(axis=1)
        slack += 2.0 * float(apart[near].max(initial=0.0)) * float(np.ptp(value))
    # of the policy's own law: a cell that moves by e cells moves e of its mass, twice as much for the narrowest normal law
    wound = 2.0 * moved * float(np.ptp(value))
    low, high = bracket(solution)
    found |= {"J": solution.objective, "exact": exact, "low": low, "high": high, "bound": solution.lower_bound, "slack": slack}
    if problem.discount == 1.0 and not problem.total and not signed and len(classes(matrix)) > 1:
        found["violations"].append("classes")
        return
    if not low - slack - wound <= exact <= high + slack + wound and not signed and not doubtful:
        found["violations"].append("cost")
    if not low - slack <= solution.objective <= high + slack or solution.objective < solution.lower_bound - slack:
        found["violations"].append("bracket")
    if signed:
        if abs(exact - solution.objective) > 1e-8 * size + slack:
            found["violations"].append("cost")
        return
    bounded, gap = np.isfinite(solution.lower_bound), case.flow.stop.gap
    if not bounded and solution.status != "converged":
        return
    if law is not None:
        if doubtful:
            return
        # of the interval that holds the optimum, the end that excuses more
        low, best = problem.soft_optimum(price, policy.actions, law, value)
        found["width"] = (best - low) / size
    else:
        best = problem.optimum(
            policy.actions,
            policy.weights,
            lambda cells, actions: (
                ~problem.inside[cells]
                & (excused(cells, actions) | (astray(cells, actions) > _WOUND) | ~problem.permitted(cells, actions))
            ),
        )
    found["best"] = best
    if bounded and solution.lower_bound > best + slack:
        found["violations"].append("bound")
    claimed = solution.status == "converged" and gap is not None and "proven" in solution.reason
    if claimed and not doubtful and exact - best > gap + slack + wound:
        found["violations"].append("converged")


def follow(text: str, kernels: dict[str, str], case: Any, found: dict[str, Any], steps: int) -> None:
    """Add to `found` what the oracle says of the first proximal steps of a run: `rise` and `step` among its violations.

    Only policies and lengths of steps are the run's; J, V and Q are the oracle's, distances those of the text.
    """
    from wassgrid.runs.grid_solver import GridSolver

    problem = DenseProblem(text, kernels)
    spacing = np.array([axis.spacing for axis in problem.axes.values()])
    folds = np.array([axis.boundary in ("reflect", "periodic") for axis in problem.axes.values()])
    solver = GridSolver.from_case(case)
    state, followed = solver.start(), 0
    for _ in range(steps):
        old = state.evaluation.policy
        state, before = solver.advance(state), state
        new, tau = state.evaluation.policy, state.flow_time - before.flow_time
        matrices = [problem.chain(policy.actions, policy.weights) for policy in (old, new)]
        if any(matrix.min() < 0.0 or (problem.discount == 1.0 and len(classes(matrix)) > 1) for matrix, _ in matrices):
            break
        own = np.repeat(np.arange(problem.size), old.actions.shape[1])
        ends = [policy.actions.reshape(own.size, -1) for policy in (old, new)]
        apart = np.zeros(own.size, bool)
        for actions in ends:
            # on different sides of a jump, or wound too far: known from the text no longer
            tables = case.problem.action_tables(old.grid.states[own], actions[:, None, :], 0, strict=False)
            cost, mean = problem.costs(own, actions), problem.means(own, actions)
            apart |= ~(np.abs(tables.cost[:, 0] - cost) <= 1e-9 * (np.abs(cost) + np.median(np.abs(cost))))
            apart |= ~(np.abs(tables.mean[:, 0] - mean) <= 1e-9 * (spacing + np.abs(mean))).all(axis=1)
            apart |= 2.0 * _EPS * (np.abs(mean) / spacing * folds).max(axis=1) > _WOUND
        if apart.any():
            continue
        (first, value), (second, _) = (problem.value(*matrix) for matrix in matrices)
        size = max(float(np.abs(cost).max()) for _, cost in matrices)
        slack = 1e-11 * (size + float(np.ptp(value)))
        if second > first + slack:
            found["violations"].append("rise")
        q = [problem.costs(own, actions) + problem.discount * problem.rows(own, actions) @ value for actions in ends]
        if all(problem.lists):
            gained = (new.weights * q[1].reshape(new.weights.shape) - old.weights * q[0].reshape(old.weights.shape)).sum(axis=1)
            worse = gained > slack
        else:
            worse = q[1] + squares(text, ends[0], ends[1]) / (2.0 * tau) > q[0] + slack
        if worse.any():
            found["violations"].append("step")
        followed += 1
        if solver.verdict(state) is not None:
            break
    found["followed"], found["violations"] = followed, list(dict.fromkeys(found["violations"]))


def squares(text: str, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the squares of the distances of actions (K, m) and others, along lists those that the text gives."""
    total = np.zeros(len(one))
    for a, table in enumerate(tomllib.loads(text)["actions"].values()):
        if "distance" in table:
            values = np.array(table["values"], dtype=float)
            rows, columns = ((ends[:, a, None] == values).argmax(axis=1) for ends in (one, other))
            total += np.array(table["distance"], dtype=float)[rows, columns] ** 2
        else:
            total += (one[:, a] - other[:, a]) ** 2
    return total


def bracket(solution: Any) -> tuple[float, float]:
    """Return the ends of the interval that is claimed to hold J of the policy; runs that claim none claim J itself."""
    if hasattr(solution, "bracket"):
        low, high = solution.bracket
        return float(low), float(high)
    record = solution.record
    high = float(record.get("upper_end", solution.objective))
    return solution.objective - max(high - solution.objective, 0.0), high


# -- random problems -----------------------------------------------------------------------------------------------------------


def solve_one(task: tuple[str, int]) -> dict[str, Any]:
    """Solve problem n of a kind; one in ten with what it costs off the grid, which is not compared.

    moving: bounds of actions depend on the states, and in every other problem all terms have kinks.
    """
    kind, n = task
    moving = kind == "moving"
    if kind in _DRAWN:
        text = _DRAWN[kind](n)
    else:
        text = wide_problem(n, kind == "kinks" or (moving and n % 2 == 1), moving=moving)
    text += "[output]\nestimate = false\n" if n % 10 else ""
    return {"kind": kind, "n": n, "drawn": drawn(text), **judge(text, 3 if kind == "proximal" else 0)}


def drawn(text: str) -> list[str]:
    """Return the parts of the language that the text of a case has."""
    case = tomllib.loads(text)
    actions, policy, flow = case["actions"].values(), case["policy"], case["flow"]
    lists = ["values" in table for table in actions]
    ends = [end for table in actions for end in table.get("bounds", [])]
    criterion, goal = case.get("criterion", {}).get("kind", "average"), case.get("goal")
    found = {
        "values of lists alone": all(lists), "values of lists beside bounds": any(lists) and not all(lists),
        "values allowed in some states": any("allowed" in table for table in actions),
        "bounds that depend on the states": any(isinstance(end, str) for end in ends),
        "actions without bounds": any("bounds" not in table and "values" not in table for table in actions),
        "entropy on lists": "entropy" in policy and all(lists),
        "entropy on nodes": "entropy" in policy and not any(lists) and "geometry" not in flow,
        "entropy on blobs": "entropy" in policy and "geometry" in flow,
        "goal that stops": goal is not None and goal.get("then") != "restart",
        "goal that restarts": goal is not None and goal.get("then") == "restart", "start law": "start" in case,
        "weights that move": all(lists) or "fisher_rao" in flow.get("geometry", ""),
    }  # fmt: skip
    names = [f"{criterion} cost", f"by {flow.get('method', 'the method of its own')}"]
    return names + [name for name, has in found.items() if has]


def campaign(tasks: list[tuple[str, int]], processes: int) -> Iterator[dict[str, Any]]:
    """Solve problems on some processes, in order."""
    if processes <= 1:
        yield from map(solve_one, tasks)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(solve_one, tasks, chunksize=4)


def problems(counts: dict[str, int], first: int, processes: int, log: Path | None) -> list[dict[str, Any]]:
    """Solve problems first, first + 1, ... of every kind, those that the log holds excepted, and return what was found of all."""
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log is not None and log.exists() else []
    done = {(row["kind"], row["n"]) for row in rows}
    # all kinds side by side: what an interrupted run has solved is a sample of all
    drawn = sorted(((k + 0.5) / counts[kind], kind, first + k) for kind in KINDS for k in range(counts[kind]))
    tasks = [(kind, n) for _, kind, n in drawn if (kind, n) not in done]
    for row in campaign(tasks, processes):
        rows.append(row)
        if log is not None:
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
        if row["violations"]:
            more = row.get("warning", "")
            what = f"{row['kind']} {row['n']}: {', '.join(row['violations'])}"
            print(f"{what}; {row['status']}: {row['reason']} {more}", flush=True)
    wanted = {(kind, n) for kind in KINDS for n in range(first, first + counts[kind])}
    return [row for row in rows if (row["kind"], row["n"]) in wanted]


def report(rows: list[dict[str, Any]]) -> None:
    """Print counts of outcomes and of violations."""
    for kind in KINDS:
        some = [row for row in rows if row["kind"] == kind]
        if not some:
            continue
        outcomes = Counter(row["status"] for row in some)
        jumped = sum(row.get("jumped", 0) > 0 for row in some)
        lost = sum(row.get("astray", 0.0) > _LOST for row in some)
        violations = Counter(violation for row in some for violation in row["violations"])
        bounded = sum(math.isfinite(row["bound"]) for row in some if row.get("bound") is not None)
        print(f"\n{kind}: {len(some)} problems, {sum(row['seconds'] for row in some):.0f} s of processor time")
        print("  " + ", ".join(f"{count} {name}" for name, count in outcomes.most_common()) + f"; {bounded} with a proven bound")
        names = ("bound", "bracket", "cost", "converged", "tables", "limits", "rise", "step", "classes", "traceback", "warning")
        print("  violations: " + ", ".join(f"{violations[name]} {name}" for name in names))
        print(f"  cost not compared: {jumped} whose actions stand on a jump to rounding, {lost} whose means rounding moves")
        reasons = Counter(row["reason"].split(":")[0][:60] for row in some if row["status"] not in ("converged", "stopped"))
        for reason, count in reasons.most_common(8):
            print(f"    {count:5d}  {reason}")
    print(f"\nin all: {len(rows)} problems, {sum(len(row['violations']) for row in rows)} violations; of them with")
    for name in sorted({name for row in rows for name in row.get("drawn", [])}):
        some = [row for row in rows if name in row.get("drawn", [])]
        bounded = sum(math.isfinite(row["bound"]) for row in some if row.get("bound") is not None)
        bad = sum(len(row["violations"]) for row in some)
        print(f"  {name:34s} {len(some):5d}, {bounded:5d} with a proven bound, {bad} violations")


# -- slow double wells ---------------------------------------------------------------------------------------------------------

WELL = """
[states.s]
next = "s + 0.2*(s - s**3) + 0.002*a"
noise = "{noise}"
domain = [-2, 2]
[actions.a]
bounds = [-1, 1]
[cost]
stage = "where(s > 0, 1, 0) + 0.3*(a - 0.2)**2"
[grid]
points = {{ s = {points} }}
kernel = "gaussian"
[policy]
particles = 1
initial = {{ distribution = "point", mean = "0.0" }}
[flow]
stop = {{ gap = 1e-9, steps = {steps} }}
"""


def slow_rate(matrix: np.ndarray) -> float:
    """Return 1 - lambda_2 of a chain with two wells, nothing subtracted: the flow between the wells, for either one's mass.

    Exact to first order in the rate; nan where the wells are not one recurrent class.
    """
    laws = stationary_laws(matrix)
    if len(laws) != 1:
        return math.nan
    left = np.arange(len(matrix)) <= len(matrix) // 2
    flow = float(laws[0][left] @ matrix[np.ix_(left, ~left)].sum(axis=1))
    return flow / float(laws[0][left].sum()) + flow / float(laws[0][~left].sum())


def wells(noises: tuple[float, ...] = (0.16, 0.14, 0.12, 0.1, 0.09, 0.08, 0.07, 0.065, 0.06, 0.055)) -> list[dict[str, Any]]:
    """Solve double wells that mix ever more slowly; print J, its bracket and the oracle's J, of the first policy and the last."""
    import wassgrid as wg

    rows = []
    print(f"{'noise':>6} {'steps':>5} {'rate out':>9} {'J':>20} {'oracle':>20} {'error':>9} {'bracket':>9}  verdict")
    for noise in noises:
        for steps in (0, 30):
            text = WELL.format(noise=noise, steps=steps, points=61 if noise >= 0.06 else 81)
            try:
                solution = wg.solve(wg.Case.from_text(text))
            except Exception as error:
                print(f"{noise:6} {steps:5}  {type(error).__name__}: {error}")
                rows.append({"noise": noise, "error": str(error)})
                continue
            problem = DenseProblem(text)
            matrix, cost = problem.chain(solution.policy.actions, solution.policy.weights)
            exact, _ = problem.value(matrix, cost)
            low, high = bracket(solution)
            rows.append({"noise": noise, "J": solution.objective, "exact": exact, "low": low, "high": high})
            error = solution.objective - exact
            sound = low - 1e-12 <= exact <= high + 1e-12
            print(
                f"{noise:6} {steps:5} {slow_rate(matrix):9.1e} {solution.objective:20.15f} {exact:20.15f} {error:9.1e} "
                f"{high - low:9.1e}  {'' if sound else 'VIOLATION '}{solution.status}: {solution.reason}",
                flush=True,
            )
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=5000)
    parser.add_argument("--kinks", type=int, default=1000)
    parser.add_argument("--moving", type=int, default=0, help="problems whose bounds of actions depend on the states")
    parser.add_argument("--soft", type=int, default=0, help="problems in which entropy has a price")
    parser.add_argument("--mixed", type=int, default=0, help="problems in which one of two actions takes values of a list")
    parser.add_argument("--blobs", type=int, default=0, help="problems in which it has one and blobs slide")
    parser.add_argument("--whole", type=int, default=0, help="problems of all of the language: goals, starts, lists, geometries")
    parser.add_argument("--proximal", type=int, default=0, help="problems that are solved by proximal steps")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--log", type=Path, default=None)
    parser.add_argument("--wells", action="store_true", help="the table of double wells alone")
    options = parser.parse_args(arguments)
    if options.wells:
        wells()
        return
    counts = {kind: getattr(options, "problems" if kind == "wide" else kind) for kind in KINDS}
    report(problems(counts, options.first, options.processes, options.log))


if __name__ == "__main__":
    main()
