"""How many seeds an effect needs, and what effect the current seeds can show."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from scipy import optimize, stats

from lecun_ablate.statistics.arrays import check_fraction
from lecun_ablate.statistics.paired import Comparison
from lecun_ablate.statistics.power import (
    ALPHA,
    check_plan,
    equivalence_power,
    fewest_seeds,
    power,
    t_power,
)

POWER = 0.8
MOST_SEEDS = 1_000_000


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

    Paired, by the rule of `power`, where `sd` is that of the differences; unpaired, by a t test at
    the level alpha / comparisons, where `sd` is that of each arm. Never fewer than `fewest_seeds`;
    MOST_SEEDS means that many or more. Raises ValueError as `power` does.
    """
    fewest = fewest_seeds(alpha=alpha) if paired else fewest_seeds(comparisons, alpha, paired=False)
    if comparisons < 1:
        raise ValueError(f"comparisons is {comparisons}; expected 1 or more")
    check_plan(effect, sd, alpha)
    check_fraction(target, "target")

    def enough(n: int) -> bool:
        if paired:
            return power(effect, sd, n, alpha=alpha, comparisons=comparisons) >= target
        return t_power(effect, sd, n, alpha=alpha / comparisons, paired=False) >= target

    return _fewest(enough, fewest)


def searches_needed(
    effect: float, sd: float, *, alpha: float = ALPHA, target: float = POWER, comparisons: int = 1
) -> int:
    """Return the fewest searches that show a true `effect` with power `target`, by a t test.

    `sd` is that of the searches' mean differences. Holm's correction for `comparisons`.
    """
    level = alpha / comparisons
    return _fewest(lambda n: t_power(effect, sd, n, alpha=level) >= target, 2)


def seeds_for_equivalence(
    difference: float,
    margin: float,
    sd: float,
    *,
    alpha: float = ALPHA,
    target: float = POWER,
) -> int:
    """Return the fewest paired seeds whose interval lies within +-margin with power `target`.

    `difference` is the true difference and `sd` that of the differences. Never fewer than
    `fewest_seeds`; MOST_SEEDS means that many or more, for example if the difference is not smaller
    than the margin. Raises ValueError as `equivalence_power` does.
    """
    check_plan(margin, sd, alpha)
    check_fraction(target, "target")
    return _fewest(
        lambda n: equivalence_power(difference, margin, sd, n, alpha=alpha) >= target,
        fewest_seeds(alpha=alpha),
    )


def _fewest(enough: Callable[[int], bool], high: int) -> int:
    """Return the fewest seeds, `high` or more, that are enough; MOST_SEEDS if none are."""
    low = high - 1  # never enough
    while not enough(high):
        if high >= MOST_SEEDS:
            return MOST_SEEDS
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def minimum_detectable_effect(
    n: int, sd: float, *, alpha: float = ALPHA, target: float = POWER, comparisons: int = 1
) -> float | None:
    """Return the true effect that `n` paired seeds show with power `target`, by `power`'s rule.

    None below `fewest_seeds`, where nothing can be shown. Raises ValueError as `power` does.
    """
    check_plan(1.0, sd, alpha)
    check_fraction(target, "target")
    if n < fewest_seeds(alpha=alpha):
        return None
    return sd * _detectable(n, alpha, target, comparisons)


def detectable_range(
    n: int, sd: float, *, alpha: float = ALPHA, target: float = POWER, comparisons: int = 1
) -> tuple[float, float] | None:
    """Return the detectable effect at the ends of the sd's 95 % interval.

    The spread is only known from `n` seeds: with 10, to within 0.7 to 1.8 times. None if
    `minimum_detectable_effect` is. Raises ValueError as `power` does.
    """
    ends = sd_interval(sd, n)
    found = [
        minimum_detectable_effect(n, end, alpha=alpha, target=target, comparisons=comparisons)
        for end in ends or ()
    ]
    if len(found) < 2 or found[0] is None or found[1] is None:
        return None
    return found[0], found[1]


@cache
def _detectable(n: int, alpha: float, target: float, comparisons: int) -> float:
    """Return the detectable effect in units of the differences' sd."""

    def surplus(ratio: float) -> float:
        return power(ratio, 1.0, n, alpha=alpha, comparisons=comparisons) - target

    high = 1.0
    while surplus(high) < 0:
        high *= 2
    return float(optimize.brentq(surplus, 1e-9, high, xtol=1e-14, rtol=1e-14))


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
    """What the seeds of one comparison can show, and the seeds that an effect of interest takes."""

    effect: float  # of interest, as a fraction of the images, positive
    n: int  # current seeds
    sd: float  # of the paired differences
    correlation: float | None
    fewest: int  # seeds below which no effect could be shown, however large
    power: float  # chance that n paired seeds show the effect
    detectable: float | None  # the effect that n paired seeds show with 80 % power; None: too few
    detectable_range: tuple[float, float] | None  # the same at the ends of the sd's 95 % interval
    paired: int  # seeds needed for the effect, arms paired by seed
    paired_range: tuple[int, int]  # the same at the ends of the sd's 95 % interval
    unpaired: int  # seeds per arm needed if the arms had independent seeds


def analyse_power(
    comparison: Comparison,
    effect: float,
    *,
    alpha: float = ALPHA,
    next_alpha: float | None = None,
    target: float = POWER,
    comparisons: int = 1,
) -> PowerAnalysis:
    """Return the power analysis of a comparison for a true `effect` (a fraction, like errors).

    `comparisons` is the number of comparisons for which p is corrected, `alpha` the level of this
    look, `next_alpha` that of the next look, with more seeds (None: `alpha`). Raises ValueError for
    a comparison of one seed (its spread is unknown) or an effect <= 0.
    """
    if comparison.n < 2:
        raise ValueError("one seed says nothing about the spread over seeds: run at least two")
    n, sd = comparison.n, comparison.sd
    arm_sd = math.sqrt((comparison.arm_sd**2 + comparison.baseline_sd**2) / 2)

    def needed(spread: float, paired: bool = True) -> int:
        return seeds_needed(
            effect,
            spread,
            alpha=alpha if next_alpha is None else next_alpha,
            target=target,
            paired=paired,
            comparisons=comparisons,
        )

    low, high = sd_interval(sd, n) or (sd, sd)
    return PowerAnalysis(
        effect=effect,
        n=n,
        sd=sd,
        correlation=comparison.correlation,
        fewest=fewest_seeds(alpha=alpha),
        power=power(effect, sd, n, alpha=alpha, comparisons=comparisons),
        detectable=minimum_detectable_effect(
            n, sd, alpha=alpha, target=target, comparisons=comparisons
        ),
        detectable_range=detectable_range(
            n, sd, alpha=alpha, target=target, comparisons=comparisons
        ),
        paired=needed(sd),
        paired_range=(needed(low), needed(high)),
        unpaired=needed(arm_sd, paired=False),
    )


@dataclass(frozen=True)
class SeedsNeeded:
    """The seeds needed for one effect."""

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

    Paired differences then have the standard deviation sd * sqrt(2 (1 - correlation)).
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
