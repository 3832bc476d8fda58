"""Every compiled kernel beside a slow literal twin, and the laws they obey."""

from __future__ import annotations

import itertools
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from scipy.integrate import quad
from scipy.optimize import minimize, root
from scipy.stats import norm

from wassgrid.grid import StateGrid
from wassgrid.transition.axis_kernels import CUBIC, GAUSSIAN, LINEAR, MATCHED, axis_weights
from wassgrid.transition.axis_kernels.facts import TAIL
from wassgrid.transition.compiled import CLAMP, PERIODIC, REFLECT, fold
from wassgrid.transition.expectations import conditional_moments, expectations, push_derivative
from wassgrid.transition.model import TransitionModel
from wassgrid.transition.sparse import count_entries
from wassgrid.transition.threads import TEAM

BOUNDARIES = {"clamp": CLAMP, "reflect": REFLECT, "periodic": PERIODIC}


@njit
def compiled_weights(kernel, boundary, lower, h, n, mean, sigma, order, w0, w1, w2):
    return axis_weights(kernel, boundary, lower, h, n, mean, sigma, order, w0, w1, w2)


def weights_of(kernel, boundary, lower, h, n, mean, sigma):
    """Folded weights (3, n) of one axis as the compiled kernel gives them."""
    width = int(2 * TAIL * sigma / h) + 6
    w = np.zeros((3, width))
    first, count = compiled_weights(kernel, BOUNDARIES[boundary], lower, h, n, mean, sigma, 2, w[0], w[1], w[2])
    folded = np.zeros((3, n))
    for q in range(count):
        folded[:, fold(first + q, n, BOUNDARIES[boundary])] += w[:, q]
    return folded


def literal_fold(e, n, boundary):
    if boundary == "periodic":
        return e % n
    if boundary == "clamp":
        return min(max(e, 0), n - 1)
    path = list(range(n)) + list(range(n - 2, 0, -1))
    return path[e % len(path)]


@cache
def literal_weights(kernel, boundary, lower, h, n, mean, sigma):
    """The definition of each kernel, written down on a wide extended grid."""
    if boundary == "clamp":
        mean = min(max(mean, lower), lower + (n - 1) * h)
    if kernel == MATCHED:
        return literal_matched_weights(boundary, lower, h, n, mean, sigma)
    reach = range(0, n) if boundary == "clamp" and kernel == GAUSSIAN else range(-6 * n, 7 * n)
    weights = np.zeros(n)
    if kernel == GAUSSIAN:
        density = {e: norm.pdf(lower + e * h, mean, sigma) for e in reach if abs(lower + e * h - mean) <= 8 * sigma}
        total = sum(density.values())
        for e, p in density.items():
            weights[literal_fold(e, n, boundary)] += p / total
    elif kernel == LINEAR:
        for e in reach:
            node = lower + e * h
            if sigma == 0:
                weight = max(0.0, 1 - abs(mean - node) / h)
            elif abs(node - mean) > 9 * sigma + h:
                continue
            else:
                hat = lambda x, node=node: max(0.0, 1 - abs(x - node) / h) * norm.pdf(x, mean, sigma)  # noqa: E731
                weight = quad(hat, node - h, node, epsabs=1e-13)[0] + quad(hat, node, node + h, epsabs=1e-13)[0]
            weights[literal_fold(e, n, boundary)] += weight
    else:
        base = int(np.floor((mean - lower) / h)) - 1
        if boundary == "clamp":
            base = min(max(base, 0), n - 4)
        nodes = lower + (base + np.arange(4)) * h
        for q in range(4):
            others = np.delete(nodes, q)
            weights[literal_fold(base + q, n, boundary)] += np.prod((mean - others) / (nodes[q] - others))
    return weights


def least_entropy_law(d, sigma):
    """The law on the nodes -12, ..., 12 nearest to a normal one of all with mean d and variance sigma^2, and its nodes.

    The dual problem (Tanaka and Toda 2013): minimise log sum q exp(l . (T - target)), q the normal density. A law of two
    nodes where there is none.
    """
    e = np.arange(-12, 13)
    if sigma**2 <= d * (1 - d):
        return np.where(e == 0, 1 - d, np.where(e == 1, d, 0.0)), e
    moments = np.stack([e - d, (e - d) ** 2 - sigma**2])
    exponent = lambda l: l @ moments - 0.5 * (e - d) ** 2 / sigma**2  # noqa: E731
    dual = lambda l: np.log(np.exp(exponent(l) - exponent(l).max()).sum()) + exponent(l).max()  # noqa: E731

    def law(l):
        p = np.exp(exponent(l) - exponent(l).max())
        return p / p.sum()

    def hessian(l):
        p = law(l)
        return (p * moments) @ moments.T - np.outer(moments @ p, moments @ p)

    found = minimize(dual, np.zeros(2), jac=lambda l: moments @ law(l), hess=hessian, method="trust-exact")
    found = root(lambda l: moments @ law(l), found.x, jac=hessian, tol=1e-14)
    assert np.abs(moments @ law(found.x)).max() < 1e-12
    return law(found.x), e


def literal_matched_weights(boundary, lower, h, n, mean, sigma):
    """The kernel for noise of half a cell and more, or none."""
    assert sigma == 0 or sigma >= 0.5 * h
    floor = int(np.floor((mean - lower) / h))
    weights = np.zeros(n)
    law, nodes = least_entropy_law((mean - lower) / h - floor, sigma / h)
    for p, e in zip(law, nodes + floor, strict=True):
        if boundary != "clamp" or 0 <= e < n or sigma == 0:
            weights[literal_fold(e, n, boundary)] += p
    return weights / weights.sum()


CHOICES = [
    (kernel, boundary, sigma)
    for kernel, sigma in [
        (GAUSSIAN, 0.23),
        (GAUSSIAN, 0.7),
        (LINEAR, 0.0),
        (LINEAR, 0.06),
        (LINEAR, 0.5),
        (CUBIC, 0.0),
        (MATCHED, 0.0),
        (MATCHED, 0.127),
        (MATCHED, 0.2),
        (MATCHED, 0.33),
    ]
    for boundary in BOUNDARIES
]


@pytest.mark.parametrize(("kernel", "boundary", "sigma"), CHOICES)
@pytest.mark.parametrize("mean", [0.513, -0.97, 1.44, 2.9, -2.2])
def test_weights_equal_their_definition(kernel, boundary, sigma, mean):
    lower, h, n = -1.0, 0.25, 11
    compiled = weights_of(kernel, boundary, lower, h, n, mean, sigma)[0]
    np.testing.assert_allclose(compiled, literal_weights(kernel, boundary, lower, h, n, mean, sigma), atol=2e-11)
    assert abs(compiled.sum() - 1) < 1e-13


@pytest.mark.parametrize(("kernel", "boundary", "sigma"), CHOICES)
def test_weight_derivatives_against_differences(kernel, boundary, sigma):
    lower, h, n, mean, step = -1.0, 0.25, 11, 0.4137, 1e-4
    left, middle, right = (weights_of(kernel, boundary, lower, h, n, mean + k * step, sigma) for k in (-1, 0, 1))
    np.testing.assert_allclose(middle[1], (right[0] - left[0]) / (2 * step), atol=2e-5)
    np.testing.assert_allclose(middle[2], (right[1] - left[1]) / (2 * step), atol=2e-3)
    assert abs(middle[1].sum()) < 1e-11
    assert abs(middle[2].sum()) < 1e-9


@pytest.mark.parametrize("kernel", [GAUSSIAN, LINEAR, CUBIC, MATCHED])
def test_a_mean_beyond_a_clamped_end_has_no_derivative(kernel):
    sigma = 0.0 if kernel == CUBIC else 0.3
    outside = weights_of(kernel, "clamp", -1.0, 0.25, 11, 3.1, sigma)
    np.testing.assert_array_equal(outside[1:], 0.0)
    np.testing.assert_allclose(outside[0], weights_of(kernel, "clamp", -1.0, 0.25, 11, 1.5, sigma)[0])


@settings(max_examples=50, deadline=None)
@given(st.floats(-5, 5), st.floats(0.0, 2.0), st.sampled_from(list(BOUNDARIES)))
def test_linear_weights_are_a_law_with_the_right_mean(mean, sigma, boundary):
    w = weights_of(LINEAR, boundary, -1.0, 0.25, 11, mean, sigma)[0]
    assert (w >= 0).all()
    assert abs(w.sum() - 1) < 1e-12
    if boundary == "periodic" and sigma < 0.1:
        # the mean is exact as an angle up to the curvature of cosine over the spread
        angle = 2 * np.pi * np.arange(11) / 11
        exact = 2 * np.pi * (mean + 1.0) / (11 * 0.25)
        assert abs(np.angle((w @ np.exp(1j * angle)) / np.exp(1j * exact))) < 0.01


@settings(max_examples=200, deadline=None)
@given(st.floats(-0.5, 0.5), st.one_of(st.floats(1e-9, 2.0), st.floats(0.498, 0.502)))
def test_matched_weights_keep_the_mean_always_and_the_variance_where_a_law_can(d, ratio):
    n = 61
    w = weights_of(MATCHED, "periodic", 0.0, 1.0, n, 30.0 + d, ratio)[0]
    e = np.arange(n) - 30
    assert (w >= 0).all()
    assert abs(w.sum() - 1) < 1e-14
    assert abs(w @ e - d) < (3e-15 if ratio < 1.5 else 1e-13)
    variance, least = w @ (e - d) ** 2, abs(d) * (1 - abs(d))
    if ratio >= 0.5:
        # from 1.5 on the tails are cut at 8 standard deviations: some 8^2 exp(-8^2/2) = 8e-13 of the variance
        assert abs(variance - ratio**2) < (1e-14 if ratio < 1.5 else 1e-12 * ratio**2)
    else:
        # within the passage from the noise's variance to the least there is
        width = 0.5 * min(0.25 - ratio**2, ratio**2)
        assert max(ratio**2, least) - 1e-14 <= variance <= max(ratio**2, least) + 0.1875 * width + 1e-14
        if abs(least - ratio**2) >= width:
            assert abs(variance - max(ratio**2, least)) < 1e-14


@pytest.mark.parametrize("ratio", [0.12, 0.3, 0.45, 0.499, 0.5, 0.51, 0.8])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_matched_weights_have_two_continuous_derivatives(ratio, boundary):
    """Across nodes, midpoints and the ends of the passage to two nodes; also where the law is cut."""
    n, step = 9, 1e-6
    means = np.unique(np.concatenate([np.linspace(0.02, n - 1.02, 331), np.arange(1, 8), np.arange(1, 7) + 0.5]))
    low, high = (np.array([weights_of(MATCHED, boundary, 0.0, 1.0, n, m + side, ratio) for m in means]) for side in (-step, step))
    middle = np.array([weights_of(MATCHED, boundary, 0.0, 1.0, n, m, ratio) for m in means])
    scale = np.abs(middle).max(axis=(0, 2))
    third = np.abs(high[:, 2] - low[:, 2]).max() / (2 * step)
    np.testing.assert_allclose((high[:, 0] - low[:, 0]) / (2 * step), middle[:, 1], atol=1e-6 * scale[1])
    np.testing.assert_allclose((high[:, 1] - low[:, 1]) / (2 * step), middle[:, 2], atol=step * third + 1e-6 * scale[2])
    # a jump of the second derivative, by a hundredth of it, would exceed this
    assert third < 0.01 * scale[2] / (2 * step)


def test_matched_weights_are_gaussian_ones_where_the_noise_is_resolved():
    for boundary, ratio in itertools.product(BOUNDARIES, (1.2, 1.49, 1.51)):
        error = 9 * np.exp(-2 * (np.pi * ratio) ** 2) * (2 * np.pi * ratio) ** 2
        for mean in (0.0, 0.37, 4.5, 8.0):
            one, other = (weights_of(k, boundary, 0.0, 1.0, 9, mean, ratio) for k in (MATCHED, GAUSSIAN))
            np.testing.assert_allclose(one, other, atol=error + 1e-14)


def model_of(kernel_names, boundary, order, coupled, beta, noise, shape=(7, 6), moved=None):
    """A two-dimensional model with given noise and coupling, on axes of different spacing."""
    cells = int(np.prod(shape))
    grid = StateGrid(
        ("x", "y"), (np.linspace(-1, 1, shape[0]), np.linspace(0, 3, shape[1])), (boundary, boundary)
    )
    coupling = np.zeros((cells, 2, 2))
    mask = np.zeros((2, 2), bool)
    if coupled:
        mask[order[1], order[0]] = True
        coupling[:, order[1], order[0]] = beta

    def action_tables(states, actions, derivatives, strict=True):
        # two action components that are the means themselves, or one that moves the axis `moved`
        mean = actions if moved is None else np.zeros((*actions.shape[:2], 2)) + actions * np.eye(2)[moved]
        return SimpleNamespace(mean=mean)

    bounds = np.array([[-1.0, 1.0]] * (2 if moved is None else 1))
    fields = {"order": order, "coupled": mask, "action_bounds": bounds, "choices": None, "mixed": False, "goal": None}
    fields["limits_at"] = lambda states: tuple(np.tile(end, (len(states), 1)) for end in bounds.T)
    problem = SimpleNamespace(action_tables=action_tables, **fields)
    model = TransitionModel(problem, grid, kernel_names, np.tile(np.array(noise, float), (cells, 1)))
    # what a problem would give; the walk alone
    model.__dict__.update(coupling=coupling, product=None)
    return model


def literal_rows(model, mean, weights):
    """P by the definition: nodes of the first axis, then of the axis that follows it."""
    grid, problem = model.grid, model.problem
    first, second = problem.order
    names = {"gaussian": GAUSSIAN, "linear": LINEAR, "cubic": CUBIC}
    result = np.zeros((grid.size, grid.size))

    def law(axis, m, sigma):
        return literal_weights(
            names[model.kernels[axis]], grid.boundary[axis], grid.axes[axis][0], grid.spacing[axis], grid.shape[axis], m, sigma
        )

    for k, i in itertools.product(range(grid.size), range(weights.shape[1])):
        w_first = law(first, mean[k, i, first], model.noise[k, first])
        for node, p in enumerate(w_first):
            if p == 0:
                continue
            m = mean[k, i, second] + model.coupling[k, second, first] * grid.axes[first][node]
            for other, q in enumerate(law(second, m, model.noise[k, second])):
                index = [0, 0]
                index[first], index[second] = node, other
                result[k, np.ravel_multi_index(index, grid.shape)] += weights[k, i] * p * q
    return result


@pytest.mark.thorough
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("boundary", ["clamp", "reflect"])
def test_rows_expectations_and_derivatives_of_two_axes(order, coupled, boundary):
    noise = [0.3, 0.0] if order == (0, 1) else [0.3, 0.5]
    names = ("gaussian", "linear")
    model = model_of(names, boundary, order, coupled, 0.37, noise)
    grid = model.grid
    rng = np.random.default_rng(3)
    cells, particles = grid.size, 2
    mean = np.stack([rng.uniform(-0.8, 0.8, (cells, particles)), rng.uniform(0.6, 2.2, (cells, particles))], axis=2)
    weights = rng.dirichlet([1.0] * particles, cells)
    operator = model.operator(mean, weights)
    literal = literal_rows(model, mean, weights)
    np.testing.assert_allclose(operator.matrix().toarray(), literal, atol=1e-10)

    f = rng.standard_normal(cells)
    nu = rng.standard_normal(cells)
    np.testing.assert_allclose(operator.apply(f), operator.matrix() @ f, atol=1e-14)
    np.testing.assert_allclose(operator.push(nu), operator.matrix().T @ nu, atol=1e-14)

    # derivatives in the means, with the means themselves as actions
    index = np.arange(cells)
    identity = np.tile(np.eye(2), (cells, particles, 1, 1))
    zero = np.zeros((cells, particles, 2, 2, 2))
    call = (model.axes, model.width, index)
    value, gradient, hessian = expectations(
        *call, mean, identity, zero, model.noise, model.coupling, f
    )
    np.testing.assert_allclose(value, model.expected(index, mean, f), atol=1e-13)
    first_order = expectations(*call, mean, identity, zero[:0], model.noise, model.coupling, f)
    np.testing.assert_allclose(gradient, first_order[1], atol=1e-12)
    np.testing.assert_allclose((weights * value).sum(axis=1), operator.apply(f), atol=1e-12)
    step = 1e-5
    for j in range(2):
        shift = step * np.eye(2)[j]
        high = expectations(*call, mean + shift, identity, zero, model.noise, model.coupling, f)
        low = expectations(*call, mean - shift, identity, zero, model.noise, model.coupling, f)
        np.testing.assert_allclose(gradient[..., j], (high[0] - low[0]) / (2 * step), atol=1e-7)
        np.testing.assert_allclose(hessian[..., j], (high[1] - low[1]) / (2 * step), atol=1e-6)

    # mu Pdot_v is the derivative of mass . P along a velocity of the means
    velocity = rng.standard_normal(mean.shape)
    mass = rng.random((cells, particles))
    pushed = push_derivative(model.axes, model.width, mean, velocity, mass, model.noise, model.coupling)
    share = mass / mass.sum(axis=1, keepdims=True)
    high = model.operator(mean + step * velocity, share).push(mass.sum(axis=1))
    low = model.operator(mean - step * velocity, share).push(mass.sum(axis=1))
    np.testing.assert_allclose(pushed, (high - low) / (2 * step), atol=1e-6)
    assert abs(pushed.sum()) < 1e-11


@pytest.mark.thorough
@pytest.mark.parametrize(("order", "coupled"), [((0, 1), True), ((0, 1), False), ((1, 0), False)])
@pytest.mark.parametrize("boundary", ["clamp", "reflect", "periodic"])
def test_sums_shared_by_the_particles_of_a_cell_change_nothing(order, coupled, boundary):
    """Actions that move axis 0 alone: the kernels factor it out, and every number is the general one."""
    model = model_of(("gaussian", "linear"), boundary, order, coupled, 0.37, [0.3, 0.2], moved=0)
    assert model.axes.led == (boundary != "periodic" or not coupled)
    if not model.axes.led:
        return
    rng = np.random.default_rng(8)
    cells, particles = model.grid.size, 4
    mean = np.stack(
        [rng.uniform(-0.9, 0.9, (cells, particles)), np.tile(rng.uniform(0.6, 2.2, (cells, 1)), (1, particles))], axis=2
    )
    mean[5, 2, 1] += 0.1  # one cell that is not shared
    weights = rng.dirichlet([1.0] * particles, cells)
    gradient = np.zeros((cells, particles, 2, 1))
    gradient[:, :, 0, 0] = rng.standard_normal((cells, particles))
    gradient[7, 1, 1, 0] = 0.3  # one cell where the other mean moves
    second = np.zeros((cells, particles, 2, 1, 1))
    second[:, :, 0, 0, 0] = rng.standard_normal((cells, particles))
    f, index = rng.standard_normal(cells), np.arange(cells)
    plain = model.axes._replace(led=False)

    def everything(axes):
        arguments = (axes, model.width, index, mean)
        rest = (model.noise, model.coupling, f)
        return (
            count_entries(*arguments, weights, model.noise, model.coupling, 1e6),
            expectations(*arguments, gradient[:0], second[:0], *rest)[0],
            expectations(*arguments, gradient, second[:0], *rest)[1],
            *expectations(*arguments, gradient, second, *rest),
        )

    for a, b in zip(everything(model.axes), everything(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    np.testing.assert_allclose(model.operator(mean, weights).matrix().toarray(), literal_rows(model, mean, weights), atol=1e-10)


def test_every_number_of_threads_gives_the_same_bits(monkeypatch):
    rng = np.random.default_rng(5)
    model = model_of(("gaussian", "linear"), "reflect", (0, 1), True, 0.2, [0.3, 0.0], shape=(41, 30))
    cells = model.grid.size
    mean = rng.uniform(-0.5, 0.9, (cells, 3, 2))
    weights = rng.dirichlet([1.0] * 3, cells)
    f = rng.standard_normal(cells)

    def everything():
        operator = model.operator(mean, weights)
        return (
            operator.start, operator.columns, operator.values, *operator._transposed, operator.apply(f), operator.push(f),
            push_derivative(model.axes, model.width, mean, mean, weights, model.noise, model.coupling),
            model.expected(np.arange(cells), mean, f),
        )  # fmt: skip

    many = []
    for size in (1, 2, 5):
        monkeypatch.setattr(TEAM, "size", size)
        monkeypatch.setattr("wassgrid.transition.threads.WORTH_WAKING", 0.0)
        monkeypatch.setattr(TEAM, "_rest", 0)
        many.append(everything())
    for a, b, c in zip(*many, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_conditional_moments_show_numerical_diffusion():
    """Linear interpolation of a noise-free axis adds variance f(1 - f) h^2; the Nystrom kernel adds none."""
    model = model_of(("gaussian", "linear"), "clamp", (0, 1), False, 0.0, [0.4, 0.0])
    h = model.grid.spacing[1]
    mean = np.column_stack([np.zeros(model.grid.size), np.full(model.grid.size, 1.2 + 0.3 * h)])
    moments = conditional_moments(model.axes, model.width, mean, model.noise, model.coupling)
    np.testing.assert_allclose(moments[:, 1, 1], 0.3 * 0.7 * h * h, atol=1e-12)
    np.testing.assert_allclose(moments[:, 1, 0], mean[:, 1], atol=1e-12)
    exact = literal_weights(GAUSSIAN, "clamp", -1.0, model.grid.spacing[0], 7, 0.0, 0.4) @ model.grid.axes[0] ** 2
    np.testing.assert_allclose(moments[:, 0, 1], exact, atol=1e-12)
