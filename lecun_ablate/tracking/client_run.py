"""A run that has ended, written through MLflow's client in as few requests as it takes.

Each step may be repeated: MLflow takes a metric with the same time, step and value, a param with
the same value, an input and a file once only. So a run whose writing broke off is completed by
writing all of it again.
"""

from __future__ import annotations

from collections.abc import Callable

from mlflow import MlflowClient
from mlflow.entities import RunInfo

from lecun_ablate.tracking.ended_run import EndedRun, params
from lecun_ablate.tracking.names import REQUEST

BATCH = 1000  # metrics that MLflow takes at once

Upload = Callable[[RunInfo], None]  # writes the files of a run


def write_once(client: MlflowClient, run: EndedRun, request: str, again: bool, put: Upload) -> None:
    """Write a run that no other has the tag REQUEST = `request` of.

    `again`: it may have been written before, in part or whole, so that is looked up first.
    """
    if again:
        there = f"tags.`{REQUEST}` = '{request}'"
        for found in client.search_runs([run.experiment_id], there):
            if found.info.status != "FINISHED":
                complete(client, found.info, run, put)
            return
    tags = {**run.tags, REQUEST: request}
    created = client.create_run(run.experiment_id, run.started, tags, run.name)
    complete(client, created.info, run, put)


def complete(client: MlflowClient, info: RunInfo, run: EndedRun, put: Upload) -> None:
    """Write all of a run that has been created; its status, by which it counts, comes last."""
    metrics = run.metrics
    client.log_batch(info.run_id, metrics=metrics[:BATCH], params=params(run.values))
    for i in range(BATCH, len(metrics), BATCH):
        client.log_batch(info.run_id, metrics=metrics[i : i + BATCH])
    if run.data:
        client.log_inputs(info.run_id, [run.data])
    put(info)
    client.set_terminated(info.run_id, "FINISHED", run.ended)
