"""The description of an experiment in the MLflow UI: question, answer, arms, and links."""

from __future__ import annotations

from lecun_ablate.evidence.arms import tuning_line
from lecun_ablate.evidence.sentences import answer
from lecun_ablate.evidence.weighing import Evidence
from lecun_ablate.reporting import evidence_tables
from lecun_ablate.reporting.tables import Column, Table
from lecun_ablate.system.text import markdown, markdown_line
from lecun_ablate.tracking import views

MOST_ARMS = 12  # rows of the table; with more arms, only the report has it


def description(evidence: Evidence) -> str:
    """Return the description of an experiment and of its run, in Markdown."""
    plan, place = evidence.plan, evidence.results.experiment_id
    experiment, key = plan.experiment, plan.key
    name = experiment.name if not experiment.variant else evidence.results.run_id
    links = {
        "compare the arms": views.arms_view(key),
        "table of arms": views.table_view(key),
        "every run": views.seeds_view(key),
    }
    pages = " · ".join(f"[{text}]({views.page(place, view)})" for text, view in links.items())
    commands = [
        f"show {name}",
        f"report {name}",
        *([f"power {name} --effect 0.25"] if evidence.comparisons.pairs else []),
        *([str(experiment.command).split("lecun_ablate ", 1)[1]] if experiment.command else []),
    ]
    parts = [
        markdown_line(
            experiment.question or experiment.name
        ),  # the list of experiments shows it unrendered
        f"Variant of the file: `{experiment.variant}`" if experiment.variant else "",
        markdown_line(answer(evidence)),
        pages,
        _table(evidence),
        f"{plan.data}, {len(experiment.seeds)} seeds; {markdown(tuning_line(plan))}.",
        "\n".join(f"    python -m lecun_ablate {command}" for command in commands),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(evidence: Evidence) -> str:
    """Return the table of arms with their conclusions; for many arms, a single line."""
    arms = evidence_tables.arms(evidence)
    if len(arms.rows) > MOST_ARMS:
        return f"{len(arms.rows)} arms: see the table of arms above, or the report."
    names = [arm.name for arm in evidence.plan.experiment.arms]
    found: dict[str, dict[str, str]] = {}
    for comparison in evidence_tables.comparisons(evidence).records():
        found.setdefault(comparison["arm"], comparison)  # the one with the baseline comes first
    columns = ["arm", "test error [%]"]
    more = ["difference", "over seeds", "p", "verdict"] if found else []
    rows = [
        [markdown(arm["arm"]), arm["test error"].replace("+-", "±")]
        + [found.get(name, {}).get(column, "") for column in more]
        for arm, name in zip(arms.records(), names, strict=True)
    ]
    heads = [Column(name, name in ("arm", "verdict")) for name in columns + more]
    return Table(heads, rows).markdown()
