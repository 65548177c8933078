"""Adding seeds until the intervals are narrow enough."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FIRST_LOOK = 20
BLOCK = 10


@dataclass(frozen=True)
class UntilNarrow:
    """Seeds in blocks of BLOCK after a first look at FIRST_LOOK, until intervals are narrow.

    The stop looks at widths only, never at whether a difference is significant, so it costs
    little coverage (measured by benchmarks/sequential_coverage.py).
    Chow and Robbins 1965, Annals of Mathematical Statistics 36.
    """

    halfwidth: float  # of every comparison's seed interval, a fraction of the images
    at_most: int  # seeds

    def __post_init__(self):
        if not self.halfwidth > 0:
            raise ValueError(f"halfwidth is {self.halfwidth}; expected a positive difference")
        if self.at_most < 2:
            raise ValueError(f"at_most is {self.at_most}; expected 2 seeds or more")

    def seeds_to_add(self, n: int, halfwidths: Iterable[float]) -> int:
        """Return how many seeds to add to the `n` there are, given every comparison's halfwidth.

        0: stop. The halfwidths are not looked at before FIRST_LOOK seeds.
        """
        if n >= self.at_most:
            return 0
        if n < FIRST_LOOK:
            return min(FIRST_LOOK, self.at_most) - n
        # `not <=`: a comparison without an interval is not narrow
        if any(not width <= self.halfwidth for width in halfwidths):
            return min(BLOCK, self.at_most - n)
        return 0
