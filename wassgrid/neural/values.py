"""A learnt value function V_phi(s), and its fit to the adjoints of the chains.

V(s) = unit (b'x + x'Bx + network(x)), x the policy's inputs without its noise, `unit` of the size of the cost; `quadratic` leaves
the network out. All of it starts at zero.

Of V only its slopes enter the gradient of the cost, and reverse mode gives samples of them: where L holds the costs from step t
on and what V says of the rest (the lambda-returns of `ergodic.simulate`), dL/ds_t is an unbiased sample of grad V(s_t) once V is
right. The fit is one Gauss and Newton step of

    E |scale (grad V_phi(s_t) - dL/ds_t)|^2

along a window, the same damped least squares as the natural gradient, taken in part: what is left of earlier windows averages
the noise. Source: value gradients (Fairbank and Alonso 2012); lambda-returns (Sutton 1988).
"""

from __future__ import annotations

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from wassgrid.neural.metric import conjugate_gradients, tangent
from wassgrid.neural.policies import PushForwardPolicy, cut, drawn, passed

WINDOWS = 20  # of a run's first policy, to which V is fitted before the first optimisation step
METRIC_SAMPLES = 2048  # of the states of a window, about, that its metric is made of
RATE, RATE_STATES = 0.1, 6144  # share of a Gauss and Newton step that is taken, at least, after windows of so many states;
# it grows as the root of their number, as far as the noise of a window falls, up to MOST; (1 + window)^-1/2 before
MOST = 0.5
DAMPING = 0.1  # of its metric, in squared slopes, both in units of the cost, per squared parameter


class ValueFunction(eqx.Module):
    """V: parameters phi (parameter_count,), states (..., d) -> (...,).

    inputs: the policy that scales the states; unit (): of V; hidden: widths of the network, empty for a quadratic function.
    """

    inputs: PushForwardPolicy
    unit: Array
    hidden: tuple[int, ...] = eqx.field(static=True)

    @property
    def input_dimension(self) -> int:
        return self.inputs.input_dimension - self.inputs.latent_dimension

    def parameter_shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of b and B, then weight and bias of each layer, input side first; the last layer has no bias."""
        n = self.input_dimension
        shapes: list[tuple[int, ...]] = [(n,), (n, n)]
        for fan_in, fan_out in itertools.pairwise((n, *self.hidden)):
            shapes += [(fan_in, fan_out), (fan_out,)]
        return [*shapes, (self.hidden[-1],)] if self.hidden else shapes

    @property
    def parameter_count(self) -> int:
        return sum(math.prod(shape) for shape in self.parameter_shapes())

    def initial_parameters(self, key: Array) -> Array:
        """Draw phi (parameter_count,): hidden weights N(0, 1/fan_in) (LeCun), everything else zero."""
        shapes = self.parameter_shapes()
        return drawn(key, shapes, range(2, len(shapes)), self.inputs.scale.dtype)

    def __call__(self, parameters: Array, states: Array) -> Array:
        latents = jnp.zeros((*states.shape[:-1], self.inputs.latent_dimension), states.dtype)
        x = self.inputs.inputs(states, latents)[..., : self.input_dimension]
        linear, square, *layers = cut(parameters, self.parameter_shapes())
        value = x @ linear + jnp.sum((x @ square) * x, axis=-1)
        if layers:
            *layers, last = layers
            value = value + passed(x, layers, self.inputs.activation) @ last
        return self.unit * value

    def slopes(self, parameters: Array, states: Array) -> Array:
        """Return grad V (..., d)."""
        return jax.grad(lambda s: jnp.sum(self(parameters, s)))(states)

    def fitted(
        self, parameters: Array, states: Array, samples: Array, window: Array, iterations: int
    ) -> tuple[Array, Array]:
        """Return phi after a fit to samples (n, d) of grad V at states (n, d), and what V missed of them, relative to their size.

        window: the number of the fit, from 0; iterations: of conjugate gradients.
        """
        scale = self.inputs.scale / self.unit
        some = states[:: max(1, len(states) // METRIC_SAMPLES)]
        slopes, pull = jax.vjp(lambda phi: scale * self.slopes(phi, states), parameters)
        missing = scale * samples - slopes
        right = pull(missing)[0] / len(states)
        at = tangent(lambda phi: scale * self.slopes(phi, some), parameters)
        move = conjugate_gradients(at, right, jnp.asarray(DAMPING, missing.dtype), iterations, 1e-4).value
        least = min(RATE * math.sqrt(len(states) / RATE_STATES), MOST)
        rate = jnp.maximum(least, 1.0 / jnp.sqrt(1.0 + window)).astype(missing.dtype)
        size = jnp.sum((scale * samples) ** 2)
        error = jnp.sqrt(jnp.sum(missing**2) / jnp.where(size > 0, size, 1))
        return parameters + rate * move, error
