"""The runs of one call of a trainer, on the way through a cluster.

Runs wait, are sent out in groups, and come back as reports. A group whose place dies, or does not
answer in time, is sent out again run by run, to other nodes if there are any. The first answer
counts, whichever it is: the bits are the same.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lecun_ablate.cluster import worker
from lecun_ablate.cluster.crew import DEPTH, Crew, Ended, Slot
from lecun_ablate.cluster.pace import Pace, group_seconds, least_runs
from lecun_ablate.cluster.travel import Failed, Trained
from lecun_ablate.errors import ConfigError, LecunAblateError
from lecun_ablate.trainers.base import EpochReport, OnEpoch, Run

TRIES = 4
DEADLINE, FACTOR = 60.0, 10.0  # seconds that a group may take: at least, and times what is expected
# seconds without any process at work or starting, after which the runs are given up: where nodes
# have been left out, and where there are none
REFUSED, NOBODY = 10.0, 60.0
MOMENT = 0.5  # seconds to wait for an answer at a time: so long an interruption takes to be seen
SHOWN = 10  # failures that a message names


@dataclass(frozen=True)
class Group:
    """Runs, by their places in the sequence, that are sent out together."""

    runs: tuple[int, ...]


class Dispatch:
    """Sends runs out until each has come back or failed.

    A group has at least `together` runs if there are enough; `kit` and `data` are what it needs,
    as the engine shares them.
    """

    def __init__(
        self,
        crew: Crew,
        runs: Sequence[Run],
        pace: Pace,
        together: int,
        kit: Any,
        data: Any,
    ):
        self._crew, self._runs, self._pace, self._together = crew, runs, pace, together
        self._kit, self._data = kit, data
        order = list(range(len(runs)))
        if together > 1:  # an arm's runs are alike, and only like runs are trained at once
            order.sort(key=lambda index: runs[index].arm)
        self._waiting = deque(order)
        self._again: deque[int] = deque()  # that a place has lost
        self._open = set(range(len(runs)))
        self._tries: Counter[int] = Counter()
        self._avoid: dict[int, set[str]] = defaultdict(set)  # nodes, by run
        self._failures: dict[int, Failed] = {}
        self._alone_since: float | None = None

    def reports(
        self,
        admitted: Callable[[], list[Slot]],
        judged: Callable[[Ended], bool],
        on_epoch: OnEpoch | None,
    ) -> Iterator[EpochReport]:
        """Yield the reports of all runs; raise for those that have failed once all have ended.

        `admitted` returns the slots that may train. Whatever else has been sent to slots comes back
        here as well: `judged` takes what is its own, and tells so.
        """
        try:
            while self._open:
                self._crew.refresh()
                slots = admitted()
                self._fill(slots, whole=on_epoch is not None)
                self._refuse_to_wait_for_nobody(slots)
                for ended in self._crew.wait(MOMENT):
                    if judged(ended):
                        continue
                    for report in self._take(ended):
                        yield from self._told(report, on_epoch)
        finally:
            self._crew.withdraw()
        self._raise()

    # ---- out

    def _fill(self, slots: Sequence[Slot], whole: bool) -> None:
        nodes = {slot.place.node for slot in slots}
        for depth in range(DEPTH):
            for slot in slots:
                if len(slot.calls) != depth:
                    continue
                group = self._next(slot.place.node, nodes, len(slots))
                if group.runs:
                    self._send(slot, group, whole)

    def _send(self, slot: Slot, group: Group, whole: bool) -> None:
        runs = [self._runs[i] for i in group.runs]
        patience = max(DEADLINE, FACTOR * sum(map(self._pace.of, runs)))
        self._crew.submit(slot, patience, group, worker.train, self._kit, self._data, runs, whole)

    def _next(self, node: str, nodes: set[str], slots: int) -> Group:
        """Return the next group for a node: one run that has been lost elsewhere, or new ones."""
        for index in list(self._again):
            if node not in self._avoid[index] or nodes <= self._avoid[index]:
                self._again.remove(index)
                if index in self._open:
                    return Group((index,))
        if not self._waiting:
            return Group(())
        left = len(self._waiting) * self._pace.of(self._runs[self._waiting[0]])
        seconds = group_seconds(left, slots)
        least = least_runs(len(self._waiting), slots, self._together)
        chosen: list[int] = []
        taken = 0.0
        while self._waiting:
            index = self._waiting[0]
            taken += self._pace.of(self._runs[index])
            if len(chosen) >= least and taken > seconds:
                break
            self._waiting.popleft()
            if index in self._open:
                chosen.append(index)
        return Group(tuple(chosen))

    # ---- back

    def _take(self, ended: Ended) -> Iterator[list[EpochReport]]:
        """Yield the reports of each run that has come back for the first time."""
        group: Group = ended.about
        if ended.lost:
            self._lost(group, ended)
            return
        trained: Trained = ended.value
        for index, reports in zip(group.runs, trained.reports, strict=True):
            if index not in self._open:
                continue
            if not reports and len(group.runs) > 1:  # which of them is to blame will show
                self._again.append(index)
                continue
            self._open.remove(index)
            if not reports:
                self._failures[index] = trained.failed or Failed("it gave no report", False)
                continue
            self._pace.learn(self._runs[index].arm, reports)
            machine = f"{trained.environment['machine']} of {ended.slot.name}"
            where = dict(trained.environment, machine=machine)
            yield [replace(r, index=index, environment=where) for r in reports]

    def _lost(self, group: Group, ended: Ended) -> None:
        runs = [index for index in group.runs if index in self._open]
        if not ended.begun:
            self._waiting.extendleft(reversed(runs))
            return
        for index in runs:
            self._tries[index] += 1
            self._avoid[index].add(ended.slot.place.node)
            if self._tries[index] >= TRIES:
                self._open.remove(index)
                words = f"lost {TRIES} times, most recently: {ended.lost}"
                self._failures[index] = Failed(words, False)
            else:
                self._again.append(index)

    def _told(self, reports: list[EpochReport], on_epoch: OnEpoch | None) -> Iterator[EpochReport]:
        for report in reports:
            ends = report.last or bool(on_epoch and on_epoch(report))
            yield replace(report, last=ends)
            if ends:
                return

    # ---- what goes wrong

    def _refuse_to_wait_for_nobody(self, slots: Sequence[Slot]) -> None:
        """Raise LecunAblateError if no place can train, and none is likely to."""
        crew, now = self._crew, time.monotonic()
        if slots or crew.starting or any(slot.calls for slot in crew.slots.values()):
            self._alone_since = None
            return
        self._alone_since = now if self._alone_since is None else self._alone_since
        if now - self._alone_since > (REFUSED if crew.refused else NOBODY):
            reasons = sorted(set(crew.refused.values())) or ["the cluster has no cores to give"]
            raise LecunAblateError(
                "\n".join(["no node of the cluster can train; " + reasons[0], *reasons[1:]])
            )

    def _raise(self) -> None:
        """Raise an error that names the runs that have failed."""
        if not self._failures:
            return
        lines = [self._words(index, failed) for index, failed in self._failures.items()]
        if len(lines) > SHOWN:
            lines[SHOWN:] = [f"and {len(lines) - SHOWN} runs more"]
        if any(failed.wrong for failed in self._failures.values()):
            raise ConfigError(lines)
        raise LecunAblateError("\n".join(lines))

    def _words(self, index: int, failed: Failed) -> str:
        run = self._runs[index]
        arm = f"arm {run.arm!r}, " if run.arm else ""
        return f"{arm}seed {run.seed}: {failed.words}"
