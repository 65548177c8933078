"""How often the advice "N more seeds would probably tell" leads to a false result. A simulation.

    python benchmarks/more_seeds.py

Compares two identical arms over 10 seeds. As long as the verdict is undecided, it adds the number
of seeds that the verdict asks for, up to a limit of looks and of seeds. It counts how often the arm
is called better or worse in the end, and after the first look. Deterministic.
"""

from __future__ import annotations

import argparse

import numpy as np

from lecun_ablate.statistics import compare
from lecun_ablate.statistics.verdict import Verdict, decide

FIRST, LOOKS, MOST = 10, 5, 200
BASELINE = 0.06  # the error of the baseline with every seed; only differences matter


def verdict(differences: np.ndarray) -> Verdict:
    baseline = np.full(len(differences), BASELINE)
    # The BCa interval does not affect the verdict, so few resamples are enough.
    return decide(compare(baseline + differences, baseline, resamples=999))


def wrong(differences: np.ndarray) -> tuple[bool, bool]:
    """Tell whether there is a false verdict after the first look, and in the end."""
    n, seen = FIRST, []
    for _ in range(LOOKS):
        found = verdict(differences[:n])
        seen.append(found.kind in ("better", "worse"))
        if found.kind != "undecided" or n + found.more_seeds > MOST:
            break
        n += found.more_seeds
    return seen[0], seen[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--experiments", type=int, default=1000, help="experiments per row (default: 1000)"
    )
    experiments = parser.parse_args().experiments
    print(f"{experiments:,} experiments per row, one comparison each, at most {LOOKS} looks")
    print()
    print("| sd of the differences (points) | wrong at the first look | in the end |")
    print("|---|---|---|")
    for sd in (0.006, 0.01, 0.015):
        rng = np.random.default_rng(0)
        found = [wrong(rng.normal(0, sd, MOST).clip(-BASELINE, None)) for _ in range(experiments)]
        first, last = np.mean(found, axis=0)
        print(f"| {100 * sd:.1f} | {100 * first:.1f} % | {100 * last:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
