"""What a store holds: its experiments and studies, in a line each, and how one is deleted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from mlflow.entities import Run

from lecun_ablate.errors import LecunAblateError, nearest
from lecun_ablate.tracking.names import (
    ANSWER,
    EXPERIMENT_NAME,
    LAST_RUN,
    LEVEL,
    NOTE,
    SEEDS,
    STUDIES,
    VARIANT,
    Level,
    title,
)
from lecun_ablate.tracking.store import Store
from lecun_ablate.tracking.writer import Writer


@dataclass(frozen=True)
class Entry:
    """A plan of an experiment, or a version of a study. `arms` and `seeds` may be unknown."""

    kind: str  # "experiment" or "study"
    name: str
    data: str
    variant: str  # the options that change what the file says, if any
    arms: int | None
    seeds: int | None
    last_run: float  # seconds since 1970
    status: str  # MLflow's, in lower case: running, finished, failed or killed
    answer: str
    run_id: str


@dataclass(frozen=True)
class Doomed:
    """What `delete` would delete."""

    name: str  # the package's own
    title: str  # in MLflow
    experiment_id: str
    runs: int


def entries(store: Store) -> list[Entry]:
    """Return what a store holds, what was run last first."""
    found = []
    for experiment in store.connection.experiments():
        name = experiment.tags.get(EXPERIMENT_NAME, experiment.name)
        if "/" in name:
            found += [_entry(name, run) for run in _tops(store, experiment.experiment_id)]
    return sorted(found, key=lambda entry: entry.last_run, reverse=True)


def _tops(store: Store, experiment_id: str) -> Iterator[Run]:
    for level in (Level.EXPERIMENT, Level.STUDY):
        yield from store.connection.tagged(experiment_id, {LEVEL: level})


def _entry(name: str, run: Run) -> Entry:
    tags, metrics = run.data.tags, run.data.metrics
    what, data = name.removeprefix(STUDIES).rsplit("/", 1)
    seeds = tags.get(SEEDS)
    return Entry(
        kind="study" if name.startswith(STUDIES) else "experiment",
        name=what,
        data=data,
        variant=tags.get(VARIANT, ""),
        arms=int(metrics["arms"]) if "arms" in metrics else None,
        seeds=int(seeds) if seeds else None,
        last_run=int(tags.get(LAST_RUN, run.info.start_time)) / 1000,
        status=run.info.status.lower(),
        answer=tags.get(ANSWER) or tags.get(NOTE, "").split("\n")[0],
        run_id=run.info.run_id,
    )


def doomed(store: Store, name: str) -> Doomed:
    """Return what is to be deleted: an experiment, or a study as `studies/NAME`.

    `name` may leave out the data set if there is only one. Raises LecunAblateError if it means no
    experiment, or several.
    """
    by_name = {e.tags.get(EXPERIMENT_NAME, e.name): e for e in store.connection.experiments()}
    ours = {key: e for key, e in by_name.items() if "/" in key}
    hits = [key for key in ours if name in (key, key.rsplit("/", 1)[0])]
    if not hits:
        known = nearest(name, ours) if ours else "the store holds none yet"
        raise LecunAblateError(f"no experiment {name!r}: {known}")
    if len(hits) > 1:
        raise LecunAblateError(f"{name!r} is not one experiment: say which of {', '.join(hits)}")
    found = ours[hits[0]]
    runs = sum(1 for _ in store.connection.tagged(found.experiment_id, {}))
    return Doomed(hits[0], found.name, str(found.experiment_id), runs)


def delete(writer: Writer, what: Doomed) -> None:
    """Delete an experiment as MLflow does: it is hidden, and can be restored.

    It gives its name away, so that the next run of the same name starts afresh.
    """
    stamp = time.strftime("%Y%m%dT%H%M%S")
    before, data = what.name.rsplit("/", 1)
    name = f"{before}-deleted-{stamp}/{data}"
    with writer.writing():
        writer.describe_experiment(what.experiment_id, {EXPERIMENT_NAME: name})
        writer.client.rename_experiment(what.experiment_id, title(name))
        writer.client.delete_experiment(what.experiment_id)
