"""Judging what a search found on data that played no part in the choice, and choosing prudently."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from lecun_ablate.statistics.arrays import check_fraction, check_values
from lecun_ablate.statistics.intervals import LEVEL, Interval

RESAMPLES = 400

# a choice: errors (candidates, seeds), how often each seed counts (seeds,), and which # candidates
# they are -> the index of the chosen one among them
Rule = Callable[[np.ndarray, np.ndarray, np.ndarray], int]


def smallest_mean(errors: np.ndarray, weights: np.ndarray, candidates: np.ndarray) -> int:
    """Choose the candidate with the smallest mean error."""
    return int((errors @ weights).argmin())


@dataclass(frozen=True)
class JudgedChoice:
    """The gain from choosing the best of many trials, over the arm's own values.

    Errors are fractions of the validation images.
    """

    difference: float  # chosen minus own, on seeds and images that played no part in the choice
    standard_error: float  # by resampling the whole choice
    interval: Interval
    error: float  # of the chosen trial, judged in the same way
    error_standard_error: float


def finalists(search: ArrayLike, number: int) -> list[int]:
    """Return the trials to confirm for `judge_choice`: the best on each half of the images.

    `search` (trials, seeds, images) holds the trials' misses on the validation images; the halves
    are the even and the odd images. Up to twice `number` trials, best first.
    """
    scores = np.asarray(search, dtype=np.float64).mean(axis=1)
    best = [np.argsort(scores[:, half::2].mean(axis=1), kind="stable")[:number] for half in (0, 1)]
    return list(dict.fromkeys(int(trial) for pair in zip(*best, strict=True) for trial in pair))


def judge_choice(
    search: ArrayLike,
    confirmed: Mapping[int, ArrayLike],
    own: ArrayLike,
    number: int,
    *,
    choose: Rule = smallest_mean,
    level: float = LEVEL,
    rng_seed: int = 0,
    resamples: int = RESAMPLES,
) -> JudgedChoice:
    """Return the gain from choosing among trials, judged on other seeds and other images.

    `search` (trials, seeds, images) are the misses of the search, `confirmed` those of the
    `finalists` over fresh seeds, (seeds, images) by trial, `own` those of the arm's own values with
    the same fresh seeds. The whole choice is made on half of the images and half of the fresh
    seeds: the `number` best trials of the search, then one of these and `own`, by the rule
    `choose`, for which `own` is number len(confirmed). It is judged on the other half of both, for
    all four combinations of halves. Finalists picked on all images would bias the judgement by the
    luck of these images. The standard error comes from repeating the choice on resampled seeds and
    images.

    By simulation (`benchmarks/tuning.py`), it is unbiased if all trials are equal, with a coverage
    of 95 % or more. Stone 1974, Journal of the Royal Statistical Society B 36; Owen 2007, Annals of
    Applied Statistics 1(2). Raises ValueError for arrays that do not match, or fewer than two fresh
    seeds or images.
    """
    check_fraction(level, "level")
    scores = np.asarray(search, dtype=np.float64)
    labels = list(confirmed)
    tables = np.array([*(confirmed[k] for k in labels), own], dtype=np.float64)
    if scores.ndim != 3 or tables.ndim != 3 or tables.shape[2] != scores.shape[2]:
        raise ValueError(
            f"search has shape {scores.shape}, confirmed trials {tables.shape}; expected "
            "(trials, seeds, images) with the same images"
        )
    if not labels or not all(0 <= k < len(scores) for k in labels):
        raise ValueError(f"confirmed trials are {labels}; expected some of 0 to {len(scores) - 1}")
    seeds, images = tables.shape[1:]
    if min(seeds, images) < 2:
        raise ValueError(f"{seeds} fresh seeds and {images} images: expected 2 or more of each")
    scores = scores[labels]
    equal = np.ones(scores.shape[1]), np.ones(seeds), np.ones(images)
    difference, error = _judge(scores, tables, *equal, number, choose)
    rng = np.random.default_rng(rng_seed)
    again = np.array([
        _judge(
            scores,
            tables,
            _weights(rng, scores.shape[1], 1),
            _weights(rng, seeds, 2),
            _weights(rng, images, 2),
            number,
            choose,
        )
        for _ in range(resamples)
    ])  # fmt: skip
    standard_error, of_error = (float(s) for s in again.std(axis=0, ddof=1))
    reach = float(stats.t.ppf((1 + level) / 2, seeds - 1)) * standard_error
    return JudgedChoice(
        difference,
        standard_error,
        Interval(difference - reach, difference + reach, level, "resampled choice"),
        error,
        of_error,
    )


def _weights(rng: np.random.Generator, number: int, halves: int) -> np.ndarray:
    """Return how often each of `number` units is drawn, within each of the halves."""
    weights = np.zeros(number)
    for half in range(halves):
        units = np.arange(half, number, halves)
        weights[units] = np.bincount(rng.integers(0, len(units), len(units)), minlength=len(units))
    return weights


def _judge(
    scores: np.ndarray,
    tables: np.ndarray,
    search_seeds: np.ndarray,
    seeds: np.ndarray,
    images: np.ndarray,
    number: int,
    choose: Rule,
) -> tuple[float, float]:
    """Return chosen minus own, and the chosen trial's error, over the four halvings.

    `scores` (trials, seeds, images) and `tables` (trials and own last, seeds, images) are weighted
    by how often each seed and image counts.
    """
    by_image = np.einsum("tsi,s->ti", scores, search_seeds / search_seeds.sum())
    cells = np.empty((len(tables), 2, 2))  # mean misses by half of the seeds and half of the images
    searched = np.empty((len(scores), 2))
    by_seed = []  # by half of the images: (tables, seeds)
    for half in (0, 1):
        weight = images[half::2] / images[half::2].sum()
        searched[:, half] = by_image[:, half::2] @ weight
        of_images = tables[:, :, half::2] @ weight
        by_seed.append(of_images)
        for part in (0, 1):
            cells[:, part, half] = of_images[:, part::2] @ (seeds[part::2] / seeds[part::2].sum())
    differences, errors = [], []
    for half in (0, 1):
        best = np.argsort(searched[:, half], kind="stable")[:number]
        candidates = np.append(best, len(tables) - 1)
        for part in (0, 1):
            errors_there = by_seed[half][candidates, part::2]
            chosen = candidates[choose(errors_there, seeds[part::2], candidates)]
            judged = cells[:, 1 - part, 1 - half]
            differences.append(judged[chosen] - judged[-1])
            errors.append(judged[chosen])
    return float(np.mean(differences)), float(np.mean(errors))


def prudent_choice(
    places: ArrayLike,
    errors: ArrayLike,
    standard_errors: ArrayLike,
    failures: ArrayLike,
    failing: ArrayLike = (),
) -> int:
    """Return the candidate to take: among those as good as the best, one far from failures.

    Candidates lie at `places` (candidates,) on one axis, such as the logarithm of a learning rate,
    or (candidates, axes) on several. They have mean errors of their sound runs, standard errors,
    and counts of failed runs, (candidates,) each. `failing` are further places at which a run
    failed. Candidates are as good as the best if they never failed and their error is within one
    standard error (the best one's) of the smallest. Among them, the one whose nearest failure is
    farthest away is taken. If every candidate failed, the one that failed least often is taken.
    Ties go to the smaller error. Breiman et al. 1984, "Classification and Regression Trees",
    section 3.4.3, for the rule of one standard error. Raises ValueError for arrays that do not
    match.
    """
    where = np.asarray(places, dtype=np.float64)
    where = where.reshape(len(where), -1)
    errors = check_values(errors, "errors")
    spreads, failed = check_values(standard_errors, "standard_errors"), np.asarray(failures)
    if not len(where) == len(errors) == len(spreads) == failed.size:
        raise ValueError(
            f"{len(where)} places, {len(errors)} errors, {len(spreads)} standard errors and "
            f"{failed.size} counts of failures; expected one of each per candidate"
        )
    calm = np.flatnonzero(failed == failed.min())
    best = calm[errors[calm].argmin()]
    shunned = np.asarray(failing, dtype=np.float64).reshape(-1, where.shape[1])
    shunned = np.concatenate([where[failed > 0], shunned])
    if failed.min() > 0 or not len(shunned):
        return int(best)
    good = calm[errors[calm] <= errors[best] + spreads[best]]
    distances = np.linalg.norm(where[good, None] - shunned, axis=2).min(axis=1)
    order = np.lexsort((errors[good], -distances))
    return int(good[order[0]])


def choose_prudently(
    errors: ArrayLike,
    places: ArrayLike,
    guessing: float,
    *,
    weights: ArrayLike | None = None,
    failing: ArrayLike = (),
) -> int:
    """Return the `prudent_choice` among candidates with errors (candidates, seeds).

    A run has failed if its error is at least `guessing`. `weights` (seeds,) say how often each seed
    counts; None: once. `places` and `failing` are as for `prudent_choice`. A candidate all of whose
    runs failed has their mean.
    """
    table = np.asarray(errors, dtype=np.float64)
    counts = np.ones(table.shape[1]) if weights is None else np.asarray(weights, dtype=np.float64)
    failed = table >= guessing
    kept = np.where(failed, 0.0, 1.0) * counts
    kept[kept.sum(axis=1) == 0] = counts
    number = kept.sum(axis=1)
    means = (kept * table).sum(axis=1) / number
    squares = (kept * (table - means[:, None]) ** 2).sum(axis=1)
    standard = np.sqrt(squares / np.maximum(number - 1, 1) / number)
    return prudent_choice(places, means, standard, (failed * counts).sum(axis=1), failing)


def expected_best(errors: ArrayLike) -> np.ndarray:
    """Return the expected smallest of n of the errors, for n = 1, 2, ... all of them.

    `errors` (trials,) are the scores of a search's trials, in any order: the curve shows whether
    more trials would have helped. It is the mean over all subsets of n trials, which is unbiased
    for random search. Dodge et al. 2019, "Show Your Work", EMNLP; in the form of Tang et al. 2020,
    "Showing Your Work Doesn't Always Work", ACL. Raises ValueError for no errors or infinite ones.
    """
    ordered = np.sort(check_values(errors, "errors"))
    number = len(ordered)
    expected = np.empty(number)
    # the chance that the k-th smallest is the smallest of n drawn without replacement
    chance = np.full(number, 1 / number)
    for n in range(1, number + 1):
        expected[n - 1] = chance @ ordered
        # C(number - k, n) / C(number, n + 1) from C(number - k, n - 1) / C(number, n)
        left = np.arange(number - 1, -1, -1)  # how many are larger than each
        if n < number:
            chance = chance * (left - n + 1).clip(0) / n * (n + 1) / (number - n)
    return expected


def interval_over_searches(differences: ArrayLike, level: float = LEVEL) -> Interval | None:
    """Return the interval of a mean difference over repeated searches; None for a single one.

    `differences` (searches, seeds): in each row, the arm and the baseline trained with the values
    of one search, over its own seeds. The values that a search finds are a random effect that more
    seeds do not average out, so this is Student's interval over the searches' means, with searches
    - 1 degrees of freedom. Bouthillier et al. 2021, "Accounting for Variance in Machine Learning
    Benchmarks", MLSys. Raises ValueError for another shape.
    """
    table = np.asarray(differences, dtype=np.float64)
    if table.ndim != 2 or 0 in table.shape or not np.isfinite(table).all():
        raise ValueError(f"differences have shape {table.shape}; expected finite (searches, seeds)")
    check_fraction(level, "level")
    if len(table) < 2:
        return None
    means = table.mean(axis=1)
    reach = float(stats.t.ppf((1 + level) / 2, len(means) - 1)) * means.std(ddof=1)
    mean, reach = float(means.mean()), float(reach) / len(means) ** 0.5
    return Interval(mean - reach, mean + reach, level, "t over searches")
