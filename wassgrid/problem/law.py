"""The law of one step as expressions: mean, coupling to realised next values, noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sympy as sp

from wassgrid.problem.boundary import BOUNDARIES
from wassgrid.problem.functions import Maximum, Minimum
from wassgrid.problem.model import Model, ProblemError


@dataclass(frozen=True)
class Law:
    """x'_j = mean_j + sum_i coupling[j, i] x'_i + noise_j xi_j, in the scalar symbols of the model.

    `stages` are computed first and may stand in `mean` (see `compile_functions`); coupling holds the entries that are not zero.
    """

    mean: tuple[sp.Expr, ...]
    coupling: Mapping[tuple[int, int], sp.Expr]
    noise: tuple[sp.Expr, ...]
    stages: tuple[tuple[sp.Symbol, sp.Expr], ...] = ()

    def symbols_of(self, expression: sp.Expr) -> set[sp.Basic]:
        """Return the symbols in an expression, those of the stages that it uses included."""
        stages = dict(self.stages)
        found: set[sp.Basic] = set()
        pending = set(expression.free_symbols)
        while pending:
            symbol = pending.pop()
            if symbol not in found:
                found.add(symbol)
                pending |= stages[symbol].free_symbols if symbol in stages else set()
        return found

    @classmethod
    def of(cls, model: Model) -> Law:
        """Derive the law of a model.

        Continuous time with step h: mean s + h b ("euler") or the classical Runge-Kutta step ("rk4"), noise Sigma sqrt(h).
        Raises ProblemError where next(...) does not enter linearly with a factor of states, or stands under "rk4".
        """
        scalars, h = model.scalars, model.time_step
        if h is None:
            mean, coupling = _split(model)
            return cls(_clipped(model, mean, coupling), coupling, scalars.noise)
        noise = tuple(sigma * sp.Float(h**0.5) for sigma in scalars.noise)
        if model.scheme == "rk4":
            return _runge_kutta(model, noise)
        drift, coupling = _split(model)
        # x'_j = s_j + h b_j, so the coupling carries the step
        mean = [s + h * b for s, b in zip(scalars.states, drift, strict=True)]
        return cls(_clipped(model, mean, coupling), {place: h * beta for place, beta in coupling.items()}, noise)


def _clipped(model: Model, mean: Sequence[sp.Expr], coupling: Mapping[tuple[int, int], sp.Expr]) -> tuple[sp.Expr, ...]:
    """Bring the means of axes that the grid widens (`boundary = "open"`) within their domains.

    Raises ProblemError for one that follows others: its mean is known only with theirs.
    """
    families = [family for family in model.states for _ in family.members]
    result = list(mean)
    for j, family in enumerate(families):
        if not BOUNDARIES[family.boundary].widens:
            continue
        if any(place[0] == j for place in coupling):
            raise ProblemError(
                f'states.{family.key}.boundary: "{family.boundary}" clips the mean, which stands in {model.law_path(j)} with '
                'next(...); use "truncate" or "project"'
            )
        low, high = map(sp.Float, family.interval)
        result[j] = Minimum(Maximum(mean[j], low), high)
    return tuple(result)


def _split(model: Model) -> tuple[list[sp.Expr], dict[tuple[int, int], sp.Expr]]:
    """Split the realised next values off the texts of all laws: alpha_j, and beta_ji where it is not zero."""
    scalars = model.scalars
    coupling: dict[tuple[int, int], sp.Expr] = {}
    mean = []
    for j, law in enumerate(scalars.law):
        followed = [i for i, symbol in enumerate(scalars.realised) if symbol in law.free_symbols]
        for i in followed:
            name, path = scalars.states[i], model.law_path(j)
            beta = sp.diff(law, scalars.realised[i])
            if i == j:
                raise ProblemError(f"{path}: next({name}) stands in its own law")
            if beta.free_symbols & set(scalars.realised):
                raise ProblemError(f"{path}: next({name}) must enter linearly")
            if beta.free_symbols & set(scalars.actions):
                raise ProblemError(f"{path}: the factor of next({name}) may depend on states and parameters only")
            coupling[j, i] = beta
        mean.append(law.xreplace({scalars.realised[i]: sp.S.Zero for i in followed}))
    return mean, coupling


def _runge_kutta(model: Model, noise: tuple[sp.Expr, ...]) -> Law:
    """Take one classical Runge-Kutta step of order 4 along the drift (Kutta 1901), the action held."""
    scalars, h = model.scalars, sp.Float(model.time_step)
    for j, law in enumerate(scalars.law):
        if law.free_symbols & set(scalars.realised):
            raise ProblemError(f'{model.law_path(j)}: next(...) needs time.scheme = "euler", rk4 has its own stages')
    stages: list[tuple[sp.Symbol, sp.Expr]] = []
    slopes: list[list[sp.Symbol]] = []
    # k1 = b(s), k2 = b(s + h/2 k1), k3 = b(s + h/2 k2), k4 = b(s + h k3)
    for stage, lead in enumerate((0, h / 2, h / 2, h)):
        place = {s: s + lead * k for s, k in zip(scalars.states, slopes[-1], strict=True)} if stage else {}
        slopes.append([sp.Symbol(f"_slope_{stage}_{j}") for j in range(len(scalars.states))])
        stages += [(slopes[-1][j], law.xreplace(place)) for j, law in enumerate(scalars.law)]
    # x' = s + h/6 (k1 + 2 k2 + 2 k3 + k4)
    k1, k2, k3, k4 = slopes
    mean = tuple(s + h / 6 * (k1[j] + 2 * k2[j] + 2 * k3[j] + k4[j]) for j, s in enumerate(scalars.states))
    return Law(_clipped(model, mean, {}), {}, noise, tuple(stages))
