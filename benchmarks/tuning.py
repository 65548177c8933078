"""What tuning adds to the doubt, by simulation: the choice, its images, its failures, its luck.

    python benchmarks/tuning.py

- The best of 32 equal trials against the arm's own values: the bias and the coverage of the
  difference where 0 is true, judged by other seeds only, by other seeds and images with finalists
  that all images picked, and with the whole choice made on half of both (`judge_choice`).
- Rates of which the larger ones fail now and then: how often the chosen rate fails with more than
  one run in fifty, and what it costs, by the smallest mean and by `prudent_choice`.
- An experiment tuned by one search, or by several: the coverage of the difference between two arms
  that searches find values of other quality for.

Deterministic.
"""

from __future__ import annotations

import argparse

import numpy as np

from lecun_ablate.statistics import (
    finalists,
    interval_over_searches,
    judge_choice,
    prudent_choice,
    t_interval,
)

TRIALS, SEARCH_SEEDS, FRESH, IMAGES, CONFIRMED = 32, 3, 20, 400, 5


def trials(rng: np.random.Generator, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Return misses of a search and over fresh seeds, (trials and own, seeds, images).

    Trials are equal on endless images; `spread` is the sd of what an image does to one of them.
    """
    hard = rng.normal(0, spread, (TRIALS + 1, 1, IMAGES))
    runs = []
    for seeds in (SEARCH_SEEDS, FRESH):
        seed = rng.normal(0, 0.003, (TRIALS + 1, seeds, 1))
        runs.append(hard + seed + rng.normal(0, 0.1, (TRIALS + 1, seeds, IMAGES)))
    return runs[0], runs[1]


def other_seeds(search: np.ndarray, fresh: np.ndarray) -> tuple[float, bool]:
    """Judge by seeds that did not choose, on the same images."""
    best = np.argsort(search[:-1].mean(axis=(1, 2)))[:CONFIRMED]
    errors = fresh[np.append(best, TRIALS)].mean(axis=2)
    held = np.empty(FRESH)
    for first in (0, 1):
        chosen = errors[:, 1 - first :: 2].mean(axis=1).argmin()
        held[first::2] = errors[chosen, first::2]
    interval = t_interval(held - errors[-1])
    return interval.low / 2 + interval.high / 2, not interval.excludes(0)


def other_images(search: np.ndarray, fresh: np.ndarray, whole: bool) -> tuple[float, bool]:
    picked = finalists(search[:-1], CONFIRMED)
    if not whole:  # finalists that the images of both halves have picked
        picked = [int(k) for k in np.argsort(search[:-1].mean(axis=(1, 2)))[:CONFIRMED]]
    found = judge_choice(
        search[:-1], {k: fresh[k] for k in picked}, fresh[-1], CONFIRMED, resamples=100
    )
    return found.difference, not found.interval.excludes(0)


def choices(experiments: int) -> None:
    print("| an image's effect on a trial | judged by | best - own (points) | coverage |")
    print("|---|---|---|---|")
    for spread in (0.02, 0.05):
        rng = np.random.default_rng(0)
        found: dict[str, list[tuple[float, bool]]] = {}
        for _ in range(experiments):
            search, fresh = trials(rng, spread)
            for name, judged in (
                ("other seeds", other_seeds(search, fresh)),
                ("other seeds and images, finalists of all", other_images(search, fresh, False)),
                ("the whole choice on half of both", other_images(search, fresh, True)),
            ):
                found.setdefault(name, []).append(judged)
        for name, rows in found.items():
            differences, covered = np.transpose(rows)
            error = 100 * differences.std(ddof=1) / np.sqrt(experiments)
            print(
                f"| {spread} | {name} | {100 * differences.mean():+.2f} +- {error:.2f} "
                f"| {100 * covered.mean():.1f} % |",
                flush=True,
            )


def failing_rates(experiments: int) -> None:
    """Errors fall towards larger rates, by less and less, and failures set in near the best."""
    places = np.linspace(-3, 0, 16)  # log10 of the rate
    errors = 3 + 0.6 * (places + 0.6) ** 2
    risk = np.clip((places + 0.75) / 0.75, 0, 1) ** 2 * 0.5  # of a run to fail
    print("| fresh seeds | chosen by | fails with more than 1 in 50 | mean failure rate | cost |")
    print("|---|---|---|---|---|")
    for seeds in (20, 50):
        rng = np.random.default_rng(1)
        rows: dict[str, list[int]] = {"smallest mean": [], "prudent_choice": []}
        for _ in range(experiments):
            failed = rng.binomial(seeds, risk)
            sound = errors + rng.normal(0, 0.3, len(places)) / np.sqrt(seeds)
            overall = sound + failed / seeds * (80 - sound)
            rows["smallest mean"].append(int(overall.argmin()))
            standard = np.full(len(places), 0.3 / np.sqrt(seeds))
            rows["prudent_choice"].append(prudent_choice(places, sound, standard, failed))
        for name, chosen in rows.items():
            cost = (errors[chosen] - errors.min()).mean()
            print(
                f"| {seeds} | {name} | {100 * np.mean(risk[chosen] > 0.02):.0f} % "
                f"| {100 * risk[chosen].mean():.1f} % | {cost:.2f} points |"
            )


def searches(experiments: int) -> None:
    print("| searches | seeds of each | sd of what a search finds | coverage | half-width |")
    print("|---|---|---|---|---|")
    for number, seeds in ((1, 20), (3, 10), (5, 10), (5, 4)):
        for spread in (0.0, 0.2):
            rng = np.random.default_rng(2)
            quality = np.abs(rng.normal(0, spread, (experiments, 2, number, 1)))
            runs = quality + rng.normal(0, 0.3, (experiments, 2, number, seeds))
            differences = runs[:, 0] - runs[:, 1]
            intervals = [
                t_interval(row[0]) if number == 1 else interval_over_searches(row)
                for row in differences
            ]
            covered = np.mean([not one.excludes(0) for one in intervals])
            width = np.mean([one.halfwidth for one in intervals])
            print(f"| {number} | {seeds} | {spread} | {100 * covered:.1f} % | {width:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=400)
    experiments = parser.parse_args().experiments
    for title, table, scale in (
        (f"the best of {TRIALS} equal trials", choices, 1),
        ("rates that fail now and then", failing_rates, 5),
        ("repeated searches, two equal arms", searches, 5),
    ):
        print(f"{title}, {scale * experiments:,} experiments per row\n")
        table(scale * experiments)
        print()


if __name__ == "__main__":
    main()
