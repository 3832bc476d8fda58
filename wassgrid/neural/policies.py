"""Policies as push-forward maps: a = T_theta(s, z) with z ~ N(0, I), so that pi_s is the law of T_theta(s, .).

T_theta(s, z) = squash(base(s) + A x + network(x)), x the scaled inputs: each state minus an offset over a scale, a
periodic state as sine and cosine of its angle, then z itself. The network's last layer and A start at zero, so a run
starts from the base policy exactly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

SHARPNESS = (4.0, 12.0)  # of the squash, at the first step of a run and at the last one
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
    "softplus": jax.nn.softplus,
    "relu": jax.nn.relu,
}


class PushForwardPolicy(eqx.Module):
    """The map T: parameters theta (parameter_count,), states (..., d), latents (..., l) -> actions (..., m).

    `offset` and `scale` (d,) are the inputs' units (unused for periodic states); `low` and `high` (m,) the action
    bounds, infinite where there is none. `base` maps states (..., d) to the actions (..., m) a run starts from, None
    meaning 0. `sharpness` (): the power p of `soft_clip` between two bounds, None for a tanh.
    """

    offset: Array
    scale: Array
    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)
    periodic: tuple[tuple[int, float, float], ...] = eqx.field(static=True)  # (state, lower end, period)
    hidden: tuple[int, ...] = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    linear_path: bool = eqx.field(static=True)
    latent_dimension: int = eqx.field(static=True)
    base: Callable[[Array], Array] | None = eqx.field(static=True, default=None)
    sharpness: Array | None = None

    @property
    def state_dimension(self) -> int:
        return int(self.offset.shape[0])

    @property
    def action_dimension(self) -> int:
        return len(self.low)

    @property
    def input_dimension(self) -> int:
        return self.state_dimension + len(self.periodic) + self.latent_dimension

    def parameter_shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of A (if there is a linear path), then weight and bias of each layer, input side first."""
        shapes: list[tuple[int, ...]] = []
        if self.linear_path:
            shapes.append((self.input_dimension, self.action_dimension))
        if self.hidden:
            widths = (self.input_dimension, *self.hidden, self.action_dimension)
            for fan_in, fan_out in itertools.pairwise(widths):
                shapes += [(fan_in, fan_out), (fan_out,)]
        else:
            shapes.append((self.action_dimension,))
        return shapes

    @property
    def parameter_count(self) -> int:
        return sum(math.prod(shape) for shape in self.parameter_shapes())

    def initial_parameters(self, key: Array) -> Array:
        """Draw theta (parameter_count,): hidden weights N(0, 1/fan_in) (LeCun), everything else zero."""
        shapes = self.parameter_shapes()
        return drawn(key, shapes, range(1 if self.linear_path else 0, len(shapes) - 2), self.scale.dtype)

    def inputs(self, states: Array, latents: Array) -> Array:
        """Return the network's inputs (..., input_dimension) at states (..., d) and latents (..., l)."""
        columns = [(states - self.offset) / self.scale]
        if self.periodic:
            index = np.array([state for state, _, _ in self.periodic])
            low = np.array([low for _, low, _ in self.periodic], self.scale.dtype)
            rate = np.array([2 * math.pi / period for _, _, period in self.periodic], self.scale.dtype)
            angles = (states[..., index] - low) * rate
            columns = [columns[0].at[..., index].set(jnp.sin(angles)), jnp.cos(angles)]
        if self.latent_dimension:
            columns.append(latents)
        return jnp.concatenate(columns, axis=-1) if len(columns) > 1 else columns[0]

    def __call__(self, parameters: Array, states: Array, latents: Array) -> Array:
        x = self.inputs(states, latents)
        arrays = cut(parameters, self.parameter_shapes())
        y = jnp.zeros((*x.shape[:-1], self.action_dimension), x.dtype)
        if self.linear_path:
            y = y + x @ arrays.pop(0)
        *layers, last = arrays
        if self.hidden:
            *layers, weight = layers
            last = passed(x, layers, self.activation) @ weight + last
        y = y + last
        if self.base is not None:
            y = y + self.base(states)
        return squash(y, self.low, self.high, self.sharpness)


def drawn(key: Array, shapes: list[tuple[int, ...]], hidden: range, dtype: Any) -> Array:
    """Draw parameters of these shapes, one after the other: weights of hidden layers N(0, 1/fan_in) (LeCun), all else zero.

    hidden: where the hidden layers stand among the shapes.
    """
    parts = []
    for index, shape in enumerate(shapes):
        if len(shape) == 2 and index in hidden:
            draw = jax.random.normal(jax.random.fold_in(key, index), shape, dtype)
            parts.append((draw / math.sqrt(shape[0])).ravel())
        else:
            parts.append(jnp.zeros(math.prod(shape), dtype))
    return jnp.concatenate(parts)


def cut(parameters: Array, shapes: list[tuple[int, ...]]) -> list[Array]:
    """Return the arrays of these shapes that follow each other in parameters (n,)."""
    arrays, start = [], 0
    for shape in shapes:
        size = math.prod(shape)
        arrays.append(parameters[start : start + size].reshape(shape))
        start += size
    return arrays


def passed(x: Array, layers: list[Array], activation: str) -> Array:
    """Return what hidden layers, weight and bias in turn, make of inputs x (..., n)."""
    for weight, bias in zip(layers[::2], layers[1::2], strict=True):
        x = ACTIVATIONS[activation](x @ weight + bias)
    return x


def sharpened(policy: PushForwardPolicy, step: ArrayLike, steps: int) -> PushForwardPolicy:
    """Return the policy as it is at a step of a run of `steps`: its sharpness rises in equal ratios from SHARPNESS[0] to [1].

    Blunt at first, where the gradient has to reach the states that stand on the wrong bound; sharp at last, since an optimal
    action between bounds is the clip of a smooth function wherever Q is smooth and convex in it.
    """
    if policy.sharpness is None:
        return policy
    first, last = SHARPNESS
    share = jnp.clip(jnp.asarray(step, policy.scale.dtype) / max(steps, 1), 0, 1)
    return replace(policy, sharpness=first * (last / first) ** share)


def soft_clip(z: Array, sharpness: Array) -> Array:
    """Return z/(1 + |z|^p)^(1/p): increasing, of slope one at 0, between -1 and 1, and the clip of z for p to infinity.

    Its slope falls like |z|^-(p+1), not exponentially: what has gone too far comes back.
    """
    is_near = jnp.abs(z) < 1
    inside, outside = jnp.where(is_near, z, 0), jnp.where(is_near, 1, jnp.abs(z))
    near = inside / (1 + jnp.abs(inside) ** sharpness) ** (1 / sharpness)
    far = jnp.sign(z) / (1 + outside**-sharpness) ** (1 / sharpness)
    return jnp.where(is_near, near, far)


def squash(y: Array, low: tuple[float, ...], high: tuple[float, ...], sharpness: Array | None = None) -> Array:
    """Map y (..., m) smoothly and increasingly into the box (low, high), with slope one in its middle.

    Both ends finite: centre + half width * tanh((y - centre)/half width), or `soft_clip` in place of tanh where a sharpness is
    given; one end finite: a softplus; none: y itself.
    """
    if not any(math.isfinite(bound) for bound in (*low, *high)):
        return y
    columns = []
    for k, (lower, upper) in enumerate(zip(low, high, strict=True)):
        column = y[..., k]
        if math.isfinite(lower) and math.isfinite(upper):
            centre, half = (lower + upper) / 2, (upper - lower) / 2
            inner = (column - centre) / half
            column = centre + half * (jnp.tanh(inner) if sharpness is None else soft_clip(inner, sharpness))
        elif math.isfinite(lower):
            column = lower + jax.nn.softplus(column - lower)
        elif math.isfinite(upper):
            column = upper - jax.nn.softplus(upper - column)
        columns.append(column)
    return jnp.stack(columns, axis=-1)
