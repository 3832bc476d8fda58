"""Stochastic optimal control and reinforcement learning in the Wasserstein geometry of policies.

The public names are imported on first use, so that ``import wassgrid`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module

from wassgrid.version import __version__

# not from `typing`, whose import takes longer than Python's own start: until `__main__` is reached, Ctrl-C shows a traceback
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wassgrid import geometry, second_order
    from wassgrid.case import Case, CaseError
    from wassgrid.case.functions import Problem
    from wassgrid.environment import evaluate, make_env
    from wassgrid.errors import WassgridError
    from wassgrid.finite_mdp import FiniteMDP
    from wassgrid.load_policy import Policy
    from wassgrid.policy import ParticlePolicy
    from wassgrid.solution import Solution, run, solve
    from wassgrid.storage import ResultFile, StorageError

_HOMES = {
    "Case": ("wassgrid.case", "Case"),
    "CaseError": ("wassgrid.case", "CaseError"),
    "FiniteMDP": ("wassgrid.finite_mdp", "FiniteMDP"),
    "ParticlePolicy": ("wassgrid.policy", "ParticlePolicy"),
    "Policy": ("wassgrid.load_policy", "Policy"),
    "Problem": ("wassgrid.case.functions", "Problem"),
    "ResultFile": ("wassgrid.storage", "ResultFile"),
    "Solution": ("wassgrid.solution", "Solution"),
    "StorageError": ("wassgrid.storage", "StorageError"),
    "WassgridError": ("wassgrid.errors", "WassgridError"),
    "evaluate": ("wassgrid.environment", "evaluate"),
    "make_env": ("wassgrid.environment", "make_env"),
    "geometry": ("wassgrid.geometry", ""),
    "run": ("wassgrid.solution", "run"),
    "second_order": ("wassgrid.second_order", ""),
    "solve": ("wassgrid.solution", "solve"),
}

__all__ = [
    "Case",
    "CaseError",
    "FiniteMDP",
    "ParticlePolicy",
    "Policy",
    "Problem",
    "ResultFile",
    "Solution",
    "StorageError",
    "WassgridError",
    "__version__",
    "evaluate",
    "geometry",
    "make_env",
    "run",
    "second_order",
    "solve",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'wassgrid' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    home = import_module(module)
    value = getattr(home, attribute) if attribute else home
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
