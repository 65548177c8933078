"""A cluster that Ray runs. No other file imports Ray.

Of Ray, this uses actors, objects and the list of nodes, and none of its retries: with unlimited
ones, a node that freezes can leave a call waiting for ever.
"""

from __future__ import annotations

import logging
import os
import signal
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read while Ray is imported

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lecun_ablate.cluster.address import INSIDE
from lecun_ablate.cluster.engine import Answer, Place
from lecun_ablate.cluster.worker import Worker
from lecun_ablate.errors import LecunAblateError

# what a process on a node is to have as this one has it
SHARED_ENVIRONMENT = ("ATEN_CPU_CAPABILITY",)
FETCH = 10.0  # seconds that an answer that is there may take to be read


class RayEngine:
    """The cluster at an address, which this process joins; a place is an actor.

    `device` says what a place needs beside a core: "cpu" nothing, "cuda" a GPU. Raises
    LecunAblateError if the cluster does not take this process.
    """

    def __init__(self, address: str, device: str):
        with _own_handlers():
            try:
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    include_dashboard=None,
                )
            except (RuntimeError, ConnectionError, ValueError, RayError) as error:
                first = str(error).strip().split("\n", maxsplit=1)[0]
                raise LecunAblateError(f"--on {address}: {first}\n{INSIDE}") from None
        if hasattr(ray._private.worker, "_worker_logs_enabled"):
            # what raylets say of a process that dies, in a long line each: `told` hears of it, too
            ray._private.worker._worker_logs_enabled = False
        self._gpu = device == "cuda"
        self._actors: dict[str, tuple[Place, Any]] = {}
        self._tickets: dict[Any, tuple[int, Place]] = {}  # by object reference
        self._made = self._asked = 0

    def places(self, without: Collection[str]) -> list[Place]:
        """Return the places there are now; see engine.Engine."""
        alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        for place, _ in list(self._actors.values()):
            if place.node not in alive:
                self._forget(place)
        names = Counter(node["NodeManagerHostname"] for node in alive.values())
        for node, known in alive.items():
            if node in without:
                continue
            name = known["NodeManagerHostname"]
            if names[name] > 1:
                name = f"{name} ({node[:8]})"
            there = sum(place.node == node for place, _ in self._actors.values())
            for _ in range(self._slots(known["Resources"]) - there):
                self._start(node, name)
        return [place for place, _ in self._actors.values()]

    def _slots(self, resources: dict[str, float]) -> int:
        cores = int(resources.get("CPU", 0))
        return min(cores, int(resources.get("GPU", 0))) if self._gpu else cores

    def _start(self, node: str, name: str) -> None:
        self._made += 1
        place = Place(f"{node}/{self._made}", node, name)
        environment = {k: os.environ[k] for k in SHARED_ENVIRONMENT if k in os.environ}
        actor = ray.remote(Worker).options(
            num_cpus=1,
            num_gpus=1 if self._gpu else 0,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        self._actors[place.id] = (place, actor.remote(environment))

    def share(self, value: Any) -> Any:
        """Put a value where every node fetches it once; see engine.Engine."""
        return ray.put(value)

    def submit(self, place: Place, function: Callable[..., Any], *arguments: Any) -> int:
        """Call a function at a place; see engine.Engine."""
        self._asked += 1
        _, actor = self._actors[place.id]
        self._tickets[actor.call.remote(function, *arguments)] = (self._asked, place)
        return self._asked

    def wait(self, seconds: float) -> list[Answer]:
        """Return the answers there are; see engine.Engine."""
        if not self._tickets:
            time.sleep(seconds)
            return []
        waiting = list(self._tickets)
        ready, _ = ray.wait(waiting, num_returns=1, timeout=seconds)
        if ready:
            ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        return [self._answer(reference) for reference in ready]

    def _answer(self, reference: Any) -> Answer:
        ticket, place = self._tickets.pop(reference)
        try:
            return Answer(ticket, ray.get(reference, timeout=FETCH))
        except RayError as error:
            self.cancel(place)
            return Answer(ticket, lost=_words(error))

    def cancel(self, place: Place) -> None:
        """End the process of a place; see engine.Engine."""
        if actor := self._forget(place):
            ray.kill(actor, no_restart=True)

    def _forget(self, place: Place) -> Any:
        return self._actors.pop(place.id, (place, None))[1]

    def close(self) -> None:
        """End all processes and leave the cluster; see engine.Engine."""
        for place, _ in list(self._actors.values()):
            self.cancel(place)
        ray.shutdown()


def _words(error: RayError) -> str:
    """Return the line of an error that says most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return textwrap.shorten(f"{type(error).__name__}: {lines[-1] if lines else ''}", 200)


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Keep this process's signal handlers: Ray puts its own in their place."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {which: signal.getsignal(which) for which in signals}
    try:
        yield
    finally:
        for which, handler in before.items():
            if handler is not None:
                signal.signal(which, handler)
