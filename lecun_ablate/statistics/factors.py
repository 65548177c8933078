"""Main effects and two-way interactions of a full factorial of arms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from lecun_ablate.statistics.arrays import DIVERGED_ERROR, ROUNDING, check_errors, check_mask
from lecun_ablate.statistics.correction import correct
from lecun_ablate.statistics.intervals import LEVEL, Interval, seed_interval
from lecun_ablate.statistics.paired import Unit, test_of
from lecun_ablate.statistics.power import ALPHA
from lecun_ablate.statistics.wording import p_value, points, span
from lecun_ablate.system.text import count

Level = Hashable


@dataclass(frozen=True)
class Contrast:
    """The effect of one level instead of the baseline's, or an interaction of two, by seed.

    Main effect: the mean change of error over all settings of the other factors. Interaction: the
    change by one factor's level at the other's level, minus that change at the other's baseline
    level. It is 0 if the two effects simply add up.
    """

    factors: tuple[str, ...]  # one for a main effect, two for an interaction
    levels: tuple[Level, ...]
    baseline: tuple[Level, ...]  # the levels that they are compared with
    values: np.ndarray  # (seeds,) fractions of the images, negative for fewer errors

    def p(self, rng_seed: int = 0, unit: Unit = "seed") -> float:
        """The two-sided p of the sign-flip test over seeds, or of a t test over searches."""
        return test_of(unit)(self.values, rng_seed)[0]


@dataclass(frozen=True)
class Effect:
    """A contrast's mean over seeds, with its interval and test."""

    factors: tuple[str, ...]  # one for a main effect, two for an interaction
    levels: tuple[Level, ...]
    baseline: tuple[Level, ...]  # the levels that they are compared with
    n: int  # seeds
    effect: float  # a fraction of the images, negative for fewer errors
    interval: Interval | None  # None for a single seed
    p: float  # two-sided sign-flip test over seeds
    p_adjusted: float  # over all effects, and the comparisons in the same family
    # the same over the seeds with which no arm failed; None without any, or if no run failed
    sound: Effect | None = None
    failed: int = 0  # seeds with which an arm's run failed

    def found(self, alpha: float = ALPHA) -> int:
        """Return the sign of an effect that is significant by the rule for comparisons, else 0."""
        told = self.interval is not None and self.interval.excludes(0) and self.p_adjusted <= alpha
        return int(np.sign(self.effect)) if told else 0

    def beside(self, sound: Effect | None, failed: int) -> Effect:
        """Return the effect together with the one among sound runs, without `failed` seeds."""
        return replace(self, sound=sound if failed else None, failed=failed)

    @property
    def failure_note(self) -> str | None:
        """What a reader must know about failed runs; None if there are none."""
        if not self.failed:
            return None
        note = (
            f"with {count(self.failed, 'seed')} a run failed (one that diverged counts as error "
            f"{DIVERGED_ERROR}); without"
        )
        if self.sound is None:
            return f"{note}, nothing is left"
        words = {-1: "fewer errors", 0: "no effect distinguishable from 0", 1: "more errors"}
        same = self.sound.found() == self.found()
        return (
            f"{note}: {points(self.sound.effect)} {span(self.sound.interval)}, "
            f"{p_value(self.sound.p_adjusted)} over {count(self.sound.n, 'seed')}"
            + ("" if same else f": a different result, {words[self.sound.found()]}")
        )


def effect_of(contrast: Contrast, level: float, p: float, p_adjusted: float) -> Effect:
    """Return the effect that a contrast shows, with an interval at `level`."""
    return Effect(
        factors=contrast.factors,
        levels=contrast.levels,
        baseline=contrast.baseline,
        n=len(contrast.values),
        effect=float(contrast.values.mean()),
        interval=seed_interval(contrast.values, level),
        p=p,
        p_adjusted=p_adjusted,
    )


def factorial(
    arms: Sequence[Mapping[str, Level]],
    errors: ArrayLike,
    baseline: Mapping[str, Level] | None = None,
    *,
    failed: ArrayLike | None = None,
    level: float = LEVEL,
    rng_seed: int = 0,
) -> list[Effect]:
    """Return the main effects, then the two-way interactions, of a factorial experiment.

    As `contrasts`, with intervals at `level` and p-values corrected over all effects: by
    `step_down`, or by `holm` if a run failed. (`compare_all` corrects them together with the
    comparisons of the arms.) `failed` (seeds,) marks the seeds with which a run of any arm failed;
    each effect also has its value without them. Raises ValueError as `contrasts` does.
    """
    found = contrasts(arms, errors, baseline)
    if not found:
        return []
    seeds = len(found[0].values)
    failed = np.zeros(seeds, bool) if failed is None else check_mask(failed, seeds, "failed")
    effects = _corrected(found, level, rng_seed, bool(failed.any()))
    if not failed.any():
        return effects
    left: list[Effect | None] = [None] * len(effects)
    if not failed.all():
        kept = [replace(one, values=one.values[~failed]) for one in found]
        left = [*_corrected(kept, level, rng_seed, False)]
    number = int(failed.sum())
    return [effect.beside(sound, number) for effect, sound in zip(effects, left, strict=True)]


def _corrected(
    found: Sequence[Contrast], level: float, rng_seed: int, holm_only: bool
) -> list[Effect]:
    p = [contrast.p(rng_seed) for contrast in found]
    rows = [(np.arange(len(contrast.values)), contrast.values) for contrast in found]
    adjusted, _ = correct(rows, p, holm_only=holm_only, rng_seed=rng_seed)
    return [
        effect_of(contrast, level, own, float(corrected))
        for contrast, own, corrected in zip(found, p, adjusted, strict=True)
    ]


def contrasts(
    arms: Sequence[Mapping[str, Level]],
    errors: ArrayLike,
    baseline: Mapping[str, Level] | None = None,
) -> list[Contrast]:
    """Return the contrasts of a factorial experiment: main effects, then two-way interactions.

    `arms` name the level of every factor and hold every combination once; `errors` (arms, seeds)
    come from the same seeds in every arm. `baseline` names the levels that the others are compared
    with (None: each factor's level in the first arm). There is one contrast per seed, so a seed's
    common effect on all arms cancels. Factors with a single level have no effect and are left out.
    Raises ValueError for an incomplete product, or errors that are not fractions. Montgomery 2017,
    "Design and Analysis of Experiments", chapter 5.
    """
    if not arms:
        raise ValueError("no arms to compare")
    baseline = dict(arms[0] if baseline is None else baseline)
    table, factors = cell_table(arms, errors, baseline)
    varied = [axis for axis, levels in enumerate(factors.values()) if len(levels) > 1]
    names = list(factors)
    found = []
    for axes in [*combinations(varied, 1), *combinations(varied, 2)]:
        chosen = tuple(names[axis] for axis in axes)
        others = tuple(axis for axis in range(len(names)) if axis not in axes)
        cells = table.mean(axis=others)  # levels of the chosen factors, seeds
        for cell in product(*(range(1, len(factors[name])) for name in chosen)):
            found.append(
                Contrast(
                    factors=chosen,
                    levels=tuple(factors[name][k] for name, k in zip(chosen, cell, strict=True)),
                    baseline=tuple(factors[name][0] for name in chosen),
                    values=_values(cells, cell),
                )
            )
    return found


def _values(cells: np.ndarray, cell: tuple[int, ...]) -> np.ndarray:
    """Return per seed the contrast of the levels `cell` with the baseline's, which are number 0."""
    for level in cell:
        cells = cells[level] - cells[0]
    return np.where(np.abs(cells) <= ROUNDING, 0.0, cells)


def cell_table(
    arms: Sequence[Mapping[str, Level]], errors: ArrayLike, baseline: Mapping[str, Level]
) -> tuple[np.ndarray, dict[str, list[Level]]]:
    """Return errors (arms, seeds) as (levels of factor 1, ..., seeds), and the factors' levels.

    The baseline's level comes first in every factor.
    """
    rows = [np.asarray(row, dtype=np.float64) for row in cast("Sequence[ArrayLike]", errors)]
    if len(rows) != len(arms) or len({row.shape for row in rows}) != 1:
        raise ValueError(
            f"errors have shapes {[row.shape for row in rows]}; expected {len(arms)} rows of the "
            "same seeds, one per arm"
        )
    names = list(arms[0])
    if any(set(arm) != set(names) for arm in arms):
        raise ValueError(f"the arms do not all name a level of each of {names}")
    factors: dict[str, list[Level]] = {}
    for name in names:
        levels = list(dict.fromkeys(arm[name] for arm in arms))
        if name not in baseline or baseline[name] not in levels:
            got = baseline.get(name)
            raise ValueError(f"the baseline's {name}: expected one of {levels}, got {got!r}")
        first = baseline[name]
        factors[name] = [first, *(level for level in levels if level != first)]
    cells = [tuple(arm[name] for name in names) for arm in arms]
    full = list(product(*factors.values()))
    missing = [dict(zip(names, cell, strict=True)) for cell in full if cell not in cells]
    if missing or len(cells) != len(full):
        which = f"{missing[0]} is missing" if missing else "one occurs twice"
        raise ValueError(f"the arms are not a full product of {factors}: {which}")
    ordered = [check_errors(rows[cells.index(cell)], f"arm {cell}") for cell in full]
    return np.reshape(ordered, [*map(len, factors.values()), -1]), factors
