"""Why a store failed, and what helps: from the errors of SQLite, servers and MLflow to words."""

from __future__ import annotations

import re
from pathlib import Path

from lecun_ablate.system.passwords import without_passwords

LONGEST = 300  # characters of a reason


def reason(error: BaseException) -> str:
    """Return what lies at the bottom of an error, on one line.

    SQLAlchemy and MLflow wrap the error that says what has happened in others that do not.
    """
    chain = [error]
    while (below := _below(chain[-1])) is not None and below not in chain:
        chain.append(below)
    texts = [text for one in reversed(chain) if (text := _plain(one))]
    return texts[0] if texts else type(error).__name__


def _below(error: BaseException) -> BaseException | None:
    origin = getattr(error, "orig", None)  # of SQLAlchemy's
    if isinstance(origin, BaseException):
        return origin
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _plain(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f": {error.filename}" if error.filename else "")
    text = re.split(r"\[SQL:|\(Background on this error", text)[0]
    text = re.sub(r"^\(raised as a result of Query-invoked autoflush;[^)]*\)\s*", "", text)
    return without_passwords(" ".join(text.split()))[:LONGEST]


WAYS_OUT = (  # the first whose words stand in the reason
    (
        ("disk is full", "no space left", "quota"),
        "free some space, then run the same command again: what had finished is kept",
    ),
    (
        ("locked", "busy"),
        "another program is writing to it: wait until it has ended, then run the same command "
        "again",
    ),
    (
        ("malformed", "not a database", "encrypted", "database corruption"),
        "the file is damaged, and is left as it is: `python -m lecun_ablate doctor` says what can "
        "be saved",
    ),
    (
        ("readonly", "read-only", "permission denied", "unable to open database"),
        "make the file and its folder writable, or work on a copy of the folder",
    ),
    (
        ("disk i/o error", "input/output error"),
        "the disk or the network file system reports an error: see to that first",
    ),
    (
        ("out-of-date database schema", "can't locate revision"),
        "it is of another version of MLflow: `mlflow db upgrade` brings an older one up to date",
    ),
    (
        ("no such revision or branch",),
        "it is the database of another program, such as Optuna: MLflow needs one of its own",
    ),
    (("too many open files",), "raise the limit: `ulimit -n 256`"),
)


def way_out(reason: str, server: bool) -> str:
    """Return what helps against a reason; nothing that would take results out of sight."""
    low = reason.lower()
    for words, advice in WAYS_OUT:
        if any(word in low for word in words):
            return advice
    if server:
        return "is the server running? What had finished is kept: run the same command again"
    return "what had finished is kept: run the same command again"


def recovery(database: Path) -> str:
    """Return the commands that save what can be read of a damaged SQLite file."""
    new = database.with_name("recovered.db")
    return f"sqlite3 '{database}' .recover | sqlite3 '{new}'"
