"""One arm's results over its seeds, and those of several arms over the seeds they share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np

from lecun_ablate.statistics.arrays import DIVERGED_ERROR, check_errors, check_mask


@dataclass(frozen=True, eq=False)
class Runs:
    """One arm's results after the last epoch, row by row the same seed.

    The error of a diverged run is not used and may be anything, NaN included.
    Raises ValueError where rows do not match, a seed comes twice, or errors are no fractions.
    """

    seeds: np.ndarray  # (seeds,) int, any order
    errors: np.ndarray  # (seeds,) fractions of the images missed
    diverged: np.ndarray = None  # type: ignore[assignment]  # (seeds,) bool; None: no run diverged
    predictions: np.ndarray | None = None  # (seeds, images) uint8, 255 being no answer

    def __post_init__(self) -> None:
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
