"""Studies in the terminal: reports, and --dry-run."""

from __future__ import annotations

import shlex
from dataclasses import replace

from rich.markdown import Markdown

from lecun_ablate.studies.runner import FinishedStudy, StudyPlan
from lecun_ablate.system.passwords import without_passwords
from lecun_ablate.system.text import count
from lecun_ablate.terminal.console import console, duration
from lecun_ablate.terminal.tables import print_table


def report(finished: FinishedStudy, storage: str) -> None:
    """Print a study's report and where to see more."""
    on, report = console(), finished.report
    for i, table in enumerate(report.tables):
        print_table(on, replace(table, title=report.title) if i == 0 else table)
    for note in [*report.notes, report.origin]:
        on.print(note)
    print(f"report: {finished.folder}")
    if finished.link:
        print(f"the trials in MLflow: {finished.link}")
    command = f"optuna-dashboard {shlex.quote(without_passwords(storage))}"
    print(f"the trials in Optuna: {command}, then {finished.dashboard}")


def shown(text: str, link: str, ui: str | None) -> None:
    """Print the report of a finished study, in Markdown, and where to see more."""
    on = console()
    if on.is_terminal:
        on.print(Markdown(text))
    else:
        print(text)
    print(f"the trials in MLflow: {f'{ui}, then ' if ui else ''}{link}")


def plan(plan: StudyPlan) -> None:
    """Print --dry-run's output for a study."""
    print_table(console(), replace(plan.table, title=plan.title))
    most = "at most " if plan.at_most else ""
    print(f"{most}{count(plan.runs, 'run')} to do, about {duration(plan.seconds)}")
