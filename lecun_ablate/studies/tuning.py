"""Studies that search: train what Optuna proposes, then confirm the best on fresh seeds."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from lecun_ablate.config.experiment import Arm, arm_name
from lecun_ablate.config.recipe import content_hash
from lecun_ablate.config.study import SearchStudy, combinations
from lecun_ablate.data.digits import Digits, Split
from lecun_ablate.running.training import seconds_per_epoch
from lecun_ablate.studies.arm_search import ArmSearch, Ended, Replica, searches
from lecun_ablate.studies.optuna_storage import explained, open_storage
from lecun_ablate.studies.search_outcome import StudyResult, frame, outcome
from lecun_ablate.studies.study_records import (
    DEFINITION,
    ID,
    TRAINER,
    Records,
    latest,
    open_version,
)
from lecun_ablate.tracking.names import STUDIES
from lecun_ablate.tracking.store import Store
from lecun_ablate.tracking.studies import begin_study, log_trial
from lecun_ablate.trainers import choice as trainers
from lecun_ablate.trainers.base import Run, Trainer

SECONDS = "wall_seconds"  # an attribute of the first arm's Optuna study
SPLIT = "fit/validation"  # parts of the training split; the test split is never touched


# ---- what is trained, on what, by whom


@dataclass(frozen=True)
class PreparedSearch:
    """A study with its data and its trainers."""

    study: SearchStudy
    digits: Digits
    fit: Split
    validation: Split
    trainers: dict[str, Trainer]  # by `case_name`
    notices: list[str]

    @property
    def title(self) -> str:
        """The study and its data; results on different data never mix."""
        return f"{self.study.name}/{self.digits.name}"

    def trainer(self, arm: Arm, values: Mapping[str, Any]) -> Trainer:
        """Return the trainer of an arm with the given values."""
        return self.trainers[case_name(self.study, arm, values)]


def case_name(study: SearchStudy, arm: Arm, values: Mapping[str, Any]) -> str:
    """Name an arm with the choices among its values: what decides who can train it."""
    choices = {f: v for f, v in values.items() if isinstance(study.search[f], tuple)}
    return f"{arm.name} {arm_name(choices)}" if choices else arm.name


def prepare(
    study: SearchStudy, digits: Digits, trainer: str = "auto", device: str = "auto"
) -> PreparedSearch:
    """Part the training split and choose the trainers of every arm with every choice."""
    recipes = {
        case_name(study, arm, choices): study.recipe(arm, choices)
        for arm in study.arms
        for choices in combinations(study.search)
    }
    chosen, notices = trainers.choose(recipes, trainer, device)
    if digits.notice:
        notices.insert(0, digits.notice)
    return PreparedSearch(study, digits, *digits.holdout(), chosen, notices)


class Progress(Protocol):
    """What wants to know how a study goes."""

    def begin(self, what: str, runs: int) -> None:
        """A batch of runs starts training."""

    def run(self) -> None:
        """One of them has ended."""

    def end(self) -> None:
        """The batch has ended, for whatever reason."""


def _train(
    prepared: PreparedSearch,
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


def _definitions(prepared: PreparedSearch) -> dict[str, dict[str, Any]]:
    """Return what must stay the same for every arm: its trainers, too."""
    study = prepared.study
    return {
        arm.name: study.definition(arm, prepared.digits.digest)
        | {
            TRAINER: {
                case_name(study, arm, choices): prepared.trainer(arm, choices).identity()
                for choices in combinations(study.search)
            }
        }
        for arm in study.arms
    }


def _finished(study: SearchStudy, records: Records) -> bool:
    found = searches(study, records)
    return len(found) == len(study.arms) and not any(search.missing() for search in found)


@dataclass(frozen=True)
class ToDo:
    """What an arm still needs: exactly, once its trials are done, at most before."""

    runs: int  # confirmation included
    confirmed: int  # of the best trials, in all


def to_do(prepared: PreparedSearch, url: str, fresh: bool = False) -> dict[str, ToDo]:
    """Return what each arm still needs; creates nothing. Raises ConfigError where `run` would."""
    study, data = prepared.study, prepared.digits.name
    everything = ToDo(study.most_runs(study.trials), study.most_confirmed)
    todo = dict.fromkeys((arm.name for arm in study.arms), everything)
    storage = None if fresh else open_storage(url)
    if storage is not None:
        with explained(url):
            held = latest(storage, study.name, data, _definitions(prepared))
            held.refuse_changes(study.file, data, _finished(study, held.records))
            for search in searches(study, held.records):
                best = len(search.best()) if search.done else study.most_confirmed
                todo[search.arm.name] = ToDo(search.missing(), best)
    return todo


def estimate(prepared: PreparedSearch, runs: Mapping[str, int]) -> float:
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


# ---- the study itself


def run(
    prepared: PreparedSearch,
    storage: BaseStorage,
    store: Store,
    fresh: bool = False,
    progress: Progress | None = None,
) -> tuple[StudyResult, Records]:
    """Train what is missing of a study and return its result, with Optuna's study of each arm.

    The caller holds the storage as the study's only driver. Raises ConfigError where the storage
    holds another study of this name; `fresh` starts a new version beside it.
    """
    study, digits = prepared.study, prepared.digits
    version, records = open_version(
        storage,
        study.file,
        study.name,
        digits.name,
        _definitions(prepared),
        "validation error",
        fresh,
        lambda held: _finished(study, held),
    )
    found = searches(study, records)
    for search in found:
        search.interrupt()
    identity = found[0].record.user_attrs[ID]
    experiment_id = store.ensure_experiment(STUDIES + prepared.title)
    store.sweep(experiment_id)
    run_id = begin_study(
        store,
        experiment_id,
        f"{study.name} v{version}",
        content_hash({"study": study.name, "data": digits.digest, "id": identity}),
        {"question": study.question, "data": digits.name, "study.version": str(version)},
    )
    for search in found:
        for untold in _untold(search, store, experiment_id):
            store.client.delete_run(untold)
    status = "KILLED"
    try:
        _search(prepared, found, _logger(prepared, store, experiment_id, run_id), progress)
        _confirm(prepared, found, progress)
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        for search in found:
            search.interrupt()
        store.end([run_id], status)
    result = StudyResult(
        study=study,
        data=digits.name,
        data_digest=digits.digest,
        images=(len(prepared.fit), len(prepared.validation)),
        version=version,
        trainer=_trainer_names(found),
        arms=[outcome(search, prepared.validation.guessing) for search in found],
        frame=pd.concat(
            [frame(search, prepared.validation.guessing) for search in found], ignore_index=True
        ),
        seconds=found[0].record.user_attrs.get(SECONDS, 0.0),
        run_id=run_id,
        experiment_id=experiment_id,
        notice=digits.notice,
    )
    return result, records


def _untold(search: ArmSearch, store: Store, experiment_id: str) -> list[str]:
    """Return the MLflow runs of an arm's trials that a kill kept from being told.

    Only those whose trial this very storage knows to be interrupted: the runs of another storage
    may stand beside them.
    """
    record = search.record
    failed = record.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    lost = {(record.study_name, str(trial.number)) for trial in failed}
    return [
        run.info.run_id
        for run in (store.search(experiment_id, optuna__id=record.user_attrs[ID]) if lost else ())
        if (run.data.tags["optuna.study"], run.data.tags["optuna.trial"]) in lost
    ]


def _trainer_names(found: Sequence[ArmSearch]) -> str:
    """Return who has trained the arms, for people."""
    identities = [i for s in found for i in s.record.user_attrs[DEFINITION][TRAINER].values()]
    names = {f"{i['name']} ({i['device']}, {i['instruction_set']})" for i in identities}
    return ", ".join(sorted(names))


def _search(
    prepared: PreparedSearch,
    found: Sequence[ArmSearch],
    log: Callable[[ArmSearch, Ended], str],
    progress: Progress | None,
) -> None:
    """Use up the trials of every arm: the batches of all arms are trained together."""
    while unfinished := [search for search in found if not search.done]:
        began = time.monotonic()
        replicas = [replica for search in unfinished for replica in search.ask()]
        told = sum(len(search.budget()) for search in found)
        what = f"{told} of {prepared.study.trials * len(found)} trials done, next"
        _train(prepared, replicas, what, progress)
        for search in unfinished:
            search.tell(log)
        _add_seconds(found[0], time.monotonic() - began)


def _confirm(
    prepared: PreparedSearch, found: Sequence[ArmSearch], progress: Progress | None
) -> None:
    """Train the best trials of every arm, and its own values, again on the fresh seeds."""
    replicas: list[Replica] = []
    waiting: dict[int, tuple[ArmSearch, str, list[Replica]]] = {}
    for search in found:
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
            _add_seconds(found[0], now - began)
            began = now

    _train(prepared, replicas, "confirming the best trials on fresh seeds", progress, ended)


def _add_seconds(search: ArmSearch, seconds: float) -> None:
    before = search.record.user_attrs.get(SECONDS, 0.0)
    search.record.set_user_attr(SECONDS, before + seconds)


def _logger(
    prepared: PreparedSearch, store: Store, experiment_id: str, run_id: str
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
                "optuna.id": search.record.user_attrs[ID],
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
