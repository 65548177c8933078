"""The command line's `study`, and experiments that a study tunes: real trainers, tiny data."""

import json
import os
import shlex
import signal
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from mlflow_view import View
from study_world import command_line

import lecun_ablate
from lecun_ablate import api, statistics
from lecun_ablate.api import Options
from lecun_ablate.config.experiment import load_experiment
from lecun_ablate.data import load
from lecun_ablate.errors import ConfigError
from lecun_ablate.registry import registry
from lecun_ablate.reporting.figures import png
from lecun_ablate.studies import seeds as seeds_module
from lecun_ablate.studies.optuna_storage import driving, open_storage
from lecun_ablate.studies.report import StudyReport
from lecun_ablate.studies.runner import FinishedStudy
from lecun_ablate.terminal import studies
from lecun_ablate.tracking.store import Store

pytestmark = pytest.mark.usefixtures("plain_reports")
STUDY = """
name: rates
question: Which rate?
data: tiny
arms: [{activation: tanh}, {activation: relu}]
recipe: {epochs: 2}
search: {lr: {low: 0.001, high: 0.3, log: true}}
trials: 3
batch: 2
seeds: 2
confirm: {trials: 1, seeds: 2}
"""
EXPERIMENT = """
name: tuned
question: Which activation?
data: tiny
tuned: studies/rates.yaml
recipe: {epochs: 2}
arms: [{activation: relu}, {activation: tanh}]
seeds: 2
"""
SEEDS = """
name: noise
question: How much?
data: tiny
recipe: {epochs: 1, order: shuffled}
seeds: 4
governs: [weights, order, both]
"""


@pytest.fixture
def files(workplace, tiny, monkeypatch):
    """A working directory with the files above. Pictures are left out: they take the longest."""
    monkeypatch.setattr("lecun_ablate.studies.report.png", lambda figure: b"picture")
    for name, text in {
        "studies/rates.yaml": STUDY,
        "studies/noise.yaml": SEEDS,
        "tuned.yaml": EXPERIMENT,
    }.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    return workplace


def records(storage="sqlite:///studies/optuna.db") -> dict[str, optuna.Study]:
    opened = open_storage(storage)
    return {
        name: optuna.load_study(study_name=name, storage=opened)
        for name in optuna.get_all_study_names(opened)
    }


def plots(record: optuna.Study) -> set[str]:
    """Return the names of the plots that the dashboard shows of a study."""
    attributes = record._storage.get_study_system_attrs(record._study_id)
    return {key.split(":")[2] for key in attributes if key.startswith("dashboard:plot_data:")}


@pytest.fixture
def another_trainer(monkeypatch):
    """From now on, what trains has other numerics."""
    from lecun_ablate.trainers.torch_trainer import TorchTrainer

    other = replace(TorchTrainer().identity(), numerics=9)

    def change():
        monkeypatch.setattr(TorchTrainer, "identity", lambda self: other)

    return change


def test_a_study_tunes_an_experiment(files, command):
    status, out, err = command("run", "tuned.yaml")
    assert status == 1 and not Path("studies/optuna.db").exists()
    assert "studies/rates.yaml has not been run to its end on tiny" in err
    assert "no values yet for relu, tanh" in err and "--tune" in err

    status, out, err = command("run", "tuned.yaml", "--dry-run", "--json")
    assert status == 0 and "studies/rates.yaml has not been run to its end on tiny" in err
    assert {arm["lr"] for arm in json.loads(out)["arms"].values()} == {0.03}
    assert not Path("studies/optuna.db").exists()

    status, out, _ = command("study", "studies/rates.yaml", "--dry-run", "--json")
    # 3 trials x 2 seeds, the best on either half of the images and perhaps the own rate x 2 seeds,
    # of two arms
    assert status == 0 and json.loads(out)["todo"] == 24 and json.loads(out)["at_most"]
    assert not Path("studies/optuna.db").exists() and not Path("reports").exists()

    status, out, err = command("run", "tuned.yaml", "--tune", "--json")
    assert status == 0, err
    table = json.loads(out)
    studied = json.loads(Path("reports/studies/rates/tiny/study.json").read_text())
    best = {arm["arm"]: arm["values"]["lr"] for arm in studied["arms"]}
    assert {arm["arm"]: arm["lr"] for arm in table["arms"]} == best
    assert {arm["tuned_by"] for arm in table["arms"]} == {"studies/rates.yaml"}
    assert "tuned by studies/rates.yaml" in table["tuning"] and "untuned" not in table["tuning"]
    frame = lecun_ablate.load_results("tuned")
    run = View().client.get_run(frame.run_id.iloc[0])
    assert run.data.params["tuned_by"] == "studies/rates.yaml v1 on tiny"
    assert float(run.data.params["lr"]) == best["relu"]

    status, out, _ = command("run", "tuned.yaml", "--dry-run", "--json")
    assert json.loads(out)["todo"] == 0
    status, out, _ = command("run", "tuned.yaml")
    assert status == 0
    for arm, lr in best.items():
        assert f"{arm} at lr {lr:.4g}" in " ".join(out.split())
    status, out, _ = command("study", "studies/rates.yaml", "--dry-run", "--json")
    assert json.loads(out)["todo"] == 0


def test_an_experiment_draws_its_values_from_all_searches_of_its_study(files, command):
    Path("studies/rates.yaml").write_text(STUDY + "searches: 2\n")
    Path("tuned.yaml").write_text(EXPERIMENT.replace("seeds: 2", "seeds: 4"))
    status, out, err = command("run", "tuned.yaml", "--tune", "--json")
    assert status == 0, err
    table = json.loads(out)
    studied = json.loads(Path("reports/studies/rates/tiny/study.json").read_text())
    found = {(arm["arm"], arm["search"]): arm["values"]["lr"] for arm in studied["arms"]}
    assert set(found) == {(arm, k) for arm in ("tanh", "relu") for k in (1, 2)}
    frame = lecun_ablate.load_results("tuned")
    for row in frame.groupby(["arm", "seed"]).first().reset_index().itertuples():
        params = View().client.get_run(row.run_id).data.params
        assert float(params["lr"]) == found[row.arm, 1 + row.seed % 2]
    (pair,) = table["comparisons"]
    assert pair["searches"] == 2 and pair["seeds"] is None
    errors = frame.groupby(["arm", "seed"]).test_error.last().unstack(0)
    means = (errors.tanh - errors.relu).groupby(errors.index % 2).mean()
    assert pair["difference"] == pytest.approx(means.mean())
    interval = statistics.t_interval(means, level=1 - pair["level"])
    assert pair["difference_low"] == pytest.approx(max(-1, interval.low))
    assert "2 searches of 3 trials" in table["tuning"].replace("studies/rates.yaml, ", "")
    low, high = sorted(found["relu", k] for k in (1, 2))
    ends = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
    assert f"relu at lr {ends}" in table["tuning"]

    for arguments in (["show", "tuned"], ["report", "tuned", "--no-pictures"]):
        status, out, err = command(*arguments)
        assert status == 0, err
    page = Path("reports/tuned/tiny/report.md").read_text()
    assert "t test over the searches' means" in page and ends.replace(" to ", " - ") in page
    status, out, _ = command("run", "tuned.yaml", "--dry-run", "--json")
    assert json.loads(out)["todo"] == 0
    two = api.compare("tuned:tanh", "tuned:relu").result
    assert two.counted.unit == "search" and two.counted.n == 2
    assert two.counted.difference == pytest.approx(pair["difference"])
    status, _, err = command("power", "tuned", "--effect", "1")
    assert status == 1 and "raise `searches` in studies/rates.yaml" in err


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ("3", "expected the same number for each, such as 4 seeds, got 2, 1"),
        ("[0, 2]", "got 2, 0"),
        ("[1000000, 1]", "seeds: 1000000 has searched or confirmed values in studies/rates.yaml"),
        ("{until: {halfwidth: 0.2, at_most: 40}}", "seeds.until: more seeds do not reduce"),
    ],
)
def test_seeds_that_searches_cannot_share_are_refused(files, command, seeds, said):
    Path("studies/rates.yaml").write_text(STUDY + "searches: 2\n")
    Path("tuned.yaml").write_text(EXPERIMENT.replace("seeds: 2", f"seeds: {seeds}"))
    status, _, err = command("run", "tuned.yaml")
    assert status == 2 and said in err


def test_seeds_that_chose_an_experiments_values_are_named(files, command):
    _, _, err = command("run", "tuned.yaml", "--dry-run")
    assert "2 seeds of this experiment (0, 1) played a part in choosing its values" in err
    Path("studies/rates.yaml").write_text(STUDY + "searches: 1\n")
    _, _, err = command("run", "tuned.yaml", "--dry-run")
    assert "played a part in" not in err


def test_an_experiment_is_tuned_from_python(files):
    frame = lecun_ablate.run("tuned.yaml", tune=True, seeds=1, trainer="torch", device="cpu")
    values = json.loads(Path("reports/studies/rates/tiny/study.json").read_text())["arms"]
    rates = {arm["arm"]: arm["values"]["lr"] for arm in values}
    for arm, run_id in frame.groupby("arm").run_id.first().items():
        assert float(View().client.get_run(run_id).data.params["lr"]) == rates[arm]


def test_untuned_arms_are_called_untuned(files, command):
    Path("plain.yaml").write_text(EXPERIMENT.replace("tuned: studies/rates.yaml\n", ""))
    status, out, _ = command("run", "plain.yaml", "--json")
    table = json.loads(out)
    assert status == 0 and table["tuning"] == "every arm at lr 0.03, untuned"
    assert {arm["tuned_by"] for arm in table["arms"]} == {None}
    status, _, err = command("run", "plain.yaml", "--tune")
    assert status == 2 and "names no study under `tuned`" in err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--epochs", "3"], "epochs=3 (its arm 'relu': 2)"),
        (["--set", "recipe.loss=cross_entropy"], "loss='cross_entropy' (its arm 'relu': 'mse')"),
        (["--set", "tuned=studies/noise.yaml"], "searches nothing"),
        (["--set", "tuned=studies/rate.yaml"], "studies/rate.yaml: no such file"),
    ],
)
def test_a_rate_tuned_for_another_recipe_is_refused(files, command, option, said):
    status, _, err = command("run", "tuned.yaml", *option)
    assert status == 2 and said in err


def test_a_study_that_has_changed_since_tunes_nothing(files, command):
    assert command("study", "studies/rates.yaml")[0] == 0
    Path("studies/rates.yaml").write_text(STUDY.replace("0.3", "0.2"))
    status, _, err = command("run", "tuned.yaml")
    assert status == 1 and "search.lr.high was 0.3, is now 0.2" in err
    status, _, err = command("study", "studies/rates.yaml")
    assert status == 2 and "search.lr.high was 0.3, is now 0.2" in err and "--fresh" in err
    assert command("study", "studies/rates.yaml", "--fresh")[0] == 0
    assert command("run", "tuned.yaml")[0] == 0


def test_a_dry_run_refuses_what_a_run_would(files, command):
    assert command("study", "studies/rates.yaml")[0] == 0
    for options, said in {
        ("--set", "search.lr.high=0.2"): "search.lr.high was 0.3, is now 0.2",
        ("--set", "seeds=3"): "seeds was [0, 1], is now [0, 1, 2]",
    }.items():
        status, out, err = command("study", "studies/rates.yaml", "--dry-run", *options)
        assert status == 2 and said in err and "--fresh" in err and not out
    status, out, _ = command(
        "study",
        "studies/rates.yaml",
        "--dry-run",
        "--fresh",
        "--json",
        "--set",
        "search.lr.high=0.2",
    )
    assert status == 0 and json.loads(out)["todo"] == 24
    status, out, err = command("study", "studies/rates.yaml", "--dry-run", "--fresh")
    assert status == 0 and "at most 24 runs to do" in out
    assert "starts version 2 of rates on tiny" in err and "leave --fresh out" in err
    status, out, _ = command("study", "studies/rates.yaml", "--dry-run")
    assert status == 0 and "\n0 runs to do" in out and len(records()) == 2


def test_a_dry_run_refuses_a_changed_study_of_seeds(files, command):
    one = ("study", "studies/noise.yaml", "--set", "governs=both", "--set", "seeds=1")
    assert command(*one)[0] == 0
    status, _, err = command(*one, "--dry-run", "--set", "recipe.lr=0.1")
    assert status == 2 and "recipe.lr was 0.03, is now 0.1" in err and "--fresh" in err
    status, out, _ = command(*one, "--dry-run", "--set", "recipe.lr=0.1", "--fresh")
    assert status == 0 and "\n1 run to do" in out


def test_what_is_finished_is_used_whoever_would_train_today(files, command, another_trainer):
    study = ("study", "studies/rates.yaml", "--trainer", "torch")
    assert command(*study)[0] == 0
    before = json.loads(Path("reports/studies/rates/tiny/study.json").read_text())
    another_trainer()
    status, out, _ = command(*study, "--json")
    assert status == 0
    assert {k: json.loads(out)[k] for k in ("arms", "trainer")} == {
        k: before[k] for k in ("arms", "trainer")
    }
    status, out, _ = command(*study, "--dry-run")
    assert status == 0 and "\n0 runs to do" in out
    for more in ((), ("--dry-run",)):
        status, _, err = command(*study, "--set", "trials=4", *more)
        assert status == 2 and "numerics was" in err and "is now 9" in err
    status, _, err = command("run", "tuned.yaml", "--tune", "--trainer", "torch", "--seeds", "1")
    assert status == 0, err


def test_seeds_with_which_nothing_is_learnt_are_counted(files, command):
    study = (
        "study",
        "studies/noise.yaml",
        "--set",
        "governs=weights",
        "--set",
        "recipe.activation=relu",
    )
    status, out, err = command(*study, "--set", "recipe.lr=3", "--json")
    assert status == 0, err
    (variant,) = json.loads(out)["variants"]
    by_seed = lecun_ablate.load_results("noise").set_index("seed").status
    assert variant["collapsed"] == (by_seed == "collapsed").sum() > 0 == variant["diverged"]
    (record,) = records().values()
    assert {t.params["seed"]: t.user_attrs["status"] for t in record.trials} == by_seed.to_dict()
    wild = ("--set", "recipe.lr=1e9", "--set", "recipe.output_activation=identity")
    status, _, err = command(*study, *wild, "--fresh")
    assert status == 1 and "every run of weights diverged" in err


def test_seeds_that_another_trainer_has_trained_are_shown(files, command, another_trainer):
    study = ("study", "studies/noise.yaml", "--set", "governs=both", "--trainer", "torch")
    status, out, _ = command(*study, "--json")
    before = json.loads(out)
    runs = len(lecun_ablate.load_results("noise"))
    another_trainer()
    status, out, _ = command(*study, "--json")
    assert status == 0 and json.loads(out)["variants"] == before["variants"]
    assert json.loads(out)["run_id"] == before["run_id"]
    assert len(lecun_ablate.load_results("noise")) == runs
    status, _, err = command(*study, "--set", "seeds=5")
    assert status == 2 and "trainer.numerics was" in err


def test_seeds_in_two_storages_are_the_same_runs(files, command):
    study = ("study", "studies/noise.yaml", "--set", "governs=both", "--set", "seeds=2")
    assert command(*study)[0] == 0
    before = set(lecun_ablate.load_results("noise").run_id)
    assert command(*study, "--storage", "other.journal")[0] == 0
    assert set(lecun_ablate.load_results("noise").run_id) == before


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("", ("--set", "recipe.lr=0.03"), "--set recipe.lr=0.03: lr: studies/rates.yaml"),
        ("recipe: {epochs: 2, lr: 0.05}", (), "tuned.yaml:6: lr: studies/rates.yaml"),
        (
            "arms: [{activation: relu}, {activation: tanh, lr: 0.1}]",
            (),
            "tuned.yaml:7: lr: studies/rates.yaml",
        ),
        (
            "arms: [{activation: relu}, {activation: relu, lr: 0.1}]",
            (),
            "tuned.yaml:7: lr: studies/rates.yaml",
        ),
    ],
)
def test_values_that_tuning_would_ignore_are_refused(files, command, text, options, said):
    key = text.split(":")[0]
    lines = [text if key and line.startswith(key) else line for line in EXPERIMENT.split("\n")]
    Path("tuned.yaml").write_text("\n".join(lines))
    status, _, err = command("run", "tuned.yaml", *options)
    assert status == 2 and said in err
    assert "searches it, so this value would be ignored: leave it out, or leave out `tuned`" in err


def test_arms_that_would_get_the_same_values_are_refused(files):
    experiment = load_experiment("tuned.yaml")
    relu, _ = experiment.arms
    faster = replace(relu, name="faster", recipe=relu.recipe.model_copy(update={"lr": 0.1}))
    with pytest.raises(ConfigError, match="'relu' and 'faster' differ only in what"):
        api.prepare(replace(experiment, arms=(relu, faster)))


def test_a_missing_study_is_run_by_the_command_that_the_message_gives(files, command):
    Path("own parts").mkdir()
    Path("own parts/own.py").write_text(
        "from lecun_ablate import register\n\n"
        '@register("activation")\ndef mine(x):\n    """Mine."""\n    return x\n'
    )
    for file in ("studies/rates.yaml", "tuned.yaml"):
        Path(file).write_text(Path(file).read_text().replace("tanh", "mine"))
    digits = load("tiny")
    registry._components["data"].pop("tiny")  # another one takes its place, that needs a folder
    registry.register("data", "tiny")(lambda folder: digits if folder else None)
    options = (
        "--components",
        "own parts/own.py",
        "--data-dir",
        "own parts",
        "--storage",
        "own parts/x.journal",
    )
    status, _, err = command("run", "tuned.yaml", *options)
    assert status == 1, err
    said = shlex.split(err.split("run it first (")[1].split("), or")[0])
    assert said[:4] == ["python", "-m", "lecun_ablate", "study"]
    registry._components["activation"].pop("mine")  # as in another process
    status, _, err = command(*said[3:])
    assert status == 0, err
    assert command("run", "tuned.yaml", *options)[0] == 0


def test_no_message_shows_a_password(files, command, capsys):
    storage = "postgresql+psycopg2://user:secret@host/db"
    options = api._study_options(load_experiment("tuned.yaml"), Options(storage=storage))
    assert options["--storage"] == "postgresql+psycopg2://user:***@host/db"
    report = StudyReport("", [], [], "", None, {}, {})
    studies.report(FinishedStudy(report, "reports", None), storage)
    shown = capsys.readouterr().out
    assert "user:***@host/db" in shown and "secret" not in shown


def test_the_study_of_an_experiment_is_found_from_its_project(files, command, monkeypatch):
    Path("experiments/tuned.yaml").write_text(EXPERIMENT)
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    status, _, err = command("run", "../experiments/tuned.yaml")
    assert status == 1 and f"{files}/studies/rates.yaml has not been run to its end" in err
    status, _, err = command("run", "../experiments/tuned.yaml", "--set", "tuned=studies/r.yaml")
    assert status == 2
    assert f"studies/r.yaml: no such file in the working directory {files}/elsewhere or in" in err


def test_the_report_stands_in_files_in_mlflow_and_in_the_dashboard(files, command, monkeypatch):
    monkeypatch.setattr("lecun_ablate.studies.report.png", png)
    status, out, _ = command("study", "studies/rates.yaml")
    assert status == 0 and "rates on tiny: Which rate?" in out
    folder = Path("reports/studies/rates/tiny")
    page = (folder / "study.md").read_text()
    assert "| tanh |" in page and "| relu |" in page and "![" in page
    assert "The test split was not touched." in page and "wall time" in page
    assert (folder / "study.png").read_bytes().startswith(b"\x89PNG")
    values = json.loads((folder / "study.json").read_text())
    store = View()
    for name in ("study.md", "study.png", "study.json", "study.yaml"):
        assert store.files.read(values["run_id"], name)
    assert store.experiment_names() == []  # studies do not stand among the experiments

    from optuna_dashboard._note import get_note

    for record in records().values():
        assert "| tanh |" in get_note(record) and plots(record) == {"result"}
        attributes = record._storage.get_study_system_attrs(record._study_id)
        plot = "".join(
            attributes[key]
            for key in sorted(
                (key for key in attributes if key.startswith("dashboard:plot_data:result:")),
                key=lambda key: int(key.rsplit(":", 1)[1]),
            )
        )
        assert {trace["name"] for trace in json.loads(plot)["data"]} == {"tanh", "relu"}


def test_several_fields_and_choices_can_be_searched(files, command):
    Path("studies/rates.yaml").write_text(
        STUDY.replace("name: rates", "name: many")
        .replace("trials: 3", "trials: 6")
        .replace(
            "true}}",
            "true}, momentum: [0.0, 0.5], init: [sqrt_fan_in, fan_in], epochs: {low: 1, high: 3}}",
        )
    )
    status, out, err = command("study", "studies/rates.yaml", "--json")
    assert status == 0, err
    values = json.loads(out)
    for arm in values["arms"]:
        assert set(arm["values"]) == {"lr", "momentum", "init", "epochs"}
        assert set(arm["importances"]) == {"lr", "momentum", "init", "epochs"}
        assert sum(arm["importances"].values()) == pytest.approx(1)
    page = Path("reports/studies/many/tiny/study.md").read_text()
    assert page.count("(fANOVA on 6 trials, too few for more than a hint;") == 2
    record = next(iter(records().values()))
    assert plots(record) == {f"result_{field}" for field in ("lr", "momentum", "init", "epochs")}
    trial = record.trials[2]
    run = View().client.get_run(trial.user_attrs["mlflow_run_id"])
    for field, value in trial.params.items():
        assert run.data.params[field] == str(value)
    curve = View().client.get_metric_history(run.info.run_id, "validation_error")
    assert len(curve) == trial.params["epochs"]


def test_a_study_of_seeds_describes_the_runs_that_it_records(files, command):
    status, out, err = command("study", "studies/noise.yaml", "--json")
    assert status == 0, err
    values = json.loads(out)
    frame = lecun_ablate.load_results("noise")
    recorded = records()
    assert len(frame) == 12 and len(recorded) == 3
    for variant in values["variants"]:
        what = variant["governs"]
        errors = frame[frame.arm == what].sort_values("seed").test_error.to_numpy()
        assert variant["errors"] == pytest.approx(errors)
        description = variant["description"]
        assert description["n"] == 4 and description["mean"] == pytest.approx(errors.mean())
        assert description["sd"] == pytest.approx(errors.std(ddof=1))
        trials = recorded[f"noise v1 on tiny: {what}"].trials
        by_seed = {t.params["seed"]: t for t in trials}
        assert [by_seed[seed].value for seed in range(4)] == pytest.approx(errors)
        runs = frame[frame.arm == what].set_index("seed").run_id.to_dict()
        assert {s: t.user_attrs["mlflow_run_id"] for s, t in by_seed.items()} == runs
        predictions = np.stack([View().files.predictions(runs[seed]) for seed in range(4)])
        split = statistics.split_variance(predictions, load("tiny").test.labels)
        assert variant["split"]["rest"] == pytest.approx(split.rest)
    page = Path("reports/studies/noise/tiny/study.md").read_text()
    assert "0.50 points" in page and "0.10 points" in page

    status, out, _ = command("study", "studies/noise.yaml", "--set", "seeds=6", "--json")
    assert [v["description"]["n"] for v in json.loads(out)["variants"]] == [6, 6, 6]
    for name, record in records().items():
        old = [t.value for t in recorded[name].trials][:4]
        assert [t.value for t in record.trials][:4] == old and len(record.trials) == 6
    status, _, err = command("study", "studies/noise.yaml", "--set", "recipe.lr=0.1")
    assert status == 2 and "recipe.lr was 0.03, is now 0.1" in err


def test_an_interrupted_study_of_seeds_is_completed(files, command, monkeypatch):
    """The third run stands in MLflow, but not yet in Optuna, when the interruption comes."""
    record, calls = seeds_module._record, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        record(*arguments)

    monkeypatch.setattr(seeds_module, "_record", interrupted)
    status, _, err = command("study", "studies/noise.yaml", "--fresh")
    assert status == 130 and "run the same command without --fresh to continue" in err
    assert sum(len(r.trials) for r in records().values()) == 2
    monkeypatch.setattr(seeds_module, "_record", record)
    assert command("study", "studies/noise.yaml")[0] == 0
    frame = lecun_ablate.load_results("noise")
    for name, study in records().items():
        runs = frame[frame.arm == name.rsplit(" ", 1)[1]]
        linked = {t.user_attrs["seed"]: t.user_attrs["mlflow_run_id"] for t in study.trials}
        assert len(study.trials) == 4 and linked == runs.set_index("seed").run_id.to_dict()


def test_what_the_seed_does_not_govern_stays(files, command):
    """With the orders pinned, two seeds differ in their weights alone, and the other way round."""
    from lecun_ablate.config.study import load_study
    from lecun_ablate.network.initial import pattern_order, start

    arms = {arm.name: arm.recipe for arm in load_study("studies/noise.yaml").experiment().arms}

    def differ(recipe):
        weights = [start(recipe, seed).parameters["h1_weight"] for seed in (1, 2)]
        orders = [pattern_order(recipe, seed, 1, 50).numpy() for seed in (1, 2)]
        return not np.array_equal(*weights), not np.array_equal(*orders)

    assert {name: differ(recipe) for name, recipe in arms.items()} == {
        "weights": (True, False),
        "order": (False, True),
        "both": (True, True),
    }


def test_a_second_driver_says_who_is_first(files, command):
    Path("studies").mkdir(exist_ok=True)
    with driving("sqlite:///studies/optuna.db", "rates/tiny"):
        status, _, err = command("study", "studies/rates.yaml")
    assert status == 1 and f"in use by process {os.getpid()}" in err


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("sqlite:///no/such/folder/x.db", None),
        ("studies/x.journal", None),
        ("mysterious://host/x", "Optuna storage mysterious://host/x"),
        ("postgresql+psycopg2://user:secret@127.0.0.1:1/x", "user:***@127.0.0.1:1/x"),
    ],
)
def test_other_storages_by_option(files, command, storage, said):
    status, _, err = command(
        "study", "studies/rates.yaml", "--storage", storage, "--set", "trials=1"
    )
    assert "secret" not in err
    if said:
        assert status == 1 and said in err
    else:
        assert status == 0 and len(records(storage)) == 2
        assert not Path("studies/optuna.db").exists()


def test_a_file_that_is_no_storage_is_named(files, command):
    Path("studies/optuna.db").write_bytes(b"no database" * 100)
    status, _, err = command("study", "studies/rates.yaml")
    assert status == 1 and "studies/optuna.db" in err and "not a database" in err


def test_a_study_from_python(files):
    frame = api.study("studies/rates.yaml")
    assert list(frame.columns) == [
        "arm",
        "index",
        "number",
        "lr",
        "validation_error",
        "validation_error_sd",
        "diverged",
        "collapsed",
        "run_id",
    ]
    assert len(frame) == 6


def test_a_killed_command_goes_on(files, spawner):
    """The real command on real digits, killed when the storage holds trials, then run again."""
    study = STUDY.replace("data: tiny", "data: digits").replace("trials: 3", "trials: 4")
    Path("studies/rates.yaml").write_text(study)
    arguments = (str(files), ["study", "studies/rates.yaml"])
    database = Path("studies/optuna.db")

    def trials(state: str) -> int:
        try:
            with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
                query = "SELECT COUNT(*) FROM trials WHERE state = ?"
                return connection.execute(query, (state,)).fetchone()[0]
        except sqlite3.OperationalError:
            return 0

    driver = spawner.Process(target=command_line, args=arguments)
    driver.start()
    while not (trials("COMPLETE") >= 4 and trials("RUNNING") >= 1):
        assert driver.exitcode is None, "ended before the moment"
        time.sleep(0.002)
    os.kill(driver.pid, signal.SIGKILL)
    driver.join()
    again = spawner.Process(target=command_line, args=arguments)
    again.start()
    again.join()
    assert (driver.exitcode, again.exitcode) == (-signal.SIGKILL, 0)
    values = json.loads(Path("reports/studies/rates/digits/study.json").read_text())
    assert [arm["trials"]["complete"] for arm in values["arms"]] == [4, 4]
    assert sum(arm["trials"]["interrupted"] for arm in values["arms"]) >= 1
    assert trials("RUNNING") == 0
    for record in records().values():
        numbers = {t.number: t for t in record.trials}
        for trial in record.trials:
            if "retry_of" in trial.user_attrs:
                assert numbers[trial.user_attrs["retry_of"]].params == trial.params


def test_a_study_of_seeds_says_how_much_the_split_alone_does(files, command):
    Path("studies/noise.yaml").write_text(
        SEEDS.replace("governs: [weights, order, both]", "governs: [both, split]")
    )
    status, out, err = command("study", "studies/noise.yaml", "--json")
    assert status == 0, err
    both, split = json.loads(out)["variants"]
    assert (both["governs"], split["governs"]) == ("both", "split")
    errors = np.array(split["errors"])
    expected = statistics.split_variance_of_own_images(errors, 20)
    assert split["split"]["finite_test_set"] == pytest.approx(expected.finite_test_set)
    assert split["split"]["rest"] == pytest.approx(expected.rest)

    store, digits = View(), load("tiny")
    runs = store.search(store.experiment("noise/tiny").experiment_id, lecun_ablate__level="run")
    seen = {"both": set(), "split": set()}
    for run in runs:
        arm, seed = run.data.tags["lecun_ablate.arm"], int(run.data.params["seed"])
        labels = Store().files.labels(run.info.run_id)
        there = digits.resampled(seed) if arm == "split" else digits
        assert np.array_equal(labels, there.test.labels)
        seen[arm].add(run.data.params.get("init_seed"))
    assert seen == {"both": {None}, "split": {"0"}}

    status, out, _ = command("study", "studies/noise.yaml", "--dry-run", "--json")
    assert status == 0 and json.loads(out)["todo"] == 0
