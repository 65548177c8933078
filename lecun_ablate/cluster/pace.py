"""How long runs take, and so how many make a group."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable

from lecun_ablate.trainers.base import EpochReport, Run

LONGEST, SHORTEST = 8.0, 0.5  # seconds that a group takes while much is left, and at the end
SHARE = 3  # a group takes at most this part of what is left for each place


class Pace:
    """Seconds per epoch of each arm, from what has been reported; at first, from a guess."""

    def __init__(self, guess: Callable[[Run], float]):
        self._guess = guess
        self._seconds: dict[str, float] = defaultdict(float)
        self._epochs: Counter[str] = Counter()

    def learn(self, arm: str, reports: list[EpochReport]) -> None:
        """Note what the epochs of a run have taken."""
        for key in (arm, ""):
            self._seconds[key] += sum(report.seconds for report in reports)
            self._epochs[key] += len(reports)

    def of(self, run: Run) -> float:
        """Return how many seconds a run takes: as its arm does, else as all do."""
        epochs = run.last_epoch - run.first_epoch + 1
        for key in (run.arm, ""):
            if self._epochs[key]:
                return epochs * self._seconds[key] / self._epochs[key]
        return epochs * self._guess(run)


def group_seconds(left: float, places: int) -> float:
    """Return how long a group may take when `left` seconds of work are left for some places.

    Groups become shorter towards the end, so that all places end at about the same time.
    """
    return min(LONGEST, max(SHORTEST, left / (SHARE * max(1, places))))


def least_runs(left: int, places: int, together: int) -> int:
    """Return how many runs a group has at least: those that are trained at once, shared evenly."""
    return min(together, math.ceil(left / max(1, places)))
