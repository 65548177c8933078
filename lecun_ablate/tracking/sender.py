"""Sends finished runs to a tracking server, several at a time, while training goes on."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lecun_ablate.system.interrupts import pause
from lecun_ablate.system.passwords import without_passwords
from lecun_ablate.system.patience import said_if_slow
from lecun_ablate.system.text import count
from lecun_ablate.tracking import patient
from lecun_ablate.tracking.explain import reason

AT_ONCE = 8  # runs that are on their way at a time
GRACE = 5.0  # seconds in which an interrupted command still sends what waits

Send = Callable[[Path, bool], None]  # a waiting run; whether it may be there, in part or whole


@dataclass(frozen=True)
class Failure:
    """A run that could not be written, and why."""

    path: Path
    error: Exception


class Sender:
    """Writes waiting runs to the server `where`, each by `send`, and then deletes their files.

    A run that the server does not answer for is tried again until it does; one that it refuses is a
    failure. The order of runs does not matter, since each counts by itself.
    """

    def __init__(self, send: Send, where: str):
        self._send = send
        self._where = where
        self._queue: queue.SimpleQueue[tuple[Path, bool] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._left = 0  # runs that are neither written nor failures
        self._failures: list[Failure] = []
        self._silence: tuple[float, Exception] | None = None  # since when, and what was said last
        self._tries = 0  # in that silence
        self._stopped = threading.Event()

    def add(self, path: Path, again: bool = False) -> None:
        """Send a run; `again`: it may be there already, in part or whole."""
        if len(self._threads) < AT_ONCE:
            thread = threading.Thread(target=self._work, daemon=True)
            self._threads.append(thread)
            thread.start()
        with self._lock:
            self._left += 1
        self._queue.put((path, again))

    @property
    def left(self) -> int:
        """How many runs have not been written yet, or not whole."""
        return self._left

    def failures(self) -> list[Failure]:
        """Return the runs that the server has refused, once."""
        with self._lock:
            failures, self._failures = self._failures, []
        return failures

    def wait(self, longest: float) -> Exception | None:
        """Wait until all runs are written or refused; return why not, if the server is silent.

        It may be silent for `longest` seconds; those before the call do not count.
        """
        began = time.monotonic()
        many = count(self._left, "finished run")
        with said_if_slow(f"{self._where}: {many} still to be written"):
            while self._left:
                silence = self._silence
                if silence and time.monotonic() - max(began, silence[0]) > longest:
                    return silence[1]
                pause(0.02)
        return None

    def close(self) -> None:
        """Stop. What waits may still be sent for GRACE seconds, unless the server is silent."""
        end = time.monotonic() + GRACE
        while self._left and not self._silence and time.monotonic() < end:
            time.sleep(0.02)
        self._stopped.set()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        while (item := self._queue.get()) is not None and not self._stopped.is_set():
            path, again = item
            failure = self._written(path, again)
            with self._lock:
                if failure:
                    self._failures.append(failure)
                self._left -= 1

    def _written(self, path: Path, again: bool) -> Failure | None:
        """Write a run, however often it takes; return a failure if it is refused."""
        tries = 0
        while not self._stopped.is_set():
            try:
                self._send(path, again or tries > 0)
                path.unlink()
            except Exception as error:  # of MLflow, requests, urllib3 or the disk
                if not patient.no_answer(error):
                    return Failure(path, error)
                self._silent(error)
                pauses = patient.PAUSES
                self._stopped.wait(pauses[min(tries, len(pauses) - 1)])
                tries += 1
                continue
            self._answered()
            break
        return None

    def _silent(self, error: Exception) -> None:
        with self._lock:
            since = self._silence[0] if self._silence else time.monotonic()
            self._silence = (since, error)
            self._tries += 1
            said = self._tries == patient.SILENT + AT_ONCE
        if said:
            self._say(
                f"{self._where} does not answer ({reason(error)}): training goes on; finished runs "
                "wait on this machine's disk until it does"
            )

    def _answered(self) -> None:
        with self._lock:
            silence, self._silence = self._silence, None
            said, self._tries = self._tries >= patient.SILENT + AT_ONCE, 0
        if silence and said:
            self._say(f"{self._where} answers again, after {time.monotonic() - silence[0]:.0f} s")

    @staticmethod
    def _say(text: str) -> None:
        print(without_passwords(text), file=sys.stderr, flush=True)
