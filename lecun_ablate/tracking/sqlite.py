"""MLflow's store in an SQLite file: how ours differs from what MLflow makes of it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlRun
from sqlalchemy import event, select, update

from lecun_ablate.tracking.address import artifact_folder, folder_path, folder_uri


def sql_store(client: MlflowClient) -> Any:
    """Return the SqlAlchemyStore behind a client: MLflow's own ways to it are many times slower."""
    return client._tracking_client.store


def keep_artifacts_beside(client: MlflowClient, database: Path) -> None:
    """Let new experiments keep their artifacts beside the database, wherever this runs."""
    sql_store(client).artifact_root_uri = folder_uri(artifact_folder(database))


def follow_moved_artifacts(client: MlflowClient, database: Path) -> None:
    """Where the database and its artifacts were moved or copied, correct MLflow's absolute paths.

    Else its UI would look for them, and would keep those of new runs, where they have been.
    """
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
