"""What a newcomer asks for: a case to begin with, the list of functions, and where a key stands."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from wassgrid.case import Case, CaseError
from wassgrid.case.starter import DEFAULT, TEMPLATES, starter
from wassgrid.cli import main
from wassgrid.problem.expression import Scope, evaluate_number, parse
from wassgrid.problem.functions import ELEMENTARY, ELSEWHERE, RESERVED, SPECIAL


def test_a_new_case_runs_as_it_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "cart"]) == 0
    assert "cart.toml\n" in capsys.readouterr().out
    text = Path("cart.toml").read_text(encoding="utf-8")
    assert main(["check", "cart.toml"]) == 0
    assert "warn" not in capsys.readouterr().out  # a newcomer's first command
    assert main(["run", "cart.toml", "--set", "output.estimate=false"]) == 0
    output = capsys.readouterr().out
    assert "proven" in output
    assert "WARNING" not in output
    assert main(["new", "cart.toml"]) == 2
    errors = capsys.readouterr().err
    assert "'cart.toml' exists and is left as it is" in errors
    assert Path("cart.toml").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("template", sorted(TEMPLATES.keys() - {DEFAULT}))
def test_a_new_case_of_every_kind_runs_as_it_is_written(template, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine", "--template", template]) == 0
    assert main(["check", "mine.toml"]) == 0
    assert "warn" not in capsys.readouterr().out
    assert main(["run", "mine.toml"]) == 0
    output = capsys.readouterr().out
    assert "proven: no policy on this grid costs less" in output
    assert "WARNING" not in output and "ends of" not in output


def test_the_kinds_of_a_new_case_are_listed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "mine", "--template", "discreet"]) == 2
    assert "continuous, discrete, " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main(["new", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, template in TEMPLATES.items():
        assert f"{name} ({template.meaning})" in shown
    assert f"[default: {DEFAULT}]" in shown
    page = (Path(__file__).parent.parent / "docs" / "guide" / "first_steps.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.M)[1:] == list(TEMPLATES)


@pytest.mark.parametrize("name", ['a"b\n', "{x}", "é", "\udcff", "a.b", "{0.__class__}"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_names_of_cases_are_data(name, template):
    text = starter(name, template)
    case = Case.from_text(text)
    assert case.title.endswith(f": {TEMPLATES[template].subject}")
    assert all(len(line) < 130 for line in text.splitlines())


@pytest.mark.parametrize("name", ["absent/cart", "/", "x" * 300, "folder"])
def test_cases_that_cannot_be_written(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("folder.toml").mkdir()
    assert main(["new", name]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["folder.toml"]


def test_the_list_of_functions_is_whole_and_true(capsys):
    assert main(["functions"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0].split("(")[0] for line in lines if not line.startswith("+")} == set(RESERVED)
    values = {"x": 0.5, "y": 2.0, "lo": -1.0, "hi": 1.0}
    forms = [entry.form for entry in ELEMENTARY.values()] + [form for form, _ in SPECIAL.values()] + list(ELSEWHERE.values())
    for form in forms:
        if form.startswith(("sum", "next")):
            continue
        parse(form.replace("condition", "x > 0").replace(", ...", ""), Scope(values=values))
    for name, entry in ELEMENTARY.items():
        assert entry.form.startswith(f"{name}(")
        assert entry.form.count(",") + 1 == entry.arity
    assert evaluate_number("x + mod(-x, 1)", {"x": 1.25}) == 2.0
    assert evaluate_number("x - mod(x, 1)", {"x": -1.25}) == -2.0
    assert not set(ELSEWHERE) & set(RESERVED)


@pytest.mark.parametrize(
    ("override", "place"), [("gap=1e-5", "flow.stop.gap"), ("particles=3", "policy.particles"), ("stop.steps=3", "flow.stop")]
)
def test_where_a_key_stands(override, place):
    with pytest.raises(CaseError, match=f"unknown key, it is {re.escape(place)}"):
        Case.from_text(starter("cart"), "cart", [override])


def test_values_that_are_wrong_elsewhere_get_no_advice_on_quotes():
    for line in ("a = 1 2", "a = [1, 2", "a = = 3", 'a = "b', "a = {b = c"):
        with pytest.raises(CaseError) as found:
            Case.from_text(line)
        assert "TOML" in str(found.value)
    with pytest.raises(tomllib.TOMLDecodeError):
        tomllib.loads("a = b")
