"""The streaming: expectations over the axes that follow the realised values of others, and that no action moves.

    U[.., s_f, .., x] = sum_q omega_q(s_f, x) V[.., node_q(s_f, x), .., x],

one axis after the other. The law of an axis may depend on its own present coordinate, on the realised ones that are still there,
and on the present ones of axes that have been streamed before. Where it depends on few of them, so does its table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wassgrid.transition.axis_kernels import axis_weights
from wassgrid.transition.compiled import driver, fold
from wassgrid.transition.threads import spread


@driver
def tabulate(kernel, boundary, lower, h, n, mean, noise, reach, node, weight):
    """Fill the nodes and weights (reach, K) of the law of one axis for means and noises (K,); return the largest count."""
    w = np.zeros((3, reach))
    most = 0
    for k in range(mean.size):
        first, count = axis_weights(kernel, boundary, lower, h, n, mean[k], noise[k], 0, w[0], w[1], w[2])
        used = 0
        for q in range(count):
            if w[0, q] != 0.0:
                node[used, k] = fold(first + q, n, boundary)
                weight[used, k] = w[0, q]
                used += 1
        for q in range(used, reach):
            node[q, k] = node[0, k]
            weight[q, k] = 0.0
        most = max(most, used)
    return most


@driver
def gather(low, high, rows, last, along, own, stride, node, weight, f, out):
    """out = the expectation over one axis, for rows low..high of `last` contiguous elements.

    rows (R,): column of the table for the first element of every row; along: whether the next elements have columns of their own,
    the next ones; own (R,): coordinate of the axis; stride: elements from one of its nodes to the next.
    """
    width = node.shape[0]
    for r in range(low, high):
        begin = r * last
        origin = begin - own[r] * stride
        t = rows[r]
        target = out[begin : begin + last]
        for x in range(last):
            target[x] = 0.0
        for q in range(width):
            if along:
                nodes, weights = node[q, t : t + last], weight[q, t : t + last]
                for x in range(last):
                    target[x] += weights[x] * f[origin + nodes[x] * stride + x]
            else:
                a = weight[q, t]
                if a != 0.0:
                    source = f[origin + node[q, t] * stride : origin + node[q, t] * stride + last]
                    for x in range(last):
                        target[x] += a * source[x]


@driver
def shed(low, high, groups, rows, last, along, own, stride, node, weight, measure, out):
    """The adjoint of `gather`: out += weight measure; groups low..high of `groups` write to columns of their own.

    Rows that differ in the axis alone write to each other's places, elements of a row never do: the cut is along the rows.
    """
    width = node.shape[0]
    for g in range(low, high):
        begin_x, end_x = g * last // groups, (g + 1) * last // groups
        for r in range(rows.size):
            begin = r * last
            origin = begin - own[r] * stride
            t = rows[r]
            source = measure[begin + begin_x : begin + end_x]
            for q in range(width):
                if along:
                    nodes, weights = node[q, t + begin_x : t + end_x], weight[q, t + begin_x : t + end_x]
                    for x in range(end_x - begin_x):
                        out[origin + nodes[x] * stride + begin_x + x] += weights[x] * source[x]
                else:
                    a = weight[q, t]
                    if a != 0.0:
                        at = origin + node[q, t] * stride
                        target = out[at + begin_x : at + end_x]
                        for x in range(end_x - begin_x):
                            target[x] += a * source[x]


@dataclass(frozen=True)
class Stream:
    """One pass over one axis of an array; `node` and `weight` (width, columns), the rest as in `gather`."""

    last: int
    along: bool
    stride: int
    rows: np.ndarray
    own: np.ndarray
    node: np.ndarray
    weight: np.ndarray

    @classmethod
    def build(cls, shape: tuple[int, ...], axis: int, depends: tuple[int, ...], node: np.ndarray, weight: np.ndarray) -> Stream:
        """Address a table over the axes `depends` of an array of the given shape (positions, ascending)."""
        sizes = [shape[a] for a in depends]
        strides = dict(zip(depends, np.append(np.cumprod(sizes[:0:-1])[::-1], 1).astype(np.int64), strict=True))
        outer = shape[:-1]
        index = np.indices(outer).reshape(len(outer), -1)
        rows = np.zeros(index.shape[1], np.int64)
        for a, stride in strides.items():
            if a < len(outer):
                rows += index[a] * stride
        own = np.ascontiguousarray(index[axis], np.int64)
        return cls(shape[-1], len(outer) in strides, int(np.prod(shape[axis + 1 :])), rows, own, node, weight)

    @property
    def width(self) -> int:
        return self.node.shape[0]

    @property
    def work(self) -> float:
        """Elementary operations of one pass; a look-up counts as two."""
        return float(self.rows.size * self.last * self.width * (2 if self.along else 1))

    def forward(self, f: np.ndarray) -> np.ndarray:
        """Return the conditional expectation of f (elements,)."""
        out = np.empty(f.size)
        spread(gather, self.rows.size, self.work, *self._table, f, out)
        return out

    def backward(self, measure: np.ndarray) -> np.ndarray:
        """Return the measure after the pass, the adjoint, of one (elements,) before it."""
        out = np.zeros(measure.size)
        groups = min(8, self.last)
        spread(shed, groups, self.work, groups, *self._table, measure, out)
        return out

    @property
    def _table(self) -> tuple[np.ndarray, int, bool, np.ndarray, int, np.ndarray, np.ndarray]:
        return self.rows, self.last, self.along, self.own, self.stride, self.node, self.weight
