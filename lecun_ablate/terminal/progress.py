"""Progress of training: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import defaultdict

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table

from lecun_ablate.running.progress import Progress, Work
from lecun_ablate.terminal.console import console, duration, remark
from lecun_ablate.trainers.base import EpochReport


def display() -> Progress:
    """Return a live display on a terminal, otherwise one that prints plain lines."""
    return LiveProgress() if Console(stderr=True).is_terminal else LineProgress()


class _Tally:
    """The progress of the runs, and the current errors of each arm."""

    def __init__(self, work: Work):
        self._work = work
        self._left = [epochs for _, epochs in work.runs]
        self.runs, self.epochs = len(work.runs), sum(self._left)
        self.runs_done = 0
        self.epochs_done = 0  # including those that a diverged run skips
        self.diverged: dict[str, int] = defaultdict(int)
        self._errors: dict[str, dict[int, float]] = defaultdict(dict)
        self.arms = list(dict.fromkeys(arm for arm, _ in work.runs))

    def update(self, run: int, report: EpochReport) -> str:
        """Count an epoch of a run, and return the run's arm."""
        arm = self._work.runs[run][0]
        done = self._left[run] if report.last else 1
        self._left[run] -= done
        self.epochs_done += done
        self.runs_done += report.last
        if report.diverged:
            self.diverged[arm] += 1
            self._errors[arm].pop(run, None)
        elif self._work.split:
            self._errors[arm][run] = report.scores[self._work.split].error
        return arm

    def counted(self, arm: str) -> int:
        """Return how many runs of an arm have an error, or had one before diverging."""
        return len(self._errors[arm]) + self.diverged[arm]

    def error(self, arm: str) -> str:
        """Return the current mean error of an arm's runs, and how many have diverged."""
        errors, words = self._errors[arm].values(), []
        if errors:
            words.append(f"{100 * sum(errors) / len(errors):.2f} %")
        if self.diverged[arm]:
            words.append(f"{self.diverged[arm]} diverged")
        return ", ".join(words)


class LiveProgress:
    """Runs, epochs, time left, and the current error of every arm, in place."""

    def begin(self, work: Work) -> None:
        """Start the display."""
        self._work, self._tally = work, _Tally(work)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._runs = self._bars.add_task("runs", total=self._tally.runs)
        self._epochs = self._bars.add_task("epochs", total=self._tally.epochs)
        on = console(stderr=True)
        on.print(work.what)
        self._live = Live(self._render(), console=on, refresh_per_second=4)
        self._live.start()

    def _render(self) -> Table:
        grid = Table.grid()
        grid.add_row(self._bars)
        if self._work.split:
            table = Table(box=None, title=None, padding=(0, 2, 0, 0))
            table.add_column("arm")
            for name in ("running or done", f"{self._work.split} error now"):
                table.add_column(name, justify="right", no_wrap=True)
            for arm in self._tally.arms:
                table.add_row(arm, str(self._tally.counted(arm)), self._tally.error(arm) or "-")
            grid.add_row(table)
        return grid

    def epoch(self, run: int, report: EpochReport) -> None:
        """Count an epoch."""
        self._tally.update(run, report)
        self._bars.update(self._epochs, completed=self._tally.epochs_done)
        self._bars.update(self._runs, completed=self._tally.runs_done)
        self._live.update(self._render())

    def end(self) -> None:
        """Leave the final state on the screen."""
        self._live.stop()


class LineProgress:
    """Plain lines, some seconds apart, however long the runs take."""

    SECONDS = 5.0  # at least, between two lines

    def begin(self, work: Work) -> None:
        """Print what will be done."""
        self._work, self._tally = work, _Tally(work)
        self._said = time.monotonic()
        self._first: tuple[float, int] | None = None  # the time of the first count, and the epochs
        self._heard: set[str] = set()  # arms with news since the last line
        remark(work.what)

    def epoch(self, run: int, report: EpochReport) -> None:
        """Print the progress, unless a line has just been printed."""
        tally = self._tally
        self._heard.add(tally.update(run, report))
        now = time.monotonic()
        self._first = self._first or (now, tally.epochs_done)
        if now - self._said < self.SECONDS and tally.runs_done < tally.runs:
            return
        since, counted = self._first
        rate = (tally.epochs_done - counted) / (now - since) if now > since else 0
        todo = tally.epochs - tally.epochs_done
        left = f"{duration(todo / rate if todo else 0)} left" if rate or not todo else "started"
        errors = ""
        if self._work.split:
            each = "; ".join(
                f"{arm} {tally.error(arm)}" for arm in tally.arms if arm in self._heard
            )
            errors = f"; {self._work.split} error now: {each}"
        remark(
            f"{tally.runs_done}/{tally.runs} runs, {tally.epochs_done}/{tally.epochs} epochs, "
            f"{left}{errors}"
        )
        self._said = now
        self._heard = set()

    def end(self) -> None:
        """Print nothing: the last run's line has been printed."""
