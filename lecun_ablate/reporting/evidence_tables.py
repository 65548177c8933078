"""An experiment's results as tables: arms, comparisons, effects of factors, and power."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lecun_ablate.config.ablation import BASELINE, WINNER
from lecun_ablate.config.experiment import Experiment
from lecun_ablate.evidence.arms import arm_table
from lecun_ablate.evidence.weighing import Evidence, ended
from lecun_ablate.plan.results import Results, RunStatus
from lecun_ablate.reporting.tables import Table
from lecun_ablate.statistics import (
    ExperimentResult,
    PairResult,
    PowerAnalysis,
    p_value,
    points,
    probability,
    signed,
    span,
)
from lecun_ablate.system.text import count, plural

NONE = "-"  # means no number


def percentage(value: float | None) -> str:
    """Return a fraction in %, without the sign."""
    return NONE if value is None or pd.isna(value) else f"{100 * value:.2f}"


def p_text(p: float) -> str:
    """Return a p-value without the "p ="."""
    return p_value(p).removeprefix("p ").removeprefix("= ")


def marked(experiment: Experiment, arm: str) -> str:
    """Return an arm's name, marked if it is the baseline or the start of a ladder."""
    if arm != experiment.baseline or len(experiment.arms) == 1:
        return arm
    return f"{arm} ({'start' if experiment.ladder else 'baseline'})"


def arms(evidence: Evidence) -> Table:
    """Return a row per arm; errors in %. The baseline, or the start of a ladder, is marked."""
    plan = evidence.plan
    table = arm_table(plan, evidence.results.final).to_dict("records")
    rows = []
    for row in table:
        runs = evidence.arms.get(row["arm"])
        described = ended(runs) if runs else None
        interval = described.interval if described else None
        mean, sd = percentage(row["test_error_mean"]), percentage(row["test_error_sd"])
        rows.append(
            {
                "arm": marked(plan.experiment, row["arm"]),
                "runs": str(row["runs"]),
                "test error": mean if sd == NONE else f"{mean} +- {sd}",
                "mean test error": mean,
                "95 % interval": f"{percentage(interval.low)} to {percentage(interval.high)}"
                if interval
                else NONE,
                "sd": sd,
                "best (seed)": _with_seed(row, "best"),
                "worst (seed)": _with_seed(row, "worst"),
                "train error": percentage(row["train_error_mean"]),
                "diverged": str(row["diverged"]),
                "collapsed": str(row["collapsed"]),
                "failed": NONE if pd.isna(row["failures"]) else row["failures"],
                "lr": row["rate"],
                "tuned": "yes" if row["tuned_by"] else "no",
                "trainer": row["trainer"],
            }
        )
    return Table.of(rows, words=["arm"])


def _with_seed(row: dict[str, Any], which: str) -> str:
    if row["runs"] == row["diverged"]:
        return NONE
    return f"{percentage(row[f'{which}_error'])} ({int(row[f'{which}_seed'])})"


def comparisons(evidence: Evidence) -> Table:
    """Return a row per comparison; differences in points."""
    baselines = {pair.baseline for pair in evidence.comparisons.pairs}
    reference = {
        "baseline": f"the baseline {''.join(baselines)}",
        "step before": "the step before",
        "other arm": "every other arm",
    }[against(evidence)]
    unit, tested = plural(evidence.comparisons.unit), test_name(evidence.comparisons)
    rows = [
        {
            "arm": pair.arm,
            "against": pair.baseline,
            "seeds": str(pair.counted.n)
            if pair.counted.unit == "seed"
            else count(pair.counted.n, "search"),
            "difference": signed(pair.counted.difference),
            "over seeds": span(pair.counted.interval),
            "all together": span(pair.simultaneous),
            "among sound runs": f"{signed(pair.sound.difference)} {span(pair.sound.interval)}"
            if pair.sound
            else NONE,
            "with new images": span(pair.joint.interval) if pair.joint else NONE,
            "p": p_text(pair.p_adjusted),
            "P(better)": probability(pair.counted),
            "effect size": NONE
            if pair.counted.effect_size is None
            else f"{pair.counted.effect_size:.1f}",
            "verdict": pair.verdict.kind,
            "conclusion": pair.conclusion,
        }
        for pair in evidence.comparisons.pairs
    ]
    return Table.of(
        rows,
        words=["arm", "against", "verdict", "conclusion"],
        title=f"Test error against {reference}",
        caption=f"differences in points; intervals over {unit}, and over {unit} and images "
        f"together; p of {tested}, {correction(evidence.comparisons)}; P(better) with one more "
        f"{evidence.comparisons.unit}; {levels(evidence.comparisons)}",
    )


def against(evidence: Evidence) -> str:
    """Say what arms are compared with, in the singular."""
    if evidence.plan.experiment.ladder:
        return "step before"
    baselines = {pair.baseline for pair in evidence.comparisons.pairs}
    return "other arm" if len(baselines) > 1 else "baseline"


def correction(result: ExperimentResult) -> str:
    """Say how p-values are corrected, and for how many comparisons."""
    if result.correction == "none":
        return "of a single comparison"
    return f"corrected for {result.family} by {result.correction}"


def test_name(result: ExperimentResult) -> str:
    """Return the test that p-values come from."""
    if result.unit == "search":
        return "a t test over the searches' means"
    return "a sign-flip permutation test"


def levels(result: ExperimentResult) -> str:
    """Say at which level the look decides, and which level intervals have."""
    whole = "" if result.look is None else " (all looks together: 0.05)"
    return f"{result.level_note}{whole}, intervals at {100 * (1 - result.alpha):.3g} %"


def effects(evidence: Evidence) -> Table:
    """Return a row per effect of a factor, in points."""
    found = evidence.effects
    rows = [
        {
            "factor": " x ".join(effect.factors),
            "level": " x ".join(map(str, effect.levels)),
            "instead of": " x ".join(map(str, effect.baseline)),
            "effect": signed(effect.effect),
            "over seeds": span(effect.interval),
            "p": p_text(effect.p_adjusted),
        }
        for effect in found
    ]
    return Table.of(
        rows,
        words=["factor", "level", "instead of"],
        title="Effects of the factors",
        caption="in points of test error; p corrected together with the comparisons of the arms",
    )


def worth_tables(evidence: Evidence) -> list[Table]:
    """Return the tables of what choices contribute, without empty ones."""
    tables = [contributions(evidence), path(evidence), shares(evidence)]
    return [table for table in tables if table.rows]


def shares(evidence: Evidence) -> Table:
    """Return a row per factor or interaction: its share of the variance between the cells."""
    rows = [
        {
            "choice": " x ".join(one.factors),
            "share of the variance": f"{100 * one.share:.0f} %",
            "over seeds": f"{100 * one.interval.low:.0f} to {100 * one.interval.high:.0f} %"
            if one.interval
            else NONE,
        }
        for one in evidence.worth.shares
    ]
    return Table.of(
        rows,
        words=["choice"],
        title="How much each choice matters",
        caption="shares of the variance between the means of all combinations (functional ANOVA), "
        "minus the part due to seeds alone; x: together, beyond what each does alone"
        + _failures_counted(evidence),
    )


def contributions(evidence: Evidence) -> Table:
    """Return a row per change from the baseline to the winner: what it contributes, in points."""
    experiment = evidence.plan.experiment
    rows = [
        {
            "change": _change(experiment, one.change),
            "contribution": signed(one.effect),
            "over seeds": span(one.interval),
            "alone": signed(one.first),
            "last": signed(one.last),
        }
        for one in evidence.worth.contributions
    ]
    whole = sum(one.effect for one in evidence.worth.contributions)
    return Table.of(
        rows,
        words=["change"],
        title="What each change contributes",
        caption="points of test error, the mean over all orders of the changes (Shapley): "
        f"together {signed(whole)}; alone: before all others; last: after them"
        + _failures_counted(evidence),
    )


def path(evidence: Evidence) -> Table:
    """Return a row per step of the path that makes the change with the largest gain first."""
    experiment = evidence.plan.experiment
    rows = [
        {
            "step": str(number),
            "change": _change(experiment, step.change),
            "gain": signed(step.effect),
            "over seeds": span(step.interval),
        }
        for number, step in enumerate(evidence.worth.path, 1)
    ]
    return Table.of(
        rows,
        words=["change"],
        title="The path of the largest gains",
        caption="points of test error against the step before; because the path is chosen by its "
        "gains, the early ones are shown too large and the late ones too small"
        + _failures_counted(evidence),
    )


def _change(experiment: Experiment, field: str) -> str:
    ends = [experiment.arm(arm).recipe.value(field) for arm in (BASELINE, WINNER)]
    return f"{field}: {ends[0]} to {ends[1]}"


def _failures_counted(evidence: Evidence) -> str:
    if not evidence.worth.failed:
        return ""
    return (
        f"; with {count(evidence.worth.failed, 'seed')} of {evidence.worth.seeds} a run failed, "
        "which counts here as in the differences over all runs"
    )


def timing(results: Results) -> Table:
    """Return a row per arm that has runs: how many failed, and how long they took."""
    rows = []
    for arm in results.plan.experiment.arms:
        frame = results.frame[results.frame.arm == arm.name]
        if not len(frame):
            continue
        seconds = frame.groupby("seed").epoch_seconds.sum()
        status = results.final[results.final.arm == arm.name].status
        rows.append(
            {
                "arm": arm.name,
                "runs": str(len(seconds)),
                "diverged": str((status == RunStatus.DIVERGED).sum()),
                "collapsed": str((status == RunStatus.COLLAPSED).sum()),
                "seconds per run": f"{seconds.mean():.2f}",
                "fastest": f"{seconds.min():.2f}",
                "slowest": f"{seconds.max():.2f}",
                "ms per epoch": f"{1000 * frame.epoch_seconds.mean():.1f}",
                "trainer": str(results.plan.trainers[arm.name]),
            }
        )
    return Table.of(rows, words=["arm", "trainer"])


def power(effect: float, rows: Sequence[tuple[PairResult, PowerAnalysis]]) -> Table:
    """Return the power of each comparison, and the seeds needed for a true `effect`."""
    cells = [
        {
            "arm": pair.arm,
            "against": pair.baseline,
            "seeds now": str(one.n),
            "sd": f"{100 * one.sd:.2f}",
            "power now": f"{100 * one.power:.0f} %",
            "detectable now": f"nothing below {one.fewest} seeds"
            if one.detectable is None
            else _detectable(one),
            "seeds needed": f"{one.paired:,}",
            "range": f"{one.paired_range[0]:,} to {one.paired_range[1]:,}",
            "unpaired": f"{one.unpaired:,}",
        }
        for pair, one in rows
    ]
    return Table.of(
        cells,
        words=["arm", "against"],
        title=f"Seeds needed to see a difference of {points(effect, sign=False)}",
        caption="sd of the paired differences, in points; at 80 % power, corrected for the number "
        "of comparisons; ranges: at the ends of the interval of sd",
    )


def _detectable(one: PowerAnalysis) -> str:
    """Return the detectable effect in points, with its range."""
    assert one.detectable is not None
    ends = one.detectable_range
    beside = f" ({100 * ends[0]:.2f} to {100 * ends[1]:.2f})" if ends else ""
    return f"{points(one.detectable, sign=False)}{beside}"
