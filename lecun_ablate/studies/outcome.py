"""The outcome of a search: the winner of each arm, and what the trials say about it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from lecun_ablate.config.study import SearchStudy
from lecun_ablate.statistics import (
    choose_prudently,
    compare,
    expected_best,
    judge_choice,
)
from lecun_ablate.statistics.arrays import spread
from lecun_ablate.studies.arm_search import DIVERGED, ERRORS, INDEX, MLFLOW_RUN, ArmSearch


@dataclass(frozen=True)
class Failing:
    """Values with which runs over the fresh seeds diverged or collapsed."""

    values: dict[str, Any]
    failed: int
    runs: int


@dataclass(frozen=True)
class Judged:
    """The gain from choosing, judged by runs that played no part in the choice."""

    error: float  # of the chosen candidate
    standard_error: float
    own_error: float  # of the arm's own values
    own_standard_error: float
    difference: float  # chosen minus own
    difference_standard_error: float
    other_images: bool  # whether images, too, and not only seeds, played no part in the choice


@dataclass(frozen=True)
class ArmOutcome:
    """The outcome of one search of an arm. Errors are fractions of the validation images."""

    arm: str
    search: int | None  # number of the search, from 1; None if the study has only one
    values: dict[str, Any]  # the winner's
    own_values: dict[str, Any]
    trial: int | None  # the winner's index; None: the arm's own values, not a trial
    judged: Judged
    prudent: bool  # whether a value farther from failures beat the smallest mean error
    failing: list[Failing]  # among the confirmed values
    confirmed_trials: int  # how many of the best trials were trained again on fresh seeds
    search_error: float | None  # the winner's score in the search; None if it was not a trial
    # by numeric field: the values within one s.e.; empty if the winner has no score
    within: dict[str, tuple[float, float]]
    trials: dict[str, int]  # how many were complete, pruned, diverged, collapsed, interrupted
    importances: dict[str, float]  # of the fields, if there are several
    expected_best: list[float]  # the expected smallest score of 1, 2, ... of the trials

    @property
    def error(self) -> float:
        """The validation error of the chosen value, judged by runs that played no part in that."""
        return self.judged.error

    @property
    def standard_error(self) -> float:
        """The standard error of `error`."""
        return self.judged.standard_error

    @property
    def label(self) -> str:
        """The arm, and which of its searches this is if there are several."""
        return self.arm if self.search is None else f"{self.arm}, search {self.search}"


@dataclass(frozen=True)
class SearchResult:
    """A finished search, and a row per trial that was told COMPLETE.

    Columns of `frame`: arm, search (from 1, only if there are several), index, number (Optuna's),
    the searched fields, validation_error (mean over the seeds), validation_error_sd, diverged
    (seeds), collapsed (seeds), run_id (MLflow's).
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
    """Return the outcome of an arm's finished search: the fresh seeds choose the winner.

    Among the values that never failed and are within one standard error of the best, the winner is
    the one farthest from values that failed (`statistics.prudent_choice`). `guessing` is the
    validation error at which a run counts as failed.
    """
    study = search.study
    candidates = search.candidates()
    labels = list(candidates)
    errors = _fresh_errors(search, candidates)
    best = _winner(search, candidates, errors, guessing)
    winner = labels[best]
    budget = search.budget()
    chosen = budget.get(int(winner)) if winner.isdigit() else None
    # a pruned trial's value is from its last rung and cannot be compared with scores
    score = chosen.value if chosen and chosen.state == TrialState.COMPLETE else None
    within = {}
    if chosen and score is not None and not chosen.user_attrs[DIVERGED]:
        # a score is a mean over the trial's seeds; the fresh seeds estimate its spread best
        within = _within(search, score + spread(errors[best]) / len(study.seeds) ** 0.5)
    states = Counter(trial.state for trial in budget.values())
    failed = search.own_trials(TrialState.FAIL)
    return ArmOutcome(
        arm=search.arm.name,
        search=None if study.repetition is None else study.repetition + 1,
        values=candidates[winner],
        own_values=study.own_values(search.arm),
        trial=int(winner) if chosen else None,
        judged=_judged(search, candidates, errors, guessing),
        prudent=best != int(errors.mean(axis=1).argmin()),
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
        expected_best=_expected_best(search),
    )


def winning_values(search: ArmSearch, guessing: float) -> tuple[dict[str, Any], float]:
    """Return the values of a finished search's winner, and their mean error over fresh seeds."""
    candidates = search.candidates()
    errors = _fresh_errors(search, candidates)
    best = _winner(search, candidates, errors, guessing)
    return list(candidates.values())[best], float(errors[best].mean())


def _fresh_errors(search: ArmSearch, labels: Iterable[str]) -> np.ndarray:
    """Return the validation errors of candidates, (candidates, fresh seeds)."""
    seeds = search.study.confirm_seeds
    return np.array([[search.confirmed(label)[seed] for seed in seeds] for label in labels])


def _winner(
    search: ArmSearch,
    candidates: Mapping[str, Mapping[str, Any]],
    errors: np.ndarray,
    guessing: float,
) -> int:
    """Return the index of the winner; `errors` (candidates, fresh seeds).

    Studies of older versions keep their winner, the smallest mean, because experiments have been
    tuned with it.
    """
    if any(search.confirmed_misses(label) is None for label in candidates):
        return int(errors.mean(axis=1).argmin())
    study, failing = search.study, _failing(search, guessing)
    places = _places(study, list(candidates.values()))
    return choose_prudently(errors, places, guessing, failing=_places(study, failing))


def _failing(search: ArmSearch, guessing: float) -> list[dict[str, Any]]:
    """Return the values of trials with a seed that diverged or collapsed."""
    return [
        trial.params
        for trial in search.budget().values()
        if trial.user_attrs[DIVERGED] or _collapsed(trial, guessing)
    ]


def _places(study: SearchStudy, values: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return the positions of values, (values, axes): the search space is a unit cube.

    Two choices of a non-numeric field are 1 apart.
    """
    columns: list[list[float]] = []
    for field, searched in study.search.items():
        if isinstance(searched, tuple):
            columns += [[math.sqrt(0.5) * (v[field] == one) for v in values] for one in searched]
        else:
            scale = math.log if searched.log else float
            low, high = scale(searched.low), scale(searched.high)
            columns.append([(scale(v[field]) - low) / (high - low) for v in values])
    return np.array(columns, dtype=float).T.reshape(len(values), len(columns))


def _judged(
    search: ArmSearch,
    candidates: Mapping[str, Mapping[str, Any]],
    errors: np.ndarray,
    guessing: float,
) -> Judged:
    """Judge the choice among candidates; `errors` (candidates, fresh seeds).

    The whole choice is made on half of the fresh seeds and of the images, and judged on the others
    (`statistics.judge_choice`). If an older version left no misses, each half of the fresh seeds
    judges the choice of the other half, on the same images.
    """
    labels = list(candidates)
    own = errors[labels.index(search.own_label)]
    root = math.sqrt(len(own))
    missed = {label: search.confirmed_misses(label) for label in labels}
    best = search.best()
    tables = [table for table in missed.values() if table is not None]
    own_table = missed[search.own_label]
    if not best or own_table is None or len(tables) < len(labels):
        one = compare(_held_out(errors), own)
        return Judged(
            one.arm_mean,
            one.arm_sd / root,
            one.baseline_mean,
            one.baseline_sd / root,
            one.difference,
            one.sd / root,
            other_images=False,
        )
    study = search.study
    values = [trial.params for trial in best] + [study.own_values(search.arm)]
    places, failing = _places(study, values), _places(study, _failing(search, guessing))

    def choose(errors: np.ndarray, weights: np.ndarray, which: np.ndarray) -> int:
        return choose_prudently(errors, places[which], guessing, weights=weights, failing=failing)

    confirmed = {k: missed[str(trial.user_attrs[INDEX])] for k, trial in enumerate(best)}
    found = judge_choice(
        search.searched(best),
        {k: table for k, table in confirmed.items() if table is not None},
        own_table,
        study.confirm.trials,
        choose=choose,
    )
    return Judged(
        found.error,
        found.error_standard_error,
        float(own.mean()),
        spread(own) / root,
        found.difference,
        found.standard_error,
        other_images=True,
    )


def _expected_best(search: ArmSearch) -> list[float]:
    """Return the expected smallest score of 1, 2, ... trials; pruned ones have their last."""
    scores = [trial.value for trial in search.budget().values() if trial.value is not None]
    return expected_best(scores).tolist() if scores else []


def _held_out(errors: np.ndarray) -> np.ndarray:
    """Return for every seed the error of the candidate chosen by the other half of the seeds.

    Errors: (candidates, seeds); the halves are every other seed. Leaving out one seed at a time
    would also be unbiased, but with an error half as large again, because the choices are then
    almost identical. A single seed has to judge its own choice.
    """
    held: np.ndarray = errors.min(axis=0)
    if errors.shape[1] == 1:
        return held
    for first in (0, 1):
        choice = errors[:, 1 - first :: 2].mean(axis=1).argmin()
        held[first::2] = errors[choice, first::2]
    return held


def _collapsed(trial: FrozenTrial, guessing: float) -> int:
    """Count the seeds of a trial that collapsed."""
    failed = sum(error >= guessing for error in trial.user_attrs[ERRORS])
    return int(failed - trial.user_attrs[DIVERGED])  # diverged runs are above the limit, too


def _complete(search: ArmSearch) -> dict[int, FrozenTrial]:
    """Return the trials of the budget that have a score, by index."""
    return {i: t for i, t in search.budget().items() if t.state == TrialState.COMPLETE}


def _within(search: ArmSearch, reach: float) -> dict[str, tuple[float, float]]:
    """Return the smallest and largest value of each numeric field with a score up to `reach`."""
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
    rows, repetition = [], search.study.repetition
    for index, trial in _complete(search).items():
        errors = trial.user_attrs[ERRORS]
        rows.append(
            {
                "arm": search.arm.name,
                **({} if repetition is None else {"search": repetition + 1}),
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
    """Return each field's share of the score's variance, without diverged trials."""
    trials = [t for t in _complete(search).values() if not t.user_attrs[DIVERGED]]
    if len(search.space) < 2 or len({trial.value for trial in trials}) < 2:
        return {}
    memory = optuna.create_study()
    memory.add_trials(trials)
    return get_param_importances(memory, evaluator=FanovaImportanceEvaluator(seed=0))
