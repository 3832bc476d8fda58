"""Gymnasium both ways: a case as an environment, and a policy in an environment of someone else's.

Needs the extra `gymnasium`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from wassgrid.errors import PackageMissingError, WassgridError
from wassgrid.policy import ParticlePolicy
from wassgrid.problem.compilation import compile_functions
from wassgrid.problem.expression import ExpressionError, Scope, parse
from wassgrid.problem.names import remedy

if TYPE_CHECKING:
    import gymnasium

    from wassgrid.case import Case
    from wassgrid.case_environment import CaseEnvironment

_TOGETHER = 250  # episodes that are stepped side by side

Observe = Callable[[np.ndarray], np.ndarray]
Bounds = tuple[float, float]


class EnvironmentMismatchError(WassgridError, ValueError):
    """An environment that cannot be had, or that does not go with a policy; one line with the remedy."""


class _Acting(Protocol):
    def mean(self, state: np.ndarray) -> np.ndarray: ...
    def sample(self, state: np.ndarray, rng: np.random.Generator) -> np.ndarray: ...


@dataclass(frozen=True)
class Returns:
    """Hold the undiscounted returns (episodes,) of a policy in an environment, episode k begun with seed `seed` + k."""

    environment: str
    returns: np.ndarray
    seed: int

    def __repr__(self) -> str:
        return f"<Returns of {self.returns.size} episodes of {self.environment}: {self.mean:.6g} +- {self.standard_error:.2g}>"

    @property
    def mean(self) -> float:
        return float(self.returns.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean; nan for one episode."""
        return float(self.returns.std(ddof=1) / np.sqrt(self.returns.size)) if self.returns.size > 1 else float("nan")

    def describe(self) -> str:
        """Say it in two lines."""
        last = self.seed + self.returns.size - 1
        shares = zip(_SHARES, np.quantile(self.returns, _SHARES), strict=True)
        return (
            f"return       {self.mean:.6g} +- {self.standard_error:.2g} (standard error; {self.returns.size} episodes of "
            f"{self.environment}, seeds {self.seed} to {last})\n"
            f"quantiles    {', '.join(f'{share:.0%} {value:.6g}' for share, value in shares)}"
        )


_SHARES = (0.0, 0.1, 0.5, 0.9, 1.0)


def make_env(case: Case, steps: int = 200, bounds: Bounds | Mapping[str, Bounds] | None = None) -> CaseEnvironment:
    """Return a case as a `gymnasium.Env`: observations are the states, rewards are minus the stage cost.

    steps: after which an episode is truncated. It terminates at the goal of the case, whose cost the last reward has in it;
    without one never. bounds: (low, high) of every action, or by name, in place of
    the case's and within them; actions without bounds are none for most libraries of reinforcement learning
    (Stable-Baselines3 refuses them). Where bounds depend on the state the space, which cannot, has the ends that hold them all,
    and actions are clipped to those of the state. Actions with values are `Discrete`: the number of the value, of several actions
    that of their combination, the last one fastest. Beside actions between bounds they are parts of a `Dict`, by name: the number
    of the value, or a number between bounds. `reset` draws the state from the start law, evenly from the domain by
    default, or takes options={"state": (d,) array or {name: value}}; where the domain has no ends, from a standard normal law
    about 0.

    ```python
    env = wg.make_env(wg.Case.load("pendulum.toml"))
    observation, info = env.reset(seed=1)
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    ```
    Raises PackageMissingError without Gymnasium, EnvironmentMismatchError for no steps or such bounds; `reset` StateError.
    """
    _gymnasium()
    if steps < 1:
        raise EnvironmentMismatchError(f"steps: expected at least 1, got {steps}")
    from wassgrid.case_environment import CaseEnvironment

    problem = case.problem
    own = _bounded(problem.action_names, problem.action_bounds, bounds, problem.listed)
    return CaseEnvironment(problem, steps, own)


def _bounded(
    names: Sequence[str], own: np.ndarray, bounds: Bounds | Mapping[str, Bounds] | None, listed: np.ndarray
) -> np.ndarray:
    """Return the bounds (m, 2) of actions: those given, all or by name, in place of a problem's own.

    listed (m,): which take values of a list in place of bounds.
    """
    if bounds is None:
        return own
    if listed.all():
        raise EnvironmentMismatchError("bounds: the actions of the case take values of a list, none between bounds")
    sliding = [name for name, values in zip(names, listed, strict=True) if not values]
    given = bounds if isinstance(bounds, Mapping) else dict.fromkeys(sliding, bounds)
    found = own.copy()
    for name, ends in given.items():
        if name not in names:
            raise EnvironmentMismatchError(f"bounds: unknown action {name!r:.60}{remedy(str(name), names)}")
        k = names.index(name)
        if listed[k]:
            raise EnvironmentMismatchError(f"bounds.{name}: it takes values of a list, none between bounds: leave it out")
        try:
            low, high = (float(end) for end in ends)
        except (TypeError, ValueError):
            raise EnvironmentMismatchError(f"bounds.{name}: expected two numbers (low, high), got {ends!r:.60}") from None
        if not own[k, 0] <= low < high <= own[k, 1] or not np.isfinite(high - low):
            raise EnvironmentMismatchError(
                f"bounds.{name}: expected finite low < high within those of the case, [{own[k, 0]:g}, {own[k, 1]:g}], "
                f"got ({low:g}, {high:g})"
            )
        found[k] = low, high
    return found


def evaluate(
    policy: _Acting,
    env: str | Callable[[], gymnasium.Env],
    episodes: int = 100,
    seed: int = 0,
    observe: Observe | Mapping[str, str] | None = None,
    states: Sequence[str] = (),
    sample: bool = False,
) -> Returns:
    """Run a policy in an environment and return what its episodes brought.

    policy: with `mean` and `sample` of states (K, d); actions (K, m) are clipped to the environment's. env: the name of a
    registered environment, or a function that makes one. observe: from observations (K, n) to the policy's states (K, d); or
    texts of the numbers o0, o1, ... that are observed, one per state, as expressions of case files; by default the observations
    are the states. states: the names of the texts in the policy's order; by default their own order. sample: draw actions
    instead of taking the mean.

    ```python
    policy = wg.Policy.load("pendulum.h5")
    wg.evaluate(policy, "Pendulum-v1", observe={"theta": "atan2(o1, o0)", "omega": "o2"}).mean
    ```
    Raises EnvironmentMismatchError; PackageMissingError without Gymnasium.
    """
    if episodes < 1:
        raise EnvironmentMismatchError(f"episodes: expected at least 1, got {episodes}")
    name, make = (env, lambda: _made(env)) if isinstance(env, str) else (getattr(env, "__name__", "the environment"), env)
    envs: list[gymnasium.Env] = [make() for _ in range(min(episodes, _TOGETHER))]
    rng = np.random.default_rng(seed)
    try:
        if envs[0].spec is not None and not isinstance(env, str):
            name = envs[0].spec.id
        take = _taker(envs[0], name, policy, sample, rng)
        size = _observed(envs[0], name)
        see = _adapter(observe, states, size, name)
        returns = np.zeros(episodes)
        for start in range(0, episodes, len(envs)):
            count = min(len(envs), episodes - start)
            seen = [np.ravel(envs[k].reset(seed=seed + start + k)[0]) for k in range(count)]
            going = np.arange(count)
            while going.size:
                at = see(np.asarray(seen, dtype=float))
                kept, seen = [], []
                for k, action in zip(going, take(at), strict=True):
                    observation, reward, terminated, truncated, _ = envs[k].step(action)
                    returns[start + k] += float(reward)
                    if not (terminated or truncated):
                        kept.append(k)
                        seen.append(np.ravel(observation))
                going = np.array(kept, dtype=int)
    finally:
        for one in envs:
            one.close()
    return Returns(name, returns, seed)


def evaluate_file(path: str | PathLike[str], env: str, episodes: int, seed: int, observe: Sequence[str]) -> Returns:
    """Evaluate the last policy of a result file; observe: texts "STATE=EXPRESSION".  Raises as `evaluate`, and StorageError."""
    from wassgrid.case.stored import case_of
    from wassgrid.load_policy import load_policy
    from wassgrid.storage import ResultFile

    texts = {}
    for text in observe:
        name, equals, expression = text.partition("=")
        if not equals:
            raise EnvironmentMismatchError(f"--observe {text!r}: expected STATE=EXPRESSION, for instance angle=atan2(o1, o0)")
        texts[name.strip()] = expression
    with ResultFile(path) as result:
        states = case_of(result).problem.state_names
    return evaluate(load_policy(path), env, episodes, seed, texts, states)


def adapter(texts: Mapping[str, str], states: Sequence[str], size: int) -> Observe:
    """Compile texts of the observed numbers o0 ... o(size - 1), one per state, to a function of observations (K, size) that gives
    states (K, d).  Raises EnvironmentMismatchError."""
    import sympy as sp

    for name in texts:
        if name not in states:
            raise EnvironmentMismatchError(f"observe.{name}: the policy's states are {', '.join(states)}")
    if missing := [name for name in states if name not in texts]:
        raise EnvironmentMismatchError(f"observe.{missing[0]}: missing; give an expression of {_observations(size)}")
    symbols = [sp.Symbol(f"o{k}", real=True) for k in range(size)]
    scope = Scope(values={symbol.name: symbol for symbol in symbols})
    expressions = []
    for name in states:
        try:
            expressions.append(parse(texts[name], scope))
        except ExpressionError as error:
            raise EnvironmentMismatchError(f"observe.{name}: {error}") from None
    function = compile_functions(symbols, expressions)
    return lambda seen: np.stack(function(*np.ascontiguousarray(seen.T)), axis=1)


def _adapter(observe: Observe | Mapping[str, str] | None, states: Sequence[str], size: int, name: str) -> Observe:
    if callable(observe):
        return observe
    if observe:
        return adapter(observe, list(states) or list(observe), size)
    if states and len(states) != size:
        raise EnvironmentMismatchError(
            f"{name} observes {_observations(size)}, the policy's states are {', '.join(states)}: give an expression of each, "
            f"for instance --observe {states[0]}=o0"
        )
    return lambda seen: seen


def _observations(size: int) -> str:
    return "the number o0" if size == 1 else f"{size} numbers, o0 to o{size - 1}"


def _gymnasium() -> Any:
    try:
        import gymnasium
    except ImportError:
        raise PackageMissingError('environments need Gymnasium: pip install "wassgrid[gymnasium]"') from None
    return gymnasium


def _made(name: str) -> gymnasium.Env:
    library = _gymnasium()
    try:
        made: gymnasium.Env = library.make(name)
    except (library.error.Error, ImportError) as error:
        raise EnvironmentMismatchError(f"environment {name!r}: {' '.join(str(error).split())}") from None
    return made


def _taker(
    env: gymnasium.Env, name: str, policy: _Acting, sample: bool, rng: np.random.Generator
) -> Callable[[np.ndarray], Sequence[Any]]:
    """Return what gives an environment its actions at states (K, d).

    Policies on values of a list give the likeliest, and to `Discrete` spaces its number in the list; to the `Dict` of a case with
    other actions beside what `CaseEnvironment.told` makes of it.
    """
    listed = policy if isinstance(policy, ParticlePolicy) and (policy.categorical or policy.mixed) else None

    def chosen(at: np.ndarray) -> np.ndarray:
        if listed is not None and not sample:
            return listed.mode(at)
        return np.asarray(policy.sample(at, rng) if sample else policy.mean(at), dtype=float)

    space = env.action_space
    if isinstance(space, _gymnasium().spaces.Discrete):
        if listed is None or listed.mixed:
            raise EnvironmentMismatchError(
                f"{name} takes actions of the kind Discrete, the policy gives numbers: solve a case with actions.NAME.values"
            )
        values, first = listed.actions[0], int(space.start)
        if len(values) != space.n:
            raise EnvironmentMismatchError(
                f"{name} takes {space.n} different actions, the policy {len(values)}: they must be the same, in order"
            )

        def numbers(at: np.ndarray) -> Sequence[Any]:
            return [first + int(k) for k in (chosen(at)[:, None, :] == values).all(axis=2).argmax(axis=1)]

        return numbers
    if isinstance(space, _gymnasium().spaces.Dict) and hasattr(env.unwrapped, "told"):
        tell = env.unwrapped.told

        def parts(at: np.ndarray) -> Sequence[Any]:
            return [tell(action) for action in chosen(at)]

        return parts
    low, high, shape, kind = _action_box(env, name)

    def clipped(at: np.ndarray) -> Sequence[Any]:
        actions = chosen(at)
        if actions.shape != (len(at), low.size):
            raise EnvironmentMismatchError(
                f"{name} takes {low.size} actions, the policy has {actions.shape[-1]}: they must be the same, in order"
            )
        return [action.reshape(shape).astype(kind) for action in np.clip(actions, low, high)]

    return clipped


def _action_box(env: gymnasium.Env, name: str) -> tuple[np.ndarray, np.ndarray, tuple[int, ...], Any]:
    space = env.action_space
    if not isinstance(space, _gymnasium().spaces.Box):
        raise EnvironmentMismatchError(f"{name} takes actions of the kind {type(space).__name__}; policies give numbers (Box)")
    return np.ravel(space.low).astype(float), np.ravel(space.high).astype(float), space.shape, space.dtype


def _observed(env: gymnasium.Env, name: str) -> int:
    space = env.observation_space
    if not isinstance(space, _gymnasium().spaces.Box):
        raise EnvironmentMismatchError(f"{name} observes {type(space).__name__}; policies take numbers (Box)")
    return int(np.prod(space.shape))
