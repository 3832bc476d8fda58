"""Neural policies as ONNX models: what ONNX's own evaluators make of them is what the policy computes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax", reason="JAX is an extra")
onnx = pytest.importorskip("onnx", reason="ONNX is an extra")

import tomli_w  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from wassgrid.case import Case  # noqa: E402
from wassgrid.cli import main  # noqa: E402
from wassgrid.export import ExportError  # noqa: E402
from wassgrid.export.onnx_graph import NeuralParcel  # noqa: E402
from wassgrid.export.onnx_graph import onnx as onnx_model  # noqa: E402
from wassgrid.neural.computed_policy import NeuralPolicy, blueprint_of  # noqa: E402

ROWS = 500


def case(mean: str | None = None, bounds: tuple[tuple[float, float] | None, ...] = (None, None), **neural: object) -> Case:
    """Two states, one of which winds around, and two actions."""
    initial = {"distribution": "point"} | ({} if mean is None else {"mean": mean})
    tables = {
        "states": {
            "x": {"next": "0.9*x + u", "noise": 0.1, "domain": [-2.0, 4.0]},
            "phi": {"next": "phi + v", "noise": 0.1, "domain": [-1.0, 2.0], "boundary": "periodic"},
        },
        "actions": {n: {} if b is None else {"bounds": list(b)} for n, b in zip(("u", "v"), bounds, strict=True)},
        "cost": {"stage": "x**2 + u**2 + v**2 - cos(phi)"},
        "policy": {"initial": initial},
        "solver": {"kind": "neural"},
        "neural": {"hidden": [8, 5], "chains": 16, "horizon": 4, "tail": 4, "input_scale": "domain"} | neural,
    }
    return Case.from_text(tomli_w.dumps(tables))


def parcel_of(given: Case) -> NeuralParcel:
    transport = blueprint_of(given, given.neural)
    parameters = 0.5 * np.random.default_rng(1).standard_normal(transport.parameter_count)
    policy = NeuralPolicy(transport, parameters.astype(transport.scale.dtype), given.neural.precision, given.problem.state_names)
    mean = given.policy.initial.mean
    base = () if mean is None else tuple(given.problem.feedback_expressions("policy.initial.mean", mean))
    return NeuralParcel(policy, given, base, {"seed": "1"})


def evaluated(model: bytes, states: np.ndarray, latents: np.ndarray) -> list[np.ndarray]:
    """Actions by ONNX's reference, and by its runtime where that is installed."""
    inputs = {"states": states.astype(np.float32), "latents": latents.astype(np.float32)}
    inputs = {name: values for name, values in inputs.items() if values.size}
    found = [ReferenceEvaluator(onnx.load_from_string(model)).run(None, inputs)[0]]
    try:
        import onnxruntime
    except ImportError:
        return found
    return [*found, onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, inputs)[0]]


CASES = {
    "plain": case(),
    "double": case(precision="float64"),
    "no network": case(hidden=[]),
    "no linear path": case(linear_path=False, activation="silu"),
    "gelu": case(activation="gelu"),
    "softplus": case(activation="softplus"),
    "relu": case(activation="relu", hidden=[16]),
    "latents": case(latent_dimension=3),
    "both bounds": case(bounds=((-1.0, 2.0), (-0.5, 0.5))),
    "both bounds by tanh": case(bounds=((-1.0, 2.0), (-0.5, 0.5)), squash="tanh"),
    "mixed bounds": case(bounds=((-1.0, 0.2), None), latent_dimension=1),
    "base": case(mean="-0.5*x + 0.1*sin(phi)**2 - 1"),
    "base of much": case(mean="max(min(x, 1), -1) + exp(-x**2)/(1 + abs(phi)) - tanh(x)*cos(2*phi) + sqrt(x**2 + 1)*sign(x)"),
    "base of angles": case(mean="0.3*wrap_angle(2*phi + x) + 0.1*mod(x, 2)"),
    "constant base": case(mean="0.3"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_model_is_the_policy(name: str) -> None:
    parcel = parcel_of(CASES[name])
    rng = np.random.default_rng(2)
    states = rng.uniform([-3.0, -2.0], [5.0, 3.0], (ROWS, 2)).astype(np.float32)
    latents = rng.standard_normal((ROWS, parcel.policy.transport.latent_dimension)).astype(np.float32)
    exact = parcel.policy._act(states, latents)
    for actions in evaluated(onnx_model(parcel), states, latents):
        assert actions.shape == (ROWS, 2) and actions.dtype == np.float32
        assert actions == pytest.approx(exact, rel=2e-5, abs=2e-5)
    assert evaluated(onnx_model(parcel), states[:1], latents[:1])[0] == pytest.approx(exact[:1], rel=2e-5, abs=2e-5)


def test_bounds_on_one_side_are_kept() -> None:
    parcel = parcel_of(CASES["plain"])
    transport = replace(parcel.policy.transport, low=(-0.5, -np.inf), high=(np.inf, 0.2))
    parcel = replace(parcel, policy=replace(parcel.policy, transport=transport))
    states = np.random.default_rng(5).uniform(-3, 5, (ROWS, 2)).astype(np.float32)
    exact = parcel.policy.mean(states)
    assert exact[:, 0].min() > -0.5 - 1e-6 and exact[:, 1].max() < 0.2 + 1e-6
    for actions in evaluated(onnx_model(parcel), states, np.zeros((ROWS, 0))):
        assert actions == pytest.approx(exact, rel=2e-5, abs=2e-5)


def test_the_test_sees_a_policy_that_is_another() -> None:
    parcel = parcel_of(CASES["latents"])
    states, latents = np.zeros((ROWS, 2)), np.random.default_rng(3).standard_normal((ROWS, 3))
    other = parcel.policy._act(states, latents * 1.001)
    for actions in evaluated(onnx_model(parcel), states, latents):
        assert np.abs(actions - other).max() > 1e-4


def test_what_cannot_be_written_is_named() -> None:
    with pytest.raises(ExportError, match=r"policy\.initial\.mean: .* is not written to ONNX"):
        onnx_model(parcel_of(case(mean="where(x > 0, 1, 2)")))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    small = case(mean="-0.4*x", bounds=((-1.0, 1.0), None), steps=2, evaluation={"chains": 8, "steps": 64, "burn_in": 8})
    Path("small.toml").write_text(small.to_text())
    assert main(["run", "small.toml", "-q"]) in (0, 1)
    assert main(["export", "small.h5", "--to", "onnx"]) == 0
    assert "small.onnx" in capsys.readouterr().out
    model = Path("small.onnx").read_bytes()
    policy = NeuralPolicy.load("small.h5")
    states = np.random.default_rng(4).uniform(-1, 2, (ROWS, 2))
    for actions in evaluated(model, states, np.zeros((ROWS, 0))):
        assert actions == pytest.approx(policy.mean(states), rel=2e-5, abs=2e-5)
    about = {item.key: item.value for item in onnx.load_from_string(model).metadata_props}
    assert json.loads(about["state_names"]) == ["x", "phi"] and json.loads(about["action_names"]) == ["u", "v"]
    assert Case.from_text(about["case"]) == small
    assert "wassgrid_version" in json.loads(about["provenance"])
    # again, and the same bytes but for nothing
    assert main(["export", "small.h5", "--to", "onnx"]) == 0
    assert Path("small.onnx").read_bytes() == model
    # a grid policy, and what is no model
    grid = tomli_w.dumps({
        "states": {"s": {"next": "0.8*s + a", "noise": 0.4, "domain": [-2, 2]}}, "actions": {"a": {"bounds": [-1, 1]}},
        "cost": {"stage": "s**2 + a**2"}, "grid": {"points": {"s": 11}},
    })  # fmt: skip
    Path("grid.toml").write_text(grid)
    assert main(["run", "grid.toml", "-q"]) == 0
    Path("note.onnx").write_text("precious")
    capsys.readouterr()
    for arguments, message in (
        (["export", "grid.h5", "--to", "onnx"], "holds a grid policy, --to onnx is for neural ones"),
        (["export", "small.h5", "--to", "npz"], "holds a neural policy: --to onnx, or wassgrid.Policy.load"),
        (["export", "small.h5", "--to", "onnx", "-o", "note.onnx"], "is of another kind"),
    ):
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert Path("note.onnx").read_text() == "precious"


def test_without_the_package_one_line_says_so(tmp_path: Path) -> None:
    script = "import sys; sys.modules['onnx'] = None; from wassgrid.cli import main; sys.exit(main(sys.argv[1:]))"
    small = case(steps=1, evaluation={"chains": 8, "steps": 64, "burn_in": 8})
    (tmp_path / "small.toml").write_text(small.to_text())
    for arguments, status in ((["run", "small.toml", "-q"], (0, 1)), (["export", "small.h5", "--to", "onnx"], (2,))):
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode in status, done.stderr
    (line,) = done.stderr.splitlines()
    assert "pip install 'wassgrid[onnx]'" in line
