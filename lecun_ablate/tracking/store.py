"""The MLflow store, for reading.

There are three levels of runs: a plan, under it its arms, under each arm a run per seed. A seed run
that several plans share stands under the arm that trained it. Whatever is read starts from run
keys, so every plan finds all of its runs.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
from mlflow.entities import Run
from mlflow.protos.service_pb2 import GetMetricHistoryBulkInterval
from mlflow.store.tracking.dbmodels.models import SqlMetric
from mlflow.utils.proto_json_utils import message_to_json
from sqlalchemy import select

from lecun_ablate.config.yaml_file import YamlFile
from lecun_ablate.errors import ConfigError, LecunAblateError, NoStoreYet, nearest
from lecun_ablate.plan.plan import Plan
from lecun_ablate.plan.results import EPOCH_METRICS, Results
from lecun_ablate.tracking import views
from lecun_ablate.tracking.connection import PAGE, Connection
from lecun_ablate.tracking.files import Files
from lecun_ablate.tracking.names import (
    ARM,
    EXPERIMENT_NAME,
    KEY,
    LEVEL,
    PARENT,
    PLAN,
    PLAN_FILE,
    STUDIES,
    Level,
)
from lecun_ablate.tracking.patient import until_answered
from lecun_ablate.tracking.records import (
    FinishedRun,
    OtherPlan,
    PlanRecord,
    SeedRun,
    UnusableRun,
)
from lecun_ablate.tracking.sqlite import sql_store
from lecun_ablate.tracking.tags import (
    OF_FINISHED_RUNS,
    contradictory_histories,
    finished_run,
    plan_record,
    unsound_histories,
)

MOST_POINTS = 2500  # that MLflow's server returns of a run at once

Finished = dict[str, FinishedRun]  # by run key
Unusable = dict[str, UnusableRun]  # by run key, or by run id if that is gone


class Store:
    """An MLflow store, for reading. `files` holds the files of its runs."""

    def __init__(self, uri: str | None = None):
        """Connect; NoStoreYet if the store is a file that does not exist."""
        self.connection = Connection(uri)
        self.files = Files(self.connection)
        self._client = self.connection.client

    # ---- plans

    def experiment_id(self, name: str) -> str | None:
        """Return the id of the MLflow experiment of a name, or None."""
        found = self.connection.experiment_named(name)
        return str(found.experiment_id) if found else None

    def experiment_names(self) -> list[str]:
        """Return the names of all experiments named as ours are, NAME/DATA, without studies."""
        found = self.connection.experiments()
        names = [experiment.tags.get(EXPERIMENT_NAME, experiment.name) for experiment in found]
        return [name for name in names if "/" in name and not name.startswith(STUDIES)]

    def plans(self, experiment_id: str) -> list[PlanRecord]:
        """Return the plans of an experiment; the one that is shown by the experiment's name first.

        Of the plans without options that change what the file says, that is the one that was run
        last: a short trial does not hide the results.
        """
        runs = self.connection.tagged(experiment_id, {LEVEL: Level.EXPERIMENT})
        return sorted(map(plan_record, runs), key=lambda plan: plan.rank, reverse=True)

    def find(self, name_or_id: str) -> PlanRecord:
        """Return the plan that is meant: of several, the first of `plans`.

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
        ids = [found for name in hits if (found := self.experiment_id(name))]
        plans = [plan for experiment_id in ids for plan in self.plans(experiment_id)]
        if plans:
            return max(plans, key=lambda plan: plan.rank)
        if re.fullmatch(r"[0-9a-f]{8,31}", name_or_id):
            beginning = self.runs_beginning(name_or_id)
            name_or_id = beginning[0] if len(beginning) == 1 else name_or_id
        if re.fullmatch(r"[0-9a-f]{32}", name_or_id):
            run = self.connection.run(name_or_id)
            while run and run.data.tags.get(LEVEL) in (Level.RUN, Level.ARM):
                run = self.connection.run(run.data.tags.get(PARENT, ""))
            if run and run.data.tags.get(LEVEL) == Level.EXPERIMENT:
                return plan_record(run)
        known = nearest(name_or_id, names) if names else "the store holds none yet"
        raise LecunAblateError(f"no experiment or run {name_or_id!r}: {known}")

    def link(self, which: Results | PlanRecord) -> str:
        """Return the address of a plan in the MLflow UI: its arms compared, if that is prepared."""
        plan = self.plan(which) if isinstance(which, PlanRecord) else which.plan
        return self._view(which.experiment_id, views.arms_view(plan.key))

    def study_link(self, run_id: str) -> str:
        """Return the address of a study in the MLflow UI: its trials, if that is prepared."""
        place = self.connection.info(run_id).experiment_id
        return self._view(place, views.trials_view(run_id))

    def _view(self, place: str, view: str) -> str:
        known = views.TAG + view in self.connection.experiment_tags(place)
        return self.connection.link(place, view if known else None)

    def plan(self, record: PlanRecord) -> Plan:
        """Return the plan that a run stands for; LecunAblateError if its file is gone."""
        try:
            content = self.files.read(record.run_id, PLAN_FILE)
        except LecunAblateError as error:
            raise LecunAblateError(
                f"{record.name}: {error.__cause__}: `run` the experiment again; that writes "
                "the file anew, and trains only the runs that have lost their own files"
            ) from error
        try:
            return Plan.from_json(content.decode())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LecunAblateError(
                f"{record.name}: run {record.run_id}: its file {PLAN_FILE} is damaged: "
                f"{type(error).__name__}: {error}: `run` the experiment again; that writes the "
                "file anew, and trains nothing that is whole"
            ) from error

    def with_earlier_arms(self, plan: Plan) -> Plan:
        """Return a plan with the arms that its path has come to before, if it has one."""
        place = self.experiment_id(plan.tracking_name)
        if not plan.experiment.further or place is None:
            return plan
        for run in self.connection.tagged(place, {LEVEL: Level.EXPERIMENT, PLAN: plan.key}):
            with contextlib.suppress(LecunAblateError):  # its file is gone: the path is found anew
                if before := self.plan(plan_record(run)).experiment.ablation:
                    return plan.with_sets(before.sets.values())
        return plan

    def other_plans(self, shown: PlanRecord) -> list[OtherPlan]:
        """Return the other plans of the same experiment, the one that was run last first."""
        plan, others = self.plan(shown), []
        plans = sorted(self.plans(shown.experiment_id), key=lambda p: p.last_run, reverse=True)
        for record in plans:
            if record.run_id == shown.run_id:
                continue
            try:
                differences = plan.differences(self.plan(record))
            except LecunAblateError:
                differences = None
            when, status = record.last_run / 1000, record.status.lower()
            others.append(OtherPlan(record.run_id, when, status, differences))
        return others

    # ---- results

    def results(self, record: PlanRecord) -> Results:
        """Return the results of a plan: those of its runs that have finished.

        Runs that were damaged or changed after they ended are left out, and named. Raises
        LecunAblateError if there are no others.
        """
        plan = self.plan(record)
        finished, unusable = self.finished(record.experiment_id)
        wanted = {which: finished[key] for which, key in plan.keys.items() if key in finished}
        table, changed = self._sound_histories([run.run_id for run in wanted.values()])
        changed |= self._contradictions(table)
        left_out = [str(unusable[key]) for key in plan.keys.values() if key in unusable]
        for (arm, seed), run in wanted.items():
            if reason := changed.get(run.run_id):
                left_out.append(str(UnusableRun(run.run_id, f"{arm} seed {seed}", reason)))
        wanted = {which: run for which, run in wanted.items() if run.run_id not in changed}
        if not wanted:
            why = "no run has finished yet"
            if left_out:
                why = f"none of its {len(left_out)} finished runs can be used: run it again"
            raise LecunAblateError("\n".join([f"{plan.tracking_name}: {why}", *left_out[:5]]))
        about = pd.DataFrame(
            {"arm": arm, "seed": seed, "run_id": run.run_id, "status": run.status}
            for (arm, seed), run in wanted.items()
        )
        origins = pd.DataFrame(
            {"run_id": run.run_id, "commit": run.commit, "environment": run.environment}
            for run in wanted.values()
        )
        frame = about.merge(table, on="run_id")
        order = {arm.name: i for i, arm in enumerate(plan.experiment.arms)}
        frame = frame.sort_values(
            ["arm", "seed", "epoch"], key=lambda c: c.map(order) if c.name == "arm" else c
        )
        columns = ["arm", "seed", "epoch", *EPOCH_METRICS, "status", "run_id"]
        frame = frame[columns].reset_index(drop=True)
        return Results(
            plan,
            frame,
            origins,
            record.run_id,
            record.experiment_id,
            record.looks,
            tuple(left_out),
        )

    def finished(self, experiment_id: str) -> tuple[Finished, Unusable]:
        """Return the seed runs that count, and those that do not although they have finished.

        A run counts once its status is FINISHED, which is written last, as long as it has its tags
        and its files. Those that do not are by run key as well, or by run id if that is gone.
        """
        finished: Finished = {}
        unusable: Unusable = {}
        for run in self.connection.tagged(experiment_id, {LEVEL: Level.RUN}, OF_FINISHED_RUNS):
            if run.info.status != "FINISHED":
                continue
            run_id, key = run.info.run_id, run.data.tags.get(KEY, run.info.run_id)
            found = finished_run(run)
            if isinstance(found, FinishedRun) and not self.files.has_files(run_id):
                name = f"{run.data.tags[ARM]} seed {found.seed}"
                found = UnusableRun(run_id, name, "its weights or answers are gone or damaged")
            if isinstance(found, FinishedRun):
                finished[key] = found
            else:
                unusable[key] = found
        return finished, unusable

    def sound(self, runs: Mapping[str, FinishedRun]) -> tuple[Finished, Unusable]:
        """Read all metrics and files of runs; return those that are whole, and the others.

        This finds what `finished` cannot see: flipped bits, and metrics that were changed.
        """
        table, changed = self._sound_histories([run.run_id for run in runs.values()])
        last = _last_tests(table)
        good: Finished = {}
        bad: Unusable = {}
        for key, run in runs.items():
            reason = changed.get(run.run_id) or self.files.damage(run.run_id, *last[run.run_id])
            if reason:
                bad[key] = UnusableRun(run.run_id, f"seed {run.seed}", reason)
            else:
                good[key] = run
        return good, bad

    def _contradictions(self, table: pd.DataFrame) -> dict[str, str]:
        """Return why the answers of runs contradict their histories, by run id, where they do."""
        last = _last_tests(table)
        with ThreadPoolExecutor(8) as pool:  # a remote store takes its time over each
            reasons = pool.map(lambda run_id: self.files.contradiction(run_id, *last[run_id]), last)
            return {run_id: why for run_id, why in zip(last, reasons, strict=True) if why}

    def histories(self, run_ids: Sequence[str]) -> pd.DataFrame:
        """Return (run_id, epoch, EPOCH_METRICS) of seed runs, a row per run and epoch.

        Raises LecunAblateError if one was changed after it ended.
        """
        table, changed = self._sound_histories(run_ids)
        for run_id, reason in changed.items():
            raise LecunAblateError(f"run {run_id}: {reason}: `run` its experiment again")
        return table

    def _sound_histories(self, run_ids: Sequence[str]) -> tuple[pd.DataFrame, dict[str, str]]:
        """Return the histories of runs that have one, and why the others have none, by run id."""
        points = self._points_of_client
        if self.connection.has_known_tables:
            points = self._points_of_database
        elif self.connection.is_server:
            points = self._points_of_server
        with self.connection.reading():
            found = points(run_ids)
        long = pd.DataFrame(found, columns=["run_id", "epoch", "metric", "value"])
        changed = unsound_histories(long)
        for run_id in set(run_ids) - set(long.run_id):
            changed[run_id] = "its metrics are gone"
        long = long[~long.run_id.isin(changed)]
        table = long.pivot(index=["run_id", "epoch"], columns="metric", values="value")
        table = table.reindex(columns=list(EPOCH_METRICS))
        counts = {"train_misses": "int64", "test_misses": "int64"}
        table = table.reset_index().rename_axis(columns=None).astype(counts)
        changed |= contradictory_histories(table)
        return table[~table.run_id.isin(changed)], changed

    def _points_of_database(self, run_ids: Sequence[str]) -> list[tuple[str, int, str, float]]:
        columns = SqlMetric.run_uuid, SqlMetric.step, SqlMetric.key, SqlMetric.value
        found: list[tuple[str, int, str, float]] = []
        with sql_store(self._client).engine.connect() as connection:
            for i in range(0, len(run_ids), PAGE):
                some: Any = SqlMetric.run_uuid.in_(run_ids[i : i + PAGE])
                wanted = select(*columns, SqlMetric.is_nan).where(
                    some, SqlMetric.key.in_(EPOCH_METRICS)
                )
                for run_id, epoch, metric, value, is_nan in connection.execute(wanted):
                    found.append((run_id, epoch, metric, math.nan if is_nan else value))
        return found

    def _points_of_server(self, run_ids: Sequence[str]) -> list[tuple[str, int, str, float]]:
        parts = [run_ids[i : i + PAGE] for i in range(0, len(run_ids), PAGE)]
        which = [(part, metric) for part in parts for metric in EPOCH_METRICS]
        store, where = sql_store(self.connection.impatient), self.connection.where
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(
                lambda asked: until_answered(lambda _: histories_at_once(store, *asked), where),
                which,
            )
            points = [point for some in found for point in some]
        numbers = Counter((run_id, metric) for run_id, _, metric, _ in points)
        cut = {run_id for (run_id, _), number in numbers.items() if number >= MOST_POINTS}
        whole = [point for point in points if point[0] not in cut]
        return whole + self._points_of_client(sorted(cut))

    def _points_of_client(self, run_ids: Sequence[str]) -> list[tuple[str, int, str, float]]:
        which = [(run_id, metric) for run_id in run_ids for metric in EPOCH_METRICS]
        with ThreadPoolExecutor(8) as pool:
            histories = pool.map(lambda pair: self._client.get_metric_history(*pair), which)
            return [
                (run_id, point.step, metric, point.value)
                for (run_id, metric), history in zip(which, histories, strict=True)
                for point in history
            ]

    # ---- single runs

    def seed_run(self, run_id: str) -> SeedRun:
        """Return a finished seed run; LecunAblateError if the id is not one of such a run."""
        run = self.connection.run(run_id)
        if run is None:
            raise LecunAblateError(f"no run {run_id!r} in {self.connection.where}")
        tags = run.data.tags
        level, status = tags.get(LEVEL), run.info.status
        if level != Level.RUN or status != "FINISHED":
            got = f"one of level {level}, {status.lower()}" if level else "one of another program"
            raise LecunAblateError(
                f"run {run_id}: expected the finished run of one arm with one seed, got {got} "
                "(runs.csv beside a report holds the ids)"
            )
        found = finished_run(run)
        if isinstance(found, UnusableRun):
            raise LecunAblateError(str(found))
        return SeedRun(
            run_id,
            tags[ARM],
            found.seed,
            tags[KEY],
            dict(run.data.params),
            found.commit,
            found.environment,
        )

    def runs_beginning(self, digits: str) -> list[str]:
        """Return the ids of the runs that begin with some digits, at most two of them."""
        places = [experiment.experiment_id for experiment in self.connection.experiments()]
        every = self.connection.runs(places, f"tags.`{LEVEL}` LIKE '%'")
        hits = (run.info.run_id for run in every if run.info.run_id.startswith(digits))
        return list(itertools.islice(hits, 2))

    def study(self, name_or_id: str) -> str | None:
        """Return the run of a study's latest version, by NAME, NAME/DATA or id; None: no such."""
        if re.fullmatch(r"[0-9a-f]{32}", name_or_id):
            run = self.connection.run(name_or_id)
            return name_or_id if run and run.data.tags.get(LEVEL) == Level.STUDY else None
        found: list[Run] = []
        for experiment in self.connection.experiments():
            own = experiment.tags.get(EXPERIMENT_NAME, experiment.name)
            name = own.removeprefix(STUDIES)
            if own.startswith(STUDIES) and name_or_id in (own, name, name.rsplit("/", 1)[0]):
                found += self.connection.tagged(experiment.experiment_id, {LEVEL: Level.STUDY})
        latest = max(found, key=lambda run: run.info.start_time, default=None)
        return latest.info.run_id if latest else None

    def parents(self, experiment_name: str) -> dict[str, str | None]:
        """Return the runs of an experiment, each with the run that it stands under."""
        experiment_id = self.experiment_id(experiment_name)
        runs = self.connection.tagged(experiment_id, {}) if experiment_id else ()
        return {run.info.run_id: run.data.tags.get(PARENT) for run in runs}


def histories_at_once(
    rest_store: Any, run_ids: Sequence[str], metric: str
) -> list[tuple[str, int, str, float]]:
    """Return (run_id, epoch, metric, value) of at most 100 runs from a tracking server.

    MLflow's client has no method for it, and would take a request for each. A run has MOST_POINTS
    at most: of more, the server leaves some out.
    """
    asked = GetMetricHistoryBulkInterval(
        run_ids=run_ids, metric_key=metric, max_results=MOST_POINTS
    )
    answer = rest_store._call_endpoint(GetMetricHistoryBulkInterval, message_to_json(asked))
    return [(point.run_id, point.step, metric, point.value) for point in answer.metrics]


def _last_tests(table: pd.DataFrame) -> dict[str, tuple[int, float]]:
    """Return test_misses and test_error after the last epoch, by run id."""
    last = table.sort_values("epoch").groupby("run_id").tail(1)
    numbers = zip(last.test_misses, last.test_error, strict=True)
    return dict(zip(last.run_id, numbers, strict=True))


def with_earlier_arms(plan: Plan, tracking_uri: str | None = None) -> Plan:
    """Return a plan with the arms that its path has come to before, as far as there is a store."""
    try:
        return Store(tracking_uri).with_earlier_arms(plan)
    except NoStoreYet:
        return plan


def still_to_do(plan: Plan, tracking_uri: str | None = None) -> list[tuple[str, int]]:
    """Return the (arm, seed) runs of a plan that the store does not have yet."""
    try:
        store = Store(tracking_uri)
    except NoStoreYet:
        return plan.pending(())
    experiment_id = store.experiment_id(plan.tracking_name)
    return plan.pending(store.finished(experiment_id)[0] if experiment_id else ())
