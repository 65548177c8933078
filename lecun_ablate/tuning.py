"""Studies that search: train what Optuna proposes, confirm the best, and hand on the winners."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import optuna
import pandas as pd
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from lecun_ablate import trainers
from lecun_ablate.arm_search import DIVERGED, ERRORS, MLFLOW_RUN, ArmSearch, Ended, Replica
from lecun_ablate.data.digits import Digits, Split
from lecun_ablate.errors import ConfigError, LecunAblateError
from lecun_ablate.experiment import Arm, Experiment, Tuning, arm_name
from lecun_ablate.mlflow_studies import begin_study, log_trial
from lecun_ablate.optuna_storage import explained, open_storage
from lecun_ablate.recipe import content_hash
from lecun_ablate.runner import seconds_per_epoch
from lecun_ablate.statistics import Comparison, compare
from lecun_ablate.study import SearchStudy, combinations, load_study
from lecun_ablate.study_records import (
    Definitions,
    Records,
    differences,
    existing,
    latest_version,
    open_version,
)
from lecun_ablate.tracking import STUDIES, Store
from lecun_ablate.trainers.base import Run, Trainer

SECONDS = "wall_seconds"  # an attribute of the first arm's Optuna study
SPLIT = "fit/validation"  # parts of the training split; the test split is never touched


class NotStudied(LecunAblateError):
    """Arms wait for a study that has not found their values yet."""


# ---- what is trained, on what, by whom


@dataclass(frozen=True)
class Prepared:
    """A study with its data and its trainers."""

    study: SearchStudy
    digits: Digits
    fit: Split
    validation: Split
    trainers: dict[str, Trainer]  # by `_case`
    notices: list[str]

    @property
    def title(self) -> str:
        """The study and its data; results on different data never mix."""
        return f"{self.study.name}/{self.digits.name}"

    def trainer(self, arm: Arm, values: Mapping[str, Any]) -> Trainer:
        """Return the trainer of an arm with the given values."""
        return self.trainers[_case(self.study, arm, values)]

    @property
    def trainer_names(self) -> str:
        """The trainers in use, for people."""
        names = {
            f"{i['name']} ({i['device']}, {i['instruction_set']})"
            for i in (trainer.identity() for trainer in self.trainers.values())
        }
        return ", ".join(sorted(names))


def _case(study: SearchStudy, arm: Arm, values: Mapping[str, Any]) -> str:
    """Name an arm with the choices among its values: what decides who can train it."""
    choices = {f: v for f, v in values.items() if isinstance(study.search[f], tuple)}
    return f"{arm.name} {arm_name(choices)}" if choices else arm.name


def prepare(
    study: SearchStudy, digits: Digits, trainer: str = "auto", device: str = "auto"
) -> Prepared:
    """Part the training split and choose the trainers of every arm with every choice."""
    recipes = {
        _case(study, arm, choices): study.recipe(arm, choices)
        for arm in study.arms
        for choices in combinations(study.search)
    }
    chosen, notices = trainers.choose(recipes, trainer, device)
    if digits.notice:
        notices.insert(0, digits.notice)
    return Prepared(study, digits, *digits.holdout(), chosen, notices)


class Progress(Protocol):
    """What wants to know how a study goes."""

    def begin(self, what: str, runs: int) -> None:
        """A batch of runs starts training."""

    def run(self) -> None:
        """One of them has ended."""

    def end(self) -> None:
        """The batch has ended, for whatever reason."""


def _train(
    prepared: Prepared,
    replicas: Sequence[Replica],
    what: str,
    progress: Progress | None,
    ended: Callable[[Replica], None] = lambda replica: None,
) -> None:
    """Train replicas, each from where it is to where it stops next, on the fit split alone."""
    groups: dict[int, list[Replica]] = defaultdict(list)
    for replica in replicas:
        groups[id(prepared.trainer(replica.arm, replica.values))].append(replica)
    if progress:
        progress.begin(what, len(replicas))
    try:
        for members in groups.values():
            trainer = prepared.trainer(members[0].arm, members[0].values)
            runs = [Run(r.recipe, r.seed, r.state, r.until) for r in members]
            for report in trainer.train(runs, prepared.fit, {"validation": prepared.validation}):
                members[report.index].take(report)
                if report.last:
                    ended(members[report.index])
                    if progress:
                        progress.run()
    finally:
        if progress:
            progress.end()


# ---- where a study stands


def _definitions(prepared: Prepared) -> dict[str, dict[str, Any]]:
    """Return what must stay the same for every arm: its trainers, too."""
    study = prepared.study
    return {
        arm.name: study.definition(arm, prepared.digits.digest)
        | {
            "trainer": {
                _case(study, arm, choices): prepared.trainer(arm, choices).identity()
                for choices in combinations(study.search)
            }
        }
        for arm in study.arms
    }


def _searches(study: SearchStudy, records: Records) -> list[ArmSearch]:
    arms = [arm for arm in study.arms if arm.name in records]
    return [ArmSearch(study, arm, records[arm.name]) for arm in arms]


def _finished(study: SearchStudy, records: Records) -> bool:
    searches = _searches(study, records)
    return len(searches) == len(study.arms) and not any(map(_missing, searches))


def _latest(
    storage: BaseStorage, study: SearchStudy, data: str, definitions: Definitions
) -> tuple[int, list[ArmSearch], list[str]]:
    """Return the latest version, what it holds, and how the study differs from it by now."""
    version = latest_version(storage, study.name, data)
    records, changes = existing(storage, study.name, version, data, definitions)
    return version, _searches(study, records), changes


def _missing(search: ArmSearch) -> int:
    """Return how many runs the search of an arm still needs (no fewer than 1 if it needs any)."""
    study = search.study
    told = sum(trial.state.is_finished() for trial in search.trials().values())
    trials = max(0, study.trials - told, int(not search.done))
    if trials:
        return trials * len(study.seeds) + study.confirm.trials * study.confirm.seeds
    seeds = set(study.confirm_seeds)
    return sum(len(seeds - set(search.confirmed(label))) for label in search.candidates())


# ---- the study itself


@dataclass(frozen=True)
class ArmOutcome:
    """What the search of one arm has found. Errors are fractions of the validation images."""

    arm: str
    values: dict[str, Any]  # the winner's
    own_values: dict[str, Any]
    trial: int | None  # the winner's index; None: the arm's own values, which are no trial
    confirmed: Comparison  # the winner against the arm's own values, paired over fresh seeds
    search_error: float | None  # the winner's score in the search, which chose it
    within: dict[str, tuple[float, float]]  # by numeric field: values no worse than one s.e.
    trials: dict[str, int]  # how many were complete, pruned, diverged, interrupted
    importances: dict[str, float]  # of the fields, where there are several

    @property
    def error(self) -> float:
        """The winner's mean validation error over the fresh seeds."""
        return self.confirmed.arm_mean

    @property
    def standard_error(self) -> float:
        """The standard error of `error` over the seeds."""
        return self.confirmed.arm_sd / self.confirmed.n**0.5


@dataclass(frozen=True)
class StudyResult:
    """A finished study, and a row per trial that was told COMPLETE.

    Columns of `frame`: arm, index, number (Optuna's), the searched fields, validation_error (mean
    over the seeds), validation_error_sd, diverged (seeds), run_id (MLflow's).
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


def run(
    prepared: Prepared,
    storage: BaseStorage,
    store: Store,
    fresh: bool = False,
    progress: Progress | None = None,
) -> tuple[StudyResult, Records]:
    """Train what is missing of a study and return its result, with Optuna's study of each arm.

    The caller holds the storage as the study's only driver. Raises ConfigError where the storage
    holds another study of this name, unless `fresh`.
    """
    study, digits = prepared.study, prepared.digits
    version, records = open_version(
        storage, study.file, study.name, digits.name, _definitions(prepared),
        "validation error", fresh, lambda records: _finished(study, records),
    )  # fmt: skip
    searches = _searches(study, records)
    for search in searches:
        search.interrupt()
    experiment_id = store.ensure_experiment(STUDIES + prepared.title)
    store.sweep(experiment_id)
    run_id = begin_study(
        store,
        experiment_id,
        f"{study.name} v{version}",
        content_hash({"study": study.name, "data": digits.digest, "version": version}),
        {"question": study.question, "data": digits.name, "study.version": str(version)},
    )
    linked = {t.user_attrs.get(MLFLOW_RUN) for s in searches for t in s.trials().values()}
    for trial in store.search(
        experiment_id, lecun_ablate__level="trial", mlflow__parentRunId=run_id
    ):
        if trial.info.run_id not in linked:  # it was never told
            store.client.delete_run(trial.info.run_id)
    status = "KILLED"
    try:
        _search(prepared, searches, _logger(prepared, store, experiment_id, run_id), progress)
        _confirm(prepared, searches, progress)
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        for search in searches:
            search.interrupt()
        store.end([run_id], status)
    result = StudyResult(
        study=study,
        data=digits.name,
        data_digest=digits.digest,
        images=(len(prepared.fit), len(prepared.validation)),
        version=version,
        trainer=prepared.trainer_names,
        arms=[outcome(search) for search in searches],
        frame=pd.concat([_frame(search) for search in searches], ignore_index=True),
        seconds=searches[0].record.user_attrs.get(SECONDS, 0.0),
        run_id=run_id,
        experiment_id=experiment_id,
        notice=digits.notice,
    )
    return result, records


def _search(
    prepared: Prepared,
    searches: Sequence[ArmSearch],
    log: Callable[[ArmSearch, Ended], str],
    progress: Progress | None,
) -> None:
    """Use up the trials of every arm: the batches of all arms are trained together."""
    while unfinished := [search for search in searches if not search.done]:
        began = time.monotonic()
        replicas = [replica for search in unfinished for replica in search.ask()]
        told = sum(search.next for search in searches)
        what = f"{told} of {prepared.study.trials * len(searches)} trials asked for before"
        _train(prepared, replicas, what, progress)
        for search in unfinished:
            search.tell(log)
        _add_seconds(searches[0], time.monotonic() - began)


def _confirm(prepared: Prepared, searches: Sequence[ArmSearch], progress: Progress | None) -> None:
    """Train the best trials of every arm, and its own values, again on the fresh seeds."""
    replicas: list[Replica] = []
    waiting: dict[int, tuple[ArmSearch, str, list[Replica]]] = {}
    for search in searches:
        for label, values in search.candidates().items():
            recipe = prepared.study.recipe(search.arm, values)
            known = search.confirmed(label)
            group = [
                Replica(search.arm, values, recipe, seed, recipe.epochs)
                for seed in prepared.study.confirm_seeds
                if seed not in known
            ]
            replicas += group
            waiting |= {id(replica): (search, label, group) for replica in group}
    if not replicas:
        return
    began = time.monotonic()

    def ended(replica: Replica) -> None:
        nonlocal began
        search, label, group = waiting.pop(id(replica))
        if not any(id(other) in waiting for other in group):
            search.confirm(label, {other.seed: other.error for other in group})
            now = time.monotonic()
            _add_seconds(searches[0], now - began)
            began = now

    _train(prepared, replicas, "confirming the best trials on fresh seeds", progress, ended)


def _add_seconds(search: ArmSearch, seconds: float) -> None:
    before = search.record.user_attrs.get(SECONDS, 0.0)
    search.record.set_user_attr(SECONDS, before + seconds)


def _logger(
    prepared: Prepared, store: Store, experiment_id: str, run_id: str
) -> Callable[[ArmSearch, Ended], str]:
    """Return what writes an ended trial to MLflow, under the study's run."""

    def log(search: ArmSearch, ended: Ended) -> str:
        replicas = ended.replicas
        together = list(zip(*(r.errors for r in replicas), strict=False))  # (epochs, seeds)
        history = {
            "validation_error": [np.mean(errors) for errors in together],
            **{f"validation_error_seed_{r.seed}": r.errors for r in replicas},
            "score": [ended.score],
        }
        if len(replicas) > 1:
            history["validation_error_sd"] = [np.std(errors, ddof=1) for errors in together]
        trainer = prepared.trainer(search.arm, replicas[0].values).identity()
        return log_trial(
            store,
            experiment_id,
            run_id,
            f"{search.arm.name} trial {ended.index}",
            {
                "lecun_ablate.arm": search.arm.name,
                "trial.index": str(ended.index),
                "trial.state": ended.state.name,
                "trial.diverged": str(sum(r.diverged for r in replicas)),
                "optuna.study": search.record.study_name,
                "optuna.trial": str(ended.number),
            },
            replicas[0].recipe.model_dump()
            | {
                "seeds": ",".join(str(r.seed) for r in replicas),
                "data": prepared.digits.name,
                "data_digest": prepared.digits.digest,
                "split": SPLIT,
                "trainer": trainer["name"],
                "device": trainer["device"],
                "instruction_set": trainer["instruction_set"],
                "numerics": trainer["numerics"],
                "trial": ended.index,
                "state": ended.state.name,
            },
            history,
        )

    return log


# ---- what was found


def outcome(search: ArmSearch) -> ArmOutcome:
    """Return what the finished search of an arm has found: the fresh seeds choose the winner."""
    study = search.study
    candidates = search.candidates()
    errors = {
        label: [search.confirmed(label)[seed] for seed in study.confirm_seeds]
        for label in candidates
    }
    winner = min(candidates, key=lambda label: np.mean(errors[label]))
    confirmed = compare(errors[winner], errors[search.own_label])
    trials = {i: t for i, t in search.trials().items() if i < study.trials}
    chosen = trials.get(int(winner)) if winner.isdigit() else None
    states = Counter(trial.state for trial in search.record.get_trials(deepcopy=False))
    frame = _frame(search)
    within = {}
    if chosen:
        # a score is a mean over the trial's seeds; its spread is known best from the fresh ones
        reach = chosen.value + confirmed.arm_sd / len(study.seeds) ** 0.5
        good = frame[frame.validation_error <= reach]
        within = {
            field: (float(good[field].min()), float(good[field].max()))
            for field, values in study.search.items()
            if not isinstance(values, tuple)
        }
    return ArmOutcome(
        arm=search.arm.name,
        values=candidates[winner],
        own_values=study.own_values(search.arm),
        trial=int(winner) if chosen else None,
        confirmed=confirmed,
        search_error=chosen.value if chosen else None,
        within=within,
        trials={
            "complete": states[TrialState.COMPLETE],
            "pruned": states[TrialState.PRUNED],
            "diverged": int((frame.diverged > 0).sum()),
            "interrupted": states[TrialState.FAIL],
        },
        importances=_importances(search),
    )


def _frame(search: ArmSearch) -> pd.DataFrame:
    rows = []
    for index, trial in search.trials().items():
        if trial.state == TrialState.COMPLETE and index < search.study.trials:
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
                    "run_id": trial.user_attrs[MLFLOW_RUN],
                }
            )
    return pd.DataFrame(rows)


def _importances(search: ArmSearch) -> dict[str, float]:
    """Return how much of the score's variance each field explains, diverged trials left out."""
    trials = [
        trial
        for trial in search.trials().values()
        if trial.state == TrialState.COMPLETE and not trial.user_attrs[DIVERGED]
    ]
    if len(search.space) < 2 or len({trial.value for trial in trials}) < 2:
        return {}
    memory = optuna.create_study()
    memory.add_trials(trials)
    return get_param_importances(memory, evaluator=FanovaImportanceEvaluator(seed=0))


def runs_to_do(prepared: Prepared, url: str) -> dict[str, int]:
    """Return how many runs each arm still needs, confirmation included; creates nothing."""
    study = prepared.study
    everything = study.trials * len(study.seeds) + study.confirm.trials * study.confirm.seeds
    todo = dict.fromkeys((arm.name for arm in study.arms), everything)
    storage = open_storage(url)
    if storage is not None:
        with explained(url):
            definitions = _definitions(prepared)
            _, searches, changes = _latest(storage, study, prepared.digits.name, definitions)
        if changes:
            return todo
        with explained(url):
            todo |= {search.arm.name: _missing(search) for search in searches}
    return todo


def estimate(prepared: Prepared, runs: Mapping[str, int]) -> float:
    """Return about how many seconds each arm's number of runs takes, from a trial on a few."""
    study = prepared.study
    total = 0.0
    for arm in study.arms:
        choices = combinations(study.search)[0]
        recipe = study.recipe(arm, choices)
        if runs[arm.name]:
            per_epoch = seconds_per_epoch(
                prepared.trainer(arm, choices),
                [recipe] * min(runs[arm.name], 32),
                prepared.fit,
                {"validation": prepared.validation},
            )
            total += per_epoch * recipe.epochs * runs[arm.name]
    return total


# ---- what experiments make of it


def study_of(experiment: Experiment) -> SearchStudy:
    """Return the study that tunes an experiment; raises ConfigError where it searches nothing."""
    assert experiment.tuned
    study = load_study(experiment.tuned)
    if not isinstance(study, SearchStudy):
        raise ConfigError(f"{experiment.file}: tuned: {study.file} searches nothing")
    return study


def apply(experiment: Experiment, digits: Digits, url: str) -> Experiment:
    """Return an experiment whose arms have the values that its study has found for them.

    Raises ConfigError where the study is not about one of the arms, NotStudied where it has not
    been run to its end on these data.
    """
    study = study_of(experiment)
    partners = {arm.name: _partner(experiment, study, arm) for arm in experiment.arms}
    command = f"python -m lecun_ablate study {study.file} --data {digits.name}"
    storage = open_storage(url)
    searches: dict[str, ArmSearch] = {}
    version = 0
    if storage is not None:
        with explained(url):
            # whichever trainer has found them, the values are good for any
            definitions = {arm.name: study.definition(arm, digits.digest) for arm in study.arms}
            version, found, changes = _latest(storage, study, digits.name, definitions)
            if changes:
                raise NotStudied(
                    "\n".join([f"{study.file} has changed since it was run:", *changes,
                               f"run it again first: {command} --fresh"])
                )  # fmt: skip
            searches = {s.arm.name: s for s in found if not _missing(s)}
    waiting = [name for name, partner in partners.items() if partner.name not in searches]
    if waiting:
        raise NotStudied(
            f"{study.file} has not been run to its end on {digits.name}: it has no values yet for "
            f"{', '.join(waiting)}; run it first ({command}), or let `run --tune` do so"
        )
    arms = tuple(
        _tuned(arm, outcome(searches[partners[arm.name].name]), study, version, digits)
        for arm in experiment.arms
    )
    return replace(experiment, arms=arms)


def _partner(experiment: Experiment, study: SearchStudy, arm: Arm) -> Arm:
    """Return the arm of a study that is an experiment's arm in all that is not searched."""

    def fixed(candidate: Arm) -> dict[str, Any]:
        recipe = candidate.recipe.model_dump()
        return {field: value for field, value in recipe.items() if field not in study.search}

    for candidate in study.arms:
        if fixed(candidate) == fixed(arm):
            return candidate
    nearest = min(study.arms, key=lambda c: len(differences(fixed(c), fixed(arm))))
    lines = [
        f"{field}={value!r} (its arm {nearest.name!r}: {fixed(nearest)[field]!r})"
        for field, value in fixed(arm).items()
        if fixed(nearest)[field] != value
    ]
    raise ConfigError(
        f"{experiment.file}: tuned: {study.file} does not study the arm {arm.name!r} with "
        f"{', '.join(lines)}"
    )


def _tuned(arm: Arm, found: ArmOutcome, study: SearchStudy, version: int, digits: Digits) -> Arm:
    tuning = Tuning(
        study=str(study.file),
        version=version,
        data=digits.name,
        values=found.values,
        trials=study.trials,
        seeds=len(study.seeds),
        validation_error=found.error,
    )
    return replace(arm, recipe=study.recipe(arm, found.values), tuning=tuning)
