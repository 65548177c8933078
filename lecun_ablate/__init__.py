"""Fair, paired, reproducible ablations of LeCun's 1989 zip-code network."""

import logging
import os

from lecun_ablate.registry import register

# MLflow looks at its environment while it is imported
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
logging.getLogger("alembic").setLevel(logging.WARNING)

__version__ = "0.1.0"
__all__ = ["load_results", "register", "run"]


def __getattr__(name: str):
    """Import the heavy entry points only when they are asked for."""
    if name in ("run", "load_results"):
        from lecun_ablate import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
