"""The methods that move the particles. One is: the length of its first step, its step, and its facts (`facts`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wassgrid.method.facts import METHOD_FACTS

if TYPE_CHECKING:
    from wassgrid.certificate import BestActions
    from wassgrid.evaluation import Evaluation, Evaluator
    from wassgrid.method.outcome import StepOutcome
    from wassgrid.metric import Metric


@dataclass(frozen=True)
class StepRequest:
    """What a run asks of one step.

    size: the length that the step before suggested, in the units of the method; fixed: the length that the user set, None:
    adaptive; remaining: flow time that is left, infinite where none was asked for; best: where particles may escape to;
    width: of the bracket to which an inexact method evaluates, None: to the tolerance; metric: which of actions and weights move;
    regularisation: of proximal steps between values of lists, 0 where there is none.
    """

    evaluator: Evaluator
    evaluation: Evaluation
    size: float
    fixed: float | None
    remaining: float
    best: BestActions | None
    width: float | None
    metric: Metric
    regularisation: float = 0.0


@dataclass(frozen=True)
class Method:
    """A method: its name in the case language, its first adaptive step length and one step."""

    name: str
    first_step: Callable[[Evaluation, Metric], float]
    step: Callable[[StepRequest], StepOutcome]

    @property
    def escapes(self) -> bool:
        return METHOD_FACTS[self.name].escapes

    @property
    def inexact(self) -> bool:
        return METHOD_FACTS[self.name].inexact

    @property
    def rests(self) -> bool:
        return METHOD_FACTS[self.name].rests


# what a step imports waits until it is taken: the facts of a method are read with every case


def _flow(name: str) -> Method:
    def step(ask: StepRequest) -> StepOutcome:
        from wassgrid.method.flow import timed_flow_step
        from wassgrid.method.schemes import SCHEMES

        return timed_flow_step(
            ask.evaluator, ask.evaluation, SCHEMES[name], ask.size, ask.fixed, ask.remaining, ask.metric
        )

    return Method(name, _first_flow_step, step)


def _first_flow_step(evaluation: Evaluation, metric: Metric) -> float:
    from wassgrid.method.flow import initial_step

    return initial_step(evaluation, metric)


def _newton_step(ask: StepRequest) -> StepOutcome:
    from wassgrid.method.newton import newton_step

    return newton_step(ask.evaluator, ask.evaluation, ask.size, ask.best, ask.fixed is None, ask.width, ask.metric)


def _first_newton_step(evaluation: Evaluation, metric: Metric) -> float:
    from wassgrid.method.newton import initial_pseudo_time

    return initial_pseudo_time(evaluation)


def _full_newton_step(ask: StepRequest) -> StepOutcome:
    from wassgrid.method.full_newton import full_newton_step

    return full_newton_step(ask.evaluator, ask.evaluation, ask.size, ask.best)


def _proximal_step(ask: StepRequest) -> StepOutcome:
    from wassgrid.method.proximal import proximal_step

    length = min(ask.size if ask.fixed is None else ask.fixed, ask.remaining)
    if ask.evaluation.model.problem.choices is not None:
        from wassgrid.method.transport import transport_step

        return transport_step(ask.evaluator, ask.evaluation, length, ask.regularisation, ask.fixed is None, ask.remaining)
    return proximal_step(ask.evaluator, ask.evaluation, length, ask.best, ask.fixed is None)


def _first_proximal_step(evaluation: Evaluation, metric: Metric) -> float:
    from wassgrid.method.proximal import first_proximal_step

    if evaluation.model.problem.choices is not None:
        from wassgrid.method.transport import first_transport_step

        return first_transport_step(evaluation)
    return first_proximal_step(evaluation)


def _exponential_step(ask: StepRequest) -> StepOutcome:
    from wassgrid.method.weights import exponential_step

    length = min(ask.size if ask.fixed is None else ask.fixed, ask.remaining)
    return exponential_step(ask.evaluator, ask.evaluation, length, ask.metric, ask.best, ask.fixed is None)


def _first_exponential_step(evaluation: Evaluation, metric: Metric) -> float:
    from wassgrid.method.weights import first_exponential_step

    return first_exponential_step(evaluation, metric)


def _policy_iteration_step(ask: StepRequest) -> StepOutcome:
    from wassgrid.method.weights import exponential_step

    return exponential_step(ask.evaluator, ask.evaluation, float("inf"), ask.metric, ask.best)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        _flow("euler"),
        _flow("heun"),
        _flow("rk4"),
        Method("newton", _first_newton_step, _newton_step),
        Method("full_newton", lambda evaluation, metric: 1.0, _full_newton_step),
        Method("proximal", _first_proximal_step, _proximal_step),
        Method("exponential", _first_exponential_step, _exponential_step),
        Method("policy_iteration", lambda evaluation, metric: 1.0, _policy_iteration_step),
    )
}
