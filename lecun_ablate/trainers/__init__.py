"""Trainers advance runs. `base` holds the interface, one file each an implementation."""
