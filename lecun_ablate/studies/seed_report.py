"""The report of a finished study of seeds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from lecun_ablate.reporting.tables import Table
from lecun_ablate.statistics import percent, points
from lecun_ablate.studies import figures
from lecun_ablate.studies.report import StudyReport, heading, origin, shared_values
from lecun_ablate.studies.seeds import CORRELATIONS, DIFFERENCE, SeedResult, Variant
from lecun_ablate.system.text import count


def report(result: SeedResult) -> StudyReport:
    """Return the report of a study of seeds."""
    errors = {variant.governs: variant.errors for variant in result.variants}
    several = [variant for variant in result.variants if variant.split]
    return StudyReport(
        title=heading(result),
        tables=[
            _distributions(result.variants),
            *([_variances(several), *map(_seeds_needed, several)] if several else []),
        ],
        notes=_notes(result),
        origin=origin(result),
        figure=figures.seed_distribution(errors, result.data, result.study.name),
        plots={"result": figures.seed_distribution_plotly(errors, result.data, result.study.name)},
        values=_values(result),
    )


def _distributions(variants: list[Variant]) -> Table:
    columns = ["the seed governs", "seeds", "mean test error", "95 % interval", "sd [points]",
               "5 - 95 % of seeds", "best", "worst", "diverged", "collapsed"]  # fmt: skip
    rows = []
    for variant in variants:
        one = variant.description
        interval = one.interval
        rows.append(
            [
                variant.governs,
                str(one.n),
                percent(one.mean),
                f"{percent(interval.low)} - {percent(interval.high)}" if interval else "-",
                f"{100 * one.sd:.2f}" if one.n > 1 else "-",
                f"{percent(one.low)} - {percent(one.high)}",
                percent(one.best),
                percent(one.worst),
                str(variant.diverged),
                str(variant.collapsed),
            ]
        )
    return Table.of_numbers(columns, rows)


def _variances(variants: list[Variant]) -> Table:
    columns = [
        "the seed governs",
        "variance of the test error [points^2]",
        "finite test set",
        "the rest (s.e.)",
        "share of the test set",
        f"wrong ranking at {points(DIFFERENCE, 1, sign=False)}",
    ]
    rows = []
    for variant in variants:
        split = variant.split
        assert split is not None
        error = "" if split.rest_se is None else f" ({1e4 * split.rest_se:.4f})"
        rows.append(
            [
                variant.governs,
                f"{1e4 * split.total:.4f}",
                f"{1e4 * split.finite_test_set:.4f}",
                f"{1e4 * split.rest:.4f}{error}",
                f"{split.finite_share:.0%}",
                f"{variant.wrong_ranking:.1%}",
            ]
        )
    return Table.of_numbers(columns, rows)


def _seeds_needed(variant: Variant) -> Table:
    paired = [f"paired, correlation {correlation:g}" for correlation in CORRELATIONS]
    columns = [f"seeds per arm ({variant.governs}) to see", "unpaired", *paired]
    rows = [
        [
            points(effects[0].effect, sign=False),
            f"{effects[0].unpaired:,}",
            *(f"{needed.paired:,}" for needed in effects),
        ]
        for effects in zip(*variant.seeds_needed.values(), strict=True)
    ]
    return Table.of_numbers(columns, rows)


def _notes(result: SeedResult) -> list[str]:
    recipe = result.study.recipe
    lines = [
        f"{count(recipe.epochs, 'epoch')} at lr {recipe.lr:g} on the whole training split of "
        f"{result.data}; test errors after the last epoch.",
    ]
    if recipe.component("order").arity < 2:
        lines.append(
            f"The order of the patterns is {recipe.order!r}, so the seed only governs the "
            "initial weights (and a random connectivity)."
        )
    if "split" in result.study.governs:
        lines.append(
            f"Split: each seed draws the training and test images from all of {result.data}, "
            "stratified by class, while the initial weights and the order keep one seed; the rest "
            "of its variance is due to the choice of training images."
        )
    if any(variant.split for variant in result.variants):
        lines += [
            "Finite test set: each seed misses different images of a small test set, which would "
            "average out over infinitely many; the rest is the covariance between halves of the "
            "test set: some seeds give better networks (Jordan 2023, arXiv:2304.01910).",
            f"Wrong ranking: the chance that one run of each of two arms, whose true errors differ "
            f"by {points(DIFFERENCE, 1, sign=False)}, ranks them wrongly. Seeds per arm: for 80 % "
            "power at the 5 % level; what pairing saves depends on how the two arms' errors "
            "correlate over seeds.",
        ]
    if result.notice:
        lines.append(f"NOTICE: {result.notice}")
    return lines


def _values(result: SeedResult) -> dict[str, Any]:
    return shared_values(result) | {
        "recipe": result.study.recipe.model_dump(),
        "variants": [
            asdict(variant)
            | {
                "errors": np.asarray(variant.errors).tolist(),
                "seeds_needed": {
                    f"correlation {correlation:g}": [asdict(needed) for needed in effects]
                    for correlation, effects in variant.seeds_needed.items()
                },
            }
            for variant in result.variants
        ],
    }
