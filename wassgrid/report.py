"""What a user reads about a run: its numbers as a table, from the result file alone."""

from __future__ import annotations

import math
import tomllib
from typing import TYPE_CHECKING, Any

import numpy as np

from wassgrid.case import Case
from wassgrid.observers.progress import clock
from wassgrid.runs.schema import (
    COMPILATION,
    COST_PART,
    CURVATURE_ENDS,
    ENTROPY_PART,
    ESTIMATE,
    FLOW_TIME,
    GRADIENT_NORM,
    LOWER_BOUND,
    MIXING_RATE,
    OBJECTIVE,
    ON_KINKS,
    PHASES,
    STATIONARY_ERROR,
    STATIONARY_RESIDUAL,
    STEP,
    UPPER_END,
    VALUE_RESIDUAL,
    VALUE_SHARES,
    WALL_TIME,
    curvature,
    phase_time,
)
from wassgrid.runs.summary import summary_of
from wassgrid.storage import ResultFile
from wassgrid.text import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_FAR, _GRID_ERROR = 4.0, 1e-2  # standard errors and share of J from which the grid's J is said to be off
_LOOKED_AT = 100_000  # records at the end of a run, of which whole columns are read
RESOLUTION_COLUMNS = ("state", "kernel", "physical std", "numerical std", "cells per std")
_SELDOM = 5e-4  # of the time, from which a value of a list is told
ADDED_NOISE = 1.05  # numerical over physical noise from which the reader is told


def print_summary(result: ResultFile, console: Console, case: Case | None = None) -> None:
    """Print the numbers of a run's last step and the noise of its grid, after an empty line."""
    console.print()
    _print_numbers(result, console, case)


def _print_numbers(result: ResultFile, console: Console, case: Case | None) -> None:
    console.print(visible(f"{result.text('case_name')}: {result.text('title')}"), highlight=False, markup=False)
    print_rows(console, summary_rows(result, case))
    noise = noise_table(result)
    if noise is not None:
        console.print(noise)


def print_info(result: ResultFile, console: Console) -> None:
    """Print how the run of a file ended, the numbers of its last step, what the file holds, and last where it comes from."""
    writer = result.being_written_by
    if result.status == "running":
        ended = f"no, it ended without notice (a kill, a full disk); to go on: wassgrid resume {result.path}"
        console.print(visible(f"running: {f'{writer} is writing it' if writer else ended}"), highlight=False, markup=False)
    elif result.status == "interrupted":
        console.print(visible(f"interrupted; to go on: wassgrid resume {result.path}"), highlight=False, markup=False)
    if result.records("convergence"):
        _print_numbers(result, console, None)
    rows = []
    for name in result.series:
        count = result.records(name)
        first, last = (result.array(name, "step", end) if count else 0 for end in (0, -1))
        span = f", steps {first} to {last}" if count > 1 else f", step {first}" if count else ""
        rows.append((f"/{name}", f"{count} records{span}: {', '.join(result.variables(name))}"))
    rows.append(("/checkpoint", result.checkpoint_described))
    size = f"{result.path.stat().st_size / 2**20:.3g} MiB"
    rows.append(("size", size if result.has_checksums else f"{size}, without checksums (of an early version)"))
    print_rows(console, [*rows, *origin_rows(result)])


def origin_rows(result: ResultFile) -> list[tuple[str, str]]:
    """Return when, where, with what and from which seed a file was made, as (name, text)."""
    attributes = result.attributes
    versions = [f"{name} {attributes[f'{name}_version']}" for name in ("wassgrid", "python", "numpy", "scipy", "numba")]
    return [
        ("created", f"{attributes['created']} on {attributes['host']}"),
        ("made by", ", ".join(versions)),
        ("seed", str(attributes["seed"])),
    ]


def noise_table(result: ResultFile) -> Table | None:
    """Return physical and numerical standard deviation per step of every axis, None where the file has none."""
    axes = summary_of(result).get("resolution")
    return resolution_table(axes) if axes else None


def resolution_table(axes: list[dict[str, Any]]) -> Table:
    """Return the noise that the problem has and that the grid has, one row per axis (`wassgrid.resolution`)."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="noise per step", title_justify="left")
    for name in (*RESOLUTION_COLUMNS, "adds to J"):
        table.add_column(name, justify="left" if name in ("state", "kernel") else "right")
    for axis in axes:
        table.add_row(*(escape(visible(text)) for text in resolution_row(axis)), _share(axis))
    return table


def resolution_row(axis: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """Return state, kernel, physical and numerical standard deviation, and cells per deviation, as texts."""
    cells = f"{axis['cells_per_noise']:.3g}" if axis["physical"] > 0 else "no noise"
    return str(axis["state"]), str(axis["kernel"]), f"{axis['physical']:.6g}", f"{axis['numerical']:.6g}", cells


def _share(axis: dict[str, Any]) -> str:
    return f"{axis['added_cost']:+.1e}" if "added_cost" in axis else ""


def chosen_kernels(axes: list[dict[str, Any]]) -> str:
    """Say which kernels `auto` took and why (`wassgrid.resolution`); empty where the case names them all."""
    return "; ".join(f"{axis['state']} {axis['kernel']} ({axis['reason']})" for axis in axes if axis.get("reason"))


def added_noise(axes: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Say where the grid adds noise of its own to that of the problem, one row per axis (`wassgrid.resolution`)."""
    rows = []
    for axis in axes:
        physical, numerical = axis["physical"], axis["numerical"]
        if numerical > ADDED_NOISE * physical and numerical > 0:
            remedy = f"more points of {axis['state']} help, and an aligned grid adds none"
            if axis.get("points"):
                remedy = f"{axis['points']:,} points of {axis['state']} carry it"
            text = f"{numerical:.4g} per step on the grid, not {physical:.4g}: {remedy} (wassgrid check --suggest)"
            rows.append((f"noise of {axis['state']}", text))
    return rows


def expectations(case: Case, objective: float) -> tuple[bool, list[str]]:
    """Compare with [expect]: whether all was reached, and a sentence for each expected value."""
    name = "total cost" if case.criterion.kind == "total" else "average cost"
    expected = case.expect.total_cost or case.expect.average_cost
    if expected is None:
        return True, []
    difference = abs(objective - expected.value)
    if expected.relative is not None:
        size = abs(expected.value)
        off = difference / size if size > 0 else (math.inf if difference > 0 else 0.0)
        allowed, kind = expected.relative, "relative"
    else:
        off, allowed, kind = difference, float(expected.absolute or 0.0), "absolute"
    met = bool(off <= allowed)
    verdict = "reached" if met else "MISSED"
    source = f" ({expected.source})" if expected.source else ""
    return met, [f"{name} {expected.value:.10g}: {verdict}, {kind} difference {off:.2g} of {allowed:.2g}{source}"]


def summary_rows(result: ResultFile, case: Case | None = None) -> list[tuple[str, str]]:
    """Return the numbers of a run's last step as (name, text); `case` adds the comparison with its [expect]."""
    last = result.last("convergence")
    summary = summary_of(result)
    # a neural run measures its finished policy in a long simulation of its own
    last[OBJECTIVE] = summary.pop(OBJECTIVE, last[OBJECTIVE])
    units = result.description(f"convergence/{OBJECTIVE}")["units"]
    rows = [
        ("status", f"{result.status}: {result.reason}" if result.reason else result.status),
        ("objective J", f"{last[OBJECTIVE]:.12g}{'' if units == '1' else f' {units}'}"),
    ]
    if ENTROPY_PART in last:
        rows.append(("of it", f"{last[COST_PART]:.12g} cost, {last[ENTROPY_PART]:.12g} entropy"))
    if math.isfinite(last.get(LOWER_BOUND, math.nan)):
        bound = last[LOWER_BOUND]
        # the upper end of what J may be counts, and rounding may put it below the bound
        upper = last.get(UPPER_END, last[OBJECTIVE])
        gap = max(upper - bound, np.finfo(float).eps * abs(bound))
        of = " on these actions costs less, entropy included" if ENTROPY_PART in last else " on this grid costs less"
        text = f"{bound:.12g}, proven: no policy{of}; gap {gap:.2e}"
        rows.append(("lower bound", text))
    if (found := summary.pop(ESTIMATE, None)) is not None:
        rows += _estimate_rows(found, last[OBJECTIVE])
    rows.append(("gradient norm", f"{last[GRADIENT_NORM]:.3e}"))
    time = f", flow time {last[FLOW_TIME]:.6g}" if last.get(FLOW_TIME, 0.0) > 0 else ""
    rows.append(("steps", f"{last[STEP]:.0f}{time}"))
    if STATIONARY_RESIDUAL in last:
        known = last.get(STATIONARY_ERROR, math.nan)
        error = f", error below {known:.1e}" if math.isfinite(known) else ""
        rows.append(("residual of mu", f"{last[STATIONARY_RESIDUAL]:.1e}{error}"))
        rows.append(("residual of V", f"{last[VALUE_RESIDUAL]:.1e}"))
        second = summary.pop("second_eigenvalue", None)
        rate = f"decay of {last[MIXING_RATE]:.6g} per step" if second is None else f"second eigenvalue of modulus {second:.9g}"
        rows.append(("mixing", rate))
    if curvature("min") in last:
        rows += _curvature_rows(result, summary.pop(ON_KINKS, None) or 0.0)
    rows += _summary_rows(result, summary)
    rows.append(("wall time", _times(result, last[WALL_TIME])))
    if case is not None:
        rows += [("expected", text) for text in expectations(case, last[OBJECTIVE])[1]]
    return rows


def _estimate_rows(found: dict[str, Any], objective: float) -> list[tuple[str, str]]:
    """Say what the policy is estimated to cost in the problem itself, and what a difference from J means."""
    if "refused" in found:
        return [("problem itself", f"not estimated: {found['refused']}")]
    value, error = found["value"], found["standard_error"]
    text = f"J = {rounded(value, error)} (estimated off the grid, {found['chains']:,} chains in {_seconds(found['seconds'])})"
    rows = [("problem itself", text)]
    if (warning := too_coarse(found, objective)) is not None:
        rows.append(("WARNING", warning))
    if not found["forgotten"]:
        text = f"the chains still remember their start after {found['steps']} steps: rare passages are as often as on the grid"
        rows.append(("slow mixing", text))
    return rows


def too_coarse(found: dict[str, Any], objective: float) -> str | None:
    """Say how far the grid's J is from the estimate for the problem itself, where that is far; else None."""
    value, error = found["value"], found["standard_error"]
    off = objective - value
    if abs(off) <= max(_FAR * error, _GRID_ERROR * abs(value)):
        return None
    size = f"{off:+.2g} off ({abs(off / value):.1%})" if value else f"{off:+.2g} off"
    return f"the grid's J is {size}: what is proven holds on this grid, too coarse for the problem"


def rounded(value: float, error: float) -> str:
    """Write a value with its standard error, to two digits of the error: `1.3611 +- 0.0001`."""
    if not (math.isfinite(error) and error > 0):
        return f"{value:.10g} +- {error:.1g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    if digits > 12:
        return f"{value:.12g} +- {error:.1g}"
    return f"{value:.{digits}f} +- {error:.{digits}f}"


def _curvature_rows(result: ResultFile, on_kinks: float) -> list[tuple[str, str]]:
    """Return the extreme eigenvalues of the Hessian at the last recorded step, and whether all were nonnegative.

    on_kinks: share of the particles that stand on kinks of Q at the end.
    """
    from wassgrid.hessian import is_convex, kinks_named

    names = [STEP, *(curvature(end, part) for end in CURVATURE_ENDS for part in ("", "_residual"))]
    columns = {name: result.array("convergence", name, slice(-_LOOKED_AT, None)) for name in names}
    known = np.flatnonzero(np.isfinite(columns[curvature("min")]))
    if known.size == 0:
        return [("curvature", "no eigenvalue of the Hessian was found")]
    ends = [{name: columns[curvature(end, name)][known] for name in ("", "_residual")} for end in CURVATURE_ENDS]
    low, high, steps = ends[0][""], ends[1][""], columns[STEP][known]
    convex = np.array([is_convex(*values) for values in zip(low, ends[0]["_residual"], high, strict=True)])
    rows = [("curvature", f"{low[-1]:.6g} to {high[-1]:.6g} at step {steps[-1]:.0f}")]
    if warned := kinks_named(on_kinks):
        rows.append(("kinks", warned))
    if convex.all():
        return [*rows, ("geodesically convex along the run", f"yes, at all {known.size} steps looked at")]
    worst, last = int(low.argmin()), int(np.flatnonzero(~convex)[-1])
    text = f"no: smallest eigenvalue {low[worst]:.4g} at step {steps[worst]:.0f}"
    text += f", positive from step {steps[last + 1]:.0f} on" if last + 1 < known.size else ", negative at the end"
    return [*rows, ("geodesically convex along the run", text)]


def _boundary(case_text: str, name: str) -> str:
    """Return the boundary model of a state, as the text of its case names it, "clamp" where it does not."""
    try:
        tables, stem = tomllib.loads(case_text)["states"].items(), name.partition("[")[0]
        return str(next(table.get("boundary", "clamp") for key, table in tables if key.partition("[")[0] == stem))
    except (ValueError, RecursionError, LookupError, AttributeError, TypeError, StopIteration):
        return "clamp"


def _summary_rows(result: ResultFile, summary: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    if result.grid:
        shape = " x ".join(str(axis.size) for axis in result.axes)
        entries = f", {summary['entries']:,} transition entries" if "entries" in summary else ""
        cells = f" = {int(np.prod([axis.size for axis in result.axes])):,}" if len(result.axes) > 1 else ""
        rows.append(("cells", f"{shape}{cells}{entries}"))
    if summary.get("recurrent_classes") is not None:
        period = summary.get("period")
        rows.append(("recurrent classes", f"{summary['recurrent_classes']}{f', period {period}' if (period or 1) > 1 else ''}"))
    for name, mass in summary.get("boundary_mass", {}).items():
        if mass > 1e-3:
            advice = f'widen states.{name}.domain, or name the boundary that is meant there, say "project"'
            if (kind := _boundary(result.case_text, name)) != "clamp":
                advice = f'where the boundary "{kind}" is meant this is the problem\'s own, else widen states.{name}.domain'
            rows.append((f"ends of {name}", f"hold {mass:.2g} of the stationary mass: {advice}"))
    for name, shares in summary.get(VALUE_SHARES, {}).items():
        parts = [f"{value} {share:.3g}" for value, share in shares.items() if share > _SELDOM]
        rows.append((f"values of {name}", f"{', '.join(parts)} of the time"))
    axes = summary.get("resolution", [])
    rows += added_noise(axes)
    if axes and axes[0].get("added_cost") is not None:
        kernels = ", ".join(f"{axis['state']} {axis['kernel']} {_share(axis)}" for axis in axes)
        total = sum(axis["added_cost"] for axis in axes)
        rows.append(("kernels", f"their own noise is expected to add {total:+.1e} to J ({kernels}), kinks and ends not in it"))
    if chosen := chosen_kernels(axes):
        rows.append(("by auto", chosen))
    known = ("resolution", "recurrent_classes", "period", "boundary_mass", "cells", "entries", VALUE_SHARES)
    for name, value in summary.items():
        if name not in known and value is not None:
            rows.append((name.replace("_", " "), f"{value:.6g}" if isinstance(value, float) else str(value)))
    return rows


def _times(result: ResultFile, total: float) -> str:
    """Return the wall time and, where it is not long to read, what it was spent on."""
    if result.records("convergence") > _LOOKED_AT:
        return _seconds(total)
    columns = {name: phase_time(name) for name in PHASES if phase_time(name) in result.variables("convergence")}
    spent = {name: float(np.nansum(result.array("convergence", column))) for name, column in columns.items()}
    parts = [f"{name} {_seconds(seconds)}" for name, seconds in spent.items() if seconds > 0]
    compiled = 0.0
    if COMPILATION in result.variables("convergence"):
        compiled = float(np.nansum(result.array("convergence", COMPILATION)))
    within = f"; {_seconds(compiled)} of all that compilation, once per machine" if compiled > 0.0 else ""
    return _seconds(total) + (f": {', '.join(parts)}{within}" if parts else "")


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 60 else clock(seconds)


def print_rows(console: Console, rows: list[tuple[str, str]]) -> None:
    from rich.markup import escape

    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        console.print(f"[bold]{escape(visible(name)):<{width}}[/bold]  {escape(visible(text))}", highlight=False, soft_wrap=True)
