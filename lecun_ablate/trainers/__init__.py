"""Trainers: what advances runs. `base` holds the seam, one file each holds an implementation."""
