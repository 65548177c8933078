"""Studies in the terminal: reports, and what --dry-run says."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from lecun_ablate.statistics import count
from lecun_ablate.studies.report import StudyReport
from lecun_ablate.studies.runner import StudyPlan
from lecun_ablate.system.passwords import without_passwords
from lecun_ablate.terminal.console import console, duration
from lecun_ablate.terminal.tables import print_table


def report(report: StudyReport, folder: Path, storage: str) -> None:
    """Print a study's report and where to see more."""
    on = console()
    for i, table in enumerate(report.tables):
        print_table(on, replace(table, title=report.title) if i == 0 else table)
    for note in [*report.notes, report.origin]:
        on.print(note)
    address = shlex.quote(without_passwords(storage))
    print(f"report: {folder}; in the browser: optuna-dashboard {address}")


def plan(plan: StudyPlan) -> None:
    """Print what --dry-run says of a study."""
    print_table(console(), replace(plan.table, title=plan.title))
    most = "at most " if plan.at_most else ""
    print(f"{most}{count(plan.runs, 'run')} to do, about {duration(plan.seconds)}")
