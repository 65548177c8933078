"""Optuna's storage: an SQLite file by default, a journal file, or any database server."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sqlite3
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from lecun_ablate.errors import LecunAblateError
from lecun_ablate.system import disk
from lecun_ablate.system.lock import held, server_place
from lecun_ablate.system.passwords import without_passwords
from lecun_ablate.system.postgres_lock import exclusive_in_postgres
from lecun_ablate.tracking.explain import reason, way_out

optuna.logging.set_verbosity(optuna.logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", category=ExperimentalWarning)


def file_of(url: str) -> Path | None:
    """Return the file of a storage, None for a server. Without '://' it is a journal file.

    Raises LecunAblateError if it is not a valid address.
    """
    if "://" not in url:
        return Path(url)
    parts = _parts(url)
    database = parts.database if parts.get_backend_name() == "sqlite" else None
    in_file = database is not None and database != ":memory:"
    return Path(database.removeprefix("file:")) if database and in_file else None


def _parts(url: str) -> URL:
    with explained(url):
        return make_url(url)


def _lock_of(url: str, study: str) -> Path | str:
    """Return the lock of a study in a storage, the same for all addresses of that storage."""
    file = file_of(url)
    if file is not None:
        name = re.sub(r"[^\w.-]", "_", study)
        file = file.resolve()
        return file.with_name(f"{file.name}.{name}.lock")
    parts = _parts(url)
    place = server_place(parts.get_backend_name(), parts.host, parts.port, parts.database)
    return f"{place} {study}"


def open_storage(url: str) -> BaseStorage | None:
    """Open a storage for reading; None if its file does not exist yet.

    Raises LecunAblateError if it cannot be opened.
    """
    file = file_of(url)
    if file is not None and not file.exists():
        return None
    with explained(url):
        if "://" in url:
            return RDBStorage(url, skip_compatibility_check=False)
        _refuse_damaged_journal(Path(url))
        # the lock of a killed process is taken over after the grace period
        lock = JournalFileOpenLock(url, grace_period=5)
        return JournalStorage(JournalFileBackend(url, lock_obj=lock))


@contextlib.contextmanager
def driving(url: str, study: str) -> Iterator[BaseStorage]:
    """Open a storage, creating it if necessary, as the only driver of a study.

    That holds on this machine; in PostgreSQL, on all machines. Raises LecunAblateError if another
    process drives it, or the storage cannot be opened.
    """
    file, what = file_of(url), f"the study {study}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(held(_lock_of(url, study), what))
        if file is None and _parts(url).get_backend_name() == "postgresql":
            with explained(url):
                stack.enter_context(exclusive_in_postgres(url, f"study {study}", what))
        if file is not None and not file.exists() and "://" in url:
            _create_database(file)
        elif file is not None and "://" not in url:
            _create_journal(file)
        with explained(url):
            storage = open_storage(url)
            assert storage is not None
            yield storage


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn the errors of a storage into a LecunAblateError that names it."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, ImportError, RuntimeError, ValueError) as error:
        if isinstance(error, RuntimeError | ValueError) and not _of_storage(error):
            raise
        what = str(error).strip().split("\n")[0]
        if isinstance(error, StorageInternalError) and error.__cause__:
            why = reason(error)  # Optuna's own message blames the data
            what = f"{why}; {way_out(why, server=not url.startswith('sqlite'))}"
        raise LecunAblateError(without_passwords(f"Optuna storage {url}: {what}")) from error


def _of_storage(error: BaseException) -> bool:
    """Return whether an error comes from Optuna's storages, not all of whose errors have a type."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    if trace is None:
        return False
    return f"optuna{os.sep}storages" in trace.tb_frame.f_code.co_filename


def _create_database(database: Path) -> None:
    """Create an empty SQLite storage. It appears under its name only once it is complete."""
    unfinished = database.with_name(database.name + ".creating")
    for left in database.parent.glob(unfinished.name + "*"):
        left.unlink()
    try:
        storage = RDBStorage(f"sqlite:///{unfinished}")
        storage.engine.dispose()
        with contextlib.closing(sqlite3.connect(unfinished)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # persists; makes writes faster
        disk.sync_file_systems([database.parent])
        os.replace(unfinished, database)
        disk.sync_folder(database.parent)
    except (OSError, sqlite3.Error, SQLAlchemyError, StorageInternalError) as error:
        raise LecunAblateError(f"{database}: cannot be created: {reason(error)}") from error


def _refuse_damaged_journal(journal: Path) -> None:
    """Raise LecunAblateError if a line is not one of Optuna's; the last one may be unfinished."""
    try:
        lines = journal.read_bytes().split(b"\n")
    except OSError as error:
        raise LecunAblateError(f"{journal}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines[:-1], 1):
        try:
            if "op_code" in json.loads(line):
                continue
        except (ValueError, TypeError):
            pass
        raise LecunAblateError(
            f"{journal}:{number}: expected a line of an Optuna journal, got {line[:60]!r}: delete "
            "or mend this line (keep a copy of the file)"
        )


def _create_journal(journal: Path) -> None:
    """Create a journal file, or remove a line that a killed driver left unfinished."""
    try:
        with open(journal, "a+b") as file:
            file.seek(0)
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
    except OSError as error:
        raise LecunAblateError(f"{journal}: cannot be written: {error.strerror}") from None
