"""Cases and small helpers that the tests of the neural solver share."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import tomli_w

from wassgrid.case import Case
from wassgrid.neural.policies import PushForwardPolicy


def scalar_lq(a=1.0, b=1.0, noise=1.0, actions=None, criterion=None, domain=None, mean="-0.5*x", **neural):
    """x' = a x + b u + noise w, cost x^2 + u^2, on the whole line unless a domain is given."""
    state = {"next": f"{a}*x + {b}*u", "noise": noise} | ({"domain": domain} if domain else {})
    tables = {
        "states": {"x": state},
        "actions": {"u": actions or {}},
        "cost": {"stage": "x**2 + u**2"},
        "policy": {"initial": {"distribution": "point", "mean": mean}},
        "solver": {"kind": "neural"},
        "neural": {"hidden": [], "chains": 16, "horizon": 16, "tail": 16, **neural},
    } | ({"criterion": criterion} if criterion else {})
    return Case.from_text(tomli_w.dumps(tables), "scalar_lq")


def ring(count=3, **neural):
    """The ring of linear oscillators of `cases/coupled_oscillators_linear.toml`, smaller."""
    settings = {"hidden": [8], "chains": 8, "horizon": 8, "tail": 4, "burn_in": 20, "steps": 4} | neural
    evaluation = {"chains": 8, "burn_in": 10, "steps": 64}
    overrides = [f"parameters.count={count}"]
    overrides += [f"neural.{key}={tomli_w.dumps({'x': value})[4:]}" for key, value in settings.items()]
    overrides += [f"neural.evaluation.{key}={value}" for key, value in evaluation.items()]
    return Case.load("cases/coupled_oscillators_linear.toml", overrides)


def push_forward(state_dimension=2, actions=1, low=None, high=None, **options):
    """A policy with unit inputs."""
    settings = {"periodic": (), "hidden": (8,), "activation": "tanh", "linear_path": True, "latent_dimension": 0}
    return PushForwardPolicy(
        offset=jnp.zeros(state_dimension),
        scale=jnp.ones(state_dimension),
        low=(-math.inf,) * actions if low is None else low,
        high=(math.inf,) * actions if high is None else high,
        **settings | options,
    )


def drawn_parameters(policy, seed=0, size=0.3):
    """Parameters with every layer away from zero."""
    return size * jax.random.normal(jax.random.key(seed), (policy.parameter_count,), policy.scale.dtype)


def slope(sizes, errors):
    """Order of convergence: least-squares slope of log errors against log sizes."""
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])
