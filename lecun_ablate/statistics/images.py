"""Uncertainty from the test images, in addition to that from the seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from lecun_ablate.statistics.arrays import ROUNDING, check_fraction
from lecun_ablate.statistics.intervals import LEVEL, Interval

TWO_WAY_RESAMPLES = 2_000
BATCH = 50  # resamples at a time: one matrix product for all of them


@dataclass(frozen=True)
class JointComparison:
    """A paired difference for other seeds and other images of the same kind."""

    seeds: int
    images: int
    difference: float  # arm minus baseline, a fraction of the images
    seed_variance: float  # of the difference of one run on infinitely many images
    image_variance: float  # of the difference on one image over infinitely many seeds
    interaction_variance: float  # the rest, of one image with one seed
    interval: Interval  # for new seeds and new images together
    bootstrap: Interval  # two-way bootstrap: counts the interaction three times
    p: float  # of no difference for new seeds and images

    @property
    def widest(self) -> Interval:
        """A conservative bound: the outer ends of the interval and the two-way bootstrap."""
        return self.bootstrap.extended(self.interval).clipped(-1.0, 1.0)


def compare_jointly(
    arm_misses: ArrayLike,
    baseline_misses: ArrayLike,
    *,
    seeds: Interval | None = None,
    level: float = LEVEL,
    rng_seed: int = 0,
    resamples: int = TWO_WAY_RESAMPLES,
) -> JointComparison:
    """Return the difference with its interval over seeds and images as crossed random effects.

    The misses (seeds, images), from `misses`, hold the same seeds and images in both arms. With D =
    arm - baseline = mean + seed + image + interaction, the variance of D's mean over n seeds and m
    images is (MS_seeds + MS_images - MS_interaction) / (n m), from the mean squares of the two-way
    table; no component falls below 0. Satterthwaite degrees of freedom. The interval always
    contains Student's interval over the seeds and the one given as `seeds`, since it covers more
    uncertainty. Raises ValueError below 2 seeds or 2 images. Searle, Casella, McCulloch 1992,
    "Variance Components", chapter 4.
    """
    check_fraction(level, "level")
    table = _difference_table(arm_misses, baseline_misses)
    n, m = table.shape
    mean = float(table.mean())
    of_seeds, of_images = table.mean(axis=1) - mean, table.mean(axis=0) - mean
    residual = table - mean - of_seeds[:, None] - of_images
    squares = np.array([m * (of_seeds**2).sum(), n * (of_images**2).sum(), (residual**2).sum()])
    freedom = np.array([n - 1, m - 1, (n - 1) * (m - 1)])
    ms_seeds, ms_images, ms_rest = mean_squares = squares / freedom
    # a negative component counts as 0; then a single mean square is larger
    sums = np.array([[1, 1, -1], [1, 0, 0], [0, 1, 0]]) * mean_squares
    terms = sums[np.argmax(sums.sum(axis=1))]
    reach, p = 0.0, 1.0 if abs(mean) <= ROUNDING else 0.0
    if terms.sum() > ROUNDING:
        satterthwaite = terms.sum() ** 2 / (terms**2 / freedom).sum()
        squared_errors = np.array([terms.sum(), ms_seeds]) / (n * m)
        quantiles = stats.t.ppf((1 + level) / 2, [satterthwaite, n - 1])
        reach = float((quantiles * np.sqrt(squared_errors)).max())
        # if seeds do not differ, the difference is certain
        t = np.divide(abs(mean), np.sqrt(squared_errors), out=np.full(2, np.inf),
                      where=squared_errors > 0)  # fmt: skip
        p = float(np.max(2 * stats.t.sf(t, [satterthwaite, n - 1])))
    interval = Interval(mean - reach, mean + reach, level, "crossed variance components")
    if seeds is not None:
        interval = interval.extended(seeds)
    return JointComparison(
        seeds=n,
        images=m,
        difference=mean,
        seed_variance=max(0.0, float(ms_seeds - ms_rest) / m),
        image_variance=max(0.0, float(ms_images - ms_rest) / n),
        interaction_variance=float(ms_rest),
        interval=interval.clipped(-1.0, 1.0),
        bootstrap=_two_way_bootstrap(table, level, rng_seed, resamples),
        p=p,
    )


def _two_way_bootstrap(table: np.ndarray, level: float, rng_seed: int, resamples: int) -> Interval:
    """Return the percentile interval from resampling seeds and images independently.

    It counts the interaction three times instead of once, so it is too wide rather than too narrow:
    Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2). Student's t and n / (n
    - 1) correct for percentile intervals of few seeds being too narrow: Hesterberg 2015, The
    American Statistician 69.
    """
    n, m = table.shape
    rng = np.random.default_rng(rng_seed)
    means = np.empty(resamples)
    counts = np.empty((BATCH, n))  # how often each seed is drawn
    images = np.empty((BATCH, m), np.int64)
    for start in range(0, resamples, BATCH):
        number = min(BATCH, resamples - start)
        for k in range(number):
            counts[k] = np.bincount(rng.integers(0, n, n), minlength=n)
            images[k] = rng.integers(0, m, m)
        rows = counts[:number] @ table
        drawn = np.take_along_axis(rows, images[:number], axis=1)
        means[start : start + number] = drawn.mean(axis=1) / n
    tail = (1 - level) / 2
    widen = stats.t.isf(tail, n - 1) / stats.norm.isf(tail) * math.sqrt(n / (n - 1))
    mean = table.mean()
    low, high = mean + widen * (np.quantile(means, [tail, 1 - tail]) - mean)
    return Interval(float(low), float(high), level, "two-way bootstrap")


def _difference_table(arm_misses: ArrayLike, baseline_misses: ArrayLike) -> np.ndarray:
    arm = np.asarray(arm_misses, dtype=np.float64)
    baseline = np.asarray(baseline_misses, dtype=np.float64)
    if arm.shape != baseline.shape or arm.ndim != 2 or min(arm.shape) < 2:
        raise ValueError(
            f"misses have shapes {arm.shape} and {baseline.shape}; expected the same (seeds, "
            "images) in both, with at least 2 of each"
        )
    if not (np.isfinite(arm).all() and np.isfinite(baseline).all()):
        raise ValueError("misses hold values that are not finite")
    return arm - baseline


@dataclass(frozen=True)
class TwoRuns:
    """Two single runs on the same images: McNemar's table and test."""

    images: int
    both_right: int
    only_first_right: int
    only_second_right: int
    both_wrong: int
    differing: int  # images with different answers, right or wrong
    difference: float  # error of the first minus error of the second
    interval: Interval  # over new images; does not include the variation over seeds
    p: float  # exact McNemar test


def mcnemar(
    first: ArrayLike, second: ArrayLike, labels: ArrayLike, *, level: float = LEVEL
) -> TwoRuns:
    """Compare two runs' predictions (images,), 255 meaning no answer, against labels (images,).

    Only images that exactly one run gets right are informative: an exact binomial test on them. It
    says whether these two networks differ, not whether their recipes do, which takes seeds. The
    interval is that of Agresti and Min 2005, Statistics in Medicine 24 (half a count added to each
    cell). McNemar 1947, Psychometrika 12. Raises ValueError for unequal shapes.
    """
    check_fraction(level, "level")
    first, second, labels = np.asarray(first), np.asarray(second), np.asarray(labels)
    if not (first.shape == second.shape == labels.shape and labels.ndim == 1 and labels.size):
        raise ValueError(
            f"predictions {first.shape} and {second.shape} and labels {labels.shape}; expected "
            "one value per image in each"
        )
    right1, right2 = first == labels, second == labels
    table = np.array(
        [
            [np.sum(right1 & right2), np.sum(right1 & ~right2)],
            [np.sum(~right1 & right2), np.sum(~right1 & ~right2)],
        ]
    )
    only1, only2, n = int(table[0, 1]), int(table[1, 0]), labels.size
    adjusted1, adjusted2, total = only1 + 0.5, only2 + 0.5, n + 2
    centre = (adjusted2 - adjusted1) / total
    se = math.sqrt(adjusted1 + adjusted2 - (adjusted2 - adjusted1) ** 2 / total) / total
    reach = float(stats.norm.ppf((1 + level) / 2)) * se
    return TwoRuns(
        images=n,
        both_right=int(table[0, 0]),
        only_first_right=only1,
        only_second_right=only2,
        both_wrong=int(table[1, 1]),
        differing=int(np.sum(first != second)),
        difference=(only2 - only1) / n,
        interval=Interval(centre - reach, centre + reach, level, "Agresti-Min"),
        p=float(stats.binomtest(only1, only1 + only2).pvalue) if only1 + only2 else 1.0,
    )
