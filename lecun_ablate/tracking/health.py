"""Whether an SQLite file is a whole MLflow store: asked before MLflow opens it.

MLflow makes a store of any file that has no tables, and tries a damaged one again for minutes.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from lecun_ablate.errors import LecunAblateError
from lecun_ablate.tracking.address import artifact_folder
from lecun_ablate.tracking.explain import recovery, way_out

LOCK_SECONDS = 5.0  # to wait for another program that is writing
HEADER = b"SQLite format 3\0"
TABLES = {"alembic_version", "experiments", "runs", "tags", "params", "metrics", "latest_metrics"}


def refuse_damaged(database: Path, thoroughly: bool = False) -> None:
    """Raise LecunAblateError if a file is no MLflow store, or is damaged; change nothing.

    `thoroughly` has SQLite check all of it, which takes about a second per 300 MB.
    """
    try:
        with open(database, "rb") as file:
            beginning = file.read(len(HEADER))
    except OSError as error:
        raise LecunAblateError(f"{database}: cannot be read: {error.strerror}") from None
    if not beginning:
        raise LecunAblateError(
            f"{database}: is empty: expected an MLflow store, got a file of 0 bytes"
            f"{_left(database)}; put back a copy of it, or delete it to start anew"
        )
    if beginning != HEADER:
        raise LecunAblateError(
            f"{database}: is no database: expected an SQLite file, got one that begins with "
            f"{beginning!r}{_left(database)}; put back a copy of it"
        )
    try:
        immutable = not writable(database)  # where SQLite cannot make its log
        with contextlib.closing(read_only(database, immutable)) as connection:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            found = {name for (name,) in rows.fetchall()}
            check = connection.execute("PRAGMA quick_check(3)").fetchall() if thoroughly else []
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # locked, unreadable: said later
            return
        raise _damaged(database, str(error)) from None
    if any(line != ("ok",) for line in check):
        raise _damaged(database, "; ".join(" ".join(str(line).split()) for (line,) in check)[:300])
    if missing := TABLES - found:
        what = "holds no tables" if not found else f"lacks the tables {', '.join(sorted(missing))}"
        raise LecunAblateError(
            f"{database}: is no MLflow store: it {what}; if an interrupted `mlflow` command left "
            f"it unfinished, delete it{_left(database)}"
        )


def writable(database: Path) -> bool:
    """Tell whether a file and its folder, where SQLite keeps its log, can be written."""
    return all(os.access(place, os.W_OK) for place in (database, database.parent))


def refuse_unwritable(database: Path) -> None:
    """Raise LecunAblateError if a file cannot be written, or SQLite's log not beside it.

    MLflow would find out as well, after minutes, and each time it writes.
    """
    if not writable(database):
        raise LecunAblateError(
            f"{database}: cannot be written: make the file and its folder writable, or work on a "
            "copy of the folder (`show` needs to write nothing)"
        )

    try:
        with contextlib.closing(
            sqlite3.connect(database, timeout=LOCK_SECONDS, isolation_level=None)
        ) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        help = way_out(str(error), server=False)
        raise LecunAblateError(f"{database}: cannot be written: {error}; {help}") from None


def unknown_runs(database: Path) -> dict[str, Path]:
    """Return the seed runs whose files lie beside a database that does not know them.

    They are run ids, each with its folder of artifacts.
    """
    beside = runs_with_files(database)
    with contextlib.closing(read_only(database)) as connection:
        known = {run_id for (run_id,) in connection.execute("SELECT run_uuid FROM runs")}
    return {run_id: folder for run_id, folder in beside.items() if run_id not in known}


def read_only(database: Path, immutable: bool = False) -> sqlite3.Connection:
    """Open an SQLite file for reading only; `immutable` reads one that nobody can write."""
    more = "&immutable=1" if immutable else ""
    return sqlite3.connect(f"file:{quote(str(database))}?mode=ro{more}", uri=True, timeout=20)


def runs_with_files(database: Path) -> dict[str, Path]:
    """Return the seed runs whose files lie beside a database, known to it or not.

    They are run ids, each with its folder of artifacts.
    """
    weights = artifact_folder(database).glob("*/*/artifacts/weights.npz")
    return {file.parents[1].name: file.parent for file in sorted(weights)}


def _left(database: Path) -> str:
    number = len(runs_with_files(database))
    return f" ({artifact_folder(database)} has the files of {number} runs)" if number else ""


def _damaged(database: Path, why: str) -> LecunAblateError:
    return LecunAblateError(
        f"{database}: is damaged: {why}{_left(database)}; it is left as it is. Put back a copy of "
        f"it, or save what can be read: {recovery(database)}"
    )
