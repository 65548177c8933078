"""MLflow's store in a database: what we do to its tables behind MLflow's back, and when.

Writing a run through MLflow's client takes ten times as long as inserting its rows, and reading
it five times as long. But the tables are private to MLflow, so only those that the tests have
compared are touched.
"""

from __future__ import annotations

import functools
import logging
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlRun
from sqlalchemy import event, select, text, update

from lecun_ablate.tracking.address import artifact_folder, folder_path, folder_uri

# The schema revisions (alembic_version) for which tests/tracking/test_tracking.py found that our
# rows equal those of MLflow's client, and the MLflow that it ran with.
TESTED_REVISIONS = {
    "1b5f0d9ad7c1": "3.10.0",
    "c3d6457b6d8a": "3.11.1",
    "7d34483879f0": "3.12.0",
    "da6fb0208061": "3.13.0",
    "b7e4c1a90f23": "3.14.0",
    "6f8d9c3b2a1e": "3.15.0",
    "b7e2c1a4d9f3": "3.16.0",
    "dc11669786a5": "3.17.0",
}


def sql_store(client: MlflowClient) -> Any:
    """Return the SqlAlchemyStore behind a client: MLflow's own ways to it are many times slower."""
    return client._tracking_client.store


@functools.lru_cache(maxsize=8)
def tables_are_known(client: MlflowClient) -> bool:
    """Tell whether the database has a schema that we may use without MLflow's client.

    If it has not, a warning says so, once per process.
    """
    with sql_store(client).engine.connect() as connection:
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    known = len(found) == 1 and found[0] in TESTED_REVISIONS
    if not known:
        _warn_of_unknown_tables(", ".join(found) or "none")
    return known


@functools.cache
def _warn_of_unknown_tables(revision: str) -> None:
    logging.getLogger(__name__).warning(
        "NOTICE: MLflow %s gives its database schema revision %s, with which this version of "
        "lecun_ablate has not been tested. Runs therefore go through MLflow's client: the "
        "results are the same, but it takes longer. If the database has been moved, `mlflow ui` "
        "looks for the files of runs in the old place.",
        mlflow.__version__,
        revision,
    )


def keep_artifacts_beside(client: MlflowClient, database: Path) -> None:
    """Let new experiments keep their artifacts beside the database, wherever this runs."""
    sql_store(client).artifact_root_uri = folder_uri(artifact_folder(database))


def follow_moved_artifacts(client: MlflowClient, database: Path) -> None:
    """Where the database and its artifacts were moved or copied, correct MLflow's absolute paths.

    Otherwise its UI looks for them, and puts those of new runs, in the old place.
    """
    if not tables_are_known(client):
        return
    beside = artifact_folder(database)
    with sql_store(client).engine.begin() as connection:
        places = connection.execute(
            select(SqlExperiment.experiment_id, SqlExperiment.artifact_location)
        )
        for experiment_id, old in places.all():
            new = beside / str(experiment_id)
            was = folder_path(old)
            if urlsplit(was).scheme or Path(was).is_relative_to(beside) or not new.is_dir():
                continue
            of_experiment = SqlExperiment.experiment_id == experiment_id
            connection.execute(
                update(SqlExperiment).where(of_experiment).values(artifact_location=folder_uri(new))
            )
            runs = connection.execute(
                select(SqlRun.run_uuid, SqlRun.artifact_uri)
                .where(SqlRun.experiment_id == experiment_id)
                .where(SqlRun.artifact_uri.startswith(old, autoescape=True))
            )
            for run_id, place in runs.all():
                if (new / run_id).is_dir():  # else its files have stayed where they were
                    there = folder_uri(new) + place[len(old) :]
                    of_run = SqlRun.run_uuid == run_id
                    connection.execute(update(SqlRun).where(of_run).values(artifact_uri=there))


def close(client: MlflowClient) -> None:
    """Close all connections, so that SQLite moves into the file what stands in its log."""
    sql_store(client).engine.dispose()


def sync_less(client: MlflowClient) -> None:
    """Let SQLite wait for the disk at its checkpoints only, not at every commit.

    In WAL mode that loses nothing when a process is killed. When the power fails, the commits since
    the last sync may be gone (see GroupSync), the last ones first.
    """
    engine = sql_store(client).engine
    if not event.contains(engine, "connect", _set_normal_synchronous):
        event.listen(engine, "connect", _set_normal_synchronous)
        engine.dispose()  # connections that are open already


def _set_normal_synchronous(connection: sqlite3.Connection, _: Any) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")
