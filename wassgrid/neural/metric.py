"""The Wasserstein metric pulled back to a policy's parameters, and the natural gradient.

With J the Jacobian of theta -> T_theta(s_i, z_i) at n samples of the stationary law, the metric is G = J'J/n, an
estimate of E_mu E_z[(d_theta T)'(d_theta T)], and the gradient of the cost is J'g/n with g_i = grad_a Q(s_i, a_i).
The natural gradient direction is

    w = (G + damping I)^{-1} J'g/n  =  J' (J J' + n damping I)^{-1} g        (push-through identity)

that is, the ridge regression of grad_a Q on the tangent space of the policies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

# count, w, residual, search direction, |residual|^2, whether the last curvature was positive
Iteration = tuple[Array, Array, Array, Array, Array, Array]


class Tangent(NamedTuple):
    """The Jacobian J at n samples, as products: push (parameters,) -> (n, m), pull (n, m) -> (parameters,) (J'
    without 1/n)."""

    push: Callable[[Array], Array]
    pull: Callable[[Array], Array]
    samples: int
    actions: int
    parameters: int


class Direction(NamedTuple):
    """A natural gradient direction w (parameters,), the iterations it took and |(G + damping) w - J'g/n| / |J'g/n|."""

    value: Array
    iterations: Array
    residual: Array


def tangent(act: Callable[[Array], Array], parameters: Array) -> Tangent:
    """Linearise act: theta (parameters,) -> actions (n, m) at theta; nothing of size n * parameters is formed."""
    actions, push = jax.linearize(act, parameters)
    transpose = jax.linear_transpose(push, parameters)
    return Tangent(push, lambda y: transpose(y)[0], actions.shape[0], actions.shape[1], parameters.shape[0])


def parameter_gradient(at: Tangent, gradients: Array) -> Array:
    """Return J'g/n, the gradient of the cost in the parameters, for g = grad_a Q (n, m)."""
    return at.pull(gradients) / at.samples


def metric_product(at: Tangent, w: Array) -> Array:
    """Return G w = J'(J w)/n."""
    return at.pull(at.push(w)) / at.samples


def conjugate_gradients(at: Tangent, right: Array, damping: Array, iterations: int, tolerance: float) -> Direction:
    """Solve (G + damping) w = right for w by matrix-free conjugate gradients from zero; a truncated solve is still a descent
    direction. right (parameters,): J'g/n, of more samples than `at` has where G needs fewer.

    Stops at the relative residual `tolerance`, after `iterations`, or where rounding has eaten the metric's
    positivity. Costs one push and one pull per iteration, memory of O(n m + parameters). Source: Hestenes and Stiefel
    (1952).
    """
    start = jnp.vdot(right, right)

    def unfinished(state: Iteration) -> Array:
        count, _, _, _, squared, positive = state
        return (count < iterations) & positive & (squared > tolerance**2 * start)

    def iterate(state: Iteration) -> Iteration:
        count, w, residual, search, squared, _ = state
        image = metric_product(at, search) + damping * search
        energy = jnp.vdot(search, image)
        positive = energy > 0
        step = jnp.where(positive, squared / energy, 0)
        residual = residual - step * image
        new = jnp.vdot(residual, residual)
        return count + 1, w + step * search, residual, residual + new / squared * search, new, positive

    zero = jnp.zeros((), jnp.int32)
    state = (zero, jnp.zeros_like(right), right, right, start, start > 0)
    count, w, _, _, squared, _ = jax.lax.while_loop(unfinished, iterate, state)
    return Direction(w, count, jnp.sqrt(squared / jnp.where(start > 0, start, 1)))


def kernel_form(at: Tangent, gradients: Array, damping: Array) -> Direction:
    """Solve for w in sample space by one Cholesky factorisation: cheapest when n m is below the number of parameters.

    Forms J (n m, parameters) and the tangent kernel J J' (n m, n m).
    """
    rows = at.samples * at.actions
    basis = jnp.eye(rows, dtype=gradients.dtype).reshape(rows, at.samples, at.actions)
    jacobian = jax.vmap(at.pull)(basis)
    kernel = jacobian @ jacobian.T + at.samples * damping * jnp.eye(rows, dtype=gradients.dtype)
    w = jacobian.T @ jax.scipy.linalg.solve(kernel, gradients.ravel(), assume_a="pos")
    right = parameter_gradient(at, gradients)
    return Direction(w, jnp.asarray(1), _residual(at, w, right, damping))


def nystrom(at: Tangent, right: Array, damping: Array, rank: int, key: Array) -> Direction:
    """Solve for w with G replaced by its randomised Nystrom approximation of the given rank, U diag(e) U'.

    What lies outside U is damped by the smallest eigenvalue e_r found, so that the direction is

        [U (e + damping)^{-1} U' + (I - U U')/(e_r + damping)] J'g/n

    scaled to the minimum of the damped model along it: it descends and is never too long. Costs `rank` metric products; exact
    once the rank reaches that of G, and good once e_r falls below the damping.
    Source: Frangella, Tropp, Udell (2023), Randomized Nystrom preconditioning, algorithm 2.1 and the preconditioner.
    """
    rank = min(rank, at.parameters)
    test, _ = jnp.linalg.qr(jax.random.normal(key, (at.parameters, rank), right.dtype))
    sketch = jax.vmap(lambda w: metric_product(at, w), in_axes=1, out_axes=1)(test)
    # a shift at the level of rounding keeps the Cholesky factor real; it is taken off the eigenvalues again
    shift = jnp.finfo(right.dtype).eps * jnp.sqrt(jnp.asarray(at.parameters, right.dtype)) * jnp.linalg.norm(sketch)
    sketch = sketch + shift * test
    factor = jnp.linalg.cholesky((test.T @ sketch + sketch.T @ test) / 2)
    root = jax.scipy.linalg.solve_triangular(factor, sketch.T, lower=True).T
    basis, singular, _ = jnp.linalg.svd(root, full_matrices=False)
    eigenvalues = jnp.maximum(singular**2 - shift, 0)
    inside = basis.T @ right
    w = basis @ (inside / (eigenvalues + damping)) + (right - basis @ inside) / (eigenvalues[-1] + damping)
    image = metric_product(at, w) + damping * w
    energy = jnp.vdot(w, image)
    scale = jnp.where(energy > 0, jnp.vdot(right, w) / jnp.where(energy > 0, energy, 1), 1)
    residual = jnp.linalg.norm(scale * image - right) / jnp.linalg.norm(right)
    return Direction(scale * w, jnp.asarray(rank), residual)


def _residual(at: Tangent, w: Array, right: Array, damping: Array) -> Array:
    return jnp.linalg.norm(metric_product(at, w) + damping * w - right) / jnp.linalg.norm(right)
