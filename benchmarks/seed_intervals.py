"""How four intervals for a mean over seeds do where seeds are skewed, wild, or fail, by simulation.

    python benchmarks/seed_intervals.py

The differences of paired seeds are drawn with a known mean; each interval is checked for it, and
its width is compared with Student's. `chosen` is `seed_interval`. In the last rows runs collapse at
a given rate, in the arm alone or in both arms, and cost 75 points each. There, "told" is the share
of experiments in which a run did collapse, and coverage is among these: no interval covers what has
not occurred, and the failure rate has an interval of its own (`failure_rate`). Deterministic.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator

import numpy as np
from scipy import stats

from lecun_ablate.statistics import interval_ends
from lecun_ablate.statistics.intervals import SKEW_FROM

SD, COST = 0.4, 75.0  # points
RESAMPLES = 499
Ends = tuple[np.ndarray, np.ndarray]


def student(values: np.ndarray) -> Ends:
    n = values.shape[1]
    reach = stats.t.ppf(0.975, n - 1) * values.std(axis=1, ddof=1) / math.sqrt(n)
    return values.mean(axis=1) - reach, values.mean(axis=1) + reach


def hall(values: np.ndarray) -> Ends:
    """Hall's correction for skew alone."""
    n = values.shape[1]
    mean, se = values.mean(axis=1), values.std(axis=1, ddof=1) / math.sqrt(n)
    a = stats.skew(values, axis=1, bias=False) / math.sqrt(n)
    low, high = (
        mean - se * 3 / a * (np.cbrt(1 + a * (t - a / 6)) - 1)
        for t in (stats.t.ppf(0.975, n - 1), stats.t.ppf(0.025, n - 1))
    )
    return low, high


def studentized_bootstrap(values: np.ndarray) -> Ends:
    """Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 12.5."""
    n = values.shape[1]
    rng = np.random.default_rng(0)
    ends = []
    for row in values:
        sample = row[rng.integers(0, n, (RESAMPLES, n))]
        errors = sample.std(axis=1, ddof=1)
        kept = errors > 0  # a resample that drew one seed n times has no spread
        t = (sample.mean(axis=1)[kept] - row.mean()) / errors[kept]
        low, high = np.quantile(t, [0.975, 0.025])
        ends.append((row.mean() - low * row.std(ddof=1), row.mean() - high * row.std(ddof=1)))
    low, high = np.transpose(ends)
    return low, high


METHODS: dict[str, Callable[[np.ndarray], Ends]] = {
    "Student": student,
    "Hall": hall,
    "studentized bootstrap": studentized_bootstrap,
    "chosen": interval_ends,
}


def collapsing(rate: float, both: bool) -> Callable[[np.random.Generator, tuple], np.ndarray]:
    """Return what draws differences of which the arm's runs, or both arms', collapse at a rate."""

    def draw(rng: np.random.Generator, shape: tuple) -> np.ndarray:
        values = SD * rng.normal(size=shape) + COST * (rng.random(shape) < rate)
        return values - COST * (rng.random(shape) < rate) if both else values

    return draw


def settings() -> Iterator[tuple[str, float, Callable]]:
    """Yield a name, the true mean, and what draws differences of a shape."""
    yield "normal", 0.0, lambda rng, shape: SD * rng.normal(size=shape)
    yield "exponential", SD, lambda rng, shape: SD * rng.exponential(size=shape)
    power = SD * math.gamma(2.5)
    yield "more skewed", power, lambda rng, shape: SD * rng.exponential(size=shape) ** 1.5
    yield "heavy-tailed", 0.0, lambda rng, shape: SD * rng.standard_t(3, size=shape)
    for both, where in ((False, "arm"), (True, "both")):
        for rate in (0.02, 0.05, 0.1):
            mean = 0.0 if both else rate * COST
            yield f"{100 * rate:g} % collapse, {where}", mean, collapsing(rate, both)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=2000)
    experiments = parser.parse_args().experiments
    print(f"{experiments:,} experiments per row; coverage, and width in Student's, the median")
    print(f"chosen: Student's below {SKEW_FROM} seeds, then with Hall's correction")
    print()
    print("| differences | seeds | told |", " | ".join(METHODS), "|")
    print("|---|---|---|" + "---|" * len(METHODS))
    rng = np.random.default_rng(0)
    for name, mean, draw in settings():
        for n in (5, 10, 20, 30, 60, 100):
            values = draw(rng, (experiments, n))
            collapsed = (np.abs(values) > COST / 2).any(axis=1)
            told = collapsed if "collapse" in name else np.ones(experiments, bool)
            cells = [f"{100 * told.mean():.0f} %"]
            width = np.ptp(student(values), axis=0)
            for method in METHODS.values():
                low, high = method(values)
                covers = ((low <= mean) & (mean <= high))[told].mean()
                ratio = np.median(((high - low) / width)[told])
                cells.append(f"{100 * covers:.1f} %, {ratio:.2f}")
            print(f"| {name} | {n} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
