"""Neural runs through the loop, the command line and the result file."""

import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

pytest.importorskip("jax", reason="the extra `neural` (JAX, Equinox, Optax) is not installed")

import jax
from neural_cases import ring, scalar_lq

import wassgrid
from wassgrid.case import Case, CaseError
from wassgrid.errors import WassgridError
from wassgrid.neural import NeuralExtraMissingError, make_solver
from wassgrid.neural.computed_policy import NeuralPolicy
from wassgrid.neural.policies import SHARPNESS
from wassgrid.neural.solver import ChainsDivergedError, NeuralSolver
from wassgrid.observers.recorder import Recorder
from wassgrid.problem.control_problem import ProblemError
from wassgrid.problem.exact import ScalarLQ
from wassgrid.report import expectations
from wassgrid.runs.loop import RunFailedError, Verdict
from wassgrid.runs.solvers import solve
from wassgrid.simulate import simulate_file
from wassgrid.storage import ResultFile

FILES = sorted((Path(__file__).parent.parent / "cases").glob("*.toml"))
NEURAL_CASES = [path for path in FILES if Case.load(path).solver.kind == "neural"]


def states_of(solver, count, state=None):
    state = solver.start() if state is None else state
    states = [state]
    for _ in range(count):
        states.append(solver.advance(states[-1]))
    return states


def assert_equal_to_the_bit(first, second):
    assert first.keys() == second.keys()
    assert repr(first["facts"]) == repr(second["facts"])  # with nan where Adam measures nothing
    for name in first.keys() - {"elapsed", "facts"}:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.thorough
@pytest.mark.parametrize("path", NEURAL_CASES, ids=lambda path: path.stem)
def test_case_becomes_stationary_and_meets_its_expectation(path):
    case = Case.load(path)
    assert case.expect.average_cost is not None
    solution = solve(case)
    assert solution.complete, solution.reason
    met, sentences = expectations(case, solution.objective)
    assert met, sentences


def test_the_neural_command_of_readme_names_a_case_that_runs():
    command = re.search(r"<!-- neural -->\s*```sh\n(.*?)```", (FILES[0].parent.parent / "README.md").read_text(), re.S)
    assert command and FILES[0].parent / command[1].split("wassgrid run cases/")[1].strip() in NEURAL_CASES


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options",
    [{"precision": "float64"}, {"method": "adam", "value": "quadratic"}, {"latent_dimension": 2, "value": "network"}],
)
def test_going_on_from_a_checkpoint_gives_the_same_bits(options):
    case = ring(3, **options)
    straight = states_of(make_solver(case), 4)
    checkpoint = make_solver(case).checkpoint(straight[2])
    again = make_solver(case)
    resumed = states_of(again, 2, again.restore(checkpoint))
    assert_equal_to_the_bit(again.checkpoint(resumed[-1]), make_solver(case).checkpoint(straight[-1]))
    assert resumed[-1].measured == straight[-1].measured


def test_a_run_of_an_earlier_version_keeps_its_tanh():
    solver = NeuralSolver.of(scalar_lq(actions={"bounds": [-1.0, 1.0]}, steps=2))
    state = solver.advance(solver.start())
    stored = solver.checkpoint(state)
    restored = solver.restore(stored)
    assert float(restored.policy.sharpness) == SHARPNESS[0]
    half = np.sqrt(SHARPNESS[0] * SHARPNESS[1])
    assert float(stored["sharpness"]) == pytest.approx(half, rel=1e-6)
    solution = solver.solution(state, Verdict("stopped", "", False))
    assert float(solution.policy.transport.sharpness) == float(stored["sharpness"])
    earlier = solver.restore({name: value for name, value in stored.items() if name != "sharpness"})
    assert earlier.policy.sharpness is None and "sharpness" not in solver.checkpoint(earlier)
    tanh = NeuralSolver.of(scalar_lq(actions={"bounds": [-1.0, 1.0]}, steps=2, squash="tanh"))
    assert tanh.blueprint.sharpness is None


@pytest.mark.thorough
def test_a_run_interrupted_and_resumed_writes_the_numbers_of_an_uninterrupted_one(tmp_path):
    class Stop:
        def start(self, *_):
            pass

        def step(self, record):
            if record.step == 2:
                raise KeyboardInterrupt

        def finish(self, *_):
            pass

    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    with Recorder.create(whole, ring(3)) as recorder:
        solve(recorder.case, [recorder])
    with Recorder.create(parts, ring(3)) as recorder:
        assert solve(recorder.case, [recorder, Stop()]).status == "interrupted"
    with Recorder.resume(parts) as recorder:
        solve(recorder.case, [recorder], recorder.checkpoint)
    with ResultFile(whole) as first, ResultFile(parts) as second:
        timing = {"wall_time"}
        for name in first.convergence.keys() - timing:
            np.testing.assert_array_equal(first.convergence[name], second.convergence[name], err_msg=name)
        np.testing.assert_array_equal(first.array("neural", "parameters"), second.array("neural", "parameters"))
        assert_equal_to_the_bit(first.checkpoint, second.checkpoint)
        assert first.attributes["summary"] == second.attributes["summary"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options", [{"metric_solver": "kernel"}, {"metric_solver": "nystrom", "rank": 4}, {"metric_samples": 16}]
)
def test_every_way_to_the_natural_gradient_lowers_the_cost_to_the_optimum(options):
    exact = ScalarLQ()
    case = scalar_lq(mean="-0.2*x", steps=60, tail=12, evaluation={"chains": 256, "steps": 2000}, **options)
    solution = solve(case)
    assert exact.policy_objective(0.2) > 1.2 * exact.objective
    assert abs(solution.objective - exact.objective) < 4 * solution.standard_error + 5e-3
    gain = -solution.policy.mean(np.array([[1.0], [0.0]]))[:, 0]
    assert gain[0] - gain[1] == pytest.approx(exact.gain, abs=0.05)


@pytest.mark.thorough
@pytest.mark.parametrize(("method", "step"), [("gradient", "adaptive"), ("adam", 0.02)])
def test_plain_gradient_and_adam_solve_the_scalar_problem_too(method, step):
    exact = ScalarLQ()
    solution = solve(scalar_lq(mean="-0.2*x", steps=200, tail=12, method=method, step=step))
    assert abs(solution.objective - exact.objective) < 4 * solution.standard_error + 1e-2


@pytest.mark.thorough
def test_the_noise_of_a_stochastic_policy_dies_out_as_the_deterministic_optimum_wants():
    case = scalar_lq(mean="0", latent_dimension=1, steps=40, averaging="none")
    solver = make_solver(case)
    state = solver.start()
    # a = theta . (x, z) + bias: start from a policy that randomises
    shaken = state.training.parameters.at[:].set(np.array([-0.5, 0.7, 0.0], dtype=np.float32))
    state = type(state)(**{**vars(state), "training": state.training._replace(parameters=shaken, averaged=shaken)})
    final = states_of(solver, 40, state)[-1]
    assert abs(float(final.training.parameters[1])) < 0.05


@pytest.mark.thorough
def test_a_step_is_refused_rather_than_raise_the_windows_cost():
    """From a curvature far too small the first trial overshoots: the parameters stay, the curvature grows."""
    solver = make_solver(scalar_lq(mean="0"))
    state = solver.start()
    curvature, parameters = state.training.curvature + np.float32(1e-4), state.training.parameters - np.float32(0.3)
    small = state.training._replace(curvature=curvature, parameters=parameters)
    state = type(state)(**{**vars(state), "training": small})
    following = solver.advance(state)
    assert following.facts["accepted"] == 0 and not following.facts["actual"] > 0
    np.testing.assert_array_equal(following.training.parameters, state.training.parameters)
    assert float(following.training.curvature) >= 2e-4 * (1 - 1e-6)


def test_chains_that_leave_the_finite_numbers_stop_the_run_with_the_step_and_the_remedy(tmp_path):
    unstable = scalar_lq(a=3.0, mean="0", burn_in=10, horizon=64, steps=5)
    path = tmp_path / "unstable.h5"
    said = r"step 1: 16 of 16 chains left the finite numbers at chain step \d+ of 80: .*policy.initial a stabilising mean"
    with pytest.raises(RunFailedError, match=said), Recorder.create(path, unstable) as recorder:
        solve(unstable, [recorder])
    with ResultFile(path) as result:
        assert result.status == "failed"
        assert re.match(said, result.reason)
        assert np.isfinite(result.convergence["objective"]).all()


def test_an_initial_policy_that_does_not_stabilise_is_refused_before_the_first_step():
    with pytest.raises(ChainsDivergedError, match=r"step \d+ of the burn-in.*policy.initial"):
        make_solver(scalar_lq(a=40.0, mean="0")).start()


@pytest.mark.thorough
def test_the_precision_of_a_case_leaves_the_callers_alone():
    before = jax.config.jax_enable_x64
    state = make_solver(ring(3, precision="float64")).start()
    assert state.training.parameters.dtype == np.float64
    assert make_solver(ring(3)).start().training.parameters.dtype == np.float32
    assert jax.config.jax_enable_x64 == before


@pytest.mark.thorough
def test_the_stored_policy_is_the_computed_one_and_simulates_to_its_objective(tmp_path):
    path = tmp_path / "ring.h5"
    with Recorder.create(path, ring(3, steps=30, horizon=32, tail=16)) as recorder:
        solution = solve(recorder.case, [recorder])
    policy = wassgrid.Policy.load(path)
    assert isinstance(policy, NeuralPolicy)
    states = np.random.default_rng(0).standard_normal((7, 6))
    np.testing.assert_array_equal(policy.mean(states), solution.policy.mean(states))
    np.testing.assert_array_equal(policy.sample(states, np.random.default_rng(1)), policy.mean(states))
    simulated, objective = simulate_file(path, steps=500, chains=64, burn_in=100, seed=3)
    assert objective == solution.objective
    assert abs(simulated.mean - objective) < 4 * math.hypot(simulated.standard_error, solution.standard_error)
    with h5py.File(path, "r+") as file:  # a file of a stranger, sound but for one length
        del file["checkpoint/input_offset"]
        file.create_dataset("checkpoint/input_offset", data=np.zeros(5), fletcher32=True, chunks=(5,))
    with pytest.raises(WassgridError, match="'input_offset' is no array of 6 numbers"):
        wassgrid.Policy.load(path)


@pytest.mark.thorough
def test_mean_and_sample_of_a_stochastic_policy_agree():
    case = scalar_lq(mean="0", latent_dimension=1, steps=0, input_scale="none", evaluation={"chains": 2, "steps": 8})
    policy = solve(case).policy
    policy = replace(policy, parameters=np.array([-0.5, 0.7, 0.25], dtype=np.float32))
    np.testing.assert_allclose(policy.mean(np.array([[2.0]])), [[-0.75]], atol=1e-4)
    draws = policy.sample(np.full((20_000, 1), 2.0), np.random.default_rng(0))
    assert abs(draws.mean() + 0.75) < 4 * 0.7 / math.sqrt(20_000)
    law = policy.distribution(np.array([[2.0]]))
    assert law.actions.shape == (1, 4096, 1)
    np.testing.assert_allclose(law.mean(), policy.mean(np.array([[2.0]])), atol=1e-5)
    np.testing.assert_allclose(policy.std(np.array([2.0])), draws.std(), rtol=0.05)
    np.testing.assert_allclose(policy.quantile(np.array([2.0]), 0.9), np.quantile(draws, 0.9), atol=0.05)
    assert draws.std() == pytest.approx(0.7, rel=0.03)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("hidden", 64, "neural.hidden: expected a list"),
        ("hidden", [0], "neural.hidden: expected an integer of at least 1"),
        ("activation", "tanhh", "did you mean 'tanh'"),
        ("chains", 1, "neural.chains: expected an integer of at least 2"),
        ("step", -0.1, "neural.step: expected a positive number"),
        ("step", "adaptiv", "did you mean 'adaptive'"),
        ("metric_samples", 10_000, "neural.metric_samples: 10000 exceeds the 256 samples"),
        ("damping", 100.0, "neural.damping: 100 lies outside damping_range"),
        ("damping_range", [1.0, 0.1], "neural.damping_range: expected two positive numbers"),
        ("precision", "float16", "neural.precision: expected one of float32, float64"),
        ("step_decay", 2.0, "neural.step_decay: expected a number from 0 to 1"),
        ("learning_rate", 0.1, "neural.learning_rate: unknown key"),
        ("value", "network", "neural.value: a network takes its widths from neural.hidden"),
        ("value", "quadratc", "did you mean 'quadratic'"),
        ("trace", 1.5, "neural.trace: expected a number from 0 to 1"),
        ("linear_path", False, "neural.hidden: empty, and linear_path = false"),
    ],
)
def test_a_bad_value_is_named_with_its_remedy(key, value, said):
    with pytest.raises(CaseError, match=re.escape(said)):
        scalar_lq(**{key: value})


def test_input_scale_domain_needs_domains():
    with pytest.raises(ProblemError, match=r"states\.x\.domain: missing"):
        make_solver(scalar_lq(input_scale="domain"))


def test_without_jax_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)  # as if it were not there
    with pytest.raises(NeuralExtraMissingError, match=r'needs jax.*pip install "wassgrid\[neural\]"'):
        make_solver(ring(3))


def test_reading_a_neural_case_does_not_import_jax():
    program = "import sys; from wassgrid.case import Case; Case.load(sys.argv[1]); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", program, "cases/coupled_oscillators_linear.toml"], check=True)
