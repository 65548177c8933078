"""Where the MLflow store is. Imports nothing from MLflow."""

from __future__ import annotations

import os
import re
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

    SQLAlchemy takes what follows a '?' in a name for options, and from 2.1 on it reads '%20' as a
    space. With the driver in the address, MLflow does not create the folders that it misreads.
    """
    path = str(database)
    if not immutable and not set("?#%") & set(path):
        return f"sqlite:///{path}"
    from sqlalchemy import make_url

    unquotes = make_url("sqlite:///%20").database == " "
    path = quote(quote(path)) if unquotes else quote(path)  # SQLite unquotes it as well
    options = "mode=ro&immutable=1&uri=true" if immutable else "uri=true"
    return f"sqlite+pysqlite:///file:{path}?{options}"


def folder_uri(folder: Path) -> str:
    """Return what MLflow is told of a folder: its path, or an address if it would misread that."""
    return folder.as_uri() if set("?#%") & set(str(folder)) else str(folder)


def folder_path(uri: str) -> str:
    """Return the path of a folder that MLflow names; what is not on this machine as it is."""
    if not uri.startswith("file:"):
        return uri
    return unquote(urlsplit(uri).path)


def artifact_folder(database: Path) -> Path:
    """Return where the artifacts of a database file are, so that the two can move together."""
    return database.parent / "mlruns"


def database_path(uri: str) -> Path | None:
    """Return the file of a sqlite address, or None for other stores.

    People write paths as they are or quoted, and a path may hold a '?': what exists is meant.
    """
    if not re.match(r"sqlite(\+pysqlite)?:///", uri):
        return None
    written = uri.partition(":///")[2]
    if written.startswith("file:"):  # SQLite's own kind of address
        written = written.removeprefix("file:").split("?")[0]
    short = written.split("?")[0]
    ways = [Path(way) for way in (written, short, unquote(written), unquote(short))]
    there = [path for path in ways if path.is_file()] or [p for p in ways if p.parent.is_dir()]
    return (there or [Path(short)])[0].resolve()


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
