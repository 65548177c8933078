"""Writing runs: what takes the place of MLflow's own slow ways leaves the same behind."""

import math

import pytest
from mlflow.entities import Metric, Param

from lecun_ablate.mlflow_sqlite import insert_history, sql_store
from lecun_ablate.tracking import Store

VALUES = {"loss": [0.5, 0.25, 0.125], "error": [math.nan, math.inf, -math.inf], "misses": [3.0]}


@pytest.fixture
def store(workplace):
    with Store.writing() as store:
        yield store


def test_metrics_and_params_are_stored_as_mlflow_would(store):
    experiment_id = store.ensure_experiment("any/tiny")
    points = [
        Metric(name, value, 1_000 + step, step)
        for name, values in VALUES.items()
        for step, value in enumerate(values, 1)
    ]
    theirs, ours = (store.client.create_run(experiment_id).info.run_id for _ in range(2))
    params = [Param("lr", "0.03"), Param("activation", "tanh")]
    store.client.log_batch(theirs, metrics=points, params=params)
    insert_history(store.client, ours, points, params)
    for name, values in VALUES.items():
        histories = [
            [(p.value, p.timestamp, p.step) for p in store.client.get_metric_history(run_id, name)]
            for run_id in (theirs, ours)
        ]
        assert repr(histories[0]) == repr(histories[1])
        assert len(histories[1]) == len(values)
    data = [store.client.get_run(run_id).data for run_id in (theirs, ours)]
    assert repr(sorted(data[0].metrics.items())) == repr(sorted(data[1].metrics.items()))
    assert data[0].params == data[1].params == {"lr": "0.03", "activation": "tanh"}


def test_a_writer_waits_for_the_disk_at_checkpoints_only(store):
    with sql_store(store.client).engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1  # NORMAL
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_artifacts_lie_where_mlflow_looks_for_them(store):
    experiment_id = store.ensure_experiment("any/tiny")
    run_id = store.client.create_run(experiment_id).info.run_id
    store.put(run_id, {"notes.txt": "Zürich", "parts/weights.npz": b"\x00\x01"})
    listed = [entry.path for entry in store.client.list_artifacts(run_id)]
    assert listed == ["notes.txt", "parts"]
    assert store.text(run_id, "notes.txt") == "Zürich"
    assert store.bytes(run_id, "parts/weights.npz") == b"\x00\x01"
