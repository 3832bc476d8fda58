"""The policy that a neural run computed, as a function of NumPy arrays; and how a case describes its policy network."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike, NDArray

from wassgrid.action_distribution import ActionDistribution
from wassgrid.case.neural_tables import NeuralSettings
from wassgrid.grid import StateGrid
from wassgrid.neural.policies import SHARPNESS, PushForwardPolicy, sharpened
from wassgrid.policy import ParticlePolicy
from wassgrid.problem.compilation import compile_functions
from wassgrid.problem.control_problem import ProblemError
from wassgrid.problem.states import States, state_array

if TYPE_CHECKING:
    from sympy import Expr, Symbol

    from wassgrid.case import Case
    from wassgrid.storage import ResultFile

MEAN_DRAWS = 4096  # of z, for the mean of a stochastic policy
_ATOMS_LOG2 = 6  # of a stochastic policy in a cell
_AT_ONCE = 2**18  # actions that are computed together


@dataclass(frozen=True)
class NeuralPolicy:
    """A push-forward policy with its parameters (parameter_count,): a = T(s, z), z ~ N(0, I).

    Methods take one state or many, as an array (..., d) or as a dict by name. Raises StateError for others.
    """

    transport: PushForwardPolicy
    parameters: NDArray[np.floating]
    precision: str
    state_names: tuple[str, ...]

    @property
    def state_dimension(self) -> int:
        return self.transport.state_dimension

    @property
    def action_dimension(self) -> int:
        return self.transport.action_dimension

    def mean(self, state: States) -> NDArray[np.float64]:
        """Return the mean action at states (..., d), (..., m).

        Of a stochastic policy it is the mean over 4096 fixed draws of z, in pairs z, -z: exact where T is linear in z.
        """
        states = state_array(state, self.state_names)
        if self.transport.latent_dimension == 0:
            return self._act(states, np.zeros((*states.shape[:-1], 0)))
        with _precision(self.precision):
            dtype = self.transport.scale.dtype
            draws = jnp.asarray(self._draws, dtype)
            mean = _mean_action(self.transport, jnp.asarray(self.parameters), jnp.asarray(states, dtype), draws)
            return np.asarray(mean, dtype=np.float64)

    def sample(self, state: States, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw actions at states (..., d), (..., m)."""
        states = state_array(state, self.state_names)
        return self._act(states, rng.standard_normal((*states.shape[:-1], self.transport.latent_dimension)))

    def std(self, state: States) -> NDArray[np.float64]:
        """Return the standard deviation of every action component, (..., m), over the draws of `distribution`."""
        return self.distribution(state).std()

    def quantile(self, state: States, level: ArrayLike) -> NDArray[np.float64]:
        """Return the quantile of every action component, (..., m), over the draws of `distribution`; axes of levels first."""
        return self.distribution(state).quantile(level)

    def distribution(self, state: States) -> ActionDistribution:
        """Return the distribution at states (..., d) as equal atoms: 4096 fixed draws of z, or one where the policy has no z."""
        states = state_array(state, self.state_names)
        draws = self._draws if self.transport.latent_dimension else np.zeros((1, 0))
        shape = (*states.shape[:-1], len(draws))
        repeated = np.broadcast_to(states[..., None, :], (*shape, self.state_dimension))
        atoms = self._act(repeated, np.broadcast_to(draws, (*shape, self.transport.latent_dimension)))
        return ActionDistribution(atoms, np.full(shape, 1.0 / len(draws)))

    def on_grid(self, grid: StateGrid) -> ParticlePolicy:
        """Return this policy in the cells of a grid: its action there, or 64 of equal weight where it is stochastic.

        They are T(s, z) at normal quantiles z of a Sobol sequence in the middle of its intervals, whose mean is zero.
        """
        latents = np.zeros((1, 0))
        if self.transport.latent_dimension:
            from scipy.special import ndtri
            from scipy.stats.qmc import Sobol  # takes 0.3 s

            unit = Sobol(self.transport.latent_dimension, scramble=False).random_base2(_ATOMS_LOG2) + 0.5 ** (_ATOMS_LOG2 + 1)
            latents = ndtri(unit)
        actions = np.empty((grid.size, len(latents), self.action_dimension))
        for cells in np.array_split(np.arange(grid.size), -(-grid.size * len(latents) // _AT_ONCE)):
            states = np.repeat(grid.states[cells], len(latents), axis=0)
            actions[cells] = self._act(states, np.tile(latents, (cells.size, 1))).reshape(cells.size, len(latents), -1)
        return ParticlePolicy(grid, actions, np.full(actions.shape[:2], 1.0 / len(latents)))

    @property
    def _draws(self) -> NDArray[np.float64]:
        """Fixed draws of z in pairs z, -z, (4096, latent dimension)."""
        half = np.random.default_rng(0).standard_normal((MEAN_DRAWS // 2, self.transport.latent_dimension))
        return np.concatenate([half, -half])

    def _act(self, state: ArrayLike, latents: NDArray[np.float64]) -> NDArray[np.float64]:
        with _precision(self.precision):
            dtype = self.transport.scale.dtype
            actions = _act(self.transport, jnp.asarray(self.parameters), jnp.asarray(state, dtype), jnp.asarray(latents, dtype))
            return np.asarray(actions, dtype=np.float64)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> NeuralPolicy:
        """Read the last stored policy from a result file.  Raises StorageError."""
        from wassgrid.storage import ResultFile

        with ResultFile(path) as result:
            return cls.from_result(result)

    @classmethod
    def from_result(cls, result: ResultFile, frame: int = -1) -> NeuralPolicy:
        """Build the policy of one stored frame of an open result file.  Raises StorageError where there is none."""
        from wassgrid.case.stored import case_of
        from wassgrid.runs.loop import require_arrays
        from wassgrid.storage import StorageError

        checkpoint = result.checkpoint
        if checkpoint is None or "neural" not in result.series or len(result.steps("neural")) == 0:
            raise StorageError(f"'{result.path}' holds no neural policy yet")
        case = case_of(result)
        settings = case.neural or NeuralSettings.model_validate({})
        units = (case.problem.state_dimension,)
        require_arrays(checkpoint, {"input_offset": units, "input_scale": units})
        blueprint = as_stored(blueprint_of(case, settings), checkpoint)
        transport = with_units(blueprint, checkpoint["input_offset"], checkpoint["input_scale"])
        with precision(settings):
            transport = sharpened(transport, int(result.steps("neural")[frame]), settings.steps)
        parameters = np.asarray(result.record("neural", frame)["parameters"])
        return cls(transport, parameters.astype(transport.scale.dtype), settings.precision, case.problem.state_names)


def blueprint_of(case: Case, settings: NeuralSettings) -> PushForwardPolicy:
    """Return the policy network of a case, its inputs in units of the domain or in the states' own.

    The base policy is policy.initial.mean.  Raises ProblemError where a domain is missing.
    """
    problem = case.problem
    periodic = tuple(
        (k, float(low), float(high - low))
        for k, ((low, high), boundary) in enumerate(zip(problem.domain, problem.boundary, strict=True))
        if boundary == "periodic"
    )
    offset, scale = np.zeros(problem.state_dimension), np.ones(problem.state_dimension)
    if settings.input_scale == "domain":
        for k, (low, high) in enumerate(problem.domain):
            if not (math.isfinite(low) and math.isfinite(high)):
                raise ProblemError(
                    f'states.{problem.state_names[k]}.domain: missing, neural.input_scale = "domain" needs two numbers'
                )
            offset[k], scale[k] = (low + high) / 2, (high - low) / 2
    dtype = np.float64 if settings.precision == "float64" else np.float32
    with precision(settings):
        return PushForwardPolicy(
            offset=jnp.asarray(offset, dtype),
            scale=jnp.asarray(scale, dtype),
            low=tuple(float(low) for low in problem.action_bounds[:, 0]),
            high=tuple(float(high) for high in problem.action_bounds[:, 1]),
            periodic=periodic,
            hidden=settings.hidden,
            activation=settings.activation,
            linear_path=settings.linear_path,
            latent_dimension=settings.latent_dimension,
            base=_base_policy(case),
            sharpness=None if settings.squash == "tanh" else jnp.asarray(SHARPNESS[0], dtype),
        )


def as_stored(policy: PushForwardPolicy, checkpoint: Mapping[str, Any]) -> PushForwardPolicy:
    """Return the policy with the squash of a stored run: those of earlier versions had a tanh, and do not say so."""
    return policy if "sharpness" in checkpoint else replace(policy, sharpness=None)


def with_units(policy: PushForwardPolicy, offset: ArrayLike, scale: ArrayLike) -> PushForwardPolicy:
    """Return the policy with other input units, in its own precision."""
    offset, scale = (np.asarray(x, dtype=policy.scale.dtype) for x in (offset, scale))
    with jax.enable_x64(policy.scale.dtype == np.float64):
        return replace(policy, offset=jnp.asarray(offset), scale=jnp.asarray(scale))


def precision(settings: NeuralSettings) -> contextlib.AbstractContextManager[None]:
    """Run a block in the case's precision, whatever the caller's."""
    return _precision(settings.precision)


@contextlib.contextmanager
def _precision(name: str) -> Iterator[None]:
    with jax.enable_x64(name == "float64"):
        yield


@jax.jit
def _act(policy: PushForwardPolicy, parameters: Array, states: Array, latents: Array) -> Array:
    return policy(parameters, states, latents)


@jax.jit
def _mean_action(policy: PushForwardPolicy, parameters: Array, states: Array, draws: Array) -> Array:
    def add(total: Array, z: Array) -> tuple[Array, None]:
        return total + policy(parameters, states, jnp.broadcast_to(z, (*states.shape[:-1], z.size))), None

    total, _ = jax.lax.scan(add, jnp.zeros((*states.shape[:-1], policy.action_dimension), states.dtype), draws)
    return total / draws.shape[0]


class _Base:
    """policy.initial.mean as a function of states (..., d); equal for equal cases, so that nothing is compiled twice."""

    def __init__(self, states: tuple[Symbol, ...], expressions: list[Expr]) -> None:
        self._identity = states, tuple(expressions)
        self._function = compile_functions(states, expressions, "jax")

    def __call__(self, states: Array) -> Array:
        return jnp.stack(self._function(*jnp.moveaxis(states, -1, 0)), axis=-1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Base) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)


def _base_policy(case: Case) -> _Base | None:
    given = case.policy.initial.mean
    if given is None:
        return None
    expressions = case.problem.feedback_expressions("policy.initial.mean", given)
    return None if all(expression == 0 for expression in expressions) else _Base(case.problem.model.scalars.states, expressions)
