"""A certificate of global optimality: a proven lower bound on the best possible J of the discretised problem.

`find_best` searches, `cheap_bracket` brackets with what was found, `certify` proves.
"""

from wassgrid.certificate.best_actions import BestActions, find_best, restored_best
from wassgrid.certificate.bound import Certificate, bound_of, certify, unbounded
from wassgrid.certificate.bracket import Bracket, cheap_bracket, residual

__all__ = [
    "BestActions", "Bracket", "Certificate", "bound_of", "certify", "cheap_bracket", "find_best", "residual", "restored_best",
    "unbounded",
]  # fmt: skip
