"""The realised step of the chain and its cost as vectorised array functions, index families kept whole.

An expression over families is evaluated on whole arrays: every index letter, free or summed over, owns one trailing
array axis, a member q[i+k] is the family's array shifted by k along the axis of i, and a sum is a sum over the axis of
its letter.  A model of a hundred oscillators is the same few array operations as one of two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp

from wassgrid.problem.boundary import next_value
from wassgrid.problem.compilation import array_module, compile_functions
from wassgrid.problem.control_problem import ControlProblem
from wassgrid.problem.functions import SumOver
from wassgrid.problem.model import Family, ProblemError, StateTemplate

Blocks = dict[str, Any]  # name of a table (or next(name)) -> array (..., members)
BlockFunction = Callable[[Blocks], Any]


@dataclass(frozen=True, eq=False)
class RandomStep:
    """Steps of the chain x' = alpha(s, a) + beta(s) x' + sigma(s) xi on arrays with any leading axes.

    backend: "numpy" or "jax"; with JAX all functions can be jitted, differentiated and batched, in the precision of their
    arguments.  Compares and hashes by identity, so that it may be a static argument of `jax.jit`.
    Raises ProblemError on first use where next(...) goes round in a circle between tables, as next(q[i-1]) in q[i] does.
    """

    problem: ControlProblem
    backend: str = "jax"

    @property
    def state_dimension(self) -> int:
        """d."""
        return self.problem.state_dimension

    @property
    def action_dimension(self) -> int:
        """m."""
        return self.problem.action_dimension

    @cached_property
    def noise_dimension(self) -> int:
        """The number of states with noise: the last axis of `normals`."""
        return sum(len(template.family.members) for template in self._templates if template.noise != 0)

    def next_state(self, states: Any, actions: Any, normals: Any) -> Any:
        """Return the next states (..., d), boundaries applied, of states (..., d), actions (..., m), normals (..., noise).

        normals are independent standard normal numbers, those of the noisy states in file order.
        """
        model = self.problem.model
        blocks = self._blocks(states, actions)
        deviations, used = {}, 0
        for template, noise in zip(self._templates, self._noise, strict=True):
            if template.noise != 0:
                size = len(template.family.members)
                deviations[template.family.name] = noise(blocks), normals[..., used : used + size]
                used += size
        # sigma = Sigma sqrt(h) in continuous time
        scale = 1.0 if model.time_step is None else float(np.sqrt(model.time_step))
        slopes = self._runge_kutta_slopes(blocks) if model.scheme == "rk4" else None
        for j in self._order:
            family = self._templates[j].family
            if slopes is not None:
                value = blocks[family.name] + model.time_step * slopes[j]
            elif model.time_step is not None:
                # x' = s + h b(s, a, realised x')
                value = blocks[family.name] + model.time_step * self._laws[j](blocks)
            else:
                value = self._laws[j](blocks)
            deviation, normal = deviations.get(family.name, (None, None))
            if deviation is not None:
                deviation = scale * deviation
            value = next_value(value, deviation, normal, *family.interval, family.boundary, self._arrays)
            blocks[f"next({family.name})"] = value
        realised = [blocks[f"next({template.family.name})"] for template in self._templates]
        return self._arrays.concatenate(realised, axis=-1)

    def stage_cost(self, states: Any, actions: Any) -> Any:
        """Return the stage cost, or the cost rate in continuous time, (...)."""
        return self._cost(self._blocks(states, actions))[..., 0]

    def _runge_kutta_slopes(self, blocks: Blocks) -> list[Any]:
        """Return (k1 + 2 k2 + 2 k3 + k4) / 6 of every table, the action held (Kutta 1901)."""
        h, names = self.problem.model.time_step or 0.0, [template.family.name for template in self._templates]
        slope: list[Any] = []
        total: list[Any] = []
        for lead, weight in ((0.0, 1 / 6), (0.5, 1 / 3), (0.5, 1 / 3), (1.0, 1 / 6)):
            place = dict(blocks)
            if slope:
                place |= {name: blocks[name] + lead * h * k for name, k in zip(names, slope, strict=True)}
            slope = [law(place) for law in self._laws]
            total = [weight * k + (total[j] if total else 0.0) for j, k in enumerate(slope)]
        return total

    # -- parts -----------------------------------------------------------------------------------------------------

    @property
    def _templates(self) -> tuple[StateTemplate, ...]:
        return self.problem.model.templates[0]

    @cached_property
    def _arrays(self) -> Any:
        return array_module(self.backend)

    @cached_property
    def _laws(self) -> list[BlockFunction]:
        return [self._compiled(template.law, template.family) for template in self._templates]

    @cached_property
    def _noise(self) -> list[BlockFunction]:
        return [self._compiled(template.noise, template.family) for template in self._templates]

    @cached_property
    def _cost(self) -> BlockFunction:
        return self._compiled(self.problem.model.templates[1], None)

    @cached_property
    def _order(self) -> tuple[int, ...]:
        """The tables in an order in which realised next values are known."""
        names = [f"next({template.family.name})" for template in self._templates]
        used = [
            {str(getattr(leaf, "base", leaf)) for leaf in template.law.atoms(sp.Indexed, sp.Symbol)}
            for template in self._templates
        ]
        follows = [[i for i, name in enumerate(names) if name in own] for own in used]
        if self.problem.model.scheme == "rk4" and any(follows):
            raise ProblemError('states: next(...) needs time.scheme = "euler", rk4 has its own stages')
        placed: list[int] = []
        while len(placed) < len(names):
            ready = [j for j in range(len(names)) if j not in placed and set(follows[j]) <= set(placed)]
            if not ready:
                circle = ", ".join(t.family.key for j, t in enumerate(self._templates) if j not in placed)
                raise ProblemError(f"states: next(...) goes round in a circle among the tables {circle}")
            placed.append(ready[0])
        return tuple(placed)

    def _blocks(self, states: Any, actions: Any) -> Blocks:
        """Split the last axes of states and actions into the arrays of the tables."""
        blocks: Blocks = {}
        for values, families in ((states, self.problem.model.states), (actions, self.problem.model.actions)):
            start = 0
            for family in families:
                size = len(family.members)
                blocks[family.name] = values[..., start : start + size]
                start += size
        return blocks

    def _compiled(self, expression: sp.Expr, family: Family | None) -> BlockFunction:
        """Compile the template expression of a table (None: of a single number) into a function of the blocks, (..., members)."""
        model, arrays = self.problem.model, self._arrays
        own = [sp.Symbol(family.index.name, integer=True)] if family is not None and family.index is not None else [None]
        summed = sorted({limits[0] for s in expression.atoms(sp.Sum) for limits in s.limits}, key=str)
        # trailing axes: the index of the table, then one for each letter that is summed over; counted from the last, 1, 2, ...
        axis = {symbol: len(summed) + 1 - k for k, symbol in enumerate([*own, *summed]) if symbol is not None}
        expression = _sums_over_axes(expression, axis)
        atoms = sorted(_leaves(expression), key=str)
        function = compile_functions(
            [sp.Symbol(f"leaf_{k}") for k in range(len(atoms))],
            [expression.xreplace({atom: sp.Symbol(f"leaf_{k}") for k, atom in enumerate(atoms)})],
            self.backend,
            broadcast=False,
        )
        indices = {table.name: table.index for table in (*model.states, *model.actions)}
        members = 1 if family is None else len(family.members)

        def leaf(atom: sp.Expr, blocks: Blocks) -> Any:
            own_axis = 1
            if isinstance(atom, sp.Indexed):
                name, place = str(atom.base), atom.indices[0]
                values, letters = blocks[name], list(place.free_symbols)
                index = indices[name.removeprefix("next(").removesuffix(")")]
                if letters and index is not None:
                    own_axis = axis[letters[0]]
                    values = _shifted(values, int(place - letters[0]), index.periodic, arrays)
                else:
                    values = values[..., int(place) : int(place) + 1]
            elif atom in axis:
                own_axis = axis[atom]
                values = arrays.arange(float(model.indices[str(atom).partition("@")[0]].count))
            else:
                values = blocks[str(atom)]
            # (..., n) -> (..., 1, n, 1), n on the axis of the letter
            count = values.shape[-1]
            return values.reshape(*values.shape[:-1], *(count if k == own_axis else 1 for k in range(len(summed) + 1, 0, -1)))

        def evaluate(blocks: Blocks) -> Any:
            some = blocks[model.states[0].name]
            value = arrays.asarray(function(*(leaf(atom, blocks) for atom in atoms))[0], dtype=some.dtype)
            if value.ndim:
                # a value has one entry along the axes summed over
                value = value.reshape(value.shape[: value.ndim - len(summed)])
            return arrays.broadcast_to(value, (*some.shape[:-1], members))

        return evaluate


def _sums_over_axes(expression: sp.Expr, axis: Mapping[sp.Symbol, int]) -> sp.Expr:
    """Return the expression with every `Sum` over a letter as a sum over the axis of that letter."""
    if not expression.has(sp.Sum):
        return expression
    if isinstance(expression, sp.Sum):
        value = _sums_over_axes(expression.function, axis)
        for limits in expression.limits:  # SymPy makes one sum of nested ones
            value = SumOver(value, axis[limits[0]])
        return value
    return expression.func(*(_sums_over_axes(argument, axis) for argument in expression.args))


def _leaves(expression: sp.Expr) -> set[sp.Expr]:
    """Return the members and symbols that stand in an expression as values (not inside a subscript)."""
    if isinstance(expression, sp.Indexed | sp.Symbol):
        return {expression}
    return set().union(*(_leaves(argument) for argument in expression.args))


def _shifted(values: Any, shift: int, periodic: bool, arrays: Any) -> Any:
    """Return the array whose entry i is values[..., i + shift]: wrapped around, or 0 beyond the ends."""
    if shift == 0:
        return values
    if periodic:
        return arrays.roll(values, -shift, axis=-1)
    gap = arrays.zeros_like(values[..., : abs(shift)])
    return arrays.concatenate([values[..., shift:], gap] if shift > 0 else [gap, values[..., :shift]], axis=-1)
