"""Markov decision processes given as arrays."""

from wassgrid.finite_mdp.arrays import FiniteMDPError
from wassgrid.finite_mdp.process import FiniteMDP
from wassgrid.finite_mdp.solution import FiniteSolution

__all__ = ["FiniteMDP", "FiniteMDPError", "FiniteSolution"]
