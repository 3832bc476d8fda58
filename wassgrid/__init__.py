"""Stochastic optimal control and reinforcement learning in the Wasserstein geometry of policies.

The public names are imported on first use, so that ``import wassgrid`` costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wassgrid.case import Case, CaseError
    from wassgrid.policy import ParticlePolicy
    from wassgrid.policy import ParticlePolicy as Policy
    from wassgrid.solve import Solution, solve
    from wassgrid.storage import ResultFile, StorageError

__version__ = "0.1.0"

_HOMES = {
    "Case": ("wassgrid.case", "Case"),
    "CaseError": ("wassgrid.case", "CaseError"),
    "ParticlePolicy": ("wassgrid.policy", "ParticlePolicy"),
    "Policy": ("wassgrid.policy", "ParticlePolicy"),
    "ResultFile": ("wassgrid.storage", "ResultFile"),
    "Solution": ("wassgrid.solve", "Solution"),
    "StorageError": ("wassgrid.storage", "StorageError"),
    "solve": ("wassgrid.solve", "solve"),
}

__all__ = [
    "Case",
    "CaseError",
    "ParticlePolicy",
    "Policy",
    "ResultFile",
    "Solution",
    "StorageError",
    "__version__",
    "solve",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'wassgrid' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    # The function ``wassgrid.solve`` lives in the module of the same name, and importing a module binds its name in the
    # package: without this, what ``wassgrid.solve`` means would depend on what was imported before.
    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
