"""The results of a plan: a row per run and epoch, and how each run ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import pandas as pd

from lecun_ablate.plan.plan import Plan

# the metrics of a run after each epoch: columns of Results.frame, and metrics in MLflow
EPOCH_METRICS = (
    "train_loss",
    "train_error",
    "train_misses",
    "test_loss",
    "test_error",
    "test_misses",
    "epoch_seconds",
)


class RunStatus(StrEnum):
    """How training a run ended. All three are results, not errors."""

    FINISHED = "finished"
    DIVERGED = "diverged"  # a parameter or a loss is no longer finite
    COLLAPSED = "collapsed"  # no better on the training digits than always answering the same digit


@dataclass(frozen=True)
class Results:
    """The runs of a plan that have finished.

    `frame` has a row per run and epoch, with the columns arm, seed, epoch, EPOCH_METRICS (errors as
    fractions, losses as means over the images), status (a RunStatus) and run_id. `origins` has a
    row per run: run_id, the git commit or None, and the environment (provenance.environment) in
    which it was trained.
    """

    plan: Plan
    frame: pd.DataFrame
    origins: pd.DataFrame
    run_id: str  # of the plan
    experiment_id: str
    looks: tuple[int, ...] = ()  # the numbers of seeds at which conclusions were drawn
    left_out: tuple[str, ...] = ()  # finished runs that are damaged or were changed, in words

    @property
    def look(self) -> int:
        """The number of this look: 1, or 1 more than there were looks with fewer seeds."""
        return 1 + sum(seeds < len(self.plan.experiment.seeds) for seeds in self.looks)

    @property
    def final(self) -> pd.DataFrame:
        """The rows after each run's last epoch, one per run."""
        return self.frame.groupby(["arm", "seed"], sort=False).tail(1)
