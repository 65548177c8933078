"""The report of an experiment: one self-contained page, its Markdown twin, and CSV files."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data import Digits
from lecun_ablate.evidence.arms import arm_table, tuning_line
from lecun_ablate.evidence.records import (
    comparison_record,
    effect_record,
    ends,
    worth_records,
)
from lecun_ablate.evidence.sentences import answer, warning
from lecun_ablate.evidence.weighing import Evidence, ended
from lecun_ablate.plan.plan import Plan
from lecun_ablate.plan.results import Results, RunStatus
from lecun_ablate.reporting import answers, evidence_tables, figures, pictures
from lecun_ablate.reporting.html import finished, templates
from lecun_ablate.reporting.selection import curve_factor, shown_arms
from lecun_ablate.reporting.tables import Table
from lecun_ablate.statistics import PairResult, points, probability, span
from lecun_ablate.system.text import count, csv_cell, markdown, markdown_line, plural
from lecun_ablate.tracking.files import Files

# of the page and its Markdown twin
ARM_COLUMNS = (
    "arm",
    "runs",
    "mean test error",
    "95 % interval",
    "sd",
    "best (seed)",
    "worst (seed)",
    "train error",
    "diverged",
    "collapsed",
    "failed",
    "lr",
)
FAILURES = ("diverged", "collapsed")  # shown if there are any
COMPARED = (  # the details of each comparison have the other intervals
    "arm",
    "against",
    "verdict",
    "seeds",
    "difference",
    "over seeds",
    "with new images",
    "p",
    "P(better)",
    "effect size",
)
MOST_PICTURES = 40  # hard digits of each kind on the page; the CSV has them all


def build(evidence: Evidence, digits: Digits | None, stored: Files) -> dict[str, bytes]:
    """Return the files of a report by name: page, twin, figures and tables.

    The same results give the same bytes. Without `digits`, the page says that the pictures of
    digits are left out. The weights of one run per arm are read from `stored`.
    """
    results, plan = evidence.results, evidence.plan
    palette = figures.colours([arm.name for arm in plan.experiment.arms], plan.experiment.baseline)
    counted = answers.count(evidence)
    drawn = _figures(evidence, palette)
    table = arm_table(plan, results.final)
    learned = _learned(results, stored)
    context = {
        "plan": plan,
        "experiment": plan.experiment,
        "answer": answer(evidence),
        "warning": warning(evidence),
        "missing": len(plan.keys) - len(results.final),
        "facts": _facts(evidence),
        "tuning": tuning_line(plan),
        "margin": points(plan.experiment.margin / 100, sign=False),
        "levels": evidence_tables.levels(evidence.comparisons),
        "correction": evidence_tables.correction(evidence.comparisons),
        "tested": evidence_tables.test_name(evidence.comparisons).removeprefix("a "),
        "over": "the means of the searches that tuned the arms"
        if evidence.comparisons.unit == "search"
        else "seeds",
        "colour": {arm: figures.page_colour(colour) for arm, colour in palette.items()},
        "shown": shown_arms(evidence),
        "factor": curve_factor(evidence),
        "comparisons": _comparison_rows(evidence),
        "against": evidence_tables.against(evidence),
        "failed": bool(table[list(FAILURES)].to_numpy().any()),
        "tables": _tables(evidence),
        "effects": evidence.effects,
        "worth": evidence_tables.worth_tables(evidence),
        "figures": drawn,
        "few_epochs": figures.few_epochs(results.frame),
        "bands": figures.has_bands(shown_arms(evidence)),
        "answers": counted,
        "per_digit": counted.per_digit(),
        "confusion": counted.confusion(),
        "unanswered": bool(counted.counts[:, :, answers.NONE].any()),
        "images_of": np.bincount(counted.labels, minlength=10),
        "hard": _hard(counted, digits),
        "pictured": digits is not None,
        "learned": learned,
        "connectivities": _connectivities(learned),
        "again": _again(results),
        "recipes": _recipe_differences(plan),
    }
    page = _templates().get_template("report.html.j2").render(context)
    files = {
        "report.html": finished(page).encode(),
        "report.md": _templates().get_template("report.md.j2").render(context).encode(),
        "arms.csv": _csv(_arm_frame(evidence, table)),
        "comparisons.csv": _csv(_comparison_frame(evidence)),
        "runs.csv": _csv(_run_frame(results)),
        "epochs.csv": _csv(results.frame.drop(columns="run_id")),
        "digits.csv": _csv(_digit_frame(counted)),
        "confusions.csv": _csv(_confusion_frame(counted)),
        "hard_digits.csv": _csv(_hard_frame(counted)),
        **{f"{name}.svg": figures.in_a_file(picture) for name, picture in drawn.items()},
    }
    if worth_records(evidence):
        files["worth.csv"] = _csv(pd.DataFrame(worth_records(evidence)))
    if evidence.effects:
        files["effects.csv"] = _csv(pd.DataFrame([effect_record(e) for e in evidence.effects]))
    return files


@cache
def _templates() -> jinja2.Environment:
    environment = templates()
    for name, function in {
        "dash": _dash,
        "times": _times,
        "plain": _plain,
        "sentence": _sentence,
        "cell": _cell,
        "md": markdown,
        "mdline": markdown_line,
        "breakable": _breakable,
    }.items():
        environment.filters[name] = function
    return environment


def _dash(cell: str) -> str:
    """Write the mark of a missing number as a dash."""
    return "\N{EN DASH}" if cell == evidence_tables.NONE else cell


def _times(cell: str) -> str:
    """Write the x between factors as a multiplication sign."""
    return cell.replace(" x ", " \N{MULTIPLICATION SIGN} ")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _cell(text: Any) -> str:
    """Return a text that is safe in a cell of a Markdown table."""
    return markdown(_plain(text)).replace("|", "\\|")


def _breakable(name: str) -> Markup:
    """Return a name for HTML with possible line breaks between its parts."""
    return Markup(re.sub(r"([=_/])", r"\1<wbr>", str(escape(name))))


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _csv(table: pd.DataFrame) -> bytes:
    table = table.map(csv_cell).rename(columns=csv_cell)
    text: str = table.to_csv(index=False, lineterminator="\n")
    return text.encode()


# ---- what the templates show


def _figures(evidence: Evidence, palette: dict[str, str]) -> dict[str, str]:
    """Return the page's figures as SVG, by name."""
    frame, plan, shown = evidence.results.frame, evidence.plan, shown_arms(evidence)
    frame = frame[frame.arm.isin(shown)]
    palette = {arm: colour for arm, colour in palette.items() if arm in shown}
    pairs = [pair for pair in evidence.comparisons.pairs if pair.arm in shown]
    arms = {arm: runs for arm, runs in evidence.arms.items() if arm in shown}
    limits = figures.curve_limits(frame)
    drawn = {
        f"learning_curves_{split}": figures.svg(
            figures.learning_curves(frame, split, palette, limits),
            f"Mean {split} error of every arm after each epoch",
        )
        for split in ("train", "test")
    }
    if pairs:
        drawn["differences"] = figures.svg(
            figures.differences(pairs, palette, evidence_tables.against(evidence)),
            "Differences in test error with their intervals",
        )
    drawn["spread"] = figures.svg(
        figures.spread(arms, palette), "Test error of every run, arm by arm"
    )
    if factor := curve_factor(evidence):
        errors = {
            plan.experiment.arm(arm).overrides[factor]: runs.errors[~runs.diverged]
            for arm, runs in evidence.arms.items()
        }
        drawn["by_value"] = figures.svg(
            figures.by_value(factor, errors), f"Test error against {factor}"
        )
    if plan.experiment.ladder:
        drawn["ladder"] = figures.svg(
            figures.ladder(evidence.arms, evidence.images),
            "Test images missed after each step of the ladder",
        )
    return drawn


def _facts(evidence: Evidence) -> list[str]:
    """Return the facts that the numbers are based on, a few words each."""
    plan = evidence.plan
    arms = plan.experiment.arms
    epochs = sorted({arm.recipe.epochs for arm in arms})
    trainers = sorted({str(identity) for identity in plan.trainers.values()})
    return [
        count(len(arms), "arm"),
        f"{count(len(plan.experiment.seeds), 'seed')} each",
        count(epochs[0], "epoch")
        if len(epochs) == 1
        else f"{' or '.join(map(str, epochs))} epochs",
        f"{plan.data}, {evidence.images:,} test images"
        + (" drawn by each seed" if evidence.labels is None else ""),
        f"trainer {' and '.join(trainers)}",
    ]


def _tables(evidence: Evidence) -> dict[str, Table]:
    """Return the tables of the page and of its twin: both show every column of these."""
    arms = evidence_tables.arms(evidence)
    failed = any(set(arms.column(name)) != {"0"} for name in FAILURES)
    compared = evidence_tables.comparisons(evidence)
    if compared.rows:
        several = len(set(compared.column("against"))) > 1  # otherwise the heading names it
        compared = compared.only([n for n in COMPARED if n != "against" or several])
    return {
        "arms": arms.only([name for name in ARM_COLUMNS if name not in FAILURES or failed]),
        "comparisons": compared,
        "effects": evidence_tables.effects(evidence),
        "timing": evidence_tables.timing(evidence.results),
    }


def _comparison_rows(evidence: Evidence) -> list[dict[str, Any]]:
    """Return the comparisons with their sentences."""
    rows = []
    for pair in evidence.comparisons.pairs:
        record = comparison_record(evidence, pair)
        notes = [note for note in (pair.counted.note, pair.failure_note) if note]
        details = _details(record, pair, evidence.comparisons.detectable_range(pair))
        rows.append(record | {"details": details, "notes": notes})
    return rows


def _details(
    record: dict[str, Any], pair: PairResult, detectable: tuple[float, float] | None
) -> list[tuple[str, str]]:
    """Return further details of a comparison, each with its name."""
    one, joint = pair.counted, pair.joint
    seeds = count(one.n, one.unit)
    details = [
        ("P(better)", f"{probability(one)} with one more {one.unit}, with Wilson's interval")
    ]
    if one.interval:
        bca = f"; {span(one.bca)} by the BCa bootstrap, a cross-check" if one.bca else ""
        details.append(
            (f"over {plural(one.unit)}", f"{span(one.interval)} by {one.interval.method}{bca}")
        )
    if pair.simultaneous:
        details.append(("all together", f"{span(pair.simultaneous)} with the other comparisons"))
    if pair.corrected is not None:
        shown = f"{points(pair.corrected)}: called differences are overestimated"
        details.append(("corrected for the call", shown))
    arm, baseline = pair.failures.arm, pair.failures.baseline
    rates = f"{pair.arm} {arm.text}; {pair.baseline} {baseline.text}"
    details.append(("failed runs", f"{rates}; equal rates: p = {pair.failures.p:.2g}"))
    if pair.over_all:
        unseen = "over all runs, including failures that no seed has shown"
        details.append(("with failures", f"{span(pair.over_all)} {unseen}"))
    if joint:
        widest = f"; at most {span(joint.widest)}, including the two-way bootstrap"
        details.append(("with new images", f"{span(joint.interval)}{widest}"))
    if record["detectable"]:
        size = points(record["detectable"], sign=False)
        if detectable:
            size += f" ({100 * detectable[0]:.2f} to {100 * detectable[1]:.2f})"
        details.append(("detectable", f"a true difference of {size} with {seeds}, at 80 % power"))
    elif one.unit == "seed" and one.n < record["fewest_seeds"]:
        fewest = count(record["fewest_seeds"], "seed")
        details.append(("detectable", f"nothing with {seeds}, however large; it takes {fewest}"))
    if one.correlation is not None and one.pairing_gain is not None:
        details.append(
            (
                "pairing",
                f"r = {one.correlation:.2f} over {plural(one.unit)}; without pairing it would take "
                f"{one.pairing_gain:.1f} times as many",
            )
        )
    return details


def _hard(counted: answers.Answers, digits: Digits | None) -> list[dict[str, Any]]:
    """Return both kinds of hard digits: how many there are, and the hardest to show."""
    wrong = counted.wrong
    sorts = []
    for rows in counted.hard():
        shown = []
        for row in rows[:MOST_PICTURES]:
            votes = counted.counts[:, row].sum(axis=0)
            order = np.argsort(-votes, kind="stable")[:3]
            shown.append(
                {
                    "row": int(row),
                    "label": int(counted.labels[row]),
                    "picture": pictures.digit(digits.test.images[row]) if digits else None,
                    "votes": [(_digit(k), int(votes[k])) for k in order if votes[k]],
                    "wrong": [float(share) for share in wrong[:, row]],
                }
            )
        sorts.append({"number": len(rows), "shown": shown})
    return sorts


def _digit(answer: int) -> str:
    return "none" if answer == answers.NONE else str(answer)


def _learned(results: Results, stored: Files) -> list[dict[str, Any]]:
    """Return the kernels and the connectivity of each arm's first run that did not diverge."""
    final = results.final
    learned = []
    for arm in results.plan.experiment.arms:
        runs = final[(final.arm == arm.name) & (final.status != RunStatus.DIVERGED)]
        if not len(runs):
            continue
        first = runs.iloc[0]
        weights = stored.weights(first.run_id)
        seen = (weights["h2_weight"] != 0).any(axis=(2, 3))
        learned.append(
            {
                "arm": arm.name,
                "seed": int(first.seed),
                "kernels": pictures.kernels(weights["h1_weight"][:, 0].astype(np.float64)),
                "connectivity": arm.recipe.connectivity,
                "seen": pictures.connectivity(seen),
                "connections": int(seen.sum()),
            }
        )
    return learned


def _connectivities(learned: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the arms in groups that share a connectivity."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in learned:
        groups.setdefault(one["seen"], []).append(one)
    return list(groups.values())


def _again(results: Results) -> dict[str, Any]:
    """Return what is needed to repeat the experiment: command, seeds, code and machines."""
    experiment = results.plan.experiment
    machines: dict[tuple[Any, ...], int] = {}
    for origin in results.origins.itertuples():
        key = (origin.commit, *origin.environment.items())
        machines[key] = machines.get(key, 0) + 1
    seeds = experiment.seeds
    listed = ", ".join(map(str, seeds))
    if len(seeds) > 2 and seeds == tuple(range(seeds[0], seeds[-1] + 1)):
        listed = f"{seeds[0]} to {seeds[-1]}"
    return {
        "command": str(experiment.command) if experiment.command else None,
        "seeds": listed,
        "machines": [
            {"commit": commit, "environment": dict(items), "runs": number}
            for (commit, *items), number in machines.items()
        ],
    }


def _recipe_differences(plan: Plan) -> dict[str, Any]:
    """Return the recipe fields in which arms differ, with their values, and the common ones."""
    recipes = [arm.described for arm in plan.experiment.arms]
    fields = list(Recipe.model_fields)
    differing = [f for f in fields if len({str(recipe[f]) for recipe in recipes}) > 1]
    return {
        "fields": differing,
        "rows": [
            (arm.name, [recipe[f] for f in differing])
            for arm, recipe in zip(plan.experiment.arms, recipes, strict=True)
        ],
        "common": {
            f: recipes[0][f] for f in fields if f not in differing and recipes[0][f] is not None
        },
    }


# ---- CSV; errors and differences are fractions


def _arm_frame(evidence: Evidence, table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for row in table.to_dict("records"):
        runs = evidence.arms.get(row["arm"])
        described = ended(runs) if runs else None
        rows.append(row | ends("test_error", described.interval if described else None))
    return pd.DataFrame(rows)


def _comparison_frame(evidence: Evidence) -> pd.DataFrame:
    return pd.DataFrame([comparison_record(evidence, p) for p in evidence.comparisons.pairs])


def _run_frame(results: Results) -> pd.DataFrame:
    seconds = results.frame.groupby("run_id").epoch_seconds.sum()
    final = results.final.drop(columns="epoch_seconds")
    return final.assign(seconds=final.run_id.map(seconds))


def _digit_frame(counted: answers.Answers) -> pd.DataFrame:
    errors = counted.per_digit()
    images = np.bincount(counted.labels, minlength=10)
    return pd.DataFrame(
        [
            {"arm": arm, "digit": digit, "images": images[digit], "error": errors[k, digit]}
            for k, arm in enumerate(counted.arms)
            for digit in range(10)
        ],
        columns=["arm", "digit", "images", "error"],
    )


def _confusion_frame(counted: answers.Answers) -> pd.DataFrame:
    """Return the mean number of images per run, by label and answer."""
    table = counted.confusion()
    return pd.DataFrame(
        [
            {"arm": arm, "label": label, "answer": _digit(given), "images": table[k, label, given]}
            for k, arm in enumerate(counted.arms)
            for label in range(10)
            for given in range(answers.CLASSES + 1)
        ],
        columns=["arm", "label", "answer", "images"],
    )


def _hard_frame(counted: answers.Answers) -> pd.DataFrame:
    every, some = counted.hard()
    wrong, votes = counted.wrong, counted.votes
    rows = [
        {"image": row, "label": counted.labels[row], "wrong_in": sort}
        | {f"{arm}: answer": _digit(votes[k, row]) for k, arm in enumerate(counted.arms)}
        | {f"{arm}: share wrong": wrong[k, row] for k, arm in enumerate(counted.arms)}
        for sort, found in (("every arm", every), ("some", some))
        for row in found
    ]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["image", "label", "wrong_in"])
