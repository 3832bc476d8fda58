"""Compilation where its results cannot be kept."""

from __future__ import annotations

import errno

import numba
import pytest
from numba.core import caching

from wassgrid.transition.compiled import allocating_nothing, cached, driver


def square(x):
    return x * x


def test_without_any_folder_kernels_are_compiled_for_this_process(monkeypatch):
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])
    assert cached(square)(3.0) == 9.0


def test_on_a_full_disk_kernels_are_compiled_for_this_process(monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    assert cached(square)(3.0) == 9.0


@pytest.mark.parametrize("version", [numba.__version__, "99.0.0"])
def test_helpers_compile_under_a_numba_that_is_not_known_yet(monkeypatch, version):
    monkeypatch.setattr(numba, "__version__", version)
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])
    twice = allocating_nothing(lambda x: 2.0 * x)
    assert driver(lambda x: twice(twice(x)) + square_of_one(x))(3.0) == 13.0


@allocating_nothing
def square_of_one(x):
    return x / x
