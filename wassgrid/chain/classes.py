"""The recurrent classes of a chain and their periods."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from wassgrid.chain.reductions import cells_of, count, numbers
from wassgrid.transition.operator import MarkovOperator

LISTED = 5_000_000  # entries of P up to which its classes are listed, from the matrix
_EDGE = 1e-14  # transition probabilities below are rounding
_AT_ONCE = 1 << 20  # edges that are looked at together
_TOGETHER = 200  # steps after which all cells reach one, or it is left open


def _at(operator: MarkovOperator, cell: int) -> np.ndarray:
    """Return which of the own cells is the one of a number, among all of them."""
    found: np.ndarray = numbers(operator.size)[0] == cell
    return found


def recurrent_classes(operator: MarkovOperator) -> list[np.ndarray]:
    """Return the cells of every recurrent class: strongly connected, with no edge that leaves.

    Edges with probability below rounding do not count.
    """
    edges = _edges(operator.matrix())
    groups, label = csgraph.connected_components(edges, directed=True, connection="strong")
    source = np.repeat(label, np.diff(edges.indptr))
    open_classes = np.unique(source[source != label[edges.indices]])
    closed = np.setdiff1d(np.arange(groups), open_classes)
    order = np.argsort(label, kind="stable")
    bounds = np.searchsorted(label[order], closed, side="left"), np.searchsorted(label[order], closed, side="right")
    return [order[low:high] for low, high in zip(*bounds, strict=True)]


def never_reaching(operator: MarkovOperator, cells: np.ndarray) -> np.ndarray:
    """Return the numbers of the cells from which none of the chosen ones (cells,) is ever reached.

    Edges with probability below rounding do not count. As many products with P as the slowest cell needs steps.
    """
    reached = cells.copy()
    before = -1
    while (found := count(reached)) > before:
        before = found
        reached |= operator.apply(reached.astype(float)) > _EDGE
    return np.flatnonzero(~reached)


def is_single_class(operator: MarkovOperator, cell: int) -> bool:
    """Tell whether every cell reaches `cell`, a recurrent one: then there is one recurrent class, which holds it.

    By products alone: the cells that reach it within k steps are where P^k 1_cell is not zero. As many products as the slowest
    cell needs steps.
    """
    reached = _at(operator, cell)
    found = 1
    while found < cells_of(reached):
        reached |= operator.apply(reached.astype(float)) > _EDGE
        before, found = found, count(reached)
        if found == before:
            return False
    return True


def reached_together(operator: MarkovOperator, cell: int) -> bool:
    """Tell whether all cells reach `cell` in one and the same number of steps: one recurrent class, of period 1.

    By products alone, of which there are a few hundred at most: False says nothing.
    """
    reached = _at(operator, cell)
    for _ in range(_TOGETHER):
        if count(reached) == cells_of(reached):
            return True
        reached = operator.apply(reached.astype(float)) > _EDGE
    return False


def period(operator: MarkovOperator, cells: np.ndarray) -> int:
    """Return the period of one recurrent class: the gcd of its cycle lengths, by breadth-first levels."""
    edges = _edges(operator.matrix())
    if cells.size < edges.shape[0]:
        edges = edges[cells][:, cells]
    order, parents = csgraph.breadth_first_order(edges, 0, directed=True)
    level = np.zeros(cells.size, np.int64)
    for node in order[1:]:
        level[node] = level[parents[node]] + 1
    found, rows = 0, max(1, _AT_ONCE * cells.size // max(edges.nnz, 1))
    for first in range(0, cells.size, rows):
        start = edges.indptr[first : first + rows + 1]
        source = np.repeat(level[first : first + rows], np.diff(start))
        found = int(np.gcd.reduce(np.abs(source + 1 - level[edges.indices[start[0] : start[-1]]]), initial=found))
    return found or 1


def _edges(matrix: sparse.csr_array) -> sparse.csr_array:
    """Return the graph of a matrix: a copy, without what is rounding."""
    edges = sparse.csr_array(
        (matrix.data > _EDGE, matrix.indices, matrix.indptr), shape=matrix.shape, dtype=np.int8, copy=True
    )
    edges.eliminate_zeros()
    return edges
