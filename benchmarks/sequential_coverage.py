"""What stopping on the width of the interval costs in coverage, by simulation.

    python benchmarks/sequential_coverage.py

Paired differences over seeds are drawn with a known mean; seeds are added by the rule that
`seeds: {until: {halfwidth: ..., at_most: ...}}` follows, with the interval it looks at; then the
last interval is checked for the true mean. Beside it, the same interval at the number of seeds
that the rule took on average, fixed in advance. Deterministic.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lecun_ablate.statistics import Interval, UntilNarrow, seed_interval

HALFWIDTH = 0.002  # 0.2 points
AT_MOST = 100
RESAMPLES = 999  # a tenth of the usual, to have an answer in minutes

Draw = Callable[[np.random.Generator, int], np.ndarray]  # differences (n,) with mean 0 and sd 1


def normal(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.normal(size=n)


def skewed(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.exponential(size=n) - 1  # now and then a seed goes wrong


def heavy_tailed(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_t(5, size=n) / np.sqrt(5 / 3)


@dataclass(frozen=True)
class Coverage:
    """How a rule did over many experiments."""

    sequential: float  # share of experiments whose last interval held the true mean
    fixed: float  # the same with the mean number of seeds, fixed in advance
    seeds: float  # mean number of seeds at the stop
    at_limit: float  # share of experiments that ended at the most seeds allowed


def measure(
    draw: Draw, sd: float, rule: UntilNarrow, experiments: int, rng_seed: int = 0
) -> Coverage:
    """Return the coverage of `rule` on differences with mean 0 and the given sd (a fraction)."""
    rng = np.random.default_rng(rng_seed)
    samples = [sd * draw(rng, rule.at_most) for _ in range(experiments)]
    taken = np.array([stop(sample, rule) for sample in samples])
    fixed = round(taken.mean())
    return Coverage(
        sequential=np.mean([covers(s[:n]) for s, n in zip(samples, taken, strict=True)]),
        fixed=np.mean([covers(s[:fixed]) for s in samples]),
        seeds=taken.mean(),
        at_limit=np.mean(taken == rule.at_most),
    )


def stop(differences: np.ndarray, rule: UntilNarrow) -> int:
    """Return how many seeds the rule takes of the differences (at_most,)."""
    n = rule.seeds_to_add(0, [])
    while more := rule.seeds_to_add(n, [interval(differences[:n]).halfwidth]):
        n += more
    return n


def covers(differences: np.ndarray) -> bool:
    return not interval(differences).excludes(0)


def interval(differences: np.ndarray) -> Interval:
    return seed_interval(differences, resamples=RESAMPLES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=4000)
    experiments = parser.parse_args().experiments
    rule = UntilNarrow(HALFWIDTH, AT_MOST)
    print(
        f"target: halfwidth {100 * HALFWIDTH:g} points, at most {AT_MOST} seeds; "
        f"{experiments:,} experiments per row"
    )
    print()
    print("| differences | sd (points) | seeds | at the limit | coverage | fixed in advance |")
    print("|---|---|---|---|---|---|")
    for draw in (normal, skewed, heavy_tailed):
        for sd in (0.003, 0.006, 0.009):
            found = measure(draw, sd, rule, experiments)
            print(
                f"| {draw.__name__.replace('_', '-')} | {100 * sd:.1f} | {found.seeds:.0f} "
                f"| {100 * found.at_limit:.0f} % | {100 * found.sequential:.1f} % "
                f"| {100 * found.fixed:.1f} % |"
            )


if __name__ == "__main__":
    main()
