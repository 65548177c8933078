"""How often several comparisons at once call what is not there, and miss what is, by simulation.

    python benchmarks/many_arms.py

- Arms against one baseline, with an effect in none or in half of them: the chance of any wrong call
  (which should be 5 % at most) and the share of true effects called, after Holm's correction and
  after `step_down`. Errors are normal, skewed in all arms, skewed in the baseline only, unequal in
  spread, or collapse with one run in twenty.
- Equal arms on a test set that favours some of them by chance: how often "better" or "worse" is
  said to hold for new images as well, of at least one arm, with and without Holm over the joint p.
- A factorial without effects: the chance that any comparison of its arms or any effect is called,
  corrected as two families or as one.
- Changes that are all worth the same: what the steps of the path of the largest gains show, and how
  often their intervals cover the truth.
- One better arm: the difference that is shown where it is called, what `shown_when_called` expects,
  and what `corrected_for_call` makes of it.

Deterministic.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import combinations

import numpy as np
from scipy import stats

from lecun_ablate.statistics import (
    Runs,
    compare_all,
    compare_jointly,
    contrasts,
    corrected_for_call,
    factorial,
    holm,
    largest_gains,
    shown_when_called,
    sign_flip_test,
    step_down,
)

ALPHA = 0.05
PERMUTATIONS = 1_999  # a fiftieth of the usual


def errors(rng: np.random.Generator, kind: str, arms: int, seeds: int) -> np.ndarray:
    """Return errors (arms + 1, seeds) of the baseline and of arms without an effect."""
    shape = (arms + 1, seeds)
    if kind == "skewed":
        return rng.exponential(size=shape)
    if kind == "skewed baseline":
        found = 0.3 * rng.normal(size=shape)
        found[0] += rng.exponential(size=seeds) - 1
        return found
    if kind == "unequal":
        return np.where(np.arange(arms + 1) % 2, 4.0, 1.0)[:, None] * rng.normal(size=shape)
    if kind == "collapsing":
        return 0.3 * rng.normal(size=shape) + 75 * (rng.random(shape) < 0.05)
    return np.sqrt(0.5) * (rng.normal(size=shape) + rng.normal(size=seeds))


def corrections(experiments: int) -> Iterator[str]:
    yield "| errors | arms | seeds | with an effect | Holm: wrong, seen | step-down: wrong, seen |"
    yield "|---|---|---|---|---|---|"
    for kind in ("normal", "skewed", "unequal", "skewed baseline", "collapsing"):
        for arms, seeds in ((4, 8), (10, 10), (8, 20)):
            for true in (0, arms // 2):
                rng = np.random.default_rng(0)
                called: dict[str, list[np.ndarray]] = {"Holm": [], "step-down": []}
                for _ in range(experiments):
                    found = errors(rng, kind, arms, seeds)
                    found[1 : 1 + true] -= 1.5
                    table = found[1:] - found[0]
                    plain = [sign_flip_test(row, permutations=PERMUTATIONS)[0] for row in table]
                    called["Holm"].append(holm(plain) <= ALPHA)
                    adjusted = step_down(table, permutations=PERMUTATIONS)
                    called["step-down"].append(adjusted <= ALPHA)
                cells = []
                for rows in called.values():
                    of = np.array(rows)
                    wrong = f"{100 * of[:, true:].any(axis=1).mean():.1f} %"
                    seen = f"{of[:, :true].mean():.2f}" if true else "-"
                    cells.append(f"{wrong}, {seen}")
                yield f"| {kind} | {arms} | {seeds} | {true} | {' | '.join(cells)} |"


def new_images(experiments: int) -> Iterator[str]:
    """Differences (seeds, images) of equal arms, each with images that are hard for it alone."""
    yield "| arms | seeds | called on this test set | for new images, plain | after Holm |"
    yield "|---|---|---|---|---|"
    for arms, seeds in ((4, 10), (8, 20)):
        rng = np.random.default_rng(1)
        found = []
        for _ in range(experiments):
            # a difference per image that every seed shares, and noise of each image and seed
            hard = rng.normal(0, 0.2, (arms + 1, 1, 400))
            missed = 0.5 + hard + rng.normal(0, 0.25, (arms + 1, seeds, 400))
            missed += rng.normal(0, 0.004, (arms + 1, seeds, 1))
            tables = missed[1:] - missed[0]
            adjusted = step_down(tables.mean(axis=2), permutations=PERMUTATIONS) <= ALPHA
            joint = [compare_jointly(table, 0 * table, resamples=2) for table in tables]
            plain = np.array([one.interval.excludes(0) for one in joint])
            corrected = holm([one.p for one in joint]) <= ALPHA
            found.append(
                [adjusted.any(), (adjusted & plain).any(), (adjusted & plain & corrected).any()]
            )
        cells = " | ".join(f"{100 * share:.1f} %" for share in np.mean(found, axis=0))
        yield f"| {arms} | {seeds} | {cells} |"


def families(experiments: int) -> Iterator[str]:
    yield "| factorial | seeds | two families | one family |"
    yield "|---|---|---|---|"
    for levels, seeds in (((2, 2), 10), ((2, 3), 12)):
        cells = [{"a": a, "b": b} for a in range(levels[0]) for b in range(levels[1])]
        names = [f"{cell['a']}{cell['b']}" for cell in cells]
        pairs = [(name, names[0]) for name in names[1:]]
        rng = np.random.default_rng(2)
        found = []
        for _ in range(experiments):
            runs = 0.05 + 0.003 * rng.normal(size=(len(cells), seeds))
            arms = {name: Runs(range(seeds), row) for name, row in zip(names, runs, strict=True)}
            rows = runs[1:] - runs[0]
            comparisons = holm([sign_flip_test(row)[0] for row in rows])
            effects = holm([one.p() for one in contrasts(cells, runs)])
            one = compare_all(arms, pairs, cells=dict(zip(names, cells, strict=True)))
            together = [pair.p_adjusted for pair in one.pairs]
            together += [effect.p_adjusted for effect in one.effects]
            assert len(one.effects) == len(factorial(cells, runs))
            found.append([min(*comparisons, *effects) <= ALPHA, min(together) <= ALPHA])
        shares = " | ".join(f"{100 * share:.1f} %" for share in np.mean(found, axis=0))
        yield f"| {' x '.join(map(str, levels))} | {seeds} | {shares} |"


def paths(experiments: int) -> Iterator[str]:
    """Changes that each gain 0.2 points wherever they are made; errors have sd 0.3 over seeds."""
    yield "| changes | seeds | each gains | first step | last step | covered: first, last |"
    yield "|---|---|---|---|---|---|"
    true, sd = -0.002, 0.003
    for changes, seeds in ((4, 10), (8, 10), (8, 20)):
        names = "abcdefgh"[:changes]
        sets = [made for size in range(changes + 1) for made in combinations(names, size)]
        rng = np.random.default_rng(4)
        ends: list[tuple[float, float]] = []
        covered: list[tuple[bool, bool]] = []
        for _ in range(experiments):
            table = {made: 0.05 + true * len(made) + rng.normal(0, sd, seeds) for made in sets}
            path = largest_gains(table)
            steps = path[0], path[-1]
            ends.append((steps[0].effect, steps[1].effect))
            inside = [s.interval is not None and not s.interval.excludes(true) for s in steps]
            covered.append((inside[0], inside[1]))
        first, last = 100 * np.mean(ends, axis=0)
        shares = ", ".join(f"{100 * share:.1f} %" for share in np.mean(covered, axis=0))
        yield f"| {changes} | {seeds} | {100 * true:+.2f} | {first:+.2f} | {last:+.2f} | {shares} |"


def inflation(experiments: int) -> Iterator[str]:
    yield "| true difference, sd | seeds | called | shown then | expected | corrected, median |"
    yield "|---|---|---|---|---|---|"
    for true, sd, n in ((0.2, 0.6, 10), (0.2, 0.4, 10), (0.2, 0.4, 20), (0.4, 0.4, 10)):
        rng = np.random.default_rng(3)
        samples = rng.normal(true, sd, (4 * experiments, n))
        means, sds = samples.mean(axis=1), samples.std(axis=1, ddof=1)
        called = np.abs(means) / sds * np.sqrt(n) >= stats.t.isf(ALPHA / 2, n - 1)
        corrected = [
            corrected_for_call(m, s, n) for m, s in zip(means[called], sds[called], strict=True)
        ]
        yield (
            f"| {true}, {sd} | {n} | {100 * called.mean():.0f} % | {means[called].mean():.2f} "
            f"| {shown_when_called(true, sd, n):.2f} "
            f"| {np.mean(corrected):.2f}, {np.median(corrected):.2f} |"
        )


PARTS = {
    "corrections": ("arms against one baseline", corrections, 1),
    "images": ("new images, equal arms", new_images, 4),
    "factorials": ("factorials without effects", families, 2),
    "paths": ("changes that are worth the same", paths, 2),
    "inflation": ("a better arm", inflation, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=2000)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    given = parser.parse_args()
    for part in given.parts:
        title, table, scale = PARTS[part]
        print(f"{title}, {given.experiments // scale:,} experiments per row\n")
        for line in table(given.experiments // scale):
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
