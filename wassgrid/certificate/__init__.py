"""A certificate of global optimality: a proven lower bound on the best possible J of the discretised problem."""

from wassgrid.certificate.bound import Certificate, certify

__all__ = ["Certificate", "certify"]
