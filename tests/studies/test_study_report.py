"""What the report of a study that searches says, and what it must not leave out."""

import numpy as np
import pytest
import study_world
from study_world import PRUNED, STUDY, drive

from lecun_ablate.config.study import Range
from lecun_ablate.running.progress import Work
from lecun_ablate.studies import search_report
from lecun_ablate.studies.search_report import _touches
from lecun_ablate.terminal.progress import LineProgress
from lecun_ablate.trainers.base import EpochReport


@pytest.fixture
def reported(workplace):
    """Run a study, and return (result, its notes as one text)."""

    def run(text: str):
        file = workplace / "small.yaml"
        file.write_text(text)
        result, _, _ = drive(file, "small.journal")
        return result, " ".join(search_report._notes(result))

    return run


def test_a_winner_at_the_end_of_the_search_space_is_pointed_out(reported, monkeypatch):
    def slope(activation, lr, seed, epoch):
        best = {"tanh": 0.3, "relu": 0.001}[activation]
        return 0.1 + 0.1 * abs(np.log10(lr / best)) + 0.001 * seed

    monkeypatch.setattr(study_world, "error", slope)
    monkeypatch.setattr(study_world, "DIVERGES", 1.0)
    _, notes = reported(STUDY)
    said = "the best lr, or the range within 1 s.e. of it, touches the"
    assert f"tanh: {said} high end of the search space (0.3): there may be a better value" in notes
    assert f"relu: {said} low end of the search space (0.001)" in notes
    assert notes.count(said) == notes.count("so widen the range") == 2


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([0.03], False, False),
        ([0.0013], True, False),  # 5 % of five and a half e-folds above 0.001
        ([0.0014], False, False),
        ([0.03, 0.02, 0.23], False, True),
        ([0.03, 0.02, 0.22], False, False),
        ([0.0001], True, False),  # the arm's own value, outside
        ([0.0], True, False),
        ([1.0], False, True),
    ],
)
def test_what_touches_an_end(values, low, high):
    searched = Range(low=0.001, high=0.3, log=True)
    assert (_touches(searched, "low", values), _touches(searched, "high", values)) == (low, high)


def test_a_linear_range_has_linear_margins():
    searched = Range(low=0.0, high=0.9)
    assert _touches(searched, "low", [0.04]) and not _touches(searched, "low", [0.05])
    assert _touches(searched, "high", [0.86]) and not _touches(searched, "high", [0.85])


def test_the_number_of_confirmed_trials_is_the_real_one(reported):
    """Of three trials, five cannot be confirmed."""
    short = STUDY.replace("trials: 14", "trials: 3").replace("trials: 2", "trials: 5")
    _, notes = reported(short)
    assert "The 3 best trials of each arm, and its own values, were trained again on" in notes
    _, notes = reported(STUDY.replace("trials: 14", "trials: 3").replace("trials: 2", "trials: 1"))
    assert "The best trial of each arm, and its own" in notes


def test_arms_with_other_numbers_of_confirmed_trials_are_named(reported, monkeypatch):
    """Relu diverges from 0.01 on, so that few of its trials are worth another training."""
    train = study_world.MadeUpTrainer.train

    def trained(self, runs, *arguments):
        for report in train(self, runs, *arguments):
            recipe = runs[report.index].recipe
            lost = recipe.activation == "relu" and recipe.lr > 0.005 and report.last
            yield (
                report
                if not lost
                else type(report)(
                    report.index, report.epoch, report.scores, 0.0, True, True, report.state
                )
            )

    monkeypatch.setattr(study_world.MadeUpTrainer, "train", trained)
    short = STUDY.replace("trials: 14", "trials: 4").replace("trials: 2", "trials: 3")
    result, notes = reported(short)
    numbers = {arm.arm: arm.confirmed_trials for arm in result.arms}
    assert numbers["relu"] < numbers["tanh"] == 3
    assert f"best trials of each arm (tanh 3, relu {numbers['relu']}), and its own" in notes


def test_a_winner_without_a_score_is_pointed_out(reported):
    """The own rate, which does not lie in this poor space, wins."""
    result, notes = reported(STUDY.replace("low: 0.001, high: 0.3", "low: 0.0001, high: 0.0002"))
    for arm in result.arms:
        assert arm.trial is None and arm.values == {"lr": 0.03} and arm.within == {}
        assert f"{arm.arm}: there is no range within 1 s.e., since the winner has no" in notes
        assert (
            f"{arm.arm}: the best lr, or the range within 1 s.e. of it, touches the high" in notes
        )


def test_pruned_trials_among_the_confirmed_are_mentioned(reported):
    _, notes = reported(PRUNED)
    assert "pruned ones that got furthest, if too few ran to the end), and its own values" in notes


def test_progress_without_errors_to_watch_counts_runs_and_epochs(workplace, capsys):
    """Trials have other rates, so that the mean of their errors would say nothing."""
    line = LineProgress()
    line.begin(Work("0 of 6 trials done, next: 2 runs", [("tanh", 3), ("relu", 2)]))
    line.epoch(1, EpochReport(0, 1, {}, 0.1, False, False, None))
    line.epoch(0, EpochReport(0, 1, {}, 0.1, True, True, None))
    line.epoch(1, EpochReport(0, 2, {}, 0.1, False, True, None))
    assert capsys.readouterr().err.splitlines() == [
        "0 of 6 trials done, next: 2 runs",
        "2/2 runs, 5/5 epochs, 0 s left",
    ]
