"""What each of several choices contributes: in a full product, or between two recipes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
    sets_to_meet,
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
    sets = changes_made(experiment, arms)
    levels, whole = cells(experiment, arms), False
    if experiment.ablation and sets:
        changes = experiment.ablation.changes
        whole = len(sets) == 2 ** len(changes)
        levels = {a: {change: change in made for change in changes} for a, made in sets.items()}
    if levels is None:
        return Worth()
    shared = common(*(arms[name] for name in levels))
    seeds, failed = len(shared[0]), int(np.any([runs.failed for runs in shared], axis=0).sum())
    if not seeds:
        return Worth()
    if experiment.searches:
        shared = [runs.over_searches(experiment.searches) for runs in shared]
    rows = [runs.errors for runs in shared]
    shares: list[Share] = []
    contributions: list[Contribution] = []
    path: list[Step] = []
    if whole or not sets:
        shares = variance_shares(list(levels.values()), rows, level=level)
    if sets:
        errors = _by_set(sets, rows)
        if whole:
            contributions = shapley(errors, level=level)
        if not sets_to_meet(errors):
            path = largest_gains(errors, level=level)
    return Worth(tuple(shares), tuple(contributions), tuple(path), seeds, failed)


def changes_made(
    experiment: Experiment, arms: Mapping[str, Runs]
) -> Mapping[str, tuple[str, ...]] | None:
    """Return the changes that each arm of an `ablate` has; None where that shows no path.

    None as well as long as an arm has no runs.
    """
    ablation = experiment.ablation
    if ablation is None or ablation.arms == "leave_one_out" or len(arms) < len(experiment.arms):
        return None
    return ablation.sets


def sets_to_train(experiment: Experiment, arms: Mapping[str, Runs]) -> list[frozenset[str]]:
    """Return the sets of changes that the next step of a path needs, once all arms have all seeds.

    They are none for an experiment without a path, and at its end.
    """
    sets = changes_made(experiment, arms)
    if sets is None or any(len(runs) < len(experiment.seeds) for runs in arms.values()):
        return []
    shared = common(*(arms[name] for name in sets))
    return sets_to_meet(_by_set(sets, [runs.errors for runs in shared]))


def _by_set(
    sets: Mapping[str, tuple[str, ...]], rows: Sequence[np.ndarray]
) -> dict[Collection[str], ArrayLike]:
    return dict(zip(sets.values(), rows, strict=True))


def cells(experiment: Experiment, arms: Mapping[str, Runs]) -> dict[str, dict[str, Any]] | None:
    """Return the levels of the factors by arm; None unless several vary and every arm has runs."""
    factors = [name for name, levels in (experiment.factors or {}).items() if len(levels) > 1]
    if len(factors) < 2 or len(arms) < len(experiment.arms):
        return None
    return {arm.name: arm.overrides for arm in experiment.arms}
