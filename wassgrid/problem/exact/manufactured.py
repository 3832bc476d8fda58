"""Problems built backwards from a chosen value function and policy: exact for any dynamics and dimension."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from wassgrid.problem.exact.case_text import Array, Kernel, Points, write_case


@dataclass(frozen=True)
class NextState:
    """Law of one state: x' = mean + sum over ``follows`` of coefficient * (realised next value) + noise * xi.

    ``mean``, ``noise`` and the coefficients are texts of the case language; ``follows`` pairs a state with its
    coefficient. Numbers in ``domain`` may be texts too.
    """

    name: str
    mean: str
    domain: tuple[float | str, float | str]
    noise: str = "0"
    boundary: str = "clamp"
    follows: tuple[tuple[str, str], ...] = ()

    def table(self) -> dict[str, Any]:
        """Return the state's table of the case."""
        terms = [f"({coefficient})*next({state})" for state, coefficient in self.follows]
        return {
            "next": " + ".join([self.mean, *terms]),
            "noise": self.noise,
            "domain": list(self.domain),
            "boundary": self.boundary,
        }


@dataclass(frozen=True)
class Manufactured:
    """Problem with a chosen optimum, by the stage cost objective + h(x) - E h(x') + W(a - g(x)).

    If W >= 0 vanishes at 0 alone, then the optimal average cost is ``objective``, the optimal policy a = g(x), and
    Q*(x, a) = h(x) + W(a - g(x)) up to a constant. More than that: *every* policy of the form a = g(x) + e, with
    offsets e whose law does not depend on x, has the value function h, average cost objective + E W(e) and
    dQ/da = W'(e).

    The value function h may be any sum of products of powers of states with sines and cosines of linear combinations of
    states; its expectation is then in closed form. The chain must not feel the ends of clamped axes.

    Attributes:
        value: text of h in the states.
        policy: text of g in the states, one per action.
        well: text of W in the offsets e1, e2, ... (one per action).
    """

    states: tuple[NextState, ...]
    actions: tuple[str, ...]
    value: str
    policy: tuple[str, ...]
    well: str
    objective: float = 1.0
    parameters: Mapping[str, float] = field(default_factory=dict)
    title: str = "Manufactured problem"

    @classmethod
    def circle(cls) -> Self:
        """Return a nonlinear problem on the circle with noise that depends on the state."""
        return cls(
            title="Manufactured problem on the circle",
            states=(NextState("x", "x + 0.3*sin(x) + 0.5*a", ("-pi", "pi"), "0.4 + 0.1*cos(x)", "periodic"),),
            actions=("a",),
            value="cos(x)**3 + 0.2*sin(2*x)*cos(x)",
            policy=("-sin(x)",),
            well="e1**2 + e1**4/4",
        )

    @classmethod
    def pendulum(cls, angle_noise: float = 0.0) -> Self:
        """Return a driven pendulum in semi-implicit Euler steps, with noise in omega and ``angle_noise`` in theta."""
        return cls(
            title="Manufactured problem on the pendulum",
            states=(
                NextState("theta", "theta", ("-pi", "pi"), repr(angle_noise), "periodic", (("omega", "step"),)),
                NextState("omega", "0.9*omega + step*(5*sin(theta) + 3*a)", (-7, 7), "0.5"),
            ),
            actions=("a",),
            value="0.1*omega**2*(1 + cos(theta)**2) + sin(theta + omega/2) - cos(theta)",
            policy=("-3*sin(theta) - omega/2",),
            well="1 - cos(e1) + e1**2/10",
            parameters={"step": 0.1},
        )

    @classmethod
    def correlated(cls) -> Self:
        """Return a two-dimensional problem with correlated noise and two actions.

        For evaluating policies: h is no polynomial of degree two, and where axes end the cost -E h(x') of actions that lead far
        beyond them falls without bound, so that on a grid there is nothing to be optimised.
        """
        return cls(
            title="Manufactured problem with correlated noise",
            states=(
                NextState("x", "0.8*x + 0.2*y + u", (-6, 6), "0.5", follows=(("y", "0.3"),)),
                NextState("y", "0.7*y - 0.1*x + v", (-6, 6), "0.6"),
            ),
            actions=("u", "v"),
            value="x**4/10 + x**2*y - sin(x)*sin(y)*y",
            policy=("-x/2", "-y/3 + x/9"),
            well="e1**2 + e1*e2 + e2**2",
            objective=-2.5,
        )

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the states, in the order of the axes."""
        return tuple(state.name for state in self.states)

    @property
    def offset_names(self) -> tuple[str, ...]:
        """Names e1, e2, ... of the offsets a - g(x)."""
        return tuple(f"e{k + 1}" for k in range(len(self.actions)))

    def value_at(self, states: ArrayLike) -> Array:
        """Return h at ``states`` (..., dimensions), up to the constant that makes its stationary mean vanish."""
        return self._evaluate(self._parse(self.value), self.state_names, states)

    def optimal_actions(self, states: ArrayLike) -> Array:
        """Return g (..., actions) at ``states`` (..., dimensions)."""
        return np.stack([self._evaluate(self._parse(text), self.state_names, states) for text in self.policy], axis=-1)

    def excess(self, offsets: ArrayLike) -> Array:
        """Return W at ``offsets`` (..., actions)."""
        return self._evaluate(self._parse(self.well), self.offset_names, offsets)

    def action_gradient(self, offsets: ArrayLike) -> Array:
        """Return dQ/da = W' (..., actions) at ``offsets`` (..., actions)."""
        well = self._parse(self.well)
        slopes = [well.diff(self._symbols[name]) for name in self.offset_names]
        return np.stack([self._evaluate(slope, self.offset_names, offsets) for slope in slopes], axis=-1)

    @cached_property
    def stage_cost(self) -> str:
        """Text of the stage cost in the case language."""
        offsets = {
            name: f"({action} - ({policy}))"
            for name, action, policy in zip(self.offset_names, self.actions, self.policy, strict=True)
        }
        return f"{self.objective!r} + ({self.value}) - ({self.expected_value}) + ({_replace_names(self.well, offsets)})"

    @cached_property
    def expected_value(self) -> str:
        """Text of E h(x') given state and action, in the case language."""
        import sympy

        texts: dict[str, str] = {}
        following: dict[str, Any] = {}
        noises: list[Any] = []

        def placeholder(name: str, text: str) -> Any:
            # a symbol stands for the text, so that SymPy never expands the dynamics
            texts[name] = f"({text})"
            return sympy.Symbol(name, real=True)

        pending = list(self.states)
        while pending:
            ready = [state for state in pending if all(other in following for other, _ in state.follows)]
            if not ready:
                raise ValueError(f"the states {[state.name for state in pending]} follow one another in a cycle")
            for state in ready:
                expression = placeholder(f"mean_{state.name}", state.mean)
                if state.noise not in ("0", "0.0"):
                    noises.append(sympy.Symbol(f"xi_{state.name}", real=True))
                    expression += placeholder(f"noise_{state.name}", state.noise) * noises[-1]
                for other, coefficient in state.follows:
                    expression += placeholder(f"follow_{state.name}_{other}", coefficient) * following[other]
                following[state.name] = expression
            pending = [state for state in pending if state.name not in following]
        return _replace_names(str(_gaussian_expectation(self._parse(self.value), following, noises)), texts)

    def case_text(self, points: Points, kernel: Kernel = "gaussian", **tables: Any) -> str:
        """Return the case. Without a ``policy`` table it starts from one particle on the optimal policy."""
        optimum = {"distribution": "point", "mean": dict(zip(self.actions, self.policy, strict=True))}
        problem = {
            "title": self.title,
            "parameters": dict(self.parameters),
            "states": {state.name: state.table() for state in self.states},
            "actions": {name: {} for name in self.actions},
            "cost": {"stage": self.stage_cost},
        }
        tables = {"policy": {"particles": 1, "initial": optimum}, **tables}
        return write_case(problem, self.state_names, points, kernel, tables)

    @cached_property
    def _symbols(self) -> dict[str, Any]:
        import sympy

        return {name: sympy.Symbol(name, real=True) for name in (*self.state_names, *self.offset_names)}

    def _parse(self, text: str) -> Any:
        from wassgrid.problem.expression import Scope, parse

        return parse(text, Scope(values={**self._symbols, **self.parameters}))

    def _evaluate(self, expression: Any, names: Sequence[str], points: ArrayLike) -> Array:
        """Return ``expression`` in the variables ``names`` at ``points`` (..., names)."""
        import sympy

        function = sympy.lambdify([self._symbols[name] for name in names], expression, "numpy")
        columns = np.moveaxis(np.asarray(points, dtype=float), -1, 0)
        return np.array(np.broadcast_to(function(*columns), columns.shape[1:]), dtype=float)


def _replace_names(text: str, replacements: Mapping[str, str]) -> str:
    """Return ``text`` with whole identifiers replaced."""
    return re.sub(r"[A-Za-z_]\w*", lambda match: replacements.get(match.group(), match.group()), text)


def _gaussian_expectation(value: Any, following: Mapping[str, Any], noises: Sequence[Any]) -> Any:
    """Return E value(x') over independent standard normal ``noises``, in closed form.

    Args:
        value: SymPy expression in the states: sums of powers times sines and cosines of linear combinations.
        following: next value of each state, linear in the noises.
    """
    import sympy
    from sympy.simplify.fu import TR8

    substitution = {symbol: following[symbol.name] for symbol in value.free_symbols if symbol.name in following}
    expectation = sympy.Integer(0)
    # products of sines and cosines become sums, so that each term holds at most one
    for term in sympy.Add.make_args(sympy.expand(TR8(sympy.expand(value)))):
        waves = [factor for factor in sympy.Mul.make_args(term) if factor.func in (sympy.cos, sympy.sin)]
        if len(waves) > 1:
            raise ValueError(f"cannot reduce the product of waves in {term}")
        wave = waves[0] if waves else sympy.cos(0, evaluate=False)
        amplitude = term / wave if waves else term
        phase = sympy.expand(wave.args[0].subs(substitution))
        still = phase.subs(dict.fromkeys(noises, 0))
        speeds = [phase.coeff(noise) for noise in noises]
        if sympy.expand(phase - still - sum(s * n for s, n in zip(speeds, noises, strict=True))) != 0:
            raise ValueError(f"the phase of {wave} is not linear in the states")
        for powers, coefficient in sympy.Poly(amplitude.subs(substitution), *noises).terms():
            # E xi^n exp(i k xi) = i^n He_n(k) exp(-k^2/2), and i^n turns the phase by n pi/2
            factor = sympy.prod(
                sympy.hermite_prob(power, speed) * sympy.exp(-(speed**2) / 2)
                for power, speed in zip(powers, speeds, strict=True)
            )
            expectation += coefficient * factor * wave.func(still + sum(powers) * sympy.pi / 2)
    return expectation
