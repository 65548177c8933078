"""What things are called in MLflow: tags, metrics, artifacts."""

from __future__ import annotations

LEVEL, KEY, ARM, PLAN, SEEDS, STATUS, ENVIRONMENT, SUMMARY, LAST_RUN = (
    f"lecun_ablate.{name}"
    for name in (
        "level",
        "run_key",
        "arm",
        "plan",
        "seeds",
        "status",
        "environment",
        "summary",
        "last_run",
    )
)
PARENT, NAME, COMMIT = "mlflow.parentRunId", "mlflow.runName", "mlflow.source.git.commit"
NOTE = "mlflow.note.content"  # what the UI shows as a run's description, in Markdown
EPOCH_METRICS = (
    "train_loss",
    "train_error",
    "train_misses",
    "test_loss",
    "test_error",
    "test_misses",
    "epoch_seconds",
)
STUDIES = "studies/"  # begins the names of the MLflow experiments that hold studies
PLAN_FILE = "plan.json"
WEIGHTS, ANSWERS = "weights.npz", "test_predictions.parquet"  # every seed run's own
