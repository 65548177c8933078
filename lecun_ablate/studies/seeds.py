"""Studies of seeds: an experiment with many seeds, each also recorded as a trial in Optuna."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from lecun_ablate.config.study import SeedStudy
from lecun_ablate.data.digits import Digits
from lecun_ablate.errors import LecunAblateError
from lecun_ablate.plan.plan import RESAMPLED_SPLIT, Plan
from lecun_ablate.plan.results import RunStatus
from lecun_ablate.reporting.conclusion import conclude
from lecun_ablate.running import training
from lecun_ablate.running.experiment import run_experiment
from lecun_ablate.running.progress import Progress
from lecun_ablate.running.training import LoggedRun, Prepared
from lecun_ablate.statistics import (
    DIVERGED_ERROR,
    Description,
    SeedsNeeded,
    VarianceSplit,
    chance_of_wrong_ranking,
    describe,
    seeds_table,
    split_variance,
    split_variance_of_own_images,
)
from lecun_ablate.studies.arm_search import MLFLOW_RUN
from lecun_ablate.studies.optuna_storage import explained, open_storage
from lecun_ablate.studies.versions import DEFINITION, TRAINER, Records, latest, open_version
from lecun_ablate.system.interrupts import held_back
from lecun_ablate.tracking.files import Files
from lecun_ablate.tracking.plan_run import PlanRun
from lecun_ablate.tracking.store import still_to_do
from lecun_ablate.tracking.writer import Writer
from lecun_ablate.trainers.base import Identity

SEED, STATUS, SECONDS = "seed", "status", "wall_seconds"
DIFFERENCE = 0.005  # of two arms' true errors, for the chance of ranking them wrongly
CORRELATIONS = (0.0, 0.25, 0.5)  # of two arms over seeds, to show what pairing saves


@dataclass(frozen=True)
class PreparedSeeds:
    """A study of seeds as an experiment that is ready to run."""

    study: SeedStudy
    runs: Prepared

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
    return PreparedSeeds(study, training.prepare(study.experiment(), digits, trainer, device))


@dataclass(frozen=True)
class Variant:
    """The effect of the seed if it governs some of the random choices. Errors are fractions."""

    governs: str
    errors: np.ndarray  # (seeds,), of the test split; everything below is about these
    diverged: int  # further seeds, which have no error
    collapsed: int  # how many of `errors` are from runs that learnt nothing
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
    writer: Writer,
    fresh: bool = False,
    progress: Progress | None = None,
) -> tuple[SeedResult, Records]:
    """Train the missing runs of a study of seeds and return its result and its Optuna studies.

    Runs are stored in MLflow by their keys; when a run ends, a complete trial is added to Optuna.
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
    trainers = {
        arm: Identity(**record.user_attrs[DEFINITION][TRAINER]) for arm, record in records.items()
    }
    if trainers == plan.trainers:
        final, run_id = _train(prepared, records, writer, progress)
    else:  # it is finished, otherwise the version would not have been opened
        final, run_id = _recorded(study, records, writer, plan)
    result = SeedResult(
        study=study,
        data=plan.data,
        data_digest=plan.data_digest,
        version=version,
        trainer=str(next(iter(trainers.values()))),
        variants=[
            _variant(what, final[final.arm == what], prepared.digits, writer.files)
            for what in study.governs
        ],
        frame=final.reset_index(drop=True),
        seconds=next(iter(records.values())).user_attrs.get(SECONDS, 0.0),
        run_id=run_id,
        notice=plan.notice,
    )
    return result, records


def runs_to_do(prepared: PreparedSeeds, url: str, fresh: bool = False) -> list[tuple[str, int]]:
    """Return the (variant, seed) runs still to be trained; raises ConfigError if `run` would.

    A new version trains nothing that the MLflow store already has, because runs have keys.
    """
    study, plan = prepared.study, prepared.runs.plan
    storage = None if fresh else open_storage(url)
    if storage is not None:
        with explained(url):
            held = latest(storage, study.name, plan.data, _definitions(plan))
            held.refuse_changes(study.file, plan.data, _finished(study, held.records))
        if held.trainer_changes:
            return []
    return still_to_do(plan)


def _definitions(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return what must stay the same for every variant."""
    return {
        arm.name: {
            "recipe": arm.recipe.stored,
            "data": plan.data_digest,
            **({"split": RESAMPLED_SPLIT} if arm.resampled else {}),
            TRAINER: plan.trainers[arm.name].stored,
        }
        for arm in plan.experiment.arms
    }


def _finished(study: SeedStudy, records: Records) -> bool:
    """Return whether every variant has all the seeds."""
    wanted = set(study.seeds)
    return all(what in records and wanted <= _seeds(records[what]) for what in study.governs)


def _train(
    prepared: PreparedSeeds, records: Records, writer: Writer, progress: Progress | None
) -> tuple[pd.DataFrame, str]:
    """Train and record the missing runs; return SeedResult.frame with the experiment's run."""
    trained = 0
    began = time.monotonic()

    def on_run(run: LoggedRun) -> None:
        nonlocal trained
        trained += 1
        if run.seed not in _seeds(records[run.arm]):
            _record(records[run.arm], run.seed, run.test_error, run.status, run.run_id)

    try:
        with PlanRun.opened(writer, prepared.runs.plan, warnings.warn) as plan_run:
            results = run_experiment(prepared.runs, plan_run, progress, on_run)
            conclude(results, writer.files, plan_run)
    finally:
        if trained:
            first = next(iter(records.values()))
            before = first.user_attrs.get(SECONDS, 0.0)
            with held_back():
                first.set_user_attr(SECONDS, before + time.monotonic() - began)
    final = results.final[["arm", "seed", "test_error", "status", "run_id"]]
    final = final[final.seed.isin(prepared.study.seeds)]  # it may once have had more seeds
    for row in final.itertuples():  # trained earlier, or written just before a kill
        if row.seed not in _seeds(records[row.arm]):
            _record(records[row.arm], row.seed, row.test_error, row.status, row.run_id)
    return final, results.run_id


def _recorded(
    study: SeedStudy, records: Records, writer: Writer, plan: Plan
) -> tuple[pd.DataFrame, str]:
    """Return the same for a finished study that another trainer has trained."""
    parents = writer.store.parents(plan.tracking_name)
    rows = [
        {
            "arm": what,
            "seed": trial.user_attrs[SEED],
            "test_error": trial.value,
            "status": trial.user_attrs[STATUS],
            "run_id": trial.user_attrs[MLFLOW_RUN],
        }
        for what in study.governs
        for trial in _own_trials(records[what])
        if trial.user_attrs[SEED] in study.seeds
    ]
    gone = [row["run_id"] for row in rows if row["run_id"] not in parents]
    if gone:
        raise LecunAblateError(
            f"{writer.connection.where} no longer has the run {gone[0]} of this study, which "
            "another trainer has trained: --fresh trains all of it again"
        )
    run_id = str(rows[0]["run_id"])
    while parent := parents[run_id]:
        run_id = parent
    return pd.DataFrame(rows).sort_values(["arm", "seed"], kind="stable"), run_id


def _own_trials(record: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that a study of seeds has recorded; others may have added theirs."""
    recorded = {SEED, STATUS, MLFLOW_RUN}
    trials = record.get_trials(deepcopy=False)
    return [trial for trial in trials if recorded <= trial.user_attrs.keys()]


def _seeds(record: optuna.Study) -> set[int]:
    return {trial.user_attrs[SEED] for trial in _own_trials(record)}


@held_back()
def _record(record: optuna.Study, seed: int, error: float, status: str, run_id: str) -> None:
    """Add a trial to Optuna's study in one call, so that a kill leaves it complete or absent."""
    record.add_trial(
        create_trial(
            state=TrialState.COMPLETE,
            value=DIVERGED_ERROR if status == RunStatus.DIVERGED else float(error),
            params={SEED: int(seed)},
            distributions={SEED: IntDistribution(0, 2**63 - 1)},
            user_attrs={SEED: int(seed), STATUS: str(status), MLFLOW_RUN: run_id},
        )
    )


def _variant(what: str, runs: pd.DataFrame, digits: Digits, files: Files) -> Variant:
    diverged = runs.status == RunStatus.DIVERGED
    if diverged.all():
        raise LecunAblateError(f"every run of {what} diverged: there is nothing to describe")
    ended = runs[~diverged]
    errors = ended.test_error.to_numpy(float)
    several = len(errors) > 1
    split = None
    if several and what == "split":
        split = split_variance_of_own_images(errors, len(digits.test))
    elif several:
        predictions = np.stack([files.predictions(run_id) for run_id in ended.run_id])
        split = split_variance(predictions, digits.test.labels)
    described = describe(errors)
    return Variant(
        governs=what,
        errors=errors,
        diverged=int(diverged.sum()),
        collapsed=int((ended.status == RunStatus.COLLAPSED).sum()),
        description=described,
        split=split,
        wrong_ranking=chance_of_wrong_ranking(errors, DIFFERENCE) if several else None,
        seeds_needed={c: seeds_table(described.sd, c) for c in CORRELATIONS} if several else {},
    )
