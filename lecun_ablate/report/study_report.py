"""What a finished study hands to people: tables, notes, a figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from lecun_ablate.report.figures import png


@dataclass(frozen=True)
class TextTable:
    """Rows of texts under column names; the first column is aligned left, the others right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the table in GitHub's Markdown."""
        aligned = ["---", *["--:"] * (len(self.columns) - 1)]
        lines = [self.columns, aligned, *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass(frozen=True)
class StudyReport:
    """A study's findings, for the terminal, for files, and for Optuna's dashboard."""

    title: str
    tables: list[TextTable]
    notes: list[str]  # what must be known beside the tables
    evidence: str  # what it was computed with, how long it took
    figure: Figure
    plot: Any  # the plotly figure
    values: dict[str, Any]  # all of it as plain values

    def markdown(self, figure: str | None = None) -> str:
        """Return the report as Markdown; `figure` is the file of the picture."""
        picture = [f"![{self.title}]({figure})"] if figure else []
        tables = [table.markdown() for table in self.tables]
        parts = [f"### {self.title}", *tables, *picture, *self.notes, f"*{self.evidence}*"]
        return "\n\n".join(parts) + "\n"

    def files(self) -> dict[str, bytes | str]:
        """Return the report's files: a Markdown page with its figure, and the plain values."""
        return {
            "study.md": self.markdown("study.png"),
            "study.png": png(self.figure),
            "study.json": json.dumps(self.values, indent=2) + "\n",
        }
