"""What an earlier version stored is read, shown, extended and reported, and never trained again.

`stored/make.py` says how the store came about. It lay elsewhere then: MLflow's paths are absolute.
"""

import json
import tarfile
from pathlib import Path

import pytest
from mlflow_view import View

import lecun_ablate
from lecun_ablate import api
from lecun_ablate.statistics import look_level
from lecun_ablate.trainers.base import Identity
from lecun_ablate.trainers.torch_trainer import TorchTrainer

STORED = Path(__file__).parent / "stored"
TRAINER = ("--trainer", "torch", "--device", "cpu")
STORAGE = ("--storage", "sqlite:///optuna.db")
# test errors of (arm, seed) after both epochs
ERRORS = {
    ("mine", 0): [0.6, 0.45],
    ("mine", 1): [0.65, 0.3],
    ("tanh", 0): [0.35, 0.1],
    ("tanh", 1): [0.5, 0.4],
}


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """The working directory of whoever ran it, moved to another place."""
    with tarfile.open(STORED / "store.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LECUN_ABLATE_DATA", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def same_trainer(monkeypatch):
    """Train as then, whatever machine this is."""
    identity = Identity("torch", "cpu", "stored", 1)
    monkeypatch.setattr(TorchTrainer, "identity", lambda self: identity)


def errors(frame):
    return {
        (arm, int(seed)): part.sort_values("epoch").test_error.tolist()
        for (arm, seed), part in frame.groupby(["arm", "seed"])
    }


def test_results_are_read(stored):
    frame = lecun_ablate.load_results("small")
    assert errors(frame) == ERRORS
    assert set(frame.status) == {"finished"} and frame.run_id.nunique() == 4


def test_results_are_shown(stored, command):
    status, out, err = command("show", "small", "--json")
    assert status == 0, err
    table = json.loads(out)
    assert table["question"] == "Which activation learns the stripes?"
    assert [(row["arm"], row["runs"]) for row in table["arms"]] == [("tanh", 2), ("mine", 2)]
    for row in table["arms"]:
        mean = sum(ERRORS[row["arm"], seed][-1] for seed in (0, 1)) / 2
        assert row["test_error_mean"] == pytest.approx(mean, abs=1e-12)
    status, out, err = command("show", "small")
    assert status == 0 and "tanh (baseline)" in out, err


def test_more_seeds_train_only_the_new_ones(stored, same_trainer, command):
    before = lecun_ablate.load_results("small")
    status, _, err = command("run", "small.yaml", *TRAINER)
    assert status == 0 and "4 runs, 4 done before, 0 to train" in err
    status, _, err = command("run", "small.yaml", *TRAINER, "--seeds", "3")
    assert status == 0 and "6 runs, 4 done before, 2 to train" in err
    # what had been concluded before looks were counted is the first of them
    found = json.loads(command("show", "small", "--json")[1])
    assert (found["look"], found["level"]) == (2, pytest.approx(look_level(2)))
    more = lecun_ablate.load_results("small")
    assert set(before.run_id) < set(more.run_id) and more.run_id.nunique() == 6
    assert {run: numbers for run, numbers in errors(more).items() if run in ERRORS} == ERRORS


def test_experiments_are_given_the_names_of_today(stored, same_trainer, command):
    """Earlier versions called them NAME/DATA; the UI shows only what stands behind a slash."""
    before = View()
    old = {e.name: e.experiment_id for e in before.connection.experiments()}
    study = ("study", "rates.yaml", *STORAGE, *TRAINER)
    assert command("run", "small.yaml", *TRAINER)[0] == command(*study)[0] == 0
    new = {e.experiment_id: e.name for e in View().connection.experiments()}
    (data,) = {name.rsplit("/", 1)[1] for name in old if name.startswith("small/")}
    assert new[old[f"small/{data}"]] == f"small ({data})"
    assert new[old[f"studies/rates/{data}"]] == f"rates study ({data})"
    assert errors(lecun_ablate.load_results("small")) == ERRORS
    assert errors(lecun_ablate.load_results(f"small/{data}")) == ERRORS


def test_runs_are_compared_and_reproduced(stored, command):
    frame = lecun_ablate.load_results("small")
    first, second, *_ = frame.run_id.unique()
    status, out, err = command("compare", first, second)
    assert status == 0 and "McNemar" in out, err
    status, out, err = command("reproduce", first, "--components", "mine.py")
    assert status == 0 and "is reproduced" in out, out + err


def test_the_report_is_written(stored, command):
    status, out, err = command("report", "small", "--components", "mine.py")
    assert status == 0, err
    page = Path(out.splitlines()[0]).read_text()
    assert "Which activation learns the stripes?" in page and "data:image/png" in page


def test_studies_go_on(stored, same_trainer, command):
    status, out, err = command("study", "rates.yaml", *STORAGE, *TRAINER, "--dry-run", "--json")
    assert status == 0 and json.loads(out)["todo"] == 0, err
    status, out, err = command("study", "rates.yaml", *STORAGE, *TRAINER, "--json")
    assert status == 0 and json.loads(out)["version"] == 1, err
    more = ("--set", "trials=4", "--json")
    status, out, err = command("study", "rates.yaml", *STORAGE, *TRAINER, *more)
    assert status == 0 and json.loads(out)["version"] == 1, err
    assert [arm["trials"]["complete"] for arm in json.loads(out)["arms"]] == [4, 4]
    status, out, err = command("study", "noise.yaml", *STORAGE, *TRAINER, "--set", "seeds=2")
    assert status == 0 and "2 runs, 1 done before, 1 to train" in err


def test_an_experiment_is_tuned_by_the_stored_study(stored, same_trainer, command):
    status, out, err = command("run", "tuned.yaml", *STORAGE, *TRAINER, "--dry-run")
    assert status == 0 and "has not been run" not in err
    rows = [line for line in out.splitlines() if "activation=" in line]
    assert len(rows) == 2 and all(" yes " in row for row in rows)
    frame = api.study("rates.yaml", storage="sqlite:///optuna.db", trainer="torch", device="cpu")
    assert len(frame) == 6
