"""A lease on an experiment in an MLflow store: a lock for drivers on different machines.

It is a tag of the MLflow experiment that names its holder and is renewed while that lives. MLflow
has no way to change a tag only if nobody else has done so meanwhile. So whoever takes a lease reads
it again after a moment: of two who took it at once, the one whose tag was written last has it.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator

from mlflow import MlflowClient
from pydantic import BaseModel, ConfigDict, ValidationError

from lecun_ablate.errors import LecunAblateError
from lecun_ablate.system.interrupts import pause
from lecun_ablate.system.lock import alive, identity, in_use, told
from lecun_ablate.system.patience import said_if_slow
from lecun_ablate.tracking.names import LEASE

SECONDS = 120.0  # that a lease holds after its last renewal
RENEWAL = 30.0  # seconds between renewals
SETTLE = 1.0  # seconds after which whoever took a lease at the same moment has written its tag


class Terms(BaseModel):
    """The content of the tag."""

    model_config = ConfigDict(extra="ignore")

    id: str
    holder: str  # a lock.identity
    since: float  # seconds since 1970, by the holder's clock
    until: float


class Lease:
    """A lease that this process holds."""

    def __init__(self, client: MlflowClient, experiment_id: str, what: str):
        self._client = client
        self._experiment_id = experiment_id
        self._what = what
        self._id, self._since = uuid.uuid4().hex, time.time()
        self._lost: Terms | None = None
        self._ended = threading.Event()

    @classmethod
    @contextlib.contextmanager
    def held(cls, client: MlflowClient, experiment_id: str, what: str) -> Iterator[Lease]:
        """Hold the lease while the block runs.

        Raises LecunAblateError, naming the holder, if another process has it.
        """
        lease = cls(client, experiment_id, what)
        lease._take()
        thread = threading.Thread(target=lease._renew, daemon=True)
        thread.start()
        try:
            yield lease
        finally:
            lease._ended.set()
            with contextlib.suppress(Exception):  # it ends by itself
                if lease._owner() is None:
                    lease._write("")

    def check(self) -> None:
        """Raise LecunAblateError if another process has taken the lease over."""
        if self._lost:
            raise LecunAblateError(
                f"{self._what} was taken over by {_who(self._lost)}, since this process did not "
                "renew its lease in time (was the machine asleep?): what had finished is kept"
            )

    def _take(self) -> None:
        other = self._owner()
        left = other and (other.holder == identity() or alive(other.holder) is False)
        if other and not left:  # this process could not give its last one back: the server was down
            if other.until > time.time():
                raise self._in_use(other)
            self._watch(other)
        self._write(self._terms())
        pause(SETTLE)
        if (winner := self._owner()) is not None:
            raise self._in_use(winner)

    def _watch(self, other: Terms) -> None:
        """Raise if a lease that has run out by our clock is renewed: its holder's may differ."""
        slow = f"{self._what}: waiting to see whether {_who(other)} is still alive"
        end = time.monotonic() + 1.5 * RENEWAL
        with said_if_slow(slow):
            while time.monotonic() < end:
                pause(min(1.0, RENEWAL / 10))
                now = self._owner()
                if now is None:
                    return
                if now != other:
                    raise self._in_use(now)

    def _renew(self) -> None:
        while not self._ended.wait(RENEWAL):
            with contextlib.suppress(Exception):  # a server that is down lends to nobody
                self._lost = self._owner()
                if self._lost:
                    return
                self._write(self._terms())

    def _owner(self) -> Terms | None:
        """Return the terms of another process that has the lease."""
        tag = self._client.get_experiment(self._experiment_id).tags.get(LEASE, "")
        try:
            found = Terms.model_validate_json(tag)
        except ValidationError:  # empty: given back; or somebody has edited it
            return None
        return None if found.id == self._id else found

    def _write(self, tag: str) -> None:
        self._client.set_experiment_tag(self._experiment_id, LEASE, tag)

    def _terms(self) -> str:
        until = time.time() + SECONDS
        mine = Terms(id=self._id, holder=identity(), since=self._since, until=until)
        return mine.model_dump_json()

    def _in_use(self, other: Terms) -> LecunAblateError:
        since = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(other.since))
        error = in_use(self._what, told(other.holder), since)
        return LecunAblateError(
            f"{error}. If its machine is gone, the lease can be taken over "
            f"{max(0.0, other.until - time.time()):.0f} s from now"
        )


def _who(terms: Terms) -> str:
    return told(terms.holder)
