"""The MLflow store, for writing.

Three levels of runs: an experiment, under it its arms, under each arm a run per seed. A seed run
is written whole once its training has ended, and counts only when its status is FINISHED, which is
the last thing written, after its files. What a killed process leaves half-written on a server, the
next one sweeps away; beside an SQLite file, a folder of files that no run names can be left.

A seed run that several plans share stands under the arm that trained it; the others' arms link to
that arm. Whatever is read starts from run keys, so every plan finds all of its runs.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.utils.uri import append_to_uri_path

from lecun_ablate.plan.plan import Plan
from lecun_ablate.system.interrupts import held_back
from lecun_ablate.system.lock import exclusive
from lecun_ablate.system.provenance import environment, git_commit
from lecun_ablate.tracking.address import address, database_path
from lecun_ablate.tracking.ended_run import EndedRun, insert_run, params
from lecun_ablate.tracking.names import (
    ARM,
    COMMIT,
    ENVIRONMENT,
    EPOCH_METRICS,
    KEY,
    LAST_RUN,
    LEVEL,
    NAME,
    NOTE,
    PARENT,
    PLAN,
    PLAN_FILE,
    SEEDS,
    STATUS,
    SUMMARY,
)
from lecun_ablate.tracking.new_store import create
from lecun_ablate.tracking.reader import Reader
from lecun_ablate.tracking.sqlite import close, follow_moved_artifacts, sync_less

PROBE = "lecun_ablate.probe"  # an MLflow experiment, always deleted, that is written to try
SUMMARISED = ("train_loss", "train_error", "test_loss", "test_error")
BATCH = 1000  # metrics that MLflow takes at once


def _writes(method: Callable[..., Any]) -> Callable[..., Any]:
    """Hold interruptions back while a method writes; say what is wrong where it cannot."""

    @functools.wraps(method)
    def guarded(self: Store, *arguments: Any, **named: Any) -> Any:
        way_out = "what had finished is kept: run the same command again"
        with held_back(), self.explained("cannot be written", way_out):
            return method(self, *arguments, **named)

    return guarded


class Store(Reader):
    """An MLflow store, for reading. `Store.writing()` gives one that may also write."""

    def __init__(self, uri: str | None = None):
        super().__init__(uri)
        self._folders: dict[str, str] = {}  # of experiments that have been written to

    @classmethod
    @contextlib.contextmanager
    def writing(cls, uri: str | None = None) -> Iterator[Store]:
        """Open the store for one writer, creating it if need be, and check that it can be written.

        Raises LecunAblateError where another process holds it, or it cannot be reached.
        """
        uri = address(uri)
        database = database_path(uri)
        if database is not None:
            lock = database.parent / ".lecun_ablate.lock"
        else:
            name = hashlib.sha256(uri.encode()).hexdigest()[:16]
            lock = Path(tempfile.gettempdir()) / f"lecun_ablate-{name}.lock"
        with exclusive(lock, f"the MLflow store {uri}"):
            if database is not None and not database.exists():
                create(database)
            store = cls(uri)
            if database is not None:
                sync_less(store.client)
            try:
                with store.explained("cannot be written"):
                    store._probe()
                    if database is not None:
                        follow_moved_artifacts(store.client, database)
                yield store
            finally:
                if database is not None:
                    close(store.client)

    def _probe(self) -> None:
        """Write something that is nobody else's and that nobody sees."""
        found = self.experiment(PROBE)
        if found is None:
            experiment_id = self.client.create_experiment(PROBE)
        else:
            experiment_id = found.experiment_id
            if found.lifecycle_stage == "deleted":
                self.client.restore_experiment(experiment_id)
        self.client.delete_experiment(experiment_id)

    @_writes
    def ensure_experiment(self, name: str) -> str:
        """Return the id of the MLflow experiment of a name, creating it if need be."""
        found = self.experiment(name)
        if found is None:
            return self.client.create_experiment(name)
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return found.experiment_id

    @_writes
    def sweep(self, experiment_id: str) -> int:
        """End what killed processes left RUNNING; return how many half-written runs went.

        Half-written seed runs and trials are deleted: they hold nothing that their next training
        will not write again. Experiments, arms and studies are marked KILLED until they go on.
        """
        where = [experiment_id]
        if self.database is not None:  # locked: nobody else can be running anything in it
            where = [experiment.experiment_id for experiment in self._experiments()]
        dead = list(self._runs(where, f"attributes.status = 'RUNNING' and tags.`{LEVEL}` LIKE '%'"))
        halves = [run for run in dead if run.data.tags[LEVEL] in ("run", "trial")]
        for run in dead:
            self.client.set_terminated(run.info.run_id, "KILLED")
        for run in halves:
            self.client.delete_run(run.info.run_id)
        return len(halves)

    # ---- plans

    def plan_run(self, experiment_id: str, key: str) -> Run | None:
        """Return the experiment run of the plan with a key, or None."""
        same = self.search(experiment_id, lecun_ablate__level="experiment", lecun_ablate__plan=key)
        return same[0] if same else None

    @_writes
    def begin(self, experiment_id: str, plan: Plan) -> str:
        """Return the run of a plan, continued or new, RUNNING, with the plan as an artifact."""
        same = self.plan_run(experiment_id, plan.key)
        if same:
            run_id = same.info.run_id
            self.client.update_run(run_id, status="RUNNING")
        else:
            about = {PLAN: plan.key, "question": plan.experiment.question, "data": plan.data}
            run_id = self.create(experiment_id, plan.experiment.name, "experiment", about)
            self.client.log_inputs(run_id, [_dataset(plan)])
        files: dict[str, str | Path] = {PLAN_FILE: plan.to_json()}
        if plan.experiment.file and plan.experiment.file.is_file():
            files[plan.experiment.file.name] = plan.experiment.file
        self.put(run_id, files)
        seeds, now = str(len(plan.experiment.seeds)), str(int(time.time() * 1000))
        self.set_tags(run_id, {SEEDS: seeds, LAST_RUN: now})
        return run_id

    # ---- arms

    @_writes
    def begin_arm(self, experiment_id: str, parent: str, plan: Plan, arm: str) -> str:
        """Return the run of an arm under the plan's run, continued or new."""
        arms = self.search(experiment_id, lecun_ablate__level="arm", mlflow__parentRunId=parent)
        same = [run.info.run_id for run in arms if run.data.tags[ARM] == arm]
        if not same:
            return self._create_arm(experiment_id, parent, plan, arm)
        for double in same[1:]:  # a kill while one took the other's place
            self._replace_arm(experiment_id, double, same[0])
        self.client.update_run(same[0], status="RUNNING")
        return same[0]

    def _create_arm(self, experiment_id: str, parent: str, plan: Plan, arm: str) -> str:
        run_id = self.create(experiment_id, arm, "arm", {PARENT: parent, ARM: arm, PLAN: plan.key})
        self.client.log_batch(run_id, params=params(_arm_params(plan, arm)))
        return run_id

    def _replace_arm(self, experiment_id: str, old: str, new: str) -> None:
        """Let one run of an arm take another's place, its children, and the links to it."""
        for child in self.search(experiment_id, mlflow__parentRunId=old):
            self.client.set_tag(child.info.run_id, PARENT, new)
        for arm in self.search(experiment_id, lecun_ablate__level="arm"):
            note = arm.data.tags.get(NOTE, "")
            if old in note:
                self.client.set_tag(arm.info.run_id, NOTE, note.replace(old, new))
        self.client.set_terminated(old, "FINISHED")
        self.client.delete_run(old)

    @_writes
    def summarise_arm(
        self,
        experiment_id: str,
        parent: str,
        plan: Plan,
        arm: str,
        run_id: str,
        table: pd.DataFrame,
        numbers: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> str:
        """Write an arm's mean, sd and n per epoch over its seeds; return the arm's run id.

        As in the table of arms, diverged runs are left out and counted. `numbers` and `tags` are
        what is concluded. Another summary, of the arm or its baseline with other seeds, is
        replaced: MLflow cannot change a metric, so a new run takes the old one's place.
        """
        seeds = sorted(map(int, table.seed.unique()))
        diverged = int(table[table.status == "diverged"].run_id.nunique())
        content = [seeds, diverged, dict(numbers), dict(tags)]
        fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        run, old = self.client.get_run(run_id), None
        if run.data.tags.get(SUMMARY) == fingerprint:
            return run_id
        if run.data.metrics:
            old, run_id = run_id, self._create_arm(experiment_id, parent, plan, arm)
        ended = table[table.status != "diverged"]
        by_epoch = ended.groupby("epoch")[list(SUMMARISED)].agg(["mean", "std", "count"])
        now = int(time.time() * 1000)
        metrics = [
            Metric(f"{name}_{label}", float(value), now, int(epoch))
            for (name, statistic), column in by_epoch.items()
            for label in [{"mean": "mean", "std": "sd", "count": "n"}[statistic]]
            for epoch, value in column.items()
            if not np.isnan(value)
        ]
        last = int(table.epoch.max())
        counted = {"test_error_diverged": diverged, **numbers}
        metrics += [Metric(name, float(value), now, last) for name, value in counted.items()]
        self._log_metrics(run_id, metrics, [])
        self.set_tags(run_id, {**tags, SUMMARY: fingerprint})
        if old:
            self._replace_arm(experiment_id, old, run_id)
        return run_id

    @_writes
    def gather(
        self, experiment_id: str, plan: Plan, arms: Mapping[str, str], frame: pd.DataFrame
    ) -> None:
        """Give seed runs that have lost their arm to these; note which are under other plans' arms.

        `arms` maps the plan's arms to their runs; `frame` has the arm of every run_id of the plan.
        """
        own = dict(zip(frame.run_id, frame.arm, strict=True))
        alive = {r.info.run_id: r for r in self.search(experiment_id, lecun_ablate__level="arm")}
        elsewhere: dict[str, Counter[str]] = {arm: Counter() for arm in arms}
        for run in self._each(experiment_id, lecun_ablate__level="run"):
            run_id, tags = run.info.run_id, run.data.tags
            arm = own.get(run_id) or (tags[ARM] if tags[PLAN] == plan.key else None)
            if arm is None or tags[PARENT] == arms[arm]:
                continue
            if tags[PARENT] in alive:
                elsewhere[arm][tags[PARENT]] += 1
            else:
                self.client.set_tag(run_id, PARENT, arms[arm])
        for arm, run_id in arms.items():
            if elsewhere[arm]:
                note = _note(experiment_id, {alive[i]: n for i, n in elsewhere[arm].items()})
                self.client.set_tag(run_id, NOTE, note)
            elif run_id in alive and NOTE in alive[run_id].data.tags:
                self.client.delete_tag(run_id, NOTE)

    # ---- runs

    def log_run(
        self,
        experiment_id: str,
        parent: str,
        plan: Plan,
        arm: str,
        seed: int,
        history: Sequence[Mapping[str, float]],
        status: str,
        artifacts: Mapping[str, bytes | str | Path],
    ) -> str:
        """Write a finished seed run, whole; `history` holds EPOCH_METRICS per epoch, from 1."""
        tags = {
            PARENT: parent,
            ARM: arm,
            KEY: plan.keys[arm, seed],
            PLAN: plan.key,
            STATUS: status,
            ENVIRONMENT: json.dumps(environment()),
        }
        columns = {name: [float(row[name]) for row in history] for name in EPOCH_METRICS}
        run = EndedRun(
            experiment_id,
            name=f"{arm} seed {seed}",
            tags=tags,
            values=_arm_params(plan, arm) | {"seed": seed},
            history=columns,
            data=_dataset(plan),
            seconds=sum(columns["epoch_seconds"]),
        )
        return self.write(run, "run", artifacts)

    # ---- runs of every level

    def create(self, experiment_id: str, name: str, level: str, tags: Mapping[str, str]) -> str:
        """Create a run, RUNNING, and return its id."""
        run = self.client.create_run(
            experiment_id,
            start_time=int(1000 * time.time()),
            tags=_everywhere(name, level) | dict(tags),
            run_name=name,
        )
        self._infos[run.info.run_id] = run.info
        return run.info.run_id

    @_writes
    def write(self, run: EndedRun, level: str, artifacts: Mapping[str, bytes | str | Path]) -> str:
        """Write a run that has ended, whole, and return its id."""
        run = replace(run, tags=_everywhere(run.name, level) | dict(run.tags))
        if self.database is None:
            return self._write_by_client(run, artifacts)
        if run.experiment_id not in self._folders:
            experiment = self.client.get_experiment(run.experiment_id)
            self._folders[run.experiment_id] = experiment.artifact_location
        run_id = uuid.uuid4().hex
        folder = append_to_uri_path(self._folders[run.experiment_id], run_id, "artifacts")
        self._infos[run_id] = run.info(run_id, folder)
        self.put(run_id, artifacts)  # first, since the run counts as soon as it is inserted
        self._infos[run_id] = run.info(run_id, self._place(run_id))  # may be beside a copy
        insert_run(self.client, run, self._infos[run_id])
        return run_id

    def _write_by_client(self, run: EndedRun, artifacts: Mapping[str, bytes | str | Path]) -> str:
        created = self.client.create_run(run.experiment_id, run.started, dict(run.tags), run.name)
        run_id = created.info.run_id
        self._infos[run_id] = created.info
        self._log_metrics(run_id, run.metrics, params(run.values))
        if run.data:
            self.client.log_inputs(run_id, [run.data])
        self.put(run_id, artifacts)
        self.client.set_terminated(run_id, "FINISHED", run.ended)
        return run_id

    @_writes
    def end(self, run_ids: Sequence[str], status: str = "FINISHED") -> None:
        """Set the final status of runs: of all that can be written, if one cannot."""
        failures = []
        for run_id in run_ids:
            try:
                self.client.set_terminated(run_id, status)
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]

    @_writes
    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run in one batch."""
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def _log_metrics(self, run_id: str, metrics: list[Metric], parameters: list[Param]) -> None:
        self.client.log_batch(run_id, metrics=metrics[:BATCH], params=parameters)
        for i in range(BATCH, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics=metrics[i : i + BATCH])


def _everywhere(name: str, level: str) -> dict[str, str]:
    """Return the tags that every run has."""
    tags = {
        LEVEL: level,
        NAME: name,
        "mlflow.source.name": "lecun_ablate",
        "mlflow.source.type": "LOCAL",
    }
    if commit := git_commit():
        tags[COMMIT] = commit
    return tags


def _dataset(plan: Plan) -> DatasetInput:
    source = json.dumps({"name": plan.data})
    dataset = Dataset(plan.data, plan.data_digest, "code", source)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "train/test")])


def _arm_params(plan: Plan, arm: str) -> dict[str, Any]:
    planned, trainer = plan.experiment.arm(arm), plan.trainers[arm]
    tuning = planned.tuning
    return planned.recipe.model_dump() | {
        "tuned_by": f"{tuning.study} v{tuning.version} on {tuning.data}" if tuning else None,
        "trainer": trainer["name"],
        "device": trainer["device"],
        "instruction_set": trainer["instruction_set"],
        "numerics": trainer["numerics"],
        "data": plan.data,
        "data_digest": plan.data_digest,
    }


def _note(experiment_id: str, holders: Mapping[Run, int]) -> str:
    """Return the description of an arm whose runs stand, in part, under others."""
    page = f"#/experiments/{experiment_id}/runs"
    each = [
        f"{number} under [{arm.data.tags[ARM]}]({page}/{arm.info.run_id})"
        for arm, number in holders.items()
    ]
    return f"Of this arm's runs, other plans have trained some before: {', '.join(each)}."
