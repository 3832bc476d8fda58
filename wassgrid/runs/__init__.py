"""A run: the loop, the solvers that it drives, and what they write down."""
