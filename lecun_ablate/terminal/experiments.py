"""Experiments in the terminal: results, other plans, power, and --dry-run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from lecun_ablate.evidence.arms import tuning_line
from lecun_ablate.evidence.sentences import answer, warning
from lecun_ablate.evidence.weighing import Evidence
from lecun_ablate.plan.plan import Plan
from lecun_ablate.reporting import evidence_tables
from lecun_ablate.reporting.evidence_tables import worth_tables
from lecun_ablate.reporting.tables import Table
from lecun_ablate.statistics import PairResult, PowerAnalysis
from lecun_ablate.terminal.console import console, duration
from lecun_ablate.terminal.tables import print_table
from lecun_ablate.tracking.records import OtherPlan

SHOWN = ("arm", "runs", "test error", "best (seed)", "worst (seed)", "train error")
# columns that move to a line below the table if they are the same for every arm; the line on #
# tuning has the rates
SAID_BELOW = {
    "diverged": "{} diverged",
    "collapsed": "{} collapsed",
    "failed": "failed {}",
    "lr": "",
    "tuned": "",
    "trainer": "trainer {}",
}
# what fits into 80 columns; the report has the rest
COMPARED = (
    "arm",
    "against",  # if there are several
    "seeds",  # if they differ
    "difference",
    "over seeds",
    "among sound runs",  # if a run failed
    "p",
    "verdict",
)


def results(evidence: Evidence, link: str, ui: str | None) -> None:
    """Print the table of arms, the conclusions, and where to see more.

    `ui` is the command that starts the server at `link`, unless it is already running.
    """
    plan, on = evidence.plan, console()
    epochs = sorted({arm.recipe.epochs for arm in plan.experiment.arms})
    table = evidence_tables.arms(evidence)
    alike = [name for name in SAID_BELOW if len(set(table.column(name))) == 1]
    shown = table.only([*SHOWN, *(name for name in SAID_BELOW if name not in alike)])
    print_table(
        on,
        Table(
            shown.columns,
            shown.rows,
            f"{plan.experiment.name} on {plan.data}: {plan.experiment.question}",
            f"errors in %, after epoch {' or '.join(map(str, epochs))}; mean +- sd over the seeds",
        ),
    )
    said = [SAID_BELOW[name].format(table.column(name)[0]) for name in alike if SAID_BELOW[name]]
    if said:
        on.print(("every arm: " if len(table.rows) > 1 else "") + ", ".join(said))
    on.print(tuning_line(plan))
    _findings(on, evidence)
    missing = len(plan.keys) - len(evidence.results.final)
    if missing:
        on.print(f"{missing} of {len(plan.keys)} runs are still to be trained")
    left_out = ", ".join(map(str, plan.experiment.without_seeds))
    if left_out:
        on.print(f"NOTICE: without seed {left_out}, which --without-seed leaves out")
    if plan.experiment.variant:
        name, run_id = plan.experiment.name, evidence.results.run_id
        on.print(
            f"This is a variant of the file ({plan.experiment.variant}). "
            f"`show {run_id[:8]}` shows it again, `show {name}` the file without options."
        )
    if plan.notice:
        on.print(f"NOTICE: {plan.notice.splitlines()[0]}")
    print(f"compare in the browser: {f'{ui}, then ' if ui else ''}{link}")


def _findings(on: Console, evidence: Evidence) -> None:
    """Print the comparisons, the effects of factors, and the answer."""
    pairs = evidence.comparisons.pairs
    if pairs:
        table = evidence_tables.comparisons(evidence)
        spare = {name for name in ("against", "seeds") if len(set(table.column(name))) == 1}
        if not any(pair.failed for pair in pairs):
            spare.add("among sound runs")
        shown = table.only([name for name in COMPARED if name not in spare])
        found = evidence.comparisons
        rules = [evidence_tables.correction(found), evidence_tables.levels(found)]
        over = "the searches that tuned the arms" if found.unit == "search" else "seeds"
        caption = f"points, with intervals over {over}; p {'; '.join(filter(None, rules))}"
        print_table(on, replace(shown, caption=caption))
    if evidence.effects:
        print_table(on, evidence_tables.effects(evidence))
    for table in worth_tables(evidence):
        print_table(on, table)
    notes = [warning(evidence), *(pair.failure_note for pair in pairs)]
    for effect in evidence.effects:
        if effect.failure_note:
            what = f"{' x '.join(effect.factors)}, {' x '.join(map(str, effect.levels))}"
            notes.append(f"{what}: {effect.failure_note}")
    for note in notes:
        if note:
            on.print(f"NOTICE: {note}")
    on.print(answer(evidence))


def other_plans(plans: Sequence[OtherPlan]) -> None:
    """List the other plans of the same experiment, and how they differ from the one shown."""
    if plans:
        print("other plans of this experiment, the last run first:")
    for plan in plans:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(plan.last_run))
        what = "its plan.json is gone" if plan.differences is None else "; ".join(plan.differences)
        print(f"  {plan.run_id}  {when}  {plan.status}  {what}")


def power(effect: float, rows: Sequence[tuple[PairResult, PowerAnalysis]]) -> None:
    """Print the power of each comparison, and the seeds that an effect needs."""
    print_table(console(), evidence_tables.power(effect, rows))


def plan(plan: Plan, todo: Sequence[tuple[str, int]], seconds: float) -> None:
    """Print --dry-run's output: arms, seeds, runs done and to do, and an estimate of the time."""
    experiment = plan.experiment
    left = {arm.name: sum(a == arm.name for a, _ in todo) for arm in experiment.arms}
    rows = [
        {
            "arm": evidence_tables.marked(experiment, arm.name),
            "changes": ", ".join(f"{field}={value}" for field, value in arm.overrides.items())
            or "-",
            "lr": arm.rate,
            "tuned": "yes" if arm.tuning else "no",
            "epochs": str(arm.recipe.epochs),
            "trainer": plan.trainers[arm.name].name,
            "done": str(len(experiment.seeds) - left[arm.name]),
            "to do": str(left[arm.name]),
        }
        for arm in experiment.arms
    ]
    title = f"{experiment.name} on {plan.data}: {experiment.question}"
    print_table(console(), Table.of(rows, words=["arm", "changes", "trainer"], title=title))
    seeds = ", ".join(map(str, experiment.seeds[:5]))
    more = f", ... {experiment.seeds[-1]}" if len(experiment.seeds) > 5 else ""
    print(
        f"{len(experiment.seeds)} seeds ({seeds}{more}), {len(plan.keys)} runs: "
        f"{len(plan.keys) - len(todo)} done, {len(todo)} to do, about {duration(seconds)}"
    )
    until = experiment.until
    if until:
        print(
            "then more seeds until every 95 % interval among sound runs is within "
            f"+-{until.halfwidth:g} points, {until.at_most} at most"
        )
    if experiment.further:
        most = experiment.most_arms
        print(
            f"then the path of the largest gains, step by step: {most} arms at most, "
            f"{most * len(experiment.seeds)} runs with these seeds"
        )
