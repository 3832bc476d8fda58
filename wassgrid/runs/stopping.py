"""When a grid run ends, and what it may say of itself then: what is proven, of what, and what is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wassgrid.certificate import unbounded
from wassgrid.evaluation import Evaluation
from wassgrid.runs.loop import CONVERGED, STOPPED, Verdict

if TYPE_CHECKING:
    from wassgrid.case.tables import StopTable

_HALF = 0.5  # a gap that fell to this share has fallen
_FALL = 1e-2  # of the gap: what the cost has to fall by to count
_PATIENCE = 8  # steps without either from which a run is at its end
_AFTER_PROOF = 3  # the same, where a proof has already said that what was found is not enough


@dataclass(frozen=True)
class Headway:
    """Whether a run still gets on: the least gap, cost and range of V at which it last did, and the steps since.

    It does where the gap found has halved, the upper end of J has fallen by a hundredth of that gap, or the range of V by a
    hundredth of itself: the policy gets better in cells that are seldom visited.
    """

    gap: float = np.inf
    upper: float = np.inf
    span: float = np.inf
    idle: int = 0

    def after(self, gap: float, upper: float, span: float) -> Headway:
        """Return the headway after one more step, at whose end the gap found, the upper end of J and V's range are as given."""
        fallen = upper <= self.upper - _FALL * max(gap, 0.0) or span <= (1.0 - _FALL) * self.span
        if gap <= _HALF * self.gap or fallen:
            return Headway(min(gap, self.gap), min(upper, self.upper), min(span, self.span), 0)
        return Headway(self.gap, self.upper, self.span, self.idle + 1)

    def stalled(self, refused: bool) -> bool:
        """Whether nothing has come of the last steps; refused: whether a proof has been tried and fell short."""
        return self.idle >= (_AFTER_PROOF if refused else _PATIENCE)


def wanted_gap(stop: StopTable, evaluation: Evaluation) -> float | None:
    """Return the gap that ends a run, in units of cost: the larger of the absolute and the relative one, None without any."""
    relative = None if stop.relative is None else stop.relative * evaluation.cost_scale
    given = [limit for limit in (stop.gap, relative) if limit is not None]
    return max(given, default=None)


@dataclass(frozen=True)
class Standing:
    """What is known of a state when it is asked whether the run ends with it.

    gap: of J above its bound, proven or found as is asked; found: the gap to the best actions that were found; excess: of a
    proven bound above the cost, beyond rounding; unprovable: a proof was tried and there can be none; at_rest: no particle moves;
    stalled: see `Headway`; escapes: whether particles may jump to better actions.
    """

    step: int
    flow_time: float
    gradient_norm: float
    gap: float
    found: float
    excess: float
    unprovable: bool
    at_rest: bool
    stalled: bool
    escapes: bool


def verdict(stop: StopTable, evaluation: Evaluation, now: Standing) -> Verdict | None:
    """Return why a run ends here, None to go on.

    A run to which the user gave no end is complete where it can get no further, too.
    """
    wanted = wanted_gap(stop, evaluation)
    if now.excess > 0.0:
        text = f"the bound lies {now.excess:.2g} above the cost of the policy, more than rounding: nothing is claimed"
        return Verdict(STOPPED, text, False)
    if stop.gradient_norm is not None and now.gradient_norm <= stop.gradient_norm:
        return Verdict(CONVERGED, f"the gradient norm {now.gradient_norm:.3g} is at most {stop.gradient_norm:.3g}", True)
    if wanted is not None and now.gap <= wanted:
        return Verdict(CONVERGED, f"{proven(now.gap, evaluation)}; {wanted:.2g} was asked for", True)
    if stop.flow_time is not None and now.flow_time >= stop.flow_time * (1 - 1e-12):
        return Verdict(STOPPED, f"the flow time {stop.flow_time:g} was reached", True)
    if now.step >= stop.steps:
        return Verdict(STOPPED, f"{stop.steps} steps were done and no tolerance was reached: {_reached(now, evaluation)}", False)
    if wanted is not None and now.unprovable and now.found <= wanted:
        return Verdict(STOPPED, _reached(now, evaluation), stop.by_default)
    if now.at_rest or now.stalled:
        why = "no particle moves any more" if now.at_rest else "more steps change nothing"
        advice = "" if now.escapes else "; with flow.escape = true particles can leave a local minimum"
        text = f"{why} at gradient norm {now.gradient_norm:.3g}: {_reached(now, evaluation)}{advice}"
        return Verdict(STOPPED, text, stop.by_default)
    return None


def proven(gap: float, evaluation: Evaluation) -> str:
    """Say what a proven gap means."""
    scale = evaluation.cost_scale
    relative = f" ({gap / scale:.1g} of the cost)" if scale > 0 and gap > 0 else ""
    # a gap below what sums of this size are rounded to, negative ones included, is that
    least = np.finfo(float).eps * max(scale, abs(evaluation.objective))
    of = "" if evaluation.entropy is None else f", {evaluation.entropy.described()}"
    return f"optimal on this grid to {max(gap, least):.2g}{relative}, proven{of}"


def _reached(now: Standing, evaluation: Evaluation) -> str:
    if np.isfinite(now.gap):
        return proven(now.gap, evaluation)
    if not np.isfinite(now.found):
        return "better actions could not be searched, nothing is proven"
    reason = evaluation.model.problem.no_bounds or unbounded(evaluation)
    why = f": {reason}" if reason else ""
    return f"no policy on this grid was found that is better by more than {max(now.found, 0.0):.2g}; nothing is proven{why}"
