"""Case files: what is read, what is refused and how, overrides, and the resolved text."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from bad_cases import BAD_CASES, FAMILY, GOOD, changed
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from wassgrid.case import Case, CaseError
from wassgrid.case.keys import key_table
from wassgrid.problem.exact import oscillator_ring

SHIPPED = sorted((Path(__file__).parent.parent / "cases").glob("*.toml"))


@pytest.mark.parametrize("name", BAD_CASES)
def test_bad_cases_are_refused_in_one_line_that_names_key_and_remedy(name):
    text, fragments = BAD_CASES[name]
    start = time.perf_counter()
    with pytest.raises(CaseError) as refusal:
        Case.from_text(text)
    assert time.perf_counter() - start < 2.0
    message = str(refusal.value)
    for fragment in fragments:
        assert fragment in message
    assert message.isprintable() and len(message) < 500


def test_there_are_bad_cases_of_every_kind():
    assert len(BAD_CASES) >= 100
    for key in (
        "states",
        "actions",
        "parameters",
        "indices",
        "time",
        "cost",
        "criterion",
        "grid",
        "policy",
        "flow",
        "expect",
        "neural",
    ):
        assert any(fragments[0].startswith(key) for _, fragments in BAD_CASES.values()), key


def test_a_good_case_is_read():
    case = Case.from_text(GOOD, "regulator")
    assert case.name == "regulator" and case.title == "Scalar nonlinear regulator"
    assert case.parameters == {"step": 0.1, "sigma": 0.5, "r": 0.1}
    assert case.states["s"].domain == (-3.0, 3.0) and case.states["s"].boundary == "clamp"
    assert case.grid.points == {"s": 121} and case.grid.kernel == "auto"
    assert case.policy.particles == 16 and case.policy.seed == 1 and case.policy.weights is None
    assert case.flow.method == "newton" and case.flow.step == "adaptive" and case.flow.escape is None
    assert (case.flow.stop.gradient_norm, case.flow.stop.gap, case.flow.stop.steps) == (None, 1e-6, 20)
    assert case.solver.kind == "grid" and case.solver.tolerance == 1e-12 and case.solver.memory is None
    assert case.time is None and case.neural is None and case.expect.average_cost is None
    assert case.problem is case.problem and case.problem.state_names == ("s",)
    with pytest.raises(ValidationError, match="frozen"):
        case.title = "another"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_cases_are_read_and_written_back(path):
    case = Case.load(path)
    assert case.name == path.stem and case.title
    again = Case.from_text(case.to_text(), case.name)
    assert again == case and again.to_text() == case.to_text()


def test_the_resolved_text_of_exact_problems_gives_an_equal_case():
    text = oscillator_ring.OscillatorRing(sites=2).case_text()
    case = Case.from_text(text)
    assert Case.from_text(case.to_text()) == case
    assert Case.from_text(text, overrides=["parameters.step=0.05"]) != case


def test_the_resolved_text_holds_defaults_overrides_and_evaluated_numbers():
    case = Case.from_text(
        changed("[-3.0, 3.0]", '["-width", "2*width"]', changed("r     = 0.1", 'r = 0.1\nwidth = "30*step"')),
        overrides=["policy.particles=5"],
    )
    text = case.to_text()
    assert 'kind = "grid"' in text and "particles = 5" in text and "seed = 1" in text
    again = Case.from_text(text)
    assert again == case and again.states["s"].domain == (-3.0, 6.0)


def test_numbers_may_be_expressions_of_parameters_everywhere():
    case = Case.from_text(
        """
        [parameters]
        n = 10
        h = "1/(2*n)"
        [states.s]
        next = "s + h*a"
        domain = ["-n*h", "max(h, 0.5)"]
        [actions.a]
        bounds = ["-sqrt(n)", 2]
        [cost]
        stage = 1
        [criterion]
        kind = "discounted"
        discount = "exp(-h)"
        [grid]
        points = { s = "2*n + 1" }
        [policy]
        particles = 2
        weights = ["h", 1]
        initial = { distribution = "uniform", low = "-h*s", high = 1 }
        [flow]
        method = "euler"
        step = "h/2"
        stop = { flow_time = "n*h", steps = "3*n" }
        """
    )
    assert case.parameters["h"] == 0.05 and case.states["s"].domain == (-0.5, 0.5)
    assert case.actions["a"].bounds == (-np.sqrt(10), 2.0)
    assert case.criterion.discount == case.problem.discount == np.exp(-0.05)
    assert case.grid.points == {"s": 21} and case.policy.weights == (0.05, 1.0)
    assert case.flow.step == 0.025 and case.flow.stop.flow_time == 0.5 and case.flow.stop.steps == 30
    assert case.cost.stage == "1.0"


def test_initial_tables():
    states = np.array([[-1.0], [0.5]])
    case = Case.from_text(changed('mean = "-s", std = 1.0', 'mean = "-s", std = "0.1 + s**2"'))
    mean, std, low, high = case.initial_tables(states)
    np.testing.assert_array_equal(mean, -states)
    np.testing.assert_allclose(std, 0.1 + states**2)
    np.testing.assert_array_equal(low, np.full((2, 1), -5.0))
    np.testing.assert_array_equal(high, np.full((2, 1), 5.0))
    uniform = changed('"normal", mean = "-s", std = 1.0', '"uniform", low = "s", high = "0.2"')
    with pytest.raises(CaseError, match=r"policy.initial.low: .* high"):
        Case.from_text(uniform).initial_tables(states)
    negative = changed("std = 1.0", 'std = "s"')
    with pytest.raises(CaseError, match=r"policy.initial.std: negative"):
        Case.from_text(negative).initial_tables(states)


def test_families_are_written_out_in_points_and_kernels():
    case = Case.from_text(changed('"q[i]" = 11 }', '"q[i]" = 11, "q[1]" = 7 }\nkernel = { "q[0]" = "linear" }', FAMILY))
    assert case.grid.points == {"q[0]": 11, "q[1]": 7}
    assert case.grid.kernel == {"q[0]": "linear"}
    assert case.problem.action_names == ("u[0]", "u[1]")


def test_a_neural_case_needs_neither_points_nor_domains_and_gets_its_defaults():
    case = Case.from_text(
        changed("count = 2", "count = 50", FAMILY).replace("domain = [-1, 1]", "").split("[grid]")[0]
        + '[solver]\nkind = "neural"\n'
    )
    assert len(case.problem.state_names) == 50 and case.grid.points == {}
    assert case.neural is not None and case.neural.chains > 1
    assert Case.from_text(case.to_text()) == case


def test_names_cannot_break_the_line():
    for text in (
        changed("[states.s]", '[states."s\\nt"]'),
        changed("s = 121", '"s\\u0000" = 121'),
        changed("r     = 0.1", '"r\\n" = 0.1'),
        changed("[cost]", '"co\\nst" = 1\n[cost]'),
        changed("[cost]", "x" * 300_000 + " = 1\n[cost]"),
        changed("[states.s]", "[states." + "s" * 300_000 + "]"),
    ):
        with pytest.raises(CaseError) as refusal:
            Case.from_text(text)
        assert str(refusal.value).isprintable() and len(str(refusal.value)) <= 600


@settings(max_examples=300, deadline=5_000)
@given(data=st.data())
def test_fuzz_damaged_cases_are_refused_in_one_line_or_read(data):
    text = data.draw(st.sampled_from([GOOD, FAMILY]))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 6))
        piece = data.draw(
            st.one_of(
                st.sampled_from(["=", '"', "[", "]", "{", "\n", "nan", "-1", "1e400", "'", "é", "\x00", "q[i]"]),
                st.text(max_size=4),
            )
        )
        text = text[:place] + piece + text[place + cut :]
    try:
        case = Case.from_text(text)
    except CaseError as error:
        assert str(error).isprintable()
    else:
        assert Case.from_text(case.to_text()) == case


# -- files ------------------------------------------------------------------------------------------------------------


def test_files_that_are_no_cases(tmp_path):
    missing, folder, binary, huge, syntax = (tmp_path / name for name in ("a.toml", "b", "c.toml", "d.toml", "e.toml"))
    folder.mkdir()
    binary.write_bytes(b"title = 1\n\xff\xfe")
    huge.write_text("# " + "x" * 10_000_000)
    syntax.write_text(changed("step  = 0.1", "step  0.1"))
    for path, fragment in [
        (missing, "no such file, expected a case file"),
        (folder, "a folder"),
        (binary, "line 2 is not UTF-8"),
        (huge, "larger than 1 MB"),
        (syntax, "at line 4"),
        (tmp_path / ("n" * 300), "no such file" if os.name == "nt" else "too long"),
        ("a\x00b", "a?b: no such file"),
        ("/dev/null", "not a regular file"),
    ]:
        start = time.perf_counter()
        with pytest.raises(CaseError) as refusal:
            Case.load(path)
        assert time.perf_counter() - start < 2.0
        message = str(refusal.value)
        assert fragment in message and message.isprintable()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(GOOD)
    path.chmod(0)
    with pytest.raises(CaseError, match="Permission denied"):
        Case.load(path)


# -- overrides --------------------------------------------------------------------------------------------------------


def value_at(case, path):
    for part in path.split("/"):
        case = case[part] if isinstance(case, dict) else getattr(case, part)
    return case


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("policy.particles=4", "policy/particles", 4),
        (" policy . particles = 4 ", "policy/particles", 4),
        ("parameters.sigma=0.25", "parameters/sigma", 0.25),
        ('parameters.sigma="step*2"', "parameters/sigma", 0.2),
        ("parameters.sigma=step*2", "parameters/sigma", 0.2),
        ("grid.points.s=31", "grid/points/s", 31),
        ("grid.kernel=linear", "grid/kernel", "linear"),
        ("grid.kernel.s=cubic", "grid/kernel/s", "cubic"),
        ("flow.method=euler", "flow/method", "euler"),
        ("flow.escape=false", "flow/escape", False),
        ("flow.stop.gradient_norm=1e-3", "flow/stop/gradient_norm", 1e-3),
        ("flow.stop={ steps = 3 }", "flow/stop/steps", 3),
        ("states.s.domain=[-1, 1]", "states/s/domain", (-1.0, 1.0)),
        ("states.s.noise=0.3*exp(-s**2)", "states/s/noise", "0.3*exp(-s**2)"),
        ("policy.initial.mean.a=s", "policy/initial/mean", {"a": "s"}),
        ("expect.average_cost={ value = 1, absolute = 0.1 }", "expect/average_cost/value", 1.0),
        ("neural.chains=8", "neural/chains", 8),
        ("solver.memory=2", "solver/memory", 2.0),
        ("title=a=b", "title", "a=b"),
    ],
)
def test_overrides(override, path, value):
    case = Case.from_text(GOOD, overrides=[override])
    assert value_at(case, path) == value
    assert Case.from_text(case.to_text()) == case


def test_what_a_run_must_reach_is_of_the_problem_and_the_grid_as_they_are_written():
    text = GOOD + "[expect]\naverage_cost = { value = 1.0, absolute = 0.1 }\n"
    for same in ("flow.stop.gap=1e-3", "policy.particles=3", "output.trajectory_every=2"):
        assert Case.from_text(text, overrides=[same]).expect.average_cost is not None
    for other in ("grid.points.s=31", " parameters . sigma = 0.25", "states.s.noise=0.3"):
        assert Case.from_text(text, overrides=[other]).expect.average_cost is None
        given = Case.from_text(text, overrides=[other, "expect.average_cost.value=2"]).expect.average_cost
        assert given is not None
        assert given.value == 2.0


def test_overrides_of_families_with_and_without_quotes():
    for override in ('states."q[i]".noise=0.5', "states.q[i].noise=0.5"):
        assert Case.from_text(FAMILY, overrides=[override]).states["q[i]"].noise == "0.5"
    assert Case.from_text(FAMILY, overrides=["indices.i.count=3"]).problem.state_names[-1] == "q[2]"


@pytest.mark.parametrize(
    ("override", "fragments"),
    [
        ("policy.particels=4", ("--set policy.particels: unknown key", "'particles'")),
        ("polcy.particles=4", ("--set polcy: unknown key", "'policy'")),
        ("parameters.sgma=4", ("--set parameters.sgma: unknown key", "'sigma'")),
        ("states.x.noise=4", ("--set states.x: unknown key", "expected s")),
        ("grid.points.x=4", ("grid.points.x: unknown state",)),
        ("policy.particles", ("expected section.key=value",)),
        ("=4", ("expected section.key=value",)),
        ("policy..particles=4", ("expected section.key=value",)),
        ("policy.particles.x=4", ("--set policy.particles.x: policy.particles is a value, not a table",)),
        ("policy.seed.x=4", ("policy.seed",)),
        ("title.x=4", ("--set title.x: title is a value, not a table",)),
        ("policy.particles=-4", ("policy.particles: expected an integer of at least 1, got -4",)),
        ("policy.particles=4\nseed = 2", ("policy.particles",)),
        ("flow.method=newtn", ("flow.method", "'newton'")),
        ("cost.stage=s.__class__", ("cost.stage: a dot after a name",)),
    ],
)
def test_bad_overrides(override, fragments):
    with pytest.raises(CaseError) as refusal:
        Case.from_text(GOOD, overrides=[override])
    message = str(refusal.value)
    for fragment in fragments:
        assert fragment in message
    assert message.isprintable()


# -- documentation and start-up ---------------------------------------------------------------------------------------


def test_the_key_table_has_every_key_with_a_meaning():
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in key_table(Case).splitlines()]
    assert rows[0] == ["key", "default", "meaning"] and all(len(row) == 3 for row in rows)
    table = {row[0].strip("`"): row for row in rows[2:]}
    assert len(table) == len(rows) - 2
    for key in ("title", "parameters", "states.NAME.domain", "actions.NAME.bounds", "flow.stop.gap", "time.step"):
        assert key in table
    assert table["policy.particles"][1] == "`16`" and table["time.step"][1] == "needed"
    assert table["flow.method"][1] == '`"newton"`'
    assert all(row[2] for row in table.values())


def test_importing_the_case_module_loads_nothing_heavy():
    program = (
        "import sys, wassgrid.case; "
        "print([m for m in ('sympy', 'numba', 'scipy', 'numpy', 'jax', 'matplotlib', 'h5py') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
