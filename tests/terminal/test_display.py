"""What a person sees: tables at any width, plain lines of progress."""

import re
import time

import numpy as np
import pytest

from lecun_ablate.reporting.tables import Column, Table
from lecun_ablate.running.progress import Work
from lecun_ablate.terminal import console
from lecun_ablate.terminal.progress import LineProgress
from lecun_ablate.terminal.tables import print_table
from lecun_ablate.trainers.base import EpochReport, Scores


def table_of(rows: int) -> Table:
    names = ("test error", "best (seed)", "over seeds", "collapsed")
    numbers = [Column(name) for name in names]
    cells = [
        [
            f"activation=scaled_tanh lr=0.0{i}",
            f"19.7{i} +- 12.83",
            f"16.9{i} (10)",
            f"[-12.2{i}, -11.93]",
            str(i),
            "no difference larger than 0.33 points of error",
        ]
        for i in range(rows)
    ]
    columns = [Column("arm", words=True), *numbers, Column("verdict", words=True)]
    return Table(columns, cells, "A title that is long enough to be parted in two at forty columns")


@pytest.mark.parametrize("width", [150, 120, 80, 40])
def test_every_number_stands_whole_on_one_line(width, monkeypatch, capsys):
    monkeypatch.setattr(console, "WIDE", width)
    print_table(console.console(), table_of(3))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    for i in range(3):
        for number in (f"19.7{i} +- 12.83", f"16.9{i} (10)", f"[-12.2{i}, -11.93]"):
            assert number in out
    assert ("test error: 19.70" in out) == (width < 100)  # one block per arm


@pytest.mark.parametrize("width", [120, 80, 40])
def test_the_table_of_arms_fits(command, workplace, tiny, width, monkeypatch):
    command("run", "experiments/activation.yaml", "--data", "tiny", "--trainer", "torch",
            "--seeds", "2", "--epochs", "1", "--set", "vary.activation=[tanh, relu]")  # fmt: skip
    wide = command("show", "activation")[1]
    monkeypatch.setattr(console, "WIDE", width)
    out = command("show", "activation")[1]
    numbers = re.findall(r"\d+\.\d\d \+- \d+\.\d\d|\d+\.\d\d \(\d\)|\[\S+, \S+\]", wide)
    assert len(numbers) >= 2 * 3
    assert not [number for number in numbers if number not in out]
    assert ("runs: 2" in out) == (width < 80)  # one block per arm; at 80 the table of arms fits
    below = "every arm: 0 diverged, 0 collapsed, failed 0 of 2: at most 78 %, trainer torch"
    assert below in " ".join(out.split())
    assert "every arm at lr 0.03, untuned" in " ".join(out.split())


def report(epoch: int, misses: int, last: bool = False, diverged: bool = False) -> EpochReport:
    scores = Scores(0.1, misses, 100, np.zeros(100, np.uint8))
    return EpochReport(0, epoch, {"test": scores}, 0.1, diverged, last, None)


RUNS = [("tanh", 0), ("relu", 0), ("tanh", 1), ("relu", 1)]  # arm, seed


@pytest.fixture
def lines(monkeypatch, capsys):
    """Return the lines that plain progress prints for reports at given seconds."""

    def lines(*events: tuple[float, str, int, EpochReport]) -> list[str]:
        clock = [100.0]
        monkeypatch.setattr(time, "monotonic", lambda: clock[0])
        progress = LineProgress()
        progress.begin(Work("4 runs, 0 done before, 4 to train", [(a, 4) for a, _ in RUNS], "test"))
        for seconds, arm, seed, event in events:
            clock[0] = 100 + seconds
            progress.epoch(RUNS.index((arm, seed)), event)
        progress.end()
        return capsys.readouterr().err.splitlines()

    return lines


def test_plain_progress_speaks_while_runs_train_together(lines):
    said = lines(
        (1, "tanh", 0, report(1, 50)),
        (2, "tanh", 1, report(1, 60)),
        (6, "relu", 0, report(1, 30)),  # more than five seconds after the first line
        (7, "relu", 1, report(1, 20)),
        (20, "tanh", 0, report(2, 10)),
    )
    assert said == [
        "4 runs, 0 done before, 4 to train",
        "0/4 runs, 3/16 epochs, 32 s left; test error now: tanh 55.00 %; relu 30.00 %",
        "0/4 runs, 5/16 epochs, 52 s left; test error now: tanh 35.00 %; relu 25.00 %",
    ]


def test_plain_progress_says_diverged_and_the_last_line_comes_always(lines):
    whole = [(1.0, "tanh", seed, report(epoch, 50)) for seed in (0, 1) for epoch in (1, 2, 3)]
    said = lines(
        *whole,
        (6, "tanh", 0, report(4, 50, last=True)),
        (6, "relu", 0, report(1, 90, last=True, diverged=True)),
        (6, "relu", 1, report(1, 90, last=True, diverged=True)),
        (6, "tanh", 1, report(4, 70, last=True)),
    )
    assert said[1:] == [
        "1/4 runs, 7/16 epochs, 8 s left; test error now: tanh 50.00 %",
        "4/4 runs, 16/16 epochs, 0 s left; test error now: tanh 60.00 %; relu 2 diverged",
    ]
