"""All comparisons of an experiment together: correction, divergence, verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike

from lecun_ablate.statistics.arrays import (
    DIVERGED_ERROR,
    ROUNDING,
    check_errors,
    check_mask,
    misses,
)
from lecun_ablate.statistics.images import JointComparison, compare_jointly
from lecun_ablate.statistics.paired import Comparison, compare
from lecun_ablate.statistics.planning import ALPHA, fewest_seeds
from lecun_ablate.statistics.verdict import MARGIN, Verdict, decide
from lecun_ablate.statistics.wording import count


@dataclass(frozen=True, eq=False)
class Runs:
    """One arm's results after the last epoch, row by row the same seed.

    The error of a diverged run is not used and may be anything, NaN included.
    Raises ValueError where rows do not match, a seed comes twice, or errors are no fractions.
    """

    seeds: ArrayLike  # (seeds,) int, any order
    errors: ArrayLike  # (seeds,) fractions of the images missed
    diverged: ArrayLike | None = None  # (seeds,) bool; None: no run diverged
    predictions: ArrayLike | None = None  # (seeds, images) uint8, 255 being no answer

    def __post_init__(self):
        seeds = np.asarray(self.seeds)
        if seeds.ndim != 1 or len(np.unique(seeds)) != len(seeds):
            raise ValueError(f"seeds: expected a row of different seeds, got {seeds.tolist()}")
        diverged = np.zeros(len(seeds), bool) if self.diverged is None else self.diverged
        diverged = check_mask(diverged, len(seeds), "diverged")
        errors = np.asarray(self.errors, dtype=np.float64)
        if errors.shape != seeds.shape:
            raise ValueError(f"errors have shape {errors.shape} for {len(seeds)} seeds")
        errors = np.where(diverged, DIVERGED_ERROR, errors)
        if len(errors):  # an arm without a run is no error yet
            check_errors(errors)
        for name, value in (("seeds", seeds), ("diverged", diverged), ("errors", errors)):
            object.__setattr__(self, name, value)
        if self.predictions is not None:
            predictions = np.asarray(self.predictions)
            if predictions.ndim != 2 or len(predictions) != len(seeds):
                raise ValueError(
                    f"predictions have shape {predictions.shape}; expected ({len(seeds)}, images)"
                )
            object.__setattr__(self, "predictions", predictions)

    def __len__(self) -> int:
        return len(self.seeds)

    def take(self, rows: np.ndarray) -> Runs:
        """Return the runs in the given rows."""
        predictions = None if self.predictions is None else self.predictions[rows]
        return Runs(self.seeds[rows], self.errors[rows], self.diverged[rows], predictions)


def common(*arms: Runs) -> list[Runs]:
    """Return each arm's runs with the seeds that all arms share, in the same order."""
    shared = reduce(np.intersect1d, [runs.seeds for runs in arms])
    taken = []
    for runs in arms:
        order = np.argsort(runs.seeds)
        taken.append(runs.take(order[np.searchsorted(runs.seeds, shared, sorter=order)]))
    return taken


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
        if not self.arm_diverged + self.baseline_diverged:
            return None
        runs = (
            f"{count(self.arm_diverged, 'run')} of {self.arm} and "
            f"{count(self.baseline_diverged, 'run')} of {self.baseline} diverged and "
            f"count as error {DIVERGED_ERROR}"
        )
        if self.verdict_excluded is None:
            return f"{runs}; without them, nothing is left to compare"
        if self.divergence_matters:
            return f"{runs}; without them, the verdict is another: {self.verdict_excluded.text}"
        return f"{runs}; without them, the verdict is the same"


@dataclass(frozen=True)
class ExperimentResult:
    """The comparisons of an experiment, in the order they were asked for."""

    pairs: tuple[PairResult, ...]
    alpha: float

    def __getitem__(self, arm: str) -> PairResult:
        """Return the comparison of an arm with its baseline."""
        for pair in self.pairs:
            if pair.arm == arm:
                return pair
        raise KeyError(arm)

    @property
    def warning(self) -> str | None:
        """Says where the seeds are too few for any result to be significant."""
        fewest = fewest_seeds(max(1, len(self.pairs)), self.alpha)
        n = min((pair.counted.n for pair in self.pairs), default=fewest)
        if n >= fewest:
            return None
        return (
            f"With {count(n, 'seed')} and {count(len(self.pairs), 'comparison')} no result could "
            f"be significant at {self.alpha:g}, however large the difference: the smallest "
            f"possible p, corrected, is {min(1.0, len(self.pairs) * 2 / 2**n):.2g}. "
            f"It takes at least {count(fewest, 'seed')}."
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
    p_counted = holm([one.p for one in counted])
    left = [one for one in excluded if one is not None]
    p_left = iter(holm([one.p for one in left]))
    p_excluded = [None if one is None else float(next(p_left)) for one in excluded]
    rules = {"margin": margin, "alpha": alpha}

    results = []
    for k, (arm, baseline) in enumerate(pairs):
        runs, base = matched[k]
        results.append(
            PairResult(
                arm=arm,
                baseline=baseline,
                counted=counted[k],
                excluded=excluded[k],
                p_adjusted=float(p_counted[k]),
                p_adjusted_excluded=p_excluded[k],
                verdict=decide(counted[k], p_counted[k], comparisons=len(pairs), **rules),
                verdict_excluded=None
                if excluded[k] is None
                else decide(excluded[k], p_excluded[k], comparisons=len(left), **rules),
                arm_diverged=int(runs.diverged.sum()),
                baseline_diverged=int(base.diverged.sum()),
                joint=_joint(runs, base, labels, rng_seed, alpha),
            )
        )
    return ExperimentResult(tuple(results), alpha)


def holm(p_values: ArrayLike) -> np.ndarray:
    """Return the p-values adjusted by Holm's step-down correction: (comparisons,) in 0..1.

    The chance of any wrong rejection among them stays at most alpha. Holm 1979, Scandinavian
    Journal of Statistics 6.
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
    arm: Runs, baseline: Runs, labels: ArrayLike | None, rng_seed: int, alpha: float
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
    return compare_jointly(*tables, level=1 - alpha, rng_seed=rng_seed)
