"""Where the MLflow store is. Imports nothing from MLflow."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from lecun_ablate.errors import LecunAblateError

DATABASE = "mlflow.db"


def address(uri: str | None = None) -> str:
    """Return `uri`, else MLFLOW_TRACKING_URI, else ./mlflow.db; refuse what MLflow cannot open."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DATABASE}"
    refuse_file_store(uri)
    return uri


def sqlite_uri(database: Path, immutable: bool = False) -> str:
    """Return the address by which SQLAlchemy opens a file; `immutable`: one that nobody can write.

    SQLAlchemy takes what follows a '?' in a name for options, so such names are quoted.
    """
    path = str(database)
    if not immutable and not set("?#%") & set(path):
        return f"sqlite:///{path}"
    options = "mode=ro&immutable=1&uri=true" if immutable else "uri=true"
    return f"sqlite:///file:{quote(path)}?{options}"


def artifact_folder(database: Path) -> Path:
    """Return where the artifacts of a database file are, so that the two can move together."""
    return database.parent / "mlruns"


def database_path(uri: str) -> Path | None:
    """Return the file of a sqlite address, or None for other stores."""
    if not uri.startswith("sqlite:///"):
        return None
    path = uri.removeprefix("sqlite:///")
    if path.startswith("file:"):  # SQLite's own kind of address
        path = unquote(path.removeprefix("file:").split("?")[0])
    elif not Path(path).exists():  # a name may hold a '?'
        path = path.split("?")[0]
    return Path(path).resolve()


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
