"""What each of several choices contributes: shares of the variance, and parts of a difference."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from lecun_ablate.statistics.arrays import ROUNDING, check_errors
from lecun_ablate.statistics.factors import Level, cell_table
from lecun_ablate.statistics.intervals import LEVEL, Interval, seed_interval

MOST_CHANGES = 8  # 2^8 cells, 8! orders in closed form


@dataclass(frozen=True)
class Share:
    """How much of the variance between the cells of a factorial one set of factors explains."""

    factors: tuple[str, ...]  # one: its main effect; several: their interaction
    share: float  # 0 to 1; all shares add up to 1
    interval: Interval | None  # None below 3 seeds


def variance_shares(
    arms: Sequence[Mapping[str, Level]], errors: ArrayLike, *, level: float = LEVEL
) -> list[Share]:
    """Return the shares of variance by factors and their interactions, the largest first.

    `arms` name the level of every factor and hold every combination once; `errors` (arms, seeds)
    come from the same seeds in every arm. Functional ANOVA with equal weights: the variance of the
    cells' true means is split among all sets of factors. The part due to seeds alone, the mean
    square of cells within seeds, is subtracted; no share falls below 0. Intervals come from leaving
    out one seed at a time. All shares are 0 if the cells do not differ. Hooker 2007, Journal of
    Computational and Graphical Statistics 16; Efron and Stein 1981, Annals of Statistics 9. Raises
    ValueError for an incomplete product, or errors that are not fractions.
    """
    if not arms:
        raise ValueError("no arms to compare")
    table, factors = cell_table(arms, errors, dict(arms[0]))
    varied = [axis for axis, name in enumerate(factors) if len(factors[name]) > 1]
    sets = [axes for size in range(1, len(varied) + 1) for axes in combinations(varied, size)]
    seeds = table.shape[-1]
    found = _shares(table, sets)
    spreads: list[float | None] = [None] * len(sets)
    if seeds > 2:
        left_out = np.array([_shares(np.delete(table, k, axis=-1), sets) for k in range(seeds)])
        spreads = [math.sqrt((seeds - 1) * float(np.var(column))) for column in left_out.T]
    quantile = float(stats.t.ppf((1 + level) / 2, max(seeds - 1, 1)))
    names = list(factors)
    shares = [
        Share(
            tuple(names[axis] for axis in axes),
            float(share),
            None
            if spread is None
            else Interval(
                float(share) - quantile * spread,
                float(share) + quantile * spread,
                level,
                "jackknife",
            ).clipped(0.0, 1.0),
        )
        for axes, share, spread in zip(sets, found, spreads, strict=True)
    ]
    return sorted(shares, key=lambda share: -share.share)


def _shares(table: np.ndarray, sets: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Return the share of each set of axes in the variance of cells (levels..., seeds)."""
    seeds, axes = table.shape[-1], range(table.ndim - 1)
    means = table.mean(axis=-1)
    cells = means.size
    residual = table - table.mean(axis=tuple(axes)) - means[..., None] + means.mean()
    noise = 0.0
    if seeds > 1 and cells > 1:
        noise = float((residual**2).sum()) / ((seeds - 1) * (cells - 1)) / seeds
    parts: dict[tuple[int, ...], np.ndarray] = {(): np.full((1,) * means.ndim, means.mean())}
    components = []
    for chosen in sets:
        others = tuple(axis for axis in axes if axis not in chosen)
        part = means.mean(axis=others, keepdims=True)
        for fewer, explained in parts.items():
            if set(fewer) < set(chosen):
                part = part - explained
        parts[chosen] = part
        freedom = math.prod(means.shape[axis] - 1 for axis in chosen)
        components.append(max(0.0, float((part**2).mean()) - freedom * noise / cells))
    total = sum(components)
    return np.array(components) / total if total > ROUNDING**2 else np.zeros(len(sets))


@dataclass(frozen=True)
class Contribution:
    """What one change contributes to the difference between two recipes, over all orders."""

    change: str
    effect: float  # a fraction of the images, negative for fewer errors
    interval: Interval | None  # None for a single seed
    first: float  # what it does alone, before all others
    last: float  # what it does after all others


def shapley(
    errors: Mapping[Collection[str], ArrayLike], *, level: float = LEVEL
) -> list[Contribution]:
    """Return the average contribution of each change over all orders, the largest gain first.

    `errors` maps each set of changes, from none to all, to the errors (seeds,) of the recipe with
    these changes, over the same seeds: 2^k sets for k changes. A ladder shows one order, on which
    its steps depend; the average over all k! orders does not depend on the order, and adds up to
    the whole difference. Shapley 1953; Owen 2014, SIAM/ASA Journal on Uncertainty Quantification 2.
    Raises ValueError if a set is missing, or for errors that do not pair up.
    """
    table = _by_set(errors)
    names = sorted(set().union(*table)) if table else []
    if not 1 <= len(names) <= MOST_CHANGES:
        raise ValueError(f"{len(names)} changes; expected 1 to {MOST_CHANGES}")
    subsets = [frozenset(c) for size in range(len(names) + 1) for c in combinations(names, size)]
    missing = [sorted(changes) for changes in subsets if changes not in table]
    if missing:
        raise ValueError(f"errors with the changes {missing[0]} are missing")
    found = []
    for name in names:
        by_seed = np.zeros(len(table[frozenset()]))
        for before in subsets:
            if name not in before:
                orders = math.factorial(len(before)) * math.factorial(len(names) - len(before) - 1)
                step = table[before | {name}] - table[before]
                by_seed = by_seed + orders / math.factorial(len(names)) * step
        everything = frozenset(names)
        found.append(
            Contribution(
                name,
                float(by_seed.mean()),
                seed_interval(by_seed, level),
                float((table[frozenset({name})] - table[frozenset()]).mean()),
                float((table[everything] - table[everything - {name}]).mean()),
            )
        )
    return sorted(found, key=lambda one: one.effect)


def _by_set(errors: Mapping[Collection[str], ArrayLike]) -> dict[frozenset[str], np.ndarray]:
    table = {frozenset(made): check_errors(row, f"{sorted(made)}") for made, row in errors.items()}
    if len({len(row) for row in table.values()}) > 1:
        raise ValueError("errors hold different numbers of seeds; expected the same seeds in all")
    return table


@dataclass(frozen=True)
class Step:
    """One step of the path from no change to all of them."""

    change: str
    effect: float  # against the step before, a fraction of the images
    interval: Interval | None  # None for a single seed


def largest_gains(
    errors: Mapping[Collection[str], ArrayLike], *, level: float = LEVEL
) -> list[Step]:
    """Return the path that makes, at every step, the change with the largest gain.

    The largest gain is the lowest mean over seeds; of equal ones, the change that comes first in
    the alphabet. `errors` is as for `shapley`, but needs only the sets that the path meets: at most
    k(k + 1)/2 + 1 for k changes. `sets_to_meet` names them, step by step. Because the path is
    chosen by its gains, the early gains are too large and the late ones too small; the sum is
    unbiased. Raises ValueError if a set that the path meets is missing, or for errors that do not
    pair up.
    """
    steps, missing = _climb(_by_set(errors))
    if missing:
        raise ValueError(f"errors with the changes {sorted(missing[0])} are missing")
    return [Step(name, float(row.mean()), seed_interval(row, level)) for name, row in steps]


def sets_to_meet(errors: Mapping[Collection[str], ArrayLike]) -> list[frozenset[str]]:
    """Return the sets of changes that `largest_gains` needs next; none if it has all.

    `errors` has at least no change, and all changes. Raises ValueError for errors that do not pair
    up.
    """
    return _climb(_by_set(errors))[1]


def _climb(
    table: Mapping[frozenset[str], np.ndarray],
) -> tuple[list[tuple[str, np.ndarray]], list[frozenset[str]]]:
    """Return each change of the path with its gains (seeds,), as far as `table` has what it meets.

    And the sets that its next step lacks.
    """
    left, made = sorted(set().union(*table)), frozenset[str]()
    if not left:
        raise ValueError("0 changes; expected 1 or more")
    steps: list[tuple[str, np.ndarray]] = []
    while left:
        if missing := [s for s in (made, *(made | {name} for name in left)) if s not in table]:
            return steps, missing
        gains = {name: table[made | {name}] - table[made] for name in left}
        best = min(left, key=lambda name: float(gains[name].mean()))
        steps.append((best, gains[best]))
        made |= {best}
        left.remove(best)
    return steps, []
