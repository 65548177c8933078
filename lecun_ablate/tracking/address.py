"""Where the MLflow store is. Imports nothing from MLflow."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from lecun_ablate.errors import LecunAblateError

DATABASE = "mlflow.db"


def address(uri: str | None = None) -> str:
    """Return `uri`, else MLFLOW_TRACKING_URI, else ./mlflow.db; refuse what MLflow cannot open."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DATABASE}"
    refuse_file_store(uri)
    return uri


def artifact_folder(database: Path) -> Path:
    """Return where the artifacts of a database file are, so that the two can move together."""
    return database.parent / "mlruns"


def database_path(uri: str) -> Path | None:
    """Return the file of a sqlite address, or None for other stores."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").split("?")[0]).resolve()


def refuse_file_store(uri: str) -> None:
    """Raise if an old MLflow file store would make the client and the UI fail."""
    if urlsplit(uri).scheme in ("", "file"):
        raise LecunAblateError(
            f"MLFLOW_TRACKING_URI={uri}: MLflow no longer writes file stores: use "
            f"sqlite:///{DATABASE} or a server"
        )
    database = database_path(uri)
    if database is None:
        return
    folder = artifact_folder(database)
    for meta in folder.glob("*/meta.yaml"):
        if meta.parent.name.isdigit():
            raise LecunAblateError(
                f"{meta}: {folder} holds the store of an old MLflow version, which keeps MLflow's "
                f"client and its UI from starting: move {folder} away, or convert it with "
                "`mlflow migrate-filestore`"
            )
