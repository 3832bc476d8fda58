"""A certificate of global optimality: a proven lower bound on the best possible J of the discretised problem."""

from wassgrid.certificate.bound import BestActions, Certificate, certify, find_best

__all__ = ["BestActions", "Certificate", "certify", "find_best"]
