"""Control problems whose answer is known, each an object that carries the answer and states itself as a case.

Every class is frozen and holds the numbers of one problem; its properties and methods are the exact answers, and
``case_text`` writes the problem in the case language, on a grid of the caller's choice. Further tables of the case
(``flow``, ``policy``, ``solver``, ...) are given as keyword arguments and stand in the text as they are.
"""

from wassgrid.problem.exact.diffusions import AutoRegression, DoubleWell, HeatBathPendulum, TorusRegulator
from wassgrid.problem.exact.finite_chain import FiniteChain, grassmann_taksar_heyman
from wassgrid.problem.exact.linear_quadratic import ScalarLQ, VectorLQ
from wassgrid.problem.exact.manufactured import Manufactured, NextState
from wassgrid.problem.exact.oscillator_ring import OscillatorRing

__all__ = [
    "AutoRegression",
    "DoubleWell",
    "FiniteChain",
    "HeatBathPendulum",
    "Manufactured",
    "NextState",
    "OscillatorRing",
    "ScalarLQ",
    "TorusRegulator",
    "VectorLQ",
    "grassmann_taksar_heyman",
]
