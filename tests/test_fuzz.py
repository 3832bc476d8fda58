"""A few trials of both fuzzers, always the same ones; the long runs are started by hand, see `fuzz_harness`."""

from __future__ import annotations

import json

import fuzz_cases
import fuzz_files
import pytest
from fuzz_harness import campaign, work


@pytest.mark.thorough
def test_damaged_files_are_refused_in_one_line_or_read(capfd):
    found = campaign(fuzz_files.__file__, 1, 0, 40, fuzz_files.prepare)
    assert found.total() == 40
    assert not any(word.isupper() for word in found), capfd.readouterr().out


@pytest.mark.thorough
def test_damaged_cases_are_refused_in_one_line_or_run(tmp_path, monkeypatch):
    """In this process: a worker of its own, which the other test has, would import and compile for longer than they take."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fence").mkdir()
    fuzz_cases.prepare(tmp_path)
    log = tmp_path / "log"
    work(fuzz_cases.trial, 1, 0, 30, tmp_path, log)
    outcomes = [row["outcome"] for row in map(json.loads, log.read_text().splitlines()) if "outcome" in row]
    assert len(outcomes) == 30
    assert not any(word.split(" ")[0].isupper() for word in outcomes), outcomes
