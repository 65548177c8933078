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
from lecun_ablate.evidence.arms import tuning_line
from lecun_ablate.plan.plan import Plan
from lecun_ablate.registry import Component
from lecun_ablate.terminal import console as terminal
from lecun_ablate.trainers.base import EpochReport

if TYPE_CHECKING:
    from lecun_ablate.evidence.weighing import Evidence
    from lecun_ablate.tracking.reader import OtherPlan


def notice(text: str) -> None:
    """Print something that must not be missed, on standard error."""
    console = terminal.console(stderr=True)
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
        self._of_each = {arm.name: arm.recipe.epochs for arm in plan.experiment.arms}
        self.runs = len(todo)
        self.runs_done = 0
        self.epochs = sum(self._of_each[arm] for arm, _ in todo)
        self.epochs_done = 0  # with those that diverged runs are spared
        self.diverged: dict[str, int] = defaultdict(int)
        self._last: dict[str, dict[int, float]] = defaultdict(dict)

    def update(self, arm: str, seed: int, report: EpochReport) -> None:
        self.runs_done += report.last
        self.epochs_done += 1 + (self._of_each[arm] - report.epoch if report.last else 0)
        if report.diverged:
            self.diverged[arm] += 1
            self._last[arm].pop(seed, None)
        else:
            self._last[arm][seed] = report.scores["test"].error

    def counted(self, arm: str) -> int:
        """The runs of an arm that have an error, or had one before they diverged."""
        return len(self._last[arm]) + self.diverged[arm]

    def error(self, arm: str) -> str:
        """The mean error of an arm's runs as they are now, and how many have diverged."""
        errors, words = self._last[arm].values(), []
        if errors:
            words.append(f"{100 * sum(errors) / len(errors):.2f} %")
        if self.diverged[arm]:
            words.append(f"{self.diverged[arm]} diverged")
        return ", ".join(words)


class TerminalProgress:
    """Runs, epochs, time left, and the current error of every arm, in place."""

    def begin(self, plan: Plan, todo: Sequence[tuple[str, int]]) -> None:
        """Start the display."""
        self._arms = _Arms(plan, todo)
        self._plan = plan
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._runs = self._bar.add_task("runs", total=self._arms.runs)
        self._epochs = self._bar.add_task("epochs", total=self._arms.epochs)
        self._live = Live(
            self._render(), console=terminal.console(stderr=True), refresh_per_second=4
        )
        self._live.start()

    def _render(self) -> Table:
        grid = Table.grid()
        grid.add_row(self._bar)
        table = Table(box=None, title=None, padding=(0, 2, 0, 0))
        table.add_column("arm")
        for name in ("running or done", "test error now"):
            table.add_column(name, justify="right", no_wrap=True)
        for arm in self._plan.experiment.arms:
            if counted := self._arms.counted(arm.name):
                table.add_row(arm.name, str(counted), self._arms.error(arm.name))
        grid.add_row(table)
        return grid

    def epoch(self, arm: str, seed: int, report: EpochReport) -> None:
        """Count an epoch."""
        self._arms.update(arm, seed, report)
        self._bar.update(self._epochs, completed=self._arms.epochs_done)
        self._bar.update(self._runs, completed=self._arms.runs_done)
        self._live.update(self._render())

    def end(self) -> None:
        """Leave the last state on the screen."""
        self._live.stop()


class LineProgress:
    """Plain lines, some seconds apart, however long the runs take."""

    SECONDS = 5.0  # between two lines at the least

    def begin(self, plan: Plan, todo: Sequence[tuple[str, int]]) -> None:
        """Say what is to be done."""
        self._arms = _Arms(plan, todo)
        self._began = self._said = time.monotonic()
        self._heard: dict[str, None] = {}  # the arms since the last line, in order
        done = len(plan.keys) - len(todo)
        _line(f"{len(plan.keys)} runs, {done} done before, {len(todo)} to train")

    def epoch(self, arm: str, seed: int, report: EpochReport) -> None:
        """Print where training is, unless a line has just been printed."""
        arms = self._arms
        arms.update(arm, seed, report)
        self._heard[arm] = None
        now = time.monotonic()
        if now - self._said < self.SECONDS and arms.runs_done < arms.runs:
            return
        left = (now - self._began) / arms.epochs_done * (arms.epochs - arms.epochs_done)
        errors = "; ".join(f"{name} {arms.error(name)}" for name in self._heard)
        _line(
            f"{arms.runs_done}/{arms.runs} runs, {arms.epochs_done}/{arms.epochs} epochs, "
            f"{duration(left)} left; test error now: {errors}"
        )
        self._said = now
        self._heard = {}

    def end(self) -> None:
        """Print nothing: the last run's line has been printed."""


def _line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Return a time span for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


# ---- tables

# what stands below the table where it is the same for every arm; rates are in the tuning line
SAID_BELOW = {
    "diverged": "{} diverged",
    "collapsed": "{} collapsed",
    "lr": "",
    "tuned": "",
    "trainer": "trainer {}",
}


def _percent(value: float | None, spread: float | None = None) -> str:
    if value is None or pd.isna(value):
        return "-"
    plus_minus = "" if spread is None or pd.isna(spread) else f" +- {100 * spread:.2f}"
    return f"{100 * value:.2f}{plus_minus}"


def results(evidence: Evidence, table: pd.DataFrame, link: str, ui: str | None) -> None:
    """Print the table of arms, what it shows, and where to see more.

    `ui` is the command that starts what answers at `link`, if it is not running anyway.
    """
    from lecun_ablate.terminal import evidence_display

    plan = evidence.plan
    console = terminal.console()
    epochs = sorted({arm.recipe.epochs for arm in plan.experiment.arms})
    after = " or ".join(map(str, epochs))
    sheet = Table(
        title=f"{plan.experiment.name} on {plan.data}: {plan.experiment.question}",
        caption=f"errors in %, after epoch {after}; mean +- sd over the seeds",
        title_justify="left",
        caption_justify="left",
    )
    columns = _arm_columns(plan, table)
    alike = [name for name in SAID_BELOW if len(set(columns[name])) == 1]
    shown = [name for name in columns if name not in alike]
    for name in shown:
        sheet.add_column(name, justify="left" if name == "arm" else "right", overflow="fold")
    for row in zip(*(columns[name] for name in shown), strict=True):
        sheet.add_row(*row)
    terminal.print_table(console, sheet)
    said = [SAID_BELOW[name].format(columns[name][0]) for name in alike if SAID_BELOW[name]]
    if said:
        console.print(("every arm: " if len(table) > 1 else "") + ", ".join(said))
    console.print(tuning_line(plan))
    evidence_display.comparisons(console, evidence)
    missing = len(plan.keys) - len(evidence.results.final)
    if missing:
        console.print(f"{missing} of {len(plan.keys)} runs are still to be trained")
    if plan.notice:
        console.print(f"NOTICE: {plan.notice.splitlines()[0]}")
    print(f"compare in the browser: {f'{ui}, then ' if ui else ''}{link}")


def _arm_columns(plan: Plan, table: pd.DataFrame) -> dict[str, list[str]]:
    """Return the cells of the table of arms by the names of its columns."""
    columns: dict[str, list[str]] = defaultdict(list)
    for row in table.itertuples():
        baseline = " (baseline)" if row.arm == plan.experiment.baseline and len(table) > 1 else ""
        ended = row.runs > row.diverged
        cells = {
            "arm": row.arm + baseline,
            "runs": str(row.runs),
            "test error": _percent(row.test_error_mean, row.test_error_sd),
            "best (seed)": f"{_percent(row.best_error)} ({int(row.best_seed)})" if ended else "-",
            "worst (seed)": f"{_percent(row.worst_error)} ({int(row.worst_seed)})"
            if ended
            else "-",
            "train error": _percent(row.train_error_mean),
            "diverged": str(row.diverged),
            "collapsed": str(row.collapsed),
            "lr": f"{row.lr:.4g}",
            "tuned": "yes" if row.tuned_by else "no",
            "trainer": row.trainer,
        }
        for name, cell in cells.items():
            columns[name].append(cell)
    return columns


def other_plans(plans: Sequence[OtherPlan]) -> None:
    """List the other plans of the same experiment, and in what they differ from the one shown."""
    if plans:
        print("other plans of this experiment, the last run first:")
    for plan in plans:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(plan.last_run))
        what = "its plan.json is gone" if plan.differences is None else "; ".join(plan.differences)
        print(f"  {plan.run_id}  {when}  {plan.status}  {what}")


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
    sheet = Table(
        title=f"{experiment.name} on {plan.data}: {experiment.question}", title_justify="left"
    )
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
    terminal.print_table(terminal.console(), sheet)
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
        origin = "" if component.builtin else f"  [{component.origin}]"
        print(f"  {component.name:{width}}  {component.summary}{origin}")
    print()
