"""The version of this package, below all that writes it down."""

__version__ = "0.1.0"
