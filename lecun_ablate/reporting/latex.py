"""An experiment for a paper: booktabs tables, every number a macro, and a checklist's answers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lecun_ablate.evidence.arms import tuning_line
from lecun_ablate.evidence.weighing import Evidence, ended
from lecun_ablate.plan.results import RunStatus
from lecun_ablate.reporting.evidence_tables import (
    correction,
    levels,
    test_name,
    worth_tables,
)
from lecun_ablate.reporting.tables import Table
from lecun_ablate.statistics import Interval, PairResult, failure_rate
from lecun_ablate.system.text import count

DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}


def text(words: str) -> str:
    """Return words as LaTeX text, with special characters escaped."""
    return "".join(SPECIAL.get(mark, mark) for mark in words)


class Macros:
    """Numbers under names that LaTeX accepts: letters only, no two alike."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def __call__(self, *parts: str, value: str) -> str:
        """Define a macro named after `parts`, and return its call."""
        words = re.findall(r"[A-Za-z]+|\d", " ".join(parts))
        name = "".join(DIGITS[int(w)] if w.isdigit() else w[:1].upper() + w[1:] for w in words)
        name = name[:1].lower() + name[1:]
        while name in self._values:  # another arm with nearly the same name
            name += "x"
        self._values[name] = value
        return f"\\{name}{{}}"

    def definitions(self) -> str:
        """Return the lines that define all macros, in order."""
        return "\n".join(f"\\newcommand{{\\{n}}}{{{v}}}" for n, v in self._values.items())


def latex(evidence: Evidence) -> str:
    """Return a file for \\input: macros, tables of arms and comparisons, and a paragraph.

    It needs the package booktabs. Errors in percent, differences in points.
    """
    macros = Macros()
    arms, compared = _arms(evidence, macros), _comparisons(evidence, macros)
    valued = [_worth(table, macros) for table in worth_tables(evidence)]
    paragraph = _checklist(evidence, macros)
    plan = evidence.plan
    head = f"% {plan.tracking_name}: needs \\usepackage{{booktabs}}"
    parts = [
        head,
        macros.definitions(),
        arms,
        *([compared] if compared else []),
        *valued,
        paragraph,
    ]
    return "\n\n".join(parts) + "\n"


def _table(columns: str, header: Iterable[str], rows: Iterable[Iterable[str]], note: str) -> str:
    lines = [
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        " & ".join(header) + " \\\\",
        "\\midrule",
        *(" & ".join(row) + " \\\\" for row in rows),
        "\\bottomrule",
        "\\end{tabular}",
        f"% {note}",
    ]
    return "\n".join(lines)


def _number(value: float, sign: bool = False) -> str:
    return f"${100 * value:+.2f}$" if sign else f"{100 * value:.2f}"


def _arms(evidence: Evidence, macros: Macros) -> str:
    rows = []
    for arm, runs in evidence.arms.items():
        error = ended(runs)
        rate = failure_rate(int(runs.failed.sum()), len(runs))
        mean = macros(arm, "Mean", value=_number(error.mean)) if error else "--"
        sd = macros(arm, "Sd", value=_number(error.sd)) if error and error.n > 1 else "--"
        rows.append(
            [
                text(arm),
                macros(arm, "Runs", value=str(len(runs))),
                f"{mean} $\\pm$ {sd}",
                macros(arm, "Failures", value=text(rate.text)),
            ]
        )
    header = ["arm", "runs", "test error [\\%]", "failed runs"]
    return _table(
        "lrrl", header, rows, "mean and standard deviation over runs that did not diverge"
    )


def _comparisons(evidence: Evidence, macros: Macros) -> str:
    rows = []
    for pair in evidence.comparisons.pairs:
        name = (pair.arm, "Against", pair.baseline)
        one, joint = pair.counted, pair.joint
        rows.append(
            [
                text(pair.arm),
                text(pair.baseline),
                macros(*name, "Difference", value=_number(one.difference, sign=True)),
                _interval(macros, (*name, "Seeds"), one.interval),
                _interval(macros, (*name, "Images"), joint.interval if joint else None),
                macros(*name, "P", value=_p(pair)),
                macros(*name, "Verdict", value=text(pair.verdict.kind)),
            ]
        )
    if not rows:
        return ""
    header = ["arm", "against", "difference", "over seeds", "with new images", "$p$", "verdict"]
    result = evidence.comparisons
    note = f"points of test error; p {correction(result)}; {levels(result)}"
    return _table("llrrrrl", header, rows, note)


def _worth(table: Table, macros: Macros) -> str:
    """Return a table of what choices contribute, with its numbers as macros."""
    rows = []
    for row in table.records():
        what = next(row[column.name] for column in table.columns if column.words)
        rows.append(
            [
                text(cell)
                if name in ("choice", "change", "step")
                else macros(table.title, what, name, value=text(cell))
                for name, cell in row.items()
            ]
        )
    columns = "".join("l" if column.words else "r" for column in table.columns)
    return _table(columns, map(text, table.names), rows, f"{table.title}: {table.caption}")


def _interval(macros: Macros, name: tuple[str, ...], interval: Interval | None) -> str:
    if interval is None:
        return "--"
    low = macros(*name, "Low", value=_number(interval.low, sign=True))
    high = macros(*name, "High", value=_number(interval.high, sign=True))
    return f"[{low}, {high}]"


def _p(pair: PairResult) -> str:
    return "$<0.001$" if pair.p_adjusted < 0.001 else f"{pair.p_adjusted:.3f}"


def _checklist(evidence: Evidence, macros: Macros) -> str:
    """Return what conference checklists ask for: runs, error bars, tuning, compute, versions."""
    results, plan = evidence.results, evidence.plan
    final, result = results.final, evidence.comparisons
    failed = int((final.status != RunStatus.FINISHED).sum())
    seconds = float(results.frame.epoch_seconds.sum())
    hours = macros("Total", "Hours", value=f"{seconds / 3600:.2g}")
    runs = macros("Total", "Runs", value=f"{len(final):,}".replace(",", "{,}"))
    seeds = macros("Seeds", value=str(len(plan.experiment.seeds)))
    lost = macros("Total", "Failed", value=str(failed))
    environments = {
        f"{key} {value}" for origin in results.origins.environment for key, value in origin.items()
    }
    commits = sorted({str(commit) for commit in results.origins.commit if commit})
    drawn = "" if evidence.labels is not None else ", drawn with the training images by each seed"
    searched = plan.experiment.searches is not None
    found = " and the variation between searches, as a random effect"
    found, nor = (
        (found, "") if searched else ("", ", nor the variation that another search would add")
    )
    sentences = [
        f"Each of {count(len(evidence.arms), 'arm')} was trained with {seeds} seeds, the same for "
        f"all arms ({runs} runs), on {text(plan.data)} "
        f"(digest \\texttt{{{plan.data_digest[:12]}}}), and scored on "
        f"{evidence.images:,} test images after the last epoch{drawn}",
        f"Intervals capture the random initial weights and order of the patterns on this test set"
        f"{found}; intervals with new images capture the test images as well, as crossed random "
        f"effects. They do not capture the data set{nor}",
        text(f"Differences are paired by seed; p of {test_name(result)} {correction(result)}; "
             f"{levels(result)}") if result.pairs else "",
        f"Hyperparameters: {text(tuning_line(plan))}",
        f"All runs together, including the {lost} that diverged or collapsed, took {hours} hours "
        f"of training on one core or device each",
        f"Versions: {text(', '.join(sorted(environments)))}"
        + (f"; commit {', '.join(commits)}" if commits else ""),
    ]  # fmt: skip
    return "\\paragraph{Reproducibility.} " + ". ".join(s for s in sentences if s) + "."
