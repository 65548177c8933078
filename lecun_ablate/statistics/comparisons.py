"""All comparisons of an experiment together: correction, divergence, verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lecun_ablate.statistics.arrays import DIVERGED_ERROR, ROUNDING, misses
from lecun_ablate.statistics.correction import holm
from lecun_ablate.statistics.images import JointComparison, compare_jointly
from lecun_ablate.statistics.intervals import Interval
from lecun_ablate.statistics.paired import Comparison, compare, smallest_p
from lecun_ablate.statistics.planning import (
    PowerAnalysis,
    analyse_power,
    minimum_detectable_effect,
)
from lecun_ablate.statistics.power import ALPHA, fewest_seeds
from lecun_ablate.statistics.runs import Runs, common
from lecun_ablate.statistics.verdict import BOTH_DIVERGED, MARGIN, Verdict, decide
from lecun_ablate.statistics.wording import count, points, span


@dataclass(frozen=True)
class PairResult:
    """One comparison of an experiment, corrected for the others.

    `counted` takes diverged runs as error 0.9 and decides the verdict; `excluded` leaves out the
    seeds with which either arm diverged. Without divergence both are the same.
    """

    arm: str
    baseline: str
    counted: Comparison
    excluded: Comparison | None  # None: no seed is left
    p_adjusted: float  # Holm, over the experiment's comparisons
    p_adjusted_excluded: float | None
    smallest_p: float  # the least that p_adjusted could be with so many seeds in every comparison
    verdict: Verdict
    verdict_excluded: Verdict | None
    arm_diverged: int  # of the common seeds
    baseline_diverged: int
    joint: JointComparison | None  # None without predictions or with a single seed

    @property
    def divergence_matters(self) -> bool:
        """Whether the verdict hangs on how diverged runs are counted."""
        return self.verdict_excluded is None or self.verdict_excluded.kind != self.verdict.kind

    @property
    def divergence_note(self) -> str | None:
        """What a reader must know about diverged runs; None where there are none."""
        diverged = ((self.arm, self.arm_diverged), (self.baseline, self.baseline_diverged))
        runs = [f"{count(number, 'run')} of {name}" for name, number in diverged if number]
        if not runs:
            return None
        number = self.arm_diverged + self.baseline_diverged
        counts = "counts" if number == 1 else "count"
        note = f"{' and '.join(runs)} diverged and {counts} as error {DIVERGED_ERROR}"
        one, verdict = self.excluded, self.verdict_excluded
        if one is None or verdict is None:
            return f"{note}; without them, nothing is left to compare"
        found = f"{points(one.difference)} {span(one.interval)} over {count(one.n, 'seed')}"
        same = f"another: {verdict.text}" if self.divergence_matters else "the same"
        return f"{note}; without them, the difference is {found} and the verdict {same}"


@dataclass(frozen=True)
class ExperimentResult:
    """The comparisons of an experiment, in the order they were asked for."""

    pairs: tuple[PairResult, ...]
    alpha: float  # of all comparisons together

    def __getitem__(self, arm: str) -> PairResult:
        """Return the comparison of an arm with its baseline."""
        for pair in self.pairs:
            if pair.arm == arm:
                return pair
        raise KeyError(arm)

    @property
    def _rule(self) -> dict[str, float]:
        return {"alpha": self.alpha, "comparisons": max(1, len(self.pairs))}

    @property
    def fewest_seeds(self) -> int:
        """The fewest seeds with which any of the comparisons could be significant."""
        return fewest_seeds(**self._rule)

    def detectable(self, pair: PairResult) -> float | None:
        """Return the difference that a comparison's seeds show with 80 % power; None: too few."""
        return minimum_detectable_effect(pair.counted.n, pair.counted.sd, **self._rule)

    def power(self, pair: PairResult, effect: float) -> PowerAnalysis:
        """Return what a comparison's seeds can show of a true `effect`, a fraction.

        Raises ValueError for a comparison of one seed.
        """
        return analyse_power(pair.counted, effect, **self._rule)

    @property
    def too_few(self) -> tuple[PairResult, ...]:
        """The comparisons with too few seeds to be significant whatever they had shown."""
        return tuple(pair for pair in self.pairs if pair.smallest_p > self.alpha)

    @property
    def warning(self) -> str | None:
        """Says where the seeds are too few for any result to be significant."""
        if not self.too_few:
            return None
        of_all = len(self.too_few) == len(self.pairs)
        which = "" if of_all else f" of {', '.join(pair.arm for pair in self.too_few)}"
        numbers = sorted({pair.counted.n for pair in self.too_few})
        seeds = f"{numbers[0]} to {numbers[-1]} seeds" if numbers[1:] else count(numbers[0], "seed")
        return (
            f"With {seeds} and {count(len(self.pairs), 'comparison')} no result{which} could be "
            f"significant at {self.alpha:g}, however large the difference: the smallest possible "
            f"p, corrected, is {min(pair.smallest_p for pair in self.too_few):.2g}. "
            f"It takes at least {count(self.fewest_seeds, 'seed')}."
        )


def compare_all(
    arms: Mapping[str, Runs],
    pairs: Sequence[tuple[str, str]],
    *,
    labels: ArrayLike | None = None,
    margin: float = MARGIN,
    alpha: float = ALPHA,
    rng_seed: int = 0,
) -> ExperimentResult:
    """Compare arms by name: `pairs` of (arm, baseline), each over the seeds both have.

    An experiment with a baseline pairs every other arm with it; a ladder pairs each step with the
    one before. With `labels` (images,) and both arms' predictions, the doubt from the images is
    worked out as well. `margin` is the difference in error that does not matter, a fraction.
    Raises ValueError for unknown arms, pairs without a common seed, or predictions that do not
    agree with the errors.
    """
    for pair in pairs:
        for name in pair:
            if name not in arms:
                raise ValueError(f"arm {name!r} has no runs; expected one of {sorted(arms)}")
    matched = [common(arms[arm], arms[baseline]) for arm, baseline in pairs]
    for names, (runs, _) in zip(pairs, matched, strict=True):
        if not len(runs):
            raise ValueError(f"arms {names[0]!r} and {names[1]!r} have no seed in common")

    counted = [compare(a.errors, b.errors, rng_seed=rng_seed, level=1 - alpha) for a, b in matched]
    excluded = [
        _without_diverged(one, a, b, 1 - alpha, rng_seed)
        for one, (a, b) in zip(counted, matched, strict=True)
    ]
    rules = {"margin": margin, "alpha": alpha}
    decided, decided_excluded = _decide_all(counted, **rules), _decide_all(excluded, **rules)
    results = []
    for k, (arm, baseline) in enumerate(pairs):
        runs, base = matched[k]
        p, smallest, verdict = decided[k]
        p_excluded, _, verdict_excluded = decided_excluded[k]
        both = runs.diverged.all() and base.diverged.all()
        results.append(
            PairResult(
                arm=arm,
                baseline=baseline,
                counted=counted[k],
                excluded=excluded[k],
                p_adjusted=p,
                p_adjusted_excluded=p_excluded,
                smallest_p=smallest,
                verdict=BOTH_DIVERGED if both else verdict,
                verdict_excluded=verdict_excluded,
                arm_diverged=int(runs.diverged.sum()),
                baseline_diverged=int(base.diverged.sum()),
                joint=_joint(runs, base, labels, counted[k].interval, rng_seed, alpha),
            )
        )
    return ExperimentResult(tuple(results), alpha)


def _decide_all(
    comparisons: Sequence[Comparison | None], **rules: float
) -> list[tuple[Any, Any, Any]]:
    """Return per comparison its p after correction, the least that could be, and the verdict."""
    there = [one for one in comparisons if one is not None]
    p = holm([one.p for one in there])
    # numbers of seeds may differ: whoever has many leaves the others more of the level
    smallest = holm([smallest_p(one.n) for one in there])
    decisions = iter(
        (float(p[k]), float(smallest[k]),
         decide(one, p[k], smallest=smallest[k], comparisons=len(there), **rules))
        for k, one in enumerate(there)
    )  # fmt: skip
    return [(None, None, None) if one is None else next(decisions) for one in comparisons]


def _without_diverged(
    counted: Comparison, arm: Runs, baseline: Runs, level: float, rng_seed: int
) -> Comparison | None:
    """Return the comparison over the seeds with which neither arm diverged; None without any."""
    kept = ~(arm.diverged | baseline.diverged)
    if kept.all():
        return counted
    if not kept.any():
        return None
    return compare(arm.errors[kept], baseline.errors[kept], level=level, rng_seed=rng_seed)


def _joint(
    arm: Runs,
    baseline: Runs,
    labels: ArrayLike | None,
    seeds: Interval | None,
    rng_seed: int,
    alpha: float,
) -> JointComparison | None:
    if labels is None or arm.predictions is None or baseline.predictions is None or len(arm) < 2:
        return None
    tables = []
    for runs in (arm, baseline):
        missed = misses(runs.predictions, labels, runs.diverged)
        if np.abs(missed.mean(axis=1) - runs.errors).max() > np.sqrt(ROUNDING):
            raise ValueError(
                "errors and predictions disagree: are they of the same runs and split?"
            )
        tables.append(missed)
    return compare_jointly(*tables, seeds=seeds, level=1 - alpha, rng_seed=rng_seed)
