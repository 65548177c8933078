"""One arm's results over its seeds, and several arms' results over the seeds they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike

from lecun_ablate.statistics.arrays import DIVERGED_ERROR, check_errors, check_mask


@dataclass(frozen=True, eq=False, init=False)
class Runs:
    """One arm's results after the last epoch; row k of every array is the same seed."""

    seeds: np.ndarray  # (seeds,) int, any order
    errors: np.ndarray  # (seeds,) fractions of the images missed; DIVERGED_ERROR where diverged
    diverged: np.ndarray  # (seeds,) bool
    predictions: np.ndarray | None  # (seeds, images) uint8, 255 meaning no answer
    collapsed: np.ndarray  # (seeds,) bool: finished without having learnt anything

    def __init__(
        self,
        seeds: ArrayLike,
        errors: ArrayLike,
        diverged: ArrayLike | None = None,
        predictions: ArrayLike | None = None,
        collapsed: ArrayLike | None = None,
    ) -> None:
        """Check and keep the arrays. A mask of None means that no run did.

        The error of a diverged run is not used and may be anything, including NaN. Raises
        ValueError if rows do not match, a seed occurs twice, or errors are not fractions.
        """
        seeds = np.asarray(seeds)
        if seeds.ndim != 1 or len(np.unique(seeds)) != len(seeds):
            raise ValueError(f"seeds: expected a row of different seeds, got {seeds.tolist()}")
        diverged = _mask(diverged, len(seeds), "diverged")
        errors = np.asarray(errors, dtype=np.float64)
        if errors.shape != seeds.shape:
            raise ValueError(f"errors have shape {errors.shape} for {len(seeds)} seeds")
        errors = np.where(diverged, DIVERGED_ERROR, errors)
        if len(errors):  # an arm without runs is allowed
            check_errors(errors)
        if predictions is not None:
            predictions = np.asarray(predictions)
            if predictions.ndim != 2 or len(predictions) != len(seeds):
                raise ValueError(
                    f"predictions have shape {predictions.shape}; expected ({len(seeds)}, images)"
                )
        for name, value in (
            ("seeds", seeds),
            ("errors", errors),
            ("diverged", diverged),
            ("predictions", predictions),
            ("collapsed", _mask(collapsed, len(seeds), "collapsed")),
        ):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def failed(self) -> np.ndarray:
        """Which runs diverged or collapsed: (seeds,) bool."""
        return np.asarray(self.diverged | self.collapsed)

    def take(self, rows: np.ndarray) -> Runs:
        """Return the runs in the given rows."""
        predictions = None if self.predictions is None else self.predictions[rows]
        return Runs(
            self.seeds[rows],
            self.errors[rows],
            self.diverged[rows],
            predictions,
            self.collapsed[rows],
        )

    def over_searches(self, searches: Mapping[int, int]) -> Runs:
        """Return a row for each search, the mean over the seeds trained with its values.

        `searches` maps every seed to its search, whose number replaces the seed. Answers and
        failures belong to single runs and are left out.
        """
        which = np.array([searches[int(seed)] for seed in self.seeds], dtype=int)
        labels = np.unique(which)
        means = np.array([self.errors[which == label].mean() for label in labels])
        return Runs(labels, means)


def _mask(mask: ArrayLike | None, seeds: int, name: str) -> np.ndarray:
    return np.zeros(seeds, bool) if mask is None else check_mask(mask, seeds, name)


def common(*arms: Runs) -> list[Runs]:
    """Return each arm's runs with the seeds that all arms share, in the same order."""
    shared = reduce(np.intersect1d, [runs.seeds for runs in arms])
    taken = []
    for runs in arms:
        order = np.argsort(runs.seeds)
        taken.append(runs.take(order[np.searchsorted(runs.seeds, shared, sorter=order)]))
    return taken
