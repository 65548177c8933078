"""The places of a cluster, as they come and go, and what each is at work on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from lecun_ablate.cluster import worker
from lecun_ablate.cluster.engine import Answer, Engine, Place
from lecun_ablate.system.text import count

LOOKS = 2.0  # seconds between two looks at which nodes there are
QUIET = 30.0  # seconds without a slot, after which that is said
STARTS = 3  # of a process, after which its node is left out
DEPTH = 2  # calls that a place is given at a time, so that it never waits for the next


@dataclass(eq=False)
class Call:
    """A call that a place has been given."""

    ticket: int
    patience: float  # seconds that it may take
    about: Any  # whatever the caller wants to find again
    due: float = float("inf")  # set as soon as it is the first of its place


@dataclass(eq=False)
class Slot:
    """A place, with the calls that it has been given: it works on the first."""

    place: Place
    ready: bool = False
    calls: list[Call] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the node."""
        return self.place.name


@dataclass(frozen=True)
class Ended:
    """What has become of a call: it has an answer, or its slot is gone."""

    slot: Slot
    about: Any
    value: Any = None
    lost: str = ""  # why it has no answer
    begun: bool = True  # whether the place was at work on it


class Crew:
    """The slots that can be given work.

    A slot is ready once its process has answered: until then it waits for a free core, or imports.
    `told` hears of nodes that come and go, `warned` of those that are left out.
    """

    def __init__(self, engine: Engine, told: Callable[[str], None], warned: Callable[[str], None]):
        self.engine = engine
        self.slots: dict[str, Slot] = {}  # by the id of the place
        self.refused: dict[str, str] = {}  # why a node is left out, by the node's id
        self._told, self._warned = told, warned
        self._calls: dict[int, tuple[Slot, Call]] = {}
        self._failed_starts: Counter[str] = Counter()
        self._looked = self._heard = float("-inf")
        self._idle_since = time.monotonic()
        self._shown = ""

    def refresh(self) -> None:
        """Look which places there are, from time to time; greet the new ones."""
        if time.monotonic() - self._looked < LOOKS:
            return
        places = {place.id: place for place in self.engine.places(self.refused)}
        for gone in [s for s in self.slots.values() if s.place.id not in places and not s.calls]:
            del self.slots[gone.place.id]  # others hear of it from their calls
        for place in places.values():
            if place.id not in self.slots and place.node not in self.refused:
                self.slots[place.id] = slot = Slot(place)
                self.submit(slot, float("inf"), None, worker.greet)
        self._looked = time.monotonic()
        if any(slot.ready for slot in self.slots.values()):
            self._idle_since = self._looked
        elif self._looked - self._idle_since > QUIET:
            self._told("waiting for a node with a free core")
            self._idle_since = self._looked

    def show(self, slots: Sequence[Slot]) -> None:
        """Say on how many nodes and slots there is training, if that has changed."""
        nodes = len({slot.place.node for slot in slots})
        words = f"training on {count(nodes, 'node')}, {count(len(slots), 'slot')}"
        if slots and words != self._shown:
            self._told(words)
            self._shown = words

    @property
    def starting(self) -> bool:
        """Whether a process has been asked for that has not answered yet."""
        return any(not slot.ready for slot in self.slots.values())

    def refuse(self, slot: Slot, reason: str) -> None:
        """Leave the node of a slot out from now on."""
        node = slot.place.node
        if node not in self.refused:
            self.refused[node] = reason
            self._warned(f"{slot.name} is left out: {reason}")
        for other in [s for s in self.slots.values() if s.place.node == node]:
            self.engine.cancel(other.place)
            del self.slots[other.place.id]

    # ---- calls

    def submit(
        self, slot: Slot, patience: float, about: Any, function: Callable[..., Any], *arguments: Any
    ) -> None:
        """Give a slot a call that may take `patience` seconds once it is its turn."""
        ticket = self.engine.submit(slot.place, function, *arguments)
        call = Call(ticket, patience, about)
        self._calls[ticket] = (slot, call)
        slot.calls.append(call)
        self._start_clock(slot)

    def _start_clock(self, slot: Slot) -> None:
        if slot.calls and slot.calls[0].due == float("inf"):
            slot.calls[0].due = time.monotonic() + slot.calls[0].patience

    def wait(self, seconds: float) -> list[Ended]:
        """Return the calls that have ended; wait for the first for some seconds at most.

        A call whose time is up ends its process, and all calls of that are lost.
        """
        self._heard = time.monotonic()  # whatever has been answered by now is seen below
        ended: list[Ended] = []
        for answer in self.engine.wait(seconds):
            if answer.ticket in self._calls:
                ended += self._end(answer)
        for slot in list(self.slots.values()):
            if slot.calls and slot.calls[0].due < self._heard:
                self.engine.cancel(slot.place)
                late = f"no answer from {slot.name} within {slot.calls[0].patience:.0f} s"
                ended += self._lose(slot, late)
        return ended

    def _end(self, answer: Answer) -> list[Ended]:
        slot, call = self._calls[answer.ticket]
        if answer.lost:
            return self._lose(slot, f"{slot.name}: {answer.lost}")
        del self._calls[answer.ticket]
        if call in slot.calls:  # else it has been given up, and comes after all
            slot.calls.remove(call)
            self._start_clock(slot)
        if call.about is None:
            self._greeted(slot, answer.value)
            return []
        return [Ended(slot, call.about, answer.value)]

    def _greeted(self, slot: Slot, there: str) -> None:
        slot.ready = True
        if there != (here := version("lecun_ablate")):
            self.refuse(slot, f"it has lecun_ablate {there}, and this machine {here}")

    def _lose(self, slot: Slot, reason: str) -> list[Ended]:
        """Give a slot up. Answers to what it was given still count if they come."""
        if self.slots.pop(slot.place.id, None) and slot.ready:
            self._told(f"a process is lost, and its work given to another: {reason}")
        self._looked = float("-inf")
        calls, slot.calls = slot.calls, []
        if not slot.ready:
            self._failed_starts[slot.place.node] += 1
            if self._failed_starts[slot.place.node] >= STARTS:
                self.refuse(slot, reason)
        return [
            Ended(slot, call.about, lost=reason, begun=call is calls[0])
            for call in calls
            if call.about is not None
        ]

    def withdraw(self) -> None:
        """End the processes that are at work: nobody wants their answers."""
        for slot in list(self.slots.values()):
            if any(call.about is not None for call in slot.calls):
                self.engine.cancel(slot.place)
                del self.slots[slot.place.id]
                slot.calls.clear()
        self._calls = {t: (s, c) for t, (s, c) in self._calls.items() if c.about is None}
