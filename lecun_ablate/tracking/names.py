"""What things are called in MLflow: levels of runs, tags, artifacts."""

from __future__ import annotations

from enum import StrEnum


class Level(StrEnum):
    """What a run in MLflow stands for: the value of the tag LEVEL."""

    EXPERIMENT = "experiment"  # a plan; under it its arms
    ARM = "arm"  # under it a run per seed
    RUN = "run"
    STUDY = "study"  # under it its trials
    TRIAL = "trial"


# tags
LEVEL = "lecun_ablate.level"
KEY = "lecun_ablate.run_key"
ARM = "lecun_ablate.arm"
PLAN = "lecun_ablate.plan"  # the key of a plan, or of a study's version
SEEDS = "lecun_ablate.seeds"
LOOKS = "lecun_ablate.looks"  # of a plan: the numbers of seeds at which conclusions were drawn
STATUS = "lecun_ablate.status"  # how training ended: a RunStatus
ENVIRONMENT = "lecun_ablate.environment"
SUMMARY = "lecun_ablate.summary"  # the fingerprint of an arm's summary
LAST_RUN = "lecun_ablate.last_run"
OWNER = "lecun_ablate.owner"  # on a server: the process that writes a run (lock.identity)
PARENT = "mlflow.parentRunId"
NAME = "mlflow.runName"
COMMIT = "mlflow.source.git.commit"
NOTE = "mlflow.note.content"  # what the UI shows as a run's description, in Markdown

# artifacts
PLAN_FILE = "plan.json"
WEIGHTS, ANSWERS = "weights.npz", "test_predictions.parquet"  # of every seed run

STUDIES = "studies/"  # the names of the MLflow experiments that hold studies begin with this
