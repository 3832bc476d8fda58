"""Proven intervals for continuous states, against quadrature and brute force that share no code with them."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest
from continuous_oracle import Line, spline_of
from hypothesis import given, settings
from hypothesis import strategies as st

from wassgrid.case import Case
from wassgrid.certificate.continuous import jets, laws
from wassgrid.certificate.continuous import value as values
from wassgrid.certificate.continuous.bellman import Bellman
from wassgrid.certificate.continuous.interval import Claim, ProveError
from wassgrid.certificate.continuous.laws import AxisLaw, NoAxis, expect
from wassgrid.certificate.continuous.plan import Plan
from wassgrid.certificate.continuous.value import solve
from wassgrid.certificate.continuous.value import spline_of as through
from wassgrid.cli import main
from wassgrid.problem.compilation import compile_functions
from wassgrid.problem.expression import Scope, parse
from wassgrid.prove import prove

LINES = [
    Line("0.9*x + a", "x**2 + 0.5*a**2", 0.5, -3.0, 3.0, "open", 2.0),
    Line("x + 0.2*sin(3*x) + 0.4*a", "abs(x - 0.3) + 0.1*abs(a)", 0.4, -2.0, 2.0, "truncate", 1.0),
    Line("x + 0.3*a", "where(abs(x) > 0.7, 1.0, 0.0) + 0.05*a**2", 0.35, -2.0, 2.0, "project", 1.0, jumps=(-0.7, 0.7)),
    Line("clip(x + a, -0.8, 1.1)", "min((x - 1)**2, (x + 1)**2 + 0.1) + 0.2*a**2", 0.3, -2.0, 2.0, "reflect", 1.0),
    Line("x + 0.5*a", "wrap_angle(x)**2 + 0.3*max(a, -0.5)**2", 0.6, -np.pi, np.pi, "periodic", 1.0),
    Line("0.8*x + max(a, 0.3*a)", "exp(-x**2) + 0.1*abs(a)**2 + 0.1*x**2", 0.4, -2.5, 2.5, "open", 1.5, 0.9),
    Line("min(x + a, 1.5 - 0.2*x)", "sqrt(1 + x**2) + 0.2*a", 0.45, -2.0, 2.0, "truncate", 1.0, 0.8),
    Line("0.5 + 0.5*x - a", "(x - 1)**2 - a + 0.3*a**2", 0.25, 0.0, 2.0, "project", 1.0, ends=("0", "min(x, 1.5)")),
]


def proof_of(line: Line, width: float = 1e-3):
    return prove(Case.from_text(line.text(), "line"), width=width, seconds=60.0)


def function_of(line: Line, proof):
    spline = proof.attempt.bellman.u
    knots = spline.knots[0]
    period = knots.spacing * knots.cells if knots.periodic else None
    return spline_of(spline.coefficients[:, 0], knots.low, knots.spacing, period), knots


def check_residuals(line: Line, proof, seed: int, count: int = 8) -> None:
    """Assert that g lies in its bounds at random means, and that its own range is most of them."""
    u, _ = function_of(line, proof)
    low, high = proof.attempt.residual.low, proof.attempt.residual.high
    margin = 0.0 if line.model != "project" else 3 * line.sigma
    means = np.random.default_rng(seed).uniform(line.low - margin, line.high + margin, count)
    means[:2] = line.low, line.high
    g = np.array([line.residual(u, y) for y in means])
    quadrature = 1e-9 * np.max(np.abs(g)) + 1e-9
    assert np.all(g >= low - quadrature), (low, g.min())
    assert np.all(g <= high + quadrature), (high, g.max())


@pytest.mark.thorough
@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.model}-{line.cost[:12]}")
def test_residuals_by_quadrature_lie_within_the_bounds(line):
    jumps = "where" in line.cost
    proof = proof_of(line, 0.3 if jumps else 1e-3)
    assert proof.relative_width < (0.6 if jumps else 1e-3)
    check_residuals(line, proof, seed=1)


@pytest.mark.thorough
def test_the_check_finds_bounds_that_are_wrong():
    line = LINES[0]
    proof = proof_of(line)
    u, _ = function_of(line, proof)
    g = line.residual(u, 0.4)
    # a bound that ignores curvature between nodes would be off by about this much
    assert proof.attempt.residual.low < g < proof.attempt.residual.high
    assert proof.attempt.residual.width < 2e-3 * abs(g)
    with pytest.raises(AssertionError):
        check_residuals(replace(line, cost="x**2 + 0.51*a**2"), proof, seed=1)
    line = LINES[-1]
    with pytest.raises(AssertionError):
        check_residuals(replace(line, ends=("0.1*x", "min(x, 1.5)")), proof_of(line), seed=1)


@pytest.mark.thorough
@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.model}-{line.cost[:12]}")
def test_the_optimum_by_brute_force_lies_within_the_interval(line):
    proof, optimum = proof_of(line, 0.3 if "where" in line.cost else 3e-3), line.optimum()
    slack = 1e-3 * max(abs(optimum), 0.1)
    assert proof.low - slack <= optimum <= proof.high + slack


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "exact", "boundary"),
    [("scalar_lq", 0.5 * (1 + np.sqrt(5.0)), "open"), ("torus_regulator", 1.008044326106, None)],
)
def test_known_values_lie_within_narrow_intervals(name, exact, boundary):
    proof = prove(Case.load(f"cases/{name}.toml"), width=1e-5, seconds=120.0, boundary=boundary)
    assert proof.reached
    assert proof.relative_width <= 1e-5
    assert proof.low <= exact <= proof.high


@pytest.mark.thorough
def test_intervals_of_different_lattices_overlap():
    intervals = [proof_of(LINES[1], width) for width in (1e-1, 1e-2, 1e-3)]
    assert max(p.low for p in intervals) <= min(p.high for p in intervals)


atoms = st.sampled_from(
    ["x", "a", "x*a", "x**2", "a**2", "sin(2*x)", "abs(x - 0.2)", "max(x, a)", "min(x, 0.4)", "clip(x + a, -0.5, 0.6)"]
)


@st.composite
def lines(draw) -> Line:
    """Draw a problem on a line with kinks of state, action and both."""
    number = st.integers(-8, 8).map(lambda k: k / 10)
    law = f"{draw(st.sampled_from(['0.9*x', '0.7*x', 'x']))} + {draw(number)}*({draw(atoms)}) + 0.5*a"
    weight = draw(st.sampled_from([0.0, 0.1, 0.5]))
    cost = f"{draw(number)}*({draw(atoms)}) + {draw(number)}*({draw(atoms)}) + 0.3*x**2 + {weight}*a**2"
    model = draw(st.sampled_from(["open", "truncate", "project", "reflect", "periodic"]))
    sigma, discount = draw(st.sampled_from([0.3, 0.5, 0.8])), draw(st.sampled_from([None, None, 0.9]))
    ends = draw(st.sampled_from([None, ("-1 + 0.4*sin(x)", "max(0.2, cos(2*x))"), ("-abs(sin(x))", "min(1, x**2)")]))
    return Line(law, cost, sigma, -2.0, 2.0, model, 1.0, discount, ends=ends)


@pytest.mark.thorough
@settings(max_examples=8, deadline=None, derandomize=True)
@given(lines())
def test_random_problems(line):
    proof = prove(Case.from_text(line.text(), "line"), width=1e-2, seconds=3.0)
    check_residuals(line, proof, seed=2, count=6)


FUNCTIONS = [
    "x*a + x**2*sin(a)", "max(x, a**2)", "abs(x*a - 0.3)*x", "clip(x + 2*a, -1, 1)**3", "exp(-x**2)/(2 + cos(a))",
    "where(x > 0.2, x**2, 0.04)", "wrap_angle(3*x)**2", "min(abs(x), abs(a), 0.5)", "atan2(x + 3, a)", "mod(x, 0.7)",
    "sqrt(x**2 + 1 + a**2)*tanh(x)", "-max(abs(x) - 1, 0)**2 + x**3", "1.3**x*(2 + x)**1.5", "asin(0.3*x) + atan(a)*log(3 + x)",
    "abs(wrap_angle(4*x - a) + 0)*a", "cos(wrap_angle(5*a + x))", "-2*wrap_angle(-4*x)**2", "mod(3*x, 1.1)**2",
]  # fmt: skip


@pytest.mark.parametrize("text", FUNCTIONS)
def test_jets_bound_values_slopes_and_distances_from_chords(text):
    import sympy as sp

    x, a = sp.symbols("x a")
    expression = parse(text, Scope(values={"x": x, "a": a}))
    values = compile_functions([x, a], [expression])
    ranges = compile_functions([x, a], [expression], jets, broadcast=False)
    rng, count = np.random.default_rng(3), 1500
    low = [rng.uniform(-1.5, 1.5, count) for _ in range(2)]
    width = [10.0 ** rng.uniform(-3, 0, count) for _ in range(2)]
    jet = ranges(*jets.variables(low, [p + w for p, w in zip(low, width, strict=True)]))[0]
    sound = ~np.broadcast_to(jet.broken, count)
    whole = jets.as_range(jet.value, count)
    for _ in range(20):
        for k in range(2):
            begin = [p + w * rng.uniform(0, 1, count) for p, w in zip(low, width, strict=True)]
            ends = np.sort(low[k] + width[k] * rng.uniform(0, 1, (2, count)), axis=0)
            t, long = rng.uniform(0, 1, count), ends[1] - ends[0]
            here = [[*begin] for _ in range(3)]
            for point, place in zip(here, (ends[0], ends[0] + t * long, ends[1]), strict=True):
                point[k] = place
            first, middle, last = (values(*point)[0] for point in here)
            assert np.all((middle >= whole.lower - 1e-13) & (middle <= whole.upper + 1e-13))
            # a function with f'' <= K and slopes that jump by at most j lies at most (K/2 + j/D) s (D - s) below its chord
            below, share = first + t * (last - first) - middle, t * (1 - t) * long
            bend = jets.as_range(jet.second(k, k), count)
            with np.errstate(invalid="ignore"):
                assert np.all((below <= share * (0.5 * bend.upper * long + jet.up[k]) + 1e-12) | ~sound)
                assert np.all((-below <= share * (-0.5 * bend.lower * long + jet.down[k]) + 1e-12) | ~sound)
            slope = jets.as_range(jet.gradient[k], count)
            secant = (last - first) / long
            assert np.all((secant >= slope.lower - 1e-8) & (secant <= slope.upper + 1e-8) | ~sound | (long < 1e-5))


@pytest.mark.parametrize("model", ["open", "truncate", "project", "reflect", "periodic"])
def test_laws_against_quadrature(model):
    law = AxisLaw.make(-1.0, 1.2, 0.3, model, 0.11, 0.05)
    line = Line("x", "x**2 + x", 0.3, -1.0, 1.2, model, 1.0)
    centres = 0.5 * (law.edges[1:] + law.edges[:-1])
    p = np.zeros((6, law.cells, 1))
    p[0, :, 0], p[1, :, 0], p[3] = centres**2 + centres, 2 * centres + 1, 2.0
    found = expect((law, NoAxis()), p)[:, 0]
    for y, value in zip(law.knots.positions, found, strict=False):
        x, w = line.panels(y)
        assert value == pytest.approx(w @ (x**2 + x), abs=1e-12)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[states.x]\nnext = "x + a"\nnoise = "0.1 + x**2"\ndomain = [-1, 1]', "depends on the state"),
        ('[states.x]\nnext = "x + a"\ndomain = [-1, 1]', "no noise"),
    ],
)
def test_what_cannot_be_proven_says_why(text, words):
    rest = '\n[actions.a]\nbounds = [-1, 1]\n[cost]\nstage = "x**2"\n[grid]\npoints = { x = 20 }\nkernel = "linear"\n'
    rest += '[policy]\ninitial = { distribution = "uniform" }\n'
    with pytest.raises(ProveError, match=words):
        prove(Case.from_text(text + rest, "case"), width=1e-2, seconds=5.0)


def test_costs_of_any_size_end_soon():
    for stage, width in (("0", 1.0), ("1e-300*x**2", 1.0)):
        began = time.process_time()
        proof = prove(Case.from_text(LINE_OF_ANY_COST.format(stage=stage), "line"), width=width, seconds=0.1)
        assert proof.low <= 0.0 <= proof.high < 1e-289 and time.process_time() - began < 10.0
    with pytest.raises(ProveError, match="smaller units"):
        prove(Case.from_text(LINE_OF_ANY_COST.format(stage="1e300*x**2*a**2"), "line"), seconds=0.1)


@pytest.mark.parametrize("noise", ["5e-324", "1e-310", "1e-30", "1e-7", "1e8", "1e300", "1e308"])
def test_noise_that_is_next_to_none_is_refused_too(noise):
    text = LINE_OF_ANY_COST.format(stage="x**2").replace("noise = 0.3", f"noise = {noise}")
    with pytest.raises(ProveError, match=r"more cells than can be counted; noise of at (least|most) .* in . fits"):
        prove(Case.from_text(text, "line"))


@pytest.mark.parametrize("noise", ["1e6", "1e308"])
@pytest.mark.parametrize("boundary", ["truncate", "project", "open"])
def test_noise_of_thousands_of_domains_is_refused_before_its_memory_is_asked_for(boundary, noise):
    text = LINE_OF_ANY_COST.format(stage="x**2").replace("noise = 0.3", f"noise = {noise}")
    began = time.process_time()
    with pytest.raises(ProveError, match=r"more cells than can be counted; noise of at (least|most) .* in . fits"):
        prove(Case.from_text(text, "line"), boundary=boundary)
    assert time.process_time() - began < 2.0


@pytest.mark.parametrize("end", ["1e-100", "1e100", "1e300", "8e307"])
def test_a_domain_whose_powers_leave_the_numbers_is_refused(end):
    text = LINE_OF_ANY_COST.format(stage="0*x").replace("domain = [-2, 2]", f"domain = [-{end}, {end}]")
    for noise in ("0.3", "1e299", "1e306"):
        with pytest.raises(ProveError, match="the domain of x is shorter than 1e-60 or longer than 1e\\+60"):
            prove(Case.from_text(text.replace("noise = 0.3", f"noise = {noise}"), "line"), seconds=0.1)


@pytest.mark.parametrize("end", ["1e-59", "1e59"])
def test_a_domain_of_any_other_size_is_proven_or_refused_for_its_noise(end):
    text = LINE_OF_ANY_COST.format(stage="0*x").replace("domain = [-2, 2]", f"domain = [-{end}, {end}]")
    for noise in ("0.2", "1e5", "1e-250", "1e240"):
        line = Case.from_text(text.replace("noise = 0.3", f"noise = {float(noise) * float(end):g}"), "line")
        with contextlib.suppress(ProveError):
            proof = prove(line, width=1.0, seconds=0.1)
            assert proof.low <= 0.0 <= proof.high


def test_an_attempt_that_does_not_fit_is_refused_with_the_noise_that_does():
    """A bound on memory holds for the first attempt, and the noise that is named fits in it."""
    text = LINE_OF_ANY_COST.format(stage="x**2") + "[solver]\nmemory = 0.1\n"
    with pytest.raises(ProveError, match=r"about 1\d\d MiB, more than the limit of 102 MiB; noise of at least") as refused:
        prove(Case.from_text(text.replace("noise = 0.3", "noise = 0.02"), "line"))
    named = re.search(r"at least (\S+) in x", str(refused.value)).group(1)
    assert 0.02 < float(named) < 0.1
    claim = Claim.of(Case.from_text(text.replace("noise = 0.3", f"noise = {named}"), "line").problem, "truncate")
    assert claim.bytes(Plan.first(1)) < 1.05 * 0.1 * 2**30


@pytest.mark.thorough
@pytest.mark.parametrize("boundary", ["open", "truncate", "project", "reflect", "periodic"])
@pytest.mark.parametrize("factor", [1, 4])
def test_moments_on_some_cells_at_some_points_are_those_of_all(boundary, factor, monkeypatch):
    law = AxisLaw.make(-1.0, 2.0, 0.3, boundary, 0.2, 0.07, 0.05).refined(factor)
    chosen = np.unique(np.concatenate([[0, law.cells - 1], np.random.default_rng(factor).integers(0, law.cells, 12)]))
    whole = law.moments()
    monkeypatch.setattr(laws, "ENTRIES", 200)
    parts = law.parts(chosen)
    assert len(parts) > 2
    for k, all_cells in enumerate(whole):
        some = np.concatenate([law.moments(chosen, points)[k].toarray() for points in parts])
        assert np.allclose(some, all_cells.toarray()[:, chosen], rtol=1e-12, atol=1e-15)
    monkeypatch.setattr(laws, "ENTRIES", 1 << 40)
    assert len(law.parts()) == 1
    at_once = law.matrix().toarray()
    monkeypatch.setattr(laws, "ENTRIES", 500)
    assert len(law.parts()) > 2
    assert np.array_equal(law.matrix().toarray(), at_once)


LINE_OF_ANY_COST = """
[states.x]
next = "0.8*x + a"
noise = 0.3
domain = [-2, 2]
[actions.a]
bounds = [-1, 1]
[cost]
stage = "{stage}"
[grid]
points = {{ x = 21 }}
"""


def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "line.toml").write_text(LINES[0].text())
    assert main(["prove", "line.toml", "--width", "1e-2", "--time", "60"]) == 0
    assert "J*" in capsys.readouterr().out
    with h5py.File("line.proof.h5") as file:
        assert file.attrs["low"] < file.attrs["high"]
        shares = [len(layer["cells"]) / int(name.split("_")[1]) for name, layer in file["policy"].items() if "layer" in name]
        assert sum(shares) == file["policy/edges_0"].shape[0] - 1
    assert main(["run", "line.toml", "-q", "-o", "line.h5"]) in (0, 1)
    assert main(["prove", "line.h5", "--width", "1e-2"]) == 0
    assert "J, grid" in capsys.readouterr().out
    assert main(["run", "line.toml", "-q", "-o", "early.h5", "--set", "flow.stop.steps=0"]) == 1
    assert main(["prove", "early.h5", "--width", "1e-2"]) == 0
    assert "above: that run did not converge" in capsys.readouterr().out
    assert main(["prove", "line.toml", "--width", "1e-9", "--time", "1e-3", "-q"]) == 1
    assert main(["prove", "line.toml", "--boundary", "closed"]) == 2


@pytest.mark.thorough
def test_kinks_of_q_between_the_nodes_cost_u_little(monkeypatch):
    # q bends where the mean meets the end of the domain, at 3 - 0.2, between two nodes
    line = Line("x + 0.2*a", "x**2", 0.2, -3.0, 3.0, "open", 1.0)
    claim = Claim.of(Case.from_text(line.text(), "line").problem, "open")
    axes = claim.axes(np.array([31.0]), np.array([250.0]))
    zero = np.zeros((axes[0].row_count, 1))
    box = np.array([-1.0]), np.array([1.0])

    nodes, weights = np.polynomial.legendre.leggauss(8)

    def spread() -> float:
        trial = Bellman(claim.problem, claim.frame, axes, through(axes, zero))
        u = solve(trial, zero, box, 9, 1e-8, 4).u
        function = spline_of(u.coefficients[:, 0], u.knots[0].low, u.knots[0].spacing, None)
        rows = axes[0].places
        g = []
        for y in rows[[0, 7, 100, 465, 900, -20, -1]]:
            # u is convex and even: the best action brings the mean as near to 0 as it can; panels end where q is not smooth
            ends = np.sort(np.concatenate([rows + 0.2, rows - 0.2, [-3.2, 3.2], y + np.linspace(-1.8, 1.8, 400)]))
            ends = ends[(ends >= y - 1.8) & (ends <= y + 1.8)]
            x = 0.5 * (ends[1:] + ends[:-1])[:, None] + 0.5 * np.diff(ends)[:, None] * nodes
            q = x**2 + function(np.clip(x - np.clip(x, -0.2, 0.2), -3.0, 3.0))
            density = np.exp(-0.5 * ((x - y) / 0.2) ** 2) / (0.2 * np.sqrt(2 * np.pi))
            g.append(float(np.sum(0.5 * np.diff(ends) @ (q * density * weights))) - float(function(np.array([y]))[0]))
        return float(np.ptp(g))

    mended = spread()
    monkeypatch.setattr(values, "_at_kinks", lambda bellman, *_: np.zeros(bellman.axes[0].row_count))
    assert mended < 2e-8
    assert spread() > 10 * mended
