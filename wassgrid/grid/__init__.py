"""The grid of states, and its alignment with the dynamics."""

from wassgrid.grid.alignment import ALIGNED, GridError, misalignment
from wassgrid.grid.state_grid import StateGrid

__all__ = ["ALIGNED", "GridError", "StateGrid", "misalignment"]
