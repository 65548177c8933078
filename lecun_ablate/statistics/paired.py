"""One arm against another, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from lecun_ablate.statistics.arrays import (
    ROUNDING,
    check_errors,
    check_values,
    paired_differences,
    spread,
)
from lecun_ablate.statistics.intervals import (
    LEVEL,
    RESAMPLES,
    Interval,
    bca_interval,
    seed_interval,
)

EXACT_UP_TO = 20  # seeds with a difference: 2^19 sums
PERMUTATIONS = 99_999
SIGNS = 2**17  # random ones held in memory at a time

Unit = Literal["seed", "search"]  # what one row of paired errors stands for


@dataclass(frozen=True)
class Comparison:
    """A comparison of an arm with its baseline over paired seeds.

    Differences are arm minus baseline. Errors and differences are fractions of the images; negative
    means that the arm is better.
    """

    n: int  # common seeds, or searches
    arm_mean: float
    baseline_mean: float
    arm_sd: float  # over seeds; 0 for a single seed
    baseline_sd: float
    difference: float  # mean over seeds
    sd: float  # of the differences
    interval: Interval | None  # of the mean difference; None for a single seed
    bca: Interval | None  # cross-check of `interval`
    p: float  # two-sided sign-flip permutation test
    exact: bool  # whether p counts all sign flips or a random sample of them
    improvement: float  # P(arm better than baseline with the same seed), ties count half
    improvement_interval: Interval | None
    effect_size: float | None  # difference / sd (Cohen's d_z); None if the sd is 0 but not the mean
    correlation: float | None  # of the two arms over seeds; None below 3 seeds or without spread
    unit: Unit = "seed"  # "search": all numbers are about the searches' means over their seeds

    @property
    def identical(self) -> bool:
        """Whether the arms made the same number of errors with every seed."""
        return self.difference == 0 and self.sd == 0

    @property
    def pairing_gain(self) -> float | None:
        """How many times more seeds an unpaired comparison would need; None without spread.

        Above 1, pairing helped; below 1, it hurt (the arms are negatively correlated).
        """
        if self.sd == 0:
            return None
        return (self.arm_sd**2 + self.baseline_sd**2) / self.sd**2

    @property
    def note(self) -> str | None:
        """What a reader must know about this comparison's limits."""
        if self.n == 1:
            several = "searches" if self.unit == "search" else "seeds"
            return f"one {self.unit}: no interval and no test over {several} is possible"
        return None


def compare(
    arm_errors: ArrayLike,
    baseline_errors: ArrayLike,
    *,
    level: float = LEVEL,
    unit: Unit = "seed",
    rng_seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare an arm with a baseline over common seeds: row k of both is the same seed.

    Errors (seeds,) are fractions of images missed. With the unit "search", a row is the mean over
    the runs trained with the values of one search. There are few such rows, and as means they are
    nearly normal, so p is that of a t test: 5 searches cannot reach 0.05 by sign flips. Equal
    arguments give equal results, including random resampling. Raises ValueError for rows that do
    not pair up, NaN, or errors outside 0..1.
    """
    differences = paired_differences(arm_errors, baseline_errors)
    arm, baseline = check_errors(arm_errors), check_errors(baseline_errors)
    p, exact = test_of(unit)(differences, rng_seed)
    improvement, improvement_interval = probability_of_improvement(differences, level)
    return Comparison(
        n=len(differences),
        arm_mean=float(arm.mean()),
        baseline_mean=float(baseline.mean()),
        arm_sd=spread(arm),
        baseline_sd=spread(baseline),
        difference=float(differences.mean()),
        sd=spread(differences),
        interval=difference_interval(arm, baseline, level=level),
        bca=None
        if unit == "search"
        else bca_interval(differences, level, rng_seed=rng_seed, resamples=resamples),
        p=p,
        exact=exact,
        improvement=improvement,
        improvement_interval=improvement_interval,
        effect_size=effect_size(differences),
        correlation=correlation(arm, baseline),
        unit=unit,
    )


def test_of(unit: Unit) -> Callable[[np.ndarray, int], tuple[float, bool]]:
    """Return the test of a mean over units: (differences, rng_seed) -> (p, whether it is exact)."""
    if unit == "search":
        return lambda values, rng_seed: (t_test(values), False)
    return lambda values, rng_seed: sign_flip_test(values, rng_seed=rng_seed)


def t_test(differences: ArrayLike) -> float:
    """Return the two-sided p of Student's test that the mean of differences (units,) is 0.

    1 for a single unit or if all differences are 0; 0 if all are equal but not 0.
    """
    values = check_values(differences)
    if len(values) < 2 or np.abs(values).max() <= ROUNDING:
        return 1.0
    sd = spread(values)
    if sd == 0:
        return 0.0
    t = abs(float(values.mean())) / sd * math.sqrt(len(values))
    return float(2 * stats.t.sf(t, len(values) - 1))


def difference_interval(
    arm_errors: ArrayLike, baseline_errors: ArrayLike, *, level: float = LEVEL
) -> Interval | None:
    """Return the seed interval of the mean difference, arm minus baseline; None for a single seed.

    The interval of `compare`, with the same arguments. It is clipped to -1..1, the range of a
    difference of two fractions, which a few extreme seeds could push it out of.
    """
    differences = paired_differences(arm_errors, baseline_errors)
    interval = seed_interval(differences, level)
    return interval and interval.clipped(-1.0, 1.0)


def sign_flip_test(
    differences: ArrayLike, *, rng_seed: int = 0, permutations: int = PERMUTATIONS
) -> tuple[float, bool]:
    """Return the two-sided p of the sign-flip permutation test, and whether it is exact.

    If the arms were the same, each difference (seeds,) could equally have had the other sign: p is
    the share of sign flips whose mean is at least as far from 0. All flips are counted if at most
    EXACT_UP_TO seeds differ; otherwise m random ones, giving (b + 1) / (m + 1), which keeps the
    test's level (Phipson and Smyth 2010). Fisher 1935, "The Design of Experiments", section 21.
    """
    values = check_values(differences)
    values = values[np.abs(values) > ROUNDING]  # flipping a zero changes nothing
    if len(values) == 0:
        return 1.0, True
    # ties must count as ties, however the sums were rounded
    reached = abs(values.sum()) - ROUNDING * len(values)
    if len(values) <= EXACT_UP_TO:
        sums = values[:1]  # the first sign stays: flipping all signs only mirrors the sum
        for value in values[1:]:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= reached)), True
    rng = np.random.default_rng(rng_seed)
    as_far: int | np.integer = 0
    at_a_time = max(1, SIGNS // len(values))
    for start in range(0, permutations, at_a_time):
        flips = rng.integers(0, 2, size=(min(at_a_time, permutations - start), len(values)))
        as_far += np.count_nonzero(np.abs((2.0 * flips - 1) @ values) >= reached)
    return (as_far + 1) / (permutations + 1), False


def smallest_p(n: int, *, paired: bool = True) -> float:
    """Return the smallest two-sided p that a permutation test with `n` seeds per arm can give.

    2 divided by the number of ways to flip the signs of n pairs, or to divide 2 n unpaired runs
    into two arms of n. Random flips of many seeds do not reach it, but stay far below any level.
    """
    return 2 / (2**n if paired else math.comb(2 * n, n))


def probability_of_improvement(
    differences: ArrayLike, level: float = LEVEL
) -> tuple[float, Interval | None]:
    """Return P(arm has the smaller error with the same seed) with its Wilson interval.

    Ties count half. None for the interval of a single seed.
    Bouthillier et al. 2021, "Accounting for Variance in Machine Learning Benchmarks"; Wilson 1927.
    """
    values = check_values(differences)
    n = len(values)
    wins = int(np.sum(values < -ROUNDING)) + int(np.sum(np.abs(values) <= ROUNDING)) / 2
    if n == 1:
        return wins, None
    low, high = proportion_confint(wins, n, alpha=1 - level, method="wilson")
    return wins / n, Interval(float(low), float(high), level, "Wilson")


def effect_size(differences: ArrayLike) -> float | None:
    """Return the mean difference in units of the differences' sd: Cohen's d_z.

    0 if all differences are 0; None if the sd is 0 (or unknown: one seed) but the mean is not.
    """
    values = check_values(differences)
    mean, sd = float(values.mean()), spread(values)
    if mean == 0:
        return 0.0
    return mean / sd if sd > 0 else None


def correlation(arm: ArrayLike, baseline: ArrayLike) -> float | None:
    """Return Pearson's correlation over seeds; None below 3 seeds or if an arm has no spread."""
    arm, baseline = check_errors(arm, "arm"), check_errors(baseline, "baseline")
    if len(arm) < 3 or spread(arm) == 0 or spread(baseline) == 0:
        return None
    return float(np.clip(np.corrcoef(arm, baseline)[0, 1], -1, 1))
