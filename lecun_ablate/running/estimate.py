"""Estimating training time from a trial on a few patterns."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data.digits import Split
from lecun_ablate.running.training import Prepared, by_trainer
from lecun_ablate.trainers.base import Run, Trainer

PATTERNS = 300  # of the training split
SAMPLE = 32  # runs, at most


def estimate(prepared: Prepared, todo: Sequence[tuple[str, int]]) -> float:
    """Return an estimate of the seconds that the (arm, seed) runs of a plan will take."""
    digits = prepared.digits
    splits = {"train": digits.train, "test": digits.test}
    experiment = prepared.plan.experiment
    total = 0.0
    for trainer, members in by_trainer(prepared.trainers, todo):
        wanted = [experiment.arm(arm).recipe_for(seed) for _, arm, seed in members]
        per_epoch = seconds_per_epoch(trainer, wanted, digits.train, splits)
        total += per_epoch * sum(recipe.epochs for recipe in wanted)
    return total


def seconds_per_epoch(
    trainer: Trainer, recipes: Sequence[Recipe], fit: Split, evaluate: Mapping[str, Split]
) -> float:
    """Return an estimate of the seconds per epoch of one of many runs, with all cores busy.

    Some of the recipes are trained on a few patterns, for one epoch and for three. The difference
    excludes one-time costs.
    """
    part = min(1, PATTERNS / len(fit))  # of every split
    few = {name: _part(split, part) for name, split in evaluate.items()}
    sample = recipes[:: -(-len(recipes) // SAMPLE)]

    def seconds(epochs: int) -> float:
        runs = [Run(recipe, seed, until=epochs) for seed, recipe in enumerate(sample)]
        began = time.perf_counter()
        for _ in trainer.train(runs, _part(fit, part), few):
            pass
        return time.perf_counter() - began

    one, three = seconds(1), seconds(3)
    two = three - one if three > one else three  # a busy machine can slow down the one
    return two / 2 / len(sample) / part


def _part(split: Split, part: float) -> Split:
    return split.take(np.arange(round(part * len(split))))
