"""Finding runs in the MLflow store, and reading what they hold."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pandas as pd
from mlflow.entities import Experiment, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.dbmodels.models import SqlMetric
from sqlalchemy import select

from lecun_ablate.config.yaml_file import YamlFile
from lecun_ablate.errors import ConfigError, LecunAblateError, nearest
from lecun_ablate.plan.plan import Plan
from lecun_ablate.tracking.artifacts import Artifacts
from lecun_ablate.tracking.names import (
    ARM,
    COMMIT,
    ENVIRONMENT,
    EPOCH_METRICS,
    KEY,
    LAST_RUN,
    LEVEL,
    PARENT,
    PLAN_FILE,
    STATUS,
    STUDIES,
)
from lecun_ablate.tracking.sqlite import sql_store

PAGE = 100  # runs asked for at a time: thousands at once take much memory


@dataclass(frozen=True)
class SeedRun:
    """What identifies a finished seed run. `params` hold its recipe, trainer and data, as text."""

    run_id: str
    arm: str
    seed: int
    key: str
    params: dict[str, str]
    commit: str | None
    environment: dict[str, str]  # as provenance.environment() was

    @property
    def name(self) -> str:
        """The run for people."""
        return f"{self.arm} seed {self.seed}"


@dataclass(frozen=True)
class Finished:
    """What results need of a finished seed run beside its history."""

    run_id: str
    status: str  # of training: runner.FINISHED, ...
    commit: str | None
    environment: str  # JSON of provenance.environment()


@dataclass(frozen=True)
class OtherPlan:
    """A plan of an experiment beside the one that is shown."""

    run_id: str
    last_run: float  # seconds since 1970
    status: str
    differences: list[str] | None  # to the one that is shown; None where its file is gone


class Reader(Artifacts):
    """An MLflow store, for reading."""

    def experiment(self, name: str) -> Experiment | None:
        """Return the MLflow experiment of a name, or None."""
        return self.client.get_experiment_by_name(name)

    def experiment_names(self) -> list[str]:
        """Return the names of all experiments that are like ours, NAME/DATA, studies left out."""
        names = [experiment.name for experiment in self._experiments()]
        return [name for name in names if "/" in name and not name.startswith(STUDIES)]

    def _experiments(self) -> list[Experiment]:
        pages = _pages(lambda token: self.client.search_experiments(page_token=token))
        return [experiment for page in pages for experiment in page]

    def search(self, experiment_id: str, **tags: str) -> list[Run]:
        """Return an experiment's runs with the given tags (dots in keys as '__'), newest first."""
        return list(self._each(experiment_id, **tags))

    def _each(self, experiment_id: str, **tags: str) -> Iterator[Run]:
        """Yield what `search` returns, for where there may be thousands."""
        conditions = [f"tags.`{k.replace('__', '.')}` = '{v}'" for k, v in tags.items()]
        return self._runs([experiment_id], " and ".join(conditions))

    def _runs(self, experiment_ids: list[str], condition: str) -> Iterator[Run]:
        pages = _pages(
            lambda token: self.client.search_runs(
                experiment_ids,
                condition,
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=PAGE,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
        )
        for page in pages:
            self._infos |= {run.info.run_id: run.info for run in page}
            yield from page

    def finished(self, experiment_id: str) -> dict[str, Finished]:
        """Return the seed runs that count, by run key: FINISHED, and with their files."""
        return self.finished_and_lost(experiment_id)[0]

    def finished_and_lost(
        self, experiment_id: str
    ) -> tuple[dict[str, Finished], dict[str, Finished]]:
        """Return the seed runs that count and those that have lost their files, by run key."""
        finished, lost = {}, {}
        for run in self._each(experiment_id, lecun_ablate__level="run"):
            if run.info.status == "FINISHED":
                kind = finished if self.has_files(run.info.run_id) else lost
                tags = run.data.tags
                kind[tags[KEY]] = Finished(
                    run.info.run_id, tags[STATUS], tags.get(COMMIT), tags.get(ENVIRONMENT, "{}")
                )
        return finished, lost

    def experiment_runs(self, experiment_id: str) -> list[Run]:
        """Return the runs of level experiment, one per plan, the last run first."""
        runs = self.search(experiment_id, lecun_ablate__level="experiment")
        return sorted(runs, key=last_run, reverse=True)

    def find(self, name_or_id: str) -> Run:
        """Return the experiment run that is meant: of several plans, the one that was run last.

        `name_or_id` is an experiment's name, 'name/data', its YAML file, or the id of any of its
        runs. Raises LecunAblateError with the nearest names.
        """
        if name_or_id.endswith((".yaml", ".yml")):
            file = YamlFile(name_or_id)
            if "name" not in file.content:
                raise ConfigError(f"{name_or_id}: name is missing: expected an experiment's file")
            name_or_id = str(file.content["name"])
        names = self.experiment_names()
        hits = [name for name in names if name_or_id in (name, name.rsplit("/", 1)[0])]
        runs = [
            run
            for name in hits
            for run in self.experiment_runs(self.experiment(name).experiment_id)
        ]
        if runs:
            return max(runs, key=last_run)
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
        """Return the plan of an experiment run; LecunAblateError where its file is gone."""
        try:
            text = self.text(run.info.run_id, PLAN_FILE)
        except LecunAblateError as error:
            raise LecunAblateError(
                f"{run.info.run_name}: {error.__cause__}: `run` the experiment again; that writes "
                "the file anew, and trains only what has lost its own files"
            ) from error
        return Plan.from_json(text)

    def other_plans(self, shown: Run) -> list[OtherPlan]:
        """Return the plans of the same experiment as the `shown` experiment run, the last first."""
        plan, others = self.plan(shown), []
        for run in self.experiment_runs(shown.info.experiment_id):
            if run.info.run_id == shown.info.run_id:
                continue
            try:
                differences = plan.differences(self.plan(run))
            except LecunAblateError:
                differences = None
            when, status = last_run(run) / 1000, run.info.status.lower()
            others.append(OtherPlan(run.info.run_id, when, status, differences))
        return others

    def seed_run(self, run_id: str) -> SeedRun:
        """Return a finished seed run; LecunAblateError where the id is none of such a run."""
        try:
            run = self.client.get_run(run_id)
        except MlflowException:
            raise LecunAblateError(f"no run {run_id!r} in {self.where}") from None
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

    def histories(self, run_ids: Sequence[str]) -> pd.DataFrame:
        """Return (run_id, epoch, metrics) of seed runs, a row per run and epoch."""
        points = self._points_of_client if self.database is None else self._points_of_database
        long = pd.DataFrame(points(run_ids), columns=["run_id", "epoch", "metric", "value"])
        table = long.pivot(index=["run_id", "epoch"], columns="metric", values="value")
        counts = {"train_misses": "int64", "test_misses": "int64"}
        return table.reset_index().rename_axis(columns=None).astype(counts)

    def _points_of_database(self, run_ids: Sequence[str]) -> list[tuple[str, int, str, float]]:
        columns = SqlMetric.run_uuid, SqlMetric.step, SqlMetric.key, SqlMetric.value
        found = []
        with sql_store(self.client).engine.connect() as connection:
            for i in range(0, len(run_ids), PAGE):
                some = SqlMetric.run_uuid.in_(run_ids[i : i + PAGE])
                wanted = select(*columns, SqlMetric.is_nan).where(
                    some, SqlMetric.key.in_(EPOCH_METRICS)
                )
                for run_id, epoch, metric, value, is_nan in connection.execute(wanted):
                    found.append((run_id, epoch, metric, math.nan if is_nan else value))
        return found

    def _points_of_client(self, run_ids: Sequence[str]) -> list[tuple[str, int, str, float]]:
        which = [(run_id, metric) for run_id in run_ids for metric in EPOCH_METRICS]
        with ThreadPoolExecutor(8) as pool:
            histories = pool.map(lambda pair: self.client.get_metric_history(*pair), which)
            return [
                (run_id, point.step, metric, point.value)
                for (run_id, metric), history in zip(which, histories, strict=True)
                for point in history
            ]


def last_run(run: Run) -> int:
    """Return when a plan was run last, in milliseconds, from its run of level experiment."""
    return int(run.data.tags.get(LAST_RUN, run.info.start_time))


def _pages(page_of: Callable[[str | None], Any]) -> Iterator[Any]:
    token = None
    while True:
        page = page_of(token)
        yield page
        token = page.token
        if not token:
            return
