"""All comparisons of an experiment together: correction, failures, verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lecun_ablate.statistics.arrays import ROUNDING, misses, paired_differences
from lecun_ablate.statistics.correction import Correction, correct, fewest_for, holm
from lecun_ablate.statistics.factors import Contrast, Effect, Level, contrasts, effect_of
from lecun_ablate.statistics.failures import compare_failures, interval_with_failures
from lecun_ablate.statistics.images import JointComparison, compare_jointly
from lecun_ablate.statistics.inflation import corrected_for_call
from lecun_ablate.statistics.intervals import Interval
from lecun_ablate.statistics.looks import look_level
from lecun_ablate.statistics.paired import (
    Comparison,
    Unit,
    compare,
    difference_interval,
    smallest_p,
)
from lecun_ablate.statistics.power import ALPHA
from lecun_ablate.statistics.results import ExperimentResult, PairResult
from lecun_ablate.statistics.runs import Runs, common
from lecun_ablate.statistics.verdict import BOTH_DIVERGED, MARGIN, Verdict, decide


def compare_all(
    arms: Mapping[str, Runs],
    pairs: Sequence[tuple[str, str]],
    *,
    labels: ArrayLike | None = None,
    cells: Mapping[str, Mapping[str, Level]] | None = None,
    baseline_cell: Mapping[str, Level] | None = None,
    searches: Mapping[int, int] | None = None,
    margin: float = MARGIN,
    alpha: float = ALPHA,
    look: int | None = None,
    rng_seed: int = 0,
) -> ExperimentResult:
    """Compare arms by name: `pairs` of (arm, baseline), each over the seeds both have.

    An experiment with a baseline pairs every other arm with it; a ladder pairs each step with the
    one before. With `labels` (images,) and both arms' predictions, the uncertainty from the images
    is computed as well. With `cells`, the level of every factor by arm, the effects of the factors
    join the family, over the seeds that all these arms share. `margin` is the difference in error
    that does not matter, a fraction.

    `searches` maps every seed to the search whose values it was trained with, if arms were tuned by
    several. The values that a search finds are a random effect that more seeds do not average out,
    so all intervals and tests are over the searches' means (Bouthillier et al. 2021, "Accounting
    for Variance in Machine Learning Benchmarks", MLSys), with Holm's correction. Failures are
    counted over the runs.

    `alpha` is the error level of the whole family. With `look`, the number of the look at growing
    data, it is that of all looks together, of which this one spends `look_level`. All intervals
    have the matching level. The family is corrected by `step_down`, or by `holm` if a run failed or
    comparisons have different seeds. Which one is used does not depend on the signs of the
    differences, so either keeps its level. Raises ValueError for unknown arms, pairs without a
    common seed, or predictions that do not agree with the errors.
    """
    for pair in pairs:
        for name in pair:
            if name not in arms:
                raise ValueError(f"arm {name!r} has no runs; expected one of {sorted(arms)}")
    matched = [common(arms[arm], arms[baseline]) for arm, baseline in pairs]
    for names, (runs, _) in zip(pairs, matched, strict=True):
        if not len(runs):
            raise ValueError(f"arms {names[0]!r} and {names[1]!r} have no seed in common")
    shared = common(*(arms[name] for name in cells)) if cells else []
    failed = any(runs.failed.any() for group in [*matched, shared] for runs in group)
    rules = _Rules(
        margin=margin,
        alpha=alpha if look is None else look_level(look, alpha),
        next_alpha=alpha if look is None else look_level(look + 1, alpha),
        holm_only=failed or searches is not None,
        cells=list(cells.values()) if cells else [],
        baseline_cell=baseline_cell,
        searches=searches,
        rng_seed=rng_seed,
    )
    over_all = _decide_family(matched, shared, rules)
    sound = over_all
    if failed:
        sound = _decide_family([_sound(pair) for pair in matched], _sound(shared), rules)
    joint = [
        _joint(arm, base, labels, one.comparison.interval if one.comparison else None, rules)
        for (arm, base), one in zip(matched, over_all.pairs, strict=True)
    ]
    p_joint = iter(holm([one.p for one in joint if one is not None]))
    results = [
        _pair_result(
            pairs[k],
            matched[k],
            over_all,
            over_all.pairs[k],
            sound.pairs[k],
            joint[k],
            float(next(p_joint)) if joint[k] else None,
            rules,
        )
        for k in range(len(pairs))
    ]
    effects = over_all.effects
    if failed and shared:
        number = int(np.any([runs.failed for runs in shared], axis=0).sum())
        left: Sequence[Effect | None] = sound.effects or [None for _ in effects]
        effects = [
            effect.beside(without, number) for effect, without in zip(effects, left, strict=True)
        ]
    return ExperimentResult(
        tuple(results),
        tuple(effects),
        rules.alpha,
        rules.next_alpha,
        look,
        over_all.correction,
    )


@dataclass(frozen=True)
class _Rules:
    """How a family is compared and decided."""

    margin: float
    alpha: float  # at this look
    next_alpha: float
    holm_only: bool
    cells: Sequence[Mapping[str, Level]]  # the level of every factor, by arm; empty: no factorial
    baseline_cell: Mapping[str, Level] | None
    searches: Mapping[int, int] | None
    rng_seed: int

    @property
    def unit(self) -> Unit:
        return "seed" if self.searches is None else "search"

    def rows(self, runs: Runs) -> Runs:
        """Return what is compared row by row: runs, or their means by search."""
        return runs if self.searches is None else runs.over_searches(self.searches)


@dataclass(frozen=True)
class _Decided:
    """A comparison of a family, None if it has no seed, with its corrected p and verdict."""

    comparison: Comparison | None
    p: float
    smallest: float
    verdict: Verdict | None


@dataclass(frozen=True)
class _Family:
    pairs: list[_Decided]
    effects: list[Effect]  # also empty if no seed is left for them
    correction: Correction
    size: int


def _decide_family(
    matched: Sequence[Sequence[Runs]], shared: Sequence[Runs], rules: _Rules
) -> _Family:
    """Compare pairs of arms and the effects of factors, correct them together, and decide.

    The pairs hold the seeds common to both, `shared` those common to all cells of the factorial.
    """
    level = 1 - rules.alpha
    matched = [[rules.rows(runs) for runs in pair] for pair in matched]
    shared = [rules.rows(runs) for runs in shared]
    compared = [
        compare(arm.errors, base.errors, level=level, unit=rules.unit, rng_seed=rules.rng_seed)
        if len(arm)
        else None
        for arm, base in matched
    ]
    effects: list[Contrast] = []
    if rules.cells and len(shared[0]):
        effects = contrasts(rules.cells, [runs.errors for runs in shared], rules.baseline_cell)
    rows = [
        (arm.seeds, paired_differences(arm.errors, base.errors))
        for arm, base in matched
        if len(arm)
    ]
    rows += [(shared[0].seeds, effect.values) for effect in effects]
    plain = [one.p for one in compared if one]
    plain += [effect.p(rules.rng_seed, rules.unit) for effect in effects]
    p, correction = correct(rows, plain, holm_only=rules.holm_only, rng_seed=rules.rng_seed)
    smallest = np.array([smallest_p(len(values)) for _, values in rows])
    if rules.searches is not None:  # a t test has no smallest p
        smallest = np.array([float(len(values) < 2) for _, values in rows])
    elif correction == "Holm":  # comparisons with more seeds leave more of alpha to the others
        smallest = holm(smallest)
    fewest = 2 if rules.searches else fewest_for(correction, len(rows), rules.next_alpha)
    decided, k = [], 0
    for one in compared:
        if one is None:
            decided.append(_Decided(None, 1.0, 1.0, None))
            continue
        verdict = decide(
            one,
            float(p[k]),
            smallest=float(smallest[k]),
            fewest=fewest,
            comparisons=len(rows),
            margin=rules.margin,
            alpha=rules.alpha,
            next_alpha=rules.next_alpha,
        )
        decided.append(_Decided(one, float(p[k]), float(smallest[k]), verdict))
        k += 1
    found = [
        effect_of(effect, level, own, float(adjusted))
        for effect, own, adjusted in zip(effects, plain[k:], p[k:], strict=True)
    ]
    return _Family(decided, found, correction, len(rows))


def _sound(runs: Sequence[Runs]) -> list[Runs]:
    """Return arms' runs over the seeds with which none of them failed."""
    if not runs:
        return []
    kept = ~np.any([arm.failed for arm in runs], axis=0)
    return [arm.take(np.flatnonzero(kept)) for arm in runs]


def _pair_result(
    names: tuple[str, str],
    matched: Sequence[Runs],
    family: _Family,
    counted: _Decided,
    sound: _Decided,
    joint: JointComparison | None,
    p_joint: float | None,
    rules: _Rules,
) -> PairResult:
    one, verdict, (arm, base) = counted.comparison, counted.verdict, matched
    assert one is not None and verdict is not None  # there are always common seeds
    if arm.diverged.all() and base.diverged.all():
        verdict = BOTH_DIVERGED
    corrected = None
    if verdict.kind in ("better", "worse"):
        corrected = corrected_for_call(
            one.difference, one.sd, one.n, alpha=rules.alpha, comparisons=family.size
        )
    return PairResult(
        arm=names[0],
        baseline=names[1],
        counted=one,
        sound=sound.comparison,
        p_adjusted=counted.p,
        p_adjusted_sound=sound.p if sound.comparison else None,
        smallest_p=counted.smallest,
        verdict=verdict,
        verdict_sound=sound.verdict,
        simultaneous=difference_interval(
            rules.rows(arm).errors,
            rules.rows(base).errors,
            level=1 - rules.alpha / len(family.pairs),
        ),
        failures=compare_failures(arm.failed, base.failed),
        arm_diverged=int(arm.diverged.sum()),
        baseline_diverged=int(base.diverged.sum()),
        over_all=interval_with_failures(
            arm.errors, base.errors, arm.failed, base.failed, 1 - rules.alpha
        )
        if rules.searches is None
        else None,
        margin=rules.margin,
        corrected=corrected,
        joint=joint,
        p_joint_adjusted=p_joint,
        alpha=rules.alpha,
    )


def _joint(
    arm: Runs, baseline: Runs, labels: ArrayLike | None, seeds: Interval | None, rules: _Rules
) -> JointComparison | None:
    if labels is None or arm.predictions is None or baseline.predictions is None or len(arm) < 2:
        return None
    tables = []
    for runs, predictions in ((arm, arm.predictions), (baseline, baseline.predictions)):
        missed = misses(predictions, labels, runs.diverged)
        if np.abs(missed.mean(axis=1) - runs.errors).max() > np.sqrt(ROUNDING):
            raise ValueError(
                "errors and predictions disagree: are they of the same runs and split?"
            )
        if rules.searches is not None:
            which = np.array([rules.searches[int(seed)] for seed in runs.seeds])
            means = [missed[which == one].mean(axis=0) for one in np.unique(which)]
            if len(means) < 2:
                return None
            missed = np.array(means)
        tables.append(missed)
    return compare_jointly(*tables, seeds=seeds, level=1 - rules.alpha, rng_seed=rules.rng_seed)
