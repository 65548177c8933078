"""Fair, paired, reproducible ablations of LeCun's 1989 zip-code network."""

import logging
import os
from typing import Any

from lecun_ablate.registry import register

# MLflow reads its environment while it is imported
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
logging.getLogger("alembic").setLevel(logging.WARNING)

__version__ = "0.1.0"
__all__ = ["comparisons", "load_results", "register", "report", "run", "show", "study"]


def __getattr__(name: str) -> Any:
    """Import the heavy entry points only when they are used."""
    if name in __all__:
        from lecun_ablate import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
