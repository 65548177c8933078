"""Adding seeds until the intervals are narrow enough."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FIRST_LOOK = 20
BLOCK = 10


@dataclass(frozen=True)
class UntilNarrow:
    """Adds seeds in blocks of BLOCK after a first look at `at_least`, until intervals are narrow.

    Stopping depends only on widths, never on whether a difference is significant. With the seed
    interval among sound runs, which accounts for skew, it costs almost no coverage (93 % or more in
    every row of benchmarks/sequential_coverage.py), so it spends none of alpha. It cannot see
    failures that have not occurred: `at_least` seeds without one bound the failure rate at about 3
    / at_least. Chow and Robbins 1965, Annals of Mathematical Statistics 36. Raises ValueError for a
    width that is not positive, or impossible numbers of seeds.
    """

    halfwidth: float  # of every comparison's seed interval, a fraction of the images
    at_most: int  # seeds
    at_least: int | None = None  # seeds; None: FIRST_LOOK, or `at_most` if that is fewer

    def __post_init__(self) -> None:
        if not self.halfwidth > 0:
            raise ValueError(f"halfwidth is {self.halfwidth}; expected a positive difference")
        if self.at_most < 2:
            raise ValueError(f"at_most is {self.at_most}; expected 2 seeds or more")
        if self.at_least is None:
            return
        if self.at_least < FIRST_LOOK:
            raise ValueError(
                f"at_least is {self.at_least}; expected {FIRST_LOOK} seeds or more: a sample that "
                "looks calm by luck would stop sooner"
            )
        if self.at_least > self.at_most:
            raise ValueError(f"at_least is {self.at_least}, above at_most, {self.at_most}")

    def seeds_to_add(self, n: int, halfwidths: Iterable[float]) -> int:
        """Return how many seeds to add to the existing `n`, given every comparison's halfwidth.

        0 means stop. The halfwidths are ignored below `at_least` seeds.
        """
        if n >= self.at_most:
            return 0
        first = min(self.at_least or FIRST_LOOK, self.at_most)
        if n < first:
            return first - n
        # `not <=`: a comparison without an interval is not narrow
        if any(not width <= self.halfwidth for width in halfwidths):
            return min(BLOCK, self.at_most - n)
        return 0
