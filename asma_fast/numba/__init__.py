"""Loops in numba, NumPy arrays, forward only: the ops where no compiler was at hand."""
