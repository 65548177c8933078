"""A comparison's verdict in plain words, by fixed rules.

In this order, with an error `alpha` and a `margin` below which a difference does not matter:

1. undecided, if there are too few seeds for any result to be significant, or if both arms diverged
   with every seed;
2. better or worse, if the corrected p is at most alpha and the seed interval excludes 0; by less
   than matters, if the whole interval lies within the margin;
3. no difference, if the seed interval lies within the margin: its end farther from 0 is the
   largest difference that is not excluded;
4. undecided otherwise, with the number of seeds that would probably decide it at the next look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lecun_ablate.statistics.images import JointComparison
from lecun_ablate.statistics.intervals import Interval
from lecun_ablate.statistics.paired import Comparison, smallest_p
from lecun_ablate.statistics.planning import (
    MOST_SEEDS,
    POWER,
    searches_needed,
    seeds_for_equivalence,
    seeds_needed,
)
from lecun_ablate.statistics.power import ALPHA, fewest_seeds
from lecun_ablate.statistics.wording import at_most, points, span
from lecun_ablate.system.text import count, plural

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
    fewest: int | None = None,
    comparisons: int = 1,
    margin: float = MARGIN,
    alpha: float = ALPHA,
    next_alpha: float | None = None,
) -> Verdict:
    """Return the verdict on one of an experiment's `comparisons`, by the rules above.

    `p_adjusted` is its p after correction for the others (None: the comparison's own p), `smallest`
    the smallest value that p could have with this many seeds, and `fewest` the number of seeds
    needed to call it at the next look (None: by the step-down correction, as if alone). `margin` is
    a fraction of the images, like the errors. `next_alpha` is the level of the next look, for which
    more seeds are planned (None: `alpha`). Raises ValueError for a margin <= 0.
    """
    next_alpha = alpha if next_alpha is None else next_alpha
    unit = comparison.unit
    if margin <= 0:
        raise ValueError(f"margin is {margin}; expected a positive difference in error")
    p = comparison.p if p_adjusted is None else p_adjusted
    n, interval = comparison.n, comparison.interval
    if smallest is None:
        smallest = smallest_p(n)
    if fewest is None:
        fewest = fewest_seeds(alpha=next_alpha)
    if interval is None:
        text = (
            f"undecided: one {unit} does not show the spread; {count(fewest, unit)} could decide it"
        )
        return Verdict("undecided", text, fewest - n)
    if smallest <= alpha:
        if p <= alpha and interval.excludes(0):
            kind: Kind = "better" if comparison.difference < 0 else "worse"
            if interval.bound <= margin:
                return Verdict(kind, f"{kind}, but by less than matters ({_bound(interval)})")
            text = f"{kind} by {points(abs(comparison.difference), sign=False)} {span(interval)}"
            return Verdict(kind, text)
        if comparison.identical:
            return Verdict("no difference", f"no difference with any of {count(n, unit)}")
        if interval.bound <= margin:
            text = f"no difference larger than {at_most(interval.bound)}"
            return Verdict("no difference", text)
    more = max(fewest - n, _more_seeds(comparison, comparisons, margin, next_alpha))
    if n + more >= MOST_SEEDS:
        return Verdict(
            "undecided", f"undecided: no feasible number of {plural(unit)} would decide it", more
        )
    return Verdict(
        "undecided", f"undecided: {count(more, f'more {unit}')} would probably decide it", more
    )


def _more_seeds(comparison: Comparison, comparisons: int, margin: float, alpha: float) -> int:
    """Return the seeds to add for a chance of POWER to decide, if mean and spread stay the same.

    By rule 2 or rule 3, whichever needs fewer seeds. For searches, by rule 2 only.
    """
    distance = abs(comparison.difference)
    if comparison.unit == "search":
        if distance == 0:
            return MOST_SEEDS
        needed_searches = searches_needed(
            distance, comparison.sd, alpha=alpha, target=POWER, comparisons=comparisons
        )
        return max(1, needed_searches - comparison.n)
    needed = []
    if distance > 0:
        needed.append(
            seeds_needed(
                distance, comparison.sd, alpha=alpha, target=POWER, comparisons=comparisons
            )
        )
    if distance < margin:
        needed.append(
            seeds_for_equivalence(distance, margin, comparison.sd, alpha=alpha, target=POWER)
        )
    return max(1, min(needed) - comparison.n)


def _bound(interval: Interval) -> str:
    return f"at most {at_most(interval.bound).removesuffix(' points')}"


def second_sentence(verdict: Verdict, joint: JointComparison, holds: bool) -> str:
    """Return what the verdict, which is about this test set, means for new images.

    `holds` says whether the verdict extends to them: the joint interval excludes 0, and the joint p
    is significant after correction for the other comparisons.
    """
    found = f"{points(joint.difference)} {span(joint.interval)}"
    if verdict.kind not in ("better", "worse"):
        return f"For new images of this kind: {found}."
    if holds:
        return f"The same holds for new images of this kind: {found}."
    return f"For new images of this kind it remains open: {found}."
