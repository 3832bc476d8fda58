"""Settings that all tests share."""

import re
from pathlib import Path

import pytest
from hypothesis import settings

# the first call of a compiled kernel may take seconds: times of single examples say nothing
settings.register_profile("wassgrid", deadline=None)
settings.load_profile("wassgrid")


@pytest.fixture
def double():
    """JAX in double precision."""
    import jax

    with jax.enable_x64(True):
        yield


def _drop_stale_kernels() -> None:
    """Delete compiled functions older than a source of one: Numba sees changes of their own file, not of those they call."""
    package = Path(__file__).resolve().parent.parent / "wassgrid"
    words = "njit|@driver|@helper|allocating_nothing|@contraction"
    compiled = [path for path in package.rglob("*.py") if re.search(words, path.read_text(encoding="utf-8"))]
    newest = max(path.stat().st_mtime for path in compiled)
    for index in package.rglob("*.nbi"):
        if index.stat().st_mtime < newest:
            index.unlink(missing_ok=True)


_drop_stale_kernels()
