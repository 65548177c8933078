"""A check of a whole store: what is damaged, doubled, orphaned or left running, and what helps."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Run

from lecun_ablate.errors import LecunAblateError
from lecun_ablate.system.lock import alive
from lecun_ablate.system.text import count
from lecun_ablate.tracking.address import address, artifact_folder, database_path
from lecun_ablate.tracking.health import read_only, refuse_damaged, unknown_runs
from lecun_ablate.tracking.names import KEY, LEVEL, OWNER, PARENT, Level
from lecun_ablate.tracking.records import FinishedRun
from lecun_ablate.tracking.spool import ENDING, Spool
from lecun_ablate.tracking.store import Store
from lecun_ablate.tracking.writer import Writer

OLD = 3600.0  # seconds after which an unfinished file is nobody's any more


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    what: str
    help: str
    repair: Callable[[Writer], None] | None = None  # if that is safe; nothing is lost by it


def examine(uri: str | None = None) -> list[Finding]:
    """Return what is wrong with a store; change nothing.

    Raises LecunAblateError if it cannot be opened at all: the message says what can be saved.
    """
    asked = address(uri)
    database = database_path(asked)
    if database is not None and database.exists():
        refuse_damaged(database, thoroughly=True)
    store = Store(uri)
    found = [*_left_running(store), *_waiting(store)]
    for experiment in store.connection.experiments():
        found += _seed_runs(store, experiment.experiment_id)
        found += _orphans(store, experiment.experiment_id)
        found += _plans(store, experiment.experiment_id)
    if database is not None:
        with store.connection.reading():
            found += _beside(database)
    return found


def repair(findings: list[Finding], uri: str | None = None) -> int:
    """Repair what can be repaired safely; return how many findings that were.

    Raises LecunAblateError if the store is in use.
    """
    able = [finding.repair for finding in findings if finding.repair]
    if able:
        with Writer.opened(uri) as writer:
            for one in able:
                with writer.writing():
                    one(writer)
    return len(able)


def _left_running(store: Store) -> Iterator[Finding]:
    ids = [experiment.experiment_id for experiment in store.connection.experiments()]
    condition = f"attributes.status = 'RUNNING' and tags.`{LEVEL}` LIKE '%'"
    for run in store.connection.runs(ids, condition) if ids else ():
        owner = run.data.tags.get(OWNER)
        if owner and alive(owner) is not False:
            continue
        yield Finding(
            f"{_name(run)} is marked RUNNING",
            "if nothing is running now, a killed process left it: the next `run` ends it",
            _ending(run),
        )


def _waiting(store: Store) -> Iterator[Finding]:
    if not store.connection.is_server:
        return
    spool = Spool(store.connection.uri)
    for experiment in sorted({path.parent for path in spool.waiting()}):
        runs = count(len(list(experiment.glob(f"*{ENDING}"))), "finished run")
        yield Finding(
            f"{experiment} has {runs} that the server does not have",
            "`run` the experiment again, in this folder: that writes them first",
        )


def _ending(run: Run) -> Callable[[Writer], None]:
    def end(writer: Writer) -> None:
        writer.end([run.info.run_id], "KILLED")

    return end


def _seed_runs(store: Store, experiment_id: str) -> Iterator[Finding]:
    finished, unusable = store.finished(experiment_id)
    bad = dict(unusable)
    if finished:
        bad |= store.sound(finished)[1]
    for found in bad.values():
        yield Finding(str(found), "`run` its experiment again: that trains it again")
    by_key: dict[str, list[Run]] = defaultdict(list)
    for run in store.connection.tagged(experiment_id, {LEVEL: Level.RUN}):
        if run.info.status == "FINISHED" and KEY in run.data.tags:
            by_key[run.data.tags[KEY]].append(run)
    for key, runs in by_key.items():
        if len(runs) > 1:
            counted = finished.get(key)
            others = [run for run in runs if counted and run.info.run_id != counted.run_id]
            yield Finding(
                f"{_name(runs[0])} stands {len(runs)} times with one key",
                "one of them counts; the others can be deleted",
                _deleting(others) if others and isinstance(counted, FinishedRun) else None,
            )


def _deleting(runs: list[Run]) -> Callable[[Writer], None]:
    def delete(writer: Writer) -> None:
        writer.delete([run.info.run_id for run in runs])  # MLflow can restore them

    return delete


def _orphans(store: Store, experiment_id: str) -> Iterator[Finding]:
    runs = list(store.connection.tagged(experiment_id, {}))
    ids = {run.info.run_id for run in runs}
    for run in runs:
        parent = run.data.tags.get(PARENT)
        if LEVEL in run.data.tags and parent and parent not in ids:
            yield Finding(
                f"{_name(run)} stands under a run that was deleted",
                "`run` its experiment again: that puts it in its place",
            )


def _plans(store: Store, experiment_id: str) -> Iterator[Finding]:
    for record in store.plans(experiment_id):
        try:
            store.plan(record)
        except LecunAblateError as error:
            yield Finding(str(error), "`run` the experiment again: that writes the file anew")


def _beside(database: Path) -> Iterator[Finding]:
    artifacts = artifact_folder(database)
    known = _folders(database)
    if unknown := unknown_runs(database):
        yield Finding(
            f"{artifacts} has the files of {len(unknown)} runs that the store does not know: "
            f"{', '.join(sorted(unknown)[:3])}{', ...' if len(unknown) > 3 else ''}",
            "`run` their experiments again: that takes back what is whole; if there are many, a "
            "database was lost: a copy of it put back has all",
        )
    unfinished = [
        file
        for folder in (database.parent.glob("*"), artifacts.rglob(".*.unfinished"))
        for file in folder
        if file.name.endswith((".unfinished", ".creating")) and _is_old(file)
    ]
    if unfinished:
        yield Finding(
            f"{len(unfinished)} unfinished files, such as {unfinished[0]}",
            "a killed process left them; they can be deleted",
            _unlinking(unfinished),
        )
    elsewhere = {place for place in known if not Path(place).is_relative_to(artifacts)}
    gone = [place for place in elsewhere if place.startswith("/") and not Path(place).is_dir()]
    if gone:
        yield Finding(
            f"the files of {len(gone)} runs are expected in other folders, such as {gone[0]}",
            "they are looked for beside the database as well; the next `run` corrects the paths",
        )


def _folders(database: Path) -> set[str]:
    with contextlib.closing(read_only(database)) as connection:
        try:
            rows = connection.execute(
                "SELECT artifact_uri FROM runs WHERE lifecycle_stage = 'active' "
                "AND run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)",
                (LEVEL, str(Level.RUN)),
            )
            return {place for (place,) in rows if place}
        except sqlite3.Error:
            return set()


def _is_old(file: Path) -> bool:
    try:
        return time.time() - file.stat().st_mtime > OLD
    except OSError:
        return False


def _unlinking(files: list[Path]) -> Callable[[Writer], None]:
    def unlink(_: Writer) -> None:
        for file in files:
            file.unlink(missing_ok=True)

    return unlink


def _name(run: Run) -> str:
    return f"run {run.info.run_id} ({run.info.run_name})"
