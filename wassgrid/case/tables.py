"""The tables of a case file: each key with its meaning, unit and default, once.  The documentation takes its tables from them."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, PlainValidator, model_validator

from wassgrid.case.neural_tables import NeuralSettings
from wassgrid.case.readers import (
    ExpressionText,
    Flag,
    Fraction,
    Interval,
    NonnegativeNumber,
    Number,
    PositiveNumber,
    Table,
    Word,
    choice,
    integer,
    keyed_error,
    per_key,
    read_bounds,
    read_distance,
    read_each,
    read_parameters,
    read_positive,
    read_positive_list,
    read_reference,
    read_start,
    read_text,
    read_values,
    read_word,
    word_or,
)
from wassgrid.method.facts import GEOMETRY_FACTS, METHOD_FACTS
from wassgrid.problem.boundary import BOUNDARIES

StartValue = float | tuple[float, float] | dict[str, float]

ALIGNED = "aligned"
KERNELS = ("auto", "gaussian", "linear", "matched", "cubic")
DEFAULT_GAP = 1e-6  # proved distance to the optimal cost, relative, where the user names no end


_ENDS = "periodic winds around, reflect folds back, project stops at the end, truncate cuts the law off, open lets noise leave"


_THEN = "stop ends the episode, restart draws the next state from the start law"


class IndexTable(Table):
    """An index of families: `[states."q[i]"]` stands for one state at each position of i."""

    count: Annotated[int, PlainValidator(integer(1, 100_000))] = Field(description="number of positions, 0 to count - 1")
    periodic: Flag = Field(False, description="neighbours wrap around; otherwise a neighbour beyond an end is 0")


class StateTable(Table):
    """A state variable, or a family of them."""

    next: ExpressionText | None = Field(
        None, description="discrete time: mean of the next state; next(x) in it is the realised next value of state x"
    )
    noise: ExpressionText | None = Field(
        None, description="discrete time: standard deviation of the Gaussian noise per step, of states (default 0)"
    )
    drift: ExpressionText | None = Field(None, description="continuous time: rate of change of the state, per unit time")
    diffusion: ExpressionText | None = Field(
        None, description="continuous time: noise per square root of time, of states (default 0)"
    )
    domain: Interval | None = Field(
        None, description="lower and upper end of the axis; needed by the grid solver and by boundaries other than clamp"
    )
    boundary: Annotated[str, PlainValidator(choice(*BOUNDARIES, meanings=_ENDS))] = Field(
        "clamp",
        description="what happens at the ends: project (what is beyond stands on the end), truncate (the law given the domain), "
        "open (means are clipped, noise may leave the domain), reflect, periodic (the upper end is the lower one); clamp: what "
        "older cases mean, project or truncate by the kernel",
    )
    unit: Word = Field("", description="unit of the state, for figures and result files")


class ActionTable(Table):
    """An action variable, or a family of them."""

    bounds: Annotated[tuple[float | str, float | str], PlainValidator(read_bounds)] | None = Field(
        None,
        description="lower and upper bound, numbers or expressions of the states in quotes, where what can be chosen depends on "
        'the state, say [0, "x"] (default: none)',
    )
    values: Annotated[tuple[float, ...] | dict[str, float], PlainValidator(read_values)] | None = Field(
        None,
        description="all numbers that the action takes, as gears and switches do, say [-1, 0, 1], or with names for figures and "
        "results, { reverse = -1, neutral = 0, drive = 1 }; others may have bounds",
    )
    allowed: Annotated[str, PlainValidator(read_word)] | None = Field(
        None,
        description="condition on states and actions that take values of lists, under which a value may be taken, such as "
        "gear <= 1 or v > 0.5; where it fails the nearest value that is allowed takes its place (default: always)",
    )
    distance: Annotated[
        tuple[tuple[float, ...], ...] | dict[str, tuple[float, ...]], PlainValidator(read_distance)
    ] | None = Field(
        None,
        description="how far apart its values are, for proximal steps: a symmetric matrix in their order, say [[0, 1], [1, 0]], "
        "or places of its names, { reverse = [0, 1], neutral = [0, 0], drive = [1, 0] } (default: the difference of the numbers)",
    )
    unit: Word = Field("", description="unit of the action, for figures and result files")

    @property
    def numbers(self) -> tuple[float, ...]:
        """The values, none where the action lies between bounds."""
        return tuple(self.values.values()) if isinstance(self.values, dict) else self.values or ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the values, none where these have none."""
        return tuple(self.values) if isinstance(self.values, dict) else ()

    @property
    def distances(self) -> tuple[tuple[float, ...], ...]:
        """The matrix of the distances of its values, where they have others than those of the numbers."""
        if not isinstance(self.distance, dict):
            return self.distance or ()
        places = [self.distance[name] for name in self.names]
        return tuple(tuple(math.dist(one, other) for other in places) for one in places)


class TimeTable(Table):
    """Continuous time, stepped."""

    step: PositiveNumber = Field(description="time step, in the unit of time of drift and rate")
    scheme: Annotated[str, PlainValidator(choice("euler", "rk4"))] = Field(
        "euler", description="order of the mean in the step: euler (1) or rk4 (4, action held over the step)"
    )
    unit: Word = Field("", description="unit of time, for figures and result files")


class CostTable(Table):
    """The cost."""

    stage: ExpressionText | None = Field(None, description="discrete time: cost of one step")
    rate: ExpressionText | None = Field(None, description="continuous time: cost per unit time")
    unit: Word = Field("", description="unit of the cost (of the rate), for figures and result files")


class CriterionTable(Table):
    """What is minimised."""

    kind: Annotated[str, PlainValidator(choice("average", "discounted", "total"))] = Field(
        "average",
        description="long-run average cost; discounted: the discounted cost times 1 - discount, from the start law; total: the "
        "expected cost until the goal, from the start law",
    )
    discount: Fraction | None = Field(None, description="discount factor per step, between 0 and 1; discounted only")


class GoalTable(Table):
    """Where an episode ends, and what comes next."""

    where: Annotated[str, PlainValidator(read_word)] = Field(
        description="condition on the states, such as x >= 1 and v < 0; on the grid the points that satisfy it"
    )
    cost: ExpressionText = Field("0", description="cost of being there, once per visit, an expression of states; not a rate")
    then: Annotated[str, PlainValidator(choice("stop", "restart", meanings=_THEN))] = Field(
        "stop", description="stop (total and discounted cost) or restart: one step later the state is drawn from the start law"
    )


class GridTable(Table):
    """The state grid of the grid solver."""

    points: Annotated[dict[str, int | str], PlainValidator(read_each(word_or(ALIGNED, integer(2)), "{ s = 41 }"))] = Field(
        default_factory=dict,
        description='points per state, or "aligned": the spacing for which the states that follow land on grid points',
    )
    kernel: Annotated[str | dict[str, str], PlainValidator(per_key(choice(*KERNELS)))] = Field(
        "auto",
        description="transition kernel for all states or per state: gaussian (exact for noise from 0.8 spacings on), "
        "matched (from 0.5 on, and adds least below), linear, cubic (no noise); auto: the one that adds least to the noise",
    )
    levels: Annotated[str | int, PlainValidator(word_or("auto", integer(1)))] = Field(
        "auto",
        description="grids of about half the points per axis that newton starts from, this one included (1: it alone); "
        "auto: as many as pay",
    )


class InitialTable(Table):
    """The initial policy: where the particles of every state start."""

    distribution: Annotated[str, PlainValidator(choice("normal", "uniform", "even", "point"))] = Field(
        "normal",
        description="normal: mean and std; uniform: drawn from low to high; even: the same from low to high, at equal distances; "
        "point: all particles at mean",
    )
    mean: Annotated[str | dict[str, str], PlainValidator(per_key(read_text))] | None = Field(
        None, description="expression of states, one for all actions or a table per action (default 0)"
    )
    std: Annotated[str | dict[str, str], PlainValidator(per_key(read_text))] | None = Field(
        None, description="standard deviation of normal, an expression of states, one or per action (default 1)"
    )
    low: Annotated[str | dict[str, str], PlainValidator(per_key(read_text))] | None = Field(
        None, description="lower end of uniform and even, one or per action (default: the bound)"
    )
    high: Annotated[str | dict[str, str], PlainValidator(per_key(read_text))] | None = Field(
        None, description="upper end of uniform and even, one or per action (default: the bound)"
    )

    @model_validator(mode="after")
    def _check_keys(self) -> InitialTable:
        ends = ("low", "high")
        used = {"normal": ("mean", "std"), "uniform": ends, "even": ends, "point": ("mean",)}[self.distribution]
        for key in ("mean", "std", "low", "high"):
            if getattr(self, key) is not None and key not in used:
                raise keyed_error(key, f'not used by distribution = "{self.distribution}" (it takes {", ".join(used)})')
        return self


class PolicyTable(Table):
    """The particle policy."""

    particles: Annotated[int, PlainValidator(integer(1))] = Field(
        16,
        description="particles per state; where all actions have values, one on each of them; where some have, as many for every "
        "combination of values (default: at least 16)",
    )
    initial: InitialTable = Field(default_factory=InitialTable, description="where the particles start")
    seed: Annotated[int, PlainValidator(integer(0))] = Field(1, description="seed of all random numbers of the run")
    weights: Annotated[tuple[float, ...], PlainValidator(read_positive_list)] | None = Field(
        None, description="positive weights of the particles, normalised (default: equal)"
    )
    entropy: PositiveNumber | None = Field(
        None,
        description="eps, the price of entropy, in the unit of the stage cost or rate: eps times that of the policy relative to "
        "reference is added; particles stay where they are, evenly from bound to bound, and weights move, or blobs slide over "
        "them (default: none)",
    )
    reference: Annotated[str | tuple[float, ...], PlainValidator(read_reference)] = Field(
        "uniform",
        description="the law that entropy is relative to: uniform over bounds or values, lebesgue (of bounds or of low to "
        "high, not normalised: minus eps times the differential entropy is added), or positive numbers, one per particle",
    )
    blobs: Annotated[int, PlainValidator(integer(1))] | None = Field(
        None,
        description="where entropy has a price and flow.geometry moves actions: blobs per state that slide over the particles, "
        "each of them a normal law on these (default: half as many as particles, of every action)",
    )
    bandwidth: PositiveNumber | None = Field(
        None,
        description="standard deviation of a blob, as a share of the way from low to high (default: the distance of the "
        "particles, or half the distance of blobs that stand evenly, if that is more)",
    )

    @model_validator(mode="after")
    def _check_weights(self) -> PolicyTable:
        if self.weights is not None and len(self.weights) != self.particles:
            raise keyed_error("weights", f"expected {self.particles} numbers, one per particle, got {len(self.weights)}")
        if self.entropy is None and self.reference != "uniform":
            raise keyed_error("reference", "not used without policy.entropy, the price of entropy relative to it")
        for key in ("blobs", "bandwidth"):
            if self.entropy is None and getattr(self, key) is not None:
                raise keyed_error(key, "not used without policy.entropy: particles without a price of entropy have no width")
        return self


class StopTable(Table):
    """When the run ends: whichever comes first."""

    gradient_norm: PositiveNumber | None = Field(None, description="norm of the gradient in the metric, cost per action")
    gap: PositiveNumber | None = Field(None, description="proved distance to the optimal cost, in units of cost")
    relative_gap: PositiveNumber | None = Field(
        None,
        description="the same, relative to the larger of J and the standard deviation of the cost (default: "
        f"{DEFAULT_GAP:g} where none of the other tolerances is given)",
    )
    steps: Annotated[int, PlainValidator(integer(0))] = Field(200, description="steps")
    flow_time: PositiveNumber | None = Field(None, description="flow time of the gradient flow")

    @property
    def by_default(self) -> bool:
        """Whether the user named no end: the run then goes as far as it can, to the default gap at most."""
        return self.gradient_norm is None and self.gap is None and self.relative_gap is None and self.flow_time is None

    @property
    def relative(self) -> float | None:
        """The relative gap that ends the run, None where there is none."""
        return DEFAULT_GAP if self.by_default else self.relative_gap


class FlowTable(Table):
    """How the particles move."""

    method: Annotated[str, PlainValidator(choice(*METHOD_FACTS))] = Field(
        "newton",
        description="gradient flow by euler, heun or rk4; newton (local curvature) or full_newton (exact); proximal (by values "
        "of Q alone, for costs and laws that jump with the action; steps of any length); of weights alone: "
        "exponential (steps of any length) or policy_iteration (its limit, the default where actions have values)",
    )
    geometry: Annotated[str, PlainValidator(choice(*GEOMETRY_FACTS))] = Field(
        "wasserstein",
        description="what moves: wasserstein (the actions of the particles), fisher_rao (their weights; where actions have "
        "values nothing else does) or wasserstein_fisher_rao (both)",
    )
    weight_rate: PositiveNumber | None = Field(
        None, description="kappa, how fast weights move beside actions, where they do (default 1)"
    )
    step: Annotated[str | float, PlainValidator(word_or("adaptive", read_positive))] = Field(
        "adaptive", description='flow time per step of the explicit methods and of proximal, or "adaptive"'
    )
    regularisation: PositiveNumber | None = Field(
        None,
        description="eps of proximal steps where all actions have values, in the unit of the stage cost (of the rate in "
        "continuous time): mass moves from value i to j with the probability softmax_j(-(Q_j + d_ij^2/(2 step))/eps), d_ij as "
        "`distance` says (default: all of it to the least of Q_j + d_ij^2/(2 step)); smaller where J might rise, and where an "
        "adaptive step would gain little",
    )
    escape: Flag | None = Field(
        None,
        description="particles may jump to a better action found by the certificate, where weights move: one per state and step, "
        "the one of least weight (default: newton methods and proximal)",
    )
    proof: Annotated[str, PlainValidator(choice("end", "always"))] = Field(
        "end", description="when the lower bound is proven: at the end of the run, or at every step too"
    )
    stop: StopTable = Field(default_factory=StopTable, description="when the run ends")

    @property
    def escapes(self) -> bool:
        """Whether particles may jump to better actions: where the method can, as the case says or the method by itself."""
        facts = METHOD_FACTS[self.method]
        return facts.escapes and (not facts.asked if self.escape is None else self.escape)


class SolverTable(Table):
    """Which solver, and its linear algebra."""

    kind: Annotated[str, PlainValidator(choice("grid", "neural"))] = Field(
        "grid", description="grid: up to 4 state dimensions; neural: policies as networks, any dimension"
    )
    stationary: Annotated[str, PlainValidator(choice("auto", "power", "krylov", "lu", "arnoldi"))] = Field(
        "auto", description="stationary law: power iteration, Krylov, sparse LU, Arnoldi, or chosen by measured progress"
    )
    evaluation: Annotated[str, PlainValidator(choice("auto", "iteration", "krylov", "lu"))] = Field(
        "auto", description="policy evaluation: relative value iteration, Krylov, sparse LU, or chosen by progress"
    )
    tolerance: PositiveNumber = Field(1e-12, description="relative error bound of both solves")
    memory: PositiveNumber | None = Field(None, description="memory limit in GiB (default: 80 % of what is available)")


class OutputTable(Table):
    """What is stored along the way."""

    trajectory_every: Annotated[int, PlainValidator(integer(0))] = Field(
        1, description="steps between stored frames (0: first and last only)"
    )
    frames: Annotated[int, PlainValidator(integer(2))] = Field(
        200, description="stored frames from which on they become rarer: half of this many for every doubling of the steps"
    )
    curvature_every: Annotated[int, PlainValidator(integer(0))] = Field(
        0, description="steps between curvature spectra (0: never)"
    )
    estimate: Flag | None = Field(
        None,
        description="estimate, at the end, what the greedy policy costs in the problem itself, with a standard error (default: "
        "where that is counted to cost less than the solve)",
    )


class ProveTable(Table):
    """The proven interval for the problem with continuous states (`wassgrid prove`)."""

    width: PositiveNumber = Field(1e-4, description="relative width of the interval at which the proof ends")
    time: PositiveNumber = Field(
        60.0, description="seconds after which no finer attempt is begun; after three times as long, the last is given up"
    )
    boundary: Annotated[str, PlainValidator(choice("truncate", "project", "open"))] = Field(
        "truncate",
        description="what clamp means: truncate (means clipped, the law conditioned to the domain, as the gaussian kernel does), "
        "project (what leaves lands on the end, as simulations do) or open (means clipped, noise may leave)",
    )


class ExpectedValue(Table):
    """A value that a run must reach."""

    value: Number = Field(description="expected value")
    relative: NonnegativeNumber | None = Field(None, description="allowed relative difference")
    absolute: NonnegativeNumber | None = Field(None, description="allowed absolute difference, in the unit of the value")
    source: Word = Field("", description="where the value comes from")

    @model_validator(mode="after")
    def _check_tolerance(self) -> ExpectedValue:
        if (self.relative is None) == (self.absolute is None):
            raise ValueError("expected either relative or absolute beside value")
        return self


class ExpectTable(Table):
    """What a run must reach."""

    average_cost: ExpectedValue | None = Field(None, description="the objective J")
    total_cost: ExpectedValue | None = Field(None, description="the same, where the criterion is total")


class CaseTables(Table):
    """All tables of a case file, as they stand in it."""

    title: Word = Field("", description="one line on what is solved")
    parameters: Annotated[dict[str, float], PlainValidator(read_parameters)] = Field(
        default_factory=dict, description="named numbers; each may be an expression of earlier ones"
    )
    indices: dict[str, IndexTable] = Field(default_factory=dict, description="indices of families of states and actions")
    states: dict[str, StateTable] = Field(description="one table per state variable, in the order of the axes")
    actions: dict[str, ActionTable] = Field(description="one table per action variable")
    time: TimeTable | None = Field(None, description="continuous time (default: discrete time)")
    cost: CostTable = Field(description="the cost")
    criterion: CriterionTable = Field(default_factory=CriterionTable, description="what is minimised")
    goal: GoalTable | None = Field(None, description="where an episode ends (default: nowhere)")
    start: Annotated[dict[str, StartValue], PlainValidator(read_each(read_start, "{ x = [0, 1] }"))] = Field(
        default_factory=dict,
        description="law of the first state, independent per state: a number, [low, high] (uniform) or { mean = ..., std = ... } "
        "(normal, cut off at the ends); default: uniform over the domain",
    )
    grid: GridTable = Field(default_factory=GridTable, description="the state grid of the grid solver")
    policy: PolicyTable = Field(default_factory=PolicyTable, description="the particle policy")
    flow: FlowTable = Field(default_factory=FlowTable, description="how the particles move")
    solver: SolverTable = Field(default_factory=SolverTable, description="which solver")
    neural: NeuralSettings | None = Field(None, description="the neural solver")
    output: OutputTable = Field(default_factory=OutputTable, description="what is stored along the way")
    prove: ProveTable = Field(default_factory=ProveTable, description="the proof for continuous states")
    expect: ExpectTable = Field(default_factory=ExpectTable, description="what a run must reach")
