"""Compilation where its results cannot be kept."""

from __future__ import annotations

import errno
import shutil

import numba
import numpy as np
import pytest
from numba.core import caching

from wassgrid.transition.compiled import allocating_nothing, cached, driver


def square(x):
    return x * x


def total(numbers):
    sum_so_far = 0.0
    for number in numbers:
        sum_so_far += number
    return sum_so_far


def test_without_any_folder_kernels_are_compiled_for_this_process(monkeypatch):
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])
    assert cached(square)(3.0) == 9.0


def test_on_a_full_disk_kernels_are_compiled_for_this_process(monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    assert cached(square)(3.0) == 9.0


def test_code_that_another_process_kept_under_the_same_number_is_not_taken_for_ones_own(monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    integers, floats = np.arange(5), np.arange(5.0)
    assert [cached(total)(numbers) for numbers in (integers, floats)] == [10.0, 10.0]
    for_integers, for_floats = sorted(tmp_path.rglob("*.nbc"))
    # two that begin with an empty index call what they compiled number 1, each for other arguments; the last one's file stays
    shutil.copy(for_floats, for_integers)
    assert cached(total)(integers) == 10.0
    assert cached(total)(floats) == 10.0


@pytest.mark.parametrize("version", [numba.__version__, "99.0.0"])
def test_helpers_compile_under_a_numba_that_is_not_known_yet(monkeypatch, version):
    monkeypatch.setattr(numba, "__version__", version)
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])
    twice = allocating_nothing(lambda x: 2.0 * x)
    assert driver(lambda x: twice(twice(x)) + square_of_one(x))(3.0) == 13.0


@allocating_nothing
def square_of_one(x):
    return x / x
