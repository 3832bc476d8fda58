"""
The claims of the paper, each checked by other means
====================================================

M. Dus, *Wasserstein Formulation of Reinforcement Learning* (arXiv 2604.14765), says of the average cost J as a function of
policies, in the metric ``<v, w> = int mu int pi v . w``:

1. its gradient is the action gradient of Q:  ``grad J = grad_a Q``;
2. its Hessian is a local part, ``D^2_a Q``, and a transport part, which the dynamics add;
3. where the law of the next state does not depend on the action, the transport part is zero, and J is geodesically convex if the
   cost is convex in the action; coupled dynamics can take that away;
4. for a policy with parameters the natural gradient is this gradient, projected on what the parameters can do.

Below J is computed anew, in ten lines that share nothing with wassgrid: the law of the next state as a matrix, its stationary law
by least squares. Every claim is held to differences of that J, and the errors are printed::

    python gallery/claims_of_the_paper.py
"""

import numpy as np

import wassgrid as wg

CASE = """
[states.s]
next   = "s + 0.1*(s - s**3 + {gain}*a)"
noise  = "0.5*sqrt(0.1)"
domain = [-3, 3]
[actions.a]
[cost]
stage = "s**2 + 0.1*a**2 + 0.01*a**4"
[grid]
points = {{ s = 61 }}
kernel = "gaussian"
[policy]
particles = 3
initial = {{ distribution = "normal", mean = "-0.5*s", std = 0.7 }}
"""
S = np.linspace(-3.0, 3.0, 61)
FREE = {"gain": 0.0}  # decoupled: the action only costs
DAMPING = 1e-6  # of wassgrid's natural gradient
rows = []


# %%
# J by its definition
# -------------------


def objective(actions, weights, gain=1.0):
    """J of particles (cells, N) with weights (cells, N): normal density at the nodes within eight deviations, rows of sum one."""
    mean = np.clip(S[:, None] + 0.1 * (S[:, None] - S[:, None] ** 3 + gain * actions), -3.0, 3.0)
    z = (S - mean[:, :, None]) / (0.5 * np.sqrt(0.1))
    density = np.exp(-0.5 * z**2)
    P = np.einsum("ki,kil->kl", weights, density / density.sum(axis=2, keepdims=True))
    cost = (weights * (S[:, None] ** 2 + 0.1 * actions**2 + 0.01 * actions**4)).sum(axis=1)
    equations = np.vstack([np.eye(S.size) - P.T, np.ones(S.size)])
    law = np.linalg.lstsq(equations, np.append(np.zeros(S.size), 1.0), rcond=None)[0]
    return law @ cost


def claim(number, text, error, allowed):
    rows.append((number, text, error, allowed, error <= allowed))


def first_difference(J, t):
    return (8 * (J(t) - J(-t)) - (J(2 * t) - J(-2 * t))) / (12 * t)


def second_difference(J, t):
    return (16 * (J(t) + J(-t)) - (J(2 * t) + J(-2 * t)) - 30 * J(0.0)) / (12 * t * t)


point = wg.geometry.at(wg.Case.from_text(CASE.format(gain=1.0)))
actions, weights = point.policy.actions[:, :, 0], point.policy.weights
claim("", "J of wassgrid against J by its definition", abs(point.objective / objective(actions, weights) - 1), 1e-9)

# %%
# 1. The gradient
# ---------------
# Along any field v the derivative of J is ``<grad_a Q, v>``: a random one, and one particle alone.

gradient = wg.geometry.gradient(point)
rng = np.random.default_rng(0)
v = rng.standard_normal(gradient.shape)
slope = first_difference(lambda t: objective(actions + t * v[:, :, 0], weights), 1e-3)
size = wg.geometry.norm(point, gradient) * wg.geometry.norm(point, v)
claim("1", "<grad_a Q, v> = dJ, random field", abs(wg.geometry.inner(point, gradient, v) - slope) / size, 1e-9)

worst = 0.0
for cell in range(20, 41, 5):  # where the law is
    alone = np.zeros_like(v)
    alone[cell, 1] = 1.0
    slope = first_difference(lambda t, alone=alone: objective(actions + t * alone[:, :, 0], weights), 1e-2)
    found = slope / (point.law[cell] * weights[cell, 1])  # the metric divides by the mass that moves
    worst = max(worst, abs(found - gradient[cell, 1, 0]) / np.abs(gradient).max())
claim("1", "grad J (s, a) = grad_a Q, one particle alone", worst, 1e-7)

# %%
# 2. The Hessian
# --------------
# Second differences of J against local + transport; each part alone is far off.

local, transport = wg.second_order.second_derivative(point, v)
bend = second_difference(lambda t: objective(actions + t * v[:, :, 0], weights), 2e-2)
claim("2", "local + transport = d2J, random field", abs(local + transport - bend) / (abs(local) + abs(transport)), 1e-6)
smooth = np.ones_like(v)  # every particle moves alike: here states work together
local, transport = wg.second_order.second_derivative(point, smooth)
bend = second_difference(lambda t: objective(actions + t, weights), 5e-3)
claim("2", "the same, all particles moved alike", abs(local + transport - bend) / (abs(local) + abs(transport)), 1e-6)
print(f"all particles moved alike: d2J = {bend:.6f} = {local:.6f} (local) + {transport:.6f} (transport)")

# %%
# 3. Decoupled dynamics are convex, coupled ones need not be
# ----------------------------------------------------------

apart = wg.geometry.at(wg.Case.from_text(CASE.format(**FREE)))
local, transport = wg.second_order.second_derivative(apart, v)
claim("3", "transport part without coupling, relative", abs(transport) / local, 1e-12)
other = apart.policy.moved(apart.policy.actions + 2.0 * rng.standard_normal(v.shape))
path = wg.geometry.geodesic(apart, other)
times = np.linspace(0.0, 1.0, 41)
along = np.array([objective(path.at(t).actions[:, :, 0], path.weights, **FREE) for t in times])
above = along - ((1 - times) * along[0] + times * along[-1])
claim("3", "J above its chord on a geodesic, decoupled", max(above.max(), 0.0), 1e-12)
bends = np.diff(along, 2)
claim("3", "negative second differences on the way", max(-bends.min(), 0.0), 1e-12)

still = ["policy.particles=1", 'policy.initial.mean="0"', "policy.initial.std=0"]
idle = wg.geometry.at(wg.Case.from_text(CASE.format(gain=1.0), overrides=still))
spectrum = wg.second_order.spectrum(idle)
w = spectrum.field(0)
bend = second_difference(lambda t: objective(idle.policy.actions[:, :, 0] + t * w[:, :, 0], idle.policy.weights), 2e-3)
claim("3", "coupled, no control: smallest eigenvalue = d2J", abs(spectrum.values[0] - bend) / abs(bend), 1e-5)
print(
    f"coupled, no control: smallest eigenvalue {spectrum.values[0]:.4f} = {spectrum.local[0]:.4f} (local) + "
    f"{spectrum.transport[0]:.4f} (transport), though the cost is convex in the action: {spectrum}"
)

# %%
# 4. The natural gradient
# -----------------------
# A network a = T(s) with few and with many parameters. Its natural gradient w solves ``G w = dJ/dtheta`` with
# ``G = E_mu[(dT)'(dT)]``; the policy then moves by ``dT w``. dJ/dtheta comes from differences of J by its definition, G from the
# network's Jacobian: neither from wassgrid's solver. The move must be the projection of grad_a Q.

try:
    import jax

    from wassgrid.neural.metric import conjugate_gradients, parameter_gradient, tangent
    from wassgrid.neural.policies import PushForwardPolicy
except ImportError:
    jax = None
    print("claim 4 needs the extra neural (JAX): not checked")

if jax is not None:
    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp

    for hidden in ((3,), (40,)):
        network = PushForwardPolicy(jnp.zeros(1), jnp.full(1, 1.0), (-np.inf,), (np.inf,), (), hidden, "tanh", True, 0)
        theta = network.initial_parameters(jax.random.key(1))
        theta = theta + 0.3 * jax.random.normal(jax.random.key(2), theta.shape)

        def act(theta, network=network):
            return network(theta, jnp.asarray(S[:, None]), jnp.zeros((S.size, 0)))

        here = np.asarray(act(theta))
        there = wg.geometry.at(point, wg.ParticlePolicy(point.policy.grid, here[:, None, :], np.ones((S.size, 1))))
        q_gradient, root = wg.geometry.gradient(there)[:, 0, 0], np.sqrt(there.law)
        J = np.asarray(jax.jacobian(act)(theta))[:, 0]

        def cost(theta, act=act):
            return objective(np.asarray(act(theta)), np.ones((S.size, 1)))

        lines = [lambda t, e=e, theta=theta, cost=cost: cost(theta + t * e) for e in np.eye(theta.size)]
        derivative = np.array([first_difference(line, 3e-3) for line in lines])
        expected = J.T @ (there.law * q_gradient)
        text = f"dJ/dtheta = E_mu[dT' grad_a Q], {theta.size} parameters"
        claim("4", text, np.abs(derivative - expected).max() / np.abs(expected).max(), 1e-7)
        # G w = dJ/dtheta, by least squares, and what is left of grad_a Q: all that the network cannot do
        w = np.linalg.lstsq(root[:, None] * J, root * q_gradient, rcond=1e-12)[0]
        rest = np.linalg.norm(root * (J @ w - q_gradient)) / np.linalg.norm(root * q_gradient)
        G = J.T @ (there.law[:, None] * J)
        claim("4", f"G w = dJ/dtheta, {theta.size} parameters", np.abs(G @ w - derivative).max() / np.abs(derivative).max(), 1e-6)
        print(f"{theta.size:4d} parameters: the move lacks {rest:.1e} of grad_a Q (what the network cannot do)")
        # wassgrid's own: samples weigh mu
        scale = jnp.asarray(np.sqrt(S.size) * root[:, None])
        linear = tangent(lambda theta, act=act, scale=scale: scale * act(theta), theta)
        right = parameter_gradient(linear, scale * q_gradient[:, None])
        own = conjugate_gradients(linear, right, jnp.asarray(DAMPING), 4000, 1e-13)
        moved = np.asarray(linear.push(own.value))[:, 0] / np.sqrt(S.size)
        U, size, _ = np.linalg.svd(root[:, None] * J, full_matrices=False)
        damped = U @ (size**2 / (size**2 + DAMPING) * (U.T @ (root * q_gradient)))
        error = np.linalg.norm(moved - damped) / np.linalg.norm(damped)
        claim("4", f"wassgrid's natural gradient moves alike, {theta.size}", error, 1e-6)

# %%
# All of them
# -----------

print(f"\n{'claim':5}  {'what':52}  {'error':>8}  {'allowed':>8}")
for number, text, error, allowed, passed in rows:
    print(f"{number:5}  {text:52}  {error:8.1e}  {allowed:8.0e}  {'holds' if passed else 'FAILS'}")
if not all(passed for *_, passed in rows):
    raise SystemExit(1)
