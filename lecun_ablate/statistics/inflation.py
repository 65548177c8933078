"""How much called differences are overestimated, because they were selected for being large.

Of many experiments on a small true difference, the ones that call it are those in which chance made
it larger. Gelman and Carlin 2014, Perspectives on Psychological Science 9(6).
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, stats

from lecun_ablate.statistics.arrays import check_fraction
from lecun_ablate.statistics.power import ALPHA, check_plan

STEPS = 1_000  # of the integral over the sample's spread


def shown_when_called(
    effect: float, sd: float, n: int, *, alpha: float = ALPHA, comparisons: int = 1
) -> float:
    """Return the mean difference shown by the experiments that call a true `effect`.

    The call is by a t test at alpha / comparisons, in either direction; the result is the mean
    absolute value. `sd` is that of the normal differences of `n` >= 2 seeds, in the unit of the
    effect. Raises ValueError unless effect > 0, sd > 0 and 0 < alpha < 1.
    """
    check_plan(effect, sd, alpha)
    if n < 2 or sd == 0:
        raise ValueError(f"{n} seeds with an sd of {sd}; expected 2 seeds or more, and a spread")
    spreads = np.sqrt(stats.chi2.ppf((np.arange(STEPS) + 0.5) / STEPS, n - 1) / (n - 1))
    # in standard errors of the mean: the threshold on each spread, and the true effect
    threshold = stats.t.isf(alpha / comparisons / 2, n - 1) * spreads
    true = effect * math.sqrt(n) / sd
    called, shown = 0.0, 0.0
    for centre in (true, -true):
        tail = stats.norm.sf(threshold - centre)
        called += tail.mean()
        shown += (centre * tail + stats.norm.pdf(threshold - centre)).mean()
    return float(shown / called * sd / math.sqrt(n))


def corrected_for_call(
    difference: float, sd: float, n: int, *, alpha: float = ALPHA, comparisons: int = 1
) -> float:
    """Return a called difference, corrected for the bias from having been called.

    The true difference at which half of the experiments that call it would show more: the
    conditional median, taking the estimated standard error as known. Never larger than the
    difference shown; close to it if that is far beyond the threshold, close to 0 if it was only
    just called. A difference that was not called is returned unchanged. Units and errors as in
    `shown_when_called`. After Zhong and Prentice 2008, Biostatistics 9(4).
    """
    check_fraction(alpha, "alpha")
    if n < 2 or not sd > 0:
        return difference
    se = sd / math.sqrt(n)
    shown = abs(difference) / se
    threshold = float(stats.t.isf(alpha / comparisons / 2, n - 1))
    if shown < threshold:
        return difference

    def surplus(true: float) -> float:
        called = np.logaddexp(
            stats.norm.logsf(threshold - true), stats.norm.logcdf(-threshold - true)
        )
        return float(np.exp(stats.norm.logsf(shown - true) - called)) - 0.5

    if surplus(0.0) >= 0:
        return 0.0
    if surplus(shown) <= 0:
        return difference
    return math.copysign(float(optimize.brentq(surplus, 0.0, shown)) * se, difference)
