"""What is being solved: knows nothing of grids, particles or files."""
