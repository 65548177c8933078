"""What a person sees in the terminal: notices, progress, tables."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from lecun_ablate.data.places import Found
from lecun_ablate.plan import Plan
from lecun_ablate.registry import Component
from lecun_ablate.summary import tuning_line
from lecun_ablate.trainers.base import EpochReport

if TYPE_CHECKING:
    from lecun_ablate.report.evidence import Evidence

WIDE = 150  # columns where the output is no terminal


def _console(stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDE, highlight=False)


def notice(text: str) -> None:
    """Print something that must not be missed, on standard error."""
    console = _console(stderr=True)
    if console.is_terminal:
        console.print(Panel(text, title="Notice", border_style="bold yellow"))
    else:
        print(f"NOTICE: {text}", file=sys.stderr)


# ---- progress


def progress() -> TerminalProgress | LineProgress:
    """Return a live display on a terminal, else one that prints plain lines."""
    return TerminalProgress() if Console(stderr=True).is_terminal else LineProgress()


class _Arms:
    """The running numbers of each arm."""

    def __init__(self, plan: Plan, todo: Sequence[tuple[str, int]]):
        self.total = len(todo)
        self.done = 0
        self.epochs = sum(plan.experiment.arm(arm).recipe.epochs for arm, _ in todo)
        self.last: dict[str, dict[int, float]] = defaultdict(dict)

    def update(self, arm: str, seed: int, report: EpochReport) -> None:
        self.last[arm][seed] = report.scores["test"].error
        self.done += report.last

    def error(self, arm: str) -> float:
        errors = self.last[arm].values()
        return sum(errors) / len(errors)


class TerminalProgress:
    """Runs, epochs, time left, and the current error of every arm, in place."""

    def begin(self, plan: Plan, todo: Sequence[tuple[str, int]]) -> None:
        """Start the display."""
        self._arms = _Arms(plan, todo)
        self._plan = plan
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        self._runs = self._bar.add_task("runs", total=self._arms.total)
        self._epochs = self._bar.add_task("epochs", total=self._arms.epochs)
        self._live = Live(self._render(), console=_console(stderr=True), refresh_per_second=4)
        self._live.start()

    def _render(self) -> Table:
        grid = Table.grid()
        grid.add_row(self._bar)
        table = Table(box=None, title=None, padding=(0, 2, 0, 0))
        table.add_column("arm")
        table.add_column("running or done", justify="right")
        table.add_column("test error now", justify="right")
        for arm in self._plan.experiment.arms:
            if self._arms.last[arm.name]:
                error = f"{100 * self._arms.error(arm.name):.2f} %"
                table.add_row(arm.name, str(len(self._arms.last[arm.name])), error)
        grid.add_row(table)
        return grid

    def epoch(self, arm: str, seed: int, report: EpochReport) -> None:
        """Count an epoch."""
        self._arms.update(arm, seed, report)
        skipped = self._plan.experiment.arm(arm).recipe.epochs - report.epoch if report.last else 0
        self._bar.advance(self._epochs, 1 + skipped)
        self._bar.advance(self._runs, int(report.last))
        self._live.update(self._render())

    def end(self) -> None:
        """Leave the last state on the screen."""
        self._live.stop()


class LineProgress:
    """Plain lines, one second apart at the least."""

    def begin(self, plan: Plan, todo: Sequence[tuple[str, int]]) -> None:
        """Say what is to be done."""
        self._arms = _Arms(plan, todo)
        self._began = time.monotonic()
        self._said = self._began
        done = len(plan.keys) - len(todo)
        print(f"{len(plan.keys)} runs, {done} done before, {len(todo)} to train", file=sys.stderr)

    def epoch(self, arm: str, seed: int, report: EpochReport) -> None:
        """Print a line where a run has ended."""
        self._arms.update(arm, seed, report)
        now = time.monotonic()
        if not report.last or (now - self._said < 1 and self._arms.done < self._arms.total):
            return
        self._said = now
        left = (now - self._began) / self._arms.done * (self._arms.total - self._arms.done)
        print(
            f"{self._arms.done}/{self._arms.total} runs, {arm} seed {seed}: test error "
            f"{100 * report.scores['test'].error:.2f} %, {duration(left)} left",
            file=sys.stderr,
            flush=True,
        )

    def end(self) -> None:
        """Print nothing: the last run's line has been printed."""


def duration(seconds: float) -> str:
    """Return a time span for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


# ---- tables


def _percent(value: float | None, spread: float | None = None) -> str:
    if value is None or pd.isna(value):
        return "-"
    plus_minus = "" if spread is None or pd.isna(spread) else f" +- {100 * spread:.2f}"
    return f"{100 * value:.2f}{plus_minus}"


def results(evidence: Evidence, table: pd.DataFrame, link: str) -> None:
    """Print the table of arms, what it shows, and where to see more."""
    from lecun_ablate import evidence_display

    plan = evidence.plan
    console = _console()
    epochs = sorted({arm.recipe.epochs for arm in plan.experiment.arms})
    after = " or ".join(map(str, epochs))
    sheet = Table(
        title=f"{plan.experiment.name} on {plan.data}: {plan.experiment.question}",
        caption=f"errors in %, after epoch {after}; mean +- sd over the seeds",
        title_justify="left", caption_justify="left",
    )  # fmt: skip
    sheet.add_column("arm", overflow="fold")
    for name in ("runs", "test error", "best (seed)", "worst (seed)", "train error",
                 "diverged", "collapsed", "lr", "tuned", "trainer"):  # fmt: skip
        sheet.add_column(name, justify="right", overflow="fold")
    for row in table.itertuples():
        baseline = " (baseline)" if row.arm == plan.experiment.baseline and len(table) > 1 else ""
        ended = row.runs > row.diverged
        sheet.add_row(
            row.arm + baseline,
            str(row.runs),
            _percent(row.test_error_mean, row.test_error_sd),
            f"{_percent(row.best_error)} ({int(row.best_seed)})" if ended else "-",
            f"{_percent(row.worst_error)} ({int(row.worst_seed)})" if ended else "-",
            _percent(row.train_error_mean),
            str(row.diverged),
            str(row.collapsed),
            f"{row.lr:.4g}",
            "yes" if row.tuned_by else "no",
            row.trainer,
        )
    console.print(sheet)
    console.print(tuning_line(plan))
    evidence_display.comparisons(console, evidence)
    missing = len(plan.keys) - len(evidence.results.final)
    if missing:
        console.print(f"{missing} of {len(plan.keys)} runs are still to be trained")
    if plan.notice:
        console.print(f"NOTICE: {plan.notice.splitlines()[0]}")
    print(f"compare in the browser: mlflow ui, then {link}")


def other_plans(runs: Sequence[Any], shown: Any) -> None:
    """List the other plans of the same experiment."""
    others = [run for run in runs if run.info.run_id != shown.info.run_id]
    if others:
        print("other plans of this experiment, the latest first:")
    for run in others:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.info.start_time / 1000))
        print(f"  {run.info.run_id}  {when}  {run.info.status.lower()}")


def plan_as_json(plan: Plan, todo: Sequence[tuple[str, int]], seconds: float) -> dict[str, Any]:
    """Return what --dry-run prints as plain values."""
    return {
        "experiment": plan.experiment.name,
        "data": plan.data,
        "data_digest": plan.data_digest,
        "arms": {a.name: a.recipe.model_dump() for a in plan.experiment.arms},
        "baseline": plan.experiment.baseline,
        "seeds": list(plan.experiment.seeds),
        "runs": len(plan.keys),
        "done": len(plan.keys) - len(todo),
        "todo": len(todo),
        "estimated_seconds": round(seconds, 1),
        "trainers": {arm: identity["name"] for arm, identity in plan.trainers.items()},
    }


def plan(plan: Plan, todo: Sequence[tuple[str, int]], seconds: float) -> None:
    """Print what --dry-run says: arms, seeds, runs to do and done, about how long."""
    experiment = plan.experiment
    left = {arm.name: sum(a == arm.name for a, _ in todo) for arm in experiment.arms}
    sheet = Table(title=f"{experiment.name} on {plan.data}: {experiment.question}",
                  title_justify="left")  # fmt: skip
    for name in ("arm", "changes", "lr", "tuned", "epochs", "trainer", "done", "to do"):
        sheet.add_column(name, overflow="fold")
    for arm in experiment.arms:
        changes = ", ".join(f"{field}={value}" for field, value in arm.overrides.items())
        sheet.add_row(
            arm.name + (" (baseline)" if arm.name == experiment.baseline else ""),
            changes or "-",
            f"{arm.recipe.lr:.4g}",
            "yes" if arm.tuning else "no",
            str(arm.recipe.epochs),
            str(plan.trainers[arm.name]["name"]),
            str(len(experiment.seeds) - left[arm.name]),
            str(left[arm.name]),
        )
    _console().print(sheet)
    seeds = ", ".join(map(str, experiment.seeds[:5]))
    more = f", ... {experiment.seeds[-1]}" if len(experiment.seeds) > 5 else ""
    print(
        f"{len(experiment.seeds)} seeds ({seeds}{more}), {len(plan.keys)} runs: "
        f"{len(plan.keys) - len(todo)} done, {len(todo)} to do, about {duration(seconds)}"
    )
    until = experiment.until
    if until:
        print(
            f"then more seeds until every 95 % interval is within +-{until.halfwidth:g} points, "
            f"{until.at_most} at most"
        )


def places(found: Sequence[Found]) -> None:
    """Print where each data set was looked for and what is there."""
    for place in found:
        mark = "->" if place.taken else "  "
        where = f" ({place.where})" if place.where else ""
        print(f"{mark} {place.data}: {place.place}{where}")
        if place.problem:
            print(f"     {place.problem}")
        for split, counts in (("train", place.train), ("test", place.test)):
            if counts:
                each = " ".join(map(str, counts))
                print(f"     {split:5} {sum(counts):5} images, of 0..9: {each}")
        if place.digest:
            print(f"     digest {place.digest}")
    print("-> marks what a run would take")


def components(kind: str, found: Sequence[Component]) -> None:
    """Print the components of a kind with a line each, and what the kind is called with."""
    from lecun_ablate.registry import KINDS

    print(f"{kind}({', '.join(KINDS[kind].arguments)}): {KINDS[kind].contract}")
    width = max((len(c.name) for c in found), default=0)
    for component in found:
        origin = "" if component.builtin else f"  [{component.file or 'this session'}]"
        print(f"  {component.name:{width}}  {component.summary}{origin}")
    print()
