"""Plans (experiments with the keys of all runs) and their results."""
