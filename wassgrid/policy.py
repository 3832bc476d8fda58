"""Particle policies: a weighted cloud of actions in every cell of the state grid."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from wassgrid.action_distribution import ActionDistribution
from wassgrid.blobs import Blobs
from wassgrid.errors import WassgridError
from wassgrid.grid import StateGrid
from wassgrid.problem.limits import ActionLimits
from wassgrid.problem.names import split_family
from wassgrid.problem.states import States, state_array
from wassgrid.storage import ResultFile, StorageError

if TYPE_CHECKING:
    from wassgrid.case import Case
    from wassgrid.problem.control_problem import ControlProblem

_DRAWN_AT_ONCE = 1 << 16  # cells
_MODES = 1.25  # times the distance of their means: neighbours that differ so much in a quantile have it in different modes


class PolicyError(WassgridError, ValueError):
    """A policy that cannot be: wrong shapes, weights or values."""


@dataclass(frozen=True)
class ParticlePolicy:
    """Hold pi_s = sum_i w_i delta_{a_i} for every cell of the grid.

    | name    | symbol | shape                 |
    |---------|--------|-----------------------|
    | actions | a_ki   | (cells, particles, m) |
    | weights | w_ki   | (cells, particles)    |

    Weights are nonnegative and sum to one in every cell. categorical: actions are values of a list, the same in every cell, and
    nothing between them is one. Raises PolicyError otherwise. limits: bounds of the actions where these depend on the state;
    between cells actions are clipped to those of the state itself. listed: which actions (m,) take values of a list, where others
    do not; empty: none, or all. value_names: of every action (m) the names of its values, which may be none. blobs: the particles
    that slide where `actions` are the nodes on which they are laws, and `weights` theirs; None elsewhere.

    Methods take one state or many, as an array (..., d) in the order of the axes or as a dict by name (StateError otherwise), and
    know what is between cells: the mean is multilinear, the distribution the displacement interpolation of the neighbours', of
    values of a list that of their vote, and beside them that of the neighbours that take these values.
    Beyond the domain states are wrapped, folded or put on the end, as the boundary of their axis says.

    >>> import numpy as np
    >>> grid = StateGrid(("x",), (np.array([0.0, 1.0]),), ("clamp",))
    >>> policy = ParticlePolicy.around(grid, centre=[[0.0], [2.0]], offsets=[[-1.0], [1.0]])
    >>> policy.mean({"x": 0.25}), policy.std([0.25]), policy.quantile([[0.25], [9.0]], 0.9)
    (array([0.5]), array([1.]), array([[1.5],
           [3. ]]))
    """

    grid: StateGrid
    actions: np.ndarray
    weights: np.ndarray
    categorical: bool = False
    limits: ActionLimits | None = None
    listed: tuple[bool, ...] = ()
    value_names: tuple[Mapping[float, str], ...] = ()
    blobs: Blobs | None = None

    def __repr__(self) -> str:
        return f"<ParticlePolicy on {self.grid.described}, {self.particles} particles, {self.action_dimension} actions>"

    def __post_init__(self) -> None:
        if self.actions.ndim != 3 or self.actions.shape[0] != self.grid.size:
            raise PolicyError(f"actions must have shape ({self.grid.size}, particles, m), got {self.actions.shape}")
        if self.weights.shape != self.actions.shape[:2]:
            raise PolicyError(f"weights must have shape {self.actions.shape[:2]}, got {self.weights.shape}")
        if not np.isfinite(self.actions).all():
            cell = int(np.argwhere(~np.isfinite(self.actions))[0][0])
            raise PolicyError(f"an action is not finite at {self.grid.describe_cell(cell)}")
        if (self.weights < 0).any() or np.abs(self.weights.sum(axis=1) - 1).max() > 1e-9:
            raise PolicyError("weights must be nonnegative and sum to one in every cell")
        if self.categorical and not (self.actions == self.actions[:1]).all():
            raise PolicyError("actions that are values of a list must be the same in every cell")
        if self.listed and (self.categorical or len(self.listed) != self.action_dimension):
            raise PolicyError(f"listed must say of {self.action_dimension} actions which take values, beside others that do not")

    @classmethod
    def of(cls, problem: ControlProblem, grid: StateGrid, actions: np.ndarray, weights: np.ndarray) -> ParticlePolicy:
        """Return the policy of a problem with actions (cells, N, m) and weights (cells, N): it knows the bounds and the lists."""
        listed = tuple(problem.listed.tolist()) if problem.mixed else ()
        actions, categorical = np.ascontiguousarray(actions), problem.choices is not None
        return cls(grid, actions, weights, categorical, problem.limits, listed, problem.value_names)

    @property
    def particles(self) -> int:
        return self.actions.shape[1]

    @property
    def action_dimension(self) -> int:
        return self.actions.shape[2]

    def moved(self, actions: np.ndarray, weights: np.ndarray | None = None) -> ParticlePolicy:
        """Return the policy with other actions and the same weights, or others; they are those of no blobs any more."""
        weights = self.weights if weights is None else weights
        return replace(self, actions=np.ascontiguousarray(actions), weights=weights, blobs=None)

    def of_blobs(self, blobs: Blobs) -> ParticlePolicy:
        """Return the policy on the same nodes that particles are which slide over them."""
        return replace(self, weights=blobs.weights, blobs=blobs)

    def named(self, actions: ArrayLike) -> np.ndarray:
        """Return actions (..., m) with the names of values in place of their numbers, as objects (..., m); others as they are.

        >>> import numpy as np
        >>> grid = StateGrid(("x",), (np.array([0.0, 1.0]),), ("clamp",))
        >>> values = np.tile([[[0.0], [1.0]]], (2, 1, 1))
        >>> policy = ParticlePolicy(grid, values, np.full((2, 2), 0.5), True, value_names=({0.0: "off", 1.0: "on"},))
        >>> policy.named(policy.mode([[0.0], [1.0]])).tolist()
        [['off'], ['off']]
        """
        result = np.array(actions, dtype=float).astype(object)
        for k, names in enumerate(self.value_names):
            for value, name in names.items():
                result[..., k][result[..., k] == value] = name
        return result

    @property
    def mixed(self) -> bool:
        """Whether some actions take values of a list, and others lie between bounds."""
        return any(self.listed)

    @cached_property
    def _which(self) -> np.ndarray:
        """Which actions take values, (m,), as an array."""
        return np.array(self.listed, dtype=bool)

    @cached_property
    def _by_values(self) -> tuple[ParticlePolicy, tuple[ParticlePolicy, ...]]:
        """The law of the combinations of values, and for each of them the other actions, given it.

        Cells without a combination have any law given it, and a weight of the combination of zero.
        """
        cells = self.grid.size
        taken = self.actions[..., self._which]
        values = np.unique(taken[self.weights > 0.0], axis=0)
        own = np.stack([(taken == one).all(axis=2) for one in values])
        mass = np.where(own, self.weights, 0.0).sum(axis=2)
        law = ParticlePolicy(self.grid, np.tile(values, (cells, 1, 1)), np.ascontiguousarray((mass / mass.sum(axis=0)).T), True)
        given = []
        for here, total in zip(own, mass, strict=True):
            some = total[:, None] > 0.0
            weights = np.where(some, np.where(here, self.weights, 0.0) / np.where(some, total[:, None], 1.0), self.weights)
            actions = np.ascontiguousarray(self.actions[..., ~self._which])
            # what has no weight is nowhere else
            mean = np.einsum("ki,kia->ka", weights, actions)[:, None]
            given.append(ParticlePolicy(self.grid, np.where((here | ~some)[..., None], actions, mean), weights))
        return law, tuple(given)

    def _of_values(self, number: int, cells: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Return the shares (..., C) of the neighbouring cells that have a combination of values; any where none has."""
        has = shares * (self._by_values[0].weights[cells, number] > 0.0)
        total = has.sum(axis=-1, keepdims=True)
        result: np.ndarray = np.where(total > 0.0, has / np.where(total > 0.0, total, 1.0), shares)
        return result

    def _joined(self, values: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return actions (..., m) of values (..., l) of lists and of the other actions (..., m - l)."""
        result = np.empty((*others.shape[:-1], self.action_dimension))
        result[..., self._which], result[..., ~self._which] = values, others
        return result

    def _within(self, state: States, actions: np.ndarray) -> np.ndarray:
        """Clip actions (..., m), or atoms (..., K, m), to the bounds at states (..., d), where these depend on them."""
        if self.limits is None:
            return actions
        states = self.grid.inside(state_array(state, self.grid.names))
        ends = self.limits.at(states.reshape(-1, states.shape[-1]))
        atoms = (1,) * (actions.ndim - states.ndim)
        low, high = (end.reshape(*states.shape[:-1], *atoms, -1) for end in ends)
        return np.asarray(np.clip(actions, low, high))

    def _allowed(self, state: States, actions: np.ndarray) -> np.ndarray:
        """Clip actions (..., m), or atoms (..., K, m), as `_within`; values that are not allowed at the states give way."""
        if self.limits is None:
            return actions
        found = self._within(state, actions)
        states = self.grid.inside(state_array(state, self.grid.names))
        flat = states.reshape(-1, states.shape[-1])
        return self.limits.admitted(flat, found.reshape(len(flat), -1, found.shape[-1])).reshape(found.shape)

    def cell_mean(self) -> np.ndarray:
        """Return the mean action of every cell, (cells, m)."""
        return np.einsum("ki,kia->ka", self.weights, self.actions)

    def cell_spread(self) -> np.ndarray:
        """Return the standard deviation of every action component in every cell, (cells, m)."""
        centred = self.actions - self.cell_mean()[:, None, :]
        return np.sqrt(np.einsum("ki,kia->ka", self.weights, centred**2))

    def mean(self, state: States) -> np.ndarray:
        """Return the mean action at arbitrary states (..., d), (..., m): multilinear between cells.

        Of values of a list it need not be one of them, and of actions beside them it mixes what is done with different values
        (see `mode`). Clipped where the bounds depend on the state.
        """
        cells, weights = self._around(state)
        return self._within(state, np.einsum("...c,...ca->...a", weights, self._extent[0][cells]))

    def std(self, state: States) -> np.ndarray:
        """Return the standard deviation of every action component at arbitrary states (..., d), (..., m)."""
        return self.distribution(state).std()

    def quantile(self, state: States, level: ArrayLike) -> np.ndarray:
        """Return the quantile of every action component at arbitrary states (..., d), (..., m); axes of levels come first."""
        return self.distribution(state).quantile(level)

    def distribution(self, state: States) -> ActionDistribution:
        """Return the distribution that `sample` draws from at arbitrary states (..., d): atoms (..., K, m) and their weights."""
        found = self._between(*self._around(state))
        return ActionDistribution(self._allowed(state, found.actions), found.weights)

    def _between(self, cells: np.ndarray, shares: np.ndarray) -> ActionDistribution:
        """Return the displacement interpolation of neighbouring cells (..., C) with shares (..., C), or their vote."""
        if self.mixed:
            law, given = self._by_values
            votes, atoms, weights = law._between(cells, shares), [], []
            for number, (values, others) in enumerate(zip(law.actions[0], given, strict=True)):
                mass = np.where((votes.actions == values).all(axis=-1), votes.weights, 0.0).sum(axis=-1)
                found = others._between(cells, self._of_values(number, cells, shares))
                atoms.append(self._joined(values, found.actions))
                weights.append(mass[..., None] * found.weights)
            return ActionDistribution(np.concatenate(atoms, axis=-2), np.concatenate(weights, axis=-1))
        if self.categorical:
            ends = np.sort(self._reached[cells].reshape(*cells.shape[:-1], -1), axis=-1)
            steps = np.diff(ends, axis=-1, prepend=0.0)
            middles = ends - 0.5 * steps
            return ActionDistribution(self.actions[0][self._voted(cells[..., None, :], shares[..., None, :], middles)], steps)
        actions, heap = self._sorted
        flat = (*cells.shape[:-1], -1)
        if self.particles == 1:
            return ActionDistribution(np.einsum("...c,...cia->...ia", shares, actions[cells]), np.ones((*cells.shape[:-1], 1)))
        if self.action_dimension > 1:
            centre, low, high = (extent[cells][..., None, :] for extent in self._extent)
            middle = np.einsum("...c,...cia->...ia", shares, centre)[..., None, :, :]
            near = (shares > 0.0)[..., None, None]  # neighbours of no weight are none
            lowest = np.where(near, low, np.inf).min(axis=-3, keepdims=True)
            highest = np.where(near, high, -np.inf).max(axis=-3, keepdims=True)
            drawn = np.clip(actions[cells] - centre + middle, lowest, highest)
            weights = shares[..., None] * self.weights[cells]
            return ActionDistribution(drawn.reshape(*flat, self.action_dimension), weights.reshape(flat))
        # steps of the level u, within each of which every neighbour's quantile is one particle
        if (heap == heap[0]).all():
            ends, particle = heap[0], np.arange(self.particles)[:, None]
        else:
            ends = np.sort(heap[cells].reshape(flat), axis=-1)
            middles = ends - 0.5 * np.diff(ends, axis=-1, prepend=0.0)
            particle = (heap[cells][..., None, :, :] < middles[..., None, None]).sum(axis=-1)
        steps = np.broadcast_to(np.diff(ends, axis=-1, prepend=0.0), (*cells.shape[:-1], ends.shape[-1]))
        drawn = actions[cells[..., None, :], np.minimum(particle, self.particles - 1), 0]
        average = (shares[..., None, :] * drawn).sum(axis=-1)
        apart, shifted = self._range(drawn[..., None], shares[..., None, :]), self._range(self._extent[0][cells], shares)
        split = apart[..., 0] > _MODES * shifted
        if not split.any():
            return ActionDistribution(average[..., None], steps)
        atoms = np.where(split[..., None], drawn, average[..., None])
        weights = steps[..., None] * shares[..., None, :]
        return ActionDistribution(atoms.reshape(flat)[..., None], weights.reshape(flat))

    def mode(self, state: States) -> np.ndarray:
        """Return the most likely action at arbitrary states (..., d), (..., m), of a policy whose actions are values of a list.

        Beside other actions: the likeliest values, and the mean of the others where these are taken.
        Raises PolicyError for a policy without values: particles that are free to move say little one by one.
        """
        if not (self.categorical or self.mixed):
            raise PolicyError("only actions that are values of a list have a most likely one, take the mean or a quantile")
        cells, shares = self._around(state)
        if self.mixed:
            law, given = self._by_values
            number = np.einsum("...c,...ci->...i", shares, law.weights[cells]).argmax(axis=-1)
            result = np.empty((*number.shape, self.action_dimension))
            for k, (values, others) in enumerate(zip(law.actions[0], given, strict=True)):
                some = number == k
                near = self._of_values(k, cells[some], shares[some])
                result[some] = self._joined(values, np.einsum("kc,kca->ka", near, others.cell_mean()[cells[some]]))
            return self._allowed(state, result)
        likeliest: np.ndarray = self.actions[0][np.einsum("...c,...ci->...i", shares, self.weights[cells]).argmax(axis=-1)]
        return self._allowed(state, likeliest)

    @cached_property
    def _reached(self) -> np.ndarray:
        """Cumulative weights of every cell, (cells, N), of sum one exactly."""
        reached = np.cumsum(self.weights, axis=1)
        return reached / reached[:, -1:]

    def _voted(self, cells: np.ndarray, shares: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Return the numbers (...) of the values on which the neighbouring cells (..., C) agree at a level (...) in (0, 1].

        Every cell names the quantile of its own weights at that level, and the value of the largest share wins.
        """
        each = [(self._reached[cells[..., c]] < level[..., None]).sum(axis=-1) for c in range(cells.shape[-1])]
        named = np.minimum(np.stack(each, axis=-1), self.particles - 1)
        votes = (shares[..., None, :] * (named[..., :, None] == named[..., None, :])).sum(axis=-1)
        winner: np.ndarray = np.take_along_axis(named, votes.argmax(axis=-1)[..., None], axis=-1)[..., 0]
        return winner

    def _around(self, state: States) -> tuple[np.ndarray, np.ndarray]:
        """Return the neighbouring cells (..., 2^d) of states and their multilinear weights."""
        return self.grid.corners(state_array(state, self.grid.names))

    def sample(self, state: States, rng: np.random.Generator) -> np.ndarray:
        """Draw actions at arbitrary states (..., d), (..., m).

        Between cells the policy is their displacement interpolation, the barycentre in W2 with the multilinear weights: for
        one action component, the same quantile of every neighbouring cell (for one particle, its place), averaged. Where the
        neighbours differ in that quantile by more than in their means, it stands in different modes, whose shares vary from
        cell to cell: it is that of one neighbour then, drawn with its weight, and nothing is drawn between the modes. With
        several particles of several components the means are interpolated, and the deviation from its mean is drawn from a
        neighbouring cell: the same where the clouds differ by a shift, within the range of the neighbours' actions everywhere.
        Of values of a list every neighbour names its quantile, and that of the largest share is taken: cells that agree on a law
        keep it, and a choice that is certain changes half way between them. Other actions are then drawn, as above, from the
        neighbours that take these values.
        Where bounds depend on the state, what is drawn is clipped to those of the state.
        """
        return self._allowed(state, self._drawn(*self._around(state), rng))

    def _drawn(self, cells: np.ndarray, weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.mixed:
            law, given = self._by_values
            chosen = law._drawn(cells, weights, rng)
            result = self._joined(chosen, np.zeros((*chosen.shape[:-1], self.action_dimension - chosen.shape[-1])))
            for number, (values, others) in enumerate(zip(law.actions[0], given, strict=True)):
                some = (chosen == values).all(axis=-1)
                if some.any():
                    near = self._of_values(number, cells[some], weights[some])
                    result[some] = self._joined(values, others._drawn(cells[some], near, rng))
            return result
        # Simulated cost over J, by displacement, by mixture of the neighbours, and so: a swing-up that switches between bounds
        # (256 x 35 cells of the pendulum) +2 %, +10 %, +2 %; modes at -1 and 1 in shares that vary +66 %, +0.2 %, +0.2 to 3 %.
        actions, heap = self._sorted
        pick = (np.cumsum(weights, axis=-1) < rng.random(weights.shape[:-1])[..., None]).sum(axis=-1)
        pick = np.minimum(pick, weights.shape[-1] - 1)[..., None]
        quantile = rng.random(cells.shape[:-1])
        if self.categorical:
            # a value of no weight has no part of (0, 1]
            return np.asarray(self.actions[0][self._voted(cells, weights, 1.0 - quantile)])
        if self.action_dimension > 1 and self.particles > 1:
            cell = np.take_along_axis(cells, pick, axis=-1)[..., 0]
            particle = (heap[cell] < quantile[..., None]).sum(axis=-1)
            centre, low, high = self._extent
            drawn = actions[cell, np.minimum(particle, self.particles - 1)] - centre[cell]
            drawn = drawn + np.einsum("...c,...ca->...a", weights, centre[cells])
            near = (weights > 0.0)[..., None]  # neighbours of no weight are none
            ends = np.where(near, low[cells], np.inf).min(axis=-2), np.where(near, high[cells], -np.inf).max(axis=-2)
            return np.clip(drawn, *ends)
        particle = (heap[cells] < quantile[..., None, None]).sum(axis=-1)
        drawn = actions[cells, np.minimum(particle, self.particles - 1)]
        average = np.einsum("...c,...ca->...a", weights, drawn)
        if self.particles == 1:
            return np.asarray(average)
        # neighbours of no weight are none
        apart, shifted = (self._range(values, weights) for values in (drawn, self._extent[0][cells]))
        own = np.take_along_axis(drawn, pick[..., None], axis=-2)[..., 0, :]
        return np.where(apart > _MODES * shifted, own, average)

    @staticmethod
    def _range(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the range of values (..., C, m) over the neighbours that have weight (..., C), (..., m)."""
        near = (weights > 0.0)[..., None]
        result: np.ndarray = np.where(near, values, -np.inf).max(axis=-2) - np.where(near, values, np.inf).min(axis=-2)
        return result

    @cached_property
    def _extent(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, least and largest action of every cell, each (cells, m)."""
        return self.cell_mean(), self.actions.min(axis=1), self.actions.max(axis=1)

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Actions and cumulative weights of every cell, in ascending order where there is one action component."""
        if self.action_dimension > 1:
            return self.actions, np.cumsum(self.weights, axis=1)
        order = np.argsort(self.actions[:, :, 0], axis=1, kind="stable")
        weights = np.take_along_axis(self.weights, order, axis=1)
        return np.take_along_axis(self.actions, order[:, :, None], axis=1), np.cumsum(weights, axis=1)

    @classmethod
    def around(
        cls, grid: StateGrid, centre: np.ndarray, offsets: np.ndarray | None = None, weights: np.ndarray | None = None
    ) -> ParticlePolicy:
        """Return the policy a_ki = centre_k + offset_i: the same cloud around a feedback in every cell.

        centre (cells, m), offsets (particles, m), weights (particles,), equal by default; without offsets one particle
        stands on the feedback.
        """
        centre = np.asarray(centre, dtype=float)
        cloud = np.zeros((1, centre.shape[1])) if offsets is None else np.asarray(offsets, dtype=float)
        shares = np.full(len(cloud), 1.0 / len(cloud)) if weights is None else np.asarray(weights, dtype=float)
        return cls(grid, centre[:, None, :] + cloud, np.tile(shares, (grid.size, 1)))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> ParticlePolicy:
        """Read the last stored particle policy from a result file; raise PolicyError for another kind (see `Policy.load`)."""
        with ResultFile(path) as file:
            if "trajectory" not in file.series:
                raise PolicyError(f"'{path}' holds no particle policy, use wassgrid.Policy.load")
            return cls.from_result(file)

    @classmethod
    def from_result(cls, file: ResultFile, frame: int = -1) -> ParticlePolicy:
        """Build the policy of one stored frame of an open result file.  Raises StorageError where it holds none."""
        grid = StateGrid(file.state_names, file.axes, file.boundaries)
        weights, actions = file.frame("weights", frame), file.frame("actions", frame)
        fits = weights.shape[:-1] == grid.shape and actions.shape[: weights.ndim] == weights.shape
        if not (fits and grid.axes and actions.size > 0):
            raise StorageError(f"'{file.path}': the particles of a frame do not fit its {' x '.join(map(str, grid.shape))} cells")
        try:
            weights = weights.reshape(grid.size, -1)
            text = file.case_text
            listed, limits = listed_of(text), limits_of(text, grid.names)
            mixed = listed if not all(listed) else ()
            names = tuple({} if numbers is None else numbers for numbers in values_of(text))
            return cls(grid, actions.reshape(*weights.shape, -1), weights, bool(listed) and not mixed, limits, mixed, names)
        except PolicyError as error:
            raise StorageError(f"'{file.path}' holds no policy: {error}") from error

    def law_from(self, file: ResultFile) -> np.ndarray:
        """Read the last stationary law (cells,) of an open result file.  Raises StorageError where it is none on this grid."""
        law: np.ndarray = file.frame("stationary").ravel()
        if law.size != self.grid.size or not np.isfinite(law).all() or not (law > 0).any():
            raise StorageError(f"'{file.path}': its stationary law is none on the cells of its grid")
        return law


def listed_of(case_text: str) -> tuple[bool, ...]:
    """Tell which actions (m,) of a resolved case take values of lists (`actions.NAME.values`); empty where none does."""
    listed = tuple(names is not None for names in values_of(case_text))
    return listed if any(listed) else ()


def values_of(case_text: str) -> tuple[dict[float, str] | None, ...]:
    """Return the names of the values of every action (m) of a resolved case, which may be none; None for one between bounds.

    Empty where the text is that of no case.
    """
    result: list[dict[float, str] | None] = []
    try:
        tables = tomllib.loads(case_text)
        for key, table in tables.get("actions", {}).items():
            _, letter = split_family(key) or (key, None)
            count = 1 if letter is None else int(tables["indices"][letter]["count"])
            values = table.get("values")
            named = {float(number): str(name) for name, number in values.items()} if isinstance(values, dict) else {}
            result += [None if values is None else named] * count
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return ()
    return tuple(result)


def limits_of(case_text: str, states: Sequence[str]) -> ActionLimits | None:
    """Return the bounds of the actions of a resolved case where they depend on its states, else None.

    Raises PolicyError where the text says no such bounds of actions.
    """
    try:
        tables = tomllib.loads(case_text)
        given = [table.get("bounds") for table in tables["actions"].values()]
    except (ValueError, RecursionError, AttributeError, KeyError):
        return None
    moving = any(isinstance(end, str) for ends in given if isinstance(ends, list) for end in ends)
    if not moving and not any("allowed" in table for table in tables["actions"].values()):
        return None
    from wassgrid.case.statement import stated_limits

    try:
        return stated_limits(tables, states)
    except ValueError as error:
        raise PolicyError(f"its case is not valid: {error}") from error


def _drawn_in(grid: StateGrid, draw: Callable[[tuple[int, ...]], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Return random numbers (cells, *shape) for the cells of a grid, for a cell of a slab those that it has in the whole grid."""
    whole = grid.whole.size
    if whole == grid.size:
        return draw((whole, *shape))
    numbers, parts = grid.numbers, []
    for start in range(0, whole, _DRAWN_AT_ONCE):
        some = draw((min(_DRAWN_AT_ONCE, whole - start), *shape))
        low, high = np.searchsorted(numbers, [start, start + len(some)])
        parts.append(some[numbers[low:high] - start])
    return np.concatenate(parts)


def initial_policy(case: Case, grid: StateGrid) -> ParticlePolicy:
    """Draw the initial policy of a case: independent particles in every cell, moved onto the action bounds.

    `normal` draws N(mean(s), std^2), `uniform` draws over the bounds (or low..high), `even` puts them at equal distances from
    one end to the other (of several actions: on a product of such points), `point` puts every particle on mean(s). The same
    seed gives the same policy on the same grid. Where all actions have values, one particle stands on each; where some have,
    their combinations are dealt out to the particles in turn, and the others are drawn.
    """
    problem, settings = case.problem, case.policy
    weights = np.asarray(settings.weights or np.ones(settings.particles), dtype=float)
    weights = weights / weights.max()  # their sum may overflow
    weights = np.tile(weights / weights.sum(), (grid.size, 1))
    if problem.choices is not None:
        return ParticlePolicy.of(problem, grid, np.tile(problem.choices, (grid.size, 1, 1)), weights)
    rng = np.random.default_rng(settings.seed)
    low, high = (limit[:, None] for limit in problem.limits_at(grid.states))
    shape = (grid.size, settings.particles, problem.action_dimension)
    centre, spread, bottom, top = case.initial_tables(grid.states)
    if settings.initial.distribution == "normal":
        actions = centre[:, None, :] + spread[:, None, :] * _drawn_in(grid, rng.standard_normal, shape[1:])
    elif settings.initial.distribution == "uniform":
        actions = bottom[:, None, :] + (top - bottom)[:, None, :] * _drawn_in(grid, rng.random, shape[1:])
    elif settings.initial.distribution == "even":
        sliding = np.flatnonzero(~problem.listed)
        side = round((settings.particles / len(problem.combinations)) ** (1.0 / sliding.size))
        share = np.linspace(0.0, 1.0, side) if side > 1 else np.array([0.5])
        product = np.zeros((side**sliding.size, shape[2]))
        product[:, sliding] = np.stack(np.meshgrid(*[share] * sliding.size, indexing="ij"), axis=-1).reshape(-1, sliding.size)
        product = np.repeat(product, len(problem.combinations), axis=0)
        actions = bottom[:, None, :] + (top - bottom)[:, None, :] * product
    else:
        actions = np.repeat(centre[:, None, :], settings.particles, axis=1)
    actions = np.clip(actions, low, high)
    if problem.mixed:
        numbers = np.arange(settings.particles) % len(problem.combinations)
        actions = problem.chosen(actions, problem.combinations[numbers])
    policy = ParticlePolicy.of(problem, grid, actions, weights)
    return policy if settings.blobs is None else policy.of_blobs(Blobs.even(case, grid.states))
