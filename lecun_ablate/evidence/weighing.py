"""Weighing results: comparisons of arms, effects of factors, and what to train next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from lecun_ablate import statistics
from lecun_ablate.config.experiment import Experiment
from lecun_ablate.errors import LecunAblateError
from lecun_ablate.evidence.worth import Worth, cells, sets_to_train, worth
from lecun_ablate.plan.plan import Plan
from lecun_ablate.plan.results import Results, RunStatus
from lecun_ablate.statistics import (
    Description,
    Effect,
    ExperimentResult,
    PairResult,
    PowerAnalysis,
    Runs,
    UntilNarrow,
)


class Answers(Protocol):
    """Access to the runs' answers on the test split."""

    def predictions(self, run_id: str) -> np.ndarray:
        """Return a run's answers, (images,) uint8."""

    def labels(self, run_id: str) -> np.ndarray:
        """Return the labels that the run was scored on, (images,) uint8."""


@dataclass(frozen=True)
class Evidence:
    """An experiment's results and what they show."""

    results: Results
    labels: np.ndarray | None  # (images,) uint8, of the test split; None: each seed has its own
    images: int  # of a test split
    arms: dict[str, Runs]  # arms with runs, in the order of the experiment
    comparisons: ExperimentResult
    worth: Worth

    @property
    def plan(self) -> Plan:
        """The plan that the results belong to."""
        return self.results.plan

    @property
    def effects(self) -> tuple[Effect, ...]:
        """The effects of the factors, if the experiment varies several."""
        return self.comparisons.effects

    def power(self, effect: float) -> list[tuple[PairResult, PowerAnalysis]]:
        """Return the power analysis of each comparison for a true `effect`, a fraction.

        Raises LecunAblateError if no comparison has at least two seeds.
        """
        if self.comparisons.unit == "search":
            raise LecunAblateError(
                f"{self.plan.tracking_name}: its intervals are over the searches that tuned the "
                "arms, which more seeds do not narrow: raise `searches` in "
                f"{self.plan.experiment.tuned}"
            )
        pairs = [pair for pair in self.comparisons.pairs if pair.counted.n > 1]
        if not pairs:
            raise LecunAblateError(
                f"{self.plan.tracking_name}: no two arms have two seeds in common, so their spread "
                "is unknown: run it with more seeds"
            )
        return [(pair, self.comparisons.power(pair, effect)) for pair in pairs]


def weigh(results: Results, answers: Answers) -> Evidence:
    """Return the evidence from the results so far, reading the answers of every run."""
    final = results.final
    predictions = np.array([answers.predictions(run_id) for run_id in final.run_id])
    rows = pd.Series(np.arange(len(final)), index=final.index)
    arms = {
        arm: _runs(part, predictions[rows[part.index]])
        for arm, part in final.groupby("arm", sort=False)
    }
    experiment = results.plan.experiment
    first = answers.labels(final.run_id.iloc[0])
    labels = None if any(arm.resampled for arm in experiment.arms) else first
    comparisons = statistics.compare_all(
        arms,
        _pairs(experiment, arms),
        labels=labels,
        cells=cells(experiment, arms),
        baseline_cell=experiment.arm(experiment.baseline).overrides,
        searches=experiment.searches,
        margin=experiment.margin / 100,
        look=results.look,
    )
    valued = worth(experiment, arms, 1 - comparisons.alpha)
    return Evidence(results, labels, len(first), arms, comparisons, valued)


def seeds_to_add(results: Results) -> int:
    """Return how many more seeds an experiment's stopping rule asks for; 0 without a rule.

    It uses the intervals among sound runs: the failure rate is a separate outcome, which `at_least`
    seeds bound.
    """
    until = results.plan.experiment.until
    if until is None:
        return 0
    experiment = results.plan.experiment
    arms = _arms(results)
    rule = UntilNarrow(until.halfwidth / 100, until.at_most, until.at_least)
    widths = (_halfwidth(*statistics.common(arms[a], arms[b])) for a, b in _pairs(experiment, arms))
    return rule.seeds_to_add(len(experiment.seeds), widths)


def sets_to_add(results: Results) -> list[frozenset[str]]:
    """Return the changes of the arms that the next step of a path of `ablate` takes; [] if none.

    Errors count as in the table of the path: a diverged run as 0.9.
    """
    return sets_to_train(results.plan.experiment, _arms(results))


def _arms(results: Results) -> dict[str, Runs]:
    return {arm: _runs(part) for arm, part in results.final.groupby("arm", sort=False)}


def _halfwidth(arm: Runs, baseline: Runs) -> float:
    """Return the halfwidth of the difference's seed interval; infinite below two sound seeds."""
    sound = ~(arm.failed | baseline.failed)
    if not sound.any():
        return np.inf
    interval = statistics.difference_interval(arm.errors[sound], baseline.errors[sound])
    return np.inf if interval is None else interval.halfwidth


def _runs(final: pd.DataFrame, predictions: np.ndarray | None = None) -> Runs:
    return Runs(
        final.seed.to_numpy(),
        final.test_error.to_numpy(),
        (final.status == RunStatus.DIVERGED).to_numpy(bool),
        predictions,
        (final.status == RunStatus.COLLAPSED).to_numpy(bool),
    )


def _pairs(experiment: Experiment, arms: dict[str, Runs]) -> list[tuple[str, str]]:
    """Return the pairs that the experiment compares and that have common seeds so far."""
    return [
        pair
        for pair in experiment.comparisons
        if all(name in arms for name in pair)
        and np.intersect1d(arms[pair[0]].seeds, arms[pair[1]].seeds).size
    ]


def ended(runs: Runs) -> Description | None:
    """Return the distribution of an arm's errors over the runs that did not diverge, if any.

    This is the convention for an arm's own error: a diverged run has none, and counts as 0.9 only
    when arms are compared.
    """
    errors = runs.errors[~runs.diverged]
    return statistics.describe(errors) if errors.size else None
