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
ANSWER = "lecun_ablate.answer"  # what has been found, in a line
VARIANT = "lecun_ablate.variant"  # the options that change what the file says, if any
OWNER = "lecun_ablate.owner"  # on a server: the process that writes a run (lock.identity)
LEASE = "lecun_ablate.lease"  # of an MLflow experiment on a server: see lease
REQUEST = "lecun_ablate.request"  # on a server: what made a run, so that it is made once
PARENT = "mlflow.parentRunId"
NAME = "mlflow.runName"
COMMIT = "mlflow.source.git.commit"
NOTE = "mlflow.note.content"  # what the UI shows as a run's description, in Markdown
LONGEST_NOTE = 5000  # characters of it that MLflow takes for an experiment

# artifacts
PLAN_FILE = "plan.json"
RUN_FILE = "run.json"  # of a seed run beside an SQLite file: see kept_run
MODULES = "modules"  # the folder of what a run's own components import
WEIGHTS, ANSWERS = "weights.npz", "test_predictions.parquet"  # of every seed run

# MLflow experiments have a title for people, and a tag with the name by which they are found: that
# of an experiment and its data, NAME/DATA, or of a study, studies/NAME/DATA
EXPERIMENT_NAME = "lecun_ablate.name"
STUDIES = "studies/"


def title(name: str) -> str:
    """Return what an MLflow experiment is called in the UI.

    Without a slash: the UI's breadcrumb shows only what stands behind the last one.
    """
    what, data = name.removeprefix(STUDIES).rsplit("/", 1)
    return f"{what}{' study' if name.startswith(STUDIES) else ''} ({data})"
