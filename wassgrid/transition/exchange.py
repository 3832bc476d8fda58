"""What processes that share the cells need of each other in a product with P: rows of the first axis in memory.

The streaming along the axis that is cut reads rows of other slabs (those that its table names, the whole where it must be); all
else of a product with P stays within a slab. The adjoint sends back what was put into rows of others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wassgrid.ranks import Ranks
from wassgrid.transition.stream import Stream, gather, shed
from wassgrid.transition.threads import spread


@dataclass(frozen=True, eq=False)
class Exchange:
    """Rows of an array cut along its first axis that this process wants, (W,) ascending, and what it gives to the others.

    given: the places in its own slab of the rows that the processes want of it, one process after the other, `sent` to each;
    received: how many of the wanted rows each of them has.
    """

    ranks: Ranks
    wanted: np.ndarray
    own: int
    given: np.ndarray
    sent: list[int]
    received: list[int]

    @classmethod
    def of(cls, ranks: Ranks, bounds: tuple[int, ...], wanted: np.ndarray) -> Exchange:
        """Agree on the rows of slabs that begin at `bounds` (processes + 1); wanted (W,), ascending."""
        low, high = bounds[ranks.rank : ranks.rank + 2]
        given = [rows[(rows >= low) & (rows < high)] - low for rows in ranks.everyone(wanted)]
        owner = np.searchsorted(np.array(bounds[1:]), wanted, side="right")
        received = np.bincount(owner, minlength=ranks.size).tolist()
        return cls(ranks, wanted, high - low, np.concatenate(given), [rows.size for rows in given], received)

    def forward(self, values: np.ndarray) -> np.ndarray:
        """Return the wanted rows, flat, of an array of which this process has its slab, flat."""
        length = values.size // self.own
        result = np.empty(self.wanted.size * length)
        self.ranks.rows(values.reshape(self.own, length)[self.given], self.sent, self.received, length, result)
        return result

    def backward(self, measure: np.ndarray) -> np.ndarray:
        """Return the own slab of the sum over the processes of measures on the rows that each of them wants: the adjoint."""
        length = measure.size // self.wanted.size
        parts = np.empty((self.given.size, length))
        self.ranks.rows(np.ascontiguousarray(measure), self.received, self.sent, length, parts)
        result = np.zeros((self.own, length))
        # rows that one process wants are different ones
        for begin, count in zip(np.append(0, np.cumsum(self.sent)[:-1]), self.sent, strict=True):
            result[self.given[begin : begin + count]] += parts[begin : begin + count]
        return result.ravel()


@dataclass(frozen=True)
class HaloStream(Stream):
    """A pass over the axis that is cut: the nodes of its table are places among the rows that an exchange brings."""

    exchange: Exchange

    @classmethod
    def cut(cls, stream: Stream, exchange: Exchange) -> HaloStream:
        """Return the pass with the rows of an exchange in place of all; its table names none but those."""
        place = np.zeros(int(exchange.wanted[-1]) + 1, np.int64)
        place[exchange.wanted] = np.arange(exchange.wanted.size)
        return cls(
            stream.last, stream.along, stream.stride, stream.rows, stream.own, place[stream.node], stream.weight, exchange
        )

    def forward(self, f: np.ndarray) -> np.ndarray:
        out = np.empty(f.size)
        spread(gather, self.rows.size, self.work, *self._table, self.exchange.forward(f), out)
        return out

    def backward(self, measure: np.ndarray) -> np.ndarray:
        out = np.zeros(self.exchange.wanted.size * self.stride)
        groups = min(8, self.last)
        spread(shed, groups, self.work, groups, *self._table, measure, out)
        return self.exchange.backward(out)


@dataclass(frozen=True)
class Gathering:
    """In place of a pass where no axis is streamed: all rows come together, every process collides with the whole."""

    exchange: Exchange
    width: int = 1
    work: float = 0.0

    def forward(self, f: np.ndarray) -> np.ndarray:
        return self.exchange.forward(f)

    def backward(self, measure: np.ndarray) -> np.ndarray:
        return self.exchange.backward(measure)
