"""Power: how often the rules that decide a comparison find a true effect."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from scipy import stats

from lecun_ablate.statistics.arrays import check_fraction
from lecun_ablate.statistics.paired import smallest_p

ALPHA = 0.05
SIMULATED = 6  # how many numbers of seeds, from the fewest up, have simulated power
SAMPLES = 2**12  # simulated experiments; fewer if there are many flips
MOST_FLIPS = 2**23  # over all of them
BATCH = 2**17  # flips held in memory at a time
STEPS = 1_000  # of the integral over the sample's spread


def fewest_seeds(comparisons: int = 1, alpha: float = ALPHA, *, paired: bool = True) -> int:
    """Return the fewest seeds per arm at which a permutation test can reach alpha / comparisons.

    Holm's correction requires this of the smallest of several p-values; with `step_down`, all of
    them can be significant with the seeds that one comparison needs. Raises ValueError for fewer
    than one comparison or an alpha outside 0..1.
    """
    check_fraction(alpha, "alpha")
    if comparisons < 1:
        raise ValueError(f"comparisons is {comparisons}; expected 1 or more")
    n = 2
    while comparisons * smallest_p(n, paired=paired) > alpha:
        n += 1
    return n


def power(effect: float, sd: float, n: int, *, alpha: float = ALPHA, comparisons: int = 1) -> float:
    """Return the chance that `n` paired seeds show a true `effect`, with its sign.

    `effect` and `sd` (of the normal differences) are in the same unit. A comparison shows the
    effect if the sign-flip test's p is at most alpha and the 1 - alpha interval excludes 0; with
    several comparisons, the p after `step_down`, assuming that the other arms equal the baseline
    (true effects in them add power). The power is that of Student's test at alpha / comparisons,
    minus the loss due to sign flips. The loss is simulated for SIMULATED numbers of seeds from
    `fewest_seeds` up; with more seeds it is below 0.02 and ignored. It is taken to be the same for
    several comparisons as for one. Accurate to about 0.03
    (tests/statistics/test_statistics_power.py). Raises ValueError as `t_power` does.
    """
    check_plan(effect, sd, alpha)
    if comparisons < 1:
        raise ValueError(f"comparisons is {comparisons}; expected 1 or more")
    fewest = fewest_seeds(1, alpha)
    if n < fewest:
        return 0.0
    smooth = t_power(effect, sd, n, alpha=alpha / comparisons)
    if n >= fewest + SIMULATED or sd == 0:
        return smooth
    by_rule, by_t = _seen_from(n, alpha)
    # the effect that a single comparison would show equally often, by Student's test
    ratio = effect / sd if comparisons == 1 else float(np.quantile(by_t, smooth))
    # the same samples for both, so that most of the simulation's error cancels
    loss = np.mean(by_t < ratio) - np.mean(by_rule < ratio)
    return float(np.clip(smooth - loss, 0, 1))


def t_power(
    effect: float, sd: float, n: int, *, alpha: float = ALPHA, paired: bool = True
) -> float:
    """Return the chance that a two-sided t test with `n` seeds per arm sees a true `effect`.

    `effect` and `sd` are in the same unit. Paired: `sd` is that of the differences; unpaired: that
    of each arm. From the noncentral t distribution: Cohen 1988, "Statistical Power Analysis".
    Raises ValueError unless effect > 0, sd >= 0 and 0 < alpha < 1.
    """
    check_plan(effect, sd, alpha)
    if n < 2:
        return 0.0
    if sd == 0:
        return 1.0
    freedom = n - 1 if paired else 2 * (n - 1)
    noncentrality = effect / sd * math.sqrt(n if paired else n / 2)
    threshold = stats.t.isf(alpha / 2, freedom)
    right_sign = stats.nct.sf(threshold, freedom, noncentrality)
    # scipy gives NaN for this one if it is negligibly small
    wrong_sign = np.nan_to_num(stats.nct.cdf(-threshold, freedom, noncentrality))
    return float(right_sign + wrong_sign)


def equivalence_power(
    difference: float, margin: float, sd: float, n: int, *, alpha: float = ALPHA
) -> float:
    """Return the chance that the 1 - alpha t interval of `n` seeds lies within +-margin.

    `difference` is the true one and `sd` that of the normal differences, all in the same unit. Both
    ends must lie within, as in two one-sided tests: Schuirmann 1987, Journal of Pharmacokinetics
    and Biopharmaceutics 15. Raises ValueError unless margin > 0, sd >= 0 and 0 < alpha < 1.
    """
    check_plan(margin, sd, alpha)
    if n < 2:
        return 0.0
    if sd == 0:
        return float(abs(difference) <= margin)
    # integrate over the sample's spread, of which the mean is independent
    squares = stats.chi2.ppf((np.arange(STEPS) + 0.5) / STEPS, n - 1) / (n - 1)
    room = margin * math.sqrt(n) / sd - stats.t.isf(alpha / 2, n - 1) * np.sqrt(squares)
    centre = difference * math.sqrt(n) / sd
    inside = stats.norm.cdf(room - centre) - stats.norm.cdf(-room - centre)
    return float(np.mean(np.where(room > 0, inside, 0.0)))


def check_plan(effect: float, sd: float, alpha: float) -> None:
    """Raise ValueError for an effect, a spread or a level that is not possible."""
    if not (math.isfinite(effect) and effect > 0):
        raise ValueError(f"effect is {effect}; expected a positive difference in error")
    if not (math.isfinite(sd) and sd >= 0):
        raise ValueError(f"sd is {sd}; expected a standard deviation, 0 or more")
    check_fraction(alpha, "alpha")


@cache
def _seen_from(n: int, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest effect that each of many simulated samples (mean 0, sd 1) would show.

    By the rule of `power`, and by Student's test at the same level: (samples,) each. With an effect
    d > 0 added to a sample, flipping the seeds J gives a mean at least as large as the sample's own
    if the mean over J is at most -d. So the p-value falls as d grows, and reaches the level when -d
    falls below one of the smallest means of subsets. Hartigan 1969, JASA 64.
    """
    flips = 2**n - 1  # all except the one that flips no seed
    samples = int(np.clip(MOST_FLIPS // flips, 512, SAMPLES))
    values = np.random.default_rng(n).normal(size=(samples, n))
    chosen = ((np.arange(1, flips + 1) >> np.arange(n)[:, None]) & 1).astype(np.float64)
    chosen /= chosen.sum(axis=0)
    reaching = math.floor(alpha * (flips + 1) / 2 + 1e-9)  # includes the flip of no seed
    by_flips = np.empty(samples)
    for part in np.array_split(np.arange(samples), math.ceil(samples * flips / BATCH)):
        means = values[part] @ chosen
        means.partition(reaching - 1, axis=1)
        by_flips[part] = -means[:, reaching - 1]
    mean, se = values.mean(axis=1), values.std(axis=1, ddof=1) / math.sqrt(n)
    by_t = stats.t.isf(alpha / 2, n - 1) * se - mean  # Student's interval excludes 0, too
    return np.maximum(by_flips, by_t), by_t
