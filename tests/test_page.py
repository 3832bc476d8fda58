"""The page on a run: whole, readable, and nothing in it that a browser would run or fetch."""

from __future__ import annotations

import base64
import struct
from html.parser import HTMLParser
from pathlib import Path

import pytest

from wassgrid.cli import main
from wassgrid.page import BEGINS, page
from wassgrid.storage import ResultFile

CASES = Path(__file__).resolve().parent.parent / "cases"
TITLE = "<script>alert('x')</script> & \"quotes\" \x1b[31m"
SMALL = """
title = {title!r}
[states.x]
next = "0.9*x + a"
noise = "0.3"
domain = [-2.0, 2.0]
unit = "<b>m</b>"
[actions.a]
bounds = [-1.0, 1.0]
[cost]
stage = "x**2 + a**2"
[grid]
points = {{ x = 21 }}
[policy]
particles = 2
[flow]
stop = {{ gap = 1e-6, steps = 20 }}
"""


class Reader(HTMLParser):
    """Tags, attributes and text, with the nesting checked."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    escaped = TITLE.encode("unicode_escape").decode().replace('"', '\\"')
    title = f'title = "{escaped}"'.replace("\\x1b", "\\u001b")
    (folder / "small.toml").write_text(SMALL.format(title=0).replace("title = 0", title))
    assert main(["run", str(folder / "small.toml"), "-q", "-o", str(folder / "small.h5")]) == 0
    return folder


@pytest.mark.thorough
def test_the_page_says_what_the_file_holds(folder):
    read = Reader(page(folder / "small.h5"))
    text = " ".join(read.text)
    with ResultFile(folder / "small.h5") as result:
        last = result.last("convergence")
        assert f"{last['objective']:.8g}" in text and f"{last['lower_bound']:.8g}" in text
        assert result.reason in text and result.text("case_name") in text
    assert "proven" in text and "SHA-256" in text and 'next = "0.9*x + a"' in text
    images = [attributes["src"] for tag, attributes in read.tags if tag == "img"]
    assert len(images) == 6 and "Closed loop" in text
    for source in images:
        data = base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True)
        assert data.startswith(b"\x89PNG") and min(struct.unpack(">II", data[16:24])) > 200


def test_the_verdict_warns_where_the_estimate_is_far_from_what_is_proven(folder, monkeypatch):
    assert "Warning" not in " ".join(Reader(page(folder / "small.h5")).text)
    monkeypatch.setattr("wassgrid.report._FAR", 0.0)
    monkeypatch.setattr("wassgrid.report._GRID_ERROR", 0.0)
    text = " ".join(Reader(page(folder / "small.h5")).text)
    assert text.index("Warning: the grid's J is") < text.index("Noise per step")


@pytest.mark.thorough
def test_text_of_a_stranger_is_shown_and_nothing_is_fetched_or_run(folder):
    whole = page(folder / "small.h5")
    read = Reader(whole)
    assert {tag for tag, _ in read.tags}.isdisjoint({"script", "b", "iframe", "object", "link", "form"})
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
    addresses = [value for _, attributes in read.tags for name, value in attributes.items() if name in ("src", "href", "action")]
    assert all(address.startswith("data:image/png") for address in addresses)
    assert "\x1b" not in whole and "url(" not in whole and "@import" not in whole
    # escaped once: a reader sees what the file says
    assert any("<script>alert('x')</script> & \"quotes\" \\x1b[31m" in part for part in read.text)
    policy = next(attributes["content"] for tag, attributes in read.tags if tag == "meta" and "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'")


@pytest.mark.thorough
def test_the_verb_writes_a_page_again_but_nothing_else_over(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = str(folder / "small.h5")
    assert main(["report", source]) == 0 and capsys.readouterr().out.strip() == "small.html"
    first = Path("small.html").read_bytes()
    assert first.startswith(BEGINS)
    assert main(["report", source, "-o", "small.html"]) == 0
    Path("notes.html").write_text("my notes")
    Path("link.html").symlink_to("notes.html")
    for other in ("notes.html", "link.html"):
        assert main(["report", source, "-o", other]) == 2
    assert Path("notes.html").read_text() == "my notes"
    assert main(["report", str(folder / "small.toml")]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err and err.count("\n") == 3


@pytest.mark.thorough
def test_a_run_that_is_not_over_has_a_page(folder, tmp_path):
    stopped = tmp_path / "stopped.h5"
    keys = ["flow.stop.steps=1", "output.estimate=false", "flow.method=euler", "flow.step=0.1"]
    once = [part for key in keys for part in ("--set", key)]
    assert main(["run", str(folder / "small.toml"), "-q", "-o", str(stopped), *once]) == 1
    read = Reader(page(stopped))
    assert "stopped" in " ".join(read.text) and "fair" in str([attributes.get("class") for _, attributes in read.tags])
