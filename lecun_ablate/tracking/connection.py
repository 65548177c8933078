"""A connection to an MLflow store, and errors that say what is wrong with it."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # with its password

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, RunInfo, ViewType
from mlflow.exceptions import MlflowException

from lecun_ablate.errors import LecunAblateError, NoStoreYet
from lecun_ablate.system.passwords import without_passwords, without_user
from lecun_ablate.system.patience import said_if_slow
from lecun_ablate.tracking import views
from lecun_ablate.tracking.address import DATABASE, address, database_path, sqlite_uri
from lecun_ablate.tracking.explain import reason, way_out
from lecun_ablate.tracking.health import refuse_damaged, writable
from lecun_ablate.tracking.names import EXPERIMENT_NAME
from lecun_ablate.tracking.patient import impatient, patient
from lecun_ablate.tracking.sqlite import keep_artifacts_beside, tables_are_known
from lecun_ablate.tracking.tagged_runs import tagged_runs

logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it prints tracebacks

PAGE = 100  # runs fetched at a time: thousands at once take a lot of memory


class Connection:
    """An open MLflow store.

    `database` is its SQLite file, or None for any other store. `client` is MLflow's, which waits
    for a server that does not answer; `impatient` is the same, but does not wait.
    """

    def __init__(self, uri: str | None = None):
        """Connect to `address(uri)`; NoStoreYet if that is a file that does not exist."""
        self._asked = address(uri)
        self.database = database_path(self._asked)
        self.uri = self._asked
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        if self.database is not None:
            if not self.database.exists():
                raise NoStoreYet(f"{self.database}: no results here yet: `run` an experiment")
            refuse_damaged(self.database)
            self.uri = self._readable(self.database)
        with self.reading():
            if self.is_server:
                self.impatient = impatient(self.uri)
                self.client = patient(self.impatient, self.where)
            else:
                self.client = self.impatient = MlflowClient(tracking_uri=self.uri)
            self.client.search_experiments(max_results=1)
        if self.database is not None:
            keep_artifacts_beside(self.client, self.database)
        self._infos: dict[str, RunInfo] = {}  # of runs that have been looked up

    @property
    def has_known_tables(self) -> bool:
        """Whether the store is a database whose tables we may use without MLflow's client."""
        if self.database is None and not self.uri.startswith("postgresql"):
            return False
        with self.reading():
            return tables_are_known(self.client)

    @property
    def is_server(self) -> bool:
        """Whether the store is a tracking server, and not a database."""
        return self.uri.startswith("http")

    @property
    def where(self) -> str:
        """The store for people: its file, or its address."""
        return str(self.database or without_passwords(self.uri))

    def _readable(self, database: Path) -> str:
        """Return the address to open a database by; SQLite's log needs a folder to write to.

        Where nobody can write, the file is read as it is. If a killed process has left a log beside
        it, the last runs are in there: both are read in a copy.
        """
        if writable(database):
            return sqlite_uri(database)
        log = database.with_name(f"{database.name}-wal")
        if not log.exists() or not log.stat().st_size:
            return sqlite_uri(database, immutable=True)
        self._copy = tempfile.TemporaryDirectory()
        for file in (database, log):
            shutil.copyfile(file, Path(self._copy.name, file.name))
        return sqlite_uri(Path(self._copy.name, database.name))

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """Explain the failures of a block that reads the store."""
        return self.explained("cannot be read")

    @contextlib.contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Turn any failure into a LecunAblateError: the store, `what`, why, and the way out."""
        slow = f"{self.where} has not answered for a while: still trying; Ctrl-C stops that"
        try:
            with said_if_slow(slow) if self.database is None else contextlib.nullcontext():
                yield
        except LecunAblateError:
            raise
        except Exception as error:  # SQLAlchemy, requests and MLflow each have errors of their own
            why = reason(error)
            help = way_out(why, server=self.database is None)
            raise LecunAblateError(f"{self.where}: {what}: {why}; {help}") from error

    def link(self, experiment_id: str, view: str | None = None) -> str:
        """Return the address of an experiment in the MLflow UI, in one of its ready-made views."""
        base = without_user(self.uri) if self.is_server else "http://127.0.0.1:5000"
        return f"{base.rstrip('/')}/{views.page(experiment_id, view)}"

    def ui_command(self) -> str | None:
        """Return the command that starts the MLflow UI on this store; None for a server."""
        if self.is_server:
            return None
        if self.database == Path(DATABASE).resolve():
            return "mlflow ui"
        return f"mlflow ui --backend-store-uri {shlex.quote(without_passwords(self._asked))}"

    def experiment_named(self, name: str, deleted: bool = False) -> Experiment | None:
        """Return the MLflow experiment of one of the package's names; also a deleted one, if asked.

        Earlier versions gave it that name as a title, and no tag.
        """
        kind = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
        condition = f"tags.`{EXPERIMENT_NAME}` = '{name}'"
        with self.reading():
            found = self.client.search_experiments(view_type=kind, filter_string=condition)
            by_title = self.client.get_experiment_by_name(name)
        if by_title and (deleted or by_title.lifecycle_stage == "active"):
            found.append(by_title)
        return min(found, key=lambda one: one.lifecycle_stage == "deleted", default=None)

    # ---- MLflow's own objects

    def experiments(self) -> list[Experiment]:
        """Return all experiments that are not deleted."""
        pages = _pages(lambda token: self.client.search_experiments(page_token=token))
        with self.reading():
            return [experiment for page in pages for experiment in page]

    def experiment_tags(self, experiment_id: str) -> dict[str, str]:
        """Return the tags of an experiment."""
        with self.reading():
            return dict(self.client.get_experiment(experiment_id).tags)

    def tagged(
        self, experiment_id: str, tags: Mapping[str, str], only: Collection[str] | None = None
    ) -> Iterator[Run]:
        """Yield an experiment's runs that have the given tags, newest first.

        `only`: nothing else is needed of them than the tags and params of these keys.
        """
        if self.has_known_tables:
            for page in self._read(tagged_runs(self.client, experiment_id, tags, only)):
                for run in page:
                    self.remember(run.info)
                yield from page
            return
        # MLflow's filters have no way to write a quote; such values are compared here
        plain = {key: value for key, value in tags.items() if not set("'\"\\%`") & set(value)}
        conditions = [f"tags.`{key}` = '{value}'" for key, value in plain.items()]
        for run in self.runs([experiment_id], " and ".join(conditions)):
            if all(run.data.tags.get(key) == value for key, value in tags.items()):
                yield run

    def runs(self, experiment_ids: list[str], condition: str) -> Iterator[Run]:
        """Yield the runs of experiments that meet a condition of MLflow's, newest first."""
        pages = _pages(
            lambda token: self.client.search_runs(
                experiment_ids,
                condition,
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=PAGE,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
        )
        for page in self._read(pages):
            for run in page:
                self.remember(run.info)
            yield from page

    def _read(self, pages: Iterator[Iterable[Run]]) -> Iterator[Iterable[Run]]:
        """Yield pages; a page that cannot be read raises LecunAblateError."""
        while True:
            with self.reading():
                page = next(pages, None)
            if page is None:
                return
            yield page

    def info(self, run_id: str) -> RunInfo:
        """Return what MLflow knows of a run itself: its experiment, place and status."""
        if run_id not in self._infos:
            with self.reading():
                self.remember(self.client.get_run(run_id).info)
        return self._infos[run_id]

    def run(self, run_id: str) -> Run | None:
        """Return a run; None if there is none with this id."""
        with self.reading():
            try:
                return self.client.get_run(run_id)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise

    def remember(self, info: RunInfo) -> None:
        """Keep what is known of a run, so that it need not be looked up again."""
        self._infos[info.run_id] = info


def _pages(page_of: Callable[[str | None], Any]) -> Iterator[Any]:
    token = None
    while True:
        page = page_of(token)
        yield page
        token = page.token
        if not token:
            return
