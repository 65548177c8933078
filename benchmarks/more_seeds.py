"""What following the advice "N more seeds would probably decide it" costs, by simulation.

    python benchmarks/more_seeds.py

Two arms are compared over 10 seeds, and as long as the verdict is undecided, the seeds that it asks
for are added, up to a number of looks and of seeds. Where the arms are the same, it is counted how
often one has been called better or worse in the end; where they are not, how often the better one
has been, and with how many seeds. Four ways to pay for the looks:

- none: every look decides at 0.05;
- 1 / k^2: look k decides at 0.05 * 6 / (pi^2 k^2);
- look_level: look k decides at 0.05 * 0.64 * 0.36^(k - 1), what the project does;
- always valid: at whichever numbers of seeds one looks, the t test that mixes over effect sizes
  (Lai 1976, Annals of Statistics 4; Wang and Ramdas 2023, arXiv:2310.03722).

Deterministic.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lecun_ablate.statistics import (
    Comparison,
    compare,
    decide,
    difference_interval,
    look_level,
    sign_flip_test,
)
from lecun_ablate.statistics.arrays import spread

FIRST, LOOKS, MOST = 10, 5, 200
BASELINE = 0.06  # the error of the baseline with every seed; only differences count
PERMUTATIONS = 1_999  # a fiftieth of the usual, to have an answer in minutes
MIXTURE = 3.0  # of the always-valid test: effect sizes have the sd 1 / sqrt(3)

EMPTY = compare(np.full(2, BASELINE), np.full(2, BASELINE), resamples=9)


def comparison(differences: np.ndarray, level: float) -> Comparison:
    """Return what a verdict needs of a comparison; `compare` works out much else."""
    return replace(
        EMPTY,
        n=len(differences),
        difference=float(differences.mean()),
        sd=spread(differences),
        interval=difference_interval(
            BASELINE + differences, np.full(len(differences), BASELINE), level=1 - level
        ),
        p=sign_flip_test(differences, permutations=PERMUTATIONS)[0],
    )


def always_valid(one: Comparison, squares: float) -> float:
    """Return the p that is valid at every look, from the mean and the sum of squares."""
    n, total = one.n, one.n * one.difference
    evidence = 0.5 * math.log(MIXTURE / (n + MIXTURE)) - n / 2 * math.log1p(
        -(total**2) / ((n + MIXTURE) * squares)
    )
    return min(1.0, math.exp(-evidence))


Rule = Callable[[int], float]  # the level of look 1, 2, ...
RULES: dict[str, Rule | None] = {
    "none": lambda look: 0.05,
    "1 / k^2": lambda look: 0.05 * 6 / (math.pi * look) ** 2,
    "look_level": look_level,
    "always valid": None,
}


def follow(differences: np.ndarray, rule: Rule | None) -> tuple[str, str, int]:
    """Return the verdict at the first look and in the end, and the number of seeds in the end."""
    n, seen = FIRST, []
    for look in range(1, LOOKS + 1):
        level, next_level = (rule(look), rule(look + 1)) if rule else (0.05, 0.015)
        one = comparison(differences[:n], level)
        p = None if rule else always_valid(one, float((differences[:n] ** 2).sum()))
        verdict = decide(one, p, alpha=level, next_alpha=next_level)
        seen.append(verdict.kind)
        if verdict.more_seeds is None or n + verdict.more_seeds > MOST:
            break
        n += verdict.more_seeds
    return seen[0], seen[-1], n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=1000)
    experiments = parser.parse_args().experiments
    print(f"{experiments:,} experiments per row, one comparison each, at most {LOOKS} looks")
    print()
    print("| true difference, sd (points) | price | first look | in the end | seeds |")
    print("|---|---|---|---|---|")
    for difference, sd in ((0, 0.6), (0, 1.0), (0, 1.5), (0.3, 0.6), (0.5, 1.0), (0.8, 1.5)):
        for name, rule in RULES.items():
            rng = np.random.default_rng(0)
            samples = (
                rng.normal(difference / 100, sd / 100, MOST).clip(-BASELINE, None)
                for _ in range(experiments)
            )
            found = [follow(sample, rule) for sample in samples]
            called = ("better", "worse") if difference == 0 else ("worse",)
            first, last = (np.mean([row[k] in called for row in found]) for k in (0, 1))
            seeds = np.mean([row[2] for row in found])
            kind = "wrong" if difference == 0 else "seen"
            print(
                f"| {difference:g}, {sd:g} | {name} | {100 * first:.1f} % {kind} "
                f"| {100 * last:.1f} % | {seeds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
