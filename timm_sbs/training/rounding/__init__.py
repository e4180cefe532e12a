"""Rounding of original weights so that predictions change least for the bits they take."""
