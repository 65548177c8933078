"""The report of a finished study: tables, notes, a figure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from lecun_ablate.reporting.figures import png
from lecun_ablate.reporting.html import study_page
from lecun_ablate.reporting.tables import Table
from lecun_ablate.studies.outcome import SearchResult
from lecun_ablate.studies.seeds import SeedResult
from lecun_ablate.system.provenance import machine
from lecun_ablate.system.text import markdown, markdown_line


@dataclass(frozen=True)
class StudyReport:
    """A study's findings, for the terminal, for files, and for Optuna's dashboard."""

    title: str
    tables: list[Table]
    notes: list[str]  # what a reader must know beside the tables
    origin: str  # machine, trainer, time and data
    figure: Figure
    plots: dict[str, Any]  # plotly figures by name
    values: dict[str, Any]  # everything as plain values

    def markdown(self, figure: str | None = None) -> str:
        """Return the report as Markdown; `figure` is the file of the picture."""
        picture = [f"![]({figure})"] if figure else []
        tables = [table.markdown() for table in self.tables]
        notes = [markdown_line(note) for note in self.notes]
        parts = [f"### {markdown(self.title)}", *tables, *picture, *notes, f"*{self.origin}*"]
        return "\n\n".join(parts) + "\n"

    def files(self) -> dict[str, bytes | str]:
        """Return the report's files: pages in HTML and Markdown, the figure, the plain values."""
        picture = png(self.figure)
        return {
            "study.html": study_page(self, picture),
            "study.md": self.markdown("study.png"),
            "study.png": picture,
            "study.json": json.dumps(self.values, indent=2) + "\n",
        }


def heading(result: SearchResult | SeedResult) -> str:
    """Return the title of a study's report."""
    version = f", version {result.version}" if result.version > 1 else ""
    return f"{result.study.name} on {result.data}{version}: {result.study.question}".rstrip(": ")


def origin(result: SearchResult | SeedResult) -> str:
    """Return the machine, the trainer, the time and the data of a study."""
    return (
        f"{machine()}; trainer {result.trainer}; {result.seconds:,.0f} s total wall time; "
        f"data digest {result.data_digest}"
    )


def shared_values(result: SearchResult | SeedResult) -> dict[str, Any]:
    """Return what both kinds of studies have in common, as plain values."""
    return {
        "study": result.study.name,
        "question": result.study.question,
        "version": result.version,
        "data": result.data,
        "data_digest": result.data_digest,
        "notice": result.notice,
        "machine": machine(),
        "trainer": result.trainer,
        "wall_seconds": result.seconds,
        "run_id": result.run_id,
    }


def value_text(value: Any) -> str:
    """Return a recipe value for display: numbers to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
