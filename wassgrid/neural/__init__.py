"""Neural policies for problems whose state space is too large for a grid (needs the extra `neural`: JAX, Equinox,
Optax).

The same case file as the grid solver's, with `[solver] kind = "neural"` and a `[neural]` table (settings.py).
Importing this package does not import JAX.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wassgrid.errors import PackageMissingError

if TYPE_CHECKING:
    from wassgrid.case import Case
    from wassgrid.neural.computed_policy import NeuralPolicy
    from wassgrid.neural.solver import NeuralSolver
    from wassgrid.storage import ResultFile


class NeuralExtraMissingError(PackageMissingError):
    """JAX or one of its companions is not installed; the message is one line that names the extra."""


def require_extra() -> None:
    """Raise NeuralExtraMissingError unless JAX, Equinox and Optax can be imported."""
    from importlib import import_module

    missing = []
    for name in ("jax", "equinox", "optax"):
        try:
            import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise NeuralExtraMissingError(
            f"[solver] kind = \"neural\" needs {', '.join(missing)}, which cannot be imported here: "
            'pip install "wassgrid[neural]"'
        )


def make_solver(case: Case) -> NeuralSolver:
    """Return the neural solver of a case.  Raises NeuralExtraMissingError, and ProblemError for what it finds wanting."""
    require_extra()
    from wassgrid.neural.solver import NeuralSolver

    return NeuralSolver.of(case)


def load_policy(result: ResultFile) -> NeuralPolicy:
    """Return the last policy stored by a neural run.  Raises NeuralExtraMissingError; StorageError where there is none."""
    require_extra()
    from wassgrid.neural.computed_policy import NeuralPolicy

    return NeuralPolicy.from_result(result)
