"""What a finished search has to say."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lecun_ablate.provenance import machine
from lecun_ablate.report import study_figures
from lecun_ablate.report.study_report import StudyReport, TextTable
from lecun_ablate.statistics import count, percent, signed

if TYPE_CHECKING:
    from lecun_ablate.tuning import ArmOutcome, StudyResult


def report(result: StudyResult) -> StudyReport:
    """Return the report of a study that searches."""
    return StudyReport(
        title=_title(result),
        tables=[_table(result)],
        notes=_notes(result),
        evidence=(
            f"{machine()}; trainer {result.trainer}; {result.seconds:,.0f} s wall time in all; "
            f"data digest {result.data_digest}"
        ),
        figure=study_figures.validation_error(result),
        plot=study_figures.validation_error_plotly(result),
        values=_values(result),
    )


def _title(result: StudyResult) -> str:
    """Return the heading of a study's table."""
    version = f", version {result.version}" if result.version > 1 else ""
    return f"{result.study.name} on {result.data}{version}: {result.study.question}".rstrip(": ")


def _table(result: StudyResult) -> TextTable:
    """Return a row per arm: the best values, their error and that of the arm's own values."""
    fields = list(result.study.search)
    columns = ["arm", *(f"best {field}" for field in fields)]
    columns += [f"{f}: within 1 s.e." for f in fields if f in _numeric(result)]
    columns += ["validation error", *(f"own {field}" for field in fields), "its validation error",
                "best - own [points]", "trials", "pruned", "diverged"]  # fmt: skip
    return TextTable(columns, [_row(arm, result) for arm in result.arms])


def _numeric(result: StudyResult) -> list[str]:
    return [f for f, values in result.study.search.items() if not isinstance(values, tuple)]


def _row(arm: ArmOutcome, result: StudyResult) -> list[str]:
    one = arm.confirmed
    root = math.sqrt(one.n)
    spans = [arm.within.get(field) for field in _numeric(result)]
    same = arm.values == arm.own_values
    return [
        arm.arm,
        *(_text(arm.values[field]) for field in result.study.search),
        *(f"{_text(s[0])} - {_text(s[1])}" if s else "-" for s in spans),
        f"{percent(one.arm_mean)} +- {100 * arm.standard_error:.2f}",
        *(_text(arm.own_values[field]) for field in result.study.search),
        f"{percent(one.baseline_mean)} +- {100 * one.baseline_sd / root:.2f}",
        "the same" if same else f"{signed(one.difference)} +- {100 * one.sd / root:.2f}",
        str(arm.trials["complete"] + arm.trials["pruned"]),
        str(arm.trials["pruned"]),
        str(arm.trials["diverged"]),
    ]


def _text(value: Any) -> str:
    """Return a recipe value for people: numbers to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _notes(result: StudyResult) -> list[str]:
    """Return what a reader must know beside the table, a sentence or two each."""
    study = result.study
    fit, validation = result.images
    confirm = f"{study.confirm.trials} best trials" if study.confirm.trials > 1 else "best trial"
    epochs = sorted({arm.recipe.epochs for arm in study.arms})
    horizon = "epochs as searched" if "epochs" in study.search else " or ".join(
        count(epoch, "epoch") for epoch in epochs
    )  # fmt: skip
    pruned = (
        f"; at epochs {study.pruner.first}, x {study.pruner.factor}, ... the best "
        f"1/{study.pruner.factor} went on" if study.pruner else ""
    )  # fmt: skip
    trials = count(study.trials, "trial")
    lines = [
        f"{trials} of each arm ({study.sampler.name}, seed {study.sampler.seed}), "
        f"{count(len(study.seeds), 'seed')} each, {horizon}{pruned}; trained on {fit:,} images of "
        f"the training split of {result.data} and scored on the {validation:,} others. "
        "The test split was not touched.",
        f"Errors are means +- standard errors over {study.confirm.seeds} fresh seeds, on which the "
        f"{confirm} of each arm, and its own values, were trained again; these seeds chose the "
        "winner. Best - own is paired by seed.",
        "Within 1 s.e.: from the smallest to the largest value among the trials whose score is "
        "no more than one standard error (of a score) above the winner's.",
    ]
    lines += [
        f"Importance for {arm.arm}: "
        + ", ".join(f"{field} {share:.0%}" for field, share in arm.importances.items())
        + " (fANOVA, diverged trials left out)."
        for arm in result.arms
        if arm.importances
    ]
    if result.notice:
        lines.append(f"NOTICE: {result.notice}")
    return lines


def _values(result: StudyResult) -> dict[str, Any]:
    """Return the study's findings as plain values; errors as fractions."""
    return {
        "study": result.study.name,
        "question": result.study.question,
        "version": result.version,
        "data": result.data,
        "data_digest": result.data_digest,
        "notice": result.notice,
        "images": {"fit": result.images[0], "validation": result.images[1]},
        "trials": result.study.trials,
        "seeds": list(result.study.seeds),
        "confirm_seeds": list(result.study.confirm_seeds),
        "arms": [
            asdict(arm) | {"error": arm.error, "standard_error": arm.standard_error}
            for arm in result.arms
        ],
        "machine": machine(),
        "trainer": result.trainer,
        "wall_seconds": result.seconds,
        "run_id": result.run_id,
    }
