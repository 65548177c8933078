"""What is asked of a cluster: places that do calls, each one at a time, and answer them.

Nothing here is repeated or moved when something dies: the answer says that the call is lost, and
`dispatch` decides what is done about it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Place:
    """A process on a node, for one core or one GPU."""

    id: str
    node: str
    name: str  # of the node, for people


@dataclass(frozen=True)
class Answer:
    """What has become of a call."""

    ticket: int
    value: Any = None
    lost: str = ""  # why there is no value: the process or its node has died


class Engine(Protocol):
    """A cluster."""

    def places(self, without: Collection[str]) -> list[Place]:
        """Return the places there are now; start the processes that are missing.

        None is started on the nodes of `without`. A place may be given calls before its process is
        up. One that has died is not listed again: another replaces it while its node is alive.
        """

    def share(self, value: Any) -> Any:
        """Put a value where every node fetches it once; `submit` takes the result as an argument.

        It is kept as long as the result is.
        """

    def submit(self, place: Place, function: Callable[..., Any], *arguments: Any) -> int:
        """Call a function of a module at a place, after the calls before it; return a ticket."""

    def wait(self, seconds: float) -> list[Answer]:
        """Return the answers there are; wait for the first one for some seconds at most."""

    def cancel(self, place: Place) -> None:
        """End the process of a place: its calls come back as lost, sooner or later."""

    def close(self) -> None:
        """End all processes and leave the cluster."""
