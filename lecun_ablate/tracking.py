"""The MLflow store: with mlflow_sqlite.py, the only file that imports mlflow.

Three levels of runs: an experiment, under it its arms, under each arm a run per seed. A seed run
is written whole once its training has ended, and counts only when its status is FINISHED, which is
the last thing written: whatever a killed process leaves behind is swept away by the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pyarrow as pa
from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    Experiment,
    InputTag,
    Metric,
    Param,
    Run,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from pyarrow import parquet

from lecun_ablate.errors import LecunAblateError, nearest
from lecun_ablate.lock import exclusive
from lecun_ablate.mlflow_sqlite import (
    DATABASE,
    create,
    database_path,
    insert_history,
    refuse_file_store,
    sync_less,
)
from lecun_ablate.plan import Plan
from lecun_ablate.provenance import environment, git_commit
from lecun_ablate.recipe import Recipe
from lecun_ablate.yaml_file import YamlFile

LEVEL, KEY, ARM, PLAN, SEEDS, STATUS, ENVIRONMENT = (
    f"lecun_ablate.{name}"
    for name in ("level", "run_key", "arm", "plan", "seeds", "status", "environment")
)
PARENT, NAME, COMMIT = "mlflow.parentRunId", "mlflow.runName", "mlflow.source.git.commit"
EPOCH_METRICS = (
    "train_loss", "train_error", "train_misses", "test_loss", "test_error", "test_misses",
    "epoch_seconds",
)  # fmt: skip
STUDIES = "studies/"  # begins the names of the MLflow experiments that hold studies
SUMMARISED = ("train_loss", "train_error", "test_loss", "test_error")
BATCH = 1000  # metrics that MLflow takes at once


@dataclass(frozen=True)
class SeedRun:
    """What identifies a finished seed run. `params` hold its recipe, trainer and data, as text."""

    run_id: str
    arm: str
    seed: int
    key: str
    params: dict[str, str]
    commit: str | None
    environment: dict[str, str]  # as environment() was

    @property
    def name(self) -> str:
        """The run for people."""
        return f"{self.arm} seed {self.seed}"


class Store:
    """An MLflow store, for reading. `Store.writing()` gives one that may also write."""

    def __init__(self, uri: str | None = None):
        """Connect to `uri`, else to MLFLOW_TRACKING_URI, else to ./mlflow.db."""
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DATABASE}"
        self.database = database_path(self.uri)
        if self.database is not None:
            self.uri = f"sqlite:///{self.database}"
        refuse_file_store(self.uri)
        if self.database is not None and not self.database.exists():
            raise LecunAblateError(f"{self.database}: no results here yet: `run` an experiment")
        self._places: dict[str, str] = {}  # run id -> where its artifacts are
        with self._explained("cannot be read"):
            self.client = MlflowClient(tracking_uri=self.uri)
            self.client.search_experiments(max_results=1)

    @classmethod
    @contextlib.contextmanager
    def writing(cls, uri: str | None = None) -> Iterator[Store]:
        """Open the store for one writer, creating it if need be, and check that it can be written.

        Raises LecunAblateError where another process holds it, or it cannot be reached.
        """
        uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DATABASE}"
        refuse_file_store(uri)
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
            if store.database is not None:
                sync_less(store.client)
            with store._explained("cannot be written"):
                default = store.client.search_experiments(max_results=1)[0]
                store.client.set_experiment_tag(
                    default.experiment_id, "lecun_ablate.writable", str(int(time.time()))
                )
            yield store

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # SQLAlchemy, requests and MLflow each have errors of their own
            where = self.database or self.uri
            way_out = (
                "; if it was left by an interrupted `mlflow` command, move it away"
                if self.database
                else "; is the server running?"
            )
            first = str(error).strip().split("\n")[0]
            raise LecunAblateError(f"{where}: {what}: {first}{way_out}") from error

    # ---- reading

    def experiment(self, name: str) -> Experiment | None:
        """Return the MLflow experiment of a name, or None."""
        return self.client.get_experiment_by_name(name)

    def experiment_names(self) -> list[str]:
        """Return the names of all the experiments that hold results of ours, studies left out."""
        names = [e.name for e in self.client.search_experiments()]
        return [name for name in names if "/" in name and not name.startswith(STUDIES)]

    def search(self, experiment_id: str, **tags: str) -> list[Run]:
        """Return an experiment's runs with the given tags (dots in keys as '__'), newest first."""
        conditions = [f"tags.`{k.replace('__', '.')}` = '{v}'" for k, v in tags.items()]
        runs: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(
                [experiment_id],
                " and ".join(conditions),
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=1000,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            runs += page
            self._places |= {run.info.run_id: run.info.artifact_uri for run in page}
            token = page.token
            if not token:
                return runs

    def finished(self, experiment_id: str) -> dict[str, Run]:
        """Return the seed runs that count, by run key."""
        runs = self.search(experiment_id, lecun_ablate__level="run")
        return {run.data.tags[KEY]: run for run in runs if run.info.status == "FINISHED"}

    def experiment_runs(self, experiment_id: str) -> list[Run]:
        """Return the runs of level experiment, the newest first."""
        return self.search(experiment_id, lecun_ablate__level="experiment")

    def find(self, name_or_id: str) -> Run:
        """Return the experiment run that is meant: the latest of several.

        `name_or_id` is an experiment's name, 'name/data', its YAML file, or the id of any of its
        runs. Raises LecunAblateError with the nearest names.
        """
        if name_or_id.endswith((".yaml", ".yml")):
            name_or_id = str(YamlFile(name_or_id).content.get("name"))
        names = self.experiment_names()
        hits = [name for name in names if name_or_id in (name, name.rsplit("/", 1)[0])]
        runs = [
            run
            for name in hits
            for run in self.experiment_runs(self.experiment(name).experiment_id)
        ]
        if runs:
            return max(runs, key=lambda run: run.info.start_time)
        if re.fullmatch(r"[0-9a-f]{32}", name_or_id):
            with contextlib.suppress(MlflowException):
                run = self.client.get_run(name_or_id)
                while run.data.tags.get(LEVEL) in ("run", "arm"):
                    run = self.client.get_run(run.data.tags[PARENT])
                if run.data.tags.get(LEVEL) == "experiment":
                    return run
        known = nearest(name_or_id, names) if names else "the store holds none yet"
        raise LecunAblateError(f"no experiment or run {name_or_id!r}: {known}")

    def plan(self, run: Run) -> Plan:
        """Return the plan of an experiment run."""
        return Plan.from_json(self.text(run.info.run_id, "plan.json"))

    def text(self, run_id: str, artifact: str) -> str:
        """Return a text artifact."""
        return self.bytes(run_id, artifact).decode()

    def bytes(self, run_id: str, artifact: str) -> bytes:
        """Return an artifact's bytes; raises LecunAblateError where it is gone."""
        place = self._place(run_id)
        with tempfile.TemporaryDirectory() as folder:
            try:
                if Path(place).is_dir():  # MLflow's downloader is many times slower
                    return Path(place, artifact).read_bytes()
                path = self.client.download_artifacts(run_id, artifact, folder)
                return Path(path).read_bytes()
            except (MlflowException, OSError) as error:
                raise LecunAblateError(
                    f"run {run_id}: artifact {artifact} cannot be read: {error} (artifact "
                    "locations are absolute: was the folder moved?)"
                ) from error

    def seed_run(self, run_id: str) -> SeedRun:
        """Return a finished seed run; LecunAblateError where the id is none of such a run."""
        try:
            run = self.client.get_run(run_id)
        except MlflowException:
            raise LecunAblateError(f"no run {run_id!r} in {self.database or self.uri}") from None
        level, status = run.data.tags.get(LEVEL), run.info.status
        if level != "run" or status != "FINISHED":
            came = f"one of level {level}, {status.lower()}" if level else "one of another program"
            raise LecunAblateError(
                f"run {run_id}: expected the finished run of one arm with one seed, came {came} "
                "(runs.csv beside a report holds the ids)"
            )
        return SeedRun(
            run_id,
            run.data.tags[ARM],
            int(run.data.params["seed"]),
            run.data.tags[KEY],
            dict(run.data.params),
            run.data.tags.get(COMMIT),
            json.loads(run.data.tags.get(ENVIRONMENT, "{}")),
        )

    def component_files(self, run_id: str, folder: Path) -> list[Path]:
        """Copy the files of components that a seed run was trained with; return the copies."""
        files = []
        for entry in self.client.list_artifacts(run_id, "components"):
            files.append(folder / Path(entry.path).name)
            files[-1].write_bytes(self.bytes(run_id, entry.path))
        return files

    def _place(self, run_id: str) -> str:
        """Return where a run's artifacts are: a path, or the address of a remote place."""
        if run_id not in self._places:
            self._places[run_id] = self.client.get_run(run_id).info.artifact_uri
        return local_file_uri_to_path(self._places[run_id])

    def predictions(self, run_id: str) -> np.ndarray:
        """Return a seed run's answers on the test split after its last epoch, (n,) uint8."""
        return self._test_column(run_id, "prediction")

    def labels(self, run_id: str) -> np.ndarray:
        """Return the labels of the test split that a seed run was scored on, (n,) uint8."""
        return self._test_column(run_id, "label")

    def _test_column(self, run_id: str, name: str) -> np.ndarray:
        source = pa.BufferReader(self.bytes(run_id, "test_predictions.parquet"))
        return parquet.ParquetFile(source).read([name], use_threads=False)[name].to_numpy()

    def weights(self, run_id: str) -> dict[str, np.ndarray]:
        """Return a seed run's final weights, by initial.SHAPES."""
        with np.load(io.BytesIO(self.bytes(run_id, "weights.npz"))) as archive:
            return dict(archive)

    def histories(self, run_ids: Sequence[str]) -> pd.DataFrame:
        """Return (run_id, epoch, metrics) of seed runs, a row per run and epoch."""
        columns = []
        for metric in EPOCH_METRICS:
            points = self._points(run_ids, metric)
            index = pd.MultiIndex.from_tuples([p[:2] for p in points], names=["run_id", "epoch"])
            columns.append(pd.Series([p[2] for p in points], index=index, name=metric, dtype=float))
        table = pd.concat(columns, axis=1).reset_index()
        return table.astype({"train_misses": "int64", "test_misses": "int64", "epoch": "int64"})

    def _points(self, run_ids: Sequence[str], metric: str) -> list[tuple[str, int, float]]:
        store = self.client._tracking_client.store
        if self.database is not None and hasattr(store, "get_metric_history_bulk"):
            found = []
            for i in range(0, len(run_ids), 100):  # one query for many runs, below its limit
                some = list(run_ids[i : i + 100])
                found += store.get_metric_history_bulk(some, metric, 1_000_000)
            return [(point.run_id, point.step, point.value) for point in found]
        with ThreadPoolExecutor(8) as pool:
            histories = pool.map(lambda r: self.client.get_metric_history(r, metric), run_ids)
            return [
                (run_id, point.step, point.value)
                for run_id, history in zip(run_ids, histories, strict=True)
                for point in history
            ]

    def link(self, experiment_id: str) -> str:
        """Return the address of an experiment in the MLflow UI."""
        base = self.uri if self.uri.startswith("http") else "http://127.0.0.1:5000"
        page = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning"
        return f"{base.rstrip('/')}/{page}"

    # ---- writing

    def ensure_experiment(self, name: str) -> str:
        """Return the id of the MLflow experiment of a name, creating it if need be."""
        found = self.experiment(name)
        if found is None:
            return self.client.create_experiment(name)
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def sweep(self, experiment_id: str) -> int:
        """End what killed processes left RUNNING; return how many half-written runs went.

        Half-written seed runs and trials are deleted: they hold nothing that their next training
        will not write again. Experiments, arms and studies are marked KILLED until they go on.
        """
        level = f"tags.`{LEVEL}` LIKE '%'"
        dead = self.client.search_runs(
            [experiment_id], f"attributes.status = 'RUNNING' and {level}", max_results=5000
        )
        halves = [run for run in dead if run.data.tags[LEVEL] in ("run", "trial")]
        for run in dead:
            self.client.set_terminated(run.info.run_id, "KILLED")
        for run in halves:
            self.client.delete_run(run.info.run_id)
        return len(halves)

    def begin(self, experiment_id: str, plan: Plan) -> str:
        """Return the run of a plan, continued or new, RUNNING, with the plan as an artifact."""
        same = self.search(
            experiment_id, lecun_ablate__level="experiment", lecun_ablate__plan=plan.key
        )
        if same:
            run_id = same[0].info.run_id
            self.client.update_run(run_id, status="RUNNING")
        else:
            experiment = plan.experiment
            run_id = self._create(
                experiment_id,
                experiment.name,
                "experiment",
                {PLAN: plan.key, "question": experiment.question, "data": plan.data},
            )
            self._log_data(run_id, plan)
        self.put(run_id, {"plan.json": plan.to_json()})
        if plan.experiment.file and plan.experiment.file.is_file():
            self.client.log_artifact(run_id, str(plan.experiment.file))
        self.client.set_tag(run_id, SEEDS, str(len(plan.experiment.seeds)))
        return run_id

    def begin_arm(self, experiment_id: str, parent: str, plan: Plan, arm: str) -> str:
        """Return the run of an arm under the plan's run, continued or new."""
        arms = self.search(experiment_id, lecun_ablate__level="arm", mlflow__parentRunId=parent)
        for run in arms:
            if run.data.tags[ARM] == arm:
                self.client.update_run(run.info.run_id, status="RUNNING")
                return run.info.run_id
        return self._create_arm(experiment_id, parent, plan, arm)

    def _create_arm(self, experiment_id: str, parent: str, plan: Plan, arm: str) -> str:
        run_id = self._create(experiment_id, arm, "arm", {PARENT: parent, ARM: arm, PLAN: plan.key})
        recipe = next(a.recipe for a in plan.experiment.arms if a.name == arm)
        self.client.log_batch(run_id, params=_params(self._arm_params(plan, arm, recipe)))
        return run_id

    def _arm_params(self, plan: Plan, arm: str, recipe: Recipe) -> dict[str, Any]:
        trainer = plan.trainers[arm]
        tuning = plan.experiment.arm(arm).tuning
        return recipe.model_dump() | {
            "tuned_by": f"{tuning.study} v{tuning.version} on {tuning.data}" if tuning else None,
            "trainer": trainer["name"],
            "device": trainer["device"],
            "instruction_set": trainer["instruction_set"],
            "numerics": trainer["numerics"],
            "data": plan.data,
            "data_digest": plan.data_digest,
        }

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
        recipe = next(a.recipe for a in plan.experiment.arms if a.name == arm)
        tags = {
            PARENT: parent,
            ARM: arm,
            KEY: plan.keys[arm, seed],
            PLAN: plan.key,
            STATUS: status,
            ENVIRONMENT: json.dumps(environment()),
        }
        run_id = self._create(experiment_id, f"{arm} seed {seed}", "run", tags)
        now = int(time.time() * 1000)
        self._log_history(
            run_id,
            [
                Metric(name, float(row[name]), now, epoch)
                for epoch, row in enumerate(history, 1)
                for name in EPOCH_METRICS
            ],
            _params(self._arm_params(plan, arm, recipe) | {"seed": seed}),
        )
        self._log_data(run_id, plan)
        self.put(run_id, artifacts)
        self.client.set_terminated(run_id, "FINISHED")
        return run_id

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

        `numbers` and `tags` are what is concluded from them. Summaries of fewer seeds, the arm's or
        its baseline's, are replaced: MLflow cannot change a metric, so a new run takes the old
        one's place and its children.
        """
        run = self.client.get_run(run_id)
        content = [sorted(map(int, table.seed.unique())), dict(numbers), dict(tags)]
        fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        summarised = run.data.tags.get("lecun_ablate.summary")
        old = None
        if summarised not in (None, fingerprint):
            old, run_id = run_id, self._create_arm(experiment_id, parent, plan, arm)
        if summarised != fingerprint:
            by_epoch = table.groupby("epoch")[list(SUMMARISED)].agg(["mean", "std", "count"])
            now = int(time.time() * 1000)
            metrics = [
                Metric(f"{name}_{label}", float(value), now, int(epoch))
                for (name, statistic), column in by_epoch.items()
                for label in [{"mean": "mean", "std": "sd", "count": "n"}[statistic]]
                for epoch, value in column.items()
                if not np.isnan(value)
            ]
            last = int(table.epoch.max())
            metrics += [Metric(name, value, now, last) for name, value in numbers.items()]
            self._log_metrics(run_id, metrics, [])
            self.set_tags(run_id, tags)
        strays = set(table.run_id) - self._children(experiment_id, run_id)
        for child in sorted(strays):
            self.client.set_tag(child, PARENT, run_id)
        self.client.set_tag(run_id, "lecun_ablate.summary", fingerprint)
        if old:
            self.client.set_terminated(old, "FINISHED")
            self.client.delete_run(old)
        return run_id

    def _children(self, experiment_id: str, parent: str) -> set[str]:
        runs = self.search(experiment_id, lecun_ablate__level="run", mlflow__parentRunId=parent)
        return {run.info.run_id for run in runs}

    def end(self, run_ids: Sequence[str], status: str = "FINISHED") -> None:
        """Set the final status of experiment and arm runs."""
        for run_id in run_ids:
            self.client.set_terminated(run_id, status)

    def begin_study(self, experiment_id: str, name: str, key: str, tags: Mapping[str, str]) -> str:
        """Return the run of a study, continued or new, RUNNING; `key` tells it from all others."""
        same = self.search(experiment_id, lecun_ablate__level="study", lecun_ablate__plan=key)
        if not same:
            return self._create(experiment_id, name, "study", {PLAN: key, **tags})
        self.client.update_run(same[0].info.run_id, status="RUNNING")
        return same[0].info.run_id

    def trials(self, experiment_id: str, study: str) -> set[str]:
        """Return the ids of the trial runs under a study's run."""
        runs = self.search(experiment_id, lecun_ablate__level="trial", mlflow__parentRunId=study)
        return {run.info.run_id for run in runs}

    def log_trial(
        self,
        experiment_id: str,
        study: str,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        history: Mapping[str, Sequence[float]],
    ) -> str:
        """Write a trial's run, whole; `history` holds each metric's values per epoch, from 1."""
        run_id = self._create(experiment_id, name, "trial", {PARENT: study, **tags})
        now = int(time.time() * 1000)
        points = [
            Metric(metric, float(value), now, epoch)
            for metric, values in history.items()
            for epoch, value in enumerate(values, 1)
        ]
        self._log_history(run_id, points, _params(params))
        self.client.set_terminated(run_id, "FINISHED")
        return run_id

    def delete(self, run_ids: Iterable[str]) -> None:
        """Delete runs."""
        for run_id in run_ids:
            self.client.delete_run(run_id)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Write metrics that belong to no epoch."""
        now = int(time.time() * 1000)
        self._log_metrics(run_id, [Metric(k, float(v), now, 0) for k, v in metrics.items()], [])

    def put(self, run_id: str, artifacts: Mapping[str, bytes | str | Path]) -> None:
        """Write artifacts: name -> bytes, text, or a file to copy."""
        if not artifacts:
            return
        place = self._place(run_id)
        if not urlsplit(place).scheme:  # a folder: MLflow's uploader is many times slower
            _write_files(Path(place), artifacts)
            return
        with tempfile.TemporaryDirectory() as folder:
            _write_files(Path(folder), artifacts)
            self.client.log_artifacts(run_id, folder)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run in one batch."""
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def _create(self, experiment_id: str, name: str, level: str, tags: Mapping[str, str]) -> str:
        everywhere = {
            LEVEL: level,
            NAME: name,
            "mlflow.source.name": "lecun_ablate",
            "mlflow.source.type": "LOCAL",
        }
        if git_commit():
            everywhere[COMMIT] = git_commit()
        now = int(time.time() * 1000)
        run = self.client.create_run(
            experiment_id, start_time=now, tags=everywhere | dict(tags), run_name=name
        )
        self._places[run.info.run_id] = run.info.artifact_uri
        return run.info.run_id

    def _log_metrics(self, run_id: str, metrics: list[Metric], params: list[Param]) -> None:
        self.client.log_batch(run_id, metrics=metrics[:BATCH], params=params)
        for i in range(BATCH, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics=metrics[i : i + BATCH])

    def _log_history(self, run_id: str, points: list[Metric], params: list[Param]) -> None:
        """Write the metrics and params of a run that has none yet."""
        if self.database is None:
            self._log_metrics(run_id, points, params)
        else:
            insert_history(self.client._tracking_client.store, run_id, points, params)

    def _log_data(self, run_id: str, plan: Plan) -> None:
        source = json.dumps({"name": plan.data})
        dataset = Dataset(plan.data, plan.data_digest, "code", source)
        context = InputTag("mlflow.data.context", "train/test")
        self.client.log_inputs(run_id, [DatasetInput(dataset, [context])])


def _write_files(folder: Path, contents: Mapping[str, bytes | str | Path]) -> None:
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            path.write_bytes(content.read_bytes() if isinstance(content, Path) else content)


def _params(values: Mapping[str, Any]) -> list[Param]:
    return [Param(name, str(value)) for name, value in values.items() if value is not None]
