"""Correction of p-values for multiple comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from lecun_ablate.statistics.paired import PERMUTATIONS
from lecun_ablate.statistics.power import fewest_seeds

Correction = Literal["step-down max-t", "Holm", "none"]

BATCH = 2**14  # flips held in memory at a time
TIES = 1e-9, 1e-12  # statistics closer than this, relatively or absolutely, differ only by rounding


def holm(p_values: ArrayLike) -> np.ndarray:
    """Return the p-values adjusted by Holm's step-down correction: (comparisons,) in 0..1.

    The chance of any wrong rejection is at most alpha, however the comparisons depend on each
    other. Raises ValueError for numbers outside 0..1. Holm 1979, Scandinavian Journal of Statistics
    6.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    if not ((p_values >= 0) & (p_values <= 1)).all():
        raise ValueError(f"p-values {p_values.tolist()}; expected numbers from 0 to 1")
    # not statsmodels' multipletests, which runs the garbage collector first: 0.3 s
    order = np.argsort(p_values, kind="stable")
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def step_down(
    differences: ArrayLike, *, rng_seed: int = 0, permutations: int = PERMUTATIONS
) -> np.ndarray:
    """Return p-values of paired comparisons, adjusted by step-down max-t: (comparisons,) in 0..1.

    `differences` (comparisons, seeds) come from the same seeds in every row. A sign flip applies to
    all comparisons of a seed at once, which preserves the correlation due to a shared baseline. The
    largest |t| is compared with the largest one under flips, then the second largest among those
    that remain, and so on. All flips are counted if there are at most `permutations`, otherwise
    that many random ones. A single comparison has the p of `sign_flip_test`.

    The chance of any wrong rejection is at most alpha if the differences without an effect are
    jointly symmetric about 0. By simulation (`benchmarks/many_arms.py`), this also holds if errors
    are equally skewed in all arms, while a skewed baseline among arms that are not skewed turns 5 %
    into 6 to 8 %. If an arm has extreme seeds (a run that collapsed) or far fewer seeds than
    another, chance dominates the maximum and the test has less power than `holm`, which is then the
    better choice. Westfall and Young 1993, "Resampling-Based Multiple Testing"; Romano and Wolf
    2005, JASA 100. Raises ValueError for another shape, or values that are not finite.
    """
    table = np.asarray(differences, dtype=np.float64)
    if table.ndim != 2 or 0 in table.shape or not np.isfinite(table).all():
        raise ValueError(
            f"differences have shape {table.shape}; expected finite ones, (comparisons, seeds)"
        )
    squares = (table**2).sum(axis=1, keepdims=True)
    observed = _statistic(table.sum(axis=1, keepdims=True), squares)
    order = np.argsort(-observed[:, 0], kind="stable")
    threshold = observed[order] * (1 - TIES[0]) - TIES[1]
    moving = table[:, np.any(table != 0, axis=0)]  # flipping a seed of zeros changes nothing
    exact = 2 ** max(moving.shape[1] - 1, 0) <= permutations
    batches = (
        _all_flips(moving.shape[1])
        if exact
        else _random_flips(moving.shape[1], permutations, rng_seed)
    )
    as_far, flips = np.zeros(len(table)), 0
    for signs in batches:
        found = _statistic(moving @ signs, squares)[order]
        # of each comparison and all that follow it in the order
        largest = np.maximum.accumulate(found[::-1], axis=0)[::-1]
        as_far += (largest >= threshold).sum(axis=1)
        flips += signs.shape[1]
    p = as_far / flips if exact else (as_far + 1) / (flips + 1)
    adjusted = np.empty(len(table))
    adjusted[order] = np.maximum.accumulate(p)
    return adjusted


def correct(
    rows: Sequence[tuple[np.ndarray, np.ndarray]],
    p: Sequence[float],
    *,
    holm_only: bool = False,
    rng_seed: int = 0,
) -> tuple[np.ndarray, Correction]:
    """Return corrected p-values (comparisons,) of one family, and the correction used.

    `rows` hold each comparison's seeds and its differences over them, `p` its own p. The correction
    is `step_down` if all comparisons have the same seeds, unless `holm_only` (because a run
    failed).
    """
    if len(rows) < 2:
        return np.asarray(p, dtype=np.float64), "none"
    if holm_only or any(not np.array_equal(seeds, rows[0][0]) for seeds, _ in rows):
        return holm(p), "Holm"
    adjusted = step_down(np.array([values for _, values in rows]), rng_seed=rng_seed)
    # with random flips, a corrected p could fall below the plain one
    return np.maximum(adjusted, p), "step-down max-t"


def fewest_for(correction: Correction, comparisons: int, alpha: float) -> int:
    """Return the fewest seeds with which any of the comparisons could be significant."""
    return fewest_seeds(comparisons if correction == "Holm" else 1, alpha)


def _statistic(sums: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return an increasing function of |t|, 0 to the number of seeds, from sums and squares."""
    found: np.ndarray = np.divide(sums**2, squares, out=np.zeros_like(sums), where=squares > 0)
    return found


def _all_flips(seeds: int) -> Iterator[np.ndarray]:
    """Yield all sign vectors (seeds, flips), one of each mirrored pair, batch by batch."""
    number = 2 ** max(seeds - 1, 0)
    for start in range(0, number, BATCH):
        flips = np.arange(start, min(start + BATCH, number))
        yield 1.0 - 2 * ((flips >> np.arange(seeds)[:, None]) & 1)


def _random_flips(seeds: int, number: int, rng_seed: int) -> Iterator[np.ndarray]:
    """Yield random signs (seeds, flips), batch by batch."""
    rng = np.random.default_rng(rng_seed)
    for start in range(0, number, BATCH):
        yield 2.0 * rng.integers(0, 2, size=(seeds, min(BATCH, number - start))) - 1
