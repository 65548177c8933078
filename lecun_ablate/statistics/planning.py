"""How many seeds an effect needs, and what effect the seeds at hand can show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from lecun_ablate.statistics.arrays import check_fraction
from lecun_ablate.statistics.paired import Comparison

ALPHA = 0.05
POWER = 0.8
MOST_SEEDS = 1_000_000


def power(effect: float, sd: float, n: int, *, alpha: float = ALPHA, paired: bool = True) -> float:
    """Return the chance that a two-sided t test with `n` seeds per arm sees a true `effect`.

    `effect` and `sd` are in the same unit. Paired: `sd` is that of the differences; unpaired: that
    of each arm. From the noncentral t distribution: Cohen 1988, "Statistical Power Analysis".
    """
    _check(effect, sd, alpha)
    if n < 2:
        return 0.0
    if sd == 0:
        return 1.0
    freedom = n - 1 if paired else 2 * (n - 1)
    noncentrality = effect / sd * math.sqrt(n if paired else n / 2)
    threshold = stats.t.isf(alpha / 2, freedom)
    right_sign = stats.nct.sf(threshold, freedom, noncentrality)
    # scipy gives NaN for this one where it is far below the smallest float that matters
    wrong_sign = np.nan_to_num(stats.nct.cdf(-threshold, freedom, noncentrality))
    return float(right_sign + wrong_sign)


def seeds_needed(
    effect: float,
    sd: float,
    *,
    alpha: float = ALPHA,
    target: float = POWER,
    paired: bool = True,
    comparisons: int = 1,
) -> int:
    """Return the fewest seeds per arm that show a true `effect` with power `target`.

    `sd`: as for `power`. With several comparisons the level is alpha / comparisons, which is what
    the smallest p must meet under Holm's correction; never fewer than `fewest_seeds`. MOST_SEEDS
    stands for that many or more.
    """
    high = fewest_seeds(comparisons, alpha, paired=paired)
    low = high - 1  # never enough
    level = alpha / comparisons
    _check(effect, sd, level)
    check_fraction(target, "target")

    def enough(n: int) -> bool:
        return power(effect, sd, n, alpha=level, paired=paired) >= target

    while not enough(high):
        if high >= MOST_SEEDS:
            return MOST_SEEDS
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def minimum_detectable_effect(
    n: int, sd: float, *, alpha: float = ALPHA, target: float = POWER, paired: bool = True
) -> float | None:
    """Return the true effect that `n` seeds show with power `target`; None below 2 seeds."""
    _check(1.0, sd, alpha)
    check_fraction(target, "target")
    if n < 2:
        return None

    def surplus(ratio: float) -> float:
        return power(ratio, 1.0, n, alpha=alpha, paired=paired) - target

    high = 1.0
    while surplus(high) < 0:
        high *= 2
    return sd * float(optimize.brentq(surplus, 1e-9, high, xtol=1e-14, rtol=1e-14))


def fewest_seeds(comparisons: int = 1, alpha: float = ALPHA, *, paired: bool = True) -> int:
    """Return the fewest seeds per arm at which a permutation test can reach alpha / comparisons.

    Its smallest two-sided p is 2 / 2^n for sign flips of n pairs, and 2 over the number of ways to
    part 2 n runs into two arms of n if they are not paired.
    """
    check_fraction(alpha, "alpha")
    if comparisons < 1:
        raise ValueError(f"comparisons is {comparisons}; expected 1 or more")
    n = 2
    while comparisons * 2 / (2**n if paired else math.comb(2 * n, n)) > alpha:
        n += 1
    return n


def sd_interval(sd: float, n: int, level: float = 0.95) -> tuple[float, float] | None:
    """Return the chi-square interval of a standard deviation from `n` seeds; None below 2."""
    if n < 2:
        return None
    tail = (1 - level) / 2
    quantiles = stats.chi2.ppf([1 - tail, tail], n - 1)
    low, high = sd * ((n - 1) / quantiles) ** 0.5
    return float(low), float(high)


@dataclass(frozen=True)
class PowerAnalysis:
    """What the seeds of one comparison can show, and what an effect of interest would take."""

    effect: float  # of interest, as a fraction of the images, positive
    n: int  # seeds at hand
    sd: float  # of the paired differences
    correlation: float | None
    power: float  # chance that n paired seeds show the effect
    detectable: float | None  # the effect that n paired seeds show with 80 % power
    paired: int  # seeds needed for the effect, arms paired by seed
    paired_range: tuple[int, int]  # the same at the ends of the sd's 95 % interval
    unpaired: int  # seeds per arm needed if the arms had independent seeds


def analyse_power(
    comparison: Comparison,
    effect: float,
    *,
    alpha: float = ALPHA,
    target: float = POWER,
    comparisons: int = 1,
) -> PowerAnalysis:
    """Return the power analysis of a comparison for a true `effect` (a fraction, like errors).

    `comparisons` is how many the experiment makes: the level is alpha / comparisons. Raises
    ValueError for a comparison of one seed (its spread is unknown) or an effect <= 0.
    """
    if comparison.n < 2:
        raise ValueError("one seed says nothing about the spread over seeds: run at least two")
    level = alpha / comparisons
    plan = {"alpha": alpha, "target": target, "comparisons": comparisons}
    low, high = sd_interval(comparison.sd, comparison.n)
    arm_sd = math.sqrt((comparison.arm_sd**2 + comparison.baseline_sd**2) / 2)
    return PowerAnalysis(
        effect=effect,
        n=comparison.n,
        sd=comparison.sd,
        correlation=comparison.correlation,
        power=power(effect, comparison.sd, comparison.n, alpha=level),
        detectable=minimum_detectable_effect(
            comparison.n, comparison.sd, alpha=level, target=target
        ),
        paired=seeds_needed(effect, comparison.sd, **plan),
        paired_range=(seeds_needed(effect, low, **plan), seeds_needed(effect, high, **plan)),
        unpaired=seeds_needed(effect, arm_sd, paired=False, **plan),
    )


@dataclass(frozen=True)
class SeedsNeeded:
    """The seeds that one effect takes."""

    effect: float
    paired: int
    unpaired: int


def seeds_table(
    sd: float,
    correlation: float = 0.0,
    effects: tuple[float, ...] = (0.01, 0.005, 0.0025, 0.001),
    *,
    alpha: float = ALPHA,
    target: float = POWER,
) -> list[SeedsNeeded]:
    """Return the seeds needed per effect if each arm has the spread `sd` over seeds.

    Paired differences then have the sd  sd * sqrt(2 (1 - correlation)).
    """
    if not -1 <= correlation <= 1:
        raise ValueError(f"correlation is {correlation}; expected -1 to 1")
    paired_sd = sd * math.sqrt(2 * (1 - correlation))
    return [
        SeedsNeeded(
            effect,
            seeds_needed(effect, paired_sd, alpha=alpha, target=target),
            seeds_needed(effect, sd, alpha=alpha, target=target, paired=False),
        )
        for effect in effects
    ]


def _check(effect: float, sd: float, alpha: float) -> None:
    if not (math.isfinite(effect) and effect > 0):
        raise ValueError(f"effect is {effect}; expected a positive difference in error")
    if not (math.isfinite(sd) and sd >= 0):
        raise ValueError(f"sd is {sd}; expected a standard deviation, 0 or more")
    check_fraction(alpha, "alpha")
