"""The interface through which training reports its progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lecun_ablate.trainers.base import EpochReport


@dataclass(frozen=True)
class Work:
    """Runs that are about to be trained."""

    what: str  # a description for display
    runs: Sequence[tuple[str, int]]  # the arm of each run, and the epochs that it is trained for
    split: str | None = None  # whose errors are worth watching, if any are


class Progress(Protocol):
    """A display of training progress."""

    def begin(self, work: Work) -> None:
        """Training starts."""

    def epoch(self, run: int, report: EpochReport) -> None:
        """A run, given by its index in `work.runs`, has finished an epoch."""

    def end(self) -> None:
        """Training has ended, for whatever reason."""
