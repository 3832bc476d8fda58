"""Bounds over boxes of means hold at every mean of the box, and shrink as they should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from wassgrid.case import Case
from wassgrid.certificate import mean_tables
from wassgrid.certificate.action_value import ActionValue
from wassgrid.certificate.axis_bounds import axis_bounds, floor_value
from wassgrid.certificate.profiles import Profiles
from wassgrid.certificate.weight_bounds import weight_bounds
from wassgrid.evaluation import Evaluation, Evaluator
from wassgrid.policy import ParticlePolicy
from wassgrid.transition import threads
from wassgrid.transition.axis_kernels import GAUSSIAN, LINEAR, MATCHED, axis_weights
from wassgrid.transition.compiled import CLAMP, PERIODIC, REFLECT
from wassgrid.transition.expectations import expectations

pytestmark = pytest.mark.thorough

NODES, SPACING, LOWER = 20, 0.5, -4.0
KINDS = [
    (kernel, boundary)
    for kernel in (GAUSSIAN, LINEAR, MATCHED)
    for boundary in (CLAMP, REFLECT, PERIODIC)
]


def weights(kernel: int, boundary: int, mean: float, noise: float) -> np.ndarray:
    """Weights and two derivatives by extended node, (3, 400), node 0 of the axis at 200."""
    w = np.zeros((3, 300))
    first, count = axis_weights(kernel, boundary, LOWER, SPACING, NODES, mean, noise, 2, w[0], w[1], w[2])
    table = np.zeros((3, 400))
    table[:, 200 + first : 200 + first + count] = w[:, :count]
    return table


def bounds(kernel: int, boundary: int, mean: float, radius: float, noise: float):
    u, polynomial = np.zeros((4, 300)), np.zeros(3)
    profiles = Profiles.build([np.array([noise / SPACING]) if kernel == MATCHED else None])
    first, centre, count, smooth, bounded = weight_bounds(
        kernel, boundary, LOWER, SPACING, NODES, mean, radius, noise, profiles, 0, u, polynomial, np.zeros(12)
    )
    table = np.zeros((4, 400))
    table[:, 200 + first : 200 + first + count] = u[:, :count]
    return table, polynomial, centre, smooth, bounded


@pytest.mark.parametrize(("kernel", "boundary"), KINDS)
@given(
    mean=st.floats(-4.0, 5.5), radius=st.floats(1e-3, 2.0), noise=st.floats(0.26, 1.5), seed=st.integers(0, 2**32 - 1)
)
@settings(max_examples=60)
def test_weights_and_their_derivatives_stay_below_the_bounds(kernel, boundary, mean, radius, noise, seed):
    top = LOWER + SPACING * (NODES - 1)
    if boundary == CLAMP:
        # kinks at the ends are another matter
        radius = min(radius, mean - LOWER, top - mean)
        assume(radius > 1e-4)
    else:
        # one winding, so that extended nodes can be compared
        period = NODES * SPACING if boundary == PERIODIC else 2 * (NODES - 1) * SPACING
        assume(mean - radius > LOWER and mean + radius < LOWER + period)
    table, polynomial, centre, smooth, bounded = bounds(kernel, boundary, mean, radius, noise)
    if not bounded:
        assert radius > 6 * noise
        return
    assert smooth
    nodes = SPACING * (np.arange(400) - 200)
    step = 1e-4 * noise
    for m in mean + (radius - 2 * step) * np.random.default_rng(seed).uniform(-1, 1, 4):
        w = weights(kernel, boundary, m, noise)
        right, left = weights(kernel, boundary, m + step, noise), weights(kernel, boundary, m - step, noise)
        third = (right[2] - left[2]) / (2 * step)
        slack = np.array([1e-12, 1e-12 / noise, 1e-12 / noise**2, 1e-4 / noise**3])
        assert np.all(np.abs(np.vstack([w, third])) <= table * (1 + 1e-9) + slack[:, None])
        # derivatives of E x and E (x - c)^2
        x = nodes - centre
        assert abs(w[2] @ x) <= polynomial[0] * (1 + 1e-9) + 1e-9 / noise
        assert abs(third @ x) <= polynomial[1] * (1 + 1e-9) + 1e-3 / noise**2
        assert abs(third @ x**2) <= polynomial[2] * (1 + 1e-9) + 1e-3 / noise


@pytest.mark.parametrize("boundary", [CLAMP, REFLECT])
@pytest.mark.parametrize("ratios", [[0.1], [0.3], [0.45], [0.4999], [0.5], [0.5001], [0.7], [0.06, 0.9], [0.3, 0.55]], ids=str)
def test_bounds_of_matched_weights_hold_at_any_noise(boundary, ratios):
    """Below half a cell too, where the law passes to two nodes, and for tables that many noises share."""
    rng = np.random.default_rng(int(1e4 * sum(ratios)) + boundary)
    profiles = Profiles.build([np.array(ratios)])
    u, polynomial, w = np.zeros((4, 300)), np.zeros(3), np.zeros((3, 300))
    some = 0
    for _ in range(35):
        ratio = float(rng.uniform(min(ratios), max(ratios)))
        radius = SPACING * 10.0 ** rng.uniform(-4, 0.3)
        place = rng.integers(1, NODES - 2)
        mean = LOWER + SPACING * rng.choice([place, place + 0.5, rng.uniform(0, NODES - 1)])
        # within the ends, and within one winding, so that extended nodes can be compared
        radius = min(radius, mean - LOWER, LOWER + SPACING * (NODES - 1) - mean)
        noise = SPACING * ratio
        first, _, count, smooth, bounded = weight_bounds(
            MATCHED, boundary, LOWER, SPACING, NODES, mean, radius, noise, profiles, 0, u, polynomial, np.zeros(12)
        )
        some += bounded
        # tables of many noises know no third derivative where the passage begins
        assert bounded or radius > SPACING
        assert smooth or not bounded or len(ratios) > 1
        if not bounded:
            continue
        table, step = np.zeros((4, 400)), 1e-6 * SPACING
        table[:, 100 + first : 100 + first + count] = u[:, :count]
        for m in mean + (radius - 2 * step) * rng.uniform(-1, 1, 8):
            seen = np.zeros((3, 3, 400))
            for k in range(3):
                there = m + (k - 1) * step
                at, number = axis_weights(MATCHED, boundary, LOWER, SPACING, NODES, there, noise, 2, w[0], w[1], w[2])
                seen[k, :, 100 + at : 100 + at + number] = w[:, :number]
            assert np.all(np.abs(seen[1, :2]) <= table[:2] * (1 + 1e-9) + 1e-12 / SPACING)
            if smooth:
                third = (seen[2, 2] - seen[0, 2]) / (2 * step)
                scale = np.abs(seen[1, 2]).max()
                assert np.all(np.abs(seen[1, 2]) <= table[2] * (1 + 1e-9) + 1e-12 * scale)
                assert np.all(np.abs(third) <= table[3] * (1 + 1e-9) + 1e-8 * scale / step)
    assert some > 26


@given(noise=st.floats(0.5, 1.5), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_bounds_of_small_boxes_are_sharp(noise, seed):
    mean = float(np.random.default_rng(seed).uniform(-0.5, 0.5))
    table, *_ = bounds(GAUSSIAN, PERIODIC, mean + 3, 1e-4 * noise, noise)
    w = weights(GAUSSIAN, PERIODIC, mean + 3, noise)
    for p in range(3):
        excess = np.abs(table[p]) - np.abs(w[p])
        # what lattice corrections and the radius leave
        assert excess.max() <= (0.02 if noise > 0.6 else 0.6) * np.abs(w[p]).max()


def test_hats_have_kinks_at_nodes_only():
    for mean, radius, smooth in ((-3.75, 0.2, True), (-3.75, 0.3, False), (-4.3, 0.2, True), (-4.1, 0.2, False)):
        table, _, _, found, bounded = bounds(LINEAR, CLAMP, mean, radius, 0.0)
        assert bounded
        assert found == smooth
        # not on the nodes, where one derivative stands for both sides
        for m in mean + radius * np.linspace(-0.9991, 0.9993, 41):
            w = weights(LINEAR, CLAMP, m, 0.0)
            assert np.all(w[0] <= table[0] + 1e-12)
            assert np.all(np.abs(w[1]) <= table[1] + 1e-12)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_floor_and_polynomial_references_hold(seed):
    """For all weights below the bounds, not only those of one kernel."""
    rng = np.random.default_rng(seed)
    mean, radius, noise = rng.uniform(-1, 1), rng.uniform(0.01, 1.0), rng.uniform(0.4, 1.0)
    table, polynomial, centre, _, _ = bounds(GAUSSIAN, PERIODIC, mean + 2, radius, noise)
    used = np.flatnonzero(table[0])
    nodes = SPACING * (used - 200.0)
    # nearly quadratic: the case the references are made for
    f = np.ascontiguousarray(rng.normal() + rng.normal() * nodes + rng.normal() * nodes**2 + 0.01 * rng.normal(size=nodes.size))
    u = np.ascontiguousarray(table[:, used])
    parts = np.zeros(4)
    axis_bounds(f, float(nodes[0] - centre), SPACING, f.size, u, polynomial, parts)
    assert parts[0] == floor_value(f, f.size, u[0])
    step = 1e-3 * noise
    for m in mean + 2 + (radius - 2 * step) * rng.uniform(-1, 1, 5):
        w = weights(GAUSSIAN, PERIODIC, m, noise)[:, used]
        right = weights(GAUSSIAN, PERIODIC, m + step, noise)[2, used]
        left = weights(GAUSSIAN, PERIODIC, m - step, noise)[2, used]
        scale = np.abs(f).max()
        assert w[0] @ f >= parts[0] - 1e-12 * scale
        assert abs(w[1] @ f) <= parts[1] * (1 + 1e-9) + 1e-11 * scale
        assert abs(w[2] @ f) <= parts[2] * (1 + 1e-9) + 1e-10 * scale
        assert abs((right - left) @ f / (2 * step)) <= parts[3] * (1 + 1e-9) + 1e-4 * scale


HEAD = """
[cost]
stage = "x**2 + 0.3*y**2 + x*y"
[grid.points]
x = 11
y = 12
[actions.a]
bounds = [-2, 2]
[actions.b]
bounds = [-1, 1]
"""
LAWS = {
    "one action on the first axis": ("0.8*x + 0.1*y + a", "0.6", "0.7*y - 0.1*x", "0.5", "clamp"),
    "one action on the second axis": ("0.8*x + 0.1*y", "0.6", "0.7*y + b", "0.8", "reflect"),
    "the moved axis leads": ("0.8*x + a + 0.3*b**2", "0.6", "0.5*y + 0.4*next(x)", "0.5", "periodic"),
    "the moved axis follows": ("0.8*x", "0.6", "0.5*y + 0.4*next(x) + a*b", "0.6", "clamp"),
    "both axes": ("0.8*x + a", "0.7", "0.6*y + b + 0.2*a", "0.6", "periodic"),
    "both axes, one follows": ("0.8*x + a", "0.7", "0.6*y + b + 0.4*next(x)", "0.6", "clamp"),
    "without noise": ("0.8*x + a", "0", "0.6*y + 0.4*next(x)", "0.6", "clamp"),
}


def evaluation_of(law: str, seed: int = 0) -> Evaluation:
    x, noise_x, y, noise_y, boundary = LAWS[law]
    text = f"""
[states.x]
next = "{x}"
noise = "{noise_x}"
domain = [-3, 3]
boundary = "{boundary if boundary != 'periodic' else 'clamp'}"
[states.y]
next = "{y}"
noise = "{noise_y}"
domain = [-3, 3]
boundary = "{boundary}"
{HEAD}"""
    evaluator = Evaluator.from_case(Case.from_text(text))
    grid = evaluator.model.grid
    rng = np.random.default_rng(seed)
    actions = rng.uniform([-1, -1], [1, 1], (grid.size, 2, 2))
    return evaluator.evaluate(ParticlePolicy(grid, actions, np.full((grid.size, 2), 0.5)))


@pytest.mark.parametrize("axes", [(), (1, 2)])
@pytest.mark.parametrize("law", LAWS)
def test_enclosures_hold_over_their_boxes(law, axes, monkeypatch):
    monkeypatch.setattr(mean_tables, "AXES", axes)
    monkeypatch.setattr(mean_tables, "_MOST_PIECES", dict.fromkeys(axes, np.inf))
    evaluation = evaluation_of(law)
    model = evaluation.model
    rng = np.random.default_rng(3)
    low, high = (np.tile(side, (model.grid.size, 1)) for side in model.problem.action_bounds.T)
    q = ActionValue.build(evaluation, low, high)
    cells = rng.integers(0, model.grid.size, 60)
    means = model.problem.action_ranges(model.grid.states[cells], low[cells], high[cells], 0).mean[0]
    moved = (means[1] > means[0]).any(axis=0)
    mean = means[0] + (means[1] - means[0]) * rng.random((60, 2))
    radius = np.where(moved, rng.choice([0.02, 0.2, 0.8], (60, 2)), 0.0)
    found = q.enclose(cells, mean, radius)
    assert found.smooth.any()

    def derivatives(m: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        unit, none = np.broadcast_to(np.eye(2), (60, 1, 2, 2)).copy(), np.zeros((60, 1, 2, 2, 2))
        return expectations(
            model.axes, model.width, cells, m[:, None], unit, none, model.noise, model.coupling, evaluation.value
        )

    centre = derivatives(mean)
    scale = np.ptp(evaluation.value)
    np.testing.assert_allclose(found.value, centre[0][:, 0], atol=1e-12 * scale)
    np.testing.assert_allclose(found.gradient[:, moved], centre[1][:, 0][:, moved], atol=1e-11 * scale)
    both = np.outer(moved, moved)
    np.testing.assert_allclose(found.hessian[:, both], centre[2][:, 0][:, both], atol=1e-10 * scale)
    for _ in range(30):
        there = derivatives(mean + radius * rng.uniform(-1, 1, radius.shape))
        rows = found.bounded
        assert np.all((there[0][:, 0] >= found.floor - 1e-12 * scale)[rows])
        assert np.all((np.abs(there[1][:, 0]) <= found.slope + 1e-11 * scale)[rows][:, moved])
        assert within(there[1][:, 0], found.first, 1e-11 * scale)[found.bounded][:, moved].all()
        rows = found.bounded & found.smooth
        assert within(there[2][:, 0], found.second, 1e-10 * scale)[rows][:, both].all()
        if q._mean_tables is not None:
            continue
        change = np.abs(there[2][:, 0] - centre[2][:, 0])
        assert np.all((np.abs(there[2][:, 0]) <= found.most + 1e-10 * scale)[rows][:, both])
        assert np.all((change <= found.bend + 1e-10 * scale)[rows][:, both])


def within(x: np.ndarray, ranges: np.ndarray, slack: float) -> np.ndarray:
    return (x >= ranges[0] - slack) & (x <= ranges[1] + slack)


BOUNDARIES = ("clamp", "reflect", "periodic")


@pytest.mark.parametrize("kernel", ["gaussian", "linear", "matched"])
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("moved", [1, 2, 3])
def test_pieces_of_means_enclose_all_boxes(kernel, boundary, moved, monkeypatch):
    """Boxes of all sizes, up to the whole axis, inside it, across its ends and beyond; streamed axes beside the moved ones."""
    monkeypatch.setattr(mean_tables, "AXES", (1, 2, 3))
    monkeypatch.setattr(mean_tables, "_MOST_PIECES", dict.fromkeys((1, 2, 3), np.inf))
    rng = np.random.default_rng(5)
    names, points = "xyz"[: max(moved, 2)], (9, 8, 7)
    tables = ""
    for j, name in enumerate(names):
        law = f"0.5*{name} + a{j}" if j < moved else f"0.4*{name} + 0.3*next(x)"
        noise = 1.1 * 4.0 / (points[j] - 1)
        side = "clamp" if j >= moved else BOUNDARIES[(BOUNDARIES.index(boundary) + j) % 3]
        if moved == 1 and boundary == "periodic":
            law = law.replace(" + 0.3*next(x)", "")
        tables += f'[states.{name}]\nnext = "{law}"\nnoise = "{noise}"\ndomain = [-2, 2]\nboundary = "{side}"\n'
    tables += "".join(f"[actions.a{j}]\nbounds = [-3, 3]\n" for j in range(moved))
    grid = ", ".join(f"{name} = {n}" for name, n in zip(names, points, strict=False))
    text = f'{tables}[cost]\nstage = "x**2"\n[grid]\npoints = {{ {grid} }}\nkernel = "{kernel}"\n'
    model = Evaluator.from_case(Case.from_text(text)).model
    d, count = len(names), 150
    value = rng.standard_normal(model.grid.size) + (model.grid.states**2).sum(axis=1)
    law = model.plain_product
    assert law is not None
    u = law.prepared(value)
    made = mean_tables.MeanTables.build(law.collision, Profiles.of(model), law.noise, u)
    assert made is not None
    cells = rng.integers(0, model.grid.size, count)
    states = model.grid.states[cells]
    mean, radius = states.copy(), np.zeros((count, d))
    mean[:, :moved] = rng.uniform(-4.0, 4.0, (count, moved))
    radius[:, :moved] = rng.choice([0.0, 0.05, 0.4, 2.5], (count, moved))
    mean[:, moved:] *= 0.4
    outside = np.abs(mean) > 2.0 + radius
    for j in range(moved):
        if model.grid.boundary[j] == "clamp":
            radius[outside[:, j], j] = 0.0
    floor, smooth = np.zeros(count), np.ones(count, bool)
    first, second = np.zeros((2, count, d)), np.zeros((2, count, d, d))
    made.enclose(law.numbers[cells], mean, radius, np.full(d, 1e-13), floor, smooth, first, second)
    scale, some = np.abs(value).max(), radius > 0.0
    assert smooth.any() and some.any()
    for _ in range(40):
        there = mean + radius * np.clip(rng.uniform(-1.3, 1.3, radius.shape), -1.0, 1.0)
        unit = np.broadcast_to(np.eye(d), (count, 1, d, d)).copy()
        values, slopes, bends = expectations(
            model.axes, model.width, cells, there[:, None], unit, np.zeros((count, 1, d, d, d)), model.cell_noise,
            model.coupling, value,
        )  # fmt: skip
        # where all is still the value is exact, and no floor is used
        rows = some.any(axis=1)
        assert np.all((values[:, 0] >= floor - 1e-11 * scale)[rows])
        assert within(slopes[:, 0], first, 1e-11 * scale)[some].all()
        both = some[:, :, None] & some[:, None, :] & smooth[:, None, None]
        assert within(bends[:, 0], second, 1e-10 * scale)[both].all()


def without_product(evaluation: Evaluation) -> Evaluation:
    """The same evaluation on a model that does not know its law as a product."""
    model = replace(evaluation.model)
    model.__dict__["product"] = None
    return replace(evaluation, model=model)


@pytest.mark.parametrize("law", LAWS)
def test_every_form_of_the_law_gives_the_general_values(law, monkeypatch):
    monkeypatch.setattr(mean_tables, "AXES", ())
    evaluation = evaluation_of(law)
    model = evaluation.model
    low, high = (np.tile(side, (model.grid.size, 1)) for side in model.problem.action_bounds.T)
    plain = without_product(evaluation)
    general, tabulated = ActionValue(plain, None, 0), ActionValue.build(plain, low, high)
    product = ActionValue.build(evaluation, low, high)
    assert product.in_product_form == (model.product is not None)
    assert (tabulated.table is not None) == model.axes.led
    cells = np.arange(model.grid.size)
    actions = low[:, None] + (high - low)[:, None] * np.random.default_rng(2).random((cells.size, 3, 2))
    scale = np.ptp(evaluation.value)
    mean = model.tables(cells, actions[:, :1], 0).mean[:, 0]
    ranges = model.problem.action_ranges(model.grid.states, low, high, 0).mean[0]
    moved = (ranges[0] != ranges[1]).any(axis=0)
    radius = np.where(moved, 0.3, 0.0) * np.ones((cells.size, 1))
    slow = general.enclose(cells, mean, radius)
    for q in (tabulated, product):
        np.testing.assert_allclose(q.values(cells, actions), general.values(cells, actions), atol=1e-12 * scale)
        for one, other in zip(q.derivatives(cells, actions[:, 0]), general.derivatives(cells, actions[:, 0]), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-10 * scale)
        found = q.enclose(cells, mean, radius)
        both = np.ix_(cells, moved, moved)
        np.testing.assert_allclose(found.value, slow.value, atol=1e-12 * scale)
        np.testing.assert_allclose(found.gradient[:, moved], slow.gradient[:, moved], atol=1e-11 * scale)
        np.testing.assert_allclose(found.hessian[both], slow.hessian[both], atol=1e-10 * scale)
        if moved.sum() == 1:
            for name in ("floor", "smooth", "bounded"):
                np.testing.assert_allclose(getattr(found, name), getattr(slow, name), atol=1e-10 * scale)
            np.testing.assert_allclose(found.slope[:, moved], slow.slope[:, moved], rtol=1e-9, atol=1e-9 * scale)
            np.testing.assert_allclose(found.bend[both], slow.bend[both], rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize("law", ["one action on the first axis", "both axes"])
def test_enclosures_do_not_depend_on_the_number_of_threads(law, monkeypatch):
    evaluation = evaluation_of(law)
    model = evaluation.model
    low, high = (np.tile(side, (model.grid.size, 1)) for side in model.problem.action_bounds.T)
    mean = model.tables(np.arange(model.grid.size), np.zeros((model.grid.size, 1, 2)), 0).mean[:, 0]
    cells, radius = np.arange(model.grid.size), np.full((model.grid.size, 2), 0.2)
    results = []
    for size in (1, 3):
        monkeypatch.setattr(threads.TEAM, "size", size)
        monkeypatch.setattr(threads, "WORTH_WAKING", 0.0)
        for some in (evaluation, without_product(evaluation)):
            results.append(ActionValue.build(some, low, high).enclose(cells, mean, radius))
    for one, other in zip(results[:2], results[2:], strict=True):
        for x, y in zip(one, other, strict=True):
            assert np.array_equal(x, y)
