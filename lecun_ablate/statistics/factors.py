"""Main effects and two-way interactions of a full product of arms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np
from numpy.typing import ArrayLike

from lecun_ablate.statistics.arrays import DIVERGED_ERROR, ROUNDING, check_errors, check_mask
from lecun_ablate.statistics.correction import holm
from lecun_ablate.statistics.intervals import LEVEL, Interval, seed_interval
from lecun_ablate.statistics.paired import sign_flip_test
from lecun_ablate.statistics.power import ALPHA
from lecun_ablate.statistics.wording import count, p_value, points, span

Level = Hashable


@dataclass(frozen=True)
class Effect:
    """What one level does instead of the baseline's, or what two do together.

    Main effect: the mean change of error over all settings of the other factors. Interaction: the
    change by one factor's level at the other's level, minus that change at the other's baseline
    level: 0 where the two simply add up.
    """

    factors: tuple[str, ...]  # one for a main effect, two for an interaction
    levels: tuple[Level, ...]
    baseline: tuple[Level, ...]  # the levels they stand against
    n: int  # seeds
    effect: float  # a fraction of the images, negative for fewer errors
    interval: Interval | None  # None for a single seed
    p: float  # two-sided sign-flip test over seeds
    p_adjusted: float  # Holm, over all effects of the table
    # the same over the seeds with which no arm diverged; None without any, and where none did
    excluded: Effect | None = None
    diverged: int = 0  # seeds with which an arm diverged; they count as error 0.9

    def found(self, alpha: float = ALPHA) -> int:
        """Return the effect's sign where it is told from 0 as a comparison's is, else 0."""
        told = self.interval is not None and self.interval.excludes(0) and self.p_adjusted <= alpha
        return int(np.sign(self.effect)) if told else 0

    @property
    def divergence_note(self) -> str | None:
        """What a reader must know about diverged runs; None where there are none."""
        if not self.diverged:
            return None
        note = (
            f"with {count(self.diverged, 'seed')} a run diverged and counts as error "
            f"{DIVERGED_ERROR}; without"
        )
        if self.excluded is None:
            return f"{note}, nothing is left"
        words = {-1: "fewer errors", 0: "no effect that is told from 0", 1: "more errors"}
        same = self.excluded.found() == self.found()
        return (
            f"{note}: {points(self.excluded.effect)} {span(self.excluded.interval)}, "
            f"{p_value(self.excluded.p_adjusted)} over {count(self.excluded.n, 'seed')}"
            + ("" if same else f": another finding, {words[self.excluded.found()]}")
        )


def factorial(
    arms: Sequence[Mapping[str, Level]],
    errors: ArrayLike,
    baseline: Mapping[str, Level] | None = None,
    *,
    diverged: ArrayLike | None = None,
    level: float = LEVEL,
    rng_seed: int = 0,
) -> list[Effect]:
    """Return the main effects, then the two-way interactions, of a factorial experiment.

    `arms` name the level of every factor and hold every combination once; `errors` (arms, seeds)
    come from the same seeds in every arm. `baseline` names the level the others stand against
    (None: each factor's level in the first arm). One contrast per seed, so what a seed does to all
    arms alike cancels. Factors with a single level have no effect and are left out. `diverged`
    (seeds,) marks those with which a run of any arm did; each effect holds itself without them.
    Raises ValueError for a product that is not full, or errors that are no fractions.
    Montgomery 2017, "Design and Analysis of Experiments", chapter 5.
    """
    if not arms:
        raise ValueError("no arms to compare")
    baseline = dict(arms[0] if baseline is None else baseline)
    table, factors = _table(arms, errors, baseline)
    effects = _effects(table, factors, level, rng_seed)
    if diverged is None or not np.any(diverged):
        return effects
    diverged = check_mask(diverged, table.shape[-1], "diverged")
    left = [None] * len(effects)
    if not diverged.all():
        left = _effects(table[..., ~diverged], factors, level, rng_seed)
    number = int(diverged.sum())
    return [
        replace(effect, excluded=excluded, diverged=number)
        for effect, excluded in zip(effects, left, strict=True)
    ]


def _effects(
    table: np.ndarray, factors: Mapping[str, Sequence[Level]], level: float, rng_seed: int
) -> list[Effect]:
    """Return the effects in a table (levels of factor 1, levels of factor 2, ..., seeds)."""
    varied = [axis for axis, levels in enumerate(factors.values()) if len(levels) > 1]
    names = list(factors)
    effects = []
    for axes in [*combinations(varied, 1), *combinations(varied, 2)]:
        chosen = tuple(names[axis] for axis in axes)
        others = tuple(axis for axis in range(len(names)) if axis not in axes)
        cells = table.mean(axis=others)  # levels of the chosen factors, seeds
        for cell in product(*(range(1, len(factors[name])) for name in chosen)):
            contrast = _contrast(cells, cell)
            p, _ = sign_flip_test(contrast, rng_seed=rng_seed)
            effects.append(
                Effect(
                    factors=chosen,
                    levels=tuple(factors[name][k] for name, k in zip(chosen, cell, strict=True)),
                    baseline=tuple(factors[name][0] for name in chosen),
                    n=len(contrast),
                    effect=float(contrast.mean()),
                    interval=seed_interval(contrast, level),
                    p=p,
                    p_adjusted=p,  # until all are known
                )
            )
    adjusted = holm([effect.p for effect in effects])
    return [
        replace(effect, p_adjusted=float(p)) for effect, p in zip(effects, adjusted, strict=True)
    ]


def _contrast(cells: np.ndarray, cell: tuple[int, ...]) -> np.ndarray:
    """Return per seed what the levels `cell` add to those of the baseline, which are number 0."""
    for level in cell:
        cells = cells[level] - cells[0]
    return np.where(np.abs(cells) <= ROUNDING, 0.0, cells)


def _table(
    arms: Sequence[Mapping[str, Level]], errors: ArrayLike, baseline: Mapping[str, Level]
) -> tuple[np.ndarray, dict[str, list[Level]]]:
    """Return the errors as (levels of factor 1, levels of factor 2, ..., seeds), and the levels.

    The baseline's level comes first in every factor.
    """
    rows = [np.asarray(row, dtype=np.float64) for row in errors]
    if len(rows) != len(arms) or len({row.shape for row in rows}) != 1:
        raise ValueError(
            f"errors have shapes {[row.shape for row in rows]}; expected {len(arms)} rows of the "
            "same seeds, one per arm"
        )
    names = list(arms[0])
    if any(set(arm) != set(names) for arm in arms):
        raise ValueError(f"the arms do not all name a level of each of {names}")
    factors = {}
    for name in names:
        levels = list(dict.fromkeys(arm[name] for arm in arms))
        if name not in baseline or baseline[name] not in levels:
            raise ValueError(f"the baseline's {name} is none of {levels}")
        factors[name] = sorted(levels, key=lambda level, first=baseline[name]: level != first)
    cells = [tuple(arm[name] for name in names) for arm in arms]
    full = list(product(*factors.values()))
    missing = [dict(zip(names, cell, strict=True)) for cell in full if cell not in cells]
    if missing or len(cells) != len(full):
        which = f"{missing[0]} is missing" if missing else "one comes twice"
        raise ValueError(f"the arms are no full product of {factors}: {which}")
    errors = [check_errors(rows[cells.index(cell)], f"arm {cell}") for cell in full]
    return np.reshape(errors, [*map(len, factors.values()), -1]), factors
