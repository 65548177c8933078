"""The search of a study: budgets, what is told, confirmation, versions, and kills at any moment."""

import shutil
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import study_world
from mlflow_view import View
from optuna.trial import TrialState
from study_world import PRUNED, STUDY, drive, made_up_digits, prepared

from lecun_ablate.config.study import load_study
from lecun_ablate.errors import ConfigError, LecunAblateError
from lecun_ablate.statistics import choose_prudently, finalists, judge_choice
from lecun_ablate.studies import search_report
from lecun_ablate.studies.arm_search import searches
from lecun_ablate.studies.optuna_storage import driving
from lecun_ablate.studies.outcome import _held_out, outcome

pytestmark = pytest.mark.usefixtures("plain_reports")
SQLITE = "sqlite:///studies/optuna.db"
JOURNAL = "studies/optuna.journal"

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def empty_optuna(tmp_path_factory):
    """The file of an empty Optuna storage: creating one takes seconds, copying it does not."""
    from lecun_ablate.studies.optuna_storage import _create_database

    database = tmp_path_factory.mktemp("optuna") / "optuna.db"
    _create_database(database)
    return database


@pytest.fixture
def place(workplace, empty_optuna):
    """A working directory with empty stores; write(text) puts a study into it."""
    (workplace / "studies").mkdir()
    shutil.copy(empty_optuna, workplace / "studies/optuna.db")

    def write(text: str) -> Path:
        file = workplace / "studies/small.yaml"
        file.write_text(text)
        return file

    return write


@pytest.fixture(scope="module")
def finished(tmp_path_factory, empty_store):
    """STUDY, run once, for those that only look: (folder, result, records, trainer, told)."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(empty_store, folder / "mlflow.db")
    (folder / "studies").mkdir()
    (folder / "studies/small.yaml").write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        result, records, trainer = drive(Path("studies/small.yaml"), JOURNAL)
        return folder, result, records, trainer, told(records)


@pytest.fixture
def look(finished, monkeypatch):
    """The finished study, in its folder: (result, records, trainer)."""
    monkeypatch.chdir(finished[0])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return finished[1:4]


def told(records) -> dict[str, list[tuple]]:
    """Return what counts of every arm's trials, by index."""
    return {
        arm: [
            (
                t.user_attrs["index"],
                t.state.name,
                t.params,
                t.value,
                t.intermediate_values,
                t.user_attrs["validation_errors"],
                t.user_attrs["diverged"],
            )
            for t in sorted(record.trials, key=lambda t: t.user_attrs["index"])
            if t.state != TrialState.FAIL
        ]
        for arm, record in records.items()
    }


def winners(result) -> list[tuple]:
    return [(a.arm, a.values, a.trial, a.error, a.judged.difference, a.within) for a in result.arms]


def test_every_arm_has_its_budget_and_the_batches_of_all_arms_are_trained_together(look):
    result, records, trainer = look
    for record in records.values():
        assert [t.state for t in record.trials] == [TrialState.COMPLETE] * 14
        assert [t.user_attrs["index"] for t in record.trials] == list(range(14))
    batches, confirmation = trainer.calls[:-1], trainer.calls[-1]
    assert [len(runs) for runs in batches] == [2 * 4 * 2] * 3 + [2 * 2 * 2]  # arms, trials, seeds
    assert {run.seed for runs in batches for run in runs} == {0, 1}
    # the default rate is the first trial of either arm, and the random ones are common
    rates = [[t.params["lr"] for t in record.trials] for record in records.values()]
    assert rates[0][0] == rates[1][0] == 0.03
    assert rates[0][:4] == rates[1][:4] and rates[0][4:] != rates[1][4:]
    assert all(len(set(of_arm)) == 14 for of_arm in rates)
    assert {run.seed for run in confirmation} == {2, 3, 4}
    # two best trials and the own rate, which is among the best of tanh alone; three seeds
    assert Counter(run.recipe.activation for run in confirmation) == {"tanh": 2 * 3, "relu": 3 * 3}
    assert len(result.frame) == 28


def test_a_score_is_the_mean_validation_error_after_the_last_epoch(look):
    result, _, _ = look
    held = len(made_up_digits().holdout()[1])
    for row in result.frame[result.frame.diverged == 0].itertuples():
        expected = [
            round(study_world.error(row.arm, row.lr, seed, 9) * held) / held for seed in (0, 1)
        ]
        assert row.validation_error == pytest.approx(np.mean(expected), abs=1e-12)
        assert row.validation_error_sd == pytest.approx(np.std(expected, ddof=1), abs=1e-12)


def test_a_diverged_trial_is_complete_with_error_nine_tenths(place):
    study = STUDY.replace("low: 0.001, high: 0.3", "low: 0.2, high: 0.3")
    result, records, _ = drive(place(study), JOURNAL)
    seen = 0
    for record in records.values():
        for trial in record.trials:
            assert trial.state == TrialState.COMPLETE
            lost = trial.params["lr"] >= study_world.DIVERGES
            assert (trial.value == 0.9) == lost
            assert trial.user_attrs["diverged"] == (2 if lost else 0)
            seen += lost
    assert seen > 4
    assert all(arm.values["lr"] < study_world.DIVERGES for arm in result.arms)
    # the own rate, 0.03, is not in this space: it is no trial, but is confirmed beside them
    assert all(arm.own_values == {"lr": 0.03} for arm in result.arms)
    assert all(record.trials[0].params["lr"] != 0.03 for record in records.values())


def test_fresh_seeds_choose_the_winner(look):
    result, records, _ = look
    held = len(made_up_digits().holdout()[1])
    for arm in result.arms:
        record = records[arm.arm]
        confirmed = {
            key.split("/")[1]: list(value.values())
            for key, value in record.user_attrs.items()
            if key.startswith("confirmed/")
        }
        best = sorted(record.trials, key=lambda t: (t.value, t.number))[:2]
        assert set(confirmed) == {str(t.number) for t in best} | {"0"}
        means = {label: np.mean(errors) for label, errors in confirmed.items()}
        least = min(confirmed, key=lambda label: means[label])
        reach = np.std(confirmed[least], ddof=1) / 3**0.5
        good = [label for label in means if means[label] <= means[least] + reach]
        # of those as good as the best, the one farthest from rates that diverge: the smallest rate
        rates = {str(t.number): t.params["lr"] for t in record.trials}
        assert str(arm.trial) == min(good, key=rates.get)
        assert arm.prudent == (str(arm.trial) != least)
        lr = arm.values["lr"]
        world = [round(study_world.error(arm.arm, lr, s, 9) * held) / held for s in (2, 3, 4)]
        assert confirmed[str(arm.trial)] == world
        low, high = arm.within["lr"]
        assert low <= lr <= high


def missed(arm: str, lr: float, seeds: Sequence[int]) -> np.ndarray:
    """Return what the made-up trainer misses, (seeds, images): the first images of the split."""
    held = len(made_up_digits().holdout()[1])
    wrong = [round(study_world.error(arm, lr, seed, 9) * held) for seed in seeds]
    return (np.arange(held) < np.array(wrong)[:, None]) * 1.0


def test_no_seed_and_no_image_judges_a_choice_that_it_had_a_part_in(look):
    result, records, _ = look
    for arm in result.arms:
        record = records[arm.arm]
        rates = {t.user_attrs["index"]: t.params["lr"] for t in record.trials}
        lost = [lr for lr in rates.values() if lr >= study_world.DIVERGES]
        sound = [k for k in sorted(rates) if rates[k] not in lost]
        searched = np.array([missed(arm.arm, rates[k], (0, 1)) for k in sound])
        best = [sound[k] for k in finalists(searched, 2)]
        fresh = {k: missed(arm.arm, rates[k], (2, 3, 4)) for k in best}

        def choose(errors, weights, which, rates=[rates[k] for k in best] + [0.03], lost=lost):
            places = np.log([rates[k] for k in which])
            return choose_prudently(
                errors, places, 0.8, weights=weights, failing=np.log(lost) if lost else ()
            )

        expected = judge_choice(
            np.array([missed(arm.arm, rates[k], (0, 1)) for k in best]),
            {place: fresh[k] for place, k in enumerate(best)},
            missed(arm.arm, 0.03, (2, 3, 4)),
            2,
            choose=choose,
        )
        assert arm.judged.other_images
        assert arm.error == pytest.approx(expected.error)
        assert arm.standard_error == pytest.approx(expected.error_standard_error)
        assert arm.judged.difference == pytest.approx(expected.difference)
        assert arm.judged.difference_standard_error == pytest.approx(expected.standard_error)
        assert arm.judged.own_error == pytest.approx(missed(arm.arm, 0.03, (2, 3, 4)).mean())


def test_a_study_that_an_older_version_has_finished_keeps_its_winner(look):
    """Its trials have no misses: seeds alone judge, and the smallest mean wins, as it did."""
    _, records, _ = look
    study = load_study(Path("studies/small.yaml"))
    for search in searches(study, records):
        known = {
            name: value
            for name, value in search.record.user_attrs.items()
            if not name.startswith("validation_misses")
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(search.record), "user_attrs", known)
            confirmed = {label: search.confirmed(label) for label in search.candidates()}
            found = outcome(search, 0.8)
        means = {label: np.mean(list(errors.values())) for label, errors in confirmed.items()}
        assert str(found.trial) == min(means, key=means.get)
        table = np.array([[errors[s] for s in (2, 3, 4)] for errors in confirmed.values()])
        assert found.error == pytest.approx(_held_out(table).mean())
        assert not found.judged.other_images and not found.prudent


REPEATED = STUDY.replace("trials: 14", "trials: 6\nsearches: 3")


def test_searches_differ_in_sampler_seeds_and_split_and_leave_the_seeds_of_experiments(place):
    result, records, trainer = drive(place(REPEATED), JOURNAL)
    labels = [f"{arm}, search {k}" for arm in ("tanh", "relu") for k in (1, 2, 3)]
    assert sorted(records) == sorted(labels)
    assert [arm.label for arm in result.arms] == labels
    rates = {name: [t.params["lr"] for t in record.trials] for name, record in records.items()}
    for arm in ("tanh", "relu"):
        assert len({tuple(rates[f"{arm}, search {k}"]) for k in (1, 2, 3)}) == 3
    assert all(of_one[0] == 0.03 for of_one in rates.values())
    # arms share the random trials within a search
    assert rates["tanh, search 2"][:4] == rates["relu, search 2"][:4]
    used = [{run.seed for runs in trainer.calls for run in runs}]
    assert used == [{1_000_000 * k + seed for k in (1, 2, 3) for seed in range(5)}]
    study = load_study(Path("studies/small.yaml"))
    assert study.used_seeds == used[0]
    held = [prepared(Path("studies/small.yaml")).parts(k)[1].images for k in range(3)]
    assert not any(np.array_equal(held[0], other) for other in held[1:])
    assert np.array_equal(held[0], made_up_digits().holdout()[1].images)
    assert len(result.frame) == 2 * 3 * 6 and set(result.frame.search) == {1, 2, 3}
    report = search_report.report(result)
    over = next(table for table in report.tables if table.title == "Over the searches")
    assert over.column("arm") == ["tanh", "relu"] and over.column("searches") == ["3", "3"]
    (legend,) = report.figure.legends
    shown = [text.get_text().split(":")[0] for text in legend.get_texts()]
    assert shown == ["tanh", "relu"]
    low, high = over.column("best lr")[0].split(" - ")
    of_tanh = [arm.values["lr"] for arm in result.arms if arm.arm == "tanh"]
    assert [float(low), float(high)] == pytest.approx([min(of_tanh), max(of_tanh)], rel=0.01)


def test_more_searches_go_on_with_those_that_there_are(place):
    first = drive(place(REPEATED.replace("searches: 3", "searches: 1")), JOURNAL)
    more = drive(place(REPEATED), JOURNAL)
    before = {name: told({name: record})[name] for name, record in first[1].items()}
    assert {name: told(more[1])[name] for name in before} == before
    trained = {run.seed // 1_000_000 for runs in more[2].calls for run in runs}
    assert trained == {2, 3}


def test_the_report_says_whether_more_trials_would_have_helped(look):
    result, _, _ = look
    report = search_report.report(result)
    table = next(table for table in report.tables if "more trials" in table.title)
    assert table.names == ["trials", "1", "2", "4", "8", "14"]
    for row, arm in zip(table.rows, result.arms, strict=True):
        scores = result.frame[result.frame.arm == arm.arm].validation_error
        assert row[1] == f"{100 * scores.mean():.2f} %" and row[-1] == f"{100 * scores.min():.2f} %"
    *_, budget = report.figure.axes
    assert [len(line.get_xdata()) for line in budget.get_lines()] == [14, 14]
    assert budget.get_lines()[1].get_ydata()[-1] == pytest.approx(100 * scores.min())


def test_the_best_rates_are_found(place):
    study = STUDY.replace("trials: 14", "trials: 30")
    result, _, _ = drive(place(study), JOURNAL)
    for arm in result.arms:
        assert arm.values["lr"] == pytest.approx(study_world.BEST[arm.arm], rel=0.6)


def test_the_same_study_gives_the_same_trials_and_winner_in_a_fresh_store(finished, place):
    _, first, _, _, before = finished
    second, records, _ = drive(place(STUDY), SQLITE)
    assert told(records) == before and winners(second) == winners(first)
    other_seed = STUDY.replace("startup: 4", "startup: 4, seed: 1").replace("14", "3")
    _, records, _ = drive(place(other_seed), JOURNAL)
    assert told(records)["tanh"][0] == before["tanh"][0]  # the arm's own rate
    assert told(records)["tanh"][1][2] != before["tanh"][1][2]


def test_the_test_split_plays_no_part(finished, place):
    _, first, _, _, before = finished
    digits = made_up_digits()
    poisoned = replace(digits, test=replace(digits.test, labels=(digits.test.labels + 1) % 10))
    # MadeUpTrainer refuses images of the test split; a wrong label there changes nothing, either
    assert poisoned.digest != digits.digest
    second, records, _ = drive(place(STUDY), JOURNAL, digits=poisoned)
    assert told(records) == before and winners(first) == winners(second)


# ---- pruning


def test_rungs_let_the_best_third_pass_and_batches_are_refilled(place):
    _, records, trainer = drive(place(PRUNED), JOURNAL)
    for record in records.values():
        trials = record.trials
        assert len(trials) == 14
        states = [t.state for t in trials]
        assert TrialState.PRUNED in states and TrialState.COMPLETE in states
        for trial in trials:
            rungs = list(trial.intermediate_values)
            if trial.user_attrs["diverged"]:
                assert trial.value == 0.9
            elif trial.state == TrialState.PRUNED:
                assert rungs in ([1], [1, 3])
            else:
                assert rungs == [1, 3]
        # the first batch, judged together: ceil(4 / 3) pass
        first = trials[:4]
        passed = [t for t in first if 3 in t.intermediate_values]
        assert len(passed) == 2
        worst = max(t.intermediate_values[1] for t in passed)
        assert all(t.intermediate_values[1] >= worst for t in first if t not in passed)
    # slots that were freed are filled between rungs: trials of several epochs train together
    begins = [{run.state.epoch if run.state else 0 for run in runs} for runs in trainer.calls[:-1]]
    assert any(len(epochs) > 1 for epochs in begins)
    running = [len(runs) // 2 for runs in trainer.calls[:-1]]
    assert max(running) == 8  # two arms, batches of four


def test_a_batch_is_judged_when_all_of_it_has_reported(place):
    """The first of a batch would pass if it were judged before the others are known."""
    poor = PRUNED.replace("epochs: 9", "epochs: 9\nrecipe: {lr: 0.001}").replace("14", "4")
    _, records, _ = drive(place(poor), JOURNAL)
    first = records["tanh"].trials[0]
    assert first.params == {"lr": 0.001} and first.state == TrialState.PRUNED
    assert list(first.intermediate_values) == [1]


def test_pruning_saves_epochs(finished, place):
    def epochs(trainer):
        return sum(
            run.last_epoch - (run.state.epoch if run.state else 0)
            for runs in trainer.calls[:-1]
            for run in runs
        )

    pruned = drive(place(PRUNED), JOURNAL)[2]
    assert epochs(pruned) < 0.7 * epochs(finished[3])


def pruned_own(place) -> Path:
    """A study whose own rate is pruned at the first rung, though it is the best of all later on."""
    return place(PRUNED.replace("epochs: 9", "epochs: 9\nrecipe: {lr: 0.002}"))


def late(activation, lr, seed, epoch):
    """Return errors by which the smallest rates begin as the worst and end as the best."""
    return 0.8 - 0.1 * np.log10(lr / 0.001) if epoch < 9 else 0.1 + lr + 0.01 * (seed % 3)


def test_a_choice_among_equals_has_no_winners_curse():
    """Six that differ by noise alone: the smallest of their means is 1.27 s.e. too small."""
    rng = np.random.default_rng(0)
    errors = rng.normal(0, 1, (4000, 6, 20))
    held = np.array([_held_out(one).mean() for one in errors]) * 20**0.5
    least = errors.mean(axis=2).min(axis=1) * 20**0.5
    assert abs(held.mean()) < 4 / 4000**0.5
    assert least.mean() == pytest.approx(-1.267, abs=0.05)


def test_runs_that_learn_nothing_are_counted_and_named(place, monkeypatch):
    def cliff(arm, lr, seed, epoch):
        fails = (lr > 0.05 and seed == 3) or (lr > 0.12 and seed == 0)
        return 0.95 if fails else 0.3 - lr

    monkeypatch.setattr(study_world, "error", cliff)
    study = STUDY.replace("low: 0.001, high: 0.3", "low: 0.001, high: 0.2")
    result, _, _ = drive(place(study), JOURNAL)
    notes = " ".join(search_report.report(result).notes)
    for arm in result.arms:
        rows = result.frame[result.frame.arm == arm.arm]
        assert (rows.collapsed == (rows.lr > 0.12)).all() and not rows.diverged.any()
        assert arm.trials["collapsed"] == (rows.lr > 0.12).sum() > 0
        assert [(f.failed, f.runs) for f in arm.failing] == [(1, 3)] * len(arm.failing)
        assert len(arm.failing) == arm.confirmed_trials and all(
            f.values["lr"] > 0.05 for f in arm.failing
        )
        assert f"{arm.arm}: of the runs over fresh seeds, these diverged or learnt nothing" in notes


def test_a_pruned_winner_has_no_score_and_no_interval(place, monkeypatch):
    monkeypatch.setattr(study_world, "error", late)
    result, records, _ = drive(pruned_own(place), JOURNAL)
    for arm in result.arms:
        assert arm.trial == 0 and arm.values == {"lr": 0.002}
        trial = next(t for t in records[arm.arm].trials if t.user_attrs["index"] == 0)
        assert trial.state == TrialState.PRUNED and trial.value == pytest.approx(
            late("", 0.002, 0, 1), abs=0.01
        )
        assert arm.search_error is None and arm.within == {}
        assert arm.error == pytest.approx(
            np.mean([late("", 0.002, s, 9) for s in (2, 3, 4)]), abs=0.005
        )


def test_pruned_trials_fill_up_what_is_confirmed(place):
    """The complete ones come first, then those that got furthest, by their values there."""
    text = PRUNED.replace("confirm: {trials: 2", "confirm: {trials: 8")
    result, records, _ = drive(place(text), JOURNAL)
    for arm in result.arms:
        trials = [t for t in records[arm.arm].trials if not t.user_attrs["diverged"]]
        complete = [t for t in trials if t.state == TrialState.COMPLETE]
        pruned = [t for t in trials if t.state == TrialState.PRUNED]
        assert 0 < len(complete) < 8
        pruned.sort(key=lambda t: (-max(t.intermediate_values), t.value, t.user_attrs["index"]))
        best = [*complete, *pruned][:8]
        confirmed = {
            key.removeprefix("confirmed/")
            for key in records[arm.arm].user_attrs
            if key.startswith("confirmed/")
        }
        assert confirmed == {str(t.user_attrs["index"]) for t in best} | {"0"}
        assert arm.confirmed_trials == 8


# ---- MLflow


def test_trials_are_mlflow_runs_nested_under_the_study_with_links_both_ways(place):
    result, records, _ = drive(place(PRUNED), JOURNAL)
    store = View()
    client = store.client
    study = client.get_run(result.run_id)
    assert study.info.status == "FINISHED"
    runs = {run.info.run_id: run for run in store.search(result.experiment_id)}
    del runs[result.run_id]
    assert len(runs) == 28
    for arm, record in records.items():
        for trial in record.trials:
            run = runs.pop(trial.user_attrs["mlflow_run_id"])
            tags = run.data.tags
            assert tags["mlflow.parentRunId"] == result.run_id
            assert tags["optuna.study"] == record.study_name
            assert tags["optuna.trial"] == str(trial.number)
            assert tags["trial.state"] == trial.state.name
            assert run.info.status == "FINISHED"
            params = run.data.params
            assert params["activation"] == arm and params["split"] == "fit/validation"
            assert float(params["lr"]) == trial.params["lr"]
            assert not any("test" in metric for metric in run.data.metrics)
            curve = client.get_metric_history(run.info.run_id, "validation_error")
            if trial.state == TrialState.COMPLETE and not trial.user_attrs["diverged"]:
                assert [point.step for point in curve] == list(range(1, 10))
                assert curve[-1].value == pytest.approx(trial.value)
    assert not runs


def trial_runs(experiment_id: str) -> set[str]:
    runs = View().search(experiment_id, lecun_ablate__level="trial")
    return {run.info.run_id for run in runs}


def test_another_storage_leaves_the_runs_of_the_first_alone(place):
    """So does a storage that begins again under the old name, and a file that drops an arm."""
    file = place(STUDY.replace("trials: 14", "trials: 3"))
    first, _, _ = drive(file, JOURNAL)
    before = trial_runs(first.experiment_id)
    assert len(before) == 6
    second, records, _ = drive(file, SQLITE)
    assert (second.version, first.version) == (1, 1) and second.run_id != first.run_id
    assert before < trial_runs(first.experiment_id)
    Path(JOURNAL).rename("studies/moved.journal")
    drive(file, JOURNAL)
    assert len(trial_runs(first.experiment_id)) == 3 * 6
    again, _, trainer = drive(file, "studies/moved.journal")
    assert trainer.calls == [] and again.run_id == first.run_id
    drive(place(file.read_text().replace("{activation: tanh}, ", "")), SQLITE)
    assert len(trial_runs(first.experiment_id)) == 3 * 6
    for record in records.values():
        assert set(own_runs(record)) <= trial_runs(first.experiment_id)


def own_runs(record) -> list[str]:
    return [trial.user_attrs["mlflow_run_id"] for trial in record.trials]


# ---- going on


def test_run_again_trains_nothing_and_says_the_same(look):
    first, records, _ = look
    again, records_2, trainer = drive(Path("studies/small.yaml"), JOURNAL)
    assert trainer.calls == []
    assert winners(first) == winners(again) and told(records) == told(records_2)
    assert again.seconds == first.seconds and again.run_id == first.run_id


def test_a_larger_budget_extends_a_study(place):
    small = STUDY.replace("trials: 14", "trials: 4")
    before = told(drive(place(small), JOURNAL)[1])
    _, records, _ = drive(place(STUDY.replace("trials: 14", "trials: 7")), JOURNAL)
    after = told(records)
    for arm in before:
        assert len(after[arm]) == 7 and after[arm][:4] == before[arm]
    more = STUDY.replace("trials: 14", "trials: 7").replace("seeds: 3}", "seeds: 4}")
    _, _, trainer = drive(place(more), JOURNAL)
    assert {run.seed for runs in trainer.calls for run in runs} == {5}  # the one seed that is new


def test_a_budget_that_grows_gives_the_trials_of_one_that_was_large_at_once(finished, place):
    """Though the smaller budget ends within a batch of four, and random trials are over by then."""
    drive(place(STUDY.replace("trials: 14", "trials: 6")), JOURNAL)
    assert told(drive(place(STUDY), JOURNAL)[1]) == finished[4]


def test_trials_beyond_a_budget_that_has_shrunk_do_not_count(place):
    space = "true}, momentum: {low: 0.0, high: 0.9}}"
    large = STUDY.replace("true}}", space)
    drive(place(large), JOURNAL)
    shrunk, _, trainer = drive(place(large.replace("trials: 14", "trials: 6")), JOURNAL)
    small, _, _ = drive(Path("studies/small.yaml"), "studies/small.journal")
    # the values of fresh seeds may be missing, those of trials are not
    assert {run.seed for runs in trainer.calls for run in runs} <= {2, 3, 4}
    assert shrunk.arms == small.arms
    assert all(arm.trials["complete"] == 6 for arm in shrunk.arms)
    assert shrunk.frame["index"].max() == 5 and len(shrunk.frame) == 12


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("high: 0.3", "high: 0.5", "search.lr.high was 0.3, is now 0.5"),
        ("epochs: 9", "epochs: 12", "recipe.epochs was 9, is now 12"),
        ("seeds: 2", "seeds: 3", "seeds was [0, 1], is now [0, 1, 2]"),
        ("startup: 4", "startup: 5", "sampler.startup was 4, is now 5"),
        ("batch: 4", "batch: 5", "batch was 4, is now 5"),
        ("epochs: 9", "epochs: 9\npruner: {first: 3}", "pruner was None, is now"),
    ],
)
def test_a_changed_study_is_refused_with_the_difference(look, old, new, said):
    changed = Path("studies/changed.yaml")
    changed.write_text(STUDY.replace(old, new, 1))
    with pytest.raises(ConfigError) as refused:
        drive(changed, JOURNAL)
    assert any(said in problem for problem in refused.value.problems)
    assert any("--fresh" in problem for problem in refused.value.problems)


@pytest.fixture
def another_trainer(monkeypatch):
    """From now on, trials would be trained by another trainer."""
    identity = replace(study_world.MadeUpTrainer().identity(), instruction_set="new", numerics=2)

    def change():
        monkeypatch.setattr(study_world.MadeUpTrainer, "identity", lambda self: identity)

    return change


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("trials: 14", "trials: 15"),
        ("seeds: 3}", "seeds: 4}"),
        ("{activation: relu}", "{activation: relu}, {activation: lisht}"),
    ],
)
def test_another_trainer_is_refused_where_trials_would_mix(look, another_trainer, old, new):
    longer = Path("studies/longer.yaml")
    longer.write_text(STUDY.replace(old, new))
    another_trainer()
    with pytest.raises(ConfigError, match=r"trainer.tanh.numerics was 1, is now 2"):
        drive(longer, JOURNAL)


def test_a_finished_study_is_shown_whoever_would_train_today(look, another_trainer):
    first, _, _ = look
    another_trainer()
    again, _, trainer = drive(Path("studies/small.yaml"), JOURNAL)
    assert trainer.calls == [] and winners(again) == winners(first)
    assert again.trainer == first.trainer == "made_up (cpu, none)"  # who has trained it


def test_fresh_starts_a_new_version_also_of_an_unfinished_study(place, monkeypatch):
    file = place(STUDY.replace("trials: 14", "trials: 6"))
    with monkeypatch.context() as patch:
        patch.setattr(study_world, "error", interrupt_after(100))
        with pytest.raises(KeyboardInterrupt):
            drive(file, JOURNAL)
    result, records, _ = drive(file, JOURNAL, fresh=True)
    assert result.version == 2
    assert {len(record.trials) for record in records.values()} == {6}


def interrupt_after(epochs: int):
    left, error = iter(range(epochs)), study_world.error

    def interrupted(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return error(*arguments)

    return interrupted


def test_fresh_starts_a_new_version_beside_the_old_one(place):
    short = STUDY.replace("trials: 14", "trials: 3")
    drive(place(short), JOURNAL)
    changed = place(short.replace("high: 0.3", "high: 0.1"))
    result, _, _ = drive(changed, JOURNAL, fresh=True)
    assert result.version == 2 and result.frame["index"].max() == 2
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(JOURNAL))
    names = set(optuna.get_all_study_names(storage))
    assert names == {f"small v{v} on made_up: {arm}" for v in (1, 2) for arm in ("tanh", "relu")}
    again, _, trainer = drive(changed, JOURNAL)  # from now on, the new version goes on
    assert again.version == 2 and trainer.calls == []
    assert drive(changed, JOURNAL, fresh=True)[0].version == 3


def test_a_second_driver_is_turned_away(place):
    file = place(STUDY.replace("trials: 14", "trials: 1"))
    with driving(SQLITE, "small/made_up"), pytest.raises(LecunAblateError) as refused:
        drive(file, SQLITE)
    assert "the study small/made_up is in use by process" in str(refused.value)
    assert drive(file, SQLITE)[0].version == 1  # the lock has gone with its holder


# ---- kill -9


def killed(context, folder: Path, file: Path, storage: str, writes: int) -> bool:
    """Drive a study in another process; return whether it was killed, not finished."""
    process = context.Process(
        target=study_world.drive_until_killed, args=(str(folder), str(file), storage, writes)
    )
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.parametrize(
    ("text", "storage"),
    [pytest.param(PRUNED, SQLITE, marks=pytest.mark.slow), (STUDY, JOURNAL)],
)
def test_kills_change_neither_the_trials_nor_the_winner(place, spawner, text, storage):
    file = place(text.replace("trials: 14", "trials: 8"))
    expected, records, _ = drive(file, "studies/undisturbed.journal")
    trials = told(records)
    kills = 0
    # numbers that no batch divides, so that the kills fall everywhere
    while killed(spawner, Path.cwd(), file, storage, writes=37 + 28 * (kills % 4)):
        kills += 1
        assert kills < 40, "no progress"
    assert kills >= 3
    result, records, trainer = drive(file, storage)
    assert trainer.calls == []
    assert told(records) == trials
    assert winners(result) == winners(expected)
    _check_leftovers(records, result)


def _check_leftovers(records, result):
    """Nothing runs, no run stands twice, and what was interrupted has been taken up again."""
    store = View()
    linked = set()
    for record in records.values():
        numbers = {t.number: t for t in record.trials}
        for trial in record.trials:
            assert trial.state != TrialState.RUNNING and trial.state != TrialState.WAITING
            if "retry_of" in trial.user_attrs:
                original = numbers[trial.user_attrs["retry_of"]]
                assert original.state == TrialState.FAIL
                assert original.params == trial.params
            if trial.state != TrialState.FAIL:
                linked.add(trial.user_attrs["mlflow_run_id"])
        interrupted = [t for t in record.trials if t.state == TrialState.FAIL]
        assert interrupted, "no kill has hit a trial"
    runs = store.search(result.experiment_id, mlflow__parentRunId=result.run_id)
    assert {run.info.run_id for run in runs} == linked
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_line_that_a_kill_left_unfinished_is_cut_off_a_journal(place):
    short = STUDY.replace("trials: 14", "trials: 1")
    before = told(drive(place(short), JOURNAL)[1])
    with open(JOURNAL, "ab") as journal:
        journal.write(b'{"op_code":5,"worker_id":"a-kil')
    _, records, _ = drive(place(short.replace("trials: 1", "trials: 2")), JOURNAL)
    after = told(records)
    assert {arm: trials[:1] for arm, trials in after.items()} == before
    assert {len(trials) for trials in after.values()} == {2}


@pytest.mark.slow
@pytest.mark.parametrize("writes", range(1, 400, 3))
def test_a_kill_after_any_write_is_survived(place, spawner, writes):
    file = place(PRUNED)
    expected, records, _ = drive(file, "studies/undisturbed.journal")
    killed(spawner, Path.cwd(), file, SQLITE, writes)
    result, killed_records, _ = drive(file, SQLITE)
    assert told(killed_records) == told(records) and winners(result) == winners(expected)


# ---- a server


def test_a_study_on_postgresql_survives_a_kill(place, postgres, spawner):
    file = place(STUDY.replace("trials: 14", "trials: 3"))
    assert killed(spawner, Path.cwd(), file, postgres, writes=45)
    result, records, _ = drive(file, postgres)
    expected, undisturbed, _ = drive(file, JOURNAL)
    assert told(records) == told(undisturbed) and winners(result) == winners(expected)
    _check_leftovers(records, result)
    with driving(postgres, "small/made_up"), pytest.raises(LecunAblateError, match="in use by"):
        drive(file, postgres.replace("studies@", "studies:any@"))


@pytest.mark.slow
def test_a_postgresql_server_gives_the_same_trials(finished, place, postgres, spawner):
    _, first, _, _, before = finished
    file = place(STUDY)
    kills = 0
    while killed(spawner, Path.cwd(), file, postgres, writes=150):
        kills += 1
        assert kills < 40, "no progress"
    assert kills >= 2
    result, records, trainer = drive(file, postgres)
    assert trainer.calls == [] and told(records) == before and winners(result) == winners(first)
    _check_leftovers(records, result)
    with driving(postgres, "small/made_up"), pytest.raises(LecunAblateError, match="in use by"):
        drive(file, postgres)
