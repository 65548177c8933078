"""Studies in the MLflow store: a run per study, under it a run per trial."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.entities import Metric

from lecun_ablate.interrupts import held_back
from lecun_ablate.tracking.names import PARENT, PLAN
from lecun_ablate.tracking.store import Store, params


@held_back()
def begin_study(
    store: Store, experiment_id: str, name: str, key: str, tags: Mapping[str, str]
) -> str:
    """Return the run of a study, continued or new, RUNNING; `key` tells it from all others."""
    same = store.search(experiment_id, lecun_ablate__level="study", lecun_ablate__plan=key)
    if not same:
        return store.create(experiment_id, name, "study", {PLAN: key, **tags})
    store.client.update_run(same[0].info.run_id, status="RUNNING")
    return same[0].info.run_id


@held_back()
def log_trial(
    store: Store,
    experiment_id: str,
    study: str,
    name: str,
    tags: Mapping[str, str],
    values: Mapping[str, Any],
    history: Mapping[str, Sequence[float]],
) -> str:
    """Write a trial's run, whole; `history` holds each metric's values per epoch, from 1."""
    run_id = store.create(experiment_id, name, "trial", {PARENT: study, **tags})
    now = int(time.time() * 1000)
    points = [
        Metric(metric, float(value), now, epoch)
        for metric, per_epoch in history.items()
        for epoch, value in enumerate(per_epoch, 1)
    ]
    store.log_history(run_id, points, params(values))
    store.client.set_terminated(run_id, "FINISHED")
    return run_id
