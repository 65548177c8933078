"""What a person sees in the terminal of comparisons, power, two runs, and a run done again."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lecun_ablate.evidence.weighing import Evidence, answer, warning
from lecun_ablate.running.reproduce import Reproduction
from lecun_ablate.running.two_runs import RunComparison
from lecun_ablate.statistics import (
    PairResult,
    PowerAnalysis,
    count,
    p_value,
    percent,
    points,
    probability,
    signed,
    span,
)
from lecun_ablate.terminal import console as terminal

MOST_ROWS = 30  # of differing digits or metrics; --json has them all


def _table(title: str, caption: str, left: Sequence[str], right: Sequence[str]) -> Table:
    """Return an empty table with columns aligned left, then right."""
    sheet = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for names, side in ((left, "left"), (right, "right")):
        for name in names:
            sheet.add_column(name, justify=side, overflow="fold")
    return sheet


def _p(p: float) -> str:
    return p_value(p).removeprefix("p ").removeprefix("= ")


def comparisons(console: Console, evidence: Evidence) -> None:
    """Print the comparisons, the effects of factors, and the answer."""
    pairs = evidence.comparisons.pairs
    if pairs:
        sheet = _table(
            "Test error against the step before"
            if evidence.plan.experiment.ladder
            else "Test error against the baseline",
            "differences in points; 95 % intervals over seeds, and over seeds and images together; "
            "p of a sign-flip test, Holm-corrected; P(better) with one more seed",
            ["arm", "against"],
            ["seeds", "difference", "over seeds", "with new images", "p", "P(better)"],
        )
        sheet.add_column("verdict", overflow="fold")
        for pair in pairs:
            sheet.add_row(
                pair.arm,
                pair.baseline,
                str(pair.counted.n),
                signed(pair.counted.difference),
                span(pair.counted.interval),
                span(pair.joint.interval) if pair.joint else "-",
                _p(pair.p_adjusted),
                probability(pair.counted),
                pair.verdict.text,
            )
        terminal.print_table(console, sheet)
    if evidence.effects:
        sheet = _table(
            "Effects of the factors",
            "in points of test error; p Holm-corrected over this table",
            ["factor", "level", "instead of"],
            ["effect", "over seeds", "p"],
        )
        for effect in evidence.effects:
            sheet.add_row(
                " x ".join(effect.factors),
                " x ".join(map(str, effect.levels)),
                " x ".join(map(str, effect.baseline)),
                signed(effect.effect),
                span(effect.interval),
                _p(effect.p_adjusted),
            )
        terminal.print_table(console, sheet)
    notes = [pair.divergence_note for pair in pairs]
    notes += [
        effect.divergence_note
        and f"{' x '.join(effect.factors)}, "
        f"{' x '.join(map(str, effect.levels))}: {effect.divergence_note}"
        for effect in evidence.effects
    ]
    for note in [warning(evidence), *notes]:
        if note:
            console.print(f"NOTICE: {note}")
    console.print(answer(evidence))


def power(effect: float, rows: Sequence[tuple[PairResult, PowerAnalysis]]) -> None:
    """Print what the seeds of each comparison can show, and what an effect would take."""
    console = terminal.console()
    sheet = _table(
        f"Seeds that a difference of {points(effect, sign=False)} takes",
        "sd of the paired differences, in points; at 80 % power, corrected for the "
        "comparisons; range: at the ends of sd's interval",
        ["arm", "against"],
        ["seeds now", "sd", "power now", "detectable now", "seeds needed", "range", "unpaired"],
    )
    for pair, one in rows:
        sheet.add_row(
            pair.arm,
            pair.baseline,
            str(one.n),
            f"{100 * one.sd:.2f}",
            f"{100 * one.power:.0f} %",
            f"nothing below {one.fewest} seeds"
            if one.detectable is None
            else points(one.detectable, sign=False),
            f"{one.paired:,}",
            f"{one.paired_range[0]:,} to {one.paired_range[1]:,}",
            f"{one.unpaired:,}",
        )
    terminal.print_table(console, sheet)


def two_runs(found: RunComparison) -> None:
    """Print two runs side by side and the digits they answer differently."""
    console, one = terminal.console(), found.table
    for run, error in zip((found.first, found.second), found.errors, strict=True):
        console.print(f"{run.name}: {percent(error)} test error  ({run.run_id})")
    sheet = _table(f"The {one.images:,} test digits", "", [""], ["second right", "second wrong"])
    sheet.add_row("first right", f"{one.both_right:,}", f"{one.only_first_right:,}")
    sheet.add_row("first wrong", f"{one.only_second_right:,}", f"{one.both_wrong:,}")
    terminal.print_table(console, sheet)
    if len(found.differing):
        sheet = _table(
            f"{count(one.differing, 'digit')} answered differently",
            f"the first {MOST_ROWS}; --json has them all" if one.differing > MOST_ROWS else "",
            [],
            ["image", "label", "first", "second"],
        )
        for row in found.differing.head(MOST_ROWS).itertuples(index=False):
            sheet.add_row(*("none" if value is None else str(value) for value in row))
        terminal.print_table(console, sheet)
    console.print(
        f"Difference {points(one.difference)} {span(one.interval)}, McNemar's exact test "
        f"{p_value(one.p)}. This tells two networks apart, not two recipes: that takes seeds."
    )


def reproduction(found: Reproduction) -> None:
    """Print whether a run came out again, what differs, and in what the environment does."""
    console, run, failures = terminal.console(), found.run, found.failures
    for change in found.changes:
        console.print(f"environment: {change}")
    metrics = f"{count(len(found.table), 'number')} over {count(found.epochs[1], 'epoch')}"
    if found.epochs[0] != found.epochs[1]:
        console.print(f"{found.epochs[0]} epochs were trained then, {found.epochs[1]} now")
    if found.exact:
        rule = "the same trainer, instruction set and data: every metric must agree bit for bit"
    else:
        rule = (
            f"another trainer or instruction set: losses may differ by {found.bounds[0]:.2g} of "
            f"their value, errors (misses) by {points(found.bounds[1], sign=False)}"
        )
    console.print(rule)
    if found.reproduced:
        largest = found.table.difference.abs().max()
        how = "bit for bit" if largest == 0 or not largest > 0 else "within these bounds"
        console.print(f"{run.name} is reproduced, {how}: {metrics}")
        return
    if len(failures):
        sheet = _table(
            f"{len(failures)} of {metrics} differ",
            f"the first {MOST_ROWS}" if len(failures) > MOST_ROWS else "",
            ["metric"],
            ["epoch", "then", "now", "difference"],
        )
        for row in failures.head(MOST_ROWS).itertuples():
            numbers = (f"{row.then:.9g}", f"{row.now:.9g}", f"{row.difference:.3g}")
            shown = ("none" if number == "nan" else number for number in numbers)
            sheet.add_row(row.metric, str(row.epoch), *shown)
        terminal.print_table(console, sheet)
    console.print(f"{run.name} is NOT reproduced")
