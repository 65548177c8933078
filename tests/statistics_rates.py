"""Rates that simulated experiments are held against."""

import numpy as np
from scipy import stats


def assert_rate(hits, nominal):
    """Check a share of hits against a nominal rate.

    The range is the one in which a right procedure stays with a probability of 0.999. It has two
    sides: a procedure that is too careful fails as well.
    """
    hits = np.asarray(hits)
    low, high = stats.binom.ppf([0.0005, 0.9995], hits.size, nominal)
    assert low <= hits.sum() <= high, f"rate {hits.mean():.4f}, nominal {nominal:.4f}"


def highest_rate(experiments, nominal):
    """Return the highest rate to expect of a procedure whose true rate is at most `nominal`."""
    return stats.binom.ppf(0.9995, experiments, nominal) / experiments
