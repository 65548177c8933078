"""Results for other programs: tidy CSV and Parquet, and the comparison as a LaTeX table."""

from __future__ import annotations

import io
import re

import pandas as pd

from lecun_ablate.evidence.sentences import answer
from lecun_ablate.evidence.weighing import Evidence
from lecun_ablate.reporting import evidence_tables

SPECIAL = {"&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$", "{": r"\{", "}": r"\}"}
HEADS = r"arm & test error [\%] & difference & 95\,\% over seeds & $p$ (corrected) & verdict"
SPECIAL |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}


def csv(frame: pd.DataFrame) -> bytes:
    """Return a row per run and epoch as CSV; floats read back as the same bits."""
    return frame.to_csv(index=False, lineterminator="\n").encode()


def parquet(frame: pd.DataFrame) -> bytes:
    """Return the same as Parquet."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def latex(evidence: Evidence) -> bytes:
    """Return the arms with their comparisons as a table of LaTeX's package booktabs."""
    plan = evidence.plan
    arms = evidence_tables.arms(evidence).records()
    found = evidence_tables.comparisons(evidence).records()
    by_arm = {row["arm"]: row for row in found}
    lines = []
    for planned, arm in zip(plan.experiment.arms, arms, strict=True):
        pair = by_arm.get(planned.name, {})
        error = arm["test error"].replace("+-", r"$\pm$")
        more = [_minus(pair.get(name, "")) for name in ("difference", "over seeds", "p")]
        cells = [_escaped(arm["arm"]), error, *more, _escaped(pair.get("verdict", ""))]
        lines.append(f"    {' & '.join(cells)} \\\\")
    seeds = len(plan.experiment.seeds)
    caption = f"{plan.experiment.question} {answer(evidence)} {seeds} seeds, {plan.data}."
    text = "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            "\\begin{table}",
            "  \\centering",
            f"  \\caption{{{_escaped(caption.strip())}}}",
            f"  \\label{{tab:{plan.experiment.name}}}",
            "  \\begin{tabular}{lrrrrl}",
            "    \\toprule",
            f"    {HEADS} \\\\",
            "    \\midrule",
            *lines,
            "    \\bottomrule",
            "  \\end{tabular}",
            "\\end{table}",
        ]
    )
    return f"{text}\n".encode()


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(character, character) for character in text)


def _minus(text: str) -> str:
    """Return numbers with a minus sign instead of a hyphen."""
    return re.sub(r"-(?=\d)", "$-$", _escaped(text))
