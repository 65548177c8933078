"""Single runs in the terminal: two side by side, and one trained again."""

from __future__ import annotations

from lecun_ablate.reporting.tables import Column, Table
from lecun_ablate.running.reproduce import Reproduction
from lecun_ablate.running.two_arms import ArmComparison
from lecun_ablate.running.two_runs import RunComparison
from lecun_ablate.statistics import p_value, percent, points, span
from lecun_ablate.system.text import count
from lecun_ablate.terminal.console import console
from lecun_ablate.terminal.tables import print_table

MOST_ROWS = 30  # of differing digits or metrics; --json has them all


def two_runs(found: RunComparison) -> None:
    """Print two runs side by side and the digits that they answer differently."""
    on, one = console(), found.table
    for run, error in zip((found.first, found.second), found.errors, strict=True):
        on.print(f"{run.name}: {percent(error)} test error  ({run.run_id})")
    columns = [Column("", words=True), Column("second right"), Column("second wrong")]
    rows = [
        ["first right", f"{one.both_right:,}", f"{one.only_first_right:,}"],
        ["first wrong", f"{one.only_second_right:,}", f"{one.both_wrong:,}"],
    ]
    print_table(on, Table(columns, rows, f"The {one.images:,} test digits"))
    if len(found.differing):
        shown = found.differing.head(MOST_ROWS)
        rows = [["none" if x is None else str(x) for x in row] for row in shown.to_numpy()]
        more = one.differing > MOST_ROWS
        table = Table(
            [Column(name) for name in ("image", "label", "first", "second")],
            rows,
            f"{count(one.differing, 'digit')} answered differently",
            f"the first {MOST_ROWS}; --json has them all" if more else "",
        )
        print_table(on, table)
    on.print(
        f"{found.first.name} minus {found.second.name}: {points(one.difference)} "
        f"{span(one.interval)}, McNemar's exact test "
        f"{p_value(one.p)}. This compares two networks, not two recipes, which takes several seeds."
    )


def two_arms(found: ArmComparison) -> None:
    """Print two arms over the seeds that they share."""
    on, one = console(), found.result.counted
    second = one.arm_mean - one.difference
    on.print(f"{found.first}: {percent(one.arm_mean)} test error")
    on.print(f"{found.second}: {percent(second)} test error")
    on.print(
        f"{found.first} minus {found.second}: {points(one.difference)} {span(one.interval)}, "
        f"{p_value(one.p)}, over {count(len(found.seeds), 'shared seed')} on {found.data}"
    )
    on.print(f"{found.first}: {found.result.verdict.text}")
    on.print("One comparison at the 5 % level, not corrected for others.")


def reproduction(found: Reproduction) -> None:
    """Print whether a run was reproduced, what differs, and how the environment differs."""
    on, run, failures = console(), found.run, found.failures
    for change in found.changes:
        on.print(f"environment: {change}")
    metrics = f"{count(len(found.table), 'number')} over {count(found.epochs[1], 'epoch')}"
    if found.epochs[0] != found.epochs[1]:
        on.print(f"{found.epochs[0]} epochs were trained then, {found.epochs[1]} now")
    if found.exact:
        rule = "the same trainer, instruction set and data: every metric must agree bit for bit"
    else:
        rule = (
            f"another trainer or instruction set: losses may differ by {found.bounds[0]:.2g} of "
            f"their value, errors (misses) by {points(found.bounds[1], sign=False)}"
        )
    on.print(rule)
    if found.reproduced:
        largest = found.table.difference.abs().max()
        how = "bit for bit" if largest == 0 or not largest > 0 else "within these bounds"
        on.print(f"{run.name} is reproduced, {how}: {metrics}")
        return
    if len(failures):
        rows = []
        for row in failures.head(MOST_ROWS).itertuples():
            numbers = (f"{row.then:.9g}", f"{row.now:.9g}", f"{row.difference:.3g}")
            shown = ["none" if number == "nan" else number for number in numbers]
            rows.append([row.metric, str(row.epoch), *shown])
        columns = [Column("metric", words=True)]
        columns += [Column(name) for name in ("epoch", "then", "now", "difference")]
        title = f"{len(failures)} of {metrics} differ"
        caption = f"the first {MOST_ROWS}" if len(failures) > MOST_ROWS else ""
        print_table(on, Table(columns, rows, title, caption))
    on.print(f"{run.name} is NOT reproduced")
