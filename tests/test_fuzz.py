"""A few trials of both fuzzers, always the same ones; the long runs are started by hand, see `fuzz_harness`."""

from __future__ import annotations

import fuzz_cases
import fuzz_files
import pytest
from fuzz_harness import campaign


@pytest.mark.parametrize(("fuzzer", "count"), [(fuzz_cases, 30), (fuzz_files, 40)])
def test_damaged_input_is_refused_in_one_line_or_read(fuzzer, count, capfd):
    found = campaign(fuzzer.__file__, 1, 0, count, fuzzer.prepare)
    assert found.total() == count
    assert not any(word.isupper() for word in found), capfd.readouterr().out
