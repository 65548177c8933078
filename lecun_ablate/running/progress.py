"""What is told of training while it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lecun_ablate.trainers.base import EpochReport


@dataclass(frozen=True)
class Work:
    """Runs that are about to be trained."""

    what: str  # in words, for people
    runs: Sequence[tuple[str, int]]  # the arm of each run, and the epochs that it is trained for
    split: str | None = None  # whose errors are worth watching, if any are


class Progress(Protocol):
    """A display of how training goes."""

    def begin(self, work: Work) -> None:
        """Training starts."""

    def epoch(self, run: int, report: EpochReport) -> None:
        """A run, given by its place in `work.runs`, has ended an epoch."""

    def end(self) -> None:
        """Training has ended, for whatever reason."""
