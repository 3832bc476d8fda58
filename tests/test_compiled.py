"""Compilation where its results cannot be kept."""

from __future__ import annotations

import errno

from numba.core import caching

from wassgrid.transition.compiled import cached


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
