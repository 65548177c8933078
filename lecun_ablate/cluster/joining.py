"""Joining a cluster, and what its nodes then train."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout

from lecun_ablate.cluster.crew import Crew
from lecun_ablate.cluster.engine import Engine
from lecun_ablate.cluster.remote import RemoteTrainer
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.errors import ConfigError
from lecun_ablate.trainers.base import Trainer


class Cluster:
    """A cluster that is joined as soon as a trainer is to train on it."""

    def __init__(self, address: str, told: Callable[[str], None], warned: Callable[[str], None]):
        self._address, self._told, self._warned = address, told, warned
        self._crew: Crew | None = None

    def spread(self, trainer: Trainer, recipes: Sequence[Recipe]) -> Trainer:
        """Return a trainer that trains on the cluster; `recipes` are those of the plan."""
        if self._crew is None:
            engine = _engine(self._address, trainer.device)
            self._crew = Crew(engine, self._told, self._warned)
        return RemoteTrainer(trainer, recipes, self._crew)

    def leave(self) -> None:
        """End what the cluster does for this process."""
        if self._crew is not None:
            self._crew.engine.close()


@contextmanager
def joined(
    address: str, told: Callable[[str], None], warned: Callable[[str], None]
) -> Iterator[Cluster]:
    """Give a cluster, and leave it in the end.

    `told` hears what goes on, `warned` of nodes that are left out. Raises ConfigError if Ray is not
    installed.
    """
    cluster = Cluster(address, told, warned)
    try:
        with redirect_stdout(sys.stderr):  # where Ray prints what its nodes have to say
            yield cluster
    finally:
        cluster.leave()


def _engine(address: str, device: str) -> Engine:
    try:
        from lecun_ablate.cluster.ray_engine import RayEngine
    except ImportError as error:
        raise ConfigError(
            f"--on {address}: Ray is not installed: pip install 'lecun-ablate[ray]' ({error})"
        ) from None
    return RayEngine(address, device)
