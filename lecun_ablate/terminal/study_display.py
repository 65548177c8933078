"""What a person sees of studies in the terminal: progress, plans, reports."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lecun_ablate.report.study_report import StudyReport, TextTable
from lecun_ablate.statistics import count
from lecun_ablate.studies import seed_study
from lecun_ablate.studies.study_runner import PreparedStudy, StudyPlan
from lecun_ablate.system.passwords import without_passwords
from lecun_ablate.terminal import console as terminal
from lecun_ablate.terminal import display
from lecun_ablate.terminal.display import duration


def progress_of(prepared: PreparedStudy) -> Any:
    """Return a live display on a terminal, else one that prints plain lines."""
    if isinstance(prepared, seed_study.PreparedSeeds):
        return display.progress()
    return TerminalProgress() if Console(stderr=True).is_terminal else LineProgress()


class TerminalProgress:
    """A bar for each batch."""

    def begin(self, what: str, runs: int) -> None:
        """Start a bar."""
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("runs, left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(what, total=runs)
        self._bar.start()

    def run(self) -> None:
        """Count a run."""
        self._bar.advance(self._task)

    def end(self) -> None:
        """Leave the last state on the screen."""
        self._bar.stop()


class LineProgress:
    """Plain lines, ten seconds apart at the least."""

    def begin(self, what: str, runs: int) -> None:
        """Say what is to be trained."""
        self._runs, self._done = runs, 0
        self._began = self._said = time.monotonic()
        print(f"{what}: {count(runs, 'run')}", file=sys.stderr, flush=True)

    def run(self) -> None:
        """Count a run."""
        self._done += 1
        now = time.monotonic()
        if now - self._said >= 10:
            self._said = now
            left = (now - self._began) / self._done * (self._runs - self._done)
            print(
                f"  {self._done}/{self._runs} runs, {duration(left)} left",
                file=sys.stderr,
                flush=True,
            )

    def end(self) -> None:
        """Print nothing."""


def report(report: StudyReport, folder: Any, storage: str) -> None:
    """Print a study's report and where to see more."""
    console = terminal.console()
    for i, table in enumerate(report.tables):
        terminal.print_table(console, _sheet(table, report.title if i == 0 else None))
    for note in [*report.notes, report.evidence]:
        console.print(note)
    storage = without_passwords(storage)
    print(f"report: {folder}; in the browser: optuna-dashboard {storage}")


def plan(plan: StudyPlan) -> None:
    """Print what --dry-run says of a study."""
    terminal.print_table(terminal.console(), _sheet(plan.table, plan.title))
    most = "at most " if plan.at_most else ""
    print(f"{most}{count(plan.runs, 'run')} to do, about {duration(plan.seconds)}")


def _sheet(table: TextTable, title: str | None) -> Table:
    sheet = Table(title=title, title_justify="left")
    for i, name in enumerate(table.columns):
        sheet.add_column(name, justify="right" if i else "left", overflow="fold")
    for row in table.rows:
        sheet.add_row(*row)
    return sheet
