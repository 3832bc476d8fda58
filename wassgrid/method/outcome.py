"""What one step of a method comes to."""

from __future__ import annotations

from dataclasses import dataclass

from wassgrid.evaluation import Evaluation


@dataclass(frozen=True)
class StepOutcome:
    """Report one step of any method.

    evaluation: of the new policy; flow_time: advanced (nan where the method has none); next_step: the step length that
    the method suggests next; guarded: particles held back lest J rise; escaped: particles that jumped; rejected: trials thrown
    away; tamed: particles whose curvature is too large for the step, held back lest they fly apart.
    """

    evaluation: Evaluation
    flow_time: float
    next_step: float
    guarded: int = 0
    escaped: int = 0
    rejected: int = 0
    tamed: int = 0
