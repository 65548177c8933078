"""Variation over seeds within one arm: the distribution of its error, and its causes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lecun_ablate.statistics.arrays import ROUNDING, check_errors, misses, spread
from lecun_ablate.statistics.intervals import LEVEL, Interval, seed_interval


@dataclass(frozen=True)
class Description:
    """The distribution of one arm's error over seeds, as fractions of the images."""

    n: int
    mean: float
    interval: Interval | None  # of the mean; None for a single seed
    sd: float  # 0 for a single seed
    low: float  # 5 % of the seeds are below
    high: float  # 5 % are above
    best: float
    worst: float


def describe(errors: ArrayLike, level: float = LEVEL) -> Description:
    """Return the distribution of errors (seeds,). Raises ValueError unless they are fractions."""
    errors = check_errors(errors)
    low, high = np.quantile(errors, [0.05, 0.95])
    interval = seed_interval(errors, level)
    return Description(
        n=len(errors),
        mean=float(errors.mean()),
        interval=interval and interval.clipped(0.0, 1.0),  # extreme seeds can push it outside
        sd=spread(errors),
        low=float(low),
        high=float(high),
        best=float(errors.min()),
        worst=float(errors.max()),
    )


@dataclass(frozen=True)
class VarianceSplit:
    """Why an arm's test error varies over seeds. Variances of the error (a fraction), unbiased.

    `finite_test_set` arises because the test set is small: each seed misses different images, which
    would average out over infinitely many images. `rest` is what would remain: some seeds give
    better networks than others. An estimate of `rest` can be negative; it is then indistinguishable
    from 0.
    """

    n: int  # seeds
    images: int
    total: float
    finite_test_set: float
    rest: float
    rest_se: float | None  # jackknife standard error of `rest`; None below 3 seeds

    @property
    def finite_share(self) -> float:
        """The share of the variance that is finite-test-set noise, 0..1 (0 without variance)."""
        return float(np.clip(self.finite_test_set / self.total, 0, 1)) if self.total else 0.0


def split_variance(predictions: ArrayLike, labels: ArrayLike) -> VarianceSplit:
    """Split the variance of the test error over seeds.

    `predictions` (seeds, images) uint8, 255 meaning no answer; `labels` (images,). The errors on
    two halves of the test set share only the part that makes a seed better or worse: their
    covariance is `rest`. It is averaged here over all ways to halve the test set, in closed form:
    the mean covariance of two different images. `finite_test_set` is the other part, the sum over
    images of p (1 - p) / images^2, where p is an image's error rate over seeds (times n / (n - 1)
    because p is estimated), minus the small share of `rest` in it. Jordan 2023, "Calibrated Chaos",
    arXiv:2304.01910. Raises ValueError below 2 seeds or images.
    """
    missed = misses(predictions, labels)
    n, m = missed.shape
    if min(n, m) < 2:
        raise ValueError(f"{n} seeds and {m} images: expected at least 2 of each")
    rates, errors = missed.mean(axis=0), missed.mean(axis=1)
    total = float(errors.var(ddof=1))
    rest = _pair_covariance(rates, total, n)
    rest_se = None
    if n > 2:
        totals = np.array([np.delete(errors, k).var(ddof=1) for k in range(n)])
        left_out = [
            _pair_covariance((n * rates - missed[k]) / (n - 1), totals[k], n - 1) for k in range(n)
        ]
        rest_se = math.sqrt((n - 1) * np.var(left_out))
    return VarianceSplit(n, m, total, total - rest, rest, rest_se)


def split_variance_of_own_images(errors: ArrayLike, images: int) -> VarianceSplit:
    """Split the variance of errors (seeds,), each measured on its own `images` test images.

    `finite_test_set` is the mean of e (1 - e) / (images - 1), the variance from drawing the images
    for a network with error e. `rest` is what remains: better and worse networks, partly because of
    the images they were trained on. Images drawn without replacement from a pool shared by all
    seeds vary a little less than this, so `rest` is too small rather than too large. Raises
    ValueError below 2 seeds or images.
    """
    errors = check_errors(errors)
    n = len(errors)
    if min(n, images) < 2:
        raise ValueError(f"{n} seeds and {images} images: expected at least 2 of each")
    drawn = errors * (1 - errors) / (images - 1)
    total, finite = float(errors.var(ddof=1)), float(drawn.mean())
    rest_se = None
    if n > 2:
        left_out = [np.delete(errors, k).var(ddof=1) - np.delete(drawn, k).mean() for k in range(n)]
        rest_se = math.sqrt((n - 1) * np.var(left_out))
    return VarianceSplit(n, images, total, finite, total - finite, rest_se)


def _pair_covariance(rates: np.ndarray, total: float, n: int) -> float:
    """Return the mean over pairs of different images of the covariance of their misses."""
    m = len(rates)
    own = float((rates * (1 - rates)).sum()) * n / (n - 1)  # the sum of the images' variances
    return (m * m * total - own) / (m * (m - 1))


def chance_of_wrong_ranking(errors: ArrayLike, difference: float = 0.005) -> float:
    """Return how often one run of each of two arms ranks them wrongly.

    The arms' true errors differ by `difference` (a fraction), and both vary over seeds like
    `errors` (seeds,). The result is the share of pairs of different seeds in which the worse arm
    has the smaller error. Ties count half. Raises ValueError below 2 seeds or a difference < 0.
    """
    errors = check_errors(errors)
    if len(errors) < 2:
        raise ValueError("one seed says nothing about the spread over seeds")
    if not difference >= 0:
        raise ValueError(f"difference is {difference}; expected 0 or more")
    lead = errors[:, None] - errors[None, :] - difference  # better arm's run minus worse arm's
    wrong = np.where(np.abs(lead) <= ROUNDING, 0.5, lead > 0)
    np.fill_diagonal(wrong, 0)
    return float(wrong.sum() / (len(errors) * (len(errors) - 1)))
