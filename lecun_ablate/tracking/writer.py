"""The MLflow store, for one writer at a time.

A seed run or a trial is written whole once its training has ended. It counts only when its status
is FINISHED, which is written last, after its files. What a killed process leaves half-written on a
server, the next process sweeps away; beside an SQLite file, a folder of files may be left that no
run names.

Seed runs for a tracking server go to this machine's disk first, and from there to the server while
training goes on.

An SQLite file, and files of runs in a folder, reach the disk every few seconds and at the end, not
with every run: that would take longer than training. A power cut can so take the last few runs, or
leave their rows without their files. Such runs do not count and are trained again.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
import uuid
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar
from urllib.parse import urlsplit

from mlflow.entities import DatasetInput, Metric, Param, RunInfo, RunTag
from mlflow.utils.uri import append_to_uri_path

from lecun_ablate.errors import LecunAblateError
from lecun_ablate.system.disk import GroupSync
from lecun_ablate.system.interrupts import held_back
from lecun_ablate.system.lock import held, identity, server_place
from lecun_ablate.system.provenance import git_commit
from lecun_ablate.system.text import count
from lecun_ablate.tracking import patient, spool
from lecun_ablate.tracking.address import (
    address,
    artifact_folder,
    database_path,
    folder_path,
    folder_uri,
)
from lecun_ablate.tracking.client_run import BATCH, complete, write_once
from lecun_ablate.tracking.driver import only_driver
from lecun_ablate.tracking.ended_run import EndedRun, insert_run
from lecun_ablate.tracking.explain import reason
from lecun_ablate.tracking.files import data_of
from lecun_ablate.tracking.health import refuse_damaged, refuse_unwritable
from lecun_ablate.tracking.kept_run import kept
from lecun_ablate.tracking.lease import Lease
from lecun_ablate.tracking.names import (
    COMMIT,
    EXPERIMENT_NAME,
    KEY,
    LEVEL,
    NAME,
    OWNER,
    RUN_FILE,
    Level,
    title,
)
from lecun_ablate.tracking.new_store import create
from lecun_ablate.tracking.sender import Sender
from lecun_ablate.tracking.spool import Spool
from lecun_ablate.tracking.sqlite import close, follow_moved_artifacts, sync_less
from lecun_ablate.tracking.store import Store

PROBE = "lecun_ablate.probe"  # an MLflow experiment, always deleted, written as a trial

P = ParamSpec("P")
R = TypeVar("R")
Contents = Mapping[str, bytes | str | Path]  # of files, by name; a path is a file to copy


def writes(method: Callable[Concatenate[Writer, P], R]) -> Callable[Concatenate[Writer, P], R]:
    """Hold interruptions back while a method of Writer writes, and explain its failures."""

    @functools.wraps(method)
    def guarded(self: Writer, /, *arguments: P.args, **named: P.kwargs) -> R:
        with self.writing():
            return method(self, *arguments, **named)

    return guarded


class Writer:
    """An MLflow store that this process alone may write. `store` reads it."""

    def __init__(self, store: Store):
        self.store = store
        self.connection = store.connection
        self.files = store.files
        self.client = store.connection.client  # MLflow's: for this package only
        self._folders: dict[str, str] = {}  # of experiments that have been written to
        database = store.connection.database
        self._sync = GroupSync([database.parent, artifact_folder(database)] if database else [])
        self._names: dict[str, str] = {}  # of the experiments that are being driven, by id
        self._leases: dict[str, Lease] = {}  # on them, by id
        self._spool = Spool(store.connection.uri)
        self._sender = Sender(self._send, store.connection.where)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, uri: str | None = None) -> Iterator[Writer]:
        """Open a store, creating it if need be, and check that it can be written.

        Raises LecunAblateError if another process holds it, or if it cannot be reached.
        """
        uri = address(uri)
        database = database_path(uri)
        with held(_lock_of(uri), f"the MLflow store {uri}"):
            if database is not None and database.exists():
                refuse_damaged(database, thoroughly=True)
                refuse_unwritable(database)
            elif database is not None:
                create(database)
            writer = cls(Store(uri))
            if database is not None:
                sync_less(writer.client)
            try:
                with writer.connection.explained("cannot be written"):
                    writer._probe()
                    if database is not None:
                        follow_moved_artifacts(writer.client, database)
                yield writer
            finally:
                writer._stop_sending()
                if database is not None:
                    close(writer.client)
                with writer.writing():
                    writer.sync()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold interruptions back while the block writes, and explain its failures."""
        with held_back(), self.connection.explained("cannot be written"):
            yield

    def _probe(self) -> None:
        """Write something that is the package's own and that nobody sees."""
        found = self.client.get_experiment_by_name(PROBE)
        if found is None:
            experiment_id = self.client.create_experiment(PROBE)
        else:
            experiment_id = found.experiment_id
            if found.lifecycle_stage == "deleted":
                self.client.restore_experiment(experiment_id)
        self.client.delete_experiment(experiment_id)

    @writes
    def ensure_experiment(self, name: str) -> str:
        """Return the id of the MLflow experiment of a name, creating it if need be.

        Its title is for people; one that has the name as its title, as earlier versions wrote it,
        is given the new one.
        """
        found = self.connection.experiment_named(name, deleted=True)
        heading = title(name)
        if self.client.get_experiment_by_name(heading):  # its own, or somebody else's
            heading = name
        if found is None:
            tags = {EXPERIMENT_NAME: name}
            return str(self.client.create_experiment(heading, tags=tags))
        experiment_id = str(found.experiment_id)
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(experiment_id)
        if EXPERIMENT_NAME not in found.tags:
            self.client.set_experiment_tag(experiment_id, EXPERIMENT_NAME, name)
            if heading != name:
                self.client.rename_experiment(experiment_id, heading)
        return experiment_id

    @writes
    def describe_experiment(self, experiment_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of an MLflow experiment, except those that it has already."""
        known = self.connection.experiment_tags(experiment_id)
        for key, value in tags.items():
            if known.get(key) != value:
                self.client.set_experiment_tag(experiment_id, key, value)

    @contextlib.contextmanager
    def driving(self, name: str) -> Iterator[str]:
        """Be the only process that runs the experiment or study of a name; yield its MLflow id.

        Raises LecunAblateError, naming the other process, if there is one, on whichever machine.
        """
        experiment_id = self.ensure_experiment(name)
        with only_driver(self.connection, experiment_id, name) as lease:
            self._names[experiment_id] = name
            if lease:
                self._leases[experiment_id] = lease
            self.sweep(experiment_id)
            yield experiment_id

    @contextlib.contextmanager
    def ending(self, begun: Callable[[], list[str]]) -> Iterator[None]:
        """End the runs that a block has `begun`: FINISHED, KILLED (interrupted) or FAILED."""
        try:
            yield
        except BaseException as error:
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            with contextlib.suppress(LecunAblateError):  # what ended the block says more
                self.end([run_id for run_id in begun() if run_id], status)
            raise
        self.end(begun())

    @writes
    def sweep(self, experiment_id: str) -> int:
        """End what killed processes left RUNNING; return how many half-written runs went.

        Half-written seed runs and trials are deleted: their next training writes them again.
        Experiments, arms and studies are marked KILLED until they are continued. Only for whoever
        is `driving`: then nobody else can be writing these runs.
        """
        where = [experiment_id]
        if self.connection.database is not None:  # locked: nobody else can be running anything
            where = [experiment.experiment_id for experiment in self.connection.experiments()]
        running = f"attributes.status = 'RUNNING' and tags.`{LEVEL}` LIKE '%'"
        dead = list(self.connection.runs(where, running))
        halves = [run for run in dead if run.data.tags[LEVEL] in (Level.RUN, Level.TRIAL)]
        for run in dead:
            self.client.set_terminated(run.info.run_id, "KILLED")
        for run in halves:
            self.client.delete_run(run.info.run_id)
        return len(halves)

    def sync(self) -> None:
        """Wait until all that has been written is on the disk; a server answers for its own."""
        self._sync.finish()

    # ---- runs of any level

    @writes
    def create(self, experiment_id: str, name: str, level: Level, tags: Mapping[str, str]) -> str:
        """Create a run, RUNNING, and return its id."""
        run = self.client.create_run(
            experiment_id,
            start_time=int(1000 * time.time()),
            tags=_common_tags(name, level) | self._owned() | dict(tags),
            run_name=name,
        )
        self.connection.remember(run.info)
        return str(run.info.run_id)

    @writes
    def resume(self, run_id: str) -> None:
        """Mark a run as RUNNING again."""
        self.client.update_run(run_id, status="RUNNING")
        for key, value in self._owned().items():
            self.client.set_tag(run_id, key, value)

    def _owned(self) -> dict[str, str]:
        return {} if self.connection.database else {OWNER: identity()}

    @writes
    def delete(self, run_ids: Sequence[str]) -> None:
        """Delete runs."""
        for run_id in run_ids:
            self.client.delete_run(run_id)

    @writes
    def put(self, run_id: str, contents: Contents) -> None:
        """Write files to a run."""
        self.files.put(run_id, contents)

    @writes
    def write(self, run: EndedRun, level: Level, contents: Contents) -> str | None:
        """Write a run that has ended, whole, and return its id.

        A seed run for a tracking server has none yet: it is on this machine's disk when this
        returns, and on the server when `flush` does.
        """
        if lease := self._leases.get(run.experiment_id):
            lease.check()
        run = replace(run, tags=_common_tags(run.name, level) | self._owned() | dict(run.tags))
        if self.connection.is_server and level is Level.RUN:
            self._raise_failures()
            name = self._names[run.experiment_id]
            files = {file: data_of(content) for file, content in contents.items()}
            self._sender.add(self._spool.put(name, run, files))
            return None
        if run.experiment_id not in self._folders:
            experiment = self.client.get_experiment(run.experiment_id)
            self._folders[run.experiment_id] = experiment.artifact_location
        # MLflow puts files only into runs that exist
        elsewhere = urlsplit(folder_path(self._folders[run.experiment_id])).scheme
        if elsewhere or not self.connection.has_known_tables:
            return self._write_by_client(run, contents)
        run_id = uuid.uuid4().hex
        folder = append_to_uri_path(self._folders[run.experiment_id], run_id, "artifacts")
        self.connection.remember(run.info(run_id, folder))
        if level is Level.RUN:
            contents = {**contents, RUN_FILE: kept(run)}
        # first, since the run counts as soon as it is inserted
        self.files.put(run_id, contents, durable=False)
        place = self.files.place(run_id)  # may be beside a copy
        info = run.info(run_id, place if urlsplit(place).scheme else folder_uri(Path(place)))
        self.connection.remember(info)
        insert_run(self.client, run, info)
        self._sync.written(Path(place).parents[1])
        return run_id

    @writes
    def take_back(self, run: EndedRun, run_id: str, folder: Path) -> str | None:
        """Write the row of a run whose files are in a folder; return why not, if they are damaged.

        Only where the store `has_known_tables`.
        """
        info = run.info(run_id, folder_uri(folder))
        self.connection.remember(info)
        misses, error = (run.history[name][-1] for name in ("test_misses", "test_error"))
        damage = self.files.damage(run_id, int(misses), error)
        if damage is None:
            insert_run(self.client, run, info)
        return damage

    def _write_by_client(self, run: EndedRun, contents: Contents) -> str:
        created = self.client.create_run(run.experiment_id, run.started, dict(run.tags), run.name)
        self.connection.remember(created.info)
        run_id = str(created.info.run_id)
        complete(self.client, created.info, run, lambda _: self.files.put(run_id, contents))
        return run_id

    # ---- runs that wait for a server

    def _send(self, path: Path, again: bool) -> None:
        """Write a waiting run to the server, in one try; on a thread of its own."""
        about, contents = spool.read(path)
        place = next(i for i, name in self._names.items() if name == about.experiment)
        run = about.ended_run(place)
        run = replace(run, tags={**run.tags, **self._owned()})

        def put(info: RunInfo) -> None:
            self.files.upload(info.artifact_uri, contents)

        write_once(self.connection.impatient, run, spool.request_of(path), again, put)

    def flush(self) -> None:
        """Wait until all runs are on the server; raise LecunAblateError if they cannot be."""
        self._wait_for_server()
        self._raise_failures()

    def take_up(self, experiment_id: str, notice: Callable[[str], None]) -> None:
        """Write the runs of an experiment that an earlier process has left waiting.

        What the server has already is not written again. What it refuses is set aside, so that it
        does not stand in the way of its next training; `notice` is told.
        """
        paths = self._spool.waiting(self._names[experiment_id])
        if not paths:
            return
        with self.writing():
            tagged = self.connection.tagged(experiment_id, {LEVEL: Level.RUN})
            there = {run.data.tags.get(KEY) for run in tagged if run.info.status == "FINISHED"}
            for path in paths:
                self._take_up(path, there, notice)
        self._wait_for_server()
        for failure in self._sender.failures():
            aside = spool.set_aside(failure.path)
            notice(f"{aside}: a finished run that the server refuses: {reason(failure.error)}")
        notice(
            f"{count(len(paths), 'finished run')} that waited in {self._spool.folder} "
            f"{'has' if len(paths) == 1 else 'have'} been taken up"
        )

    def _take_up(
        self, path: Path, there: Container[str | None], notice: Callable[[str], None]
    ) -> None:
        try:
            about, _ = spool.read(path)
        except LecunAblateError as error:
            notice(f"{error}: set aside as {spool.set_aside(path).name}")
            return
        if about.key in there:
            path.unlink()
        else:
            self._sender.add(path, again=True)

    def _wait_for_server(self) -> None:
        if silence := self._sender.wait(patient.LONGEST):
            patient.give_up(self.connection.where)
            raise LecunAblateError(
                f"{self.connection.where}: does not answer: {reason(silence)}; {self._waiting()}"
            )

    def _raise_failures(self) -> None:
        for failure in self._sender.failures():
            with self.connection.explained("cannot be written"):
                raise failure.error

    def _waiting(self) -> str:
        runs = count(len(self._spool.waiting()), "finished run")
        return (
            f"{runs} wait in {self._spool.folder}: run "
            "the same command again, here, when the server answers; they are written first"
        )

    def _stop_sending(self) -> None:
        if not self.connection.is_server:
            return
        self._sender.close()
        if self._spool.waiting():
            print(f"{self.connection.where}: {self._waiting()}", file=sys.stderr, flush=True)

    # ---- the end of runs, tags and metrics

    @writes
    def end(self, run_ids: Sequence[str], status: str = "FINISHED") -> None:
        """Set the final status of runs. If one cannot be written, the others still are."""
        failures = []
        for run_id in run_ids:
            try:
                self.client.set_terminated(run_id, status)
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]

    @writes
    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run in one batch."""
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    @writes
    def log_data(self, run_id: str, data: DatasetInput) -> None:
        """Name the data set of a run."""
        self.client.log_inputs(run_id, [data])

    @writes
    def log_metrics(
        self, run_id: str, metrics: Sequence[Metric], parameters: Sequence[Param] = ()
    ) -> None:
        """Write metrics and parameters of a run in as few batches as MLflow takes."""
        self.client.log_batch(run_id, metrics=metrics[:BATCH], params=parameters)
        for i in range(BATCH, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics=metrics[i : i + BATCH])


def _lock_of(uri: str) -> Path | str:
    database = database_path(uri)
    if database is not None:
        return database.parent / ".lecun_ablate.lock"
    parts = urlsplit(uri)
    return server_place(parts.scheme, parts.hostname, parts.port, parts.path)


def _common_tags(name: str, level: Level) -> dict[str, str]:
    """Return the tags that every run has."""
    tags = {
        LEVEL: str(level),
        NAME: name,
        "mlflow.source.name": "lecun_ablate",
        "mlflow.source.type": "LOCAL",
    }
    if commit := git_commit():
        tags[COMMIT] = commit
    return tags
