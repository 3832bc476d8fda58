"""Particles of a cell that stand together: what depends on their action alone is computed once for all of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_SAVED = 0.75  # share of the particles up to which those that stand apart are treated alone


class Together(NamedTuple):
    """Hold the particles that do not stand where the one before them in their cell stands.

    | name           | shape      | meaning                                            |
    |----------------|------------|----------------------------------------------------|
    | cells, columns | (R,)       | cell and number of each particle that stands apart |
    | number         | (cells, N) | which of these every particle stands at            |
    """

    cells: np.ndarray
    columns: np.ndarray
    number: np.ndarray

    @classmethod
    def of(cls, *tables: np.ndarray) -> Together:
        """Compare particles by tables (cells, N, ...), all of which must agree."""
        apart = np.ones(tables[0].shape[:2], bool)
        apart[:, 1:] = False
        for table in tables:
            differs = table[:, 1:] != table[:, :-1]
            apart[:, 1:] |= differs if differs.ndim == 2 else differs.any(axis=2)
        cells, columns = np.nonzero(apart)
        return cls(cells, columns, np.cumsum(apart.ravel()).reshape(apart.shape) - 1)

    @property
    def saves(self) -> bool:
        """Whether so many stand together that treating the others one by one pays."""
        return self.cells.size <= _SAVED * self.number.size

    def chosen(self, table: np.ndarray) -> np.ndarray:
        """Return the entries (R, ...) of a table (cells, N, ...) for the particles that stand apart."""
        return table[self.cells, self.columns]
