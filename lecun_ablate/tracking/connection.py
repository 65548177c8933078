"""A connection to an MLflow store, and errors that say what is wrong with it."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient

from lecun_ablate.errors import LecunAblateError, NoStoreYet
from lecun_ablate.system.passwords import without_passwords
from lecun_ablate.tracking.address import DATABASE, address, database_path
from lecun_ablate.tracking.sqlite import keep_artifacts_beside


class Connection:
    """An open MLflow store. `database` is its SQLite file, or None for any other store."""

    def __init__(self, uri: str | None = None):
        """Connect to `address(uri)`; NoStoreYet where that is a file that does not exist."""
        self._asked = address(uri)
        self.database = database_path(self._asked)
        self.uri = self._asked if self.database is None else f"sqlite:///{self.database}"
        if self.database is not None and not self.database.exists():
            raise NoStoreYet(f"{self.database}: no results here yet: `run` an experiment")
        with self.explained("cannot be read"):
            self.client = MlflowClient(tracking_uri=self.uri)
            self.client.search_experiments(max_results=1)
        if self.database is not None:
            keep_artifacts_beside(self.client, self.database)

    @property
    def where(self) -> str:
        """The store for people: its file, or its address."""
        return str(self.database or without_passwords(self.uri))

    @contextlib.contextmanager
    def explained(self, what: str, way_out: str | None = None) -> Iterator[None]:
        """Turn whatever goes wrong into a LecunAblateError: the store, `what`, the way out."""
        try:
            yield
        except LecunAblateError:
            raise
        except Exception as error:  # SQLAlchemy, requests and MLflow each have errors of their own
            way_out = way_out or (
                "if it was left by an interrupted `mlflow` command, move it away"
                if self.database
                else "is the server running?"
            )
            first = without_passwords(str(error).strip().split("\n")[0])
            raise LecunAblateError(f"{self.where}: {what}: {first}; {way_out}") from error

    def link(self, experiment_id: str) -> str:
        """Return the address of an experiment in the MLflow UI."""
        base = self.uri if self.uri.startswith("http") else "http://127.0.0.1:5000"
        page = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning"
        return f"{base.rstrip('/')}/{page}"

    def ui_command(self) -> str | None:
        """Return the command that starts the MLflow UI on this store; None where it is a server."""
        if self.uri.startswith("http"):
            return None
        if self.database == Path(DATABASE).resolve():
            return "mlflow ui"
        return f"mlflow ui --backend-store-uri {shlex.quote(without_passwords(self._asked))}"
