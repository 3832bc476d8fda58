"""Several processes share the cells of a grid: what they find is what one finds. Here as threads; over MPI at the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import together

import wassgrid as wg
from wassgrid.chain import reductions
from wassgrid.chain.coarse import CoarseCorrection
from wassgrid.chain.stationary import starting_law
from wassgrid.cli import main
from wassgrid.evaluation import Evaluator
from wassgrid.grid import StateGrid
from wassgrid.grid.slabs import Slabs
from wassgrid.observers.recorder import Recorder
from wassgrid.policy import initial_policy
from wassgrid.runs.grid_solver import GridSolver
from wassgrid.runs.solvers import solve
from wassgrid.runs.together import Following, Leading, SharingError, dealt, require_shareable, shared_out
from wassgrid.storage import ResultFile
from wassgrid.transition.model import TransitionModel
from wassgrid.transition.slab_model import SlabModel, cut_axis

pytestmark = pytest.mark.thorough
ROOT = Path(__file__).resolve().parent.parent
CASES = ROOT / "cases"


def case_of(name: str, *overrides: str) -> wg.Case:
    return wg.Case.load(CASES / f"{name}.toml", overrides)


# streamed and aligned, a periodic axis among them; two axes that follow; none that follows; clouds on a line; signed weights
OPERATORS = {
    "streamed": ("pendulum", "grid.points.theta=64"),
    "four dimensions": ("oscillators_4d", "grid.points.q1=7", "grid.points.q2=6", "grid.kernel=linear"),
    "all collided": (
        "inverted_pendulum", "grid.points.theta=18", "grid.points.omega=17", "grid.kernel=linear", "policy.particles=2",
    ),
    "on a line": ("double_well",),
    "signed": ("pendulum", "grid.points.theta=40", "grid.points.omega=21", 'grid.kernel={theta="cubic", omega="linear"}'),
}  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("name", OPERATORS)
def test_products_expectations_and_rows_are_those_of_one_process(name, size):
    file, *overrides = OPERATORS[name]
    case = case_of(file, *overrides)
    grid = StateGrid.from_case(case)
    whole = TransitionModel.from_case(case, grid)
    policy, rng = initial_policy(case, grid), np.random.default_rng(0)
    f, mu = rng.standard_normal(grid.size), rng.random(grid.size)
    cells = np.arange(grid.size)
    operator = whole.operator(whole.means(policy.actions)[0], policy.weights)
    expected = whole.expectation(f).derivatives(cells, whole.tables(cells, policy.actions, 2))

    def shared(ranks):
        slabs = Slabs.of(ranks, grid, cut_axis(case.problem, grid))
        with reductions.sharing(slabs):
            model = SlabModel.share(TransitionModel.from_case(case, grid), slabs)
            part = initial_policy(case, slabs.grid)
            here = model.operator(model.means(part.actions)[0], part.weights)
            own = np.arange(slabs.grid.size)
            found = model.expectation(slabs.own(f)).derivatives(own, model.tables(own, part.actions, 2))
            parts = [part.actions, here.apply(slabs.own(f)), here.push(slabs.own(mu)), *found]
            return [slabs.everything(x) for x in parts], here.matrix(), (here.entries, here.work, here.bandwidth)

    for arrays, matrix, facts in together(size, shared):
        wanted = [policy.actions, operator.apply(f), operator.push(mu), *expected]
        for one, other in zip(arrays, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12 * np.abs(other).max())
        assert abs(matrix - operator.matrix()).max() < 1e-14
        np.testing.assert_allclose(facts, (operator.entries, operator.work, operator.bandwidth), rtol=1e-12)


def test_what_is_brought_together_is_that_of_all_cells():
    grid = StateGrid(("x", "y"), (np.arange(7.0), np.arange(4.0)), ("clamp", "periodic"))
    rng = np.random.default_rng(1)
    x, y, particles = rng.standard_normal(28), rng.standard_normal(28), rng.random((28, 3, 2))
    x[[5, 20]] = x.max() + 1.0

    def shared(ranks):
        slabs = Slabs.of(ranks, grid, 0)
        with reductions.sharing(slabs):
            a, b = slabs.own(x), slabs.own(y)
            assert reductions.dot(a, b) == pytest.approx(x @ y, rel=1e-14)
            assert reductions.total_variation(a) == pytest.approx(np.abs(x).sum(), rel=1e-14)
            assert reductions.ends(a) == (x.min(), x.max()) and reductions.largest(b) == np.abs(y).max()
            assert reductions.likeliest(a) == 5 and reductions.count(a > 0.0) == np.count_nonzero(x > 0.0)
            np.testing.assert_allclose(reductions.products(np.stack([a, b]), b), np.stack([x, y]) @ y, rtol=1e-14)
            np.testing.assert_array_equal(reductions.medians(slabs.own(particles)), np.median(particles, axis=(0, 1)))
            np.testing.assert_array_equal(reductions.everything(a), x)
            np.testing.assert_allclose(starting_law(a.size), slabs.own(starting_law_of_one), rtol=1e-14)
            written = reductions.written(slabs.own(particles))
            np.testing.assert_array_equal(written, particles if ranks.leads else slabs.own(particles))
            np.testing.assert_array_equal(slabs.dealt(particles if ranks.leads else None), slabs.own(particles))

    starting_law_of_one = starting_law(28)
    for size in (1, 2, 3):
        together(size, shared)


def test_law_and_value_by_a_coarse_correction_are_those_of_one_process():
    case = case_of("pendulum", "grid.points.theta=96")
    grid = StateGrid.from_case(case)

    def solved(model):
        evaluator = Evaluator(model, 1.0, "krylov", "krylov")
        found = evaluator.evaluate(initial_policy(case, model.grid))
        assert isinstance(found.chain.correction, CoarseCorrection)
        return found

    one = solved(TransitionModel.from_case(case, grid))

    def shared(ranks):
        slabs = Slabs.of(ranks, grid, 0)
        with reductions.sharing(slabs):
            found = solved(SlabModel.share(TransitionModel.from_case(case, grid), slabs))
            return found.objective, slabs.everything(found.law), slabs.everything(found.value), found.value_iterations

    for objective, law, value, iterations in together(2, shared):
        assert objective == pytest.approx(one.objective, rel=1e-11) and abs(iterations - one.value_iterations) <= 2
        np.testing.assert_allclose(law, one.law, atol=1e-11)
        np.testing.assert_allclose(value, one.value, atol=1e-10 * np.abs(one.value).max())


RUNS = {
    "newton": (3, "oscillators_4d", "grid.points.q1=7", "grid.points.q2=7", "grid.kernel=linear", "flow.stop.steps=3"),
    "coarser grids": (2, "inverted_pendulum", "grid.points.theta=40", "grid.points.omega=41", "grid.kernel=linear",
                      "grid.levels=2"),
    "discounted": (2, "inverted_pendulum", "grid.points.theta=14", "grid.points.omega=15", "grid.kernel=linear",
                   "criterion.kind=discounted", "criterion.discount=0.9", "flow.stop.steps=3"),
    "flow": (4, "scalar_lq", "flow.stop.steps=3"),
    "nearly two classes": (2, "double_well", "flow.stop.steps=4"),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_shared_run_writes_what_one_process_writes(name, tmp_path):
    size, file, *overrides = RUNS[name]
    case = case_of(file, *overrides)
    assert name != "coarser grids" or GridSolver.from_case(case)._from_coarser() is not None
    with Recorder.create(tmp_path / "one.h5", case) as recorder:
        solve(case, [recorder])

    def shared(ranks):
        with shared_out(ranks, case):
            if not ranks.leads:
                return solve(case, [Following(ranks)])
            with Recorder.create(tmp_path / "several.h5", case) as recorder:
                return solve(case, [Leading(ranks, [recorder])])

    solutions = together(size, shared)
    assert len({(solution.objective, solution.lower_bound, solution.reason) for solution in solutions}) == 1
    same(tmp_path / "one.h5", tmp_path / "several.h5", touchy=name in ("coarser grids", "nearly two classes"))


def same(first: Path, second: Path, touchy: bool = False) -> None:
    """Assert that two result files hold the same run; touchy: but for what roundings do to cells that are hardly ever visited."""
    with ResultFile(first) as one, ResultFile(second) as other:
        assert len(one.convergence["step"]) == len(other.convergence["step"])
        for column in ("objective",) if touchy else ("objective", "lower_bound", "gradient_norm", "upper_end"):
            a, b = one.convergence[column], other.convergence[column]
            scale = np.abs(one.convergence["objective"]).max()
            np.testing.assert_allclose(a, b, rtol=1e-7 if touchy else 1e-9, atol=1e-10 * scale)
        np.testing.assert_allclose(one.convergence["objective"][-1], other.convergence["objective"][-1], rtol=1e-10)
        for array in ("stationary",) if touchy else ("actions", "weights", "stationary", "value"):
            a, b = one.frame(array), other.frame(array)
            np.testing.assert_allclose(a, b, rtol=0.0, atol=1e-9 * np.abs(a).max())
        checkpoints = one.checkpoint, other.checkpoint
        assert checkpoints[0].keys() == checkpoints[1].keys()
        assert checkpoints[0]["best_values"].shape == checkpoints[1]["best_values"].shape


def test_a_run_goes_on_on_another_number_of_processes(tmp_path):
    case = case_of("pendulum", "grid.points.theta=48", "flow.stop.steps=4")
    with Recorder.create(tmp_path / "one.h5", case) as recorder:
        solve(case, [recorder])
    short = case_of("pendulum", "grid.points.theta=48", "flow.stop.steps=2")
    path = tmp_path / "several.h5"

    def begun(ranks):
        with shared_out(ranks, short):
            if not ranks.leads:
                return solve(short, [Following(ranks)])
            with Recorder.create(path, short) as recorder:
                return solve(short, [Leading(ranks, [recorder])])

    def resumed(ranks):
        with shared_out(ranks, case):
            if not ranks.leads:
                return solve(case, [Following(ranks)], dealt(None))
            with Recorder.resume(path, ["flow.stop.steps=4"]) as recorder:
                return solve(case, [Leading(ranks, [recorder])], dealt(recorder.checkpoint))

    together(3, begun)
    together(2, resumed)
    same(tmp_path / "one.h5", path)


def test_an_error_in_one_process_is_raised_in_all():
    def shared(ranks):
        def task():
            if ranks.rank == 1:
                raise FloatingPointError("not finite here")

        with pytest.raises(FloatingPointError, match="not finite here"):
            ranks.agreed(task)
        return True

    assert together(3, shared) == [True] * 3


def test_a_wish_to_end_reaches_all_at_the_same_sum():
    def shared(ranks):
        ranks.armed, sums = True, 0
        with pytest.raises(KeyboardInterrupt):
            for step in range(10):
                if ranks.rank == 1 and step == 4:
                    ranks.wish()
                ranks.numbers(np.array([1.0]))
                sums += 1
        ranks.numbers(np.array([1.0]))  # once: what is written at the end is not interrupted
        return sums

    assert together(3, shared) == [4, 4, 4]


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (["flow.method=full_newton"], "newton"),
        (["flow.geometry=wasserstein_fisher_rao"], "geometry"),
        (["output.curvature_every=1"], "curvature_every"),
        (["solver.stationary=arnoldi"], "arnoldi"),
    ],
)
def test_what_cannot_be_shared_is_refused(overrides, word):
    with pytest.raises(SharingError, match=word):
        require_shareable(case_of("pendulum", *overrides))


def test_more_processes_than_points_are_refused():
    grid = StateGrid(("x",), (np.arange(3.0),), ("clamp",))

    def shared(ranks):
        with pytest.raises(wg.WassgridError, match="the 3 points of x"):
            Slabs.of(ranks, grid, 0)

    together(4, shared)


@pytest.mark.parametrize("own", ["0", "1"])
@pytest.mark.parametrize("verb", ["run", "check"])
def test_processes_without_the_extra_say_so_once_and_do_nothing(verb, own, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", own)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert main([verb, str(CASES / "scalar_lq.toml")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == (own == "0") and not list(tmp_path.iterdir())
    if own == "0":
        assert ("wassgrid[mpi]" if verb == "run" else "would each do 'check'") in said


def mpiexec(size: int, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in so many processes over MPI; skips where there is none."""
    pytest.importorskip("mpi4py", reason="mpi4py comes with the extra `mpi`")
    command = shutil.which("mpiexec")
    if command is None:
        pytest.skip("no mpiexec here: it comes with the MPI library of the system")
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1"}
    environment = os.environ | allowed | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [command, "-n", str(size), sys.executable, "-m", "wassgrid", *arguments], cwd=cwd, env=environment, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip


def test_over_mpi_a_run_and_its_end_are_those_of_one_process(tmp_path):
    case = case_of("oscillators_4d", "grid.points.q1=7", "grid.points.q2=7", "grid.kernel=linear", "flow.stop.steps=2")
    with Recorder.create(tmp_path / "one.h5", case) as recorder:
        solve(case, [recorder])
    (tmp_path / "case.toml").write_text(case.to_text(), encoding="utf-8")
    done = mpiexec(2, "run", "case.toml", "-o", "several.h5", "--quiet", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.count("wassgrid: not converged") == 1, done.stderr
    same(tmp_path / "one.h5", tmp_path / "several.h5")
    done = mpiexec(2, "run", "nothing.toml", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("nothing.toml") == 1, done.stderr
