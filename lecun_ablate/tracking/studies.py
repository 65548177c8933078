"""Studies in the MLflow store: a run per study, under it a run per trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lecun_ablate.system.interrupts import held_back
from lecun_ablate.tracking.ended_run import EndedRun
from lecun_ablate.tracking.names import PARENT, PLAN
from lecun_ablate.tracking.store import Store


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
    tags = {PARENT: study, **tags}
    return store.write(EndedRun(experiment_id, name, tags, values, history), "trial", {})
