"""What a search has found: the winner of each arm, and what the trials say about it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from lecun_ablate.config.study import SearchStudy
from lecun_ablate.statistics import Comparison, compare
from lecun_ablate.statistics.arrays import spread
from lecun_ablate.studies.arm_search import DIVERGED, ERRORS, INDEX, MLFLOW_RUN, ArmSearch


@dataclass(frozen=True)
class Failing:
    """Values with which runs over the fresh seeds diverged or learnt nothing."""

    values: dict[str, Any]
    failed: int
    runs: int


@dataclass(frozen=True)
class ArmOutcome:
    """What the search of one arm has found. Errors are fractions of the validation images."""

    arm: str
    values: dict[str, Any]  # the winner's
    own_values: dict[str, Any]
    trial: int | None  # the winner's index; None: the arm's own values, which are no trial
    # what half of the fresh seeds choose, on the other half, against the arm's own values
    confirmed: Comparison
    failing: list[Failing]  # of what was confirmed
    confirmed_trials: int  # how many of the best trials were trained again on them
    search_error: float | None  # the winner's score in the search; None: it was not trained there
    # by numeric field: the values within one s.e.; empty if the winner has no score
    within: dict[str, tuple[float, float]]
    trials: dict[str, int]  # how many were complete, pruned, diverged, collapsed, interrupted
    importances: dict[str, float]  # of the fields, if there are several

    @property
    def error(self) -> float:
        """The mean validation error over the fresh seeds of what the other half choose."""
        return self.confirmed.arm_mean

    @property
    def standard_error(self) -> float:
        """The standard error of `error` over the seeds."""
        return self.confirmed.arm_sd / self.confirmed.n**0.5


@dataclass(frozen=True)
class SearchResult:
    """A finished search, and a row per trial that was told COMPLETE.

    Columns of `frame`: arm, index, number (Optuna's), the searched fields, validation_error (mean
    over the seeds), validation_error_sd, diverged (seeds), collapsed (seeds), run_id (MLflow's).
    """

    study: SearchStudy
    data: str
    data_digest: str
    images: tuple[int, int]  # of the fit and the validation split
    version: int
    trainer: str
    arms: list[ArmOutcome]
    frame: pd.DataFrame
    seconds: float  # wall time of the training and its records, over all starts of the command
    run_id: str  # of the study in MLflow
    experiment_id: str
    notice: str | None


def outcome(search: ArmSearch, guessing: float) -> ArmOutcome:
    """Return what the finished search of an arm has found: the fresh seeds choose the winner.

    The smallest of several means is small partly by luck, so what counts as the error is judged by
    seeds that did not choose: each half of them judges what the other half would have chosen
    (Stone 1974, Journal of the Royal Statistical Society B 36). `guessing` is that of the
    validation split.
    """
    study = search.study
    candidates = search.candidates()
    errors = np.array(
        [[search.confirmed(label)[seed] for seed in study.confirm_seeds] for label in candidates]
    )
    labels = list(candidates)
    best = int(np.argmin(errors.mean(axis=1)))
    winner = labels[best]
    confirmed = compare(_held_out(errors), errors[labels.index(search.own_label)])
    budget = search.budget()
    chosen = budget.get(int(winner)) if winner.isdigit() else None
    # the value of a pruned trial is that of its last rung, which compares with no score
    score = chosen.value if chosen and chosen.state == TrialState.COMPLETE else None
    within = {}
    if chosen and score is not None and not chosen.user_attrs[DIVERGED]:
        # a score is a mean over the trial's seeds; its spread is known best from the fresh ones
        within = _within(search, score + spread(errors[best]) / len(study.seeds) ** 0.5)
    states = Counter(trial.state for trial in budget.values())
    failed = search.record.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    return ArmOutcome(
        arm=search.arm.name,
        values=candidates[winner],
        own_values=study.own_values(search.arm),
        trial=int(winner) if chosen else None,
        confirmed=confirmed,
        failing=[
            Failing(candidates[label], int(failed), len(study.confirm_seeds))
            for label, failed in zip(labels, (errors >= guessing).sum(axis=1), strict=True)
            if failed
        ],
        confirmed_trials=len(search.best()),
        search_error=score,
        within=within,
        trials={
            "complete": states[TrialState.COMPLETE],
            "pruned": states[TrialState.PRUNED],
            "diverged": sum(t.user_attrs[DIVERGED] > 0 for t in budget.values()),
            "collapsed": sum(_collapsed(t, guessing) > 0 for t in _complete(search).values()),
            "interrupted": sum(t.user_attrs[INDEX] < study.trials for t in failed),
        },
        importances=_importances(search),
    )


def _held_out(errors: np.ndarray) -> np.ndarray:
    """Return for every seed the error of the candidate that the other half of the seeds choose.

    Errors: (candidates, seeds); every other seed is of the same half. Leaving out one seed at a
    time would be as free of bias, but half as much again off: the choices are then nearly one. A
    single seed has to judge its own choice.
    """
    if errors.shape[1] == 1:
        return errors.min(axis=0)
    held = np.empty(errors.shape[1])
    for first in (0, 1):
        choice = errors[:, 1 - first :: 2].mean(axis=1).argmin()
        held[first::2] = errors[choice, first::2]
    return held


def _collapsed(trial: FrozenTrial, guessing: float) -> int:
    """Count the seeds of a trial that ended without having learnt anything."""
    failed = sum(error >= guessing for error in trial.user_attrs[ERRORS])
    return failed - trial.user_attrs[DIVERGED]  # whose error is above as well


def _complete(search: ArmSearch) -> dict[int, FrozenTrial]:
    """Return the trials of the budget that have a score, by index."""
    return {i: t for i, t in search.budget().items() if t.state == TrialState.COMPLETE}


def _within(search: ArmSearch, reach: float) -> dict[str, tuple[float, float]]:
    """Return the smallest and the largest value of each numeric field that scored `reach`."""
    good = [
        trial.params
        for trial in _complete(search).values()
        if trial.value is not None and trial.value <= reach
    ]
    numeric = [f for f, values in search.study.search.items() if not isinstance(values, tuple)]
    spans = {field: [float(params[field]) for params in good] for field in numeric}
    return {field: (min(values), max(values)) for field, values in spans.items()}


def frame(search: ArmSearch, guessing: float) -> pd.DataFrame:
    """Return a row per trial that was told COMPLETE, with the columns of SearchResult.frame."""
    rows = []
    for index, trial in _complete(search).items():
        errors = trial.user_attrs[ERRORS]
        rows.append(
            {
                "arm": search.arm.name,
                "index": index,
                "number": trial.number,
                **trial.params,
                "validation_error": trial.value,
                "validation_error_sd": np.std(errors, ddof=1) if len(errors) > 1 else np.nan,
                "diverged": trial.user_attrs[DIVERGED],
                "collapsed": _collapsed(trial, guessing),
                "run_id": trial.user_attrs[MLFLOW_RUN],
            }
        )
    return pd.DataFrame(rows)


def _importances(search: ArmSearch) -> dict[str, float]:
    """Return how much of the score's variance each field explains, diverged trials left out."""
    trials = [t for t in _complete(search).values() if not t.user_attrs[DIVERGED]]
    if len(search.space) < 2 or len({trial.value for trial in trials}) < 2:
        return {}
    memory = optuna.create_study()
    memory.add_trials(trials)
    return get_param_importances(memory, evaluator=FanovaImportanceEvaluator(seed=0))
