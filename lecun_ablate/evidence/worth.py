"""What each of several choices contributes: in a full product, or between two recipes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lecun_ablate.config.experiment import Experiment
from lecun_ablate.statistics import (
    Contribution,
    Runs,
    Share,
    Step,
    common,
    largest_gains,
    shapley,
    variance_shares,
)


@dataclass(frozen=True)
class Worth:
    """What choices contribute; empty if the experiment is not designed for it.

    Over the seeds that all arms share, diverged runs as error 0.9.
    """

    shares: tuple[Share, ...] = ()  # of the variance between all combinations of choices
    contributions: tuple[Contribution, ...] = ()  # of each change between two recipes
    path: tuple[Step, ...] = ()  # from one to the other, the largest gain first
    seeds: int = 0
    failed: int = 0  # seeds with which a run of any arm failed


def worth(experiment: Experiment, arms: Mapping[str, Runs], level: float) -> Worth:
    """Return what the choices of an experiment contribute, with intervals at `level`."""
    ablation = experiment.ablation
    whole = ablation is not None and ablation.arms == "all" and len(arms) == len(experiment.arms)
    levels = cells(experiment, arms)
    if ablation is not None and whole:
        levels = {
            arm: {change: change in made for change in ablation.changes}
            for arm, made in ablation.sets.items()
        }
    if levels is None:
        return Worth()
    shared = common(*(arms[name] for name in levels))
    seeds, failed = len(shared[0]), int(np.any([runs.failed for runs in shared], axis=0).sum())
    if not seeds:
        return Worth()
    if experiment.searches:
        shared = [runs.over_searches(experiment.searches) for runs in shared]
    rows = [runs.errors for runs in shared]
    shares = variance_shares(list(levels.values()), rows, level=level)
    if ablation is None or not whole:
        return Worth(tuple(shares), seeds=seeds, failed=failed)
    errors: dict[Collection[str], ArrayLike] = {
        ablation.sets[arm]: row for arm, row in zip(levels, rows, strict=True)
    }
    return Worth(
        tuple(shares),
        tuple(shapley(errors, level=level)),
        tuple(largest_gains(errors, level=level)),
        seeds,
        failed,
    )


def cells(experiment: Experiment, arms: Mapping[str, Runs]) -> dict[str, dict[str, Any]] | None:
    """Return the levels of the factors by arm; None unless several vary and every arm has runs."""
    factors = [name for name, levels in (experiment.factors or {}).items() if len(levels) > 1]
    if len(factors) < 2 or len(arms) < len(experiment.arms):
        return None
    return {arm.name: arm.overrides for arm in experiment.arms}
