"""A client of an MLflow server that waits for it, visibly, and never does anything twice.

MLflow's own client repeats a request in silence when its answer is lost. A run that is created so
is there twice afterwards, and an experiment that is deleted so raises an error. Here every call is
repeated as what it is: what creates something looks first whether it is there.
"""

from __future__ import annotations

import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from lecun_ablate.system.interrupts import pause
from lecun_ablate.system.passwords import without_passwords
from lecun_ablate.tracking.explain import reason
from lecun_ablate.tracking.names import REQUEST

T = TypeVar("T")
LONGEST = 300.0  # seconds that a server which does not answer is waited for
LONGEST_ERROR = 30.0  # seconds that one is waited for which answers with an internal error
PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0, 5.0)  # seconds before each further try; the last again and again
SILENT = 2  # lost answers that are not worth a word
TIMEOUT = "60"  # seconds that a single request may take

# what MLflow and requests say when no answer came, or that of something between us and the server
_NO_ANSWER = re.compile(
    r"failed with (timeout )?exception|too many \d+ error responses|connection (aborted|refused|"
    r"reset|broken)|connectionpool|remotedisconnected|timed out|incompleteread|"
    r"error code(:| )? ?(408|429|50[0234])|\b(408|429|50[0234]) (client|server) error|"
    r"failed with error code (408|429|50[0234])|\b(INTERNAL_ERROR|TEMPORARILY_UNAVAILABLE):",
    re.IGNORECASE,
)
_INTERNAL = re.compile(r"\b500\b|\bINTERNAL_ERROR:")
_ENDS = ("delete_run", "delete_experiment", "restore_experiment", "rename_experiment")


def impatient(uri: str) -> MlflowClient:
    """Return MLflow's client of a server; each call is one try.

    Whoever sets MLFLOW_HTTP_REQUEST_MAX_RETRIES or MLFLOW_HTTP_REQUEST_TIMEOUT has it repeat
    requests.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", TIMEOUT)
    return MlflowClient(tracking_uri=uri)


def patient(client: MlflowClient, where: str) -> MlflowClient:
    """Return a client of a server whose calls are repeated while the server does not answer.

    `where` names the server to people.
    """
    return cast(MlflowClient, _Patient(client, where))


class _Patient:
    """Has the methods of MLflow's client."""

    def __init__(self, client: MlflowClient, where: str):
        self._client = client
        self._where = where

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name.startswith("_") or not callable(method):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            def action(again: bool) -> Any:
                try:
                    return method(*args, **kwargs)
                except MlflowException as error:
                    if again and name in _ENDS and not no_answer(error):
                        return None  # an earlier try had done it
                    raise

            return until_answered(action, self._where)

        return call

    def create_run(
        self,
        experiment_id: str,
        start_time: int | None = None,
        tags: Mapping[str, str] | None = None,
        run_name: str | None = None,
    ) -> Run:
        """Create a run once, even if the answer to that is lost."""
        request = uuid.uuid4().hex
        marked = dict(tags or {}) | {REQUEST: request}

        def action(again: bool) -> Run:
            there = f"tags.`{REQUEST}` = '{request}'"
            if again and (found := self._client.search_runs([experiment_id], there)):
                return found[0]
            return self._client.create_run(experiment_id, start_time, marked, run_name)

        return until_answered(action, self._where)

    def create_experiment(self, name: str, tags: Mapping[str, str] | None = None) -> str:
        """Create an experiment once, even if the answer to that is lost."""

        def action(again: bool) -> str:
            if again and (found := self._client.get_experiment_by_name(name)):
                return str(found.experiment_id)
            return str(self._client.create_experiment(name, tags=dict(tags or {})))

        return until_answered(action, self._where)


_given_up: set[str] = set()  # servers that were waited for in vain, until they answer


def give_up(where: str) -> None:
    """Wait for the server `where` no longer, until it has answered."""
    _given_up.add(where)


def until_answered(action: Callable[[bool], T], where: str) -> T:
    """Call `action`, with whether it has been called before, until the server `where` answers."""
    began, tries = time.monotonic(), 0
    while True:
        try:
            result = action(tries > 0)
        except Exception as error:  # of MLflow, requests or urllib3
            most = LONGEST_ERROR if _INTERNAL.search(_text(error)) else LONGEST
            if not no_answer(error):
                raise
            if where in _given_up or time.monotonic() - began > most:
                give_up(where)
                raise
            if tries == SILENT:
                _say(
                    f"{where} does not answer ({reason(error)}): trying again for up to "
                    f"{most:.0f} s; Ctrl-C ends"
                )
            pause(PAUSES[min(tries, len(PAUSES) - 1)])
            tries += 1
            continue
        _given_up.discard(where)
        if tries > SILENT:
            _say(f"{where} answers again, after {time.monotonic() - began:.0f} s")
        return result


def no_answer(error: BaseException) -> bool:
    """Tell whether an error means that a request, or its answer, may have been lost."""
    return bool(_NO_ANSWER.search(_text(error)))


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _say(text: str) -> None:
    print(without_passwords(text), file=sys.stderr, flush=True)
