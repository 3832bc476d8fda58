"""Problems as Python functions: the same numbers as in expressions, no claim that needs a proof, errors that are named."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wassgrid as wg
from wassgrid.cli import main
from wassgrid.problem.function_problem import FunctionProblem, Functions

LINE = """
[states.x]
next = "x + 0.1*sin(3*x) + u*(1 + 0.2*x**2)"
noise = "0.3 + 0.1*cos(x)"
domain = [-3, 3]
boundary = "{boundary}"
[actions.u]
bounds = [-1, 1]
[cost]
stage = "x**2 + 0.3*u**2 + 0.1*exp(u)"
[grid]
points = {{ x = 41 }}
[policy]
particles = 3
{more}
"""
PLANE = """
[states.p]
next = "p + 0.2*q"
noise = "0.25"
domain = [-2, 2]
boundary = "periodic"
[states.q]
next = "q + 0.2*(sin(pi*p) + u + 0.3*v*q)"
noise = "0.4"
domain = [-3, 3]
[actions.u]
bounds = [-2, 2]
[actions.v]
bounds = [-1, 1]
[cost]
stage = "1 - cos(pi*p) + 0.2*q**2 + 0.1*u**2 + 0.2*v**2 + 0.05*u*v"
[grid]
points = { p = 20, q = 21 }
[policy]
particles = 1
"""
DISCOUNTED = '[criterion]\nkind = "discounted"\ndiscount = 0.9'


def line(arrays: Any = np, boundary: str = "clamp", **changed: Any) -> wg.Problem:
    given: dict[str, Any] = {
        "next_mean": lambda s, a: s + 0.1 * arrays.sin(3 * s) + a * (1 + 0.2 * s**2),
        "cost": lambda s, a: s[:, 0] ** 2 + 0.3 * a[:, 0] ** 2 + 0.1 * arrays.exp(a[:, 0]),
        "noise": lambda s: 0.3 + 0.1 * arrays.cos(s),
        "states": {"x": {"domain": (-3, 3), "boundary": boundary}},
        "actions": {"u": (-1, 1)},
    }
    return wg.Problem(**given | changed)


def line_case(problem: wg.Problem, **tables: Any) -> wg.Case:
    return problem.case("line", **{"grid": {"points": {"x": 41}}, "policy": {"particles": 3}} | tables)


def plane(arrays: Any = np) -> wg.Case:
    def next_mean(s: Any, a: Any) -> Any:
        speed = s[:, 1] + 0.2 * (arrays.sin(math.pi * s[:, 0]) + a[:, 0] + 0.3 * a[:, 1] * s[:, 1])
        return arrays.stack([s[:, 0] + 0.2 * s[:, 1], speed], axis=-1)

    def cost(s: Any, a: Any) -> Any:
        u, v = a[:, 0], a[:, 1]
        return 1 - arrays.cos(math.pi * s[:, 0]) + 0.2 * s[:, 1] ** 2 + 0.1 * u**2 + 0.2 * v**2 + 0.05 * u * v

    states = {"p": {"domain": (-2, 2), "boundary": "periodic"}, "q": (-3, 3)}
    problem = wg.Problem(next_mean=next_mean, cost=cost, noise=[0.25, 0.4], states=states, actions={"u": (-2, 2), "v": (-1, 1)})
    return problem.case(grid={"points": {"p": 20, "q": 21}}, policy={"particles": 1})


def given_derivatives(s: Any, a: Any) -> tuple[Any, Any]:
    """Gradient and Hessian of the mean on the line."""
    return (1 + 0.2 * s**2)[:, :, None], np.zeros((len(s), 1, 1, 1))


def of_cost(s: Any, a: Any) -> tuple[Any, Any]:
    return 0.6 * a + 0.1 * np.exp(a), (0.6 + 0.1 * np.exp(a))[:, :, None]


def jax_numpy() -> Any:
    return pytest.importorskip("jax.numpy", reason="JAX is an extra")


# ---- the same problem, the same numbers ----


@pytest.mark.parametrize("kind", ["differences", "given", "jax"])
@pytest.mark.parametrize(("boundary", "more"), [("clamp", ""), ("open", ""), ("truncate", DISCOUNTED)])
def test_on_a_line_functions_give_what_expressions_give(kind: str, boundary: str, more: str) -> None:
    expressions = wg.Case.from_text(LINE.format(boundary=boundary, more=more))
    arrays = jax_numpy() if kind == "jax" else np
    changed = {"derivatives": (given_derivatives, of_cost)} if kind == "given" else {}
    criterion = {"criterion": {"kind": "discounted", "discount": 0.9}} if more else {}
    functions = line_case(line(arrays, boundary, **changed), **criterion)
    exact, found = wg.geometry.at(expressions), wg.geometry.at(functions)  # the policies that they start from
    assert found.objective == pytest.approx(exact.objective, rel=1e-11)
    assert found.evaluation.q_gradient == pytest.approx(exact.evaluation.q_gradient, rel=1e-7, abs=1e-8)
    assert found.evaluation.q_hessian == pytest.approx(exact.evaluation.q_hessian, rel=1e-5, abs=1e-5)
    one, other = wg.solve(expressions), wg.solve(functions)
    assert other.objective == pytest.approx(one.objective, rel=1e-8)
    assert wg.second_order.check(found).passed


@pytest.mark.parametrize("kind", ["differences", "jax"])
def test_in_the_plane_with_two_actions_functions_give_what_expressions_give(kind: str) -> None:
    case = plane(jax_numpy() if kind == "jax" else np)
    exact, found = wg.solve(wg.Case.from_text(PLANE)), wg.solve(case)
    assert found.objective == pytest.approx(exact.objective, rel=1e-8)
    assert found.policy.actions == pytest.approx(exact.policy.actions, abs=1e-4)
    assert wg.second_order.check(wg.geometry.at(case)).passed


def test_differences_are_as_good_as_is_said_up_to_the_bounds() -> None:
    """Five places within the bounds: the function is not defined beyond them."""
    functions = Functions(lambda s, a: np.sqrt(a + 1.0) * s, 0.1, lambda s, a: np.log1p(a[:, 0]) * a[:, 1] ** 3, "differences")
    bounds = np.array([[-0.5, 1.0], [-2.0, 2.0]])
    actions = np.array([[-0.5, -2.0], [-0.4999, 0.3], [0.2, 1.0], [1.0, 2.0]])
    states = np.full((4, 1), 1.7)
    functions = Functions(lambda s, a: np.sqrt(a[:, :1] + 0.5 + 0.5) * s, 0.1, functions.cost, "differences")
    value, gradient, hessian = functions.differentiated(states, actions, lambda states: tuple(bounds.T))
    u, v = actions.T
    assert value[:, 1] == pytest.approx(np.log1p(u) * v**3)
    assert gradient[:, 0, 0] == pytest.approx(1.7 / (2 * np.sqrt(u + 1)), rel=1e-8)
    assert gradient[:, 1] == pytest.approx(np.stack([v**3 / (1 + u), 3 * v**2 * np.log1p(u)], axis=-1), rel=1e-8)
    assert hessian[:, 1, 0, 1] == pytest.approx(3 * v**2 / (1 + u), rel=1e-7)
    assert hessian[:, 1, 1, 0] == pytest.approx(hessian[:, 1, 0, 1])
    assert hessian[:, 1, 1, 1] == pytest.approx(6 * v * np.log1p(u), rel=1e-6)
    assert hessian[:, 0, 0, 0] == pytest.approx(-1.7 / (4 * (u + 1) ** 1.5), rel=1e-6)


def test_the_error_of_differences_is_stated_and_grows_where_they_are_bad() -> None:
    fine = line_case(line()).problem
    rough = line_case(line(cost=lambda s, a: s[:, 0] ** 2 + 0.01 * np.sin(300 * a[:, 0]))).problem
    assert isinstance(fine, FunctionProblem) and isinstance(rough, FunctionProblem)
    assert fine.derivative_error < 1e-7
    assert rough.derivative_error > 1e-3
    assert f"to about {fine.derivative_error:.0e}" in fine.no_bounds


# ---- no claim that needs a proof ----


@pytest.mark.parametrize("flow", [{}, {"stop": {"gap": 0.1}}, {"proof": "always", "stop": {"steps": 3}}, {"method": "rk4"}])
def test_nothing_is_proven(flow: dict[str, Any]) -> None:
    solution = wg.solve(line_case(line(), flow=flow))
    assert not np.isfinite(solution.lower_bound)
    assert not np.isfinite(solution.history["lower_bound"]).any()
    assert solution.status != "converged" and not solution.converged
    assert "proven" not in repr(solution)
    assert "nothing is proven" in solution.reason or "steps were done" in solution.reason
    assert solution.summary["certificate"].startswith("not proven: the problem is given as Python functions")


def test_a_user_who_asks_for_a_gap_is_told_that_it_was_not_proven() -> None:
    solution = wg.solve(line_case(line(), flow={"stop": {"gap": 1e-3}}))
    assert not solution.complete
    assert "nothing is proven: the problem is given as Python functions" in solution.reason


def test_unbounded_actions_are_searched_near_the_particles() -> None:
    case = line_case(line(actions={"u": None}))
    solution = wg.solve(case)
    expressions = wg.solve(wg.Case.from_text(LINE.format(boundary="clamp", more="").replace("bounds = [-1, 1]", "")))
    assert solution.objective == pytest.approx(expressions.objective, rel=1e-7)
    assert not np.isfinite(solution.lower_bound)


# ---- files ----


def test_files_are_read_drawn_and_started_from_but_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = line_case(line())
    path = tmp_path / "line.h5"
    solution = wg.run(case, path)
    assert wg.Policy.load(path).mean({"x": 0.5}) == pytest.approx(solution.policy.mean({"x": 0.5}))
    assert wg.solve(case, initial=path).objective == pytest.approx(solution.objective, rel=1e-9)
    assert main(["info", str(path)]) == 0
    assert main(["plot", str(path), "-o", str(tmp_path)]) == 0
    assert "Python functions" in capsys.readouterr().out
    before = path.read_bytes()
    for verb in ("resume", "simulate", "report", "prove"):
        assert main([verb, str(path)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "Python functions (wg.Problem), which no file holds" in error
    assert path.read_bytes() == before
    with pytest.raises(wg.WassgridError, match="which no file holds"):
        wg.Case.from_text(case.to_text())


def test_cases_with_other_functions_are_others() -> None:
    problem = line()
    assert line_case(problem) == line_case(problem)
    assert line_case(problem) != line_case(line())


def test_environments_and_simulations_take_them() -> None:
    pytest.importorskip("gymnasium", reason="an extra")
    env = wg.make_env(line_case(line()))
    env.reset(seed=0)
    assert np.isfinite(env.step(env.action_space.sample())[1])


# ---- what cannot be used is named before anything is solved ----


def _changing() -> Callable[[Any, Any], Any]:
    rng = np.random.default_rng(0)
    return lambda s, a: s + 0.1 * rng.random(s.shape)


def _in_place(s: Any, a: Any) -> Any:
    s += a
    return s


BAD = {
    "shape": ({"next_mean": lambda s, a: np.zeros((3, 3))}, r"next_mean: expected an array of shape \(7, 1\) for states"),
    "one row": ({"cost": lambda s, a: s[0] ** 2 + a[0] ** 2}, r"cost: expected .* it must take many rows at once"),
    "a number": ({"cost": lambda s, a: 1.0}, r"cost: expected an array of shape \(7,\).*got \(\): it must take many rows"),
    "columns": (
        {
            "next_mean": lambda s, a: np.stack([s[:, 0], s[:, 1]]),
            "noise": 0.1,
            "cost": lambda s, a: s[:, 0],
            "states": {"x": (-3, 3), "y": (-1, 1)},
        },
        r"next_mean: .* got \(2, 7\): a row for every state, np.stack",
    ),
    "if": ({"cost": lambda s, a: 1.0 if s[:, 0] > 0 else 2.0}, r"cost: ValueError: The truth value"),
    "math": ({"cost": lambda s, a: math.exp(a[:, 0])}, r"cost: TypeError: .*called with states \(7, 1\), actions \(7, 1\)"),
    "text": ({"cost": lambda s, a: np.full(len(s), "a")}, r"cost: expected real numbers"),
    "complex": ({"cost": lambda s, a: s[:, 0] + 1j}, r"cost: expected real numbers"),
    "nan": ({"cost": lambda s, a: np.sqrt(s[:, 0])}, r"cost is nan at x=-3, u=-1: it must be a finite number"),
    "infinite": ({"next_mean": lambda s, a: s / 0.0}, r"next x is -?inf at x="),
    "mixes rows": ({"cost": lambda s, a: s[:, 0] - s[:, 0].mean()}, r"cost: a row alone gives .* may depend on that row only"),
    "noise mixes": ({"noise": lambda s: np.abs(s - s.mean())}, r"noise: a row alone"),
    "changes": ({"next_mean": _changing()}, r"next_mean: it gives .*, then .* for the same arguments"),
    "in place": ({"next_mean": _in_place}, r"next_mean: ValueError: .*read-only"),
    "negative noise": ({"noise": lambda s: s}, r"noise of x is negative at x=-3"),
    "noise numbers": ({"noise": [0.1, 0.2]}, r"noise: expected a number, 1 numbers or a function of states"),
    "noise of nan": ({"noise": math.nan}, r"noise of x is nan"),
    "arguments": ({"next_mean": lambda s: s}, r"next_mean: TypeError: .*positional argument"),
    "not callable": ({"cost": "x**2"}, r"cost: expected a function of states and actions"),
    "derivatives": ({"derivatives": "symbolic"}, r'derivatives: expected "jax", "differences" or a pair'),
    "gradient": (
        {"derivatives": (given_derivatives, lambda s, a: (0.7 * a + 0.1 * np.exp(a), of_cost(s, a)[1]))},
        r"derivatives of cost: the gradient is not that of the function",
    ),
    "Hessian": (
        {"derivatives": (given_derivatives, lambda s, a: (of_cost(s, a)[0], np.zeros((len(s), 1, 1))))},
        r"derivatives of cost: the Hessian is not",
    ),
    "gradient alone": ({"derivatives": (lambda s, a: s, of_cost)}, r"derivatives of next_mean: expected a pair"),
    "gradient's shape": (
        {"derivatives": (lambda s, a: (s[:, :, None, None], s), of_cost)},
        r"derivatives of next_mean, gradient: expected an array of shape \(7, 1, 1\)",
    ),
    "states": ({"states": ["x"]}, r"states: expected a dict of names"),
    "key": ({"states": {"x": {"next": "x"}}}, r"states.x.next: not a key here, expected domain, boundary, unit"),
    "no domain": ({"states": {"x": None}}, r"states.x.domain: missing"),
    "bounds": ({"actions": {"u": (1, -1)}}, r"actions.u.bounds"),
}


@pytest.mark.parametrize("name", BAD)
def test_functions_that_cannot_be_used_are_named(name: str) -> None:
    changed, message = BAD[name]
    with pytest.raises(wg.CaseError, match=message) as found:
        line_case(line(**changed), grid={"points": dict.fromkeys(changed.get("states", "x"), 21)})
    assert "\n" not in str(found.value)


def test_tables_of_the_problem_stand_in_the_problem() -> None:
    with pytest.raises(wg.CaseError, match=r"states: stands in wg\.Problem, not here"):
        line_case(line(), states={})
    with pytest.raises(wg.CaseError, match="the neural solver takes a case with expressions"):
        line_case(line(), solver={"kind": "neural"})
    with pytest.raises(wg.CaseError, match=r"grid\.points\.x: missing"):
        line().case()


def test_jax_functions_that_jax_cannot_follow_are_named() -> None:
    numpy = jax_numpy()
    with pytest.raises(wg.CaseError, match="JAX cannot follow them"):
        line_case(line(numpy, cost=lambda s, a: numpy.where(float(s[0, 0]) > 0, s[:, 0], a[:, 0])))
    with pytest.raises(wg.CaseError, match="cost: expected an array of shape"):
        line_case(line(numpy, cost=lambda s, a: s))
    with pytest.raises(wg.CaseError, match="a row alone gives"):
        line_case(line(numpy, cost=lambda s, a: s[:, 0] - numpy.mean(s[:, 0])))


def test_a_value_that_is_not_finite_where_nothing_was_tried_is_named_in_the_run() -> None:
    """At 41 points x = 0 is a node, and no probe is near it."""
    case = line_case(line(cost=lambda s, a: s[:, 0] ** 2 + np.where(np.abs(s[:, 0]) < 1e-9, np.inf, 0.0) + a[:, 0] ** 2))
    with pytest.raises(wg.WassgridError, match=r"cost is inf at x=.*: it must be a finite number"):
        wg.solve(case)
