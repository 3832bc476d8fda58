"""Sums and extremes over all cells: the only way in which the solvers bring cells together.

Several processes may share the cells (`sharing`). Arrays are then those of the own cells, and what is returned is that of all
cells, the same in every process to the last bit: all call the same functions at the same places of the program, so none may be
called in a loop over some cells, whose length others do not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import numpy as np

from wassgrid.grid.slabs import Slabs

_Result = TypeVar("_Result")
_SHARED: ContextVar[Slabs | None] = ContextVar("shared", default=None)  # of every thread its own


@contextmanager
def sharing(slabs: Slabs | None) -> Iterator[None]:
    """Let arrays be those of the own cells of a grid that is shared out, within; None: of all cells."""
    token = _SHARED.set(slabs)
    try:
        yield
    finally:
        _SHARED.reset(token)


def shared() -> Slabs | None:
    """Return how the cells are shared out; None where this process has all of them."""
    return _SHARED.get()


def _sum(x: float) -> float:
    slabs = shared()
    return x if slabs is None else float(slabs.ranks.numbers(np.array([x])).sum(axis=0)[0])


def dot(x: np.ndarray, y: np.ndarray) -> float:
    """Return sum_k x_k y_k."""
    return _sum(float(x @ y))


def total(x: np.ndarray) -> float:
    return _sum(float(x.sum()))


def total_variation(x: np.ndarray) -> float:
    """Return sum_k |x_k|."""
    return _sum(float(np.abs(x).sum()))


def products(vectors: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return sum_k v_jk x_k for vectors (K, cells), (K,)."""
    return sums(vectors @ x)


def sums(values: np.ndarray) -> np.ndarray:
    """Return the sums over the processes of what each has found, of one shape."""
    slabs = shared()
    if slabs is None:
        return values
    return np.asarray(slabs.ranks.numbers(values.ravel()).sum(axis=0)).reshape(values.shape)


def largest(x: np.ndarray) -> float:
    """Return max_k |x_k|."""
    low, high = ends(x)
    return max(high, -low)


def ends(x: np.ndarray) -> tuple[float, float]:
    """Return the least and the largest of x."""
    slabs = shared()
    low, high = float(x.min()), float(x.max())
    if slabs is None:
        return low, high
    found = slabs.ranks.numbers(np.array([low, high]))
    return float(found[:, 0].min()), float(found[:, 1].max())


def span(x: np.ndarray) -> float:
    """Return the difference of the largest and the least of x."""
    low, high = ends(x)
    return high - low


def least(values: np.ndarray) -> np.ndarray:
    """Return the least, over the processes, of what each has found, of one shape."""
    slabs = shared()
    return values if slabs is None else slabs.ranks.numbers(values.ravel()).min(axis=0).reshape(values.shape)


def most(values: np.ndarray) -> np.ndarray:
    """Return the largest, over the processes, of what each has found, of one shape."""
    slabs = shared()
    return values if slabs is None else slabs.ranks.numbers(values.ravel()).max(axis=0).reshape(values.shape)


def count(x: np.ndarray) -> int:
    """Return how many of x are not zero, or true."""
    return round(_sum(float(np.count_nonzero(x))))


def anywhere(here: bool) -> bool:
    """Tell whether something is so in some process."""
    slabs = shared()
    return bool(here) if slabs is None else _sum(float(here)) > 0.0


def medians(x: np.ndarray) -> np.ndarray:
    """Return the medians of numbers x >= 0 (cells, N, m) over cells and N, (m,)."""
    slabs = shared()
    if slabs is None:
        return np.asarray(np.median(x, axis=(0, 1)))
    ordered = np.sort(x.reshape(-1, x.shape[-1]), axis=0)
    number = int(_sum(float(len(ordered))))
    result = np.empty(x.shape[-1])
    for a in range(result.size):
        middle = [_ordered(np.ascontiguousarray(ordered[:, a]), place) for place in ((number - 1) // 2, number // 2)]
        result[a] = np.mean(middle)
    return result


def _ordered(own: np.ndarray, place: int) -> float:
    """Return the number at a place of all numbers >= 0 in ascending order, of which each process has some, ascending.

    Such numbers are in the order of their bits, taken as integers, which are halved until one is left.
    """
    bits = own.view(np.int64)
    low, high = 0, int(np.float64(np.inf).view(np.int64))
    while low < high:
        middle = (low + high) // 2
        if _sum(float(np.searchsorted(bits, middle, side="right"))) > place:
            high = middle
        else:
            low = middle + 1
    return float(np.int64(low).view(np.float64))


def cells_of(x: np.ndarray) -> int:
    """Return how many cells there are of which x (cells,) has the own ones."""
    return all_cells(x.size)


def all_cells(cells: int) -> int:
    """Return how many cells there are, of which so many are own ones."""
    slabs = shared()
    return cells if slabs is None else slabs.whole.size


def numbers(cells: int) -> tuple[np.ndarray, int]:
    """Return the numbers of the own cells, so many, among all cells, and how many these are."""
    slabs = shared()
    return (np.arange(cells), cells) if slabs is None else (slabs.grid.numbers, slabs.whole.size)


def likeliest(law: np.ndarray) -> int:
    """Return the number, among all cells, of the first cell at which a law (cells,) is largest."""
    slabs = shared()
    place = int(law.argmax())
    if slabs is None:
        return place
    found = slabs.ranks.numbers(np.array([law[place], float(slabs.grid.numbers[place])]))
    top = found[found[:, 0] == found[:, 0].max(), 1]
    return int(top.min())


def everything(x: np.ndarray) -> np.ndarray:
    """Return x (cells, ...) on all cells."""
    slabs = shared()
    return x if slabs is None else slabs.everything(x)


def own(x: np.ndarray) -> np.ndarray:
    """Return those of x (all cells, ...) that are of own cells."""
    slabs = shared()
    return x if slabs is None else slabs.own(x)


def together(places: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return rows (K, ...) of all processes at their places (K,) among all rows, in every process."""
    slabs = shared()
    if slabs is None:
        result = np.empty_like(rows)
        result[places] = rows
        return result
    everyone = slabs.ranks.everyone(places)
    length = int(np.prod(rows.shape[1:]))
    flat = slabs.ranks.joined(np.ascontiguousarray(rows).ravel(), [part.size * length for part in everyone])
    result = np.empty((flat.size // length, *rows.shape[1:]))
    result[np.concatenate(everyone)] = flat.reshape(-1, *rows.shape[1:])
    return result


def union(x: np.ndarray) -> np.ndarray:
    """Return the different numbers in x, ascending; they are few."""
    slabs = shared()
    found = np.unique(x)
    return found if slabs is None else np.unique(np.concatenate(slabs.ranks.everyone(found)))


def written(x: np.ndarray) -> np.ndarray:
    """Return x (cells, ...) on all cells in the process that writes, as it is in the others."""
    slabs = shared()
    return x if slabs is None else slabs.collected(x)


def agreed(task: Callable[[], _Result]) -> _Result:
    """Return what a task on own cells gives; an error in one process is raised in all of them."""
    slabs = shared()
    return task() if slabs is None else slabs.ranks.agreed(task)
