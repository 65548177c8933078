"""The report of a finished search."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from lecun_ablate.config.study import Range
from lecun_ablate.reporting.tables import Table
from lecun_ablate.statistics import percent, signed
from lecun_ablate.statistics.arrays import spread
from lecun_ablate.studies import figures
from lecun_ablate.studies.figures import expected_curves
from lecun_ablate.studies.outcome import ArmOutcome, SearchResult
from lecun_ablate.studies.report import StudyReport, heading, origin, shared_values, value_text
from lecun_ablate.system.text import count


def report(result: SearchResult) -> StudyReport:
    """Return the report of a search study."""
    return StudyReport(
        title=heading(result),
        tables=[_table(result), *_over_searches(result), _budgets(result)],
        notes=_notes(result),
        origin=origin(result),
        figure=figures.validation_error(result),
        plots=figures.validation_error_plotly(result),
        values=_values(result),
    )


def _table(result: SearchResult) -> Table:
    """Return a row per arm: the best values, their error and that of the arm's own values."""
    fields = list(result.study.search)
    columns = ["arm", *(f"best {field}" for field in fields)]
    columns += [f"{f}: within 1 s.e." for f in fields if f in _numeric(result)]
    columns += [
        "validation error",
        *(f"own {field}" for field in fields),
        "its validation error",
        "best - own [points]",
        "trials",
        "pruned",
        "diverged",
        "collapsed",
    ]
    return Table.of_numbers(columns, [_row(arm, result) for arm in result.arms])


def _numeric(result: SearchResult) -> list[str]:
    return [f for f, values in result.study.search.items() if not isinstance(values, tuple)]


def _row(arm: ArmOutcome, result: SearchResult) -> list[str]:
    one = arm.judged
    spans = [arm.within.get(field) for field in _numeric(result)]
    same = arm.values == arm.own_values
    return [
        arm.label,
        *(value_text(arm.values[field]) for field in result.study.search),
        *(f"{value_text(s[0])} - {value_text(s[1])}" if s else "-" for s in spans),
        f"{percent(one.error)} +- {100 * one.standard_error:.2f}",
        *(value_text(arm.own_values[field]) for field in result.study.search),
        f"{percent(one.own_error)} +- {100 * one.own_standard_error:.2f}",
        "the same"
        if same
        else f"{signed(one.difference)} +- {100 * one.difference_standard_error:.2f}",
        str(arm.trials["complete"] + arm.trials["pruned"]),
        str(arm.trials["pruned"]),
        str(arm.trials["diverged"]),
        str(arm.trials["collapsed"]),
    ]


def _over_searches(result: SearchResult) -> list[Table]:
    """Return the summary over an arm's searches, if there are several: a row per arm."""
    if (result.study.searches or 1) < 2:
        return []
    fields = _numeric(result)
    rows = []
    for name in dict.fromkeys(arm.arm for arm in result.arms):
        found = [arm for arm in result.arms if arm.arm == name]
        values = {field: [float(arm.values[field]) for arm in found] for field in fields}
        errors = np.array([arm.error for arm in found])
        gains = np.array([arm.judged.difference for arm in found])
        rows.append(
            [
                name,
                str(len(found)),
                *(f"{value_text(min(v))} - {value_text(max(v))}" for v in values.values()),
                f"{percent(errors.mean())} +- {100 * spread(errors):.2f}",
                f"{signed(gains.mean())} +- {100 * spread(gains):.2f}",
                str(sum(bool(arm.failing) for arm in found)),
            ]
        )
    columns = ["arm", "searches", *(f"best {field}" for field in fields)]
    columns += ["validation error", "best - own [points]", "with failing finalists"]
    table = Table.of_numbers(columns, rows)
    return [replace(table, title="Over the searches", caption="mean +- sd over the searches")]


def _budgets(result: SearchResult) -> Table:
    """Return the expected smallest score of the first n trials, a row per arm."""
    numbers = [2**k for k in range(20) if 2**k < result.study.trials] + [result.study.trials]
    rows = []
    for name, curve in expected_curves(result).items():
        rows.append([name, *(percent(curve[n - 1]) if n <= len(curve) else "-" for n in numbers)])
    table = Table.of_numbers(["trials", *map(str, numbers)], rows)
    return replace(
        table,
        title="Would more trials have helped?",
        caption="the expected smallest validation error among this many trials drawn at random "
        "(Dodge et al. 2019); if it still falls at the end, more trials would help",
    )


def _notes(result: SearchResult) -> list[str]:
    """Return notes on the tables, a sentence or two each."""
    study = result.study
    fit, validation = result.images
    epochs = sorted({arm.recipe.epochs for arm in study.arms})
    horizon = (
        "epochs as searched"
        if "epochs" in study.search
        else " or ".join(count(epoch, "epoch") for epoch in epochs)
    )
    pruned = (
        f"; at epochs {study.pruner.first}, x {study.pruner.factor}, ... the best "
        f"1/{study.pruner.factor} continued"
        if study.pruner
        else ""
    )
    trials = count(study.trials, "trial")
    repeated = (
        f", the whole search repeated {study.searches} times, each with its own sampler seed, "
        "trial seeds and split"
        if study.searches
        else ""
    )
    lines = [
        f"{trials} of each arm ({study.sampler.name}, seed {study.sampler.seed}), "
        f"{count(len(study.seeds), 'seed')} each, {horizon}{pruned}; trained on {fit:,} images of "
        f"the training split of {result.data} and scored on the {validation:,} others. "
        f"The test split was not touched{repeated}.",
        f"The {_confirmed(result)}, and its own values, were trained again on "
        f"{study.confirm.seeds} fresh seeds, which chose the winner. Errors +- standard errors are "
        f"corrected for the luck of this choice: {_judges(result)}",
        "Within 1 s.e.: from the smallest to the largest value among the trials whose score, over "
        f"{count(len(study.seeds), 'seed')}, is at most one standard error above the "
        "winner's; not every value in between scored this well.",
        "Collapsed: trials with a seed that finished without having learnt anything.",
    ]
    for arm in result.arms:
        lines += _notes_on(arm, result)
    if prudent := [arm.label for arm in result.arms if arm.prudent]:
        lines.append(
            f"Not the smallest error, but within a standard error of it and farther from values "
            f"that fail: the winner of {'; '.join(prudent)}."
        )
    if result.notice:
        lines.append(f"NOTICE: {result.notice}")
    return lines


def _judges(result: SearchResult) -> str:
    """Return how the choices were judged, and how the winner was chosen."""
    if not all(arm.judged.other_images for arm in result.arms):
        return (
            "each half of the seeds judges the choice of the other half, on the same "
            "images. Best - own is paired by seed."
        )
    return (
        "the whole choice is made on half of the images and half of the fresh seeds, and the other "
        "half of both judges it; the standard error comes from repeating the choice on "
        "resampled seeds and images. Among values that never failed and are within one standard "
        "error of the best, the winner is the one farthest from any that failed."
    )


def _confirmed(result: SearchResult) -> str:
    """Return how many trials of each arm were confirmed: the actual number, not the requested."""
    numbers = {arm.label: arm.confirmed_trials for arm in result.arms}
    low, high = min(numbers.values()), max(numbers.values())
    if result.study.searches and low < high:
        text = f"{low} to {high} best trials of each arm in each search"
    elif low < high:
        text = f"best trials of each arm ({', '.join(f'{a} {n}' for a, n in numbers.items())})"
    else:
        number = next(iter(numbers.values()))
        text = "best trial of each arm" if number == 1 else f"{number} best trials of each arm"
    pruned = " (including the pruned ones that got furthest, if too few ran to the end)"
    return text + (pruned if result.study.pruner else "")


def _notes_on(arm: ArmOutcome, result: SearchResult) -> list[str]:
    """Return what a reader must know about one arm."""
    study = result.study
    lines = []
    if _numeric(result) and not arm.within:
        lines.append(
            f"{arm.label}: there is no range within 1 s.e., since the winner has no score in "
            "the search: it was pruned, diverged, or lies outside the search space."
        )
    for field in _numeric(result):
        searched = study.search[field]
        assert isinstance(searched, Range)
        for end in ("low", "high"):
            if _touches(searched, end, [arm.values[field], *arm.within.get(field, ())]):
                lines.append(
                    f"{arm.label}: the best {field}, or the range within 1 s.e. of it, touches the "
                    f"{end} end of the search space ({getattr(searched, end):g}): "
                    "there may be a better value beyond it, so widen the range."
                )
    if arm.failing:
        each = ", ".join(f"{f.failed} of {f.runs} at {_named(f.values)}" for f in arm.failing)
        lines.append(
            f"{arm.label}: of the runs over fresh seeds, these diverged or learnt nothing: {each}. "
            "Nearby values may also fail, with seeds that were not tried: an experiment of many "
            "seeds will tell."
        )
    if arm.importances:
        shares = ", ".join(f"{field} {share:.0%}" for field, share in arm.importances.items())
        number = arm.trials["complete"] - arm.trials["diverged"]
        few = ", too few for more than a hint" if number < 10 * len(study.search) else ""
        lines.append(
            f"Importance for {arm.label}: {shares} (fANOVA on {count(number, 'trial')}{few}; "
            "without diverged ones)."
        )
    return lines


def _named(values: dict[str, Any]) -> str:
    return ", ".join(f"{field} {value_text(value)}" for field, value in values.items())


def _touches(searched: Range, end: str, values: list[float]) -> bool:
    """Return whether a value is within 5 % of the range's width from an end, or beyond it."""
    scale = math.log if searched.log else float
    low, high = scale(searched.low), scale(searched.high)
    within = [min(max(value, searched.low), searched.high) for value in values]
    places = [(scale(value) - low) / (high - low) for value in within]
    return min(places) <= 0.05 if end == "low" else max(places) >= 0.95


def _values(result: SearchResult) -> dict[str, Any]:
    """Return the study's findings as plain values; errors as fractions."""
    return shared_values(result) | {
        "images": {"fit": result.images[0], "validation": result.images[1]},
        "trials": result.study.trials,
        "seeds": [seed for one in result.study.each() for seed in one.seeds],
        "confirm_seeds": [seed for one in result.study.each() for seed in one.confirm_seeds],
        "searches": result.study.searches,
        "arms": [
            asdict(arm) | {"error": arm.error, "standard_error": arm.standard_error}
            for arm in result.arms
        ],
    }
