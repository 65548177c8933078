"""Ranking arms that are all compared with one another, in groups that cannot be told apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lecun_ablate.statistics.results import ExperimentResult


@dataclass(frozen=True)
class Ranking:
    """Arms from best to worst, in groups in which no two arms can be told apart.

    Groups may overlap: A cannot be told apart from B, nor B from C, although A and C can.
    """

    order: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]  # each as large as possible

    @property
    def letters(self) -> dict[str, str]:
        """The letters of each arm's groups: arms that share a letter cannot be told apart."""
        return {
            arm: "".join(chr(ord("a") + k) for k, group in enumerate(self.groups) if arm in group)
            for arm in self.order
        }


def rank(result: ExperimentResult, errors: Mapping[str, float]) -> Ranking:
    """Return the ranking of arms by their mean errors, from comparisons of all of them.

    Two arms are told apart if one is called better than the other; pairs that were not compared are
    not told apart. The letters are those of Piepho 2004, Journal of Computational and Graphical
    Statistics 13. Raises ValueError for a comparison of an arm without an error.
    """
    for pair in result.pairs:
        for arm in (pair.arm, pair.baseline):
            if arm not in errors:
                raise ValueError(f"arm {arm!r} has no error; expected one of {sorted(errors)}")
    order = tuple(sorted(errors, key=lambda arm: errors[arm]))
    apart = {frozenset((pair.arm, pair.baseline)) for pair in result.pairs if pair.called}
    groups: set[frozenset[str]] = {frozenset(order)}
    for two in sorted(apart, key=sorted):
        split = {group for group in groups if two <= group}
        groups = groups - split | {group - {arm} for group in split for arm in two}
        groups = {group for group in groups if not any(group < other for other in groups)}
    ordered = [tuple(arm for arm in order if arm in group) for group in groups]
    places = {arm: k for k, arm in enumerate(order)}
    return Ranking(order, tuple(sorted(ordered, key=lambda group: [places[arm] for arm in group])))
