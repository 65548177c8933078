"""Data sets: handwritten digits, 16x16, in [-1, 1]."""
