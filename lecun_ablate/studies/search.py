"""Search studies: train Optuna's proposals, then confirm the best on fresh seeds."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from lecun_ablate.config.arms import Arm, arm_name
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.config.study import SearchStudy, combinations
from lecun_ablate.data.digits import HOLDOUT_SEED, Digits, Split
from lecun_ablate.plan.keys import study_key
from lecun_ablate.running.estimate import seconds_per_epoch
from lecun_ablate.running.progress import Progress, Work
from lecun_ablate.studies.arm_search import DIVERGED, ArmSearch, Ended, Replica, searches
from lecun_ablate.studies.optuna_storage import explained, open_storage
from lecun_ablate.studies.outcome import SearchResult, frame, outcome
from lecun_ablate.studies.versions import DEFINITION, ID, TRAINER, Records, latest, open_version
from lecun_ablate.system.interrupts import held_back
from lecun_ablate.system.text import count
from lecun_ablate.tracking.names import ARM
from lecun_ablate.tracking.study_run import RECORD, STORAGE_ID, TRIAL, StudyRun
from lecun_ablate.tracking.writer import Writer
from lecun_ablate.trainers.base import Identity, Run, Spread, Trainer
from lecun_ablate.trainers.choice import choose, spread_out

SECONDS = "wall_seconds"  # an attribute of the first arm's Optuna study
SPLIT = "fit/validation"  # parts of the training split; the test split is never touched

# ---- what is trained, on which images, by which trainers


@dataclass(frozen=True)
class PreparedSearch:
    """A study with its data and its trainers."""

    study: SearchStudy
    digits: Digits
    fit: Split
    validation: Split
    trainers: dict[str, Trainer]  # by `case_name`
    notices: list[str]
    # of the searches after the first, by the seed of their split
    splits: dict[int, tuple[Split, Split]] = field(default_factory=dict)

    def parts(self, search: int) -> tuple[Split, Split]:
        """Return the images that a search trains on, and those that it scores on."""
        seed = self.study.each()[search].split_seed
        if seed == HOLDOUT_SEED:
            return self.fit, self.validation
        if seed not in self.splits:
            self.splits[seed] = self.digits.holdout(seed=seed)
        return self.splits[seed]

    @property
    def title(self) -> str:
        """The study and its data; results on different data never mix."""
        return f"{self.study.name}/{self.digits.name}"

    def trained_by(self, spread: Spread) -> PreparedSearch:
        """Return the same with its trainers spread."""
        recipes = {name: [recipe] for name, recipe in _cases(self.study).items()}
        return replace(self, trainers=spread_out(self.trainers, recipes, spread))

    def trainer(self, arm: Arm, values: Mapping[str, Any]) -> Trainer:
        """Return the trainer of an arm with the given values."""
        return self.trainers[case_name(self.study, arm, values)]


def case_name(study: SearchStudy, arm: Arm, values: Mapping[str, Any]) -> str:
    """Name an arm with its searched choices, which decide which trainers can train it."""
    choices = {f: v for f, v in values.items() if isinstance(study.search[f], tuple)}
    return f"{arm.name} {arm_name(choices)}" if choices else arm.name


def _cases(study: SearchStudy) -> dict[str, Recipe]:
    """Return a recipe of every arm with every choice, by `case_name`."""
    return {
        case_name(study, arm, choices): study.recipe(arm, choices)
        for arm in study.arms
        for choices in combinations(study.search)
    }


def prepare(
    study: SearchStudy, digits: Digits, trainer: str = "auto", device: str = "auto"
) -> PreparedSearch:
    """Split the training images and choose the trainer of every arm with every choice."""
    chosen, notices = choose(_cases(study), trainer, device)
    if digits.notice:
        notices.insert(0, digits.notice)
    return PreparedSearch(study, digits, *digits.holdout(), chosen, notices)


def _train(
    prepared: PreparedSearch,
    replicas: Sequence[Replica],
    what: str,
    progress: Progress | None,
    ended: Callable[[Replica], None] = lambda replica: None,
) -> None:
    """Train replicas, each from its current epoch to its next stop, only on its fit split."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, replica in enumerate(replicas):
        trainer = prepared.trainer(replica.arm, replica.values)
        groups[id(trainer), replica.search].append(index)
    runs = [Run(r.recipe, r.seed, r.state, r.until, r.arm.name) for r in replicas]
    if progress:
        epochs = [run.last_epoch - run.first_epoch + 1 for run in runs]
        arms = [replica.arm.name for replica in replicas]
        work = Work(f"{what}: {count(len(runs), 'run')}", list(zip(arms, epochs, strict=True)))
        progress.begin(work)
    try:
        for members in groups.values():
            first = replicas[members[0]]
            trainer = prepared.trainer(first.arm, first.values)
            fit, validation = prepared.parts(first.search)
            splits = {"validation": validation}
            for report in trainer.train([runs[i] for i in members], fit, splits):
                index = members[report.index]
                replicas[index].take(report, validation.labels)
                if report.last:
                    ended(replicas[index])
                if progress:
                    progress.epoch(index, report)
    finally:
        if progress:
            progress.end()


# ---- what is done and what is missing


def _definitions(prepared: PreparedSearch) -> dict[str, dict[str, Any]]:
    """Return what must stay the same for every arm, including its trainers."""
    study = prepared.study
    return {
        one.label(arm.name): one.definition(arm, prepared.digits.digest)
        | {
            TRAINER: {
                case_name(study, arm, choices): prepared.trainer(arm, choices).identity().stored
                for choices in combinations(study.search)
            }
        }
        for arm in study.arms
        for one in study.each()
    }


def _finished(study: SearchStudy, records: Records) -> bool:
    found = searches(study, records)
    whole = len(study.arms) * len(study.each())
    return len(found) == whole and not any(search.missing() for search in found)


@dataclass(frozen=True)
class ToDo:
    """What an arm still needs: an upper bound until its trials are done, then the exact number."""

    runs: int  # including confirmation, in all of its searches
    confirmed: int  # of the best trials, in total


def to_do(prepared: PreparedSearch, url: str, fresh: bool = False) -> dict[str, ToDo]:
    """Return what each arm still needs, creating nothing. Raises ConfigError if `run` would."""
    study, data = prepared.study, prepared.digits.name
    everything = ToDo(study.most_runs(study.trials), study.most_confirmed)
    todo = {(arm.name, one.repetition): everything for arm in study.arms for one in study.each()}
    storage = None if fresh else open_storage(url)
    if storage is not None:
        with explained(url):
            held = latest(storage, study.name, data, _definitions(prepared))
            held.refuse_changes(study.file, data, _finished(study, held.records))
            for search in searches(study, held.records):
                best = len(search.best()) if search.done else study.most_confirmed
                todo[search.arm.name, search.study.repetition] = ToDo(search.missing(), best)
    return {
        arm.name: ToDo(
            sum(left.runs for (name, _), left in todo.items() if name == arm.name),
            sum(left.confirmed for (name, _), left in todo.items() if name == arm.name),
        )
        for arm in study.arms
    }


def estimate(prepared: PreparedSearch, runs: Mapping[str, int]) -> float:
    """Return the approximate seconds for each arm's runs, estimated from a few."""
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
    writer: Writer,
    fresh: bool = False,
    progress: Progress | None = None,
) -> tuple[SearchResult, Records]:
    """Train the missing runs of a study and return its result, with each arm's Optuna study.

    The caller must be the study's only driver on this storage. Raises ConfigError if the storage
    has a different study of this name; `fresh` starts a new version beside it.
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
    key = study_key(study.name, digits.digest, found[0].record.user_attrs[ID])
    name = f"{study.name} v{version}"
    about = {"question": study.question, "data": digits.name, "study.version": str(version)}
    with StudyRun.opened(writer, prepared.title, name, key, about) as study_run:
        try:
            for search in found:
                study_run.delete_trials(search.record.user_attrs[ID], _interrupted(search))
            _restore(prepared, found, study_run)
            _search(prepared, found, _logger(prepared, study_run), progress)
            _confirm(prepared, found, progress)
        finally:
            for search in found:
                search.interrupt()

    def guessing(search: ArmSearch) -> float:
        return prepared.parts(search.study.repetition or 0)[1].guessing

    result = SearchResult(
        study=study,
        data=digits.name,
        data_digest=digits.digest,
        images=(len(prepared.fit), len(prepared.validation)),
        version=version,
        trainer=_trainer_names(found),
        arms=[outcome(search, guessing(search)) for search in found],
        frame=pd.concat([frame(search, guessing(search)) for search in found], ignore_index=True),
        seconds=found[0].record.user_attrs.get(SECONDS, 0.0),
        run_id=study_run.run_id,
        experiment_id=study_run.experiment_id,
        notice=digits.notice,
    )
    return result, records


def _interrupted(search: ArmSearch) -> set[tuple[str, str]]:
    """Return the interrupted trials of an arm, as their MLflow runs name them.

    A kill between the two stores can leave such a trial with a run in MLflow.
    """
    record = search.record
    failed = record.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    return {(record.study_name, str(trial.number)) for trial in failed}


def _trainer_names(found: Sequence[ArmSearch]) -> str:
    """Return the trainers of the arms, for display."""
    stored = [i for s in found for i in s.record.user_attrs[DEFINITION][TRAINER].values()]
    return ", ".join(sorted({str(Identity(**identity)) for identity in stored}))


def _search(
    prepared: PreparedSearch,
    found: Sequence[ArmSearch],
    log: Callable[[ArmSearch, Ended], str],
    progress: Progress | None,
) -> None:
    """Train all trials of every arm, in batches across all arms."""
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
            known = search.confirmed(label)
            group = [
                search.replica(values, seed)
                for seed in search.study.confirm_seeds
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
            search.confirm(label, group)
            now = time.monotonic()
            _add_seconds(found[0], now - began)
            began = now

    _train(prepared, replicas, "confirming the best trials on fresh seeds", progress, ended)


@held_back()
def _add_seconds(search: ArmSearch, seconds: float) -> None:
    before = search.record.user_attrs.get(SECONDS, 0.0)
    search.record.set_user_attr(SECONDS, before + seconds)


def _logger(prepared: PreparedSearch, study_run: StudyRun) -> Callable[[ArmSearch, Ended], str]:
    """Return a function that writes a finished trial to MLflow, under the study's run."""

    def log(search: ArmSearch, ended: Ended) -> str:
        replicas = ended.replicas
        together = list(zip(*(r.errors for r in replicas), strict=False))  # (epochs, seeds)
        history: dict[str, Sequence[float]] = {
            "validation_error": [float(np.mean(errors)) for errors in together],
            **{f"validation_error_seed_{r.seed}": r.errors for r in replicas},
            "score": [ended.score],
        }
        if len(replicas) > 1:
            history["validation_error_sd"] = [float(np.std(e, ddof=1)) for e in together]
        diverged = sum(r.diverged for r in replicas)
        tags = _trial_tags(search, ended.index, ended.number, ended.state, diverged)
        values = _trial_values(prepared, search, replicas[0].values, ended.index, ended.state)
        return study_run.log_trial(f"{search.name} trial {ended.index}", tags, values, history)

    return log


def _restore(prepared: PreparedSearch, found: Sequence[ArmSearch], study_run: StudyRun) -> None:
    """Write trials that Optuna has and MLflow has lost to MLflow again, without their history.

    A power cut can lose MLflow's last writes, and a store can be lost.
    """
    for search in found:
        known = study_run.trials(search.record.user_attrs[ID])
        for index, trial in search.trials().items():
            which = (search.record.study_name, str(trial.number))
            if not trial.state.is_finished() or which in known:
                continue
            diverged = trial.user_attrs.get(DIVERGED, 0)
            tags = _trial_tags(search, index, trial.number, trial.state, diverged)
            values = _trial_values(prepared, search, trial.params, index, trial.state)
            study_run.log_trial(
                f"{search.name} trial {index}",
                tags | {"trial.history": "lost"},
                values,
                {"score": [float(trial.value if trial.value is not None else np.nan)]},
            )


def _trial_tags(
    search: ArmSearch, index: int, number: int, state: TrialState, diverged: int
) -> dict[str, str]:
    return {
        ARM: search.arm.name,
        "trial.index": str(index),
        "trial.state": state.name,
        "trial.diverged": str(diverged),
        STORAGE_ID: search.record.user_attrs[ID],
        RECORD: search.record.study_name,
        TRIAL: str(number),
    }


def _trial_values(
    prepared: PreparedSearch,
    search: ArmSearch,
    values: Mapping[str, Any],
    index: int,
    state: TrialState,
) -> dict[str, Any]:
    study = search.study
    draw = f", draw {study.repetition + 1}" if study.repetition else ""
    return (
        study.recipe(search.arm, values).model_dump()
        | {
            "seeds": ",".join(map(str, study.seeds)),
            "data": prepared.digits.name,
            "data_digest": prepared.digits.digest,
            "split": SPLIT + draw,
        }
        | prepared.trainer(search.arm, values).identity().params
        | {"trial": index, "state": state.name}
    )
