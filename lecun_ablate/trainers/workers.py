"""Jobs on threads, whose reports are read as one stream."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from lecun_ablate.trainers.base import EpochReport, OnEpoch

Finish = Callable[[EpochReport], bool]
Job = Callable[[Finish], None]

WAITING = 4096  # reports kept for a slow reader; beyond it, training waits


def reports_of(
    jobs: Sequence[Job], threads: int, on_epoch: OnEpoch | None, name: str
) -> Iterator[EpochReport]:
    """Run jobs, `threads` at a time, and yield what they report.

    A job is given a function to call with each of its reports, one after the other. It returns
    whether the report's run ends there. An exception in a job is raised once the others have ended.
    Closing the generator ends all runs.
    """
    waiting: queue.Queue[EpochReport | Exception | None] = queue.Queue(WAITING)
    stop = threading.Event()
    one_at_a_time = threading.Lock()

    def put(item: EpochReport | Exception | None) -> None:
        while not stop.is_set():
            try:
                return waiting.put(item, timeout=0.1)
            except queue.Full:
                continue

    def finish(report: EpochReport) -> bool:
        if stop.is_set():
            return True
        with one_at_a_time:
            ends = bool(on_epoch and on_epoch(report)) or report.last
        put(replace(report, last=ends))
        return ends or stop.is_set()

    def work(job: Job) -> None:
        try:
            if not stop.is_set():
                job(finish)
            put(None)
        except Exception as error:  # from a user's component, for example; the other jobs go on
            put(error)

    with ThreadPoolExecutor(threads, thread_name_prefix=name) as pool:
        for job in jobs:
            pool.submit(work, job)
        try:
            working, errors = len(jobs), []
            while working:
                item = waiting.get()
                if isinstance(item, EpochReport):
                    yield item
                else:
                    working -= 1
                    errors += [item] if item else []
        finally:
            stop.set()
    if errors:
        raise errors[0]
