"""Runs by their tags, read from the tables of MLflow's database.

MLflow's client makes an object of its database layer for every tag, param and metric. For thousands
of runs that takes longer than everything else that is done with them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, Run, RunData, RunInfo, RunTag
from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlParam, SqlRun, SqlTag
from sqlalchemy import Connection, select

from lecun_ablate.tracking.sqlite import sql_store

PAGE = 500  # runs at a time: SQLite takes at most 999 values in a query, by default


def tagged_runs(
    client: MlflowClient,
    experiment_id: str,
    tags: Mapping[str, str],
    only: Collection[str] | None = None,
    page: int = PAGE,
) -> Iterator[list[Run]]:
    """Yield what the client's `search_runs` would, page by page, without inputs: the newest first.

    Deleted runs are left out. `only`: of their tags and params those with these keys are read, and
    no metrics, which takes a fraction of the time. Only for stores that
    `Connection.has_known_tables`.
    """
    wanted: Any = select(*_INFO).where(
        SqlRun.experiment_id == int(experiment_id),
        SqlRun.lifecycle_stage == LifecycleStage.ACTIVE,
    )
    for key, value in tags.items():
        having: Any = select(SqlTag.run_uuid).where(SqlTag.key == key, SqlTag.value == value)
        wanted = wanted.where(SqlRun.run_uuid.in_(having))
    wanted = wanted.order_by(SqlRun.start_time.desc(), SqlRun.run_uuid)
    engine = sql_store(client).engine
    with engine.connect() as connection:
        rows = connection.execute(wanted).all()
    for i in range(0, len(rows), page):
        with engine.connect() as connection:
            runs = list(_runs(connection, rows[i : i + page], only))
        yield runs  # the caller may write meanwhile


_INFO = (
    SqlRun.run_uuid,
    SqlRun.experiment_id,
    SqlRun.user_id,
    SqlRun.status,
    SqlRun.start_time,
    SqlRun.end_time,
    SqlRun.lifecycle_stage,
    SqlRun.artifact_uri,
    SqlRun.name,
)


def _runs(connection: Connection, rows: list[Any], only: Collection[str] | None) -> Iterator[Run]:
    ids = [row[0] for row in rows]

    def of_runs(table: Any, *columns: Any) -> Iterator[Any]:
        wanted = select(table.run_uuid, table.key, *columns).where(table.run_uuid.in_(ids))
        if only is not None:
            wanted = wanted.where(table.key.in_(only))
        return iter(connection.execute(wanted))

    tags: dict[str, list[RunTag]] = defaultdict(list)
    for run_id, key, value in of_runs(SqlTag, SqlTag.value):
        tags[run_id].append(RunTag(key, value))
    params: dict[str, list[Param]] = defaultdict(list)
    for run_id, key, value in of_runs(SqlParam, SqlParam.value):
        params[run_id].append(Param(key, value))
    metrics: dict[str, list[Metric]] = defaultdict(list)
    if only is None:
        latest = SqlLatestMetric
        point = (latest.value, latest.is_nan, latest.timestamp, latest.step)
        for run_id, key, value, is_nan, time, step in of_runs(latest, *point):
            metrics[run_id].append(Metric(key, math.nan if is_nan else value, time, step))
    for run_id, place, user, status, began, ended, stage, artifacts, name in rows:
        info = RunInfo(
            run_id,
            str(place),
            user,
            status,
            began,
            ended,
            stage,
            artifact_uri=artifacts,
            run_name=name,
        )
        yield Run(info, RunData(metrics[run_id], params[run_id], tags[run_id]))
