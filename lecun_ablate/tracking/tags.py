"""Tags, params and metrics, all of which MLflow's pages let anybody change or delete."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pandas as pd
from mlflow.entities import Run

from lecun_ablate.plan.results import EPOCH_METRICS, RunStatus
from lecun_ablate.tracking.names import (
    ARM,
    COMMIT,
    ENVIRONMENT,
    KEY,
    LAST_RUN,
    LOOKS,
    NOTE,
    PLAN,
    SEEDS,
    STATUS,
    VARIANT,
)
from lecun_ablate.tracking.records import FinishedRun, PlanRecord, UnusableRun


def plan_record(run: Run) -> PlanRecord:
    """Return the record of a plan's run."""
    info, last = run.info, run.data.tags.get(LAST_RUN, "")
    when = int(last) if last.isdecimal() else info.start_time
    looks = _looks(run.data.tags)
    variant = run.data.tags.get(VARIANT, "")
    place, name = info.experiment_id, info.run_name
    return PlanRecord(info.run_id, place, name, info.status, when, looks, variant)


def _looks(tags: dict[str, str]) -> tuple[int, ...]:
    """Return at which numbers of seeds conclusions have been drawn from a plan.

    Stores written before looks were counted tell of the last one: its note, and the seeds then.
    """
    try:
        if LOOKS in tags:
            return tuple(int(seeds) for seeds in json.loads(tags[LOOKS]))
        return (int(tags[SEEDS]),) if NOTE in tags and SEEDS in tags else ()
    except (ValueError, TypeError):
        return ()


SEED = "seed"  # a param
OF_FINISHED_RUNS = (KEY, STATUS, PLAN, ARM, COMMIT, ENVIRONMENT, SEED)  # what `finished_run` reads


def finished_run(run: Run) -> FinishedRun | UnusableRun:
    """Return what results need of a seed run, or why it cannot be used."""
    tags, seed = run.data.tags, run.data.params.get(SEED, "")
    name = f"{tags.get(ARM, 'of no arm')} seed {seed}"
    missing = [tag for tag in (KEY, STATUS, PLAN, ARM) if tag not in tags]
    if missing:
        return UnusableRun(run.info.run_id, name, f"its tag {missing[0]} has been deleted")
    if tags[STATUS] not in set(RunStatus):
        reason = f"its tag {STATUS} has been changed to {tags[STATUS]!r}"
        return UnusableRun(run.info.run_id, name, reason)
    if not seed.isdecimal():
        return UnusableRun(run.info.run_id, name, "its param 'seed' has been deleted or changed")
    return FinishedRun(
        run.info.run_id,
        tags[STATUS],
        tags.get(COMMIT),
        environment(tags),
        int(seed),
        tags[PLAN],
    )


def environment(tags: dict[str, str]) -> dict[str, str]:
    """Return provenance.environment() of a run; empty if its tag is gone or damaged."""
    return _environment(tags.get(ENVIRONMENT, "{}"))


@functools.lru_cache(256)  # thousands of runs share one
def _environment(tag: str) -> dict[str, str]:
    try:
        found: Any = json.loads(tag)
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def unsound_histories(points: pd.DataFrame) -> dict[str, str]:
    """Return which runs do not have every metric exactly once per epoch, and why, by run id.

    `points` has the columns run_id, epoch, metric and value. Such a run has been changed after it
    ended: its numbers are not those of its training.
    """
    found: dict[str, str] = {}
    counts = points.groupby(["run_id", "metric"]).epoch.agg(["count", "nunique", "min", "max"])
    doubled = counts[counts["count"] != counts["nunique"]]
    for run_id, metric in doubled.index:
        found[run_id] = f"its metric {metric} has been logged again after it ended"
    epochs = counts["max"].groupby("run_id").transform("max")
    gaps = counts[(counts["min"] != 1) | (counts["nunique"] != epochs)]
    for run_id, metric in gaps.index:
        found.setdefault(run_id, f"its metric {metric} lacks epochs")
    kinds = counts["count"].groupby("run_id").size()
    for run_id in kinds[kinds != len(EPOCH_METRICS)].index:
        found.setdefault(run_id, "some of its metrics are gone")
    misses = points[points.metric.isin(["train_misses", "test_misses"])]
    whole = misses.value.notna() & (misses.value >= 0) & (misses.value % 1 == 0)
    for run_id in misses[~whole].run_id:
        found.setdefault(run_id, "its misses are not whole numbers")
    return found


def contradictory_histories(table: pd.DataFrame) -> dict[str, str]:
    """Return the runs whose errors are not their misses divided by a number of images, by run id.

    `table` has the columns run_id and EPOCH_METRICS, a row per run and epoch. Such a run has been
    changed as well. The number of images is the one that most of its epochs agree on.
    """
    found: dict[str, str] = {}
    for split in ("train", "test"):
        misses, errors = table[f"{split}_misses"], table[f"{split}_error"]
        images = (misses / errors).groupby(table.run_id).transform("median").round()
        agree = np.isclose(errors * images, misses, rtol=1e-9, atol=0) & errors.between(0, 1)
        none = (errors == 0) & (misses == 0)
        for run_id in table.run_id[~(agree & (misses > 0) | none)]:
            found.setdefault(run_id, f"its metrics {split}_error and {split}_misses disagree")
    return found
