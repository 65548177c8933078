"""Studies of seeds: an experiment with many seeds, each recorded as a trial in Optuna, too."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import TrialState, create_trial

from lecun_ablate.config.study import SeedStudy
from lecun_ablate.data.digits import Digits
from lecun_ablate.errors import LecunAblateError
from lecun_ablate.plan.plan import Plan
from lecun_ablate.running import training as runner
from lecun_ablate.statistics import (
    DIVERGED_ERROR,
    Description,
    SeedsNeeded,
    VarianceSplit,
    chance_of_wrong_ranking,
    describe,
    seeds_table,
    split_variance,
)
from lecun_ablate.studies.arm_search import MLFLOW_RUN
from lecun_ablate.studies.optuna_storage import explained, open_storage
from lecun_ablate.studies.study_records import DEFINITION, TRAINER, Records, latest, open_version
from lecun_ablate.tracking.names import KEY, PARENT
from lecun_ablate.tracking.names import STATUS as RUN_STATUS
from lecun_ablate.tracking.store import Store
from lecun_ablate.trainers.base import EpochReport

SEED, STATUS, SECONDS = "seed", "status", "wall_seconds"
DIFFERENCE = 0.005  # of two arms' true errors, for the chance of ranking them wrongly
CORRELATIONS = (0.0, 0.25, 0.5)  # of two arms over seeds, for what pairing saves


@dataclass(frozen=True)
class PreparedSeeds:
    """A study of seeds, as an experiment that is ready to run."""

    study: SeedStudy
    runs: runner.Prepared

    @property
    def digits(self) -> Digits:
        """The data."""
        return self.runs.digits

    @property
    def title(self) -> str:
        """The study and its data; results on different data never mix."""
        return f"{self.study.name}/{self.digits.name}"

    @property
    def notices(self) -> list[str]:
        """What the user must know before anything is trained."""
        return self.runs.notices


def prepare(
    study: SeedStudy, digits: Digits, trainer: str = "auto", device: str = "auto"
) -> PreparedSeeds:
    """Choose the trainer and make the plan."""
    return PreparedSeeds(study, runner.prepare(study.experiment(), digits, trainer, device))


@dataclass(frozen=True)
class Variant:
    """What the seed does where it governs some of the random choices. Errors are fractions."""

    governs: str
    errors: np.ndarray  # (seeds,), of the test split; all below is about these
    diverged: int  # how many more there are, without an error of their own
    collapsed: int  # how many of these have learnt nothing
    description: Description
    split: VarianceSplit | None  # None for a single seed
    wrong_ranking: float | None
    seeds_needed: dict[float, list[SeedsNeeded]]  # by correlation


@dataclass(frozen=True)
class SeedResult:
    """A finished study of seeds. Columns of `frame`: arm, seed, test_error, status, run_id."""

    study: SeedStudy
    data: str
    data_digest: str
    version: int
    trainer: str
    variants: list[Variant]
    frame: pd.DataFrame
    seconds: float
    run_id: str
    notice: str | None


def run(
    prepared: PreparedSeeds,
    storage: BaseStorage,
    store: Store,
    fresh: bool = False,
    progress: runner.Progress | None = None,
) -> tuple[SeedResult, Records]:
    """Train what is missing of a study of seeds and return its result, with Optuna's studies.

    Runs are kept in MLflow by their keys; a trial is added to Optuna, complete, as each ends.
    """
    study, plan = prepared.study, prepared.runs.plan
    version, records = open_version(
        storage,
        study.file,
        study.name,
        plan.data,
        _definitions(plan),
        "test error",
        fresh,
        lambda held: _finished(study, held),
    )
    trainers = {arm: record.user_attrs[DEFINITION][TRAINER] for arm, record in records.items()}
    if trainers == plan.trainers:
        final, run_id = _train(prepared, records, store, progress)
    else:  # finished, or the version would not have been opened
        final, run_id = _recorded(study, records, store, plan)
    trainer = next(iter(trainers.values()))
    result = SeedResult(
        study=study,
        data=plan.data,
        data_digest=plan.data_digest,
        version=version,
        trainer=f"{trainer['name']} ({trainer['device']}, {trainer['instruction_set']})",
        variants=[
            _variant(what, final[final.arm == what], prepared.digits, store)
            for what in study.governs
        ],
        frame=final.reset_index(drop=True),
        seconds=next(iter(records.values())).user_attrs.get(SECONDS, 0.0),
        run_id=run_id,
        notice=plan.notice,
    )
    return result, records


def runs_to_do(prepared: PreparedSeeds, url: str, fresh: bool = False) -> list[tuple[str, int]]:
    """Return the (variant, seed) runs still to be trained; raises ConfigError where `run` would.

    A new version trains nothing that the MLflow store has: runs are known by their keys.
    """
    study, plan = prepared.study, prepared.runs.plan
    storage = None if fresh else open_storage(url)
    if storage is not None:
        with explained(url):
            held = latest(storage, study.name, plan.data, _definitions(plan))
            held.refuse_changes(study.file, plan.data, _finished(study, held.records))
        if held.trainer_changes:
            return []
    return runner.still_to_do(plan)


def _definitions(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return what must stay the same for every variant."""
    return {
        arm.name: {
            "recipe": arm.recipe.model_dump(),
            "data": plan.data_digest,
            TRAINER: plan.trainers[arm.name],
        }
        for arm in plan.experiment.arms
    }


def _finished(study: SeedStudy, records: Records) -> bool:
    """Tell whether every variant has all the seeds."""
    wanted = set(study.seeds)
    return all(what in records and wanted <= _seeds(records[what]) for what in study.governs)


def _train(
    prepared: PreparedSeeds, records: Records, store: Store, progress: runner.Progress | None
) -> tuple[pd.DataFrame, str]:
    """Train what is missing, record it, and return SeedResult.frame with the experiment's run."""
    plan = prepared.runs.plan
    experiment_id = store.ensure_experiment(plan.tracking_name)
    recorder = _Recorder(records, store, experiment_id, plan, progress)
    began = time.monotonic()
    try:
        results = runner.execute(prepared.runs, store, recorder).results
    finally:
        if recorder.trained:
            first = next(iter(records.values()))
            before = first.user_attrs.get(SECONDS, 0.0)
            first.set_user_attr(SECONDS, before + time.monotonic() - began)
    final = results.final[["arm", "seed", "test_error", "status", "run_id"]]
    final = final[final.seed.isin(prepared.study.seeds)]  # not those that it had before
    for row in final.itertuples():  # what was trained before, or written before a kill
        if row.seed not in _seeds(records[row.arm]):
            _record(records[row.arm], row.seed, row.test_error, row.status, row.run_id)
    return final, results.run_id


def _recorded(
    study: SeedStudy, records: Records, store: Store, plan: Plan
) -> tuple[pd.DataFrame, str]:
    """Return the same of a finished study that another trainer has trained."""
    experiment = store.experiment(plan.tracking_name)
    runs = store.search(experiment.experiment_id) if experiment else []
    parents = {run.info.run_id: run.data.tags.get(PARENT) for run in runs}
    rows = [
        {
            "arm": what,
            "seed": trial.user_attrs[SEED],
            "test_error": trial.value,
            "status": trial.user_attrs[STATUS],
            "run_id": trial.user_attrs[MLFLOW_RUN],
        }
        for what in study.governs
        for trial in records[what].get_trials(deepcopy=False)
        if trial.user_attrs[SEED] in study.seeds
    ]
    gone = [row["run_id"] for row in rows if row["run_id"] not in parents]
    if gone:
        raise LecunAblateError(
            f"{store.uri} no longer has the run {gone[0]} of this study, which another trainer has "
            "trained: --fresh trains all of it again"
        )
    run_id = rows[0]["run_id"]
    while parents[run_id]:
        run_id = parents[run_id]
    return pd.DataFrame(rows).sort_values(["arm", "seed"], kind="stable"), run_id


class _Recorder:
    """Passes progress on, and adds a trial to Optuna for every run that has been written."""

    def __init__(
        self,
        records: Records,
        store: Store,
        experiment_id: str,
        plan: Plan,
        progress: runner.Progress | None,
    ):
        self.trained = False
        self._records = records
        self._store = store
        self._experiment_id = experiment_id
        self._plan = plan
        self._progress = progress

    def begin(self, plan: Plan, todo: Sequence[tuple[str, int]]) -> None:
        self.trained = bool(todo)
        if self._progress:
            self._progress.begin(plan, todo)

    def epoch(self, arm: str, seed: int, report: EpochReport) -> None:
        if report.last and seed not in _seeds(self._records[arm]):
            key = {KEY: self._plan.keys[arm, seed]}
            run = self._store.search(self._experiment_id, **key)[0]
            status = run.data.tags[RUN_STATUS]
            error = report.scores["test"].error
            _record(self._records[arm], seed, error, status, run.info.run_id)
        if self._progress:
            self._progress.epoch(arm, seed, report)

    def end(self) -> None:
        if self._progress:
            self._progress.end()


def _seeds(record: optuna.Study) -> set[int]:
    return {t.user_attrs[SEED] for t in record.get_trials(deepcopy=False)}


def _record(record: optuna.Study, seed: int, error: float, status: str, run_id: str) -> None:
    """Add a trial to Optuna's study: one call, so that a kill leaves it whole or not at all."""
    record.add_trial(
        create_trial(
            state=TrialState.COMPLETE,
            value=DIVERGED_ERROR if status == "diverged" else float(error),
            params={SEED: int(seed)},
            distributions={SEED: IntDistribution(0, 2**63 - 1)},
            user_attrs={SEED: int(seed), STATUS: status, MLFLOW_RUN: run_id},
        )
    )


def _variant(what: str, runs: pd.DataFrame, digits: Digits, store: Store) -> Variant:
    diverged = runs.status == "diverged"
    if diverged.all():
        raise LecunAblateError(f"every run of {what} diverged: there is nothing to describe")
    ended = runs[~diverged]
    errors = ended.test_error.to_numpy(float)
    several = len(errors) > 1
    predictions = np.stack([store.predictions(run_id) for run_id in ended.run_id])
    described = describe(errors)
    return Variant(
        governs=what,
        errors=errors,
        diverged=int(diverged.sum()),
        collapsed=int((ended.status == "collapsed").sum()),
        description=described,
        split=split_variance(predictions, digits.test.labels) if several else None,
        wrong_ranking=chance_of_wrong_ranking(errors, DIFFERENCE) if several else None,
        seeds_needed={c: seeds_table(described.sd, c) for c in CORRELATIONS} if several else {},
    )
