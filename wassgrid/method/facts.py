"""What every method and geometry states of itself; read by the case language, so nothing is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class GeometryFacts:
    """actions, weights: whether the actions of the particles move, and whether their weights do."""

    actions: bool
    weights: bool


GEOMETRY_FACTS = {
    "wasserstein": GeometryFacts(actions=True, weights=False),
    "fisher_rao": GeometryFacts(actions=False, weights=True),
    "wasserstein_fisher_rao": GeometryFacts(actions=True, weights=True),
}
_ONLY_ACTIONS, _ONLY_WEIGHTS, _BOTH = GEOMETRY_FACTS


@dataclass(frozen=True)
class MethodFacts:
    """escapes: particles may jump to better actions that the certificate found. rests: a step whose moves are rounding is its
    end, since those of the next one would be their squares; of the gradient flow it says nothing. inexact: its steps need V only
    to a fraction of what is left to gain. asked: particles jump only where the case asks for it. sized: a step has a length.
    follows: its steps follow derivatives of Q in the action, which do not see jumps. geometries: in which it is defined. blobs:
    whether it moves blobs too, where entropy has a price. moves_mass: whether it moves mass between values of lists, in a metric
    that they have of their own. shared: several processes can share the cells."""

    escapes: bool
    rests: bool
    inexact: bool = False
    asked: bool = False
    sized: bool = True
    follows: bool = True
    geometries: tuple[str, ...] = tuple(GEOMETRY_FACTS)
    blobs: bool = False
    moves_mass: bool = False
    shared: bool = False


METHOD_FACTS = {
    "euler": MethodFacts(escapes=False, rests=False, blobs=True, shared=True),
    "heun": MethodFacts(escapes=False, rests=False, blobs=True, shared=True),
    "rk4": MethodFacts(escapes=False, rests=False, blobs=True, shared=True),
    "newton": MethodFacts(escapes=True, rests=True, inexact=True, geometries=(_ONLY_ACTIONS, _BOTH), shared=True),
    "full_newton": MethodFacts(escapes=True, rests=True, geometries=(_ONLY_ACTIONS,)),
    "proximal": MethodFacts(escapes=True, rests=True, follows=False, geometries=(_ONLY_ACTIONS,), moves_mass=True),
    "exponential": MethodFacts(escapes=True, rests=True, asked=True, follows=False, geometries=(_ONLY_WEIGHTS,)),
    "policy_iteration": MethodFacts(
        escapes=True, rests=True, asked=True, sized=False, follows=False, geometries=(_ONLY_WEIGHTS,)
    ),
}


def unseen(method: str, geometry: str, escapes: bool, jumps: Sequence[str]) -> str:
    """Say that a method does not see where cost or law jump with the action (`ControlProblem.jumps`), and which does.

    Empty where it sees them (it takes values of Q, particles escape to better actions, or actions rest), and where nothing jumps.
    """
    if not jumps or escapes or not METHOD_FACTS[method].follows or not GEOMETRY_FACTS[geometry].actions:
        return ""
    others = f" and {len(jumps) - 1} more" if len(jumps) > 1 else ""
    return (
        f"{jumps[0]}{others}: may jump with the action, where {method} follows derivatives and sees nothing of it; "
        'flow.method = "proximal" takes values of Q alone'
    )
