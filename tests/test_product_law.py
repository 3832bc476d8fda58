"""The law as a product against the assembled matrix and the walk, on laws of every form that the case language can state."""

from __future__ import annotations

import numpy as np
import pytest

from wassgrid import Case
from wassgrid.chain.classes import is_single_class, recurrent_classes
from wassgrid.policy import ParticlePolicy
from wassgrid.transition import product_law
from wassgrid.transition.model import TransitionModel
from wassgrid.transition.threads import TEAM

pytestmark = pytest.mark.thorough

# name: (states: next, noise, domain, boundary; points; kernels; streamed axes; actions)
LAWS = {
    "independent axes, one moved": (
        {"x": ("x + 0.1*y", "0.2", (-1, 1), "periodic"), "y": ("y + 0.2*sin(3*x) + 0.3*a", "0.25", (-2, 2), "clamp")},
        {"x": 14, "y": 17}, {}, (), 1,
    ),
    "a follower on an aligned grid": (
        {"x": ("x + 0.5*next(y)", "0", (-1, 1), "periodic"), "y": ("0.9*y + 0.4*a + 0.1*x", "0.3", (-2, 2), "clamp")},
        {"x": 16, "y": "aligned"}, {}, (0,), 1,
    ),
    "a noisy follower between nodes, lead first": (
        {"y": ("0.8*y + 0.4*a*x", "0.3", (-2, 2), "clamp"), "x": ("0.7*x + 0.33*next(y)", "0.1", (-1, 1), "clamp")},
        {"y": 15, "x": 13}, {}, (1,), 1,
    ),
    "a follower of a follower": (
        {
            "p": ("0.8*p + 0.5*a - 0.1*x", "0.4", (-2, 2), "reflect"),
            "v": ("v + 0.2*next(p)", "0", (-1, 1), "reflect"),
            "x": ("x + 0.3*next(v)", "0.05", (-1, 1), "clamp"),
        },
        {"p": 9, "v": 8, "x": 10}, {}, (2, 1), 1,
    ),
    "two leads, two followers, two actions": (
        {
            "q": ("q + 0.3*next(p)", "0", (-1, 1), "clamp"),
            "r": ("r + 0.2*next(w)", "0.1", (-1, 1), "periodic"),
            "p": ("0.8*p + 0.3*a - 0.2*sin(r)", "0.5", (-2, 2), "clamp"),
            "w": ("0.7*w + 0.3*b + 0.1*a*q", "0.6", (-2, 2), "clamp"),
        },
        {"q": 6, "r": 7, "p": 8, "w": 8}, {}, (0, 1), 2,
    ),
    "noise of its own in every cell, an axis that goes its own way": (
        {"z": ("0.5*z", "0.3 + 0.1*z**2", (-1, 1), "clamp"), "y": ("y + z + 0.5*a", "0.2 + 0.1*abs(z)", (-2, 2), "reflect")},
        {"z": 9, "y": 21}, {}, (0,), 1,
    ),
    "both axes moved by one action": (
        {"x": ("x + 0.2*a", "0.2", (-1, 1), "periodic"), "y": ("y - 0.3*a**2 + 0.1*x", "0", (-2, 2), "clamp")},
        {"x": 12, "y": 19}, {}, (), 1,
    ),
    "wide noise in two parts": (
        {"x": ("x + 0.1*y", "0.2", (-1, 1), "periodic"), "y": ("y + 0.3*a", "0.35", (-2, 2), "clamp")},
        {"x": 40, "y": 47}, {}, (), 1,
    ),
    "wide noise that is folded, and of every cell": (
        {"x": ("x + 0.1*y", "0.25 + 0.02*y", (-1, 1), "reflect"), "y": ("y + 0.3*a*x", "0.35 + 0.05*x", (-2, 2), "reflect")},
        {"x": 41, "y": 44}, {}, (), 1,
    ),
    "laws wider than the grid": (
        {"x": ("x + 0.1*y", "3.0", (-1, 1), "periodic"), "y": ("y + 0.3*a", "2.5", (-2, 2), "clamp")},
        {"x": 6, "y": 7}, {}, (), 1,
    ),
    "actions that move nothing": (
        {"x": ("x + 0.13*next(y)", "0", (-1, 1), "periodic"), "y": ("0.9*y", "0.3", (-2, 2), "clamp")},
        {"x": 12, "y": 15}, {}, (0,), 1,
    ),
    "cubic and linear kernels": (
        {"x": ("x + 0.13*next(y)", "0", (-1, 1), "periodic"), "y": ("0.9*y + 0.3*a", "0.1", (-2, 2), "clamp")},
        {"x": 12, "y": 15}, {"x": "cubic", "y": "linear"}, (0,), 1,
    ),
}  # fmt: skip


def model_of(name):
    states, points, kernels, streamed, actions = LAWS[name]
    lines = []
    for state, (law, noise, domain, boundary) in states.items():
        lines += [f"[states.{state}]", f'next = "{law}"', f'noise = "{noise}"', f"domain = [{domain[0]}, {domain[1]}]"]
        lines += [f'boundary = "{boundary}"']
    for action in "ab"[:actions]:
        lines += [f"[actions.{action}]", "bounds = [-1, 1]"]
    grid = ", ".join(f"{state} = {count!r}" for state, count in points.items()).replace("'", '"')
    lines += ["[cost]", 'stage = "a**2"', "[grid]", f"points = {{ {grid} }}"]
    if kernels:
        lines += ["kernel = { " + ", ".join(f'{state} = "{kernel}"' for state, kernel in kernels.items()) + " }"]
    model = TransitionModel.from_case(Case.from_text("\n".join(lines)))
    assert model.product is not None
    assert tuple(model.grid.names[j] for j in model.product.passes.streamed) == tuple(model.grid.names[j] for j in streamed)
    return model


def cloud(model, particles, seed=0):
    rng = np.random.default_rng(seed)
    m = model.problem.action_dimension
    actions = rng.uniform(-1, 1, (model.grid.size, particles, m))
    if particles > 2:
        actions[:, 2] = actions[:, 0]  # particles that stand together
    weights = rng.dirichlet(np.ones(particles), model.grid.size)
    weights[0] = np.eye(particles)[0]  # and particles without weight
    return ParticlePolicy(model.grid, actions, weights)


@pytest.fixture(params=LAWS, scope="module")
def model(request):
    return model_of(request.param)


@pytest.mark.parametrize("particles", [1, 3])
def test_products_are_those_of_the_matrix(model, particles):
    policy = cloud(model, particles)
    mean, _ = model.means(policy.actions)
    operator, matrix = model.operator(mean, policy.weights), model.assembled(mean, policy.weights).matrix()
    rng = np.random.default_rng(1)
    f, mu = rng.standard_normal(model.grid.size), rng.random(model.grid.size)
    np.testing.assert_allclose(operator.apply(f), matrix @ f, atol=1e-12)
    np.testing.assert_allclose(operator.push(mu), matrix.T @ mu, atol=1e-12)
    np.testing.assert_allclose(operator.apply(np.ones(f.size)), 1.0, atol=1e-13)
    assert operator.push(mu) @ f == pytest.approx(mu @ operator.apply(f), abs=1e-11)
    np.testing.assert_array_equal(operator.matrix().toarray(), matrix.toarray())
    assert operator.nonnegative == model.markov


@pytest.mark.parametrize("particles", [1, 3])
def test_expectations_and_their_derivatives_are_those_of_the_walk(model, particles):
    policy = cloud(model, particles, 2)
    rng = np.random.default_rng(3)
    cells = rng.permutation(model.grid.size)[: model.grid.size // 2]
    f = rng.standard_normal(model.grid.size)
    tables = model.tables(cells, policy.actions[cells], 2)
    walk = TransitionModel(model.problem, model.grid, model.kernels, model.noise)
    walk.__dict__["product"] = None  # not of the form, as far as it knows
    found, wanted = (m.expectation(f).derivatives(cells, tables) for m in (model, walk))
    for order, (a, b) in enumerate(zip(found, wanted, strict=True)):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11 * 100**order)
    np.testing.assert_allclose(model.expectation(f).values(cells, tables.mean), found[0], atol=1e-13)
    everywhere = model.tables(np.arange(model.grid.size), policy.actions, 1)
    velocity = np.einsum("kija,kia->kij", everywhere.mean_gradient, rng.standard_normal(policy.actions.shape))
    mass = policy.weights * rng.random((model.grid.size, 1))
    pushed, other = (m.pushed_derivative(everywhere.mean, velocity, mass) for m in (model, walk))
    np.testing.assert_allclose(pushed, other, atol=1e-10 * np.abs(other).max())
    assert pushed.sum() == pytest.approx(0.0, abs=1e-10 * np.abs(pushed).sum())


def test_weights_computed_on_the_way_are_the_ones_kept(model, monkeypatch):
    policy = cloud(model, 3)
    mean, _ = model.means(policy.actions)
    kept = model.operator(mean, policy.weights)
    monkeypatch.setattr(product_law, "_STORED", 0)
    lean = model.operator(mean, policy.weights)
    f = np.random.default_rng(4).standard_normal(model.grid.size)
    # two compilations of the same sums, which a compiler may contract in different ways
    np.testing.assert_allclose(lean.apply(f), kept.apply(f), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(lean.push(f), kept.push(f), rtol=1e-13, atol=1e-15)
    alone = lean.apply(f), lean.push(f)
    # as a team that has never run these loops: it calls them with no cell first
    monkeypatch.setattr("wassgrid.transition.threads.WORTH_WAKING", 0.0)
    monkeypatch.setattr(TEAM, "size", 2)
    monkeypatch.setattr(TEAM, "_known", set())
    for one, two in zip(alone, (lean.apply(f), lean.push(f)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-13, atol=1e-15)


def test_every_number_of_threads_gives_the_same_bits(model, monkeypatch):
    policy = cloud(model, 2)
    mean, _ = model.means(policy.actions)
    cells = np.arange(model.grid.size)
    f = np.random.default_rng(5).standard_normal(cells.size)
    monkeypatch.setattr("wassgrid.transition.threads.WORTH_WAKING", 0.0)

    def everything():
        operator = model.operator(mean, policy.weights)
        tables = model.tables(cells, policy.actions, 2)
        return operator.apply(f), operator.push(f), *model.expectation(f).derivatives(cells, tables)

    results = []
    for size in (1, 2, 3):
        monkeypatch.setattr(TEAM, "size", size)
        results.append(everything())
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_one_class_is_told_from_several_by_products(model):
    policy = cloud(model, 1)
    mean, _ = model.means(policy.actions)
    operator = model.operator(mean, policy.weights)
    classes = recurrent_classes(model.assembled(mean, policy.weights))
    inside = int(classes[0][0])
    assert is_single_class(operator, inside) == (len(classes) == 1)


def test_a_law_that_follows_a_present_coordinate_of_its_lead_is_walked():
    text = """
    [states.y]
    next = "0.9*y + 0.3*a"
    noise = "0.3"
    domain = [-2, 2]
    [states.x]
    next = "0.5*x + 0.5*(next(y) - y)"
    noise = "0.2"
    domain = [-1, 1]
    [actions.a]
    bounds = [-1, 1]
    [cost]
    stage = "a**2"
    [grid]
    points = { y = 15, x = 13 }
    """
    model = TransitionModel.from_case(Case.from_text(text))
    assert model.product is None
    policy = cloud(model, 2)
    mean, _ = model.means(policy.actions)
    np.testing.assert_allclose(model.operator(mean, policy.weights).apply(np.ones(model.grid.size)), 1.0, atol=1e-13)
