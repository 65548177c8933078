"""How often runs fail, and what failures that have not occurred yet could mean.

A run fails if it diverges or collapses, that is, ends without having learnt anything. The failure
rate is a separate outcome: a mean over a few seeds says nothing about failures that none of them
had.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from lecun_ablate.statistics.arrays import DIVERGED_ERROR, check_fraction, check_mask
from lecun_ablate.statistics.intervals import LEVEL, Interval, seed_interval


@dataclass(frozen=True)
class FailureRate:
    """How many of an arm's runs failed, and bounds of the failure rate, a fraction of runs."""

    failed: int
    runs: int
    interval: Interval  # Clopper-Pearson, two-sided
    at_most: float  # one-sided upper bound at the same level
    at_least: float  # one-sided lower bound

    @property
    def rate(self) -> float:
        """The share of the runs that failed."""
        return self.failed / self.runs

    @property
    def bound(self) -> str:
        """The upper bound in words, rounded up so that it is still a bound: "at most 26 %"."""
        return f"at most {_rounded_up(self.at_most)} %"

    @property
    def text(self) -> str:
        """The count and its bounds: "0 of 10: at most 26 %", "2 of 20: 10 % [1, 32]"."""
        counted = f"{self.failed} of {self.runs}"
        if self.failed == 0:
            return f"{counted}: {self.bound}"
        if self.failed == self.runs:
            return f"{counted}: at least {100 - _rounded_up(1 - self.at_least)} %"
        low, high = 100 - _rounded_up(1 - self.interval.low), _rounded_up(self.interval.high)
        return f"{counted}: {100 * self.rate:.0f} % [{low}, {high}]"


@cache
def failure_rate(failed: int, runs: int, level: float = LEVEL) -> FailureRate:
    """Return the failure rate of an arm of whose `runs` so many `failed`.

    The exact interval has at least its nominal coverage. If no run (or every run) failed, the text
    gives the one-sided bound, which for 0 of n is about 3 / n. Raises ValueError unless 0 <= failed
    <= runs and runs >= 1. Clopper and Pearson 1934, Biometrika 26.
    """
    check_fraction(level, "level")
    if not (runs >= 1 and 0 <= failed <= runs):
        raise ValueError(f"{failed} of {runs} runs failed; expected 0 to {runs} of 1 or more")

    def ends(alternative: Literal["two-sided", "less", "greater"]) -> tuple[float, float]:
        found = stats.binomtest(failed, runs, alternative=alternative)
        low, high = found.proportion_ci(level, method="exact")
        return float(low), float(high)

    return FailureRate(
        failed=failed,
        runs=runs,
        interval=Interval(*ends("two-sided"), level, "Clopper-Pearson"),
        at_most=ends("less")[1],
        at_least=ends("greater")[0],
    )


def _rounded_up(share: float) -> int:
    """Return a share in whole percent, rounded up."""
    return int(np.ceil(round(100 * share, 9)))


@dataclass(frozen=True)
class FailureComparison:
    """Failures of an arm and its baseline over common seeds."""

    arm: FailureRate
    baseline: FailureRate
    only_arm: int  # seeds with which the arm's run failed and the baseline's did not
    only_baseline: int
    p: float  # exact paired test of equal rates, two-sided


def compare_failures(
    arm_failed: ArrayLike, baseline_failed: ArrayLike, level: float = LEVEL
) -> FailureComparison:
    """Compare failure rates over common seeds: row k of both (seeds,) bool is the same seed.

    Only seeds with which exactly one arm failed are informative: an exact binomial test on them.
    McNemar 1947, Psychometrika 12. Raises ValueError for rows that do not pair up.
    """
    arm = np.asarray(arm_failed)
    arm = check_mask(arm, arm.size, "arm_failed")
    baseline = check_mask(baseline_failed, arm.size, "baseline_failed")
    only_arm, only_baseline = int(np.sum(arm & ~baseline)), int(np.sum(~arm & baseline))
    apart = only_arm + only_baseline
    return FailureComparison(
        arm=failure_rate(int(arm.sum()), arm.size, level),
        baseline=failure_rate(int(baseline.sum()), arm.size, level),
        only_arm=only_arm,
        only_baseline=only_baseline,
        p=float(stats.binomtest(only_arm, apart).pvalue) if apart else 1.0,
    )


def outweighing_rate(gain: float, sound_error: float) -> float:
    """Return the failure rate above which failures cost more than the `gain` in error.

    `sound_error` is the mean error of the runs that do not fail; a failed run is assumed to guess,
    with DIVERGED_ERROR. All are fractions. 1 if even an arm that always fails would gain.
    """
    cost = DIVERGED_ERROR - sound_error
    return min(1.0, gain / cost) if cost > 0 else 1.0


def interval_with_failures(
    arm_errors: ArrayLike,
    baseline_errors: ArrayLike,
    arm_failed: ArrayLike,
    baseline_failed: ArrayLike,
    level: float = LEVEL,
) -> Interval | None:
    """Return an interval for the mean difference over all runs, including failures not yet seen.

    Errors and failures are (seeds,) of common seeds. The mean difference over all runs is the
    difference among sound runs plus, for each arm, its failure rate times the cost of a failure:
    the error of its failed runs (DIVERGED_ERROR if none failed) minus that of its sound ones. The
    interval adds the ends of these three intervals, whose levels are chosen so that they hold
    together at `level`: half of the error for the difference, a quarter for each rate. It is wide
    (several points at 60 seeds without a failure) because little is known. None if both arms were
    sound with fewer than two seeds. Raises ValueError for rows that do not pair up.
    """
    arm, baseline = np.asarray(arm_errors, float), np.asarray(baseline_errors, float)
    failed = [np.asarray(arm_failed), np.asarray(baseline_failed)]
    for mask, name in zip(failed, ("arm_failed", "baseline_failed"), strict=True):
        check_mask(mask, len(arm), name)
    sound = ~(failed[0] | failed[1])
    alpha = 1 - check_fraction(level, "level")
    if sound.sum() < 2:
        return None
    of_sound = seed_interval((arm - baseline)[sound], 1 - alpha / 2)
    assert of_sound is not None  # two seeds or more
    low, high = of_sound.low, of_sound.high
    for errors, mask, sign in ((arm, failed[0], 1), (baseline, failed[1], -1)):
        rate = failure_rate(int(mask.sum()), mask.size, 1 - alpha / 4)
        failing = float(errors[mask].mean()) if mask.any() else DIVERGED_ERROR
        cost = failing - float(errors[~mask].mean())
        reach = sorted((sign * rate.interval.low * cost, sign * rate.interval.high * cost))
        low, high = low + reach[0], high + reach[1]
    return Interval(low, high, level, "sound runs and failures").clipped(-1.0, 1.0)
