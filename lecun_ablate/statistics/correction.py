"""The correction of p-values for there being several."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from lecun_ablate.statistics.paired import EXACT_UP_TO, PERMUTATIONS

BATCH = 2**14  # flips held in memory at a time
TIES = 1e-9  # statistics this close, relatively, differ by rounding only


def holm(p_values: ArrayLike) -> np.ndarray:
    """Return the p-values adjusted by Holm's step-down correction: (comparisons,) in 0..1.

    The chance of any wrong rejection among them stays at most alpha, however they depend on each
    other. Raises ValueError for numbers outside 0..1. Holm 1979, Scandinavian Journal of
    Statistics 6.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    if not ((p_values >= 0) & (p_values <= 1)).all():
        raise ValueError(f"p-values {p_values.tolist()}; expected numbers from 0 to 1")
    # written out: statsmodels' multipletests collects garbage first: 0.3 s
    order = np.argsort(p_values, kind="stable")
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def step_down(
    differences: ArrayLike, *, rng_seed: int = 0, permutations: int = PERMUTATIONS
) -> np.ndarray:
    """Return p-values of paired comparisons, adjusted by step-down max-t: (comparisons,) in 0..1.

    `differences` (comparisons, seeds) come from the same seeds in every row; NaN where a comparison
    lacks a seed. A flip of the signs applies to all comparisons of a seed at once, so that it keeps
    what a shared baseline makes of them. The largest |t| is compared with the largest one under
    flips, then the second largest among those that remain, and so on. All flips are counted up to
    EXACT_UP_TO seeds, else random ones as in `sign_flip_test`. One comparison has the p of that.

    The chance of any wrong rejection stays at most alpha where the differences without an effect
    are jointly symmetric about 0; by simulation (`benchmarks/many_arms.py`) also where errors are
    skewed in all arms alike, while a skewed baseline among arms that are not makes 6 to 8 % of 5.
    Where an arm has wild seeds (a run that collapsed), the maximum is ruled by chance and the test
    sees less than `holm`, which then is the better choice.
    Westfall and Young 1993, "Resampling-Based Multiple Testing"; Romano and Wolf 2005, JASA 100.
    Raises ValueError for another shape, infinite values, or a comparison without a seed.
    """
    table = np.asarray(differences, dtype=np.float64)
    if table.ndim != 2 or 0 in table.shape or np.isinf(table).any():
        raise ValueError(
            f"differences have shape {table.shape}; expected finite ones, (comparisons, seeds)"
        )
    there = ~np.isnan(table)
    if not there.any(axis=1).all():
        row = int(np.argmin(there.any(axis=1)))
        raise ValueError(f"differences: comparison {row} has no seed")
    values = np.where(there, table, 0.0)
    squares, seeds = (values**2).sum(axis=1), there.sum(axis=1)
    observed = _statistic(values.sum(axis=1), squares, seeds)
    order = np.argsort(-observed, kind="stable")
    threshold = observed[order, None] * (1 - TIES)
    moving = values[:, np.any(values != 0, axis=0)]  # flipping a seed of zeros changes nothing
    as_far, flips, exact = np.zeros(len(table)), 0, moving.shape[1] <= EXACT_UP_TO
    for signs in (
        _all_flips(moving.shape[1])
        if exact
        else _random_flips(moving.shape[1], permutations, rng_seed)
    ):
        found = _statistic(moving @ signs, squares[:, None], seeds[:, None])[order]
        # of each comparison and all that come after it in the order
        largest = np.maximum.accumulate(found[::-1], axis=0)[::-1]
        as_far += (largest >= threshold).sum(axis=1)
        flips += signs.shape[1]
    p = as_far / flips if exact else (as_far + 1) / (flips + 1)
    adjusted = np.empty(len(table))
    adjusted[order] = np.maximum.accumulate(p)
    return adjusted


def _statistic(sums: np.ndarray, squares: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Return t^2 from sums of values, their sums of squares and their number; 0 without any."""
    # u is n times the share of the squares that the mean explains; t^2 = (n - 1) u / (n - u)
    u = np.divide(sums**2, squares, out=np.zeros_like(sums), where=squares > 0)
    left = np.maximum(seeds - u, seeds * 1e-12)  # where all values are equal, t is endless
    return np.maximum(seeds - 1, 1) * u / left


def _all_flips(seeds: int) -> Iterator[np.ndarray]:
    """Yield all signs (seeds, flips) but for those that mirror one of them, batch by batch."""
    number = 2 ** max(seeds - 1, 0)
    for start in range(0, number, BATCH):
        flips = np.arange(start, min(start + BATCH, number))
        yield 1.0 - 2 * ((flips >> np.arange(seeds)[:, None]) & 1)


def _random_flips(seeds: int, number: int, rng_seed: int) -> Iterator[np.ndarray]:
    """Yield random signs (seeds, flips), batch by batch."""
    rng = np.random.default_rng(rng_seed)
    for start in range(0, number, BATCH):
        yield 2.0 * rng.integers(0, 2, size=(seeds, min(BATCH, number - start))) - 1
