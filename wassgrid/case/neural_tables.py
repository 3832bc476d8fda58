"""The `[neural]` table of a case file: policy network, simulated chains, optimiser.  Read and checked without JAX."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PlainValidator, ValidationInfo, model_validator

from wassgrid.case.readers import (
    Flag,
    PositiveNumber,
    Table,
    choice,
    integer,
    keyed_error,
    ranged,
    read_number,
    read_positive,
    shown,
    word_or,
)

METRIC_SAMPLES = 1024
ACTIVATIONS = ("tanh", "silu", "gelu", "softplus", "relu")


def read_widths(value: Any, info: ValidationInfo) -> tuple[int, ...]:
    """Read a list of layer widths, which may be empty."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected a list of integers such as [64, 64], got {shown(value)}")
    return tuple(integer(1, 100_000)(item, info) for item in value)


def read_range(value: Any, info: ValidationInfo) -> tuple[float, float]:
    """Read two positive numbers [lower, upper], equal or in rising order."""
    expected = "two positive numbers [lower, upper]"
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"expected {expected}, got {shown(value)}")
    low, high = (read_number(end, info, expected) for end in value)
    if not 0 < low <= high:
        raise ValueError(f"expected {expected} in rising order, got [{low:g}, {high:g}]")
    return low, high


Nonnegative = ranged("a number of at least 0", lambda x: x >= 0.0)
Count = Annotated[int, PlainValidator(integer(1))]
CountOrZero = Annotated[int, PlainValidator(integer(0))]


class EvaluationTable(Table):
    """The long simulation that measures the finished policy."""

    chains: Annotated[int, PlainValidator(integer(2))] = Field(256, description="independent chains")
    burn_in: CountOrZero = Field(
        500, description="chain steps left out before the measurement; more where the measured correlation time asks for it"
    )
    steps: Annotated[int, PlainValidator(integer(8))] = Field(2000, description="chain steps measured")


class NeuralSettings(Table):
    """The neural solver."""

    hidden: Annotated[tuple[int, ...], PlainValidator(read_widths)] = Field(
        (64, 64), description="widths of the policy's hidden layers; an empty list leaves the linear path alone"
    )
    activation: Annotated[str, PlainValidator(choice(*ACTIVATIONS))] = Field(
        "tanh", description="activation of the hidden layers: tanh, silu, gelu, softplus or relu"
    )
    linear_path: Flag = Field(
        True, description="a linear map of the inputs is added to the network: linear feedback is exact"
    )
    squash: Annotated[str, PlainValidator(choice("clip", "tanh"))] = Field(
        "clip",
        description="how the network's output is brought between two bounds of an action: clip, smooth at the corners, which "
        "sharpen over the steps (optimal actions are clipped so), or tanh",
    )
    latent_dimension: CountOrZero = Field(
        0, description="dimension of the Gaussian z in the action T(s, z); 0: a deterministic policy"
    )
    input_scale: Annotated[str, PlainValidator(choice("stationary", "domain", "none"))] = Field(
        "stationary",
        description="unit of the network's inputs: standard deviation of each state under the initial policy, half the "
        "width of its domain, or the state's own unit",
    )
    chains: Annotated[int, PlainValidator(integer(2))] = Field(256, description="persistent parallel chains")
    burn_in: Count = Field(200, description="chain steps under the initial policy before the first optimisation step")
    horizon: Count = Field(64, description="chain steps per optimisation step whose actions give gradient samples")
    tail: CountOrZero = Field(
        32,
        description="further chain steps that lend those actions their costs; the gradient's truncation bias falls with it "
        "as fast as the closed loop forgets (default with a value function: 0)",
    )
    value: Annotated[str, PlainValidator(choice("none", "quadratic", "network"))] = Field(
        "none",
        description="learnt value function that stands for the costs after the window, so that short windows suffice: "
        "quadratic in the inputs (exact for linear dynamics and quadratic costs) or a network of the policy's widths",
    )
    trace: Annotated[float, PlainValidator(ranged("a number from 0 to 1", lambda x: 0.0 <= x <= 1.0))] = Field(
        0.8,
        description="lambda of the returns with a value function: 0 trusts it after one step (little noise), 1 at the end of "
        "the window alone",
    )
    precision: Annotated[str, PlainValidator(choice("float32", "float64"))] = Field(
        "float32", description="floating-point format of the run: float32 or float64"
    )
    steps: CountOrZero = Field(300, description="optimisation steps")
    method: Annotated[str, PlainValidator(choice("natural", "gradient", "adam"))] = Field(
        "natural", description="natural gradient in the Wasserstein metric, plain gradient, or Adam"
    )
    step: Annotated[str | float, PlainValidator(word_or("adaptive", read_positive))] = Field(
        "adaptive",
        description="flow time per natural or plain gradient step, learning rate of Adam; adaptive: the minimiser of a "
        "quadratic model with measured curvature (Adam: 0.001)",
    )
    step_decay: Annotated[float, PlainValidator(ranged("a number from 0 to 1", lambda x: 0.0 <= x <= 1.0))] = Field(
        0.6, description="power with which adaptive steps shrink, (1 + step/10)^-power"
    )
    metric_solver: Annotated[str, PlainValidator(choice("cg", "kernel", "nystrom"))] = Field(
        "cg",
        description="how the damped metric is inverted: cg (matrix-free conjugate gradients), kernel (Cholesky in "
        "sample space) or nystrom (low-rank approximation)",
    )
    metric_samples: Count | None = Field(
        None,
        description="state-action samples that the metric of a step is made of, its gradient being that of all of them "
        f"(default: {METRIC_SAMPLES}, or all where there are fewer)",
    )
    cg_iterations: Count = Field(10, description="most conjugate-gradient iterations per step")
    rank: Count = Field(100, description="rank of the nystrom approximation")
    damping: PositiveNumber = Field(
        1e-3, description="initial damping of the metric, in squared action per squared parameter"
    )
    damping_range: Annotated[tuple[float, float], PlainValidator(read_range)] = Field(
        (1e-5, 1e1), description="limits of the damping, which adapts between them; equal limits keep it fixed"
    )
    averaging: Annotated[str | float, PlainValidator(word_or("none", Nonnegative))] = Field(
        3.0,
        description="power of the polynomial-decay average of the parameters that is the reported policy; 0: the plain "
        'mean of all steps; "none": the last parameters',
    )
    evaluation: EvaluationTable = Field(
        default_factory=lambda: EvaluationTable.model_validate({}),
        description="the long simulation that measures the finished policy",
    )

    @property
    def in_metric(self) -> int:
        """How many samples the metric of a step is made of, where there are more."""
        return self.metric_samples or METRIC_SAMPLES

    @model_validator(mode="before")
    @classmethod
    def _no_tail_where_a_value_stands_for_it(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("value", "none") != "none":
            return {"tail": 0, **given}
        return given

    @model_validator(mode="after")
    def _check_together(self) -> NeuralSettings:
        low, high = self.damping_range
        if not low <= self.damping <= high:
            raise keyed_error("damping", f"{self.damping:g} lies outside damping_range = [{low:g}, {high:g}]")
        if not self.hidden and not self.linear_path:
            raise keyed_error("hidden", "empty, and linear_path = false: give widths or the linear path")
        if self.value == "network" and not self.hidden:
            raise keyed_error("value", 'a network takes its widths from neural.hidden: give some, or "quadratic"')
        window = self.chains * self.horizon
        if self.metric_samples is not None and self.metric_samples > window:
            raise keyed_error(
                "metric_samples", f"{self.metric_samples} exceeds the {window} samples of a step (chains * horizon)"
            )
        return self
