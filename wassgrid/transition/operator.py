"""What solvers ask of a Markov operator; the sparse matrix and the product form are the two."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy import sparse


class MarkovOperator(Protocol):
    """A transition operator P on functions and measures (cells,), whose rows sum to one to rounding, or are zero at a goal.

    Where several processes share the cells, functions, measures and chosen rows are those of the own cells, and all processes
    ask for products together; work, entries, bandwidth and the matrix are those of all cells.
    """

    @property
    def size(self) -> int:
        """Number of cells."""

    @property
    def nonnegative(self) -> bool:
        """Whether the rows are probabilities."""

    @property
    def stochastic(self) -> bool:
        """Whether rows sum to one: the chain goes on for ever."""

    @property
    def work(self) -> float:
        """Elementary operations (multiply and add) of one product."""

    @property
    def entries(self) -> int:
        """Number of entries of P that are not zero; a bound where they are not stored."""

    @property
    def bandwidth(self) -> float:
        """Mean width of a row about the diagonal, in cells; a bound where they are not stored."""

    def apply(self, function: np.ndarray) -> np.ndarray:
        """Return P f: the expectation of f at the next state."""

    def push(self, law: np.ndarray) -> np.ndarray:
        """Return mu P: the law of the next state."""

    def rows(self, cells: np.ndarray) -> sparse.csr_array:
        """Return chosen rows of P as a matrix (K, cells), to read."""

    def matrix(self) -> sparse.csr_array:
        """Return P as a matrix, to read; it is assembled where it is not stored."""
