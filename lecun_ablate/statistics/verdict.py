"""A comparison's verdict in plain words, by fixed rules.

In this order, with `alpha` 0.05 and a `margin` below which a difference does not matter:

1. undecided, if so few seeds could not give a significant result whatever they were, or if both
   arms diverged with every seed;
2. better or worse, if the corrected p is at most alpha and the seed interval excludes 0;
3. no difference, if the seed interval lies within the margin: its farther end is the largest
   difference that is not excluded;
4. undecided otherwise, with the seeds that would probably tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lecun_ablate.statistics.images import JointComparison
from lecun_ablate.statistics.paired import Comparison, smallest_p
from lecun_ablate.statistics.planning import MOST_SEEDS, POWER, seeds_for_equivalence, seeds_needed
from lecun_ablate.statistics.power import ALPHA, fewest_seeds
from lecun_ablate.statistics.wording import at_most, count, points, span

MARGIN = 0.005  # half a point: ten of 2,007 test images

Kind = Literal["better", "worse", "no difference", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """What can be concluded about an arm, and what it would take to know more."""

    kind: Kind
    text: str  # one sentence without its full stop
    more_seeds: int | None = None  # that would probably decide it; only when undecided


BOTH_DIVERGED = Verdict("undecided", "undecided: both arms diverged with every seed")


def decide(
    comparison: Comparison,
    p_adjusted: float | None = None,
    *,
    smallest: float | None = None,
    comparisons: int = 1,
    margin: float = MARGIN,
    alpha: float = ALPHA,
) -> Verdict:
    """Return the verdict on one of an experiment's `comparisons`, by the rules above.

    `p_adjusted` is its p after correction for the others (None: the comparison's own p), `smallest`
    the least that so many seeds could have made of it (None: with as many seeds in the others);
    `margin` is a fraction of the images, like the errors. Raises ValueError for a margin <= 0.
    """
    if margin <= 0:
        raise ValueError(f"margin is {margin}; expected a positive difference in error")
    p = comparison.p if p_adjusted is None else p_adjusted
    n, interval = comparison.n, comparison.interval
    if smallest is None:
        smallest = comparisons * smallest_p(n)
    if interval is None:
        fewest = fewest_seeds(comparisons, alpha)
        text = f"undecided: one seed does not show the spread; {count(fewest, 'seed')} could tell"
        return Verdict("undecided", text, fewest - n)
    if smallest <= alpha:
        if p <= alpha and interval.excludes(0):
            kind = "better" if comparison.difference < 0 else "worse"
            text = f"{kind} by {points(abs(comparison.difference), sign=False)} {span(interval)}"
            return Verdict(kind, text)
        if comparison.identical:
            return Verdict("no difference", f"no difference with any of {count(n, 'seed')}")
        if interval.bound <= margin:
            text = f"no difference larger than {at_most(interval.bound)}"
            return Verdict("no difference", text)
    more = _more_seeds(comparison, comparisons, margin, alpha)
    if n + more >= MOST_SEEDS:
        return Verdict("undecided", "undecided: no feasible number of seeds would tell", more)
    return Verdict("undecided", f"undecided: {count(more, 'more seed')} would probably tell", more)


def _more_seeds(comparison: Comparison, comparisons: int, margin: float, alpha: float) -> int:
    """Return the seeds to add for a chance of POWER to decide, if mean and spread stay the same.

    By rule 2 or by rule 3, whichever takes fewer seeds.
    """
    distance = abs(comparison.difference)
    plan = {"alpha": alpha, "target": POWER, "comparisons": comparisons}
    needed = []
    if distance > 0:
        needed.append(seeds_needed(distance, comparison.sd, **plan))
    if distance < margin:
        needed.append(seeds_for_equivalence(distance, margin, comparison.sd, **plan))
    return max(1, min(needed) - comparison.n)


def second_sentence(verdict: Verdict, joint: JointComparison) -> str:
    """Return what the verdict, which is about this test set, means for new images."""
    found = f"{points(joint.difference)} {span(joint.interval)}"
    if verdict.kind not in ("better", "worse"):
        return f"For new images of this kind: {found}."
    if joint.interval.excludes(0):
        return f"The same holds for new images of this kind: {found}."
    return f"For new images of this kind it remains open: {found}."
