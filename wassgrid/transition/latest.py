"""Tables that are kept for one owner at a time."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any


class Latest:
    """Hold what was made for one owner, the last that asked.

    For tables as large as all else that is known of a policy: those of the policies before are rarely asked for again.
    """

    def __init__(self) -> None:
        self._owner: Callable[[], Any] = lambda: None
        self._made: dict[str, Any] = {}
        self._one = threading.RLock()

    def of(self, owner: Any, name: str, make: Callable[[], Any]) -> Any:
        """Return what `make` made for an owner under a name; what another owner had is gone."""
        with self._one:
            if self._owner() is not owner:
                self._made = {}
                self._owner = weakref.ref(owner)
            if name not in self._made:
                self._made[name] = make()
            return self._made[name]
