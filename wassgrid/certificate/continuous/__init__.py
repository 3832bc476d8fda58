"""Proofs for the problem with continuous states: an interval for its optimal cost, from any function of the means."""
