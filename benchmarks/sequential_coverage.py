"""What stopping on the width of the interval costs in coverage, by simulation.

    python benchmarks/sequential_coverage.py

Paired runs over seeds are drawn with a known mean difference; in the last rows the arm's runs, or
those of both arms, also collapse at a known rate, and cost 75 points each. Seeds are added by the
rule that `seeds: {until: {halfwidth: ..., at_most: ..., at_least: ...}}` follows, with the interval
it looks at, that of the sound runs. At the stop it is checked what holds the truth:

- sound: the interval of the difference among sound runs;
- rates: the exact intervals of the failure rates, per arm;
- with failures: the interval over all runs that counts failures not met yet;
- naive: the interval over all runs as if they were one sample, which is shown here only to say why
  failures are an outcome of their own;
- fixed: "sound" at the mean number of seeds that the rule took, fixed in advance.

Deterministic.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lecun_ablate.statistics import (
    UntilNarrow,
    failure_rate,
    interval_ends,
    interval_with_failures,
    seed_interval,
)
from lecun_ablate.statistics.stopping import FIRST_LOOK

HALFWIDTH = 0.002  # 0.2 points
AT_MOST = 100
ERROR, COLLAPSED = 0.05, 0.80  # of the baseline's sound runs, and of those that collapsed
NO_FAILURES = (0.0, 0.0)

Draw = Callable[[np.random.Generator, tuple], np.ndarray]  # differences with mean 0 and sd 1


def normal(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    return rng.normal(size=shape)


def skewed(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    return rng.exponential(size=shape) - 1


def heavy_tailed(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    return rng.standard_t(5, size=shape) / np.sqrt(5 / 3)


@dataclass(frozen=True)
class Sample:
    """The runs of one experiment, (seeds,) each: errors of the arm and its baseline, failures."""

    arm: np.ndarray
    baseline: np.ndarray
    failed: np.ndarray  # (2, seeds) bool

    def sound(self, n: int) -> np.ndarray:
        """Return the differences of the first n seeds with which neither arm failed."""
        kept = ~self.failed[:, :n].any(axis=0)
        return (self.arm[:n] - self.baseline[:n])[kept]


@dataclass(frozen=True)
class Coverage:
    """How a rule did over many experiments: shares of these, but for `seeds`, the mean number."""

    seeds: float
    at_limit: float
    sound: float
    rates: float
    with_failures: float
    naive: float
    fixed: float


def measure(
    draw: Draw,
    sd: float,
    rule: UntilNarrow,
    experiments: int,
    failing: tuple[float, float] = NO_FAILURES,
    rng_seed: int = 0,
) -> Coverage:
    """Return how `rule` does where differences have mean 0 and the given sd (a fraction).

    `failing` are the rates at which runs of the arm and of the baseline collapse.
    """
    rng = np.random.default_rng(rng_seed)
    differences = sd * draw(rng, (experiments, rule.at_most))
    failed = rng.random((experiments, 2, rule.at_most)) < np.array(failing)[:, None]
    samples = [
        Sample(
            np.where(which[0], COLLAPSED, ERROR + row),
            np.where(which[1], COLLAPSED, ERROR),
            which,
        )
        for row, which in zip(differences, failed, strict=True)
    ]
    taken = np.array([stop(sample, rule) for sample in samples])
    truth = (failing[0] - failing[1]) * (COLLAPSED - ERROR)
    found = [held(s, n, failing, truth) for s, n in zip(samples, taken, strict=True)]
    fixed = round(taken.mean())
    return Coverage(
        taken.mean(),
        np.mean(taken == rule.at_most),
        *np.mean(found, axis=0),
        np.mean([not seed_interval(s.sound(fixed)).excludes(0) for s in samples]),
    )


def stop(sample: Sample, rule: UntilNarrow) -> int:
    """Return how many seeds the rule takes of the sample."""
    n = rule.seeds_to_add(0, [])
    while more := rule.seeds_to_add(n, [halfwidth(sample.sound(n))]):
        n += more
    return n


def halfwidth(differences: np.ndarray) -> float:
    low, high = interval_ends(differences)
    return float(high - low) / 2


def held(sample: Sample, n: int, failing: tuple[float, float], truth: float) -> list[float]:
    """Return what held at the stop: sound, rates (of the two), with failures, naive."""
    arm, baseline, failed = sample.arm[:n], sample.baseline[:n], sample.failed[:, :n]
    rates = [failure_rate(int(which.sum()), n) for which in failed]
    return [
        not seed_interval(sample.sound(n)).excludes(0),
        np.mean([not r.interval.excludes(p) for r, p in zip(rates, failing, strict=True)]),
        not interval_with_failures(arm, baseline, *failed).excludes(truth),
        not seed_interval(arm - baseline).excludes(truth),
    ]


def settings() -> Iterator[tuple[str, Draw, float, tuple[float, float]]]:
    for draw in (normal, skewed, heavy_tailed):
        for sd in (0.003, 0.006, 0.009):
            yield draw.__name__.replace("_", "-"), draw, sd, NO_FAILURES
    for rate in (0.02, 0.05, 0.1):
        for both in (False, True):
            name = f"normal, {100 * rate:g} % collapse, {'both' if both else 'arm'}"
            yield name, normal, 0.004, (rate, rate if both else 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=4000)
    parser.add_argument("--at-least", type=int, default=FIRST_LOOK)
    given = parser.parse_args()
    rule = UntilNarrow(HALFWIDTH, AT_MOST, given.at_least)
    print(
        f"target: halfwidth {100 * HALFWIDTH:g} points, {rule.at_least} to {AT_MOST} seeds; "
        f"{given.experiments:,} experiments per row"
    )
    print()
    columns = "seeds | at the limit | sound | rates | with failures | naive | fixed"
    print(f"| differences | sd | {columns} |")
    print("|---|---|" + "---|" * 7)
    for name, draw, sd, failing in settings():
        found = measure(draw, sd, rule, given.experiments, failing)
        shares = (found.sound, found.rates, found.with_failures, found.naive, found.fixed)
        print(
            f"| {name} | {100 * sd:.1f} | {found.seeds:.0f} | {100 * found.at_limit:.0f} % | "
            + " | ".join(f"{100 * share:.1f} %" for share in shares)
            + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
