"""An empty MLflow store, made by another process while this one imports what it needs."""

from __future__ import annotations

import atexit
import contextlib
import gc
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from lecun_ablate.errors import LecunAblateError
from lecun_ablate.system import disk
from lecun_ablate.system.cores import usable_cores
from lecun_ablate.tracking.address import address, artifact_folder, database_path, folder_uri
from lecun_ablate.tracking.explain import reason

_makers: dict[Path, subprocess.Popen[bytes]] = {}  # by the database that they make


def begin(uri: str | None = None) -> None:
    """Start making a store for `create`, if there is none yet and there is a core to spare."""
    database = database_path(address(uri))
    if database is None or database.exists() or usable_cores() == 1:
        return
    for place in list(_makers):  # of a command that failed before it needed its store
        _makers.pop(place).terminate()
    with contextlib.suppress(OSError):  # if no process can be started, `create` makes it here
        maker = subprocess.Popen(
            [sys.executable, "-m", __name__, folder_uri(artifact_folder(database))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        _makers[database] = maker
        atexit.register(maker.terminate)  # if the command ends before it needs a store


def create(database: Path) -> None:
    """Create an empty store. It appears under its name only when it is whole."""
    artifacts = artifact_folder(database)
    try:
        artifacts.mkdir(exist_ok=True)
        disk.write(database, _made(database) or make(folder_uri(artifacts)))
    except Exception as error:  # SQLite, SQLAlchemy and MLflow each have errors of their own
        raise LecunAblateError(f"{database}: cannot be created: {reason(error)}") from error


def _made(database: Path) -> bytes | None:
    maker = _makers.pop(database, None)
    if maker is None:
        return None
    content, _ = maker.communicate()
    return None if maker.returncode else content


def make(artifacts: str) -> bytes:
    """Return the content of an empty store; `artifacts` is the address of their folder."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder, "mlflow.db")
        store = SqlAlchemyStore(f"sqlite:///{database}", artifacts)
        store.engine.dispose()
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # persists; makes writes faster
        return database.read_bytes()


if __name__ == "__main__":
    gc.disable()  # short-lived
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no file is left
    sys.stdout.buffer.write(make(sys.argv[1]))
