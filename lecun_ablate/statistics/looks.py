"""Repeated looks at growing data: how much of alpha each look may spend."""

from __future__ import annotations

from lecun_ablate.statistics.arrays import check_fraction
from lecun_ablate.statistics.power import ALPHA

FIRST_SHARE = 0.64  # of alpha; every later look spends the same share of what remains


def look_level(look: int, alpha: float = ALPHA) -> float:
    """Return the level at which look number `look` (1, 2, ...) decides.

    alpha * 0.64 * 0.36^(look - 1): the levels add up to alpha, so however often seeds are added and
    the data are looked at again, the chance of any wrong verdict stays within about alpha. The
    first look keeps 0.032 of 0.05, which 6 seeds can still reach (2 / 2^6 = 0.031), and 8 seeds in
    the smallest of four comparisons.

    Chosen by simulation (`benchmarks/more_seeds.py`) over 0.05 * 6 / (pi^2 look^2), which needs
    more seeds and detects less, and over an always-valid t test, which errs in 1 % of experiments
    although 5 % are allowed and detects small effects less often. Raises ValueError for a look
    below 1.

    After Lan and DeMets 1983, Biometrika 70, whose spending functions this rule follows. It does
    not use the correlation between looks, because the number of seeds at the next look depends on
    the data.
    """
    check_fraction(alpha, "alpha")
    if look < 1:
        raise ValueError(f"look is {look}; expected 1 or more")
    return alpha * FIRST_SHARE * (1 - FIRST_SHARE) ** (look - 1)
