"""A policy as one C99 header: a table and a function that interpolates it as `ParticlePolicy.mean` does."""

from __future__ import annotations

import math

import numpy as np

from wassgrid.export.c_expression import c_expression
from wassgrid.export.c_text import comment, identifier, identifiers, literals
from wassgrid.export.parcel import ExportError, Parcel

FIRST_WORDS = "/* wassgrid policy"
LARGEST_TABLE = 5_000_000  # numbers, of some 25 characters each
_KINDS = {"periodic": 1, "reflect": 2}  # 0: states beyond an end are put on it

_FUNCTION = """\
/* Mean action at a state: multilinear between grid points; periodic axes wrap, reflecting ones fold, on others a state beyond an
 * end counts as on it. A state that is not a number gives actions that are none. No memory is allocated, nothing is kept. */
static inline void NAME_policy(const double state[NAME_STATES], double action[NAME_ACTIONS])
{
    size_t below[NAME_STATES], above[NAME_STATES];
    double part[NAME_STATES];
    unsigned long corner;
    int j, k;
    for (k = 0; k < NAME_STATES; k++) {
        const double n = (double)NAME_points[k];
        const double last = NAME_kind[k] == 1 ? n - 1.0 : n - 2.0;
        double place = (state[k] - NAME_lower[k]) / NAME_spacing[k];
        if (NAME_kind[k] == 1) {
            place = fmod(place, n);
            if (place < 0.0) place += n;
        } else if (NAME_kind[k] == 2) {
            place = fmod(place, 2.0 * (n - 1.0));
            if (place < 0.0) place += 2.0 * (n - 1.0);
            if (place > n - 1.0) place = 2.0 * (n - 1.0) - place;
        } else if (place < 0.0) {
            place = 0.0;
        } else if (place > n - 1.0) {
            place = n - 1.0;
        }
        below[k] = (size_t)(place < last ? place : last);
        above[k] = below[k] + 1 < NAME_points[k] ? below[k] + 1 : 0;
        part[k] = place - (double)below[k];
        if (part[k] > 1.0) part[k] = 1.0;
    }
    for (j = 0; j < NAME_ACTIONS; j++) action[j] = 0.0;
    for (corner = 0; corner < 1UL << NAME_STATES; corner++) {
        double weight = 1.0;
        size_t cell = 0;
        for (k = 0; k < NAME_STATES; k++) {
            const int up = (int)(corner >> (NAME_STATES - 1 - k) & 1UL);
            weight *= up ? part[k] : 1.0 - part[k];
            cell = cell * NAME_points[k] + (up ? above[k] : below[k]);
        }
        for (j = 0; j < NAME_ACTIONS; j++) action[j] += weight * NAME_table[cell * NAME_ACTIONS + (size_t)j];
    }
    for (j = 0; j < NAME_ACTIONS; j++) { /* rounding */
        if (action[j] < NAME_low[j]) action[j] = NAME_low[j];
        if (action[j] > NAME_high[j]) action[j] = NAME_high[j];
    }
}
"""
_LIMITS = """\
/* Lowest and highest actions at a state; beyond the grid those where it counts as standing. */
static inline void NAME_limits(const double state[NAME_STATES], double low[NAME_ACTIONS], double high[NAME_ACTIONS])
{
    double at[NAME_STATES];
    int k;
    for (k = 0; k < NAME_STATES; k++) {
        const double first = NAME_lower[k];
        const double length = NAME_spacing[k] * (double)(NAME_points[k] - (NAME_kind[k] == 1 ? 0 : 1));
        double way = state[k] - first;
        at[k] = state[k];
        if (way < 0.0 || way > length) {
            if (NAME_kind[k] == 1) {
                way = fmod(way, length);
                if (way < 0.0) way += length;
            } else if (NAME_kind[k] == 2) {
                way = fmod(way, 2.0 * length);
                if (way < 0.0) way += 2.0 * length;
                if (way > length) way = 2.0 * length - way;
            } else {
                way = way < 0.0 ? 0.0 : length;
            }
            at[k] = first + way;
        }
    }
LINES
}

"""
_ROUNDED = "    for (j = 0; j < NAME_ACTIONS; j++) { /* rounding */"
_CLIPPED = _FUNCTION
for _old, _new in (
    ("double part[NAME_STATES];", "double part[NAME_STATES], low[NAME_ACTIONS], high[NAME_ACTIONS];"),
    (_ROUNDED, f"    NAME_limits(state, low, high);\n{_ROUNDED.removesuffix(' /* rounding */')}"),
    ("NAME_low[j]", "low[j]"),
    ("NAME_high[j]", "high[j]"),
):
    _CLIPPED = _CLIPPED.replace(_old, _new)


def c_header(parcel: Parcel) -> str:
    """Return the header of a policy, in ASCII.  Raises ExportError for a table that no compiler would take."""
    if parcel.policy.categorical or parcel.policy.mixed:
        raise ExportError("the header interpolates actions, and between the values of a list there are none: export --to npz")
    grid, table = parcel.policy.grid, parcel.mean()
    if table.size > LARGEST_TABLE:
        raise ExportError(f"the policy has {table.size:,} numbers, a header holds {LARGEST_TABLE:,} at most: export --to npz")
    name = identifier(parcel.name)
    states, actions = identifiers(grid.names), identifiers(parcel.action_names)
    numbers = [
        f"enum {{ {name}_STATES = {grid.dimension}, {name}_ACTIONS = {table.shape[-1]} }};",
        *_places(name, "state", states),
        *_places(name, "action", actions),
        f"static const size_t {name}_points[] = {{{', '.join(map(str, grid.shape))}}};",
        f"static const int {name}_kind[] = {{{', '.join(str(_KINDS.get(kind, 0)) for kind in grid.boundary)}}};",
        _array(f"{name}_lower", grid.lower),
        _array(f"{name}_spacing", grid.spacing),
        _array(f"{name}_low", parcel.bounds[:, 0]),
        _array(f"{name}_high", parcel.bounds[:, 1]),
        f"/* mean actions of the grid points, the last state fastest, {table.shape[-1]} numbers each */",
        _array(f"{name}_table", table.ravel()),
    ]
    guard = f"WASSGRID_POLICY_{name.upper()}_H"
    parts = [
        f"{FIRST_WORDS}: {comment(parcel.title or parcel.name)}",
        *_described(parcel, name, states, actions),
        " */",
        f"#ifndef {guard}",
        f"#define {guard}",
        "#include <math.h>",
        "#include <stddef.h>",
        "",
        *numbers,
        "",
        _functions(parcel).replace("NAME", name),
        "/* the case that was solved, and how the run ended; lines to be joined, a null pointer at the end */",
        _texts(f"{name}_case", parcel.case),
        _texts(f"{name}_provenance", "".join(f"{key}: {text}\n" for key, text in parcel.provenance.items())),
        "#endif",
        "",
    ]
    return "\n".join(parts)


def _functions(parcel: Parcel) -> str:
    """Return the function of a policy, after that of its limits where these depend on the state."""
    limits = parcel.policy.limits
    if limits is None:
        return _FUNCTION
    names = {state: f"at[{k}]" for k, state in enumerate(limits.states)}
    lines = [
        f"    {('low', 'high')[k % 2]}[{k // 2}] = {c_expression(end, names)};" for k, end in enumerate(limits.expressions)
    ]
    return _LIMITS.replace("LINES", "\n".join(lines)) + _CLIPPED


def _described(parcel: Parcel, name: str, states: list[str], actions: list[str]) -> list[str]:
    """Return the lines of the first comment: how to call, what the numbers mean, what is left out, where they come from."""
    grid = parcel.policy.grid
    lines = [f"    double state[{grid.dimension}], action[{len(actions)}];", f"    {name}_policy(state, action);", "", "states"]
    for k, key in enumerate(states):
        axis = grid.axes[k]
        text = f"[{name}_state_{key}] {grid.names[k]} in {parcel.units.states[k]}, {axis[0]:.6g} to {axis[-1]:.6g}"
        lines.append(f"    {text} ({axis.size} points), {grid.boundary[k]}")
    lines.append("actions")
    for k, key in enumerate(actions):
        text = f"[{name}_action_{key}] {parcel.action_names[k]} in {parcel.units.actions[k]}"
        moving = f", as {name}_limits says" if parcel.policy.limits is not None else ""
        lines.append(f"    {text}, from {parcel.bounds[k, 0]:.6g} to {parcel.bounds[k, 1]:.6g}{moving}")
    if lost := parcel.lost():
        lines += [f"left out: {lost}"]
    lines += [f"{key}: {text}" for key, text in parcel.provenance.items()]
    return [f" * {comment(line)}".rstrip() for line in ["", *lines]]


def _places(name: str, kind: str, keys: list[str]) -> list[str]:
    return [f"enum {{ {', '.join(f'{name}_{kind}_{key} = {k}' for k, key in enumerate(keys))} }};"]


def _array(name: str, values: np.ndarray, per_line: int = 6) -> str:
    words = [_number(value) for value in values.tolist()]
    lines = [", ".join(words[k : k + per_line]) for k in range(0, len(words), per_line)]
    return f"static const double {name}[] = {{\n    " + ",\n    ".join(lines) + "\n};"


def _number(value: float) -> str:
    """Return a double as C reads it back, exactly."""
    if math.isinf(value):
        return "HUGE_VAL" if value > 0 else "-HUGE_VAL"
    return repr(value)


def _texts(name: str, text: str) -> str:
    return f"static const char *const {name}[] = {{\n    " + ",\n    ".join(literals(text)) + ",\n    NULL\n};"
