"""Q(s, .) of every cell as a function of the action, with V frozen: values, derivatives, and enclosures over boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from wassgrid.certificate.enclosure import derivative_combinations, enclose
from wassgrid.certificate.lead_enclosure import lead_enclosures, lead_expectations, lead_table
from wassgrid.certificate.mean_tables import MeanTables
from wassgrid.certificate.product_enclosure import MOST_MOVED, enclose_product
from wassgrid.certificate.profiles import Profiles
from wassgrid.certificate.weight_bounds import REACH, TAIL_MASS
from wassgrid.chain.reductions import anywhere, everything
from wassgrid.evaluation import Evaluation, rounding
from wassgrid.problem.boundary import BOUNDARIES
from wassgrid.transition import compiled
from wassgrid.transition.axis_kernels.facts import SNAP
from wassgrid.transition.model import TransitionModel
from wassgrid.transition.threads import spread

_TABLE_ENTRIES = 1 << 26  # of E[V | lead axis] kept at most, else it is computed again at every action


def touch(nodes: np.ndarray) -> float:
    """Return how near to the end of an axis that stops means a mean counts as on it: rounding."""
    return 1e-14 * float(np.abs(nodes).max() + np.ptp(nodes))


def margin(evaluation: Evaluation) -> float:
    """Return by how much a computed Q(s, .) may differ from a smooth function of the action.

    Rounding; nodes at the edge of a kernel's tail, which enter and leave as the mean moves; means without noise that are moved
    onto a node nearby; and means beyond an end that stops them, which count as on it: E V moves by at most a step of V between
    nodes for every cell that its mean does, near an end by one within reach of it.
    """
    model = evaluation.model
    grid = model.grid.whole
    value = everything(evaluation.value).reshape(grid.shape)
    result = rounding(evaluation) + TAIL_MASS * float(np.ptp(value)) * value.ndim
    for j in range(value.ndim):
        if not model.problem.dependence.actions[j]:
            continue  # given the realised values that it follows, its law is the same for every action
        kernel = model.axis_kernels[j]
        # of kernels that are not Markov nothing is proven
        snaps = kernel.snaps and kernel.nonnegative and anywhere(not model.noise[:, j].all())
        touched = touch(grid.axes[j]) / float(grid.spacing[j]) if fading(model, j) == 0.0 else 0.0
        if snaps or touched:
            along = np.moveaxis(value, j, 0)
            if BOUNDARIES[grid.boundary[j]].winds:
                along = np.concatenate([along, along[:1]])
            steps = np.abs(np.diff(along, axis=0))
            reach = math.ceil(0.5 * model.nodes[j]) + 1
            near = max(float(steps[:reach].max()), float(steps[-1 - reach :].max()))
            most = float(steps.max())
            if model.problem.coupled[:, j].any():
                # what follows it moves with it
                near = most = float(np.ptp(value))
            result += SNAP * snaps * most + touched * near
    return result


def fading(model: TransitionModel, j: int) -> float:
    """Return how far beyond an end of axis j the law of a mean still changes: 0 where it stops there, negative: it never does."""
    return float(compiled.slack(float(model.noise[:, j].max()), float(model.grid.spacing[j]), int(model.axes.boundary[j])))


class Enclosure(NamedTuple):
    """Hold E V(s') around centre means of K boxes of means, and bounds over the boxes (see `enclose_product`)."""

    value: np.ndarray  # (K,)
    gradient: np.ndarray  # (K, d)
    hessian: np.ndarray  # (K, d, d)
    floor: np.ndarray  # (K,)
    slope: np.ndarray  # (K, d)
    most: np.ndarray  # (K, d, d)
    bend: np.ndarray  # (K, d, d)
    smooth: np.ndarray  # (K,)
    bounded: np.ndarray  # (K,)
    first: np.ndarray  # (2, K, d) ranges of the first derivatives, where `bounded`, and of the second, where `smooth`
    second: np.ndarray  # (2, K, d, d)

    def with_ranges(self, radius: np.ndarray) -> Enclosure:
        """Return the same with the ranges of the derivatives that the bounds give, boxes of means having radii (K, d).

        |E_j - E_j(centre)| <= sum_l (|E_jl(centre)| + bend_jl/2) r_l  and  |E_j| <= slope_j
        """
        drift = np.einsum("kjl,kl->kj", np.abs(self.hessian) + 0.5 * self.bend, radius)
        drift = np.where(self.smooth[:, None], drift, np.inf)
        slope = np.where(self.bounded[:, None], self.slope, np.inf)
        first = np.maximum(self.gradient - drift, -slope), np.minimum(self.gradient + drift, slope)
        second = np.maximum(self.hessian - self.bend, -self.most), np.minimum(self.hessian + self.bend, self.most)
        return self._replace(first=np.stack(first), second=np.stack(second))

    @classmethod
    def blank(cls, count: int, d: int) -> Enclosure:
        """Return arrays to be written: slopes and curvatures zero, everything smooth and bounded."""
        return cls(
            np.zeros(count), np.zeros((count, d)), np.zeros((count, d, d)), np.zeros(count), np.zeros((count, d)),
            np.zeros((count, d, d)), np.zeros((count, d, d)), np.ones(count, np.bool_), np.ones(count, np.bool_),
            _everything(count, d), _everything(count, d, d),
        )  # fmt: skip


def _everything(*shape: int) -> np.ndarray:
    return np.broadcast_to(np.array([-np.inf, np.inf]).reshape(2, *(1,) * len(shape)), (2, *shape))


@dataclass(frozen=True)
class ActionValue:
    """Evaluate Q(s, .) at many actions of every cell, in boxes low, high (cells, m) that hold them all.

    Where the law is a product everything comes from U (`transition.product_law`), and no array has more than some numbers
    per cell. Else, where actions move one axis only, E V(s') = sum_l omega_l(mean) E[V | lead axis at node l], and the
    conditional expectations, which no action changes, are tabulated once. Else the general kernels walk.
    """

    evaluation: Evaluation
    table: np.ndarray | None  # (cells, n_lead), (1, n_lead) in one dimension; None: the product, or the general kernels
    lead: int

    @classmethod
    def build(cls, evaluation: Evaluation, low: np.ndarray, high: np.ndarray) -> ActionValue:
        """Tabulate what the actions in the boxes need."""
        model = evaluation.model
        if model.grid.dimension == 1:
            return cls(evaluation, evaluation.expectation.function[None, :], 0)
        if model.product is not None:
            return cls(evaluation, None, -1)
        axes = model.axes
        lead = int(axes.order[0])
        if not axes.led or model.grid.size * int(axes.size[lead]) > _TABLE_ENTRIES:
            return cls(evaluation, None, lead)
        found = [model.problem.action_ranges(model.grid.states, *part, 0).mean[0] for part in model.problem.parts(low, high)]
        ranges = np.stack([np.min([ends[0] for ends in found], axis=0), np.max([ends[1] for ends in found], axis=0)])
        others = np.arange(model.grid.dimension) != lead
        if np.any(ranges[0][:, others] != ranges[1][:, others]):
            return cls(evaluation, None, lead)
        table = np.zeros((model.grid.size, int(axes.size[lead])))
        spread(
            lead_table, len(table), table.size * model.reach, axes, model.width, ranges[0], model.cell_noise, model.coupling,
            evaluation.expectation.function, np.ascontiguousarray(ranges[0][:, lead]),
            np.ascontiguousarray(ranges[1][:, lead]), table,
        )  # fmt: skip
        return cls(evaluation, table, lead)

    @cached_property
    def profiles(self) -> Profiles:
        """The bounds of weights that are tabulated."""
        return Profiles.of(self.evaluation.model)

    @cached_property
    def ends(self) -> dict[int, tuple[float, float, float]]:
        """The axes that follow none and stop means at their ends: these, and how near to one a mean counts as on it."""
        model = self.evaluation.model
        grid = model.grid.whole
        return {
            j: (float(grid.axes[j][0]), float(grid.axes[j][-1]), touch(grid.axes[j]))
            for j in range(grid.dimension)
            if fading(model, j) == 0.0 and not model.problem.coupled[j].any()
        }

    @cached_property
    def horizons(self) -> dict[int, tuple[float, float]]:
        """The axes that follow none and where laws fade beyond the ends: places beyond which every mean has the same law."""
        model = self.evaluation.model
        grid = model.grid.whole
        beyond = {j: fading(model, j) + float(grid.spacing[j]) for j in range(grid.dimension) if fading(model, j) > 0.0}
        return {
            j: (float(grid.axes[j][0]) - far, float(grid.axes[j][-1]) + far)
            for j, far in beyond.items()
            if not model.problem.coupled[j].any()
        }

    def crosses(self, cells: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Tell of cells (K,) whether the mean of a clamped axis may leave it, or touch its end, in boxes low, high (K, m)."""
        model = self.evaluation.model
        result = np.zeros(cells.size, bool)
        moved = [j for j in self.ends if model.problem.dependence.actions[j]]
        if moved:
            mean = model.problem.action_ranges(model.grid.states[cells], low, high, 0).mean[0]
            for j in moved:
                *both, slack = self.ends[j]
                for end in both:
                    result |= (mean[0, :, j] <= end + slack) & (mean[1, :, j] >= end - slack) & (mean[0, :, j] < mean[1, :, j])
        return result

    def sides(self, cells: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number on which sides of the ends of clamped axes, or on them, means are, (K, N), for actions (K, N, m); their cost."""
        tables = self.evaluation.model.tables(cells, actions, 0)
        mean = tables.mean
        result = np.zeros(actions.shape[:2], np.int64)
        for j, (bottom, top, slack) in self.ends.items():
            if self.evaluation.model.problem.dependence.actions[j]:
                x = mean[:, :, j]
                for edge in (bottom - slack, bottom + slack, top - slack, top + slack):
                    result = result + (x > edge)
                result = 5 * result
        return result, tables.cost

    @property
    def in_product_form(self) -> bool:
        """Whether boxes are enclosed from U."""
        law = self.evaluation.model.plain_product
        return self.table is None and law is not None and law.collision.axis.size - law.collision.moved <= MOST_MOVED

    def _lead_expectations(self, cells: np.ndarray, mean: np.ndarray) -> np.ndarray:
        model, table = self.evaluation.model, self.table
        assert table is not None
        result = np.empty((3, *mean.shape))
        spread(
            lead_expectations, len(cells), mean.size * 8.0 * model.width, model.axes, self.lead, model.width, cells,
            np.ascontiguousarray(mean), model.cell_noise, table, len(table) == 1, result,
        )  # fmt: skip
        if model.goal is not None:
            # whatever the action
            result[0, model.goal.inside[cells]] = model.goal.after(self.evaluation.value)
            result[1:, model.goal.inside[cells]] = 0.0
        return result

    def values(self, cells: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Return Q (K, N) at actions (K, N, m) of chosen cells (K,)."""
        if self.table is None:
            return self.evaluation.q_values(cells, actions)
        model, g = self.evaluation.model, self.evaluation.discount
        result = np.empty(actions.shape[:2])
        for rows in model.blocks(*actions.shape[:2]):
            tables = model.tables(cells[rows], actions[rows], 0, strict=False)
            expected = self._lead_expectations(cells[rows], tables.mean[:, :, self.lead])[0]
            result[rows] = tables.cost - self.evaluation.offset + g * expected
        return result

    def derivatives(self, cells: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return Q (K,), its gradient (K, m) and Hessian (K, m, m) at one action (K, m) of each chosen cell (K,)."""
        if self.table is None:
            q, gradient, hessian = self.evaluation.action_values(cells, actions[:, None, :])
            return q[:, 0], gradient[:, 0], hessian[:, 0]
        g = self.evaluation.discount
        tables = self.evaluation.model.tables(cells, actions[:, None, :], 2, strict=False)
        assert tables.mean_gradient is not None and tables.mean_hessian is not None
        assert tables.cost_gradient is not None and tables.cost_hessian is not None
        expected = self._lead_expectations(cells, tables.mean[:, :, self.lead])[:, :, 0]
        slope, bend = tables.mean_gradient[:, 0, self.lead], tables.mean_hessian[:, 0, self.lead]
        # d2/dadb E V = E'' dm/da dm/db + E' d2m/dadb
        curvature = expected[2][:, None, None] * slope[:, :, None] * slope[:, None, :] + expected[1][:, None, None] * bend
        return (
            tables.cost[:, 0] - self.evaluation.offset + g * expected[0],
            tables.cost_gradient[:, 0] + g * expected[1][:, None] * slope,
            tables.cost_hessian[:, 0] + g * curvature,
        )

    @cached_property
    def _mean_tables(self) -> MeanTables | None:
        """Ranges of E V over pieces of the means, where the law is a product and all cells of a block of U share it."""
        law = self.evaluation.model.plain_product
        if law is None or self.table is not None:
            return None
        return MeanTables.build(law.collision, self.profiles, law.noise, self.evaluation.expectation.streamed_plain)

    def least_change(
        self, cells: np.ndarray, mean: np.ndarray, slope: np.ndarray, below: np.ndarray, above: np.ndarray, gradient: np.ndarray,
        curvature: np.ndarray,
    ) -> np.ndarray | None:  # fmt: skip
        """See `MeanTables.least_change`; None where the law has no such tables."""
        if self._mean_tables is None:
            return None
        law = self.evaluation.model.plain_product
        assert law is not None
        return self._mean_tables.least_change(
            self.evaluation.discount, law.numbers[cells], mean, slope, below, above, gradient, curvature
        )

    def enclose(self, cells: np.ndarray, mean: np.ndarray, radius: np.ndarray) -> Enclosure:
        """Enclose E V(s') over boxes of means: centres and radii (K, d) of chosen cells (K,)."""
        if self._mean_tables is not None:
            return self._enclose_by_pieces(self._mean_tables, cells, mean, radius)
        return self._enclose_boxes(cells, mean, radius).with_ranges(radius)

    def _enclose_by_pieces(self, tables: MeanTables, cells: np.ndarray, mean: np.ndarray, radius: np.ndarray) -> Enclosure:
        law = self.evaluation.model.plain_product
        assert law is not None
        (count, d), moved = mean.shape, law.collision.axis
        found = Enclosure.blank(count, d)._replace(first=np.zeros((2, count, d)), second=np.zeros((2, count, d, d)))
        # derivatives in the means themselves
        along = np.zeros((count, 1, d, moved.size))
        along[:, :, moved, np.arange(moved.size)] = 1.0
        values, gradients, hessians = law.expectations(
            self.evaluation.expectation.streamed_plain, law.collision, cells, mean[:, None, :], along,
            np.zeros((count, 1, d, moved.size, moved.size)),
        )  # fmt: skip
        found.value[:] = values[:, 0]
        found.gradient[:, moved] = gradients[:, 0]
        found.hessian[:, moved[:, None], moved] = hessians[:, 0]
        slack = np.array([touch(axis) for axis in self.evaluation.model.grid.whole.axes])
        tables.enclose(law.numbers[cells], mean, radius, slack, found.floor, found.smooth, found.first, found.second)
        found.slope[:] = np.abs(found.first).max(axis=0)
        still = ~(radius > 0.0).any(axis=1)
        found.floor[still] = found.value[still]
        return found

    def _enclose_boxes(self, cells: np.ndarray, mean: np.ndarray, radius: np.ndarray) -> Enclosure:
        model = self.evaluation.model
        spacing, (count, d) = model.grid.spacing, mean.shape
        noisiest = model.noise[:1] if model.noise.strides[0] == 0 else model.noise
        # boxes wider than this are not bounded by the kernels
        reach = np.minimum(radius, REACH * np.maximum(noisiest.max(axis=0), spacing) + spacing)
        width = model.width + int(np.ceil((2 * reach / spacing).max(initial=0.0))) + 4
        found = Enclosure.blank(count, d)
        if self.in_product_form:
            law = model.plain_product
            assert law is not None
            at = law.collision
            noise = np.ascontiguousarray(law.noise[cells]) if len(law.noise) > 1 else law.noise
            spread(
                enclose_product, count, count * 60.0 * float(width) ** (at.axis.size - at.moved), at, self.profiles, law.reach,
                width, law.numbers[cells], np.ascontiguousarray(mean), np.ascontiguousarray(radius), noise,
                self.evaluation.expectation.streamed_plain, *found[:9],
            )  # fmt: skip
            return found
        if self.table is None:
            combinations, first, third = derivative_combinations(model.axes.order, np.asarray((radius > 0).any(axis=0)))
            found.most[:] = np.inf
            spread(
                enclose, count, count * 60.0 * model.reach, model.axes, self.profiles, width, cells, mean, radius,
                model.cell_noise, model.coupling, self.evaluation.expectation.function, combinations, first, third, found.value,
                found.gradient, found.hessian, found.floor, found.slope, found.bend, found.smooth, found.bounded,
            )  # fmt: skip
            return found
        j = self.lead
        expected = self._lead_expectations(cells, mean[:, j : j + 1])[:, :, 0]
        found.value[:], found.gradient[:, j], found.hessian[:, j, j] = expected
        found.floor[:] = expected[0]
        slope, second, third = np.zeros((3, count))
        spread(
            lead_enclosures, count, count * 200.0 * width, model.axes, self.profiles, j, width, cells,
            np.ascontiguousarray(mean[:, j]), np.ascontiguousarray(radius[:, j]), model.cell_noise, self.table,
            len(self.table) == 1, found.floor, slope, second, third, found.smooth, found.bounded,
        )  # fmt: skip
        found.slope[:, j], found.most[:, j, j], found.bend[:, j, j] = slope, second, third * radius[:, j]
        return found
