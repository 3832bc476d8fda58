"""The law of the next state on the grid: axis kernels, the walk over the nodes they reach, and what is computed on it."""
